"""What the generators promise."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from sklearn_attn.datasets import (
    make_bilinear_system,
    make_bloch_spin,
    make_boost_converter,
    make_digit_bags,
    make_joint_tokens,
    make_koopman_lift,
    make_token_selection,
)


def test_planted_tokens_stand_out_along_two_directions():
    X, y, selected = make_token_selection(
        400, 5, 8, relevance=6.0, class_sep=3.0, random_state=0, return_selected=True
    )
    rows = np.arange(400)
    planted = X[rows, selected]
    difference = planted[y == 1].mean(0) - planted[y == 0].mean(0)
    common = (planted[y == 1].mean(0) + planted[y == 0].mean(0)) / 2
    # standard errors of means of 200: 0.07 per coordinate, 0.2 of their length
    assert np.linalg.norm(difference) == pytest.approx(3.0, abs=0.4)
    assert np.linalg.norm(common) == pytest.approx(6.0, abs=0.4)
    others = np.delete(X, 0, axis=1)[selected == 0]
    assert np.abs(others.mean((0, 1))).max() < 0.25
    assert set(np.unique(selected)) == set(range(5))


def test_noise_scales_and_the_seed_decides():
    arguments = {"relevance": 0.0, "class_sep": 0.0, "random_state": 3}
    X, y = make_token_selection(50, noise=2.0, **arguments)
    again, y_again = make_token_selection(50, noise=1.0, **arguments)
    np.testing.assert_allclose(X, 2 * again)
    np.testing.assert_array_equal(y, y_again)
    assert not np.allclose(X, make_token_selection(50, random_state=4)[0])
    with pytest.raises(ValueError, match="n_token_features >= 2; got 1"):
        make_token_selection(n_token_features=1)


@pytest.mark.parametrize("digits", [9, (3, 8), (1, 4, 7)])
@pytest.mark.parametrize("subset", ["train", "test"])
def test_bags_hold_the_telling_digit_once(digits, subset):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digit_of = {image.tobytes(): label for image, label in zip(images / 16, labels)}
    X, y, selected = make_digit_bags(
        90, 7, digits=digits, subset=subset, random_state=0, return_selected=True
    )
    bags = np.array([[digit_of[token.tobytes()] for token in bag] for bag in X])
    wanted = np.atleast_1d(digits)
    count = np.isin(bags, wanted).sum(1)
    if wanted.size == 1:
        np.testing.assert_array_equal(count, y)
        assert y.sum() == 45
        assert (selected[y == 0] == -1).all()
        assert (bags[y == 1, selected[y == 1]] == digits).all()
    else:
        assert (count == 1).all()
        np.testing.assert_array_equal(bags[np.arange(90), selected], y)
        assert len(set(np.bincount(y)[wanted])) == 1


def test_training_and_test_bags_share_no_image():
    images = [
        {
            token.tobytes()
            for bag in make_digit_bags(400, 10, subset=subset, random_state=seed)[0]
            for token in bag
        }
        for seed, subset in enumerate(("train", "test"))
    ]
    # a few drawings occur twice in the bundled set itself; none here
    assert not images[0] & images[1]


@pytest.mark.parametrize(
    "digits", [10, -1, (3, 3), tuple(range(10)), (2.5, 3), (), "9", True]
)
def test_digits_that_make_no_task_are_refused(digits):
    with pytest.raises(ValueError, match="distinct"):
        make_digit_bags(digits=digits)


def test_an_unknown_subset_is_refused():
    with pytest.raises(ValueError, match="'train' or 'test'"):
        make_digit_bags(subset="validation")


def test_the_joint_geometry_is_that_of_the_paper():
    X, y, selected = make_joint_tokens(tight=True)
    np.testing.assert_array_equal(X[:, 1], [[1, 1], [1, -1], [0.5, 1]])
    assert (X[:, 0] == 0).all()
    np.testing.assert_array_equal(y, [1, -1, 1])
    np.testing.assert_array_equal(selected, 1)


def test_random_systems_have_the_radii_and_moments_that_were_asked_for():
    X, y, system = make_bilinear_system(
        5000,
        4,
        2,
        radius=0.5,
        coupling=0.2,
        input_std=2.0,
        noise=0.7,
        input_matrix=True,
        random_state=0,
        return_system=True,
    )
    radii = np.abs(np.linalg.eigvals(system.A)).max(axis=1)
    np.testing.assert_allclose(radii, [0.5, 0.2, 0.2])
    np.testing.assert_array_equal(X[1:, :4], y[:-1])
    # standard errors of 5000 draws are 1 %
    np.testing.assert_allclose(X[:, 4:].std(0), 2.0, rtol=0.05)
    noise = y - system.step(X[:, :4], X[:, 4:])
    np.testing.assert_allclose(noise.std(0), 0.7, rtol=0.05)
    assert not make_bilinear_system(3, initial="zero")[0][0, :5].any()
    assert not make_bilinear_system(3, return_system=True)[2].B.any()


@pytest.mark.parametrize(
    ("make", "rates"),
    [
        (
            make_boost_converter,
            lambda x, u: [
                (12 - (1 - u[0]) * x[1]) / 1e-3,
                ((1 - u[0]) * x[0] - x[1] / 10) / 100e-6,
            ],
        ),
        (
            make_bloch_spin,
            lambda x, u: np.cross(x, [*u, 1]) - [x[0] / 0.5, x[1] / 0.5, x[2] - 1],
        ),
        (
            make_koopman_lift,
            lambda x, u: [
                -0.3 * x[0] + u[0],
                -(x[1] - x[0] ** 2),
                2 * x[0] * (-0.3 * x[0] + u[0]),
            ],
        ),
    ],
)
def test_physical_systems_solve_their_equations(make, rates):
    X, y, system = make(40, random_state=0, return_system=True)
    n = y.shape[1]
    np.testing.assert_array_equal(X[1:, :n], y[:-1])
    changes = np.flatnonzero((np.diff(X[:, n:], axis=0) != 0).any(1)) + 1
    assert set(changes % changes[0]) == {0}  # inputs are held
    for row, after in zip(X, y):
        flow = solve_ivp(
            lambda _, x, u=row[n:]: rates(x, u),
            (0, system.dt),
            row[:n],
            rtol=1e-10,
            atol=1e-12,
        )
        np.testing.assert_allclose(after, flow.y[:, -1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "make", [make_boost_converter, make_bloch_spin, make_koopman_lift]
)
def test_noise_is_added_to_physical_systems_in_each_step(make):
    X, y, system = make(3000, noise=0.1, random_state=0, return_system=True)
    n = y.shape[1]
    noise = y - system.step(X[:, :n], X[:, n:])
    np.testing.assert_allclose(noise.std(0), 0.1, rtol=0.08)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (make_bilinear_system, {"n_states": 0}, "n_states must be at least 1; got 0"),
        (make_bilinear_system, {"initial": "one"}, "'normal' or 'zero'; got 'one'"),
        (make_boost_converter, {"duty": (0.5, 1.0)}, "interval within"),
        (make_boost_converter, {"hold": 0}, "hold must be at least 1"),
        (make_bloch_spin, {"relaxation": (1.0, 0.0)}, "relaxation must be positive"),
        (make_koopman_lift, {"dt": 0.0}, "dt must be positive"),
    ],
)
def test_systems_that_cannot_be_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_the_converter_starts_from_rest():
    X, _, system = make_boost_converter(50, random_state=0, return_system=True)
    np.testing.assert_allclose(system.step(X[0, :2], [0.2]), X[0, :2], atol=1e-12)
