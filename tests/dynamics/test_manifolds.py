"""Laws that every manifold, and the group that moves it, must keep."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation

from sklearn_attn.dynamics import (
    Euclidean,
    Product,
    SpecialEuclidean,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Torus,
)
from sklearn_attn.dynamics._flow import _Exponential
from sklearn_attn.dynamics._lie_groups import (
    DirectProduct,
    PlaneRotations,
    RigidMotions,
    Rotations,
    SpaceRotations,
    Translations,
)
from sklearn_attn.dynamics._manifolds import as_manifold

MANIFOLDS = [
    Euclidean(3),
    Sphere(1),
    Sphere(2),
    Sphere(4),
    SpecialOrthogonal(2),
    SpecialOrthogonal(3),
    SpecialOrthogonal(4),
    SpecialEuclidean(),
    Stiefel(3, 2),
    Stiefel(5, 2),
    Torus(3),
    Product(Sphere(2), SpecialOrthogonal(3), Torus(1), Euclidean(2)),
]
GROUPS = {
    "translations": Translations(4),
    "circles": PlaneRotations(3),
    "SO(2)": PlaneRotations(1, 2),
    "SO(3) on vectors": SpaceRotations(1),
    "SO(3)": SpaceRotations(3),
    "SO(4) on vectors": Rotations(4, 1),
    "SO(4)": Rotations(4, 4),
    "SE(3)": RigidMotions(),
    "product": DirectProduct([SpaceRotations(1), PlaneRotations(1), Translations(2)]),
}
ANGLES = [0.0, 1e-9, 1e-3, 9.9e-3, 1.01e-2, 0.1, 1.0, 3.0, 10.0]
ROUNDING = 1e-13  # a hundred operations on numbers of the order of 1 to 10

each_manifold = pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
each_group = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)


def tangents(manifold, x, seed=0):
    v = np.random.default_rng(seed).standard_normal(x.shape)
    return manifold.project_tangent(x, v)


def affine(group, v):
    """Return, sample by sample, the matrix of the field x -> v.x, with a constant."""
    d, n = group.n_coordinates, v.shape[1]
    zero = torch.zeros(d, n, dtype=v.dtype)
    constant = group.velocity(v, zero)
    columns = [
        group.velocity(v, unit[:, None].expand(d, n)) - constant
        for unit in torch.eye(d, dtype=v.dtype)
    ]
    M = torch.zeros(n, d + 1, d + 1, dtype=v.dtype)
    M[:, :d, :d] = torch.stack(columns, 1).permute(2, 0, 1)
    M[:, :d, d] = constant.T
    return M.numpy()


def draw(group, scale, n=5):
    generator = torch.Generator().manual_seed(0)
    like = {"generator": generator, "dtype": torch.float64}
    v = scale * torch.randn(group.n_generators, n, **like)
    return v, torch.randn(group.n_coordinates, n, **like)


def acted(matrices, x):
    one = np.ones((1, x.shape[1]))
    return np.einsum("nij,jn->in", matrices, np.vstack([x.numpy(), one]))[:-1]


@each_group
@pytest.mark.parametrize("angle", ANGLES)
def test_the_exponential_is_that_of_matrices(group, angle):
    v, x = draw(group, angle)
    expected = acted(np.stack([expm(M) for M in affine(group, v)]), x)
    # expm scales and squares: it loses digits with the size of its argument
    np.testing.assert_allclose(group.exp(v, x), expected, atol=ROUNDING * (1 + angle))


@each_group
@pytest.mark.parametrize("angle", ANGLES)
def test_the_cayley_transform_is_that_of_matrices(group, angle):
    v, x = draw(group, angle)
    M = affine(group, v) / 2
    one = np.eye(M.shape[1])
    expected = acted(np.linalg.solve(one - M, one + M), x)
    np.testing.assert_allclose(group.cayley(v, x), expected, atol=ROUNDING)


@each_group
@pytest.mark.parametrize("angle", ANGLES)
def test_the_adjoint_of_the_exponential_is_its_slope(group, angle):
    v, x = (z.requires_grad_() for z in draw(group, angle, n=3))
    assert torch.autograd.gradcheck(
        lambda v, x: _Exponential.apply(v, x, group), (v, x), atol=1e-7, rtol=1e-6
    )


@each_group
@pytest.mark.parametrize("angle", ANGLES)
def test_the_adjoint_has_all_digits(group, angle):
    """Against torch's slopes of the exponential of matrices."""
    v, x = draw(group, angle)
    _, g = draw(group, 1.0)
    g = g.roll(1, 1)
    k, d = group.n_generators, group.n_coordinates
    basis = affine(group, torch.eye(k, dtype=torch.float64))  # (k, d + 1, d + 1)
    w, z = v.clone().requires_grad_(), x.clone().requires_grad_()
    E = torch.linalg.matrix_exp(torch.einsum("kn,kij->nij", w, torch.tensor(basis)))
    y = torch.einsum("nij,jn->in", E, torch.cat([z, torch.ones_like(z[:1])]))[:d]
    expected = torch.autograd.grad((y * g).sum(), (w, z))
    found = group.exp_adjoint(v, x, group.exp(v, x), g)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-13 * (1 + angle))


