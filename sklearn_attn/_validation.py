"""The door for input: the only place that looks at what the user passed.

Tokens come as rows of T tokens laid end to end, as an array of shape (n, T, d), or as
a list of sequences of different lengths. All of them become one tensor and one mask.

Trajectories come as rows [state | input] with the next states as targets, or as
episodes of different lengths, which are turned into such rows. Points of manifolds come
as rows, or as matrices, which are laid out row by row.
"""

import functools
import warnings
from numbers import Number
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn import get_config
from sklearn.utils import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    column_or_1d,
)
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from ._arrays import resolve_device, resolve_dtype, to_numpy, to_tensor
from ._compat import check_sample_weight


class Transitions(NamedTuple):
    """Steps of a system with inputs, ready to compute with.

    Attributes
    ----------
    x : torch.Tensor of shape (n_samples, n_states)
        States.
    u : torch.Tensor of shape (n_samples, n_inputs)
        Inputs.
    y : torch.Tensor of shape (n_samples, n_states)
        Next states.
    weight : torch.Tensor of shape (n_samples,) or None
        Weights, if there are some.
    dtype : torch.dtype
        What to compute in. On the CPU, the others may be in another dtype: they are
        converted piece by piece.
    is_scalar : bool
        Whether y came as a single column without an axis of its own.
    """

    x: torch.Tensor
    u: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor | None
    dtype: torch.dtype
    is_scalar: bool


class Points(NamedTuple):
    """Points, and where they go.

    Attributes
    ----------
    x : torch.Tensor of shape (n_samples, n_features)
        Points, wherever and in whatever precision they came.
    y : torch.Tensor of shape (n_samples, n_outputs) or None
        Targets.
    shape : tuple or None
        Shape of a point that came as a matrix.
    is_scalar : bool
        Whether y came as a single column without an axis of its own.
    """

    x: torch.Tensor
    y: torch.Tensor | None
    shape: tuple | None
    is_scalar: bool


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
    _, n_tokens, n_features = X.shape
    if 0 in (n_tokens, n_features):
        raise ValueError(f"X has shape {tuple(X.shape)}: no tokens, or no features.")
    return _flatten(X), n_tokens


def _flatten(X):
    """Lay the last two axes of an array of any namespace end to end."""
    reshape = getattr(X, "reshape", None) or functools.partial(
        X.__array_namespace__().reshape, X
    )
    return reshape((X.shape[0], X.shape[1] * X.shape[2]))


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


def check_transitions(estimator, X, y, sample_weight=None, *, reset, allow_nan):
    """Validate rows [x | u] and next states, and move them to the estimator's device.

    y tells how many columns of X are states. Weights that were not given stay None.
    """
    device = resolve_device(estimator.device)
    _refuse_permuted_names(X, y)
    X, y, rules = number_rules(X, y, allow_nan=allow_nan)
    X, y = validate_data(
        estimator,
        X,
        y,
        reset=reset,
        validate_separately=(rules, rules | {"ensure_2d": False}),
    )
    check_consistent_length(X, y)
    dtype = resolve_dtype(estimator.dtype, X, device)
    if y.ndim > 2:
        raise ValueError(
            "y must have shape (n_samples, n_states), a next state in each row; got "
            f"{tuple(y.shape)}."
        )
    if sample_weight is not None:
        sample_weight = check_weights(sample_weight, X.shape[0])
        sample_weight = as_stored(sample_weight, device, dtype)
    X, y = (as_stored(part, device, dtype) for part in (X, y))
    is_scalar = y.ndim == 1
    y = y.reshape(len(y), -1)
    n = y.shape[1]
    if X.shape[1] < n:
        raise ValueError(
            f"X has {X.shape[1]} columns, but y has {n}: the first {n} columns of X "
            "must be the state whose next value is y; inputs follow."
        )
    return Transitions(X[:, :n], X[:, n:], y, sample_weight, dtype, is_scalar)


