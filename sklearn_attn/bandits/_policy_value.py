"""What another policy would have earned, from rounds that were played  (2302.00814).

    V = m + sum_{j in S} mean_t( (1{a_{t-j} = pi_{t-j}} / p_{t-j} - 1) (y_t - m) )

with m the mean of y. One weight for each lag: a reward is a sum over lags, and what was
chosen in other rounds is independent of it. The weight of the present round alone would
judge by what the present action does not decide.
"""


def additive_lag_ips(support, rewards, is_same, propensities):
    """Weigh each reward by the choices that it depends on, one at a time."""
    centred = rewards - rewards.mean()
    ratio = is_same / propensities - 1.0
    value = rewards.mean()
    for lag in support:
        n = len(rewards) - lag
        if n > 0:
            value += float(ratio[:n] @ centred[lag:]) / n
    return float(value)


def direct(pattern, intercept, chosen):
    """Return the mean long-run value of contexts, as the model has it."""
    return float(intercept + (chosen @ pattern.total).mean())
