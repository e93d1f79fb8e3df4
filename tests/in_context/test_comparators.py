"""The exact predictors against brute force, closed forms and the tables of 2301.07067.

The paper has curves only; the tables are those of an independent simulation of the same
tasks, of a few hundred tasks an entry.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from sklearn_attn.in_context._comparators import (
    kalman_predict,
    log_evidence,
    minimum_norm,
    mixture_of_ridges,
    ridge,
    weighted_ridge,
    window_least_squares,
)

N_SE = 4  # standard errors: some 100 means are compared, of fixed seeds
TABLE_TASKS = 300  # the fewest tasks behind an entry of the tables
ROUNDING = 1e-9  # of double precision, times condition numbers of some 1e3 squared
ANISOTROPIC = torch.arange(1, 21, dtype=torch.float64) ** -2.0  # the paper's Figure 2b


@pytest.fixture
def normal():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def errors(normal, predict, n_tasks, k, Sigma, noise):
    """Return squared errors of each task, those of 0 being 1 on average, and variances.

    The mean over queries is exact: at unit vectors a predictor tells its weights, and
    for x ~ N(0, I) it errs by the squared distance of weights, plus that of the noise.
    """
    d = len(Sigma)
    X, w = normal(n_tasks, k, d), normal(n_tasks, d) * Sigma.sqrt()
    y = torch.einsum("bkd,bd->bk", X, w) + noise * normal(n_tasks, k)
    answer = predict(X, y, torch.eye(d).double().expand(n_tasks, d, d))
    mean, std = answer if isinstance(answer, tuple) else (answer, torch.zeros(1, d))
    error = ((mean - w) ** 2).sum(-1) + noise**2
    variance = (std**2 - noise**2).sum(-1) + noise**2
    return error / Sigma.sum(), variance / Sigma.sum()


def standard_error(sample):
    return float(sample.std() / math.sqrt(len(sample)))


def assert_mean(sample, expected):
    assert abs(float(sample.mean()) - expected) < N_SE * standard_error(sample)


def assert_in_table(sample, entry):
    """Both means have an error, and the entry is rounded too."""
    table_error = float(sample.std()) / math.sqrt(TABLE_TASKS)
    half_unit = 0.5 * 10.0 ** -len(str(entry).split(".")[1])
    tolerance = N_SE * math.hypot(standard_error(sample), table_error) + half_unit
    assert abs(float(sample.mean()) - entry) < tolerance


# ------------------------------------------------------------------ claims, in numbers


@pytest.mark.claim
@pytest.mark.parametrize("k", [0, 1, 5, 10, 15, 19, 20, 30])
def test_noiseless_tasks_cost_the_share_of_dimensions_not_seen(normal, k):
    for Sigma in (torch.ones(20).double(), ANISOTROPIC):
        error, _ = errors(normal, minimum_norm, 300, k, Sigma, 0.0)
        if k < 20:
            assert_mean(error, 1 - k / 20)
        else:
            assert error.max() < ROUNDING


@pytest.mark.claim
@pytest.mark.parametrize(
    ("k", "entry"),
    [(5, 0.815), (10, 0.585), (15, 0.463), (25, 0.305), (30, 0.159), (40, 0.103)],
)
def test_least_squares_on_noisy_tasks(normal, k, entry):
    d = 20
    error, _ = errors(normal, minimum_norm, 1000, k, torch.ones(d).double(), 1.0)
    # the mean trace of an inverse Wishart matrix; k within 1 of d has none
    trace = min(k, d) / (abs(d - k) - 1)
    assert_mean(error, max(1 - k / d, 0) + (1 + trace) / d)
    assert_in_table(error, entry)


@pytest.mark.claim
def test_least_squares_spikes_where_examples_are_as_many_as_features(normal):
    ones = torch.ones(20).double()
    spike, _ = errors(normal, minimum_norm, 300, 20, ones, 1.0)
    bayes, _ = errors(normal, lambda *a: ridge(*a, noise=1.0), 300, 20, ones, 1.0)
    assert spike.mean() > 10 > 1 > bayes.mean()


@pytest.mark.claim
@pytest.mark.parametrize(
    ("d", "noise", "entries"),
    [
        (
            20,
            1.0,
            {
                5: 0.811,
                10: 0.578,
                15: 0.378,
                20: 0.263,
                22: 0.220,
                25: 0.169,
                30: 0.130,
                40: 0.099,
            },
        ),
        (
            5,
            1.0,
            {
                2: 0.866,
                4: 0.672,
                5: 0.577,
                6: 0.510,
                8: 0.431,
                10: 0.357,
                20: 0.264,
            },
        ),
        (
            5,
            0.5,
            {
                2: 0.685,
                4: 0.398,
                5: 0.275,
                6: 0.212,
                8: 0.140,
                10: 0.104,
                20: 0.065,
            },
        ),
    ],
)
def test_ridge_on_noisy_tasks(normal, d, noise, entries):
    def predict(X, y, X_query):
        return ridge(X, y, X_query, noise=noise, return_std=True)

    for k, entry in entries.items():
        error, variance = errors(normal, predict, 600, k, torch.ones(d).double(), noise)
        assert_mean(error - variance, 0.0)  # Bayes knows how much it errs
        assert_in_table(error, entry)


@pytest.mark.claim
@pytest.mark.parametrize(
    ("k", "least", "bayes"),
    [
        (1, 0.911, 0.620),
        (2, 0.861, 0.402),
        (5, 0.772, 0.224),
        (10, 0.529, 0.078),
        (15, 0.252, 0.028),
        (19, 0.052, 0.005),
    ],
)
def test_the_prior_covariance_is_worth_a_factor(normal, k, least, bayes):
    def predict(X, y, X_query):
        return weighted_ridge(
            X, y, X_query, weight_cov=ANISOTROPIC, noise=0.0, return_std=True
        )

    error, variance = errors(normal, predict, 1000, k, ANISOTROPIC, 0.0)
    assert_mean(error - variance, 0.0)
    assert_in_table(error, bayes)
    assert_in_table(errors(normal, minimum_norm, 1000, k, ANISOTROPIC, 0.0)[0], least)


def linear_systems(normal, n_tasks, n_times, n=20, r=4):
    """Return A, C and series y_0, y_1, ... of the paper's Section 5."""
    A = normal(n_tasks, n, n)
    A *= 0.9 / torch.linalg.eigvals(A).abs().amax(-1)[:, None, None]
    C = normal(n_tasks, r, n) / math.sqrt(r)
    x, series = torch.zeros(n_tasks, n).double(), []
    for _ in range(n_times):
        series.append(torch.einsum("brn,bn->br", C, x))
        x = torch.einsum("bnm,bm->bn", A, x) + 0.1 * normal(n_tasks, n)
    return A, C, torch.stack(series, 1)


