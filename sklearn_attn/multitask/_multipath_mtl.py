"""MultipathMTL: f_t = h_t o phi_{a_t}, a path a_t for each task  (2303.04338)."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MultiOutputMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_consistent_length

from .._arrays import few_threads, follow, to_numpy
from .._compat import CallbackSupportMixin, StrOptions, fit_context, with_callbacks
from .._task_moments import TaskMoments, shared_moments
from .._validation import unharmed
from . import _multipath_methods as methods
from ._task_equations import TaskEquations, cholesky


class MultipathMTL(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    MultiOutputMixin,
    RegressorMixin,
    BaseEstimator,
):
    """Regression for many tasks, each with its path through shared modules.

    A supernet has layers of modules. Task t goes along a path a_t, one module of each
    layer, and ends in a head of its own [1]_::

        f_t(x) = h_t' psi_L^{a_t[L]}( ... psi_1^{a_t[1]}(x)) + b_t

    Tasks that share a module pool their samples for it. Who shares what is found from
    the data. Vanilla multitask learning is ``layers=((1, r),)``, clustered learning
    ``layers=((K, r),)``, and hierarchical learning has a ``tree``.

    The task of a row stands in a column of X, named by `task_feature`, so that it comes
    along wherever X goes: pipelines, searches, scorers. `tasks` is for direct use. A y
    of two axes has a task for each column, with NaN where a target is missing. With
    neither, there is one task.

    Read more in the :doc:`user guide </user_guide/multipath_mtl>`.

    Parameters
    ----------
    layers : array-like of shape (n_layers, 2), default=((1, 8), (10, 2))
        Number of modules, and width of what they return, of each layer.
    paths : "auto" or array-like of int of shape (n_tasks, n_layers), default="auto"
        The module of each layer for each task, tasks in the order of `tasks_`. "auto"
        (or None) finds them.
    tree : bool, default=False
        Whether each module reads one module of the layer before only.
    task_feature : int or str, default=None
        Column of X that names the task of a row, by whole numbers or, in a data frame
        or an array of objects, by strings.
    fit_intercept : bool, default=True
        Whether each task has a constant b_t.
    alpha_head : float, default=0.01
        Ridge on the coefficients of a task, relative to the mean variance of its
        features and its number of rows. With "torch", on heads.
    alpha_module : float, default=0.001
        Penalty of the squared entries of modules and heads, relative to the rows of a
        task. It acts on what tasks share like a penalty of the trace norm.
    solver : {"auto", "als", "moment", "torch"}, default="auto"
        How modules are found.

        - "als": least squares for modules, heads and paths in turn, from the sums of
          squares and products of each task; linear modules only.
        - "moment": the same, as if all tasks had the same covariance of features. It
          needs fewer samples to begin with, and gains less from more.
        - "torch": gradients of rows, for any modules.
        - "auto": for linear modules, unless `path_search` is "gumbel", "als" or
          "moment", whichever predicts rows better that are left out.
    path_search : {"anneal_em", "em", "gumbel"}, default="anneal_em"
        How paths are found: by the best path of each task and the best modules in turn,
        with noise that dies out or without; or by gates that learn, with "torch".
    n_init : int, default=5
        Searches for paths, of which the best counts. The first compares the tasks with
        their likes; the others begin by chance. Ignored by "torch".
    split_merge : int, default=20
        Attempts of each search, in each layer, to move a module from where it hurts
        least to tasks that fit worst. Ignored by "torch".
    max_iter : int, default=None
        Limit of iterations, or of epochs with "torch". None is 500 or 1000.
    tol : float, default=1e-6
        They end once one lowers the objective by less than this share.
    activation : {"identity", "relu", "tanh", "gelu", "sigmoid", "elu", "silu"}, \
            default="identity"
        What follows each module; other than "identity", modules have biases too.
    module : callable, default=None
        ``module(n_in, n_out)`` returns a `torch.nn.Module` to be used for modules.
    learning_rate : float, default=0.01
        Of Adam, with "torch".
    batch_size : int, default=None
        Rows of a batch, with "torch". None is all of them, if they are some thousands.
    on_unknown : {"error", "mean", "nan"}, default="error"
        What to predict for a task that is not known: nothing, the mean of what all
        tasks predict, or NaN.
    selection : {"loo", "insample"}, default="loo"
        How :meth:`add_task` compares paths: by errors on samples that are left out one
        at a time, or by those of the fit.
    device : str, default="cpu"
        Where to fit: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Determines searches, and with "torch" modules and batches to begin with.
    warm_start : bool, default=False
        Whether to begin with modules and paths of the last fit, if tasks and layers are
        the same.
    n_jobs : int, default=None
        Searches that run at once, in threads.
    verbose : int, default=0
        Whether to print a line per round.

    Attributes
    ----------
    tasks_ : ndarray of shape (n_tasks,)
        Names of the tasks, in their order; of columns of y, where they are the tasks.
    paths_ : ndarray of int of shape (n_tasks, n_layers)
        The module of each layer for each task.
    path_id_ : ndarray of int of shape (n_tasks,)
        The number of its path among all.
    modules_ : list of ndarray of shape (n_modules, width, width_before)
        The modules of each layer, zero if no task uses them. With rows that are
        orthonormal, if what reads them reads no other. Weights, if there are biases
        too, or lists of `torch.nn.Module`, with `module`.
    heads_ : ndarray of shape (n_tasks, width)
        Heads h_t.
    intercept_ : ndarray of shape (n_tasks,)
        Constants b_t.
    task_coef_ : ndarray of shape (n_tasks, n_task_features)
        Coefficients of the features for each task, where modules are linear.
    path_losses_ : ndarray of shape (n_tasks, n_paths)
        Mean squared error of each task along every path, with its own head and the
        ridge; for tasks of :meth:`add_task`, the errors by which paths were compared.
        Only with "als" and "moment", and no more than 4096 paths.
    supernet_ : Supernet
        Layers as they are used; widths of linear modules are clipped to what data can
        fill.
    solver_ : str
        "als", "moment" or "torch".
    module_load_ : list of ndarray of int of shape (n_modules,)
        How many tasks use each module of a layer.
    n_task_samples_ : ndarray of int of shape (n_tasks,)
        Samples of each task.
    dof_ : int
        Number of parameters of modules and heads.
    n_min_ : float
        Samples of a task that as many parameters ask for; linear modules never ask for
        more than features.
    loss_curve_ : list of float
        Mean squared error with its penalties after each round of paths and modules, or
        each epoch, in units of the variance of y.
    objective_path_ : ndarray of float
        The same, as an array.
    n_iter_ : int
        Number of iterations for modules, or of epochs.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    MultipathMTLClassifier : The same for classes.
    Supernet : Layers of modules, and what can be counted of them.
    PathwayDisplay : Which tasks share which modules.

    Notes
    -----
    Scaling all columns of X would scale the ids of tasks; use a
    :class:`~sklearn.compose.ColumnTransformer` that passes their column on. Every
    fold of a cross-validation must have each task: shuffle rows, or stratify by task.

    All rows weigh equally, so that a task with more of them counts more.

    "als" and "moment" go over the rows once; then they hold ``n_features**2`` numbers
    for each task, and need as long for many rows as for few. They work in float64.

    References
    ----------
    .. [1] Li and Oymak, "Provable Pathways: Learning Multiple Tasks over Multiple
           Paths", AAAI 2023, arXiv:2303.04338.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_multipath_tasks
    >>> from sklearn_attn.multitask import MultipathMTL
    >>> X, y, tasks = make_multipath_tasks(100, 20, random_state=0)
    >>> model = MultipathMTL(random_state=0).fit(X, y, tasks=tasks)
    >>> model.module_load_[1].tolist()  # each module of the second layer has ten tasks
    [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    >>> model.score(X, y, tasks=tasks) > 0.98
    True
    """

    __metadata_request__fit: ClassVar[dict] = {"tasks": True}
    __metadata_request__predict: ClassVar[dict] = {"tasks": True}
    __metadata_request__score: ClassVar[dict] = {"tasks": True}
    __metadata_request__transform: ClassVar[dict] = {"tasks": True}
    __metadata_request__fit_transform: ClassVar[dict] = {"tasks": True}

    _parameter_constraints: ClassVar[dict] = methods.CONSTRAINTS | {
        "on_unknown": [StrOptions({"error", "mean", "nan"})]
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = methods.DOC_LINK_TEMPLATE

    def __init__(
        self,
        layers=((1, 8), (10, 2)),
        *,
        paths="auto",
        tree=False,
        task_feature=None,
        fit_intercept=True,
        alpha_head=1e-2,
        alpha_module=1e-3,
        solver="auto",
        path_search="anneal_em",
        n_init=5,
        split_merge=20,
        max_iter=None,
        tol=1e-6,
        activation="identity",
        module=None,
        learning_rate=1e-2,
        batch_size=None,
        on_unknown="error",
        selection="loo",
        device="cpu",
        random_state=None,
        warm_start=False,
        n_jobs=None,
        verbose=0,
    ):
        self.layers = layers
        self.paths = paths
        self.tree = tree
        self.task_feature = task_feature
        self.fit_intercept = fit_intercept
        self.alpha_head = alpha_head
        self.alpha_module = alpha_module
        self.solver = solver
        self.path_search = path_search
        self.n_init = n_init
        self.split_merge = split_merge
        self.max_iter = max_iter
        self.tol = tol
        self.activation = activation
        self.module = module
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.on_unknown = on_unknown
        self.selection = selection
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.verbose = verbose

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, tasks=None):
        """Find modules, and the path and the head of each task.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. One column may name their tasks.
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            Targets; or those of all tasks for the same rows, NaN where one is missing.
        tasks : array-like of shape (n_samples,), default=None
            The task of each row, where no column of X names it.

        Returns
        -------
        self : MultipathMTL
            The fitted model.

        Raises
        ------
        ValueError
            If tasks are named twice, or by numbers that are not whole; if paths are
            impossible or settings do not go together; if X or y has NaN or infinity,
            or a task has no target; or if the device does not exist.

        Warns
        -----
        UserWarning
            If widths are clipped to what data can fill, or there are fewer samples than
            parameters; not with "moment", which needs fewer.
        ConvergenceWarning
            If `max_iter` is too small.
        """
        problem = methods.prepare(self, X, y, tasks, y_numeric=True)
        learn = self._train if problem.solver == "torch" else self._solve
        solution = learn(problem, X, y)
        methods.warn_of_few(self, problem, depth=6)
        methods.warn_of_limit(self, solution, depth=6)
        return self

    def predict(self, X, tasks=None):
        """Return what tasks predict.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        tasks : label, or array-like of shape (n_samples,), default=None
            The task of the rows, or of each, where no column of X names it.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            Predictions; those of all tasks after a fit to a y of two axes, unless
            `tasks` says which.

        Raises
        ------
        ValueError
            If there are several tasks and none is named, or one is not known and
            `on_unknown` is "error".
        """
        return self._predict(X, tasks, "predict")

    def score(self, X, y, sample_weight=None, tasks=None):
        """Return the coefficient of determination.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            Targets, NaN where one of several is missing.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the squared errors.
        tasks : label, or array-like of shape (n_samples,), default=None
            The task of the rows, or of each, where no column of X names it.

        Returns
        -------
        float
            R^2 over all rows; the mean over columns, if y has several.
        """
        predicted = to_numpy(self._predict(X, tasks, "score"))
        y = check_array(
            to_numpy(y),
            dtype=np.float64,
            ensure_2d=False,
            ensure_all_finite="allow-nan" if predicted.ndim == 2 else True,
            input_name="y",
        )
        check_consistent_length(predicted, y)
        if y.size != predicted.size:
            raise ValueError(
                f"y has shape {y.shape}, but predictions {predicted.shape}."
            )
        columns = zip(*(each.reshape(len(y), -1).T for each in (y, predicted)))
        weight = None if sample_weight is None else np.asarray(to_numpy(sample_weight))
        scores = []
        with config_context(array_api_dispatch=False):
            for truth, guess in columns:
                there = ~np.isnan(truth)
                part = None if weight is None else weight[there]
                if there.any():
                    scores.append(
                        r2_score(truth[there], guess[there], sample_weight=part)
                    )
        return float(np.mean(scores))

    fit_transform = methods.fit_transform
    transform = methods.transform
    add_task = methods.add_task
    supernet_bias = methods.supernet_bias
    path_agreement = methods.path_agreement
    objective_path_ = property(methods.objective_path)
    _n_features_out = property(methods.n_features_out)
    __getstate__ = methods.getstate
    __setstate__ = methods.setstate

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

    def _solve(self, problem, X, y):
        """Fit linear modules by least squares; return the solution."""

        def moments_of(rows):
            return _moments(problem, rows)

        with few_threads(0):  # many small matrices
            moments = moments_of(None)
            if problem.solver == "auto":
                problem = methods.with_solver(self, problem, moments_of)
            tasks, unit = TaskEquations.of_moments(
                moments, self.alpha_head, fit_intercept=self.fit_intercept
            )

            def attributes(fit, curve, n_iter=1):
                model = self._with_heads(problem, moments, tasks, unit, fit)
                found = methods.describe(problem, model, curve, n_iter, X)
                return found | methods.count(problem, model, problem.n_tasks)

            root, context, on_round = methods.listen(self, X, y, attributes)
            solution = methods.search_paths(self, problem, tasks, on_round)
            root.call_on_fit_task_end(**context)
            curve = solution.history["objective"]
            found = attributes(solution.value, curve, solution.n_iter)
            losses = methods.mean_path_losses(
                problem, moments, tasks, solution.value.modules, self.fit_intercept
            )
            if losses is not None:
                found["path_losses_"] = follow(X)(losses)
        methods.keep(self, found)
        return solution

    def _with_heads(self, problem, moments, tasks, unit, fit):
        """Return the model of modules and paths, with the best heads."""
        heads, theta = methods.solve_along(tasks, fit)
        intercept = torch.zeros(len(heads), dtype=torch.float64)
        if self.fit_intercept:
            intercept = moments.intercepts(unit * theta).cpu().double()
        return methods.Model(
            problem.supernet,
            [B.cpu().double() for B in fit.modules],
            fit.paths.cpu(),
            unit * heads.cpu().double(),
            intercept,
            problem.tasks,
            problem.is_wide,
        )

    def _train(self, problem, X, y):
        """Fit modules of any kind by gradients; return the solution."""
        targets = torch.from_numpy(problem.y).to(problem.x)[:, None]
        x_unit = methods.Units.of(problem.x, self.fit_intercept)
        y_unit = methods.Units.of(targets, self.fit_intercept)

        def attributes(trained, curve):
            model = methods.trained_model(problem, trained, x_unit)
            scale, shift = y_unit.scale.cpu(), y_unit.shift.cpu()
            model = replace(
                model,
                heads=scale * model.heads,
                intercept=scale * model.intercept + shift,
            )
            found = methods.describe(problem, model, curve, len(curve), X)
            return found | methods.count(problem, model, problem.n_tasks)

        goals = y_unit.apply(targets)[:, 0]
        root, context, on_round = methods.listen(self, X, y, attributes)
        with few_threads(problem.x.numel()):
            solution = methods.train(self, problem, x_unit, goals, None, on_round)
        root.call_on_fit_task_end(**context)
        curve = solution.history["objective"]
        methods.keep(self, attributes(solution.value, curve))
        return solution

    def _predict(self, X, tasks, method):
        x, codes = methods.rows_of(self, X, tasks, method)
        with few_threads(x.numel()):
            if codes is None:
                y = self._of_all_tasks(x)
            else:
                y = x.new_full((len(x),), torch.nan)
                known = codes >= 0
                y[known] = self._along(x[known], codes[known])
                if self.on_unknown == "mean" and not known.all():
                    y[~known] = self._of_all_tasks(x[~known]).mean(1)
        return follow(X)(y.numpy().astype(x.numpy().dtype))

    def _along(self, x, codes):
        """Return what the task of each row predicts for it."""
        model = self._model
        z = methods.features_of(model, x, codes)
        y = (z * model.heads[codes]).sum(1) + model.intercept[codes]
        return y.to(x.dtype)

    def _of_all_tasks(self, x):
        """Return the predictions of all tasks for rows, of shape (n, T)."""
        model = self._model
        y = x.new_empty(len(x), len(model.paths))
        for mine, z in methods.features_by_path(model, x):
            y[:, mine] = (z @ model.heads[mine].T + model.intercept[mine]).to(x.dtype)
        return y

    def _check_new_targets(self, y, n_samples):
        """Return the targets of a new task as numbers."""
        y = check_array(to_numpy(y), dtype=np.float64, ensure_2d=False, input_name="y")
        if y.shape != (n_samples,):
            raise ValueError(f"y must have shape ({n_samples},); got {y.shape}.")
        return y

    def _as_targets(self, y):
        return torch.from_numpy(y)[:, None].to(methods.precision(self._model))

    def _with_task(self, x, y):
        """Return the attributes with one task more."""
        Y = self._as_targets(y)
        path, errors, z, shift = methods.choose_path(self, x, Y)
        centre, middle = torch.zeros_like(z[0]), torch.zeros_like(Y[0])
        if self.fit_intercept:
            centre, middle = z.mean(0), Y.mean(0)
        off = z - centre
        root = cholesky(off.mT @ off + shift)
        head = torch.cholesky_solve(off.mT @ (Y - middle), root)[:, 0]
        model = methods.grown_model(self._model, path, head, middle[0] - centre @ head)
        put = follow(self.paths_)
        found = {"_model": model} | methods.describe_tasks(model, put)
        if hasattr(self, "path_losses_"):
            losses = np.vstack([to_numpy(self.path_losses_), errors.numpy()])
            found["path_losses_"] = put(losses)
        return found


def _moments(problem, rows=None):
    """Return the moments of all tasks, or those of some of the rows."""
    x, task = problem.x, problem.task
    y = torch.from_numpy(problem.y).to(x)
    if problem.is_wide and rows is None and len(task) == len(x) * problem.n_tasks:
        return shared_moments(x, y.reshape(problem.n_tasks, -1).T)
    row = problem.row
    if rows is not None:
        row, task, y = row[rows], task[rows], y[rows]
    order = task.argsort(stable=True)
    counts = torch.bincount(task, minlength=problem.n_tasks).tolist()
    parts = zip(row[order].split(counts), y[order].split(counts))
    return TaskMoments.join([shared_moments(x[i], yi[:, None]) for i, yi in parts])
