"""min over Alg  E_{task ~ prior} E_n  loss(y, f^Alg_{S^(n)}(x))  (2301.07067, eq. 2).

Tasks, their number of features, the length of the context and the noise are drawn anew
for every step, so that nothing is ever seen twice and no data have to be split.
"""

import hashlib
import math
import os
import re
import time
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from ._priors import Tasks, draw_tasks
from ._transformer import root_mean_square
from ._weights import PretrainedICL, build, expected_shapes

# Of .001, .002 and .003 the last was the best for the set form. The causal form stays
# on its plateau for long with more than .0003 on examples; on series one was tried.
_LEARNING_RATE = {"set": 3e-3, "examples": 3e-4, "series": 1e-3}
# Share of the steps in which the learning rate rises, at most so many of them; then it
# falls as a cosine to this share.
_WARM_UP_SHARE, _WARM_UP_STEPS, _FINAL_RATE = 0.05, 300, 0.01
# Gradients longer than that are cut: batches of hard tasks come by chance.
_GRADIENT_NORM = 1.0
# Errors count by s^(2 beta - 2) for a predicted s: 0 is the likelihood, which gives up
# on hard tasks, and 1 the plain square, which does not care for easy ones (2203.09168).
BETA = 0.5
# Lengths are n_max u^1.5 for a uniform u: short contexts differ more from each other.
LENGTH_POWER = 1.5
# Share of the batches with inputs and targets centred and scaled, and of the tasks
# whose noise is told.
_STANDARDIZED, _NOISE_TOLD = 0.5, 0.5
# Series by which their scale is found.
_MANY = 1024
# Means, in deviations, beyond which single precision would lose digits.
_MOST_OFFSET = 1e3
# Deviation of a context at least, of that of all rows of a task.
_LEAST_SPREAD = 0.05
# Steps between checkpoints and lines of a log.
_EPOCH = 500
MOST_SEED = 2**31 - 1
# What objects without a `repr` of their own have in it; not the same tomorrow.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_SIZES = {
    "set": {"width": 64, "n_layers": 6, "n_heads": 2, "mlp_ratio": 1},
    "gpt2": {"width": 64, "n_layers": 3, "n_heads": 2, "mlp_ratio": 4},
}


