"""Motions of directions and attitudes, to the tolerance of the integrator.

The two systems of 2305.08849 (equations 20 and 25) on the sphere and on SO(3), a
magnet, a spinning body under control, and a spherical pendulum.
"""

from numbers import Integral

import numpy as np
from scipy.integrate import solve_ivp
from scipy.spatial.transform import Rotation
from sklearn.utils import check_random_state

from ..dynamics._manifolds import SpecialOrthogonal, Sphere

# Of the Runge-Kutta method of order 8, relative and absolute.
_TOLERANCE = 1e-12
# Turns around the axes x, y and z, as matrices.
_AXES = np.array(
    [
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0, 0, 1], [0, 0, 0], [-1, 0, 0]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 0]],
    ],
    dtype=float,
)


def make_sphere_flow(
    n_samples=200,
    *,
    initial="uniform",
    second_field=3,
    noise=0.0,
    t_final=1.0,
    times=None,
    random_state=None,
):
    """Generate the paper's flow on the sphere: x' = x_2 g_1(x) + x_3 g_3(x).

    g_1 turns around the z axis and g_3 around the x axis [1]_.

    Parameters
    ----------
    n_samples : int, default=200
        Number of points.
    initial : {"uniform", "octant"}, default="uniform"
        Where they start: anywhere, or at normalised vectors of uniform entries in
        [0, 1]. The paper does not say; its figure fits the second.
    second_field : {3, 2}, default=3
        3 is equation 20 as it is printed. With 2, a turn around the y axis, a single
        layer reaches the error that the paper's figure shows.
    noise : float, default=0.0
        Standard deviation (rad) of the random turn of each target.
    t_final : float, default=1.0
        When the targets are reached.
    times : array-like of shape (n_times,), default=None
        Times, rising from 0, to return trajectories instead.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    X : ndarray of shape (n_samples, 3)
        Initial points.
    y : ndarray of shape (n_samples, 3) or (n_samples, n_times, 3)
        Where they are at `t_final`, or at `times`.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Elamvazhuthi, Zhang, Oymak and Pasqualetti, arXiv:2305.08849, equation 20.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_sphere_flow
    >>> X, y = make_sphere_flow(100, random_state=0)
    >>> X.shape, y.shape
    ((100, 3), (100, 3))
    """
    _require_in("initial", initial, ("uniform", "octant"))
    _require_in("second_field", second_field, (3, 2))
    _require_count(n_samples)
    rng = check_random_state(random_state)
    if initial == "uniform":
        X = _sphere(n_samples, rng)
    else:
        X = Sphere(2).project(rng.uniform(size=(n_samples, 3)))
    first, second = _AXES[2], _AXES[0 if second_field == 3 else 1]

    def velocity(x):
        return x[:, [1]] * (x @ first.T) + x[:, [2]] * (x @ second.T)

    return _targets(Sphere(2), velocity, X, noise, t_final, times, rng)


def make_rotation_flow(
    n_samples=200,
    *,
    initial="corner",
    noise=0.0,
    t_final=1.0,
    times=None,
    random_state=None,
):
    """Generate the paper's flow of rotations: X' = (tr(X^2) + 3)(B_1 + B_2 + B_3) X.

    B_1, B_2 and B_3 turn around the axes, so that all points turn around the same axis,
    at a rate that depends on where they are [1]_.

    Parameters
    ----------
    n_samples : int, default=200
        Number of points.
    initial : {"corner", "uniform"}, default="corner"
        Where they start: at rotation vectors of uniform entries in [0, 1] rad, or
        anywhere. The paper does not say; its figure fits the first.
    noise : float, default=0.0
        Standard deviation (rad) of the random turn of each target, around each axis.
    t_final : float, default=1.0
        When the targets are reached.
    times : array-like of shape (n_times,), default=None
        Times, rising from 0, to return trajectories instead.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    X : ndarray of shape (n_samples, 9)
        Initial rotation matrices, row by row.
    y : ndarray of shape (n_samples, 9) or (n_samples, n_times, 9)
        Where they are at `t_final`, or at `times`.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Elamvazhuthi, Zhang, Oymak and Pasqualetti, arXiv:2305.08849, equation 25,
           where "Tr(X^2 + 1)" must mean the trace of X^2 plus the unit matrix.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_rotation_flow
    >>> X, y = make_rotation_flow(100, random_state=0)
    >>> X.reshape(-1, 3, 3).shape, y.shape
    ((100, 3, 3), (100, 9))
    """
    _require_in("initial", initial, ("corner", "uniform"))
    _require_count(n_samples)
    rng = check_random_state(random_state)
    if initial == "uniform":
        X = SpecialOrthogonal(3).random_points(n_samples, rng)
    else:
        vectors = rng.uniform(size=(n_samples, 3))
        X = Rotation.from_rotvec(vectors).as_matrix().reshape(-1, 9)
    turn = _AXES.sum(0)

    def velocity(x):
        M = x.reshape(-1, 3, 3)
        rate = np.einsum("nij,nji->n", M, M) + 3
        return (rate[:, None, None] * (turn @ M)).reshape(-1, 9)

    return _targets(SpecialOrthogonal(3), velocity, X, noise, t_final, times, rng)


