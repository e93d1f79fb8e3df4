"""R(n) = E (y - f^Alg_{S^(n)}(x))^2 / E f(x)^2,  and |f_S - f_{S^j}|  (2301.07067).

Tasks f come from a prior, contexts S^(n) are the first n examples of a task, and all
algorithms that are compared get the same ones. Stability (assumption 3.1 there) is how
much an answer changes if one example of the context is replaced: at most K / n.
"""

from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state

from ._priors import Tasks, draw_tasks
from ._weights import PretrainedICL

# The band of the paper's figures: 5 % and 95 % of 1000 bootstraps.
N_BOOTSTRAPS, BAND = 1000, (0.05, 0.95)
# Rows of contexts and queries that are computed with at a time: some 100 MB.
MOST_ROWS = 2**15
MOST_SEED = 2**31 - 1


class RiskCurve(NamedTuple):
    """Error of an algorithm against the length of its context.

    Attributes
    ----------
    n_examples : ndarray of int of shape (n_lengths,)
        Lengths of the context.
    risk : ndarray of shape (n_lengths,)
        Mean squared error over the mean square of the targets without noise.
    low, high : ndarray of shape (n_lengths,)
        Where 5 % and 95 % of bootstraps over tasks lie.
    n_tasks : int
        Number of tasks.

    Examples
    --------
    >>> from sklearn_attn.in_context import LinearPrior, minimum_norm, risk_curve
    >>> curve = risk_curve(
    ...     minimum_norm, LinearPrior(), [0, 2, 4], n_features=4, random_state=0
    ... )
    >>> curve.risk.round(1)
    array([1. , 0.5, 0. ])
    >>> bool((curve.low <= curve.risk).all())
    True
    """

    n_examples: np.ndarray
    risk: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_tasks: int


def risk_curve(
    algorithm,
    prior,
    n_examples,
    *,
    n_features,
    n_tasks=512,
    n_queries=4,
    tell_noise=False,
    random_state=None,
):
    """Measure the error of a learning algorithm against the length of its context.

    An answer of 0 has a risk of 1, and one of the function without noise a risk of
    noise^2 / E f(x)^2: errors are against targets with noise.

    Parameters
    ----------
    algorithm : PretrainedICL or callable
        Weights, or a function ``algorithm(X, y, X_query)`` of tensors in double
        precision, of shapes (n_tasks, n, n_features), (n_tasks, n) and (n_tasks,
        n_queries, n_features), that returns predictions of shape (n_tasks, n_queries),
        such as :func:`minimum_norm`.
    prior : object
        Where tasks come from, such as :class:`LinearPrior`.
    n_examples : array-like of int of shape (n_lengths,)
        Lengths of the context; 0 is for callables only.
    n_features : int
        Number of features of a task.
    n_tasks : int, default=512
        Number of tasks.
    n_queries : int, default=4
        Queries to each context.
    tell_noise : bool, default=False
        Whether the algorithm is told the standard deviation of each task's noise;
        callables by a keyword `noise`, as :func:`ridge` has it.
    random_state : int, RandomState instance or None, default=None
        Determines tasks and bootstraps. The same number gives all algorithms the same
        tasks, so that curves differ by the algorithms only.

    Returns
    -------
    RiskCurve
        The curve: `n_examples`, `risk`, `low`, `high` and `n_tasks`.

    Raises
    ------
    ValueError
        If lengths are not whole numbers from 0 on, the algorithm returns another shape,
        or it takes no contexts of such a length or so many features.

    See Also
    --------
    RiskCurveDisplay : Draws several curves.
    stability_curve : How much a single example matters.

    Notes
    -----
    Tasks are drawn once, with as many rows as the longest context needs. Shorter ones
    are the first rows of it, and the queries are the same for all. A prior that does
    not know its noise (:class:`TaskPool`) counts as one without.

    Tasks are drawn in torch's default precision, single as a rule, before they are made
    double. An exact predictor that tells whether targets fit a class without noise at
    all, :func:`mixture_of_ridges`, takes rounding for misfit: give it a noise of 1e-5.

    References
    ----------
    arXiv 2301.07067, figure 2.

    Examples
    --------
    Least squares has a spike where there are as many examples as features, and ridge
    regression has none:

    >>> from functools import partial
    >>> from sklearn_attn.in_context import LinearPrior, minimum_norm, ridge
    >>> from sklearn_attn.in_context import risk_curve
    >>> for algorithm in (minimum_norm, partial(ridge, noise=1.0)):
    ...     curve = risk_curve(
    ...         algorithm, LinearPrior(noise=1.0), [5, 20], n_features=5,
    ...         random_state=0,
    ...     )
    ...     print((curve.risk > 1).tolist())
    [True, False]
    [False, False]
    """
    lengths = check_lengths(n_examples)
    rng = check_random_state(random_state)
    tasks = _draw(prior, n_tasks, lengths.max(), n_queries, n_features, rng)
    X_query, y_query = tasks.X[:, -n_queries:], tasks.y[:, -n_queries:]
    if tell_noise and tasks.noise.isnan().any():
        raise ValueError(f"{prior!r} does not know its noise; it cannot be told.")
    noise = tasks.noise if tell_noise else None
    answers = [
        _answer(algorithm, tasks.X[:, :n], tasks.y[:, :n], X_query, noise)
        for n in lengths
    ]
    errors = torch.stack([(f - y_query).square().mean(1) for f in answers]).numpy()
    power = _power(tasks).numpy()
    # resampled tasks as counts: a product of matrices is all bootstraps at once
    counts = rng.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), N_BOOTSTRAPS)
    drawn = (errors @ counts.T) / (counts @ power)  # (n_lengths, n_bootstraps)
    low, high = np.quantile(drawn, BAND, axis=1)
    return RiskCurve(lengths, errors.mean(1) / power.mean(), low, high, n_tasks)


