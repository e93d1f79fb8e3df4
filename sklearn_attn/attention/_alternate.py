"""Alternate: head from selected tokens, tokens from the head, prompt from the tokens.

    v = label SVM of the selected tokens        sel_i = argmax_t Y_i v'x_it
    p = attention SVM of the selected tokens    until the selection stays

The first head sees mean tokens. It is how MI-SVM is trained (Andrews et al. 2003), with
attention learned on top, so that new sequences need no label to be pooled.
"""

import torch
from scipy.optimize import minimize_scalar

from .._arrays import to_tensor
from .._solution import Solution
from ._joint_svm import solve_label_svm
from ._solve_token_svm import solve_token_svm

# The prompt is scaled to the least risk; logit gaps from 1 to e^6 = 400 are tried, from
# hardly any attention to saturation.
_LARGEST_LOG_SCALE = 6.0


def alternate(erm, *, weight, C, attention_C, max_iter, on_iteration):
    """Alternate between head, selection and prompt.

    Parameters
    ----------
    erm : AttentionERM
        The data, and the risk by which the prompt is scaled in the end.
    weight : torch.Tensor of shape (n_samples,)
        Sample weights of the two SVMs, not normalised.
    C : float
        Penalty of the label SVM.
    attention_C : float
        Penalty of the attention SVM.
    max_iter : int
        Limit of rounds.
    on_iteration : callable
        Called with (head, p, risks) after each round; returns whether to stop.

    Returns
    -------
    Solution
        `value` is the pair (head, p); `history` has the "objective" of every round.
    """
    X, mask = erm.values, erm.mask
    p = X.new_zeros(erm.keys.shape[2])
    pooled = erm.pool(p)
    last, seen, curve, converged = None, set(), [], False
    for _ in range(max_iter):
        if erm.intercept:
            pooled = torch.cat([pooled, torch.ones_like(pooled[:, :1])], 1)
        head = solve_label_svm(pooled, erm.y, C=C, sample_weight=weight).p
        head = to_tensor(head, device=X.device, dtype=X.dtype)
        scores, _ = erm.scores(head, p)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        selected = scores.max(-1).indices
        pooled = X[torch.arange(len(X), device=X.device), selected]
        found = solve_token_svm(
            erm.keys, selected, C=attention_C, mask=mask, sample_weight=weight
        )
        p = to_tensor(found.p, device=X.device, dtype=X.dtype)
        margins = scores.max(-1).values + erm.y * (head[-1] if erm.intercept else 0.0)
        curve.append((erm.weight @ erm.loss.value(margins)).item())
        stop = on_iteration(head, p, curve)
        key = tuple(selected.tolist())
        converged = stop or key == last
        if converged or key in seen:  # it stays, or goes round in a circle
            break
        seen.add(key)
        last = key
    log_scale = minimize_scalar(
        lambda s: erm.gradient(head, torch.tensor(s).exp() * p).value.item(),
        bounds=(0.0, _LARGEST_LOG_SCALE),
        method="bounded",
    ).x
    p = torch.tensor(log_scale).exp() * p
    return Solution((head, p), len(curve), converged, {"objective": curve})