@pytest.mark.claim
def test_predictors_of_partially_observed_systems(normal):
    A, C, series = linear_systems(normal, 200, 42)
    kalman = kalman_predict(series, A=A, C=C, state_noise=0.1)[:, 1:]
    # y_0 = 0 tells nothing, and the table starts with y_1
    series = series[:, 1:]

    def losses(predictions):
        n = len(predictions)
        return ((series[:n] - predictions) ** 2).sum(-1)

    zero, kalman = losses(torch.zeros_like(series)), losses(kalman)
    for t, entry in {5: 0.64, 10: 0.69, 20: 0.77, 30: 0.75, 40: 0.83}.items():
        assert_in_table(zero[:, t], entry)
    bounds = {5: 0.44, 10: 0.39, 15: 0.41, 20: 0.43, 30: 0.44, 40: 0.45}
    for t, entry in bounds.items():
        assert_in_table(kalman[:, t], entry)

    # not those with about as many pairs as coefficients, whose errors have no mean
    tables = {
        1: {10: 1.25, 15: 0.85, 20: 0.74, 30: 0.67, 40: 0.67},
        2: {20: 0.95, 30: 0.73, 40: 0.65},
        3: {5: 0.90, 20: 1.77, 30: 0.85, 40: 0.69},
        4: {5: 0.71, 10: 1.13, 30: 1.27, 40: 0.82},
    }
    for H, entries in tables.items():
        loss = losses(window_least_squares(series, window=H))
        for t, entry in entries.items():
            assert_in_table(loss[:, t], entry)
            assert loss[:, t].mean() > kalman[:, t].mean()

    penalised = [
        losses(window_least_squares(series[:100], window=H, alpha=alpha))
        for H in (1, 2, 3, 4)
        for alpha in (1.0, 0.1, 0.01)
    ]
    for t, entry in {5: 0.66, 10: 0.65, 15: 0.68, 20: 0.64, 30: 0.60, 40: 0.58}.items():
        best = min((loss[:, t] for loss in penalised), key=torch.mean)
        assert_in_table(best, entry)


# ------------------------------------------------------------------------- brute force


