"""Measure the solvers of the attention SVM against what else solves its problems."""

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from race import race, run, show
from sklearn.svm import LinearSVC

from sklearn_attn.attention import solve_key_query_svm, solve_token_svm

SMALL, LARGE = (200, 20, 50), (2000, 50, 100)  # sequences, tokens, features
TINY = (10, 4, 5)
GEOMETRIES = ("planted", "argmax")
PLANTED_SHIFT = 8.0  # of the selected token, in standard deviations of the keys
SCALES = 10.0 ** np.arange(-9, 10, 3)
MARGINS = 10.0 ** -np.arange(1, 8)
QUERIED = (6, 8, 10)  # the follow-up paper's experiment
BYTES_PER_KIB = 1024


class Selection(NamedTuple):
    """Keys, selected tokens, and the difference rows that other solvers need."""

    K: np.ndarray
    selected: np.ndarray
    rows: np.ndarray | None = None


def make_selection(size, geometry, *, rows=True, seed=0):
    """Gaussian keys; the selected token is marked, first along a line, or neither."""
    n, T, d = size
    rng = np.random.default_rng(seed)
    K, u = rng.standard_normal((n, T, d)), rng.standard_normal(d)
    u /= np.linalg.norm(u)
    selected = (K @ u).argmax(1)
    if geometry == "planted":
        selected = rng.integers(T, size=n)
        K[np.arange(n), selected] += PLANTED_SHIFT * u
    elif geometry == "random":  # far more rows than dimensions: infeasible
        selected = rng.integers(T, size=n)
    elif geometry == "argmax but one":
        selected[0] = (K[0] @ u).argmin()
    problem = Selection(K, selected)
    return with_rows(problem) if rows else problem


def with_rows(problem):
    """Add k_selected - k_t for every other token, one row each."""
    K, selected, _ = problem
    n, T, _ = K.shape
    gaps = K[np.arange(n), selected][:, None] - K
    return problem._replace(rows=gaps[np.arange(T) != selected[:, None]])


def make_known_margin(size, margin, *, rotated):
    """Keys whose attention SVM is u / margin, and u: every row z has u'z = margin,
    and zero is inside the hull of what the rows have across u.
    """
    n, T, d = size
    rng = np.random.default_rng(0)
    K, u = rng.standard_normal((n, T, d)), np.eye(d)[0]
    K[:, :, 0], K[:, 0, 0] = 0.0, margin
    if rotated:  # now rounding makes the margins of the keys differ
        Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
        K, u = K @ Q.T, Q @ u
    return K, np.zeros(n, dtype=int), u


def ours(problem, **parameters):
    return solve_token_svm(problem.K, problem.selected, **parameters)


def dense_qp(problem):
    """Solve with cvxopt, as the paper's code does."""
    from cvxopt import matrix, solvers

    m, d = problem.rows.shape
    arrays = np.eye(d), np.zeros(d), -problem.rows, -np.ones(m)
    found = solvers.qp(*map(matrix, arrays), options={"show_progress": False})
    return np.array(found["x"]).ravel()


def conic(problem):
    """Solve with cvxpy and Clarabel, all constraints in one object."""
    import cvxpy

    p = cvxpy.Variable(problem.rows.shape[1])
    goal = cvxpy.Minimize(cvxpy.sum_squares(p) / 2)
    cvxpy.Problem(goal, [problem.rows @ p >= 1]).solve(solver="CLARABEL")
    return p.value


def liblinear(problem, **parameters):
    """Fit LinearSVC on the rows, random ones negated, since it wants two classes."""
    sign = np.random.default_rng(0).choice([-1, 1], size=len(problem.rows))
    svc = LinearSVC(fit_intercept=False, random_state=0, **parameters)
    return svc.fit(sign[:, None] * problem.rows, sign).coef_[0]


