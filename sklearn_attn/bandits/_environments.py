"""Games to play: rewards that actions bring much later  (2302.00814)."""

from typing import Any

import numpy as np

from ._as_gymnasium import as_gymnasium
from ._dependence_pattern import DependencePattern


class LongHorizonBandit:
    """Contextual bandit whose rewards are spread over many rounds.

    Each round shows a context for every arm. The contexts of the arms that are chosen
    bring rewards, now and later, as a pattern says::

        y_t = sum_j w_j <theta, x_{t-j}> + noise

    It has the methods of gymnasium's environments and works without gymnasium;
    :meth:`to_gymnasium` makes one of them.

    Parameters
    ----------
    pattern : DependencePattern
        What a context is worth, and when.
    n_arms : int, default=10
        Arms K in a round.
    noise_std : float, default=0.5
        Standard deviation of the noise in a reward.
    n_rounds : int, default=None
        Rounds until the game is truncated. None goes on for ever. The best arm of a
        round is the one that brings most within what is left of the game.
    contexts : callable or array-like of shape (n, n_arms, n_features), default=None
        Where contexts come from: a function of a NumPy generator and the shape
        ``(n_arms, n_features)``, or the contexts of each round, begun anew after the
        last. None draws standard normal numbers.

    Raises
    ------
    ValueError
        If numbers are out of range, or contexts have another shape.

    References
    ----------
    .. [1] Qin, Li, Pasqualetti, Fazel and Oymak, "Stochastic Contextual Bandits with
           Long Horizon Rewards", AAAI 2023, arXiv:2302.00814.

    Examples
    --------
    >>> from sklearn_attn.bandits import DependencePattern, LongHorizonBandit
    >>> pattern = DependencePattern.rank_one([0, 0, 1.0], [1.0])
    >>> game = LongHorizonBandit(pattern, n_arms=2, noise_std=0)
    >>> contexts, info = game.reset(seed=0)
    >>> for _ in range(3):
    ...     _, reward, *_ = game.step(int(contexts[1, 0] > contexts[0, 0]))
    >>> bool(reward == contexts.max())  # it comes two rounds later
    True
    """

    metadata: dict = {"render_modes": []}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        pattern: DependencePattern,
        *,
        n_arms: int = 10,
        noise_std: float = 0.5,
        n_rounds: Any = None,
        contexts: Any = None,
    ) -> None:
        if n_arms < 1 or not noise_std >= 0 or (n_rounds is not None and n_rounds < 1):
            raise ValueError(
                "n_arms and n_rounds must be 1 or more, and noise_std 0 or more; got "
                f"{n_arms}, {n_rounds} and {noise_std}."
            )
        if contexts is not None and not callable(contexts):
            contexts = np.asarray(contexts, dtype=float)
            shape = (n_arms, pattern.n_features)
            has_shape = contexts.shape[1:] == shape and len(contexts) > 0
            if not has_shape or not np.isfinite(contexts).all():
                raise ValueError(
                    f"contexts must be finite, of shape (n, {shape[0]}, {shape[1]}), "
                    f"n > 0; got {contexts.shape}."
                )
        self.pattern = pattern
        self.n_arms = n_arms
        self.noise_std = noise_std
        self.n_rounds = n_rounds
        self.contexts = contexts
        self._rng = np.random.default_rng()
        self._observation: Any = None

    @property
    def observation_space(self) -> Any:
        """The contexts of all arms, as a space of gymnasium."""
        from gymnasium.spaces import Box

        shape = (self.n_arms, self.pattern.n_features)
        return Box(-np.inf, np.inf, shape, dtype=np.float64)

    @property
    def action_space(self) -> Any:
        """The arms, as a space of gymnasium."""
        from gymnasium.spaces import Discrete

        return Discrete(self.n_arms)

    @property
    def n_left(self) -> Any:
        """Rounds left of the game; None if it goes on for ever."""
        if self.n_rounds is None:
            return None
        return self.n_rounds - getattr(self, "_t", 0)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple:
        """Begin a game: nothing was chosen before.

        Parameters
        ----------
        seed : int, default=None
            Seed of contexts and noise. None goes on with the generator.
        options : dict, default=None
            There are none.

        Returns
        -------
        contexts : ndarray of shape (n_arms, n_features)
            The contexts of the first round.
        info : dict
            Empty.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._t = 0
        d = self.pattern.n_features
        self._chosen, self._missed = np.zeros((1, d)), np.zeros((1, d))
        self._observation = self._draw()
        return self._observation.copy(), {}

    def step(self, action: int) -> tuple:
        """Choose an arm.

        Parameters
        ----------
        action : int
            The arm.

        Returns
        -------
        contexts : ndarray of shape (n_arms, n_features)
            The contexts of the next round.
        reward : float
            What this round brings, mostly from arms chosen earlier.
        terminated : bool
            False.
        truncated : bool
            Whether this was the last round.
        info : dict
            ``"regret"``: what this round would have brought beyond its expected reward
            if the best arm had been chosen in all rounds so far; ``"expected_reward"``;
            ``"optimal_action"``, the best arm of this round.

        Raises
        ------
        ValueError
            If there is no such arm, `reset` was not called, or the game is over.
        """
        if self._observation is None:
            raise ValueError("Call reset() before step().")
        if self.n_rounds is not None and self._t >= self.n_rounds:
            raise ValueError(f"The game of {self.n_rounds} rounds is over: reset().")
        if not 0 <= action < self.n_arms or action != int(action):
            raise ValueError(f"action must be one of {self.n_arms} arms; got {action}.")
        contexts, t = self._observation, self._t
        n_left = None if self.n_rounds is None else self.n_rounds - t - 1
        best = int(np.argmax(contexts @ self.pattern.within(n_left)))
        if t == len(self._chosen):
            more = np.zeros_like(self._chosen)
            self._chosen = np.concatenate([self._chosen, more])
            self._missed = np.concatenate([self._missed, more])
        self._chosen[t] = contexts[int(action)]
        self._missed[t] = contexts[best] - contexts[int(action)]
        expected, regret = self._now(self._chosen), self._now(self._missed)
        reward = expected + self.noise_std * self._rng.standard_normal()
        self._t += 1
        self._observation = self._draw()
        truncated = self.n_rounds is not None and self._t >= self.n_rounds
        info = {
            "regret": regret,
            "expected_reward": expected,
            "optimal_action": best,
        }
        return self._observation.copy(), float(reward), False, truncated, info

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

    def _now(self, rows: np.ndarray) -> float:
        """Return what rows of the past bring in the present round."""
        then = self._t - self.pattern.support
        seen = then >= 0
        return float((self.pattern.blocks[seen] * rows[then[seen]]).sum())

    def _draw(self) -> np.ndarray:
        shape = (self.n_arms, self.pattern.n_features)
        if self.contexts is None:
            return self._rng.standard_normal(shape)
        if not callable(self.contexts):
            return self.contexts[self._t % len(self.contexts)]
        drawn = np.asarray(self.contexts(self._rng, shape), dtype=float)
        if drawn.shape != shape or not np.isfinite(drawn).all():
            raise ValueError(
                f"contexts must return finite numbers of shape {shape}; got shape "
                f"{drawn.shape}."
            )
        return drawn
