"""Measure ContextualRepresentationBandit: regret, changes found, time, cards."""

import os
import time
from functools import partial
from typing import NamedTuple

import numpy as np
from race import race, run, show
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

import sklearn_attn.bandits as bandits
from sklearn_attn.bandits import (
    ContextSwitchingBandit,
    SubspacePolicy,
    TaskSequence,
    WisconsinCardSortingEnv,
    card_sorting_scores,
)
from sklearn_attn.bandits import ContextualRepresentationBandit as Bandit
from sklearn_attn.datasets import make_context_tasks

RANKS = (2, 4, 2, 4, 2, 2)
N_FEATURES, NOISE = 20, 0.1
RULES = np.eye(3)
DETECTORS = {
    "chi2, level .001, 12 probes (the defaults)": {},
    "chi2, 8 probes": {"n_probe": 8},
    "chi2, 4 probes": {"n_probe": 4},
    "paper, gamma = 1, 12 probes": {"detector": "paper"},
    "paper, gamma = 1, 8 probes": {"detector": "paper", "n_probe": 8},
    "paper, gamma = 1.5, 8 probes": {"detector": "paper", "gamma": 1.5, "n_probe": 8},
}


def play(n_tasks, ranks, seed, make, **options):
    """Return what happened, and how long it took."""
    tasks = TaskSequence.random(n_tasks, ranks, N_FEATURES, random_state=seed)
    environment = ContextSwitchingBandit(tasks, noise_std=NOISE, **options)
    policy = make(tasks, seed)
    start = time.perf_counter()
    if isinstance(policy, Bandit):
        result = policy.simulate(environment, seed=seed)
    else:
        result = bandits.run_tasks(policy, environment, seed=seed)
    return result, time.perf_counter() - start


def ours(tasks, seed, **options):
    return Bandit(random_state=seed, **options)


def oracle(tasks, seed):
    each = [tasks.components[context] for context in tasks.contexts]
    return SubspacePolicy(each.__getitem__)


def subspace_oracle(tasks, seed):
    every = np.concatenate(tasks.components)
    return SubspacePolicy(np.linalg.svd(every, full_matrices=False)[2])


# Regret


def six_contexts(options):
    policies = {
        "ContextualRepresentationBandit()": ours,
        "explore, then commit": lambda tasks, seed: SubspacePolicy(),
        "subspace oracle (16 directions)": subspace_oracle,
        "oracle": oracle,
    }
    n_tasks = [100 if options.quick else 1000] * len(RANKS)
    seeds = range(options.repeats)
    played = {name: [] for name in policies}
    for seed in seeds:  # in turns
        for name, make in policies.items():
            played[name].append(play(n_tasks, RANKS, seed, make))
    blind = [result.average_regret for result, _ in played["explore, then commit"]]
    rows = []
    for name, games in played.items():
        regret = [result.average_regret for result, _ in games]
        delays = np.concatenate([result.change_delays for result, _ in games])
        finds = name.startswith("Context")
        rows.append(
            {
                "": name,
                "regret of a task": f"{np.mean(regret):.1f} +- {np.std(regret):.1f}",
                "of explore-then-commit": f"{np.mean(np.divide(regret, blind)):.3f}",
                "time": f"{np.median([seconds for _, seconds in games]):.2g} s",
                "changes found": f"{np.isfinite(delays).sum()} of {len(delays)}"
                if finds
                else "",
                "tasks until then": f"{np.nanmedian(delays):.0f}, at most "
                f"{np.nanmax(delays):.0f}"
                if finds
                else "",
                "false": str(sum(result.n_false_changes for result, _ in games))
                if finds
                else "",
            }
        )
    show(
        f"Six contexts of {n_tasks[0]} tasks, 1,000 rounds each; ranks "
        f"{', '.join(map(str, RANKS))}; {len(seeds)} games",
        rows,
    )


def excess(options):
    rows, before = [], None
    for n_tasks in (250, 500, 1000) if options.quick else (250, 500, 1000, 2000, 4000):
        mine, best = (
            np.mean(
                [
                    play([n_tasks], [2], seed, make)[0].average_regret
                    for seed in range(options.repeats)
                ]
            )
            for make in (ours, oracle)
        )
        beyond = mine - best
        ratio = "" if before is None else f"{beyond / before:.3f}"
        rows.append(
            {
                "tasks": str(n_tasks),
                "regret of a task": f"{mine:.1f}",
                "of the oracle": f"{best:.1f}",
                "excess": f"{beyond:.1f}",
                "of the excess for half as many": ratio,
            }
        )
        before = beyond
    show("One context of rank 2: what learning it costs a task", rows)


