"""Errors of chains by steps, against what is known of them (2305.18869)."""

from functools import partial

import numpy as np
import pytest
import torch

from sklearn_attn.in_context import (
    DeepLinearPrior,
    LinearPrior,
    MLPPrior,
    PretrainedICL,
    StepRiskCurve,
    filtered_chain,
    filtered_least_squares,
    step_risk_curve,
)
from sklearn_attn.in_context._weights import build

D, K = 4, 3
PRIOR = MLPPrior((K,), bias=0.0)
DEEP = MLPPrior((K, 5), bias=0.0)
LENGTHS = [2, 6, 24]


def zero(X, steps, y, X_query, given=None):
    shape = (len(X), X_query.shape[1])
    return [*(s.new_zeros(*shape, s.shape[2]) for s in steps), y.new_zeros(shape)]


def measure(algorithm=filtered_least_squares, prior=PRIOR, lengths=LENGTHS, **settings):
    settings = {"n_features": D, "n_tasks": 40, "random_state": 0} | settings
    return step_risk_curve(algorithm, prior, lengths, **settings)


def untrained(form, **config):
    config = {"form": form, "n_features": D, "width": 8, "n_layers": 1} | config
    state = build(config, seed=0).state_dict()
    return PretrainedICL(config, {name: a.numpy() for name, a in state.items()})


@pytest.fixture(scope="module")
def chain_weights():
    return untrained("chain", step_width=K, depth=2, n_outputs=1)


@pytest.fixture(scope="module")
def table_weights():
    return untrained("set")


def test_the_answer_zero_has_an_error_of_one_at_every_step():
    curve = measure(zero, DEEP)
    np.testing.assert_allclose(curve.chained, 1)
    np.testing.assert_allclose(curve.alone, 1)
    np.testing.assert_allclose(curve.composed, 3)


def test_invertible_steps_are_right_from_as_many_examples_as_inputs_on():
    prior = MLPPrior((D,), activation="leaky_relu", bias=0.0)
    leaky = partial(filtered_least_squares, activation="leaky_relu")
    curve = measure(leaky, prior, [1, 2, D, D + 2])
    assert (curve.risk[:2] > 0.1).all()
    # tasks are drawn in single precision, which is 1e-7 times a condition number
    assert (curve.risk[2:] < 1e-4).all()


def test_a_single_linear_step_leaves_the_share_of_directions_not_seen():
    prior = DeepLinearPrior(1, None, n_features=D)
    linear = partial(filtered_least_squares, activation="linear")
    lengths = [1, 2, 3, D]
    curve = measure(linear, prior, lengths, n_tasks=1000)
    expected = 1 - np.array(lengths) / D  # equation: of normal inputs, 1 - n / d
    # the band is 5 % to 95 %; its width is some 3.3 standard errors
    width = curve.high - curve.low
    assert (np.abs(curve.risk - expected) <= width + 1e-6).all()
    np.testing.assert_array_equal(curve.composed, curve.risk)


@pytest.mark.parametrize("prior", [PRIOR, DEEP])
def test_shapes_are_those_of_steps_and_lengths(prior):
    curve = measure(prior=prior)
    n_steps = len(prior.hidden_layer_sizes) + 1
    assert isinstance(curve, StepRiskCurve)
    assert curve.n_examples.tolist() == LENGTHS
    assert curve.chained.shape == curve.alone.shape == (n_steps, len(LENGTHS))
    assert curve.composed.shape == curve.risk.shape == (len(LENGTHS),)
    assert curve.n_tasks == 40


def test_the_first_step_is_alone_in_the_chain_and_y_is_the_last():
    curve = measure(prior=DEEP)
    np.testing.assert_array_equal(curve.alone[0], curve.chained[0])
    assert (curve.alone[1:, 0] != curve.chained[1:, 0]).all()
    np.testing.assert_array_equal(curve.risk, curve.chained[-1])
    np.testing.assert_array_equal(curve.composed, curve.alone.sum(0))


def test_steps_of_multiple_outputs_are_measured():
    prior = DeepLinearPrior(3, n_features=D)
    linear = partial(filtered_least_squares, activation="linear")
    curve = measure(linear, prior, [1, D + 1])
    assert curve.chained.shape == (3, 2)
    assert curve.risk[0] > 0.3
    assert curve.risk[1] < 1e-6


def test_bands_hold_the_risk_and_shrink_as_tasks_grow():
    few, many = (measure(lengths=[5, 7], n_tasks=n) for n in (50, 800))
    for curve in (few, many):
        assert ((curve.low < curve.risk) & (curve.risk < curve.high)).all()
    ratio = (few.high - few.low) / (many.high - many.low)
    assert 2.5 < np.median(ratio) < 6.5  # sqrt(16) = 4


