"""M = G x_0 in R^d: manifolds on which a group of matrices acts  (2305.08849).

Each is an object with the verbs of a textbook. Points are rows, matrices row by row, so
that n points are an array of shape (n, d) or (n, *shape). All verbs take arrays of
NumPy or tensors, and return what they got. The group that moves the points is the
attribute `group`; it sees columns (see `_lie_groups.py`).

A method is its formula. Distances are never made by an inverse cosine, which loses half
of the digits of small angles.
"""

import functools
import inspect
import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_random_state

from .._arrays import to_numpy, to_tensor
from ._lie_groups import (
    DirectProduct,
    PlaneRotations,
    RigidMotions,
    Translations,
    rotations,
)

# Karcher's iteration gains digits with each step, unless points lie all around.
_MEAN_TOL, _MEAN_MAX_ITER = 1e-14, 200
# Beyond this angle (rad), the axis of a rotation is read from its symmetric part.
_NEARLY_HALF_TURN = 3.0
# d^2 is half of the squared Frobenius norm of a logarithm: the angle of a rotation.
_OF_MATRICES = 0.5


# What the docstrings of the verbs have in common.
_POINTS = "array of shape (n, n_features) or (n, *shape)"
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


def _documented(method):
    """Add what the docstrings of this method have in common."""
    method.__doc__ = f"{inspect.cleandoc(method.__doc__)}\n{_SECTIONS[method.__name__]}"
    return method


def _verb(formula):
    """Let a formula for rows of tensors take, and return, other arrays and shapes."""

    @functools.wraps(formula)
    def verb(self, x, *others):
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

    return _documented(verb)


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


def _n_features(self):
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


@dataclass(frozen=True)
class Euclidean:
    """R^d, moved by translations: where the classical neural ODE lives.

    Parameters
    ----------
    d : int
        Dimension.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.dynamics import Euclidean
    >>> Euclidean(2).distance(np.zeros((1, 2)), np.array([[3.0, 4.0]]))
    array([5.])
    """

    d: int
    frames = None
    metric = 1.0

    n_features = property(_n_features)
    frechet_mean = _verb(frechet_mean)

    @property
    def shape(self):
        """Shape of a point."""
        return (self.d,)

    @property
    def dim(self):
        """Dimension of the manifold."""
        return self.d

    @cached_property
    def group(self):
        """The group that moves points."""
        return Translations(self.d)

    @_documented
    def generators(self, kind="all"):
        """Return the directions of the fields, the unit vectors."""
        return torch.eye(self.d, dtype=torch.float64)

    @_verb
    def violation(self, x):
        """Return zero: every vector is a point."""
        return torch.zeros_like(x[:, 0])

    @_verb
    def project(self, x):
        """Return the point itself."""
        return x

    @_verb
    def project_tangent(self, x, v):
        """Return the vector itself."""
        return v

    @_verb
    def distance(self, x, y):
        """Return the length of the difference."""
        return _length(x - y)

    @_verb
    def log(self, x, y):
        """Return the difference y - x."""
        return y - x

    @_documented
    def random_points(self, n, random_state=None):
        """Draw n points of standard normal coordinates."""
        return check_random_state(random_state).standard_normal((n, self.d))