def pretrain_in_context(
    prior,
    *,
    architecture="set",
    n_features_max=10,
    n_examples_max=None,
    n_steps=None,
    time_budget=None,
    batch_size=64,
    n_queries=16,
    width=None,
    n_layers=None,
    n_heads=None,
    mlp_ratio=None,
    learning_rate="auto",
    vary_features=True,
    standardize="mixed",
    start=None,
    checkpoint=None,
    callbacks=(),
    verbose=0,
    device="cpu",
    random_state=None,
):
    """Train a transformer to be the learning algorithm for tasks of a prior.

    Parameters
    ----------
    prior : object
        With a method ``sample(n_tasks, n_examples, n_features, *, generator)`` that
        returns tensors X of shape (n_tasks, n_examples, n_features) and y of shape
        (n_tasks, n_examples), and maybe the noise of each task; or, for series, with
        ``sample_series(n_tasks, n_steps, *, generator)`` and `n_outputs`. See
        :class:`LinearPrior` and the others.
    architecture : {"set", "gpt2"}, default="set"
        "set" has one token per example, in no order. "gpt2" is the papers': interleaved
        tokens, learned positions. Series always take "gpt2".
    n_features_max : int, default=10
        The most features of a task. Series have the outputs of their prior.
    n_examples_max : int, default=None
        The longest context in training: three times `n_features_max` if None; of
        series, the number of steps, 41 if None.
    n_steps : int, default=None
        Steps of the optimiser; 5000 if neither these nor a time are given.
    time_budget : float, default=None
        Seconds after which training has ended, in place of `n_steps`.
    batch_size : int, default=64
        Tasks in a step, of each process.
    n_queries : int, default=16
        Queries to each context, of the set form. The causal form answers everywhere.
    width, n_layers, n_heads, mlp_ratio : int, default=None
        Size of tokens, layers, heads, and hidden units in multiples of the width. None
        is 64, 6, 2 and 1 for "set", and 64, 3, 2 and 4 (the paper's tiny) for "gpt2".
    learning_rate : float, default="auto"
        The highest one: 0.003 for "set", 0.0003 for "gpt2" on examples, 0.001 on
        series. It rises at first, and falls as a cosine.
    vary_features : bool, default=True
        Whether tasks have 1 to `n_features_max` features, or always that many, as they
        have if the prior has a number of its own. Series have all outputs in half of
        the batches, else fewer, and zeros.
    standardize : {"mixed", True, False}, default="mixed"
        Whether features and targets of a context are centred and scaled, as
        :class:`InContextRegressor` does it; in half of the batches if "mixed".
    start : PretrainedICL, default=None
        Weights to start from, of the same sizes; drawn at random if None.
    checkpoint : path-like, default=None
        File to which the state of training is written every 500 steps, and when it is
        interrupted. If there is one, training goes on from it; it may have been of
        fewer steps, but must be the same otherwise.
    callbacks : sequence of skorch.callbacks.Callback, default=()
        What skorch is to call besides. 500 steps are an epoch.
    verbose : int, default=0
        With 1, a progress bar of each epoch and a line after it.
    device : str, default="cpu"
        Where to train.
    random_state : int, RandomState instance or None, default=None
        Determines the first weights and all tasks.

    Returns
    -------
    PretrainedICL
        The weights and their card.

    Raises
    ------
    ValueError
        If a setting is out of range, settings do not go together, what the prior draws
        is of another shape, or the checkpoint is of another training.
    FloatingPointError
        If the gradient is not finite any more.

    Notes
    -----
    Training needs skorch, which the extra `deep` installs; weights that are there do
    not. Under ``torchrun``, each process draws tasks of its own, and gradients are
    averaged over processes. The first one writes checkpoints. Torch's default generator
    is left as it was.

    Examples
    --------
    Weights for a prior of one's own, which are then a parameter of the estimator:

    >>> from sklearn_attn.in_context import LinearPrior, pretrain_in_context
    >>> weights = pretrain_in_context(
    ...     LinearPrior(noise=0.1), n_features_max=3, n_steps=20, random_state=0
    ... )
    >>> weights.card["steps"]
    20
    """
    if hasattr(prior, "sample_series"):  # WindowPrior makes tables of them
        form, architecture = "series", "gpt2"
    elif architecture not in _SIZES:
        raise ValueError(
            f"architecture must be one of {list(_SIZES)}; got {architecture!r}."
        )
    else:
        form = "set" if architecture == "set" else "examples"
    if not hasattr(prior, "sample") and form != "series":
        raise ValueError(
            f"A prior has a method `sample` or `sample_series`; got {prior!r}."
        )
    n_features_max = count("n_features_max", n_features_max)
    batch_size = count("batch_size", batch_size)
    n_queries = count("n_queries", n_queries)
    n_steps = check_budget(n_steps, time_budget)
    if standardize not in ("mixed", True, False):
        raise ValueError(f"standardize must be 'mixed' or a bool; got {standardize!r}.")
    standardize = "mixed" if standardize == "mixed" else bool(standardize)
    if n_examples_max is None:
        n_examples_max = 41 if form == "series" else 3 * n_features_max
    n_examples_max = count("n_examples_max", n_examples_max)
    given = {
        "width": width,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "mlp_ratio": mlp_ratio,
    }
    sizes = {
        key: count(key, usual if given[key] is None else given[key])
        for key, usual in _SIZES[architecture].items()
    }
    config = {"form": form}
    if form == "series":
        if n_examples_max < 2:
            raise ValueError("A series needs two steps; got n_examples_max=1.")
        config |= {"n_inputs": prior.n_outputs, "n_outputs": prior.n_outputs}
        config |= {"n_positions": n_examples_max - 1}  # the last step is only a target
    else:
        config |= {"n_features": n_features_max}
    if form == "examples":
        config |= {"n_examples": n_examples_max + 1}
    config |= sizes
    expected_shapes(config)  # complains of sizes that do not go together
    check_start(start, config)
    rate = check_rate(_LEARNING_RATE[form], learning_rate)
    seed = int(check_random_state(random_state).randint(MOST_SEED))
    settings = {
        "prior": ADDRESS.sub("", repr(prior)),
        "architecture": architecture,
        "n_features_max": n_features_max,
        "n_examples_max": n_examples_max,
        "batch_size": batch_size,
        "n_queries": n_queries,
        "learning_rate": rate,
        "standardize": standardize,
        "vary_features": bool(vary_features),
        "start": None if start is None else start.card.get("name", start.sha256),
    }
    vary_features = may_vary(prior, vary_features)
    with processes(device) as (rank, world_size, device):
        run = Run(n_steps, time_budget, rate, checkpoint, rank, world_size)
        run.settings = settings | {"config": config, "world_size": world_size}
        run.seed = run.same_for_all(seed)
        stream = _Stream(
            prior,
            form,
            n_features_max,
            n_examples_max,
            batch_size,
            n_queries,
            vary_features,
            standardize,
            torch.Generator(device=device).manual_seed(run.seed),
        )
        # tasks of each process are its own, but not the scale of series
        stream.generator.manual_seed(run.seed + rank)
        seed_matters = random_state is not None
        state = run.train(
            config, stream, start, device, callbacks, verbose, seed_matters
        )
    card = settings | {
        "steps": run.step,
        "tasks": run.step * batch_size * world_size,
        "seconds": round(run.elapsed(), 3),
        "seed": run.seed,
        "final_loss": run.loss,
        "torch": torch.__version__,
        "device": str(device),
    }
    return PretrainedICL(config, state, card)


