"""Which lags matter: group OMP, hard-thresholding pursuit, and the Lasso  (2302.00814).

    OMP   add argmax_j ||X_{-j}' r||^2 / sum r^2  while it exceeds a chi-square quantile
    HTP   B <- HT_s(B + X' r / n), least squares on its support, until that repeats
    Lasso min 1/(2n) ||y - Xi B||^2 + penalty * (sum of entries, or of norms of lags)

All products with Xi are convolutions. The paper has the Lasso; the others find the same
lags with fewer passes, and without its shrinkage.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.special import comb
from scipy.stats import chi2
from scipy.stats import f as f_law

from .._solution import Solution
from ._lagged import as_array, in_double
from ._support_fit import add_groups, no_moments, prune, solve, wald

# Of the Lasso's penalty, sigma * sqrt(2 log(p) / n) bounds what noise alone explains.
# Half of it selects more than needed, which least squares and the tests then mend.
PENALTY_SCALE = 0.5
# The noise level and the Lasso's fit are found in turn, until the level stays the same.
NOISE_ROUNDS, NOISE_TOL = 8, 0.02
# How many groups OMP looks ahead, and the part of the level that is spent on it.
LOOK_AHEAD, AHEAD_SHARE = 4, 0.3
# By how much the gains of single groups are raised to see whether looking ahead pays.
AHEAD_SLACK = 1.1
# Steps of the power method, and the margin by which its lower bound is raised.
POWER_STEPS, POWER_MARGIN = 20, 1.1


@dataclass(frozen=True)
class Rule:
    """How lags are chosen.

    Attributes
    ----------
    n_lags : int or None
        How many are wanted; None is as many as the tests find.
    most : int
        The most that may be chosen, of each feature if each has lags of its own.
    alpha, threshold : float
        Level of all tests together, and what a chi-square statistic must exceed.
    max_iter, tol : int, float
        Limit and tolerance of iterations.
    """

    n_lags: int | None
    most: int
    alpha: float
    threshold: float
    max_iter: int
    tol: float

    @classmethod
    def of(cls, problem, *, n_lags, max_lags, alpha, max_iter, tol):
        """Spread the level over all tests, and leave rows to estimate noise from."""
        n_open = max(1, int(problem.is_open.sum()))
        degrees = problem.group_size
        if problem.metric is not None:
            degrees = int(torch.linalg.matrix_rank(problem.metric))
        most = max_lags if n_lags is None else n_lags
        rows = problem.n_rows - problem.has_intercept
        per_lag = problem.contexts.d
        return cls(
            n_lags,
            max(1, min(most, n_open, rows // (2 * max(1, per_lag)))),
            alpha,
            float(chi2.isf((1 - AHEAD_SHARE) * alpha / n_open, max(1, degrees))),
            max_iter,
            tol,
        )


def omp(problem, rule, watch):
    """Add the group with the largest statistic, refit, and go on with the residual.

    Where several groups matter, what the others explain hides each of them. So the
    search looks a few groups ahead, and takes them if all together pass a test that
    allows for every choice of as many.

    `watch(losses, coefficients)` is called after each step here and below, with a
    function that returns coefficients (h, d); True from it ends the search.
    """
    taken = moments = no_moments(problem)
    r = problem.residual(torch.zeros_like(problem.y))
    is_open, owners = problem.is_open.clone(), problem.owners
    counts = torch.zeros(int(owners.max()) + 1, dtype=torch.long, device=owners.device)
    n_open = int(is_open.sum())
    rss = moments.yy
    # below it, what is left is rounding, in which there is nothing to find
    rounding = torch.finfo(r.dtype).eps * moments.yy
    losses = [moments.yy / max(1, problem.n_rows)]
    while bool(is_open.any()):
        if rss <= rounding or len(moments.cross) >= moments.n_free:
            break
        scores = problem.statistic(r, len(moments.cross))
        scores[~is_open] = -torch.inf
        j = int(scores.argmax())
        is_sure = rule.n_lags is not None
        if not is_sure and moments is taken:
            is_sure = bool(scores[j] > rule.threshold)
            size, n_left = problem.group_size, moments.n_free - len(moments.cross)
            if not (is_sure or _might_pass(scores, size, n_left, n_open, rule.alpha)):
                break
        moments = add_groups(problem, moments, [j])
        coef = solve(moments.gram, moments.cross)
        r = problem.residual(_fitted(problem, moments.groups, coef))
        rss = float(in_double(r).square().sum())
        is_open[j] = False
        counts[owners[j]] += 1
        is_open &= counts[owners] < rule.most
        if is_sure or _pass_together(taken, moments, rss, n_open, rule.alpha):
            taken = moments
            losses.append(rss / problem.n_rows)
            if watch(losses, partial(_spread, problem, taken.groups, coef)):
                break
        elif len(moments.groups) - len(taken.groups) == LOOK_AHEAD:
            break
    return Solution(taken, len(losses), True, {"loss": losses})


def _pass_together(taken, moments, rss, n_open, alpha):
    """Test the groups beyond those taken: an F-test for the best of all choices."""
    k = len(moments.groups) - len(taken.groups)
    if k == 1:
        return False
    gain = taken.rss(solve(taken.gram, taken.cross)) - rss
    n_new = len(moments.cross) - len(taken.cross)
    n_left = moments.n_free - len(moments.cross)
    return gain > rss * _least_gain(k, n_new, n_left, n_open, alpha)


def _might_pass(scores, size, n_left, n_open, alpha):
    """Tell whether some of the largest could pass if they explained different things.

    Lags that correlate may explain more together than one by one: hence the slack.
    """
    largest = scores.topk(min(LOOK_AHEAD, len(scores))).values.clamp(min=0).tolist()
    for k in range(2, len(largest) + 1):
        gain = AHEAD_SLACK * sum(largest[:k]) / n_left  # of the residual's squares
        wanted = _least_gain(k, k * size, n_left - k * size, n_open, alpha)
        if gain > max(0.0, 1 - gain) * wanted:
            return True
    return False


def _least_gain(k, n_new, n_left, n_open, alpha):
    """Return what k of all groups must explain together, per square that they leave."""
    if n_left < 1 or k > n_open:
        return np.inf
    level = alpha * AHEAD_SHARE / (LOOK_AHEAD - 1) / comb(n_open, k)
    # a level too small for floats is one that nothing passes
    return n_new / n_left * f_law.isf(level, n_new, n_left)


def htp(problem, rule, watch):
    """Run hard-thresholding pursuit, for more and more lags unless told how many."""
    if rule.n_lags is not None:
        return _htp(problem, rule, rule.most, rule.max_iter, watch)
    n_iter, losses, n_each = 0, [], 2
    while True:
        n_each = min(n_each, rule.most)
        left = rule.max_iter - n_iter
        solution = _htp(problem, rule, n_each, left, watch, losses)
        n_iter += solution.n_iter
        losses = solution.history["loss"]
        kept = np.asarray(prune(solution.value, rule.threshold).groups, dtype=int)
        counts = np.bincount(problem.owners.cpu().numpy()[kept], minlength=1)
        # more do not help where some of these do not
        is_enough = counts.max() < n_each or n_each == rule.most
        if is_enough or not solution.converged:
            break
        if n_iter >= rule.max_iter:
            solution = replace(solution, converged=False)
            break
        n_each *= 2
    history = {"loss": losses}
    return Solution(solution.value, n_iter, solution.converged, history)


def _htp(problem, rule, n_each, max_iter, watch, earlier=()):
    """Step along the gradient, keep the largest groups, refit; until they repeat."""
    B = torch.zeros(problem.horizon, problem.contexts.d).to(problem.y)
    r = problem.residual(torch.zeros_like(problem.y))
    per_lag = problem.n_at_lag.clamp(min=1.0)
    weight = per_lag.repeat_interleave(problem.n_groups // problem.horizon)
    moments, losses, converged, seen = no_moments(problem), list(earlier), False, set()
    for _ in range(max_iter):
        B = B + problem.contexts.adjoint(r) / per_lag[:, None]
        sizes = problem.groups_of(B).square().sum(1) * weight
        chosen = _largest(problem, sizes, n_each)
        converged = chosen in seen  # it may also go round in a circle
        if converged:
            break
        seen.add(chosen)
        moments = add_groups(problem, no_moments(problem), chosen)
        coef = solve(moments.gram, moments.cross)
        B = _spread(problem, chosen, coef)
        r = problem.residual(_fitted(problem, chosen, coef))
        losses.append(float(in_double(r).square().sum()) / problem.n_rows)
        if watch(losses, partial(_spread, problem, chosen, coef)):
            converged = True  # whoever watches is content
            break
    n_iter = max(1, len(losses) - len(earlier))
    return Solution(moments, n_iter, converged, {"loss": losses})


def lasso(problem, rule, watch, *, grouped):
    """Keep the groups that the Lasso leaves other than zero, the largest if many."""
    solution = scaled_lasso(problem, rule, watch, grouped=grouped)
    B = solution.value
    per_lag = problem.n_at_lag.repeat_interleave(problem.n_groups // problem.horizon)
    sizes = problem.groups_of(B).square().sum(1) * per_lag
    chosen = _largest(problem, sizes, rule.most)
    # zeros are not chosen, however few others there are
    chosen = tuple(g for g in chosen if sizes[g] > 0)
    moments = add_groups(problem, no_moments(problem), chosen)
    return Solution(moments, solution.n_iter, solution.converged, solution.history)


def scaled_lasso(problem, rule, watch, *, grouped):
    """Solve the Lasso for a penalty that fits the noise it leaves (Sun and Zhang)."""
    p, n = problem.horizon * problem.contexts.d, max(1, problem.n_rows)
    if grouped:
        size = problem.contexts.d
        level = (np.sqrt(size) + np.sqrt(2 * np.log(max(2, problem.horizon)))) / n**0.5
    else:
        level = np.sqrt(2 * np.log(max(2, p)) / n)
    rows = max(1, n - problem.has_intercept)
    sigma = float(in_double(problem.y).square().sum() / rows) ** 0.5
    B, n_iter, losses, converged = None, 0, [], True
    for _ in range(NOISE_ROUNDS):
        solution = proximal_descent(
            problem,
            PENALTY_SCALE * sigma * level,
            grouped=grouped,
            start=B,
            max_iter=rule.max_iter - n_iter,
            tol=rule.tol,
            watch=lambda later, B: watch(losses + later, B),  # noqa: B023 - at once
        )
        B, converged = solution.value, solution.converged
        n_iter += solution.n_iter
        losses += solution.history["loss"]
        if solution.history["stopped"]:
            break
        r = problem.residual(problem.contexts.forward(B))
        used = int((B != 0).sum())
        left = max(rows - used, rows // 2, 1)
        before, sigma = sigma, float(in_double(r).square().sum() / left) ** 0.5
        if not converged or abs(sigma - before) <= NOISE_TOL * before:
            break
        if n_iter >= rule.max_iter:
            converged = False
            break
    return Solution(B, n_iter, converged, {"loss": losses})


def proximal_descent(
    problem, penalty, *, grouped, start=None, max_iter, tol, watch=lambda *_: False
):
    """Minimise 1/(2n) ||y - Xi B||^2 + penalty * ||B|| by FISTA with restarts."""
    contexts, n = problem.contexts, max(1, problem.n_rows)
    B = torch.zeros(contexts.horizon, contexts.d).to(problem.y)
    B = B if start is None else start
    shrink = _shrink_lags if grouped else _shrink_entries
    norm = _norm_of_lags if grouped else _norm_of_entries
    lipschitz = POWER_MARGIN * _largest_eigenvalue(problem) / n
    if lipschitz == 0:
        return Solution(B, 1, True, {"loss": [0.0], "stopped": False})
    XB = contexts.forward(B)
    V, XV, momentum = B, XB, 1.0
    losses = [_half_mean_square(problem, XB) + penalty * float(norm(B))]
    converged = stopped = False
    for _ in range(max_iter):
        r = problem.residual(XV)
        gradient = -contexts.adjoint(r) / n
        while True:
            after = shrink(V - gradient / lipschitz, penalty / lipschitz)
            X_after = contexts.forward(after)
            step = after - V
            bound = float(r.square().sum()) / (2 * n) + float((gradient * step).sum())
            bound += lipschitz / 2 * float(step.square().sum())
            smooth = _half_mean_square(problem, X_after)
            if not smooth > bound + _slack(problem) * losses[0]:
                break
            lipschitz *= 2.0  # the power method had found too little
        losses.append(smooth + penalty * float(norm(after)))
        change = float((after - B).abs().max())
        # against the momentum, it would climb: begin anew (O'Donoghue and Candes)
        if float(((V - after) * (after - B)).sum()) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = (momentum - 1) / following
        V, XV = after + ahead * (after - B), X_after + ahead * (X_after - XB)
        B, XB, momentum = after, X_after, following
        stopped = bool(watch(losses[1:], lambda B=B: B))
        converged = stopped or change <= tol * float(B.abs().max())
        if converged:
            break
    history = {"loss": losses[1:], "stopped": stopped}
    return Solution(B, len(losses) - 1, converged, history)


def least_squares_statistics(problem, moments, coef):
    """Return chi-square statistics of all groups: Wald's for those that are chosen."""
    r = problem.residual(_fitted(problem, moments.groups, coef))
    rss = float(in_double(r).square().sum())
    variance = rss / max(1, moments.n_free - len(coef))
    variance = max(variance, np.finfo(float).tiny)
    scores = as_array(problem.statistic(r, len(coef)))
    scores[~problem.is_open.cpu().numpy()] = np.nan
    if moments.groups:
        scores[list(moments.groups)] = wald(moments)[2] / variance
    return scores


