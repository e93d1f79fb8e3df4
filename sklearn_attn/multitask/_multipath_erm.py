"""min over psi, a_t, h_t of (1/T) sum_t (1/N_t) sum_i (y_ti - h_t'phi_{a_t}(x_ti))^2.

Multipath empirical risk minimisation for linear supernets (2303.04338), with a ridge.
Rows are summed with equal weights, so that tasks with more of them count more. Paths
are found from the first layer to the last: what a module returns is fitted to the tasks
that share it, and these are grouped by what they need of it. Then all modules are
fitted together along these paths, and paths and modules improve in turn.
"""

from dataclasses import dataclass, replace

import torch
from joblib import Parallel, delayed

from .._solution import Solution
from ._fit_modules import FIRST_PENALTY, fit_modules
from ._group_tasks import group_tasks
from ._path_step import best_paths
from ._supernet import Supernet, compose, in_gauge
from ._task_equations import cholesky

# Rounds of paths and modules in turn, at most, and how often tasks are grouped anew.
MOST_ROUNDS, MOST_REGROUPS = 20, 3
# Iterations of the fits that only prepare the next step, and their tolerance.
ROUGH_ITERATIONS, ROUGH_TOL = 20, 1e-4
# A direction of a layer that is so small, relative to its largest, is closed.
LEAST_SIZE = 1e-6


@dataclass(frozen=True)
class MultipathFit:
    """Modules, and how tasks use them.

    Attributes
    ----------
    modules : list of torch.Tensor of shape (K_l, r_l, r_{l-1})
        The modules of each layer; zero without a task.
    paths : torch.Tensor of int of shape (T, L)
        The path of each task.
    """

    modules: list
    paths: torch.Tensor


def multipath_erm(
    tasks,
    supernet,
    *,
    mu,
    seeds,
    paths=None,
    start=None,
    anneal=True,
    n_moves=20,
    n_jobs=None,
    max_iter=100,
    tol=1e-6,
    on_round=None,
):
    """Find modules and paths of linear tasks.

    Parameters
    ----------
    tasks : TaskEquations
        The tasks.
    supernet : Supernet
        Layers of modules.
    mu : float
        Penalty of squared heads and modules, relative to the rows of a task.
    seeds : sequence of int
        One for each search, of which the best counts; or for each start along known
        paths, where modules read several others.
    paths : torch.Tensor of int of shape (T, L), default=None
        Paths, if they are known.
    start : MultipathFit, default=None
        Where to begin, instead of a search.
    anneal : bool, default=True
        Whether assignments are noisy at first.
    n_moves : int, default=20
        Moves of a module that each search tries, in every layer.
    n_jobs : int, default=None
        Searches that run at once, in threads.
    max_iter : int, default=100
        Iterations of the last fit of modules.
    tol : float, default=1e-6
        They end once one lowers the objective by less than this share.
    on_round : callable, default=None
        Called with (MultipathFit, objectives so far) after each round of paths and
        modules; returns whether to stop.

    Returns
    -------
    Solution
        `value` is a :class:`MultipathFit`; `n_iter` counts the iterations of modules,
        and `history` has the "objective" of each round, per row, and whether it was
        "stopped".
    """
    scale, penalty = float(tasks.n.sum()), mu * float(tasks.n.mean())
    search = _Search(tasks, supernet, mu, anneal, n_moves)
    n_regroups = 0
    if start is not None:
        is_open = paths is None and supernet.n_paths > 1
        modules, paths, first = start.modules, start.paths.clone(), None
    elif paths is not None:
        modules, first = _modules_along(tasks, supernet, paths, mu), FIRST_PENALTY
        if not supernet.tree and max(supernet.n_modules[:-1], default=1) > 1:
            modules, first = _best_along(tasks, modules, paths, mu, seeds), None
        is_open = False
    else:
        is_open = supernet.n_paths > 1
        n_regroups = MOST_REGROUPS if is_open else 0
        search.share()
        found = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(search.run)(number, seed)
            for number, seed in enumerate(seeds if is_open else seeds[:1])
        )
        _, modules, paths = min(found, key=lambda each: each[0])
        first = None
    curve, n_iter, stopped = [], 0, False

    def fit(modules, paths, rough, first=None):
        nonlocal n_iter
        limits = (ROUGH_ITERATIONS, max(tol, ROUGH_TOL)) if rough else (max_iter, tol)
        found = fit_modules(
            tasks,
            modules,
            paths,
            mu,
            max_iter=limits[0],
            tol=limits[1],
            first_penalty=first,
        )
        n_iter += found.n_iter
        return found

    def improve(found, paths, is_trial=False):
        """Let paths and modules improve in turn, until paths stay."""
        nonlocal stopped
        seen = set()
        for _ in range(MOST_ROUNDS):
            modules = found.value.modules
            if not is_trial:
                curve.append(found.value.value / scale)
            if on_round is not None and not is_trial:
                stopped = on_round(MultipathFit(in_gauge(modules, paths), paths), curve)
            seen.add(tuple(supernet.path_ids(paths).tolist()))
            after, _ = best_paths(tasks, supernet, modules, paths, penalty)
            ids = tuple(supernet.path_ids(after).tolist())
            if stopped or ids in seen:  # the same, or a tie that goes to and fro
                break
            paths = after
            found = fit(modules, paths, rough=True)
        return found, paths

    found = fit(modules, paths, is_open, first)
    if is_open:
        found, paths = improve(found, paths)
    for _ in range(n_regroups):
        grouped = search.regroup(found.value.modules, paths, seeds[0])
        if stopped or grouped is None:
            break
        other, others = improve(fit(*grouped, rough=True), grouped[1], True)
        if other.value.value >= found.value.value * (1 - ROUGH_TOL):
            break
        found, paths = other, others
    if is_open and not stopped:
        found = fit(found.value.modules, paths, rough=False)
    curve.append(found.value.value / scale)
    result = MultipathFit(in_gauge(found.value.modules, paths), paths)
    if on_round is not None and not stopped:
        stopped = on_round(result, curve)
    converged = found.converged or bool(stopped)
    history = {"objective": curve, "stopped": [bool(stopped)]}
    return Solution(result, n_iter, converged, history)


