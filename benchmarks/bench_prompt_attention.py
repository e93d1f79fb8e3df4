"""Measure PromptAttention: a gradient, whole fits, memory, digits among distractors."""

import os
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from race import as_measured, race, resident, run, show
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from sklearn_attn.attention import (
    LinearAttentionClassifier,
    MeanTokenClassifier,
    PromptAttention,
    SelfAttentionClassifier,
)
from sklearn_attn.attention._token_attention import prompt_attention
from sklearn_attn.attention._token_risk import BINOMIAL, Samples, TokenRisk
from sklearn_attn.datasets import make_contextual_tokens, make_digit_needles

SIZES = [(1000, 20, 32), (2000, 50, 64)]
LARGE = (1000, 197, 192)  # images as a vision transformer cuts them
EVALUATIONS = 10  # in a turn
RIDGES = (1e-2, 1e-1)  # of head and prompt, the defaults
ADAM_RATES, ADAM_STEPS = (0.03, 0.1), 300
SAME_RISK = 1e-3  # relative excess over ours at which Adam may stop
FIRST_TEST_SEED = 1000
TASKS = {
    "3 or 8, 2 of 16": {"n_samples": 600},
    "3, 8 or 9, 2 of 12": {"n_samples": 900, "n_tokens": 12, "digits": (3, 8, 9)},
    "the same, of 6 to 12": {
        "n_samples": 900,
        "n_tokens": 12,
        "digits": (3, 8, 9),
        "min_tokens": 6,
    },
    "1 or 7, 1 of 10": {
        "n_samples": 600,
        "n_tokens": 10,
        "digits": (1, 7),
        "n_relevant": 1,
    },
    "3 or 8, 1 of 16, in photos": {
        "n_samples": 600,
        "n_relevant": 1,
        "background": "photos",
    },
}


class Problem(NamedTuple):
    """Tokens, labels 0 and 1, and parameters at which to take a gradient."""

    X: np.ndarray
    y: np.ndarray
    theta: np.ndarray
    risk: float = np.nan  # that the joint fit reaches


def make_problem(size, dtype="float64", with_risk=False, seed=0):
    n, T, d = size
    X, y = make_contextual_tokens(n, T, d, relevant_fraction=0.1, random_state=seed)
    theta = 0.1 * np.random.default_rng(seed).standard_normal(2 * d + 1)
    problem = Problem(X.astype(dtype), (y > 0).astype(int), theta)
    if with_risk:
        fitted = PromptAttention(standardize=None).fit(problem.X, problem.y)
        problem = problem._replace(risk=fitted.loss_)
    return problem


# A gradient


def ours(problem, device="cpu"):
    X = torch.from_numpy(problem.X).to(device)
    y = torch.from_numpy(problem.y.astype(problem.X.dtype)[:, None]).to(device)
    weight = torch.full_like(y[:, 0], 1 / len(y))
    samples = Samples(X, None, y, weight, BINOMIAL)
    risk = TokenRisk(samples, prompt_attention, (1, X.shape[2]), *RIDGES, True)
    for _ in range(EVALUATIONS):
        value, gradient = risk(problem.theta)
    return value, gradient


def four_products(problem):
    """What any gradient needs: all tokens times two vectors, forth and back."""
    tokens = problem.X.reshape(-1, problem.X.shape[2])
    d = tokens.shape[1]
    w, q = problem.theta.astype(tokens.dtype)[:-1].reshape(2, d)
    c = np.full(len(tokens), 1 / len(tokens), tokens.dtype)
    for _ in range(EVALUATIONS):
        answer = tokens @ w, tokens @ q, c @ tokens, c @ tokens
    return answer


def autograd(problem, pooled=True):
    X = torch.from_numpy(problem.X)
    y = torch.from_numpy(problem.y.astype(problem.X.dtype))
    d = X.shape[2]
    for _ in range(EVALUATIONS):
        theta = torch.from_numpy(problem.theta.astype(problem.X.dtype))
        theta.requires_grad_(True)
        value = penalised_risk(X, y, theta[:d], theta[d], theta[d + 1 :], pooled)
        value.backward()
        gradient = theta.grad.cpu().numpy()
    return value.item(), gradient


