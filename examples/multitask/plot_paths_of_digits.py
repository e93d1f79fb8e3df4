"""
Which tasks see the same pixels
===============================

A task tells two digits apart, with few images, much noise, and the pixels permuted in
one of four ways. Nothing says which; there are 45 tasks of each. Four modules of nine
features are to be shared by tasks of the same permutation.

Look at the lines that end in a permutation: with 40 images of each task, all that have
the same colour come from the same module; with 10 images, some tasks are on a path of
others. Then look at the errors on new images. Paths lower them, the more so the better
they are found: with 10 images by a third of what they would if they were known, with 40
by all of it, a fifth of the error. One module for all tasks lowers them little.

Takes about 40 seconds.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression

from sklearn_attn.datasets import make_permuted_digit_tasks
from sklearn_attn.multitask import MultipathMTLClassifier, PathwayDisplay

N_SAMPLES, SEED = (10, 20, 40), 0
# All 36 features in one module that every task shares, or nine in each of four.
LAYERS = {"vanilla": ((1, 36),), "paths found": ((4, 9),), "paths known": ((4, 9),)}
X_new, y_new, tasks_new = make_permuted_digit_tasks(
    60, subset="test", random_state=SEED
)


def error_by_itself(X, y, tasks):
    """Return the error of a logistic regression for each task."""
    wrong = []
    for task in np.unique(tasks):
        alone = LogisticRegression(C=0.01).fit(X[tasks == task], y[tasks == task])
        mine = tasks_new == task
        wrong.append(1 - alone.score(X_new[mine], y_new[mine]))
    return np.mean(wrong)


errors, models = {name: [] for name in ["each task by itself", *LAYERS]}, {}
for n in N_SAMPLES:
    X, y, tasks, permuted = make_permuted_digit_tasks(
        n, random_state=SEED, return_permutations=True
    )
    errors["each task by itself"].append(error_by_itself(X, y, tasks))
    for name, layers in LAYERS.items():
        model = MultipathMTLClassifier(
            layers,
            paths=permuted.paths[:, None] if name == "paths known" else "auto",
            solver="moment",
            alpha_head=3.0,
            n_init=1,
            random_state=SEED,
        )
        with warnings.catch_warnings():
            # of fewer samples than parameters: penalties make up for it
            warnings.simplefilter("ignore", UserWarning)
            model.fit(X, y, tasks=tasks)
        errors[name].append(1 - model.score(X_new, y_new, tasks=tasks_new))
        if name == "paths found":
            models[n] = model

# %%

figure, axes = plt.subplots(1, 2, figsize=(14, 4), layout="constrained")
groups = [f"permutation {i}" for i in permuted.paths]
for ax, n in zip(axes, (10, 40)):
    PathwayDisplay.from_estimator(models[n], groups=groups, ax=ax)
    agreement = models[n].path_agreement(permuted.paths)
    ax.set_title(f"{n} images of each task: agreement {agreement:.2f}\n")

# %%

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, error), style in zip(errors.items(), ("ks-", "C7^-", "C0o-", "C0o:")):
    ax.plot(N_SAMPLES, error, style, label=name)
ax.set_xticks(N_SAMPLES)
ax.set(xlabel="images of each task", ylabel="error on new images", ylim=(0, 0.19))
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()
