"""A few images of one digit, hidden among images that tell nothing  (2306.03435)."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from ._digits import check_digits, split_digits

_PATCH = 8  # pixels: the side of a digit
_GREY_MAXIMUM = 255.0


def make_digit_needles(
    n_samples=600,
    n_tokens=16,
    *,
    digits=(3, 8),
    n_relevant=2,
    min_tokens=None,
    background="digits",
    subset="train",
    random_state=None,
    return_relevant=False,
):
    """Generate sequences of images, some of which show the digit that is the class.

    Each token is an 8 x 8 image. Some, at random positions, show one of `digits`, which
    is the class of the sequence; the others are images of other digits, or patches of
    photographs. Training and test sequences share no image and no part of a photograph.

    Parameters
    ----------
    n_samples : int, default=600
        Number of sequences.
    n_tokens : int, default=16
        Images per sequence.
    digits : tuple of int, default=(3, 8)
        The digits to tell apart: two or more, not all ten.
    n_relevant : int, default=2
        How many images of a sequence show its digit.
    min_tokens : int or None, default=None
        If given, sequences have a random number of images between this and `n_tokens`,
        and NaN tokens pad them at the end.
    background : {"digits", "photos"}, default="digits"
        What the other images are: other digits, or grey patches of the two photographs
        of :func:`~sklearn.datasets.load_sample_images`, which needs Pillow.
    subset : {"train", "test"}, default="train"
        Whether the digits come from the 1000 for training or the 797 for testing, and
        the patches from the left or the right half of the photographs.
    random_state : int, RandomState instance or None, default=None
        Determines the sequences, not the split of the images.
    return_relevant : bool, default=False
        Whether to return too which images show the class.

    Returns
    -------
    X : ndarray of shape (n_samples, n_tokens, 64)
        The sequences; pixels between 0 and 1.
    y : ndarray of shape (n_samples,)
        The digits hidden in them; classes are as equal in size as can be.
    relevant : ndarray of bool of shape (n_samples, n_tokens)
        Which images show the class. Only with `return_relevant=True`.

    Raises
    ------
    ValueError
        If `digits` are not two or more distinct digits, a sequence has no room for
        `n_relevant` images, or `background` or `subset` is unknown.
    ImportError
        If `background="photos"` and Pillow is not installed.

    References
    ----------
    .. [1] Oymak, Rawat, Soltanolkotabi and Thrampoulidis, "On the Role of Attention in
           Prompt-tuning", arXiv:2306.03435, hides images in images likewise.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_digit_needles
    >>> X, y = make_digit_needles(n_samples=6, random_state=0)
    >>> X.shape, sorted({int(label) for label in y})
    ((6, 16, 64), [3, 8])
    """
    wanted = check_digits(digits)
    if len(wanted) < 2:
        raise ValueError(f"digits must be two or more; got {digits!r}.")
    shortest = n_tokens if min_tokens is None else min_tokens
    counts = {"n_samples": n_samples, "n_relevant": n_relevant, "min_tokens": shortest}
    for name, count in (counts | {"n_tokens": n_tokens}).items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be a positive integer; got {count!r}.")
    if not n_relevant <= shortest <= n_tokens:
        raise ValueError(
            "n_relevant <= min_tokens <= n_tokens must hold; got "
            f"{n_relevant}, {shortest} and {n_tokens}."
        )
    if background not in ("digits", "photos"):
        raise ValueError(
            f"background must be 'digits' or 'photos'; got {background!r}."
        )
    images, labels = split_digits(subset)
    rng = check_random_state(random_state)
    if background == "digits":
        others = images[~np.isin(labels, wanted)]
        X = others[rng.randint(len(others), size=(n_samples, n_tokens))]
    else:
        X = _patches(subset, (n_samples, n_tokens), rng)
    y = rng.permutation(wanted[np.arange(n_samples) % len(wanted)])
    lengths = rng.randint(shortest, n_tokens + 1, size=n_samples)
    there = np.arange(n_tokens) < lengths[:, None]
    order = np.where(there, rng.random_sample(there.shape), np.inf).argsort(axis=1)
    relevant = np.zeros(there.shape, dtype=bool)
    np.put_along_axis(relevant, order[:, :n_relevant], True, axis=1)
    for digit in wanted:
        places = relevant & (y == digit)[:, None]
        X[places] = images[rng.choice(np.flatnonzero(labels == digit), places.sum())]
    X[~there] = np.nan
    return (X, y, relevant) if return_relevant else (X, y)


def _patches(subset, shape, rng):
    """Draw grey patches from one half of the bundled photographs."""
    from sklearn.datasets import load_sample_images

    photos = np.stack(load_sample_images().images).mean(axis=-1) / _GREY_MAXIMUM
    half = photos.shape[2] // 2
    photos = photos[:, :, :half] if subset == "train" else photos[:, :, half:]
    windows = np.lib.stride_tricks.sliding_window_view(
        photos, (_PATCH, _PATCH), axis=(1, 2)
    )
    places = tuple(rng.randint(size, size=shape) for size in windows.shape[:3])
    return windows[places].reshape(*shape, _PATCH * _PATCH)
