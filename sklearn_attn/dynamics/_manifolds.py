"""M = G x_0 in R^d: manifolds on which a group of matrices acts  (2305.08849).

Each is an object with the verbs of a textbook. Points are rows, matrices row by row, so
that n points are an array of shape (n, n_features), or of matrices. All verbs take
arrays of NumPy or tensors, and return what they got. The group that moves the points is
the attribute `group`; it sees columns (see `_lie_groups.py`).

A method is its formula. Distances are never made by an inverse cosine, which loses half
of the digits of small angles.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_random_state

from ._frames import (
    OF_MATRICES,
    dot,
    length,
    nearest_rotation,
    orthonormality_defect,
    planes,
    random_frames,
    rotation_angle,
    rotation_log,
    tangent_of_frames,
    where_unique,
)
from ._lie_groups import (
    DirectProduct,
    PlaneRotations,
    RigidMotions,
    Translations,
    rotations,
)
from ._manifold_verbs import act, documented, frechet_mean, n_features, verb


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

    n_features = property(n_features)
    frechet_mean = verb(frechet_mean)
    act = act

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

    @documented
    def generators(self, kind="all"):
        """Return the directions of the fields, the unit vectors."""
        return torch.eye(self.d, dtype=torch.float64)

    @verb
    def violation(self, x):
        """Return zero: every vector is a point."""
        return torch.zeros_like(x[:, 0])

    @verb
    def project(self, x):
        """Return the point itself."""
        return x

    @verb
    def project_tangent(self, x, v):
        """Return the vector itself."""
        return v

    @verb
    def distance(self, x, y):
        """Return the length of the difference."""
        return length(x - y)

    @verb
    def log(self, x, y):
        """Return the difference y - x."""
        return y - x

    @documented
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

    n_features = property(n_features)
    frechet_mean = verb(frechet_mean)
    act = act

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

    @documented
    def generators(self, kind="all"):
        """Return the coordinates of all rotations of two axes, or of a chain."""
        return planes(self.group, self.n + 1, kind)

    @verb
    def violation(self, x):
        """Return the difference of the length from 1."""
        return (length(x) - 1).abs()

    @verb
    def project(self, x):
        """Return ``x / |x|``."""
        return x / length(x)[:, None]

    @verb
    def project_tangent(self, x, v):
        """Return v - x (x'v)."""
        return v - x * dot(x, v)[:, None]

    @verb
    def distance(self, x, y):
        """Return the angle (rad), ``2 atan2(|x - y|, |x + y|)``."""
        return 2 * torch.atan2(length(x - y), length(x + y))

    @verb
    def log(self, x, y):
        """Return the tangent vector at x along the great circle to y, of its length.

        Zero for opposite points, which have no direction.
        """
        across = y - x * dot(x, y)[:, None]
        sine = length(across)[:, None]
        angle = torch.atan2(sine, dot(x, y)[:, None])
        return angle * across / torch.where(sine == 0, 1.0, sine)

    @documented
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
    metric = OF_MATRICES

    n_features = property(n_features)
    frechet_mean = verb(frechet_mean)
    act = act

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

    @documented
    def generators(self, kind="all"):
        """Return the coordinates of all rotations of two axes, or of a chain."""
        return planes(self.group, self.n, kind)

    @verb
    def violation(self, x):
        """Return the largest entry of X'X - 1; and 2 for determinant -1."""
        X = x.unflatten(1, self.shape)
        defect = orthonormality_defect(X)
        return torch.maximum(defect, (torch.linalg.det(X).sign() - 1).abs())

    @verb
    def reflections(self, x):
        """Return which matrices are nearer to reflections than to rotations."""
        return torch.linalg.det(x.unflatten(1, self.shape)) < 0

    @verb
    def project(self, x):
        """Return the nearest rotation: UV' of the singular value decomposition."""
        return nearest_rotation(x.unflatten(1, self.shape)).flatten(1)

    @verb
    def project_tangent(self, x, v):
        """Return V - X sym(X'V)."""
        return tangent_of_frames(x, v, self.shape)

    @verb
    def distance(self, x, y):
        """Return the root of the sum of squares of the angles (rad) of X'Y."""
        X, Y = x.unflatten(1, self.shape), y.unflatten(1, self.shape)
        return rotation_angle(X.mT @ Y)

    @verb
    def log(self, x, y):
        """Return the tangent vector X log(X'Y), for n > 3 of angles below pi."""
        X, Y = x.unflatten(1, self.shape), y.unflatten(1, self.shape)
        return (X @ rotation_log(X.mT @ Y)).flatten(1)

    @documented
    def random_points(self, n, random_state=None):
        """Draw n rotations uniformly (Haar)."""
        rng = check_random_state(random_state)
        return random_frames(rng, n, self.n, self.n)


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
    n_features = property(n_features)
    frechet_mean = verb(frechet_mean)
    act = act

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
        weights[:3, :3], weights[:3, 3] = OF_MATRICES, 1.0
        return weights.ravel()

    @documented
    def generators(self, kind="all"):
        """Return the coordinates of three rotations and three translations."""
        return torch.eye(6, dtype=torch.float64)

    @verb
    def violation(self, x):
        """Return that of the rotation, and the largest error of the last row."""
        X = x.unflatten(1, self.shape)
        rotation = SpecialOrthogonal(3).violation(X[:, :3, :3])
        last = X.new_tensor([0.0, 0.0, 0.0, 1.0])
        return torch.maximum(rotation, (X[:, 3] - last).abs().amax(1))

    @verb
    def reflections(self, x):
        """Return which matrices are nearer to reflections than to rotations."""
        return torch.linalg.det(x.unflatten(1, self.shape)[:, :3, :3]) < 0

    @verb
    def project(self, x):
        """Return the nearest rotation, with the same translation."""
        X = x.unflatten(1, self.shape)
        found = torch.zeros_like(X)
        found[:, :3, :3] = nearest_rotation(X[:, :3, :3])
        found[:, :3, 3], found[:, 3, 3] = X[:, :3, 3], 1.0
        return found.flatten(1)

    @verb
    def project_tangent(self, x, v):
        """Return that of the rotation, and the same velocity of the translation."""
        X, V = x.unflatten(1, self.shape), v.unflatten(1, self.shape)
        found = torch.zeros_like(V)
        rotation, velocity = (Z[:, :3, :3].flatten(1) for Z in (X, V))
        found[:, :3, :3] = tangent_of_frames(rotation, velocity, (3, 3)).unflatten(
            1, (3, 3)
        )
        found[:, :3, 3] = V[:, :3, 3]
        return found.flatten(1)

    @verb
    def distance(self, x, y):
        """Return the root of squared angle (rad) plus squared length."""
        X, Y = x.unflatten(1, self.shape), y.unflatten(1, self.shape)
        angle = rotation_angle(X[:, :3, :3].mT @ Y[:, :3, :3])
        return torch.hypot(angle, length(X[:, :3, 3] - Y[:, :3, 3]))

    @verb
    def log(self, x, y):
        """Return that of the rotation, and the difference of the translations."""
        X, Y = x.unflatten(1, self.shape), y.unflatten(1, self.shape)
        found = torch.zeros_like(X)
        R = X[:, :3, :3]
        found[:, :3, :3] = R @ rotation_log(R.mT @ Y[:, :3, :3])
        found[:, :3, 3] = Y[:, :3, 3] - X[:, :3, 3]
        return found.flatten(1)

    @documented
    def random_points(self, n, random_state=None):
        """Draw n motions: uniform rotations, standard normal translations."""
        rng = check_random_state(random_state)
        points = np.zeros((n, 4, 4))
        points[:, :3, :3] = random_frames(rng, n, 3, 3).reshape(n, 3, 3)
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

    n_features = property(n_features)
    frechet_mean = verb(frechet_mean)
    act = act

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

    @documented
    def generators(self, kind="all"):
        """Return the coordinates of all rotations of two axes, or of a chain."""
        return planes(self.group, self.n, kind)

    @verb
    def violation(self, x):
        """Return the largest entry of X'X - 1."""
        return orthonormality_defect(x.unflatten(1, self.shape))

    @verb
    def project(self, x):
        """Return the nearest such matrix: UV' of the singular value decomposition."""
        X = x.unflatten(1, self.shape)
        U, values, Vh = torch.linalg.svd(X, full_matrices=False)
        return where_unique(values[:, -1], values, U @ Vh).flatten(1)

    @verb
    def project_tangent(self, x, v):
        """Return V - X sym(X'V)."""
        return tangent_of_frames(x, v, self.shape)

    @verb
    def distance(self, x, y):
        """Return the length of the difference."""
        return length(x - y)

    @verb
    def log(self, x, y):
        """Return the part of the difference that is tangent at x."""
        return tangent_of_frames(x, y - x, self.shape)

    @documented
    def random_points(self, n, random_state=None):
        """Draw n such matrices uniformly."""
        rng = check_random_state(random_state)
        return random_frames(rng, n, self.n, self.p)


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

    n_features = property(n_features)
    frechet_mean = verb(frechet_mean)
    act = act

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

    @documented
    def generators(self, kind="all"):
        """Return one rotation for each circle, whatever the `kind`: they commute."""
        return torch.eye(self.k, dtype=torch.float64)

    @verb
    def violation(self, x):
        """Return the largest difference of a circle's radius from 1."""
        return (length(self._planes(x)) - 1).abs().amax(1)

    @verb
    def project(self, x):
        """Return each pair divided by its length."""
        pairs = self._planes(x)
        return (pairs / length(pairs)[..., None]).flatten(1)

    @verb
    def project_tangent(self, x, v):
        """Return, on each circle, the part across the radius."""
        x, v = self._planes(x), self._planes(v)
        return (v - x * dot(x, v)[..., None]).flatten(1)

    @verb
    def distance(self, x, y):
        """Return the root of the sum of squares of the angles (rad)."""
        return length(self._angles(x, y))

    @verb
    def log(self, x, y):
        """Return, on each circle, the angle times the unit tangent."""
        x_planes = self._planes(x)
        tangent = torch.stack([-x_planes[..., 1], x_planes[..., 0]], -1)
        return (self._angles(x, y)[..., None] * tangent).flatten(1)

    @documented
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
        return torch.atan2(sin, dot(x, y))


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

    n_features = property(n_features)
    frechet_mean = verb(frechet_mean)
    act = act

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

    @documented
    def generators(self, kind="all"):
        """Return those of each part, which leave the others alone."""
        return torch.block_diag(*(part.generators(kind) for part in self.parts))

    @verb
    def violation(self, x):
        """Return the largest of the parts."""
        return torch.stack(list(self._each("violation", x))).amax(0)

    @verb
    def reflections(self, x):
        """Return which points have a part that is nearer to a reflection."""
        found = torch.zeros_like(x[:, 0], dtype=torch.bool)
        for part, piece in self._with_parts(x):
            if hasattr(part, "reflections"):
                found |= part.reflections(piece)
        return found

    @verb
    def project(self, x):
        """Return each part projected."""
        return torch.cat(list(self._each("project", x)), 1)

    @verb
    def project_tangent(self, x, v):
        """Return each part projected."""
        return torch.cat(list(self._each("project_tangent", x, v)), 1)

    @verb
    def distance(self, x, y):
        """Return the root of the sum of squares."""
        return length(torch.stack(list(self._each("distance", x, y)), 1))

    @verb
    def log(self, x, y):
        """Return those of the parts."""
        return torch.cat(list(self._each("log", x, y)), 1)

    @documented
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
