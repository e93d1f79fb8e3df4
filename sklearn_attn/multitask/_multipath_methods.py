"""What MultipathMTL and MultipathMTLClassifier have in common.

No class inherits from another here: each takes the methods that fit it by name
(`transform = methods.transform`). A class says how it differs by `_learn`, its solvers,
and by `_heads_of`, the heads of a task over features.
"""

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from .._arrays import (
    cpu_generator,
    few_threads,
    follow,
    pack_state,
    resolve_device,
    resolve_dtype,
    to_numpy,
    to_tensor,
    unpack_state,
)
from .._compat import HasMethods, Interval, StrOptions, check_same_namespace
from .._validation import check_task_rows
from ._deep_supernet import ACTIVATIONS, DeepSupernet
from ._multipath_erm import ROUGH_ITERATIONS, ROUGH_TOL, MultipathFit, multipath_erm
from ._path_step import path_losses
from ._supernet import MOST_PATHS, Supernet, compose
from ._task_equations import TaskEquations, cholesky
from ._train_supernet import train_supernet
from ._transfer import path_errors, ridge_error

DOC_LINK_TEMPLATE = (
    "https://sklearn-attn.readthedocs.io/en/stable/generated/"
    "{estimator_module}.{estimator_name}.html"
)
# Where `max_iter` is None: iterations of Gauss-Newton, and epochs.
MAX_ITER, MAX_EPOCHS = 500, 1000
# Ridges, relative to the features, that a task by itself is compared with.
ALPHAS = tuple(10.0**k for k in range(-6, 4))
# Iterations of L-BFGS for classes, which go on from least squares.
MAX_STEPS = 500
# Sums of squares of targets that are constant.
TINY = np.finfo(float).tiny
# Rows of a task of which one is left out to choose between solvers.
ONE_IN = 5
MOST_SEED = np.iinfo(np.int32).max
# What only some settings leave behind, and a later fit must not find.
OPTIONAL = ("task_coef_", "path_losses_")
CONSTRAINTS = {
    "layers": ["array-like"],
    "paths": [StrOptions({"auto"}), "array-like", None],
    "tree": ["boolean"],
    "task_feature": [Integral, str, None],
    "fit_intercept": ["boolean"],
    "alpha_head": [Interval(Real, 0, None, closed="left")],
    "alpha_module": [Interval(Real, 0, None, closed="left")],
    "solver": [StrOptions({"auto", "als", "moment", "torch"})],
    "path_search": [StrOptions({"anneal_em", "em", "gumbel"})],
    "n_init": [Interval(Integral, 1, None, closed="left")],
    "split_merge": [Interval(Integral, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left"), None],
    "tol": [Interval(Real, 0, None, closed="left")],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "module": [HasMethods("__call__"), None],
    "learning_rate": [Interval(Real, 0, None, closed="neither")],
    "batch_size": [Interval(Integral, 1, None, closed="left"), None],
    "selection": [StrOptions({"loo", "insample"})],
    "device": [str],
    "random_state": ["random_state"],
    "warm_start": ["boolean"],
    "n_jobs": [Integral, None],
    "verbose": ["verbose"],
}


@dataclass(frozen=True)
class Problem:
    """Rows of tasks, ready to learn from.

    Attributes
    ----------
    x : torch.Tensor of shape (n_samples, p)
        Features.
    row, task : torch.Tensor of int of shape (n,)
        Where the features of each target are, and its task.
    y : torch.Tensor of shape (n,)
        Targets, or codes of classes.
    tasks : ndarray of shape (T,)
        Names of the tasks.
    paths : torch.Tensor of int of shape (T, L) or None
        Paths, if they are given.
    supernet : Supernet
        Of which paths are.
    is_wide : bool
        Whether all tasks see the same rows.
    solver : str
        "auto", if it is still to be chosen, "als", "moment" or "torch".
    """

    x: torch.Tensor
    row: torch.Tensor
    task: torch.Tensor
    y: torch.Tensor
    tasks: np.ndarray
    paths: torch.Tensor | None
    supernet: Supernet
    is_wide: bool
    solver: str

    @property
    def n_tasks(self):
        return len(self.tasks)

    @property
    def counts(self):
        return torch.bincount(self.task, minlength=self.n_tasks)


@dataclass(frozen=True)
class Units:
    """What deep modules read instead of x: (x - shift) / scale."""

    shift: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, x, fit_intercept):
        """Return units in which columns have mean 0 and all together variance 1."""
        shift = x.mean(0) if fit_intercept else torch.zeros_like(x[0])
        scale = (x - shift).square().mean().sqrt()
        return cls(shift, torch.where(scale > 0, scale, torch.ones_like(scale)))

    def apply(self, x):
        """Return x in these units."""
        return (x - self.shift) / self.scale

    def cpu(self):
        """Return the same in main memory."""
        return Units(self.shift.cpu(), self.scale.cpu())


@dataclass(frozen=True)
class Model:
    """Modules, paths and heads, on the CPU.

    Attributes
    ----------
    supernet : Supernet
        Of which paths are.
    modules : list of torch.Tensor, or DeepSupernet
        What the layers do.
    paths : torch.Tensor of int of shape (T, L)
        The path of each task.
    heads : torch.Tensor of shape (T, r) or (T, C, r)
        Heads.
    intercept : torch.Tensor of shape (T,) or (T, C)
        Intercepts.
    names : ndarray of shape (T,)
        Names of the tasks.
    is_wide : bool
        Whether all tasks see the same rows.
    units : Units or None
        Of what deep modules read.
    classes : ndarray of shape (C,) or None
        Names of the classes.
    labels : torch.Tensor of bool of shape (T, C) or None
        The classes that each task has.
    """

    supernet: Supernet
    modules: object
    paths: torch.Tensor
    heads: torch.Tensor
    intercept: torch.Tensor
    names: np.ndarray
    is_wide: bool
    units: Units | None = None
    classes: np.ndarray | None = None
    labels: torch.Tensor | None = None

    @property
    def is_linear(self):
        return isinstance(self.modules, list)

    def features(self, x, paths):
        """Return what a path for each row makes of it."""
        with torch.no_grad():
            if not self.is_linear:
                return self.modules(self.units.apply(x), paths)
            ids, distinct = _distinct(self.supernet, paths)
            phi = compose(self.modules, distinct)[-1]
            z = x.new_empty(len(x), phi.shape[1])
            for i in range(len(distinct)):
                z[ids == i] = x[ids == i] @ phi[i].T
            return z

    def all_features(self, x):
        """Return what every path makes of rows: (n_paths, n, r)."""
        with torch.no_grad():
            if not self.is_linear:
                return self.modules.all_paths(self.units.apply(x))
            phi = compose(self.modules, self.supernet.pathways)[-1]
            return torch.einsum("arp,np->anr", phi, x)

    def ridge(self, z, x, alpha, fit_intercept):
        """Return the ridge of heads over features of each path, as matrices."""
        r = z.shape[-1]
        if not self.is_linear:
            seen = z - z.mean(1, keepdim=True) if fit_intercept else z
            scale = seen.square().sum((1, 2)) / r
            return alpha * scale[:, None, None] * torch.eye(r, dtype=z.dtype)
        seen = x - x.mean(0) if fit_intercept else x
        phi = compose(self.modules, self.supernet.pathways)[-1]
        return alpha * float(seen.square().sum(0).mean()) * (phi @ phi.mT)


def _distinct(supernet, paths):
    """Return which of the distinct paths each row has, and these."""
    ids, back = supernet.path_ids(paths).unique(return_inverse=True)
    first = torch.zeros(len(ids), dtype=torch.long)
    first[back.flip(0)] = torch.arange(len(paths)).flip(0)
    return back, paths[first]


def prepare(self, X, y, tasks, *, y_numeric):
    """Validate rows and settings, and return them as a `Problem`."""
    device = resolve_device(self.device)
    layers = _check_layers(self.layers)
    linear = self.activation == "identity" and self.module is None
    solver = self.solver
    if solver == "auto" and (not linear or self.path_search == "gumbel"):
        solver = "torch"
    if solver != "torch" and not linear:
        raise ValueError(
            f"solver={solver!r} is for linear modules; with activation="
            f"{self.activation!r} or a module of your own, use 'torch' or 'auto'."
        )
    if solver != "torch" and self.path_search == "gumbel":
        raise ValueError(
            f"path_search='gumbel' needs solver='torch'; got solver={solver!r}."
        )
    table = check_task_rows(
        self,
        X,
        y,
        tasks,
        reset=True,
        column=self.task_feature,
        y_numeric=y_numeric,
    )
    if table.columns is not None and table.labels is not None:
        raise ValueError(
            "y has two axes, so its columns are the tasks; leave out task_feature and "
            "tasks."
        )
    names, row, task, targets = _long_form(table)
    p, n = table.x.shape[1], len(table.x)
    if solver == "torch":  # what is not linear can use more than there are features
        supernet = Supernet(p, layers, self.tree)
    else:
        supernet = _clip(layers, n, p, self.tree)
    given = self.paths
    paths = None
    if not (given is None or (isinstance(given, str) and given == "auto")):
        paths = _check_paths(given, supernet, len(names))
    dtype = torch.float64
    if solver == "torch":
        dtype = resolve_dtype("auto", table.x, device)
    elif device.type == "mps":
        dtype = torch.float32
    problem = Problem(
        to_tensor(table.x, device=device, dtype=dtype),
        *(torch.from_numpy(part).to(device) for part in (row, task)),
        np.ascontiguousarray(targets),
        names,
        paths,
        supernet,
        table.columns is not None,
        solver,
    )
    if supernet.layers != layers:
        warnings.warn(
            f"{n} samples of {p} features do not fill widths of {layers}; they are "
            f"clipped to {supernet.layers}.",
            UserWarning,
            stacklevel=6,
        )
    return problem


def _check_layers(layers):
    """Return the layers as a tuple of pairs of integers."""
    try:
        rows = np.asarray(layers)
    except ValueError:  # ragged
        rows = np.empty(0)
    if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            "layers must hold a pair (number of modules, width) of integers for each "
            f"layer; got {layers!r}."
        )
    if len(rows) == 0 or rows.min() < 1:
        raise ValueError(f"Numbers of modules and widths start at 1; got {layers!r}.")
    return tuple((int(n), int(width)) for n, width in rows)


