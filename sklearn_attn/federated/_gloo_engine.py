"""Clients in other processes or on other machines, over gloo  (2306.01648).

A round of FedMSA is two questions to the clients, and of each answer the server needs
sums alone. So server and workers hold one gloo group of two for each worker, not one of
all: collective operations would end for everybody with the first worker that dies.

    worker   weights, hello --store-->  server  --store--> numbers, welcome
    worker   <--gloo-- request          server waits for all who were asked, once
    worker   reply --gloo-->            server sums in the order of workers

Torch's process group, which belongs to the program around us, is not touched. Messages
are JSON and raw numbers, so that nothing that comes over the wire can be code.
"""

import contextlib
import json
import math
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import joblib
import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore
from torch.func import grad, vmap
from torch.utils._pytree import tree_map_only

from ._clients import ClientBlock

SERVER, WORKER = 0, 1  # ranks in a group of two
FOREVER = timedelta(days=365)  # gloo takes no "without limit"
POLL = 0.01  # seconds between two looks at the store, while somebody is to come
# Seconds that an idle worker is told to stop in, and that a process is given to end.
FAREWELL = 2.0
# Seconds in which a process of ours imports torch, even on a busy machine. A time limit
# for requests may be much shorter.
START_UP = 120.0
DTYPES = {
    str(dtype): dtype
    for dtype in (torch.float64, torch.float32, torch.int64, torch.int32, torch.bool)
}


