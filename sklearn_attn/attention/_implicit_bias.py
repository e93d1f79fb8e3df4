"""Where attention descent goes: p(t)/||p(t)|| -> p_mm/||p_mm||  (2306.13596).

Descent          p <- p - eta grad L(p), or normalised; the same on (v, p) and on W
Regularised path p(R) = argmin_{||p|| <= R} L(p);  (v_r, p_R) = argmin L(v, p)
Local optimality every SVM-neighbour of the selected token has a strictly lower score
Joint limit      v_mm = argmin ||v||, Y_i v'x_i,sel >= 1, and the attention SVM that is
                 relaxed to p'z_it >= 0 in the sequences that do not support v_mm
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize

from .._arrays import few_threads, to_numpy, to_tensor
from .._solution import Solution
from ._erm import LOSSES, AttentionERM
from ._token_svm import TokenSVM, TokenSVMSolution, solve_problem, solve_token_svm

# A constraint is active, and its token a neighbour, if its margin is 1 up to this.
_ACTIVE = 1e-7
# Limits of the smooth solver on one radius, and of the rounds between v and p.
_MAX_LBFGS = 2000
_MAX_ALTERNATIONS = 200
_SETTLED = 1e-12


def token_scores(X, head, y=None):
    """Score every token by the prediction head: gamma_it = Y_i v'x_it.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_tokens, n_features)
        The tokens (values).
    head : array-like of shape (n_features,)
        The prediction head v.
    y : array-like of shape (n_samples,), default=None
        Labels -1 and +1. None leaves out the sign, as for new data.

    Returns
    -------
    ndarray of shape (n_samples, n_tokens)
        The scores. The token with the highest one is the optimal token of its sequence.

    Examples
    --------
    >>> from sklearn_attn.attention import token_scores
    >>> token_scores([[[1.0, 0.0], [0.0, 2.0]]], head=[1.0, -1.0], y=[-1])
    array([[-1.,  2.]])
    """
    scores = np.asarray(to_numpy(X), dtype=float) @ np.asarray(head, dtype=float)
    return scores if y is None else np.asarray(y, dtype=float)[:, None] * scores


def is_locally_optimal(K, scores, selected, *, mask=None):
    """Tell whether descent that starts near a selection of tokens stays there.

    A selection is locally optimal if it can be separated (the attention SVM is
    feasible) and each of its SVM-neighbours, the tokens with margin exactly 1, has a
    strictly lower score than the selected token of the same sequence.

    Parameters
    ----------
    K : array-like of shape (n_samples, n_tokens, n_token_features)
        The keys.
    scores : array-like of shape (n_samples, n_tokens)
        Token scores, see :func:`token_scores`.
    selected : array-like of int of shape (n_samples,)
        Index of the selected token in each sequence.
    mask : array-like of bool of shape (n_samples, n_tokens), default=None
        True where there is a token.

    Returns
    -------
    bool
        False also where no direction selects these tokens.

    References
    ----------
    .. [1] Tarzanagh, Li, Zhang and Oymak, "Max-Margin Token Selection in Attention
           Mechanism", arXiv:2306.13596.

    Examples
    --------
    >>> from sklearn_attn.attention import is_locally_optimal
    >>> K = [[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]]]
    >>> is_locally_optimal(K, [[1.0, 0.9, 0.0]], selected=[1])
    True
    >>> is_locally_optimal(K, [[1.0, 0.9, 0.9]], selected=[1])
    False
    """
    solution = solve_token_svm(K, selected, mask=mask)
    if solution.p is None:
        return False
    K, scores = np.asarray(to_numpy(K), dtype=float), np.asarray(scores, dtype=float)
    rows = np.arange(len(K))
    margins = np.einsum("ntd,d->nt", K[rows, selected][:, None] - K, solution.p)
    neighbour = margins <= 1.0 + _ACTIVE
    neighbour[rows, selected] = False
    if mask is not None:
        neighbour &= np.asarray(mask, dtype=bool)
    return bool((scores[rows, selected][:, None] > scores)[neighbour].all())


class JointMaxMargin(NamedTuple):
    """The limit of joint training of head and prompt.

    Attributes
    ----------
    v : ndarray of shape (n_features,)
        Max-margin head of the selected tokens.
    p : ndarray of shape (n_token_features,) or None
        Direction of the attention SVM; None if infeasible.
    is_support : ndarray of bool of shape (n_samples,)
        The sequences whose selected token supports the head.
    label_svm : TokenSVMSolution
        How v was found.
    token_svm : TokenSVMSolution
        How p was found.
    """

    v: np.ndarray | None
    p: np.ndarray | None
    is_support: np.ndarray
    label_svm: TokenSVMSolution
    token_svm: TokenSVMSolution


def solve_label_svm(features, y, *, C=np.inf, sample_weight=None, tol=1e-9):
    """Find the max-margin head: min ||v|| s.t. Y_i v'x_i >= 1, without an intercept.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        One feature vector per sequence: selected or pooled tokens.
    y : array-like of shape (n_samples,)
        Labels -1 and +1.
    C : float, default=inf
        Penalty of the squared hinge loss; infinite asks for the hard margin.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the soft margin. None means 1.
    tol : float, default=1e-9
        Relative gap at which the solution is called optimal.

    Returns
    -------
    TokenSVMSolution
        With `p` the head v, and `support` the pairs (sequence, 0).

    Examples
    --------
    >>> from sklearn_attn.attention import solve_label_svm
    >>> solve_label_svm([[1.0, 1.0], [1.0, -1.0]], [1, -1]).p
    array([0., 1.])
    """
    features = to_tensor(features, dtype=torch.float64)
    y = to_tensor(y, device=features.device, dtype=torch.float64)
    weight = torch.ones_like(y)
    if sample_weight is not None:
        weight = to_tensor(sample_weight, device=y.device, dtype=y.dtype)
    problem = TokenSVM(
        gaps=(y[:, None] * features)[:, None],
        constrained=(weight > 0)[:, None],
        wanted=torch.ones_like(y),
        weight=weight,
    )
    return solve_problem(problem, C=C, loss="squared_hinge", tol=tol, max_iter=1000)


def solve_joint_svm(X, y, selected, *, keys=None, relax=True, mask=None):
    """Find where joint training of head and prompt goes, for a selection of tokens.

    First the max-margin head of the selected tokens, then the attention SVM, in which
    sequences that do not support the head need only `p'(k_selected - k_t) >= 0`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_tokens, n_features)
        The tokens (values).
    y : array-like of shape (n_samples,)
        Labels -1 and +1.
    selected : array-like of int of shape (n_samples,)
        Index of the selected token in each sequence.
    keys : array-like of shape (n_samples, n_tokens, n_token_features), default=None
        The keys; None takes the tokens themselves.
    relax : bool, default=True
        Whether to relax sequences that do not support the head (p_rel); False gives
        p_mm.
    mask : array-like of bool of shape (n_samples, n_tokens), default=None
        True where there is a token.

    Returns
    -------
    JointMaxMargin
        Head `v`, direction `p`, and how they were found. Without a separating head, `v`
        is None, and no sequence is relaxed.

    References
    ----------
    .. [1] Tarzanagh, Li, Zhang and Oymak, "Max-Margin Token Selection in Attention
           Mechanism", arXiv:2306.13596.

    Examples
    --------
    >>> from sklearn_attn.attention import solve_joint_svm
    >>> from sklearn_attn.datasets import make_joint_tokens
    >>> X, y, selected = make_joint_tokens(tight=False)
    >>> joint = solve_joint_svm(X, y, selected)
    >>> joint.is_support
    array([ True,  True, False])
    """
    X, y = np.asarray(to_numpy(X), dtype=float), np.asarray(y, dtype=float)
    features = X[np.arange(len(X)), selected]
    label_svm = solve_label_svm(features, y)
    is_support = np.ones(len(y), dtype=bool)
    if label_svm.p is not None:
        is_support = y * (features @ label_svm.p) <= 1.0 + _ACTIVE
    token_svm = solve_token_svm(
        X if keys is None else keys,
        selected,
        relaxed=~is_support if relax else None,
        mask=mask,
    )
    return JointMaxMargin(label_svm.p, token_svm.p, is_support, label_svm, token_svm)


def attention_descent(
    X,
    y=None,
    *,
    head,
    prompt=None,
    keys=None,
    train="p",
    query=None,
    normalized=True,
    step_size=0.1,
    max_iter=1000,
    loss="logistic",
    mask=None,
):
    """Run gradient descent on softmax attention, exactly, however long the prompt.

    The iterate never converges: its norm grows and its direction turns to a solution
    of the attention SVM. The gradient is computed with one exponent kept apart, so that
    it neither cancels nor underflows after the attention has saturated.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_tokens, n_features)
        The tokens (values).
    y : array-like of shape (n_samples,), default=None
        Labels -1 and +1. None means all +1.
    head : array-like of shape (n_features,) or callable
        The prediction head v; the start if it is trained. A callable maps a tensor of
        pooled tokens (n_samples, n_features) to outputs (n_samples,), differentiably.
    prompt : array-like of shape (n_token_features,), default=None
        Where p starts. None means zero.
    keys : array-like of shape (n_samples, n_tokens, n_token_features), default=None
        The keys; None takes the tokens themselves.
    train : {"p", "vp", "W"}, default="p"
        What is trained: the prompt; head and prompt at once; or the key-query matrix W
        of shape (n_query_features, n_token_features), with `W'query` as the prompt.
    query : array-like of shape (n_query_features,), default=None
        The fixed query for `train="W"`; W starts at `query prompt' / ||query||^2`.
    normalized : bool, default=True
        Whether each gradient is divided by its norm (for "vp", v and p separately).
    step_size : float, default=0.1
        The step eta.
    max_iter : int, default=1000
        Number of steps.
    loss : {"logistic", "exponential", "linear"}, default="logistic"
        Loss of the margin Y f.
    mask : array-like of bool of shape (n_samples, n_tokens), default=None
        True where there is a token.

    Returns
    -------
    Solution
        `value` is p, the pair (v, p), or W, as trained. `converged` says that the
        attention of every sequence is saturated: its largest weight rounds to 1.
        `history` has arrays of length max_iter + 1: "p", "v" if trained, and "loss".

    Raises
    ------
    ValueError
        If an option is unknown, shapes do not fit, `train="W"` comes without a query,
        or `train="vp"` with a callable head.

    References
    ----------
    .. [1] Tarzanagh, Li, Zhang and Oymak, "Max-Margin Token Selection in Attention
           Mechanism", arXiv:2306.13596.

    Examples
    --------
    >>> from sklearn_attn.attention import attention_descent, solve_token_svm
    >>> X = [[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]]]
    >>> path = attention_descent(X, head=[0.0, 1.0])
    >>> p, p_mm = path.value, solve_token_svm(X, selected=[0]).p
    >>> cosine = p @ p_mm / (p @ p) ** 0.5 / (p_mm @ p_mm) ** 0.5
    >>> cosine > 0.999
    np.True_
    """
    if train not in ("p", "vp", "W"):
        raise ValueError(f"train must be 'p', 'vp' or 'W'; got {train!r}.")
    if train == "W" and query is None:
        raise ValueError("train='W' needs a query.")
    if train == "vp" and callable(head):
        raise ValueError("train='vp' trains a linear head; got a callable one.")
    erm, head, p = _pose(X, y, head, prompt, keys, loss, mask)
    if train == "W":
        query = to_tensor(query, dtype=torch.float64)
        W = torch.outer(query, p) / (query @ query)
    start = W if train == "W" else p
    prompts, heads, losses = [p], [head], []

    def record(head, p, loss):
        prompts.append(p)
        heads.append(head)
        losses.append(loss)

    with few_threads(erm.values.numel()):
        head, value = descend(
            erm,
            head,
            start,
            train=train,
            query=query,
            normalized=normalized,
            step_size=step_size,
            max_iter=max_iter,
            on_step=record,
        )
        end = erm.pooled_scores(head, prompts[-1])
        losses.append(erm.weight @ erm.loss.value(end.value))
    history = {
        "p": to_numpy(torch.stack(prompts)),
        "loss": to_numpy(torch.stack(losses)),
    }
    value = to_numpy(value)
    if train == "vp":
        history["v"] = to_numpy(torch.stack(heads))
        value = to_numpy(head), value
    saturated = bool((end.weights.max(-1).values == 1.0).all())
    return Solution(value, max_iter, saturated, history)


def descend(
    erm, head, p, *, train, query=None, normalized, step_size, max_iter, on_step
):
    """Take gradient steps on p, on (v, p) or on W; return the head and p, or W.

    `on_step(head, p, loss)` is told where each step led and the loss before it; it ends
    the descent by returning True.
    """
    W = p if train == "W" else None
    for _ in range(max_iter):
        gradient = erm.gradient(head, p if W is None else W.T @ query)
        pull = gradient.prompt, gradient.prompt_exponent
        if train == "W":  # dL/dW = query (dL/dp)'
            pull = torch.outer(query, gradient.prompt), gradient.prompt_exponent
            W = W - _step(*pull, step_size, normalized)
        else:
            p = p - _step(*pull, step_size, normalized)
        if train == "vp":
            pull = gradient.head, gradient.head_exponent
            head = head - _step(*pull, step_size, normalized)
        if on_step(head, p if W is None else W.T @ query, gradient.value):
            break
    return head, p if W is None else W


def _step(gradient, exponent, step_size, normalized):
    """Return eta g, or eta g / ||g||, where g comes without its exponential."""
    if not normalized:
        return step_size * exponent.exp() * gradient
    norm = gradient.norm()
    return step_size * gradient / norm if norm > 0 else gradient


def _pose(X, y, head, prompt, keys, loss, mask):
    """Check the user's arrays and build the risk from them."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {list(LOSSES)}; got {loss!r}.")
    X = to_tensor(X, dtype=torch.float64)
    keys = X if keys is None else to_tensor(keys, dtype=torch.float64)
    if X.ndim != 3 or keys.ndim != 3 or X.shape[:2] != keys.shape[:2]:
        raise ValueError(
            "X and keys must have shape (n_samples, n_tokens, n_features), the first "
            f"two equal; got {tuple(X.shape)} and {tuple(keys.shape)}."
        )
    n = len(X)
    y = X.new_ones(n) if y is None else to_tensor(y, dtype=torch.float64)
    if y.shape != (n,) or not (y.abs() == 1).all():
        raise ValueError(f"y must hold -1 or +1 for each of {n} sequences.")
    if mask is not None:
        mask = to_tensor(mask, dtype=torch.bool)
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
    erm, v, p = _pose(X, y, head, prompt, keys, loss, mask)
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
