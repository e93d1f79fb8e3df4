"""MI-SVM (Andrews, Tsochantaridis and Hofmann, NIPS 2002): a bag by its best token.

    f(X) = max_t w'x_t + b

A positive bag stands in the SVM with the one token that scores highest, its witness; a
negative bag with all of its tokens. Witnesses and SVM are found in turn.
"""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.svm import LinearSVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data


class MISVMClassifier(ClassifierMixin, BaseEstimator):
    """Linear MI-SVM on rows of tokens laid end to end.

    Parameters
    ----------
    n_tokens : int, default=1
        Number of tokens in each row.
    C : float, default=1.0
        Penalty of the squared hinge loss, as in `LinearSVC`.
    symmetric : bool, default=False
        Whether each of two classes has telling tokens, and so an SVM of its own, as it
        is with more classes. Otherwise only those of `classes_[1]` are looked for.
    max_iter : int, default=50
        Limit of the turns; they end where no witness changes.
    """

    def __init__(self, *, n_tokens=1, C=1.0, symmetric=False, max_iter=50):
        self.n_tokens = n_tokens
        self.C = C
        self.symmetric = symmetric
        self.max_iter = max_iter

    def fit(self, X, y):
        """Fit one SVM for each class that has telling tokens."""
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"MI-SVM needs two classes; got 1 class, {self.classes_}.")
        lone = len(self.classes_) == 2 and not self.symmetric
        bags = self._bags(X)
        sought = self.classes_[1:] if lone else self.classes_
        svms, turns = zip(
            *(_mi_svm(bags, y == label, self.C, self.max_iter) for label in sought)
        )
        self.n_iter_ = max(turns)
        self.coef_ = np.vstack([svm.coef_ for svm in svms])
        self.intercept_ = np.hstack([svm.intercept_ for svm in svms])
        return self

    def decision_function(self, X):
        """Return the score of `classes_[1]`, or with more classes that of each."""
        check_is_fitted(self)
        bags = self._bags(validate_data(self, X, reset=False))
        scores = (bags @ self.coef_.T + self.intercept_).max(axis=1)  # (n, k)
        if len(self.classes_) > 2:
            return scores
        return scores[:, 1] - scores[:, 0] if self.symmetric else scores[:, 0]

    def predict(self, X):
        """Predict the class of each row."""
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[best]

    def _bags(self, X):
        return X.reshape(len(X), self.n_tokens, -1)


def _mi_svm(bags, is_positive, C, max_iter):
    """Alternate between witnesses of positive bags and an SVM; return it, and turns."""
    positive, negative = bags[is_positive], np.concatenate(bags[~is_positive])
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    svm = LinearSVC(C=C, dual=False)
    witnesses, chosen = positive.mean(axis=1), None  # the start of the paper
    for n_turns in range(1, max_iter + 1):
        svm.fit(np.concatenate([witnesses, negative]), labels)
        last, chosen = chosen, (positive @ svm.coef_[0]).argmax(axis=1)
        if np.array_equal(chosen, last):
            return svm, n_turns
        witnesses = positive[np.arange(len(positive)), chosen]
    return svm, max_iter
