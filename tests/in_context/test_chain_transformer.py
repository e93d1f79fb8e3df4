"""Networks of whole chains: symmetries, kept keys and values, padding, sizes."""

import pytest
import torch

from sklearn_attn.in_context import MLPPrior
from sklearn_attn.in_context._chain_transformer import CausalChain, ChainTransformer
from sklearn_attn.in_context._transformer import draw_weights

SIZES = {"width": 16, "n_layers": 2, "n_heads": 2}
ROUNDING = 1e-10
DEPTH = 3


def make(form, n_examples=30):
    if form == "set":
        net = ChainTransformer(4, 6, DEPTH, **SIZES)
    else:
        net = CausalChain(4, 6, DEPTH, n_examples=n_examples, **SIZES)
    draw_weights(net, torch.Generator().manual_seed(0))
    for part in net.modules():  # first weights hardly attend
        if hasattr(part, "merge"):
            part.merge.weight.data *= 10
            part.project.weight.data *= 3
    return net.double().eval().requires_grad_(False)


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(1)
    tasks = MLPPrior((6, 5), bias=0.0).sample_steps(3, 12, 4, generator=generator)
    return [state.double() for state in tasks.states]


def split(states, n=9):
    return [s[:, :n] for s in states], states[0][:, n:]


def test_the_set_form_has_no_order(states):
    net, (examples, X) = make("set"), split(states)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    first, _ = net.rollout(X, net.context(examples))
    other, _ = net.rollout(X, net.context([s[:, order] for s in examples]))
    torch.testing.assert_close(other, first, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("form", ["set", "causal"])
def test_queries_do_not_see_each_other(form, states):
    net, (examples, X) = make(form), split(states)
    cache = net.context(examples)
    together, _ = net.rollout(X, cache)
    for i in range(X.shape[1]):
        alone, _ = net.rollout(X[:, [i]], cache)
        for a, b in zip(alone, together):
            torch.testing.assert_close(a, b[:, [i]], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("form", ["set", "causal"])
def test_a_chain_goes_on_from_what_it_answered_or_from_what_is_given(form, states):
    net, (examples, X) = make(form), split(states)
    cache = net.context(examples)
    means, _ = net.rollout(X, cache)
    again, _ = net.rollout(X, cache, {1: means[0]})
    torch.testing.assert_close(again, means, rtol=0, atol=ROUNDING)
    forced, _ = net.rollout(X, cache, {1: states[1][:, 9:]})
    torch.testing.assert_close(forced[0], means[0], rtol=0, atol=ROUNDING)
    assert (forced[1] - means[1]).abs().max() > 1e-3


@pytest.mark.parametrize("form", ["set", "causal"])
def test_answers_have_the_units_of_what_is_asked_for(form, states):
    net, (examples, X) = make(form), split(states)
    means, stds = net.rollout(X, net.context(examples))
    units = [1.0, 10.0, 0.1, 1000.0]
    scaled = [s * unit for s, unit in zip(examples, units)]
    others, deviations = net.rollout(X, net.context(scaled))
    for unit, mean, std, other, deviation in zip(
        units[1:], means, stds, others, deviations
    ):
        torch.testing.assert_close(other, mean * unit)
        torch.testing.assert_close(deviation, std * unit)
        assert (std > 0).all()


def test_narrow_steps_are_padded_with_zeros(states):
    net, (examples, X) = make("set"), split(states)
    examples[1], examples[2] = examples[1][..., :2], examples[2][..., :1]
    means, _ = net.rollout(X, net.context(examples))
    assert [mean.shape[2] for mean in means] == [2, 1, 1]


def test_without_steps_only_inputs_and_targets_are_read(states):
    net, (examples, X) = make("set"), split(states)
    cache = net.context([examples[0], examples[-1]], with_steps=False)
    assert len(cache["layers"][0]["keys"][0, 0]) == 9  # one token for each example
    mean, _ = net.direct(X, cache)
    with_steps, _ = net.direct(X, net.context(examples))
    assert mean.shape == with_steps.shape == (3, 3, 1)
    assert (mean - with_steps).abs().max() > 1e-4


def test_the_causal_form_sees_earlier_tokens_only(states):
    net = make("causal")
    answers = net.at_every_prefix(states)
    later = [s.clone() for s in states]
    for s in later[1:]:  # the scale of each state stays as it is
        s[:, 7:] = s[:, 7:].flip(1)
    others = net.at_every_prefix(later)
    for kind in range(DEPTH + 1):
        torch.testing.assert_close(
            others[kind][0][:, :7], answers[kind][0][:, :7], rtol=0, atol=ROUNDING
        )
    assert (others[2][0][:, 7:] - answers[2][0][:, 7:]).abs().max() > 1e-4


@pytest.mark.claim
def test_a_rollout_with_kept_keys_is_the_prompt_run_again(states):
    net = make("causal")
    found = net.rollout_at_every_prefix(states)
    cache = net._units(states)
    for i in (0, 4, 11):
        chain = [states[0][:, [i]]]
        for kind in range(1, DEPTH + 1):
            prompt = net._prompt([s[:, :i] for s in states], cache)
            own = [net._token(j, s, cache) for j, s in enumerate(chain)]
            mean, std, _ = net.net(torch.cat([prompt, *own], 1))
            chain.append(net._read(mean[:, -1:], std[:, -1:], kind, cache)[0])
        for kept, again in zip(found, chain[1:]):
            torch.testing.assert_close(kept[:, [i]], again, rtol=0, atol=ROUNDING)


def test_the_first_step_at_every_prefix_is_that_of_teacher_forcing(states):
    net = make("causal")
    answers = net.at_every_prefix(states)
    found = net.rollout_at_every_prefix(states)
    torch.testing.assert_close(found[0], answers[1][0], rtol=0, atol=ROUNDING)
    direct, _ = net.direct(states[0][:, [5]], context_of(net, states, 5))
    torch.testing.assert_close(answers[0][0][:, [5]], direct, rtol=0, atol=ROUNDING)


def context_of(net, states, n):
    cache = net._units(states)
    cache["past"] = net.net(net._prompt([s[:, :n] for s in states], cache))[2]
    return cache


def test_the_causal_form_reads_no_examples_without_steps(states):
    with pytest.raises(ValueError, match="with steps only"):
        make("causal").context([states[0], states[-1]], with_steps=False)
    with pytest.raises(ValueError, match="no more outputs than features"):
        CausalChain(2, 4, 2, 3, n_examples=4)
