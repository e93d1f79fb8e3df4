"""The claims of 2208.13915 in numbers; the figures stand beside each.

The paper's sizes and radii are not known to us. Ours: 5 states, 2 inputs, spectral
radius .6 of A_0 and .3 of the others, as in `make_bilinear_system`.
"""

import numpy as np
import pytest

from sklearn_attn.datasets import (
    make_bilinear_system,
    make_bloch_spin,
    make_boost_converter,
    make_koopman_lift,
)
from sklearn_attn.dynamics import BilinearSystem, BilinearSystemIdentifier

pytestmark = pytest.mark.claim

N_RUNS = 60


@pytest.fixture(scope="module")
def system():
    _, _, system = make_bilinear_system(1, random_state=0, return_system=True)
    return system


def identify(system, n_steps, seed, *, input_std=1.0, mean=0.0, noise=1.0, **options):
    """Fit a trajectory of the system, the paper's way: from x_0 ~ N(0, I), no B."""
    rng = np.random.RandomState(seed)
    x0 = options.pop("x0_std", 1.0) * rng.standard_normal(system.n_states)
    U = mean + input_std * rng.standard_normal((n_steps, system.n_inputs))
    W = noise * rng.standard_normal((n_steps, system.n_states))
    states = system.simulate(x0, U, W)
    options = {"input_matrix": False} | options
    return BilinearSystemIdentifier(**options).fit_trajectories(states, U)


def squared_errors(system, n_steps, n_runs=N_RUNS, **options):
    """Return the mean squared errors of A_0, of the A_k, and of B."""
    errors = []
    for seed in range(n_runs):
        model = identify(system, n_steps, seed, **options)
        by_matrix = ((model.A_ - system.A) ** 2).sum((1, 2))
        B_error = ((model.B_ - system.B) ** 2).sum()
        errors.append([by_matrix[0], by_matrix[1:].mean(), B_error])
    return np.mean(errors, axis=0)


def spectral_error(system, n_steps, n_runs=N_RUNS, **options):
    """Return the mean spectral norm of the error of [A_0, ..., A_m]."""
    return np.mean(
        [
            np.linalg.norm(
                np.hstack(identify(system, n_steps, seed, **options).A_ - system.A), 2
            )
            for seed in range(n_runs)
        ]
    )


def scaled_to(system, radius):
    """Scale all matrices so that the augmented operator has this spectral radius."""
    return BilinearSystem(system.A * np.sqrt(radius / system.spectral_radius()))


def test_the_error_falls_as_one_over_the_root_of_the_length(system):
    # measured: slope -.51, prototype -.508
    lengths = 200 * 2 ** np.arange(7)
    errors = [spectral_error(system, T, n_runs=30) for T in lengths]
    slope = np.polyfit(np.log(lengths), np.log(errors), 1)[0]
    assert -0.55 <= slope <= -0.45


@pytest.mark.parametrize("input_std", [0.5, 1.0, 1.5])
def test_the_squared_error_is_that_of_the_closed_form(system, input_std):
    """T E|A_0 - A_0*|^2 -> n tr S^-1, for the others over the inputs' variance."""
    S = BilinearSystem(system.A, noise_cov=np.eye(5)).stationary_covariance(
        input_std**2
    )
    predicted = 5 * np.trace(np.linalg.inv(S)) * np.array([1, input_std**-2])
    measured = 4000 * squared_errors(system, 4000, 150, input_std=input_std)[:2]
    np.testing.assert_allclose(measured, predicted, rtol=0.1)


def test_the_closed_form_holds_with_an_input_matrix():
    """S^-1 is then that of the driven state, and T E|B - B*|^2 -> n m s_w^2 / s_u^2."""
    _, _, system = make_bilinear_system(
        1, input_matrix=True, random_state=0, return_system=True
    )
    s_u, s_w = 0.7, 0.5
    driven = BilinearSystem(system.A, system.B, noise_cov=s_w**2 * np.eye(5))
    S = driven.stationary_covariance(s_u**2)
    trace = 5 * s_w**2 * np.trace(np.linalg.inv(S))
    predicted = [trace, trace / s_u**2, 5 * 2 * s_w**2 / s_u**2]
    measured = 4000 * squared_errors(
        system, 4000, input_std=s_u, noise=s_w, input_matrix=True
    )
    np.testing.assert_allclose(measured, predicted, rtol=0.1)


