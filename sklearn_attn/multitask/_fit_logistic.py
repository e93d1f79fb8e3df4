"""min sum_t sum_i -log softmax(H_t phi_{a_t}(x_ti) + b_t)[y_ti]  (2303.04338).

Linear modules for classes, with penalties. Modules and heads descend together along
given paths; heads alone are Newton's affair; paths are compared by the losses that
heads reach.
"""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from .._lbfgs import lbfgs
from .._solution import Solution
from ._multipath_erm import MultipathFit
from ._supernet import compose, in_gauge
from ._task_heads import class_logits, logistic_heads

# Rounds of modules and paths in turn, and paths that are compared at most.
MOST_ROUNDS, MOST_COMPARED = 3, 64


def along_paths(x, modules, paths, task):
    """Return the features of each row, along the path of its task."""
    distinct, which = paths.unique(dim=0, return_inverse=True)
    phi = compose(modules, distinct)[-1]
    of_row = which[task]
    order = of_row.argsort(stable=True)
    counts = torch.bincount(of_row, minlength=len(distinct)).tolist()
    parts = [rows @ B.T for rows, B in zip(x[order].split(counts), phi)]
    return torch.cat(parts)[order.argsort()]


def heads_along(x, codes, task, labels, modules, paths, alpha, scale, fit_intercept):
    """Return the heads of all tasks along their paths, and their features."""
    z = along_paths(x, modules, paths, task)
    found = logistic_heads(
        z, codes, task, labels, alpha, fit_intercept=fit_intercept, scale=scale
    )
    return *found.value, z


def fit_logistic(
    x,
    codes,
    task,
    labels,
    supernet,
    start,
    *,
    alpha,
    mu,
    scale,
    fit_intercept,
    is_open,
    max_iter,
    tol,
    on_round,
):
    """Fit modules, heads and paths to classes.

    Parameters
    ----------
    x : torch.Tensor of shape (n, p)
        Features.
    codes, task : torch.Tensor of int of shape (n,)
        The class and the task of each row.
    labels : torch.Tensor of bool of shape (T, C)
        The classes that each task has.
    supernet : Supernet
        Of which paths are.
    start : MultipathFit
        Where to start.
    alpha, mu : float
        Penalties of coefficients, relative to `scale`, and of modules, relative to the
        rows of a task.
    scale : torch.Tensor of shape (T,)
        Rows times the mean variance of their features, for each task.
    fit_intercept : bool
        Whether heads have intercepts.
    is_open : bool
        Whether paths may change.
    max_iter, tol : int, float
        Limits of L-BFGS.
    on_round : callable
        Called with (MultipathFit, objectives so far); returns whether to stop.

    Returns
    -------
    Solution
        `value` is a :class:`MultipathFit`.
    """
    modules, paths = start.modules, start.paths
    curve, n_iter, converged = [], 0, True
    for _ in range(MOST_ROUNDS):
        found = _descend(
            x, codes, task, labels, modules, paths, alpha, mu, scale, fit_intercept,
            max_iter, tol,
        )  # fmt: skip
        modules = in_gauge(found.value, paths)
        n_iter, converged = n_iter + found.n_iter, found.converged
        curve.append(found.history["objective"][-1])
        fit = MultipathFit(modules, paths)
        if on_round(fit, curve) or not is_open or supernet.n_paths > MOST_COMPARED:
            break
        losses = _path_losses(
            x, codes, task, labels, supernet, modules, alpha, scale, fit_intercept
        )
        after = supernet.pathways.to(paths.device)[losses.argmin(1)]
        if torch.equal(after, paths):
            break
        paths = after
    return Solution(
        MultipathFit(modules, paths), n_iter, converged, {"objective": curve}
    )


def _path_losses(
    x, codes, task, labels, supernet, modules, alpha, scale, fit_intercept
):
    """Return the penalised loss of each task along every path."""
    found = []
    for path in supernet.pathways.to(task.device):
        paths = path.expand(len(labels), -1)
        coef, intercept, z = heads_along(
            x, codes, task, labels, modules, paths, alpha, scale, fit_intercept
        )
        logits = class_logits(z, task, coef, intercept, labels)
        losses = cross_entropy(logits, codes, reduction="none")
        total = x.new_zeros(len(labels)).index_add_(0, task, losses)
        found.append(total + alpha / 2 * scale * coef.square().sum((1, 2)))
    return torch.stack(found, dim=1)


def _descend(
    x,
    codes,
    task,
    labels,
    modules,
    paths,
    alpha,
    mu,
    scale,
    fit_intercept,
    max_iter,
    tol,
):
    """Minimise over modules and heads by L-BFGS; return modules as a `Solution`."""
    coef, intercept, _ = heads_along(
        x, codes, task, labels, modules, paths, alpha, scale, fit_intercept
    )
    parts = [*modules, coef, intercept]
    shapes = [part.shape for part in parts]
    sizes = [part.numel() for part in parts]
    weight = mu * len(x) / len(labels)

    def loss_of(parts):
        *modules, coef, intercept = parts
        coef = coef * labels[:, :, None]
        if not fit_intercept:
            intercept = torch.zeros_like(intercept)
        theta = coef @ compose(modules, paths)[-1]  # (T, C, p)
        z = along_paths(x, modules, paths, task)
        logits = class_logits(z, task, coef, intercept, labels)
        loss = cross_entropy(logits, codes, reduction="sum")
        loss = loss + alpha / 2 * (scale[:, None, None] * theta.square()).sum()
        size = sum(B.square().sum() for B in modules) + coef.square().sum()
        return (loss + weight / 2 * size) / len(x)

    def value_and_gradient(flat):
        flat = torch.from_numpy(flat).to(x).requires_grad_()
        with torch.enable_grad():
            split = [
                part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes)
            ]
            loss = loss_of(split)
            (gradient,) = torch.autograd.grad(loss, flat)
        return float(loss.detach()), gradient.double().cpu().numpy()

    start = torch.cat([part.flatten() for part in parts]).double().cpu().numpy()
    found = lbfgs(
        value_and_gradient,
        start,
        tol=tol,
        max_iter=max_iter,
        on_iteration=lambda theta, curve: _is_flat(curve, tol),
        dtype=x.dtype,
    )
    flat = torch.from_numpy(np.array(found.value)).to(x)
    split = [part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes)]
    history = {"objective": found.history["objective"] or [float(loss_of(parts))]}
    return Solution(split[: len(modules)], found.n_iter, found.converged, history)


def _is_flat(curve, tol):
    """Tell whether the last iteration lowered the objective by too little."""
    return len(curve) > 1 and curve[-2] - curve[-1] < tol * abs(curve[-2])
