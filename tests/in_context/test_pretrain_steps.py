"""Training of whole chains: it learns, goes on, and says what it did."""

import numpy as np
import pytest
import torch

from sklearn_attn.in_context import (
    DeepLinearPrior,
    LinearPrior,
    MLPPrior,
    PretrainedICL,
    pretrain_chain_of_thought,
)
from sklearn_attn.in_context._pretrain_steps import _Loss, _Stream

PRIOR = MLPPrior((3,), bias=0.0)
SMALL = {
    "n_features_max": 2,
    "n_examples_max": 8,
    "batch_size": 8,
    "n_queries": 4,
    "width": 16,
    "n_layers": 2,
}


def train(prior=PRIOR, **settings):
    return pretrain_chain_of_thought(prior, random_state=0, **(SMALL | settings))


def test_training_learns_the_linear_step_at_first():
    weights = train(n_steps=400, vary_features=False)
    (errors,) = weights.card["errors_of_steps"]
    assert len(errors) == 3  # y at once, the step, and y
    tasks = PRIOR.sample_steps(64, 12, 2, generator=torch.Generator().manual_seed(9))
    known = (tasks.X[:, :8], [tasks.steps[0][:, :8]], tasks.y[:, :8], tasks.X[:, 8:])
    forced, _ = weights.predict_steps(*known, given={0: tasks.steps[0][:, 8:]})
    error = (forced[-1] - tasks.y[:, 8:]).square().mean()
    assert error < 0.5 * tasks.y[:, 8:].square().mean()


@pytest.mark.parametrize("architecture", ["set", "gpt2"])
def test_a_seed_determines_the_weights(architecture):
    first, again = (train(n_steps=3, architecture=architecture) for _ in range(2))
    assert first == again
    assert first != train(n_steps=4, architecture=architecture)
    assert first.form == {"set": "chain", "gpt2": "causal-chain"}[architecture]
    assert first.max_context == (None if architecture == "set" else 8)


def test_training_goes_on_from_a_checkpoint(tmp_path):
    path = tmp_path / "run.pt"

    class Stop(Exception):
        pass

    from skorch.callbacks import Callback

    class Interrupt(Callback):
        seen = 0

        def on_batch_end(self, net, **kwargs):
            self.seen += 1
            if self.seen == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(n_steps=8, checkpoint=path, callbacks=[Interrupt()])
    assert train(n_steps=8, checkpoint=path) == train(n_steps=8)


def test_the_card_says_what_was_done(tmp_path):
    weights = train(n_steps=5)
    card = weights.card
    assert card["steps"] == 5
    assert card["tasks"] == 40
    assert card["prior"] == repr(PRIOR)
    config = weights.config
    assert (config["depth"], config["step_width"], config["n_outputs"]) == (2, 3, 1)
    weights.save(tmp_path / "w.safetensors")
    assert PretrainedICL.load(tmp_path / "w.safetensors") == weights


def test_training_starts_from_weights():
    first = train(n_steps=2)
    other = train(n_steps=1, start=first, learning_rate=1e-12)
    for key, value in first._state.items():
        np.testing.assert_allclose(other._state[key], value, atol=1e-6)


