"""Laws and edges of BilinearSystem and of the operator that moves second moments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from sklearn_attn.datasets import make_bloch_spin, make_koopman_lift
from sklearn_attn.dynamics import AugmentedOperator, BilinearSystem


def random_system(n=3, m=2, *, radius=0.6, coupling=0.3, seed=0, **fields):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m + 1, n, n))
    A *= (np.r_[radius, np.full(m, coupling)] / radii(A))[:, None, None]
    fields = {"B": rng.standard_normal((n, m))} | fields
    return BilinearSystem(A, **fields)


def radii(A):
    return np.abs(np.linalg.eigvals(A)).max(axis=1)


def test_a_step_is_the_equation():
    system = random_system(intercept=[1.0, 2.0, 3.0])
    rng = np.random.default_rng(1)
    x, u, w = rng.standard_normal(3), rng.standard_normal(2), rng.standard_normal(3)
    A, B = system.A, system.B
    expected = (A[0] + u[0] * A[1] + u[1] * A[2]) @ x + B @ u + [1, 2, 3] + w
    np.testing.assert_allclose(system.step(x, u, w), expected, rtol=1e-14)
    lifted = np.hstack(A) @ system.features(x, u) + B @ u + [1, 2, 3]
    np.testing.assert_allclose(system.step(x, u), lifted, rtol=1e-14)


@pytest.mark.parametrize("dt", [None, 0.1])
def test_many_runs_at_once_are_the_runs_one_by_one(dt):
    system = random_system(dt=dt, noise_cov=0.1 * np.eye(3))
    rng = np.random.default_rng(2)
    x0, U = rng.standard_normal((4, 3)), rng.standard_normal((4, 7, 2))
    W = rng.standard_normal((4, 7, 3))
    runs = system.simulate(x0, U, W)
    assert runs.shape == (4, 8, 3)
    for i, run in enumerate(runs):
        np.testing.assert_allclose(run, system.simulate(x0[i], U[i], W[i]), rtol=1e-13)
        x = x0[i]
        for t in range(7):
            x = system.step(x, U[i, t], W[i, t])
            np.testing.assert_allclose(run[t + 1], x, rtol=1e-12)
    same_inputs = system.simulate(x0, U[0])
    np.testing.assert_allclose(same_inputs[2], system.simulate(x0[2], U[0]), rtol=1e-13)
    same_state = system.simulate(x0[0], U)
    np.testing.assert_allclose(same_state[3], system.simulate(x0[0], U[3]), rtol=1e-13)
    same_noise = system.simulate(x0, U, W[0])
    expected = system.simulate(x0[3], U[3], W[0])
    np.testing.assert_allclose(same_noise[3], expected, rtol=1e-13)


def test_long_runs_are_cut_into_chunks_without_a_seam(monkeypatch):
    system = random_system()
    U = np.random.default_rng(0).standard_normal((50, 2))
    whole = system.simulate(np.ones(3), U)
    monkeypatch.setattr("sklearn_attn.dynamics._bilinear_system.CHUNK", 7 * 16)
    np.testing.assert_allclose(system.simulate(np.ones(3), U), whole, atol=1e-14)


def test_noise_has_the_covariance_that_was_asked_for():
    cov = np.array([[2.0, 0.9], [0.9, 0.5]])
    system = BilinearSystem(np.zeros((1, 2, 2)), noise_cov=cov)
    states = system.simulate(np.zeros(2), np.zeros((20_000, 0)), noise=True)
    # standard errors of 20,000 draws are below 0.02
    np.testing.assert_allclose(np.cov(states[1:].T), cov, atol=0.08)
    a, b = (
        system.simulate(np.zeros(2), np.zeros((5, 0)), noise=True, random_state=3)
        for _ in range(2)
    )
    np.testing.assert_array_equal(a, b)


def test_continuous_time_is_exact_while_inputs_are_held():
    system = random_system(dt=0.4, intercept=[0.1, -0.2, 0.3])
    U = np.random.default_rng(3).standard_normal((5, 2))
    states = system.simulate(np.ones(3), U)
    x = np.ones(3)
    for t, u in enumerate(U):
        A, B = system.frozen_system(u)
        flow = solve_ivp(
            lambda _, x, A=A, b=B @ u: A @ x + b + system.intercept,
            (0, 0.4),
            x,
            rtol=1e-11,
            atol=1e-12,
        )
        x = flow.y[:, -1]
        np.testing.assert_allclose(states[t + 1], x, rtol=1e-8)


@given(seed=st.integers(0, 1000), split=st.floats(0.1, 0.9))
@settings(derandomize=True, max_examples=20, deadline=None)
def test_the_flow_of_held_inputs_composes(seed, split):
    A = random_system(seed=seed).A
    u, x = np.random.default_rng(seed).standard_normal((2, 2)), np.ones(3)
    whole = BilinearSystem(A, dt=0.5).step(x, u[0])
    first = BilinearSystem(A, dt=0.5 * split).step(x, u[0])
    both = BilinearSystem(A, dt=0.5 * (1 - split)).step(first, u[0])
    np.testing.assert_allclose(both, whole, rtol=1e-12)


def test_the_overflow_of_a_state_names_its_step():
    system = BilinearSystem([[[1e100]], [[0.0]]])
    with pytest.raises(ValueError, match="overflows at step 4 of 9"):
        system.simulate([1.0], np.zeros((9, 1)))
    with pytest.raises(ValueError, match="overflows at step 4 of 9"):
        system.simulate([[0.0], [1.0]], np.zeros((9, 1)))


def test_the_augmented_operator_is_the_sum_of_kronecker_products():
    system = random_system()
    A = system.A
    mean, cov = np.array([0.5, -1.0]), np.array([[1.0, 0.3], [0.3, 0.7]])
    M = np.block([[np.ones((1, 1)), mean[None]], [mean[:, None], cov]])
    M[1:, 1:] += np.outer(mean, mean)
    expected = sum(M[j, k] * np.kron(A[j], A[k]) for j in range(3) for k in range(3))
    operator = system.augmented_operator(cov, mean)
    np.testing.assert_allclose(operator.matrix(), expected, atol=1e-12)
    S = np.random.default_rng(0).standard_normal((3, 3))
    np.testing.assert_allclose(operator(S).ravel(), expected @ S.ravel(), atol=1e-12)
    values = np.linalg.eigvals(expected)
    assert operator.spectral_radius() == pytest.approx(np.abs(values).max(), rel=1e-9)
    found = np.sort_complex(operator.eigenvalues())
    np.testing.assert_allclose(found, np.sort_complex(values), atol=1e-9)


def test_without_the_matrix_the_radius_and_the_fixed_point_are_the_same(monkeypatch):
    system = random_system(n=8, m=3)
    operator = system.augmented_operator(0.5)
    radius, leading = operator.spectral_radius(), operator.eigenvalues()
    fixed = system.stationary_covariance(0.5)
    monkeypatch.setattr("sklearn_attn.dynamics._second_moment.DENSE", 2)
    assert operator.spectral_radius() == pytest.approx(radius, rel=1e-10)
    few = operator.eigenvalues()
    assert 1 <= len(few) < 64
    assert np.abs(few[0]) == pytest.approx(np.abs(leading[0]), rel=1e-10)
    np.testing.assert_allclose(
        system.stationary_covariance(0.5), fixed, atol=1e-10 * np.abs(fixed).max()
    )


@pytest.mark.parametrize(
    ("factors", "radius"),
    [
        (np.zeros((1, 30, 30)), 0.0),
        (
            0.9 * np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0][None],
            0.81,
        ),
        (np.eye(30)[None], 1.0),
        (np.diag([0.5] * 29 + [2.0])[None], 4.0),
    ],
    ids=["zero", "orthogonal", "identity", "diagonal"],
)
def test_large_operators_with_many_equal_eigenvalues(factors, radius):
    assert AugmentedOperator(factors).spectral_radius() == pytest.approx(radius)
    assert np.abs(AugmentedOperator(factors).eigenvalues()[0]) == pytest.approx(radius)


def test_the_power_iteration_stands_in_for_arnoldi(monkeypatch):
    operator = random_system(n=5).augmented_operator()
    radius = operator.spectral_radius()
    assert operator._power_iteration() == pytest.approx(radius, rel=1e-9)
    assert AugmentedOperator(np.zeros((1, 2, 2)))._power_iteration() == 0


@pytest.mark.parametrize("dt", [None, 0.1])
@pytest.mark.parametrize("n", [3, 25])
def test_the_units_of_inputs_and_states_do_not_matter(dt, n):
    system = random_system(n=n, dt=dt, noise_cov=np.eye(n))
    if dt is not None:
        A = system.A - 3 * np.eye(n) * np.array([1, 0, 0])[:, None, None]
        system = BilinearSystem(A, system.B, noise_cov=np.eye(n), dt=dt)
    cov, mean = np.array([[1.0, 0.4], [0.4, 0.5]]), np.array([0.1, 0.2])
    state = np.where(np.arange(n) % 2, 1e9, 1e-6)
    unit = np.array([1e8, 1e-7])
    A = system.A * np.r_[1, 1 / unit][:, None, None] * state[:, None] / state
    scaled = BilinearSystem(
        A,
        system.B * state[:, None] / unit,
        noise_cov=system.noise_cov * np.outer(state, state),
        dt=dt,
    )
    moments = cov * np.outer(unit, unit), mean * unit
    radius = system.spectral_radius(cov, mean)
    assert scaled.spectral_radius(*moments) == pytest.approx(radius, rel=1e-7)
    S = scaled.stationary_covariance(*moments) / np.outer(state, state)
    expected = system.stationary_covariance(cov, mean)
    np.testing.assert_allclose(S, expected, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("dt", [None, 0.2])
@pytest.mark.parametrize("mean", [[0.0, 0.0], [0.3, -0.5]])
def test_states_settle_to_the_stationary_covariance(dt, mean):
    fields = {"noise_cov": 0.2 * np.eye(3), "intercept": [0.5, 0.0, -0.5]}
    system = random_system(dt=dt, **fields)
    if dt is not None:  # a stable system in continuous time
        A = system.A.copy()
        A[0] -= 2 * np.eye(3)
        system = BilinearSystem(A, system.B, dt=dt, **fields)
    cov = np.array([[0.5, 0.2], [0.2, 0.4]])
    rng = np.random.default_rng(4)
    U = rng.multivariate_normal(mean, cov, size=(2000, 400))
    states = system.simulate(np.zeros((2000, 3)), U, noise=True, random_state=5)
    measured = np.cov(states[:, 40:].reshape(-1, 3).T)
    expected = system.stationary_covariance(cov, mean)
    # 2000 runs of 360 correlated states: errors of about a percent
    np.testing.assert_allclose(measured, expected, atol=0.03 * np.trace(expected))


def test_the_gramian_is_the_fixed_point_of_the_inputs_alone():
    system = random_system(noise_cov=np.eye(3), intercept=np.ones(3))
    P = system.reachability_gramian()
    A, B = system.A, system.B
    np.testing.assert_allclose(
        P, sum(Aj @ P @ Aj.T for Aj in A) + B @ B.T, atol=1e-12 * np.trace(P)
    )
    quarter = system.reachability_gramian(0.25)
    drive = A[0] @ quarter @ A[0].T + 0.25 * B @ B.T
    drive += 0.25 * sum(Aj @ quarter @ Aj.T for Aj in A[1:])
    np.testing.assert_allclose(quarter, drive, atol=1e-12 * np.trace(P))


def test_the_critical_level_is_where_the_radius_is_one():
    system = random_system()
    level = system.critical_input_level()
    assert system.spectral_radius(level**2) == pytest.approx(1, rel=1e-8)
    mean = [0.2, 0.1]
    level = system.critical_input_level(0.5, mean)
    assert system.spectral_radius(0.5 * level**2, mean) == pytest.approx(1, rel=1e-8)
    assert BilinearSystem([[[0.5]], [[0.0]]]).critical_input_level() == np.inf
    assert BilinearSystem([[[1.5]], [[1.0]]]).critical_input_level() == 0


def test_stability_gathers_the_parts():
    system = random_system(noise_cov=np.eye(3))
    found = system.stability(0.5)
    assert found.spectral_radius == system.spectral_radius(0.5)
    assert found.is_mean_square_stable is True
    assert system.is_mean_square_stable(0.5)
    np.testing.assert_array_equal(
        found.stationary_covariance, system.stationary_covariance(0.5)
    )
    assert found.critical_input_level == system.critical_input_level(0.5)
    unstable = random_system(radius=1.2).stability()
    assert not unstable.is_mean_square_stable
    assert np.isnan(unstable.stationary_covariance).all()


def test_an_unstable_system_has_no_stationary_covariance():
    with pytest.raises(ValueError, match=r"not mean-square stable.*1\.44"):
        BilinearSystem([[[1.2]]]).stationary_covariance()
    with pytest.raises(ValueError, match="not mean-square stable"):
        random_system(radius=1.2).reachability_gramian()


def test_in_continuous_time_a_second_moment_grows_by_the_expected_step():
    """E exp(2 dt (a + c u)) = exp(2 dt a + 2 dt^2 c^2 s^2), with u ~ N(0, s^2)."""
    a, c, s, dt = -0.4, 0.8, 0.7, 0.3
    system = BilinearSystem([[[a]], [[c]]], dt=dt)
    expected = np.exp(2 * dt * a + 2 * (dt * c * s) ** 2)
    assert system.spectral_radius(s**2) == pytest.approx(expected, rel=1e-12)
    shifted = np.exp(2 * dt * (a + c * 0.5)) * np.exp(2 * (dt * c * s) ** 2)
    assert system.spectral_radius(s**2, [0.5]) == pytest.approx(shifted, rel=1e-12)
    assert system.spectral_radius(0.0) == pytest.approx(np.exp(2 * dt * a), rel=1e-12)


def test_a_mean_does_not_hide_the_spread():
    for c in (1e4, 1e8):
        system = BilinearSystem([[[0.5 - 0.4 * c]], [[0.4]]], noise_cov=[[1.0]])
        # E A(u)^2 = .5^2 + .4^2 s^2
        assert system.spectral_radius(1.0, [c]) == pytest.approx(0.41, rel=1e-6)
        S = system.stationary_covariance(1.0, [c])
        assert S[0, 0] == pytest.approx(1 / 0.59, rel=1e-6)
    far = BilinearSystem([[[0.5]]], intercept=[1e8], noise_cov=[[0.75]])
    assert far.stationary_covariance()[0, 0] == pytest.approx(1)
    slow = BilinearSystem([[[1 - 1e-6]]], intercept=[1e3], noise_cov=[[1.0]])
    expected = 1 / (1 - (1 - 1e-6) ** 2)
    assert slow.stationary_covariance()[0, 0] == pytest.approx(expected, rel=1e-6)


def test_cascades_are_found_state_by_state():
    n = 40
    for below in (0.7, 3.0):
        A = np.array([0.3 * np.eye(n) + below * np.eye(n, k=-1), 0.1 * np.eye(n)])
        system = BilinearSystem(A)
        for level in (4.0, 9.0):
            expected = 0.3**2 + (0.1 * level) ** 2
            assert system.spectral_radius(level**2) == pytest.approx(expected)
        assert system.critical_input_level() == pytest.approx(np.sqrt(1 - 0.09) / 0.1)
    shift = AugmentedOperator(np.eye(25, k=1)[None])
    assert shift.spectral_radius() == 0


@pytest.mark.parametrize("a", [1e-13, 1e-3, 1e9, 1e13])
def test_the_critical_level_is_found_at_any_scale(a):
    level = BilinearSystem([[[0.6]], [[a]]]).critical_input_level()
    assert level * a == pytest.approx(0.8, rel=1e-8)


def test_large_systems_settle_near_the_limit():
    for n, radius in ((25, 0.999), (50, 0.998)):
        rng = np.random.default_rng(0)
        A = rng.standard_normal((3, n, n))
        A *= np.sqrt(radius / AugmentedOperator(A).spectral_radius())
        system = BilinearSystem(A, noise_cov=np.eye(n))
        S = system.stationary_covariance()
        residual = S - system.augmented_operator()(S) - np.eye(n)
        assert np.linalg.norm(residual) < 1e-11 * np.linalg.norm(S)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 3.0])
def test_the_expectation_over_inputs_is_known_or_said_not_to_be(strength):
    """dt c s = strength: at 3, second moments live on inputs 6 deviations away."""
    dt = 0.5
    c = strength / dt
    a = -dt * c**2  # so that the radius is 1
    system = BilinearSystem([[[a]], [[c]]], dt=dt)
    assert system.spectral_radius() == pytest.approx(1, rel=1e-5)
    assert system.critical_input_level() == pytest.approx(1, rel=1e-5)
    wild = BilinearSystem([[[0.0]], [[12 / dt]]], dt=dt)
    with pytest.warns(UserWarning, match="vary so much within a step"):
        wild.spectral_radius()


@pytest.mark.parametrize("make", [make_bloch_spin, make_koopman_lift])
def test_in_continuous_time_no_level_is_made_up_from_rounding(make, recwarn):
    """Fields turn a spin, and the lift is a cascade: no input destabilises either."""
    _, _, system = make(5, return_system=True, random_state=0)
    assert system.critical_input_level() == np.inf
    assert system.critical_input_level(100.0) == np.inf
    too_long = BilinearSystem([[[-1.0]], [[1.0]]], dt=1e15)
    assert np.isnan(too_long.critical_input_level())
    assert not recwarn.list


@pytest.mark.parametrize("r", [6, 9])
def test_in_many_dimensions_pairs_of_points_are_close_or_warn(r):
    dt = 0.1
    system = BilinearSystem(np.r_[-1.0, np.ones(r)][:, None, None], dt=dt)
    for std, tolerance in ((0.2, 1e-5), (0.5, 1e-2)):
        expected = np.exp(-2 * dt + 2 * r * (dt * std) ** 2)
        radius = system.spectral_radius(std**2)
        assert radius == pytest.approx(expected, rel=tolerance)
    with pytest.warns(UserWarning, match="vary so much within a step"):
        system.spectral_radius(100.0)


def test_small_inputs_are_exact_to_fourth_order_in_many_dimensions():
    m, dt, s = 9, 0.05, 0.5
    c = np.linspace(-1, 1, m)
    system = BilinearSystem(np.r_[-0.4, c][:, None, None], dt=dt)
    expected = np.exp(2 * dt * -0.4 + 2 * dt**2 * s**2 * c @ c)
    assert system.spectral_radius(s**2) == pytest.approx(expected, rel=1e-4)


def test_the_frozen_system_is_linear_in_the_input():
    system = random_system()
    A, B = system.frozen_system([2.0, -1.0])
    np.testing.assert_allclose(A, system.A[0] + 2 * system.A[1] - system.A[2])
    np.testing.assert_array_equal(B, system.B)


def test_without_inputs_the_system_is_linear():
    system = BilinearSystem([[[0.5, 0.1], [0.0, 0.4]]], noise_cov=np.eye(2), dt=0.1)
    states = system.simulate([1.0, 1.0], np.zeros((3, 0)))
    expected = [expm(0.1 * k * system.A[0]) @ [1, 1] for k in range(4)]
    np.testing.assert_allclose(states, expected, rtol=1e-12)
    assert BilinearSystem([[[0.5]]]).spectral_radius() == pytest.approx(0.25)
    assert BilinearSystem([[[0.5]]]).critical_input_level() == np.inf


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"A": np.zeros((2, 2))}, r"\(n_inputs \+ 1, n_states, n_states\)"),
        (
            {"A": np.zeros((2, 3, 3)), "B": np.zeros((3, 2))},
            r"B must have shape \(3, 1\)",
        ),
        ({"A": np.zeros((2, 3, 3)), "intercept": [0.0]}, "intercept must have shape"),
        ({"A": np.zeros((2, 3, 3)), "noise_cov": [0.0]}, "noise_cov must have shape"),
        ({"A": np.zeros((2, 3, 3)), "dt": 0.0}, "dt must be positive"),
        ({"A": np.full((2, 3, 3), np.nan)}, "A must be finite"),
        ({"A": np.zeros((1, 1, 1)), "noise_cov": [[-1.0]]}, "noise_cov must be symm"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BilinearSystem(**fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x0": np.zeros(2), "U": np.zeros((4, 2))}, "x0 must have shape"),
        ({"x0": np.zeros(3), "U": np.zeros((4, 1))}, "U must have shape"),
        ({"x0": np.zeros(3), "U": np.zeros(4)}, "U must have shape"),
        (
            {"x0": np.zeros((2, 3)), "U": np.zeros((3, 4, 2))},
            "numbers of runs: 2 and 3",
        ),
        ({"x0": [np.nan] * 3, "U": np.zeros((4, 2))}, "finite"),
        ({"x0": np.zeros(3), "U": np.zeros((4, 2)), "W": np.zeros((3, 3))}, "W must"),
        (
            {
                "x0": np.zeros(3),
                "U": np.zeros((4, 2)),
                "W": np.zeros((4, 3)),
                "noise": True,
            },
            "not both",
        ),
    ],
)
def test_runs_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_system().simulate(**arguments)


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        ({"input_cov": np.eye(3)}, "input_cov must be a number or have shape"),
        ({"input_cov": [1.0, -1.0]}, "positive semidefinite"),
        ({"input_cov": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric"),
        ({"input_cov": np.nan}, "finite"),
        ({"input_mean": [0.0]}, r"input_mean must have shape \(2,\)"),
    ],
)
def test_input_moments_that_are_none_are_refused(moments, message):
    with pytest.raises(ValueError, match=message):
        random_system().spectral_radius(**moments)
    with pytest.raises(ValueError, match="u must have shape"):
        random_system().frozen_system([1.0])
    with pytest.raises(ValueError, match=r"u must have shape \(..., 2\)"):
        random_system().step(np.zeros(3), [1.0])
    with pytest.raises(ValueError, match=r"x must have shape \(..., 3\)"):
        random_system().features(np.zeros(2), np.zeros(2))
