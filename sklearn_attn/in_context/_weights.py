"""Pretrained algorithms: theta of TF_theta, with a card of where it comes from.

An object of weights never changes. Files are safetensors: numbers and a header of text,
nothing that could run. What a file claims is checked before memory is taken for it.
"""

import functools
import hashlib
import json
import math
import os
import threading
import warnings
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from ._chain_transformer import CausalChain, ChainTransformer, state_widths
from ._filtered import check_shapes
from ._priors import window_rows
from ._transformer import (
    CausalLearner,
    CausalTransformer,
    SetTransformer,
    draw_weights,
)

# Weights that come with the package, without the ending ".safetensors".
BUNDLED = (
    "icl-linear",
    "icl-linear-noisy",
    "icl-linear-unit-noise",
    "icl-relu",
    "icl-mixed",
    "icl-lds",
    "icl-two-families",
    "icl-decaying",
    "icl-two-layer",
    "cot-relu",
    "cot-mixed",
    "cot-two-layer",
    "cot-one-shot",
)
FORMAT = "sklearn_attn.in_context.1"
FORMS = {
    "set": SetTransformer,
    "examples": CausalLearner,
    "series": CausalTransformer,
    "chain": ChainTransformer,
    "causal-chain": CausalChain,
}
CHAINS = ("chain", "causal-chain")
MODES = ("cot-io", "cot-i", "icl")
_WIDTHS = ("n_features", "step_width", "depth")
# What a file may ask for at most: far beyond what this package trains.
_MOST_PARAMETERS = 200_000_000
_MOST_HEADER = 1_000_000
_LIMITS = {
    "n_features": 10_000,
    "n_inputs": 10_000,
    "n_outputs": 10_000,
    "n_examples": 100_000,
    "step_width": 10_000,
    "depth": 100,
    "n_positions": 200_000,
    "width": 4096,
    "n_layers": 96,
    "n_heads": 128,
    "mlp_ratio": 16,
}
# Sizes by which a matrix of the width grows.
_READ_BY_WIDTH = ("n_features", "n_inputs", "n_outputs", "n_examples", "n_positions")
_DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
_building = threading.Lock()


