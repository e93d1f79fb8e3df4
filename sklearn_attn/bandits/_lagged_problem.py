"""The regression y = Xi phi + b + noise, in units in which contexts are white.

Contexts and rewards are centred: once a policy chooses, contexts point along theta on
average, and a model without the mean mistakes it for an effect of every lag.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import solve_toeplitz

from ._lagged import LaggedContexts, as_array, in_double, lay_out

# Directions of less variance, relative to the largest, carry rounding and nothing else,
# be it that of single precision.
RANK_TOLERANCE = 1e-10
# Contexts of zero are far from a game's if their squared distance from the mean is so
# many times that of a context. With a policy that chooses the best arm, it is less.
FAR = 2.0
# A feature is constant if it varies by less, relative to its size.
ROUNDING = 16 * np.finfo(float).eps
# A lag is tested once so many rows per feature have a context that long ago. With
# fewer, its statistic does not follow the chi-square law, and chance passes for effect.
ROWS_PER_FEATURE = 4


@dataclass(frozen=True)
class Series:
    """Rounds on one time axis, with empty places before each trajectory.

    Numbers are divided by the largest of their kind, so that squares are in range.

    Attributes
    ----------
    x : torch.Tensor of shape (n, d)
        Contexts less their mean; zero in empty places.
    y : torch.Tensor of shape (n,)
        Rewards less their mean; zero where there is none.
    exists : torch.Tensor of shape (n,)
        1 where there is a round.
    before : torch.Tensor of shape (n,) or None
        1 where no context was chosen, as is known: there x is that of zero.
    counted : torch.Tensor of shape (n,)
        1 where the reward is to be explained.
    nothing : torch.Tensor of shape (d,)
        The x of a context of zero.
    has_ramp : bool
        Whether a feature is constant from the first round of a game on, and was zero
        before: what it pays is not seen but in rewards that rise at first.
    x_mean, x_scale : ndarray of shape (d,)
        Mean of the contexts, and what they were divided by.
    y_mean, y_scale : float
        The same of the rewards that count.
    places : ndarray of int of shape (n_rounds,)
        Where each round is.
    """

    x: torch.Tensor
    y: torch.Tensor
    exists: torch.Tensor
    before: torch.Tensor | None
    counted: torch.Tensor
    nothing: torch.Tensor
    has_ramp: bool
    x_mean: np.ndarray
    x_scale: np.ndarray
    y_mean: float
    y_scale: float
    places: np.ndarray

    @classmethod
    def of(cls, X, y, codes, gap, *, centre, is_counted, like, from_nothing=()):
        """Lay arrays out as tensors; `like` has their device and dtype.

        `gap` empty places, at least, are before a trajectory. Those whose codes are in
        `from_nothing` have contexts of zero before their first round; what the others
        had is unknown, and counts as average.
        """
        places, n = lay_out(codes, gap)
        x_mean = X.mean(0) if centre else np.zeros(X.shape[1])
        y_mean = float(y[is_counted].mean()) if centre and is_counted.any() else 0.0
        x, r = X - x_mean, np.where(is_counted, y - y_mean, 0.0)
        if centre:  # the mean of equal numbers is not exact
            x[:, np.ptp(X, axis=0) <= ROUNDING * np.abs(X).max(0)] = 0.0
        x_scale, y_scale = _largest(x), float(_largest(r[:, None])[0])
        x_series, y_series = np.zeros((n, X.shape[1])), np.zeros(n)
        exists, counted, before = np.zeros(n), np.zeros(n), np.zeros(n)
        x_series[places], y_series[places] = x / x_scale, r / y_scale
        exists[places], counted[places] = 1.0, is_counted
        nothing = np.where(x.any(0), -x_mean, 0.0) / x_scale
        for code in from_nothing if nothing.any() else ():
            first = places[codes == code].min()
            x_series[first - gap : first] = nothing
            before[first - gap : first] = 1.0
        tensors = [
            torch.from_numpy(part).to(like)
            for part in (x_series, y_series, exists, before, counted, nothing)
        ]
        if not before.any():
            tensors[3] = None
        is_constant = ~x.any(0) & (x_mean != 0)
        has_ramp = len(from_nothing) > 0 and bool(is_constant.any())
        return cls(*tensors, has_ramp, x_mean, x_scale, y_mean, y_scale, places)

    @property
    def longest(self):
        """Rounds of the longest trajectory."""
        ends = np.flatnonzero(np.diff(np.append(as_array(self.exists), 0.0)) < 0)
        starts = np.flatnonzero(np.diff(np.insert(as_array(self.exists), 0, 0.0)) > 0)
        return int((ends - starts).max(initial=-1)) + 1

    def is_far_from_nothing(self):
        """Tell whether a game begins with a step that random contexts do not make."""
        if self.has_ramp or self.before is None:
            return self.has_ramp
        units = torch.as_tensor(whitening(self)).to(self.x)
        distance = float((self.nothing @ units).square().sum())
        return distance > FAR * max(1, units.shape[1])

    def with_past(self, n_lags):
        """Return the series with those rewards only that have so many contexts."""
        n_so_far = torch.nn.functional.pad(self.exists.cumsum(0), (n_lags, 0))
        has_past = n_so_far[n_lags:] - n_so_far[:-n_lags] >= n_lags - 0.5
        counted = self.counted * has_past
        return replace(self, y=counted * self.y, counted=counted)

    def whitened(self, order):
        """Filter contexts and rewards alike, so that contexts forget what was before.

        A linear filter in time commutes with the lags (Box and Jenkins, Time Series
        Analysis, ch. 11): the pattern is the same afterwards. Its coefficients are
        those of an autoregression of the contexts, by the equations of Yule and Walker.
        """
        white = self.exists[:, None] * self.x
        white = white @ torch.as_tensor(whitening(self), dtype=white.dtype).to(white)
        covariance = [
            float((white[k:] * white[: len(white) - k]).sum()) for k in range(order + 1)
        ]
        a = solve_toeplitz(covariance[:-1], covariance[1:])
        x, y, counted = self.x.clone(), self.y.clone(), self.counted.clone()
        for k, a_k in enumerate(a.tolist(), start=1):
            x[k:] -= a_k * self.x[:-k]
            y[k:] -= a_k * self.y[:-k]
            counted[k:] *= self.counted[:-k]
            counted[:k] = 0.0
        there = self.exists if self.before is None else self.exists + self.before
        y = counted * y
        y = counted * (y - y.sum() / counted.sum().clamp(min=1.0))
        nothing = (1 - float(a.sum())) * self.nothing
        return replace(
            self, x=x * there[:, None], y=y, counted=counted, nothing=nothing
        )


def _largest(x):
    """Return the largest size in each column, to a power of two; 1 for zeros."""
    size = np.abs(x).max(0, initial=0.0)
    return np.exp2(np.frexp(np.where(size > 0, size, 1.0))[1] - 1.0)


def second_moment(series):
    """Return the mean product of features over the rounds, as float64."""
    x = series.exists[:, None] * series.x
    x = in_double(x)
    return as_array(x.T @ x / float(series.exists.sum()))


def whitening(series):
    """Return the matrix (d, rank) that makes contexts white."""
    moment = second_moment(series)
    scale = np.sqrt(np.diag(moment))
    scale[scale == 0] = 1.0
    values, vectors = np.linalg.eigh(moment / np.outer(scale, scale))
    kept = values > RANK_TOLERANCE * max(1.0, values[-1])
    return vectors[:, kept] / np.sqrt(values[kept]) / scale[:, None]


def scaling(series):
    """Return the matrix (d, n_varying) that gives varying features variance one."""
    moment = np.diag(second_moment(series))
    kept = np.flatnonzero(moment > 0)
    units = np.zeros((len(moment), len(kept)))
    units[kept, np.arange(len(kept))] = 1 / np.sqrt(moment[kept])
    return units


@dataclass(frozen=True)
class LaggedProblem:
    """Contexts with their past, the rewards, and what can be chosen of the past.

    What is chosen are groups of columns of Xi: a lag with all features or, if each
    feature has lags of its own, a lag of one feature.

    Attributes
    ----------
    contexts : LaggedContexts
        The matrix Xi, in the units.
    y, counted : torch.Tensor of shape (n,)
        Rewards, and where they count.
    units : ndarray of shape (d, r)
        Contexts of the series times this are the rows of Xi.
    there : LaggedContexts
        The same with a single feature that is 1 where there is a context.
    before : LaggedContexts or None
        The same of places where no context was chosen.
    nothing : torch.Tensor of shape (r,)
        What Xi has there.
    n_at_lag : torch.Tensor of shape (h,)
        Rewards with a context so long ago.
    n_rows : int
        Rewards that count.
    has_intercept : bool
        Whether the mean is fitted too.
    by_feature : bool
        Whether each feature has lags of its own.
    """

    contexts: LaggedContexts
    y: torch.Tensor
    counted: torch.Tensor
    units: np.ndarray
    there: LaggedContexts
    before: LaggedContexts | None
    nothing: torch.Tensor
    n_at_lag: torch.Tensor
    n_rows: int
    has_intercept: bool
    by_feature: bool
    metric: torch.Tensor | None = None

    @classmethod
    def of(cls, series, horizon, *, white, by_feature, has_intercept, chunk_size):
        """Choose units and prepare the products with Xi."""
        units = whitening(series) if white else scaling(series)
        y = series.y
        if has_intercept:
            y = y - series.counted * (y.sum() / series.counted.sum().clamp(min=1.0))
        to = {"device": series.x.device, "dtype": series.x.dtype}
        metric = None
        if not white and not by_feature:  # of statistics, for features that correlate
            moment = units.T @ second_moment(series) @ units
            root = np.linalg.pinv(moment, rcond=RANK_TOLERANCE, hermitian=True)
            values, vectors = np.linalg.eigh(root)
            metric = torch.as_tensor(vectors * np.sqrt(np.maximum(values, 0)), **to)

        def lagged(x):
            return LaggedContexts(x, horizon, chunk_size=chunk_size)

        there = lagged(series.exists[:, None])
        to_units = torch.as_tensor(units, **to)
        return cls(
            lagged(series.x @ to_units),
            y,
            series.counted,
            units,
            there,
            None if series.before is None else lagged(series.before[:, None]),
            series.nothing @ to_units,
            there.adjoint(series.counted)[:, 0].round(),
            int(series.counted.sum()),
            has_intercept,
            by_feature,
            metric,
        )

    @cached_property
    def values(self):
        """Rewards and where they count, side by side."""
        return torch.stack([self.y, self.counted], dim=1)

    @property
    def horizon(self):
        return self.contexts.horizon

    @property
    def group_size(self):
        return 1 if self.by_feature else self.contexts.d

    @property
    def n_groups(self):
        return self.horizon * self.contexts.d // self.group_size

    @property
    def owners(self):
        """Whose lags the groups are: the features', or everybody's."""
        n_owners = self.contexts.d if self.by_feature else 1
        return torch.arange(self.n_groups, device=self.y.device) % n_owners

    @property
    def is_open(self):
        """Which groups may be chosen: those that enough rows tell something of."""
        enough = self.n_at_lag >= ROWS_PER_FEATURE * len(self.units)
        enough[0] = True  # all rows have a present
        return enough.repeat_interleave(self.n_groups // self.horizon)

    def lags_of(self, groups):
        return np.asarray(groups, dtype=np.int64) // (self.n_groups // self.horizon)

    def pairs(self, groups):
        """Return lags and features of the columns of some groups."""
        columns = np.asarray(groups, dtype=np.int64)[:, None] * self.group_size
        columns = (columns + np.arange(self.group_size)).ravel()
        pairs = torch.from_numpy(np.stack(np.divmod(columns, self.contexts.d)))
        return tuple(pairs.to(self.y.device))

    def groups_of(self, B):
        """Return coefficients (h, d) as (n_groups, group_size)."""
        return B.reshape(self.n_groups, self.group_size)

    def statistic(self, r, n_used):
        """Return how much each group explains of a residual: chi-square if nothing.

        Given the residual, products with white contexts are normal. Their covariance is
        E + P m m', where E sums r_t^2 over the rows that have a context so long ago, be
        they many or few, and P over those before which no context m was chosen.
        `n_used` coefficients were fitted before, which made the residual smaller.
        """
        G, m = self.contexts.adjoint(r), self.nothing  # (h, d), (d,)
        if self.metric is not None:
            G, m = G @ self.metric, m @ self.metric
        n_free = self.n_rows - self.has_intercept
        squares = r.square() * n_free / max(1, n_free - n_used)
        E = self.there.adjoint(squares).clamp(min=torch.finfo(r.dtype).tiny)  # (h, 1)
        if self.before is None:
            q = G.square() / E
            return q.flatten() if self.by_feature else q.sum(1)
        P = self.before.adjoint(squares).clamp(min=0.0)
        if self.by_feature:
            return (G.square() / (E + P * m.square())).flatten()
        along = (G @ m).square() * (P / (E + P * m.square().sum()))[:, 0]
        return (G.square().sum(1) - along) / E[:, 0]

    def residual(self, y_hat):
        """Return what is left of the rewards that count, and the intercept's due."""
        r = self.counted * (self.y - y_hat)
        if self.has_intercept:
            r = r - self.counted * (r.sum() / max(1, self.n_rows))
        return r
