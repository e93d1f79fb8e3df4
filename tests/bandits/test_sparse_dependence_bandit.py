"""Both faces of SparseDependenceBandit: rows in the order of time, and play."""

import copy
import io
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.bandits import (
    DependencePattern,
    LongHorizonBandit,
    SparseDependenceBandit,
)
from sklearn_attn.datasets import make_long_horizon_rewards

LAGS = (3, 20)


@pytest.fixture(scope="module")
def table():
    X, y, pattern = make_long_horizon_rewards(
        500, 4, lags=LAGS, intercept=5.0, random_state=0, return_pattern=True
    )
    return X + 1.0, y, pattern


@pytest.fixture(scope="module")
def fitted(table):
    X, y, _ = table
    return SparseDependenceBandit(horizon=60).fit(X, y)


def brute_force(model, X, past=None):
    """The model's sum, row by row; what is missing of the past is average."""
    centre = model._centre.context
    rows = [] if past is None else list(past)
    rows += list(X)
    n_past = len(rows) - len(X)
    y = []
    for t in range(len(X)):
        value = model._centre.reward
        for j in range(model.horizon):
            if n_past + t - j >= 0:
                value += model.coef_matrix_[j] @ (rows[n_past + t - j] - centre)
        y.append(value)
    return np.array(y)


# the table face


def test_lags_weights_and_direction_are_found(table, fitted):
    _, _, pattern = table
    assert fitted.support_.tolist() == list(LAGS)
    assert fitted.theta_ @ pattern.theta > 0.99
    np.testing.assert_allclose(
        fitted.lag_weights_[list(LAGS)], pattern.lag_weights[list(LAGS)], atol=0.1
    )
    assert np.linalg.norm(fitted.theta_) == pytest.approx(1)
    assert fitted.noise_std_ == pytest.approx(0.5, rel=0.1)
    np.testing.assert_allclose(
        fitted.coef_matrix_, np.outer(fitted.lag_weights_, fitted.theta_), atol=1e-12
    )
    # 5 on average, and the contexts' mean of 1 in all features, which pays nothing here
    expected = 5 - pattern.total.sum()
    assert fitted.intercept_ == pytest.approx(expected, abs=0.3)
    assert (fitted.n_seen_, fitted.epoch_, fitted.horizon) == (500, 1, 60)


def test_the_past_of_a_prediction_is_where_it_is_said_to_be(table, fitted):
    X, _, _ = table
    ahead = np.random.RandomState(1).standard_normal((30, 4))
    # the tail of the training table, nothing, or what is given
    np.testing.assert_allclose(fitted.predict(ahead), brute_force(fitted, ahead, X))
    cold = fitted.predict(ahead, X_history=None)
    np.testing.assert_allclose(cold, brute_force(fitted, ahead))
    past = np.random.RandomState(2).standard_normal((7, 4))
    np.testing.assert_allclose(
        fitted.predict(ahead, X_history=past), brute_force(fitted, ahead, past)
    )
    assert cold[0] == pytest.approx(fitted._centre.reward)  # lag 3 has not been seen
    # rows before are the past of rows after
    np.testing.assert_allclose(
        fitted.predict(ahead)[10:],
        fitted.predict(ahead[10:], X_history=np.concatenate([X, ahead[:10]])),
    )
    np.testing.assert_array_equal(fitted.history_, X[-59:])


def test_fitted_values_are_those_of_a_cold_start(table, fitted):
    X, y, _ = table
    np.testing.assert_allclose(
        fitted.fitted_values_, fitted.predict(X, X_history=None), atol=1e-10
    )
    n_free = 500 - 1 - (2 + 4 - 1)
    rss = np.square(y - fitted.fitted_values_).sum()
    assert fitted.noise_std_ == pytest.approx(np.sqrt(rss / n_free))


def test_the_value_of_a_context_does_not_depend_on_the_order_of_rows(fitted):
    X = np.random.RandomState(0).standard_normal((20, 4))
    value = fitted.predict_value(X)
    expected = fitted.intercept_ + fitted.lag_weights_.sum() * X @ fitted.theta_
    np.testing.assert_allclose(value, expected)
    np.testing.assert_allclose(fitted.predict_value(X[::-1])[::-1], value)
    # choosing one context for ever brings it in the long run
    np.testing.assert_allclose(fitted.predict(np.tile(X[:1], (80, 1)))[-1], value[0])


def test_the_score_follows_the_training_rows(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60).fit(X[:300], y[:300])
    warm = model.score(X[300:], y[300:])
    assert warm > 0.7
    residual = y[300:] - model.predict(X[300:])
    r2 = 1 - np.square(residual).sum() / np.square(y[300:] - y[300:].mean()).sum()
    assert warm == pytest.approx(r2)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_parts_give_what_the_whole_gives(table, size):
    X, y, _ = table
    X, y = X[:192], y[:192]
    whole = SparseDependenceBandit(horizon=60).fit(X, y)
    parts = SparseDependenceBandit(horizon=60)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # more rows may come: there is nothing to warn of
        for first in range(0, len(X), size):
            parts.partial_fit(X[first : first + size], y[first : first + size])
    assert whole.support_.tolist() == list(LAGS)
    np.testing.assert_array_equal(parts.support_, whole.support_)
    np.testing.assert_allclose(parts.lag_weights_, whole.lag_weights_, atol=1e-8)
    np.testing.assert_allclose(parts.theta_, whole.theta_, atol=1e-8)
    np.testing.assert_array_equal(parts.history_, whole.history_)
    assert (parts.n_seen_, whole.n_seen_) == (192, 192)


def test_later_rows_go_on_after_a_fit(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60).fit(X[:300], y[:300])
    model.partial_fit(X[300:], y[300:])
    whole = SparseDependenceBandit(horizon=60).fit(X, y)
    np.testing.assert_allclose(model.coef_matrix_, whole.coef_matrix_, atol=1e-10)
    assert model.fit(X[:300], y[:300]).n_seen_ == 300  # and a fit forgets


# metamorphic laws


def test_rewards_that_come_later_have_later_lags(table):
    X, y, _ = table
    later = np.concatenate([np.full(9, y.mean()), y[:-9]])
    model = SparseDependenceBandit(horizon=60).fit(X, later)
    assert model.support_.tolist() == [lag + 9 for lag in LAGS]


def test_units_of_rewards_and_axes_of_contexts_do_not_matter(table, fitted):
    X, y, _ = table
    scaled = SparseDependenceBandit(horizon=60).fit(X, 1e6 * y)
    np.testing.assert_allclose(
        scaled.lag_weights_, 1e6 * fitted.lag_weights_, rtol=1e-9
    )
    Q, _ = np.linalg.qr(np.random.RandomState(0).standard_normal((4, 4)))
    turned = SparseDependenceBandit(horizon=60).fit(X @ Q, y)
    np.testing.assert_array_equal(turned.support_, fitted.support_)
    np.testing.assert_allclose(turned.theta_, fitted.theta_ @ Q, atol=1e-9)
    units = np.array([1e-6, 1.0, 1e6, 10.0])
    other = SparseDependenceBandit(horizon=60).fit(X * units, y)
    np.testing.assert_allclose(
        other.coef_matrix_ * units, fitted.coef_matrix_, atol=1e-9
    )
    order = [2, 0, 3, 1]
    shuffled = SparseDependenceBandit(horizon=60).fit(X[:, order], y)
    np.testing.assert_allclose(shuffled.theta_, fitted.theta_[order], atol=1e-9)
    more = np.column_stack([X, np.random.RandomState(5).standard_normal(500)])
    noisy = SparseDependenceBandit(horizon=60).fit(more, y)
    np.testing.assert_array_equal(noisy.support_, fitted.support_)


