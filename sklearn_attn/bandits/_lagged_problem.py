"""The regression y = Xi phi + b + noise, in units in which contexts are white.

Contexts and rewards are centred: once a policy chooses, contexts point along theta on
average, and a model without the mean mistakes it for an effect of every lag.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import solve_toeplitz

from ._lagged import LaggedContexts, lay_out

# Directions of less variance, relative to the largest, carry rounding and nothing else.
RANK_TOLERANCE = 1e-10
# A lag is tested once so many rows per feature have a context that long ago. With
# fewer, its statistic does not follow the chi-square law, and chance passes for effect.
ROWS_PER_FEATURE = 4


@dataclass(frozen=True)
class Series:
    """Rounds on one time axis, with empty places between trajectories.

    Attributes
    ----------
    x : torch.Tensor of shape (n, d)
        Contexts less their mean; zero in empty places.
    y : torch.Tensor of shape (n,)
        Rewards less their mean; zero where there is none.
    exists : torch.Tensor of shape (n,)
        1 where there is a round.
    counted : torch.Tensor of shape (n,)
        1 where its reward is to be explained.
    x_mean : ndarray of shape (d,)
        Mean of the contexts.
    y_mean : float
        Mean of the rewards that count.
    places : ndarray of int of shape (n_rounds,)
        Where each round is.
    """

    x: torch.Tensor
    y: torch.Tensor
    exists: torch.Tensor
    counted: torch.Tensor
    x_mean: np.ndarray
    y_mean: float
    places: np.ndarray

    @classmethod
    def of(cls, X, y, codes, gap, *, centre, is_counted, like):
        """Lay arrays out as tensors; `like` has their device and dtype.

        `gap` empty places, at least, are between two trajectories.
        """
        places, n = lay_out(codes, gap)
        x_mean = X.mean(0) if centre else np.zeros(X.shape[1])
        y_mean = float(y[is_counted].mean()) if centre and is_counted.any() else 0.0
        x_series, y_series = np.zeros((n, X.shape[1])), np.zeros(n)
        exists, counted = np.zeros(n), np.zeros(n)
        x_series[places] = X - x_mean
        y_series[places] = np.where(is_counted, y - y_mean, 0.0)
        exists[places], counted[places] = 1.0, is_counted
        tensors = [
            torch.from_numpy(part).to(like)
            for part in (x_series, y_series, exists, counted)
        ]
        return cls(*tensors, x_mean, y_mean, places)

    def whitened(self, order):
        """Filter contexts and rewards alike, so that contexts forget what was before.

        A linear filter in time commutes with the lags (Box and Jenkins, Time Series
        Analysis, ch. 11): the pattern is the same afterwards. Its coefficients are
        those of an autoregression of the contexts, by the equations of Yule and Walker.
        """
        white = self.x @ torch.as_tensor(whitening(self), dtype=self.x.dtype).to(self.x)
        n = len(white)
        covariance = [
            float((white[k:] * white[: n - k]).sum()) if k < n else 0.0
            for k in range(order + 1)
        ]
        if covariance[0] == 0:
            return self
        a = solve_toeplitz(covariance[:-1], covariance[1:])
        x, y, counted = self.x.clone(), self.y.clone(), self.counted.clone()
        for k, a_k in enumerate(a.tolist(), start=1):
            x[k:] -= a_k * self.x[:-k]
            y[k:] -= a_k * self.y[:-k]
            counted[k:] *= self.counted[:-k]
            counted[:k] = 0.0
        y = counted * y
        return Series(
            x * self.exists[:, None],
            counted * (y - y.sum() / counted.sum().clamp(min=1.0)),
            self.exists,
            counted,
            self.x_mean,
            self.y_mean,
            self.places,
        )


def second_moment(series):
    """Return the mean product of features over the rounds, as float64."""
    x = series.x
    return (x.T @ x / series.exists.sum()).double().cpu().numpy()


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
        Contexts times this are the rows of Xi.
    there : LaggedContexts
        The same with a single feature that is 1 where there is a context.
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
    n_at_lag: torch.Tensor
    n_rows: int
    has_intercept: bool
    by_feature: bool
    metric: torch.Tensor | None = None

    @classmethod
    def of(cls, series, horizon, *, white, by_feature, has_intercept, chunk_size):
        """Choose units and prepare the products with Xi."""
        units = whitening(series) if white else scaling(series)
        to = {"device": series.x.device, "dtype": series.x.dtype}
        metric = None
        if not white and not by_feature:  # of statistics, for features that correlate
            moment = units.T @ second_moment(series) @ units
            root = np.linalg.pinv(moment, rcond=RANK_TOLERANCE, hermitian=True)
            values, vectors = np.linalg.eigh(root)
            metric = torch.as_tensor(vectors * np.sqrt(np.maximum(values, 0)), **to)
        there = LaggedContexts(series.exists[:, None], horizon, chunk_size=chunk_size)
        return cls(
            LaggedContexts(
                series.x @ torch.as_tensor(units, **to), horizon, chunk_size=chunk_size
            ),
            series.y,
            series.counted,
            units,
            there,
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

        Given the residual, products with white contexts are normal with the variance
        `sum_t r_t^2`, over the rows that have a context so long ago: many or few.
        `n_used` coefficients were fitted before, which made the residual smaller.
        """
        G = self.contexts.adjoint(r)  # (h, d)
        if self.metric is not None:
            G = G @ self.metric
        n_free = self.n_rows - self.has_intercept
        energy = self.there.adjoint(r.square())[:, 0] * n_free / max(1, n_free - n_used)
        energy = energy.clamp(min=torch.finfo(r.dtype).tiny)
        return (self.groups_of(G).square().sum(1)) / energy.repeat_interleave(
            self.n_groups // self.horizon
        )

    def residual(self, y_hat):
        """Return what is left of the rewards that count, and the intercept's due."""
        r = self.counted * (self.y - y_hat)
        if self.has_intercept:
            r = r - self.counted * (r.sum() / max(1, self.n_rows))
        return r