def switches(options):
    n = 300 if options.quick else 1000
    rows = []
    for ranks, n_tasks in (([2], [2 * n]), ([2, 4], [n, n])):
        for announce in (True, False):
            make = partial(ours, task_switch="known" if announce else "detect")
            games = [
                play(n_tasks, ranks, seed, make, announce=announce)[0]
                for seed in range(options.repeats)
            ]
            delays = np.concatenate([game.switch_delays for game in games])
            changes = np.concatenate([game.change_delays for game in games])
            rows.append(
                {
                    "ranks": ", ".join(map(str, ranks)),
                    "tasks are": "announced" if announce else "to be noticed",
                    "regret of a task": float(
                        np.mean([game.average_regret for game in games])
                    ),
                    "missed": f"{100 * np.isnan(delays).mean():.1f} %",
                    "median delay, rounds": float(np.nanmedian(delays)),
                    "changes of context found": f"{np.isfinite(changes).sum()} of "
                    f"{len(changes)}",
                }
            )
    show(f"Switches of {2 * n} tasks, announced or not", rows)


def detectors(options):
    n_tasks = [60 if options.quick else 300] * len(RANKS)
    rows = []
    for name, settings in DETECTORS.items():
        games = [
            play(n_tasks, RANKS, seed, partial(ours, **settings))[0]
            for seed in range(options.repeats)
        ]
        delays = np.concatenate([game.change_delays for game in games])
        rows.append(
            {
                "": name,
                "changes found": f"{np.isfinite(delays).sum()} of {len(delays)}",
                "tasks until then, mean": float(np.nanmean(delays)),
                "false": str(sum(game.n_false_changes for game in games)),
                "regret of a task": float(
                    np.mean([game.average_regret for game in games])
                ),
            }
        )
    show(f"Detectors: six contexts of {n_tasks[0]} tasks", rows)


# Time


class Table(NamedTuple):
    """Rows of tasks, and the coefficients that made them."""

    X: np.ndarray
    y: np.ndarray
    tasks: np.ndarray
    coef: np.ndarray


def make_table(size, seed=0):
    n_tasks, n_samples, d, r = size
    X, y, tasks, true = make_context_tasks(
        [n_tasks],
        n_samples,
        d,
        ranks=[r],
        noise=0.5,
        random_state=seed,
        return_tasks=True,
    )
    return Table(X, y, tasks, true.coef)


def fit(table, **options):
    return Bandit(**options).fit(table.X, table.y, table.tasks).task_coef_


def each_task(table):
    with threadpool_limits(1):
        return np.array(
            [
                Ridge(1e-2).fit(table.X[rows], table.y[rows]).coef_
                for rows in (table.tasks == s for s in range(len(table.coef)))
            ]
        )


def trace_norm(table):
    """Return min sum of squares + lambda norm(W)_*, by a conic solver."""
    import cvxpy as cp

    k, d = table.coef.shape
    W = cp.Variable((k, d))
    squares = sum(
        cp.sum_squares(table.X[rows] @ W[s] - table.y[rows])
        for s, rows in ((s, table.tasks == s) for s in range(k))
    )
    # the largest singular value that noise brings, of gradients of the squares
    n = len(table.y) // k
    penalty = 2 * 0.5 * np.sqrt(n) * (np.sqrt(k) + np.sqrt(d))
    problem = cp.Problem(cp.Minimize(squares + penalty * cp.normNuc(W)))
    problem.solve(solver=cp.SCS)
    return W.value


def error(table, coef):
    norm = np.linalg.norm
    return {"relative error": float(norm(coef - table.coef) / norm(table.coef))}


def fits(options):
    for size in ((40, 40, 20, 2), (200, 15, 30, 3)):
        contenders = {
            "ContextualRepresentationBandit()": fit,
            f"n_components={size[3]}": partial(fit, n_components=size[3]),
            "ridge, each task": each_task,
        }
        if size[0] == 40:
            contenders["trace norm, cvxpy with SCS"] = trace_norm
        if options.device != "cpu":
            contenders[f"device={options.device!r}"] = partial(
                fit, device=options.device
            )
        rows = race(
            contenders,
            error,
            partial(make_table, size),
            make_table((6, 40, 8, 2)),
            **options.race,
        )
        n_tasks, n_samples, d, r = size
        show(f"Fit: {n_tasks} tasks of {n_samples} rows, {d} features, rank {r}", rows)


def by_blocks(tasks):
    return Bandit(random_state=0).simulate(_game(tasks), seed=0).task_regret


def by_rounds(tasks):
    environment = _game(tasks)
    model = Bandit(random_state=0)
    model.simulate(environment, environment.n_rounds, seed=0)
    return environment.task_regret


def make_tasks(n_tasks, seed=0):
    return TaskSequence.random([n_tasks], [2], N_FEATURES, random_state=seed)


def mean_regret(tasks, regret):
    return {"regret of a task": float(np.mean(regret))}


def _game(tasks):
    return ContextSwitchingBandit(tasks, noise_std=NOISE)


