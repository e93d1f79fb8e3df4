"""min over TF  sum_l  E || TF(p, s^{l-1}) - s^l ||^2 / width  (2305.18869, section 3).

Teacher forcing: at every step of a query, the true one before it is given. Each step
counts the same, however many coordinates it has; else the widest would be all that is
learned at first.
"""

import math

import torch
from sklearn.utils import check_random_state
from torch import nn

from ._composed_priors import draw_steps
from ._pretrain import (
    ADDRESS,
    BETA,
    LENGTH_POWER,
    MOST_SEED,
    Run,
    check_budget,
    check_rate,
    check_start,
    count,
    endless,
    may_vary,
    processes,
)
from ._transformer import root_mean_square
from ._weights import PretrainedICL, build, expected_shapes

_LEARNING_RATE = {"chain": 3e-3, "causal-chain": 1e-3}
# Share of the steps in which the set form sees examples without their steps, and of
# those in which one of the states is another example's: what does not depend on it is
# asked for, so that the filter is learned as well as the steps.
_WITHOUT_STEPS, _SHUFFLED = 0.25, 0.3
_SIZES = {
    "set": {"width": 64, "n_layers": 6, "n_heads": 2, "mlp_ratio": 2},
    "gpt2": {"width": 64, "n_layers": 3, "n_heads": 2, "mlp_ratio": 4},
}