def make_macrospin(
    n_samples=200,
    *,
    damping=0.3,
    field=(0.8, 0.0, 1.0),
    anisotropy=2.0,
    noise=0.0,
    t_final=2.0,
    times=None,
    random_state=None,
):
    """Generate motions of a small magnet: the equation of Landau, Lifshitz and Gilbert.

    The direction m of the magnetisation turns around a field and is damped towards it::

        m' = -m x H - damping m x (m x H),   H = field + anisotropy m_z e_z

    Parameters
    ----------
    n_samples : int, default=200
        Number of initial directions, uniform on the sphere.
    damping : float, default=0.3
        Damping.
    field : array-like of shape (3,), default=(0.8, 0.0, 1.0)
        The applied field; sets the unit of time.
    anisotropy : float, default=2.0
        How much the material prefers the z axis.
    noise : float, default=0.0
        Standard deviation (rad) of the random turn of each target.
    t_final : float, default=2.0
        When the targets are reached; they are 1.4 rad away on average.
    times : array-like of shape (n_times,), default=None
        Times, rising from 0, to return trajectories instead.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    X : ndarray of shape (n_samples, 3)
        Initial directions.
    y : ndarray of shape (n_samples, 3) or (n_samples, n_times, 3)
        Directions at `t_final`, or at `times`.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_macrospin
    >>> X, y = make_macrospin(100, random_state=0)
    >>> X.shape, y.shape
    ((100, 3), (100, 3))
    """
    applied = np.asarray(field, dtype=float)
    is_field = applied.shape == (3,) and np.isfinite(applied).all()
    _require("field", is_field, field, "three finite numbers")
    _require("damping", np.isfinite(damping), damping, "finite")
    _require("anisotropy", np.isfinite(anisotropy), anisotropy, "finite")
    rng = check_random_state(random_state)
    X = _sphere(n_samples, rng)

    def velocity(m):
        H = applied + anisotropy * m[:, [2]] * np.array([0.0, 0.0, 1.0])
        torque = np.cross(m, H)
        return -torque - damping * np.cross(m, torque)

    return _targets(Sphere(2), velocity, X, noise, t_final, times, rng)


def make_rigid_body(
    n_samples=200,
    *,
    inertia=(1.0, 2.0, 3.0),
    stiffness=4.0,
    damping=3.0,
    max_angle=2.5,
    noise=0.0,
    t_final=1.5,
    times=None,
    random_state=None,
):
    """Generate attitudes of a satellite that is turned to a target from rest.

    The torque is proportional to the error of the attitude R and to the rate of turning
    w, both seen from the body with moments of inertia J::

        R' = R hat(w),   J w' = -w x J w - stiffness vee(R - R') / 2 - damping w

    The rates are not returned: as the body starts from rest, its attitude determines
    where it will be.

    Parameters
    ----------
    n_samples : int, default=200
        Number of initial attitudes.
    inertia : array-like of shape (3,), default=(1.0, 2.0, 3.0)
        Moments of inertia.
    stiffness : float, default=4.0
        Torque per sine of the angle to the target, which is the unit matrix.
    damping : float, default=3.0
        Torque per rate.
    max_angle : float, default=2.5
        Largest initial angle (rad) to the target, at most pi. Axes are uniform, and
        angles up to here.
    noise : float, default=0.0
        Standard deviation (rad) of the random turn of each target, around each axis.
    t_final : float, default=1.5
        When the targets are reached.
    times : array-like of shape (n_times,), default=None
        Times, rising from 0, to return trajectories instead.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    X : ndarray of shape (n_samples, 9)
        Initial attitudes, rotation matrices row by row.
    y : ndarray of shape (n_samples, 9) or (n_samples, n_times, 9)
        Attitudes at `t_final`, or at `times`.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.datasets import make_rigid_body
    >>> X, paths = make_rigid_body(10, times=np.linspace(0, 5, 20), random_state=0)
    >>> paths.shape
    (10, 20, 9)
    """
    _require("max_angle", 0 < max_angle <= np.pi, max_angle, "in (0, pi]")
    _require("stiffness", 0 <= stiffness < np.inf, stiffness, "0 or more")
    _require("damping", 0 <= damping < np.inf, damping, "0 or more")
    J = np.asarray(inertia, dtype=float)
    is_inertia = J.shape == (3,) and (J > 0).all() and np.isfinite(J).all()
    _require("inertia", is_inertia, inertia, "three above 0")
    rng = check_random_state(random_state)
    axes = _sphere(n_samples, rng)
    angles = rng.uniform(0, max_angle, (n_samples, 1))
    X = Rotation.from_rotvec(angles * axes).as_matrix().reshape(-1, 9)

    def velocity(state):
        R, w = state[:, :9].reshape(-1, 3, 3), state[:, 9:]
        skew = (R - R.transpose(0, 2, 1)) / 2
        error = np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], 1)
        torque = -np.cross(w, J * w) - stiffness * error - damping * w
        turn = R @ np.einsum("nk,kij->nij", w, _AXES)
        return np.hstack([turn.reshape(-1, 9), torque / J])

    rest = np.zeros((n_samples, 3))
    return _targets(SpecialOrthogonal(3), velocity, X, noise, t_final, times, rng, rest)


