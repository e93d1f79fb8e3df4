"""Eigenvalues of the augmented operator, and how far inputs may grow  (2208.13915)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ._bilinear_system import BilinearSystem

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Okabe and Ito's palette: told apart by colour-blind readers too.
EIGENVALUE_COLOR, CURVE_COLOR, CRITICAL_COLOR = "#0072B2", "black", "#D55E00"
N_LEVELS = 40
# The curve ends so far beyond the critical level, or beyond the level of the data.
BEYOND = 1.3
FIGURE_INCHES = (9.0, 4.0)


class StabilityDisplay:
    """Picture of whether a system with random inputs settles.

    Left, the eigenvalues of the augmented operator: the state has a mean and a
    covariance in the long run if all lie inside of the unit circle. Right, the largest
    modulus among them if the inputs' standard deviation is multiplied by a factor, and
    the factor at which it is 1.

    Build it with :meth:`from_estimator` or :meth:`from_system`.

    Parameters
    ----------
    eigenvalues : ndarray of complex
        Eigenvalues of the augmented operator.
    levels : ndarray of shape (n_levels,)
        Factors for the inputs' standard deviation.
    spectral_radii : ndarray of shape (n_levels,)
        Spectral radius at each.
    critical_input_level : float
        Where it is 1; infinite if nowhere.

    Attributes
    ----------
    axes_ : ndarray of matplotlib.axes.Axes
        The two axes.
    figure_ : matplotlib.figure.Figure
        Their figure.
    eigenvalues_ : matplotlib.collections.PathCollection
        The eigenvalues.
    curve_ : matplotlib.lines.Line2D
        The spectral radius.

    See Also
    --------
    BilinearSystem.critical_input_level : The number in the picture.
    TrajectoryDisplay : Measured and simulated states.

    Examples
    --------
    >>> from sklearn_attn.dynamics import BilinearSystem, StabilityDisplay
    >>> system = BilinearSystem(A=[[[0.6]], [[0.4]]])
    >>> StabilityDisplay.from_system(system).critical_input_level
    2.0
    """

    axes_: np.ndarray
    figure_: "Figure | SubFigure"
    eigenvalues_: "PathCollection"
    curve_: "Line2D"

    def __init__(
        self,
        eigenvalues: Any,
        levels: Any,
        spectral_radii: Any,
        critical_input_level: float,
    ) -> None:
        self.eigenvalues = eigenvalues
        self.levels = levels
        self.spectral_radii = spectral_radii
        self.critical_input_level = critical_input_level

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        input_cov: Any = None,
        input_mean: Any = None,
        axes: Any = None,
    ) -> "StabilityDisplay":
        """Draw the stability of a fitted model.

        Parameters
        ----------
        estimator : BilinearSystemIdentifier
            A fitted model.
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs at level 1. None is that of the data.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is that of the data, or zero with `input_cov`.
        axes : array of two matplotlib Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        StabilityDisplay
            The display, drawn.
        """
        mean, cov = estimator.input_moments(input_cov, input_mean)
        return cls.from_system(
            estimator.system_, input_cov=cov, input_mean=mean, axes=axes
        )

    @classmethod
    def from_system(
        cls,
        system: BilinearSystem,
        *,
        input_cov: Any = None,
        input_mean: Any = None,
        axes: Any = None,
    ) -> "StabilityDisplay":
        """Draw the stability of a system.

        Parameters
        ----------
        system : BilinearSystem
            The system.
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs at level 1. None is the identity.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is zero.
        axes : array of two matplotlib Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        StabilityDisplay
            The display, drawn.
        """
        critical = system.critical_input_level(input_cov, input_mean)
        last = BEYOND * max(1.0, critical if np.isfinite(critical) else 1.0)
        levels = np.sort(np.append(np.linspace(0, last, N_LEVELS), 1.0))
        mean, cov = system.input_moments(input_cov, input_mean)
        radii = [system.spectral_radius(level**2 * cov, mean) for level in levels]
        operator = system.augmented_operator(cov, mean)
        display = cls(operator.eigenvalues(), levels, np.array(radii), critical)
        return display.plot(axes)

    def plot(self, axes: Any = None) -> "StabilityDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        axes : array of two matplotlib Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        StabilityDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if axes is None:
            _, axes = plt.subplots(1, 2, figsize=FIGURE_INCHES, layout="constrained")
        self.axes_ = np.ravel(axes)
        if len(self.axes_) != 2:
            raise ValueError(f"Two axes are needed; got {len(self.axes_)}.")
        self.figure_ = self.axes_[0].figure
        self._draw_eigenvalues(self.axes_[0])
        self._draw_levels(self.axes_[1])
        return self

    def _draw_eigenvalues(self, ax: "Axes") -> None:
        angle = np.linspace(0, 2 * np.pi, 361)
        ax.plot(np.cos(angle), np.sin(angle), color="0.6", lw=1)
        values = np.asarray(self.eigenvalues)
        self.eigenvalues_ = ax.scatter(
            values.real, values.imag, s=22, color=EIGENVALUE_COLOR, zorder=3
        )
        radius = np.abs(values).max(initial=0.0)
        ax.set_aspect("equal", adjustable="datalim")
        ax.set(
            xlabel="real part",
            ylabel="imaginary part",
            title="Eigenvalues of the augmented operator:\n"
            f"spectral radius {radius:.3g}, {'' if radius < 1 else 'not '}stable",
        )
        ax.spines[["top", "right"]].set_visible(False)

    def _draw_levels(self, ax: "Axes") -> None:
        (self.curve_,) = ax.plot(self.levels, self.spectral_radii, color=CURVE_COLOR)
        at_one = np.interp(1.0, self.levels, self.spectral_radii)
        ax.plot([1], [at_one], "o", color=EIGENVALUE_COLOR, label="inputs as they are")
        ax.axhline(1, color="0.6", lw=1)
        critical = self.critical_input_level
        if np.isfinite(critical):
            label = f"stable up to {critical:.3g} times"
            ax.axvline(critical, color=CRITICAL_COLOR, ls="--", label=label)
        else:
            ax.plot([], [], " ", label="stable at every level")
        ax.set(
            xlabel="factor for the inputs' standard deviation",
            ylabel="spectral radius",
            title="How far may the inputs grow?",
            xlim=(0, self.levels[-1]),
        )
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
