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

from ._early_stopping import EarlyStopping
from ._loss_logger import LossLogger
from ._snapshot import Snapshot

__all__ = ["EarlyStopping", "LossLogger", "Snapshot"]