class PretrainedICL:
    """A learning algorithm that was pretrained: weights of a transformer, and a card.

    It is made by :func:`pretrain_in_context`, :func:`load_in_context_weights` or
    :meth:`load`, and never changes, so that clones of an estimator share it. Two are
    equal if their numbers are.

    Parameters
    ----------
    config : dict
        Form and sizes of the transformer.
    state : dict of ndarray
        Its weights, by name.
    card : dict
        Where they come from: prior, steps, seed, measured errors.
    name : str, default=None
        Name of weights that come with the package; they are pickled by name.

    Attributes
    ----------
    config : dict
        Form and sizes of the transformer.
    card : dict
        Where the weights come from.
    sha256 : str
        Checksum of the weights.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import load_in_context_weights
    >>> weights = load_in_context_weights("icl-linear")
    >>> weights.n_features
    10
    >>> X, w = torch.randn(1, 40, 5, dtype=torch.float64), torch.ones(5).double()
    >>> mean, std = weights.predict(X, X @ w, torch.eye(5).double()[None])
    >>> tuple(mean.shape)
    (1, 5)
    """

    def __init__(self, config, state, card=None, name=None):
        shapes = expected_shapes(config)
        _check_shapes(shapes, {k: v.shape for k, v in state.items()}, "These weights")
        kept = {}
        for key in shapes:
            array = np.array(state[key], dtype=np.float32)
            if not np.isfinite(array).all():
                raise ValueError(
                    f"The weights {key!r} hold values that are not finite."
                )
            array.setflags(write=False)
            kept[key] = array
        self._config = dict(config)
        self._state = kept
        self._card = json.loads(json.dumps(card or {}))
        self._name = name
        self._sha256 = _checksum(config, kept)

    @property
    def config(self):
        """Form and sizes of the transformer."""
        return dict(self._config)

    @property
    def card(self):
        """Where the weights come from."""
        return json.loads(json.dumps(self._card))

    @property
    def sha256(self):
        """Checksum of the weights."""
        return self._sha256

    @property
    def n_parameters(self):
        """Number of weights."""
        return sum(array.size for array in self._state.values())

    @property
    def form(self):
        """What is read: "set" or "examples", "series", "chain" or "causal-chain"."""
        return self._config["form"]

    @property
    def n_features(self):
        """The most features of a row, or the most outputs of a series."""
        return self._config.get("n_features", self._config.get("n_inputs"))

    @property
    def max_context(self):
        """The most examples of a context, or steps of a series; None is no limit."""
        if self.form in ("examples", "causal-chain"):
            return self._config["n_examples"] - 1
        return self._config.get("n_positions")

    def module(self, device="cpu", dtype=torch.float32):
        """Return the transformer, ready to predict, shared by all who ask for it.

        Parameters
        ----------
        device : torch.device or str, default="cpu"
            Where it is to be.
        dtype : torch.dtype, default=torch.float32
            What it is to compute in.

        Returns
        -------
        torch.nn.Module
            In evaluation mode. It must not be changed.
        """
        with _building:  # or two threads would build it twice
            return _built(self, str(device), dtype)

    def predict(self, X, y, X_query, *, noise=None):
        """Answer queries of many tasks at once, without gradients.

        Parameters
        ----------
        X : torch.Tensor of shape (n_tasks, n, d)
            Contexts. The dtype and the device are those to compute with.
        y : torch.Tensor of shape (n_tasks, n)
            Their targets.
        X_query : torch.Tensor of shape (n_tasks, q, d)
            Rows to predict for.
        noise : float or torch.Tensor of shape (n_tasks,), default=None
            Standard deviation of the noise in y, where it is known.

        Returns
        -------
        mean, std : torch.Tensor of shape (n_tasks, q)
            What is expected, and the standard deviation of a new target.

        Raises
        ------
        ValueError
            If the weights are of series, or there are more features or examples than
            they take.
        """
        if self.form == "series":
            raise ValueError("These weights read series; use InContextForecaster.")
        if self.form in CHAINS:
            raise ValueError("These weights read steps; use predict_steps.")
        if X.ndim != 3 or X_query.ndim != 3 or not X.is_floating_point():
            raise ValueError("X and X_query must be 3-D tensors of floats.")
        n, d = X.shape[1:]
        if d > self.n_features:
            raise ValueError(f"{d} features; these weights take {self.n_features}.")
        if self.max_context is not None and n > self.max_context:
            raise ValueError(f"{n} examples; these weights take {self.max_context}.")
        if n == 0:
            raise ValueError("A context needs at least one example.")
        shapes = [tuple(part.shape) for part in (X, y, X_query)]
        if shapes[1] != (len(X), n) or shapes[2] != (len(X), X_query.shape[1], d):
            raise ValueError(
                "X must be (tasks, n, d), y (tasks, n) and X_query (tasks, q, d); got "
                f"shapes {shapes[0]}, {shapes[1]} and {shapes[2]}."
            )
        module = self.module(X.device, X.dtype)
        if noise is not None:
            noise = torch.as_tensor(noise, dtype=X.dtype, device=X.device).expand(
                len(X)
            )
        with torch.inference_mode():
            return module(X_query, module.context(X, y, noise))

    def predict_steps(self, X, steps, y, X_query, *, given=None, mode="cot-io"):
        """Go through the steps of many tasks at once, without gradients.

        Parameters
        ----------
        X : torch.Tensor of shape (n_tasks, n, n_features)
            Inputs of the examples. The dtype and the device are those to compute with.
        steps : sequence of torch.Tensor of shape (n_tasks, n, width)
            Their steps; not read if mode="icl".
        y : torch.Tensor of shape (n_tasks, n) or (n_tasks, n, n_outputs)
            Their targets.
        X_query : torch.Tensor of shape (n_tasks, q, n_features)
            Rows to predict for.
        given : dict of int to torch.Tensor, default=None
            True steps of the queries, by their place in `steps`, that the next step
            goes on from.
        mode : {"cot-io", "cot-i", "icl"}, default="cot-io"
            Whether to answer all steps one after the other, or y at once, with steps in
            the examples or without.

        Returns
        -------
        means, stds : list of torch.Tensor
            Answers for all steps, of shape (n_tasks, q, width), and for y, or for y
            only, of the shape that y has; and their deviations.

        Raises
        ------
        ValueError
            If the weights are not of chains, or shapes are not what they take.
        """
        if self.form not in CHAINS:
            raise ValueError(f"{self!r} reads no steps; weights of a chain do.")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {list(MODES)}; got {mode!r}.")
        steps, given = ([] if mode == "icl" else steps), given or {}
        check_shapes(X, steps, y, X_query, given if mode == "cot-io" else {})
        if not (X.is_floating_point() and X.shape[1]):
            raise ValueError(
                "X must have floats, and at least one example; got "
                f"{tuple(X.shape)} of {X.dtype}."
            )
        states = [X, *steps, y if y.ndim == 3 else y[..., None]]
        self.check_chain([state.shape[2] for state in states], X.shape[1], mode)
        module = self.module(X.device, X.dtype)
        given = {place + 1: state for place, state in given.items()}
        with torch.inference_mode():
            cache = module.context(states, with_steps=mode != "icl")
            if mode == "cot-io":
                found = module.rollout(X_query, cache, given)
            else:
                found = [[part] for part in module.direct(X_query, cache)]
        if y.ndim == 2:
            found = [[*answers[:-1], answers[-1][..., 0]] for answers in found]
        return tuple(found)

    def check_chain(self, widths, n_examples, mode="cot-io"):
        """Refuse widths of s^0, ..., s^L that a chain of these weights does not take.

        Parameters
        ----------
        widths : list of int
            Widths of all states that are read.
        n_examples : int
            Length of the context.
        mode : {"cot-io", "cot-i", "icl"}, default="cot-io"
            As in :meth:`predict_steps`.

        Raises
        ------
        ValueError
            If there are more steps, or any is wider, or there are more examples.
        """
        config = self._config
        if mode == "icl" and self.form == "causal-chain":
            raise ValueError(
                f"{self!r} reads examples with steps only; not mode='icl'."
            )
        most = state_widths(*(config[key] for key in _WIDTHS), config["n_outputs"])
        if mode == "icl":
            most = [most[0], most[-1]]
        if len(widths) != len(most):
            raise ValueError(
                f"{len(widths) - 2} steps between X and y; {self!r} takes "
                f"{len(most) - 2}."
            )
        names = ["X", *[f"step {i}" for i in range(len(most) - 2)], "y"]
        for name, width, limit in zip(names, widths, most):
            if width > limit:
                raise ValueError(
                    f"{name} has {width} columns; {self!r} takes {limit} at most."
                )
        if self.max_context is not None and n_examples > self.max_context:
            raise ValueError(
                f"{n_examples} examples; {self!r} takes {self.max_context}."
            )

    def predict_next(self, series, *, window=3):
        """Predict each step of many series from those before it, without gradients.

        Parameters
        ----------
        series : torch.Tensor of shape (n_series, n_steps, n_outputs)
            Series. Weights of series take as many outputs as they have, in the units
            of their prior.
        window : int, default=3
            Number of steps in a row of the table that weights of tables read; as many
            as they were trained for.

        Returns
        -------
        mean, std : torch.Tensor of shape (n_series, n_steps, n_outputs)
            What is expected one step after each. Weights of tables have no example at
            the first step, and answer 0 and NaN.

        Raises
        ------
        ValueError
            If series have more steps or outputs than the weights take.
        """
        if self.form != "series":
            return self._predict_next_by_windows(series, window)
        wanted = (self.max_context, self.n_features)
        if series.shape[1] > wanted[0] or series.shape[2] != wanted[1]:
            raise ValueError(
                f"Series of {series.shape[1]} steps and {series.shape[2]} outputs; "
                f"these weights take {wanted[0]} and {wanted[1]}."
            )
        with torch.inference_mode():
            return self.module(series.device, series.dtype)(series)[:2]

    def _predict_next_by_windows(self, series, window):
        B, T, r = series.shape
        X, Y = window_rows(torch.cat([series, series[:, -1:]], 1), window)
        X, y = X.repeat_interleave(r, 0), Y.mT.flatten(0, 1)  # each output is a task
        answers = [(series.new_zeros(B * r, 1), series.new_full((B * r, 1), math.nan))]
        for t in range(1, T):
            answers.append(self.predict(X[:, :t], y[:, :t], X[:, [t]]))
        mean, std = (torch.cat(part, 1).view(B, r, T).mT for part in zip(*answers))
        return mean, std

    def save(self, path, *, dtype="float32"):
        """Write a safetensors file, which :meth:`load` reads.

        Parameters
        ----------
        path : str or path-like
            Where to.
        dtype : {"float32", "float16"}, default="float32"
            Precision. Half of it halves the file.

        Raises
        ------
        ValueError
            If a weight is too large for half precision, or the card is too long.
        """
        from safetensors.numpy import save

        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}.")
        with np.errstate(over="ignore"):
            state = {key: value.astype(dtype) for key, value in self._state.items()}
        if not all(np.isfinite(value).all() for value in state.values()):
            raise ValueError("Some weights are too large for dtype='float16'.")
        stored = {key: value.astype(np.float32) for key, value in state.items()}
        header = {
            "format": FORMAT,
            "config": json.dumps(self._config, sort_keys=True),
            "card": json.dumps(self._card, sort_keys=True),
            "sha256": _checksum(self._config, stored),
        }
        if len(header["card"]) > _MOST_HEADER // 2:
            raise ValueError(
                f"The card has {len(header['card'])} characters; files have at most "
                f"{_MOST_HEADER // 2}."
            )
        target = Path(path)
        part = target.with_name(target.name + ".part")
        part.write_bytes(save(state, metadata=header))
        os.replace(part, target)  # no reader ever sees half a file

    @classmethod
    def load(cls, path):
        """Read a file that :meth:`save` wrote.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        PretrainedICL
            What was saved.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, or not such a file.
        """
        return _load(cls, path, None)

    def __sklearn_clone__(self):
        return self

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __eq__(self, other):
        return isinstance(other, PretrainedICL) and self.sha256 == other.sha256

    def __hash__(self):
        return hash(self._sha256)

    def __reduce__(self):
        if self._name is not None:
            return _bundled_again, (self._name, self._sha256)
        return PretrainedICL, (self._config, self._state, self._card)

    def __repr__(self):
        what = repr(self._name) if self._name else f"form={self.form!r}"
        return f"<PretrainedICL {what}: {self.n_parameters} weights>"


