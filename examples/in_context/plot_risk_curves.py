"""
A transformer that learned least squares, and more
==================================================

A transformer is shown examples of a task and asked for the next target. Nothing is
fitted: how to learn from examples was learned in pretraining, on other tasks. The three
pictures are those of figure 2 of 2301.07067.

Look at the left picture, at 20 examples of 20 features. Least squares fits the noise
there and errs without bound. The transformer (blue) has no spike: it keeps to ridge
regression with the right penalty, the best that is possible.

In the middle, the first features matter most, and the transformer was pretrained on
such tasks. With five examples its error is 0.24, where least squares has 0.78: it has
learned what to expect, as Bayes (0.24) is told.

On the right, tasks are series: outputs of systems with 20 hidden states. From what was
seen of a series, the transformer predicts the next step better than least squares or
ridge regression, fitted to the same steps, at every length. Only the Kalman filter is
better, which is told the system.

Takes about 40 seconds.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklearn_attn.in_context import (
    LDSPrior,
    LinearPrior,
    RiskCurveDisplay,
    kalman_predict,
    load_in_context_weights,
    minimum_norm,
    ridge,
    weighted_ridge,
    window_least_squares,
)

torch.set_num_threads(1)  # the networks are small: more threads wait for each other
figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(15, 4.6), layout="constrained"
)
IN_CONTEXT, NAIVE, BEST = "#0072B2", "0.6", "black"
lengths = [1, 2, 5, 8, 11, 14, 16, 18, 19, 20, 21, 22, 24, 26, 30, 35, 40]
variances = np.arange(1, 21) ** -2.0
bayes = partial(weighted_ridge, weight_cov=torch.from_numpy(variances), noise=0.0)

for ax, prior, algorithms in (
    (
        left,
        LinearPrior(noise=1.0),
        {
            "in context": load_in_context_weights("icl-linear-unit-noise"),
            "least squares": minimum_norm,
            "ridge (Bayes)": partial(ridge, noise=1.0),
        },
    ),
    (
        middle,
        LinearPrior(weight_cov=variances),
        {
            "in context": load_in_context_weights("icl-decaying"),
            "least squares": minimum_norm,
            "weighted ridge (Bayes)": bayes,
        },
    ),
):
    display = RiskCurveDisplay.from_algorithms(
        algorithms, prior, lengths, n_features=20, n_tasks=256, random_state=0, ax=ax
    )
    for name, color in zip(algorithms, (IN_CONTEXT, NAIVE, BEST)):
        display.lines_[name].set(color=color)
        display.bands_[name].set(color=color)
        seen = zip(lengths, display.curves[name].risk)
        print(name, ", ".join(f"{n}: {risk:.3f}" for n, risk in seen), sep="\n  ")

# %%
# Right: every step is predicted from those before it. The Kalman filter is told the
# system, and windows of least squares are fitted to what was seen of the series.

prior, generator = LDSPrior(), torch.Generator().manual_seed(0)
W, C = prior.sample_systems(256, generator=generator)
series = prior.simulate(W, C, 40, generator=generator).double()
start = torch.cat([torch.zeros_like(series[:, :1]), series], 1)  # y_0 = C x_0 = 0
predictions = {
    "in context": load_in_context_weights("icl-lds").predict_next(start[:, :-1])[0],
    "least squares, last 2 steps": window_least_squares(series, window=2),
    "ridge, last 2 steps": window_least_squares(series, window=2, alpha=1.0),
    "Kalman filter, knows the system": kalman_predict(
        start, A=W.double(), C=C.double(), state_noise=prior.noise
    )[:, 1:],
    "zero": torch.zeros_like(series),
}
colors = (IN_CONTEXT, NAIVE, "#D55E00", BEST, "0.8")
for (name, predicted), color in zip(predictions.items(), colors):
    errors = (predicted - series).square().sum(2).mean(0)
    steps = slice(4, None)
    right.plot(np.arange(5, 41), errors[steps], color=color, label=name)
    print(name, *(f"{t}: {errors[t - 1]:.3f}" for t in (10, 20, 30, 40)))

for ax, title in (
    (left, "20 features, noise of variance 1"),
    (middle, "20 features, w ~ N(0, diag(1, 1/4, 1/9, ...))"),
    (right, "4 outputs of systems with 20 hidden states"),
):
    ax.set(ylim=(0, 1.6), title=title)
    ax.legend(frameon=False)
right.set(ylim=(0, 2.2), xlabel="steps seen", ylabel="squared error, sum of outputs")
left.text(21, 1.5, "least squares:\nbeyond the picture", color="0.5", va="top")
left.legend(frameon=False, loc="lower left")
plt.show()
