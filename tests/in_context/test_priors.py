"""Priors draw what they say, all tasks at once, from the generator they are given."""

import numpy as np
import pytest
import torch

from sklearn_attn.in_context import (
    LDSPrior,
    LinearPrior,
    MixturePrior,
    MLPPrior,
    ReLUUnitPrior,
    SparseLinearPrior,
)
from sklearn_attn.in_context._priors import draw_tasks, spectral_radius

PRIORS = [
    LinearPrior(0.3),
    LinearPrior((0.1, 2.0), inputs="varied"),
    LinearPrior(weight_cov=1 / np.arange(1, 7) ** 2, input_cov=np.eye(6)),
    SparseLinearPrior(2, noise=0.1),
    SparseLinearPrior(0.25, inputs="varied"),
    ReLUUnitPrior(0.1, leak=0.1, bias=0.5, inputs="varied"),
    MLPPrior((8,), activation="tanh", noise=0.1),
    MLPPrior((8, 4), activation="sin", weight_scale=2.0, bias=0.0, inputs="varied"),
    MixturePrior([LinearPrior(), ReLUUnitPrior()], [0.2, 0.8]),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_a_prior_draws_tasks_of_the_shape_that_was_asked_for(prior):
    tasks = draw_tasks(prior, 5, 7, 4, generator=generator())
    assert tasks.X.shape == (5, 7, 4)
    assert tasks.y.shape == (5, 7)
    assert tasks.noise.shape == (5,)
    again = draw_tasks(prior, 5, 7, 4, generator=generator())
    assert torch.equal(tasks.y, again.y)
    other = draw_tasks(prior, 5, 7, 4, generator=generator(1))
    assert not torch.equal(tasks.y, other.y)


def test_torchs_own_generator_is_not_touched():
    before = torch.random.get_rng_state()
    for prior in PRIORS:
        prior.sample(3, 4, 4, generator=generator())
    LDSPrior(start="mixed").sample_series(3, 4, generator=generator())
    assert torch.equal(before, torch.random.get_rng_state())


def test_linear_tasks_are_linear_and_have_the_covariance_of_their_weights():
    cov = np.array([[2.0, 0.5], [0.5, 1.0]])
    tasks = LinearPrior(weight_cov=cov).sample(4000, 4, 2, generator=generator())
    w = torch.linalg.lstsq(tasks.X, tasks.y[..., None]).solution[..., 0]
    torch.testing.assert_close(
        torch.einsum("bnd,bd->bn", tasks.X, w), tasks.y, rtol=1e-2, atol=1e-2
    )
    # a sample covariance of 4000 tasks has a standard error of 3 / sqrt(4000) at most
    np.testing.assert_allclose(np.cov(w.numpy().T), cov, atol=4 * 3 / 4000**0.5)


def test_inputs_have_the_covariance_they_are_given():
    cov = np.array([[2.0, 0.5], [0.5, 1.0]])
    X = LinearPrior(input_cov=cov).sample(400, 20, 2, generator=generator()).X
    found = np.cov(X.reshape(-1, 2).numpy().T)
    np.testing.assert_allclose(found, cov, atol=4 * 3 / 8000**0.5)


def test_noise_has_the_deviation_that_is_told():
    prior = LinearPrior((0.1, 3.0), weight_cov=[0.0, 0.0])  # nothing but noise
    tasks = prior.sample(500, 200, 2, generator=generator())
    ratio = tasks.y.std(1) / tasks.noise
    assert float(ratio.mean()) == pytest.approx(1, abs=0.01)
    assert 0.1 <= float(tasks.noise.min()) < 0.15
    assert 2 < float(tasks.noise.max()) <= 3.0
    # half of them below the geometric mean of the range
    assert float((tasks.noise < 0.3**0.5).float().mean()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("sparsity", "support"), [(3, 3), (0.25, 2), (20, 8)])
def test_sparse_tasks_depend_on_so_many_features_and_keep_their_variance(
    sparsity, support
):
    tasks = SparseLinearPrior(sparsity).sample(800, 16, 8, generator=generator())
    w = torch.linalg.lstsq(tasks.X, tasks.y[..., None]).solution[..., 0]
    assert ((w.abs() > 1e-3).sum(1) == support).float().mean() > 0.98
    assert float(tasks.y.square().mean()) == pytest.approx(8, rel=0.15)


def test_a_relu_unit_is_active_half_of_the_time_with_mean_square_one():
    y = ReLUUnitPrior().sample(1000, 40, 6, generator=generator()).y
    assert float((y > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(y.square().mean()) == pytest.approx(1, abs=0.1)
    leaky = ReLUUnitPrior(leak=0.5).sample(1000, 40, 6, generator=generator()).y
    assert float(leaky[leaky < 0].square().mean()) == pytest.approx(0.5, abs=0.05)


def test_networks_have_mean_square_one_and_are_rougher_with_larger_weights():
    smooth, rough = (
        MLPPrior((16,), activation="sin", weight_scale=a).sample(
            100, 64, 1, generator=generator()
        )
        for a in (0.3, 10.0)
    )
    assert float(smooth.y.square().mean()) == pytest.approx(1, abs=1e-3)
    order = smooth.X[..., 0].argsort(1)
    jumps = [(t.y.gather(1, order)).diff(dim=1).abs().mean() for t in (smooth, rough)]
    assert jumps[1] > 3 * jumps[0]


def test_varied_columns_have_unit_variance_and_many_kinds():
    X = LinearPrior(inputs="varied").sample(200, 200, 6, generator=generator()).X
    # heavy tails aside, whose sample variances vary
    assert float(X.square().mean((0, 1)).median()) == pytest.approx(1, abs=0.15)
    kurtosis = (X**4).mean(1) / X.square().mean(1) ** 2
    assert float((kurtosis < 1.6).float().mean()) > 0.05  # two values
    assert float((kurtosis > 6).float().mean()) > 0.05  # heavy or skewed
    correlation = torch.corrcoef(X[0].T)
    assert torch.isfinite(correlation).all()


def test_a_mixture_draws_each_prior_as_often_as_it_should():
    prior = MixturePrior([LinearPrior(), ReLUUnitPrior()], [0.2, 0.8])
    y = prior.sample(2000, 20, 3, generator=generator()).y
    is_relu = (y >= 0).all(1)
    assert float(is_relu.float().mean()) == pytest.approx(0.8, abs=0.04)
    assert 0 < int(is_relu[:20].sum()) < 20  # and mixes them up


def test_the_spectral_radius_is_that_of_the_eigenvalues():
    W = torch.randn(20, 12, 12, generator=generator(), dtype=torch.float64)
    found = spectral_radius(W)
    exact = torch.linalg.eigvals(W).abs().amax(1)
    torch.testing.assert_close(found, exact, rtol=2e-3, atol=0)


def test_systems_have_their_radius_and_series_start_where_they_should():
    prior = LDSPrior(6, 2, radius=(0.5, 0.9), noise=0.3)
    W, C = prior.sample_systems(50, generator=generator())
    radius = torch.linalg.eigvals(W).abs().amax(1)
    assert 0.49 < float(radius.min()) < 0.6
    assert 0.8 < float(radius.max()) < 0.91
    assert C.shape == (50, 2, 6)
    zero = prior.sample_series(4000, 3, generator=generator())
    # y_1 = C w_0: variance n_states noise^2 / n_outputs
    expected = 6 * 0.3**2 / 2
    assert float(zero[:, 0].square().mean()) == pytest.approx(expected, rel=0.1)
    steady = LDSPrior(6, 2, noise=0.3, start="stationary")
    series = steady.sample_series(4000, 3, generator=generator())
    assert float(series[:, 0].square().mean()) > 1.2 * expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearPrior(-1.0), "noise must be a finite number from 0 on"),
        (lambda: LinearPrior((2.0, 1.0)), "0 < low <= high"),
        (lambda: LinearPrior(weight_cov=[[1, 2], [0, 1]]), "symmetric"),
        (lambda: LinearPrior(weight_cov=[-1.0]), "semi-definite"),
        (lambda: LinearPrior(input_cov=np.ones((2, 3))), "square matrix"),
        (lambda: LinearPrior(inputs="odd"), "'normal' or 'varied'"),
        (lambda: SparseLinearPrior(0), "sparsity"),
        (lambda: SparseLinearPrior(1.5), "sparsity"),
        (lambda: MLPPrior(()), "hidden_layer_sizes"),
        (lambda: MLPPrior(activation="gelu"), "activation"),
        (lambda: MixturePrior([]), "`sample` method"),
        (lambda: MixturePrior([LinearPrior()], [0.5]), "sum to 1"),
        (lambda: LDSPrior(radius=1.0), "radius"),
        (lambda: LDSPrior(n_states=0), "n_states"),
        (lambda: LDSPrior(start="warm"), "start"),
    ],
)
def test_a_prior_says_what_is_wrong_with_its_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_covariance_must_be_large_enough_for_the_task():
    prior = LinearPrior(weight_cov=[1.0, 1.0])
    with pytest.raises(ValueError, match="too small for tasks of 3"):
        prior.sample(2, 2, 3, generator=generator())


class OfTheUser:
    def __init__(self, answer):
        self.answer = answer

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        return self.answer

    def __repr__(self):
        return "OfTheUser()"


def test_a_prior_of_ones_own_returns_pairs_of_the_right_shape():
    X, y = np.ones((2, 3, 1)), np.ones((2, 3))
    tasks = draw_tasks(OfTheUser((X, y)), 2, 3, 1, generator=generator())
    assert tasks.X.dtype == torch.get_default_dtype()
    assert (tasks.noise == 0).all()
    with pytest.raises(ValueError, match=r"asked for X of shape \(2, 4, 1\)"):
        draw_tasks(OfTheUser((X, y)), 2, 4, 1, generator=generator())
    with pytest.raises(ValueError, match="not finite"):
        draw_tasks(OfTheUser((X * np.nan, y)), 2, 3, 1, generator=generator())
