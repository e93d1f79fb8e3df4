"""What least squares needs of the rows of a task: G = X'X, c = X'y, y'y.

A task has targets y = X theta + noise, and perhaps a constant besides. Its rows enter
through their number, their mean and their scatter alone, and these can be added.
"""

from dataclasses import dataclass

import torch

# An eigenvalue below this, relative to the largest, is zero up to rounding.
SINGULAR = 1e-12
# Pivots that differ by less than this do not ask for eigenvalues.
SAFE = 1e-4


@dataclass(frozen=True)
class TaskMoments:
    """Rows [x | y] of k tasks, summed up.

    Attributes
    ----------
    n : torch.Tensor of shape (k,)
        Number of rows.
    mean : torch.Tensor of shape (k, d + 1)
        Their mean.
    scatter : torch.Tensor of shape (k, d + 1, d + 1)
        Sum of products of what deviates from it.
    """

    n: torch.Tensor
    mean: torch.Tensor
    scatter: torch.Tensor

    @classmethod
    def of_rows(cls, rows):
        """Return the moments of the rows [x | y], of shape (n, d + 1), of one task."""
        mean = rows.mean(0)
        off = rows - mean
        n = rows.new_full((1,), len(rows))
        return cls(n, mean[None], (off.T @ off)[None])

    @classmethod
    def join(cls, parts):
        """Return the tasks of several, one after the other."""
        return cls(*(torch.cat(each) for each in zip(*map(_fields, parts))))

    def to_cpu(self):
        """Return the same in double precision, in main memory."""
        return TaskMoments(*(part.cpu().double() for part in _fields(self)))

    def placed(self, places, n_tasks):
        """Return so many tasks: these at places, the others without rows."""
        grown = [part.new_zeros(n_tasks, *part.shape[1:]) for part in _fields(self)]
        for all_, mine in zip(grown, _fields(self)):
            all_[places] = mine
        return TaskMoments(*grown)

    def __len__(self):
        return len(self.n)

    def __getitem__(self, tasks):
        """Return some of the tasks, given by a slice or by a list."""
        return TaskMoments(*(part[tasks] for part in _fields(self)))

    def __add__(self, other):
        """Return the moments of the rows of both, task by task."""
        n = self.n + other.n
        share = other.n / torch.clamp(n, min=1)
        shift = other.mean - self.mean
        apart = (self.n * share)[:, None, None] * _outer(shift, shift)
        mean = self.mean + share[:, None] * shift
        return TaskMoments(n, mean, self.scatter + other.scatter + apart)

    def equations(self, ridge, *, fit_intercept):
        """Return the normal equations, of deviations if there is a constant."""
        scatter, n_free = self.scatter, self.n
        if fit_intercept:
            n_free = torch.clamp(n_free - 1, min=0)
        else:
            scatter = scatter + self.n[:, None, None] * _outer(self.mean, self.mean)
        gram, cross = scatter[:, :-1, :-1], scatter[:, :-1, -1]
        shift = ridge * gram.diagonal(dim1=1, dim2=2).mean(1)
        return NormalEquations(gram, cross, scatter[:, -1, -1], n_free, shift)

    def errors(self, theta, intercept):
        """Return the sum of squared errors of each task."""
        both = torch.cat([-theta, torch.ones_like(theta[:, :1])], dim=1)  # on [x | y]
        off = (self.mean * both).sum(1) - intercept
        return (both * (self.scatter @ both[:, :, None])[:, :, 0]).sum(
            1
        ) + self.n * off**2

    def intercepts(self, theta):
        """Return the constant of each task, given its coefficients of shape (k, d)."""
        return self.mean[:, -1] - (self.mean[:, :-1] * theta).sum(1)