class _Search:
    """Paths by grouping tasks, layer after layer."""

    def __init__(self, tasks, supernet, mu, anneal, n_moves):
        self.tasks, self.supernet, self.mu = tasks, supernet, mu
        self.penalty = mu * float(tasks.n.mean())
        self.options = {"anneal": anneal, "n_moves": n_moves}
        self.shared = None

    def share(self):
        """Find the basis of what all tasks need, with which every search begins."""
        self.shared = self._basis(self.tasks, *self.supernet.layers[0])

    def run(self, number, seed):
        """Return (sum of losses, modules, paths)."""
        generator = torch.Generator().manual_seed(int(seed))
        net, tasks = self.supernet, self.tasks
        read = (net.n_features, *net.widths)
        gram = tasks.gram
        modules = [gram.new_zeros(n, r, q) for (n, r), q in zip(net.layers, read)]
        shape = tasks.n_tasks, len(net.layers)
        paths = torch.zeros(shape, dtype=torch.long, device=gram.device)
        start = "pool" if number == 0 else "one-by-one"
        branches = [(torch.arange(tasks.n_tasks, device=gram.device), tasks, 0)]
        for layer, (n_modules, width) in enumerate(net.layers):
            n_before = net.n_modules[layer - 1] if layer else 1
            n_children = n_modules // n_before if net.tree else n_modules
            value, after = 0.0, []
            for i, (members, seen, parent) in enumerate(branches):
                first = parent * n_children if net.tree else 0
                found = self._split(seen, n_children, width, start, generator)
                value += found.value
                if net.tree or i == 0:
                    modules[layer][first : first + n_children] = found.modules
                    order = torch.arange(n_children)
                else:  # which module of another branch is this? Any, to begin with
                    order = torch.randperm(n_children, generator=generator)
                paths[members, layer] = first + order.to(gram.device)[found.codes]
                for child in found.codes.unique().tolist():
                    k = first + int(order[child])
                    if not modules[layer][k].any():  # no other branch has it
                        modules[layer][k] = found.modules[child]
                    mine = torch.nonzero(found.codes == child)[:, 0]
                    reduced = seen[mine].within(found.modules[child])
                    after.append((members[mine], reduced, first + int(order[child])))
            branches = after
        return value, modules, paths

    def regroup(self, modules, paths, seed):
        """Group anew by the last layer, as the modules before it are known better now.

        Returns
        -------
        tuple or None
            Modules and paths; None if the groups are the same, or where modules of the
            last layer are shared by branches, which have no basis in common.
        """
        net, before = self.supernet, self.supernet.n_modules[:-1]
        if not net.tree and max(before, default=1) > 1:
            return None
        width = net.widths[-1]
        parents = paths[:, -2] if before else torch.zeros_like(paths[:, 0])
        n_children = net.n_modules[-1] // (before[-1] if net.tree and before else 1)
        if n_children == 1:
            return None
        generator = torch.Generator().manual_seed(int(seed))
        last, codes = modules[-1].clone(), paths[:, -1].clone()
        for parent in parents.unique().tolist():
            mine = torch.nonzero(parents == parent)[:, 0]
            first = parent * n_children if net.tree else 0
            if before:  # what the layer before returns, by what spans the same
                prefix = compose(modules[:-1], paths[mine[:1], :-1])[-1][0]
                U, sizes, basis = torch.linalg.svd(prefix, full_matrices=False)
                if sizes[-1] <= LEAST_SIZE * sizes[0]:
                    return None  # a penalty has closed some directions
                back = (U / sizes).T
            else:
                used = modules[0][codes.unique()]
                basis = torch.linalg.svd(used.flatten(0, 1), full_matrices=False).Vh
                back = basis
            found = group_tasks(
                self.tasks[mine].within(basis),
                n_children,
                width,
                self.penalty,
                generator=generator,
                **self.options,
            )
            last[first : first + n_children] = found.modules @ back
            codes[mine] = first + found.codes
        if _same_partition(codes, paths[:, -1]):
            return None
        return [*modules[:-1], last], torch.cat([paths[:, :-1], codes[:, None]], dim=1)

    def _split(self, tasks, n_modules, width, start, generator):
        """Group tasks by the modules that follow."""
        is_root = tasks is self.tasks
        basis = self.shared if is_root else self._basis(tasks, n_modules, width)
        found = group_tasks(
            tasks.within(basis),
            n_modules,
            width,
            self.penalty,
            generator=generator,
            start=start,
            **self.options,
        )
        return replace(found, modules=found.modules @ basis)

    def _basis(self, tasks, n_modules, width):
        """Return a basis of no more dimensions than these modules need together."""
        p = tasks.gram.shape[1]
        n_together = max(width, min(n_modules * width, p, len(tasks.gram)))
        if n_together == p:
            return torch.eye(p, dtype=tasks.gram.dtype, device=tasks.gram.device)
        return self._vanilla(tasks, n_together)

    def _vanilla(self, tasks, width):
        """Return an orthonormal basis of what all tasks need together."""
        paths = torch.zeros(
            tasks.n_tasks, 1, dtype=torch.long, device=tasks.gram.device
        )
        net = Supernet.vanilla(tasks.gram.shape[1], width)
        solution = fit_modules(
            tasks,
            _modules_along(tasks, net, paths, self.mu),
            paths,
            self.mu,
            max_iter=ROUGH_ITERATIONS,
            tol=ROUGH_TOL,
            first_penalty=FIRST_PENALTY,
        )
        return in_gauge(solution.value.modules, paths)[0][0]


