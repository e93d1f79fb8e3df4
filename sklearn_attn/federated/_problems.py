"""mean_m P^m(x, z) = 0,  mean_m S^{m,n}(z^{n-1}, z^n) = 0 for n = 1..N  (2306.01648).

x is the outer variable, z^1..z^N follow it, and the maps of a client m read its data
alone. Most problems are saddle points of one function L, of which (P, S) is the
gradient, up to signs and order:

    minimisation   L = f(x)                              P = L_x
    minimax        L = f(x, y)                           P = L_x, S = -L_y
    bilevel        L = f(x, w) - D_w g(x, w)[v]          P = L_x, S_w = -L_v, S_v = -L_w
    compositional  L = f^N(z^N) + sum_n <u^n, f^{n-1}(z^{n-1}) - z^n>
                                                         P = L_x, S_z = -L_u, S_u = -L_z

Each L is linear in the data of the clients, so its mean over clients has the right
gradient: no client ever inverts a matrix of its own, or multiplies its own Jacobians.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.func import grad, jvp, vjp
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class FederatedProblem:
    """Coupled equations in general: zeros of a mean of the clients' maps.

    Parameters
    ----------
    field : callable
        ``field(data, x, zs)`` returns ``(P, (S_1, ..., S_N))`` of one client, P like x
        and S_n like ``zs[n - 1]``. It is mapped over clients by `torch.func`.
    x0 : pytree of tensor
        Where x starts.
    zs0 : tuple of pytree of tensor, default=()
        Where the z^n start.
    project : callable, default=None
        ``project(x)`` returns the feasible point next to x.
    pad_rows : bool, default=False
        Whether rows of zeros at the end of all tensors of a client change nothing, as
        where one of them holds weights. Clients with unlike numbers of rows can then
        be worked on together.

    See Also
    --------
    BilevelProblem, CompositionalProblem, MinimaxProblem : Kinds with a function.
    fedmsa : The solver of all of them.

    References
    ----------
    Tarzanagh, Li, Sharma and Oymak, "Federated Multi-Sequence Stochastic Approximation
    with Local Hypergradient Estimation", arXiv:2306.01648.

    Examples
    --------
    Clients draw x to their centres, and z follows x:

    >>> import torch
    >>> from sklearn_attn.federated import FederatedProblem, fedmsa
    >>> problem = FederatedProblem(
    ...     lambda centre, x, zs: (x - centre, (zs[0] - x,)),
    ...     torch.zeros(1, dtype=torch.float64),
    ...     (torch.zeros(1, dtype=torch.float64),),
    ... )
    >>> clients = [torch.tensor([c], dtype=torch.float64) for c in (0.0, 2.0)]
    >>> x, (z,) = fedmsa(problem, clients, alpha=0.1, beta=0.5).value
    >>> x.round(decimals=4), z.round(decimals=4)
    (tensor([1.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """

    field: Callable
    x0: Any
    zs0: tuple = ()
    project: Callable | None = None
    pad_rows: bool = False


@dataclass(frozen=True)
class MinimizationProblem:
    """Find the x that minimises the mean of the clients' losses.

    With ``variance_reduction=None``, :func:`fedmsa` is then FedAvg; with "spider",
    local steps do not drift.

    Parameters
    ----------
    loss : callable
        ``loss(data, x)`` returns the loss of one client, a scalar tensor.
    x0 : pytree of tensor
        Where x starts.
    project : callable, default=None
        ``project(x)`` returns the feasible point next to x.
    pad_rows : bool, default=False
        Whether rows of zeros at the end of all tensors of a client change nothing.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.federated import MinimizationProblem, fedmsa
    >>> problem = MinimizationProblem(
    ...     lambda centre, x: ((x - centre) ** 2).sum() / 2,
    ...     torch.zeros(1, dtype=torch.float64),
    ... )
    >>> clients = [torch.tensor([c], dtype=torch.float64) for c in (0.0, 2.0)]
    >>> x, _ = fedmsa(problem, clients, alpha=0.1).value
    >>> round(x.item(), 4)
    1.0
    """

    loss: Callable
    x0: Any
    project: Callable | None = None
    pad_rows: bool = False
    zs0: tuple = field(default=(), init=False)

    def lagrangian(self, data, x, zs):
        """Return the loss, twice: as L, and as the value.

        Parameters
        ----------
        data : pytree of tensor
            One client's.
        x : pytree of tensor
            The variable.
        zs : tuple
            Empty.

        Returns
        -------
        tuple of tensor
            L and the value.
        """
        value = self.loss(data, x)
        return value, value

    def from_gradient(self, L_x, L_zs):
        """Return (P, S) of the gradient of L.

        Parameters
        ----------
        L_x : pytree of tensor
            Gradient by x.
        L_zs : tuple
            Empty.

        Returns
        -------
        tuple
            The gradient.
        """
        return L_x, ()


@dataclass(frozen=True)
class MinimaxProblem:
    """Find min_x max_y of the mean of f^m(x, y), concave in y.

    Parameters
    ----------
    f : callable
        ``f(data, x, y)`` returns the payoff of one client, a scalar tensor.
    x0, y0 : pytree of tensor
        Where both start.
    project : callable, default=None
        ``project(x)`` returns the feasible point next to x.
    pad_rows : bool, default=False
        Whether rows of zeros at the end of all tensors of a client change nothing.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.federated import MinimaxProblem, fedmsa
    >>> def payoff(b, x, y):
    ...     return (x * y - y * y / 2 - b * y + x * x / 2).sum()
    >>> start = torch.zeros(1, dtype=torch.float64)
    >>> clients = [torch.tensor([b], dtype=torch.float64) for b in (0.0, 2.0)]
    >>> x, (y,) = fedmsa(
    ...     MinimaxProblem(payoff, start, start), clients, alpha=0.1, beta=0.5
    ... ).value
    >>> round(x.item(), 4), round(y.item(), 4)  # x = b / 2, y = x - b
    (0.5, -0.5)
    """

    f: Callable
    x0: Any
    y0: Any
    project: Callable | None = None
    pad_rows: bool = False

    @property
    def zs0(self):
        """Where y starts, as a tuple of one."""
        return (self.y0,)

    def lagrangian(self, data, x, zs):
        """Return the payoff, twice: as L, and as the value.

        Parameters
        ----------
        data : pytree of tensor
            One client's.
        x : pytree of tensor
            Who minimises.
        zs : tuple of one pytree of tensor
            Who maximises.

        Returns
        -------
        tuple of tensor
            L and the value.
        """
        value = self.f(data, x, zs[0])
        return value, value

    def from_gradient(self, L_x, L_zs):
        """Return (P, S) of the gradient of L.

        Parameters
        ----------
        L_x : pytree of tensor
            Gradient by x.
        L_zs : tuple of one pytree of tensor
            Gradient by y.

        Returns
        -------
        tuple
            Where x and y go, with the sign of descent.
        """
        return L_x, (_minus(L_zs[0]),)


@dataclass(frozen=True)
class BilevelProblem:
    """Find min_x f(x, w*(x)) with w*(x) = argmin_w g(x, w), both means over clients.

    A third sequence v follows [mean_m Hess_w g^m]^{-1} mean_m grad_w f^m, so that the
    hypergradient grad_x f - grad_x <grad_w g, v> is a mean of the clients' own maps.

    Parameters
    ----------
    inner : callable
        ``inner(data, x, w)`` returns g of one client, a scalar tensor, strongly convex
        in w on average.
    outer : callable
        ``outer(data, x, w)`` returns f of one client, a scalar tensor.
    x0, w0 : pytree of tensor
        Where both start.
    project : callable, default=None
        ``project(x)`` returns the feasible point next to x.
    adjoint_radius : float, default=None
        Largest norm of v. None is no limit.
    pad_rows : bool, default=False
        Whether rows of zeros at the end of all tensors of a client change nothing, as
        where one of them holds weights.

    See Also
    --------
    fedmsa : The solver.
    exact_hypergradient : The gradient of f(x, w*(x)), for comparison.

    References
    ----------
    Tarzanagh, Li, Sharma and Oymak, arXiv:2306.01648, for the coupled equations.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.federated import BilevelProblem, fedmsa
    >>> problem = BilevelProblem(
    ...     lambda b, x, w: ((w - x - b) ** 2).sum() / 2,  # w* = x + b
    ...     lambda b, x, w: (w**2 + x**2).sum() / 2,
    ...     torch.zeros(1, dtype=torch.float64),
    ...     torch.zeros(1, dtype=torch.float64),
    ... )
    >>> clients = [torch.tensor([b], dtype=torch.float64) for b in (0.0, 2.0)]
    >>> x, (w, v) = fedmsa(problem, clients, alpha=0.1, beta=0.5).value
    >>> round(x.item(), 4), round(w.item(), 4)  # x = -b / 2 for the mean b
    (-0.5, 0.5)
    """

    inner: Callable
    outer: Callable
    x0: Any
    w0: Any
    project: Callable | None = None
    adjoint_radius: float | None = None
    pad_rows: bool = False

    @property
    def zs0(self):
        """Where w and v start; v at zero."""
        return self.w0, tree_map(torch.zeros_like, self.w0)

    def lagrangian(self, data, x, zs):
        """Return L = f - D_w g[v], and the value f.

        Parameters
        ----------
        data : pytree of tensor
            One client's.
        x : pytree of tensor
            The outer variable.
        zs : tuple of two pytrees of tensor
            The inner variable w, and v.

        Returns
        -------
        tuple of tensor
            L and the value.
        """
        w, v = zs
        _, slope = jvp(lambda w: self.inner(data, x, w), (w,), (v,))
        value = self.outer(data, x, w)
        return value - slope, value

    def from_gradient(self, L_x, L_zs):
        """Return (P, S) of the gradient of L.

        Parameters
        ----------
        L_x : pytree of tensor
            Gradient by x.
        L_zs : tuple of two pytrees of tensor
            Gradients by w and v.

        Returns
        -------
        tuple
            P, and S of w and v, which are the other way round.
        """
        return L_x, (_minus(L_zs[1]), _minus(L_zs[0]))

    def project_zs(self, zs):
        """Return w, and v with a norm of at most `adjoint_radius`.

        Parameters
        ----------
        zs : tuple of two pytrees of tensor
            The inner variable w, and v.

        Returns
        -------
        tuple
            The same, projected.
        """
        if self.adjoint_radius is None:
            return zs
        w, v = zs
        norm = sum((leaf**2).sum() for leaf in tree_leaves(v)).sqrt()
        share = (self.adjoint_radius / norm).clamp(max=1.0)  # 1 where the norm is 0
        return w, tree_map(lambda leaf: leaf * share, v)


@dataclass(frozen=True)
class CompositionalProblem:
    """Find min_x f^N(f^{N-1}(... f^0(x))), each f^n a mean over clients.

    z^n follows f^{n-1}(z^{n-1}). The gradient is a product of mean Jacobians, which a
    client cannot know. With `adjoint`, sequences u^n follow the products from behind,
    and all is a mean of the clients' own maps; without, clients multiply their own
    Jacobians, as in the paper, which is biased where clients differ.

    Parameters
    ----------
    functions : sequence of callable
        Functions f^0 to f^N: ``f(data, z)`` returns a tensor, the last one a scalar.
    x0 : pytree of tensor
        Where x starts.
    z0 : tuple of tensor, default=None
        Where z^1 to z^N start: tensors like what f^0 to f^{N-1} return. None takes
        what they return for the data of the first client.
    adjoint : bool, default=True
        Whether to follow the products of mean Jacobians.
    project : callable, default=None
        ``project(x)`` returns the feasible point next to x.
    pad_rows : bool, default=False
        Whether rows of zeros at the end of all tensors of a client change nothing.

    Examples
    --------
    The square of a mean is minimal where the mean is zero:

    >>> import torch
    >>> from sklearn_attn.federated import CompositionalProblem, fedmsa
    >>> start = torch.zeros(1, dtype=torch.float64)
    >>> problem = CompositionalProblem(
    ...     [lambda b, x: x - b, lambda b, z: (z**2).sum() / 2], start
    ... )
    >>> clients = [torch.tensor([b], dtype=torch.float64) for b in (0.0, 2.0)]
    >>> x, (z, u) = fedmsa(problem, clients, alpha=0.1, beta=0.5).value
    >>> round(x.item(), 4)
    1.0
    """

    functions: tuple
    x0: Any
    z0: tuple | None = None
    adjoint: bool = True
    project: Callable | None = None
    pad_rows: bool = False

    @property
    def zs0(self):
        """Where z^1 to z^N start, and with `adjoint` u^1 to u^N, at zero."""
        if not self.adjoint:
            return tuple(self.z0)
        return *self.z0, *(torch.zeros_like(z) for z in self.z0)

    def begin(self, data):
        """Return the problem with a start for the z^n, if it has none.

        Parameters
        ----------
        data : pytree of tensor
            A client's, whose values of f^0 to f^{N-1} are taken.

        Returns
        -------
        CompositionalProblem
            The problem with z0.
        """
        if self.z0 is not None:
            return self
        z, values = self.x0, []
        for f in self.functions[:-1]:
            z = f(data, z)
            values.append(z.detach())
        return replace(self, z0=tuple(values))

    @property
    def lagrangian(self):
        """L, and the value f^N(z^N); None without `adjoint`."""
        return self._lagrangian if self.adjoint else None

    @property
    def field(self):
        """Products of a client's own Jacobians; None with `adjoint`."""
        return None if self.adjoint else self._products

    def _lagrangian(self, data, x, zs):
        n = len(zs) // 2
        z, u = (x, *zs[:n]), zs[n:]
        value = self.functions[-1](data, z[-1])
        gaps = (f(data, z[i]) - z[i + 1] for i, f in enumerate(self.functions[:-1]))
        return value + sum((u[i] * gap).sum() for i, gap in enumerate(gaps)), value

    def from_gradient(self, L_x, L_zs):
        """Return (P, S) of the gradient of L.

        Parameters
        ----------
        L_x : pytree of tensor
            Gradient by x.
        L_zs : tuple of tensor
            Gradients by the z^n, then the u^n.

        Returns
        -------
        tuple
            P, and S of the z^n and the u^n, which are the other way round.
        """
        n = len(L_zs) // 2
        return L_x, tuple(-part for part in (*L_zs[n:], *L_zs[:n]))

    def _products(self, data, x, zs):
        z = (x, *zs)
        backwards = grad(lambda z: self.functions[-1](data, z))(z[-1])
        gaps = []
        for i in reversed(range(len(zs))):
            after, pull = vjp(lambda z, i=i: self.functions[i](data, z), z[i])
            (backwards,) = pull(backwards)
            gaps.append(z[i + 1] - after)
        return backwards, tuple(reversed(gaps))


@dataclass(frozen=True)
class ActorCriticProblem:
    """Find the softmax policy of the largest mean reward; the critic follows it.

    z = w are coefficients of the value of states, x = theta logits of the actions:
    S = E[phi(s) (phi(s)' w - r - gamma phi(s')' w)] vanishes where w is the value, and
    P = -E[(r + gamma phi(s')' w - phi(s)' w) grad log pi_theta(a | s)] is then minus
    the gradient of J = (1 - gamma) rho_0' V. States are drawn from the law of the
    process that starts again with probability 1 - gamma. Clients share the
    transitions, and have rewards of their own.

    Parameters
    ----------
    transitions : tensor of shape (n_states, n_actions, n_states)
        Probability of the next state.
    gamma : float, default=0.9
        Discount, below 1.
    initial : tensor of shape (n_states,), default=None
        Law of the first state, rho_0; uniform if None.
    features : tensor of shape (n_states, n_components), default=None
        Rows phi(s). None is one coefficient for each state, with which the gradient
        is exact.
    theta0 : tensor of shape (n_states, n_actions), default=None
        Where the logits start; at zero if None.

    Notes
    -----
    The data of a client are its rewards, a tensor of shape (n_states, n_actions).
    Expectations are exact, unless :func:`fedmsa` is given a `batch_size`: then as many
    transitions are drawn in each step, from the same numbers at both points that are
    compared.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.federated import ActorCriticProblem, fedmsa
    >>> stay_or_go = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> problem = ActorCriticProblem(stay_or_go.double())
    >>> clients = [torch.tensor([[0.0, 0.0], [r, 0.0]]).double() for r in (0.5, 1.5)]
    >>> theta, _ = fedmsa(problem, clients, alpha=2.0, beta=1.0, n_rounds=50).value
    >>> theta.softmax(1).argmax(1).tolist()  # go to the second state, and stay there
    [1, 0]
    """

    transitions: torch.Tensor
    gamma: float = 0.9
    initial: torch.Tensor | None = None
    features: torch.Tensor | None = None
    theta0: torch.Tensor | None = None
    n_uniforms: int = field(default=3, init=False, repr=False)  # state, action, next
    project: None = field(default=None, init=False, repr=False)
    pad_rows: bool = field(default=False, init=False, repr=False)

    @property
    def x0(self):
        """Where the logits start."""
        if self.theta0 is not None:
            return self.theta0
        return self.transitions.new_zeros(self.transitions.shape[:2])

    @property
    def zs0(self):
        """Where the critic starts: at zero."""
        n_states = len(self.transitions)
        width = n_states if self.features is None else self.features.shape[1]
        return (self.transitions.new_zeros(width),)

    def draw(self, reward, uniforms):
        """Return rewards, and the numbers that transitions are drawn from.

        Parameters
        ----------
        reward : tensor of shape (n_states, n_actions)
            A client's.
        uniforms : tensor of shape (n_draws, 3)
            Numbers in [0, 1).

        Returns
        -------
        tuple of tensor
            Both.
        """
        return reward, uniforms

    def field(self, data, x, zs):
        """Return the maps of a client.

        Parameters
        ----------
        data : tensor of shape (n_states, n_actions), or tuple
            Rewards; with the numbers that transitions are drawn from, or without.
        x : tensor of shape (n_states, n_actions)
            Logits of the actions.
        zs : tuple of one tensor of shape (n_components,)
            The critic.

        Returns
        -------
        tuple
            ``(P, (S,))``.
        """
        reward, uniforms = data if isinstance(data, tuple) else (data, None)
        T, gamma = self.transitions.to(x), self.gamma
        phi = torch.eye(len(T)).to(x) if self.features is None else self.features.to(x)
        (w,) = zs
        pi = x.softmax(-1)  # (s, a)
        visits = self.visits(x)
        V = phi @ w
        if uniforms is None:
            gap = reward + gamma * T @ V - V[:, None]
            weighted = visits[:, None] * pi * gap  # (s, a)
        else:
            states = torch.arange(len(T), device=x.device)
            actions = torch.arange(T.shape[1], device=x.device)
            s = _one_hot(visits, uniforms[:, 0], states)  # (draw, s)
            a = _one_hot(s @ pi, uniforms[:, 1], actions)
            law = torch.einsum("bs,ba,sat->bt", s, a, T)
            after = _one_hot(law, uniforms[:, 2], states)
            reward = torch.einsum("bs,ba,sa->b", s, a, reward)
            gap = reward + (gamma * after - s) @ V
            weighted = torch.einsum("bs,ba,b->sa", s, a, gap) / len(s)
        S = -phi.T @ weighted.sum(1)
        P = -(weighted - pi * weighted.sum(1, keepdim=True))  # grad log pi
        return P, (S,)

    def visits(self, theta):
        """Return how often a policy is in each state.

        Parameters
        ----------
        theta : tensor of shape (n_states, n_actions)
            Logits of the actions.

        Returns
        -------
        tensor of shape (n_states,)
            (1 - gamma) sum_t gamma^t P(s_t = s).
        """
        T = self.transitions.to(theta)
        n = len(T)
        rho = theta.new_full((n,), 1 / n) if self.initial is None else self.initial
        step = torch.einsum("sa,sat->st", theta.softmax(-1), T)
        flow = (
            torch.eye(n, dtype=theta.dtype, device=theta.device) - self.gamma * step.T
        )
        return torch.linalg.solve(flow, (1 - self.gamma) * rho.to(theta))

    def value(self, reward, theta):
        """Return J = (1 - gamma) rho_0' V of a policy, the mean reward of its visits.

        Parameters
        ----------
        reward : tensor of shape (n_states, n_actions)
            Rewards, such as the mean of the clients'.
        theta : tensor of shape (n_states, n_actions)
            Logits of the actions.

        Returns
        -------
        tensor
            The value, a scalar.
        """
        return self.visits(theta) @ (theta.softmax(-1) * reward).sum(-1)


def _one_hot(law, uniform, labels):
    """Draw one label from each row of probabilities, as an indicator."""
    # the last label takes what rounding leaves of the sum
    chosen = (uniform[:, None] > law.cumsum(-1)[..., :-1]).sum(-1)
    return (chosen[:, None] == labels).to(law.dtype)


def _minus(tree):
    return tree_map(torch.neg, tree)
