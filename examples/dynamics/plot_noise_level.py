"""
The size of the noise does not matter, for it moves the state as well
=====================================================================

Noise that drives a system disturbs the regression and excites the state in the same
proportion. Look at the left panel: with noise .3 and 3 the error is the same, and with
.03 it soon is. Only where the noise is tiny beside the initial state, of size 1, the
error is smaller, for the first steps tell as much as thousands of later ones. They tell
it before the state has decayed, in few directions: look at the condition number of the
matrix of features on the right. From an initial state of zero, all curves would be one
to the last digit.

This is the second figure of Sattar, Oymak and Ozay (arXiv 2208.13915) with inputs of
size 1.5 as in the paper. The sizes of its system are not known to us; ours has 5
states, 2 inputs and the spectral radii .6 of A_0 and .3 of the others.

Takes about 10 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn import BilinearSystemIdentifier
from sklearn_attn.datasets import make_bilinear_system

STRENGTH, N_RUNS = 1.5, 20
NOISES = (0.001, 0.03, 0.3, 3.0)
COLORS = ("#D55E00", "#009E73", "#0072B2", "black")
MARKERS = "osD^"
lengths = 50 * 2 ** np.arange(8)
_, _, system = make_bilinear_system(1, random_state=0, return_system=True)


def error_and_condition(length, noise):
    """Return the mean error of all matrices, and the median condition number."""
    found = []
    for seed in range(N_RUNS):
        rng = np.random.RandomState(seed)
        U = STRENGTH * rng.standard_normal((length, 2))
        W = noise * rng.standard_normal((length, 5))
        states = system.simulate(rng.standard_normal(5), U, W)
        model = BilinearSystemIdentifier(input_matrix=False)
        model.fit_trajectories(states, U)
        error = np.linalg.norm(np.hstack(model.A_ - system.A), 2)
        found.append([error, model.condition_number_])
    return np.mean(found, axis=0)[0], np.median(found, axis=0)[1]


# %%

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for noise, color, marker in zip(NOISES, COLORS, MARKERS):
    curves = np.array([error_and_condition(length, noise) for length in lengths])
    for ax, curve in zip(axes, curves.T):
        style = {"color": color, "marker": marker, "ms": 5, "mfc": "none"}
        ax.plot(lengths, curve, label=f"noise {noise:g}", **style)
axes[0].set(title="Error of all matrices together", ylabel="error (spectral norm)")
axes[1].set(title="The matrix of features", ylabel="condition number")
for ax in axes:
    ax.set(xscale="log", yscale="log", xlabel="length of the trajectory")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
plt.show()
