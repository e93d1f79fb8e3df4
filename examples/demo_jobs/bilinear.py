"""The row of BilinearSystemIdentifier, its task, and the picture of a free run."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.datasets import make_boost_converter
from sklearn_attn.dynamics import (
    BilinearSystem,
    BilinearSystemIdentifier,
    TrajectoryDisplay,
)

from . import Task, tuned

NAME = "bilinear system"
PICTURE = "converter.png"

_FIRST_SEED = 500
N_STATES, STEP_MS = 2, 0.02
WIDTH, HEIGHT = 11, 5  # inches
STATES = ["current (A)", "voltage (V)"]


def converter(n_train=1000, n_test=1000, n_folds=5):
    """Return steps of a boost converter: state and duty ratio, and how both change.

    Changes and not next states, which are so near to the states that every model looks
    perfect. Every fold draws two trajectories of its own.
    """
    rows, changes, folds = [], [], []
    for fold in range(n_folds):
        for n_steps in (n_train, n_test):
            seed = _FIRST_SEED + len(rows)
            X, y = make_boost_converter(n_steps, noise=0.02, random_state=seed)
            rows.append(X)
            changes.append(y - X[:, :N_STATES])
        first = fold * (n_train + n_test)
        folds.append(np.split(first + np.arange(n_train + n_test), [n_train]))
    return Task(
        name="converter",
        title="How do current and voltage of a converter change in a step?",
        X=np.concatenate(rows),
        y=np.concatenate(changes),
        cv=folds,
        scoring="r2",
        baselines={
            "linear (ridge)": tuned(
                make_pipeline(StandardScaler(), Ridge()),
                ridge__alpha=[0.01, 0.1, 1, 10],
            ),
            "random forest": tuned(
                RandomForestRegressor(random_state=0), min_samples_leaf=[2, 5, 10, 20]
            ),
            "MLP": tuned(
                make_pipeline(
                    StandardScaler(),
                    TransformedTargetRegressor(
                        MLPRegressor(
                            hidden_layer_sizes=(50,), max_iter=1000, random_state=0
                        ),
                        transformer=StandardScaler(),
                    ),
                ),
                transformedtargetregressor__regressor__alpha=[0.001, 0.01, 0.1, 1],
            ),
        },
    )


def candidate(task):
    """Return the tuned regressor; None for a task that is not its own."""
    if task.name != "converter":
        return None
    return tuned(
        BilinearSystemIdentifier(fit_intercept=True),
        input_matrix=[True, False],
        alpha=[0.0, 0.01],
    )


def picture(tested):
    """Draw a free run beside the test trajectory, of which it sees the first state.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    ((_, search, X, y),) = tested
    model = search.best_estimator_
    A = model.A_.copy()
    A[0] += np.eye(N_STATES)  # from changes to states
    system = BilinearSystem(A, model.B_, model.intercept_)
    states, inputs = X[:, :N_STATES], X[:, N_STATES:]
    figure, axes = plt.subplots(
        N_STATES + 1, sharex=True, figsize=(WIDTH, HEIGHT), layout="constrained"
    )
    figure.suptitle(f"A converter, run freely for {len(y)} steps from its first state")
    TrajectoryDisplay(
        STEP_MS * np.arange(len(X) + 1),
        system.simulate(states[0], inputs),
        measured=np.vstack([states, states[-1] + y[-1]]),
        inputs=inputs,
        state_names=STATES,
        input_names=["duty ratio"],
        time_name="time (ms)",
    ).plot(axes)
    return figure
