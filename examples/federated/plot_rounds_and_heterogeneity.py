"""
Local steps instead of rounds, as long as clients are alike
===========================================================

Ten clients have quadratic bilevel problems, whose mean has a solution in closed form.
They communicate in rounds, and make K steps by themselves in each. Look at the left
picture: the rounds that it takes until the gradient is below 1e-6 fall as 1/K, from 357
with one local step to 23 with sixteen, however much clients differ. Up to there, local
computation replaces communication. Beyond, it depends: with 64 local steps, clients
that are alike need 6 rounds, and clients that differ much need 28, more than with
sixteen, as they lose each other within a round.

The right picture shows the runs with 64 local steps. Differences cost rounds, and make
the way less smooth, but they leave no floor, since clients correct their steps by the
mean of all maps. Heterogeneity is how far a client's Hessian is from the mean one,
whose eigenvalues are between 1 and 2; at 0.9 the inner problem of a single client is
hardly convex any more.

Takes about 35 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.datasets import make_federated_quadratic
from sklearn_attn.federated import fedmsa, quadratic_problem

LOCAL_STEPS = [1, 4, 16, 64]
SMALL = 1e-6
STYLES = {0.0: "ks-", 0.3: "C0o-", 0.9: "C1^-"}


def gradient_norms(heterogeneity, local_steps):
    """Return the norm of the true gradient after each round, until it is small."""
    data = make_federated_quadratic(heterogeneity=heterogeneity, random_state=0)
    A, B, b, c = (data[name].mean(0) for name in "ABbc")
    norms = []

    def is_small(solution):
        x = solution.value[0].numpy()
        w = np.linalg.solve(A, B @ x + b)
        gradient = data.nu * x + B.T @ np.linalg.solve(A, w - c)
        norms.append(np.linalg.norm(gradient))
        return norms[-1] < SMALL

    problem, clients = quadratic_problem(data)
    fedmsa(
        problem,
        clients,
        local_steps=local_steps,
        alpha=0.025,
        beta=0.25,
        n_rounds=500,
        tol=0,
        on_round=is_small,
    )
    return norms


norms = {
    heterogeneity: {K: gradient_norms(heterogeneity, K) for K in LOCAL_STEPS}
    for heterogeneity in STYLES
}
for heterogeneity, found in norms.items():
    rounds = {K: len(each) for K, each in found.items()}
    print(f"heterogeneity {heterogeneity}: rounds by local steps {rounds}")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for heterogeneity, style in STYLES.items():
    found = norms[heterogeneity]
    rounds = [len(each) for each in found.values()]
    name = f"heterogeneity {heterogeneity:g}"
    size = {"ms": 9 if heterogeneity == 0 else 5}  # points lie upon each other
    left.plot(LOCAL_STEPS, rounds, style, label=name, **size)
    right.semilogy(
        range(1, 1 + rounds[-1]), found[LOCAL_STEPS[-1]], style, label=name, **size
    )
ideal = len(norms[0.0][1]) / np.array(LOCAL_STEPS)
left.plot(LOCAL_STEPS, ideal, "--", color="0.6", zorder=0, label="1/K")
left.set(xscale="log", yscale="log", xlabel="local steps K in each round")
left.set(ylabel="rounds until the gradient is below 1e-6")
left.set(title="Rounds that are needed")
left.set_xticks(LOCAL_STEPS, LOCAL_STEPS)
left.set_yticks([5, 20, 100, 500], [5, 20, 100, 500])
left.minorticks_off()
right.axhline(SMALL, color="0.6", ls="--", zorder=0)
right.legend(frameon=False)
right.set(xlabel="rounds", ylabel="norm of the gradient")
right.set(title="With K = 64 local steps")
right.set_xticks([1, 5, 10, 15, 20, 25])
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
left.legend(frameon=False)
plt.show()
