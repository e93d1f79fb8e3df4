"""How far the coefficients of least squares are from the truth  (2208.13915).

    interval    vec(C) ~ N(vec(C*), S (x) V),  V = K G K          S: noise covariance
    fixed       |C - C*| <= s (sqrt n + sqrt d + sqrt(2 log 1/delta)) / sqrt(lmin)
    dependent   |C - C*| <= s sqrt(8 (n log 5 + 1/2 logdet(I + G/lam) + log 1/delta))
                            sqrt(1 + lam/lmin) / sqrt(lmin)        lmin = lmin(G)

The last one is the self-normalised bound of a martingale: it holds for trajectories,
whose features depend on earlier noise, for any lam that is fixed beforehand. lam may
be chosen among the powers of 2 with the data in hand: a union over them costs
log(SUM (1 + |k|)^2), since sum_k 1 / (1 + |k|)^2 < SUM.
"""

import numpy as np

from ._bilinear_system import BilinearSystem
from ._second_moment import principal_axes

# pi^2 / 3 - 1, rounded up: over all integers k, the sum of 1 / (1 + |k|)^2
SUM = 2.2899
# lam is looked for at powers of 2 so far below and above the smallest eigenvalue
REACH = 40


def fixed_design_bound(s, n, values, delta):
    """Bound the spectral norm of the error for features that are no random numbers.

    `s` is the standard deviation of the noise, `values` are the eigenvalues of G.
    """
    radius = np.sqrt(n) + np.sqrt(len(values)) + np.sqrt(2 * np.log(1 / delta))
    return s * radius / np.sqrt(values.min())


def self_normalized_bound(s, n, values, delta):
    """Bound the spectral norm of the error for features that depend on the noise."""
    smallest = values.min()
    k = np.round(np.log2(smallest)) + np.arange(-REACH, REACH + 1)
    lam = np.exp2(k)
    log_det = np.log1p(values / lam[:, None]).sum(1)
    log_delta = np.log(SUM * (1 + np.abs(k)) ** 2 / delta)
    squares = 8 * (n * np.log(5) + log_det / 2 + log_delta)
    return s * np.sqrt((squares * (1 + lam / smallest) / smallest).min())


def step_noise(rate_cov, A, dt, midpoint):
    """Return the covariance of the noise of a step from that of the rate's residual."""
    J = np.eye(len(A))
    if midpoint:  # the residual w / dt - A w / 2 has half of the noise in A as well
        J = np.linalg.inv(J - dt / 2 * A)
    return dt**2 * J @ rate_cov @ J.T


def midpoint_bias(rate_cov, weight, input_mean, K, dt):
    """Return the bias of the midpoint's coefficients if residuals drive the state.

    A step of noise w is w / dt in the rate and w / 2 in the midpoint: their products do
    not average out, but add up to weight times rate_cov dt / 2 for each block of A.
    """
    n = len(rate_cov)
    blocks = [factor * weight * rate_cov * dt / 2 for factor in (1.0, *input_mean)]
    products = np.hstack(blocks)  # (n, n (m + 1))
    return np.hstack([products, np.zeros((n, len(K) - products.shape[1]))]) @ K


def draw_systems(system, rate_cov, V, *, has_input_matrix, n_systems, rng):
    """Draw systems whose coefficients are as uncertain as the estimate.

    `V` is the covariance of a row of coefficients, in units of the noise variance, in
    the order of the features [ut (x) x ; u ; 1] as far as they are there.
    """
    n, m = system.n_states, system.n_inputs
    left, right = principal_axes(rate_cov), principal_axes(V)
    noise = rng.standard_normal((n_systems, left.shape[1], right.shape[1]))
    errors = left @ noise @ right.T  # (n_systems, n, d)
    n_products = n * (m + 1)
    in_A = errors[:, :, :n_products].reshape(-1, n, m + 1, n).transpose(0, 2, 1, 3)
    stop = n_products + m * has_input_matrix
    in_B, in_b = errors[:, :, n_products:stop], errors[:, :, stop:]
    return [
        BilinearSystem(
            system.A + in_A[i],
            system.B + in_B[i] if has_input_matrix else system.B,
            system.intercept + in_b[i, :, 0] if in_b.shape[2] else system.intercept,
            system.noise_cov,
            system.dt,
        )
        for i in range(n_systems)
    ]
