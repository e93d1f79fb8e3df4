"""FedMSA: local steps along the mean of all clients' maps  (2306.01648, algorithm 1).

Round r, with u = (x, z^1..z^N) and F = (P, S^1..S^N):

    all      h_r = mean_m F_m(u_r; xi) + (1 - rho) (h_{r-1} - mean_m F_m(u_{r-1}; xi))
    chosen   u_(0) = u_r, h_(0) = h_r, and for k = 0..K-1
                 h_(k)   = h_(k-1) + F_m(u_(k); xi_k) - F_m(u_(k-1); xi_k)     if k > 0
                 u_(k+1) = u_(k) - step * h_(k),  step alpha for x and beta for the z
    mean     u_{r+1} = mean of u_(K) over the chosen clients

Both differences are of values on the same draws: without that, momentum would reduce no
variance. With all rows, h_(k) = h_r + F_m(u_(k)) - F_m(u_r), and what is special about
a client drops out up to second order.
"""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .._solution import Solution
from ._clients import Layout
from ._engines import open_engine
from ._hypergradient import adjoint
from ._server import (
    NOT_FINITE,
    SHARE_OF_CURVATURE,
    Server,
    curvature,
    heterogeneity,
)

# The automatic alpha is a fifth of beta.
ALPHA_SHARE = 0.2
# The automatic alpha is halved in a round where the outer map turns back, and grows
# where that keeps its direction, a cosine beyond the limit, but never again beyond this
# share of what made it turn.
STRAIGHT, GROWTH, SHRINKAGE, CAUTION = 0.9, 1.2, 0.5, 0.7
# Noise turns the map back half of the time, which must not stop x altogether.
LEAST_ALPHA = 1e-3
# An outer map so much larger than at first is called divergence.
BLOW_UP = 1e8
MOST_BACKOFFS = 30
ENGINES = ("vmap", "gloo", "flower")
# Rows of random numbers of the server, which clients draw none of.
SERVER = 2**31


class DivergenceError(ArithmeticError):
    """Steps were so large that the variables grew without limit.

    Parameters
    ----------
    message : str
        What happened, and which step to reduce.
    solution : Solution
        The last good point, from which :func:`fedmsa` can go on with smaller steps.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.federated import DivergenceError, MinimizationProblem, fedmsa
    >>> problem = MinimizationProblem(
    ...     lambda b, x: (x**4 / 4 - b * x).sum(), torch.zeros(1)
    ... )
    >>> try:
    ...     fedmsa(problem, [torch.ones(1)], alpha=3.0)
    ... except DivergenceError as error:
    ...     start = error.solution
    >>> fedmsa(problem, [torch.ones(1)], alpha=0.1, start=start).converged
    True
    """

    def __init__(self, message, solution=None):
        super().__init__(message)
        self.solution = solution


class ClientLostError(ConnectionError):
    """A client did not answer, and the run was to stop then.

    Parameters
    ----------
    message : str
        Which clients, and in which round.
    solution : Solution
        The state before that round, from which :func:`fedmsa` can go on.

    Examples
    --------
    >>> from sklearn_attn.federated import ClientLostError
    >>> issubclass(ClientLostError, ConnectionError)
    True
    """

    def __init__(self, message, solution=None):
        super().__init__(message)
        self.solution = solution


@dataclass(frozen=True)
class FederatedState:
    """What the server needs to go on: nothing of it is on the clients.

    Attributes
    ----------
    n_rounds : int
        Rounds done.
    u, before : tensor of shape (n_variables,)
        Variables, laid out as one vector, and those of the round before, if any.
    h : tensor of shape (n_variables,) or None
        Estimate of the mean map, before this round.
    alpha, beta : float
        Steps, after all backing off.
    communications, floats : int
        Messages to clients so far, in rounds, and numbers sent, both ways.
    history : dict of str to list
        One item per round.
    """

    n_rounds: int
    u: torch.Tensor
    before: torch.Tensor | None
    h: torch.Tensor | None
    alpha: float
    beta: float
    communications: int
    floats: int
    history: dict