def covariances(normal, n_tasks, d):
    full = normal(n_tasks, d, d)
    full = full @ full.mT + 0.1 * torch.eye(d).double()
    return {"diagonal": full[0].diagonal(), "full": full[0], "each": full}


def as_matrix(weight_cov, b):
    Sigma = weight_cov.numpy()
    return {1: np.diag, 2: np.asarray, 3: lambda S: S[b]}[Sigma.ndim](Sigma)


def condition(X, y, X_query, Sigma, noise):
    """Return mean and standard deviation of labels at the queries, given y."""
    K = X @ Sigma @ X.T + noise**2 * np.eye(len(X))
    gain = np.linalg.solve(K, X @ Sigma @ X_query.T).T
    cov = X_query @ Sigma @ X_query.T - gain @ X @ Sigma @ X_query.T
    return gain @ y, np.sqrt(np.diag(cov) + noise**2)


@pytest.mark.parametrize("kind", ["diagonal", "full", "each"])
@pytest.mark.parametrize(
    ("k", "noise"), [(0, 0.3), (1, 0.3), (1, 0.0), (3, 0.0), (4, 0.3), (9, 0.3)]
)
def test_weighted_ridge_conditions_a_gaussian(normal, kind, k, noise):
    X, y, X_query = normal(3, k, 5), normal(3, k), normal(3, 4, 5)
    weight_cov = covariances(normal, 3, 5)[kind]
    mean, std = weighted_ridge(
        X, y, X_query, weight_cov=weight_cov, noise=noise, return_std=True
    )
    for b in range(3):
        expected = condition(
            X[b].numpy(),
            y[b].numpy(),
            X_query[b].numpy(),
            as_matrix(weight_cov, b),
            noise,
        )
        np.testing.assert_allclose(mean[b], expected[0], atol=ROUNDING)
        np.testing.assert_allclose(std[b], expected[1], atol=ROUNDING)


@pytest.mark.parametrize("kind", ["diagonal", "full", "each"])
def test_each_task_may_have_its_noise(normal, kind):
    X, y, X_query = normal(3, 4, 5), normal(3, 4), normal(3, 2, 5)
    weight_cov = covariances(normal, 3, 5)[kind]
    noise = torch.tensor([0.0, 0.2, 1.5])
    mean = weighted_ridge(X, y, X_query, weight_cov=weight_cov, noise=noise)
    evidence = log_evidence(X, y, weight_cov=weight_cov, noise=noise)
    for b, sigma in enumerate([0.0, 0.2, 1.5]):
        Sigma = weight_cov if weight_cov.ndim < 3 else weight_cov[b : b + 1]
        alone = (X[b : b + 1], y[b : b + 1])
        # the noise goes through single precision
        expected = weighted_ridge(
            *alone, X_query[b : b + 1], weight_cov=Sigma, noise=sigma
        )
        torch.testing.assert_close(mean[b], expected[0], rtol=1e-6, atol=1e-6)
        expected = log_evidence(*alone, weight_cov=Sigma, noise=sigma)
        torch.testing.assert_close(evidence[b], expected[0], rtol=1e-6, atol=1e-6)


def brute_force_evidence(X, y, Sigma, noise):
    cov = X @ Sigma @ X.T + noise**2 * np.eye(len(X))
    return multivariate_normal.logpdf(y, np.zeros(len(X)), cov)


@pytest.mark.parametrize("kind", ["diagonal", "full", "each"])
@pytest.mark.parametrize(("k", "noise"), [(1, 0.0), (4, 0.0), (4, 0.3), (9, 0.3)])
def test_evidence_is_a_gaussian_density(normal, kind, k, noise):
    X, y = normal(3, k, 5), normal(3, k)
    weight_cov = covariances(normal, 3, 5)[kind]
    evidence = log_evidence(X, y, weight_cov=weight_cov, noise=noise)
    for b in range(3):
        expected = brute_force_evidence(
            X[b].numpy(), y[b].numpy(), as_matrix(weight_cov, b), noise
        )
        assert evidence[b] == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_a_mixture_weighs_kinds_by_their_evidence(normal, k):
    X, y, X_query = normal(3, k, 5), normal(3, k), normal(3, 4, 5)
    sparse = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0]).double()
    weight_covs = [*covariances(normal, 3, 5).values(), sparse]
    noises, probabilities = [0.5, 1.0, 0.2, 0.7], [0.1, 0.2, 0.3, 0.4]
    mean, std, posterior = mixture_of_ridges(
        X,
        y,
        X_query,
        weight_covs=weight_covs,
        noises=noises,
        probabilities=probabilities,
        return_std=True,
        return_posterior=True,
    )
    for b in range(3):
        task = X[b].numpy(), y[b].numpy()
        weights, means, seconds = [], [], []
        for weight_cov, noise, p in zip(weight_covs, noises, probabilities):
            Sigma = as_matrix(weight_cov, b)
            weights.append(p * np.exp(brute_force_evidence(*task, Sigma, noise)))
            m, s = condition(*task, X_query[b].numpy(), Sigma, noise)
            means.append(m)
            seconds.append(s**2 + m**2)
        weights = np.array(weights) / np.sum(weights)
        expected = weights @ means
        np.testing.assert_allclose(posterior[b], weights, atol=ROUNDING)
        np.testing.assert_allclose(mean[b], expected, atol=ROUNDING)
        expected_std = np.sqrt(weights @ seconds - expected**2)
        np.testing.assert_allclose(std[b], expected_std, atol=ROUNDING)


