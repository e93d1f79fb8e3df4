"""phi_a = psi_L^{a[L]} o ... o psi_1^{a[1]},  psi(x) = act(B x + c)  (2303.04338).

Rows that take the same module go through it together, so that the cost of a layer
grows with its modules and not with the number of tasks.
"""

import torch
from torch import nn
from torch.nn import functional as F


def _identity(x):
    return x


ACTIVATIONS = {
    "identity": _identity,
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "silu": F.silu,
}
# By what the first weights make up for the variance that an activation takes, as in
# `torch.nn.init.calculate_gain`; of those that it lacks, the nearest.
_GAINS = {
    "relu": 2**0.5,
    "gelu": 2**0.5,
    "silu": 2**0.5,
    "tanh": 5 / 3,
}
# Seeds that a generator hands to the modules of the user.
_MOST_SEED = 2**31 - 1


class DeepSupernet(nn.Module):
    """The modules of a supernet, as a module of torch.

    With the activation "identity" there is no bias: this is the linear supernet.

    Parameters
    ----------
    net : Supernet
        The layers.
    activation : str, default="relu"
        One of `ACTIVATIONS`; follows each layer.
    module : callable, default=None
        ``module(in_features, out_features)`` returns a module of torch, to be used in
        place of a linear map and its activation.
    generator : torch.Generator
        A generator of the CPU, for the first weights.
    dtype : torch.dtype, default=torch.float64
        Of the weights.
    device : torch.device, default=None
        Of the weights; None is the CPU.

    Attributes
    ----------
    weights : torch.nn.ParameterList
        B of each layer, of shape (K_l, r_l, r_{l-1}); empty with modules of the user.
    biases : torch.nn.ParameterList
        c of each layer, of shape (K_l, r_l); empty without.
    modules_of_user : torch.nn.ModuleList
        A list of modules for each layer; empty without.
    """

    def __init__(
        self,
        net,
        *,
        activation="relu",
        module=None,
        generator,
        dtype=torch.float64,
        device=None,
    ):
        super().__init__()
        self.net = net
        self.activation = activation
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.modules_of_user = nn.ModuleList()
        if module is not None:
            self._make(module, generator)
        else:
            self._draw(generator)
        self.to(dtype=dtype, device=torch.device("cpu") if device is None else device)

    @property
    def is_built_in(self):
        """Whether modules are linear maps and activations."""
        return not self.modules_of_user

    def _sizes(self):
        """Return what each layer reads, with its number of modules and width."""
        read = (self.net.n_features, *self.net.widths)
        return [(p, K, r) for p, (K, r) in zip(read, self.net.layers)]

    def _draw(self, generator):
        gain = _GAINS.get(self.activation, 1.0)
        for p, K, r in self._sizes():
            # as precise on each device, whatever it computes in
            W = torch.empty(K, r, p, dtype=torch.float64, device="cpu")
            for each in W:
                # rows of length `gain`, also where they are too many to be orthogonal
                nn.init.orthogonal_(each, gain * max(1.0, r / p) ** 0.5, generator)
            self.weights.append(nn.Parameter(W))
            if self.activation != "identity":
                self.biases.append(nn.Parameter(W.new_zeros(K, r)))

    def _make(self, module, generator):
        seed = int(torch.randint(_MOST_SEED, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` would seed the other devices too
            torch.default_generator.manual_seed(seed)
            for p, K, r in self._sizes():
                made = nn.ModuleList(module(p, r) for _ in range(K))
                self.modules_of_user.append(made)
                weight = next(made.parameters(), torch.empty(0))
                with torch.no_grad():
                    shape = tuple(made[0](weight.new_zeros(2, p)).shape)
                if shape != (2, r):
                    raise ValueError(
                        f"module({p}, {r}) returns {shape} for two rows; wanted is "
                        f"(2, {r})."
                    )

    def _activate(self, h):
        return ACTIVATIONS[self.activation](h)

    def _module(self, layer, k, h):
        """Apply a module to rows."""
        if not self.is_built_in:
            return self.modules_of_user[layer][k](h)
        bias = self.biases[layer][k] if self.biases else None
        return self._activate(F.linear(h, self.weights[layer][k], bias))

    def _all_modules(self, layer, h):
        """Apply each module of a layer to all rows: (n, p) to (n, K, r)."""
        K = self.net.n_modules[layer]
        if not self.is_built_in:
            outputs = [module(h) for module in self.modules_of_user[layer]]
            return torch.stack(outputs, 1)
        bias = self.biases[layer].flatten() if self.biases else None
        h = F.linear(h, self.weights[layer].flatten(0, 1), bias)
        return self._activate(h).unflatten(1, (K, -1))

    def forward(self, x, paths):
        """Return phi of the path of each row.

        Parameters
        ----------
        x : torch.Tensor of shape (n, p)
            Features.
        paths : torch.Tensor of int of shape (n, n_layers)
            The path of each row.

        Returns
        -------
        torch.Tensor of shape (n, r_L)
            What the last layer returns.
        """
        h, place = x, None  # row i of x is row place[i] of h
        for layer, K in enumerate(self.net.n_modules):
            if K == 1:
                h = self._module(layer, 0, h)
                continue
            order = paths[:, layer].argsort(stable=True)
            counts = torch.bincount(paths[:, layer], minlength=K).tolist()
            sorted_h = h.index_select(0, order if place is None else place[order])
            h = torch.cat(
                [
                    self._module(layer, k, rows)
                    for k, rows in enumerate(sorted_h.split(counts))
                    if len(rows)
                ]
            )
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order), device=order.device)
        return h if place is None else h.index_select(0, place)

    def all_paths(self, x):
        """Return phi of each pathway, with what they share computed once.

        Parameters
        ----------
        x : torch.Tensor of shape (n, p)
            Features.

        Returns
        -------
        torch.Tensor of shape (n_paths, n, r_L)
            What the last layer returns, in the order of `net.pathways`.
        """
        h = x[None]  # (prefixes, n, r)
        for layer, K in enumerate(self.net.n_modules):
            n_before = len(h)
            if self.net.tree:
                parents = [k * n_before // K for k in range(K)]
                h = torch.stack(
                    [self._module(layer, k, h[j]) for k, j in enumerate(parents)]
                )
                continue
            h = self._all_modules(layer, h.flatten(0, 1))  # (prefixes n, K, r)
            h = h.unflatten(0, (n_before, -1)).transpose(1, 2).flatten(0, 1)
        return h

    def mixed(self, x, gates):
        """Return what the supernet makes of a mixture of modules.

        Parameters
        ----------
        x : torch.Tensor of shape (n, p)
            Features.
        gates : list of torch.Tensor of shape (n, K_l)
            Weights of the modules of each layer, whose outputs are averaged. For a
            tree, one tensor of shape (n, n_paths), since its last module tells the
            path: outputs of whole paths are averaged.

        Returns
        -------
        torch.Tensor of shape (n, r_L)
            What the last layer returns.
        """
        last = gates if self.net.tree else gates[-1]
        return (last[:, None] @ self.branches(x, gates))[:, 0]

    def branches(self, x, gates):
        """Return what each module of the last layer makes of a mixture of those before.

        Parameters
        ----------
        x : torch.Tensor of shape (n, p)
            Features.
        gates : list of torch.Tensor of shape (n, K_l)
            As for `mixed`; those of the last layer are not needed, nor any of a tree.

        Returns
        -------
        torch.Tensor of shape (n, K_L, r_L)
            What the last layer returns.
        """
        if self.net.tree:
            return self.all_paths(x).transpose(0, 1)
        h = x
        for layer in range(len(self.net.layers) - 1):
            h = (gates[layer][:, None] @ self._all_modules(layer, h))[:, 0]
        return self._all_modules(len(self.net.layers) - 1, h)
