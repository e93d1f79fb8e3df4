"""Policies to compare with, which believe that a reward is due to the last action."""

from typing import Any

import numpy as np
from sklearn.utils import check_random_state


class RandomPolicy:
    """Choose every arm equally often.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Determines the choices.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.bandits import RandomPolicy
    >>> policy = RandomPolicy(random_state=0)
    >>> [policy.act(np.zeros((3, 2))) for _ in range(5)]
    [0, 1, 0, 1, 1]
    """

    def __init__(self, random_state: Any = None) -> None:
        self.random_state = random_state
        self._rng = check_random_state(random_state)

    def act(self, contexts: Any) -> int:
        """Return an arm.

        Parameters
        ----------
        contexts : array-like of shape (n_arms, n_features)
            Contexts of the arms.

        Returns
        -------
        int
            One of the arms.
        """
        return int(self._rng.randint(len(contexts)))

    def observe(self, reward: float) -> None:
        """Learn nothing.

        Parameters
        ----------
        reward : float
            What the last action brought.
        """


def check_observed(x, reward):
    """Refuse a reward of no action, or one that is not finite."""
    if x is None:
        raise ValueError("observe() needs an action before it: call act() first.")
    if not np.isfinite(reward):
        raise ValueError(f"reward must be finite; got {reward}.")


class _Ridge:
    """Ridge regression of the reward on the context just chosen, row by row."""

    def __init__(self, d, ridge):
        self.inverse = np.eye(d) / ridge
        self.cross = np.zeros(d)

    def add(self, x, y):
        direction = self.inverse @ x
        self.inverse -= np.outer(direction, direction) / (1 + x @ direction)
        self.cross += y * x

    @property
    def theta(self):
        return self.inverse @ self.cross


class LinUCB:
    """Choose the arm whose reward may be largest, by a linear model and its doubt.

    It believes that a reward is due to the last action alone [1]_.

    Parameters
    ----------
    alpha : float, default=1.0
        Standard errors that are added to the expected reward.
    ridge : float, default=1.0
        Penalty of the linear model.

    References
    ----------
    .. [1] Li, Chu, Langford and Schapire, "A Contextual-Bandit Approach to Personalized
           News Article Recommendation", WWW 2010, arXiv:1003.0146.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.bandits import LinUCB
    >>> policy, contexts = LinUCB(), np.eye(2)
    >>> for _ in range(20):
    ...     policy.observe([0.0, 1.0][policy.act(contexts)])
    >>> policy.act(contexts)
    1
    """

    def __init__(self, alpha: float = 1.0, ridge: float = 1.0) -> None:
        if not alpha >= 0 or not ridge > 0:
            raise ValueError(
                f"alpha must be 0 or more, ridge positive; got {alpha} and {ridge}."
            )
        self.alpha, self.ridge = alpha, ridge
        self._model: Any = None
        self._x: Any = None

    def act(self, contexts: Any) -> int:
        """Return the arm with the largest upper confidence bound.

        Parameters
        ----------
        contexts : array-like of shape (n_arms, n_features)
            Contexts of the arms.

        Returns
        -------
        int
            One of the arms.
        """
        contexts = np.asarray(contexts, dtype=float)
        if self._model is None:
            self._model = _Ridge(contexts.shape[1], self.ridge)
        doubt = np.einsum("kd,de,ke->k", contexts, self._model.inverse, contexts)
        bound = contexts @ self._model.theta + self.alpha * np.sqrt(doubt)
        arm = int(bound.argmax())
        self._x = contexts[arm]
        return arm

    def observe(self, reward: float) -> None:
        """Learn from the reward of the last action.

        Parameters
        ----------
        reward : float
            What it brought.

        Raises
        ------
        ValueError
            If there was no action, or the reward is not finite.
        """
        check_observed(self._x, reward)
        self._model.add(self._x, reward)


class ExploreThenCommit:
    """Choose at random first, then what a linear model learned from it, for ever.

    It believes that a reward is due to the last action alone.

    Parameters
    ----------
    n_explore : int, default=100
        Rounds of random choice.
    ridge : float, default=1.0
        Penalty of the linear model.
    random_state : int, RandomState instance or None, default=None
        Determines the choices.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.bandits import ExploreThenCommit
    >>> policy, contexts = ExploreThenCommit(10, random_state=0), np.eye(2)
    >>> for _ in range(10):
    ...     policy.observe([0.0, 1.0][policy.act(contexts)])
    >>> policy.act(contexts)
    1
    """

    def __init__(
        self, n_explore: int = 100, ridge: float = 1.0, random_state: Any = None
    ) -> None:
        if n_explore < 1 or not ridge > 0:
            raise ValueError(
                f"n_explore and ridge must be positive; got {n_explore} and {ridge}."
            )
        self.n_explore, self.ridge, self.random_state = n_explore, ridge, random_state
        self._rng = check_random_state(random_state)
        self._model: Any = None
        self._x: Any = None
        self._t = 0

    def act(self, contexts: Any) -> int:
        """Return a random arm or, later, the one of the largest expected reward.

        Parameters
        ----------
        contexts : array-like of shape (n_arms, n_features)
            Contexts of the arms.

        Returns
        -------
        int
            One of the arms.
        """
        contexts = np.asarray(contexts, dtype=float)
        if self._model is None:
            self._model = _Ridge(contexts.shape[1], self.ridge)
        if self._t < self.n_explore:
            arm = int(self._rng.randint(len(contexts)))
        else:
            arm = int((contexts @ self._model.theta).argmax())
        self._x = contexts[arm]
        return arm

    def observe(self, reward: float) -> None:
        """Learn from the reward of the last action, while exploring.

        Parameters
        ----------
        reward : float
            What it brought.

        Raises
        ------
        ValueError
            If there was no action, or the reward is not finite.
        """
        check_observed(self._x, reward)
        if self._t < self.n_explore:
            self._model.add(self._x, reward)
        self._t += 1