@pytest.mark.parametrize("output_noise", [0.0, 0.2])
def test_the_kalman_filter_conditions_a_gaussian(normal, output_noise):
    n_times, n, r = 7, 3, 2
    A, C = 0.5 * normal(2, n, n), normal(2, r, n)
    series = torch.empty(2, n_times, r).double()
    expected = np.empty(series.shape)
    for b in range(2):
        a, c = A[b].numpy(), C[b].numpy()
        # y = M e, with e the noises of all times
        M = np.zeros((n_times, r, n_times, n))
        for t in range(n_times):
            for s in range(t):
                M[t, :, s] = 0.1 * c @ np.linalg.matrix_power(a, t - s - 1)
        M = M.reshape(n_times * r, -1)
        cov = M @ M.T + output_noise**2 * np.eye(n_times * r)
        y = M @ normal(M.shape[1]).numpy() + output_noise * normal(len(M)).numpy()
        series[b] = torch.as_tensor(y.reshape(n_times, r))
        for t in range(n_times):
            past, now = slice(0, t * r), slice(t * r, t * r + r)
            inverse = np.linalg.pinv(cov[past, past], hermitian=True)
            expected[b, t] = cov[now, past] @ inverse @ y[past]
    predicted = kalman_predict(
        series, A=A, C=C, state_noise=0.1, output_noise=output_noise
    )
    np.testing.assert_allclose(predicted, expected, atol=ROUNDING)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_are_fitted_to_the_pairs_so_far(normal, window, alpha):
    series = normal(2, 9, 2)
    predictions = window_least_squares(series, window=window, alpha=alpha)
    assert (predictions[:, : window + 1] == 0).all()
    for b, y in enumerate(series.numpy()):
        for t in range(window + 1, 9):
            X = np.array([y[s - window : s].ravel() for s in range(window, t)])
            size = X.shape[1]
            X = np.vstack([X, math.sqrt(alpha) * np.eye(size)])
            Y = np.vstack([y[window:t], np.zeros((size, 2))])
            expected = y[t - window : t].ravel() @ np.linalg.pinv(X) @ Y
            np.testing.assert_allclose(predictions[b, t], expected, atol=ROUNDING)


# ------------------------------------------------------------------------------ limits


def test_without_examples_there_is_the_prior(normal):
    X, y, X_query = normal(2, 0, 3), normal(2, 0), normal(2, 4, 3)
    weight_covs, noises = [torch.ones(3), 2 * torch.eye(3)], [0.0, 0.5]
    assert (minimum_norm(X, y, X_query) == 0).all()
    mean, std, posterior = mixture_of_ridges(
        X,
        y,
        X_query,
        weight_covs=weight_covs,
        noises=noises,
        probabilities=[1.0, 3.0],
        return_std=True,
        return_posterior=True,
    )
    assert (mean == 0).all()
    torch.testing.assert_close(
        posterior, torch.tensor([0.25, 0.75]).double().tile(2, 1)
    )
    square = (X_query**2).sum(-1)
    torch.testing.assert_close(std**2, 0.25 * square + 0.75 * (2 * square + 0.25))
    for weight_cov, noise in zip(weight_covs, noises):
        assert (log_evidence(X, y, weight_cov=weight_cov, noise=noise) == 0).all()


