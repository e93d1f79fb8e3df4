"""Sequences of tokens of which one matters.

    x_it = noise,    x_i,opt = noise + relevance u + Y_i class_sep / 2 w,    u'w = 0

A prompt along u finds the token, a head along w reads the label (2306.13596).
"""

import numpy as np
from sklearn.utils import check_random_state

from ._digits import check_digits, split_digits


def make_token_selection(
    n_samples=200,
    n_tokens=10,
    n_token_features=20,
    *,
    relevance=4.0,
    class_sep=4.0,
    noise=1.0,
    random_state=None,
    return_selected=False,
):
    """Generate sequences in which one planted token tells the class.

    All tokens are Gaussian noise. One token of each sequence is shifted along a
    direction that says "look here", and, across it, along a direction that tells the
    class.

    Parameters
    ----------
    n_samples : int, default=200
        Number of sequences.
    n_tokens : int, default=10
        Tokens per sequence.
    n_token_features : int, default=20
        Features per token, at least 2.
    relevance : float, default=4.0
        Shift of the planted token along the relevant direction.
    class_sep : float, default=4.0
        Distance of the planted tokens of the two classes.
    noise : float, default=1.0
        Standard deviation of every feature of every token.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.
    return_selected : bool, default=False
        Whether to return the planted positions too.

    Returns
    -------
    X : ndarray of shape (n_samples, n_tokens, n_token_features)
        The sequences.
    y : ndarray of shape (n_samples,)
        The classes, 0 and 1.
    selected : ndarray of shape (n_samples,)
        Position of the planted token. Only with `return_selected=True`.

    Raises
    ------
    ValueError
        If `n_token_features` is below 2, `n_tokens` below 1, or `noise` negative.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_token_selection
    >>> X, y = make_token_selection(n_samples=6, random_state=0)
    >>> X.shape, y.shape
    ((6, 10, 20), (6,))
    """
    if n_token_features < 2:
        raise ValueError(
            "Two directions across each other need n_token_features >= 2; got "
            f"{n_token_features}."
        )
    if n_tokens < 1 or noise < 0:
        raise ValueError(
            "n_tokens must be at least 1, and noise not negative; got "
            f"{n_tokens!r} and {noise!r}."
        )
    rng = check_random_state(random_state)
    directions = np.linalg.qr(rng.standard_normal((n_token_features, 2)))[0]
    relevant, telling = directions.T
    X = noise * rng.standard_normal((n_samples, n_tokens, n_token_features))
    y = rng.randint(2, size=n_samples)
    selected = rng.randint(n_tokens, size=n_samples)
    shift = relevance * relevant + class_sep * (y[:, None] - 0.5) * telling
    X[np.arange(n_samples), selected] += shift
    return (X, y, selected) if return_selected else (X, y)


def make_digit_bags(
    n_samples=500,
    n_tokens=10,
    *,
    digits=9,
    subset="train",
    random_state=None,
    return_selected=False,
):
    """Generate bags of handwritten digits, with a label about one of them.

    Each token is an 8 x 8 image of :func:`~sklearn.datasets.load_digits`. With a single
    digit, half of the bags contain it, exactly once, and the class says which. With two
    or more digits, each bag contains exactly one of them, and that is its class. All
    other tokens are other digits. Training and test bags share no image.

    Parameters
    ----------
    n_samples : int, default=500
        Number of bags.
    n_tokens : int, default=10
        Images per bag.
    digits : int or tuple of int, default=9
        The digit that some bags contain, or the digits to tell apart.
    subset : {"train", "test"}, default="train"
        Whether the images come from the 1000 for training or the 797 for testing.
    random_state : int, RandomState instance or None, default=None
        Determines the bags, not the split of the images.
    return_selected : bool, default=False
        Whether to return the position of the telling image too.

    Returns
    -------
    X : ndarray of shape (n_samples, n_tokens, 64)
        The bags; pixels between 0 and 1.
    y : ndarray of shape (n_samples,)
        For a single digit: 1 if the bag contains it, else 0. For several: the digit.
    selected : ndarray of shape (n_samples,)
        Position of the telling image, -1 in a bag without one. Only with
        `return_selected=True`.

    Raises
    ------
    ValueError
        If `digits` are not distinct digits 0 to 9, or all of them, or `subset` is
        unknown.

    References
    ----------
    .. [1] Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning",
           ICML 2018, has the protocol.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_digit_bags
    >>> X, y = make_digit_bags(n_samples=6, digits=(3, 8), random_state=0)
    >>> X.shape, sorted({int(label) for label in y})
    ((6, 10, 64), [3, 8])
    """
    wanted = check_digits(digits)
    if n_tokens < 1:
        raise ValueError(f"n_tokens must be at least 1; got {n_tokens!r}.")
    images, labels = split_digits(subset)
    rng = check_random_state(random_state)
    others = np.flatnonzero(~np.isin(labels, wanted))
    bags = rng.choice(others, size=(n_samples, n_tokens))
    selected = rng.randint(n_tokens, size=n_samples)
    if len(wanted) == 1:
        classes, y = np.array([0, 1]), rng.permutation(np.arange(n_samples) % 2)
        selected[y == 0] = -1
    else:
        classes, y = wanted, rng.permutation(wanted[np.arange(n_samples) % len(wanted)])
    for label, digit in zip(classes[-len(wanted) :], wanted):
        rows = np.flatnonzero(y == label)
        bags[rows, selected[rows]] = rng.choice(
            np.flatnonzero(labels == digit), size=len(rows)
        )
    return (images[bags], y, selected) if return_selected else (images[bags], y)


def make_joint_tokens(*, tight=True):
    """Return the three sequences of the paper's experiment on joint training.

    In the tight case every sequence supports the max-margin head, and the prompt turns
    to the attention SVM. In the loose case the third sequence lies beyond the margin,
    and the prompt turns to the relaxed attention SVM instead.

    Parameters
    ----------
    tight : bool, default=True
        Whether the third sequence supports the head.

    Returns
    -------
    X : ndarray of shape (3, 2, 2)
        Two tokens per sequence: the origin, and the optimal one.
    y : ndarray of shape (3,)
        Labels -1 and +1.
    selected : ndarray of shape (3,)
        Position of the optimal token.

    References
    ----------
    .. [1] Tarzanagh, Li, Zhang and Oymak, "Max-Margin Token Selection in Attention
           Mechanism", arXiv:2306.13596, the experiment on joint training.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_joint_tokens
    >>> X, y, selected = make_joint_tokens(tight=False)
    >>> X[:, 1], y
    (array([[ 1. ,  1. ],
           [ 1. , -1. ],
           [ 0.5,  1.5]]), array([ 1, -1,  1]))
    """
    optimal = [[1.0, 1.0], [1.0, -1.0], [0.5, 1.0 if tight else 1.5]]
    X = np.zeros((3, 2, 2))
    X[:, 1] = optimal
    return X, np.array([1, -1, 1]), np.ones(3, dtype=int)
