"""Errors against communication rounds, and against numbers sent  (2306.01648)."""

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Okabe and Ito's palette, black first: told apart by colour-blind readers too.
COLORS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^Dv*P"
MARKS = 12  # of a line: markers tell lines apart, and do not hide them
INCHES = {1: (6.5, 4.2), 2: (10.5, 4.2)}  # by the number of panels
# Where numbers differ by more than this factor, an axis is logarithmic.
LOG_RATIO = 30.0
COSTS = {
    "rounds": ("comm_rounds", "communication rounds"),
    "floats": ("comm_floats", "numbers sent, both ways, all clients"),
}
AGAINST = {"both": ("rounds", "floats"), "rounds": ("rounds",), "floats": ("floats",)}
NAMES = {
    "hypergrad_norm": "norm of the hypergradient",
    "inner_residual": "norm of the inner gradient",
    "adjoint_residual": "norm of the adjoint residual",
    "outer_loss": "outer loss",
}


class CommunicationDisplay:
    """Picture of what runs reach, against what they communicate.

    On the left against communication rounds, each of them a message to clients and
    their answer; on the right against the numbers sent, both ways and to all clients.
    A method that sends longer messages looks better on the left than on the right.

    Build it with :meth:`from_histories`.

    Parameters
    ----------
    runs : dict of str to dict
        For each run the lists or arrays "comm_rounds", "comm_floats" and `quantity`.
    quantity : str, default="hypergrad_norm"
        What is drawn.
    reference : float, default=None
        Where a dashed line is drawn, such as a tolerance or an optimum.

    Attributes
    ----------
    axes_ : ndarray of matplotlib.axes.Axes
        The panels.
    ax_ : matplotlib.axes.Axes
        The first of them.
    figure_ : matplotlib.figure.Figure
        Their figure.
    lines_ : dict of str to list of matplotlib.lines.Line2D
        The lines of each run, one in each panel.
    references_ : list of matplotlib.lines.Line2D
        The dashed lines, one in each panel, if there is a reference.

    See Also
    --------
    fedmsa : Makes histories.
    FedMSAClassifier : Has one, if fitted.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> from sklearn_attn.federated import CommunicationDisplay, fedmsa
    >>> from sklearn_attn.federated import quadratic_problem
    >>> problem, clients = quadratic_problem(make_federated_quadratic(random_state=0))
    >>> runs = {
    ...     f"{K} local steps": fedmsa(problem, clients, local_steps=K, n_rounds=9)
    ...     for K in (1, 10)
    ... }
    >>> display = CommunicationDisplay.from_histories(runs, reference=1e-6)
    >>> [ax.get_xlabel() for ax in display.axes_]
    ['communication rounds', 'numbers sent, both ways, all clients']
    >>> display.ax_.get_yscale()
    'log'
    """

    ax_: "Axes"
    axes_: "np.ndarray"
    figure_: "Figure | SubFigure"
    lines_: "dict[str, list[Line2D]]"
    references_: "list[Line2D]"

    def __init__(
        self,
        runs: Any,
        *,
        quantity: str = "hypergrad_norm",
        reference: "float | None" = None,
    ) -> None:
        self.runs = runs
        self.quantity = quantity
        self.reference = reference

    @classmethod
    def from_histories(
        cls,
        runs: Any,
        *,
        quantity: str = "hypergrad_norm",
        reference: "float | None" = None,
        against: str = "both",
        xscale: str = "auto",
        yscale: str = "auto",
        ax: Any = None,
    ) -> "CommunicationDisplay":
        """Draw the histories of runs.

        Parameters
        ----------
        runs : dict of str to dict, Solution or fitted estimator
            Histories, or what has one: the answers of :func:`fedmsa`, or estimators
            with an attribute `history_`.
        quantity : str, default="hypergrad_norm"
            Which list of the histories is drawn, or another that was added to all of
            them, with an item for each of "comm_rounds". Mind that the norms of a
            history are those of the gradients that a method follows: if these are
            biased, the norms vanish all the same.
        reference : float, default=None
            Where to draw a dashed line, such as a tolerance or an optimum.
        against : {"both", "rounds", "floats"}, default="both"
            Whether to draw against communication rounds, numbers sent, or both side by
            side.
        xscale, yscale : {"auto", "linear", "log"}, default="auto"
            The axes, as in :meth:`plot`.
        ax : matplotlib.axes.Axes, or two of them for both, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        CommunicationDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If there is no dict of runs, or one of them has no history.
        ValueError
            If there are no runs, one of them lacks what is to be drawn or has lists of
            unlike lengths, `reference` is not a finite number, or `ax`, `against`
            or a scale does not fit.
        """
        if not isinstance(runs, dict):
            raise TypeError(
                "runs must be a dict of names and histories; got a "
                f"{type(runs).__name__}."
            )
        if not runs:
            raise ValueError("There are no runs to draw.")
        if reference is not None and not (
            isinstance(reference, Real) and np.isfinite(reference)
        ):
            raise ValueError(f"reference must be a finite number; got {reference!r}.")
        if against not in AGAINST:
            raise ValueError(
                f"against must be one of {tuple(AGAINST)}; got {against!r}."
            )
        names = [*(COSTS[cost][0] for cost in AGAINST[against]), quantity]
        chosen = {name: _chosen(name, run, names) for name, run in runs.items()}
        display = cls(chosen, quantity=quantity, reference=reference)
        return display.plot(ax, against=against, xscale=xscale, yscale=yscale)

    def plot(
        self,
        ax: Any = None,
        *,
        against: str = "both",
        xscale: str = "auto",
        yscale: str = "auto",
    ) -> "CommunicationDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, or two of them for both, default=None
            Where to draw. None makes a figure.
        against : {"both", "rounds", "floats"}, default="both"
            What to draw against.
        xscale, yscale : {"auto", "linear", "log"}, default="auto"
            The axes. "auto" is "log" where positive numbers differ by a factor of
            more than 30: values for the vertical axis, the ends of runs for the
            horizontal one.

        Returns
        -------
        CommunicationDisplay
            The display itself.

        Raises
        ------
        ValueError
            If `ax`, `against` or a scale does not fit, or the display has no such
            costs.
        """
        import matplotlib.pyplot as plt
        from matplotlib.ticker import EngFormatter

        if against not in AGAINST:
            raise ValueError(
                f"against must be one of {tuple(AGAINST)}; got {against!r}."
            )
        for name, scale in (("xscale", xscale), ("yscale", yscale)):
            if scale not in ("auto", "linear", "log"):
                raise ValueError(
                    f"{name} must be 'auto', 'linear' or 'log'; got {scale!r}."
                )
        costs = AGAINST[against]
        for cost in costs:
            key, _ = COSTS[cost]
            lacking = [name for name, run in self.runs.items() if key not in run]
            if lacking:
                raise ValueError(
                    f"The display has no {key!r} of {lacking}: build it with "
                    "against='both', or plot what it has."
                )
        if ax is None:
            _, ax = plt.subplots(
                1,
                len(costs),
                figsize=INCHES[len(costs)],
                layout="constrained",
                sharey=True,
            )
        axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(axes) != len(costs):
            raise ValueError(
                f"against={against!r} needs {len(costs)} axes; got {len(axes)}."
            )
        self.axes_, self.ax_, self.figure_ = axes, axes[0], axes[0].figure
        self.lines_, self.references_ = {name: [] for name in self.runs}, []
        values = [np.asarray(run[self.quantity], float) for run in self.runs.values()]
        if yscale == "auto":
            yscale = "log" if _differ(np.concatenate(values)) else "linear"
        for panel, cost in zip(axes, costs):
            key, label = COSTS[cost]
            ends = np.array([np.max(run[key], initial=0) for run in self.runs.values()])
            for i, (name, run) in enumerate(self.runs.items()):
                y = np.asarray(run[self.quantity], float)
                seen = np.isfinite(y)
                (line,) = panel.plot(
                    np.asarray(run[key], float)[seen],
                    y[seen],
                    label=name,
                    color=COLORS[i % len(COLORS)],
                    marker=MARKERS[i % len(MARKERS)],
                    markevery=max(1, seen.sum() // MARKS),
                    ms=5,
                )
                self.lines_[name].append(line)
            if self.reference is not None:
                self.references_.append(
                    panel.axhline(self.reference, color="0.5", ls="--", lw=1, zorder=0)
                )
            scale = xscale
            if scale == "auto":
                scale = "log" if _differ(ends) else "linear"
            panel.set(xscale=scale, yscale=yscale, xlabel=label)
            if scale == "linear":  # long numbers would run into each other
                panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(NAMES.get(self.quantity, self.quantity))
        axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return self


def _chosen(name, run, wanted):
    """Return the lists to be drawn, of a history or of what has one."""
    history = run
    if not isinstance(run, dict):
        history = getattr(run, "history_", getattr(run, "history", None))
    if not isinstance(history, dict):
        raise TypeError(
            f"{name!r} has no history: give a dict of lists, a Solution, or an "
            f"estimator that is fitted; got a {type(run).__name__}."
        )
    lacking = [each for each in wanted if each not in history]
    if lacking:
        raise ValueError(
            f"The history of {name!r} has no {lacking}; it has {sorted(history)}."
        )
    lengths = {each: np.shape(history[each]) for each in wanted}
    if len(set(lengths.values())) > 1 or len(lengths[wanted[0]]) != 1:
        raise ValueError(f"Lists of {name!r} must have one length; got {lengths}.")
    return {each: np.asarray(history[each], dtype=float) for each in wanted}


def _differ(values):
    """Whether positive numbers differ by so much that logarithms are wanted."""
    values = values[np.isfinite(values)]
    if not len(values) or (values < 0).any() or not (values > 0).any():
        return False
    return values.max() > LOG_RATIO * values[values > 0].min()
