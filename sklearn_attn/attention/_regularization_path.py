"""Regularisation path: p(R) = argmin_{||p|| <= R} L(p)  (2306.13596).

joint      (v_r, p_R) = argmin { L(v, p) : ||v|| <= r, ||p|| <= R }
direction  p(R) / R -> p_mm / ||p_mm||,  and  log(L(p(R)) - inf L) ~ -R / ||p_mm||
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from .._arrays import few_threads, to_numpy
from .._solution import Solution
from ._erm import AttentionERM, pose_erm
from ._solve_token_svm import solve_token_svm

# Limits of the smooth solver on one radius, and of the rounds between v and p, which
# end when p moves by less than this part of its radius.
_MAX_LBFGS = 2000
_MAX_ALTERNATIONS = 200
_SETTLED = 1e-12


def regularization_path(
    X,
    y=None,
    *,
    radii,
    head=None,
    prompt=None,
    keys=None,
    train="p",
    loss="logistic",
    mask=None,
):
    """Minimise the attention risk in balls of growing radius.

    The directions of the minimisers converge to the max-margin solutions that gradient
    descent converges to [1]_, at the rate 1 / radius^2 in 1 - cosine.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_tokens, n_features)
        The tokens (values).
    y : array-like of shape (n_samples,), default=None
        Labels -1 and +1. None means all +1.
    radii : array-like of shape (n_radii,) or (n_radii, 2)
        The bounds, increasing. For `train="vp"`, pairs (r, R) with ||v|| <= r and
        ||p|| <= R; single numbers bound both.
    head : array-like of shape (n_features,), default=None
        The prediction head v that is held fixed for `train="p"`, and needed there.
    prompt : array-like of shape (n_token_features,), default=None
        The prompt that is held fixed for `train="v"`; the start otherwise. None means
        zero, which is mean pooling.
    keys : array-like of shape (n_samples, n_tokens, n_token_features), default=None
        The keys; None takes the tokens themselves.
    train : {"p", "v", "vp"}, default="p"
        What is minimised over.
    loss : {"logistic", "exponential", "linear"}, default="logistic"
        Loss of the margin Y f; the linear one, which has no lower bound in v, only with
        `train="p"`.
    mask : array-like of bool of shape (n_samples, n_tokens), default=None
        True where there is a token.

    Returns
    -------
    Solution
        `value` is the array of minimisers p or v, one row per radius, or the pair of
        arrays (v, p). `history["log_excess"]` has the logarithm of the risk above its
        infimum, for p at the fixed or final head; for v, of the risk itself.

    Raises
    ------
    ValueError
        If an option is unknown, shapes do not fit, radii do not increase, or
        `train="p"` comes without a head.

    Notes
    -----
    The risk minus its infimum is handled as a logarithm, since it falls as
    exp(-R / ||p_mm||), far below what float64 resolves in the risk itself. The problem
    in p is not convex: each radius starts at the solution of the one before, and at the
    attention SVM of the optimal tokens.

    References
    ----------
    .. [1] Tarzanagh, Li, Zhang and Oymak, "Max-Margin Token Selection in Attention
           Mechanism", arXiv:2306.13596.

    Examples
    --------
    >>> from sklearn_attn.attention import regularization_path, solve_token_svm
    >>> X = [[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]]]
    >>> path = regularization_path(X, head=[0.0, 1.0], radii=[1.0, 10.0, 100.0])
    >>> p_mm = solve_token_svm(X, selected=[0]).p
    >>> (path.value @ p_mm / (p_mm @ p_mm) ** 0.5 / [1, 10, 100]).round(4)
    array([0.9369, 0.9941, 1.    ])
    """
    if train not in ("p", "v", "vp"):
        raise ValueError(f"train must be 'p', 'v' or 'vp'; got {train!r}.")
    if train == "p" and head is None:
        raise ValueError("train='p' needs the head that is held fixed.")
    if train != "p" and loss == "linear":
        raise ValueError("The linear loss has no lower bound in v; use train='p'.")
    radii = np.asarray(radii, dtype=float)
    radii = np.stack([radii, radii], 1) if radii.ndim == 1 else radii
    if radii.shape[1:] != (2,) or not (np.diff(radii, axis=0, prepend=0) >= 0).all():
        raise ValueError("radii must be positive, increasing numbers or pairs (r, R).")
    if head is None:
        head = np.zeros(np.shape(X)[2])
    erm, v, p = pose_erm(X, y, head, prompt, keys, loss, mask)
    found = {"v": [], "p": [], "log_excess": [], "n_iter": 0}
    with few_threads(erm.values.numel()):
        for r, R in radii:
            v, p, log_excess, n_iter = _on_one_radius(erm, v, p, r, R, train)
            found["v"].append(v)
            found["p"].append(p)
            found["log_excess"].append(log_excess)
            found["n_iter"] += n_iter
    v, p = (to_numpy(torch.stack(found[name])) for name in "vp")
    value = {"p": p, "v": v, "vp": (v, p)}[train]
    history = {"log_excess": found["log_excess"]}
    return Solution(value, found["n_iter"], True, history)


def _on_one_radius(erm, v, p, r, R, train):
    """Minimise over p, over v, or over both in turn."""
    total = 0
    for _ in range(_MAX_ALTERNATIONS if train == "vp" else 1):
        if train != "p":
            v, log_excess, n_iter = _minimise_on_ball(_HeadOnBall(erm, p), r, [v])
            total += n_iter
        if train != "v":
            before = p
            starts = [p, *_optimal_directions(erm, v, R)]
            p, log_excess, n_iter = _minimise_on_ball(_PromptOnBall(erm, v), R, starts)
            total += n_iter
            if (p - before).norm() <= _SETTLED * R:
                break
    return v, p, log_excess, total


def _optimal_directions(erm, v, radius):
    """Return the direction that selects the optimal tokens, if there is one."""
    scores, _ = erm.scores(v, None)
    if erm.mask is not None:
        scores = scores.masked_fill(~erm.mask, -torch.inf)
    solution = solve_token_svm(erm.keys, scores.argmax(-1), mask=erm.mask)
    if solution.p is None or not solution.p.any():
        return []
    return [torch.from_numpy(0.9 * radius * solution.p / np.linalg.norm(solution.p))]


@dataclass(frozen=True)
class _PromptOnBall:
    """log(L(p) - inf L) of a fixed head, and its gradient."""

    erm: AttentionERM
    head: torch.Tensor

    def __call__(self, p):
        scores, _ = self.erm.scores(self.head, p)
        pooled = self.erm.pooled_scores(self.head, p)
        open_scores = (
            scores
            if self.erm.mask is None
            else scores.masked_fill(~self.erm.mask, -torch.inf)
        )
        best = open_scores.max(-1).values
        ahead = best - scores.gather(-1, pooled.leader[:, None])[:, 0]
        log_gap = torch.where(
            ahead > 0,
            (ahead - pooled.drift * pooled.exponent.exp()).log(),
            pooled.exponent + (-pooled.drift).log(),
        ).nan_to_num(nan=-torch.inf)
        excess = self.erm.loss.log_excess(pooled.value, log_gap)
        value = torch.logsumexp(self.erm.weight.log() + excess, 0)
        gradient = self.erm.gradient(self.head, p)
        return value, gradient.prompt * (gradient.prompt_exponent - value).exp()


@dataclass(frozen=True)
class _HeadOnBall:
    """log L(v) of a fixed prompt, and its gradient."""

    erm: AttentionERM
    prompt: torch.Tensor

    def __call__(self, v):
        margins = self.erm.pooled_scores(v, self.prompt).value
        value = torch.logsumexp(
            self.erm.weight.log() + self.erm.loss.log_value(margins), 0
        )
        gradient = self.erm.gradient(v, self.prompt)
        return value, gradient.head * (gradient.head_exponent - value).exp()


def _minimise_on_ball(objective, radius, starts):
    """Minimise over ||x|| <= radius by L-BFGS in z, x = radius z / max(1, ||z||)."""

    def of_z(z):
        z = torch.from_numpy(z.copy())
        norm = z.norm().clamp(min=1.0)
        value, gradient = objective(radius * z / norm)
        if norm > 1.0:
            unit = z / norm
            gradient = (gradient - (gradient @ unit) * unit) / norm
        return value.item(), to_numpy(radius * gradient)

    options = {"maxiter": _MAX_LBFGS, "ftol": 0.0, "gtol": 1e-10, "maxcor": 20}
    found = [
        minimize(
            of_z, to_numpy(x) / radius, jac=True, method="L-BFGS-B", options=options
        )
        for x in starts
    ]
    best = min(found, key=lambda result: result.fun)
    z = torch.from_numpy(best.x)
    return radius * z / z.norm().clamp(min=1.0), best.fun, best.nit
