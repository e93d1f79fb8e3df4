"""
How far may the inputs grow?
============================

With random inputs, a system can explode although each of its matrices is stable. Look
at the left and the middle panel: the largest eigenvalue of the augmented operator says
whether second moments settle, and how much stronger the inputs may become. Right, what
happens on both sides of the limit: mean squares of 100,000 simulated runs, which grow
or decay at the rate that the operator has (dashed). In the end they scatter, since few
and rare runs carry the mean.

The system was identified from one trajectory of 1,000 steps.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn import BilinearSystemIdentifier, StabilityDisplay
from sklearn_attn.datasets import make_bilinear_system

X, y = make_bilinear_system(1000, 4, 2, input_std=0.8, random_state=3)
model = BilinearSystemIdentifier(input_matrix=False).fit(X, y)

figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
display = StabilityDisplay.from_estimator(model, input_cov=0.8**2, axes=axes[:2])
critical = display.critical_input_level
rng = np.random.default_rng(0)
steps = np.arange(21)
for factor, color in ((0.75, "#0072B2"), (1.1, "#D55E00")):
    std = 0.8 * factor * critical
    runs = model.simulate(
        rng.standard_normal((100_000, 4)), std * rng.standard_normal((100_000, 20, 2))
    )
    squares = (runs**2).sum(2).mean(0)
    rate = model.system_.spectral_radius(std**2)
    label = f"{factor:g} times the critical level"
    axes[2].plot(steps, squares, color=color, label=label)
    axes[2].plot(steps[5:], squares[5] * rate ** (steps[5:] - 5), "k--", lw=1)
axes[2].set(
    yscale="log", xlabel="step", ylabel="mean square of the state", title="Free runs"
)
axes[2].spines[["top", "right"]].set_visible(False)
axes[2].legend(frameon=False)
plt.show()
