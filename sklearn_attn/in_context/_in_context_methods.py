"""What InContextRegressor and InContextClassifier have in common: a table is read."""

import os
import warnings
from numbers import Integral, Real

import numpy as np
import torch
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .._arrays import (
    few_threads,
    pack_state,
    resolve_device,
    to_numpy,
    unpack_state,
)
from .._compat import (
    Interval,
    StrOptions,
    check_parameters,
    check_same_namespace,
)
from .._validation import number_rules
from ._context import Context, Member, Units, plan_rows, plan_turns
from ._weights import BUNDLED, PretrainedICL, load_in_context_weights

DOC_LINK_TEMPLATE = (
    "https://sklearn-attn.readthedocs.io/en/stable/generated/"
    "{estimator_module}.{estimator_name}.html"
)
# Weights without positions read contexts of any length; it is beyond this that what
# they gain from more rows is no longer worth the time.
RECOMMENDED_CONTEXT = 1024
# Forms of weights that read tables.
TABLES = ("set", "examples")
# Larger transformers compute in single precision even on the CPU.
MOST_DOUBLE = 5_000_000
# What "auto" does with too many features, of several targets and of a single one.
_AUTO = ("pca", "select")
CONSTRAINTS = {
    "weights": [str, os.PathLike, PretrainedICL],
    "max_context": [Interval(Integral, 1, None, closed="left"), None],
    "context_strategy": [StrOptions({"bag", "subsample", "nearest", "error"})],
    "n_estimators": [Interval(Integral, 1, None, closed="left")],
    "feature_strategy": [StrOptions({"auto", "select", "pca", "project", "error"})],
    "standardize": ["boolean"],
    "noise": [Interval(Real, 0, None, closed="left"), None],
    "device": [str],
    "dtype": [StrOptions({"auto", "float32", "float64"})],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "cache": [StrOptions({"lazy", "eager", "none"})],
    "random_state": ["random_state"],
    "n_jobs": [
        Interval(Integral, None, -1, closed="right"),
        Interval(Integral, 1, None, closed="left"),
        None,
    ],
}


def find_weights(weights, *, auto="icl-mixed"):
    """Return the weights that the parameter means."""
    if isinstance(weights, str) and weights == "auto":
        weights = auto
    if isinstance(weights, PretrainedICL):
        return weights
    is_name = isinstance(weights, str) and not (
        os.sep in weights or weights.endswith(".safetensors")
    )
    # names of bundled ones first: no file that lies about may take their place
    if is_name and (weights in BUNDLED or not os.path.exists(weights)):
        return load_in_context_weights(weights)
    return PretrainedICL.load(weights)


def resolve_precision(dtype, weights, device):
    """Return the dtype to compute in; rows are independent in double precision."""
    if dtype == "auto":
        is_small = weights.n_parameters < MOST_DOUBLE
        dtype = "float64" if device.type == "cpu" and is_small else "float32"
    if dtype == "float64" and device.type == "mps":
        raise ValueError("device='mps' has no float64; use dtype='float32' or 'auto'.")
    return getattr(torch, dtype)


def check_table(estimator, X, y, **rules):
    """Validate rows and targets, and return them as NumPy arrays of floats."""
    X, y, numbers = number_rules(X, y, allow_nan=False)
    X, y = validate_data(estimator, X, y, reset=True, **(numbers | rules))
    X = np.asarray(to_numpy(X))
    return X.astype(np.float64, copy=False), to_numpy(y)


def read_table(estimator, X, Y, depth, *, is_binary=False):
    """Show a table, X (n, d) and Y (n, m), to the weights.

    With `is_binary`, the two columns of Y say the same. Warnings are of the line
    `depth` frames above.
    """
    weights = find_weights(estimator.weights)
    if weights.form not in TABLES:
        raise ValueError(
            f"{weights!r} reads {weights.form}; weights for tables are needed."
        )
    check_place(estimator, weights)
    is_single = Y.shape[1] == 1 or is_binary
    context = plan_context(
        estimator, weights, X, Y, depth + 1, is_single=is_single, noise=estimator.noise
    )
    if estimator.cache == "eager":
        read_now(estimator, [context], weights, len(X))
    return context


def plan_context(
    estimator, weights, X, Y, depth, *, is_single=True, noise=None, name="X"
):
    """Return the context of a table, X (n, d) and Y (n, m), for these weights."""
    X, Y = np.array(X), np.array(Y)  # what the caller does to theirs is not ours
    units = Units.of(X, Y, estimator.standardize)
    members, nearest = plan_members(
        estimator, weights, units, X, Y, depth + 1, is_single=is_single, name=name
    )
    keeps = estimator.cache != "none"
    return Context(
        weights, X, Y, units, members, noise=noise, nearest=nearest, keeps=keeps
    )