@dataclass(frozen=True)
class NormalEquations:
    """(G + shift I) theta = c, for each of k tasks.

    Attributes
    ----------
    gram : torch.Tensor of shape (k, d, d)
        G.
    cross : torch.Tensor of shape (k, d)
        The right sides c.
    square : torch.Tensor of shape (k,)
        y'y.
    n_free : torch.Tensor of shape (k,)
        Rows, less one for a constant.
    shift : torch.Tensor of shape (k,)
        The ridge.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    square: torch.Tensor
    n_free: torch.Tensor
    shift: torch.Tensor

    def within(self, B):
        """Return the equations for alpha in theta = B'alpha; rows of B are a basis."""
        return NormalEquations(
            B @ self.gram @ B.T,
            self.cross @ B.T,
            self.square,
            self.n_free,
            self.shift,
        )

    def solve(self):
        """Return the coefficients, the smallest where the rows leave a choice."""
        return solve(self.gram, self.cross, self.shift)

    def residuals(self, theta):
        """Return the sum of squared residuals of each task."""
        fitted = (self.gram @ theta[:, :, None])[:, :, 0]
        rest = self.square + (theta * (fitted - 2 * self.cross)).sum(1)
        return rest.clamp(min=0)

    def unexplained(self, B):
        """Return what a subspace leaves unexplained of one task, without a ridge.

        Where there are more rows than features, what no coefficients explain is not
        counted: the rest is about directions outside of the subspace alone.

        Returns
        -------
        rest : float
            Sum of squares.
        n : float
            Its degrees of freedom, if there is nothing but noise.
        alpha : torch.Tensor of shape (r,) or None
            Coefficients within the subspace; None if the rows do not tell of it.
        strength : float
            Sum of squares of the rows outside, for each degree of freedom.
        """
        gram, cross = self.gram[0], self.cross[0]
        scale = SINGULAR * gram.diagonal().max()
        inside, n_inside, alpha = _explained(B @ gram @ B.T, B @ cross, scale)
        square, n = float(self.square[0]), float(self.n_free[0])
        if n > len(gram):
            square, n, _ = _explained(gram, cross, scale)
        n -= n_inside
        outside = gram.trace() - (B @ gram * B).sum()
        strength = float(outside) / n if n > 0 else 0.0
        return max(0.0, square - inside), n, alpha if n_inside else None, strength


def _explained(gram, cross, scale):
    """Return the sum of squares that least squares explains, its rank, coefficients."""
    values, vectors = torch.linalg.eigh(gram)
    is_seen = values > scale
    along = (cross @ vectors)[is_seen]
    shares = along / values[is_seen]
    return float(along @ shares), len(along), vectors[:, is_seen] @ shares


def solve(gram, cross, shift=None):
    """Return (G + shift I)^-1 c for each task; directions that G lacks get nothing."""
    if shift is None:
        shift = gram.new_zeros(len(gram))
    d = gram.shape[1]
    shifted = gram + shift[:, None, None] * torch.eye(d).to(gram)
    root, info = torch.linalg.cholesky_ex(shifted)
    pivots = root.diagonal(dim1=1, dim2=2)
    if not info.any() and bool((pivots.amin(1) > SAFE * pivots.amax(1)).all()):
        return torch.cholesky_solve(cross[:, :, None], root)[:, :, 0]
    values, vectors = torch.linalg.eigh(gram)
    is_there = (values > SINGULAR * values[:, -1:]) & (values > 0)
    values = values.clamp(min=0) + shift[:, None]
    is_there = is_there | (shift[:, None] > 0)
    inverse = torch.where(is_there, 1 / torch.where(is_there, values, 1.0), 0.0)
    rotated = torch.einsum("kij,ki->kj", vectors, cross)
    return torch.einsum("kij,kj->ki", vectors, inverse * rotated)


def _outer(a, b):
    return a[:, :, None] * b[:, None, :]


def _fields(moments):
    return moments.n, moments.mean, moments.scatter


def table_moments(rows, codes):
    """Return the moments of the tasks of a table; each of them has a row at least.

    rows has shape (n, d + 1); codes, of shape (n,), is the number of the task of each.
    """
    order = torch.argsort(codes, stable=True)
    counts = torch.bincount(codes).tolist()
    return TaskMoments.join(list(map(TaskMoments.of_rows, rows[order].split(counts))))


def shared_moments(x, Y):
    """Return the moments of tasks that see the same rows x; Y has shape (n, k)."""
    n, k = Y.shape
    d = x.shape[1]
    rows = torch.cat([x, Y], dim=1)
    mean = rows.sum(0) / max(n, 1)
    off = rows - mean
    cross = off.T @ off[:, :d]  # (d + k, d)
    scatter = x.new_empty(k, d + 1, d + 1)
    scatter[:, :d, :d] = cross[:d]
    scatter[:, d, :d] = scatter[:, :d, d] = cross[d:]
    scatter[:, d, d] = (off[:, d:] ** 2).sum(0)
    means = torch.cat([mean[:d].expand(k, d), mean[d:, None]], dim=1)
    return TaskMoments(x.new_full((k,), n), means, scatter)
