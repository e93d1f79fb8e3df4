"""Explore in a subspace that is given, then commit: ETC and oracles (2205.05820)."""

from typing import Any

import numpy as np

from ._cycles import Schedule, axes, best_action


class SubspacePolicy:
    """Explore each task in a subspace that does not change, then commit.

    With no subspace it is explore-then-commit, which learns nothing from other tasks;
    with the right one, an oracle. It knows when a task begins, and plays on a ball.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features) or callable, \
            default=None
        Orthonormal rows that span the subspace, or a function that returns them for the
        number of a task. None is all directions.
    rounds_per_task : int, default=1000
        Rounds N of a task. r directions are explored for about r sqrt(N) rounds.
    explore_scale : float, default=1.0
        Factor of the rounds to explore.
    radius : float, default=1.0
        Norm of the actions.
    fit_intercept : bool, default=True
        Whether rewards have a constant besides.

    Raises
    ------
    ValueError
        If numbers are not positive.

    Examples
    --------
    >>> from sklearn_attn.bandits import ContextSwitchingBandit, SubspacePolicy
    >>> from sklearn_attn.bandits import TaskSequence, run_tasks
    >>> tasks = TaskSequence.random([20], [2], random_state=0)
    >>> game = ContextSwitchingBandit(tasks)
    >>> blind = run_tasks(SubspacePolicy(), game, seed=0)
    >>> oracle = run_tasks(SubspacePolicy(tasks.components[0]), game, seed=0)
    >>> bool(oracle.average_regret < 0.2 * blind.average_regret)
    True
    """

    def __init__(
        self,
        components: Any = None,
        *,
        rounds_per_task: int = 1000,
        explore_scale: float = 1.0,
        radius: float = 1.0,
        fit_intercept: bool = True,
    ) -> None:
        if not (rounds_per_task > 0 and explore_scale > 0 and radius > 0):
            raise ValueError(
                "rounds_per_task, explore_scale and radius must be positive; got "
                f"{rounds_per_task}, {explore_scale} and {radius}."
            )
        self.components = components
        self.rounds_per_task = rounds_per_task
        self.explore_scale = explore_scale
        self.radius = radius
        self.fit_intercept = fit_intercept
        self._n_tasks = 0

    def new_task(self, n_features: int) -> None:
        """Begin a task.

        Parameters
        ----------
        n_features : int
            Features of an action.
        """
        components = self.components
        if callable(components):
            components = components(self._n_tasks)
        if components is None:
            components = np.eye(n_features)
        self._basis = np.asarray(components, dtype=float)
        schedule = Schedule(
            rounds_per_task=self.rounds_per_task, transfer_scale=self.explore_scale
        )
        self._length = schedule.n_transfer(len(self._basis))
        self._n_tasks += 1
        self._rows: list = []
        self._t = 0
        self._best: Any = None

    def plan(self, n: int) -> np.ndarray:
        """Return actions to come, whose choice does not depend on their rewards.

        Parameters
        ----------
        n : int
            At most so many.

        Returns
        -------
        ndarray of shape (at most n, n_features)
            The actions.
        """
        if self._best is not None:
            return np.broadcast_to(self._best, (n, len(self._best)))
        return axes(self._basis, self.radius, self._t, min(n, self._length - self._t))

    def stop(self, actions: np.ndarray, rewards: np.ndarray) -> int:
        """Return after how many rewards it would rather plan anew: never before all.

        Parameters
        ----------
        actions : ndarray of shape (n, n_features)
            What was planned.
        rewards : ndarray of shape (n,)
            What it would bring.

        Returns
        -------
        int
            All of them.
        """
        return len(rewards)

    def learn(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Take in what actions have brought.

        Parameters
        ----------
        actions : ndarray of shape (n, n_features)
            The actions.
        rewards : ndarray of shape (n,)
            Their rewards.
        """
        if self._best is not None:
            return
        self._rows.append((actions, rewards))
        self._t += len(rewards)
        if self._t < self._length:
            return
        x, y = (np.concatenate(each) for each in zip(*self._rows))
        z = x @ self._basis.T
        if self.fit_intercept:
            z, y = z - z.mean(0), y - y.mean()
        alpha = np.linalg.solve(z.T @ z, z.T @ y)
        self._best = best_action(alpha @ self._basis, self.radius)