def test_features_that_tell_nothing_new_change_nothing(table, fitted):
    X, y, _ = table
    wide = np.column_stack([X, np.full(500, 7.0), X[:, 0] - X[:, 1]])
    model = SparseDependenceBandit(horizon=60).fit(wide, y)
    np.testing.assert_array_equal(model.support_, fitted.support_)
    np.testing.assert_allclose(model.predict(wide), fitted.predict(X), atol=1e-9)
    assert model.theta_[4] == 0


def test_the_sign_is_that_of_the_sum_of_weights():
    X, y = make_long_horizon_rewards(
        800, 3, lags=(1, 9), weights=[-2.0, 0.5], random_state=0
    )
    model = SparseDependenceBandit(horizon=30).fit(X, y)
    assert model.lag_weights_.sum() > 0
    assert model.lag_weights_[1] > 0 > model.lag_weights_[9]


# every parameter does something


def test_the_horizon_is_what_is_looked_at(table):
    X, y, _ = table
    assert SparseDependenceBandit(horizon=20).fit(X, y).support_.tolist() == [3]
    assert SparseDependenceBandit(horizon=21).fit(X, y).support_.tolist() == [3, 20]


def test_a_number_of_lags_is_taken_as_it_is(table):
    X, y, _ = table
    for solver in ("omp", "htp", "lasso", "group_lasso", "quarters"):
        model = SparseDependenceBandit(horizon=60, n_lags=1, solver=solver).fit(X, y)
        assert len(model.support_) == 1
    model = SparseDependenceBandit(horizon=60, n_lags=4).fit(X, y)
    assert len(model.support_) == 4
    assert set(LAGS) < set(model.support_.tolist())


@pytest.mark.filterwarnings("ignore:No lag explains")
def test_a_larger_level_lets_more_lags_pass(table):
    X, _, _ = table
    n_wrong = {0.01: 0, 0.9: 0}
    for alpha in n_wrong:
        for seed in range(20):
            noise = np.random.RandomState(seed).standard_normal(500)
            model = SparseDependenceBandit(horizon=60, alpha=alpha).fit(X, noise)
            n_wrong[alpha] += model.support_.size > 0
    assert n_wrong[0.01] <= 1
    assert n_wrong[0.9] >= 5
    assert model.lag_threshold_ < SparseDependenceBandit().fit(X, noise).lag_threshold_


def test_no_more_lags_are_taken_than_allowed(table):
    X, y, _ = table
    for solver in ("omp", "htp", "lasso", "group_lasso"):
        model = SparseDependenceBandit(horizon=60, solver=solver, max_lags=1)
        assert model.fit(X, y).support_.size == 1


def test_scores_exceed_the_threshold_on_the_support_only(fitted):
    passed = np.flatnonzero(fitted.lag_scores_ > fitted.lag_threshold_)
    assert passed.tolist() == list(LAGS)
    assert fitted.lag_scores_.shape == (60,)


def test_without_intercept_nothing_is_centred():
    X, y = make_long_horizon_rewards(500, 3, lags=(2, 9), random_state=0)
    plain = SparseDependenceBandit(horizon=30, fit_intercept=False).fit(X, y)
    assert plain.support_.tolist() == [2, 9]
    assert plain.intercept_ == 0
    assert plain.predict(X[:1], X_history=None)[0] == 0
    shifted = SparseDependenceBandit(horizon=30, fit_intercept=False, n_lags=2)
    shifted.fit(X, y + 10)
    assert shifted.noise_std_ > 5 * plain.noise_std_


def test_weights_are_held_above_zero():
    X, y = make_long_horizon_rewards(
        800, 3, lags=(1, 9), weights=[2.0, -0.5], random_state=1
    )
    free = SparseDependenceBandit(horizon=30).fit(X, y)
    held = SparseDependenceBandit(horizon=30, nonneg=True).fit(X, y)
    assert free.support_.tolist() == [1, 9]
    assert held.support_.tolist() == [1]


def test_prewhitening_keeps_slow_contexts_from_explaining_slow_noise():
    rng = np.random.RandomState(0)
    found = {0: 0, 1: 0}
    n_tables = 40
    for _ in range(n_tables):
        Z = rng.standard_normal((800, 4))
        for t in range(1, 800):
            Z[t] += 0.95 * Z[t - 1]
        X, y = Z[:, :3], Z[:, 3]  # which do not depend on each other
        for order in found:
            model = SparseDependenceBandit(horizon=60, prewhiten=order)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                found[order] += model.fit(X, y).support_.size > 0
    assert found[0] > 0.9 * n_tables
    # of 40 tables, two are expected; six are exceeded in less than 1 % of such tests
    assert found[1] <= 6


def test_prewhitening_finds_the_same_lags_where_there_are_some():
    rng = np.random.RandomState(1)
    X = rng.standard_normal((2000, 3))
    for t in range(1, 2000):
        X[t] += 0.9 * X[t - 1]
    y = rng.standard_normal(2000)
    for lag, weight in ((4, 1.0), (7, -0.6), (30, 0.5)):
        y[lag:] += weight * X[:-lag, 0]
    model = SparseDependenceBandit(horizon=60, prewhiten=1).fit(X, y)
    assert model.support_.tolist() == [4, 7, 30]
    # of least squares on the rows as they are
    assert model.noise_std_ == pytest.approx(1, rel=0.1)


def test_rows_in_chunks_give_the_same_model(table, fitted):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60, chunk_size=37).fit(X, y)
    np.testing.assert_allclose(model.coef_matrix_, fitted.coef_matrix_, atol=1e-10)