@pytest.mark.parametrize("angle", ANGLES)
def test_the_adjoint_of_a_screw_has_all_digits_for_long_translations(angle):
    group = GROUPS["SE(3)"]
    v, x = draw(group, 1.0)
    v[:3] *= angle
    _, g = draw(group, 1.0)
    w = v.clone().requires_grad_()
    basis = group.velocity(
        torch.eye(6).double(), torch.eye(4).double().reshape(16, 1).expand(16, 6)
    ).T.reshape(6, 4, 4)
    E = torch.linalg.matrix_exp(torch.einsum("kn,kij->nij", w, basis))
    y = torch.einsum("nij,jkn->ikn", E, x.unflatten(0, (4, 4))).flatten(0, 1)
    (expected,) = torch.autograd.grad((y * g).sum(), w)
    found, _ = group.exp_adjoint(v, x, group.exp(v, x), g)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * (1 + angle))


@each_group
def test_a_sample_alone_moves_as_it_does_among_others(group):
    v, x = draw(group, 0.03)
    together = group.exp(v, x)
    for i in range(v.shape[1]):
        alone = group.exp(v[:, i : i + 1], x[:, i : i + 1])
        torch.testing.assert_close(alone, together[:, i : i + 1], rtol=0, atol=1e-15)


@each_group
def test_the_bracket_is_the_commutator(group):
    u, _ = draw(group, 1.0)
    v = u.roll(1, 1)
    U, V, W = (affine(group, w) for w in (u, v, group.bracket(u, v)))
    np.testing.assert_allclose(W, U @ V - V @ U, atol=ROUNDING)


@each_group
def test_renormalising_repairs_what_is_nearly_right_and_leaves_the_rest(group):
    if isinstance(group, Translations):
        x = torch.randn(4, 2)
        assert torch.equal(group.renormalize(x), x)
        return
    by_group = {
        "SO(3) on vectors": Sphere(2),
        "SO(4) on vectors": Sphere(3),
        "SO(2)": SpecialOrthogonal(2),
        "SO(3)": SpecialOrthogonal(3),
        "SO(4)": SpecialOrthogonal(4),
        "SE(3)": SpecialEuclidean(),
        "circles": Torus(3),
        "product": Product(Sphere(2), Torus(1), Euclidean(2)),
    }
    (manifold,) = [m for name, m in by_group.items() if GROUPS[name] is group]
    x = manifold.random_points(20, 0)
    off = x + 1e-6 * np.random.default_rng(0).standard_normal(x.shape)
    if isinstance(manifold, SpecialEuclidean):
        off = off.reshape(-1, 4, 4)
        off[:, 3] = [0, 0, 0, 1]
        off = off.reshape(-1, 16)
    repaired = group.renormalize(torch.from_numpy(off).T).T.numpy()
    assert manifold.violation(off).max() > 1e-7
    assert manifold.violation(repaired).max() < 1e-10  # quadratic
    again = group.renormalize(torch.from_numpy(x).T).T.numpy()
    np.testing.assert_allclose(again, x, atol=ROUNDING)


@each_manifold
def test_random_points_lie_on_it_and_the_group_keeps_them_there(manifold):
    x = manifold.random_points(50, random_state=0)
    assert x.shape == (50, manifold.n_features)
    assert manifold.violation(x).max() < ROUNDING
    v = torch.from_numpy(
        np.random.default_rng(0).standard_normal((manifold.group.n_generators, 50))
    )
    moved = manifold.group.exp(v, torch.from_numpy(x).T).T
    assert manifold.violation(moved).max() < ROUNDING
    np.testing.assert_array_equal(x, manifold.random_points(50, random_state=0))


@each_manifold
def test_points_act_as_the_group_says_and_come_back(manifold):
    x = manifold.random_points(6, 0)
    k = manifold.group.n_generators
    v = np.random.default_rng(0).standard_normal((6, k))
    moved = manifold.act(x, v)
    expected = manifold.group.exp(torch.from_numpy(v).T, torch.from_numpy(x).T).T
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_allclose(manifold.act(moved, -v), x, atol=ROUNDING)
    shaped = manifold.act(torch.from_numpy(x).reshape(-1, *manifold.shape), v)
    assert isinstance(shaped, torch.Tensor)
    assert tuple(shaped.shape) == (6, *manifold.shape)
    with pytest.raises(ValueError, match=r"Velocities on .* have shape \(6, "):
        manifold.act(x, v[:, :0])


