"""min sum_t |y_t - X_t theta_t|^2 + a |theta_t|^2 + mu |h_t|^2 + mu sum |B|^2.

theta_t = (B_L ... B_1)'h_t, with the modules of the path of task t (2303.04338). Only
the sums of squares and products of each task are needed. Heads are solved for; modules
follow by Gauss-Newton steps of what is left (variable projection). mu is what a penalty
of the trace norm of coefficients amounts to; without it, there are local minima
wherever samples are hardly as many as parameters, so it starts large.
"""

import torch

from .._solution import Solution
from ._supernet import compose
from ._task_equations import cholesky

# mu, relative to the samples of a task, with which fits begin, by which it falls, and
# below which it takes the last step.
FIRST_PENALTY, FALL, LEAST_PENALTY = 0.1, 0.1, 1e-6
# Iterations for each mu but the last: the next one goes on from there.
ITERATIONS_OF_STAGE, TOL_OF_STAGE = 8, 1e-2
# Damping of Gauss-Newton, relative to the curvature: at first, at least, its factor.
FIRST_DAMPING, LEAST_DAMPING, DAMPING_FACTOR, MOST_TRIALS = 1e-3, 1e-10, 6.0, 10
# Conjugate gradients end at this residual far from a solution, and after so many steps.
FORCING, MOST_CG = 0.1, 100


class Point:
    """The objective at some modules, and what its derivatives need."""

    def __init__(self, tasks, modules, paths, mu):
        self.tasks, self.modules, self.mu = tasks, modules, mu
        self.paths = paths = paths[tasks.owner]
        self.products = compose(modules, paths)
        phi = self.products[-1]  # (T, r, p)
        phi_gram = phi @ tasks.gram
        self.root = cholesky(phi_gram @ phi.mT, mu)
        side = phi @ tasks.cross[:, :, None]
        self.heads = torch.cholesky_solve(side, self.root)[:, :, 0]
        self.theta = (phi.mT @ self.heads[:, :, None])[:, :, 0]
        self._phi_gram = phi_gram
        explained = (tasks.cross * self.theta).sum()
        size = sum((B * B).sum() for B in modules)
        self.value = float(tasks.square.sum() - explained + mu * size)

    def linearize(self):
        """Prepare the steps from here."""
        tasks = self.tasks
        # what heads cannot make up for: the curvature of a task, less that of its head
        solved = torch.linalg.solve_triangular(self.root, self._phi_gram, upper=False)
        self._curvature = tasks.gram - solved.mT @ solved  # (T, p, p)
        self._upstream = _upstream(self.modules, self.paths, self.heads)
        rest = tasks.cross - (tasks.gram @ self.theta[:, :, None])[:, :, 0]
        downhill = self._pull_back(rest)
        self.descent = [step - self.mu * B for step, B in zip(downhill, self.modules)]
        self._factors = self._kronecker_factors()
        self.curvature_scale = sum(
            float(values.mean() * others.mean())
            for (values, _), (others, _) in self._factors
        ) / len(self._factors)

    def curve(self, steps):
        """Return the Gauss-Newton matrix times steps of the modules."""
        change = 0.0
        for layer, step in enumerate(steps):
            moved = step[self.paths[:, layer]].mT @ self._upstream[layer][:, :, None]
            if layer:
                moved = self.products[layer - 1].mT @ moved
            change = change + moved  # of theta, (T, p, 1)
        curved = self._pull_back((self._curvature @ change)[:, :, 0])
        return [c + self.mu * step for c, step in zip(curved, steps)]

    def precondition(self, steps, damping):
        """Divide by a matrix like that of Gauss-Newton, in Kronecker products."""
        result = []
        for step, ((a, U), (s, V)) in zip(steps, self._factors):
            shares = a[:, :, None] * s[:, None, :] + (self.mu + damping)
            result.append(U @ ((U.mT @ step @ V) / shares) @ V.mT)
        return result

    def _pull_back(self, q):
        """Return the sums over tasks of u q'P', by which theta moves with modules."""
        result = []
        for layer, B in enumerate(self.modules):
            seen = (
                q if layer == 0 else (self.products[layer - 1] @ q[:, :, None])[:, :, 0]
            )
            outer = self._upstream[layer][:, :, None] * seen[:, None, :]
            sums = torch.zeros_like(B)
            result.append(sums.index_add_(0, self.paths[:, layer], outer))
        return result

    def _kronecker_factors(self):
        """Return eigenvalues and vectors of sum uu' and of the mean of P M P'."""
        factors = []
        for layer, B in enumerate(self.modules):
            u, path = self._upstream[layer], self.paths[:, layer]
            A = B.new_zeros(len(B), B.shape[1], B.shape[1])
            A.index_add_(0, path, u[:, :, None] * u[:, None, :])
            M = self._curvature
            if layer:
                P = self.products[layer - 1]
                M = P @ M @ P.mT
            weight = (u * u).sum(1)
            S = B.new_zeros(len(B), B.shape[2], B.shape[2])
            S.index_add_(0, path, weight[:, None, None] * M)
            total = B.new_zeros(len(B)).index_add_(0, path, weight)
            S = S / torch.clamp(total, min=torch.finfo(B.dtype).tiny)[:, None, None]
            factors.append(tuple(_spectrum(each) for each in (A, S)))
        return factors