def fedmsa(
    problem,
    clients=None,
    *,
    weights=None,
    n_rounds=100,
    local_steps=10,
    alpha="auto",
    beta="auto",
    alpha_decay=1.0,
    beta_decay=1.0,
    momentum=1.0,
    participation=1.0,
    local_clients=None,
    variance_reduction="spider",
    batch_size=None,
    v_init="zero",
    n_neumann=5,
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
    """Solve coupled equations of a federation by local steps.

    Parameters
    ----------
    problem : FederatedProblem or one of its kinds
        The equations, and where the variables start.
    clients : list of pytree of tensor, default=None
        The data of each client, handed to the functions of the problem. None is for an
        `engine` that has them elsewhere.
    weights : sequence of float of length n_clients, default=None
        Weights of the clients in means; equal if None.
    n_rounds : int, default=100
        Limit of rounds, each of two communications with the clients: one to evaluate
        the mean map, one for local steps.
    local_steps : int, default=10
        Steps K between two means.
    alpha : "auto" or float, default="auto"
        Step of x. "auto" is a fifth of `beta`, and less while the outer map turns back.
    beta : "auto" or float, default="auto"
        Step of the z. "auto" is half of the inverse curvature of S, found by power
        iteration, or less where clients differ much; without z, that of P.
    alpha_decay, beta_decay : float, default=1.0
        What the steps are multiplied by after each round.
    momentum : float, default=1.0
        Share rho of the new evaluation in the estimate of the mean map, in (0, 1].
        Matters only with `batch_size` or `participation`.
    participation : float, default=1.0
        Share of clients that evaluate, drawn anew in each round.
    local_clients : int, default=None
        How many clients make local steps, drawn anew in each round; all if None.
    variance_reduction : {"spider", None}, default="spider"
        Whether local steps follow the mean map, by differences on the same draws. With
        None they follow each client's own map, as in FedAvg and SimFBO, and a round is
        one communication.
    batch_size : int, default=None
        Rows that a client draws, with replacement, for an evaluation or a step. None is
        all of them.
    v_init : {"zero", "cg", "neumann"}, default="zero"
        Where v of a bilevel problem starts: at zero, by conjugate gradients, or by a
        truncated Neumann series.
    n_neumann : int, default=5
        Terms of that series beyond the first, or limit of steps of conjugate gradients.
    tol : float, default=1e-6
        Rounds end once the norms of all means of P and S^n are at most that.
    engine : {"vmap", "gloo", "flower"} or object, default="vmap"
        Who computes: this process, worker processes that talk over TCP, a Flower
        simulation, or an engine such as :class:`GlooEngine`.
    backend_options : dict, default=None
        Options of "gloo" and "flower".
    on_lost_client : {"continue", "stop"}, default="continue"
        Whether to go on without a client that does not answer, or to raise
        :class:`ClientLostError` with the state before the round.
    start : Solution, path, or tuple (x, zs), default=None
        Where to go on: from a solution of this function, a checkpoint, or variables.
    checkpoint : path, default=None
        File that the state is written to after each round.
    device : str, default="cpu"
        Where to compute.
    dtype : torch.dtype, default=torch.float64
        Of all variables.
    seed : int, default=0
        Determines the clients and rows that are drawn, whatever the engine.
    on_round : callable, default=None
        ``on_round(solution)`` is called after each round; True ends the run.

    Returns
    -------
    Solution
        `value` is ``(x, zs)``. `history` has lists with one item per evaluation:
        "comm_rounds" and "comm_floats" sent so far, "hypergrad_norm" (of mean P),
        "inner_residual" (of S^1), "adjoint_residual" (of the other S^n together),
        "outer_loss", "alpha", "beta", "lost" (clients that did not answer) and
        "seconds". `state` is what is needed to go on.

    Raises
    ------
    DivergenceError
        If variables grow without limit. It holds the last good point.
    ClientLostError
        If a client does not answer and `on_lost_client` is "stop".
    ConnectionError
        If no client answers.
    ValueError
        If there is no client, `beta` is at least 2 / L for the curvature L of S, so
        that the inner steps must diverge, or a setting is impossible.

    See Also
    --------
    fednest : A round trip for each inner step and each term of a Neumann series.

    References
    ----------
    Tarzanagh, Li, Sharma and Oymak, "Federated Multi-Sequence Stochastic Approximation
    with Local Hypergradient Estimation", arXiv:2306.01648.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> from sklearn_attn.federated import fedmsa, quadratic_problem
    >>> data = make_federated_quadratic(outer_l2=1.0, random_state=0)
    >>> problem, clients = quadratic_problem(data)
    >>> solution = fedmsa(problem, clients, local_steps=20, alpha=0.02, beta=0.2)
    >>> x, (w, v) = solution.value
    >>> bool(abs(x.numpy() - data.x).max() < 1e-5)
    True
    """
    clients = None if clients is None else list(clients)
    _check_settings(
        clients,
        engine,
        n_rounds=(n_rounds, 1, None),
        local_steps=(local_steps, 1, None),
        alpha=(alpha, 0, None),
        beta=(beta, 0, None),
        alpha_decay=(alpha_decay, 0, 1),
        beta_decay=(beta_decay, 0, 1),
        momentum=(momentum, 1e-9, 1),
        participation=(participation, 1e-9, 1),
        local_clients=(local_clients, 1, None),
        batch_size=(batch_size, 1, None),
        n_neumann=(n_neumann, 0, None),
        tol=(tol, 0, None),
    )
    for name, value, choices in (
        ("variance_reduction", variance_reduction, ("spider", None)),
        ("v_init", v_init, ("zero", "cg", "neumann")),
        ("on_lost_client", on_lost_client, ("continue", "stop")),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}; got {value!r}.")
    if clients is not None and hasattr(problem, "begin"):
        problem = problem.begin(clients[0])
    device = torch.device(device)
    layout = Layout(problem.x0, problem.zs0)
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
            layout,
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
            decay=(alpha_decay, beta_decay),
            momentum=momentum,
            participation=participation,
            local_clients=local_clients,
            correct=variance_reduction == "spider",
            automatic=(alpha == "auto", beta == "auto"),
            stop_if_lost=on_lost_client == "stop",
        )
        state = run.begin(start, alpha, beta, v_init, n_neumann)
        return run.go_on(state, n_rounds, tol, checkpoint, on_round)
    finally:
        if isinstance(engine, str):
            engine_here.close()


