"""Flower carries the two messages of a FedMSA round (2306.01648):

    query:  u -> sum_m c_m F_m(u)            train:  u, h -> sum_m c_m u_m after K steps

The server asks each node for the sums over its own clients, and adds up what comes
back in time. A node that is silent is left out until it answers a greeting again.
"""

import itertools
import os
import queue
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from joblib.externals.loky import ProcessPoolExecutor

from ._clients import ClientBlock

try:
    import cloudpickle
except ImportError:  # joblib < 1.6 brings its own
    from joblib.externals import cloudpickle

_GREETING = "hello"  # a node answers with the numbers and weights of its clients
_STAMP = ("kind", "round", "request")  # by which a reply is matched to its request
# Flower's ErrorCode: the app could not be loaded, it raised, the node is away.
_APP_FAILED, _NODE_AWAY = (1, 2), 5
# A greeting that failed is repeated after this many seconds, not in a busy loop.
_GREETING_PAUSE = 1.0
# Replies are looked for in intervals that grow: a simulation answers in milliseconds,
# and a deployment in seconds. Flower's own `send_and_receive` sleeps for 3 s.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.25
# Seconds in which processes of ours import torch, even on a busy machine.
_START_UP = 120.0
# At the deadline itself we look once more, which takes a little longer.
_LAST_LOOK = 5.0
# Messages live longer than we wait, as the clocks of two machines may differ.
_SPARE_TIME_TO_LIVE = 300.0


def _flower():
    """Return the module `flwr.app`, with what else is used of flwr imported too."""
    # Read once, when flwr is first imported.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        import flwr.app
        import flwr.clientapp
        import flwr.serverapp
    except ImportError as error:
        raise ImportError(
            "The Flower engine needs flwr >= 1.41: "
            'pip install "sklearn-attn[distributed]"'
        ) from error
    return flwr.app


def _packed(content):
    """Return the RecordDict of a flat dict of strings, numbers and tensors."""
    app = _flower()
    arrays = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    return app.RecordDict(
        {
            "arrays": app.ArrayRecord(
                {k: app.Array(v.detach().cpu().numpy()) for k, v in arrays.items()}
            ),
            "numbers": app.ConfigRecord(
                {k: v for k, v in content.items() if k not in arrays}
            ),
        }
    )


def _unpacked(records):
    """Return the flat dict that was packed."""
    arrays = {k: torch.from_numpy(v.numpy()) for k, v in records["arrays"].items()}
    return dict(records["numbers"]) | arrays


# ------------------------------------------------------------------ the nodes' side

# Kept for the life of the process: an app is created anew for each message.
_blocks: dict = {}


def flower_client_app(make_block):
    """Let a Flower node answer for the clients that it holds.

    Parameters
    ----------
    make_block : callable
        Called with the node's Flower `Context`, returns its clients: an object like
        :class:`ClientBlock`. `context.node_config["partition-id"]` says which node it
        is. Called once for each run in each process.

    Returns
    -------
    flwr.clientapp.ClientApp
        The app, to be named `clientapp` in the `pyproject.toml` of a Flower app.

    Raises
    ------
    ImportError
        If flwr is not installed.

    See Also
    --------
    flower_server_app : The other side.

    Notes
    -----
    Only sums over the clients of the node leave it [1]_.

    References
    ----------
    .. [1] Tarzanagh, Li, Sharma, Oymak. Federated Multi-Sequence Stochastic
       Approximation with Local Hypergradient Estimation. arXiv:2306.01648.

    Examples
    --------
    >>> from sklearn_attn.federated import ClientBlock, flower_client_app
    >>> def make_block(context):
    ...     number = int(context.node_config["partition-id"])
    ...     return ClientBlock(problem, [load(number)], numbers=[number])
    >>> app = flower_client_app(make_block)  # doctest: +SKIP
    """
    app = _flower()
    from flwr.clientapp import ClientApp

    def answer(message, context):
        request = _unpacked(message.content)
        here = context.run_id, context.node_id
        if here not in _blocks:
            _blocks[here] = make_block(context)
        block = _blocks[here]
        if request["kind"] == _GREETING:
            reply = {
                "numbers": torch.tensor(block.numbers, dtype=torch.int64),
                "weights": torch.tensor(block.weights, dtype=torch.float64),
            }
        else:
            reply = block.answer(request)
        reply = reply | {name: request[name] for name in _STAMP}
        return app.Message(_packed(reply), reply_to=message)

    client_app = ClientApp()
    client_app.query()(answer)
    client_app.train()(answer)
    return client_app


