"""Measure MultipathMTL: the path step, fits, memory, risk, paths found, digits."""

import os
import warnings
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from race import as_measured, peak, race, run, show
from scipy import sparse
from sklearn.linear_model import LogisticRegression, MultiTaskLassoCV, Ridge, RidgeCV
from sklearn.metrics import adjusted_rand_score

from sklearn_attn.datasets import make_multipath_tasks, make_permuted_digit_tasks
from sklearn_attn.multitask import MultipathMTL, MultipathMTLClassifier, Supernet
from sklearn_attn.multitask._deep_supernet import DeepSupernet
from sklearn_attn.multitask._group_tasks import group_tasks
from sklearn_attn.multitask._path_step import path_losses
from sklearn_attn.multitask._task_equations import TaskEquations

N_FEATURES = 32
NET, VANILLA, CLUSTER = ((1, 8), (10, 2)), ((1, 8),), ((10, 2),)
# Path steps of a turn: one alone is too short to time.
STEPS = 5
PENALTY = 0.5  # of heads, in path steps
ALPHAS = np.logspace(-4, 4, 9)  # of a ridge for each task
# Penalties (alpha_head, alpha_module) of which each method has its best, in risk.
WITHOUT_NOISE = ((1e-6, 1e-6), (1e-2, 1e-3))
WITH_NOISE = ((1e-2, 1e-3), (1e-1, 1e-2))
# The same for digits, in error; of ours and of logistic regression.
HEAD_PENALTIES, STRENGTHS = (1.0, 3.0), (1e-3, 1e-2, 1e-1)


class Table(NamedTuple):
    """Rows of tasks, and the model that made them."""

    X: np.ndarray
    y: np.ndarray
    tasks: np.ndarray
    model: object


def make_table(n_tasks, n_samples, layers=NET, noise=0.3, seed=0):
    made = make_multipath_tasks(
        n_tasks,
        n_samples,
        N_FEATURES,
        layers=layers,
        noise=noise,
        random_state=seed,
        return_model=True,
    )
    return Table(*made)


# Path step


class Step(NamedTuple):
    """Tasks as rows and as equations, and modules of one layer."""

    X: np.ndarray  # (T, N, p)
    y: np.ndarray  # (T, N)
    B: np.ndarray  # (K, r, p)
    equations: TaskEquations


def make_step(n_samples, n_tasks=200, seed=0):
    X, y, _, model = make_table(n_tasks, n_samples, CLUSTER, seed=seed)
    X, y = X.reshape(n_tasks, n_samples, -1), y.reshape(n_tasks, -1)
    x, z = torch.from_numpy(X), torch.from_numpy(y)
    equations = TaskEquations(
        x.mT @ x,
        torch.einsum("tnp,tn->tp", x, z),
        (z * z).sum(1),
        torch.full((n_tasks,), n_samples),
        torch.arange(n_tasks),
    )
    return Step(X, y, model.modules[0], equations)


def by_equations(step):
    net = Supernet(N_FEATURES, CLUSTER)
    for _ in range(STEPS):
        loss = path_losses(step.equations, net, [torch.from_numpy(step.B)], PENALTY)
    return loss.numpy()


def by_loop(step, fit=None):
    fit = fit or _solve
    for _ in range(STEPS):
        loss = np.empty((len(step.X), len(step.B)))
        for t, (X, y) in enumerate(zip(step.X, step.y)):
            for k, B in enumerate(step.B):
                Z = X @ B.T
                h = fit(Z, y)
                rest = y - Z @ h
                loss[t, k] = rest @ rest + PENALTY * h @ h
    return loss


def _solve(Z, y):
    return np.linalg.solve(Z.T @ Z + PENALTY * np.eye(Z.shape[1]), Z.T @ y)


def _ridge(Z, y):
    return Ridge(PENALTY, fit_intercept=False).fit(Z, y).coef_


def sum_of_losses(step, loss):
    return {"sum of losses": float(loss.sum())}


def path_step(options):
    for n_samples in (50,) if options.quick else (50, 5000):
        contenders = {"sums of squares": by_equations}
        if n_samples == 50:
            contenders["numpy, task by task"] = by_loop
            contenders["Ridge, task by task"] = partial(by_loop, fit=_ridge)
        rows = race(
            contenders,
            sum_of_losses,
            partial(make_step, n_samples),
            make_step(5, n_tasks=10),
            **options.race,
        )
        show(
            f"{STEPS} path steps: 200 tasks of {n_samples} rows, 10 modules of 2 x 32",
            rows,
        )


# Whole fits


