"""A patch becomes a token: image[top : top + height, left : left + width]."""

import math
from numbers import Integral

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
from .._validation import unharmed
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
    _doc_link_template = DOC_LINK_TEMPLATE

    _parameter_constraints: dict = {  # noqa: RUF012
        "patch_size": [StrOptions({"auto"}), POSITIVE_INTEGER, "array-like"],
        "stride": [POSITIVE_INTEGER, "array-like", None],
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
        rows, self._layout = as_rows(X)
        rows = validate_rows(self, rows, reset=True)
        self.image_shape_ = self._find_image_shape()
        height, width, channels = self.image_shape_
        if isinstance(self.patch_size, str):  # "auto"
            self.patch_shape_ = (auto_size(height), auto_size(width))
        else:
            self.patch_shape_ = _as_pair(self.patch_size, "patch_size")
        if self.patch_shape_[0] > height or self.patch_shape_[1] > width:
            raise ValueError(
                f"A patch of {_by(self.patch_shape_)} pixels does not fit into an "
                f"image of {_by((height, width))}. Choose a smaller patch_size, or "
                "give image_shape if X holds images as rows."
            )
        strides = self.patch_shape_
        if self.stride is not None:
            strides = _as_pair(self.stride, "stride")
        tops, lefts = map(part_starts, (height, width), self.patch_shape_, strides)
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
            `(n_samples, n_tokens_ * n_token_features_)`.

        Raises
        ------
        ValueError
            If the images do not have the shape of those of fit.
        """
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="positions_", method="transform")
        rows, layout = as_rows(X)
        if layout is not None and _with_channels(layout) != self.image_shape_:
            raise ValueError(
                f"X has images of {_by(layout)}, but PatchTokenizer was fitted with "
                f"images of {_by(self.image_shape_)} (height, width, channels)."
            )
        rows = validate_rows(self, rows, reset=False)
        tokens = take(rows, self._token_columns())
        return end_to_end(tokens) if self.flatten else tokens

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
        rows = check_rows(as_rows(X)[0])
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

    @available_if(is_flat)
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
        return names_out(self, self._token_columns(), input_features)

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
                f"X has images of {_by(self._layout)}, which is not the "
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


def _by(shape):
    """Write a shape as people do: 8 x 8."""
    return " x ".join(map(str, shape))