class GlooEngine:
    """Server of a federation whose workers run :func:`serve_clients`.

    It listens at once. The first use of `numbers`, `weights` or `ask` waits for the
    workers. Clients are numbered in the order of workers, not of arrival.

    Parameters
    ----------
    n_workers : int
        How many workers there are.
    host : str, default="127.0.0.1"
        Address of this machine, as the workers reach it. Nothing listens at others.
    port : int, default=29400
        Port of this machine; 0 is any that is free. See the attribute `port`.
    timeout : float, default=60.0
        Seconds for one request, and for all workers to come at first.

    Attributes
    ----------
    host, port : str, int
        Where the workers find it.
    n_workers : int
        How many there are.
    timeout : float
        Time limit of the next request, which may be changed.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    OSError
        If the port is taken, or `host` is no address of this machine.

    See Also
    --------
    serve_clients : The other side.

    Notes
    -----
    A worker that dies, or that answers after more than `timeout` seconds, is left out
    and its clients are "lost" in the reply. Started again with the same number and the
    same clients, it is taken in at the next request.

    Nothing is encrypted, and whoever reaches the port may join: use a network that you
    trust. Besides `port`, gloo listens on a free port on each machine, and either side
    may be the one that connects: a tunnel for a single port is not enough.

    Examples
    --------
    >>> import threading, torch
    >>> from sklearn_attn.federated import GlooEngine, MinimizationProblem, fedmsa
    >>> from sklearn_attn.federated import serve_clients
    >>> problem = MinimizationProblem(
    ...     lambda b, x: ((x - b) ** 2).sum() / 2, torch.zeros(1, dtype=torch.float64)
    ... )
    >>> with GlooEngine(1, port=0) as engine:  # the worker: usually another machine
    ...     worker = threading.Thread(
    ...         target=serve_clients,
    ...         args=(problem, [torch.zeros(1), torch.ones(1)]),
    ...         kwargs={"worker": 0, "host": "127.0.0.1", "port": engine.port},
    ...     )
    ...     worker.start()
    ...     x, _ = fedmsa(problem, engine=engine, alpha=0.1).value
    >>> worker.join()
    >>> round(x.item(), 4)
    0.5
    """

    def __init__(self, n_workers, *, host="127.0.0.1", port=29400, timeout=60.0):
        if n_workers < 1:
            raise ValueError(f"n_workers={n_workers}; at least one is needed.")
        _check_timeout(timeout)
        if host in ("", "0.0.0.0", "::"):
            raise ValueError(
                f"host={host!r} is no address that workers can connect to; give the "
                "one of this machine in the network that they share."
            )
        self.n_workers, self.timeout = n_workers, timeout
        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            raise OSError(
                error.errno, f"Cannot listen at {host}:{port}: {error.strerror}."
            ) from error
        self.host, self.port = listener.getsockname()[:2]
        # Torch's own listener would be open to all networks of the machine.
        self._store = TCPStore(
            self.host,
            self.port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout),
            master_listen_fd=listener.detach(),
        )
        self._store.set("n_workers", str(n_workers))
        self._clients = None  # numbers and weights, for each worker
        self._links = [None] * n_workers
        self._locks = [threading.Lock() for _ in range(n_workers)]
        self._processes = []  # those that end with the engine
        self._n_requests = 0
        self._threads = ThreadPoolExecutor(n_workers, "gloo-engine")
        self._end = weakref.finalize(
            self, _end, self._links, self._processes, self._threads, os.getpid()
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def numbers(self):
        """Numbers of all clients, a list of int."""
        self._wait_for_workers(self.timeout)
        return [number for each in self._clients for number in each["numbers"]]

    @property
    def weights(self):
        """Weights of all clients, a list of float."""
        self._wait_for_workers(self.timeout)
        return [weight for each in self._clients for weight in each["weights"]]

    def ask(self, request):
        """Return the sum of what the clients answer, in at most `timeout` seconds.

        Parameters
        ----------
        request : dict
            For `ClientBlock.answer`: strings, numbers and tensors. "clients" has the
            numbers of the clients asked.

        Returns
        -------
        dict
            "total", "weight" and "value", summed in the order of workers; "largest";
            "answered"; and "lost", a list of the clients asked that did not answer. If
            nobody answered, "total" is empty and "weight" is zero.

        Raises
        ------
        RuntimeError
            If a client's functions raise, with the worker's traceback; or after
            `close`.
        ConnectionError
            If the workers have not all come, at the first request.
        """
        self._wait_for_workers(self.timeout)
        until = time.monotonic() + self.timeout
        asked = request["clients"].tolist()
        self._n_requests += 1
        ids = (int(request["round"]), self._n_requests)
        message = _encode(request)
        waiting = {
            worker: self._threads.submit(self._exchange, worker, message, ids, until)
            for worker, clients in enumerate(self._clients)
            if not set(asked).isdisjoint(clients["numbers"])
        }
        replies = [(worker, future.result()) for worker, future in waiting.items()]
        replies = [(worker, reply) for worker, reply in replies if reply is not None]
        for worker, reply in replies:
            if "error" in reply:
                raise RuntimeError(f"Worker {worker} failed:\n{reply['error']}")
        return _combine(asked, [reply for _, reply in replies])

    def close(self):
        """Tell the workers to stop, and end the processes that were started here."""
        self._end()
        self._store = None

    def _exchange(self, worker, message, ids, until):
        """Return the reply of a worker, or None if it does not come."""
        with self._locks[worker]:
            try:
                self._take_in(worker, until)
                link = self._links[worker]
                if link is None:
                    return None
                link.send(message, ids, until)
                sizes, got = link.receive_header(until)
                reply = link.receive_content(sizes, until)
                if got != ids:
                    raise ConnectionError(f"A reply to {got} instead of {ids}.")
                return reply
            except (ConnectionError, ValueError, KeyError):
                self._links[worker] = None  # closed: a late reply has no way in
                return None

    def _take_in(self, worker, until):
        """Connect to a worker if it has said hello, the first time or again."""
        if self._store.check([f"{worker}/hello"]):
            ticket = int(self._store.get(f"{worker}/hello"))
            self._store.delete_key(f"{worker}/hello")
            self._links[worker] = None
            self._store.set(f"{worker}/welcome/{ticket}", "")
            self._links[worker] = _Link(
                self._store, worker, ticket, SERVER, self.host, until
            )

    def _wait_for_workers(self, seconds):
        if not self._end.alive:
            raise RuntimeError("This engine is closed; start another one.")
        if self._clients is not None:
            return
        until = time.monotonic() + seconds
        self._wait_for("weights", until, seconds)
        clients, first = [], 0
        for worker in range(self.n_workers):
            weights = json.loads(self._store.get(f"{worker}/weights"))
            numbers = list(range(first, first + len(weights)))
            clients.append({"numbers": numbers, "weights": weights})
            self._store.set(f"{worker}/clients", json.dumps(clients[-1]))
            first += len(weights)
        self._wait_for("hello", until, seconds)
        self._clients = clients
        for worker in range(self.n_workers):
            with contextlib.suppress(ConnectionError):  # gone again: lost, if asked
                self._take_in(worker, until)

    def _wait_for(self, word, until, seconds):
        workers = range(self.n_workers)
        while missing := [m for m in workers if not self._store.check([f"{m}/{word}"])]:
            for worker, process in enumerate(self._processes):
                if process.poll() is not None:
                    raise RuntimeError(
                        f"The process of worker {worker} ended with code "
                        f"{process.returncode} at its start. Its message is on stderr."
                    )
            if time.monotonic() > until:
                raise ConnectionError(
                    f"Workers {missing} of {self.n_workers} have not come to "
                    f"{self.host}:{self.port} within {seconds:g} s. On each machine, "
                    "call serve_clients with the number of its worker."
                )
            time.sleep(POLL)


def serve_clients(
    problem,
    clients,
    *,
    worker,
    host,
    port,
    weights=None,
    device="cpu",
    dtype=torch.float64,
    timeout=60.0,
):
    """Answer the requests of a :class:`GlooEngine` until it closes.

    Parameters
    ----------
    problem : FederatedProblem or one of its kinds
        The same as on the server.
    clients : list of pytree of tensor
        The data of this worker's clients. It stays here.
    worker : int
        Number of this worker, from 0 to ``n_workers - 1``.
    host : str
        Address of the server.
    port : int
        Port of the server.
    weights : sequence of float of length n_clients, default=None
        Weights of the clients in means; ones if None.
    device : str, default="cpu"
        Where to compute. Messages go through the CPU.
    dtype : torch.dtype, default=torch.float64
        Of all floating-point tensors.
    timeout : float, default=60.0
        Seconds in which the server must be found, and in which a server that has gone
        is noticed. Between requests, a worker waits for as long as the server lives.

    Returns
    -------
    int
        How many requests were answered.

    Raises
    ------
    ConnectionError
        If there is no server, or if it has gone without saying so.
    ValueError
        If the server knows no such worker, or knows it with other clients.

    See Also
    --------
    GlooEngine : The other side.

    Notes
    -----
    A worker whose answer came too late finds its connection closed, and joins again. A
    worker that is started a second time takes the place of the first, which ends.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.federated import MinimizationProblem, serve_clients
    >>> problem = MinimizationProblem(lambda b, x: ((x - b) ** 2).sum(), torch.ones(1))
    >>> try:
    ...     serve_clients(
    ...         problem,
    ...         [torch.zeros(1)],
    ...         worker=0,
    ...         host="127.0.0.1",
    ...         port=9,
    ...         timeout=0.1,
    ...     )
    ... except ConnectionError as error:
    ...     print(str(error)[:37])
    No GlooEngine found at 127.0.0.1:9 in
    """
    _check_timeout(timeout)
    clients = list(clients)
    weights = [1.0] * len(clients) if weights is None else [float(w) for w in weights]
    if len(weights) != len(clients):
        raise ValueError(f"{len(weights)} weights for {len(clients)} clients.")
    # Addresses, since a name may mean another machine, or another network, elsewhere.
    there, here = _find_server(host, port, timeout)
    # Twice in the time limit: to notice that the server is silent, and to make sure.
    make_sure = partial(_find_server, host, port, timeout / 2)
    block, n_answered = None, 0
    try:
        store = TCPStore(
            there,
            port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout),
        )
        while True:
            if block is None:
                block = ClientBlock(
                    problem,
                    clients,
                    weights=weights,
                    numbers=_numbers_of(store, worker, weights),
                    device=device,
                    dtype=dtype,
                )
                # Torch's first derivative imports for seconds: not in a request.
                vmap(grad(torch.sum))(torch.ones(1, 1))
            ticket = _join(store, worker)
            try:
                until = time.monotonic() + timeout
                link = _Link(store, worker, ticket, WORKER, here, until)
                while _answer(link, block, make_sure, timeout):
                    n_answered += 1
                return n_answered
            except ConnectionError:
                link = None
                make_sure()
                _be_the_newest(store, worker, ticket)
    except torch.distributed.DistError as error:
        raise ConnectionError(f"The GlooEngine at {host}:{port} has gone.") from error


