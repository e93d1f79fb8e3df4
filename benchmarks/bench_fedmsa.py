"""Measure FedMSA: rounds, memory, communication, digits with a long tail, whole fits.

`--official PATH` is a checkout of github.com/ucr-optml/FedMSA, to be measured beside.
"""

import argparse
import contextlib
import io
import os
import sys
import time
import types
import warnings
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import race
import torch
from race import Contender, as_measured, peak, run, show
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils import check_random_state
from torch.func import grad, jvp
from torch.nn.functional import cross_entropy

from sklearn_attn.datasets import make_federated_quadratic, make_longtail_clients
from sklearn_attn.federated import (
    BilevelProblem,
    FedMSAClassifier,
    fedmsa,
    fednest,
    quadratic_problem,
)
from sklearn_attn.federated._client_rows import split_rows
from sklearn_attn.federated._fedmsa import SERVER
from sklearn_attn.federated._linear_tuning import LinearModel, LinearTuning
from sklearn_attn.federated._server import N_POWER_STEPS

race.PACKAGES = ("scikit-learn", "torch", "numpy", "scipy")  # no others are needed
# The official experiment: 100 clients of 118 + 30 images, 10 of which make K steps.
N_CLIENTS, N_TRAIN, N_VAL, N_LOCAL, N_STEPS = 100, 118, 30, 10, 4
ALPHA, BETA, MOMENTUM = 0.05, 0.05, 0.5
NETS = ((784, 200, 10), (64, 200, 10), (64, 10))
SHARES = 0.01 ** (np.arange(10) / 9)  # of images kept of each class
# Exact gradient at which a quadratic problem counts as solved; limit of communications.
SOLVED, MOST_MESSAGES = 1e-6, 1500
STRENGTHS = np.logspace(-2, 3, 11)  # C of logistic regressions


class Federation(NamedTuple):
    """What a contender makes for itself, untimed, and works on."""

    net: tuple
    device: str
    seed: int = 0
    n_clients: int = N_CLIENTS
    n_rounds: int = 3  # timed, after one that is not
    dtype: torch.dtype = torch.float32


def clock(device):
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def draw(federation):
    """Return rows of clients, and an initial network: [(X, y, X_val, y_val)], w."""
    rng = np.random.default_rng(federation.seed)
    generator = torch.Generator().manual_seed(federation.seed)
    shares = SHARES / SHARES.sum()

    def rows(n):
        X = torch.from_numpy(rng.random((n, federation.net[0]))).float()
        return X, torch.from_numpy(rng.choice(10, n, p=shares))

    clients = [(*rows(N_TRAIN), *rows(N_VAL)) for _ in range(federation.n_clients)]
    w = {}
    for i, (n_in, n_out) in enumerate(zip(federation.net, federation.net[1:])):
        W = torch.randn(n_in, n_out, generator=generator) / np.sqrt(n_in)
        w |= {f"W{i}": W, f"b{i}": torch.zeros(n_out)}
    return clients, w


def class_weights():
    """Return what classes count in the outer loss."""
    return torch.from_numpy(1 / SHARES / np.linalg.norm(1 / SHARES)).float()


