"""Loops and iterations among the tasks of a fit, and what callbacks know of them."""

from weakref import WeakKeyDictionary

import sklearn

from .._compat import get_context_path, open_listener


def require_callback_support(callback):
    if open_listener is None:
        raise ImportError(
            f"{type(callback).__name__} needs the callbacks of scikit-learn 1.9 or "
            f"newer; scikit-learn {sklearn.__version__} is installed."
        )


def is_iteration(context):
    """Whether a task is a leaf below the root of its own estimator."""
    is_estimator_root = context.parent is None or context.source_task_name is not None
    return context.max_subtasks == 0 and not is_estimator_root


def task_id_path(context):
    return tuple(task.task_id for task in get_context_path(context))


def latest_loss(callback, fitted_estimator):
    try:
        return float(fitted_estimator.loss_curve_[-1])
    except AttributeError:
        raise ValueError(
            f"{type(callback).__name__} reads the training loss from `loss_curve_`, "
            f"which {type(fitted_estimator).__name__} does not keep."
        ) from None


class PerLoop(WeakKeyDictionary):
    """What a callback remembers of each loop that is running, keyed by its context.

    One callback serves all clones of an estimator, possibly in several threads. Each
    fit makes its own contexts, so no two loops share an entry, and an entry goes with
    its loop. A loop never moves to another process: the dictionary pickles as empty.
    """

    def __reduce__(self):
        return PerLoop, ()