def local_gloo_engine(
    problem,
    clients,
    *,
    weights=None,
    n_processes=2,
    timeout=60.0,
    device="cpu",
    dtype=torch.float64,
):
    """Start worker processes on this machine, each with some of the clients.

    They run with one thread each, and end with the engine or with this process.

    Parameters
    ----------
    problem : FederatedProblem or one of its kinds
        The equations. Its functions may be closures, or belong to ``__main__``.
    clients : list of pytree of tensor
        The data of all clients, dealt out in consecutive blocks.
    weights : sequence of float of length n_clients, default=None
        Weights of the clients in means; ones if None.
    n_processes : int, default=2
        How many processes; no more than there are clients are started.
    timeout : float, default=60.0
        Seconds for one request.
    device : str or list of str, default="cpu"
        Where to compute: for all processes, or for each.
    dtype : torch.dtype, default=torch.float64
        Of all floating-point tensors.

    Returns
    -------
    GlooEngine
        To be closed, best by ``with``.

    Raises
    ------
    ValueError
        If there are no clients, or not as many weights or devices as there should be.
    RuntimeError
        If a process ends at its start.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.federated import MinimizationProblem, fedmsa
    >>> from sklearn_attn.federated import local_gloo_engine
    >>> problem = MinimizationProblem(
    ...     lambda b, x: ((x - b) ** 2).sum() / 2, torch.zeros(1, dtype=torch.float64)
    ... )
    >>> with local_gloo_engine(problem, [torch.zeros(1), torch.ones(1)]) as engine:
    ...     x, _ = fedmsa(problem, engine=engine, alpha=0.1).value
    >>> round(x.item(), 4)
    0.5
    """
    clients = list(clients)
    n_clients = len(clients)
    weights = [1.0] * n_clients if weights is None else list(weights)
    devices = list(device) if isinstance(device, list | tuple) else None
    if n_clients < 1 or n_processes < 1:
        raise ValueError(f"{n_clients} clients in {n_processes} processes.")
    if len(weights) != n_clients:
        raise ValueError(f"{len(weights)} weights for {n_clients} clients.")
    if devices is not None and len(devices) != n_processes:
        raise ValueError(f"{len(devices)} devices for {n_processes} processes.")
    n_workers = min(n_processes, n_clients)
    starts = [worker * n_clients // n_workers for worker in range(n_workers + 1)]
    engine = GlooEngine(n_workers, port=0, timeout=timeout)
    try:
        engine._processes.extend(_start_process() for _ in range(n_workers))
        for worker, process in enumerate(engine._processes):
            part = slice(starts[worker], starts[worker + 1])
            # Copies: a view would be pickled with all the memory that it looks at.
            here = tree_map_only(torch.Tensor, _to_wire, clients[part])
            options = {
                "worker": worker,
                "host": engine.host,
                "port": engine.port,
                "weights": weights[part],
                "device": str(devices[worker] if devices else device),
                "dtype": dtype,
                "timeout": timeout,
            }
            content = joblib.wrap_non_picklable_objects(
                (problem, here, options), keep_wrapper=False
            )
            with contextlib.suppress(BrokenPipeError):  # it has ended: found next
                pickle.dump(content, process.stdin)
                process.stdin.flush()
        engine._wait_for_workers(max(timeout, START_UP))
    except BaseException:
        engine.close()
        raise
    return engine


def _check_timeout(timeout):
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout={timeout}; a finite number of seconds is needed.")


def _to_wire(tensor):
    return tensor.detach().to("cpu", copy=True).contiguous()


# Messages.


def _encode(message):
    """Return a flat dict as bytes: its JSON, and that with its tensors' numbers."""
    numbers = []

    def plain(value):
        if not isinstance(value, torch.Tensor):
            return value
        if str(value.dtype) not in DTYPES:
            raise TypeError(f"{value.dtype} cannot be sent; {', '.join(DTYPES)} can.")
        value = value.detach().cpu().contiguous()
        numbers.append(value.reshape(-1).view(torch.uint8))
        return {"dtype": str(value.dtype), "shape": list(value.shape)}

    plainly = {name: plain(value) for name, value in message.items()}
    text = json.dumps(plainly, default=lambda number: number.item())  # of NumPy
    text = torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)
    return text, torch.cat([text, *numbers])


