"""Bilinear systems  (2208.13915), simulated exactly.

A random one in discrete time, and three of physics and mathematics in continuous time,
with inputs that are held: a boost converter, a magnetised spin, a Koopman lift.
"""

import numpy as np
from sklearn.utils import check_random_state

from ..dynamics._bilinear_system import BilinearSystem


def make_bilinear_system(
    n_steps=1000,
    n_states=5,
    n_inputs=2,
    *,
    radius=0.6,
    coupling=0.3,
    input_std=1.0,
    noise=0.3,
    input_matrix=False,
    initial="normal",
    random_state=None,
    return_system=False,
):
    """Generate one trajectory of a random system with Gaussian inputs and noise.

    The matrices have normal entries and are scaled to their spectral radii.

    Parameters
    ----------
    n_steps : int, default=1000
        Number of steps.
    n_states : int, default=5
        Number of states.
    n_inputs : int, default=2
        Number of inputs.
    radius : float, default=0.6
        Spectral radius of A_0.
    coupling : float, default=0.3
        Spectral radius of each of the other matrices.
    input_std : float, default=1.0
        Standard deviation of the inputs.
    noise : float, default=0.3
        Standard deviation of what is added to each state in each step.
    input_matrix : bool, default=False
        Whether inputs drive the state by themselves as well, with a matrix of normal
        entries.
    initial : {"normal", "zero"}, default="normal"
        Whether the initial state is standard normal, or zero.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.
    return_system : bool, default=False
        Whether to return the system too.

    Returns
    -------
    X : ndarray of shape (n_steps, n_states + n_inputs)
        State and inputs of each step.
    y : ndarray of shape (n_steps, n_states)
        The state after each step.
    system : BilinearSystem
        The system. Only with `return_system=True`.

    Raises
    ------
    ValueError
        If a number is out of range, or the state overflows.

    References
    ----------
    .. [1] Sattar, Oymak and Ozay, "Finite Sample Identification of Bilinear Dynamical
           Systems", arXiv:2208.13915. Sizes and radii are ours.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_bilinear_system
    >>> X, y, system = make_bilinear_system(
    ...     100, random_state=0, return_system=True)
    >>> X.shape, y.shape, round(float(system.spectral_radius()), 3) < 1
    ((100, 7), (100, 5), True)
    """
    _require(
        n_steps=(n_steps, n_steps >= 1, "at least 1"),
        n_states=(n_states, n_states >= 1, "at least 1"),
        n_inputs=(n_inputs, n_inputs >= 0, "0 or more"),
        radius=(radius, radius >= 0, "0 or more"),
        coupling=(coupling, coupling >= 0, "0 or more"),
        input_std=(input_std, input_std >= 0, "0 or more"),
        noise=(noise, noise >= 0, "0 or more"),
        initial=(initial, initial in ("normal", "zero"), "'normal' or 'zero'"),
    )
    rng = check_random_state(random_state)
    A = rng.standard_normal((n_inputs + 1, n_states, n_states))
    radii = np.abs(np.linalg.eigvals(A)).max(axis=1)
    A *= (np.where(np.arange(n_inputs + 1) == 0, radius, coupling) / radii)[
        :, None, None
    ]
    B = rng.standard_normal((n_states, n_inputs)) if input_matrix else None
    system = BilinearSystem(A, B, noise_cov=noise**2 * np.eye(n_states))
    x0 = rng.standard_normal(n_states) * (initial == "normal")
    U = input_std * rng.standard_normal((n_steps, n_inputs))
    X, y = _rows(system, x0, U, noise, rng)
    return (X, y, system) if return_system else (X, y)


