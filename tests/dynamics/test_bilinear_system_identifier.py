"""What the estimator promises beyond scikit-learn's checks."""

import copy
import functools
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn import config_context
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_attn.datasets import make_bilinear_system, make_bloch_spin
from sklearn_attn.dynamics import (
    BilinearSystem,
    BilinearSystemIdentifier,
    stack_trajectories,
)
from sklearn_attn.dynamics._bilinear_least_squares import accumulate
from sklearn_attn.dynamics._coefficient_errors import midpoint_bias


@pytest.fixture(scope="module")
def rows():
    return make_bilinear_system(400, input_matrix=True, random_state=0)


@pytest.fixture(scope="module")
def episodes():
    """Two episodes of different lengths: states and inputs of each."""
    states, inputs = [], []
    _, _, system = make_bilinear_system(1, 3, 2, random_state=0, return_system=True)
    for seed, n_steps in ((1, 40), (2, 70)):
        rng = np.random.RandomState(seed)
        U = rng.standard_normal((n_steps, 2))
        x0 = 5 * rng.standard_normal(3)
        states.append(system.simulate(x0, U, noise=True, random_state=rng))
        inputs.append(U)
    return states, inputs


def features(X, n, *, input_matrix=True):
    x, u = X[:, :n], X[:, n:]
    products = [x * u[:, [k]] for k in range(u.shape[1])]
    return np.hstack([x, *products, u[:, : input_matrix * u.shape[1]]])


# The model


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_it_is_linear_regression_on_the_products(rows, fit_intercept):
    X, y = rows
    model = BilinearSystemIdentifier(fit_intercept=fit_intercept).fit(X, y)
    linear = LinearRegression(fit_intercept=fit_intercept).fit(features(X, 5), y)
    np.testing.assert_allclose(model.coef_, linear.coef_, atol=1e-13)
    np.testing.assert_allclose(model.intercept_, linear.intercept_, atol=1e-13)
    np.testing.assert_allclose(model.predict(X), linear.predict(features(X, 5)))
    assert model.score(X, y) == pytest.approx(linear.score(features(X, 5), y))
    np.testing.assert_array_equal(np.hstack([*model.A_, model.B_]), model.coef_)


def test_the_ridge_is_that_of_scikit_learn(rows):
    X, y = rows
    model = BilinearSystemIdentifier(alpha=5.0, fit_intercept=True).fit(X, y)
    ridge = Ridge(alpha=5.0).fit(features(X, 5), y)
    np.testing.assert_allclose(model.coef_, ridge.coef_, atol=1e-12)
    np.testing.assert_allclose(model.intercept_, ridge.intercept_, atol=1e-12)


def test_without_an_input_matrix_it_is_the_system_of_the_paper(rows):
    X, y = rows
    model = BilinearSystemIdentifier(input_matrix=False).fit(X, y)
    expected, *_ = np.linalg.lstsq(features(X, 5, input_matrix=False), y, rcond=None)
    np.testing.assert_allclose(model.coef_, expected.T, atol=1e-13)
    np.testing.assert_array_equal(model.B_, np.zeros((5, 2)))
    assert model.gram_.shape == (15 + 5, 15 + 5)


def test_a_single_state_comes_and_goes_without_an_axis(rows):
    X, y = rows
    flat = BilinearSystemIdentifier().fit(X, y[:, 0])
    column = BilinearSystemIdentifier().fit(X, y[:, :1])
    assert flat.n_states_ == 1
    assert flat.n_inputs_ == 6
    assert flat.predict(X).shape == (400,)
    assert column.predict(X).shape == (400, 1)
    np.testing.assert_array_equal(flat.predict(X), column.predict(X)[:, 0])


def test_the_score_weighs_rows_and_a_single_state_scores_too(rows):
    X, y = rows
    weight = np.random.default_rng(0).integers(0, 3, 400)
    for dt in (None, 0.1):
        options = {} if dt is None else {"time": "continuous", "dt": dt}
        model = BilinearSystemIdentifier(**options).fit(X, y[:, 0])
        assert model.predict(X).shape == (400,)
        expected = model.score(X.repeat(weight, 0), y[:, 0].repeat(weight))
        assert model.score(X, y[:, 0], weight) == pytest.approx(expected)
        assert model.score(X, y[:, 0]) != pytest.approx(expected)


def test_without_inputs_it_is_a_linear_autoregression(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X[:, :5], y)
    expected, *_ = np.linalg.lstsq(X[:, :5], y, rcond=None)
    np.testing.assert_allclose(model.A_[0], expected.T, atol=1e-13)
    assert (model.A_.shape, model.B_.shape) == ((1, 5, 5), (5, 0))
    assert 0 < model.spectral_radius_ < 1
    assert model.simulate(X[0, :5], np.zeros((3, 0))).shape == (4, 5)


def test_gram_and_input_moments_are_sums_over_the_rows(rows):
    X, y = rows
    weight = np.random.default_rng(0).uniform(0, 2, 400)
    model = BilinearSystemIdentifier(fit_intercept=True).fit(X, y, weight)
    Z = np.hstack([features(X, 5), np.ones((400, 1)), y])
    np.testing.assert_allclose(model.gram_, Z.T @ (weight[:, None] * Z), atol=1e-10)
    U = X[:, 5:]
    np.testing.assert_allclose(model.input_mean_, np.average(U, 0, weight))
    second = (U * weight[:, None]).T @ U / weight.sum()
    np.testing.assert_allclose(model.input_second_moment_, second)
    assert model.sum_of_weights_ == pytest.approx(weight.sum())
    assert model.n_samples_seen_ == 400


def test_terms_have_names(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X[:, [0, 1, 5]], y[:, :2])
    assert list(model.term_names_) == ["x0", "x1", "u0*x0", "u0*x1", "u0"]
    frame = pd.DataFrame(X[:, [0, 1, 5]], columns=["i", "v", "duty"])
    model.fit(frame, y[:, :2])
    assert list(model.term_names_) == ["i", "v", "duty*i", "duty*v", "duty"]


