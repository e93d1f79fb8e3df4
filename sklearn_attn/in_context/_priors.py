"""Task priors: f ~ P_task,  S = {(x_i, f(x_i) + noise)}  (2301.07067, section 2).

A prior is what an in-context learner is pretrained on, and what it comes to assume. All
tasks of a batch are drawn at once, where the generator is.
"""

import hashlib
import math
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch

# Squarings that find a spectral radius: rho = lim |W^m|^(1/m), here m = 4096, which
# leaves a tenth of a percent.
_SQUARINGS = 12
# Numbers of an array that are written out in the name of a prior.
_MOST_SHOWN = 64
# Steps after which a system with a radius of 0.9 has forgotten where it was.
_BURN_IN = 50
# Shares of the kinds of columns of `inputs="varied"`, as `_varied_columns` has them.
_KINDS_OF_COLUMNS = (0.45, 0.2, 0.15, 0.1, 0.1)
# Degrees of freedom of heavy tails: a variance exists, and barely so.
_HEAVY = 3


class Tasks(NamedTuple):
    """Tasks drawn from a prior.

    Attributes
    ----------
    X : torch.Tensor of shape (n_tasks, n_examples, n_features)
        Inputs.
    y : torch.Tensor of shape (n_tasks, n_examples)
        Targets, with noise.
    noise : torch.Tensor of shape (n_tasks,)
        Standard deviation of the noise, in units of y.
    f : torch.Tensor of shape (n_tasks, n_examples) or None
        Targets without noise, where the prior knows them.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import Tasks
    >>> tasks = Tasks(torch.ones(2, 3, 1), torch.ones(2, 3), torch.zeros(2))
    >>> tuple(tasks.y.shape)
    (2, 3)
    """

    X: torch.Tensor
    y: torch.Tensor
    noise: torch.Tensor
    f: torch.Tensor | None = None


class LinearPrior:
    """Linear tasks: y = w'x + noise, with w ~ N(0, Sigma) and x ~ N(0, Sigma_x).

    The prior of 2301.07067, section 2 and figure 2. With the unit matrix for both, the
    variance of w'x is the number of features.

    Parameters
    ----------
    noise : float or (float, float), default=0.0
        Standard deviation of the noise. Of a pair, each task draws its own, uniformly
        on a logarithmic scale.
    weight_cov : array-like of shape (d,) or (d, d), default=None
        Covariance Sigma of the weights, or its diagonal; the unit matrix if None.
        Tasks of fewer features use the first of them.
    input_cov : array-like of shape (d,) or (d, d), default=None
        Covariance of the inputs, likewise.
    inputs : {"normal", "varied"}, default="normal"
        Whether inputs are normal, or as in tables: correlated, skewed, with heavy
        tails, uniform, or of two values, in columns of about unit variance.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import LinearPrior
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = LinearPrior(noise=0.1).sample(8, 20, 5, generator=generator)
    >>> tuple(tasks.X.shape), tuple(tasks.y.shape)
    ((8, 20, 5), (8, 20))
    """

    def __init__(self, noise=0.0, *, weight_cov=None, input_cov=None, inputs="normal"):
        self.noise = check_noise(noise)
        self.weight_cov = _check_covariance(weight_cov, "weight_cov")
        self.input_cov = _check_covariance(input_cov, "input_cov")
        self.inputs = check_inputs(inputs)

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks.

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
        X = draw_inputs(self, n_tasks, n_examples, n_features, generator)
        X = _color(X, self.input_cov)
        w = _color(normal(generator, n_tasks, 1, n_features), self.weight_cov)
        y = torch.einsum("bnd,bd->bn", X, w[:, 0])
        return add_noise(X, y, self.noise, generator)

    def __repr__(self):
        return describe(self)


