"""Networks that are tuned: z = body(x; theta) W + b, in place of z = X W + b.

As in `_linear_tuning`, of which the models, knobs and losses are; derivatives are those
of `BilevelProblem`. In "hyper_representation" the body is the outer variable and the
head the inner one, f the loss of validation rows (2306.01648, 2205.02215).
"""

import math
from itertools import pairwise

import torch
from torch import nn
from torch.func import functional_call

from ._linear_tuning import _row_weights
from ._problems import BilevelProblem, MinimizationProblem

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


def make_body(n_features, hidden_layer_sizes, activation, module, seed):
    """Return the hidden layers as a module, or None, and how many features it returns.

    Torch's generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if module is not None:
            body = module(n_features)
        else:
            widths = [n_features, *hidden_layer_sizes]
            layers = []
            for n_in, n_out in pairwise(widths):
                layers += [nn.Linear(n_in, n_out), ACTIVATIONS[activation]()]
            body = nn.Sequential(*layers) if layers else None
    if body is None:
        return None, n_features
    with torch.no_grad():
        shape = (
            body.to(torch.float64)
            .eval()(torch.zeros(2, n_features, dtype=torch.float64))
            .shape
        )
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(
            "module must turn rows of shape (n, n_features) into rows of features; it "
            f"turned (2, {n_features}) into {tuple(shape)}."
        )
    return body, shape[1]


def parameters_of(body, dtype):
    """Return the parameters of the body, by name."""
    return {
        name: part.detach().to(dtype).clone() for name, part in body.named_parameters()
    }


def start_of_head(n_in, n_outputs, dtype, generator=None):
    """Return a head: zero where its own problem is convex, else drawn.

    A head of zeros would give the body before it no slope.
    """
    coef = torch.zeros(n_in, n_outputs, dtype=dtype)
    if generator is not None:
        bound = 1 / math.sqrt(n_in)  # as of nn.Linear
        coef.uniform_(-bound, bound, generator=generator)
    return {"coef": coef, "intercept": torch.zeros(n_outputs, dtype=dtype)}


def network_problem(model, body, x0, w0, *, project=None):
    """Return the bilevel problem of a network; "body" is in x0 or in w0."""

    def inner(data, x, w):
        return _inner_loss(model, body, data, x, w)

    def outer(data, x, w):
        z = _forward(body, data["X_val"], (x | w)["body"], w)
        b = _row_weights(data["weight_val"][None], data["share_val"][None])[0]
        return (b * model.loss(z, data["Y_val"])).sum()

    return BilevelProblem(inner, outer, x0, w0, project=project, pad_rows=True)


def network_fit(model, body, tuned, x0):
    """Return the inner problem alone, for an x that is given: x is now what w was."""

    def loss(data, x):
        return _inner_loss(model, body, data, tuned, x)

    return MinimizationProblem(loss, x0, pad_rows=True)


def _inner_loss(model, body, data, x, w):
    z = _forward(body, data["X"], (x | w)["body"], w)[None]
    knobs = {name: part[None] for name, part in x.items() if name != "body"}
    D, o, s, l2 = model.knobs(knobs, {"place": data["place"][None]})
    z = z if D is None else D * z
    z = z if o is None else z + o
    a = _row_weights(data["weight"][None], data["share"][None])
    a = a if s is None else a * s
    matrices = [w["coef"], *(part for part in w.get("body", {}).values())]
    squares = sum((part**2).sum() for part in matrices if part.ndim > 1)
    ridge = torch.as_tensor(l2).reshape(-1)[0] * squares / 2
    return (a * model.loss(z, data["Y"])).sum() + ridge


def _forward(body, X, theta, head):
    return functional_call(body, theta, (X,)) @ head["coef"] + head["intercept"]
