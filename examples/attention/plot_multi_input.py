"""
Three sequences, one prompt
===========================

A prompt must select the right token in several sequences at once. Look at the upper
plane: wherever gradient descent on the prompt starts, it turns to the one direction
that separates all three filled tokens from their neighbours with the largest margin;
two support tokens, ringed, decide it.

The curves below tell how fast. Normalised descent makes the prompt grow in proportion
to the number of steps, and the attention on the selected tokens is complete after some
fifty. Plain descent slows down as its gradient vanishes: its prompt grows like the
logarithm of the steps. The experiment on several inputs of arXiv:2306.13596, with its
random numbers.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklearn_attn.attention import MarginDisplay, attention_descent, solve_token_svm

generator = torch.Generator().manual_seed(0)
tokens = 0.2 * torch.randn(3, 7, 3, generator=generator).double().numpy()
tokens[:, 0] += [1.0, 0.0, 0.0]
tokens[:, 1:4] += [-1.0, 1.0, 0.0]
tokens[:, 4:] += [-0.5, -0.5, 0.0]
keys = tokens[:, :, :2]  # the third coordinate is replaced by the score
scores = np.full((3, 7, 1), 0.5)
scores[:, 0] = 1.0


def descend(prompt=(0.0, 0.0), **options):
    return attention_descent(scores, head=[1.0], keys=keys, prompt=prompt, **options)


def selected_weight(prompts):
    """Return the attention on the selected tokens, averaged over the sequences."""
    logits = np.einsum("ntd,sd->snt", keys, prompts)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights[:, :, 0] / weights.sum(-1)).mean(1)


# %%

figure, axes = plt.subplot_mosaic(
    [["plane", "plane"], ["weight", "norm"]],
    figsize=(9, 9),
    height_ratios=[1.7, 1],
    layout="constrained",
)
starts = [1.0, 0.5, 0.0, -0.5, -1.0, -1.5]
paths = [descend((start, 0.0), max_iter=150) for start in starts]
MarginDisplay.from_tokens(keys, [0, 0, 0], descent=paths, ax=axes["plane"], lw=1)
axes["plane"].set_title("six starts, one direction")

for normalized, step_size, color, name in (
    (True, 0.1, "#0072B2", "normalised, step 0.1"),
    (False, 1.0, "#E69F00", "plain, step 1"),
):
    path = descend(normalized=normalized, step_size=step_size, max_iter=200)
    prompts = path.history["p"]
    axes["weight"].plot(selected_weight(prompts), color=color, label=name)
    axes["norm"].plot(np.linalg.norm(prompts, axis=1), color=color, label=name)
axes["weight"].set(
    xlabel="step", ylabel="attention on the selected token", ylim=(0, 1.05)
)
axes["norm"].set(xlabel="step", ylabel="norm of the prompt", ylim=0)
for name in ("weight", "norm"):
    axes[name].spines[["top", "right"]].set_visible(False)
    axes[name].set_xlim(0, 200)
axes["weight"].legend(title="gradient descent", frameon=False, loc="lower right")
p_mm = solve_token_svm(keys, [0, 0, 0]).p
print(f"direction {p_mm.round(4)}, norm {np.linalg.norm(p_mm):.4f}")
plt.show()
