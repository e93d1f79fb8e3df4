"""Rows of tasks that share a subspace, which changes with the context  (2205.05820)."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from ..bandits._task_sequence import TaskSequence


def make_context_tasks(
    n_tasks=(40, 40, 40),
    n_samples=50,
    n_features=20,
    *,
    ranks=(2, 4, 2),
    norms=(1.0, 1.0),
    noise=0.1,
    intercepts=0.0,
    random_state=None,
    return_tasks=False,
):
    """Generate rows of tasks whose coefficients share few directions in each context.

    Rows are standard normal. Within a context, the directions of tasks are uniform in
    a random subspace.

    Parameters
    ----------
    n_tasks : tuple of int, default=(40, 40, 40)
        Tasks of each context.
    n_samples : int, default=50
        Rows of each task.
    n_features : int, default=20
        Number of features.
    ranks : tuple of int, default=(2, 4, 2)
        Dimension of the subspace of each context.
    norms : tuple of float, default=(1.0, 1.0)
        Norms of the coefficients are uniform between these.
    noise : float, default=0.1
        Standard deviation of the noise.
    intercepts : float, default=0.0
        Standard deviation of the constant of a task.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.
    return_tasks : bool, default=False
        Whether to return the coefficients too.

    Returns
    -------
    X : ndarray of shape (n, n_features)
        Rows, task after task.
    y : ndarray of shape (n,)
        Rewards.
    tasks : ndarray of int of shape (n,)
        The task of each row, from 0 on.
    sequence : TaskSequence
        Coefficients and subspaces. Only with `return_tasks=True`.

    Raises
    ------
    ValueError
        If numbers do not fit each other or are out of range.

    References
    ----------
    .. [1] Qin, Menara, Oymak, Ching and Pasqualetti, "Representation Learning for
           Context-Dependent Decision-Making", ACC 2022, arXiv:2205.05820.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_context_tasks
    >>> X, y, tasks = make_context_tasks([3, 2], 10, ranks=[1, 2], random_state=0)
    >>> X.shape, int(tasks.max())
    ((50, 20), 4)
    """
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer; got {n_samples!r}.")
    for name, value in {"noise": noise, "intercepts": intercepts}.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be 0 or more, and finite; got {value}.")
    rng = check_random_state(random_state)
    sequence = TaskSequence.random(
        n_tasks, ranks, n_features, norms=norms, random_state=rng
    )
    k = len(sequence.coef)
    tasks = np.repeat(np.arange(k), n_samples)
    X = rng.standard_normal((k * n_samples, n_features))
    constants = intercepts * rng.standard_normal(k)
    y = (X * sequence.coef[tasks]).sum(1) + constants[tasks]
    y += noise * rng.standard_normal(len(y))
    return (X, y, tasks, sequence) if return_tasks else (X, y, tasks)
