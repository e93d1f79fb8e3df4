"""What estimators with outputs f_k(X) = w_k'X'a_k(X) + b_k have in common.

No class inherits from another here: each takes the methods that fit it by name
(`predict = methods.predict`). A class says how it differs by

- `_attention`, one of the functions of `_token_attention`,
- `_attention_attribute`, the name of that function's parameter, or None,
- `_centred`, whether the attention works on tokens minus `mean_`,
- `_check(n_outputs)`, which refuses settings that cannot be,
- `_learn(samples, scale, on_iteration)`, its solver.
"""

import warnings
from dataclasses import replace

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._arrays import few_threads, follow, pack_state, to_numpy, to_tensor, unpack_state
from .._compat import check_same_namespace, fit_context, with_callbacks
from .._validation import (
    Tokens,
    check_class_weight,
    check_classes,
    check_tokens,
    check_weights,
    unharmed,
)
from ._learn_prompts import learn_prompts
from ._standardize_tokens import standardize_tokens
from ._three_step import ThreeStepRule
from ._token_attention import pool, project
from ._token_risk import BINOMIAL, MULTINOMIAL, SQUARED, Samples

DOC_LINK_TEMPLATE = (
    "https://sklearn-attn.readthedocs.io/en/stable/generated/"
    "{estimator_module}.{estimator_name}.html"
)
# What only some settings leave behind, and a later fit must not find.
_OPTIONAL = ("first_head_", "prompt_direction_", "prompt_scale_")


def check_nothing(self, n_outputs):
    """All settings go together."""


@unharmed
@with_callbacks
@fit_context(prefer_skip_nested_validation=True)
def fit_classifier(self, X, y, sample_weight=None):
    """Fit the classifier.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_tokens * n_token_features) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences: rows of `n_tokens` tokens laid end to end, a 3-D array, or a list
        of arrays of shape (n_tokens_i, n_token_features). A token whose features are
        all NaN is padding.
    y : array-like of shape (n_samples,)
        Class labels.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples. None weighs all the same.

    Returns
    -------
    self : estimator
        The fitted classifier.

    Raises
    ------
    ValueError
        If n_tokens does not divide the number of columns, a token is partly NaN, a
        sequence has no token, X is infinite somewhere, y has one class only, or the
        device does not exist.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` iterations were not enough.
    """
    tokens, labels = check_tokens(self, X, y, reset=True)
    weight = check_weights(sample_weight, len(tokens.values))
    self.classes_, codes = check_classes(self, labels, weight)
    per_class = check_class_weight(self.class_weight, self.classes_, codes, weight)
    if len(self.classes_) == 2:
        targets, loss = codes[:, None], BINOMIAL
    else:
        targets, loss = codes[:, None] == np.arange(len(self.classes_)), MULTINOMIAL
    return _fit(self, (X, y), tokens, targets, loss, weight * per_class[codes])


@unharmed
@with_callbacks
@fit_context(prefer_skip_nested_validation=True)
def fit_regressor(self, X, y, sample_weight=None):
    """Fit the regressor.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_tokens * n_token_features) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences: rows of `n_tokens` tokens laid end to end, a 3-D array, or a list
        of arrays of shape (n_tokens_i, n_token_features). A token whose features are
        all NaN is padding.
    y : array-like of shape (n_samples,)
        The targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples. None weighs all the same.

    Returns
    -------
    self : estimator
        The fitted regressor.

    Raises
    ------
    ValueError
        If n_tokens does not divide the number of columns, a token is partly NaN, a
        sequence has no token, X or y is infinite somewhere, or the device does not
        exist.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` iterations were not enough.
    """
    tokens, y_checked = check_tokens(self, X, y, reset=True, y_numeric=True)
    weight = check_weights(sample_weight, len(tokens.values))
    targets = np.asarray(to_numpy(y_checked), dtype=np.float64)[:, None]
    return _fit(self, (X, y), tokens, targets, SQUARED, weight)