def _clip(layers, n_samples, n_features, tree):
    """Return the supernet with widths that data can fill."""
    most, clipped = min(n_samples, n_features), []
    for n_modules, width in layers:
        most = min(width, most)
        clipped.append((n_modules, most))
    return Supernet(n_features, tuple(clipped), tree)


def _check_paths(paths, supernet, n_tasks):
    """Return given paths as integers; each must be one of the supernet."""
    L = len(supernet.layers)
    try:
        rows = np.asarray(to_numpy(paths))
    except ValueError:
        raise ValueError("paths must have as many modules for each task.") from None
    if rows.ndim == 1 and L == 1:
        rows = rows[:, None]
    if rows.shape != (n_tasks, L) or rows.dtype.kind not in "iu":
        raise ValueError(
            f"paths must be 'auto' or integers of shape ({n_tasks}, {L}), a module of "
            f"each layer for each task; got shape {rows.shape} and dtype {rows.dtype}."
        )
    out = (rows < 0) | (rows >= np.array(supernet.n_modules))
    if out.any():
        t, layer = np.argwhere(out)[0]
        raise ValueError(
            f"The path {rows[t].tolist()} of task {t} is impossible: layer {layer} has "
            f"modules 0 to {supernet.n_modules[layer] - 1}."
        )
    result = torch.from_numpy(rows.astype(np.int64))
    if supernet.tree:
        right = supernet.pathways[result[:, -1]]
        wrong = (right != result).any(1)
        if wrong.any():
            t = int(torch.nonzero(wrong)[0])
            raise ValueError(
                f"The path {rows[t].tolist()} of task {t} is impossible in the tree: "
                f"module {rows[t, -1]} of the last layer is reached by "
                f"{right[t].tolist()} only."
            )
    return result


