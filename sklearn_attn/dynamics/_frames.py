"""X'X = 1: formulas for rotation matrices, and for orthonormal columns of any number.

Angles come from sines and cosines together, never from an inverse cosine alone.
"""

import numpy as np
import torch

# Beyond this angle (rad), the axis of a rotation is read from its symmetric part.
_NEARLY_HALF_TURN = 3.0
# d^2 is half of the squared Frobenius norm of a logarithm: the angle of a rotation.
OF_MATRICES = 0.5


def dot(x, y):
    return (x * y).sum(-1)


def length(x):
    return torch.sqrt(dot(x, x))


def planes(group, n, kind):
    """Coordinates of the rotations of planes: all of them, or of neighbouring axes.

    The chain of n - 1 generates all others by brackets.
    """
    if kind == "all":
        return torch.eye(group.n_generators, dtype=torch.float64)
    turns = torch.zeros(n - 1, n, n, dtype=torch.float64)
    i = torch.arange(n - 1)
    turns[i, i, i + 1], turns[i, i + 1, i] = -1.0, 1.0
    return group.coordinates(turns).T


def orthonormality_defect(X):
    one = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    return (X.mT @ X - one).abs().amax((1, 2))


def nearest_rotation(X):
    """UV' with determinant 1; NaN where several rotations are as near."""
    U, values, Vh = torch.linalg.svd(X)
    flip = torch.linalg.det(U @ Vh).sign()
    U = torch.cat([U[..., :-1], U[..., -1:] * flip[:, None, None]], -1)
    return where_unique(values[:, -2], values, U @ Vh)


def where_unique(value, values, found):
    """Return NaN where this one of the singular values is rounding."""
    rounding = 10 * torch.finfo(values.dtype).eps * values[:, 0]
    return torch.where((value > rounding)[:, None, None], found, torch.nan)


def tangent_of_frames(x, v, shape):
    X, V = x.unflatten(1, shape), v.unflatten(1, shape)
    XV = X.mT @ V
    return (V - X @ (XV + XV.mT) / 2).flatten(1)


def random_frames(rng, n, rows, columns):
    """Draw uniformly distributed orthonormal columns; rotations if square."""
    Q, R = np.linalg.qr(rng.standard_normal((n, rows, columns)))
    Q *= np.where(np.diagonal(R, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]
    if rows == columns:
        Q[:, :, 0] *= np.linalg.det(Q)[:, None]
    return Q.reshape(n, -1)


def rotation_angle(R):
    """Root of the sum of squares of the rotation angles of R."""
    n = R.shape[-1]
    if n == 2:
        return torch.atan2(R[:, 1, 0] - R[:, 0, 1], R[:, 0, 0] + R[:, 1, 1]).abs()
    if n == 3:
        sin = length(_axis_times_sine(R))
        return torch.atan2(sin, (R.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2)
    angles = torch.linalg.eigvals(R).angle()  # in pairs
    return length(angles) * OF_MATRICES**0.5


def _axis_times_sine(R):
    return torch.stack(
        [R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], -1
    ).div(2)


def rotation_log(R):
    """The skew logarithm of rotations of angles below pi, and of pi for n <= 3."""
    n = R.shape[-1]
    if n > 3:
        values, V = torch.linalg.eig(R)
        turned = V * (1j * values.angle())[:, None]
        log = torch.linalg.solve(V, turned, left=False)
        return (log.real - log.real.mT) / 2
    angle = rotation_angle(R)
    if n == 2:
        angle = torch.copysign(angle, R[:, 1, 0] - R[:, 0, 1])
        zero = torch.zeros_like(angle)
        return torch.stack([zero, -angle, angle, zero], -1).unflatten(1, (2, 2))
    axis_sine = _axis_times_sine(R)
    sine = length(axis_sine)
    axis = axis_sine / torch.where(sine == 0, 1.0, sine)[:, None]
    # near half a turn the sine is rounding; n n' is what the symmetric part tells
    cos = torch.cos(angle)[:, None, None]
    outer = ((R + R.mT) / 2 - cos * _one_like(R)) / (1 - cos).clamp_min(1.0)
    largest = outer.diagonal(dim1=1, dim2=2).argmax(1)
    column = outer[torch.arange(len(R), device=R.device), :, largest]
    column = column / length(column).clamp_min(torch.finfo(R.dtype).tiny)[:, None]
    column = torch.where((dot(column, axis_sine) < 0)[:, None], -column, column)
    w = angle[:, None] * torch.where((angle > _NEARLY_HALF_TURN)[:, None], column, axis)
    zero = torch.zeros_like(angle)
    a, b, c = w.unbind(1)
    return torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], -1).unflatten(1, (3, 3))


def _one_like(M):
    return torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