class SparseLinearPrior:
    """Linear tasks that only some features matter for.

    The support is drawn anew for each task; weights on it are N(0, d/s), so that w'x
    has the variance of a dense task.

    Parameters
    ----------
    sparsity : int or float, default=3
        Number s of features that matter, or their share, at least one.
    noise : float or (float, float), default=0.0
        Standard deviation of the noise, as in :class:`LinearPrior`.
    inputs : {"normal", "varied"}, default="normal"
        Kind of inputs, likewise.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import SparseLinearPrior
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = SparseLinearPrior(2).sample(8, 20, 10, generator=generator)
    >>> tuple(tasks.X.shape)
    (8, 20, 10)
    """

    def __init__(self, sparsity=3, *, noise=0.0, inputs="normal"):
        is_count = isinstance(sparsity, Integral) and sparsity >= 1
        is_share = not isinstance(sparsity, Integral) and 0 < sparsity <= 1
        if not (is_count or is_share):
            raise ValueError(
                "sparsity must be a whole number from 1 on, or a share in (0, 1]; got "
                f"{sparsity!r}."
            )
        self.sparsity = sparsity
        self.noise = check_noise(noise)
        self.inputs = check_inputs(inputs)

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks.

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
        d = n_features
        s = self.sparsity
        s = min(d, s) if isinstance(s, Integral) else max(1, round(s * d))
        X = draw_inputs(self, n_tasks, n_examples, d, generator)
        order = uniform(generator, n_tasks, d).argsort(1)
        w = normal(generator, n_tasks, d) * (order < s) * math.sqrt(d / s)
        y = torch.einsum("bnd,bd->bn", X, w)
        return add_noise(X, y, self.noise, generator)

    def __repr__(self):
        return describe(self)


class ReLUUnitPrior:
    """Tasks of a single neuron: y = sqrt(2) relu(w'x + b), the step of a chain.

    With w ~ N(0, I/d), E y^2 is 1 (2305.18869, section 1B of the paper's networks).

    Parameters
    ----------
    noise : float or (float, float), default=0.0
        Standard deviation of the noise, as in :class:`LinearPrior`.
    leak : float, default=0.0
        Slope of the neuron where it is not active.
    bias : float, default=0.0
        Standard deviation of the bias b.
    inputs : {"normal", "varied"}, default="normal"
        Kind of inputs, as in :class:`LinearPrior`.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import ReLUUnitPrior
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = ReLUUnitPrior().sample(8, 20, 5, generator=generator)
    >>> bool((tasks.y >= 0).all())
    True
    """

    def __init__(self, noise=0.0, *, leak=0.0, bias=0.0, inputs="normal"):
        self.noise = check_noise(noise)
        self.leak = check_number(leak, "leak")
        self.bias = check_number(bias, "bias")
        self.inputs = check_inputs(inputs)

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks.

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
        X = draw_inputs(self, n_tasks, n_examples, n_features, generator)
        w = normal(generator, n_tasks, n_features) / math.sqrt(n_features)
        b = normal(generator, n_tasks, 1) * self.bias
        z = torch.einsum("bnd,bd->bn", X, w) + b
        y = math.sqrt(2) * torch.where(z > 0, z, self.leak * z)
        return add_noise(X, y, self.noise, generator)

    def __repr__(self):
        return describe(self)


