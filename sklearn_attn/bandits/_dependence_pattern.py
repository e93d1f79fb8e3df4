"""Which earlier actions a reward depends on: phi_j = w_j theta  (2302.00814, eq. 1).

y_t = sum_j w_j <theta, x_{t-j}> + noise,   few of the w_j being other than zero
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

# A pattern can be acted on once lags with this part of its norm have been seen. The
# paper's q adapts to the pattern; this definition of it is ours.
LEARNABLE = 0.5


@dataclass(frozen=True, eq=False)
class DependencePattern:
    """How a reward depends on the contexts chosen now and earlier.

    The expected reward of round t is the sum of ``<blocks[i], x[t - support[i]]>`` over
    i. The paper's patterns have rank one, ``blocks[i] = w[i] * theta``; make them with
    :meth:`rank_one`.

    Parameters
    ----------
    support : ndarray of int of shape (n_lags,)
        The lags, rising; 0 is the present.
    blocks : ndarray of shape (n_lags, n_features)
        What a context is multiplied with at each.
    horizon : int
        Number of lags among which they are, the present included.

    Attributes
    ----------
    n_features : int
        Number of features of a context.
    total : ndarray of shape (n_features,)
        Sum of the blocks: what a context brings in the long run.
    theta : ndarray of shape (n_features,)
        Its direction, of norm 1. Where it is zero, that of the first block.
    lag_weights : ndarray of shape (horizon,)
        Weight of each lag in that direction.
    coef_matrix : ndarray of shape (horizon, n_features)
        The blocks among those that are zero.

    Raises
    ------
    ValueError
        If lags do not rise or are not below `horizon`, or shapes do not fit.

    References
    ----------
    .. [1] Qin, Li, Pasqualetti, Fazel and Oymak, "Stochastic Contextual Bandits with
           Long Horizon Rewards", AAAI 2023, arXiv:2302.00814.

    Examples
    --------
    >>> from sklearn_attn.bandits import DependencePattern
    >>> pattern = DependencePattern.rank_one([0, 2, 0, 1], [3, 4])
    >>> pattern.support, pattern.theta, pattern.lag_weights
    (array([1, 3]), array([0.6, 0.8]), array([ 0., 10.,  0.,  5.]))
    >>> pattern.rewards([[1, 0], [0, 0], [0, 0], [0, 0], [0, 0]])
    array([0., 6., 0., 3., 0.])
    """

    support: np.ndarray
    blocks: np.ndarray
    horizon: int

    def __post_init__(self) -> None:
        lags, blocks = self.support, self.blocks
        if blocks.ndim != 2 or lags.shape != (len(blocks),):
            raise ValueError(
                "blocks must have shape (n_lags, n_features), support (n_lags,); got "
                f"{blocks.shape} and {lags.shape}."
            )
        within = np.concatenate([[-1], lags, [self.horizon]])
        if not (np.diff(within) > 0).all():
            raise ValueError(
                f"Lags must rise from 0 or more to less than horizon={self.horizon}; "
                f"got {lags.tolist()}."
            )

    @classmethod
    def rank_one(cls, lag_weights: Any, theta: Any) -> "DependencePattern":
        """Return the pattern of one direction whose weight depends on the lag.

        Parameters
        ----------
        lag_weights : array-like of shape (horizon,)
            Weights w of the lags, the present first.
        theta : array-like of shape (n_features,)
            What a context is worth.

        Returns
        -------
        DependencePattern
            The pattern ``w[j] * theta``.

        Raises
        ------
        ValueError
            If they are not one-dimensional and finite, or there is no lag.
        """
        w, theta = (np.asarray(part, dtype=float) for part in (lag_weights, theta))
        for name, part in (("lag_weights", w), ("theta", theta)):
            if part.ndim != 1 or part.size == 0 or not np.isfinite(part).all():
                raise ValueError(
                    f"{name} must be finite, of one axis and not empty; got shape "
                    f"{part.shape}."
                )
        support = np.flatnonzero(w)
        return cls(support, np.outer(w[support], theta), len(w))

    @property
    def n_features(self) -> int:
        """Number of features of a context."""
        return self.blocks.shape[1]

    @property
    def total(self) -> np.ndarray:
        """Sum of the blocks: what a context brings in the long run."""
        return self.blocks.sum(0)

    @property
    def theta(self) -> np.ndarray:
        """Direction of the total, of norm 1."""
        largest = np.abs(self.blocks).max(initial=0.0)
        if largest == 0:
            return np.zeros(self.n_features)
        blocks = self.blocks / largest  # whose squares are in range
        sizes = np.linalg.norm(blocks, axis=1)
        total, scale = blocks.sum(0), sizes.sum()
        # weights that cancel leave only rounding in their sum
        if np.linalg.norm(total) > self.n_features * np.finfo(float).eps * scale:
            return total / np.linalg.norm(total)
        first = np.flatnonzero(sizes)[0]
        return blocks[first] / sizes[first]

    @property
    def lag_weights(self) -> np.ndarray:
        """Weight of each lag in the direction of theta."""
        return self.coef_matrix @ self.theta

    @property
    def coef_matrix(self) -> np.ndarray:
        """The blocks among those that are zero."""
        coef = np.zeros((self.horizon, self.n_features))
        coef[self.support] = self.blocks
        return coef

    def within(self, n_left: Any = None) -> np.ndarray:
        """Return what a context brings before the game ends.

        Parameters
        ----------
        n_left : int, default=None
            Rounds that follow the present one. None is as many as it takes.

        Returns
        -------
        ndarray of shape (n_features,)
            Sum of the blocks of lags that are not longer.
        """
        if n_left is None:
            return self.total
        return self.blocks[self.support <= n_left].sum(0)

    def rewards(self, X: Any, past: Any = None) -> np.ndarray:
        """Return the expected rewards of a sequence of contexts.

        Parameters
        ----------
        X : array-like of shape (n_rounds, n_features)
            The contexts that were chosen, in order.
        past : array-like of shape (n_past, n_features), default=None
            Those chosen before. What is missing of them counts as zero.

        Returns
        -------
        ndarray of shape (n_rounds,)
            Expected reward of each round.
        """
        X = np.asarray(X)
        x = X if past is None else np.concatenate([np.asarray(past), X])
        start = len(x) - len(X)
        y = np.zeros(len(X), dtype=np.result_type(X, self.blocks))
        for lag, block in zip(self.support, self.blocks):
            first = max(0, lag - start)  # earlier rounds have no such past
            if first < len(y):
                y[first:] += x[start + first - lag : len(x) - lag] @ block
        return y

    def learnable_lag(self, share: float = LEARNABLE) -> int:
        """Return the paper's q: how long it takes until there is something to learn.

        Nothing is known of a lag before as many rounds have passed.

        Parameters
        ----------
        share : float, default=0.5
            Which part of the weights' norm must have been seen.

        Returns
        -------
        int
            The smallest lag up to which the blocks have that part of their norm; 0 for
            a pattern of zeros.
        """
        energy = np.cumsum(np.square(self.blocks).sum(1))
        if energy.size == 0 or energy[-1] == 0:
            return 0
        seen = np.sqrt(energy / energy[-1])
        return int(self.support[np.searchsorted(seen, share * (1 - 1e-12))])
