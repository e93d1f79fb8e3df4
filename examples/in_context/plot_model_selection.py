"""
Which model a task wants, told by its examples
==============================================

Half of the tasks are of the small class: only the first two of eight features matter.
In the others all eight do. An algorithm for both has to see from the examples of a task
which class it is of: with the small class it learns faster, if that is the right one.
Statistics has an exact answer (black), two ridge regressions weighted by the evidence
for their class. The transformer (blue) was pretrained on tasks of both classes.

Look at the blue curve in both pictures. On the left, after four examples its error is
0.33, where ridge regression on all features has 0.71: it has seen that the task is a
small one. On the right, where ridge regression on two features never gets below 0.96,
it goes down with those that use all. So one set of weights selects among models
(2301.07067, section 6), and the price is seen on the right at few examples, where Bayes
pays it as well. Over both classes its error is at most 8 % above that of Bayes.

Takes about 15 seconds.
"""

from functools import partial

import matplotlib.pyplot as plt
import torch

from sklearn_attn.in_context import (
    LinearPrior,
    RiskCurveDisplay,
    load_in_context_weights,
    mixture_of_ridges,
    ridge,
    weighted_ridge,
)

torch.set_num_threads(1)  # the network is small: more threads would wait for each other
D, NOISE = 8, 1.0
# Covariances of w; y has the same variance in both classes.
small, large = torch.tensor([4.0, 4, 0, 0, 0, 0, 0, 0]), torch.ones(D)
classes = {
    "Tasks of the small class": LinearPrior(NOISE, weight_cov=small),
    "Tasks of the large class": LinearPrior(NOISE, weight_cov=large),
}
both = partial(
    mixture_of_ridges,
    weight_covs=[small, large],
    noises=[NOISE, NOISE],
    probabilities=[0.5, 0.5],
)
algorithms = {
    "in context": load_in_context_weights("icl-two-families"),
    "both, by their evidence (Bayes)": both,
    "ridge for the large class": partial(ridge, noise=NOISE),
    "ridge for the small class": partial(weighted_ridge, weight_cov=small, noise=NOISE),
}

figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
for ax, (title, prior) in zip(axes, classes.items()):
    display = RiskCurveDisplay.from_algorithms(
        algorithms,
        prior,
        [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24],
        n_features=D,
        n_tasks=1024,
        random_state=0,
        yscale="log",
        ax=ax,
    )
    for name, color in zip(algorithms, ("#0072B2", "black", "#009E73", "#D55E00")):
        display.lines_[name].set(color=color)
        display.bands_[name].set(color=color)
        curve = display.curves[name]
        seen = zip(curve.n_examples.tolist(), curve.risk)
        print(title, name, ", ".join(f"{n}: {r:.3f}" for n, r in seen), sep="\n  ")
    ax.axhline(NOISE**2 / D, color="0.6", ls="--", lw=1, zorder=0)
    ax.set(title=title, ylim=(0.1, 4))
axes[0].text(1, NOISE**2 / D, "variance of the noise", color="0.5", va="top")
axes[0].legend(frameon=False)
axes[1].get_legend().remove()
axes[1].set_ylabel("")
plt.show()
