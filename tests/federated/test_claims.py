"""What theory says of local steps over many clients, in numbers (2306.01648)."""

import itertools

import numpy as np
import pytest
import torch

from sklearn_attn.datasets import make_federated_mdp
from sklearn_attn.federated import (
    ActorCriticProblem,
    FederatedProblem,
    MinimaxProblem,
    fedmsa,
    quadratic_problem,
)
from sklearn_attn.federated._clients import ClientBlock
from sklearn_attn.federated._engines import VmapEngine
from sklearn_attn.federated._fednest import fednest

from .affine import affine_engine, affine_maps, gradient, quadratic

pytestmark = pytest.mark.claim

HETEROGENEITIES = (0.0, 0.3, 0.9)
STEPS = {"alpha": 0.02, "beta": 0.2}
SMALL = 1e-6  # of the gradient norm, which is of order one at the start


def solve(solver, data, *, small=SMALL, limit=np.inf, **settings):
    """Run until the gradient is small; return the norm, rounds and communications."""
    problem, _ = quadratic_problem(data)
    norm = np.inf

    def near(solution):
        nonlocal norm
        norm = float(np.linalg.norm(gradient(data, solution.value[0])))
        return norm < small or solution.state.communications > limit

    run = solver(
        problem, engine=affine_engine(data), tol=0.0, on_round=near, **settings
    )
    return norm, run.n_iter, run.state.communications


def test_local_steps_of_like_clients_are_central_steps():
    data = quadratic(0.0)
    problem, _ = quadratic_problem(data)
    J, k = (part[0] for part in affine_maps(data))
    step = torch.tensor([0.02] * 3 + [0.2] * 10, dtype=torch.float64)
    u = torch.zeros(13, dtype=torch.float64)
    for _ in range(40):
        u = u - step * (J @ u + k)
    for momentum, participation, local_clients in (
        (1.0, 1.0, None), (0.1, 1.0, 1), (0.5, 0.3, 3),
    ):  # fmt: skip
        run = fedmsa(
            problem, engine=affine_engine(data), n_rounds=5, local_steps=8,
            momentum=momentum, participation=participation,
            local_clients=local_clients, **STEPS,
        )  # fmt: skip
        assert (run.state.u - u).abs().max() < 1e-12


@pytest.fixture(scope="module")
def rounds():
    """Norms, rounds and communications of FedMSA by heterogeneity and local steps."""
    return {
        (h, K): solve(fedmsa, quadratic(h), local_steps=K, n_rounds=600, **STEPS)
        for h in HETEROGENEITIES
        for K in (5, 20, 50)
    }


def test_differences_between_clients_leave_no_floor(rounds):
    assert all(norm < SMALL for norm, _, _ in rounds.values())


@pytest.mark.parametrize("heterogeneity", HETEROGENEITIES)
def test_one_local_client_in_each_round_is_enough(heterogeneity):
    norm, n_rounds, _ = solve(
        fedmsa, quadratic(heterogeneity), local_steps=20, local_clients=1, **STEPS
    )
    assert norm < SMALL
    assert n_rounds < 60


def test_rounds_fall_as_one_over_local_steps_where_clients_are_alike(rounds):
    steps = [K * rounds[0.0, K][1] for K in (5, 20, 50)]
    # rounds are whole: up to K steps more than are needed
    assert max(steps) - min(steps) <= 50


def test_differences_make_more_local_steps_useless(rounds):
    assert rounds[0.9, 50][1] > 1.5 * rounds[0.0, 50][1]
    assert rounds[0.9, 20][1] < 2 * rounds[0.0, 20][1]


