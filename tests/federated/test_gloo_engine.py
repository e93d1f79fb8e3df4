"""Workers over gloo: the same sums, whoever dies, and nobody waits for ever."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from sklearn_attn.federated import MinimaxProblem, _gloo_engine, fedmsa
from sklearn_attn.federated._clients import ClientBlock
from sklearn_attn.federated._gloo_engine import (
    GlooEngine,
    _decode,
    _encode,
    local_gloo_engine,
    serve_clients,
)

N_PROCESSES = 3
DIED = 7
# Sums over clients are rounded in another order.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def saddle(folder):
    """Return a problem of closures; files in the folder make a process misbehave."""

    def behave():
        pid = os.getpid()
        if (folder / f"exit-{pid}").exists():
            os._exit(DIED)
        if (folder / f"raise-{pid}").exists():
            raise ArithmeticError("there is no such number")
        if (slow := folder / f"slow-{pid}").exists():
            slow.unlink()
            time.sleep(3.0)

    def loss(data, x, y):
        behave()
        X, t = data
        return ((X @ (x + y) - t) ** 2).mean() / 2 + x @ x - y @ y

    zero = torch.zeros(3, dtype=torch.float64)
    return MinimaxProblem(loss, zero, zero)


def draw_clients(n_clients=7):
    g = torch.Generator().manual_seed(0)
    rows = [4 + m % 3 for m in range(n_clients)]
    return [
        tuple(torch.randn(*shape, generator=g).double() for shape in ((n, 3), (n,)))
        for n in rows
    ]


def request(kind="field", clients=range(7), **changed):
    g = torch.Generator().manual_seed(1)
    content = {
        "field": {
            "at": torch.randn(2, 6, generator=g).double(),
            "coef": torch.tensor([1.0, -0.5]),
        },
        "steps": {
            "start": torch.randn(6, generator=g).double(),
            "direction": torch.randn(6, generator=g).double(),
            "step": torch.tensor([0.01, 0.1]),
            "local_steps": 3,
            "correct": 1,
        },
    }
    asked = torch.tensor(list(clients))
    constant = {"kind": kind, "round": 5, "seed": 3, "batch_size": 0, "clients": asked}
    return constant | content[kind] | changed


WEIGHTS = [1.0, 2.0, 0.5, 3.0, 1.0, 4.0, 1.5]


class Federation:
    """An engine over three processes, and the same clients in one block."""

    def __init__(self, folder):
        self.folder = folder
        self.problem, self.clients = saddle(folder), draw_clients()
        self.block = ClientBlock(self.problem, self.clients, weights=WEIGHTS)
        self.engine = local_gloo_engine(
            self.problem,
            self.clients,
            weights=WEIGHTS,
            n_processes=N_PROCESSES,
            timeout=60.0,
        )
        self.parts = [slice(0, 2), slice(2, 4), slice(4, 7)]
        self.threads = []

    def tell(self, worker, what):
        flag = self.folder / f"{what}-{self.engine._processes[worker].pid}"
        flag.touch()
        return flag

    def restart(self, worker):
        """Serve a worker's clients in a thread here, instead of in its process."""
        part = self.parts[worker]
        self.threads.append(
            start_worker(
                self.problem,
                self.clients[part],
                worker=worker,
                port=self.engine.port,
                weights=WEIGHTS[part],
            )
        )
        return self.ask_until_complete()

    def ask_until_complete(self):
        until = time.monotonic() + 30.0
        while (reply := self.engine.ask(request()))["lost"]:
            self.assert_equal(reply, request())
            assert time.monotonic() < until
            time.sleep(0.05)
        return reply

    def assert_equal(self, reply, question):
        lost = set(reply["lost"])
        left = [m for m in question["clients"].tolist() if m not in lost]
        expected = self.block.answer(question | {"clients": torch.tensor(left)})
        torch.testing.assert_close(reply["total"], expected["total"], **CLOSE)
        assert reply["weight"] == pytest.approx(expected["weight"], rel=1e-12)
        assert reply["value"] == pytest.approx(expected["value"], rel=1e-12)
        assert reply["answered"].tolist() == left


def start_worker(problem, clients, *, results=None, timeout=10.0, **where):
    """Serve in a thread; what comes out goes to `results`."""

    def serve():
        try:
            out = serve_clients(
                problem, clients, host="127.0.0.1", timeout=timeout, **where
            )
        except Exception as error:
            out = error
        if results is not None:
            results.append(out)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("flags"))
    yield federation
    federation.engine.close()
    for thread in federation.threads:
        thread.join(10.0)