def test_single_precision_is_used_where_it_is_asked_for(table, fitted):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60).fit(X.astype(np.float32), y)
    assert model.predict(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(model.theta_, fitted.theta_, atol=1e-4)
    assert not np.array_equal(model.theta_, fitted.theta_)
    double = SparseDependenceBandit(horizon=60, dtype="float64")
    double.fit(X.astype(np.float32), y)
    exact = SparseDependenceBandit(horizon=60)
    exact.fit(X.astype(np.float32).astype(float), y)
    np.testing.assert_array_equal(double.theta_, exact.theta_)


def test_too_few_iterations_are_told(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60, solver="lasso", max_iter=3)
    with pytest.warns(ConvergenceWarning, match="max_iter=3") as caught:
        model.fit(X, y)
    assert caught[0].filename == __file__
    loose = SparseDependenceBandit(horizon=60, solver="lasso", tol=1e-1).fit(X, y)
    tight = SparseDependenceBandit(horizon=60, solver="lasso", tol=1e-8).fit(X, y)
    assert loose.n_iter_ < tight.n_iter_
    assert len(tight.loss_curve_) == tight.n_iter_


def test_the_quarters_are_those_of_the_paper():
    # the reward of the first and the third quarter is nonsense, and nobody sees it
    X, y = make_long_horizon_rewards(800, 3, lags=(2, 9), random_state=0)
    spoiled = y.copy()
    spoiled[:200] = spoiled[400:600] = 1000.0
    model = SparseDependenceBandit(horizon=100, solver="quarters").fit(X, y)
    other = SparseDependenceBandit(horizon=100, solver="quarters").fit(X, spoiled)
    np.testing.assert_allclose(other.coef_matrix_, model.coef_matrix_)
    assert {2, 9} <= set(model.support_.tolist())


# missing rewards, and trajectories


def test_rewards_that_are_missing_are_left_out_and_contexts_are_not(table):
    X, y, _ = table
    missing = np.random.RandomState(0).random_sample(500) < 0.3
    with_nan = np.where(missing, np.nan, y)
    model = SparseDependenceBandit(horizon=60, allow_missing_y=True).fit(X, with_nan)
    assert model.support_.tolist() == list(LAGS)
    spoiled = np.where(missing, np.nan, y + 0)
    np.testing.assert_array_equal(
        model.coef_matrix_, clone(model).fit(X, spoiled).coef_matrix_
    )
    assert model.score(X, with_nan) == pytest.approx(
        model.score(X, np.where(missing, np.nan, y))
    )
    with pytest.raises(ValueError, match="Input y contains NaN"):
        SparseDependenceBandit(horizon=60).fit(X, with_nan)
    with pytest.raises(ValueError, match="All rewards are NaN"):
        clone(model).fit(X, np.full(500, np.nan))


def panel(n_groups=6, n=120, seed=0):
    parts = [
        make_long_horizon_rewards(
            n,
            3,
            lags=(2, 15),
            weights=[1, 1],
            theta=[0.6, 0.8, 0],
            random_state=seed + i,
        )
        for i in range(n_groups)
    ]
    X, y = (np.concatenate(each) for each in zip(*parts))
    return X, y, np.repeat(np.arange(n_groups), n)


def test_lags_do_not_cross_trajectories():
    X, y, groups = panel()
    together = SparseDependenceBandit(horizon=40).fit(X, y, groups=groups)
    assert together.support_.tolist() == [2, 15]
    # rows may alternate, as long as each trajectory is in order
    order = np.argsort(np.tile(np.arange(120), 6), kind="stable")
    mixed = SparseDependenceBandit(horizon=40).fit(X[order], y[order], groups[order])
    np.testing.assert_allclose(mixed.coef_matrix_, together.coef_matrix_, atol=1e-10)
    # as one trajectory, the first rows of each are explained by others' past
    as_one = SparseDependenceBandit(horizon=40).fit(X, y)
    assert as_one.noise_std_ > 1.05 * together.noise_std_


def test_a_prediction_goes_on_where_its_trajectory_ended():
    X, y, groups = panel()
    model = SparseDependenceBandit(horizon=40).fit(X, y, groups=groups)
    ahead = np.random.RandomState(3).standard_normal((10, 3))
    named = np.array([4, 4, 4, 4, 4, 99, 99, 99, 99, 99])
    found = model.predict(ahead, groups=named)
    np.testing.assert_allclose(
        found[:5], model.predict(ahead[:5], X_history=X[groups == 4])
    )
    np.testing.assert_allclose(found[5:], model.predict(ahead[5:], X_history=None))
    # without a name, it is the latest
    np.testing.assert_allclose(
        model.predict(ahead), model.predict(ahead, X_history=X[groups == 5])
    )
    assert model.score(X[:50], y[:50], groups=groups[:50]) < 1


@pytest.mark.parametrize("column", [1, -3, "store"])
def test_a_column_may_name_the_trajectory(column):
    X, y, groups = panel()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame.insert(1, "store", groups)
    rows = frame if isinstance(column, str) else frame.to_numpy()
    model = SparseDependenceBandit(horizon=40, group_column=column).fit(rows, y)
    by_argument = SparseDependenceBandit(horizon=40).fit(X, y, groups)
    np.testing.assert_allclose(model.coef_matrix_, by_argument.coef_matrix_)
    assert (model.n_features_in_, len(model.theta_)) == (4, 3)
    some = np.r_[3:9, 130:140]
    np.testing.assert_allclose(
        model.predict(rows.iloc[some] if isinstance(column, str) else rows[some]),
        by_argument.predict(X[some], groups=groups[some]),
    )
    with pytest.raises(ValueError, match="named twice"):
        model.fit(rows, y, groups=groups)


def test_groups_are_routed_through_a_search():
    X, y, groups = panel()
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            SparseDependenceBandit(horizon=40),
            {"alpha": [0.05, 0.01]},
            cv=KFold(3),
        )
        search.fit(X, y, groups=groups)
    assert search.best_estimator_._log.labels == tuple(range(6))


# where it is used


def test_a_search_over_time_scores_with_the_training_tail(table):
    X, y, _ = table
    folds = TimeSeriesSplit(3, test_size=80)
    pipeline = make_pipeline(StandardScaler(), SparseDependenceBandit())
    search = GridSearchCV(
        pipeline, {"sparsedependencebandit__horizon": [10, 60]}, cv=folds
    ).fit(X, y)
    assert search.best_params_["sparsedependencebandit__horizon"] == 60
    assert search.best_score_ > 0.7
    assert search.predict(X[:5]).shape == (5,)


@pytest.mark.filterwarnings("ignore:No lag explains")
def test_shuffled_folds_are_a_trap(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60)
    in_order = cross_val_score(model, X, y, cv=TimeSeriesSplit(3, test_size=80))
    shuffled = cross_val_score(model, X, y, cv=KFold(3, shuffle=True, random_state=0))
    assert in_order.min() > 0.6
    assert shuffled.max() < 0.2


def test_frames_go_in_and_their_names_are_kept(table, fitted):
    X, y, _ = table
    for frame in (pd.DataFrame(X, columns=list("abcd")), pl.DataFrame(X, list("abcd"))):
        model = SparseDependenceBandit(horizon=60).fit(frame, pd.Series(y))
        assert model.feature_names_in_.tolist() == list("abcd")
        np.testing.assert_allclose(model.theta_, fitted.theta_)


def test_results_follow_the_namespace_of_the_contexts(table):
    X, y, _ = table
    contexts = torch.from_numpy(np.random.RandomState(0).standard_normal((3, 2, 4)))
    with sklearn.config_context(array_api_dispatch=True):
        X, y = torch.from_numpy(X), torch.from_numpy(y)
        model = SparseDependenceBandit(horizon=60).fit(X, y)
        results = [
            model.theta_,
            model.history_,
            model.coef_matrix_,
            model.predict(X),
            model.predict_value(X),
            model.recommend(contexts),
        ]
        assert all(isinstance(result, torch.Tensor) for result in results)
        model.observe(torch.tensor(1.0)) if model.act(contexts[0]) is None else None


# what is refused


def bad(match, **changes):
    return pytest.param(changes, match, id=match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        bad("n_lags=70 lags do not fit into horizon=60", n_lags=70),
        bad("rank_one=False has not", nonneg=True, rank_one=False),
        bad("'horizon' parameter", horizon=0),
        bad("'horizon' parameter", horizon=2.5),
        bad("'refit_growth' parameter", refit_growth=1.0),
        bad("device='cuda:9' is not available", device="cuda:9"),
        bad("X has 4 columns, and no column 4", group_column=4),
        bad("X has no column 'store'", group_column="store"),
    ],
)
def test_settings_that_make_no_sense_are_refused(table, changes, match):
    X, y, _ = table
    with pytest.raises(ValueError, match=match):
        SparseDependenceBandit(**{"horizon": 60} | changes).fit(X, y)


def test_input_that_makes_no_sense_is_refused(table, fitted):
    X, y, _ = table
    model = clone(fitted)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.fit(np.where(X > 2, np.nan, X), y)
    with pytest.raises(ValueError, match="Input y contains infinity"):
        model.fit(X, np.where(y > 5, np.inf, y))
    with pytest.raises(TypeError, match="Sparse"):
        model.fit(sparse.csr_matrix(X), y)
    with pytest.raises(ValueError, match=r"groups must have shape \(500,\)"):
        model.fit(X, y, groups=[1, 2])
    with pytest.raises(ValueError, match="groups contains NaN"):
        model.fit(X, y, groups=np.full(500, np.nan))
    with pytest.raises(ValueError, match="'auto', None or contexts; got 'all'"):
        fitted.predict(X, X_history="all")
    with pytest.raises(ValueError, match=r"X_history must have shape \(n_rounds, 4\)"):
        fitted.predict(X, X_history=X[:, :3])
    with pytest.raises(ValueError, match="past of one trajectory; X has 2"):
        fitted.predict(X[:2], X_history=X, groups=[0, 1])
    with pytest.raises(ValueError, match="X has 3 features"):
        fitted.partial_fit(X[:, :3], y)


