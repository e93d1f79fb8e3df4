"""[f, g] = Dg f - Df g, and whether brackets of fields reach every direction.

On a manifold that a group moves, the fields are g_i(x) = B_i x, with B_i in the Lie
algebra (2305.08849, Assumption 2 and the definition of bracket generating families).
"""

import math

import numpy as np
import torch

from .._arrays import to_numpy, to_tensor

# Brackets of unit fields are of the order of 1; rounding is below this.
_RANK_TOL = 1e-9
# Beyond so many dimensions of the algebra the closure of fields that are known to
# generate is not computed: it costs the cube of them.
_LARGEST_CLOSURE = 66
# The rank is constant but on sets that random points miss.
_N_POINTS = 20


def lie_bracket(f, g):
    """Return the Lie bracket of two vector fields, a vector field again.

    [f, g](x) = Dg(x) f(x) - Df(x) g(x): where one drifts by following f, g, -f, -g in
    turns. For linear fields f = A x and g = B x it is (B A - A B) x, minus the
    commutator of the matrices.

    Parameters
    ----------
    f, g : callable
        Take and return a tensor of shape (n, d), rows apart, made of operations that
        torch differentiates.

    Returns
    -------
    callable
        The bracket. It can be differentiated, and put into a bracket, again.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.dynamics import lie_bracket
    >>> right = lambda x: torch.stack([1 + 0 * x[:, 0], 0 * x[:, 0]], 1)
    >>> shear = lambda x: torch.stack([0 * x[:, 0], x[:, 0]], 1)
    >>> lie_bracket(right, shear)(torch.zeros(1, 2))
    tensor([[0., 1.]])
    """

    def bracket(x):
        _, Dg_f = torch.func.jvp(g, (x,), (f(x),))
        _, Df_g = torch.func.jvp(f, (x,), (g(x),))
        return Dg_f - Df_g

    return bracket


def vector_fields(manifold, generators="all"):
    """Return the fields g_i(x) = B_i x as functions of points.

    Parameters
    ----------
    manifold : manifold
        Where they live.
    generators : {"all", "chain"} or array, default="all"
        Which fields; as in :class:`~sklearn_attn.dynamics.Flow`.

    Returns
    -------
    list of callable
        Each takes points and returns tangent vectors, tensors of shape (n, n_features).

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.dynamics import Sphere, lie_bracket, vector_fields
    >>> around_z, around_x = vector_fields(Sphere(2), "chain")
    >>> north = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    >>> around_z(north).abs().max().item(), around_x(north)[0].tolist()
    (0.0, [0.0, -1.0, 0.0])
    """

    def field(coordinates):
        def g(x):
            v = coordinates.to(x)[:, None].expand(-1, len(x))
            return manifold.group.velocity(v, x.T).T

        return g

    return [field(row) for row in as_coordinates(manifold, generators)]


def lie_closure(group, coordinates):
    """Return an orthonormal basis of the Lie algebra that elements generate.

    Parameters
    ----------
    group : group
        Knows the bracket.
    coordinates : torch.Tensor of shape (m, n_generators)
        The elements.

    Returns
    -------
    torch.Tensor of shape (rank, n_generators)
        The basis of all their iterated brackets.
    """
    lengths = torch.linalg.vector_norm(coordinates, dim=1, keepdim=True)
    coordinates = (coordinates / lengths)[lengths[:, 0] > 0]
    basis = new = _new_directions(coordinates, coordinates[:0])
    while len(new):
        a = coordinates.repeat_interleave(len(new), 0)
        brackets = group.bracket(a.T, new.repeat(len(coordinates), 1).T).T
        new = _new_directions(brackets, basis)
        basis = torch.cat([basis, new])
    return basis


def closure_rank(manifold, generators="all", points=None):
    """Return the ranks of the closure: in the Lie algebra, and of tangent vectors.

    The second is the least over `points` and some random points.
    """
    group, coordinates = manifold.group, as_coordinates(manifold, generators)
    is_named = isinstance(generators, str)
    if is_named and group.n_generators > _LARGEST_CLOSURE:
        # all planes, or a chain of them: they generate so(n), which acts transitively
        return group.n_generators, manifold.dim
    basis = lie_closure(group, coordinates)
    if not len(basis):
        return 0, 0
    x = torch.from_numpy(manifold.random_points(_N_POINTS, 0))
    if points is not None:
        x = torch.cat([x, points.to("cpu", x.dtype)])
    r, n = len(basis), len(x)
    v = basis.repeat_interleave(n, 0).T  # (k, r n)
    tangents = group.velocity(v, x.repeat(r, 1).T).T.reshape(r, n, -1)
    ranks = torch.linalg.matrix_rank(tangents.transpose(0, 1), rtol=_RANK_TOL)
    return r, int(ranks.min())