# Every parameter


@pytest.mark.parametrize("solver", ["gram", "tsqr", "lstsq"])
def test_solvers_agree_and_say_who_they_are(rows, solver):
    X, y = rows
    model = BilinearSystemIdentifier(solver=solver).fit(X, y)
    expected = BilinearSystemIdentifier().fit(X, y)
    assert (model.solver_used_, expected.solver_used_) == (solver, "gram")
    for name in ("coef_", "coef_se_", "noise_cov_", "gram_", "condition_number_"):
        np.testing.assert_allclose(
            getattr(model, name), getattr(expected, name), rtol=1e-9, atol=1e-12
        )


def test_the_size_of_a_block_does_not_matter(rows):
    X, y = rows
    expected = BilinearSystemIdentifier().fit(X, y)
    for block_size in (1, 7, 1000):
        model = BilinearSystemIdentifier(block_size=block_size).fit(X, y)
        np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-13)
        np.testing.assert_allclose(model.predict(X), expected.predict(X), atol=1e-13)


def test_n_inputs_is_checked(rows):
    X, y = rows
    BilinearSystemIdentifier(n_inputs=2).fit(X, y)
    with pytest.raises(
        ValueError, match="n_inputs=3, but X has 2 columns beyond the 5"
    ):
        BilinearSystemIdentifier(n_inputs=3).fit(X, y)


def test_uncertainty_decides_whether_there_are_errors(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X, y)
    assert hasattr(model, "noise_cov_")
    model.set_params(uncertainty=False).fit(X, y)
    for name in ("noise_cov_", "coef_se_", "intercept_se_"):
        assert not hasattr(model, name)
    assert np.isnan(model.stationary_covariance_).all()
    assert np.isnan(model.stability().stationary_covariance).all()
    assert model.spectral_radius_ > 0
    for call in (
        model.confidence_interval,
        model.error_bound,
        model.sample_systems,
        functools.partial(model.simulate, X[0, :5], X[:3, 5:], noise=True),
    ):
        with pytest.raises(ValueError, match="uncertainty=True"):
            call()


def test_rows_with_nan_are_dropped_where_asked_for(rows):
    X, y = (part.copy() for part in rows)
    X[3, 1] = X[10, 6] = y[20, 0] = np.nan
    keep = np.ones(400, bool)
    keep[[3, 10, 20]] = False
    with pytest.raises(ValueError, match="NaN"):
        BilinearSystemIdentifier().fit(X, y)
    model = BilinearSystemIdentifier(missing="drop").fit(X, y)
    expected = BilinearSystemIdentifier().fit(X[keep], y[keep])
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-13)
    assert (model.n_samples_seen_, model.n_dropped_) == (397, 3)
    predicted = model.predict(X)
    missing = np.flatnonzero(np.isnan(predicted).any(1))
    np.testing.assert_array_equal(missing, [3, 10])
    assert np.isnan(predicted[[3, 10]]).all()
    assert np.isfinite(predicted[20]).all()
    assert model.score(X, y) == pytest.approx(expected.score(X[keep], y[keep]))
    with pytest.raises(ValueError, match="No row is left: all of the 400"):
        BilinearSystemIdentifier(missing="drop").fit(X * np.nan, y)
    with pytest.raises(ValueError, match="infinity"):
        BilinearSystemIdentifier(missing="drop").fit(X * np.inf, y)


def test_single_precision_is_kept_and_asked_for(rows):
    X, y = rows
    double = BilinearSystemIdentifier().fit(X, y)
    single = BilinearSystemIdentifier().fit(X.astype(np.float32), y)
    asked = BilinearSystemIdentifier(dtype="float32").fit(X, y)
    for model in (single, asked):
        difference = np.abs(model.coef_ - double.coef_).max()
        assert 1e-9 < difference < 1e-5
    assert single.predict(X.astype(np.float32)).dtype == np.float32
    forced = BilinearSystemIdentifier(dtype="float64").fit(X.astype(np.float32), y)
    assert forced.predict(X.astype(np.float32)).dtype == np.float64


def test_continuous_time_needs_a_step():
    X, y, spin = make_bloch_spin(1000, random_state=0, return_system=True)
    with pytest.raises(ValueError, match="needs dt"):
        BilinearSystemIdentifier(time="continuous").fit(X, y)
    model = BilinearSystemIdentifier(
        time="continuous", dt=0.05, fit_intercept=True
    ).fit(X, y)
    np.testing.assert_allclose(model.A_, spin.A, atol=0.02)
    assert model.system_.dt == 0.05
    expected = model.system_.step(X[:, :3], X[:, 3:])
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-14)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-3)
    free = model.simulate(X[0, :3], X[:, 3:])
    np.testing.assert_allclose(free[1:], y, atol=0.01)
    # in discrete time the step is of no consequence
    discrete = BilinearSystemIdentifier(dt=0.05).fit(X, y)
    assert discrete.system_.dt is None


def test_noise_and_errors_have_their_units_in_continuous_time():
    dt, noise = 0.05, 0.2
    X, y, spin = make_bloch_spin(
        4000, dt=dt, noise=noise, random_state=0, return_system=True
    )
    options = {"time": "continuous", "dt": dt, "fit_intercept": True}
    model = BilinearSystemIdentifier(derivative="euler", **options).fit(X, y)
    # 4000 draws: 3 %
    np.testing.assert_allclose(model.noise_cov_, noise**2 * np.eye(3), atol=0.004)
    D = np.column_stack([features(X, 3), np.ones(4000)])
    errors = noise / dt * np.sqrt(np.diag(np.linalg.inv(D.T @ D)))
    np.testing.assert_allclose(
        model.coef_se_, np.broadcast_to(errors[:-1], (3, 11)), rtol=0.05
    )
    systems = model.sample_systems(1000, random_state=0)
    spread = np.std([s.A[0] for s in systems], axis=0)
    np.testing.assert_allclose(spread, model.coef_se_[:, :3], rtol=0.1)
    assert model.system_.dt == dt
    bound = model.error_bound(0.05, design="fixed")
    error = np.hstack([*(model.A_ - spin.A), model.B_, model.intercept_[:, None]])
    error[:, -1] -= spin.intercept
    assert 0.2 * bound < np.linalg.norm(error, 2) < bound


