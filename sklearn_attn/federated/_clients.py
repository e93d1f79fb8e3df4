"""What clients compute: weighted sums over them of maps, and of runs of local steps.

Variables (x, z^1..z^N) are laid out as one vector u, and (P, S^1..S^N) as one vector
F(u) beside it: local steps are u <- u - step * h. Clients with tensors of equal shapes
are worked on together by `torch.func.vmap`. Where only the mean of F is wanted, it is
the gradient of one weighted sum over all clients, in one pass backwards.

All that a round needs is in the request, so that clients keep nothing between rounds.
"""

import threading
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch.func import grad_and_value, jvp, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

# Which random numbers: those of a client's evaluation, or of its local steps.
EVALUATION, LOCAL = 0, 1
# Fewer rows cost no less, so that clients with fewer are padded to the same shape.
LEAST_ROWS = 32
# Forward derivatives of torch go wrong where two Python threads take them at once.
_derivatives = threading.RLock()


class Layout:
    """Where x and z^1..z^N are in one vector."""

    def __init__(self, x, zs):
        self._read, self._build = _reader_and_builder((x, tuple(zs)))
        leaves = self._read((x, tuple(zs)))
        self.shapes = [leaf.shape for leaf in leaves]
        self.sizes = [leaf.numel() for leaf in leaves]
        self.size = sum(self.sizes)
        widths = [sum(map(torch.numel, tree_leaves(part))) for part in (x, *zs)]
        ends = np.cumsum([0, *widths]).tolist()
        self.blocks = [slice(a, b) for a, b in pairwise(ends)]

    def pack(self, x, zs):
        """Return the vector of x and the z^n, or vectors, if there is an axis more."""
        leaves = self._read((x, zs))
        n_axes = leaves[0].ndim - len(self.shapes[0])
        flat = [leaf.reshape((*leaf.shape[:n_axes], -1)) for leaf in leaves]
        return torch.cat(flat, dim=-1)

    def unpack(self, u):
        """Return (x, zs) of the vector, or of vectors."""
        parts = torch.split(u, self.sizes, dim=-1)
        leaves = [
            part.reshape((*u.shape[:-1], *shape))
            for part, shape in zip(parts, self.shapes)
        ]
        return self._build(iter(leaves))

    def spread(self, values, like):
        """Return a vector with one number throughout each block."""
        widths = torch.tensor([b.stop - b.start for b in self.blocks])
        values = torch.as_tensor(values, dtype=like.dtype)
        return values.repeat_interleave(widths).to(like.device)


@dataclass(frozen=True)
class _Group:
    """Clients with tensors of equal shapes.

    Attributes
    ----------
    data : pytree of tensor of shape (n_clients, ...)
        Their tensors, stacked.
    lengths : list of tensor of shape (n_clients,)
        Rows of each leaf that are no padding.
    numbers : ndarray of int of shape (n_clients,)
        Which clients of the federation they are.
    weights : tensor of shape (n_clients,)
        Their weights.
    """

    data: Any
    lengths: list
    numbers: np.ndarray
    weights: torch.Tensor


