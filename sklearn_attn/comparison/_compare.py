"""Cross-validate every candidate on the same folds, fold by fold."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv, cross_validate
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel, delayed

from ._comparison_result import ComparisonResult
from ._peak_memory import peak_memory_of_fits
from ._progress_bars import progress_bars


def compare(
    candidates: Mapping[str, Any],
    X: Any,
    y: Any = None,
    *,
    cv: Any = None,
    scoring: Any = None,
    groups: Any = None,
    params: Mapping[str, Any] | None = None,
    baseline: str | None = None,
    n_jobs: int | None = None,
    measure_memory: bool = False,
    return_estimators: bool = False,
    progress: bool | Literal["auto"] = "auto",
) -> ComparisonResult:
    """Cross-validate several estimators on the same folds and test the differences.

    Parameters
    ----------
    candidates : mapping of str to estimator
        What to compare: estimators, pipelines, searches. They are cloned, never
        fitted themselves.
    X : array-like of n_samples entries
        The data, in any form that :func:`sklearn.model_selection.cross_validate` can
        split: rows, 3-D arrays, data frames, lists of sequences.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        The targets.
    cv : int, splitter or iterable, default=None
        The folds, as in :func:`sklearn.model_selection.cross_validate`; stratified if
        any candidate is a classifier. They are drawn once, for all candidates.
    scoring : str, callable, list, tuple, set or dict, default=None
        One metric or several, as in :func:`sklearn.model_selection.cross_validate`.
        By default each candidate's own ``score``.
    groups : array-like of shape (n_samples,), default=None
        Groups for the splitter.
    params : mapping of str to object, default=None
        Passed to every ``fit``; what has one entry per sample is split with the folds.
        With metadata routing enabled it goes wherever it is requested.
    baseline : str, default=None
        The candidate that the others are tested against; the first one by default.
    n_jobs : int, default=None
        Number of fits that run at once. Times are comparable among candidates, but
        longer than those of a fit that has the machine to itself.
    measure_memory : bool, default=False
        Whether to measure the peak memory, by one more fit of every candidate: on all
        samples, in a fresh process each, one after another. The number is how far this
        fit pushes the resident set of that process beyond its peak before, in MiB,
        once data and estimator are loaded. It counts what Python, numpy and torch
        take on the CPU, and libraries that ``fit`` imports; not a GPU's memory. What
        runs in parallel inside the candidate runs in sequence here. Linux and macOS;
        NaN elsewhere.
    return_estimators : bool, default=False
        Whether to keep the fitted estimators.
    progress : bool or "auto", default="auto"
        Whether to draw a progress bar per candidate, on standard error. ``"auto"``
        draws it if standard error is a terminal and rich is installed. Switch it off
        if the candidates draw their own.

    Returns
    -------
    ComparisonResult
        Scores, times and errors, with methods for the test and the table.

    Raises
    ------
    TypeError
        If `candidates` is no mapping of names to estimators, or if a candidate cannot
        be scored.
    ValueError
        If there is no candidate or no fold, if `baseline` or `scoring` is unknown, or
        if all candidates failed on all folds.

    Warns
    -----
    FitFailedWarning
        For each candidate that fails on any fold. Its other folds and the other
        candidates go on; its mean and its test are NaN, as the folds that are left
        are not those of the others.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.model_selection import GridSearchCV, ShuffleSplit
    >>> from sklearn.svm import SVC
    >>> from sklearn_attn.comparison import compare
    >>> X, y = load_iris(return_X_y=True)
    >>> result = compare(
    ...     {"none": DummyClassifier(), "tuned": GridSearchCV(SVC(), {"C": [1, 10]})},
    ...     X,
    ...     y,
    ...     cv=ShuffleSplit(10, random_state=0),
    ...     scoring="balanced_accuracy",
    ... )
    >>> frame = result.to_frame()
    >>> round(float(frame.loc["none", "mean"]), 2)
    0.33
    >>> bool(frame.loc["tuned", "ci_low"] > 0.5)
    True
    """
    baseline = _check_candidates(candidates, baseline)
    for estimator in candidates.values():
        # a misspelt metric is a mistake of the caller, not a failure of a candidate
        check_scoring(estimator, scoring)
    X, y, groups = indexable(X, y, groups)
    classifier = any(is_classifier(estimator) for estimator in candidates.values())
    folds = list(check_cv(cv, y, classifier=classifier).split(X, y, groups))
    if not folds:
        raise ValueError("cv yields no fold")
    params = {} if params is None else dict(params)

    grid: dict[str, list] = {name: [None] * len(folds) for name in candidates}
    peak_memory = dict.fromkeys(candidates, np.nan)
    with progress_bars(candidates, len(folds) + measure_memory, progress) as advance:
        for outcome in _cross_validate(
            candidates,
            X,
            y,
            folds,
            n_jobs,
            scoring=scoring,
            params=params,
            return_estimator=return_estimators,
        ):
            grid[outcome.name][outcome.fold] = outcome
            advance(outcome.name, failed=outcome.error is not None)
        errors = _report_failures(grid, baseline)
        if measure_memory:
            healthy = {k: v for k, v in candidates.items() if k not in errors}
            for name, peak in peak_memory_of_fits(healthy, X, y, params):
                peak_memory[name] = peak
                advance(name)

    def table(key):
        rows = grid.values()
        return np.array([[o.values.get(key, np.nan) for o in row] for row in rows])

    found = next(o.values for row in grid.values() for o in row if o.error is None)
    estimators = None
    if return_estimators:
        estimators = {
            name: [outcome.values.get("estimator") for outcome in row]
            for name, row in grid.items()
        }
    return ComparisonResult(
        names=tuple(candidates),
        baseline=baseline,
        scores={
            _metric_name(key, scoring): table(key)
            for key in found
            if key.startswith("test_")
        },
        fit_times=table("fit_time"),
        score_times=table("score_time"),
        peak_memory=np.array(list(peak_memory.values())),
        errors=errors,
        train_sizes=np.array([_size(train) for train, _ in folds]),
        test_sizes=np.array([_size(test) for _, test in folds]),
        estimators=estimators,
    )


def _check_candidates(candidates, baseline):
    """Refuse what is no mapping of names to estimators; return the baseline's name."""
    if not isinstance(candidates, Mapping):
        raise TypeError(
            "candidates must be a mapping of name to estimator, "
            f"got {type(candidates).__name__}"
        )
    if not candidates:
        raise ValueError("candidates is empty: there is nothing to compare")
    for name, estimator in candidates.items():
        if not isinstance(name, str):
            raise TypeError(f"names of candidates must be strings, got {name!r}")
        has_methods = hasattr(estimator, "fit") and hasattr(estimator, "get_params")
        if isinstance(estimator, type) or not has_methods:
            raise TypeError(
                f"candidate {name!r} must be an instance of an estimator, with fit and "
                f"get_params, got {estimator!r}"
            )
    if baseline is None:
        return next(iter(candidates))
    if baseline not in candidates:
        raise ValueError(f"baseline {baseline!r} is not one of {list(candidates)}")
    return baseline


