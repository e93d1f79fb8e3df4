"""Composed tasks f = f_L o ... o f_1,  s^0 = x,  s^l = f_l(s^{l-1}),  y = s^L
(2305.18869, section 2).

They come with their steps s^1, ..., s^{L-1}, which a chain of thought is shown. A
:class:`StepPrior` draws single steps, as a chain that is filtered asks for them.
"""

import hashlib
import math
from numbers import Integral
from typing import NamedTuple

import torch
from sklearn.utils import check_random_state

from ._priors import (
    Tasks,
    add_noise,
    check_inputs,
    check_noise,
    check_number,
    describe,
    draw_inputs,
    normal,
    uniform,
)

# Root mean square that targets are divided by, at least: a neuron may be silent.
_LEAST_SIZE = 1e-6


class ComposedTasks(NamedTuple):
    """Tasks drawn from a prior of composed functions, with their steps.

    Attributes
    ----------
    X : torch.Tensor of shape (n_tasks, n_examples, n_features)
        Inputs s^0.
    steps : tuple of torch.Tensor of shape (n_tasks, n_examples, width)
        Steps s^1, ..., s^{L-1}, of any widths.
    y : torch.Tensor of shape (n_tasks, n_examples) or (n_tasks, n_examples, n_outputs)
        Targets s^L, with noise.
    noise : torch.Tensor of shape (n_tasks,)
        Standard deviation of the noise in y.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import MLPPrior
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = MLPPrior((10,), bias=0.0).sample_steps(8, 20, 5, generator=generator)
    >>> [tuple(state.shape) for state in tasks.states]
    [(8, 20, 5), (8, 20, 10), (8, 20, 1)]
    """

    X: torch.Tensor
    steps: tuple
    y: torch.Tensor
    noise: torch.Tensor

    @property
    def states(self):
        """All of s^0, ..., s^L, each with an axis of its width."""
        y = self.y if self.y.ndim == 3 else self.y[..., None]
        return [self.X, *self.steps, y]


