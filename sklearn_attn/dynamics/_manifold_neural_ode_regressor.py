"""ManifoldNeuralODERegressor: the map of a flow on a manifold (2305.08849)."""

import copy
import functools
import warnings
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from .._arrays import (
    cpu_generator,
    few_threads,
    follow,
    pack_state,
    resolve_device,
    resolve_dtype,
    to_numpy,
    to_tensor,
    unpack_state,
)
from .._compat import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    StrOptions,
    check_same_namespace,
    fit_context,
    with_callbacks,
)
from .._validation import (
    check_on_manifold,
    check_points,
    check_targets,
    check_timed_paths,
    check_times,
    named_rows,
    unharmed,
)
from ._fit_flow import (
    Descent,
    Endpoints,
    FlowModel,
    Units,
    fit_flow,
    pad_trajectories,
)
from ._flow import Flow
from ._manifolds import Euclidean, as_manifold
from ._vector_fields import closure_rank

# All rotations of pairs of axes up to SO(8); beyond, a chain of them will do.
_MOST_FIELDS = 28
# An inverse is exact if its image misses by no more than so many rounding units.
_EXACT = 1e3
# Steps of a trajectory beyond which times cannot be meant.
_MOST_STEPS = 1e6
# Samples at which brackets are looked at, beside random points.
_N_LOOKED_AT = 20
# Chosen on the maps of `datasets` and on scikit-learn's bundled tables, see the guide.
_ALPHA_OF_POINTS, _ALPHA_OF_TABLES = 1e-5, 1e-2
# Fields of two fits are the same up to single precision.
_SAME_FIELDS = 1e-6
# Squared distances (per point) below which points are equal: rounding.
_EQUAL = 1e-28
# What a fit leaves behind only for some settings.
_OPTIONAL = ("x_mean_", "x_scale_", "coef_", "intercept_")


def _with_slopes(fit):
    """Decorate `fit` to work also where the caller has switched slopes off."""

    @functools.wraps(fit)
    def wrapped(self, *args, **kwargs):
        with torch.inference_mode(False), torch.enable_grad():
            return fit(self, *args, **kwargs)

    return wrapped


