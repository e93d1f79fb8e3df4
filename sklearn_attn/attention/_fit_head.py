"""Heads for pooled tokens h = X'a(X): f_k = w_k'h_k + b_k  (2306.03435, section 2).

    mean            w ~ sum_i (y_i - ybar)(h_i - hbar), one step of gradient descent
    least-squares   the minimum-norm solution of least squares
    ridge           least squares + reg/2 ||w||^2
    logistic        logistic loss + reg/2 ||w||^2

The first three fit -1 and +1; a logistic regression on what they predict then turns it
into log-odds.
"""

import numpy as np
import torch
from scipy.linalg import lstsq
from scipy.optimize import brentq
from sklearn.linear_model import Ridge

from .._arrays import to_numpy, to_tensor
from .._lbfgs import lbfgs, polish
from .._solution import Solution
from ._token_attention import fixed_attention, gather
from ._token_risk import SQUARED, TokenModel, TokenRisk

# Of the slope on a score of unit length: keeps it finite where the score separates.
_SLOPE_RIDGE = 1e-3


def fit_head(
    samples, *, head, head_reg, fit_intercept, centre, tol, max_iter, on_iteration
):
    """Fit w and b to pooled tokens.

    Parameters
    ----------
    samples : Samples
        Its X holds the pooled tokens, (n_samples, n_prompts, n_token_features): one for
        all outputs, or one for each.
    head : {"mean", "least-squares", "ridge", "logistic"}
        How.
    head_reg : float
        Ridge of "ridge" and "logistic".
    fit_intercept : bool
        Whether b is free.
    centre : bool
        Whether targets and pooled tokens are centred for w, except in "logistic".
    tol, max_iter, on_iteration
        Of the iterations of "logistic"; `on_iteration` gets (model, objectives so far).

    Returns
    -------
    Solution
        `value` is a `TokenModel` without attention; `history` has the "objective".
    """
    if head == "logistic":
        return _logistic(samples, head_reg, fit_intercept, tol, max_iter, on_iteration)
    pooled, targets, weight = samples.X, samples.contrast, samples.weight
    if centre:
        pooled = pooled - samples.mean(pooled)
        targets = targets - samples.mean(targets)
    if head == "mean":
        pull = (weight[:, None] * targets)[:, None]  # (n, 1, K)
        w = gather(_one_hot(samples) * pull, pooled)
    else:
        rows = weight.sqrt()[:, None]
        reg = head_reg if head == "ridge" else 0.0
        w = torch.cat(
            [
                _least_squares(rows * pooled[:, min(k, pooled.shape[1] - 1)], y, reg)
                for k, y in enumerate((rows * targets).split(1, 1))
            ]
        )
    scores = (_one_hot(samples) * (samples.X @ w.T)).sum(1)  # (n, K)
    slope, intercept = _calibrate(samples, scores, head, fit_intercept)
    return Solution(TokenModel(slope[:, None] * w, intercept, w[0, :0]), 1, True)


def _one_hot(samples):
    """Return which pooled token each output reads, (n, P, K)."""
    n, P, _ = samples.X.shape
    one_hot = torch.ones(P, samples.Y.shape[1]) if P == 1 else torch.eye(P)
    return one_hot.to(samples.X).expand(n, -1, -1)


def _logistic(samples, head_reg, fit_intercept, tol, max_iter, on_iteration):
    """Minimise the penalised logistic risk, which is convex."""
    attention = fixed_attention(_one_hot(samples))
    risk = TokenRisk(samples, attention, (0,), head_reg, 0.0, fit_intercept)
    K, d = samples.Y.shape[1], samples.X.shape[2]
    prior = samples.loss.prior(samples.mean(samples.Y))
    start = TokenModel(prior.new_zeros(K, d), prior * fit_intercept, prior.new_zeros(0))
    return minimize_risk(
        risk, start, tol=tol, max_iter=max_iter, on_iteration=on_iteration
    )


def minimize_risk(risk, start, *, tol, max_iter, on_iteration):
    """Minimise a `TokenRisk` from a model: L-BFGS, and a polish if in float64."""
    dtype = risk.samples.X.dtype
    found = lbfgs(
        risk,
        risk.pack(start),
        tol=tol,
        max_iter=max_iter,
        on_iteration=lambda theta, curve: on_iteration(risk.unpack(theta), curve),
        dtype=dtype,
    )
    theta = found.value
    if found.converged and not found.history["stopped"][0] and dtype == torch.float64:
        theta = polish(lambda theta: risk(theta)[1], theta)
    history = found.history | {"risk": [risk(theta)[0]]}
    model = risk.unpack(theta)
    model = model._replace(intercept=risk.samples.settle(model.intercept))
    return Solution(model, found.n_iter, found.converged, history)


def _least_squares(A, b, reg):
    """Return argmin ||A w - b||^2 + reg ||w||^2, (1, d); the shortest if reg is 0."""
    A_np, b_np = to_numpy(A).astype(np.float64), to_numpy(b)[:, 0].astype(np.float64)
    if reg > 0:
        w = Ridge(alpha=reg, fit_intercept=False, solver="cholesky").fit(A_np, b_np)
        w = w.coef_
    else:
        w = lstsq(A_np, b_np)[0]
    return to_tensor(w[None], device=A.device, dtype=A.dtype)


def _calibrate(samples, scores, head, fit_intercept):
    """Return the slopes on the scores and the intercepts.

    Scores are regressed on the targets, which says where the classes part; for classes
    a logistic regression without intercept then gives the log-odds. With one, it would
    part the training samples where there are fewer of them than features, and not the
    classes.
    """
    mean_y = samples.mean(samples.contrast) * fit_intercept
    centre = samples.mean(scores) * fit_intercept
    scores = scores - centre
    slope = torch.ones_like(mean_y)
    if head == "mean":
        size = samples.mean(scores.square())
        fit = samples.mean(scores * (samples.contrast - mean_y))
        slope = torch.where(size > 0, fit / size, 0.0)
    f = mean_y + slope * scores
    if samples.loss is not SQUARED:
        length = samples.mean(f.square()).mean().sqrt()
        steepness = _steepness(samples, f / length) / length if length > 0 else 0.0
        slope, mean_y = steepness * slope, steepness * mean_y
    return slope, samples.settle(mean_y - slope * centre)


def _steepness(samples, unit):
    """Return a, by logistic regression of the classes on a f, for f of size one."""

    def slope(a):
        in_f = samples.loss.slope(a * unit, samples.Y)
        return samples.mean((in_f * unit).sum(1)).item() + _SLOPE_RIDGE * a

    at_zero = samples.mean(samples.loss.value(0 * unit, samples.Y)).item()
    largest = (2 * at_zero / _SLOPE_RIDGE) ** 0.5  # its penalty alone is as much
    return brentq(slope, -largest, largest, xtol=np.finfo(float).tiny)
