r"""
How many tasks make an algorithm?
=================================

The simplest in-context learner is a layer of linear attention, f(x) = x'P X'y / n: one
step of gradient descent on the context, by a matrix P that is learned from T tasks,
here exactly, by least squares. Its risks are closed forms.

Look at the left picture. The tasks have n examples, each of which is predicted from
those before it. The risk on new examples of the same tasks, less the error in training,
falls with n T, no matter whether by more tasks or by longer ones: all points are on one
line, of slope -0.8. Theory promises a slope of -1/2 to all stable algorithms.

In the middle, a task tells one answer, and n is twice the number of features d. The
excess risk on new tasks depends on T / d\ :sup:`2`, as 2301.07067 found for
transformers: curves meet up to a term in 1 / d (0.098, 0.066, 0.053 at T = 8
d\ :sup:`2`). On the right, tasks are learned from at all of their examples, and curves
meet in T / d (0.150, 0.124, 0.132 at T = 8 d). For this learner, T / d\ :sup:`2` is
the price of the d\ :sup:`2` numbers in P, if each task pays for one of them.

Takes about 10 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch


def draw(n_tasks, n, d, generator):
    """Return inputs (T, n, d), weights (T, d) and targets (T, n), without noise."""
    X = torch.randn(n_tasks, n, d, generator=generator, dtype=torch.float64)
    w = torch.randn(n_tasks, d, generator=generator, dtype=torch.float64)
    return X, w, torch.einsum("tnd,td->tn", X, w)


def train(X, y, last_only):
    """Return the P of the least training error, and that error over d."""
    n, d = X.shape[1:]
    # h_i = X'y / i of the first i examples, for i = 1, ..., n - 1
    i = torch.arange(1, n, dtype=X.dtype)[:, None]
    H = torch.cumsum(y[..., None] * X, 1)[:, :-1] / i
    asked = slice(-1, None) if last_only else slice(None)
    H, x, y = (a[:, asked].flatten(0, 1) for a in (H, X[:, 1:], y[:, 1:]))
    F = torch.einsum("ni,nj->nij", x, H).flatten(1)  # x'P h = F vec(P)
    P = torch.linalg.solve(F.mT @ F, F.mT @ y)
    return P.reshape(d, d), float((y - F @ P).square().mean()) / d


def excess_risk(P, n, last_only):
    """Return the risk on new tasks, less the least possible: a |P - I / a|^2 / d."""
    i = torch.arange(n - 1 if last_only else 1, n, dtype=P.dtype)
    a = float((1 + (len(P) + 1) / i).mean())  # E h h' = a I
    return a * float((P - torch.eye(len(P), dtype=P.dtype) / a).square().sum()) / len(P)


def risk_on(P, w, n):
    """Return the risk on new examples of the tasks w, of all lengths of the context."""
    m = float((1 / torch.arange(1, n, dtype=P.dtype)).mean())  # E h h' given w:
    Pw, length = w @ P.T, w.square().sum(1)  # w w' + (w w' + w'w I) / i
    risk = length - 2 * (w * Pw).sum(1) + (1 + m) * Pw.square().sum(1)
    return float((risk + m * length * P.square().sum()).mean()) / w.shape[1]


generator = torch.Generator().manual_seed(0)
gaps = {}
for n in (6, 11, 21, 41):
    for n_tasks in (20, 40, 80, 160, 320):
        found = []
        for _ in range(60):
            X, w, y = draw(n_tasks, n, 5, generator)
            P, error = train(X, y, last_only=False)
            found.append(risk_on(P, w, n) - error)
        gaps[n, n_tasks] = np.mean(found)
excess = {}
for last_only in (True, False):
    for d in (5, 10, 20):
        for ratio in (2, 4, 8, 16):
            n_tasks = ratio * (d**2 if last_only else d)
            found = []
            for _ in range({5: 60, 10: 20, 20: 3}[d]):
                X, _, y = draw(n_tasks, 2 * d + 1, d, generator)
                P, _ = train(X, y, last_only)
                found.append(excess_risk(P, 2 * d + 1, last_only))
            excess[last_only, d, ratio] = np.mean(found)
nT = np.array([n * T for n, T in gaps])
enough = nT >= 400  # with fewer, there are hardly more examples than numbers in P
slope, level = np.polyfit(np.log(nT[enough]), np.log([*gaps.values()])[enough], 1)
print(f"slope of the gap in n T: {slope:.2f}")
for (last_only, d, ratio), value in excess.items():
    print(f"T = {ratio} d{'²' if last_only else ''}, d = {d}: {value:.3f}")

# %%

figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
colors = ("black", "#0072B2", "#D55E00", "#009E73")
for n, color, marker in zip((6, 11, 21, 41), colors, "os^D"):
    chosen = {T: gap for (m, T), gap in gaps.items() if m == n}
    x = n * np.array([*chosen])
    axes[0].plot(x, [*chosen.values()], marker, color=color, label=f"n = {n}")
line = np.array([100, 13000])
axes[0].plot(line, np.exp(level) * line**slope, "0.5", label=f"slope {slope:.2f}")
axes[0].plot(line, 15 / line**0.5, "0.5", ls="--", label="slope -1/2 (the bound)")
axes[0].set(xlabel="examples of all tasks, n T", ylabel="risk less training error")
axes[0].set_title("The same tasks, new examples (d = 5)")
for ax, last_only in zip(axes[1:], (True, False)):
    for d, color, marker in zip((5, 10, 20), colors, "os^"):
        y = [excess[last_only, d, ratio] for ratio in (2, 4, 8, 16)]
        ax.plot((2, 4, 8, 16), y, color=color, marker=marker, label=f"d = {d}")
    ax.set(xlabel=f"T / {'d²' if last_only else 'd'}", ylabel="excess risk")
    answers = "one answer of each task" if last_only else "answers at every example"
    ax.set_title(f"New tasks: learned from\n{answers}")
for ax in axes:
    ax.set(xscale="log", yscale="log")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower left")
for ax in axes[1:]:
    ax.set_xticks((2, 4, 8, 16), ("2", "4", "8", "16"))
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.set_ylim(0.02, 2)
plt.show()
