"""The peak memory of a fit, measured in a fresh process."""

import math
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from sklearn import config_context, get_config
from sklearn.base import clone

_KIB_PER_MIB = 2**10
_BYTES_PER_MIB = 2**20


def peak_memory_of_fits(candidates, X, y, params) -> Iterator[tuple[str, float]]:
    """Yield (name, MiB) of one fit on all samples, each in a process of its own."""
    if math.isnan(_peak_resident_memory()):
        return
    with TemporaryDirectory() as folder:
        # through a file: a pipe would hold the data twice and so raise the peak
        # before the fit, which would hide the fit's own
        path = Path(folder) / "data.joblib"
        joblib.dump((X, y, params), path)
        for name, estimator in candidates.items():
            try:
                # loky and not multiprocessing: scripts need no main guard, lambdas
                # travel, and a process that is killed is an exception
                with ProcessPoolExecutor(max_workers=1) as process:
                    job = process.submit(_fit_memory, estimator, path, get_config())
                    peak = job.result()
            except Exception as error:
                warnings.warn(
                    f"the memory of {name!r} was not measured: "
                    f"{type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=3,  # the caller of compare
                )
                peak = math.nan
            yield name, peak


def _fit_memory(estimator, path, config):
    """Fit, and return by how many MiB this raised the process's peak."""
    X, y, params = joblib.load(path)
    # in sequence: the memory of a grandchild would escape the count
    with config_context(**config), joblib.parallel_config("sequential"):
        before = _peak_resident_memory()
        clone(estimator).fit(X, y, **params)
        return _peak_resident_memory() - before


def _peak_resident_memory():
    """Return the peak resident memory of this process so far, in MiB."""
    if sys.platform == "linux":
        # not ru_maxrss, which a child inherits from its parent through exec on Linux
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / _KIB_PER_MIB
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _BYTES_PER_MIB
    return math.nan
