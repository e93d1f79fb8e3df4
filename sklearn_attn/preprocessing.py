"""From tables, images and series to tokens: X (n, features) -> tokens (n, T, d).

A feature, a patch of an image or a window of a series becomes one token. What comes out
is what every estimator here takes. A token that is not there is NaN throughout.
"""

import math
from numbers import Integral

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.preprocessing import OrdinalEncoder
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from ._arrays import follow, pack_state, to_numpy, unpack_state
from ._compat import (
    Interval,
    StrOptions,
    check_same_namespace,
    fit_context,
    get_namespace_and_device,
)
from ._validation import _is_ragged, pad_sequences, unharmed

__all__ = ["FeatureTokenizer", "PatchTokenizer", "WindowTokenizer", "pad_sequences"]

_DOC_LINK_TEMPLATE = (
    "https://sklearn-attn.readthedocs.io/en/stable/generated/"
    "{estimator_module}.{estimator_name}.html"
)
_POSITIVE_INTEGER = Interval(Integral, 1, None, closed="left")
_UNKNOWN = -1  # the number of no category


def _is_flat(tokenizer):
    """Tell whether the output is 2-D, so that its columns can have names."""
    return tokenizer.flatten


class FeatureTokenizer(TransformerMixin, BaseEstimator):
    """Turn each feature of a table into one token.

    A token says which feature it is, by a one-hot identity, and what the value is. A
    categorical feature has one identity for each of its categories, and the value 1.

    Parameters
    ----------
    encoding : {"scale", "append"}, default="scale"
        What the value x_j does to the identity e_j of its feature.

        - `"scale"`: the token is x_j e_j, so that a linear function of the sum of the
          tokens is a linear function of the row. A value of zero leaves no trace, and
          a score that is linear in the token grows with the value.
        - `"append"`: the token is [x_j, e_j]. Attention can choose a feature by its
          identity, whatever the value; a linear head sees the values of all features
          in one coordinate.

    categorical_features : array-like of str, int or bool, default=None
        Names or indices of the categorical columns, or a mask over all columns. None
        takes every column for numerical.
    handle_unknown : {"error", "mask"}, default="error"
        What becomes of a category that fit did not see: a ValueError, or a token of
        NaN, which every estimator here reads as a token that is not there.
    missing : {"error", "mask"}, default="error"
        What becomes of a missing value (NaN, None): a ValueError, or a token of NaN. A
        row in which everything is missing keeps no token, and the estimators refuse it.
    flatten : bool, default=False
        Whether to lay the tokens of a row end to end. The result is then 2-D with named
        columns, and `set_output` works; the estimator that follows needs
        `n_tokens` set to `n_tokens_`.

    Attributes
    ----------
    identity_columns_ : ndarray of int of shape (n_tokens_,)
        The column of a token that marks the feature, or the first of its categories.
    encoder_ : OrdinalEncoder or None
        Holds the categories of the categorical features, if there are any.
    token_names_ : list of str
        The names of the features, one for each token.
    n_tokens_ : int
        Number of tokens, the number of features.
    n_token_features_ : int
        Number of features of a token.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of str of shape (n_features_in_,)
        Names of the features seen in fit. Only there if X has names that are strings.

    See Also
    --------
    PatchTokenizer : Tokens from images.
    WindowTokenizer : Tokens from time series.

    Examples
    --------
    >>> from sklearn_attn.preprocessing import FeatureTokenizer
    >>> FeatureTokenizer().fit_transform([[2.0, -3.0]])
    array([[[ 2.,  0.],
            [ 0., -3.]]])
    >>> FeatureTokenizer(encoding="append").fit_transform([[2.0, -3.0]])
    array([[[ 2.,  1.,  0.],
            [-3.,  0.,  1.]]])
    """

    _doc_link_module = "sklearn_attn"
    _doc_link_template = _DOC_LINK_TEMPLATE

    _parameter_constraints: dict = {  # noqa: RUF012
        "encoding": [StrOptions({"scale", "append"})],
        "categorical_features": ["array-like", None],
        "handle_unknown": [StrOptions({"error", "mask"})],
        "missing": [StrOptions({"error", "mask"})],
        "flatten": ["boolean"],
    }

    def __init__(
        self,
        *,
        encoding="scale",
        categorical_features=None,
        handle_unknown="error",
        missing="error",
        flatten=False,
    ):
        self.encoding = encoding
        self.categorical_features = categorical_features
        self.handle_unknown = handle_unknown
        self.missing = missing
        self.flatten = flatten

    @fit_context(prefer_skip_nested_validation=True)
    @unharmed
    def fit(self, X, y=None):
        """Learn the features and their categories.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The table.
        y : None
            Ignored; present for the convention.

        Returns
        -------
        self : FeatureTokenizer
            The fitted tokenizer.

        Raises
        ------
        ValueError
            If a categorical feature is not a column of X, another column holds
            something else than finite numbers, or a value is missing with
            `missing="error"`.
        """
        self.encoder_ = None
        _, codes = self._read(X, reset=True)
        # codes, not categories_: a missing value has a place there too
        n_identities = np.fmax.reduce(codes, axis=0, initial=_UNKNOWN) + 1
        n_identities = n_identities.astype(np.int64)
        first = np.cumsum(n_identities) - n_identities
        n_values = int(self.encoding == "append")
        self.identity_columns_ = follow(X)(n_values + first)
        self.token_names_ = _names_in(self).tolist()
        self.n_tokens_ = self.n_features_in_
        self.n_token_features_ = n_values + int(n_identities.sum())
        return self

    def transform(self, X):
        """Turn each row into tokens.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The table.

        Returns
        -------
        ndarray of shape (n_samples, n_tokens_, n_token_features_)
            The tokens, float32 where X is. With `flatten=True`, of shape
            (n_samples, n_tokens_ * n_token_features_).

        Raises
        ------
        ValueError
            If X does not have the features of fit, or holds missing values or unknown
            categories that are not to be masked.
        """
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="identity_columns_", method="transform")
        place = follow(X)
        values, codes = self._read(X, reset=False)
        marks = to_numpy(self.identity_columns_) + np.nan_to_num(codes).astype(np.int64)
        xp, *_ = get_namespace_and_device(values)
        columns = place(np.arange(self.n_token_features_))
        marked = place(marks)[:, :, None] == columns  # (n or 1, T, d)
        zero = values - values  # where a value is missing, NaN: the token is not there
        mark = values if self.encoding == "scale" else zero + 1
        tokens = xp.where(marked, mark[:, :, None], zero[:, :, None])  # (n, T, d)
        if self.encoding == "append":
            tokens[:, :, 0] = values
        return _finish(tokens, self.flatten)

    @available_if(_is_flat)
    def get_feature_names_out(self, input_features=None):
        """Name the columns of the flat output; only there with `flatten=True`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the features; None takes those of fit.

        Returns
        -------
        ndarray of str of shape (n_tokens_ * n_token_features_,)
            The name of the token, and what the column says of it: "age__is_age",
            "city__is_city_Paris", "age__value".
        """
        names = _names_in(self, input_features)
        identities = {j: [name] for j, name in enumerate(names)}
        if self.encoder_ is not None:
            for j, categories in zip(self._categorical, self.encoder_.categories_):
                there = [c for c in categories if not _is_missing(c)]
                identities[j] = [f"{names[j]}_{category}" for category in there]
        columns = ["value"] if self.encoding == "append" else []
        columns += [f"is_{e}" for marks in identities.values() for e in marks]
        return np.array([f"{t}__{c}" for t in names for c in columns], dtype=object)

    def _read(self, X, *, reset):
        """Return numbers, 1 for a category, NaN for no token; and category codes."""
        if self.categorical_features is None:
            rules = {"ensure_all_finite": self._finite()}
            values = _validate_rows(self, X, reset=reset, **rules)
            return values, np.zeros((1, self.n_features_in_))
        values, codes = self._read_mixed(to_numpy(X), reset=reset)
        return follow(X)(values), codes

    def _read_mixed(self, X, *, reset):
        """Read a table some of whose columns are categorical."""
        # Lists and frames may mix types, which one common type would lose.
        rules = {"dtype": None if hasattr(X, "dtype") else object}
        rules["ensure_all_finite"] = "allow-nan"
        table = validate_data(self, X, reset=reset, **rules)
        if table.dtype == object:  # None, NaN and pandas.NA become one
            table = np.where(_are_missing(table).astype(bool), np.nan, table)
        if reset:
            self._categorical = _find_columns(self, self.categorical_features)
        dtype = np.float32 if table.dtype == np.float32 else np.float64
        values = np.ones(table.shape, dtype=dtype)
        codes = np.zeros(table.shape)
        numerical = np.setdiff1d(np.arange(table.shape[1]), self._categorical)
        if numerical.size:
            numbers = table[:, numerical]
            rules = {"dtype": dtype, "ensure_all_finite": self._finite()}
            values[:, numerical] = check_array(numbers, input_name="X", **rules)
        if self._categorical:
            # objects throughout: an encoder fitted on those cannot read an array
            categories = table[:, self._categorical].astype(object)
            if reset:
                self.encoder_ = _fit_encoder(categories)
            codes[:, self._categorical] = self._encode(categories)
            values[np.isnan(codes)] = np.nan
        return values, codes

    def _encode(self, categories):
        """Number the categories of each column; NaN where there is to be no token."""
        codes = self.encoder_.transform(categories)
        missing = categories != categories
        unknown = (codes == _UNKNOWN) & ~missing
        names = _names_in(self)[self._categorical]
        if self.missing == "error" and missing.any():
            _, j = np.argwhere(missing)[0]
            raise ValueError(
                f"Input X contains NaN: a category of {names[j]!r} is missing. Fill it "
                "in, or set missing='mask' to leave such tokens out."
            )
        if self.handle_unknown == "error" and unknown.any():
            i, j = np.argwhere(unknown)[0]
            raise ValueError(
                f"X has the category {categories[i, j]!r} of {names[j]!r}, which fit "
                "did not see. Set handle_unknown='mask' to leave such tokens out."
            )
        return np.where(missing | unknown, np.nan, codes)

    def _finite(self):
        return "allow-nan" if self.missing == "mask" else True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.allow_nan = self.missing == "mask"
        tags.input_tags.categorical = self.categorical_features is not None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self):
        return pack_state(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpack_state(self, state))