def test_torch_generator_and_widths_are_as_they_were():
    state = torch.get_rng_state()
    weights = train(MLPPrior(((1, 4), 2)), n_steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights.config["step_width"] == 4
    assert train(n_steps=1, step_width_max=5).config["step_width"] == 5


def test_outputs_of_deep_linear_tasks_are_all_asked_for():
    weights = train(DeepLinearPrior(2, n_features=2), n_steps=1, vary_features=False)
    assert weights.config["n_outputs"] == 2


def test_a_prior_with_features_of_its_own_has_always_these():
    weights = train(DeepLinearPrior(2, n_features=2), n_steps=3)
    assert weights.card["vary_features"] is False


def test_steps_beyond_the_network_are_refused():
    class Growing:
        widths = iter(range(3, 9))

        def sample_steps(self, *sizes, generator):
            prior = MLPPrior((next(self.widths),), bias=0.0)
            return prior.sample_steps(*sizes, generator=generator)

    with pytest.raises(ValueError, match="drew states of widths"):
        train(Growing(), n_steps=3)


@pytest.mark.parametrize("form", ["chain", "causal-chain"])
def test_batches_have_states_in_units_of_their_own(form):
    generator = torch.Generator().manual_seed(0)
    stream = _Stream(PRIOR, form, [2, 3, 1], 6, 5, 4, False, generator)
    seen = set()
    for _ in range(12):
        prompt, asked = stream.draw()
        targets, counts = asked["targets"], asked["counts"]
        assert len(counts) == len(targets)
        seen.add(tuple(prompt))
        if form == "causal-chain":
            assert [s.shape[1] for s in prompt["states"]] == [7, 7, 7]
            assert torch.equal(targets[0], targets[2])  # y at once is y
            power = prompt["states"][1].square().mean((1, 2))
            torch.testing.assert_close(power, torch.ones(5))
        elif "ends" in prompt:
            assert len(targets) == 1
        else:
            assert len(targets) == 3
            assert torch.equal(targets[1], prompt["queries"][1])
    expected = {"chain": {("states", "queries"), ("ends", "queries")}}
    assert seen == expected.get(form, {("states",)})


def test_states_of_other_examples_are_not_asked_for():
    generator = torch.Generator().manual_seed(0)
    stream = _Stream(PRIOR, "chain", [2, 3, 1], 6, 5, 4, False, generator)
    seen = set()
    for _ in range(80):
        prompt, asked = stream.draw()
        counts = tuple(asked["counts"].int().tolist())
        seen.add(counts)
        if len(counts) == 3 and prompt["states"][0].shape[1] > 3:
            _, s, y = (state.double() for state in prompt["states"])
            W = torch.linalg.lstsq(s, y, driver="gelsd").solution
            fits = float((s @ W - y).abs().max()) < 1e-3
            assert fits == bool(counts[2])
    # all; of x, s, y: what goes neither to it nor from it
    assert seen == {(1,), (1, 1, 1), (0, 0, 1), (1, 0, 0), (0, 1, 0)}


def test_steps_count_the_same_whatever_their_width():
    loss = _Loss()
    mean, s = torch.zeros(4, 3, 1), torch.ones(4, 3, 1)
    narrow = ((mean, s), torch.full_like(mean, 2.0))
    wide = ((mean.expand(4, 3, 50), s.expand(4, 3, 50)), torch.ones(4, 3, 50))

    def of(*pairs, counts=None):
        answers, targets = zip(*pairs)
        counts = torch.ones(len(pairs)) if counts is None else torch.tensor(counts)
        return float(loss(answers, {"targets": targets, "counts": counts}))

    both = of(narrow, wide)
    assert both == pytest.approx((of(narrow) + of(wide)) / 2)
    assert loss.of_steps() == [4.0, 1.0]
    # what is not asked for counts neither in the loss nor in the record
    assert of(narrow, wide, counts=[0.0, 1.0]) == pytest.approx(of(wide))
    assert of(narrow, wide) == pytest.approx(both)
    assert loss.of_steps() == [4.0, 1.0]
    assert loss.of_steps() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": LinearPrior()}, "has a `sample_steps`"),
        ({"architecture": "mlp"}, "architecture must be one of"),
        ({"step_width_max": 2}, "has steps of width 3"),
        ({"n_features_max": 0}, "n_features_max must be a whole number"),
        ({"n_examples_max": 0}, "n_examples_max must be a whole number"),
        ({"n_steps": 3, "time_budget": 1}, "either n_steps or time_budget"),
        ({"learning_rate": 0}, "learning_rate must be 'auto' or above 0"),
        ({"n_heads": 3}, "n_heads=3 must divide"),
        ({"n_heads": 1}, "even in the set form"),
        ({"start": "w"}, "start must be a PretrainedICL"),
        ({"checkpoint": "/nowhere/at/all.pt"}, "no folder for the checkpoint"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        train(**settings)