def fit(table, layers=NET, known=False, **options):
    """Return coefficients, and the adjusted Rand index of paths (NaN without)."""
    if known:
        options["paths"] = table.model.paths[:, -len(layers) :]
    model = MultipathMTL(layers, fit_intercept=False, random_state=0, **options)
    model.fit(table.X, table.y, tasks=table.tasks)
    return model.task_coef_, model.path_agreement(table.model.paths)


def each_task(table):
    coef = [
        RidgeCV(ALPHAS, fit_intercept=False).fit(table.X[rows], table.y[rows]).coef_
        for rows in (table.tasks == t for t in range(len(table.model.coef)))
    ]
    return np.array(coef), np.nan


def interactions(table):
    """Ridge on x and its products with indicators of tasks: shared and own parts."""
    n, p = table.X.shape
    T = len(table.model.coef)
    columns = table.tasks[:, None] * p + np.arange(p)
    place = np.arange(n + 1) * p
    own = sparse.csr_matrix((table.X.ravel(), columns.ravel(), place), (n, T * p))
    both = sparse.hstack([sparse.csr_matrix(table.X), own]).tocsr()
    coef = Ridge(1.0, fit_intercept=False).fit(both, table.y).coef_
    return coef[:p] + coef[p:].reshape(T, p), np.nan


def risk(table, answer):
    coef, agreement = answer
    error = ((coef - table.model.coef) ** 2).sum(1).mean()
    return {"risk": float(error), "ARI": agreement}


def fits(options):
    contenders = {
        "MultipathMTL()": fit,
        "n_init=1": partial(fit, n_init=1),
        'solver="als"': partial(fit, solver="als"),
        'solver="als", n_init=1': partial(fit, solver="als", n_init=1),
        '"als", n_init=1, split_merge=0': partial(
            fit, solver="als", n_init=1, split_merge=0
        ),
        '"als", paths known': partial(fit, solver="als", known=True),
        "vanilla, ((1, 8),)": partial(fit, layers=VANILLA, solver="als"),
        "cluster, ((10, 2),)": partial(fit, layers=CLUSTER, solver="als", n_init=1),
        "RidgeCV, each task": each_task,
        "Ridge, x and x by task": interactions,
    }
    rows = race(
        contenders,
        risk,
        partial(make_table, 200, 50),
        make_table(20, 20),
        **options.race,
    )
    show("Fit: 200 tasks of 50 rows, 32 features, layers ((1, 8), (10, 2))", rows)


def make_wide(seed=0, n_tasks=200, n_samples=50):
    """Return the same rows for all tasks."""
    model = make_table(n_tasks, 2, seed=seed).model
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_samples, N_FEATURES))
    Y = X @ model.coef.T + 0.3 * rng.standard_normal((n_samples, n_tasks))
    return Table(X, Y, None, model)


def wide_lasso(table):
    return MultiTaskLassoCV(fit_intercept=False).fit(table.X, table.y).coef_, np.nan


def wide_ridge(table):
    ridge = RidgeCV(ALPHAS, fit_intercept=False, alpha_per_target=True)
    return ridge.fit(table.X, table.y).coef_, np.nan


def wide(options):
    contenders = {
        'MultipathMTL(solver="als", n_init=1)': partial(fit, solver="als", n_init=1),
        "MultiTaskLassoCV": wide_lasso,
        "RidgeCV": wide_ridge,
    }
    rows = race(contenders, risk, make_wide, make_wide(0, 20, 20), **options.race)
    show("The same 50 rows for 200 tasks", rows)


def memory(options):
    sizes = (400,) if options.quick else (400, 2000)
    for n_tasks in sizes:
        solvers = {
            f"n_init={n}": partial(peak, solve=partial(fit, solver="als", n_init=n))
            for n in (1, 5)
        }
        rows = race(
            solvers,
            as_measured,
            partial(make_table, n_tasks, 50),
            make_table(20, 20),
            repeats=1,
            timeout=options.timeout,
        )
        show(f"Memory: {n_tasks} tasks of 50 rows", rows)


# Risk


def best_risk(table, penalties, **options):
    """Return the least risk over penalties: what a good choice of them would give."""
    found = []
    for alpha_head, alpha_module in penalties:
        answer = fit(
            table,
            solver="als",
            alpha_head=alpha_head,
            alpha_module=alpha_module,
            max_iter=30,
            **options,
        )
        found.append(risk(table, answer)["risk"])
    return min(found)