@each_manifold
def test_projection_is_idempotent_and_reaches_the_manifold(manifold):
    x = manifold.random_points(30, 0)
    off = x + 0.1 * np.random.default_rng(1).standard_normal(x.shape)
    projected = manifold.project(off)
    assert manifold.violation(projected).max() < ROUNDING
    np.testing.assert_allclose(manifold.project(projected), projected, atol=ROUNDING)
    # no point that the group reaches from there is nearer
    near = np.square(projected - off).sum(1)
    for seed in range(5):
        v = 0.05 * np.random.default_rng(seed).standard_normal(
            (manifold.group.n_generators, 30)
        )
        other = manifold.group.exp(torch.from_numpy(v), torch.from_numpy(projected).T)
        if isinstance(manifold, Euclidean | Product | SpecialEuclidean):
            continue  # its last coordinates are free, or fixed
        assert (np.square(other.T.numpy() - off).sum(1) >= near - ROUNDING).all()


@each_manifold
def test_tangent_vectors_have_the_dimension_of_the_manifold(manifold):
    x = manifold.random_points(1, 0)
    basis = np.eye(manifold.n_features)
    projector = np.stack(
        [manifold.project_tangent(x, row[None])[0] for row in basis], axis=1
    )
    np.testing.assert_allclose(projector @ projector, projector, atol=ROUNDING)
    assert np.linalg.matrix_rank(projector, tol=1e-9) == manifold.dim
    group = manifold.group
    units = torch.eye(group.n_generators, dtype=torch.float64)
    columns = torch.from_numpy(x).T.expand(-1, group.n_generators)
    fields = group.velocity(units, columns).T.numpy()
    assert np.linalg.matrix_rank(fields, tol=1e-9) == manifold.dim
    np.testing.assert_allclose(fields @ projector.T, fields, atol=ROUNDING)


@each_manifold
def test_the_distance_is_a_metric(manifold):
    x, y, z = (manifold.random_points(40, seed) for seed in range(3))
    d = manifold.distance
    # atan2 of rounding is rounding; an inverse cosine would give 1e-8
    np.testing.assert_allclose(d(x, x), 0, atol=1e-14)
    np.testing.assert_allclose(d(x, y), d(y, x), atol=ROUNDING)
    assert (d(x, z) <= d(x, y) + d(y, z) + ROUNDING).all()
    assert (d(x, y) > 0).all()


@each_manifold
def test_the_logarithm_is_as_long_as_the_distance_and_its_slope(manifold):
    x, y = (manifold.random_points(40, seed) for seed in range(2))
    log, distance = manifold.log(x, y), manifold.distance(x, y)
    metric = np.broadcast_to(manifold.metric, manifold.n_features)
    np.testing.assert_allclose(
        manifold.project_tangent(x, log), log, atol=ROUNDING * 10
    )
    if not isinstance(manifold, Stiefel):  # whose distance is not along it
        np.testing.assert_allclose(
            np.sqrt((metric * log**2).sum(1)), distance, atol=ROUNDING * 10
        )
    step, v = 1e-5, tangents(manifold, x)
    ahead, behind = (manifold.project(x + sign * step * v) for sign in (1, -1))
    slope = (manifold.distance(ahead, y) ** 2 - manifold.distance(behind, y) ** 2) / (
        2 * step
    )
    # central differences: step^2, and rounding / step
    np.testing.assert_allclose(slope, -2 * (metric * log * v).sum(1), atol=1e-6)


@each_manifold
def test_the_frechet_mean_has_the_least_sum_of_squared_distances(manifold):
    centre = manifold.random_points(1, 3)
    spread = 0.3 * np.random.default_rng(0).standard_normal((25, manifold.n_features))
    x = manifold.project(centre + spread)
    mean = manifold.frechet_mean(x)

    def cost(point):
        return (manifold.distance(np.tile(point, (25, 1)), x) ** 2).sum()

    logs = manifold.log(np.tile(mean, (25, 1)), x)
    np.testing.assert_allclose(logs.mean(0), 0, atol=1e-12)
    for seed in range(5):
        v = tangents(manifold, mean[None], seed)
        assert cost(manifold.project(mean[None] + 0.01 * v)[0]) > cost(mean)


def test_points_all_around_have_a_mean_too():
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert Sphere(1).violation(Sphere(1).frechet_mean(square)[None])[0] < ROUNDING


@pytest.mark.parametrize(
    "manifold", [Sphere(2), SpecialOrthogonal(3), Stiefel(4, 2), Torus(2)], ids=repr
)
def test_zero_has_no_nearest_point(manifold):
    assert np.isnan(manifold.project(np.zeros((1, manifold.n_features)))).any()


