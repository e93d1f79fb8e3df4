"""f^Alg_S(x) = TF(S, x) for one table S, whatever its size  (2301.07067, section 2).

A table is shown to the weights as one or several prompts: its rows in chunks, its
columns in some order, signs changed, or projected. What they answer is averaged.
"""

import math
import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial.distance import cdist

# Bytes that the scores and hidden units of queries may take at a time.
_CHUNK_BYTES = 32 * 2**20
# Bytes that reading the contexts of several outputs may take at a time.
_CONTEXT_BYTES = 128 * 2**20
# Deviations beyond which a query is not told from one there: numbers stay finite.
FARTHEST = 1e9
# Queries at a time at most: beyond, larger products are no faster.
_MOST_QUERIES = 2048


@dataclass(frozen=True)
class Units:
    """Standard units: features (x - mean) / scale, those that vary; the same for y."""

    x_mean: np.ndarray
    x_scale: np.ndarray
    y_mean: np.ndarray
    y_scale: np.ndarray
    varies: np.ndarray

    @classmethod
    def of(cls, X, Y, standardize):
        """Return the units of rows X (n, d) and targets Y (n, m)."""
        if standardize:
            x_mean, x_scale = _mean_and_scale(X)
            y_mean, y_scale = _mean_and_scale(Y)
        else:
            x_mean, x_scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
            y_mean, y_scale = np.zeros(Y.shape[1]), np.ones(Y.shape[1])
        varies = _ranges(X) > 0 if standardize else np.ones(X.shape[1], dtype=bool)
        return cls(x_mean, x_scale, y_mean, y_scale, varies)

    def features(self, X):
        """Return the features that vary, in these units."""
        keep = self.varies
        return _standard(X[:, keep], self.x_mean[keep], self.x_scale[keep])

    def targets(self, Y):
        """Return targets in these units."""
        return _standard(Y, self.y_mean, self.y_scale)


@dataclass(frozen=True)
class Member:
    """One prompt: which rows it shows, and how features are turned for it."""

    rows: np.ndarray
    turn: np.ndarray | None

    def see(self, Z):
        """Return features as the prompt shows them."""
        return Z if self.turn is None else Z @ self.turn


