"""
Needles: what each model looks at
=================================

Two of sixteen digits are both a 3 or both an 8, and that is the class; the others tell
nothing. Look at the frames, which mark these two, and at the bars, which say how much
each model lets a digit count: the prompt finds the two; a linear model counts all
alike; linear attention counts some digits negatively (downwards); in self-attention,
where tokens look for each other, the needles stand out less.

The sequence is a test sequence that all four were not trained on; the accuracy in the
titles is that of 500 such sequences.

Takes about 30 seconds, nearly all for self-attention.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn import (
    LinearAttentionClassifier,
    MeanTokenClassifier,
    PromptAttention,
    SelfAttentionClassifier,
)
from sklearn_attn.datasets import make_digit_needles

X, y = make_digit_needles(600, random_state=0)
X_test, y_test, relevant = make_digit_needles(
    500, subset="test", random_state=1, return_relevant=True
)
models = {
    "prompt-attention": PromptAttention(),
    "linear attention": LinearAttentionClassifier(),
    "self-attention": SelfAttentionClassifier(),
    "mean token": MeanTokenClassifier(),
}
for name, model in models.items():
    model.fit(X, y)
    a = np.abs(model.attention(X_test))
    on_needles = (a * relevant).sum() / a.sum()
    print(f"{name}: {on_needles:.0%} of the attention is on the 2 needles of 16")

# %%

SEQUENCE = 3
n_tokens = X.shape[1]
figure, axes = plt.subplots(
    len(models) + 1,
    figsize=(9, 6),
    height_ratios=[0.8] + [1] * len(models),
    layout="constrained",
)
strip = np.ones((8, 10 * n_tokens))
for token, image in enumerate(X_test[SEQUENCE].reshape(n_tokens, 8, 8)):
    strip[:, 10 * token + 1 : 10 * token + 9] = 1 - image
axes[0].imshow(strip, cmap="gray", extent=(-0.5, n_tokens - 0.5, -0.4, 0.4), vmin=0)
axes[0].set_title(
    f"The framed digits are the class, {y_test[SEQUENCE]}. How much does each count?"
)
axes[0].set_axis_off()
for token in np.flatnonzero(relevant[SEQUENCE]):
    frame = plt.Rectangle((token - 0.42, -0.4), 0.84, 0.8, fill=False, lw=2)
    frame.set_edgecolor("#D55E00")
    axes[0].add_patch(frame)
for ax, (name, model) in zip(axes[1:], models.items()):
    weights = model.attention(X_test[SEQUENCE : SEQUENCE + 1])[0]
    weights = weights / np.abs(weights).sum()
    colors = np.where(relevant[SEQUENCE], "#D55E00", "0.6")
    ax.bar(range(n_tokens), weights, color=colors, width=0.7)
    ax.axhline(0, color="black", lw=0.8)
    ax.set(xlim=(-0.5, n_tokens - 0.5), xticks=[])
    accuracy = model.score(X_test, y_test)
    ax.set_title(f"{name}: {accuracy:.1%} right", loc="left", fontsize="medium")
    ax.spines[["top", "right", "bottom"]].set_visible(False)
figure.supylabel("share of all weights")
plt.show()
