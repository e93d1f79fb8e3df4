"""Tasks theta_t = (B_L^{a_t[L]} ... B_1^{a_t[1]})'h_t of a supernet  (2303.04338)."""

from dataclasses import dataclass
from itertools import combinations
from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from ..multitask._supernet import Supernet
from ._digits import split_digits


@dataclass(frozen=True)
class MultipathModel:
    """The linear supernet that tasks were drawn from, their pathways and heads.

    Attributes
    ----------
    supernet : Supernet
        Number of modules and widths of each layer.
    modules : list of ndarray of shape (K_l, r_l, r_{l-1})
        The K_l modules of each layer, with orthonormal rows.
    paths : ndarray of int of shape (n_tasks, n_layers)
        The module that each task takes in each layer.
    heads : ndarray of shape (n_tasks, r_L)
        What each task makes of the last layer; of norm 1.
    coef : ndarray of shape (n_tasks, n_features)
        Coefficients of each task, of norm 1.
    intercept : ndarray of shape (n_tasks,)
        Constant of each task.
    """

    supernet: Supernet
    modules: list
    paths: np.ndarray
    heads: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray


@dataclass(frozen=True)
class PermutedDigits:
    """How tasks show digits: each permutes the pixels, and shows two of the digits.

    Attributes
    ----------
    permutations : ndarray of int of shape (n_permutations, 64)
        Pixel j of a task is pixel ``permutations[k, j]`` of the image.
    paths : ndarray of int of shape (n_tasks,)
        The permutation k of each task.
    pairs : ndarray of int of shape (n_tasks, 2)
        The digits of each task, the lower first.
    """

    permutations: np.ndarray
    paths: np.ndarray
    pairs: np.ndarray


def make_multipath_tasks(
    n_tasks=100,
    n_samples=30,
    n_features=32,
    *,
    layers=((1, 8), (10, 2)),
    tree=False,
    noise=0.1,
    intercepts=0.0,
    paths=None,
    random_state=None,
    return_model=False,
):
    """Generate linear tasks that share modules along the pathways of a supernet.

    Rows are standard normal. Modules have orthonormal rows that span random subspaces,
    and heads are uniform on the sphere: coefficients of all tasks have norm 1.

    Parameters
    ----------
    n_tasks : int, default=100
        Number of tasks T.
    n_samples : int or list of int of length n_tasks, default=30
        Rows of each task.
    n_features : int, default=32
        Number of features p.
    layers : tuple of (int, int), default=((1, 8), (10, 2))
        Number of modules, and width of what they return, of each layer. Widths do not
        grow from one layer to the next. By default, one module that all tasks share is
        followed by ten that share its output, as in the experiments of [1]_.
    tree : bool, default=False
        Whether each module reads one module of the layer before only.
    noise : float, default=0.1
        Standard deviation of the noise. Without it, y has a variance of 1.
    intercepts : float, default=0.0
        Standard deviation of the constant of a task.
    paths : array-like of int of shape (n_tasks, n_layers), default=None
        The module that each task takes in each layer. By default all pathways have as
        many tasks, up to one, and tasks of a pathway follow each other; fewer tasks
        than pathways are spread evenly over them.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.
    return_model : bool, default=False
        Whether to return the modules, heads and coefficients too.

    Returns
    -------
    X : ndarray of shape (n, n_features)
        Rows, task after task.
    y : ndarray of shape (n,)
        Targets.
    tasks : ndarray of int of shape (n,)
        The task of each row, from 0 on.
    model : MultipathModel
        What was drawn: `supernet`, `modules`, `paths`, `heads`, `coef` and `intercept`.
        Only with `return_model=True`.

    Raises
    ------
    ValueError
        If numbers do not fit each other or are out of range.

    See Also
    --------
    make_permuted_digit_tasks : Digits in tasks that permute pixels.
    make_context_tasks : Tasks that share a subspace in each context.

    References
    ----------
    .. [1] Li and Oymak, "Provable Pathways: Learning Multiple Tasks over Multiple
           Paths", AAAI 2023, arXiv:2303.04338.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_multipath_tasks
    >>> X, y, tasks, model = make_multipath_tasks(
    ...     20, 5, layers=((1, 8), (4, 2)), random_state=0, return_model=True
    ... )
    >>> X.shape, model.coef.shape
    ((100, 32), (20, 32))
    >>> [B.shape for B in model.modules]
    [(1, 8, 32), (4, 2, 8)]
    >>> model.paths[:, 1].tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    """
    _check_count("n_tasks", n_tasks)
    _check_count("n_features", n_features)
    _check_spreads(noise=noise, intercepts=intercepts)
    counts = _counts(n_samples, n_tasks)
    net = Supernet(n_features, _layers(layers, n_features), tree=tree)
    paths = (
        _paths_in_turn(net, n_tasks) if paths is None else _paths(paths, net, n_tasks)
    )

    rng = check_random_state(random_state)
    read = (n_features, *net.widths)
    modules = [
        np.linalg.qr(rng.standard_normal((n, q, r)))[0].transpose(0, 2, 1)
        for (n, r), q in zip(net.layers, read)
    ]
    heads = rng.standard_normal((n_tasks, net.widths[-1]))
    heads /= np.linalg.norm(heads, axis=1, keepdims=True)
    constants = intercepts * rng.standard_normal(n_tasks)
    coef = heads
    for layer in reversed(range(len(modules))):
        coef = np.einsum("tr,trq->tq", coef, modules[layer][paths[:, layer]])

    tasks = np.repeat(np.arange(n_tasks), counts)
    X = rng.standard_normal((len(tasks), n_features))
    y = (X * coef[tasks]).sum(1) + constants[tasks]
    y += noise * rng.standard_normal(len(y))
    model = MultipathModel(net, modules, paths, heads, coef, constants)
    return (X, y, tasks, model) if return_model else (X, y, tasks)


