"""Derivatives that are written out are those of automatic differentiation."""

import pytest
import torch

from sklearn_attn.federated import BilevelProblem, ClientBlock, MinimizationProblem
from sklearn_attn.federated._linear_tuning import LinearFit, LinearModel, LinearTuning

N_CLASSES, N_FEATURES, N_WEIGHTS = 4, 6, 40
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])
# Sums of some hundred terms of order 1 in double precision.
ROUNDING = 1e-12


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return normal


def make_clients(draw):
    def targets(n):
        return torch.eye(N_CLASSES, dtype=torch.float64)[draw(n, N_CLASSES).argmax(1)]

    def client(first, n, n_val):
        return {
            "X": draw(n, N_FEATURES),
            "Y": targets(n),
            "weight": draw(n).abs() + 0.1,
            "share": draw().abs(),
            "place": torch.arange(first, first + n),
            "X_val": draw(n_val, N_FEATURES),
            "Y_val": targets(n_val),
            "weight_val": draw(n_val).abs() + 0.1,
            "share_val": draw().abs(),
        }

    return [client(0, 5, 3), client(5, 8, 3), client(13, 13, 0)]


def losses(model, log_prior):
    """Return g and f as the paper has them, for one client."""

    def knob(x, name, otherwise, value):
        return value(x[name]) if name in x else otherwise

    def inner(m, x, w):
        z = m["X"] @ w["coef"] + w["intercept"]
        D = knob(x, "scale", 1.0, lambda a: 2 * a.sigmoid())
        o = knob(x, "offset", 0.0, lambda a: a)
        o = o + knob(x, "tau", 0.0, lambda a: a * log_prior)
        s = knob(x, "logit", 1.0, lambda a: (a * N_WEIGHTS**0.5)[m["place"]].sigmoid())
        l2 = knob(
            x,
            "log_l2",
            torch.tensor([model.l2], dtype=torch.float64),
            lambda a: (3 * a).exp(),
        )
        l2 = l2 if model.groups is None else l2[GROUPS]
        rows = m["weight"] * m["share"] / len(m["weight"]) * s
        ridge = (l2[:, None] * w["coef"] ** 2).sum() / 2
        return (rows * model.loss(D * z + o, m["Y"])).sum() + ridge

    def outer(m, x, w):
        z = m["X_val"] @ w["coef"] + w["intercept"]
        rows = m["weight_val"] * m["share_val"] / max(1, len(m["weight_val"]))
        return (rows * model.loss(z, m["Y_val"])).sum()

    return inner, outer


@pytest.mark.parametrize("is_classifier", [True, False])
@pytest.mark.parametrize(
    "shapes",
    [
        {"tau": (), "log_l2": (1,)},
        {"scale": (N_CLASSES,), "offset": (N_CLASSES,)},
        {"log_l2": (3,)},
        {"logit": (N_WEIGHTS,)},
    ],
    ids=lambda shapes: "-".join(shapes) + str(sum(map(len, shapes.values()))),
)
def test_written_out_maps_are_those_of_differentiation(is_classifier, shapes, draw):
    clients, log_prior = make_clients(draw), draw(N_CLASSES).log_softmax(0)
    x0 = {name: draw(*shape) for name, shape in shapes.items()}
    groups = GROUPS if shapes.get("log_l2") == (3,) else None
    model = LinearModel(is_classifier, 1e-2, log_prior, groups, N_WEIGHTS, 3.0)
    w0 = {"coef": draw(N_FEATURES, N_CLASSES), "intercept": draw(N_CLASSES)}
    inner, outer = losses(model, log_prior)
    ours = ClientBlock(LinearTuning(model, x0, w0), clients)
    theirs = ClientBlock(BilevelProblem(inner, outer, x0, w0), clients)
    u = draw(ours.layout.size)
    common = {"round": 0, "seed": 0, "batch_size": 0, "clients": torch.arange(3)}
    asked = {
        "field": {"at": u[None], "coef": torch.ones(1)},
        "steps": {
            "start": u,
            "direction": draw(len(u)),
            "step": torch.tensor([0.1, 0.1, 0.1]),
            "local_steps": 4,
            "correct": 1,
        },
        "jvp": {"at": u, "tangent": draw(len(u))},
        "spread": {
            "at": u,
            "tangent": draw(len(u)),
            "mean": draw(len(u)),
            "rows": torch.ones_like(u),
        },
    }
    for kind, content in asked.items():
        request = common | {"kind": kind} | content
        a, b = ours.answer(request), theirs.answer(request)
        size = 1 + float(b["total"].abs().max())
        assert float((a["total"] - b["total"]).abs().max()) < ROUNDING * size, kind
        assert a["largest"] == pytest.approx(b["largest"], rel=ROUNDING)
        assert a["value"] == pytest.approx(b["value"], rel=ROUNDING)


def test_fitting_again_minimises_the_inner_loss_with_what_was_tuned(draw):
    clients, log_prior = make_clients(draw), draw(N_CLASSES).log_softmax(0)
    tuned = {"scale": draw(N_CLASSES), "logit": draw(N_WEIGHTS), "log_l2": draw(1)}
    model = LinearModel(True, 1e-2, log_prior, None, N_WEIGHTS, 3.0)
    w0 = {"coef": draw(N_FEATURES, N_CLASSES), "intercept": draw(N_CLASSES)}
    inner, _ = losses(model, log_prior)
    ours = ClientBlock(LinearFit(model, tuned, w0), clients)
    theirs = ClientBlock(
        MinimizationProblem(lambda m, w: inner(m, tuned, w), w0), clients
    )
    request = {
        "kind": "field",
        "round": 0,
        "seed": 0,
        "batch_size": 0,
        "clients": torch.arange(3),
        "at": draw(1, ours.layout.size),
        "coef": torch.ones(1),
    }
    a, b = ours.answer(request), theirs.answer(request)
    assert float((a["total"] - b["total"]).abs().max()) < ROUNDING
    assert a["value"] == pytest.approx(b["value"], rel=ROUNDING)


def test_a_metric_moves_no_solution(draw):
    """It multiplies the gradients by W alone, and is invertible."""
    clients = make_clients(draw)
    x0 = {"log_l2": draw(1)}
    w0 = {"coef": draw(N_FEATURES, N_CLASSES), "intercept": draw(N_CLASSES)}
    root = draw(N_FEATURES, N_FEATURES)
    metric = root @ root.T + torch.eye(N_FEATURES)
    plain = LinearModel(True, 1e-2)
    with_metric = LinearModel(True, 1e-2, metric=metric)
    answers = []
    for model in (plain, with_metric):
        block = ClientBlock(LinearTuning(model, x0, w0), clients)
        request = {
            "kind": "field",
            "round": 0,
            "seed": 0,
            "batch_size": 0,
            "clients": torch.arange(3),
            "at": block.layout.pack(x0, (w0, w0))[None],
            "coef": torch.ones(1),
        }
        answers.append(block.layout.unpack(block.answer(request)["total"]))
    (P, S), (P_metric, S_metric) = answers
    torch.testing.assert_close(P, P_metric)
    for one, other in zip(S, S_metric):
        torch.testing.assert_close(metric @ one["coef"], other["coef"])
        torch.testing.assert_close(one["intercept"], other["intercept"])
