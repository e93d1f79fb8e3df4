"""x' = sum_i a_i(t) sigma(w_i(t)'x + b_i(t)) g_i(x): neural ODEs on a manifold.

The weights are constant on each of M layers of time (2305.08849, equation 7). With the
unit vectors as fields it is the classical neural ODE x' = A sigma(W x + b), equation 6.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ._integrators import INTEGRATORS, ORDERS_WITH_CAYLEY
from ._vector_fields import as_coordinates, as_matrices

# A time this near to a step's end, in steps, is meant to be its end.
_ON_THE_GRID = 1e-9
# Rounds of the fixed-point iteration that inverts a step.
_MAX_INVERSE_ITER = 200


def _tanh_in_place(H):
    # several times faster than torch.tanh on a CPU; exact to the rounding of 1
    return torch.sigmoid_(H.mul_(2)).mul_(2).sub_(1)


class Activation(NamedTuple):
    """A function, the same overwriting its argument, and its slope from its value."""

    value: Callable
    in_place: Callable
    slope: Callable


_aten = torch.ops.aten
ACTIVATIONS = {
    "sigmoid": Activation(torch.sigmoid, torch.sigmoid_, _aten.sigmoid_backward),
    "tanh": Activation(torch.tanh, _tanh_in_place, _aten.tanh_backward),
    "relu": Activation(
        torch.relu, torch.relu_, lambda g, s: _aten.threshold_backward(g, s, 0)
    ),
}


class Flow(nn.Module):
    """Neural ODE on a manifold, as a module of torch.

    Its velocity is a combination of vector fields g_i, whose coefficients are the
    outputs of a small network, with weights that are constant on each layer of time::

        x' = sum_i f_i(t, x) g_i(x),   f = a sigma(W x + b)

    Every step is an exponential that acts on x, so that the flow never leaves the
    manifold, whatever the weights are [1]_.

    Parameters
    ----------
    manifold : manifold
        Where the flow lives.
    generators : {"all", "chain"} or array of shape (m, d, d) or \
            (m, group.n_generators), default="all"
        The vector fields: matrices B_i of the fields B_i x, or their coordinates in the
        Lie algebra. "all" spans the algebra, by rotations of all pairs of axes; "chain"
        takes neighbouring axes only, and reaches the others by brackets.
    n_layers : int, default=8
        Number of layers of time.
    width : int, default=8
        Number of neurons.
    neurons : {"shared", "own"}, default="shared"
        Whether all fields share `width` neurons, or each has `width` of its own. The
        paper's flow has a single one for each field.
    activation : {"sigmoid", "tanh", "relu"}, default="sigmoid"
        The function sigma.
    integrator : {"lie_euler", "lie_midpoint", "rkmk4", "cf4"}, default="lie_euler"
        Of order 1, 2, 4 and 4.
    retraction : {"exp", "cayley"}, default="exp"
        How velocities move points: by the exponential or, with integrators of order 1
        and 2, the Cayley transform, which needs no sines.
    n_steps : int, default=1
        Number of steps in a layer.
    t_span : tuple of two floats, default=(0.0, 1.0)
        When the first layer begins, and when the last one ends. Weights mean velocities
        in units of this span, so that the unit of time does not matter to them.
    renormalize : bool, default=True
        Whether each step ends with a correction of rounding errors, which single
        precision needs over thousands of steps. It costs some percent of the time, is
        for points on the manifold only, and counts as absent in slopes.
    dtype : torch.dtype, default=torch.float64
        Of the weights.

    Attributes
    ----------
    W : torch.nn.Parameter of shape (n_layers, n_neurons, n_features)
        What neurons look at.
    b : torch.nn.Parameter of shape (n_layers, n_neurons)
        Their thresholds.
    a : torch.nn.Parameter of shape (n_layers, m, width)
        How neurons drive the fields.

    References
    ----------
    .. [1] Elamvazhuthi, Zhang, Oymak and Pasqualetti, "Learning on Manifolds: Universal
           Approximation Properties using Geometric Controllability Conditions for
           Neural ODEs", L4DC 2023, arXiv:2305.08849, equations 6 and 7.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.dynamics import Flow, Sphere
    >>> sphere = Sphere(2)
    >>> flow = Flow(sphere, n_layers=1000)
    >>> x = torch.from_numpy(sphere.random_points(5, random_state=0))
    >>> bool(sphere.violation(flow(x)).max() < 1e-13)
    True
    """

    def __init__(
        self,
        manifold,
        generators="all",
        *,
        n_layers=8,
        width=8,
        neurons="shared",
        activation="sigmoid",
        integrator="lie_euler",
        retraction="exp",
        n_steps=1,
        t_span=(0.0, 1.0),
        renormalize=True,
        dtype=torch.float64,
    ):
        super().__init__()
        if retraction == "cayley" and integrator not in ORDERS_WITH_CAYLEY:
            raise ValueError(
                f"retraction='cayley' would reduce integrator={integrator!r} to order "
                f"2. Take one of {', '.join(ORDERS_WITH_CAYLEY)}, or retraction='exp'."
            )
        self.manifold = manifold
        self.activation, self.integrator = activation, integrator
        self.retraction, self.neurons = retraction, neurons
        self.n_steps, self.t_span, self.renormalize = n_steps, t_span, renormalize
        G = as_coordinates(manifold, generators).to(dtype)
        self.register_buffer("_G", G)
        m, d = len(G), manifold.n_features
        n_neurons = width if neurons == "shared" else m * width
        self.W = nn.Parameter(torch.empty(n_layers, n_neurons, d, dtype=dtype))
        self.b = nn.Parameter(torch.empty(n_layers, n_neurons, dtype=dtype))
        self.a = nn.Parameter(torch.empty(n_layers, m, width, dtype=dtype))
        self.reset_parameters(torch.Generator().manual_seed(0))

    @property
    def generators(self):
        """The vector fields: matrices, or coordinates where there are none."""
        return as_matrices(self.manifold, self._G)

    @property
    def n_parameters(self):
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())

    def reset_parameters(self, generator):
        """Draw weights anew.

        Parameters
        ----------
        generator : torch.Generator
            A generator of the CPU: a seed draws the same weights for all devices.
        """
        d = self.W.shape[2]
        spread = {"W": 1 / math.sqrt(d), "b": 0.5, "a": 1 / math.sqrt(self.a.shape[2])}
        with torch.no_grad():
            for name, scale in spread.items():
                weight = getattr(self, name)
                drawn = torch.randn(
                    weight.shape, generator=generator, dtype=torch.float64
                )
                weight.copy_(scale * drawn)

    def forward(self, x):
        """Return the flow's map from the first time to the last.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_features)
            Points.

        Returns
        -------
        torch.Tensor of shape (n, n_features)
            Where they arrive.
        """
        W, b, C = self._weights()
        x = x.T.contiguous()
        if (self.integrator, self.retraction) == ("lie_euler", "exp"):
            return _euler_path(x, W, b, C, self).T
        for layer in range(len(W)):
            for _ in range(self.n_steps):
                x = self._step(self._velocity(W, b, C, layer), x, self._h)
        return x.T

    def time_one_map(self, x):
        """Return the flow's map from the first time to the last, as `forward` does.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_features)
            Points.

        Returns
        -------
        torch.Tensor of shape (n, n_features)
            Where they arrive.
        """
        return self(x)

    def vector_field(self, t, x):
        """Return the velocity of points.

        Parameters
        ----------
        t : float
            Time.
        x : torch.Tensor of shape (n, n_features)
            Points.

        Returns
        -------
        torch.Tensor of shape (n, n_features)
            Tangent vectors.
        """
        layer = self._layer(math.floor(self._in_steps(t) + _ON_THE_GRID))
        x = x.T
        xi = self._velocity(*self._weights(), layer)
        first, last = self.t_span
        return self.manifold.group.velocity(xi(x), x).T / (last - first)

    def trajectory(self, x, times, start=None):
        """Return where points are at some times.

        Between the steps of the grid is a step of its own, so that the times that are
        asked for do not change the path. Before the first layer and after the last one
        their weights stay.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_features)
            Points.
        times : torch.Tensor of shape (n_times,) or (n, n_times)
            Times, the same for all points or not, none of them before the start. In
            double precision, whatever that of the points is.
        start : torch.Tensor of shape (n,), default=None
            When each point is at x. None is the first time of the flow.

        Returns
        -------
        torch.Tensor of shape (n, n_times, n_features)
            The points at these times.
        """
        n, h = len(x), self._h
        times = self._in_steps(times.cpu()).expand(n, -1)
        start = times.new_zeros(n) if start is None else self._in_steps(start.cpu())
        begin = (start + _ON_THE_GRID).floor()
        step = torch.ceil(times - _ON_THE_GRID) - 1
        step = torch.maximum(step, begin[:, None])
        offset = (times - torch.maximum(step, start[:, None])).clamp_min(0)
        row = torch.arange(n).repeat_interleave(times.shape[1])
        step, offset = step.flatten(), offset.flatten().to(x)
        weights = self._weights()
        x, pieces, order = x.T.contiguous(), [], []
        last = int(step.max())
        for g in range(int(begin.min()), last + 1):
            xi = self._velocity(*weights, self._layer(g))
            here = torch.nonzero(step == g).flatten()
            if len(here):
                pieces.append(self._step(xi, x[:, row[here]], h * offset[here]))
                order.append(here)
            if g < last:
                left = (g + 1 - start).clamp(0, 1).to(x)
                x = self._step(xi, x, h * left)
        back = torch.argsort(torch.cat(order)).to(x.device)
        found = torch.cat(pieces, 1)[:, back]
        return found.T.reshape(n, times.shape[1], -1)

    @torch.no_grad()
    def inverse(self, y):
        """Return the points that the flow's map takes to y.

        Each step is inverted by a fixed-point iteration, which converges if the
        velocity changes little in a step.

        Parameters
        ----------
        y : torch.Tensor of shape (n, n_features)
            Points at the last time.

        Returns
        -------
        x : torch.Tensor of shape (n, n_features)
            Points at the first time.
        error : float
            Largest difference of coordinates between y and the image of x, step by
            step.
        """
        weights, error = self._weights(), 0.0
        tol = 4 * torch.finfo(y.dtype).eps
        y = y.T.contiguous()
        for layer in reversed(range(len(self.W))):
            xi = self._velocity(*weights, layer)
            for _ in range(self.n_steps):
                y, missed = self._undo(xi, y, tol)
                error = max(error, missed)
        return y.T, error

    @property
    def _h(self):
        """Length of a step, in units of the span."""
        return 1 / (len(self.W) * self.n_steps)

    def _in_steps(self, t):
        """Return times as numbers of steps since the first layer began."""
        first, last = self.t_span
        return (t - first) / (last - first) * len(self.W) * self.n_steps

    def _layer(self, step):
        return max(0, min(step // self.n_steps, len(self.W) - 1))

    def _weights(self):
        """Return W, b as columns, and C from neurons to the Lie algebra."""
        a = self.a
        if self.neurons == "own":
            m = a.shape[1]
            one = torch.eye(m, dtype=a.dtype, device=a.device)
            a = (a[:, :, None] * one[:, :, None]).flatten(2)  # (M, m, m width)
        return self.W, self.b[..., None], self._G.T @ a

    def _velocity(self, W, b, C, layer):
        sigma = ACTIVATIONS[self.activation].value
        W, b, C = W[layer], b[layer], C[layer]
        return lambda x: C @ sigma(torch.addmm(b, W, x))

    def _move(self, v, x):
        group = self.manifold.group
        if self.retraction == "cayley":
            return group.cayley(v, x)
        if torch.is_grad_enabled() and (v.requires_grad or x.requires_grad):
            return _Exponential.apply(v, x, group)
        return group.exp(v, x)

    def _step(self, xi, x, h):
        for v in self._increments(xi, x, h):
            x = self._move(v, x)
        return _renormalized(self.manifold.group, x) if self.renormalize else x

    def _increments(self, xi, x, h):
        advance = INTEGRATORS[self.integrator]
        return advance(xi, self._move, self.manifold.group.bracket, x, h)

    def _undo(self, xi, y, tol):
        x = y
        for _ in range(_MAX_INVERSE_ITER):
            before, x = x, y
            for v in reversed(self._increments(xi, before, self._h)):
                x = self._move(-v, x)
            if (x - before).abs().max() <= tol:
                break
        return x, float((self._step(xi, x, self._h) - y).abs().max())


class _Exponential(torch.autograd.Function):
    """exp(v) x with the adjoint in closed form, which has no singular angle."""

    @staticmethod
    def forward(ctx, v, x, group):
        y = group.exp(v, x)
        ctx.save_for_backward(v, x, y)
        ctx.group = group
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return *ctx.group.exp_adjoint(*ctx.saved_tensors, g), None


class _EulerPath(torch.autograd.Function):
    """All Lie-Euler steps at once, and their discrete adjoint.

    Forward, with h in C:   s = sigma(W x + b),  v = C s,  x+ = exp(v) x.
    Backward, with g = dL/dx+:
        (dv, dx) = adjoint of exp,   ds = C'dv,   dC += dv s',
        dz = ds sigma',   dW += dz x',   db += dz 1,   g = dx + W'dz.
    """

    @staticmethod
    def forward(ctx, x, W, b, C, flow):
        ctx.path = []
        end = _advance(x, W, b, C, flow, ctx.path.append)
        ctx.save_for_backward(W, b, C)
        ctx.flow = flow
        ctx.end = end.detach()
        return end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        W, b, C = ctx.saved_tensors
        slope = ACTIVATIONS[ctx.flow.activation].slope
        exp_adjoint = ctx.flow.manifold.group.exp_adjoint
        dW, db, dC = torch.zeros_like(W), torch.zeros_like(b), torch.zeros_like(C)
        y = ctx.end
        for layer, x, s, v in reversed(ctx.path):
            # a correction of rounding has no slope along the manifold
            dv, dx = exp_adjoint(v, x, y, g)
            dC[layer].addmm_(dv, s.T)
            dz = slope(C[layer].T @ dv, s)
            dW[layer].addmm_(dz, x.T)
            db[layer] += dz.sum(1, keepdim=True)
            g = torch.addmm(dx, W[layer].T, dz)
            y = x
        return g, dW, db, dC, None


def _euler_path(x, W, b, C, flow):
    C = C * flow._h
    needs_slope = any(z.requires_grad for z in (x, W, C))
    if torch.is_grad_enabled() and needs_slope:
        return _EulerPath.apply(x, W, b, C, flow)
    return _advance(x, W, b, C, flow, lambda step: None)


def _advance(x, W, b, C, flow, keep):
    sigma = ACTIVATIONS[flow.activation].in_place
    group = flow.manifold.group
    for layer in range(len(W)):
        for _ in range(flow.n_steps):
            s = sigma(torch.addmm(b[layer], W[layer], x))
            v = C[layer] @ s
            keep((layer, x, s, v))
            x = group.exp(v, x)
            if flow.renormalize:
                x = group.renormalize(x)
    return x


def _renormalized(group, x):
    """Correct rounding errors; for slopes, it is not there."""
    return x + (group.renormalize(x) - x).detach()
