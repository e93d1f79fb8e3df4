"""FedNest: nested rounds, and a round trip for each term of a series  (2205.02215).

One epoch, with u = (x, w, v) and F = (P, S_w, S_v) of a bilevel problem:

    T times    all      h = mean_m F_m(u)
               chosen   tau steps  w <- w - beta (F_m(u) - F_m(u_0) + h)_w,  then mean
    1 + N      all      v <- v - beta mean_m S_v^m(u),  from v = 0
    once       all      h = mean_m F_m(u)
               chosen   tau steps  x <- x - alpha (F_m(u) - F_m(u_0) + h)_x, then mean

Each line and each repetition is a communication: 2T + N + 3. The line after "all" is
absent without variance reduction, as w then follows each client's own map: T + N + 3.
With local hypergradients, clients take the 1 + N steps of v by themselves, and one
communication brings P: 2T + 1, or T + 1.
"""

from dataclasses import replace

import torch

from ._clients import Layout
from ._engines import open_engine
from ._fedmsa import _check_settings, _Run
from ._problems import BilevelProblem
from ._server import Server

HYPERGRADIENTS = ("neumann", "local")


def fednest(
    problem,
    clients=None,
    *,
    weights=None,
    n_rounds=100,
    inner_rounds=5,
    local_steps=5,
    n_neumann=5,
    alpha="auto",
    beta="auto",
    hypergradient="neumann",
    variance_reduction="spider",
    local_clients=None,
    batch_size=None,
    tol=1e-6,
    engine="vmap",
    backend_options=None,
    on_lost_client="continue",
    start=None,
    checkpoint=None,
    device="cpu",
    dtype=torch.float64,
    seed=0,
    on_round=None,
):
    """Solve a bilevel problem of a federation by nested loops.

    In each epoch the inner problem is solved anew to some accuracy, then the Hessian is
    inverted by a truncated series, then the outer variable moves. It is what
    :func:`fedmsa`, which moves all at once, is to be compared with.

    Parameters
    ----------
    problem : BilevelProblem
        The problem, and where its variables start.
    clients : list of pytree of tensor, default=None
        The data of each client, handed to the functions of the problem. None is for an
        `engine` that has them elsewhere.
    weights : sequence of float of length n_clients, default=None
        Weights of the clients in means; equal if None.
    n_rounds : int, default=100
        Limit of epochs.
    inner_rounds : int, default=5
        Rounds T for the inner variable in each epoch.
    local_steps : int, default=5
        Steps tau between two means, of the inner and of the outer variable.
    n_neumann : int, default=5
        Terms N of the series beyond the first. A truncated series is biased: the
        gradient norm has a floor that more epochs do not lower.
    alpha : "auto" or float, default="auto"
        Step of x. "auto" is a fifth of `beta`.
    beta : "auto" or float, default="auto"
        Step of w, and scale of the Hessian in the series. "auto" is half of the inverse
        curvature of the inner function, or less where clients differ much.
    hypergradient : {"neumann", "local"}, default="neumann"
        Whether the series is of the mean Hessian, or each client's of its own
        (LFedNest): there is then one outer step in each epoch, no v in the value, and a
        floor where clients differ.
    variance_reduction : {"spider", None}, default="spider"
        Whether inner steps follow the mean map, by differences on the same draws. With
        None they follow each client's own map (FedNest-SGD).
    local_clients : int, default=None
        How many clients make local steps, drawn anew each time; all if None.
    batch_size : int, default=None
        Rows that a client draws, with replacement, for an evaluation or a step. None is
        all of them.
    tol : float, default=1e-6
        Epochs end once the norms of the means of P, S_w and S_v are at most that.
    engine : {"vmap", "gloo", "flower"} or object, default="vmap"
        Who computes, as in :func:`fedmsa`.
    backend_options : dict, default=None
        Options of "gloo" and "flower".
    on_lost_client : {"continue", "stop"}, default="continue"
        Whether to go on without a client that does not answer, or to raise
        :class:`ClientLostError` with the state before the epoch.
    start : Solution, path, or tuple (x, (w, v)), default=None
        Where to go on: from a solution, a checkpoint, or variables.
    checkpoint : path, default=None
        File that the state is written to after each epoch.
    device : str, default="cpu"
        Where to compute.
    dtype : torch.dtype, default=torch.float64
        Of all variables.
    seed : int, default=0
        Determines the clients and rows that are drawn, whatever the engine.
    on_round : callable, default=None
        ``on_round(solution)`` is called after each epoch; True ends the run.

    Returns
    -------
    Solution
        `value` is ``(x, (w, v))``. `history` is that of :func:`fedmsa`, with one item
        per epoch: the norms are those after the inner rounds and the series, before x
        moves. "floats" counts whole vectors (x, w, v) in each message, as they are
        sent here.

    Raises
    ------
    TypeError
        If the problem is not a :class:`BilevelProblem`.
    DivergenceError
        If variables grow without limit. It holds the last good point.
    ClientLostError
        If a client does not answer and `on_lost_client` is "stop".
    ConnectionError
        If none of the clients asked answers.
    ValueError
        If there is no client, `beta` is at least 2 / L for the curvature L of the inner
        function, or a setting is impossible.

    See Also
    --------
    fedmsa : Two communications in each round, and no floor.

    References
    ----------
    Tarzanagh, Li, Thrampoulidis and Oymak, "FedNest: Federated Bilevel, Minimax, and
    Compositional Optimization", arXiv:2205.02215.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> from sklearn_attn.federated import fednest, quadratic_problem
    >>> data = make_federated_quadratic(outer_l2=1.0, random_state=0)
    >>> problem, clients = quadratic_problem(data)
    >>> short, long = (
    ...     fednest(problem, clients, n_neumann=n, alpha=0.05, beta=0.4, n_rounds=50)
    ...     for n in (1, 20)
    ... )
    >>> bool(abs(short.value[0].numpy() - data.x).max() > 0.01)  # the floor
    True
    >>> bool(abs(long.value[0].numpy() - data.x).max() < 1e-4)
    True
    """
    if not isinstance(problem, BilevelProblem):
        raise TypeError(
            f"fednest solves a BilevelProblem; got a {type(problem).__name__}. Use "
            "fedmsa, which solves all kinds."
        )
    clients = None if clients is None else list(clients)
    _check_settings(
        clients,
        engine,
        n_rounds=(n_rounds, 1, None),
        inner_rounds=(inner_rounds, 1, None),
        local_steps=(local_steps, 1, None),
        n_neumann=(n_neumann, 0, None),
        alpha=(alpha, 0, None),
        beta=(beta, 0, None),
        local_clients=(local_clients, 1, None),
        batch_size=(batch_size, 1, None),
        tol=(tol, 0, None),
    )
    for name, value, choices in (
        ("hypergradient", hypergradient, HYPERGRADIENTS),
        ("variance_reduction", variance_reduction, ("spider", None)),
        ("on_lost_client", on_lost_client, ("continue", "stop")),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}; got {value!r}.")
    device = torch.device(device)
    engine_here = open_engine(
        engine,
        problem,
        clients,
        weights,
        options=backend_options,
        device=device,
        dtype=dtype,
    )
    try:
        server = Server(
            engine_here,
            Layout(problem.x0, problem.zs0),
            seed=seed,
            batch_size=batch_size or 0,
            device=device,
            dtype=dtype,
        )
        if local_clients is not None and local_clients > len(server.numbers):
            raise ValueError(
                f"local_clients={local_clients} of {len(server.numbers)} clients."
            )
        run = _Run(
            server,
            problem,
            local_steps=local_steps,
            decay=(1.0, 1.0),
            momentum=1.0,
            participation=1.0,
            local_clients=local_clients,
            correct=variance_reduction == "spider",
            automatic=(alpha == "auto", beta == "auto"),
            stop_if_lost=on_lost_client == "stop",
        )
        epoch = _Epoch(run, inner_rounds, n_neumann, hypergradient == "local")
        state = run.begin(start, alpha, beta, "zero", 0)
        return run.go_on(state, n_rounds, tol, checkpoint, on_round, epoch)
    finally:
        if isinstance(engine, str):
            engine_here.close()