def number_rules(*arrays, allow_nan):
    """Return the arrays, and rules for `check_array` under which numbers stay floats.

    Under dispatch scikit-learn takes no list of dtypes, and namespaces are kept.
    """
    finite = "allow-nan" if allow_nan else True
    if get_config()["array_api_dispatch"]:
        return *arrays, {"dtype": "numeric", "ensure_all_finite": finite}
    floats = [np.float64, np.float32]
    rules = {"dtype": floats, "ensure_all_finite": finite}
    return *map(to_numpy, arrays), rules


def as_stored(array, device, dtype):
    """Return a tensor to be read piece by piece: on the CPU without a copy."""
    stored = None if device.type == "cpu" else dtype
    return to_tensor(array, device=device, dtype=stored, read_only=True)


def _refuse_permuted_names(X, y):
    """Refuse next states in another order than the states, where both have names."""
    names, after = (list(getattr(part, "columns", [])) for part in (X, y))
    before = names[: len(after)]
    if before != after and sorted(map(str, before)) == sorted(map(str, after)):
        raise ValueError(
            f"The columns of y, {after}, are those of the states in another order; the "
            f"first columns of X are {before}."
        )


def check_trajectories(states, inputs):
    """Return the episodes as pairs (x, u), and the names of states and inputs.

    An episode is an array or a data frame; names are None unless all are data frames.
    """
    states = _as_episodes(states, "states")
    if inputs is None:
        inputs = [np.empty((max(0, len(x) - 1), 0)) for x in states]
        names = _common_names([states], "states")
    else:
        inputs = _as_episodes(inputs, "inputs")
        names = _common_names([states, inputs], "states and inputs")
    if len(states) != len(inputs):
        raise ValueError(
            f"There are {len(states)} episodes of states, but {len(inputs)} of inputs."
        )
    pairs = []
    for i, (x, u) in enumerate(zip(states, inputs)):
        x, u = np.asarray(to_numpy(x)), np.asarray(to_numpy(u))
        if x.ndim != 2 or u.ndim != 2:
            raise ValueError(
                f"Episode {i} has states of shape {x.shape} and inputs of shape "
                f"{u.shape}; they must be (n_steps + 1, n_states) and (n_steps, "
                "n_inputs)."
            )
        if len(x) < 2:
            raise ValueError(
                f"Episode {i} has {len(x)} states; a step needs two, before and after."
            )
        if len(u) not in (len(x) - 1, len(x)):
            raise ValueError(
                f"Episode {i} has {len(x)} states and {len(u)} inputs; there must be "
                f"{len(x) - 1} inputs, one for each step, or {len(x)}, of which the "
                "last one is not used."
            )
        pairs.append((x, u[: len(x) - 1]))
    for position, name in enumerate(("states", "inputs")):
        widths = sorted({pair[position].shape[1] for pair in pairs})
        if len(widths) > 1:
            raise ValueError(
                f"Episodes have {widths} columns of {name}; all must have the same."
            )
    return pairs, names


