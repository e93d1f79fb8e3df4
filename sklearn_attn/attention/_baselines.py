"""The models that prompt-attention is compared with  (2306.03435, section 2).

mean token          f = w'X'1/T + b
linear attention    f = w'X'(X q)/T + b
self-attention      f = 1/T sum_s w'X'softmax(X A'x_s) + b
"""

from functools import partial

import torch

from ._fit_head import fit_head, minimize_risk
from ._token_attention import (
    gather,
    linear_attention,
    pool,
    self_attention,
    token_shares,
)
from ._token_risk import TokenModel, TokenRisk

# Sizes of a start that are tried; at 1, outputs or logits have a variance of about 1.
_SIZES = tuple(2.0**k for k in range(-3, 4))


def learn_mean_token(samples, *, alpha_head, fit_intercept, **iterations):
    """Fit a penalised logistic regression to the mean tokens.

    Parameters
    ----------
    samples : Samples
        What to fit.
    alpha_head : float
        Ridge of the head.
    fit_intercept : bool
        Whether b is free.
    **iterations
        `tol`, `max_iter` and `on_iteration`, called with (model, objectives so far).

    Returns
    -------
    Solution
        `value` is a `TokenModel`; `history` has the "objective" of each iteration.
    """
    pooled = pool(token_shares(samples.X, samples.mask), samples.X)
    return fit_head(
        samples._replace(X=pooled, mask=None),
        head="logistic",
        head_reg=alpha_head,
        fit_intercept=fit_intercept,
        centre=fit_intercept,
        **iterations,
    )


def learn_linear_attention(
    samples, *, alpha_head, alpha_prompt, fit_intercept, **iterations
):
    """Minimise the penalised risk, from its most negative curvature at zero.

    The risk is flat at w = (q, c) = 0. Its second derivatives there are the matrices
    M_k = mean_i (y_ik - ybar_k) X_i'[X_i, 1] / T_i. One start is the rank-one matrix
    w_k (q_k, c_k)' closest to M_k. Another has c_k = 0 and a symmetric part of w_k q_k'
    close to M_k, since that is all of it that the outputs see: with l and -m the ends
    of the spectrum, at v and u, it is w, q = sqrt(l) v +- sqrt(m) u. Both are tried in
    some sizes.

    Parameters
    ----------
    samples : Samples
        What to fit.
    alpha_head, alpha_prompt : float
        Ridges of head and prompt.
    fit_intercept : bool
        Whether b is free.
    **iterations
        `tol`, `max_iter` and `on_iteration`, called with (model, objectives so far).

    Returns
    -------
    Solution
        `value` is a `TokenModel`; `history` has the "objective" of each iteration.
    """
    X, y = samples.X, samples.contrast
    K, d = y.shape[1], X.shape[2]
    attention = partial(linear_attention, fit_intercept=fit_intercept)
    risk = TokenRisk(
        samples, attention, (K, d + 1), alpha_head, alpha_prompt, fit_intercept
    )
    pull = (samples.weight[:, None] * (y - samples.mean(y)))[:, None]
    pull = pull * token_shares(X, samples.mask)  # (n, T, K)
    in_c = gather(pull, X) * fit_intercept
    pairs = X.new_zeros(2, K, 2, d + 1)  # which start, output, w or q, feature
    for k in range(K):
        square = X.flatten(0, 1).T @ (pull[..., k, None] * X).flatten(0, 1)
        U, _, V = torch.linalg.svd(torch.cat([square, in_c[k, :, None]], 1))
        pairs[0, k, 0, :d], pairs[0, k, 1] = U[:, 0], V[0]
        values, vectors = torch.linalg.eigh((square + square.T) / 2)
        v = values[-1].clamp(min=0).sqrt() * vectors[:, -1]
        u = (-values[0]).clamp(min=0).sqrt() * vectors[:, 0]
        pairs[1, k, 0, :d], pairs[1, k, 1, :d] = v + u, v - u
    starts = []
    for pair in pairs:
        starts += _in_some_sizes(risk, pair[:, 0, :d], pair[:, 1])
    return _minimize_from_the_best(risk, starts, iterations)


def _in_some_sizes(risk, heads, prompts):
    """Return head and prompt, with some sizes of their product."""
    samples = risk.samples
    f, *_ = risk.outputs(TokenModel(heads, heads.new_zeros(len(heads)), prompts))
    variance = samples.mean((f - samples.mean(f)).square())[:, None]
    root = torch.where(variance > 0, variance**-0.25, 0.0)  # for head and prompt each
    return [(size**0.5 * root * heads, size**0.5 * root * prompts) for size in _SIZES]


def learn_self_attention(
    samples, *, alpha_head, alpha_attention, fit_intercept, **iterations
):
    """Minimise the penalised risk, from the mean-token model and a gradient step in A.

    Parameters
    ----------
    samples : Samples
        What to fit.
    alpha_head, alpha_attention : float
        Ridges of the head and of A.
    fit_intercept : bool
        Whether b is free.
    **iterations
        `tol`, `max_iter` and `on_iteration`, called with (model, objectives so far).

    Returns
    -------
    Solution
        `value` is a `TokenModel`; `history` has the "objective" of each iteration.
    """
    X = samples.X
    shape = (X.shape[2], X.shape[2])
    risk = TokenRisk(
        samples, self_attention, shape, alpha_head, alpha_attention, fit_intercept
    )
    silent = iterations | {"on_iteration": lambda *_: False}
    mean_token = learn_mean_token(
        samples, alpha_head=alpha_head, fit_intercept=fit_intercept, **silent
    ).value
    start = mean_token._replace(attention=X.new_zeros(shape))
    _, gradient = risk.value_and_gradient(start)
    length = (
        gradient.attention.norm() * torch.linalg.vector_norm(X).square() / X.numel()
    )
    A = torch.where(length > 0, -gradient.attention / length, 0.0)
    signed = [sign * size for size in _SIZES for sign in (1, -1)]
    starts = [(start.head, size * A) for size in signed]
    return _minimize_from_the_best(risk, starts, iterations)


def _minimize_from_the_best(risk, starts, iterations):
    """Start where the risk is least, with the intercept that the prior asks for."""
    samples = risk.samples
    prior = samples.loss.prior(samples.mean(samples.Y))
    models = []
    for head, attention in starts:
        model = TokenModel(head, torch.zeros_like(prior), attention)
        f, *_ = risk.outputs(model)
        intercept = (prior - samples.mean(f)) * risk.fit_intercept
        models.append(model._replace(intercept=intercept))
    start = min(models, key=lambda model: risk.value_and_gradient(model)[0].item())
    return minimize_risk(risk, start, **iterations)
