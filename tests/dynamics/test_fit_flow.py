"""The objective of a flow, and how it is minimised."""

import numpy as np
import pytest
import torch

from sklearn_attn.dynamics import (
    Euclidean,
    Flow,
    Product,
    SpecialEuclidean,
    SpecialOrthogonal,
    Sphere,
    Torus,
)
from sklearn_attn.dynamics import _fit_flow as fitting
from sklearn_attn.dynamics._fit_flow import (
    Descent,
    Endpoints,
    FlowModel,
    Trajectories,
    fit_flow,
)


def points(manifold, n=6, seed=0):
    return torch.from_numpy(manifold.random_points(n, seed))


def descent(**settings):
    defaults = {
        "solver": "lbfgs",
        "max_iter": 20,
        "tol": 1e-3,
        "n_iter_no_change": 10,
        "alpha": 0.0,
        "learning_rate": 0.1,
        "batch_size": None,
    }
    return Descent(**(defaults | settings))


def fit(model, problem, **settings):
    held_out = settings.pop("held_out", None)
    return fit_flow(
        model,
        problem,
        descent(**settings),
        n_init=1,
        generator=torch.Generator().manual_seed(0),
        on_iteration=lambda start, watch: False,
        held_out=held_out,
    )


def model_and_pairs(manifold=None, n=12):
    manifold = Sphere(2) if manifold is None else manifold
    model = FlowModel(Flow(manifold, n_layers=2, width=3))
    return model, Endpoints(points(manifold, n), points(manifold, n, 1), "chordal")


@pytest.mark.parametrize(
    "manifold",
    [
        Sphere(2),
        SpecialOrthogonal(3),
        SpecialOrthogonal(4),
        SpecialEuclidean(),
        Torus(2),
        Product(Sphere(2), SpecialOrthogonal(3)),
    ],
    ids=repr,
)
def test_the_geodesic_loss_is_the_squared_distance_and_its_slope(manifold):
    flow = Flow(manifold, n_layers=2, width=2)
    model = FlowModel(flow)
    x, y = points(manifold), points(manifold, seed=1)
    problem = Endpoints(x, y, "geodesic")
    with torch.no_grad():
        expected = manifold.distance(flow(x), y).square().mean()
    torch.testing.assert_close(problem.risk(model).detach(), expected)
    problem.risk(model).backward()
    step = 1e-6
    for weight in flow.parameters():
        flat, slope = weight.data.view(-1), weight.grad.view(-1)
        for i in range(0, len(flat), 3):
            values = []
            for sign in (1, -1):
                flat[i] += sign * step
                with torch.no_grad():
                    values.append(float(problem.risk(model)))
                flat[i] -= sign * step
            # central differences of numbers of the order of 1
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(
                float(slope[i]), abs=1e-7
            )


def test_the_chordal_loss_is_the_mean_of_squared_differences():
    model, problem = model_and_pairs()
    with torch.no_grad():
        expected = (model.flow(problem.x) - problem.y).square().sum(1).mean()
        torch.testing.assert_close(problem.risk(model), expected)


def test_the_penalty_is_that_of_the_paper():
    """dt/2 times the sum over layers, dt = 1/M; the read-out counts as one layer."""
    flow = Flow(Euclidean(3), n_layers=4, width=2)
    weights = [flow.W, flow.b, flow.a]
    with torch.no_grad():
        squares = sum(float(w.square().sum()) for w in weights)
        assert float(FlowModel(flow).penalty()) == pytest.approx(squares / 8)
        model = FlowModel(flow, n_outputs=2)
        model.readout.weight.copy_(torch.arange(6.0).reshape(2, 3))
        model.readout.bias.fill_(100.0)  # not penalised
        assert float(model.penalty()) == pytest.approx(squares / 8 + 55 / 2)


