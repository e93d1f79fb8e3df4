"""The attention SVM classifier of one binary problem: prompt, selection, two SVMs.

1  (v, b, p)  minimise the risk L(v, b, p): ridge path, normalised descent, or
              alternation
2  sel_i    = argmax_t p'x_it
3  p_svm    = attention SVM of the selection;  p <- ||p|| p_svm / ||p_svm||
   v        = label SVM of the tokens that p pools
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from sklearn.svm import LinearSVC

from .._arrays import to_numpy, to_tensor
from .._solution import Solution
from ._alternate import alternate
from ._erm import LOSSES, AttentionERM
from ._implicit_bias import descend
from ._joint_svm import solve_label_svm
from ._ridge_path import RidgeERM, ridge_path
from ._softmax import attention_weights
from ._solve_token_svm import TokenSVMSolution, solve_token_svm
from ._token_svm import ACTIVE

# The step of normalised gradient descent: that of the paper's experiments.
_STEP_SIZE = 0.1
# Replaces a hard margin that is infeasible: the default of C and attention_C.
_SOFT_PENALTY = 1.0
# liblinear stops by itself where its objective stops falling, well before these.
_LIBLINEAR_TOL = 1e-12
_LIBLINEAR_MAX_ITER = 10_000


@dataclass(frozen=True)
class AttentionSVM:
    """What `attention_svm` finds.

    Attributes
    ----------
    head, intercept : ndarray of shape (n_token_features,), float
        The prediction head v and b.
    prompt : ndarray of shape (n_token_features,)
        The prompt p to pool with.
    search_prompt : ndarray of shape (n_token_features,)
        The prompt that selected the tokens.
    token_svm : TokenSVMSolution or None
        The attention SVM; None where no refit was asked for.
    separable : bool
        Whether the attention SVM ranks every selected token first.
    infeasible : list of (str, TokenSVMSolution)
        The hard margins that were asked for in vain, with their certificates.
    stalled : list of (str, TokenSVMSolution)
        The SVMs whose gap was not closed.
    """

    head: np.ndarray
    intercept: float
    prompt: np.ndarray
    search_prompt: np.ndarray
    token_svm: TokenSVMSolution | None = None
    separable: bool = True
    infeasible: list = field(default_factory=list)
    stalled: list = field(default_factory=list)


def attention_svm(
    tokens,
    y,
    weight,
    *,
    C,
    attention_C,
    solver,
    refit,
    pooling,
    loss,
    attention_reg,
    head_reg,
    relax_non_support,
    fit_intercept,
    n_init,
    max_iter,
    tol,
    generator,
    on_stage,
    on_iteration,
):
    """Fit head and prompt to labels -1 and +1; the estimator documents the options.

    Parameters
    ----------
    tokens : Tokens
        Sequences and mask.
    y, weight : torch.Tensor of shape (n_samples,)
        Labels and positive sample weights, on the device of the tokens.
    generator : torch.Generator
        For the random starts.
    on_stage : callable
        Told the number of each stage of the path before it begins.
    on_iteration : callable
        Called with (v, b, p, objectives) after each iteration; returns whether to stop.

    Returns
    -------
    Solution
        `value` is an `AttentionSVM`; `history` has the "objective" of the search.
    """

    def solve(erm, report):
        if solver == "path":
            return _search_path(
                erm,
                report,
                on_stage,
                tol=tol,
                max_iter=max_iter,
                head_reg=head_reg,
                attention_reg=attention_reg,
                n_init=n_init,
                generator=generator,
            )
        on_stage(0)
        if solver == "ngd":
            return _search_descent(erm, report, tol, max_iter)
        return alternate(
            erm,
            weight=weight,
            C=_finite(C),
            attention_C=_finite(attention_C),
            max_iter=max_iter,
            on_iteration=report,
        )

    if tokens.values.shape[1] == 1 and refit is not None:  # nothing to attend to
        nowhere = torch.zeros_like(tokens.values[0, 0])
        search = Solution((None, 0.0, nowhere), 1, True, {"objective": []})
    else:
        search = _search(
            tokens, y, weight, LOSSES[loss], fit_intercept, solve, on_iteration
        )
    v, b, p = search.value
    if refit is None:
        found = AttentionSVM(to_numpy(v), b, to_numpy(p), to_numpy(p))
    else:
        found = _refit(
            tokens,
            y,
            weight,
            p,
            C=C,
            attention_C=attention_C,
            pooling=pooling,
            relax_non_support=relax_non_support,
            fit_intercept=fit_intercept,
        )
    return replace(search, value=found)


def _search(tokens, y, weight, loss, fit_intercept, solve, on_iteration):
    """Minimise the risk of centred tokens, which makes for better conditioned steps.

    The prompt does not feel the centre, since softmax does not, and an intercept takes
    it up for the head.
    """
    X, mask = tokens
    centre = _mean_token(X, mask, weight) if fit_intercept else 0.0 * X[0, 0]
    centred = X - centre
    # The linear loss has no lower bound in an intercept; the centre stands for it.
    intercept = fit_intercept and loss is not LOSSES["linear"]
    share = weight / weight.sum()
    erm = AttentionERM(centred, centred, y, share, loss, mask, intercept)

    def report(head, p, curve):
        return on_iteration(*_uncentre(head, p, centre), curve)

    found = solve(erm, report)
    return replace(found, value=_uncentre(*found.value, centre))


def _finite(C):
    """The alternation needs a solution in every round: it is soft throughout."""
    return C if np.isfinite(C) else _SOFT_PENALTY


def _mean_token(X, mask, weight):
    """Return the weighted mean of all tokens that are not padding."""
    weights = weight[:, None].expand(X.shape[:2])
    weights = weights if mask is None else weights * mask
    return torch.einsum("nt,ntd->d", weights, X) / weights.sum()


def _uncentre(head, p, centre):
    """Split the head into (v, b) and move b from centred tokens to those that came."""
    v = head[: len(centre)]
    return v, (head[len(centre) :].sum() - v @ centre).item(), p


def _search_path(
    erm, report, on_stage, *, tol, max_iter, head_reg, attention_reg, n_init, generator
):
    """Follow the ridge path from zero; then try random prompts at its last ridge."""
    problem = RidgeERM(erm, head_reg, attention_reg[-1])

    def search(start, ridges, first_stage):
        return ridge_path(
            erm,
            head_reg=head_reg,
            attention_reg=ridges,
            start=start,
            tol=tol,
            max_iter=max_iter,
            on_stage=lambda stage: on_stage(first_stage + stage),
            on_iteration=lambda theta, curve: report(*problem.split(theta), curve),
        )

    n_prompt = erm.keys.shape[2]
    best = search(np.zeros(erm.n_head + n_prompt), attention_reg, 0)
    lowest = problem.value_and_gradient(best.value)[0]
    size = np.linalg.norm(best.value[erm.n_head :]) or 1.0
    for restart in range(n_init - 1):
        start = best.value.copy()
        random = torch.randn(n_prompt, generator=generator, dtype=torch.float64)
        start[: erm.n_head] = 0.0
        start[erm.n_head :] = to_numpy(size * random / random.norm())
        other = search(start, attention_reg[-1:], len(attention_reg) + restart)
        value = problem.value_and_gradient(other.value)[0]
        if value < lowest:
            best, lowest = other, value
    return replace(best, value=problem.split(best.value))


def _search_descent(erm, report, tol, max_iter):
    """Run normalised descent on head and prompt until their directions settle."""
    head, p = erm.values.new_zeros(erm.n_head), erm.values.new_zeros(erm.keys.shape[2])
    curve, last = [], torch.cat([head, p])

    def after_step(head, p, loss):
        nonlocal last
        curve.append(loss.item())
        before, last = last, torch.cat([head / head.norm(), p / p.norm()]).nan_to_num()
        return report(head, p, curve) or (last - before).norm() <= tol

    found = descend(
        erm,
        head,
        p,
        train="vp",
        normalized=True,
        step_size=_STEP_SIZE,
        max_iter=max_iter,
        on_step=after_step,
    )
    # Each step knew the loss before it. Descent has no minimum to reach: its length
    # grows, and all steps done is done.
    curve[:] = [*curve[1:], erm.gradient(*found).value.item()]
    return Solution(found, len(curve), True, {"objective": curve})


def _refit(
    tokens,
    y,
    weight,
    p,
    *,
    C,
    attention_C,
    pooling,
    relax_non_support,
    fit_intercept,
):
    """Solve the two SVMs for the tokens that p selects."""
    X, mask = tokens
    X, p = X.to(torch.float64), p.to(torch.float64)
    selected = first_token(X, mask, p)
    rows = torch.arange(len(X), device=X.device)
    best = X[rows, selected]
    infeasible, stalled = [], []

    def solve(name, C, solve_for):
        solution = solve_for(C)
        if solution.status == "infeasible":
            infeasible.append((name, solution))
            solution = solve_for(_SOFT_PENALTY)
        if solution.status == "stalled":
            stalled.append((name, solution))
        return solution

    relaxed = None
    if relax_non_support:
        relaxed = ~_supports_head(best, y, weight, C, fit_intercept)
    token_svm = solve(
        "attention_C",
        attention_C,
        lambda C: solve_token_svm(
            X, selected, C=C, relaxed=relaxed, mask=mask, sample_weight=weight
        ),
    )
    direction = to_tensor(token_svm.p, device=X.device)
    norm = direction.norm()
    prompt = p.norm() * direction / norm if norm > 0 else direction
    if pooling == "hard":
        pooled = X[rows, first_token(X, mask, prompt)]
    else:
        pooled = torch.einsum("nt,ntd->nd", attention_weights(X @ prompt, mask), X)
    if X.shape[1] == 1 and np.isfinite(C) and len(y.unique()) == 2:
        v, b = _linear_svc(pooled, y, weight, C, fit_intercept)
    else:
        features = _with_constant(pooled, fit_intercept)
        v = solve(
            "C", C, lambda C: solve_label_svm(features, y, C=C, sample_weight=weight)
        ).p
        v, b = (v[:-1], float(v[-1])) if fit_intercept else (v, 0.0)
    ahead = (best[:, None] - X) @ direction > 0  # (n, T)
    ahead[rows, selected] = True
    if mask is not None:
        ahead |= ~mask
    return AttentionSVM(
        head=v,
        intercept=b,
        prompt=to_numpy(prompt),
        search_prompt=to_numpy(p),
        token_svm=token_svm,
        separable=bool(ahead.all()),
        infeasible=infeasible,
        stalled=stalled,
    )


def _linear_svc(features, y, weight, C, fit_intercept):
    """Fit scikit-learn's own model where a sequence has one token only."""
    svc = LinearSVC(
        C=C,
        dual=False,
        tol=_LIBLINEAR_TOL,
        max_iter=_LIBLINEAR_MAX_ITER,
        fit_intercept=fit_intercept,
    )
    svc.fit(to_numpy(features), to_numpy(y), sample_weight=to_numpy(weight))
    return svc.coef_[0], float(svc.intercept_[0]) if fit_intercept else 0.0


def _with_constant(features, fit_intercept):
    """Append the feature 1; its coefficient is the intercept, penalised as the rest."""
    if not fit_intercept:
        return features
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def _supports_head(best, y, weight, C, fit_intercept):
    """Tell which selected tokens support the max-margin head, or else the soft one."""
    features = _with_constant(best, fit_intercept)
    label_svm = solve_label_svm(features, y)
    if label_svm.status != "optimal":
        label_svm = solve_label_svm(features, y, C=_finite(C), sample_weight=weight)
    return y * (features @ to_tensor(label_svm.p, device=y.device)) <= 1.0 + ACTIVE


def first_token(X, mask, p):
    """Return the index of the token with the largest logit, the first of equals."""
    logits = X @ p  # (n, T) for one prompt, (n, T, k) for k of them as columns
    if mask is not None:
        padding = ~mask if p.ndim == 1 else ~mask[..., None]
        logits = logits.masked_fill(padding, -torch.inf)
    return logits.max(1).indices
