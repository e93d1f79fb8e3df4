"""The attention SVM in the plane, and gradient descent turning to it (2306.13596).

Prompts p and keys k share the plane. The arrow p_mm / ||p_mm||^2 starts at the origin;
its length 1 / ||p_mm|| is the margin: how far, along it, every support token stays
behind the selected token of its sequence.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import to_numpy
from .._solution import Solution
from ._solve_token_svm import TokenSVMSolution, solve_token_svm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation

# Okabe and Ito's palette: told apart by colour-blind readers too.
SEQUENCE_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
SEQUENCE_MARKERS = "osD^vP"
DIRECTION_COLOR = "#D55E00"
# Paths with names take their colours from here, without its lightest ones.
PATH_COLOR = "black"
PATH_COLORS, LIGHTEST = "viridis", 0.85
RING_SIZE, TOKEN_SIZE, START_SIZE = 190, 55, 16
BORDER = 0.1  # of the extent of what is drawn, on each side
REACH = 3.0  # how far to follow a path, in norms of the farthest token or start
FIGURE_INCHES = (7.5, 5.0)


class MarginDisplay:
    """Picture of tokens in the plane, and of the direction that selects some of them.

    Each sequence has a colour and a marker; its selected token is filled. The arrow is
    the direction of the attention SVM, and as long as the margin. Rings mark the
    support tokens; a line of the arrow's length leads from each to the height of
    the selected token. Curves are prompts of gradient descent. They turn to the dashed
    ray, and leave the picture.

    Build it with :meth:`from_tokens`.

    Parameters
    ----------
    K : ndarray of shape (n_samples, n_tokens, 2)
        The keys.
    selected : ndarray of int of shape (n_samples,)
        Index of the selected token in each sequence.
    svm : TokenSVMSolution
        The attention SVM, from :func:`solve_token_svm`.
    mask : ndarray of bool of shape (n_samples, n_tokens), default=None
        True where there is a token, False for padding. None means no padding.
    descent : list of ndarray of shape (n_steps, 2), default=()
        Paths of prompts.
    descent_names : list of str, default=None
        Names of the paths for the legend. None names all of them "gradient descent".

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes with the picture.
    figure_ : matplotlib.figure.Figure
        Its figure.
    arrow_ : matplotlib.text.Annotation
        The direction of the attention SVM; `arrow_.xy` is its head.
    tokens_ : list of matplotlib.collections.PathCollection
        The tokens of each sequence.
    support_ : matplotlib.collections.PathCollection
        The rings of the support tokens.
    paths_ : list of matplotlib.lines.Line2D
        The paths of descent.

    See Also
    --------
    AttentionDisplay : The attention weights of a fitted estimator.
    solve_token_svm : The attention SVM.
    attention_descent : Gradient descent on the prompt.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.attention import MarginDisplay, attention_descent
    >>> K = [[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]]]
    >>> descent = attention_descent(K, head=[0.0, 1.0], prompt=[0.0, -1.0])
    >>> display = MarginDisplay.from_tokens(K, [0], descent=descent)
    >>> np.round(display.arrow_.xy, 2)
    array([-0.1,  1. ])
    """

    ax_: "Axes"
    figure_: "Figure | SubFigure"
    arrow_: "Annotation"
    tokens_: "list[PathCollection]"
    support_: "PathCollection"
    paths_: "list[Line2D]"

    def __init__(
        self,
        K: Any,
        selected: Any,
        svm: TokenSVMSolution,
        *,
        mask: Any = None,
        descent: Any = (),
        descent_names: Any = None,
    ):
        self.K = K
        self.selected = selected
        self.svm = svm
        self.mask = mask
        self.descent = descent
        self.descent_names = descent_names

    @classmethod
    def from_tokens(
        cls,
        K: Any,
        selected: Any,
        *,
        mask: Any = None,
        relaxed: Any = None,
        descent: Any = None,
        ax: Any = None,
        **path_kwargs: Any,
    ) -> "MarginDisplay":
        """Solve the attention SVM and draw it.

        Parameters
        ----------
        K : array-like of shape (n_samples, n_tokens, 2)
            The keys.
        selected : array-like of int of shape (n_samples,)
            Index of the selected token in each sequence.
        mask : array-like of bool of shape (n_samples, n_tokens), default=None
            True where there is a token, False for padding. None means no padding.
        relaxed : array-like of bool of shape (n_samples,), default=None
            Sequences that need a margin of 0 instead of 1. None relaxes none.
        descent : Solution, array-like of shape (n_steps, 2), or list or dict of them, \
                default=None
            Paths to draw: what :func:`attention_descent` returned, or prompts. The keys
            of a dict name them in the legend.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a figure.
        **path_kwargs : dict
            Passed to ``Axes.plot`` for the paths.

        Returns
        -------
        MarginDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If keys or paths are not 2-D vectors, or no direction selects these tokens.
        """
        K = np.asarray(to_numpy(K), dtype=float)
        if K.ndim != 3 or K.shape[2] != 2:
            raise ValueError(
                "A plane is drawn: K must have shape (n_samples, n_tokens, 2); got "
                f"{K.shape}."
            )
        svm = solve_token_svm(K, selected, mask=mask, relaxed=relaxed)
        if svm.p is None:
            raise ValueError(
                "No direction selects these tokens: the attention SVM is infeasible, "
                f"by the pairs (sequence, token) {svm.support.tolist()}."
            )
        if not svm.p.any():
            raise ValueError(
                "There is nothing to select from: each sequence has one token only, or "
                "is relaxed."
            )
        paths, names = _as_paths(descent)
        display = cls(
            K,
            np.asarray(to_numpy(selected)),
            svm,
            mask=None if mask is None else np.asarray(to_numpy(mask), dtype=bool),
            descent=paths,
            descent_names=names,
        )
        return display.plot(ax, **path_kwargs)

    def plot(self, ax: Any = None, **path_kwargs: Any) -> "MarginDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a figure.
        **path_kwargs : dict
            Passed to ``Axes.plot`` for the paths.

        Returns
        -------
        MarginDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=FIGURE_INCHES, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        present = np.ones(self.K.shape[:2], bool) if self.mask is None else self.mask
        # p_mm / ||p_mm||^2: in this direction, and as long as the margin
        arrow = np.asarray(self.svm.p) * self.svm.margin**2
        low, high = self._limits(self.K[present], arrow)
        self._draw_tokens(present)
        self._draw_support(arrow)
        self._draw_direction(arrow, reach=np.abs([low, high]).sum())
        self._draw_paths(path_kwargs)
        # what counts for the view, also when more is drawn later: not the paths' ends
        ax.dataLim.set_points(np.array([low, high]))
        ax.margins(0)
        ax.autoscale_view()
        ax.set_aspect("equal", adjustable="datalim")  # leaves the legend its room
        ax.set(xlabel="coordinate 1 of keys and prompts", ylabel="coordinate 2")
        ax.spines[["top", "right"]].set_visible(False)
        self._explain()
        return self

    def _limits(self, keys, arrow):
        """Return the corners of a view that shows the paths turn, not where they go."""
        starts = [path[0] for path in self.descent]
        points = np.concatenate([keys, [0 * arrow, arrow, *starts]])
        reach = REACH * np.linalg.norm(points, axis=1).max()
        within = [path[np.linalg.norm(path, axis=1) < reach] for path in self.descent]
        points = np.concatenate([points, *within])
        low, high = points.min(0), points.max(0)
        border = BORDER * (high - low).max()
        return low - border, high + border

    def _draw_tokens(self, present):
        """Draw hollow markers, and a filled one for the selected token."""
        self.tokens_ = []
        for i, (keys, selected) in enumerate(zip(self.K, self.selected)):
            tokens = np.flatnonzero(present[i])
            color, marker = _style(i)
            faces = np.where(tokens == selected, color, "white")
            style = {"marker": marker, "edgecolors": color, "linewidths": 1.5}
            style |= {"s": TOKEN_SIZE, "c": faces, "zorder": 3}
            self.tokens_.append(self.ax_.scatter(*keys[tokens].T, **style))

    def _draw_support(self, arrow):
        """Ring the support tokens; draw how far they stay behind the selected ones."""
        sequences, tokens = self.svm.support.T
        behind = self.K[sequences, tokens]
        self.support_ = self.ax_.scatter(
            *behind.T, s=RING_SIZE, facecolors="none", edgecolors="black", zorder=4
        )
        for i, key in zip(sequences, behind):
            ahead = self.K[i, self.selected[i]]
            height = key + arrow * ((ahead - key) @ arrow) / (arrow @ arrow)
            style = {"color": _style(i)[0], "lw": 1, "zorder": 1}
            self.ax_.plot(*np.transpose([key, height]), **style)
            self.ax_.plot(*np.transpose([height, ahead]), ls=":", **style)

    def _draw_direction(self, arrow, reach):
        """Draw the direction of the attention SVM, and where it leads."""
        end = arrow * reach / np.linalg.norm(arrow)
        style = {"color": DIRECTION_COLOR, "zorder": 2}
        self.ax_.plot(*np.transpose([0 * end, end]), ls="--", lw=1, **style)
        style |= {"arrowstyle": "-|>", "lw": 2.5, "mutation_scale": 18}
        style |= {"shrinkA": 0, "shrinkB": 0}
        self.arrow_ = self.ax_.annotate("", tuple(arrow), (0, 0), arrowprops=style)

    def _draw_paths(self, path_kwargs):
        """Draw the paths of descent, and dots where they start."""
        import matplotlib as mpl

        colors = [PATH_COLOR] * len(self.descent)
        if self.descent_names is not None:
            shades = np.linspace(0, LIGHTEST, len(self.descent))
            colors = mpl.colormaps[PATH_COLORS](shades)
        self.paths_ = []
        for path, color in zip(self.descent, colors):
            style = {"color": color, "lw": 1.5, "zorder": 2.5} | path_kwargs
            (line,) = self.ax_.plot(*path.T, **style)
            self.paths_.append(line)
            dot = {"s": START_SIZE, "color": line.get_color(), "zorder": 3}
            self.ax_.scatter(*path[0], **dot)

    def _explain(self):
        """Write a legend beside the picture."""
        from matplotlib.lines import Line2D

        def entry(label, **style):
            return Line2D([], [], label=label, **({"ls": "none"} | style))

        sequences = range(len(self.K) if 1 < len(self.K) <= len(SEQUENCE_COLORS) else 0)
        styles = [_style(i) for i in sequences]
        handles = [
            entry(f"sequence {i}", marker=marker, color=color)
            for i, (color, marker) in zip(sequences, styles)
        ]
        color = "dimgray" if len(self.K) > 1 else SEQUENCE_COLORS[0]
        ring = {"markersize": RING_SIZE**0.5, "mfc": "none", "color": "black"}
        margin = f"attention SVM,\nmargin {self.svm.margin:.3g}"
        handles += [
            entry("selected token", marker="o", color=color),
            entry("other token", marker="o", color=color, mfc="white", mew=1.5),
            entry("support token", marker="o", **ring),
            entry(margin, marker=">", color=DIRECTION_COLOR, ls="-", lw=2.5),
        ]
        names = self.descent_names or ["gradient descent"] * bool(self.paths_)
        handles += [
            entry(name, color=line.get_color(), ls="-", lw=line.get_linewidth())
            for name, line in zip(names, self.paths_)
        ]
        self.ax_.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            labelspacing=0.8,
        )


def _as_paths(descent):
    """Return the paths as arrays, and their names if they have some."""
    if descent is None:
        return [], None
    names = None
    if isinstance(descent, Mapping):
        names, descent = list(descent), list(descent.values())
    elif isinstance(descent, Solution) or np.ndim(descent[0]) == 1:
        descent = [descent]
    paths = [
        path.history["p"] if isinstance(path, Solution) else to_numpy(path)
        for path in descent
    ]
    paths = [np.asarray(path, dtype=float) for path in paths]
    for path in paths:
        if path.ndim != 2 or path.shape[1] != 2:
            raise ValueError(
                "A plane is drawn: each path of descent must have shape (n_steps, 2); "
                f"got {path.shape}."
            )
    return paths, names


def _style(i):
    """Return colour and marker of a sequence."""
    return (
        SEQUENCE_COLORS[i % len(SEQUENCE_COLORS)],
        SEQUENCE_MARKERS[i % len(SEQUENCE_MARKERS)],
    )
