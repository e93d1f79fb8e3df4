"""
How much a single example counts
================================

The first example of a context is replaced by one of another task, input and label. How
much do answers change? Theory (2301.07067) asks that this is at most K / n of a context
of n examples, and shows that a transformer is as stable as that.

Look at the orange curves first, weights that were pretrained on tasks without noise.
Beyond 30 examples they fall like 1 / n, as those of ridge regression (black) do; the
slopes are -1.1. At d = 10 examples they peak: where ten examples tell all there is to
know, a wrong one does most harm. Least squares (grey) does worse by a factor of 4 to 5,
since it trusts its examples whatever they say. Weights that were pretrained with noise
(blue) have no peak. They do what ridge regression does, and expect some labels to be
wrong.

The shaded part is beyond the lengths that were seen in pretraining. Nothing promises
that a curve goes on as it did, and the blue one falls more slowly there.

Takes about 20 seconds.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklearn_attn.in_context import (
    LinearPrior,
    load_in_context_weights,
    minimum_norm,
    ridge,
    stability_curve,
)

torch.set_num_threads(1)  # the networks are small: more threads wait for each other
D, NOISE = 10, 1.0
LENGTHS = np.array([2, 4, 6, 8, 10, 14, 20, 30, 45, 70, 110])
LAST = LENGTHS >= 3 * D  # where slopes are taken
algorithms = {
    "least squares": minimum_norm,
    "ridge": partial(ridge, noise=NOISE),
    "transformer, learned with noise": load_in_context_weights("icl-linear-noisy"),
    "transformer, learned without": load_in_context_weights("icl-linear"),
}
priors = {"Tasks without noise": LinearPrior(), "Noisy tasks": LinearPrior(NOISE)}

figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
colors = ("0.6", "black", "#0072B2", "#D55E00")
for ax, (title, prior) in zip(axes, priors.items()):
    for (name, algorithm), color, marker in zip(algorithms.items(), colors, "so^D"):
        change, _ = stability_curve(
            algorithm, prior, LENGTHS, n_features=D, n_tasks=128, random_state=0
        )
        slope, _ = np.polyfit(np.log(LENGTHS[LAST]), np.log(change[LAST]), 1)
        print(f"{title}, {name}: slope {slope:.2f}")
        label = f"{name}: {slope:.2f}"
        ax.plot(LENGTHS, change, color=color, marker=marker, ms=4, label=label)
    ax.plot(LENGTHS, D / LENGTHS, color="0.6", ls="--", label="d / n, for comparison")
    ax.axvline(D, color="0.85", lw=1, zorder=0)
    ax.axvspan(50, LENGTHS[-1], color="0.95", zorder=-1)  # not seen in pretraining
    ax.set(xscale="log", yscale="log", title=title, xlabel="examples in the context")
    ax.set_xticks((2, 5, 10, 20, 50, 100), (2, 5, "d = 10", 20, 50, 100))
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, title="slope from 3 d on", loc="upper right", fontsize=8)
axes[0].set_ylabel("mean change of an answer by one wrong example\n(rms target: 1)")
for ax in axes:
    ax.set_ylim(0.02, 60)
    ax.text(52, 0.022, "longer than\nin pretraining", color="0.4", fontsize=8)
plt.show()