def make_permuted_digit_tasks(
    n_samples=40,
    *,
    n_permutations=4,
    digits=range(10),
    noise=1.0,
    subset="train",
    random_state=None,
    return_permutations=False,
):
    """Generate tasks that tell two digits apart, under noise and permuted pixels.

    There is a task for each permutation and pair of digits: 4 times 45 by default.
    Those of a permutation can share what they see in the images, and the others cannot.
    The noise makes that matter: without it, a task does well by itself.

    Parameters
    ----------
    n_samples : int, default=40
        Images of each task, half of them of either digit; an odd one is of the lower.
    n_permutations : int, default=4
        Number of permutations of the pixels.
    digits : list of int, default=range(10)
        Digits whose pairs make tasks; two or more.
    noise : float, default=1.0
        Standard deviation of the noise of each pixel. Pixels are -1 on the ground and 1
        in full ink: its unit is half the range of a pixel.
    subset : {"train", "test"}, default="train"
        Which of the bundled images are shown: the 1000 for training, or the 797 for
        testing.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn. The same int gives the same permutations for both
        subsets and any number of images, so the same tasks; images and noise differ
        between the subsets.
    return_permutations : bool, default=False
        Whether to return permutations and pairs of digits too.

    Returns
    -------
    X : ndarray of shape (n, 64)
        The images, task after task, and within a task in random order.
    y : ndarray of int of shape (n,)
        The digits themselves.
    tasks : ndarray of int of shape (n,)
        The task of each row, from 0 on.
    permuted : PermutedDigits
        The `permutations`, which of them each task has as its pathway in `paths`, and
        its two digits in `pairs`. Only with `return_permutations=True`.

    Raises
    ------
    ValueError
        If numbers are out of range, or a task would need more images of a digit than
        there are: a task shows none twice.

    See Also
    --------
    make_multipath_tasks : Linear tasks of a supernet.
    make_digit_tasks : Digits that are paid for, in each task in another way.

    References
    ----------
    .. [1] Li and Oymak, "Provable Pathways: Learning Multiple Tasks over Multiple
           Paths", AAAI 2023, arXiv:2303.04338. The digits are not from there.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_permuted_digit_tasks
    >>> X, y, tasks, permuted = make_permuted_digit_tasks(
    ...     6, digits=[3, 5, 8], random_state=0, return_permutations=True
    ... )
    >>> X.shape, permuted.paths.tolist()
    ((72, 64), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    >>> permuted.pairs[:3].tolist()
    [[3, 5], [3, 8], [5, 8]]

    New images for the same tasks:

    >>> X_test, y_test, tasks_test = make_permuted_digit_tasks(
    ...     100, digits=[3, 5, 8], subset="test", random_state=0
    ... )
    """
    _check_count("n_samples", n_samples, least=2)
    _check_count("n_permutations", n_permutations)
    _check_spreads(noise=noise)
    digits = _pairable(digits)
    images, labels = split_digits(subset)
    halves = (n_samples - n_samples // 2, n_samples // 2)
    shown = {digit: np.flatnonzero(labels == digit) for digit in digits}
    rarest = min(digits, key=lambda digit: len(shown[digit]))
    if halves[0] > len(shown[rarest]):
        raise ValueError(
            f"n_samples={n_samples} needs {halves[0]} images of a digit, but the "
            f"{subset} subset has {len(shown[rarest])} of {rarest}; ask for "
            f"{2 * len(shown[rarest])} or fewer."
        )

    rng = check_random_state(random_state)
    permutations = np.stack([rng.permutation(64) for _ in range(n_permutations)])
    # a stream for each subset, else both begin with the same noise
    rng = np.random.RandomState(rng.randint(2**31, size=2)[int(subset == "test")])
    pairs = np.array(list(combinations(digits, 2)))
    paths = np.repeat(np.arange(n_permutations), len(pairs))
    pairs = np.tile(pairs, (n_permutations, 1))
    rows = np.stack(
        [
            rng.permutation(
                np.concatenate(
                    [
                        rng.choice(shown[digit], half, replace=False)
                        for digit, half in zip(pair, halves)
                    ]
                )
            )
            for pair in pairs
        ]
    )  # (n_tasks, n_samples)
    X = (2 * images - 1)[rows[..., None], permutations[paths][:, None]]
    X = X.reshape(-1, images.shape[1])
    X += noise * rng.standard_normal(X.shape)
    tasks = np.repeat(np.arange(len(pairs)), n_samples)
    permuted = PermutedDigits(permutations, paths, pairs)
    found = X, labels[rows].ravel(), tasks
    return (*found, permuted) if return_permutations else found


def _paths_in_turn(net, n_tasks):
    """Return paths that as many tasks take, up to one."""
    ids = np.arange(n_tasks) * net.n_paths // n_tasks
    if net.tree:
        return net.pathways.numpy()[ids]
    # there may be too many to list
    return np.stack(np.unravel_index(ids, net.n_modules), axis=1)


def _paths(paths, net, n_tasks):
    """Return paths that were given, if the supernet has them."""
    paths = np.asarray(paths)
    wanted = (n_tasks, len(net.layers))
    if paths.shape != wanted or paths.dtype.kind not in "iu":
        raise ValueError(
            f"paths must be integers of shape {wanted}, a module for each task and "
            f"layer; got {paths.dtype} of shape {paths.shape}."
        )
    paths = paths.astype(int)
    counts = np.array(net.n_modules)
    wrong = (paths < 0) | (paths >= counts)
    if net.tree and not wrong.any():
        # the last module tells those before it
        wrong = paths != paths[:, -1:] * counts // counts[-1]
    if wrong.any():
        task = int(wrong.any(1).argmax())
        kind = "tree" if net.tree else "supernet"
        raise ValueError(
            f"paths must be pathways of the {kind} with {net.n_modules} modules, "
            f"counted from 0; got {paths[task].tolist()} for task {task}."
        )
    return paths


def _layers(layers, n_features):
    """Return layers as pairs of integers whose modules can have orthonormal rows."""
    pairs = np.asarray(layers, dtype=object)
    if (pairs.ndim, *pairs.shape[1:]) != (2, 2) or not all(
        isinstance(number, Integral) for number in pairs.flat
    ):
        raise ValueError(
            "layers must be pairs of integers, the number of modules and their width; "
            f"got {layers!r}."
        )
    layers = tuple((int(n_modules), int(width)) for n_modules, width in pairs)
    read = n_features
    for layer, (_, width) in enumerate(layers):
        if width > read:
            raise ValueError(
                f"layer {layer} reads {read} numbers and cannot have {width} "
                f"orthonormal rows; widths must not grow, from n_features={n_features} "
                f"on, but layers={layers}."
            )
        read = width
    return layers


def _counts(n_samples, n_tasks):
    """Return the number of rows of each task."""
    if np.ndim(n_samples) == 0:
        _check_count("n_samples", n_samples)
        return np.full(n_tasks, n_samples)
    counts = np.asarray(n_samples)
    if counts.shape != (n_tasks,):
        raise ValueError(
            f"n_samples must be an integer, or one for each of {n_tasks} tasks; got "
            f"shape {counts.shape}."
        )
    if counts.dtype.kind not in "iu" or counts.min() < 1:
        raise ValueError(f"n_samples must be positive integers; got {n_samples!r}.")
    return counts


def _pairable(digits):
    """Return two or more distinct digits, in their order."""
    wanted = np.unique(np.atleast_1d(digits))
    are_digits = wanted.dtype.kind in "iu" and np.isin(wanted, range(10)).all()
    if not (are_digits and 2 <= len(wanted) == np.size(digits)):
        raise ValueError(
            f"digits must be two or more distinct ones, 0 to 9; got {digits!r}."
        )
    return wanted


def _check_count(name, value, least=1):
    if not isinstance(value, Integral) or value < least:
        raise ValueError(
            f"{name} must be an integer of {least} or more; got {value!r}."
        )


def _check_spreads(**spreads):
    for name, value in spreads.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be 0 or more, and finite; got {value}.")
