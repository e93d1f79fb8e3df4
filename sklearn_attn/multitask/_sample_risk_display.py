"""Risk against samples per task, and samples that are needed  (2303.04338)."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Okabe and Ito's palette, black first: told apart by colour-blind readers too.
COLORS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^Dv*P"
FIGURE_INCHES = (7.5, 4.5)
BAND = 0.15  # opacity
# What rounding leaves of coefficients of norm 1, squared: less is drawn as this.
LEAST_RISK = float(np.finfo(float).eps ** 2)


class SampleRiskDisplay:
    """Picture of what supernets lose, against the samples of each task.

    A line is the median over repetitions, the band around it goes from the lower to the
    upper quartile. A dashed line of the same colour stands at the samples of a task
    that the parameters of the supernet ask for, by counting.

    Build it with :meth:`from_risks`.

    Parameters
    ----------
    n_samples : ndarray of shape (k,)
        Samples of each task.
    risks : dict of str to ndarray of shape (k,) or (k, n_repetitions)
        The risks of each supernet.
    thresholds : dict of str to float
        How many samples some of them ask for.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        Their figure.
    lines_ : dict of str to matplotlib.lines.Line2D
        The line of each supernet.
    thresholds_ : dict of str to matplotlib.lines.Line2D
        The dashed lines, as far as they are within the samples.

    See Also
    --------
    Supernet.samples_needed : What the dashed lines stand at.
    PathwayDisplay : Which tasks share which modules.

    Examples
    --------
    >>> from sklearn_attn.multitask import SampleRiskDisplay, Supernet
    >>> risks = {"vanilla": [0.9, 0.5, 1e-9], "multipath": [0.8, 1e-9, 1e-9]}
    >>> supernets = {
    ...     "vanilla": Supernet.vanilla(32, 8),
    ...     "multipath": Supernet(32, ((1, 8), (40, 2))),
    ... }
    >>> display = SampleRiskDisplay.from_risks([4, 8, 12], risks, supernets, 400)
    >>> display.thresholds
    {'vanilla': 8.64, 'multipath': 4.24}
    """

    ax_: "Axes"
    figure_: "Figure | SubFigure"
    lines_: "dict[str, Line2D]"
    thresholds_: "dict[str, Line2D]"

    def __init__(self, n_samples: Any, risks: Any, thresholds: Any) -> None:
        self.n_samples = n_samples
        self.risks = risks
        self.thresholds = thresholds

    @classmethod
    def from_risks(
        cls,
        n_samples: Any,
        risks: Any,
        supernets: Any = None,
        n_tasks: "int | None" = None,
        *,
        ax: Any = None,
    ) -> "SampleRiskDisplay":
        """Draw risks, and count the samples that supernets need.

        Parameters
        ----------
        n_samples : array-like of shape (k,)
            Samples of each task.
        risks : dict of str to array-like of shape (k,) or (k, n_repetitions)
            Risks, such as the mean squared distance from the coefficients.
        supernets : dict of str to Supernet, default=None
            The supernets of some of the risks, by the same names.
        n_tasks : int, default=None
            Number of tasks; needed with `supernets`.
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        SampleRiskDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If shapes do not fit, a supernet has no risks, or `n_tasks` is missing.
        """
        n_samples = np.asarray(n_samples)
        risks = {name: np.asarray(each, dtype=float) for name, each in risks.items()}
        for name, each in risks.items():
            if each.ndim not in (1, 2) or len(each) != len(n_samples):
                k = len(n_samples)
                raise ValueError(
                    f"Risks must have shape ({k},) or ({k}, n_repetitions), as there "
                    f"are {k} n_samples; got {each.shape} for {name!r}."
                )
        supernets = supernets or {}
        unknown = sorted(set(supernets) - set(risks))
        if unknown:
            raise ValueError(
                f"There are supernets without risks: {unknown}; risks are of "
                f"{list(risks)}."
            )
        if supernets and n_tasks is None:
            raise ValueError("n_tasks is needed to count what supernets need.")
        thresholds = {
            name: net.samples_needed(n_tasks) for name, net in supernets.items()
        }
        return cls(n_samples, risks, thresholds).plot(ax)

    def plot(self, ax: Any = None) -> "SampleRiskDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        SampleRiskDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=FIGURE_INCHES, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.thresholds_ = {}, {}
        for i, (name, risk) in enumerate(self.risks.items()):
            color = COLORS[i % len(COLORS)]
            risk = np.maximum(risk.reshape(len(self.n_samples), -1), LEAST_RISK)
            low, middle, high = np.nanquantile(risk, [0.25, 0.5, 0.75], axis=1)
            label, needed = name, self.thresholds.get(name)
            if needed is not None:
                label = f"{name}: needs {needed:.4g}"
            style = {"color": color, "marker": MARKERS[i % len(MARKERS)], "ms": 5}
            (line,) = ax.plot(self.n_samples, middle, label=label, **style)
            self.lines_[name] = line
            if risk.shape[1] > 1:
                ax.fill_between(
                    self.n_samples, low, high, color=color, alpha=BAND, lw=0
                )
        low, high = self.n_samples.min(), self.n_samples.max()
        for name, needed in self.thresholds.items():
            if low <= needed <= high:
                self.thresholds_[name] = ax.axvline(
                    needed, color=self.lines_[name].get_color(), ls="--", lw=1
                )
                # above the axes: curves are everywhere within
                ax.text(
                    needed,
                    1.01,
                    f"{needed:.4g}",
                    color=self.lines_[name].get_color(),
                    transform=ax.get_xaxis_transform(),
                    ha="center",
                    va="bottom",
                    size="small",
                )
        ax.set(yscale="log", xlabel="samples of each task", ylabel="risk")
        ax.spines[["top", "right"]].set_visible(False)
        title = "samples that parameters ask for" if self.thresholds else None
        ax.legend(frameon=False, title=title, loc="upper left", bbox_to_anchor=(1, 1))
        return self
