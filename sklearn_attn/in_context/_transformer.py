"""TF(p) with layers  X <- X + Att(X),  X <- X + MLP(X)  (2301.07067, section 3.1).

Two forms. The set form reads an example as one token, in no order; queries see the
context and themselves, nothing else. The causal form is the papers': interleaved tokens
with learned positions, each of which sees those before it (GPT-2).

A head attends either by softmax, or linearly as k'q / n: the second makes a step of
gradient descent on least squares in one layer (2212.07677), the first tells examples
apart. The set form has both, which reaches the same error in half of the steps.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

# Standard deviation of initial weights, GPT-2's; what returns to the stream is smaller.
_INIT_STD = 0.02
# Least standard deviation that is predicted, in units of the context's targets.
LEAST_STD = 1e-3
# Beside a row's features: target, whether there is one, sqrt(d / n), noise, if known.
_SIDE = 5


class _Linear(nn.Linear):
    """A linear layer whose weights are loaded, or drawn by `draw_weights`."""

    std: float | None = None  # uniform as usual if None

    def reset_parameters(self):
        """Draw nothing: that would take numbers of torch's own generator."""


class ContextNorm(nn.Module):
    """Divides tokens by the root mean square of the context's, all of them together.

    A norm for each token, as usual, would lose how long an input is, and with it what
    is linear in it.
    """

    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def scale(self, context):
        """Return the scale (B, 1, 1) of a context (B, n, D)."""
        return (context.square().mean((1, 2), keepdim=True) + 1e-6).rsqrt()

    def forward(self, tokens, scale):
        return tokens * scale * self.gain