def outputs(X, w):
    for i in range(len(w) // 2):
        X = (X if i == 0 else X.relu()) @ w[f"W{i}"] + w[f"b{i}"]
    return X


def inner(data, x, w):
    X, y, _, _ = data
    return cross_entropy(2 * x["scale"].sigmoid() * outputs(X, w) + x["offset"], y)


def outer(data, x, w):
    _, _, X, y = data
    return cross_entropy(outputs(X, w), y, weight=class_weights().to(X))


def timed(u_of, stamps, began=None):
    """Return the time of a round, of what is before, and norms of x, w and v."""
    norms = [float(sum((p.double() ** 2).sum() for p in part)) ** 0.5 for part in u_of]
    seconds = float(np.median(np.diff(stamps)))
    start = 0.0 if began is None else stamps[0] - began - seconds
    return {"seconds": seconds, "norms": norms, "start": start}


# Rounds


def by_fedmsa(federation, written_out=False):
    f = federation
    clients, w = draw(f)
    x = {"scale": torch.zeros(10), "offset": torch.zeros(10)}
    if written_out:
        model = LinearModel(is_classifier=True, l2=0.0)
        problem = LinearTuning(model, x, {"coef": w["W0"], "intercept": w["b0"]})
        clients = [_named(*client) for client in clients]
    else:
        problem = BilevelProblem(inner, outer, x, w)
    stamps, began = [], clock(f.device)
    solution = fedmsa(
        problem,
        clients,
        n_rounds=f.n_rounds + 1,
        local_steps=N_STEPS,
        local_clients=min(N_LOCAL, f.n_clients),
        alpha=ALPHA,
        beta=BETA,
        tol=0.0,
        device=f.device,
        dtype=f.dtype,
        on_round=lambda _: stamps.append(clock(f.device)),
    )
    x, zs = solution.value
    return timed([part.values() for part in (x, *zs)], stamps, began)


def _named(X, y, X_val, y_val):
    """Return rows of a client as `LinearTuning` reads them."""
    weight = class_weights()[y_val]
    return {
        "X": X,
        "Y": torch.eye(10)[y],
        "weight": torch.ones(len(y)),
        "share": torch.tensor(1.0),
        "place": torch.zeros(len(y), dtype=torch.int64),
        "X_val": X_val,
        "Y_val": torch.eye(10)[y_val],
        "weight_val": weight * len(y_val) / weight.sum(),
        "share_val": torch.tensor(1.0),
    }


def by_loop(federation, maps):
    """Make the same rounds client by client, with maps(data, x, w, v) -> (P, S)."""
    f = federation
    clients, w = draw(f)

    def put(part):
        return part.to(f.device, f.dtype if part.is_floating_point() else None)

    clients = [tuple(map(put, client)) for client in clients]
    u = [put(torch.zeros(10)), put(torch.zeros(10)), *map(put, w.values())]
    n = len(w)
    u += [torch.zeros_like(part) for part in u[2:]]
    steps = [ALPHA] * 2 + [BETA] * (2 * n)
    names = list(w)

    def F(data, u):
        x = {"scale": u[0], "offset": u[1]}
        w, v = (dict(zip(names, part)) for part in (u[2 : 2 + n], u[2 + n :]))
        return maps(data, x, w, v)

    stamps = []
    for n_round in range(f.n_rounds + 1):
        mean = _mean_of(F(data, u) for data in clients)
        rng = np.random.default_rng(
            [0, n_round, SERVER + 1, 0]
        )  # those that ours draws
        chosen = rng.choice(len(clients), min(N_LOCAL, len(clients)), replace=False)
        ends = []
        for m in chosen if len(chosen) < len(clients) else range(len(clients)):
            at, h, last = u, mean, None
            for k in range(N_STEPS):
                if k > 0:
                    last = F(clients[m], u) if last is None else last
                    now = F(clients[m], at)
                    h = [a + (b - c) for a, b, c in zip(h, now, last)]
                    last = now
                at = [a - s * b for a, s, b in zip(at, steps, h)]
            ends.append(at)
        u = _mean_of(ends)
        stamps.append(clock(f.device))
    return timed([u[:2], u[2 : 2 + n], u[2 + n :]], stamps)


def _mean_of(lists):
    total, n = None, 0
    for parts in lists:
        n += 1
        total = list(parts) if total is None else [a + b for a, b in zip(total, parts)]
    return [part / n for part in total]


def func_maps(data, x, w, v):
    """Return P, S_w and S_v by one pass backwards through a derivative forwards."""

    def L(x, w, v):
        return outer(data, x, w) - jvp(lambda w: inner(data, x, w), (w,), (v,))[1]

    P, L_w, L_v = grad(L, argnums=(0, 1, 2))(x, w, v)
    return [*P.values(), *(-p for p in L_v.values()), *(-p for p in L_w.values())]


def autograd_maps(data, x, w, v):
    """Return P, S_w and S_v by backward passes, the second through the first."""
    x, w = (
        {k: p.detach().requires_grad_() for k, p in part.items()} for part in (x, w)
    )
    ws, xs = list(w.values()), list(x.values())
    f_w = torch.autograd.grad(outer(data, x, w), ws)
    S_w = torch.autograd.grad(inner(data, x, w), ws, create_graph=True)
    slope = sum((a * b).sum() for a, b in zip(S_w, v.values()))
    second = torch.autograd.grad(slope, xs + ws)
    return [
        *(-p for p in second[:2]),
        *(p.detach() for p in S_w),
        *(a - b for a, b in zip(second[2:], f_w)),
    ]


def by_official(federation, path, batch_size=10):
    """Make rounds with the classes of the official code; its noise, no tests."""
    f = federation
    sys.modules.setdefault("cv2", types.SimpleNamespace(log=None))  # imported, not used
    sys.modules.setdefault("importlib_metadata", types.SimpleNamespace(requires=None))
    sys.path.insert(0, path)
    from core.ClientManage_blo import ClientManage
    from models.Nets import MLP

    clients, _ = draw(f)
    side = int(np.sqrt(f.net[0]))
    images, users, first = [], {}, 0
    for m, (X, y, X_val, y_val) in enumerate(clients):
        for key, rows, labels in ((m, X, y), (-m - 1, X_val, y_val)):
            images += zip(rows.reshape(-1, 1, side, side), labels.tolist())
            users[key] = range(first, first + len(labels))
            first += len(labels)
    args = types.SimpleNamespace(
        device=torch.device(f.device),
        num_users=f.n_clients,
        local_bs=batch_size,
        inner_ep=N_STEPS,
        alpha=ALPHA,
        beta=BETA,
        hlr=0.02,
        neumann=5,
        hvp_method="global_batch",
    )
    torch.manual_seed(f.seed)
    net = MLP(*f.net) if len(f.net) == 3 else None
    if net is None:  # they have no linear model, but take any
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(*f.net))
    net = net.to(f.device)
    tuned = {
        "dy": torch.zeros(10, requires_grad=True, device=f.device),
        "ly": torch.zeros(10, requires_grad=True, device=f.device),
        "wy": class_weights().to(f.device),
    }
    size = sum(p.numel() for p in net.parameters())
    # as after a first round, whose Neumann series is left out
    zero_w, zero_x = (torch.zeros(n, device=f.device) for n in (size, 20))
    h, q, v = zero_x, [zero_w, zero_w], zero_w
    p_last, s_last = ([zero_x] * f.n_clients, [[zero_w, zero_w]] * f.n_clients)
    rng = np.random.default_rng(f.seed)
    stamps = [clock(f.device)]
    for _ in range(f.n_rounds):
        with contextlib.redirect_stdout(io.StringIO()):
            every = ClientManage(args, net, range(f.n_clients), images, users, tuned)
            h, q, p_last, s_last, v, _ = every.fed_globhq(
                MOMENTUM, h, q, p_last, s_last, v
            )
            chosen = rng.choice(f.n_clients, min(N_LOCAL, f.n_clients), replace=False)
            some = ClientManage(args, net, chosen, images, users, tuned)
            x, w, v, _ = some.fed_locals(h, q, v)
        net.load_state_dict(w)
        for name in tuned:
            tuned[name].data = x[name].data
        stamps.append(clock(f.device))
    return timed([[x["dy"], x["ly"]], net.parameters(), [v]], stamps)