@pytest.mark.parametrize("kind", ["field", "steps"])
@pytest.mark.parametrize("clients", [range(7), [6, 0]])
def test_three_processes_sum_up_to_one_block(federation, kind, clients):
    question = request(kind, sorted(clients))
    reply = federation.engine.ask(question)
    assert reply["lost"] == []
    federation.assert_equal(reply, question)


def test_clients_are_numbered_in_the_order_of_workers(federation):
    assert federation.engine.numbers == list(range(7))
    assert federation.engine.weights == WEIGHTS


def test_the_solver_finds_the_same_point_in_processes(federation):
    options = {
        "n_rounds": 4,
        "local_steps": 3,
        "batch_size": 2,
        "local_clients": 4,
        "alpha": 0.1,
        "beta": 0.1,
    }
    alone = fedmsa(
        federation.problem, federation.clients, weights=WEIGHTS, **options
    ).value
    apart = fedmsa(federation.problem, engine=federation.engine, **options).value
    torch.testing.assert_close(apart, alone, rtol=1e-9, atol=1e-9)


def test_the_process_group_of_the_program_is_not_touched(federation):
    assert federation.engine.ask(request())["lost"] == []
    assert not torch.distributed.is_initialized()


def test_an_error_in_a_function_comes_back_with_its_traceback(federation):
    federation.ask_until_complete()
    worker = alive(federation)
    flag = federation.tell(worker, "raise")
    with pytest.raises(RuntimeError, match=r"(?s)Worker \d failed.*no such number"):
        federation.engine.ask(request())
    flag.unlink()
    federation.assert_equal(federation.engine.ask(request()), request())


def test_a_late_reply_is_lost_and_never_counted(federation, monkeypatch):
    federation.ask_until_complete()
    worker = alive(federation)
    monkeypatch.setattr(federation.engine, "timeout", 1.0)
    federation.tell(worker, "slow")
    late = federation.engine.numbers[federation.parts[worker]]
    for _ in range(2):  # in the second, it still works on the first
        start = time.monotonic()
        reply = federation.engine.ask(request())
        assert time.monotonic() - start < 2.0
        assert reply["lost"] == late
        federation.assert_equal(reply, request())
    monkeypatch.undo()
    federation.assert_equal(federation.ask_until_complete(), request())


@pytest.mark.parametrize("death", ["killed", "in the middle", "orphaned"])
def test_a_dead_worker_is_lost_and_may_come_again(federation, death):
    federation.ask_until_complete()
    worker = alive(federation)
    process = federation.engine._processes[worker]
    if death == "killed":
        os.kill(process.pid, signal.SIGKILL)
    elif death == "in the middle":
        federation.tell(worker, "exit")  # in the middle of its answer
    else:
        process.stdin.close()  # as when the parent dies, even by a signal
        assert process.wait(5.0) == 0
    start = time.monotonic()
    for _ in range(2):
        reply = federation.engine.ask(request("field"))
        assert reply["lost"] == federation.engine.numbers[federation.parts[worker]]
        federation.assert_equal(reply, request("field"))
    assert time.monotonic() - start < 20.0  # much less than the time limit
    federation.assert_equal(federation.restart(worker), request())


def alive(federation):
    """Return a worker that is a process still."""
    for worker, process in enumerate(federation.engine._processes):
        if process.poll() is None:
            return worker
    raise AssertionError("all processes are dead")


def test_nobody_answering_has_weight_zero():
    problem, results = saddle(Path()), []
    engine = GlooEngine(1, port=0, timeout=5.0)
    where = {"worker": 0, "port": engine.port, "results": results}
    thread = start_worker(problem, draw_clients(2), **where)
    assert engine.numbers == [0, 1]
    engine._links[0] = None
    reply = engine.ask(request(clients=[5]))
    assert reply["weight"] == 0
    assert reply["lost"] == [5]
    engine.close()
    thread.join(5.0)
    assert not thread.is_alive()


def test_a_worker_waits_between_requests_for_longer_than_the_time_limit():
    results = []
    with GlooEngine(1, port=0, timeout=5.0) as engine:
        where = {"worker": 0, "port": engine.port, "timeout": 0.2, "results": results}
        thread = start_worker(saddle(Path()), draw_clients(2), **where)
        assert engine.numbers == [0, 1]
        time.sleep(0.7)
        assert engine.ask(request(clients=[0, 1]))["lost"] == []
    thread.join(5.0)
    assert results == [1]  # request answered


