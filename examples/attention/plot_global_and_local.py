"""
Where descent ends depends on where it starts
=============================================

One sequence of three tokens; the gradient of the loss moves the prompt p, which decides
how much each token is attended to. Look at where the six black paths go: each leaves
the picture along the arrow of an attention SVM, the direction of largest margin between
one token and the others.

In the upper left, two tokens share the second-best score, and all starts lead to the
best token: its direction attracts globally. In the upper right and lower left, the
token at the origin scores 0. The token at (1, 0) then beats its only neighbour, and its
direction attracts the two starts that are nearest to it: it is locally optimal. The
lower right shows how exact this is: 1 - cosine falls with the square of the number of
steps. The numbers beside the tokens are their scores. Normalised gradient descent; the
data are those of the experiment on a single input in arXiv:2306.13596.

Takes about 8 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.attention import MarginDisplay, attention_descent, solve_token_svm

keys = np.array([[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]]])
scores = {"global": [1.0, 0.9, 0.9], "local": [1.0, 0.9, 0.0]}
starts = np.array([1.0, 0.5, 0.0, -0.5, -1.0, -1.5])


def descend(scores, start):
    """Train the prompt; the head reads the score, which keys do not contain."""
    values = np.reshape(scores, (1, 3, 1))
    return attention_descent(
        values, head=[1.0], keys=keys, prompt=[0.0, start], max_iter=1000
    )


def cosine(prompts, direction):
    norms = np.linalg.norm(prompts, axis=1) * np.linalg.norm(direction)
    return prompts @ direction / np.where(norms > 0, norms, 1.0)


# %%
# Each path belongs to the direction that its last step is closest to.

directions = [solve_token_svm(keys, [token]).p for token in (0, 1)]
found = {("global", 0): [], ("local", 0): [], ("local", 1): []}
for data, gamma in scores.items():
    for start in starts:
        path = descend(gamma, start)
        ends = [cosine(path.value[None], direction) for direction in directions]
        found[data, int(np.argmax(ends))].append(path)

# %%

figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
titles = [
    "scores 1, 0.9, 0.9: all starts go to the best token",
    "scores 1, 0.9, 0: four starts go to the best token ...",
    "... and two go to the second best",
]
colors = ["#0072B2", "#009E73", "#E69F00"]
text = {"textcoords": "offset points", "zorder": 5, "color": "#0072B2"}
text["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
*panels, curves = axes.flat
for ax, title, color, ((data, token), paths) in zip(
    panels, titles, colors, found.items()
):
    display = MarginDisplay.from_tokens(keys, [token], descent=paths, ax=ax, lw=1)
    ax.set_title(title, fontsize="medium")
    for place, score in zip(keys[0], scores[data]):
        ax.annotate(f"{score:g}", place, (8, -12), **text)
    if ax is not axes[0, 1]:
        ax.get_legend().remove()
    for i, path in enumerate(paths):
        gap = 1 - cosine(path.history["p"], directions[token])
        label = (
            f"{data} data, {('best', 'second best')[token]} token" if i == 0 else None
        )
        curves.loglog(np.maximum(gap, 1e-16), color=color, label=label)
curves.set(
    xlabel="step", ylabel="1 - cosine to the direction", xlim=(1, 1000), ylim=(1e-11, 9)
)
curves.set_title("all paths turn to their direction", fontsize="medium")
curves.spines[["top", "right"]].set_visible(False)
curves.legend(frameon=False)
plt.show()