def make_boost_converter(
    n_steps=6000,
    *,
    dt=20e-6,
    hold=20,
    duty=(0.2, 0.7),
    noise=0.0,
    random_state=None,
    return_system=False,
):
    """Generate current and voltage of a boost converter under random duty ratios.

    A switch alternates between charging a coil and feeding a load. Averaged over a
    period it is exactly bilinear in the duty ratio d::

        L di/dt = E - (1 - d) v          C dv/dt = (1 - d) i - v / R

    with L = 1 mH, C = 100 uF, R = 10 ohm and E = 12 V.

    Parameters
    ----------
    n_steps : int, default=6000
        Number of steps.
    dt : float, default=20e-6
        Length of a step, in seconds.
    hold : int, default=20
        Number of steps for which a duty ratio is held.
    duty : tuple of float, default=(0.2, 0.7)
        Smallest and largest duty ratio, drawn uniformly.
    noise : float, default=0.0
        Standard deviation of what is added to current and voltage in each step.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.
    return_system : bool, default=False
        Whether to return the system too.

    Returns
    -------
    X : ndarray of shape (n_steps, 3)
        Current in amperes, voltage in volts, and duty ratio, in each step. It starts
        from rest at the lowest duty ratio.
    y : ndarray of shape (n_steps, 2)
        Current and voltage after the step.
    system : BilinearSystem
        The system, in continuous time. Only with `return_system=True`.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_boost_converter
    >>> X, y = make_boost_converter(100, random_state=0)
    >>> X[0].round(2), bool((X[1:, :2] == y[:-1]).all())
    (array([ 1.88, 15.  ,  0.47]), True)
    """
    low, high = duty
    _require(
        n_steps=(n_steps, n_steps >= 1, "at least 1"),
        dt=(dt, dt > 0, "positive"),
        hold=(hold, hold >= 1, "at least 1"),
        duty=(duty, 0 <= low <= high < 1, "an interval within [0, 1)"),
        noise=(noise, noise >= 0, "0 or more"),
    )
    L, C, R, E = 1e-3, 100e-6, 10.0, 12.0
    rng = check_random_state(random_state)
    system = BilinearSystem(
        A=[
            [[0.0, -1 / L], [1 / C, -1 / (R * C)]],
            [[0.0, 1 / L], [-1 / C, 0.0]],
        ],
        intercept=[E / L, 0.0],
        noise_cov=noise**2 * np.eye(2),
        dt=dt,
    )
    voltage = E / (1 - low)
    x0 = np.array([voltage / (1 - low) / R, voltage])
    X, y = _rows(system, x0, _held(rng, n_steps, hold, low, high), noise, rng)
    return (X, y, system) if return_system else (X, y)


