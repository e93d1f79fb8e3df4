"""What the solvers do: each against a definition, or a well-kept library."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Lasso

from sklearn_attn.bandits._lagged import LaggedContexts
from sklearn_attn.bandits._lagged_problem import LaggedProblem, Series
from sklearn_attn.bandits._recover_pattern import Recipe, recover_pattern
from sklearn_attn.bandits._select_lags import Rule, proximal_descent, scaled_lasso
from sklearn_attn.bandits._support_fit import (
    Moments,
    add_groups,
    inverse,
    no_moments,
    prune,
    rank_one,
    solve,
)
from sklearn_attn.datasets import make_long_horizon_rewards

DOUBLE = torch.zeros(0, dtype=torch.float64)
RECIPE = {
    "solver": "omp",
    "n_lags": None,
    "alpha": 0.05,
    "max_lags": 20,
    "rank_one": True,
    "nonneg": False,
    "prewhiten": 0,
    "has_intercept": True,
    "chunk_size": None,
    "max_iter": 2000,
    "tol": 1e-9,
}


def series_of(X, y, *, centre=True, counted=None, horizon=50):
    counted = np.ones(len(X), dtype=bool) if counted is None else counted
    codes = np.zeros(len(X), dtype=int)
    return Series.of(
        X, y, codes, horizon, centre=centre, is_counted=counted, like=DOUBLE
    )


def plain(X, y):
    """A series in the units of the data, with an empty place before."""
    series = series_of(X, y, centre=False, horizon=0)
    return replace(series, x=torch.from_numpy(X), y=torch.from_numpy(y))


def problem_of(series, horizon, *, white=True, by_feature=False, intercept=True):
    return LaggedProblem.of(
        series,
        horizon,
        white=white,
        by_feature=by_feature,
        has_intercept=intercept,
        chunk_size=None,
    )


def lagged_matrix(X, horizon):
    """The matrix that nobody should build."""
    lagged = np.zeros((len(X), horizon, X.shape[1]))
    for j in range(horizon):
        lagged[j:, j] = X[: len(X) - j]
    return lagged.reshape(len(X), -1)


@pytest.mark.parametrize("intercept", [True, False])
def test_the_lasso_equals_that_of_scikit_learn(intercept):
    X, y = make_long_horizon_rewards(300, 4, lags=(2, 11), intercept=3, random_state=0)
    X /= np.sqrt(np.square(X).mean(0))  # in its own units already
    problem = problem_of(plain(X, y), 20, white=False, intercept=intercept)
    penalty = 0.05
    ours = proximal_descent(problem, penalty, grouped=False, max_iter=5000, tol=1e-10)
    theirs = Lasso(alpha=penalty, fit_intercept=intercept, tol=1e-10, max_iter=10**5)
    theirs.fit(lagged_matrix(X, 20), y)
    B = ours.value.numpy()
    np.testing.assert_allclose(B.ravel(), theirs.coef_, atol=1e-7)
    assert ours.converged
    assert np.count_nonzero(B) == np.count_nonzero(theirs.coef_) < B.size


def test_the_group_lasso_meets_its_optimality_conditions():
    X, y = make_long_horizon_rewards(300, 4, lags=(2, 11), random_state=0)
    problem = problem_of(plain(X, y), 20)
    penalty = 0.2
    solution = proximal_descent(
        problem, penalty, grouped=True, max_iter=5000, tol=1e-12
    )
    B = solution.value
    r = problem.residual(problem.contexts.forward(B))
    pull = problem.contexts.adjoint(r) / problem.n_rows  # minus the gradient
    sizes = torch.linalg.vector_norm(B, dim=1)
    zero = sizes == 0
    assert 0 < int(zero.sum()) < len(B)
    assert float(torch.linalg.vector_norm(pull[zero], dim=1).max()) < penalty
    there = penalty * B[~zero] / sizes[~zero, None]
    torch.testing.assert_close(pull[~zero], there, atol=1e-8, rtol=0)


def test_the_noise_that_the_lasso_is_scaled_by_is_that_of_the_data():
    # of as many coefficients as rows, those that are used cost degrees of freedom
    X, y = make_long_horizon_rewards(150, 10, lags=(2, 11), noise=0.5, random_state=0)
    problem = problem_of(plain(X, y), 50, white=False)
    rule = Rule.of(
        problem, n_lags=None, max_lags=20, alpha=0.05, max_iter=5000, tol=1e-8
    )
    watched = []
    solution = scaled_lasso(
        problem, rule, lambda losses, B: watched.append(len(losses)), grouped=False
    )
    B = solution.value
    r = problem.residual(problem.contexts.forward(B))
    used = int((B != 0).sum())
    sigma = float(r.square().sum() / (149 - used)) ** 0.5
    level = np.sqrt(2 * np.log(500) / 150)
    pull = float(problem.contexts.adjoint(r).abs().max()) / 150
    # the gradient on the support is the penalty, half of the level times this noise
    assert pull == pytest.approx(0.5 * sigma * level, rel=0.05)
    assert used > 20
    assert watched == list(range(1, solution.n_iter + 1))


def test_pursuit_that_goes_round_in_a_circle_ends():
    # lags that correlate: the gradient step leaves what least squares has taken
    rng = np.random.RandomState(0)
    for seed in range(20):
        X = np.cumsum(rng.standard_normal((60, 1)), axis=0)
        y = rng.standard_normal(60)
        recipe = Recipe(**RECIPE | {"solver": "htp", "n_lags": 2, "max_iter": 500})
        solution = recover_pattern(series_of(X, y), 25, recipe)
        assert solution.converged, seed
        assert solution.n_iter < 400


def test_the_lasso_never_climbs():
    X, y = make_long_horizon_rewards(400, 5, lags=(2, 11), random_state=0)
    problem = problem_of(plain(X, y), 30)
    losses = proximal_descent(
        problem, 0.02, grouped=False, max_iter=300, tol=1e-10
    ).history["loss"]
    # FISTA ripples, and a restart ends it: no rise of more than a tenth of the fall
    assert max(np.diff(losses)) < 0.1 * (losses[0] - losses[-1])
    assert losses[-1] == pytest.approx(min(losses), rel=1e-9)


@pytest.mark.parametrize("counted_share", [1.0, 0.7])
def test_least_squares_on_lags_equals_numpy_on_the_columns(counted_share):
    X, y = make_long_horizon_rewards(200, 3, lags=(1, 8), intercept=2, random_state=1)
    counted = np.random.RandomState(0).random_sample(200) < counted_share
    series = series_of(X, y, counted=counted)
    problem = problem_of(series, 10)
    moments = add_groups(problem, no_moments(problem), [1])
    moments = add_groups(problem, moments, [8])
    coef = problem.units @ solve(moments.gram, moments.cross).reshape(2, 3).T
    Z = lagged_matrix(X - X.mean(0), 10).reshape(200, 10, 3)[:, [1, 8]]
    Z = np.column_stack([Z.reshape(200, 6), np.ones(200)])[counted]
    expected = np.linalg.lstsq(Z, y[counted], rcond=None)[0]
    coef = coef.T / series.x_scale * series.y_scale
    np.testing.assert_allclose(coef.ravel(), expected[:6], atol=1e-10)
    residual = (y[counted] - Z @ expected) / series.y_scale
    assert moments.rss(solve(moments.gram, moments.cross)) == pytest.approx(
        residual @ residual
    )


def random_moments(s, m, n=200, seed=0):
    rng = np.random.RandomState(seed)
    Z = rng.standard_normal((n, s * m))
    truth = np.outer(rng.uniform(0.5, 1, s), rng.standard_normal(m)).ravel()
    y = Z @ truth + rng.standard_normal(n)
    gram, cross = Z.T @ Z, Z.T @ y
    return Moments(tuple(range(s)), gram, cross, Z.sum(0), y @ y, n)


def test_alternating_least_squares_finds_the_best_pattern_of_rank_one():
    moments = random_moments(3, 4)
    answer = rank_one(moments, solve(moments.gram, moments.cross))
    found = moments.rss(np.outer(answer.w, answer.theta).ravel())

    def rss(parts):
        return moments.rss(np.outer(parts[:3], parts[3:]).ravel())

    starts = np.random.RandomState(1).standard_normal((10, 7))
    best = min(minimize(rss, start, tol=1e-10).fun for start in starts)
    assert found == pytest.approx(best, rel=1e-7)
    assert found > moments.rss(solve(moments.gram, moments.cross))


def test_weights_that_must_not_be_negative_are_not():
    moments = random_moments(4, 3)
    sign = np.repeat([1.0, -1.0, 1.0, 1.0], 3)  # of the second lag, the other way round
    moments = Moments(
        moments.groups,
        moments.gram * np.outer(sign, sign),
        moments.cross * sign,
        moments.sums * sign,
        moments.yy,
        moments.n_free,
    )
    coef = solve(moments.gram, moments.cross)
    free, held = rank_one(moments, coef), rank_one(moments, coef, nonneg=True)
    assert free.w[1] * free.w[0] < 0
    assert held.w[1] == 0
    assert (held.w[[0, 2, 3]] > 0).all()


def test_of_both_signs_of_theta_the_better_is_held():
    # one lag that matters most, against two others
    rng = np.random.RandomState(0)
    Z = rng.standard_normal((300, 3, 2))
    theta = np.array([0.6, 0.8])
    y = Z @ theta @ np.array([0.6, 0.5, -1.0]) + 0.1 * rng.standard_normal(300)
    Z = Z.reshape(300, -1)
    moments = Moments((0, 1, 2), Z.T @ Z, Z.T @ y, Z.sum(0), y @ y, 300)
    held = rank_one(moments, solve(moments.gram, moments.cross), nonneg=True)
    assert held.w.round(1).tolist()[:2] == [0, 0]
    assert moments.rss(np.outer(held.w, held.theta).ravel()) / 300 < 0.7


def test_leaving_lags_out_one_by_one_equals_fitting_without_them():
    moments = random_moments(6, 2, n=60)
    left = prune(moments, threshold=25.0)
    # by hand: drop the least of Wald's statistics, refit, until all are large
    groups = list(range(6))
    while groups:
        part = moments.keep(groups)
        coef = solve(part.gram, part.cross)
        variance = part.rss(coef) / (60 - len(coef))
        without = []
        for i in range(len(groups)):
            rest = moments.keep([g for k, g in enumerate(groups) if k != i])
            more = rest.rss(solve(rest.gram, rest.cross)) - part.rss(coef)
            without.append(more / variance)
        if min(without) > 25.0:
            break
        groups.pop(int(np.argmin(without)))
    assert list(left.groups) == groups
    assert 0 < len(groups) < 6
    assert prune(moments, threshold=np.inf).groups == ()


def test_columns_that_depend_on_each_other_get_the_least_solution():
    rng = np.random.RandomState(0)
    Z = rng.standard_normal((50, 3))
    Z = np.column_stack([Z, Z[:, 0]])
    y = rng.standard_normal(50)
    expected = np.linalg.lstsq(Z, y, rcond=None)[0]
    gram = Z.T @ Z
    np.testing.assert_allclose(solve(gram, Z.T @ y), expected, atol=1e-10)
    np.testing.assert_allclose(gram @ inverse(gram) @ gram, gram, atol=1e-9)


def test_counts_of_contexts_so_long_ago_are_those_of_the_rows():
    X = np.random.RandomState(0).standard_normal((40, 2))
    y, counted = X[:, 0].copy(), np.arange(40) % 3 > 0
    codes = np.repeat([0, 1], [25, 15])
    series = Series.of(X, y, codes, 10, centre=True, is_counted=counted, like=DOUBLE)
    problem = problem_of(series, 10)
    for j in range(10):
        there = [
            counted[t] and t - j >= 0 and codes[t - j] == codes[t] for t in range(40)
        ]
        assert int(problem.n_at_lag[j]) == sum(there)


def test_statistics_of_null_lags_follow_the_chi_square_law():
    X, y = make_long_horizon_rewards(3000, 4, lags=(0,), weights=[0], random_state=3)
    X = X @ np.array([[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 3, 1], [0, 1, 0, 1.0]])
    for white in (True, False):  # the metric makes up for features that correlate
        problem = problem_of(series_of(X, y), 400, white=white)
        r = problem.residual(torch.zeros_like(problem.y))
        q = problem.statistic(r, 0).numpy()
        # mean 4 and variance 8, of 400 values; three standard errors
        assert q.mean() == pytest.approx(4, abs=3 * np.sqrt(8 / 400))
        assert q.var() == pytest.approx(8, rel=0.35)


@pytest.mark.parametrize("by_feature", [True, False])
@pytest.mark.parametrize("order", [0, 1])
def test_statistics_allow_for_games_that_begin_with_nothing(by_feature, order):
    # contexts far from zero: centred, what was chosen before is far from the others
    rng = np.random.RandomState(0)
    q = []
    for _ in range(160):
        Z = rng.standard_normal((300, 5))
        for t in range(1, 300 if order else 1):
            Z[t] += 0.7 * Z[t - 1]
        X, y = Z[:, :4] + np.array([3.0, 0, 0, -2.0]) * Z.std(), Z[:, 4]
        series = Series.of(
            X,
            y,
            np.zeros(300, dtype=int),
            150,
            centre=True,
            is_counted=np.ones(300, dtype=bool),
            like=DOUBLE,
            from_nothing=[0],
        )
        series = series.whitened(order) if order else series
        problem = problem_of(series, 150, white=not by_feature, by_feature=by_feature)
        r = problem.residual(torch.zeros_like(problem.y))
        # the longest lags, before which half of the rows had nothing
        q.append(problem.statistic(r, 0)[-80 if by_feature else -20 :].numpy())
    degrees = 1 if by_feature else 4
    # correlated values of 160 draws; without the allowance, the means are far above
    assert np.mean(q) == pytest.approx(degrees, rel=0.2)


def test_a_filter_makes_slow_contexts_white_and_keeps_the_pattern():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((4000, 2))
    for t in range(1, 4000):
        X[t] += 0.9 * X[t - 1]
    y = 2 * np.roll(X[:, 0], 7)
    y[:7] = 0
    series = series_of(X, y, horizon=20)
    filtered = series.whitened(1)
    before, after = (
        float((s.x[1:] * s.x[:-1]).sum() / s.x.square().sum())
        for s in (series, filtered)
    )
    assert before > 0.85
    assert abs(after) < 0.05
    first = series.places[0]
    r = filtered.y[first + 8 :] * series.y_scale
    r -= 2 * filtered.x[first + 1 : -7, 0] * series.x_scale[0]
    centred = r - r.mean()
    assert float(centred.abs().max()) < 1e-9
    assert int(filtered.counted[first]) == 0  # it has nothing before it
    assert int(filtered.counted.sum()) == 3999


@pytest.mark.parametrize("solver", ["omp", "htp", "lasso", "group_lasso"])
@pytest.mark.parametrize("rank_one", [True, False])
@pytest.mark.parametrize("n_lags", [None, 2])
def test_every_solver_finds_the_lags_and_fits_the_same(solver, rank_one, n_lags):
    X, y, pattern = make_long_horizon_rewards(
        1500, 2, lags=(4, 33), random_state=0, return_pattern=True
    )
    recipe = Recipe(
        **RECIPE | {"solver": solver, "rank_one": rank_one, "n_lags": n_lags}
    )
    solution = recover_pattern(series_of(X, y), 50, recipe)
    found = solution.value.pattern
    assert solution.converged
    assert found.support.tolist() == [4, 33]
    np.testing.assert_allclose(found.blocks, pattern.blocks, atol=0.06)
    # four standard errors of a coefficient, .5 / sqrt(1500)


def test_the_paper_shrinks_and_ours_does_not():
    X, y, pattern = make_long_horizon_rewards(
        2000, 10, lags=(4, 33), random_state=0, return_pattern=True
    )
    sizes = {}
    for solver in ("quarters", "omp"):
        recipe = Recipe(**RECIPE | {"solver": solver})
        found = recover_pattern(series_of(X, y), 60, recipe).value.pattern
        sizes[solver] = found.lag_weights[[4, 33]] / pattern.lag_weights[[4, 33]]
    assert (sizes["quarters"] < 0.99).all()
    np.testing.assert_allclose(sizes["omp"], 1, atol=0.05)


def test_features_have_lags_of_their_own_without_rank_one():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((1500, 3))
    y = 0.3 * rng.standard_normal(1500)
    y[5:] += X[:-5, 0]
    y[20:] += 2 * X[:-20, 1]
    recipe = Recipe(**RECIPE | {"rank_one": False})
    found = recover_pattern(series_of(X, y), 50, recipe).value
    assert np.argwhere(found.pattern.coef_matrix).tolist() == [[5, 0], [20, 1]]
    assert found.scores.shape == (50, 3)
    by_lag = recover_pattern(series_of(X, y), 50, Recipe(**RECIPE)).value
    # one direction cannot serve both
    assert by_lag.noise_std > 3 * found.noise_std


def test_the_operator_on_rows_without_noise_recovers_exactly():
    X, y, pattern = make_long_horizon_rewards(
        600, 6, lags=(0, 50), noise=0, random_state=0, return_pattern=True
    )
    series = series_of(X, y, centre=False)
    found = recover_pattern(series, 100, Recipe(**RECIPE | {"has_intercept": False}))
    assert found.value.pattern.support.tolist() == [0, 50]
    np.testing.assert_allclose(found.value.pattern.blocks, pattern.blocks, atol=1e-10)
    fitted = LaggedContexts(series.x, 100).forward(
        torch.from_numpy(found.value.pattern.coef_matrix)
    )
    torch.testing.assert_close(fitted, series.y, atol=1e-9, rtol=0)


def test_lags_that_hide_each_other_are_found_together():
    found = {True: 0, False: 0}
    for seed in range(30):
        X, y = make_long_horizon_rewards(
            150, 10, lags=(3, 20, 41, 60), weights=[0.5] * 4, random_state=seed
        )
        series = series_of(X, y)
        for ahead in found:
            with pytest.MonkeyPatch.context() as patch:
                if not ahead:
                    patch.setattr("sklearn_attn.bandits._select_lags.LOOK_AHEAD", 1)
                    patch.setattr("sklearn_attn.bandits._select_lags.AHEAD_SHARE", 0)
                solution = recover_pattern(series, 75, Recipe(**RECIPE))
            support = solution.value.pattern.support.tolist()
            found[ahead] += support == [3, 20, 41, 60]
    # measured over 60 draws: .8 and .45; three standard errors of 30 are .22
    assert found[True] >= 30 * (0.8 - 0.22)
    assert found[True] > found[False] + 4


@pytest.mark.parametrize(
    ("n", "d", "horizon"), [(500, 5, 200), (100, 2, 92), (120, 10, 80)]
)
def test_noise_has_no_lag_however_few_rows_tell_of_one(n, d, horizon):
    wrong = 0
    for seed in range(100):
        rng = np.random.RandomState(seed)
        series = series_of(rng.standard_normal((n, d)), rng.standard_normal(n))
        solution = recover_pattern(series, horizon, Recipe(**RECIPE))
        wrong += len(solution.value.pattern.support) > 0
    # at most .05 are wanted: 10 of 100 are exceeded in 1 % of such tests
    assert wrong <= 10
