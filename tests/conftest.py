"""One torch thread in tests, and scipy's array-API support, before anything else."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config):
    # Here and not in pyproject.toml: to resolve it there would import scipy too early.
    config.addinivalue_line(
        "filterwarnings",
        "error::sklearn.exceptions.ConvergenceWarning:sklearn_attn",
    )


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device found")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
