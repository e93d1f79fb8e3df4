"""InContextClassifier: classes as targets of a regression."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.model_selection import cross_val_score, train_test_split

from sklearn_attn.in_context import InContextClassifier, InContextRegressor


def test_real_classes_are_told_apart():
    for load, least in ((load_iris, 0.85), (load_wine, 0.9)):
        X, y = load(return_X_y=True)
        assert cross_val_score(InContextClassifier(), X, y, cv=3).mean() > least


def test_ten_classes_and_64_pixels_are_no_limit():
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, train_size=300, random_state=0)
    model = InContextClassifier(feature_strategy="pca").fit(X, y)
    assert model.score(X_test[:300], y_test[:300]) > 0.8
    assert model.predict_proba(X_test[:5]).shape == (5, 10)


def test_probabilities_are_those_of_positive_targets_in_the_regression():
    X, y = load_iris(return_X_y=True)
    model = InContextClassifier().fit(X, y)
    shares = model.predict_proba(X)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (shares > 0).all()
    np.testing.assert_array_equal(model.predict(X), shares.argmax(1))
    targets = np.where(y[:, None] == np.arange(3), 1.0, -1.0)
    mean, std = InContextRegressor().fit(X, targets).predict(X, return_std=True)
    order = np.argsort(mean / std, axis=1)
    np.testing.assert_array_equal(np.argsort(shares, axis=1), order)


def test_probabilities_are_calibrated_where_classes_overlap():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2200, 2))
    p = 1 / (1 + np.exp(-1.5 * X[:, 0]))
    y = rng.random(2200) < p
    model = InContextClassifier().fit(X[:200], y[:200])
    found = model.predict_proba(X[200:])[:, 1]
    # the squared error beyond the one of the true probabilities
    assert np.square(found - p[200:]).mean() < 0.01


def test_names_of_classes_come_back_and_one_class_is_itself():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = InContextClassifier().fit(X, names)
    assert set(model.predict(X)) <= set(names)
    assert list(model.classes_) == ["setosa", "versicolor", "virginica"]
    alone = InContextClassifier().fit(X[:50], names[:50])
    assert set(alone.predict(X)) == {"setosa"}
    np.testing.assert_array_equal(alone.predict_proba(X), 1.0)


def test_numbers_that_are_no_classes_are_refused():
    X, _ = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="Unknown label type"):
        InContextClassifier().fit(X, X[:, 0])
