"""The one loop between a policy, which acts and observes, and an environment."""

from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SimulationResult:
    """What happened when a policy met an environment.

    Attributes
    ----------
    actions : ndarray of int of shape (n_rounds,), or of shape (n_rounds, n_features)
        The arms that were chosen, or the actions of a ball.
    rewards : ndarray of shape (n_rounds,)
        What was observed.
    regret : ndarray of shape (n_rounds,)
        Cumulative pseudo-regret; NaN if the environment does not tell.
    observation : object
        What the environment showed last, for going on from there.
    info : dict of str to ndarray of shape (n_rounds, ...)
        What else the environment told of each round.

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
    info: dict = field(default_factory=dict, repr=False)


def run(
    policy: Any,
    environment: Any,
    n_rounds: int,
    *,
    seed: Any = None,
    observation: Any = None,
    view: Any = None,
) -> SimulationResult:
    """Let a policy play.

    Parameters
    ----------
    policy : object
        Has ``act(contexts)``, which returns an arm, and ``observe(reward)``. If it has
        ``new_task()`` too, it is told of ``info["new_task"]``.
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
    view : callable, default=None
        What the policy gets to see of an observation, as the ``action_set`` of
        :class:`WisconsinCardSortingEnv` for a linear bandit. None is the observation.

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
    info: dict = {}
    if observation is None:
        observation, info = environment.reset(seed=seed)
    announce = getattr(policy, "new_task", None)
    actions, rewards, regret, infos = [], [], [], []
    for _ in range(n_rounds):
        if announce is not None and info.get("new_task"):
            announce()
        action = policy.act(observation if view is None else view(observation))
        observation, reward, terminated, truncated, info = environment.step(action)
        policy.observe(reward)
        actions.append(action)
        rewards.append(reward)
        regret.append(info.get("regret", np.nan))
        infos.append(info)
        if terminated or truncated:
            break
    told = set(infos[0]).intersection(*infos)
    return SimulationResult(
        np.array(actions),
        np.array(rewards, dtype=float),
        np.cumsum(np.array(regret, dtype=float)),
        observation,
        {name: np.array([info[name] for info in infos]) for name in sorted(told)},
    )


def check_n_rounds(n_rounds: Any) -> None:
    """Refuse what is no number of rounds to play."""
    if not isinstance(n_rounds, Integral) or n_rounds < 1:
        raise ValueError(f"n_rounds must be a positive integer; got {n_rounds!r}.")
