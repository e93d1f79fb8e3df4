"""Measure SparseDependenceBandit: time, memory, recovery, products with Xi, regret."""

import os
import time
import warnings
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from race import as_measured, peak, race, run, show
from sklearn.linear_model import Lasso, LassoCV
from sklearn.model_selection import TimeSeriesSplit
from threadpoolctl import threadpool_limits

import sklearn_attn.bandits as bandits
from sklearn_attn.bandits import DependencePattern, LongHorizonBandit
from sklearn_attn.bandits import SparseDependenceBandit as Bandit
from sklearn_attn.bandits._lagged import LaggedContexts
from sklearn_attn.datasets import make_long_horizon_rewards

# rounds, horizon, features; five lags matter
SMALL, LARGE = (2000, 500, 20), (20_000, 2000, 50)
WARM_UP = (600, 100, 10)
N_LAGS, NOISE = 5, 0.5
# The Lasso's penalty, in units of sigma sqrt(2 log(p) / n); the best in prototypes.
PENALTY = 0.5
SIZES = (SMALL, LARGE, (200_000, 5000, 20))
RICH = {20: 0.4, 60: 0.3, 100: 0.2, 150: 0.1}
POOR = {5: 0.4, 40: 0.3, 300: 0.2, 1200: 0.1}


class Problem(NamedTuple):
    """Rounds, the horizon, and the pattern that made them."""

    X: np.ndarray
    y: np.ndarray
    horizon: int
    coef: np.ndarray


def make_problem(size, seed=0):
    n, horizon, d = size
    lags = np.random.RandomState(seed).choice(horizon, N_LAGS, replace=False)
    X, y, pattern = make_long_horizon_rewards(
        n,
        d,
        lags=tuple(map(int, lags)),
        noise=NOISE,
        random_state=seed,
        return_pattern=True,
    )
    coef = np.zeros((horizon, d))
    coef[pattern.support] = pattern.blocks
    return Problem(X, y, horizon, coef)


# Contenders


def ours(problem, **options):
    model = Bandit(horizon=problem.horizon, **options)
    return model.fit(problem.X, problem.y).coef_matrix_


def lagged_matrix(problem):
    n, d = problem.X.shape
    lagged = np.zeros((n, problem.horizon, d))
    for j in range(problem.horizon):
        lagged[j:, j] = problem.X[: n - j]
    return lagged.reshape(n, -1)


def universal_penalty(problem):
    return PENALTY * NOISE * np.sqrt(2 * np.log(problem.coef.size) / len(problem.X))


def lasso(problem):
    with threadpool_limits(1):
        model = Lasso(alpha=universal_penalty(problem))
        model.fit(lagged_matrix(problem), problem.y)
    return model.coef_.reshape(problem.coef.shape)


def lasso_cv(problem):
    with threadpool_limits(1):
        model = LassoCV(alphas=20, cv=TimeSeriesSplit(3))
        model.fit(lagged_matrix(problem), problem.y)
    return model.coef_.reshape(problem.coef.shape)


def describe(problem, coef):
    error = np.linalg.norm(coef - problem.coef) / np.linalg.norm(problem.coef)
    found = coef.any(axis=1)
    return {
        "relative error": error,
        "lags": float(found.sum()),
        "exactly the right ones": float((found == problem.coef.any(axis=1)).all()),
    }


def solvers():
    return {
        "SparseDependenceBandit()": ours,
        'solver="htp", n_lags=5': partial(ours, solver="htp", n_lags=N_LAGS),
        'solver="htp"': partial(ours, solver="htp"),
        'solver="group_lasso"': partial(ours, solver="group_lasso"),
        'solver="lasso"': partial(ours, solver="lasso"),
        "rank_one=False": partial(ours, rank_one=False),
    }


def fits(options):
    contenders = solvers() | {
        "lagged matrix, Lasso of one penalty": lasso,
        "lagged matrix, LassoCV (20 penalties, 3 folds)": lasso_cv,
    }
    if options.device != "cpu":
        contenders[f"device={options.device!r}"] = partial(ours, device=options.device)
    rows = race(
        contenders,
        describe,
        partial(make_problem, SMALL),
        make_problem(WARM_UP),
        **options.race,
    )
    show(f"Fit: {by(SMALL)}", rows)
    if options.quick:
        return
    contenders = solvers()
    del contenders["rank_one=False"]
    if options.device != "cpu":
        contenders[f"device={options.device!r}"] = partial(ours, device=options.device)
    rows = race(
        contenders,
        describe,
        partial(make_problem, LARGE),
        make_problem(WARM_UP),
        **options.race,
    )
    show(f"Fit: {by(LARGE)}; a lagged matrix would take 16 GB", rows)


