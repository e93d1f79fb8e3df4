"""x+ = A_0 x + sum_k u_k A_k x + B u + b + w    (2208.13915; B and b are extensions).

With ut = [1 ; u], a step is linear in the lifted state [x ; 1]:

    [x+ ; 1] = L(u) [x ; 1] + [w ; 0],    L(u) = sum_j ut_j L_j,
    L_0 = [[A_0, b], [0, 1]],             L_k = [[A_k, B_k], [0, 0]]

In continuous time, x' = A_0 x + sum_k u_k A_k x + B u + b with u held for dt, a step is
L(u) = expm(dt [[A(u), B u + b], [0, 0]]), exactly.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import expm
from scipy.optimize import brentq
from sklearn.utils import check_random_state

from .._arrays import to_numpy
from ._second_moment import (
    AugmentedOperator,
    gaussian_rules,
    moment_factors,
    principal_axes,
)

# Numbers in the step matrices that are held at once.
CHUNK = 1_000_000
# The critical input level is looked for up to here.
HIGHEST_LEVEL = 1e60
LEVEL_TOLERANCE = 1e-10
# Relative error of an expectation: between two rules, to stop at; and to accept.
CONVERGED, TOLERATED = 1e-10, 1e-3
# Eigenvalues of a correlation matrix may be negative by so much.
ROUNDING = 1e-9


class StateOverflowError(ValueError, OverflowError):
    """A simulated state is beyond what a float can hold."""


class Stability(NamedTuple):
    """How a system behaves under random inputs.

    Attributes
    ----------
    spectral_radius : float
        Factor by which second moments of the state grow in the long run.
    is_mean_square_stable : bool
        Whether it is below 1.
    stationary_covariance : ndarray of shape (n_states, n_states)
        Covariance that the state settles to; NaN if it does not.
    critical_input_level : float
        Factor for the inputs' standard deviation, at the same mean, at which stability
        is lost.

    See Also
    --------
    BilinearSystem.stability : Finds it.

    Examples
    --------
    >>> from sklearn_attn.dynamics import BilinearSystem
    >>> BilinearSystem(A=[[[0.6]], [[0.4]]]).stability().critical_input_level
    2.0
    """

    spectral_radius: float
    is_mean_square_stable: bool
    stationary_covariance: np.ndarray
    critical_input_level: float


@dataclass(frozen=True, eq=False)
class BilinearSystem:
    """A system whose inputs drive the state and multiply it as well.

    ``x[t+1] = A[0] x[t] + sum_k u[t, k] A[k+1] x[t] + B u[t] + intercept + w[t]``. In
    continuous time, the same gives the derivative of x, with inputs that are held.

    Parameters
    ----------
    A : array-like of shape (n_inputs + 1, n_states, n_states)
        The matrix that acts always, and one for each input.
    B : array-like of shape (n_states, n_inputs), default=None
        How inputs drive the state. None is zero, the paper's system.
    intercept : array-like of shape (n_states,), default=None
        A constant drive. None is zero.
    noise_cov : array-like of shape (n_states, n_states), default=None
        Covariance of the noise w that is added in each step. None is zero.
    dt : float, default=None
        None is discrete time. A number is the time, in units of 1 / A, for which an
        input is held in continuous time.

    Attributes
    ----------
    n_states : int
        Number of states.
    n_inputs : int
        Number of inputs.

    See Also
    --------
    BilinearSystemIdentifier : Finds a system in data.

    References
    ----------
    .. [1] Sattar, Oymak and Ozay, "Finite Sample Identification of Bilinear Dynamical
           Systems", CDC 2022, arXiv:2208.13915.

    Examples
    --------
    An input of 1 doubles the speed at which the state decays.

    >>> import numpy as np
    >>> from sklearn_attn.dynamics import BilinearSystem
    >>> system = BilinearSystem(A=[[[-1.0]], [[-1.0]]], dt=0.5)
    >>> system.simulate([1.0], [[0.0], [1.0]]).ravel()
    array([1.        , 0.60653066, 0.22313016])
    """

    A: np.ndarray
    B: np.ndarray | None = None
    intercept: np.ndarray | None = None
    noise_cov: np.ndarray | None = None
    dt: float | None = None

    def __post_init__(self):
        A = np.array(to_numpy(self.A), dtype=float)
        if A.ndim != 3 or A.shape[1] != A.shape[2] or 0 in A.shape:
            raise ValueError(
                "A must have shape (n_inputs + 1, n_states, n_states); got shape "
                f"{A.shape}."
            )
        m, n = len(A) - 1, A.shape[1]
        checked = {"A": A}
        shapes = {"B": (n, m), "intercept": (n,), "noise_cov": (n, n)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            value = np.zeros(shape) if value is None else to_numpy(value)
            value = np.array(value, dtype=float)
            if value.shape != shape:
                raise ValueError(
                    f"{name} must have shape {shape} to go with A of shape {A.shape}; "
                    f"got {value.shape}."
                )
            checked[name] = value
        for name, value in checked.items():
            if not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
        _check_covariance(checked["noise_cov"], "noise_cov")
        if self.dt is not None and not self.dt > 0:
            raise ValueError(f"dt must be positive, or None; got {self.dt!r}.")
        for name, value in checked.items():
            value.flags.writeable = False
            object.__setattr__(self, name, value)  # the way into a frozen dataclass

    @property
    def n_states(self):
        """Number of states."""
        return self.A.shape[1]

    @property
    def n_inputs(self):
        """Number of inputs."""
        return len(self.A) - 1

    def features(self, x, u):
        """Return what the step is linear in: the Kronecker product of [1, u] and x.

        Parameters
        ----------
        x : array-like of shape (..., n_states)
            States.
        u : array-like of shape (..., n_inputs)
            Inputs.

        Returns
        -------
        ndarray of shape (..., (n_inputs + 1) * n_states)
            The state, then each input times the state.
        """
        x = self._checked(x, self.n_states, "x")
        u = self._checked(u, self.n_inputs, "u")
        lifted = np.concatenate([np.ones((*u.shape[:-1], 1)), u], axis=-1)
        products = lifted[..., :, None] * x[..., None, :]
        n_products = (self.n_inputs + 1) * self.n_states
        return products.reshape(*products.shape[:-2], n_products)

    def transition(self, u):
        """Return L(u), which takes [x, 1] one step on.

        Parameters
        ----------
        u : array-like of shape (..., n_inputs)
            Inputs.

        Returns
        -------
        ndarray of shape (..., n_states + 1, n_states + 1)
            One matrix for each input.
        """
        u = self._checked(u, self.n_inputs, "u")
        n, m = self.n_states, self.n_inputs
        lifted = np.concatenate([np.ones((*u.shape[:-1], 1)), u], axis=-1)
        if self.dt is None:
            return np.tensordot(lifted, self._lifted_matrices(), axes=1)
        flat = u.reshape(int(np.prod(u.shape[:-1])), m)
        if m == 0:
            held, which = flat[:1], np.zeros(len(flat), dtype=int)
        else:
            held, which = np.unique(flat, axis=0, return_inverse=True)
        rates = np.tensordot(
            np.column_stack([np.ones(len(held)), held]),
            self._lifted_matrices(last=0.0),
            axes=1,
        )
        return expm(self.dt * rates)[which].reshape(*u.shape[:-1], n + 1, n + 1)

    def step(self, x, u, w=None):
        """Return the next states.

        Parameters
        ----------
        x : array-like of shape (..., n_states)
            States.
        u : array-like of shape (..., n_inputs)
            Inputs.
        w : array-like of shape (..., n_states), default=None
            Noise to add.

        Returns
        -------
        ndarray of shape (..., n_states)
            The states one step later.
        """
        x = self._checked(x, self.n_states, "x")
        u = self._checked(u, self.n_inputs, "u")
        if self.dt is None:  # without a matrix for each input
            after = self.features(x, u) @ np.hstack(self.A).T + u @ self.B.T
            after = after + self.intercept
        else:
            L = self.transition(u)
            after = np.matmul(L[..., :-1, :-1], x[..., None])[..., 0] + L[..., :-1, -1]
        return after if w is None else after + np.asarray(w, dtype=float)

    def simulate(self, x0, U, W=None, *, noise=False, random_state=None):
        """Run the system, from one initial state or from many at once.

        Parameters
        ----------
        x0 : array-like of shape (n_states,) or (n_runs, n_states)
            Initial states.
        U : array-like of shape (n_steps, n_inputs) or (n_runs, n_steps, n_inputs)
            Inputs, the same for all runs or those of each.
        W : array-like of shape (n_steps, n_states) or (n_runs, n_steps, n_states), \
                default=None
            Noise to add, step by step.
        noise : bool, default=False
            Whether to draw Gaussian noise of covariance `noise_cov` instead.
        random_state : int, RandomState instance or None, default=None
            Seed of the noise.

        Returns
        -------
        ndarray of shape (n_steps + 1, n_states) or (n_runs, n_steps + 1, n_states)
            The states, the initial one first.

        Raises
        ------
        ValueError
            If shapes do not fit, or if a state overflows; the message names the step.
        """
        x0, U = np.asarray(to_numpy(x0), float), np.asarray(to_numpy(U), float)
        n, m = self.n_states, self.n_inputs
        if x0.ndim not in (1, 2) or x0.shape[-1] != n:
            raise ValueError(
                f"x0 must have shape ({n},) or (n_runs, {n}); got {x0.shape}."
            )
        if U.ndim not in (2, 3) or U.shape[-1] != m:
            raise ValueError(
                f"U must have shape (n_steps, {m}) or (n_runs, n_steps, {m}); got "
                f"{U.shape}."
            )
        runs = {len(part) for part, d in ((x0, 2), (U, 3)) if part.ndim == d}
        if len(runs) > 1:
            raise ValueError(
                f"x0 and U hold different numbers of runs: {len(x0)} and {len(U)}."
            )
        if not np.isfinite(x0).all() or not np.isfinite(U).all():
            raise ValueError("x0 and U must be finite; they hold NaN or infinity.")
        n_steps, shape = U.shape[-2], (*runs, U.shape[-2], n)
        if noise:
            if W is not None:
                raise ValueError(
                    "Give the noise W, or noise=True to draw it; not both."
                )
            rng = check_random_state(random_state)
            axes = principal_axes(self.noise_cov)  # (n, r), r < n if it is singular
            W = rng.standard_normal((*shape[:-1], axes.shape[1])) @ axes.T
        elif W is not None:
            W = np.asarray(to_numpy(W), dtype=float)
            if W.shape not in {shape, shape[-2:]}:
                raise ValueError(f"W must have shape {shape}; got {W.shape}.")
            if not np.isfinite(W).all():
                raise ValueError("W must be finite; it holds NaN or infinity.")
        by_step = np.moveaxis(U, -2, 0)  # (T, m) or (T, k, m)
        W = None if W is None else np.moveaxis(W, -2, 0)
        states = np.empty((n_steps + 1, *runs, n))
        states[0] = x0
        chunk = max(1, CHUNK // max(1, int(np.prod(U.shape[:-2])) * (n + 1) ** 2))
        for start in range(0, n_steps, chunk):
            part = slice(start, min(start + chunk, n_steps))
            with np.errstate(over="ignore", invalid="ignore"):
                self._run(states, by_step[part], None if W is None else W[part], start)
            done = np.isfinite(states[start + 1 : part.stop + 1])
            if not done.all():
                bad = done.reshape(len(done), -1).all(1).argmin()
                raise StateOverflowError(
                    f"The state overflows at step {start + 1 + bad} of {n_steps}: the "
                    "system is unstable under these inputs."
                )
        return np.moveaxis(states, 0, -2)

    def _run(self, states, U, W, start):
        """Fill in the states after `start`, one for each input."""
        if U.ndim == 3 and self.dt is None:
            for t, u in enumerate(U):
                w = None if W is None else W[t]
                states[start + 1 + t] = self.step(states[start + t], u, w)
            return
        L = self.transition(U)
        drive = L[..., :-1, -1]  # (c, n) or (c, k, n)
        # for states in rows: x' A' is what A x is for a column
        A = np.ascontiguousarray(np.swapaxes(L[..., :-1, :-1], -1, -2))
        if W is not None:
            if drive.ndim != W.ndim:  # the same for all runs
                drive, W = (p[:, None] if p.ndim == 2 else p for p in (drive, W))
            drive = drive + W
        each = U.ndim == 3
        x = states[start]
        for t in range(len(U)):
            moved = np.matmul(x[..., None, :], A[t])[..., 0, :] if each else x @ A[t]
            x = moved + drive[t]
            states[start + 1 + t] = x

    def frozen_system(self, u):
        """Return the linear system that is left while the input stays near `u`.

        Parameters
        ----------
        u : array-like of shape (n_inputs,)
            The input.

        Returns
        -------
        A : ndarray of shape (n_states, n_states)
            ``A[0] + sum_k u[k] A[k+1]``, in the time of the system.
        B : ndarray of shape (n_states, n_inputs)
            As it is.
        """
        u = np.asarray(to_numpy(u), dtype=float)
        if u.shape != (self.n_inputs,):
            raise ValueError(f"u must have shape ({self.n_inputs},); got {u.shape}.")
        return self.A[0] + np.tensordot(u, self.A[1:], axes=1), self.B

    def augmented_operator(self, input_cov=None, input_mean=None):
        """Return the operator that moves second moments of the state, without drive.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is the identity.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is zero.

        Returns
        -------
        AugmentedOperator
            E[A(u) (x) A(u)]. In continuous time, A(u) is that of a step of dt, and the
            expectation is over Gaussian inputs.
        """
        factors = self._lifted_factors(*self.input_moments(input_cov, input_mean))
        return AugmentedOperator(factors[:, :-1, :-1])

    def spectral_radius(self, input_cov=None, input_mean=None):
        """Return the spectral radius of the augmented operator.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is the identity.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is zero.

        Returns
        -------
        float
            The factor by which second moments grow in the long run.
        """
        return self.augmented_operator(input_cov, input_mean).spectral_radius()

    def is_mean_square_stable(self, input_cov=None, input_mean=None):
        """Tell whether mean and second moment of the state settle.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is the identity.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is zero.

        Returns
        -------
        bool
            Whether the spectral radius is below 1.
        """
        return self.spectral_radius(input_cov, input_mean) < 1

    def stationary_covariance(self, input_cov=None, input_mean=None):
        """Return the covariance that the state settles to.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is the identity.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is zero.

        Returns
        -------
        ndarray of shape (n_states, n_states)
            The covariance under independent inputs.

        Raises
        ------
        ValueError
            If the system is not mean-square stable.
        """
        mean, cov = self.input_moments(input_cov, input_mean)
        factors = self._lifted_factors(mean, cov)
        return self._settle(factors, self.noise_cov)

    def reachability_gramian(self, input_cov=None):
        """Return the covariance that inputs alone bring about, from zero.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is the identity.

        Returns
        -------
        ndarray of shape (n_states, n_states)
            ``P = sum_i F_i P F_i' + B B'`` for the identity: directions in which it
            is small are hard to reach.

        Raises
        ------
        ValueError
            If the system is not mean-square stable under these inputs.
        """
        undriven = BilinearSystem(self.A, self.B, dt=self.dt)
        factors = undriven._lifted_factors(*self.input_moments(input_cov, None))
        return self._settle(factors, undriven.noise_cov)

    def critical_input_level(self, input_cov=None, input_mean=None):
        """Return by how much inputs may vary before stability is lost.

        In discrete time the spectral radius grows with the level, so that there is one.
        In continuous time it need not: large inputs may turn a state so fast that it
        settles. Of several levels, one is then found, by doubling or halving from 1, as
        far as the expectation over the inputs is known.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs at level 1. None is the identity, so that the
            level is a standard deviation.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs, at every level. None is zero.

        Returns
        -------
        float
            The factor for the inputs' standard deviation at which the spectral radius
            is 1. Infinite if none was found, zero if the system is unstable with inputs
            that stay at their mean, NaN if a step is too long for a float to tell.
        """
        mean, cov = self.input_moments(input_cov, input_mean)

        def excess(level):
            factors, error = self._expectation(mean, level**2 * cov)
            if not error < TOLERATED:
                return np.nan  # beyond what is known
            return AugmentedOperator(factors[:, :-1, :-1]).spectral_radius() - 1

        at_mean = excess(0.0)
        if not at_mean < 0:
            return np.nan if np.isnan(at_mean) else 0.0
        high = 1.0
        while np.isnan(excess(high)):
            high /= 2
        if excess(high) >= 0:
            while excess(high / 2) >= 0:
                high /= 2
        else:
            highest = HIGHEST_LEVEL / np.sqrt(max(1.0, np.abs(cov).max(initial=0.0)))
            while high < highest and excess(high) < 0:
                high *= 2
            if high >= highest or np.isnan(excess(high)):
                return np.inf
        tolerance = high * LEVEL_TOLERANCE
        return float(brentq(excess, high / 2, high, xtol=tolerance))

    def input_moments(self, input_cov=None, input_mean=None):
        """Return mean and covariance of the inputs as arrays.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is the identity.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is zero.

        Returns
        -------
        mean : ndarray of shape (n_inputs,)
            The mean.
        cov : ndarray of shape (n_inputs, n_inputs)
            The covariance.

        Raises
        ------
        ValueError
            If shapes do not fit or the covariance is none.
        """
        m = self.n_inputs
        mean = np.zeros(m) if input_mean is None else np.asarray(to_numpy(input_mean))
        mean = np.asarray(mean, dtype=float)
        if mean.shape != (m,):
            raise ValueError(f"input_mean must have shape ({m},); got {mean.shape}.")
        cov = 1.0 if input_cov is None else np.asarray(to_numpy(input_cov), dtype=float)
        if np.ndim(cov) == 0:
            cov = np.full(m, cov)
        if cov.ndim == 1:
            cov = np.diag(cov)
        if cov.shape != (m, m):
            raise ValueError(
                f"input_cov must be a number or have shape ({m},) or ({m}, {m}); got "
                f"{cov.shape}."
            )
        if not np.isfinite(cov).all() or not np.isfinite(mean).all():
            raise ValueError("input_cov and input_mean must be finite.")
        _check_covariance(cov, "input_cov")
        return mean, cov

    def stability(self, input_cov=None, input_mean=None):
        """Tell what becomes of the state under random inputs.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is the identity.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is zero.

        Returns
        -------
        Stability
            Spectral radius of the augmented operator, whether it is below 1, the
            stationary covariance, and how far inputs may grow.
        """
        radius = self.spectral_radius(input_cov, input_mean)
        stationary = np.full((self.n_states, self.n_states), np.nan)
        if radius < 1:
            stationary = self.stationary_covariance(input_cov, input_mean)
        return Stability(
            spectral_radius=radius,
            is_mean_square_stable=radius < 1,
            stationary_covariance=stationary,
            critical_input_level=self.critical_input_level(input_cov, input_mean),
        )

    def _checked(self, values, width, name):
        values = np.asarray(to_numpy(values), dtype=float)
        if values.ndim == 0 or values.shape[-1] != width:
            raise ValueError(
                f"{name} must have shape (..., {width}); got {values.shape}."
            )
        return values

    def _lifted_matrices(self, last=1.0):
        """Return L_0, ..., L_m; in the last corner of L_0 stands `last`."""
        m, n = self.n_inputs, self.n_states
        L = np.zeros((m + 1, n + 1, n + 1))
        L[:, :n, :n] = self.A
        L[0, :n, n] = self.intercept
        L[1:, :n, n] = self.B.T
        L[0, n, n] = last
        return L

    def _lifted_factors(self, mean, cov):
        """Return the F_i of the lifted state; warn where they are not known."""
        factors, error = self._expectation(mean, cov)
        if not error < TOLERATED:
            warnings.warn(
                "Inputs vary so much within a step that the expectation over them is "
                f"not known: its relative error is about {error:.2g}. Stability and "
                "covariances are unreliable; shorten dt, or the inputs.",
                UserWarning,
                stacklevel=2,
            )
        return factors

    def _expectation(self, mean, cov):
        """Return the F_i of the lifted state, and a relative error of theirs."""
        if self.dt is None:
            return moment_factors(self._lifted_matrices(), mean, cov), 0.0
        before = change = np.inf
        for nodes, weights in gaussian_rules(mean, cov):
            factors = np.sqrt(weights)[:, None, None] * self.transition(nodes)
            squares = np.tensordot(factors, factors, axes=([0, 2], [0, 2]))
            change = np.linalg.norm(squares - before) / np.linalg.norm(squares)
            if len(nodes) == 1 or change < CONVERGED:
                change = 0.0
                break
            before = squares
        # rounding in the exponential of a matrix grows with its size
        sizes = np.abs(self._lifted_matrices(last=0.0)).sum((1, 2))
        largest = self.dt * sizes @ np.append(1.0, np.abs(nodes).max(0))
        return factors, change + np.finfo(float).eps * largest

    def _settle(self, factors, noise_cov):
        """Return the covariance of x in the fixed point of [x ; 1]."""
        n = self.n_states
        operator = AugmentedOperator(factors[:, :n, :n])
        radius = operator.spectral_radius()
        if radius >= 1:
            raise ValueError(
                "The system is not mean-square stable under these inputs: the spectral "
                f"radius of the augmented operator is {radius:.6g}, not below 1."
            )
        # the last row of F_i is [0, c_i], with sum c_i^2 = 1; sum c_i F_i is the mean
        corner = factors[:, n, n]
        mean_A = np.einsum("i,iab->ab", corner, factors[:, :n, :n])
        mean_b = np.einsum("i,ia->a", corner, factors[:, :n, n])
        x = np.linalg.solve(np.eye(n) - mean_A, mean_b)
        # of what the inputs make of the mean state: second moments less their squares
        # would cancel
        drive = factors[:, :n, :n] @ x + factors[:, :n, n] - np.outer(corner, x)
        return operator.solve(drive.T @ drive + noise_cov)


def _check_covariance(cov, name):
    scale = np.sqrt(np.abs(np.diag(cov)))
    scale[scale == 0] = 1.0
    scaled = cov / scale / scale[:, None]
    smallest = np.linalg.eigvalsh(scaled).min(initial=0.0)
    if not np.allclose(scaled, scaled.T) or smallest < -ROUNDING:
        raise ValueError(f"{name} must be symmetric and positive semidefinite.")
