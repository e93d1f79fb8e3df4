"""Regret of several policies task by task, with changes of context  (2205.05820)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ._regret_display import COLORS, FIGURE_INCHES, LINE_STYLES, SHADE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D


class TaskRegretDisplay:
    """Picture of what policies have missed in a game of tasks.

    Contexts are shaded in turn. A triangle marks a task during which a policy found
    that the context had changed.

    Build it with :meth:`from_results`.

    Parameters
    ----------
    results : dict of str to TaskSimulationResult
        A game of each policy, with the same tasks.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        Their figure.
    lines_ : list of matplotlib.lines.Line2D
        A line for each policy.

    See Also
    --------
    run_tasks : Where results come from.

    Examples
    --------
    >>> from sklearn_attn.bandits import ContextSwitchingBandit, SubspacePolicy
    >>> from sklearn_attn.bandits import TaskRegretDisplay, TaskSequence, run_tasks
    >>> tasks = TaskSequence.random([20], [2], random_state=0)
    >>> result = run_tasks(SubspacePolicy(), ContextSwitchingBandit(tasks), seed=0)
    >>> display = TaskRegretDisplay.from_results({"explore, then commit": result})
    >>> len(display.lines_)
    1
    """

    ax_: "Axes"
    figure_: "Figure | SubFigure"
    lines_: "list[Line2D]"

    def __init__(self, results: Any) -> None:
        self.results = results

    @classmethod
    def from_results(
        cls, results: Any, *, ax: Any = None, cumulative: bool = True
    ) -> "TaskRegretDisplay":
        """Draw the regret of games that were played.

        Parameters
        ----------
        results : dict of str to TaskSimulationResult
            A game of each policy.
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.
        cumulative : bool, default=True
            As in :meth:`plot`.

        Returns
        -------
        TaskRegretDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there is no game, or games differ in their tasks.
        """
        contexts = {
            (len(each.task_regret), *each.context_starts) for each in results.values()
        }
        if len(contexts) != 1:
            raise ValueError(
                "There must be a game at least, and games of the same tasks and "
                f"contexts; got {len(contexts)} different ones."
            )
        return cls(results).plot(ax, cumulative=cumulative)

    def plot(self, ax: Any = None, *, cumulative: bool = True) -> "TaskRegretDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.
        cumulative : bool, default=True
            Whether to add up the regret of all tasks so far. If not, that of each task
            is a dot.

        Returns
        -------
        TaskRegretDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=FIGURE_INCHES, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_ = []
        first, *_ = self.results.values()
        n_tasks = len(first.task_regret)
        edges = [*first.context_starts, n_tasks]
        for start, end in zip(edges[1::2], edges[2::2]):
            ax.axvspan(start, end, color=SHADE, lw=0, zorder=0)
        is_marked = False
        for i, (name, result) in enumerate(self.results.items()):
            regret = result.task_regret
            drawn = np.cumsum(regret) if cumulative else regret
            color = COLORS[i % len(COLORS)]
            style = LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)]
            label = f"{name}: {result.average_regret:,.0f}"
            line = {"ls": style} if cumulative else {"ls": "", "marker": ".", "ms": 3}
            (drawn_line,) = ax.plot(
                np.arange(1, n_tasks + 1), drawn, color=color, label=label, **line
            )
            self.lines_.append(drawn_line)
            found = np.asarray(result.found_changes, dtype=int)
            if len(found):
                is_marked = True
                ax.plot(found + 1, drawn[found], "v", color=color, ms=8)
        if is_marked:
            ax.plot([], [], "v", color="0.3", ls="", ms=8, label="change found")
        ax.set(xlim=(0, n_tasks), ylim=(0, None), xlabel="tasks, shaded by context")
        ax.set_ylabel("cumulative regret" if cumulative else "regret of the task")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, title="policy: regret of a task, on average")
        return self
