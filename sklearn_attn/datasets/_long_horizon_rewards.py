"""Rewards that contexts bring later, drawn exactly or from digits  (2302.00814)."""

from numbers import Integral

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import check_random_state

from ..bandits._dependence_pattern import DependencePattern
from ._digits import split_digits

N_DIGITS = 10


def make_long_horizon_rewards(
    n_rounds=2000,
    n_features=20,
    *,
    lags=(3, 17, 50, 120, 400),
    weights=None,
    theta=None,
    noise=0.5,
    intercept=0.0,
    random_state=None,
    return_pattern=False,
):
    """Generate rounds whose reward depends on a few contexts of long ago.

    Contexts are standard normal; a reward is a weighted sum of what the contexts of
    some earlier rounds are worth, and noise. Before the first round there is nothing.

    Parameters
    ----------
    n_rounds : int, default=2000
        Number of rounds.
    n_features : int, default=20
        Features of a context.
    lags : tuple of int, default=(3, 17, 50, 120, 400)
        How many rounds ago the contexts were that matter; 0 is the present.
    weights : array-like of shape (n_lags,), default=None
        Weight of each lag. None draws them between 0.5 and 1.
    theta : array-like of shape (n_features,), default=None
        What a context is worth. None draws a direction.
    noise : float, default=0.5
        Standard deviation of the noise.
    intercept : float, default=0.0
        Reward of a round besides.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.
    return_pattern : bool, default=False
        Whether to return the pattern too.

    Returns
    -------
    X : ndarray of shape (n_rounds, n_features)
        Contexts, in the order of time.
    y : ndarray of shape (n_rounds,)
        Rewards.
    pattern : DependencePattern
        Lags, weights and theta. Only with `return_pattern=True`.

    Raises
    ------
    ValueError
        If lags are not distinct and 0 or more, or shapes or ranges do not fit.

    References
    ----------
    .. [1] Qin, Li, Pasqualetti, Fazel and Oymak, "Stochastic Contextual Bandits with
           Long Horizon Rewards", AAAI 2023, arXiv:2302.00814.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_long_horizon_rewards
    >>> X, y, pattern = make_long_horizon_rewards(
    ...     100, 3, lags=(0, 7), random_state=0, return_pattern=True
    ... )
    >>> X.shape, y.shape, pattern.support
    ((100, 3), (100,), array([0, 7]))
    """
    _check_counts(n_rounds=n_rounds, n_features=n_features)
    lags = _check_lags(lags)
    _check_noise(noise)
    if not np.isfinite(intercept):
        raise ValueError(f"intercept must be finite; got {intercept}.")
    rng = check_random_state(random_state)
    weights = _check_weights(weights, len(lags), rng)
    if theta is None:
        theta = rng.standard_normal(n_features)
        theta /= np.linalg.norm(theta)
    theta = np.asarray(theta, dtype=float)
    if theta.shape != (n_features,):
        raise ValueError(f"theta must have shape ({n_features},); got {theta.shape}.")
    w = np.zeros(max(lags) + 1)
    w[list(lags)] = weights
    pattern = DependencePattern.rank_one(w, theta)
    X = rng.standard_normal((n_rounds, n_features))
    y = intercept + pattern.rewards(X) + noise * rng.standard_normal(n_rounds)
    return (X, y, pattern) if return_pattern else (X, y)


def make_digit_rewards(
    n_rounds=1000,
    *,
    lags=(2, 9, 30),
    weights=None,
    payoffs=None,
    noise=0.2,
    subset="train",
    random_state=None,
    return_digits=False,
):
    """Generate rounds that show handwritten digits, which pay some rounds later.

    The digit shown j rounds ago pays now. What a digit pays depends on what it is, and
    only roughly linearly on its pixels: a model of pixels is wrong here, as models of
    real data are.

    Parameters
    ----------
    n_rounds : int, default=1000
        Number of rounds.
    lags : tuple of int, default=(2, 9, 30)
        After how many rounds digits pay.
    weights : array-like of shape (n_lags,), default=None
        Weight of each lag. None draws them between 0.5 and 1.
    payoffs : array-like of shape (10,), default=None
        What each digit pays. None is a tenth of the digit.
    noise : float, default=0.2
        Standard deviation of the noise.
    subset : {"train", "test", "all"}, default="train"
        Which of the bundled images are shown: the 1000 for training, the 797 for
        testing, or all.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn. Images are drawn anew every round.
    return_digits : bool, default=False
        Whether to return too which digits were shown.

    Returns
    -------
    X : ndarray of shape (n_rounds, 64)
        The images, in the order of time; pixels between 0 and 1.
    y : ndarray of shape (n_rounds,)
        Rewards.
    digits : ndarray of int of shape (n_rounds,)
        The digits. Only with `return_digits=True`.

    Raises
    ------
    ValueError
        If lags are not distinct and 0 or more, or shapes or ranges do not fit.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_digit_rewards
    >>> X, y = make_digit_rewards(50, lags=(1,), weights=[1.0], noise=0, random_state=0)
    >>> X.shape, float(y.max())
    ((50, 64), 0.9)
    """
    _check_counts(n_rounds=n_rounds)
    lags = _check_lags(lags)
    _check_noise(noise)
    payoffs = np.arange(N_DIGITS) / N_DIGITS if payoffs is None else payoffs
    payoffs = np.asarray(payoffs, dtype=float)
    if payoffs.shape != (N_DIGITS,) or not np.isfinite(payoffs).all():
        raise ValueError(
            f"payoffs must be finite, of shape ({N_DIGITS},), one for each digit; got "
            f"shape {payoffs.shape}."
        )
    if subset == "all":
        images, labels = load_digits(return_X_y=True)
        images = images / images.max()
    else:
        images, labels = split_digits(subset)
    rng = check_random_state(random_state)
    weights = _check_weights(weights, len(lags), rng)
    shown = rng.randint(len(images), size=n_rounds)
    w = np.zeros(max(lags) + 1)
    w[list(lags)] = weights
    worth = payoffs[labels[shown]][:, None]
    y = DependencePattern.rank_one(w, [1.0]).rewards(worth)
    y += noise * rng.standard_normal(n_rounds)
    X, digits = images[shown], labels[shown]
    return (X, y, digits) if return_digits else (X, y)


def _check_counts(**counts):
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be a positive integer; got {count!r}.")


def _check_noise(noise):
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be 0 or more, and finite; got {noise}.")


def _check_lags(lags):
    lags = tuple(np.atleast_1d(np.asarray(lags, dtype=object)).tolist())
    integers = all(isinstance(lag, Integral) and lag >= 0 for lag in lags)
    if not (lags and integers and len(set(lags)) == len(lags)):
        raise ValueError(
            f"lags must be one or more distinct integers, 0 or more; got {lags}."
        )
    return lags


def _check_weights(weights, n_lags, rng):
    weights = rng.uniform(0.5, 1.0, n_lags) if weights is None else weights
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (n_lags,):
        raise ValueError(
            f"weights must have shape ({n_lags},), one for each lag; got "
            f"{weights.shape}."
        )
    return weights