def _long_form(table):
    """Return names of tasks, and row, task and target of each target that is there."""
    n = len(table.x)
    if table.columns is None:
        labels = np.zeros(n, dtype=np.int64) if table.labels is None else table.labels
        names, task = _unique(labels)
        return names, np.arange(n), task.astype(np.int64), table.y
    there = ~is_missing(table.y)
    if not there.any(0).all():
        j = int(np.argmin(there.any(0)))
        raise ValueError(f"Column {table.columns[j]!r} of y has no target at all.")
    task, row = np.nonzero(there.T)
    return table.columns, row, task, table.y.T[there.T]


def is_missing(y):
    if y.dtype.kind == "f":
        return np.isnan(y)
    if y.dtype.kind == "O":
        return np.array([[_is_nothing(v) for v in row] for row in y], dtype=bool)
    return np.zeros(y.shape, dtype=bool)


def _is_nothing(value):
    """Tell None, NaN and what data frames write for missing labels."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA neither equals itself nor does not
        return True


def _unique(labels):
    """Return distinct labels in their order, or in that of their coming."""
    try:
        names, codes = np.unique(labels, return_inverse=True)
        return names, codes
    except TypeError:  # numbers and names have no order
        places: dict = {}
        codes = np.array([places.setdefault(label, len(places)) for label in labels])
        names = np.empty(len(places), dtype=object)
        names[:] = list(places)
        return names, codes


def warn_of_few(self, problem, *, depth):
    """Warn where there are fewer samples than parameters, except for moments."""
    mean = float(problem.counts.double().mean())
    shares = problem.n_tasks > 1 and self._model.is_linear
    if shares and self.solver != "moment" and mean < self.n_min_:
        warnings.warn(
            f"Tasks have {mean:.1f} samples on average, but the supernet has as many "
            f"parameters as {self.n_min_:.1f} would determine: only the penalties make "
            "up for the difference. Compare with fewer modules, smaller "
            "widths and larger alpha_head.",
            UserWarning,
            stacklevel=depth,
        )


def warn_of_limit(self, solution, *, depth):
    if not solution.converged:
        usual = MAX_EPOCHS if self.solver_ == "torch" else MAX_ITER
        limit = f"max_iter={self.max_iter or usual}"
        warnings.warn(
            f"Modules did not converge in {limit} iterations. Increase max_iter or "
            "tol.",
            ConvergenceWarning,
            stacklevel=depth,
        )


def previous(self, problem):
    """Return the model to start from, with `warm_start`, if it fits."""
    model = getattr(self, "_model", None)
    if not self.warm_start or model is None:
        return None
    same = (
        model.supernet == problem.supernet
        and np.array_equal(model.names, problem.tasks)
        and model.is_linear == (problem.solver != "torch")
    )
    if same and not model.is_linear:
        net = model.modules
        same = net.is_built_in == (self.module is None)
        same = same and (not net.is_built_in or net.activation == self.activation)
    return model if same else None


def listen(self, X, y, attributes):
    """Return the root of callbacks, and what reports a round to them."""
    data = {"estimator": self, "X": X, "y": y}
    root = self._init_callback_context(max_subtasks=None)
    root.call_on_fit_task_begin(**data)

    def on_round(snapshot, curve):
        if self.verbose:
            print(f"round {len(curve)}: objective {curve[-1]:.6g}")
        step = root.subcontext(task_name="iteration")
        step.call_on_fit_task_begin(**data)
        return step.call_on_fit_task_end(
            **data, reconstruction_attributes=lambda: attributes(snapshot(), curve)
        )

    return root, data, on_round


def search_paths(self, problem, tasks, on_round):
    """Find linear modules and paths; return the solution."""
    start, paths = None, problem.paths
    if paths is not None:
        paths = paths.to(tasks.gram.device)
    model = previous(self, problem)
    if model is not None and paths is not None and not model.paths.equal(paths.cpu()):
        model = None  # modules of other paths
    if model is not None:
        modules = [B.to(tasks.gram) for B in model.modules]
        known = model.paths.to(tasks.gram.device) if paths is None else paths
        start = MultipathFit(modules, known)
    return multipath_erm(
        tasks.pooled() if problem.solver == "moment" else tasks,
        problem.supernet,
        mu=self.alpha_module,
        seeds=check_random_state(self.random_state).randint(
            MOST_SEED, size=self.n_init
        ),
        paths=paths,
        start=start,
        anneal=self.path_search == "anneal_em",
        n_moves=self.split_merge,
        n_jobs=self.n_jobs,
        max_iter=self.max_iter or MAX_ITER,
        tol=self.tol,
        on_round=lambda fit, curve: on_round(lambda: fit, curve),
    )


def with_solver(self, problem, moments_of, owner=None):
    """Return the problem with "als" or "moment", whichever predicts left-out rows."""
    solver = _better_solver(
        problem,
        moments_of,
        self.alpha_head,
        self.alpha_module,
        self.fit_intercept,
        check_random_state(self.random_state).randint(MOST_SEED),
        owner,
    )
    return replace(problem, solver=solver)


def _better_solver(problem, moments_of, alpha, mu, fit_intercept, seed, owner):
    """Compare solvers on a share of the rows of each task, which is left out."""
    counts = problem.counts
    n_out = counts // ONE_IN
    net = problem.supernet
    if int(n_out.sum()) < 1 or problem.n_tasks == 1:
        return "als"
    generator = torch.Generator().manual_seed(int(seed))
    order = torch.randperm(len(problem.task), generator=generator).to(problem.task)
    order = order[problem.task[order].argsort(stable=True)]  # at random within tasks
    start = (counts.cumsum(0) - counts)[problem.task[order]]
    rank = torch.arange(len(order), device=order.device) - start
    is_out = rank < n_out[problem.task[order]]
    kept, out = (moments_of(order[part]) for part in (~is_out, is_out))
    tasks, unit = TaskEquations.of_moments(
        kept, alpha, fit_intercept=fit_intercept, owner=owner
    )
    errors = {}
    for solver in ("als", "moment"):
        fit = multipath_erm(
            tasks.pooled() if solver == "moment" else tasks,
            net,
            mu=mu,
            seeds=[seed],
            paths=None if problem.paths is None else problem.paths.to(order.device),
            n_moves=0,
            max_iter=ROUGH_ITERATIONS,
            tol=ROUGH_TOL,
        ).value
        theta = unit * solve_along(tasks, fit)[1]
        b = kept.intercepts(theta) if fit_intercept else torch.zeros_like(theta[:, 0])
        errors[solver] = float(out.errors(theta, b).sum())
    return min(errors, key=errors.get)


def solve_along(tasks, fit):
    """Return heads and coefficients of each target, along the path of its task."""
    phi = compose(fit.modules, fit.paths)[-1]
    seen = tasks.along(phi)
    heads = torch.cholesky_solve(seen.cross[:, :, None], cholesky(seen.gram))
    return heads[:, :, 0], (phi[tasks.owner].mT @ heads)[:, :, 0]


def train(self, problem, x_unit, y, labels, on_round):
    """Train a deep supernet; return the solution, its value a `TrainedSupernet`."""
    generator = cpu_generator(self.random_state)
    model = previous(self, problem)
    x = x_unit.apply(problem.x)
    if model is None:
        net = DeepSupernet(
            problem.supernet,
            activation=self.activation,
            module=self.module,
            generator=generator,
            dtype=x.dtype,
            device=x.device,
        )
        paths = problem.paths
    else:
        net = copy.deepcopy(model.modules).to(x).requires_grad_(True)
        paths = model.paths if problem.paths is None else problem.paths
    curve = []

    def on_epoch(_, objective, snapshot):
        curve.append(objective)
        return on_round(snapshot, curve)

    return train_supernet(
        net,
        x[problem.row],
        y,
        problem.task,
        problem.n_tasks,
        labels=labels,
        paths=None if paths is None else paths.to(x.device),
        path_search=self.path_search,
        alpha_head=self.alpha_head,
        alpha_module=self.alpha_module,
        fit_intercept=self.fit_intercept,
        learning_rate=self.learning_rate,
        batch_size=self.batch_size,
        max_iter=self.max_iter or MAX_EPOCHS,
        tol=self.tol,
        generator=generator,
        on_epoch=on_epoch,
    )


def trained_model(problem, trained, x_unit):
    """Return what was trained, on the CPU."""
    model = Model(
        problem.supernet,
        copy.deepcopy(trained.net).cpu().requires_grad_(False),
        trained.paths.cpu(),
        trained.coef.detach().cpu(),
        trained.intercept.detach().cpu(),
        problem.tasks,
        problem.is_wide,
        x_unit.cpu(),
    )
    net = model.modules
    if not net.is_built_in or net.activation != "identity":
        return model
    modules = [W.detach().double() for W in net.weights]  # linear, as others are
    return without_units(replace(model, modules=modules))


def without_units(model):
    """Return a linear model that reads features as they are."""
    heads = (model.heads / model.units.scale).double()
    model = replace(model, heads=heads)
    offset = coefficients(model) @ model.units.shift.double()
    return replace(model, intercept=model.intercept.double() - offset, units=None)


def describe(problem, model, curve, n_iter, like):
    """Return what all models have, as fitted attributes."""
    put = follow(like)
    if model.is_linear:
        modules = [put(B.numpy().copy()) for B in model.modules]
    elif model.modules.is_built_in:
        modules = [put(W.detach().numpy().copy()) for W in model.modules.weights]
    else:
        modules = [list(layer) for layer in model.modules.modules_of_user]
    found = {
        "_model": model,
        "tasks_": _put_names(put, model.names),
        "n_task_samples_": put(problem.counts.cpu().numpy()),
        "modules_": modules,
        "supernet_": model.supernet,
        "loss_curve_": [float(value) for value in curve],
        "n_iter_": max(1, n_iter),
    }
    return found | describe_tasks(model, put)


def describe_tasks(model, put):
    """Return what belongs to tasks, as fitted attributes."""
    load = [
        torch.bincount(model.paths[:, layer], minlength=n)
        for layer, n in enumerate(model.supernet.n_modules)
    ]
    found = {
        "paths_": put(model.paths.numpy().copy()),
        "path_id_": put(model.supernet.path_ids(model.paths).numpy()),
        "heads_": put(model.heads.numpy().copy()),
        "intercept_": put(model.intercept.numpy().copy()),
        "module_load_": [put(each.numpy()) for each in load],
    }
    if model.is_linear:
        found["task_coef_"] = put(coefficients(model).numpy())
    return found


def coefficients(model):
    """Return the coefficients of linear tasks."""
    phi = compose(model.modules, model.paths)[-1]
    heads = model.heads if model.heads.ndim == 3 else model.heads[:, None]
    return (heads @ phi).reshape(*model.heads.shape[:-1], -1)


def _put_names(put, names):
    return put(names.copy()) if names.dtype.kind in "biuf" else names.copy()


def count(problem, model, n_targets):
    """Return what can be counted of the supernet, as fitted attributes."""
    net = model.supernet
    if model.is_linear:
        dof, most = net.degrees_of_freedom(n_targets), net.n_features
    else:
        n_weights = sum(W.numel() for W in model.modules.parameters())
        dof, most = n_targets * net.widths[-1] + n_weights, np.inf
    return {
        "dof_": dof,
        "n_min_": float(min(dof / n_targets, most)),
        "solver_": problem.solver,
    }


def objective_path(self):
    """Objective after each round or epoch."""
    check_is_fitted(self)
    return np.array(self.loss_curve_)


def mean_path_losses(problem, moments, tasks, modules, fit_intercept):
    """Return the mean loss of tasks along all paths; None if these are too many."""
    if problem.supernet.n_paths > MOST_PATHS:
        return None
    loss = path_losses(tasks, problem.supernet, modules, 0.0)
    squares = moments.equations(0.0, fit_intercept=fit_intercept).square
    y_unit = squares.sum() / tasks.square.sum().clamp(min=TINY)  # squared
    return (loss / problem.counts[:, None] * y_unit).cpu().numpy()


def keep(self, found):
    """Copy what was found into attributes."""
    for name in OPTIONAL:  # that an earlier fit may have left
        vars(self).pop(name, None)
    vars(self).update(found)


def rows_of(self, X, tasks, method):
    """Validate rows for a fitted model: (x, code of the task of each row, or None).

    Codes are None for all tasks of a wide model; -1 is a task that is not known.
    """
    check_is_fitted(self)
    check_same_namespace(X, self, attribute="paths_", method=method)
    table = check_task_rows(self, X, tasks=tasks, reset=False, column=self.task_feature)
    x = torch.from_numpy(np.ascontiguousarray(table.x))
    if table.labels is None:
        if self._model.is_wide:
            return x, None
        if len(self._model.names) > 1:
            raise ValueError(
                f"{type(self).__name__} was fitted to {len(self._model.names)} tasks, "
                f"so {method} must know which one a row belongs to: name a column of X "
                "by task_feature, or give tasks."
            )
        return x, torch.zeros(len(x), dtype=torch.long)
    places = {name: i for i, name in enumerate(self._model.names.tolist())}
    codes = [places.get(label, -1) for label in table.labels.tolist()]
    if -1 in codes and self.on_unknown == "error":
        label = table.labels.tolist()[codes.index(-1)]
        known = ", ".join(map(repr, self._model.names.tolist()[:5]))
        more = ", ..." if len(self._model.names) > 5 else ""
        raise ValueError(
            f"Task {label!r} was not seen in fit. Known are {known}{more}. Call "
            "add_task, or set on_unknown. If a transformer has scaled the ids, let "
            "them pass through a ColumnTransformer."
        )
    return x, torch.tensor(codes, dtype=torch.long)


def features_of(model, x, codes):
    """Return features of rows along the paths of their tasks, in their precision."""
    return model.features(x.to(precision(model)), model.paths[codes])


def features_by_path(model, x):
    """Yield the tasks of each path in use, and what the path makes of rows."""
    ids, distinct = _distinct(model.supernet, model.paths)
    x = x.to(precision(model))
    for i, path in enumerate(distinct):
        yield torch.nonzero(ids == i)[:, 0], model.features(x, path.expand(len(x), -1))


def precision(model):
    if model.is_linear:
        return torch.float64
    return next(model.modules.parameters()).dtype


def transform(self, X, tasks=None):
    """Return what the path of its task makes of each row.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows.
    tasks : label, or array-like of shape (n_samples,), default=None
        The task of the rows, or of each, where no column of X names it.

    Returns
    -------
    ndarray of shape (n_samples, n_features_out)
        What the last layer returns; NaN for tasks that are not known, if `on_unknown`
        is not "error". After a fit to a y of two axes, and without `tasks`, that of all
        paths in use, side by side.

    Raises
    ------
    ValueError
        If a task is not known, or is not named.
    """
    x, codes = rows_of(self, X, tasks, "transform")
    model = self._model
    with few_threads(x.numel()):
        if codes is None:
            z = torch.cat([z for _, z in features_by_path(model, x)], dim=1)
        else:
            known = codes >= 0
            z = x.new_full(
                (len(x), model.supernet.widths[-1]), torch.nan, dtype=precision(model)
            )
            z[known] = features_of(model, x[known], codes[known])
    return follow(X)(z.numpy().astype(x.numpy().dtype))


def fit_transform(self, X, y, tasks=None):
    """Fit, and return what the path of its task makes of each row.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_tasks)
        Targets.
    tasks : array-like of shape (n_samples,), default=None
        The task of each row, where no column of X names it.

    Returns
    -------
    ndarray of shape (n_samples, n_features_out)
        What the last layer returns.
    """
    return self.fit(X, y, tasks=tasks).transform(X, tasks=tasks)


def n_features_out(self):
    """Count the columns that `transform` returns."""
    model = self._model
    width = model.supernet.widths[-1]
    if not self._model.is_wide:
        return width
    return width * len(_distinct(model.supernet, model.paths)[1])


def check_new_rows(self, X, y, check_targets):
    """Validate rows of a task that is not in the table: (x, y)."""
    check_is_fitted(self)
    p = self._model.supernet.n_features
    X = check_array(to_numpy(X), dtype=[np.float64, np.float32])
    if X.shape[1] != p:
        raise ValueError(
            f"X has {X.shape[1]} features, but tasks have {p}; leave out a column that "
            "names tasks."
        )
    y = check_targets(y, len(X))
    x = torch.from_numpy(np.ascontiguousarray(X)).to(precision(self._model))
    return x, y


def choose_path(self, x, Y):
    """Return the path of least error for new rows, its error, and its features."""
    model = self._model
    if model.supernet.n_paths > MOST_PATHS:
        raise ValueError(
            f"The supernet has {model.supernet.n_paths} paths; only up to {MOST_PATHS} "
            "can be compared for a new task."
        )
    z = model.all_features(x)
    shift = model.ridge(z, x, self.alpha_head, self.fit_intercept)
    errors = path_errors(
        z,
        Y,
        shift,
        fit_intercept=self.fit_intercept,
        left_out=self.selection == "loo" and len(x) > 1,
    )
    best = int(errors.argmin())
    return best, errors, z[best], shift[best]


def add_task(self, X, y, *, task):
    """Learn a new task over the modules as they are.

    Its path is chosen by `selection`, and its head is fitted; the other tasks stay as
    they are.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_task_features)
        Rows of the task, without a column that names it.
    y : array-like of shape (n_samples,)
        Their targets.
    task : label
        What the task is called from now on.

    Returns
    -------
    self : estimator
        The model with one task more.

    Raises
    ------
    ValueError
        If there is such a task already, or X has another number of features.
    """
    check_is_fitted(self)
    names = self._model.names.tolist()
    if task in names:
        raise ValueError(f"There is a task {task!r} already.")
    if task is None or (isinstance(task, Iterable) and not isinstance(task, str)):
        raise ValueError(f"task must be one label; got {task!r}.")
    numeric = self._model.names.dtype.kind in "biuf"
    if numeric and self.task_feature is not None and not isinstance(task, Integral):
        raise ValueError(
            f"Tasks are whole numbers of the column {self.task_feature!r}; got "
            f"{task!r}."
        )
    x, y = check_new_rows(self, X, y, self._check_new_targets)
    with few_threads(x.numel() * self._model.supernet.n_paths):
        found = self._with_task(x, y)
    put = follow(self.paths_)
    grown = np.empty(len(names) + 1, dtype=object)
    grown[:] = [*names, task]
    if (numeric and isinstance(task, Real)) or (
        self._model.names.dtype.kind == "U" and isinstance(task, str)
    ):
        grown = np.array([*names, task])
    counts = np.append(to_numpy(self.n_task_samples_), len(x))
    found |= {
        "_model": replace(found["_model"], names=grown),
        "tasks_": _put_names(put, grown),
        "n_task_samples_": put(counts),
    }
    vars(self).update(found)
    return self


def grown_model(model, path, heads, intercept):
    """Return the model with one task more."""
    return replace(
        model,
        paths=torch.cat([model.paths, model.supernet.pathways[path][None]]),
        heads=torch.cat([model.heads, heads[None].to(model.heads)]),
        intercept=torch.cat([model.intercept, intercept[None].to(model.intercept)]),
    )


def bias_of(self, x, Y):
    """Return how much worse the best path is than a ridge regression."""
    with few_threads(x.numel() * self._model.supernet.n_paths):
        model = self._model
        z = model.all_features(x)
        shift = model.ridge(z, x, self.alpha_head, self.fit_intercept)
        options = {"fit_intercept": self.fit_intercept}
        along = float(path_errors(z, Y, shift, **options).min())
        return along - ridge_error(x, Y, ALPHAS, **options)


def supernet_bias(self, X, y):
    """Return what a new task loses by the modules: the bias of the supernet.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_task_features)
        Rows of the task, without a column that names it.
    y : array-like of shape (n_samples,)
        Their targets.

    Returns
    -------
    float
        The least error along any path, less that of the best ridge regression on all
        features. Both are mean squared errors on samples that are left out one at a
        time; a classifier sums them over indicators of its classes. Where it is
        negative, the supernet helps.

    Raises
    ------
    ValueError
        If X has another number of features, or fewer than 3 samples.
    """
    x, y = check_new_rows(self, X, y, self._check_new_targets)
    if len(x) < 3:
        raise ValueError(f"supernet_bias needs 3 samples or more; got {len(x)}.")
    return bias_of(self, x, self._as_targets(y))


def path_agreement(self, other):
    """Return how much the paths agree with others, whatever modules are called.

    Parameters
    ----------
    other : fitted estimator, or array-like of shape (n_tasks,) or (n_tasks, n_layers)
        A model that knows some of the same tasks, or paths (or labels of groups) of
        tasks in the order of `tasks_`.

    Returns
    -------
    float
        The adjusted Rand index: 1 if the same tasks share paths, near 0 for chance.

    Raises
    ------
    ValueError
        If there are not as many paths as tasks, or no task in common.
    """
    check_is_fitted(self)
    mine = self._model.supernet.path_ids(self._model.paths).numpy()
    if isinstance(other, BaseEstimator):
        check_is_fitted(other)
        if not isinstance(getattr(other, "_model", None), Model):
            raise ValueError(
                f"{type(other).__name__} has no paths; give MultipathMTL, "
                "MultipathMTLClassifier, or paths of tasks."
            )
        theirs = other._model.supernet.path_ids(other._model.paths).numpy()
        places = {name: i for i, name in enumerate(other._model.names.tolist())}
        both = [
            (i, places[name])
            for i, name in enumerate(self._model.names.tolist())
            if name in places
        ]
        if not both:
            raise ValueError("The models have no task in common.")
        at, there = np.array(both).T
        return float(adjusted_rand_score(mine[at], theirs[there]))
    rows = np.asarray(to_numpy(other))
    if rows.ndim not in (1, 2) or len(rows) != len(mine):
        raise ValueError(
            f"Paths of {len(mine)} tasks are needed; got shape {rows.shape}."
        )
    labels = np.unique(rows.reshape(len(rows), -1), axis=0, return_inverse=True)[1]
    return float(adjusted_rand_score(mine, labels.ravel()))


def getstate(self):
    """Make the state portable."""
    return pack_state(BaseEstimator.__getstate__(self))


def setstate(self, state):
    """Undo `getstate`."""
    BaseEstimator.__setstate__(self, unpack_state(self, state))