def contenders_of(net, options):
    found = {"FedMSA": by_fedmsa}
    if len(net) == 2:
        found["FedMSA, derivatives written out"] = partial(by_fedmsa, written_out=True)
    found["FedMSA, float64 (default)"] = partial(_in_double, by_fedmsa)
    found["loop, torch.func"] = partial(by_loop, maps=func_maps)
    found["loop, autograd"] = partial(by_loop, maps=autograd_maps)
    if options.official:
        official = partial(_one_round, partial(by_official, path=options.official))
        found["official code"] = official
        found["official code, one batch"] = partial(official, batch_size=N_TRAIN)
    return found


def _in_double(solve, federation):
    return solve(federation._replace(dtype=torch.float64))


def _one_round(solve, federation, **options):
    return solve(federation._replace(n_rounds=1), **options)


def rounds(options):
    for net in NETS:
        solvers = contenders_of(net, options)
        make = partial(Federation, net, options.device)
        turns = _in_turns(solvers, make, options)
        ours = turns["FedMSA"]
        rows = []
        for name, answers in turns.items():
            ratios = [a["seconds"] / b["seconds"] for a, b in zip(answers, ours)]
            row = {
                "": name,
                "a round": f"{np.median([a['seconds'] for a in answers]):.3g} s",
                "ratio": f"{np.median(ratios):.3g}",
                "of turns": f"{min(ratios):.3g} to {max(ratios):.3g}",
            }
            if "FedMSA" in name:
                row["start"] = f"{np.median([a['start'] for a in answers]):.3g} s"
            if "official" not in name:
                row["differs by"] = max(
                    abs(np.array(a["norms"]) / b["norms"] - 1).max()
                    for a, b in zip(answers, ours)
                )
            rows.append(row)
        show(f"A round: {_name(net)}; load {os.getloadavg()[0]:.1f}", rows)


