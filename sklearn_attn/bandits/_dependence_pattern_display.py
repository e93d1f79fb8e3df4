"""How much each lag matters, and how much chance would make of it  (2302.00814)."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._arrays import to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Okabe and Ito's palette: told apart by colour-blind readers too.
CHOSEN_COLOR, OTHER_COLOR, LIMIT_COLOR = "#0072B2", "0.65", "#D55E00"
FIGURE_INCHES = (9.0, 5.0)
# Lags that are named by their number at most, the strongest.
MOST_NAMED = 8
# How much higher than the largest statistic the axis goes: room for the names.
HEADROOM = 4


class DependencePatternDisplay:
    """Picture of the lags that rewards depend on.

    Above, the chi-square statistic of every lag, given those that were chosen, and what
    it must exceed. Below, the weights of the lags.

    Build it with :meth:`from_estimator`.

    Parameters
    ----------
    lag_scores : ndarray of shape (horizon,) or (horizon, n_features)
        Statistic of each lag; NaN where it was not tested. With one for each feature,
        the largest is drawn.
    lag_threshold : float
        What it must exceed; NaN draws no line.
    lag_weights : ndarray of shape (horizon,)
        Weights of the lags.
    support : ndarray of int of shape (n_lags,)
        The lags that were chosen.

    Attributes
    ----------
    axes_ : ndarray of matplotlib.axes.Axes
        The two axes.
    figure_ : matplotlib.figure.Figure
        Their figure.
    scores_ : matplotlib.collections.LineCollection
        The statistics.
    threshold_ : matplotlib.lines.Line2D
        The threshold.
    weights_ : matplotlib.container.BarContainer
        The weights of the chosen lags.

    See Also
    --------
    SparseDependenceBandit : Where they come from.
    RegretDisplay : What they are good for.

    Examples
    --------
    >>> from sklearn_attn.bandits import (
    ...     DependencePatternDisplay, SparseDependenceBandit
    ... )
    >>> from sklearn_attn.datasets import make_long_horizon_rewards
    >>> X, y = make_long_horizon_rewards(600, 5, lags=(3, 40), random_state=0)
    >>> model = SparseDependenceBandit(horizon=100).fit(X, y)
    >>> DependencePatternDisplay.from_estimator(model).support
    array([ 3, 40])
    """

    axes_: np.ndarray
    figure_: "Figure | SubFigure"
    scores_: "LineCollection"
    threshold_: "Line2D"
    weights_: "BarContainer"

    def __init__(
        self, lag_scores: Any, lag_threshold: float, lag_weights: Any, support: Any
    ) -> None:
        self.lag_scores = lag_scores
        self.lag_threshold = lag_threshold
        self.lag_weights = lag_weights
        self.support = support

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, axes: Any = None
    ) -> "DependencePatternDisplay":
        """Draw what an estimator has found.

        Parameters
        ----------
        estimator : SparseDependenceBandit
            A fitted model.
        axes : array of two matplotlib Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        DependencePatternDisplay
            The display, drawn.
        """
        check_is_fitted(estimator)
        display = cls(
            to_numpy(estimator.lag_scores_),
            estimator.lag_threshold_,
            to_numpy(estimator.lag_weights_),
            to_numpy(estimator.support_),
        )
        return display.plot(axes)

    def plot(self, axes: Any = None) -> "DependencePatternDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        axes : array of two matplotlib Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        DependencePatternDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if axes is None:
            _, axes = plt.subplots(
                2, sharex=True, figsize=FIGURE_INCHES, layout="constrained"
            )
        self.axes_ = np.ravel(axes)
        if len(self.axes_) != 2:
            raise ValueError(f"Two axes are needed; got {len(self.axes_)}.")
        self.figure_ = self.axes_[0].figure
        self._draw_scores(self.axes_[0])
        self._draw_weights(self.axes_[1])
        for ax in self.axes_:
            ax.spines[["top", "right"]].set_visible(False)
        return self

    def _draw_scores(self, ax: "Axes") -> None:
        scores = np.asarray(self.lag_scores, dtype=float)
        if scores.ndim > 1:  # of each feature; fmax passes over NaN
            scores = np.fmax.reduce(scores, axis=1)
        lags = np.flatnonzero(~np.isnan(scores))
        scores = scores[lags]
        chosen = np.isin(lags, self.support)
        self.scores_ = ax.vlines(
            lags,
            0,
            scores,
            colors=[CHOSEN_COLOR if is_chosen else OTHER_COLOR for is_chosen in chosen],
            linewidth=[2.0 if is_chosen else 1.0 for is_chosen in chosen],
        )
        ax.scatter(lags[chosen], scores[chosen], s=18, color=CHOSEN_COLOR, zorder=3)
        strongest = np.argsort(np.where(chosen, scores, -1))[::-1][:MOST_NAMED]
        for i in strongest[chosen[strongest]]:
            ax.annotate(
                f"lag {lags[i]}",
                (lags[i], scores[i]),
                xytext=(4, 1),
                textcoords="offset points",
                color=CHOSEN_COLOR,
                fontsize="small",
            )
        label = None
        if np.isfinite(self.lag_threshold):
            label = f"what chance hardly exceeds: {self.lag_threshold:.3g}"
        self.threshold_ = ax.axhline(
            self.lag_threshold, color=LIMIT_COLOR, ls="--", lw=1, label=label
        )
        ax.set_yscale("log")
        highest = max(1.0, np.nan_to_num(self.lag_threshold), *scores)
        ax.set_ylim(1, HEADROOM * highest)
        ax.set(ylabel="chi-square statistic", title="Does the reward depend on a lag?")
        if label:
            ax.legend(frameon=False, loc="upper right")

    def _draw_weights(self, ax: "Axes") -> None:
        weights = np.asarray(self.lag_weights)
        width = max(1.0, len(weights) / 150)
        self.weights_ = ax.bar(
            self.support, weights[self.support], width=width, color=CHOSEN_COLOR
        )
        ax.axhline(0, color="0.6", lw=1)
        ax.set(
            xlabel="lag: rounds between an action and its reward",
            ylabel="weight",
            title="By how much",
            xlim=(-0.02 * len(weights) - 0.5, len(weights)),
        )
