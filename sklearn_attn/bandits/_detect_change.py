"""Does a task lie outside of the subspace, and has the task changed?  (2205.05820).

Outside of the subspace there is only noise, as long as the context stays: the squared
residuals of n probes sum to sigma^2 chi^2_n.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class OutlierTest:
    """When residuals are too large, or too small, to be noise.

    Parameters
    ----------
    detector : {"chi2", "paper"}, default="chi2"
        "chi2" is the quantile of the sum of squares. "paper" allows its root to deviate
        from sigma sqrt(n) by a share `gamma` of it, to either side.
    level : float, default=1e-3
        Probability that noise alone is an outlier, for "chi2".
    gamma : float, default=1.0
        The share, for "paper".

    Raises
    ------
    ValueError
        If there is no such detector, or a number is out of range.

    References
    ----------
    .. [1] Qin, Menara, Oymak, Ching and Pasqualetti, "Representation Learning for
           Context-Dependent Decision-Making", ACC 2022, arXiv:2205.05820.

    Examples
    --------
    >>> from sklearn_attn.bandits import OutlierTest
    >>> test = OutlierTest("chi2", level=1e-3)
    >>> round(test.false_alarm(8), 6)
    0.001
    >>> outside = 0.9 * 8 / 18  # what 8 probes of 18 directions see of it
    >>> round(test.power(8, outside / 0.1**2), 2)
    0.97
    """

    detector: str = "chi2"
    level: float = 1e-3
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.detector not in ("chi2", "paper"):
            raise ValueError(
                f"detector must be 'chi2' or 'paper'; got {self.detector!r}."
            )
        if not 0 < self.level < 1 or not 0 < self.gamma < math.inf:
            raise ValueError(
                "level must be between 0 and 1, gamma positive; got "
                f"{self.level} and {self.gamma}."
            )

    def score(self, statistic: float, n: float, noise_dof: float = math.inf) -> float:
        """Return how large a sum of squares is; above 1, it is an outlier.

        Parameters
        ----------
        statistic : float
            Sum of n squared residuals, divided by the variance of the noise.
        n : float
            How many there are.
        noise_dof : float, default=inf
            Degrees of freedom of the variance, if it is estimated.

        Returns
        -------
        float
            The statistic relative to its limit or, for "paper", the deviation of its
            root relative to the one allowed.
        """
        if self.detector == "chi2":
            return statistic / (n * _quantile(self.level, n, noise_dof))
        root = math.sqrt(n)
        return abs(math.sqrt(statistic) - root) / (self.gamma * root)

    def false_alarm(self, n: float) -> float:
        """Return the probability that noise alone is an outlier.

        Parameters
        ----------
        n : float
            Number of residuals.

        Returns
        -------
        float
            The probability, if the variance is known.
        """
        return self.power(n, 0.0)

    def power(self, n: float, noncentrality: float) -> float:
        """Return the probability that a task outside of the subspace is an outlier.

        Parameters
        ----------
        n : float
            Number of residuals.
        noncentrality : float
            Sum of what they are without noise, squared, over the variance.

        Returns
        -------
        float
            The probability, if the variance is known.
        """
        low, high = self._limits(n)
        law = stats.ncx2(n, noncentrality) if noncentrality > 0 else stats.chi2(n)
        return float(law.sf(high) + law.cdf(low))

    def _limits(self, n):
        if self.detector == "chi2":
            return 0.0, stats.chi2.isf(self.level, n)
        low = max(0.0, 1 - self.gamma)
        return n * low**2, n * (1 + self.gamma) ** 2


@lru_cache(maxsize=1024)
def _quantile(level, n, noise_dof):
    """Return the quantile of a mean square, in units of the variance."""
    if math.isinf(noise_dof):
        return stats.chi2.isf(level, n) / n
    return stats.f.isf(level, n, noise_dof)


class SwitchTest:
    """Has the mean of a sequence changed? A moving window against all before it.

    Parameters
    ----------
    window : int
        Length of the window.
    noise_std : float
        Standard deviation of a value.
    sigmas : float
        Standard errors by which the means must differ.
    """

    def __init__(self, window, noise_std, sigmas):
        self.window, self.noise_std, self.sigmas = window, noise_std, sigmas
        self.n = 0
        self._sums = np.zeros(1)  # the last ones, as far back as the window reaches

    def first_alarm(self, values):
        """Return after how many further values there is an alarm; None without."""
        sums = self._extended(values)
        ends = np.arange(len(self._sums), len(sums))
        n = self.n + 1 + np.arange(len(values))
        is_long = n >= 2 * self.window
        ends, n = ends[is_long], n[is_long]
        starts, n_before = ends - self.window, n - self.window
        now = (sums[ends] - sums[starts]) / self.window
        error = self.noise_std * np.sqrt(1 / self.window + 1 / n_before)
        apart = np.abs(now - sums[starts] / n_before)
        alarms = np.flatnonzero(apart > self.sigmas * error)
        return int(n[alarms[0]]) - self.n if len(alarms) else None

    def take(self, values):
        """Remember further values."""
        self._sums = self._extended(values)[-self.window - 1 :]
        self.n += len(values)

    def _extended(self, values):
        return np.append(self._sums, self._sums[-1] + np.cumsum(values))
