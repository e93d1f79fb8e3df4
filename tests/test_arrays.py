"""The door for arrays and devices."""

import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.utils import check_random_state

from sklearn_attn._arrays import (
    _blas,
    available_devices,
    cpu_generator,
    few_threads,
    follow,
    pack_state,
    resolve_device,
    resolve_dtype,
    to_numpy,
    to_tensor,
)

strict = pytest.importorskip("array_api_strict")


def test_devices_that_exist_resolve_and_others_are_named():
    assert available_devices()[0] == "cpu"
    assert resolve_device("cpu") == torch.device("cpu")
    assert str(resolve_device("auto")) in available_devices()
    with pytest.raises(ValueError, match=r"'abacus' is not available here; found cpu"):
        resolve_device("abacus")
    with pytest.warns(RuntimeWarning, match="Using the CPU instead"):
        assert resolve_device("abacus", fall_back=True) == torch.device("cpu")


@pytest.mark.gpu
def test_cuda_means_the_first_gpu():
    assert resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("auto") == torch.device("cuda:0")


def test_auto_precision_follows_the_data():
    cpu, mps = torch.device("cpu"), torch.device("mps")
    assert resolve_dtype("auto", np.zeros(1), cpu) is torch.float64
    assert resolve_dtype("auto", np.zeros(1, np.float32), cpu) is torch.float32
    assert resolve_dtype("auto", [[1]], cpu) is torch.float64
    assert resolve_dtype("auto", np.zeros(1), mps) is torch.float32
    assert resolve_dtype("float32", np.zeros(1), cpu) is torch.float32
    with pytest.raises(ValueError, match="has no float64"):
        resolve_dtype("float64", np.zeros(1), mps)


def test_a_seed_draws_the_same_numbers_and_leaves_the_global_generators_alone():
    torch_state, numpy_state = (
        torch.get_rng_state(),
        check_random_state(None).get_state(),
    )
    draws = [torch.randn(3, generator=cpu_generator(0)) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), torch_state)
    after = check_random_state(None).get_state()  # the global generator of NumPy
    np.testing.assert_array_equal(after[1], numpy_state[1])


def test_small_work_runs_on_one_thread_and_the_number_comes_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        blas = [info["num_threads"] for info in _blas().info()]
        with few_threads(10):
            assert torch.get_num_threads() == 1
            limited = _blas().select(user_api="blas").info()
            assert all(info["num_threads"] == 1 for info in limited)
            with few_threads(10):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        assert [info["num_threads"] for info in _blas().info()][: len(blas)] == blas
        with few_threads(10**9):
            assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), few_threads(10):
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_survives_guards_that_overlap_in_time():
    before = torch.get_num_threads()
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with few_threads(1):
            inside.set()
            leave.wait(10)

    try:
        torch.set_num_threads(2)
        thread = threading.Thread(target=hold)
        with few_threads(1):
            thread.start()
            inside.wait(10)
        leave.set()  # the one that entered first has left; the last one restores
        thread.join()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_arrays_of_every_namespace_come_in():
    expected = np.arange(6.0).reshape(2, 3)
    device = strict.Device("device1")
    for array in (
        expected,
        torch.from_numpy(expected),
        strict.asarray(expected, device=device),
    ):
        np.testing.assert_array_equal(to_numpy(array), expected)
        np.testing.assert_array_equal(to_tensor(array).numpy(), expected)


def test_memory_that_torch_cannot_hold_is_copied_without_a_warning():
    array = np.arange(6.0)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_tensor(array).tolist() == array.tolist()
        assert to_tensor(array[::-1]).tolist() == array[::-1].tolist()


def test_a_tensor_is_taken_without_its_graph():
    tensor = torch.ones(2, requires_grad=True)
    assert not to_tensor(2 * tensor).requires_grad


def test_results_follow_x_only_under_dispatch():
    result = np.arange(3.0)
    X = torch.zeros(1)
    assert isinstance(follow(X)(result), np.ndarray)
    with config_context(array_api_dispatch=True):
        followed = follow(X)(result)
        assert isinstance(followed, torch.Tensor)
        result[0] = 7  # no memory is shared
        assert followed.tolist() == [0, 1, 2]
        assert follow(strict.zeros(1))(result).__array_namespace__() is strict
        names = follow(X)(np.array(["a", "b"]))
        assert isinstance(names, np.ndarray)
        assert isinstance(follow(np.zeros(1))(result), np.ndarray)


def test_packed_state_has_tensors_on_the_cpu_and_the_version():
    state = pack_state({"coef_": torch.ones(2, requires_grad=True), "alpha": 1})
    assert not state["coef_"].requires_grad
    assert state["_sklearn_attn_version"]
    assert pickle.loads(pickle.dumps(state))["alpha"] == 1