def test_derivatives_differ(rows):
    X, y = make_bloch_spin(1000, random_state=0)
    options = {"time": "continuous", "dt": 0.05}
    a = BilinearSystemIdentifier(**options).fit(X, y)
    b = BilinearSystemIdentifier(derivative="euler", **options).fit(X, y)
    assert np.abs(a.A_ - b.A_).max() > 0.01


def test_predictions_in_continuous_time_come_in_pieces(monkeypatch):
    X, y = make_bloch_spin(100, random_state=0)
    model = BilinearSystemIdentifier(time="continuous", dt=0.05).fit(X, y)
    whole = model.predict(X)
    name = "sklearn_attn.dynamics._bilinear_system_identifier.CHUNK"
    monkeypatch.setattr(name, 7 * 16)
    np.testing.assert_allclose(model.predict(X), whole, atol=1e-14)


# Pieces, weights and episodes


@pytest.mark.parametrize("solver", ["auto", "tsqr"])
@pytest.mark.parametrize(
    "sizes", [[1] * 60 + [340], [200, 200], [399, 1], [13] * 30 + [10]]
)
def test_rows_in_pieces_give_the_fit_to_all(rows, solver, sizes):
    X, y = rows
    whole = BilinearSystemIdentifier(solver=solver, fit_intercept=True).fit(X, y)
    pieces = BilinearSystemIdentifier(solver=solver, fit_intercept=True)
    for part in np.split(np.arange(400), np.cumsum(sizes)[:-1]):
        pieces.partial_fit(X[part], y[part])
    assert pieces.n_samples_seen_ == 400
    for name in ("coef_", "intercept_", "noise_cov_", "coef_se_", "input_mean_"):
        np.testing.assert_allclose(
            getattr(pieces, name), getattr(whole, name), rtol=1e-11, atol=1e-12
        )


def test_models_of_parts_merge_to_the_model_of_all(rows):
    X, y = rows
    weight = np.random.default_rng(0).uniform(0.5, 2, 400)
    whole = BilinearSystemIdentifier().fit(X, y, weight)
    parts = [
        BilinearSystemIdentifier().partial_fit(X[part], y[part], weight[part])
        for part in np.array_split(np.arange(400), 7)
    ]
    before = copy.deepcopy(parts[1].coef_)
    merged = functools.reduce(lambda a, b: a.merge(b), parts)
    assert merged is parts[0]
    np.testing.assert_array_equal(parts[1].coef_, before)
    np.testing.assert_allclose(merged.coef_, whole.coef_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.coef_se_, whole.coef_se_, rtol=1e-12)
    assert merged.n_samples_seen_ == 400


def test_a_fit_begins_anew_and_partial_fit_goes_on(rows):
    X, y = rows
    model = BilinearSystemIdentifier().partial_fit(X[:100], y[:100]).fit(X, y)
    assert model.n_samples_seen_ == 400
    model.partial_fit(X[:50], y[:50])
    assert model.n_samples_seen_ == 450


def test_what_does_not_go_together_is_not_added(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X, y)
    state = copy.deepcopy(model.coef_)
    with pytest.raises(ValueError, match="columns"):
        model.merge(BilinearSystemIdentifier().fit(X[:, :6], y))
    with pytest.raises(ValueError, match="intercept=False, now True"):
        model.merge(BilinearSystemIdentifier(fit_intercept=True).fit(X, y))
    names = list("abcdefg")
    named = BilinearSystemIdentifier().fit(pd.DataFrame(X, columns=names), y)
    with pytest.raises(ValueError, match="do not merge"):
        model.merge(named)
    with pytest.raises(TypeError, match="LinearRegression"):
        model.merge(LinearRegression())
    with pytest.raises(ValueError, match="Fit anew"):
        model.partial_fit(X, y[:, :4])
    with pytest.raises(ValueError, match="Fit anew"):
        model.set_params(input_matrix=False).partial_fit(X, y)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :6], y)
    np.testing.assert_array_equal(model.coef_, state)
    assert model.n_samples_seen_ == 400


def test_a_first_piece_that_fails_leaves_no_trace(rows):
    X, y = (part.copy() for part in rows)
    X[:, 6] *= 1e160
    model = BilinearSystemIdentifier()
    before = vars(model).copy()
    with pytest.raises(ValueError, match="overflow"):
        model.partial_fit(X, y)
    assert vars(model) == before
    model.partial_fit(X[:, :6], y)  # other columns are welcome


def test_a_stream_says_when_digits_are_lost():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 3))
    X[:, 1] = X[:, 0] + 1e-6 * rng.standard_normal(500)
    y = X[:, :2] @ [[0.5, 0.1], [0.2, 0.3]]
    with pytest.warns(UserWarning, match="half of the digits"):
        BilinearSystemIdentifier().partial_fit(X, y)
    exact = BilinearSystemIdentifier(solver="tsqr")
    for part in np.array_split(np.arange(500), 5):
        exact.partial_fit(X[part], y[part])
    assert exact.solver_used_ == "tsqr"
    np.testing.assert_allclose(exact.A_[0].T, [[0.5, 0.1], [0.2, 0.3]], atol=1e-7)


def test_weights_are_repetitions_of_rows(rows):
    X, y = rows
    weight = np.random.default_rng(0).integers(0, 3, 400)
    weighted = BilinearSystemIdentifier().fit(X, y, sample_weight=weight)
    repeated = BilinearSystemIdentifier().fit(X.repeat(weight, 0), y.repeat(weight, 0))
    for name in ("coef_", "coef_se_", "noise_cov_", "input_second_moment_"):
        np.testing.assert_allclose(
            getattr(weighted, name), getattr(repeated, name), rtol=1e-10
        )
    assert weighted.n_samples_seen_ == (weight > 0).sum()
    assert weighted.sum_of_weights_ == weight.sum()


