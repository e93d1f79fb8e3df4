"""
Where inputs only add, products bring nothing, and cross-validation says so
===========================================================================

An honest negative. Left, a chain of heated rooms: heaters and weather add to the
temperatures, and nothing multiplies. Look at the two curves: the bilinear model has
products of states and inputs that it does not need, so that it predicts worse than
linear regression at every ridge, and cross-validation, the dots, sees it. Right, the
boost converter: the duty ratio multiplies, and no ridge makes the linear model as good.

Both see short trajectories, and predict how the state changes within a step.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_score

from sklearn_attn import BilinearSystemIdentifier
from sklearn_attn.datasets import make_boost_converter
from sklearn_attn.dynamics import BilinearSystem

N_TRAIN = 150
ALPHAS = np.geomspace(1e-3, 1e3, 13)


def make_rooms(n_steps, random_state):
    """Generate four rooms in a row with two heaters and the weather, in 10 minutes."""
    rng = np.random.RandomState(random_state)
    A = np.zeros((4, 4, 4))
    A[0] = -0.9 * np.eye(4) + 0.4 * (np.eye(4, k=1) + np.eye(4, k=-1))
    B = np.zeros((4, 3))
    B[0, 0] = B[2, 1] = 1.0  # the heaters
    B[:, 2] = 0.1  # the walls
    rooms = BilinearSystem(A, B, noise_cov=0.04**2 * np.eye(4), dt=1 / 6)
    U = np.repeat(rng.standard_normal((n_steps, 3)), 3, axis=0)[:n_steps]
    states = rooms.simulate(np.zeros(4), U, noise=True, random_state=rng)
    return np.hstack([states[:-1], U]), states[1:]


def draw(ax, X, y):
    """Draw test scores over the ridge, and dots where cross-validation would go."""
    n = y.shape[1]
    change = y - X[:, :n]
    scale = change[:N_TRAIN].std(0)
    train, test = slice(0, N_TRAIN), slice(N_TRAIN, None)
    Z = (X - X[train].mean(0)) / X[train].std(0)
    models = {
        "linear": (Ridge, "black"),
        "bilinear": (BilinearSystemIdentifier, "#D55E00"),
    }
    for name, (model, color) in models.items():
        scores, validated = [], []
        for alpha in ALPHAS:
            candidate = model(alpha=alpha, fit_intercept=True)
            fold = cross_val_score(
                candidate, Z[train], change[train] / scale, cv=KFold(5)
            )
            validated.append(fold.mean())
            candidate.fit(Z[train], change[train] / scale)
            scores.append(candidate.score(Z[test], change[test] / scale))
        best = np.argmax(validated)
        ax.plot(ALPHAS, scores, color=color, label=f"{name}, on unseen data")
        label = f"{name}, chosen by\ncross-validation"
        ax.plot(ALPHAS[best], scores[best], "o", color=color, label=label)
        print(f"{name}: cross-validated R2 {validated[best]:.3f} at best")
    ax.set(xscale="log", xlabel="ridge (alpha)", ylabel="R2 of the change in a step")
    ax.spines[["top", "right"]].set_visible(False)


# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
draw(left, *make_rooms(2000, random_state=0))
left.set_title("Heated rooms: inputs add")
draw(right, *make_boost_converter(2000, hold=5, noise=0.02, random_state=0))
right.set_title("Converter: the input multiplies")
right.legend(frameon=False, loc="lower left", fontsize="small")
plt.show()
