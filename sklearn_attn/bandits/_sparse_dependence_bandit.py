"""SparseDependenceBandit: y_t = sum_j w_j <theta, x_{t-j}> + noise  (2302.00814)."""

import math
import warnings
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.utils import (
    check_array,
    check_consistent_length,
    check_random_state,
)
from sklearn.utils.validation import check_is_fitted

from .._arrays import (
    few_threads,
    follow,
    pack_state,
    resolve_device,
    resolve_dtype,
    to_numpy,
    unpack_state,
)
from .._compat import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    check_same_namespace,
    fit_context,
    with_callbacks,
)
from .._validation import (
    check_contexts,
    check_logged,
    check_past,
    check_reward,
    check_rounds,
    check_vector,
    unharmed,
)
from ._lagged_problem import Series
from ._policy_value import additive_lag_ips, direct
from ._recover_pattern import Recipe, recover_pattern
from ._round_log import RoundLog
from ._run import check_n_rounds, run

# Rounds of uniform exploration: enough for the tests to begin, and for all features.
LEAST_EXPLORED, EXPLORED_PER_FEATURE = 50, 5
# A variance relative to the mean below which rewards are constant up to rounding.
CONSTANT = 1e-12
# Trajectories without a name of their own are named by these and a number. Before a
# table begins, something unknown was done; before a game, nothing.
TABLE, GAME = "table", "game"
N_QUARTERS = 4


@dataclass(frozen=True)
class _Centre:
    """The mean context, and the expected reward if all contexts are like it."""

    context: np.ndarray
    reward: float

    def intercept(self, pattern):
        return float(self.reward - pattern.total @ self.context)


