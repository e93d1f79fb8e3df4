"""Measure InContextRegressor and pretraining: steps, files, time, memory, small tables.

The steps against Hugging Face's GPT-2 need `transformers`, and are left out without.
"""

import os
import tempfile
import time
import warnings
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from race import as_measured, peak, race, run, show
from scipy.stats import friedmanchisquare, rankdata, wilcoxon
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_iris,
    load_linnerud,
    load_wine,
    make_friedman1,
)
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from sklearn_attn.in_context import (
    InContextRegressor,
    PretrainedICL,
    load_in_context_weights,
    ridge,
)
from sklearn_attn.in_context._transformer import (
    LEAST_STD,
    CausalLearner,
    interleave,
)

# Steps: sizes of the paper's tiny learner, its prompts, and what is common to all
TINY = {"width": 64, "n_layers": 3, "n_heads": 2, "mlp_ratio": 4}
SMALL = {"width": 128, "n_layers": 6, "n_heads": 4, "mlp_ratio": 4}
PROMPTS = ((5, 11), (20, 41))  # features, examples
BATCH, N_STEPS, RATE = 64, 10, 1e-4
# Tables: rows of the context, features, queries
TABLE = (200, 10, 1000)
WARM_UP = (30, 10, 20)
QUERIES = (1_000, 10_000, 100_000)
# Many tasks: how many, examples and features of each, queries to each
TASKS = (256, 40, 10, 16)
# Accuracy: training rows, the fewest test rows, and repetitions
SIZES, LEAST_TEST, N_SPLITS = (20, 50, 100, 200), 30, 30
ALPHAS = np.logspace(-3, 3, 13)
MEBIBYTE = 2**20


def race_in_cpu(solvers, describe, make, warm_up, options):
    """Race, and add CPU seconds, which other work on the machine disturbs less."""
    rows = race(
        {name: partial(clocked, solve=solve) for name, solve in solvers.items()},
        partial(describe_clocked, describe=describe),
        make,
        warm_up,
        **options.race,
    )
    for row in rows:
        if "CPU, s" in row:
            row["CPU ratio"] = row["CPU, s"] / rows[0]["CPU, s"]
    return rows


def clocked(problem, solve):
    start = time.process_time()
    answer = solve(problem)
    return time.process_time() - start, answer


def describe_clocked(problem, answer, describe):
    seconds, answer = answer
    return {"CPU, s": seconds} | describe(problem, answer)


# Training steps


class Prompts(NamedTuple):
    """Linear tasks for some steps: (steps, batch, n, d) and (steps, batch, n)."""

    X: torch.Tensor
    y: torch.Tensor


def make_prompts(size, seed=0):
    d, n = size
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(N_STEPS, BATCH, n, d, generator=generator)
    w = torch.randn(N_STEPS, BATCH, d, generator=generator) / d**0.5
    return Prompts(X, torch.einsum("tbnd,tbd->tbn", X, w))


def ours(size, sizes=TINY):
    d, n = size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CausalLearner(d, n, **sizes)


