"""Cards of the Wisconsin test as matrices A: a'A b is 1 if a is right  (2205.05820).

A card has a shape, a number and a colour, with four values each. There are four table
cards, and table card i has value i in everything; sorting a card means laying it to one
of them.
"""

from dataclasses import dataclass

import numpy as np

N_VALUES = 4
DIMENSIONS = ("shape", "number", "color")
SHAPES = ("triangle", "star", "cross", "circle")
COLORS = ("red", "green", "yellow", "blue")
# Okabe and Ito's palette, told apart by colour-blind readers too.
PAINT = {"red": "#D55E00", "green": "#009E73", "yellow": "#E69F00", "blue": "#0072B2"}
RULES = np.eye(len(DIMENSIONS))
# Where the symbols of a card lie, by their number; cards are 1 wide and 1.4 high.
HEIGHT = 1.4
PLACES = (
    ((0.5, 0.7),),
    ((0.5, 0.4), (0.5, 1.0)),
    ((0.5, 0.35), (0.28, 0.95), (0.72, 0.95)),
    ((0.28, 0.4), (0.72, 0.4), (0.28, 1.0), (0.72, 1.0)),
)
SYMBOL_RADIUS = 0.16


def card_matrix(card):
    """Return A of shape (4, 3): which table cards match a card, in each dimension."""
    return np.eye(N_VALUES)[np.asarray(card, dtype=int)].T


def card_name(card):
    """Return what a card shows, in words."""
    shape, number, color = card
    plural = "s" if number else ""
    if plural and SHAPES[shape] == "cross":
        plural = "es"
    return f"{number + 1} {COLORS[color]} {SHAPES[shape]}{plural}"


def draw_card(ax, card, left, bottom):
    """Draw a card of width 1 with its lower left corner there."""
    from matplotlib.patches import FancyBboxPatch

    shape, number, color = (int(value) for value in card)
    inset = 0.06
    ax.add_patch(
        FancyBboxPatch(
            (left + inset, bottom + inset),
            1 - 2 * inset,
            HEIGHT - 2 * inset,
            boxstyle="round,pad=0.04",
            facecolor="white",
            edgecolor="0.3",
        )
    )
    for x, y in PLACES[number]:
        center = left + x, bottom + y
        ax.add_patch(_symbol(SHAPES[shape], center, PAINT[COLORS[color]]))


def _symbol(name, center, color):
    from matplotlib.patches import Circle, Polygon

    if name == "circle":
        return Circle(center, SYMBOL_RADIUS, color=color, lw=0)
    if name == "triangle":
        corners = _star(3, 1.15, 1.15)
    elif name == "star":
        corners = _star(5, 1.2, 0.5)
    else:
        arm, length = 0.32, 1.0
        quarter = np.array([(arm, length), (arm, arm), (length, arm)])
        turn = np.array([(0, 1), (-1, 0)])  # a right angle
        corners = np.concatenate(
            [quarter @ np.linalg.matrix_power(turn, k).T for k in range(4)]
        )
    return Polygon(center + SYMBOL_RADIUS * np.asarray(corners), color=color, lw=0)


def _star(n, outer, inner):
    """Return corners that lie outside and inside in turn, the first one on top."""
    angles = np.pi / 2 + np.pi * np.arange(2 * n) / n
    radii = np.where(np.arange(2 * n) % 2 == 0, outer, inner)
    corners = radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    return corners[::2] if outer == inner else corners


@dataclass(frozen=True)
class Trial:
    """A card, where it was laid, and what was said of it; the latter may be to come."""

    card: tuple
    action: int | None = None
    reward: float | None = None


def draw_trial(figure, trial, title):
    """Draw the table cards, the card to sort below them, and where it was laid."""
    ax = figure.add_axes((0.02, 0.02, 0.96, 0.86))
    gap = 0.25
    lefts = [i * (1 + gap) for i in range(N_VALUES)]
    top = HEIGHT + 0.6
    for i, left in enumerate(lefts):
        draw_card(ax, (i, i, i), left, top)
    middle = (lefts[-1] + 1) / 2
    draw_card(ax, trial.card, middle - 0.5, 0.0)
    if trial.action is not None:
        is_right = trial.reward is not None and trial.reward > 0.5
        color = "#009E73" if is_right else "#D55E00"
        ax.annotate(
            "",
            xy=(lefts[trial.action] + 0.5, top - 0.02),
            xytext=(middle, HEIGHT + 0.02),
            arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2.5},
        )
        said = "right" if is_right else "wrong"
        ax.text(middle + 0.65, HEIGHT / 2, said, color=color, fontsize=15, va="center")
    ax.set(xlim=(-0.1, lefts[-1] + 1.1), ylim=(-0.1, top + HEIGHT + 0.1), aspect=1)
    ax.set_axis_off()
    figure.suptitle(title, fontsize=12)
