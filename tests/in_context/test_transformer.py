"""The forward pass: invariances, caches, and what the two forms see."""

import pytest
import torch
from torch.nn import functional as F

from sklearn_attn.in_context._transformer import (
    CausalLearner,
    CausalTransformer,
    SetTransformer,
    draw_weights,
    interleave,
)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def drawn(module):
    draw_weights(module, torch.Generator().manual_seed(0))
    return module.double().eval()


@pytest.fixture(scope="module")
def net():
    return drawn(SetTransformer(6, width=16, n_layers=3, mlp_ratio=2))


@pytest.fixture(scope="module")
def causal():
    return drawn(CausalTransformer(3, 2, 12, width=16, n_layers=2))


def ask(net, X, y, Q, noise=None):
    with torch.no_grad():
        return net(Q, net.context(X, y, noise))


def test_the_order_of_the_examples_does_not_matter(net):
    X, y, Q = draw(3, 9, 4), draw(3, 9, seed=1), draw(3, 5, 4, seed=2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    for a, b in zip(ask(net, X, y, Q), ask(net, X[:, order], y[:, order], Q)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_queries_do_not_see_each_other(net):
    X, y, Q = draw(3, 9, 4), draw(3, 9, seed=1), draw(3, 5, 4, seed=2)
    whole = ask(net, X, y, Q)
    for i in range(5):
        alone = ask(net, X, y, Q[:, [i]])
        torch.testing.assert_close(whole[0][:, [i]], alone[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(whole[1][:, [i]], alone[1], rtol=0, atol=1e-12)


def test_answers_scale_with_targets_and_do_not_change_with_the_unit_of_inputs(net):
    X, y, Q = draw(3, 9, 4), draw(3, 9, seed=1), draw(3, 5, 4, seed=2)
    mean, std = ask(net, X, y, Q)
    for a in (1e-150, -3.0, 1e8, 1e150):
        scaled, spread = ask(net, X, abs(a) * y, Q)
        torch.testing.assert_close(scaled, abs(a) * mean, rtol=1e-9, atol=0)
        torch.testing.assert_close(spread, abs(a) * std, rtol=1e-9, atol=0)
        same, _ = ask(net, abs(a) * X, y, abs(a) * Q)
        torch.testing.assert_close(same, mean, rtol=1e-9, atol=1e-12)


def test_absent_features_are_zeros_of_a_longer_row_in_the_same_units(net):
    X, y = draw(3, 9, 4), draw(3, 9, seed=1)
    side = net.context(X, y)["side"][0, 2]
    assert float(side) == pytest.approx((4 / 9) ** 0.5)
    tokens = net._tokens(X, X.new_zeros(3, 5))
    padded = net._tokens(F.pad(X, (0, 2)), X.new_zeros(3, 5))
    torch.testing.assert_close(tokens, padded)


def test_noise_that_is_told_changes_the_answer_and_nan_is_none(net):
    X, y, Q = draw(3, 9, 4), draw(3, 9, seed=1), draw(3, 5, 4, seed=2)
    untold = ask(net, X, y, Q)[0]
    unknown = ask(net, X, y, Q, torch.full((3,), torch.nan, dtype=torch.float64))[0]
    torch.testing.assert_close(untold, unknown)
    told = ask(net, X, y, Q, torch.tensor([0.1, torch.nan, 0.1]).double())[0]
    assert not torch.allclose(told[0], untold[0])
    torch.testing.assert_close(told[1], untold[1])


def test_a_context_of_zeros_gives_finite_answers(net):
    X = torch.zeros(1, 4, 3, dtype=torch.float64)
    mean, std = ask(net, X, X[..., 0], X)
    assert torch.isfinite(mean).all()
    assert (std > 0).all()


def test_a_token_sees_only_those_before_it(causal):
    tokens = draw(2, 10, 3)
    changed = tokens.clone()
    changed[:, 6:] += 1
    with torch.no_grad():
        before, after = causal(tokens)[0], causal(changed)[0]
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=0)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("sizes", [(10,), (4, 6), (4, 1, 1, 4), (1,) * 10])
def test_keys_and_values_that_are_kept_change_nothing(causal, sizes):
    tokens = draw(2, 10, 3)
    with torch.no_grad():
        whole = causal(tokens)
        past, means = None, []
        for part in tokens.split(sizes, dim=1):
            mean, _, past = causal(part, past)
            means.append(mean)
    torch.testing.assert_close(torch.cat(means, 1), whole[0], rtol=0, atol=1e-12)


def test_the_papers_prompt_is_interleaved_and_ends_in_a_question():
    tokens = interleave(draw(2, 3, 2), draw(2, 3, seed=1))
    assert tokens.shape == (2, 5, 4)
    assert tokens[:, ::2, 2:].abs().max() == 0  # x, no target, no mark
    assert (tokens[:, 1::2, 3] == 1).all()
    torch.testing.assert_close(tokens[:, 1::2, 2], draw(2, 3, seed=1)[:, :2])


def test_the_causal_learner_answers_a_query_as_the_prompt_that_ends_in_it():
    net = drawn(CausalLearner(5, 9, width=16, n_layers=2))
    X, y = draw(3, 8, 5), draw(3, 8, seed=1)
    Q = draw(3, 4, 5, seed=2)
    y = y / y.square().mean(1, keepdim=True).sqrt()  # the context's unit
    mean, std = ask(net, X, y, Q)
    for i in range(4):
        longer = torch.cat([X, Q[:, [i]]], 1)
        targets = torch.cat([y, y[:, :1]], 1)  # the last one is never read
        with torch.no_grad():
            every, spread = net.at_every_prefix(longer, targets)
        torch.testing.assert_close(mean[:, i], every[:, -1], rtol=0, atol=1e-12)
        torch.testing.assert_close(std[:, i], spread[:, -1], rtol=0, atol=1e-12)