def test_episodes_are_never_bridged(episodes):
    states, inputs = episodes
    model = BilinearSystemIdentifier().fit_trajectories(states, inputs)
    X, y, groups = stack_trajectories(states, inputs)
    assert X.shape == (110, 5)
    np.testing.assert_array_equal(np.bincount(groups), [40, 70])
    np.testing.assert_array_equal(X[40], np.r_[states[1][0], inputs[1][0]])
    np.testing.assert_array_equal(y[39], states[0][40])
    np.testing.assert_array_equal(
        model.coef_, BilinearSystemIdentifier().fit(X, y).coef_
    )
    # the last input, which leads nowhere, may come as well
    logged = [np.vstack([u, np.full((1, 2), np.nan)]) for u in inputs]
    np.testing.assert_array_equal(stack_trajectories(states, logged)[0], X)


def test_episodes_come_in_many_forms(episodes):
    (short, long), (u_short, u_long) = episodes
    one = stack_trajectories(short, u_short)
    np.testing.assert_array_equal(one[0], stack_trajectories([short], [u_short])[0])
    cube = stack_trajectories(
        np.stack([short, long[:41]]), np.stack([u_short, u_long[:40]])
    )
    listed = stack_trajectories([short, long[:41]], [u_short, u_long[:40]])
    for a, b in zip(cube, listed):
        np.testing.assert_array_equal(a, b)
    without = stack_trajectories([short, long])
    assert without[0].shape == (110, 3)
    tensors = stack_trajectories(torch.from_numpy(short), torch.from_numpy(u_short))
    np.testing.assert_array_equal(tensors[0], one[0])


def test_data_frames_keep_their_names(episodes):
    states = [pd.DataFrame(x, columns=["a", "b", "c"]) for x in episodes[0]]
    inputs = [pd.DataFrame(u, columns=["u", "v"]) for u in episodes[1]]
    X, y, _ = stack_trajectories(states, inputs)
    assert list(X.columns) == ["a", "b", "c", "u", "v"]
    assert list(y.columns) == ["a", "b", "c"]
    model = BilinearSystemIdentifier().fit_trajectories(states, inputs)
    assert list(model.feature_names_in_) == ["a", "b", "c", "u", "v"]
    mixed = stack_trajectories(states, episodes[1])[0]
    assert isinstance(mixed, np.ndarray)
    states[1] = states[1][["b", "a", "c"]]
    with pytest.raises(ValueError, match="columns of states and inputs differ"):
        stack_trajectories(states, inputs)


