"""Data made on the spot: planted problems of the papers, and bundled images reused."""

from ._contextual_tokens import make_contextual_tokens
from ._digit_needles import make_digit_needles
from ._tokens import make_digit_bags, make_joint_tokens, make_token_selection

__all__ = [
    "make_contextual_tokens",
    "make_digit_bags",
    "make_digit_needles",
    "make_joint_tokens",
    "make_token_selection",
]
