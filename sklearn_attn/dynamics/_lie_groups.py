"""x' = v.x  =>  x(1) = exp(v).x: groups that act on manifolds, in closed form.

A velocity v is an element of the Lie algebra, given by its coordinates. All arrays are
feature-major: v is (n_generators, n), x is (n_coordinates, n), for n samples. Products
of a few numbers are then a few operations on long vectors, and no small matrix is ever
formed. Each group also knows the adjoint of its exponential, and the `coordinates` of
matrices of shape (m, d, d) in its algebra (2305.08849; closed forms as in
Iserles et al., Lie-group methods, Acta Numerica 2000).
"""

import math

import torch

# Below this squared angle the quotients of sines are summed as series of three terms,
# whose next term is smaller than the rounding unit.
_SMALL_SQUARED_ANGLE = 1e-4


class Translations:
    """x' = v: the plain vector space of dimension d."""

    def __init__(self, d):
        self.n_generators = self.n_coordinates = d

    def bracket(self, u, v):
        """Translations commute."""
        return torch.zeros_like(u)

    def velocity(self, v, x):
        return v.expand_as(x)

    def exp(self, v, x):
        return x + v

    cayley = exp

    def exp_adjoint(self, v, x, y, g):
        return g, g

    def renormalize(self, x):
        return x


class PlaneRotations:
    """Rotations of planes, each by an angle of its own, of one or two columns."""

    def __init__(self, n_planes=1, n_columns=1):
        self.n_generators = n_planes
        self.shape = (n_planes, 2, n_columns)
        self.n_coordinates = math.prod(self.shape)

    def coordinates(self, B):
        return B[:, 1, 0][None]

    def bracket(self, u, v):
        """Rotations of planes commute."""
        return torch.zeros_like(u)

    def velocity(self, v, x):
        x = x.unflatten(0, self.shape)
        return (v[:, None, None] * _quarter_turn(x)).flatten(0, 2)

    def exp(self, v, x):
        return self._turn(torch.cos(v), torch.sin(v), x)

    def cayley(self, v, x):
        """Turn by 2 atan(v / 2)."""
        quarter = v * v / 4
        return self._turn((1 - quarter) / (1 + quarter), v / (1 + quarter), x)

    def exp_adjoint(self, v, x, y, g):
        turned = _quarter_turn(y.unflatten(0, self.shape))
        slope = (g.unflatten(0, self.shape) * turned).sum((1, 2))
        return slope, self._turn(torch.cos(v), -torch.sin(v), g)

    def renormalize(self, x):
        return _newton_schulz(x.unflatten(0, self.shape)).flatten(0, 2)

    def _turn(self, cos, sin, x):
        x = x.unflatten(0, self.shape)
        turned = sin[:, None, None] * _quarter_turn(x)
        return torch.addcmul(turned, cos[:, None, None], x).flatten(0, 2)


class SpaceRotations:
    """Rotations of space, exp(hat w) x by Rodrigues' formula, of one to three columns.

    v holds the rotation vector w: hat(w) x is the cross product of w and x.
    """

    n_generators = 3

    def __init__(self, n_columns=1):
        self.shape = (3, n_columns)
        self.n_coordinates = 3 * n_columns

    def coordinates(self, B):
        return torch.stack([B[:, 2, 1], B[:, 0, 2], B[:, 1, 0]])

    def bracket(self, u, v):
        return _cross(u, v)

    def velocity(self, v, x):
        return _cross(v[:, None], x.unflatten(0, self.shape)).flatten(0, 1)

    def exp(self, v, x):
        A, B = _sine_quotients(v)
        return _turn(v, A, B, x.unflatten(0, self.shape)).flatten(0, 1)

    def cayley(self, v, x):
        """Turn by 2 atan(|v| / 2) around v."""
        A = 1 / (1 + (v * v).sum(0) / 4)
        return _turn(v, A, A / 2, x.unflatten(0, self.shape)).flatten(0, 1)

    def exp_adjoint(self, v, x, y, g):
        A, B = _sine_quotients(v)
        g = g.unflatten(0, self.shape)
        torque = _cross(y.unflatten(0, self.shape), g).sum(1)
        back = _turn(-v, A, B, g).flatten(0, 1)
        return _slope_in_vector(v, A, B, torque), back

    def renormalize(self, x):
        return _newton_schulz(x.unflatten(0, self.shape)).flatten(0, 1)