def is_bracket_generating(manifold, generators="all", points=None):
    """Tell whether fields and their iterated brackets span every tangent space.

    Then, and on a compact manifold, the flows of the fields reach every diffeomorphism
    that is isotopic to the identity (2305.08849, Theorem 5).

    Parameters
    ----------
    manifold : manifold
        Where the fields live.
    generators : {"all", "chain"} or array, default="all"
        Which fields; as in :class:`~sklearn_attn.dynamics.Flow`.
    points : array of shape (n, n_features), default=None
        Where to look, beside twenty random points.

    Returns
    -------
    bool
        Whether the rank is the dimension of the manifold at all of the points.

    Examples
    --------
    >>> from sklearn_attn.dynamics import Sphere, is_bracket_generating
    >>> is_bracket_generating(Sphere(2), "chain")
    True
    >>> one_rotation = [[[0, -1, 0], [1, 0, 0], [0, 0, 0]]]
    >>> is_bracket_generating(Sphere(2), one_rotation)
    False
    """
    points = None if points is None else to_tensor(points)
    _, rank = closure_rank(manifold, generators, points)
    return rank == manifold.dim


def as_coordinates(manifold, generators):
    """Return fields as coordinates in the Lie algebra, of shape (m, n_generators).

    Matrices (m, d, d) must lie in the algebra, as only then the fields are tangent.
    """
    if isinstance(generators, str):
        return manifold.generators(generators)
    B = np.asarray(to_numpy(generators))
    if B.dtype.kind not in "biuf":
        raise ValueError(
            f"generators must be an array of real numbers; got dtype {B.dtype}."
        )
    B = to_tensor(B.astype(np.float64))
    k = manifold.group.n_generators
    frames = manifold.frames
    size = None if frames is None else math.isqrt(frames.n_coordinates)
    wanted = f"(m, {k}), coordinates in the Lie algebra"
    if size:
        wanted = f"(m, {size}, {size}), or {wanted}"
    shapes = [(k,), (size, size)]
    if len(B) == 0 or tuple(B.shape[1:]) not in shapes:
        raise ValueError(
            f"generators of {manifold!r} must be of shape {wanted}, with m >= 1; got "
            f"{tuple(B.shape)}."
        )
    if not torch.isfinite(B).all():
        raise ValueError("generators must be finite; they hold NaN or infinity.")
    if B.ndim == 2:
        return B
    v = frames.coordinates(B)
    # each field against its own size
    size_of = B.abs().amax((1, 2))
    defect = (as_matrices(manifold, v.T) - B).abs().amax((1, 2))
    defect = defect / torch.where(size_of == 0, 1.0, size_of)
    worst = int(defect.argmax())
    if defect[worst] > _RANK_TOL:
        raise ValueError(
            f"Vector field {worst} is not tangent to {manifold!r}: its matrix is "
            f"{defect[worst]:.2g} of its size away from the Lie algebra. For "
            "rotations, matrices must be skew."
        )
    return v.T.contiguous()


def as_matrices(manifold, coordinates):
    """Return the matrices (m, d, d) of elements of the Lie algebra, if they have any.

    Fields of vectors, circles and products are told by their coordinates alone.
    """
    if manifold.frames is None:
        return coordinates
    size = math.isqrt(manifold.frames.n_coordinates)
    one = torch.eye(size, dtype=coordinates.dtype, device=coordinates.device)
    one = one.reshape(-1, 1).expand(-1, len(coordinates))
    B = manifold.frames.velocity(coordinates.T, one)
    return B.T.reshape(-1, size, size)


def _new_directions(rows, basis):
    """Return an orthonormal basis of what rows span beyond an orthonormal basis."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    is_there = lengths[:, 0] >= _RANK_TOL
    if not is_there.any():
        return rows[:0]
    rest = rows[is_there] / lengths[is_there]
    for _ in range(2):  # once is not enough: what is left may be small
        rest = rest - (rest @ basis.T) @ basis
    _, triangle = torch.linalg.qr(rest, mode="r")
    _, values, directions = torch.linalg.svd(triangle, full_matrices=False)
    return directions[values > _RANK_TOL * max(rest.shape)]