@pytest.mark.parametrize("heterogeneity", [0.0, 0.9])
def test_a_tuned_fednest_communicates_five_times_more(heterogeneity, rounds):
    """No setting of a grid is there after five times the communications of FedMSA."""
    _, _, communications = rounds[heterogeneity, 20]  # not tuned, with set-up
    data, reached = quadratic(heterogeneity), []
    # the outer curvature is 1.4 to 6.4, so that alpha = .25 is the best for one step,
    # and beta = .65 for curvatures from 1 to 2; 8 terms have a floor of .35^9
    for T, N, tau, alpha in itertools.product((1, 2), (8, 12), (1, 4), (0.08, 0.25)):
        if tau * alpha > 0.4:
            continue
        norm, *_ = solve(
            fednest, data, limit=5 * communications, n_rounds=1000, alpha=alpha,
            beta=0.65, inner_rounds=T, n_neumann=N, local_steps=tau,
        )  # fmt: skip
        reached.append(norm)
    assert len(reached) == 12
    assert min(reached) > SMALL


def test_a_truncated_series_leaves_fednest_a_floor():
    settings = {"alpha": 0.05, "beta": 0.4, "inner_rounds": 4, "local_steps": 4}
    floors = [
        solve(fednest, quadratic(0.3), n_neumann=N, n_rounds=40, **settings)[0]
        for N in (1, 3, 6)
    ]
    # each term takes a factor of 1 - eta mu = .6 at least, in the worst direction
    assert floors[0] > 0.01
    assert floors[1] > 1e-3
    assert floors[0] > 2 * floors[1] > 4 * floors[2]


def test_local_hypergradients_leave_a_floor_that_grows_with_differences():
    floors = [
        solve(
            fednest, quadratic(h), hypergradient="local", n_neumann=60, alpha=0.2,
            beta=0.4, inner_rounds=4, local_steps=4, n_rounds=60,
        )[0]
        for h in HETEROGENEITIES
    ]  # fmt: skip
    assert floors[0] < SMALL
    assert floors[1] > 1e-3
    assert floors[2] > 5 * floors[1]


def test_rounds_grow_with_the_logarithm_of_the_accuracy():
    marks = [
        solve(fedmsa, quadratic(0.3, largest=5.0), local_steps=20, small=small,
              alpha=0.01, beta=0.1, n_rounds=400)[1]
        for small in (1e-2, 1e-4, 1e-6, 1e-8)
    ]  # fmt: skip
    gaps = np.diff(marks)
    # rounds are whole; the first gap may hold some of the transient
    assert abs(gaps[2] - gaps[1]) <= 0.1 * gaps[1] + 1
    assert abs(gaps[1] - gaps[0]) <= 0.3 * gaps[1] + 1


# Momentum: h = x + noise, drawn anew by each client.

SIGMA, M = 1.0, 4