class Rotations:
    """Rotations of n dimensions, of one to n columns, by exponentials of matrices.

    v holds the entries below the diagonal: E_ij, for i < j, turns axis i to axis j.
    """

    def __init__(self, n, n_columns=1):
        self.shape = (n, n_columns)
        self.n_coordinates = n * n_columns
        self.n_generators = n * (n - 1) // 2

    def matrix(self, v):
        i, j = self._pairs(v)
        lower = v.new_zeros(v.shape[1], self.shape[0], self.shape[0])
        every = torch.arange(len(lower), device=v.device)[:, None]
        lower = lower.index_put((every, j, i), v.T)
        return lower - lower.mT  # (N, n, n)

    def coordinates(self, B):
        i, j = self._pairs(B)
        return B[:, j, i].T

    def bracket(self, u, v):
        U, V = self.matrix(u), self.matrix(v)
        i, j = self._pairs(u)
        return (U @ V - V @ U)[:, j, i].T

    def velocity(self, v, x):
        return self._apply(self.matrix(v), x)

    def exp(self, v, x):
        M = self.matrix(v)
        if len(M) == 1:  # torch takes a rougher series for a single small matrix
            return self._apply(torch.linalg.matrix_exp(M.repeat(2, 1, 1))[:1], x)
        return self._apply(torch.linalg.matrix_exp(M), x)

    def cayley(self, v, x):
        half = self.matrix(v) / 2
        one = torch.eye(self.shape[0], dtype=v.dtype, device=v.device)
        return self._apply(torch.linalg.solve(one - half, one + half), x)

    def exp_adjoint(self, v, x, y, g):
        with torch.enable_grad():
            v, x = v.detach().requires_grad_(), x.detach().requires_grad_()
            return torch.autograd.grad(self.exp(v, x), (v, x), g)

    def renormalize(self, x):
        return _newton_schulz(x.unflatten(0, self.shape)).flatten(0, 1)

    def _pairs(self, v):
        n, _ = self.shape
        return torch.triu_indices(n, n, 1, device=v.device)

    def _apply(self, M, x):
        x = x.unflatten(0, self.shape).movedim(-1, 0)  # (N, n, p)
        return (M @ x).movedim(0, -1).flatten(0, 1)


class RigidMotions:
    """Screw motions of 4 x 4 matrices [[R, t], [0, 1]], v = (w, u) a twist.

    exp(v) = [[exp(hat w), V u], [0, 1]],  V = 1 + B hat w + C hat w^2.
    """

    n_generators = 6
    n_coordinates = 16

    def coordinates(self, B):
        return torch.cat([SpaceRotations().coordinates(B), B[:, :3, 3].T])

    def bracket(self, u, v):
        (a, b), (c, d) = u.split(3), v.split(3)
        return torch.cat([_cross(a, c), _cross(a, d) + _cross(b, c)])

    def velocity(self, v, x):
        w, u = v.split(3)
        top, bottom = self._split(x)
        return self._join(
            _cross(w[:, None], top) + u[:, None] * bottom, torch.zeros_like(bottom)
        )

    def exp(self, v, x):
        w, u = v.split(3)
        A, B = _sine_quotients(w)
        return self._move(w, A, B, _shift(w, B, _third_quotient(w, A), u), x)

    def cayley(self, v, x):
        w, u = v.split(3)
        A = 1 / (1 + (w * w).sum(0) / 4)
        return self._move(w, A, A / 2, _shift(w, A / 2, A / 4, u), x)

    def exp_adjoint(self, v, x, y, g):
        w, u = v.split(3)
        A, B = _sine_quotients(w)
        C = _third_quotient(w, A)
        squared_angle = (w * w).sum(0)
        top, bottom = self._split(x)
        g_top, g_bottom = self._split(g)
        torque = _cross(_turn(w, A, B, top), g_top).sum(1)
        g_shift = (g_top * bottom).sum(1)
        wu = _cross(w, u)
        wwu = _cross(w, wu)
        slope = _slope_in_vector(w, A, B, torque)
        slope = slope + B * _cross(u, g_shift)
        slope = slope + C * (_cross(wu, g_shift) + _cross(u, _cross(g_shift, w)))
        along = _slope_in_squared_angle(squared_angle, A, B, 1 / 24, 1 / 360)
        slope = slope + 2 * w * along * (g_shift * wu).sum(0)
        along = _slope_in_squared_angle(squared_angle, B, 1.5 * C, 1 / 120, 1 / 2520)
        slope = slope + 2 * w * along * (g_shift * wwu).sum(0)
        back = _shift(-w, B, C, g_shift)
        g_bottom = g_bottom + (g_top * _shift(w, B, C, u)[:, None]).sum(0)
        return (
            torch.cat([slope, back]),
            self._join(_turn(-w, A, B, g_top), g_bottom),
        )

    def renormalize(self, x):
        top, bottom = self._split(x)
        rotation = _newton_schulz(top[:, :3])
        return self._join(torch.cat([rotation, top[:, 3:]], 1), bottom)

    def _move(self, w, A, B, shift, x):
        top, bottom = self._split(x)
        return self._join(_turn(w, A, B, top) + shift[:, None] * bottom, bottom)

    def _split(self, x):
        rows = x.unflatten(0, (4, 4))
        return rows[:3], rows[3]

    def _join(self, top, bottom):
        return torch.cat([top, bottom[None]]).flatten(0, 1)


