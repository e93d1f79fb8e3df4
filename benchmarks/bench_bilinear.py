"""Measure BilinearSystemIdentifier: time, memory, conditioning, stability, runs."""

import os
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from race import as_measured, peak, race, run, show
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.datasets import make_bilinear_system, make_boost_converter
from sklearn_attn.dynamics import BilinearSystem, BilinearSystemIdentifier

# steps, states, inputs: the paper's form, without an input matrix
SMALL, LARGE = (100_000, 20, 5), (1_000_000, 10, 3)
WARM_UP = (200, 4, 2)
TRACED_STEPS = (100_000, 1_000_000, 4_000_000)
MEBIBYTE = 2**20


class Problem(NamedTuple):
    """Rows [x | u], next states, and the coefficients that made them."""

    X: np.ndarray
    y: np.ndarray
    coef: np.ndarray
    n_states: int
    single: tuple = ()  # X and y in single precision


def make_problem(size, seed=0):
    n_steps, n, m = size
    X, y, system = make_bilinear_system(
        n_steps, n, m, noise=1.0, random_state=seed, return_system=True
    )
    single = tuple(part.astype(np.float32) for part in (X, y))
    return Problem(X, y, np.hstack(system.A), n, single)


# Contenders


def identify(problem, **options):
    options = {"input_matrix": False} | options
    return BilinearSystemIdentifier(**options).fit(problem.X, problem.y).coef_


def identify_single(problem):
    return BilinearSystemIdentifier(input_matrix=False).fit(*problem.single).coef_


def all_features(problem):
    x, u = problem.X[:, : problem.n_states], problem.X[:, problem.n_states :]
    return np.hstack([x, *(x * u[:, [k]] for k in range(u.shape[1]))])


def lstsq(problem):
    return np.linalg.lstsq(all_features(problem), problem.y, rcond=None)[0].T


def normal_equations(problem):
    D = all_features(problem)
    return np.linalg.solve(D.T @ D, D.T @ problem.y).T


def linear_regression(problem):
    model = LinearRegression(fit_intercept=False)
    return model.fit(all_features(problem), problem.y).coef_


def ridge(problem):
    model = Ridge(alpha=1e-9, fit_intercept=False, solver="cholesky")
    return model.fit(all_features(problem), problem.y).coef_


def sindy(problem):
    import pysindy as ps

    n, m = problem.n_states, problem.X.shape[1] - problem.n_states
    model = ps.DiscreteSINDy(
        optimizer=ps.STLSQ(threshold=0, alpha=0),
        feature_library=ps.ParameterizedLibrary(
            parameter_library=ps.PolynomialLibrary(degree=1, include_bias=True),
            feature_library=ps.PolynomialLibrary(degree=1, include_bias=False),
            num_parameters=m,
            num_features=n,
        ),
    )
    model.fit(problem.X[:, :n], t=1, x_next=problem.y, u=problem.X[:, n:])
    return model.coefficients()


def square_product(problem):
    """Do as many operations as a symmetric update needs, in a product of squares."""
    d = problem.coef.shape[1] + problem.n_states
    side = round((d * (d + 1) * len(problem.X) / 2) ** (1 / 3))
    square = SQUARES.setdefault(side, np.ones((side, side)))
    np.matmul(square, square)
    return problem.coef


# kept between turns, so that making them is not in a time
SQUARES: dict[int, np.ndarray] = {}


def describe(problem, coef):
    return {"error to the truth": np.linalg.norm(coef - problem.coef)}


def fits(options):
    contenders = {
        "BilinearSystemIdentifier()": identify,
        "the same, data in float32": identify_single,
        "np.linalg.lstsq, all features": lstsq,
        "LinearRegression, all features": linear_regression,
        'Ridge(solver="cholesky"), all features': ridge,
        "normal equations, all features": normal_equations,
        "(a product of squares, as many operations)": square_product,
    }
    if options.device != "cpu":
        contenders[f"device={options.device!r}"] = partial(
            identify, device=options.device
        )
    for size in [SMALL] if options.quick else [SMALL, LARGE]:
        extra = {"pysindy, ParameterizedLibrary": sindy} if size == SMALL else {}
        rows = race(
            contenders | extra,
            describe,
            partial(make_problem, size),
            make_problem(WARM_UP),
            **options.race,
        )
        show(f"Fit: {by(size)}", rows)


def by(size):
    return "{:,} steps, {} states, {} inputs".format(*size)


def solvers(options):
    contenders = {
        f"solver={solver!r}": partial(identify, solver=solver)
        for solver in ("gram", "tsqr", "lstsq")
    }
    contenders["uncertainty=False"] = partial(identify, uncertainty=False)
    contenders["partial_fit, 1,000 rows at a time"] = in_pieces
    rows = race(
        contenders,
        describe,
        partial(make_problem, SMALL),
        make_problem(WARM_UP),
        **options.race,
    )
    show(f"Solvers: {by(SMALL)}", rows)


def in_pieces(problem, n_rows=1000):
    model = BilinearSystemIdentifier(input_matrix=False)
    for start in range(0, len(problem.X), n_rows):
        part = slice(start, start + n_rows)
        model.partial_fit(problem.X[part], problem.y[part])
    return model.coef_


# Memory


