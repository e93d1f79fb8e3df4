"""Risks of learning algorithms against the length of their context  (2301.07067)."""

from numbers import Integral
from typing import TYPE_CHECKING, Any

from sklearn.utils import check_random_state

from ._risk import MOST_SEED, risk_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Okabe and Ito's palette, black first: told apart by colour-blind readers too.
COLORS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^Dv*P"
INCHES = (6.5, 4.2)
SCALES = ("linear", "log")


class RiskCurveDisplay:
    """Picture of how fast learning algorithms learn from their context.

    Each line is the mean squared error of an algorithm, over that of the answer 0, and
    its band the 5 % and 95 % of bootstraps over tasks. All algorithms get the same
    tasks, so that they may differ by less than the bands tell.

    Build it with :meth:`from_algorithms`.

    Parameters
    ----------
    curves : dict of str to RiskCurve
        What is drawn.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        Their figure.
    lines_ : dict of str to matplotlib.lines.Line2D
        The line of each algorithm.
    bands_ : dict of str to matplotlib.collections.PolyCollection
        The band of each.

    See Also
    --------
    risk_curve : Measures a curve.

    Examples
    --------
    >>> from functools import partial
    >>> from sklearn_attn.in_context import LinearPrior, RiskCurveDisplay
    >>> from sklearn_attn.in_context import minimum_norm, ridge
    >>> display = RiskCurveDisplay.from_algorithms(
    ...     {"least squares": minimum_norm, "ridge": partial(ridge, noise=0.5)},
    ...     LinearPrior(noise=0.5),
    ...     range(1, 11),
    ...     n_features=5,
    ...     n_tasks=64,
    ...     random_state=0,
    ... )
    >>> list(display.curves)
    ['least squares', 'ridge']
    >>> display.ax_.get_xlabel()
    'examples in the context'
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
        tell_noise: bool = False,
        random_state: Any = None,
        xscale: str = "linear",
        yscale: str = "linear",
        ax: Any = None,
    ) -> "RiskCurveDisplay":
        """Measure and draw the risks of algorithms on the same tasks.

        Parameters
        ----------
        algorithms : dict of str to PretrainedICL or callable
            What to compare, by the names in the legend; see :func:`risk_curve`.
        prior : object
            Where tasks come from, such as :class:`LinearPrior`.
        n_examples : array-like of int of shape (n_lengths,)
            Lengths of the context.
        n_features : int
            Number of features of a task.
        n_tasks : int, default=512
            Number of tasks.
        n_queries : int, default=4
            Queries to each context.
        tell_noise : bool, default=False
            Whether algorithms are told the noise of each task.
        random_state : int, RandomState instance or None, default=None
            Determines tasks and bootstraps.
        xscale, yscale : {"linear", "log"}, default="linear"
            The axes, as in :meth:`plot`.
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        RiskCurveDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If `algorithms` is not a dict.
        ValueError
            If there are none, or as :func:`risk_curve` says.
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
        curves = {
            name: risk_curve(
                algorithm,
                prior,
                n_examples,
                n_features=n_features,
                n_tasks=n_tasks,
                n_queries=n_queries,
                tell_noise=tell_noise,
                random_state=seed,
            )
            for name, algorithm in algorithms.items()
        }
        return cls(curves).plot(ax, xscale=xscale, yscale=yscale)

    def plot(
        self, ax: Any = None, *, xscale: str = "linear", yscale: str = "linear"
    ) -> "RiskCurveDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.
        xscale, yscale : {"linear", "log"}, default="linear"
            The axes. Risks of noiseless tasks go to 0, and want "log".

        Returns
        -------
        RiskCurveDisplay
            The display itself.

        Raises
        ------
        ValueError
            If there is no such scale.
        """
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator

        for name, scale in (("xscale", xscale), ("yscale", yscale)):
            if scale not in SCALES:
                raise ValueError(f"{name} must be one of {SCALES}; got {scale!r}.")
        if ax is None:
            _, ax = plt.subplots(figsize=INCHES, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.bands_ = {}, {}
        for i, (name, curve) in enumerate(self.curves.items()):
            color = COLORS[i % len(COLORS)]
            (self.lines_[name],) = ax.plot(
                curve.n_examples,
                curve.risk,
                label=name,
                color=color,
                marker=MARKERS[i % len(MARKERS)],
                ms=4,
            )
            self.bands_[name] = ax.fill_between(
                curve.n_examples, curve.low, curve.high, color=color, alpha=0.2, lw=0
            )
        ax.set(xscale=xscale, yscale=yscale, xlabel="examples in the context")
        ax.set_ylabel("mean squared error (of the answer 0: 1)")
        if yscale == "linear":
            ax.set_ylim(bottom=0)
        if xscale == "linear":
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return self
