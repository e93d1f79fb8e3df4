"""Measured and simulated states: over time, on a sphere, or as turning axes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._arrays import to_numpy
from ._globe import VIEW, draw_globe, draw_path, draw_points
from ._manifolds import SpecialOrthogonal, Sphere

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Okabe and Ito's palette: told apart by colour-blind readers too.
MEASURED_COLOR, SIMULATED_COLOR, INPUT_COLOR = "black", "#D55E00", "#0072B2"
BAND_ALPHA = 0.25
AXIS_COLORS = {"x": "#D55E00", "y": "#009E73", "z": "#0072B2"}
WIDTH, HEIGHT = 8.0, 1.9  # inches, the height of one axes
GLOBE = 5.0  # inches, of a sphere


class TrajectoryDisplay:
    """Picture of a free run beside what was measured.

    Each state is drawn over time, in axes of its own. Points of the sphere are drawn on
    it, and rotations as the paths of the three axes of the body.

    The band holds a share of the runs of systems that are drawn from the distribution
    of the estimate, with noise of the estimated size: where the state is to be
    expected, given the initial state and the inputs.

    Build it with :meth:`from_estimator`.

    Parameters
    ----------
    times : ndarray of shape (n_steps + 1,)
        Times of the states.
    simulated : ndarray of shape (n_steps + 1, n_states)
        The free run. On a manifold also several, of shape
        (n_runs, n_steps + 1, n_states).
    measured : ndarray of the shape of simulated, default=None
        What was measured.
    low, high : ndarray of shape (n_steps + 1, n_states), default=None
        The ends of the band.
    inputs : ndarray of shape (n_steps, n_inputs), default=None
        The inputs, drawn below the states.
    level : float, default=None
        Share of the runs within the band, for the legend.
    state_names, input_names : list of str, default=None
        Names for the axes.
    time_name : str, default="step"
        Name of the time axis.
    manifold : {"sphere", "rotations"}, default=None
        What the states are: unit vectors, or rotation matrices row by row, whose
        columns are the axes of the body. None draws each state over time.
    view : tuple of two floats, default=(35.0, 25.0)
        Azimuth and elevation (degrees) of who looks at the sphere.

    Attributes
    ----------
    axes_ : ndarray of matplotlib.axes.Axes
        The axes, one for each state, and one for the inputs where they are drawn; a
        single one for a manifold.
    figure_ : matplotlib.figure.Figure
        Their figure.
    simulated_lines_, measured_lines_ : list of matplotlib.lines.Line2D
        The curves.
    bands_ : list of matplotlib.collections.PolyCollection
        The bands.

    See Also
    --------
    BilinearSystemIdentifier : Fits the system that is simulated.
    ManifoldNeuralODERegressor : Fits flows on the sphere, and of rotations.
    StabilityDisplay : How large inputs may become.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_boost_converter
    >>> from sklearn_attn.dynamics import BilinearSystemIdentifier, TrajectoryDisplay
    >>> X, y = make_boost_converter(3000, noise=0.01, random_state=0)
    >>> model = BilinearSystemIdentifier(fit_intercept=True).fit(X[:2000], y[:2000])
    >>> display = TrajectoryDisplay.from_estimator(
    ...     model, X[2000:, :2], X[2000:, 2:], state_names=["current", "voltage"])
    >>> len(display.axes_)
    2
    """

    axes_: np.ndarray
    figure_: "Figure | SubFigure"
    simulated_lines_: "list[Line2D]"
    measured_lines_: "list[Line2D]"
    bands_: "list[PolyCollection]"

    def __init__(
        self,
        times: Any,
        simulated: Any,
        *,
        measured: Any = None,
        low: Any = None,
        high: Any = None,
        inputs: Any = None,
        level: float | None = None,
        state_names: Any = None,
        input_names: Any = None,
        time_name: str = "step",
        manifold: str | None = None,
        view: tuple[float, float] = VIEW,
    ) -> None:
        self.times = times
        self.simulated = simulated
        self.measured = measured
        self.low = low
        self.high = high
        self.inputs = inputs
        self.level = level
        self.state_names = state_names
        self.input_names = input_names
        self.time_name = time_name
        self.manifold = manifold
        self.view = view

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        states: Any,
        inputs: Any = None,
        *,
        level: float | None = 0.95,
        n_systems: int = 100,
        random_state: Any = 0,
        show_inputs: bool = False,
        state_names: Any = None,
        input_names: Any = None,
        dt: float | None = None,
        times: Any = None,
        time_name: str | None = None,
        view: tuple[float, float] = VIEW,
        axes: Any = None,
    ) -> "TrajectoryDisplay":
        """Run a fitted model freely from the first measured state, and draw.

        Parameters
        ----------
        estimator : BilinearSystemIdentifier or ManifoldNeuralODERegressor
            A fitted model.
        states : array-like of shape (n_steps + 1, n_states) or (n_states,)
            Measured states. The first alone draws what is to be expected. For a flow
            also several runs, of shape (n_runs, n_steps + 1, n_states).
        inputs : array-like of shape (n_steps, n_inputs), default=None
            The inputs of each step. With as many inputs as states, the last is left
            out. None is no input.
        level : float, default=0.95
            Share of the runs within the band. None draws no band.
        n_systems : int, default=100
            Number of runs for the band.
        random_state : int, RandomState instance or None, default=0
            Seed of the runs.
        show_inputs : bool, default=False
            Whether to draw the inputs too.
        state_names, input_names : list of str, default=None
            Names for the axes. None takes those of the columns that the model saw.
        dt : float, default=None
            Time of a step. None takes that of a model in continuous time, or 1.
        times : array-like of shape (n_steps + 1,), default=None
            Times of the states, for a flow, which needs them.
        time_name : str, default=None
            Name of the time axis. None is "time" if there is a `dt`, else "step".
        view : tuple of two floats, default=(35.0, 25.0)
            Azimuth and elevation (degrees) of who looks at the sphere.
        axes : array of matplotlib Axes, default=None
            Where to draw, one for each state and one for inputs that are shown. None
            makes a figure.

        Returns
        -------
        TrajectoryDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If shapes do not fit, `level` is not between 0 and 1, a run overflows, or a
            flow comes without times or with inputs.
        """
        if hasattr(estimator, "predict_trajectory"):
            if inputs is not None or show_inputs:
                raise ValueError("A flow has no inputs to be drawn.")
            if state_names is None:
                state_names = getattr(estimator, "feature_names_in_", None)
            display = cls(
                **_follow_flow(estimator, states, times),
                state_names=state_names,
                time_name=time_name or "time",
                view=view,
            )
            return display.plot(axes)
        if level is not None and not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1; got {level!r}.")
        x = np.asarray(to_numpy(states), dtype=float)
        if inputs is None:
            inputs = np.zeros((max(0, len(x) - 1), 0))
        u = np.asarray(to_numpy(inputs), dtype=float)
        x0 = x if x.ndim == 1 else x[0]
        measured = x if x.ndim == 2 and len(x) > 1 else None
        if measured is not None and len(u) == len(x):
            u = u[:-1]
        if measured is not None and len(u) != len(x) - 1:
            raise ValueError(
                f"There are {len(x)} states and {len(u)} inputs; there must be one "
                "input for each step between states."
            )
        simulated = np.asarray(to_numpy(estimator.simulate(x0, u)))
        low = high = None
        if level is not None:
            low, high = _band(estimator, x0, u, level, n_systems, random_state)
        dt = dt or estimator.system_.dt
        names = getattr(estimator, "feature_names_in_", None)
        n = simulated.shape[1]
        if names is not None:
            state_names = names[:n] if state_names is None else state_names
            input_names = names[n:] if input_names is None else input_names
        display = cls(
            np.arange(len(simulated)) * (dt or 1.0),
            simulated,
            measured=measured,
            low=low,
            high=high,
            inputs=u if show_inputs else None,
            level=level,
            state_names=state_names,
            input_names=input_names,
            time_name=time_name or ("time" if dt else "step"),
        )
        return display.plot(axes)

    def plot(self, axes: Any = None) -> "TrajectoryDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        axes : array of matplotlib Axes, default=None
            Where to draw, one for each state and one for inputs that are shown. None
            makes a figure.

        Returns
        -------
        TrajectoryDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if self.manifold not in (None, "sphere", "rotations"):
            raise ValueError(
                "manifold must be 'sphere', 'rotations' or None; got "
                f"{self.manifold!r}."
            )
        if self.manifold is not None:
            if axes is None:
                _, axes = plt.subplots(figsize=(GLOBE, GLOBE), layout="constrained")
            return self._plot_globe(np.ravel(axes))
        n_states = self.simulated.shape[1]
        n_axes = n_states + (self.inputs is not None)
        if axes is None:
            _, axes = plt.subplots(
                n_axes,
                sharex=True,
                squeeze=False,
                figsize=(WIDTH, 0.8 + HEIGHT * n_axes),
                layout="constrained",
            )
        self.axes_ = np.ravel(axes)
        if len(self.axes_) != n_axes:
            raise ValueError(f"{n_axes} axes are needed; got {len(self.axes_)}.")
        self.figure_ = self.axes_[0].figure
        self.simulated_lines_, self.measured_lines_, self.bands_ = [], [], []
        for j, ax in enumerate(self.axes_[:n_states]):
            self._draw_state(ax, j)
        if self.inputs is not None:
            self._draw_inputs(self.axes_[-1])
        for ax in self.axes_:
            ax.spines[["top", "right"]].set_visible(False)
        self.axes_[-1].set_xlabel(self.time_name)
        self.axes_[0].legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False
        )
        return self

    def _plot_globe(self, axes: np.ndarray) -> "TrajectoryDisplay":
        """Draw runs on the sphere, or the three axes of a body along them."""
        self.axes_, self.figure_ = axes, axes[0].figure
        self.simulated_lines_, self.measured_lines_, self.bands_ = [], [], []
        draw_globe(axes[0], self.view)
        runs = {"measured": self.measured, "simulated": self.simulated}
        for name, run in runs.items():
            if run is not None:
                self._draw_runs(axes[0], name, np.asarray(run))
        axes[0].legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=2,
            frameon=False,
            fontsize="small",
        )
        return self

    def _draw_runs(self, ax: "Axes", name: str, runs: np.ndarray) -> None:
        is_measured = name == "measured"
        lines = self.measured_lines_ if is_measured else self.simulated_lines_
        style = {"lw": 4, "alpha": 0.35} if is_measured else {"lw": 1.4}
        if self.manifold == "sphere":
            color = MEASURED_COLOR if is_measured else SIMULATED_COLOR
            for i, run in enumerate(runs.reshape(-1, *runs.shape[-2:])):
                label = None if i else name
                lines += draw_path(
                    ax, run, self.view, color=color, label=label, **style
                )
                if not is_measured:
                    draw_points(ax, run[:1], self.view, color="black", s=14, zorder=4)
                    draw_points(ax, run[-1:], self.view, color=color, s=30, zorder=4)
            return
        frames = runs.reshape(-1, *runs.shape[-2:-1], 3, 3)
        for i, run in enumerate(frames):
            for j, (axis, color) in enumerate(AXIS_COLORS.items()):
                label = None if i else f"{axis} axis, {name}"
                lines += draw_path(
                    ax, run[:, :, j], self.view, color=color, label=label, **style
                )
                if not is_measured:
                    end = run[-1:, :, j]
                    draw_points(ax, end, self.view, color=color, s=40, zorder=4)

    def _draw_state(self, ax: "Axes", j: int) -> None:
        if self.low is not None:
            band = ax.fill_between(
                self.times,
                self.low[:, j],
                self.high[:, j],
                color=SIMULATED_COLOR,
                alpha=BAND_ALPHA,
                lw=0,
                label=f"{self.level:.0%} of runs" if self.level else "band",
            )
            self.bands_.append(band)
        if self.measured is not None:
            (line,) = ax.plot(self.times, self.measured[:, j], color=MEASURED_COLOR)
            line.set(lw=1.8, label="measured")
            self.measured_lines_.append(line)
        (line,) = ax.plot(self.times, self.simulated[:, j], color=SIMULATED_COLOR)
        line.set(lw=1.2, ls="--", label="simulated")
        self.simulated_lines_.append(line)
        ax.set_ylabel(f"x{j}" if self.state_names is None else self.state_names[j])

    def _draw_inputs(self, ax: "Axes") -> None:
        names = self.input_names
        if names is None:
            names = [f"u{k}" for k in range(self.inputs.shape[1])]
        for name, values in zip(names, self.inputs.T):
            held = np.append(values, values[-1:])
            color = INPUT_COLOR if len(names) == 1 else None
            ax.step(self.times, held, where="post", label=name, color=color)
        if len(names) == 1:
            ax.set_ylabel(names[0])
        else:
            ax.set_ylabel("inputs")
            ax.legend(frameon=False)


def _band(estimator, x0, u, level, n_systems, random_state):
    """Return quantiles of the runs of systems drawn from the estimate."""
    rng = check_random_state(random_state)
    systems = estimator.sample_systems(n_systems, random_state=rng)
    runs = [system.simulate(x0, u, noise=True, random_state=rng) for system in systems]
    return np.quantile(runs, [(1 - level) / 2, (1 + level) / 2], axis=0)


def _follow_flow(estimator, states, times):
    """Return what a display of a flow draws, from the first measured states on."""
    check_is_fitted(estimator)
    if times is None:
        raise ValueError("A flow needs the times of the states; got times=None.")
    times = np.asarray(to_numpy(times), dtype=float)
    x = np.asarray(to_numpy(states), dtype=float)
    shape = estimator.manifold_.shape
    if x.shape[-len(shape) :] == shape:  # matrices
        x = x.reshape(*x.shape[: -len(shape)], -1)
    is_single = x.ndim < 3
    measured = np.atleast_2d(x)[None] if is_single else x
    if measured.shape[1] not in (1, len(times)):
        raise ValueError(
            f"There are {measured.shape[1]} states, and {len(times)} times."
        )
    run = estimator.predict_trajectory(measured[:, 0], times, start=times[0])
    run = np.asarray(to_numpy(run))
    if run.shape[2:] != measured.shape[2:]:
        raise ValueError(
            f"The model reads {run.shape[2]} outputs from {measured.shape[2]} states; "
            "only flows of states to states have trajectories to be drawn."
        )
    known = {Sphere(2): "sphere", SpecialOrthogonal(3): "rotations"}
    manifold = known.get(estimator.manifold_)
    if manifold is None and not is_single:
        raise ValueError("Several runs are drawn on the sphere and of rotations only.")
    return {
        "times": times,
        "simulated": run[0] if is_single else run,
        "measured": None
        if measured.shape[1] != len(times)
        else (measured[0] if is_single else measured),
        "manifold": manifold,
    }