def pretrain_in_context_from(
    X, y, tasks, *, n_queries="auto", n_examples_max=None, **settings
):
    """Train a learning algorithm on tasks of one's own (2301.07067, section 2).

    The paper's setting: T tasks with samples of each. In every step, some rows of a
    task are the context, and others, drawn without replacement, the queries.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows of all tasks.
    y : array-like of shape (n_samples,)
        Targets.
    tasks : array-like of shape (n_samples,)
        The task of each row. Each must have three rows or more.
    n_queries : int, default="auto"
        Queries to each context: a third of the rows of the smallest task if "auto", at
        most 16.
    n_examples_max : int, default=None
        The longest context: what the smallest task has besides queries, if None.
    **settings : object
        Settings of :func:`pretrain_in_context`; `standardize` is True by default.

    Returns
    -------
    PretrainedICL
        The weights. Their card has a digest of the data in place of a prior.

    Raises
    ------
    ValueError
        If arrays do not fit together, are not finite, or a task is too small.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.in_context import pretrain_in_context_from
    >>> rng = np.random.default_rng(0)
    >>> X, w = rng.normal(size=(60, 2)), rng.normal(size=(6, 2))
    >>> ids = np.repeat(np.arange(6), 10)
    >>> weights = pretrain_in_context_from(
    ...     X, (X * w[ids]).sum(1), ids, n_steps=5, random_state=0
    ... )
    >>> weights.n_features
    2
    """
    pool = TaskPool(X, y, tasks)
    smallest = min(map(len, pool.rows))
    if n_queries == "auto":
        n_queries = max(1, min(16, smallest // 3))
    if n_examples_max is None:
        n_examples_max = smallest - n_queries
    if n_examples_max < 1 or n_examples_max + n_queries > smallest:
        raise ValueError(
            f"The smallest task has {smallest} rows; it cannot give {n_examples_max} "
            f"examples and {n_queries} queries."
        )
    for name in ("n_features_max", "vary_features"):
        if name in settings:
            raise ValueError(f"{name} follows from X here.")
    settings.setdefault("standardize", True)  # columns have units of their own
    return pretrain_in_context(
        pool,
        n_features_max=pool.X.shape[1],
        vary_features=False,
        n_examples_max=n_examples_max,
        n_queries=n_queries,
        **settings,
    )


class TaskPool:
    """The prior of given tasks: each draw is a task, and rows of it.

    Columns and targets are brought to variance 1 over the rows of all tasks. Where the
    mean is beyond 1000 deviations, which single precision would take digits from, it is
    subtracted.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows of all tasks.
    y : array-like of shape (n_samples,)
        Targets.
    tasks : array-like of shape (n_samples,)
        The task of each row. Each must have three rows or more.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import TaskPool
    >>> pool = TaskPool([[0.0], [1.0], [2.0]], [1.0, 2.0, 3.0], ["a", "a", "a"])
    >>> generator = torch.Generator().manual_seed(0)
    >>> tuple(pool.sample(4, 3, 1, generator=generator).X.shape)
    (4, 3, 1)
    """

    def __init__(self, X, y, tasks):
        X, y = np.array(X, dtype=np.float64), np.array(y, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] == 0 or y.shape != (len(X),):
            raise ValueError(
                "X must be (n_samples, n_features) and y (n_samples,); got "
                f"{X.shape} and {y.shape}."
            )
        tasks = np.asarray(tasks)
        if tasks.shape != (len(X),):
            raise ValueError(
                f"tasks must name the task of each of {len(X)} rows; got {tasks.shape}."
            )
        if not (np.isfinite(X).all() and np.isfinite(y).all()):
            raise ValueError("X and y must be finite.")
        names, codes, counts = np.unique(tasks, return_inverse=True, return_counts=True)
        if len(names) == 0 or counts.min() < 3:
            raise ValueError("Each task needs three rows or more.")
        sha256 = hashlib.sha256(X.tobytes() + y.tobytes() + codes.tobytes()).hexdigest()
        # units are found in double precision, in which large offsets keep their digits
        self.X = torch.from_numpy(_in_units(X).astype(np.float32))
        self.y = torch.from_numpy(_in_units(y[:, None])[:, 0].astype(np.float32))
        self.rows = [
            torch.from_numpy(np.flatnonzero(codes == t)) for t in range(len(names))
        ]
        self._repr = (
            f"TaskPool({len(names)} tasks, {len(X)} rows, sha256 {sha256[:16]})"
        )

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks.

        Parameters
        ----------
        n_tasks, n_examples, n_features : int
            How many; features are all that there are.
        generator : torch.Generator
            Draws the numbers.

        Returns
        -------
        Tasks
            Rows of tasks, each row at most once. The noise is not known.
        """
        if n_features != self.X.shape[1]:
            raise ValueError(
                f"Tasks have {self.X.shape[1]} features; not {n_features}."
            )
        smallest = min(map(len, self.rows))
        if n_examples > smallest:
            raise ValueError(
                f"The smallest task has {smallest} rows; not {n_examples}."
            )
        device = generator.device
        which = torch.randint(
            len(self.rows), (n_tasks,), generator=generator, device=device
        )
        chosen = []
        for t in which.tolist():
            rows = self.rows[t]
            order = torch.rand(len(rows), generator=generator, device=device).argsort()
            chosen.append(rows[order[:n_examples].cpu()])
        index = torch.stack(chosen)
        X, y = self.X[index].to(device), self.y[index].to(device)
        return Tasks(X, y, torch.full_like(y[:, 0], math.nan))

    def __repr__(self):
        return self._repr


def _in_units(A):
    """Return columns of variance 1, or 0, without offsets that hide their digits."""
    size = np.abs(A).max(0)
    A = A / np.where(size > 0, size, 1.0)  # first, or squares of large ones overflow
    mean, deviation = A.mean(0), A.std(0)
    A = A - np.where(np.abs(mean) > _MOST_OFFSET * deviation, mean, 0.0)
    return A / np.where(deviation > 0, deviation, 1.0)


class _Stream(torch.utils.data.IterableDataset):
    """Batches without end: prompts, and the targets of their queries."""

    def __init__(
        self,
        prior,
        form,
        n_features_max,
        n_examples_max,
        batch_size,
        n_queries,
        vary_features,
        standardize,
        generator,
    ):
        self.prior, self.form, self.generator = prior, form, generator
        self.d_max, self.n_max = n_features_max, n_examples_max
        self.B, self.q = batch_size, n_queries
        self.vary, self.standardize = vary_features, standardize
        self.is_over = bool  # False, until training sets it
        if form == "series":
            some = prior.sample_series(_MANY, self.n_max, generator=generator)
            self.series_scale = some.square().mean().sqrt()
            if not self.series_scale > 0:
                raise ValueError(f"{prior!r} draws nothing but zeros.")

    def __iter__(self):
        return endless(self)

    def draw(self):
        """Return a batch (prompt, targets)."""
        if self.form == "series":
            series = self.prior.sample_series(
                self.B, self.n_max, generator=self.generator
            )
            series = series / self.series_scale
            r = series.shape[2]
            if self.vary:  # fewer outputs, or all of them
                r = max(1, math.ceil(r * self._uniform() * 2))
                series = torch.cat([series[..., :r], 0 * series[..., r:]], -1)
            return {"series": series[:, :-1]}, series[:, 1:]
        # the larger, the harder to learn, and the more often
        d = (
            math.ceil(self.d_max * math.sqrt(self._uniform()))
            if self.vary
            else self.d_max
        )
        if self.form == "examples":
            X, y, _ = self._draw(self.n_max + 1, max(1, d))
            return {"X": X, "y": y}, y
        n = 1 + int(self.n_max * self._uniform() ** LENGTH_POWER * (1 - 1e-9))
        X, y, noise = self._draw(n + self.q, max(1, d))
        known = torch.rand(self.B, generator=self.generator, device=self.device)
        noise = torch.where(known < _NOISE_TOLD, noise, math.nan)
        is_plain = self.standardize == "mixed" and self._uniform() > _STANDARDIZED
        if n > 1 and self.standardize and not is_plain:
            X, y, noise = _standardize(X, y, noise, n)
        prompt = {"X": X[:, :n], "y": y[:, :n], "X_query": X[:, n:], "noise": noise}
        return prompt, y[:, n:]

    def _draw(self, n, d):
        X, y, noise, _ = draw_tasks(self.prior, self.B, n, d, generator=self.generator)
        scale = root_mean_square(y, 1)
        return X, y / scale, noise / scale[:, 0]

    @property
    def device(self):
        """Where tasks are drawn."""
        return self.generator.device

    def _uniform(self):
        return float(torch.rand((), generator=self.generator, device=self.device))


def _standardize(X, y, noise, n):
    """Centre and scale by the first n rows, as the estimator does it."""
    X, _ = _standard_units(X, n)
    y, scale = _standard_units(y[..., None], n)
    return X, y[..., 0], noise / scale[:, 0, 0]


def _standard_units(A, n):
    """Return columns centred and scaled by their first n rows, and the scale."""
    centred = A - A[:, :n].mean(1, keepdim=True)
    scale = root_mean_square(centred[:, :n], 1)
    # few rows that are alike by chance would blow up what differs from them
    scale = torch.maximum(scale, _LEAST_SPREAD * root_mean_square(centred, 1))
    return centred / scale, scale


class _Learner(nn.Module):
    """A transformer as skorch calls it: a prompt in, means and deviations out."""

    def __init__(self, config, seed):
        super().__init__()
        self.net = build(config, seed)

    def forward(self, X=None, y=None, X_query=None, noise=None, series=None):
        if series is not None:
            return self.net(series)[:2]
        if X_query is None:
            return self.net.at_every_prefix(X, y)
        return self.net(X_query, self.net.context(X, y, noise))


class _Loss(nn.Module):
    """-log N(y; mean, s^2), weighted by s^(2 beta)  (2203.09168)."""

    def forward(self, answer, y):
        mean, s = answer
        loss = 0.5 * ((y - mean) / s).square() + s.log()
        return (loss * s.detach() ** (2 * BETA)).mean()


class Run:
    """One training: how far it is, and what skorch calls between steps."""

    def __init__(self, n_steps, time_budget, rate, checkpoint, rank, world_size):
        self.n_steps, self.time_budget, self.rate = n_steps, time_budget, rate
        self.path = None if checkpoint is None else Path(checkpoint)
        if self.path is not None and not self.path.resolve().parent.is_dir():
            raise ValueError(f"There is no folder for the checkpoint {checkpoint!r}.")
        self.rank, self.world_size = rank, world_size
        self.settings, self.seed, self.loss = {}, None, None
        self.of_steps = []  # the errors of each step of a chain, by epochs
        self.step, self.before, self.start = 0, 0.0, time.monotonic()

    def same_for_all(self, value):
        """Return the value that the first process has."""
        if self.world_size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, 0)
        return values[0]

    def elapsed(self):
        """Return the seconds of training, those before an interruption included."""
        return self.before + time.monotonic() - self.start

    def progress(self):
        """Return the share of the training that is done, the same for all processes."""
        if self.time_budget is None:
            return self.step / self.n_steps
        return self.same_for_all(self.elapsed() / self.time_budget)

    def rate_now(self, share):
        """Return the learning rate: a rise, then a cosine."""
        rise = _WARM_UP_STEPS
        if self.n_steps is not None:
            rise = max(1, min(rise, int(_WARM_UP_SHARE * self.n_steps)))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        fall = _FINAL_RATE + (1 - _FINAL_RATE) * cosine
        return self.rate * min(1.0, (self.step + 1) / rise) * fall

    def train(
        self,
        config,
        stream,
        start,
        device,
        callbacks,
        verbose,
        seed_matters,
        learner=None,
        loss=None,
    ):
        """Train, and return the weights."""
        from skorch import NeuralNet
        from skorch.callbacks import Callback, ProgressBar

        run = self

        class Between(Callback):
            def on_batch_begin(self, net, training=None, **kwargs):
                rate = run.rate_now(run.share)
                for group in net.optimizer_.param_groups:
                    group["lr"] = rate

            def on_grad_computed(self, net, named_parameters, **kwargs):
                grads = [p.grad for _, p in named_parameters if p.grad is not None]
                if run.world_size > 1:
                    for grad in grads:
                        torch.distributed.all_reduce(grad)
                        grad /= run.world_size
                norm = nn.utils.clip_grad_norm_(
                    net.module_.parameters(), _GRADIENT_NORM
                )
                if not torch.isfinite(norm):
                    raise FloatingPointError(
                        f"The gradient of step {run.step} is not finite. A smaller "
                        "learning_rate may help; see what the prior draws, too."
                    )

            def on_batch_end(self, net, **kwargs):
                run.step += 1

            def on_epoch_end(self, net, **kwargs):
                losses = net.history[-1, "batches", :, "train_loss"]
                run.loss = float(np.median(losses))
                if hasattr(net.criterion_, "of_steps"):
                    run.of_steps.append(net.criterion_.of_steps())
                run.write(net, stream.generator)

        def is_over():
            run.share = run.progress()
            return run.share >= 1

        stream.is_over = is_over
        bar = [("bar", ProgressBar(batches_per_epoch=_EPOCH))] if verbose else []
        net = NeuralNet(
            learner or _Learner,
            module__config=config,
            module__seed=self.seed,
            criterion=loss or _Loss,
            optimizer=torch.optim.AdamW,
            optimizer__weight_decay=0.0,
            lr=self.rate,
            iterator_train=_as_it_comes,
            train_split=None,
            device=device,
            callbacks=[
                ("between", Between()),
                *bar,
                *[(f"given_{i}", callback) for i, callback in enumerate(callbacks)],
            ],
            verbose=verbose,
        )
        if not verbose:
            net.set_params(callbacks__print_log=None)  # it would format what none sees
        net.initialize()
        if start is not None:
            net.module_.net.load_state_dict(start.module(device).state_dict())
        if config["form"] == "series":  # what is drawn is divided by the scale already
            if start is not None:
                stream.series_scale = net.module_.net.scale.clone()
            net.module_.net.scale.fill_(1.0)
        self.read(net, stream.generator, seed_matters)
        net.notify("on_train_begin", X=stream, y=None)
        try:
            while not is_over():
                net.fit_loop(stream, epochs=1)
        except KeyboardInterrupt:
            self.write(net, stream.generator)
            raise
        net.notify("on_train_end", X=stream, y=None)
        state = {
            key: value.detach().cpu().numpy()
            for key, value in net.module_.net.state_dict().items()
        }
        if config["form"] == "series":
            state["scale"] = stream.series_scale.cpu().numpy()
        return state

    def write(self, net, generator):
        """Write a checkpoint, whole or not at all."""
        if self.path is None or self.rank:
            return
        part = self.path.with_name(self.path.name + ".part")
        torch.save(
            {
                "settings": self.settings,
                "module": net.module_.state_dict(),
                "optimizer": net.optimizer_.state_dict(),
                "generator": generator.get_state(),
                "seed": self.seed,
                "step": self.step,
                "loss": self.loss,
                "of_steps": self.of_steps,
                "seconds": self.elapsed(),
            },
            part,
        )
        os.replace(part, self.path)

    def read(self, net, generator, seed_matters):
        """Go on from a checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return
        what = f"The checkpoint {self.path.name!r}"
        try:
            found = torch.load(self.path, weights_only=True, map_location=net.device)
            settings, seed = found["settings"], found["seed"]
        except (
            EOFError,
            IndexError,
            KeyError,
            OSError,
            RuntimeError,
            TypeError,
            UnpicklingError,
            ValueError,
        ):
            raise ValueError(
                f"{what} is damaged, or was not written by pretraining."
            ) from None
        mine = self.settings | {"seed": self.seed if seed_matters else seed}
        theirs = settings | {"seed": seed}
        for key, value in mine.items():
            if value != theirs.get(key):
                raise ValueError(
                    f"{what} is of another training: {key} is {theirs.get(key)!r} "
                    f"there and {value!r} here."
                )
        net.module_.load_state_dict(found["module"])
        net.optimizer_.load_state_dict(found["optimizer"])
        self.seed, self.loss = seed, found["loss"]
        self.of_steps = found.get("of_steps", [])
        if self.rank == 0:
            generator.set_state(found["generator"].cpu())
        else:  # tasks of its own, and not those from the start
            generator.manual_seed(seed + found["step"] * self.world_size + self.rank)
        self.step, self.before = found["step"], found["seconds"]


def endless(stream):
    """Give the batches of an epoch, until training is over."""
    for _ in range(_EPOCH):
        if stream.is_over():
            return
        yield stream.draw()


def _as_it_comes(dataset, **kwargs):
    """Stand in for a DataLoader: batches are made already, and need no copies."""
    return dataset


def count(name, number):
    """Return a whole number from 1 on."""
    if not (isinstance(number, Integral) and number >= 1):
        raise ValueError(f"{name} must be a whole number from 1 on; got {number!r}.")
    return int(number)


def check_budget(n_steps, time_budget):
    """Return the number of steps; None if there is a time instead."""
    if n_steps is not None and time_budget is not None:
        raise ValueError("Give either n_steps or time_budget.")
    if time_budget is None:
        return 5000 if n_steps is None else count("n_steps", n_steps)
    if not (isinstance(time_budget, Real) and time_budget > 0):
        raise ValueError(f"time_budget must be above 0 seconds; got {time_budget!r}.")
    return None


def check_rate(usual, learning_rate):
    """Return the learning rate."""
    rate = usual if learning_rate == "auto" else learning_rate
    if not (isinstance(rate, Real) and rate > 0):
        raise ValueError(f"learning_rate must be 'auto' or above 0; got {rate!r}.")
    return float(rate)


def may_vary(prior, vary_features):
    """Return whether numbers of features are drawn: not if the prior has one."""
    return bool(vary_features) and getattr(prior, "n_features", None) is None


def check_start(start, config):
    """Refuse weights to start from that are of other sizes."""
    if start is not None and not isinstance(start, PretrainedICL):
        raise ValueError(f"start must be a PretrainedICL or None; got {start!r}.")
    if start is not None and start.config != config:
        raise ValueError(
            f"The weights to start from have sizes {start.config}; wanted {config}."
        )


@contextmanager
def processes(device):
    """Join the other processes of `torchrun`, if any: (rank, world size, device)."""
    distributed = torch.distributed
    if not distributed.is_available():
        yield 0, 1, device
        return
    ours = not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1
    if ours and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if ours:
        is_cuda = str(device).startswith("cuda")
        if is_cuda:
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if is_cuda else "gloo")
    try:
        if distributed.is_initialized():
            yield distributed.get_rank(), distributed.get_world_size(), device
        else:
            yield 0, 1, device
    finally:
        if ours:
            distributed.destroy_process_group()
