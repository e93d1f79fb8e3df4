"""Write the fitted copy of an iteration to disk, and find it again by its name."""

import copy
import math
import os
import time
import uuid
from collections import deque
from numbers import Integral
from pathlib import Path

import joblib

from .._compat import CALLBACK_BOOKKEEPING, Interval, StrOptions, validate_params
from ._loops import PerLoop, is_iteration, require_callback_support, task_id_path


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
        require_callback_support(self)
        # Absolute: a worker process need not share the working directory.
        self.directory = Path(directory).absolute()
        self.every = every
        self.keep_last = keep_last
        self._loops = PerLoop()

    def setup(self, estimator, context):
        self.directory.mkdir(parents=True, exist_ok=True)

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if fitted_estimator is None or not is_iteration(context):
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
    task_ids = "-".join(map(str, task_id_path(context)))
    loss = float(getattr(fitted_estimator, "loss_curve_", [math.nan])[-1])
    return f"snapshot_{time.time_ns()}_{run_id}_{task_ids}_{loss!r}.joblib"


def _parse_snapshot_name(path):
    _, _, run_id, task_ids, loss = path.stem.split("_")
    ids = tuple(map(int, task_ids.split("-")))
    return {
        "path": path,
        "run_id": uuid.UUID(run_id),
        "task_id_path": ids,
        "parent_task_id_path": ids[:-1],
        "loss": float(loss),
    }


def _without_callbacks(fitted_estimator):
    """Copy an estimator without the sockets and the tree of tasks that hang on it."""
    bare = copy.copy(fitted_estimator)
    for name in CALLBACK_BOOKKEEPING:
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
