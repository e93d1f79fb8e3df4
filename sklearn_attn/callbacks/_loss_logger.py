"""Record the loss of each iteration, and send it from wherever the fit runs."""

import uuid
from datetime import datetime
from typing import NamedTuple

from .._compat import (
    StrOptions,
    can_reuse_listener,
    get_context_path,
    open_listener,
    send_to_listener,
    validate_params,
)
from ._loops import (
    PerLoop,
    is_iteration,
    latest_loss,
    require_callback_support,
    task_id_path,
)


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
    >>> from sklearn_attn.attention import AttentionSVMClassifier
    >>> from sklearn_attn.callbacks import LossLogger
    >>> from sklearn_attn.datasets import make_token_selection
    >>> X, y = make_token_selection(
    ...     n_samples=20, n_tokens=5, n_token_features=4, random_state=0
    ... )
    >>> logger = LossLogger()
    >>> classifier = AttentionSVMClassifier().set_callbacks(logger).fit(X, y)
    >>> rows = logger.get_logs()
    >>> [row["loss"] for row in rows] == classifier.loss_curve_
    True
    >>> rows[0]["parent_task_name_path"]
    ('fit', 'class 1', 'stage')
    """

    def __init__(self):
        require_callback_support(self)
        self._log = []
        self._loops = PerLoop()
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
        if not is_iteration(context):
            self._deliver(context)
        elif fitted_estimator is not None:
            loss = latest_loss(self, fitted_estimator)
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
            task_id_path=task_id_path(loop),
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
