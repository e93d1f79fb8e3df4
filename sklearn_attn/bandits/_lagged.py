"""Contexts with their past: row t of Xi is [x_t, x_{t-1}, .., x_{t-h+1}]  (2302.00814).

Xi has one column for each lag and feature, and is never formed: it is a block Toeplitz
matrix, so that products with it are convolutions, done by FFT. Before the series are
zeros; what is between two trajectories is laid out by the caller.
"""

import numpy as np
import torch
from scipy.fft import next_fast_len

# Spectra are kept from pass to pass up to so many bytes; beyond, they are made again
# for one chunk of rounds after the other.
KEPT_BYTES = 256 * 2**20
# Chunks are so many horizons long: of n + h numbers that are transformed, n are of use.
HORIZONS_PER_CHUNK = 8
# Numbers of the columns of Xi that are held at once.
BLOCK_NUMBERS = 2_000_000


def lay_out(codes, gap):
    """Return the place of each round in one long series, and the series' length.

    Before every trajectory are `gap` empty places, so that no lag reaches from one into
    the one before.
    """
    order = np.argsort(codes, kind="stable")
    _, rank = np.unique(codes, return_inverse=True)
    places = np.empty(len(codes), dtype=np.int64)
    places[order] = np.arange(len(codes)) + gap * (1 + rank[order])
    return places, int(places.max(initial=gap - 1)) + 1


class LaggedContexts:
    """The matrix Xi of a series of contexts, as an operator.

    Parameters
    ----------
    x : torch.Tensor of shape (n, d)
        The contexts, one place of the series a row.
    horizon : int
        Number of lags h, the present included.
    chunk_size : int or None
        Places that are transformed at once. None takes all if their spectra fit into
        memory.
    """

    def __init__(self, x, horizon, *, chunk_size=None):
        n, d = x.shape
        self.n, self.d, self.horizon = n, d, horizon
        # zeros for the time before the first round; a feature's past lies in one piece
        self.series = x.new_zeros(d, horizon - 1 + n)
        self.series[:, horizon - 1 :] = x.T
        n_numbers = (n + horizon) * d  # complex numbers, half of which are redundant
        keep = n_numbers * x.element_size() <= KEPT_BYTES
        if chunk_size is None:
            chunk_size = n if keep else HORIZONS_PER_CHUNK * horizon
        self.chunk_size = min(chunk_size, n)
        self.n_fft = next_fast_len(self.chunk_size + horizon - 1, real=True)
        self._spectrum = self._transform(0) if self.chunk_size == n else None

    def forward(self, B):
        """Return Xi B: `sum_j <B_j, x_{t-j}>` for every t, of shape (n,)."""
        B_hat = torch.fft.rfft(B.T, self.n_fft)  # (d, n_freq)
        parts = []
        for first in range(0, self.n, self.chunk_size):
            y_hat = (self._spectrum_of(first) * B_hat).sum(0)
            past = self.horizon - 1
            last = min(first + self.chunk_size, self.n) - first + past
            parts.append(torch.fft.irfft(y_hat, self.n_fft)[past:last])
        return torch.cat(parts)

    def adjoint(self, r):
        """Return Xi' r: `sum_t r_t x_{t-j}` for every lag j, of shape (h, d)."""
        total = 0.0
        padded = r.new_zeros(self.n_fft)
        past = self.horizon - 1
        for first in range(0, self.n, self.chunk_size):
            here = r[first : first + self.chunk_size]
            padded.zero_()
            padded[past : past + len(here)] = here
            total = total + self._spectrum_of(first).conj() * torch.fft.rfft(padded)
        return torch.fft.irfft(total, self.n_fft)[:, : self.horizon].T

    def columns(self, lags, features, first, last):
        """Return columns of Xi, for the places from `first` to `last`, as rows."""
        windows = self.series.unfold(1, last - first, 1)
        return windows[features, self.horizon - 1 + first - lags]  # (c, last - first)

    def blocks(self, n_columns):
        """Yield places `(first, last)` at which columns do not take much memory."""
        step = max(1, BLOCK_NUMBERS // max(1, n_columns))
        for first in range(0, self.n, step):
            yield first, min(first + step, self.n)

    def products(self, pairs, n_new, weights):
        """Return products of the last `n_new` columns with all, and with weights.

        `pairs` is a pair of tensors (lags, features); `weights` has shape (n, k), and
        its last column says where columns count. One pass over the columns.
        """
        with_all = with_weights = 0.0
        for first, last in self.blocks(len(pairs[0])):
            Z = in_double(self.columns(*pairs, first, last))
            new, here = Z[-n_new:], in_double(weights[first:last])
            with_all = with_all + (new * here[:, -1]) @ Z.T
            with_weights = with_weights + new @ here
        return with_all, with_weights

    def combine(self, pairs, coef):
        """Return the columns' sum, weighted by coefficients, at every place."""
        parts = [
            coef @ self.columns(*pairs, first, last)
            for first, last in self.blocks(len(pairs[0]))
        ]
        return torch.cat(parts)

    def _spectrum_of(self, first):
        return self._transform(first) if self._spectrum is None else self._spectrum

    def _transform(self, first):
        """Transform a chunk of places, and the h - 1 before them."""
        last = first + self.chunk_size + self.horizon - 1
        return torch.fft.rfft(self.series[:, first:last], self.n_fft)


def in_double(tensor):
    """Return a tensor in double precision, where the device has it."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def as_array(tensor):
    """Return a tensor as a NumPy array in double precision."""
    return tensor.cpu().double().numpy()
