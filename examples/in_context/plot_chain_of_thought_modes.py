r"""
With the steps seen, a few examples are enough
==============================================

A task is a random network of two layers: five features, ten hidden ReLUs, one output.
Its examples come with the hidden values or without. A transformer that reads x and y
only (black) has to find all 60 weights at once. One that sees the steps finds each
neuron by itself, and a neuron has five weights (2305.18869).

Look at the left picture, at 20 examples. Without steps the error is above 0.1. It is
no better with steps in the examples, if the transformer is asked for y at once
(orange): seeing steps is of no use unless it goes through them. If it does, and has to
find by attention what a step depends on (green), the error is 2 to 3 times less. If it
is shown one step at a time instead, filtered by hand (blue), it is more than 20 times
less. With few examples that is better than least squares of each step (grey), which
takes a ReLU for linear where it is active, and does not know that it is one elsewhere.
With many, least squares is exact, and a network never quite.

In the middle is the blue curve, step by step. Nearly all of its error is that of the
hidden layer, which takes 2 d examples or more: a ReLU is active in half of them. The
last step, given the true hidden values (dashed), is learned from fewer. The sum of the
errors of both steps alone (dotted) is about that of the chain.

On the right, wider networks are harder without steps. Filtered by hand they are not, or
hardly: each neuron is a task of its own.

Takes about 20 seconds.
"""

import matplotlib.pyplot as plt
import torch

from sklearn_attn.in_context import (
    MLPPrior,
    StepRiskDisplay,
    filtered_least_squares,
    load_in_context_weights,
    step_risk_curve,
)

torch.set_num_threads(1)  # the networks are small: more threads wait for each other
D, N, WIDTHS, LENGTHS = 5, 20, (2, 5, 10), (5, 10, 15, 20, 30)
settings = {"n_features": D, "n_tasks": 96, "random_state": 0}
plain, chain, single = map(
    load_in_context_weights, ("icl-two-layer", "cot-two-layer", "cot-relu")
)
algorithms = {
    "no steps": (plain, "icl"),
    "steps in examples, y at once": (chain, "cot-i"),
    "step by step, attention finds them": (chain, "cot-io"),
    "step by step, filtered by hand": (single, "cot-io"),
    "least squares of each step": filtered_least_squares,
}
colors = ("black", "#D55E00", "#009E73", "#0072B2", "0.5")

figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(15, 4.8), layout="constrained"
)
display = StepRiskDisplay.from_algorithms(
    algorithms, MLPPrior((10,), bias=0.0), LENGTHS, ax=left, **settings
)
for name, color in zip(algorithms, colors):
    display.lines_[name].set(color=color)
    display.bands_[name].set(color=color)
    curve = display.curves[name]
    seen = zip(curve.n_examples.tolist(), curve.risk)
    print(name, ", ".join(f"{n}: {r:.4f}" for n, r in seen), sep="\n  ")
left.get_legend().remove()
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
display.plot(middle, kind="steps", name="step by step, filtered by hand")
for key, color in (("s^1", "#CC79A7"), ("y", "#0072B2")):
    display.lines_[key].set(color=color, zorder=2)
    display.lines_[f"{key} alone"].set(color=color)
display.bands_["y"].set(color="#0072B2")
middle.legend(frameon=False)
middle.axvline(2 * D, color="0.85", lw=1, zorder=0)
middle.text(2 * D + 0.3, 0.8, "n = 2 d", color="0.5")

# %%
# On the right: networks of other widths, at 20 examples. Least squares is left out: it
# is exact but for few tasks, whose errors take many to average.

for (weights, mode), color, marker in zip([*algorithms.values()][:-1], colors, "os^D"):
    risks = []
    for k in WIDTHS:
        prior = MLPPrior((k,), bias=0.0)
        risks.append(step_risk_curve(weights, prior, [N], mode=mode, **settings).risk)
    right.plot(WIDTHS, risks, color=color, marker=marker, ms=4)
right.set(yscale="log", xlabel="hidden ReLUs, k", xticks=WIDTHS)
right.spines[["top", "right"]].set_visible(False)
for ax, title in (
    (left, f"d = {D} features, k = 10 hidden ReLUs"),
    (middle, "Filtered by hand, step by step"),
    (right, f"{N} examples, other widths"),
):
    ax.set(title=title, ylim=(1e-4, 2))
for ax in (left, middle):
    ax.set_xticks(LENGTHS)
middle.set_ylabel("")
plt.show()