def make_spherical_pendulum(
    n_samples=200,
    *,
    spin=0.5,
    damping=0.1,
    noise=0.0,
    t_final=1.0,
    times=None,
    random_state=None,
):
    """Generate directions of a pendulum that is let go from a turntable.

    It hangs on a rod of length 1, under gravity 1 along -z, which sets the unit of
    time. Until it is let go it turns with the table around the vertical axis::

        q'' = -e_z + (q_z - |q'|^2) q - damping q',   q'(0) = spin e_z x q(0)

    Parameters
    ----------
    n_samples : int, default=200
        Number of initial directions, uniform on the sphere.
    spin : float, default=0.5
        Rate (rad per time) of the table.
    damping : float, default=0.1
        Friction of the air.
    noise : float, default=0.0
        Standard deviation (rad) of the random turn of each target.
    t_final : float, default=1.0
        When the targets are reached.
    times : array-like of shape (n_times,), default=None
        Times, rising from 0, to return trajectories instead.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    X : ndarray of shape (n_samples, 3)
        Initial directions.
    y : ndarray of shape (n_samples, 3) or (n_samples, n_times, 3)
        Directions at `t_final`, or at `times`.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_spherical_pendulum
    >>> X, y = make_spherical_pendulum(100, random_state=0)
    >>> X.shape, y.shape
    ((100, 3), (100, 3))
    """
    _require("spin", np.isfinite(spin), spin, "finite")
    _require("damping", 0 <= damping < np.inf, damping, "0 or more")
    rng = check_random_state(random_state)
    X = _sphere(n_samples, rng)
    up = np.array([0.0, 0.0, 1.0])

    def velocity(state):
        q, v = state[:, :3], state[:, 3:]
        pull = q[:, [2]] - np.square(v).sum(1, keepdims=True)
        return np.hstack([v, -up + pull * q - damping * v])

    return _targets(
        Sphere(2), velocity, X, noise, t_final, times, rng, spin * np.cross(up, X)
    )


def _targets(manifold, velocity, X, noise, t_final, times, rng, beside=None):
    """Integrate from X, with what else belongs to the state, and return (X, y)."""
    _require("noise", 0 <= noise < np.inf, noise, "0 or more")
    _require("t_final", 0 < t_final < np.inf, t_final, "above 0")
    wanted = np.array([t_final]) if times is None else np.asarray(times, dtype=float)
    rises = wanted.ndim == 1 and wanted.size and (np.diff(wanted) > 0).all()
    if not (rises and wanted[0] >= 0 and np.isfinite(wanted).all()):
        raise ValueError(f"times must rise from 0 or later; got {times!r}.")
    start = X if beside is None else np.hstack([X, beside])
    n, d = X.shape
    if wanted[-1] == 0:
        states = start[None]
    else:
        solved = solve_ivp(
            lambda t, state: velocity(state.reshape(start.shape)).ravel(),
            (0.0, wanted[-1]),
            start.ravel(),
            method="DOP853",
            t_eval=wanted,
            rtol=_TOLERANCE,
            atol=_TOLERANCE,
        )
        states = solved.y.T.reshape(len(wanted), *start.shape)
    y = states[:, :, :d].transpose(1, 0, 2)  # (n, n_times, d)
    turns = Rotation.from_rotvec(noise * rng.standard_normal((n * len(wanted), 3)))
    y = turns.as_matrix() @ manifold.project(y.reshape(-1, d)).reshape(
        n * len(wanted), 3, -1
    )
    y = y.reshape(n, len(wanted), d)
    return X, y[:, 0] if times is None else y


def _sphere(n_samples, rng):
    _require_count(n_samples)
    return Sphere(2).random_points(n_samples, rng)


def _require_count(n_samples):
    is_count = isinstance(n_samples, Integral) and n_samples > 0
    _require("n_samples", is_count, n_samples, "1 or more")


def _require(name, holds, value, wanted):
    if not holds:
        raise ValueError(f"{name} must be {wanted}; got {value!r}.")


def _require_in(name, value, options):
    _require(name, value in options, value, " or ".join(map(repr, options)))
