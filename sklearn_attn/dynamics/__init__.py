"""Dynamical systems: from measured trajectories to models that simulate."""

from ._bilinear_system import BilinearSystem, Stability
from ._bilinear_system_identifier import BilinearSystemIdentifier, stack_trajectories
from ._flow import Flow
from ._manifold_neural_ode_regressor import ManifoldNeuralODERegressor
from ._manifolds import (
    Euclidean,
    Product,
    SpecialEuclidean,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Torus,
)
from ._second_moment import AugmentedOperator
from ._stability_display import StabilityDisplay
from ._trajectory_display import TrajectoryDisplay
from ._vector_fields import is_bracket_generating, lie_bracket, vector_fields

__all__ = [
    "AugmentedOperator",
    "BilinearSystem",
    "BilinearSystemIdentifier",
    "Euclidean",
    "Flow",
    "ManifoldNeuralODERegressor",
    "Product",
    "SpecialEuclidean",
    "SpecialOrthogonal",
    "Sphere",
    "Stability",
    "StabilityDisplay",
    "Stiefel",
    "Torus",
    "TrajectoryDisplay",
    "is_bracket_generating",
    "lie_bracket",
    "stack_trajectories",
    "vector_fields",
]