def by(size):
    return "{:,} rounds, horizon {:,}, {} features".format(*size)


# Memory


def memory(options):
    for size in [SMALL] if options.quick else [SMALL, LARGE]:
        contenders = {
            "SparseDependenceBandit()": partial(peak, solve=ours),
            "chunk_size=2000": partial(peak, solve=partial(ours, chunk_size=2000)),
            'solver="lasso"': partial(peak, solve=partial(ours, solver="lasso")),
        }
        if size == SMALL:
            contenders["lagged matrix, Lasso"] = partial(peak, solve=lasso)
        # one turn: in a second one, memory is there that the first one has freed
        rows = race(
            contenders,
            as_measured,
            partial(make_problem, size),
            make_problem(WARM_UP),
            **options.race | {"repeats": 1},
        )
        show(f"Memory: {by(size)}", rows)


# Products with Xi


def products(options):
    rows = []
    for n, horizon, d in SIZES[: 2 if options.quick else 3]:
        rng = np.random.RandomState(0)
        to = {"dtype": torch.float64, "device": options.device}
        x, B, r = (
            torch.as_tensor(rng.standard_normal(shape), **to)
            for shape in ((n, d), (horizon, d), n)
        )
        torch.set_num_threads(1)
        start = time.perf_counter()
        contexts = LaggedContexts(x, horizon)
        setup = time.perf_counter() - start
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            y, G = contexts.forward(B), contexts.adjoint(r)
            float(y[0] + G[0, 0])  # wait for it
            seconds.append(time.perf_counter() - start)
        rows.append(
            {
                "": by((n, horizon, d)),
                "setup": f"{setup:.2g} s",
                "Xi B and Xi' r": f"{np.median(seconds):.2g} s",
                "Xi by itself": f"{8 * n * horizon * d / 2**30:.3g} GiB",
            }
        )
    show(f"One product with Xi and one with its transpose, on {options.device}", rows)


# Recovery


def recovery(options):
    rows = []
    n_draws = 10 if options.quick else 40
    for noise, sizes in ((0.5, (100, 150, 200, 300)), (1.0, (200, 300, 400, 600))):
        for n in sizes:
            found = [recovered(n, noise, seed) for seed in range(n_draws)]
            rows.append(
                {"noise": noise, "rounds": f"{n}", "right lags": float(np.mean(found))}
            )
    show(
        "How often all four lags and no other are found; horizon half the rounds", rows
    )


def recovered(n, noise, seed):
    lags = np.sort(np.random.RandomState(seed).choice(n // 2, 4, replace=False))
    X, y = make_long_horizon_rewards(
        n,
        10,
        lags=tuple(map(int, lags)),
        weights=[0.5] * 4,
        noise=noise,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of no lag found
        model = Bandit(horizon=n // 2).fit(X, y)
    return model.support_.tolist() == lags.tolist()


# Regret


def regret(options):
    n_games = 2 if options.quick else 6
    for title, weights, horizon, n_rounds in (
        ("rich", RICH, 200, 8000),
        ("poor", POOR, 2000, 1600),
    ):
        policies = {
            "SparseDependenceBandit": partial(our_policy, horizon),
            "the same, refit_growth=2": partial(our_policy, horizon, refit_growth=2.0),
            'solver="quarters" (the paper)': partial(
                our_policy, horizon, solver="quarters"
            ),
            "LinUCB": lambda seed: bandits.LinUCB(),
            "ExploreThenCommit(200)": lambda seed: bandits.ExploreThenCommit(
                200, random_state=seed
            ),
            "random": bandits.RandomPolicy,
        }
        rows = []
        for name, policy in policies.items():
            finals, seconds = [], []
            for seed in range(n_games):
                start = time.perf_counter()
                result = bandits.run(
                    policy(seed), game(weights, horizon, seed), n_rounds, seed=seed
                )
                seconds.append(time.perf_counter() - start)
                finals.append(result.regret[-1])
            rows.append(
                {
                    "": name,
                    "regret": f"{np.mean(finals):,.0f} +- {np.std(finals):,.0f}",
                    "time for a game": f"{np.median(seconds):.2g} s",
                }
            )
        show(
            f"Data-{title}: {n_rounds:,} rounds, lags {', '.join(map(str, weights))}, "
            f"{n_games} games",
            rows,
        )


def our_policy(horizon, seed, **options):
    return Bandit(horizon=horizon, random_state=seed, **options)


def game(weights, horizon, seed):
    theta = np.random.RandomState(seed).standard_normal(10)
    w = np.zeros(horizon)
    w[list(weights)] = list(weights.values())
    return LongHorizonBandit(
        DependencePattern.rank_one(w, theta / np.linalg.norm(theta))
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run([fits, memory, products, recovery, regret], __doc__)
