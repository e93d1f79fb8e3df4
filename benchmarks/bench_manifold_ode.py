"""Measure ManifoldNeuralODERegressor: steps, accuracy, drift, sizes, a magnet."""

import time
import warnings
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from race import race, run, show
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from sklearn_attn import ManifoldNeuralODERegressor
from sklearn_attn.datasets import (
    make_macrospin,
    make_rotation_flow,
    make_sphere_flow,
)
from sklearn_attn.dynamics import Flow, SpecialOrthogonal, Sphere, Stiefel

N_SAMPLES, N_STEPS, WIDTH = 1000, 20, 32
MANIFOLDS = {"sphere": Sphere(2), "rotations": SpecialOrthogonal(3)}
PAIR = np.array(  # the paper's fields on the sphere: turns around z and y
    [[[0, -1, 0], [1, 0, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]]]
)


class Problem(NamedTuple):
    """Points, and a field of one hidden layer: f = A tanh(W x + b)."""

    manifold: object
    x: torch.Tensor
    W: torch.Tensor
    b: torch.Tensor
    A: torch.Tensor  # to the Lie algebra
    ambient: torch.Tensor  # to the surrounding space
    flows: dict


def make_problem(manifold, dtype, n_samples=N_SAMPLES, device="cpu", seed=0):
    torch.set_num_threads(1)
    x = torch.from_numpy(manifold.random_points(n_samples, seed)).to(device, dtype)
    flows = {
        name: Flow(
            manifold,
            n_layers=1,
            n_steps=N_STEPS,
            width=WIDTH,
            activation="tanh",
            dtype=dtype,
            integrator=name,
        ).to(device)
        for name in ("lie_euler", "lie_midpoint", "rkmk4", "cf4")
    }
    flow = flows["lie_euler"]
    generator = torch.Generator().manual_seed(seed)
    ambient = torch.randn(x.shape[1], WIDTH, generator=generator) / WIDTH**0.5
    W, b, A = (p[0].detach().clone() for p in (flow.W, flow.b, flow.a))
    leaves = [W, b, A, ambient.to(device, dtype)]
    return Problem(manifold, x, *(leaf.requires_grad_() for leaf in leaves), flows)


def backward(problem, y, weights):
    """The sum of squares back to the weights; return the end and their slopes."""
    slopes = torch.autograd.grad(y.square().sum(), weights)
    if problem.x.is_cuda:
        torch.cuda.synchronize()
    return y.detach(), slopes


# Contenders: forward and backward through 20 steps of the same field


def ours(problem, integrator="lie_euler"):
    flow = problem.flows[integrator]
    return backward(problem, flow(problem.x), list(flow.parameters()))


def matrix_exponential(problem):
    W, b, A = problem.W, problem.b, problem.A
    B = problem.flows["lie_euler"].generators
    X = problem.x.unflatten(1, (3, -1))
    for _ in range(N_STEPS):
        f = torch.tanh(X.flatten(1) @ W.T + b) @ A.T
        xi = torch.einsum("nk,kij->nij", f / N_STEPS, B)
        X = torch.linalg.matrix_exp(xi) @ X
    return backward(problem, X.flatten(1), [W, b, A])


def rodrigues_autograd(problem):
    """Rodrigues' formula, step by step, with slopes by autograd."""
    W, b, A = problem.W, problem.b, problem.A
    X = problem.x.unflatten(1, (3, -1))
    for _ in range(N_STEPS):
        w = torch.tanh(X.flatten(1) @ W.T + b) @ A.T / N_STEPS
        angle = w.square().sum(1).add(1e-30).sqrt()[:, None, None]
        w = w[:, :, None].expand_as(X)
        wX = torch.linalg.cross(w, X, dim=1)
        wwX = torch.linalg.cross(w, wX, dim=1)
        X = X + torch.sin(angle) / angle * wX + (1 - torch.cos(angle)) / angle**2 * wwX
    return backward(problem, X.flatten(1), [W, b, A])


def ambient_field(problem):
    W, b, A = problem.W, problem.b, problem.ambient
    return (lambda t, x: torch.tanh(x @ W.T + b) @ A.T), [W, b, A]


