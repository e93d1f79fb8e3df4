"""From tables, images and series to tokens: X (n, features) -> tokens (n, T, d).

A feature, a patch of an image or a window of a series becomes one token. What comes out
is what every estimator here takes. A token that is not there is NaN throughout.
"""

from .._validation import pad_sequences
from ._feature_tokenizer import FeatureTokenizer
from ._patch_tokenizer import PatchTokenizer
from ._window_tokenizer import WindowTokenizer

__all__ = ["FeatureTokenizer", "PatchTokenizer", "WindowTokenizer", "pad_sequences"]