@dataclass(frozen=True)
class Sphere:
    """Unit sphere S^n in R^(n+1), moved by rotations.

    Parameters
    ----------
    n : int
        Dimension; 2 is the sphere in space.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.dynamics import Sphere
    >>> x, y = np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])
    >>> Sphere(2).distance(x, y) / np.pi
    array([0.5])
    >>> Sphere(2).log(x, y) / np.pi
    array([[0. , 0.5, 0. ]])
    """

    n: int
    metric = 1.0

    n_features = property(_n_features)
    frechet_mean = _verb(frechet_mean)

    @property
    def shape(self):
        """Shape of a point."""
        return (self.n + 1,)

    @property
    def dim(self):
        """Dimension of the manifold."""
        return self.n

    @cached_property
    def group(self):
        """The group that moves points."""
        return rotations(self.n + 1, 1)

    @cached_property
    def frames(self):
        """The group that moves whole matrices."""
        return rotations(self.n + 1, self.n + 1)

    @_documented
    def generators(self, kind="all"):
        """Return the coordinates of all rotations of two axes, or of a chain."""
        return _planes(self.group, self.n + 1, kind)

    @_verb
    def violation(self, x):
        """Return the difference of the length from 1."""
        return (_length(x) - 1).abs()

    @_verb
    def project(self, x):
        """Return x / |x|."""
        return x / _length(x)[:, None]

    @_verb
    def project_tangent(self, x, v):
        """Return v - x (x'v)."""
        return v - x * _dot(x, v)[:, None]

    @_verb
    def distance(self, x, y):
        """Return the angle (rad): 2 atan2(|x - y|, |x + y|)."""
        return 2 * torch.atan2(_length(x - y), _length(x + y))

    @_verb
    def log(self, x, y):
        """Return the tangent vector at x along the great circle to y, of its length.

        Zero for opposite points, which have no direction.
        """
        across = y - x * _dot(x, y)[:, None]
        length = _length(across)[:, None]
        angle = torch.atan2(length, _dot(x, y)[:, None])
        return angle * across / torch.where(length == 0, 1.0, length)

    @_documented
    def random_points(self, n, random_state=None):
        """Draw n points uniformly."""
        x = check_random_state(random_state).standard_normal((n, self.n + 1))
        return self.project(x)


@dataclass(frozen=True)
class SpecialOrthogonal:
    """Rotation matrices SO(n), moved by rotations from the left.

    Parameters
    ----------
    n : int
        Size of the matrices; 3 is the attitude of a body in space.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.dynamics import SpecialOrthogonal
    >>> rotations = SpecialOrthogonal(3)
    >>> x = rotations.random_points(5, random_state=0)
    >>> x.shape, rotations.dim
    ((5, 9), 3)
    >>> noisy = x + 0.1 * np.random.default_rng(0).normal(size=x.shape)
    >>> bool(rotations.violation(rotations.project(noisy)).max() < 1e-14)
    True
    """

    n: int
    metric = _OF_MATRICES

    n_features = property(_n_features)
    frechet_mean = _verb(frechet_mean)

    @property
    def shape(self):
        """Shape of a point."""
        return (self.n, self.n)

    @property
    def dim(self):
        """Dimension of the manifold."""
        return self.n * (self.n - 1) // 2

    @cached_property
    def group(self):
        """The group that moves points, which are whole matrices."""
        return rotations(self.n, self.n)

    @property
    def frames(self):
        """The group that moves whole matrices."""
        return self.group

    @_documented
    def generators(self, kind="all"):
        """Return the coordinates of all rotations of two axes, or of a chain."""
        return _planes(self.group, self.n, kind)

    @_verb
    def violation(self, x):
        """Return the largest entry of X'X - 1; and 2 for determinant -1."""
        X = x.unflatten(1, self.shape)
        defect = _orthonormality_defect(X)
        return torch.maximum(defect, (torch.linalg.det(X).sign() - 1).abs())

    @_verb
    def reflections(self, x):
        """Return which matrices are nearer to reflections than to rotations."""
        return torch.linalg.det(x.unflatten(1, self.shape)) < 0

    @_verb
    def project(self, x):
        """Return the nearest rotation: UV' of the singular value decomposition."""
        return _nearest_rotation(x.unflatten(1, self.shape)).flatten(1)

    @_verb
    def project_tangent(self, x, v):
        """Return V - X sym(X'V)."""
        return _tangent_of_frames(x, v, self.shape)

    @_verb
    def distance(self, x, y):
        """Return the root of the sum of squares of the angles (rad) of X'Y."""
        X, Y = x.unflatten(1, self.shape), y.unflatten(1, self.shape)
        return _rotation_angle(X.mT @ Y)

    @_verb
    def log(self, x, y):
        """Return the tangent vector X log(X'Y), for n > 3 of angles below pi."""
        X, Y = x.unflatten(1, self.shape), y.unflatten(1, self.shape)
        return (X @ _rotation_log(X.mT @ Y)).flatten(1)

    @_documented
    def random_points(self, n, random_state=None):
        """Draw n rotations uniformly (Haar)."""
        rng = check_random_state(random_state)
        return _random_frames(rng, n, self.n, self.n)


