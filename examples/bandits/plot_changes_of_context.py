"""
Six contexts, and nobody tells when they change
===============================================

6000 tasks follow each other, each a linear reward in 20 dimensions. Tasks of a context
share two or four directions, and the context changes five times. Look at the triangles:
each change is found three tasks later or a few more, and the black line bends up there
for some tasks only, since tasks have to be explored in all directions until the new
ones are known.

Explore-then-commit learns nothing from other tasks. The subspace oracle knows all 16
directions of all contexts together, the oracle those of each context. The numbers are
the regret of a task on average; in the figure of the paper's ancestor they are 732,
472, 241 and 41, for tasks whose norms are not known.

Takes about 30 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.bandits import (
    ContextSwitchingBandit,
    ContextualRepresentationBandit,
    SubspacePolicy,
    TaskRegretDisplay,
    TaskSequence,
    run_tasks,
)

tasks = TaskSequence.random([1000] * 6, ranks=[2, 4, 2, 4, 2, 2], random_state=0)
game = ContextSwitchingBandit(tasks)
together = np.linalg.svd(np.concatenate(tasks.components))[2][:16]
of_each = [tasks.components[context] for context in tasks.contexts]

model = ContextualRepresentationBandit(random_state=0)
results = {
    "ContextualRepresentationBandit": model.simulate(game, seed=0),
    "explore, then commit": run_tasks(SubspacePolicy(), game, seed=0),
    "subspace oracle": run_tasks(SubspacePolicy(together), game, seed=0),
    "oracle": run_tasks(SubspacePolicy(of_each.__getitem__), game, seed=0),
}

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
TaskRegretDisplay.from_results(results, ax=left)
left.set_title("Regret of 6000 tasks of 1000 rounds")

# %%
# Around the second change: regret of each task. The upper ones are explored in all
# directions; those below cost the oracle's exploration and the probes.

TaskRegretDisplay.from_results(
    {"ContextualRepresentationBandit": results["ContextualRepresentationBandit"]},
    ax=right,
    cumulative=False,
)
right.set(xlim=(1940, 2080), title="Around the second change: a dot is a task")
plt.show()
