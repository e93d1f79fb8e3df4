"""Coefficients theta_s = B'alpha_s of tasks that share few directions  (2205.05820).

The paper's B_hat are the leading eigenvectors of P = sum_s theta_s theta_s'. That is
the least-squares answer if all tasks have the same design; for others, it is where
alternating least squares begins.
"""

import math
from dataclasses import dataclass

import torch

from .._solution import Solution
from ._task_moments import SINGULAR, NormalEquations

# Designs that differ by less than this, relative to the largest entry, are the same.
SAME_DESIGN = 1e-8
# So many directions more may explain nothing before the search for the rank ends: the
# last one that is missing can explain more than those before it.
PATIENCE = 3


@dataclass(frozen=True)
class SharedSubspace:
    """What tasks have in common, and what the rest is like.

    Attributes
    ----------
    B : torch.Tensor of shape (r, d)
        Orthonormal rows, the direction in which tasks differ most first.
    singular_values : torch.Tensor of shape (r,)
        Those of the tasks' coefficients.
    alpha : torch.Tensor of shape (k, r)
        Coefficients of the tasks within it.
    noise_var : float
        Variance of the noise; NaN if all rows are needed to fit.
    noise_dof : float
        How many rows, beyond those needed, tell of it.
    n_rows : float
        Rows in all.
    """

    B: torch.Tensor
    singular_values: torch.Tensor
    alpha: torch.Tensor
    noise_var: float
    noise_dof: float
    n_rows: float

    @property
    def doubt(self):
        """Variance that doubt about B adds to a residual, relative to the noise."""
        r, d = self.B.shape
        return r * (d - r) / max(1.0, self.n_rows)


def estimate_subspace(
    equations: NormalEquations,
    n_components=None,
    *,
    eig_tol,
    max_iter,
    tol,
    on_iteration=lambda *_: False,
) -> Solution:
    """Find B and alpha_s: min sum_s norm(y_s - X_s B'alpha_s)^2, with ridges.

    Parameters
    ----------
    equations : NormalEquations
        Those of the k tasks.
    n_components : int, default=None
        The rank r. None is as many as the rows can tell from noise.
    eig_tol : float
        Least eigenvalue, relative to the largest, of a direction that counts.
    max_iter : int
        Limit of rounds of alternating least squares.
    tol : float
        They end once the sum falls by less, relatively.
    on_iteration : callable
        Called with the losses so far and a function that returns the subspace so far;
        stops if it returns True.

    Returns
    -------
    Solution
        A :class:`SharedSubspace`; ``history["loss"]`` is the mean squared residual with
        its ridge, before and after each round.
    """
    metric = _Metric.of(equations)
    spread = metric.eigenvalues
    n_most = min(len(spread), len(equations.cross))
    if n_components is not None:
        r = min(n_components, n_most)
    elif is_determined(equations):
        r = _visible_rank(equations, spread[:n_most], eig_tol)
    else:
        return _least_bic(equations, metric, n_most, max_iter, tol, on_iteration)
    return _alternate(equations, metric, r, max_iter, tol, on_iteration)


def is_determined(equations):
    """Tell whether the tasks have rows enough for coefficients of their own."""
    return bool((equations.n_free > equations.gram.shape[1]).all())


class _Metric:
    """Coordinates in which the mean design is round, and tasks' coefficients there."""

    def __init__(self, back, eigenvalues, vectors):
        self.back, self.eigenvalues, self.vectors = back, eigenvalues, vectors

    @classmethod
    def of(cls, equations):
        n = torch.clamp(equations.n_free, min=1)
        shared = _with_ridge(equations).sum(0) / n.sum()
        values, axes = torch.linalg.eigh(shared)
        values = values.clamp(min=0)
        is_there = values > SINGULAR * values[-1]
        root = torch.where(is_there, values, 0.0).sqrt()
        theta = equations.solve()
        z = n.sqrt()[:, None] * (theta @ axes) * root  # (k, d), noise is round
        spread, vectors = torch.linalg.eigh(z.T @ z)
        inverse = torch.where(is_there, 1 / torch.where(root > 0, root, 1.0), 0.0)
        back = axes * inverse  # theta = back @ z / sqrt(n)
        return cls(back, spread.flip(0).clamp(min=0), vectors.flip(1))

    def basis(self, r):
        """Return orthonormal rows that span the r leading directions."""
        return _orthonormal((self.back @ self.vectors[:, :r]).T)


