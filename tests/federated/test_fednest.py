"""Laws and edges of FedNest, and its communications."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sklearn_attn.federated import (
    BilevelProblem,
    ClientLostError,
    DivergenceError,
    MinimizationProblem,
    exact_hypergradient,
    quadratic_problem,
)
from sklearn_attn.federated._fednest import fednest

from .affine import affine_engine, gradient, quadratic

DATA = quadratic(0.3)
PROBLEM, CLIENTS = quadratic_problem(DATA)
ENGINE = affine_engine(DATA)
STEPS = {"alpha": 0.05, "beta": 0.4, "tol": 0.0}


@pytest.mark.parametrize(
    ("hypergradient", "variance_reduction", "wanted"),
    [
        ("neumann", "spider", lambda T, N: 2 * T + N + 3),
        ("neumann", None, lambda T, N: T + N + 3),
        ("local", "spider", lambda T, N: 2 * T + 1),
        ("local", None, lambda T, N: T + 1),
    ],
)
@pytest.mark.parametrize(("T", "N"), [(4, 3), (1, 0)])
def test_communications_of_an_epoch_are_those_of_the_table(
    hypergradient, variance_reduction, wanted, T, N
):
    history = fednest(
        PROBLEM, engine=ENGINE, n_rounds=3, inner_rounds=T, n_neumann=N,
        hypergradient=hypergradient, variance_reduction=variance_reduction, **STEPS,
    ).history  # fmt: skip
    assert np.diff(history["comm_rounds"]).tolist() == [wanted(T, N)] * 2


def test_with_many_terms_the_exact_hypergradient_is_followed():
    seen = fednest(
        PROBLEM, engine=ENGINE, n_rounds=1, inner_rounds=8, n_neumann=40,
        local_steps=10, **STEPS,
    )  # fmt: skip
    # .6^80 of the inner error, .6^41 of the series: rounding is 1e-9 then
    A, b = (DATA[name].mean(0) for name in "Ab")
    w = torch.from_numpy(np.linalg.solve(A, b))
    wanted = exact_hypergradient(PROBLEM, CLIENTS, PROBLEM.x0, w)
    norm = seen.history["hypergrad_norm"][0]
    assert norm == pytest.approx(float(wanted.norm()), abs=1e-7)


def test_clients_answer_as_their_closed_form():
    real = fednest(PROBLEM, CLIENTS, n_rounds=2, inner_rounds=2, local_steps=2, **STEPS)
    fast = fednest(
        PROBLEM, engine=ENGINE, n_rounds=2, inner_rounds=2, local_steps=2, **STEPS
    )
    torch.testing.assert_close(real.state.u, fast.state.u, rtol=1e-12, atol=1e-12)
    assert np.isfinite(real.history["outer_loss"]).all()


@pytest.mark.parametrize("hypergradient", ["neumann", "local"])
def test_two_epochs_and_two_more_are_four(hypergradient, tmp_path):
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 9, 2)))
    start = torch.zeros(2, dtype=torch.float64)
    problem = BilevelProblem(
        lambda m, x, w: (w**2 + (w - x - m) ** 2).mean(),
        lambda m, x, w: ((w - m.mean(0)) ** 2 + x**2).sum(),
        start,
        start,
    )
    settings = STEPS | {
        "local_clients": 2, "batch_size": 3, "hypergradient": hypergradient,
        "inner_rounds": 2, "local_steps": 2, "n_neumann": 2,
    }  # fmt: skip
    path = tmp_path / "state"
    whole = fednest(problem, rows, n_rounds=4, **settings)
    first = fednest(problem, rows, n_rounds=2, checkpoint=path, **settings)
    for start in (first, path):
        after = fednest(problem, rows, n_rounds=2, start=start, **settings)
        assert torch.equal(after.state.u, whole.state.u)
        assert after.history["comm_rounds"] == whole.history["comm_rounds"]


def test_the_outer_variable_stays_feasible():
    box = replace(PROBLEM, project=lambda x: x.clamp(-0.1, 0.1))
    for hypergradient in ("neumann", "local"):
        x, _ = fednest(
            box, CLIENTS, n_rounds=4, inner_rounds=1, hypergradient=hypergradient,
            local_steps=2, **STEPS | {"alpha": 0.2},
        ).value  # fmt: skip
        assert float(x.abs().max()) == pytest.approx(0.1, abs=1e-15)


def test_steps_too_large_are_told_of():
    with pytest.raises(ValueError, match=r"beta=1.05 is at least 2 / L"):
        fednest(PROBLEM, engine=ENGINE, beta=1.05)
    with pytest.raises(DivergenceError, match="smaller steps") as caught:
        fednest(PROBLEM, engine=ENGINE, alpha=20.0, beta=0.4)
    assert torch.isfinite(caught.value.solution.state.u).all()


def test_automatic_steps_come_near():
    solution = fednest(PROBLEM, engine=ENGINE, n_neumann=10)
    start = np.linalg.norm(gradient(DATA, np.zeros(3)))
    # a series of 11 terms with factor .5 to .75: some per cent of bias
    assert np.linalg.norm(gradient(DATA, solution.value[0])) < 0.05 * start


def test_a_lost_client_can_stop_the_run():
    class Losing:
        numbers, weights = ENGINE.numbers, ENGINE.weights

        def ask(self, request):
            reply = ENGINE.ask(request)
            return reply | {"lost": [3] if request["round"] > 40 else []}

    with pytest.raises(ClientLostError) as caught:
        fednest(PROBLEM, engine=Losing(), on_lost_client="stop", **STEPS)
    assert caught.value.solution.n_iter > 0


def test_other_problems_and_settings_that_make_no_sense_are_refused():
    problem = MinimizationProblem(lambda m, x: (x**2).sum(), torch.ones(1))
    with pytest.raises(TypeError, match=r"MinimizationProblem\. Use fedmsa"):
        fednest(problem, [torch.ones(1)])
    for settings, message in (
        ({"clients": []}, "no clients"),
        ({"inner_rounds": 0}, "inner_rounds must be at least 1"),
        ({"n_neumann": -1}, "n_neumann must be at least 0"),
        ({"hypergradient": "exact"}, "hypergradient must be one of"),
        ({"variance_reduction": "svrg"}, "variance_reduction must be one of"),
        ({"on_lost_client": "wait"}, "on_lost_client must be one of"),
        ({"local_clients": 11}, "local_clients=11 of 10"),
    ):
        with pytest.raises(ValueError, match=message):
            fednest(PROBLEM, **{"clients": CLIENTS} | settings)
