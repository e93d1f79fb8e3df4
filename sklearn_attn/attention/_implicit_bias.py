"""Where attention descent goes: p(t)/||p(t)|| -> p_mm/||p_mm||  (2306.13596).

Descent           p <- p - eta grad L(p), or normalised; the same on (v, p) and on W
Local optimality  each SVM-neighbour of a selected token has a strictly lower score
"""

import numpy as np
import torch

from .._arrays import few_threads, to_numpy, to_tensor
from .._solution import Solution
from ._erm import pose_erm
from ._solve_token_svm import solve_token_svm
from ._token_svm import ACTIVE


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

    Raises
    ------
    ValueError
        If shapes do not fit, or a label is not -1 or +1.

    Examples
    --------
    >>> from sklearn_attn.attention import token_scores
    >>> token_scores([[[1.0, 0.0], [0.0, 2.0]]], head=[1.0, -1.0], y=[-1])
    array([[-1.,  2.]])
    """
    X, head = np.asarray(to_numpy(X), dtype=float), np.asarray(to_numpy(head), float)
    if X.ndim != 3 or head.shape != X.shape[2:]:
        raise ValueError(
            "X must have shape (n_samples, n_tokens, n_features) and head "
            f"(n_features,); got {X.shape} and {head.shape}."
        )
    if y is None:
        return X @ head
    y = np.asarray(to_numpy(y), dtype=float)
    if y.shape != X.shape[:1] or not (np.abs(y) == 1).all():
        raise ValueError(f"y must hold -1 or +1 for each of {len(X)} sequences.")
    return y[:, None] * (X @ head)


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

    Raises
    ------
    ValueError
        If shapes do not fit, or `selected` names no token.

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
    K = np.asarray(to_numpy(K), dtype=float)
    scores = np.asarray(to_numpy(scores), dtype=float)
    if scores.shape != K.shape[:2]:
        raise ValueError(
            f"scores must have shape {K.shape[:2]}, one for each token of K; got "
            f"{scores.shape}."
        )
    rows = np.arange(len(K))
    margins = np.einsum("ntd,d->nt", K[rows, selected][:, None] - K, solution.p)
    neighbour = margins <= 1.0 + ACTIVE
    neighbour[rows, selected] = False
    if mask is not None:
        neighbour &= np.asarray(mask, dtype=bool)
    return bool((scores[rows, selected][:, None] > scores)[neighbour].all())


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
    if (train == "W") != (query is not None):
        raise ValueError("train='W' needs a query, and nothing else takes one.")
    if not step_size > 0:
        raise ValueError(f"step_size must be positive; got {step_size!r}.")
    if train == "vp" and callable(head):
        raise ValueError("train='vp' trains a linear head; got a callable one.")
    erm, head, p = pose_erm(X, y, head, prompt, keys, loss, mask)
    if train == "W":
        query = to_tensor(query, dtype=torch.float64)
        if query.ndim != 1 or not query.any():
            raise ValueError("query must be one vector, and not zero.")
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
