"""
What a wrong detector costs
===========================

A few probes outside of the known subspace tell whether a task belongs to the context.
Look at the left picture: from six probes on, the rule of the paper, which allows
residuals to deviate by a share gamma from the noise, finds fewer alien tasks than a
chi-square test at a level of 0.001, and with gamma = 1.5 not even half of them, however
many probes there are. The share of an alien task that random probes see varies from
task to task, which costs power besides.

In the middle and on the right, a context of 250 tasks and another one of 100. A
detector that is too mild finds the change late; one that is too sharp takes noise for
alien tasks, which are explored in all directions for nothing.

Takes about 30 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from sklearn_attn.bandits import (
    ContextSwitchingBandit,
    ContextualRepresentationBandit,
    OutlierTest,
    TaskSequence,
)

# 0.9 of the squared norm of a task lies outside; noise 0.1; 18 directions outside
OUTSIDE, N_OUTSIDE = 0.9 / 0.1**2, 18
TESTS = {
    "chi-square, level 0.001": OutlierTest("chi2", level=1e-3),
    "paper, gamma = 1": OutlierTest("paper", gamma=1.0),
    "paper, gamma = 1.5": OutlierTest("paper", gamma=1.5),
}
COLORS = ("black", "#0072B2", "#D55E00")
N_GAMES = 4

figure, axes = plt.subplots(1, 3, figsize=(13, 4.5), layout="constrained")
probes = np.arange(2, 18)
for (name, test), color in zip(TESTS.items(), COLORS):
    fixed = [test.power(n, OUTSIDE * n / N_OUTSIDE) for n in probes]
    axes[0].plot(probes, fixed, color=color, label=name)
    random = [
        stats.beta(n / 2, (N_OUTSIDE - n) / 2).expect(
            lambda share, n=n, test=test: test.power(n, OUTSIDE * share)
        )
        for n in probes
    ]
    axes[0].plot(probes, random, color=color, lw=0.7, ls="--")
axes[0].plot([], [], color="0.3", lw=0.7, ls="--", label="of random probes")
axes[0].set(xlabel="probes", ylabel="share of alien tasks found", ylim=(0, 1.02))
axes[0].set_xticks(probes[::3])
axes[0].set_title("One task: is it found?")
axes[0].legend(frameon=False, loc="lower right")

# %%

DETECTORS = {
    "chi2, 0.5": {"detection_level": 0.5},
    "chi2, 0.05": {"detection_level": 0.05},
    "chi2, 0.001": {},
    "chi2, 1e-9": {"detection_level": 1e-9},
    "paper, 1": {"detector": "paper"},
    "paper, 1.5": {"detector": "paper", "gamma": 1.5},
}
delays, regrets = {}, {}
for name, options in DETECTORS.items():
    results = []
    for seed in range(N_GAMES):
        tasks = TaskSequence.random([250, 100], [2, 2], random_state=seed)
        model = ContextualRepresentationBandit(n_probe=5, random_state=seed, **options)
        results.append(model.simulate(ContextSwitchingBandit(tasks), seed=seed))
    delays[name] = [result.change_delays[0] for result in results]
    regrets[name] = [result.average_regret for result in results]

# %%

for ax, values, label in (
    (axes[1], delays, "tasks until the change is found"),
    (axes[2], regrets, "regret of a task, on average"),
):
    for place, games in enumerate(values.values()):
        ax.plot([place] * N_GAMES, games, "o", color="0.6", ms=4)
        ax.plot(place, np.nanmean(games), "_", color="black", ms=22, mew=2)
    ax.set_xticks(range(len(values)), values, rotation=30, ha="right")
    ax.set(ylabel=label, ylim=(0, None))
axes[1].set_title("5 probes: how late (bar: mean)")
axes[2].set_title("5 probes: what it costs (bar: mean)")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
