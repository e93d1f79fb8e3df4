"""Bandits: rewards that come late, and policies that find out why."""

from ._baselines import ExploreThenCommit, LinUCB, RandomPolicy
from ._dependence_pattern import DependencePattern
from ._dependence_pattern_display import DependencePatternDisplay
from ._environments import LongHorizonBandit
from ._regret_display import RegretDisplay
from ._run import SimulationResult, run
from ._sparse_dependence_bandit import SparseDependenceBandit

__all__ = [
    "DependencePattern",
    "DependencePatternDisplay",
    "ExploreThenCommit",
    "LinUCB",
    "LongHorizonBandit",
    "RandomPolicy",
    "RegretDisplay",
    "SimulationResult",
    "SparseDependenceBandit",
    "run",
]