@pytest.mark.parametrize(
    ("states", "inputs", "message"),
    [
        ([], [], "no episode"),
        ([np.zeros((3, 2))], [], "no episode"),
        ([np.zeros((3, 2))], [np.zeros((2, 1))] * 2, "1 episodes of states, but 2"),
        ([np.zeros((3, 2))], [np.zeros((4, 1))], "3 states and 4 inputs"),
        ([np.zeros((3, 2))], [np.zeros((1, 1))], "3 states and 1 inputs"),
        ([np.zeros((1, 2))], [np.zeros((0, 1))], "needs two"),
        ([np.zeros(3)], [np.zeros((2, 1))], r"shape \(3,\)"),
        (np.zeros(3), np.zeros((2, 1)), "2-D"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], None, r"\[1, 2\] columns of states"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(states, inputs, message):
    with pytest.raises(ValueError, match=message):
        stack_trajectories(states, inputs)


# Simulation


def test_simulation_is_that_of_the_system(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X, y)
    free = model.simulate(X[0, :5], X[:20, 5:])
    np.testing.assert_array_equal(free, model.system_.simulate(X[0, :5], X[:20, 5:]))
    np.testing.assert_allclose(free[1], model.predict(X[:1])[0], atol=1e-13)
    noisy = model.simulate(X[0, :5], X[:20, 5:], noise=True, random_state=0)
    assert np.abs(noisy - free).max() > 0.1
    W = np.random.default_rng(0).standard_normal((20, 5))
    assert model.simulate(X[:3, :5], X[:20, 5:], W).shape == (3, 21, 5)


def test_the_simulation_score_is_r2_of_runs_from_measured_states(episodes):
    states, inputs = episodes
    model = BilinearSystemIdentifier().fit_trajectories(states, inputs)
    truth = np.concatenate([x[1:] for x in states])

    def r2(simulated):
        ss = ((truth - simulated) ** 2).sum(0)
        return np.mean(1 - ss / ((truth - truth.mean(0)) ** 2).sum(0))

    whole = [model.simulate(x[0], u)[1:] for x, u in zip(states, inputs)]
    assert model.simulation_score(states, inputs) == pytest.approx(r2(np.vstack(whole)))
    X, y, _ = stack_trajectories(states, inputs)
    one_step = model.simulation_score(states, inputs, horizon=1)
    assert one_step == pytest.approx(r2(model.predict(X)))
    assert one_step == pytest.approx(model.score(X, y))
    by_seven = [
        model.simulate(x[s], u[s : s + 7])[1:]
        for x, u in zip(states, inputs)
        for s in range(0, len(u), 7)
    ]
    score = model.simulation_score(states, inputs, horizon=7)
    assert score == pytest.approx(r2(np.vstack(by_seven)))
    with pytest.raises(ValueError, match="horizon must be a positive integer; got 0"):
        model.simulation_score(states, inputs, horizon=0)
    with pytest.raises(ValueError, match="finite"):
        model.simulation_score(states[0] * np.nan, inputs[0])


def test_a_run_that_overflows_scores_minus_infinity():
    x = 3.0 ** np.arange(6)[:, None]
    model = BilinearSystemIdentifier().fit_trajectories(x)
    long = np.ones((1000, 1))
    assert model.simulation_score(long) == -np.inf
    with pytest.raises(ValueError, match="overflows at step 647"):
        model.simulate([1.0], np.zeros((999, 0)))


# What is known of the estimate


def test_standard_errors_are_those_of_ordinary_least_squares(rows):
    X, y = rows
    model = BilinearSystemIdentifier(fit_intercept=True).fit(X, y)
    D = np.column_stack([features(X, 5), np.ones(400)])
    coef, *_ = np.linalg.lstsq(D, y, rcond=None)
    residual = y - D @ coef
    noise_cov = residual.T @ residual / (400 - D.shape[1])
    np.testing.assert_allclose(model.noise_cov_, noise_cov, rtol=1e-10, atol=1e-14)
    errors = np.sqrt(np.outer(np.diag(noise_cov), np.diag(np.linalg.inv(D.T @ D))))
    np.testing.assert_allclose(model.coef_se_, errors[:, :-1], rtol=1e-10)
    np.testing.assert_allclose(model.intercept_se_, errors[:, -1], rtol=1e-10)


def test_intervals_widen_with_their_level_and_ridge_narrows_them(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X, y)
    low, high = model.confidence_interval(0.9)
    np.testing.assert_allclose((low + high) / 2, model.coef_, atol=1e-13)
    wider_low, wider_high = model.confidence_interval(0.99)
    assert (wider_low < low).all()
    assert (high < wider_high).all()
    ridge = BilinearSystemIdentifier(alpha=100.0).fit(X, y)
    assert ridge.coef_se_.mean() < model.coef_se_.mean()
    for level in (0, 1, -0.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            model.confidence_interval(level)


def test_the_bounds_do_not_depend_on_units_of_features(rows):
    X, y = rows
    plain = BilinearSystemIdentifier(fit_intercept=True).fit(X, y)
    assert plain.error_bound(design="fixed") > 0
    # features of very different size: products of 1e-9, and 1
    X, y = make_bilinear_system(400, 3, 2, random_state=0)
    k = 1e-9
    tiny = BilinearSystemIdentifier(fit_intercept=True).fit(
        X * np.r_[[k] * 3, 1, 1], y * k
    )
    D = np.column_stack([features(X * np.r_[[k] * 3, 1, 1], 3), np.ones(400)])
    smallest = np.linalg.svd(D, compute_uv=False)[-1]
    s = np.sqrt(np.linalg.eigvalsh(tiny.noise_cov_)[-1])
    expected = s / smallest * (np.sqrt(3) + np.sqrt(12) + np.sqrt(2 * np.log(20)))
    assert tiny.error_bound(design="fixed") == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(tiny.error_bound())


def test_what_cannot_be_told_apart_has_no_interval():
    rng = np.random.default_rng(0)
    X = np.column_stack(
        [rng.standard_normal(500), np.ones(500), rng.standard_normal(500)]
    )
    y = 0.7 * X[:, 0] + X[:, 2] + 0.1 * rng.standard_normal(500)
    with pytest.warns(UserWarning, match="Constant inputs: u0"):
        model = BilinearSystemIdentifier().fit(X, y)
    low, high = model.confidence_interval()
    known = list(model.term_names_).index("u1")
    assert np.isfinite([low[0, known], high[0, known]]).all()
    first = list(model.term_names_).index("x0")
    assert (low[0, first], high[0, first]) == (-np.inf, np.inf)
    with pytest.raises(ValueError, match="cannot be told apart"):
        model.sample_systems()


def test_residuals_that_sums_cannot_show_are_nan_in_a_stream():
    X, y = make_bilinear_system(600, 3, 2, noise=0.0, random_state=0)
    X = np.vstack([X[:50]] * 12) + np.random.default_rng(0).standard_normal((600, 5))
    A = np.random.default_rng(1).standard_normal((11, 3))
    y = features(X, 3) @ A + 1e-9 * np.random.default_rng(2).standard_normal((600, 3))
    with pytest.warns(UserWarning, match="noise and standard errors are NaN"):
        stream = BilinearSystemIdentifier().partial_fit(X, y)
    assert np.isnan(stream.noise_cov_).all()
    with pytest.raises(ValueError, match="too small for sums of squares"):
        stream.error_bound()
    exact = BilinearSystemIdentifier(solver="tsqr").partial_fit(X, y)
    whole = BilinearSystemIdentifier().fit(X, y)
    for model in (exact, whole):
        deviations = np.sqrt(np.diag(model.noise_cov_))
        np.testing.assert_allclose(deviations, 1e-9, rtol=0.1)


def test_weights_that_amount_to_no_row_say_so(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X, y, np.full(400, 1 / 400))
    with pytest.raises(ValueError, match="weights sum to 1 leave none"):
        model.confidence_interval()


def test_a_constant_in_single_precision_is_found_by_every_solver(rows):
    X, y = (part.astype(np.float32) for part in rows)
    X[:, 5] = 0.3
    for solver in ("auto", "gram", "tsqr", "lstsq"):
        with pytest.warns(UserWarning, match="Constant inputs: u0"):
            model = BilinearSystemIdentifier(solver=solver).fit(X, y)
        assert model.rank_ == 12
        assert np.abs(model.coef_).max() < 10


def test_a_stream_of_single_precision_is_summed_in_double():
    rng = np.random.default_rng(0)
    x = 300 + rng.standard_normal((4000, 2)) * 2
    u = rng.standard_normal((4000, 1))
    y = x @ [[0.5, 0.1], [0.1, 0.6]] + u + 0.1 * rng.standard_normal((4000, 2))
    X = np.hstack([x, u]).astype(np.float32)
    stream = BilinearSystemIdentifier(fit_intercept=True)
    for part in np.array_split(np.arange(4000), 3):
        stream.partial_fit(X[part], y[part].astype(np.float32))
    whole = BilinearSystemIdentifier(fit_intercept=True, dtype="float64").fit(X, y)
    np.testing.assert_allclose(stream.coef_, whole.coef_, atol=1e-4)
    assert stream.rank_ == 6


def test_a_factor_goes_on_and_is_not_begun_in_the_middle(rows):
    X, y = rows
    model = BilinearSystemIdentifier(solver="tsqr").fit(X[:200], y[:200])
    model.set_params(solver="auto").partial_fit(X[200:], y[200:])
    assert model.solver_used_ == "tsqr"
    model = BilinearSystemIdentifier().fit(X[:200], y[:200])
    with pytest.raises(ValueError, match="Begin anew"):
        model.set_params(solver="tsqr").partial_fit(X[200:], y[200:])


def test_a_biased_midpoint_is_a_warning_of_its_size(recwarn):
    """Runs that begin anywhere: the bias is small, and the formula right."""
    dt, noise, N = 0.05, 0.2, 50_000
    truth = BilinearSystem([[[-1.0]], [[0.5]]], [[1.0]], noise_cov=[[noise**2]], dt=dt)
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal(N), 0.5 + rng.standard_normal(N)])
    W = noise * rng.standard_normal((N, 1))
    y = truth.step(X[:, :1], X[:, 1:], W)
    clean = truth.step(X[:, :1], X[:, 1:])
    options = {"time": "continuous", "dt": dt}
    unbiased = BilinearSystemIdentifier(**options).fit(X, clean)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="midpoint biases coefficients by up to"):
        model = BilinearSystemIdentifier(**options).fit(X, y)
    bias = midpoint_bias(
        model._rate_cov(), N, model.input_mean_, model._answer.inverse, dt
    )
    shift = model.coef_ - unbiased.coef_
    np.testing.assert_allclose(bias, shift, atol=4 * model.coef_se_.max())
    assert np.abs(bias).max() > 10 * model.coef_se_.max()