def pretrain_chain_of_thought(
    prior,
    *,
    architecture="set",
    n_features_max=10,
    step_width_max=None,
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
    start=None,
    checkpoint=None,
    callbacks=(),
    verbose=0,
    device="cpu",
    random_state=None,
):
    """Train one transformer to go through the steps of composed tasks.

    It reads examples with all of their steps, and has to find by attention those that a
    step depends on: the filter of theorem 1. For a filter by hand, which takes steps of
    any number and width, train single steps with :func:`pretrain_in_context` and a
    :class:`StepPrior`.

    Parameters
    ----------
    prior : object
        With a method ``sample_steps(n_tasks, n_examples, n_features, *, generator)``
        that returns X, steps and y as :class:`ComposedTasks` has them, such as
        :class:`MLPPrior` or :class:`DeepLinearPrior`.
    architecture : {"set", "gpt2"}, default="set"
        "set" has one token per step of an example, in no order, and answers in all
        three modes. "gpt2" is the paper's: a token for each state, one after the other,
        learned positions, and no examples without steps.
    n_features_max : int, default=10
        The most features of a task.
    step_width_max : int, default=None
        The widest step; that of a first draw if None, or the upper end of a pair of
        widths.
    n_examples_max : int, default=None
        The longest context in training: three times `n_features_max` if None.
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
        is 64, 6, 2 and 2 for "set", and 64, 3, 2 and 4 (the paper's tiny) for "gpt2".
    learning_rate : float, default="auto"
        The highest one: 0.003 for "set", 0.001 for "gpt2". It rises at first, and falls
        as a cosine.
    vary_features : bool, default=True
        Whether tasks have 1 to `n_features_max` features, or always that many, as they
        have if the prior has a number of its own.
    start : PretrainedICL, default=None
        Weights to start from, of the same sizes; drawn at random if None.
    checkpoint : path-like, default=None
        File to which the state of training is written every 500 steps, and when it is
        interrupted; training goes on from it.
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
        The weights. Their card has `errors_of_steps`: for every 500 steps, fewer after
        an interruption, the squared error of y at once and of each step, over the mean
        square of what is asked for.

    Raises
    ------
    ValueError
        If a setting is out of range, settings do not go together, what the prior draws
        is of another shape, or the checkpoint is of another training.
    FloatingPointError
        If the gradient is not finite any more.

    Notes
    -----
    Training needs skorch, which the extra `deep` installs. It goes on under
    ``torchrun``, as :func:`pretrain_in_context` says.

    References
    ----------
    Li, Sreenivasan, Giannou, Papailiopoulos and Oymak, "Dissecting Chain-of-Thought:
    Compositionality through In-Context Filtering and Learning", arXiv:2305.18869.

    Examples
    --------
    >>> from sklearn_attn.in_context import MLPPrior, pretrain_chain_of_thought
    >>> weights = pretrain_chain_of_thought(
    ...     MLPPrior((4,), bias=0.0), n_features_max=3, n_steps=20, random_state=0
    ... )
    >>> weights.form, weights.card["steps"]
    ('chain', 20)
    """
    if not hasattr(prior, "sample_steps"):
        raise ValueError(f"A prior of steps has a `sample_steps`; got {prior!r}.")
    if architecture not in _SIZES:
        raise ValueError(
            f"architecture must be one of {list(_SIZES)}; got {architecture!r}."
        )
    form = "chain" if architecture == "set" else "causal-chain"
    d = count("n_features_max", n_features_max)
    batch_size = count("batch_size", batch_size)
    n_queries = count("n_queries", n_queries)
    n_steps = check_budget(n_steps, time_budget)
    n_max = 3 * d if n_examples_max is None else n_examples_max
    n_max = count("n_examples_max", n_max)
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
    seed = int(check_random_state(random_state).randint(MOST_SEED))
    widths = _widths(prior, d, step_width_max)
    vary_features = may_vary(prior, vary_features)
    config = {
        "form": form,
        "n_features": d,
        "step_width": max(widths[1:-1], default=1),
        "depth": len(widths) - 1,
        "n_outputs": widths[-1],
    }
    if form == "causal-chain":
        config["n_examples"] = n_max + 1
    config |= sizes
    expected_shapes(config)  # complains of sizes that do not go together
    check_start(start, config)
    rate = check_rate(_LEARNING_RATE[form], learning_rate)
    settings = {
        "prior": ADDRESS.sub("", repr(prior)),
        "architecture": architecture,
        "n_features_max": d,
        "n_examples_max": n_max,
        "batch_size": batch_size,
        "n_queries": n_queries,
        "learning_rate": rate,
        "vary_features": bool(vary_features),
        "start": None if start is None else start.card.get("name", start.sha256),
    }
    with processes(device) as (rank, world_size, device):
        run = Run(n_steps, time_budget, rate, checkpoint, rank, world_size)
        run.settings = settings | {"config": config, "world_size": world_size}
        run.seed = run.same_for_all(seed)
        generator = torch.Generator(device=device).manual_seed(run.seed + rank)
        stream = _Stream(
            prior, form, widths, n_max, batch_size, n_queries, vary_features, generator
        )
        state = run.train(
            config,
            stream,
            start,
            device,
            callbacks,
            verbose,
            random_state is not None,
            _Learner,
            _Loss,
        )
    card = settings | {
        "steps": run.step,
        "tasks": run.step * batch_size * world_size,
        "seconds": round(run.elapsed(), 3),
        "seed": run.seed,
        "final_loss": run.loss,
        "errors_of_steps": run.of_steps,
        "torch": torch.__version__,
        "device": str(device),
    }
    return PretrainedICL(config, state, card)


def _widths(prior, n_features, step_width_max):
    """Return the most coordinates of each state: those of a first draw, or more."""
    first = torch.Generator().manual_seed(0)
    drawn = draw_steps(prior, 1, 2, n_features, generator=first)
    widths = [state.shape[2] for state in drawn.states]
    sizes = getattr(prior, "hidden_layer_sizes", ())
    most = [size[-1] if isinstance(size, tuple) else size for size in sizes]
    widest = max([*widths[1:-1], *most], default=1)
    if step_width_max is None:
        step_width_max = widest
    if count("step_width_max", step_width_max) < widest:
        raise ValueError(
            f"step_width_max={step_width_max}; {prior!r} has steps of width {widest}."
        )
    return [n_features, *[step_width_max] * (len(widths) - 2), widths[-1]]