class MixturePrior:
    """Each task comes from one of several priors (2301.07067, section 6).

    Parameters
    ----------
    priors : list
        The priors.
    probabilities : array-like of shape (n_priors,), default=None
        How often a task comes from each; all the same if None.

    Examples
    --------
    Half of the tasks are sparse:

    >>> import torch
    >>> from sklearn_attn.in_context import LinearPrior, MixturePrior
    >>> from sklearn_attn.in_context import SparseLinearPrior
    >>> prior = MixturePrior([LinearPrior(), SparseLinearPrior(2)])
    >>> generator = torch.Generator().manual_seed(0)
    >>> tuple(prior.sample(8, 20, 8, generator=generator).X.shape)
    (8, 20, 8)
    """

    def __init__(self, priors, probabilities=None):
        self.priors = list(priors)
        if not self.priors or not all(hasattr(p, "sample") for p in self.priors):
            raise ValueError(
                "priors must be a list of one or more objects with a `sample` method; "
                f"got {priors!r}."
            )
        if probabilities is None:
            probabilities = np.full(len(self.priors), 1 / len(self.priors))
        shares = np.asarray(probabilities, dtype=np.float64)
        if (
            shares.shape != (len(self.priors),)
            or not (shares >= 0).all()
            or not np.isclose(shares.sum(), 1)
        ):
            raise ValueError(
                f"probabilities must be {len(self.priors)} numbers from 0 on that sum "
                f"to 1; got {probabilities!r}."
            )
        self.probabilities = shares

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks.

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
        device = generator.device
        shares = torch.as_tensor(self.probabilities, device=device)
        which = torch.multinomial(shares, n_tasks, True, generator=generator)
        counts = torch.bincount(which, minlength=len(self.priors)).tolist()
        parts = [
            draw_tasks(prior, count, n_examples, n_features, generator=generator)
            for prior, count in zip(self.priors, counts)
            if count
        ]
        parts = [
            part._replace(f=part.y if part.f is None else part.f) for part in parts
        ]
        place = which.argsort(stable=True).argsort()
        return Tasks(*(torch.cat(part)[place] for part in zip(*parts)))

    def __repr__(self):
        return f"MixturePrior({self.priors}, {self.probabilities.tolist()})"


class LDSPrior:
    """Partially observed linear systems: x_{t+1} = W x_t + w_t,  y_t = C x_t.

    W is normal, scaled to a spectral radius; C has entries N(0, 1/r), and x_0 is zero
    (2301.07067, section 5 and figure 2). The prompt is the sequence of the y_t.

    Parameters
    ----------
    n_states : int, default=20
        Number of states.
    n_outputs : int, default=4
        Number r of outputs.
    radius : float or (float, float), default=0.9
        Spectral radius of W, below 1; each system draws its own of a pair, uniformly.
    noise : float, default=0.1
        Standard deviation of the process noise w_t.
    start : {"zero", "stationary", "mixed"}, default="zero"
        Where series start: at x_0 = 0 as in the paper, after 50 steps, or either, by
        chance for each batch.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import LDSPrior
    >>> generator = torch.Generator().manual_seed(0)
    >>> tuple(LDSPrior().sample_series(8, 41, generator=generator).shape)
    (8, 41, 4)
    """

    def __init__(
        self, n_states=20, n_outputs=4, *, radius=0.9, noise=0.1, start="zero"
    ):
        for name, count in (("n_states", n_states), ("n_outputs", n_outputs)):
            if not (isinstance(count, Integral) and count >= 1):
                raise ValueError(f"{name} must be a whole number from 1 on; {count!r}.")
        radius = tuple(radius) if isinstance(radius, list) else radius
        low, high = radius if isinstance(radius, tuple) else (radius, radius)
        if not 0 < low <= high < 1:
            raise ValueError(f"radius must be in (0, 1), or two of them; got {radius}.")
        self.n_states, self.n_outputs = n_states, n_outputs
        if start not in ("zero", "stationary", "mixed"):
            raise ValueError(
                f"start must be 'zero', 'stationary' or 'mixed'; got {start!r}."
            )
        self.radius, self.start = radius, start
        self.noise = check_number(noise, "noise")

    def sample_systems(self, n_tasks, *, generator):
        """Draw systems.

        Parameters
        ----------
        n_tasks : int
            How many.
        generator : torch.Generator
            Draws the numbers, on its device.

        Returns
        -------
        W : torch.Tensor of shape (n_tasks, n_states, n_states)
            State matrices.
        C : torch.Tensor of shape (n_tasks, n_outputs, n_states)
            Read-outs.
        """
        n, r = self.n_states, self.n_outputs
        W = normal(generator, n_tasks, n, n)
        radius = self.radius if isinstance(self.radius, tuple) else (self.radius,) * 2
        wanted = radius[0] + (radius[1] - radius[0]) * uniform(generator, n_tasks)
        W = W * (wanted / spectral_radius(W))[:, None, None]
        return W, normal(generator, n_tasks, r, n) / math.sqrt(r)

    def sample_series(self, n_tasks, n_steps, *, generator):
        """Draw systems and one series of outputs from each.

        Parameters
        ----------
        n_tasks, n_steps : int
            How many, and how long.
        generator : torch.Generator
            Draws the numbers, on its device.

        Returns
        -------
        torch.Tensor of shape (n_tasks, n_steps, n_outputs)
            Outputs; those of x_1 first, if series start at zero.
        """
        W, C = self.sample_systems(n_tasks, generator=generator)
        coin = self.start == "mixed" and bool(uniform(generator) < 0.5)
        before = _BURN_IN if coin or self.start == "stationary" else 0
        return self.simulate(W, C, before + n_steps, generator=generator)[:, before:]

    def simulate(self, W, C, n_steps, *, generator):
        """Run given systems from x_0 = 0.

        Parameters
        ----------
        W : torch.Tensor of shape (n_tasks, n_states, n_states)
            State matrices.
        C : torch.Tensor of shape (n_tasks, n_outputs, n_states)
            Read-outs.
        n_steps : int
            How many steps.
        generator : torch.Generator
            Draws the process noise, on its device.

        Returns
        -------
        torch.Tensor of shape (n_tasks, n_steps, n_outputs)
            Outputs, from x_1 on.
        """
        n_tasks, n, _ = W.shape
        w = self.noise * normal(generator, n_steps, n_tasks, n, 1).to(W.dtype)
        x, states = W.new_zeros(n_tasks, n, 1), []
        for t in range(n_steps):
            x = W @ x + w[t]
            states.append(x[..., 0])
        return torch.stack(states, 1) @ C.mT

    def __repr__(self):
        return describe(self)


