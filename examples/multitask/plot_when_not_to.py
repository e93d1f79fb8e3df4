"""
When not to look for paths
==========================

Forty tasks of 16 features, and three supernets: each task by itself, one module of
width 6 for all, and four modules of width 2 on top of it. On the left, tasks do go
along paths of the third. On the right, the coefficients of each task are its own, and
there is nothing to share.

Look at the right picture first: whatever is shared does harm, and with 40 samples the
risk is ten times as high. On the left, paths are best. A cross-validation tells: layers
are a parameter as any other, and the ring is around what `GridSearchCV` chooses. It
errs where samples are fewest: with 10 of a task its folds leave fewer, of which paths
are not found. The task of a row is a column of X here, so that each fold knows it; and
each fold has rows of all tasks.

Takes about 45 seconds.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sklearn_attn.datasets import make_multipath_tasks
from sklearn_attn.multitask import MultipathMTL

N_TASKS, N_FEATURES, N_SAMPLES = 40, 16, (10, 20, 40)
LAYERS = {
    "each task by itself": ((1, N_FEATURES),),
    "one module for all": ((1, 6),),
    "paths": ((1, 6), (4, 2)),
}
TRUTHS = {
    "Tasks go along four paths": LAYERS["paths"],
    "Tasks have nothing in common": LAYERS["each task by itself"],
}


def compare(n_samples, layers):
    """Return the risk of each supernet, and which of them wins a cross-validation."""
    X, y, tasks, truth = make_multipath_tasks(
        N_TASKS,
        n_samples,
        N_FEATURES,
        layers=layers,
        noise=0.3,
        random_state=0,
        return_model=True,
    )
    X = np.column_stack([X, tasks])
    model = MultipathMTL(
        task_feature=N_FEATURES,
        fit_intercept=False,
        n_init=1,
        split_merge=5,
        tol=1e-3,
        random_state=0,
    )
    risks = []
    for each in LAYERS.values():
        coef = model.set_params(layers=each).fit(X, y).task_coef_
        risks.append(((coef - truth.coef) ** 2).sum(1).mean())
    folds = StratifiedKFold(3, shuffle=True, random_state=0).split(X, tasks)
    search = GridSearchCV(
        model, {"layers": list(LAYERS.values())}, cv=folds, refit=False
    )
    return risks, search.fit(X, y).best_index_


with warnings.catch_warnings():
    # of fewer samples than parameters: there are, on purpose
    warnings.simplefilter("ignore", UserWarning)
    found = {
        name: [compare(n, layers) for n in N_SAMPLES] for name, layers in TRUTHS.items()
    }

# %%

figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
for ax, (name, results) in zip(axes, found.items()):
    risks = np.array([risk for risk, _ in results])
    for kind, risk, style in zip(LAYERS, risks.T, ("ks-", "C7^-", "C0o-")):
        ax.plot(N_SAMPLES, risk, style, label=kind)
    chosen = risks[range(len(results)), [best for _, best in results]]
    ring = {"ms": 16, "mfc": "none", "mec": "#D55E00", "mew": 2}
    ax.plot(N_SAMPLES, chosen, "o", **ring, label="chosen by cross-validation")
    ax.set(xscale="log", yscale="log", xlabel="samples of each task", title=name)
    ax.set_xticks(N_SAMPLES, N_SAMPLES)
    ax.set_yticks([0.01, 0.03, 0.1, 0.3, 1], ["0.01", "0.03", "0.1", "0.3", "1"])
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("mean squared distance of coefficients")
axes[0].legend(frameon=False, labelspacing=1)
plt.show()