def ambient_euler(problem):
    """The classical neural ODE: a residual network that leaves the manifold."""
    field, weights = ambient_field(problem)
    x = problem.x
    for _ in range(N_STEPS):
        x = x + field(0, x) / N_STEPS
    return backward(problem, x, weights)


def torchdiffeq(problem, adjoint=False, **options):
    import torchdiffeq as library

    field, weights = ambient_field(problem)
    t = torch.tensor([0.0, 1.0], dtype=problem.x.dtype, device=problem.x.device)
    if adjoint:
        solve = partial(library.odeint_adjoint, adjoint_params=tuple(weights))
    else:
        solve = library.odeint
    return backward(problem, solve(field, problem.x, t, **options)[-1], weights)


def describe(problem, answer):
    end, _ = answer
    return {"violation": float(problem.manifold.violation(end).max())}


def steps(options):
    fixed = {"method": "rk4", "options": {"step_size": 1 / N_STEPS}}
    contenders = {
        "Flow, Lie-Euler": ours,
        "ambient Euler (residual network)": ambient_euler,
        "Lie-Euler by Rodrigues, autograd": rodrigues_autograd,
        "Lie-Euler by torch.linalg.matrix_exp": matrix_exponential,
        "torchdiffeq rk4, 20 steps": partial(torchdiffeq, **fixed),
        "torchdiffeq rk4, adjoint": partial(torchdiffeq, adjoint=True, **fixed),
        "torchdiffeq dopri5, 1e-5": partial(
            torchdiffeq, method="dopri5", rtol=1e-5, atol=1e-5
        ),
        "Flow, Lie midpoint": partial(ours, integrator="lie_midpoint"),
        "Flow, RKMK4": partial(ours, integrator="rkmk4"),
        "Flow, CF4": partial(ours, integrator="cf4"),
    }
    for name, manifold in MANIFOLDS.items():
        for dtype in (
            [torch.float32] if options.quick else [torch.float32, torch.double]
        ):
            make = partial(make_problem, manifold, dtype, device=options.device)
            race_options = options.race | {"repeats": 3 * options.race["repeats"]}
            rows = race(contenders, describe, make, make(), **race_options)
            precision = str(dtype).removeprefix("torch.")
            show(f"Forward and backward, {name}, {precision}", rows)


# Accuracy and drift


def accuracy(options):
    """Errors of one flow with 20 and 40 steps, against 2,000 of the best method."""
    rows = []
    for name, manifold in MANIFOLDS.items():
        x = torch.from_numpy(manifold.random_points(200, 0))
        flow = Flow(manifold, n_layers=1, activation="tanh", integrator="cf4")
        with torch.no_grad():
            flow.a.mul_(4)
            flow.n_steps = 2000
            exact = flow(x)
            for integrator in ("lie_euler", "lie_midpoint", "rkmk4", "cf4"):
                flow.integrator = integrator
                row = {"": f"{name}, {integrator}"}
                for flow.n_steps in (20, 40, 80):
                    error = float(manifold.distance(flow(x), exact).max())
                    row[f"{flow.n_steps} steps, rad"] = error
                row["order"] = float(
                    np.log2(row["40 steps, rad"] / row["80 steps, rad"])
                )
                rows.append(row)
    show("Accuracy: largest error at the end", rows)


