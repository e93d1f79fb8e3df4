"""Least squares on a few groups of columns of Xi, and phi = w (x) theta within it.

    phi = argmin ||y - Xi_S phi||^2      theta | w :  (W' G W) theta = W' c
                                         w | theta :  (Q' G Q) w = Q' c

G and c are the products of the columns with each other and with y: beyond them, no step
looks at the data.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import pinvh
from scipy.linalg.lapack import dpotrf, dpotrs
from scipy.optimize import nnls

from ._lagged import as_array, in_double

# Pivots of the Cholesky factor smaller than this, relative to the diagonal, are noise,
# be it that of contexts in single precision.
PIVOT = 1e-5
# Alternating least squares ends once the objective falls by less, relative to y'y.
SAME, MOST_SWEEPS = 1e-14, 500


@dataclass(frozen=True)
class Moments:
    """What is known of some groups of columns.

    Attributes
    ----------
    groups : tuple of int
        The groups, in the order in which they came.
    gram : ndarray of shape (c, c)
        Products of the columns, about their means if there is an intercept.
    cross : ndarray of shape (c,)
        Products with the rewards.
    sums : ndarray of shape (c,)
        Sums of the columns.
    yy : float
        Sum of squared rewards.
    n_free : int
        Rows beyond the one that an intercept takes.
    """

    groups: tuple
    gram: np.ndarray
    cross: np.ndarray
    sums: np.ndarray
    yy: float
    n_free: int

    def size(self):
        """Return the number of columns of a group."""
        return len(self.cross) // max(1, len(self.groups))

    def rss(self, coef):
        """Return the sum of squared residuals; rounding does not make it negative."""
        left = self.yy - 2 * coef @ self.cross + coef @ self.gram @ coef
        return max(0.0, float(left))

    def keep(self, kept):
        """Return what is known of a part of the groups, given by their positions."""
        kept = np.asarray(kept, dtype=np.int64)
        columns = (kept[:, None] * self.size() + np.arange(self.size())).ravel()
        return Moments(
            tuple(self.groups[i] for i in kept),
            self.gram[np.ix_(columns, columns)],
            self.cross[columns],
            self.sums[columns],
            self.yy,
            self.n_free,
        )


def no_moments(problem):
    """Return what is known before any group is chosen."""
    empty = np.zeros(0)
    return Moments(
        (),
        np.zeros((0, 0)),
        empty,
        empty,
        float(in_double(problem.y).square().sum()),
        problem.n_rows - problem.has_intercept,
    )


def add_groups(problem, moments, groups):
    """Return what is known with further groups: one pass over their columns."""
    groups = tuple(map(int, groups))
    if not groups:
        return moments
    products, with_weights = problem.contexts.products(
        problem.pairs(moments.groups + groups),
        len(groups) * problem.group_size,
        problem.values,
    )
    products = as_array(products)
    cross, sums = as_array(with_weights).T
    all_sums = np.append(moments.sums, sums)
    if problem.has_intercept:  # y has mean zero, so that its products are centred
        products = products - np.outer(sums, all_sums) / problem.n_rows
    c = len(moments.cross)
    gram = np.block([[moments.gram, products[:, :c].T], [products]])
    return Moments(
        moments.groups + groups,
        gram,
        np.append(moments.cross, cross),
        all_sums,
        moments.yy,
        moments.n_free,
    )


def solve(gram, cross):
    """Solve the normal equations; where columns depend on each other, of least norm."""
    correlation, scale = _unit_diagonal(gram)
    factor = _factor(correlation)
    if factor is not None:
        return dpotrs(factor, cross / scale, lower=True)[0] / scale
    return pinvh(correlation, rtol=PIVOT**2) @ (cross / scale) / scale


def inverse(gram):
    """Return the inverse, of independent combinations if columns depend on others."""
    correlation, scale = _unit_diagonal(gram)
    factor = _factor(correlation)
    if factor is not None:
        found = dpotrs(factor, np.eye(len(gram)), lower=True)[0]
    else:
        found = pinvh(correlation, rtol=PIVOT**2)
    return found / np.outer(scale, scale)


def _unit_diagonal(gram):
    diagonal = np.sqrt(np.diag(gram).clip(min=0))
    scale = np.where(diagonal > 0, diagonal, 1.0)
    return gram / np.outer(scale, scale), scale


def _factor(correlation):
    """Return the Cholesky factor; None if it would be mostly rounding."""
    if len(correlation) == 0:
        return None
    factor, failed = dpotrf(correlation, lower=True)
    return None if failed or np.diag(factor).min() <= PIVOT else factor


def wald(moments):
    """Return the coefficients, their inverse Gram, and each group's part in the fit."""
    inverted = inverse(moments.gram)
    coef = inverted @ moments.cross
    return coef, inverted, _parts(coef, inverted, moments.size())