@dataclass(frozen=True)
class SpecialEuclidean:
    """Rigid motions SE(3), matrices [[R, t], [0, 1]], moved by twists from the left.

    The distance takes a radian for a unit of length. SE(3) is not compact, so the
    theorem on approximation does not cover it.

    Examples
    --------
    >>> from sklearn_attn.dynamics import SpecialEuclidean
    >>> motions = SpecialEuclidean()
    >>> motions.random_points(5, random_state=0).reshape(-1, 4, 4)[0, 3]
    array([0., 0., 0., 1.])
    """

    shape = (4, 4)
    dim = 6
    n_features = property(_n_features)
    frechet_mean = _verb(frechet_mean)

    @cached_property
    def group(self):
        """The group that moves points, which are whole matrices."""
        return RigidMotions()

    @property
    def frames(self):
        """The group that moves whole matrices."""
        return self.group

    @property
    def metric(self):
        """Weights of the entries of a logarithm in the squared distance."""
        weights = np.zeros((4, 4))
        weights[:3, :3], weights[:3, 3] = _OF_MATRICES, 1.0
        return weights.ravel()

    @_documented
    def generators(self, kind="all"):
        """Return the coordinates of three rotations and three translations."""
        return torch.eye(6, dtype=torch.float64)

    @_verb
    def violation(self, x):
        """Return that of the rotation, and the largest error of the last row."""
        X = x.unflatten(1, self.shape)
        rotation = SpecialOrthogonal(3).violation(X[:, :3, :3])
        last = X.new_tensor([0.0, 0.0, 0.0, 1.0])
        return torch.maximum(rotation, (X[:, 3] - last).abs().amax(1))

    @_verb
    def reflections(self, x):
        """Return which matrices are nearer to reflections than to rotations."""
        return torch.linalg.det(x.unflatten(1, self.shape)[:, :3, :3]) < 0

    @_verb
    def project(self, x):
        """Return the nearest rotation, with the same translation."""
        X = x.unflatten(1, self.shape)
        found = torch.zeros_like(X)
        found[:, :3, :3] = _nearest_rotation(X[:, :3, :3])
        found[:, :3, 3], found[:, 3, 3] = X[:, :3, 3], 1.0
        return found.flatten(1)

    @_verb
    def project_tangent(self, x, v):
        """Return that of the rotation, and the same velocity of the translation."""
        X, V = x.unflatten(1, self.shape), v.unflatten(1, self.shape)
        found = torch.zeros_like(V)
        rotation, velocity = (Z[:, :3, :3].flatten(1) for Z in (X, V))
        found[:, :3, :3] = _tangent_of_frames(rotation, velocity, (3, 3)).unflatten(
            1, (3, 3)
        )
        found[:, :3, 3] = V[:, :3, 3]
        return found.flatten(1)

    @_verb
    def distance(self, x, y):
        """Return the root of squared angle (rad) plus squared length."""
        X, Y = x.unflatten(1, self.shape), y.unflatten(1, self.shape)
        angle = _rotation_angle(X[:, :3, :3].mT @ Y[:, :3, :3])
        return torch.hypot(angle, _length(X[:, :3, 3] - Y[:, :3, 3]))

    @_verb
    def log(self, x, y):
        """Return that of the rotation, and the difference of the translations."""
        X, Y = x.unflatten(1, self.shape), y.unflatten(1, self.shape)
        found = torch.zeros_like(X)
        R = X[:, :3, :3]
        found[:, :3, :3] = R @ _rotation_log(R.mT @ Y[:, :3, :3])
        found[:, :3, 3] = Y[:, :3, 3] - X[:, :3, 3]
        return found.flatten(1)

    @_documented
    def random_points(self, n, random_state=None):
        """Draw n motions: uniform rotations, standard normal translations."""
        rng = check_random_state(random_state)
        points = np.zeros((n, 4, 4))
        points[:, :3, :3] = _random_frames(rng, n, 3, 3).reshape(n, 3, 3)
        points[:, :3, 3], points[:, 3, 3] = rng.standard_normal((n, 3)), 1.0
        return points.reshape(n, 16)