def memory(options):
    steps = TRACED_STEPS[:1] if options.quick else TRACED_STEPS
    for size in [(n_steps, *LARGE[1:]) for n_steps in steps] + [SMALL]:
        contenders = {"BilinearSystemIdentifier()": partial(peak, solve=identify)}
        if size[0] <= LARGE[0]:
            contenders |= {
                'solver="tsqr"': partial(peak, solve=partial(identify, solver="tsqr")),
                "np.linalg.lstsq, all features": partial(peak, solve=lstsq),
                "LinearRegression, all features": partial(
                    peak, solve=linear_regression
                ),
                "normal equations, all features": partial(peak, solve=normal_equations),
            }
        rows = race(
            contenders,
            as_measured,
            partial(make_problem, size),
            make_problem(WARM_UP),
            repeats=1,
            timeout=options.timeout,
        )
        show(f"Memory: {by(size)}", rows)


# Conditioning

SOLVERS = {
    "auto": identify,
    "gram": partial(identify, solver="gram"),
    "tsqr": partial(identify, solver="tsqr"),
    "np.linalg.lstsq": lstsq,
}


def conditioning(options):
    """Compare with NumPy's solution of a problem that is scaled, or nearly singular."""
    rows = []
    problem = make_problem((2000, 6, 2))
    reference = lstsq(problem)
    for scale in (1e-8, 1e8):
        X = problem.X.copy()
        X[:, 0] *= scale
        scaled = problem._replace(X=X)
        row = {"": f"one state times {scale:g}"}
        for name, solve in SOLVERS.items():
            back = solve(scaled).copy()
            back[:, ::6] *= scale  # the coefficients of this state, in each matrix
            row[name] = relative(back, reference)
        rows.append(row)
    rng = np.random.default_rng(0)
    for eps in (1e-2, 1e-4, 1e-6, 1e-7):
        X = problem.X.copy()
        X[:, 5] = X[:, 4] + eps * rng.standard_normal(len(X))
        close = problem._replace(X=X)
        close = close._replace(y=all_features(close) @ problem.coef.T)
        row = {"": f"two states alike but for {eps:g}"}
        for name, solve in SOLVERS.items():
            row[name] = relative(solve(close), problem.coef)
        rows.append(row)
    show("Conditioning: relative error of the coefficients", rows)


def relative(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# Stability


def stability(options):
    rows = []
    for n in (10, 20, 50, 100, 200):
        _, _, system = make_bilinear_system(1, n, 3, random_state=0, return_system=True)
        seconds = [timed(system.spectral_radius)[0] for _ in range(options.repeats)]
        row = {"states": str(n), "without the matrix": f"{np.median(seconds):.3g} s"}
        if n <= 20:
            operator = system.augmented_operator()
            dense = [timed(dense_radius, operator)[0] for _ in range(options.repeats)]
            row["eigenvalues of the matrix"] = f"{np.median(dense):.3g} s"
        row["matrix, MiB"] = 8 * n**4 / MEBIBYTE
        driven = BilinearSystem(system.A, noise_cov=np.eye(n))
        row["stationary covariance"] = f"{timed(driven.stationary_covariance)[0]:.3g} s"
        rows.append(row)
    show("Stability: spectral radius of the augmented operator", rows)


def dense_radius(operator):
    return np.abs(np.linalg.eigvals(operator.matrix())).max()


def timed(call, *arguments):
    start = time.perf_counter()
    answer = call(*arguments)
    return time.perf_counter() - start, answer


# The converter


def converter(options):
    """Free runs of 2,000 steps, over seeds, of models that learned from 4,000."""
    n_seeds = 2 if options.quick else 5
    errors = {}
    for seed in range(n_seeds):
        X, y = make_boost_converter(6000, random_state=seed)
        train, test = slice(0, 4000), slice(4000, 6000)
        dt = {"time": "continuous", "dt": 20e-6}
        models = {
            "BilinearSystemIdentifier, discrete": BilinearSystemIdentifier(
                fit_intercept=True
            ),
            "BilinearSystemIdentifier, continuous": BilinearSystemIdentifier(
                fit_intercept=True, **dt
            ),
            "linear regression": LinearRegression(),
            "MLP of increments": MLPRegressor(
                hidden_layer_sizes=(64, 64), max_iter=500, random_state=0
            ),
        }
        for name, model in models.items():
            increments = "increments" in name
            if increments:
                model = make_pipeline(StandardScaler(), model)
            target = y - X[:, :2] if increments else y
            scale = target[train].std(0) if increments else 1.0
            model.fit(X[train], target[train] / scale)
            x, run_ = X[4000, :2], []
            for u in X[test, 2:]:
                step = model.predict(np.r_[x, u][None])[0] * scale
                x = x + step if increments else step
                run_.append(x)
            rmse = np.sqrt(((np.array(run_) - y[test]) ** 2).mean(0))
            errors.setdefault(name, []).append(rmse)
    rows = [
        {
            "": name,
            "current, A": float(np.median(found, axis=0)[0]),
            "voltage, V": float(np.median(found, axis=0)[1]),
        }
        for name, found in errors.items()
    ]
    ours = rows[0]
    for row in rows:
        row["voltage / ours"] = row["voltage, V"] / ours["voltage, V"]
    show(f"Boost converter: RMSE of free runs, median of {n_seeds} seeds", rows)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    run([fits, solvers, memory, conditioning, stability, converter], __doc__)
