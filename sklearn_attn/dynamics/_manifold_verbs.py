"""What the verbs of all manifolds share: arrays of all kinds, and their documentation.

A verb is written as a formula for rows of tensors. Here it learns to take matrices and
arrays of NumPy, and to return what it got.
"""

import functools
import inspect
import math

import torch

from .._arrays import to_numpy, to_tensor

# Karcher's iteration gains digits with each step, unless points lie all around.
_MEAN_TOL, _MEAN_MAX_ITER = 1e-14, 200

# What the docstrings of the verbs have in common.
_POINTS = "array of shape (n, n_features) or (n, d, p)"
_SECTIONS = {
    "violation": f"""
Parameters
----------
x : {_POINTS}
    Vectors.

Returns
-------
array of shape (n,)
    How far each of them is from being a point; 0 on the manifold.
""",
    "reflections": f"""
Parameters
----------
x : {_POINTS}
    Vectors.

Returns
-------
array of bool of shape (n,)
    Whether the determinant is negative.
""",
    "project": f"""
Parameters
----------
x : {_POINTS}
    Vectors near the manifold.

Returns
-------
array of the shape of x
    The points next to them.
""",
    "project_tangent": f"""
Parameters
----------
x : {_POINTS}
    Points.
v : {_POINTS}
    Vectors.

Returns
-------
array of the shape of x
    The tangent vectors at x next to v.
""",
    "distance": f"""
Parameters
----------
x, y : {_POINTS}
    Points.

Returns
-------
array of shape (n,)
    Distance of each point of x to that of y.
""",
    "log": f"""
Parameters
----------
x, y : {_POINTS}
    Points.

Returns
-------
array of the shape of x
    Tangent vectors at x that lead to y. With the weights `metric`, the sum of their
    squares is the squared distance.
""",
    "act": f"""
Parameters
----------
x : {_POINTS}
    Points.
v : array of shape (n, group.n_generators)
    Velocities: coordinates of elements of the Lie algebra, in the order of
    ``generators("all")``.

Returns
-------
array of the shape of x
    Where the points are after a unit of time.

Raises
------
ValueError
    If shapes do not fit.
""",
    "frechet_mean": f"""
Parameters
----------
x : {_POINTS}
    Points, less than half of the manifold apart.

Returns
-------
array of shape (n_features,) or shape
    The mean, by Karcher's iteration from the projected arithmetic mean.
""",
    "random_points": """
Parameters
----------
n : int
    Number of points.
random_state : int, RandomState instance or None, default=None
    Seed.

Returns
-------
ndarray of shape (n, n_features)
    The points.
""",
    "generators": """
Parameters
----------
kind : {"all", "chain"}, default="all"
    Which fields to take.

Returns
-------
torch.Tensor of shape (m, group.n_generators)
    Coordinates of m elements of the Lie algebra. Each is a vector field.
""",
}


def documented(method):
    """Add what the docstrings of this method have in common."""
    method.__doc__ = f"{inspect.cleandoc(method.__doc__)}\n{_SECTIONS[method.__name__]}"
    return method


def verb(formula):
    """Let a formula for rows of tensors take, and return, other arrays and shapes."""

    @functools.wraps(formula)
    def complete(self, x, *others):
        as_given = tuple(x.shape)
        points = [_rows(self, z) for z in (x, *others)]
        dtype = functools.reduce(torch.promote_types, (z.dtype for z in points))
        points = [z.to(dtype) for z in points]
        found = formula(self, *points)
        if formula is frechet_mean:
            found = found.reshape(as_given[1:])
        elif found.ndim == 2:
            found = found.reshape(as_given)
        return found if isinstance(x, torch.Tensor) else to_numpy(found)

    return documented(complete)


def _rows(manifold, x):
    x = to_tensor(x)
    if tuple(x.shape[1:]) not in ((manifold.n_features,), manifold.shape):
        shapes = dict.fromkeys([(manifold.n_features,), manifold.shape])
        wanted = " or ".join(f"(n, {', '.join(map(str, s))})" for s in shapes)
        raise ValueError(
            f"Points of {manifold!r} have shape {wanted}; got {tuple(x.shape)}."
        )
    x = x if x.is_floating_point() else x.double()
    return x.reshape(len(x), manifold.n_features)


def n_features(self):
    """Number of coordinates of a point."""
    return math.prod(self.shape)


def frechet_mean(self, x):
    """Return the point whose sum of squared distances to the points x is least."""
    mean = self.project(x.mean(0, keepdim=True))
    if not torch.isfinite(mean).all():  # points all around, with a mean of zero
        mean = x[:1]
    for _ in range(_MEAN_MAX_ITER):
        step = self.log(mean.expand_as(x), x).mean(0, keepdim=True)
        mean = self.project(mean + step)
        if step.abs().max() < _MEAN_TOL:
            break
    return mean[0]


@documented
def act(self, x, v):
    """Return the exponential action exp(v) x, a move at constant velocity."""
    points, v = _rows(self, x), to_tensor(v)
    k = self.group.n_generators
    if tuple(v.shape) != (len(points), k):
        raise ValueError(
            f"Velocities on {self!r} have shape ({len(points)}, {k}) here; got "
            f"{tuple(v.shape)}."
        )
    dtype = torch.promote_types(points.dtype, v.dtype)
    found = self.group.exp(v.to(dtype).T, points.to(dtype).T).T.reshape(x.shape)
    return found if isinstance(x, torch.Tensor) else to_numpy(found)