@dataclass(frozen=True)
class Stiefel:
    """Matrices of p < n orthonormal columns, moved by rotations from the left.

    The distance is that of the surrounding space, since the geodesic one has no closed
    form.

    Parameters
    ----------
    n : int
        Number of rows.
    p : int
        Number of columns.

    Raises
    ------
    ValueError
        If p is not in 1, ..., n - 1.

    Examples
    --------
    >>> from sklearn_attn.dynamics import Stiefel
    >>> frames = Stiefel(5, 2)
    >>> frames.shape, frames.dim
    ((5, 2), 7)
    """

    n: int
    p: int
    metric = 1.0

    def __post_init__(self):
        if not 1 <= self.p < self.n:
            raise ValueError(
                f"Stiefel needs 1 <= p < n; got n={self.n}, p={self.p}. For square "
                "matrices there is SpecialOrthogonal."
            )

    n_features = property(_n_features)
    frechet_mean = _verb(frechet_mean)

    @property
    def shape(self):
        """Shape of a point."""
        return (self.n, self.p)

    @property
    def dim(self):
        """Dimension of the manifold."""
        return self.n * self.p - self.p * (self.p + 1) // 2

    @cached_property
    def group(self):
        """The group that moves points."""
        return rotations(self.n, self.p)

    @cached_property
    def frames(self):
        """The group that moves whole matrices."""
        return rotations(self.n, self.n)

    @_documented
    def generators(self, kind="all"):
        """Return the coordinates of all rotations of two axes, or of a chain."""
        return _planes(self.group, self.n, kind)

    @_verb
    def violation(self, x):
        """Return the largest entry of X'X - 1."""
        return _orthonormality_defect(x.unflatten(1, self.shape))

    @_verb
    def project(self, x):
        """Return the nearest such matrix: UV' of the singular value decomposition."""
        X = x.unflatten(1, self.shape)
        U, values, Vh = torch.linalg.svd(X, full_matrices=False)
        return _where_unique(values[:, -1], values, U @ Vh).flatten(1)

    @_verb
    def project_tangent(self, x, v):
        """Return V - X sym(X'V)."""
        return _tangent_of_frames(x, v, self.shape)

    @_verb
    def distance(self, x, y):
        """Return the length of the difference."""
        return _length(x - y)

    @_verb
    def log(self, x, y):
        """Return the part of the difference that is tangent at x."""
        return _tangent_of_frames(x, y - x, self.shape)

    @_documented
    def random_points(self, n, random_state=None):
        """Draw n such matrices uniformly."""
        rng = check_random_state(random_state)
        return _random_frames(rng, n, self.n, self.p)


