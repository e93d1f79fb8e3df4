"""What the tokenizers promise: every number of the table, image or series, in place."""

import pickle

import array_api_strict
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import load_iris
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import validate_data

from sklearn_attn import preprocessing
from sklearn_attn.preprocessing import (
    FeatureTokenizer,
    PatchTokenizer,
    WindowTokenizer,
    pad_sequences,
)

TOKENIZERS = [FeatureTokenizer, PatchTokenizer, WindowTokenizer]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def people():
    return pd.DataFrame(
        {
            "age": [30.0, 40.0, np.nan, 20.0],
            "city": ["Paris", None, "Rome", "Paris"],
            "smokes": [True, False, True, False],
        }
    )


class MeanPool(TransformerMixin, BaseEstimator):
    """Average the tokens that are there."""

    def fit(self, X, y=None):
        validate_data(self, X, allow_nd=True, ensure_all_finite=False)
        return self

    def transform(self, X):
        return np.nanmean(X, axis=1)


def is_masked(tokens):
    return np.isnan(tokens).all(axis=-1)


# pad_sequences


def test_padding_keeps_every_sequence_and_fills_with_nan_tokens(rng):
    sequences = [rng.normal(size=(t, 2)) for t in (3, 1, 5)]
    padded = pad_sequences(sequences)
    assert padded.shape == (3, 5, 2)
    for sequence, row in zip(sequences, padded):
        assert_array_equal(row[: len(sequence)], sequence)
        assert np.isnan(row[len(sequence) :]).all()


def test_padding_goes_to_the_length_that_is_asked_for():
    assert pad_sequences([np.ones((1, 2))], n_tokens=4).shape == (1, 4, 2)


@pytest.mark.parametrize(
    ("other", "expected"), [("float32", "float32"), ("int", "float64")]
)
def test_padding_is_float32_only_where_all_sequences_are(other, expected):
    sequences = [np.ones((1, 2), dtype="float32"), np.ones((2, 2), dtype=other)]
    assert pad_sequences(sequences).dtype == expected


def test_tensors_are_padded_like_arrays():
    padded = pad_sequences([torch.ones(1, 2), torch.ones(2, 2)])
    assert isinstance(padded, np.ndarray)
    assert_array_equal(is_masked(padded), [[False, True], [False, False]])


@pytest.mark.parametrize(
    ("sequences", "n_tokens", "message"),
    [
        ([], None, "got no sequence"),
        ([np.ones(3)], None, r"Sequence 0 has shape \(3,\)"),
        ([np.ones((2, 2)), np.ones((0, 2))], None, r"Sequence 1 has shape \(0, 2\)"),
        ([np.ones((1, 2)), np.ones((1, 3))], None, r"tokens of \[2, 3\] features"),
        ([np.ones((3, 2))], 2, "3 tokens does not fit into n_tokens=2"),
    ],
)
def test_sequences_that_do_not_stack_are_refused(sequences, n_tokens, message):
    with pytest.raises(ValueError, match=message):
        pad_sequences(sequences, n_tokens=n_tokens)


# FeatureTokenizer


def test_a_scaled_token_is_the_value_times_the_identity(rng):
    X = rng.normal(size=(5, 3))
    tokens = FeatureTokenizer().fit_transform(X)
    for i in range(5):
        assert_array_equal(tokens[i], np.diag(X[i]))


def test_an_appended_token_is_the_value_beside_the_identity(rng):
    X = rng.normal(size=(5, 3))
    tokens = FeatureTokenizer(encoding="append").fit_transform(X)
    for i in range(5):
        assert_array_equal(tokens[i], np.column_stack([X[i], np.eye(3)]))


def test_a_linear_model_on_mean_pooled_scaled_tokens_sees_the_features(rng):
    X, y = rng.normal(size=(50, 4)), rng.normal(size=50)
    pooled = make_pipeline(FeatureTokenizer(), MeanPool(), Ridge(alpha=1e-10))
    plain = Ridge(alpha=1e-10)
    # both are least squares of the same span, up to the penalty of 1e-10
    assert_allclose(pooled.fit(X, y).predict(X), plain.fit(X, y).predict(X), rtol=1e-6)