def _in_turns(solvers, make, options):
    """Let processes take turns; their own CPU seconds, or seconds with a GPU."""
    warm_up = make(n_clients=N_LOCAL, n_rounds=1)
    contenders = {
        name: Contender(solve, as_measured, make, warm_up, 1)
        for name, solve in solvers.items()
    }
    for contender in contenders.values():
        contender.pipe.recv()
    turns = {name: [] for name in solvers}
    for seed in range(options.repeats):
        for name, contender in contenders.items():
            turns[name].append(contender.run(seed, options.timeout)[1])
    for contender in contenders.values():
        contender.stop()
    return turns


def _name(net):
    return "-".join(map(str, net))


def memory(options):
    rows = []
    for net in NETS[:1] if options.quick else NETS[:2]:
        solvers = {
            name: partial(peak_of, solve=solve)
            for name, solve in contenders_of(net, options).items()
            if "one batch" not in name
        }
        make = partial(Federation, net, options.device, n_rounds=1)
        turns = _in_turns(solvers, make, _once(options))
        for name, (answer,) in turns.items():
            rows.append({"": name, "net": _name(net)} | answer)
    show("Peak memory of two rounds, MiB, with the data", rows)


def peak_of(federation, solve):
    if federation.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        solve(federation)
        return {"peak": torch.cuda.max_memory_allocated() / 2**20}
    return {"peak": peak(federation, solve).popitem()[1]}


def _once(options):
    return argparse.Namespace(repeats=1, timeout=options.timeout)


# Communication


def gradient_norm(data):
    """Return the norm of the exact gradient of f(x, w*(x)) as a function of x."""
    A, B, b, c = (data[name].mean(0) for name in "ABbc")
    G, free = np.linalg.solve(A, B), np.linalg.solve(A, b)

    def norm(x):
        x = x.cpu().numpy()
        return np.linalg.norm(data.nu * x + G.T @ (G @ x + free - c))

    return norm


def messages(solver, data, most, **settings):
    """Return how many communications solve the problem; `most` if it takes more."""
    norm = gradient_norm(data)
    problem, clients = quadratic_problem(data)

    def sent(solution):  # without those that check beta, once
        return solution.state.communications - N_POWER_STEPS

    def is_over(solution):
        return norm(solution.value[0]) < SOLVED or sent(solution) >= most

    try:
        solution = solver(
            problem, clients, n_rounds=most, tol=0.0, on_round=is_over, **settings
        )
    except (ArithmeticError, ValueError):  # it diverges
        return most
    return min(most, sent(solution)) if norm(solution.value[0]) < SOLVED else most


def least_messages(solver, data, grid):
    best, chosen = MOST_MESSAGES, None
    for values in product(*grid.values()):
        settings = dict(zip(grid, values))
        sent = messages(solver, data, best, **settings)
        if sent < best:
            best, chosen = sent, settings
    return best, chosen


def communication(options):
    rows = []
    for heterogeneity in (0.3,) if options.quick else (0.0, 0.3, 0.9):
        data = make_federated_quadratic(heterogeneity=heterogeneity, random_state=0)
        row = {"clients differ": f"{heterogeneity:g}"}
        steps = {"alpha": [0.05, 0.02, 0.1, 0.2], "beta": [0.2, 0.4, 0.1]}
        for K in (5, 20) if options.quick else (1, 5, 20, 50):
            grid = {"local_steps": [K]} | steps
            row[f"FedMSA, K={K}"], _ = least_messages(fedmsa, data, grid)
        grid = {
            # what does well first, as all others are stopped at its number
            "n_neumann": [12, 15, 10],
            "inner_rounds": [1, 2],
            "local_steps": [5, 1],
            "alpha": [0.05, 0.1, 0.2],
            "beta": [0.66, 0.6],
        }
        row["FedNest, tuned"], chosen = least_messages(fednest, data, grid)
        row["its T, N, tau"] = chosen and ", ".join(
            str(chosen[name]) for name in ("inner_rounds", "n_neumann", "local_steps")
        )
        rows.append(row)
    show(f"Communications to a gradient of {SOLVED:g}", rows)


# Digits


