"""ChainOfThoughtRegressor: y = f_L(... f_1(x)), with the steps seen (2305.18869)."""

from itertools import pairwise
from numbers import Integral
from typing import ClassVar, NamedTuple

import numpy as np
from sklearn.base import (
    BaseEstimator,
    MultiOutputMixin,
    RegressorMixin,
    clone,
)
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .._arrays import follow, resolve_device, to_numpy
from .._compat import (
    HasMethods,
    Interval,
    StrOptions,
    count_samples,
    fit_context,
)
from .._validation import unharmed
from . import _in_context_methods as methods
from ._chain import (
    AttentionChain,
    FilteredChain,
    RegressorChain,
    rectified_least_squares,
)
from ._context import Units
from ._steps import Steps, read_given, read_steps, split_columns
from ._weights import CHAINS, MODES

# What "auto" means where y is answered without steps, by steps one at a time, and
# after whole chains.
_AUTO_PLAIN, _AUTO_STEPS, _AUTO_CHAINS = "icl-mixed", "cot-mixed", "cot-two-layer"


class StepRisk(NamedTuple):
    """Errors of a chain, step by step.

    All are mean squared errors over the mean square of what is predicted, about the
    mean of the context if the model standardizes.

    Attributes
    ----------
    names : list of str
        Names of the steps, and "y".
    alone : ndarray of shape (n_steps + 1,)
        Error of each step if the true one before it is given.
    chained : ndarray of shape (n_steps + 1,)
        Error of each step if it goes on from predictions.
    composed : float
        Sum of `alone`: what is expected of the last of `chained` if errors of the
        steps just add up.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_staged_process
    >>> from sklearn_attn.in_context import ChainOfThoughtRegressor
    >>> X, steps, y = make_staged_process(60, random_state=0)
    >>> model = ChainOfThoughtRegressor(solver="filtered").fit(X, y, steps=steps)
    >>> X, steps, y = make_staged_process(100, random_state=1)
    >>> model.step_risk(X, y, steps).names
    ['flows', 'overflows', 'y']
    """

    names: list
    alone: np.ndarray
    chained: np.ndarray
    composed: float


class ChainOfThoughtRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Regression through measured intermediate steps, each learned in context.

    A task y = f_L(... f_1(x)) is hard to learn from x and y, and easy step by step, if
    the steps s^1, ..., s^{L-1} of the training rows are seen [1]_. For new rows, each
    step is predicted from the one before, which was predicted too. As each step is
    learned from its own examples only, their number does not depend on how long the
    chain is, nor how wide the steps are, as long as each has enough.

    By default a pretrained transformer reads the examples of each step and answers, as
    in :class:`InContextRegressor`; without steps, this is one.

    Read more in the :doc:`user guide </user_guide/chain_of_thought>`.

    Parameters
    ----------
    weights : str, path-like or PretrainedICL, default="auto"
        The learning algorithm. Weights for tables go with `filtering="hard"`, weights
        for chains with `filtering="attention"` or `mode="cot-i"`; see
        :func:`load_in_context_weights`. "auto" is "cot-mixed" for the former,
        "cot-two-layer" for the latter, and "icl-mixed" where y is answered without
        steps.
    mode : {"cot-io", "cot-i", "icl"}, default="cot-io"
        What is shown and asked for.

        - "cot-io": examples with steps; all steps, one after the other, then y.
        - "cot-i": examples with steps; y at once.
        - "icl": examples without steps; y at once.
    filtering : {"hard", "attention"}, default="hard"
        How a step is found among all that examples show.

        - "hard": the model is shown one step at a time, and nothing else: its
          coordinates are tasks of their own, with the step before as features. Takes
          any number of steps of any width.
        - "attention": one network reads examples with all steps. Takes as many as its
          weights were trained for, not wider than there.
    solver : {"transformer", "filtered"}, default="transformer"
        "filtered" fits a regressor to each step instead: the construction that the
        transformer is proven to contain. It has no use for weights, contexts and
        devices, nor for filters.
    estimator : object, default=None
        The regressor of `solver="filtered"`, cloned for each coordinate of each step.
        None is least squares; on the rows where it is active, if a coordinate of a step
        is like the output of a ReLU: has zeros, is positive elsewhere, and all rows are
        fitted better so. The last step is linear.
    step_sizes : array-like of int, default=None
        Numbers of columns that belong together: of `steps`, if these come as one array;
        else of y, the last one of which is the target.
    max_context : int, default=None
        The most rows of a context, as in :class:`InContextRegressor`.
    context_strategy : {"bag", "subsample", "nearest", "error"}, default="bag"
        What to do with more rows than that, likewise. "nearest" is for weights of
        tables.
    n_estimators : int, default=1
        Contexts to average over that differ in the order and the signs of the columns.
    feature_strategy : {"auto", "select", "pca", "project", "error"}, default="auto"
        What to do with more features, or a wider step, than the weights take, as in
        :class:`InContextRegressor`. With attention, steps must not be wider.
    standardize : bool, default=True
        Whether features, steps and targets are centred and scaled by means and
        deviations of the context. The tasks of the paper, which have no constants, are
        read better without. For `solver="filtered"` and no `estimator`, whether there
        are constants.
    device : str, default="cpu"
        Where the transformer computes: "cpu", "cuda", "cuda:1", "mps" or "auto".
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision. "auto" is double on the CPU for weights of less than 5 million
        numbers, so that a prediction does not depend on the other rows.
    batch_size : "auto" or int, default="auto"
        Rows to predict for at a time. "auto" keeps to some 30 MB.
    cache : {"lazy", "eager", "none"}, default="lazy"
        Whether keys and values of the examples are made by the first prediction or by
        `fit`, and kept; or made again by each prediction. They are never pickled.
    random_state : int, RandomState instance or None, default=None
        Determines contexts, orders, signs and projections that are drawn.
    n_jobs : int, default=None
        Threads of torch; -1 is all. None is one where there is little to do.

    Attributes
    ----------
    X_context_ : ndarray of shape (n_samples, n_features)
        Inputs of the examples, in double precision.
    y_context_ : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Their targets, as they came.
    steps_context_ : list of ndarray of shape (n_samples, width)
        Their steps, in order; empty if there were none.
    step_names_ : list of str
        Names of the steps; "step_0" and so on if they came without.
    weights_ : PretrainedICL or None
        The weights that were used; None for `solver="filtered"`.
    estimators_ : list or None
        For `solver="filtered"`, what was fitted to each step: a list of clones of
        `estimator`, one for each coordinate; or of least squares the matrix and the
        constants. Else None.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    InContextRegressor : The same without steps.
    pretrain_chain_of_thought : Trains weights for chains.
    pretrain_in_context : Trains weights for tables, hence for single steps.
    sklearn.multioutput.RegressorChain : Predicts outputs in turn from all before.

    Notes
    -----
    Steps go with the rows as metadata: ``cross_val_score(model, X, y,
    params={"steps": S})`` splits an array S of them, of shape (n_samples, width) or
    (n_samples, n_steps, width), and of different widths in one array by `step_sizes`.
    Lists and mappings are not split by scikit-learn.

    References
    ----------
    .. [1] Li, Sreenivasan, Giannou, Papailiopoulos and Oymak, "Dissecting
           Chain-of-Thought: Compositionality through In-Context Filtering and
           Learning", arXiv:2305.18869.

    Examples
    --------
    A plant in which flows and overflows are measured between settings and product:

    >>> from sklearn_attn.datasets import make_staged_process
    >>> from sklearn_attn.in_context import ChainOfThoughtRegressor
    >>> X, steps, y = make_staged_process(100, random_state=0)
    >>> X_test, steps_test, y_test = make_staged_process(200, random_state=1)
    >>> with_steps = ChainOfThoughtRegressor().fit(X, y, steps=steps)
    >>> without = ChainOfThoughtRegressor().fit(X, y)
    >>> bool(with_steps.score(X_test, y_test) > without.score(X_test, y_test) + 0.5)
    True
    >>> predicted = with_steps.predict_steps(X_test)
    >>> {name: step.shape for name, step in predicted.items()}
    {'flows': (200, 6), 'overflows': (200, 5)}
    """

    _parameter_constraints: ClassVar[dict] = {
        **{name: rule for name, rule in methods.CONSTRAINTS.items() if name != "noise"},
        "mode": [StrOptions(set(MODES))],
        "filtering": [StrOptions({"hard", "attention"})],
        "solver": [StrOptions({"transformer", "filtered"})],
        "estimator": [HasMethods(["fit", "predict"]), None],
        "step_sizes": ["array-like", Interval(Integral, 1, None, closed="left"), None],
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = methods.DOC_LINK_TEMPLATE
    # routed wherever this is a step or a candidate, without set_fit_request
    __metadata_request__fit: ClassVar[dict] = {"steps": True}

    def __init__(
        self,
        weights="auto",
        *,
        mode="cot-io",
        filtering="hard",
        solver="transformer",
        estimator=None,
        step_sizes=None,
        max_context=None,
        context_strategy="bag",
        n_estimators=1,
        feature_strategy="auto",
        standardize=True,
        device="cpu",
        dtype="auto",
        batch_size="auto",
        cache="lazy",
        random_state=None,
        n_jobs=None,
    ):
        self.weights = weights
        self.mode = mode
        self.filtering = filtering
        self.solver = solver
        self.estimator = estimator
        self.step_sizes = step_sizes
        self.max_context = max_context
        self.context_strategy = context_strategy
        self.n_estimators = n_estimators
        self.feature_strategy = feature_strategy
        self.standardize = standardize
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.cache = cache
        self.random_state = random_state
        self.n_jobs = n_jobs

    @unharmed
    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, steps=None):
        """Read the examples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. With `step_sizes` and no `steps`, all steps and then the target, in
            columns.
        steps : array-like, list of array-like or dict of array-like, default=None
            What is between X and y, in order: one array of shape (n_samples, width) or
            (n_samples, n_steps, width), or for each step an array of shape (n_samples,)
            or (n_samples, width), by name or not. None is plain regression.

        Returns
        -------
        self : ChainOfThoughtRegressor
            The fitted estimator.

        Raises
        ------
        FileNotFoundError
            If `weights` is a path and there is no such file.
        ValueError
            If a step has another number of rows than X; anything is not finite;
            `step_sizes` does not sum to the number of columns; the weights are not of
            the form that `mode` and `filtering` need, or take fewer steps, features or
            rows; or the device does not exist.

        Warns
        -----
        UserWarning
            If features are left out by "auto", or rows by "subsample".
        """
        resolve_device(self.device)
        rows, y = methods.check_table(self, X, y, multi_output=True, y_numeric=True)
        y = np.array(y)
        targets = y.astype(np.float64, copy=False).reshape(len(rows), -1)
        read, last = _read_steps(steps, targets, self.step_sizes)
        in_columns = self.step_sizes is not None and steps is None
        mode = self.mode if read.arrays else "icl"
        states = [np.array(rows), *read.arrays, last]
        if mode == "icl":  # also of the steps, where these are columns of y
            states = [states[0], targets]
        elif mode == "cot-i" and in_columns:
            raise ValueError(
                "mode='cot-i' answers the target only, not all columns of y; pass "
                "steps apart from y."
            )
        if self.solver == "filtered":
            chain, weights = self._regressors(states, mode), None
        else:
            chain, weights = self._transformer(states, ["X", *read.names], mode)
        put = follow(X)
        vars(self).update(
            X_context_=put(rows.copy()),
            y_context_=put(y),
            steps_context_=[put(step.copy()) for step in read.arrays],
            step_names_=read.names,
            weights_=weights,
            estimators_=chain.regressors if weights is None else None,
            _chain=chain,
            _steps=read,
            _mode=mode,
            _in_columns=in_columns,
            _step_sizes=self.step_sizes,
            _has_means=bool(self.standardize),
        )
        return self

    def predict(self, X, *, return_steps=False, given=None):
        """Return predictions of y, through the steps.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        return_steps : bool, default=False
            Whether to return the predicted steps, too.
        given : dict of array-like, default=None
            True steps that are known, by name or number, of shape (n_samples, width).
            The step after goes on from them.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, of the shape that y had in `fit`.
        steps : list or dict of ndarray of shape (n_samples, width)
            Predicted steps, by name if they came so, with `return_steps`.

        Raises
        ------
        ValueError
            If a given step is not one of those of `fit`, or steps are asked for of a
            mode that answers at once.
        """
        check_is_fitted(self)
        if return_steps or given is not None:
            self._want_steps()
        answers, put = self._answer(X, given, "predict")
        y = np.hstack(answers) if self._in_columns else answers[-1]
        y = put(y[:, 0] if self.y_context_.ndim == 1 else y)
        return (y, self._steps.give(answers[:-1], put)) if return_steps else y

    def predict_steps(self, X, given=None):
        """Return predictions of the steps between X and y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        given : dict of array-like, default=None
            True steps that are known, as in :meth:`predict`: teacher forcing. What is
            returned for these are predictions, nevertheless.

        Returns
        -------
        list or dict of ndarray of shape (n_samples, width)
            Predicted steps, by name if they came so.

        Raises
        ------
        ValueError
            As in :meth:`predict`.
        """
        check_is_fitted(self)
        self._want_steps()
        answers, put = self._answer(X, given, "predict_steps")
        return self._steps.give(answers[:-1], put)

    def step_risk(self, X, y, steps):
        """Return the error of each step, alone and in the chain.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets, as in `fit`.
        steps : array-like, list of array-like or dict of array-like
            Their steps, as in `fit`; None if they are columns of y.

        Returns
        -------
        StepRisk
            `names`, `alone`, `chained` and `composed`.

        Raises
        ------
        ValueError
            If steps are not like those of `fit`.
        """
        check_is_fitted(self)
        self._want_steps()
        y = check_array(to_numpy(y), dtype=np.float64, ensure_2d=False, input_name="y")
        y = y.reshape(len(y), -1)
        sizes = self._step_sizes
        if steps is not None and self._in_columns:  # they come apart this time
            sizes = None
        read, last = _read_steps(self._steps.sort(steps), y, sizes)
        true = [*read.arrays, last]
        seen = to_numpy(self.y_context_)
        seen = seen.reshape(len(seen), -1)[:, -last.shape[1] :]
        seen = [*self._steps.arrays, seen]
        if len(true) != len(seen):
            raise ValueError(
                f"{len(read.arrays)} steps; in fit, there were {self.step_names_}."
            )
        shapes, n = [a.shape for a in true], count_samples(X)
        wanted = [(n, a.shape[1]) for a in seen]
        if shapes != wanted:
            raise ValueError(f"Steps and y have shapes {shapes}; wanted {wanted}.")
        found, _ = self._answer(X, None, "step_risk")
        forced, _ = self._answer(X, dict(enumerate(read.arrays)), "step_risk")
        shifts = [a.mean(0) if self._has_means else 0.0 for a in seen]
        powers = [np.square(a - shift).mean() for a, shift in zip(true, shifts)]

        def risks(answers):
            errors = [np.square(a - b).mean() for a, b in zip(answers, true)]
            return np.array([_ratio(*pair) for pair in zip(errors, powers)])

        alone = risks(forced)
        names = [*self.step_names_, "y"]
        return StepRisk(names, alone, risks(found), float(alone.sum()))

    def _regressors(self, states, mode):
        """Fit a regressor to each step."""
        if mode == "cot-i":
            raise ValueError(
                "mode='cot-i' answers at once after examples with steps, which "
                "solver='filtered' has no way to do; use 'cot-io' or 'icl'."
            )
        regressors = []
        for step, (before, after) in enumerate(pairwise(states)):
            if self.estimator is None:
                regressor = rectified_least_squares(
                    before,
                    after,
                    fit_intercept=self.standardize,
                    may_rectify=step < len(states) - 2,
                )
            else:  # copies, as not all regressors leave their input as it is
                regressor = [
                    clone(self.estimator).fit(before.copy(), y.copy()) for y in after.T
                ]
            regressors.append(regressor)
        return RegressorChain(regressors)

    def _transformer(self, states, names, mode):
        """Show the examples to the weights; return the chain and these."""
        if mode == "icl":  # all weights do
            auto, wanted = _AUTO_PLAIN, (*methods.TABLES, *CHAINS)
        elif mode == "cot-i" or self.filtering == "attention":
            auto, wanted = _AUTO_CHAINS, CHAINS
        else:
            auto, wanted = _AUTO_STEPS, methods.TABLES
        weights = methods.find_weights(self.weights, auto=auto)
        if weights.form not in wanted:
            raise ValueError(
                f"{weights!r} reads {weights.form}; mode={self.mode!r} with "
                f"filtering={self.filtering!r} takes {' or '.join(wanted)}."
            )
        methods.check_place(self, weights)
        if weights.form in CHAINS:
            chain = self._attention(weights, states, mode)
            parts = [chain]
        else:
            parts = []
            for name, (before, after) in zip(names, pairwise(states)):
                is_single = after.shape[1] == 1
                part = methods.plan_context(
                    self, weights, before, after, 5, is_single=is_single, name=name
                )
                parts.append(part)
            chain = FilteredChain(parts)
        if self.cache == "eager":
            methods.read_now(self, parts, weights, len(states[0]))
        return chain, weights

    def _attention(self, weights, states, mode):
        """Show the examples to weights of whole chains."""
        later = np.hstack(states[1:])
        units = Units.of(states[0], later, self.standardize)
        is_single = later.shape[1] == 1
        members, nearest = methods.plan_members(
            self, weights, units, states[0], later, 6, is_single=is_single
        )
        if nearest is not None:
            raise ValueError(
                f"context_strategy='nearest' is for weights of tables; {weights!r} "
                f"reads {weights.form}. Use 'bag'."
            )
        n = max(len(member.rows) for member in members)
        widths = [state.shape[1] for state in states]
        widths[0] = min(int(units.varies.sum()), weights.n_features)
        weights.check_chain(widths, n, mode)
        keeps = self.cache != "none"
        return AttentionChain(weights, states, units, members, mode, keeps)

    def _want_steps(self):
        """Refuse to answer for steps that there are none of."""
        if self._mode == "cot-io":
            return
        why = (
            f"mode={self._mode!r} answers y at once; steps need mode='cot-io'."
            if self._steps.arrays
            else "There were no steps in fit."
        )
        raise ValueError(f"There are no steps to predict, or to be given. {why}")

    def _answer(self, X, given, method):
        """Return answers for s^1, ..., s^L in double precision, and what puts them
        into the namespace and the precision of X."""
        rows, dtype = methods.check_rows(self, X, method)
        given = read_given(given, self._steps, len(rows))
        if self.weights_ is None:
            answers = self._chain.answer(rows, given)
        else:
            device = resolve_device(self.device, fall_back=True)
            where = {
                "device": device,
                "dtype": methods.resolve_precision(self.dtype, self.weights_, device),
                "batch_size": self.batch_size,
            }
            width = self.weights_.config["width"]
            with methods.threads(self, self.X_context_.shape[0] * width):
                answers = self._chain.answer(rows, given, **where)
        put = follow(X)
        return answers, lambda array: put(array.astype(dtype))

    __getstate__ = methods.getstate
    __setstate__ = methods.setstate

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags


def _read_steps(steps, y, step_sizes):
    """Return the steps, which may be the first columns of y (n, m), and the last
    state."""
    if steps is None and step_sizes is not None:
        *parts, last = split_columns(y, step_sizes, "y")
        names = [f"step_{i}" for i in range(len(parts))]
        return Steps(parts, names, False), last
    return read_steps(steps, step_sizes, len(y)), y


def _ratio(error, power):
    """Return error / power; what never changes is right, or infinitely wrong."""
    if power > 0:
        return error / power
    return np.inf if error else 0.0