@functools.lru_cache(maxsize=len(BUNDLED))
def load_in_context_weights(name):
    """Return weights that come with the package.

    Parameters
    ----------
    name : {"icl-mixed", "icl-linear", "icl-linear-noisy", "icl-linear-unit-noise", \
            "icl-relu", "icl-lds", "icl-two-families", "icl-decaying", \
            "icl-two-layer", "cot-mixed", "cot-relu", "cot-two-layer", "cot-one-shot"}
        Which ones. "auto" is "icl-mixed" for tables, "icl-lds" for series, "cot-mixed"
        for single steps of a chain, and "cot-two-layer" for whole chains.

    Returns
    -------
    PretrainedICL
        The weights, read once in a process.

    Raises
    ------
    ValueError
        If there are none of that name.

    Examples
    --------
    >>> from sklearn_attn.in_context import load_in_context_weights
    >>> load_in_context_weights("icl-mixed").form
    'set'
    """
    if name not in BUNDLED:
        raise ValueError(f"There are no weights {name!r}; there are {list(BUNDLED)}.")
    source = files(__package__) / "weights" / f"{name}.safetensors"
    return _load(PretrainedICL, source, name)


def _bundled_again(name, sha256):
    """Unpickle bundled weights; another version of the package may have others."""
    weights = load_in_context_weights(name)
    if weights.sha256 != sha256:
        warnings.warn(
            f"The weights {name!r} of this version of sklearn-attn are not those that "
            "were pickled; predictions will differ.",
            UserWarning,
            stacklevel=2,
        )
    return weights


