"""The bundled handwritten digits, split into images for training and for testing."""

import numpy as np
from sklearn.datasets import load_digits

# Which images serve for training is part of the data sets, not of their random state.
_N_TRAINING_IMAGES = 1000
_SPLIT_SEED = 0
_PIXEL_MAXIMUM = 16.0


def split_digits(subset):
    """Return the images of a subset, as rows of pixels between 0 and 1, and labels."""
    if subset not in ("train", "test"):
        raise ValueError(f"subset must be 'train' or 'test'; got {subset!r}.")
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(images))
    split = np.split(order, [_N_TRAINING_IMAGES])[subset == "test"]
    return images[split] / _PIXEL_MAXIMUM, labels[split]


def check_digits(digits):
    """Return distinct digits, not all of them, in their order."""
    wanted = np.unique(np.atleast_1d(digits))
    are_digits = wanted.dtype.kind in "iu" and np.isin(wanted, range(10)).all()
    if not (are_digits and 0 < len(wanted) == np.size(digits) < 10):
        raise ValueError(f"digits must be distinct, 0 to 9, not all; got {digits!r}.")
    return wanted