class MLPPrior:
    """Tasks of random networks: y = v' act(W_L ... act(W_1 x)).

    Weights are normal and scaled for unit variance per layer.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int or of (int, int), default=(16,)
        Widths of the hidden layers. Of a pair, each draw of tasks has a width between
        the two.
    activation : {"relu", "leaky_relu", "tanh", "sin"}, default="relu"
        What follows each of them.
    weight_scale : float, default=1.0
        Factor of the first layer's weights: the larger, the less smooth.
    bias : float, default=0.5
        Standard deviation of biases.
    noise : float or (float, float), default=0.0
        Standard deviation of the noise in y, as in :class:`LinearPrior`.
    inputs : {"normal", "varied"}, default="normal"
        Kind of inputs, likewise.
    leak : float, default=0.1
        Slope of "leaky_relu" where it is not active.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import MLPPrior
    >>> generator = torch.Generator().manual_seed(0)
    >>> prior = MLPPrior((8, 8), activation="tanh")
    >>> tasks = prior.sample(8, 20, 5, generator=generator)
    >>> tuple(tasks.y.shape)
    (8, 20)

    The steps on the way are what the layers give:

    >>> tasks = prior.sample_steps(8, 20, 5, generator=generator)
    >>> [tuple(step.shape) for step in tasks.steps]
    [(8, 20, 8), (8, 20, 8)]
    """

    def __init__(
        self,
        hidden_layer_sizes=(16,),
        *,
        activation="relu",
        weight_scale=1.0,
        bias=0.5,
        noise=0.0,
        inputs="normal",
        leak=0.1,
    ):
        is_list = hasattr(hidden_layer_sizes, "__iter__")
        sizes = tuple(map(_whole, hidden_layer_sizes)) if is_list else ()
        if not sizes or not all(_is_size(size) for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must be positive whole numbers, or pairs of them "
                f"with low <= high; got {hidden_layer_sizes!r}."
            )
        self.hidden_layer_sizes = sizes
        self.activation = _check_activation(activation)
        self.weight_scale = check_number(weight_scale, "weight_scale")
        self.bias = check_number(bias, "bias")
        self.noise = check_noise(noise)
        self.inputs = check_inputs(inputs)
        self.leak = check_number(leak, "leak")

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks, whose targets have a mean square of 1 over their examples.

        Parameters
        ----------
        n_tasks, n_examples, n_features : int
            How many.
        generator : torch.Generator
            Draws the numbers, on its device.

        Returns
        -------
        Tasks
            The tasks, in torch's default dtype.
        """
        X, _, y = self._compose(n_tasks, n_examples, n_features, generator)
        y = y / y.square().mean(1, keepdim=True).sqrt().clamp_min(_LEAST_SIZE)
        return add_noise(X, y, self.noise, generator)

    def sample_steps(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks with their steps, the outputs of the hidden layers.

        Targets are as they come: their mean square over all tasks is 1 for "relu"
        without biases, times the square of `weight_scale`.

        Parameters
        ----------
        n_tasks, n_examples, n_features : int
            How many.
        generator : torch.Generator
            Draws the numbers, on its device.

        Returns
        -------
        ComposedTasks
            The tasks, in torch's default dtype.
        """
        X, steps, y = self._compose(n_tasks, n_examples, n_features, generator)
        tasks = add_noise(X, y, self.noise, generator)
        return ComposedTasks(X, tuple(steps), tasks.y, tasks.noise)

    def _compose(self, n_tasks, n_examples, n_features, generator):
        X = draw_inputs(self, n_tasks, n_examples, n_features, generator)
        steps, s, width, scale = [], X, n_features, self.weight_scale
        for size in self.hidden_layer_sizes:
            k = _draw_size(size, generator)
            W = normal(generator, n_tasks, width, k) * (scale / math.sqrt(width))
            b = normal(generator, n_tasks, 1, k) * self.bias
            s = activate(s @ W + b, self.activation, self.leak)
            steps.append(s)
            width, scale = k, math.sqrt(2)
        v = normal(generator, n_tasks, width, 1) * (scale / math.sqrt(width))
        return X, steps, (s @ v)[..., 0]

    def __repr__(self):
        return describe(self)


