"""min 1/P sum_j d(X(x_j), y_j)^2 + alpha dt/2 sum |weights|^2  (2305.08849, section 5).

X is the flow's map and dt = 1/M the share of a layer in time. Distances are those of
the surrounding space (chordal, the paper's), or geodesic.
"""

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .._arrays import to_tensor
from .._lbfgs import lbfgs
from .._solution import Solution

# The paper's schedule of gradient descent: the rate falls at these epochs.
SGD_MILESTONES, SGD_DECAY, SGD_MOMENTUM = (500, 1000, 2000, 4000, 6000), 0.8, 0.9
# Ridge of the affine map that the read-out starts from, relative to the features.
_START_RIDGE = 1e-3


class FlowModel(nn.Module):
    """A flow, and the affine map that reads the outputs from where it ends, if any."""

    def __init__(self, flow, n_outputs=None):
        super().__init__()
        self.flow = flow
        self.readout = None
        if n_outputs is not None:
            d, dtype = flow.manifold.n_features, flow.W.dtype
            # without the numbers that torch would draw from its global generator
            self.readout = nn.utils.skip_init(nn.Linear, d, n_outputs, dtype=dtype)

    def forward(self, x):
        return self.read(self.flow(x))

    def read(self, states):
        """Return the outputs for final states."""
        return states if self.readout is None else self.readout(states)

    @torch.no_grad()
    def start(self, problem, generator):
        """Draw the weights of the flow; read out by ridge regression from there."""
        self.flow.reset_parameters(generator)
        if self.readout is None:
            return
        z, y = self.flow(problem.x), problem.y
        z_mean, y_mean = z.mean(0), y.mean(0)
        z = z - z_mean
        gram = z.T @ z
        ridge = _START_RIDGE * gram.diagonal().mean().clamp_min(1e-12)
        gram += ridge * torch.eye(len(gram), dtype=z.dtype, device=z.device)
        coef = torch.linalg.solve(gram, z.T @ (y - y_mean)).T
        self.readout.weight.copy_(coef)
        self.readout.bias.copy_(y_mean - coef @ z_mean)

    def penalty(self):
        """dt/2 times the sum of squared weights; those of the read-out count whole."""
        squares = sum(p.square().sum() for p in self.flow.parameters())
        total = squares / (2 * len(self.flow.W))
        if self.readout is not None:
            total = total + self.readout.weight.square().sum() / 2
        return total


@dataclass(frozen=True)
class Endpoints:
    """Pairs of points: the flow's map takes x to y."""

    x: torch.Tensor
    y: torch.Tensor
    loss: str

    def __len__(self):
        return len(self.x)

    def take(self, rows):
        """Return some of the pairs."""
        return Endpoints(self.x[rows], self.y[rows], self.loss)

    def risk(self, model):
        """Mean squared distance."""
        return _squared_distances(self.loss, model, model(self.x), self.y).mean()


@dataclass(frozen=True)
class Trajectories:
    """Points at several times each; all but the first are to be met.

    Shorter ones are padded: `weight` is 0 there, and 1 elsewhere.
    """

    x: torch.Tensor  # (n, d), at `start`
    start: torch.Tensor  # (n,)
    times: torch.Tensor  # (n, n_times)
    y: torch.Tensor  # (n, n_times, d)
    weight: torch.Tensor  # (n, n_times)
    loss: str

    def __len__(self):
        return len(self.x)

    def take(self, rows):
        """Return some of the trajectories."""
        parts = (self.x, self.start, self.times, self.y, self.weight)
        return Trajectories(*(part[rows] for part in parts), self.loss)

    def risk(self, model):
        """Mean squared distance, over all points of all trajectories."""
        found = model.flow.trajectory(self.x, self.times, self.start)
        squared = _squared_distances(
            self.loss, model, found.flatten(0, 1), self.y.flatten(0, 1)
        )
        weight = self.weight.flatten()
        return (squared * weight).sum() / weight.sum()