def known_paths(options):
    net, cluster = ((1, 8), (40, 2)), ((40, 2),)
    methods = {
        "ridge, each task": lambda table, _: risk(table, each_task(table))["risk"],
        "vanilla, width 8": partial(best_risk, layers=VANILLA),
        "cluster, width 2": partial(best_risk, layers=cluster, known=True),
        "multipath": partial(best_risk, layers=net, known=True),
    }
    cells = [(0.0, 8), (0.0, 10), (0.0, 14), (0.3, 8), (0.3, 10), (0.3, 14), (0.3, 20)]
    n_seeds = min(options.repeats, 1 if options.quick else 3)
    rows = []
    for noise, n_samples in cells[3:5] if options.quick else cells:
        tables = [
            make_table(400, n_samples, net, noise, seed) for seed in range(n_seeds)
        ]
        penalties = WITH_NOISE if noise else WITHOUT_NOISE
        row = {"noise": f"{noise:g}", "N": str(n_samples)}
        row |= {
            name: _mean([method(table, penalties) for table in tables])
            for name, method in methods.items()
        }
        rows.append(row)
    show(f"Risk, paths known: 40 clusters of 10 tasks; {n_seeds} draws", rows)


def unknown_paths(options):
    n_seeds = min(options.repeats, 1 if options.quick else 3)
    rows = []
    for n_modules, n_tasks in ((10, 200), (40, 400)):
        if options.quick and n_modules == 40:
            continue
        net = ((1, 8), (n_modules, 2))
        for n_samples in (10, 14, 20):
            tables = [
                make_table(n_tasks, n_samples, net, 0.1, seed)
                for seed in range(n_seeds)
            ]
            row = {"modules": str(n_modules), "N": str(n_samples)}
            settings = {
                "found": {"n_init": 1},
                "no moves": {"n_init": 1, "split_merge": 0},
                "known": {"known": True},
                "vanilla": {"layers": VANILLA},
            }
            for name, chosen in settings.items():
                chosen = {"layers": net, "solver": "als"} | chosen
                answers = [fit(table, **chosen) for table in tables]
                scores = [risk(*pair) for pair in zip(tables, answers)]
                if name in ("found", "no moves"):
                    row[f"ARI, {name}"] = float(np.mean([s["ARI"] for s in scores]))
                row[f"risk, {name}"] = float(np.mean([s["risk"] for s in scores]))
            rows.append(row)
    show(f"Paths to be found, noise .1; {n_seeds} draws", rows)


def searches(options):
    """Show what noise and moves do for one search that begins by chance."""
    n_seeds = min(options.repeats, 2 if options.quick else 5)
    settings = {
        "pool, no moves": {"start": "pool", "n_moves": 0},
        "by chance, no noise, no moves": {"anneal": False, "n_moves": 0},
        "by chance, noise, no moves": {"n_moves": 0},
        "by chance, noise, 20 moves": {"n_moves": 20},
        "by chance, noise, 60 moves": {"n_moves": 60},
    }
    rows = []
    for name, chosen in settings.items():
        row = {"": name}
        for n_modules, n_tasks in ((10, 200), (40, 400)):
            for n_samples in (10, 20):
                scores = []
                for seed in range(n_seeds):
                    net = ((1, 8), (n_modules, 2))
                    table = make_table(n_tasks, n_samples, net, 0.1, seed)
                    found = group_tasks(
                        _within_truth(table),
                        n_modules,
                        2,
                        1e-3 * n_samples,
                        generator=torch.Generator().manual_seed(seed),
                        **{"start": "one-by-one"} | chosen,
                    )
                    truth = table.model.paths[:, -1]
                    scores.append(adjusted_rand_score(truth, found.codes.numpy()))
                row[f"K={n_modules}, N={n_samples}"] = float(np.mean(scores))
        rows.append(row)
    show(f"ARI of one search, its shared layer known; {n_seeds} draws", rows)


def _within_truth(table):
    """Return the equations of tasks that see what the true first layer returns."""
    T = len(table.model.coef)
    Z = torch.from_numpy(table.X @ table.model.modules[0][0].T).reshape(T, -1, 8)
    y = torch.from_numpy(table.y).reshape(T, -1)
    n = torch.full((T,), y.shape[1])
    return TaskEquations(
        Z.mT @ Z + 1e-2 * n[0] * torch.eye(8, dtype=Z.dtype),
        torch.einsum("tnr,tn->tr", Z, y),
        (y * y).sum(1),
        n,
        torch.arange(T),
    )


# Digits