class _Run:
    """The rounds of one call."""

    def __init__(
        self,
        server,
        problem,
        *,
        local_steps,
        decay,
        momentum,
        participation,
        local_clients,
        correct,
        automatic,
        stop_if_lost,
    ):
        self.server, self.problem, self.layout = server, problem, server.layout
        self.local_steps, self.decay = local_steps, decay
        self.momentum, self.participation = momentum, participation
        self.local_clients, self.correct = local_clients, correct
        self.automatic, self.stop_if_lost = automatic, stop_if_lost
        self.is_noisy = server.batch_size > 0 or participation < 1

    def begin(self, start, alpha, beta, v_init, n_neumann):
        """Return the state before the first round of this call."""
        server = self.server
        state = read_state(start)
        if state is not None:
            server.communications = state.communications
            server.floats = state.floats
            state = replace(
                state,
                u=self._put(state.u),
                before=self._put(state.before),
                h=self._put(state.h),
                history={name: list(items) for name, items in state.history.items()},
            )
            return replace(
                state,
                alpha=state.alpha if alpha == "auto" else alpha,
                beta=state.beta if beta == "auto" else beta,
            )
        x, zs = (self.problem.x0, self.problem.zs0) if start is None else start
        u = self._put(self.layout.pack(x, zs))
        alpha, beta = self._steps(u, alpha, beta)
        if v_init != "zero":
            u = self._start_of_v(u, v_init, n_neumann, beta)
        return FederatedState(
            0, u, None, None, alpha, beta, server.communications, server.floats, {}
        )

    def go_on(self, state, n_rounds, tol, checkpoint, on_round, make_round=None):
        """Make rounds, of FedMSA or others, until the mean map vanishes."""
        make_round = make_round or self._round
        server, began = self.server, time.perf_counter()
        began -= state.history["seconds"][-1] if state.history else 0.0
        first_norm = max([1.0, *state.history.get("hypergrad_norm", [])[:1]])
        converged, n_backoffs = False, 0
        good, least = state, np.inf
        self.largest_alpha = state.alpha
        self.least_alpha = LEAST_ALPHA * state.alpha
        for n_round in range(state.n_rounds, state.n_rounds + n_rounds):
            server.lost_now = []
            try:
                following, entry = make_round(state, n_round, tol)
            except ConnectionError:
                if not (server.lost_now and self.stop_if_lost):
                    raise
            if server.lost_now and self.stop_if_lost:
                raise ClientLostError(
                    f"Clients {sorted(server.lost_now)} did not answer in round "
                    f"{n_round}; the state before it is kept as `solution`, and can "
                    "be given as start.",
                    self._solution(state, False),
                )
            norms = [entry[name] for name in ("hypergrad_norm", "inner_residual")]
            norms.append(entry["adjoint_residual"])
            norms = [norm for norm in norms if norm is not None]
            if not state.history:
                first_norm = max([first_norm, *(n for n in norms if np.isfinite(n))])
            if self.correct and not (
                state.history or n_backoffs or np.isfinite(norms).all()
            ):
                raise ValueError(NOT_FINITE)
            blown = not all(norm <= BLOW_UP * first_norm for norm in norms) or (
                following is not None and not bool(following.u.isfinite().all())
            )
            if blown:
                n_backoffs += 1
                if not any(self.automatic) or n_backoffs > MOST_BACKOFFS:
                    raise DivergenceError(
                        f"The variables grow without limit in round {n_round}, with "
                        f"alpha={state.alpha:.3g} and beta={state.beta:.3g}. Use "
                        "smaller steps, alpha first; the last good point is kept as "
                        "`solution`, and can be given as start.",
                        self._solution(
                            replace(
                                good,
                                communications=server.communications,
                                floats=server.floats,
                            ),
                            False,
                        ),
                    )
                alpha, beta = (
                    step / 2 if is_auto else step
                    for step, is_auto in zip((state.alpha, state.beta), self.automatic)
                )
                self.largest_alpha = alpha
                state = replace(
                    good,
                    n_rounds=n_round + 1,
                    alpha=alpha,
                    beta=beta,
                    h=None,
                    before=None,
                )
                continue
            if np.linalg.norm(norms) <= least:
                good, least = state, np.linalg.norm(norms)
            history = state.history
            entry |= {
                "comm_rounds": server.communications,
                "comm_floats": server.floats,
                "alpha": state.alpha,
                "beta": state.beta,
                "lost": sorted(server.lost_now),
                "seconds": time.perf_counter() - began,
            }
            for name, item in entry.items():
                history.setdefault(name, []).append(
                    float("nan") if item is None else item
                )
            if following is None:
                state = replace(
                    state,
                    communications=server.communications,
                    floats=server.floats,
                )
                converged = True
                break
            alpha, beta = following.alpha, following.beta
            if self.automatic[0] and following.h is not None and state.h is not None:
                alpha = self._adapted(alpha, following.h, state.h)
            state = replace(
                following,
                alpha=alpha,
                beta=beta,
                history=history,
                communications=server.communications,
                floats=server.floats,
            )
            if checkpoint is not None:
                _write(state, checkpoint)
            if on_round is not None and on_round(self._solution(state, False)):
                break
        return self._solution(state, converged)

    def _round(self, state, n_round, tol):
        """Return the state after a round, None if none is needed, and what was seen."""
        server, layout = self.server, self.layout
        u, h = state.u, None
        value = None
        if self.correct:
            at, coef, rho = [u], [1.0], 1.0
            if self.is_noisy and state.before is not None and state.h is not None:
                rho = self.momentum
            if rho < 1:
                at, coef = [u, state.before], [1.0, rho - 1]
            mean, value, _ = server.must_ask(
                "field",
                n_round,
                self._some(n_round),
                at=torch.stack(at),
                coef=torch.tensor(coef, dtype=torch.float64),
            )
            h = mean if rho == 1 else mean + (1 - rho) * state.h
            entry = self._norms(h) | {"outer_loss": value}
            if self._is_zero(u, h, tol) or not bool(h.isfinite().all()):
                return None, entry
        steps = [state.alpha] + [state.beta] * (len(layout.blocks) - 1)
        reply, attempt = None, 0
        while reply is None:
            chosen = self._chosen(n_round, attempt)
            reply = server.ask(
                "steps",
                n_round,
                chosen,
                start=u,
                direction=torch.zeros(0) if h is None else h,
                step=torch.tensor(steps, dtype=torch.float64),
                local_steps=self.local_steps,
                correct=int(self.correct),
            )
            attempt += 1
            if reply is None and (
                (self.stop_if_lost and server.lost_now) or attempt > len(server.numbers)
            ):
                raise ConnectionError(f"No client answered in round {n_round}.")
        after, local_value, _ = reply
        if h is None:  # the mean direction of the local steps
            scale = layout.spread(steps, u) * self.local_steps
            h = torch.where(scale > 0, (u - after) / scale, 0.0)
            entry = self._norms(h) | {"outer_loss": local_value}
            if self._is_zero(u, h, tol):
                return None, entry
        following = replace(
            state,
            n_rounds=n_round + 1,
            u=after,
            before=u,
            h=h if self.correct else None,
            alpha=state.alpha * self.decay[0],
            beta=state.beta * self.decay[1],
        )
        return following, entry

    def _adapted(self, alpha, h, before):
        """Return a smaller step where x turns back, a larger one where it goes on."""
        outer = self.layout.blocks[0]
        cosine = torch.cosine_similarity(h[outer], before[outer], dim=0)
        if cosine < 0:
            self.largest_alpha = CAUTION * alpha
            return max(alpha * SHRINKAGE, min(alpha, self.least_alpha))
        if cosine > STRAIGHT and alpha < self.largest_alpha:
            return min(alpha * GROWTH, self.largest_alpha)
        return alpha

    def _is_zero(self, u, h, tol):
        """Tell whether the mean map vanishes, or points out of where x may be."""
        project = getattr(self.problem, "project", None)
        if project is not None:
            x, _ = self.layout.unpack(u - h)
            _, zs = self.layout.unpack(h)
            inside = self.layout.pack(project(x), zs)
            outer = self.layout.blocks[0]
            h = h.clone()
            h[outer] = u[outer] - inside[outer]
        return max(self._sizes(h)) <= tol

    def _sizes(self, h):
        return [float(h[block].norm()) for block in self.layout.blocks]

    def _norms(self, h):
        outer, *rest = self._sizes(h)
        return {
            "hypergrad_norm": outer,
            "inner_residual": rest[0] if rest else None,
            "adjoint_residual": float(np.linalg.norm(rest[1:])) if rest[1:] else None,
        }

    def _some(self, n_round):
        """Draw the clients that evaluate."""
        numbers = self.server.numbers
        if self.participation == 1:
            return numbers
        rng = np.random.default_rng([self.server.seed, n_round, SERVER])
        n = max(1, round(self.participation * len(numbers)))
        return sorted(rng.choice(numbers, n, replace=False).tolist())

    def _chosen(self, n_round, attempt):
        """Draw the clients that make local steps; others, if these did not answer."""
        numbers = [m for m in self.server.numbers if m not in self.server.lost_now]
        numbers = numbers or self.server.numbers
        if self.local_clients is None or self.local_clients >= len(numbers):
            return numbers
        rng = np.random.default_rng([self.server.seed, n_round, SERVER + 1, attempt])
        return sorted(rng.choice(numbers, self.local_clients, replace=False).tolist())

    def _steps(self, u, alpha, beta):
        """Return the steps; beta by the curvature of S, which must not be too large."""
        blocks = self.layout.blocks
        has_inner = len(blocks) > 1
        inner = blocks[1] if has_inner else blocks[0]
        given = beta if has_inner else alpha
        L = curvature(self.server, u, inner)
        if given != "auto":
            if given * L >= 2:
                name = "beta" if has_inner else "alpha"
                raise ValueError(
                    f"{name}={given} is at least 2 / L: the curvature L of the map is "
                    f"{L:.3g} or more, so that steps of {2 / L:.3g} and more diverge."
                )
            step = given
        else:
            step = SHARE_OF_CURVATURE / L if L > 0 else 1.0
            tau = heterogeneity(self.server, u, inner)
            # beyond that, clients lose each other within a round
            step = min(step, 1 / (self.local_steps * tau)) if tau > 0 else step
        if not has_inner:
            return step, step
        if alpha == "auto":
            alpha = getattr(self.problem, "alpha0", ALPHA_SHARE * step)
        return alpha, step

    def _start_of_v(self, u, v_init, n_neumann, beta):
        return adjoint(
            self.server,
            u,
            kind=v_init,
            n_terms=n_neumann,
            eta=beta,
        )

    def _put(self, u):
        if u is None:
            return None
        return u.detach().to(self.server.device, self.server.dtype)

    def _solution(self, state, converged):
        x, zs = self.layout.unpack(state.u.clone())
        return Solution(
            value=(x, zs),
            n_iter=state.n_rounds,
            converged=converged,
            history={name: list(items) for name, items in state.history.items()},
            state=state,
        )


def _check_settings(clients, engine, **limits):
    if isinstance(engine, str) and engine not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}; got {engine!r}.")
    if isinstance(engine, str) and not clients:
        raise ValueError("There are no clients: give a list with the data of each.")
    for name, (value, low, high) in limits.items():
        if value is None or value == "auto":
            continue
        if not (value >= low and (high is None or value <= high)):
            upper = "" if high is None else f" and at most {high:g}"
            raise ValueError(f"{name} must be at least {low:g}{upper}; got {value}.")


def read_state(start):
    """Return the state of a solution or a checkpoint; None if it is none of them."""
    if isinstance(start, str | os.PathLike):
        with open(start, "rb") as file:
            return FederatedState(**torch.load(file, weights_only=True))
    return start.state if isinstance(start, Solution) else None


def _write(state, path):
    """Write the state at once or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    torch.save(vars(state), partial)
    os.replace(partial, path)
