"""Risk curves against closed forms, and stability against the theorem of 2301.07067."""

from functools import partial

import numpy as np
import pytest
import torch

from sklearn_attn.in_context import (
    LinearPrior,
    MLPPrior,
    PretrainedICL,
    TaskPool,
    load_in_context_weights,
    minimum_norm,
    ridge,
    risk_curve,
    stability_curve,
)
from sklearn_attn.in_context._weights import build

LENGTHS = [1, 2, 3, 5, 8]
D = 5


def zero(X, y, X_query):
    return torch.zeros(X_query.shape[:2], dtype=X.dtype)


def measure(algorithm, prior=None, lengths=LENGTHS, **settings):
    settings = {"n_features": D, "random_state": 0} | settings
    return risk_curve(algorithm, prior or LinearPrior(), lengths, **settings)


@pytest.fixture(scope="module")
def small_weights():
    config = {"form": "set", "n_features": D, "width": 8, "n_layers": 1}
    state = build(config, seed=0).state_dict()
    return PretrainedICL(config, {name: value.numpy() for name, value in state.items()})


def test_without_noise_least_squares_leaves_the_share_of_directions_not_seen():
    curve = measure(minimum_norm, n_tasks=2000)
    expected = np.clip(1 - np.array(LENGTHS) / D, 0, None)  # equation: 1 - k / d
    # the band is 5 % to 95 %; twice its half-width is some 3.3 standard errors
    width = curve.high - curve.low
    assert (np.abs(curve.risk - expected) <= width + 1e-9).all()


def test_the_answer_zero_has_a_risk_of_one_and_the_variance_of_the_noise():
    curve = measure(zero, LinearPrior(noise=1.0), n_tasks=2000)
    np.testing.assert_allclose(curve.risk, 1 + 1 / D, atol=4 * 0.02)  # 4 s.e. of 8000


def test_bands_hold_the_risk_and_shrink_as_tasks_grow():
    few, many = (measure(partial(ridge, noise=0.5), n_tasks=n) for n in (50, 800))
    assert ((few.low < few.risk) & (few.risk < few.high)).all()
    ratio = (few.high - few.low) / (many.high - many.low)
    assert 3 < np.median(ratio) < 5.5  # sqrt(16) = 4


def test_the_band_covers_the_truth_nine_times_in_ten(monkeypatch):
    monkeypatch.setattr("sklearn_attn.in_context._risk.N_BOOTSTRAPS", 200)
    hits = [
        (c := measure(zero, n_tasks=100, lengths=[1], random_state=seed)).low[0]
        <= 1
        <= c.high[0]
        for seed in range(100)
    ]
    assert 80 <= sum(hits) <= 98  # 90, and 3 standard errors of a binomial


def test_the_same_seed_gives_every_algorithm_the_same_tasks():
    seen = []

    def record(X, y, X_query):
        seen.append((X.clone(), X_query.clone()))
        return zero(X, y, X_query)

    first, second = measure(record), measure(record)
    np.testing.assert_array_equal(first.risk, second.risk)
    half = len(seen) // 2
    for a, b in zip(seen[:half], seen[half:]):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_contexts_are_prefixes_and_queries_are_the_same_for_all():
    seen = []

    def record(X, y, X_query):
        seen.append((X, X_query))
        return zero(X, y, X_query)

    measure(record)
    longest, queries = seen[-1]
    for (X, X_query), n in zip(seen, LENGTHS):
        assert torch.equal(X, longest[:, :n])
        assert torch.equal(X_query, queries)


def test_many_tasks_are_asked_some_at_a_time_with_the_same_result(monkeypatch):
    whole = measure(minimum_norm, LinearPrior(noise=1.0))
    monkeypatch.setattr("sklearn_attn.in_context._risk.MOST_ROWS", 100)
    parts = measure(minimum_norm, LinearPrior(noise=1.0))
    np.testing.assert_allclose(parts.risk, whole.risk, rtol=1e-9)


def test_told_noise_makes_ridge_bayes_for_tasks_that_differ_in_noise():
    prior = LinearPrior(noise=(0.1, 10.0))
    told = measure(ridge, prior, tell_noise=True).risk
    fixed = [measure(partial(ridge, noise=s), prior).risk for s in (0.1, 1.0, 10.0)]
    assert (told <= np.min(fixed, axis=0) + 0.02).all()


def test_weights_and_their_predict_method_have_the_same_curve(small_weights):
    by_object = measure(small_weights)
    by_call = measure(small_weights.predict)
    np.testing.assert_array_equal(by_object.risk, by_call.risk)


def test_an_empty_context_is_for_callables_only(small_weights):
    assert measure(ridge, lengths=[0], tell_noise=True).risk[0] > 0.9
    with pytest.raises(ValueError, match="at least one example"):
        measure(small_weights, lengths=[0, 1])


def test_a_pool_of_tasks_that_does_not_know_its_noise_can_be_measured():
    rng = np.random.default_rng(0)
    X, ids = rng.normal(size=(200, D)), np.repeat(np.arange(10), 20)
    y = (X * rng.normal(size=(10, D))[ids]).sum(1)
    curve = measure(minimum_norm, TaskPool(X, y, ids), lengths=[1, 10])
    assert curve.risk[1] < 1e-6 < curve.risk[0]  # y in single precision


@pytest.mark.parametrize(
    ("lengths", "settings", "message"),
    [
        ([], {}, "list of integers"),
        ([1.5], {}, "list of integers"),
        (3, {}, "list of integers"),
        ([-1], {}, "0 or more"),
        ([1], {"n_tasks": 0}, "n_tasks must be"),
        ([1], {"n_features": 0}, "n_features must be"),
    ],
)
def test_settings_that_make_no_curve_are_refused(lengths, settings, message):
    with pytest.raises(ValueError, match=message):
        measure(zero, lengths=lengths, **settings)


def test_an_algorithm_that_answers_in_another_shape_is_refused():
    with pytest.raises(ValueError, match="predictions of shape"):
        measure(lambda X, y, X_query: X_query)


@pytest.mark.claim
@pytest.mark.parametrize("prior", [LinearPrior(noise=1.0), MLPPrior(noise=0.5)])
def test_an_example_of_ridge_regression_counts_like_one_over_n(prior):
    """Assumption 3.1: changes are at most K / n, whatever the prior."""
    lengths = np.array([20, 40, 80, 160])
    for change in stability_curve(
        partial(ridge, noise=1.0), prior, lengths, n_features=D, random_state=0
    ):
        slope, _ = np.polyfit(np.log(lengths), np.log(change), 1)
        assert slope < -0.9  # -1, up to the error of 512 tasks


def test_an_algorithm_that_reads_no_labels_does_not_change():
    for change in stability_curve(zero, LinearPrior(), LENGTHS, n_features=D):
        np.testing.assert_array_equal(change, 0)


def test_an_answer_of_the_first_label_changes_by_two_draws_of_it():
    """|y_1' - y_1| of normals with variance d is 2 sqrt(d / pi) on average."""

    def first(X, y, X_query):
        return y[:, :1].expand(X_query.shape[:2])

    change, _ = stability_curve(
        first, LinearPrior(), [1, 9], n_features=100, n_tasks=2000, random_state=0
    )
    np.testing.assert_allclose(change, 2 / np.sqrt(np.pi), rtol=4 * 0.75 / 2000**0.5)


def test_stability_needs_a_context_and_a_second_task():
    with pytest.raises(ValueError, match="1 or more"):
        stability_curve(zero, LinearPrior(), [0], n_features=D)
    with pytest.raises(ValueError, match="another task"):
        stability_curve(zero, LinearPrior(), [1], n_features=D, n_tasks=1)


@pytest.mark.claim
def test_bundled_weights_have_no_spike_where_least_squares_has_one():
    """Figure 2a: as many noisy examples as features."""
    prior = LinearPrior(noise=1.0)
    in_context = measure(load_in_context_weights("icl-linear-noisy"), prior, [D])
    assert in_context.risk[0] < 1 < measure(minimum_norm, prior, [D]).risk[0]


def test_noise_far_above_the_signal_is_no_trouble():
    prior = LinearPrior(noise=10.0)
    curve = measure(zero, prior, lengths=[1], n_features=1, n_tasks=4000)
    # E (f + noise)^2 / E f^2 with E f^2 = 1 and a relative error of 3 % (w^2 x^2)
    assert curve.risk[0] == pytest.approx(101, rel=0.15)
    with pytest.raises(ValueError, match="n_queries must be an integer"):
        measure(zero, prior, n_queries=0)


def test_noise_that_is_not_known_cannot_be_told():
    rng = np.random.default_rng(0)
    X, ids = rng.normal(size=(60, D)), np.repeat(np.arange(3), 20)
    pool = TaskPool(X, X[:, 0], ids)
    with pytest.raises(ValueError, match="does not know its noise"):
        measure(zero, pool, lengths=[1], tell_noise=True)
