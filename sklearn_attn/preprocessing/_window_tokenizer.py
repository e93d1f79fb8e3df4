"""A window becomes a token: series[start : start + window]."""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from .._arrays import follow, pack_state, to_numpy, unpack_state
from .._compat import (
    StrOptions,
    check_same_namespace,
    fit_context,
    get_namespace_and_device,
)
from .._validation import is_ragged, pad_sequences, unharmed
from ._rows_to_tokens import (
    DOC_LINK_TEMPLATE,
    POSITIVE_INTEGER,
    as_rows,
    auto_size,
    check_rows,
    end_to_end,
    is_flat,
    names_out,
    part_starts,
    take,
    validate_rows,
)


class WindowTokenizer(TransformerMixin, BaseEstimator):
    """Turn each window of a time series into one token.

    Where windows do not tile a series, the last one is shifted back until it ends with
    the series: no time point is lost, and some are seen twice. Series of different
    lengths come as a list, or with NaN after their last time point; each has the
    windows of its own length, and NaN for the windows that it is too short for.

    Parameters
    ----------
    window : int or "auto", default="auto"
        Number of time points in a window. `"auto"` takes the largest power of two that
        is not above the square root of the length of the (longest) series in fit: 8 for
        100 time points, 16 for 500.
    stride : int or None, default=None
        Step from one window to the next, in time points. None takes the window; less
        makes windows overlap, more leaves gaps.
    n_channels : int or None, default=None
        Number of values at a time point, for series that come as rows: all values of
        the first time point, then of the second. None takes it from X; a row is then a
        series of one channel.
    flatten : bool, default=False
        Whether to lay the tokens of a series end to end. The result is then 2-D with
        named columns, and `set_output` works; the estimator that follows needs
        `n_tokens` set to `n_tokens_`.

    Attributes
    ----------
    starts_ : ndarray of int of shape (n_tokens_,)
        The time point at which each window starts, in a series of full length.
    window_ : int
        Number of time points in a window.
    n_timesteps_ : int
        Number of time points of the longest series seen in fit.
    n_channels_ : int
        Number of values at a time point.
    token_names_ : list of str
        "window_{start}" for each window.
    n_tokens_ : int
        Number of windows of a series of full length.
    n_token_features_ : int
        Number of values in a window: time points times channels.
    n_features_in_ : int
        Number of values in a series of full length.
    feature_names_in_ : ndarray of str of shape (n_features_in_,)
        Names of the features seen in fit. Only there if X has names that are strings.

    See Also
    --------
    FeatureTokenizer : Tokens from tables.
    PatchTokenizer : Tokens from images.
    pad_sequences : The padding that series of different lengths get.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.preprocessing import WindowTokenizer
    >>> WindowTokenizer(window=2).fit_transform([[1.0, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    array([[[ 1.,  2.],
            [ 3.,  4.],
            [ 4.,  5.]],
    <BLANKLINE>
           [[ 6.,  7.],
            [ 8.,  9.],
            [ 9., 10.]]])
    >>> short, long = np.ones((2, 3)), np.ones((5, 3))  # three channels
    >>> tokens = WindowTokenizer(window=2).fit_transform([short, long])
    >>> np.isnan(tokens).all(axis=2)
    array([[False,  True,  True],
           [False, False, False]])
    """

    _doc_link_module = "sklearn_attn"
    _doc_link_template = DOC_LINK_TEMPLATE

    _parameter_constraints: dict = {  # noqa: RUF012
        "window": [StrOptions({"auto"}), POSITIVE_INTEGER],
        "stride": [POSITIVE_INTEGER, None],
        "n_channels": [POSITIVE_INTEGER, None],
        "flatten": ["boolean"],
    }

    def __init__(self, *, window="auto", stride=None, n_channels=None, flatten=False):
        self.window = window
        self.stride = stride
        self.n_channels = n_channels
        self.flatten = flatten

    @fit_context(prefer_skip_nested_validation=True)
    @unharmed
    def fit(self, X, y=None):
        """Lay the windows over the longest series.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_timesteps, n_channels) or \
                (n_samples, n_timesteps * n_channels), \
                or list of arrays of shape (n_timesteps_i, n_channels)
            The series.
        y : None
            Ignored; present for the convention.

        Returns
        -------
        self : WindowTokenizer
            The fitted tokenizer.

        Raises
        ------
        ValueError
            If X does not have `n_channels`, a series is shorter than a window, or NaN
            comes before the end of a series.
        """
        rows, layout = as_rows(pad_sequences(X) if is_ragged(X) else X)
        rows = validate_rows(self, rows, reset=True, ensure_all_finite="allow-nan")
        self.n_channels_ = self._find_n_channels(layout)
        self.n_timesteps_ = self.n_features_in_ // self.n_channels_
        auto = self.window == "auto"
        self.window_ = auto_size(self.n_timesteps_) if auto else self.window
        self._lengths(rows)  # refuses what transform would refuse
        self._stride = self.stride or self.window_
        starts = part_starts(self.n_timesteps_, self.window_, self._stride)
        self.starts_ = follow(rows)(starts)
        self.token_names_ = [f"window_{start}" for start in starts]
        self.n_tokens_ = len(starts)
        self.n_token_features_ = self.window_ * self.n_channels_
        return self

    def transform(self, X):
        """Turn each series into windows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_timesteps, n_channels) or \
                (n_samples, n_timesteps * n_channels), \
                or list of arrays of shape (n_timesteps_i, n_channels)
            The series. Rows, and series that are to become flat tokens, are as long as
            in fit; a list is padded to that length. Otherwise the length is free.

        Returns
        -------
        ndarray of shape (n_samples, n_tokens_, n_token_features_)
            The windows, float32 where X is; as many more as the series are longer than
            those of fit. With `flatten=True`, of shape
            `(n_samples, n_tokens_ * n_token_features_)`.

        Raises
        ------
        ValueError
            If X does not have the channels of fit, a series is shorter than a window,
            or NaN comes before the end of a series.
        """
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="starts_", method="transform")
        if is_ragged(X):
            X = pad_sequences(X, n_tokens=max(self.n_timesteps_, *map(len, X)))
        rows, layout = as_rows(X)
        rows = self._validate_series(rows, layout)
        lengths = self._lengths(rows)
        n_timesteps = rows.shape[1] // self.n_channels_
        starts = part_starts(n_timesteps, self.window_, self._stride)
        if lengths.min() == n_timesteps:
            tokens = take(rows, self._token_columns(starts))
        else:
            tokens = self._take_padded(rows, lengths, n_tokens=len(starts))
        return end_to_end(tokens) if self.flatten else tokens

    @available_if(is_flat)
    def get_feature_names_out(self, input_features=None):
        """Name the columns of the flat output; only there with `flatten=True`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the values of a series; None takes those of fit.

        Returns
        -------
        ndarray of str of shape (n_tokens_ * n_token_features_,)
            The name of the window and that of the value: "window_4__x5".
        """
        columns = self._token_columns(to_numpy(self.starts_))
        return names_out(self, columns, input_features)

    def _find_n_channels(self, layout):
        """Return the number of channels, as X or the parameter has it."""
        if layout is None:
            n_channels = self.n_channels or 1
            if self.n_features_in_ % n_channels:
                raise ValueError(
                    f"{self.n_features_in_} features do not split into time points of "
                    f"n_channels={n_channels}; n_channels must divide their number."
                )
            return n_channels
        if len(layout) != 2 or self.n_channels not in (None, layout[1]):
            wanted = f"(n_timesteps, {self.n_channels or 'n_channels'})"
            raise ValueError(f"X has series of shape {layout}; wanted is {wanted}.")
        return layout[1]

    def _validate_series(self, rows, layout):
        """Validate series after fit; unlike rows, structured ones have any length."""
        fitted = (self.n_timesteps_, self.n_channels_)
        if layout is None or layout == fitted:
            return validate_rows(self, rows, reset=False, ensure_all_finite="allow-nan")
        if layout[1:] != fitted[1:] or self.flatten:
            wanted = f"({fitted[0] if self.flatten else 'n_timesteps'}, {fitted[1]})"
            raise ValueError(
                f"X has series of shape {layout}, but WindowTokenizer is fitted to "
                f"transform those of shape {wanted}."
            )
        return check_rows(rows, ensure_all_finite="allow-nan")

    def _lengths(self, rows):
        """Return how many time points each series has before its padding."""
        missing = to_numpy(get_namespace_and_device(rows)[0].isnan(rows))
        missing = missing.reshape(len(missing), -1, self.n_channels_)  # (n, time, C)
        lengths = (~missing.all(axis=2)).sum(axis=1)
        padding = np.arange(missing.shape[1]) >= lengths[:, None]
        torn = (missing != padding[:, :, None]).any(axis=2)
        if torn.any():
            i, t = np.argwhere(torn)[0]
            raise ValueError(
                f"Input X contains NaN at time point {t} of series {i}. NaN may only "
                "follow the last time point of a series, in all channels; fill gaps in."
            )
        if lengths.min() < self.window_:
            i = lengths.argmin()
            raise ValueError(
                f"A window of {self.window_} time points does not fit into series {i}, "
                f"which has {lengths[i]}. Choose a smaller window."
            )
        return lengths

    def _take_padded(self, rows, lengths, n_tokens):
        """Gather the windows that each series has by itself; NaN for the others."""
        xp, _, device = get_namespace_and_device(rows)
        n_samples, n_values = rows.shape
        everything = xp.reshape(rows, (1, n_samples * n_values))
        first_values = n_values * np.arange(n_samples)[:, None]
        shape = (n_samples, n_tokens, self.n_token_features_)
        tokens = xp.empty(shape, dtype=rows.dtype, device=device)
        last = lengths - self.window_
        for k in range(n_tokens):  # not all at once: the indices would outweigh X
            start = k * self._stride
            columns = first_values + self._token_columns(np.minimum(start, last))
            windows = take(everything, columns)[0, ...]  # (n, d)
            beyond = follow(rows)(start >= last + self._stride)
            tokens[:, k, :] = xp.where(beyond[:, None], xp.nan, windows)
        return tokens

    def _token_columns(self, starts):
        """Return which values of a series each window holds, (..., d)."""
        return starts[..., None] * self.n_channels_ + np.arange(self.n_token_features_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.three_d_array = True
        # allow_nan stays False: NaN after the end is padding, NaN before it an error
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self):
        return pack_state(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpack_state(self, state))
