"""From tables, images and series to tokens."""

from ._validation import pad_sequences

__all__ = ["pad_sequences"]
