"""ERM: L(v, p) = 1/n sum_i l(Y_i v'X_i' softmax(K_i p))  (2306.13596, ERM).

v is the prediction head, p the prompt (the tunable query, [CLS]); X_i are the values
and K_i the keys of sequence i. The token scores are gamma_it = Y_i v'x_it. A head that
is not linear, f = psi(X'softmax(K p)), has the scores gamma_it = Y_i grad psi'x_it at
the pooled token; all else stays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .._arrays import to_tensor
from ._softmax import attention_weights, pool_scores


class Loss(NamedTuple):
    """A decreasing loss l(u) of the margin u = Y f (2306.13596, Assumption A).

    Attributes
    ----------
    value : callable
        l(u).
    log_slope : callable
        log|l'(u)|; l' is negative.
    bend : callable
        l''(u).
    log_value : callable or None
        log l(u); None where the loss has no lower bound.
    log_excess : callable
        log(l(u) - l(u + exp(log_gap))): the loss above that of a larger margin, from u
        and the logarithm of what is missing; exact for however small a gap.
    """

    value: Callable
    log_slope: Callable
    bend: Callable
    log_value: Callable | None
    log_excess: Callable


def _log_expm1(log_x):
    """log(exp(x) - 1) from log x; equals log x where x is tiny."""
    x = log_x.exp()
    return torch.where(x < 1e-5, log_x + x / 2, torch.expm1(x).log())


def _log_log1p(log_x):
    """log(log(1 + x)) from log x; equals log x where x is tiny."""
    x = log_x.exp()
    return torch.where(x < 1e-5, log_x - x / 2, torch.log1p(x).log())


LOSSES = {
    # log(1 + e^-u) - log(1 + e^-(u+g)) = log1p((e^g - 1) sigmoid(-(u+g)))
    "logistic": Loss(
        lambda u: F.softplus(-u),
        lambda u: F.logsigmoid(-u),
        lambda u: torch.sigmoid(u) * torch.sigmoid(-u),
        lambda u: _log_log1p(-u),
        lambda u, log_gap: _log_log1p(
            _log_expm1(log_gap) + F.logsigmoid(-(u + log_gap.exp()))
        ),
    ),
    # e^-u - e^-(u+g) = (e^g - 1) e^-(u+g)
    "exponential": Loss(
        lambda u: torch.exp(-u),
        lambda u: -u,
        lambda u: torch.exp(-u),
        lambda u: -u,
        lambda u, log_gap: _log_expm1(log_gap) - (u + log_gap.exp()),
    ),
    "linear": Loss(
        lambda u: -u,
        lambda u: torch.zeros_like(u),
        lambda u: torch.zeros_like(u),
        None,
        lambda u, log_gap: log_gap,
    ),
}


class ScaledGradient(NamedTuple):
    """The risk, and its gradients divided by exponentials that would underflow.

    Attributes
    ----------
    value : torch.Tensor
        The risk itself.
    head : torch.Tensor of shape (n_features,) or None
        Gradient in v divided by exp(head_exponent); None if the head is a function.
    head_exponent : torch.Tensor
        Logarithm of the scale of the gradient in v.
    prompt : torch.Tensor of shape (n_token_features,)
        Gradient in p divided by exp(prompt_exponent).
    prompt_exponent : torch.Tensor
        Logarithm of the scale of the gradient in p.
    """

    value: torch.Tensor
    head: torch.Tensor | None
    head_exponent: torch.Tensor
    prompt: torch.Tensor
    prompt_exponent: torch.Tensor


@dataclass(frozen=True)
class AttentionERM:
    """The empirical risk of softmax attention with one prompt.

    Attributes
    ----------
    values : torch.Tensor of shape (n_samples, n_tokens, n_features)
        X.
    keys : torch.Tensor of shape (n_samples, n_tokens, n_token_features)
        K; often the same tensor as `values`.
    y : torch.Tensor of shape (n_samples,)
        Labels -1 and +1.
    weight : torch.Tensor of shape (n_samples,)
        Sample weights with sum 1.
    loss : Loss
        One of `LOSSES`.
    mask : torch.Tensor of shape (n_samples, n_tokens) or None
        True where there is a token.
    intercept : bool
        Whether the last entry of a linear head is an intercept.
    """

    values: torch.Tensor
    keys: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor
    loss: Loss
    mask: torch.Tensor | None = None
    intercept: bool = False

    @property
    def n_head(self):
        """Number of entries of a linear head, its intercept included."""
        return self.values.shape[2] + self.intercept

    def pool(self, p):
        """Return X'softmax(K p): one pooled token per sequence."""
        weights = attention_weights(self.keys @ p, self.mask)
        return torch.einsum("nt,ntc->nc", weights, self.values)

    def scores(self, head, p):
        """Return gamma_it, and for a head that is a function also f_i."""
        if not callable(head):
            v = head[: self.values.shape[2]]
            return self.y[:, None] * (self.values @ v), None
        with torch.enable_grad():
            pooled = self.pool(p).requires_grad_(True)
            output = head(pooled)
            (slope,) = torch.autograd.grad(output.sum(), pooled)
        scores = self.y[:, None] * torch.einsum("ntc,nc->nt", self.values, slope)
        return scores, output.detach()

    def pooled_scores(self, head, p):
        """Return the `PooledScore` at (head, p); its value is the margin Y_i f_i."""
        scores, output = self.scores(head, p)
        pooled = pool_scores(self.keys @ p, scores, self.mask)
        if output is not None:
            return pooled._replace(value=self.y * output)
        if self.intercept:
            return pooled._replace(value=pooled.value + self.y * head[-1])
        return pooled

    def gradient(self, head, p):
        """Return the `ScaledGradient` of L at (head, p)."""
        pooled = self.pooled_scores(head, p)
        log_slope = self.loss.log_slope(pooled.value) + self.weight.log()
        head_gradient, head_exponent = None, log_slope.max()
        if not callable(head):
            pull = (log_slope - head_exponent).exp() * self.y
            weights = pull[:, None] * pooled.weights
            head_gradient = -torch.einsum("nt,ntc->c", weights, self.values)
            if self.intercept:
                head_gradient = torch.cat([head_gradient, -pull.sum()[None]])
        sizes = log_slope + pooled.exponent
        exponent = sizes.max()
        pull = (sizes - exponent).nan_to_num(nan=-torch.inf).exp()
        weights = pull[:, None] * pooled.gradient
        prompt_gradient = -torch.einsum("nt,ntd->d", weights, self.keys)
        value = self.weight @ self.loss.value(pooled.value)
        return ScaledGradient(
            value, head_gradient, head_exponent, prompt_gradient, exponent
        )

    def hessian(self, head, p):
        """Return the second derivatives of L in (v, p), for a linear head.

        With m = Y f, j = s * (gamma - u) and the pooled token and key xbar and kbar:
        dm/dv = Y xbar, dm/dp = K'j, d2m/dvdp = Y sum_t s_t (x_t - xbar)(k_t - kbar)',
        d2m/dp2 = sum_t j_t (k_t - kbar)(k_t - kbar)'.
        """
        X, K = self.values, self.keys
        pooled = self.pooled_scores(head, p)
        slope = -self.weight * self.loss.log_slope(pooled.value).exp()  # w l'(m)
        bend = self.weight * self.loss.bend(pooled.value)  # w l''(m)
        s, j = pooled.weights, pooled.gradient * pooled.exponent.exp()[:, None]
        x_bar = torch.einsum("nt,ntc->nc", s, X)
        k_bar = torch.einsum("nt,ntd->nd", s, K)
        in_v = self.y[:, None] * x_bar
        if self.intercept:
            in_v = torch.cat([in_v, self.y[:, None]], 1)
        in_p = torch.einsum("nt,ntd->nd", j, K)
        first = torch.cat([in_v, in_p], 1)
        H = first.T @ (bend[:, None] * first)
        c, h = X.shape[2], self.n_head
        flat_X, flat_K = X.flatten(0, 1), K.flatten(0, 1)
        pull = (slope * self.y)[:, None]
        mixed = flat_X.T @ ((pull * s).flatten()[:, None] * flat_K)
        mixed = mixed - x_bar.T @ (pull * k_bar)
        H[:c, h:] += mixed
        H[h:, :c] += mixed.T
        square = flat_K.T @ ((slope[:, None] * j).flatten()[:, None] * flat_K)
        cross = in_p.T @ (slope[:, None] * k_bar)
        H[h:, h:] += square - cross - cross.T
        return H


