"""
One example is enough, if its steps are seen
============================================

A task is a product of six 5 x 5 matrices, W_6 ... W_1 x. Each layer's matrix is one of
a pool of four, which never changes, so there are 4096 tasks. A transformer was trained
on them for some time, and may know the pools by heart. Then it only has to see which
matrices a new task is made of (2305.18869, figure 5).

Look at one example, on the left. With its five steps in between, each of them tells one
matrix out of four, and the error of the six steps together is below a tenth (blue). The
same weights, asked for the output at once, are wrong by a half even with the steps in
the example (orange): they would have to multiply the matrices in their head. Without
steps (black) one of 4096 products has to be told by a pair of vectors, and this is
hardly better than what least squares does. Least squares of each step (grey) knows of
no pools. It needs as many examples as there are features, and is exact with five.

On the right is the blue curve at one and at four examples, step by step. Each step
alone is as good as the others. The chain pays for each step in turn, and errors add up.

Takes about 8 seconds.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklearn_attn.in_context import (
    DeepLinearPrior,
    StepRiskDisplay,
    filtered_least_squares,
    load_in_context_weights,
)

torch.set_num_threads(1)  # the network is small: more threads wait for each other
weights, prior = load_in_context_weights("cot-one-shot"), DeepLinearPrior()
D, settings = prior.n_features, {"n_tasks": 256, "random_state": 0}
algorithms = {
    "no steps": (weights, "icl"),
    "steps in examples, y at once": (weights, "cot-i"),
    "step by step": (weights, "cot-io"),
}
filtered = partial(filtered_least_squares, activation="linear")


figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
display = StepRiskDisplay.from_algorithms(
    algorithms, prior, [1, 2, 3, 4], n_features=D, **settings, ax=left
)
# the weights were trained for up to four examples; least squares may have more
squares = StepRiskDisplay.from_algorithms(
    {"least squares of each step": filtered},
    prior,
    [1, 2, 3, 4, 5, 6],
    n_features=D,
    **settings,
    ax=left,
)
lines, bands = display.lines_ | squares.lines_, display.bands_ | squares.bands_
for name, color in zip(lines, ("black", "#D55E00", "#0072B2", "0.5")):
    lines[name].set(color=color)
    bands[name].set(color=color)
    curve = (display.curves | squares.curves)[name]
    seen = zip(curve.n_examples.tolist(), curve.risk)
    print(name, ", ".join(f"{n}: {r:.3f}" for n, r in seen), sep="\n  ")
lines["least squares of each step"].set(ls="--", marker="v", zorder=1)
left.axvline(D, color="0.85", lw=1, zorder=0)
left.text(D + 0.1, 1.2, "n = d", color="0.5")
left.set(title="Error of the output", ylim=(5e-3, 3), xticks=range(1, 7))
left.get_legend().remove()
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)

# %%
# On the right: each step, with the true one before it, or with the predicted one.

curve, layers = display.curves["step by step"], np.arange(1, prior.n_layers + 1)
for place, color, marker in ((0, "#0072B2", "^"), (3, "#CC79A7", "D")):
    n = curve.n_examples[place]
    of = f"{n} example{'s' if n > 1 else ''}"
    style = {"color": color, "marker": marker}
    chained, alone = curve.chained[:, place], curve.alone[:, place]
    right.plot(layers, chained, **style, label=f"{of}, in the chain")
    right.plot(layers, alone, "--", mfc="white", **style, label=f"{of}, alone")
labels = [*(f"$s^{i}$" for i in layers[:-1]), "y"]
right.set(yscale="log", ylim=(1e-3, 3), title="Step by step: the blue curve")
right.set_xticks(layers, labels)
right.set(xlabel="step", ylabel=left.get_ylabel())
right.spines[["top", "right"]].set_visible(False)
right.legend(frameon=False)
plt.show()
