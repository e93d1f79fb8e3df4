"""Lie brackets, and the directions that they reach."""

import numpy as np
import pytest
import torch

from sklearn_attn.dynamics import (
    Euclidean,
    Product,
    SpecialEuclidean,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Torus,
    is_bracket_generating,
    lie_bracket,
    vector_fields,
)
from sklearn_attn.dynamics._vector_fields import (
    as_coordinates,
    as_matrices,
    closure_rank,
)

# the paper's B_1, B_2 and B_3, turns around z, y and x
B1 = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]])
B2 = np.array([[0.0, 0, 1], [0, 0, 0], [-1, 0, 0]])
B3 = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def linear(B):
    return lambda x: x @ torch.from_numpy(B).T


def test_the_bracket_of_linear_fields_is_minus_the_commutator():
    x = torch.from_numpy(Sphere(2).random_points(10, 0))
    found = lie_bracket(linear(B1), linear(B2))(x)
    np.testing.assert_allclose(found, x @ (B2 @ B1 - B1 @ B2).T, atol=1e-15)
    # as the paper says of fields; the commutator of its matrices is -B_3
    np.testing.assert_allclose(found, x @ B3.T, atol=1e-15)
    np.testing.assert_array_equal(B1 @ B2 - B2 @ B1, -B3)


def test_the_bracket_of_nonlinear_fields_is_its_formula():
    def f(x):
        return torch.stack([x[:, 1] ** 2, x[:, 0]], 1)

    def g(x):
        return torch.stack([torch.sin(x[:, 0]), x[:, 0] * x[:, 1]], 1)

    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    a, b = x.unbind(1)
    expected = torch.stack(
        [
            b**2 * torch.cos(a) - 2 * b * a * b,
            b**2 * b + a * a - torch.sin(a),
        ],
        1,
    )
    torch.testing.assert_close(lie_bracket(f, g)(x), expected)
    torch.testing.assert_close(lie_bracket(g, f)(x), -expected)


def test_brackets_of_brackets_keep_jacobis_identity():
    def f(x):
        return torch.sin(x)

    def g(x):
        return x.flip(1) ** 2

    def h(x):
        return torch.stack([x[:, 0] * x[:, 1], torch.cos(x[:, 0])], 1)

    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    total = sum(
        lie_bracket(a, lie_bracket(b, c))(x)
        for a, b, c in ((f, g, h), (g, h, f), (h, f, g))
    )
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-13, rtol=0)


def test_fields_are_matrices_that_act_on_points():
    x = torch.from_numpy(SpecialOrthogonal(3).random_points(4, 0))
    fields = vector_fields(SpecialOrthogonal(3), np.stack([B1, B2]))
    for B, field in zip((B1, B2), fields):
        expected = torch.from_numpy(B) @ x.unflatten(1, (3, 3))
        torch.testing.assert_close(field(x), expected.flatten(1))


@pytest.mark.claim
@pytest.mark.parametrize(
    ("n", "rank"), [(3, 3), (4, 6), (5, 10), (6, 15), (9, 36), (20, 190)]
)
def test_the_chain_of_neighbouring_axes_generates_all_rotations(n, rank):
    assert len(as_coordinates(SpecialOrthogonal(n), "chain")) == n - 1
    assert closure_rank(SpecialOrthogonal(n), "chain") == (rank, rank)
    assert closure_rank(Sphere(n - 1), "chain") == (rank, n - 1)


@pytest.mark.claim
def test_two_turns_reach_every_direction_of_the_sphere_by_their_bracket():
    pair = np.stack([B1, B2])
    assert is_bracket_generating(Sphere(2), pair)
    # on x_1 = 0 the two fields alone are parallel
    x = torch.tensor([[0.0, 0.6, 0.8]], dtype=torch.float64)
    tangents = torch.stack([field(x)[0] for field in vector_fields(Sphere(2), pair)])
    assert np.linalg.matrix_rank(tangents, tol=1e-12) == 1
    assert is_bracket_generating(Sphere(2), pair, points=x)


@pytest.mark.parametrize(
    ("manifold", "generators", "expected"),
    [
        (Sphere(2), B1[None], False),
        (SpecialOrthogonal(3), np.stack([B1, B1 + 1e-3 * B2]), True),
        (Torus(2), np.array([[1.0, 0.0]]), False),
        (Sphere(2), np.zeros((2, 3)), False),
        (Torus(2), "all", True),
        (Euclidean(3), np.eye(3)[:2], False),
        (SpecialEuclidean(), "all", True),
        (Stiefel(4, 2), "chain", True),
        (Product(Sphere(2), Sphere(2)), "chain", True),
        # the same turn on both spheres: never one without the other
        (Product(Sphere(2), Sphere(2)), np.hstack([np.eye(3), np.eye(3)]), False),
    ],
    ids=str,
)
def test_generating_families_are_told_from_others(manifold, generators, expected):
    assert is_bracket_generating(manifold, generators) is expected


def test_unit_quaternions_reach_the_three_sphere_though_not_all_its_rotations():
    left = np.array(
        [
            [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]],
            [[0, 0, -1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, -1, 0, 0]],
        ],
        dtype=float,
    )
    assert closure_rank(Sphere(3), left) == (3, 3)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_the_units_of_fields_do_not_matter_to_their_rank(scale):
    planes = scale * np.eye(6)[[0, 5]]  # of axes 0 and 1, and of 2 and 3: they commute
    assert closure_rank(Sphere(3), planes) == (2, 2)
    assert closure_rank(Sphere(2), scale * np.eye(3)[:2]) == (3, 2)
    assert closure_rank(Sphere(2), np.eye(3) * [[1.0], [scale], [0.0]]) == (3, 2)


@pytest.mark.parametrize(
    ("generators", "message"),
    [
        (np.eye(3)[None], "field 0 is not tangent"),
        (np.stack([B1, B1 + 1e-3 * np.eye(3)]), "field 1 is not tangent"),
        (1e-10 * np.stack([B1, B1 + np.eye(3)]), "field 1 is not tangent"),
        (np.stack([np.eye(3), 1e10 * B1]), "field 0 is not tangent"),
        (np.ones((2, 4, 4)), r"must be of shape \(m, 3, 3\)"),
        (np.ones((2, 5)), r"\(m, 3\)"),
        (np.empty((0, 3)), "m >= 1"),
        (np.full((1, 3), np.nan), "finite"),
        (1j * np.eye(3)[None], "real numbers; got dtype complex"),
    ],
)
def test_fields_that_leave_the_sphere_are_refused(generators, message):
    with pytest.raises(ValueError, match=message):
        as_coordinates(Sphere(2), generators)


def test_matrices_and_coordinates_say_the_same():
    for manifold in (Sphere(2), Sphere(1), SpecialOrthogonal(4), SpecialEuclidean()):
        every = as_coordinates(manifold, "all")
        matrices = as_matrices(manifold, every)
        torch.testing.assert_close(as_coordinates(manifold, matrices.numpy()), every)
