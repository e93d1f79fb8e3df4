"""
How many rounds it takes to find four lags among hundreds
=========================================================

Left, how often exactly the right four lags are found, by the number of rounds and the
noise. Look at the edge between dark and light: before it there is too little to go by,
beyond it all lags are found. The line is at 80 + 320 rounds times the variance of the
noise. The horizon is half of the rounds: ten features times up to 600 lags are 6000
columns, more than there are rows.

Right, why so few rounds are enough. Correlations of *few* lagged columns stray from the
ideal no further than those of independent draws. But along *dense* patterns, waves over
all lags, the rows are not independent, and mislead a method that allows for them.

Takes about 15 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn import SparseDependenceBandit
from sklearn_attn.datasets import make_long_horizon_rewards

ROUNDS = [100, 150, 200, 300, 400, 600, 800, 1200]
NOISE = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
N_DRAWS = 8
H, D = 128, 8  # of the right picture


def is_found(n_rounds, noise, seed):
    lags = np.random.RandomState(seed).choice(n_rounds // 2, 4, replace=False)
    X, y = make_long_horizon_rewards(
        n_rounds,
        10,
        lags=tuple(map(int, lags)),
        weights=[0.5] * 4,
        noise=noise,
        random_state=seed,
    )
    model = SparseDependenceBandit(horizon=n_rounds // 2)
    return model.fit(X, y).support_.tolist() == sorted(lags)


def lagged(X):
    """Return the rows of all lags; only a picture needs them."""
    windows = np.lib.stride_tricks.sliding_window_view(X, H, axis=0)  # (n, d, H)
    return windows[..., ::-1].transpose(0, 2, 1)  # (n, H, d)


def strays(rows, rng, n_draws=100):
    """Return how far correlations of four lags stray from the identity at most."""
    n, worst = len(rows), 0.0
    for _ in range(n_draws):
        columns = rows[:, rng.choice(H, 4, replace=False)].reshape(n, -1)
        off = columns.T @ columns / n - np.eye(4 * D)
        worst = max(worst, np.linalg.norm(off, 2))
    return worst


def along_waves(rows):
    """Return how far the rows stretch a wave over all lags at most."""
    waves = np.cos(2 * np.pi * np.outer(np.arange(H // 2 + 1), np.arange(H)) / H)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    seen = np.einsum("nhd,kh->knd", rows, waves, optimize=True)
    return max(np.linalg.eigvalsh(s.T @ s / len(rows))[-1] for s in seen) - 1


with np.testing.suppress_warnings() as quiet:
    quiet.filter(UserWarning, "No lag explains")
    share = [
        [np.mean([is_found(n, s, i) for i in range(N_DRAWS)]) for n in ROUNDS]
        for s in NOISE
    ]

rng = np.random.RandomState(0)
sizes = [128, 256, 512, 1024, 2048, 4096]
curves = {"few lags": [[], []], "waves": [[], []]}
for n in sizes:
    designs = (
        lagged(rng.standard_normal((n + H - 1, D))),
        rng.standard_normal((n, H, D)),
    )
    for i, rows in enumerate(designs):
        curves["few lags"][i].append(strays(rows, rng))
        curves["waves"][i].append(along_waves(rows))

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
image = left.imshow(share, origin="lower", aspect="auto", cmap="gray", vmin=0, vmax=1)
figure.colorbar(image, ax=left, label="share of tables with all lags found")
left.set_xticks(range(len(ROUNDS)), ROUNDS)
left.set_yticks(range(len(NOISE)), NOISE)
edge = np.interp(80 + 320 * np.square(NOISE), ROUNDS, range(len(ROUNDS)))
left.plot(edge, range(len(NOISE)), "--", color="#D55E00")
left.set(
    xlabel="rounds",
    ylabel="noise (standard deviation)",
    title="Four lags, ten features",
)
styles = {"few lags": "#0072B2", "waves": "#D55E00"}
for name, (toeplitz, independent) in curves.items():
    label = {"few lags": "four lags", "waves": "waves over all lags"}[name]
    right.plot(sizes, toeplitz, "o-", color=styles[name], label=f"{label}, lagged rows")
    right.plot(
        sizes, independent, "o:", color=styles[name], label=f"{label}, independent"
    )
right.set(
    xscale="log",
    yscale="log",
    xlabel="rows",
    ylabel="largest deviation from an isometry",
    title=f"{H} lags of {D} features",
)
right.set_xticks(sizes, sizes)
right.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
right.minorticks_off()
right.spines[["top", "right"]].set_visible(False)
right.legend(frameon=False)
plt.show()
