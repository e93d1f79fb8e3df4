"""Composed tasks are what their equations say, and come with their steps."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sklearn_attn.in_context import (
    ComposedTasks,
    DeepLinearPrior,
    MLPPrior,
    StepPrior,
)
from sklearn_attn.in_context._composed_priors import draw_steps


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("activation", "act"),
    [
        ("relu", torch.relu),
        ("tanh", torch.tanh),
        ("leaky_relu", lambda z: torch.where(z > 0, z, 0.3 * z)),
    ],
)
def test_each_step_is_a_layer_of_the_one_before(generator, activation, act):
    prior = MLPPrior((7, 3), activation=activation, bias=0.0, leak=0.3)
    tasks = prior.sample_steps(4, 60, 5, generator=generator)
    states = [state.double() for state in tasks.states]
    assert [state.shape[2] for state in states] == [5, 7, 3, 1]
    inverse = {
        "relu": None,
        "tanh": torch.arctanh,
        "leaky_relu": lambda s: torch.where(s > 0, s, s / 0.3),
    }[activation]
    for before, after in pairwise(states[:-1]):
        if inverse is None:  # where it is active, it is linear
            for j in range(after.shape[2]):
                rows = after[0, :, j] > 0
                z, s = before[0, rows], after[0, rows, j]
                w = torch.linalg.lstsq(z, s[:, None]).solution
                torch.testing.assert_close(
                    act(before[0] @ w)[:, 0], after[0, :, j], atol=1e-4, rtol=0
                )
        else:
            W = torch.linalg.lstsq(before, inverse(after)).solution
            torch.testing.assert_close(act(before @ W), after, atol=1e-4, rtol=0)
    last = torch.linalg.lstsq(states[-2], states[-1]).solution
    torch.testing.assert_close(states[-2] @ last, states[-1], atol=1e-4, rtol=0)


def test_a_relu_network_without_biases_has_targets_of_mean_square_one(generator):
    tasks = MLPPrior((10,), bias=0.0).sample_steps(4000, 4, 5, generator=generator)
    squares = tasks.y.square().mean(1)
    error = float(squares.std()) / math.sqrt(len(squares))
    assert abs(float(squares.mean()) - 1) < 4 * error


def test_steps_are_those_of_the_tasks_without_them():
    prior = MLPPrior((6,))
    X, y, *_ = prior.sample(5, 30, 4, generator=torch.Generator().manual_seed(3))
    tasks = prior.sample_steps(5, 30, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(tasks.X, X)
    # of `sample`, each task has its own unit
    scale = tasks.y.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(tasks.y / scale, y)


def test_widths_of_a_pair_are_drawn_between_them(generator):
    prior = MLPPrior(((2, 4),))
    seen = {
        prior.sample_steps(1, 2, 3, generator=generator).steps[0].shape[2]
        for _ in range(60)
    }
    assert seen == {2, 3, 4}


def test_sizes_have_the_same_name_whatever_their_type():
    names = {repr(MLPPrior(sizes)) for sizes in ([4, 5], (4, 5), np.array([4, 5]))}
    assert len(names) == 1


def test_noise_is_in_targets_only(generator):
    prior = MLPPrior((20,), bias=0.0, noise=2.0)
    tasks = prior.sample_steps(200, 50, 3, generator=generator)
    assert (tasks.noise == 2.0).all()
    assert abs(float(tasks.y.var()) - 5.0) < 0.6  # 1 of the network, 4 of the noise
    assert (tasks.steps[0] >= 0).all()


def test_deep_linear_tasks_are_products_of_matrices_of_the_pools(generator):
    prior = DeepLinearPrior(3, 2, n_features=4, random_state=1)
    tasks = prior.sample_steps(6, 5, 4, generator=generator)
    used = set()
    for layer in range(3):
        before, after = tasks.states[layer], tasks.states[layer + 1]
        for b in range(6):
            apart = [
                float((before[b] @ W.T.float() - after[b]).abs().max())
                for W in prior.matrices[layer]
            ]
            assert min(apart) < 1e-5
            used.add((layer, apart.index(min(apart))))
    assert len(used) == 6  # all of the pools


def test_without_pools_each_task_has_matrices_of_its_own(generator):
    prior = DeepLinearPrior(1, None, n_features=3)
    tasks = prior.sample_steps(2, 9, 3, generator=generator)
    W = torch.linalg.lstsq(tasks.X, tasks.y).solution
    assert (W[0] - W[1]).abs().max() > 0.1
    assert prior.matrices is None


def test_the_pool_is_part_of_the_name():
    names = {repr(DeepLinearPrior(random_state=seed)) for seed in (0, 0, 1)}
    assert len(names) == 2


def test_targets_of_deep_linear_tasks_without_steps_are_the_first_output():
    prior = DeepLinearPrior(2)
    alone = prior.sample(3, 4, 5, generator=torch.Generator().manual_seed(0))
    tasks = prior.sample_steps(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(alone.y, tasks.y[..., 0])


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("target", ["unit", "linear"])
def test_single_steps_have_features_of_the_layer_before(generator, depth, target):
    prior = StepPrior(depth, target)
    tasks = prior.sample(50, 40, 12, generator=generator)
    assert tuple(tasks.X.shape) == (50, 40, 12)
    assert bool((tasks.X >= 0).all()) == (depth > 0)
    assert bool((tasks.y >= 0).all()) == (target == "unit")
    powers = tasks.y.square().mean(1)
    silent = powers == 0  # a unit may be nowhere active
    torch.testing.assert_close(powers[~silent], torch.ones_like(powers[~silent]))
    assert target == "unit" or not silent.any()
    if depth:  # correlated, as they come from fewer inputs
        correlation = torch.corrcoef(tasks.X[0].T)
        assert correlation[correlation < 0.999].abs().max() > 0.5


def test_what_a_prior_draws_is_checked(generator):
    class Wrong:
        def sample_steps(self, n_tasks, n_examples, n_features, *, generator):
            X = torch.zeros(n_tasks, n_examples, n_features)
            return ComposedTasks(X, (X[:, 1:],), X[..., 0], torch.zeros(n_tasks))

    with pytest.raises(ValueError, match="was asked for 2 tasks of 3 examples"):
        draw_steps(Wrong(), 2, 3, 4, generator=generator)


def test_a_prior_of_ones_own_need_not_know_its_noise(generator):
    class Bare:
        def sample_steps(self, n_tasks, n_examples, n_features, *, generator):
            X = torch.ones(n_tasks, n_examples, n_features, dtype=torch.float64)
            return X, [X[..., :1]], X[..., 0]

    tasks = draw_steps(Bare(), 2, 3, 4, generator=generator)
    assert tasks.y.dtype == torch.float32
    assert (tasks.noise == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLPPrior(((4, 2),)), "hidden_layer_sizes must be"),
        (lambda: MLPPrior((0,)), "hidden_layer_sizes must be"),
        (lambda: MLPPrior(16), "hidden_layer_sizes must be"),
        (lambda: MLPPrior((True,)), "hidden_layer_sizes must be"),
        (lambda: MLPPrior((4,), activation="softmax"), "activation must be one of"),
        (lambda: MLPPrior((4,), leak=-1), "leak must be a finite number"),
        (lambda: DeepLinearPrior(0), "n_layers must be a whole number"),
        (lambda: DeepLinearPrior(n_matrices=0), "n_matrices must be a whole"),
        (lambda: StepPrior(-1), "depth must be a whole number"),
        (lambda: StepPrior(target="y"), "target must be 'unit' or 'linear'"),
        (lambda: StepPrior(n_inputs=(5, 2)), "n_inputs must be two"),
        (lambda: StepPrior(activation="x"), "activation must be one of"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_deep_linear_tasks_have_the_features_of_their_pools(generator):
    with pytest.raises(ValueError, match="Tasks have 5 features; not 4"):
        DeepLinearPrior().sample_steps(1, 1, 4, generator=generator)
