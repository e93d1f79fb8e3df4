"""Compare estimators on the same folds, by the test that knows that folds overlap.

    t = mean(d) / sqrt((1/J + n_test/n_train) var(d)),    d_j = score_j - baseline_j

is read against Student's t with J - 1 degrees of freedom: the corrected resampled
t-test of Nadeau and Bengio, "Inference for the generalization error", Machine
Learning 52 (2003). The usual 1/J alone takes the J training sets for independent;
they share most of their samples, and that test finds differences that are not there.
"""

import html
import math
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import joblib
import numpy as np
from joblib.externals.loky import ProcessPoolExecutor
from scipy import stats
from sklearn import config_context, get_config
from sklearn.base import clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv, cross_validate
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel, delayed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["ComparisonDisplay", "ComparisonResult", "compare"]

KIB_PER_MIB = 2**10
BYTES_PER_MIB = 2**20

# Below this Holm-adjusted p-value the picture colours a candidate better or worse.
SIGNIFICANCE = 0.05
# Okabe and Ito's palette: told apart by colour-blind readers too.
BETTER = f"better (p < {SIGNIFICANCE})"
WORSE = f"worse (p < {SIGNIFICANCE})"
UNCLEAR = "no clear difference"
COLORS = {"baseline": "black", BETTER: "#0072B2", WORSE: "#D55E00", UNCLEAR: "#757575"}
UNITS = {"h": 3600, "min": 60, "s": 1, "ms": 1e-3, "µs": 1e-6}
SMALLEST_P = 0.001  # smaller ones are written as such
# Characters that fit beside and inside the axes.
NAME_WIDTH = 28
ERROR_WIDTH = 56


class CorrectedTTest(NamedTuple):
    """One candidate against the baseline; `p_value_holm` accounts for the others."""

    difference: float
    ci_low: float
    ci_high: float
    statistic: float
    p_value: float
    p_value_holm: float


NO_TEST = CorrectedTTest(*[math.nan] * len(CorrectedTTest._fields))


def _corrected_t_test(differences, test_train_ratio, confidence_level):
    """Test that the mean of J fold-wise differences is 0, two-sided."""
    n_folds = len(differences)
    mean = np.mean(differences)
    if n_folds < 2:  # one fold has no spread to judge the difference by
        return NO_TEST._replace(difference=mean)
    if np.all(differences == differences[0]):
        # exactly, as rounding in the mean would leave a variance of 1e-34
        mean, standard_error = differences[0], 0.0
        statistic = math.copysign(math.inf, mean) if mean else 0.0
    else:
        variance = np.var(differences, ddof=1)
        standard_error = np.sqrt((1 / n_folds + test_train_ratio) * variance)
        statistic = mean / standard_error
    student = stats.t(df=n_folds - 1)
    p_value = 2 * student.sf(abs(statistic))
    half_width = student.isf((1 - confidence_level) / 2) * standard_error
    return CorrectedTTest(
        *map(float, (mean, mean - half_width, mean + half_width)),
        statistic=float(statistic),
        p_value=float(p_value),
        p_value_holm=float(p_value),  # as long as it is the only test
    )


def _holm(p_values):
    """Adjust p-values for their number (Holm 1979); NaN stays NaN and does not count.

    The k-th smallest of m is multiplied by m - k + 1 and kept in order.
    """
    order = np.argsort(p_values)  # NaN last
    n_tests = np.count_nonzero(~np.isnan(p_values))
    stepped = (n_tests - np.arange(len(p_values))) * p_values[order]
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return adjusted


