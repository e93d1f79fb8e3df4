"""InContextClassifier: classes as targets -1 and 1 of an in-context regression."""

from typing import ClassVar

import numpy as np
from scipy.special import ndtr
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from .._arrays import follow, to_numpy
from .._compat import fit_context
from .._validation import unharmed
from . import _in_context_methods as methods

# A class that a normal error excludes keeps some probability.
_LEAST_PROBABILITY = 1e-9


class InContextClassifier(ClassifierMixin, BaseEstimator):
    """Classification by a pretrained transformer, which reads the table and answers.

    Each class is a target of 1 for its rows and -1 for others, which the weights
    predict in context, with a deviation [1]_. The probability of a class is that of a
    positive target. There may be any number of classes.

    Read more in the :doc:`user guide </user_guide/in_context>`.

    Parameters
    ----------
    weights : str, path-like or PretrainedICL, default="auto"
        The algorithm: a name of weights that come with the package (see
        :func:`load_in_context_weights`), a file, or what
        :func:`pretrain_in_context` returned. "auto" is "icl-mixed", made for tables.
    max_context : int, default=None
        The most rows of a context. None is what the weights take, or 1024 of weights
        without positions.
    context_strategy : {"bag", "subsample", "nearest", "error"}, default="bag"
        What to do with more rows than that.

        - "bag": average over disjoint contexts, drawn by chance.
        - "subsample": keep some rows, drawn by chance, and warn.
        - "nearest": show each query the rows next to it. Takes far longer.
        - "error": refuse.
    n_estimators : int, default=1
        Contexts to average over that differ in the order and the signs of the columns,
        which no prior cares about, but weights do a little.
    feature_strategy : {"auto", "select", "pca", "project", "error"}, default="auto"
        What to do with more features than the weights take.

        - "select": keep those that correlate most with a target.
        - "pca": keep the main components of the context.
        - "auto": "select" for one target, "pca" for several, and warn.
        - "project": project onto random directions, others for each of `n_estimators`.
        - "error": refuse.
    standardize : bool, default=True
        Whether features are centred and scaled, and targets too, by the means and the
        deviations of the context. Features that do not vary in it are left out. Tasks
        without a constant, whose features all have the same variance, are read better
        without.
    noise : float, default=None
        Standard deviation of the noise in the targets -1 and 1, if it is known.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision. "auto" is double on the CPU for weights of less than 5 million
        numbers, so that a prediction does not depend on the other rows.
    batch_size : "auto" or int, default="auto"
        Rows to predict for at a time. "auto" keeps to some 30 MB.
    cache : {"lazy", "eager", "none"}, default="lazy"
        Whether keys and values of the context are made by the first prediction or by
        `fit`, and kept; or made again by each prediction. They are never pickled.
    random_state : int, RandomState instance or None, default=None
        Determines contexts, orders, signs and projections that are drawn.
    n_jobs : int, default=None
        Threads of torch; -1 is all. None is one where there is little to do.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes.
    X_context_ : ndarray of shape (n_samples, n_features)
        The context: all rows, in double precision.
    y_context_ : ndarray of shape (n_samples,)
        Their classes.
    x_mean_ : ndarray of shape (n_features,)
        Means of features in the context; 0 without `standardize`.
    x_scale_ : ndarray of shape (n_features,)
        Their standard deviations; 1 without `standardize`, or where they are 0.
    weights_ : PretrainedICL
        The weights that were used.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    InContextRegressor : The same for numbers.

    References
    ----------
    .. [1] Li, Ildiz, Papailiopoulos and Oymak, "Transformers as Algorithms:
           Generalization and Stability in In-context Learning", arXiv:2301.07067.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn_attn.in_context import InContextClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(
    ...     X, y, train_size=60, random_state=0
    ... )
    >>> model = InContextClassifier().fit(X_train, y_train)
    >>> bool(model.score(X_test, y_test) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = methods.CONSTRAINTS
    _doc_link_module = "sklearn_attn"
    _doc_link_template = methods.DOC_LINK_TEMPLATE

    def __init__(
        self,
        weights="auto",
        *,
        max_context=None,
        context_strategy="bag",
        n_estimators=1,
        feature_strategy="auto",
        standardize=True,
        noise=None,
        device="cpu",
        dtype="auto",
        batch_size="auto",
        cache="lazy",
        random_state=None,
        n_jobs=None,
    ):
        self.weights = weights
        self.max_context = max_context
        self.context_strategy = context_strategy
        self.n_estimators = n_estimators
        self.feature_strategy = feature_strategy
        self.standardize = standardize
        self.noise = noise
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.cache = cache
        self.random_state = random_state
        self.n_jobs = n_jobs

    @unharmed
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Read the context.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            Classes.

        Returns
        -------
        self : InContextClassifier
            The fitted estimator.

        Raises
        ------
        FileNotFoundError
            If `weights` is a path and there is no such file.
        ValueError
            If there are no such weights, a file of them is damaged, or they are of
            series; if there are more rows or features than they take, and the strategy
            is "error"; if X has NaN or infinity, or y is no target of classes; or if
            the device does not exist.

        Warns
        -----
        UserWarning
            If features are left out by "auto", or rows by "subsample".
        """
        rows, y = methods.check_table(self, X, y)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        targets = np.where(codes[:, None] == np.arange(len(classes)), 1.0, -1.0)
        context = methods.read_table(
            self, rows, targets, depth=4, is_binary=len(classes) == 2
        )
        put = follow(X)
        attributes = methods.describe(context, put)
        attributes |= {"classes_": put(classes), "y_context_": put(np.array(y))}
        vars(self).update(attributes)
        return self

    def predict_proba(self, X):
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of `classes_`.
        """
        shares, dtype = self._shares(X, "predict_proba")
        return follow(X)(shares.astype(dtype))

    def predict(self, X):
        """Return the most probable classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Classes.
        """
        shares, _ = self._shares(X, "predict")
        return follow(X)(to_numpy(self.classes_)[shares.argmax(1)])

    __getstate__ = methods.getstate
    __setstate__ = methods.setstate

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

    def _shares(self, X, method):
        mean, std, dtype = methods.answers(self, X, method)
        z = np.divide(mean, std, out=np.full_like(mean, np.inf), where=std > 0)
        shares = np.maximum(ndtr(z), _LEAST_PROBABILITY)
        return shares / shares.sum(1, keepdims=True), dtype
