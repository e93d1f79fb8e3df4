"""A feature becomes a token that says which one it is: x_j e_j, or [x_j, e_j]."""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import OrdinalEncoder
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

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
    end_to_end,
    is_flat,
    names_in,
    validate_rows,
)

_UNKNOWN = -1  # the number of no category


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
    _doc_link_template = DOC_LINK_TEMPLATE

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
        self.token_names_ = names_in(self).tolist()
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
            `(n_samples, n_tokens_ * n_token_features_)`.

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
        return end_to_end(tokens) if self.flatten else tokens

    @available_if(is_flat)
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
        names = names_in(self, input_features)
        identities = [[name] for name in names]
        if self.encoder_ is not None:
            for j, categories in zip(self._categorical, self.encoder_.categories_):
                there = [c for c in categories if not _is_missing(c)]
                identities[j] = [f"{names[j]}_{category}" for category in there]
        columns = ["value"] if self.encoding == "append" else []
        columns += [f"is_{e}" for marks in identities for e in marks]
        return np.array([f"{t}__{c}" for t in names for c in columns], dtype=object)

    def _read(self, X, *, reset):
        """Return numbers, 1 for a category, NaN for no token; and category codes."""
        if self.categorical_features is None:
            values = validate_rows(
                self, X, reset=reset, ensure_all_finite=self._ensure_all_finite()
            )
            return values, np.zeros((1, self.n_features_in_))
        values, codes = self._read_mixed(to_numpy(X), reset=reset)
        return follow(X)(values), codes

    def _read_mixed(self, X, *, reset):
        """Read a table some of whose columns are categorical."""
        table = validate_data(
            self,
            X,
            reset=reset,
            # lists and frames may mix types, which one common type would lose
            dtype=None if hasattr(X, "dtype") else object,
            ensure_all_finite="allow-nan",
        )
        if table.dtype == object:  # None, NaN and pandas.NA become one
            table = np.where(_are_missing(table).astype(bool), np.nan, table)
        if reset:
            self._categorical = self._find_categorical()
        dtype = np.float32 if table.dtype == np.float32 else np.float64
        values = np.ones(table.shape, dtype=dtype)
        codes = np.zeros(table.shape)
        numerical = np.setdiff1d(np.arange(table.shape[1]), self._categorical)
        if numerical.size:
            values[:, numerical] = check_array(
                table[:, numerical],
                dtype=dtype,
                ensure_all_finite=self._ensure_all_finite(),
                input_name="X",
            )
        if self._categorical:
            # objects throughout: an encoder fitted on those cannot read an array
            categories = table[:, self._categorical].astype(object)
            if reset:
                encoder = OrdinalEncoder(
                    handle_unknown="use_encoded_value", unknown_value=_UNKNOWN
                )
                # its codes are for us, whatever output scikit-learn is set to give
                encoder.set_output(transform="default")
                self.encoder_ = encoder.fit(categories)
            codes[:, self._categorical] = self._encode(categories)
            values[np.isnan(codes)] = np.nan
        return values, codes

    def _find_categorical(self):
        """Turn names, indices or a mask into sorted indices of columns."""
        wanted = np.asarray(self.categorical_features)
        if wanted.size == 0:
            return []
        if wanted.dtype.kind == "b":
            if wanted.shape != (self.n_features_in_,):
                raise ValueError(
                    f"categorical_features is a mask of shape {wanted.shape}, but X "
                    f"has {self.n_features_in_} features."
                )
            return np.flatnonzero(wanted).tolist()
        if wanted.dtype.kind in "iu":
            columns = list(range(self.n_features_in_))
        else:
            columns = list(getattr(self, "feature_names_in_", []))
        unknown = [name for name in wanted.tolist() if name not in columns]
        if unknown:
            there = columns or f"{self.n_features_in_} features without names"
            raise ValueError(
                f"categorical_features holds {unknown}, which X does not have; it has "
                f"{there}."
            )
        return sorted({columns.index(name) for name in wanted.tolist()})

    def _encode(self, categories):
        """Number the categories of each column; NaN where there is to be no token."""
        codes = self.encoder_.transform(categories)
        missing = categories != categories
        unknown = (codes == _UNKNOWN) & ~missing
        names = names_in(self)[self._categorical]
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

    def _ensure_all_finite(self):
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


def _is_missing(value):
    """Tell None, NaN and pandas.NA: what is not there, or does not equal itself."""
    equal = value == value
    return value is None or not (isinstance(equal, bool | np.bool_) and equal)


_are_missing = np.frompyfunc(_is_missing, 1, 1)
