"""The row of PromptAttention, its task, and the picture of what it attends to."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_attn.attention import (
    AttentionDisplay,
    LinearAttentionClassifier,
    MeanTokenClassifier,
    PromptAttention,
)
from sklearn_attn.datasets import make_digit_needles

from . import Task, tuned
from .tasks import statistics

NAME = "prompt-attention"
PICTURE = "prompt_attention.png"

_FIRST_SEED = 100
WIDTH, HEIGHT = 11, 6  # inches
N_SEQUENCES = 2  # of each class
IMAGE_SHAPE = (8, 8)
STRONG_AND_WEAK = {"alpha_head": [0.003, 0.03], "alpha_prompt": [0.01, 0.1]}


def digit_needles(n_train=600, n_test=1000, n_folds=5, n_tokens=16):
    """Return sequences of digits in which two are both a 3, or both an 8.

    Every fold draws sequences of its own, those for training from 1000 of the images
    and those for testing from the 797 others.
    """
    sequences, classes, folds = [], [], []
    for fold in range(n_folds):
        for subset, n_samples in (("train", n_train), ("test", n_test)):
            X, y = make_digit_needles(
                n_samples,
                n_tokens,
                subset=subset,
                random_state=_FIRST_SEED + len(sequences),
            )
            sequences.append(X.reshape(n_samples, -1))  # tokens end to end
            classes.append(y)
        first = fold * (n_train + n_test)
        folds.append(np.split(first + np.arange(n_train + n_test), [n_train]))
    return Task(
        name="digit_needles",
        title=f"Which sequences hide two 3s, which two 8s, among {n_tokens} digits?",
        X=np.concatenate(sequences),
        y=np.concatenate(classes),
        cv=folds,
        n_tokens=n_tokens,
        baselines={
            "mean token (linear)": tuned(
                MeanTokenClassifier(n_tokens=n_tokens),
                alpha_head=[0.0003, 0.001, 0.003, 0.01],
            ),
            "linear attention": tuned(
                LinearAttentionClassifier(n_tokens=n_tokens), **STRONG_AND_WEAK
            ),
            "logistic regression (flat)": tuned(
                make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
                logisticregression__C=[0.001, 0.01, 0.1, 1],
            ),
            "random forest (statistics)": tuned(
                make_pipeline(
                    FunctionTransformer(statistics, kw_args={"n_tokens": n_tokens}),
                    RandomForestClassifier(random_state=0),
                ),
                randomforestclassifier__min_samples_leaf=[1, 2, 5, 10],
            ),
        },
    )


def candidate(task):
    """Return the tuned classifier; None for a task that is not its own."""
    if task.name in ("digit_needles", "digit_bags"):
        return tuned(PromptAttention(n_tokens=task.n_tokens), **STRONG_AND_WEAK)
    return None


def picture(tested):
    """Draw what it attends to in some test sequences of its own task.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    task, search, X, y = tested[-1]
    figure = plt.figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    figure.suptitle(f"{task.title} How much attention does each get?")
    rows = np.ravel(
        [np.flatnonzero(y == label)[:N_SEQUENCES] for label in np.unique(y)]
    )
    AttentionDisplay.from_estimator(
        search.best_estimator_,
        X[rows],
        y=y[rows],
        token_images=X[rows].reshape(len(rows), -1, *IMAGE_SHAPE),
        ax=figure.subplots(len(rows)),
    )
    return figure
