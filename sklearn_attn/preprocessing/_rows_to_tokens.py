"""Rows of numbers in, tokens out: the steps that tokenizers share.

tokens[i, t, j] = rows[i, columns[t, j]]
"""

import math
from numbers import Integral

import numpy as np
from sklearn import get_config
from sklearn.base import OneToOneFeatureMixin
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from .._arrays import follow, to_numpy
from .._compat import Interval, get_namespace_and_device

DOC_LINK_TEMPLATE = (
    "https://sklearn-attn.readthedocs.io/en/stable/generated/"
    "{estimator_module}.{estimator_name}.html"
)
POSITIVE_INTEGER = Interval(Integral, 1, None, closed="left")


def as_rows(X):
    """Lay images or series out as rows: `(rows, shape of one)`, None for a table."""
    if isinstance(X, list | tuple) and len(X) > 0 and np.ndim(X[0]) > 1:
        shapes = sorted({np.shape(x) for x in X})
        if len(shapes) > 1:
            raise ValueError(f"X holds arrays of shapes {shapes}; all must have one.")
        X = np.asarray(X)
    if getattr(X, "ndim", 0) < 3:
        return X, None
    layout = tuple(X.shape[1:])
    if 0 in layout:
        raise ValueError(f"X has shape {tuple(X.shape)}: there is nothing in a sample.")
    X, xp = _in_namespace(X)
    return xp.reshape(X, (X.shape[0], math.prod(layout))), layout


def validate_rows(estimator, X, *, reset, **rules):
    """Validate rows of numbers in their namespace; note or check their features."""
    X, xp = _in_namespace(X)
    dtypes = [xp.float64, xp.float32]
    return validate_data(estimator, X, reset=reset, dtype=dtypes, **rules)


def check_rows(X, **rules):
    """Validate rows of numbers in their namespace, whatever their features."""
    X, xp = _in_namespace(X)
    return check_array(X, input_name="X", dtype=[xp.float64, xp.float32], **rules)


def _in_namespace(X):
    """Return X and its namespace; without array-API dispatch, both are NumPy's."""
    if not get_config()["array_api_dispatch"]:
        X = to_numpy(X)
    xp, *_ = get_namespace_and_device(X)
    return X, xp


def auto_size(length):
    """Return the largest power of two that is not above the square root."""
    return 2 ** (math.isqrt(length).bit_length() - 1)


def part_starts(length, size, stride):
    """Lay parts of one size over a length; the last one ends with it."""
    return np.minimum(np.arange(0, length - size + stride, stride), length - size)


def take(rows, columns):
    """Gather tokens from rows by what each holds: (n, f), (T, d) -> (n, T, d)."""
    xp, *_ = get_namespace_and_device(rows)
    tokens = xp.take(rows, follow(rows)(columns.ravel()), axis=1)
    return xp.reshape(tokens, (rows.shape[0], *columns.shape))


def end_to_end(tokens):
    """Lay the tokens of each sample end to end: (n, T, d) -> (n, T d)."""
    n_samples, n_tokens, width = tokens.shape
    xp, *_ = get_namespace_and_device(tokens)
    return xp.reshape(tokens, (n_samples, n_tokens * width))


def is_flat(tokenizer):
    """Tell whether the output is 2-D, so that its columns can have names."""
    return tokenizer.flatten


def names_in(tokenizer, input_features=None):
    """Return the names of the features, x0, x1, ... where they have none."""
    return OneToOneFeatureMixin.get_feature_names_out(tokenizer, input_features)


def names_out(tokenizer, columns, input_features):
    """Name each value of each token after both; `columns` are those of `take`."""
    names = names_in(tokenizer, input_features)[columns]  # (T, d)
    named = [f"{t}__{x}" for t, row in zip(tokenizer.token_names_, names) for x in row]
    return np.array(named, dtype=object)
