"""The door for tokens."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator

from sklearn_attn._validation import check_tokens, check_weights, unharmed
from sklearn_attn.preprocessing import pad_sequences

strict = pytest.importorskip("array_api_strict")


class Door(BaseEstimator):
    """What the door needs of an estimator, and no more."""

    def __init__(self, *, n_tokens=1, device="cpu", dtype="auto"):
        self.n_tokens = n_tokens
        self.device = device
        self.dtype = dtype

    @unharmed
    def fit(self, X, y=None):
        self.touched_ = True
        self.tokens_, _ = check_tokens(self, X, y, reset=True)
        self.n_token_features_ = self.tokens_.values.shape[2]
        return self


X = np.arange(24.0).reshape(2, 3, 4)
y = np.array([0, 1])


@pytest.mark.parametrize(
    ("given", "n_tokens"),
    [
        (X, 1),
        (X.reshape(2, 12), 3),
        (pd.DataFrame(X.reshape(2, 12)), 3),
        (X.tolist(), 1),
        (list(X), 1),
        (np.array([X[0], X[1], None], dtype=object)[:2], 1),
        (torch.from_numpy(X), 1),
        (np.asfortranarray(X), 1),
    ],
    ids=["3-D", "rows", "frame", "lists", "sequences", "object", "tensor", "fortran"],
)
def test_every_form_of_tokens_becomes_the_same_tensor(given, n_tokens):
    tokens = Door(n_tokens=n_tokens).fit(given, y).tokens_
    np.testing.assert_array_equal(tokens.values.numpy(), X)
    assert tokens.mask is None


@pytest.mark.parametrize("namespace", [torch, strict])
def test_arrays_of_other_namespaces_pass_under_dispatch(namespace):
    with config_context(array_api_dispatch=True):
        door = Door().fit(namespace.asarray(X), namespace.asarray(y))
    np.testing.assert_array_equal(door.tokens_.values.numpy(), X)
    assert door.n_features_in_ == 12


def test_padding_becomes_a_mask_and_zeros():
    padded = X.copy()
    padded[1, 2] = np.nan
    tokens = Door().fit(padded, y).tokens_
    assert tokens.mask.tolist() == [[True] * 3, [True, True, False]]
    assert (tokens.values[1, 2] == 0).all()
    assert np.isnan(padded[1, 2]).all()  # the input is left as it was


def test_precision_follows_x_unless_told_otherwise():
    single = X.astype(np.float32)
    assert Door().fit(single, y).tokens_.values.dtype == torch.float32
    assert Door(dtype="float64").fit(single, y).tokens_.values.dtype == torch.float64
    assert Door().fit(X.astype(int), y).tokens_.values.dtype == torch.float64


def test_after_fit_the_width_of_a_token_counts_and_not_their_number():
    door = Door().fit(X, y)
    longer, _ = check_tokens(door, np.ones((5, 7, 4)), reset=False)
    assert longer.values.shape == (5, 7, 4)
    rows, _ = check_tokens(door, X.reshape(2, 12), reset=False)
    np.testing.assert_array_equal(rows.values.numpy(), X)
    with pytest.raises(ValueError, match="tokens of 3 features, but Door was fitted"):
        check_tokens(door, X[:, :, :3], reset=False)
    with pytest.raises(ValueError, match="X has 8 features, but Door is expecting 12"):
        check_tokens(door, X.reshape(2, 12)[:, :8], reset=False)


def test_a_failed_fit_restores_all_attributes():
    door = Door().fit(X, y)
    before = dict(vars(door))
    with pytest.raises(ValueError, match="infinity"):
        door.fit(np.full((2, 5), np.inf), y)
    assert vars(door) == before
    fresh = Door()
    with pytest.raises(ValueError, match="infinity"):
        fresh.fit(np.full((2, 5), np.inf), y)
    assert not hasattr(fresh, "touched_")


def test_weights_default_to_ones_and_are_checked():
    assert check_weights(None, 3).tolist() == [1, 1, 1]
    assert check_weights(torch.tensor([1, 0, 2]), 3).tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match="zero"):
        check_weights([0, 0], 2)
    with pytest.raises(ValueError, match="shape"):
        check_weights([1, 2, 3], 2)


def test_sequences_are_padded_to_the_longest_or_further():
    padded = pad_sequences([X[0], X[1, :1]])
    assert padded.shape == (2, 3, 4)
    np.testing.assert_array_equal(padded[0], X[0])
    assert np.isnan(padded[1, 1:]).all()
    assert pad_sequences([X[0]], n_tokens=5).shape == (1, 5, 4)
    frames = [pd.DataFrame(X[0]), torch.from_numpy(X[1])]
    np.testing.assert_array_equal(pad_sequences(frames), X)
    assert pad_sequences([X[0].astype(np.float32)]).dtype == np.float32


@pytest.mark.parametrize(
    ("sequences", "match"),
    [
        ([], "no sequence"),
        ([X[0], X[0, 0]], r"Sequence 1 has shape \(4,\)"),
        ([X[0, :0]], r"Sequence 0 has shape \(0, 4\)"),
        ([X[0], X[0, :, :2]], r"tokens of \[2, 4\] features"),
    ],
)
def test_sequences_that_do_not_fit_together_are_refused(sequences, match):
    with pytest.raises(ValueError, match=match):
        pad_sequences(sequences)


def test_a_sequence_longer_than_asked_for_is_refused():
    with pytest.raises(ValueError, match="3 tokens does not fit into n_tokens=2"):
        pad_sequences([X[0]], n_tokens=2)