class SparseDependenceBandit(CallbackSupportMixin, RegressorMixin, BaseEstimator):
    """Rewards that depend on a few actions of long ago, learned from rounds or by play.

    A reward is the sum of what the contexts chosen now and earlier bring [1]_::

        y_t = b + sum_j w_j <theta, x_{t-j}> + noise,    0 <= j < horizon

    Few of the lags j matter, and which ones is unknown. They are found among thousands
    by convolutions, without a matrix of lagged rows. As a regressor, `fit` reads rows
    in the order of time. As a bandit, `act` and `observe` play: at random first, then
    the arm that brings most in the long run.

    Read more in the :doc:`user guide </user_guide/long_horizon_bandits>`.

    Parameters
    ----------
    horizon : int, default=100
        Number of lags that are looked at, the present included.
    n_lags : int or "auto", default="auto"
        How many of them matter. "auto" takes those that pass a test.
    solver : {"omp", "htp", "lasso", "group_lasso", "quarters"}, default="omp"
        How lags are chosen. All but the last then fit least squares on them.

        - "omp": the lag that explains most of what is left, again and again.
        - "htp": hard-thresholding pursuit, the fewest passes if `n_lags` is known.
        - "lasso": those that the Lasso leaves other than zero.
        - "group_lasso": the same with one penalty for all features of a lag.
        - "quarters": the paper's Lasso on the second and the fourth quarter of the
          rounds, without least squares after it; `alpha` and `max_lags` do not matter.
          In play, rounds before an epoch are forgotten, and epochs double.
    alpha : float, default=0.05
        Probability that some lag passes its test though none matters, shared by all
        lags. Ignored if `n_lags` is a number.
    max_lags : int, default=20
        Most lags that "auto" takes.
    rank_one : bool, default=True
        Whether one direction theta serves all lags. False gives each feature lags and
        weights of its own; `n_lags` and `max_lags` then count those of a feature.
    prewhiten : int, default=0
        Order of an autoregressive filter that makes contexts forget what was before,
        for choosing lags where contexts change slowly. 0 is no filter.
    fit_intercept : bool, default=True
        Whether contexts and rewards are centred. Without it, a missing past counts as
        zero; with it, as average.
    explore_rounds : int, default=None
        Rounds of random play. None is 50 or 5 for each feature, whichever is more.
    refit_growth : float, default=1.25
        Play fits again once rounds have grown by this factor. Ignored by "quarters".
    action_value : {"total", "remaining"}, default="total"
        Whether play values what an arm brings for ever, or until the end of the game.
    nonneg : bool, default=False
        Whether weights of lags cannot be negative. Needs `rank_one`.
    allow_missing_y : bool, default=False
        Whether rewards may be NaN: their contexts count, they themselves do not.
    group_column : int or str, default=None
        Column of X whose numbers name the trajectory of a row. No lag reaches from one
        trajectory into another. None is one trajectory, or those of `groups`.
    max_iter : int, default=1000
        Limit of iterations of "htp" and of the Lassos.
    tol : float, default=1e-6
        The Lassos end once no coefficient changes by more, relative to the largest.
    chunk_size : int, default=None
        Rounds that are transformed at once; fewer take less memory. None takes all if
        their spectra take less than 256 MB, else eight horizons.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    dtype : {"auto", "float64", "float32"}, default="auto"
        Precision of products with contexts; equations are solved in float64. "auto" is
        float64 unless X is float32 or the device has no float64.
    random_state : int, RandomState instance or None, default=None
        Determines the arms that are chosen at random.

    Attributes
    ----------
    support_ : ndarray of int of shape (n_lags_found,)
        The lags that matter, rising; 0 is the present.
    lag_weights_ : ndarray of shape (horizon,)
        Weight w of each lag, most of them zero. Their sum is positive or, where they
        cancel, the first is.
    theta_ : ndarray of shape (n_context_features,)
        What a context is worth, of norm 1; zero if no lag matters.
    coef_matrix_ : ndarray of shape (horizon, n_context_features)
        What the contexts of each lag are multiplied with: with `rank_one`, the product
        of both.
    intercept_ : float
        The constant b.
    noise_std_ : float
        Standard deviation of what is not explained; NaN if too few rows are left.
    theta_cov_ : ndarray of shape (n_context_features, n_context_features)
        Covariance of `theta_`, given the lags. NaN if there is none.
    lag_scores_ : ndarray of shape (horizon,) or (horizon, n_context_features)
        How much a lag matters given those in `support_`: a chi-square statistic. NaN
        for lags that too few rows tell of. One for each feature without `rank_one`.
    lag_threshold_ : float
        What a statistic must exceed.
    pattern_ : DependencePattern
        Lags and coefficients by themselves.
    fitted_values_ : ndarray of shape (n_rounds,)
        Expected rewards of the rows of the latest fit, or of the epoch that it was for.
    history_ : ndarray of shape (at most horizon - 1, n_context_features)
        Last contexts of the latest trajectory, which `predict` takes for the past.
    loss_curve_ : list of float
        Mean squared residual before and after each choice of "omp", after each step of
        "htp", or half of it with the penalty after each step of a Lasso. Rewards are
        divided by a power of two near the largest.
    n_iter_ : int
        Number of steps; for "omp", of searches.
    n_seen_ : int
        Rounds seen.
    epoch_ : int
        Fits since the first round.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    LongHorizonBandit : A game of such rewards.
    DependencePatternDisplay : The lags, and how sure they are.
    LinUCB : A policy that believes rewards to be immediate.

    Notes
    -----
    `predict` is about a sequence. It takes rows for those that follow the training
    table, and finds the past of the first ones there; ``X_history=None`` leaves it out.
    Values for the training rows themselves are in `fitted_values_`. Cross-validate with
    :class:`~sklearn.model_selection.TimeSeriesSplit`: folds that are shuffled tear the
    past away from the rewards that it explains.

    Before the first row of a table, something unknown was done. It counts as average,
    so that the first rows are noisier by what they miss; lags up to half of a table are
    looked at. Before the first round of a game, nothing was done, and a lag is looked
    at as soon as four rounds for each feature tell of it, also of tables besides. If
    contexts of zero are far from those of the game, lags are chosen by rounds that have
    a full past.

    The model keeps the rounds that it has seen, for fits to come.

    References
    ----------
    .. [1] Qin, Li, Pasqualetti, Fazel and Oymak, "Stochastic Contextual Bandits with
           Long Horizon Rewards", AAAI 2023, arXiv:2302.00814.

    Examples
    --------
    >>> from sklearn_attn.bandits import SparseDependenceBandit
    >>> from sklearn_attn.datasets import make_long_horizon_rewards
    >>> X, y = make_long_horizon_rewards(1000, lags=(3, 70), random_state=0)
    >>> model = SparseDependenceBandit(horizon=100).fit(X[:800], y[:800])
    >>> model.support_
    array([ 3, 70])
    >>> model.score(X[800:], y[800:]) > 0.6
    True
    """

    __metadata_request__fit: ClassVar[dict] = {"groups": True}
    __metadata_request__partial_fit: ClassVar[dict] = {"groups": True}
    __metadata_request__predict: ClassVar[dict] = {"groups": True, "X_history": False}
    __metadata_request__score: ClassVar[dict] = {"groups": True}

    _parameter_constraints: ClassVar[dict] = {
        "horizon": [Interval(Integral, 1, None, closed="left")],
        "n_lags": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "solver": [StrOptions({"omp", "htp", "lasso", "group_lasso", "quarters"})],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "max_lags": [Interval(Integral, 1, None, closed="left")],
        "rank_one": ["boolean"],
        "prewhiten": [Interval(Integral, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "explore_rounds": [Interval(Integral, 1, None, closed="left"), None],
        "refit_growth": [Interval(Real, 1, None, closed="neither")],
        "action_value": [StrOptions({"total", "remaining"})],
        "nonneg": ["boolean"],
        "allow_missing_y": ["boolean"],
        "group_column": [Integral, str, None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "chunk_size": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str],
        "dtype": [StrOptions({"auto", "float64", "float32"})],
        "random_state": ["random_state"],
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = (
        "https://sklearn-attn.readthedocs.io/en/stable/generated/"
        "{estimator_module}.{estimator_name}.html"
    )

    def __init__(
        self,
        *,
        horizon=100,
        n_lags="auto",
        solver="omp",
        alpha=0.05,
        max_lags=20,
        rank_one=True,
        prewhiten=0,
        fit_intercept=True,
        explore_rounds=None,
        refit_growth=1.25,
        action_value="total",
        nonneg=False,
        allow_missing_y=False,
        group_column=None,
        max_iter=1000,
        tol=1e-6,
        chunk_size=None,
        device="cpu",
        dtype="auto",
        random_state=None,
    ):
        self.horizon = horizon
        self.n_lags = n_lags
        self.solver = solver
        self.alpha = alpha
        self.max_lags = max_lags
        self.rank_one = rank_one
        self.prewhiten = prewhiten
        self.fit_intercept = fit_intercept
        self.explore_rounds = explore_rounds
        self.refit_growth = refit_growth
        self.action_value = action_value
        self.nonneg = nonneg
        self.allow_missing_y = allow_missing_y
        self.group_column = group_column
        self.max_iter = max_iter
        self.tol = tol
        self.chunk_size = chunk_size
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None):
        """Find the lags that matter, and what a context is worth.

        Parameters
        ----------
        X : array-like of shape (n_rounds, n_features)
            Contexts of the actions that were taken, in the order of time.
        y : array-like of shape (n_rounds,)
            Reward of each round.
        groups : array-like of shape (n_rounds,), default=None
            The trajectory of each round. Rows of several may alternate. None is one.

        Returns
        -------
        self : SparseDependenceBandit
            The fitted model.

        Raises
        ------
        ValueError
            If `n_lags` is larger than `horizon`, `nonneg` comes without `rank_one`, X
            or y has NaN or infinity, an index of times is out of order, or the device
            does not exist.

        Warns
        -----
        UserWarning
            If the horizon is longer than half of the rows and is cut, there are too few
            rows for any lag but 0, rewards are constant, no lag passes its test, or
            fewer than `n_lags` can be told apart.
        ConvergenceWarning
            If `max_iter` is too small.
        """
        self._check_settings()
        rounds = self._rounds(X, y, groups, reset=True, min_rounds=2, depth=6)
        self._begin(rounds.x.shape[1])
        self._add(X, rounds)
        found = self._learn_and_report(X, y)
        self._warn(found, depth=6)
        self._warn_of_limit(found, depth=6)
        return self

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, groups=None):
        """Add rounds to those seen so far; the result is that of one fit to all.

        As more may come, there is no warning of what they do not tell yet.

        Parameters
        ----------
        X : array-like of shape (n_rounds, n_features)
            Contexts of the actions that were taken. They go on where their trajectory,
            or the latest one, ended.
        y : array-like of shape (n_rounds,)
            Reward of each round.
        groups : array-like of shape (n_rounds,), default=None
            The trajectory of each round. None is the latest.

        Returns
        -------
        self : SparseDependenceBandit
            The fitted model.

        Raises
        ------
        ValueError
            As in `fit`, or if an index of times begins before the rows seen so far.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` is too small.
        """
        self._check_settings()
        first = not hasattr(self, "_log")
        rounds = self._rounds(X, y, groups, reset=first, depth=6)
        if first:
            self._begin(rounds.x.shape[1])
        elif rounds.labels is None and _is_before(rounds.first, self._last_time):
            raise ValueError(
                f"Rows must follow those seen so far, the last of {self._last_time}; "
                f"these begin at {rounds.first}."
            )
        self._add(X, rounds)
        self._warn_of_limit(self._learn_and_report(X, y), depth=6)
        return self

    def predict(self, X, X_history="auto", groups=None):
        """Return the expected rewards of a sequence of contexts.

        Parameters
        ----------
        X : array-like of shape (n_rounds, n_features)
            Contexts of the actions taken, in the order of time.
        X_history : "auto", None or array-like of shape (n_past, n_context_features), \
                default="auto"
            What was chosen before. "auto" takes the rounds seen last: X follows them.
            If trajectories are named, each follows what was seen of it; those of new
            names begin. None is an unknown past.
        groups : array-like of shape (n_rounds,), default=None
            The trajectory of each round, unless a column of X names it. None is the
            latest.

        Returns
        -------
        ndarray of shape (n_rounds,)
            Expected rewards.

        Raises
        ------
        ValueError
            If the past has another number of features, is given for several
            trajectories at once, or an index of times is out of order.
        """
        return self._expected(X, X_history, groups, "predict", depth=4)

    def _expected(self, X, X_history, groups, method, *, depth):
        """Return expected rewards; warnings belong `depth` frames above."""
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="theta_", method=method)
        rounds = self._rounds(X, groups=groups, reset=False, depth=depth)
        rows_of = {}
        if rounds.labels is None:
            rows_of[self._current] = np.arange(len(rounds.x))
        for row, label in enumerate(rounds.labels or ()):
            rows_of.setdefault(label, []).append(row)
        is_auto = isinstance(X_history, str)
        if is_auto and X_history != "auto":
            raise ValueError(
                f"X_history must be 'auto', None or contexts; got {X_history!r}."
            )
        given = None
        is_late = rounds.labels is None and _is_before(
            rounds.first, self._last_time, or_at=True
        )
        if is_auto and is_late:
            warnings.warn(
                f"X begins at {rounds.first}, before the rounds seen so far end, at "
                f"{self._last_time}: they are not its past. Give X_history; for the "
                "training rows themselves, see fitted_values_.",
                UserWarning,
                stacklevel=depth - 1,
            )
        if not (is_auto or X_history is None):
            given = check_past(X_history, rounds.x.shape[1])
            if len(rows_of) > 1:
                raise ValueError(
                    f"X_history is the past of one trajectory; X has {len(rows_of)}."
                )
        y = np.empty(len(rounds.x))
        for name, rows in rows_of.items():
            past = self._past(name) if is_auto else given
            past = None if past is None else past - self._centre.context
            y[rows] = self.pattern_.rewards(rounds.x[rows] - self._centre.context, past)
        y += self._centre.reward
        return follow(X)(y.astype(rounds.x.dtype))

    def predict_value(self, X):
        """Return what it is worth to choose contexts of this kind for ever.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Contexts, in any order.

        Returns
        -------
        ndarray of shape (n_samples,)
            Expected reward of a round if every context chosen is that of the row:
            ``intercept_ + sum(lag_weights_) * <theta_, x>`` with `rank_one`.
        """
        check_is_fitted(self)
        rounds = self._rounds(X, reset=False)
        value = rounds.x @ self.pattern_.total + self._centre.intercept(self.pattern_)
        return follow(X)(value.astype(rounds.x.dtype))

    def score(self, X, y, sample_weight=None, groups=None):
        """Return the coefficient of determination of ``predict(X)``.

        Parameters
        ----------
        X : array-like of shape (n_rounds, n_features)
            Contexts of the actions taken, following the rounds seen so far.
        y : array-like of shape (n_rounds,)
            Rewards; those that are NaN are left out if rewards may be missing.
        sample_weight : array-like of shape (n_rounds,), default=None
            Weights of the squared errors.
        groups : array-like of shape (n_rounds,), default=None
            The trajectory of each round.

        Returns
        -------
        float
            R^2: 1 is perfect, 0 no better than the mean.
        """
        predicted = self._expected(X, "auto", groups, "score", depth=4)
        predicted = to_numpy(predicted)
        y = check_array(
            to_numpy(y),
            dtype=np.float64,
            ensure_2d=False,
            ensure_all_finite="allow-nan" if self.allow_missing_y else True,
            input_name="y",
        )
        check_consistent_length(predicted, y)
        y = y.reshape(len(y))
        seen = ~np.isnan(y)
        if not seen.any():
            raise ValueError("All rewards are NaN; at least one must be there.")
        weight = None if sample_weight is None else np.asarray(to_numpy(sample_weight))
        with config_context(array_api_dispatch=False):
            return float(
                r2_score(
                    y[seen],
                    predicted[seen],
                    sample_weight=None if weight is None else weight[seen],
                )
            )

    def recommend(self, contexts):
        """Return the arm that brings most in the long run.

        Parameters
        ----------
        contexts : array-like of shape (n_rounds, n_arms, n_context_features)
            Contexts of all arms.

        Returns
        -------
        ndarray of int of shape (n_rounds,)
            An arm for each round; the first if all are worth the same. Nothing is
            explored or remembered.
        """
        check_is_fitted(self)
        checked = check_contexts(contexts, self._log.x.shape[1], ndim=3)
        return follow(contexts)((checked @ self.pattern_.total).argmax(axis=1))

    def policy_value(
        self,
        contexts,
        actions=None,
        *,
        method="dm",
        logged_actions=None,
        rewards=None,
        propensities=None,
    ):
        """Estimate the mean reward of a policy that was not played.

        Parameters
        ----------
        contexts : array-like of shape (n_rounds, n_arms, n_context_features)
            Contexts of all arms, one trajectory in the order of time.
        actions : array-like of int of shape (n_rounds,), default=None
            What the policy would have chosen. None is what :meth:`recommend` says.
        method : {"dm", "ips", "naive"}, default="dm"
            "dm" asks the model. "ips" weighs logged rewards by inverse propensities,
            once for each lag in `support_`; the model gives nothing but these lags.
            "naive" weighs them by the propensity of the present action alone, which is
            right only if no other action matters, and is refused otherwise.
        logged_actions : array-like of int of shape (n_rounds,), default=None
            What was chosen; for "ips" and "naive".
        rewards : array-like of shape (n_rounds,), default=None
            What was observed; for "ips" and "naive".
        propensities : array-like of shape (n_rounds,), default=None
            Probability with which the logged action had been chosen. None is that of
            uniform choice.

        Returns
        -------
        float
            Estimated reward of a round in the long run.

        Raises
        ------
        ValueError
            If something that the method needs is missing or has another shape,
            propensities are not in (0, 1], or "naive" would be wrong.
        """
        check_is_fitted(self)
        if method not in ("dm", "ips", "naive"):
            raise ValueError(f"method must be 'dm', 'ips' or 'naive'; got {method!r}.")
        contexts = check_contexts(contexts, self._log.x.shape[1], ndim=3)
        n, n_arms, _ = contexts.shape
        if actions is None:
            actions = (contexts @ self.pattern_.total).argmax(axis=1)
        actions = check_logged(actions, n, n_arms, "actions")
        if method == "dm":
            return direct(
                self.pattern_,
                self._centre.intercept(self.pattern_),
                contexts[np.arange(n), actions],
            )
        if method == "naive" and np.any(self.pattern_.support > 0):
            raise ValueError(
                "Weighing by the present action alone is wrong here: rewards depend on "
                f"the lags {self.pattern_.support.tolist()}. Use method='ips'."
            )
        if logged_actions is None or rewards is None:
            raise ValueError(
                f"method={method!r} needs logged_actions and rewards, what was chosen "
                "and what it brought."
            )
        logged = check_logged(logged_actions, n, n_arms, "logged_actions")
        rewards = check_vector(rewards, n, "rewards")
        if np.any(self.pattern_.support >= n):
            longest = self.pattern_.support[-1]
            raise ValueError(f"{n} rounds tell nothing of lag {longest}; give more.")
        if propensities is None:
            propensities = np.full(n, 1 / n_arms)
        propensities = check_vector(propensities, n, "propensities")
        if not ((propensities > 0) & (propensities <= 1)).all():
            raise ValueError("propensities must be greater than 0 and at most 1.")
        return additive_lag_ips(
            self.pattern_.support, rewards, actions == logged, propensities
        )

    def act(self, contexts, n_left=None):
        """Choose an arm: at random while exploring, then the best as far as known.

        The choice counts once :meth:`observe` has its reward. Another call before that
        replaces it.

        Parameters
        ----------
        contexts : array-like of shape (n_arms, n_context_features)
            Contexts of the arms.
        n_left : int, default=None
            Rounds that follow this one, for ``action_value="remaining"``. None is as
            many as it takes.

        Returns
        -------
        int
            The arm.

        Raises
        ------
        ValueError
            If contexts are not finite or have another shape, or `n_left` is no number
            of rounds.
        """
        started = hasattr(self, "_log")
        n_features = self._log.x.shape[1] if started else None
        contexts = check_contexts(contexts, n_features)
        if not started:
            self._start(contexts.shape[1])
        ends_at = getattr(self, "_ends_at", None)
        if n_left is None and ends_at is not None:
            n_left = ends_at - self._log.n - 1
        if n_left is not None and not (isinstance(n_left, Integral) and n_left >= 0):
            raise ValueError(f"n_left must be an integer, 0 or more; got {n_left!r}.")
        if self.action_value == "total":
            n_left = None
        if self._log.n < self._n_explored() or not self._knows():
            arm = int(self._generator().randint(len(contexts)))
        else:
            arm = int((contexts @ self.pattern_.within(n_left)).argmax())
        self._pending = tuple(contexts[arm].tolist())
        return arm

    @unharmed
    def observe(self, reward):
        """Learn what the round of the last :meth:`act` has brought.

        Parameters
        ----------
        reward : float
            The reward of this round, whichever action it is due to. NaN is one that is
            missing, with `allow_missing_y`.

        Returns
        -------
        self : SparseDependenceBandit
            The model, fitted again if it was time.

        Raises
        ------
        ValueError
            If no action is waiting, or the reward is not finite.
        """
        if getattr(self, "_pending", None) is None:
            raise ValueError("observe() needs an action before it: call act() first.")
        reward = check_reward(reward, allow_missing=self.allow_missing_y)
        self._log = self._log.add([self._pending], [reward], label=self._current)
        self._pending = None
        if self._log.n >= self._refit_at:
            self._refit()
        return self

    def simulate(self, environment, n_rounds, *, seed=None, observation=None):
        """Play a game; it can go on later, also after pickling.

        Parameters
        ----------
        environment : LongHorizonBandit or gymnasium.Env
            Its observations are contexts of shape (n_arms, n_context_features).
        n_rounds : int
            Rounds to play.
        seed : int, default=None
            Seed of the environment's reset.
        observation : array-like of shape (n_arms, n_context_features), default=None
            Where to go on: what the environment has shown last. None resets the
            environment, and earlier rounds do not bring rewards in the new game.

        Returns
        -------
        SimulationResult
            Actions, rewards, regret, and the last observation.
        """
        check_n_rounds(n_rounds)
        if observation is None and hasattr(self, "_log") and self._log.n:
            self.new_trajectory()
        left = getattr(
            environment, "n_rounds" if observation is None else "n_left", None
        )
        length = n_rounds if left is None else min(n_rounds, left)
        self._ends_at = self.n_seen_ + length
        try:
            return run(self, environment, n_rounds, seed=seed, observation=observation)
        finally:
            self._ends_at = None

    def new_trajectory(self):
        """Begin anew: rewards to come do not depend on rounds so far.

        What was learned is kept.

        Returns
        -------
        self : SparseDependenceBandit
            The model.
        """
        if hasattr(self, "_log"):
            self._current = (GAME, len(self._log.labels))
            self._pending = self._last_time = None
        return self

    @property
    def n_seen_(self):
        """Rounds seen."""
        return self._log.n if hasattr(self, "_log") else 0

    @property
    def history_(self):
        """Last contexts of the latest trajectory."""
        check_is_fitted(self)
        return follow(self.theta_)(self._past(self._current).copy())

    @property
    def coef_matrix_(self):
        """What the contexts of each lag are multiplied with."""
        check_is_fitted(self)
        return follow(self.theta_)(self.pattern_.coef_matrix)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "pattern_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

    def __getstate__(self):
        return pack_state(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpack_state(self, state))

    def _check_settings(self):
        """Refuse parameters that do not go together, before any work."""
        if self.n_lags != "auto" and self.n_lags > self.horizon:
            raise ValueError(
                f"n_lags={self.n_lags} lags do not fit into horizon={self.horizon}."
            )
        if self.solver == "quarters" and (self.nonneg or self.prewhiten):
            raise ValueError(
                "solver='quarters' is the paper's Lasso alone: it knows neither nonneg "
                "nor prewhiten."
            )
        if self.nonneg and not self.rank_one:
            raise ValueError(
                "nonneg=True is about weights of lags, which rank_one=False has not."
            )
        resolve_dtype(self.dtype, None, resolve_device(self.device))

    def _rounds(self, X, y="no_validation", groups=None, *, depth=None, **kwargs):
        return check_rounds(
            self,
            X,
            y,
            groups,
            column=self.group_column,
            allow_missing=self.allow_missing_y,
            depth=None if depth is None else depth + 1,
            **kwargs,
        )

    def _begin(self, n_features):
        """Forget all rounds."""
        self._log = RoundLog.empty(n_features)
        self._current = (TABLE, 0)
        self._rng = None  # until an arm is drawn
        self._pending = self._last_time = None
        self._is_single = True
        self.epoch_ = self._n_played_epochs = 0
        self._plan()

    def _add(self, X, rounds):
        """Remember the rounds of a table."""
        if self._log.n == 0:  # an action that waits makes no game of a table
            self._current = (TABLE, 0)
        self._log = self._log.add(
            rounds.x, rounds.y, labels=rounds.labels, label=self._current
        )
        self._current = self._log.labels[self._log.codes[-1]]
        self._pending = None
        self._last_time = self._last_time if rounds.last is None else rounds.last
        self._is_single = self._is_single and _is_single(X)

    def _past(self, name):
        """Return the last contexts of a trajectory; zeros before a game."""
        past = self._log.tail(name, self.horizon - 1)
        if not _is_game(name):
            return past
        missing = self.horizon - 1 - len(past)
        return np.concatenate([np.zeros((missing, past.shape[1])), past])

    @fit_context(prefer_skip_nested_validation=True)
    def _start(self, n_features):
        """Begin to play without a table."""
        self._check_settings()
        if self.group_column is not None:
            raise ValueError(
                f"group_column={self.group_column!r} names trajectories in a table. In "
                "play there is no such column: call new_trajectory()."
            )
        self._begin(n_features)
        self._current = (GAME, 0)
        self._is_single = False
        self.n_features_in_ = n_features
        return self

    def _generator(self):
        """Return a generator of its own, so that nobody else's moves with play."""
        if self._rng is None:
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            self._rng = np.random.RandomState(seed)
        return self._rng

    def _n_explored(self):
        n = self.explore_rounds
        if n is None:
            n = max(LEAST_EXPLORED, EXPLORED_PER_FEATURE * self._log.x.shape[1])
        return (
            N_QUARTERS * math.ceil(n / N_QUARTERS) if self.solver == "quarters" else n
        )

    def _knows(self):
        return hasattr(self, "pattern_") and len(self.pattern_.support) > 0

    def _plan(self):
        """Say after which round to fit again."""
        self._epoch_start = n = self._log.n
        if self.solver == "quarters":  # epochs are twice as long as those before
            self._refit_at = n + 2**self._n_played_epochs * self._n_explored()
        elif n == 0:
            self._refit_at = self._n_explored()
        else:
            self._refit_at = max(n + 1, math.ceil(self.refit_growth * n))

    @fit_context(prefer_skip_nested_validation=True)
    def _refit(self):
        """Fit to the rounds that were played, or to those of the epoch."""
        first = self._epoch_start if self.solver == "quarters" else 0
        self._n_played_epochs += 1
        if np.isnan(self._log.y[first:]).all():  # nothing to learn from
            self._plan()
        else:
            self._check_settings()
            self._learn(first, getattr(self, "theta_", None), lambda *_: False)
        return self

    def _learn_and_report(self, X, y):
        """Fit to all rounds, and tell callbacks of it."""
        limit = self.max_iter
        if self.solver == "omp":
            limit = self.max_lags if self.n_lags == "auto" else self.n_lags
            limit *= 1 if self.rank_one else self._log.x.shape[1]
        data = {"estimator": self, "X": X, "y": y}

        def attributes(losses, so_far):
            return self._attributes(so_far(), losses, X)

        root = self._init_callback_context(max_subtasks=limit)
        root.call_on_fit_task_begin(**data)

        def on_iteration(losses, so_far):
            step = root.subcontext(task_name="iteration")
            step.call_on_fit_task_begin(**data)
            return step.call_on_fit_task_end(
                **data, reconstruction_attributes=partial(attributes, losses, so_far)
            )

        found = self._learn(0, X, on_iteration)
        root.call_on_fit_task_end(**data)
        return found

    def _learn(self, first, like, on_iteration):
        """Fit to rounds from `first` on; copy the answer; return what to warn of."""
        x, y, codes = self._log.part(first, self._log.n)
        seen = ~np.isnan(y)
        if not seen.any():
            raise ValueError("All rewards are NaN; at least one must be there.")
        is_constant = self.fit_intercept and bool(
            np.ptp(y[seen]) <= CONSTANT * np.abs(y[seen]).max()
        )
        if is_constant:
            y = np.where(seen, y[seen][0], np.nan)
        lengths = np.bincount(codes)
        games = [i for i, name in enumerate(self._log.labels) if _is_game(name)]
        games = [code for code in games if code < len(lengths) and lengths[code]]
        too_few = seen.sum() < 2 * x.shape[1] + 2
        n_lags = None if self.n_lags == "auto" else self.n_lags
        share = N_QUARTERS if self.solver == "quarters" else 1 if games else 2
        horizon = min(self.horizon, _longest_lag(lengths, share) + 1)
        if too_few:
            horizon = n_lags = 1
        elif n_lags is not None:
            n_lags = min(n_lags, horizon)
        if self.solver == "quarters" and not too_few:
            seen &= _in_even_quarters(codes, lengths)
        # an autoregression of that order needs rows to be found from
        can_filter = lengths.max() > self.prewhiten + 2 * x.shape[1] and not too_few
        prewhiten = self.prewhiten if can_filter else 0
        device = resolve_device(self.device)
        single = np.zeros(0, np.float32 if self._is_single else np.float64)
        dtype = resolve_dtype(self.dtype, single, device)
        recipe = Recipe(
            solver=self.solver,
            n_lags=n_lags,
            alpha=self.alpha,
            max_lags=self.max_lags,
            rank_one=self.rank_one,
            nonneg=self.nonneg,
            prewhiten=prewhiten,
            has_intercept=self.fit_intercept,
            chunk_size=self.chunk_size,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        with few_threads(x.size):
            series = Series.of(
                x,
                y,
                codes,
                max(horizon - 1, prewhiten),
                centre=self.fit_intercept,
                is_counted=seen,
                like=torch.zeros(0, device=device, dtype=dtype),
                # an epoch of quarters begins in the middle, and looks no further back
                from_nothing=() if self.solver == "quarters" else games,
            )
            solution = recover_pattern(series, horizon, recipe, on_iteration)
        found = solution.value
        scores = np.full((self.horizon, *found.scores.shape[1:]), np.nan)
        scores[:horizon] = found.scores
        found = replace(found, scores=scores)
        vars(self).update(self._attributes(found, solution.history["loss"], like))
        self.fitted_values_ = follow(like)(found.fitted[series.places])
        self.n_iter_ = max(1, solution.n_iter)
        self.epoch_ += 1
        self._plan()
        return {
            "converged": solution.converged,
            "is_constant": is_constant,
            "too_few": too_few,
            "horizon": horizon,
            "is_filtered": prewhiten == self.prewhiten
            and solution.history.get("is_filtered", True),
        }

    def _attributes(self, found, losses, like):
        """Return what a search has found, as fitted attributes."""
        pattern = replace(found.pattern, horizon=self.horizon)
        arrays = {
            "support_": pattern.support,
            "lag_weights_": pattern.lag_weights,
            "theta_": pattern.theta,
            "theta_cov_": found.theta_cov,
            "lag_scores_": found.scores,
        }
        put = follow(like)
        centre = _Centre(found.x_mean, found.mean_reward)
        return {name: put(value) for name, value in arrays.items()} | {
            "pattern_": pattern,
            "_centre": centre,
            "intercept_": centre.intercept(pattern),
            "noise_std_": found.noise_std,
            "lag_threshold_": found.threshold,
            "loss_curve_": list(losses),
        }

    def _warn(self, found, *, depth):
        """Warn of what the rounds do not tell."""

        def warn(message):
            warnings.warn(message, UserWarning, stacklevel=depth + 1)

        n, d = self._log.x.shape
        n_found = len(self.pattern_.support)
        if found["is_constant"]:
            warn(
                "All rewards are the same, so that no lag matters; the prediction is "
                "their mean."
            )
            return
        if found["too_few"]:
            warn(
                f"{n} rounds of {d} features are too few to look at the past; only the "
                f"present is used. Give {2 * d + 2} or more."
            )
        elif found["horizon"] < self.horizon:
            part = "a quarter" if self.solver == "quarters" else "half"
            warn(
                f"horizon={self.horizon} is longer than {part} of the data. Only lags "
                f"below {found['horizon']} are looked at: too few of {n} rounds have a "
                "context longer ago. Give more rounds, or a shorter horizon."
            )
        if not found["is_filtered"]:
            warn(
                f"{n} rounds are too few for a filter of order {self.prewhiten}, or "
                "too many rewards are missing; contexts are not prewhitened."
            )
        if n_found == 0:
            constant = "their mean" if self.fit_intercept else "zero"
            warn(
                "No lag explains more of the rewards than chance would; the prediction "
                f"is {constant}. A larger alpha, or n_lags, takes less sure ones."
            )
        elif self.n_lags != "auto" and self.rank_one and n_found < self.n_lags:
            warn(
                f"Only {n_found} of n_lags={self.n_lags} lags can be told apart, given "
                f"{n} rounds and horizon={self.horizon}."
            )

    def _warn_of_limit(self, found, *, depth):
        if not found["converged"]:
            warnings.warn(
                f"solver={self.solver!r} did not converge in max_iter={self.max_iter} "
                "iterations. Increase max_iter or tol.",
                ConvergenceWarning,
                stacklevel=depth,
            )


def _is_single(X):
    return str(getattr(X, "dtype", "")).endswith("float32")


def _in_even_quarters(codes, lengths):
    """Tell the rounds of each trajectory's second and fourth quarter."""
    order = np.argsort(codes, kind="stable")
    first = np.cumsum(lengths) - lengths
    step = np.empty(len(codes), dtype=np.int64)
    step[order] = np.arange(len(codes)) - first[codes[order]]
    return (N_QUARTERS * step // lengths[codes]) % 2 == 1


def _is_game(name):
    """Tell a trajectory that was played from the start."""
    return isinstance(name, tuple) and name[0] == GAME


def _is_before(first, last, *, or_at=False):
    """Tell whether a time is before another; without both, it is not."""
    if first is None or last is None:
        return False
    try:
        return bool(first <= last if or_at else first < last)
    except TypeError:
        raise ValueError(
            f"Times of rows that follow each other must compare; got {first!r} after "
            f"{last!r}."
        ) from None


def _longest_lag(lengths, share):
    """Return the longest lag of which enough rows tell.

    They are all but one part in `share` of the longest trajectory, be they of that one
    or of many.
    """
    longest = int(lengths.max())
    if share == 1:
        return longest - 1
    n_as_long = np.bincount(lengths)[::-1].cumsum()[::-1]  # trajectories, by length
    n_at_lag = n_as_long[::-1].cumsum()[::-1][1:]  # rows with a context j rounds ago
    wanted = longest - longest // share
    return int(np.flatnonzero(n_at_lag > wanted).max(initial=0))