# ----------------------------------------------------------------- the server's side


def flower_server_app(run, *, n_nodes=1, timeout=120.0, start_timeout=300.0):
    """Return a Flower ServerApp that opens an engine over its nodes and runs.

    Parameters
    ----------
    run : callable
        Called with the :class:`FlowerEngine` and Flower's `Context`.
    n_nodes : int, default=1
        How many nodes to wait for.
    timeout : float, default=120.0
        Seconds that a request may take. A Flower node starts a process for each
        message, which imports torch: some seconds where the machine is idle.
    start_timeout : float, default=300.0
        Seconds within which the nodes must be there.

    Returns
    -------
    flwr.serverapp.ServerApp
        The app, to be named `serverapp` in the `pyproject.toml` of a Flower app.

    Raises
    ------
    ImportError
        If flwr is not installed.

    See Also
    --------
    flower_client_app : The other side.

    Notes
    -----
    "n-nodes", "timeout" and "start-timeout" in the app's run configuration take
    precedence: `flwr run . --run-config "n-nodes=3"`.

    Examples
    --------
    >>> from sklearn_attn.federated import fedmsa, flower_server_app
    >>> def run(engine, context):
    ...     print(fedmsa(problem, engine=engine, n_rounds=5).value)
    >>> app = flower_server_app(run, n_nodes=2)  # doctest: +SKIP
    """
    _flower()
    from flwr.serverapp import ServerApp

    server_app = ServerApp()

    @server_app.main()
    def main(grid, context):
        config = context.run_config
        with FlowerEngine(
            grid,
            n_nodes=int(config.get("n-nodes", n_nodes)),
            timeout=float(config.get("timeout", timeout)),
            start_timeout=float(config.get("start-timeout", start_timeout)),
        ) as engine:
            run(engine, context)

    return server_app