def describe_hard(problem, answer):
    """Judge any p by its norm once it is scaled to margin one, and ours by its gap."""
    p = getattr(answer, "p", answer)
    smallest = (problem.rows @ p).min()
    norm = np.linalg.norm(p) / smallest if smallest > 0 else np.inf
    certificate = {} if p is answer else {"gap": answer.gap}
    return {"objective": norm, "smallest margin": smallest} | certificate


def describe_soft(problem, answer):
    p = getattr(answer, "p", answer)
    short = np.maximum(0.0, 1.0 - problem.rows @ p)
    return {"objective": p @ p / 2 + short @ short}


def race_on_selections(title, solvers, describe, options, *, rows=True):
    for size in sizes(options):
        for geometry in GEOMETRIES:
            make = partial(make_selection, size, geometry, rows=rows)
            warm_up = make_selection(TINY, "planted")
            table = race(solvers, describe, make, warm_up, **options.race)
            show(f"{title}: {geometry}, {_times(size)}", table)


def sizes(options):
    return [SMALL] if options.quick else [SMALL, LARGE]


def _times(size):
    return " x ".join(map(str, size))


def hard_margin(options):
    solvers = {
        "solve_token_svm": ours,
        "dense QP (cvxopt)": dense_qp,
        "cvxpy + Clarabel": conic,
        "LinearSVC(C=1e9)": partial(liblinear, C=1e9),
        "LinearSVC(C=1e9, dual=True)": partial(liblinear, C=1e9, dual=True),
        "LinearSVC(C=1e9, tol=1e-10)": partial(
            liblinear, C=1e9, tol=1e-10, max_iter=10_000
        ),
    }
    race_on_selections("Hard margin", solvers, describe_hard, options)


def soft_margin(options):
    primal = partial(liblinear, dual=False)
    solvers = {
        "solve_token_svm(C=1)": partial(ours, C=1.0),
        "LinearSVC(dual=False)": primal,
        "LinearSVC(dual=False, tol=1e-10)": partial(primal, tol=1e-10, max_iter=10_000),
    }
    race_on_selections("Soft margin", solvers, describe_soft, options)


def memory(options):
    """Measure one solve in a fresh process each. Only Linux forgets a peak."""
    if not Path("/proc/self/clear_refs").exists():
        return
    solvers = {
        "solve_token_svm": partial(peak_memory, solve=ours),
        "solve_token_svm(C=1)": partial(peak_memory, solve=partial(ours, C=1.0)),
        "dense QP (cvxopt)": partial(peak_memory, solve=from_keys(dense_qp)),
        "LinearSVC(dual=False)": partial(
            peak_memory, solve=from_keys(partial(liblinear, dual=False))
        ),
    }
    once = type(options)(**vars(options) | {"race": options.race | {"repeats": 1}})
    race_on_selections("Memory", solvers, describe_memory, once, rows=False)


def from_keys(solve):
    return partial(_solve_from_keys, solve)


def _solve_from_keys(solve, problem):
    return solve(with_rows(problem))


def peak_memory(problem, solve):
    """Return the resident memory that solving adds at its peak, in sizes of the keys"""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    solve(problem)
    return (_resident("VmHWM") - before) / problem.K.nbytes


def _resident(name):
    status = Path("/proc/self/status").read_text()
    return BYTES_PER_KIB * int(re.search(rf"{name}:\s*(\d+) kB", status)[1])


def describe_memory(problem, answer):
    return {"peak beyond the keys / keys": answer}