def _decode(n_text, content):
    """Return the dict of these bytes."""
    message, start = json.loads(content[:n_text].numpy().tobytes()), n_text
    for name, value in message.items():
        if isinstance(value, dict):
            dtype, shape = DTYPES[value["dtype"]], value["shape"]
            stop = start + math.prod(shape) * dtype.itemsize
            raw = content[start:stop].clone()  # on a boundary of its own
            message[name], start = raw.view(dtype).reshape(shape), stop
    return message


def _combine(asked, replies):
    """Return the reply of the federation: sums over workers, in their order."""
    answered = torch.cat(
        [torch.zeros(0, dtype=torch.int64), *(reply["answered"] for reply in replies)]
    )
    found = set(answered.tolist())
    return {
        "total": sum(reply["total"] for reply in replies)
        if replies
        else torch.zeros(0, dtype=torch.float64),
        "weight": sum(reply["weight"] for reply in replies),
        "value": sum(reply["value"] for reply in replies),
        "largest": max((reply["largest"] for reply in replies), default=0.0),
        "answered": answered,
        "lost": [client for client in asked if client not in found],
    }


class _Link:
    """A group of server and worker; any trouble in it is a ConnectionError.

    Sizes (0, 0) of a message tell the worker to stop.
    """

    def __init__(self, store, worker, ticket, rank, host, until):
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = _left(until)
        options._threads = 1
        self.peer = 1 - rank
        prefixed = PrefixStore(f"{worker}/group/{ticket}", store)
        try:
            self.group = ProcessGroupGloo(prefixed, rank, 2, options)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error

    def send(self, message, ids, until):
        text, content = message
        # Both are kept until both are through: gloo forgets what nobody holds.
        header = self.start_to_send((len(text), len(content), *ids))
        content = self._start(self.group.send, content)
        _finish(header, until)
        _finish(content, until)

    def start_to_send(self, header):
        return self._start(self.group.send, torch.tensor(header, dtype=torch.int64))

    def receive_header(self, until, finish=None):
        header = torch.empty(4, dtype=torch.int64)
        work = self._start(self.group.recv, header)
        (finish or partial(_finish, until=until))(work)
        sizes, ids = header[:2].tolist(), header[2:].tolist()
        return tuple(sizes), tuple(ids)

    def receive_content(self, sizes, until):
        content = torch.empty(sizes[1], dtype=torch.uint8)
        _finish(self._start(self.group.recv, content), until)
        return _decode(sizes[0], content)

    def _start(self, operation, tensor):
        try:
            return operation([tensor], self.peer, 0)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error