def digits(options):
    n_seeds = 2 if options.quick else 5
    methods = {
        "plain": partial(federated, problem="plain"),
        "plain, on the same training rows": partial(same_rows, federated),
        "logit_adjust": federated,
        "logit_adjust, refit=False": partial(federated, refit=False),
        "loss_tuning": partial(federated, problem="loss_tuning"),
        "LogisticRegression": central,
        'LogisticRegression, "balanced"': partial(central, class_weight="balanced"),
        "LogisticRegressionCV, balanced": central_cv,
    }
    rows = []
    for name, method in methods.items():
        rows.append(_accuracies(name, [method(seed) for seed in range(n_seeds)]))
    for weight in (None, "balanced"):
        found = {
            C: [central(seed, C=C, class_weight=weight) for seed in range(n_seeds)]
            for C in STRENGTHS
        }
        C = max(found, key=lambda C: np.mean(found[C]))
        kind = "" if weight is None else ', "balanced"'
        rows.append(
            _accuracies(f"LogisticRegression{kind}, C={C:.3g} by the test", found[C])
        )
    show(f"Balanced accuracy on digits with a long tail, {n_seeds} seeds", rows)


def _accuracies(name, scores):
    return {
        "": name,
        "mean": f"{np.mean(scores):.3f}",
        "of seeds": ", ".join(f"{score:.3f}" for score in scores),
    }


def federated(seed, rows=slice(None), problem="logit_adjust", **options):
    X, y, clients = make_longtail_clients(random_state=seed)
    model = FedMSAClassifier(problem, random_state=seed, **options)
    model.fit(X[rows], y[rows], groups=clients[rows])
    return _score(model)


def same_rows(method, seed):
    """Fit nothing but the rows that a tuning by this seed does not validate on."""
    _, y, clients = make_longtail_clients(random_state=seed)
    share = FedMSAClassifier().validation_fraction
    validates = split_rows(clients, y, share, check_random_state(seed))
    return method(seed, rows=~validates, problem="plain")


def central(seed, **options):
    X, y, _ = make_longtail_clients(random_state=seed)
    return _score(LogisticRegression(max_iter=5000, **options).fit(X, y))


def central_cv(seed):
    X, y, _ = make_longtail_clients(random_state=seed)
    model = LogisticRegressionCV(
        Cs=STRENGTHS,
        class_weight="balanced",
        scoring="balanced_accuracy",
        max_iter=5000,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    return _score(model.fit(X, y))


def _score(model):
    X, y, _ = make_longtail_clients(subset="test")
    return balanced_accuracy_score(y, model.predict(X))


# Whole fits


def make_digits(seed=0):
    return make_longtail_clients(random_state=seed)


def fit_federated(rows, **options):
    X, y, clients = rows
    return FedMSAClassifier(random_state=0, **options).fit(X, y, groups=clients)


def fit_central(rows, model):
    X, y, _ = rows
    return model.fit(X, y)


def accuracy(_, model):
    found = {"balanced accuracy": _score(model)}
    if hasattr(model, "communications_"):
        found["messages"] = float(model.communications_)
    return found


def fits(options):
    solvers = {
        "FedMSAClassifier()": fit_federated,
        'problem="plain"': partial(fit_federated, problem="plain"),
        'problem="loss_tuning"': partial(fit_federated, problem="loss_tuning"),
        "hidden_layer_sizes=(32,)": partial(fit_federated, hidden_layer_sizes=(32,)),
    }
    if options.device != "cpu":
        solvers["FedMSAClassifier(), GPU"] = partial(
            fit_federated, device=options.device
        )
    balanced = {"class_weight": "balanced", "max_iter": 5000}
    rivals = {
        "LogisticRegression": LogisticRegression(**balanced),
        "LogisticRegressionCV": LogisticRegressionCV(
            Cs=STRENGTHS,
            scoring="balanced_accuracy",
            l1_ratios=(0,),
            use_legacy_attributes=False,
            **balanced,
        ),
    }
    solvers |= {
        name: partial(fit_central, model=model) for name, model in rivals.items()
    }
    rows = race.race(solvers, accuracy, make_digits, make_digits(), **options.race)
    show("Fit: 372 digits of 10 clients", rows)


def main():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--official")
    ours, sys.argv[1:] = parser.parse_known_args()

    def with_path(table):
        def show_table(options):
            options.official = ours.official
            table(options)

        show_table.__name__ = table.__name__
        return show_table

    tables = (rounds, memory, communication, digits, fits)
    run([with_path(table) for table in tables], __doc__)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of few rounds: the tables judge the answers
    main()