def digits(options):
    n_seeds = min(options.repeats, 1 if options.quick else 2)
    four, one = ((4, 9),), ((1, 36),)
    rows = []
    cells = [(1.0, 10), (1.0, 20), (1.0, 40), (2.0, 40)]
    for noise, n_samples in cells[1:2] if options.quick else cells:
        draws = [_draw_digits(noise, n_samples, seed) for seed in range(n_seeds)]
        row = {"noise": f"{noise:g}", "N": str(n_samples)}
        row["each task"] = _each_digit_task(draws)
        settings = {
            "vanilla": {"layers": one, "solver": "moment"},
            "moment": {"layers": four, "solver": "moment"},
            "als": {"layers": four, "solver": "als"},
            "paths known": {"layers": four, "solver": "moment", "known": True},
        }
        for name, chosen in settings.items():
            row[name], agreement = _best_of_heads(draws, **chosen)
            if name in ("moment", "als"):
                row[f"ARI, {name}"] = agreement
        rows.append(row)
    show(
        f"Test error on permuted noisy digits, 180 tasks; {n_seeds} draws, the best "
        "penalty of heads",
        rows,
    )


def _draw_digits(noise, n_samples, seed):
    options = {"noise": noise, "random_state": seed, "return_permutations": True}
    train = make_permuted_digit_tasks(n_samples, **options)
    return train, make_permuted_digit_tasks(100, subset="test", **options)


def _each_digit_task(draws):
    """Return the error of logistic regressions, all with the best penalty."""
    found = []
    for C in STRENGTHS:
        model, errors = LogisticRegression(C=C), []
        for (X, y, tasks, _), (X_test, y_test, tasks_test, _) in draws:
            for t in np.unique(tasks):
                mine, theirs = tasks == t, tasks_test == t
                model.fit(X[mine], y[mine])
                errors.append(1 - model.score(X_test[theirs], y_test[theirs]))
        found.append(_mean(errors))
    return min(found)


def _best_of_heads(draws, known=False, **options):
    found = []
    for alpha in HEAD_PENALTIES:
        errors, agreements = [], []
        for (X, y, tasks, made), (X_test, y_test, tasks_test, _) in draws:
            chosen = {"paths": made.paths[:, None]} if known else {}
            model = MultipathMTLClassifier(
                alpha_head=alpha,
                n_init=1,
                split_merge=5,
                random_state=0,
                **options,
                **chosen,
            ).fit(X, y, tasks=tasks)
            errors.append(1 - model.score(X_test, y_test, tasks=tasks_test))
            agreements.append(model.path_agreement(made.paths))
        found.append((_mean(errors), _mean(agreements)))
    return min(found)


def _mean(values):
    return float(np.mean(values))


# Deep supernets


class Deep(NamedTuple):
    """A supernet, and rows with their paths."""

    net: DeepSupernet
    x: torch.Tensor
    paths: torch.Tensor
    n_tasks: int


def make_deep(n_samples, n_tasks=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    supernet = Supernet(64, ((4, 32), (4, 16)))
    net = DeepSupernet(supernet, generator=generator, dtype=torch.float32)
    x = torch.randn(n_tasks * n_samples, 64, generator=generator)
    paths = torch.randint(4, (n_tasks, 2), generator=generator)
    return Deep(net, x, paths.repeat_interleave(n_samples, 0), n_tasks)


def grouped(deep):
    for _ in range(STEPS):
        deep.net.zero_grad()
        deep.net(deep.x, deep.paths).square().mean().backward()
    return deep


def task_by_task(deep):
    (B1, B2), (c1, c2) = deep.net.weights, deep.net.biases
    for _ in range(STEPS):
        deep.net.zero_grad()
        parts = zip(deep.x.chunk(deep.n_tasks), deep.paths.chunk(deep.n_tasks))
        outputs = []
        for x, path in parts:
            i, j = path[0].tolist()
            hidden = torch.relu(x @ B1[i].T + c1[i])
            outputs.append(torch.relu(hidden @ B2[j].T + c2[j]))
        torch.cat(outputs).square().mean().backward()
    return deep


def size_of_gradient(_, deep):
    return {"norm of gradient": float(deep.net.weights[0].grad.norm())}


def deep(options):
    for n_samples in (10, 50):
        rows = race(
            {"DeepSupernet": grouped, "task by task": task_by_task},
            size_of_gradient,
            partial(make_deep, n_samples),
            make_deep(5, n_tasks=8),
            **options.race,
        )
        show(
            f"{STEPS} times forward and backward, 64 -> 32 -> 16, 4 modules each: "
            f"200 tasks of {n_samples} rows",
            rows,
        )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of few samples: the tables judge the answers
    run(
        [
            path_step,
            fits,
            wide,
            memory,
            known_paths,
            unknown_paths,
            searches,
            digits,
            deep,
        ],
        __doc__,
    )
