"""Rounds played so far, in memory that grows by doubling."""

import numpy as np


class RoundLog:
    """Contexts chosen, rewards, and the trajectory of each; rows are only ever added.

    Adding returns another log, which shares the memory: whoever holds the old one still
    sees the rows that it had.

    Attributes
    ----------
    n : int
        Number of rounds.
    labels : tuple
        Names of the trajectories, in the order in which they began.
    """

    def __init__(self, store, n, labels):
        self._store, self.n, self.labels = store, n, labels

    @classmethod
    def empty(cls, n_features):
        return cls(_Store(n_features, 1), 0, ())

    @property
    def x(self):
        return self._store.x[: self.n]

    @property
    def y(self):
        return self._store.y[: self.n]

    @property
    def codes(self):
        return self._store.codes[: self.n]

    def add(self, x, y, *, labels=None, label=None):
        """Return a log with further rounds.

        `labels` names the trajectory of each round or, if it is None, `label` that of
        all.
        """
        codes = {name: code for code, name in enumerate(self.labels)}
        if labels is None:
            code = codes.setdefault(label, len(codes))
        else:
            code = [codes.setdefault(name, len(codes)) for name in labels]
        store, n = self._store, self.n + len(x)
        if store.used != self.n or n > len(store.y):
            store = _Store(self.x.shape[1], max(2 * self.n, n))
            rows = slice(0, self.n)
            store.x[rows], store.y[rows], store.codes[rows] = self.x, self.y, self.codes
        rows = slice(self.n, n)
        store.x[rows], store.y[rows], store.codes[rows] = x, y, code
        store.used = n
        return RoundLog(store, n, tuple(codes))

    def part(self, first, last):
        """Return contexts, rewards and trajectories of some rounds."""
        return self.x[first:last], self.y[first:last], self.codes[first:last]

    def tail(self, label, n):
        """Return the last contexts of a trajectory, at most n of them."""
        if label not in self.labels:
            return self.x[:0]
        rows = np.flatnonzero(self.codes == self.labels.index(label))
        return self.x[rows[max(0, len(rows) - n) :]]

    def __getstate__(self):
        return {
            "rows": tuple(part.copy() for part in (self.x, self.y, self.codes)),
            "labels": self.labels,
        }

    def __setstate__(self, state):
        x, y, codes = state["rows"]
        self._store = _Store(x.shape[1], max(1, len(x)))
        self.n, self.labels = len(x), state["labels"]
        self._store.used = self.n
        rows = slice(0, self.n)
        self._store.x[rows], self._store.y[rows], self._store.codes[rows] = x, y, codes


class _Store:
    """Memory for so many rounds, and how many of them are taken."""

    def __init__(self, n_features, size):
        self.x = np.empty((size, n_features))
        self.y = np.empty(size)
        self.codes = np.empty(size, dtype=np.int64)
        self.used = 0