class ManifoldNeuralODERegressor(
    CallbackSupportMixin, MultiOutputMixin, RegressorMixin, BaseEstimator
):
    """Neural ODE whose trajectories stay on a manifold.

    Learns maps and dynamics of directions, attitudes, poses, phases and frames from
    pairs of points, or from trajectories. The flow combines vector fields of the
    manifold, with coefficients from a small network, and every step is an exponential
    that acts on the point: predictions lie on the manifold whatever the weights are
    [1]_. With ``manifold="euclidean"`` it is the classical neural ODE, a residual
    network, followed by an affine read-out, and a regressor for any table.

    Read more in the :doc:`user guide </user_guide/manifold_neural_odes>`.

    Parameters
    ----------
    manifold : str or manifold, default="euclidean"
        Where points live: "sphere" (unit vectors), "so" (rotation matrices, row by row)
        or "so3", "se3" (rigid motions, 4 x 4 matrices), "stiefel" (orthonormal
        columns), "torus" (angles as cosine and sine), "euclidean", or an object such as
        :class:`~sklearn_attn.dynamics.Sphere` or
        :class:`~sklearn_attn.dynamics.Product`.
    manifold_shape : tuple of int, default=None
        Size of a manifold that is given by its name: (n,) or, for "stiefel", (n, p).
        None finds it from the number of columns.
    generators : {"auto", "all", "chain"} or array-like, default="auto"
        The vector fields B_i x: rotations of all pairs of axes, of neighbouring axes
        only, or matrices B_i of shape (m, d, d). "auto" is "all" for up to 28 fields,
        which is SO(8), and "chain" beyond.
    n_layers : int, default=8
        Layers of time, each with weights of its own. With a single one the dynamics do
        not depend on time.
    width : int, default=8
        Number of neurons.
    neurons : {"shared", "own"}, default="shared"
        Whether `width` neurons drive all fields together, or each field has `width` of
        its own. ``width=1, neurons="own"`` is the paper's flow.
    activation : {"sigmoid", "tanh", "relu"}, default="sigmoid"
        Activation of the neurons.
    integrator : {"lie_euler", "lie_midpoint", "rkmk4", "cf4"}, default="lie_euler"
        Method of order 1, 2, 4 or 4. The first is the paper's, and the fastest.
    n_steps : int, default=1
        Steps in a layer.
    retraction : {"exp", "cayley"}, default="exp"
        How a velocity moves a point: by the exponential, or by the Cayley transform,
        for the methods of order 1 and 2.
    t_final : float, default=1.0
        Time between X and y, which `predict_trajectory` refers to. The map is the same
        in any unit of time.
    readout : bool, default=True
        For "euclidean" only: whether X and y are standardised, and y is read from the
        final state by an affine map, so that it may have other columns than X. If not,
        it is the paper's classical neural ODE in the units of the data. On manifolds
        there is no read-out.
    solver : {"lbfgs", "adam", "sgd"}, default="lbfgs"
        L-BFGS on all samples, for up to some thousands of weights; Adam, or the paper's
        gradient descent with momentum and falling rate, on batches.
    learning_rate : float, default=1e-2
        Of "adam" and "sgd".
    batch_size : int, default=None
        Samples in a step of "adam" and "sgd". None takes all.
    max_iter : int, default=1000
        Limit of the iterations of L-BFGS, or of epochs, of each start.
    tol : float, default=1e-3
        A start ends if its objective, or the risk on held-out samples, has fallen by
        less than this share of itself in `n_iter_no_change` iterations.
    n_iter_no_change : int, default=10
        See `tol`.
    n_init : int, default=3
        Number of random starts; the best is kept.
    alpha : float or "auto", default="auto"
        Penalty on the sum of squared weights, in a mean over layers. "auto" is 1e-5 on
        manifolds, and 1e-2 with a read-out, where data are noisier than maps of points.
    loss : {"chordal", "geodesic"}, default="chordal"
        Whether squared distances are those of the surrounding space, or along the
        manifold. In Euclidean space they are the same.
    early_stopping : bool, default=False
        Whether to hold out samples, and to keep the weights with the least risk there.
    validation_fraction : float, default=0.1
        Share of samples that `early_stopping` holds out.
    off_manifold : {"raise", "project", "ignore"}, default="raise"
        What to do with points off the manifold: an error that names the row, moving
        them to it, or nothing. Flows of rotations keep the length of any vector.
    atol : float, default=1e-6
        How far off the manifold a point may be.
    renormalize : bool or "auto", default="auto"
        Whether each step ends with a correction of rounding errors. "auto" does, unless
        points off the manifold are to be ignored.
    warm_start : bool, default=False
        Whether to go on from the weights of the last fit, if shapes are the same.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    dtype : {"auto", "float64", "float32"}, default="auto"
        Precision. "auto" is float64 unless X is float32 or the device has no float64.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts, the batches and the held-out samples.
    verbose : int, default=0
        Whether to print a line per iteration.

    Attributes
    ----------
    flow_ : Flow
        The flow, a module of torch, on the CPU. With a read-out, its points are
        standardised.
    manifold_ : manifold
        Where points live.
    generators_ : ndarray of shape (m, d, d) or (m, k)
        The vector fields: matrices or, on Euclidean space, tori and products,
        coordinates in the Lie algebra.
    lie_rank_ : int
        Dimension of the Lie algebra that the fields generate.
    is_bracket_generating_ : bool
        Whether their brackets span every tangent space, so that the flow can be steered
        in every direction.
    params_ : dict of ndarray
        The weights W, b and a of the flow.
    n_parameters_ : int
        Number of weights, those of the read-out included.
    loss_ : float
        Mean squared distance between predictions and targets of the samples that were
        not held out, without the penalty; in standardised units where points are
        standardised.
    loss_curve_ : list of float
        Objective after each iteration of the best start; with "adam" and "sgd", its
        mean over the steps of an epoch.
    validation_curve_ : list of float
        Risk on held-out samples after each iteration; empty without `early_stopping`.
    n_iter_ : int
        Iterations of the best start.
    converged_ : bool
        Whether they were enough.
    best_init_ : int
        Which start was the best.
    manifold_violation_ : float
        How far predictions for these samples are off the manifold.
    t_span_ : tuple of two floats
        When the flow begins and when its last layer ends.
    x_mean_, x_scale_ : ndarray of shape (n_features_in_,)
        How points are standardised for the flow. Only with a read-out, as the next two.
    coef_ : ndarray of shape (n_outputs, n_features_in_)
        Read-out from standardised final states.
    intercept_ : ndarray of shape (n_outputs,)
        Its constant.
    n_features_in_ : int
        Number of coordinates of a point.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    Flow : The flow by itself.
    TrajectoryDisplay : Trajectories on the sphere and of rotations.
    BilinearSystemIdentifier : Linear and bilinear dynamics, by least squares.

    Notes
    -----
    A flow is a diffeomorphism that can be deformed to the identity. **No flow on an
    even-dimensional sphere takes every x to -x**, or reflects it: somewhere the error
    stays 2, whatever the loss on samples.

    Lie-Euler, the default, is one fused pass forward and one back, at about the cost of
    a residual network of the same size. Memory holds the states of all steps.

    References
    ----------
    .. [1] Elamvazhuthi, Zhang, Oymak and Pasqualetti, "Learning on Manifolds: Universal
           Approximation Properties using Geometric Controllability Conditions for
           Neural ODEs", L4DC 2023, arXiv:2305.08849.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_macrospin
    >>> from sklearn_attn.dynamics import ManifoldNeuralODERegressor
    >>> X, y = make_macrospin(300, random_state=0)  # unit vectors, before and after
    >>> model = ManifoldNeuralODERegressor(manifold="sphere", random_state=0)
    >>> model = model.fit(X[:200], y[:200])
    >>> bool(model.geodesic_error(X[200:], y[200:]).mean() < 0.03)  # rad
    True
    >>> bool(model.manifold_.violation(model.predict(X)).max() < 1e-12)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "manifold": [
            StrOptions({"euclidean", "sphere", "so", "so3", "se3", "stiefel", "torus"}),
            HasMethods(["violation", "project", "distance", "log", "generators"]),
        ],
        "manifold_shape": [tuple, list, None],
        "generators": [StrOptions({"auto", "all", "chain"}), "array-like"],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "width": [Interval(Integral, 1, None, closed="left")],
        "neurons": [StrOptions({"shared", "own"})],
        "activation": [StrOptions({"sigmoid", "tanh", "relu"})],
        "integrator": [StrOptions({"lie_euler", "lie_midpoint", "rkmk4", "cf4"})],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "retraction": [StrOptions({"exp", "cayley"})],
        "t_final": [Interval(Real, 0, None, closed="neither")],
        "readout": ["boolean"],
        "solver": [StrOptions({"lbfgs", "adam", "sgd"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "loss": [StrOptions({"chordal", "geodesic"})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "off_manifold": [StrOptions({"raise", "project", "ignore"})],
        "atol": [Interval(Real, 0, None, closed="left")],
        "renormalize": ["boolean", StrOptions({"auto"})],
        "warm_start": ["boolean"],
        "device": [str],
        "dtype": [StrOptions({"auto", "float64", "float32"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = (
        "https://sklearn-attn.readthedocs.io/en/stable/generated/"
        "{estimator_module}.{estimator_name}.html"
    )

    def __init__(
        self,
        *,
        manifold="euclidean",
        manifold_shape=None,
        generators="auto",
        n_layers=8,
        width=8,
        neurons="shared",
        activation="sigmoid",
        integrator="lie_euler",
        n_steps=1,
        retraction="exp",
        t_final=1.0,
        readout=True,
        solver="lbfgs",
        learning_rate=1e-2,
        batch_size=None,
        max_iter=1000,
        tol=1e-3,
        n_iter_no_change=10,
        n_init=3,
        alpha="auto",
        loss="chordal",
        early_stopping=False,
        validation_fraction=0.1,
        off_manifold="raise",
        atol=1e-6,
        renormalize="auto",
        warm_start=False,
        device="cpu",
        dtype="auto",
        random_state=None,
        verbose=0,
    ):
        self.manifold = manifold
        self.manifold_shape = manifold_shape
        self.generators = generators
        self.n_layers = n_layers
        self.width = width
        self.neurons = neurons
        self.activation = activation
        self.integrator = integrator
        self.n_steps = n_steps
        self.retraction = retraction
        self.t_final = t_final
        self.readout = readout
        self.solver = solver
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.n_init = n_init
        self.alpha = alpha
        self.loss = loss
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.off_manifold = off_manifold
        self.atol = atol
        self.renormalize = renormalize
        self.warm_start = warm_start
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    @_with_slopes
    def fit(self, X, y):
        """Find a flow that takes the rows of X to those of y in time `t_final`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Points, matrices row by row or as they are.
        y : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Where they go. With a read-out, any targets of shape
            (n_samples,) or (n_samples, n_outputs).

        Returns
        -------
        self : ManifoldNeuralODERegressor
            The fitted model.

        Raises
        ------
        ValueError
            If a row is off the manifold (and `off_manifold` is "raise"), is a
            reflection, or has another number of columns than the manifold; if vector
            fields are not tangent; if the device does not exist; or if every descent
            overflows.

        Warns
        -----
        UserWarning
            If the vector fields and their brackets do not span every tangent space.
        ConvergenceWarning
            If `max_iter` iterations were not enough.
        """
        device = resolve_device(self.device)
        points = self._points(X, y, reset=True)
        dtype = resolve_dtype(self.dtype, X, device)
        manifold = as_manifold(self.manifold, self.manifold_shape, points.x.shape[1])
        has_readout = self._has_readout(manifold)
        x = self._checked(manifold, points.x, "X")
        y_rows = points.y if has_readout else self._checked(manifold, points.y, "y")
        x, y_rows = (_in_range(z, device, dtype) for z in (x, y_rows))
        units = Units.of(x, y_rows) if has_readout else None
        if units is not None:
            x, y_rows = units.inside(x), (y_rows - units.y_mean) / units.y_scale
        problem = Endpoints(x, y_rows, self.loss)
        n_outputs = y_rows.shape[1] if has_readout else None
        self._is_scalar = points.is_scalar
        return self._learn(
            (X, y), manifold, problem, units, n_outputs, (0.0, float(self.t_final))
        )

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    @_with_slopes
    def fit_trajectories(self, trajectories, times):
        """Find a flow that follows trajectories, from the first point of each.

        Parameters
        ----------
        trajectories : list of array-like of shape (n_times_i, n_features) or \
                (n_times_i, d, p), or array of them
            Points at several times, as many as there were.
        times : array-like of shape (n_times,), or list of array-like of shape \
                (n_times_i,)
            Their times, rising: the same for all, or those of each. The layers share
            the time from the first of all to the last of all.

        Returns
        -------
        self : ManifoldNeuralODERegressor
            The fitted model. In Euclidean space it has no read-out but the units of the
            data.

        Raises
        ------
        ValueError
            If a trajectory has fewer than two points, or another number of them than
            times, if times do not rise, or for points as in `fit`.
        """
        device = resolve_device(self.device)
        paths, times = check_timed_paths(trajectories, times)
        first = named_rows(trajectories, np.stack([path[0] for path in paths]))
        points = self._points(first, reset=True)
        dtype = resolve_dtype(self.dtype, paths[0], device)
        manifold = as_manifold(self.manifold, self.manifold_shape, points.x.shape[1])
        every = torch.cat(
            [
                self._checked(
                    manifold, to_tensor(path.reshape(len(path), -1)), f"trajectory {i}"
                )
                for i, path in enumerate(paths)
            ]
        )
        every = _in_range(every, device, dtype)
        has_units = self._has_readout(manifold)
        units = Units.of(every, every) if has_units else None
        if units is not None:
            every = units.inside(every)
        problem = pad_trajectories(every, times, self.loss)
        t_span = (float(min(t[0] for t in times)), float(max(t[-1] for t in times)))
        self._is_scalar = False
        # results go to the namespace of an array of paths, or of the first of a list
        like = trajectories if hasattr(trajectories, "shape") else trajectories[0]
        return self._learn((like, None), manifold, problem, units, None, t_span)

    def predict(self, X):
        """Return where the flow takes points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Points.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), (n_samples,) or (n_samples, d, p)
            Points of the manifold, in the shape of X, or the outputs of the read-out.
        """
        check_is_fitted(self)
        x, flow, shape = self._enter(X)
        with torch.no_grad(), few_threads(x.numel() * self.width):
            found = self._read(flow(x), flow)
        found = to_numpy(found)
        if self._is_scalar:
            found = found[:, 0]
        elif shape is not None:
            found = found.reshape(len(found), *shape)
        return follow(X)(found)

    def predict_trajectory(self, X, times, *, start=None):
        """Return where the flow takes points at some times.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Points at the start.
        times : array-like of shape (n_times,) or (n_samples, n_times)
            Times, the same for all points or not, not before the start. Outside of
            `t_span_` the first and the last layer go on.
        start : float or array-like of shape (n_samples,), default=None
            When each point is at its row of X. None is ``t_span_[0]``.

        Returns
        -------
        ndarray of shape (n_samples, n_times, n_outputs) or (n_samples, n_times, d, p)
            Points at these times. Times that are left out do not change the others.

        Raises
        ------
        ValueError
            If a time is before the start, or a million steps away, or shapes do not
            fit.
        """
        check_is_fitted(self)
        x, flow, shape = self._enter(X)
        start = self.t_span_[0] if start is None else start
        times, start = check_times(times, start, len(x))
        first, last = self.t_span_
        n_steps = (times.max() - start.min()) / (last - first)
        n_steps *= len(flow.W) * flow.n_steps
        if n_steps > _MOST_STEPS:
            raise ValueError(
                f"There are {n_steps:.2g} steps from {start.min():g} to the time "
                f"{times.max():g}; the flow was fitted from {first:g} to {last:g}."
            )
        with torch.no_grad(), few_threads(x.numel() * self.width):
            found = flow.trajectory(x, to_tensor(times), to_tensor(start))
            found = self._read(found, flow)
        found = to_numpy(found)
        if shape is not None:
            found = found.reshape(*found.shape[:2], *shape)
        return follow(X)(found)

    def inverse_predict(self, y):
        """Return the points that the flow takes to y.

        Every step is inverted by a fixed-point iteration, so that the result is exact
        for the fitted model and not only for small steps.

        Parameters
        ----------
        y : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Points at the end.

        Returns
        -------
        ndarray of shape (n_samples, n_features) or (n_samples, d, p)
            Points at the start.

        Raises
        ------
        ValueError
            If the read-out cannot be inverted, as it has not as many outputs as inputs.

        Warns
        -----
        ConvergenceWarning
            If a step is too large to be inverted: more `n_steps` are needed.
        """
        check_is_fitted(self)
        flow = self._flow_on_device()
        like = {"device": flow.W.device, "dtype": flow.W.dtype}
        shape = y.shape[1:] if getattr(y, "ndim", 2) == 3 else None
        if hasattr(self, "coef_"):
            coef = self._fitted("coef_", flow)
            z = to_tensor(check_targets(y, (None, len(coef))), **like)
            # outputs of the same size, whatever their units
            size = torch.linalg.vector_norm(coef, dim=1, keepdim=True)
            coef = coef / torch.where(size == 0, 1.0, size)
            if torch.linalg.matrix_rank(coef) < max(coef.shape):
                raise ValueError(
                    f"The read-out makes {coef.shape[0]} outputs of {coef.shape[1]} "
                    "coordinates and has no inverse. Fit with readout=False."
                )
            z = (z - self._fitted("intercept_", flow)) / size.T
            z = torch.linalg.solve(coef, z.T).T.contiguous()
        else:
            z = to_tensor(check_targets(y, (None, self.n_features_in_)))
            z = to_tensor(self._checked(self.manifold_, z, "y"), **like)
        with few_threads(z.numel() * self.width):
            x, error = flow.inverse(z)
        rounding = torch.finfo(x.dtype).eps * max(1.0, float(z.abs().max()))
        if not error <= _EXACT * rounding:
            warnings.warn(
                f"A step of the flow was not inverted: it misses by {error:.2g}. Fit "
                "with more n_steps.",
                ConvergenceWarning,
                stacklevel=2,
            )
        if hasattr(self, "coef_"):
            x = x * self._fitted("x_scale_", flow) + self._fitted("x_mean_", flow)
        x = to_numpy(x)
        x = x if shape is None else x.reshape(len(x), *shape)
        return follow(y)(x)

    def geodesic_error(self, X, y):
        """Return the distance of each prediction from its target.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Points.
        y : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Where they should go.

        Returns
        -------
        ndarray of shape (n_samples,)
            Distances: angles (rad) on spheres and of rotations, lengths in Euclidean
            space.
        """
        found, y = self._with_targets(X, y)
        if hasattr(self, "coef_"):
            return follow(X)(np.sqrt(np.square(found - y).sum(1)))
        return follow(X)(self.manifold_.distance(found, y))

    def score(self, X, y):
        """Return how much of the spread of the targets is explained.

        In Euclidean space it is R2. On other manifolds it is the same with distances:
        1 minus the sum of squared distances from the predictions over that from the
        targets' Frechet mean.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Points.
        y : array-like of shape (n_samples, n_features) or (n_samples, d, p)
            Where they should go.

        Returns
        -------
        float
            At most 1.
        """
        found, y = self._with_targets(X, y)
        if hasattr(self, "coef_") or isinstance(self.manifold_, Euclidean):
            return r2_score(y, found)
        if len(y) < 2:
            warnings.warn(
                "The score is not defined with less than two samples.",
                UndefinedMetricWarning,
                stacklevel=2,
            )
            return float("nan")
        mean = self.manifold_.frechet_mean(y)
        mean = np.broadcast_to(mean, y.shape).copy()
        spread = np.square(self.manifold_.distance(y, mean)).sum()
        missed = np.square(self.manifold_.distance(found, y)).sum()
        if spread <= _EQUAL * len(y):  # as r2_score does
            return float(missed <= _EQUAL * len(y))
        return float(1 - missed / spread)

    def _learn(self, data, manifold, problem, units, n_outputs, t_span):
        """Build the flow, fit it, and copy the answer."""
        x = problem.x
        flow = self._new_flow(manifold, x.dtype, t_span)
        kind = self._kind(manifold)
        # fields of one's own may fail at some points only
        points = None if isinstance(kind, str) or units else x[:_N_LOOKED_AT]
        ranks = closure_rank(manifold, kind, points)
        model = FlowModel(flow, n_outputs).to(x.device)
        n_init = 0 if self._go_on(model, units) else self.n_init
        generator = cpu_generator(self.random_state)
        problem, held_out = self._hold_out(problem, generator)
        for name in _OPTIONAL:  # of another fit: a copy in a callback must not read it
            vars(self).pop(name, None)
        report = _Report(self, data, model, units, max(1, n_init))
        with few_threads(x.numel() * self.width):
            solution = fit_flow(
                model,
                problem,
                Descent(
                    self.solver,
                    self.max_iter,
                    self.tol,
                    self.n_iter_no_change,
                    self._alpha(units),
                    self.learning_rate,
                    self.batch_size,
                ),
                n_init=n_init,
                generator=generator,
                on_iteration=report.iteration,
                held_out=held_out,
            )
            with torch.no_grad():
                loss = float(problem.risk(model))
                violation = manifold.violation(model.flow(problem.x)).max()
        report.end()
        if not np.isfinite(loss):
            raise ValueError(
                f"No start of solver={self.solver!r} ended with finite weights. Use a "
                "smaller learning_rate, or points of moderate size."
            )
        found = _attributes(model, units, solution.history["objective"])
        found |= {
            "manifold_": manifold,
            "lie_rank_": ranks[0],
            "is_bracket_generating_": ranks[1] == manifold.dim,
            "n_parameters_": sum(p.numel() for p in model.parameters()),
            "loss_": loss,
            "validation_curve_": solution.history["validation"],
            "n_iter_": max(1, solution.n_iter),
            "converged_": bool(solution.converged),
            "best_init_": solution.value,
            "manifold_violation_": float(violation),
            "t_span_": t_span,
        }
        put = follow(data[0])
        for name, value in found.items():
            value = put(value) if isinstance(value, np.ndarray) else value
            setattr(self, name, value)
        self._warn()
        report.finish()
        return self

    def _new_flow(self, manifold, dtype, t_span):
        kind = self._kind(manifold)
        renormalize = self.renormalize
        if renormalize == "auto":
            renormalize = self.off_manifold != "ignore"
        return Flow(
            manifold,
            kind,
            n_layers=self.n_layers,
            width=self.width,
            neurons=self.neurons,
            activation=self.activation,
            integrator=self.integrator,
            retraction=self.retraction,
            n_steps=self.n_steps,
            t_span=t_span,
            renormalize=bool(renormalize),
            dtype=dtype,
        )

    def _kind(self, manifold):
        if not (isinstance(self.generators, str) and self.generators == "auto"):
            return self.generators
        is_small = manifold.group.n_generators <= _MOST_FIELDS
        return "all" if is_small or manifold.frames is None else "chain"

    def _has_readout(self, manifold):
        return self.readout and isinstance(manifold, Euclidean)

    def _alpha(self, units):
        if self.alpha != "auto":
            return self.alpha
        return _ALPHA_OF_POINTS if units is None else _ALPHA_OF_TABLES

    def _go_on(self, model, units):
        """Take over the weights of the last fit, if they are to be gone on from."""
        if not (self.warm_start and hasattr(self, "flow_")):
            return False
        flow = model.flow
        if flow.neurons != self.flow_.neurons or hasattr(self, "coef_") != bool(units):
            return False
        fields = flow.generators.cpu()
        known = self.flow_.generators.to(fields)
        rounding = _SAME_FIELDS * float(fields.abs().max())
        is_same = fields.shape == known.shape and torch.allclose(
            fields, known, rtol=0, atol=rounding
        )
        # other units are another scale of each field, if that is a unit vector
        is_unit = units is None or (
            fields.shape[0] == fields.shape[1]
            and torch.equal(fields, torch.eye(len(fields), dtype=fields.dtype))
        )
        had_readout = self.n_parameters_ > self.flow_.n_parameters
        if not (is_same and is_unit and had_readout == (model.readout is not None)):
            return False
        before = {name: p.clone() for name, p in self.flow_.state_dict().items()}
        if units is not None:
            before = self._in_units(before, units, model.readout is not None)
        before = {
            name if name.startswith("readout.") else f"flow.{name}": p
            for name, p in before.items()
        }
        shapes = {name: p.shape for name, p in model.state_dict().items()}
        if shapes != {name: p.shape for name, p in before.items()}:
            return False
        model.load_state_dict(before | {"flow._G": flow._G})
        return True

    def _in_units(self, before, units, has_readout):
        """Return weights that do in new units what the last fit's do in its own."""
        coef, intercept, mean, scale = (
            to_tensor(to_numpy(getattr(self, name))).to(units.y_mean)
            for name in ("coef_", "intercept_", "x_mean_", "x_scale_")
        )
        is_same_width = mean.shape == units.x_mean.shape
        is_same_height = len(intercept) == len(units.y_mean)
        if not (is_same_width and is_same_height):
            return {}
        # z = r z' + c, from the new units to the old ones
        r, c = units.x_scale / scale, (units.x_mean - mean) / scale
        W, b, a = (before[name].to(r) for name in ("W", "b", "a"))
        found = before | {"W": W * r, "b": b + W @ c, "a": a / r[:, None]}
        if has_readout:
            found["readout.weight"] = coef * r / units.y_scale[:, None]
            offset = intercept + coef @ c - units.y_mean
            found["readout.bias"] = offset / units.y_scale
        return found

    def _hold_out(self, problem, generator):
        """Split off what early stopping watches."""
        if not self.early_stopping:
            return problem, None
        n = len(problem)
        n_held_out = max(1, round(self.validation_fraction * n))
        if n_held_out >= n:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {n} samples leaves "
                "none to fit to."
            )
        order = torch.randperm(n, generator=generator)
        return problem.take(order[n_held_out:]), problem.take(order[:n_held_out])

    def _points(self, X, y="no_validation", *, reset):
        as_matrices = not _is_euclidean(self.manifold)
        return check_points(self, X, y, reset=reset, as_matrices=as_matrices)

    def _checked(self, manifold, x, name):
        return check_on_manifold(manifold, x, name, self.off_manifold, self.atol)

    def _enter(self, X):
        """Return points as the flow takes them, the flow, and the shape of a point."""
        check_same_namespace(X, self, attribute="generators_", method="predict")
        flow = self._flow_on_device()
        points = self._points(X, reset=False)
        x = points.x
        if not hasattr(self, "coef_"):
            x = self._checked(self.manifold_, x, "X")
        x = _in_range(x, flow.W.device, flow.W.dtype)
        if hasattr(self, "coef_"):
            x = (x - self._fitted("x_mean_", flow)) / self._fitted("x_scale_", flow)
        return x, flow, points.shape

    def _read(self, states, flow):
        if not hasattr(self, "coef_"):
            return states
        coef, intercept = (self._fitted(name, flow) for name in ("coef_", "intercept_"))
        return states @ coef.T + intercept

    def _fitted(self, name, flow):
        array = to_numpy(getattr(self, name))
        return to_tensor(array, device=flow.W.device, dtype=flow.W.dtype)

    def _flow_on_device(self):
        device = resolve_device(self.device, fall_back=True)
        if device.type == "cpu":
            return self.flow_
        return copy.deepcopy(self.flow_).to(device)

    def _with_targets(self, X, y):
        """Return predictions and targets in NumPy, both as rows."""
        found = np.asarray(to_numpy(self.predict(X)))
        found = found.reshape(len(found), -1)
        y = check_targets(y, found.shape)
        if not hasattr(self, "coef_"):
            y = to_numpy(self._checked(self.manifold_, to_tensor(y), "y"))
        return found.astype(np.float64), y.astype(np.float64)

    def _warn(self):
        if not self.is_bracket_generating_:
            warnings.warn(
                f"The vector fields and their brackets do not span the tangent spaces "
                f"of {self.manifold_!r}: there are directions in which the flow cannot "
                "go. Use generators='all', or more fields.",
                UserWarning,
                stacklevel=8,
            )
        if not self.converged_:
            warnings.warn(
                f"{self.solver} did not converge in {self.n_iter_} iterations "
                f"(max_iter={self.max_iter}). Increase max_iter, tol or alpha.",
                ConvergenceWarning,
                stacklevel=8,
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = not _is_euclidean(self.manifold)
        tags.array_api_support = True
        return tags

    def __getstate__(self):
        return pack_state(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpack_state(self, state))


class _Report:
    """Tells scikit-learn's callbacks of starts, and of iterations."""

    def __init__(self, estimator, data, model, units, n_starts):
        self.estimator, self.data = estimator, data
        self.model, self.units = model, units
        self.root = estimator._init_callback_context(max_subtasks=n_starts)
        self._call("call_on_fit_task_begin", self.root)
        self.task = self.number = None

    def iteration(self, number, watch):
        """Report an iteration; return whether a callback wants the start to end."""
        if number != self.number:
            self.end()
            self.number = number
            self.task = self.root.subcontext(
                task_name="start", max_subtasks=self.estimator.max_iter
            )
            self._call("call_on_fit_task_begin", self.task)
        curve = watch.objective
        if self.estimator.verbose:
            print(f"start {number}, iteration {len(curve)}: {curve[-1]:.6g}")
        step = self.task.subcontext(task_name="iteration")
        self._call("call_on_fit_task_begin", step)
        return self._call(
            "call_on_fit_task_end", step, reconstruction_attributes=self._so_far(curve)
        )

    def end(self):
        """End the start that runs, if one does."""
        if self.task is not None:
            self._call("call_on_fit_task_end", self.task)
            self.task = None

    def finish(self):
        """End the fit."""
        self._call("call_on_fit_task_end", self.root)

    def _so_far(self, curve):
        put = follow(self.data[0])

        def attributes():
            found = _attributes(self.model, self.units, list(curve))
            found["manifold_"] = found["flow_"].manifold
            found["t_span_"] = found["flow_"].t_span
            return {
                name: put(value) if isinstance(value, np.ndarray) else value
                for name, value in found.items()
            }

        return attributes

    def _call(self, hook, task, **kwargs):
        X, y = self.data
        return getattr(task, hook)(estimator=self.estimator, X=X, y=y, **kwargs)


def _attributes(model, units, curve):
    """Return the fitted attributes that weights make, in NumPy."""
    flow = copy.deepcopy(model.flow).cpu()
    found = {
        "flow_": flow.requires_grad_(True),
        "generators_": to_numpy(flow.generators),
        "params_": {name: to_numpy(p).copy() for name, p in flow.named_parameters()},
        "loss_curve_": curve,
    }
    if units is None:
        return found
    if model.readout is None:  # states are read in the units of the data
        coef, intercept = torch.diag(units.x_scale), units.x_mean
    else:
        coef = units.y_scale[:, None] * model.readout.weight
        intercept = units.y_scale * model.readout.bias + units.y_mean
    arrays = {
        "x_mean_": units.x_mean,
        "x_scale_": units.x_scale,
        "coef_": coef,
        "intercept_": intercept,
    }
    return found | {name: to_numpy(array).copy() for name, array in arrays.items()}


def _in_range(z, device, dtype):
    """Return what the flow works on; complain of numbers that it cannot hold."""
    found = to_tensor(z, device=device, dtype=dtype)
    if not torch.isfinite(found).all():
        raise ValueError(
            f"The largest number, {float(z.abs().max()):.2g}, is beyond {dtype}."
        )
    return found


def _is_euclidean(manifold):
    return manifold == "euclidean" or isinstance(manifold, Euclidean)