def noisy(width):
    """Clients of unit noise, from rows that are drawn: sigma = 1 in each entry."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(M, 2000, width, generator=generator, dtype=torch.float64)
    pool = (pool - pool.mean(1, keepdim=True)) / pool.std(1, correction=0, keepdim=True)
    problem = FederatedProblem(
        lambda m, x, zs: (x + m.mean(0), ()), torch.zeros(width, dtype=torch.float64)
    )
    return problem, list(pool)


@pytest.mark.parametrize("rho", [0.5, 0.1])
def test_momentum_reduces_the_variance_as_theory_says(rho):
    width, n_rounds, burn_in = 400, 60, int(20 / rho) // 2
    problem, clients = noisy(width)
    seen = []
    fedmsa(
        problem, clients, momentum=rho, batch_size=1, alpha=0.0, local_steps=1,
        n_rounds=n_rounds + burn_in, tol=0.0,
        on_round=lambda s: seen.append(s.state.h.clone()),
    )  # fmt: skip
    variance = float(torch.stack(seen[burn_in:]).square().mean())
    theory = rho * SIGMA**2 / ((2 - rho) * M)
    # 400 entries at 60 times, with a memory of 1 / rho rounds: 2400 at least, so that
    # a standard error is 3 % at most for rho = .1, and less for .5
    assert variance == pytest.approx(theory, rel=0.05)

    # Stale: the difference is of values on other draws, and nothing is gained.
    rng = np.random.default_rng(0)
    h = last = rng.normal(size=(M, width)).mean(0)
    stale = []
    for _ in range(n_rounds + burn_in):
        now = rng.normal(size=(M, width)).mean(0)
        h, last = now + (1 - rho) * (h - last), now
        stale.append(h)
    assert np.square(stale[burn_in:]).mean() == pytest.approx(SIGMA**2 / M, rel=0.05)


def test_less_of_each_sample_does_not_raise_the_stationary_error():
    problem, clients = noisy(50)

    def error(rho):
        seen = []
        fedmsa(
            problem, clients, momentum=rho, batch_size=1, alpha=0.02, local_steps=5,
            n_rounds=150, tol=0.0,
            on_round=lambda s: seen.append(float(s.value[0].square().mean())),
        )  # fmt: skip
        return np.mean(seen[50:])

    errors = [error(rho) for rho in (1.0, 0.5, 0.25)]
    assert errors[1] < errors[0]
    assert errors[2] < errors[1]


# Other kinds of problems.


def saddle(n_clients=5, n=4, l2=1.0):
    """f_m = -|y|^2 / 2 - b_m'y + y'A_m x + l2 |x|^2 / 2, and its saddle point."""
    rng = np.random.default_rng(0)
    A = np.eye(n) + rng.normal(size=(n_clients, n, n)) / 2
    b = rng.normal(size=(n_clients, n))
    mean_A, mean_b = A.mean(0), b.mean(0)
    x = np.linalg.solve(mean_A.T @ mean_A + l2 * np.eye(n), mean_A.T @ mean_b)

    def f(m, x, y):
        A, b = m
        return -(y @ y) / 2 - b @ y + y @ (A @ x) + l2 * (x @ x) / 2

    zero = torch.zeros(n, dtype=torch.float64)
    clients = list(zip(torch.from_numpy(A), torch.from_numpy(b)))
    return MinimaxProblem(f, zero, zero), clients, x, mean_A @ x - mean_b


def test_saddle_points_are_reached_at_a_linear_rate_and_drift_has_a_floor():
    problem, clients, x, y = saddle()
    # a point has to be near in x and in y
    truth = np.concatenate([x, y])

    def errors(variance_reduction):
        seen = []
        fedmsa(
            problem, clients, alpha=0.05, beta=0.1, local_steps=8, n_rounds=60,
            tol=0.0, variance_reduction=variance_reduction,
            on_round=lambda s: seen.append(np.linalg.norm(s.state.u.numpy() - truth)),
        )  # fmt: skip
        return np.array(seen)

    linear, drifting = errors("spider"), errors(None)
    assert linear[-1] < 1e-6
    # the same number of digits in rounds 10 to 30 as in 30 to 50, but for a fifth
    digits = np.log(linear[[10, 30, 50]])
    assert np.diff(digits)[1] == pytest.approx(np.diff(digits)[0], rel=0.2)
    assert drifting[-1] > 1e-3
    assert drifting[-1] == pytest.approx(drifting[-10], rel=0.01)


def test_actor_and_critic_reach_the_best_mean_value():
    data = make_federated_mdp(4, heterogeneity=0.3, random_state=0)
    T, reward = data.transitions, data.rewards.mean(0)
    V = np.zeros(5)
    for _ in range(400):  # .9^400 is 5e-19
        V = (reward + 0.9 * T @ V).max(1)
    optimum = 0.1 * V.mean()
    problem = ActorCriticProblem(torch.from_numpy(T), gamma=0.9)
    clients = list(torch.from_numpy(data.rewards))
    start = float(problem.value(torch.from_numpy(reward), problem.x0))
    theta, _ = fedmsa(
        problem, clients, alpha=20.0, beta=2.0, local_steps=20, n_rounds=60, tol=0.0
    ).value
    value = float(problem.value(torch.from_numpy(reward), theta))
    assert start < optimum - 0.02
    assert optimum - 0.001 < value < optimum + 1e-12


def test_engines_of_the_claims_are_the_clients():
    data = quadratic(0.9)
    problem, clients = quadratic_problem(data)
    real = VmapEngine(ClientBlock(problem, clients))
    runs = [
        fedmsa(problem, engine=engine, n_rounds=3, local_steps=5, **STEPS).state.u
        for engine in (real, affine_engine(data))
    ]
    # 30 evaluations of sums of ten clients
    assert (runs[0] - runs[1]).abs().max() < 1e-12