def test_mean_pooled_appended_tokens_hide_which_feature_had_the_value():
    tokens = FeatureTokenizer(encoding="append").fit_transform([[1.0, 2.0], [2.0, 1.0]])
    pooled = tokens.mean(axis=1)
    assert_array_equal(pooled[0], pooled[1])


def test_zeros_are_positive_zeros():
    tokens = FeatureTokenizer().fit_transform([[-1.0, -2.0]])
    assert not np.signbit(tokens[0][~np.eye(2, dtype=bool)]).any()


@pytest.mark.parametrize(
    "categorical", [["city", "smokes"], [1, 2], [2, 1, 1], [False, True, True]]
)
@pytest.mark.parametrize("encoding", ["scale", "append"])
def test_a_category_has_an_identity_of_its_own(people, categorical, encoding):
    tokenizer = FeatureTokenizer(
        categorical_features=categorical, encoding=encoding, missing="mask"
    )
    tokens = tokenizer.fit_transform(people)
    nan = np.full(5, np.nan)
    # identities: age, Paris, Rome, False, True
    age, paris, rome, false, true = np.eye(5)
    if encoding == "scale":
        expected = [
            [30 * age, paris, true],
            [40 * age, nan, false],
            [nan, rome, true],
            [20 * age, paris, false],
        ]
        assert_array_equal(tokens, expected)
    else:
        expected = [
            [age, paris, true],
            [age, nan, false],
            [nan, rome, true],
            [age, paris, false],
        ]
        assert_array_equal(tokens[:, :, 1:], expected)
        assert_array_equal(tokens[:, 0, 0], people["age"])
        assert_array_equal(tokens[:, 1, 0], [1, np.nan, 1, 1])
        assert_array_equal(tokens[:, 2, 0], [1, 1, 1, 1])
    assert tokenizer.token_names_ == ["age", "city", "smokes"]
    assert tokenizer.n_tokens_ == tokens.shape[1]
    assert tokenizer.n_token_features_ == tokens.shape[2]


def test_pandas_and_polars_tables_give_the_same_tokens(people):
    tokenizer = FeatureTokenizer(categorical_features=["city"], missing="mask")
    from_pandas = tokenizer.fit_transform(people)
    # a polars null, not NaN, stands for what is missing
    people_pl = pl.from_pandas(people, nan_to_null=True)
    assert people_pl["age"].null_count() == 1
    assert_array_equal(clone(tokenizer).fit_transform(people_pl), from_pandas)


@pytest.mark.parametrize("dtype", ["string", "category", object])
def test_missing_categories_are_told_in_every_pandas_dtype(people, dtype):
    people = people.astype({"city": dtype})
    tokens = FeatureTokenizer(
        categorical_features=["city"], missing="mask"
    ).fit_transform(people)
    assert_array_equal(is_masked(tokens)[:, 1], [False, True, False, False])


def test_numeric_categories_are_categories(rng):
    X = np.array([[1.5, 3.0], [2.5, 9.0], [0.5, 3.0]], dtype=np.float32)
    tokens = FeatureTokenizer(categorical_features=[1]).fit_transform(X)
    assert tokens.dtype == np.float32
    assert_array_equal(tokens[:, 1], [[0, 1, 0], [0, 0, 1], [0, 1, 0]])


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_a_category_is_the_same_in_frames_arrays_and_lists():
    X = np.array([[1, 7], [2, 8], [1, 9]])
    tokenizer = FeatureTokenizer(categorical_features=[0])
    expected = tokenizer.fit_transform(X)
    for fitted in (X, X.astype(float), X.tolist(), pd.DataFrame(X), pl.DataFrame(X)):
        tokenizer.fit(fitted)
        for other in (X, X.astype(np.float32), X.tolist()):
            assert_array_equal(tokenizer.transform(other), expected)