def blocks(options):
    n = 20 if options.quick else 60
    contenders = {"in blocks": by_blocks, "act and observe": by_rounds}
    rows = race(
        contenders,
        mean_regret,
        partial(make_tasks, n),
        make_tasks(6),
        **options.race,
    )
    show(f"The same game of {n} tasks, {n * 1000:,} rounds", rows)


# Cards


def player(rule, **options):
    return lambda seed: Bandit(
        candidates=RULES, candidate_rule=rule, random_state=seed, **options
    )


def sort_cards(make, seed, **options):
    """Return the scores of a game, its rewards, and the time of a trial."""
    environment = WisconsinCardSortingEnv(**options)
    agent = make(seed)
    start = time.perf_counter()
    if isinstance(agent, Bandit):
        result = agent.simulate(environment, seed=seed)
    else:
        deals_in_sets = not isinstance(agent, bandits.TabularQAgent | bandits.DQNAgent)
        result = bandits.run(
            agent,
            environment,
            environment.n_trials,
            seed=seed,
            view=environment.action_set if deals_in_sets else None,
        )
    seconds = time.perf_counter() - start
    scores = card_sorting_scores(result) | {
        "rewards": result.rewards.sum(),
        "seconds": seconds / len(result.rewards),
    }
    return scores


def cards(options):
    n_games = 40 if options.quick else 200
    agents = {
        '"random" (the paper)': (player("random"), n_games),
        '"cycle"': (player("cycle"), n_games),
        '"eliminate"': (player("eliminate"), n_games),
        '"filter"': (player("filter"), n_games),
        "LinUCB": (lambda seed: bandits.LinUCB(), n_games // 4),
        "DQNAgent": (lambda seed: bandits.DQNAgent(random_state=seed), n_games // 8),
        "TabularQAgent": (
            lambda seed: bandits.TabularQAgent(random_state=seed),
            n_games // 4,
        ),
        "random": (bandits.RandomPolicy, n_games // 4),
    }
    rows = []
    for name, (make, n) in agents.items():
        games = [sort_cards(make, seed) for seed in range(n)]
        plain = [sort_cards(make, seed, ambiguous=False) for seed in range(n)]
        classical = {"criterion": "consecutive", "n_trials": 128}
        ten = [sort_cards(make, seed, **classical) for seed in range(n)]
        rewards = [game["rewards"] for game in games]
        rows.append(
            {
                "": name,
                "rewards of 100": f"{np.mean(rewards):.1f} +- {np.std(rewards):.1f}",
                "unambiguous cards": f"{_mean(plain, 'rewards'):.1f}",
                "errors for a change": _mean(games, "errors_per_switch"),
                "perseverative, in all": _mean(games, "perseverative_errors"),
                "ten in a row: categories": _mean(ten, "categories"),
                "in trials": _mean(ten, "trials"),
                "a trial": f"{1e6 * np.median([g['seconds'] for g in games]):.0f} us",
            }
        )
    show(f"Cards: 100 trials, another rule every 20; {n_games} games or fewer", rows)
    stays = {"block": 10**6, "n_trials": 500 if options.quick else 1250}
    rows = [
        {
            "": name,
            "right answers of the last 250": float(
                np.mean([_late(agents[name][0], seed, stays) for seed in range(5)])
            ),
        }
        for name in ("DQNAgent", "TabularQAgent")
    ]
    show(f"One rule for {stays['n_trials']} trials: who learns card by card", rows)


def _late(make, seed, options):
    environment = WisconsinCardSortingEnv(**options)
    result = bandits.run(make(seed), environment, environment.n_trials, seed=seed)
    return result.info["correct"][-250:].mean()


def _mean(games, key):
    return float(np.nanmean([game[key] for game in games]))


def noisy_cards(options):
    n_games = 20 if options.quick else 60
    agents = {
        '"random" (the paper)': player("random"),
        '"random", confirm=2': player("random", confirm=2),
        '"cycle", confirm=2': player("cycle", confirm=2),
        '"eliminate"': player("eliminate"),
        '"eliminate", confirm=2': player("eliminate", confirm=2),
        '"filter"': player("filter"),
        '"filter", told of both': None,
    }
    rows = []
    for name, make in agents.items():
        row = {"": name}
        for noise in (0.0, 0.05, 0.1, 0.2):
            make_ = make or player("filter", hazard=1 / 20, flip_rate=noise)
            games = [
                sort_cards(make_, seed, noise=noise, n_trials=400)
                for seed in range(n_games)
            ]
            row[f"{100 * noise:.0f} % flips"] = f"{_mean(games, 'accuracy'):.3f}"
        rows.append(row)
    show(f"Right answers under noise: 400 trials, {n_games} games", rows)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run(
        [
            six_contexts,
            excess,
            switches,
            detectors,
            fits,
            blocks,
            cards,
            noisy_cards,
        ],
        __doc__,
    )
