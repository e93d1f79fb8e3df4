"""s^_l = TF(p, s^_{l-1}),  l = 1, ..., L:  a chain of thought  (2305.18869).

One network reads examples with all of their steps, and is to find by attention those
that a step depends on: the filter of theorem 1. Two forms, as for single tasks. In the
set form a token is one step (s_i^{l-1}, s_i^l) of an example, read by a matrix of its
own for each l, and tokens have no order. The causal form is the paper's: tokens
x_1, s_1^1, ..., y_1, x_2, ... of GPT-2.

Kind 0 of token is the whole task, from x to y in one step.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ._transformer import (
    LEAST_STD,
    CausalTransformer,
    ContextNorm,
    SetBlock,
    draw_linear,
    root_mean_square,
)

# Beside a token's two states: whether there is a target, and sqrt(d / n).
_SIDE = 2


class ChainTransformer(nn.Module):
    """A chain of thought in the set form, exact under permutations of examples.

    All states are divided by the root mean square of the context's, each by its own.
    Fewer coordinates than the most are padded by zeros.

    Parameters
    ----------
    n_features, step_width, n_outputs : int
        The most coordinates of x, of a step, and of y.
    depth : int
        Number L of steps, the last one, to y, included.
    width, n_layers, n_heads, mlp_ratio : int
        As in :class:`SetTransformer`.
    """

    def __init__(
        self,
        n_features,
        step_width,
        depth,
        n_outputs=1,
        *,
        width=64,
        n_layers=6,
        n_heads=2,
        mlp_ratio=2,
    ):
        super().__init__()
        self.depth = depth
        self.widths = state_widths(n_features, step_width, depth, n_outputs)
        self.read_in = nn.ModuleList(
            draw_linear(self.widths[a] + self.widths[b] + _SIDE, width)
            for a, b in map(self.ends, range(depth + 1))
        )
        self.blocks = nn.ModuleList(
            SetBlock(width, n_heads, mlp_ratio, n_layers) for _ in range(n_layers)
        )
        self.norm = ContextNorm(width)
        self.read_out = nn.ModuleList(
            draw_linear(width, 2 * self.widths[b])
            for _, b in map(self.ends, range(depth + 1))
        )

    def ends(self, kind):
        """Return which state a kind of token leads from, and which to."""
        return (0, self.depth) if kind == 0 else (kind - 1, kind)

    def context(self, states, *, with_steps=True):
        """Read examples.

        Parameters
        ----------
        states : list of torch.Tensor of shape (n_tasks, n, width)
            The states s^0, ..., s^L of the examples; without steps, s^0 and s^L.
        with_steps : bool, default=True
            Whether there are steps; else only whole tasks are read.

        Returns
        -------
        dict
            Scales, keys and values of all layers: all that queries need.
        """
        scales = [root_mean_square(s, (1, 2)) for s in states]
        if not with_steps:
            states = [states[0], *[None] * (self.depth - 1), states[-1]]
            scales = [scales[0], *[None] * (self.depth - 1), scales[-1]]
        n = states[0].shape[1]
        cache = {
            "scales": scales,
            "shapes": [None if s is None else s.shape[2] for s in states],
            "n": n,
            "layers": [],
        }
        kinds = range(self.depth + 1) if with_steps else (0,)
        tokens = torch.cat(
            [
                self._token(kind, states[a], cache, states[b])
                for kind, (a, b) in zip(kinds, map(self.ends, kinds))
            ],
            1,
        )
        for block in self.blocks:
            tokens, layer = block.context(tokens)
            cache["layers"].append(layer)
        cache["scale"] = self.norm.scale(tokens)
        return cache

    def forward(self, inputs, cache):
        """Answer one step of each query, the true state before it given.

        Parameters
        ----------
        inputs : dict of int to torch.Tensor of shape (n_tasks, q, width)
            For each kind of token that is asked for, the states it leads from.
        cache : dict
            What :meth:`context` returned.

        Returns
        -------
        dict of int to (torch.Tensor, torch.Tensor)
            For each kind, means and deviations of the states it leads to.
        """
        tokens = torch.cat([self._token(c, a, cache) for c, a in inputs.items()], 1)
        for block, layer in zip(self.blocks, cache["layers"]):
            tokens = block(tokens, layer)
        tokens = self.norm(tokens, cache["scale"])
        parts = tokens.split([a.shape[1] for a in inputs.values()], 1)
        answers = {}
        for kind, part in zip(inputs, parts):
            _, b = self.ends(kind)
            k, scale = cache["shapes"][b], cache["scales"][b]
            mean, spread = self.read_out[kind](part).chunk(2, -1)
            std = F.softplus(spread[..., :k]) + LEAST_STD
            answers[kind] = (mean[..., :k] * scale, std * scale)
        return answers

    def rollout(self, X, cache, given=None, constants=None):
        """Go through the steps of queries, each from what was answered before.

        Parameters
        ----------
        X : torch.Tensor of shape (n_tasks, q, n_features)
            Queries.
        cache : dict
            What :meth:`context` returned.
        given : dict of int to torch.Tensor, default=None
            True steps, by their number from 1 on, that the next step goes on from.
        constants : list of (torch.Tensor, torch.Tensor), default=None
            For each step a 1 where a coordinate never changes, else 0, and the values.

        Returns
        -------
        means, stds : list of torch.Tensor of shape (n_tasks, q, width)
            Answers for s^1, ..., s^L, and their deviations.
        """
        given = given or {}
        state, means, stds = X, [], []
        for kind in range(1, self.depth + 1):
            mean, std = self({kind: state}, cache)[kind]
            mean = _keep(mean, constants, kind)
            means.append(mean)
            stds.append(std)
            state = given.get(kind, mean)
        return means, stds

    def direct(self, X, cache):
        """Answer y at once: means and deviations (n_tasks, q, n_outputs)."""
        return self({0: X}, cache)[0]

    def _token(self, kind, start, cache, end=None):
        """Return the tokens of a kind, with or without a target."""
        a, b = self.ends(kind)
        B, n, d = start.shape
        most = self.widths[a]
        token = start.new_zeros(B, n, most + self.widths[b] + _SIDE)
        token[..., :d] = start / cache["scales"][a] * math.sqrt(most / d)
        if end is not None:
            token[..., most : most + end.shape[2]] = end / cache["scales"][b]
            token[..., -2] = 1.0
        token[..., -1] = math.sqrt(d / cache["n"])
        return self.read_in[kind](token)


class CausalChain(nn.Module):
    """The paper's chain of thought: GPT-2 on prompts x_1, s_1^1, ..., y_1, x_2, ...

    It answers at every token: the next state, and at an x also y at once. The answer
    depends on the order of the examples.

    Parameters
    ----------
    n_features, step_width, depth, n_outputs : int
        As in :class:`ChainTransformer`.
    n_examples : int
        The most examples of a prompt, the query included.
    **sizes : int
        `width`, `n_layers`, `n_heads` and `mlp_ratio` of :class:`CausalTransformer`.
    """

    def __init__(
        self, n_features, step_width, depth, n_outputs=1, *, n_examples, **sizes
    ):
        super().__init__()
        self.depth = depth
        self.widths = state_widths(n_features, step_width, depth, n_outputs)
        self.starts = [sum(self.widths[:i]) for i in range(depth + 2)]
        self.net = CausalTransformer(
            self.starts[-1] + depth + 1,
            self.starts[-1],  # the place of x is that of y at once, if wide enough
            n_examples * (depth + 1),
            **sizes,
        )
        if n_outputs > n_features:
            raise ValueError("The causal form takes no more outputs than features.")

    def context(self, states, *, with_steps=True):
        """Read examples with their steps. See :class:`ChainTransformer`."""
        if not with_steps:
            raise ValueError("The causal form reads examples with steps only.")
        cache = self._units(states)
        cache["past"] = self.net(self._prompt(states, cache))[2]
        return cache

    def at_every_prefix(self, states):
        """Answer all steps of each example after those before it.

        States are divided by the root mean square of the whole prompt's, as in
        training; :meth:`context` knows the examples only.

        Parameters
        ----------
        states : list of torch.Tensor of shape (n_tasks, n, width)
            The states s^0, ..., s^L.

        Returns
        -------
        dict of int to (torch.Tensor, torch.Tensor)
            Means and deviations by kinds of tokens, as :class:`ChainTransformer` has
            them, the true steps before each given.
        """
        cache = self._units(states)
        mean, std, _ = self.net(self._prompt(states, cache))
        every = self.depth + 1
        answers = {0: self._read(mean[:, ::every], std[:, ::every], 0, cache)}
        for kind in range(1, every):
            at = slice(kind - 1, None, every)
            answers[kind] = self._read(mean[:, at], std[:, at], kind, cache)
        return answers

    def rollout_at_every_prefix(self, states):
        """Go through the steps of each example, after the true ones before it.

        The true examples are read once. All positions then go on at the same time,
        each from the keys and values before it. Units are those of
        :meth:`at_every_prefix`.

        Parameters
        ----------
        states : list of torch.Tensor of shape (n_tasks, n, width)
            The states s^0, ..., s^L.

        Returns
        -------
        list of torch.Tensor of shape (n_tasks, n, width)
            Answers for s^1, ..., s^L.
        """
        cache = self._units(states)
        n, every = states[0].shape[1], self.depth + 1
        past = self.net(self._prompt(states, cache))[2]
        starts = every * torch.arange(n, device=states[0].device)
        sees = torch.arange(every * n, device=starts.device) < starts[:, None]
        own, state, found = None, states[0], []
        for kind in range(1, every):
            token = self._token(kind - 1, state, cache)
            places = starts + kind - 1
            mean, std, own = self.net.branch(token, places, past, own, sees)
            state, _ = self._read(mean, std, kind, cache)
            found.append(state)
        return found

    def rollout(self, X, cache, given=None, constants=None):
        """Go through the steps of queries. See :class:`ChainTransformer`."""
        given = given or {}
        B, q, _ = X.shape
        past = self._repeat(cache["past"], q)
        state, means, stds = X, [], []
        for kind in range(1, self.depth + 1):
            token = self._token(kind - 1, state, cache).flatten(0, 1)[:, None]
            mean, std, past = self.net(token, past)
            mean, std = (part.view(B, q, -1) for part in (mean, std))
            mean, std = self._read(mean, std, kind, cache)
            mean = _keep(mean, constants, kind)
            means.append(mean)
            stds.append(std)
            state = given.get(kind, mean)
        return means, stds

    def direct(self, X, cache):
        """Answer y at once: means and deviations (n_tasks, q, n_outputs)."""
        B, q, _ = X.shape
        token = self._token(0, X, cache).flatten(0, 1)[:, None]
        mean, std, _ = self.net(token, self._repeat(cache["past"], q))
        return self._read(mean.view(B, q, -1), std.view(B, q, -1), 0, cache)

    @staticmethod
    def _repeat(past, q):
        if past is None or q == 1:
            return past
        return [tuple(part.repeat_interleave(q, 0) for part in pair) for pair in past]

    def _units(self, states):
        return {
            "scales": [root_mean_square(s, (1, 2)) for s in states],
            "shapes": [s.shape[2] for s in states],
        }

    def _prompt(self, states, cache):
        """Return the tokens (n_tasks, n * (L + 1), ...) of examples, in their order."""
        tokens = [self._token(i, state, cache) for i, state in enumerate(states)]
        return torch.stack(tokens, 2).flatten(1, 2)

    def _token(self, i, state, cache):
        B, n, d = state.shape
        token = state.new_zeros(B, n, self.net.n_inputs)
        start, most = self.starts[i], self.widths[i]
        scaled = state / cache["scales"][i] * math.sqrt(most / d)
        token[..., start : start + d] = scaled
        token[..., self.starts[-1] + i] = 1.0
        return token

    def _read(self, mean, std, kind, cache):
        """Return what was answered for the state that a kind leads to, in its units."""
        b = kind or self.depth
        at = slice(self.starts[kind], self.starts[kind] + cache["shapes"][b])
        scale = cache["scales"][b]
        return mean[..., at] * scale, std[..., at] * scale


def _keep(mean, constants, kind):
    """Put constants where a coordinate of a step never changes."""
    if constants is None:
        return mean
    is_constant, value = constants[kind - 1]
    return torch.where(is_constant > 0, value, mean)


def state_widths(n_features, step_width, depth, n_outputs):
    """Return the most coordinates of s^0, ..., s^L."""
    return [n_features, *[step_width] * (depth - 1), n_outputs]
