"""The operator of lagged contexts equals the matrix that it stands for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_attn.bandits._lagged import LaggedContexts, lay_out


def dense(x, horizon):
    """Xi, written out: (n, h, d)."""
    n, d = x.shape
    Xi = torch.zeros(n, horizon, d, dtype=x.dtype)
    for j in range(min(horizon, n)):
        Xi[j:, j] = x[: n - j]
    return Xi


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 40),
    horizon=st.integers(1, 30),
    d=st.integers(1, 4),
    chunk_size=st.one_of(st.none(), st.integers(1, 50)),
)
def test_products_equal_those_with_the_matrix(n, horizon, d, chunk_size):
    x, B, r = draw(n, d), draw(horizon, d, seed=1), draw(n, seed=2)
    Xi, contexts = dense(x, horizon), LaggedContexts(x, horizon, chunk_size=chunk_size)
    y, G = contexts.forward(B), contexts.adjoint(r)
    torch.testing.assert_close(y, torch.einsum("thd,hd->t", Xi, B), atol=1e-11, rtol=0)
    torch.testing.assert_close(G, torch.einsum("thd,t->hd", Xi, r), atol=1e-11, rtol=0)
    # <Xi B, r> = <B, Xi' r>
    assert float(y @ r) == pytest.approx(float((B * G).sum()), abs=1e-10)


def test_columns_and_their_products_are_those_of_the_matrix():
    x, counted = draw(30, 3), (draw(30, seed=3) > 0).double()
    Xi, contexts = dense(x, 7), LaggedContexts(x, 7)
    new = torch.tensor([0, 6, 3]), torch.tensor([2, 0, 1])
    old = torch.tensor([1]), torch.tensor([1])
    columns, other = Xi[:, *new].T, Xi[:, *old].T
    torch.testing.assert_close(contexts.columns(*new, 0, 30), columns)
    torch.testing.assert_close(contexts.columns(*new, 11, 17), columns[:, 11:17])
    pairs = tuple(torch.cat(parts) for parts in zip(old, new))
    everything = torch.cat([other, columns])
    weights = torch.stack([draw(30, seed=4), counted], dim=1)
    with_all, with_weights = contexts.products(pairs, 3, weights)
    torch.testing.assert_close(with_all, (columns * counted) @ everything.T)
    torch.testing.assert_close(with_weights, columns @ weights)
    coef = draw(3, seed=5)
    torch.testing.assert_close(contexts.combine(new, coef), coef @ columns)


def test_blocks_of_columns_change_nothing(monkeypatch):
    x, weights = draw(50, 2), torch.ones(50, 1).double()
    pairs = torch.tensor([0, 4, 2]), torch.tensor([1, 0, 0])
    contexts, coef = LaggedContexts(x, 6), draw(3, seed=1)
    whole = contexts.products(pairs, 2, weights)
    combined = contexts.combine(pairs, coef)
    monkeypatch.setattr("sklearn_attn.bandits._lagged.BLOCK_NUMBERS", 21)
    for part, expected in zip(contexts.products(pairs, 2, weights), whole):
        torch.testing.assert_close(part, expected)
    torch.testing.assert_close(contexts.combine(pairs, coef), combined)


def test_spectra_that_do_not_fit_into_memory_are_made_again(monkeypatch):
    x, B = draw(500, 2), draw(5, 2, seed=1)
    kept = LaggedContexts(x, 5)
    monkeypatch.setattr("sklearn_attn.bandits._lagged.KEPT_BYTES", 1000)
    chunked = LaggedContexts(x, 5)
    assert kept._spectrum is not None
    assert chunked._spectrum is None
    assert chunked.chunk_size == 40  # eight horizons
    torch.testing.assert_close(chunked.forward(B), kept.forward(B))


def test_trajectories_are_laid_out_with_a_gap_between_them():
    places, n = lay_out(np.array([1, 0, 1, 1, 0]), gap=4)
    # four empty places; trajectory 0; four empty places; trajectory 1
    assert places.tolist() == [10, 4, 11, 12, 5]
    assert n == 13


def test_no_lag_reaches_from_one_trajectory_into_another():
    codes = np.repeat([0, 1, 2], [9, 3, 12])
    x = draw(24, 2)
    places, n = lay_out(codes, gap=6)
    series = torch.zeros(n, 2, dtype=torch.float64)
    series[places] = x
    B = draw(7, 2, seed=1)
    together = LaggedContexts(series, 7).forward(B)[places]
    apart = [LaggedContexts(x[codes == code], 7).forward(B) for code in range(3)]
    torch.testing.assert_close(together, torch.cat(apart))


def test_single_precision_stays_single():
    x = draw(40, 2).float()
    contexts = LaggedContexts(x, 5)
    assert contexts.forward(draw(5, 2).float()).dtype == torch.float32
    assert contexts.adjoint(draw(40).float()).dtype == torch.float32
