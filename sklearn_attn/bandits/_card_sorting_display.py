"""Right answers over the trials of the card task, for several agents  (2205.05820)."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ._cards import DIMENSIONS
from ._regret_display import COLORS, FIGURE_INCHES, LINE_STYLES, SHADE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D


class CardSortingDisplay:
    """Picture of rewards in the Wisconsin Card Sorting Task, with its rules shaded.

    A line is the mean over the games of an agent. Where one game is drawn for each, and
    they have the same rules, blocks are named by their rule.

    Build it with :meth:`from_results`.

    Parameters
    ----------
    rewards : dict of str to ndarray of shape (n_games, n_trials)
        Rewards of each agent in each game.
    switches : ndarray of int of shape (n_switches,)
        Trials that are the first under another rule, counted from 0.
    rules : ndarray of int of shape (n_switches + 1,) or None
        The rules; None if games differ.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        Their figure.
    lines_ : list of matplotlib.lines.Line2D
        A line for each agent.

    See Also
    --------
    card_sorting_scores : What is counted in a game.

    Examples
    --------
    >>> from sklearn_attn.bandits import CardSortingDisplay, TabularQAgent
    >>> from sklearn_attn.bandits import WisconsinCardSortingEnv, run
    >>> game = WisconsinCardSortingEnv()
    >>> games = [run(TabularQAgent(random_state=i), game, 100) for i in range(3)]
    >>> CardSortingDisplay.from_results({"Q-learning": games}).switches
    array([20, 40, 60, 80])
    """

    ax_: "Axes"
    figure_: "Figure | SubFigure"
    lines_: "list[Line2D]"

    def __init__(self, rewards: Any, switches: Any, rules: Any = None) -> None:
        self.rewards, self.switches, self.rules = rewards, switches, rules

    @classmethod
    def from_results(
        cls, results: Any, *, ax: Any = None, cumulative: bool = True
    ) -> "CardSortingDisplay":
        """Draw games that were played.

        Parameters
        ----------
        results : dict of str to SimulationResult, or to list of SimulationResult
            The games of each agent, with rules that change in the same trials.
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.
        cumulative : bool, default=True
            As in :meth:`plot`.

        Returns
        -------
        CardSortingDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there is no game, or games differ in length or in when rules change.
        """
        games = {
            name: list(each) if isinstance(each, list | tuple) else [each]
            for name, each in results.items()
        }
        every = [game for each in games.values() for game in each]
        if not all("switched" in game.info for game in every):
            raise ValueError("Results must be of a WisconsinCardSortingEnv.")
        kinds = {
            (len(game.rewards), *np.flatnonzero(game.info["switched"]))
            for game in every
        }
        if len(kinds) != 1:
            raise ValueError(
                "There must be a game at least, and rules must change in the same "
                "trials of all games, as with criterion='fixed'; got "
                f"{len(kinds)} kinds of games."
            )
        ((_, *changes),) = kinds
        switches = np.array(changes, dtype=int)
        rules = {tuple(game.info["rule"][[0, *switches]]) for game in every}
        rewards = {
            name: np.array([g.rewards for g in each]) for name, each in games.items()
        }
        same = np.array(rules.pop()) if len(rules) == 1 else None
        return cls(rewards, switches, same).plot(ax, cumulative=cumulative)

    def plot(self, ax: Any = None, *, cumulative: bool = True) -> "CardSortingDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.
        cumulative : bool, default=True
            Whether to add up rewards so far. If not, the mean reward of each trial is
            drawn.

        Returns
        -------
        CardSortingDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=FIGURE_INCHES, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_ = []
        n_trials = next(iter(self.rewards.values())).shape[1]
        edges = np.array([0, *self.switches, n_trials]) + 0.5
        for i, (start, end) in enumerate(pairwise(edges)):
            if i % 2:
                ax.axvspan(start, end, color=SHADE, lw=0, zorder=0)
            if self.rules is not None:
                ax.text(
                    (start + end) / 2,
                    1.02,
                    DIMENSIONS[self.rules[i]],
                    transform=ax.get_xaxis_transform(),
                    ha="center",
                    color="0.3",
                )
        trials = np.arange(1, n_trials + 1)
        for i, (name, rewards) in enumerate(self.rewards.items()):
            mean = rewards.mean(0)
            self.lines_ += ax.plot(
                trials,
                np.cumsum(mean) if cumulative else mean,
                color=COLORS[i % len(COLORS)],
                ls=LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)],
                label=f"{name}: {mean.sum():.1f}",
            )
        ax.set(xlim=(0.5, n_trials + 0.5), ylim=(0, None))
        ax.set_xlabel("trials, shaded by rule")
        ax.set_ylabel("rewards so far" if cumulative else "reward of the trial")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, title="agent: rewards in all")
        return self