class DirectProduct:
    """Groups side by side, each on coordinates of its own."""

    def __init__(self, parts):
        self.parts = tuple(parts)
        self._of_v = [part.n_generators for part in self.parts]
        self._of_x = [part.n_coordinates for part in self.parts]
        self.n_generators, self.n_coordinates = sum(self._of_v), sum(self._of_x)

    def bracket(self, u, v):
        return self._each("bracket", u.split(self._of_v), v.split(self._of_v))

    def velocity(self, v, x):
        return self._each("velocity", v.split(self._of_v), x.split(self._of_x))

    def exp(self, v, x):
        return self._each("exp", v.split(self._of_v), x.split(self._of_x))

    def cayley(self, v, x):
        return self._each("cayley", v.split(self._of_v), x.split(self._of_x))

    def exp_adjoint(self, v, x, y, g):
        pieces = (v.split(self._of_v), *(part.split(self._of_x) for part in (x, y, g)))
        slopes = [part.exp_adjoint(*z) for part, *z in zip(self.parts, *pieces)]
        return tuple(torch.cat(side) for side in zip(*slopes))

    def renormalize(self, x):
        return self._each("renormalize", x.split(self._of_x))

    def _each(self, verb, *pieces):
        return torch.cat([getattr(p, verb)(*z) for p, *z in zip(self.parts, *pieces)])


def rotations(n, n_columns=1):
    """Return the group SO(n) on n_columns vectors, in the closed form that there is."""
    if n == 2:
        return PlaneRotations(1, n_columns)
    return SpaceRotations(n_columns) if n == 3 else Rotations(n, n_columns)


def _sine_quotients(w):
    """Return A = sin t / t and B = (1 - cos t) / t^2 for the angle t = |w|."""
    # sinc is exact at zero, and has no cancellation on the way there
    turns = torch.sqrt((w * w).sum(0)) / math.pi
    return torch.sinc(turns), torch.sinc(turns / 2).square_().mul_(0.5)


def _third_quotient(w, A):
    """Return C = (1 - A) / t^2."""
    q = (w * w).sum(0)
    small = q < _SMALL_SQUARED_ANGLE
    series = 1 / 6 - q / 120 + q * q / 5040
    return torch.where(small, series, (1 - A) / torch.where(small, 1.0, q))


def _slope_in_squared_angle(q, A, B, first, second):
    """Return (A - 2 B) / (2 q), which is the slope of B in q = t^2."""
    small = q < _SMALL_SQUARED_ANGLE
    return torch.where(
        small, second * q / 2 - first, (A / 2 - B) / torch.where(small, 1.0, q)
    )


def _turn(w, A, B, x):
    """(1 - B |w|^2) x + A w x x + B w (w'x), for columns x of shape (3, p, n)."""
    w, q = w[:, None], (w * w).sum(0)
    y = torch.addcmul(x, A, _cross(w, x))
    y.addcmul_(w, B * (w * x).sum(0))
    return y.addcmul_(x, B * q, value=-1)


def _slope_in_vector(w, A, B, torque):
    """(1 - B hat w + C hat w^2) torque: how the turn changes with its vector."""
    # with two factors w, C = (1 - A) / |w|^2 needs no series
    C = (1 - A) / (w * w).sum(0).clamp_min(torch.finfo(A.dtype).tiny)
    along = torch.addcmul(A * torque, w, C * (w * torque).sum(0))
    return along.addcmul_(B, _cross(w, torque), value=-1)


def _shift(w, B, C, u):
    """V u = u + B w x u + C w x (w x u)."""
    wu = _cross(w, u)
    return u + B * wu + C * _cross(w, wu)


def _cross(a, b):
    """Cross product along the first axis."""
    # three operations on all rows; entries one by one would be six, on views
    a, b = torch.cat([a, a[:2]]), torch.cat([b, b[:2]])
    return torch.mul(a[1:4], b[2:5]).addcmul_(a[2:5], b[1:4], value=-1)


def _quarter_turn(x):
    """Turn the planes (n_planes, 2, p, n) by a right angle."""
    return torch.stack([-x[:, 1], x[:, 0]], 1)


def _newton_schulz(x):
    """x (3 - x'x) / 2: towards orthonormal columns, for x of shape (..., d, p, n)."""
    if x.shape[-2] == 1:
        return x * (1.5 - 0.5 * (x * x).sum(-3, keepdim=True))
    gram = (x.unsqueeze(-2) * x.unsqueeze(-3)).sum(-4)
    return 1.5 * x - 0.5 * (x.unsqueeze(-2) * gram.unsqueeze(-4)).sum(-3)