def test_derivatives_do_not_matter_in_discrete_time(rows):
    X, y = rows
    model = BilinearSystemIdentifier().partial_fit(X, y)
    model.set_params(derivative="euler").partial_fit(X, y)
    other = BilinearSystemIdentifier(derivative="trapezoid").fit(X, y)
    assert model.merge(other).n_samples_seen_ == 1200


def test_the_noise_of_a_step_is_what_drives_it_in_continuous_time():
    """The residual at the midpoint is 1 + .4 / 2 times as large.

    Runs begin anywhere, so that the midpoint is hardly biased.
    """
    truth = BilinearSystem([[[-4.0]]], noise_cov=[[0.01]], dt=0.1)
    rng = np.random.default_rng(0)
    x = 10 * rng.standard_normal((20_000, 1))
    y = truth.step(x, np.empty((20_000, 0)), 0.1 * rng.standard_normal((20_000, 1)))
    model = BilinearSystemIdentifier(time="continuous", dt=0.1).fit(x, y)
    assert model.noise_cov_[0, 0] == pytest.approx(0.01, rel=0.05)


def test_units_that_no_float_holds_are_an_error_and_single_precision_is_widened(rows):
    X, y = make_bilinear_system(300, 3, 2, random_state=0)
    expected = BilinearSystemIdentifier(input_matrix=False).fit(X, y)
    for scale in (1e-22, 1e25):
        unit = np.r_[[scale] * 3, 1, 1]
        model = BilinearSystemIdentifier(input_matrix=False)
        model.fit((X * unit).astype(np.float32), (y * scale).astype(np.float32))
        np.testing.assert_allclose(model.A_, expected.A_, atol=1e-5)
    with pytest.raises(ValueError, match="underflow"):
        BilinearSystemIdentifier().fit(X * 1e-80, y * 1e-80)


def test_a_mean_does_not_hide_the_spread_of_inputs(rows):
    X, y = (part.copy() for part in rows)
    spread = X[:, 5:].std(0)
    X[:, 5:] = 1e5 + 1e-3 * X[:, 5:]
    model = BilinearSystemIdentifier(input_matrix=False, alpha=1e-6).fit(X, y)
    _, cov = model.input_moments()
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), 1e-3 * spread, rtol=1e-5)


def test_names_in_another_order_are_refused(rows):
    X, y = rows
    frame = pd.DataFrame(X, columns=list("abcdeuv"))
    after = pd.DataFrame(y, columns=list("abcde"))
    model = BilinearSystemIdentifier().fit(frame, after)
    with pytest.raises(ValueError, match="in another order"):
        BilinearSystemIdentifier().fit(frame, after[list("bacde")])
    renamed = after.add_suffix("_next")
    np.testing.assert_array_equal(
        BilinearSystemIdentifier().fit(frame, renamed).coef_, model.coef_
    )
    states, inputs = frame[list("bacde")], frame[["u", "v"]]
    with pytest.raises(ValueError, match="the model saw"):
        model.simulation_score(states, inputs)
    with pytest.raises(ValueError, match="The model has 2 inputs; got 0"):
        model.simulation_score(states)


def test_episodes_may_be_polars_frames_and_lists_of_numbers(episodes):
    (short, _), (u_short, _) = episodes
    expected = stack_trajectories(short, u_short)
    for convert in (pl.DataFrame, np.ndarray.tolist):
        found = stack_trajectories(convert(short), convert(u_short))
        for a, b in zip(found, expected):
            np.testing.assert_array_equal(a, b)


def test_missing_values_of_pandas_are_dropped_in_fit_and_score(rows):
    X, y = rows
    after = pd.DataFrame(y).astype("Float64")
    after.iloc[:3, 0] = pd.NA
    model = BilinearSystemIdentifier(missing="drop").fit(X, after)
    assert model.n_dropped_ == 3
    assert model.score(X, after) == pytest.approx(model.score(X[3:], y[3:]))


def test_the_system_is_a_copy(rows):
    model = BilinearSystemIdentifier().fit(*rows)
    with pytest.raises(ValueError, match="read-only"):
        model.system_.A[0] += 100
    A = np.zeros((1, 2, 2))
    system = BilinearSystem(A)
    A += 1
    assert not system.A.any()