class PatchTokenizer(TransformerMixin, BaseEstimator):
    """Turn each patch of an image into one token.

    Patches come row by row. Where they do not tile the image, the last row and the last
    column of patches are shifted inwards until they touch the border: no pixel is lost,
    and some are seen twice.

    Parameters
    ----------
    patch_size : int, pair of int or "auto", default="auto"
        Height and width of a patch in pixels. `"auto"` takes, for each side of the
        image, the largest power of two that is not above its square root: powers of two
        divide most images, and the root balances the number of tokens with their size.
        That is 2 for 8 pixels, 4 for 28 or 32, 8 for 224, 16 for 480.
    stride : int, pair of int or None, default=None
        Step from one patch to the next, down and to the right, in pixels. None takes
        the patch size; less makes patches overlap, more leaves gaps.
    image_shape : array-like of int, default=None
        The (height, width) or (height, width, channels) of an image, for images that
        come as rows of pixels. None takes it from X; a row of pixels is then an image
        of height 1.
    flatten : bool, default=False
        Whether to lay the tokens of an image end to end. The result is then 2-D with
        named columns, and `set_output` works; the estimator that follows needs
        `n_tokens` set to `n_tokens_`.

    Attributes
    ----------
    positions_ : ndarray of int of shape (n_tokens_, 2)
        Row and column of the upper left pixel of each patch.
    image_shape_ : tuple of int
        Height, width and number of channels of an image.
    patch_shape_ : tuple of int
        Height and width of a patch.
    token_names_ : list of str
        "patch_{row}_{column}" with the position of each patch.
    n_tokens_ : int
        Number of patches of an image.
    n_token_features_ : int
        Number of values in a patch: height times width times channels.
    n_features_in_ : int
        Number of values in an image.
    feature_names_in_ : ndarray of str of shape (n_features_in_,)
        Names of the features seen in fit. Only there if X has names that are strings.

    See Also
    --------
    FeatureTokenizer : Tokens from tables.
    WindowTokenizer : Tokens from time series.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_attn.preprocessing import PatchTokenizer
    >>> X = load_digits().images  # (1797, 8, 8)
    >>> tokenizer = PatchTokenizer(patch_size=4, stride=2)
    >>> tokenizer.fit_transform(X).shape
    (1797, 9, 16)
    >>> tokenizer.token_names_[:2]
    ['patch_0_0', 'patch_0_2']
    """

    _doc_link_module = "sklearn_attn"
    _doc_link_template = _DOC_LINK_TEMPLATE

    _parameter_constraints: dict = {  # noqa: RUF012
        "patch_size": [StrOptions({"auto"}), _POSITIVE_INTEGER, "array-like"],
        "stride": [_POSITIVE_INTEGER, "array-like", None],
        "image_shape": ["array-like", None],
        "flatten": ["boolean"],
    }

    def __init__(
        self, *, patch_size="auto", stride=None, image_shape=None, flatten=False
    ):
        self.patch_size = patch_size
        self.stride = stride
        self.image_shape = image_shape
        self.flatten = flatten

    @fit_context(prefer_skip_nested_validation=True)
    @unharmed
    def fit(self, X, y=None):
        """Lay the patches over an image.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width), \
                (n_samples, height, width, channels) or (n_samples, n_features)
            The images; as rows, the pixels come row by row, channels last.
        y : None
            Ignored; present for the convention.

        Returns
        -------
        self : PatchTokenizer
            The fitted tokenizer.

        Raises
        ------
        ValueError
            If the images are not of `image_shape`, or a patch does not fit into one.
        """
        rows, self._layout = _as_rows(X)
        rows = _validate_rows(self, rows, reset=True)
        self.image_shape_ = self._find_image_shape()
        height, width, channels = self.image_shape_
        if isinstance(self.patch_size, str):
            self.patch_shape_ = (_auto_size(height), _auto_size(width))
        else:
            self.patch_shape_ = _as_pair(self.patch_size, "patch_size")
        if self.patch_shape_[0] > height or self.patch_shape_[1] > width:
            raise ValueError(
                f"A patch of {_times(self.patch_shape_)} pixels does not fit into an "
                f"image of {_times((height, width))}. Choose a smaller patch_size, or "
                "give image_shape if X holds images as rows."
            )
        strides = self.patch_shape_
        if self.stride is not None:
            strides = _as_pair(self.stride, "stride")
        tops, lefts = map(_starts, (height, width), self.patch_shape_, strides)
        positions = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1)
        positions = positions.reshape(-1, 2)
        self.positions_ = follow(rows)(positions)
        self.token_names_ = [f"patch_{top}_{left}" for top, left in positions]
        self.n_tokens_ = len(positions)
        self.n_token_features_ = math.prod(self.patch_shape_) * channels
        return self

    def transform(self, X):
        """Turn each image into patches.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width), \
                (n_samples, height, width, channels) or (n_samples, n_features)
            Images of the shape seen in fit.

        Returns
        -------
        ndarray of shape (n_samples, n_tokens_, n_token_features_)
            The patches, float32 where X is. With `flatten=True`, of shape
            (n_samples, n_tokens_ * n_token_features_).

        Raises
        ------
        ValueError
            If the images do not have the shape of those of fit.
        """
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="positions_", method="transform")
        rows, layout = _as_rows(X)
        if layout is not None and _with_channels(layout) != self.image_shape_:
            raise ValueError(
                f"X has images of {_times(layout)}, but PatchTokenizer was fitted with "
                f"images of {_times(self.image_shape_)} (height, width, channels)."
            )
        rows = _validate_rows(self, rows, reset=False)
        return _finish(_take(rows, self._token_columns()), self.flatten)

    def inverse_transform(self, X):
        """Put patches back into images, averaged where they overlap.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_tokens_, n_token_features_) or \
                (n_samples, n_tokens_ * n_token_features_)
            The patches, as they come from `transform`.

        Returns
        -------
        ndarray
            The images in the layout of fit: with height and width, or as rows. Pixels
            that no patch covers are NaN.

        Raises
        ------
        ValueError
            If X does not have the tokens of `transform`.
        """
        check_is_fitted(self)
        check_same_namespace(
            X, self, attribute="positions_", method="inverse_transform"
        )
        rows = _check_numbers(_as_rows(X)[0])
        if rows.shape[1] != self.n_tokens_ * self.n_token_features_:
            raise ValueError(
                f"X has {rows.shape[1]} values for each image, but {self.n_tokens_} "
                f"patches of {self.n_token_features_} values are needed."
            )
        xp, _, device = get_namespace_and_device(rows)
        height, width = self.patch_shape_
        shape = (rows.shape[0], self.n_tokens_, height, width, self.image_shape_[2])
        patches = xp.reshape(rows, shape)
        like_rows = {"dtype": rows.dtype, "device": device}
        images = xp.zeros((shape[0], *self.image_shape_), **like_rows)
        n_patches = xp.zeros(self.image_shape_, **like_rows)
        for t, (top, left) in enumerate(to_numpy(self.positions_).tolist()):
            images[:, top : top + height, left : left + width, :] += patches[:, t, ...]
            n_patches[top : top + height, left : left + width, :] += 1
        images /= xp.where(n_patches > 0, n_patches, xp.nan)
        return xp.reshape(images, (shape[0], *(self._layout or (self.n_features_in_,))))

    @available_if(_is_flat)
    def get_feature_names_out(self, input_features=None):
        """Name the columns of the flat output; only there with `flatten=True`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the values of an image; None takes those of fit.

        Returns
        -------
        ndarray of str of shape (n_tokens_ * n_token_features_,)
            The name of the patch and that of the value: "patch_0_4__x5".
        """
        return _names_out(self, input_features)

    def _find_image_shape(self):
        """Return (height, width, channels), as X or the parameter has it."""
        if self.image_shape is None:
            return _with_channels(self._layout or (1, self.n_features_in_))
        shape = tuple(self.image_shape)
        if len(shape) not in (2, 3) or not _all_positive(shape):
            raise ValueError(
                f"image_shape={self.image_shape!r} must be (height, width) or "
                "(height, width, channels), of positive integers."
            )
        shape = _with_channels(shape)
        if self._layout is not None and _with_channels(self._layout) != shape:
            raise ValueError(
                f"X has images of {_times(self._layout)}, which is not the "
                f"image_shape={self.image_shape!r}."
            )
        if math.prod(shape) != self.n_features_in_:
            raise ValueError(
                f"image_shape={self.image_shape!r} has {math.prod(shape)} values, but "
                f"X has {self.n_features_in_} features."
            )
        return shape

    def _token_columns(self):
        """Return which values of an image each token holds, (n_tokens_, d)."""
        image = np.arange(math.prod(self.image_shape_)).reshape(self.image_shape_)
        first_patch = image[: self.patch_shape_[0], : self.patch_shape_[1]].ravel()
        tops, lefts = to_numpy(self.positions_).T
        return image[tops, lefts, 0][:, None] + first_patch

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self):
        return pack_state(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpack_state(self, state))


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
    _doc_link_template = _DOC_LINK_TEMPLATE

    _parameter_constraints: dict = {  # noqa: RUF012
        "window": [StrOptions({"auto"}), _POSITIVE_INTEGER],
        "stride": [_POSITIVE_INTEGER, None],
        "n_channels": [_POSITIVE_INTEGER, None],
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
        rows, layout = _as_rows(pad_sequences(X) if _is_ragged(X) else X)
        rows = _validate_rows(self, rows, reset=True, ensure_all_finite="allow-nan")
        self.n_channels_ = self._find_n_channels(layout)
        self.n_timesteps_ = self.n_features_in_ // self.n_channels_
        self.window_ = self.window
        if self.window == "auto":
            self.window_ = _auto_size(self.n_timesteps_)
        self._lengths(rows)  # refuses what transform would refuse
        self._stride = self.stride or self.window_
        starts = _starts(self.n_timesteps_, self.window_, self._stride)
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
            (n_samples, n_tokens_ * n_token_features_).

        Raises
        ------
        ValueError
            If X does not have the channels of fit, a series is shorter than a window,
            or NaN comes before the end of a series.
        """
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="starts_", method="transform")
        if _is_ragged(X):
            X = pad_sequences(X, n_tokens=max(self.n_timesteps_, *map(len, X)))
        rows, layout = _as_rows(X)
        rows = self._validate_series(rows, layout)
        lengths = self._lengths(rows)
        if lengths.min() == lengths.max() == rows.shape[1] // self.n_channels_:
            starts = _starts(lengths[0], self.window_, self._stride)
            return _finish(_take(rows, self._token_columns(starts)), self.flatten)
        return _finish(self._take_padded(rows, lengths), self.flatten)

    @available_if(_is_flat)
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
        return _names_out(self, input_features)

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
            return _validate_rows(
                self, rows, reset=False, ensure_all_finite="allow-nan"
            )
        if layout[1:] != fitted[1:] or self.flatten:
            wanted = f"({fitted[0] if self.flatten else 'n_timesteps'}, {fitted[1]})"
            raise ValueError(
                f"X has series of shape {layout}, but WindowTokenizer is fitted to "
                f"transform those of shape {wanted}."
            )
        return _check_numbers(rows, ensure_all_finite="allow-nan")

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

    def _take_padded(self, rows, lengths):
        """Gather the windows that each series has by itself; NaN for the others."""
        xp, _, device = get_namespace_and_device(rows)
        n_samples, n_values = rows.shape
        everything = xp.reshape(rows, (1, n_samples * n_values))
        first_values = n_values * np.arange(n_samples)[:, None]
        n_tokens = len(
            _starts(n_values // self.n_channels_, self.window_, self._stride)
        )
        shape = (n_samples, n_tokens, self.n_token_features_)
        tokens = xp.empty(shape, dtype=rows.dtype, device=device)
        last = lengths - self.window_
        for k in range(n_tokens):  # not all at once: the indices would outweigh X
            start = k * self._stride
            columns = first_values + self._token_columns(np.minimum(start, last))
            windows = _take(everything, columns)[0, ...]  # (n, d)
            beyond = follow(rows)(start >= last + self._stride)
            tokens[:, k, :] = xp.where(beyond[:, None], xp.nan, windows)
        return tokens

    def _token_columns(self, starts=None):
        """Return which values of a series each token holds, (..., n_tokens, d)."""
        starts = to_numpy(self.starts_) if starts is None else starts
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


def _as_rows(X):
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
    if not get_config()["array_api_dispatch"]:
        X = to_numpy(X)
    xp, *_ = get_namespace_and_device(X)
    return xp.reshape(X, (X.shape[0], math.prod(layout))), layout


def _validate_rows(estimator, X, *, reset, **rules):
    """Validate a table of numbers in its own namespace; note or check its features."""
    X, rules = _number_rules(X, rules)
    return validate_data(estimator, X, reset=reset, **rules)


def _check_numbers(X, **rules):
    """Validate a table of numbers in its own namespace."""
    X, rules = _number_rules(X, rules)
    return check_array(X, input_name="X", **rules)


def _number_rules(X, rules):
    """Ask for float64, or float32 where X is; without dispatch, for a NumPy array."""
    if not get_config()["array_api_dispatch"]:
        X = to_numpy(X)
    xp, *_ = get_namespace_and_device(X)
    return X, {"dtype": [xp.float64, xp.float32], **rules}


def _take(rows, columns):
    """Gather tokens from rows by what each holds: (n, f), (T, d) -> (n, T, d)."""
    xp, *_ = get_namespace_and_device(rows)
    tokens = xp.take(rows, follow(rows)(columns.ravel()), axis=1)
    return xp.reshape(tokens, (rows.shape[0], *columns.shape))


def _finish(tokens, flatten):
    """Return tokens, laid end to end if that is wanted."""
    if not flatten:
        return tokens
    n_samples, n_tokens, width = tokens.shape
    xp, *_ = get_namespace_and_device(tokens)
    return xp.reshape(tokens, (n_samples, n_tokens * width))


def _names_in(estimator, input_features=None):
    """Return the names of the features, x0, x1, ... where they have none."""
    return OneToOneFeatureMixin.get_feature_names_out(estimator, input_features)


def _names_out(tokenizer, input_features):
    """Name each value of each token after both."""
    names = _names_in(tokenizer, input_features)[tokenizer._token_columns()]
    named = [f"{t}__{x}" for t, row in zip(tokenizer.token_names_, names) for x in row]
    return np.array(named, dtype=object)


def _find_columns(estimator, wanted):
    """Turn names, indices or a mask into sorted indices of columns."""
    n_features = estimator.n_features_in_
    wanted = np.asarray(wanted)
    if wanted.size == 0:
        return []
    if wanted.dtype.kind == "b":
        if wanted.shape != (n_features,):
            raise ValueError(
                f"categorical_features is a mask of shape {wanted.shape}, but X has "
                f"{n_features} features."
            )
        return np.flatnonzero(wanted).tolist()
    if wanted.dtype.kind in "iu":
        columns = list(range(n_features))
    else:
        columns = list(getattr(estimator, "feature_names_in_", []))
    unknown = [name for name in wanted.tolist() if name not in columns]
    if unknown:
        there = columns or f"{n_features} features without names"
        raise ValueError(
            f"categorical_features holds {unknown}, which X does not have; it has "
            f"{there}."
        )
    return sorted({columns.index(name) for name in wanted.tolist()})


def _fit_encoder(categories):
    """Number the categories of each column."""
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=_UNKNOWN)
    # its codes are for us, whatever output scikit-learn is configured to give
    return encoder.set_output(transform="default").fit(categories)


def _is_missing(value):
    """Tell None, NaN and pandas.NA: what is not there, or does not equal itself."""
    equal = value == value
    return value is None or not (isinstance(equal, bool | np.bool_) and equal)


_are_missing = np.frompyfunc(_is_missing, 1, 1)


def _auto_size(length):
    """Return the largest power of two that is not above the square root."""
    return 2 ** (math.isqrt(length).bit_length() - 1)


def _starts(length, size, stride):
    """Lay parts of one size over a length; the last one ends with it."""
    return np.minimum(np.arange(0, length - size + stride, stride), length - size)


def _with_channels(shape):
    """Turn (height, width) into (height, width, 1)."""
    if len(shape) > 3:
        raise ValueError(f"An image is 2-D, or 3-D with channels last; got {shape}.")
    return (*shape, 1)[:3]


def _as_pair(value, name):
    """Turn one number for both sides of an image into two."""
    pair = (value, value) if isinstance(value, Integral) else tuple(value)
    if len(pair) != 2 or not _all_positive(pair):
        raise ValueError(
            f"{name}={value!r} must be a positive integer, or two of them."
        )
    return pair


def _all_positive(numbers):
    return all(isinstance(number, Integral) and number > 0 for number in numbers)


def _times(shape):
    """Write a shape as people do, 8 x 8."""
    return " x ".join(map(str, shape))
