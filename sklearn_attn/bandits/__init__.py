"""Bandits: rewards that come late, and policies that find out why."""

from ._baselines import ExploreThenCommit, LinUCB, RandomPolicy
from ._card_agents import DQNAgent, TabularQAgent
from ._card_sorting_display import CardSortingDisplay
from ._card_sorting_scores import card_sorting_scores
from ._context_switching_bandit import ContextSwitchingBandit
from ._contextual_representation_bandit import ContextualRepresentationBandit
from ._dependence_pattern import DependencePattern
from ._dependence_pattern_display import DependencePatternDisplay
from ._detect_change import OutlierTest
from ._environments import LongHorizonBandit
from ._regret_display import RegretDisplay
from ._run import SimulationResult, run
from ._run_tasks import TaskSimulationResult, run_tasks
from ._sparse_dependence_bandit import SparseDependenceBandit
from ._subspace_policy import SubspacePolicy
from ._task_regret_display import TaskRegretDisplay
from ._task_sequence import TaskSequence

__all__ = [
    "CardSortingDisplay",
    "ContextSwitchingBandit",
    "ContextualRepresentationBandit",
    "DQNAgent",
    "DependencePattern",
    "DependencePatternDisplay",
    "ExploreThenCommit",
    "LinUCB",
    "LongHorizonBandit",
    "OutlierTest",
    "RandomPolicy",
    "RegretDisplay",
    "SimulationResult",
    "SparseDependenceBandit",
    "SubspacePolicy",
    "TabularQAgent",
    "TaskRegretDisplay",
    "TaskSequence",
    "TaskSimulationResult",
    "WisconsinCardSortingEnv",
    "card_sorting_scores",
    "run",
    "run_tasks",
]


def __getattr__(name):
    """Load what is a class of gymnasium's only when it is asked for (PEP 562)."""
    if name == "WisconsinCardSortingEnv":
        from ._wisconsin_card_sorting_env import WisconsinCardSortingEnv

        return WisconsinCardSortingEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