def test_many_rows_are_worked_on_by_one_thread_block_by_block(monkeypatch):
    """Two threads for each of many small blocks took ten to eighty times as long."""
    X, y = np.zeros((2, 300_000, 4))[0], np.zeros((300_000, 2))
    X += np.arange(4) + np.arange(300_000)[:, None] % 7
    threads = []
    monkeypatch.setattr(
        "sklearn_attn.dynamics._bilinear_system_identifier.accumulate",
        lambda *a, **k: (threads.append(torch.get_num_threads()), accumulate(*a, **k))[
            1
        ],
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        BilinearSystemIdentifier(alpha=1.0).fit(X, y)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1]


def test_memory_that_must_not_be_written_to_is_not_copied(rows, monkeypatch):
    X, y = (part.copy() for part in rows)
    X.flags.writeable = y.flags.writeable = False
    copies = []
    monkeypatch.setattr(
        "sklearn_attn.dynamics._bilinear_system_identifier.accumulate",
        lambda design, rows, *a, **k: (
            copies.append(not np.shares_memory(rows.x.numpy(), X)),
            accumulate(design, rows, *a, **k),
        )[1],
    )
    BilinearSystemIdentifier().fit(X, y)
    assert copies == [False]


def test_intervals_have_the_quantile_of_student():
    X, y = make_bilinear_system(30, 3, 2, random_state=0)
    model = BilinearSystemIdentifier().fit(X, y)
    low, high = model.confidence_interval(0.95)
    # 30 rows less 11 features: 19 degrees of freedom, from any table
    np.testing.assert_allclose((high - low) / 2, 2.0930 * model.coef_se_, rtol=1e-4)


def test_the_bounds_are_their_formulas(rows):
    X, y = rows
    model = BilinearSystemIdentifier(fit_intercept=True).fit(X, y)
    n, d, delta = 5, 18, 0.02
    G = model.gram_[:d, :d]
    smallest = np.linalg.eigvalsh(G)[0]
    s = np.sqrt(np.linalg.eigvalsh(model.noise_cov_)[-1])
    fixed = s / np.sqrt(smallest)
    fixed *= np.sqrt(n) + np.sqrt(d) + np.sqrt(2 * np.log(1 / delta))
    assert model.error_bound(delta, design="fixed") == pytest.approx(fixed)

    def self_normalised(k):
        lam = 2.0**k
        logdet = np.linalg.slogdet(G + lam * np.eye(d))[1] / 2 - d / 2 * np.log(lam)
        share = delta / (1 + abs(k)) ** 2 / (np.pi**2 / 3 - 1)
        radius = np.sqrt(8 * (n * np.log(5) + logdet + np.log(1 / share)))
        return s * radius * np.sqrt(1 + lam / smallest) / np.sqrt(smallest)

    expected = min(map(self_normalised, range(-30, 31)))
    assert model.error_bound(delta) == pytest.approx(expected, rel=1e-4)


def test_bounds_grow_with_certainty_and_refuse_what_they_do_not_hold_for(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X, y)
    for design in ("dependent", "fixed"):
        assert model.error_bound(0.01, design=design) > model.error_bound(
            0.1, design=design
        )
    for scale in (1e-6, 1e6):  # the units of the state do not matter to A
        scaled = BilinearSystemIdentifier(input_matrix=False).fit(
            X * np.r_[[scale] * 5, 1, 1], y * scale
        )
        plain = BilinearSystemIdentifier(input_matrix=False).fit(X, y)
        assert scaled.error_bound(design="fixed") == pytest.approx(
            plain.error_bound(design="fixed"), rel=1e-6
        )
        assert scaled.error_bound() < 1.2 * plain.error_bound()
    with pytest.raises(ValueError, match="alpha=1 makes the estimate biased"):
        BilinearSystemIdentifier(alpha=1.0).fit(X, y).error_bound()
    with pytest.raises(ValueError, match="delta"):
        model.error_bound(0.0)
    with pytest.raises(ValueError, match="'dependent' or 'fixed'; got 'random'"):
        model.error_bound(design="random")


def test_sampled_systems_scatter_like_the_standard_errors(rows):
    X, y = rows
    for options in ({}, {"fit_intercept": True}, {"input_matrix": False}):
        model = BilinearSystemIdentifier(**options).fit(X, y)
        systems = model.sample_systems(2000, random_state=0)
        coef = np.array([np.hstack([*s.A, s.B]) for s in systems])
        coef = coef[:, :, : model.coef_.shape[1]]
        # 2000 draws: standard deviations within 8 %, means within 4 of their errors
        np.testing.assert_allclose(coef.std(0), model.coef_se_, rtol=0.08)
        assert (np.abs(coef.mean(0) - model.coef_) < 0.1 * model.coef_se_).all()
        intercepts = np.array([s.intercept for s in systems])
        np.testing.assert_allclose(
            intercepts.std(0), model.intercept_se_, rtol=0.08, atol=1e-15
        )


def test_without_spare_rows_there_is_no_noise_to_estimate(rows):
    X, y = rows
    with pytest.warns(UserWarning, match="only 10 rows"):
        model = BilinearSystemIdentifier().fit(X[:10], y[:10])
    assert model.solver_used_ == "lstsq"
    np.testing.assert_allclose(model.predict(X[:10]), y[:10], atol=1e-10)
    assert np.isnan(model.noise_cov_).all()
    with pytest.raises(ValueError, match="10 rows for 17 features"):
        model.confidence_interval()
    assert model.system_.simulate(X[0, :5], X[:3, 5:]).shape == (4, 5)


