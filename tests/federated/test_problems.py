"""Laws of the coupled equations, of what clients answer, and of hypergradients."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from sklearn_attn.datasets import make_federated_mdp
from sklearn_attn.federated import (
    ActorCriticProblem,
    BilevelProblem,
    CompositionalProblem,
    FederatedProblem,
    MinimaxProblem,
    MinimizationProblem,
    exact_hypergradient,
    fedmsa,
    local_hypergradient,
    neumann_hypergradient,
    quadratic_problem,
)
from sklearn_attn.federated._clients import ClientBlock

from .affine import affine_engine, affine_maps, gradient, quadratic

ROUNDING = 1e-12  # sums of some dozens of terms of order one, in another order


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rows(*lengths):
    """Clients with features X, targets y and weights of rows."""
    return [
        {"X": normal(n, 3, seed=m), "y": normal(n, seed=50 + m), "row": torch.ones(n)}
        for m, n in enumerate(lengths)
    ]


def squares(m, w):
    return (m["row"] * (m["X"] @ w - m["y"]) ** 2).sum() / m["row"].sum()


def inner(m, x, w):
    return squares(m, w) + (x.exp() * w**2).sum() + (w**4).sum()


REGRESSION = {
    "minimization": MinimizationProblem(squares, normal(3)),
    "minimax": MinimaxProblem(
        lambda m, x, y: squares(m, x * y) - y @ y, normal(3), normal(3, seed=1)
    ),
    "bilevel": BilevelProblem(
        inner, lambda m, x, w: squares(m, w).sin() + (x**2).sum(), normal(3), normal(3)
    ),
    "compositional": CompositionalProblem(
        [lambda m, x: x.sin() * squares(m, x), lambda m, z: squares(m, z)],
        normal(3),
        (normal(3),),
    ),
    "products": CompositionalProblem(
        [lambda m, x: x.sin() * squares(m, x), lambda m, z: squares(m, z)],
        normal(3),
        (normal(3),),
        adjoint=False,
    ),
    "general": FederatedProblem(
        lambda m, x, zs: (m["X"].mean(0) * x - zs[0], (zs[0] - x * m["y"].mean(),)),
        normal(3),
        (normal(3),),
    ),
}
MANY = pytest.mark.parametrize("kind", REGRESSION)


def requests(block, n_clients, batch_size):
    """One request of each kind, at a point of no special kind."""
    u, t = normal(block.layout.size, seed=7) / 3, normal(block.layout.size, seed=8)
    blocks = len(block.layout.blocks)
    common = {
        "clients": torch.arange(n_clients),
        "round": 3,
        "seed": 0,
        "batch_size": batch_size,
    }
    step = torch.linspace(0.02, 0.03, blocks, dtype=torch.float64)
    steps = {"start": u, "direction": t, "step": step, "local_steps": 4}
    at = {"at": torch.stack([u, t / 3]), "coef": torch.tensor([1.0, -0.5])}
    asked = [
        {"kind": "field", **at},
        {"kind": "steps", "correct": 1, **steps},
        {"kind": "steps", "correct": 0, **steps},
        {"kind": "jvp", "at": u, "tangent": t},
        {"kind": "spread", "at": u, "tangent": t, "mean": t, "rows": t.abs()},
    ]
    if isinstance(block.problem, BilevelProblem):
        asked.append(
            {"kind": "local_hypergradient", "at": u, "n_neumann": 3, "eta": 0.1}
        )
    return [common | request for request in asked]


def assert_same_answers(one, others, requests):
    for request in requests:
        got = one.answer(request)
        parts = [other.answer(request) for other in others]
        wanted = sum(part["total"] for part in parts)
        torch.testing.assert_close(got["total"], wanted, rtol=ROUNDING, atol=ROUNDING)
        assert got["weight"] == pytest.approx(sum(p["weight"] for p in parts))
        value = sum(part["value"] for part in parts)
        assert got["value"] == pytest.approx(value, rel=ROUNDING, nan_ok=True)
        largest = max(part["largest"] for part in parts)
        assert got["largest"] == pytest.approx(largest, rel=ROUNDING)
        assert got["answered"].tolist() == request["clients"].tolist()


@MANY
@pytest.mark.parametrize("batch_size", [0, 2])
def test_clients_together_answer_as_one_after_the_other(kind, batch_size):
    clients, weights = rows(4, 4, 4), [0.5, 2.0, 1.0]
    together = ClientBlock(REGRESSION[kind], clients, weights=weights)
    alone = [
        ClientBlock(REGRESSION[kind], [data], weights=[weights[m]], numbers=[m])
        for m, data in enumerate(clients)
    ]
    assert_same_answers(together, alone, requests(together, 3, batch_size))


@pytest.mark.parametrize("kind", ["minimization", "bilevel", "compositional"])
@pytest.mark.parametrize("batch_size", [0, 2])
def test_padding_changes_nothing(kind, batch_size):
    clients = rows(3, 4, 6, 7, 1)
    ragged = ClientBlock(REGRESSION[kind], clients)
    padded = ClientBlock(replace(REGRESSION[kind], pad_rows=True), clients)
    assert len(padded._groups) == 1 < len(ragged._groups) == 5
    assert_same_answers(padded, [ragged], requests(ragged, 5, batch_size))


def test_only_the_clients_asked_answer():
    block = ClientBlock(REGRESSION["minimization"], rows(3, 4, 3), numbers=[5, 6, 7])
    request = requests(block, 1, 0)[0] | {"clients": torch.tensor([7, 2])}
    assert block.answer(request)["answered"].tolist() == [7]


def test_the_mean_over_batches_is_the_map_of_all_rows():
    clients = rows(5, 9)
    block = ClientBlock(REGRESSION["minimization"], clients)
    request, *_ = requests(block, 2, 0)
    request |= {"coef": torch.tensor([1.0, 0.0])}
    n = 20_000
    got = block.answer(request | {"batch_size": n})["total"]
    w = request["at"][0]
    each = [2 * (m["X"] @ w - m["y"])[:, None] * m["X"] for m in clients]
    error = sum(g.var(0, correction=0) / n for g in each).sqrt()
    # four standard errors: a chance of 1 in 5000 over the three entries, of the seed
    assert (got - block.answer(request)["total"]).abs().le(4 * error).all()


def test_rounds_clients_and_seeds_draw_different_rows():
    clients = [{"X": torch.arange(1000.0)[:, None]}] * 2
    problem = MinimizationProblem(lambda m, w: (m["X"] * w).mean(), normal(1))
    block = ClientBlock(problem, clients)
    request, *_ = requests(block, 1, 3)

    def drawn(**change):
        return float(block.answer(request | change)["total"])

    others = [
        drawn(round=4), drawn(seed=1), drawn(clients=torch.tensor([1])),
    ]  # fmt: skip
    assert drawn() == drawn()
    assert len({drawn(), *others}) == 4


def test_bilevel_maps_are_those_of_the_formulas():
    data = quadratic(0.9)
    problem, clients = quadratic_problem(data)
    J, k = affine_maps(data)
    block = ClientBlock(problem, clients)
    for request in requests(block, 10, 0):
        wanted = affine_engine(data).ask(request)["total"]
        got = block.answer(request)["total"]
        # sums over ten clients of terms of order ten
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)
    u = normal(13)
    request, *_ = requests(block, 10, 0)
    request |= {"at": u[None], "coef": torch.ones(1)}
    np.testing.assert_allclose(block.answer(request)["total"], (J @ u + k).sum(0))


def test_x_and_v_stay_feasible_in_all_steps():
    data = quadratic()
    problem, clients = quadratic_problem(data)
    problem = replace(problem, project=lambda x: x.clamp(-0.1, 0.1), adjoint_radius=0.2)
    seen = []

    def see(solution):
        x, (_, v) = solution.value
        seen.append((float(x.abs().max()), float(v.norm())))

    for start in ("zero", "cg", "neumann"):
        fedmsa(
            problem, clients, alpha=0.05, beta=0.2, local_steps=3, n_rounds=4,
            v_init=start, on_round=see,
        )  # fmt: skip
    assert len(seen) == 12
    # at the limit, but for rounding; v is a mean of points on a sphere, close by
    assert max(x for x, _ in seen) == pytest.approx(0.1, abs=1e-15)
    assert 0.199 < max(v for _, v in seen) < 0.2 + 1e-15


# Compositional problems.


def moments(n_clients, heterogeneity):
    """Clients with rows whose means differ, and three functions of them."""
    shift = heterogeneity * normal(n_clients, 3, seed=9)
    clients = list(normal(n_clients, 40, 3, seed=8) + shift[:, None])
    functions = [
        lambda X, x: x + 0.3 * (X * x).tanh().mean(0),
        lambda X, z: z + 0.3 * (X * z.flip(0)).sin().mean(0),
        lambda X, z: (z - X).square().sum(1).mean() + z.prod(),
    ]
    return functions, clients


def composed(functions, clients, x):
    for f in functions:
        x = torch.stack([f(X, x) for X in clients]).mean(0)
    return x


def at_the_sequences(functions, clients, x):
    """z^n and u^n where their equations hold, by autograd of the mean functions."""
    z = [x.requires_grad_()]
    for f in functions[:-1]:
        z.append(torch.stack([f(X, z[-1]) for X in clients]).mean(0))
    value = torch.stack([functions[-1](X, z[-1]) for X in clients]).mean(0)
    x_grad, *u = torch.autograd.grad(value, z)
    return x_grad, [part.detach() for part in z[1:]], u


def mean_map(problem, clients, x, zs):
    block = ClientBlock(problem, clients)
    u = block.layout.pack(x, zs)
    request = requests(block, len(clients), 0)[0]
    request |= {"at": u[None], "coef": torch.ones(1)}
    mean = block.answer(request)["total"] / len(clients)
    return [mean[part] for part in block.layout.blocks]


@pytest.mark.parametrize("heterogeneity", [0.0, 1.0])
def test_with_adjoints_the_gradient_of_a_composition_is_exact(heterogeneity):
    functions, clients = moments(4, heterogeneity)
    x = normal(3, seed=2)
    wanted, z, u = at_the_sequences(functions, clients, x.clone())
    problem = CompositionalProblem(functions, x, tuple(z))
    P, *S = mean_map(problem, clients, x, (*z, *u))
    assert (P - wanted).abs().max() < 1e-10
    assert max(part.abs().max() for part in S) < 1e-10


def test_products_of_a_clients_own_jacobians_are_biased_the_more_clients_differ():
    def bias(heterogeneity):
        functions, clients = moments(4, heterogeneity)
        x = normal(3, seed=2)
        wanted, z, _ = at_the_sequences(functions, clients, x.clone())
        problem = CompositionalProblem(functions, x, tuple(z), adjoint=False)
        P, *S = mean_map(problem, clients, x, tuple(z))
        assert max(part.abs().max() for part in S) < 1e-10
        return float((P - wanted).norm() / wanted.norm())

    biases = [bias(h) for h in (0.0, 0.3, 1.0)]
    assert biases == sorted(biases)
    # clients of one law still differ by chance, of order 1 / 40 rows
    assert 1e-4 < biases[0] < 0.05
    assert biases[-1] > 5 * biases[0]


def test_sequences_of_a_composition_start_at_what_the_first_client_returns():
    functions, clients = moments(2, 1.0)
    problem = CompositionalProblem(functions, normal(3)).begin(clients[0])
    torch.testing.assert_close(problem.zs0[0], functions[0](clients[0], normal(3)))
    assert len(problem.zs0) == 4
    assert problem.begin(clients[1]) is problem


# Actors and critics.


@pytest.fixture(scope="module")
def process():
    data = make_federated_mdp(random_state=0)
    problem = ActorCriticProblem(torch.from_numpy(data.transitions), gamma=data.gamma)
    return data, problem, list(torch.from_numpy(data.rewards))


def critic(problem, reward, theta):
    """Solve V = sum_a pi(a | s) (r + gamma sum_t T V)."""
    pi = theta.softmax(-1)
    step = torch.einsum("sa,sat->st", pi, problem.transitions)
    eye = torch.eye(len(step), dtype=step.dtype)
    return torch.linalg.solve(eye - problem.gamma * step, (pi * reward).sum(-1))


def test_where_the_critic_is_right_the_actor_follows_the_gradient_of_the_value(process):
    data, problem, clients = process
    reward = torch.from_numpy(data.rewards.mean(0))
    theta = normal(5, 3).requires_grad_()
    (wanted,) = torch.autograd.grad(problem.value(reward, theta), theta)
    theta = theta.detach()
    P, S = mean_map(problem, clients, theta, (critic(problem, reward, theta),))
    assert (P.reshape(5, 3) + wanted).abs().max() < 1e-12
    assert S.abs().max() < 1e-12
    # J is (1 - gamma) rho' V
    V = critic(problem, reward, theta)
    value = (1 - problem.gamma) * V.mean()
    assert problem.value(reward, theta) == pytest.approx(float(value), rel=1e-12)


def test_transitions_that_are_drawn_have_the_exact_mean(process):
    _, problem, clients = process
    block = ClientBlock(problem, clients[:1])
    request, *_ = requests(block, 1, 0)
    request |= {"coef": torch.tensor([1.0, 0.0])}
    exact = block.answer(request)["total"]
    draws = torch.stack(
        [
            block.answer(request | {"batch_size": 2000, "round": r})["total"]
            for r in range(30)
        ]
    )
    error = draws.std(0) / 30**0.5
    # of t_29, over 20 entries: a chance of 1 in 100 beyond four, of the seed
    assert ((draws.mean(0) - exact).abs() < 4 * error + 1e-12).all()


def test_critics_may_have_features(process):
    data, problem, clients = process
    phi = normal(5, 2)
    problem = ActorCriticProblem(problem.transitions, problem.gamma, features=phi)
    theta, w = normal(5, 3), normal(2, seed=4)
    _, S = mean_map(problem, clients, theta, (w,))
    reward = torch.from_numpy(data.rewards.mean(0))
    pi, d = theta.softmax(-1), problem.visits(theta)
    gap = phi @ w - (pi * (reward + 0.9 * problem.transitions @ phi @ w)).sum(1)
    torch.testing.assert_close(S, phi.T @ (d * gap))
    assert d.sum() == pytest.approx(1.0)


# Hypergradients.


@pytest.mark.parametrize("heterogeneity", [0.0, 0.9])
def test_the_exact_hypergradient_is_that_of_the_closed_form(heterogeneity):
    data = quadratic(heterogeneity)
    problem, clients = quadratic_problem(data)
    x = normal(3)
    A, B, b = (data[name].mean(0) for name in "ABb")
    w = torch.from_numpy(np.linalg.solve(A, B @ x.numpy() + b))
    got = exact_hypergradient(problem, clients, x, w)
    assert np.abs(got.numpy() - gradient(data, x)).max() < 1e-10


def test_the_exact_hypergradient_is_the_derivative_of_the_value():
    clients, problem = rows(4, 5, 6), REGRESSION["bilevel"]

    def best(x):
        w = torch.zeros(3, dtype=torch.float64)
        for _ in range(60):  # Newton: the inner function is convex
            w = w.detach().requires_grad_()
            g = sum(problem.inner(m, x, w) for m in clients) / 3
            (slope,) = torch.autograd.grad(g, w)
            H = torch.autograd.functional.hessian(
                lambda w: sum(problem.inner(m, x, w) for m in clients) / 3, w
            )
            w = w - torch.linalg.solve(H, slope)
            if slope.norm() < 1e-13:
                break
        return w.detach()

    def value(x):
        return sum(problem.outer(m, x, best(x)) for m in clients) / 3

    x, h = normal(3), 1e-5
    eye = torch.eye(3, dtype=torch.float64)
    wanted = torch.stack([(value(x + h * e) - value(x - h * e)) / (2 * h) for e in eye])
    got = exact_hypergradient(problem, clients, x, best(x))
    # central differences: h^2 of truncation, 1e-16 / h of rounding
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("n_neumann", [0, 3, 40])
def test_a_neumann_series_has_the_terms_of_the_formula(n_neumann):
    data = quadratic(0.3)
    problem, clients = quadratic_problem(data)
    x, w, eta = normal(3), normal(5, seed=1), 0.3
    A, B, c = (data[name].mean(0) for name in "ABc")
    term, v = eta * (w.numpy() - c), 0.0
    for _ in range(n_neumann + 1):
        v, term = v + term, term - eta * A @ term
    wanted = data.nu * x.numpy() + B.T @ v
    got = neumann_hypergradient(problem, clients, x, w, n_neumann=n_neumann, eta=eta)
    np.testing.assert_allclose(got, wanted, atol=ROUNDING)
    start = fedmsa(
        problem, clients, start=(x, (w, torch.zeros_like(w))), alpha=0.0, beta=eta,
        v_init="neumann", n_neumann=n_neumann, n_rounds=1, local_steps=1,
        on_round=lambda _: True,
    )  # fmt: skip
    _, (_, after) = start.value
    np.testing.assert_allclose(after, v - eta * (A @ v - (w.numpy() - c)), atol=1e-12)


def test_conjugate_gradients_start_v_where_its_equation_holds():
    problem, clients = quadratic_problem(quadratic(0.9))
    residuals = {
        kind: fedmsa(
            problem, clients, alpha=0.01, beta=0.2, v_init=kind, n_rounds=1,
            n_neumann=5, local_steps=1,
        ).history["adjoint_residual"][0]
        for kind in ("zero", "neumann", "cg")
    }  # fmt: skip
    # five steps of conjugate gradients end it in five dimensions
    assert residuals["cg"] < 1e-10 < residuals["neumann"] < residuals["zero"] / 2


def test_hypergradients_of_clients_alone_are_biased_the_more_they_differ():
    def bias(heterogeneity):
        data = quadratic(heterogeneity)
        problem, clients = quadratic_problem(data)
        at = torch.from_numpy(data.x), torch.from_numpy(data.w)
        return float(local_hypergradient(problem, clients, *at, n_neumann=200).norm())

    biases = [bias(h) for h in (0.0, 0.3, 0.6, 0.9)]
    assert all(a < b for a, b in pairwise(biases))
    assert biases[0] < 1e-10  # the gradient is zero there
    assert biases[1] > 1e-3


def test_weights_are_those_of_copies():
    data = quadratic(0.9)
    problem, clients = quadratic_problem(data)
    x, w = normal(3), normal(5, seed=1)
    weighted = exact_hypergradient(problem, clients[:2], x, w, weights=[3.0, 1.0])
    copied = exact_hypergradient(problem, [clients[0]] * 3 + [clients[1]], x, w)
    torch.testing.assert_close(weighted, copied, rtol=1e-10, atol=1e-10)
