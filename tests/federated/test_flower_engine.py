"""Flower changes who computes, not what comes out (2306.01648)."""

import itertools
import os
import signal
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sklearn_attn.datasets import make_federated_quadratic
from sklearn_attn.federated import _flower_engine, fedmsa, quadratic_problem
from sklearn_attn.federated._clients import ClientBlock
from sklearn_attn.federated._flower_engine import (
    FlowerEngine,
    _packed,
    _ProcessGrid,
    _unpacked,
    flower_client_app,
    flower_server_app,
    local_flower_engine,
)

needs_flwr = pytest.mark.skipif(find_spec("flwr") is None, reason="flwr is missing")
needs_ray = pytest.mark.skipif(
    find_spec("flwr") is None or find_spec("ray") is None,
    reason="Flower's own simulation needs flwr and Ray",
)

WEIGHTS = [1.0, 2.0, 3.0, 4.0, 5.0]
PARTS = {11: [0, 1], 22: [2, 3, 4]}  # node -> clients
TIMEOUT = 0.3  # seconds; the nodes of the fake grid answer at once, or not at all
LONG = 120.0  # seconds in which processes start on a busy machine
# Sums in another order than within one block.
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}


def federation():
    data = make_federated_quadratic(n_clients=len(WEIGHTS), random_state=0)
    return quadratic_problem(data)


def block_of(numbers, make=ClientBlock):
    problem, clients = federation()
    weights = [WEIGHTS[m] for m in numbers]
    return make(
        problem, [clients[m] for m in numbers], weights=weights, numbers=numbers
    )


def a_request(kind="field", clients=(0, 1, 2, 3, 4), n_round=3):
    u = torch.linspace(-1.0, 1.0, block_of([0]).layout.size, dtype=torch.float64)
    content = {
        "field": {"at": u[None], "coef": torch.ones(1, dtype=torch.float64)},
        "steps": {
            "start": u,
            "direction": u,
            "step": torch.tensor([0.01, 0.1, 0.1], dtype=torch.float64),
            "local_steps": 3,
            "correct": True,
        },
    }[kind]
    clients = torch.tensor(clients, dtype=torch.int64)
    common = {"kind": kind, "round": n_round, "seed": 0, "batch_size": 0}
    return common | {"clients": clients} | content


@pytest.fixture(scope="module", autouse=True)
def torch_is_warm():
    """Let torch import what it only does at the first `vmap`, for seconds."""
    block_of([0]).answer(a_request())


class FakeGrid:
    """A SuperLink and its nodes, whose failures we choose."""

    run_ids = itertools.count(time.time_ns())
    new_message = _ProcessGrid.new_message

    def __init__(self, parts=PARTS):
        self.blocks = {node: block_of(numbers) for node, numbers in parts.items()}
        self.run_id, self._names = next(self.run_ids), itertools.count()
        self.silent = set()  # nodes that receive, and do not answer
        self.copies = 1  # of each reply
        self.sent = []  # (node, message type, request)
        self.unanswered = []  # messages to silent nodes
        self.replies = []

    def get_node_ids(self):
        return list(self.blocks)

    def push_messages(self, messages):
        for message in messages:
            node = message.metadata.dst_node_id
            request = _unpacked(message.content)
            self.sent.append((node, message.metadata.message_type, request))
            if node in self.silent:
                self.unanswered.append(message)
            else:
                self.answer(message)
        return [message.metadata.message_id for message in messages]

    def answer(self, message):
        from flwr.app import Context, Error, Message, RecordDict

        node = message.metadata.dst_node_id
        app = flower_client_app(lambda context: self.blocks[context.node_id])
        try:
            context = Context(self.run_id, node, {}, RecordDict(), {})
            reply = app(message, context)
        except Exception as error:  # as Flower does
            reply = Message(Error(code=2, reason=repr(error)), reply_to=message)
        self.replies.extend([reply] * self.copies)

    def wake(self, node):
        """Let a silent node answer, also what it was sent before."""
        self.silent.discard(node)
        for message in self.unanswered:
            self.answer(message)
        self.unanswered = []

    def pull_messages(self, names):
        of = lambda reply: reply.metadata.reply_to_message_id in names  # noqa: E731
        found = [reply for reply in self.replies if of(reply)]
        self.replies = [reply for reply in self.replies if not of(reply)]
        return found


def open_engine(grid, n_nodes=2, timeout=TIMEOUT):
    return FlowerEngine(grid, n_nodes=n_nodes, timeout=timeout, start_timeout=5.0)


def assert_is_the_answer_of(reply, numbers, request):
    expected = block_of(numbers).answer(request)
    torch.testing.assert_close(reply["total"], expected["total"], **ROUNDING)
    assert reply["weight"] == pytest.approx(expected["weight"])
    assert reply["value"] == pytest.approx(expected["value"])
    assert reply["answered"].tolist() == sorted(numbers)


def test_without_flwr_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-attn\[distributed\]"'):
        flower_client_app(lambda context: None)
    with pytest.raises(ImportError, match="distributed"):
        flower_server_app(lambda engine, context: None)


