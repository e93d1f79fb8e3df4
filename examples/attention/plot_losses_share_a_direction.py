"""
All losses share a direction, each has its own offset
=====================================================

The attention SVM does not know the loss that is minimised. Look at the left picture:
whatever the loss, and whatever the score C of the first sequence's best token, the
prompt leaves in the direction (1, 0), up to an offset that stays finite. Look then at
the right picture: the offset at which each path comes to rest is known in closed form.

A support token j pulls the prompt by ``w_j = |l'(best score)| (best score - score_j)``,
and in the limit the pulls balance against the multipliers of the attention SVM:
``exp(z_j'p)`` is proportional to ``w_j / lambda_j``. Here both multipliers are equal,
and ``z_1 = (1, 1)``, ``z_2 = (1, -1)``, so that ``p_2 = log(w_1 / w_2) / 2``:

- linear loss, ``l'(u) = -1``: ``p_2 = log(C) / 2``;
- logistic loss, ``l'(u) = -1 / (1 + exp(u))``:
  ``p_2 = (log(C) - log(1 + exp(C)) + log(1 + e)) / 2``.

Under the linear loss, a higher score pulls harder. The logistic loss has had enough of
a sequence that it classifies well: its offset goes to the other side. After the
experiment on loss functions of arXiv:2306.13596.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.attention import attention_descent

keys = [[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, -1.0]]]
colors = {"linear": "#0072B2", "logistic": "#D55E00"}
C_measured = np.arange(1, 11)


def descend(C, loss):
    scores = np.array([[[0.0], [C]], [[0.0], [1.0]]])
    path = attention_descent(scores, head=[1.0], keys=keys, loss=loss, max_iter=350)
    return path.history["p"]


def plateau(C, loss):
    """Return log(w_1 / w_2) / 2."""
    pulls = np.log(C)
    if loss == "logistic":
        pulls = pulls - np.logaddexp(0, C) + np.logaddexp(0, 1)
    return pulls / 2


# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
C_all = np.linspace(1, 10, 200)
for loss, color in colors.items():
    paths = {C: descend(float(C), loss) for C in C_measured}
    measured = np.array([path[-1, 1] for path in paths.values()])
    error = np.abs(measured - plateau(C_measured, loss)).max()
    print(f"{loss} loss: at most {error:.0e} from the closed form")
    for C in (2, 5, 10):
        label = f"{loss} loss" if C == 2 else None
        left.plot(*paths[C].T, color=color, label=label)
        left.annotate(
            f"C = {C}", (30, plateau(C, loss)), (5, -3), textcoords="offset points"
        )
    right.plot(C_all, plateau(C_all, loss), color=color, label=f"{loss}, closed form")
    style = {"marker": "o", "ls": "none", "color": color, "mfc": "white"}
    right.plot(C_measured, measured, label=f"{loss}, measured", **style)
arrow = {"arrowstyle": "-|>", "lw": 2, "color": "gray"}
left.annotate("", (20, -0.6), (15, -0.6), arrowprops=arrow)
left.text(15, -0.5, "attention SVM", color="gray")
left.set(xlabel="p_1", ylabel="p_2", xlim=(0, 30))
left.set_title("gradient descent: one direction ...", fontsize="medium")
left.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.1))
right.set(xlabel="C, score of the first sequence's best token")
right.set(ylabel="offset p_2 at the end of the path")
right.set_title("... and an offset that depends on loss and score", fontsize="medium")
right.legend(frameon=False, loc="lower left")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