@functools.lru_cache(maxsize=8)
def _built(weights, device, dtype):
    module = build(weights.config)
    module.load_state_dict(
        {key: torch.from_numpy(value.copy()) for key, value in weights._state.items()}
    )
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def build(config, seed=None):
    """Return a transformer in single precision; with a seed, its weights are drawn."""
    sizes = {key: value for key, value in config.items() if key != "form"}
    with torch.device("cpu"):  # whatever the default device and dtype may be
        module = FORMS[config["form"]](**sizes).float()
    if seed is not None:
        draw_weights(module, torch.Generator().manual_seed(seed))
    return module


def _load(cls, path, name):
    from safetensors import SafetensorError, safe_open

    path = Path(os.fspath(path))
    size = path.stat().st_size  # FileNotFoundError speaks for itself
    what = f"The file {path.name!r}"
    if not path.is_file():
        raise ValueError(f"{path.name!r} is no file.")
    with open(path, "rb") as file:
        start = file.read(8)
    length = int.from_bytes(start, "little")
    if size < 9 or not 0 < length <= min(_MOST_HEADER, size - 8):
        raise ValueError(
            f"{what} is no safetensors file, or it is cut off. Pickles and checkpoints "
            "of torch are not read, since they could run code."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(
                    f"{what} was not written by PretrainedICL.save: its format is "
                    f"{header.get('format')!r} and not {FORMAT!r}."
                )
            config, card = _read_header(header, what)
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: tuple(s.get_shape()) for key, s in slices.items()}
            _check_shapes(expected_shapes(config, size), shapes, what)
            kinds = {s.get_dtype() for s in slices.values()}
            if not kinds <= set(_DTYPES):
                raise ValueError(f"{what} holds numbers of kind {sorted(kinds)}.")
            state = {key: file.get_tensor(key) for key in shapes}
    except SafetensorError as error:
        raise ValueError(f"{what} is damaged or no safetensors file: {error}") from None
    weights = cls(config, state, card, name)
    if weights.sha256 != header.get("sha256"):
        raise ValueError(
            f"{what} is damaged: its checksum is not the one it was given."
        )
    return weights


