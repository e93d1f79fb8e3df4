"""Bandits: rewards that come late, and policies that find out why."""

from ._baselines import ExploreThenCommit, LinUCB, RandomPolicy
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
from ._task_sequence import TaskSequence

__all__ = [
    "ContextSwitchingBandit",
    "ContextualRepresentationBandit",
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
    "TaskSequence",
    "TaskSimulationResult",
    "run",
    "run_tasks",
]
