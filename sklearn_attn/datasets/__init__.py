"""Data made on the spot: planted problems, exact simulators, bundled images reused."""

from ._bilinear_systems import (
    make_bilinear_system,
    make_bloch_spin,
    make_boost_converter,
    make_koopman_lift,
)
from ._composed_tasks import make_composed_tasks, make_staged_process
from ._context_tasks import make_context_tasks, make_digit_tasks
from ._contextual_tokens import make_contextual_tokens
from ._digit_needles import make_digit_needles
from ._federated import (
    make_federated_mdp,
    make_federated_quadratic,
    make_longtail_clients,
    make_noisy_clients,
)
from ._in_context_tasks import make_in_context_tasks
from ._long_horizon_rewards import make_digit_rewards, make_long_horizon_rewards
from ._manifold_flows import (
    make_macrospin,
    make_rigid_body,
    make_rotation_flow,
    make_sphere_flow,
    make_spherical_pendulum,
)
from ._multipath_tasks import make_multipath_tasks, make_permuted_digit_tasks
from ._tokens import make_digit_bags, make_joint_tokens, make_token_selection

__all__ = [
    "make_bilinear_system",
    "make_bloch_spin",
    "make_boost_converter",
    "make_composed_tasks",
    "make_context_tasks",
    "make_contextual_tokens",
    "make_digit_bags",
    "make_digit_needles",
    "make_digit_rewards",
    "make_digit_tasks",
    "make_federated_mdp",
    "make_federated_quadratic",
    "make_in_context_tasks",
    "make_joint_tokens",
    "make_koopman_lift",
    "make_long_horizon_rewards",
    "make_longtail_clients",
    "make_macrospin",
    "make_multipath_tasks",
    "make_noisy_clients",
    "make_permuted_digit_tasks",
    "make_rigid_body",
    "make_rotation_flow",
    "make_sphere_flow",
    "make_spherical_pendulum",
    "make_staged_process",
    "make_token_selection",
]
