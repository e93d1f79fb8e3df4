"""
What a truncated series costs
=============================

The gradient of a bilevel problem contains an inverse Hessian. FedNest replaces it by a
Neumann series, at a round of communication for each term; LFedNest lets each client sum
the series of its own Hessian. FedMSA lets a third variable follow the solution instead.

Look at where curves end, and how steep they are. With three terms FedNest stays at a
true gradient of 2e-3, with eight at 2e-5. Sixteen terms would bring it further, but
each epoch then takes 23 rounds instead of ten, and after 600 rounds it is still at
1e-4. LFedNest stays at 1.5e-2, where more terms would not help: a mean of inverses is
not the inverse of the mean. FedMSA, with twenty local steps in each round, is below
1e-8 after 72 rounds. The right picture is much the same, as all messages are about as
long here: FedMSA has sent 25 thousand numbers, the others 177 thousand or more. The
first dozen rounds of each run are to check the size of steps.

The true gradient is computed with the mean Hessian. That of a history is what a method
follows, which vanishes at the floors as well.

Takes about 25 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.datasets import make_federated_quadratic
from sklearn_attn.federated import (
    CommunicationDisplay,
    fedmsa,
    fednest,
    quadratic_problem,
)

MOST_ROUNDS, SMALL = 600, 1e-8
data = make_federated_quadratic(heterogeneity=0.3, random_state=0)
problem, clients = quadratic_problem(data)
A, B, b, c = (data[name].mean(0) for name in "ABbc")


def gradient(x):
    """Return the gradient of the outer function, with the mean Hessian inverted."""
    w = np.linalg.solve(A, B @ x + b)
    return data.nu * x + B.T @ np.linalg.solve(A, w - c)


def run(solver, **settings):
    """Return what was communicated after each round, and the true gradient."""
    seen = {"comm_rounds": [0], "comm_floats": [0], "gradient": [gradient(np.zeros(3))]}

    def see(solution):
        state = solution.state
        seen["comm_rounds"].append(state.communications)
        seen["comm_floats"].append(state.floats)
        seen["gradient"].append(gradient(solution.value[0].numpy()))
        is_near = np.linalg.norm(seen["gradient"][-1]) < SMALL
        return is_near or state.communications > MOST_ROUNDS

    solver(problem, clients, n_rounds=MOST_ROUNDS, tol=0, on_round=see, **settings)
    return seen | {"gradient": np.linalg.norm(seen["gradient"], axis=1)}


nested = {"inner_rounds": 2, "local_steps": 1, "alpha": 0.2, "beta": 0.6}
runs = {
    "FedMSA": run(fedmsa, local_steps=20, alpha=0.02, beta=0.2),
    "LFedNest": run(fednest, n_neumann=16, hypergradient="local", **nested),
    **{f"FedNest, N = {N}": run(fednest, n_neumann=N, **nested) for N in (3, 8, 16)},
}
for name, seen in runs.items():
    floats, norm = seen["comm_floats"][-1], seen["gradient"][-1]
    print(f"{name}: {norm:.1e} after {seen['comm_rounds'][-1]} rounds, {floats} floats")

# %%

display = CommunicationDisplay.from_histories(runs, quantity="gradient")
display.ax_.set_ylabel("norm of the true gradient")
display.figure_.suptitle("Floors of truncated and of local series, ten clients")
plt.show()
