"""Coefficients theta_s = B'alpha_s of tasks that share few directions  (2205.05820).

The paper's B_hat are the leading eigenvectors of P = sum_s theta_s theta_s'. That is
the least-squares answer if all tasks have the same design; for others, it is where the
descent begins.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from .._lbfgs import lbfgs
from .._solution import Solution
from .._task_moments import SINGULAR, NormalEquations, solve

# Designs are alike if the variance of coefficients is nowhere this much larger, on
# average over directions, than under their mean.
ALIKE = 1.1
# Accuracy to compare ranks by: those up to the right one take fewer iterations, and
# those beyond it gain too little to matter.
ROUGH, MOST_ROUGH = 1e-4, 15
TINY = 1e-300
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
    spread : torch.Tensor of shape (r, r)
        Covariance of an error of B along alpha, in units of the noise: the inverse of
        sum_s g_s alpha_s alpha_s', for tasks whose rows have a mean square of g_s.
    """

    B: torch.Tensor
    singular_values: torch.Tensor
    alpha: torch.Tensor
    noise_var: float
    noise_dof: float
    n_rows: float
    spread: torch.Tensor

    def doubt(self, alpha=None):
        """Return what doubt about B adds to the variance outside of it.

        It is for rows of norm 1, relative to the noise; without `alpha`, for a task
        like those that it was learned from.
        """
        if alpha is None:
            return self._usual_doubt
        return float(alpha @ self.spread @ alpha)

    @cached_property
    def _usual_doubt(self):
        return float(((self.alpha @ self.spread) * self.alpha).sum() / len(self.alpha))


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

    The coefficients alpha_s are solved for, and B descends by L-BFGS (variable
    projection).

    Parameters
    ----------
    equations : NormalEquations
        Those of the k tasks.
    n_components : int, default=None
        The rank r. None is as many as the rows can tell from noise.
    eig_tol : float
        Least eigenvalue, relative to the largest, of a direction that counts.
    max_iter : int
        Limit of iterations.
    tol : float
        Largest entry of the gradient of the unexplained share that is left.
    on_iteration : callable
        Called with the losses so far and a function that returns the subspace so far;
        stops if it returns True.

    Returns
    -------
    Solution
        A :class:`SharedSubspace`; ``history["loss"]`` is the mean squared residual with
        its ridge, before and after each iteration.
    """
    problem = _Problem(equations)
    spread = problem.eigenvalues
    r = int((spread > max(0.0, eig_tol * float(spread[0]))).sum())
    r = max(1, min(r, len(equations.cross)))
    if n_components is not None:
        r = min(n_components, len(equations.cross), len(spread))
    elif problem.are_designs_alike:
        r = max(1, min(r, problem.n_above_noise))
    else:
        r = problem.least_bic(r, max_iter)
    return problem.descend(r, max_iter, tol, on_iteration)


class _Problem:
    """The sum of squares as a function of B, where the mean design is round."""

    def __init__(self, equations):
        self.equations = equations
        self.d = equations.cross.shape[1]
        self.n = max(1.0, float(equations.n_free.sum()))
        eye = torch.eye(self.d).to(equations.gram)
        self.gram = equations.gram + equations.shift[:, None, None] * eye
        self.total = float(equations.square.sum())
        rows = torch.clamp(equations.n_free, min=1)
        values, axes = torch.linalg.eigh(self.gram.sum(0) / rows.sum())
        values = values.clamp(min=0)
        is_there = values > SINGULAR * values[-1]
        root = torch.where(is_there, values, 0.0).sqrt()
        self.theta = equations.solve()
        # in these coordinates, noise in the coefficients of a task is round
        z = rows.sqrt()[:, None] * (self.theta @ axes) * root
        spread, vectors = torch.linalg.eigh(z.T @ z)
        self.eigenvalues = spread.flip(0).clamp(min=0)
        self.vectors = vectors.flip(1)
        self.back = axes * torch.where(
            is_there, 1 / torch.where(is_there, root, 1.0), 0.0
        )
        self._rows, self._shared = rows, (axes * values) @ axes.T

    @property
    def are_designs_alike(self):
        """Whether the eigenvalues are those of equal designs, but for noise."""
        n_free, d = self.equations.n_free, self.d
        if len(n_free) == 1:
            return True
        if not bool((n_free > d).all()):
            return False
        inverse = torch.linalg.pinv(self.gram, hermitian=True)
        excess = (inverse * self._shared).sum((1, 2)) * self._rows / d
        return bool(excess.max() < ALIKE)

    @property
    def n_above_noise(self):
        """How many eigenvalues are larger than noise alone would have them."""
        k = len(self.equations.n_free)
        rest = self.equations.residuals(self.theta).sum()
        dof = (self.equations.n_free - self.d).sum()
        if dof <= 0:
            return len(self.eigenvalues)
        # the largest eigenvalue of k rows of d standard normal numbers
        edge = float(rest / dof) * (math.sqrt(k) + math.sqrt(self.d)) ** 2
        return int((self.eigenvalues > edge).sum())

    def least_bic(self, n_most, max_iter):
        """Return the rank whose Bayesian information criterion is least."""
        k, d, n = len(self.theta), self.d, self.n
        best, least = 1, math.inf
        for r in range(1, n_most + 1):
            n_parameters = r * (d - r) + k * r
            if r > 1 and n_parameters > n / 2:
                break
            found = self.descend(r, min(max_iter, MOST_ROUGH), ROUGH).value
            rest = self.equations.residuals(found.alpha @ found.B).sum()
            share = max(float(rest) / max(self.total, TINY), SINGULAR)
            criterion = n * math.log(share) + n_parameters * math.log(max(n, 2))
            if criterion < least:
                best, least = r, criterion
            elif r - best >= PATIENCE:
                break
        return best

    def descend(self, r, max_iter, tol, on_iteration=lambda *_: False):
        equations, gram, d = self.equations, self.gram, self.d
        total = max(self.total, TINY)

        def at(v):
            B = (self.back @ torch.from_numpy(v.reshape(d, r))).T
            alpha = solve(B @ gram @ B.T, equations.cross @ B.T)
            return B, alpha

        def value_and_gradient(v):
            B, alpha = at(v)
            theta = alpha @ B
            pull = (gram @ theta[:, :, None])[:, :, 0] - equations.cross
            value = self.total + float((theta * (pull - equations.cross)).sum())
            # of alpha, the sum of squares does not depend here
            gradient = 2 * (self.back.T @ pull.T @ alpha)
            return value / total, gradient.numpy().ravel() / total

        losses = []

        def after(v, values):
            losses.append(values[-1] * total / self.n)
            return on_iteration([first, *losses], lambda: self.subspace(*at(v)))

        start = self.vectors[:, :r].numpy().ravel()
        first = value_and_gradient(start)[0] * total / self.n
        found = lbfgs(
            value_and_gradient, start, tol=tol, max_iter=max_iter, on_iteration=after
        )
        value = self.subspace(*at(found.value))
        return Solution(
            value, found.n_iter, found.converged, {"loss": [first, *losses]}
        )

    def subspace(self, B, alpha):
        """Return an orthonormal basis, tasks differing most in its first direction."""
        theta = alpha @ B
        k, (r, d) = len(alpha), B.shape
        B = torch.linalg.qr(B.T).Q.T
        alpha = theta @ B.T
        _, singular_values, turn = torch.linalg.svd(alpha)
        missing = singular_values.new_zeros(r - len(singular_values))
        singular_values = torch.cat([singular_values, missing])
        B = turn @ B
        largest = B.gather(1, B.abs().argmax(1, keepdim=True))
        signs = torch.where(largest < 0, -1.0, 1.0)
        B, alpha = signs * B, alpha @ turn.T * signs.T
        dof = self.n - k * r - r * (d - r)
        # a ridge leaves residuals that are no noise
        free = self.equations.within(B)
        rest = float(free.residuals(solve(free.gram, free.cross)).sum())
        noise_var = rest / dof if dof > 0 else math.nan
        strength = self.gram.diagonal(dim1=1, dim2=2).mean(1)
        spread = torch.linalg.pinv(alpha.T * strength @ alpha, hermitian=True)
        return SharedSubspace(
            B, singular_values, alpha, noise_var, max(0.0, dof), self.n, spread
        )
