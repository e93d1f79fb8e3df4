"""Tasks with steps, and a plant whose stages are measured, as arrays."""

import itertools

import numpy as np
import pytest
import torch

from sklearn_attn.datasets import _composed_tasks as plant
from sklearn_attn.datasets._composed_tasks import (
    make_composed_tasks,
    make_staged_process,
)
from sklearn_attn.in_context import LinearPrior
from sklearn_attn.in_context._composed_priors import DeepLinearPrior, MLPPrior

EXACT = 1e-12  # rounding errors of sums of six numbers of order 10


def least_squares_with_intercept(A, b, A_query):
    mean = A.mean(0)
    w = np.linalg.lstsq(np.c_[A - mean, np.ones(len(A))], b)[0]
    return np.c_[A_query - mean, np.ones(len(A_query))] @ w


def staged(X, steps, y, X_query):
    """Predict stage by stage, each quantity by least squares where it is positive."""
    inputs, state = X, X_query
    for step in steps.values():
        columns = [
            least_squares_with_intercept(inputs[s > 0], s[s > 0], state) for s in step.T
        ]
        inputs, state = step, np.maximum(0, np.stack(columns, 1))
    return least_squares_with_intercept(inputs, y, state)


# ---------------------------------------------------------------------- random networks


@pytest.mark.parametrize("sizes", [(10,), (3, 7), (2, 3, 4)])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sin"])
def test_every_layer_gives_a_step_of_its_width(sizes, activation):
    X, steps, y = make_composed_tasks(
        4, 7, 6, hidden_layer_sizes=sizes, activation=activation, random_state=0
    )
    assert (X.shape, y.shape) == ((4, 7, 6), (4, 7))
    assert [step.shape for step in steps] == [(4, 7, k) for k in sizes]
    for array in (X, *steps, y):
        assert array.dtype == np.float64
        assert np.isfinite(array).all()


def test_each_step_follows_from_the_one_before():
    X, (s1, s2), y = make_composed_tasks(
        5, 90, 3, hidden_layer_sizes=(4, 3), random_state=0
    )
    for task in range(5):
        for inputs, step in ((X, s1), (s1, s2)):
            for target in step[task].T:
                rows = target > 0
                w = np.linalg.lstsq(inputs[task, rows], target[rows])[0]
                # where few rows are active, they need not tell the weights
                if np.linalg.matrix_rank(inputs[task, rows]) == len(w):
                    again = np.maximum(inputs[task] @ w, 0)
                    # single precision, times a condition number of some hundreds
                    np.testing.assert_allclose(again, target, atol=1e-3)
        w = np.linalg.lstsq(s2[task], y[task])[0]
        np.testing.assert_allclose(s2[task] @ w, y[task], atol=1e-5)


def test_relu_tasks_without_biases_have_targets_of_mean_square_1():
    _, _, y = make_composed_tasks(2000, random_state=0)
    means = np.square(y).mean(1)
    # 4 standard errors
    assert means.mean() == pytest.approx(1, abs=4 * means.std() / 2000**0.5)


def test_noise_is_as_large_as_asked_for_and_biases_spread_the_steps():
    one = {"n_features": 1, "hidden_layer_sizes": (1,), "random_state": 0}
    _, steps, y = make_composed_tasks(20, 900, noise=2.0, **one)
    _, same_steps, clean = make_composed_tasks(20, 900, **one)
    np.testing.assert_array_equal(steps[0], same_steps[0])
    # the standard deviation of 18 000 draws is 0.5 % off
    assert (y - clean).std() == pytest.approx(2.0, rel=0.03)

    # a bias of 3 beside a feature of 1: more than three times the spread
    _, (shifted,), _ = make_composed_tasks(2000, 1, bias=3.0, **one)
    _, (centred,), _ = make_composed_tasks(2000, 1, **one)
    assert shifted.std() > 2 * centred.std()


