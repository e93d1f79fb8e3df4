"""Measure chains of thought: rollouts with keys and values kept, filters, a plant."""

import os
import warnings
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from race import race, run, show
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LassoCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sklearn_attn.datasets import make_staged_process
from sklearn_attn.in_context import (
    ChainOfThoughtRegressor,
    InContextRegressor,
    MLPPrior,
    filtered_chain,
    load_in_context_weights,
)
from sklearn_attn.in_context._chain_transformer import CausalChain, ChainTransformer
from sklearn_attn.in_context._transformer import draw_weights

# Prompts of the rollouts: how many, examples, features, and widths of two steps
BATCH, N, D, WIDTHS = 16, 100, 5, (8, 8)
WARM_UP_N = 4
SIZES = {"width": 64, "n_layers": 3, "n_heads": 2, "mlp_ratio": 4}
# Chains filtered by hand: tasks, examples, queries
TASKS = (64, 40, 16)
# The plant: training rows, draws of them, test rows
ROWS, N_DRAWS, N_TEST = (20, 40, 80, 160, 320, 640), 5, 1000


class Prompts(NamedTuple):
    """States s^0, ..., s^3 of examples (batch, n, width)."""

    states: list
    net: torch.nn.Module


def make_prompts(n, form, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = MLPPrior(WIDTHS, bias=0.0).sample_steps(BATCH, n, D, generator=generator)
    sizes = (D, max(WIDTHS), len(WIDTHS) + 1)
    causal = form == "causal"
    net = (
        CausalChain(*sizes, n_examples=N + 1, **SIZES)
        if causal
        else ChainTransformer(*sizes, **SIZES)
    )
    draw_weights(net, torch.Generator().manual_seed(0))  # the time depends on none
    net = net.double().to(device).eval()
    return Prompts([s.double().to(device) for s in drawn.states], net)


def with_kept_keys(prompts):
    """Answer every position after those before it, and go on from the answers."""
    with torch.inference_mode():
        return _here(prompts.net.rollout_at_every_prefix(prompts.states))


def by_running_again(prompts):
    """Run the whole prompt for every position and step, as the paper's code does."""
    states, net = prompts.states, prompts.net
    found = []
    with torch.inference_mode():
        cache = net._units(states)
        for i in range(states[0].shape[1]):
            chain = [states[0][:, [i]]]
            for kind in range(1, net.depth + 1):
                past = net._prompt([s[:, :i] for s in states], cache)
                own = [net._token(j, s, cache) for j, s in enumerate(chain)]
                mean, std, _ = net.net(torch.cat([past, *own], 1))
                chain.append(net._read(mean[:, -1:], std[:, -1:], kind, cache)[0])
            found.append(chain[1:])
    return _here([torch.cat(part, 1) for part in zip(*found)])


def set_with_kept_keys(prompts):
    """Read the examples once, and answer as many queries in three passes."""
    states, net = prompts.states, prompts.net
    with torch.inference_mode():
        return _here(net.rollout(states[0].flip(1), net.context(states))[0])


def set_by_running_again(prompts):
    """Read the examples again for every query and step."""
    states, net = prompts.states, prompts.net
    found = []
    with torch.inference_mode():
        for i in reversed(range(states[0].shape[1])):
            state, chain = states[0][:, [i]], []
            for kind in range(1, net.depth + 1):
                state, _ = net({kind: state}, net.context(states))[kind]
                chain.append(state)
            found.append(chain)
    return _here([torch.cat(part, 1) for part in zip(*found)])


def _here(answers):
    return [answer.cpu() for answer in answers]


def describe_rollout(prompts, answers, reference):
    """Return the largest difference from the other way to do it."""
    apart = [float((a - b).abs().max()) for a, b in zip(answers, reference(prompts))]
    return {"largest difference": max(apart)}


def rollout(options):
    n = 20 if options.quick else N
    for device in {"cpu": None, options.device: None}:
        for form, ours, theirs in (
            ("causal", with_kept_keys, by_running_again),
            ("set", set_with_kept_keys, set_by_running_again),
        ):
            make = partial(make_prompts, n, form, device)
            describe = partial(describe_rollout, reference=ours)
            rows = race(
                {"keys and values kept": ours, "prompt run again": theirs},
                describe,
                make,
                make_prompts(WARM_UP_N, form, device),
                **options.race,
            )
            show(
                f"Rollout of {BATCH} prompts, {n} positions, three steps, {form} form, "
                f"on {device}",
                rows,
            )


def make_tasks(sizes, device, seed=0):
    n_tasks, n, q = sizes
    generator = torch.Generator().manual_seed(seed)
    drawn = MLPPrior((10,), bias=0.0).sample_steps(
        n_tasks, n + q, D, generator=generator
    )
    states = [s.double().to(device) for s in drawn.states]
    return [s[:, :n] for s in states], states[0][:, n:]


def all_at_once(problem):
    weights = load_in_context_weights("cot-relu")
    (X, s, y), X_query = problem
    return _here(filtered_chain(weights, X, [s], y, X_query))


def one_by_one(problem):
    """Show each coordinate of each step of each task to an estimator of its own."""
    contexts, state = problem
    device = state.device.type
    for before, after in pairwise(contexts):
        found = torch.empty(*state.shape[:2], after.shape[2], dtype=torch.float64)
        for b in range(len(state)):
            for j in range(after.shape[2]):
                model = InContextRegressor("cot-relu", standardize=False, device=device)
                model.fit(before[b].cpu().numpy(), after[b, :, j].cpu().numpy())
                found[b, :, j] = torch.from_numpy(model.predict(state[b].cpu().numpy()))
        state = found
    return [state]


def describe_filtered(problem, answers, reference):
    return {
        "largest difference": float((answers[-1] - reference(problem)[-1]).abs().max())
    }


def filtering(options):
    sizes = (8, 20, 4) if options.quick else TASKS
    for device in {"cpu": None, options.device: None}:
        rows = race(
            {"filtered_chain": all_at_once, "one estimator each": one_by_one},
            partial(describe_filtered, reference=all_at_once),
            partial(make_tasks, sizes, device),
            make_tasks((2, 5, 2), device),
            **options.race,
        )
        show(
            f"Hard filtering, {sizes[0]} tasks of steps of width 10, on {device}", rows
        )


def direct_regressors():
    kernel = RBF(np.ones(6)) + WhiteKernel(1e-3)
    return {
        "MLP": make_pipeline(
            StandardScaler(),
            MLPRegressor(
                hidden_layer_sizes=(64, 64),
                solver="lbfgs",
                max_iter=2000,
                random_state=0,
            ),
        ),
        "Gaussian process": make_pipeline(
            StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True)
        ),
        "quadratic lasso": make_pipeline(
            StandardScaler(), PolynomialFeatures(), StandardScaler(), LassoCV()
        ),
        "random forest": RandomForestRegressor(random_state=0),
        "boosting": HistGradientBoostingRegressor(random_state=0),
        "in context": InContextRegressor(),
    }


def plant(options):
    """Compare errors on a plant, direct and through its measured stages."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    X_test, _, y_test = make_staged_process(N_TEST, noise=0.0, random_state=1000)
    chains = {
        "chain, transformer": ChainOfThoughtRegressor(),
        "chain, least squares": ChainOfThoughtRegressor(solver="filtered"),
    }
    rows = []
    sizes, n_draws = (ROWS[:3], 2) if options.quick else (ROWS, N_DRAWS)
    for name, model in (chains | direct_regressors()).items():
        row = {"": name}
        for n in sizes:
            errors = []
            for seed in range(n_draws):
                X, steps, y = make_staged_process(n, random_state=seed)
                settings = {"steps": steps} if name in chains else {}
                predicted = model.fit(X, y, **settings).predict(X_test)
                errors.append(np.square(predicted - y_test).mean() / y_test.var())
            row[f"n = {n}"] = f"{np.median(errors):.2g}"
        rows.append(row)
    show(f"Plant: error over variance, median of {n_draws} draws", rows)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    run([rollout, filtering, plant], __doc__)
