"""min over psi, a, h  mean_i loss(h_t'phi_{a_t}(x_i), y_i) + penalties  (2303.04338).

Modules and heads go downhill together, by Adam on batches. Paths are known, or found by
gates that are sampled (Gumbel-softmax, straight through) or by exact assignment (EM).
In the end, the heads are solved for.
"""

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from .._solution import Solution
from ._deep_supernet import DeepSupernet
from ._task_heads import class_logits, logistic_heads, ridge_heads

# Up to so many rows, one step on all of them is no dearer than one on a batch; beyond,
# batches of so many.
_FULL_BATCH, _BATCH = 4096, 1024
# Epochs without progress after which training ends: one step on all rows may go up.
_PATIENCE = 20
# Share of the epochs that the search may take, or long steps along known paths; the
# rest trains along what was found.
_SEARCH_SHARE = 0.5
# Epochs of a start of the search: both ways end in local minima, so there are several
# if time allows. Modules go faster in them, or they settle for the paths at hand.
_EPOCHS_OF_START, _SEARCH_RATE = 200, 10.0
# Temperature of the gates at the first and last epoch of a start.
_HOT, _COLD = 1.0, 0.1
# Weight of the balance among modules, relative to the loss of a constant.
_BALANCE = 0.1
# Epochs between assignments, and assignments without change that end a start.
_EPOCHS_OF_M, _UNCHANGED = 5, 5
# Noise of annealed assignments, relative to the losses, and by which it falls.
_NOISE, _NOISE_FALL = 0.5, 0.8
# Newton steps for the heads of all paths: to tell paths apart, not to use them.
_ITERATIONS_OF_E = 6
# Numbers that features of several paths hold at a time, 128 MB of float64.
_CHUNK = 2**24
_MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class TrainedSupernet:
    """Modules, the path of each task, and the heads that go with them.

    Attributes
    ----------
    net : DeepSupernet
        The modules, in evaluation mode.
    paths : torch.Tensor of int of shape (T, n_layers)
        The path of each task.
    coef : torch.Tensor of shape (T, r_L) or (T, C, r_L)
        Heads; of each class in classification.
    intercept : torch.Tensor of shape (T,) or (T, C)
        Intercepts.
    """

    net: DeepSupernet
    paths: torch.Tensor
    coef: torch.Tensor
    intercept: torch.Tensor


@dataclass(frozen=True)
class _Data:
    """The rows of all tasks; `labels` (T, C) where these are classes."""

    x: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor
    n_tasks: int
    labels: torch.Tensor | None
    alpha: float
    fit_intercept: bool

    @property
    def n_outputs(self):
        return 1 if self.labels is None else self.labels.shape[1]

    def repeat(self, n):
        """Return the tasks n times, one copy after the other."""
        shift = self.n_tasks * torch.arange(n, device=self.task.device)
        return _Data(
            self.x,
            self.y.repeat(n),
            (self.task + shift[:, None]).flatten(),
            self.n_tasks * n,
            None if self.labels is None else self.labels.repeat(n, 1),
            self.alpha,
            self.fit_intercept,
        )

    def heads(self, z, **settings):
        """Solve for the heads, given the features."""
        ways = {"fit_intercept": self.fit_intercept}
        if self.labels is None:
            return ridge_heads(z, self.y, self.task, self.n_tasks, self.alpha, **ways)
        ways |= settings
        found = logistic_heads(z, self.y, self.task, self.labels, self.alpha, **ways)
        return found.value

    def losses(self, z, coef, intercept):
        """Return the mean loss of each task."""
        if self.labels is None:
            found = (coef[self.task] * z).sum(1) + intercept[self.task]
            loss = (self.y - found).square()
        else:
            logits = class_logits(z, self.task, coef, intercept, self.labels)
            loss = F.cross_entropy(logits, self.y, reduction="none")
        sums = loss.new_zeros(self.n_tasks).index_add_(0, self.task, loss)
        return sums / torch.bincount(self.task, minlength=self.n_tasks)

    def loss_of_constant(self):
        """Return the mean loss of what knows the task only."""
        nothing = self.x.new_zeros(len(self.x), 1)
        count = torch.bincount(self.task, minlength=self.n_tasks)
        losses = self.losses(nothing, *self.heads(nothing))
        return float((losses * count).sum() / count.sum())


