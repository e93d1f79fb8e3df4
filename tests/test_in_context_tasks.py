"""Tasks of priors as arrays, and as a table to pretrain from."""

import numpy as np
import pytest

from sklearn_attn.datasets import make_in_context_tasks
from sklearn_attn.in_context import LinearPrior, TaskPool

NAMES = ["linear", "sparse", "relu", "mlp", "mixture"]


@pytest.mark.parametrize("prior", NAMES)
def test_every_prior_gives_tasks_of_the_shape_that_was_asked_for(prior):
    X, y = make_in_context_tasks(4, 7, 6, prior=prior, noise=0.1, random_state=0)
    assert (X.shape, y.shape) == ((4, 7, 6), (4, 7))
    assert X.dtype == y.dtype == np.float64
    assert np.isfinite(X).all()
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("prior", "power"), [("linear", 6), ("sparse", 6), ("relu", 1), ("mlp", 1)]
)
def test_targets_have_the_mean_square_that_is_promised(prior, power):
    _, y = make_in_context_tasks(2000, 20, 6, prior=prior, random_state=0)
    means = np.square(y).mean(1)
    error = 4 * means.std() / 2000**0.5  # 4 standard errors
    assert means.mean() == pytest.approx(power, abs=error + 1e-6)


def test_linear_tasks_are_solved_by_as_many_examples_as_features():
    X, y = make_in_context_tasks(random_state=0)
    for rows, targets in zip(X, y):
        w = np.linalg.lstsq(rows[:5], targets[:5])[0]
        # single precision, times a condition number of some hundreds
        np.testing.assert_allclose(rows @ w, targets, atol=1e-3)


def test_three_features_matter_for_sparse_tasks_and_half_of_a_mixture():
    def support(prior):
        X, y = make_in_context_tasks(100, 12, 8, prior=prior, random_state=0)
        w = np.linalg.lstsq(X.reshape(-1, 8)[:12], y[0])[0]
        ws = np.stack([np.linalg.lstsq(a, b)[0] for a, b in zip(X, y)])
        np.testing.assert_allclose(w, ws[0])
        return (np.abs(ws) > 1e-3).sum(1)

    assert (support("sparse") == 3).all()
    is_sparse = support("mixture") == 3
    assert 0.3 < is_sparse.mean() < 0.7  # a half, and 4 standard errors


def test_noise_is_added_and_a_pair_gives_each_task_its_own():
    for noise, expected in ((2.0, (1.9, 2.1)), ((0.1, 10.0), (0.1, 10.0))):
        X, y = make_in_context_tasks(20, 900, 2, noise=noise, random_state=0)
        residuals = [b - a @ np.linalg.lstsq(a, b)[0] for a, b in zip(X, y)]
        spread = np.std(residuals, axis=1)
        low, high = expected
        # a standard deviation of 900 rows is 2.4 % off, of 20 draws at most 10 %
        assert low * 0.9 < spread.min() <= spread.max() < high * 1.1
    assert spread.max() > 5 * spread.min()


def test_the_table_has_the_same_numbers_and_can_be_pretrained_from():
    X, y = make_in_context_tasks(6, 9, 2, random_state=0)
    rows, targets, tasks = make_in_context_tasks(6, 9, 2, as_table=True, random_state=0)
    np.testing.assert_array_equal(rows, X.reshape(-1, 2))
    np.testing.assert_array_equal(targets, y.ravel())
    np.testing.assert_array_equal(tasks, np.repeat(np.arange(6), 9))
    assert [len(row) for row in TaskPool(rows, targets, tasks).rows] == [9] * 6


def test_an_object_is_a_prior_with_a_noise_of_its_own():
    settings = {"n_features": 3, "random_state": 0}
    by_object = make_in_context_tasks(prior=LinearPrior(0.5), **settings)
    by_name = make_in_context_tasks(noise=0.5, **settings)
    np.testing.assert_array_equal(by_object[1], by_name[1])
    with pytest.raises(ValueError, match="noise of its own"):
        make_in_context_tasks(prior=LinearPrior(), noise=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": "cubic"}, "prior must be one of"),
        ({"prior": ["linear"]}, "prior must be one of"),
        ({"n_tasks": 0}, "n_tasks must be"),
        ({"n_examples": 2.5}, "n_examples must be"),
        ({"n_features": 0}, "n_features must be"),
        ({"noise": -1.0}, "noise must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_in_context_tasks(**settings)


def test_a_seed_determines_tasks_and_the_default_generator_is_left_alone():
    import torch

    before = torch.random.get_rng_state()
    first, second = (make_in_context_tasks(random_state=1) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert torch.equal(before, torch.random.get_rng_state())
