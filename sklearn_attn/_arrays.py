"""The door for arrays and devices: where we compute, and what comes out.

`device` says where the numbers are worked on; the namespace of X says what kind of
array the user gets back. Data goes down once, as a tensor, and comes back once.
"""

import functools
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import torch
from sklearn import get_config
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import check_random_state
from threadpoolctl import ThreadpoolController

from ._compat import convert_to_numpy, get_namespace_and_device

# Two torch threads cost more than they bring below about a million numbers: the
# hand-over of one operation takes longer than the operation.
_SMALL_WORK = 1_000_000


def available_devices():
    """Return the names of the devices that torch can use here, the CPU first."""
    names = ["cpu"]
    names += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def resolve_device(device, *, fall_back=False):
    """Turn an estimator's `device` parameter into a `torch.device` that exists here.

    With `fall_back`, a device that is missing costs a warning and becomes the CPU:
    a model fitted on a GPU predicts on a machine without one.
    """
    names = available_devices()
    if device == "auto":
        return torch.device(names[1] if len(names) > 1 else "cpu")
    wanted = f"{device}:0" if device == "cuda" else device
    if wanted in names:
        return torch.device(wanted)
    message = f"device={device!r} is not available here; found {', '.join(names)}"
    if not fall_back:
        raise ValueError(f"{message}. Choose one of those, or 'auto'.")
    warnings.warn(f"{message}. Using the CPU instead.", RuntimeWarning, stacklevel=3)
    return torch.device("cpu")


def resolve_dtype(dtype, X, device):
    """Return the `torch.dtype`: float64 unless X or the device says float32."""
    if dtype == "auto":
        float32 = str(getattr(X, "dtype", "")).endswith("float32")
        return torch.float32 if float32 or device.type == "mps" else torch.float64
    if dtype == "float64" and device.type == "mps":
        raise ValueError("device='mps' has no float64; use dtype='float32' or 'auto'.")
    return getattr(torch, dtype)


def cpu_generator(random_state):
    """Return a CPU generator, so that a seed draws the same numbers for any device."""
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return torch.Generator(device="cpu").manual_seed(int(seed))


class _Guard(threading.local):
    """Which Python threads run small work, and how many torch threads there were.

    Torch keeps the number for each Python thread, and hands the number that was set
    last, by whichever thread, to every thread that asks for the first time. So the
    number is noted when the first of them enters, and each sets it back for itself.
    """

    lock = threading.Lock()
    n_inside = 0
    n_threads = 1
    blas_limit = None  # of NumPy's and SciPy's solvers, which all threads share
    is_inside = False  # of this Python thread alone


_guard = _Guard()


@functools.cache
def _blas():
    """Find the BLAS libraries once: looking for them costs a millisecond."""
    return ThreadpoolController()


@contextmanager
def few_threads(n_numbers, *, limit=1):
    """Run small work on one thread of torch and BLAS; put the numbers back after.

    With another `limit`, torch gets so many, and BLAS one.
    """
    if n_numbers > _SMALL_WORK or _guard.is_inside:
        yield
        return
    with _Guard.lock:
        if _Guard.n_inside == 0:
            _Guard.n_threads = torch.get_num_threads()
            _Guard.blas_limit = _blas().limit(limits=1, user_api="blas")
        _Guard.n_inside += 1
    _guard.is_inside = True
    torch.set_num_threads(limit)
    try:
        yield
    finally:
        _guard.is_inside = False
        with _Guard.lock:
            _Guard.n_inside -= 1
            torch.set_num_threads(_Guard.n_threads)
            if _Guard.n_inside == 0:
                _Guard.blas_limit.restore_original_limits()


def to_numpy(array):
    """Bring an array of any namespace and device to NumPy; leave the rest alone."""
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().numpy()
    if not hasattr(array, "__array_namespace__") or isinstance(array, np.ndarray):
        return array
    return convert_to_numpy(array, array.__array_namespace__())


def to_tensor(array, *, device=None, dtype=None, read_only=False):
    """Make a tensor of an array of any namespace; copy and move only if needed.

    With `read_only`, the caller promises not to write, and memory that must not be
    written to, as of a file, is not copied either.
    """
    if isinstance(array, torch.Tensor):
        return array.detach().to(device=device, dtype=dtype)
    array = np.asarray(to_numpy(array))
    negative = any(stride < 0 for stride in array.strides)
    if negative or not (array.flags.writeable or read_only):
        array = array.copy()  # torch cannot hold the one and warns of the other
    if array.flags.writeable:
        return torch.from_numpy(array).to(device=device, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ")
        return torch.from_numpy(array).to(device=device, dtype=dtype)


def follow(X):
    """Return the function that puts a NumPy result into the namespace of X.

    Without array-API dispatch, results stay NumPy arrays, whatever came in. Strings
    (class labels) stay too, since no other namespace holds them.
    """
    if not get_config()["array_api_dispatch"]:
        return lambda result: result
    namespace, _, device = get_namespace_and_device(X)
    if "numpy" in namespace.__name__:
        return lambda result: result

    def put(result):
        if result.dtype.kind not in "biuf":
            return result
        # a copy: the other namespace may share memory, and wants it writeable
        return namespace.asarray(np.array(result, order="C"), device=device)

    return put


def pack_state(state):
    """Make the state of an estimator portable: tensors on the CPU, version noted."""
    from . import __version__

    packed = {
        name: value.detach().cpu() if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }
    return packed | {"_sklearn_attn_version": __version__}


def unpack_state(estimator, state):
    """Undo `pack_state`; warn where another version of the package wrote the state."""
    from . import __version__

    written = state.get("_sklearn_attn_version", "an unknown version")
    if written != __version__:
        warnings.warn(
            InconsistentVersionWarning(
                estimator_name=type(estimator).__name__,
                current_sklearn_version=f"sklearn-attn {__version__}",
                original_sklearn_version=f"sklearn-attn {written}",
            ),
            stacklevel=3,
        )
    return {k: v for k, v in state.items() if k != "_sklearn_attn_version"}
