"""
How many samples a shared path saves
====================================

Two hundred tasks, ten for each of twenty modules of width 2, which read one module of
width 8 that all tasks share; 32 features, no noise, and paths that are known. Look at
where each curve falls by ten orders of magnitude and more: once a task has about as
many samples as it has parameters, its own and its share of the modules (dashed lines,
`Supernet.samples_needed`), coefficients are recovered up to rounding. The multipath
supernet gets there with six samples, the others with nine or ten; a task by itself
would need 32, one for each feature.

Two things do not follow from counting. A curve may fall a little before its line:
parameters are counted as if modules were not free to mix what they return, and the
vanilla module needs 8.96 samples, not 9.28. And a curve may rise again, where least
squares ends in a local minimum, and without any penalty some coefficients grow beyond
all bounds. The line is the median of three draws, the band reaches from the lower to
the upper quartile.

Takes about 90 seconds.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.datasets import make_multipath_tasks
from sklearn_attn.multitask import MultipathMTL, SampleRiskDisplay, Supernet

N_FEATURES, N_MODULES, N_TASKS = 32, 20, 200
N_SAMPLES = [3, 5, 6, 7, 8, 9, 10, 12]
SEEDS = range(3)
SUPERNETS = {
    "vanilla": Supernet.vanilla(N_FEATURES, 8),
    "cluster": Supernet.cluster(N_FEATURES, N_MODULES, 2),
    "multipath": Supernet(N_FEATURES, ((1, 8), (N_MODULES, 2))),
}


def risk(coef, model):
    """Return the mean squared distance from coefficients of norm 1."""
    return ((coef - model.coef) ** 2).sum(1).mean()


def by_itself(X, y):
    """Return the least coefficients that explain the samples of each task."""
    n = len(y) // N_TASKS
    return [np.linalg.lstsq(X[i : i + n], y[i : i + n])[0] for i in range(0, len(y), n)]


risks = {name: [] for name in ["each task by itself", *SUPERNETS]}
for n in N_SAMPLES:
    found = {name: [] for name in risks}
    for seed in SEEDS:
        X, y, tasks, truth = make_multipath_tasks(
            N_TASKS,
            n,
            N_FEATURES,
            layers=SUPERNETS["multipath"].layers,
            noise=0,
            random_state=seed,
            return_model=True,
        )
        found["each task by itself"].append(risk(by_itself(X, y), truth))
        module = truth.paths[:, 1:]
        paths = {"vanilla": 0 * module, "cluster": module, "multipath": truth.paths}
        for name, net in SUPERNETS.items():
            model = MultipathMTL(
                net.layers,
                paths=paths[name],
                fit_intercept=False,
                solver="als",
                alpha_head=0,
                alpha_module=0,
                tol=1e-10,
                max_iter=15,
            )
            with warnings.catch_warnings():
                # of too few samples, which is the subject here
                warnings.simplefilter("ignore")
                model.fit(X, y, tasks=tasks)
            found[name].append(risk(model.task_coef_, truth))
    for name, values in found.items():
        risks[name].append(values)

# %%

display = SampleRiskDisplay.from_risks(N_SAMPLES, risks, SUPERNETS, N_TASKS)
display.ax_.set(ylabel="mean squared distance of coefficients", ylim=(1e-26, 1e6))
display.ax_.axhline(1, color="0.8", lw=1, zorder=0)
display.ax_.text(12, 2, "coefficients 0", color="0.5", ha="right", va="bottom")
display.figure_.suptitle("Risk without noise, along known paths")
plt.show()
