"""
Stronger inputs tell more about the matrices that they multiply
===============================================================

How long must a trajectory be to find ``x+ = A_0 x + sum_k u_k A_k x + w``? Look at how
far apart the curves are in the two panels. All errors fall as one over the root of the
length. Larger inputs hardly help with A_0, but much with the A_k, which act only
through them. The dotted lines are no fits: they are the closed form of the error in the
long run, computed from the system.

This is the first figure of Sattar, Oymak and Ozay (arXiv 2208.13915) with noise .3 as
in the paper. The sizes of its system are not known to us; ours has 5 states, 2 inputs
and the spectral radii .6 of A_0 and .3 of the others.

Takes about 15 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn import BilinearSystemIdentifier
from sklearn_attn.datasets import make_bilinear_system
from sklearn_attn.dynamics import BilinearSystem

NOISE, N_RUNS = 0.3, 20
STRENGTHS = (0.5, 1.0, 1.5, 2.0)
COLORS = ("#56B4E9", "#0072B2", "#009E73", "#D55E00")
lengths = 100 * 2 ** np.arange(8)
_, _, system = make_bilinear_system(1, random_state=0, return_system=True)


def errors(length, strength):
    """Return root mean squared errors (Frobenius) of A_0 and of the A_k."""
    squares = []
    for seed in range(N_RUNS):
        rng = np.random.RandomState(seed)
        U = strength * rng.standard_normal((length, 2))
        W = NOISE * rng.standard_normal((length, 5))
        states = system.simulate(rng.standard_normal(5), U, W)
        model = BilinearSystemIdentifier(input_matrix=False)
        model.fit_trajectories(states, U)
        by_matrix = ((model.A_ - system.A) ** 2).sum((1, 2))
        squares.append([by_matrix[0], by_matrix[1:].mean()])
    return np.sqrt(np.mean(squares, axis=0))


def in_the_long_run(strength):
    """Return the root of n tr(S^-1), and of the same over the inputs' variance."""
    unit_noise = BilinearSystem(system.A, noise_cov=np.eye(5))
    S = unit_noise.stationary_covariance(strength**2)
    first = np.sqrt(5 * np.trace(np.linalg.inv(S)))
    return np.array([first, first / strength])


# %%

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for strength, color in zip(STRENGTHS, COLORS):
    measured = np.array([errors(length, strength) for length in lengths])
    predicted = in_the_long_run(strength) / np.sqrt(lengths)[:, None]
    for j, ax in enumerate(axes):
        label = f"inputs of size {strength:g}"
        ax.plot(lengths, measured[:, j], "o-", ms=4, color=color, label=label)
        ax.plot(lengths, predicted[:, j], ":", color=color)
axes[0].plot([], [], ":", color="black", label="closed form")
axes[0].set(title="A_0, which acts always", ylabel="error (Frobenius norm)")
axes[1].set(title="A_k, which acts through input k")
for ax in axes:
    ax.set(xscale="log", yscale="log", xlabel="length of the trajectory")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].legend(frameon=False, fontsize="small")
plt.show()