def _modules_along(tasks, supernet, paths, mu):
    """Return modules for known paths, from the moments of those that share each."""
    penalty = mu * float(tasks.n.mean())
    seen = tasks.pooled()
    modules = []
    for layer, (n_modules, width) in enumerate(supernet.layers):
        B = tasks.gram.new_zeros(n_modules, width, seen.gram.shape[1])
        for k in paths[:, layer].unique().tolist():
            mine = torch.nonzero(paths[:, layer] == k)[:, 0]
            B[k] = _moment_module(seen[mine], width, penalty)
        seen = seen.along(B[paths[:, layer]])
        modules.append(B)
    return modules


def _best_along(tasks, modules, paths, mu, seeds):
    """Return the best of several starts, where modules read several others.

    They do not know yet what those mean by their directions, so that moments say
    little, and there are local minima.
    """
    starts = [modules]
    for seed in seeds[1:]:
        generator = torch.Generator().manual_seed(int(seed))
        drawn = [torch.randn(B.shape, generator=generator).to(B) for B in modules]
        starts.append([torch.linalg.qr(B.mT).Q.mT.contiguous() for B in drawn])
    points = [
        fit_modules(
            tasks,
            each,
            paths,
            mu,
            max_iter=ROUGH_ITERATIONS,
            tol=ROUGH_TOL,
            first_penalty=FIRST_PENALTY,
        ).value
        for each in starts
    ]
    return min(points, key=lambda point: point.value).modules


def _moment_module(tasks, width, penalty):
    """Return the directions that tasks with one Gram matrix need most of all.

    In coordinates in which that matrix is the identity, these are main directions of
    their coefficients; without a penalty, this is reduced-rank regression.
    """
    n = tasks.n[:, None]
    root = cholesky(tasks.gram.sum(0) / n.sum())
    coef = torch.cholesky_solve(tasks.cross[:, :, None], cholesky(tasks.gram, penalty))[
        :, :, 0
    ]
    seen = n.sqrt() * (coef @ root)
    main = torch.linalg.eigh(seen.T @ seen).eigenvectors[:, -width:]
    back = torch.linalg.solve_triangular(root.T, main, upper=True)
    return torch.linalg.qr(back).Q.T


def _same_partition(a, b):
    """Tell whether labels group alike, whatever they are called."""
    n = len(torch.stack([a, b]).unique(dim=1)[0])
    return n == len(a.unique()) == len(b.unique())