def test_a_worker_ends_when_its_server_vanishes():
    results = []
    engine = GlooEngine(1, port=0, timeout=5.0)
    where = {"worker": 0, "port": engine.port, "timeout": 1.0, "results": results}
    thread = start_worker(saddle(Path()), draw_clients(2), **where)
    assert engine.numbers == [0, 1]
    engine._links[0] = engine._store = None  # what a worker sees of the server's death
    thread.join(3.0)
    assert isinstance(results[0], ConnectionError)
    engine.close()


def test_a_worker_without_a_server_says_where_it_looked():
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 in 0\.5 s"):
        serve_clients(None, [], worker=0, host="127.0.0.1", port=9, timeout=0.5)
    assert time.monotonic() - start < 2.0


def test_a_server_without_workers_says_who_is_missing():
    with GlooEngine(2, port=0, timeout=0.3) as engine:
        with pytest.raises(ConnectionError, match=r"Workers \[0, 1\] of 2 have not"):
            engine.ask(request())
        with pytest.raises(OSError, match=f"Cannot listen at 127.0.0.1:{engine.port}"):
            GlooEngine(2, port=engine.port)
    with pytest.raises(RuntimeError, match="closed"):
        engine.ask(request())


def test_a_worker_with_other_clients_or_of_no_number_is_refused():
    problem, results = saddle(Path()), []
    with GlooEngine(1, port=0, timeout=5.0) as engine:
        where = {"host": "127.0.0.1", "port": engine.port, "timeout": 5.0}
        with pytest.raises(ValueError, match="has 1 workers"):
            serve_clients(problem, draw_clients(2), worker=1, **where)
        start_worker(problem, draw_clients(2), worker=0, port=engine.port)
        assert engine.numbers == [0, 1]
        with pytest.raises(ValueError, match="the same clients"):
            serve_clients(problem, draw_clients(3), worker=0, **where)
        # The second one of this number takes the place of the first, which ends.
        where = {"worker": 0, "port": engine.port, "results": results}
        start_worker(problem, draw_clients(2), **where)
        while not engine._store.check(["0/hello"]):
            time.sleep(0.01)
        assert engine.ask(request(clients=[0, 1]))["lost"] == []


def test_a_process_that_does_not_start_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="worker 0 ended with code 1 at its start"):
        local_gloo_engine(None, [torch.zeros(1)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_processes": 0}, "0 processes"),
        ({"weights": [1.0]}, "1 weights for 2 clients"),
        ({"device": ["cpu"]}, "1 devices for 2 processes"),
        ({"timeout": 0}, "timeout=0"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        local_gloo_engine(None, [torch.zeros(1), torch.zeros(1)], **options)


def test_messages_arrive_as_they_were_sent():
    big = torch.arange(12.0).reshape(3, 4)
    sent = {
        "kind": "fïeld\n",
        "round": 3,
        "value": float("nan"),
        "view": big.T[1:],
        "numbers": torch.tensor([2**53 + 1]),
        "none": torch.zeros(0, 7, dtype=torch.float64),
        "odd": torch.tensor([True]),
        "after_odd": torch.tensor([1 / 3], dtype=torch.float64),
    }
    text, content = _encode(sent)
    got = _decode(len(text), content)
    assert got.keys() == sent.keys()
    for name, value in sent.items():
        if not isinstance(value, str | int):
            torch.testing.assert_close(got[name], value, rtol=0, atol=0, equal_nan=True)
    assert (got["kind"], got["round"]) == (sent["kind"], 3)
    assert len(content) < 500  # a view travels without the rest


def test_closing_leaves_no_process_though_it_does_not_listen(monkeypatch):
    monkeypatch.setattr(_gloo_engine, "FAREWELL", 0.1)
    deaf = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE
    )
    engine = GlooEngine(1, port=0)
    engine._processes.append(deaf)
    assert engine._end.atexit  # it closes with the program, too
    engine.close()
    assert deaf.returncode == -signal.SIGKILL
    engine.close()  # once more is no error


def test_what_cannot_be_sent_is_named():
    with pytest.raises(TypeError, match=r"torch\.complex64 cannot be sent"):
        _encode({"total": torch.zeros(1, dtype=torch.complex64)})