def _visible_rank(equations, spread, eig_tol):
    """Count eigenvalues above the tolerance and above what noise alone would bring."""
    k, d = equations.cross.shape
    rest = equations.residuals(equations.solve()).sum()
    dof = (equations.n_free - d).sum()
    noise_var = float(rest / dof)
    # the largest eigenvalue of k rows of d standard normal numbers
    edge = noise_var * (math.sqrt(k) + math.sqrt(d)) ** 2
    least = max(edge, eig_tol * float(spread[0]))
    return max(1, int((spread > least).sum()))


def _least_bic(equations, metric, n_most, max_iter, tol, on_iteration):
    """Choose the rank whose Bayesian information criterion is least."""
    n = float(equations.n_free.sum())
    k, d = equations.cross.shape
    best, least = None, math.inf
    for r in range(1, n_most + 1):
        n_parameters = r * (d - r) + k * r
        if best is not None and n_parameters > n / 2:
            break
        solution = _alternate(equations, metric, r, max_iter, tol, on_iteration)
        rest = float(equations.residuals(solution.value.alpha @ solution.value.B).sum())
        total = max(float(equations.square.sum()), 1e-300)
        fit = n * math.log(max(rest / total, SINGULAR))
        criterion = fit + n_parameters * math.log(max(n, 2))
        if criterion < least:
            best, least = solution, criterion
        elif r - len(best.value.B) >= PATIENCE:
            break
    return best


def _alternate(equations, metric, r, max_iter, tol, on_iteration):
    B = metric.basis(r)
    gram = _with_ridge(equations)
    n = max(1.0, float(equations.n_free.sum()))

    def loss_of(B, alpha):
        theta = alpha @ B
        penalty = (equations.shift * (theta**2).sum(1)).sum()
        return float(equations.residuals(theta).sum() + penalty) / n

    alpha = equations.within(B).solve()
    losses = [loss_of(B, alpha)]
    floor = SINGULAR * float(equations.square.sum()) / n
    is_done = _designs_agree(gram, equations.n_free)
    n_iter = 0
    while not is_done and n_iter < max_iter:
        B = _orthonormal(_basis_given(alpha, gram, equations.cross, B))
        alpha = equations.within(B).solve()
        losses.append(loss_of(B, alpha))
        n_iter += 1
        is_done = losses[-2] - losses[-1] <= tol * losses[-2] + floor
        if on_iteration(losses, lambda B=B, a=alpha: _subspace(equations, B, a)):
            break
    value = _subspace(equations, B, alpha)
    return Solution(value, n_iter, is_done, {"loss": losses})


def _with_ridge(equations):
    eye = torch.eye(equations.gram.shape[1], dtype=equations.gram.dtype)
    eye = eye.to(equations.gram.device)
    return equations.gram + equations.shift[:, None, None] * eye


def _designs_agree(gram, n):
    per_row = gram / torch.clamp(n, min=1)[:, None, None]
    apart = (per_row - per_row[0]).abs().max()
    return bool(apart <= SAME_DESIGN * per_row.abs().max())


def _basis_given(alpha, gram, cross, B):
    """Return the best directions, given the coefficients of tasks along them."""
    r, d = B.shape
    system = torch.einsum("ka,kb,kij->aibj", alpha, alpha, gram).reshape(r * d, r * d)
    right = torch.einsum("ka,ki->ai", alpha, cross).reshape(r * d)
    # rows may leave a choice: stay where we are then
    jitter = SINGULAR * system.diagonal().max()
    system = system + jitter * torch.eye(r * d, dtype=B.dtype, device=B.device)
    right = right + jitter * B.reshape(r * d)
    solved, info = torch.linalg.solve_ex(system, right)
    return B if int(info) else solved.reshape(r, d)


def _orthonormal(rows):
    return torch.linalg.qr(rows.T).Q.T


def _subspace(equations, B, alpha):
    """Turn the basis so that tasks differ most in its first direction."""
    _, singular_values, turn = torch.linalg.svd(alpha, full_matrices=False)
    if len(turn) < len(B):  # fewer tasks than directions
        turn = torch.linalg.svd(alpha, full_matrices=True).Vh
        missing = singular_values.new_zeros(len(B) - len(singular_values))
        singular_values = torch.cat([singular_values, missing])
    B = turn @ B
    largest = B.gather(1, B.abs().argmax(1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)
    B = signs * B
    alpha = alpha @ turn.T * signs.T
    k, (r, d) = len(alpha), B.shape
    n = float(equations.n_free.sum())
    dof = n - k * r - r * (d - r)
    rest = float(equations.residuals(alpha @ B).sum())
    noise_var = rest / dof if dof > 0 else math.nan
    return SharedSubspace(B, singular_values, alpha, noise_var, max(0.0, dof), n)
