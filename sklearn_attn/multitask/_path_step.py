"""a_t = argmin_a min_h L_t(phi_a'h) + mu |h|^2: the best paths  (2303.04338)."""

import torch

from ._supernet import MOST_PATHS, compose
from ._task_equations import cholesky, safe_shift

# Numbers held at once, in products of modules and Gram matrices.
CHUNK = 4_000_000
# Up to this width, elimination by hand takes less time than LAPACK matrix by matrix.
MOST_ELIMINATED = 3
# Up to this width, products with pairs of rows take less time than one after another.
MOST_SQUARED = 2
# Paths that a search layer by layer keeps of each task, and how often it goes through.
BEAM, SWEEPS = 4, 3


def path_losses(tasks, supernet, modules, mu):
    """Return the least loss of each task along every path.

    Parameters
    ----------
    tasks : TaskEquations
        The tasks.
    supernet : Supernet
        Of which the paths are.
    modules : list of torch.Tensor of shape (K_l, r_l, r_{l-1})
        The modules of each layer.
    mu : float
        Penalty of the squared norm of a head.

    Returns
    -------
    torch.Tensor of shape (T, n_paths)
        The losses. They cost as much for few rows as for many.
    """
    device = tasks.gram.device
    steps = [(i.to(device), k.to(device)) for i, k in supernet.prefixes]
    p = tasks.gram.shape[1]
    width = max(len(which) * len(modules[i][0]) for i, (_, which) in enumerate(steps))
    n = max(1, CHUNK // (width * p))
    parts = [
        _explained(tasks.gram[i : i + n], tasks.cross[i : i + n], steps, modules, mu)
        for i in range(0, len(tasks.gram), n)
    ]
    return tasks.total(tasks.square[:, None] - torch.cat(parts))


def _explained(gram, cross, steps, modules, mu):
    """Return c'phi'(phi G phi' + mu)^-1 phi c for each task and path."""
    gram, cross = gram[:, None], cross[:, None]  # (T, prefixes, r, r)
    for (before, which), B in zip(steps, modules):
        W = B[which]  # (prefixes, r_l, r_{l-1})
        if gram.shape[1] == 1:
            gram, cross = _through_each(gram[:, 0], cross[:, 0], W)
        else:
            gram = torch.einsum("tarq,asq->tars", W @ gram[:, before], W)
            cross = (W @ cross[:, before, :, None])[..., 0]
    return _quadratic(gram, cross, mu)


def _through_each(gram, cross, W):
    """Return W G W' and W c for each task and module, by one product for all."""
    T, (K, r, q) = len(gram), W.shape
    cross = (cross @ W.reshape(-1, q).T).reshape(T, K, r)
    if r <= MOST_SQUARED and K * (r * q) ** 2 <= CHUNK:
        # vec(W G W') = (W x W) vec(G)
        pairs = torch.einsum("krp,ksq->krspq", W, W).reshape(-1, q * q)
        return (gram.reshape(T, -1) @ pairs.T).reshape(T, K, r, r), cross
    seen = (W.reshape(-1, q) @ gram).reshape(T, K, r, q)
    return torch.einsum("tkrq,ksq->tkrs", seen, W), cross


def _quadratic(gram, cross, mu):
    """Return c'(G + mu)^-1 c for each of many matrices and vectors."""
    if gram.shape[-1] > MOST_ELIMINATED:
        root = cholesky(gram, mu)
        half = torch.linalg.solve_triangular(root, cross[..., None], upper=False)
        return (half * half).sum((-2, -1))
    shift, total = safe_shift(gram, mu), 0.0
    while cross.shape[-1]:
        pivot, row = gram[..., 0, 0] + shift, gram[..., 0, 1:]
        total = total + cross[..., 0] ** 2 / pivot
        ratio = row / pivot[..., None]
        gram = gram[..., 1:, 1:] - ratio[..., None] * row[..., None, :]
        cross = cross[..., 1:] - ratio * cross[..., :1]
    return total


def losses_along(tasks, modules, paths, mu):
    """Return the least loss of each task along a path of its own."""
    seen = tasks.along(compose(modules, paths)[-1])
    return tasks.total(tasks.square - _quadratic(seen.gram, seen.cross, mu))


def best_paths(tasks, supernet, modules, paths, mu):
    """Return the best path of each task, and its loss.

    All paths are compared; or, if they are too many, those that differ from one of the
    best so far in one module, layer after layer, from `paths` on.
    """
    if supernet.n_paths <= MOST_PATHS:
        loss, which = path_losses(tasks, supernet, modules, mu).min(1)
        return supernet.pathways.to(which.device)[which], loss
    T, L = paths.shape
    beam, best = paths[:, None], losses_along(tasks, modules, paths, mu)[:, None]
    for _ in range(SWEEPS):
        before = best[:, 0].clone()
        for layer, n in enumerate(supernet.n_modules):
            others = beam.repeat_interleave(n, dim=1)
            others[:, :, layer] = torch.arange(n).repeat(beam.shape[1]).to(paths)
            others = torch.cat([beam, others], dim=1)
            ids = supernet.path_ids(others.reshape(-1, L)).reshape(T, -1)
            loss = torch.stack(
                [
                    losses_along(tasks, modules, others[:, i], mu)
                    for i in range(others.shape[1])
                ],
                dim=1,
            )
            again = (ids[:, :, None] == ids[:, None, :]).tril(-1).any(2)
            loss = loss.masked_fill(again, torch.inf)
            best, kept = loss.topk(min(BEAM, n), dim=1, largest=False)
            beam = others.gather(1, kept[:, :, None].expand(-1, -1, L))
        if torch.equal(before, best[:, 0]):
            break
    return beam[:, 0], best[:, 0]
