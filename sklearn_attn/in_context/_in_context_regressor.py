"""InContextRegressor: f_S(x) = TF(S, x), the context S is the table (2301.07067)."""

from typing import ClassVar

import numpy as np
from scipy.special import ndtri
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_array

from .._arrays import follow, to_numpy
from .._compat import fit_context
from .._validation import unharmed
from . import _in_context_methods as methods


class InContextRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Regression by a pretrained transformer, which reads the table and answers.

    The weights are an algorithm [1]_: they were trained on millions of tasks to predict
    from a context, the rows of `fit`, and stay as they are. `fit` takes no step of any
    optimiser; there is nothing to tune, except for the choice of weights.

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
        Standard deviation of the noise in y, in its units, if it is known.
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
    X_context_ : ndarray of shape (n_samples, n_features)
        The context: all rows, in double precision.
    y_context_ : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Their targets.
    x_mean_ : ndarray of shape (n_features,)
        Means of features in the context; 0 without `standardize`.
    x_scale_ : ndarray of shape (n_features,)
        Their standard deviations; 1 without `standardize`, or where they are 0.
    y_mean_ : float or ndarray of shape (n_outputs,)
        Means of targets, likewise.
    y_scale_ : float or ndarray of shape (n_outputs,)
        Standard deviations of targets, likewise.
    weights_ : PretrainedICL
        The weights that were used.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    InContextClassifier : The same for classes.
    InContextForecaster : The same for series.
    pretrain_in_context : Trains weights for a prior of one's own.

    Notes
    -----
    The order of the rows does not matter, nor which rows are predicted together, but
    for weights of the papers' causal form. Targets that are all the same are answered
    without the weights, with a deviation of 0.

    References
    ----------
    .. [1] Li, Ildiz, Papailiopoulos and Oymak, "Transformers as Algorithms:
           Generalization and Stability in In-context Learning", arXiv:2301.07067.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn_attn.in_context import InContextRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(
    ...     X, y, train_size=100, random_state=0
    ... )
    >>> model = InContextRegressor().fit(X_train, y_train)
    >>> bool(model.score(X_test, y_test) > 0.2)
    True
    >>> mean, std = model.predict(X_test[:2], return_std=True)
    >>> mean.shape, std.shape
    ((2,), (2,))
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
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. Each column is a task of its own on the same rows.

        Returns
        -------
        self : InContextRegressor
            The fitted estimator.

        Raises
        ------
        FileNotFoundError
            If `weights` is a path and there is no such file.
        ValueError
            If there are no such weights, a file of them is damaged, or they are of
            series; if there are more rows or features than they take, and the strategy
            is "error"; if X or y has NaN or infinity; or if the device does not exist.

        Warns
        -----
        UserWarning
            If features are left out by "auto", or rows by "subsample".
        """
        rows, y = methods.check_table(self, X, y, multi_output=True, y_numeric=True)
        y = np.array(y)
        targets = y.astype(np.float64, copy=False).reshape(len(rows), -1)
        context = methods.read_table(self, rows, targets, depth=4)
        put = follow(X)
        attributes = methods.describe(context, put)
        attributes["y_context_"] = put(y)
        is_single = y.ndim == 1
        for name in ("y_mean", "y_scale"):
            value = getattr(context.units, name)
            attributes[f"{name}_"] = float(value[0]) if is_single else put(value)
        vars(self).update(attributes, _is_single=is_single)
        return self

    def predict(self, X, *, return_std=False, quantiles=None):
        """Return what is expected, with its uncertainty if asked for.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        return_std : bool, default=False
            Whether to return the standard deviation of a new target, too.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels between 0 and 1 of quantiles to return instead.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Expected targets; with `quantiles`, these, along one more axis at the end.
        std : ndarray of the same shape
            Standard deviations, noise included, with `return_std`.

        Raises
        ------
        ValueError
            If both are asked for, or a level is not between 0 and 1.
        """
        if quantiles is not None:
            if return_std:
                raise ValueError("Ask for return_std or for quantiles, not for both.")
            levels = check_array(to_numpy(quantiles), ensure_2d=False, dtype=np.float64)
            if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
                raise ValueError(
                    f"quantiles must be levels between 0 and 1; got {quantiles!r}."
                )
        mean, std, dtype = methods.answers(self, X, "predict")
        put = follow(X)

        def give(values):
            values = values[:, 0] if self._is_single else values
            return put(values.astype(dtype))

        if quantiles is not None:
            return give(mean[..., None] + std[..., None] * ndtri(levels))
        return (give(mean), give(std)) if return_std else give(mean)

    __getstate__ = methods.getstate
    __setstate__ = methods.setstate

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags
