"""The test for scores on folds that share most of their training samples.

    t = mean(d) / sqrt((1/J + n_test/n_train) var(d)),    d_j = score_j - baseline_j

is read against Student's t with J - 1 degrees of freedom: the corrected resampled
t-test of Nadeau and Bengio, "Inference for the generalization error", Machine
Learning 52 (2003). The usual 1/J alone takes the J training sets for independent, and
that test finds differences that are not there.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats


class CorrectedTTest(NamedTuple):
    """One candidate against the baseline; `p_value_holm` accounts for the others."""

    difference: float
    ci_low: float
    ci_high: float
    statistic: float
    p_value: float
    p_value_holm: float


NO_TEST = CorrectedTTest(*[math.nan] * len(CorrectedTTest._fields))


def corrected_t_test(differences, test_train_ratio, confidence_level):
    """Test that the mean of J fold-wise differences is 0, two-sided."""
    n_folds = len(differences)
    mean = np.mean(differences)
    if n_folds < 2:  # one fold has no spread to judge the difference by
        return NO_TEST._replace(difference=mean)
    if np.all(differences == differences[0]):
        # exactly, as rounding in the mean would leave a variance of 1e-34
        mean, standard_error = differences[0], 0.0
        statistic = math.copysign(math.inf, mean) if mean else 0.0
    else:
        variance = np.var(differences, ddof=1)
        standard_error = np.sqrt((1 / n_folds + test_train_ratio) * variance)
        statistic = mean / standard_error
    student = stats.t(df=n_folds - 1)
    p_value = 2 * student.sf(abs(statistic))
    half_width = student.isf((1 - confidence_level) / 2) * standard_error
    return CorrectedTTest(
        *map(float, (mean, mean - half_width, mean + half_width)),
        statistic=float(statistic),
        p_value=float(p_value),
        p_value_holm=float(p_value),  # as long as it is the only test
    )


def holm(p_values):
    """Adjust p-values for their number (Holm 1979); NaN stays NaN and does not count.

    The k-th smallest of m is multiplied by m - k + 1 and kept in order.
    """
    order = np.argsort(p_values)  # NaN last
    n_tests = np.count_nonzero(~np.isnan(p_values))
    stepped = (n_tests - np.arange(len(p_values))) * p_values[order]
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return adjusted