class SetBlock(nn.Module):
    """One layer of the set form, first for the context and then for queries."""

    def __init__(self, width, n_heads, mlp_ratio, n_layers):
        super().__init__()
        self.n_heads, self.n_linear = n_heads, n_heads // 2
        self.norm = ContextNorm(width)
        self.project = _Linear(width, 3 * width, bias=False)
        self.merge = _Linear(width, width, bias=False)
        self.mlp_norm = ContextNorm(width)
        self.up = _Linear(width, mlp_ratio * width)
        self.down = _Linear(mlp_ratio * width, width)
        self.merge.std = self.down.std = 3 * _INIT_STD / math.sqrt(2 * n_layers)

    def _heads(self, tokens, scale):
        z = self.project(self.norm(tokens, scale))
        B, N, _ = z.shape
        q, k, v = z.view(B, N, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # (B,H,N,c)
        return q / math.sqrt(q.shape[-1]), k, v

    def _finish(self, tokens, linear, softmax, cache):
        heads = torch.cat([linear, softmax], 1).transpose(1, 2).flatten(2)
        tokens = tokens + self.merge(heads)
        if cache["mlp_scale"] is None:
            cache["mlp_scale"] = self.mlp_norm.scale(tokens)
        z = self.mlp_norm(tokens, cache["mlp_scale"])
        return tokens + self.down(F.gelu(self.up(z)))

    def context(self, tokens):
        """Return the context's tokens after this layer, and what queries need of it."""
        m = self.n_linear
        scale = self.norm.scale(tokens)
        q, k, v = self._heads(tokens, scale)
        moments = k[:, :m].mT @ v[:, :m] / tokens.shape[1]  # (B, m, c, c)
        cache = {"scale": scale, "moments": moments, "mlp_scale": None}
        cache |= {"keys": k[:, m:], "values": v[:, m:]}
        softmax = F.scaled_dot_product_attention(
            q[:, m:], k[:, m:], v[:, m:], scale=1.0
        )
        return self._finish(tokens, q[:, :m] @ moments, softmax, cache), cache

    def forward(self, tokens, cache):
        """Return the tokens of queries after this layer."""
        m = self.n_linear
        q, k, v = self._heads(tokens, cache["scale"])
        scores = q[:, m:] @ cache["keys"].mT
        own = (q[:, m:] * k[:, m:]).sum(-1, keepdim=True)
        weights = torch.softmax(torch.cat([scores, own], -1), -1)
        softmax = weights[..., :-1] @ cache["values"] + weights[..., -1:] * v[:, m:]
        return self._finish(tokens, q[:, :m] @ cache["moments"], softmax, cache)


class SetTransformer(nn.Module):
    """In-context regression, exact under permutations of examples and of queries.

    The inputs are divided by one number, the root mean square of the context's, and
    so are the targets; the answer is multiplied by it. Fewer features than the most
    are padded by zeros, and the rest made larger by sqrt(n_features / d).

    Parameters
    ----------
    n_features : int
        The most features of a row.
    width, n_layers, n_heads : int
        Size of tokens, number of layers, and of heads, half of which are linear.
    mlp_ratio : int
        Hidden units of each MLP, in multiples of the width.
    """

    def __init__(self, n_features, *, width=64, n_layers=4, n_heads=2, mlp_ratio=2):
        super().__init__()
        self.n_features = n_features
        self.read_in = _Linear(n_features + _SIDE, width)
        self.blocks = nn.ModuleList(
            SetBlock(width, n_heads, mlp_ratio, n_layers) for _ in range(n_layers)
        )
        self.norm = ContextNorm(width)
        self.read_out = _Linear(width, 2)

    def context(self, X, y, noise=None):
        """Read the context.

        Parameters
        ----------
        X : torch.Tensor of shape (n_tasks, n, d)
            Rows of 1 to `n_features` features.
        y : torch.Tensor of shape (n_tasks, n)
            Their targets.
        noise : torch.Tensor of shape (n_tasks,), default=None
            The standard deviation of the noise in y, where it is known, else NaN.

        Returns
        -------
        dict
            Scales, keys and values of all layers: all that queries need.
        """
        x_scale = root_mean_square(X, (1, 2)) / math.sqrt(self.n_features / X.shape[2])
        y_scale = root_mean_square(y[..., None], (1, 2))
        side = X.new_zeros(len(X), _SIDE)
        side[:, 2] = math.sqrt(X.shape[2] / X.shape[1])
        if noise is not None:
            known = ~noise.isnan()
            side[:, 3] = torch.where(known, noise / y_scale[:, 0, 0], 0.0).clamp(max=10)
            side[:, 4] = known.to(X.dtype)
        tokens = self._tokens(X / x_scale, side, y / y_scale[..., 0])
        layers = []
        for block in self.blocks:
            tokens, cache = block.context(tokens)
            layers.append(cache)
        return {
            "x_scale": x_scale,
            "y_scale": y_scale,
            "side": side,
            "layers": layers,
            "scale": self.norm.scale(tokens),
        }

    def forward(self, X, cache):
        """Answer queries.

        Parameters
        ----------
        X : torch.Tensor of shape (n_tasks, q, d)
            Rows to predict for.
        cache : dict
            What :meth:`context` returned.

        Returns
        -------
        mean, std : torch.Tensor of shape (n_tasks, q)
            What is expected of a new target, and its standard deviation.
        """
        tokens = self._tokens(X / cache["x_scale"], cache["side"])
        for block, layer in zip(self.blocks, cache["layers"]):
            tokens = block(tokens, layer)
        mean, spread = self.read_out(self.norm(tokens, cache["scale"])).unbind(-1)
        y_scale = cache["y_scale"][..., 0]
        return mean * y_scale, (F.softplus(spread) + LEAST_STD) * y_scale

    def _tokens(self, X, side, y=None):
        B, n, d = X.shape
        tokens = X.new_zeros(B, n, self.n_features + _SIDE)
        tokens[..., :d] = X
        tokens[..., self.n_features :] = side[:, None]
        if y is not None:
            tokens[..., self.n_features] = y
            tokens[..., self.n_features + 1] = 1.0
        return self.read_in(tokens)


class CausalBlock(nn.Module):
    """One layer of GPT-2: norms first, then attention and a network."""

    def __init__(self, width, n_heads, mlp_ratio, n_layers):
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.project = _Linear(width, 3 * width)
        self.merge = _Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = _Linear(width, mlp_ratio * width)
        self.down = _Linear(mlp_ratio * width, width)
        self.project.std = self.up.std = _INIT_STD
        self.merge.std = self.down.std = _INIT_STD / math.sqrt(2 * n_layers)

    def forward(self, tokens, past=None):
        """Return the tokens after this layer, and keys and values (B, H, T, c)."""
        B, T, _ = tokens.shape
        z = self.project(self.norm(tokens)).view(B, T, 3, self.n_heads, -1)
        q, k, v = z.permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        if past is None or T == 1:
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        else:
            sees = torch.ones(T, k.shape[2], dtype=torch.bool, device=k.device)
            heads = F.scaled_dot_product_attention(
                q, k, v, attn_mask=sees.tril(k.shape[2] - T)
            )
        return self._finish(tokens, heads), (k, v)

    def branch(self, tokens, past, own, sees):
        """Go one token on from many places of the same sequences.

        Parameters
        ----------
        tokens : torch.Tensor of shape (B, n, D)
            One token for each of n branches.
        past : tuple of torch.Tensor of shape (B, H, T, c)
            Keys and values of the sequences.
        own : tuple of torch.Tensor of shape (B, H, n, t, c), or None
            Keys and values of earlier tokens of each branch.
        sees : torch.Tensor of bool of shape (n, T)
            Which tokens of its sequence each branch follows.

        Returns
        -------
        tokens : torch.Tensor of shape (B, n, D)
            The tokens after this layer.
        own : tuple of torch.Tensor of shape (B, H, n, t + 1, c)
            Keys and values of the branches, with these.
        """
        B, n, _ = tokens.shape
        z = self.project(self.norm(tokens)).view(B, n, 3, self.n_heads, -1)
        q, k, v = z.permute(2, 0, 3, 1, 4)  # (B, H, n, c)
        k, v = k[:, :, :, None], v[:, :, :, None]
        if own is not None:
            k, v = torch.cat([own[0], k], 3), torch.cat([own[1], v], 3)
        scores = (q @ past[0].mT).masked_fill(~sees, -math.inf)
        scores = torch.cat([scores, (k @ q[..., None])[..., 0]], -1)
        weights = torch.softmax(scores / math.sqrt(q.shape[-1]), -1)
        before, here = weights.split([past[0].shape[2], k.shape[3]], -1)
        heads = before @ past[1] + (here[..., None] * v).sum(3)
        return self._finish(tokens, heads), (k, v)

    def _finish(self, tokens, heads):
        tokens = tokens + self.merge(heads.transpose(1, 2).flatten(2))
        hidden = F.gelu(self.up(self.mlp_norm(tokens)), approximate="tanh")
        return tokens + self.down(hidden)


class CausalTransformer(nn.Module):
    """GPT-2 on vectors instead of words: each token sees those before it.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Numbers in a token, and in an answer. If they are the same, answers are the
        next tokens, and all are divided by `scale`, a number of the weights.
    n_positions : int
        The longest sequence; each place in it has a vector that is learned.
    width, n_layers, n_heads, mlp_ratio : int
        As in :class:`SetTransformer`.
    """

    def __init__(
        self,
        n_inputs,
        n_outputs,
        n_positions,
        *,
        width=64,
        n_layers=3,
        n_heads=2,
        mlp_ratio=4,
    ):
        super().__init__()
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.n_positions = n_positions
        self.register_buffer("scale", torch.ones(()))
        self.read_in = _Linear(n_inputs, width)
        self.positions = nn.Parameter(torch.zeros(n_positions, width))
        self.blocks = nn.ModuleList(
            CausalBlock(width, n_heads, mlp_ratio, n_layers) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.read_out = _Linear(width, 2 * n_outputs)

    def forward(self, tokens, past=None):
        """Answer at every token.

        Parameters
        ----------
        tokens : torch.Tensor of shape (B, T, n_inputs)
            The tokens, or those that follow what is in `past`.
        past : list, default=None
            What an earlier call returned: keys and values of each layer.

        Returns
        -------
        mean, std : torch.Tensor of shape (B, T, n_outputs)
            What is expected next, and its standard deviation.
        past : list
            Keys and values of each layer, those of `tokens` with them.
        """
        start = 0 if past is None else past[0][0].shape[2]
        places = self.positions[start : start + tokens.shape[1]]
        z = self.read_in(tokens / self.scale) + places
        kept = []
        for i, block in enumerate(self.blocks):
            z, pair = block(z, None if past is None else past[i])
            kept.append(pair)
        return *self._answer(z), kept

    def branch(self, tokens, places, past, own, sees):
        """Answer at one token more for each of many branches of the same sequences.

        Parameters
        ----------
        tokens : torch.Tensor of shape (B, n, n_inputs)
            One token for each of n branches.
        places : torch.Tensor of int of shape (n,)
            Their places in the sequence.
        past, own, sees : list, list or None, torch.Tensor
            For each layer, keys and values of the sequences and of the branches; and
            what these follow, as :class:`CausalBlock` has them.

        Returns
        -------
        mean, std : torch.Tensor of shape (B, n, n_outputs)
            What is expected next, and its standard deviation.
        own : list
            Keys and values of the branches in each layer, with these.
        """
        z = self.read_in(tokens / self.scale) + self.positions[places]
        kept = []
        for i, block in enumerate(self.blocks):
            z, pair = block.branch(z, past[i], None if own is None else own[i], sees)
            kept.append(pair)
        return *self._answer(z), kept

    def _answer(self, z):
        mean, spread = self.read_out(self.norm(z)).chunk(2, -1)
        std = F.softplus(spread) + LEAST_STD
        return mean * self.scale, std * self.scale


class CausalLearner(nn.Module):
    """The papers' learner: GPT-2 on prompts x_1, y_1, x_2, y_2, ...

    Targets are divided by the root mean square of the context's, which depends on no
    query. The answer depends on the order of the examples.

    Parameters
    ----------
    n_features : int
        The most features of a row; fewer are padded by zeros.
    n_examples : int
        The most examples of a prompt, the query included.
    **sizes : int
        `width`, `n_layers`, `n_heads` and `mlp_ratio` of :class:`CausalTransformer`.
    """

    def __init__(self, n_features, n_examples, **sizes):
        super().__init__()
        self.n_features = n_features
        self.net = CausalTransformer(n_features + 2, 1, 2 * n_examples, **sizes)

    def at_every_prefix(self, X, y):
        """Return means and deviations (B, n) for y_i after i - 1 examples, and x_i."""
        mean, std, _ = self.net(interleave(self._pad(X), y))
        return mean[:, ::2, 0], std[:, ::2, 0]

    def context(self, X, y, noise=None):
        """Read the examples; `noise` is not used. See :class:`SetTransformer`."""
        y_scale = root_mean_square(y, 1)
        last = X.new_zeros(len(X), 1, X.shape[2])
        tokens = interleave(torch.cat([self._pad(X), self._pad(last)], 1), y / y_scale)
        return {"y_scale": y_scale, "past": self.net(tokens[:, :-1])[2]}

    def forward(self, X, cache):
        """Answer queries, each as if it were the only one."""
        B, q, _ = X.shape
        x = self._pad(X).flatten(0, 1)[:, None]
        token = torch.cat([x, x.new_zeros(B * q, 1, 2)], -1)
        past = [
            tuple(part.repeat_interleave(q, 0) for part in pair)
            for pair in cache["past"]
        ]
        mean, std, _ = self.net(token, past)
        scale = cache["y_scale"]
        return mean.view(B, q) * scale, std.view(B, q) * scale

    def _pad(self, X):
        d = X.shape[-1]
        X = X * math.sqrt(self.n_features / d)
        return F.pad(X, (0, self.n_features - d))


def draw_weights(module, generator):
    """Draw first weights, by a generator of its own.

    Parameters
    ----------
    module : torch.nn.Module
        A transformer; its weights are overwritten.
    generator : torch.Generator
        Draws them.
    """
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, _Linear):
                bound = 1 / math.sqrt(part.in_features)
                if part.std is None:
                    part.weight.uniform_(-bound, bound, generator=generator)
                else:
                    part.weight.normal_(0, part.std, generator=generator)
                if part.bias is not None and part.std is None:
                    part.bias.uniform_(-bound, bound, generator=generator)
                elif part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, CausalTransformer):
                part.positions.normal_(0, _INIT_STD, generator=generator)