def test_the_objective_is_risk_plus_penalty():
    for solver in ("lbfgs", "adam"):
        model, problem = model_and_pairs()
        found = fit(model, problem, alpha=0.3, solver=solver, max_iter=1)
        if solver == "adam":  # before its only step
            model.start(problem, torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = problem.risk(model) + 0.3 * model.penalty()
        assert found.history["objective"][0] == pytest.approx(float(expected))


def test_padding_does_not_count():
    """Two trajectories together: the mean over all of their points."""
    sphere = Sphere(2)
    model = FlowModel(Flow(sphere, n_layers=3, width=3))
    x, y = points(sphere, 2), points(sphere, 6, 1).reshape(2, 3, 3)
    start = torch.tensor([0.0, 0.1]).double()
    times = torch.tensor([[0.2, 0.5, 0.9], [0.6, 0.6, 0.6]]).double()
    weight = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]).double()
    y[1, 1:] = 77.0  # would be seen
    together = Trajectories(x, start, times, y, weight, "chordal")
    with torch.no_grad():
        squares = []
        for i, n in ((0, 3), (1, 1)):
            found = model.flow.trajectory(x[i : i + 1], times[i, :n], start[i : i + 1])
            squares += (found[0] - y[i, :n]).square().sum(-1).tolist()
        assert float(together.risk(model)) == pytest.approx(np.mean(squares))
        (first,) = [together.take(torch.tensor([0]))]
        assert float(first.risk(model)) == pytest.approx(np.mean(squares[:3]))


def test_an_epoch_takes_every_row_once():
    seen = []

    class Spy(Endpoints):
        def take(self, rows):
            seen.append(rows.tolist())
            return super().take(rows)

    model, pairs = model_and_pairs(n=11)
    problem = Spy(pairs.x, pairs.y, "chordal")
    fit(model, problem, solver="adam", batch_size=4, max_iter=2)
    assert [len(rows) for rows in seen] == [4, 4, 3] * 2
    assert sorted(np.concatenate(seen[:3])) == list(range(11))
    assert sorted(np.concatenate(seen[3:])) == list(range(11))
    assert seen[:3] != seen[3:]


def test_gradient_descent_has_the_papers_momentum_and_falling_rate(monkeypatch):
    """Three epochs by hand; the rate falls after the first and the second."""
    monkeypatch.setattr(fitting, "SGD_MILESTONES", (1, 2))
    model, problem = model_and_pairs()
    fit(model, problem, solver="sgd", learning_rate=0.2, max_iter=3)
    other, _ = model_and_pairs()
    other.start(problem, torch.Generator().manual_seed(0))
    speed = [torch.zeros_like(p) for p in other.parameters()]
    for rate in (0.2, 0.2 * 0.8, 0.2 * 0.8**2):
        other.zero_grad()
        problem.risk(other).backward()
        with torch.no_grad():
            for v, p in zip(speed, other.parameters()):
                v.mul_(0.9).add_(p.grad)
                p.sub_(rate * v)
    for found, expected in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(found, expected)


def test_the_papers_schedule():
    assert fitting.SGD_MILESTONES == (500, 1000, 2000, 4000, 6000)
    assert (fitting.SGD_DECAY, fitting.SGD_MOMENTUM) == (0.8, 0.9)


@pytest.mark.parametrize("solver", ["lbfgs", "adam", "sgd"])
def test_a_descent_converges_when_its_objective_is_flat_and_not_before(solver):
    model, problem = model_and_pairs()
    cut = fit(model, problem, solver=solver, max_iter=5)
    assert (cut.n_iter, cut.converged) == (5, False)
    model, problem = model_and_pairs()
    done = fit(model, problem, solver=solver, max_iter=2000, tol=0.05)
    curve = done.history["objective"]
    assert done.converged
    assert done.n_iter == len(curve) < 2000
    assert min(curve[:-10]) - min(curve[-10:]) <= 0.05 * curve[-1]
    assert min(curve[:-11]) - min(curve[-11:-1]) > 0.05 * curve[-2]


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_early_stopping_goes_back_to_the_weights_of_least_risk(solver):
    sphere = Sphere(2)
    model = FlowModel(Flow(sphere, n_layers=4, width=16))
    # targets without a rule: whatever is learned of some is wrong for others
    problem = Endpoints(points(sphere, 15), points(sphere, 15, 1), "chordal")
    held_out = Endpoints(points(sphere, 30, 2), points(sphere, 30, 3), "chordal")
    found = fit(model, problem, solver=solver, max_iter=200, held_out=held_out)
    curve = found.history["validation"]
    with torch.no_grad():
        assert float(held_out.risk(model)) == pytest.approx(min(curve), rel=1e-9)
    assert curve[-1] > min(curve)


def test_the_read_out_starts_from_ridge_regression():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((200, 3)))
    y = x @ torch.tensor([[1.0, 2.0, 3.0]]).T.double() + 5
    model = FlowModel(Flow(Euclidean(3), n_layers=2, width=2), n_outputs=1)
    problem = Endpoints(x, y, "chordal")
    model.start(problem, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float(problem.risk(model)) < 0.05 * float(y.var())
