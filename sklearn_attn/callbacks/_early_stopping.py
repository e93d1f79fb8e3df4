"""Stop after `n_iter_no_change` iterations in a row with value <= best + tol."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

from sklearn.metrics import get_scorer

from .._compat import Interval, StrOptions, validate_params
from ._loops import PerLoop, is_iteration, latest_loss, require_callback_support


@dataclass
class _Progress:
    best: float = -math.inf
    n_stale: int = 0


class EarlyStopping:
    """Stop a fit once its iterations bring no further improvement.

    An iteration is an improvement when it beats the best value so far by more than
    `tol`. The loop stops after `n_iter_no_change` iterations in a row that are none.
    Each loop is judged alone: with one loop per class, every class stops when it is
    done. NaN is never an improvement, so a diverged fit stops as well.

    Parameters
    ----------
    monitor : {"loss", "score"}, default="loss"
        What to watch: the training loss, which should fall, or the score on `X_val` and
        `y_val`, which should rise.
    X_val : array-like of shape (n_val_samples, ...), default=None
        Held-out data for `monitor="score"`, in the form that reaches the estimator. The
        estimator inside a pipeline sees transformed data, so give it transformed data:
        a callback cannot call the steps before it. In a search, the same held-out data
        serve all folds, so keep them out of the data that are searched on.
    y_val : array-like of shape (n_val_samples, ...), default=None
        Targets of `X_val`.
    scoring : str or callable, default=None
        How to score, as in :func:`sklearn.metrics.get_scorer`. None calls the `score`
        method of the estimator.
    n_iter_no_change : int, default=5
        How many iterations in a row may bring no improvement. 5 as in
        :class:`~sklearn.linear_model.SGDClassifier`.
    tol : float, default=1e-4
        By how much an iteration must beat the best value so far, in units of the loss
        or score. The best value itself follows every gain, however small: a steady
        crawl below `tol` stops. 1e-4 as in
        :class:`~sklearn.neural_network.MLPClassifier`.

    Raises
    ------
    ImportError
        If scikit-learn is older than 1.9.
    ValueError
        If `monitor="score"` comes without `X_val`, or `monitor="loss"` with `X_val`,
        `y_val` or `scoring`; in fit, if the loss is watched and the estimator keeps no
        `loss_curve_`.

    See Also
    --------
    Snapshot : Keep the fitted copies of past iterations.

    Notes
    -----
    The estimator keeps the state of the iteration that it stopped at: the protocol can
    stop a fit but not hand an earlier state back. To go back to the best iteration, add
    ``Snapshot(directory, keep_last=n_iter_no_change + 1)``: the oldest snapshot kept of
    a loop that was stopped is the last improvement.

    Estimators are free to ignore a request to stop;
    :class:`~sklearn.linear_model.LogisticRegression` does in scikit-learn 1.9.

    Examples
    --------
    >>> from sklearn_attn.attention import AttentionSVMClassifier
    >>> from sklearn_attn.callbacks import EarlyStopping
    >>> from sklearn_attn.datasets import make_token_selection
    >>> X, y = make_token_selection(
    ...     n_samples=20, n_tokens=5, n_token_features=4, random_state=0
    ... )
    >>> patient = AttentionSVMClassifier().fit(X, y)
    >>> hasty = AttentionSVMClassifier().set_callbacks(EarlyStopping(tol=1e-2))
    >>> hasty.fit(X, y).n_iter_ < patient.n_iter_ / 2
    True
    """

    @validate_params(
        {
            "monitor": [StrOptions({"loss", "score"})],
            "X_val": "no_validation",
            "y_val": "no_validation",
            "scoring": [str, callable, None],
            "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
            "tol": [Interval(Real, 0, None, closed="left")],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(
        self,
        *,
        monitor="loss",
        X_val=None,
        y_val=None,
        scoring=None,
        n_iter_no_change=5,
        tol=1e-4,
    ):
        require_callback_support(self)
        if monitor == "score" and X_val is None:
            raise ValueError(
                'monitor="score" needs held-out data: give X_val and y_val.'
            )
        if monitor == "loss" and any(v is not None for v in (X_val, y_val, scoring)):
            raise ValueError(
                'X_val, y_val and scoring go with monitor="score"; '
                'monitor="loss" watches the training loss.'
            )
        self.monitor = monitor
        self.X_val = X_val
        self.y_val = y_val
        self.scoring = scoring
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self._scorer = _default_score if scoring is None else get_scorer(scoring)
        self._loops = PerLoop()

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if fitted_estimator is None or not is_iteration(context):
            return False
        value = self._value_to_raise(fitted_estimator)
        progress = self._loops.setdefault(context.parent, _Progress())
        improved = value > progress.best + self.tol
        progress.n_stale = 0 if improved else progress.n_stale + 1
        if value > progress.best:
            progress.best = value
        return progress.n_stale >= self.n_iter_no_change

    def _value_to_raise(self, fitted_estimator):
        if self.monitor == "loss":
            return -latest_loss(self, fitted_estimator)
        return self._scorer(fitted_estimator, self.X_val, self.y_val)


def _default_score(fitted_estimator, X, y):
    return fitted_estimator.score(X, y)
