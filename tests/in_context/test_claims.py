"""What the paper says of trained weights, on those that come with the package.

Tasks are other ones than in training, and than those of the cards. Risks are squared
errors over the mean square of the targets without noise.
"""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon
from sklearn.datasets import load_diabetes, load_iris, load_linnerud, load_wine
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.in_context import (
    InContextRegressor,
    LDSPrior,
    LinearPrior,
    MixturePrior,
    ReLUUnitPrior,
    kalman_predict,
    load_in_context_weights,
    minimum_norm,
    mixture_of_ridges,
    ridge,
    risk_curve,
    stability_curve,
    weighted_ridge,
    window_least_squares,
)
from sklearn_attn.in_context._priors import window_rows

pytestmark = pytest.mark.claim
SEED = 11


def risks(algorithm, prior, lengths, d, **settings):
    curve = risk_curve(
        algorithm, prior, lengths, n_features=d, random_state=SEED, **settings
    )
    return curve.risk


@pytest.mark.parametrize("d", [5, 10])
def test_linear_tasks_without_noise_are_learned_from_as_many_rows_as_features(d):
    weights = load_in_context_weights("icl-linear")
    few = [1, d // 2, d - 1]
    found = risks(weights, LinearPrior(), [*few, 2 * d, 3 * d], d)
    np.testing.assert_allclose(found[:3], 1 - np.array(few) / d, atol=0.08)
    assert found[3] <= 0.015
    assert found[4] <= 0.006


def test_contexts_longer_than_those_of_the_training_are_no_trouble():
    weights = load_in_context_weights("icl-linear")
    assert weights.card["n_examples_max"] == 50
    found = risks(weights, LinearPrior(), [50, 100, 200], 10, n_tasks=128)
    assert (found < 0.006).all()


@pytest.mark.parametrize(
    ("d", "lengths", "margin"),
    [(5, [4, 5, 6, 8, 10, 20], 0.06), (20, [4, 8, 12, 16, 20], 0.10)],
)
def test_linear_tasks_with_noise_are_learned_as_by_ridge_regression(d, lengths, margin):
    weights = load_in_context_weights("icl-linear-unit-noise")
    prior = LinearPrior(noise=1.0)
    found = risks(weights, prior, lengths, d, tell_noise=True)
    exact = risks(partial(ridge, noise=1.0), prior, lengths, d)
    assert (found <= (1 + margin) * exact).all()
    # no spike at n = d, where least squares has one
    assert found[lengths.index(d)] < found[0]
    assert risks(minimum_norm, prior, [d], d)[0] > 3


def test_weights_for_any_noise_do_what_bayes_does_without_the_scale_of_targets():
    weights = load_in_context_weights("icl-linear-noisy")
    prior, lengths = LinearPrior(noise=1.0), [4, 6, 10, 20]
    found = risks(weights, prior, lengths, 5, tell_noise=True)
    # noise of 0.1 to 3 in training, told in units of y: w has 1/3 to 10 times the scale
    scales = np.geomspace(1 / 3, 10, 15)
    exact = partial(
        mixture_of_ridges,
        weight_covs=[torch.full((5,), scale**2).double() for scale in scales],
        noises=[1.0] * len(scales),
        probabilities=np.full(len(scales), 1 / len(scales)),
    )
    best = risks(exact, prior, lengths, 5)
    assert (found < 1.03 * best).all()


def test_intervals_cover_what_they_should_and_are_as_wide_as_the_posterior_says():
    weights = load_in_context_weights("icl-linear-unit-noise")
    generator = torch.Generator().manual_seed(SEED)
    tasks = LinearPrior(noise=1.0).sample(512, 34, 5, generator=generator)
    X, y, noise, _ = (part.double() for part in tasks)
    for n in (5, 10, 30):
        context = X[:, :n], y[:, :n], X[:, 30:]
        mean, std = weights.predict(*context, noise=noise)
        covered = ((mean - y[:, 30:]).abs() < 1.6448536 * std).double().mean()
        assert 0.85 < float(covered) < 0.95
        _, exact = ridge(*context, noise=1.0, return_std=True)
        assert float(std.mean() / exact.mean()) == pytest.approx(1, abs=0.15)


def test_a_prior_of_decaying_weights_is_known_to_the_weights():
    cov = 1 / np.arange(1, 21) ** 2
    prior = LinearPrior(weight_cov=cov)
    weights = load_in_context_weights("icl-decaying")
    found = risks(weights, prior, [5, 10], 20)
    naive = risks(minimum_norm, prior, [5, 10], 20)
    bayes = partial(weighted_ridge, weight_cov=torch.from_numpy(cov), noise=0.0)
    best = risks(bayes, prior, [5, 10], 20)
    assert 2 * found[0] < naive[0]  # at d / 4
    assert (found > 0.98 * best).all()


def test_of_two_families_the_right_one_is_picked_at_every_length():
    sparse = torch.tensor([4.0, 4.0, 0, 0, 0, 0, 0, 0]).double()
    prior = MixturePrior([LinearPrior(1.0), LinearPrior(1.0, weight_cov=sparse)])
    weights = load_in_context_weights("icl-two-families")
    exact = partial(
        mixture_of_ridges,
        weight_covs=[torch.ones(8).double(), sparse],
        noises=[1.0, 1.0],
        probabilities=[0.5, 0.5],
    )
    lengths = [1, 2, 3, 4, 6, 8, 10, 12, 16]
    found, best = (risks(a, prior, lengths, 8) for a in (weights, exact))
    assert (found <= 1.12 * best).all()


def test_a_relu_unit_is_learned_although_half_of_the_rows_say_nothing():
    weights = load_in_context_weights("icl-relu")
    for d in (5, 10):
        found = risks(weights, ReLUUnitPrior(), [3 * d, 4 * d], d)
        linear = risks(minimum_norm, ReLUUnitPrior(), [3 * d, 4 * d], d)
        assert (found < 0.02).all()
        assert (5 * found < linear).all()


def test_a_system_whose_state_is_hidden_is_predicted_below_every_window():
    generator = torch.Generator().manual_seed(SEED)
    prior = LDSPrior()
    W, C = (part.double() for part in prior.sample_systems(512, generator=generator))
    series = prior.simulate(W, C, 40, generator=generator)
    weights = load_in_context_weights("icl-lds")
    windows = torch.stack(
        [
            (window_least_squares(series, window=h, alpha=alpha) - series)
            .square()
            .sum(2)
            .mean(0)
            for h in (1, 2, 3, 4)
            for alpha in (1.0, 0.1, 0.01)
        ]
    ).amin(0)
    start = torch.cat([torch.zeros(512, 1, 4).double(), series], 1)  # y_0 = C x_0 = 0
    known = kalman_predict(start, A=W, C=C, state_noise=prior.noise)[:, 1:]
    bound = (known - series).square().sum(2).mean(0)
    X, Y = window_rows(series, 3)
    X, Y = X.repeat_interleave(4, 0), Y.mT.flatten(0, 1)  # each output is a task
    for t in (20, 30, 40):  # y_t from y_1, ..., y_{t - 1}: t - 2 examples, and a query
        mean, _ = weights.predict(X[:, : t - 2], Y[:, : t - 2], X[:, [t - 2]])
        error = 4 * float((mean[:, 0] - Y[:, t - 2]).square().mean())
        assert error < float(windows[t - 1])
        assert error > float(bound[t - 1])


def test_an_example_more_or_less_changes_answers_like_one_over_n():
    weights = load_in_context_weights("icl-linear")
    lengths = [20, 30, 45, 68, 100]  # from 2 d on
    change, _ = stability_curve(
        weights, LinearPrior(), lengths, n_features=10, n_tasks=256, random_state=SEED
    )
    slope = np.polyfit(np.log(lengths), np.log(change), 1)[0]
    assert slope < -0.9


def test_on_small_real_tables_it_is_not_worse_than_ridge_regression():
    wine, iris, exercise = load_wine().data, load_iris().data, load_linnerud()
    tables = {
        "diabetes": load_diabetes(return_X_y=True),
        "alcohol": (wine[:, 1:], wine[:, 0]),
        "proline": (wine[:, :-1], wine[:, -1]),
        "petals": (iris[:, :-1], iris[:, -1]),
        "waists": (exercise.data, exercise.target[:, 1]),
    }
    differences = []
    for X, y in tables.values():
        for n in (20, 50, 100) if len(X) > 100 else (15,):
            splits = ShuffleSplit(30, train_size=n, random_state=SEED).split(X)
            ratios = []
            for train, test in splits:
                ours = InContextRegressor().fit(X[train], y[train])
                rival = make_pipeline(
                    StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))
                ).fit(X[train], y[train])
                errors = [
                    np.mean((model.predict(X[test]) - y[test]) ** 2)
                    for model in (ours, rival)
                ]
                ratios.append(np.log(errors[0] / errors[1]))
            differences.append(np.median(ratios))
    # a table and a size count once, as their splits are not independent
    assert wilcoxon(differences, alternative="greater").pvalue > 0.05
