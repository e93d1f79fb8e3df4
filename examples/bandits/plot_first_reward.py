"""
Nothing is learned before the first reward comes
================================================

Rewards come q, q + 40 and q + 80 rounds after an action. Until round q no reward is due
to any action, and every policy plays at random: it misses 1.54 a round, the expected
best of ten standard normal numbers. Look at the distance between the points and the
dashed line: it is what learning costs, and it hardly grows with q. Regret is linear in
q, as the paper's bound says, until the game is too short to learn anything, min{q, T}.
Beyond the middle, fewer and fewer actions are paid before the end.

Takes about 20 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.bandits import (
    DependencePattern,
    LongHorizonBandit,
    RandomPolicy,
    SparseDependenceBandit,
    run,
)

DELAYS = [25, 50, 100, 200, 400, 800, 1200, 1600, 1900]
LATER = [0, 40, 80]
N_ROUNDS, HORIZON, N_GAMES = 2000, 2000, 3
MISSED_BY_CHANCE = 1.54


def game(q, seed):
    theta = np.random.RandomState(seed).standard_normal(10)
    w = np.zeros(HORIZON + 100)
    w[q + np.array(LATER)] = 1 / 3
    return LongHorizonBandit(
        DependencePattern.rank_one(w, theta / np.linalg.norm(theta))
    )


def final_regret(policy, q):
    return np.mean(
        [
            run(policy(seed), game(q, seed), N_ROUNDS, seed=seed).regret[-1]
            for seed in range(N_GAMES)
        ]
    )


ours = [
    final_regret(
        lambda seed: SparseDependenceBandit(horizon=HORIZON, random_state=seed), q
    )
    for q in DELAYS
]
random = [final_regret(RandomPolicy, q) for q in DELAYS]

# %%

figure, ax = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
ax.plot(DELAYS, random, "o-", color="0.6", label="random play")
ax.plot(DELAYS, ours, "o-", color="black", label="SparseDependenceBandit")
q = np.arange(25, 1901)
paid = [np.minimum(q, N_ROUNDS - q - later).clip(0) for later in LATER]
label = "missed by playing at random until round q"
ax.plot(q, MISSED_BY_CHANCE * np.mean(paid, axis=0), "--", color="#D55E00", label=label)
ax.set(
    xlabel=f"q: rounds until the first reward of an action, of T = {N_ROUNDS}",
    ylabel="regret at the end",
    title="Regret grows with the delay, not with the number of lags",
    xlim=(0, None),
    ylim=(0, None),
)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()