def test_repeated_rows_count_once_without_noise_and_their_labels_are_averaged(normal):
    X, y, X_query = normal(2, 2, 4), normal(2, 2), normal(2, 3, 4)
    twice = X[:, [0, 1, 0, 1, 0]]
    once, std = ridge(X, y, X_query, noise=0.0, return_std=True)
    repeated = ridge(twice, y[:, [0, 1, 0, 1, 0]], X_query, noise=0.0, return_std=True)
    torch.testing.assert_close(repeated, (once, std))
    spread = torch.tensor([1.0, 2.0, -2.0, -2.0, 1.0]).double()
    noisy = minimum_norm(twice, y[:, [0, 1, 0, 1, 0]] + spread, X_query)
    torch.testing.assert_close(noisy, once)


@pytest.mark.parametrize("rows", [[0], [0, 1], [0, 1, 1, 0], [*range(4)], [*range(9)]])
def test_no_noise_is_the_limit_of_small_noise(normal, rows):
    X, w, X_query = normal(2, 9, 4)[:, rows], normal(2, 4), normal(2, 3, 4)
    y = torch.einsum("bkd,bd->bk", X, w)
    weight_cov = torch.tensor([2.0, 1.0, 0.5, 0.0]).double()
    exact = weighted_ridge(
        X, y, X_query, weight_cov=weight_cov, noise=0.0, return_std=True
    )
    for noise in (1e-4, 1e-6, 1e-8, 1e-12):
        small = weighted_ridge(
            X, y, X_query, weight_cov=weight_cov, noise=noise, return_std=True
        )
        # sigma / s, of the smallest singular value, which is above 1e-2 here
        for near, at in zip(small, exact):
            torch.testing.assert_close(near, at, rtol=0, atol=1e2 * noise + ROUNDING)


def test_kinds_without_noise_are_found_by_their_subspace(normal):
    supports = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    kinds = {"weight_covs": supports, "probabilities": [0.1, 0.1, 0.1, 0.7]}
    X, X_query = normal(4, 3, 4), normal(4, 5, 4)
    w = normal(4, 4) * supports
    y = torch.einsum("bkd,bd->bk", X, w)
    for noise in (0.0, 1e-7):
        mean, posterior = mixture_of_ridges(
            X, y, X_query, noises=4 * [noise], return_posterior=True, **kinds
        )
        torch.testing.assert_close(posterior, torch.eye(4).double(), rtol=0, atol=1e-4)
        known = torch.einsum("bqd,bd->bq", X_query[:3], w[:3])
        torch.testing.assert_close(mean[:3], known, rtol=0, atol=1e-4)
    outside = log_evidence(X, y, weight_cov=supports[0], noise=0.0)
    assert outside[0].isfinite()
    assert (outside[1:] == -torch.inf).all()


def test_labels_of_no_kind_go_to_the_nearest(normal):
    X, X_query = normal(1, 4, 3), normal(1, 2, 3)
    y = X[..., 0] + 1e-3 * normal(1, 4)
    kinds = {"weight_covs": torch.eye(3), "noises": 3 * [0.0]}
    for probabilities, expected in [([1, 1, 1], [1, 0, 0]), ([0, 0, 1], [0, 0, 1])]:
        _, posterior = mixture_of_ridges(
            X, y, X_query, probabilities=probabilities, return_posterior=True, **kinds
        )
        assert posterior.tolist() == [expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_left_alone_and_the_dtype_is_kept(normal, dtype):
    X, y, X_query, series, A, C = inputs = [
        normal(*shape).to(dtype)
        for shape in [(2, 3, 4), (2, 3), (2, 5, 4), (2, 6, 2), (2, 3, 3), (2, 2, 3)]
    ]
    weight_cov, noise = torch.ones(4, dtype=dtype), torch.tensor([0.1, 0.2])
    inputs += [weight_cov, noise]
    before = [a.clone() for a in inputs]
    kinds = {"weight_covs": [weight_cov, weight_cov], "probabilities": [0.5, 0.5]}
    answers = [
        minimum_norm(X, y, X_query),
        *ridge(X, y, X_query, noise=noise, return_std=True),
        weighted_ridge(X, y, X_query, weight_cov=weight_cov, noise=noise),
        log_evidence(X, y, weight_cov=weight_cov, noise=noise),
        *mixture_of_ridges(
            X, y, X_query, noises=noise, return_std=True, return_posterior=True, **kinds
        ),
        window_least_squares(series, window=2),
        kalman_predict(series, A=A, C=C, state_noise=0.1),
    ]
    assert {answer.dtype for answer in answers} == {dtype}
    for a, b in zip(inputs, before):
        assert torch.equal(a, b)
