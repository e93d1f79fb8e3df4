"""min over B_1 .. B_K, k_t: sum_t min_h L_t(B_{k_t}'h): which tasks share a module.

This is clustering by subspaces, for tasks whose coefficients are known only roughly:
what counts is the loss of a task in a subspace, and not a distance. One start compares
the subspaces of all tasks and their neighbours, and takes those that together explain
most; the others draw tasks that are ill explained, one after the other, as k-means++
does. All go on by hard EM, and by moves that take a module away where it hurts least
and give it to tasks that fit worst.
"""

from dataclasses import dataclass

import torch

from ._path_step import path_losses
from ._supernet import Supernet
from ._task_equations import cholesky

# Noise that EM begins with, relative to the mean loss of a task, and its factor.
FIRST_TEMPERATURE, COOLING, LEAST_TEMPERATURE = 1.0, 0.8, 1e-3
# Sweeps of EM at most, after a start and after a move.
SWEEPS, SWEEPS_OF_MOVE = 30, 5
# Neighbours of a task, beyond the width, that its subspace is drawn through.
MORE_NEIGHBOURS = 2
# Times that the subspace of a task is drawn anew through those that it explains best.
POOL_SWEEPS = 3
# Tasks whose subspaces are compared, at most.
MOST_SEEDS = 500
# Modules that hurt little, of which a move takes one.
DONORS = 3
# Share by which a swap must lower the sum of losses.
LEAST_GAIN = 1e-9
# Groups whose scatter is summed up at the same time.
GROUPS_AT_ONCE = 64


@dataclass(frozen=True)
class Groups:
    """Which module each task has.

    Attributes
    ----------
    modules : torch.Tensor of shape (K, r, p)
        Orthonormal rows.
    codes : torch.Tensor of int of shape (T,)
        The module of each task.
    value : float
        The sum of losses.
    """

    modules: torch.Tensor
    codes: torch.Tensor
    value: float


class _Clustering:
    """Tasks, their coefficients without any sharing, and the steps of EM."""

    def __init__(self, tasks, n_modules, width, mu, generator):
        self.tasks, self.mu, self.generator = tasks, mu, generator
        self.net = Supernet(tasks.gram.shape[1], ((n_modules, width),))
        self.n_modules, self.width = n_modules, width
        root = cholesky(tasks.gram, mu)
        coef = torch.cholesky_solve(tasks.cross[:, :, None], root)[:, :, 0]
        # of the coefficients of each task, and relative to their size
        self.scatter = tasks.total(coef[:, :, None] * coef[:, None, :])  # (T, p, p)
        size = (
            self.scatter.flatten(1).norm(dim=1).clamp(min=torch.finfo(coef.dtype).tiny)
        )
        self.directions = self.scatter / size[:, None, None]
        self.square = tasks.total(tasks.square)
        self.n_near = min(width + MORE_NEIGHBOURS, tasks.n_tasks)

    def losses(self, modules):
        net = Supernet(self.net.n_features, ((len(modules), self.width),))
        return path_losses(self.tasks, net, [modules], self.mu)

    def subspaces_of(self, which, scatter=None):
        """Return the main directions of the coefficients of some tasks, in groups."""
        scatter = self.scatter if scatter is None else scatter
        return torch.cat(
            [  # some groups at a time
                _main_directions(scatter[part].sum(1), self.width)
                for part in which.split(GROUPS_AT_ONCE)
            ]
        )

    def grow(self, seeds):
        """Return a subspace through each of some tasks and its neighbours."""
        unit = self.directions.flatten(1)  # their products are squared cosines
        near = (unit[seeds] @ unit.T).topk(self.n_near, dim=1).indices
        return self.subspaces_of(near, self.directions)

    def update(self, codes, modules):
        """Return the subspaces of groups; those without a task stay."""
        scatter = self.scatter.new_zeros(self.n_modules, *self.scatter.shape[1:])
        scatter.index_add_(0, codes, self.scatter)
        is_used = torch.bincount(codes, minlength=self.n_modules) > 0
        found = _main_directions(scatter, self.width)
        return torch.where(is_used[:, None, None], found, modules)

    def em(self, modules, sweeps, temperature=0.0):
        """Assign and update in turn, with noise that vanishes: (modules, loss)."""
        codes = None
        for _ in range(sweeps):
            loss = self.losses(modules)
            if temperature > LEAST_TEMPERATURE:
                size = temperature * loss.min(1).values.mean().abs()
                loss = loss - size * self._gumbel(loss.shape).to(loss)
                temperature *= COOLING
            else:
                temperature = 0.0
            after = loss.argmin(1)
            if not temperature and codes is not None and torch.equal(after, codes):
                break
            codes = after
            modules = self.update(codes, modules)
        return modules, self.losses(modules)

    def from_pool(self):
        """Return subspaces of tasks and their likes that together explain most."""
        seeds = torch.arange(self.tasks.n_tasks)
        if len(seeds) > MOST_SEEDS:
            seeds = torch.randperm(len(seeds), generator=self.generator)[:MOST_SEEDS]
        pool = self.grow(seeds.to(self.square.device))
        square = self.square.clamp(min=torch.finfo(self.square.dtype).tiny)
        for _ in range(POOL_SWEEPS):
            share = self.losses(pool) / square[:, None]
            near = share.topk(self.n_near, dim=0, largest=False).indices
            pool = self.subspaces_of(near.T)
        return pool[_choose(self.losses(pool), self.n_modules)]

    def one_by_one(self):
        """Return subspaces, each of a task that those before it explain badly."""
        seed = torch.randint(self.tasks.n_tasks, (1,), generator=self.generator)
        rest, found = self.square.clone(), []
        for _ in range(self.n_modules):
            module = self.grow(seed.to(rest.device))
            found.append(module[0])
            rest = torch.minimum(rest, self.losses(module)[:, 0])
            seed = self._draw(rest)
        return torch.stack(found)

    def split_and_merge(self, modules, loss, n_moves):
        """Move modules from where they hurt least to tasks that fit worst."""
        value = float(loss.min(1).values.sum())
        for _ in range(n_moves):
            best, which = loss.topk(2, dim=1, largest=False)
            cost = loss.new_zeros(self.n_modules)
            cost.index_add_(0, which[:, 0], best[:, 1] - best[:, 0])
            donors = cost.argsort()[:DONORS]
            donor = donors[torch.randint(len(donors), (1,), generator=self.generator)]
            seed = self._draw(best[:, 0] ** 2)
            changed = modules.clone()
            changed[donor] = self.grow(seed.to(loss.device))
            changed, after = self.em(changed, SWEEPS_OF_MOVE)
            total = float(after.min(1).values.sum())
            if total < value:
                modules, loss, value = changed, after, total
        return modules, loss

    def _draw(self, weights):
        """Draw a task; weights that are all zero draw any."""
        weights = weights.clamp(min=0).cpu().double()
        if not weights.sum() > 0:
            weights = torch.ones_like(weights)
        return torch.multinomial(weights, 1, generator=self.generator)

    def _gumbel(self, shape):
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return -torch.log(-torch.log(uniform.clamp(min=torch.finfo().tiny)))