class ClientBlock:
    """Some clients of a federation, and what they answer.

    Parameters
    ----------
    problem : FederatedProblem or one of its kinds
        The coupled equations.
    clients : list of pytree of tensor
        Their data.
    weights : sequence of float, default=None
        Their weights in means; ones if None.
    numbers : sequence of int, default=None
        Which clients of the federation they are; the first ones if None.
    device : str or torch.device, default="cpu"
        Where to compute.
    dtype : torch.dtype, default=torch.float64
        Of all floating-point tensors.

    Notes
    -----
    `answer` takes a flat dict of strings, numbers and tensors, and returns another, so
    that any kind of messenger can carry both.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.federated import ClientBlock, MinimizationProblem
    >>> problem = MinimizationProblem(
    ...     lambda b, x: ((x - b) ** 2).sum() / 2, torch.zeros(1)
    ... )
    >>> block = ClientBlock(problem, [torch.tensor([b]) for b in (1.0, 3.0)])
    >>> reply = block.answer(
    ...     {
    ...         "kind": "field", "round": 0, "seed": 0, "batch_size": 0,
    ...         "clients": torch.arange(2), "at": torch.zeros(1, 1),
    ...         "coef": torch.ones(1),
    ...     }
    ... )
    >>> reply["total"].item(), reply["weight"]  # the sum of both gradients at 0
    (-4.0, 2.0)
    """

    def __init__(
        self,
        problem,
        clients,
        *,
        weights=None,
        numbers=None,
        device="cpu",
        dtype=torch.float64,
    ):
        self.problem = problem
        self.device, self.dtype = torch.device(device), dtype
        self.numbers = list(range(len(clients)) if numbers is None else numbers)
        self.weights = [1.0] * len(clients) if weights is None else list(weights)
        total = sum(self.weights)
        if len(self.weights) != len(clients) or not (
            0 < total < float("inf") and min(self.weights) >= 0
        ):
            raise ValueError(
                f"weights must be {len(clients)} numbers, one for each client, finite, "
                f"not negative and not all zero; got {self.weights}."
            )
        self.layout = Layout(problem.x0, problem.zs0)
        self._groups = self._group(clients)
        self._answers = {
            "field": self._field,
            "steps": self._steps,
            "jvp": self._jvp,
            "spread": self._spread,
            "local_hypergradient": self._local_hypergradient,
        }

    def answer(self, request):
        """Answer for those of the clients asked that are here.

        Parameters
        ----------
        request : dict
            "kind" says what is wanted, "clients" of whom; "round" and "seed" determine
            what is drawn, "batch_size" how much (0 is all there is).

        Returns
        -------
        dict
            "total": weighted sum over clients; "weight": sum of their weights;
            "value": weighted sum of their values, NaN if the problem has none;
            "largest": the largest of norms, if some were asked for; "answered": which
            clients did.
        """
        with _derivatives:
            return self._answer(request)

    def _answer(self, request):
        asked = set(request["clients"].tolist())
        total = torch.zeros(self.layout.size, dtype=self.dtype, device=self.device)
        value, largest, weight, answered = 0.0, 0.0, 0.0, []
        for group in self._groups:
            chosen = [i for i, m in enumerate(group.numbers) if m in asked]
            if not chosen:
                continue
            group = _select(group, chosen)
            part, part_value, part_largest = self._answers[request["kind"]](
                group, request
            )
            total = total + part
            value, largest = value + part_value, max(largest, part_largest)
            weight += float(group.weights.sum())
            answered.extend(group.numbers.tolist())
        return {
            "total": total,
            "weight": weight,
            "value": value,
            "largest": largest,
            "answered": torch.tensor(sorted(answered), dtype=torch.int64),
        }

    def _group(self, clients):
        groups = {}
        for i, data in enumerate(clients):
            leaves, spec = tree_flatten(data)
            leaves = [self._put(leaf) for leaf in leaves]
            lengths = [leaf.shape[0] if leaf.ndim else 0 for leaf in leaves]
            if self.problem.pad_rows:
                leaves = [_padded(leaf) for leaf in leaves]
            kind = (str(spec), *((leaf.shape, leaf.dtype) for leaf in leaves))
            groups.setdefault(kind, []).append((i, leaves, lengths, spec))
        found = []
        for members in groups.values():
            index, leaves, lengths, specs = zip(*members)
            found.append(
                _Group(
                    tree_unflatten(
                        [torch.stack(each) for each in zip(*leaves)], specs[0]
                    ),
                    list(torch.tensor(lengths, device=self.device).T),
                    np.array([self.numbers[i] for i in index]),
                    torch.tensor([self.weights[i] for i in index]).to(
                        self.device, self.dtype
                    ),
                )
            )
        return found

    def _put(self, leaf):
        if isinstance(leaf, float):
            return torch.tensor(leaf, device=self.device, dtype=self.dtype)
        leaf = torch.as_tensor(leaf).detach()
        dtype = self.dtype if leaf.is_floating_point() else None
        return leaf.to(device=self.device, dtype=dtype)

    def _vector(self, values):
        return values.to(device=self.device, dtype=self.dtype)

    # What each kind of request asks for: (total, value, largest norm).

    def _field(self, group, request):
        """sum_j coef_j sum_m c_m F_m(at_j), on the same draws for all j."""
        at = self._vector(request["at"])  # (j, D)
        draws = self._draw(group, request, EVALUATION, 1)
        data = self._batch(group, draws, 0)
        total, value = 0.0, 0.0
        for j, coef in enumerate(request["coef"].tolist()):
            part, part_value = self._mean_map(data, group.weights, at[j])
            total = total + coef * part
            if j == 0:
                value = float(part_value)
        return total, value, 0.0

    def _steps(self, group, request):
        """sum_m c_m u_K, K steps u <- u - step * h; h follows F if "correct"."""
        correct = bool(request["correct"])
        n_steps = request["local_steps"]
        n = len(group.numbers)
        start = self._vector(request["start"]).repeat(n, 1)
        step = self.layout.spread(request["step"], start)
        draws = self._draw(group, request, LOCAL, n_steps)
        F = self._maps
        u, value = start, 0.0
        if correct:
            h = self._vector(request["direction"])
        else:
            h, values = F(self._batch(group, draws, 0), u)
            value = float(group.weights @ values)
        before = last = data = None
        for k in range(n_steps):
            if k > 0:
                if draws is not None or data is None:
                    data = self._batch(group, draws, k)
                now, _ = F(data, u, False)
                if not correct:
                    h = now
                else:
                    if last is None or draws is not None:
                        last, _ = F(data, before, False)  # on the same draws
                    h, last = h + (now - last), now
            before, u = u, self._project(u - step * h)
        return group.weights @ u, value, 0.0

    def _jvp(self, group, request):
        """sum_m c_m F_m'(at) t."""
        at, t = self._vector(request["at"]), self._vector(request["tangent"])
        data = self._batch(group, self._draw(group, request, EVALUATION, 1), 0)
        return (
            jvp(lambda u: self._mean_map(data, group.weights, u)[0], (at,), (t,))[1],
            0.0,
            0.0,
        )

    def _spread(self, group, request):
        """sum_m c_m D_m' D_m t and max_m |D_m t|, D_m = F_m' - mean, in some rows."""
        at, t, mean, rows = (
            self._vector(request[name]) for name in ("at", "tangent", "mean", "rows")
        )
        data = self._batch(group, self._draw(group, request, EVALUATION, 1), 0)

        def F(u):
            return self._maps(data, u.expand(len(group.numbers), -1).clone())[0]

        gaps = rows * (jvp(F, (at,), (t,))[1] - mean)
        # The mean of the gaps is zero, so that the mean of F' drops out of D_m'.
        (total,) = vjp(F, at)[1](group.weights[:, None] * gaps)
        return rows * total, 0.0, float(gaps.norm(dim=1).max())

    def _local_hypergradient(self, group, request):
        """sum_m c_m P_m(x, w, v_m), each client with v_m by its own Neumann series."""
        at = self._vector(request["at"]).repeat(len(group.numbers), 1)
        last = self.layout.blocks[-1]
        only_v = torch.zeros_like(at[0])
        only_v[last] = request["eta"]
        data = self._batch(group, self._draw(group, request, EVALUATION, 1), 0)
        u = at * (only_v == 0)
        for _ in range(request["n_neumann"] + 1):
            u = u - only_v * self._maps(data, u)[0]
        maps, values = self._maps(data, u)
        return group.weights @ maps, float(group.weights @ values), 0.0

    # Maps.

    def _maps(self, data, u, with_values=True):
        """F of each client at its own u, and their values."""
        maps = getattr(self.problem, "maps", None)
        if maps is None:
            return vmap(self._map)(data, u)
        P, S, values = maps(data, *self.layout.unpack(u), with_values=with_values)
        return self.layout.pack(P, S), values

    def _map(self, data, u):
        """F of one client, and its value."""
        if getattr(self.problem, "lagrangian", None) is None:
            x, zs = self.layout.unpack(u)
            P, S = self.problem.field(data, x, zs)
            return self.layout.pack(P, S), u.new_tensor(torch.nan)
        gradient, (_, value) = grad_and_value(self._lagrangian, 1, has_aux=True)(
            data, u
        )
        return self._field_of(gradient), value

    def _lagrangian(self, data, u):
        return self.problem.lagrangian(data, *self.layout.unpack(u))

    def _field_of(self, gradient):
        return self.layout.pack(
            *self.problem.from_gradient(*self.layout.unpack(gradient))
        )

    def _mean_map(self, data, weights, u):
        """Weighted sum of F over clients, and of values, in one pass backwards."""
        if hasattr(self.problem, "maps"):
            F, values = self._maps(data, u.expand(len(weights), -1))
            return weights @ F, weights @ values
        if getattr(self.problem, "lagrangian", None) is None:
            F, values = vmap(self._map, in_dims=(0, None))(data, u)
            return weights @ F, weights @ values

        def total(u):
            L, values = vmap(self._lagrangian, in_dims=(0, None))(data, u)
            return weights @ L, weights @ values

        gradient, (_, value) = grad_and_value(total, has_aux=True)(u)
        return self._field_of(gradient), value

    def _project(self, u):
        """Return feasible points, one per client."""
        project = self.problem.project
        project_zs = getattr(self.problem, "project_zs", None)
        if project is None and getattr(self.problem, "adjoint_radius", None) is None:
            return u

        def feasible(u):
            x, zs = self.layout.unpack(u)
            x = x if project is None else project(x)
            return self.layout.pack(x, zs if project_zs is None else project_zs(zs))

        # maps that are written for many clients come with a projection that is, too
        return feasible(u) if hasattr(self.problem, "maps") else vmap(feasible)(u)

    # Draws.

    def _draw(self, group, request, phase, n_draws):
        """Return the uniform numbers of the clients: (n_draws, n_clients, rows, k).

        None where all rows are used.
        """
        if not request["batch_size"]:
            return None
        shape = (n_draws, request["batch_size"], getattr(self.problem, "n_uniforms", 1))
        drawn = [
            np.random.default_rng([request["seed"], request["round"], phase, m]).random(
                shape
            )
            for m in group.numbers.tolist()
        ]
        return torch.from_numpy(np.stack(drawn, axis=1)).to(self.device, self.dtype)

    def _batch(self, group, draws, k):
        """Return the data of step k: all, or rows that are drawn with replacement."""
        if draws is None:
            return self._prepare(group.data)
        draw = getattr(self.problem, "draw", None)
        if draw is not None:
            return vmap(draw)(group.data, draws[k])
        leaves, spec = tree_flatten(group.data)
        u = draws[k, ..., 0]  # (m, rows)
        one = torch.arange(len(u), device=self.device)[:, None]
        drawn = [
            leaf[one, _places(u, n)] if leaf.ndim > 1 else leaf
            for leaf, n in zip(leaves, group.lengths)
        ]
        return self._prepare(tree_unflatten(drawn, spec))

    def _prepare(self, data):
        """Return what maps that are written out read, the same in all steps."""
        return self.problem.prepare(data) if hasattr(self.problem, "maps") else data


