"""
A new task takes a path that is there
=====================================

A hundred tasks have found ten modules of width 2 on top of a shared one of width 8.
Then new tasks come, with few samples each: `add_task` leaves modules as they are,
chooses one of the ten paths by errors on left-out samples, and fits a head of two
coefficients. Look at eight samples: most paths are right, and the risk is a quarter
of that of the vanilla model, whose head has eight coefficients, and of that of a ridge
regression on all 32 features; with twelve, it is an eighth.

Look at few samples too. With up to five of them, half of the paths or more are wrong,
and predicting 0 for all, a risk of 1, is better: wait with `add_task`, or take the
vanilla model. That one has its hump where it has as many samples as coefficients; a
larger `alpha_head` would flatten it.

Takes about 15 seconds.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import RidgeCV

from sklearn_attn.datasets import make_multipath_tasks
from sklearn_attn.multitask import MultipathMTL

N_OLD, N_NEW, N_SAMPLES, N_PATHS = 100, 100, 20, 10
NEW_SAMPLES = [2, 3, 4, 5, 6, 8, 12, 16, 20]

module = np.arange(N_OLD + N_NEW) % N_PATHS
X, y, tasks, truth = make_multipath_tasks(
    N_OLD + N_NEW,
    N_SAMPLES,
    layers=((1, 8), (N_PATHS, 2)),
    paths=np.column_stack([0 * module, module]),
    noise=0.3,
    random_state=0,
    return_model=True,
)
is_old = tasks < N_OLD
models = {
    "multipath": MultipathMTL(((1, 8), (N_PATHS, 2)), n_init=1, random_state=0),
    "vanilla": MultipathMTL(((1, 8),), random_state=0),
}
for model in models.values():
    model.fit(X[is_old], y[is_old], tasks=tasks[is_old])

# %%
# Modules have no names. That of most old tasks with a true module is taken for it.

found = models["multipath"].paths_[:, 1]
name = [np.bincount(found[module[:N_OLD] == k]).argmax() for k in range(N_PATHS)]
agreement = models["multipath"].path_agreement(module[:N_OLD])


def risk(coef):
    return ((coef - truth.coef[N_OLD:]) ** 2).sum(1).mean()


risks = {"ridge, each task by itself": []} | {kind: [] for kind in models}
right = []
for n in NEW_SAMPLES:
    rows = [np.flatnonzero(tasks == task)[:n] for task in range(N_OLD, N_OLD + N_NEW)]
    alone = [RidgeCV(np.logspace(-1, 3, 9)).fit(X[i], y[i]).coef_ for i in rows]
    risks["ridge, each task by itself"].append(risk(np.array(alone)))
    for kind, model in models.items():
        grown = copy.deepcopy(model)
        for task, i in enumerate(rows, start=N_OLD):
            grown.add_task(X[i], y[i], task=task)
        risks[kind].append(risk(grown.task_coef_[N_OLD:]))
        if kind == "multipath":
            paths = grown.paths_[N_OLD:, 1]
            right.append(np.mean(paths == np.take(name, module[N_OLD:])))

# %%

figure, (left, ax) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.plot(NEW_SAMPLES, right, "o-", color="#0072B2")
left.axhline(1 / N_PATHS, color="0.5", ls=":")
left.text(20, 0.11, "by chance", color="0.5", ha="right", va="bottom")
left.set(ylabel="share of new tasks on the right path", ylim=(0, 1.02))
left.set_title(f"Paths (those of old tasks agree by {agreement:.2f})")
for (kind, values), style in zip(risks.items(), ("ks-", "C0o-", "C7^-")):
    ax.plot(NEW_SAMPLES, values, style, label=kind)
ax.axhline(1, color="0.5", ls=":")
ax.text(20, 1.03, "coefficients 0", color="0.5", ha="right", va="bottom")
ax.set(yscale="log", ylabel="mean squared distance of coefficients")
ax.set_yticks([0.03, 0.1, 0.3, 1], ["0.03", "0.1", "0.3", "1"])
ax.minorticks_off()
ax.set_title("Risk of new tasks")
ax.legend(frameon=False)
for each in (left, ax):
    each.set(xlabel="samples of the new task")
    each.spines[["top", "right"]].set_visible(False)
plt.show()