class WindowPrior:
    """Series as tables: what comes next, from the last steps.

    Each task is one output of a series, in the order of time. Its features are all
    outputs of the last `window` steps, the latest first, and zeros before the start. In
    half of the batches there are fewer outputs, and zeros for the others.

    Parameters
    ----------
    prior : LDSPrior or object
        With a method ``sample_series(n_tasks, n_steps, *, generator)`` that returns
        series of shape (n_tasks, n_steps, n_outputs), and `n_outputs`.
    window : int, default=3
        Number of steps.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import LDSPrior, WindowPrior
    >>> prior = WindowPrior(LDSPrior(), window=2)
    >>> generator = torch.Generator().manual_seed(0)
    >>> tuple(prior.sample(8, 20, 8, generator=generator).X.shape)
    (8, 20, 8)
    """

    def __init__(self, prior, window=3):
        if not hasattr(prior, "sample_series"):
            raise ValueError(f"A prior of series has `sample_series`; got {prior!r}.")
        if not (isinstance(window, Integral) and window >= 1):
            raise ValueError(f"window must be a whole number from 1 on; {window!r}.")
        self.prior, self.window = prior, window

    @property
    def n_features(self):
        """Number of features of a task."""
        return self.window * self.prior.n_outputs

    def sample(self, n_tasks, n_examples, n_features, *, generator):
        """Draw tasks; the outputs of a series are as many tasks.

        Parameters
        ----------
        n_tasks, n_examples, n_features : int
            How many; features are `window` times outputs.
        generator : torch.Generator
            Draws the numbers, on its device.

        Returns
        -------
        Tasks
            The tasks. Their noise is not known.
        """
        if n_features != self.n_features:
            raise ValueError(
                f"Tasks have {self.n_features} features; not {n_features}."
            )
        r = self.prior.n_outputs
        n_series = math.ceil(n_tasks / r)
        series = self.prior.sample_series(n_series, n_examples + 1, generator=generator)
        seen = min(r, max(1, math.ceil(2 * r * float(uniform(generator)))))
        series = torch.cat([series[..., :seen], 0 * series[..., seen:]], -1)
        X, Y = window_rows(series, self.window)
        which = torch.arange(r, device=Y.device) % seen
        X = X.repeat_interleave(r, 0)[:n_tasks]
        y = Y[..., which].mT.flatten(0, 1)[:n_tasks]  # (n_series * r, n_examples)
        return Tasks(X, y, torch.full_like(y[:, 0], math.nan))

    def __repr__(self):
        return f"WindowPrior({self.prior}, window={self.window})"


