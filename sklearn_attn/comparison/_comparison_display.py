"""The picture of a comparison."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ._comparison_result import ERROR_WIDTH, NAME_WIDTH, ComparisonResult, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Below this Holm-adjusted p-value the picture colours a candidate better or worse.
_SIGNIFICANCE = 0.05
# Okabe and Ito's palette: told apart by colour-blind readers too.
_BETTER = f"better (p < {_SIGNIFICANCE})"
_WORSE = f"worse (p < {_SIGNIFICANCE})"
_UNCLEAR = "no clear difference"
_COLORS = {
    "baseline": "black",
    _BETTER: "#0072B2",
    _WORSE: "#D55E00",
    _UNCLEAR: "#757575",
}
_UNITS = {"h": 3600, "min": 60, "s": 1, "ms": 1e-3, "µs": 1e-6}
_SMALLEST_P = 0.001  # smaller ones are written as such


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
        scores = self.result.scores[self.result._find_metric(self.metric)]
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
            color = _COLORS[verdicts[name]]
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
        self._label_scores(names, verdicts)
        if self.time_ax_ is not None:
            _label_times(self.time_ax_, self.ax_.get_ylim())
        return self

    def _label_scores(self, names, verdicts):
        """Say what the scores are, whose, and what the colours mean."""
        metric = self.result._find_metric(self.metric)
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


def _new_axes(n_rows):
    """Make a figure with a wide panel for the scores and a narrow one for times."""
    import matplotlib.pyplot as plt

    figsize = (10, 1.5 + 0.55 * n_rows)
    _, axes = plt.subplots(
        1, 2, figsize=figsize, width_ratios=(2.2, 1), layout="constrained"
    )
    return axes


def _verdict(name, baseline, tests):
    """Say what a candidate is beside the baseline, as a key of _COLORS."""
    if name == baseline:
        return "baseline"
    if not tests[name].p_value_holm < _SIGNIFICANCE:  # NaN decides nothing
        return _UNCLEAR
    return _BETTER if tests[name].difference > 0 else _WORSE


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


def _label_times(ax, ylim):
    """Say what the times are, in rows at the height of those of the scores."""
    # whole decades: at least two ticks, however alike the times
    low, high = np.log10(ax.get_xlim())
    ax.set_xlim(10 ** np.floor(low), 10 ** np.ceil(high))
    ax.set_xlabel("time to fit")
    ax.xaxis.set_major_formatter(lambda value, _: _duration(value))
    ax.xaxis.set_minor_formatter(lambda value, _: "")
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.set_ylim(ylim)
    _write_beside(ax, -0.5, "median", va="bottom")
    _clear_frame(ax)


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
    elif p < _SMALLEST_P:
        text = f"{test.difference:+.3g}, p < {_SMALLEST_P}"
    else:
        text = f"{test.difference:+.3g}, p = {p:.2g}"
    _write_beside(ax, y, text, color=color)


def _write_error(ax, y, error):
    """Write in a row why there is nothing to draw."""
    text = shorten(f"failed: {error}", ERROR_WIDTH)
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
        for verdict, color in _COLORS.items()
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


def _duration(seconds):
    """Write seconds in the unit that a reader would choose."""
    fitting = ((unit, size) for unit, size in _UNITS.items() if seconds >= size)
    unit, size = next(fitting, ("µs", _UNITS["µs"]))
    count = seconds / size
    return f"{round(count, 1 if count < 10 else None):g} {unit}"