class _Model(nn.Module):
    """A supernet, heads, and gates while paths are searched for.

    A head reads one module of the last layer: what another one returns it would have
    to learn anew, so that no gate could ever change.
    """

    def __init__(self, net, data, alpha_module):
        super().__init__()
        x, K = data.x, net.net.n_modules
        C = data.n_outputs
        self.net, self.alpha, self.alpha_module = net, data.alpha, alpha_module
        self.fit_intercept = data.fit_intercept
        self.is_regression = data.labels is None
        self.register_buffer("labels", data.labels)
        self.coef = nn.Parameter(
            x.new_zeros(data.n_tasks, K[-1], C, net.net.widths[-1])
        )
        self.intercept = nn.Parameter(x.new_zeros(data.n_tasks, K[-1], C))
        self.intercept.requires_grad_(data.fit_intercept)
        counts = K[-1:] if net.net.tree else K
        self.gates = nn.ParameterList(
            nn.Parameter(x.new_zeros(data.n_tasks, n)) for n in counts
        )
        self.paths, self.sample, self.balance = None, None, 0.0

    def forward(self, x, task):
        """Return the scores of rows, and the penalties."""
        if self.paths is not None:
            scores, penalty = self._along_paths(x, task)
        else:
            scores, penalty = self._through_gates(x, task)
        squares = sum(p.square().sum() for p in self.net.parameters())
        penalty = penalty + self.alpha_module * squares
        if self.is_regression:
            return scores[:, 0], penalty
        return scores.masked_fill(~self.labels[task], -torch.inf), penalty

    def _along_paths(self, x, task):
        tasks, last = torch.arange(len(self.coef), device=x.device), self.paths[:, -1]
        coef = self.coef[tasks, last].index_select(0, task)  # (n, C, r)
        intercept = self.intercept[tasks, last].index_select(0, task)
        z = self.net(x, self.paths[task])
        scores = (coef @ z[:, :, None])[:, :, 0] + intercept
        return scores, self._ridge(z, coef)

    def _through_gates(self, x, task):
        soft, hard = self.sample(self.gates)
        rows = [gate.index_select(0, task) for gate in hard]
        z = self.net.branches(x, rows)  # (n, K, r)
        coef = self.coef.index_select(0, task)  # (n, K, C, r)
        scores = torch.einsum("nkcr,nkr->nkc", coef, z)
        scores = scores + self.intercept.index_select(0, task)
        # outputs are mixed and not what heads read: no head reads another's module
        scores = torch.einsum("nk,nkc->nc", rows[-1], scores)
        penalty = self._ridge(z.flatten(0, 1), coef.flatten(0, 1))
        for gate in soft:
            mean = gate.mean(0)
            # KL of the shares of modules from equal ones
            penalty = penalty + self.balance * (mean * (mean * len(mean)).log()).sum()
        return scores, penalty

    def _ridge(self, z, coef):
        """The penalty of `ridge_heads` and `logistic_heads`, for each row."""
        if self.alpha == 0:
            return 0.0
        centred = z - z.mean(0) if self.fit_intercept else z
        share = self.alpha if self.is_regression else self.alpha / 2
        return share * centred.square().mean() * coef.square().sum((1, 2)).mean()

    def solve(self, data, paths):
        """Take the best heads along the paths; return the mean loss of tasks."""
        coef, intercept, losses = _solved_heads(self.net, data, paths)
        self.set_heads(paths[:, -1], coef, intercept)
        return float(losses.mean())

    def draw_paths(self, generator):
        """Return a path for each task by chance, without listing them all."""
        net, n_tasks = self.net.net, len(self.coef)
        picks = [
            torch.randint(K, (n_tasks,), generator=generator) for K in net.n_modules
        ]
        paths = net.pathways[picks[-1]] if net.tree else torch.stack(picks, 1)
        return paths.to(self.coef.device)

    @torch.no_grad()
    def set_heads(self, last, coef, intercept):
        """Take heads for the last module of each task."""
        tasks = torch.arange(len(self.coef), device=coef.device)
        shape = self.coef.shape
        self.coef[tasks, last] = coef.view(shape[0], *shape[2:])
        self.intercept[tasks, last] = intercept.view(shape[0], shape[2])