def _fit(self, data, tokens, targets, loss, weight):
    """Standardise, learn, and put the answer into the units of the data."""
    values, mask = tokens
    _, self.n_tokens_, self.n_token_features_ = values.shape
    self._check(targets.shape[1])
    rows = np.flatnonzero(weight)
    private = mask is not None
    if len(rows) < len(weight):
        values, mask = _take(values, mask, rows)
        private = True
    like = {"device": values.device, "dtype": values.dtype}
    share = weight[rows] / weight[rows].sum()
    targets, y_mean, y_scale = _standardize_targets(
        targets[rows].astype(np.float64), share, loss, self.fit_intercept
    )
    share = to_tensor(share, **like)
    context = self._init_callback_context(max_subtasks=self.max_iter)
    context.call_on_fit_task_begin(estimator=self, X=data[0], y=data[1])
    with few_threads(values.numel()):
        values, mean, scale = standardize_tokens(
            values,
            mask,
            share,
            how=self.standardize,
            centre=self.fit_intercept,
            in_place=private,
        )
        samples = Samples(values, mask, to_tensor(targets, **like), share, loss)
        units = _Units(self._centred, to_numpy(mean), to_numpy(scale), y_mean, y_scale)

        def on_iteration(model, curve):
            if self.verbose:
                print(f"iteration {len(curve)}: {curve[-1]:.6g}")
            step = context.subcontext(task_name="iteration")
            step.call_on_fit_task_begin(estimator=self, X=data[0], y=data[1])
            return step.call_on_fit_task_end(
                estimator=self,
                X=data[0],
                y=data[1],
                reconstruction_attributes=lambda: _put(
                    data[0], units.attributes(model, self._attention_attribute, curve)
                ),
            )

        solution, objective, optional = self._learn(samples, scale, on_iteration)
    if not solution.converged:
        warnings.warn(
            f"{type(self).__name__} did not converge in {solution.n_iter} iterations "
            f"(max_iter={self.max_iter}). Increase max_iter, or tol, or the penalties.",
            ConvergenceWarning,
            stacklevel=2,
        )
    for name in _OPTIONAL:
        vars(self).pop(name, None)
    curve = solution.history.get("objective", [])
    found = units.attributes(solution.value, self._attention_attribute, curve)
    found |= units.optional(**optional) | {
        "mean_": units.mean,
        "scale_": units.scale,
        "loss_": float(objective),
        "converged_": bool(solution.converged),
    }
    found["n_iter_"] = max(1, solution.n_iter)
    vars(self).update(_put(data[0], found))
    if hasattr(self, "classes_"):
        self.classes_ = follow(data[0])(self.classes_)
    # for ClassNamePrefixFeaturesOutMixin
    n_attentions = (
        len(found["prompt_"]) if self._attention_attribute == "prompt_" else 1
    )
    self._n_features_out = n_attentions * self.n_token_features_
    context.call_on_fit_task_end(estimator=self, X=data[0], y=data[1])
    return self


def learn_prompt_model(self, samples, scale, on_iteration):
    """Learn prompts and heads as the parameters of PromptAttention say."""
    n_outputs, d = samples.Y.shape[1], samples.X.shape[2]
    n_prompts = 1 if getattr(self, "shared_prompt", False) else n_outputs
    method, head, prompt = self.method, self.head, None
    if method == "known-prompt":
        prompt = _check_prompt(self.prompt, d, n_outputs)
        n_prompts = len(prompt)
        prompt = to_tensor(prompt, device=scale.device, dtype=scale.dtype) * scale
    elif self.n_tokens_ > 1 and _all_tokens_equal(samples):
        warnings.warn(
            "All tokens of each sequence are equal: there is nothing for a prompt to "
            "choose from. It is zero, and the model a linear one of the mean token.",
            UserWarning,
            stacklevel=2,
        )
        head = {SQUARED: "ridge"}.get(samples.loss, "logistic")
        head = self.head if method == "three-step" else head
        method, prompt = "known-prompt", samples.X.new_zeros(n_prompts, d)
    automatic = isinstance(self.prompt_scale, str)
    solution = learn_prompts(
        samples,
        method=method,
        prompt=prompt,
        n_prompts=n_prompts,
        parts=_split(self, samples) if self.sample_split else [samples] * 3,
        rule=ThreeStepRule(
            head_reg=self.alpha_head,
            prompt_reg=self.alpha_prompt,
            unit=None if automatic else self.prompt_scale * scale,
            sign_search=self.sign_search,
            debias=getattr(self, "debias", True),
        ),
        n_refine=self.n_refine,
        head=head,
        fit_intercept=self.fit_intercept,
        tol=self.tol,
        max_iter=self.max_iter,
        on_iteration=on_iteration,
    )
    learned = solution.value
    return (
        replace(solution, value=learned.model),
        learned.objective,
        {"start": learned.start},
    )


