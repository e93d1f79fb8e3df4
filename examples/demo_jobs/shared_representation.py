"""The row of ContextualRepresentationBandit, its task, and what its tasks share."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from sklearn_attn.bandits import ContextualRepresentationBandit
from sklearn_attn.datasets import make_digit_tasks

from . import Task, tuned

NAME = "shared representation"
PICTURE = "contexts.png"

_FIRST_SEED = 900
N_PIXELS, SIDE = 64, 8
N_COMPONENTS = 12  # of an image, for trees
N_LANDMARKS, GAMMA = 64, 0.1  # of the kernel
ROWS_OF_TASK = 30  # for training
MOST_CONTEXTS, DIRECTIONS, N_SHOWN = 3, 2, 6  # in the picture
FOUND = "#D55E00"
WIDTH, HEIGHT = 9, 6  # inches


class EachTask(RegressorMixin, BaseEstimator):
    """Another regressor for each task by itself; the last column of X names it."""

    def __init__(self, regressor):
        self.regressor = regressor

    def fit(self, X, y):
        tasks = X[:, -1]
        self.regressors_ = {
            task: clone(self.regressor).fit(X[tasks == task, :-1], y[tasks == task])
            for task in np.unique(tasks)
        }
        return self

    def predict(self, X):
        y = np.empty(len(X))
        for task in np.unique(X[:, -1]):
            rows = X[:, -1] == task
            y[rows] = self.regressors_[task].predict(X[rows, :-1])
        return y


def paid_digits(n_train=2400, n_test=800, n_folds=5):
    """Return images that bring something, in tasks that pay for digits in their ways.

    Each fold has tasks of its own, with training and test rows for each. The last
    column of X names the task. Tasks take turns, so that parts of the rows have all.
    """
    n_tasks = 2 * max(2, n_train // ROWS_OF_TASK // 2)  # in two contexts
    n_rows = n_train // n_tasks, n_test // n_tasks
    X, y, folds = [], [], []
    for fold in range(n_folds):
        images, paid, tasks = make_digit_tasks(
            [n_tasks // 2] * 2, sum(n_rows), random_state=_FIRST_SEED + fold
        )
        in_turn = np.arange(len(paid)).reshape(n_tasks, -1).T.ravel()
        X.append(np.column_stack([images, tasks + fold * n_tasks])[in_turn])
        y.append(paid[in_turn])
        rows = fold * len(paid) + np.arange(len(paid))
        folds.append(np.split(rows, [n_rows[0] * n_tasks]))
    return Task(
        name="paid_digits",
        title="What does an image bring, in tasks that pay for digits in their ways?",
        X=np.concatenate(X),
        y=np.concatenate(y),
        cv=folds,
        scoring="r2",
        baselines={
            "ridge, each task": tuned(
                EachTask(Ridge()), regressor__alpha=[0.3, 1, 3, 10]
            ),
            "kernel ridge, each task": tuned(
                make_pipeline(_kernel(), EachTask(Ridge())),
                eachtask__regressor__alpha=[0.01, 0.03, 0.1, 0.3],
            ),
            "boosting, with the task": tuned(
                make_pipeline(
                    _of_pixels(PCA(N_COMPONENTS, random_state=0)),
                    HistGradientBoostingRegressor(
                        categorical_features=[N_COMPONENTS], random_state=0
                    ),
                ),
                histgradientboostingregressor__learning_rate=[0.05, 0.1],
                histgradientboostingregressor__max_leaf_nodes=[8, 31],
            ),
        },
    )


def _of_pixels(transformer):
    """Transform the pixels, and pass the task on."""
    pixels = list(range(N_PIXELS))
    return make_column_transformer((transformer, pixels), ("passthrough", [N_PIXELS]))


def _kernel():
    return _of_pixels(Nystroem(gamma=GAMMA, n_components=N_LANDMARKS, random_state=0))


def candidate(task):
    """Return the tuned regressor; None for a task that is not its own."""
    if task.name != "paid_digits":
        return None
    return tuned(
        make_pipeline(_kernel(), ContextualRepresentationBandit(task_column=-1)),
        contextualrepresentationbandit__n_components=[2, 3],
        contextualrepresentationbandit__ridge=[0.01, 0.1],
    )


def picture(tested):
    """Draw which tasks did not fit, and images that directions tell apart.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    ((_, search, X, _),) = tested
    features, model = search.best_estimator_
    contexts = model.context_components_[:MOST_CONTEXTS]
    figure = plt.figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    top, bottom = figure.subfigures(2)
    top.suptitle("Tasks share directions until the context changes, halfway")
    ax = top.subplots()
    scores = model.outlier_scores_
    ax.axhline(1, color="0.6", lw=0.8)
    ax.plot(scores, ".", color="black", label="how badly a task fitted, when it came")
    for start in model.context_starts_[1:]:
        ax.axvline(start - 0.5, color=FOUND, label=f"change found: task {start}")
    n_tasks = len(scores)
    ax.axvline(n_tasks / 2 - 0.5, color="0.4", ls=":", label=f"true: {n_tasks // 2}")
    ax.set(xlabel="task", ylabel="outlier score", xlim=(-1, n_tasks), ylim=(0, None))
    ax.legend(frameon=False, loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)

    bottom.suptitle("Test images at both ends of what tasks of a context share")
    rows = features.transform(X)[:, :-1]
    axes = bottom.subplots(len(contexts), DIRECTIONS, squeeze=False)
    for i, components in enumerate(contexts):
        for j, ax in enumerate(axes[i]):
            ax.set_axis_off()
            if j >= len(components):
                continue
            order = np.argsort(rows @ components[j])
            ends = [*order[:N_SHOWN], *order[-N_SHOWN:]]
            images = [X[k, :N_PIXELS].reshape(SIDE, SIDE) for k in ends]
            for place in (0, N_SHOWN + 1, 2 * N_SHOWN + 2):  # gaps
                images.insert(place, np.zeros((SIDE, SIDE)))
            ax.imshow(np.hstack(images), cmap="gray_r")
            ax.set_title(f"context {i + 1}, direction {j + 1}", fontsize=10)
    return figure