class _Stream(torch.utils.data.IterableDataset):
    """Batches without end: examples with steps, and queries with all of theirs."""

    def __init__(self, prior, form, widths, n_max, batch_size, q, vary, generator):
        self.prior, self.form, self.generator = prior, form, generator
        self.widths, self.n_max, self.B, self.q = widths, n_max, batch_size, q
        self.vary = vary
        self.is_over = bool  # False, until training sets it

    def __iter__(self):
        return endless(self)

    def draw(self):
        """Return a batch (prompt, targets)."""
        d, n = self.widths[0], self.n_max + 1
        if self.vary:
            d = max(1, math.ceil(d * math.sqrt(self._uniform())))
        is_set = self.form == "chain"
        if is_set:
            n = 1 + int(self.n_max * self._uniform() ** LENGTH_POWER * (1 - 1e-9))
        rows = n + self.q if is_set else n
        drawn = draw_steps(self.prior, self.B, rows, d, generator=self.generator)
        widths = [s.shape[2] for s in drawn.states]
        is_deep = len(widths) == len(self.widths)
        if not is_deep or any(a > b for a, b in zip(widths, self.widths)):
            raise ValueError(
                f"{self.prior!r} drew states of widths {widths}; the network takes "
                f"{self.widths}. step_width_max makes room for wider steps."
            )
        # of each state its own unit, in which errors are counted, too
        states = [s / root_mean_square(s, (1, 2)) for s in drawn.states]
        depth = len(states) - 1
        counts = torch.ones(depth + 1, device=self.generator.device)
        if not is_set:
            targets = [states[-1], *states[1:]]
            return {"states": states}, {"targets": targets, "counts": counts}
        queries = [s[:, n:] for s in states]
        examples = [s[:, :n] for s in states]
        which = self._uniform()
        if which < _WITHOUT_STEPS:
            prompt = {"ends": [examples[0], examples[-1]], "queries": queries[:1]}
            return prompt, {"targets": [queries[-1]], "counts": counts[:1]}
        if which > 1 - _SHUFFLED and depth > 1:
            j = int(self._uniform() * (depth + 1))
            order = torch.randperm(
                n, generator=self.generator, device=self.generator.device
            )
            examples[j] = examples[j][:, order]
            counts[[k for k in (j, j + 1) if k <= depth]] = 0  # steps to it and from it
            counts[0] = 0 < j < depth
        prompt = {"states": examples, "queries": queries[:-1]}
        targets = [queries[-1], *queries[1:]]
        return prompt, {"targets": targets, "counts": counts}

    def _uniform(self):
        device = self.generator.device
        return float(torch.rand((), generator=self.generator, device=device))


class _Learner(nn.Module):
    """A chain as skorch calls it: a prompt in, means and deviations out, by steps."""

    def __init__(self, config, seed):
        super().__init__()
        self.net = build(config, seed)

    def forward(self, states=None, queries=None, ends=None):
        if queries is None:
            return list(self.net.at_every_prefix(states).values())
        if ends is not None:
            cache = self.net.context(ends, with_steps=False)
            return list(self.net({0: queries[0]}, cache).values())
        cache = self.net.context(states)
        inputs = {0: queries[0]} | {i + 1: s for i, s in enumerate(queries)}
        return list(self.net(inputs, cache).values())


class _Loss(nn.Module):
    """The loss of each step, weighted as for single tasks, and their mean."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, answers, asked):
        losses, errors, counts = [], [], asked["counts"]
        for (mean, s), target in zip(answers, asked["targets"]):
            square = (target - mean).square()
            loss = 0.5 * square / s.square() + s.log()
            losses.append((loss * s.detach() ** (2 * BETA)).mean())
            errors.append(square.detach().mean())
        if len(errors) > 1:  # else there are no steps in the prompt
            hidden = torch.where(counts > 0, 0.0, math.nan)
            self.seen.append(torch.stack(errors) + hidden)
        return (torch.stack(losses) * counts).sum() / counts.sum()

    def of_steps(self):
        """Return the median error of y at once, s^1, ..., s^L since the last call."""
        seen, self.seen = self.seen, []
        if not seen:
            return []
        return [round(value, 6) for value in torch.stack(seen).nanmedian(0)[0].tolist()]
