"""
What leaving the manifold looks like
====================================

A classical neural ODE and a flow on the manifold of as many weights are fitted to the
same 200 pairs of points; between them both pass through eight layers.

**What to look at.** A point of the sphere has length 1, and a rotation matrix has
columns that are orthonormal. The classical network (orange) is off by a percent on the
sphere at the end, where it was told what is right, and by much more on the way, where
nobody looked; for rotations from anywhere it is off throughout. The flow on the
manifold (blue) cannot leave: 1e-15 at all times, before and after training.

Takes about 10 seconds.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_attn import ManifoldNeuralODERegressor
from sklearn_attn.datasets import make_macrospin, make_rotation_flow
from sklearn_attn.dynamics import SpecialOrthogonal, Sphere

warnings.simplefilter("ignore", ConvergenceWarning)
OURS, CLASSICAL = "#0072B2", "#D55E00"
times = np.linspace(0, 1, 33)
systems = {
    "sphere": (Sphere(2), make_macrospin, {}),
    "rotations": (SpecialOrthogonal(3), make_rotation_flow, {"initial": "uniform"}),
}
figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for ax, (title, (manifold, make, where)) in zip(axes, systems.items()):
    X, y = make(240, random_state=0, **where)
    for model, color, name in (
        (ManifoldNeuralODERegressor(readout=False, alpha=1e-5), CLASSICAL, "classical"),
        (ManifoldNeuralODERegressor(manifold=manifold), OURS, "on the manifold"),
    ):
        model.set_params(n_init=1, max_iter=300, random_state=0).fit(X[:200], y[:200])
        path = model.predict_trajectory(X[200:], times)
        off = manifold.violation(path.reshape(-1, X.shape[1])).reshape(40, -1)
        floor = np.maximum(off, 1e-16)
        ax.semilogy(times, floor.T, color=color, lw=0.6, alpha=0.5)
        ax.semilogy(times, np.median(floor, 0), color=color, lw=2.5, label=name)
    ax.set(title=title, xlabel="time in the flow", ylim=(3e-17, 10))
    ax.legend(frameon=False, loc="center right")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("violation: | |x| - 1 |")
axes[1].set_ylabel("violation: largest entry of |X'X - 1|")
plt.show()
