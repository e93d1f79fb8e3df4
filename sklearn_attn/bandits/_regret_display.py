"""Cumulative regret of several policies over the rounds of a game  (2302.00814)."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Okabe and Ito's palette, black first: told apart by colour-blind readers too.
COLORS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", "--", "-.", ":")
FIGURE_INCHES = (7.5, 4.5)
SHADE = "0.93"  # behind every other context, or rule


class RegretDisplay:
    """Picture of what policies have missed, against the rounds played.

    A line is the mean over the games of a policy, the band around it one standard
    deviation.

    Build it with :meth:`from_results`.

    Parameters
    ----------
    regrets : dict of str to ndarray of shape (n_games, n_rounds)
        Cumulative regret of each policy in each game.

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
    run : Where regrets come from.

    Examples
    --------
    >>> from sklearn_attn.bandits import DependencePattern, LongHorizonBandit
    >>> from sklearn_attn.bandits import LinUCB, RandomPolicy, RegretDisplay, run
    >>> game = LongHorizonBandit(DependencePattern.rank_one([1.0], [0.6, 0.8]))
    >>> results = {
    ...     "LinUCB": [run(LinUCB(), game, 200, seed=i) for i in range(3)],
    ...     "random": [run(RandomPolicy(i), game, 200, seed=i) for i in range(3)],
    ... }
    >>> display = RegretDisplay.from_results(results)
    >>> display.regrets["LinUCB"].shape
    (3, 200)
    """

    ax_: "Axes"
    figure_: "Figure | SubFigure"
    lines_: "list[Line2D]"

    def __init__(self, regrets: Any) -> None:
        self.regrets = regrets

    @classmethod
    def from_results(cls, results: Any, *, ax: Any = None) -> "RegretDisplay":
        """Draw the regret of games that were played.

        Parameters
        ----------
        results : dict of str to SimulationResult, or to list of SimulationResult
            The games of each policy. They have the same number of rounds.
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        RegretDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there is no game, or games of a policy differ in length.
        """
        regrets = {}
        for name, games in results.items():
            games = games if isinstance(games, list | tuple) else [games]
            lengths = sorted({len(game.regret) for game in games})
            if len(lengths) != 1:
                raise ValueError(
                    f"The games of {name!r} must be as long as each other, and one at "
                    f"least; got lengths {lengths}."
                )
            regrets[name] = np.array([game.regret for game in games])
        return cls(regrets).plot(ax)

    def plot(self, ax: Any = None, *, log: bool = False) -> "RegretDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.
        log : bool, default=False
            Whether both axes are logarithmic, so that powers of the rounds are lines.

        Returns
        -------
        RegretDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=FIGURE_INCHES, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_ = []
        for i, (name, regret) in enumerate(self.regrets.items()):
            regret = np.atleast_2d(regret)
            rounds = np.arange(1, regret.shape[1] + 1)
            mean, spread = regret.mean(0), regret.std(0)
            color = COLORS[i % len(COLORS)]
            style = LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)]
            label = f"{name}: {mean[-1]:,.0f}"
            self.lines_ += ax.plot(rounds, mean, color=color, ls=style, label=label)
            low = np.maximum(mean - spread, 0.1 * mean) if log else mean - spread
            ax.fill_between(rounds, low, mean + spread, color=color, alpha=0.15, lw=0)
        if log:
            ax.set(xscale="log", yscale="log")
        else:
            lowest = min(0.0, *(float(np.min(r)) for r in self.regrets.values()))
            ax.set(xlim=(0, None), ylim=(lowest, None))
        ax.set(xlabel="rounds played", ylabel="cumulative regret")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, title="policy: final regret")
        return self