def stability_curve(
    algorithm,
    prior,
    n_examples,
    *,
    n_features,
    n_tasks=512,
    n_queries=4,
    random_state=None,
):
    """Measure how much answers change if the first example is replaced by a wrong one.

    It is replaced by the first example of another task, input and target: wrong in the
    same way for every prior. (The paper's code takes -w'x as its target, which only
    linear tasks have.) A stable algorithm changes by at most K / n.

    Parameters
    ----------
    algorithm : PretrainedICL or callable
        Weights, or a function ``algorithm(X, y, X_query)``, as for :func:`risk_curve`.
    prior : object
        Where tasks come from, such as :class:`LinearPrior`.
    n_examples : array-like of int of shape (n_lengths,)
        Lengths of the context, from 1 on.
    n_features : int
        Number of features of a task.
    n_tasks : int, default=512
        Number of tasks, two or more.
    n_queries : int, default=4
        Queries to each context.
    random_state : int, RandomState instance or None, default=None
        Determines the tasks.

    Returns
    -------
    prediction_change : ndarray of shape (n_lengths,)
        Mean absolute change of predictions, in units of the root mean square of targets
        without noise.
    loss_change : ndarray of shape (n_lengths,)
        Mean absolute change of squared errors, in units of that mean square.

    Raises
    ------
    ValueError
        If lengths are not whole numbers from 1 on, there is a single task, or the
        algorithm does not take such tasks.

    See Also
    --------
    risk_curve : The error itself.

    References
    ----------
    arXiv 2301.07067, assumption 3.1, theorem 3.2 and figure 3.

    Examples
    --------
    Of ridge regression, an example counts about 1 / n of the whole:

    >>> from functools import partial
    >>> from sklearn_attn.in_context import LinearPrior, ridge, stability_curve
    >>> change, _ = stability_curve(
    ...     partial(ridge, noise=1.0), LinearPrior(noise=1.0), [20, 80], n_features=5,
    ...     random_state=0,
    ... )
    >>> bool(3 < change[0] / change[1] < 5)
    True
    """
    lengths = check_lengths(n_examples, least=1)
    if n_tasks < 2:
        raise ValueError(f"A wrong example comes of another task; n_tasks={n_tasks}.")
    rng = check_random_state(random_state)
    tasks = _draw(prior, n_tasks, lengths.max(), n_queries, n_features, rng)
    X_query, y_query = tasks.X[:, -n_queries:], tasks.y[:, -n_queries:]
    X_wrong, y_wrong = tasks.X.clone(), tasks.y.clone()
    X_wrong[:, 0], y_wrong[:, 0] = tasks.X[:, 0].roll(1, 0), tasks.y[:, 0].roll(1, 0)
    power = float(_power(tasks).mean())
    changes = []
    for n in lengths:
        right = _answer(algorithm, tasks.X[:, :n], tasks.y[:, :n], X_query)
        wrong = _answer(algorithm, X_wrong[:, :n], y_wrong[:, :n], X_query)
        losses = [(f - y_query).square() for f in (right, wrong)]
        of_loss = float((losses[1] - losses[0]).abs().mean()) / power
        changes.append((float((wrong - right).abs().mean()) / power**0.5, of_loss))
    prediction_change, loss_change = np.array(changes).T
    return prediction_change, loss_change