def group_tasks(
    tasks,
    n_modules,
    width,
    mu,
    *,
    generator=None,
    start="pool",
    anneal=True,
    n_moves=20,
):
    """Group tasks by the subspace that their coefficients lie in.

    Parameters
    ----------
    tasks : TaskEquations
        The tasks.
    n_modules : int
        Number of groups.
    width : int
        Dimension of their subspaces.
    mu : float
        Penalty of the squared norm of a head.
    generator : torch.Generator, default=None
        What is drawn; None where there is a single group.
    start : {"pool", "one-by-one"}, default="pool"
        Where EM begins: see above.
    anneal : bool, default=True
        Whether assignments of "one-by-one" are noisy at first.
    n_moves : int, default=20
        Moves of a module that are tried.

    Returns
    -------
    Groups
        The groups.
    """
    clustering = _Clustering(tasks, n_modules, width, mu, generator)
    each = torch.arange(tasks.n_tasks, device=tasks.gram.device)
    if n_modules == 1:
        modules = clustering.subspaces_of(each[None])
        loss = clustering.losses(modules)
    elif len(each) <= n_modules:  # a module for each
        used = clustering.subspaces_of(each[:, None])
        modules = used.new_zeros(n_modules, *used.shape[1:])
        modules[each] = used
        loss = clustering.losses(modules)
        return Groups(modules, each, float(loss[each, each].sum()))
    else:
        from_pool = start == "pool"
        modules = clustering.from_pool() if from_pool else clustering.one_by_one()
        heat = FIRST_TEMPERATURE if anneal and not from_pool else 0.0
        modules, loss = clustering.em(modules, SWEEPS, heat)
        modules, loss = clustering.split_and_merge(modules, loss, n_moves)
    best, codes = loss.min(1)
    return Groups(modules, codes, float(best.sum()))


def _main_directions(scatter, width):
    """Return the eigenvectors of the largest eigenvalues, as rows."""
    return torch.linalg.eigh(scatter).eigenvectors[..., -width:].mT.contiguous()


def _choose(loss, n_modules):
    """Return columns whose least losses have a small sum: one by one, then by swaps."""
    best, chosen = loss.new_full((len(loss),), torch.inf), []
    for _ in range(min(n_modules, loss.shape[1])):
        column = int(torch.minimum(best[:, None], loss).sum(0).argmin())
        chosen.append(column)
        best = torch.minimum(best, loss[:, column])
    value, has_moved = float(best.sum()), len(chosen) > 1
    while has_moved:
        has_moved = False
        for i in range(len(chosen)):
            others = loss[:, chosen[:i] + chosen[i + 1 :]].min(1).values
            totals = torch.minimum(others[:, None], loss).sum(0)
            column = int(totals.argmin())
            if float(totals[column]) < value - LEAST_GAIN * abs(value):
                chosen[i], value, has_moved = column, float(totals[column]), True
    repeated = chosen[:1] * (n_modules - len(chosen))
    return chosen + repeated