def test_inputs_with_a_mean_make_the_first_matrix_harder(system):
    """A_0's error grows by 1 + |mean|^2 / variance, that of the others does not."""
    mean, s_u = np.array([0.6, -0.8]), 0.8
    S = BilinearSystem(system.A, noise_cov=np.eye(5)).stationary_covariance(
        s_u**2, mean
    )
    trace = 5 * np.trace(np.linalg.inv(S))
    predicted = [trace * (1 + mean @ mean / s_u**2), trace / s_u**2]
    measured = 4000 * squared_errors(system, 4000, 150, input_std=s_u, mean=mean)[:2]
    np.testing.assert_allclose(measured, predicted, rtol=0.1)


def test_larger_inputs_help_the_matrices_that_they_multiply(system):
    # prototype at T = 2000: .0402 .0092 .0034 .0013 for A_k, .0100 ... .0056 for A_0
    errors = np.array(
        [squared_errors(system, 2000, n_runs=20, input_std=s) for s in (0.5, 1, 1.5, 2)]
    )
    assert (np.diff(errors[:, 0]) < 0).all()
    assert (np.diff(errors[:, 1]) < 0).all()
    assert errors[0, 1] / errors[-1, 1] > 5 * errors[0, 0] / errors[-1, 0]


def test_from_zero_the_error_does_not_depend_on_the_noise_at_all(system):
    models = [
        identify(system, 500, 0, noise=noise, x0_std=0.0)
        for noise in (1e-3, 0.03, 0.3, 3.0)
    ]
    for model in models[1:]:
        np.testing.assert_allclose(model.coef_, models[0].coef_, atol=1e-13)


def test_from_elsewhere_little_noise_means_a_smaller_error_and_a_worse_condition(
    system,
):
    # prototype: .0044 and condition 76 at noise .001; .0091 and 1.53 from .3 on
    quiet, noisy = (
        np.mean(
            [
                (((model.A_ - system.A)[0] ** 2).sum(), model.condition_number_)
                for model in (
                    identify(system, 2000, seed, noise=noise) for seed in range(20)
                )
            ],
            axis=0,
        )
        for noise in (1e-3, 0.3)
    )
    assert quiet[0] < 0.75 * noisy[0]
    assert quiet[1] > 20
    assert noisy[1] < 2


def test_the_nearer_to_instability_the_smaller_the_error(system):
    # prototype: .0200 .0155 .0115 .0092 .0068 .0055 .0042 .0038
    radii = (0.3, 0.5, 0.7, 0.9, 0.95, 1.0, 1.02)
    errors = [squared_errors(scaled_to(system, r), 1000, n_runs=30)[0] for r in radii]
    assert (np.diff(errors) < 0).all()
    # beyond: the state grows, and the error falls at an exponential rate
    unstable = scaled_to(system, 1.5)
    medians = [
        np.median(
            [
                ((identify(unstable, T, seed).A_ - unstable.A) ** 2).sum()
                for seed in range(30)
            ]
        )
        for T in (50, 100, 200)
    ]
    assert medians[1] < medians[0] / 10
    assert medians[2] < medians[1] / 100


def test_a_marginally_stable_system_is_found_at_a_faster_rate():
    # an orthogonal A_0, no other matrix: prototype 3e-5 against 7.5e-3 for A_0 = 0
    A = np.zeros((2, 4, 4))
    A[0] = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    marginal = squared_errors(BilinearSystem(A), 2000, n_runs=20)[0]
    still = squared_errors(BilinearSystem(0 * A), 2000, n_runs=20)[0]
    assert marginal < still / 50


def test_the_error_grows_with_the_root_of_the_dimension():
    # prototype: .96 .90 1.04 .94 .86 .78, flat within 15 %
    constants = []
    for n, m in ((2, 1), (4, 1), (8, 1), (4, 2), (4, 4)):
        _, _, system = make_bilinear_system(1, n, m, random_state=1, return_system=True)
        system = scaled_to(system, 0.7)
        error = spectral_error(system, 4000, n_runs=15)
        constants.append(error / np.sqrt(n * (m + 1) / 4000))
    assert max(constants) / min(constants) < 1.5


def test_stronger_inputs_bring_the_system_nearer_to_instability(system):
    radii = [system.spectral_radius(s**2) for s in (0.5, 1.0, 1.5, 2.0)]
    assert (np.diff(radii) > 0).all()
    # second moments grow by the spectral radius, whatever the matrices themselves do
    rng = np.random.default_rng(0)
    strong = 1.2 * system.critical_input_level()
    U = strong * rng.standard_normal((20_000, 12, 2))
    runs = system.simulate(rng.standard_normal((20_000, 5)), U)
    growth = (runs[:, 1:] ** 2).sum(2).mean(0) / (runs[:, :-1] ** 2).sum(2).mean(0)
    assert np.abs(np.linalg.eigvals(system.A[0])).max() < 1
    assert np.mean(growth[4:8]) == pytest.approx(
        system.spectral_radius(strong**2), rel=0.1
    )