def _fitted(problem, groups, coef):
    """Return the sum of chosen columns at every place."""
    if not groups:
        return torch.zeros_like(problem.y)
    coef = torch.as_tensor(coef).to(problem.y)
    return problem.contexts.combine(problem.pairs(groups), coef)


def _spread(problem, groups, coef):
    """Return coefficients of chosen groups among zeros, (h, d)."""
    B = torch.zeros(problem.n_groups, problem.group_size).to(problem.y)
    B[list(groups)] = torch.as_tensor(coef).to(B).reshape(len(groups), -1)
    return B.reshape(problem.horizon, problem.contexts.d)


def _largest(problem, sizes, n_each):
    """Return the largest open groups, so many of each owner, sorted."""
    sizes = sizes.masked_fill(~problem.is_open, -1.0)
    n_owners = int(problem.owners.max()) + 1
    table = sizes.reshape(-1, n_owners)  # (h, n_owners): owners take turns
    top = table.topk(min(n_each, len(table)), dim=0)
    groups = top.indices * n_owners + torch.arange(n_owners, device=sizes.device)
    return tuple(sorted(groups[top.values >= 0].tolist()))


def _largest_eigenvalue(problem):
    """Return that of Xi' Xi over the rows that count, from below."""
    contexts = problem.contexts
    B = torch.ones(contexts.horizon, contexts.d).to(problem.y)
    # not orthogonal to the largest direction, whatever it is, and the same every time
    B = B + torch.linspace(0, 1, B.numel()).reshape(B.shape).to(B).mul(37.0).sin()
    value = 0.0
    for _ in range(POWER_STEPS):
        B = B / torch.linalg.vector_norm(B)
        B = contexts.adjoint(problem.counted * contexts.forward(B))
        value = float(torch.linalg.vector_norm(B))
        if value == 0:
            break
    return value


def _half_mean_square(problem, y_hat):
    r = problem.residual(y_hat)
    return float(r.square().sum()) / (2 * max(1, problem.n_rows))


def _slack(problem):
    return 100 * torch.finfo(problem.y.dtype).eps


def _shrink_entries(B, by):
    return B.sign() * (B.abs() - by).clamp(min=0.0)


def _shrink_lags(B, by):
    size = B.square().sum(1, keepdim=True).sqrt()
    return B * (1 - by / size.clamp(min=torch.finfo(B.dtype).tiny)).clamp(min=0.0)


def _norm_of_entries(B):
    return B.abs().sum()


def _norm_of_lags(B):
    return B.square().sum(1).sqrt().sum()