def test_stability_is_that_of_the_system_under_the_inputs_of_the_data(rows):
    X, y = rows
    model = BilinearSystemIdentifier().fit(X, y)
    U = X[:, 5:]
    mean, cov = U.mean(0), np.cov(U.T, bias=True)
    expected = model.system_.stability(cov, mean)
    found = model.stability()
    assert found.spectral_radius == pytest.approx(expected.spectral_radius)
    assert model.spectral_radius_ == pytest.approx(expected.spectral_radius)
    assert model.is_mean_square_stable_ is True
    for covariance in (found.stationary_covariance, model.stationary_covariance_):
        np.testing.assert_allclose(
            covariance, expected.stationary_covariance, rtol=1e-9, atol=1e-12
        )
    given = model.stability(input_cov=[0.5, 0.2], input_mean=[0.1, 0.2])
    radius = model.system_.spectral_radius([0.5, 0.2], [0.1, 0.2])
    assert given.spectral_radius == radius
    centred = model.stability(input_cov=0.5)
    assert centred.spectral_radius == model.system_.spectral_radius(0.5)
    shifted = model.stability(input_mean=[1.0, 1.0]).spectral_radius
    assert shifted == pytest.approx(model.system_.spectral_radius(cov, [1.0, 1.0]))
    np.testing.assert_array_equal(
        model.reachability_gramian(0.1), model.system_.reachability_gramian(0.1)
    )
    A, B = model.frozen_system([1.0, 2.0])
    np.testing.assert_allclose(A, model.A_[0] + model.A_[1] + 2 * model.A_[2])
    np.testing.assert_array_equal(B, model.B_)


# Bad input


def test_a_constant_input_is_a_warning_that_names_it(rows):
    X, y = (part.copy() for part in rows)
    X[:, 5] = 2.0
    with pytest.warns(UserWarning, match=r"rank 12: x0, .*Constant inputs: u0\."):
        model = BilinearSystemIdentifier().fit(X, y)
    assert model.rank_ == 12
    assert model.condition_number_ == np.inf
    frame = pd.DataFrame(X, columns=[*"abcde", "valve", "pump"])
    with pytest.warns(UserWarning, match=r"valve\*a, .*Constant inputs: valve\."):
        BilinearSystemIdentifier().fit(frame, y)
    with pytest.warns(UserWarning, match="Constant inputs: u0"):
        BilinearSystemIdentifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="of rank 12: the error has no bound"):
        model.error_bound()


def test_warnings_point_at_the_line_of_the_caller(rows):
    X, y = (part.copy() for part in rows)
    X[:, 5] = 2.0
    model, other = BilinearSystemIdentifier(), BilinearSystemIdentifier()
    for call in (
        lambda: model.fit(X, y),
        lambda: model.partial_fit(X, y),
        lambda: other.partial_fit(X, y),
        lambda: model.merge(other),
    ):
        with pytest.warns(UserWarning, match="Constant inputs") as record:
            call()
        assert {warning.filename for warning in record} == {__file__}


def test_a_ridge_needs_no_warning_of_dependent_features(rows, recwarn):
    X, y = (part.copy() for part in rows)
    X[:, 5] = 2.0
    BilinearSystemIdentifier(alpha=1e-3).fit(X, y)
    BilinearSystemIdentifier(alpha=1e-3).fit(X[:5], y[:5])
    assert not recwarn.list


def test_products_that_overflow_are_named(rows):
    X, y = (part.copy() for part in rows)
    X[:, 6] *= 1e160
    with pytest.raises(ValueError, match=r"overflow \(u1\*x0, .*\)\. Choose"):
        BilinearSystemIdentifier().fit(X, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X[:, :4], y), "X has 4 columns, but y has 5"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
        (lambda X, y: (X, y + 1j), "Complex data not supported"),
        (lambda X, y: (X, y[:, :, None]), "y must have shape|dim 3"),
        (lambda X, y: (X, y * np.inf), "infinity"),
        (lambda X, y: (X, None), "requires y"),
        (lambda X, y: (X[:0], y[:0]), "0 sample"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, change, message):
    with pytest.raises(ValueError, match=message):
        BilinearSystemIdentifier().fit(*change(*rows))


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha": -1.0},
        {"solver": "qr"},
        {"block_size": 0},
        {"missing": "ignore"},
        {"dt": 0.0},
        {"device": "cuda:99"},
    ],
)
def test_parameters_out_of_range_are_refused(rows, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        BilinearSystemIdentifier(**parameters).fit(*rows)


# In company


def test_it_tunes_in_a_search_over_episodes(episodes):
    X, y, groups = stack_trajectories(*episodes)
    search = GridSearchCV(
        BilinearSystemIdentifier(),
        {"alpha": [0.0, 1.0], "input_matrix": [True, False]},
        cv=GroupKFold(2),
    ).fit(X, y, groups=groups)
    assert search.best_params_["input_matrix"] in (True, False)
    scores = cross_val_score(search.best_estimator_, X, y, cv=TimeSeriesSplit(3))
    assert (scores > 0).all()
    pipeline = make_pipeline(FunctionTransformer(), BilinearSystemIdentifier())
    assert pipeline.fit(X, y).score(X, y) > 0


def test_a_pickle_goes_on_where_it_stopped(rows):
    X, y = rows
    model = BilinearSystemIdentifier().partial_fit(X[:200], y[:200])
    again = pickle.loads(pickle.dumps(model)).partial_fit(X[200:], y[200:])
    whole = BilinearSystemIdentifier().fit(X, y)
    np.testing.assert_allclose(again.coef_, whole.coef_, atol=1e-13)


def test_tensors_come_out_where_tensors_went_in(rows):
    X, y = map(torch.from_numpy, rows)
    expected = BilinearSystemIdentifier().fit(*rows)
    with config_context(array_api_dispatch=True):
        model = BilinearSystemIdentifier().fit(X, y)
        results = {
            "A_": model.A_,
            "gram_": model.gram_,
            "stationary_covariance_": model.stationary_covariance_,
            "predict": model.predict(X),
            "interval": model.confidence_interval()[0],
            "frozen": model.frozen_system(torch.tensor([1.0, 2.0]))[0],
            "gramian": model.reachability_gramian(0.1),
            "simulate": model.simulate(X[0, :5], X[:9, 5:]),
            "stability": model.stability().stationary_covariance,
        }
        score = model.score(X, y)
        merged = model.merge(BilinearSystemIdentifier().fit(X, y))
        assert isinstance(merged.coef_, torch.Tensor)
    for name, value in results.items():
        assert isinstance(value, torch.Tensor), name
    np.testing.assert_allclose(results["A_"].numpy(), expected.A_, atol=1e-13)
    assert score == pytest.approx(expected.score(*rows))
