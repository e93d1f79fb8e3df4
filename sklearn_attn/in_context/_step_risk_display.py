"""R(n) of chains by mode, and R_l(n) of their steps  (2305.18869, figures 2 to 4)."""

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state

from ._risk import MOST_SEED
from ._risk_curve_display import COLORS, INCHES, MARKERS, SCALES
from ._step_risk import StepRiskCurve, step_risk_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

KINDS = ("auto", "modes", "steps")
# On a logarithmic axis, what is less than this is right, and goes out of the picture:
# exact solutions would stretch it down to the rounding error.
_LEAST_SHOWN = 1e-5
# Between the points of two models at a step, of the distance of two steps.
_GAP = 0.12


class StepRiskDisplay:
    """Picture of the errors of chains of thought, by mode or step by step.

    By mode, each line is the mean squared error of y of an algorithm, over that of the
    answer 0, and its band the 5 % and 95 % of bootstraps over tasks. Step by step, each
    step has two lines: what it errs if the true step before is given, and what it errs
    in the chain. If errors of the steps just add up, that of y is the composed one.

    Build it with :meth:`from_algorithms`, of tasks, or :meth:`from_estimator`, of a
    table.

    Parameters
    ----------
    curves : dict of str to StepRiskCurve, or of str to StepRisk
        What is drawn: errors against the number of examples, from
        :func:`step_risk_curve`; or those of fitted models, from
        :meth:`ChainOfThoughtRegressor.step_risk`.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        Their figure.
    lines_ : dict of str to matplotlib.lines.Line2D
        The line of each algorithm. Of steps, the lines "s^1 alone", "s^1", ..., "y
        alone", "y" and "composed"; of fitted models, "name alone" and "name".
    bands_ : dict of str to matplotlib.collections.PolyCollection
        The band of each line of y; empty for fitted models.

    See Also
    --------
    step_risk_curve : Measures a curve.
    RiskCurveDisplay : The same for tasks without steps.

    Examples
    --------
    >>> from sklearn_attn.in_context import MLPPrior, StepRiskDisplay
    >>> from sklearn_attn.in_context import filtered_least_squares
    >>> display = StepRiskDisplay.from_algorithms(
    ...     {"least squares": filtered_least_squares},
    ...     MLPPrior((6,), bias=0.0),
    ...     [4, 8, 16],
    ...     n_features=5,
    ...     n_tasks=32,
    ...     random_state=0,
    ... )
    >>> list(display.lines_)
    ['least squares']
    >>> display = display.plot(kind="steps")
    >>> list(display.lines_)
    ['s^1 alone', 's^1', 'y alone', 'y', 'composed']
    """

    ax_: "Axes"
    figure_: "Figure | SubFigure"
    lines_: "dict[str, Line2D]"
    bands_: "dict[str, PolyCollection]"

    def __init__(self, curves: Any) -> None:
        self.curves = curves

    @classmethod
    def from_algorithms(
        cls,
        algorithms: Any,
        prior: Any,
        n_examples: Any,
        *,
        n_features: int,
        n_tasks: int = 512,
        n_queries: int = 4,
        random_state: Any = None,
        kind: str = "modes",
        xscale: str = "linear",
        yscale: str = "log",
        ax: Any = None,
    ) -> "StepRiskDisplay":
        """Measure and draw the errors of algorithms on the same tasks.

        Parameters
        ----------
        algorithms : dict of str to PretrainedICL, callable or tuple
            What to compare, by the names in the legend; see :func:`step_risk_curve`.
            Weights with a mode other than "cot-io" are a pair (weights, mode).
        prior : object
            Where tasks come from, such as :class:`MLPPrior`.
        n_examples : array-like of int of shape (n_lengths,)
            Numbers of examples.
        n_features : int
            Number of features of a task.
        n_tasks : int, default=512
            Number of tasks.
        n_queries : int, default=4
            Queries to each task.
        random_state : int, RandomState instance or None, default=None
            Determines tasks and bootstraps.
        kind : {"modes", "steps"}, default="modes"
            The picture, as in :meth:`plot`.
        xscale : {"linear", "log"}, default="linear"
            The axis of examples.
        yscale : {"linear", "log"}, default="log"
            The axis of errors.
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        StepRiskDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If `algorithms` is not a dict.
        ValueError
            If there are none, or as :func:`step_risk_curve` and :meth:`plot` say.
        """
        if not isinstance(algorithms, dict):
            raise TypeError(
                "algorithms must be a dict of names and algorithms; got a "
                f"{type(algorithms).__name__}."
            )
        if not algorithms:
            raise ValueError("There are no algorithms to draw.")
        # one number for all: None or a RandomState would give each its own tasks
        seed = random_state
        if not isinstance(seed, Integral):
            seed = int(check_random_state(seed).randint(MOST_SEED))
        n_examples = list(n_examples)
        curves = {}
        for name, algorithm in algorithms.items():
            pair = algorithm if isinstance(algorithm, tuple) else (algorithm, "cot-io")
            algorithm, mode = pair
            curves[name] = step_risk_curve(
                algorithm,
                prior,
                n_examples,
                n_features=n_features,
                mode=mode,
                n_tasks=n_tasks,
                n_queries=n_queries,
                random_state=seed,
            )
        return cls(curves).plot(ax, kind=kind, xscale=xscale, yscale=yscale)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        steps: Any,
        *,
        name: Any = None,
        yscale: str = "log",
        ax: Any = None,
    ) -> "StepRiskDisplay":
        """Measure and draw the errors of a fitted model, step by step.

        Several models are drawn by a dict of what :meth:`step_risk
        <ChainOfThoughtRegressor.step_risk>` returns for each.

        Parameters
        ----------
        estimator : ChainOfThoughtRegressor
            A fitted model.
        X, y, steps : array-like
            Rows to measure at, with targets and steps as in `fit`.
        name : str, default=None
            Name of the model in the legend: that of its class if None.
        yscale : {"linear", "log"}, default="log"
            The axis of errors.
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        StepRiskDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If steps are not like those of `fit`.
        """
        name = type(estimator).__name__ if name is None else name
        curves = {name: estimator.step_risk(X, y, steps)}
        return cls(curves).plot(ax, yscale=yscale)

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str = "auto",
        name: Any = None,
        xscale: str = "linear",
        yscale: str = "log",
    ) -> "StepRiskDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.
        kind : {"auto", "modes", "steps"}, default="auto"
            What is drawn.

            - "modes": the error of y of each algorithm.
            - "steps": the error of each step, alone (dashed) and in the chain (solid),
              of one algorithm, or of all models that were fitted to a table.
            - "auto": "steps" for fitted models, else "modes".
        name : str, default=None
            The algorithm whose steps are drawn; may be left out if it is the only one.
        xscale : {"linear", "log"}, default="linear"
            The axis of examples. Not for fitted models, where it has the steps.
        yscale : {"linear", "log"}, default="log"
            The axis of errors.

        Returns
        -------
        StepRiskDisplay
            The display itself.

        Raises
        ------
        ValueError
            If there is no such kind, scale or algorithm, it must be told which of
            several, it has no steps, or fitted models have no curves to draw.
        """
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator

        for what, value, known in (
            ("kind", kind, KINDS),
            ("xscale", xscale, SCALES),
            ("yscale", yscale, SCALES),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {known}; got {value!r}.")
        are_curves = all(isinstance(c, StepRiskCurve) for c in self.curves.values())
        if kind == "modes" and not are_curves:
            raise ValueError(
                "Fitted models have errors by steps only; kind='modes' needs curves of "
                "step_risk_curve."
            )
        curve = None
        if are_curves and kind == "steps":
            curve = self._single(name)
        if ax is None:
            _, ax = plt.subplots(figsize=INCHES, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.bands_ = {}, {}
        ax.set(yscale=yscale)
        if not are_curves:
            self._draw_models()
        else:
            if curve is None:
                self._draw_modes()
            else:
                self._draw_steps(curve)
            ax.set(xscale=xscale, xlabel="examples in the context")
            ax.set_ylabel("mean squared error (of the answer 0: 1)")
            if xscale == "linear":
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if yscale == "linear":
            ax.set_ylim(bottom=0)
        elif ax.get_ylim()[0] < _LEAST_SHOWN:
            ax.set_ylim(bottom=_LEAST_SHOWN)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return self

    def _single(self, name):
        if name is None and len(self.curves) == 1:
            (name,) = self.curves
        if name not in self.curves:
            raise ValueError(f"name must be one of {list(self.curves)}; got {name!r}.")
        curve = self.curves[name]
        if len(curve.alone) == 1:
            raise ValueError(f"{name!r} answers y at once; it has no steps to draw.")
        return curve

    def _draw_modes(self):
        for i, (name, curve) in enumerate(self.curves.items()):
            style = {"color": COLORS[i % len(COLORS)], "ms": 4}
            style["marker"] = MARKERS[i % len(MARKERS)]
            self._draw_y(name, curve, name, **style)

    def _draw_steps(self, curve):
        n_steps = len(curve.alone)
        for i, (alone, chained) in enumerate(zip(curve.alone, curve.chained)):
            is_last = i + 1 == n_steps
            key = "y" if is_last else f"s^{i + 1}"
            label = "y" if is_last else f"$s^{{{i + 1}}}$"
            style = {"color": COLORS[1 + i % (len(COLORS) - 1)], "ms": 4}
            style["marker"] = MARKERS[1 + i % (len(MARKERS) - 1)]
            # open on top of full ones: the first step's two lines are the same
            (self.lines_[f"{key} alone"],) = self.ax_.plot(
                curve.n_examples,
                alone,
                ls="--",
                mfc="white",
                zorder=3,
                label=f"{label}, alone",
                **style,
            )
            if is_last:
                self._draw_y(key, curve, f"{label}, in the chain", **style)
            else:
                (self.lines_[key],) = self.ax_.plot(
                    curve.n_examples, chained, label=f"{label}, in the chain", **style
                )
        (self.lines_["composed"],) = self.ax_.plot(
            curve.n_examples,
            curve.composed,
            ls=":",
            lw=2,
            color=COLORS[0],
            label="sum of all alone",
        )

    def _draw_y(self, key, curve, label, **style):
        (self.lines_[key],) = self.ax_.plot(
            curve.n_examples, curve.risk, label=label, **style
        )
        self.bands_[key] = self.ax_.fill_between(
            curve.n_examples,
            curve.low,
            curve.high,
            color=style["color"],
            alpha=0.2,
            lw=0,
        )

    def _draw_models(self):
        several = len(self.curves) > 1
        for i, (name, risk) in enumerate(self.curves.items()):
            x = np.arange(len(risk.names)) + _GAP * (i - (len(self.curves) - 1) / 2)
            style = {"color": COLORS[i % len(COLORS)], "ls": "", "ms": 7}
            style["marker"] = MARKERS[i % len(MARKERS)]
            of = f"{name}, " if several else ""
            self.ax_.vlines(x, risk.alone, risk.chained, color=style["color"], lw=1)
            (self.lines_[name],) = self.ax_.plot(
                x, risk.chained, label=f"{of}in the chain", **style
            )
            (self.lines_[f"{name} alone"],) = self.ax_.plot(
                x, risk.alone, mfc="white", label=f"{of}alone", **style
            )
            names = risk.names
        self.ax_.set_xticks(range(len(names)), names)
        self.ax_.set(xlim=(-0.5, len(names) - 0.5), xlabel="step")
        self.ax_.set_ylabel("mean squared error (of a constant answer: 1)")