def plan_members(estimator, weights, units, X, Y, depth, *, is_single=True, name="X"):
    """Return the prompts that show a table, and the rows that are shown a query, or
    None if these are the prompts'."""
    rng = check_random_state(estimator.random_state)
    Z = units.features(X)
    limit = estimator.max_context or weights.max_context or RECOMMENDED_CONTEXT
    if weights.max_context is not None:
        limit = min(limit, weights.max_context)
    n, d = len(X), Z.shape[1]
    _mind_limits(estimator, weights, n, limit, d, is_single, depth + 1, name)
    strategy = estimator.feature_strategy
    if strategy == "auto":
        strategy = _AUTO[is_single]
    chunks = plan_rows(n, limit, estimator.context_strategy, rng)
    T = units.targets(Y)
    turns = plan_turns(Z, T, weights.n_features, strategy, estimator.n_estimators, rng)
    is_near = estimator.context_strategy == "nearest" and n > limit
    members = [Member(rows, turn) for turn in turns for rows in chunks]
    return members, limit if is_near else None


def check_place(estimator, weights):
    """Return the device and the dtype to compute with, which must exist."""
    device = resolve_device(estimator.device)
    return device, resolve_precision(estimator.dtype, weights, device)


def read_now(estimator, contexts, weights, n_rows):
    """Make keys and values of contexts now, for cache="eager"."""
    device, dtype = check_place(estimator, weights)
    with threads(estimator, n_rows * weights.config["width"]):
        for context in contexts:
            context.read(device=device, dtype=dtype)


def _mind_limits(estimator, weights, n, limit, d, is_single, depth, name):
    """Refuse tables beyond the limits of the weights, or say what is done about it."""
    if d > weights.n_features:
        takes = weights.n_features
        what = f"{name} has {d} features that vary; {weights!r} takes {takes}."
        if estimator.feature_strategy == "error":
            raise ValueError(
                f"{what} feature_strategy='select', 'pca' or 'project' makes fewer of "
                "them."
            )
        if estimator.feature_strategy == "auto":
            warnings.warn(
                f"{what} feature_strategy={_AUTO[is_single]!r} makes fewer of them; "
                "say so to be warned no more, or choose features.",
                UserWarning,
                stacklevel=depth + 1,
            )
    if n > limit and estimator.context_strategy == "error":
        raise ValueError(
            f"X has {n} rows; a context takes {limit}. context_strategy='bag' averages "
            "over several."
        )
    if n > limit and estimator.context_strategy == "subsample":
        warnings.warn(
            f"Of {n} rows, {limit} are used, as a context takes no more.",
            UserWarning,
            stacklevel=depth + 1,
        )


def describe(context, put):
    """Return the attributes that show what was read."""
    units = context.units
    return {
        "X_context_": put(context.X),
        "x_mean_": put(units.x_mean),
        "x_scale_": put(units.x_scale),
        "weights_": context.weights,
        "_context": context,
    }


def check_rows(estimator, X, method):
    """Validate rows to predict for: double precision, and the dtype to return."""
    check_is_fitted(estimator)
    check_parameters(estimator)  # `set_params` may have changed them since
    check_same_namespace(X, estimator, attribute="X_context_", method=method)
    X, numbers = number_rules(X, allow_nan=False)
    X = validate_data(estimator, X, reset=False, **numbers)
    X = np.asarray(to_numpy(X))
    out = X.dtype if X.dtype == np.float32 else np.dtype(np.float64)
    return X.astype(np.float64, copy=False), out


def answers(estimator, X, method):
    """Return means and deviations (q, m) for the rows of X, and their dtype."""
    X, out = check_rows(estimator, X, method)
    context = estimator._context
    device = resolve_device(estimator.device, fall_back=True)
    dtype = resolve_precision(estimator.dtype, context.weights, device)
    with threads(estimator, len(context.X) * context.weights.config["width"]):
        found = context.answer(
            X,
            device=device,
            dtype=dtype,
            batch_size=estimator.batch_size,
        )
    return *found, out


def threads(estimator, n_numbers):
    """Limit the threads of torch to `n_jobs`, or to one where the work is small."""
    if estimator.n_jobs is not None:
        return few_threads(0, limit=effective_n_jobs(estimator.n_jobs))
    return few_threads(n_numbers)


def getstate(self):
    """Make the state portable: `_context` leaves modules, keys and values out."""
    return pack_state(BaseEstimator.__getstate__(self))


def setstate(self, state):
    """Undo `getstate`."""
    BaseEstimator.__setstate__(self, unpack_state(self, state))