def _reader_and_builder(tree):
    """Return what lists the leaves of such a tree, and what builds one of them.

    Names are looked up, so that a dict in another order is read rightly; and this is
    faster than `torch.utils._pytree`, which is left with other kinds of trees.
    """
    if isinstance(tree, torch.Tensor):
        return (lambda leaf: [leaf]), next
    if type(tree) in (tuple, list, dict):
        is_dict, kind = type(tree) is dict, type(tree)
        keys = list(tree) if is_dict else range(len(tree))
        both = [_reader_and_builder(tree[k]) for k in keys]
        readers, builders = [r for r, _ in both], [b for _, b in both]

        def read(tree):
            return [leaf for k, r in zip(keys, readers) for leaf in r(tree[k])]

        def build(leaves):
            parts = [builder(leaves) for builder in builders]
            return dict(zip(keys, parts)) if is_dict else kind(parts)

        return read, build
    leaves, spec = tree_flatten(tree)
    n = len(leaves)
    return tree_leaves, lambda leaves: tree_unflatten(list(islice(leaves, n)), spec)


def _places(u, n):
    """Turn numbers in [0, 1) into rows; float32 may round up to the end."""
    return torch.minimum((u * n[:, None]).long(), n[:, None] - 1)


def _padded(leaf):
    """Pad rows with zeros to a power of two, so that few shapes remain."""
    if leaf.ndim == 0:
        return leaf
    n = max(LEAST_ROWS, 1 << max(0, leaf.shape[0] - 1).bit_length())
    pad = leaf.new_zeros((n - leaf.shape[0], *leaf.shape[1:]))
    return torch.cat([leaf, pad]) if len(pad) else leaf


def _select(group, chosen):
    if len(chosen) == len(group.numbers):
        return group
    leaves, spec = tree_flatten(group.data)
    return _Group(
        tree_unflatten([leaf[chosen] for leaf in leaves], spec),
        [n[chosen] for n in group.lengths],
        group.numbers[chosen],
        group.weights[chosen],
    )