class FlowerEngine:
    """Clients at Flower nodes, asked through the `Grid` of a ServerApp.

    Waits for the nodes, and learns which clients they hold.

    Parameters
    ----------
    grid : flwr.serverapp.Grid
        What Flower hands to the main function of a ServerApp.
    n_nodes : int, default=1
        How many nodes to wait for; more may come later.
    timeout : float, default=120.0
        Seconds that a request may take. Clients that have not answered by then are
        reported as lost, and their node is asked again once it answers a greeting.
    start_timeout : float, default=300.0
        Seconds within which the nodes must be there.

    Attributes
    ----------
    numbers : list of int
        Numbers of all clients that were met, in order.
    weights : list of float
        Their weights.

    Raises
    ------
    TimeoutError
        If fewer nodes than wanted answer in time.
    RuntimeError
        If the app of a node fails.
    ValueError
        If two nodes hold the same client.
    ConnectionError
        If the SuperLink does not answer in time, here or in `ask`.

    See Also
    --------
    flower_server_app : Makes the ServerApp whose main function opens this engine.

    Examples
    --------
    >>> from sklearn_attn.federated import FlowerEngine, fedmsa
    >>> def main(grid, context):
    ...     engine = FlowerEngine(grid, n_nodes=2, timeout=30.0)
    ...     return fedmsa(problem, engine=engine)
    """

    def __init__(self, grid, *, n_nodes=1, timeout=120.0, start_timeout=300.0):
        self.grid, self.timeout = grid, timeout
        self._holds = {}  # node -> the clients that it holds, if it is there
        self._weight_of = {}  # client -> weight
        self._greetings = {}  # message -> (node, request), not yet answered
        self._greet_after = {}  # node -> when to greet it again
        self._n_requests = itertools.count()
        self._at_close = ExitStack()
        self._start(n_nodes, start_timeout)

    @property
    def numbers(self):
        """Numbers of all clients that were met, in order."""
        return sorted(self._weight_of)

    @property
    def weights(self):
        """Weights of all clients that were met, in the order of their numbers."""
        return [self._weight_of[m] for m in self.numbers]

    def ask(self, request):
        """Return the sums over the clients asked that answer in time.

        Parameters
        ----------
        request : dict
            What is wanted, of which clients, as of `ClientBlock.answer`.

        Returns
        -------
        dict
            "total" (None if nobody answered), "weight", "value", "largest" and
            "answered", with "lost": the clients asked that did not answer.

        Raises
        ------
        ConnectionError
            If the SuperLink does not answer in time.
        """
        deadline = time.monotonic() + self.timeout
        asked = set(request["clients"].tolist())
        self._welcome(deadline)
        pause = _pauses()
        while not self._holds and time.monotonic() < deadline:
            time.sleep(next(pause))  # better than one failed round after another
            self._welcome(deadline)
        waiting = {}
        for node, held in list(self._holds.items()):
            if chosen := sorted(asked & set(held)):
                chosen = torch.tensor(chosen, dtype=torch.int64)
                self._send(node, request | {"clients": chosen}, waiting, deadline)
        replies = self._collect(waiting, deadline)
        for node, _ in waiting.values():  # silent
            self._drop(node, f"it did not answer within {self.timeout:g} s")
        return _combined(replies, asked)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Forget the nodes, and end those that were started here."""
        self._holds, self._greetings = {}, {}
        self._at_close.close()

    def _start(self, n_nodes, start_timeout):
        deadline = time.monotonic() + start_timeout
        pause = _pauses()
        while len(self._holds) < n_nodes:
            self._welcome(deadline, starting=True)
            if time.monotonic() > deadline:
                seen = len(self._known_nodes(deadline + self.timeout))
                raise TimeoutError(
                    f"{len(self._holds)} of {n_nodes} Flower nodes answered within "
                    f"{start_timeout:g} s ({seen} known to the SuperLink). Are the "
                    "supernodes running, and connected to this SuperLink?"
                )
            time.sleep(next(pause))

    def _welcome(self, deadline, *, starting=False):
        """Take in the nodes that have answered a greeting, and greet those absent."""
        greeted = {node for node, _ in self._greetings.values()}
        for node in self._known_nodes(deadline):
            if node in self._holds or node in greeted:
                continue
            if time.monotonic() >= self._greet_after.get(node, 0.0):
                self._greet_after[node] = time.monotonic() + _GREETING_PAUSE
                greeting = {"kind": _GREETING, "round": 0}
                self._send(node, greeting, self._greetings, deadline)
        for node, reply, error in self._pull(self._greetings, deadline):
            if error is None:
                self._take_in(node, reply, starting)
            elif starting and error.code in _APP_FAILED:
                raise RuntimeError(
                    f"The app of Flower node {node} fails: {error.reason}"
                )

    def _take_in(self, node, reply, starting):
        numbers = reply["numbers"].tolist()
        for other, held in list(self._holds.items()):
            if both := sorted(set(held) & set(numbers)):
                if starting:
                    raise ValueError(
                        f"Flower nodes {other} and {node} both hold clients {both}; "
                        "each client must be at one node."
                    )
                # A node that is restarted has a new name before the old one is missed.
                self._drop(other, f"node {node} now holds its clients {both}")
        self._holds[node] = numbers
        self._weight_of.update(zip(numbers, reply["weights"].tolist()))

    def _collect(self, waiting, deadline):
        """Return the replies that come in time; what is left in `waiting` is silent."""
        replies = []
        pause = _pauses()
        while waiting:
            for node, reply, error in self._pull(waiting, deadline):
                if error is None:
                    replies.append(reply)
                elif error.code in _APP_FAILED:
                    _warn(f"The app of Flower node {node} fails: {error.reason}")
                else:
                    self._drop(node, error.reason)
            if time.monotonic() > deadline:
                break
            if waiting:
                time.sleep(next(pause))
        return replies

    def _drop(self, node, why):
        if self._holds.pop(node, None) is not None:
            self._greet_after[node] = 0.0
            _warn(f"Flower node {node} is left out until it answers again: {why}")

    # Messages.

    def _known_nodes(self, deadline):
        return list(self._call(self.grid.get_node_ids, deadline=deadline))

    def _send(self, node, request, waiting, deadline):
        """Send to a node, and note it among what is waiting for a reply."""
        new_message = getattr(self.grid, "new_message", _flower().Message)
        request = request | {"request": next(self._n_requests)}
        message = new_message(
            _packed(request),
            dst_node_id=node,
            message_type="train" if request["kind"] == "steps" else "query",
            group_id=str(request["round"]),
            ttl=max(0.0, deadline - time.monotonic()) + _SPARE_TIME_TO_LIVE,
        )
        names = self._call(self.grid.push_messages, [message], deadline=deadline)
        name = next(iter(names), None)
        if name is None:
            self._drop(node, "the SuperLink refuses a message, for its size perhaps")
        else:
            waiting[name] = node, request

    def _pull(self, waiting, deadline):
        """Yield (node, reply, error) and take the message off what is waiting."""
        if not waiting:
            return
        for message in self._call(
            self.grid.pull_messages, list(waiting), deadline=deadline
        ):
            # Taken off when first answered: a second reply to it counts for nothing.
            entry = waiting.pop(message.metadata.reply_to_message_id, None)
            if entry is None:
                continue
            node, sent = entry
            if message.has_error():
                yield node, None, message.error
                continue
            reply = _unpacked(message.content)
            if all(reply.get(name) == sent[name] for name in _STAMP):
                yield node, reply, None
            else:
                _warn(f"Flower node {node} answers another request; that is ignored")

    def _call(self, method, *args, deadline):
        """Call the grid; Flower itself would retry without end if nobody is there."""
        answer = queue.SimpleQueue()

        def call():
            try:
                answer.put((method(*args), None))
            except Exception as error:
                answer.put((None, error))

        threading.Thread(target=call, daemon=True).start()
        try:
            left = max(0.0, deadline - time.monotonic()) + _LAST_LOOK
            value, error = answer.get(timeout=left)
        except queue.Empty:
            raise ConnectionError(
                f"The Flower SuperLink has not answered within {self.timeout:g} s."
            ) from None
        if error is not None:
            raise error
        return value


def _warn(text):
    warnings.warn(f"{text}.", RuntimeWarning, stacklevel=2)


def _pauses():
    """Yield seconds to wait between two looks for replies."""
    pause = _SHORTEST_PAUSE
    while True:
        yield pause
        pause = min(1.5 * pause, _LONGEST_PAUSE)


def _combined(replies, asked):
    """Return the sums over nodes, in an order that does not depend on who was first."""
    replies = sorted(replies, key=lambda reply: reply["answered"].tolist())
    answered = sorted(m for reply in replies for m in reply["answered"].tolist())
    return {
        "total": sum(r["total"] for r in replies) if replies else None,
        "weight": sum(r["weight"] for r in replies),
        "value": sum(r["value"] for r in replies),
        "largest": max((r["largest"] for r in replies), default=0.0),
        "answered": torch.tensor(answered, dtype=torch.int64),
        "lost": sorted(asked - set(answered)),
    }


# ------------------------------------------------------------ nodes of this machine


def local_flower_engine(
    problem,
    clients,
    *,
    weights=None,
    device="cpu",
    dtype=torch.float64,
    n_nodes=2,
    num_cpus=1,
    timeout=120.0,
    runtime="processes",
):
    """Open an engine over Flower nodes on this machine.

    Parameters
    ----------
    problem : FederatedProblem or one of its kinds
        The coupled equations.
    clients : list of pytree of tensor
        Data of the clients; neighbours share a node.
    weights : sequence of float, default=None
        Weights of the clients; ones if None.
    device : str or torch.device, default="cpu"
        Where the nodes compute.
    dtype : torch.dtype, default=torch.float64
        Of all floating-point tensors.
    n_nodes : int, default=2
        How many nodes the clients are split over.
    num_cpus : int, default=1
        Threads of each node.
    timeout : float, default=120.0
        Seconds that a request may take.
    runtime : {"processes", "ray"}, default="processes"
        Runs the Flower apps in processes of ours, one per node, that take over from
        SuperLink and supernodes; or in Flower's own simulation, which needs
        `pip install "flwr[simulation]"` and starts in 15 s rather than 5 s.

    Returns
    -------
    FlowerEngine
        The engine; its `close` ends the nodes.

    Raises
    ------
    ImportError
        If flwr is not installed, or Ray where it is wanted.
    ValueError
        If there are more nodes than clients, or for an unknown runtime.
    """
    _flower()
    runtimes = {"processes": _in_processes, "ray": _in_ray}
    if runtime not in runtimes:
        raise ValueError(f"runtime={runtime!r} is none of {sorted(runtimes)}.")
    if not 1 <= n_nodes <= len(clients):
        raise ValueError(f"{len(clients)} clients do not split over {n_nodes} nodes.")
    weights = [1.0] * len(clients) if weights is None else list(weights)
    start_timeout = max(timeout, _START_UP)
    with ExitStack() as at_failure:
        folder = at_failure.enter_context(
            tempfile.TemporaryDirectory(prefix="sklearn_attn_flower_")
        )
        for node, part in enumerate(np.array_split(np.arange(len(clients)), n_nodes)):
            numbers = part.tolist()
            held = {
                "clients": [clients[m] for m in numbers],
                "weights": [weights[m] for m in numbers],
                "numbers": numbers,
                "device": str(device),
                "dtype": dtype,
            }
            # A file: Ray would send the app, with all it holds, with each message.
            Path(folder, f"{node}.pkl").write_bytes(cloudpickle.dumps((problem, held)))
        grid = at_failure.enter_context(
            runtimes[runtime](
                folder,
                n_nodes,
                num_cpus,
                on_gpu="cuda" in str(device),
                timeout=start_timeout,
            )
        )
        engine = FlowerEngine(
            grid, n_nodes=n_nodes, timeout=timeout, start_timeout=start_timeout
        )
        engine._at_close = at_failure.pop_all()
    return engine


def _stored_app(folder):
    """Return the ClientApp whose blocks are in files of a folder."""

    def make_block(context):
        node = int(context.node_config["partition-id"])
        problem, held = cloudpickle.loads(Path(folder, f"{node}.pkl").read_bytes())
        return ClientBlock(problem, **held)

    return flower_client_app(make_block)


@contextmanager
def _in_processes(folder, n_nodes, num_cpus, *, on_gpu, timeout):
    grid = _ProcessGrid(folder, n_nodes, num_cpus)
    try:
        yield grid
    finally:
        grid.close()


class _ProcessGrid:
    """What the engine uses of Flower's `Grid`, over one process per node.

    The Flower apps and messages are the real ones. Flower's simulation needs Ray.
    """

    def __init__(self, folder, n_nodes, num_cpus):
        self.folder, self.num_cpus = folder, num_cpus
        self.run_id = time.time_ns()
        self._names = itertools.count()
        self._answers = {}  # message name -> (message, future)
        self._workers = {}
        for node in range(1, n_nodes + 1):
            self._restart(node)

    def _restart(self, node):
        self._workers[node] = ProcessPoolExecutor(
            max_workers=1,
            env={"OMP_NUM_THREADS": str(self.num_cpus), "FLWR_TELEMETRY_ENABLED": "0"},
        )

    def get_node_ids(self):
        return list(self._workers)

    def new_message(self, content, *, dst_node_id, message_type, group_id, ttl):
        """Return a message; Flower's own constructor works only in its processes."""
        app = _flower()
        metadata = app.Metadata(
            run_id=self.run_id,
            message_id=f"{self.run_id}-{next(self._names)}",
            src_node_id=0,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),
            ttl=ttl,
            message_type=message_type,
        )
        return app.Message(content=content, metadata=metadata)

    def push_messages(self, messages):
        for message in messages:
            node = message.metadata.dst_node_id
            work = _work, self.folder, self.run_id, message
            try:
                future = self._workers[node].submit(*work)
            except Exception:  # its process has died
                self._restart(node)
                future = self._workers[node].submit(*work)
            self._answers[message.metadata.message_id] = message, future
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids):
        app = _flower()
        replies = []
        for name in message_ids:
            message, future = self._answers.get(name, (None, None))
            if future is None or not future.done():
                continue
            del self._answers[name]
            try:
                replies.append(future.result())
            except Exception as error:
                died = type(error).__name__ in (
                    "TerminatedWorkerError",
                    "BrokenProcessPool",
                )
                code = _NODE_AWAY if died else _APP_FAILED[1]
                reason = app.Error(code=code, reason=repr(error))
                replies.append(app.Message(reason, reply_to=message))
        return replies

    def close(self):
        for worker in self._workers.values():
            worker.shutdown(wait=True, kill_workers=True)