def window_rows(series, window):
    """Return windows (B, T - 1, window * r), latest step first, and what follows."""
    B, T, r = series.shape
    padded = torch.cat([series.new_zeros(B, window - 1, r), series], 1)
    steps = [
        padded[:, window - 1 - lag : window - 1 - lag + T - 1] for lag in range(window)
    ]
    return torch.cat(steps, 2), series[:, 1:]


def spectral_radius(W):
    """Return the spectral radius of each matrix, as the growth of its powers."""
    log_scale, weight = W.new_zeros(len(W)), 1.0
    for _ in range(_SQUARINGS):
        norm = torch.linalg.matrix_norm(W)
        log_scale = log_scale + weight * norm.log()
        W = W / norm[:, None, None]
        W, weight = W @ W, weight / 2
    return (log_scale + weight * torch.linalg.matrix_norm(W).log()).exp()


def draw_tasks(prior, n_tasks, n_examples, n_features, *, generator):
    """Draw tasks of any prior, also of one of the user's that returns pairs (X, y).

    Raises
    ------
    ValueError
        If what came is not of the shape that was asked for, or not finite.
    """
    drawn = prior.sample(n_tasks, n_examples, n_features, generator=generator)
    X, y, noise, f = (*drawn, None, None)[:4]
    X, y = (torch.as_tensor(z, device=generator.device) for z in (X, y))
    wanted = (n_tasks, n_examples, n_features)
    if tuple(X.shape) != wanted or tuple(y.shape) != wanted[:2]:
        raise ValueError(
            f"{prior!r} was asked for X of shape {wanted} and y of shape {wanted[:2]}; "
            f"its `sample` returned {tuple(X.shape)} and {tuple(y.shape)}."
        )
    noise = torch.as_tensor(0.0 if noise is None else noise, device=X.device)
    dtype = torch.get_default_dtype()
    f = None if f is None else torch.as_tensor(f, device=X.device).to(dtype)
    tasks = Tasks(X.to(dtype), y.to(dtype), noise.to(dtype).expand(n_tasks), f)
    if not (torch.isfinite(tasks.X).all() and torch.isfinite(tasks.y).all()):
        raise ValueError(f"{prior!r} drew values that are not finite.")
    return tasks


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, device=generator.device)


def uniform(generator, *shape):
    return torch.rand(shape, generator=generator, device=generator.device)


def draw_inputs(prior, n_tasks, n_examples, n_features, generator):
    if prior.inputs == "normal":
        return normal(generator, n_tasks, n_examples, n_features)
    return _varied_columns(n_tasks, n_examples, n_features, generator)


