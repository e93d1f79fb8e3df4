"""Callbacks for estimators that fit in iterations: stop, keep on disk, record the loss.

They follow the callback protocol of scikit-learn 1.9 and are set, like scikit-learn's
own `ScoringMonitor`, on the estimator that iterates (not on the pipeline or the search
around it)::

    SomeIterativeEstimator().set_callbacks(EarlyStopping(), LossLogger())

The protocol lays a fit out as a tree of tasks: search, candidate, fit, class, stage,
iteration. Here an *iteration* is a leaf below the root of its own estimator, and a
*loop* is the task that holds a run of iterations. The training loss is the last entry
of `loss_curve_` on the fitted copy that an iteration hands over.
"""

import copy
import math
import os
import time
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import joblib
import sklearn

from sklearn_attn._compat import (
    Interval,
    StrOptions,
    can_reuse_listener,
    get_context_path,
    open_listener,
    send_to_listener,
    validate_params,
)

__all__ = ["EarlyStopping", "LossLogger", "Snapshot"]


def _require_callback_support(callback):
    if open_listener is None:
        raise ImportError(
            f"{type(callback).__name__} needs the callbacks of scikit-learn 1.9 or "
            f"newer; scikit-learn {sklearn.__version__} is installed."
        )


def _is_iteration(context):
    """Whether a task is a leaf below the root of its own estimator."""
    is_estimator_root = context.parent is None or context.source_task_name is not None
    return context.max_subtasks == 0 and not is_estimator_root


def _task_id_path(context):
    return tuple(task.task_id for task in get_context_path(context))


def _latest_loss(callback, fitted_estimator):
    try:
        return float(fitted_estimator.loss_curve_[-1])
    except AttributeError:
        raise ValueError(
            f"{type(callback).__name__} reads the training loss from `loss_curve_`, "
            f"which {type(fitted_estimator).__name__} does not keep."
        ) from None


class _PerLoop(WeakKeyDictionary):
    """What a callback remembers of each loop that is running, keyed by its context.

    One callback serves all clones of an estimator, possibly in several threads. Each
    fit makes its own contexts, so no two loops share an entry, and an entry goes with
    its loop. A loop never moves to another process: the dictionary pickles as empty.
    """

    def __reduce__(self):
        return _PerLoop, ()


def _default_score(fitted_estimator, X, y):
    return fitted_estimator.score(X, y)


@dataclass
class _Progress:
    best: float = -math.inf
    n_stale: int = 0


