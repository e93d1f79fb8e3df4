"""Least distance programming: min ||p||  s.t.  Z p >= h.

As one nonnegative least-squares problem (Lawson and Hanson 1974, chapter 23): with
E = [Z'; h'], f = (0, ..., 0, 1) and u = argmin_{u >= 0} ||E u - f||, the answer is
p = Z'u / (1 - h'u), the multipliers are u / (1 - h'u), and E u = f says infeasible.
"""

from typing import NamedTuple

import numpy as np
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
# The solution of the active rows' equations is a nonnegative combination of them, but
# for rounding. If it is not, the equations are not those of the solution.
_DUAL_RESIDUAL = 1e-6


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
    rows = Z[dual > 0]
    p = np.linalg.lstsq(rows, h[dual > 0], rcond=None)[0]
    multipliers, residual = nnls(rows.T, p, maxiter=_STEPS_PER_ROW * sum(Z.shape))
    if residual > _DUAL_RESIDUAL * np.linalg.norm(p):
        return LeastDistance(dual @ Z, dual)  # not all of these rows are active
    polished = np.zeros_like(dual)
    polished[dual > 0] = multipliers
    return LeastDistance(p, polished)