def stack_trajectories(states, inputs=None):
    """Turn episodes into rows [state | input] and next states, never across episodes.

    A one-step model learns from pairs of what was and what came next. The last state
    of an episode has no next one, least of all the first of the following episode;
    shifting a long table by one row would claim so.

    Parameters
    ----------
    states : array-like of shape (n_steps + 1, n_states) or \
            (n_episodes, n_steps + 1, n_states), or list of array-like
        The states of one episode, of episodes of the same length, or of each of
        several. Arrays or data frames.
    inputs : array-like of shape (n_steps, n_inputs) or \
            (n_episodes, n_steps, n_inputs), or list of array-like, default=None
        The inputs of each step. With as many inputs as states, the last one is left
        out. None is no input.

    Returns
    -------
    X : ndarray or DataFrame of shape (n_samples, n_states + n_inputs)
        The state before each step, and the input. A data frame if all episodes are.
    y : ndarray or DataFrame of shape (n_samples, n_states)
        The state after it.
    groups : ndarray of int of shape (n_samples,)
        The episode of each row, for splitters such as
        :class:`~sklearn.model_selection.GroupKFold`.

    Raises
    ------
    ValueError
        If there is no episode, an episode has no step, or shapes or the names of
        columns differ.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.dynamics import stack_trajectories
    >>> states = [np.array([[1.0], [2.0], [3.0]]), np.array([[7.0], [8.0]])]
    >>> inputs = [np.array([[0.1], [0.2]]), np.array([[0.7]])]
    >>> X, y, groups = stack_trajectories(states, inputs)
    >>> X
    array([[1. , 0.1],
           [2. , 0.2],
           [7. , 0.7]])
    >>> y.ravel(), groups
    (array([2., 3., 8.]), array([0, 0, 1]))
    """
    pairs, names = check_trajectories(states, inputs)
    X = np.concatenate([np.hstack([x[:-1], u]) for x, u in pairs])
    y = np.concatenate([x[1:] for x, _ in pairs])
    groups = np.repeat(np.arange(len(pairs)), [len(u) for _, u in pairs])
    if names is None:
        return X, y, groups
    import pandas as pd

    state_names = names[: y.shape[1]]
    return pd.DataFrame(X, columns=names), pd.DataFrame(y, columns=state_names), groups


def _as_episodes(episodes, name):
    """Return a list of episodes; a single one, or a 3-D array, becomes a list too."""
    shape = getattr(episodes, "shape", None)  # polars has no ndim
    ndim = None if shape is None else len(shape)
    if ndim == 2:
        return [episodes]
    if ndim is not None and ndim != 3 and not is_ragged(episodes):
        raise ValueError(
            f"{name} must be an array of one episode (2-D), of several (3-D), or a "
            f"list of 2-D arrays; got shape {tuple(episodes.shape)}."
        )
    episodes = list(episodes)
    if not episodes:
        raise ValueError(f"{name} holds no episode; at least one is needed.")
    if all(isinstance(row, list | tuple) and np.ndim(row) == 1 for row in episodes):
        return [np.asarray(episodes)]  # one episode, written out
    return episodes


def _common_names(groups, what):
    """Return the columns that all episodes share, if all are frames of pandas."""
    frames = [frame for group in groups for frame in group]
    if not all(
        hasattr(frame, "iloc") and hasattr(frame, "columns") for frame in frames
    ):
        return None
    found = [[frame.columns for frame in group] for group in groups]
    names = []
    for group in found:
        if any(list(columns) != list(group[0]) for columns in group):
            raise ValueError(f"The columns of {what} differ between the episodes.")
        names += list(group[0])
    return names


def check_points(estimator, X, y="no_validation", *, reset, as_matrices):
    """Validate points, as rows or as matrices, and targets if there are to be some."""
    X, shape = _lay_out(X) if as_matrices else (X, None)
    if isinstance(y, str):
        X, rules = number_rules(X, allow_nan=False)
        x = to_tensor(validate_data(estimator, X, reset=reset, **rules), read_only=True)
        return Points(x, None, shape, False)
    if y is None:
        validate_data(estimator, X, None)  # complains
    y, _ = _lay_out(y) if as_matrices else (y, None)
    X, y, rules = number_rules(X, y, allow_nan=False)
    rules |= {"ensure_min_samples": 2}
    X, y = validate_data(
        estimator,
        X,
        y,
        reset=reset,
        validate_separately=(rules, rules | {"ensure_2d": False}),
    )
    check_consistent_length(X, y)
    is_scalar = y.ndim == 1
    x, y = (to_tensor(z, read_only=True) for z in (X, y))
    return Points(x, y.reshape(len(y), -1), shape, is_scalar)