def test_rows_out_of_the_order_of_time_are_refused(table, fitted):
    X, y, _ = table
    days = pd.date_range("2026-01-01", periods=500, freq="D")
    for index in (days, days.to_period(), days - days[0]):
        frame = pd.DataFrame(X, index=index)
        model = SparseDependenceBandit(horizon=60).fit(frame, y)
        np.testing.assert_array_equal(model.theta_, fitted.theta_)
        shuffled = frame.sample(frac=1, random_state=0)
        with pytest.raises(ValueError, match="in time order"):
            model.fit(shuffled, y)
        with pytest.raises(ValueError, match="in time order"):
            model.predict(shuffled)
        np.testing.assert_array_equal(model.theta_, fitted.theta_)  # unharmed
        model.predict_value(shuffled)  # has no order
    # within each trajectory is enough
    halves = pd.DataFrame(X, index=np.tile(days[:250], 2))
    SparseDependenceBandit(horizon=60).fit(halves, y, np.repeat([0, 1], 250))
    with pytest.raises(ValueError, match="in time order"):
        SparseDependenceBandit(horizon=60).fit(halves, y)


@pytest.mark.filterwarnings("ignore:No lag explains")
def test_numbers_for_an_index_that_fall_are_a_warning(table):
    X, y, _ = table
    shuffled = pd.DataFrame(X, columns=list("abcd")).sample(frac=1, random_state=0)
    model = SparseDependenceBandit(horizon=60)
    with pytest.warns(UserWarning, match="as if rows had been shuffled") as caught:
        model.fit(shuffled, y)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="as if rows had been shuffled") as caught:
        model.predict(shuffled)
    assert caught[0].filename == __file__
    named = pd.DataFrame(X, index=[f"row {i % 7}" for i in range(500)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(named, y)


def test_a_horizon_longer_than_half_of_the_rows_is_cut(table):
    X, y, _ = table
    with pytest.warns(UserWarning, match="longer than half.* below 30") as caught:
        model = SparseDependenceBandit(horizon=100).fit(X[:60], y[:60])
    assert caught[0].filename == __file__
    assert model.lag_weights_.shape == (100,)
    assert not np.isnan(model.lag_scores_[:30]).any()
    assert np.isnan(model.lag_scores_[30:]).all()
    forced = SparseDependenceBandit(horizon=100, n_lags=30)
    with (
        pytest.warns(UserWarning, match="longer than half"),
        pytest.warns(UserWarning, match="Only 7 of n_lags=30"),
    ):
        forced.fit(X[:60], y[:60])
    assert len(forced.support_) == 7  # half of the rows for coefficients
    assert forced.support_.max() < 30


def test_what_cannot_be_learned_is_told(table):
    X, y, _ = table
    with pytest.warns(UserWarning, match="5 rounds of 4 features are too few"):
        model = SparseDependenceBandit().fit(X[:5], y[:5])
    assert model.support_.tolist() == [0]
    with pytest.warns(UserWarning, match="All rewards are the same"):
        model = SparseDependenceBandit(horizon=60).fit(X, np.full(500, 3.3))
    assert model.support_.size == 0
    np.testing.assert_allclose(model.predict(X), 3.3)
    noise = np.random.RandomState(0).standard_normal(500)
    with pytest.warns(UserWarning, match="No lag explains more"):
        model = SparseDependenceBandit(horizon=60).fit(X, noise)
    np.testing.assert_allclose(model.predict(X), noise.mean())
    assert not model.theta_.any()
    with pytest.warns(UserWarning, match="No lag explains more"):
        SparseDependenceBandit(horizon=60).fit(np.ones((500, 2)), noise)


# judging policies


def logged_rounds(n=4000, n_arms=5, seed=0, lags=(3, 10), theta=(0.6, 0.8, 0, 0)):
    rng = np.random.RandomState(seed)
    contexts = rng.standard_normal((n, n_arms, 4))
    logged = rng.randint(n_arms, size=n)
    X = contexts[np.arange(n), logged]
    w = np.zeros(20)
    w[list(lags)] = 0.5
    pattern = DependencePattern.rank_one(w, theta)
    y = 1.0 + pattern.rewards(X) + 0.5 * rng.standard_normal(n)
    return contexts, logged, X, y, pattern


def test_policies_are_valued_by_all_lags_and_not_by_the_present():
    contexts, logged, X, y, pattern = logged_rounds()
    model = SparseDependenceBandit(horizon=20).fit(X, y)
    best = (contexts @ pattern.total).argmax(axis=1)
    truth = 1 + (contexts @ pattern.total).max(axis=1).mean()
    played = {"logged_actions": logged, "rewards": y}
    ips = model.policy_value(contexts, best, method="ips", **played)
    # standard error .054 at 5000 rounds in a prototype; three of ours
    assert ips == pytest.approx(truth, abs=3 * 0.06)
    assert model.policy_value(contexts, best) == pytest.approx(truth, abs=0.06)
    assert model.policy_value(contexts) == pytest.approx(truth, abs=0.06)
    np.testing.assert_array_equal(
        model.recommend(contexts[:9]),
        (contexts[:9] @ model.theta_).argmax(axis=1),
    )
    with pytest.raises(ValueError, match=r"wrong here: rewards depend.*\[3, 10\]"):
        model.policy_value(contexts, best, method="naive", **played)
    # what it would have said: the value of the logged policy
    naive = np.mean(5 * (best == logged) * y)
    assert naive < truth - 0.5


def test_one_present_lag_makes_all_weightings_the_same():
    contexts, logged, X, y, _ = logged_rounds(lags=(0,))
    model = SparseDependenceBandit(horizon=20).fit(X, y)
    played = {"logged_actions": logged, "rewards": y}
    assert model.support_.tolist() == [0]
    assert model.policy_value(contexts, method="naive", **played) == pytest.approx(
        model.policy_value(contexts, method="ips", **played)
    )
    # judging what was played gives what was earned, whatever it was played with
    assert model.policy_value(
        contexts, logged, method="ips", propensities=np.ones(len(y)), **played
    ) == pytest.approx(y.mean())


def test_unequal_propensities_are_weighed():
    rng = np.random.RandomState(0)
    contexts, _, _, _, pattern = logged_rounds(8000, 2)
    chance = np.where(np.arange(8000) % 2, 0.8, 0.3)
    logged = (rng.random_sample(8000) < chance).astype(int)
    X = contexts[np.arange(8000), logged]
    y = pattern.rewards(X) + 0.5 * rng.standard_normal(8000)
    model = SparseDependenceBandit(horizon=20).fit(X, y)
    best = (contexts @ pattern.total).argmax(axis=1)
    value = model.policy_value(
        contexts,
        best,
        method="ips",
        logged_actions=logged,
        rewards=y,
        propensities=np.where(logged == 1, chance, 1 - chance),
    )
    assert value == pytest.approx(
        (contexts @ pattern.total).max(axis=1).mean(), abs=0.1
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"method": "dr"}, "'dm', 'ips' or 'naive'; got 'dr'"),
        ({"rewards": None}, "needs logged_actions and rewards"),
        ({"rewards": [1.0]}, r"rewards must have shape \(30,\)"),
        ({"logged_actions": np.full(30, 5)}, "arms from 0 to 4; got 5"),
        ({"propensities": np.zeros(30)}, "greater than 0 and at most 1"),
        ({"actions": [0, 1]}, r"actions must have shape \(30,\)"),
        ({"contexts": np.zeros((30, 5, 3))}, "must have 4 features, as before"),
        ({"contexts": np.zeros((30, 4))}, r"shape \(n_rounds, n_arms, n_features\)"),
    ],
)
def test_a_policy_is_not_valued_from_nonsense(fitted, changes, match):
    arguments = {
        "contexts": np.random.RandomState(0).standard_normal((30, 5, 4)),
        "method": "ips",
        "logged_actions": np.zeros(30, dtype=int),
        "rewards": np.zeros(30),
    }
    with pytest.raises(ValueError, match=match):
        fitted.policy_value(**arguments | changes)


