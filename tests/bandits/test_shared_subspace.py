"""Sums over tasks, the subspace they share, and whether a task lies in it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sklearn_attn._task_moments import TaskMoments, table_moments
from sklearn_attn.bandits import OutlierTest
from sklearn_attn.bandits._context_tracker import (
    ContextTracker,
    Recipe,
    learn_contexts,
    nearest_candidates,
)
from sklearn_attn.bandits._detect_change import SwitchTest
from sklearn_attn.bandits._shared_subspace import estimate_subspace
from sklearn_attn.datasets import make_context_tasks

OPTIONS = {"eig_tol": 0.02, "max_iter": 500, "tol": 1e-8}


def moments(X, y, tasks):
    rows = torch.from_numpy(np.column_stack([X, y]))
    return table_moments(rows, torch.from_numpy(np.asarray(tasks)))


def sine(B, true):
    """Return the sine of the largest angle between two subspaces."""
    B = np.asarray(B)
    assert B.shape == true.shape
    return np.linalg.norm(B - B @ true.T @ true, 2)


# sums over the rows of tasks


@given(split=st.integers(1, 29), seed=st.integers(0, 99), offset=st.floats(-1e3, 1e3))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_sums_of_parts_are_the_sums_of_the_whole(split, seed, offset):
    rng = np.random.RandomState(seed)
    rows = torch.from_numpy(offset + rng.standard_normal((30, 4)))
    whole = TaskMoments.of_rows(rows)
    parts = TaskMoments.of_rows(rows[:split]) + TaskMoments.of_rows(rows[split:])
    for name in ("n", "mean", "scatter"):
        np.testing.assert_allclose(
            getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-9
        )


def test_rows_of_tasks_may_alternate():
    X, y, tasks = make_context_tasks([3], 10, 4, ranks=[2], random_state=0)
    order = np.random.RandomState(0).permutation(len(y))
    one, other = moments(X, y, tasks), moments(X[order], y[order], tasks[order])
    np.testing.assert_allclose(one.scatter, other.scatter, atol=1e-12)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_coefficients_of_a_task_are_those_of_least_squares(fit_intercept):
    X, y, tasks = make_context_tasks(
        [2], 30, 4, ranks=[2], intercepts=3.0, random_state=0
    )
    sums = moments(X, y, tasks)
    equations = sums.equations(0.0, fit_intercept=fit_intercept)
    theta = equations.solve()
    rest = equations.residuals(theta)
    for s in range(2):
        ones = np.ones((30, int(fit_intercept)))
        x = np.hstack([X[tasks == s], ones])
        expected, (square,), *_ = np.linalg.lstsq(x, y[tasks == s])
        np.testing.assert_allclose(theta[s], expected[:4], rtol=1e-9)
        assert rest[s] == pytest.approx(square)
        if fit_intercept:
            assert sums.intercepts(theta)[s] == pytest.approx(expected[4])


def test_rows_that_leave_a_choice_get_the_smallest_coefficients():
    X, y, tasks = make_context_tasks([1], 3, 6, ranks=[2], random_state=0)
    theta = moments(X, y, tasks).equations(0.0, fit_intercept=False).solve()[0]
    np.testing.assert_allclose(theta, np.linalg.pinv(X) @ y, rtol=1e-9)


def test_what_a_fit_within_a_subspace_leaves_counts_only_directions_that_rows_see():
    rng = np.random.RandomState(0)
    B = torch.eye(5, dtype=torch.float64)[:2]
    X = rng.standard_normal((8, 5))
    y = rng.standard_normal(8)
    equations = moments(X, y, np.zeros(8, int)).equations(0.0, fit_intercept=False)
    rest, n, alpha, _ = equations.unexplained(B)
    # more rows than features: what all of them leave is not counted
    inside, everything = (np.linalg.lstsq(x, y) for x in (X[:, :2], X))
    assert n == 3
    assert rest == pytest.approx(inside[1][0] - everything[1][0])
    np.testing.assert_allclose(alpha, inside[0])
    few = moments(X[:4], y[:4], np.zeros(4, int)).equations(0.0, fit_intercept=False)
    rest, n, *_ = few.unexplained(B)
    assert n == 2
    assert rest == pytest.approx(np.linalg.lstsq(X[:4, :2], y[:4])[1][0])
    X = X[:4]
    X[:, :2] = 0  # probes: what is left is all
    X[:, 2:] /= np.linalg.norm(X, axis=1, keepdims=True)
    probes = moments(X, y[:4], np.zeros(4, int)).equations(0.0, fit_intercept=False)
    rest, n, alpha, strength = probes.unexplained(B)
    assert (rest, n) == (pytest.approx(y[:4] @ y[:4]), 4)
    assert alpha is None
    assert strength == pytest.approx(1)


# the subspace


def fitted(sums, n_components=None, ridge=1e-9, **options):
    equations = sums.equations(ridge, fit_intercept=False)
    return estimate_subspace(equations, n_components, **OPTIONS | options)


def test_with_equal_designs_the_basis_is_the_papers_leading_eigenvectors():
    rng = np.random.RandomState(0)
    design = np.linalg.qr(rng.standard_normal((12, 6)))[0]
    theta = rng.standard_normal((9, 2)) @ rng.standard_normal((2, 6))
    theta += 0.1 * rng.standard_normal(theta.shape)
    X = np.tile(design, (9, 1))
    y = (theta @ design.T).ravel()
    solution = fitted(moments(X, y, np.repeat(np.arange(9), 12)), 2)
    assert solution.n_iter == 0
    assert solution.converged
    vectors = np.linalg.eigh(theta.T @ theta)[1][:, ::-1][:, :2].T
    assert sine(solution.value.B, vectors) < 1e-7
    singular = np.linalg.svd(theta)[1][:2]
    np.testing.assert_allclose(solution.value.singular_values, singular, rtol=1e-6)


def test_least_squares_is_stationary_where_designs_differ():
    X, y, tasks = make_context_tasks([12], 9, 6, ranks=[2], noise=0.5, random_state=0)
    solution = fitted(moments(X, y, tasks), 2)
    assert solution.converged
    losses = solution.history["loss"]
    assert solution.n_iter == len(losses) - 1 > 1
    assert (np.diff(losses) <= 0).all()
    theta = (solution.value.alpha @ solution.value.B).numpy()
    residual = y - (X * theta[tasks]).sum(1)
    gradient = np.stack([X[tasks == s].T @ residual[tasks == s] for s in range(12)])
    B, alpha = solution.value.B.numpy(), solution.value.alpha.numpy()
    scale = np.abs(gradient).max()
    assert np.abs(gradient @ B.T).max() < 1e-4 * scale  # in alpha
    assert np.abs(alpha.T @ gradient).max() < 1e-3 * scale  # in B


def test_least_squares_beats_the_eigenvectors_where_tasks_have_few_rows():
    gains = []
    for seed in range(4):
        X, y, tasks, true = make_context_tasks(
            [60], 12, 20, ranks=[2], random_state=seed, return_tasks=True
        )
        sums = moments(X, y, tasks)
        theta = sums.equations(1e-9, fit_intercept=False).solve().numpy()
        vectors = np.linalg.eigh(theta.T @ theta)[1][:, ::-1][:, :2].T
        ours = fitted(sums, 2).value.B
        gains.append(sine(ours, true.components[0]) / sine(vectors, true.components[0]))
    assert np.max(gains) < 0.5


@pytest.mark.parametrize("n_samples", [60, 12])  # more rows than features, and fewer
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_rank_is_found(rank, n_samples):
    X, y, tasks = make_context_tasks(
        [60], n_samples, 20, ranks=[rank], random_state=rank
    )
    value = fitted(moments(X, y, tasks)).value
    assert len(value.B) == rank
    assert math.sqrt(value.noise_var) == pytest.approx(0.1, rel=0.1)


def test_directions_below_the_tolerance_do_not_count():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((600, 5))
    theta = np.zeros((20, 5))
    theta[:, 0] = rng.standard_normal(20)
    theta[:, 1] = 0.1 * rng.standard_normal(20)  # 1 % of the eigenvalue
    tasks = np.repeat(np.arange(20), 30)
    y = (X * theta[tasks]).sum(1)
    assert len(fitted(moments(X, y, tasks), eig_tol=0.1).value.B) == 1
    assert len(fitted(moments(X, y, tasks), eig_tol=1e-4).value.B) == 2


def test_the_rank_does_not_depend_on_the_scale_of_features():
    X, y, tasks = make_context_tasks([60], 60, 8, ranks=[2], random_state=0)
    scaled = X * np.logspace(-3, 3, 8)
    assert len(fitted(moments(scaled, y, tasks)).value.B) == 2


def test_noise_is_estimated_without_bias():
    estimates = []
    for seed in range(30):
        X, y, tasks = make_context_tasks([8], 10, 5, ranks=[2], random_state=seed)
        estimates.append(fitted(moments(X, y, tasks), 2).value.noise_var)
    # 80 - 16 - 6 degrees of freedom each: 3.4 % is one standard error of the mean
    assert np.mean(estimates) == pytest.approx(0.01, rel=0.1)


# detectors


@pytest.mark.parametrize("detector", ["chi2", "paper"])
@pytest.mark.parametrize("outside", [0.0, 0.5])
def test_power_is_the_share_of_outliers_among_draws(detector, outside):
    test = OutlierTest(detector, level=0.05, gamma=0.4)
    rng = np.random.RandomState(0)
    sums = ((rng.standard_normal((20_000, 6)) + outside) ** 2).sum(1)
    share = np.mean([test.score(each, 6) > 1 for each in sums])
    assert share == pytest.approx(test.power(6, 6 * outside**2), abs=0.01)


def test_an_estimated_variance_makes_the_limit_wider():
    test = OutlierTest("chi2", level=1e-3)
    limit = stats.f.isf(1e-3, 8, 20) * 8
    assert test.score(limit, 8, 20) == pytest.approx(1)
    assert test.score(limit, 8) > 1


@pytest.mark.parametrize(
    "options", [{"detector": "f"}, {"level": 0.0}, {"level": 1.0}, {"gamma": 0.0}]
)
def test_a_detector_refuses_what_it_cannot_use(options):
    with pytest.raises(ValueError, match="must be"):
        OutlierTest(**options)


def test_a_switch_is_looked_for_in_blocks_as_it_is_round_by_round():
    rng = np.random.RandomState(0)
    values = 0.1 * rng.standard_normal(400)
    values[237:] += 0.3
    whole = SwitchTest(20, 0.1, 5.0)
    at = whole.first_alarm(values)
    assert 237 < at < 257
    single = SwitchTest(20, 0.1, 5.0)
    for i, value in enumerate(values):  # noqa: B007 - i is used below
        if single.first_alarm([value]) is not None:
            break
        single.take([value])
    assert i + 1 == at
    parts = SwitchTest(20, 0.1, 5.0)
    parts.take(values[:100])
    assert parts.first_alarm(values[100:]) == at - 100


def test_noise_hardly_ever_looks_like_a_switch():
    rng = np.random.RandomState(0)
    sigmas = stats.norm.isf(1e-2 / 2000)
    alarms = [
        SwitchTest(20, 1.0, sigmas).first_alarm(rng.standard_normal(1000)) is not None
        for _ in range(500)
    ]
    assert np.mean(alarms) <= 0.02  # 1e-2 is the bound


# contexts


def tracked(sums, **options):
    recipe = Recipe(OutlierTest(), fit_intercept=False, **options)
    return learn_contexts(sums, ContextTracker(recipe))


def test_a_change_of_context_is_found_where_it_is():
    X, y, tasks, true = make_context_tasks(
        [25, 15, 20], 40, ranks=[2, 4, 1], random_state=0, return_tasks=True
    )
    found = tracked(moments(X, y, tasks))
    assert found.starts == [25, 40]
    for subspace, B in zip(found.subspaces, true.components):
        assert sine(subspace.B, B) < 0.1
    error = np.linalg.norm(found.theta.numpy() - true.coef, axis=1)
    assert error.max() < 0.15


def test_a_single_outlier_is_ignored_and_keeps_its_own_coefficients():
    X, y, tasks, true = make_context_tasks(
        [30], 60, ranks=[2], random_state=0, return_tasks=True
    )
    alien = np.random.RandomState(1).standard_normal(20)
    y[tasks == 20] = X[tasks == 20] @ alien
    found = tracked(moments(X, y, tasks))
    assert found.starts == []
    assert found.scores[20] > 1
    np.testing.assert_allclose(found.theta[20], alien, rtol=1e-4)  # the ridge
    assert sine(found.subspaces[0].B, true.components[0]) < 0.05


@pytest.mark.parametrize("n_consecutive", [1, 3, 6])
def test_so_many_outliers_in_a_row_are_a_new_context(n_consecutive):
    X, y, tasks = make_context_tasks([20, 5], 60, ranks=[2, 2], random_state=0)
    found = tracked(moments(X, y, tasks), n_consecutive=n_consecutive)
    assert found.starts == ([20] if n_consecutive <= 5 else [])
    assert len(found.tracker.suspects) == (0 if n_consecutive <= 5 else 5)


def test_no_task_is_judged_before_the_subspace_is_known():
    X, y, tasks = make_context_tasks([30], 60, ranks=[4], random_state=0)
    scores = np.array(tracked(moments(X, y, tasks)).scores)
    first = np.flatnonzero(~np.isnan(scores))[0]
    assert 8 <= first <= 10  # twice the rank, and learned in steps of a quarter
    assert not np.isnan(scores[first:]).any()


def test_tasks_with_fewer_rows_than_features_are_judged_too():
    X, y, tasks = make_context_tasks([60, 60], 12, ranks=[2, 2], random_state=0)
    assert tracked(moments(X, y, tasks), n_components=2).starts == [60]


def test_noiseless_tasks_of_one_context_are_no_outliers():
    X, y, tasks = make_context_tasks([40], 30, ranks=[2], noise=0.0, random_state=0)
    found = tracked(moments(X, y, tasks))
    assert found.starts == []
    assert np.nanmax(found.scores) < 1


def test_the_nearest_candidate_has_the_least_residual():
    rng = np.random.RandomState(0)
    candidates = rng.standard_normal((3, 5))
    X = rng.standard_normal((80, 5))
    tasks = np.repeat(np.arange(8), 10)
    which = rng.randint(3, size=8)
    y = (X * candidates[which][tasks]).sum(1) + rng.standard_normal(80)
    recipe = Recipe(OutlierTest(), fit_intercept=False)
    found = nearest_candidates(
        moments(X, y, tasks), torch.from_numpy(candidates), recipe
    )
    rest = [
        [((y - X @ c)[tasks == s] ** 2).sum() for c in candidates] for s in range(8)
    ]
    np.testing.assert_array_equal(found, np.argmin(rest, axis=1))


# what hides a context, or seems to be one


def test_a_constant_takes_a_degree_of_freedom():
    X, y, tasks = make_context_tasks([1], 7, 5, ranks=[2], random_state=0)
    sums = moments(X, y, tasks)
    B = torch.eye(5, dtype=torch.float64)[:2]
    n = [
        sums[[0]].equations(0.0, fit_intercept=fit_intercept).unexplained(B)[1]
        for fit_intercept in (False, True)
    ]
    assert n == [3, 3]  # five directions, of which two are inside
    few = moments(X[:4], y[:4], tasks[:4])
    n = [
        few.equations(0.0, fit_intercept=fit_intercept).unexplained(B)[1]
        for fit_intercept in (False, True)
    ]
    assert n == [2, 1]


def test_noise_shows_no_more_directions_than_there_are():
    # the largest eigenvalue of noise is (sqrt(k) + sqrt(d))^2, far above k
    ranks = []
    for seed in range(20):
        rng = np.random.RandomState(seed)
        design = np.linalg.qr(rng.standard_normal((60, 20)))[0]
        theta = np.outer(rng.standard_normal(6), np.eye(20)[0]) * 30
        y = (theta @ design.T).ravel() + rng.standard_normal(6 * 60)
        sums = moments(np.tile(design, (6, 1)), y, np.repeat(np.arange(6), 60))
        ranks.append(len(fitted(sums, eig_tol=0.0).value.B))
    assert np.mean(np.array(ranks) == 1) >= 0.95


def test_what_seemed_alien_at_first_is_taken_in_if_it_fits_in_the_end():
    X, y, tasks = make_context_tasks([40], 40, 20, ranks=[2], noise=0.5, random_state=1)
    found = tracked(moments(X, y, tasks))
    early = np.flatnonzero(np.array(found.scores) > 1)
    assert len(early) > 0
    B = found.subspaces[0].B.numpy()
    theta = found.theta.numpy()
    np.testing.assert_allclose(theta, theta @ B.T @ B, atol=1e-9)  # of all tasks


def test_tasks_along_a_direction_that_was_missed_are_no_new_context():
    # of a subspace of rank 4, tasks that teach it leave out a direction
    rng = np.random.RandomState(0)
    B = np.linalg.qr(rng.standard_normal((20, 4)))[0].T
    alpha = rng.standard_normal((30, 4))
    alpha[:8, 3] = 0
    tasks = np.repeat(np.arange(30), 60)
    X = rng.standard_normal((1800, 20))
    y = (X * (alpha @ B)[tasks]).sum(1) + 0.1 * rng.standard_normal(1800)
    found = tracked(moments(X, y, tasks))
    assert (np.array(found.scores) > 1).sum() >= 3
    assert found.starts == []
    assert sine(found.subspaces[0].B, B) < 0.1


def test_strangers_stay_strangers_unless_they_show_what_is_missing():
    X, y, tasks, true = make_context_tasks(
        [40], 60, ranks=[2], random_state=0, return_tasks=True
    )
    rng = np.random.RandomState(1)
    for s in (12, 18, 24, 30):  # each alien in its own way
        y[tasks == s] = X[tasks == s] @ rng.standard_normal(20)
    found = tracked(moments(X, y, tasks))
    assert found.starts == []
    assert sine(found.subspaces[0].B, true.components[0]) < 0.05
    assert len(found.tracker.strangers) == 4


@pytest.mark.parametrize("norms", [(0.05, 5.0), (1.0, 1.0)])
def test_large_tasks_are_judged_by_the_doubt_about_what_they_use(norms):
    n_false = 0
    for seed in range(5):
        X, y, tasks = make_context_tasks(
            [60], 50, ranks=[2], norms=norms, random_state=seed
        )
        found = tracked(moments(X, y, tasks))
        assert found.starts == []
        n_false += (np.array(found.scores) > 1).sum()
    assert n_false <= 4  # of 275; 1e-3 each, and the first ones know little


def test_one_task_of_much_noise_and_many_rows_is_seen_to_lie_outside():
    # 600 rows of noise 1: their residuals say nothing, their coefficients do
    rng = np.random.RandomState(0)
    own = np.linalg.qr(rng.standard_normal((20, 2)))[0].T
    tasks = np.repeat(np.arange(31), 600)
    theta = rng.standard_normal((31, 2)) @ own
    theta[30] = rng.standard_normal(20) / np.sqrt(20)
    X = rng.standard_normal((len(tasks), 20))
    y = (X * theta[tasks]).sum(1) + 3 * rng.standard_normal(len(tasks))
    scores = np.array(tracked(moments(X, y, tasks)).scores)
    assert scores[30] > 1
    assert np.nanmax(scores[:30]) < 1


def test_the_gradient_of_the_descent_is_that_of_differences():
    X, y, tasks = make_context_tasks([9], 8, 6, ranks=[2], noise=0.5, random_state=0)
    equations = moments(X, y, tasks).equations(0.1, fit_intercept=True)
    values = []
    for max_iter in (1, 3, 500):
        solution = estimate_subspace(
            equations, 2, eig_tol=0.0, max_iter=max_iter, tol=1e-9
        )
        values.append(solution.history["loss"][-1])
        theta = solution.value.alpha @ solution.value.B
        penalty = float((equations.shift * (theta**2).sum(1)).sum())
        rest = float(equations.residuals(theta).sum())
        n = float(equations.n_free.sum())
        assert solution.history["loss"][-1] == pytest.approx((rest + penalty) / n)
    assert values[0] > values[1] > values[2]
    # any step away from the end is upwards
    rng = np.random.RandomState(0)
    for _ in range(20):
        step = torch.from_numpy(1e-3 * rng.standard_normal((2, 6)))
        B = torch.linalg.qr((solution.value.B + step).T).Q.T
        inside = equations.within(B)
        theta = inside.solve() @ B
        loss = equations.residuals(theta).sum()
        loss += (equations.shift * (theta**2).sum(1)).sum()
        assert float(loss) / n >= values[2] - 1e-12


def test_a_switch_is_judged_by_the_doubt_about_both_means():
    values = np.array([0.0] * 20 + [1.0] * 20)
    # the difference of 1 has a standard error of .1 sqrt(1/20 + 1/20) = .0316
    assert SwitchTest(20, 0.1, 31.0).first_alarm(values) == 40
    assert SwitchTest(20, 0.1, 32.0).first_alarm(values) is None
    # and no window is compared with one that is shorter
    assert SwitchTest(20, 0.1, 1.0).first_alarm(values[1:]) is None


def test_a_change_is_found_in_few_rows_where_the_rank_is_given():
    X, y, tasks = make_context_tasks(
        [40, 40], 30, 64, ranks=[2, 2], noise=0.5, random_state=0
    )
    assert tracked(moments(X, y, tasks), n_components=2).starts == [40]