def _work(folder, run_id, message):
    """Let the node's app answer; runs in the node's process."""
    app = _flower()
    node = message.metadata.dst_node_id
    context = app.Context(
        run_id=run_id,
        node_id=node,
        node_config={"partition-id": node - 1},
        state=app.RecordDict(),
        run_config={},
    )
    return _stored_app(folder)(message, context)


@contextmanager
def _in_ray(folder, n_nodes, num_cpus, *, on_gpu, timeout):
    """Run Flower's simulation in a thread; its ServerApp lends us the grid."""
    if find_spec("ray") is None:
        raise ImportError(
            "Flower's own simulation needs Ray: pip install "
            '"flwr[simulation]". runtime="processes" does without.'
        )
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    here, finished = queue.SimpleQueue(), threading.Event()
    server_app = ServerApp()

    @server_app.main()
    def main(grid, context):
        here.put(grid)
        finished.wait()

    backend_config = {
        "init_args": {"num_cpus": n_nodes * num_cpus},
        "client_resources": {
            "num_cpus": num_cpus,
            "num_gpus": 1.0 / n_nodes if on_gpu else 0.0,
        },
    }

    def simulate():
        # Flower writes into its home, and Ray's backend into the Python path.
        home = os.environ.get("FLWR_HOME", folder)
        try:
            with _environment(FLWR_HOME=home, PYTHONPATH=os.environ.get("PYTHONPATH")):
                run_simulation(
                    server_app, _stored_app(folder), n_nodes, "ray", backend_config
                )
        except BaseException as error:  # Flower leaves by SystemExit
            here.put(error)

    thread = threading.Thread(target=simulate, daemon=True)
    thread.start()
    try:
        grid = here.get(timeout=timeout)
        if isinstance(grid, BaseException):
            raise RuntimeError(f"Flower's simulation failed: {grid!r}") from grid
        yield grid
    except queue.Empty:
        raise TimeoutError(
            f"Flower's simulation has not started within {timeout:g} s."
        ) from None
    finally:
        finished.set()
        thread.join(timeout)


@contextmanager
def _environment(**variables):
    """Set variables of the environment, and put back what they were."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables):
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