# the online face


def game(n_rounds=None, lags=(2, 9), weights=(0.6, 0.4), d=3, **options):
    w = np.zeros(30)
    w[list(lags)] = weights
    theta = np.array([0.6, 0.8, 0.0][:d])
    pattern = DependencePattern.rank_one(w, theta)
    return LongHorizonBandit(pattern, n_arms=4, n_rounds=n_rounds, **options)


def test_play_explores_and_then_takes_the_best():
    model = SparseDependenceBandit(horizon=30, random_state=0)
    result = model.simulate(game(), 600, seed=0)
    assert model.support_.tolist() == [2, 9]
    assert model.n_seen_ == len(result.actions) == 600
    late, early = result.regret[-1] - result.regret[-301], result.regret[49]
    assert late < 0.05 * early * 6
    assert model.epoch_ > 5


def test_exploration_lasts_as_long_as_it_is_told():
    contexts = np.random.RandomState(0).standard_normal((400, 4, 3))
    for n in (20, 100):
        model = SparseDependenceBandit(horizon=10, explore_rounds=n, random_state=0)
        model.simulate(game(contexts=contexts), n - 1, seed=0)
        with pytest.raises(NotFittedError):
            model.predict(contexts[0])
        observation = contexts[n - 1]
        model.act(observation)
        model.observe(0.0)
        assert model.epoch_ == 1
        assert model.predict(contexts[0]).shape == (4,)


def test_fits_are_as_far_apart_as_rounds_grow():
    few, many = (
        SparseDependenceBandit(horizon=30, refit_growth=growth, random_state=0)
        for growth in (3.0, 1.1)
    )
    for model in (few, many):
        model.simulate(game(), 500, seed=0)
    # from 50 on: 150, 450 and, at 1.1, about log(10) / log(1.1)
    assert few.epoch_ == 3
    assert many.epoch_ == pytest.approx(1 + np.log(10) / np.log(1.1), abs=3)


def test_the_quarters_play_epochs_that_double():
    model = SparseDependenceBandit(
        horizon=30, solver="quarters", explore_rounds=40, random_state=0
    )
    epochs = {}
    environment, policy = game(), model
    contexts, _ = environment.reset(seed=0)
    for t in range(1, 600):
        contexts, reward, *_ = environment.step(policy.act(contexts))
        policy.observe(reward)
        epochs.setdefault(policy.epoch_, t)
    # T_i = (2^(i + 2) - 4) L for L = 10
    assert epochs == {0: 1, 1: 40, 2: 120, 3: 280}
    assert len(model.fitted_values_) == 160  # of the last epoch alone


def test_a_table_is_a_warm_start(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60, random_state=0).fit(X, y)
    contexts = np.random.RandomState(0).standard_normal((6, 4))
    best = int((contexts @ model.theta_).argmax())
    assert model.act(contexts) == best
    model.observe(5.0)
    np.testing.assert_array_equal(model.history_[-1], contexts[best])
    assert model.n_seen_ == 501


@pytest.mark.parametrize("solver", ["omp", "quarters"])
def test_a_game_goes_on_after_pickling(solver):
    model = SparseDependenceBandit(horizon=40, solver=solver, random_state=3)
    through = game()
    whole = clone(model)
    expected = whole.simulate(through, 400, seed=1)
    first = game()
    before = model.simulate(first, 200, seed=1)
    dump = io.BytesIO()
    joblib.dump(model, dump)
    dump.seek(0)
    for copied in (pickle.loads(pickle.dumps(model)), joblib.load(dump)):
        environment = copy.deepcopy(first)
        after = copied.simulate(environment, 200, observation=before.observation)
        actions = np.concatenate([before.actions, after.actions])
        np.testing.assert_array_equal(actions, expected.actions)
        np.testing.assert_array_equal(copied.theta_, whole.theta_)
        assert copied.n_seen_ == 400


def test_a_pending_action_survives_pickling():
    model = SparseDependenceBandit(horizon=5, random_state=0)
    contexts = np.random.RandomState(0).standard_normal((3, 2))
    arm = model.act(contexts)
    copied = pickle.loads(pickle.dumps(model)).observe(1.0)
    assert copied.n_seen_ == 1
    np.testing.assert_array_equal(copied._log.x[0], contexts[arm])
    assert model.n_seen_ == 0


def test_copies_do_not_write_into_each_other(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60).fit(X[:300], y[:300])
    other = copy.copy(model)
    model.partial_fit(X[300:400], y[300:400])
    other.partial_fit(X[400:], y[400:])
    np.testing.assert_array_equal(model._log.x, X[:400])
    np.testing.assert_array_equal(other._log.x, X[np.r_[:300, 400:500]])


def test_another_game_does_not_go_on_in_the_same_trajectory():
    model = SparseDependenceBandit(horizon=30, random_state=0)
    model.simulate(game(), 100, seed=0)
    model.simulate(game(), 100, seed=1)
    assert np.bincount(model._log.codes).tolist() == [100, 100]
    assert len(model.history_) == 29
    model.new_trajectory()
    np.testing.assert_array_equal(model.history_, np.zeros((29, 3)))  # nothing was done


def test_the_end_of_a_game_matters_if_it_is_to():
    # what pays within 5 rounds is the opposite of what pays after 20
    w = np.zeros(30)
    w[[5, 20]] = [-1.0, 2.0]
    X = np.random.RandomState(0).standard_normal((800, 2))
    y = DependencePattern.rank_one(w, [1.0, 0.0]).rewards(X)
    contexts = np.array([[1.0, 0.0], [-1.0, 0.0]])
    total, remaining = (
        SparseDependenceBandit(horizon=30, action_value=value).fit(X, y)
        for value in ("total", "remaining")
    )
    assert total.act(contexts, n_left=10) == 0
    assert remaining.act(contexts, n_left=10) == 1
    assert remaining.act(contexts, n_left=20) == 0
    assert remaining.act(contexts) == 0
    played = remaining.simulate(
        LongHorizonBandit(remaining.pattern_, n_arms=2, contexts=contexts[None]), 40
    )
    assert played.actions.tolist() == [0] * 20 + [1] * 15 + [0] * 5


def test_play_of_nonsense_is_refused():
    model = SparseDependenceBandit(horizon=10, random_state=0)
    contexts = np.random.RandomState(0).standard_normal((3, 2))
    with pytest.raises(ValueError, match=r"call act\(\) first"):
        model.observe(1.0)
    model.act(contexts)
    for reward, match in (
        (np.nan, "must be finite; got nan"),
        (np.inf, "finite"),
        ("a", "number"),
    ):
        with pytest.raises(ValueError, match=match):
            model.observe(reward)
    model.observe(1.0)  # the action was still waiting
    with pytest.raises(ValueError, match=r"call act\(\) first"):
        model.observe(1.0)
    with pytest.raises(ValueError, match="must have 2 features, as before"):
        model.act(np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"shape \(n_arms, n_features\)"):
        model.act(np.zeros(2))
    with pytest.raises(ValueError, match="NaN or infinity"):
        model.act(np.full((3, 2), np.nan))
    with pytest.raises(TypeError, match="sparse"):
        model.act(sparse.csr_matrix(contexts))
    assert model.n_seen_ == 1
    with pytest.raises(ValueError, match="new_trajectory"):
        SparseDependenceBandit(group_column=0).act(contexts)
    with pytest.raises(ValueError, match="'alpha' parameter"):
        SparseDependenceBandit(alpha=2).act(contexts)


