"""grad F(x) = grad_x f - grad_x <grad_w g, v>,  v = H^{-1} grad_w f, H = Hess_w g.

f, g and H are means over clients. Exact: v by conjugate gradients, which need products
with the mean H alone. Neumann: v = eta sum_{j <= J} (I - eta H)^j grad_w f, which is
J + 1 steps v <- v - eta S_v from zero. Local: each client takes such steps with its own
H_m, and the mean of the results is biased, since a mean of inverses is not the inverse
of the mean (2306.01648).
"""

import torch

from ._clients import ClientBlock
from ._engines import VmapEngine
from ._server import SHARE_OF_CURVATURE, Server, curvature, heterogeneity

# Conjugate gradients end once the residual is this share of the right-hand side: what
# double precision can tell.
CG_TOLERANCE = 1e-14


def exact_hypergradient(problem, clients, x, w, *, weights=None):
    """Return the gradient of the outer function, with the mean Hessian solved for.

    Parameters
    ----------
    problem : BilevelProblem
        The problem.
    clients : list of pytree of tensor
        The data of each client.
    x, w : pytree of tensor
        Where: w should be the inner solution for x.
    weights : sequence of float of length n_clients, default=None
        Weights of the clients; equal if None.

    Returns
    -------
    pytree of tensor
        The gradient, like x.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> from sklearn_attn.federated import exact_hypergradient, quadratic_problem
    >>> data = make_federated_quadratic(random_state=0)
    >>> problem, clients = quadratic_problem(data)
    >>> x, w = torch.from_numpy(data.x), torch.from_numpy(data.w)
    >>> bool(exact_hypergradient(problem, clients, x, w).abs().max() < 1e-12)
    True
    """
    server, u = _at(problem, clients, x, w, weights)
    v = adjoint(server, u, kind="cg", n_terms=None, eta=None)
    return server.layout.unpack(server.field(v))[0]


def neumann_hypergradient(
    problem, clients, x, w, *, n_neumann=5, eta="auto", weights=None
):
    """Return the gradient with a truncated Neumann series of the mean Hessian.

    Parameters
    ----------
    problem : BilevelProblem
        The problem.
    clients : list of pytree of tensor
        The data of each client.
    x, w : pytree of tensor
        Where.
    n_neumann : int, default=5
        Terms of the series beyond the first, each a communication.
    eta : "auto" or float, default="auto"
        Scale of the Hessian, below 2 over its curvature; "auto" is half of the inverse.
    weights : sequence of float of length n_clients, default=None
        Weights of the clients; equal if None.

    Returns
    -------
    pytree of tensor
        The gradient, like x.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> from sklearn_attn.federated import neumann_hypergradient, quadratic_problem
    >>> data = make_federated_quadratic(random_state=0)
    >>> problem, clients = quadratic_problem(data)
    >>> at = torch.from_numpy(data.x), torch.from_numpy(data.w)
    >>> short = neumann_hypergradient(problem, clients, *at, n_neumann=3)
    >>> long = neumann_hypergradient(problem, clients, *at, n_neumann=100)
    >>> bool(long.norm() < 0.01 * short.norm())  # the gradient there is zero
    True
    """
    server, u = _at(problem, clients, x, w, weights)
    if eta == "auto":
        eta = SHARE_OF_CURVATURE / curvature(server, u, server.layout.blocks[1])
    v = adjoint(server, u, kind="neumann", n_terms=n_neumann, eta=eta)
    return server.layout.unpack(server.field(v))[0]