def penalised_risk(X, y, w, b, q, pooled=True):
    """The risk, by the pooled token as it is mostly written, or by its score alone."""
    a = torch.softmax(X @ q, 1)
    f = (a[..., None] * X).sum(1) @ w if pooled else (a * (X @ w)).sum(1)
    f = f + b
    ridge = RIDGES[0] * w @ w + RIDGES[1] * q @ q
    return F.binary_cross_entropy_with_logits(f, y) + ridge / 2


def nothing_more(problem, answer):
    return {}


def gradients(options):
    solvers = {
        "TokenRisk": ours,
        "numpy, four products": four_products,
        "torch autograd": autograd,
        "torch autograd, without pooled tokens": partial(autograd, pooled=False),
    }
    if options.device != "cpu":
        solvers["TokenRisk, " + options.device] = partial(ours, device=options.device)
    for size in SIZES if options.quick else [*SIZES, LARGE]:
        for dtype in ("float64", "float32"):
            make = partial(make_problem, size, dtype)
            warm_up = make_problem((20, 4, 3), dtype)
            table = race(solvers, nothing_more, make, warm_up, **options.race)
            for row in table:
                row["time"] += f" for {EVALUATIONS}"
            show(f"Value and gradient: {by(size)}, {dtype}", table)


def by(size):
    return " x ".join(map(str, size))


# Whole fits


def fit(problem, **parameters):
    return PromptAttention(**parameters).fit(problem.X, problem.y)


def fit_other(problem, cls):
    return cls().fit(problem.X, problem.y)


def fit_mean_token(problem):
    return LogisticRegression().fit(problem.X.mean(1), problem.y)


def fit_adam(problem, rate):
    """Train the same risk as most would: full batches, autograd, from near zero."""
    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y.astype(float))
    generator = torch.Generator().manual_seed(0)
    start = 0.01 * torch.randn(2, X.shape[2], generator=generator, dtype=X.dtype)
    w, q = (part.clone().requires_grad_(True) for part in start)
    b = X.new_zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([w, q, b], lr=rate)
    for step in range(ADAM_STEPS):  # noqa: B007
        value = penalised_risk(X, y, w, b, q)
        if value <= (1 + SAME_RISK) * problem.risk:
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return {"steps": step, "risk above ours": value.item() / problem.risk - 1}


def describe_fit(problem, model):
    if isinstance(model, dict):
        return model
    facts = {"steps": float(np.max(model.n_iter_))}
    if isinstance(model, PromptAttention) and model.standardize is None:
        facts["risk above ours"] = model.loss_ / problem.risk - 1
    return facts


def whole_fit(options):
    for size in [SIZES[0]] if options.quick else SIZES:
        make = partial(make_problem, size, with_risk=True)
        unseen = make(seed=options.repeats)  # none of the turns, to tune Adam on
        tries = {rate: fit_adam(unseen, rate) for rate in ADAM_RATES}
        rate = min(tries, key=lambda rate: tuple(tries[rate].values()))
        solvers = {
            "PromptAttention()": partial(fit, standardize=None),
            'PromptAttention("three-step")': partial(
                fit, method="three-step", standardize=None
            ),
            f"Adam, lr={rate:g}": partial(fit_adam, rate=rate),
            "MeanTokenClassifier()": partial(fit_other, cls=MeanTokenClassifier),
            "LinearAttentionClassifier()": partial(
                fit_other, cls=LinearAttentionClassifier
            ),
            "logistic regression on the mean token": fit_mean_token,
        }
        if options.device != "cpu":
            name = f"PromptAttention(device={options.device!r})"
            solvers[name] = partial(fit, standardize=None, device=options.device)
        warm_up = make_problem((40, 4, 3), with_risk=True)
        table = race(solvers, describe_fit, make, warm_up, **options.race)
        show(f"Whole fit: {by(size)}", table)