def test_a_missing_reward_is_a_round_all_the_same():
    model = SparseDependenceBandit(horizon=10, allow_missing_y=True, random_state=0)
    for t in range(60):
        model.act(np.random.RandomState(t).standard_normal((3, 2)))
        model.observe(np.nan if t % 3 else 1.0 * t)
    assert model.n_seen_ == 60


def test_another_choice_replaces_one_without_a_reward(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60).fit(X, y)
    model.act(np.eye(4))
    second = np.eye(4)[::-1].copy()
    arm = model.act(second)
    model.observe(1.0)
    np.testing.assert_array_equal(model.history_[-1], second[arm])
    assert model.n_seen_ == 501


def test_rows_that_others_chose_can_be_added_in_play():
    model = SparseDependenceBandit(horizon=30, random_state=0)
    model.simulate(game(), 200, seed=0)
    X = np.random.RandomState(0).standard_normal((5, 3))
    model.partial_fit(X, np.zeros(5))
    np.testing.assert_array_equal(model.history_[-5:], X)
    assert model.n_seen_ == 205


def test_callbacks_see_the_search_and_may_end_it(table, tmp_path):
    pytest.importorskip("sklearn.callback")
    from sklearn_attn.callbacks import EarlyStopping, Snapshot

    X, y, _ = table
    snapshot = Snapshot(tmp_path)
    model = SparseDependenceBandit(horizon=60).set_callbacks(snapshot)
    model.fit(X[:400], y[:400])
    assert len(snapshot.list_files()) == len(LAGS)  # after each lag
    last = snapshot.load("newest")
    assert last.support_.tolist() == list(LAGS)
    assert last.loss_curve_ == model.loss_curve_
    assert last.score(X[400:], y[400:]) == pytest.approx(
        model.score(X[400:], y[400:]), abs=0.05
    )
    behind_a_filter = Snapshot(tmp_path / "filtered")
    slow = X - X.mean(0)
    for t in range(1, len(slow)):
        slow[t] += 0.9 * slow[t - 1]
    slow *= 100 ** np.arange(4.0)  # of other units once they are filtered
    slow_y = DependencePattern.rank_one([0, 0, 1.0], [1, 1e-2, 0, 0]).rewards(slow)
    model = SparseDependenceBandit(horizon=20, prewhiten=1, n_lags=1)
    model.set_callbacks(behind_a_filter).fit(slow, slow_y)
    seen = behind_a_filter.load("newest")
    assert seen.support_.tolist() == model.support_.tolist() == [2]
    np.testing.assert_allclose(seen.theta_, model.theta_, atol=0.02)
    stop = EarlyStopping(n_iter_no_change=1, tol=1e9)
    stopped = SparseDependenceBandit(horizon=60, solver="lasso").set_callbacks(stop)
    alone = SparseDependenceBandit(horizon=60, solver="lasso").fit(X, y)
    assert stopped.fit(X, y).n_iter_ < alone.n_iter_


# what went wrong once


def test_rounds_without_a_name_go_on_in_the_latest_trajectory():
    X, y, _ = panel()
    names = np.repeat(["abc", "de"], 360)
    model = SparseDependenceBandit(horizon=40, random_state=0).fit(X, y, groups=names)
    model.partial_fit(X[:3], y[:3])
    model.act(X[:4])
    model.observe(1.0)
    assert model._log.labels == ("abc", "de")
    assert np.bincount(model._log.codes).tolist() == [360, 364]
    np.testing.assert_array_equal(model.history_[-4:-1], X[:3])


@pytest.mark.parametrize("value", [0.1, 1 / 3, 255.1, 1e-3, 1e9])
def test_a_constant_feature_is_worth_nothing(table, fitted, value):
    X, y, _ = table
    wide = np.column_stack([X, np.full(500, value)])
    for solver in ("omp", "htp", "lasso", "group_lasso"):
        model = SparseDependenceBandit(horizon=60, solver=solver).fit(wide, y)
        assert model.theta_[4] == 0
        np.testing.assert_allclose(model.coef_matrix_[:, :4], fitted.coef_matrix_)


def test_in_play_nothing_came_before_the_first_round():
    false_lags, intercepts = 0, []
    for seed in range(10):
        model = SparseDependenceBandit(horizon=40, random_state=seed)
        model.simulate(game(lags=(10, 29)), 600, seed=seed)
        # contexts are chosen, and point along theta: their mean is not zero
        assert model._centre.context @ model.theta_ > 0.5
        false_lags += len(set(model.support_.tolist()) - {10, 29})
        intercepts.append(model.intercept_)
        np.testing.assert_allclose(
            model.predict(model._log.x, X_history=np.zeros((39, 3))),
            model.predict(model._log.x, X_history=np.zeros((50, 3))),
        )
    assert false_lags <= 3  # 10 games, .05 each are wanted
    # the standard error of an intercept, .5 / sqrt(600) and what theta adds: .05
    assert np.mean(intercepts) == pytest.approx(0, abs=3 * 0.05 / np.sqrt(10) + 0.02)


def test_dependent_features_in_single_precision_make_no_difference():
    X, y = make_long_horizon_rewards(603, 3, lags=(0, 5), random_state=0)
    wide = np.column_stack([X, X[:, :2], X[:, 0] + X[:, 1]])
    for solver in ("omp", "htp", "lasso", "group_lasso"):
        single, double = (
            SparseDependenceBandit(horizon=10, solver=solver).fit(wide.astype(dtype), y)
            for dtype in (np.float32, np.float64)
        )
        assert single.support_.tolist() == double.support_.tolist() == [0, 5]
        np.testing.assert_allclose(
            single.lag_weights_, double.lag_weights_, rtol=1e-3, atol=1e-3
        )
        noisy = (wide + 0.01 * np.eye(6)[0]).astype(np.float32)
        np.testing.assert_allclose(
            single.predict(noisy), single.predict(wide.astype(np.float32)), atol=0.1
        )


def test_the_end_of_the_first_game_matters_too():
    pattern = DependencePattern.rank_one([1.0] + [0.0] * 39 + [-3.0], [0.6, 0.8])
    regret = {}
    for value in ("total", "remaining"):
        model = SparseDependenceBandit(horizon=60, action_value=value, random_state=0)
        environment = LongHorizonBandit(pattern, n_rounds=400)
        # the game ends before the rounds that it is asked for
        regret[value] = model.simulate(environment, 4000, seed=0).regret[-1]
    # in the last 40 rounds, only the weight of 1 counts, and not the total of -2
    assert regret["remaining"] < regret["total"] - 40


