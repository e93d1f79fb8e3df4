"""From rounds to a pattern: choose lags, least squares on them, rank one  (2302.00814).

phi = w (x) theta  has  s + d - 1  unknowns instead of  s d,  and its error is
sigma sqrt((s + d - 1) / T)  instead of  sigma sqrt(s d / T)
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .._solution import Solution
from ._dependence_pattern import DependencePattern
from ._lagged import as_array, in_double
from ._lagged_problem import LaggedProblem, second_moment
from ._select_lags import (
    Rule,
    htp,
    lasso,
    least_squares_statistics,
    omp,
    scaled_lasso,
)
from ._support_fit import (
    Moments,
    add_groups,
    no_moments,
    prune,
    rank_one,
    solve,
    wald,
)

# Solvers whose penalty sees single features, so that they are scaled and not rotated.
BY_ENTRY = ("lasso", "quarters")


@dataclass(frozen=True)
class Recipe:
    """How a pattern is found; the estimator's docstring says what each means."""

    solver: str
    n_lags: int | None
    alpha: float
    max_lags: int
    rank_one: bool
    nonneg: bool
    prewhiten: int
    has_intercept: bool
    chunk_size: int | None
    max_iter: int
    tol: float


@dataclass(frozen=True)
class Recovered:
    """A pattern, and what is known of it.

    Attributes
    ----------
    pattern : DependencePattern
        The pattern.
    theta_cov : ndarray of shape (d, d)
        Covariance of its direction.
    x_mean : ndarray of shape (d,)
        Mean of the contexts.
    mean_reward : float
        Expected reward if all contexts are like it.
    noise_std : float
        Standard deviation of what is left; NaN if no row is left to tell.
    scores : ndarray of shape (h,)
        Chi-square statistic of each lag; NaN where it was not tested.
    threshold : float
        What they had to exceed.
    fitted : ndarray of shape (n,)
        Expected reward at every place.
    """

    pattern: DependencePattern
    theta_cov: np.ndarray
    x_mean: np.ndarray
    mean_reward: float
    noise_std: float
    scores: np.ndarray
    threshold: float
    fitted: np.ndarray


