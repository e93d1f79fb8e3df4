"""BilinearSystemIdentifier: x+ = A_0 x + sum_k u_k A_k x + B u + b  (2208.13915)."""

import warnings
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from scipy.stats import t as student
from sklearn import config_context
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .._arrays import (
    few_threads,
    follow,
    pack_state,
    resolve_device,
    resolve_dtype,
    to_numpy,
    unpack_state,
)
from .._compat import Interval, StrOptions, check_same_namespace, fit_context
from .._validation import (
    as_stored,
    check_trajectories,
    check_transitions,
    number_rules,
    stack_trajectories,
    unharmed,
)
from ._bilinear_least_squares import (
    LiftedDesign,
    Rows,
    accumulate,
    in_double,
    least_squares,
    out_of_range,
    predict_rows,
    solve_moments,
)
from ._bilinear_system import BilinearSystem, StateOverflowError
from ._coefficient_errors import (
    draw_systems,
    fixed_design_bound,
    midpoint_bias,
    self_normalized_bound,
    step_noise,
)
from ._second_moment import principal_axes

# Names of columns that a warning lists before it only counts them.
MOST_NAMES = 8
# Numbers in the step matrices that are held at once in continuous time.
CHUNK = 1_000_000
# An input is constant if it varies by no more than so many rounding errors.
CONSTANT = 100
# What a fit leaves behind only if `uncertainty` asks for it.
_OPTIONAL = ("noise_cov_", "coef_se_", "intercept_se_")