@needs_flwr
def test_what_is_packed_comes_out_unchanged():
    content = {
        "kind": "field",
        "round": 2**40,
        "value": float("nan"),
        "correct": True,
        "matrix": torch.arange(6.0, dtype=torch.float64).reshape(2, 3),
        "numbers": torch.tensor([2, 3]),
        "none": torch.zeros(0, dtype=torch.int64),
    }
    back = _unpacked(_packed(content))
    assert back.keys() == content.keys()
    assert (back["kind"], back["round"], back["correct"]) == ("field", 2**40, True)
    assert back["value"] != back["value"]
    for name in ("matrix", "numbers", "none"):
        torch.testing.assert_close(back[name], content[name], rtol=0, atol=0)
        back[name] += 1  # ours to write on


@needs_flwr
class TestEngine:
    def test_it_learns_clients_and_weights_from_the_nodes(self):
        engine = open_engine(FakeGrid({5: [3, 1], 4: [0, 4, 2]}))
        assert engine.numbers == [0, 1, 2, 3, 4]
        assert engine.weights == WEIGHTS

    @pytest.mark.parametrize("kind", ["field", "steps"])
    def test_sums_over_nodes_equal_those_of_one_block(self, kind):
        reply = open_engine(FakeGrid()).ask(a_request(kind))
        assert_is_the_answer_of(reply, range(5), a_request(kind))
        assert reply["lost"] == []

    def test_rounds_through_the_engine_equal_those_of_one_block(self):
        problem, clients = federation()
        solve = partial(fedmsa, problem, n_rounds=3, alpha=0.02, beta=0.1, tol=0)
        x, zs = solve(clients, weights=WEIGHTS).value
        there_x, there_zs = solve(engine=open_engine(FakeGrid(), timeout=60.0)).value
        for here, there in zip((x, *zs), (there_x, *there_zs)):
            torch.testing.assert_close(there, here, **ROUNDING)

    def test_local_steps_are_train_messages_and_all_else_are_queries(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        engine.ask(a_request("field"))
        engine.ask(a_request("steps"))
        types = {(request["kind"], kind) for _, kind, request in grid.sent}
        assert types == {("hello", "query"), ("field", "query"), ("steps", "train")}

    def test_a_node_is_asked_only_for_its_own_clients_or_not_at_all(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        grid.sent.clear()
        request = a_request(clients=[0, 1])
        assert_is_the_answer_of(engine.ask(request), [0, 1], request)
        ((node, _, sent),) = grid.sent
        assert (node, sent["clients"].tolist()) == (11, [0, 1])

    def test_a_silent_node_is_lost_within_the_timeout_and_then_left_out(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        grid.silent.add(22)
        start = time.monotonic()
        with pytest.warns(RuntimeWarning, match="left out until it answers again"):
            reply = engine.ask(a_request())
        # The longest pause between two looks comes on top.
        assert TIMEOUT <= time.monotonic() - start < TIMEOUT + 1.0
        assert reply["lost"] == [2, 3, 4]
        assert_is_the_answer_of(reply, [0, 1], a_request())
        grid.sent.clear()
        assert engine.ask(a_request())["lost"] == [2, 3, 4]
        assert {r["kind"] for node, _, r in grid.sent if node == 22} <= {"hello"}

    def test_a_node_that_comes_back_is_asked_again_and_late_replies_do_not_count(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        grid.silent.add(22)
        with pytest.warns(RuntimeWarning, match="left out"):
            engine.ask(a_request(n_round=1))
        engine.ask(a_request(n_round=2))  # greets
        grid.wake(22)  # now round 1 is answered too
        reply = engine.ask(a_request(n_round=3))
        assert_is_the_answer_of(reply, range(5), a_request(n_round=3))
        assert reply["lost"] == []

    def test_a_reply_that_comes_twice_counts_once(self):
        grid = FakeGrid()
        grid.copies = 2
        engine = open_engine(grid)
        for _ in range(2):
            assert_is_the_answer_of(engine.ask(a_request()), range(5), a_request())

    def test_a_reply_to_another_request_counts_for_nothing(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        answer = grid.answer

        def answer_an_older_round(message):
            if message.metadata.dst_node_id == 22:
                message.content["numbers"]["round"] -= 1
            answer(message)

        grid.answer = answer_an_older_round
        with pytest.warns(RuntimeWarning, match="another request"):
            reply = engine.ask(a_request())
        assert reply["lost"] == [2, 3, 4]
        assert_is_the_answer_of(reply, [0, 1], a_request())

    def test_a_node_restarted_under_another_name_takes_its_clients_over(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        grid.blocks[33] = grid.blocks.pop(22)
        with pytest.warns(RuntimeWarning, match="node 33 now holds its clients"):
            engine.ask(a_request(clients=[0]))
        reply = engine.ask(a_request())
        assert_is_the_answer_of(reply, range(5), a_request())

    def test_nobody_there_is_all_lost_and_not_an_endless_wait(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        grid.silent = {11, 22}
        with pytest.warns(RuntimeWarning, match="left out"):
            engine.ask(a_request())
        start = time.monotonic()
        reply = engine.ask(a_request())
        assert time.monotonic() - start < TIMEOUT + 1.0
        assert (reply["lost"], reply["weight"]) == ([0, 1, 2, 3, 4], 0)
        assert len(reply["answered"]) == 0

    def test_an_app_that_fails_while_running_says_why_and_stays(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        good = grid.blocks[22].answer
        grid.blocks[22].answer = lambda request: 1 / 0
        with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
            assert engine.ask(a_request())["lost"] == [2, 3, 4]
        grid.blocks[22].answer = good
        assert engine.ask(a_request())["lost"] == []

    def test_an_app_that_fails_at_the_start_is_an_error_at_once(self):
        grid = FakeGrid()
        grid.blocks[22].numbers = None
        with pytest.raises(RuntimeError, match="app of Flower node 22 fails"):
            open_engine(grid)

    def test_two_nodes_with_one_client_are_an_error(self):
        with pytest.raises(ValueError, match=r"both hold clients \[2\]"):
            open_engine(FakeGrid({11: [0, 1, 2], 22: [2, 3, 4]}))

    def test_too_few_nodes_are_an_error_that_counts_them(self):
        with pytest.raises(TimeoutError, match="2 of 3 Flower nodes"):
            FlowerEngine(FakeGrid(), n_nodes=3, timeout=1.0, start_timeout=TIMEOUT)

    def test_a_superlink_that_does_not_answer_is_an_error_in_time(self, monkeypatch):
        monkeypatch.setattr(_flower_engine, "_LAST_LOOK", 0.1)
        grid = FakeGrid()
        engine = open_engine(grid)
        grid.pull_messages = lambda names: time.sleep(10 * TIMEOUT)
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=r"SuperLink has not answered"):
            engine.ask(a_request())
        assert time.monotonic() - start < 5 * TIMEOUT

    def test_a_refused_message_is_a_lost_node(self):
        grid = FakeGrid()
        engine = open_engine(grid)
        grid.push_messages = lambda messages: []  # as Flower does if one is too large
        with pytest.warns(RuntimeWarning, match="refuses a message"):
            assert engine.ask(a_request())["lost"] == [0, 1, 2, 3, 4]

    def test_the_server_app_hands_its_engine_to_run(self):
        from flwr.app import Context, RecordDict

        seen = []
        app = flower_server_app(lambda engine, context: seen.append(engine.numbers))
        app(FakeGrid(), Context(0, 0, {}, RecordDict(), {"n-nodes": 2}))
        assert seen == [[0, 1, 2, 3, 4]]


@needs_flwr
class TestNodesOnThisMachine:
    def test_processes_give_the_iterates_of_one_block_and_may_die(self):
        before = torch.get_num_threads(), torch.get_rng_state()
        environment, files = dict(os.environ), set(Path.home().iterdir())
        problem, clients = federation()
        with local_flower_engine(
            problem, clients, weights=WEIGHTS, timeout=LONG
        ) as engine:
            solve = partial(fedmsa, problem, n_rounds=3, alpha=0.02, beta=0.1, tol=0)
            x, zs = solve(clients, weights=WEIGHTS, local_clients=2).value
            there_x, there_zs = solve(engine=engine, local_clients=2).value
            for here, there in zip((x, *zs), (there_x, *there_zs)):
                torch.testing.assert_close(there, here, **ROUNDING)

            os.kill(next(iter(engine.grid._workers[1]._processes)), signal.SIGKILL)
            with pytest.warns(RuntimeWarning, match="left out"):
                assert engine.ask(a_request())["lost"] == [0, 1, 2]
            start = time.monotonic()
            while engine.ask(a_request())["lost"] and time.monotonic() < start + LONG:
                time.sleep(0.1)
            assert_is_the_answer_of(engine.ask(a_request()), range(5), a_request())
        assert torch.get_num_threads() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
        off = {"FLWR_TELEMETRY_ENABLED": "0"}
        assert dict(os.environ) | off == environment | off
        assert set(Path.home().iterdir()) == files

    @needs_ray
    def test_the_simulation_of_flower_gives_the_sums_of_one_block(self):
        problem, clients = federation()
        with local_flower_engine(
            problem, clients, weights=WEIGHTS, timeout=LONG, runtime="ray"
        ) as engine:
            assert_is_the_answer_of(engine.ask(a_request()), range(5), a_request())

    def test_more_nodes_than_clients_are_an_error(self):
        problem, clients = federation()
        with pytest.raises(ValueError, match="5 clients do not split over 6 nodes"):
            local_flower_engine(problem, clients, n_nodes=6)

    def test_an_unknown_runtime_is_an_error(self):
        problem, clients = federation()
        with pytest.raises(ValueError, match="is none of"):
            local_flower_engine(problem, clients, runtime="dask")
