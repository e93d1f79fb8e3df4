"""Dynamical systems with inputs: from measured trajectories to models that simulate."""

from ._bilinear_system import BilinearSystem, Stability
from ._bilinear_system_identifier import BilinearSystemIdentifier, stack_trajectories
from ._second_moment import AugmentedOperator
from ._stability_display import StabilityDisplay
from ._trajectory_display import TrajectoryDisplay

__all__ = [
    "AugmentedOperator",
    "BilinearSystem",
    "BilinearSystemIdentifier",
    "Stability",
    "StabilityDisplay",
    "TrajectoryDisplay",
    "stack_trajectories",
]
