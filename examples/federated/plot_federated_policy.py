"""
One policy for clients with rewards of their own
================================================

Four clients act in the same world of five states, and are rewarded differently. Which
policy is best for the mean of their rewards is known, its value is the dashed line.
Look at the black curve: actor and critic, who learn from all clients with ten local
steps in each round, go from 0.512 to 0.618, of 0.622 that are possible. Nobody shows
their rewards to others, only gradients. With one local step (blue) they are at 0.574
after as many rounds.

Clients that learn alone (dotted), by as many steps as the black curve, end between
0.500 and 0.609: each of them finds a policy for itself, and client 4 one that is worse
for all than to act by chance. How much they lose depends on the draw. In others, the
rewards of one client happen to be close to the mean, and it does about as well alone.
The first dozen rounds are not of learning: the size of steps is checked in them.

Takes about 6 seconds.
"""

import matplotlib.pyplot as plt
import torch

from sklearn_attn.datasets import make_federated_mdp
from sklearn_attn.federated import ActorCriticProblem, CommunicationDisplay, fedmsa

data = make_federated_mdp(random_state=2)
problem = ActorCriticProblem(
    torch.from_numpy(data.transitions), data.gamma, torch.from_numpy(data.initial)
)
rewards = torch.from_numpy(data.rewards)


def learn(clients, local_steps):
    """Return what was communicated, and the mean value of the policy after each."""
    start = float(problem.value(rewards.mean(0), problem.x0))
    seen = {"comm_rounds": [0], "comm_floats": [0], "value": [start]}

    def see(solution):
        seen["comm_rounds"].append(solution.state.communications)
        seen["comm_floats"].append(solution.state.floats)
        seen["value"].append(float(problem.value(rewards.mean(0), solution.value[0])))

    fedmsa(
        problem,
        list(clients),
        local_steps=local_steps,
        alpha=2.0,
        beta=0.5,
        n_rounds=60,
        tol=0,
        on_round=see,
    )
    return seen


together = {
    f"all clients, {K} local step{'s' * (K > 1)}": learn(rewards, K) for K in (10, 1)
}
alone = {f"client {m + 1} alone": learn(rewards[m : m + 1], 10) for m in range(4)}
runs = together | alone
print(f"optimum {data.optimum:.4f}")
for name, seen in runs.items():
    print(f"{name}: {seen['value'][-1]:.4f} after {seen['comm_rounds'][-1]} rounds")

# %%

display = CommunicationDisplay.from_histories(
    runs, quantity="value", reference=data.optimum, against="rounds"
)
ax = display.ax_
for name in alone:
    (line,) = display.lines_[name]
    line.set(ls=":", ms=4)
ax.set_ylim(0.49, 0.635)
ax.text(0, data.optimum + 0.001, "optimum", color="0.4", va="bottom")
ax.set_ylabel("mean reward over all clients")
ax.set_title("Value of the policy, by rounds of learning")
plt.show()