@dataclass(frozen=True, repr=False, eq=False)
class ComparisonResult:
    """Scores, times and tests of several candidates on the same folds.

    Returned by :func:`compare`. Rows are candidates in the order given, columns are
    folds; what failed is NaN.

    Parameters
    ----------
    names : tuple of str
        The candidates.
    baseline : str
        The candidate that the others are tested against.
    scores : dict of str to ndarray of shape (n_candidates, n_folds)
        One entry per metric. A metric that has no name is called ``"score"``.
    fit_times : ndarray of shape (n_candidates, n_folds)
        Seconds to fit.
    score_times : ndarray of shape (n_candidates, n_folds)
        Seconds to predict and score.
    peak_memory : ndarray of shape (n_candidates,)
        What one fit adds to the peak resident memory of a fresh process, in MiB; see
        :func:`compare`. NaN where it was not measured.
    errors : dict of str to str
        The first error of each candidate that failed, and on how many folds.
    train_sizes : ndarray of shape (n_folds,)
        Training samples of each fold.
    test_sizes : ndarray of shape (n_folds,)
        Test samples of each fold.
    estimators : dict of str to list, default=None
        The fitted estimators of each candidate, one per fold, None where the fold
        failed; only with ``return_estimators=True``.

    See Also
    --------
    compare : Run a comparison.
    ComparisonDisplay : Draw a comparison.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_attn.comparison import compare
    >>> X, y = load_iris(return_X_y=True)
    >>> candidates = {
    ...     "majority": DummyClassifier(),
    ...     "logistic": LogisticRegression(max_iter=1000),
    ... }
    >>> result = compare(candidates, X, y)
    >>> result.scores["score"].shape
    (2, 5)
    >>> bool(result.test()["logistic"].p_value < 0.001)
    True
    """

    names: tuple[str, ...]
    baseline: str
    scores: dict[str, np.ndarray]
    fit_times: np.ndarray
    score_times: np.ndarray
    peak_memory: np.ndarray
    errors: dict[str, str]
    train_sizes: np.ndarray
    test_sizes: np.ndarray
    estimators: dict[str, list] | None = None

    def test(
        self, metric: str | None = None, *, confidence_level: float = 0.95
    ) -> dict[str, CorrectedTTest]:
        """Test every candidate against the baseline, fold by fold.

        The corrected resampled t-test of Nadeau and Bengio (2003), two-sided. It was
        derived for random splits (`ShuffleSplit`); for K folds it is the customary
        approximation. Few folds leave it little power: ten or more are better.

        Parameters
        ----------
        metric : str, default=None
            The metric to test; the first one by default.
        confidence_level : float, default=0.95
            Coverage of the confidence interval of the mean difference.

        Returns
        -------
        dict of str to CorrectedTTest
            For each candidate but the baseline a named tuple: ``difference`` of the
            mean scores, its confidence interval ``ci_low`` to ``ci_high``,
            ``statistic``, ``p_value``, and ``p_value_holm``, adjusted for the number
            of candidates. With fewer than two folds, or where the candidate or the
            baseline failed on any fold, there is no test: NaN.

        Raises
        ------
        ValueError
            If `metric` was not scored.
        """
        scores = self.scores[self._metric(metric)]
        baseline = scores[self.names.index(self.baseline)]
        ratio = self.test_sizes.mean() / self.train_sizes.mean()
        tests = {
            name: _corrected_t_test(row - baseline, ratio, confidence_level)
            for name, row in zip(self.names, scores)
            if name != self.baseline
        }
        adjusted = _holm(np.array([test.p_value for test in tests.values()]))
        return {
            name: test._replace(p_value_holm=float(p))
            for (name, test), p in zip(tests.items(), adjusted)
        }

    def to_frame(
        self, metric: str | None = None, *, confidence_level: float = 0.95
    ) -> "pd.DataFrame":
        """Tabulate the comparison, one row per candidate in the order given.

        Parameters
        ----------
        metric : str, default=None
            The metric to show; the first one by default.
        confidence_level : float, default=0.95
            Coverage of the confidence interval of the mean difference.

        Returns
        -------
        pandas.DataFrame
            Columns: ``mean`` and ``std`` of the scores over the folds;
            ``difference`` to the baseline, ``ci_low``, ``ci_high``, ``p_value`` and
            ``p_value_holm`` as in :meth:`test`; ``fit_time`` and ``score_time``,
            medians over the folds in seconds, so that what only the first fit does
            (imports, starting threads) does not count; ``peak_memory`` in MiB;
            ``error``, empty where all went well.

        Raises
        ------
        ValueError
            If `metric` was not scored.
        """
        import pandas as pd

        columns = self._columns(self._metric(metric), confidence_level)
        return pd.DataFrame(columns, index=pd.Index(self.names, name="candidate"))

    def _metric(self, metric):
        """Return the name of a scored metric."""
        if metric is None:
            return next(iter(self.scores))
        if metric not in self.scores:
            raise ValueError(f"metric {metric!r} is not one of {list(self.scores)}")
        return metric

    def _columns(self, metric, confidence_level):
        """Return the table of one metric, column by column."""
        tests = self.test(metric, confidence_level=confidence_level)
        rows = [tests.get(name, NO_TEST) for name in self.names]
        shown = ("difference", "ci_low", "ci_high", "p_value", "p_value_holm")
        return {
            "mean": self.scores[metric].mean(axis=1),
            "std": self.scores[metric].std(axis=1),
            **{column: [getattr(row, column) for row in rows] for column in shown},
            "fit_time": np.median(self.fit_times, axis=1),
            "score_time": np.median(self.score_times, axis=1),
            "peak_memory": self.peak_memory,
            "error": [self.errors.get(name, "") for name in self.names],
        }

    def _cells(self):
        """Return the first metric's table as text: a header, then the rows."""
        metric = self._metric(None)
        columns = self._columns(metric, confidence_level=0.95)
        titles = {
            "mean": metric,
            "std": "std",
            "difference": "difference",
            "p_value": "p",
            "p_value_holm": "p (Holm)",
            "fit_time": "fit [s]",
            "score_time": "score [s]",
        }
        if not np.isnan(self.peak_memory).all():
            titles["peak_memory"] = "peak [MiB]"
        if self.errors:
            titles["error"] = "error"
        rows = zip(self.names, *(map(_cell, columns[key]) for key in titles))
        return [("candidate", *titles.values()), *rows]

    def _caption(self):
        return (
            f"{len(self.names)} candidates on {len(self.train_sizes)} folds "
            f"({self.train_sizes.mean():.0f} training and {self.test_sizes.mean():.0f} "
            f"test samples), baseline {self.baseline!r}"
        )

    def __repr__(self) -> str:
        """Return the first metric's table as aligned text."""
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in cells
        ]
        return "\n".join([self._caption(), "", *lines])

    def _repr_html_(self) -> str:
        """Return the first metric's table for notebooks."""

        def row(cells, tag):
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        header, *rows = self._cells()
        return (
            f"<table><caption>{html.escape(self._caption())}</caption>"
            f"<thead>{row(header, 'th')}</thead>"
            f"<tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody></table>"
        )