def test_a_list_of_mixed_rows_keeps_numbers_and_categories_apart():
    rows = [[1.5, "a", 1], [2.5, "b", 10], [3.5, None, 2]]
    tokenizer = FeatureTokenizer(categorical_features=[1, 2], missing="mask")
    tokens = tokenizer.fit_transform(rows)
    # as numbers, 2 comes before 10; as strings it would not
    assert tokenizer.encoder_.categories_[1].tolist() == [1, 2, 10]
    assert_array_equal(tokens[:, 0, 0], [1.5, 2.5, 3.5])
    assert_array_equal(is_masked(tokens)[:, 1], [False, False, True])


@pytest.mark.parametrize("none", [None, [], [False, False]])
def test_without_categorical_features_every_column_is_a_number(none, rng):
    X = rng.normal(size=(4, 2))
    tokenizer = FeatureTokenizer(categorical_features=none)
    assert_array_equal(tokenizer.fit_transform(X), FeatureTokenizer().fit_transform(X))


@pytest.mark.parametrize("encoding", ["scale", "append"])
def test_a_missing_value_is_a_token_that_is_not_there(encoding):
    X = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, 4.0]])
    tokenizer = FeatureTokenizer(encoding=encoding, missing="mask")
    tokens = tokenizer.fit_transform(X)
    assert_array_equal(is_masked(tokens), np.isnan(X))
    assert not np.isnan(tokens[~np.isnan(X)]).any()
    assert_array_equal(tokens[2], clone(tokenizer).fit_transform(X[2:])[0])


def test_missing_values_are_errors_unless_they_are_to_be_masked(people):
    with pytest.raises(ValueError, match="Input X contains NaN"):
        FeatureTokenizer().fit([[1.0, np.nan]])
    with pytest.raises(ValueError, match="a category of 'city' is missing"):
        FeatureTokenizer(categorical_features=["city"]).fit(people.drop(columns="age"))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        FeatureTokenizer(categorical_features=["city"]).fit(people)


def test_a_feature_that_fit_never_saw_has_no_token():
    X = np.array([["a", None], ["b", None]], dtype=object)
    tokenizer = FeatureTokenizer(
        categorical_features=[0, 1], missing="mask", handle_unknown="mask"
    )
    assert_array_equal(is_masked(tokenizer.fit_transform(X)), [[False, True]] * 2)
    assert is_masked(tokenizer.transform([["a", "c"]]))[0, 1]


def test_an_unknown_category_is_an_error_or_a_token_that_is_not_there(people):
    fitted = people.iloc[[0, 3]]
    other = fitted.assign(city=["Paris", "Oslo"])
    tokenizer = FeatureTokenizer(categorical_features=["city"]).fit(fitted)
    with pytest.raises(ValueError, match="category 'Oslo' of 'city'"):
        tokenizer.transform(other)
    tokens = tokenizer.set_params(handle_unknown="mask").transform(other)
    assert_array_equal(is_masked(tokens), [[False] * 3, [False, True, False]])


def test_unknown_and_missing_categories_are_two_things(people):
    fitted = people.iloc[[0, 3]]
    columns = {"categorical_features": ["city"]}
    tokenizer = FeatureTokenizer(handle_unknown="mask", **columns).fit(fitted)
    with pytest.raises(ValueError, match="a category of 'city' is missing"):
        tokenizer.transform(fitted.assign(city=["Paris", None]))
    tokenizer = FeatureTokenizer(missing="mask", **columns).fit(fitted)
    with pytest.raises(ValueError, match="category 'Oslo'"):
        tokenizer.transform(fitted.assign(city=[None, "Oslo"]))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["town"], r"\['town'\], which X does not have; it has \['age', "),
        ([3], r"\[3\], which X does not have"),
        ([-1], r"\[-1\], which X does not have"),
        ([True], "mask of shape"),
    ],
)
def test_categorical_features_that_are_not_there_are_refused(people, wanted, message):
    with pytest.raises(ValueError, match=message):
        FeatureTokenizer(categorical_features=wanted).fit(people)


