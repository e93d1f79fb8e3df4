"""What the generators promise."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sklearn_attn.datasets import (
    make_bilinear_system,
    make_bloch_spin,
    make_boost_converter,
    make_context_tasks,
    make_digit_bags,
    make_digit_rewards,
    make_digit_tasks,
    make_joint_tokens,
    make_koopman_lift,
    make_long_horizon_rewards,
    make_macrospin,
    make_multipath_tasks,
    make_permuted_digit_tasks,
    make_rigid_body,
    make_rotation_flow,
    make_sphere_flow,
    make_spherical_pendulum,
    make_token_selection,
)
from sklearn_attn.dynamics import SpecialOrthogonal, Sphere


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


def derivative(make, t, step=1e-4, **settings):
    """Return states at time t, and their velocities by central differences."""
    times = [t - step, t, t + step]
    _, path = make(20, times=times, random_state=0, **settings)
    return path[:, 1], (path[:, 2] - path[:, 0]) / (2 * step)


def turn(axis):
    return np.cross(np.eye(3)["xyz".index(axis)], np.eye(3), axisb=1).T


@pytest.mark.parametrize(
    ("make", "settings", "velocity"),
    [
        (
            make_sphere_flow,
            {},
            lambda x: x[:, [1]] * (x @ turn("z").T) + x[:, [2]] * (x @ turn("x").T),
        ),
        (
            make_sphere_flow,
            {"second_field": 2, "initial": "octant"},
            lambda x: x[:, [1]] * (x @ turn("z").T) + x[:, [2]] * (x @ turn("y").T),
        ),
        (
            make_macrospin,
            {"damping": 0.1, "field": (0.1, 0.2, 0.3), "anisotropy": 0.5},
            lambda m: (
                -np.cross(m, [0.1, 0.2, 0.3] + 0.5 * m * [0, 0, 1])
                - 0.1 * np.cross(m, np.cross(m, [0.1, 0.2, 0.3] + 0.5 * m * [0, 0, 1]))
            ),
        ),
        (
            make_rotation_flow,
            {"initial": "uniform"},
            lambda x: np.stack(
                [
                    ((np.trace(X @ X) + 3) * sum(map(turn, "xyz")) @ X).ravel()
                    for X in x.reshape(-1, 3, 3)
                ]
            ),
        ),
    ],
)
def test_motions_on_manifolds_keep_their_equations(make, settings, velocity):
    x, change = derivative(make, 0.7, **settings)
    # differences: step^2, and the integrator's tolerance / step
    np.testing.assert_allclose(change, velocity(x), atol=1e-5)


def test_a_pendulum_loses_energy_by_friction_only():
    """Energy |v|^2 / 2 + z, by differences, with and without the air."""
    for damping in (0.0, 0.3):
        energies = []
        for t in (0.5, 2.0):
            q, v = derivative(make_spherical_pendulum, t, damping=damping)
            energies.append(np.square(v).sum(1) / 2 + q[:, 2])
        if damping:
            assert (energies[1] < energies[0]).all()
        else:
            np.testing.assert_allclose(energies[1], energies[0], atol=1e-6)


def test_a_body_turns_to_its_target():
    X, path = make_rigid_body(50, times=[0.0, 5.0, 30.0], random_state=0)
    np.testing.assert_allclose(path[:, 0], X, atol=1e-14)
    angles = (
        SpecialOrthogonal(3)
        .distance(path.reshape(-1, 9), np.tile(np.eye(3).reshape(1, 9), (150, 1)))
        .reshape(50, 3)
    )
    assert angles[:, 0].max() <= 2.5
    assert (angles[:, 1] < angles[:, 0]).all()
    assert angles[:, 2].max() < 1e-3


@pytest.mark.parametrize(
    "make",
    [
        make_macrospin,
        make_rigid_body,
        make_rotation_flow,
        make_sphere_flow,
        make_spherical_pendulum,
    ],
)
def test_motions_stay_on_the_manifold_and_noise_turns_targets(make):
    X, y = make(400, random_state=0)
    manifold = Sphere(2) if X.shape[1] == 3 else SpecialOrthogonal(3)
    assert manifold.violation(X).max() < 1e-13
    assert manifold.violation(y).max() < 1e-13
    assert manifold.distance(X, y).mean() > 0.3
    again, noisy = make(400, noise=0.01, random_state=0)
    np.testing.assert_array_equal(X, again)
    assert manifold.violation(noisy).max() < 1e-13
    # the mean length of a normal vector of two or three entries
    expected = 0.01 * (np.sqrt(np.pi / 2) if X.shape[1] == 3 else np.sqrt(8 / np.pi))
    np.testing.assert_allclose(manifold.distance(y, noisy).mean(), expected, rtol=0.1)
    _, path = make(400, times=[0.0, 0.5], random_state=0)
    np.testing.assert_allclose(path[:, 0], X, atol=1e-14)
    _, short = make(400, t_final=0.5, random_state=0)
    np.testing.assert_allclose(path[:, 1], short, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (make_sphere_flow, {"initial": "pole"}, "'uniform' or 'octant'; got 'pole'"),
        (make_sphere_flow, {"second_field": 1}, "3 or 2; got 1"),
        (make_rotation_flow, {"initial": "haar"}, "'corner' or 'uniform'"),
        (make_macrospin, {"noise": -1.0}, "noise must be 0 or more"),
        (make_macrospin, {"t_final": 0.0}, "t_final must be above 0"),
        (make_macrospin, {"times": [1.0, 0.5]}, "times must rise"),
        (make_macrospin, {"n_samples": 0}, "n_samples must be 1 or more"),
        (make_sphere_flow, {"n_samples": 2.5}, "n_samples must be 1 or more"),
        (make_rotation_flow, {"n_samples": -1}, "n_samples must be 1 or more"),
        (make_macrospin, {"damping": np.nan}, "damping must be finite"),
        (make_macrospin, {"field": (0.0, np.nan, 1.0)}, "field must be three finite"),
        (make_macrospin, {"field": (0.0, 1.0)}, "field must be three finite"),
        (make_macrospin, {"t_final": np.inf}, "t_final must be above 0"),
        (make_rigid_body, {"inertia": (1.0, np.inf, 1.0)}, "inertia must be three"),
        (make_rigid_body, {"damping": -50.0}, "damping must be 0 or more"),
        (make_spherical_pendulum, {"damping": -1.0}, "damping must be 0 or more"),
        (make_rigid_body, {"max_angle": 4.0}, r"max_angle must be in \(0, pi\]"),
        (make_rigid_body, {"inertia": (1.0, 0.0, 1.0)}, "inertia must be three above"),
    ],
)
def test_motions_that_cannot_be_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (
            make_long_horizon_rewards,
            {"noise": np.inf},
            "noise must be 0 or more, and fin",
        ),
        (make_long_horizon_rewards, {"intercept": np.nan}, "intercept must be finite"),
        (make_long_horizon_rewards, {"lags": (1, 1)}, "distinct integers"),
        (make_long_horizon_rewards, {"lags": ()}, "one or more distinct"),
        (make_long_horizon_rewards, {"lags": (-1,)}, "0 or more"),
        (
            make_long_horizon_rewards,
            {"weights": [1.0]},
            r"weights must have shape \(5,\)",
        ),
        (make_long_horizon_rewards, {"theta": [1.0]}, r"theta must have shape \(20,\)"),
        (make_long_horizon_rewards, {"n_rounds": 0}, "n_rounds must be a positive"),
        (make_digit_rewards, {"payoffs": [np.nan] * 10}, "payoffs must be finite"),
        (make_digit_rewards, {"payoffs": [1.0]}, r"of shape \(10,\)"),
        (make_digit_rewards, {"subset": "some"}, "subset must be"),
    ],
)
def test_rewards_that_make_no_sense_are_refused(make, options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


def test_rewards_come_as_many_rounds_later_as_is_said():
    X, y, pattern = make_long_horizon_rewards(
        50, 3, lags=4, weights=[2.0], noise=0, random_state=0, return_pattern=True
    )
    np.testing.assert_allclose(y[4:], 2 * X[:-4] @ pattern.theta)
    np.testing.assert_array_equal(y[:4], 0)
    X, y, digits = make_digit_rewards(
        60, lags=(0, 7), weights=[1.0, 2.0], noise=0, random_state=0, return_digits=True
    )
    np.testing.assert_allclose(y[7:], (digits[7:] + 2 * digits[:-7]) / 10)
    sizes = {
        subset: len({*map(bytes, make_digit_rewards(9000, subset=subset)[0])})
        for subset in ("train", "test", "all")
    }
    assert sizes["test"] < sizes["train"] < sizes["all"]


def test_tasks_of_a_context_share_its_directions():
    X, y, tasks, true = make_context_tasks(
        (3, 2), 30, 6, ranks=(2, 1), noise=0, random_state=0, return_tasks=True
    )
    assert X.shape == (150, 6)
    assert tasks.tolist() == np.repeat(np.arange(5), 30).tolist()
    for s in range(5):
        rows = tasks == s
        np.testing.assert_allclose(y[rows], X[rows] @ true.coef[s], atol=1e-12)
    assert np.linalg.matrix_rank(true.coef[:3]) == 2
    assert np.linalg.matrix_rank(true.coef[3:]) == 1
    _, shifted, _ = make_context_tasks(
        (3, 2), 30, 6, ranks=(2, 1), noise=0, intercepts=9.0, random_state=0
    )
    noisy = make_context_tasks((40,), 100, 6, ranks=(2,), noise=3.0, random_state=0)[1]
    assert shifted.std() > 3 * y.std()
    assert noisy.var() == pytest.approx(10, rel=0.1)


def test_tasks_pay_for_digits():
    X, y, tasks, payoffs = make_digit_tasks(
        (6, 4), 50, ranks=(2, 3), noise=0, random_state=0, return_payoffs=True
    )
    assert X.shape == (500, 64)
    assert payoffs.shape == (10, 10)
    assert np.linalg.matrix_rank(payoffs[:6]) == 2
    assert np.linalg.matrix_rank(payoffs[6:]) == 3
    np.testing.assert_allclose((payoffs**2).mean(1), 1)
    for s in range(10):
        paid = np.unique(y[tasks == s])
        assert set(paid.round(9)) <= set(payoffs[s].round(9))
    one, other = (
        {*map(bytes, make_digit_tasks((40,), 50, ranks=(1,), subset=subset)[0])}
        for subset in ("train", "test")
    )
    assert len(one & other) < 0.01 * len(one)


@pytest.mark.parametrize("make", [make_context_tasks, make_digit_tasks])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_samples": 0}, "n_samples must be a positive"),
        ({"noise": -1.0}, "noise must be 0 or more"),
        ({"n_tasks": (1,)}, "as long as each other"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(make, options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


@pytest.mark.parametrize(
    ("layers", "tree"),
    [(((3, 2),), False), (((2, 5), (3, 4), (2, 2)), False), (((2, 5), (6, 2)), True)],
)
def test_coefficients_of_tasks_compose_from_modules_along_their_paths(layers, tree):
    X, y, tasks, model = make_multipath_tasks(
        24,
        4,
        7,
        layers=layers,
        tree=tree,
        noise=0,
        intercepts=2.0,
        random_state=0,
        return_model=True,
    )
    for B, (n, r), q in zip(model.modules, layers, (7, *model.supernet.widths)):
        assert B.shape == (n, r, q)
        np.testing.assert_allclose(
            B @ B.transpose(0, 2, 1), np.tile(np.eye(r), (n, 1, 1)), atol=1e-12
        )
    for t, path in enumerate(model.paths):
        product = np.eye(7)
        for B, module in zip(model.modules, path):
            product = B[module] @ product
        np.testing.assert_allclose(model.coef[t], product.T @ model.heads[t])
    np.testing.assert_allclose(np.linalg.norm(model.heads, axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(model.coef, axis=1), 1)
    expected = (X * model.coef[tasks]).sum(1) + model.intercept[tasks]
    np.testing.assert_allclose(y, expected, atol=1e-12)
    # all pathways, in their order, with as many tasks
    taken, counts = np.unique(model.paths, axis=0, return_counts=True)
    np.testing.assert_array_equal(taken, model.supernet.pathways)
    assert len(set(counts)) == 1
    ids = model.supernet.path_ids(torch.as_tensor(model.paths))
    assert (ids.diff() >= 0).all()


def test_noise_and_constants_of_multipath_tasks_have_their_standard_deviations():
    options = {"random_state": 0, "return_model": True}
    X, y, tasks, model = make_multipath_tasks(900, 10, 5, layers=((1, 2),), **options)
    assert not model.intercept.any()
    # 9000 draws: a standard error of 0.7 %
    noise = y - (X * model.coef[tasks]).sum(1)
    assert noise.std() == pytest.approx(0.1, rel=0.03)
    # 900 draws: a standard error of 2.4 %
    shifted = make_multipath_tasks(
        900, 10, 5, layers=((1, 2),), intercepts=3.0, **options
    )[3]
    assert shifted.intercept.std() == pytest.approx(3, rel=0.1)


def test_multipath_tasks_may_differ_in_rows_and_be_fewer_than_paths():
    counts = [3, 1, 5]
    X, _, tasks, model = make_multipath_tasks(
        3, counts, layers=((40, 2),) * 6, random_state=0, return_model=True
    )
    assert X.shape == (9, 32)
    np.testing.assert_array_equal(np.bincount(tasks), counts)
    np.testing.assert_array_equal(tasks, np.sort(tasks))
    # 40^6 paths are not listed; three tasks are spread over them
    assert model.paths[:, 0].tolist() == [0, 13, 26]


def test_paths_of_multipath_tasks_that_are_given_are_kept():
    paths = np.array([[1, 0], [0, 2], [1, 0], [1, 1]])
    *_, model = make_multipath_tasks(
        4, 2, layers=((2, 8), (3, 2)), paths=paths.tolist(), return_model=True
    )
    np.testing.assert_array_equal(model.paths, paths)
    leaves = [[0, 1], [1, 3], [1, 2]]
    *_, model = make_multipath_tasks(
        3, 2, layers=((2, 8), (4, 2)), tree=True, paths=leaves, return_model=True
    )
    np.testing.assert_array_equal(model.paths, leaves)


@pytest.mark.parametrize("make", [make_multipath_tasks, make_permuted_digit_tasks])
def test_a_seed_repeats_the_tasks_of_paths(make):
    first, again, other = (make(random_state=seed) for seed in (0, 0, 1))
    for one, two in zip(first, again):
        np.testing.assert_array_equal(one, two)
    assert not np.allclose(first[0], other[0])


def test_more_rows_leave_the_multipath_model_as_it_is():
    few, many = (
        make_multipath_tasks(n_samples=n, random_state=0, return_model=True)[3]
        for n in (2, 9)
    )
    np.testing.assert_array_equal(few.coef, many.coef)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_tasks": 0}, "n_tasks must be an integer of 1 or more; got 0"),
        ({"n_features": 2.5}, "n_features must be an integer of 1 or more; got 2.5"),
        ({"n_samples": 0}, "n_samples must be an integer of 1 or more; got 0"),
        ({"n_samples": [3, 4]}, r"one for each of 100 tasks; got shape \(2,\)"),
        ({"n_tasks": 2, "n_samples": [3, 0]}, r"positive integers; got \[3, 0\]"),
        ({"n_tasks": 2, "n_samples": [3, 1.5]}, "positive integers; got"),
        ({"noise": -1.0}, "noise must be 0 or more, and finite; got -1.0"),
        ({"intercepts": np.nan}, "intercepts must be 0 or more, and finite; got nan"),
        ({"layers": ()}, r"pairs of integers, .* got \(\)"),
        ({"layers": (3, 2)}, r"pairs of integers, .* got \(3, 2\)"),
        ({"layers": ((3, 2, 1),)}, "pairs of integers"),
        ({"layers": ((1, 8), (3,))}, "pairs of integers"),
        ({"layers": ((1, 2.0),)}, "pairs of integers"),
        ({"layers": ((0, 2),)}, "a module and a width of 1 at least"),
        ({"layers": ((1, 33),)}, "layer 0 reads 32 numbers and cannot have 33"),
        ({"layers": ((1, 4), (2, 5))}, "layer 1 reads 4 numbers and cannot have 5"),
        ({"layers": ((2, 4), (3, 2)), "tree": True}, r"are \(2, 3\)"),
        ({"paths": [[0, 0]]}, r"shape \(100, 2\), .* got int.* of shape \(1, 2\)"),
        (
            {"n_tasks": 1, "paths": [[0.0, 0.0]]},
            "paths must be integers .* got float64",
        ),
        ({"n_tasks": 1, "paths": [[0, 10]]}, r"got \[0, 10\] for task 0"),
        ({"n_tasks": 2, "paths": [[0, 1], [-1, 0]]}, r"got \[-1, 0\] for task 1"),
        (
            {"n_tasks": 1, "paths": [[1, 0]], "layers": ((2, 4), (4, 2)), "tree": True},
            r"pathways of the tree .* got \[1, 0\]",
        ),
    ],
)
def test_multipath_tasks_that_cannot_be_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make_multipath_tasks(**options)


@pytest.mark.parametrize("n_samples", [8, 9])
def test_tasks_of_permuted_digits_show_their_pair_evenly_and_no_image_twice(n_samples):
    X, y, tasks, permuted = make_permuted_digit_tasks(
        n_samples, noise=0, random_state=0, return_permutations=True
    )
    assert X.shape == (180 * n_samples, 64)
    np.testing.assert_array_equal(tasks, np.repeat(np.arange(180), n_samples))
    np.testing.assert_array_equal(np.bincount(permuted.paths), 45)
    assert len({(k, *pair) for k, pair in zip(permuted.paths, permuted.pairs)}) == 180
    np.testing.assert_array_equal(np.sort(permuted.permutations), [range(64)] * 4)
    for t, (low, high) in enumerate(permuted.pairs):
        shown = np.bincount(y[tasks == t], minlength=10)
        assert low < high
        assert shown[low] == (n_samples + 1) // 2
        assert shown[high] == n_samples // 2
        assert len({*map(bytes, X[tasks == t])}) == n_samples
    # in no order that a split without shuffling would stumble over
    assert len({*map(bytes, y.reshape(180, -1) == permuted.pairs[:, :1])}) > 30


def restored(X, tasks, permuted):
    """Return images with their pixels in place again, as bytes of what the set has."""
    images = np.empty_like(X)
    np.put_along_axis(images, permuted.permutations[permuted.paths[tasks]], X, axis=1)
    return [image.tobytes() for image in 8 * (images + 1)]


def test_subsets_of_permuted_digits_share_permutations_and_no_image():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digit_of = {image.tobytes(): label for image, label in zip(images, labels)}
    seen, permutations = [], []
    for subset, n_samples in (("train", 40), ("test", 90)):
        X, y, tasks, permuted = make_permuted_digit_tasks(
            n_samples, noise=0, subset=subset, random_state=3, return_permutations=True
        )
        shown = restored(X, tasks, permuted)
        assert [digit_of[image] for image in shown] == y.tolist()
        seen.append(set(shown))
        permutations.append(permuted.permutations)
    np.testing.assert_array_equal(*permutations)
    # a few drawings may occur twice in the bundled set itself
    assert len(seen[0] & seen[1]) < 0.01 * len(seen[0])


def test_the_noise_of_permuted_digits_has_its_unit_and_differs_between_subsets():
    noises = []
    for subset in ("train", "test"):
        options = {"subset": subset, "random_state": 0}
        X, *_ = make_permuted_digit_tasks(10, noise=0, **options)
        assert (X.min(), X.max()) == (-1, 1)
        noises.append(make_permuted_digit_tasks(10, noise=0.5, **options)[0] - X)
        # 115200 draws: a standard error of 0.2 %
        assert noises[-1].std() == pytest.approx(0.5, rel=0.01)
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_samples": 1}, "n_samples must be an integer of 2 or more; got 1"),
        ({"n_samples": 4.0}, "n_samples must be an integer of 2 or more; got 4.0"),
        ({"n_permutations": 0}, "n_permutations must be an integer of 1 or more"),
        ({"noise": np.inf}, "noise must be 0 or more, and finite; got inf"),
        ({"digits": [3]}, r"two or more distinct ones, 0 to 9; got \[3\]"),
        ({"digits": [3, 3]}, "two or more distinct"),
        ({"digits": [3, 10]}, "two or more distinct"),
        ({"digits": [3, 2.5]}, "two or more distinct"),
        ({"subset": "all"}, "'train' or 'test'; got 'all'"),
        ({"n_samples": 175}, "needs 88 images .* train subset has 87 of 7; .* 174 or"),
        ({"n_samples": 129, "subset": "test"}, "test subset has 64 of 5; .* 128 or"),
    ],
)
def test_permuted_digits_that_cannot_be_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make_permuted_digit_tasks(**options)
