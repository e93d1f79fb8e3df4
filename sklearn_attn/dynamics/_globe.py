"""A sphere seen from afar, and paths on it: solid in front, faint behind."""

import numpy as np

GRID_COLOR, BEHIND_ALPHA = "#999999", 0.3
GRID_STEP = 30  # degrees between circles of latitude and of longitude
VIEW = (35.0, 25.0)  # azimuth and elevation (degrees) of who looks


def project(points, view=VIEW):
    """Return where points of the sphere are seen, and whether they are in front.

    Parameters
    ----------
    points : ndarray of shape (n_points, 3)
        Unit vectors.
    view : tuple of two floats
        Azimuth and elevation (degrees) of who looks.

    Returns
    -------
    xy : ndarray of shape (n_points, 2)
        Orthographic projection, right and up.
    in_front : ndarray of bool of shape (n_points,)
        Whether the sphere does not hide them.
    """
    azimuth, elevation = np.radians(view)
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    out = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    up = np.cross(out, right)
    return points @ np.stack([right, up], 1), points @ out >= 0


def draw_globe(ax, view=VIEW):
    """Draw the sphere, with circles of latitude and longitude, into empty axes."""
    turn = np.radians(np.linspace(0, 360, 181))
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    ax.fill(*circle.T, color="#f7f7f7", zorder=-3)
    ax.plot(*circle.T, color=GRID_COLOR, lw=1, zorder=3)
    for degrees in range(-90 + GRID_STEP, 90, GRID_STEP):
        radius, height = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        parallel = np.c_[radius * circle, np.full(len(circle), height)]
        draw_path(ax, parallel, view, color=GRID_COLOR, lw=0.5, zorder=-2)
    for degrees in range(0, 180, GRID_STEP):
        a = np.radians(degrees)
        meridian = np.c_[
            np.cos(a) * circle[:, 0], np.sin(a) * circle[:, 0], circle[:, 1]
        ]
        draw_path(ax, meridian, view, color=GRID_COLOR, lw=0.5, zorder=-2)
    ax.set_aspect("equal")
    ax.set_axis_off()


def draw_path(ax, points, view=VIEW, *, label=None, **style):
    """Draw a path through points on the sphere; return its two lines."""
    xy, in_front = project(np.asarray(points), view)
    lines = []
    for visible, alpha in ((in_front, 1.0), (~in_front, BEHIND_ALPHA)):
        # each part reaches to where the other begins
        reach = visible.copy()
        reach[1:] |= visible[:-1]
        seen = np.where(reach[:, None], xy, np.nan)
        (line,) = ax.plot(
            *seen.T,
            alpha=alpha * style.get("alpha", 1.0),
            **{name: value for name, value in style.items() if name != "alpha"},
        )
        lines.append(line)
    if label is not None:
        lines[0].set_label(label)
    return lines


def draw_points(ax, points, view=VIEW, **style):
    """Draw points on the sphere, hollow where they are behind it."""
    xy, in_front = project(np.asarray(points), view)
    color = style.pop("color", "black")
    ax.scatter(
        *xy.T,
        facecolors=[color if front else "none" for front in in_front],
        edgecolors=color,
        **style,
    )