def test_names_need_a_table_with_names():
    with pytest.raises(ValueError, match="it has 2 features without names"):
        FeatureTokenizer(categorical_features=["city"]).fit([[1.0, 2.0]])


def test_flat_tokens_say_what_each_column_means(people):
    tokenizer = FeatureTokenizer(
        categorical_features=["city"], missing="mask", encoding="append", flatten=True
    ).set_output(transform="pandas")
    flat = tokenizer.fit_transform(people.drop(columns="smokes"))
    assert flat.columns.tolist() == [
        "age__value",
        "age__is_age",
        "age__is_city_Paris",
        "age__is_city_Rome",
        "city__value",
        "city__is_age",
        "city__is_city_Paris",
        "city__is_city_Rome",
    ]
    assert_array_equal(flat["age__value"], people["age"])
    assert_array_equal(flat["city__is_city_Rome"], [0, np.nan, 1, 0])


def test_the_encoder_inside_ignores_the_global_output_setting(people):
    tokenizer = FeatureTokenizer(categorical_features=["city"], missing="mask")
    expected = tokenizer.fit_transform(people)
    with config_context(transform_output="pandas"):
        assert_array_equal(clone(tokenizer).fit_transform(people), expected)


# PatchTokenizer


def naive_starts(length, size, stride):
    starts = list(range(0, length - size + 1, stride))
    return starts if starts[-1] + size == length else [*starts, length - size]


def naive_patches(images, size, stride):
    """Cut patches by a loop over images, rows and columns."""
    height, width = images.shape[1:3]
    return np.array(
        [
            [
                image[top : top + size[0], left : left + size[1]].ravel()
                for top in naive_starts(height, size[0], stride[0])
                for left in naive_starts(width, size[1], stride[1])
            ]
            for image in images
        ]
    )


@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (7, 9, 3), (6, 6, 1)])
@pytest.mark.parametrize(
    ("size", "stride"), [(2, None), (3, None), (3, 2), ((4, 2), (1, 3)), (2, 4), (5, 1)]
)
def test_patches_are_those_of_a_naive_loop(rng, shape, size, stride):
    images = rng.normal(size=(3, *shape))
    tokenizer = PatchTokenizer(patch_size=size, stride=stride)
    pair = size if isinstance(size, tuple) else (size, size)
    stride = pair if stride is None else stride
    stride = stride if isinstance(stride, tuple) else (stride, stride)
    tokens = tokenizer.fit_transform(images)
    assert_array_equal(tokens, naive_patches(images, pair, stride))
    assert tokens.shape[1:] == (tokenizer.n_tokens_, tokenizer.n_token_features_)


@pytest.mark.parametrize("shape", [(6, 8), (7, 5, 3)])
def test_positions_lead_back_to_the_image(rng, shape):
    images = rng.normal(size=(2, *shape))
    tokenizer = PatchTokenizer(patch_size=(3, 2))
    tokens = tokenizer.fit_transform(images)
    for t, (top, left) in enumerate(tokenizer.positions_):
        patch = images[:, top : top + 3, left : left + 2]
        assert_array_equal(tokens[:, t].reshape(patch.shape), patch)
        assert tokenizer.token_names_[t] == f"patch_{top}_{left}"


