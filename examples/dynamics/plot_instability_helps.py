"""
The nearer a system is to instability, the easier it is to find
===============================================================

A system that all but explodes looks hard to identify. It is the other way round: the
larger the state grows beside the noise, the more each step tells. Look at the left
panel: the error falls all the way up to the limit of mean-square stability and beyond.
The line is the closed form n tr(S^-1) / T, which exists up to the limit only. Right,
beyond it: as trajectories grow longer, the error of a stable system falls as one over
their length, and that of an unstable one exponentially, until rounding ends it.

All matrices of a random system with 5 states and 2 inputs are scaled together.

Takes about 10 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn import BilinearSystemIdentifier
from sklearn_attn.datasets import make_bilinear_system
from sklearn_attn.dynamics import BilinearSystem

LENGTH, N_RUNS = 1000, 30
STABLE, UNSTABLE = "#0072B2", "#D55E00"
_, _, random_system = make_bilinear_system(1, random_state=0, return_system=True)


def scaled_to(radius):
    """Scale the matrices to a spectral radius of the augmented operator."""
    factor = np.sqrt(radius / random_system.spectral_radius())
    return BilinearSystem(factor * random_system.A, noise_cov=np.eye(5))


def median_error(system, length):
    """Return the median squared error of A_0."""
    errors = []
    for seed in range(N_RUNS):
        rng = np.random.RandomState(seed)
        U = rng.standard_normal((length, 2))
        x0 = rng.standard_normal(5)
        states = system.simulate(x0, U, noise=True, random_state=rng)
        model = BilinearSystemIdentifier(input_matrix=False)
        model.fit_trajectories(states, U)
        errors.append(((model.A_ - system.A)[0] ** 2).sum())
    return np.median(errors)


def closed_form(system):
    S = system.stationary_covariance()
    return 5 * np.trace(np.linalg.inv(S)) / LENGTH


# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
radii = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.02, 1.05])
systems = [scaled_to(radius) for radius in radii]
measured = np.array([median_error(system, LENGTH) for system in systems])
stable = radii < 1
predicted = [closed_form(system) for system in systems[: stable.sum()]]
left.plot(radii[stable], predicted, color="black", label="closed form")
left.plot(radii[stable], measured[stable], "o", color=STABLE, label="stable")
left.plot(radii[~stable], measured[~stable], "s", color=UNSTABLE, label="unstable")
left.axvline(1, color="0.6", lw=1, zorder=0)
left.set(
    yscale="log",
    xlabel="spectral radius of the augmented operator",
    ylabel="squared error of A_0 (median)",
    title=f"Trajectories of {LENGTH} steps",
)
lengths = np.array([50, 100, 150, 200, 300, 400, 600, 800])
for radius, color, marker in ((0.7, STABLE, "o"), (1.5, UNSTABLE, "s")):
    system = scaled_to(radius)
    curve = [median_error(system, length) for length in lengths]
    label = f"spectral radius {radius}"
    right.plot(lengths, curve, marker=marker, color=color, label=label)
right.set(yscale="log", xlabel="length of the trajectory", title="Beyond the limit")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
plt.show()