@pytest.mark.parametrize("solver", ["htp", "lasso", "group_lasso", "quarters"])
@pytest.mark.parametrize("max_iter", [1, 2, 3, 5, 9, 13, 21])
def test_any_limit_of_iterations_is_kept(solver, max_iter):
    X, y = make_long_horizon_rewards(600, 3, lags=(0, 3, 5, 7, 9, 11), random_state=0)
    model = SparseDependenceBandit(horizon=15, solver=solver, max_iter=max_iter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    assert model.n_iter_ <= max_iter
    reached = any("max_iter" in str(warning.message) for warning in caught)
    assert reached or model.n_iter_ < max_iter or solver == "htp"
    with warnings.catch_warnings(record=True) as again:
        warnings.simplefilter("always")
        clone(model).partial_fit(X, y)
    assert any("max_iter" in str(warning.message) for warning in again) == reached


@pytest.mark.parametrize("solver", ["omp", "quarters"])
def test_rewards_that_never_came_are_no_error(solver):
    model = SparseDependenceBandit(
        horizon=10, solver=solver, allow_missing_y=True, random_state=0
    )
    rng = np.random.RandomState(0)
    for _ in range(130):
        model.act(rng.standard_normal((3, 2)))
        model.observe(np.nan)
    assert model.n_seen_ == 130
    with pytest.raises(NotFittedError):
        model.predict(np.zeros((1, 2)))
    for _ in range(400):
        contexts = rng.standard_normal((3, 2))
        model.observe(contexts[model.act(contexts), 0])
    assert model.predict(np.zeros((1, 2))).shape == (1,)


@pytest.mark.filterwarnings("ignore:horizon")
def test_parts_of_a_table_do_not_make_epochs_longer():
    X, y = make_long_horizon_rewards(600, 3, lags=(2,), random_state=0)
    whole = SparseDependenceBandit(horizon=30, solver="quarters").fit(X, y)
    parts = SparseDependenceBandit(horizon=30, solver="quarters")
    for first in range(0, 600, 20):
        parts.partial_fit(X[first : first + 20], y[first : first + 20])
    assert parts._refit_at == whole._refit_at == 600 + 52
    np.testing.assert_allclose(parts.coef_matrix_, whole.coef_matrix_)


def test_what_the_papers_lasso_does_not_know_is_refused():
    X, y = make_long_horizon_rewards(600, 3, lags=(2,), random_state=0)
    for options in ({"nonneg": True}, {"prewhiten": 1}):
        with pytest.raises(ValueError, match="knows neither nonneg nor prewhiten"):
            SparseDependenceBandit(solver="quarters", **options).fit(X, y)


@pytest.mark.parametrize("solver", ["omp", "htp", "lasso", "group_lasso", "quarters"])
def test_a_number_of_lags_is_that_of_each_feature(solver):
    rng = np.random.RandomState(0)
    X = rng.standard_normal((1200, 3))
    y = 0.1 * rng.standard_normal(1200)
    for feature, lag in enumerate((1, 4, 7)):
        y[lag:] += X[:-lag, feature]
    model = SparseDependenceBandit(
        horizon=10, n_lags=1, rank_one=False, solver=solver
    ).fit(X, y)
    found = np.argwhere(np.abs(model.coef_matrix_) > 0.1)
    assert found.tolist() == [[1, 0], [4, 1], [7, 2]]


def test_rows_of_others_do_not_shorten_what_play_looks_at():
    model = SparseDependenceBandit(horizon=200, random_state=0)
    w = np.zeros(200)
    w[150] = 1.0
    pattern = DependencePattern.rank_one(w, [0.6, 0.8])
    model.simulate(LongHorizonBandit(pattern, noise_std=0.1), 250, seed=0)
    assert model.support_.tolist() == [150]
    model.partial_fit(np.zeros((1, 2)), [0.0])
    assert model.support_.tolist() == [150]


def test_rows_that_are_added_take_the_place_of_an_action_that_waits():
    model = SparseDependenceBandit(horizon=5, random_state=0)
    contexts = np.random.RandomState(0).standard_normal((3, 2))
    arm = model.act(contexts)
    model.partial_fit(contexts[[arm]], [1.0])
    with pytest.raises(ValueError, match=r"call act\(\) first"):
        model.observe(1.0)
    assert model.n_seen_ == 1


def test_without_intercept_a_constant_reward_may_depend_on_lags():
    X, _ = make_long_horizon_rewards(600, 3, lags=(2,), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = SparseDependenceBandit(horizon=30, fit_intercept=False)
        model.fit(X + 3, np.full(600, 5.0))
    assert 0 in model.support_
    noise = np.random.RandomState(3).standard_normal(600)
    with pytest.warns(UserWarning, match="the prediction is zero"):
        assert not model.fit(X, noise).predict(X).any()


def test_many_short_trajectories_tell_of_a_lag_as_well_as_a_long_one():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((400 * 15, 2))
    groups = np.repeat(np.arange(400), 15)
    shifted = np.where(np.arange(6000) % 15 >= 9, np.roll(X[:, 0], 9), 0.0)
    y = shifted + 0.5 * rng.standard_normal(6000)
    model = SparseDependenceBandit(horizon=15).fit(X, y, groups)
    assert model.support_.tolist() == [9]


def test_times_tell_what_came_before(table):
    X, y, _ = table
    days = pd.date_range("2026-01-01", periods=500, freq="D")
    frame, rewards = pd.DataFrame(X, index=days), pd.Series(y, index=days)
    model = SparseDependenceBandit(horizon=60)
    for wrong in (rewards[::-1], rewards.sample(frac=1, random_state=0)):
        with pytest.raises(ValueError, match="in time order"):
            model.fit(X, wrong)
    model.fit(frame[:300], rewards[:300])
    with pytest.raises(
        ValueError, match=r"must follow.*2026-10-27.*begin at 2026-01-01"
    ):
        model.partial_fit(frame[:10], rewards[:10])
    with pytest.warns(UserWarning, match="they are not its past") as caught:
        model.predict(frame[290:])
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="they are not its past") as caught:
        model.score(frame[290:], rewards[290:])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(frame[300:])
        model.predict(frame[:10], X_history=None)
        model.partial_fit(frame[300:], rewards[300:])


def test_too_few_rounds_for_a_lag_are_not_weighed():
    contexts, logged, X, y, _ = logged_rounds()
    model = SparseDependenceBandit(horizon=20).fit(X, y)
    with pytest.raises(ValueError, match="8 rounds tell nothing of lag 10"):
        model.policy_value(
            contexts[:8], method="ips", logged_actions=logged[:8], rewards=y[:8]
        )


@pytest.mark.filterwarnings("ignore:horizon", "ignore:No lag explains")
@pytest.mark.parametrize("solver", ["omp", "htp", "lasso"])
def test_too_few_rounds_for_a_filter_are_told(table, solver):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=10, prewhiten=30, solver=solver)
    with pytest.warns(UserWarning, match="too few for a filter of order 30"):
        model.fit(X[:30], y[:30])


