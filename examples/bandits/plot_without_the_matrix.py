"""
Thousands of lags without the matrix of lagged rows
===================================================

The textbook way to find delayed effects builds a matrix with a column for every lag of
every feature, and runs the Lasso. Look at how both lines of it climb, and where they
end: at the last point the matrix alone would take gigabytes. Products with it are
convolutions, and by FFT they need no more memory than the rows themselves. For less
than about a hundred lags, the matrix is small and the Lasso the faster of the two.

Time and memory of a whole fit, for 20 features, as horizon and rounds grow together.

Takes about 15 seconds.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import Lasso

from sklearn_attn import SparseDependenceBandit
from sklearn_attn.datasets import make_long_horizon_rewards

HORIZONS = [25, 50, 100, 200, 400, 800, 1600, 3200]
LARGEST_MATRIX = 800  # more than a laptop likes
N_FEATURES, ROUNDS_PER_LAG = 20, 4


def lagged_lasso(X, y, horizon):
    lagged = np.zeros((len(X), horizon, X.shape[1]))
    for j in range(horizon):
        lagged[j:, j] = X[: len(X) - j]
    penalty = 0.5 * np.sqrt(2 * np.log(lagged[0].size) / len(X)) * 0.5
    return Lasso(alpha=penalty).fit(lagged.reshape(len(X), -1), y)


def ours(X, y, horizon):
    return SparseDependenceBandit(horizon=horizon).fit(X, y)


def measure(fit, X, y, horizon):
    """Return the median of three times (s)."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        fit(X, y, horizon)
        seconds.append(time.perf_counter() - start)
    return np.median(seconds)


times = {"SparseDependenceBandit": [], "lagged matrix and Lasso": []}
fits = dict(zip(times, (ours, lagged_lasso)))
for horizon in HORIZONS:
    X, y = make_long_horizon_rewards(
        ROUNDS_PER_LAG * horizon,
        N_FEATURES,
        lags=(2, horizon // 4, horizon // 2, horizon - 1),
        random_state=0,
    )
    for name, fit in fits.items():
        if fit is ours or horizon <= LARGEST_MATRIX:
            times[name].append(measure(fit, X, y, horizon))

# the rows, their past of zeros, and their spectrum, against a column for every lag
rows = ROUNDS_PER_LAG * np.array(HORIZONS)
memory = {
    "SparseDependenceBandit": 8
    * N_FEATURES
    * (2 * rows + 2 * np.array(HORIZONS))
    / 2**20,
    "lagged matrix and Lasso": 8 * N_FEATURES * rows * np.array(HORIZONS) / 2**20,
}

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.3), layout="constrained")
colors = {"SparseDependenceBandit": "black", "lagged matrix and Lasso": "#D55E00"}
for name, color in colors.items():
    n = len(times[name])
    left.plot(HORIZONS[:n], times[name], "o-", color=color, label=name)
    right.plot(HORIZONS, memory[name], "o-", color=color, label=name)
left.set(ylabel="time of a fit (s)", title="Time")
right.set(ylabel="memory for products with all lags (MiB)", title="Memory")
for ax in (left, right):
    ax.set(
        xscale="log", yscale="log", xlabel="lags looked at (rounds: four times as many)"
    )
    ax.spines[["top", "right"]].set_visible(False)
left.legend(frameon=False)
plt.show()