def pad_trajectories(points, times, loss):
    """Return the problem of trajectories of different lengths, laid end to end."""
    lengths = [len(t) for t in times]
    n, longest = len(lengths), max(lengths) - 1
    paths = points.split(lengths)
    when = torch.empty(n, longest, dtype=torch.float64)
    weight = points.new_zeros(n, longest)
    y = points.new_zeros(n, longest, points.shape[1])
    for i, (path, t) in enumerate(zip(paths, times)):
        when[i] = float(t[-1])  # also where there is nothing to be met
        when[i, : len(t) - 1] = torch.from_numpy(t[1:])
        y[i, : len(t) - 1], y[i, len(t) - 1 :] = path[1:], path[-1]
        weight[i, : len(t) - 1] = 1.0
    x = torch.stack([path[0] for path in paths])
    start = torch.tensor([t[0] for t in times], dtype=torch.float64)
    return Trajectories(x, start, when, y, weight, loss)


@dataclass(frozen=True)
class Units:
    """How points and targets are standardised where there is a read-out."""

    x_mean: torch.Tensor
    x_scale: torch.Tensor
    y_mean: torch.Tensor
    y_scale: torch.Tensor

    @classmethod
    def of(cls, x, y):
        """Return means and standard deviations, 1 where they are rounding."""
        pairs = []
        for z in (x, y):
            mean = z.mean(0)
            scale = (z - mean).square().mean(0).sqrt()
            noise = 10 * torch.finfo(z.dtype).eps * z.abs().amax(0)
            pairs += [mean, torch.where(scale > noise, scale, 1.0)]
        return cls(*pairs)

    def inside(self, x):
        return (x - self.x_mean) / self.x_scale


class Descent(NamedTuple):
    """How to minimise."""

    solver: str  # "lbfgs", "adam" or "sgd"
    max_iter: int
    tol: float
    n_iter_no_change: int
    alpha: float
    learning_rate: float
    batch_size: int | None


class Watch(NamedTuple):
    """What an iteration leaves: the objective so far, and the held-out risk."""

    objective: list
    validation: list


def _squared_distances(loss, model, found, y):
    if loss == "chordal":
        return (found - y).square().sum(-1)
    return _SquaredDistance.apply(found, y, model.flow.manifold)


class _SquaredDistance(torch.autograd.Function):
    """d(x, y)^2, whose slope in x is -2 log_x(y) in the metric of the distance."""

    @staticmethod
    def forward(ctx, x, y, manifold):
        ctx.save_for_backward(x, y)
        ctx.manifold = manifold
        return manifold.distance(x, y).square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        metric = to_tensor(
            np.asarray(ctx.manifold.metric), device=x.device, dtype=x.dtype
        )
        return -2 * g[:, None] * metric * ctx.manifold.log(x, y), None, None


def fit_flow(
    model, problem, descent, *, n_init, generator, on_iteration, held_out=None
):
    """Minimise from several random starts, and leave the best weights in the model.

    Parameters
    ----------
    model : FlowModel
        Its weights are written to.
    problem : Endpoints or Trajectories
        What the flow is to do.
    descent : Descent
        How to minimise.
    n_init : int
        Number of starts. With 0, a single one from the weights as they are.
    generator : torch.Generator
        A generator of the CPU, for starts and batches.
    on_iteration : callable
        Called with (start, Watch) after each iteration, with the weights in the model;
        returns whether to stop this start.
    held_out : Endpoints or Trajectories, default=None
        Where to watch the risk: a start ends when it rises, and goes back to the least.

    Returns
    -------
    Solution
        `value` is the number of the best start; `history` has its "objective" and
        "validation" after each iteration.
    """
    best, best_weights, least = None, None, math.inf
    for start in range(max(1, n_init)):
        if n_init:
            model.start(problem, generator)
        watch = Watch([], [])
        keeper = _Keeper(model, descent, held_out, watch)

        def after_iteration(start=start, watch=watch, keeper=keeper):
            done = keeper.look()
            return bool(on_iteration(start, watch)) or done

        solve = _lbfgs if descent.solver == "lbfgs" else _stochastic
        n_iter, converged = solve(
            model, problem, descent, generator, watch, after_iteration
        )
        reached = keeper.finish(problem)
        if best is None or reached < least:
            history = {"objective": watch.objective, "validation": watch.validation}
            best = Solution(start, n_iter, converged, history)
            best_weights, least = copy.deepcopy(model.state_dict()), reached
    model.load_state_dict(best_weights)
    return best


