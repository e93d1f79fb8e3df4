"""The row of FedMSAClassifier, its task, and which digits it still knows."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC

from sklearn_attn.datasets import make_longtail_clients
from sklearn_attn.federated import FedMSAClassifier

from . import Task, tuned

NAME = "FedMSA"
PICTURE = "rare_digits.png"

_FIRST_SEED = 500
_SCORING = "balanced_accuracy"  # of tuning too: all digits count the same
_LEAST_OF_DIGIT = 3  # so that each fold of tuning has one
N_ROUNDS = 30  # for tuning, and again to fit all rows
STRENGTHS = [0.1, 1, 10, 100]
COMPARED = "logistic regression"
WIDTH, HEIGHT = 11, 4  # inches
OURS, THEIRS = "#0072B2", "#999999"


def rare_digits(n_train=372, n_test=719, n_folds=5):
    """Return digits, some of them rare in training rows, which ten clients hold.

    Each fold draws the training rows anew, and tests on the same images, of which none
    is rare. The last column of X names the client.
    """
    X, y, folds, first = [], [], [], 0
    for fold in range(n_folds):
        parts = []
        for subset, n in (("train", n_train), ("test", n_test)):
            images, labels, clients = make_longtail_clients(
                subset=subset, random_state=_FIRST_SEED + fold
            )
            rows = _share_of_each_digit(labels, n)
            X.append(np.column_stack([images, clients])[rows])
            y.append(labels[rows])
            parts.append(first + np.arange(len(rows)))
            first += len(rows)
        folds.append(tuple(parts))
    return Task(
        name="rare_digits",
        title="Which digit? Ten clients hold few of some, or none",
        X=np.concatenate(X),
        y=np.concatenate(y),
        cv=folds,
        scoring=_SCORING,
        baselines={
            # all but the last of these see the rows of all clients in one place
            COMPARED: _pooled(LogisticRegression(max_iter=5000), "logisticregression"),
            "logistic regression, balanced": _pooled(
                LogisticRegression(class_weight="balanced", max_iter=5000),
                "logisticregression",
            ),
            "SVM, balanced": _pooled(SVC(class_weight="balanced"), "svc"),
            "federated averaging": _tuned(
                # as many messages as ours: one a round for two, and no second fit
                _federated("plain", variance_reduction=None, n_rounds=4 * N_ROUNDS),
                inner_l2=[1e-4, 1e-3, 1e-2, 1e-1],
            ),
        },
    )


def _share_of_each_digit(labels, n):
    """Return about n rows, the same share of all digits, in their order."""
    if n >= len(labels):
        return np.arange(len(labels))
    rows = []
    for digit in np.unique(labels):
        held = np.flatnonzero(labels == digit)
        rows.append(held[: max(_LEAST_OF_DIGIT, round(n * len(held) / len(labels)))])
    return np.sort(np.concatenate(rows))


def _tuned(estimator, **grid):
    return tuned(estimator, **grid).set_params(scoring=_SCORING)


def _pooled(classifier, name):
    model = make_pipeline(FunctionTransformer(_pixels), classifier)
    return _tuned(model, **{f"{name}__C": STRENGTHS})


def _pixels(X):
    return X[:, :-1]


def _federated(problem, **options):
    # the limit of rounds is the demo's, and no failure
    return FedMSAClassifier(
        problem,
        client_feature=-1,
        **{"n_rounds": N_ROUNDS, "tol": 1e-2, "random_state": 0} | options,
    )


def candidate(task):
    """Return the tuned classifier; None for a task that is not its own."""
    if task.name != "rare_digits":
        return None
    return _tuned(
        _federated("logit_adjust"),
        problem=["logit_adjust", "loss_tuning"],
        inner_l2=[3e-2, 1e-1],  # with less, v takes more rounds than these
    )


def picture(tested):
    """Draw who holds which digits, and how many of each are found.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    ((task, search, X, y),) = tested
    train, _ = task.cv[0]
    digits, clients = np.unique(task.y), task.X[train, -1].astype(int)
    held = np.zeros((clients.max() + 1, len(digits)), dtype=int)
    np.add.at(held, (clients, np.searchsorted(digits, task.y[train])), 1)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, HEIGHT), width_ratios=(1, 1.5), layout="constrained"
    )

    left.imshow(np.sqrt(held), cmap="Greys")  # so that few differ from none
    for (m, i), n in np.ndenumerate(held):
        if n:
            color = "white" if n > held.max() / 3 else "black"
            left.text(i, m, n, ha="center", va="center", fontsize=8, color=color)
    left.set(
        title="Images to learn from",
        xlabel="digit",
        ylabel="client",
        xticks=range(len(digits)),
        xticklabels=digits,
        yticks=range(len(held)),
    )

    rival = clone(task.baselines[COMPARED]).fit(task.X[train], task.y[train])
    place = np.arange(len(digits))
    for shift, name, model, color in (
        (-0.2, f"{COMPARED}, of all rows", rival, THEIRS),
        (0.2, f"{NAME}, of rows that stay with clients", search, OURS),
    ):
        found = recall_score(y, model.predict(X), average=None, zero_division=0)
        label = f"{name}: {found.mean():.2f} on average"
        right.bar(place + shift, found, width=0.4, color=color, label=label)
    names = [f"{d}\n({n})" for d, n in zip(digits, held.sum(0))]
    right.set(
        title="Share of each digit that is found among test images",
        xlabel="digit (and images to learn from)",
        ylim=(0, 1.25),
        yticks=np.linspace(0, 1, 6),
        xticks=place,
        xticklabels=names,
    )
    right.legend(loc="upper center", fontsize=9)
    return figure