class DeepLinearPrior:
    """Deep linear tasks: s^l = W_l s^{l-1} with W_l from a pool (2305.18869, fig. 5).

    The pools are part of the prior, one for each layer. A learner that was trained on
    it may know them by heart, and find by a single example with steps which matrices a
    task is made of; without steps it has to tell K^L products apart.

    Parameters
    ----------
    n_layers : int, default=6
        Number L of layers.
    n_matrices : int or None, default=4
        Number K of matrices in each pool. None draws them anew for each task.
    n_features : int, default=5
        Number of features, and the width of all steps and of the target.
    random_state : int, RandomState instance or None, default=0
        Determines the pools.

    Attributes
    ----------
    matrices : torch.Tensor of shape (n_layers, n_matrices, n_features, n_features)
        The pools, with entries N(0, 1 / n_features); None without pools.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import DeepLinearPrior
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = DeepLinearPrior(3).sample_steps(8, 20, 5, generator=generator)
    >>> [tuple(state.shape) for state in tasks.states]
    [(8, 20, 5), (8, 20, 5), (8, 20, 5), (8, 20, 5)]
    """

    def __init__(self, n_layers=6, n_matrices=4, *, n_features=5, random_state=0):
        for name, count, may_be_none in (
            ("n_layers", n_layers, False),
            ("n_matrices", n_matrices, True),
            ("n_features", n_features, False),
        ):
            is_count = isinstance(count, Integral) and count >= 1
            if not (is_count or (may_be_none and count is None)):
                raise ValueError(
                    f"{name} must be a whole number from 1 on; got {count!r}."
                )
        self.n_layers, self.n_matrices = n_layers, n_matrices
        self.n_features = n_features
        self.matrices = None
        if n_matrices is not None:
            shape = (n_layers, n_matrices, n_features, n_features)
            rng = check_random_state(random_state)
            drawn = rng.standard_normal(shape) / math.sqrt(n_features)
            self.matrices = torch.from_numpy(drawn)

    def sample_steps(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks with their steps.

        Parameters
        ----------
        n_tasks, n_examples, n_features : int
            How many; features are those of the prior.
        generator : torch.Generator
            Draws the numbers, on its device.

        Returns
        -------
        ComposedTasks
            The tasks, in torch's default dtype.

        Raises
        ------
        ValueError
            If another number of features is asked for.
        """
        d, L = self.n_features, self.n_layers
        if n_features != d:
            raise ValueError(f"Tasks have {d} features; not {n_features}.")
        s = normal(generator, n_tasks, n_examples, d)
        if self.matrices is None:
            W = normal(generator, n_tasks, L, d, d) / math.sqrt(d)
        else:
            which = torch.randint(
                self.n_matrices,
                (n_tasks, L),
                generator=generator,
                device=generator.device,
            )
            pools = self.matrices.to(s)
            W = pools[torch.arange(L, device=s.device), which]
        states = [s]
        for layer in range(L):
            states.append(states[-1] @ W[:, layer].mT)
        noise = s.new_zeros(n_tasks)
        return ComposedTasks(states[0], tuple(states[1:-1]), states[-1], noise)

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks without their steps, and with the first output as the target.

        Parameters
        ----------
        n_tasks, n_examples, n_features : int
            How many; features are those of the prior.
        generator : torch.Generator
            Draws the numbers, on its device.

        Returns
        -------
        Tasks
            The tasks, in torch's default dtype.
        """
        drawn = self.sample_steps(n_tasks, n_examples, n_features, generator=generator)
        y = drawn.y[..., 0]
        return Tasks(drawn.X, y, drawn.noise, y)

    def __repr__(self):
        pools = "" if self.matrices is None else f", pools {_fingerprint(self)}"
        return (
            f"DeepLinearPrior({self.n_layers}, {self.n_matrices}, "
            f"n_features={self.n_features}{pools})"
        )


class StepPrior:
    """Single steps of random networks: what a filtered chain asks for, one by one.

    The features are the outputs of a random network of `depth` layers, hence
    correlated, and not negative after "relu"; the target is one neuron more, or a
    linear function of them.

    Parameters
    ----------
    depth : int, default=1
        Layers before the step; with 0, features are inputs.
    target : {"unit", "linear"}, default="linear"
        What the step is: a neuron with an activation, or a sum.
    activation : {"relu", "leaky_relu", "tanh", "sin"}, default="relu"
        Of the layers before, and of the neuron.
    n_inputs : (int, int), default=(2, 10)
        Fewest and most inputs of the network, drawn with each batch of tasks.
    bias : float, default=0.0
        Standard deviation of biases.
    noise : float or (float, float), default=0.0
        Standard deviation of the noise in targets of mean square 1.
    inputs : {"normal", "varied"}, default="normal"
        Kind of inputs, as in :class:`LinearPrior`.
    leak : float, default=0.1
        Slope of "leaky_relu" where it is not active.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import StepPrior
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = StepPrior(depth=1).sample(8, 20, 12, generator=generator)
    >>> tuple(tasks.X.shape), bool((tasks.X >= 0).all())
    ((8, 20, 12), True)
    """

    def __init__(
        self,
        depth=1,
        target="linear",
        *,
        activation="relu",
        n_inputs=(2, 10),
        bias=0.0,
        noise=0.0,
        inputs="normal",
        leak=0.1,
    ):
        if not (isinstance(depth, Integral) and depth >= 0):
            raise ValueError(f"depth must be a whole number from 0 on; got {depth!r}.")
        if target not in ("unit", "linear"):
            raise ValueError(f"target must be 'unit' or 'linear'; got {target!r}.")
        n_inputs = _whole(tuple(n_inputs))
        if len(n_inputs) != 2 or not _is_size(n_inputs):
            raise ValueError(
                "n_inputs must be two positive whole numbers with low <= high; got "
                f"{n_inputs!r}."
            )
        self.depth, self.target, self.n_inputs = depth, target, n_inputs
        self.activation = _check_activation(activation)
        self.bias = check_number(bias, "bias")
        self.noise = check_noise(noise)
        self.inputs = check_inputs(inputs)
        self.leak = check_number(leak, "leak")

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks.

        Parameters
        ----------
        n_tasks, n_examples, n_features : int
            How many; features are the outputs of the layers before.
        generator : torch.Generator
            Draws the numbers, on its device.

        Returns
        -------
        Tasks
            The tasks, in torch's default dtype.
        """
        width = n_features
        if self.depth:
            width = _draw_size(self.n_inputs, generator)
        s = draw_inputs(self, n_tasks, n_examples, width, generator)
        for _ in range(self.depth):
            s = activate(
                self._sum(s, n_features, generator), self.activation, self.leak
            )
        y = self._sum(s, 1, generator)
        if self.target == "unit":
            y = activate(y, self.activation, self.leak)
        y = y[..., 0]
        y = y / y.square().mean(1, keepdim=True).sqrt().clamp_min(_LEAST_SIZE)
        return add_noise(s, y, self.noise, generator)

    def _sum(self, s, k, generator):
        B, _, width = s.shape
        W = normal(generator, B, width, k) * math.sqrt(2 / width)
        return s @ W + normal(generator, B, 1, k) * self.bias

    def __repr__(self):
        return describe(self)


def activate(z, activation, leak=0.1):
    """Return act(z)."""
    if activation == "leaky_relu":
        return torch.where(z > 0, z, leak * z)
    return _ACTIVATIONS[activation](z)


def draw_steps(prior, n_tasks, n_examples, n_features, *, generator):
    """Draw tasks with their steps, and see to it that they are what was asked for.

    Raises
    ------
    ValueError
        If what came is not of the shape that was asked for, or not finite.
    """
    drawn = prior.sample_steps(n_tasks, n_examples, n_features, generator=generator)
    X, steps, y = drawn[:3]
    dtype = torch.get_default_dtype()
    noise = drawn[3] if len(drawn) > 3 else 0.0
    noise = torch.as_tensor(noise, dtype=dtype, device=X.device).expand(n_tasks)
    tasks = ComposedTasks(
        X.to(dtype), tuple(s.to(dtype) for s in steps), y.to(dtype), noise
    )
    shapes = [tuple(state.shape) for state in tasks.states]
    wanted = (n_tasks, n_examples)
    if shapes[0] != (*wanted, n_features) or any(
        len(shape) != 3 or shape[:2] != wanted for shape in shapes
    ):
        raise ValueError(
            f"{prior!r} was asked for {n_tasks} tasks of {n_examples} examples and "
            f"{n_features} features; its `sample_steps` returned {shapes}."
        )
    if not all(torch.isfinite(state).all() for state in tasks.states):
        raise ValueError(f"{prior!r} drew values that are not finite.")
    return tasks


def _whole(size):
    """Return sizes as Python's own numbers, which have short names."""
    if isinstance(size, tuple | list):
        return tuple(map(_whole, size))
    is_count = isinstance(size, Integral) and not isinstance(size, bool)
    return int(size) if is_count else None


def _is_size(size):
    if isinstance(size, tuple):
        return len(size) == 2 and all(map(_is_size, size)) and size[0] <= size[1]
    return isinstance(size, Integral) and size > 0


def _draw_size(size, generator):
    if not isinstance(size, tuple):
        return size
    low, high = size
    return min(high, low + int(uniform(generator) * (high - low + 1)))


def _check_activation(activation):
    known = [*_ACTIVATIONS, "leaky_relu"]
    if activation not in known:
        raise ValueError(f"activation must be one of {known}; got {activation!r}.")
    return activation


def _fingerprint(prior):
    return hashlib.sha256(prior.matrices.numpy().tobytes()).hexdigest()[:16]


_ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sin": torch.sin}