@dataclass(frozen=True)
class Torus:
    """Torus of k angles, each as cosine and sine, and turned by itself.

    Parameters
    ----------
    k : int
        Number of angles. A point is (cos, sin, cos, sin, ...).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.dynamics import Torus
    >>> angles = np.array([[0.1], [6.2]])
    >>> x = np.hstack([np.cos(angles), np.sin(angles)])
    >>> Torus(1).distance(x[:1], x[1:]).round(3)  # over the end of the circle
    array([0.183])
    """

    k: int
    frames = None
    metric = 1.0

    n_features = property(_n_features)
    frechet_mean = _verb(frechet_mean)

    @property
    def shape(self):
        """Shape of a point."""
        return (2 * self.k,)

    @property
    def dim(self):
        """Dimension of the manifold."""
        return self.k

    @cached_property
    def group(self):
        """The group that moves points."""
        return PlaneRotations(self.k)

    @_documented
    def generators(self, kind="all"):
        """Return one rotation for each circle, whatever the `kind`: they commute."""
        return torch.eye(self.k, dtype=torch.float64)

    @_verb
    def violation(self, x):
        """Return the largest difference of a circle's radius from 1."""
        return (_length(self._planes(x)) - 1).abs().amax(1)

    @_verb
    def project(self, x):
        """Return each pair divided by its length."""
        planes = self._planes(x)
        return (planes / _length(planes)[..., None]).flatten(1)

    @_verb
    def project_tangent(self, x, v):
        """Return, on each circle, the part across the radius."""
        x, v = self._planes(x), self._planes(v)
        return (v - x * _dot(x, v)[..., None]).flatten(1)

    @_verb
    def distance(self, x, y):
        """Return the root of the sum of squares of the angles (rad)."""
        return _length(self._angles(x, y))

    @_verb
    def log(self, x, y):
        """Return, on each circle, the angle times the unit tangent."""
        x_planes = self._planes(x)
        tangent = torch.stack([-x_planes[..., 1], x_planes[..., 0]], -1)
        return (self._angles(x, y)[..., None] * tangent).flatten(1)

    @_documented
    def random_points(self, n, random_state=None):
        """Draw n points uniformly."""
        rng = check_random_state(random_state)
        angle = rng.uniform(-np.pi, np.pi, (n, self.k))
        return np.stack([np.cos(angle), np.sin(angle)], -1).reshape(n, -1)

    def _planes(self, x):
        return x.unflatten(1, (self.k, 2))

    def _angles(self, x, y):
        x, y = self._planes(x), self._planes(y)
        sin = x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
        return torch.atan2(sin, _dot(x, y))


class Product:
    """Manifolds side by side; their coordinates follow one another.

    Parameters
    ----------
    *parts : manifolds
        At least one.

    Raises
    ------
    ValueError
        If there is no part.

    Examples
    --------
    >>> from sklearn_attn.dynamics import Product, SpecialOrthogonal, Sphere
    >>> body_and_star = Product(SpecialOrthogonal(3), Sphere(2))
    >>> body_and_star.n_features, body_and_star.dim
    (12, 5)
    """

    frames = None

    def __init__(self, *parts):
        if not parts:
            raise ValueError("Product needs at least one manifold.")
        self.parts = parts

    def __repr__(self):
        return f"Product({', '.join(map(repr, self.parts))})"

    def __eq__(self, other):
        return isinstance(other, Product) and self.parts == other.parts

    def __hash__(self):
        return hash(self.parts)

    n_features = property(_n_features)
    frechet_mean = _verb(frechet_mean)

    @property
    def shape(self):
        """Shape of a point."""
        return (sum(part.n_features for part in self.parts),)

    @property
    def dim(self):
        """Dimension of the manifold."""
        return sum(part.dim for part in self.parts)

    @cached_property
    def group(self):
        """The group that moves points."""
        return DirectProduct([part.group for part in self.parts])

    @property
    def metric(self):
        """Weights of the coordinates of a logarithm in the squared distance."""
        return np.concatenate(
            [np.broadcast_to(part.metric, part.n_features) for part in self.parts]
        )

    @_documented
    def generators(self, kind="all"):
        """Return those of each part, which leave the others alone."""
        return torch.block_diag(*(part.generators(kind) for part in self.parts))

    @_verb
    def violation(self, x):
        """Return the largest of the parts."""
        return torch.stack(list(self._each("violation", x))).amax(0)

    @_verb
    def reflections(self, x):
        """Return which points have a part that is nearer to a reflection."""
        found = torch.zeros_like(x[:, 0], dtype=torch.bool)
        for part, piece in self._with_parts(x):
            if hasattr(part, "reflections"):
                found |= part.reflections(piece)
        return found

    @_verb
    def project(self, x):
        """Return each part projected."""
        return torch.cat(list(self._each("project", x)), 1)

    @_verb
    def project_tangent(self, x, v):
        """Return each part projected."""
        return torch.cat(list(self._each("project_tangent", x, v)), 1)

    @_verb
    def distance(self, x, y):
        """Return the root of the sum of squares."""
        return _length(torch.stack(list(self._each("distance", x, y)), 1))

    @_verb
    def log(self, x, y):
        """Return those of the parts."""
        return torch.cat(list(self._each("log", x, y)), 1)

    @_documented
    def random_points(self, n, random_state=None):
        """Draw n points of each part."""
        rng = check_random_state(random_state)
        return np.hstack([part.random_points(n, rng) for part in self.parts])

    def _with_parts(self, *arrays):
        sizes = [part.n_features for part in self.parts]
        return zip(self.parts, *(array.split(sizes, 1) for array in arrays))

    def _each(self, verb, *arrays):
        for part, *pieces in self._with_parts(*arrays):
            yield getattr(part, verb)(*pieces)