def check_lengths(n_examples, least=0):
    lengths = np.asarray(n_examples)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not len(lengths):
        raise ValueError(f"n_examples must be a list of integers; got {n_examples!r}.")
    if lengths.min() < least:
        raise ValueError(f"n_examples must be {least} or more; got {lengths.min()}.")
    return lengths


def _draw(prior, n_tasks, longest, n_queries, n_features, rng):
    """Return tasks, drawn on the CPU, in double precision; unknown noise is none."""
    counts = {"n_tasks": n_tasks, "n_features": n_features, "n_queries": n_queries}
    for name, count in counts.items():
        check_count(count, name)
    generator = torch.Generator().manual_seed(int(rng.randint(MOST_SEED)))
    n_rows = int(longest) + n_queries
    drawn = draw_tasks(prior, n_tasks, n_rows, n_features, generator=generator)
    return Tasks(*(None if part is None else part.double() for part in drawn))


def check_count(count, name):
    """Refuse what is no whole number from 1 on."""
    if not (isinstance(count, Integral) and count >= 1):
        raise ValueError(f"{name} must be an integer of 1 or more; got {count!r}.")


def _power(tasks):
    """Return the mean square of each task's targets, without that of the noise."""
    if tasks.f is not None:
        return tasks.f.square().mean(1)
    power = tasks.y.square().mean(1) - tasks.noise.nan_to_num(0.0).square()
    if power.mean() <= 0:
        raise ValueError(
            "The noise hides how large targets without it are. A prior may return them "
            "as `f` of Tasks."
        )
    return power


def _answer(algorithm, X, y, X_query, noise=None):
    """Return predictions (tasks, queries), some tasks at a time."""
    is_pretrained = isinstance(algorithm, PretrainedICL)
    predict = algorithm.predict if is_pretrained else algorithm
    step = max(1, MOST_ROWS // (X.shape[1] + X_query.shape[1]))
    parts = []
    for start in range(0, len(X), step):
        some = slice(start, start + step)
        told = {} if noise is None else {"noise": noise[some]}
        answer = predict(X[some], y[some], X_query[some], **told)
        mean = answer[0] if isinstance(answer, tuple) else answer
        if mean.shape != X_query[some].shape[:2]:
            raise ValueError(
                "The algorithm was asked for predictions of shape "
                f"{tuple(X_query[some].shape[:2])}; it returned {tuple(mean.shape)}."
            )
        parts.append(mean)
    return torch.cat(parts)