# Memory


def peak_of_fit(problem, pad=False):
    """Return the resident memory that a fit adds at its peak, per byte of tokens."""
    X = problem.X.copy()
    if pad:
        X[::2, -1] = np.nan
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    fit(problem._replace(X=X))
    added = (resident("VmHWM") - before) * 1024 / X.nbytes
    return {"peak beyond the tokens / tokens": added}


def memory(options):
    size = SIZES[-1]
    rows = race(
        {
            "PromptAttention()": peak_of_fit,
            "PromptAttention(), padded": partial(peak_of_fit, pad=True),
        },
        as_measured,
        partial(make_problem, size),
        make_problem((40, 4, 3)),
        repeats=1,
        timeout=options.timeout,
    )
    show(f"Memory: {by(size)}", rows)


# Digits among distractors


def pooled(X, pools):
    return np.hstack([pool(X, axis=1) for pool in pools])


def tuned(model, transform, X, y, **grid):
    pipeline = make_pipeline(FunctionTransformer(transform), StandardScaler(), model)
    name = pipeline.steps[-1][0]
    grid = {f"{name}__{key}": values for key, values in grid.items()}
    return GridSearchCV(pipeline, grid, cv=3).fit(X, y)


def digits(options):
    Cs = np.logspace(-4, 1, 6)
    means, spread = (np.nanmean,), (np.nanmean, np.nanstd, np.nanmin, np.nanmax)
    methods = {
        "PromptAttention()": lambda X, y: PromptAttention().fit(X, y),
        "three-step": lambda X, y: PromptAttention(method="three-step").fit(X, y),
        "linear attention": lambda X, y: LinearAttentionClassifier().fit(X, y),
        "self-attention": lambda X, y: SelfAttentionClassifier().fit(X, y),
        "mean token": lambda X, y: MeanTokenClassifier().fit(X, y),
        "logistic regression, mean": lambda X, y: tuned(
            LogisticRegression(max_iter=2000), partial(pooled, pools=means), X, y, C=Cs
        ),
        "logistic regression, four statistics": lambda X, y: tuned(
            LogisticRegression(max_iter=2000), partial(pooled, pools=spread), X, y, C=Cs
        ),
        "random forest, four statistics": lambda X, y: tuned(
            RandomForestClassifier(300, random_state=0),
            partial(pooled, pools=spread),
            X,
            y,
            min_samples_leaf=[1, 5],
        ),
        "RBF SVM, four statistics": lambda X, y: tuned(
            SVC(), partial(pooled, pools=spread), X, y, C=[0.1, 1, 10, 100]
        ),
    }
    n_seeds = 2 if options.quick else max(5, options.repeats)
    scores = {name: {"": name} for name in methods}
    for task, settings in TASKS.items():
        for name, method in methods.items():
            found, seconds = [], 0.0
            for seed in range(n_seeds):
                X, y = make_digit_needles(**settings, random_state=seed)
                test = settings | {"n_samples": 1500, "subset": "test"}
                X_test, y_test = make_digit_needles(
                    **test, random_state=FIRST_TEST_SEED + seed
                )
                start = time.perf_counter()
                model = method(X, y)
                seconds += time.perf_counter() - start
                found.append(model.score(X_test, y_test))
            scores[name][task] = f"{np.mean(found):.3f} +- {np.std(found, ddof=1):.3f}"
            scores[name][f"{task}: fit"] = f"{seconds / n_seeds:.2g} s"
            print(f"{task}, {name}: {scores[name][task]}", flush=True)
    accuracies = [
        {key: value for key, value in row.items() if not key.endswith(": fit")}
        for row in scores.values()
    ]
    show(f"Digits: test accuracy, mean +- sd of {n_seeds} seeds", accuracies)
    times = [
        {"": row[""]} | {key: row[f"{key}: fit"] for key in TASKS}
        for row in scores.values()
    ]
    show("Digits: time of a fit", times)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run([gradients, whole_fit, memory, digits], __doc__)