class _Epoch:
    """One epoch, made with the clients and the books of a run."""

    def __init__(self, run, inner_rounds, n_neumann, is_local):
        self.run, self.server, self.layout = run, run.server, run.layout
        self.inner_rounds, self.n_neumann = inner_rounds, n_neumann
        self.is_local = is_local

    def __call__(self, state, n_round, tol):
        """Return the state after an epoch, or None at the end, and what was seen."""
        run, (_, _, v) = self.run, self.layout.blocks
        u = state.u
        for _ in range(self.inner_rounds):
            h = self._field(u)[0] if run.correct else None
            u = self._move(u, h, (0.0, state.beta, 0.0))
        u = u.clone()
        u[v] = 0.0
        if self.is_local:
            F, value, _ = self._ask(
                "local_hypergradient", at=u, n_neumann=self.n_neumann, eta=state.beta
            )
        else:
            for _ in range(self.n_neumann + 1):
                u[v] -= state.beta * self._field(u)[0][v]
            F, value, _ = self._field(u)
        entry = run._norms(F) | {"outer_loss": value}
        if max(run._sizes(F)) <= tol or not bool(F.isfinite().all()):
            return None, entry
        if self.is_local:
            step = self.layout.spread((state.alpha, 0.0, 0.0), u)
            x, zs = self.layout.unpack(u - step * F)
            project = run.problem.project
            u = self.layout.pack(x if project is None else project(x), zs)
        else:
            u = self._move(u, F, (state.alpha, 0.0, 0.0))
        return replace(state, n_rounds=n_round + 1, u=u), entry

    def _field(self, u):
        return self._ask("field", at=u[None], coef=u.new_ones(1))

    def _move(self, u, h, step):
        """Return the mean of what local steps make of u."""
        return self._ask(
            "steps",
            self.run._chosen(self.server.communications, 0),
            start=u,
            direction=u.new_zeros(0) if h is None else h,
            step=torch.tensor(step, dtype=torch.float64),
            local_steps=self.run.local_steps,
            correct=int(h is not None),
        )[0]

    def _ask(self, kind, clients=None, **content):
        # Each communication has draws of its own, which its number determines.
        return self.server.must_ask(
            kind, self.server.communications, clients, **content
        )
