"""L_t(theta) = |y_t - X_t theta|^2 + a_t |theta|^2 = s - 2 c'theta + theta'G theta."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch

# Roundings of the trace by which a Gram matrix may fail to be positive.
# Where they are not enough, they grow by this factor, some times.
FLOOR, MORE, MOST_TRIALS = 100.0, 100.0, 5


@dataclass(frozen=True)
class TaskEquations:
    """Targets as least squares sees them: all that linear supernets need of rows.

    A task can have several targets, as many classes ask for; they share its path.

    Attributes
    ----------
    gram : torch.Tensor of shape (S, p, p)
        G = X'X + a I of each target.
    cross : torch.Tensor of shape (S, p)
        c = X'y.
    square : torch.Tensor of shape (S,)
        s = y'y.
    n : torch.Tensor of shape (S,)
        Rows.
    owner : torch.Tensor of int of shape (S,)
        The task, from 0 to T - 1, of each target.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    square: torch.Tensor
    n: torch.Tensor
    owner: torch.Tensor

    @classmethod
    def of_moments(cls, moments, alpha, *, fit_intercept, owner=None):
        """Return the equations with a ridge, relative to the mean variance and rows.

        They are in units in which features and targets have a mean square of 1; the
        second result is by what coefficients must be multiplied to undo this.
        """
        equations = moments.equations(alpha, fit_intercept=fit_intercept)
        gram, cross, square = equations.gram, equations.cross, equations.square
        p, n = gram.shape[1], moments.n.clamp(min=1)
        tiny = torch.finfo(gram.dtype).tiny
        per_row = gram.diagonal(dim1=1, dim2=2).sum() / n.sum() / p
        x_unit = per_row.clamp(min=tiny).sqrt()
        y_unit = (square.sum() / n.sum()).clamp(min=tiny).sqrt()
        gram = gram / x_unit**2
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal += (equations.shift / x_unit**2)[:, None]
        cross = cross / (x_unit * y_unit)
        if owner is None:
            owner = torch.arange(len(gram), device=gram.device)
        tasks = cls(gram, cross, square / y_unit**2, n, owner)
        return tasks, float(y_unit / x_unit)

    @cached_property
    def n_tasks(self):
        """Number of tasks."""
        return int(self.owner[-1]) + 1

    def __getitem__(self, tasks):
        """Return some of the tasks, in the order of their numbers."""
        place = torch.full_like(self.owner, -1)[: self.n_tasks]
        place[tasks] = torch.arange(len(tasks), device=place.device)
        owner = place[self.owner]
        mine = owner >= 0
        return TaskEquations(
            self.gram[mine],
            self.cross[mine],
            self.square[mine],
            self.n[mine],
            owner[mine],
        )

    def total(self, values):
        """Return the sums of each task over values of its targets, (S, ...)."""
        if len(self.owner) == self.n_tasks:
            return values
        sums = values.new_zeros(self.n_tasks, *values.shape[1:])
        return sums.index_add_(0, self.owner, values)

    def within(self, B):
        """Return the equations of targets that see ``B x`` only, B of shape (r, p)."""
        return replace(self, gram=B @ self.gram @ B.T, cross=self.cross @ B.T)

    def along(self, B):
        """Return those of targets that see ``B_t x``, for B of shape (T, r, p)."""
        W = B[self.owner]
        cross = (W @ self.cross[:, :, None])[:, :, 0]
        return replace(self, gram=W @ self.gram @ W.mT, cross=cross)

    def pooled(self):
        """Return tasks that all have the mean Gram matrix, for their number of rows.

        What minimises the loss then is what the moments X_t'y_t say of modules.
        """
        mean = self.gram.sum(0) / self.n.sum()
        return replace(self, gram=self.n[:, None, None] * mean)


def cholesky(gram, shift=0.0):
    """Return the factor of gram + shift I, with as much more as rounding asks for."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    added = safe_shift(gram, shift)
    for _ in range(MOST_TRIALS):
        shifted = gram + torch.diag_embed(added[..., None].expand_as(diagonal))
        root, info = torch.linalg.cholesky_ex(shifted)
        if not info.any():
            break
        added = shift + MORE * (added - shift)
    return root


def safe_shift(gram, shift):
    """Return the shift of each matrix with what makes it positive despite rounding."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    limits = torch.finfo(gram.dtype)
    return shift + FLOOR * limits.eps * trace + limits.tiny**0.5