def _cell(value):
    """Write one cell of a text table; NaN is empty."""
    if isinstance(value, str):
        return _shorten(value, ERROR_WIDTH)
    return "" if np.isnan(value) else f"{value:.3g}"


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

    names = tuple(candidates)
    outcomes = {}
    peak_memory = np.full(len(names), np.nan)
    with _progress_bars(names, len(folds) + measure_memory, progress) as advance:
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
            outcomes[outcome.name, outcome.fold] = outcome
            advance(outcome.name, failed=outcome.error is not None)
        grid = [[outcomes[name, fold] for fold in range(len(folds))] for name in names]
        errors = _report_failures(grid, baseline)
        if measure_memory:
            healthy = {k: v for k, v in candidates.items() if k not in errors}
            for name, peak in _peak_memory(healthy, X, y, params):
                peak_memory[names.index(name)] = peak
                advance(name)

    def table(key):
        return np.array([[o.values.get(key, np.nan) for o in row] for row in grid])

    metrics = next(o.values for row in grid for o in row if o.error is None)
    return ComparisonResult(
        names=names,
        baseline=baseline,
        scores={
            _metric_name(key, scoring): table(key)
            for key in metrics
            if key.startswith("test_")
        },
        fit_times=table("fit_time"),
        score_times=table("score_time"),
        peak_memory=peak_memory,
        errors=errors,
        train_sizes=np.array([_size(train) for train, _ in folds]),
        test_sizes=np.array([_size(test) for _, test in folds]),
        estimators={
            name: [outcome.values.get("estimator") for outcome in row]
            for name, row in zip(names, grid)
        }
        if return_estimators
        else None,
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
        is_instance = not isinstance(estimator, type)
        if not (
            is_instance
            and hasattr(estimator, "fit")
            and hasattr(estimator, "get_params")
        ):
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
    for row in grid:
        if failed := [outcome.error for outcome in row if outcome.error is not None]:
            errors[row[0].name] = f"{failed[0]} ({len(failed)} of {len(row)} folds)"
    if all(outcome.error is not None for row in grid for outcome in row):
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


def _peak_memory(candidates, X, y, params) -> Iterator[tuple[str, float]]:
    """Yield (name, MiB) of one fit on all samples, each in a process of its own."""
    if math.isnan(_peak_resident_memory()):
        return
    with TemporaryDirectory() as folder:
        # through a file: a pipe would hold the data twice and so raise the peak
        # before the fit, which would hide the fit's own
        path = Path(folder) / "data.joblib"
        joblib.dump((X, y, params), path)
        for name, estimator in candidates.items():
            try:
                # loky and not multiprocessing: scripts need no main guard, lambdas
                # travel, and a process that is killed is an exception
                with ProcessPoolExecutor(max_workers=1) as process:
                    job = process.submit(_fit_memory, estimator, path, get_config())
                    peak = job.result()
            except Exception as error:
                warnings.warn(
                    f"the memory of {name!r} was not measured: "
                    f"{type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=3,  # the caller of compare
                )
                peak = math.nan
            yield name, peak


def _fit_memory(estimator, path, config):
    """Fit, and return by how many MiB this raised the process's peak."""
    X, y, params = joblib.load(path)
    # in sequence: the memory of a grandchild would escape the count
    with config_context(**config), joblib.parallel_config("sequential"):
        before = _peak_resident_memory()
        clone(estimator).fit(X, y, **params)
        return _peak_resident_memory() - before


def _peak_resident_memory():
    """Return the peak resident memory of this process so far, in MiB."""
    if sys.platform == "linux":
        # not ru_maxrss, which a child inherits from its parent through exec on Linux
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / KIB_PER_MIB
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / BYTES_PER_MIB
    return math.nan


@contextmanager
def _progress_bars(names, n_steps, progress) -> Iterator[Callable[..., None]]:
    """Give ``advance(name, failed=False)``; it draws on standard error, or nothing."""
    if progress not in (True, False, "auto"):
        raise ValueError(f'progress must be True, False or "auto", got {progress!r}')
    if progress == "auto":
        progress = sys.stderr.isatty() and find_spec("rich") is not None
    if not progress:
        yield lambda name, failed=False: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as bars:
        titles = {name: escape(_shorten(name, NAME_WIDTH)) for name in names}
        tasks = {name: bars.add_task(titles[name], total=n_steps) for name in names}

        def advance(name, failed=False):
            bars.advance(tasks[name])
            if failed:
                text = f"{titles[name]} [red]failed[/red]"
                bars.update(tasks[name], description=text)

        yield advance


class ComparisonDisplay:
    """Picture of a comparison: the fold scores, the differences, the fit times.

    Candidates stand from best to worst. On the left, each dot is the score on one
    fold (at the same height in every row), the band holds the middle half of them, the
    bar is their mean; the dotted line is the baseline's mean. A colour says whether
    the Holm-adjusted p-value of the corrected resampled t-test is below 0.05. On the
    right are the times to fit, on a logarithmic axis, with their median written out.

    Build it with :meth:`from_result`.

    Parameters
    ----------
    result : ComparisonResult
        What :func:`compare` returned.
    metric : str, default=None
        The metric to draw; the first one by default.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes with the scores.
    time_ax_ : matplotlib.axes.Axes or None
        Axes with the fit times; None if only one was given to draw into.
    figure_ : matplotlib.figure.Figure
        The figure of both.

    See Also
    --------
    compare : Run a comparison.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sklearn_attn.comparison import ComparisonDisplay, compare
    >>> X, y = load_iris(return_X_y=True)
    >>> result = compare({"majority": DummyClassifier(), "Bayes": GaussianNB()}, X, y)
    >>> display = ComparisonDisplay.from_result(result)
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['Bayes', 'majority\\n(baseline)']
    """

    ax_: "Axes"
    time_ax_: "Axes | None"
    figure_: "Figure | SubFigure"

    def __init__(self, result: ComparisonResult, *, metric: str | None = None):
        self.result = result
        self.metric = metric

    @classmethod
    def from_result(
        cls,
        result: ComparisonResult,
        *,
        metric: str | None = None,
        ax: Any = None,
        band_kwargs: dict[str, Any] | None = None,
        dot_kwargs: dict[str, Any] | None = None,
    ) -> "ComparisonDisplay":
        """Draw the result of :func:`compare`.

        Parameters
        ----------
        result : ComparisonResult
            What :func:`compare` returned.
        metric : str, default=None
            The metric to draw; the first one by default.
        ax : matplotlib Axes or pair of them, default=None
            Where to draw the scores, or the scores and the times. By default a new
            figure with both.
        band_kwargs : dict, default=None
            Passed to ``Axes.barh`` for the middle half of the scores.
        dot_kwargs : dict, default=None
            Passed to ``Axes.scatter`` for the scores and times of the folds.

        Returns
        -------
        ComparisonDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If `metric` was not scored.
        """
        display = cls(result, metric=metric)
        return display.plot(ax, band_kwargs=band_kwargs, dot_kwargs=dot_kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        band_kwargs: dict[str, Any] | None = None,
        dot_kwargs: dict[str, Any] | None = None,
    ) -> "ComparisonDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib Axes or pair of them, default=None
            Where to draw the scores, or the scores and the times. By default a new
            figure with both.
        band_kwargs : dict, default=None
            Passed to ``Axes.barh`` for the middle half of the scores.
        dot_kwargs : dict, default=None
            Passed to ``Axes.scatter`` for the scores and times of the folds.

        Returns
        -------
        ComparisonDisplay
            The display itself.

        Raises
        ------
        ValueError
            If `metric` was not scored.
        """
        scores = self.result.scores[self.result._metric(self.metric)]
        tests = self.result.test(self.metric)
        bands = {"height": 0.56, "alpha": 0.2} | (band_kwargs or {})
        dots = {"s": 18, "alpha": 0.6, "linewidths": 0} | (dot_kwargs or {})
        if ax is None:
            ax = _new_axes(n_rows=len(scores))
        self.ax_, self.time_ax_ = ax if np.size(ax) == 2 else (ax, None)
        self.figure_ = self.ax_.figure

        verdicts = {
            name: _verdict(name, self.result.baseline, tests)
            for name in self.result.names
        }
        order = np.argsort(-scores.mean(axis=1), kind="stable")  # failed ones last
        names = [self.result.names[i] for i in order]
        for y, (i, name) in enumerate(zip(order, names)):
            color = COLORS[verdicts[name]]
            if name in self.result.errors:
                _write_error(self.ax_, y, self.result.errors[name])
                continue
            _draw_scores(self.ax_, y, scores[i], color, bands, dots)
            if name in tests:
                _write_test(self.ax_, y, tests[name], color)
            else:
                self.ax_.axvline(scores[i].mean(), color=color, ls=":", lw=1, zorder=0)
            if self.time_ax_ is not None:
                _draw_times(self.time_ax_, y, self.result.fit_times[i], color, dots)
        self._finish(names, verdicts)
        return self

    def _finish(self, names, verdicts):
        """Label the axes, once all is drawn."""
        metric = self.result._metric(self.metric)
        n_folds = len(self.result.train_sizes)
        self.ax_.set_xlabel(
            f"{metric}, right is better (dot: one of {n_folds} folds, bar: mean)"
        )
        labels = [
            textwrap.fill(name, NAME_WIDTH, max_lines=2, placeholder=" ...")
            + "\n(baseline)" * (name == self.result.baseline)
            for name in names
        ]
        self.ax_.set_yticks(range(len(names)), labels)
        self.ax_.set_ylim(len(names) - 0.5, -0.5)
        _write_beside(self.ax_, -0.5, "difference, p (Holm)", va="bottom")
        _draw_legend(self.ax_, set(verdicts.values()))
        _clear_frame(self.ax_)
        if self.time_ax_ is not None:
            # whole decades: at least two ticks, however alike the times
            decades = np.log10(self.time_ax_.get_xlim())
            self.time_ax_.set_xlim(
                10 ** np.floor(decades[0]), 10 ** np.ceil(decades[1])
            )
            self.time_ax_.set_xlabel("time to fit")
            self.time_ax_.xaxis.set_major_formatter(lambda value, _: _duration(value))
            self.time_ax_.xaxis.set_minor_formatter(lambda value, _: "")
            self.time_ax_.tick_params(axis="y", left=False, labelleft=False)
            self.time_ax_.set_ylim(self.ax_.get_ylim())
            _write_beside(self.time_ax_, -0.5, "median", va="bottom")
            _clear_frame(self.time_ax_)


def _new_axes(n_rows):
    """Make a figure with a wide panel for the scores and a narrow one for times."""
    import matplotlib.pyplot as plt

    figsize = (10, 1.5 + 0.55 * n_rows)
    _, axes = plt.subplots(
        1, 2, figsize=figsize, width_ratios=(2.2, 1), layout="constrained"
    )
    return axes


def _verdict(name, baseline, tests):
    """Say what a candidate is beside the baseline, as a key of COLORS."""
    if name == baseline:
        return "baseline"
    if not tests[name].p_value_holm < SIGNIFICANCE:  # NaN decides nothing
        return UNCLEAR
    return BETTER if tests[name].difference > 0 else WORSE


def _draw_scores(ax, y, scores, color, bands, dots):
    """Draw a row: the middle half of the scores, their mean, and each of them."""
    low, high = np.quantile(scores, [0.25, 0.75])
    ax.barh(y, high - low, left=low, **({"color": color} | bands))
    ax.scatter(scores, y + _spread(scores), **({"color": color} | dots))
    ax.plot(scores.mean(), y, marker="|", ms=20, mew=3, color=color)


def _draw_times(ax, y, times, color, dots):
    """Draw a row: the time of each fold, and the median in words."""
    ax.set_xscale("log")
    ax.scatter(times, y + _spread(times), **({"color": color} | dots))
    median = np.median(times)
    ax.plot(median, y, marker="|", ms=20, mew=3, color=color)
    _write_beside(ax, y, _duration(median), color=color)


def _spread(folds):
    """Place folds at heights of their own, the same in every row."""
    return np.linspace(-0.2, 0.2, len(folds) + 2)[1:-1]


def _write_beside(ax, y, text, *, va="center", color="black"):
    """Write at the height of a row, just right of the axes."""
    place = ax.get_yaxis_transform()  # x in axes, y in data
    ax.annotate(text, (1, y), (8, 0), place, "offset points", va=va, color=color)


def _write_test(ax, y, test, color):
    """Write a difference and its p-value beside a row."""
    p = test.p_value_holm
    if math.isnan(p):
        text = "no test"
    elif p < SMALLEST_P:
        text = f"{test.difference:+.3g}, p < {SMALLEST_P}"
    else:
        text = f"{test.difference:+.3g}, p = {p:.2g}"
    _write_beside(ax, y, text, color=color)


def _write_error(ax, y, error):
    """Write in a row why there is nothing to draw."""
    text = _shorten(f"failed: {error}", ERROR_WIDTH)
    place = ax.get_yaxis_transform()
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.annotate(text, (0, y), (8, 0), place, "offset points", va="center", bbox=box)


def _clear_frame(ax):
    """Keep the lower left of the frame, and light lines to read values by."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)


def _draw_legend(ax, verdicts):
    """Explain the colours that occur, above the axes."""
    from matplotlib.patches import Patch

    handles = [
        Patch(color=color, label=verdict)
        for verdict, color in COLORS.items()
        if verdict in verdicts
    ]
    ax.legend(
        handles=handles,
        loc="lower right",  # it may grow over the names, not over the differences
        bbox_to_anchor=(1, 1),
        ncols=2,
        frameon=False,
        borderaxespad=0.2,
    )


def _shorten(text, width):
    """Cut a text that is too long, and show that it was."""
    return text if len(text) <= width else f"{text[: width - 4]} ..."


def _duration(seconds):
    """Write seconds in the unit that a reader would choose."""
    fitting = ((unit, size) for unit, size in UNITS.items() if seconds >= size)
    unit, size = next(fitting, ("µs", UNITS["µs"]))
    count = seconds / size
    return f"{round(count, 1 if count < 10 else None):g} {unit}"
