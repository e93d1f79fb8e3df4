"""Supernet: phi_a = psi_L^{a[L]} o ... o psi_1^{a[1]}, for a path a  (2303.04338)."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from math import prod

import torch

# Paths that are listed one by one; more of them are searched layer by layer.
MOST_PATHS = 4096


@dataclass(frozen=True)
class Supernet:
    """Layers of modules; a pathway takes one module of each layer.

    Special cases are the settings of other methods: one layer of one module is vanilla
    multitask learning, one layer of several is clustered, and a tree is hierarchical.

    Parameters
    ----------
    n_features : int
        Features that the first layer reads.
    layers : tuple of (int, int)
        Number of modules, and width of what they return, of each layer.
    tree : bool, default=False
        Whether each module reads one module of the layer before only, and each of those
        has as many that read it. The module of the last layer then tells the path.

    Raises
    ------
    ValueError
        If a layer is empty, or numbers of modules do not make a tree.

    Examples
    --------
    >>> from sklearn_attn.multitask import Supernet
    >>> net = Supernet(32, ((1, 8), (40, 2)))  # one shared module, and 40 after it
    >>> net.n_paths, net.degrees_of_freedom(n_tasks=400)
    (40, 1696)
    >>> net.samples_needed(n_tasks=400)  # of each task
    4.24
    """

    n_features: int
    layers: tuple
    tree: bool = False

    def __post_init__(self):
        for n_modules, width in self.layers:
            if n_modules < 1 or width < 1:
                raise ValueError(
                    "Each layer must have a module and a width of 1 at least; got "
                    f"layers={self.layers}."
                )
        if not self.layers:
            raise ValueError("A supernet needs a layer; got none.")
        counts = self.n_modules
        if self.tree and any(b % a for a, b in pairwise(counts)):
            raise ValueError(
                "In a tree, each module has as many children as the others of its "
                f"layer, but the numbers of modules are {counts}."
            )

    @classmethod
    def vanilla(cls, n_features, width):
        """Return the supernet of one module, which all tasks share.

        Parameters
        ----------
        n_features : int
            Features that it reads.
        width : int
            Features that it returns.

        Returns
        -------
        Supernet
            The supernet.
        """
        return cls(n_features, ((1, width),))

    @classmethod
    def cluster(cls, n_features, n_clusters, width):
        """Return the supernet of one layer: tasks of a cluster share a module.

        Parameters
        ----------
        n_features : int
            Features that modules read.
        n_clusters : int
            Number of modules.
        width : int
            Features that they return.

        Returns
        -------
        Supernet
            The supernet.
        """
        return cls(n_features, ((n_clusters, width),))

    @classmethod
    def hierarchical(cls, n_features, degree, widths):
        """Return the tree in which each module has `degree` children.

        Parameters
        ----------
        n_features : int
            Features that the root reads.
        degree : int
            Number of children.
        widths : tuple of int
            Features that modules of each layer return.

        Returns
        -------
        Supernet
            The supernet.
        """
        layers = tuple((degree**i, width) for i, width in enumerate(widths))
        return cls(n_features, layers, tree=True)

    @property
    def n_modules(self):
        """Number of modules of each layer."""
        return tuple(n for n, _ in self.layers)

    @property
    def widths(self):
        """Features that modules of each layer return."""
        return tuple(width for _, width in self.layers)

    @property
    def n_paths(self):
        """Number of pathways."""
        return self.n_modules[-1] if self.tree else prod(self.n_modules)

    @cached_property
    def pathways(self):
        """All pathways, as integers of shape (n_paths, n_layers)."""
        if self.tree:
            last = self.n_modules[-1]
            return torch.tensor(
                [[leaf * n // last for n in self.n_modules] for leaf in range(last)]
            )
        return torch.tensor(list(product(*map(range, self.n_modules))))

    @cached_property
    def prefixes(self):
        """For each layer, the beginnings of paths: which one before, and the module."""
        steps, before = [], torch.zeros(self.n_paths, dtype=torch.long)
        for layer in range(len(self.layers)):
            pairs = torch.stack([before, self.pathways[:, layer]], dim=1)
            distinct, before = pairs.unique(dim=0, return_inverse=True)
            steps.append((distinct[:, 0], distinct[:, 1]))
        return steps

    def path_ids(self, paths):
        """Return the position among all pathways of each of some.

        Parameters
        ----------
        paths : torch.Tensor of int of shape (n, n_layers)
            Pathways.

        Returns
        -------
        torch.Tensor of int of shape (n,)
            Their positions.
        """
        if self.tree:
            return paths[:, -1].clone()
        ids = torch.zeros(len(paths), dtype=torch.long, device=paths.device)
        for layer, n in enumerate(self.n_modules):
            ids = ids * n + paths[:, layer]
        return ids

    def degrees_of_freedom(self, n_tasks):
        """Return the number of parameters of modules and heads.

        Parameters
        ----------
        n_tasks : int
            Number of tasks.

        Returns
        -------
        int
            ``T r_L + sum_l K_l r_l r_{l-1}`` for T tasks, where layer l has K_l modules
            of width r_l.
        """
        read = (self.n_features, *self.widths)
        modules = sum(n * r * q for (n, r), q in zip(self.layers, read))
        return n_tasks * self.widths[-1] + modules

    def samples_needed(self, n_tasks):
        """Return how many samples of each task the parameters ask for, by counting.

        A linear supernet is found from hardly fewer, even without noise: a few less
        can be enough, as what a module returns can be mixed without changing anything.
        A task by itself needs one for each feature, which is never exceeded.

        Parameters
        ----------
        n_tasks : int
            Number of tasks.

        Returns
        -------
        float
            Degrees of freedom for each task.
        """
        counted = self.degrees_of_freedom(n_tasks) / n_tasks
        return float(min(counted, self.n_features))


def compose(modules, paths):
    """Return the products of the modules along paths, after each layer.

    Parameters
    ----------
    modules : list of torch.Tensor of shape (K_l, r_l, r_{l-1})
        The modules of each layer.
    paths : torch.Tensor of int of shape (n, n_layers)
        Pathways.

    Returns
    -------
    list of torch.Tensor of shape (n, r_l, p)
        What maps the features to those of the layer.
    """
    products = [modules[0][paths[:, 0]]]
    for layer, B in enumerate(modules[1:], start=1):
        products.append(B[paths[:, layer]] @ products[-1])
    return products


def in_gauge(modules, paths):
    """Return modules with orthonormal rows, where what reads them can make up for it.

    What a module returns may be mixed, if all that read it mix it back. A module that
    reads several others cannot do so for each: those stay as they are. The heads mix
    what comes last.
    """
    modules = [B.clone() for B in modules]
    last = len(modules) - 1
    for layer, B in enumerate(modules):
        if layer == last:
            used = paths[:, layer].unique()
            B[used] = _orthonormal(B[used])[0]
            continue
        after = modules[layer + 1]
        pairs = paths[:, layer : layer + 2].unique(dim=0)
        readers = torch.bincount(pairs[:, 1], minlength=len(after))
        for j in pairs[:, 0].unique():
            children = pairs[pairs[:, 0] == j, 1]
            if (readers[children] == 1).all():
                B[j], mixing = _orthonormal(B[j])
                after[children] = after[children] @ mixing
    return modules


def _orthonormal(B):
    """Return Q with orthonormal rows, and R with B = R Q."""
    Q, R = torch.linalg.qr(B.transpose(-1, -2))
    return Q.transpose(-1, -2).contiguous(), R.transpose(-1, -2)