def pose_erm(X, y, head, prompt, keys, loss, mask):
    """Check the user's arrays and build the risk from them."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {list(LOSSES)}; got {loss!r}.")
    X = to_tensor(X, dtype=torch.float64)
    keys = X if keys is None else to_tensor(keys, dtype=torch.float64)
    if X.ndim != 3 or 0 in X.shape or keys.ndim != 3 or X.shape[:2] != keys.shape[:2]:
        raise ValueError(
            "X and keys must have shape (n_samples, n_tokens, n_features), none zero, "
            f"the first two equal; got {tuple(X.shape)} and {tuple(keys.shape)}."
        )
    n = len(X)
    y = X.new_ones(n) if y is None else to_tensor(y, dtype=torch.float64)
    if y.shape != (n,) or not (y.abs() == 1).all():
        raise ValueError(f"y must hold -1 or +1 for each of {n} sequences.")
    if mask is not None:
        mask = to_tensor(mask, dtype=torch.bool)
        if mask.shape != X.shape[:2] or not mask.any(1).all():
            raise ValueError(
                f"mask must have shape {tuple(X.shape[:2])} and keep a token in each "
                f"sequence; got shape {tuple(mask.shape)}."
            )
        X, keys = (a.masked_fill(~mask[..., None], 0.0) for a in (X, keys))
    if not (X.isfinite().all() and keys.isfinite().all()):
        raise ValueError("X and keys must be finite wherever mask has a token.")
    p = X.new_zeros(keys.shape[2]) if prompt is None else to_tensor(prompt)
    if not callable(head):
        head = to_tensor(head, dtype=torch.float64)
        if head.shape != (X.shape[2],):
            raise ValueError(
                f"head has shape {tuple(head.shape)}, tokens {X.shape[2]} features."
            )
    if p.shape != (keys.shape[2],):
        raise ValueError(
            f"prompt has shape {tuple(p.shape)}, keys {keys.shape[2]} features."
        )
    weight = X.new_full((n,), 1.0 / n)
    erm = AttentionERM(X, keys, y, weight, LOSSES[loss], mask)
    return erm, head, p.to(torch.float64)