def check_targets(y, shape):
    """Return targets as rows of this shape; None is any number of rows."""
    y = check_array(
        to_numpy(y),
        dtype=[np.float64, np.float32],
        ensure_2d=False,
        allow_nd=True,
        input_name="y",
    )
    rows = y.reshape(len(y), -1)
    n_rows, n_columns = shape
    if n_rows not in (None, len(rows)) or rows.shape[1] != n_columns:
        raise ValueError(
            f"y has {len(rows)} rows of {rows.shape[1]} numbers; predictions have "
            f"{len(rows) if n_rows is None else n_rows} of {n_columns}."
        )
    return rows


def check_on_manifold(manifold, x, name, off_manifold, atol):
    """Return points of the manifold; complain of the row that is farthest off it."""
    if x.shape[1] != manifold.n_features:
        of_matrices = len(manifold.shape) > 1
        shape = ", ".join(map(str, manifold.shape))
        raise ValueError(
            f"{name} has rows of {x.shape[1]} numbers, but points of {manifold!r} have "
            f"{manifold.n_features}"
            + (f", or come as an array of shape (n, {shape})." if of_matrices else ".")
        )
    if off_manifold == "ignore":
        return x
    rows = x.double()
    _refuse_reflections(manifold, rows, name)
    moved = manifold.project(rows) if off_manifold == "project" else rows
    violation = manifold.violation(moved)
    violation = torch.where(violation.isnan(), torch.inf, violation)
    row = int(violation.argmax())
    rounding = 10 * torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
    if violation[row] <= max(atol, rounding):
        return moved
    if off_manifold == "project":
        raise ValueError(f"Row {row} of {name} has no nearest point on {manifold!r}.")
    raise ValueError(
        f"Row {row} of {name} is not on {manifold!r}: it is off by "
        f"{float(violation[row]):.2g}. off_manifold='project' moves rows to the "
        "nearest points."
    )


def _refuse_reflections(manifold, rows, name):
    """Refuse matrices of negative determinant where rotations are wanted."""
    refused = getattr(manifold, "reflections", None)
    if refused is None:
        return
    is_reflection = refused(rows)
    if is_reflection.any():
        row = int(torch.nonzero(is_reflection)[0])
        raise ValueError(
            f"Row {row} of {name} has a negative determinant: it is a reflection and "
            f"no point of {manifold!r}. Change the sign of an axis."
        )


def _lay_out(X):
    """Lay matrices out as rows; return `(rows, shape)`, None for what are rows."""
    if not get_config()["array_api_dispatch"]:
        X = to_numpy(X)
    if isinstance(X, list | tuple) and is_ragged(X):
        X = np.asarray(X)
    if getattr(X, "ndim", None) != 3:
        return X, None
    return _flatten(X), tuple(X.shape[1:])


def check_timed_paths(trajectories, times):
    """Return trajectories and their times, as lists of arrays of rising times."""
    trajectories = to_numpy(trajectories)
    for name, given in (("trajectories", trajectories), ("times", times)):
        if not hasattr(given, "__len__"):
            raise ValueError(f"{name} must be an array or a list; got {given!r}.")
    if getattr(trajectories, "ndim", 3) < 3:
        raise ValueError(
            "trajectories must be a list of arrays, or an array of shape "
            "(n, n_times, n_features); got an array of shape "
            f"{trajectories.shape}. For a single trajectory, give a list of one."
        )
    paths = [_as_floats(path, f"trajectory {i}") for i, path in enumerate(trajectories)]
    if not paths:
        raise ValueError("There is no trajectory; at least one is needed.")
    if _is_shared(times):
        times = [times] * len(paths)
    times = [
        _as_floats(t, f"the times of trajectory {i}").astype(np.float64)
        for i, t in enumerate(times)
    ]
    if len(times) != len(paths):
        raise ValueError(
            f"There are {len(paths)} trajectories, but times of {len(times)}."
        )
    for i, (path, t) in enumerate(zip(paths, times)):
        if path.ndim not in (2, 3) or t.shape != (len(path),) or len(path) < 2:
            raise ValueError(
                f"Trajectory {i} has shape {path.shape} and times of shape {t.shape}; "
                "there must be as many times as points, and two or more."
            )
        if path.shape[1:] != paths[0].shape[1:]:
            raise ValueError(
                f"Trajectory {i} has points of shape {path.shape[1:]}, the first one "
                f"of shape {paths[0].shape[1:]}."
            )
        if not (np.diff(t) > 0).all():
            raise ValueError(f"The times of trajectory {i} do not rise.")
    return paths, times