@dataclass(frozen=True, eq=False)
class Context:
    """A table that weights have read; its keys and values are made when first needed.

    Attributes
    ----------
    weights : PretrainedICL
        The weights.
    X : ndarray of shape (n, d)
        Rows.
    Y : ndarray of shape (n, m)
        Targets; those of a constant column are not asked for.
    units : Units
        In which the weights read them.
    members : list of Member
        The prompts.
    noise : float or None
        Standard deviation of the noise in Y.
    nearest : int or None
        Show each query so many rows that are near to it, in place of `members`' rows.
    keeps : bool
        Whether keys and values are kept from one call to the next.
    """

    weights: object
    X: np.ndarray
    Y: np.ndarray
    units: Units
    members: list
    noise: float | None = None
    nearest: int | None = None
    keeps: bool = True
    _kept: dict = field(default_factory=dict, repr=False)
    _lock: object = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self):
        state = dict(vars(self))
        del state["_kept"], state["_lock"]
        return state

    def __setstate__(self, state):
        vars(self).update(state, _kept={}, _lock=threading.Lock())

    def answer(self, X, *, device, dtype, batch_size="auto"):
        """Return means and deviations (q, m) for rows X (q, d), in units of Y."""
        constant = _ranges(self.Y) == 0
        q, m = len(X), self.Y.shape[1]
        mean, std = np.repeat(self.Y[:1], q, 0), np.zeros((q, m))
        asks = np.flatnonzero(~constant)
        if not len(asks) or not self.units.varies.any():
            if len(asks):  # no feature tells rows apart
                mean[:, asks] = self.Y[:, asks].mean(0)
                std[:, asks] = self.Y[:, asks].std(0)
            return mean, std
        Z = self.units.features(X)
        if self.nearest is None:  # or distances would tie
            Z = Z.clip(-FARTHEST, FARTHEST)
        module = self.weights.module(device, dtype)
        for block in self._blocks(asks, dtype):
            total = np.zeros((2, q, len(block)))
            for i, member in enumerate(self.members):
                found = self._ask(
                    module, i, member, Z, block, device, dtype, batch_size
                )
                total[0] += found[0]
                total[1] += found[1] ** 2 + found[0] ** 2
            first, second = total / len(self.members)
            scale, shift = self.units.y_scale[block], self.units.y_mean[block]
            mean[:, block] = first * scale + shift
            std[:, block] = np.sqrt(np.maximum(second - first**2, 0)) * scale
        return mean, std

    def read(self, *, device, dtype):
        """Make keys and values of all prompts now."""
        asks = np.flatnonzero(_ranges(self.Y) > 0)
        if self.nearest is not None or not len(asks) or not self.units.varies.any():
            return
        module = self.weights.module(device, dtype)
        for block in self._blocks(asks, dtype):
            for i, member in enumerate(self.members):
                self._cache(module, i, member, block, device, dtype)

    def _blocks(self, asks, dtype):
        """Split the outputs, so that contexts of many of them fit into memory."""
        n = max(len(member.rows) for member in self.members)
        config = self.weights.config
        size = 4 if dtype == torch.float32 else 8
        numbers = n * (config["n_heads"] * n + 8 * config["width"])
        step = int(max(1, _CONTEXT_BYTES // (size * numbers)))
        return np.split(asks, range(step, len(asks), step))

    def _ask(self, module, i, member, Z, asks, device, dtype, batch_size):
        """Ask one prompt, in chunks of queries: means and deviations (q, m)."""
        n_rows = len(member.rows) if self.nearest is None else self.nearest
        step = self._n_queries(n_rows, len(asks), dtype, batch_size)
        if self.nearest is None:
            cache = self._cache(module, i, member, asks, device, dtype)
        # one block for all: many small ones would keep large ones from being freed
        found = np.empty((2, len(Z), len(asks)))
        for start in range(0, len(Z), step):
            z = member.see(Z[start : start + step])
            if self.nearest is not None:
                answer = self._ask_near(module, member, z, asks, device, dtype)
            else:
                x = torch.as_tensor(z, dtype=dtype, device=device)
                with torch.inference_mode():
                    answer = module(x.expand(len(asks), *x.shape), cache)
                answer = [part.T for part in answer]
            for whole, part in zip(found, answer):
                whole[start : start + step] = part.cpu().numpy()
        return found

    def _cache(self, module, i, member, asks, device, dtype):
        """Return what queries need of a prompt, of all targets at once."""
        key = (i, int(asks[0]), str(device), dtype)
        with self._lock:  # or two threads would make it twice
            if key in self._kept:
                return self._kept[key]
            z = member.see(self.units.features(self.X[member.rows]))
            t = self.units.targets(self.Y[member.rows])[:, asks]
            x, y = (torch.as_tensor(a, dtype=dtype, device=device) for a in (z, t.T))
            x = x.expand(len(asks), *x.shape)
            with torch.inference_mode():
                cache = module.context(x, y, self._noise(asks, y))
            if self.keeps:
                self._kept[key] = cache
            return cache

    def _ask_near(self, module, member, z, asks, device, dtype):
        """Show each query the rows next to it, and ask for it alone."""
        table = member.see(self.units.features(self.X))
        T = self.units.targets(self.Y)[:, asks]
        # each pair by itself: a product of matrices rounds by what else is in it
        square = cdist(z, table, "sqeuclidean")
        near = np.argsort(square, axis=1, kind="stable")[:, : self.nearest]
        near.sort(axis=1)
        x = torch.as_tensor(table[near], dtype=dtype, device=device)  # (q, k, d')
        y = torch.as_tensor(T[near], dtype=dtype, device=device)  # (q, k, m)
        ask = torch.as_tensor(z, dtype=dtype, device=device)[:, None]
        means, deviations = [], []
        for j in range(len(asks)):
            noise = self._noise(asks[[j]], y)
            noise = None if noise is None else noise.expand(len(x))
            with torch.inference_mode():
                mean, std = module(ask, module.context(x, y[..., j], noise))
            means.append(mean)
            deviations.append(std)
        return torch.cat(means, 1), torch.cat(deviations, 1)

    def _noise(self, asks, like):
        if self.noise is None:
            return None
        noise = self.noise / self.units.y_scale[asks]
        return torch.as_tensor(noise, dtype=like.dtype, device=like.device)

    def _n_queries(self, n_rows, n_outputs, dtype, batch_size):
        """Return how many queries are asked at a time."""
        if batch_size != "auto":
            return batch_size
        width = self.weights.config["width"]
        n_heads = self.weights.config["n_heads"]
        numbers = n_heads * (n_rows + 1) + 8 * width
        if self.nearest is not None or self.weights.form == "examples":
            # each query brings keys and values of its own
            numbers += 8 * n_rows * width * self.weights.config["n_layers"]
        if self.nearest is not None:
            numbers += 4 * len(self.X)  # distances, and their order
        size = 4 if dtype == torch.float32 else 8
        step = _CHUNK_BYTES // (size * numbers * max(1, n_outputs))
        return int(min(_MOST_QUERIES, max(1, step)))


def plan_rows(n_rows, limit, strategy, rng):
    """Return the rows of each prompt: all of them, disjoint chunks, or a sample."""
    if n_rows <= limit or strategy == "nearest":
        return [np.arange(n_rows)]
    order = rng.permutation(n_rows)
    if strategy == "subsample":
        return [np.sort(order[:limit])]
    n_chunks = math.ceil(n_rows / limit)
    return [np.sort(chunk) for chunk in np.array_split(order, n_chunks)]


def plan_turns(Z, T, limit, strategy, n_estimators, rng):
    """Return matrices (d, d') that turn features for each of `n_estimators` prompts.

    The first one leaves features as they are, if there are not too many; the others
    permute them and change signs, which no prior here cares about, but weights do.
    """
    d = Z.shape[1]
    if d > limit and strategy == "pca":
        _, s, V = np.linalg.svd(Z, full_matrices=False)
        # directions of no variance are arbitrary, and so are signs: the largest entry
        # of a component is positive
        V = V[s > max(Z.shape) * np.finfo(s.dtype).eps * s[0]][:limit]
        signs = np.sign(V[np.arange(len(V)), np.abs(V).argmax(1)])
        base, width = V.T * signs, len(V)
    elif d > limit and strategy == "select":
        told = np.abs(Z.T @ T).max(1)
        kept = np.sort(np.argsort(-told, kind="stable")[:limit])
        base, width = np.eye(d)[:, kept], limit
    else:
        base, width = None, d
    turns = []
    for i in range(n_estimators):
        if d > limit and strategy == "project":
            turns.append(rng.standard_normal((d, limit)) / math.sqrt(d))
            continue
        if i == 0:
            turns.append(base)
            continue
        turn = np.eye(width)[:, rng.permutation(width)] * rng.choice([-1.0, 1.0], width)
        turns.append(turn if base is None else base @ turn)
    return turns


def _ranges(A):
    return 0.5 * A.max(0) - 0.5 * A.min(0)  # no difference of two large numbers


def _standard(A, mean, scale):
    """Return (A - mean) / scale, also where the difference is beyond all numbers."""
    with np.errstate(over="ignore"):  # infinity is cut to `FARTHEST`
        return 2 * ((0.5 * A - 0.5 * mean) / scale)


def _mean_and_scale(A):
    """Return means and deviations of columns; 1 for those that are constant."""
    low = A.min(0)
    half = 0.5 * low + 0.5 * A.max(0)  # no sum of two large numbers
    size = np.abs(A - half).max(0)
    size = np.where(size > 0, size, 1.0)
    z = (A - half) / size  # within -1 and 1, whatever the units and offsets
    mean = z.mean(0)
    scale = np.sqrt(np.square(z - mean).mean(0))
    constant = A.max(0) == low
    scale = np.where(constant | (scale == 0), 1.0 / size, scale)
    return np.where(constant, low, half + mean * size), scale * size