class GPT2Learner(nn.Module):
    """Hugging Face's GPT-2 on the same prompts, from the same first weights."""

    def __init__(self, learner, sizes, attention):
        from transformers import GPT2Config, GPT2Model

        super().__init__()
        net = learner.net
        config = GPT2Config(
            n_positions=net.n_positions,
            n_embd=sizes["width"],
            n_layer=sizes["n_layers"],
            n_head=sizes["n_heads"],
            n_inner=sizes["mlp_ratio"] * sizes["width"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            attn_implementation=attention,
        )
        self.backbone = GPT2Model(config)
        self.read_in, self.read_out = net.read_in, net.read_out
        pairs = [(self.backbone.ln_f, net.norm)]
        for theirs, block in zip(self.backbone.h, net.blocks):
            pairs += [
                (theirs.ln_1, block.norm),
                (theirs.attn.c_attn, block.project),
                (theirs.attn.c_proj, block.merge),
                (theirs.ln_2, block.mlp_norm),
                (theirs.mlp.c_fc, block.up),
                (theirs.mlp.c_proj, block.down),
            ]
        with torch.no_grad():
            self.backbone.wpe.weight.copy_(net.positions)
            for theirs, layer in pairs:  # their matrices are transposed
                theirs.weight.copy_(layer.weight.t())
                theirs.bias.copy_(layer.bias)

    def at_every_prefix(self, X, y):
        z = self.read_in(interleave(X, y))
        z = self.backbone(inputs_embeds=z).last_hidden_state
        mean, spread = self.read_out(z).chunk(2, -1)
        return mean[:, ::2, 0], (F.softplus(spread) + LEAST_STD)[:, ::2, 0]


def theirs(size, sizes=TINY, attention="sdpa"):
    return GPT2Learner(ours(size, sizes), sizes, attention)


def train(prompts, learner):
    """Take some steps, forward and backward, and return the loss of the last one."""
    _, _, n, d = prompts.X.shape
    if (d, n) not in KEPT:
        net = learner((d, n))
        KEPT[d, n] = net, torch.optim.Adam(net.parameters(), lr=RATE)
    net, optimizer = KEPT[d, n]
    for X, y in zip(*prompts):
        mean, std = net.at_every_prefix(X, y)
        loss = (0.5 * ((y - mean) / std).square() + std.log()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss)


# of a process, so that no turn makes it anew
KEPT: dict[tuple, tuple] = {}


def describe_loss(prompts, loss):
    return {"loss": loss}


def steps(options):
    contenders = {"CausalLearner": partial(train, learner=ours)}
    if has_transformers():
        contenders |= {
            "GPT2Model": partial(train, learner=theirs),
            "GPT2Model, eager": partial(
                train, learner=partial(theirs, attention="eager")
            ),
        }
    for d, n in PROMPTS[:1] if options.quick else PROMPTS:
        rows = race_in_cpu(
            contenders,
            describe_loss,
            partial(make_prompts, (d, n)),
            make_prompts((d, n)),
            options,
        )
        show(f"{N_STEPS} steps of {BATCH} prompts: d = {d}, {n} examples, tiny", rows)


@cache
def has_transformers():
    """Say whether they are here, and if not, once, what is left out."""
    if find_spec("transformers"):
        return True
    print("\ntransformers is not installed: GPT2Model is left out.")
    return False


def checkpoints(options):
    """Files of the same learner: ours, and the state that GPT2Model keeps."""
    rows = []
    for name, sizes in {"tiny": TINY, "small": SMALL}.items():
        d, n = PROMPTS[-1]
        learner = ours((d, n), sizes)
        state = {key: value.numpy() for key, value in learner.state_dict().items()}
        config = {"form": "examples", "n_features": d, "n_examples": n} | sizes
        weights = PretrainedICL(config, state)
        row = {
            "": f"{name}, d = {d}, {n} examples",
            "weights": f"{weights.n_parameters:,}",
            "ours, MiB": file_size(weights.save),
            "float16": file_size(partial(weights.save, dtype="float16")),
        }
        if has_transformers():
            kept = theirs((d, n), sizes).state_dict()
            used = {k: v for k, v in kept.items() if "wte" not in k}
            row["GPT2Model, MiB"] = file_size(partial(torch.save, kept))
            row["without its words"] = file_size(partial(torch.save, used))
            row["ratio"] = row["GPT2Model, MiB"] / row["ours, MiB"]
        rows.append(row)
    show("Checkpoints", rows)


def file_size(save):
    """Return the size in MiB of what is saved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        save(path)
        return path.stat().st_size / MEBIBYTE


# Tables


class Table(NamedTuple):
    """Rows with targets, queries with theirs, and a model that has read the rows."""

    X: np.ndarray
    y: np.ndarray
    queries: np.ndarray
    answers: np.ndarray
    warm: object


def make_table(size, seed=0):
    n, d, q = size
    X, y = make_friedman1(n + q, n_features=d, noise=1.0, random_state=seed)
    warm = InContextRegressor().fit(X[:n], y[:n])
    warm.predict(X[n : n + 1])
    return Table(X[:n], y[:n], X[n:], y[n:], warm)


def fit_predict(table, model):
    return model().fit(table.X, table.y).predict(table.queries)


def warm_predict(table):
    return table.warm.predict(table.queries)


def warm_one(table):
    return table.warm.predict(table.queries[:1])


def ridge_cv():
    return make_pipeline(StandardScaler(), RidgeCV(alphas=ALPHAS))


def gaussian_process():
    kernel = ConstantKernel() * RBF(3.0) + WhiteKernel(0.3)
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    return make_pipeline(StandardScaler(), model)


def forest():
    return RandomForestRegressor(random_state=0)


RIVALS = {
    "RidgeCV": ridge_cv,
    "GaussianProcessRegressor": gaussian_process,
    "RandomForestRegressor": forest,
}


def r2(table, answers):
    error = np.square(answers - table.answers).mean()
    return {"R2": 1 - error / table.answers.var()}


def latency(options):
    contenders = {
        "InContextRegressor(), fit and predict": partial(
            fit_predict, model=InContextRegressor
        ),
        "predict again": warm_predict,
        'dtype="float32"': partial(
            fit_predict, model=partial(InContextRegressor, dtype="float32")
        ),
        "n_estimators=8": partial(
            fit_predict,
            model=partial(InContextRegressor, n_estimators=8, random_state=0),
        ),
    }
    contenders |= {
        name: partial(fit_predict, model=model) for name, model in RIVALS.items()
    }
    rows = race_in_cpu(
        contenders, r2, partial(make_table, TABLE), make_table(WARM_UP), options
    )
    n, d, q = TABLE
    show(f"Latency: {q:,} queries, {n} rows of {d} features", rows)
    rows = race_in_cpu(
        {"InContextRegressor().predict, one query": warm_one},
        alone,
        partial(make_table, TABLE),
        make_table(WARM_UP),
        options,
    )
    show(f"Latency: one query, {n} rows of {d} features are read", rows)


def alone(table, answers):
    return {}


def memory(options):
    n, d, _ = TABLE
    for q in QUERIES[:2] if options.quick else QUERIES:
        contenders = {
            "InContextRegressor()": partial(
                peak, solve=partial(fit_predict, model=InContextRegressor)
            )
        }
        contenders |= {
            name: partial(peak, solve=partial(fit_predict, model=model))
            for name, model in RIVALS.items()
        }
        rows = race(
            contenders,
            as_measured,
            partial(make_table, (n, d, q)),
            make_table(WARM_UP),  # a larger one would leave memory behind
            repeats=1,
            timeout=options.timeout,
        )
        show(f"Memory: {q:,} queries, {n} rows of {d} features", rows)


# Many tasks


class Many(NamedTuple):
    """Linear tasks with noise .1."""

    X: torch.Tensor
    y: torch.Tensor
    queries: torch.Tensor
    answers: torch.Tensor


def make_many(size, seed=0):
    n_tasks, n, d, q = size
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    X, w = draw(n_tasks, n + q, d), draw(n_tasks, d) / d**0.5
    y = torch.einsum("tnd,td->tn", X, w)
    noisy = y + 0.1 * draw(n_tasks, n + q)
    return Many(X[:, :n], noisy[:, :n], X[:, n:], y[:, n:])


def at_once(many, dtype=torch.float64):
    X, y, queries = (part.to(dtype) for part in many[:3])
    return load_in_context_weights("icl-mixed").predict(X, y, queries)[0]


def one_by_one(many, model):
    return np.stack(
        [
            model().fit(X, y).predict(queries)
            for X, y, queries in zip(*(part.numpy() for part in many[:3]))
        ]
    )


def closed_form(many):
    """Predict by what is exact for these tasks."""
    scale = many.X.shape[2] ** 0.5
    return ridge(many.X / scale, many.y, many.queries / scale, noise=0.1)


def squared_error(many, answers):
    error = np.square(np.asarray(answers) - many.answers.numpy()).mean()
    return {"squared error": float(error)}


def throughput(options):
    rows = race_in_cpu(
        {
            "PretrainedICL.predict, float32": partial(at_once, dtype=torch.float32),
            "PretrainedICL.predict, float64": at_once,
            "InContextRegressor, task by task": partial(
                one_by_one, model=InContextRegressor
            ),
            "RidgeCV, task by task": partial(one_by_one, model=ridge_cv),
            "ridge, all at once (exact)": closed_form,
        },
        squared_error,
        partial(make_many, TASKS),
        make_many((4, *TASKS[1:])),
        options,
    )
    for row in rows:
        row["tasks per CPU s"] = TASKS[0] / row["CPU, s"]
    show("Throughput: {} tasks, n = {}, d = {}, {} queries each".format(*TASKS), rows)


# Small tables


def small_tables():
    """Return (X, y) of each: a target, or the first and the last column of X."""
    tables = {"diabetes": load_diabetes(return_X_y=True)}
    exercises, body = load_linnerud(return_X_y=True)
    tables["linnerud, weight"] = exercises, body[:, 0]
    for name, load in {
        "iris": load_iris,
        "wine": load_wine,
        "breast cancer": load_breast_cancer,
    }.items():
        found = load()
        for column in (0, found.data.shape[1] - 1):
            label = f"{name}, {str(found.feature_names[column]).removesuffix(' (cm)')}"
            tables[label] = (
                np.delete(found.data, column, axis=1),
                found.data[:, column],
            )
    return tables


def accuracy(options):
    """Compare root mean squared errors over splits, and ranks over tables."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    models = {"ours": partial(InContextRegressor, feature_strategy="select")} | RIVALS
    n_splits = 5 if options.quick else N_SPLITS
    rows, errors = [], {}
    for label, (X, y) in small_tables().items():
        y = (y - y.mean()) / y.std()
        sizes = [n for n in SIZES if n + LEAST_TEST <= len(y)] or [3 * len(y) // 4]
        for n in sizes:
            found = split_errors(X, y, n, models.values(), n_splits)
            means = found.mean(0)
            errors[label, n] = means
            row = {"": label, "rows": str(n), "features": str(X.shape[1])}
            row["error, of 1"] = f"{means[0]:.3f}"
            for name, mean in zip(RIVALS, means[1:]):
                row[f"{name} / ours"] = f"{mean / means[0]:.3f}"
            rows.append(row)
    show(f"Small tables: root mean squared error, mean of {n_splits} splits", rows)
    show("Small tables: mean rank of four", [ranks(models, errors, n) for n in SIZES])
    show("Small tables: all sizes, a table counts once", duels(models, errors))


def split_errors(X, y, n, models, n_splits):
    """Return errors (splits, models)."""
    splitter = ShuffleSplit(n_splits, train_size=n, random_state=0)
    return np.array(
        [
            [
                np.sqrt(
                    np.square(
                        model().fit(X[train], y[train]).predict(X[test]) - y[test]
                    ).mean()
                )
                for model in models
            ]
            for train, test in splitter.split(X)
        ]
    )


def ranks(models, errors, n):
    """Return mean ranks over the tables with n training rows, 1 is the best."""
    means = np.array([means for (_, size), means in errors.items() if size == n])
    row = {"rows": str(n), "tables": str(len(means))}
    row |= dict(zip(models, rankdata(means, axis=1).mean(0).tolist()))
    if len(means) > 2:
        row["Friedman's p"] = float(friedmanchisquare(*means.T).pvalue)
    return row


def duels(models, errors):
    """Compare ours with each rival by Wilcoxon's test over tables."""
    logs = {}
    for (label, _), means in errors.items():
        logs.setdefault(label, []).append(np.log(means[1:] / means[0]))
    by_table = np.array([np.mean(found, axis=0) for found in logs.values()])
    return [
        {
            "": f"{name} / ours",
            "geometric mean": f"{np.exp(ratios.mean()):.3f}",
            "from": f"{np.exp(ratios.min()):.3f}",
            "to": f"{np.exp(ratios.max()):.3f}",
            "ours is better on": f"{(ratios > 0).sum()} of {len(ratios)}",
            "Wilcoxon's p": float(wilcoxon(ratios).pvalue),
        }
        for name, ratios in zip(RIVALS, by_table.T)
    ]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    run([steps, checkpoints, latency, memory, throughput, accuracy], __doc__)