def named_rows(frames, rows):
    """Return rows as a data frame, if frames with the same columns are where from."""
    names = [list(getattr(frame, "columns", [])) for frame in frames]
    if not names[0] or any(each != names[0] for each in names):
        return rows
    import pandas as pd

    return pd.DataFrame(rows, columns=names[0])


def check_times(times, start, n_samples):
    """Return times as (1 or n_samples, n_times) and starts as (n_samples,)."""
    times = np.atleast_1d(_as_floats(times, "times")).astype(np.float64)
    start = _as_floats(start, "start").astype(np.float64)
    if start.ndim > 1 or (start.ndim and len(start) != n_samples):
        raise ValueError(
            f"start must be a number or of shape ({n_samples},); got {start.shape}."
        )
    if times.size == 0 or times.ndim > 2 or times.shape[:-1] not in ((), (n_samples,)):
        raise ValueError(
            f"times must have shape (n_times,) or ({n_samples}, n_times); got "
            f"{times.shape}."
        )
    start = np.broadcast_to(start, (n_samples,)).copy()
    times = np.atleast_2d(times)
    is_early = times < start[:, None]
    if is_early.any():
        i, t = np.argwhere(is_early)[0]
        time = np.broadcast_to(times, is_early.shape)[i, t]
        raise ValueError(
            f"The time {time:g} of sample {i} is before its start, {start[i]:g}."
        )
    return times, start


def _as_floats(array, name):
    array = np.asarray(to_numpy(array))
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers; got dtype {array.dtype}.")
    array = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"Input {name} contains NaN or infinity.")
    return array


def _is_shared(times):
    """Tell the times of all trajectories from a list of those of each."""
    times = to_numpy(times)
    if isinstance(times, np.ndarray):
        return times.ndim == 1 and times.dtype != object
    return all(np.ndim(to_numpy(t)) == 0 for t in times)


class Rounds(NamedTuple):
    """Rounds in the order of time.

    Attributes
    ----------
    x : ndarray of shape (n_rounds, n_features)
        The contexts, without a column that names trajectories.
    y : ndarray of shape (n_rounds,) or None
        Rewards.
    labels : list or None
        The trajectory of each round, if there is more than one.
    first, last : object
        Times of the first and the last round; None if there is no index of times.
    """

    x: np.ndarray
    y: np.ndarray | None
    labels: list | None
    first: object
    last: object