def _parts(coef, inverted, m):
    """Return by how much the sum of squares grows as each group is left out."""
    k = len(coef) // max(1, m)
    own = inverted.reshape(k, m, k, m)[np.arange(k), :, np.arange(k)]  # (k, m, m)
    beta = coef.reshape(k, m)
    solved = np.linalg.pinv(own, hermitian=True) @ beta[:, :, None]
    return np.einsum("km,km->k", beta, solved[:, :, 0])


def prune(moments, threshold):
    """Leave out groups, the least first, until each matters given the others."""
    m = moments.size()
    left = np.arange(len(moments.groups))
    coef, inverted, parts = wald(moments)
    rss = moments.rss(coef)
    while len(left):
        variance = rss / max(1, moments.n_free - len(coef))
        least = int(parts.argmin())
        if parts[least] > threshold * variance:
            break
        out = np.arange(least * m, (least + 1) * m)
        rest = np.delete(np.arange(len(coef)), out)
        # the inverse without a group, by Schur's complement
        own = np.linalg.pinv(inverted[np.ix_(out, out)], hermitian=True)
        back = inverted[np.ix_(rest, out)] @ own
        rss += parts[least]
        coef = coef[rest] - back @ coef[out]
        inverted = inverted[np.ix_(rest, rest)] - back @ inverted[np.ix_(out, rest)]
        left = np.delete(left, least)
        parts = _parts(coef, inverted, m)
    return moments.keep(left)


@dataclass(frozen=True)
class RankOne:
    """Weights w and a direction theta, and how well each coordinate is known.

    Attributes
    ----------
    w : ndarray of shape (s,)
        Weights of the lags of the support.
    theta : ndarray of shape (m,)
        The direction.
    covariance : ndarray of shape (m, m)
        Covariance of theta with its length fixed, for noise of variance one.
    """

    w: np.ndarray
    theta: np.ndarray
    covariance: np.ndarray


def rank_one(moments, coef, *, nonneg=False):
    """Fit w (x) theta by alternating least squares, from the nearest to `coef`."""
    s, m = len(moments.groups), moments.size()
    theta = np.linalg.svd(coef.reshape(s, m), full_matrices=False)[2][0]
    if not nonneg:
        return _alternate(moments, theta, nonneg)[1]
    # of theta and -theta, one may leave better weights above zero
    both = [_alternate(moments, sign * theta, nonneg) for sign in (1, -1)]
    return min(both, key=lambda found: found[0])[1]


def _alternate(moments, theta, nonneg):
    """Fit w and theta in turn, from theta; return the objective and the answer."""
    s, m = len(moments.groups), moments.size()
    G = moments.gram.reshape(s, m, s, m)
    c = moments.cross.reshape(s, m)
    best = np.inf
    for _ in range(MOST_SWEEPS):
        w = _weights(np.einsum("m,smtn,n->st", theta, G, theta), c @ theta, nonneg)
        theta = solve(np.einsum("s,smtn,t->mn", w, G, w), w @ c)
        objective = moments.rss(np.outer(w, theta).ravel())
        if objective > best - SAME * moments.yy:
            break
        best = objective
    return objective, RankOne(w, theta, _covariance(G, w, theta))


def _weights(gram, cross, nonneg):
    if not nonneg:
        return solve(gram, cross)
    values, vectors = np.linalg.eigh(gram)
    kept = values > PIVOT**2 * max(values[-1], np.finfo(float).tiny)
    root = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    return nnls(root, vectors[:, kept].T @ cross / np.sqrt(values[kept]))[0]


def _covariance(G, w, theta):
    """Invert the information about (w, theta); what scales both is held fixed."""
    s, m = len(w), len(theta)
    length = np.linalg.norm(theta)
    if length == 0:
        return np.zeros((m, m))
    # orthonormal directions in which theta moves at a fixed length
    across = np.linalg.svd(theta[None], full_matrices=True)[2][1:]  # (m - 1, m)
    jacobian = np.concatenate(
        [
            np.einsum("st,m->smt", np.eye(s), theta).reshape(s * m, s),
            np.einsum("s,km->smk", w, across).reshape(s * m, m - 1),
        ],
        axis=1,
    )
    information = jacobian.T @ G.reshape(s * m, s * m) @ jacobian
    inside = inverse(information)[s:, s:]
    return across.T @ inside @ across
