"""
Training head and prompt together
=================================

The head v reads the class, the prompt p selects the token, and descent trains both.
Look at where the black path of the prompt goes.

Left: the three selected tokens all lie on the margin of the best head, and the prompt
turns to the attention SVM. Right: the third token lies beyond that margin. Its sequence
is classified well in any case, so it need not win over its neighbour by a margin, only
not lose. The prompt turns to this relaxed attention SVM, and not to the full one, which
is drawn in gray. The curves below say the same in numbers: only where the curve falls,
descent goes there. The head turns to the max-margin classifier in both cases.

The joint experiment of arXiv:2306.13596, with normalised gradient descent.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.attention import MarginDisplay, attention_descent, solve_joint_svm
from sklearn_attn.datasets import make_joint_tokens

titles = {
    True: "every sequence supports the head",
    False: "sequence 2 does not support the head",
}


def distance(vectors, direction):
    """Return 1 - cosine, row by row; the path may pass through the origin."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(direction)
    return 1 - vectors @ direction / np.maximum(norms, np.finfo(float).tiny)


# %%

figure, axes = plt.subplots(
    2, 2, figsize=(10.5, 8), height_ratios=[1.5, 1], layout="constrained"
)
for (tight, title), (plane, curves) in zip(titles.items(), axes.T):
    X, y, selected = make_joint_tokens(tight=tight)
    path = attention_descent(
        X, y, head=[-1.0, 0.0], prompt=[0.0, -1.0], train="vp", max_iter=1000
    )
    joint = solve_joint_svm(X, y, selected)
    full = solve_joint_svm(X, y, selected, relax=False).p

    display = MarginDisplay.from_tokens(
        X, selected, relaxed=~joint.is_support, descent={"prompt": path}, ax=plane
    )
    plane.set_title(title, fontsize="medium")
    if tight:
        plane.get_legend().remove()
    else:
        plane.plot(*np.outer(full, [0, 3.5]), ls="-.", color="gray", zorder=0)

    prompts, heads = path.history["p"], path.history["v"]
    if not tight:
        curves.loglog(
            distance(prompts, full), color="gray", ls="-.", label="p: full SVM"
        )
    label = "p: attention SVM" if tight else "p: relaxed SVM"
    curves.loglog(distance(prompts, joint.p), color="#D55E00", label=label)
    curves.loglog(distance(heads, joint.v), color="#0072B2", label="v: max-margin head")
    curves.set(xlabel="step", ylabel="1 - cosine", xlim=(1, 1000), ylim=(1e-11, 9))
    curves.spines[["top", "right"]].set_visible(False)
    curves.legend(frameon=False, loc="lower left")
plt.show()
