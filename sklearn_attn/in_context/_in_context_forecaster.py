"""InContextForecaster: y_{t+1} = TF(y_1, ..., y_t), rolled out (2301.07067, sec. 5).

Weights of the set form read the series as a table of windows and what followed each,
once, and then answer for windows that end in forecasts. Weights of the causal form read
the series itself, and go on with keys and values that are kept.
"""

from numbers import Integral

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch.nn import functional as F

from .._arrays import cpu_generator, few_threads, resolve_device, to_numpy
from . import _in_context_methods as methods
from ._context import Units
from ._priors import window_rows

# The latest windows that are read of a series: far more than weights have seen.
_MOST_ROWS = 1024


class InContextForecaster:
    """Forecasts of series by a pretrained transformer, which reads them and goes on.

    The weights were trained on series of many linear systems whose states are not seen
    [1]_; they find out in context which one it is. A series is no table of independent
    rows, so this is no regressor of scikit-learn: `fit` takes series, and `predict` a
    number of steps.

    Read more in the :doc:`user guide </user_guide/in_context>`.

    Parameters
    ----------
    weights : str, path-like or PretrainedICL, default="auto"
        The algorithm. "auto" is "icl-lds", which has seen up to 80 steps of up to 4
        outputs. More outputs are forecast in groups of 4.
    window : int, default=3
        Number of steps that a forecast is made from, by weights of the set form; those
        must take `window` features for each output. "icl-lds" is made for 3.
    standardize : bool, default=True
        Whether outputs are centred, and scaled to the prior's deviation. Else they are
        read as they are.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision; "auto" is double on the CPU.

    Attributes
    ----------
    weights_ : PretrainedICL
        The weights that were used.
    n_series_ : int
        Number of series.
    n_outputs_ : int
        Number of outputs.

    See Also
    --------
    InContextRegressor : The same for tables.
    BilinearSystemIdentifier : A model of the system, of states that are seen.

    References
    ----------
    .. [1] Li, Ildiz, Papailiopoulos and Oymak, "Transformers as Algorithms:
           Generalization and Stability in In-context Learning", arXiv:2301.07067.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.in_context import InContextForecaster
    >>> t = np.arange(60)
    >>> wave = np.column_stack([np.sin(t / 3), np.cos(t / 3)])
    >>> model = InContextForecaster().fit(wave[:40])
    >>> model.predict(5).shape
    (5, 2)
    """

    def __init__(
        self,
        weights="auto",
        *,
        window=3,
        standardize=True,
        device="cpu",
        dtype="auto",
    ):
        self.weights = weights
        self.window = window
        self.standardize = standardize
        self.device = device
        self.dtype = dtype

    def fit(self, series):
        """Read one or several series.

        Parameters
        ----------
        series : array-like of shape (n_steps, n_outputs) or (n_steps,), or list of them
            The series, oldest step first. Of a list of arrays, each is continued by
            itself; a list of lists of numbers is one series, written out.

        Returns
        -------
        self : InContextForecaster
            The fitted forecaster.

        Raises
        ------
        ValueError
            If a series is empty, has NaN or infinity, or another number of outputs than
            the first one; if `window` is no whole number from 1 on, or longer than the
            weights take; or if weights or device are not there, or of another kind.
        """
        weights = methods.find_weights(self.weights, auto="icl-lds")
        if weights.form not in ("series", *methods.TABLES):
            raise ValueError(
                f"{weights!r} reads {weights.form}; weights for series, or for tables "
                "of windows, are needed."
            )
        _group_of(weights, self.window)
        resolve_device(self.device)
        if self.dtype not in ("auto", "float32", "float64"):
            raise ValueError(
                f"dtype must be 'auto', 'float32' or 'float64'; got {self.dtype!r}."
            )
        paths, is_single, is_flat = _as_series(series)
        self.weights_ = weights
        self.n_series_, self.n_outputs_ = len(paths), paths[0].shape[1]
        self._paths, self._is_single, self._is_flat = paths, is_single, is_flat
        return self

    def predict(self, horizon, *, return_std=False, n_paths=100, random_state=None):
        """Continue the series.

        Parameters
        ----------
        horizon : int
            Number of steps.
        return_std : bool, default=False
            Whether to return standard deviations, too, of paths that are drawn.
        n_paths : int, default=100
            How many paths, for `return_std`.
        random_state : int, RandomState instance or None, default=None
            Determines the paths.

        Returns
        -------
        mean : ndarray of shape (horizon, n_outputs) or (horizon,), or list of them
            What is expected, each step from the steps before and the forecasts of them.
            A list, if a list was fitted.
        std : ndarray of the same shape, or list of them
            Standard deviations, with `return_std`.

        Raises
        ------
        NotFittedError
            If no series was read.
        ValueError
            If `horizon` or `n_paths` is no whole number from 1 on.
        """
        mean = self._unfold(self._roll_out(horizon, None, 1), lambda path: path[0])
        if not return_std:
            return mean
        paths = self._roll_out(horizon, cpu_generator(random_state), n_paths)
        return mean, self._unfold(paths, lambda path: path.std(0))

    def sample(self, horizon, *, n_paths=100, random_state=None):
        """Draw paths that the series may take.

        Parameters
        ----------
        horizon : int
            Number of steps.
        n_paths : int, default=100
            How many paths.
        random_state : int, RandomState instance or None, default=None
            Determines the paths.

        Returns
        -------
        ndarray of shape (n_paths, horizon, n_outputs) or (n_paths, horizon), or list
            Paths, each step drawn given the ones before.

        Raises
        ------
        NotFittedError
            If no series was read.
        ValueError
            If `horizon` or `n_paths` is no whole number from 1 on.
        """
        generator = cpu_generator(random_state)
        return self._unfold(self._roll_out(horizon, generator, n_paths), lambda p: p)

    def _unfold(self, paths, summary):
        """Return a summary of the paths of each series, in the shape of the input."""
        found = [summary(path) for path in paths]
        if self._is_flat:
            found = [array[..., 0] for array in found]
        return found[0] if self._is_single else found

    def _roll_out(self, horizon, generator, n_paths):
        """Return paths (n_paths, horizon, n_outputs) of each series."""
        if not hasattr(self, "weights_"):
            raise NotFittedError("This InContextForecaster has read no series yet.")
        for name, count in (("horizon", horizon), ("n_paths", n_paths)):
            if not (isinstance(count, Integral) and count >= 1):
                raise ValueError(
                    f"{name} must be a whole number from 1 on; got {count!r}."
                )
        device = resolve_device(self.device, fall_back=True)
        dtype = methods.resolve_precision(self.dtype, self.weights_, device)
        module = self.weights_.module(device, dtype)
        r = _group_of(self.weights_, self.window)
        roll_out = self._go_on if self.weights_.form == "series" else self._answer
        draw = _Draws(generator, device, dtype)
        found = []
        with few_threads(0):
            for path in self._paths:
                groups = np.split(path, range(r, path.shape[1], r), axis=1)
                parts = [
                    self._continue(roll_out, module, group, horizon, draw, n_paths)
                    for group in groups
                ]
                found.append(np.concatenate(parts, axis=2))
        return found

    def _continue(self, roll_out, module, path, horizon, draw, n_paths):
        """Roll out one group of outputs: (n_paths, horizon, outputs of the group)."""
        units = Units.of(path, path, self.standardize)
        # the causal form is used to the scale of its prior, the set form to none
        is_scaled = self.standardize and self.weights_.form == "series"
        scale = float(module.scale) if is_scaled else 1.0
        z = draw.tensor(units.targets(path) * scale)
        constant = path.max(0) == path.min(0)
        if len(path) < 2 or constant.all():
            return np.repeat(path[-1:], n_paths * horizon, 0).reshape(
                n_paths, horizon, -1
            )
        with torch.inference_mode():
            steps = roll_out(module, z, horizon, draw, n_paths)
        forecast = steps[..., : path.shape[1]].double().cpu().numpy()
        forecast = forecast / scale * units.x_scale + units.x_mean
        forecast[..., constant] = path[-1, constant]
        return forecast

    def _answer(self, module, z, horizon, draw, n_paths):
        """Ask the set form for one step after the other, the context read once."""
        n_outputs, r = z.shape[1], _group_of(self.weights_, self.window)
        padded = F.pad(z, (0, r - n_outputs))
        X, Y = window_rows(padded[None], self.window)
        most = min(_MOST_ROWS, self.weights_.max_context or _MOST_ROWS)
        X, Y = X[:, -most:], Y[:, -most:, :n_outputs]
        targets = Y[0].T  # each output is a task of its own on the same windows
        cache = module.context(X.expand(n_outputs, -1, -1), targets)
        start = F.pad(padded, (0, 0, self.window, 0))[-self.window :]
        window = start.flip(0).expand(n_paths, -1, -1)  # latest step first
        steps = []
        for _ in range(horizon):
            query = window.flatten(1).expand(n_outputs, -1, -1)
            mean, std = module(query, cache)
            step = draw.one(mean.T, std.T)  # (n_paths, n_outputs)
            steps.append(step)
            latest = F.pad(step, (0, r - n_outputs))[:, None]
            window = torch.cat([latest, window[:, :-1]], 1)
        return torch.stack(steps, 1)

    def _go_on(self, module, z, horizon, draw, n_paths):
        """Let the causal form go on, with keys and values that are kept."""
        n_outputs, n_positions = z.shape[1], self.weights_.max_context
        seen = F.pad(z, (0, self.weights_.n_features - n_outputs))[-n_positions:]
        seen = seen.expand(n_paths, -1, -1)
        mean, std, past = module(seen)
        steps = []
        for _ in range(horizon):
            step = draw.one(mean[:, -1:], std[:, -1:])
            step[..., n_outputs:] = 0.0
            steps.append(step)
            seen = torch.cat([seen, step], 1)
            if seen.shape[1] <= n_positions:
                mean, std, past = module(step, past)
            else:  # no place is left: forget the older half, and read again
                seen = seen[:, -(n_positions // 2) :]
                mean, std, past = module(seen)
        return torch.cat(steps, 1)


def _group_of(weights, window):
    """Return how many outputs the weights forecast together."""
    if weights.form == "series":
        return weights.n_features
    if not (isinstance(window, Integral) and window >= 1):
        raise ValueError(f"window must be a whole number from 1 on; got {window!r}.")
    if window > weights.n_features:
        raise ValueError(
            f"window={window} is longer than {weights!r} takes, {weights.n_features}."
        )
    return weights.n_features // window


class _Draws:
    """Steps of paths: what is expected, or a draw around it."""

    def __init__(self, generator, device, dtype):
        self.generator, self.device, self.dtype = generator, device, dtype

    def tensor(self, array):
        return torch.as_tensor(array, dtype=self.dtype, device=self.device)

    def one(self, mean, std):
        if self.generator is None:
            return mean.clone()
        noise = torch.randn(mean.shape, generator=self.generator, dtype=torch.float64)
        return mean + std * self.tensor(noise)


def _as_series(series):
    """Return series as a list of arrays (n_steps, n_outputs), and how they came."""
    series = to_numpy(series)
    if isinstance(series, list | tuple) and len(series) == 0:
        raise ValueError("There is no series; at least one is needed.")
    is_list = isinstance(series, list | tuple)
    # steps written out as lists are one series, arrays in a list are several
    is_single = not is_list or all(
        np.ndim(step) == 0 or (isinstance(step, list | tuple) and np.ndim(step) == 1)
        for step in series
    )
    paths, flat = [], []
    for i, path in enumerate([series] if is_single else series):
        try:
            array = np.array(to_numpy(path), dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"Series {i} is no array of numbers.") from None
        flat.append(array.ndim == 1)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(
                f"Series {i} has shape {array.shape}; it must be (n_steps, n_outputs) "
                "with one step or more."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"Series {i} contains NaN or infinity.")
        if array.shape[1] != (paths[0] if paths else array).shape[1]:
            raise ValueError(
                f"Series {i} has {array.shape[1]} outputs; the first one has "
                f"{paths[0].shape[1]}."
            )
        paths.append(array)
    return paths, is_single, all(flat)
