"""The one loop between a policy, which acts and observes, and an environment."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SimulationResult:
    """What happened when a policy met an environment.

    Attributes
    ----------
    actions : ndarray of int of shape (n_rounds,)
        The arms that were chosen.
    rewards : ndarray of shape (n_rounds,)
        What was observed.
    regret : ndarray of shape (n_rounds,)
        Cumulative pseudo-regret; NaN if the environment does not tell.
    observation : object
        What the environment showed last, for going on from there.

    Examples
    --------
    >>> from sklearn_attn.bandits import DependencePattern, LongHorizonBandit
    >>> from sklearn_attn.bandits import RandomPolicy, run
    >>> game = LongHorizonBandit(DependencePattern.rank_one([1.0, 0.5], [1.0, 0.0]))
    >>> result = run(RandomPolicy(random_state=0), game, 20, seed=0)
    >>> result.actions.shape, bool(result.regret[-1] > 0)
    ((20,), True)
    """

    actions: np.ndarray
    rewards: np.ndarray
    regret: np.ndarray
    observation: Any


def run(
    policy: Any,
    environment: Any,
    n_rounds: int,
    *,
    seed: Any = None,
    observation: Any = None,
) -> SimulationResult:
    """Let a policy play.

    Parameters
    ----------
    policy : object
        Has ``act(contexts)``, which returns an arm, and ``observe(reward)``.
    environment : object
        Has gymnasium's ``reset`` and ``step``. ``info["regret"]`` is the regret of a
        round.
    n_rounds : int
        Rounds to play; fewer if the environment ends before.
    seed : int, default=None
        Seed of the environment's reset. None draws what no one can repeat.
    observation : object, default=None
        Where to go on: what the environment has shown last, as in
        `SimulationResult.observation`. None resets the environment.

    Returns
    -------
    SimulationResult
        Actions, rewards and regret.

    Raises
    ------
    ValueError
        If `n_rounds` is not a positive integer, or both a seed and an observation are
        given.

    Examples
    --------
    >>> from sklearn_attn.bandits import DependencePattern, LongHorizonBandit
    >>> from sklearn_attn.bandits import LinUCB, run
    >>> game = LongHorizonBandit(DependencePattern.rank_one([1.0], [0.6, 0.8]))
    >>> regret = run(LinUCB(), game, 400, seed=0).regret
    >>> bool(regret[-1] - regret[200] < regret[200])
    True
    """
    check_n_rounds(n_rounds)
    if seed is not None and observation is not None:
        raise ValueError("A seed is for the reset that going on leaves out.")
    if observation is None:
        observation, _ = environment.reset(seed=seed)
    actions, rewards, regret = [], [], []
    for _ in range(n_rounds):
        action = policy.act(observation)
        observation, reward, terminated, truncated, info = environment.step(action)
        policy.observe(reward)
        actions.append(action)
        rewards.append(reward)
        regret.append(info.get("regret", np.nan))
        if terminated or truncated:
            break
    return SimulationResult(
        np.array(actions, dtype=int),
        np.array(rewards, dtype=float),
        np.cumsum(np.array(regret, dtype=float)),
        observation,
    )


def check_n_rounds(n_rounds: Any) -> None:
    """Refuse what is no number of rounds to play."""
    if not isinstance(n_rounds, Integral) or n_rounds < 1:
        raise ValueError(f"n_rounds must be a positive integer; got {n_rounds!r}.")
