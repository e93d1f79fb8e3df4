"""MultipathMTLClassifier: softmax(H_t phi_{a_t}(x) + b_t)  (2303.04338)."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    MultiOutputMixin,
    TransformerMixin,
)
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from .._arrays import few_threads, follow, to_numpy
from .._compat import CallbackSupportMixin, StrOptions, fit_context, with_callbacks
from .._task_moments import TaskMoments, shared_moments
from .._validation import unharmed
from . import _multipath_methods as methods
from ._fit_logistic import fit_logistic, heads_along
from ._task_equations import TaskEquations
from ._task_heads import class_logits, logistic_heads


class MultipathMTLClassifier(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    MultiOutputMixin,
    ClassifierMixin,
    BaseEstimator,
):
    """Classification for many tasks, each with its path through shared modules.

    As :class:`MultipathMTL`, but each task ends in a logistic regression on what its
    path makes of a row [1]_. Tasks may have different classes, and a task never
    predicts those of another.

    Paths and modules are found by least squares on indicators of the classes, which
    needs only sums of squares and products of each task; "als" then follows the
    logistic loss. Heads minimise the logistic loss always.

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
        Whether heads have intercepts.
    alpha_head : float, default=0.01
        Ridge on the coefficients of a task, relative to the mean variance of its
        features and its number of rows. With "torch", on heads.
    alpha_module : float, default=0.001
        Penalty of the squared entries of modules and heads, relative to the rows of a
        task.
    solver : {"auto", "als", "moment", "torch"}, default="auto"
        How modules are found.

        - "als": least squares, and then the logistic loss, for modules, heads and paths
          in turn; linear modules only.
        - "moment": least squares as if all tasks had the same covariance of features.
          It needs fewer samples to begin with, and gains less from more.
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
    on_unknown : {"error", "mean"}, default="error"
        What to predict for a task that is not known: nothing, or by the mean of the
        probabilities of all tasks.
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
    classes_ : ndarray of shape (n_classes,)
        The classes of all tasks.
    task_classes_ : list of ndarray
        Those of each task.
    tasks_ : ndarray of shape (n_tasks,)
        Names of the tasks, in their order; of columns of y, where they are the tasks.
    paths_ : ndarray of int of shape (n_tasks, n_layers)
        The module of each layer for each task.
    path_id_ : ndarray of int of shape (n_tasks,)
        The number of its path among all.
    modules_ : list of ndarray of shape (n_modules, width, width_before)
        The modules of each layer, zero if no task uses them. Weights, if there are
        biases too, or lists of `torch.nn.Module`, with `module`.
    heads_ : ndarray of shape (n_tasks, n_classes, width)
        Heads H_t, zero for classes that a task does not have.
    intercept_ : ndarray of shape (n_tasks, n_classes)
        Intercepts b_t.
    task_coef_ : ndarray of shape (n_tasks, n_classes, n_task_features)
        Coefficients of the features for each task, where modules are linear.
    path_losses_ : ndarray of shape (n_tasks, n_paths)
        Mean squared error of least squares for indicators of the classes of a task,
        along every path, as in :class:`MultipathMTL`; two classes are -1 and 1. Only
        with "als" and "moment", and no more than 4096 paths.
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
        Objective after each round of paths and modules, or each epoch: logistic with
        "als" and "torch", of least squares with "moment".
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
    MultipathMTL : The same for numbers, with more on tasks and paths.
    Supernet : Layers of modules, and what can be counted of them.
    PathwayDisplay : Which tasks share which modules.

    Notes
    -----
    Scaling all columns of X would scale the ids of tasks; use a
    :class:`~sklearn.compose.ColumnTransformer` that passes their column on. Every
    fold of a cross-validation must have each task: stratify by task and class.

    References
    ----------
    .. [1] Li and Oymak, "Provable Pathways: Learning Multiple Tasks over Multiple
           Paths", AAAI 2023, arXiv:2303.04338.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_permuted_digit_tasks
    >>> from sklearn_attn.multitask import MultipathMTLClassifier
    >>> X, y, tasks = make_permuted_digit_tasks(40, random_state=0)
    >>> X_test, y_test, _ = make_permuted_digit_tasks(40, subset="test", random_state=0)
    >>> model = MultipathMTLClassifier(
    ...     ((4, 9),), solver="moment", alpha_head=3, n_init=1, random_state=0
    ... ).fit(X, y, tasks=tasks)
    >>> model.module_load_[0].tolist()  # 45 pairs of digits, in each of 4 permutations
    [45, 45, 45, 45]
    >>> model.score(X_test, y_test, tasks=tasks) > 0.9
    True
    """

    __metadata_request__fit: ClassVar[dict] = {"tasks": True}
    __metadata_request__predict: ClassVar[dict] = {"tasks": True}
    __metadata_request__predict_proba: ClassVar[dict] = {"tasks": True}
    __metadata_request__predict_log_proba: ClassVar[dict] = {"tasks": True}
    __metadata_request__score: ClassVar[dict] = {"tasks": True}
    __metadata_request__transform: ClassVar[dict] = {"tasks": True}
    __metadata_request__fit_transform: ClassVar[dict] = {"tasks": True}

    _parameter_constraints: ClassVar[dict] = methods.CONSTRAINTS | {
        "on_unknown": [StrOptions({"error", "mean"})]
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
            Classes; or those of all tasks for the same rows, NaN or None where one is
            missing.
        tasks : array-like of shape (n_samples,), default=None
            The task of each row, where no column of X names it.

        Returns
        -------
        self : MultipathMTLClassifier
            The fitted model.

        Raises
        ------
        ValueError
            If tasks are named twice, or by numbers that are not whole; if paths are
            impossible or settings do not go together; if there is only one class, or a
            task has no sample; if X has NaN or infinity; or if the device does not
            exist.

        Warns
        -----
        UserWarning
            If widths are clipped to what data can fill, or there are fewer samples than
            parameters; not with "moment", which needs fewer.
        ConvergenceWarning
            If `max_iter` is too small.
        """
        problem = methods.prepare(self, X, y, tasks, y_numeric=False)
        problem, classes, labels = _with_codes(self, problem)
        learn = self._train if problem.solver == "torch" else self._solve
        solution = learn(problem, classes, labels, X, y)
        methods.warn_of_few(self, problem, depth=6)
        methods.warn_of_limit(self, solution, depth=6)
        return self

    def predict(self, X, tasks=None):
        """Return the most probable classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        tasks : label, or array-like of shape (n_samples,), default=None
            The task of the rows, or of each, where no column of X names it.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            Classes; those of all tasks after a fit to a y of two axes, unless `tasks`
            says which.

        Raises
        ------
        ValueError
            If there are several tasks and none is named, or one is not known and
            `on_unknown` is "error".
        """
        return self._predict(X, tasks, "predict")

    def predict_proba(self, X, tasks=None):
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        tasks : label, or array-like of shape (n_samples,), default=None
            The task of the rows, or of each, where no column of X names it.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or list of ndarray
            Probabilities, zero for classes that the task does not have. After a fit to
            a y of two axes, and without `tasks`, a list with those of each task, for
            its own classes.

        Raises
        ------
        ValueError
            As in `predict`.
        """
        probabilities = self._probabilities(X, tasks, "predict_proba")
        put = follow(X)
        if isinstance(probabilities, list):
            return [put(each) for each in probabilities]
        return put(probabilities)

    def predict_log_proba(self, X, tasks=None):
        """Return the logarithms of the probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        tasks : label, or array-like of shape (n_samples,), default=None
            The task of the rows, or of each, where no column of X names it.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or list of ndarray
            Those of `predict_proba`.
        """
        probabilities = self._probabilities(X, tasks, "predict_log_proba")
        put = follow(X)
        with np.errstate(divide="ignore"):
            if isinstance(probabilities, list):
                return [put(np.log(each)) for each in probabilities]
            return put(np.log(probabilities))

    def score(self, X, y, sample_weight=None, tasks=None):
        """Return the share of predictions that are right.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            Classes, NaN or None where one of several is missing.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        tasks : label, or array-like of shape (n_samples,), default=None
            The task of the rows, or of each, where no column of X names it.

        Returns
        -------
        float
            Accuracy over all rows; over all entries that are there, if y has two axes.
        """
        predicted = to_numpy(self._predict(X, tasks, "score"))
        y = np.asarray(to_numpy(y))
        check_consistent_length(predicted, y)
        if y.size != predicted.size:
            raise ValueError(
                f"y has shape {y.shape}, but predictions {predicted.shape}."
            )
        there = np.ones((len(y), predicted.size // len(y)))
        if y.ndim == 2:
            there = 1.0 - methods.is_missing(y)
            y = np.where(there > 0, y, predicted.reshape(y.shape))
        right = (y.reshape(predicted.shape) == predicted).reshape(there.shape)
        if sample_weight is not None:
            there = there * np.asarray(to_numpy(sample_weight))[:, None]
        return float((right * there).sum() / there.sum())

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

    def _solve(self, problem, classes, labels, X, y):
        """Fit linear modules by least squares, and heads; return the solution."""
        codes = torch.from_numpy(problem.y).to(problem.task)
        owner = _owners(labels)

        def moments_of(rows):
            return _class_moments(problem, codes, labels, rows)

        with few_threads(0):  # many small matrices
            moments = moments_of(None)
            if problem.solver == "auto":
                problem = methods.with_solver(self, problem, moments_of, owner)
            tasks, _ = TaskEquations.of_moments(
                moments, self.alpha_head, fit_intercept=self.fit_intercept, owner=owner
            )
            x_unit = methods.Units.of(problem.x, self.fit_intercept)
            x, task = x_unit.apply(problem.x)[problem.row], problem.task
            gram = moments.equations(0.0, fit_intercept=self.fit_intercept).gram
            first = torch.searchsorted(owner, torch.arange(len(labels)).to(owner))
            scale = gram.diagonal(dim1=1, dim2=2).mean(1)[first] / x_unit.scale**2
            data = x, codes, task, labels
            penalty = {"alpha": self.alpha_head, "scale": scale}
            penalty["fit_intercept"] = self.fit_intercept

            def attributes(fit, curve, n_iter=1):
                coef, intercept, _ = heads_along(
                    *data, fit.modules, fit.paths, **penalty
                )
                model = methods.Model(
                    problem.supernet,
                    [B.cpu().double() for B in fit.modules],
                    fit.paths.cpu(),
                    coef.cpu().double(),
                    intercept.cpu().double(),
                    problem.tasks,
                    problem.is_wide,
                    x_unit.cpu(),
                    classes,
                    labels.cpu(),
                )
                model = methods.without_units(model)
                return self._attributes(problem, model, curve, n_iter, X)

            root, context, on_round = methods.listen(self, X, y, attributes)
            solution = methods.search_paths(self, problem, tasks, on_round)
            curve = solution.history["objective"]
            if problem.solver == "als" and solution.history["stopped"] == [False]:
                before = solution
                solution = fit_logistic(
                    *data,
                    problem.supernet,
                    before.value,
                    mu=self.alpha_module,
                    is_open=problem.paths is None,
                    max_iter=self.max_iter or methods.MAX_STEPS,
                    tol=self.tol,
                    on_round=lambda fit, curve: on_round(lambda: fit, curve),
                    **penalty,
                )
                curve = solution.history["objective"]
                solution = replace(
                    solution,
                    n_iter=before.n_iter + solution.n_iter,
                    converged=before.converged and solution.converged,
                )
            root.call_on_fit_task_end(**context)
            found = attributes(solution.value, curve, solution.n_iter)
            losses = methods.mean_path_losses(
                problem, moments, tasks, solution.value.modules, self.fit_intercept
            )
            if losses is not None:
                found["path_losses_"] = follow(X)(losses)
        methods.keep(self, found)
        return solution

    def _train(self, problem, classes, labels, X, y):
        """Fit modules of any kind by gradients; return the solution."""
        x_unit = methods.Units.of(problem.x, self.fit_intercept)
        codes = torch.from_numpy(problem.y).to(problem.task)

        def attributes(trained, curve):
            model = methods.trained_model(problem, trained, x_unit)
            model = replace(model, classes=classes, labels=labels.cpu())
            return self._attributes(problem, model, curve, len(curve), X)

        root, context, on_round = methods.listen(self, X, y, attributes)
        with few_threads(problem.x.numel()):
            solution = methods.train(self, problem, x_unit, codes, labels, on_round)
        root.call_on_fit_task_end(**context)
        methods.keep(self, attributes(solution.value, solution.history["objective"]))
        return solution

    def _attributes(self, problem, model, curve, n_iter, X):
        """Return what a model is, as fitted attributes."""
        found = methods.describe(problem, model, curve, n_iter, X)
        n_heads = int((model.labels.sum(1) - 1).clamp(min=1).sum())
        return (
            found
            | methods.count(problem, model, n_heads)
            | _class_attributes(model, follow(X))
        )

    def _predict(self, X, tasks, method):
        probabilities = self._probabilities(X, tasks, method)
        if not isinstance(probabilities, list):
            return _put_labels(follow(X), self._model.classes[probabilities.argmax(1)])
        columns = [
            self._model.classes[there][each.argmax(1)]
            for each, there in zip(probabilities, self._model.labels.numpy())
        ]
        return _put_labels(follow(X), np.column_stack(columns))

    def _probabilities(self, X, tasks, method):
        """Return an array for rows of a task each, or a list for all tasks."""
        x, codes = methods.rows_of(self, X, tasks, method)
        dtype = x.numpy().dtype
        model, labels = self._model, self._model.labels
        with few_threads(x.numel()):
            if codes is None:
                found = [np.empty(0)] * len(labels)
                for t, each in self._of_all_tasks(x):
                    found[t] = each[:, labels[t]].numpy().astype(dtype)
                return found
            p = x.new_zeros((len(x), len(self._model.classes)), dtype=torch.float64)
            known = codes >= 0
            mine = codes[known]
            z = methods.features_of(model, x[known], mine)
            logits = class_logits(z, mine, model.heads, model.intercept, labels)
            p[known] = logits.double().softmax(1)
            if not known.all():  # the mean of all tasks
                for _, each in self._of_all_tasks(x[~known]):
                    p[~known] += each / len(labels)
        return p.numpy().astype(dtype)

    def _of_all_tasks(self, x):
        """Yield each task with its probabilities of all classes."""
        model = self._model
        for mine, z in methods.features_by_path(model, x):
            for t in mine.tolist():
                logits = z @ model.heads[t].T + model.intercept[t]
                logits = logits.masked_fill(~self._model.labels[t], -torch.inf)
                yield t, logits.double().softmax(1)

    def _check_new_targets(self, y, n_samples):
        """Return the classes of a new task."""
        y = column_or_1d(np.asarray(to_numpy(y)))
        check_classification_targets(y)
        if len(y) != n_samples or methods.is_missing(y[:, None]).any():
            raise ValueError(
                f"y must have shape ({n_samples},), with a class for each row; got "
                f"shape {y.shape}."
            )
        return y

    def _as_targets(self, y):
        """Return indicators of the classes of a task."""
        targets = (y[:, None] == np.unique(y)).astype(np.float64)
        if targets.shape[1] <= 2:
            targets = 2 * targets[:, -1:] - 1
        return torch.from_numpy(targets).to(methods.precision(self._model))

    def _with_task(self, x, y):
        """Return the attributes with one task more."""
        known = self._model.classes
        kinds = ["numbers" if c.dtype.kind in "biuf" else "names" for c in (known, y)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"Classes so far are {kinds[0]}, and those of y {kinds[1]}."
            )
        classes = np.unique(np.concatenate([known, y]))
        at = torch.from_numpy(np.searchsorted(classes, self._model.classes))
        model = self._model
        T, C = len(self._model.labels), len(classes)
        labels = torch.zeros(T + 1, C, dtype=torch.bool)
        labels[:T, at] = self._model.labels
        codes = torch.from_numpy(np.searchsorted(classes, y))
        labels[T, codes.unique()] = True
        heads = model.heads.new_zeros(T, C, model.heads.shape[2])
        intercept = model.intercept.new_zeros(T, C)
        heads[:, at], intercept[:, at] = model.heads, model.intercept
        model = replace(
            model, heads=heads, intercept=intercept, classes=classes, labels=labels
        )

        path, errors, z, _ = methods.choose_path(self, x, self._as_targets(y))
        scale = None
        if model.is_linear:
            off = x - x.mean(0) if self.fit_intercept else x
            scale = off.square().sum(0).mean()[None]
        found = logistic_heads(
            z,
            codes,
            torch.zeros(len(z), dtype=torch.long),
            labels[T:],
            self.alpha_head,
            fit_intercept=self.fit_intercept,
            scale=scale,
        )
        coef, b = found.value
        model = methods.grown_model(model, path, coef[0], b[0])
        put = follow(self.paths_)
        found = {"_model": model} | methods.describe_tasks(model, put)
        found |= _class_attributes(model, put)
        if hasattr(self, "path_losses_"):
            losses = np.vstack([to_numpy(self.path_losses_), errors.numpy()])
            found["path_losses_"] = put(losses)
        return found


def _with_codes(self, problem):
    """Return the problem with codes of classes, the classes, and those of each task."""
    check_classification_targets(problem.y)
    classes, codes = np.unique(problem.y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{type(self).__name__} needs samples of at least two classes; got one "
            f"class, {classes.tolist()[0]!r}."
        )
    problem = replace(problem, y=codes.astype(np.int64))
    labels = torch.zeros(problem.n_tasks, len(classes), dtype=torch.bool)
    labels[problem.task.cpu(), torch.from_numpy(problem.y)] = True
    return problem, classes, labels.to(problem.task.device)


def _class_attributes(model, put):
    """Return what belongs to classes, as fitted attributes."""
    labels = model.labels.numpy()
    return {
        "classes_": _put_labels(put, model.classes.copy()),
        "task_classes_": [_put_labels(put, model.classes[each]) for each in labels],
    }


def _put_labels(put, labels):
    return put(labels) if labels.dtype.kind in "biuf" else labels


def _owners(labels):
    """Return the task of each target: one for two classes, or one for each class."""
    n = labels.sum(1)
    n = torch.where(n <= 2, 1, n)
    return torch.arange(len(n), device=n.device).repeat_interleave(n)


def _class_moments(problem, codes, labels, rows=None):
    """Return the moments of indicators of classes, for all or some of the rows."""
    row, task = problem.row, problem.task
    if rows is not None:
        row, task, codes = row[rows], task[rows], codes[rows]
    order = task.argsort(stable=True)
    counts = torch.bincount(task, minlength=len(labels)).tolist()
    parts = zip(row[order].split(counts), codes[order].split(counts), labels)
    moments = []
    for mine, code, there in parts:
        its = torch.nonzero(there)[:, 0]
        Y = (code[:, None] == its).to(problem.x)
        if len(its) <= 2:
            Y = 2 * Y[:, -1:] - 1
        moments.append(shared_moments(problem.x[mine], Y))
    return TaskMoments.join(moments)