def learn_baseline(learn, *penalties):
    """Return the `_learn` of a model that has these penalties among its parameters."""

    def _learn(self, samples, scale, on_iteration):
        solution = learn(
            samples,
            fit_intercept=self.fit_intercept,
            tol=self.tol,
            max_iter=self.max_iter,
            on_iteration=on_iteration,
            **{name: getattr(self, name) for name in penalties},
        )
        return solution, solution.history["risk"][0], {}

    return _learn


def check_prompt_model(self, n_outputs):
    """Refuse settings that cannot be, before any work is done."""
    if self.method == "known-prompt":
        _check_prompt(self.prompt, self.n_token_features_, n_outputs)
    if self.method == "gradient" and self.n_tokens_ > 1 and self.alpha_prompt == 0:
        raise ValueError(
            "alpha_prompt=0 leaves method='gradient' without a minimiser: the prompt "
            "would grow for ever. Use a positive alpha_prompt, or another method."
        )


def _check_prompt(prompt, d, n_outputs):
    """Return the known prompts, of shape (n_prompts, d)."""
    if prompt is None:
        raise ValueError("method='known-prompt' needs a prompt; got prompt=None.")
    prompt = np.asarray(to_numpy(prompt), dtype=np.float64)
    prompt = np.full(d, prompt) if prompt.ndim == 0 else prompt
    shapes = [(d,), (1, d), (n_outputs, d)]
    if prompt.shape not in shapes:
        wanted = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
        raise ValueError(
            f"prompt has shape {prompt.shape}, but tokens have {d} features: its shape "
            f"must be {wanted}."
        )
    if not np.isfinite(prompt).all():
        raise ValueError("prompt must be finite; it holds NaN or infinity.")
    return prompt.reshape(-1, d)


def _all_tokens_equal(samples):
    """Tell whether no sequence has two different tokens."""
    X, mask = samples.X, samples.mask
    if mask is None:
        return bool((X[:, :1] == X).all())
    first = mask.to(torch.int8).argmax(1)  # of the tokens that are there
    same = (X[torch.arange(len(X)), first][:, None] == X).all(2)
    return bool((same | ~mask).all())


def _split(self, samples):
    """Deal the samples into three parts at random, class by class."""
    strata = to_numpy(samples.Y)
    strata = strata @ np.arange(1, strata.shape[1] + 1)
    if samples.loss is SQUARED:
        strata = np.zeros(len(strata))
    rng = check_random_state(self.random_state)
    part = np.empty(len(strata), dtype=int)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        if len(rows) < 3:
            raise ValueError(
                "sample_split=True needs at least three samples, of each class if "
                f"there are classes; got {len(rows)}."
            )
        part[rows] = np.arange(len(rows)) % 3
    parts = []
    for number in range(3):
        rows = to_tensor(np.flatnonzero(part == number), device=samples.X.device)
        mask = None if samples.mask is None else samples.mask[rows]
        weight = samples.weight[rows] / samples.weight[rows].sum()
        parts.append(
            samples._replace(
                X=samples.X[rows], mask=mask, Y=samples.Y[rows], weight=weight
            )
        )
    return parts


def _put(X, attributes):
    """Bring the arrays among fitted attributes to the namespace of X."""
    put = follow(X)
    return {
        name: put(value) if isinstance(value, np.ndarray) else value
        for name, value in attributes.items()
    }


def _take(values, mask, rows):
    """Return some of the sequences."""
    rows = to_tensor(rows, device=values.device)
    return Tokens(values[rows], None if mask is None else mask[rows])


def _standardize_targets(targets, share, loss, fit_intercept):
    """Give numbers mean 0 and variance 1, so that penalties have no unit."""
    if loss is not SQUARED:
        return targets, 0.0, 1.0
    mean = share @ targets[:, 0] * fit_intercept
    targets = targets - mean
    scale = np.sqrt(share @ targets[:, 0] ** 2) or 1.0
    return targets / scale, mean, scale