class _Keeper:
    """Judges the iterations of a start, and keeps its best weights."""

    def __init__(self, model, descent, held_out, watch):
        self.model, self.descent = model, descent
        self.held_out, self.watch = held_out, watch
        self.weights, self.least = None, math.inf
        self.improved, self.n_stale = math.inf, 0

    def look(self):
        """Return whether to stop, after an iteration."""
        if self.held_out is None:
            return _is_flat(self.watch.objective, self.descent)
        with torch.no_grad():
            risk = float(self.held_out.risk(self.model))
        self.watch.validation.append(risk)
        is_better = risk < self.improved * (1 - self.descent.tol)
        self.n_stale = 0 if is_better else self.n_stale + 1
        if is_better:
            self.improved = risk
        if risk < self.least:
            self.least = risk
            self.weights = copy.deepcopy(self.model.state_dict())
        return self.n_stale >= self.descent.n_iter_no_change

    def finish(self, problem):
        """Go back to the best weights; return what they reach."""
        if self.weights is not None:
            self.model.load_state_dict(self.weights)
            return self.least
        with torch.no_grad():
            alpha = self.descent.alpha
            reached = float(problem.risk(self.model) + alpha * self.model.penalty())
        return reached if math.isfinite(reached) else math.inf


def _is_flat(curve, descent):
    """Whether the objective has fallen by less than `tol` of itself lately."""
    n = descent.n_iter_no_change
    if not math.isfinite(curve[-1]):
        return True
    if len(curve) <= n:
        return False
    return min(curve[-n - 1 : -n]) - min(curve[-n:]) <= descent.tol * abs(curve[-1])


def _lbfgs(model, problem, descent, generator, watch, after_iteration):
    """All rows at once, by L-BFGS."""
    weights = list(model.parameters())
    like = weights[0]

    def put(theta):
        theta = to_tensor(theta.copy(), device=like.device, dtype=like.dtype)
        nn.utils.vector_to_parameters(theta, weights)

    def value_and_gradient(theta):
        put(theta)
        value = problem.risk(model) + descent.alpha * model.penalty()
        slopes = torch.autograd.grad(value, weights)
        slope = torch.cat([s.flatten() for s in slopes]).double().cpu().numpy()
        return value.item(), slope

    def on_iteration(theta, curve):
        put(theta)
        watch.objective[:] = curve
        return after_iteration()

    theta = nn.utils.parameters_to_vector(weights).detach().double().cpu().numpy()
    found = lbfgs(
        value_and_gradient,
        theta,
        tol=0.0,
        max_iter=descent.max_iter,
        on_iteration=on_iteration,
        dtype=like.dtype,
    )
    put(found.value)
    if not watch.objective:  # the start is a minimum
        watch.objective.append(value_and_gradient(found.value)[0])
    return found.n_iter, found.converged and math.isfinite(watch.objective[-1])


def _stochastic(model, problem, descent, generator, watch, after_iteration):
    """A batch of rows after the other, by Adam or by the paper's gradient descent."""
    n, rate = len(problem), descent.learning_rate
    size = n if descent.batch_size is None else min(descent.batch_size, n)
    if descent.solver == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        milestones = ()
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=SGD_MOMENTUM)
        milestones = SGD_MILESTONES
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, SGD_DECAY)
    for epoch in range(1, descent.max_iter + 1):
        order = torch.randperm(n, generator=generator) if size < n else None
        total = 0.0
        for first in range(0, n, size):
            rows = None if order is None else order[first : first + size]
            batch = problem if rows is None else problem.take(rows)
            optimizer.zero_grad()
            value = batch.risk(model) + descent.alpha * model.penalty()
            value.backward()
            optimizer.step()
            total += value.item() * len(batch) / n
        schedule.step()
        watch.objective.append(total)
        if not math.isfinite(total) or after_iteration():
            return epoch, math.isfinite(total)
    return descent.max_iter, False
