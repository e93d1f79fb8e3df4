"""
A magnet's direction, learned from a few sightings
==================================================

The direction of a small magnet turns around a field and is damped towards it. A flow on
the sphere is fitted to 60 runs, each seen at ten times, and then runs by itself from
directions that it has not seen.

**What to look at.** The thick lines are the true ways of eight new magnets, the thin
ones the learned flow's, from a black dot to an orange one: they cover each other, also
on the far side (faint), and no point leaves the sphere. With a single layer the learned
dynamics do not depend on time, so they may run beyond the end of the sightings: right,
the error stays below two degrees for as long again.

Takes about 15 seconds.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_attn import ManifoldNeuralODERegressor, TrajectoryDisplay
from sklearn_attn.datasets import make_macrospin

warnings.simplefilter("ignore", ConvergenceWarning)
times = np.linspace(0, 4, 81)
_, paths = make_macrospin(68, times=times, random_state=0)
seen = times <= 2
sightings = slice(0, seen.sum(), 4)

model = ManifoldNeuralODERegressor(
    manifold="sphere",
    n_layers=1,
    n_steps=10,
    width=16,
    activation="tanh",
    integrator="lie_midpoint",
    n_init=1,
    max_iter=300,
    random_state=0,
)
model.fit_trajectories(paths[:60, sightings], times[sightings])

new = paths[60:]
found = model.predict_trajectory(new[:, 0], times)
error = model.manifold_.distance(found.reshape(-1, 3), new.reshape(-1, 3))
error = error.reshape(new.shape[:2])

figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 5), width_ratios=(1.1, 1), layout="constrained"
)
TrajectoryDisplay.from_estimator(model, new, times=times, axes=left)
right.plot(times, np.degrees(error.T), color="#D55E00", lw=1, alpha=0.7)
right.axvline(2, color="black", lw=1, ls=":")
right.text(
    1.97,
    0.98,
    "seen in fit",
    ha="right",
    va="top",
    transform=right.get_xaxis_transform(),
)
right.set(
    xlabel="time", ylabel="angle between flow and truth (degrees)", ylim=(0, None)
)
right.spines[["top", "right"]].set_visible(False)
plt.show()