class _Units:
    """Takes models of standardised tokens and targets to the units of the data."""

    def __init__(self, centred, mean, scale, y_mean, y_scale):
        self.centred, self.mean, self.scale = centred, mean, scale
        self.y_mean, self.y_scale = y_mean, y_scale

    def attributes(self, model, attention_attribute, curve):
        """Return what prediction needs."""
        dtype = self.scale.dtype
        coef = to_numpy(model.head) / self.scale * self.y_scale
        intercept = to_numpy(model.intercept) * self.y_scale + self.y_mean
        if not self.centred:
            intercept = intercept - coef @ self.mean
        found = {
            "coef_": coef.astype(dtype),
            "intercept_": intercept.astype(dtype),
            "loss_curve_": list(curve),
            "n_iter_": len(curve),
        }
        attention = to_numpy(model.attention)
        if attention_attribute == "prompt_":
            d = len(self.scale)
            found["prompt_"] = attention[:, :d] / self.scale
            if attention.shape[1] > d:  # linear attention
                found["prompt_intercept_"] = attention[:, d]
        elif attention_attribute is not None:
            found[attention_attribute] = attention / np.outer(self.scale, self.scale)
        return found

    def optional(self, start=None):
        """Return what the three steps found, if they were made."""
        if start is None:
            return {}
        direction = to_numpy(start.direction) / self.scale
        length = np.linalg.norm(direction, axis=1)
        unit = np.divide(
            direction, length[:, None], where=length[:, None] > 0, out=0 * direction
        )
        return {
            "first_head_": to_numpy(start.first_head) / self.scale * self.y_scale,
            "prompt_direction_": unit,
            "prompt_scale_": to_numpy(start.kappa) * length,
        }


def _read(self, X, method):
    """Return the tokens as the attention sees them, and how much each counts."""
    check_is_fitted(self)
    check_same_namespace(X, self, attribute="coef_", method=method)
    (values, mask), _ = check_tokens(self, X, reset=False)
    if self._centred:
        values = values - _fitted(self, "mean_", values)
    if self._attention_attribute is None:
        parameter = values.new_zeros(0)
    else:
        parameter = _fitted(self, self._attention_attribute, values)
    if hasattr(self, "prompt_intercept_"):
        c = _fitted(self, "prompt_intercept_", values)
        parameter = torch.cat([parameter, c[:, None]], 1)
    return Tokens(values, mask), self._attention(values, mask, parameter)[0]


def _fitted(self, name, like):
    return to_tensor(getattr(self, name), device=like.device, dtype=like.dtype)


def outputs(self, X, method):
    """Return f(X), of shape (n, K)."""
    tokens, a = _read(self, X, method)
    coef = _fitted(self, "coef_", tokens.values)
    scores = project(tokens.values, coef)
    return (a * scores).sum(1) + _fitted(self, "intercept_", scores)


def decision_function(self, X):
    """Score the classes: the log-odds of `classes_[1]`, or one logit for each class.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences. In 3-D or as a list they may have any number of tokens.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_classes)
        Positive for `classes_[1]` where there are two classes; else one column per
        class.

    Raises
    ------
    ValueError
        If tokens have another number of features than in `fit`, one is partly NaN, or a
        sequence has none.
    """
    f = to_numpy(outputs(self, X, "decision_function"))
    return follow(X)(f[:, 0] if f.shape[1] == 1 else f)


def predict_proba(self, X):
    """Predict the probability of each class.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Probabilities in the order of `classes_`; rows sum to 1.
    """
    f = outputs(self, X, "predict_proba")
    if f.shape[1] == 1:
        probabilities = torch.cat([torch.sigmoid(-f), torch.sigmoid(f)], 1)
    else:
        probabilities = torch.softmax(f, 1)
    return follow(X)(to_numpy(probabilities))


def predict_log_proba(self, X):
    """Predict the logarithm of the probability of each class.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Logarithms of `predict_proba`, finite also where that is zero.
    """
    f = outputs(self, X, "predict_log_proba")
    f = torch.cat([torch.zeros_like(f), f], 1) if f.shape[1] == 1 else f
    return follow(X)(to_numpy(torch.log_softmax(f, 1)))


def predict_class(self, X):
    """Predict the class of each sequence.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.

    Returns
    -------
    ndarray of shape (n_samples,)
        The class labels.
    """
    f = to_numpy(outputs(self, X, "predict"))
    codes = (f[:, 0] > 0).astype(int) if f.shape[1] == 1 else f.argmax(1)
    return follow(X)(to_numpy(self.classes_)[codes])


