"""The row of InContextRegressor, its task, and what it says of each patient."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import ShuffleSplit
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.in_context import InContextRegressor

from . import Task, tuned

NAME = "in-context"
PICTURE = "few_patients.png"

_SPLIT_SEED = 1000
ALPHAS = [1, 10, 30, 100]
LEVELS = [0.05, 0.5, 0.95]
N_SHOWN = 60  # patients, so that bars do not touch
SHARES, N_DRAWS = [0.15, 0.3, 0.6, 1.0], 8  # of the training rows
OURS, THEIRS, MISSED = "#0072B2", "#999999", "#D55E00"
WIDTH, HEIGHT = 11, 4.5  # inches


def few_patients(n_train=60, n_test=300, n_folds=10):
    """Return a table: ten measurements of patients, and their diabetes a year later."""
    X, y = load_diabetes(return_X_y=True)
    splitter = ShuffleSplit(
        n_folds, train_size=n_train, test_size=n_test, random_state=_SPLIT_SEED
    )
    return Task(
        name="few_patients",
        title=f"How far is diabetes a year later? {n_train} patients to learn from",
        X=X,
        y=y,
        cv=list(splitter.split(X)),
        scoring="r2",
        baselines={
            "linear (ridge)": tuned(_scaled(Ridge()), regressor__ridge__alpha=ALPHAS),
            "kernel ridge": tuned(
                _scaled(KernelRidge(kernel="rbf")),
                regressor__kernelridge__gamma=[3e-3, 0.01, 0.03, 0.1],
            ),
            "random forest": tuned(
                RandomForestRegressor(random_state=0), min_samples_leaf=[1, 2, 5, 10]
            ),
            "MLP": tuned(
                _scaled(
                    MLPRegressor(
                        hidden_layer_sizes=(50,),
                        solver="lbfgs",
                        max_iter=5000,
                        random_state=0,
                    )
                ),
                regressor__mlpregressor__alpha=[5, 10, 20, 40],
            ),
        },
    )


def _scaled(regressor):
    """Centre and scale features and target, as ours does by itself."""
    return TransformedTargetRegressor(
        make_pipeline(StandardScaler(), regressor), transformer=StandardScaler()
    )


def candidate(task):
    """Return the tuned regressor; None for a task that is not its own."""
    if task.name != "few_patients":
        return None
    return tuned(
        InContextRegressor(random_state=0),
        weights=["icl-mixed", "icl-linear-noisy"],
        n_estimators=[1, 4],
    )


def picture(tested):
    """Draw intervals for test patients, and errors with fewer patients to learn from.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    ((task, search, X, y),) = tested
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, HEIGHT), width_ratios=(1.5, 1), layout="constrained"
    )
    n_train = len(task.cv[0][0])
    figure.suptitle(
        f"Diabetes a year later: {n_train} patients were read, nothing was trained"
    )
    _draw_intervals(left, search.best_estimator_, X, y)
    _draw_errors(right, task, search.best_estimator_)
    return figure


def _draw_intervals(axes, model, X, y):
    low, middle, high = model.predict(X, quantiles=LEVELS).T
    inside = (low <= y) & (y <= high)
    shown = np.arange(len(y))[:N_SHOWN]
    shown = shown[np.argsort(middle[shown])]
    place = np.arange(len(shown))
    axes.vlines(
        place,
        low[shown],
        high[shown],
        color=OURS,
        alpha=0.3,
        lw=4,
        label="90 % interval",
    )
    axes.plot(place, middle[shown], "_", color=OURS, ms=6, label="prediction")
    for hit, color, label in (
        (True, "black", "truth"),
        (False, MISSED, "truth, outside"),
    ):
        dots = inside[shown] == hit
        axes.plot(place[dots], y[shown][dots], "o", color=color, ms=4, label=label)
    axes.set(
        title=f"{100 * inside.mean():.0f} % of {len(y)} new patients are in their bars",
        xlabel=f"{len(shown)} of them, from the mildest prediction to the worst",
        ylabel="progression of the disease",
        xticks=[],
    )
    axes.legend(frameon=False, ncols=4, loc="upper left", fontsize=9)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.12)
    axes.spines[["top", "right"]].set_visible(False)


def _error(regressor, task, train, test):
    regressor = clone(regressor).fit(task.X[train], task.y[train])
    return root_mean_squared_error(task.y[test], regressor.predict(task.X[test]))


def _draw_errors(axes, task, model):
    """Draw errors of a fold against the number of training rows, mean over draws."""
    train, test = task.cv[0]
    rng = np.random.default_rng(0)
    sizes = [max(5, round(share * len(train))) for share in SHARES]
    models = {
        "in-context": (model, OURS),
        "ridge": (make_pipeline(StandardScaler(), RidgeCV(ALPHAS)), THEIRS),
    }
    draws = [[rng.permutation(train)[:n] for _ in range(N_DRAWS)] for n in sizes]
    for name, (regressor, color) in models.items():
        errors = [
            np.mean([_error(regressor, task, rows, test) for rows in of_size])
            for of_size in draws
        ]
        axes.plot(sizes, errors, "o-", color=color, label=name)
    spread = task.y[test].std()
    axes.axhline(spread, color="black", ls=":", lw=1)
    axes.annotate(
        "the same answer for all",
        (sizes[-1], spread),
        (0, -4),
        textcoords="offset points",
        ha="right",
        va="top",
    )
    axes.set(
        title="error on new patients (root mean square)",
        xlabel="patients to learn from",
        xticks=sizes,
    )
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
