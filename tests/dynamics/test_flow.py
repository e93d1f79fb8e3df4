"""The flow: its steps, their adjoint, trajectories and inverses."""

import copy

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
    Stiefel,
    Torus,
)
from sklearn_attn.dynamics._integrators import INTEGRATORS

MANIFOLDS = [
    Euclidean(3),
    Sphere(1),
    Sphere(2),
    Sphere(4),
    SpecialOrthogonal(2),
    SpecialOrthogonal(3),
    SpecialOrthogonal(4),
    SpecialEuclidean(),
    Stiefel(3, 2),
    Torus(3),
    Product(Sphere(2), Euclidean(2)),
]
ORDERS = {"lie_euler": 1, "lie_midpoint": 2, "rkmk4": 4, "cf4": 4}
each_manifold = pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)


def strong(flow, factor):
    """Make a flow go a longer way."""
    with torch.no_grad():
        flow.a.mul_(factor)
    return flow


def points(manifold, n=4, seed=0):
    return torch.from_numpy(manifold.random_points(n, seed))


def slopes(flow, x, target):
    """Return the flow's map, and the slopes of its product with the target."""
    flow.zero_grad()
    x = x.clone().requires_grad_()
    y = flow(x)
    (y * target).sum().backward()
    return y.detach(), [x.grad, *(p.grad.clone() for p in flow.parameters())]