def predict_number(self, X):
    """Predict the target of each sequence.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences. In 3-D or as a list they may have any number of tokens.

    Returns
    -------
    ndarray of shape (n_samples,)
        The predictions.

    Raises
    ------
    ValueError
        If tokens have another number of features than in `fit`, one is partly NaN, or a
        sequence has none.
    """
    return follow(X)(to_numpy(outputs(self, X, "predict")[:, 0]))


def _without_dispatch(metric, y, prediction, sample_weight):
    with config_context(array_api_dispatch=False):
        return metric(y, prediction, sample_weight=sample_weight)


def accuracy(self, X, y, sample_weight=None):
    """Return the mean accuracy on the given sequences and labels.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.
    y : array-like of shape (n_samples,)
        The true labels.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    float
        The accuracy of `predict(X)`.
    """
    # in NumPy: of tensors, scikit-learn's score is a mean in single precision
    parts = map(to_numpy, (y, self.predict(X), sample_weight))
    return float(_without_dispatch(accuracy_score, *parts))


def determination(self, X, y, sample_weight=None):
    """Return the coefficient of determination on the given sequences and targets.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.
    y : array-like of shape (n_samples,)
        The true targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    float
        R^2 of `predict(X)`: 1 is perfect, 0 no better than the mean.
    """
    parts = map(to_numpy, (y, self.predict(X), sample_weight))
    return float(_without_dispatch(r2_score, *parts))


def attention(self, X):
    """Return how much each token counts.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.

    Returns
    -------
    ndarray of shape (n_samples, n_tokens) or (n_samples, n_tokens, n_classes)
        The weights in the pooled token, exactly 0 on padding; with a last axis where
        each class has its own attention. They sum to 1 over the tokens, except for
        linear attention.
    """
    _, a = _read(self, X, "attention")
    a = to_numpy(a)
    return follow(X)(a[..., 0] if a.shape[2] == 1 else a)


def transform(self, X):
    """Return the pooled token of each sequence: what the head reads.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.

    Returns
    -------
    ndarray of shape (n_samples, n_token_features) or \
            (n_samples, n_classes * n_token_features)
        The tokens' sum with the weights of `attention`; class after class where each
        has its own.
    """
    tokens, a = _read(self, X, "transform")
    return follow(X)(to_numpy(pool(a, tokens.values).flatten(1)))


def token_scores(self, X):
    """Return the score of each token under the prompt, of which attention is made.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.

    Returns
    -------
    ndarray of shape (n_samples, n_tokens) or (n_samples, n_tokens, n_classes)
        X q; NaN on padding.
    """
    (values, mask), _ = _read(self, X, "token_scores")
    scores = project(values, _fitted(self, "prompt_", values))
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None], torch.nan)
    scores = to_numpy(scores)
    return follow(X)(scores[..., 0] if scores.shape[2] == 1 else scores)


def relevance_map(self, X, grid_shape):
    """Return the attention as a picture, for tokens that lie on a grid.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in_) or \
            (n_samples, n_tokens, n_token_features), or list of sequences
        The sequences.
    grid_shape : tuple of int
        Such as (rows, columns); tokens come row by row.

    Returns
    -------
    ndarray of shape (n_samples, ...) or (n_samples, ..., n_classes)
        `attention(X)` with the places of the grid for the tokens.

    Raises
    ------
    ValueError
        If the grid does not have as many places as a sequence has tokens.
    """
    weights = to_numpy(self.attention(X))
    if np.prod(grid_shape) != weights.shape[1]:
        raise ValueError(
            f"grid_shape={tuple(grid_shape)} has {np.prod(grid_shape)} places; the "
            f"sequences have {weights.shape[1]} tokens."
        )
    grid = (len(weights), *grid_shape, *weights.shape[2:])
    return follow(X)(weights.reshape(grid))


def token_tags(self, tags):
    """Add what estimators of tokens can do."""
    tags.input_tags.three_d_array = True
    tags.input_tags.allow_nan = self.n_tokens > 1
    tags.array_api_support = True
    tags.transformer_tags.preserves_dtype = ["float64", "float32"]
    return tags


def getstate(self):
    """Make the state portable."""
    return pack_state(BaseEstimator.__getstate__(self))


def setstate(self, state):
    """Undo `getstate`."""
    BaseEstimator.__setstate__(self, unpack_state(self, state))
