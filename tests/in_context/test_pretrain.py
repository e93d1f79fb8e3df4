"""Pretraining: what it draws, how it goes on, and what its card says."""

import os
import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_attn.in_context import (
    LDSPrior,
    LinearPrior,
    TaskPool,
    pretrain_in_context,
    pretrain_in_context_from,
)
from sklearn_attn.in_context import _pretrain as module

TINY = {"n_features_max": 3, "width": 8, "n_layers": 1, "batch_size": 4}


class Interrupt(Callback):
    """Stop as Ctrl-C would, or as a machine that is taken away."""

    def __init__(self, step):
        self.step, self.seen = step, 0

    def on_batch_begin(self, net, **kwargs):
        self.seen += 1
        if self.seen > self.step:
            raise RuntimeError("interrupted")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (
        pretrain_in_context(LinearPrior(0.1), **TINY, n_steps=4, random_state=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_the_card_says_how_the_weights_were_made():
    weights = pretrain_in_context(LinearPrior(0.1), **TINY, n_steps=3, random_state=7)
    card = weights.card
    assert card["prior"] == repr(LinearPrior(0.1))
    assert (card["steps"], card["tasks"], card["batch_size"]) == (3, 12, 4)
    assert card["seconds"] > 0
    assert np.isfinite(card["final_loss"])
    assert weights.config["width"] == 8
    assert weights.n_features == 3


@pytest.mark.parametrize("architecture", ["set", "gpt2"])
def test_training_lowers_the_error_of_linear_tasks(architecture):
    generator = torch.Generator().manual_seed(5)
    tasks = LinearPrior().sample(256, 9, 1, generator=generator)
    errors = []
    # the causal form stays on a plateau at first
    for n_steps in (1, 100 if architecture == "set" else 400):
        weights = pretrain_in_context(
            LinearPrior(),
            architecture=architecture,
            n_features_max=1,
            n_examples_max=8,
            width=32,
            n_layers=2,
            learning_rate=3e-3,
            n_steps=n_steps,
            random_state=0,
        )
        mean, _ = weights.predict(tasks.X[:, :8], tasks.y[:, :8], tasks.X[:, 8:])
        errors.append(float((mean - tasks.y[:, 8:]).square().mean()))
    assert errors[1] < 0.4 * errors[0]


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_EPOCH", 4)
    settings = TINY | {"n_steps": 10, "random_state": 0}
    whole = pretrain_in_context(LinearPrior(0.1), **settings)
    path = tmp_path / "state.pt"
    with pytest.raises(RuntimeError, match="interrupted"):
        pretrain_in_context(
            LinearPrior(0.1), **settings, checkpoint=path, callbacks=[Interrupt(7)]
        )
    assert torch.load(path, weights_only=True)["step"] == 4
    resumed = pretrain_in_context(LinearPrior(0.1), **settings, checkpoint=path)
    assert resumed == whole
    assert resumed.card["steps"] == 10
    done = pretrain_in_context(LinearPrior(0.1), **settings, checkpoint=path)
    assert done == whole  # there is nothing left to do


def test_a_checkpoint_of_another_transformer_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    pretrain_in_context(LinearPrior(), **TINY, n_steps=1, checkpoint=path)
    with pytest.raises(ValueError, match=r"of another training: config is"):
        pretrain_in_context(
            LinearPrior(), **TINY | {"width": 16}, n_steps=1, checkpoint=path
        )
    with pytest.raises(ValueError, match="of another training: prior is"):
        pretrain_in_context(LinearPrior(1.0), **TINY, n_steps=1, checkpoint=path)
    with pytest.raises(ValueError, match="another training: learning_rate is"):
        pretrain_in_context(
            LinearPrior(), **TINY, n_steps=1, learning_rate=1e-4, checkpoint=path
        )
    with pytest.raises(ValueError, match="another training: seed is"):
        pretrain_in_context(
            LinearPrior(), **TINY, n_steps=1, checkpoint=path, random_state=5
        )


@pytest.mark.parametrize("text", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_refused_and_so_is_a_missing_folder(tmp_path, text):
    path = tmp_path / "state.pt"
    if text is None:
        torch.save({"module": 1}, path)
    else:
        path.write_bytes(text)
    with pytest.raises(ValueError, match="damaged, or was not written"):
        pretrain_in_context(LinearPrior(), **TINY, n_steps=1, checkpoint=path)
    with pytest.raises(ValueError, match="no folder for the checkpoint"):
        pretrain_in_context(LinearPrior(), checkpoint=tmp_path / "none" / "state.pt")


def test_an_interruption_by_the_user_is_passed_on_and_written_down(tmp_path):
    class Stop(Callback):
        def on_batch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        pretrain_in_context(
            LinearPrior(), **TINY, n_steps=9, checkpoint=path, callbacks=[Stop()]
        )
    assert torch.load(path, weights_only=True)["step"] == 1


def test_a_longer_training_goes_on_from_a_shorter_one(tmp_path):
    settings = {"random_state": 0, "checkpoint": tmp_path / "state.pt"}
    first = pretrain_in_context(LinearPrior(), **TINY, n_steps=2, **settings)
    second = pretrain_in_context(LinearPrior(), **TINY, n_steps=4, **settings)
    assert (first.card["steps"], second.card["steps"]) == (2, 4)
    assert first != second


def test_training_starts_from_other_weights_of_the_same_sizes():
    first = pretrain_in_context(LinearPrior(), **TINY, n_steps=2, random_state=0)
    settings = TINY | {"n_steps": 1, "learning_rate": 1e-12, "random_state": 1}
    second = pretrain_in_context(LinearPrior(1.0), **settings, start=first)
    for key, value in first._state.items():
        np.testing.assert_allclose(second._state[key], value, atol=1e-9)
    assert second.card["start"] == first.sha256
    with pytest.raises(ValueError, match="weights to start from have sizes"):
        pretrain_in_context(LinearPrior(), **settings | {"width": 16}, start=first)


def test_a_time_budget_ends_training():
    weights = pretrain_in_context(
        LinearPrior(), **TINY, time_budget=0.5, random_state=0
    )
    assert weights.card["steps"] > 1
    assert 0.5 <= weights.card["seconds"] < 20


def test_torchs_state_is_left_as_it_was():
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    pretrain_in_context(LinearPrior(), **TINY, n_steps=2, random_state=0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_callbacks_of_skorch_are_called_and_progress_is_shown(capsys):
    seen, ended = [], []

    class Watch(Callback):
        def on_batch_end(self, net, **kwargs):
            seen.append(net.optimizer_.param_groups[0]["lr"])

        def on_epoch_end(self, net, **kwargs):
            ended.append("epoch")

        def on_train_end(self, net, **kwargs):
            ended.append("train")

    pretrain_in_context(
        LinearPrior(), **TINY, n_steps=20, callbacks=[Watch()], random_state=0
    )
    assert len(seen) == 20
    assert ended == ["epoch", "train"]
    assert seen[0] == pytest.approx(3e-3, rel=0.01)  # 5 % of 20 steps is one
    assert seen[-1] < 0.1 * seen[0]
    assert capsys.readouterr().out == ""
    pretrain_in_context(LinearPrior(), **TINY, n_steps=2, verbose=1, random_state=0)
    out = capsys.readouterr()
    assert "train_loss" in out.out + out.err


def test_series_take_the_causal_form_and_know_the_scale_of_their_prior():
    prior = LDSPrior(5, 2, noise=30.0)
    weights = pretrain_in_context(
        prior, n_examples_max=12, width=8, n_layers=1, n_steps=2, random_state=0
    )
    assert weights.form == "series"
    assert weights.max_context == 11  # the last step is only a target
    series = prior.sample_series(500, 12, generator=torch.Generator().manual_seed(0))
    rms = float(series.square().mean().sqrt())
    assert float(weights.module().scale) == pytest.approx(rms, rel=0.1)
    mean, std = weights.predict_next(series[:, :11])
    assert mean.shape == std.shape == (500, 11, 2)
    assert float(std.mean()) > 0.1 * rms


def stream(**changes):
    settings = {
        "prior": LinearPrior(1.0),
        "form": "set",
        "n_features_max": 4,
        "n_examples_max": 12,
        "batch_size": 32,
        "n_queries": 3,
        "vary_features": True,
        "standardize": False,
        "generator": torch.Generator().manual_seed(0),
    }
    return module._Stream(**settings | changes)


def test_batches_vary_in_features_and_length_and_tell_the_noise_of_some_tasks():
    drawn = [stream_batch for _, stream_batch in zip(range(150), stream())]
    features = {prompt["X"].shape[2] for prompt, _ in drawn}
    lengths = {prompt["X"].shape[1] for prompt, _ in drawn}
    assert features == {1, 2, 3, 4}
    assert min(lengths) == 1
    assert max(lengths) == 12
    told = torch.cat([~prompt["noise"].isnan() for prompt, _ in drawn])
    assert float(told.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert all(target.shape == (32, 3) for _, target in drawn)


def test_all_features_are_there_if_they_do_not_vary():
    batches = zip(range(10), stream(vary_features=False))
    assert {prompt["X"].shape[2] for _, (prompt, _) in batches} == {4}


def test_contexts_are_standardised_as_the_estimator_does_it():
    for _, (prompt, _) in zip(range(10), stream(standardize=True)):
        X, y = prompt["X"], prompt["y"]
        if X.shape[1] > 2:
            assert float(X.mean(1).abs().max()) < 1e-4
            assert float((y.square().mean(1) - 1).abs().median()) < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "rnn"}, "architecture must be one of"),
        ({"n_steps": 0}, "n_steps must be a whole number"),
        ({"n_steps": 5, "time_budget": 1.0}, "either n_steps or time_budget"),
        ({"time_budget": -1.0}, "time_budget must be above 0"),
        ({"n_features_max": 0}, "n_features_max"),
        ({"n_examples_max": 2.5}, "n_examples_max"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_queries": 0}, "n_queries"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"standardize": "some"}, "standardize"),
        ({"width": 9}, "n_heads=2 must divide width=9"),
        ({"n_heads": 1}, "be even in the set form"),
        ({"n_layers": 1000}, "n_layers=1000"),
        ({"n_layers": 2.5}, "n_layers must be a whole number"),
        ({"start": "icl-linear"}, "start must be a PretrainedICL"),
    ],
)
def test_settings_are_checked_before_training(changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain_in_context(LinearPrior(), **changes)


def test_a_prior_needs_a_method_that_draws():
    with pytest.raises(ValueError, match="method `sample` or `sample_series`"):
        pretrain_in_context("linear")


def test_series_start_from_weights_with_their_scale():
    settings = {"n_examples_max": 12, "width": 8, "n_layers": 1, "random_state": 0}
    first = pretrain_in_context(LDSPrior(4, 2, noise=30.0), n_steps=2, **settings)
    second = pretrain_in_context(
        LDSPrior(4, 2, noise=60.0),
        n_steps=1,
        learning_rate=1e-12,
        start=first,
        **settings,
    )
    assert float(second._state["scale"]) == float(first._state["scale"])
    series = torch.randn(3, 5, 2) * 30
    torch.testing.assert_close(
        second.predict_next(series)[0], first.predict_next(series)[0]
    )


def test_a_loss_that_is_not_finite_ends_training_with_a_reason():
    with pytest.raises(FloatingPointError, match="smaller learning_rate"):
        pretrain_in_context(
            LinearPrior(), **TINY, n_steps=50, learning_rate=1e30, random_state=0
        )


def tables(n_tasks=6, n=12):
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(n_tasks * n, 2)), rng.normal(size=(n_tasks, 2))
    ids = np.repeat(np.arange(n_tasks), n)
    return X, (X * w[ids]).sum(1), ids


def test_ones_own_tasks_are_drawn_row_by_row_without_repeats():
    X, y, ids = tables()
    pool = TaskPool(X, y, ids)
    tasks = pool.sample(50, 12, 2, generator=torch.Generator().manual_seed(0))
    for rows, targets in zip(tasks.X.numpy(), tasks.y.numpy()):
        rows, targets = rows * X.std(0), targets * y.std()
        places = [np.abs(X - row).sum(1).argmin() for row in rows]
        assert len(set(places)) == 12
        assert len(set(ids[places])) == 1
        np.testing.assert_allclose(rows, X[places], atol=1e-5)
        np.testing.assert_allclose(targets, y[places], atol=1e-5)
    with pytest.raises(ValueError, match="smallest task has 12 rows; not 13"):
        pool.sample(5, 13, 2, generator=torch.Generator())


@pytest.mark.parametrize(("a", "b"), [(1e-9, 0.0), (1e25, 0.0), (1.0, 1e7)])
def test_units_of_ones_own_tasks_do_not_matter(a, b):
    X, y, ids = tables()
    plain, other = (
        TaskPool(*data, ids).sample(
            5, 12, 2, generator=torch.Generator().manual_seed(0)
        )
        for data in ((X, y), (a * X + b, a * y + b))
    )
    for one, two in ((plain.X, other.X), (plain.y, other.y)):
        one, two = (part - part.mean(1, keepdim=True) for part in (one, two))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_pretraining_on_ones_own_tasks_learns_them():
    X, y, ids = tables()
    weights = pretrain_in_context_from(
        X, y, ids, n_steps=150, width=16, n_layers=2, random_state=0
    )
    assert weights.n_features == 2
    assert weights.card["prior"].startswith("TaskPool(6 tasks, 72 rows, sha256 ")
    new, w = np.random.default_rng(1).normal(size=(1, 8, 2)), np.array([1.0, -1.0])
    context = torch.from_numpy(new)
    mean, _ = weights.predict(
        context[:, :7], context[:, :7] @ torch.from_numpy(w), context[:, 7:]
    )
    assert torch.isfinite(mean).all()
    task = torch.from_numpy(X[:12])[None], torch.from_numpy(y[:12])[None]
    mean, _ = weights.predict(task[0][:, :8], task[1][:, :8], task[0][:, 8:])
    error = (mean - task[1][:, 8:]).square().mean()
    assert float(error) < 0.5 * float(task[1].square().mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": slice(0, 5)}, "name the task of each of 72 rows"),
        ({"nan": True}, "finite"),
        ({"few": True}, "three rows or more"),
        ({"n_queries": 12}, "cannot give 0 examples and 12 queries"),
        ({"n_features_max": 3}, "follows from X"),
    ],
)
def test_ones_own_tasks_are_checked(change, message):
    X, y, ids = tables()
    settings = {k: v for k, v in change.items() if k.startswith("n_")}
    if "ids" in change:
        ids = ids[change["ids"]]
    if "nan" in change:
        y[3] = np.nan
    if "few" in change:
        ids[0] = 99
    with pytest.raises(ValueError, match=message):
        pretrain_in_context_from(X, y, ids, n_steps=1, **settings)


def test_processes_of_torchrun_average_their_gradients(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        dedent(
            """
            import os, sys
            from sklearn_attn.in_context import LinearPrior, pretrain_in_context

            weights = pretrain_in_context(
                LinearPrior(0.1), n_features_max=3, width=8, n_layers=1, batch_size=4,
                n_steps=3, checkpoint=sys.argv[1] + "/state.pt",
            )
            assert weights.card["tasks"] == 24
            with open(sys.argv[1] + "/" + os.environ["RANK"], "w") as file:
                file.write(weights.sha256)
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(script), str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=120,
        env=environment,
    )
    shas = [(tmp_path / rank).read_text() for rank in "01"]
    assert shas[0] == shas[1]  # without a seed of the user's, too
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3