def test_intervals_hold_the_truth_as_often_as_they_say(system):
    # prototype: .9501
    inside, n_runs = 0, 400
    for seed in range(n_runs):
        low, high = identify(system, 500, seed).confidence_interval(0.95)
        truth = np.hstack(system.A)
        inside += ((low <= truth) & (truth <= high)).mean() / n_runs
    assert 0.94 <= inside <= 0.96


def test_the_bounds_hold_in_every_run(system):
    # prototype: error .208 in the mean, bounds .924 (dependent) and .429 (fixed)
    truth = np.hstack(system.A)
    for seed in range(200):
        model = identify(system, 500, seed)
        error = np.linalg.norm(model.coef_ - truth, 2)
        fixed = model.error_bound(0.05, design="fixed")
        dependent = model.error_bound(0.05)
        assert error < fixed < dependent < 1.5


def test_the_midpoint_has_errors_of_second_order_and_euler_of_first():
    # prototype at dt = .2 .1 .05 .025: Euler .289 ... .036, midpoint .0207 ... .0003
    errors = {"trapezoid": [], "euler": []}
    for dt in (0.2, 0.1, 0.05, 0.025):
        X, y, spin = make_bloch_spin(
            round(40 / dt), dt=dt, hold=1, random_state=0, return_system=True
        )
        for derivative, found in errors.items():
            model = BilinearSystemIdentifier(
                time="continuous", dt=dt, derivative=derivative, fit_intercept=True
            ).fit(X, y)
            found.append(np.linalg.norm(model.A_ - spin.A))
    steps = np.log([0.2, 0.1, 0.05, 0.025])
    orders = {k: np.polyfit(steps, np.log(e), 1)[0] for k, e in errors.items()}
    assert orders["trapezoid"] == pytest.approx(2, abs=0.2)
    assert orders["euler"] == pytest.approx(1, abs=0.2)


def test_noise_that_drives_the_state_biases_the_midpoint_and_not_euler():
    """x' = -x + noise: sums of (x+^2 - x^2) cancel along a stationary trajectory."""
    dt = 0.05
    truth = BilinearSystem([[[-1.0]]], noise_cov=[[dt]], dt=dt)
    states = truth.simulate([0.0], np.zeros((20_000, 0)), noise=True, random_state=0)
    options = {"time": "continuous", "dt": dt}
    with pytest.warns(UserWarning, match="derivative='euler'"):
        midpoint = BilinearSystemIdentifier(**options).fit_trajectories(states)
    assert abs(midpoint.A_[0, 0, 0]) < 0.05
    euler = BilinearSystemIdentifier(derivative="euler", **options)
    assert euler.fit_trajectories(states).A_[0, 0, 0] == pytest.approx(-1, abs=0.15)


def test_the_converter_runs_freely_where_a_linear_model_cannot():
    # measured: voltage .017 V against 1.53 V, of a standard deviation of 5.4 V
    from sklearn.linear_model import LinearRegression

    X, y = make_boost_converter(6000, random_state=0)
    train, test = slice(0, 4000), slice(4000, 6000)
    model = BilinearSystemIdentifier(fit_intercept=True).fit(X[train], y[train])
    free = model.simulate(X[4000, :2], X[test, 2:])[1:]
    linear = LinearRegression().fit(X[train], y[train])
    x, linear_run = X[4000, :2], []
    for u in X[test, 2:]:
        x = linear.predict(np.r_[x, u][None])[0]
        linear_run.append(x)
    errors = [((run - y[test]) ** 2).mean(0) ** 0.5 for run in (free, linear_run)]
    assert (20 * errors[0] < errors[1]).all()


def test_the_lift_is_bilinear_and_needs_the_input_matrix():
    # increments, prototype: linear .237, bilinear without B .647, with B .997
    X, y = make_koopman_lift(4000, random_state=0)
    increments = y - X[:, :3]
    scores = [
        BilinearSystemIdentifier(input_matrix=input_matrix)
        .fit(X[:2000], increments[:2000])
        .score(X[2000:], increments[2000:])
        for input_matrix in (False, True)
    ]
    assert scores[0] < 0.8
    assert scores[1] > 0.99