@pytest.mark.parametrize("scale", [1e-160, 1e-150, 1e-20, 1e20, 1e150, 1e160])
@pytest.mark.parametrize("solver", ["omp", "htp", "lasso", "group_lasso", "quarters"])
def test_sizes_of_numbers_do_not_matter(solver, scale):
    X, y = make_long_horizon_rewards(600, 3, lags=(0, 5), random_state=0)
    model = SparseDependenceBandit(horizon=10, solver=solver)
    usual = clone(model).fit(X, y)
    large = clone(model).fit(X, y * scale)
    assert large.support_.tolist() == usual.support_.tolist()
    np.testing.assert_allclose(
        large.lag_weights_ / scale, usual.lag_weights_, rtol=1e-6, atol=1e-9
    )
    assert large.noise_std_ / scale == pytest.approx(usual.noise_std_)
    both = clone(model).fit(X * scale, y * scale)
    np.testing.assert_allclose(both.theta_, usual.theta_, rtol=1e-6, atol=1e-9)
    assert np.isfinite(both.lag_weights_).all()
    wide = clone(model).fit(X * scale, y)
    assert wide.support_.tolist() == usual.support_.tolist()
    np.testing.assert_allclose(wide.theta_, usual.theta_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(wide.theta_cov_, usual.theta_cov_, rtol=1e-5, atol=1e-9)


def far_game(mean, bias=None):
    """A game of contexts that are not about zero, or with a constant feature."""
    w = np.zeros(60)
    w[[10, 25, 40]] = [0.4, 0.3, 0.3]

    def contexts(rng, shape):
        x = rng.standard_normal(shape) + mean
        if bias is not None:
            x[:, -1] = 1.0
        return x

    theta = [0.6, 0.8, 0.0] if bias is None else [0.6, 0.8, bias]
    return LongHorizonBandit(DependencePattern.rank_one(w, theta), contexts=contexts)


@pytest.mark.parametrize(("mean", "bias"), [(3, None), (1000, None), (0, 0), (0, 5)])
def test_games_may_begin_far_from_where_they_go_on(mean, bias):
    for seed in range(3):
        model = SparseDependenceBandit(horizon=60, random_state=seed)
        model.simulate(far_game(mean, bias), 800, seed=seed)
        assert model.support_.tolist() == [10, 25, 40]
        assert model.theta_[:2] @ [0.6, 0.8] / np.linalg.norm(model.theta_[:2]) > 0.99
        assert model.noise_std_ == pytest.approx(0.5, rel=0.12)
        if bias is not None:  # what the constant feature pays is part of the intercept
            assert model.intercept_ == pytest.approx(bias, abs=0.4)


def test_few_rounds_with_a_constant_feature_are_all_used():
    for seed in range(10):
        model = SparseDependenceBandit(horizon=60, random_state=seed, n_lags=3)
        model.simulate(far_game(0, bias=1), 55, seed=seed)
        assert np.isfinite(model.noise_std_)
        assert np.abs(model.lag_weights_).max() < 10


def test_missing_rewards_do_not_stop_a_search_behind_a_filter():
    X, y = make_long_horizon_rewards(603, 3, lags=(0, 5), random_state=0)
    y[::2] = np.nan
    model = SparseDependenceBandit(horizon=10, prewhiten=1, allow_missing_y=True)
    with pytest.warns(UserWarning, match="too many rewards are missing"):
        model.fit(X, y)
    assert model.support_.tolist() == [0, 5]


def test_a_game_says_how_much_of_it_is_left():
    pattern = DependencePattern.rank_one([1.0] + [0.0] * 39 + [-3.0], [0.6, 0.8])

    def play(environment, **options):
        model = SparseDependenceBandit(
            horizon=60, action_value="remaining", random_state=0
        )
        return model.simulate(environment, 4000, seed=0, **options), model

    expected, _ = play(LongHorizonBandit(pattern, n_rounds=400))
    pytest.importorskip("gymnasium")
    wrapped, _ = play(LongHorizonBandit(pattern, n_rounds=400).to_gymnasium())
    np.testing.assert_array_equal(wrapped.actions, expected.actions)
    game = LongHorizonBandit(pattern, n_rounds=400)
    model = SparseDependenceBandit(horizon=60, action_value="remaining", random_state=0)
    assert game.n_left == 400
    first = model.simulate(game, 370, seed=0)
    assert game.n_left == 30
    second = model.simulate(game, 4000, observation=first.observation)
    # in the last 30 rounds nothing of -3 is paid
    best = expected.actions[370:]
    assert (second.actions == best).mean() > 0.8


def test_times_may_be_equal_and_must_compare():
    X, y = make_long_horizon_rewards(200, 2, lags=(1,), random_state=0)
    days = pd.to_datetime(np.repeat(pd.date_range("2026-01-01", periods=100), 2))
    frame = pd.DataFrame(X, index=days)
    model = SparseDependenceBandit(horizon=20)
    model.partial_fit(frame[:101], y[:101]).partial_fit(frame[101:], y[101:])
    with pytest.raises(ValueError, match="must compare"):
        model.partial_fit(frame.tz_localize("UTC"), y)
    model.partial_fit(X, y)  # without times
    with pytest.raises(ValueError, match="must follow those seen"):
        model.partial_fit(frame[:50], y[:50])
    model.new_trajectory().partial_fit(frame[:50], y[:50])


def test_an_action_that_waits_makes_no_game_of_a_table():
    X, y = make_long_horizon_rewards(300, 3, lags=(2, 9), random_state=0)
    model = SparseDependenceBandit(horizon=30, random_state=0)
    model.act(X[:3])
    model.partial_fit(X + 3, y)
    expected = SparseDependenceBandit(horizon=30).fit(X + 3, y)
    np.testing.assert_array_equal(model.coef_matrix_, expected.coef_matrix_)


def test_a_game_that_cannot_begin_changes_nothing(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60).fit(X, y)
    before = model.predict(X[:50])
    with pytest.raises(ValueError, match="n_rounds must be a positive integer"):
        model.simulate(game(), -3)
    np.testing.assert_array_equal(model.predict(X[:50]), before)
    for n_left in ("a", -5, 2.5):
        with pytest.raises(ValueError, match="n_left must be an integer"):
            model.act(X[:3], n_left=n_left)


def test_settings_that_change_in_play_are_checked():
    model = SparseDependenceBandit(horizon=10, explore_rounds=5, random_state=0)
    for t in range(4):
        model.act(np.eye(2))
        model.observe(float(t))
    model.set_params(horizon=-3)
    model.act(np.eye(2))
    with pytest.raises(ValueError, match="'horizon' parameter"):
        model.observe(1.0)


def test_a_fit_draws_nothing(table):
    X, y, _ = table
    rng = np.random.RandomState(0)
    state = rng.get_state()[1].copy()
    SparseDependenceBandit(horizon=60, random_state=rng).fit(X, y)
    np.testing.assert_array_equal(rng.get_state()[1], state)


def test_an_epoch_does_not_know_what_came_before_it():
    environment = far_game(mean=2)
    model = SparseDependenceBandit(
        horizon=60, solver="quarters", explore_rounds=100, random_state=0
    )
    model.simulate(environment, 300, seed=0)  # epochs of 100 and 200
    x, y, _ = model._log.part(100, 300)
    alone = SparseDependenceBandit(horizon=60, solver="quarters")
    with pytest.warns(UserWarning, match="a quarter of the data"):
        alone.fit(x, y)
    np.testing.assert_allclose(model.coef_matrix_, alone.coef_matrix_, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_sizes_of_numbers_do_not_matter_in_single_precision(scale):
    X, y = make_long_horizon_rewards(600, 3, lags=(0, 5), random_state=0)
    X = (X * scale).astype(np.float32)
    for solver in ("omp", "htp"):
        model = SparseDependenceBandit(horizon=10, solver=solver).fit(X, y)
        assert model.support_.tolist() == [0, 5]


def test_one_part_in_double_precision_makes_all_double():
    X, y = make_long_horizon_rewards(400, 3, lags=(0, 5), random_state=0)
    model = SparseDependenceBandit(horizon=10).fit(X[:200], y[:200])
    model.partial_fit(X[200:].astype(np.float32), y[200:])
    assert not model._is_single


def test_the_draws_of_play_are_nobody_elses():
    rng = np.random.RandomState(0)
    model = SparseDependenceBandit(horizon=5, random_state=rng)
    contexts = np.ones((9, 2))
    model.act(contexts)
    state = rng.get_state()[1].copy()
    for _ in range(5):
        model.act(contexts)
    np.testing.assert_array_equal(rng.get_state()[1], state)


def test_a_score_needs_a_reward(table):
    X, y, _ = table
    model = SparseDependenceBandit(horizon=60, allow_missing_y=True).fit(X, y)
    with pytest.raises(ValueError, match="All rewards are NaN"):
        model.score(X, np.full(500, np.nan))
    with pytest.raises(ValueError, match="contains None"):
        model.fit(X, y, groups=[None] * 500)
