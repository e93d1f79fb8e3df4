"""
Rewards that come late: regret of four policies, with many rounds and with few
==============================================================================

Every round shows ten arms, and what an arm brings comes many rounds later. Look at how
early the lines turn level. LinUCB credits the last action with the reward, learns from
noise, and loses almost as much as chance. The paper's schedule finds the lags from two
quarters of its last epoch, and epochs double; using all rounds finds them at once.

Left, the longest lag is 150 rounds of 8000. Right, lags go up to 1200 in a game of 1600
rounds with 2000 lags to look at: the direction is learned from the first ones.

Takes about 20 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.bandits import (
    DependencePattern,
    LinUCB,
    LongHorizonBandit,
    RandomPolicy,
    RegretDisplay,
    SparseDependenceBandit,
    run,
)

RICH = {20: 0.4, 60: 0.3, 100: 0.2, 150: 0.1}
POOR = {5: 0.4, 40: 0.3, 300: 0.2, 1200: 0.1}
N_GAMES = 3


def game(weights, horizon, seed):
    theta = np.random.RandomState(seed).standard_normal(10)
    w = np.zeros(horizon)
    w[list(weights)] = list(weights.values())
    pattern = DependencePattern.rank_one(w, theta / np.linalg.norm(theta))
    return LongHorizonBandit(pattern, n_arms=10, noise_std=0.5)


def play(weights, horizon, n_rounds):
    policies = {
        "SparseDependenceBandit": lambda seed: SparseDependenceBandit(
            horizon=horizon, random_state=seed
        ),
        "the paper's quarters": lambda seed: SparseDependenceBandit(
            horizon=horizon, solver="quarters", random_state=seed
        ),
        "LinUCB": lambda seed: LinUCB(),
        "random": RandomPolicy,
    }
    return {
        name: [
            run(policy(seed), game(weights, horizon, seed), n_rounds, seed=seed)
            for seed in range(N_GAMES)
        ]
        for name, policy in policies.items()
    }


# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
RegretDisplay.from_results(play(RICH, 200, 8000), ax=left)
RegretDisplay.from_results(play(POOR, 2000, 1600), ax=right)
left.set_title("Many rounds: 8000, lags 20, 60, 100, 150")
right.set_title("Few rounds: 1600, lags 5, 40, 300, 1200")
right.set_ylabel("")
plt.show()