class EarlyStopping:
    """Stop a fit once its iterations bring no further improvement.

    An iteration is an improvement when it beats the best value so far by more than
    `tol`. The loop stops after `n_iter_no_change` iterations in a row that are none.
    Each loop is judged alone: with one loop per class, every class stops when it is
    done. NaN is never an improvement, so a diverged fit stops as well.

    Parameters
    ----------
    monitor : {"loss", "score"}, default="loss"
        What to watch: the training loss, which should fall, or the score on `X_val` and
        `y_val`, which should rise.

    X_val : array-like of shape (n_val_samples, ...), default=None
        Held-out data for `monitor="score"`, in the form that reaches the estimator. The
        estimator inside a pipeline sees transformed data, so give it transformed data:
        a callback cannot call the steps before it. In a search, the same held-out data
        serve all folds, so keep them out of the data that are searched on.

    y_val : array-like of shape (n_val_samples, ...), default=None
        Targets of `X_val`.

    scoring : str or callable, default=None
        How to score, as in :func:`sklearn.metrics.get_scorer`. None calls the `score`
        method of the estimator.

    n_iter_no_change : int, default=5
        How many iterations in a row may bring no improvement. 5 as in
        :class:`~sklearn.linear_model.SGDClassifier`.

    tol : float, default=1e-4
        By how much an iteration must beat the best value so far, in units of the loss
        or score. The best value itself follows every gain, however small: a steady
        crawl below `tol` stops. 1e-4 as in
        :class:`~sklearn.neural_network.MLPClassifier`.

    Raises
    ------
    ImportError
        If scikit-learn is older than 1.9.
    ValueError
        If `monitor="score"` comes without `X_val`, or `monitor="loss"` with `X_val`,
        `y_val` or `scoring`; in fit, if the loss is watched and the estimator keeps no
        `loss_curve_`.

    See Also
    --------
    Snapshot : Keep the fitted copies of past iterations.

    Notes
    -----
    The estimator keeps the state of the iteration that it stopped at: the protocol can
    stop a fit but not hand an earlier state back. To go back to the best iteration, add
    ``Snapshot(directory, keep_last=n_iter_no_change + 1)``: the oldest snapshot kept of
    a loop that was stopped is the last improvement.

    Estimators are free to ignore a request to stop;
    :class:`~sklearn.linear_model.LogisticRegression` does in scikit-learn 1.9.

    Examples
    --------
    A toy that keeps the contract, with a loss that falls to 1 and stays there:

    >>> from sklearn.base import BaseEstimator
    >>> from sklearn.callback import CallbackSupportMixin, with_callbacks
    >>> from sklearn_attn.callbacks import EarlyStopping
    >>> class Toy(CallbackSupportMixin, BaseEstimator):
    ...     @with_callbacks
    ...     def fit(self, X, y=None):
    ...         context = self._init_callback_context(max_subtasks=100)
    ...         self.loss_curve_ = []
    ...         for i in range(100):
    ...             iteration = context.subcontext(task_name="iteration")
    ...             self.loss_curve_.append(max(3 - i, 1))
    ...             if iteration.call_on_fit_task_end(
    ...                 estimator=self,
    ...                 reconstruction_attributes={"loss_curve_": self.loss_curve_},
    ...             ):
    ...                 break
    ...         return self
    >>> Toy().set_callbacks(EarlyStopping(n_iter_no_change=2)).fit([[0]]).loss_curve_
    [3, 2, 1, 1, 1]
    """

    @validate_params(
        {
            "monitor": [StrOptions({"loss", "score"})],
            "X_val": "no_validation",
            "y_val": "no_validation",
            "scoring": [str, callable, None],
            "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
            "tol": [Interval(Real, 0, None, closed="left")],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(
        self,
        *,
        monitor="loss",
        X_val=None,
        y_val=None,
        scoring=None,
        n_iter_no_change=5,
        tol=1e-4,
    ):
        _require_callback_support(self)
        if monitor == "score" and X_val is None:
            raise ValueError(
                'monitor="score" needs held-out data: give X_val and y_val.'
            )
        if monitor == "loss" and any(v is not None for v in (X_val, y_val, scoring)):
            raise ValueError(
                'X_val, y_val and scoring go with monitor="score"; '
                'monitor="loss" watches the training loss.'
            )
        from sklearn.metrics import get_scorer

        self.monitor = monitor
        self.X_val = X_val
        self.y_val = y_val
        self.scoring = scoring
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self._scorer = _default_score if scoring is None else get_scorer(scoring)
        self._loops = _PerLoop()

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if fitted_estimator is None or not _is_iteration(context):
            return False
        value = self._value_to_raise(fitted_estimator)
        progress = self._loops.setdefault(context.parent, _Progress())
        improved = value > progress.best + self.tol
        progress.n_stale = 0 if improved else progress.n_stale + 1
        if value > progress.best:
            progress.best = value
        return progress.n_stale >= self.n_iter_no_change

    def _value_to_raise(self, fitted_estimator):
        if self.monitor == "loss":
            return -_latest_loss(self, fitted_estimator)
        return self._scorer(fitted_estimator, self.X_val, self.y_val)


# What scikit-learn hangs on an estimator while its callbacks run: the whole tree of
# tasks, and callbacks that hold sockets. Neither belongs into a file.
_CALLBACK_BOOKKEEPING = (
    "_skl_callbacks",
    "_skl_callbacks_to_teardown",
    "_callback_fit_ctx",
    "_parent_callback_ctx",
)


def _without_callbacks(fitted_estimator):
    bare = copy.copy(fitted_estimator)
    for name in _CALLBACK_BOOKKEEPING:
        vars(bare).pop(name, None)
    return bare


def _dump_atomically(value, path):
    """Write beside `path`, then rename: a reader sees a whole file or none."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        joblib.dump(value, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class Snapshot:
    """Write the fitted copy of an estimator to disk while it is being fitted.

    A snapshot predicts as the estimator would, had its fit stopped at that iteration.
    It is an ordinary estimator, saved with joblib and without its callbacks. Files are
    written whole or not at all, and named after the run, the task and the loss, so that
    the workers of a parallel search share a directory and never collide.

    Parameters
    ----------
    directory : str or path-like
        Where the files go; made at the first fit if it does not exist.

    every : int, default=1
        Write after every `every`-th iteration of a loop.

    keep_last : int, default=None
        How many snapshots of each loop to keep; older ones are deleted as new ones
        come. None keeps all.

    Raises
    ------
    ImportError
        If scikit-learn is older than 1.9.

    See Also
    --------
    EarlyStopping : Stop a fit once its iterations bring no further improvement.

    Notes
    -----
    Files are found by name, so a new `Snapshot` on the same directory, in another
    process or after a crash, lists and loads what an earlier one wrote. Loading
    unpickles: load only files that you trust.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_attn.callbacks import Snapshot
    >>> X, y = load_iris(return_X_y=True)
    >>> directory = TemporaryDirectory()
    >>> snapshot = Snapshot(directory.name, every=5, keep_last=2)
    >>> _ = LogisticRegression(max_iter=200).set_callbacks(snapshot).fit(X, y)
    >>> len(snapshot.list_files())
    2
    >>> snapshot.load("newest").predict(X[:3])
    array([0, 0, 0])
    >>> directory.cleanup()
    """

    @validate_params(
        {
            "directory": [str, os.PathLike],
            "every": [Interval(Integral, 1, None, closed="left")],
            "keep_last": [Interval(Integral, 1, None, closed="left"), None],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(self, directory, *, every=1, keep_last=None):
        _require_callback_support(self)
        # Absolute: a worker process need not share the working directory.
        self.directory = Path(directory).absolute()
        self.every = every
        self.keep_last = keep_last
        self._loops = _PerLoop()

    def setup(self, estimator, context):
        self.directory.mkdir(parents=True, exist_ok=True)

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if fitted_estimator is None or not _is_iteration(context):
            return
        if (context.task_id + 1) % self.every:
            return
        path = self.directory / _snapshot_name(context, fitted_estimator)
        _dump_atomically(_without_callbacks(fitted_estimator), path)
        written = self._loops.setdefault(context.parent, deque())
        written.append(path)
        if self.keep_last is not None and len(written) > self.keep_last:
            written.popleft().unlink(missing_ok=True)

    def list_files(self):
        """List the snapshots in the directory, oldest first.

        Returns
        -------
        rows : list of dict
            One row per file: `path` (:class:`pathlib.Path`, for :func:`joblib.load`),
            `run_id` (:class:`uuid.UUID`, one per outermost fit), `task_id_path` and
            `parent_task_id_path` (tuple of int: the iteration and its loop, as in the
            rows of :class:`LossLogger`) and `loss` (float, NaN if the estimator keeps
            no `loss_curve_`).
        """
        paths = sorted(self.directory.glob("snapshot_*.joblib"))
        return [_parse_snapshot_name(path) for path in paths]

    @validate_params(
        {"select": [StrOptions({"newest", "best"})]},
        prefer_skip_nested_validation=True,
    )
    def load(self, select="newest"):
        """Load one snapshot.

        Parameters
        ----------
        select : {"newest", "best"}, default="newest"
            The snapshot written last, or the one of lowest training loss (the later one
            of equals). For another choice, load from the rows of :meth:`list_files`.

        Returns
        -------
        estimator : estimator instance
            The fitted copy, without callbacks.

        Raises
        ------
        FileNotFoundError
            If the directory holds no snapshot, or none with a loss for "best".
        """
        rows = self.list_files()
        if select == "best":
            rows = [row for row in rows if not math.isnan(row["loss"])]
            rows.sort(key=lambda row: row["loss"], reverse=True)
        if not rows:
            wanted = "snapshot with a loss" if select == "best" else "snapshot"
            raise FileNotFoundError(f"There is no {wanted} in {self.directory}.")
        return joblib.load(rows[-1]["path"])


def _snapshot_name(context, fitted_estimator):
    # The time comes first and in nanoseconds: to sort by name is to sort by age.
    run_id = context.root_uuid.hex
    task_ids = "-".join(map(str, _task_id_path(context)))
    loss = float(getattr(fitted_estimator, "loss_curve_", [math.nan])[-1])
    return f"snapshot_{time.time_ns()}_{run_id}_{task_ids}_{loss!r}.joblib"


def _parse_snapshot_name(path):
    _, _, run_id, task_ids, loss = path.stem.split("_")
    task_id_path = tuple(map(int, task_ids.split("-")))
    return {
        "path": path,
        "run_id": uuid.UUID(run_id),
        "task_id_path": task_id_path,
        "parent_task_id_path": task_id_path[:-1],
        "loss": float(loss),
    }


class _LoopLog(NamedTuple):
    """The losses of one loop; its fields are in the order that logs are sorted by."""

    run_start: datetime
    run_id: uuid.UUID
    task_id_path: tuple
    task_name_path: tuple
    estimator_name: str
    losses: list  # of (task_id, loss)

    @classmethod
    def from_context(cls, loop, losses):
        path = get_context_path(loop)
        return cls(
            run_start=path[0].init_time,
            run_id=loop.root_uuid,
            task_id_path=_task_id_path(loop),
            # Where an estimator's fit is a task of a meta-estimator, the latter's name
            # for it tells more: "refit-with-best-params", not "fit".
            task_name_path=tuple(t.source_task_name or t.task_name for t in path),
            estimator_name=loop.estimator_name,
            losses=losses,
        )

    def rows(self):
        for task_id, loss in self.losses:
            yield {
                "run_id": self.run_id,
                "estimator_name": self.estimator_name,
                "parent_task_name_path": self.task_name_path,
                "parent_task_id_path": self.task_id_path,
                "task_id_path": (*self.task_id_path, task_id),
                "task_id": task_id,
                "loss": loss,
            }


class LossLogger:
    """Record the training loss of every iteration, from all workers of a search.

    Fits in other processes send their losses back to the logger that was set, a loop at
    a time: the rows of a loop are there when it ends, also when it ends in an error.

    Raises
    ------
    ImportError
        If scikit-learn is older than 1.9.
    ValueError
        In fit, if the estimator keeps no `loss_curve_`.

    See Also
    --------
    sklearn.callback.ScoringMonitor : Record scores on the training data instead.

    Examples
    --------
    A toy that keeps the contract:

    >>> from sklearn.base import BaseEstimator
    >>> from sklearn.callback import CallbackSupportMixin, with_callbacks
    >>> from sklearn_attn.callbacks import LossLogger
    >>> class Toy(CallbackSupportMixin, BaseEstimator):
    ...     @with_callbacks
    ...     def fit(self, X, y=None):
    ...         context = self._init_callback_context(max_subtasks=3)
    ...         self.loss_curve_ = []
    ...         for i in range(3):
    ...             iteration = context.subcontext(task_name="iteration")
    ...             self.loss_curve_.append(0.5**i)
    ...             iteration.call_on_fit_task_end(
    ...                 estimator=self,
    ...                 reconstruction_attributes={"loss_curve_": self.loss_curve_},
    ...             )
    ...         return self
    >>> logger = LossLogger()
    >>> _ = Toy().set_callbacks(logger).fit([[0]])
    >>> [row["loss"] for row in logger.get_logs()]
    [1.0, 0.5, 0.25]
    """

    def __init__(self):
        _require_callback_support(self)
        self._log = []
        self._loops = _PerLoop()
        # Opened now and not in setup, so that every copy in a worker knows the address.
        self._listener = open_listener(self._log.append, owner=self)

    def __getstate__(self):
        # A listener thread may append to the log while another thread pickles it.
        return {**vars(self), "_log": list(self._log)}

    def __setstate__(self, state):
        vars(self).update(state)
        if not can_reuse_listener(self._listener):
            self._listener = open_listener(self._log.append, owner=self)

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        for task in context:  # loops that an error cut short
            self._deliver(task)

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if not _is_iteration(context):
            self._deliver(context)
        elif fitted_estimator is not None:
            loss = _latest_loss(self, fitted_estimator)
            losses = self._loops.setdefault(context.parent, [])
            losses.append((context.task_id, loss))

    def _deliver(self, task):
        # One message per loop: from a worker, each one waits for its acknowledgement.
        losses = self._loops.pop(task, None)
        if losses is not None:
            send_to_listener(self._listener, _LoopLog.from_context(task, losses))

    @validate_params(
        {"select": [StrOptions({"most_recent", "all"})], "as_frame": ["boolean"]},
        prefer_skip_nested_validation=True,
    )
    def get_logs(self, select="most_recent", *, as_frame=False):
        """Get the recorded losses, one row per iteration.

        Rows are sorted by run, loop and iteration. A run is one fit of the outermost
        estimator: all fits of a search belong to one run.

        Parameters
        ----------
        select : {"most_recent", "all"}, default="most_recent"
            The run that was started last, or all of them.

        as_frame : bool, default=False
            Whether to return a :class:`pandas.DataFrame` instead of a list.

        Returns
        -------
        rows : list of dict, or DataFrame
            With `run_id` (:class:`uuid.UUID`), `estimator_name` (str),
            `parent_task_name_path` (tuple of str, from the outermost fit to the loop,
            for example to find "refit-with-best-params"), `parent_task_id_path` (tuple
            of int, one per loop), `task_id_path` (tuple of int, as in the logs of
            :class:`sklearn.callback.ScoringMonitor`), `task_id` (int, the iteration,
            from 0) and `loss` (float).

        Raises
        ------
        ValueError
            If nothing was recorded.
        """
        loops = sorted(self._log)
        if not loops:
            raise ValueError(
                "No loss was recorded. Set the LossLogger on the estimator that "
                "iterates, also inside a pipeline or search, before its fit."
            )
        if select == "most_recent":
            loops = [loop for loop in loops if loop.run_id == loops[-1].run_id]
        rows = [row for loop in loops for row in loop.rows()]
        if not as_frame:
            return rows
        import pandas as pd

        return pd.DataFrame(rows)