def check_rounds(
    estimator,
    X,
    y="no_validation",
    groups=None,
    *,
    reset,
    column=None,
    allow_missing=False,
    min_rounds=1,
    depth=None,
    names=("groups", "trajectory"),
):
    """Validate rounds, which must be in the order of time within each trajectory.

    The order is looked at if `depth` says how many frames above a warning belongs.
    `names` are those of the argument that holds labels, and of what it labels.
    """
    argument, one = names
    indices = [getattr(part, "index", None) for part in (X, y)]
    X, rules = number_rules(X, allow_nan=False)
    rules["ensure_min_samples"] = min_rounds
    if isinstance(y, str):
        X = validate_data(estimator, X, reset=reset, **rules)
        rewards = None
    else:
        if y is None:
            validate_data(estimator, X, None)  # complains
        y, _ = number_rules(y, allow_nan=False)
        finite = "allow-nan" if allow_missing else True
        X, y = validate_data(
            estimator,
            X,
            y,
            reset=reset,
            validate_separately=(
                rules,
                rules | {"ensure_2d": False, "ensure_all_finite": finite},
            ),
        )
        check_consistent_length(X, y)
        rewards = column_or_1d(to_numpy(y), warn=True).astype(np.float64)
    X = np.asarray(to_numpy(X))
    if X.dtype.kind != "f":  # whole numbers, whose namespace was kept
        X = X.astype(np.float64)
    if column is not None:
        if groups is not None:
            raise ValueError(
                f"Each {one} is named twice: by the column {column!r} and by "
                f"{argument}."
            )
        position = _position_of(_names_in(estimator), column, X.shape[1])
        groups = X[:, position]
        X = np.delete(X, position, axis=1)
        if X.shape[1] == 0:
            raise ValueError(f"X has no column besides {column!r}.")
    labels = None
    if groups is not None:
        groups = as_labels(groups)
        if groups.shape != (len(X),):
            raise ValueError(
                f"{argument} must have shape ({len(X)},), a label for each row; got "
                f"{groups.shape}."
            )
        if groups.dtype.kind == "f" and np.isnan(groups).any():
            raise ValueError(f"{argument} contains NaN, which names no {one}.")
        labels = groups.tolist()
        if any(label is None for label in labels):
            raise ValueError(f"{argument} contains None, which names no {one}.")
    if depth is not None:
        for index in indices:
            _check_order(index, labels, depth + 1)
    return Rounds(X, rewards, labels, *_time_span(indices))


def as_labels(labels):
    """Return labels as an array; a list of numbers and names keeps both as they are."""
    array = np.asarray(to_numpy(labels))
    is_list = isinstance(labels, list | tuple)
    if is_list and array.dtype.kind == "U" and array.ndim == 1:
        array = np.array(labels, dtype=object)
    return array


def _names_in(estimator):
    return list(getattr(estimator, "feature_names_in_", []))


def _position_of(names, column, n_columns):
    """Return which column has this name or number."""
    if isinstance(column, str):
        if column not in names:
            raise ValueError(
                f"X has no column {column!r}; it has {names or 'no names'}."
            )
        return names.index(column)
    if not -n_columns <= column < n_columns:
        raise ValueError(f"X has {n_columns} columns, and no column {column}.")
    return column % n_columns


def _check_order(index, labels, depth):
    """Refuse rows that a time index shows to be out of order."""
    rises = getattr(index, "is_monotonic_increasing", None)
    if rises is None or rises:
        return
    is_time = _is_time(index)
    if not (is_time or getattr(index.dtype, "kind", "") in "iuf"):
        return  # names, which have no order
    if labels is not None:
        groups = {}
        for row, label in enumerate(labels):
            groups.setdefault(label, []).append(row)
        if all(index[rows].is_monotonic_increasing for rows in groups.values()):
            return
    if is_time:
        raise ValueError(
            "Rows must be in time order within each trajectory, but the index falls. "
            "Sort X and y by time; do not shuffle."
        )
    warnings.warn(
        "The index falls, as if rows had been shuffled. Rows must be in time order: a "
        "reward is explained by the rows before it.",
        UserWarning,
        stacklevel=depth,
    )


def _is_time(index):
    kind = str(getattr(index, "dtype", ""))
    return kind.startswith(("datetime", "timedelta", "period"))


def _time_span(indices):
    """Return the first and the last time of an index of times, if one is there."""
    for index in indices:
        if _is_time(index) and len(index):
            return index[0], index[-1]
    return None, None


def check_contexts(contexts, n_features, *, ndim=2, name="contexts"):
    """Return contexts of arms as floats; the features must be as many as before."""
    if sparse.issparse(contexts):
        raise TypeError(f"{name} is sparse, but must be dense. Use toarray().")
    contexts = _as_floats(contexts, name)
    shape = ("n_rounds", "n_arms", "n_features")[3 - ndim :]
    if contexts.ndim != ndim or 0 in contexts.shape:
        raise ValueError(
            f"{name} must have shape ({', '.join(shape)}), none of them 0; got "
            f"{contexts.shape}."
        )
    if n_features not in (None, contexts.shape[-1]):
        raise ValueError(
            f"{name} must have {n_features} features, as before; got shape "
            f"{contexts.shape}."
        )
    return contexts.astype(np.float64)


