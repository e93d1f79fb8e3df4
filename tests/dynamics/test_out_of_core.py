"""Files that no worker could hold, on a dask cluster: partial_fit, then merge."""

import os
from functools import reduce

import numpy as np
import pytest
from distributed import Client, LocalCluster, wait

from sklearn_attn.dynamics import BilinearSystem, BilinearSystemIdentifier

N_STATES, N_INPUTS = 10, 3
N_COLUMNS = 2 * N_STATES + N_INPUTS  # state, inputs, next state
N_FILES, ROWS_IN_FILE = 6, 800_000  # 147 MB each
WORKER_MEMORY = 800_000_000  # bytes; torch alone takes half of it
PATIENCE = 120  # seconds; dask halts a worker for ever at 80 % of its memory
BYTES = 8 * N_COLUMNS * ROWS_IN_FILE


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Rows [x | u | y] of one system, in files that exceed a worker's memory."""
    folder = tmp_path_factory.mktemp("trajectories")
    rng = np.random.default_rng(0)
    A = 0.2 * rng.standard_normal((N_INPUTS + 1, N_STATES, N_STATES))
    B = rng.standard_normal((N_STATES, N_INPUTS))
    system = BilinearSystem(A, B)
    paths = [folder / f"{i}.bin" for i in range(N_FILES)]
    for path in paths:
        with path.open("wb") as file:
            for _ in range(8):
                rows = rng.standard_normal((ROWS_IN_FILE // 8, N_COLUMNS))
                x, u = rows[:, :N_STATES], rows[:, N_STATES:-N_STATES]
                rows[:, -N_STATES:] += system.features(x, u) @ np.hstack(A).T + u @ B.T
                rows.tofile(file)
    return paths


def test_files_larger_than_the_workers_give_the_single_fit(files):
    assert sum(path.stat().st_size for path in files) == N_FILES * BYTES > WORKER_MEMORY

    # inside of this function, so that it travels to the workers by value
    def fit_file(path, n_rows=20_000):
        model = BilinearSystemIdentifier()
        for start in range(0, ROWS_IN_FILE, n_rows):
            offset = 8 * N_COLUMNS * start
            rows = np.fromfile(path, count=n_rows * N_COLUMNS, offset=offset)
            rows = rows.reshape(n_rows, N_COLUMNS)
            model.partial_fit(rows[:, :-N_STATES], rows[:, -N_STATES:])
        return model

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=WORKER_MEMORY,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        processes = client.run(os.getpid)
        futures = client.map(fit_file, files)
        wait(futures, timeout=PATIENCE)
        parts = client.gather(futures)
        # a worker that exceeds its memory is ended, and another one started
        assert client.run(os.getpid) == processes
    merged = reduce(lambda a, b: a.merge(b), parts)
    assert merged.n_samples_seen_ == N_FILES * ROWS_IN_FILE

    rows = np.concatenate([np.fromfile(path) for path in files]).reshape(-1, N_COLUMNS)
    single = BilinearSystemIdentifier().fit(rows[:, :-N_STATES], rows[:, -N_STATES:])
    for name in ("coef_", "coef_se_", "noise_cov_", "input_mean_"):
        np.testing.assert_allclose(
            getattr(merged, name), getattr(single, name), rtol=1e-10, atol=1e-12
        )