@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (7, 9, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("flatten", [False, True])
def test_patches_go_back_into_the_same_images(rng, shape, stride, flatten):
    images = rng.normal(size=(3, *shape))
    tokenizer = PatchTokenizer(patch_size=3, stride=stride, flatten=flatten)
    back = tokenizer.inverse_transform(tokenizer.fit_transform(images))
    # a pixel is the mean of at most 9 equal numbers: a few units in the last place
    assert_allclose(back, images, rtol=1e-15 * 9, atol=0)
    rows = images.reshape(3, -1)
    tokenizer.set_params(image_shape=shape)
    back = tokenizer.inverse_transform(tokenizer.fit_transform(rows))
    assert_allclose(back, rows, rtol=1e-15 * 9, atol=0)


def test_pixels_that_no_patch_covers_come_back_as_nan(rng):
    images = rng.normal(size=(1, 7, 7))
    tokenizer = PatchTokenizer(patch_size=1, stride=3)
    back = tokenizer.inverse_transform(tokenizer.fit_transform(images))
    assert_array_equal(back[:, ::3, ::3], images[:, ::3, ::3])
    assert np.isnan(back).sum() == 49 - 9


def test_overlapping_patches_are_averaged():
    tokenizer = PatchTokenizer(patch_size=(1, 2), stride=1).fit(np.zeros((1, 1, 3)))
    back = tokenizer.inverse_transform([[[1.0, 2.0], [4.0, 8.0]]])
    assert_array_equal(back, [[[1.0, 3.0, 8.0]]])


def test_images_and_rows_of_pixels_give_the_same_patches(rng):
    images = rng.normal(size=(4, 6, 8, 3))
    rows = images.reshape(4, -1)
    of_rows = PatchTokenizer(image_shape=(6, 8, 3)).fit(rows)
    of_images = PatchTokenizer().fit(images)
    assert_array_equal(of_rows.transform(rows), of_images.transform(images))
    assert_array_equal(of_rows.transform(images), of_images.transform(rows))
    assert of_rows.n_features_in_ == of_images.n_features_in_ == 6 * 8 * 3
    of_list = PatchTokenizer().fit_transform(list(images))
    assert_array_equal(of_list, of_images.transform(images))


def test_a_row_without_image_shape_is_an_image_of_height_1(rng):
    tokenizer = PatchTokenizer().fit(rng.normal(size=(4, 16)))
    assert tokenizer.image_shape_ == (1, 16, 1)
    assert tokenizer.patch_shape_ == (1, 4)


@pytest.mark.parametrize(
    ("side", "size"), [(1, 1), (3, 1), (8, 2), (28, 4), (32, 4), (224, 8), (480, 16)]
)
def test_auto_is_the_largest_power_of_two_below_the_root(side, size):
    assert PatchTokenizer().fit(np.zeros((1, side, 1))).patch_shape_ == (size, 1)
    assert WindowTokenizer().fit(np.zeros((1, side))).window_ == size


@pytest.mark.parametrize(
    ("params", "shape", "message"),
    [
        ({"patch_size": 4}, (3, 5), "4 x 4 pixels does not fit into an image of 3 x 5"),
        ({"patch_size": 2}, (6,), "image of 1 x 6.*give image_shape"),
        ({"patch_size": (1, 2, 3)}, (3, 5), r"patch_size=\(1, 2, 3\) must be"),
        ({"patch_size": (1, 0)}, (3, 5), r"patch_size=\(1, 0\) must be"),
        ({"stride": (1,)}, (3, 5), r"stride=\(1,\) must be"),
        ({"image_shape": (3, 4)}, (13,), "12 values, but X has 13 features"),
        (
            {"image_shape": (3, 4)},
            (4, 3),
            r"4 x 3, which is not the image_shape=\(3, 4",
        ),
        ({"image_shape": (12,)}, (12,), r"must be \(height, width\)"),
        ({}, (2, 3, 4, 5), "3-D with channels last"),
        ({}, (0, 3), "there is nothing in a sample"),
    ],
)
def test_images_and_patches_that_do_not_fit_are_refused(params, shape, message):
    with pytest.raises(ValueError, match=message):
        PatchTokenizer(**params).fit(np.zeros((2, *shape)))


def test_after_fit_images_have_the_fitted_shape(rng):
    tokenizer = PatchTokenizer().fit(rng.normal(size=(2, 4, 6)))
    with pytest.raises(ValueError, match=r"6 x 4, but .* fitted with images of 4 x 6"):
        tokenizer.transform(rng.normal(size=(2, 6, 4)))
    with pytest.raises(ValueError, match="expecting 24 features"):
        tokenizer.transform(rng.normal(size=(2, 20)))
    with pytest.raises(ValueError, match=r"20 values .* 6 patches of 4 values"):
        tokenizer.inverse_transform(rng.normal(size=(2, 20)))
    with pytest.raises(ValueError, match=r"shapes \[\(3, 3\), \(3, 4\)\]"):
        tokenizer.fit([np.zeros((3, 3)), np.zeros((3, 4))])


# WindowTokenizer


def naive_windows(one, window, stride):
    """Cut windows from one series by a loop."""
    return np.array(
        [one[s : s + window].ravel() for s in naive_starts(len(one), window, stride)]
    )


@pytest.mark.parametrize("n_timesteps", [4, 7, 12])
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize(
    ("window", "stride"), [(1, 1), (3, None), (4, 1), (2, 5), (4, 3)]
)
def test_windows_are_those_of_a_naive_loop(
    rng, n_timesteps, n_channels, window, stride
):
    series = rng.normal(size=(3, n_timesteps, n_channels))
    tokenizer = WindowTokenizer(window=window, stride=stride)
    tokens = tokenizer.fit_transform(series)
    expected = [naive_windows(one, window, stride or window) for one in series]
    assert_array_equal(tokens, expected)
    assert tokens.shape[1:] == (tokenizer.n_tokens_, tokenizer.n_token_features_)
    starts = naive_starts(n_timesteps, window, stride or window)
    assert_array_equal(tokenizer.starts_, starts)
    assert tokenizer.token_names_ == [f"window_{start}" for start in starts]
    rows = series.reshape(3, -1)
    tokenizer.set_params(n_channels=n_channels)
    assert_array_equal(tokenizer.fit_transform(rows), expected)


@pytest.mark.parametrize(
    ("window", "stride"), [(1, 1), (3, None), (3, 1), (2, 5), (3, 2)]
)
@pytest.mark.parametrize("flatten", [False, True])
def test_each_series_has_the_windows_of_its_own_length(rng, window, stride, flatten):
    series = [rng.normal(size=(length, 2)) for length in (3, 11, 4, 5, 11, 8)]
    tokenizer = WindowTokenizer(window=window, stride=stride, flatten=flatten)
    tokens = tokenizer.fit_transform(series).reshape(6, -1, 2 * window)
    for one, row in zip(series, tokens):
        expected = naive_windows(one, window, stride or window)
        assert_array_equal(row[: len(expected)], expected)
        assert np.isnan(row[len(expected) :]).all()
    padded = pad_sequences(series)
    assert_array_equal(tokenizer.transform(padded).reshape(tokens.shape), tokens)
    assert_array_equal(
        tokenizer.transform(padded.reshape(6, -1)).ravel(), tokens.ravel()
    )


def test_longer_series_than_those_of_fit_have_more_windows(rng):
    tokenizer = WindowTokenizer(window=2).fit(rng.normal(size=(3, 6, 2)))
    longer = rng.normal(size=(3, 9, 2))
    expected = [naive_windows(one, 2, 2) for one in longer]
    assert_array_equal(tokenizer.transform(longer), expected)
    assert_array_equal(tokenizer.transform(list(longer)), expected)


def test_a_list_is_padded_to_the_length_of_fit(rng):
    tokenizer = WindowTokenizer(window=2).fit(rng.normal(size=(3, 6, 2)))
    tokens = tokenizer.transform([rng.normal(size=(4, 2)), rng.normal(size=(2, 2))])
    masked = [[False, False, True], [False, True, True]]
    assert_array_equal(is_masked(tokens), masked)


@pytest.mark.parametrize("length", [5, 7])
def test_flat_windows_need_series_of_the_fitted_length(rng, length):
    tokenizer = WindowTokenizer(flatten=True).fit(rng.normal(size=(3, 6, 2)))
    with pytest.raises(ValueError, match=r"those of shape \(6, 2\)"):
        tokenizer.transform(rng.normal(size=(3, length, 2)))


@pytest.mark.parametrize(
    ("params", "X", "message"),
    [
        ({"window": 4}, np.zeros((2, 3)), "4 time points does not fit into series 0"),
        (
            {"window": 3},
            [np.zeros((3, 1)), np.zeros((2, 1))],
            "does not fit into series 1, which has 2",
        ),
        ({"n_channels": 3}, np.zeros((2, 4)), "do not split into .* n_channels=3"),
        ({"n_channels": 3}, np.zeros((2, 4, 2)), r"wanted is \(n_timesteps, 3\)"),
        ({}, np.zeros((2, 4, 2, 2)), r"wanted is \(n_timesteps, n_channels\)"),
        ({}, [[1.0, np.nan, 3.0]], "NaN at time point 1 of series 0"),
        ({"window": 1}, [[[1, np.nan], [2, 3]]], "NaN at time point 0 of series 0"),
    ],
)
def test_series_and_windows_that_do_not_fit_are_refused(params, X, message):
    with pytest.raises(ValueError, match=message):
        WindowTokenizer(**params).fit(X)


def test_after_fit_series_have_the_fitted_channels(rng):
    tokenizer = WindowTokenizer().fit(rng.normal(size=(2, 6, 2)))
    with pytest.raises(ValueError, match=r"those of shape \(n_timesteps, 2\)"):
        tokenizer.transform(rng.normal(size=(2, 6, 3)))


# All of them


@pytest.mark.parametrize("Tokenizer", TOKENIZERS)
def test_flat_tokens_are_the_tokens_laid_end_to_end(Tokenizer, rng):
    X = rng.normal(size=(4, 6))
    tokens = Tokenizer().fit_transform(X)
    flat = Tokenizer(flatten=True).fit_transform(X)
    assert_array_equal(flat, tokens.reshape(4, -1))


@pytest.mark.parametrize("Tokenizer", TOKENIZERS)
def test_only_flat_output_has_names_and_a_container(Tokenizer, rng):
    X = pd.DataFrame(
        rng.normal(size=(4, 6)), columns=list("abcdef"), index=[3, 1, 4, 0]
    )
    structured = Tokenizer().fit(X)
    assert not hasattr(structured, "get_feature_names_out")
    assert not hasattr(structured, "set_output")
    with config_context(transform_output="pandas"):
        assert isinstance(structured.transform(X), np.ndarray)
    flat = Tokenizer(flatten=True).set_output(transform="pandas").fit(X)
    frame = flat.transform(X)
    assert_array_equal(frame.index, X.index)
    assert frame.columns.is_unique
    tokens, parts = zip(*(name.split("__") for name in frame.columns))
    assert list(dict.fromkeys(tokens)) == flat.token_names_
    # tokens of patches and windows hold the columns that they are named after
    for name, part in zip(frame.columns, parts):
        if part in X.columns:
            assert_array_equal(frame[name], X[part])


@pytest.mark.parametrize("Tokenizer", TOKENIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_float32_stays_and_everything_else_becomes_float64(Tokenizer, dtype):
    tokens = Tokenizer().fit_transform(np.ones((3, 4), dtype=dtype))
    assert tokens.dtype == ("float32" if dtype == "float32" else "float64")


def test_padded_windows_keep_float32():
    series = [np.ones((3, 1), dtype="float32"), np.ones((2, 1), dtype="float32")]
    assert WindowTokenizer(window=1).fit_transform(series).dtype == "float32"


CASES = [
    (FeatureTokenizer(), np.arange(12.0).reshape(3, 4)),
    (FeatureTokenizer(encoding="append", missing="mask"), np.array([[1, np.nan]])),
    (FeatureTokenizer(categorical_features=[0]), np.arange(12.0).reshape(3, 4)),
    (PatchTokenizer(patch_size=2, stride=1), np.arange(72.0).reshape(2, 4, 3, 3)),
    (WindowTokenizer(window=2), np.arange(30.0).reshape(2, 5, 3)),
    (WindowTokenizer(window=2), pad_sequences([np.ones((2, 1)), np.zeros((5, 1))])),
]


@pytest.mark.parametrize("namespace", [torch, array_api_strict])
@pytest.mark.parametrize(("tokenizer", "X"), CASES)
@pytest.mark.parametrize("flatten", [False, True])
def test_under_dispatch_tokens_come_in_the_namespace_of_X(
    tokenizer, X, namespace, flatten
):
    tokenizer = clone(tokenizer).set_params(flatten=flatten)
    expected = tokenizer.fit_transform(X)
    with config_context(array_api_dispatch=True):
        tokens = tokenizer.fit_transform(namespace.asarray(X))
    assert isinstance(tokens, type(namespace.asarray(X)))
    assert_array_equal(np.asarray(tokens), expected)


def test_under_dispatch_patches_go_back_into_tensors():
    images = torch.arange(24.0).reshape(2, 4, 3)
    tokenizer = PatchTokenizer(patch_size=2, stride=1)
    with config_context(array_api_dispatch=True):
        back = tokenizer.inverse_transform(tokenizer.fit_transform(images))
    assert isinstance(back, torch.Tensor)
    # the mean of four equal float32 numbers, rounded
    assert_allclose(back.numpy(), images.numpy(), rtol=1e-6)


@pytest.mark.parametrize(("tokenizer", "X"), CASES)
def test_without_dispatch_tensors_give_arrays(tokenizer, X):
    tokens = clone(tokenizer).fit_transform(torch.from_numpy(X))
    assert isinstance(tokens, np.ndarray)
    assert_array_equal(tokens, clone(tokenizer).fit_transform(X))


@pytest.mark.parametrize(("tokenizer", "X"), CASES)
def test_a_failed_fit_leaves_the_tokenizer_as_it_was(tokenizer, X):
    tokenizer = clone(tokenizer).fit(X)
    expected = tokenizer.transform(X)
    before = vars(tokenizer).copy()
    with pytest.raises(ValueError, match="infinity"):
        tokenizer.fit(np.full((2, 3), np.inf))
    assert vars(tokenizer) == before
    assert_array_equal(tokenizer.transform(X), expected)


@pytest.mark.parametrize(("tokenizer", "X"), CASES)
def test_a_pickle_gives_the_same_tokens_and_knows_its_version(
    tokenizer, X, monkeypatch
):
    tokenizer = clone(tokenizer).fit(X)
    stored = pickle.dumps(tokenizer)
    assert_array_equal(pickle.loads(stored).transform(X), tokenizer.transform(X))
    monkeypatch.setattr("sklearn_attn.__version__", "99.0")
    with pytest.warns(InconsistentVersionWarning, match=type(tokenizer).__name__):
        pickle.loads(stored)


def test_a_tokenizer_fitted_on_tensors_serves_arrays_after_dispatch(rng):
    X = rng.normal(size=(3, 4))
    for Tokenizer in TOKENIZERS:
        with config_context(array_api_dispatch=True):
            tokenizer = Tokenizer().fit(torch.from_numpy(X))
        assert_array_equal(tokenizer.transform(X), Tokenizer().fit_transform(X))


def test_a_search_tunes_the_tokenizer_inside_a_pipeline():
    X, y = load_iris(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    pipeline = make_pipeline(
        FeatureTokenizer(), MeanPool(), LogisticRegression(C=1e3, max_iter=10_000)
    )
    grid = {"featuretokenizer__encoding": ["scale", "append"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X_train, y_train)
    # the mean of appended tokens is the mean of the row: three species need more
    assert search.best_params_ == {"featuretokenizer__encoding": "scale"}
    assert search.score(X_test, y_test) > 0.9


def test_the_public_names_are_these():
    names = ["FeatureTokenizer", "PatchTokenizer", "WindowTokenizer", "pad_sequences"]
    assert sorted(preprocessing.__all__) == names


@pytest.mark.parametrize("Tokenizer", TOKENIZERS)
def test_the_html_representation_links_to_the_page_of_the_class(Tokenizer):
    page = f"sklearn_attn.preprocessing.{Tokenizer.__name__}.html"
    assert page in Tokenizer()._repr_html_()
