"""Data made on the spot: planted problems of the papers, and bundled images reused."""

from ._tokens import make_digit_bags, make_joint_tokens, make_token_selection

__all__ = ["make_digit_bags", "make_joint_tokens", "make_token_selection"]
