"""s^_l = f^Alg_{p_l}(s^_{l-1}),  y^ = s^_L:  three ways to learn a step from examples
(2305.18869).

Each chain has learned from one table with steps; it is asked for all steps of new rows.
"""

import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.linear_model import LinearRegression

from ._context import FARTHEST

# Bytes that the scores and hidden units of queries may take at a time.
_CHUNK_BYTES = 32 * 2**20
_MOST_QUERIES = 2048


@dataclass(frozen=True, eq=False)
class FilteredChain:
    """The filter made by hand: a context (s^{l-1}, s^l) for each step.

    Attributes
    ----------
    contexts : list of Context
        One for each step.
    """

    contexts: list

    def answer(self, X, given, **where):
        """Return answers for s^1, ..., s^L of rows X (q, d)."""
        state, found = X, []
        for step, context in enumerate(self.contexts):
            found.append(context.answer(state, **where)[0])
            state = given.get(step, found[-1])
        return found


@dataclass(frozen=True, eq=False)
class AttentionChain:
    """One network that has read examples with all of their steps.

    Attributes
    ----------
    weights : PretrainedICL
        Weights of chains.
    states : list of ndarray of shape (n, width)
        s^0, ..., s^L of the examples.
    units : Units
        In which inputs are read, and all later states, as one table of targets.
    members : list of Member
        The prompts to average over.
    mode : str
        "cot-io", "cot-i" or "icl".
    keeps : bool
        Whether keys and values are kept from one call to the next.
    """

    weights: object
    states: list
    units: object
    members: list
    mode: str = "cot-io"
    keeps: bool = True
    _kept: dict = field(default_factory=dict, repr=False)
    _lock: object = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self):
        state = dict(vars(self))
        del state["_kept"], state["_lock"]
        return state

    def __setstate__(self, state):
        vars(self).update(state, _kept={}, _lock=threading.Lock())

    def answer(self, X, given, *, device, dtype, batch_size="auto"):
        """Return answers for s^1, ..., s^L of rows X (q, d), or for s^L only."""
        widths = [state.shape[1] for state in self.states[1:]]
        places = np.split(np.arange(sum(widths)), np.cumsum(widths)[:-1])
        states = self.states[1:]
        if self.mode != "cot-io":
            places, states = places[-1:], states[-1:]
        found = [np.repeat(state.mean(0)[None], len(X), 0) for state in states]
        if self.units.varies.any():  # else no feature tells rows apart
            found = self._answer(X, given, places, device, dtype, batch_size)
        for answer, state in zip(found, states):
            constant = state.max(0) == state.min(0)
            answer[:, constant] = state[0, constant]
        return found

    def _answer(self, X, given, places, device, dtype, batch_size):
        Z = self.units.features(X).clip(-FARTHEST, FARTHEST)
        given = {step: self._target(a, places[step]) for step, a in given.items()}
        total = [np.zeros((len(X), len(place))) for place in places]
        size = self._n_queries(dtype, batch_size)
        for i in range(len(self.members)):
            cache = self._cache(i, device, dtype)
            for start in range(0, len(X), size):
                rows = slice(start, start + size)
                some = {step: a[rows] for step, a in given.items()}
                answers = self._ask(i, Z[rows], some, cache, device, dtype)
                for whole, part in zip(total, answers):
                    whole[rows] += part[0].cpu().numpy()
        scale, shift = self.units.y_scale, self.units.y_mean
        return [
            part / len(self.members) * scale[place] + shift[place]
            for part, place in zip(total, places)
        ]

    def read(self, *, device, dtype):
        """Make keys and values of all prompts now."""
        if self.units.varies.any():
            for i in range(len(self.members)):
                self._cache(i, device, dtype)

    def _ask(self, i, Z, given, cache, device, dtype):
        module = self.weights.module(device, dtype)

        def put(array):
            return torch.as_tensor(array, dtype=dtype, device=device)[None]

        x = put(self.members[i].see(Z))
        with torch.inference_mode():
            if self.mode == "cot-io":
                known = {step + 1: put(array) for step, array in given.items()}
                constants = [(put(c[None]), put(v[None])) for c, v in self._constants()]
                return module.rollout(x, cache, known, constants)[0]
            return [module.direct(x, cache)[0]]

    def _cache(self, i, device, dtype):
        """Return what queries need of a prompt."""
        key = (i, str(device), dtype)
        with self._lock:  # or two threads would make it twice
            if key in self._kept:
                return self._kept[key]
            member = self.members[i]
            z = member.see(self.units.features(self.states[0][member.rows]))
            later = np.hstack([state[member.rows] for state in self.states[1:]])
            later = self.units.targets(later)
            cuts = np.cumsum([state.shape[1] for state in self.states[1:-1]])
            states = [z, *np.split(later, cuts, axis=1)]
            with_steps = self.mode != "icl"
            if not with_steps:
                states = [states[0], states[-1]]
            states = [
                torch.as_tensor(s, dtype=dtype, device=device)[None] for s in states
            ]
            module = self.weights.module(device, dtype)
            with torch.inference_mode():
                cache = module.context(states, with_steps=with_steps)
            if self.keeps:
                self._kept[key] = cache
            return cache

    def _target(self, array, place):
        array = (array - self.units.y_mean[place]) / self.units.y_scale[place]
        return array.clip(-FARTHEST, FARTHEST)

    def _constants(self):
        """Return for each step which coordinates never change, and their values."""
        start, found = 0, []
        for state in self.states[1:]:
            place = np.arange(start, start := start + state.shape[1])
            constant = state.max(0) == state.min(0)
            found.append((constant.astype(float), self._target(state[0], place)))
        return found

    def _n_queries(self, dtype, batch_size):
        """Return how many queries are asked at a time."""
        if batch_size != "auto":
            return batch_size
        config = self.weights.config
        n_tokens = max(len(member.rows) for member in self.members)
        n_tokens *= config["depth"] + 1
        numbers = config["n_heads"] * n_tokens + 8 * config["width"]
        if self.weights.form == "causal-chain":
            # each query brings keys and values of its own
            numbers += 4 * n_tokens * config["width"] * config["n_layers"]
        size = 4 if dtype == torch.float32 else 8
        return int(min(_MOST_QUERIES, max(1, _CHUNK_BYTES // (size * numbers))))


@dataclass(frozen=True, eq=False)
class RegressorChain:
    """The construction: any regressor, fitted to each step by itself.

    Attributes
    ----------
    regressors : list
        For each step what was fitted: a :class:`RectifiedLinear`, or a list of
        regressors, one for each coordinate.
    """

    regressors: list

    def answer(self, X, given, **where):
        """Return answers for s^1, ..., s^L of rows X (q, d)."""
        state, found = X, []
        for step, regressors in enumerate(self.regressors):
            if isinstance(regressors, RectifiedLinear):
                answer = regressors.predict(state)
            else:  # copies, as not all regressors leave their input as it is
                columns = [np.ravel(r.predict(state.copy())) for r in regressors]
                answer = np.column_stack(columns).astype(np.float64)
            found.append(answer)
            state = given.get(step, answer)
        return found


@dataclass(frozen=True, eq=False)
class RectifiedLinear:
    """A step s = max(0, W x + b), or W x + b, by coordinates.

    Attributes
    ----------
    coef : ndarray of shape (k, d)
        W.
    intercept : ndarray of shape (k,)
        b.
    is_rectified : ndarray of bool of shape (k,)
        Whether a coordinate is cut at 0.
    """

    coef: np.ndarray
    intercept: np.ndarray
    is_rectified: np.ndarray

    def predict(self, X):
        """Return predictions (q, k)."""
        y = X @ self.coef.T + self.intercept
        return np.where(self.is_rectified, np.maximum(y, 0), y)


def rectified_least_squares(X, Y, *, fit_intercept, may_rectify=True):
    """Fit each coordinate of a step by least squares, on active rows if it is a ReLU.

    It may be one if it has zeros, is positive elsewhere, and nowhere negative. Then it
    is linear where it is positive; but that is kept only if it fits all rows at least
    as well as least squares does, which counts and indicators do not.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        States before the step.
    Y : ndarray of shape (n, k)
        States after it.
    fit_intercept : bool
        Whether there are constants.
    may_rectify : bool, default=True
        Whether ReLUs are looked for; the last step is linear.

    Returns
    -------
    RectifiedLinear
        The step.
    """
    n, d = X.shape
    coef, intercept = np.empty((Y.shape[1], d)), np.empty(Y.shape[1])
    is_rectified = may_rectify & (Y.min(0) == 0) & (Y.max(0) > 0)
    for j, y in enumerate(Y.T):
        plain = LinearRegression(fit_intercept=fit_intercept).fit(X, y)
        fitted = plain
        if is_rectified[j]:
            active = LinearRegression(fit_intercept=fit_intercept)
            active.fit(X[y > 0], y[y > 0])
            error = np.square(np.maximum(active.predict(X), 0) - y).sum()
            # so few rows are fitted exactly by anything
            is_rectified[j] = (
                n <= d + fit_intercept or error <= np.square(plain.predict(X) - y).sum()
            )
            fitted = active if is_rectified[j] else plain
        coef[j], intercept[j] = fitted.coef_, fitted.intercept_
    return RectifiedLinear(coef, intercept, is_rectified)
