"""The row of SparseDependenceBandit, its task, and the picture of the delays."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Lasso, Ridge
from sklearn.pipeline import make_pipeline

from sklearn_attn.bandits import DependencePatternDisplay, SparseDependenceBandit
from sklearn_attn.datasets import make_digit_rewards

from . import Task, tuned

NAME = "sparse dependence"
PICTURE = "delays.png"

_FIRST_SEED = 700
HORIZON = 40
N_COMPONENTS = 8  # of an image, for trees
WIDTH, HEIGHT = 9, 5  # inches


class LaggedRegressor(RegressorMixin, BaseEstimator):
    """Another regressor on each row and those before, side by side.

    Like ours, it finds the past of the first rows at the end of the training table.
    """

    def __init__(self, regressor, horizon=HORIZON):
        self.regressor = regressor
        self.horizon = horizon

    def fit(self, X, y):
        nothing = np.zeros((self.horizon - 1, X.shape[1]))
        self.regressor_ = clone(self.regressor).fit(self._side_by_side(nothing, X), y)
        self.history_ = np.concatenate([nothing, X])[-(self.horizon - 1) :]
        return self

    def predict(self, X):
        return self.regressor_.predict(self._side_by_side(self.history_, X))

    def _side_by_side(self, past, X):
        rows = np.concatenate([past, X])
        windows = np.lib.stride_tricks.sliding_window_view(rows, self.horizon, axis=0)
        return windows.reshape(len(X), -1)


def late_digits(n_train=1200, n_test=400, n_folds=5):
    """Return images of digits that pay some rounds later; each fold is a new series.

    The past of a test row is in the rows before it and, beyond them, in the training
    rows: folds are in the order of time.
    """
    parts = [
        make_digit_rewards(n_train + n_test, random_state=_FIRST_SEED + fold)
        for fold in range(n_folds)
    ]
    X, y = (np.concatenate(each) for each in zip(*parts))
    n = n_train + n_test
    folds = [np.split(fold * n + np.arange(n), [n_train]) for fold in range(n_folds)]
    return Task(
        name="late_digits",
        title="Which digit shown earlier does a reward come from?",
        X=X,
        y=y,
        cv=folds,
        scoring="r2",
        baselines={
            "ridge, present row": tuned(Ridge(), in_time=True, alpha=[0.1, 1, 10, 100]),
            "Lasso, lagged rows": tuned(
                LaggedRegressor(Lasso(max_iter=3000)),
                in_time=True,
                regressor__alpha=[0.003, 0.006, 0.012, 0.025],
            ),
            "boosting, lagged rows": tuned(
                make_pipeline(
                    PCA(N_COMPONENTS, random_state=0),
                    LaggedRegressor(HistGradientBoostingRegressor(random_state=0)),
                ),
                in_time=True,
                laggedregressor__regressor__learning_rate=[0.05, 0.1],
                laggedregressor__regressor__max_leaf_nodes=[4, 15],
            ),
        },
    )


def candidate(task):
    """Return the tuned regressor; None for a task that is not its own."""
    if task.name != "late_digits":
        return None
    return tuned(
        SparseDependenceBandit(horizon=HORIZON),
        in_time=True,
        alpha=[0.05, 0.3],
        nonneg=[False, True],
    )


def picture(tested):
    """Draw how much each lag matters to the model.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    ((_, search, _, _),) = tested
    figure, axes = plt.subplots(
        2, sharex=True, figsize=(WIDTH, HEIGHT), layout="constrained"
    )
    figure.suptitle("Digits that pay 2, 9 and 30 rounds later: what the model found")
    DependencePatternDisplay.from_estimator(search.best_estimator_, axes=axes)
    return figure