class _Loss(nn.Module):
    """Squared loss, or cross-entropy, with the penalties that the model returns."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, found, y):
        scores, penalty = found
        return self.loss(scores, y) + penalty


class _Slices:
    """Batches by slices of tensors: a loader would collect row by row."""

    def __init__(self, dataset, batch_size, generator):
        self.X, self.y = dataset.X, dataset.y
        self.size, self.generator = batch_size, generator

    def __len__(self):
        return math.ceil(len(self.y) / self.size)

    def __iter__(self):
        if len(self) == 1:
            yield self.X, self.y
            return
        order = torch.randperm(len(self.y), generator=self.generator)
        for rows in order.to(self.y.device).split(self.size):
            yield {name: part[rows] for name, part in self.X.items()}, self.y[rows]


class _Gumbel:
    """Paths by gates, sampled in each step, at a temperature that falls."""

    def __init__(self, model, data, generator, n_epochs, is_first):
        self.model, self.data = model, data
        self.generator, self.n_epochs = generator, n_epochs
        self.temperature = _HOT
        model.paths, model.sample = None, self.sample
        model.balance = _BALANCE * data.loss_of_constant()
        with torch.no_grad():
            for gate in model.gates:
                gate.zero_()
        for last in range(model.net.net.n_modules[-1]):
            model.solve(data, self._through(model.draw_paths(generator), -1, last))

    def sample(self, gates):
        """Return the gates, and samples of them whose slopes are those of gates."""
        soft, hard = [], []
        for gate in gates:
            noise = _gumbel_noise(gate, self.generator)
            relaxed = F.softmax((gate + noise) / self.temperature, 1)
            one_hot = F.one_hot(relaxed.argmax(1), gate.shape[1]).to(gate.dtype)
            hard.append(one_hot + relaxed - relaxed.detach())
            soft.append(F.softmax(gate, 1))
        return soft, hard

    def begin(self, epoch):
        """Cool down; return whether the search is over."""
        self.temperature = _HOT * (_COLD / _HOT) ** (epoch / self.n_epochs)
        return False

    def present(self):
        """Return the path that the gates of each task prefer."""
        best = [gate.detach().argmax(1) for gate in self.model.gates]
        net = self.model.net.net
        if net.tree:
            return net.pathways.to(best[0].device)[best[0]]
        return torch.stack(best, 1)

    def finish(self):
        """Return these paths, once each task has tried the other modules of a layer."""
        # gates are torn by noise to the end, and some end on the wrong side
        paths, net = self.present(), self.model.net
        for layer in range(-1 if net.net.tree else -len(net.net.layers), 0):
            modules = range(net.net.n_modules[layer])
            tried = torch.stack([self._through(paths, layer, k) for k in modules])
            losses = [_solved_heads(net, self.data, each)[2] for each in tried]
            best = torch.stack(losses).argmin(0)
            paths = tried[best, torch.arange(len(best), device=best.device)]
        return paths

    def _through(self, paths, layer, k):
        """Return the paths, led through a module; that of a leaf, in a tree."""
        net = self.model.net.net
        if net.tree:
            return net.pathways[k].to(paths.device).expand_as(paths)
        paths = paths.clone()
        paths[:, layer] = k
        return paths


class _EM:
    """Paths by assignment: each task takes that of least loss, every few epochs."""

    def __init__(self, model, data, generator, n_epochs, is_first, noise=0.0):
        self.model, self.data = model, data
        self.generator, self.noise = generator, noise
        self.pathways = model.net.net.pathways.to(data.x.device)
        self.n_unchanged = 0
        if is_first:
            self._assign()
            return
        model.paths = model.draw_paths(generator)
        model.solve(data, model.paths)

    def begin(self, epoch):
        """Assign if it is time; return whether the search is over."""
        if epoch and epoch % _EPOCHS_OF_M == 0:
            self._assign()
        return self.n_unchanged >= _UNCHANGED

    def present(self):
        """Return the paths."""
        return self.model.paths

    finish = present

    def _assign(self):
        losses, coef, intercept = _of_all_paths(self.model.net, self.data)  # (P, T)
        losses = losses / losses.mean(0).clamp_min(torch.finfo(losses.dtype).tiny)
        losses = losses - self.noise * _gumbel_noise(losses, self.generator)
        self.noise *= _NOISE_FALL
        best = losses.argmin(0)
        paths, before = self.pathways[best], self.model.paths
        is_same = before is not None and torch.equal(paths, before)
        self.n_unchanged = self.n_unchanged + 1 if is_same else 0
        self.model.paths = paths
        tasks = torch.arange(len(best), device=best.device)
        self.model.set_heads(paths[:, -1], coef[best, tasks], intercept[best, tasks])


_SEARCHES = {
    "gumbel": _Gumbel,
    "em": _EM,
    "anneal_em": partial(_EM, noise=_NOISE),
}


@torch.no_grad()
def _solved_heads(net, data, paths):
    """Return the best heads along the paths, and the loss of each task with them."""
    net.eval()
    z = net(data.x, paths[data.task])
    coef, intercept = data.heads(z)
    return coef, intercept, data.losses(z, coef, intercept)


@torch.no_grad()
def _of_all_paths(net, data):
    """Return losses (P, T), and heads (P, T, ...), of each task along each path."""
    net.eval()
    features = net.all_paths(data.x)
    n_at_once = max(1, _CHUNK // features[0].numel())
    parts = []
    for z in features.split(n_at_once):
        copies = data.repeat(len(z))
        z = z.flatten(0, 1)
        heads = copies.heads(z, max_iter=_ITERATIONS_OF_E)
        part = (copies.losses(z, *heads), *heads)
        parts.append([each.unflatten(0, (-1, data.n_tasks)) for each in part])
    return tuple(torch.cat(each) for each in zip(*parts))


def _gumbel_noise(like, generator):
    """Draw on the CPU, so that a seed gives the same numbers on each device."""
    shape = like.shape
    draws = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    return -draws.log().to(device=like.device, dtype=like.dtype)


@contextmanager
def _own_randomness(generator, device):
    """Keep modules that draw numbers, as dropout does, off the global generator."""
    seed = int(torch.randint(_MOST_SEED, (), generator=generator))
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def train_supernet(
    net,
    x,
    y,
    task,
    n_tasks,
    *,
    labels=None,
    paths=None,
    path_search="gumbel",
    alpha_head,
    alpha_module,
    fit_intercept,
    learning_rate,
    batch_size,
    max_iter,
    tol,
    generator,
    on_epoch=None,
):
    """Train modules, paths and heads of all tasks.

    Parameters
    ----------
    net : DeepSupernet
        Where to start; its weights are written to.
    x : torch.Tensor of shape (n, p)
        Features, in units in which numbers are near 1.
    y : torch.Tensor of shape (n,)
        Targets, in such units too, or the classes, counted from 0 over all tasks.
    task : torch.Tensor of int of shape (n,)
        The task of each row, in any order.
    n_tasks : int
        Number of tasks.
    labels : torch.Tensor of bool of shape (T, C), default=None
        The classes that each task has; None is regression.
    paths : torch.Tensor of int of shape (T, n_layers), default=None
        The path of each task; None searches for it.
    path_search : str, default="gumbel"
        "gumbel" learns gates; "em" takes the path of least loss every few epochs, and
        "anneal_em" does so with noise that dies out.
    alpha_head : float
        Penalty of heads, relative to the features: see :func:`ridge_heads`.
    alpha_module : float
        Penalty of the squared weights of modules, relative to the mean loss.
    fit_intercept : bool
        Whether heads have intercepts.
    learning_rate : float
        Of Adam.
    batch_size : int or None
        Rows of a batch; None takes all of them, if they are some thousands.
    max_iter : int
        Limit of epochs.
    tol : float
        Training ends when the objective has not fallen by this share for a while.
    generator : torch.Generator
        A generator of the CPU, for the search and for batches.
    on_epoch : callable, default=None
        Called with the number of the epoch, its objective, and a function that returns
        the present :class:`TrainedSupernet`; returns whether to stop.

    Returns
    -------
    Solution
        `value` is the :class:`TrainedSupernet`; `history` has the "objective" of each
        epoch.
    """
    data = _Data(x, y, task, n_tasks, labels, alpha_head, fit_intercept)
    with _own_randomness(generator, x.device), torch.enable_grad():
        model = _Model(net, data, alpha_module)
        size = batch_size or (len(x) if len(x) <= _FULL_BATCH else _BATCH)
        epochs = _Epochs(model, data, learning_rate, size, generator, on_epoch)
        if paths is None and net.net.n_paths == 1:
            paths = net.net.pathways.to(x.device).expand(n_tasks, -1)
        if paths is None:
            paths = _search(epochs, _SEARCHES[path_search], max_iter)
            model.paths = paths
        else:
            model.paths = paths
            epochs.go(int(_SEARCH_SHARE * max_iter), fast=True, tol=tol)
        model.solve(data, paths)
        converged = False
        if not epochs.stopped:
            converged = epochs.go(max_iter - len(epochs.curve), tol=tol)
        trained = TrainedSupernet(net, paths, *_solved_heads(net, data, paths)[:2])
    history = {"objective": epochs.curve}
    return Solution(trained, len(epochs.curve), converged, history)


def _search(epochs, begin, max_iter):
    """Leave the modules of the best of several starts; return its paths."""
    model, data = epochs.model, epochs.data
    first = copy.deepcopy(model.net.state_dict())
    budget = max(1, int(_SEARCH_SHARE * max_iter))
    n_starts = max(1, round(budget / _EPOCHS_OF_START))
    least, best = math.inf, None
    while best is None or (len(epochs.curve) < budget and not epochs.stopped):
        n_epochs = min(budget // n_starts, budget - len(epochs.curve))
        model.net.load_state_dict(first)
        search = begin(model, data, epochs.generator, n_epochs, best is None)
        epochs.go(n_epochs, fast=True, search=search)
        paths = search.finish()
        loss = model.solve(data, paths)
        if best is None or loss < least:
            least, best = loss, (copy.deepcopy(model.net.state_dict()), paths)
    model.net.load_state_dict(best[0])
    return best[1]


class _Epochs:
    """Skorch's loop of epochs and batches around the model, and what it leaves."""

    def __init__(self, model, data, learning_rate, batch_size, generator, on_epoch):
        self.model, self.data = model, data
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.generator, self.on_epoch = generator, on_epoch
        self.curve, self.stopped = [], False

    def go(self, n_epochs, *, fast=False, search=None, tol=None):
        """Go on for some epochs; return whether progress has ended before, by `tol`."""
        rate = self.learning_rate * (_SEARCH_RATE if fast else 1.0)
        before, n_done = copy.deepcopy(self.model.state_dict()), len(self.curve)
        has_ended = self._go(n_epochs, rate, search, tol)
        while len(self.curve) > n_done and not math.isfinite(self.curve[-1]):
            self.model.load_state_dict(before)  # steps were too long
            del self.curve[n_done:]
            rate /= _SEARCH_RATE
            has_ended = self._go(n_epochs, rate, search, tol)
        return has_ended

    def _go(self, n_epochs, rate, search, tol):
        trainer = self._trainer(rate)
        rows = {"x": self.data.x, "task": self.data.task}
        best, n_stale = math.inf, 0
        for epoch in range(n_epochs):
            if search is not None and search.begin(epoch):
                return True
            trainer.fit_loop(rows, self.data.y, epochs=1)
            batches = trainer.history[-1]["batches"]
            sums = sum(b["train_loss"] * b["train_batch_size"] for b in batches)
            objective = sums / len(self.data.x)
            self.curve.append(objective)
            if not math.isfinite(objective):
                return False
            if self.on_epoch is not None:
                snapshot = partial(self._snapshot, search)
                if self.on_epoch(len(self.curve), objective, snapshot):
                    self.stopped = True
                    return False
            if tol is None:
                continue
            n_stale = n_stale + 1 if objective >= best * (1 - tol) else 0
            best = objective if n_stale == 0 else best
            if n_stale >= _PATIENCE:
                return True
        return False

    def _snapshot(self, search):
        """Return the modules, paths and best heads as they are."""
        net = copy.deepcopy(self.model.net)
        paths = self.model.paths if search is None else search.present()
        return TrainedSupernet(net, paths, *_solved_heads(net, self.data, paths)[:2])

    def _trainer(self, learning_rate):
        from skorch import NeuralNet

        loss = nn.MSELoss() if self.data.labels is None else nn.CrossEntropyLoss()
        trainer = NeuralNet(
            self.model,
            criterion=_Loss(loss),
            optimizer=torch.optim.Adam,
            lr=learning_rate,
            batch_size=min(self.batch_size, len(self.data.x)),
            iterator_train=_Slices,
            iterator_train__generator=self.generator,
            train_split=None,
            callbacks="disable",
            verbose=0,
            device=None,
        )
        return trainer.initialize()
