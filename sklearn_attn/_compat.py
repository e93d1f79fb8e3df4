"""The one door to scikit-learn's private names, and to what older versions lack.

Everything that the package takes from scikit-learn outside its documented interface
is imported here and nowhere else, so that a scikit-learn release can break one file.
scikit-learn 1.6 is the floor, 1.9 the main target.
"""

import functools
from contextlib import contextmanager

from sklearn.base import _fit_context as fit_context
from sklearn.utils._array_api import _convert_to_numpy as convert_to_numpy
from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_params,
)
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as count_samples

__all__ = [
    "CALLBACK_BOOKKEEPING",
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "StrOptions",
    "can_reuse_listener",
    "check_same_namespace",
    "check_sample_weight",
    "close_listener",
    "convert_to_numpy",
    "count_samples",
    "fit_context",
    "get_context_path",
    "get_namespace_and_device",
    "open_listener",
    "send_to_listener",
    "validate_params",
    "with_callbacks",
]

# What scikit-learn hangs on an estimator while its callbacks run: the callbacks, which
# may hold sockets, and the whole tree of tasks.
CALLBACK_BOOKKEEPING = (
    "_skl_callbacks",
    "_skl_callbacks_to_teardown",
    "_callback_fit_ctx",
    "_parent_callback_ctx",
)

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks
    from sklearn.callback._callback_context import get_context_path
    from sklearn.callback._transport import (
        can_reuse_listener,
        close_listener,
        open_listener,
    )
    from sklearn.callback._transport import send as send_to_listener
except ImportError:
    can_reuse_listener = close_listener = open_listener = send_to_listener = None
    get_context_path = None

    class _SilentContext:
        """Stands in for `CallbackContext` where scikit-learn has no callbacks."""

        def subcontext(self, **kwargs):
            return self

        def call_on_fit_task_begin(self, **kwargs):
            return self

        def call_on_fit_task_end(self, **kwargs):
            return False

        @contextmanager
        def propagate_callback_context(self, sub_estimator):
            yield

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Callbacks need scikit-learn 1.9; before it, there is none to call."""

        def _init_callback_context(self, **kwargs):
            return _SilentContext()

    def with_callbacks(method):
        # one frame, as scikit-learn's own: warnings count them to reach the user's line
        @functools.wraps(method)
        def called(*args, **kwargs):
            return method(*args, **kwargs)

        return called


def check_parameters(estimator):
    """Check the parameters of an estimator, as `fit_context` does before a fit."""
    estimator._validate_params()


try:  # scikit-learn >= 1.9
    from sklearn.utils._array_api import check_same_namespace
except ImportError:

    def check_same_namespace(X, estimator, *, attribute, method):
        """Array namespaces are compared from scikit-learn 1.9 on."""