class _Outcome(NamedTuple):
    """What one candidate did on one fold."""

    name: str
    fold: int
    values: dict
    error: str | None = None


def _cross_validate(candidates, X, y, folds, n_jobs, **options) -> Iterator[_Outcome]:
    """Yield outcomes as they come, each candidate's first fold before any second.

    Fold by fold, so that a machine that slows down slows all candidates alike.
    """
    jobs = (
        delayed(_cross_validate_fold)(name, fold, estimator, X, y, split, options)
        for fold, split in enumerate(folds)
        for name, estimator in candidates.items()
    )
    return Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs)


def _cross_validate_fold(name, fold, estimator, X, y, split, options):
    """Fit and score on one fold; an error is an outcome like any other."""
    try:
        results = cross_validate(
            estimator, X, y, cv=[split], error_score="raise", **options
        )
    except Exception as error:
        return _Outcome(name, fold, {}, f"{type(error).__name__}: {error}")
    return _Outcome(name, fold, {key: value[0] for key, value in results.items()})


def _report_failures(grid, baseline):
    """Warn of each candidate that failed; return its first error by name."""
    errors = {}
    for name, row in grid.items():
        if failed := [outcome.error for outcome in row if outcome.error is not None]:
            errors[name] = f"{failed[0]} ({len(failed)} of {len(row)} folds)"
    if all(outcome.error is not None for row in grid.values() for outcome in row):
        lines = (f"- {name!r}: {error}" for name, error in errors.items())
        raise ValueError("\n".join(["all candidates failed", *lines]))
    for name, error in errors.items():
        untested = "; it is the baseline, so nothing is tested" * (name == baseline)
        warnings.warn(
            f"candidate {name!r} failed: {error}{untested}",
            FitFailedWarning,
            stacklevel=3,  # the caller of compare
        )
    return errors


def _metric_name(key, scoring):
    """Name a column of `cross_validate`, which calls any single metric test_score."""
    return scoring if isinstance(scoring, str) else key.removeprefix("test_")


def _size(part):
    """Count the samples of one side of a split: indices, or a boolean mask."""
    part = np.asarray(part)
    return np.count_nonzero(part) if part.dtype == bool else len(part)