def recover_pattern(series, horizon, recipe, on_iteration=lambda *_: False):
    """Find the pattern by which rewards depend on contexts: `value` is `Recovered`.

    `on_iteration(losses, so_far)` is called after each step; `so_far()` is what has
    been found, and True ends the search.
    """
    if not (second_moment(series).any() and series.counted.any()):
        nothing = _nothing(series, horizon, by_feature=not recipe.rank_one)
        return Solution(nothing, 1, True, {"loss": [0.0]})
    problem = _problem(series, horizon, recipe)

    def watch(searched, losses, coefficients):
        def so_far():  # in the units of the problem that is searched
            B = as_array(coefficients())
            pattern = _pattern(searched, B)
            return _describe(series, problem, pattern, np.count_nonzero(B))

        return on_iteration(losses, so_far)

    if recipe.solver == "quarters":
        return _by_lasso_alone(series, problem, recipe, watch)
    choice = _choose(series, problem, recipe, watch)
    if series.is_far_from_nothing():
        # steps at the start may pass for lags: later rewards may choose better
        n_lags = max(1, min(horizon, series.longest // 2))
        later = series.with_past(n_lags)
        alone = replace(later, before=None)
        other = _choose(alone, _problem(alone, n_lags, recipe), recipe, _nobody)
        # a ramp is in no pattern: the rows where it is over are the judges
        judge = _problem(later, horizon, recipe) if series.has_ramp else problem
        choice = min((choice, other), key=lambda each: _criterion(judge, each))
    tested, moments = choice.problem, choice.moments
    coef = solve(moments.gram, moments.cross)
    scores = least_squares_statistics(tested, moments, coef)
    groups = sorted(moments.groups)
    if series.has_ramp and groups:
        settled = series.with_past(1 + int(problem.lags_of(groups).max()))
        if settled.counted.sum() > 2 * len(moments.cross):
            series, problem = settled, _problem(settled, horizon, recipe)
    if tested is problem:
        moments = moments.keep(np.argsort(moments.groups))
    else:
        moments = add_groups(problem, no_moments(problem), groups)
    coef = solve(moments.gram, moments.cross)
    # to contexts as they came, up to a factor, which a direction does not have
    units = problem.units / (series.x_scale / series.x_scale.min())[:, None]
    if recipe.rank_one and groups:
        answer = rank_one(moments, coef, nonneg=recipe.nonneg)
        coef = np.outer(answer.w, answer.theta).ravel()
        n_coef = len(answer.w) + len(answer.theta) - 1
        theta, covariance = units @ answer.theta, units @ answer.covariance @ units.T
    else:
        n_coef = len(coef)
        theta, covariance = _total(problem, units, moments, coef)
    B = np.zeros((problem.n_groups, problem.group_size))
    B[groups] = coef.reshape(len(groups), problem.group_size)
    found = _describe(
        series,
        problem,
        _pattern(problem, B.reshape(horizon, -1)),
        n_coef,
        _direction_cov(theta, covariance),
        _by_lag(tested, scores, horizon),
        choice.threshold,
    )
    search = choice.search
    history = search.history | {"is_filtered": choice.is_filtered}
    return Solution(found, search.n_iter, search.converged, history)


@dataclass(frozen=True)
class Choice:
    """Groups that were chosen, and what they were chosen by.

    Attributes
    ----------
    problem : LaggedProblem
        The rows, filtered if they were to be.
    moments : Moments
        What is known of the groups.
    search : Solution
        How they were found.
    threshold : float
        What a statistic had to exceed.
    is_filtered : bool
        Whether there were rows enough for a filter that was asked for.
    """

    problem: LaggedProblem
    moments: Moments
    search: Solution
    threshold: float
    is_filtered: bool


def _problem(series, horizon, recipe):
    return LaggedProblem.of(
        series,
        horizon,
        white=recipe.rank_one and recipe.solver not in BY_ENTRY,
        by_feature=not recipe.rank_one,
        has_intercept=recipe.has_intercept,
        chunk_size=recipe.chunk_size,
    )


def _rule(problem, recipe):
    return Rule.of(
        problem,
        n_lags=recipe.n_lags,
        max_lags=recipe.max_lags,
        alpha=recipe.alpha,
        max_iter=recipe.max_iter,
        tol=recipe.tol,
    )


def _choose(series, problem, recipe, watch):
    """Choose groups by the rows of a series, filtered if they are to be."""
    is_filtered = True
    if recipe.prewhiten:
        filtered = series.whitened(recipe.prewhiten)
        is_filtered = bool(filtered.counted.sum() > series.counted.sum() / 2)
        if is_filtered:
            problem = _problem(filtered, problem.horizon, recipe)
    rule, watch = _rule(problem, recipe), partial(watch, problem)
    if recipe.solver == "omp":
        search = omp(problem, rule, watch)
    elif recipe.solver == "htp":
        search = htp(problem, rule, watch)
    else:
        grouped = recipe.solver == "group_lasso"
        search = lasso(problem, rule, watch, grouped=grouped)
    moments = search.value
    if recipe.n_lags is None:
        moments = prune(moments, rule.threshold)
    return Choice(problem, moments, search, rule.threshold, is_filtered)


def _criterion(problem, choice):
    """Return Schwarz's criterion of the groups, by the rows of a problem."""
    moments = add_groups(problem, no_moments(problem), choice.moments.groups)
    rss = moments.rss(solve(moments.gram, moments.cross))
    n = problem.n_rows
    tiny = np.finfo(float).tiny
    return n * np.log(max(rss, tiny) / n) + len(moments.cross) * np.log(n)


def _nobody(searched, losses, coefficients):
    """Watch a search without an interest in it."""
    return False


def _by_lasso_alone(series, problem, recipe, watch):
    """Take the pattern from the Lasso's coefficients, as the paper's algorithm does.

    Its "Approach 1": theta is the leading right singular vector of the coefficients.
    """
    rule = _rule(problem, recipe)
    solution = scaled_lasso(problem, rule, partial(watch, problem), grouped=False)
    B = as_array(solution.value)
    n_coef = np.count_nonzero(B)
    r = problem.residual(problem.contexts.forward(solution.value))
    scores = as_array(problem.statistic(r, n_coef))
    if recipe.n_lags is not None:
        sizes = np.square(B)
        sizes = sizes.sum(1, keepdims=True) if recipe.rank_one else sizes
        B = np.where(sizes >= np.sort(sizes, axis=0)[-recipe.n_lags], B, 0.0)
    pattern = _pattern(problem, B)
    if recipe.rank_one and len(pattern.support):
        # in the units of the data, for which the length of theta is meant
        blocks = pattern.blocks / series.x_scale
        theta = np.linalg.svd(blocks / np.abs(blocks).max(), full_matrices=False)[2][0]
        blocks = np.outer(blocks @ theta, theta) * series.x_scale
        pattern = DependencePattern(pattern.support, blocks, pattern.horizon)
    found = _describe(
        series,
        problem,
        pattern,
        n_coef,
        scores=_by_lag(problem, scores, problem.horizon),
        threshold=rule.threshold,
    )
    return Solution(found, solution.n_iter, solution.converged, solution.history)


def _pattern(problem, B):
    """Return coefficients (h, r) in the units of the series."""
    phi = B @ problem.units.T  # (h, d)
    support = np.flatnonzero(phi.any(axis=1))
    return DependencePattern(support, phi[support], problem.horizon)


def _describe(
    series, problem, pattern, n_coef, theta_cov=None, scores=None, threshold=np.nan
):
    """Return a pattern of the series in the units of the data, with what it leaves.

    `theta_cov` is for noise of variance one in the series.
    """
    fitted = pattern.rewards(as_array(series.x))
    left = (as_array(series.y) - fitted) * as_array(series.counted)
    intercept = left.sum() / problem.n_rows if problem.has_intercept else 0.0
    rss = float(np.square(left - intercept * as_array(series.counted)).sum())
    n_free = problem.n_rows - problem.has_intercept - n_coef
    variance = rss / n_free if n_free > 0 else np.nan
    d = pattern.n_features
    unknown = np.full((d, d), np.nan)
    shape = (problem.horizon, d) if problem.by_feature else problem.horizon
    blocks = pattern.blocks / series.x_scale * series.y_scale
    return Recovered(
        DependencePattern(pattern.support, blocks, pattern.horizon),
        unknown if theta_cov is None else theta_cov * variance,
        series.x_mean,
        float(series.y_mean + intercept * series.y_scale),
        float(np.sqrt(variance) * series.y_scale),
        np.full(shape, np.nan) if scores is None else scores,
        threshold,
        (fitted + intercept) * series.y_scale + series.y_mean,
    )


def _nothing(series, horizon, by_feature):
    """Return the pattern of contexts that do not vary, or of no reward at all."""
    d, n = len(series.x_mean), float(series.counted.sum())
    pattern = DependencePattern(np.zeros(0, dtype=int), np.zeros((0, d)), horizon)
    rss = float(in_double(series.y).square().sum())
    return Recovered(
        pattern,
        np.full((d, d), np.nan),
        series.x_mean,
        series.y_mean,
        float(np.sqrt(rss / (n - 1)) * series.y_scale) if n > 1 else np.nan,
        np.full((horizon, d) if by_feature else horizon, np.nan),
        np.nan,
        np.full(len(series.y), series.y_mean),
    )


def _total(problem, units, moments, coef):
    """Return the sum of all blocks, and its covariance for noise of variance one."""
    _, features = problem.pairs(moments.groups)
    units = units[:, features.cpu().numpy()]  # (d, c)
    if len(coef) == 0:
        return np.zeros(len(units)), np.zeros((len(units), len(units)))
    return units @ coef, units @ wald(moments)[1] @ units.T


def _direction_cov(vector, covariance):
    """Return the covariance of a vector's direction, from that of the vector."""
    largest = np.abs(vector).max(initial=0.0)
    if largest == 0:
        return np.full_like(covariance, np.nan)
    vector, covariance = vector / largest, covariance / largest / largest
    length = np.linalg.norm(vector)
    across = np.eye(len(vector)) - np.outer(vector, vector) / length**2
    return across @ covariance @ across / length**2


def _by_lag(problem, scores, horizon):
    """Return statistics as (h,), or as (h, d) if each feature has lags of its own."""
    n_features = len(problem.units) if problem.by_feature else 1
    table = np.full((horizon, n_features), np.nan)
    varying = np.flatnonzero(problem.units.any(axis=1)) if problem.by_feature else [0]
    table[: problem.horizon, varying] = scores.reshape(problem.horizon, -1)
    return table if problem.by_feature else table[:, 0]