def _varied_columns(B, n, d, generator):
    """Draw inputs as in tables: correlated normals, some columns bent into others."""
    rank = int(
        torch.randint(1, d + 1, (), generator=generator, device=generator.device)
    )
    loadings = normal(generator, B, rank, d) / math.sqrt(rank)
    common = uniform(generator, B, 1, 1)
    z = common.sqrt() * (normal(generator, B, n, rank) @ loadings)
    z = z + (1 - common).sqrt() * normal(generator, B, n, d)
    scale = (common * loadings.square().sum(1, keepdim=True) + (1 - common)).sqrt()
    z = z / scale
    kinds = torch.multinomial(
        torch.tensor(_KINDS_OF_COLUMNS, device=z.device),
        B * d,
        True,
        generator=generator,
    ).reshape(B, 1, d)
    u = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    chi2 = normal(generator, _HEAVY, B, n, 1).square().sum(0) / _HEAVY
    columns = (
        z,
        math.sqrt(12) * (u - 0.5),
        (torch.exp(0.8 * z) - math.exp(0.32))
        / math.exp(0.32)
        / math.sqrt(math.expm1(0.64)),
        torch.sign(z - normal(generator, B, 1, d) / 2),
        z / chi2.clamp_min(0.05).sqrt() / math.sqrt(_HEAVY),
    )
    X = columns[0]
    for kind, column in enumerate(columns[1:], start=1):
        X = torch.where(kinds == kind, column, X)
    return X


def _color(z, covariance):
    """Turn z ~ N(0, I) into N(0, covariance); of a larger one, its first features."""
    if covariance is None:
        return z
    d = z.shape[-1]
    if len(covariance) < d:
        raise ValueError(
            f"A covariance of {len(covariance)} features is too small for tasks of {d}."
        )
    cov = torch.tensor(covariance, dtype=z.dtype, device=z.device)
    if cov.ndim == 1:
        return z * cov[:d].clamp_min(0).sqrt()
    values, vectors = torch.linalg.eigh(cov[:d, :d])
    return z @ (vectors * values.clamp_min(0).sqrt()).mT


def add_noise(X, y, noise, generator):
    if isinstance(noise, tuple):
        low, high = map(math.log, noise)
        sigma = torch.exp(low + (high - low) * uniform(generator, len(y)))
    else:
        sigma = torch.full_like(y[:, 0], noise)
    f = y
    if noise != 0:
        y = y + sigma[:, None] * normal(generator, *y.shape)
    return Tasks(X, y, sigma, f)


def check_number(value, name):
    if not (isinstance(value, Real) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number from 0 on; got {value!r}.")
    return float(value)


def check_noise(noise):
    if not isinstance(noise, tuple | list):
        return check_number(noise, "noise")
    low, high = (check_number(value, "noise") for value in noise)
    if not 0 < low <= high:
        raise ValueError(f"A pair of noises must have 0 < low <= high; got {noise!r}.")
    return low, high


def check_inputs(inputs):
    if inputs not in ("normal", "varied"):
        raise ValueError(f"inputs must be 'normal' or 'varied'; got {inputs!r}.")
    return inputs


def _check_covariance(covariance, name):
    if covariance is None:
        return None
    cov = np.asarray(covariance, dtype=np.float64).copy()
    square = cov.ndim == 2 and cov.shape[0] == cov.shape[1]
    if not (cov.ndim == 1 or square) or not np.isfinite(cov).all():
        raise ValueError(
            f"{name} must be a finite vector or square matrix; got shape {cov.shape}."
        )
    least = cov.min() if cov.ndim == 1 else np.linalg.eigvalsh(cov).min()
    if least < -1e-10 * np.abs(cov).max() or not np.allclose(cov, cov.T):
        raise ValueError(f"{name} must be symmetric and positive semi-definite.")
    cov.setflags(write=False)
    return cov


def _digest(array):
    """Return what tells an array from others, in not too many characters."""
    if array.size <= _MOST_SHOWN:
        return array.tolist()
    sha256 = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return f"<array of shape {array.shape}, sha256 {sha256[:16]}>"


def describe(prior):
    settings = {
        name: _digest(value) if isinstance(value, np.ndarray) else value
        for name, value in vars(prior).items()
        if value is not None
    }
    inside = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return f"{type(prior).__name__}({inside})"