def local_hypergradient(
    problem, clients, x, w, *, n_neumann=100, eta="auto", weights=None
):
    """Return the mean of gradients that clients find from their own Hessians: biased.

    Parameters
    ----------
    problem : BilevelProblem
        The problem.
    clients : list of pytree of tensor
        The data of each client.
    x, w : pytree of tensor
        Where.
    n_neumann : int, default=100
        Terms of each client's series beyond the first.
    eta : "auto" or float, default="auto"
        Scale of the Hessians; "auto" is half of the inverse curvature of their mean.
    weights : sequence of float of length n_clients, default=None
        Weights of the clients; equal if None.

    Returns
    -------
    pytree of tensor
        The mean, like x.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> from sklearn_attn.federated import local_hypergradient, quadratic_problem
    >>> data = make_federated_quadratic(heterogeneity=0.9, random_state=0)
    >>> problem, clients = quadratic_problem(data)
    >>> at = torch.from_numpy(data.x), torch.from_numpy(data.w)
    >>> bool(local_hypergradient(problem, clients, *at).norm() > 0.1)  # it is zero
    True
    """
    server, u = _at(problem, clients, x, w, weights)
    if eta == "auto":
        eta = SHARE_OF_CURVATURE / curvature(server, u, server.layout.blocks[1])
    mean, *_ = server.must_ask(
        "local_hypergradient", 0, at=u, n_neumann=n_neumann, eta=float(eta)
    )
    return server.layout.unpack(mean)[0]


def client_heterogeneity(
    problem,
    clients,
    x,
    zs=(),
    *,
    weights=None,
    device="cpu",
    dtype=torch.float64,
):
    """Return how much the clients' inner maps bend otherwise than their mean.

    It is the largest norm, over clients m, of (S_m' - mean S') t for the unit vector t,
    within the first sequence, for which they spread most: 0 for clients that are alike
    up to constants, and what limits the use of local steps.

    Parameters
    ----------
    problem : FederatedProblem or one of its kinds
        The problem.
    clients : list of pytree of tensor
        The data of each client.
    x : pytree of tensor
        The outer variable.
    zs : tuple of pytree of tensor, default=()
        The sequences; without any, it is the map of x that is looked at.
    weights : sequence of float of length n_clients, default=None
        Weights of the clients; equal if None.
    device : str, default="cpu"
        Where to compute.
    dtype : torch.dtype, default=torch.float64
        In what to compute.

    Returns
    -------
    float
        The heterogeneity, found by power iteration, from below.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> from sklearn_attn.federated import client_heterogeneity, quadratic_problem
    >>> for size in (0.0, 0.5):
    ...     data = make_federated_quadratic(heterogeneity=size, random_state=0)
    ...     problem, clients = quadratic_problem(data)
    ...     tau = client_heterogeneity(problem, clients, problem.x0, problem.zs0)
    ...     print(f"{tau:.1f}")
    0.0
    0.4
    """
    block = ClientBlock(problem, clients, weights=weights, device=device, dtype=dtype)
    server = _server(block)
    u = block.layout.pack(x, zs).to(block.device, block.dtype)
    blocks = block.layout.blocks
    return heterogeneity(server, u, blocks[1] if len(blocks) > 1 else blocks[0])


def adjoint(server, u, *, kind, n_terms, eta):
    """Return u with v = H^{-1} grad_w f in it, by a Neumann series or by "cg"."""
    v = server.layout.blocks[-1]
    u = u.clone()
    u[v] = 0.0
    if kind == "neumann":
        for _ in range(n_terms + 1):
            u[v] -= eta * server.field(u)[v]
        return u
    # S_v = H v - grad_w f is linear in v.
    residual = -server.field(u)[v]
    small = CG_TOLERANCE * residual.norm()
    p, rr = residual.clone(), residual @ residual
    for _ in range(10 * len(p) if n_terms is None else n_terms):
        if not rr.sqrt() > small:
            break
        ahead = torch.zeros_like(u)
        ahead[v] = p
        mean, *_ = server.must_ask("jvp", 0, at=u, tangent=ahead, batch_size=0)
        Hp = mean[v]
        step = rr / (p @ Hp)
        u[v] += step * p
        residual = residual - step * Hp
        rr, before = residual @ residual, rr
        p = residual + rr / before * p
    return u


def _at(problem, clients, x, w, weights):
    block = ClientBlock(problem, clients, weights=weights)
    _, v = problem.zs0
    return _server(block), block.layout.pack(x, (w, v)).to(block.dtype)


def _server(block):
    return Server(
        VmapEngine(block),
        block.layout,
        seed=0,
        batch_size=0,
        device=block.device,
        dtype=block.dtype,
    )
