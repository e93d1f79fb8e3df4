"""The row of MultipathMTLClassifier, its task, and the paths that it found."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_attn.datasets import make_permuted_digit_tasks
from sklearn_attn.multitask import MultipathMTLClassifier, PathwayDisplay

from . import Task, tuned
from .shared_representation import EachTask

NAME = "multipath"
PICTURE = "pathways.png"

_FIRST_SEED = 700
N_PIXELS, SIDE = 64, 8
N_PERMUTATIONS = 3
ROWS_OF_TASK = 20  # for training
N_COMPONENTS = 12  # of an image, for trees
PENALTIES = [1, 3]
SHOWN = 0  # the digit in the picture
WIDTH, HEIGHT = 11, 4.5  # inches


class EachTaskClassifier(ClassifierMixin, BaseEstimator):
    """Another classifier for each task by itself; the last column of X names it."""

    def __init__(self, classifier):
        self.classifier = classifier

    def fit(self, X, y):
        self.each_ = EachTask(self.classifier).fit(X, y)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.each_.predict(X).astype(self.classes_.dtype)


def permuted_digits(n_train=1260, n_test=2520, n_folds=3):
    """Return noisy images of two digits in each task, their pixels in another order.

    Each fold has tasks and permutations of its own, with training and test rows for
    each. The last column of X names the task. Tasks take turns, so that parts of the
    rows have all.
    """
    n_digits = 2
    while _n_tasks(n_digits + 1) * ROWS_OF_TASK <= n_train:
        n_digits += 1
    n_tasks = _n_tasks(n_digits)
    X, y, folds, first = [], [], [], 0
    for fold in range(n_folds):
        parts = []
        for subset, n in (("train", n_train), ("test", n_test)):
            images, labels, tasks = make_permuted_digit_tasks(
                n // n_tasks,
                n_permutations=N_PERMUTATIONS,
                digits=range(n_digits),
                subset=subset,
                random_state=_FIRST_SEED + fold,
            )
            in_turn = np.arange(len(labels)).reshape(n_tasks, -1).T.ravel()
            X.append(np.column_stack([images, tasks + fold * n_tasks])[in_turn])
            y.append(labels[in_turn])
            parts.append(first + np.arange(len(labels)))
            first += len(labels)
        folds.append(tuple(parts))
    return Task(
        name="permuted_digits",
        title="Which of two digits? Tasks see noisy pixels, in one of three orders",
        X=np.concatenate(X),
        y=np.concatenate(y),
        cv=folds,
        baselines={
            "logistic, each task": tuned(
                EachTaskClassifier(LogisticRegression()),
                classifier__C=[0.001, 0.01, 0.1, 1],
            ),
            "boosting, with the task": tuned(
                make_pipeline(
                    make_column_transformer(
                        (PCA(N_COMPONENTS, random_state=0), list(range(N_PIXELS))),
                        ("passthrough", [N_PIXELS]),
                    ),
                    HistGradientBoostingClassifier(
                        categorical_features=[N_COMPONENTS],
                        max_iter=30,
                        random_state=0,
                    ),
                ),
                histgradientboostingclassifier__learning_rate=[0.1, 0.3],
                histgradientboostingclassifier__max_leaf_nodes=[8, 31],
            ),
            "one path for all": _multipath([((1, 9),), ((1, 27),)]),
        },
    )


def _n_tasks(n_digits):
    """Return how many tasks there are: a pair of digits for each permutation."""
    return N_PERMUTATIONS * n_digits * (n_digits - 1) // 2


def _multipath(layers):
    # moments, as tasks have hardly more rows than modules have directions
    model = MultipathMTLClassifier(
        task_feature=-1, solver="moment", n_init=1, split_merge=5, random_state=0
    )
    return tuned(model, layers=layers, alpha_head=PENALTIES)


def candidate(task):
    """Return the tuned classifier; None for a task that is not its own."""
    if task.name != "permuted_digits":
        return None
    return _multipath([((N_PERMUTATIONS, width),) for width in (4, 6)])


def picture(tested):
    """Draw what tasks see, and which of them were found to share a module.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    ((_, search, X, y),) = tested
    model = search.best_estimator_
    n_tasks = len(model.tasks_)
    order_of = np.arange(n_tasks) * N_PERMUTATIONS // n_tasks
    figure = plt.figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))

    left.suptitle(f"The digit {SHOWN} as tasks see it")
    permuted = make_permuted_digit_tasks(
        2,
        n_permutations=N_PERMUTATIONS,
        random_state=_FIRST_SEED,
        return_permutations=True,
    )[-1]
    titles = "one image", "mean image", "mean, pixels\nput back"
    axes = left.subplots(N_PERMUTATIONS, len(titles))
    mine = y == SHOWN
    for k, row in enumerate(axes):
        seen = X[mine & (order_of[X[:, -1].astype(int)] == k), :N_PIXELS]
        mean = seen.mean(0)
        back = mean[np.argsort(permuted.permutations[k])]
        for ax, image, title in zip(row, (seen[0], mean, back), titles):
            ax.imshow(image.reshape(SIDE, SIDE), cmap="gray_r")
            ax.set(xticks=[], yticks=[])
            if k == 0:
                ax.set_title(title, fontsize=9)
        row[0].set_ylabel(_name(k), fontsize=9)

    agreement = model.path_agreement(order_of)
    right.suptitle(
        "Modules that tasks were found to share, not told of the orders\n"
        f"(agreement of {n_tasks} tasks with the orders: {agreement:.2f} of 1)"
    )
    PathwayDisplay.from_estimator(
        model, groups=[_name(k) for k in order_of], ax=right.subplots()
    )
    return figure


def _name(k):
    return f"order {'ABC'[k]}"