def draw_linear(n_inputs, n_outputs):
    """Return a linear layer whose weights are still to be drawn or loaded."""
    return _Linear(n_inputs, n_outputs)


def interleave(X, y):
    """Return the papers' prompt x_1, y_1, x_2, ..., each with a mark of what it is.

    Parameters
    ----------
    X : torch.Tensor of shape (B, n, d)
        Inputs.
    y : torch.Tensor of shape (B, n)
        Targets. The last one is the question, and is left out.

    Returns
    -------
    torch.Tensor of shape (B, 2n - 1, d + 2)
        Tokens (x, 0, 0) and (0, y, 1).
    """
    B, n, d = X.shape
    tokens = X.new_zeros(B, 2 * n, d + 2)
    tokens[:, ::2, :d] = X
    tokens[:, 1 : 2 * n - 1 : 2, d] = y[:, : n - 1]
    tokens[:, 1::2, d + 1] = 1.0
    return tokens[:, :-1]  # (B, 2n - 1, d + 2)


def root_mean_square(z, axes):
    """Return the root mean square, kept as axes of length 1; of zeros, it is 1."""
    size = z.abs().amax(axes, keepdim=True)
    size = torch.where(size > 0, size, 1.0)  # first, or squares of large ones overflow
    mean = (z / size).square().mean(axes, keepdim=True)
    return torch.where(mean > 0, mean, 1.0).sqrt() * size