def _read_header(header, what):
    try:
        config, card = json.loads(header["config"]), json.loads(header["card"])
    except (KeyError, ValueError, RecursionError):
        raise ValueError(f"{what} has a header that cannot be read.") from None
    if not isinstance(config, dict) or not isinstance(card, dict):
        raise ValueError(f"{what} has a header that cannot be read.")
    return config, card


def expected_shapes(config, n_bytes=None):
    """Return the shapes of the weights, of which there are not too many."""
    form = config.get("form")
    if not isinstance(form, str) or form not in FORMS:
        raise ValueError(f"form must be one of {list(FORMS)}; got {form!r}.")
    sizes = {key: value for key, value in config.items() if key != "form"}
    for key, value in sizes.items():
        most = _LIMITS.get(key)
        if most is None or type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"The size {key}={value!r} of a transformer is not valid.")
    heads, width = sizes.get("n_heads", 2), sizes.get("width", 64)
    if width % heads or (form in ("set", "chain") and heads % 2):
        raise ValueError(
            f"n_heads={heads} must divide width={width}, and be even in the set form."
        )
    # at least so many numbers, of two bytes at least: no file can ask for more memory
    # than it brings
    of_layer = (4 + 2 * sizes.get("mlp_ratio", 1)) * width**2
    in_layers = of_layer * sizes.get("n_layers", 3)
    outside = width * sum(sizes.get(key, 0) for key in _READ_BY_WIDTH)
    if form in CHAINS:
        keys = ("n_features", "step_width", "depth", "n_outputs")
        widths = state_widths(*(sizes.get(key, 1) for key in keys))
        if form == "chain":  # read in with what is before, and read out twice
            pairs = [(widths[0], widths[-1]), *pairwise(widths)]
            outside = width * sum(a + 3 * b for a, b in pairs)
        else:
            positions = sizes.get("n_examples", 1) * len(widths)
            outside = width * (3 * sum(widths) + positions)
    n_numbers = in_layers + outside
    if n_numbers > _MOST_PARAMETERS:
        raise ValueError(f"A transformer of {n_numbers} weights is beyond the limit.")
    if n_bytes is not None and 2 * n_numbers > n_bytes:
        raise ValueError(
            f"The sizes in the header do not fit a file of {n_bytes} bytes: {sizes}."
        )
    try:
        module = build(config)
    except TypeError:
        raise ValueError(f"These are no sizes of the form {form!r}: {sizes}.") from None
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def _check_shapes(expected, found, what):
    if {k: tuple(v) for k, v in found.items()} == expected:
        return
    odd = sorted(set(expected) ^ set(found)) or [
        key for key in expected if tuple(found[key]) != expected[key]
    ]
    raise ValueError(f"{what} do not fit the transformer's sizes; see {odd[:3]}.")


def _checksum(config, state):
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(state[key], dtype="<f4").tobytes())
    return digest.hexdigest()