def _left(until):
    # Some time at least: what has come already is taken, and gloo reads 0 as its own
    # time limit.
    return timedelta(seconds=max(until - time.monotonic(), POLL))


def _finish(work, until):
    try:
        work.wait(_left(until))
    except RuntimeError as error:
        raise ConnectionError(str(error)) from error


# The side of the worker.


def _find_server(host, port, seconds):
    """Return the addresses of server and worker, as they see each other."""
    until = time.monotonic() + seconds
    while True:
        try:
            left = max(until - time.monotonic(), POLL)
            with socket.create_connection((host, port), left) as probe:
                return probe.getpeername()[0], probe.getsockname()[0]
        except OSError as error:
            if time.monotonic() + POLL > until:
                raise ConnectionError(
                    f"No GlooEngine found at {host}:{port} in {seconds:g} s ({error}). "
                    "Does it run there, with this host and port, and do firewalls let "
                    "it through?"
                ) from error
        time.sleep(POLL)


def _numbers_of(store, worker, weights):
    """Say how many clients there are, and return the numbers that they get."""
    n_workers = int(store.get("n_workers"))
    if not 0 <= worker < n_workers:
        raise ValueError(f"worker={worker}, but the server has {n_workers} workers.")
    store.set(f"{worker}/weights", json.dumps(weights))
    while not store.check([f"{worker}/clients"]):
        time.sleep(POLL)
    known = json.loads(store.get(f"{worker}/clients"))
    if known["weights"] != weights:
        raise ValueError(
            f"Worker {worker} has come with clients of weights {weights}, after those "
            f"of weights {known['weights']}. Start it again with the same clients."
        )
    return known["numbers"]


