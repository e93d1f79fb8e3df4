"""The supernet, and the path a_t of each task through its layers  (2303.04338)."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._arrays import to_numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.text import Text

# Okabe and Ito's palette: told apart by colour-blind readers too.
GROUP_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PATH_COLOR, BESIDE_GROUPS = "#0072B2", "0.45"
PALE, INK = "0.85", "0.15"
# Points: the line of a path that all tasks take, that of one that few of many take, and
# that of one that none takes.
WIDEST, THINNEST, UNUSED_WIDTH = 16.0, 0.8, 0.5
# More lines that no task takes than this are a carpet: they are left out.
MOST_UNUSED = 300
COLUMN_INCHES, ROW_INCHES, LEAST_INCHES, MARGIN_INCHES = 2.4, 0.34, 2.4, 0.9
LARGEST_FONT, SMALLEST_FONT, FONT_OF_ROW = 9.5, 3.0, 0.5
BOX = 0.25  # half of the width of a box at most, in columns
SHOWN_NAMES = 3  # of the tasks of a box


class PathwayDisplay:
    """Picture of a supernet, and of the tasks that share its modules.

    From left to right: the features, the modules of each layer, and the tasks. A line
    is as thick as the tasks that take it are many. Modules and lines without a task are
    pale.

    Build it with :meth:`from_estimator`.

    Parameters
    ----------
    supernet : Supernet
        Layers of modules.
    paths : ndarray of int of shape (n_tasks, n_layers)
        The module of each layer for each task.
    tasks : ndarray of shape (n_tasks,)
        Names of the tasks.
    groups : ndarray of shape (n_tasks,), default=None
        What is known of the tasks.
    max_tasks : int, default=12
        As in :meth:`from_estimator`.
    max_rows : int, default=40
        As in :meth:`from_estimator`.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        Their figure.
    boxes_ : list of list of matplotlib.text.Text
        The boxes of each column, from the first that is drawn, at the top, on.
    edges_ : list of matplotlib.collections.PathCollection
        The lines from each column to the next that tasks take.
    loads_ : list of ndarray of int
        How many tasks take each of these lines.
    unused_ : list of matplotlib.collections.PathCollection
        The lines from each layer to the next that no task takes.

    See Also
    --------
    MultipathMTL : Finds the paths.
    SampleRiskDisplay : How many samples they save.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_multipath_tasks
    >>> from sklearn_attn.multitask import MultipathMTL, PathwayDisplay
    >>> X, y, tasks = make_multipath_tasks(20, 20, layers=((2, 2),), random_state=0)
    >>> model = MultipathMTL(((3, 2),), n_init=1, random_state=0)
    >>> display = PathwayDisplay.from_estimator(model.fit(X, y, tasks=tasks))
    >>> int(display.loads_[0].sum())  # tasks
    20
    """

    ax_: "Axes"
    figure_: "Figure | SubFigure"
    boxes_: "list[list[Text]]"
    edges_: "list[PathCollection]"
    loads_: "list[np.ndarray]"
    unused_: "list[PathCollection]"

    def __init__(
        self,
        supernet: Any,
        paths: Any,
        tasks: Any,
        *,
        groups: Any = None,
        max_tasks: int = 12,
        max_rows: int = 40,
    ) -> None:
        self.supernet = supernet
        self.paths = paths
        self.tasks = tasks
        self.groups = groups
        self.max_tasks = max_tasks
        self.max_rows = max_rows

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        tasks: Any = None,
        groups: Any = None,
        ax: Any = None,
        max_tasks: int = 12,
        max_rows: int = 40,
    ) -> "PathwayDisplay":
        """Draw the paths of a fitted estimator.

        Parameters
        ----------
        estimator : MultipathMTL or MultipathMTLClassifier
            A fitted estimator.
        tasks : array-like, default=None
            Names of the tasks to draw. None draws all.
        groups : array-like of shape (n_tasks,), default=None
            What is known of the tasks that are drawn. Tasks of a group then share a box
            and a colour, to be compared with their paths.
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure that is large enough.
        max_tasks : int, default=12
            If there are more tasks than this, those of the same path share a box.
        max_rows : int, default=40
            The boxes of a column, at most. If there are more modules, the ones that
            fewest tasks use share the last box.

        Returns
        -------
        PathwayDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If it has no paths, a task is not known, or groups are not as many as tasks.
        """
        check_is_fitted(estimator)
        if not (hasattr(estimator, "paths_") and hasattr(estimator, "supernet_")):
            raise ValueError(
                "Paths are drawn, of a MultipathMTL or MultipathMTLClassifier; got "
                f"{type(estimator).__name__}. Pass the last step of a pipeline, or the "
                "best_estimator_ of a search."
            )
        paths, names = to_numpy(estimator.paths_), to_numpy(estimator.tasks_)
        if tasks is not None:
            places = {name: i for i, name in enumerate(names.tolist())}
            wanted = np.atleast_1d(to_numpy(tasks)).tolist()
            unknown = [name for name in wanted if name not in places]
            if unknown or not wanted:
                raise ValueError(
                    f"Some of the {len(names)} tasks of tasks_ are wanted, such as "
                    f"{names[0]!r}; got {unknown or wanted}."
                )
            chosen = [places[name] for name in wanted]
            paths, names = paths[chosen], names[chosen]
        if groups is not None:
            groups = np.asarray(to_numpy(groups))
            if groups.shape != names.shape:
                raise ValueError(
                    f"groups must have shape {names.shape}, one for each task that is "
                    f"drawn; got {groups.shape}."
                )
        display = cls(
            estimator.supernet_,
            paths,
            names,
            groups=groups,
            max_tasks=max_tasks,
            max_rows=max_rows,
        )
        return display.plot(ax)

    def plot(self, ax: Any = None) -> "PathwayDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure that is large enough.

        Returns
        -------
        PathwayDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        nodes, captions = self._columns()
        heights = [self._heights(*each) for each in nodes]
        n_rows = max(map(len, heights))
        if ax is None:
            tall = max(LEAST_INCHES, ROW_INCHES * n_rows) + MARGIN_INCHES
            size = (COLUMN_INCHES * len(nodes), tall)
            _, ax = plt.subplots(figsize=size, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        points = ax.get_window_extent().height * 72 / ax.figure.dpi
        font = np.clip(FONT_OF_ROW * points / n_rows, SMALLEST_FONT, LARGEST_FONT)
        colors = self._colors(len(nodes[-1][1]))
        self._draw_unused(nodes, heights)
        self._draw_edges(nodes, heights, colors)
        self.boxes_ = []
        for column, ((codes, label), height) in enumerate(zip(nodes, heights)):
            load = np.bincount(codes, minlength=len(label))
            last = column == len(nodes) - 1
            edge = colors if last and colors else [self._path_color()] * len(label)
            self.boxes_.append(
                [
                    self._draw_box(column, height[i], label[i], load[i], edge[i], font)
                    for i in np.argsort(-height, kind="stable")
                ]
            )
        for column, caption in enumerate(captions):
            ax.text(column, 1.0, caption, ha="center", va="bottom", weight="bold")
        ax.text(
            (len(nodes) - 1) / 2,
            -0.02,
            "Lines are as thick as the tasks that take them are many; pale: none.",
            ha="center",
            va="top",
            color="0.4",
            size="small",
        )
        ax.set(xlim=(-0.45, len(nodes) - 0.55), ylim=(-0.03, 1.08))
        ax.set_axis_off()
        return self

    def _columns(self):
        """Return codes of tasks and labels of boxes of each column, and captions."""
        n_tasks, n_features = len(self.paths), self.supernet.n_features
        nodes = [(np.zeros(n_tasks, int), [_count(n_features, "feature")])]
        captions = ["input"]
        for layer, (n_modules, width) in enumerate(self.supernet.layers):
            codes = self.paths[:, layer]
            load = np.bincount(codes, minlength=n_modules)
            titles = [
                f"module {i}: " + (_count(n, "task") if n else "unused")
                for i, n in enumerate(load)
            ]
            nodes.append(self._merged(codes, titles, load, "module"))
            captions.append(
                f"layer {layer + 1}:\n{_count(n_modules, 'module')} of width {width}"
            )
        if self.groups is not None:
            found, codes = np.unique(self.groups, return_inverse=True)
            titles = [
                f"{name}: {_count(n, 'task')}"
                for name, n in zip(found, np.bincount(codes))
            ]
            kind, caption = "group", "tasks, by group"
        elif n_tasks <= self.max_tasks:
            codes, titles = np.arange(n_tasks), [f"task {name}" for name in self.tasks]
            kind, caption = "task", "tasks"
        else:
            _, codes = np.unique(self.paths, axis=0, return_inverse=True)
            codes = codes.ravel()
            titles = [
                _some(self.tasks[codes == code]) for code in range(codes.max() + 1)
            ]
            kind, caption = "path", "tasks, by path"
        nodes.append(self._merged(codes, titles, np.bincount(codes), kind))
        return nodes, [*captions, caption]

    def _merged(self, codes, titles, load, kind):
        """Return codes and labels of no more boxes than fit, the last for the rest."""
        if len(titles) <= self.max_rows:
            return codes, titles
        kept = np.sort(np.argsort(-load, kind="stable")[: self.max_rows - 1])
        place = np.full(len(titles), len(kept))
        place[kept] = np.arange(len(kept))
        n_rest, rest = len(titles) - len(kept), int(load.sum() - load[kept].sum())
        title = _Rest(f"{_count(n_rest, f'other {kind}')}: {_count(rest, 'task')}")
        return place[codes], [*(titles[i] for i in kept), title]

    def _heights(self, codes, labels):
        """Return heights from 1 to 0: first tasks on top, unused boxes below."""
        n_boxes = len(labels)
        keys = self.paths.T[::-1]
        if self.groups is not None:
            keys = [*keys, np.unique(self.groups, return_inverse=True)[1]]
        rank = np.empty(len(codes))
        rank[np.lexsort(keys)] = np.arange(len(codes))
        load = np.bincount(codes, minlength=n_boxes)
        mean = np.bincount(codes, rank, minlength=n_boxes) / np.maximum(load, 1)
        # boxes of the rest come last too: the mean of many tasks says nothing
        is_rest = [isinstance(label, _Rest) for label in labels]
        order = np.lexsort([np.where(load, mean, np.inf), is_rest])
        heights = np.empty(n_boxes)
        heights[order] = 1 - (np.arange(n_boxes) + 0.5) / n_boxes
        return heights

    def _colors(self, n_groups):
        """Return the colours of known groups."""
        if self.groups is None:
            return None
        return [GROUP_COLORS[i % len(GROUP_COLORS)] for i in range(n_groups)]

    def _path_color(self):
        return PATH_COLOR if self.groups is None else BESIDE_GROUPS

    def _draw_edges(self, nodes, heights, colors):
        """Draw what tasks take from each column to the next."""
        self.edges_, self.loads_ = [], []
        for column, ((before, _), (after, _)) in enumerate(pairwise(nodes)):
            pairs, load = np.unique(
                np.column_stack([before, after]), axis=0, return_counts=True
            )
            width = np.maximum(WIDEST * load / len(before), THINNEST)
            shades = self._path_color()
            if colors and column == len(nodes) - 2:
                shades = [colors[group] for _, group in pairs]
            ends = heights[column][pairs[:, 0]], heights[column + 1][pairs[:, 1]]
            self.edges_.append(
                self._curves(column, *ends, linewidths=width, edgecolors=shades)
            )
            self.loads_.append(load)

    def _draw_unused(self, nodes, heights):
        """Draw what tasks could take from each layer to the next, but do not."""
        self.unused_ = []
        net = self.supernet
        for column, ((a, _), (b, _)) in enumerate(pairwise(nodes[:-1])):
            n, m = len(heights[column]), len(heights[column + 1])
            if n * m > MOST_UNUSED:
                continue
            is_free = np.ones((n, m), dtype=bool)
            is_free[a, b] = False
            drawn_in_full = (n, m) == ((1, *net.n_modules)[column : column + 2])
            if net.tree and drawn_in_full:
                is_free &= np.arange(m) * n // m == np.arange(n)[:, None]
            i, j = np.nonzero(is_free)
            ends = heights[column][i], heights[column + 1][j]
            self.unused_.append(
                self._curves(
                    column, *ends, linewidths=UNUSED_WIDTH, edgecolors=PALE, zorder=0.5
                )
            )

    def _curves(self, column, start, end, **style):
        """Draw curves that are level as far as boxes reach."""
        from matplotlib.collections import PathCollection
        from matplotlib.path import Path

        codes = [Path.MOVETO, Path.LINETO, *[Path.CURVE4] * 3, Path.LINETO]
        x = column + np.array([0, BOX, 0.5, 0.5, 1 - BOX, 1])
        paths = [
            Path(np.column_stack([x, [a, a, a, b, b, b]]), codes)
            for a, b in zip(start, end)
        ]
        style = {"facecolors": "none", "capstyle": "butt", "zorder": 1} | style
        return self.ax_.add_collection(PathCollection(paths, **style))

    def _draw_box(self, column, height, label, load, edge, font):
        frame = {"boxstyle": "round,pad=0.3", "fc": "white", "lw": 1.2}
        frame["ec"] = edge if load else PALE
        return self.ax_.text(
            column,
            height,
            label,
            ha="center",
            va="center",
            size=font,
            color=INK if load else "0.7",
            bbox=frame,
            zorder=2,
        )


class _Rest(str):
    """The label of a box of all that found no place."""

    __slots__ = ()


def _count(n, what):
    return f"{n} {what}{'' if n == 1 else 's'}"


def _some(names):
    """Return how many tasks there are, and the first of their names."""
    shown = ", ".join(str(name) for name in names[:SHOWN_NAMES])
    more = ", …" if len(names) > SHOWN_NAMES else ""
    return f"{_count(len(names), 'task')}: {shown}{more}"
