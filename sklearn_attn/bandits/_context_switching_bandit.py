"""The game y = <x, theta_s> + noise on a ball, in tasks and contexts (2205.05820)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._as_gymnasium import as_gymnasium
from ._task_sequence import TaskSequence


@dataclass(frozen=True)
class Played:
    """What actions of a block have brought.

    Attributes
    ----------
    rewards : ndarray of shape (n_rounds,)
        Of the rounds that were played.
    new_task : bool
        Whether the next round begins a task, and this is announced.
    is_over : bool
        Whether the game has ended.
    """

    rewards: np.ndarray
    new_task: bool
    is_over: bool


class ContextSwitchingBandit:
    """Linear bandit whose task changes, and now and then the context of its tasks.

    In each round of task s, an action x brings ``<x, theta_s> + noise`` [1]_. It is any
    vector of a ball or, with `n_actions`, one of a few. The game has the methods of
    gymnasium's environments and works without gymnasium; :meth:`to_gymnasium` makes one
    of them. In blocks, by :meth:`play`, it is a hundred times as fast.

    Parameters
    ----------
    tasks : TaskSequence
        The tasks, one after the other.
    rounds_per_task : int or array-like of shape (n_tasks,), default=1000
        Rounds of each task.
    noise_std : float, default=0.1
        Standard deviation of the noise in a reward.
    radius : float, default=1.0
        Largest norm of an action. Longer ones are shortened to it.
    n_actions : int, default=None
        Number of actions that a round offers, drawn from the sphere. None offers the
        ball.
    announce : bool, default=True
        Whether the player is told when a task begins.

    Attributes
    ----------
    task_regret : ndarray of shape (n_tasks,)
        Pseudo-regret of each task, so far.
    task_starts : ndarray of int of shape (n_tasks,)
        First round of each task.
    n_rounds : int
        Rounds of the game.

    Raises
    ------
    ValueError
        If numbers are out of range, or not one for each task.

    References
    ----------
    .. [1] Qin, Menara, Oymak, Ching and Pasqualetti, "Representation Learning for
           Context-Dependent Decision-Making", ACC 2022, arXiv:2205.05820.

    Examples
    --------
    >>> from sklearn_attn.bandits import ContextSwitchingBandit, TaskSequence
    >>> tasks = TaskSequence.random([2], [1], n_features=3, random_state=0)
    >>> game = ContextSwitchingBandit(tasks, rounds_per_task=5, noise_std=0)
    >>> _, info = game.reset(seed=0)
    >>> info["new_task"]
    True
    >>> _, reward, *_ = game.step(tasks.coef[0])  # the best action
    >>> round(reward, 12)
    1.0
    """

    metadata: dict = {"render_modes": []}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        tasks: TaskSequence,
        *,
        rounds_per_task: Any = 1000,
        noise_std: float = 0.1,
        radius: float = 1.0,
        n_actions: Any = None,
        announce: bool = True,
    ) -> None:
        n_tasks = len(tasks.coef)
        lengths = np.asarray(rounds_per_task)
        is_whole = lengths.dtype.kind in "iu" and bool((lengths >= 1).all())
        if not is_whole or lengths.shape not in ((), (n_tasks,)):
            raise ValueError(
                "rounds_per_task must be one or more whole rounds, for all or for each "
                f"of {n_tasks} tasks; got {rounds_per_task!r}."
            )
        lengths = np.broadcast_to(lengths, n_tasks)
        if not 0 <= noise_std < np.inf or not 0 < radius < np.inf:
            raise ValueError(
                "noise_std must be 0 or more, radius positive; got "
                f"{noise_std} and {radius}."
            )
        if n_actions is not None and n_actions < 1:
            raise ValueError(f"n_actions must be 1 or more; got {n_actions}.")
        self.tasks = tasks
        self.rounds_per_task = rounds_per_task
        self.noise_std = noise_std
        self.radius = radius
        self.n_actions = n_actions
        self.announce = announce
        self._ends = np.cumsum(lengths)
        self.task_starts = self._ends - lengths
        self.n_rounds = int(self._ends[-1])
        self._norms = np.linalg.norm(tasks.coef, axis=1)
        self._rng = np.random.default_rng()
        self._t: Any = None

    @property
    def n_features(self) -> int:
        """Features of an action."""
        return self.tasks.coef.shape[1]

    @property
    def n_left(self) -> int:
        """Rounds left of the game."""
        return self.n_rounds - (self._t or 0)

    @property
    def observation_space(self) -> Any:
        """What a round shows: actions, or whether it begins a task."""
        from gymnasium.spaces import Box, MultiBinary

        if self.n_actions is None:
            return MultiBinary(1)
        shape = (self.n_actions, self.n_features)
        return Box(-self.radius, self.radius, shape, dtype=np.float64)

    @property
    def action_space(self) -> Any:
        """Vectors around the ball, or numbers of actions."""
        from gymnasium.spaces import Box, Discrete

        if self.n_actions is not None:
            return Discrete(self.n_actions)
        return Box(-self.radius, self.radius, (self.n_features,), dtype=np.float64)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple:
        """Begin the game with the first task.

        Parameters
        ----------
        seed : int, default=None
            Seed of noise and actions. None goes on with the generator.
        options : dict, default=None
            There are none.

        Returns
        -------
        observation : ndarray
            The actions of the first round, of shape (n_actions, n_features); or, for
            the ball, whether a task begins and is announced, of shape (1,).
        info : dict
            ``"new_task"``, whether a task begins and is announced.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._t = 0
        self._noise = np.empty(0)
        self.task_regret = np.zeros(len(self.tasks.coef))
        return self._observe(self.announce), {"new_task": self.announce}

    def step(self, action: Any) -> tuple:
        """Take an action.

        Parameters
        ----------
        action : array-like of shape (n_features,), or int
            The action, or which of those offered.

        Returns
        -------
        observation : ndarray
            As of :meth:`reset`, for the next round.
        reward : float
            What the action has brought.
        terminated : bool
            False.
        truncated : bool
            Whether this was the last round.
        info : dict
            ``"regret"`` of this round; ``"expected_reward"``; ``"task"``, its number;
            ``"new_task"``, whether the next round begins one and this is announced.

        Raises
        ------
        ValueError
            If the action is not one, `reset` was not called, or the game is over.
        """
        self._check_running()
        if self.n_actions is None:
            action = np.asarray(action, dtype=float)
            if action.shape != (self.n_features,) or not np.isfinite(action).all():
                raise ValueError(
                    f"action must be {self.n_features} finite numbers; got {action!r}."
                )
        elif not 0 <= action < self.n_actions or action != int(action):
            raise ValueError(
                f"action must be one of {self.n_actions} actions; got {action}."
            )
        else:
            action = self._actions[int(action)]
        task = int(np.searchsorted(self._ends, self._t, side="right"))
        expected = float(self._within_ball(action[None])[0] @ self.tasks.coef[task])
        if self.n_actions is None:
            best = self.radius * self._norms[task]
        else:
            best = float((self._actions @ self.tasks.coef[task]).max())
        reward = expected + self.noise_std * float(self._draw_noise(1)[0])
        self._noise = self._noise[1:]
        self._t += 1
        self.task_regret[task] += best - expected
        is_over = self._t >= self.n_rounds
        new_task = self.announce and not is_over and self._t >= self._ends[task]
        info = {
            "regret": best - expected,
            "expected_reward": expected,
            "task": task,
            "new_task": bool(new_task),
        }
        return self._observe(new_task), float(reward), False, is_over, info

    def play(self, actions: Any, until: Any = None) -> Played:
        """Take several actions of the ball one after the other.

        It is what :meth:`step` does, in blocks.

        Parameters
        ----------
        actions : ndarray of shape (n, n_features)
            The actions. Those beyond a task whose end is announced, or beyond the game,
            are not taken.
        until : callable, default=None
            Given the rewards of these actions, says how many of them are taken. It must
            not look beyond. What is left of the noise is kept for the next round.

        Returns
        -------
        Played
            What they have brought.

        Raises
        ------
        ValueError
            If there are `n_actions`, `reset` was not called, or the game is over.
        """
        self._check_running()
        if self.n_actions is not None:
            raise ValueError("play() is for the ball; with n_actions, call step().")
        actions = np.asarray(actions, dtype=float)
        first = int(np.searchsorted(self._ends, self._t, side="right"))
        end = self._ends[first] if self.announce else self.n_rounds
        actions = actions[: end - self._t]
        has_shape = actions.ndim == 2 and actions.shape[1] == self.n_features
        if not has_shape or len(actions) == 0 or not np.isfinite(actions).all():
            raise ValueError(
                f"actions must be finite, of shape (n, {self.n_features}), n > 0; got "
                f"shape {actions.shape}."
            )
        actions = self._within_ball(actions)
        rounds = self._t + np.arange(len(actions))
        if rounds[-1] < self._ends[first]:
            tasks = np.full(len(actions), first)
            expected = actions @ self.tasks.coef[first]
        else:
            tasks = np.searchsorted(self._ends, rounds, side="right")
            expected = (actions * self.tasks.coef[tasks]).sum(1)
        rewards = expected + self.noise_std * self._draw_noise(len(actions))
        n = len(actions) if until is None else until(rewards)
        if not 1 <= n <= len(actions):
            raise ValueError(
                f"until must say 1 to {len(actions)} of these rounds; got {n}."
            )
        self._noise = self._noise[n:]
        self._t += n
        missed = self.radius * self._norms[tasks[:n]] - expected[:n]
        last = int(tasks[n - 1])
        self.task_regret[first : last + 1] += np.bincount(
            tasks[:n] - first, weights=missed
        )
        is_over = self._t >= self.n_rounds
        new_task = self.announce and not is_over and self._t >= self._ends[last]
        return Played(rewards[:n], bool(new_task), bool(is_over))

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def to_gymnasium(self) -> Any:
        """Return this game as a gymnasium environment, for libraries that insist.

        Returns
        -------
        gymnasium.Env
            An environment that passes on every call.

        Raises
        ------
        ImportError
            If gymnasium is not installed.
        """
        return as_gymnasium(self)

    def _check_running(self):
        if self._t is None:
            raise ValueError("Call reset() before step().")
        if self._t >= self.n_rounds:
            raise ValueError(f"The game of {self.n_rounds} rounds is over: reset().")

    def _draw_noise(self, n):
        missing = n - len(self._noise)
        if missing > 0:
            fresh = self._rng.standard_normal(missing)
            self._noise = np.concatenate([self._noise, fresh])
        return self._noise[:n]

    def _within_ball(self, actions):
        norms = np.sqrt(np.einsum("nd,nd->n", actions, actions))
        if norms.max(initial=0.0) <= self.radius * (1 + 1e-9):  # up to rounding
            return actions
        return actions * np.minimum(1, self.radius / np.maximum(norms, 1e-300))[:, None]

    def _observe(self, new_task):
        if self.n_actions is None:
            return np.array([new_task], dtype=np.int8)
        # drawn apart from the noise, whose order play() and step() share
        actions = self._rng.standard_normal((self.n_actions, self.n_features))
        norms = np.linalg.norm(actions, axis=1, keepdims=True)
        self._actions = self.radius * actions / norms
        return self._actions.copy()