def _dot(x, y):
    return (x * y).sum(-1)


def _length(x):
    return torch.sqrt(_dot(x, x))


def _planes(group, n, kind):
    """Coordinates of the rotations of planes: all of them, or of neighbouring axes.

    The chain of n - 1 generates all others by brackets.
    """
    if kind == "all":
        return torch.eye(group.n_generators, dtype=torch.float64)
    turns = torch.zeros(n - 1, n, n, dtype=torch.float64)
    i = torch.arange(n - 1)
    turns[i, i, i + 1], turns[i, i + 1, i] = -1.0, 1.0
    return group.coordinates(turns).T


def _orthonormality_defect(X):
    one = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    return (X.mT @ X - one).abs().amax((1, 2))


def _nearest_rotation(X):
    """UV' with determinant 1; NaN where several rotations are as near."""
    U, values, Vh = torch.linalg.svd(X)
    flip = torch.linalg.det(U @ Vh).sign()
    U = torch.cat([U[..., :-1], U[..., -1:] * flip[:, None, None]], -1)
    return _where_unique(values[:, -2], values, U @ Vh)


def _where_unique(value, values, found):
    """Return NaN where this one of the singular values is rounding."""
    rounding = 10 * torch.finfo(values.dtype).eps * values[:, 0]
    return torch.where((value > rounding)[:, None, None], found, torch.nan)


def _tangent_of_frames(x, v, shape):
    X, V = x.unflatten(1, shape), v.unflatten(1, shape)
    XV = X.mT @ V
    return (V - X @ (XV + XV.mT) / 2).flatten(1)


