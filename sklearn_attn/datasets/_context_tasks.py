"""Rows of tasks that share a subspace, which changes with the context  (2205.05820)."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from ..bandits._task_sequence import TaskSequence
from ._digits import split_digits

N_DIGITS = 10


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
    _check(n_samples, noise=noise, intercepts=intercepts)
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


def make_digit_tasks(
    n_tasks=(40, 40),
    n_samples=40,
    *,
    ranks=(2, 2),
    noise=0.1,
    subset="train",
    random_state=None,
    return_payoffs=False,
):
    """Generate tasks that pay for handwritten digits, each task in its own way.

    In a task, each of the ten digits pays something. Within a context, what tasks pay
    are mixtures of few profiles. Payoffs depend on what a digit is, and only roughly
    linearly on its pixels: a linear model is wrong here, as models of real data are.

    Parameters
    ----------
    n_tasks : tuple of int, default=(40, 40)
        Tasks of each context.
    n_samples : int, default=40
        Rows of each task.
    ranks : tuple of int, default=(2, 2)
        Profiles of each context.
    noise : float, default=0.1
        Standard deviation of the noise. Payoffs have a variance of 1, on average.
    subset : {"train", "test"}, default="train"
        Which of the bundled images are shown: the 1000 for training, or the 797 for
        testing.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.
    return_payoffs : bool, default=False
        Whether to return the payoffs too.

    Returns
    -------
    X : ndarray of shape (n, 64)
        The images, task after task; pixels between 0 and 1.
    y : ndarray of shape (n,)
        What each brings.
    tasks : ndarray of int of shape (n,)
        The task of each row, from 0 on.
    payoffs : ndarray of shape (n_tasks, 10)
        What each digit pays in each task. Only with `return_payoffs=True`.

    Raises
    ------
    ValueError
        If numbers do not fit each other or are out of range.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_digit_tasks
    >>> X, y, tasks = make_digit_tasks([2], 5, ranks=[1], random_state=0)
    >>> X.shape, tasks.tolist()
    ((10, 64), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    _check(n_samples, noise=noise)
    images, labels = split_digits(subset)
    rng = check_random_state(random_state)
    # directions of norm 1 in ten dimensions, of a subspace for each context
    sequence = TaskSequence.random(n_tasks, ranks, N_DIGITS, random_state=rng)
    payoffs = np.sqrt(N_DIGITS) * sequence.coef
    tasks = np.repeat(np.arange(len(payoffs)), n_samples)
    shown = rng.randint(len(images), size=len(tasks))
    y = payoffs[tasks, labels[shown]] + noise * rng.standard_normal(len(tasks))
    X = images[shown]
    return (X, y, tasks, payoffs) if return_payoffs else (X, y, tasks)


def _check(n_samples, **spreads):
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer; got {n_samples!r}.")
    for name, value in spreads.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be 0 or more, and finite; got {value}.")
