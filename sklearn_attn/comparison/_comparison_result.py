"""What a comparison found: scores, times and errors, the tests, and the table."""

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._corrected_t_test import NO_TEST, CorrectedTTest, corrected_t_test, holm

if TYPE_CHECKING:
    import pandas as pd

# Characters that fit beside and inside the axes of a picture, and on a line of text.
NAME_WIDTH = 28
ERROR_WIDTH = 56


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
        scores = self.scores[self._find_metric(metric)]
        baseline = scores[self.names.index(self.baseline)]
        ratio = self.test_sizes.mean() / self.train_sizes.mean()
        tests = {
            name: corrected_t_test(row - baseline, ratio, confidence_level)
            for name, row in zip(self.names, scores)
            if name != self.baseline
        }
        adjusted = holm(np.array([test.p_value for test in tests.values()]))
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

        columns = self._columns(self._find_metric(metric), confidence_level)
        return pd.DataFrame(columns, index=pd.Index(self.names, name="candidate"))

    def _find_metric(self, metric):
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
        metric = self._find_metric(None)
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
        return shorten(value, ERROR_WIDTH)
    return "" if np.isnan(value) else f"{value:.3g}"


def shorten(text, width):
    """Cut a text that is too long, and show that it was."""
    return text if len(text) <= width else f"{text[: width - 4]} ..."
