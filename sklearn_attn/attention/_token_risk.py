"""R(w, b, q) = sum_i pi_i l(f(X_i), y_i) + mu/2 ||w||^2 + lam/2 ||q||^2  (2306.03435).

f_k(X) = sum_t a_tk(X) w_k'x_t + b_k, with one of the attentions a of `_token_attention`
and its parameter q. pi are sample weights with sum 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .._arrays import to_numpy, to_tensor
from ._token_attention import gather, project


class OutputLoss(NamedTuple):
    """A loss of outputs f (n, K) and targets y (n, K).

    Attributes
    ----------
    value : callable
        l(f, y), of shape (n,).
    slope : callable
        dl/df, of shape (n, K).
    prior : callable
        The constant output that is best for the mean target (K,).
    """

    value: Callable
    slope: Callable
    prior: Callable


# The share of a class without samples, whose best intercept would be infinite.
_ABSENT = 1e-9


def _centred_log(mean):
    """The logarithm, shifted to mean zero: softmax does not see a common offset."""
    logs = mean.clamp(min=_ABSENT).log()
    return logs - logs.mean()


# Targets are 0 and 1; one column for two classes, else one for each class.
BINOMIAL = OutputLoss(
    lambda f, y: (F.softplus(f) - y * f).sum(1),
    lambda f, y: torch.sigmoid(f) - y,
    lambda mean: torch.log(mean / (1.0 - mean)),
)
MULTINOMIAL = OutputLoss(
    lambda f, y: torch.logsumexp(f, 1) - (y * f).sum(1),
    lambda f, y: torch.softmax(f, 1) - y,
    _centred_log,
)
SQUARED = OutputLoss(
    lambda f, y: (f - y).square().sum(1) / 2,
    lambda f, y: f - y,
    lambda mean: mean,
)


class Samples(NamedTuple):
    """What a model of tokens is fitted to.

    Attributes
    ----------
    X : torch.Tensor of shape (n_samples, n_tokens, n_token_features)
        The tokens.
    mask : torch.Tensor of shape (n_samples, n_tokens) or None
        True where there is a token.
    Y : torch.Tensor of shape (n_samples, n_outputs)
        Targets of `loss`.
    weight : torch.Tensor of shape (n_samples,)
        Sample weights with sum 1.
    loss : OutputLoss
        One of `BINOMIAL`, `MULTINOMIAL` and `SQUARED`.
    """

    X: torch.Tensor
    mask: torch.Tensor | None
    Y: torch.Tensor
    weight: torch.Tensor
    loss: OutputLoss

    @property
    def contrast(self):
        """The targets as least squares wants them: classes as -1 and +1."""
        return self.Y if self.loss is SQUARED else 2.0 * self.Y - 1.0

    def mean(self, values):
        """Return the weighted mean over the samples."""
        return torch.tensordot(self.weight, values, 1)

    def settle(self, intercept):
        """Choose among the intercepts that softmax cannot tell apart: mean zero."""
        free = self.loss is MULTINOMIAL
        return intercept - intercept.mean() if free else intercept


class TokenModel(NamedTuple):
    """The parameters (w, b, q) of a model.

    Attributes
    ----------
    head : torch.Tensor of shape (n_outputs, n_token_features)
        w.
    intercept : torch.Tensor of shape (n_outputs,)
        b.
    attention : torch.Tensor
        The parameter of the attention; its shape is that attention's.
    """

    head: torch.Tensor
    intercept: torch.Tensor
    attention: torch.Tensor


@dataclass(frozen=True)
class TokenRisk:
    """The penalised risk of samples under one attention.

    Attributes
    ----------
    samples : Samples
        What to fit.
    attention : callable
        One of the functions of `_token_attention`.
    shape : tuple of int
        Shape of the attention's parameter.
    head_reg, attention_reg : float
        Ridges mu of the head and lam of the attention's parameter.
    fit_intercept : bool
        Whether b is free; otherwise it is zero.
    """

    samples: Samples
    attention: Callable
    shape: tuple
    head_reg: float
    attention_reg: float
    fit_intercept: bool

    def outputs(self, model):
        """Return f(X), and what the gradient needs besides."""
        X, mask, *_ = self.samples
        a, pull = self.attention(X, mask, model.attention)
        scores = project(X, model.head)  # (n, T, K)
        return (a * scores).sum(1) + model.intercept, a, scores, pull

    def value_and_gradient(self, model):
        """Return R and its gradient, itself a `TokenModel`."""
        X, _, Y, weight, loss = self.samples
        f, a, scores, pull = self.outputs(model)
        slope = weight[:, None] * loss.slope(f, Y)  # (n, K)
        value = weight @ loss.value(f, Y)
        for part, reg in ((model.head, self.head_reg), (model[2], self.attention_reg)):
            value = value + reg / 2 * part.square().sum()
        return value, TokenModel(
            gather(slope[:, None] * a, X) + self.head_reg * model.head,
            slope.sum(0) * self.fit_intercept,
            pull(slope[:, None] * scores) + self.attention_reg * model.attention,
        )

    def pack(self, model):
        """Lay a model out as one NumPy vector in float64, for SciPy's solvers."""
        parts = [to_numpy(part).ravel() for part in model]
        return np.concatenate(parts).astype(np.float64)

    def unpack(self, theta):
        """Undo `pack`."""
        X, _, Y, *_ = self.samples
        theta = to_tensor(theta, device=X.device, dtype=X.dtype)
        K, d = Y.shape[1], X.shape[2]
        head, b, attention = theta.tensor_split([K * d, K * d + K])
        return TokenModel(head.reshape(K, d), b, attention.reshape(self.shape))

    def __call__(self, theta):
        """Return value and gradient as SciPy's solvers want them."""
        with torch.no_grad():
            value, gradient = self.value_and_gradient(self.unpack(theta))
        return value.item(), self.pack(gradient)