def drift(options):
    """Violations after many steps, with and without renormalising."""
    rows = []
    manifolds = [Sphere(2), SpecialOrthogonal(3), SpecialOrthogonal(5), Stiefel(5, 2)]
    for manifold in manifolds:
        x = torch.from_numpy(manifold.random_points(100, 0))
        row = {"": repr(manifold)}
        for dtype, n_steps in ((torch.double, 1000), (torch.float32, 10_000)):
            flow = Flow(manifold, n_layers=10, n_steps=n_steps // 10, dtype=dtype)
            with torch.no_grad():
                flow.a.mul_(n_steps / 50)
                for flow.renormalize, how in ((False, "plain"), (True, "renormalised")):
                    end = flow(x.to(dtype))
                    precision = str(dtype).removeprefix("torch.")
                    key = f"{precision}, {n_steps:,} steps, {how}"
                    row[key] = float(manifold.violation(end).max())
        rows.append(row)
    show("Drift: largest violation", rows)


# Learning


def sizes(options):
    """The paper's systems at equal numbers of weights, best of six starts."""
    depths = {"sphere": (2, 4, 8), "so3": (5, 10, 20)}
    makers = {"sphere": make_sphere_flow, "so3": make_rotation_flow}
    rows = []
    for max_iter, tol in (
        [(400, 1e-3)] if options.quick else [(400, 1e-3), (3000, 1e-4)]
    ):
        shared = {
            "alpha": 0.0,
            "n_init": 6,
            "random_state": 0,
            "max_iter": max_iter,
            "tol": tol,
        }
        for name, make in makers.items():
            X, y = make(1200, random_state=0)
            for ours, theirs in zip(depths[name], (1, 2, 4)):
                models = {
                    "manifold": ManifoldNeuralODERegressor(
                        manifold=name,
                        generators=PAIR if name == "sphere" else "all",
                        width=1,
                        neurons="own",
                        n_layers=ours,
                        **shared,
                    ),
                    "classical": ManifoldNeuralODERegressor(
                        readout=False, width=X.shape[1], n_layers=theirs, **shared
                    ),
                }
                row = {"": f"{name}, {max_iter} iterations"}
                losses = []
                for kind, model in models.items():
                    seconds, model = fitted(model, X[:200], y[:200])
                    error = np.square(model.predict(X[200:]) - y[200:]).sum(1).mean()
                    losses.append(error)
                    row |= {
                        f"{kind}: weights": str(model.n_parameters_),
                        f"{kind}: test loss": float(error),
                        f"{kind}: time": f"{seconds:.3g} s",
                    }
                row["ratio of losses"] = float(losses[1] / losses[0])
                rows.append(row)
    show("Equal sizes: 200 samples, best of 6 starts", rows)


def fitted(model, X, y):
    start = time.perf_counter()
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        model.fit(X, y)
    return time.perf_counter() - start, model


def magnet(options):
    """Mean angle (rad) between predicted and true directions of a macrospin."""
    kernel = GridSearchCV(
        KernelRidge(kernel="rbf"),
        {"alpha": np.logspace(-8, -2, 4), "gamma": [0.1, 0.3, 1, 3, 10]},
    )
    network = GridSearchCV(
        MLPRegressor(
            hidden_layer_sizes=(64, 64), solver="lbfgs", max_iter=2000, random_state=0
        ),
        {"alpha": [1e-6, 1e-4, 1e-2]},
    )
    manifold = ManifoldNeuralODERegressor(manifold="sphere", random_state=0)
    models = {
        "ManifoldNeuralODERegressor": manifold,
        "the same, width 1 for each of 2 fields (paper), 8 layers": clone(
            manifold
        ).set_params(width=1, neurons="own", generators="chain"),
        "classical neural ODE, projected": ManifoldNeuralODERegressor(
            readout=False, alpha=1e-5, random_state=0
        ),
        "MLP (64, 64), projected": network,
        "kernel ridge, projected": kernel,
        "5 nearest neighbours, projected": KNeighborsRegressor(weights="distance"),
        "linear regression, projected": LinearRegression(),
    }
    sphere, rows = Sphere(2), []
    seeds = range(1 if options.quick else 3)
    for n_samples in (20, 200):
        for name, model in models.items():
            errors, times = [], []
            for seed in seeds:
                X, y = make_macrospin(1200, random_state=seed)
                seconds, fit = fitted(clone(model), X[:n_samples], y[:n_samples])
                found = sphere.project(fit.predict(X[200:]))
                errors.append(sphere.distance(found, y[200:]))
                times.append(seconds)
            rows.append(
                {
                    "": f"{n_samples} samples, {name}",
                    "mean error, rad": float(np.mean(errors)),
                    "largest": float(np.max(errors)),
                    "time": f"{np.median(times):.3g} s",
                }
            )
    show("Macrospin: mean over three seeds, 1,000 test directions each", rows)


if __name__ == "__main__":
    run([steps, accuracy, drift, sizes, magnet], __doc__)