def test_an_object_is_a_prior_with_settings_of_its_own():
    by_object = make_composed_tasks(prior=MLPPrior((4,), bias=0.3), random_state=3)
    by_settings = make_composed_tasks(hidden_layer_sizes=(4,), bias=0.3, random_state=3)
    np.testing.assert_array_equal(by_object[2], by_settings[2])

    _, steps, y = make_composed_tasks(3, 8, prior=DeepLinearPrior(3), random_state=0)
    assert [step.shape for step in steps] == [(3, 8, 5), (3, 8, 5)]
    assert y.shape == (3, 8, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_tasks": 0}, "n_tasks must be"),
        ({"n_examples": 2.5}, "n_examples must be"),
        ({"n_features": 0}, "n_features must be"),
        ({"noise": -1.0}, "noise must be"),
        ({"bias": -1.0}, "bias must be"),
        ({"hidden_layer_sizes": ()}, "hidden_layer_sizes must be"),
        ({"activation": "cubic"}, "activation must be"),
        ({"prior": LinearPrior()}, "must have a method `sample_steps`"),
        ({"prior": "mlp"}, "must have a method `sample_steps`"),
        ({"prior": MLPPrior(), "noise": 0.1}, "leave out noise"),
        ({"prior": MLPPrior(), "hidden_layer_sizes": (3,)}, "leave out hidden"),
        ({"prior": DeepLinearPrior(), "n_features": 4}, "5 features; not 4"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_composed_tasks(**settings)


@pytest.mark.parametrize("make", [make_composed_tasks, make_staged_process])
def test_a_seed_determines_all_and_the_default_generator_is_left_alone(make):
    def flat(drawn):
        X, steps, y = drawn
        steps = steps.values() if isinstance(steps, dict) else steps
        return np.concatenate([np.ravel(array) for array in (X, *steps, y)])

    before = torch.random.get_rng_state()
    first, second, other = (flat(make(random_state=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------------------- the plant


def test_stages_obey_their_equations_without_noise():
    p, steps, y = make_staged_process(200, noise=0.0, random_state=0)
    q, o = steps["flows"], steps["overflows"]
    for i, (shares, c, G) in enumerate(
        zip(plant.PRESSURE_SHARES, plant.OPENING_PRESSURES, plant.CONDUCTANCES)
    ):
        expected = [max(0.0, G * (shares @ row - c)) for row in p]
        np.testing.assert_allclose(q[:, i], expected, rtol=0, atol=EXACT)
    for k, (shares, m) in enumerate(zip(plant.FLOW_SHARES, plant.WITHDRAWALS)):
        expected = [max(0.0, shares @ row - m) for row in q]
        np.testing.assert_allclose(o[:, k], expected, rtol=0, atol=EXACT)
    # the alkalinity of all that makes up the product, water included
    loads = o @ plant.CONCENTRATIONS
    loads += plant.WATER_CONCENTRATION * (plant.PRODUCT_FLOW - o.sum(1))
    np.testing.assert_allclose(y, loads / plant.PRODUCT_FLOW, rtol=0, atol=EXACT)


def test_a_stage_depends_on_nothing_before_the_one_before():
    X, steps, y = make_staged_process(400, noise=0.0, random_state=0)
    q, o = steps["flows"], steps["overflows"]
    half = np.arange(400) < 200
    for target in o.T:
        fit, held_out = half & (target > 0), ~half & (target > 0)
        again = least_squares_with_intercept(q[fit], target[fit], q[held_out])
        np.testing.assert_allclose(again, target[held_out], rtol=0, atol=10 * EXACT)
    again = least_squares_with_intercept(o[half], y[half], o[~half])
    np.testing.assert_allclose(again, y[~half], rtol=0, atol=10 * EXACT)
    # and settings do not say the same: a line through them leaves most of it open
    again = least_squares_with_intercept(X[half], y[half], X[~half])
    assert np.square(again - y[~half]).mean() > 0.5 * y.var()


def test_the_plant_conserves_water():
    # lines give away no more than they have
    assert (plant.FLOW_SHARES.clip(min=0).sum(0) <= 1 + EXACT).all()
    # pressures across lines are differences of means, or means
    upstream = plant.PRESSURE_SHARES.clip(min=0).sum(1)
    downstream = -plant.PRESSURE_SHARES.clip(max=0).sum(1)
    np.testing.assert_allclose(upstream, 1)
    np.testing.assert_allclose(downstream, [1, 1, 1, 1, 0, 0])
    # and the product holds all overflows, even at the corners of the range
    corners = np.array(list(itertools.product(plant.PRESSURE_RANGE, repeat=6)))
    _, overflows, _ = plant._run(corners)
    assert overflows.sum(1).max() < plant.PRODUCT_FLOW


def test_every_valve_and_weir_is_open_in_a_third_to_two_thirds_of_settings():
    _, steps, _ = make_staged_process(5000, noise=0.0, random_state=0)
    for step in steps.values():
        share = (step > 0).mean(0)
        assert 1 / 3 < share.min() <= share.max() < 2 / 3


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_meters_are_as_noisy_as_asked_for_and_read_0_where_nothing_flows(noise):
    n = 20_000
    X, noisy, y = make_staged_process(n, noise=noise, random_state=0)
    X_clean, clean, y_clean = make_staged_process(n, noise=0.0, random_state=0)
    np.testing.assert_array_equal(X, X_clean)
    # spreads are those of 10 000 settings, within 2 %; and so are the n differences
    assert (y - y_clean).std() == pytest.approx(noise * y_clean.std(), rel=0.05)
    for name, true in clean.items():
        spread = noise * true.std(0)
        well_open = true > 11 * spread  # five deviations above the cutoff
        for reading, flow, rows, sigma in zip(
            noisy[name].T, true.T, well_open.T, spread, strict=True
        ):
            error = (reading - flow)[rows]
            assert error.std() == pytest.approx(sigma, rel=0.05)
            assert (reading[flow == 0] == 0).all()
            assert (reading >= 0).all()


def test_a_chain_of_stages_needs_few_samples():
    X_query, _, y_query = make_staged_process(1000, noise=0.0, random_state=1000)
    errors = []
    for seed in range(5):
        X, steps, y = make_staged_process(80, random_state=seed)
        errors.append(np.square(staged(X, steps, y, X_query) - y_query).mean())
    # noise of 1 % is 1e-4 of a variance, and 7 weights from 30 rows cost a third of it
    assert max(errors) < 1e-3 * y_query.var()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_samples": 0}, "n_samples must be"),
        ({"n_samples": 9.5}, "n_samples must be"),
        ({"noise": -0.1}, "noise must be"),
        ({"noise": np.nan}, "noise must be"),
        ({"noise": "low"}, "noise must be"),
    ],
)
def test_a_process_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_staged_process(**settings)