def fit_modules(
    tasks, modules, paths, mu, *, max_iter=100, tol=1e-6, first_penalty=None
):
    """Minimise over modules and heads, the paths being given.

    Parameters
    ----------
    tasks : TaskEquations
        The tasks.
    modules : list of torch.Tensor of shape (K_l, r_l, r_{l-1})
        Where to start.
    paths : torch.Tensor of int of shape (T, L)
        The module of each layer for each task.
    mu : float
        The penalty, relative to the mean number of rows.
    max_iter : int, default=100
        Limit of iterations with this penalty.
    tol : float, default=1e-6
        Iterations end once one lowers the objective by less than this share.
    first_penalty : float, default=None
        Penalty to begin with; None begins with `mu`.

    Returns
    -------
    Solution
        `value` is the :class:`Point`; `history` has the "objective".
    """
    n, begin = float(tasks.n.mean()), modules
    penalty = max(mu, first_penalty or 0.0)
    n_iter = 0
    while penalty > max(mu, LEAST_PENALTY):
        point, used, _, _ = _gauss_newton(
            Point(tasks, modules, paths, n * penalty),
            paths,
            ITERATIONS_OF_STAGE,
            TOL_OF_STAGE,
        )
        modules, n_iter = point.modules, n_iter + used
        penalty *= FALL
    ends = [Point(tasks, each, paths, n * mu) for each in (modules, begin)]
    start = min(ends, key=lambda point: point.value)
    point, used, converged, curve = _gauss_newton(start, paths, max_iter, tol)
    return Solution(point, n_iter + used, converged, {"objective": curve})


def _gauss_newton(point, paths, max_iter, tol):
    """Return the last point, the iterations, whether they ended, and the objective."""
    damping, curve = FIRST_DAMPING, [point.value]
    least = torch.finfo(point.theta.dtype).eps * float(point.tasks.square.sum())
    for n_iter in range(1, max_iter + 1):
        point.linearize()
        for _ in range(MOST_TRIALS):
            step = _conjugate_gradients(point, damping * point.curvature_scale)
            moved = [B + d for B, d in zip(point.modules, step)]
            after = Point(point.tasks, moved, paths, point.mu)
            if after.value < point.value:
                break
            damping *= DAMPING_FACTOR
        else:  # no step leads down, up to rounding
            return point, n_iter, True, curve
        damping = max(damping / DAMPING_FACTOR, LEAST_DAMPING)
        gain, point = point.value - after.value, after
        curve.append(point.value)
        if gain <= max(tol * abs(point.value), least):
            return point, n_iter, True, curve
    return point, max_iter, False, curve


def _conjugate_gradients(point, damping):
    """Solve the damped Gauss-Newton equations, roughly where the descent is long."""
    rest = point.descent
    x = [torch.zeros_like(each) for each in rest]
    z = point.precondition(rest, damping)
    d, rz = z, _dot(rest, z)
    first, size = rz, abs(point.value) + torch.finfo(point.theta.dtype).tiny
    if first <= 0:
        return x
    for _ in range(MOST_CG):
        curved = point.curve(d)
        curved = [c + damping * each for c, each in zip(curved, d)]
        bend = _dot(d, curved)
        if bend <= 0:  # rounding
            break
        length = rz / bend
        x = [a + length * b for a, b in zip(x, d)]
        rest = [a - length * b for a, b in zip(rest, curved)]
        z = point.precondition(rest, damping)
        rz, before = _dot(rest, z), rz
        if rz <= FORCING**2 * min(1.0, first / size) * first:
            break
        d = [a + rz / before * b for a, b in zip(z, d)]
    return x


def _upstream(modules, paths, heads):
    """Return u_t of each layer: the head, taken back to what the layer returns."""
    result = [heads]
    for layer in range(len(modules) - 1, 0, -1):
        back = modules[layer][paths[:, layer]].mT @ result[0][:, :, None]
        result.insert(0, back[:, :, 0])
    return result


def _spectrum(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp(min=0), vectors


def _dot(a, b):
    return float(sum((x * y).sum() for x, y in zip(a, b)))
