"""Tasks f_t ~ P with examples (x_ti, f_t(x_ti) + noise)  (2301.07067, section 2)."""

from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..in_context._composed_priors import MLPPrior
from ..in_context._priors import (
    LinearPrior,
    MixturePrior,
    ReLUUnitPrior,
    SparseLinearPrior,
    draw_tasks,
)

PRIORS = {
    "linear": lambda noise: LinearPrior(noise),
    "sparse": lambda noise: SparseLinearPrior(noise=noise),
    "relu": lambda noise: ReLUUnitPrior(noise),
    "mlp": lambda noise: MLPPrior(noise=noise),
    "mixture": lambda noise: MixturePrior(
        [LinearPrior(noise), SparseLinearPrior(noise=noise)]
    ),
}
_MOST_SEED = 2**31 - 1


def make_in_context_tasks(
    n_tasks=10,
    n_examples=20,
    n_features=5,
    *,
    prior="linear",
    noise=0.0,
    as_table=False,
    random_state=None,
):
    """Generate tasks of a prior: what an in-context learner learns to learn from.

    Parameters
    ----------
    n_tasks : int, default=10
        Number of tasks.
    n_examples : int, default=20
        Examples of each task.
    n_features : int, default=5
        Number of features.
    prior : {"linear", "sparse", "relu", "mlp", "mixture"} or object, default="linear"
        Where tasks come from. "mixture" is linear tasks, half of which have three
        features that matter; for others see :class:`~.in_context.LinearPrior`,
        :class:`~.in_context.SparseLinearPrior`, :class:`~.in_context.ReLUUnitPrior` and
        :class:`~.in_context.MLPPrior`, whose defaults these are. An object has their
        method `sample`.
    noise : float or (float, float), default=0.0
        Standard deviation of the noise, in units of y; of a pair, each task draws its
        own. Without it, y has a mean square of `n_features` for linear tasks, sparse
        ones included, and of 1 for the others. An object has a noise of its own.
    as_table : bool, default=False
        Whether to return a table of all rows and the task of each, which
        :func:`~.in_context.pretrain_in_context_from` takes.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.

    Returns
    -------
    X : ndarray of shape (n_tasks, n_examples, n_features)
        Inputs; with `as_table`, of shape (n_tasks * n_examples, n_features).
    y : ndarray of shape (n_tasks, n_examples)
        Targets; with `as_table`, of shape (n_tasks * n_examples,).
    tasks : ndarray of int of shape (n_tasks * n_examples,)
        The task of each row, from 0 on. Only with `as_table=True`.

    Raises
    ------
    ValueError
        If there is no such prior, or numbers are out of range.

    See Also
    --------
    make_multipath_tasks : Linear tasks that share modules.
    make_context_tasks : Tasks that share a subspace in each context.

    References
    ----------
    Li, Ildiz, Papailiopoulos and Oymak, "Transformers as Algorithms: Generalization and
    Stability in In-context Learning", arXiv:2301.07067.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_in_context_tasks
    >>> X, y = make_in_context_tasks(random_state=0)
    >>> X.shape, y.shape
    ((10, 20, 5), (10, 20))
    >>> X, y, tasks = make_in_context_tasks(as_table=True, random_state=0)
    >>> X.shape, tasks[:3].tolist(), tasks[-3:].tolist()
    ((200, 5), [0, 0, 0], [9, 9, 9])
    """
    counts = {"n_tasks": n_tasks, "n_examples": n_examples, "n_features": n_features}
    for name, count in counts.items():
        if not (isinstance(count, Integral) and count >= 1):
            raise ValueError(f"{name} must be an integer of 1 or more; got {count!r}.")
    rng = check_random_state(random_state)
    generator = torch.Generator().manual_seed(int(rng.randint(_MOST_SEED)))
    drawn = draw_tasks(
        _prior(prior, noise), n_tasks, n_examples, n_features, generator=generator
    )
    X, y = drawn.X.double().numpy(), drawn.y.double().numpy()
    if not as_table:
        return X, y
    tasks = np.repeat(np.arange(n_tasks), n_examples)
    return X.reshape(-1, n_features), y.ravel(), tasks


def _prior(prior, noise):
    if isinstance(prior, str) and prior in PRIORS:
        return PRIORS[prior](noise)
    if not hasattr(prior, "sample"):
        raise ValueError(
            f"prior must be one of {list(PRIORS)}, or have a method `sample`; got "
            f"{prior!r}."
        )
    if noise != 0:
        raise ValueError(f"{prior!r} has a noise of its own; leave out noise={noise}.")
    return prior
