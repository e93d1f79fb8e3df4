"""The row of ManifoldNeuralODERegressor, its task, and the picture of its flow."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn import ManifoldNeuralODERegressor, TrajectoryDisplay
from sklearn_attn.datasets import make_macrospin

from . import Task, tuned

NAME = "flow on the sphere"
PICTURE = "macrospin.png"

_FIRST_SEED = 900
NOISE = 0.02  # rad
N_DRAWN, N_TIMES = 8, 50
WIDTH, HEIGHT = 11, 5  # inches


def on_sphere(regressor):
    """Project what a regressor predicts."""
    return TransformedTargetRegressor(
        regressor, inverse_func=_project, func=_same, check_inverse=False
    )


def _project(y):
    return y / np.linalg.norm(y, axis=1, keepdims=True)


def _same(y):
    return y


def macrospin(n_train=100, n_test=500, n_folds=5):
    """Return directions of a magnet and where they turn; every fold draws its own."""
    starts, ends, folds = [], [], []
    for fold in range(n_folds):
        for n, noise in ((n_train, NOISE), (n_test, 0.0)):
            X, y = make_macrospin(
                n, noise=noise, random_state=_FIRST_SEED + len(starts)
            )
            starts.append(X)
            ends.append(y)
        first = fold * (n_train + n_test)
        folds.append(np.split(first + np.arange(n_train + n_test), [n_train]))
    return Task(
        name="macrospin",
        title="Where does the direction of a magnet turn?",
        X=np.concatenate(starts),
        y=np.concatenate(ends),
        cv=folds,
        scoring="neg_root_mean_squared_error",
        baselines={
            "linear (ridge), projected": tuned(
                on_sphere(Ridge()), regressor__alpha=[1e-3, 0.01, 0.1, 1]
            ),
            "kernel ridge, projected": tuned(
                on_sphere(KernelRidge(kernel="rbf", alpha=1e-3)),
                regressor__gamma=[0.1, 0.3, 1, 3],
            ),
            "MLP, projected": tuned(
                on_sphere(
                    make_pipeline(
                        StandardScaler(),
                        MLPRegressor(
                            hidden_layer_sizes=(64, 64),
                            solver="lbfgs",
                            max_iter=5000,
                            random_state=0,
                        ),
                    )
                ),
                regressor__mlpregressor__alpha=[1e-3, 0.01, 0.1, 1],
            ),
        },
    )


def candidate(task):
    """Return the tuned flow; None for a task that is not its own."""
    if task.name != "macrospin":
        return None
    return tuned(
        ManifoldNeuralODERegressor(
            manifold="sphere", n_layers=4, n_init=1, tol=0.01, random_state=0
        ),
        alpha=[1e-6, 1e-5, 1e-4, 1e-3],
    )


def picture(tested):
    """Draw the learned flow from some test directions, and its errors.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    ((_, search, X, y),) = tested
    model = search.best_estimator_
    times = np.linspace(*model.t_span_, N_TIMES)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, HEIGHT), width_ratios=(1.1, 1), layout="constrained"
    )
    figure.suptitle("A magnet: the flow that was learned from pairs of directions")
    path = model.predict_trajectory(X[:N_DRAWN], times)
    TrajectoryDisplay(times, path, manifold="sphere").plot(left)
    left.set_title("from black to orange dots; only ends were shown in fit", size=10)
    right.hist(np.degrees(model.geodesic_error(X, y)), bins=30, color="#D55E00")
    right.set(
        xlabel="angle between prediction and truth (degrees)", ylabel="test directions"
    )
    right.spines[["top", "right"]].set_visible(False)
    return figure
