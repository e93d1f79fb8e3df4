"""Chains on a GPU answer as on the CPU."""

import numpy as np
import pytest
import torch

from sklearn_attn.datasets import make_composed_tasks, make_staged_process
from sklearn_attn.in_context import (
    ChainOfThoughtRegressor,
    MLPPrior,
    filtered_least_squares,
    pretrain_chain_of_thought,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("filtering", ["hard", "attention"])
@pytest.mark.parametrize(("dtype", "tol"), [("float64", 1e-9), ("float32", 1e-2)])
def test_steps_are_the_same_on_both_devices(filtering, dtype, tol):
    X, steps, y = make_staged_process(60, random_state=0)
    model = ChainOfThoughtRegressor(filtering=filtering, dtype=dtype)
    flows = steps["flows"]
    on_cpu = model.fit(X, y, steps=flows).predict_steps(X)[0]
    on_gpu = model.set_params(device="cuda").fit(X, y, steps=flows).predict_steps(X)[0]
    np.testing.assert_allclose(on_gpu, on_cpu, atol=tol * np.abs(on_cpu).max())


def test_weights_trained_on_the_gpu_answer_on_both_devices():
    weights = pretrain_chain_of_thought(
        MLPPrior((4,), bias=0.0),
        n_features_max=3,
        n_steps=20,
        device="cuda",
        random_state=0,
    )
    X, steps, y = make_composed_tasks(4, 12, 3, hidden_layer_sizes=(4,), random_state=0)
    states = [torch.from_numpy(s) for s in (X, steps[0], y)]
    found = {}
    for device in ("cpu", "cuda"):
        x, s, t = (state.to(device) for state in states)
        means, _ = weights.predict_steps(x[:, :8], [s[:, :8]], t[:, :8], x[:, 8:])
        found[device] = [mean.cpu() for mean in means]
    for on_cpu, on_gpu in zip(*found.values()):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-9, atol=1e-9)


def test_the_construction_is_the_same_on_both_devices():
    X, steps, y = make_composed_tasks(8, 30, 5, random_state=0)
    states = [torch.from_numpy(s) for s in (X, steps[0], y)]
    found = []
    for device in ("cpu", "cuda"):
        x, s, t = (a.to(device) for a in states)
        found.append(
            filtered_least_squares(x[:, :20], [s[:, :20]], t[:, :20], x[:, 20:])
        )
    for on_cpu, on_gpu in zip(*found):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-8, atol=1e-8)
