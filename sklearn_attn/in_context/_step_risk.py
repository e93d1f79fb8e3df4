"""R_l(n) = E |s^_l - s^l|^2 / E |s^l|^2:  errors of a chain by steps  (2305.18869).

Of each step alone, the true one before it given, and in the chain. All algorithms get
the same tasks, as for single risks.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state

from ._composed_priors import draw_steps
from ._filtered_chain import filtered_chain
from ._risk import BAND, MOST_SEED, N_BOOTSTRAPS, check_count, check_lengths
from ._weights import CHAINS, MODES, PretrainedICL

# Numbers of the states of tasks that are computed with at a time.
_MOST_NUMBERS = 2**18


class StepRiskCurve(NamedTuple):
    """Errors of a chain against the number of examples.

    All are mean squared errors over the mean square of what is predicted.

    Attributes
    ----------
    n_examples : ndarray of int of shape (n_lengths,)
        Numbers of examples.
    risk : ndarray of shape (n_lengths,)
        Error of y.
    low, high : ndarray of shape (n_lengths,)
        Where 5 % and 95 % of bootstraps of it over tasks lie.
    chained : ndarray of shape (n_steps, n_lengths)
        Error of each step, y last, that goes on from predictions; of y only, for a mode
        that answers at once.
    alone : ndarray of shape (n_steps, n_lengths)
        Error of each step if the true one before it is given.
    n_tasks : int
        Number of tasks.

    Examples
    --------
    >>> from sklearn_attn.in_context import MLPPrior, filtered_least_squares
    >>> from sklearn_attn.in_context import step_risk_curve
    >>> curve = step_risk_curve(
    ...     filtered_least_squares, MLPPrior((6,), bias=0.0), [5, 30], n_features=5,
    ...     n_tasks=64, random_state=0,
    ... )
    >>> curve.alone.shape, bool(curve.risk[1] < 0.01)
    ((2, 2), True)
    """

    n_examples: np.ndarray
    risk: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chained: np.ndarray
    alone: np.ndarray
    n_tasks: int

    @property
    def composed(self):
        """Sum of the errors of all steps alone, against the number of examples."""
        return self.alone.sum(0)


def step_risk_curve(
    algorithm,
    prior,
    n_examples,
    *,
    n_features,
    mode="cot-io",
    n_tasks=512,
    n_queries=4,
    random_state=None,
):
    """Measure the errors of a chain of thought against the number of examples.

    Parameters
    ----------
    algorithm : PretrainedICL or callable
        Weights: of chains, or of tables, which are filtered by hand for mode="cot-io"
        and see no steps for "icl". Or a function ``algorithm(X, steps, y, X_query,
        given=None)`` of tensors in double precision that returns predictions of all
        steps and y, or of y only, such as :func:`filtered_least_squares`.
    prior : object
        Where tasks come from, with a method `sample_steps`, such as :class:`MLPPrior`.
    n_examples : array-like of int of shape (n_lengths,)
        Numbers of examples, from 1 on.
    n_features : int
        Number of features of a task.
    mode : {"cot-io", "cot-i", "icl"}, default="cot-io"
        How weights are asked, as in :class:`ChainOfThoughtRegressor`.
    n_tasks : int, default=512
        Number of tasks.
    n_queries : int, default=4
        Queries to each task.
    random_state : int, RandomState instance or None, default=None
        Determines tasks and bootstraps. The same number gives all algorithms the same
        tasks.

    Returns
    -------
    StepRiskCurve
        `n_examples`, `risk`, `low`, `high`, `chained`, `alone`, `n_tasks`, and
        `composed`.

    Raises
    ------
    ValueError
        If there is no such mode, weights have no such mode, or numbers are not whole
        and from 1 on.

    See Also
    --------
    StepRiskDisplay : Draws several curves.
    risk_curve : The same for tasks without steps.

    Notes
    -----
    Tasks are drawn once, with as many rows as the most examples need. Fewer are the
    first rows of it, and the queries are the same for all. Weights compute in single
    precision here.

    Examples
    --------
    >>> from sklearn_attn.in_context import MLPPrior, load_in_context_weights
    >>> from sklearn_attn.in_context import step_risk_curve
    >>> curve = step_risk_curve(
    ...     load_in_context_weights("cot-relu"), MLPPrior((4,), bias=0.0), [20],
    ...     n_features=5, n_tasks=32, random_state=0,
    ... )
    >>> bool(curve.risk[0] < 0.05)
    True
    """
    chain = _as_chain(algorithm, mode)
    lengths = check_lengths(n_examples, least=1)
    if not hasattr(prior, "sample_steps"):
        raise ValueError(f"A prior of steps has a `sample_steps`; got {prior!r}.")
    counts = {"n_tasks": n_tasks, "n_features": n_features, "n_queries": n_queries}
    for name, count in counts.items():
        check_count(count, name)
    rng = check_random_state(random_state)
    generator = torch.Generator().manual_seed(int(rng.randint(MOST_SEED)))
    n_rows = int(lengths.max()) + n_queries
    tasks = draw_steps(prior, n_tasks, n_rows, n_features, generator=generator)
    *states, last = [state.double() for state in tasks.states]
    y = last if tasks.y.ndim == 3 else last[..., 0]
    size = max(1, _MOST_NUMBERS // (n_rows * sum(s.shape[2] for s in states)))
    chained, alone = [], []
    for n in lengths:
        parts = [
            _errors(chain, [s[rows] for s in states], y[rows], n, n_queries)
            for rows in torch.arange(n_tasks).split(size)
        ]
        chained.append(torch.cat([part[0] for part in parts], 1))
        alone.append(torch.cat([part[1] for part in parts], 1))
    chained, alone = torch.stack(chained, 1).numpy(), torch.stack(alone, 1).numpy()
    true = [*states[1:], last][-len(chained) :]  # of y only, if it is answered at once
    power = [float(s[:, -n_queries:].square().mean()) for s in true]
    of_tasks = last[:, -n_queries:].square().mean((1, 2)).numpy()
    counts = rng.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), N_BOOTSTRAPS)
    drawn = (chained[-1] @ counts.T) / (counts @ of_tasks)
    low, high = np.quantile(drawn, BAND, axis=1)
    chained, alone = (e.mean(2) / np.array(power)[:, None] for e in (chained, alone))
    return StepRiskCurve(lengths, chained[-1], low, high, chained, alone, n_tasks)


def _errors(chain, states, y, n, n_queries):
    """Return squared errors (steps, tasks) in the chain, and of each step alone."""
    X, *steps = states
    queries = [s[:, -n_queries:] for s in (*steps, y)]
    known = (X[:, :n], [s[:, :n] for s in steps], y[:, :n], X[:, -n_queries:])
    found = chain(*known)
    wanted = [tuple(s.shape) for s in queries]
    shapes = [tuple(answer.shape) for answer in found]
    if shapes not in (wanted, wanted[-1:]):
        raise ValueError(
            f"The algorithm was asked for answers of shapes {wanted}, or the last of "
            f"them; it returned {shapes}."
        )
    if len(found) < len(queries) or len(queries) == 1:
        queries, forced = queries[-1:], found
    else:
        forced = chain(*known, given=dict(enumerate(queries[:-1])))
    return tuple(
        torch.stack([_mean_square(a - b) for a, b in zip(some, queries)])
        for some in (found, forced)
    )


def _mean_square(z):
    return z.square().flatten(1).mean(1)


def _as_chain(algorithm, mode):
    """Return a function of examples and queries."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {list(MODES)}; got {mode!r}.")
    if not isinstance(algorithm, PretrainedICL):
        if not callable(algorithm):
            raise ValueError(
                f"algorithm must be weights or a function; got {algorithm!r}."
            )
        return algorithm
    if algorithm.form in CHAINS:
        of_weights = partial(algorithm.predict_steps, mode=mode)
    elif mode == "cot-i":
        raise ValueError(f"{algorithm!r} reads no steps; mode='cot-i' needs a chain.")
    else:
        of_weights = partial(filtered_chain, algorithm)

    def chain(X, steps, y, X_query, given=None):
        steps = [] if mode == "icl" else [s.float() for s in steps]
        given = {place: s.float() for place, s in (given or {}).items()}
        found = of_weights(X.float(), steps, y.float(), X_query.float(), given=given)
        found = found[0] if isinstance(found, tuple) else found
        return [answer.double() for answer in found]

    return chain
