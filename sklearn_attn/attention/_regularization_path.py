"""Regularisation path: p(R) = argmin_{||p|| <= R} L(p)  (2306.13596).

joint      (v_r, p_R) = argmin { L(v, p) : ||v|| <= r, ||p|| <= R }
direction  p(R) / R -> p_mm / ||p_mm||,  and  log(L(p(R)) - inf L) ~ -R / ||p_mm||
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from .._arrays import cpu_generator, few_threads, to_numpy
from .._solution import Solution
from ._erm import AttentionERM, pose_erm
from ._solve_token_svm import solve_token_svm

# Limits of the smooth solver on one radius, and of the rounds between v and p, which
# end when p moves by less than this part of its radius.
_MAX_LBFGS = 2000
_MAX_ALTERNATIONS = 200
_SETTLED = 1e-12
# Starts lie a little inside the ball, from where every direction is open.
_INSIDE = 0.9
# The gradient of the logarithm along the ball, times the radius, where it is flat.
_FLAT = 1e-4


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
    n_init=16,
    random_state=None,
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
    n_init : int, default=16
        Random prompts to start from at each radius, besides the solution of the radius
        before and the attention SVM of the optimal tokens.
    random_state : int, RandomState instance or None, default=None
        Seed of the random starts.

    Returns
    -------
    Solution
        `value` is the array of minimisers p or v, one row per radius, or the pair of
        arrays (v, p). `history["log_excess"]` has the logarithm of the risk above its
        infimum, for p at the fixed or final head; for v, of the risk itself.
        `converged` says that the gradient along the ball is flat, and that alternating
        between v and p settled.

    Raises
    ------
    ValueError
        If an option is unknown, shapes do not fit, radii do not increase,
        `train="p"` comes without a head, or the head is a function.

    Notes
    -----
    The risk minus its infimum is handled as a logarithm, since it falls as
    exp(-R / ||p_mm||), far below what float64 resolves in the risk itself. The problem
    in p is not convex: what is returned is the best local minimum of all starts.

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
    if callable(head):
        raise ValueError(
            "The infimum of the risk is known for linear heads only; pass a vector, or "
            "follow a callable head by attention_descent."
        )
    if not n_init >= 0:
        raise ValueError(f"n_init must not be negative; got {n_init!r}.")
    radii = np.asarray(radii, dtype=float)
    radii = np.stack([radii, radii], 1) if radii.ndim == 1 else radii
    increasing = np.diff(radii, axis=0, prepend=0) > 0
    if radii.shape[1:] != (2,) or not (increasing.any(1).all() and (radii > 0).all()):
        raise ValueError("radii must be positive, increasing numbers or pairs (r, R).")
    if not len(radii) or not np.isfinite(radii).all():
        raise ValueError("radii must hold at least one bound, and finite ones only.")
    if head is None:
        head = np.zeros(np.shape(X)[2])
    erm, v, p = pose_erm(X, y, head, prompt, keys, loss, mask)
    generator = cpu_generator(random_state) if train != "v" and n_init else None
    found = {"v": [], "p": [], "log_excess": []}
    n_iter, converged = 0, True
    with few_threads(erm.values.numel()):
        for r, R in radii:
            random = _random_directions(n_init, len(p), generator)
            answer = _on_one_radius(erm, v, p, r, R, train, random)
            v, p = answer.value
            found["v"].append(v)
            found["p"].append(p)
            found["log_excess"].append(answer.history["log_excess"])
            n_iter, converged = n_iter + answer.n_iter, converged & answer.converged
    v, p = (to_numpy(torch.stack(found[name])) for name in "vp")
    value = {"p": p, "v": v, "vp": (v, p)}[train]
    return Solution(value, n_iter, converged, {"log_excess": found["log_excess"]})


def _on_one_radius(erm, v, p, r, R, train, random):
    """Minimise over p, over v, or over both in turn."""
    n_iter, converged, settled = 0, True, train != "vp"
    for turn in range(_MAX_ALTERNATIONS if train == "vp" else 1):
        if train != "p":
            found = _minimise_on_ball(_HeadOnBall(erm, p), r, [v])
            v, n_iter = found.value, n_iter + found.n_iter
            converged = found.converged
        if train != "v":
            starts = [p, *_optimal_directions(erm, v)]
            if turn == 0:
                starts += random
            starts = [_INSIDE * R * start / (start.norm() or 1.0) for start in starts]
            found = _minimise_on_ball(_PromptOnBall(erm, v), R, starts)
            before, p, n_iter = p, found.value, n_iter + found.n_iter
            converged &= found.converged
            settled |= bool((p - before).norm() <= _SETTLED * R)
            if settled:
                break
    return Solution((v, p), n_iter, converged and settled, found.history)


def _random_directions(n, d, generator):
    """Draw directions to start from."""
    if generator is None:
        return []
    return list(torch.randn((n, d), generator=generator, dtype=torch.float64))


def _optimal_directions(erm, v):
    """Return the direction that selects the optimal tokens, if there is one."""
    scores, _ = erm.scores(v, None)
    if erm.mask is not None:
        scores = scores.masked_fill(~erm.mask, -torch.inf)
    solution = solve_token_svm(erm.keys, scores.argmax(-1), mask=erm.mask)
    return [] if solution.p is None else [torch.from_numpy(solution.p)]


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
    return Solution(
        radius * z / z.norm().clamp(min=1.0),
        sum(result.nit for result in found),
        bool(np.abs(best.jac).max() <= _FLAT),
        {"log_excess": best.fun},
    )