def test_the_same_seed_gives_every_algorithm_the_same_tasks():
    seen = []

    def record(X, steps, y, X_query, given=None):
        seen.append((X.clone(), *(s.clone() for s in steps), y.clone(), X_query))
        return zero(X, steps, y, X_query)

    first, second = measure(record), measure(record)
    np.testing.assert_array_equal(first.risk, second.risk)
    np.testing.assert_array_equal(first.low, second.low)
    half = len(seen) // 2
    for a, b in zip(seen[:half], seen[half:]):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    assert not np.array_equal(measure(random_state=1).risk, measure().risk)


def test_examples_are_prefixes_and_queries_are_the_same_for_all():
    seen = []

    def record(X, steps, y, X_query, given=None):
        seen.append((X, *steps, y, X_query))
        return zero(X, steps, y, X_query)

    measure(record)
    *longest, queries = seen[-1]
    for (*examples, X_query), n in zip(seen[::2], LENGTHS):
        assert torch.equal(X_query, queries)
        for state, whole in zip(examples, longest):
            assert torch.equal(state, whole[:, :n])


def test_alone_a_step_is_given_the_true_one_before_it():
    seen = []

    def record(X, steps, y, X_query, given=None):
        seen.append(given)
        return zero(X, steps, y, X_query)

    measure(record, DEEP)
    chained, forced = seen[::2], seen[1::2]
    assert chained == [None] * len(LENGTHS)
    for given in forced:
        assert [(i, s.shape) for i, s in given.items()] == [
            (0, (40, 4, K)),
            (1, (40, 4, 5)),
        ]


def test_many_tasks_are_asked_some_at_a_time_with_the_same_result(monkeypatch):
    whole = measure(prior=DEEP)
    monkeypatch.setattr("sklearn_attn.in_context._step_risk._MOST_NUMBERS", 2000)
    sizes = []

    def counted(X, *states, **given):
        sizes.append(len(X))
        return filtered_least_squares(X, *states, **given)

    parts = measure(counted, DEEP)
    assert 1 < max(sizes) < 40
    # matrices of other batches are factorised with other rounding
    for a, b in zip(parts[:-1], whole[:-1]):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("mode", ["cot-i", "icl"])
def test_a_mode_that_answers_at_once_has_one_step(chain_weights, mode):
    curve = measure(chain_weights, mode=mode)
    assert curve.chained.shape == curve.alone.shape == (1, len(LENGTHS))
    np.testing.assert_array_equal(curve.alone, curve.chained)
    np.testing.assert_array_equal(curve.composed, curve.risk)


def test_modes_of_a_chain_are_those_of_its_weights(chain_weights):
    for mode in ("cot-io", "cot-i", "icl"):

        def asked(X, steps, y, X_query, given=None, mode=mode):
            return chain_weights.predict_steps(
                X, steps, y, X_query, given=given, mode=mode
            )[0]

        curve, expected = measure(chain_weights, mode=mode), measure(asked)
        # weights compute in single precision
        np.testing.assert_allclose(curve.chained, expected.chained, rtol=1e-4)
        np.testing.assert_allclose(curve.alone, expected.alone, rtol=1e-4)


def test_weights_of_tables_are_filtered_by_hand(table_weights):
    by_hand = partial(filtered_chain, table_weights)
    for prior in (PRIOR, MLPPrior((K, 2), bias=0.0)):
        curve, expected = (measure(a, prior) for a in (table_weights, by_hand))
        np.testing.assert_allclose(curve.chained, expected.chained, rtol=1e-4)
        np.testing.assert_allclose(curve.alone, expected.alone, rtol=1e-4)


def test_weights_of_tables_see_no_steps_in_context(table_weights):
    def without(X, steps, y, X_query, given=None):
        return [table_weights.predict(X, y, X_query)[0]]

    curve, expected = measure(table_weights, mode="icl"), measure(without)
    assert len(curve.alone) == 1
    np.testing.assert_allclose(curve.risk, expected.risk, rtol=1e-4)


def test_what_cannot_be_measured_is_refused(table_weights, chain_weights):
    with pytest.raises(ValueError, match="mode must be one of"):
        measure(mode="cot")
    with pytest.raises(ValueError, match="needs a chain"):
        measure(table_weights, mode="cot-i")
    with pytest.raises(ValueError, match="weights or a function"):
        measure("cot-relu")
    with pytest.raises(ValueError, match="must be 1 or more"):
        measure(lengths=[0, 4])
    with pytest.raises(ValueError, match="asked for answers of shapes"):
        measure(lambda X, steps, y, X_query, given=None: [X_query])
    for bad in ({"n_tasks": 0}, {"n_queries": 0}, {"n_tasks": 2.5}):
        with pytest.raises(ValueError, match="must be an integer of 1 or more"):
            measure(**bad)
    with pytest.raises(ValueError, match="has a `sample_steps`"):
        measure(prior=LinearPrior())
    with pytest.raises(ValueError, match="list of integers"):
        measure(lengths=[1.5])
    with pytest.raises(ValueError, match="steps"):
        measure(chain_weights, DEEP)