def _join(store, worker):
    """Say hello, and return the ticket that the server has taken."""
    ticket = store.add(f"{worker}/ticket", 1)
    store.set(f"{worker}/hello", str(ticket))
    # Until the next request, which may be long.
    while not store.check([f"{worker}/welcome/{ticket}"]):
        _be_the_newest(store, worker, ticket)
        time.sleep(POLL)
    return ticket


def _be_the_newest(store, worker, ticket):
    if store.add(f"{worker}/ticket", 0) != ticket:
        raise ConnectionError(f"Another process has joined as worker {worker}.")


def _answer(link, block, make_sure, timeout):
    """Wait for one request and answer it; False if it is to stop."""
    idle = partial(_wait_idle, make_sure=make_sure, seconds=timeout / 2)
    sizes, ids = link.receive_header(None, idle)
    if sizes == (0, 0):
        return False
    request = link.receive_content(sizes, time.monotonic() + timeout)
    try:
        message = _encode(block.answer(request))
    except Exception:
        message = _encode({"error": traceback.format_exc()})
    link.send(message, ids, time.monotonic() + timeout)
    return True


def _wait_idle(work, make_sure, seconds):
    """Wait without limit while the server lives.

    In a thread of its own, since torch's wait could not be interrupted from the
    keyboard, and since its time limits close the connection.
    """
    ended, errors = threading.Event(), []

    def wait():
        try:
            work.wait(FOREVER)
        except RuntimeError as error:
            errors.append(error)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    while not ended.wait(seconds):
        make_sure()
    if errors:
        raise ConnectionError(str(errors[0])) from errors[0]


# Processes of our own.


def _start_process():
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    module = f"from {__name__} import _serve_parent; _serve_parent()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", module],
        stdin=subprocess.PIPE,
        # What can be imported here must be there.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the parent, which then ends us
    )


def _serve_parent():
    """Serve the clients that come through stdin, for as long as it is open."""
    problem, clients, options = pickle.load(sys.stdin.buffer)

    def end_with_parent():
        os.read(sys.stdin.fileno(), 1)
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        serve_clients(problem, clients, **options)
    except ConnectionError as error:
        sys.exit(f"{__name__}: {error}")


def _end(links, processes, threads, owner):
    if os.getpid() != owner:
        return  # a fork of the program that the engine belongs to
    until = time.monotonic() + FAREWELL
    farewells = []
    for link in filter(None, links):
        with contextlib.suppress(ConnectionError):
            farewells.append(link.start_to_send((0, 0, 0, 0)))
    for work in farewells:
        with contextlib.suppress(ConnectionError):
            _finish(work, until)
    links[:] = [None] * len(links)
    threads.shutdown(wait=False)
    for process in processes:
        with contextlib.suppress(OSError):
            process.stdin.close()
    for process in processes:
        try:
            process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