class BilinearSystemIdentifier(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Least squares for systems whose inputs multiply the state.

    The next state is linear in the state, with a matrix that depends on the inputs::

        x[t+1] = A_0 x[t] + sum_k u_k[t] A_k x[t] + B u[t] + b + w[t]

    Valves, duty cycles, flow rates and magnetic fields act like this. All matrices are
    found at once, by least squares on the products of inputs and states [1]_, from one
    pass over the data. A row of X holds a state and the inputs of one step, a row of y
    the state after it; :func:`stack_trajectories` makes them of episodes.

    Read more in the :doc:`user guide </user_guide/bilinear_systems>`.

    Parameters
    ----------
    n_inputs : int, default=None
        Number of inputs, only to be checked against the data: the columns of X beyond
        those of y. None checks nothing.
    input_matrix : bool, default=True
        Whether inputs drive the state also by themselves, B u. The paper's system does
        not.
    fit_intercept : bool, default=False
        Whether there is a constant drive b.
    alpha : float, default=0.0
        Ridge: alpha times the sum of squared coefficients is added to the sum of
        squared errors, as in :class:`~sklearn.linear_model.Ridge`.
    solver : {"auto", "gram", "tsqr", "lstsq"}, default="auto"
        How least squares is solved.

        - "gram": from sums of products of features, one pass.
        - "tsqr": from a triangular factor that is kept beside them, several times
          slower, with all digits for features that are nearly dependent.
        - "lstsq": with all features of all rows in memory.
        - "auto": "gram", and "tsqr" if it would lose half of the digits, "lstsq" if
          there are fewer rows than features.

        `partial_fit` knows "gram" and "tsqr" only, and takes the others for "gram".
    block_size : int, default=None
        Rows that are worked on at once. None takes what fits into a processor's cache.
    missing : {"raise", "drop"}, default="raise"
        What to do with NaN: an error, or leave the row out. With "drop" the prediction
        for a row with NaN is NaN.
    time : {"discrete", "continuous"}, default="discrete"
        Whether the matrices give the next state or, with inputs held for `dt`, the
        derivative of the state.
    dt : float, default=None
        Time between state and next state; needed for continuous time.
    derivative : {"trapezoid", "euler"}, default="trapezoid"
        How the derivative is formed in continuous time: difference over `dt`, belonging
        to the midpoint of both states, with errors of order dt^2; or to the state
        before, with errors of order dt. The midpoint contains the noise of its step:
        use "euler" where noise drives the state. Ignored in discrete time.
    uncertainty : bool, default=True
        Whether to estimate the noise and the standard errors.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    dtype : {"auto", "float64", "float32"}, default="auto"
        Precision of the features; sums of blocks are float64. "auto" is float64 unless
        X is float32 or the device has no float64. "tsqr", "lstsq" and, with "auto",
        `partial_fit` work in float64 always.

    Attributes
    ----------
    A_ : ndarray of shape (n_inputs_ + 1, n_states_, n_states_)
        The matrix that acts always, and one for each input.
    B_ : ndarray of shape (n_states_, n_inputs_)
        How inputs drive the state; zero without `input_matrix`.
    intercept_ : ndarray of shape (n_states_,)
        Constant drive; zero without `fit_intercept`.
    coef_ : ndarray of shape (n_states_, n_terms)
        The coefficients side by side: ``A_[0]``, ``A_[1]``, ..., and ``B_`` if there
        is one. Among those that fit equally well, they have the least norm.
    term_names_ : ndarray of object of shape (n_terms,)
        What each of them multiplies, as strings.
    system_ : BilinearSystem
        The model by itself.
    noise_cov_ : ndarray of shape (n_states_, n_states_)
        Covariance of what a step adds to its prediction. NaN without more rows than
        features. Only with `uncertainty`.
    coef_se_ : ndarray of shape (n_states_, n_terms)
        Standard errors of `coef_`; infinite for terms that cannot be told apart. Only
        with `uncertainty`.
    intercept_se_ : ndarray of shape (n_states_,)
        Those of `intercept_`. Only with `uncertainty`.
    gram_ : ndarray of shape (d + n_states_, d + n_states_)
        Sums of products of features and next states. The d features are the terms,
        and 1 if there is an intercept. In continuous time with derivatives for states.
    n_samples_seen_ : int
        Rows of positive weight.
    n_dropped_ : int
        Rows left out, as they had NaN.
    sum_of_weights_ : float
        The sample size that weights amount to: a weight of 2 is a row seen twice.
    rank_ : int
        Number of linearly independent features.
    condition_number_ : float
        Condition number of the matrix of features; infinite if some are dependent.
    solver_used_ : str
        "gram", "tsqr" or "lstsq".
    input_mean_ : ndarray of shape (n_inputs_,)
        Mean of the inputs.
    input_second_moment_ : ndarray of shape (n_inputs_, n_inputs_)
        Mean of their products.
    spectral_radius_ : float
        Spectral radius of the augmented operator under inputs of this mean and second
        moment. It is computed when it is asked for, like the next two.
    is_mean_square_stable_ : bool
        Whether it is below 1.
    stationary_covariance_ : ndarray of shape (n_states_, n_states_)
        Covariance that the state settles to under such inputs; NaN if it does not, or
        without `uncertainty`.
    n_states_ : int
        Number of states.
    n_inputs_ : int
        Number of inputs.
    n_features_in_ : int
        Their sum.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    BilinearSystem : The model, with simulation and stability.
    stack_trajectories : Rows from episodes.
    TrajectoryDisplay : Measured and simulated states.
    StabilityDisplay : How large inputs may become.

    Notes
    -----
    A fit costs ``(d + n)**2`` multiplications per row, for n states and d features,
    and holds one block of features beside the data. Pieces in `partial_fit` and `merge`
    give what `fit` gives to all rows, up to rounding: to 1e-12 for features of a
    condition number below about 100, and its square times 1e-16 beyond, unless
    ``solver="tsqr"``.

    The model sees one row at a time and needs no ids of episodes. Scaling X in a
    pipeline changes the units of the state before a step and not of that after it:
    predictions are right, but matrices, simulation and stability are not.

    References
    ----------
    .. [1] Sattar, Oymak and Ozay, "Finite Sample Identification of Bilinear Dynamical
           Systems", CDC 2022, arXiv:2208.13915.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_boost_converter
    >>> from sklearn_attn.dynamics import BilinearSystemIdentifier
    >>> X, y = make_boost_converter(3000, random_state=0)  # current, voltage, duty
    >>> model = BilinearSystemIdentifier(fit_intercept=True).fit(X[:2000], y[:2000])
    >>> simulated = model.simulate(X[2000, :2], X[2000:, 2:])
    >>> bool(abs(simulated[1:] - y[2000:]).max() < 0.1)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_inputs": [Interval(Integral, 0, None, closed="left"), None],
        "input_matrix": ["boolean"],
        "fit_intercept": ["boolean"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "solver": [StrOptions({"auto", "gram", "tsqr", "lstsq"})],
        "block_size": [Interval(Integral, 1, None, closed="left"), None],
        "missing": [StrOptions({"raise", "drop"})],
        "time": [StrOptions({"discrete", "continuous"})],
        "dt": [Interval(Real, 0, None, closed="neither"), None],
        "derivative": [StrOptions({"trapezoid", "euler"})],
        "uncertainty": ["boolean"],
        "device": [str],
        "dtype": [StrOptions({"auto", "float64", "float32"})],
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = (
        "https://sklearn-attn.readthedocs.io/en/stable/generated/"
        "{estimator_module}.{estimator_name}.html"
    )

    def __init__(
        self,
        *,
        n_inputs=None,
        input_matrix=True,
        fit_intercept=False,
        alpha=0.0,
        solver="auto",
        block_size=None,
        missing="raise",
        time="discrete",
        dt=None,
        derivative="trapezoid",
        uncertainty=True,
        device="cpu",
        dtype="auto",
    ):
        self.n_inputs = n_inputs
        self.input_matrix = input_matrix
        self.fit_intercept = fit_intercept
        self.alpha = alpha
        self.solver = solver
        self.block_size = block_size
        self.missing = missing
        self.time = time
        self.dt = dt
        self.derivative = derivative
        self.uncertainty = uncertainty
        self.device = device
        self.dtype = dtype

    @unharmed
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Find the matrices.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_states + n_inputs)
            State and inputs of each step; states first.
        y : array-like of shape (n_samples, n_states) or (n_samples,)
            The state after each step. Its columns say how many of X are states.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows: a weight of 2 is a row seen twice. None is 1 for all.

        Returns
        -------
        self : BilinearSystemIdentifier
            The fitted model.

        Raises
        ------
        ValueError
            If X has fewer columns than y, or another number of inputs than `n_inputs`;
            if continuous time lacks `dt`; if there is NaN (unless it is to be dropped)
            or infinity, or products of columns overflow; or if the device does not
            exist.

        Warns
        -----
        UserWarning
            If features are linearly dependent, so that the least of the solutions is
            taken; the message names them. If noise may have biased the midpoint of
            continuous time by more than a standard error.
        """
        rows, design, dtype = self._prepare(X, y, sample_weight, reset=True)
        with few_threads(design.block_numbers(self.block_size)):
            rows, dtype, moments = self._accumulate(
                design, rows, dtype, factor=self.solver == "tsqr"
            )
            moments, answer = least_squares(
                design,
                rows,
                moments,
                alpha=self.alpha,
                solver=self.solver,
                block_size=self.block_size,
                dtype=dtype,
                exact_residuals=self.uncertainty,
            )
        self._keep(X, design, moments, answer)
        if answer.rank < design.n_features and self.alpha == 0:
            warnings.warn(self._describe_dependence(answer), UserWarning, stacklevel=4)
        self._warn_of_bias(depth=5)
        return self

    @unharmed
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Add rows to those seen so far: the result is that of one fit to all.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_states + n_inputs)
            State and inputs of each step.
        y : array-like of shape (n_samples, n_states) or (n_samples,)
            The state after each step.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : BilinearSystemIdentifier
            The fitted model.

        Raises
        ------
        ValueError
            As in `fit`, or if states, inputs or the terms of the model are not those
            of earlier rows.

        Warns
        -----
        UserWarning
            If more than half of the digits are lost, as features are nearly dependent.
            ``solver="tsqr"`` keeps them.
        """
        first = not hasattr(self, "_moments")
        rows, design, dtype = self._prepare(X, y, sample_weight, reset=first)
        factor = self.solver == "tsqr"
        if not first:
            self._require_same_terms(design)
            if factor and self._moments.factor is None:
                raise ValueError(
                    "solver='tsqr' keeps a factor from the first row on, and earlier "
                    "rows were seen without one. Begin anew with it."
                )
            factor = self._moments.factor is not None
        if (
            self.dtype == "auto"
            and dtype == torch.float32
            and rows.x.device.type != "mps"
        ):
            dtype = torch.float64  # no second pass can repair what is lost
        with few_threads(design.block_numbers(self.block_size)):
            _, _, moments = self._accumulate(design, rows, dtype, factor=factor)
        self._add(X, design, moments if first else self._moments + moments, depth=5)
        return self

    @unharmed
    @fit_context(prefer_skip_nested_validation=True)
    def merge(self, other):
        """Add the rows that another model has seen, as from another machine.

        Parameters
        ----------
        other : BilinearSystemIdentifier
            A fitted model of the same terms; it is not changed.

        Returns
        -------
        self : BilinearSystemIdentifier
            This model, as if it had seen the rows of both.

        Raises
        ------
        TypeError
            If `other` is something else.
        ValueError
            If the two have other states, inputs or terms.

        Warns
        -----
        UserWarning
            If more than half of the digits are lost, as features are nearly dependent.
        """
        check_is_fitted(self)
        if not isinstance(other, BilinearSystemIdentifier):
            raise TypeError(
                "Only another BilinearSystemIdentifier can be merged; got "
                f"{type(other).__name__}."
            )
        check_is_fitted(other)
        ours, theirs = (
            list(model._column_names(model._design)) for model in (self, other)
        )
        if ours != theirs:
            raise ValueError(
                f"Models of different columns do not merge: {ours}, {theirs}."
            )
        self._require_same_terms(other._design)
        moments = self._moments + other._moments
        self._add(self.coef_, self._design, moments, depth=5)
        return self

    def fit_trajectories(self, states, inputs=None):
        """Find the matrices from episodes, which may differ in length.

        Parameters
        ----------
        states : array-like of shape (n_steps + 1, n_states) or \
                (n_episodes, n_steps + 1, n_states), or list of array-like
            The states of one episode, or of each of several. Arrays or data frames.
        inputs : array-like of shape (n_steps, n_inputs) or \
                (n_episodes, n_steps, n_inputs), or list of array-like, default=None
            The inputs of each step. With as many inputs as states, the last one is
            left out. None is no input.

        Returns
        -------
        self : BilinearSystemIdentifier
            The fitted model.

        Raises
        ------
        ValueError
            If the episodes do not go together, and as in `fit`.
        """
        X, y, _ = stack_trajectories(states, inputs)
        return self.fit(X, y)

    def predict(self, X):
        """Predict the next states, one step ahead.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_states + n_inputs)
            State and inputs of each step.

        Returns
        -------
        ndarray of shape (n_samples, n_states) or (n_samples,)
            The expected state after the step, in the shape of the y of `fit`.
        """
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="coef_", method="predict")
        device = resolve_device(self.device, fall_back=True)
        raw, rules = number_rules(X, allow_nan=self.missing == "drop")
        checked = validate_data(self, raw, reset=False, **rules)
        dtype = resolve_dtype(self.dtype, checked, device)
        values = as_stored(checked, device, dtype)
        rows = Rows(values[:, : self.n_states_], values[:, self.n_states_ :], None)
        with few_threads(self._design.block_numbers(self.block_size)):
            if self._design.dt is None:
                coef = to_numpy(self.coef_)
                if self._design.intercept:
                    coef = np.column_stack([coef, to_numpy(self.intercept_)])
                result = predict_rows(self._design, rows, coef, self.block_size, dtype)
                result = to_numpy(result)
            else:
                x, u = (to_numpy(part.to(dtype)) for part in rows[:2])
                result = self._step_continuously(x, u)
        return follow(X)(result[:, 0] if self._is_scalar else result)

    def score(self, X, y, sample_weight=None):
        """Return the coefficient of determination of predictions one step ahead.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_states + n_inputs)
            State and inputs of each step.
        y : array-like of shape (n_samples, n_states) or (n_samples,)
            The state after each step.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        float
            R^2 of ``predict(X)``, the mean over states: 1 is perfect, 0 no better than
            the mean. With ``missing="drop"``, of the rows without NaN.
        """
        predicted = to_numpy(self.predict(X))
        y = check_array(
            to_numpy(y),
            dtype=np.float64,
            ensure_2d=False,
            ensure_all_finite="allow-nan",
        )
        weight = None if sample_weight is None else np.asarray(to_numpy(sample_weight))
        if self.missing == "drop":
            kept = ~np.isnan(np.column_stack([predicted, y])).any(axis=1)
            predicted, y = predicted[kept], y[kept]
            weight = weight if weight is None else weight[kept]
        with config_context(array_api_dispatch=False):
            return float(r2_score(y, predicted, sample_weight=weight))

    def simulate(self, x0, U, W=None, *, noise=False, random_state=None):
        """Run the model freely, from its own states.

        Parameters
        ----------
        x0 : array-like of shape (n_states,) or (n_runs, n_states)
            Initial states.
        U : array-like of shape (n_steps, n_inputs) or (n_runs, n_steps, n_inputs)
            Inputs, the same for all runs or those of each.
        W : array-like of shape (n_steps, n_states) or (n_runs, n_steps, n_states), \
                default=None
            Noise to add, step by step.
        noise : bool, default=False
            Whether to draw Gaussian noise of covariance `noise_cov_` instead.
        random_state : int, RandomState instance or None, default=None
            Seed of the noise.

        Returns
        -------
        ndarray of shape (n_steps + 1, n_states) or (n_runs, n_steps + 1, n_states)
            The states, the initial one first.

        Raises
        ------
        ValueError
            If shapes do not fit, if a state overflows, or if noise is wanted that was
            not estimated.
        """
        check_is_fitted(self)
        if noise:
            self._require_noise("simulate(noise=True)")
        states = self.system_.simulate(x0, U, W, noise=noise, random_state=random_state)
        return follow(x0)(states)

    def simulation_score(self, states, inputs=None, *, horizon=None):
        """Return the coefficient of determination of free runs.

        Parameters
        ----------
        states : array-like of shape (n_steps + 1, n_states) or \
                (n_episodes, n_steps + 1, n_states), or list of array-like
            Measured states of one episode, or of each of several.
        inputs : array-like of shape (n_steps, n_inputs) or \
                (n_episodes, n_steps, n_inputs), or list of array-like, default=None
            The inputs of each step.
        horizon : int, default=None
            Steps after which a run begins anew at the measured state. None runs to the
            end of each episode.

        Returns
        -------
        float
            R^2 of the simulated states, initial ones apart, the mean over states.
            Minus infinity if a run overflows.

        Raises
        ------
        ValueError
            If the episodes do not go together or are not finite, or `horizon` is not
            positive.
        """
        check_is_fitted(self)
        if horizon is not None and not (isinstance(horizon, Integral) and horizon > 0):
            raise ValueError(f"horizon must be a positive integer; got {horizon!r}.")
        pairs, names = check_trajectories(states, inputs)
        if pairs[0][1].shape[1] != self.n_inputs_:
            raise ValueError(
                f"The model has {self.n_inputs_} inputs; got {pairs[0][1].shape[1]}."
            )
        seen = list(getattr(self, "feature_names_in_", []))
        if names is not None and seen and list(names) != seen:
            raise ValueError(f"The columns are {list(names)}; the model saw {seen}.")
        measured, simulated = [], []
        system, n_together = self.system_, max(1, CHUNK // (self.n_states_ + 1) ** 2)
        for x, u in pairs:
            x, u = np.asarray(x, dtype=float), np.asarray(u, dtype=float)
            if not np.isfinite(x).all() or not np.isfinite(u).all():
                raise ValueError(
                    "states and inputs must be finite; they hold NaN or infinity."
                )
            steps = min(horizon or len(u), len(u))
            n_whole = len(u) // steps * steps  # runs of full length go together
            x0, U = (
                x[:n_whole:steps],
                u[:n_whole].reshape(len(u) // steps, steps, u.shape[1]),
            )
            runs = [
                (x0[i : i + n_together], U[i : i + n_together])
                for i in range(0, len(x0), n_together)
            ]
            if n_whole < len(u):
                runs.append((x[n_whole][None], u[n_whole:][None]))
            for initial, held in runs:
                try:
                    states_after = system.simulate(initial, held)[:, 1:]
                except StateOverflowError:
                    return -np.inf
                simulated.append(states_after.reshape(-1, self.n_states_))
            measured.append(x[1:])
        return float(r2_score(np.concatenate(measured), np.concatenate(simulated)))

    def confidence_interval(self, level=0.95):
        """Return an interval for each of the coefficients.

        Parameters
        ----------
        level : float, default=0.95
            Probability, for each interval by itself, of holding the true coefficient.

        Returns
        -------
        low : ndarray of shape (n_states, n_terms)
            Lower ends, in the order of `coef_`.
        high : ndarray of shape (n_states, n_terms)
            Upper ends.

        Raises
        ------
        ValueError
            If `level` is not between 0 and 1, or standard errors were not estimated.

        Notes
        -----
        Estimate plus and minus a quantile of Student's distribution times `coef_se_`:
        right for long trajectories of stable systems. Infinite for terms that cannot be
        told apart. With `alpha`, the interval is one for the mean of the estimate,
        which is smaller than the truth. In continuous time it is one for what the
        difference quotient estimates; with ``derivative="trapezoid"`` and noise that
        drives the state, this is not the truth.
        """
        check_is_fitted(self)
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1; got {level!r}.")
        self._require_noise("confidence_interval")
        degrees = self.sum_of_weights_ - self._answer.degrees
        width = student.ppf((1 + level) / 2, degrees) * to_numpy(self.coef_se_)
        put = follow(self.coef_)
        coef = to_numpy(self.coef_)
        return put(coef - width), put(coef + width)

    def error_bound(self, delta=0.05, *, design="dependent"):
        """Bound the spectral norm of the error of all coefficients together.

        Parameters
        ----------
        delta : float, default=0.05
            Probability that the bound fails.
        design : {"dependent", "fixed"}, default="dependent"
            "dependent" is the self-normalised bound, valid for the rows of a
            trajectory, whose states depend on the noise before, and sub-Gaussian noise.
            "fixed" is smaller, and valid where they do not, as for rows that were drawn
            independently, and Gaussian noise.

        Returns
        -------
        float
            With probability ``1 - delta``, no less than the spectral norm of the error
            of ``[coef_, intercept_]``, if the noise is of the estimated size.

        Raises
        ------
        ValueError
            If a parameter is out of range, the noise was not estimated, or there is no
            bound: features are dependent, or a ridge makes the estimate biased.
        """
        check_is_fitted(self)
        if not 0 < delta < 1:
            raise ValueError(f"delta must be between 0 and 1; got {delta!r}.")
        bounds = {"dependent": self_normalized_bound, "fixed": fixed_design_bound}
        if design not in bounds:
            raise ValueError(f"design must be 'dependent' or 'fixed'; got {design!r}.")
        self._require_noise("error_bound")
        d = self._design.n_features
        if self.rank_ < d:
            raise ValueError(
                f"{d} features of rank {self.rank_}: the error has no bound."
            )
        if self._alpha_used:
            raise ValueError(
                f"alpha={self._alpha_used:g} makes the estimate biased; the bounds are "
                "for least squares, alpha=0."
            )
        s = np.sqrt(np.linalg.eigvalsh(self._rate_cov())[-1])
        bound = bounds[design](s, self.n_states_, self._answer.lengths**2, delta)
        if not np.isfinite(bound):
            raise ValueError(
                "The features are of so different size, or so nearly dependent, that "
                "the bound is beyond what a float can hold."
            )
        return float(bound)

    def stability(self, input_cov=None, input_mean=None):
        """Tell what becomes of the state under random inputs.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is that of the data.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is that of the data, or zero with `input_cov`.

        Returns
        -------
        Stability
            Spectral radius of the augmented operator, whether it is below 1, the
            stationary covariance, and how far inputs may grow.

        Raises
        ------
        ValueError
            If shapes do not fit or the covariance is none.
        """
        check_is_fitted(self)
        mean, cov = self.input_moments(input_cov, input_mean)
        found = self.system_.stability(cov, mean)
        if not self._has_noise():
            found.stationary_covariance[:] = np.nan
        put = follow(self.coef_)
        return found._replace(stationary_covariance=put(found.stationary_covariance))

    def input_moments(self, input_cov=None, input_mean=None):
        """Return mean and covariance of the inputs: those of the data, unless given.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is that of the data.
        input_mean : array-like of shape (n_inputs,), default=None
            Mean of the inputs. None is that of the data, or zero with `input_cov`.

        Returns
        -------
        mean : ndarray of shape (n_inputs,)
            The mean.
        cov : ndarray of shape (n_inputs, n_inputs)
            The covariance.

        Raises
        ------
        ValueError
            If shapes do not fit or the covariance is none.
        """
        check_is_fitted(self)
        mean = to_numpy(self.input_mean_)
        if input_cov is None:
            # the moments keep deviations; squares of a large mean would hide them
            axes = principal_axes(self._moments.input_scatter / self._moments.weight)
            input_cov = axes @ axes.T
            input_mean = mean if input_mean is None else input_mean
        return self.system_.input_moments(input_cov, input_mean)

    def sample_systems(self, n_systems=100, *, random_state=None):
        """Draw systems that are as likely as the estimate is uncertain.

        Parameters
        ----------
        n_systems : int, default=100
            Number of systems.
        random_state : int, RandomState instance or None, default=None
            Determines all random numbers.

        Returns
        -------
        list of BilinearSystem
            Systems with coefficients from the normal distribution of `coef_se_`.

        Raises
        ------
        ValueError
            If standard errors were not estimated, features are linearly dependent, or
            `n_systems` is not positive.
        """
        check_is_fitted(self)
        if n_systems < 1:
            raise ValueError(f"n_systems must be at least 1; got {n_systems!r}.")
        self._require_noise("sample_systems")
        if self.rank_ < self._design.n_features and not self._alpha_used:
            raise ValueError(
                f"{self._design.n_features} features of rank {self.rank_}: there is no "
                "distribution of coefficients that cannot be told apart."
            )
        return draw_systems(
            self.system_,
            self._rate_cov(),
            self._answer.covariance,
            has_input_matrix=self._design.input_matrix,
            n_systems=n_systems,
            rng=check_random_state(random_state),
        )

    def frozen_system(self, u):
        """Return the linear system that is left while the input stays near `u`.

        Parameters
        ----------
        u : array-like of shape (n_inputs,)
            The input.

        Returns
        -------
        A : ndarray of shape (n_states, n_states)
            ``A_[0] + sum_k u[k] A_[k+1]``.
        B : ndarray of shape (n_states, n_inputs)
            As it is.
        """
        check_is_fitted(self)
        return tuple(map(follow(self.coef_), self.system_.frozen_system(u)))

    def reachability_gramian(self, input_cov=None):
        """Return the covariance that inputs alone bring about, from zero.

        Parameters
        ----------
        input_cov : float or array-like of shape (n_inputs,) or (n_inputs, n_inputs), \
                default=None
            Covariance of the inputs, or their variances. None is the identity.

        Returns
        -------
        ndarray of shape (n_states, n_states)
            Directions in which it is small are hard to reach.

        Raises
        ------
        ValueError
            If the system is not mean-square stable under these inputs.
        """
        check_is_fitted(self)
        return follow(self.coef_)(self.system_.reachability_gramian(input_cov))

    @property
    def system_(self):
        """The model by itself."""
        check_is_fitted(self)
        noise_cov = self.noise_cov_ if self._has_noise() else None
        return BilinearSystem(
            self.A_, self.B_, self.intercept_, noise_cov, self._design.dt
        )

    @property
    def term_names_(self):
        """What each of the coefficients multiplies."""
        check_is_fitted(self)
        return self._names(self._design)[: to_numpy(self.coef_).shape[1]]

    @property
    def gram_(self):
        """Sums of products of features and next states."""
        check_is_fitted(self)
        return follow(self.coef_)(self._moments.gram)

    @property
    def spectral_radius_(self):
        """Spectral radius of the augmented operator under inputs as in the data."""
        mean, cov = self.input_moments()
        return self.system_.spectral_radius(cov, mean)

    @property
    def is_mean_square_stable_(self):
        """Whether the spectral radius is below 1."""
        return self.spectral_radius_ < 1

    @property
    def stationary_covariance_(self):
        """Covariance that the state settles to under inputs as in the data."""
        mean, cov = self.input_moments()
        result = np.full((self.n_states_, self.n_states_), np.nan)
        if self._has_noise() and self.is_mean_square_stable_:
            result = self.system_.stationary_covariance(cov, mean)
        return follow(self.coef_)(result)

    def _prepare(self, X, y, sample_weight, *, reset):
        """Validate; return the rows, the design that they are for, and its dtype."""
        if self.time == "continuous" and self.dt is None:
            raise ValueError(
                "time='continuous' needs dt, the time between state and next state; "
                "got dt=None."
            )
        drop = self.missing == "drop"
        x, u, y, weight, dtype, is_scalar = check_transitions(
            self, X, y, sample_weight, reset=reset, allow_nan=drop
        )
        if self.n_inputs not in (None, u.shape[1]):
            raise ValueError(
                f"n_inputs={self.n_inputs}, but X has {u.shape[1]} columns beyond the "
                f"{x.shape[1]} states of y."
            )
        design = LiftedDesign(
            n_states=x.shape[1],
            n_inputs=u.shape[1],
            input_matrix=self.input_matrix,
            intercept=self.fit_intercept,
            dt=self.dt if self.time == "continuous" else None,
            midpoint=self.time == "continuous" and self.derivative == "trapezoid",
        )
        if reset:
            self._is_scalar = is_scalar
        return Rows(x, u, y, weight, drop), design, dtype

    def _require_same_terms(self, design):
        """Refuse to add rows for other features than those of earlier rows."""
        changes = [
            f"{name}={earlier!r}, now {now!r}"
            for (name, earlier), now in zip(
                vars(self._design).items(), vars(design).values()
            )
            if earlier != now
        ]
        if changes:
            raise ValueError(
                f"The rows seen so far were for {'; '.join(changes)}. Fit anew after a "
                "change of states, inputs or terms."
            )

    def _accumulate(self, design, rows, dtype, *, factor):
        """Sum over the rows; refuse what has no sum. Return what it was done with."""
        if factor or self.solver == "lstsq":
            rows, dtype = in_double(rows), torch.float64
        moments = accumulate(design, rows, self.block_size, dtype, factor=factor)
        if moments.n_rows == 0:
            raise ValueError(
                f"No row is left: all of the {moments.n_dropped} that count have NaN."
            )
        bad, what = out_of_range(moments, torch.finfo(dtype))
        if bad.any() and dtype == torch.float32:
            rows, dtype = in_double(rows), torch.float64
            moments = accumulate(design, rows, self.block_size, dtype, factor=factor)
            bad, what = out_of_range(moments, torch.finfo(dtype))
        if bad.any():
            names = self._names(design)[bad[: design.n_features]]
            raise ValueError(
                f"Products of the data {what} ({_listed(names) or 'next states'}). "
                "Choose other units for states and inputs."
            )
        return rows, dtype, moments

    def _add(self, X, design, moments, *, depth):
        """Solve for all rows seen so far; warn the caller `depth` frames above."""
        with few_threads(moments.gram.size):
            answer = solve_moments(design, moments, self.alpha)
        self._keep(X, design, moments, answer)
        enough = moments.n_rows >= design.n_features
        single = moments.eps > np.finfo(float).eps
        more = " dtype='float64' keeps more." if single else ""
        if enough and self.alpha == 0 and answer.rank < design.n_features:
            message = self._describe_dependence(answer) + more
            warnings.warn(message, UserWarning, stacklevel=depth)
        elif enough and not answer.is_safe:
            warnings.warn(
                "Features are nearly dependent, so that more than half of the digits "
                f"are lost. Fit anew with solver='tsqr'.{more}",
                UserWarning,
                stacklevel=depth,
            )
        self._warn_of_bias(depth=depth + 1)
        if self.uncertainty and enough and np.isnan(answer.residual).any():
            warnings.warn(
                "Residuals are so small that sums of squares do not show them: noise "
                "and standard errors are NaN. Fit anew with solver='tsqr', or `fit` to "
                "all rows at once.",
                UserWarning,
                stacklevel=depth,
            )

    def _warn_of_bias(self, *, depth):
        """Warn where noise may have biased the midpoint more than it scatters it."""
        design, answer = self._design, self._answer
        if not (design.midpoint and self._has_noise()):
            return
        moments = self._moments
        bias = midpoint_bias(
            self._rate_cov(),
            moments.weight,
            moments.input_mean,
            answer.inverse,
            design.dt,
        )
        n_terms = design.n_features - design.intercept
        errors = to_numpy(self.coef_se_)
        bias = np.abs(bias[:, :n_terms])
        worst = np.max(bias / np.where(errors > 0, errors, np.inf), initial=0.0)
        if worst > 1:
            warnings.warn(
                "If what is left of the derivative is noise that drives the state, the "
                f"midpoint biases coefficients by up to {worst:.2g} standard errors. "
                "Use derivative='euler' or discrete time then.",
                UserWarning,
                stacklevel=depth,
            )

    def _keep(self, X, design, moments, answer):
        """Copy the answer into attributes."""
        n, m, n_products = design.n_states, design.n_inputs, design.n_products
        C = answer.coef
        n_terms = design.n_features - design.intercept
        mean = moments.input_mean
        spread = moments.input_scatter / moments.weight
        found = {
            "A_": C[:, :n_products].reshape(n, m + 1, n).transpose(1, 0, 2).copy(),
            "B_": C[:, n_products:n_terms].copy(),
            "intercept_": C[:, n_terms].copy() if design.intercept else np.zeros(n),
            "coef_": C[:, :n_terms].copy(),
            "input_mean_": mean,
            "input_second_moment_": spread + np.outer(mean, mean),
        }
        if not design.input_matrix:
            found["B_"] = np.zeros((n, m))
        for name in _OPTIONAL:  # that an earlier fit may have left
            vars(self).pop(name, None)
        self._design, self._moments, self._answer = design, moments, answer
        if self.uncertainty:
            rate_cov = self._rate_cov()
            variances = np.outer(np.diag(rate_cov), np.diag(answer.covariance))
            errors = np.sqrt(np.maximum(variances, 0.0))
            if self.alpha == 0:  # nothing is known of what cannot be told apart
                errors[:, answer.dependent] = np.inf
            found["coef_se_"] = errors[:, :n_terms].copy()
            found["intercept_se_"] = (
                errors[:, n_terms].copy() if design.intercept else np.zeros(n)
            )
            found["noise_cov_"] = rate_cov
            if design.dt is not None:
                at_mean = np.tensordot([1.0, *mean], found["A_"], axes=1)
                found["noise_cov_"] = step_noise(
                    rate_cov, at_mean, design.dt, design.midpoint
                )
        put = follow(X)
        vars(self).update({name: put(value) for name, value in found.items()})
        self.n_states_, self.n_inputs_ = n, m
        self.n_samples_seen_ = moments.n_rows
        self.n_dropped_ = moments.n_dropped
        self.sum_of_weights_ = moments.weight
        self.rank_ = answer.rank
        self.condition_number_ = answer.condition
        self.solver_used_ = answer.solver
        self._alpha_used = self.alpha

    def _has_noise(self):
        noise_cov = getattr(self, "noise_cov_", None)
        return noise_cov is not None and not np.isnan(to_numpy(noise_cov)).any()

    def _require_noise(self, what):
        """Refuse what needs an estimate of the noise, where there is none."""
        if not hasattr(self, "noise_cov_"):
            raise ValueError(
                f"{what} needs an estimate of the noise; fit with uncertainty=True."
            )
        if not self._has_noise():
            rows, weight = self.n_samples_seen_, self.sum_of_weights_
            why = f"{rows} rows for {self._design.n_features} features leave none."
            if weight != rows:
                why = (
                    f"rows whose weights sum to {weight:g} leave none for "
                    f"{self._design.n_features} features; a weight is a number of "
                    "repetitions."
                )
            if np.isnan(self._answer.residual).any():
                why = "residuals are too small for sums of squares to show them."
            raise ValueError(f"{what} needs an estimate of the noise, but {why}")

    def _rate_cov(self):
        """Return the covariance of the residuals of what was regressed."""
        answer, weight = self._answer, self._moments.weight
        degrees = weight - answer.degrees
        if degrees <= 1e-9 * weight:
            return np.full_like(answer.residual, np.nan)
        return answer.residual / degrees

    def _step_continuously(self, x, u):
        """Predict in continuous time: one exact step with the inputs held."""
        system = self.system_
        n_rows = max(1, CHUNK // (self.n_states_ + 1) ** 2)
        starts = range(0, len(x), n_rows)
        parts = [system.step(x[i : i + n_rows], u[i : i + n_rows]) for i in starts]
        return np.concatenate(parts).astype(x.dtype)

    def _column_names(self, design):
        """Return the names of states and inputs."""
        names = getattr(self, "feature_names_in_", None)
        if names is not None:
            return np.asarray(names, dtype=object)
        states = [f"x{j}" for j in range(design.n_states)]
        inputs = [f"u{k}" for k in range(design.n_inputs)]
        return np.array(states + inputs, dtype=object)

    def _names(self, design):
        """Return what each coefficient multiplies, in the order of the features."""
        return design.term_names(self._column_names(design))

    def _describe_dependence(self, answer):
        """Say which features depend on each other, and what may be the reason."""
        d = self._design.n_features
        names = self._names(self._design)[answer.dependent]
        message = (
            f"The {d} features have rank {answer.rank}: {_listed(names)} are linearly "
            "dependent, and the least of all solutions is taken."
        )
        if self.n_samples_seen_ < d:
            return message + f" There are only {self.n_samples_seen_} rows."
        moments = self._moments
        variance = np.diag(moments.input_scatter) / moments.weight
        constant = (
            variance <= (CONSTANT * np.finfo(float).eps * moments.input_mean) ** 2
        )
        if constant.any():
            inputs = self._column_names(self._design)[self.n_states_ :][constant]
            message += f" Constant inputs: {_listed(inputs)}."
        return message + " Vary the inputs more, leave columns out, or set alpha > 0."

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "drop"
        tags.array_api_support = True
        return tags

    def __getstate__(self):
        return pack_state(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpack_state(self, state))


def _listed(names):
    """Name a few, and count the others."""
    more = len(names) - MOST_NAMES
    shown = ", ".join(names[:MOST_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown
