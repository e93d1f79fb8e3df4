"""The blocked least squares against NumPy's on the whole matrix of features."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_attn.dynamics import _bilinear_least_squares as least_squares_module
from sklearn_attn.dynamics._bilinear_least_squares import (
    LiftedDesign,
    Moments,
    Rows,
    accumulate,
    least_squares,
    solve_moments,
)

SOLVERS = ("auto", "gram", "tsqr", "lstsq")


def problem(N=300, n=3, m=2, *, noise=1.0, seed=0, **terms):
    """Return the design, its rows, all features, and next states."""
    rng = np.random.default_rng(seed)
    design = LiftedDesign(n, m, **terms)
    x, u = rng.standard_normal((N, n)), rng.standard_normal((N, m))
    features = features_of(design, x, u)
    C = rng.standard_normal((n, design.n_features))
    y = features @ C.T + noise * rng.standard_normal((N, n))
    return design, Rows(*map(torch.from_numpy, (x, u, y))), features, y


def features_of(design, x, u):
    columns = [x, *(x * u[:, [k]] for k in range(design.n_inputs))]
    columns += [u] * design.input_matrix + [np.ones((len(x), 1))] * design.intercept
    return np.hstack(columns)


def fit(design, rows, solver="auto", alpha=0.0, **options):
    tall = accumulate(design, rows, None, rows.x.dtype, factor=solver == "tsqr")
    options |= {"solver": solver, "alpha": alpha, "dtype": rows.x.dtype}
    return least_squares(design, rows, tall, **options)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("input_matrix", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
def test_every_solver_finds_the_least_squares_solution(solver, input_matrix, intercept):
    terms = {"input_matrix": input_matrix, "intercept": intercept}
    design, rows, features, y = problem(**terms)
    moments, answer = fit(design, rows, solver)
    expected, *_ = np.linalg.lstsq(features, y, rcond=None)
    np.testing.assert_allclose(answer.coef, expected.T, atol=1e-13)
    assert answer.solver == ("gram" if solver == "auto" else solver)
    assert answer.rank == design.n_features == features.shape[1]
    assert answer.degrees == pytest.approx(design.n_features)
    assert answer.condition == pytest.approx(np.linalg.cond(features), rel=1e-9)
    residual = y - features @ expected
    np.testing.assert_allclose(answer.residual, residual.T @ residual, rtol=1e-9)
    Z = np.hstack([features, y])
    np.testing.assert_allclose(moments.gram, Z.T @ Z, atol=1e-10)
    G = features.T @ features
    np.testing.assert_allclose(answer.inverse, np.linalg.inv(G), atol=1e-12)
    np.testing.assert_allclose(answer.covariance, np.linalg.inv(G), atol=1e-12)
    np.testing.assert_allclose(answer.lengths, np.linalg.svd(features)[1], rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_ridge_leaves_the_intercept_alone(solver):
    design, rows, features, y = problem(intercept=True, N=10)  # fewer than features
    _, answer = fit(design, rows, solver, alpha=0.7)
    penalty = np.diag([0.7] * (design.n_features - 1) + [0.0])
    G = features.T @ features
    expected = np.linalg.solve(G + penalty, features.T @ y)
    np.testing.assert_allclose(answer.coef, expected.T, atol=1e-12)
    K = np.linalg.inv(G + penalty)
    np.testing.assert_allclose(answer.covariance, K @ G @ K, atol=1e-12)
    # rank and condition are those of the features, whatever the ridge
    assert answer.rank == 10
    assert answer.condition == np.inf
    degrees = np.trace(G @ np.linalg.inv(G + penalty))
    assert answer.degrees == pytest.approx(degrees, rel=1e-10)
    residual = y - features @ expected
    np.testing.assert_allclose(answer.residual, residual.T @ residual, atol=1e-11)


@pytest.mark.parametrize("solver", SOLVERS)
def test_with_fewer_rows_than_features_the_norm_is_least(solver):
    design, rows, features, y = problem(N=6)
    _, answer = fit(design, rows, solver)
    expected, *_ = np.linalg.lstsq(features, y, rcond=None)
    np.testing.assert_allclose(answer.coef, expected.T, atol=1e-11)
    assert answer.rank == 6
    assert answer.condition == np.inf
    if solver == "auto":
        assert answer.solver == "lstsq"


@pytest.mark.parametrize("solver", SOLVERS)
def test_of_dependent_features_the_norm_is_least_in_the_units_of_the_data(solver):
    design, rows, *_ = problem(intercept=True)
    u = rows.u.clone()
    u[:, 1] = 3.0  # u*x is three times x, and u three times 1
    rows = rows._replace(u=u)
    features = features_of(design, rows.x.numpy(), u.numpy())
    expected, *_ = np.linalg.lstsq(features, rows.y.numpy(), rcond=None)
    _, answer = fit(design, rows, solver)
    np.testing.assert_allclose(answer.coef, expected.T, atol=1e-11)
    assert answer.rank == design.n_features - 4
    dependent = np.r_[[True] * 3, [False] * 3, [True] * 3, False, True, True]
    np.testing.assert_array_equal(answer.dependent, dependent)


@given(cuts=st.lists(st.integers(0, 300), max_size=6), block=st.integers(1, 400))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_moments_add_however_the_rows_are_cut(cuts, block):
    design, rows, *_ = problem(intercept=True)
    edges = [0, *sorted(cuts), 300]
    parts = [
        Rows(*(tensor[a:b] for tensor in rows[:3])) for a, b in pairwise(edges) if b > a
    ]
    total, *others = (
        accumulate(design, part, block, torch.float64, factor=True) for part in parts
    )
    for other in others:
        total = total + other
    whole = accumulate(design, rows, None, torch.float64)
    np.testing.assert_allclose(total.gram, whole.gram, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(total.factor.T @ total.factor, whole.gram, atol=1e-11)
    for name in ("weight", "input_mean", "input_scatter"):
        np.testing.assert_allclose(
            getattr(total, name), getattr(whole, name), rtol=1e-12, atol=1e-11
        )
    assert total.n_rows == whole.n_rows == 300


def test_moments_with_and_without_a_factor_add_to_ones_without():
    design, rows, *_ = problem()
    with_factor = accumulate(design, rows, None, torch.float64, factor=True)
    without = accumulate(design, rows, None, torch.float64)
    assert (with_factor + without).factor is None
    assert isinstance(with_factor + with_factor, Moments)
    assert (with_factor + with_factor).factor is not None


def test_what_is_known_of_moments_adds_as_well():
    design, rows, *_ = problem()
    y = rows.y.clone()
    y[:7, 0] = torch.nan
    torn = accumulate(design, rows._replace(y=y, drop=True), None, torch.float64)
    single = accumulate(design, rows, None, torch.float32)
    for total in (torn + single, single + torn):
        assert total.n_dropped == 7
        assert total.n_rows == 593
        assert total.eps == np.finfo(np.float32).eps


def test_a_weight_is_a_number_of_repetitions():
    design, rows, *_ = problem()
    weight = torch.from_numpy(
        np.random.default_rng(0).integers(0, 4, 300).astype(float)
    )
    rows = rows._replace(weight=weight)
    repeated = Rows(*(t.repeat_interleave(weight.long(), 0) for t in rows[:3]))
    weighted, answer = fit(design, rows)
    again, expected = fit(design, repeated)
    np.testing.assert_allclose(weighted.gram, again.gram, rtol=1e-12, atol=1e-10)
    for name in ("weight", "input_mean", "input_scatter"):
        np.testing.assert_allclose(
            getattr(weighted, name), getattr(again, name), rtol=1e-12, atol=1e-11
        )
    np.testing.assert_allclose(answer.coef, expected.coef, atol=1e-13)
    assert weighted.n_rows == int((weight > 0).sum())


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_with_nan_are_left_out(solver, weighted):
    design, rows, *_ = problem(intercept=True)
    weight = torch.linspace(0.1, 2, 300, dtype=torch.float64) if weighted else None
    complete = np.ones(300, dtype=bool)
    complete[[3, 50, 51, 299]] = False
    expected = rows._replace(weight=weight)
    expected = Rows(*(t if t is None else t[complete] for t in expected[:4]))
    x, u, y = (tensor.clone() for tensor in rows[:3])
    x[3, 1] = u[50, 0] = y[51, 2] = y[299, 0] = torch.nan
    moments, answer = fit(design, Rows(x, u, y, weight, drop=True), solver)
    _, clean = fit(design, expected, solver)
    np.testing.assert_allclose(answer.coef, clean.coef, atol=1e-13)
    np.testing.assert_allclose(answer.residual, clean.residual, rtol=1e-9)
    assert (moments.n_rows, moments.n_dropped) == (296, 4)


@pytest.mark.parametrize("midpoint", [True, False])
def test_continuous_time_regresses_the_derivative(midpoint):
    design, rows, *_ = problem(intercept=True)
    design = replace(design, dt=0.1, midpoint=midpoint)
    x, u, y = (tensor.numpy() for tensor in rows[:3])
    features = features_of(design, (x + y) / 2 if midpoint else x, u)
    expected, *_ = np.linalg.lstsq(features, (y - x) / 0.1, rcond=None)
    _, answer = fit(design, rows)
    np.testing.assert_allclose(answer.coef, expected.T, atol=1e-11)


def test_nearly_dependent_features_are_left_to_the_factor():
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((1000, 4)), rng.standard_normal((1000, 2))
    for eps, tolerance in ((1e-4, 1e-10), (1e-6, 1e-8), (1e-7, 1e-7)):
        x[:, 3] = x[:, 2] + eps * rng.standard_normal(1000)
        design = LiftedDesign(4, 2)
        features = features_of(design, x, u)
        y = features @ rng.standard_normal((design.n_features, 4))
        rows = Rows(*map(torch.from_numpy, (x, u, y)))
        _, answer = fit(design, rows)
        assert answer.solver == "tsqr"
        expected, *_ = np.linalg.lstsq(features, y, rcond=None)
        # each of two backward stable solvers is off by about eps(float) * condition
        error = np.linalg.norm(answer.coef - expected.T) / np.linalg.norm(expected)
        assert error < tolerance
        _, squared = fit(design, rows, "gram")
        assert np.linalg.norm(squared.coef - expected.T) > 100 * error


@pytest.mark.parametrize("solver", SOLVERS)
def test_units_do_not_matter(solver):
    design, rows, features, _ = problem()
    _, answer = fit(design, rows, solver)
    scaled = rows._replace(x=rows.x * 1e8)
    _, rescaled = fit(design, scaled, solver)
    back = rescaled.coef.copy()
    back[:, : design.n_products] *= 1e8
    difference = np.linalg.norm(back - answer.coef) / np.linalg.norm(answer.coef)
    assert difference < 1e-12
    assert rescaled.rank == design.n_features
    features = features.copy()
    features[:, : design.n_products] *= 1e8
    assert rescaled.condition == pytest.approx(np.linalg.cond(features), rel=1e-6)


def test_errors_after_the_fall_back_are_those_of_the_factor():
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((2000, 2)), rng.standard_normal((2000, 1))
    for eps, dtype in ((1e-8, np.float64), (1e-4, np.float32)):
        x[:, 1] = x[:, 0] + eps * rng.standard_normal(2000)
        design = LiftedDesign(2, 1)
        data = [part.astype(dtype) for part in (x, u, x)]
        rows = Rows(*map(torch.from_numpy, data))
        _, answer = fit(design, rows)
        assert answer.solver == "tsqr"
        features = features_of(design, *(part.astype(float) for part in data[:2]))
        R = np.linalg.qr(features, mode="r")
        expected = np.square(np.linalg.inv(R)).sum(1)
        np.testing.assert_allclose(np.diag(answer.covariance), expected, rtol=1e-5)
        lengths = np.linalg.svd(features, compute_uv=False)
        np.testing.assert_allclose(answer.lengths, lengths, rtol=1e-5)


def test_rows_without_weight_may_hold_anything():
    design, rows, *_ = problem()
    weight = torch.ones(300, dtype=torch.float64)
    weight[:5] = 0
    x = rows.x.clone()
    x[:5] = 1e200
    moments, answer = fit(design, rows._replace(x=x, weight=weight))
    _, expected = fit(design, Rows(*(part[5:] for part in rows[:3])))
    np.testing.assert_allclose(answer.coef, expected.coef, atol=1e-13)
    assert moments.n_rows == 295


def test_what_overflows_is_not_missing():
    design, rows, *_ = problem()
    x, u = rows.x.clone(), rows.u.clone()
    x[:5] = torch.inf
    u[:5] = 0
    torn = rows._replace(x=x, u=u, drop=True)
    moments = accumulate(design, torn, None, torch.float64)
    assert moments.n_dropped == 0
    assert np.isnan(moments.gram).any()


def test_small_residuals_are_not_a_difference_of_large_numbers():
    design, rows, features, y = problem(noise=1e-9)
    _, answer = fit(design, rows)
    assert answer.solver == "gram"
    expected, *_ = np.linalg.lstsq(features, y, rcond=None)
    residual = y - features @ expected
    np.testing.assert_allclose(answer.residual, residual.T @ residual, rtol=1e-4)
    _, quick = fit(design, rows, exact_residuals=False)
    assert np.isnan(quick.residual).all()  # not shown, rather than wrong


def test_single_precision_is_summed_in_double():
    design, rows, *_ = problem(N=100_000)
    single = Rows(*(tensor.float() for tensor in rows[:3]))
    moments, answer = fit(design, single)
    _, double = fit(design, rows)
    assert answer.solver == "gram"
    assert moments.eps == np.finfo(np.float32).eps
    # far below the statistical error, 1 / sqrt(N) = 3e-3
    np.testing.assert_allclose(answer.coef, double.coef, atol=1e-6)


def test_the_factor_of_single_precision_data_is_double():
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((1000, 3)), rng.standard_normal((1000, 1))
    x[:, 2] = x[:, 1] + 1e-3 * rng.standard_normal(1000)
    x, u = x.astype(np.float32), u.astype(np.float32)
    design = LiftedDesign(3, 1)
    # what single precision holds of the data is exact; only the fit may lose digits
    features = features_of(design, x.astype(float), u.astype(float))
    C = rng.standard_normal((3, design.n_features))
    y = torch.from_numpy(features @ C.T)
    rows = Rows(torch.from_numpy(x), torch.from_numpy(u), y)
    _, answer = fit(design, rows)
    assert answer.solver == "tsqr"
    np.testing.assert_allclose(answer.coef, C, atol=1e-9)


def test_input_moments_of_single_precision_data_are_double():
    design, rows, *_ = problem()
    u = (rows.u * 0.5 + 300).float()
    single = accumulate(design, rows._replace(u=u), None, torch.float32)
    cov = single.input_scatter / 300
    np.testing.assert_allclose(cov, np.cov(u.double().T, bias=True), atol=1e-9)


def test_sums_without_blas_as_on_other_devices_are_the_same(monkeypatch):
    design, rows, *_ = problem()
    expected = accumulate(design, rows, 64, torch.float64)

    def without_blas(self, size, device):
        self.has_blas = False
        self.total = torch.zeros((size, size), dtype=torch.float64, device=device)

    monkeypatch.setattr(least_squares_module._SymmetricSum, "__init__", without_blas)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-3)):
        found = accumulate(design, rows, 64, dtype)
        np.testing.assert_allclose(found.gram, expected.gram, atol=tolerance)


def test_the_solution_of_moments_needs_no_rows():
    design, rows, *_ = problem()
    moments, answer = fit(design, rows)
    again = solve_moments(design, moments)
    np.testing.assert_array_equal(again.coef, answer.coef)