def check_candidates(candidates):
    """Return candidate coefficients as rows of floats, two or more of them."""
    rows = _as_floats(candidates, "candidates").astype(np.float64)
    if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] == 0:
        raise ValueError(
            "candidates must have shape (n_candidates, n_features), with two "
            f"candidates or more; got {rows.shape}."
        )
    return rows


def check_reward(reward, *, allow_missing=None):
    """Return a reward as a float; NaN only where rewards may be missing.

    None is an estimator that has no such option.
    """
    try:
        value = float(to_numpy(reward))
    except (TypeError, ValueError):
        raise ValueError(f"reward must be a number; got {reward!r}.") from None
    if not np.isfinite(value) and not (allow_missing and np.isnan(value)):
        can_be = np.isnan(value) and allow_missing is not None
        hint = " allow_missing_y=True takes NaN." if can_be else ""
        raise ValueError(f"reward must be finite; got {value}.{hint}")
    return value


def check_past(past, n_features):
    """Return the contexts chosen before, as rows of floats."""
    past = _as_floats(past, "X_history")
    if past.ndim != 2 or past.shape[1] != n_features:
        raise ValueError(
            f"X_history must have shape (n_rounds, {n_features}); got {past.shape}."
        )
    return past


def check_logged(actions, n_rounds, n_arms, name):
    """Return the arm of each round."""
    actions = np.asarray(to_numpy(actions))
    if actions.shape != (n_rounds,):
        raise ValueError(
            f"{name} must have shape ({n_rounds},), an arm for each round; got "
            f"{actions.shape}."
        )
    is_arm = np.isin(actions, np.arange(n_arms))
    if not is_arm.all():
        raise ValueError(
            f"{name} must be arms from 0 to {n_arms - 1}; got {actions[~is_arm][0]}."
        )
    return actions.astype(np.int64)


def check_vector(values, n_rounds, name):
    """Return a number for each round."""
    values = _as_floats(values, name).astype(np.float64)
    if values.shape != (n_rounds,):
        raise ValueError(
            f"{name} must have shape ({n_rounds},), a number for each round; got "
            f"{values.shape}."
        )
    return values


# Whole numbers beyond are not all floats.
LARGEST_ID = 1e15


class TaskRows(NamedTuple):
    """Rows of tasks.

    Attributes
    ----------
    x : ndarray of shape (n_samples, n_features)
        Features, without a column that names tasks.
    y : ndarray of shape (n_samples,) or (n_samples, n_tasks), or None
        Targets; a column for each task, where all of them see the same rows.
    labels : ndarray of shape (n_samples,) or None
        The task of each row, if that was said.
    columns : ndarray of shape (n_tasks,) or None
        Names of the columns of y, if it has several axes.
    """

    x: np.ndarray
    y: np.ndarray | None
    labels: np.ndarray | None
    columns: np.ndarray | None