def make_bloch_spin(
    n_steps=2000,
    *,
    dt=0.05,
    hold=5,
    strength=2.0,
    relaxation=(1.0, 0.5),
    noise=0.0,
    random_state=None,
    return_system=False,
):
    """Generate the magnetisation of a spin under two random transverse fields.

    Bloch's equations, in a frame that turns with the spin, off resonance by 1 rad per
    unit of time, for a magnetisation M that relaxes to (0, 0, 1)::

        dM/dt = M x (u_1, u_2, 1) - (M_x / T_2, M_y / T_2, (M_z - 1) / T_1)

    Parameters
    ----------
    n_steps : int, default=2000
        Number of steps.
    dt : float, default=0.05
        Length of a step, in the unit of time of the relaxation.
    hold : int, default=5
        Number of steps for which fields are held.
    strength : float, default=2.0
        Fields are drawn uniformly between its negative and itself.
    relaxation : tuple of float, default=(1.0, 0.5)
        The times T_1 and T_2.
    noise : float, default=0.0
        Standard deviation of what is added to the magnetisation in each step.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.
    return_system : bool, default=False
        Whether to return the system too.

    Returns
    -------
    X : ndarray of shape (n_steps, 5)
        Magnetisation M, and the two fields, in each step. It starts at (0, 0, 1).
    y : ndarray of shape (n_steps, 3)
        Magnetisation after the step.
    system : BilinearSystem
        The system, in continuous time. Only with `return_system=True`.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.datasets import make_bloch_spin
    >>> X, y = make_bloch_spin(100, random_state=0)
    >>> X[0, :3], bool((np.linalg.norm(y, axis=1) < 1).all())
    (array([0., 0., 1.]), True)
    """
    T_1, T_2 = relaxation
    _require(
        n_steps=(n_steps, n_steps >= 1, "at least 1"),
        dt=(dt, dt > 0, "positive"),
        hold=(hold, hold >= 1, "at least 1"),
        strength=(strength, strength >= 0, "0 or more"),
        relaxation=(relaxation, T_1 > 0 and T_2 > 0, "positive"),
        noise=(noise, noise >= 0, "0 or more"),
    )
    rng = check_random_state(random_state)
    # M x e for the three axes e
    about_x = np.array([[0.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    about_y = np.array([[0.0, 0, -1], [0, 0, 0], [1, 0, 0]])
    about_z = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    system = BilinearSystem(
        A=[about_z - np.diag([1 / T_2, 1 / T_2, 1 / T_1]), about_x, about_y],
        intercept=[0.0, 0.0, 1 / T_1],
        noise_cov=noise**2 * np.eye(3),
        dt=dt,
    )
    U = _held(rng, n_steps, hold, -strength, strength, n_inputs=2)
    X, y = _rows(system, np.array([0.0, 0.0, 1.0]), U, noise, rng)
    return (X, y, system) if return_system else (X, y)


def make_koopman_lift(
    n_steps=2000,
    *,
    dt=0.05,
    hold=5,
    mu=-0.3,
    la=-1.0,
    strength=1.0,
    noise=0.0,
    random_state=None,
    return_system=False,
):
    """Generate a nonlinear system in coordinates in which it is exactly bilinear.

    The system ``x_1' = mu x_1 + u``, ``x_2' = la (x_2 - x_1**2)`` is nonlinear. With
    x_1 squared as a third coordinate, it is bilinear: ``z_3' = 2 mu z_3 + 2 u z_1``.

    Parameters
    ----------
    n_steps : int, default=2000
        Number of steps.
    dt : float, default=0.05
        Length of a step.
    hold : int, default=5
        Number of steps for which an input is held.
    mu : float, default=-0.3
        Rate of the first coordinate.
    la : float, default=-1.0
        Rate of the second.
    strength : float, default=1.0
        Inputs are drawn uniformly between its negative and itself.
    noise : float, default=0.0
        Standard deviation of what is added to each coordinate in each step. The third
        is then the square of the first no longer.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.
    return_system : bool, default=False
        Whether to return the system too.

    Returns
    -------
    X : ndarray of shape (n_steps, 4)
        The three coordinates, and the input, in each step. It starts at zero.
    y : ndarray of shape (n_steps, 3)
        The coordinates after the step.
    system : BilinearSystem
        The system, in continuous time. Only with `return_system=True`.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.datasets import make_koopman_lift
    >>> X, y = make_koopman_lift(100, random_state=0)
    >>> bool(np.allclose(y[:, 2], y[:, 0] ** 2))
    True
    """
    _require(
        n_steps=(n_steps, n_steps >= 1, "at least 1"),
        dt=(dt, dt > 0, "positive"),
        hold=(hold, hold >= 1, "at least 1"),
        strength=(strength, strength >= 0, "0 or more"),
        noise=(noise, noise >= 0, "0 or more"),
    )
    rng = check_random_state(random_state)
    system = BilinearSystem(
        A=[
            [[mu, 0, 0], [0, la, -la], [0, 0, 2 * mu]],
            [[0, 0, 0], [0, 0, 0], [2, 0, 0]],
        ],
        B=[[1.0], [0.0], [0.0]],
        noise_cov=noise**2 * np.eye(3),
        dt=dt,
    )
    U = _held(rng, n_steps, hold, -strength, strength)
    X, y = _rows(system, np.zeros(3), U, noise, rng)
    return (X, y, system) if return_system else (X, y)


def _held(rng, n_steps, hold, low, high, n_inputs=1):
    """Draw inputs, each held for some steps."""
    drawn = rng.uniform(low, high, size=(-(-n_steps // hold), n_inputs))
    return np.repeat(drawn, hold, axis=0)[:n_steps]


def _rows(system, x0, U, noise, rng):
    """Simulate; return rows [x | u] and next states."""
    states = system.simulate(x0, U, noise=noise > 0, random_state=rng)
    return np.hstack([states[:-1], U]), states[1:]


def _require(**requirements):
    """Refuse the first of the parameters that is out of its range."""
    for name, (value, is_met, wanted) in requirements.items():
        if not is_met:
            raise ValueError(f"{name} must be {wanted}; got {value!r}.")