def conditioning(options):
    """Scale the keys, and shrink the margin of problems whose solution is known."""

    def error(p, direction):
        return float(np.linalg.norm(p / np.linalg.norm(p) - direction))

    K, selected, _ = make_selection(SMALL, "argmax")
    p = solve_token_svm(K, selected).p
    table = []
    for scale in SCALES:
        found = solve_token_svm(scale * K, selected)
        moved = error(found.p, p / np.linalg.norm(p))
        row = {"keys times": f"{scale:.0e}", "status": found.status, "gap": found.gap}
        table.append(row | {"direction moves by": moved})
    show(f"Scale: argmax, {_times(SMALL)}", table)
    table = []
    for margin in MARGINS:
        row = {"margin": f"{margin:.0e}"}
        for keys in ("exact", "rounded"):
            *problem, u = make_known_margin(SMALL, margin, rotated=keys == "rounded")
            found = solve_token_svm(*problem)
            row |= {f"gap, {keys} keys": found.gap}
            row |= {f"direction error, {keys} keys": error(found.p, u)}
        table.append(row)
    show(f"Small margins: known solution, {_times(SMALL)}", table)


def infeasible(options):
    table = []
    for size in sizes(options):
        for geometry in ("random", "argmax but one"):
            solvers = {f"{geometry}, {_times(size)}": ours}
            make = partial(make_selection, size, geometry, rows=False)
            warm_up = make_selection(TINY, "planted", rows=False)
            table += race(solvers, describe_certificate, make, warm_up, **options.race)
    show("Infeasible: time to the certificate", table)


def describe_certificate(problem, found):
    """Check from scratch: positive weights of rows whose weighted mean vanishes."""
    i, t = found.support.T
    rows = problem.K[i, problem.selected[i]] - problem.K[i, t]
    weights = found.dual / found.dual.sum()
    return {
        "infeasible": found.status == "infeasible",
        "smallest weight": weights.min(),
        "mean row / mean length": np.linalg.norm(weights @ rows)
        / np.linalg.norm(rows, axis=1).mean(),
    }


class Queried(NamedTuple):
    """Keys, a query per sequence, and selected tokens."""

    K: np.ndarray
    queries: np.ndarray
    selected: np.ndarray


def make_queried(size, seed=0):
    """Unit-length Gaussian keys and queries, as the follow-up paper has them."""
    n, T, d = size
    rng = np.random.default_rng(seed)
    K, queries = rng.standard_normal((n, T, d)), rng.standard_normal((n, d))
    K /= np.linalg.norm(K, axis=-1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    return Queried(K, queries, rng.integers(T, size=n))


def query_rows(problem):
    """Return the rows z (x) q, sequence after sequence."""
    rows = with_rows(Selection(problem.K, problem.selected)).rows
    queries = np.repeat(problem.queries, problem.K.shape[1] - 1, axis=0)
    return np.einsum("md,mq->mdq", rows, queries).reshape(len(rows), -1)


def our_matrix(problem, norm):
    return solve_key_query_svm(*problem, norm=norm).p


def conic_matrix(problem, norm):
    import cvxpy

    d = problem.K.shape[2]
    W = cvxpy.Variable((d, d))
    size = cvxpy.sum_squares(W) / 2 if norm == "frobenius" else cvxpy.normNuc(W)
    constraints = [query_rows(problem) @ cvxpy.vec(W, order="C") >= 1]
    cvxpy.Problem(cvxpy.Minimize(size), constraints).solve(solver="CLARABEL")
    return W.value


def describe_matrix(problem, W, order):
    smallest = (query_rows(problem) @ W.ravel()).min()
    return {"objective": np.linalg.norm(W, order) / smallest}


def key_query(options):
    for norm, order in (("frobenius", "fro"), ("nuclear", "nuc")):
        solvers = {
            f'solve_key_query_svm(norm="{norm}")': partial(our_matrix, norm=norm),
            "cvxpy + Clarabel": partial(conic_matrix, norm=norm),
        }
        describe = partial(describe_matrix, order=order)
        make, warm_up = partial(make_queried, QUERIED), make_queried(TINY)
        table = race(solvers, describe, make, warm_up, **options.race)
        show(f"A query per sequence: {norm} norm, {_times(QUERIED)}", table)


if __name__ == "__main__":
    tables = [hard_margin, soft_margin, memory, conditioning, infeasible, key_query]
    run(tables, __doc__)