@each_manifold
@pytest.mark.parametrize("neurons", ["shared", "own"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_the_fused_path_and_its_adjoint_equal_single_steps(
    manifold, neurons, activation, monkeypatch
):
    flow = Flow(
        manifold,
        n_layers=3,
        width=2,
        n_steps=2,
        neurons=neurons,
        activation=activation,
    )
    x = points(manifold)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    y, fused = slopes(flow, x, target)
    # under another name, the same steps are taken one by one, and torch goes back
    monkeypatch.setitem(INTEGRATORS, "single steps", INTEGRATORS["lie_euler"])
    flow.integrator = "single steps"
    expected_y, expected = slopes(flow, x, target)
    torch.testing.assert_close(y, expected_y, rtol=0, atol=1e-14)
    for found, wanted in zip(fused, expected):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


@each_manifold
def test_the_adjoint_is_the_slope(manifold):
    flow = Flow(manifold, n_layers=2, width=2, renormalize=False)
    x = points(manifold, n=2).requires_grad_()
    names = ("W", "b", "a")

    def run(x, *weights):
        return torch.func.functional_call(flow, dict(zip(names, weights)), (x,))

    weights = [getattr(flow, name).detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(run, (x, *weights), atol=1e-7, rtol=1e-6)


def test_renormalising_does_not_change_the_slopes_of_the_weights():
    flow = Flow(SpecialOrthogonal(3), n_layers=2, width=3, renormalize=False)
    x = points(SpecialOrthogonal(3))
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    _, plain = slopes(flow, x, target)
    flow.renormalize = True
    _, corrected = slopes(flow, x, target)
    for found, wanted in zip(corrected[1:], plain[1:]):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.claim
@pytest.mark.parametrize("manifold", [Sphere(2), SpecialOrthogonal(3), Euclidean(3)])
@pytest.mark.parametrize("integrator", ORDERS)
def test_integrators_have_their_order(manifold, integrator):
    flow = strong(Flow(manifold, n_layers=1, integrator=integrator), 2)
    reference = copy.deepcopy(flow)
    # five times the steps: an error of 1/625 moves no slope by more than .001
    reference.integrator, reference.n_steps = "cf4", 400
    x = points(manifold, n=20)
    errors = []
    n_steps = np.array([10, 20, 40, 80])
    with torch.no_grad():
        exact = reference(x)
        for flow.n_steps in n_steps:
            errors.append(float((flow(x) - exact).abs().max()))
    slope = -np.polyfit(np.log(n_steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(ORDERS[integrator], abs=0.15)


@pytest.mark.claim
@pytest.mark.parametrize("integrator", ["lie_euler", "lie_midpoint"])
def test_cayley_steps_have_the_order_of_the_exponential_ones(integrator):
    x, errors, n_steps = points(Sphere(4), n=20), [], np.array([20, 40, 80, 160])
    flow = Flow(Sphere(4), n_layers=1, integrator=integrator, retraction="cayley")
    strong(flow, 2)
    reference = copy.deepcopy(flow)
    reference.integrator, reference.retraction, reference.n_steps = "cf4", "exp", 400
    with torch.no_grad():
        exact = reference(x)
        for flow.n_steps in n_steps:
            errors.append(float((flow(x) - exact).abs().max()))
    slope = -np.polyfit(np.log(n_steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(ORDERS[integrator], abs=0.15)


def test_swapping_the_exponentials_of_cf4_costs_its_order():
    """The order in which they act matters, and the test of orders sees it."""
    flow = strong(Flow(SpecialOrthogonal(3), n_layers=1, integrator="cf4"), 2)
    x, errors = points(SpecialOrthogonal(3), n=20), []

    def swapped(*arguments):
        return INTEGRATORS["cf4"](*arguments)[::-1]

    with torch.no_grad():
        flow.n_steps = 800
        exact = flow(x)
        INTEGRATORS["swapped"] = swapped
        try:
            flow.integrator = "swapped"
            for flow.n_steps in (10, 80):
                errors.append(float((flow(x) - exact).abs().max()))
        finally:
            del INTEGRATORS["swapped"]
    assert np.log(errors[0] / errors[1]) / np.log(8) < 3


def test_cayley_with_a_method_of_order_4_is_refused():
    with pytest.raises(ValueError, match=r"cayley.*order 2"):
        Flow(Sphere(2), integrator="rkmk4", retraction="cayley")


@pytest.mark.claim
@each_manifold
@pytest.mark.parametrize("integrator", ORDERS)
def test_a_thousand_steps_in_double_precision_stay_on_the_manifold(
    manifold, integrator
):
    flow = Flow(
        manifold,
        n_layers=50,
        n_steps=20,
        integrator=integrator,
        renormalize=False,
    )
    strong(flow, 20)
    with torch.no_grad():
        end = flow(points(manifold, n=50))
        # torch's exponential of matrices loses more than the closed forms do, and cf4
        # takes two of them in a step
        is_closed = manifold.group.n_generators <= 3 or manifold.frames is None
        assert manifold.violation(end).max() < (1e-13 if is_closed else 2e-13)
        # each step is corrected by itself, so that a few of them show it
        flow.renormalize, flow.n_steps = True, 4
        assert manifold.violation(flow(points(manifold, n=50))).max() < 2e-15
    assert manifold.distance(end, points(manifold, n=50)).max() > 0.1


@pytest.mark.claim
@pytest.mark.parametrize(
    "manifold", [m for m in MANIFOLDS if not isinstance(m, Euclidean)], ids=repr
)
def test_ten_thousand_single_precision_steps_stay_if_they_are_renormalised(manifold):
    flow = Flow(manifold, n_layers=10, n_steps=1000, dtype=torch.float32)
    strong(flow, 100)
    x = points(manifold, n=10).float()
    with torch.no_grad():
        kept = float(manifold.violation(flow(x)).max())
        flow.renormalize, flow.n_steps = False, 200  # two thousand are far too many
        drifted = float(manifold.violation(flow(x)).max())
    assert kept <= 1e-6 < drifted


@each_manifold
@pytest.mark.parametrize("integrator", ORDERS)
def test_trajectories_begin_and_end_where_the_flow_does(manifold, integrator):
    flow = Flow(manifold, n_layers=3, n_steps=2, integrator=integrator, t_span=(1, 3))
    x = points(manifold)
    with torch.no_grad():
        path = flow.trajectory(x, torch.tensor([1.0, 3.0]).double())
        torch.testing.assert_close(path[:, 0], x, rtol=0, atol=1e-15)
        torch.testing.assert_close(path[:, 1], flow(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("integrator", ORDERS)
def test_a_flow_composes(integrator):
    """From the start to t, and from there on: the whole way."""
    flow = Flow(Sphere(2), n_layers=4, integrator=integrator)
    x = points(Sphere(2))
    with torch.no_grad():
        end = flow(x)
        for grid_time in (0.25, 0.5, 0.75):
            t = torch.tensor([grid_time]).double()
            middle = flow.trajectory(x, t)[:, 0]
            rest = flow.trajectory(
                middle, torch.ones(1).double(), start=t.expand(len(x))
            )
            torch.testing.assert_close(rest[:, 0], end, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_grid_time_is_reached_by_whole_steps(dtype):
    """Also where rounding puts it on either side of the end of a step."""
    flow = Flow(Sphere(2), n_layers=7, n_steps=3, t_span=(0.1, 0.8), dtype=dtype)
    x = points(Sphere(2)).to(dtype)
    times = 0.1 + 0.7 * torch.arange(22).double() / 21
    with torch.no_grad():
        path = flow.trajectory(x, times)
        for g in range(21):
            ahead = flow.trajectory(
                path[:, g], times[g + 1 : g + 2], times[g].expand(len(x))
            )
            assert (ahead[:, 0] - path[:, g + 1]).abs().max() < 8 * torch.finfo(
                dtype
            ).eps


def test_times_that_are_asked_for_do_not_change_the_path():
    flow = Flow(SpecialOrthogonal(3), n_layers=3)
    x = points(SpecialOrthogonal(3))
    dense = torch.linspace(0, 1.5, 31).double()
    with torch.no_grad():
        path = flow.trajectory(x, dense)
        few = flow.trajectory(x, dense[[20, 3, 11]])
        single = torch.stack([dense[[5, 9]], dense[[1, 30]], dense[[0, 0]]])
        own = flow.trajectory(x[:3], single)
    torch.testing.assert_close(few, path[:, [20, 3, 11]], rtol=0, atol=1e-15)
    for i, pair in enumerate(([5, 9], [1, 30], [0, 0])):
        torch.testing.assert_close(own[i], path[i, pair], rtol=0, atol=1e-15)


def test_points_may_start_at_times_of_their_own():
    flow = Flow(Sphere(2), n_layers=3)
    x = points(Sphere(2), n=3)
    start = torch.tensor([0.0, 0.4, 0.9]).double()
    end = torch.tensor([0.3, 0.8, 1.2]).double()
    with torch.no_grad():
        together = flow.trajectory(x, end[:, None], start)
        for i in range(3):
            alone = flow.trajectory(x[i : i + 1], end[i : i + 1], start[i : i + 1])
            torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-15)
    assert (together[:, 0] - x).norm(dim=1).min() > 1e-2


def test_after_the_end_the_last_layer_goes_on():
    flow = Flow(Sphere(2), n_layers=2, n_steps=3)
    x = points(Sphere(2))
    last = Flow(Sphere(2), n_layers=1, n_steps=3)
    with torch.no_grad():
        for name in ("W", "b", "a"):
            getattr(last, name).copy_(getattr(flow, name)[1:])
        last.a.mul_(0.5)  # half of the flow's time
        beyond = flow.trajectory(x, torch.tensor([1.5]).double())[:, 0]
        torch.testing.assert_close(beyond, last(flow(x)), rtol=0, atol=1e-14)


@each_manifold
@pytest.mark.parametrize("integrator", ORDERS)
def test_the_inverse_undoes_the_flow(manifold, integrator):
    flow = Flow(manifold, n_layers=4, n_steps=2, integrator=integrator)
    x = points(manifold)
    with torch.no_grad():
        back, error = flow.inverse(flow(x))
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    assert error < 1e-13


def test_the_unit_of_time_does_not_matter_to_the_weights():
    x = points(Sphere(2))
    unit = Flow(Sphere(2), n_layers=3)
    seconds = Flow(Sphere(2), n_layers=3, t_span=(1.7e9, 1.7e9 + 86_400))
    times = torch.tensor([0.2, 0.55, 1.1]).double()
    with torch.no_grad():
        torch.testing.assert_close(seconds(x), unit(x), rtol=0, atol=0)
        torch.testing.assert_close(
            seconds.trajectory(x, 1.7e9 + 86_400 * times), unit.trajectory(x, times)
        )
        torch.testing.assert_close(
            86_400 * seconds.vector_field(1.7e9 + 50_000, x),
            unit.vector_field(50_000 / 86_400, x),
        )


def test_a_layer_begins_at_its_own_time_whatever_the_rounding():
    flow = Flow(Sphere(2), n_layers=100, width=2)
    x = points(Sphere(2))
    with torch.no_grad():
        for layer in range(100):
            now = flow.vector_field(layer / 100, x)
            a_bit_later = flow.vector_field((layer + 0.5) / 100, x)
            torch.testing.assert_close(now, a_bit_later, rtol=0, atol=0)


def test_before_the_first_layer_its_weights_hold():
    flow = Flow(Sphere(2), n_layers=2, n_steps=3)
    x = points(Sphere(2))
    early = torch.full((len(x),), -0.5).double()
    first = Flow(Sphere(2), n_layers=1, n_steps=3)
    with torch.no_grad():
        for name in ("W", "b", "a"):
            getattr(first, name).copy_(getattr(flow, name)[:1])
        first.a.mul_(0.5)
        found = flow.trajectory(x, torch.zeros(1).double(), early)[:, 0]
        torch.testing.assert_close(found, first(x), rtol=0, atol=1e-14)


def test_the_velocity_is_a_tangent_combination_of_the_fields():
    flow = Flow(Sphere(2), n_layers=2, width=1, neurons="own")
    x = points(Sphere(2))
    with torch.no_grad():
        for t, layer in ((0.0, 0), (0.49, 0), (0.51, 1), (3.0, 1)):
            f = flow.a[layer, :, 0] * torch.sigmoid(x @ flow.W[layer].T + flow.b[layer])
            expected = torch.einsum("ni,ijk,nk->nj", f, flow.generators, x)
            found = flow.vector_field(t, x)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(
                Sphere(2).project_tangent(x, found), found, rtol=0, atol=1e-15
            )


@pytest.mark.claim
def test_the_classical_neural_ode_is_the_flow_of_euclidean_fields():
    """Equation 6 by forward Euler: x + dt A sigma(W x + b), layer by layer."""
    flow = Flow(Euclidean(3), n_layers=4, width=3)
    x = points(Euclidean(3))
    with torch.no_grad():
        expected = x
        for W, b, A in zip(flow.W, flow.b, flow.a):
            expected = expected + 0.25 * torch.sigmoid(expected @ W.T + b) @ A.T
        torch.testing.assert_close(flow(x), expected)


@pytest.mark.claim
@pytest.mark.parametrize(
    ("manifold", "generators", "own", "classical"),
    [(Sphere(2), "chain", 10, 21), (SpecialOrthogonal(3), "all", 33, 171)],
)
def test_layers_have_as_many_weights_as_in_the_paper(
    manifold, generators, own, classical
):
    flow = Flow(manifold, generators, n_layers=1, width=1, neurons="own")
    assert flow.n_parameters == own
    d = manifold.n_features
    assert Flow(Euclidean(d), n_layers=1, width=d).n_parameters == classical


@pytest.mark.claim
def test_a_step_is_the_papers_lie_euler_step():
    """x+ = exp(dt sum_i a_i sigma(w_i'x + b_i) B_i) x, by torch's matrix_exp."""
    flow = Flow(SpecialOrthogonal(3), n_layers=2, width=1, neurons="own")
    x = points(SpecialOrthogonal(3))
    with torch.no_grad():
        X = x.unflatten(1, (3, 3))
        for W, b, a in zip(flow.W, flow.b, flow.a):
            f = a[:, 0] * torch.sigmoid(X.flatten(1) @ W.T + b)
            xi = torch.einsum("ni,ijk->njk", f, flow.generators)
            X = torch.linalg.matrix_exp(0.5 * xi) @ X
        torch.testing.assert_close(flow(x), X.flatten(1), rtol=0, atol=1e-14)


def test_a_seed_draws_the_same_weights_whatever_the_precision():
    single = Flow(Sphere(2), dtype=torch.float32)
    double = Flow(Sphere(2))
    for flow in (single, double):
        flow.reset_parameters(torch.Generator().manual_seed(3))
    torch.testing.assert_close(single.W.double(), double.W.detach(), check_dtype=False)


def test_the_flow_is_an_ordinary_module():
    flow = Flow(Sphere(2), n_layers=2)
    x = points(Sphere(2))
    torch.testing.assert_close(flow.time_one_map(x), flow(x))
    other = Flow(Sphere(2), n_layers=2)
    other.reset_parameters(torch.Generator().manual_seed(9))
    other.load_state_dict(flow.state_dict())
    torch.testing.assert_close(other(x), flow(x))
    optimizer = torch.optim.SGD(flow.parameters(), lr=0.1)
    before = float((flow(x) - x).square().sum())
    for _ in range(5):
        optimizer.zero_grad()
        (flow(x) - x).square().sum().backward()
        optimizer.step()
    assert float((flow(x) - x).square().sum()) < before


@pytest.mark.gpu
@each_manifold
@pytest.mark.parametrize("integrator", ORDERS)
def test_a_flow_on_the_gpu_is_that_on_the_cpu(manifold, integrator):
    flow = Flow(manifold, n_layers=2, n_steps=2, integrator=integrator)
    x = points(manifold)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    expected = slopes(flow, x, target)
    times = torch.tensor([0.2, 0.5, 1.3]).double()
    with torch.no_grad():
        path = flow.trajectory(x, times)
    on_gpu = copy.deepcopy(flow).to("cuda")
    torch.testing.assert_close(on_gpu.generators.cpu(), flow.generators)
    end, found = slopes(on_gpu, x.to("cuda"), target.to("cuda"))
    torch.testing.assert_close(end.cpu(), expected[0])
    for one, other in zip(found, expected[1]):
        torch.testing.assert_close(one.cpu(), other)
    with torch.no_grad():
        there = on_gpu.trajectory(x.to("cuda"), times)
        torch.testing.assert_close(there.cpu(), path)
        back, _ = on_gpu.inverse(end)
    torch.testing.assert_close(back.cpu(), x, rtol=0, atol=1e-12)