def _random_frames(rng, n, rows, columns):
    """Draw uniformly distributed orthonormal columns; rotations if square."""
    Q, R = np.linalg.qr(rng.standard_normal((n, rows, columns)))
    Q *= np.where(np.diagonal(R, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]
    if rows == columns:
        Q[:, :, 0] *= np.linalg.det(Q)[:, None]
    return Q.reshape(n, -1)


def _rotation_angle(R):
    """Root of the sum of squares of the rotation angles of R."""
    n = R.shape[-1]
    if n == 2:
        return torch.atan2(R[:, 1, 0] - R[:, 0, 1], R[:, 0, 0] + R[:, 1, 1]).abs()
    if n == 3:
        sin = _length(_axis_times_sine(R))
        return torch.atan2(sin, (R.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2)
    angles = torch.linalg.eigvals(R).angle()  # in pairs
    return _length(angles) * _OF_MATRICES**0.5


def _axis_times_sine(R):
    return torch.stack(
        [R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], -1
    ).div(2)


def _rotation_log(R):
    """The skew logarithm of rotations of angles below pi, and of pi for n <= 3."""
    n = R.shape[-1]
    if n > 3:
        values, V = torch.linalg.eig(R)
        turned = V * (1j * values.angle())[:, None]
        log = torch.linalg.solve(V, turned, left=False)
        return (log.real - log.real.mT) / 2
    angle = _rotation_angle(R)
    if n == 2:
        angle = torch.copysign(angle, R[:, 1, 0] - R[:, 0, 1])
        zero = torch.zeros_like(angle)
        return torch.stack([zero, -angle, angle, zero], -1).unflatten(1, (2, 2))
    axis_sine = _axis_times_sine(R)
    sine = _length(axis_sine)
    axis = axis_sine / torch.where(sine == 0, 1.0, sine)[:, None]
    # near half a turn the sine is rounding; n n' is what the symmetric part tells
    cos = torch.cos(angle)[:, None, None]
    outer = ((R + R.mT) / 2 - cos * _one_like(R)) / (1 - cos).clamp_min(1.0)
    largest = outer.diagonal(dim1=1, dim2=2).argmax(1)
    column = outer[torch.arange(len(R), device=R.device), :, largest]
    column = column / _length(column).clamp_min(torch.finfo(R.dtype).tiny)[:, None]
    column = torch.where((_dot(column, axis_sine) < 0)[:, None], -column, column)
    w = angle[:, None] * torch.where((angle > _NEARLY_HALF_TURN)[:, None], column, axis)
    zero = torch.zeros_like(angle)
    a, b, c = w.unbind(1)
    return torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], -1).unflatten(1, (3, 3))


def _one_like(M):
    return torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)


def as_manifold(manifold, shape, n_features):
    """Return the manifold that a name and the number of columns stand for."""
    if isinstance(manifold, type):
        raise ValueError(
            f"manifold must be an object, such as Sphere(2); got the class {manifold}."
        )
    if not isinstance(manifold, str):
        if shape is not None:
            raise ValueError(
                f"manifold_shape goes with a manifold's name; {manifold!r} has its own."
            )
        return manifold
    given = () if shape is None else tuple(shape)
    if not all(isinstance(size, Integral) and size >= 1 for size in given):
        raise ValueError(f"manifold_shape must hold positive integers; got {shape!r}.")
    wanted = {"stiefel": 2, "so3": 0, "se3": 0}.get(manifold, 1)
    if given and len(given) != wanted:
        raise ValueError(
            f"manifold_shape of {manifold!r} must have {wanted} number(s); got {shape}."
        )
    if manifold == "so3":
        return SpecialOrthogonal(3)
    if manifold == "se3":
        return SpecialEuclidean()
    if manifold == "stiefel":
        if not given:
            raise ValueError(
                "manifold='stiefel' needs manifold_shape=(n, p): the number of columns "
                "does not tell it."
            )
        return Stiefel(*given)
    cls, size, n_expected = {
        "euclidean": (Euclidean, n_features, n_features),
        "sphere": (Sphere, n_features - 1, n_features),
        "so": (SpecialOrthogonal, math.isqrt(n_features), math.isqrt(n_features) ** 2),
        "torus": (Torus, n_features // 2, n_features // 2 * 2),
    }[manifold]
    smallest = {"so": 4, "sphere": 2, "torus": 2}.get(manifold, 1)
    if not given and (n_features != n_expected or n_features < smallest):
        raise ValueError(
            f"manifold={manifold!r} has no points of {n_features} numbers: rotation "
            "matrices have a square number of entries, tori two for each angle, and "
            "spheres two or more."
        )
    return cls(*(given or (size,)))