@each_manifold
def test_tensors_and_matrices_give_what_rows_of_numpy_do(manifold):
    x, y = (manifold.random_points(4, seed) for seed in range(2))
    shaped = [z.reshape(-1, *manifold.shape) for z in (x, y)]
    expected = manifold.distance(x, y)
    np.testing.assert_array_equal(manifold.distance(*shaped), expected)
    tensors = manifold.distance(*map(torch.from_numpy, shaped))
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_array_equal(tensors, expected)
    assert manifold.log(*shaped).shape == shaped[0].shape
    assert manifold.frechet_mean(shaped[0]).shape == manifold.shape
    single = manifold.distance(x.astype(np.float32), y)
    np.testing.assert_allclose(single, expected, atol=1e-5)
    with pytest.raises(ValueError, match="have shape"):
        manifold.violation(np.ones((3, manifold.n_features + 1)))


def test_small_and_large_angles_keep_their_digits():
    north = np.array([[0.0, 0.0, 1.0]])
    for angle in (1e-12, 1e-8, 1e-3, 1.0, np.pi - 1e-8, np.pi):
        other = np.array([[np.sin(angle), 0.0, np.cos(angle)]])
        assert Sphere(2).distance(north, other)[0] == pytest.approx(angle, abs=1e-15)
        R = Rotation.from_rotvec(angle * np.array([0.6, 0.0, 0.8])).as_matrix()
        found = SpecialOrthogonal(3).distance(np.eye(3)[None], R[None])[0]
        assert found == pytest.approx(angle, abs=1e-15)
        log = SpecialOrthogonal(3).log(np.eye(3)[None], R[None])[0]
        expected = np.array([[0, -0.8, 0], [0.8, 0, -0.6], [0, 0.6, 0]]) * angle
        if angle == np.pi:  # both ways are as long
            log = log * np.sign(log[1, 0])
        np.testing.assert_allclose(log, expected, atol=1e-7 if angle > 3 else 1e-15)


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_rotation_logarithms_are_those_of_scipy(n):
    manifold = SpecialOrthogonal(n)
    x, y = (manifold.random_points(5, seed).reshape(-1, n, n) for seed in range(2))
    found = np.swapaxes(x, 1, 2) @ manifold.log(x, y)
    expected = [np.real(logm(a.T @ b)) for a, b in zip(x, y)]
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_reflections_are_told_from_rotations():
    mirror = np.diag([1.0, 1.0, -1.0])[None]
    for manifold in (SpecialOrthogonal(3), Product(SpecialOrthogonal(3), Sphere(1))):
        point = mirror.reshape(1, 9)
        if isinstance(manifold, Product):
            point = np.c_[point, [[1.0, 0.0]]]
        assert manifold.violation(point)[0] == 2
        assert manifold.reflections(point)[0]
        assert not manifold.reflections(manifold.random_points(5, 0)).any()
    motion = np.eye(4)[None].copy()
    motion[:, :3, :3] = mirror
    assert SpecialEuclidean().reflections(motion)[0]


def test_violation_says_how_far_a_point_is_off():
    assert Sphere(2).violation(np.array([[0.0, 3.0, 4.0]]))[0] == 4
    assert Torus(2).violation(np.array([[1.0, 0.0, 0.0, 0.5]]))[0] == 0.5
    skewed = np.eye(4)[None].copy()
    skewed[0, 3, 0] = 0.25
    assert SpecialEuclidean().violation(skewed)[0] == 0.25


@pytest.mark.parametrize(
    ("name", "shape", "columns", "expected"),
    [
        ("euclidean", None, 5, Euclidean(5)),
        ("sphere", None, 3, Sphere(2)),
        ("so", None, 16, SpecialOrthogonal(4)),
        ("so3", None, 9, SpecialOrthogonal(3)),
        ("se3", None, 16, SpecialEuclidean()),
        ("torus", None, 6, Torus(3)),
        ("stiefel", (4, 2), 8, Stiefel(4, 2)),
        ("sphere", (5,), 3, Sphere(5)),
    ],
)
def test_names_stand_for_manifolds(name, shape, columns, expected):
    assert as_manifold(name, shape, columns) == expected


@pytest.mark.parametrize(
    ("name", "shape", "columns", "message"),
    [
        ("so", None, 8, "no points of 8 numbers"),
        ("torus", None, 5, "no points of 5"),
        ("sphere", None, 1, "no points of 1"),
        ("stiefel", None, 6, r"needs manifold_shape=\(n, p\)"),
        ("stiefel", (4,), 4, "2 number"),
        ("so3", (3,), 9, "0 number"),
        ("stiefel", (3, 3), 9, "SpecialOrthogonal"),
    ],
)
def test_names_that_do_not_fit_are_refused(name, shape, columns, message):
    with pytest.raises(ValueError, match=message):
        as_manifold(name, shape, columns)
