"""Least distance programming: min ||p||  s.t.  Z p >= h.

As one nonnegative least-squares problem (Lawson and Hanson 1974, chapter 23): with
E = [Z'; h'], f = (0, ..., 0, 1) and u = argmin_{u >= 0} ||E u - f||, the answer is
p = Z'u / (1 - h'u), the multipliers are u / (1 - h'u), and E u = f says infeasible.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

# 1 - h'u = 1 / (1 + ||p||^2) drowns in rounding once p is long. Below this value the
# problem is posed again in a longer unit of length.
_SHORTEST_REMAINDER = 1e-5
_LONGER_UNIT = 100.0
# Rows are of size one here. A direction longer than this would separate them by less
# than the rounding errors of their own entries allow to tell from zero.
_LONGEST_DIRECTION = 1e11
# Lawson and Hanson's loop takes about one step per active row; scipy's default of
# three per column is too few when rows come and go.
_STEPS_PER_ROW = 30
# Rows that miss by less, relative to ||p||, are met up to rounding; a row counts as
# independent of others if more than this part of its squared length is.
_SLACK = 1e-14
_INDEPENDENT = 1e-24
_RANK = 1e-13


class LeastDistance(NamedTuple):
    """Answer of `least_distance`.

    Attributes
    ----------
    p : ndarray of shape (d,) or None
        The shortest feasible vector; None if there is none.
    dual : ndarray of shape (m,)
        Multipliers of the rows; if infeasible, the certificate: weights u >= 0 with
        Z'u = 0 up to rounding, and h'u = 1.
    """

    p: np.ndarray | None
    dual: np.ndarray


def least_distance(Z, h, *, unit=1.0):
    """Find the shortest p with Z p >= h, for rows of about unit size.

    Parameters
    ----------
    Z : ndarray of shape (m, d)
        One row per constraint.
    h : ndarray of shape (m,)
        What each row must reach at least.
    unit : float, default=1.0
        A guess of ||p||. A wrong guess costs time, not accuracy.

    Returns
    -------
    LeastDistance
        The vector and its multipliers.
    """
    m, d = Z.shape
    if m < d:  # work in the span of the rows: m coordinates, however large d is
        basis, triangle = np.linalg.qr(Z.T)
        p, dual = least_distance(triangle.T, h, unit=unit)
        return LeastDistance(None if p is None else basis @ p, dual)
    target = np.zeros(d + 1)
    target[-1] = 1.0
    while True:
        E = np.vstack([Z.T, h / unit])
        u, _ = nnls(E, target, maxiter=_STEPS_PER_ROW * (m + d))
        remainder = 1.0 - h @ u / unit
        if remainder > _SHORTEST_REMAINDER:
            break
        unit *= _LONGER_UNIT
        if unit > _LONGEST_DIRECTION:
            return LeastDistance(None, u / (h @ u))
    return _polish(Z, h, unit * u / remainder)


def _polish(Z, h, dual):
    """Solve the equations of the active rows again, free of the unit of length."""
    if not dual.any():  # nothing is active; and nnls must not see an empty matrix
        return LeastDistance(np.zeros(Z.shape[1]), dual)
    active = np.flatnonzero(dual)
    p, multipliers = _on_equations(Z, h, active)
    while (multipliers < 0).any():  # the shortest vector on fewer equations is shorter
        active = np.delete(active, multipliers.argmin())
        p, multipliers = _on_equations(Z, h, active)
    for _ in range(len(Z)):
        slack = Z @ p - h
        slack[active] = 0.0  # but for rounding
        worst = slack.argmin()
        if slack[worst] >= -_SLACK * (1.0 + np.linalg.norm(p)):
            break
        active = _exchange(Z, active, multipliers, worst, -slack[worst])
        p, multipliers = _on_equations(Z, h, active)
    polished = np.zeros_like(dual)
    polished[active] = np.maximum(multipliers, 0.0)
    return LeastDistance(p, polished)


def _on_equations(Z, h, active):
    """Return the shortest p with Z p = h on the active rows, and its multipliers."""
    if not len(active):
        return np.zeros(Z.shape[1]), np.zeros(0)
    basis, triangle = np.linalg.qr(Z[active].T)
    diagonal = np.abs(triangle.diagonal())
    if len(active) <= Z.shape[1] and diagonal.min() > _RANK * diagonal.max():
        coordinates = solve_triangular(triangle, h[active], trans="T")
        return basis @ coordinates, solve_triangular(triangle, coordinates)
    p = np.linalg.lstsq(Z[active], h[active], rcond=None)[0]
    return p, np.linalg.lstsq(Z[active].T, p, rcond=None)[0]


def _exchange(Z, active, multipliers, new, missing):
    """Let a violated row in, and those out whose multipliers it brings to zero.

    The step of the dual active-set method of Goldfarb and Idnani (1983): nonnegative
    least squares cannot tell a row that is active from one that misses by a part in
    1e-16 ||p||^2, and this can.
    """
    active, multipliers = list(active), list(multipliers)
    while active:
        rows = Z[active]
        shares = np.linalg.lstsq(rows.T, Z[new], rcond=None)[0]
        rest = Z[new] - shares @ rows
        independent = rest @ rest > _INDEPENDENT * (Z[new] @ Z[new])
        full_step = missing / (rest @ rest) if independent else np.inf
        ratios = [m / s if s > 0 else np.inf for m, s in zip(multipliers, shares)]
        blocking = int(np.argmin(ratios))
        if full_step <= ratios[blocking] or np.isinf(ratios[blocking]):
            break
        step = ratios[blocking]
        multipliers = [m - step * s for m, s in zip(multipliers, shares)]
        missing -= step * (rest @ rest) if independent else 0.0
        del active[blocking], multipliers[blocking]
    return np.array([*active, new])
