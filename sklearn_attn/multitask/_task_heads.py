"""min over h, b  sum_i loss(h'z_i + b, y_i) + penalty, for each task  (2303.04338).

Heads of all tasks at once. The penalty is relative to the mean square of the features,
so it stays the same problem when what the modules return is rescaled.
"""

from dataclasses import dataclass

import torch

from .._solution import Solution

# Rows are laid out in blocks of a task each, and at most so many of them wait in vain:
# sums of products are then products of matrices.
_BLOCK = 32
# Numbers that the products of blocks hold at a time, 32 MB of float64.
_CHUNK = 2**22
# Least penalty, and damping of Newton's matrix, in rounding errors of the features: a
# Cholesky factor of some hundred rows needs the one, minima at infinity the other.
_FLOOR, _DAMPING = 10.0, 1e2
# Newton's step is halved so often before the task is taken as solved up to rounding.
_MOST_HALVINGS = 30
# Newton adds 1 to the margins of separable data in each iteration.
_MAX_ITER, _TOL = 100, 1e-10


@dataclass(frozen=True)
class _Blocks:
    """Rows sorted by task into blocks of one task, filled up with zeros."""

    slot: torch.Tensor  # (n,), the place of each row among those of all blocks
    owner: torch.Tensor  # (n_blocks,), the task of each
    size: int
    count: torch.Tensor  # (T,), rows of each task

    @classmethod
    def of(cls, task, n_tasks):
        count = torch.bincount(task, minlength=n_tasks)
        size = min(_BLOCK, int(count.max()))
        needed = (count + size - 1) // size
        first = needed.cumsum(0) - needed
        order = task.argsort(stable=True)
        rank = torch.empty_like(task)
        rank[order] = torch.arange(len(task), device=task.device)
        rank -= (count.cumsum(0) - count)[task]  # among the rows of the task
        owner = torch.arange(n_tasks, device=task.device).repeat_interleave(needed)
        return cls(first[task] * size + rank, owner, size, count)

    def lay_out(self, rows):
        """Return rows (n, q) as (n_blocks, size, q)."""
        padded = rows.new_zeros(len(self.owner) * self.size, rows.shape[1])
        return padded.index_copy_(0, self.slot, rows).unflatten(0, (-1, self.size))

    def products(self, a, b):
        """Return sum_i a_i b_i' of each task, for a and b that are laid out."""
        q, r = a.shape[-1], b.shape[-1]
        sums = a.new_zeros(len(self.count), q, r)
        chunk = max(1, _CHUNK // (q * r))
        for a_, b_, owner in zip(
            a.split(chunk), b.split(chunk), self.owner.split(chunk)
        ):
            sums.index_add_(0, owner, a_.mT @ b_)
        return sums

    def mean(self, rows):
        """Return the mean of rows (n, q) of each task."""
        return self.sum(self.lay_out(rows)) / self.count[:, None].clamp_min(1)

    def sum(self, a):
        """Return sum_i a_i of each task, for a that is laid out."""
        sums = a.new_zeros(len(self.count), a.shape[-1])
        return sums.index_add_(0, self.owner, a.sum(1))


def ridge_heads(z, y, task, n_tasks, alpha, *, fit_intercept):
    """Minimise sum (y - h'z - b)^2 + alpha s |h|^2 of each task; s: see below.

    Parameters
    ----------
    z : torch.Tensor of shape (n, r)
        Features.
    y : torch.Tensor of shape (n,)
        Targets.
    task : torch.Tensor of int of shape (n,)
        The task of each row, in any order.
    n_tasks : int
        Number of tasks.
    alpha : float
        The penalty, relative to s: the mean of the diagonal of the task's Gram matrix,
        which is centred if there is an intercept.
    fit_intercept : bool
        Whether there is b.

    Returns
    -------
    coef : torch.Tensor of shape (n_tasks, r)
        Heads; of several that do as well, the shortest.
    intercept : torch.Tensor of shape (n_tasks,)
        Intercepts, 0 without.
    """
    blocks = _Blocks.of(task, n_tasks)
    z_mean, y_mean = z.new_zeros(n_tasks, z.shape[1]), y.new_zeros(n_tasks)
    if fit_intercept:
        z_mean, y_mean = blocks.mean(z), blocks.mean(y[:, None])[:, 0]
    Z = blocks.lay_out(z - z_mean[task])
    side = blocks.products(Z, blocks.lay_out((y - y_mean[task])[:, None]))
    values, vectors = torch.linalg.eigh(blocks.products(Z, Z))
    values = values.clamp_min(0)
    curvature = values + alpha * values.mean(1, keepdim=True)
    # rounding leaves as much of a direction that features never take
    noise = z.shape[1] * torch.finfo(z.dtype).eps * curvature[:, -1:]
    inverse = torch.where(curvature > noise, 1 / curvature, 0.0)
    coef = (vectors @ (inverse[:, :, None] * (vectors.mT @ side)))[:, :, 0]
    return coef, y_mean - (coef * z_mean).sum(1)


def logistic_heads(
    z,
    codes,
    task,
    labels,
    alpha,
    *,
    fit_intercept,
    scale=None,
    max_iter=_MAX_ITER,
    tol=_TOL,
):
    """Minimise sum -log softmax(H z + b)[code] + alpha s |H|^2 / 2 of each task.

    By Newton's method for all tasks at once, among the classes of each task only.

    Parameters
    ----------
    z : torch.Tensor of shape (n, r)
        Features.
    codes : torch.Tensor of int of shape (n,)
        Classes, counted from 0 over all tasks.
    task : torch.Tensor of int of shape (n,)
        The task of each row, in any order.
    labels : torch.Tensor of bool of shape (T, C)
        The classes that each task has.
    alpha : float
        The penalty, relative to s as in :func:`ridge_heads`. Separable classes get a
        tiny one in any case.
    fit_intercept : bool
        Whether there is b, which is not penalised.
    scale : torch.Tensor of shape (T,), default=None
        Another s.
    max_iter : int, default=100
        Limit of iterations.
    tol : float, default=1e-10
        A task is solved once a step promises to lower its mean loss by less.

    Returns
    -------
    Solution
        `value` has the coefficients (T, C, r) and intercepts (T, C), 0 for classes that
        the task does not have; `history` has the "objective", summed over tasks.
    """
    n_tasks, r = len(labels), z.shape[1]
    blocks = _Blocks.of(task, n_tasks)
    z_mean = blocks.mean(z) if fit_intercept else z.new_zeros(n_tasks, r)
    Z = blocks.lay_out(z - z_mean[task])
    if scale is None:
        scale = blocks.sum(Z.square()).sum(1) / r
    if fit_intercept:
        Z = torch.cat([Z, blocks.lay_out(z.new_ones(len(z), 1))], 2)
    local = labels.cumsum(1) - 1  # codes among the classes of the task
    n_local = int(local.max()) + 1
    absent = torch.arange(n_local, device=z.device) >= labels.sum(1, keepdim=True)
    target = torch.nn.functional.one_hot(local[task, codes], n_local).to(z.dtype)
    newton = _Newton(
        blocks, Z, blocks.lay_out(target), absent, alpha, scale, fit_intercept
    )
    H, n_iter, converged, curve = newton.solve(max_iter, tol)
    where = local.clamp_min(0)[:, :, None]
    H = H.gather(1, where.expand(-1, -1, H.shape[2])) * labels[:, :, None]
    coef = H[:, :, :r]
    intercept = z.new_zeros(labels.shape)
    if fit_intercept:
        intercept = H[:, :, r] - (coef * z_mean[:, None, :]).sum(2)
    return Solution((coef, intercept), n_iter, converged, {"objective": curve})


class _Newton:
    """Multinomial logistic regressions, side by side."""

    def __init__(self, blocks, Z, target, absent, alpha, scale, fit_intercept):
        self.blocks, self.Z, self.target, self.absent = blocks, Z, target, absent
        self.present = target.sum(2, keepdim=True)  # 0 in what fills up a block
        eps = torch.finfo(Z.dtype).eps
        scale = torch.where(scale > 0, scale, 1.0)  # constant features
        self.ridge = (max(alpha, _FLOOR * eps) * scale)[:, None].expand(-1, Z.shape[2])
        # the softmax does not see what all intercepts share
        self.damping = (_DAMPING * eps * (scale + blocks.count))[:, None]
        if fit_intercept:
            last = torch.arange(Z.shape[2], device=Z.device) == Z.shape[2] - 1
            self.ridge = self.ridge.masked_fill(last, 0.0)

    def log_softmax(self, H):
        owner = self.blocks.owner
        logits = self.Z @ H[owner].mT  # (n_blocks, size, n_local)
        return logits.masked_fill(self.absent[owner, None], -torch.inf).log_softmax(2)

    def value(self, H, logs):
        """The objective of each task."""
        losses = -(self.target * logs.masked_fill(self.target == 0, 0.0)).sum(2)
        penalty = (self.ridge[:, None] * H.square()).sum((1, 2)) / 2
        return self.blocks.sum(losses[:, :, None])[:, 0] + penalty

    def step(self, H, logs):
        """Return Newton's step, and by how much it should lower the objective twice."""
        n_tasks, n_local, q = H.shape
        P = logs.exp() * self.present
        slope = self.blocks.products(P - self.target, self.Z)
        slope = slope + self.ridge[:, None] * H
        PZ = (P[:, :, :, None] * self.Z[:, :, None]).flatten(2)
        curvature = -self.blocks.products(PZ, PZ)
        own = self.blocks.products(PZ, self.Z).unflatten(1, (n_local, q))
        # (T, q, q, n_local), a view of the blocks of the diagonal
        diagonal = curvature.view(n_tasks, n_local, q, n_local, q).diagonal(0, 1, 3)
        diagonal += own.permute(0, 2, 3, 1)
        shift = (self.ridge + self.damping)[:, None] + self.absent[:, :, None]
        curvature.diagonal(0, 1, 2).add_(shift.flatten(1))
        root = torch.linalg.cholesky_ex(curvature)[0]
        step = torch.cholesky_solve(-slope.flatten(1)[:, :, None], root)
        step = step.view_as(H)
        return step, -(step * slope).sum((1, 2))

    def solve(self, max_iter, tol):
        """Return coefficients, iterations, whether they ended, and the objective."""
        n_tasks, n_local = self.absent.shape
        H = self.Z.new_zeros(n_tasks, n_local, self.Z.shape[2])
        logs = self.log_softmax(H)
        value = self.value(H, logs)
        curve = [float(value.sum())]
        for n_iter in range(1, max_iter + 1):
            step, decrement = self.step(H, logs)
            length = (decrement > tol * self.blocks.count).to(H.dtype)
            if not length.any():
                return H, n_iter, True, curve
            for _ in range(_MOST_HALVINGS):
                moved = H + torch.nan_to_num(length[:, None, None] * step)
                logs = self.log_softmax(moved)
                after = self.value(moved, logs)
                worse = ~(after <= value)
                if not worse.any():
                    break
                length = torch.where(worse, length / 2, length)
            else:
                moved = torch.where(worse[:, None, None], H, moved)
                logs = self.log_softmax(moved)
                after = torch.where(worse, value, after)
            is_stuck = bool((after == value).all())
            H, value = moved, after
            curve.append(float(value.sum()))
            if is_stuck:  # no step leads down, up to rounding
                return H, n_iter, True, curve
        return H, max_iter, False, curve


def class_logits(z, task, coef, intercept, labels):
    """Return the logits of all classes, -inf for those that the task does not have.

    Parameters
    ----------
    z : torch.Tensor of shape (n, r)
        Features.
    task : torch.Tensor of int of shape (n,)
        The task of each row.
    coef : torch.Tensor of shape (T, C, r)
        Heads.
    intercept : torch.Tensor of shape (T, C)
        Intercepts.
    labels : torch.Tensor of bool of shape (T, C)
        The classes that each task has.

    Returns
    -------
    torch.Tensor of shape (n, C)
        Logits.
    """
    logits = (coef[task] @ z[:, :, None])[:, :, 0] + intercept[task]
    return logits.masked_fill(~labels[task], -torch.inf)
