"""The row of AttentionSVMClassifier, and the picture of what it attends to."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.attention import AttentionDisplay, AttentionSVMClassifier
from sklearn_attn.preprocessing import FeatureTokenizer

from . import tuned

NAME = "attention SVM"
PICTURE = "attention.png"

WIDTH = 11  # inches
N_BAGS = 3  # of each class
IMAGE_SHAPE = (8, 8)


def candidate(task):
    """Return the tuned classifier; None for a task that is not its own."""
    if task.name == "digit_bags":
        return tuned(
            make_pipeline(
                StandardScaler(with_std=False),
                AttentionSVMClassifier(n_tokens=task.n_tokens),
            ),
            # the smaller the last ridge of the path, the sharper the attention
            attentionsvmclassifier__attention_reg=[
                (0.1, 0.01, last) for last in (0.005, 0.002, 0.001, 0.0005)
            ],
        )
    if task.name == "breast_cancer":
        return tuned(
            make_pipeline(
                StandardScaler(),
                FeatureTokenizer(flatten=True),
                AttentionSVMClassifier(
                    n_tokens=task.n_tokens, attention_reg=(0.1, 0.01)
                ),
            ),
            # large: a weighted mean of 30 tokens with one value each is small
            attentionsvmclassifier__C=[10, 100],
            attentionsvmclassifier__head_reg=[0.001, 0.01],
        )
    return None


def picture(tested):
    """Draw what each task's classifier attends to in the first samples of a test set.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    inches = [INCHES[task.name] for task, *_ in tested]
    figure = plt.figure(figsize=(WIDTH, sum(inches)), layout="constrained")
    subfigures = figure.subfigures(len(tested), height_ratios=inches, squeeze=False)
    for subfigure, (task, search, X, y) in zip(subfigures.flat, tested):
        DRAW[task.name](subfigure, search.best_estimator_, X, y)
    return figure


def draw_bags(figure, classifier, X, y):
    """Draw bags as strips of digits over their bars, a column for each class."""
    figure.suptitle(
        "Each bag hides one 3 or one 8: how much attention does each digit get?"
    )
    bags = first_of_each_class(y, N_BAGS)
    AttentionDisplay.from_estimator(
        classifier,
        X[bags],
        y=y[bags],
        token_images=X[bags].reshape(len(bags), -1, *IMAGE_SHAPE),
        max_samples=len(bags),
        ax=figure.subplots(N_BAGS, len(bags) // N_BAGS).ravel(),
    )


def draw_tumours(figure, classifier, X, y):
    """Draw the bars of a tumour of each class, named by what is measured."""
    figure.suptitle("Tumours: how much attention does each measurement get?")
    tumours = first_of_each_class(y, 1)
    axes = figure.subplots(len(tumours), sharex=True)
    AttentionDisplay.from_estimator(
        classifier,
        X[tumours],
        y=y[tumours],
        token_names=load_breast_cancer().feature_names,
        ax=axes,
    )
    for ax in axes:
        ax.label_outer()


def first_of_each_class(y, n):
    """Return where the first n samples of each class are, the classes in turn."""
    return np.ravel([np.flatnonzero(y == label)[:n] for label in np.unique(y)], "F")


DRAW = {"digit_bags": draw_bags, "breast_cancer": draw_tumours}
INCHES = {"digit_bags": 4.5, "breast_cancer": 4.5}
