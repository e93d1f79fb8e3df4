"""The door for input: the only place that looks at what the user passed.

Tokens come as rows of T tokens laid end to end, as an array of shape (n, T, d), or as
a list of sequences of different lengths. All of them become one tensor and one mask.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from ._arrays import resolve_device, resolve_dtype, to_numpy, to_tensor
from ._compat import check_sample_weight


class Tokens(NamedTuple):
    """Sequences of tokens, ready to compute with.

    Attributes
    ----------
    values : torch.Tensor of shape (n_samples, n_tokens, n_token_features)
        The tokens; padding is zero.
    mask : torch.Tensor of shape (n_samples, n_tokens) or None
        True where there is a token; None where no sequence is padded.
    """

    values: torch.Tensor
    mask: torch.Tensor | None


def unharmed(fit):
    """Decorate `fit`: where it fails, the estimator stays as it was before the call."""

    @functools.wraps(fit)
    def guarded(self, *args, **kwargs):
        before = vars(self).copy()
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return guarded


def pad_sequences(sequences, *, n_tokens=None):
    """Stack sequences of different lengths into one array, padded with NaN tokens.

    Every estimator here that takes tokens reads a token whose features are all NaN as
    padding, so the result goes through `train_test_split`, cross-validation and
    pipelines like any other array.

    Parameters
    ----------
    sequences : iterable of array-like of shape (n_tokens_i, n_token_features)
        The sequences. All have the same number of features; each has at least one
        token.
    n_tokens : int or None, default=None
        The length to pad to. None takes the length of the longest sequence.

    Returns
    -------
    ndarray of shape (n_samples, n_tokens, n_token_features)
        The padded sequences; float32 where all of them are, else float64.

    Raises
    ------
    ValueError
        If there is no sequence, one of them is not 2-D or empty, their numbers of
        features differ, or one is longer than `n_tokens`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.preprocessing import pad_sequences
    >>> pad_sequences([np.ones((1, 2)), np.zeros((3, 2))])[0]
    array([[ 1.,  1.],
           [nan, nan],
           [nan, nan]])
    """
    sequences = [np.asarray(to_numpy(sequence)) for sequence in sequences]
    if not sequences:
        raise ValueError("pad_sequences got no sequence; at least one is needed.")
    for i, sequence in enumerate(sequences):
        if sequence.ndim != 2 or 0 in sequence.shape:
            raise ValueError(
                f"Sequence {i} has shape {sequence.shape}; every sequence must be "
                "(n_tokens_i, n_token_features) with at least one token."
            )
    widths = sorted({sequence.shape[1] for sequence in sequences})
    if len(widths) > 1:
        raise ValueError(
            f"Sequences have tokens of {widths} features; all must have the same."
        )
    longest = max(len(sequence) for sequence in sequences)
    if n_tokens is not None and longest > n_tokens:
        raise ValueError(
            f"A sequence of {longest} tokens does not fit into n_tokens={n_tokens}."
        )
    all_float32 = all(sequence.dtype == np.float32 for sequence in sequences)
    padded = np.full(
        (len(sequences), longest if n_tokens is None else n_tokens, widths[0]),
        np.nan,
        dtype=np.float32 if all_float32 else np.float64,
    )
    for row, sequence in zip(padded, sequences):
        row[: len(sequence)] = sequence
    return padded


def check_tokens(estimator, X, y=None, *, reset, y_numeric=False):
    """Validate token input and move it to the estimator's device: `(Tokens, y)`.

    In fit (`reset=True`), 2-D rows hold `estimator.n_tokens` tokens each, and y is
    validated too. Afterwards a token must have `estimator.n_token_features_` features;
    3-D and ragged input may then have any number of tokens, since attention works for
    every length.
    """
    device = resolve_device(estimator.device, fall_back=not reset)
    dtype = resolve_dtype(estimator.dtype, X, device)
    rows, n_tokens = _as_rows(X)
    structured = n_tokens is not None
    if not structured:
        fitted = not reset and estimator.n_features_in_ // estimator.n_token_features_
        n_tokens = fitted or estimator.n_tokens
    rules = {
        "dtype": "numeric",
        # A row of a single token cannot be padded: NaN in it is simply NaN.
        "ensure_all_finite": "allow-nan" if structured or n_tokens > 1 else True,
    }
    if reset:
        rows, y = validate_data(
            estimator, rows, y, reset=True, y_numeric=y_numeric, **rules
        )
    elif structured:
        width = rows.shape[1] // n_tokens
        if width != estimator.n_token_features_:
            raise ValueError(
                f"X has tokens of {width} features, but {type(estimator).__name__} was "
                f"fitted with tokens of {estimator.n_token_features_} features."
            )
        rows = check_array(rows, **rules)
    else:
        rows = validate_data(estimator, rows, reset=False, **rules)
    if rows.shape[1] % n_tokens:
        raise ValueError(
            f"{rows.shape[1]} features do not split into n_tokens={n_tokens} tokens; "
            "n_tokens must divide the number of features."
        )
    values = to_tensor(rows, device=device, dtype=dtype)
    values = values.reshape(len(values), n_tokens, -1)  # (n, T, d)
    return _separate_padding(values), y


def check_weights(sample_weight, n_samples):
    """Return sample weights as float64, ones by default; one at least is positive."""
    weight = check_sample_weight(
        to_numpy(sample_weight),
        np.empty((n_samples, 1)),
        dtype=np.float64,
        ensure_non_negative=True,
    )
    if not weight.any():
        raise ValueError("Sample weights are all zero; at least one must be positive.")
    return weight


def check_classes(estimator, y, weight):
    """Return the classes, and the position of each label among them.

    At least two classes must have a sample of positive weight.
    """
    check_classification_targets(y)
    classes, codes = np.unique(to_numpy(y), return_inverse=True)
    there = np.unique(codes[weight > 0])
    if len(there) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs samples of at least two classes; got "
            f"one class, {classes[there[0]]}."
        )
    return classes, codes


def check_class_weight(class_weight, classes, codes, weight):
    """Return the weight of each class, positive and finite."""
    if class_weight == "balanced":
        counts = np.bincount(codes, weights=weight, minlength=len(classes))
        present = counts > 0
        per_class = np.ones(len(classes))
        per_class[present] = weight.sum() / (present.sum() * counts[present])
        return per_class
    per_class = compute_class_weight(class_weight, classes=classes, y=classes)
    if not (np.isfinite(per_class).all() and (per_class > 0).all()):
        raise ValueError(
            f"class_weight must be positive and finite; got {class_weight!r}. To "
            "leave samples out, use sample_weight."
        )
    return per_class


def _as_rows(X):
    """Lay 3-D or ragged X out as rows; return `(rows, n_tokens)`, None for 2-D X."""
    if not get_config()["array_api_dispatch"]:
        X = to_numpy(X)
    if is_ragged(X):
        X = pad_sequences(X)
    if getattr(X, "ndim", None) != 3:
        return X, None
    n_samples, n_tokens, n_features = X.shape
    if 0 in (n_tokens, n_features):
        raise ValueError(f"X has shape {tuple(X.shape)}: no tokens, or no features.")
    reshape = getattr(X, "reshape", None) or functools.partial(
        X.__array_namespace__().reshape, X
    )
    return reshape((n_samples, n_tokens * n_features)), n_tokens


def is_ragged(X):
    """Tell a list (or 1-D object array) of 2-D sequences from rows of numbers."""
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
        X = list(X)
    return (
        isinstance(X, list | tuple)
        and len(X) > 0
        and all(_is_sequence_of_tokens(sequence) for sequence in X)
    )


def _is_sequence_of_tokens(sequence):
    """Tell something two-dimensional, be it a list of lists, from a row of numbers."""
    if isinstance(sequence, list | tuple):
        return len(sequence) > 0 and isinstance(sequence[0], list | tuple | np.ndarray)
    return getattr(sequence, "ndim", None) == 2


def _separate_padding(values):
    """Split tokens with NaN padding into zero-padded tokens and a mask."""
    missing = torch.isnan(values)
    if not missing.any():
        return Tokens(values, None)
    padding = missing.all(-1)  # (n, T)
    torn = missing.any(-1) & ~padding
    if torn.any():
        i, t = torch.nonzero(torn)[0].tolist()
        raise ValueError(
            f"Input X contains NaN in a part of token {t} of sequence {i}. A token is "
            "either complete, or NaN throughout, which marks it as padding."
        )
    if padding.all(-1).any():
        i = torch.nonzero(padding.all(-1))[0].item()
        raise ValueError(f"Sequence {i} of X has no token: all of it is NaN padding.")
    return Tokens(torch.where(missing, 0.0, values), ~padding)