def check_task_rows(
    estimator,
    X,
    y="no_validation",
    tasks=None,
    *,
    reset,
    column,
    y_numeric=True,
    one="task",
    argument="tasks",
):
    """Validate rows of tasks, named by a column of X, by `tasks`, or not at all.

    Names in the column may be numbers or strings, which X need not hold otherwise.
    Messages call a task `one`, and the names of all `argument`.
    """
    if column is not None and tasks is not None:
        raise ValueError(
            f"Each {one} is named twice: by the column {column!r} and by {argument}."
        )
    labels = None
    if column is not None:
        X, labels = _without_names(X, column)
    X, rules = number_rules(X, allow_nan=False)
    columns = None
    if isinstance(y, str):
        X, y = validate_data(estimator, X, reset=reset, **rules), None
    else:
        if y is None:
            validate_data(estimator, X, None)  # complains
        X = validate_data(estimator, X, reset=reset, **rules)
        y, columns = _targets(y, y_numeric)
        check_consistent_length(X, y)
    X = np.asarray(to_numpy(X))
    if X.dtype.kind != "f":  # whole numbers, whose namespace was kept
        X = X.astype(np.float64)
    if column is not None:
        position = _position_of(_names_in(estimator), column, X.shape[1])
        if labels is None:
            labels = _whole_numbers(X[:, position], column, f"{one}s")
        X = np.delete(X, position, axis=1)
        if X.shape[1] == 0:
            raise ValueError(f"X has no column besides {column!r}.")
    if tasks is not None:
        labels = as_labels(tasks)
        if labels.ndim == 0:
            labels = np.full(len(X), labels.item(), dtype=labels.dtype)
        if labels.shape != (len(X),):
            raise ValueError(
                f"{argument} must have shape ({len(X)},), a label for each row; got "
                f"{labels.shape}."
            )
    if labels is not None and (
        (labels.dtype.kind == "f" and np.isnan(labels).any())
        or (labels.dtype.kind == "O" and any(v is None or v != v for v in labels))
    ):
        raise ValueError(
            f"{one.capitalize()}s have missing labels: NaN or None names no {one}."
        )
    return TaskRows(X, y, labels, columns)


def _without_names(X, column):
    """Return X with numbers instead of names in a column, and the names, if any."""
    if hasattr(X, "columns") and hasattr(X, "dtypes"):  # a data frame
        names = list(X.columns)
        position = _position_of(names, column, len(names))
        ids = X[names[position]]
        values = np.asarray(ids.to_numpy())
        if values.dtype.kind in "biuf":
            return X, None
        parts = [
            np.zeros(len(values)) if i == position else X[name].to_numpy()
            for i, name in enumerate(names)
        ]
        return type(X)(dict(zip(names, parts))), values
    if isinstance(X, list | tuple):
        X = np.array(X, dtype=object) if _has_strings(X) else X
    if isinstance(X, np.ndarray) and X.dtype.kind in "OU" and X.ndim == 2:
        if isinstance(column, str) or not -X.shape[1] <= column < X.shape[1]:
            return X, None  # complained of later
        values = X[:, column]
        if all(isinstance(value, Number) for value in values):
            return X, None
        X = X.astype(object)
        X[:, column] = 0
        return X, as_labels(values.tolist())
    return X, None


def _has_strings(rows):
    return any(
        isinstance(row, list | tuple) and any(isinstance(v, str) for v in row)
        for row in rows
    )


def _whole_numbers(values, column, what):
    """Return ids as integers; what is scaled, and no id any more, is refused."""
    whole = np.round(values)
    is_id = (whole == values) & (np.abs(values) < LARGEST_ID)
    if not is_id.all():
        odd = values[~is_id][0]
        raise ValueError(
            f"The column {column!r} names {what}, but holds {odd:.6g}, which is no "
            "whole number of at most 15 digits. If a transformer before has scaled it, "
            "let it pass through: ColumnTransformer([('scale', StandardScaler(), "
            "other_columns)], remainder='passthrough')."
        )
    return whole.astype(np.int64)


def _targets(y, y_numeric):
    """Return targets, where a column may lack some, and names of columns."""
    names = getattr(y, "columns", None)
    names = None if names is None else np.asarray(names)
    if not y_numeric:
        y = np.asarray(to_numpy(y))
        if y.ndim == 1:
            y = column_or_1d(y)
            check_classification_targets(y)
            assert_all_finite(y, input_name="y")
        elif y.ndim != 2:
            raise ValueError(f"y must have one or two axes; got shape {y.shape}.")
    else:
        y, _ = number_rules(y, allow_nan=True)
        y = check_array(
            to_numpy(y),
            dtype=np.float64,
            ensure_2d=False,
            ensure_all_finite="allow-nan",
            input_name="y",
        )
        if y.ndim == 1:
            assert_all_finite(y, input_name="y")
    if y.ndim == 1:
        return y, None
    return y, np.arange(y.shape[1]) if names is None else names
