"""ContextualRepresentationBandit: y = <x, B'alpha_s> + noise in task s (2205.05820)."""

import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_consistent_length, check_random_state
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
from .._task_moments import table_moments
from .._validation import (
    as_labels,
    check_candidates,
    check_contexts,
    check_reward,
    check_rounds,
    unharmed,
)
from ._context_tracker import (
    ContextTracker,
    Recipe,
    learn_contexts,
    nearest_candidates,
)
from ._cycles import Schedule, TaskGame
from ._detect_change import OutlierTest
from ._rule_search import RuleSearch
from ._run import run
from ._run_tasks import run_tasks

# What rounding may add to a reward.
SLACK = 1e-9
# What `predict` takes for the latest task.
LATEST = -1


@dataclass(frozen=True)
class _Book:
    """Tasks so far, and the state in which they leave the search for contexts."""

    tracker: ContextTracker
    ids: tuple = ()
    theta: tuple = ()
    intercepts: tuple = ()
    scores: tuple = ()
    starts: tuple = ()
    subspaces: tuple = ()

    def after(self, tracker, ids, theta, intercepts, scores, starts, subspaces):
        """Return the book with further tasks.

        The first of `subspaces` is that of the context which was there before.
        """
        n = len(self.ids)
        starts = [n + start for start in starts]
        return _Book(
            tracker,
            self.ids + tuple(ids),
            self.theta + tuple(theta),
            self.intercepts + tuple(intercepts),
            self.scores + tuple(scores),
            (self.starts or (0,)) + tuple(starts),
            (self.subspaces[:-1] if subspaces else self.subspaces) + tuple(subspaces),
        )


class ContextualRepresentationBandit(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    RegressorMixin,
    BaseEstimator,
):
    """Tasks that share a subspace, until the context changes; from tables or by play.

    A task s is a linear reward. Tasks that follow each other share a few directions B,
    which change with the context, unannounced [1]_::

        y = <x, theta_s> + b_s + noise,    theta_s = B'alpha_s

    As a regressor, `fit` reads rows that are labelled with their task, learns what the
    tasks share, and finds out where they begin to share something else. As a bandit,
    `new_task`, `act` and `observe` play: a task is explored first, in a few directions
    if they are known, and then the best action is taken. With `candidates`, the
    coefficients are one of a few, as the rules of a card game are.

    Read more in the :doc:`user guide </user_guide/contextual_representations>`.

    Parameters
    ----------
    n_components : int, default=None
        Dimension of the shared subspace. None takes what rows can tell from noise.
    rounds_per_task : int, default=1000
        Rounds of a task, roughly. Exploration takes about their root for each
        direction.
    explore_scale : float, default=1.0
        Factor of the rounds of exploration in all directions.
    transfer_scale : float, default=1.0
        Factor of the rounds of exploration in the subspace.
    tasks_per_cycle : int, default=4
        Tasks that are explored in all directions in each cycle of play, and tasks at
        least that a representation is learned from.
    n_probe : int, default=12
        Rounds of play that look outside of the subspace, in each task.
    detector : {"chi2", "paper"}, default="chi2"
        Which test tells that a task does not fit: see :class:`OutlierTest`.
    detection_level : float, default=1e-3
        Probability that noise is mistaken for a task that does not fit, with "chi2", or
        within a task for another task.
    gamma : float, default=1.0
        Share by which residuals may deviate from the noise, with "paper".
    n_consecutive : int, default=4
        Tasks in a row that must not fit for a new context.
    eig_tol : float, default=0.02
        Least share of the largest eigenvalue that a direction must have to count, where
        `n_components` is None. It must also rise above the noise.
    task_switch : {"known", "detect"}, default="known"
        Whether :meth:`new_task` tells in play when a task begins, or rewards must.
    window : int, default=20
        Rounds whose mean reward is watched, with "detect".
    noise_std : float, default=None
        Standard deviation of the noise. None estimates it.
    candidates : array-like of shape (n_candidates, n_features), default=None
        What the coefficients of a task can be. None is anything.
    candidate_rule : {"random", "cycle", "eliminate", "filter"}, default="eliminate"
        How play finds the candidate, by rewards between 0 and 1.

        - "random": any other one after a failure, as in the paper.
        - "cycle": one that has not failed since the last success.
        - "eliminate": one that no reward has contradicted since all were contradicted.
        - "filter": the most probable one, for rewards with noise.
    confirm : int, default=1
        Failures in a row that it takes. Ignored by "filter".
    hazard : float or "auto", default="auto"
        Probability that the candidate changes in a round, for "filter". "auto" learns
        it.
    flip_rate : float or "auto", default="auto"
        Probability that a reward is the opposite, for "filter". "auto" learns it.
    ridge : float, default=0.01
        Penalty of squared coefficients, relative to the mean variance of the features
        of a task and its number of rows: round data lose a hundredth of their
        coefficients, and features that hardly vary are kept in check. Features should
        be on one scale.
    fit_intercept : bool, default=True
        Whether each task has a constant b_s. With `candidates` there is none.
    radius : float, default=1.0
        Largest norm of an action, where any action of a ball can be taken.
    task_column : int or str, default=None
        Column of X whose numbers name the task of a row. None is one task, or those of
        `tasks`.
    max_iter : int, default=1000
        Limit of iterations of L-BFGS for a representation.
    tol : float, default=1e-6
        They end once no entry of the gradient is larger, of the unexplained share.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Determines probes, and choices among candidates.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features)
        Orthonormal directions that the tasks of the current context share, that in
        which they differ most first; or the current candidate.
    singular_values_ : ndarray of shape (n_components_,)
        Those of the coefficients of the tasks that they were learned from.
    n_components_ : int
        How many there are.
    task_ids_ : list
        Labels of the tasks, in their order. Those of play are numbers.
    task_coef_ : ndarray of shape (n_tasks, n_features)
        Coefficients theta_s.
    task_intercept_ : ndarray of shape (n_tasks,)
        Constants b_s.
    context_starts_ : ndarray of int of shape (n_contexts,)
        Position of the first task of each context.
    context_components_ : list of ndarray of shape (n_components_i, n_features)
        The directions of each context.
    outlier_scores_ : ndarray of shape (n_tasks,)
        How badly each task fitted the representation when it came; above 1, it did not.
        NaN if that could not be told.
    noise_std_ : float
        Standard deviation of the noise; NaN if all rows are needed for coefficients.
    phase_ : str or None
        What the next round of play is for: "probe", "explore", "transfer", "commit".
    cycle_ : int
        Tasks in a row that are explored in the subspace.
    n_seen_ : int
        Rounds played since the last table.
    task_starts_ : ndarray of int
        Rounds of play with which tasks began, or candidates were changed.
    loss_curve_ : list of float
        Mean squared residual of the current context with its ridge, before and after
        each iteration.
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names for all of them.

    See Also
    --------
    ContextSwitchingBandit : A game of such tasks.
    WisconsinCardSortingEnv : A game of rules.
    SparseDependenceBandit : Rewards that come late.

    Notes
    -----
    Without labels, all rows are one task, and the model is ridge regression.

    Play reads the parameters when it begins: with the first task, or after a table.

    The model keeps the sums of squares and products of each task, ``n_features**2``
    numbers for each that it was fitted to or explored in all directions.

    References
    ----------
    .. [1] Qin, Menara, Oymak, Ching and Pasqualetti, "Representation Learning for
           Context-Dependent Decision-Making", ACC 2022, arXiv:2205.05820.

    Examples
    --------
    >>> from sklearn_attn.bandits import ContextualRepresentationBandit
    >>> from sklearn_attn.datasets import make_context_tasks
    >>> X, y, tasks = make_context_tasks([30, 30], ranks=[2, 3], random_state=0)
    >>> model = ContextualRepresentationBandit().fit(X, y, tasks)
    >>> model.context_starts_, model.n_components_
    (array([ 0, 30]), 3)
    >>> model.score(X, y, task=tasks) > 0.95
    True
    """

    __metadata_request__fit: ClassVar[dict] = {"tasks": True}
    __metadata_request__partial_fit: ClassVar[dict] = {"tasks": True}
    __metadata_request__predict: ClassVar[dict] = {"task": True}
    __metadata_request__score: ClassVar[dict] = {"task": True}

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "rounds_per_task": [Interval(Real, 1, None, closed="left")],
        "explore_scale": [Interval(Real, 0, None, closed="neither")],
        "transfer_scale": [Interval(Real, 0, None, closed="neither")],
        "tasks_per_cycle": [Interval(Integral, 1, None, closed="left")],
        "n_probe": [Interval(Integral, 2, None, closed="left")],
        "detector": [StrOptions({"chi2", "paper"})],
        "detection_level": [Interval(Real, 0, 1, closed="neither")],
        "gamma": [Interval(Real, 0, None, closed="neither")],
        "n_consecutive": [Interval(Integral, 1, None, closed="left")],
        "eig_tol": [Interval(Real, 0, 1, closed="left")],
        "task_switch": [StrOptions({"known", "detect"})],
        "window": [Interval(Integral, 1, None, closed="left")],
        "noise_std": [Interval(Real, 0, None, closed="neither"), None],
        "candidates": ["array-like", None],
        "candidate_rule": [StrOptions({"random", "cycle", "eliminate", "filter"})],
        "confirm": [Interval(Integral, 1, None, closed="left")],
        "hazard": [Interval(Real, 0, 1, closed="neither"), StrOptions({"auto"})],
        "flip_rate": [Interval(Real, 0, 0.5, closed="left"), StrOptions({"auto"})],
        "ridge": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "radius": [Interval(Real, 0, None, closed="neither")],
        "task_column": [Integral, str, None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
    }
    _doc_link_module = "sklearn_attn"
    _doc_link_template = (
        "https://sklearn-attn.readthedocs.io/en/stable/generated/"
        "{estimator_module}.{estimator_name}.html"
    )

    def __init__(
        self,
        n_components=None,
        *,
        rounds_per_task=1000,
        explore_scale=1.0,
        transfer_scale=1.0,
        tasks_per_cycle=4,
        n_probe=12,
        detector="chi2",
        detection_level=1e-3,
        gamma=1.0,
        n_consecutive=4,
        eig_tol=0.02,
        task_switch="known",
        window=20,
        noise_std=None,
        candidates=None,
        candidate_rule="eliminate",
        confirm=1,
        hazard="auto",
        flip_rate="auto",
        ridge=0.01,
        fit_intercept=True,
        radius=1.0,
        task_column=None,
        max_iter=1000,
        tol=1e-6,
        device="cpu",
        random_state=None,
    ):
        self.n_components = n_components
        self.rounds_per_task = rounds_per_task
        self.explore_scale = explore_scale
        self.transfer_scale = transfer_scale
        self.tasks_per_cycle = tasks_per_cycle
        self.n_probe = n_probe
        self.detector = detector
        self.detection_level = detection_level
        self.gamma = gamma
        self.n_consecutive = n_consecutive
        self.eig_tol = eig_tol
        self.task_switch = task_switch
        self.window = window
        self.noise_std = noise_std
        self.candidates = candidates
        self.candidate_rule = candidate_rule
        self.confirm = confirm
        self.hazard = hazard
        self.flip_rate = flip_rate
        self.ridge = ridge
        self.fit_intercept = fit_intercept
        self.radius = radius
        self.task_column = task_column
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.random_state = random_state

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, tasks=None):
        """Learn what tasks share, and where they begin to share something else.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Actions that were taken.
        y : array-like of shape (n_samples,)
            Their rewards.
        tasks : array-like of shape (n_samples,), default=None
            The task of each row. Tasks follow each other as their first rows do. None
            is one task, called 0.

        Returns
        -------
        self : ContextualRepresentationBandit
            The fitted model.

        Raises
        ------
        ValueError
            If X or y has NaN or infinity, there are more components than features,
            candidates have another number of features, or the device does not exist.

        Warns
        -----
        UserWarning
            If there are fewer tasks than `n_components`.
        ConvergenceWarning
            If `max_iter` is too small.
        """
        table = self._table_of(X, y, tasks, reset=True)
        self._begin(table.x.shape[1])
        self._add(table, default=0)
        solution = self._learn(X, y)
        if self.n_components is not None and self.n_components > self.n_components_:
            warnings.warn(
                f"n_components={self.n_components}, but {len(self._table_ids)} tasks "
                f"span only {self.n_components_}. Give more tasks, or ask for fewer.",
                UserWarning,
                stacklevel=5,
            )
        self._warn_of_limit(solution, depth=6)
        return self

    @unharmed
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, tasks=None):
        """Add rows to those seen so far; the result is that of one fit to all.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Actions that were taken.
        y : array-like of shape (n_samples,)
            Their rewards.
        tasks : array-like of shape (n_samples,), default=None
            The task of each row, an earlier one or a new one. None is the latest of the
            table or, after play, a new one.

        Returns
        -------
        self : ContextualRepresentationBandit
            The fitted model.

        Raises
        ------
        ValueError
            As in `fit`, or if a task was closed by play that came after it.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` is too small.
        """
        first = not hasattr(self, "_past")
        table = self._table_of(X, y, tasks, reset=not hasattr(self, "n_features_in_"))
        if first:
            self._begin(table.x.shape[1])
        if self._game is not None or self._search is not None:
            self._close()
        latest = self._table_ids[-1] if self._table_ids else self._new_id()
        self._add(table, default=latest)
        self._warn_of_limit(self._learn(X, y), depth=6)
        return self

    def transform(self, X):
        """Return rows as seen in the representation of the current context.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Actions.

        Returns
        -------
        ndarray of shape (n_samples, n_components_)
            Their products with `components_`.
        """
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="components_", method="transform")
        x = self._rows(X).x
        return follow(X)((x @ to_numpy(self.components_).T).astype(x.dtype))

    def predict(self, X, task=LATEST):
        """Return expected rewards.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Actions.
        task : label, or array-like of shape (n_samples,), default=-1
            The task of the rows, or of each row. -1 is the latest, unless a task is
            called so; the coefficients of one that is still being explored are zero. If
            `task_column` names a column, that is where the task stands.

        Returns
        -------
        ndarray of shape (n_samples,)
            Expected rewards.

        Raises
        ------
        ValueError
            If a task was not seen.
        """
        return self._expected(X, task, "predict")

    def score(self, X, y, sample_weight=None, task=LATEST):
        """Return the coefficient of determination of ``predict(X, task)``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Actions.
        y : array-like of shape (n_samples,)
            Rewards.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the squared errors.
        task : label, or array-like of shape (n_samples,), default=-1
            The task of the rows, or of each row.

        Returns
        -------
        float
            R^2: 1 is perfect, 0 no better than the mean.
        """
        predicted = to_numpy(self._expected(X, task, "score"))
        y = check_array(to_numpy(y), dtype=np.float64, ensure_2d=False, input_name="y")
        check_consistent_length(predicted, y)
        weight = None if sample_weight is None else np.asarray(to_numpy(sample_weight))
        with config_context(array_api_dispatch=False):
            return float(r2_score(y.ravel(), predicted, sample_weight=weight))

    def new_task(self, n_features=None):
        """Begin a task of play.

        Parameters
        ----------
        n_features : int, default=None
            Features of an action, where nothing has told it yet.

        Returns
        -------
        self : ContextualRepresentationBandit
            The model.

        Raises
        ------
        ValueError
            If the number of features is not known, or another one.
        """
        if self.candidates is not None:
            rules = check_candidates(self.candidates)
            if n_features not in (None, rules.shape[1]):
                raise ValueError(
                    f"candidates have {rules.shape[1]} features; got "
                    f"n_features={n_features}."
                )
            if self._search_or_none() is None:
                self._start_search()
            return self
        if self._game_or_none() is None:
            self._start_game(n_features)
        elif n_features not in (None, self._game.d):
            raise ValueError(
                f"Actions have {self._game.d} features; got n_features={n_features}."
            )
        self._pending = None
        with few_threads(0):
            self._game.new_task()
        self._take_over()
        return self

    def act(self, action_set=None):
        """Choose an action. It counts once :meth:`observe` has its reward.

        Parameters
        ----------
        action_set : array-like of shape (n_actions, n_features), default=None
            The actions that can be taken. None is any in a ball; with `candidates`,
            there must be a set.

        Returns
        -------
        ndarray of shape (n_features,) or int
            An action of the ball, or which one of the set.

        Raises
        ------
        ValueError
            If no task has begun, or actions are not finite or have another number of
            features.
        """
        if self.candidates is not None:
            return self._act_by_candidate(action_set)
        game = self._game_or_none()
        if game is None:
            raise ValueError("act() needs a task: call new_task() first.")
        if action_set is None:
            action = game.plan(1)[0].copy()
            self._pending = tuple(action.tolist())
            return action
        actions = check_contexts(action_set, game.d, name="action_set")
        chosen = game.choose(actions)
        self._pending = tuple(actions[chosen].tolist())
        return chosen

    @unharmed
    def observe(self, y):
        """Learn what the last action has brought.

        Parameters
        ----------
        y : float
            Its reward; between 0 and 1 with `candidates`.

        Returns
        -------
        self : ContextualRepresentationBandit
            The model.

        Raises
        ------
        ValueError
            If no action is waiting, or the reward is not finite or out of range.
        """
        if getattr(self, "_pending", None) is None:
            raise ValueError("observe() needs an action before it: call act() first.")
        reward = check_reward(y)
        if self._search is not None:
            if not 0 <= reward <= 1:
                raise ValueError(
                    f"With candidates, rewards are between 0 and 1; got {reward}."
                )
            self._search.observe(reward)
        else:
            with few_threads(0):
                self._game.learn(np.array([self._pending]), [reward])
        self._pending = None
        self._take_over()
        return self

    def simulate(self, environment, n_rounds=None, *, seed=None):
        """Play a game.

        Parameters
        ----------
        environment : ContextSwitchingBandit, WisconsinCardSortingEnv or gymnasium.Env
            The game. Its observations are sets of actions, or it has a method
            ``action_set(observation)``, or its actions are those of a ball.
        n_rounds : int, default=None
            Rounds to play. None is to the end of the game.
        seed : int, default=None
            Seed of the environment's reset.

        Returns
        -------
        TaskSimulationResult or SimulationResult
            The former for a :class:`ContextSwitchingBandit` of a ball that is played to
            its end, in blocks; the latter for all others.

        Raises
        ------
        ValueError
            If it is not known how many rounds the game has.
        """
        game = getattr(environment, "unwrapped", environment)
        d = getattr(game, "n_features", None)
        known = getattr(self, "_n_context_features", d)
        if d is not None and d != known:
            raise ValueError(f"The game has {d} features, but the model has {known}.")
        can_play = hasattr(game, "play") and getattr(game, "n_actions", 0) is None
        if n_rounds is None and can_play and self.candidates is None:
            if self._game_or_none() is None:
                self._start_game(game.n_features)
            try:
                with few_threads(0):
                    return run_tasks(self._game, environment, seed=seed)
            finally:
                self._take_over()
        if n_rounds is None:
            n_rounds = getattr(game, "n_rounds", None)
        if n_rounds is None:
            raise ValueError("The game has no known end: give n_rounds.")
        return run(_Seat(self, game), environment, n_rounds, seed=seed)

    @property
    def task_ids_(self):
        """Labels of the tasks."""
        return list(self._now.ids)

    @property
    def task_coef_(self):
        """Coefficients of the tasks."""
        return self._put(
            np.array(self._now.theta).reshape(-1, self._n_context_features)
        )

    @property
    def task_intercept_(self):
        """Constants of the tasks."""
        return self._put(np.array(self._now.intercepts, dtype=float))

    @property
    def context_starts_(self):
        """Position of the first task of each context."""
        return np.array(self._now.starts, dtype=int)

    @property
    def context_components_(self):
        """Directions of each context."""
        return [self._put(B.copy()) for B in self._now.subspaces]

    @property
    def outlier_scores_(self):
        """How badly each task fitted."""
        return np.array(self._now.scores, dtype=float)

    @property
    def phase_(self):
        """What the next round is for."""
        game, search = self._game_or_none(), self._search_or_none()
        if search is not None:
            return "commit" if search.is_sure else "explore"
        return None if game is None else game.phase

    @property
    def cycle_(self):
        """Tasks in a row that are explored in the subspace."""
        game = self._game_or_none()
        return 1 if game is None else game.cycle

    @property
    def n_seen_(self):
        """Rounds played since the last table."""
        player = self._game_or_none() or self._search_or_none()
        return 0 if player is None else player.n_played

    @property
    def task_starts_(self):
        """Rounds with which tasks began."""
        game, search = self._game_or_none(), self._search_or_none()
        starts = () if game is None else game.task_starts
        return np.array(starts if search is None else search.starts, dtype=int)

    @property
    def _n_features_out(self):
        return self.n_components_

    def __sklearn_is_fitted__(self):
        return hasattr(self, "components_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

    def __getstate__(self):
        return pack_state(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpack_state(self, state))

    def _game_or_none(self):
        return getattr(self, "_game", None)

    def _search_or_none(self):
        return getattr(self, "_search", None)

    def _put(self, array):
        return (
            follow(self.components_)(array) if hasattr(self, "components_") else array
        )

    def _recipe(self):
        return Recipe(
            test=OutlierTest(self.detector, self.detection_level, self.gamma),
            n_components=self.n_components,
            n_consecutive=self.n_consecutive,
            least_tasks=self.tasks_per_cycle,
            eig_tol=self.eig_tol,
            ridge=self.ridge,
            fit_intercept=self.fit_intercept and self.candidates is None,
            noise_std=self.noise_std,
            max_iter=self.max_iter,
            tol=self.tol,
        )

    def _rows(self, X, y="no_validation", tasks=None, *, reset=False):
        return check_rounds(
            self,
            X,
            y,
            tasks,
            reset=reset,
            column=self.task_column,
            names=("tasks", "task"),
        )

    def _table_of(self, X, y, tasks, *, reset):
        table = self._rows(X, y, tasks, reset=reset)
        self._check_settings(table.x.shape[1])
        return table

    def _check_settings(self, d):
        """Refuse parameters that do not go together, before any work."""
        resolve_dtype("auto", None, resolve_device(self.device))
        if self.n_components is not None and self.n_components > d:
            raise ValueError(
                f"n_components={self.n_components} components are more than the {d} "
                "features."
            )
        if self.candidates is not None:
            width = check_candidates(self.candidates).shape[1]
            if width != d:
                raise ValueError(
                    f"candidates have {width} features, but rows and actions have {d}."
                )

    def _begin(self, d):
        """Forget all tasks."""
        self._n_context_features = d
        self._past = self._book = _Book(ContextTracker(self._recipe()))
        self._table_ids, self._table = (), None
        self._game = self._search = self._pending = self._rng = None

    def _generator(self):
        """Return a generator of its own, so that nobody else's moves with play."""
        if self._rng is None:
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            self._rng = np.random.RandomState(seed)
        return self._rng

    def _new_id(self):
        ids = self._past.ids
        taken = [int(i) for i in ids if isinstance(i, Real) and float(i).is_integer()]
        return max([len(ids), *(i + 1 for i in taken)])

    @property
    def _now(self):
        """All tasks so far, those that are played included."""
        check_is_fitted(self, "_book")
        past, game, search = self._past, self._game, self._search
        if game is not None:
            subspaces = [*game.past_subspaces, game.tracker.subspace]
            parts = game.theta, game.intercepts, game.scores, game.context_starts
            bases = [s.B.numpy() for s in subspaces if s is not None]
        elif search is not None:
            rules = list(search.rules[search.rules_in_turn])
            n = len(rules)
            bases = [rule[None] for rule in rules]
            begins_anew = past.ids and not np.array_equal(past.theta[-1], rules[0])
            if begins_anew:  # after a representation, if one was learned
                bases = [*past.subspaces[-1:], *bases]
            starts = range(0 if begins_anew else 1, n)
            parts = rules, [0.0] * n, [np.nan] * n, starts
        else:
            return self._book
        first = self._new_id()
        ids = range(first, first + len(parts[0]))
        tracker = past.tracker if game is None else game.tracker
        return past.after(tracker, ids, *parts, bases)

    def _close(self):
        """Take what was played, or the table, for past: nothing changes it any more."""
        self._past = self._book = self._now
        self._table_ids, self._table = (), None
        self._game = self._search = self._pending = None

    def _add(self, table, default):
        """Add the rows of a table to the sums of their tasks."""
        labels = [default] * len(table.x) if table.labels is None else table.labels
        closed = set(self._past.ids).intersection(labels)
        if closed:
            raise ValueError(
                f"Task {closed.pop()!r} was closed when play began after it; call fit, "
                "or give new tasks."
            )
        places = {label: i for i, label in enumerate(self._table_ids)}
        local: dict = {}
        codes = [local.setdefault(label, len(local)) for label in labels]
        for label in local:
            places.setdefault(label, len(places))
        device = resolve_device(self.device)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        rows = np.column_stack([table.x, table.y]).astype(np.float64)
        with few_threads(rows.size):
            rows = torch.from_numpy(rows).to(device, dtype)
            codes = torch.tensor(codes, device=device)
            # features are few: equations are solved where float64 is
            more = table_moments(rows, codes).to_cpu()
            at = [places[label] for label in local]
            moments = more.placed(at, len(places))
            if self._table is not None:
                before = range(len(self._table))
                moments = self._table.placed(list(before), len(places)) + moments
        self._table = moments
        self._table_ids = tuple(places)
        self._pending = None

    def _learn(self, X, y):
        """Find contexts in the table, and tell callbacks of it; return the solution."""
        data = {"estimator": self, "X": X, "y": y}
        root = self._init_callback_context(max_subtasks=self.max_iter)
        root.call_on_fit_task_begin(**data)

        def on_iteration(losses, so_far):
            step = root.subcontext(task_name="iteration")
            step.call_on_fit_task_begin(**data)
            return step.call_on_fit_task_end(
                **data,
                reconstruction_attributes=lambda: self._attributes(so_far(), losses, X),
            )

        tracker = self._past.tracker.copy()
        tracker.recipe = self._recipe()
        with few_threads(self._table.scatter.numel()):
            if self.candidates is None:
                found = learn_contexts(self._table, tracker, on_iteration)
                solution = found.tracker.solution
                attributes = self._attributes(found, solution.history["loss"], X)
            else:
                solution = None
                attributes = self._nearest_candidates(tracker, X)
        vars(self).update(attributes)
        root.call_on_fit_task_end(**data)
        return solution

    def _attributes(self, contexts, losses, like):
        """Return what contexts of a table are, as fitted attributes."""
        theta = contexts.theta
        intercepts = np.zeros(len(theta))
        if self.fit_intercept:
            intercepts = self._table.intercepts(theta).numpy()
        book = self._past.after(
            contexts.tracker,
            self._table_ids,
            theta.numpy(),
            intercepts.tolist(),
            contexts.scores,
            contexts.starts,
            [each.B.numpy() for each in contexts.subspaces],
        )
        return self._of_subspace(contexts.subspaces[-1], losses, like) | {"_book": book}

    def _of_subspace(self, subspace, losses, like):
        """Return what a representation is, as fitted attributes."""
        put = follow(like)
        noise_std = self.noise_std
        if noise_std is None:
            noise_std = float(np.sqrt(subspace.noise_var))
        return {
            "components_": put(subspace.B.numpy()),
            "singular_values_": put(subspace.singular_values.numpy()),
            "n_components_": len(subspace.B),
            "noise_std_": noise_std,
            "loss_curve_": list(losses),
            "n_iter_": max(1, len(losses) - 1),
        }

    def _nearest_candidates(self, tracker, like):
        """Return what candidates tasks of a table are nearest to, as attributes."""
        candidates = torch.from_numpy(check_candidates(self.candidates))
        which = nearest_candidates(self._table, candidates, tracker.recipe)
        theta = candidates[which]
        starts = (1 + torch.nonzero(which.diff())[:, 0]).tolist()
        bases = [theta[[start]].numpy() for start in [0, *starts]]
        equations = tracker.recipe.equations(self._table)
        rest = equations.residuals(theta).sum() / equations.n_free.sum()
        n = len(theta)
        book = self._past.after(
            tracker,
            self._table_ids,
            theta.numpy(),
            [0.0] * n,
            [np.nan] * n,
            starts,
            bases,
        )
        noise_std = float(rest**0.5)
        return self._candidate_attributes(bases[-1], noise_std, like) | {"_book": book}

    def _candidate_attributes(self, components, noise_std, like):
        put = follow(like)
        return {
            "components_": put(components.copy()),
            "singular_values_": put(np.linalg.norm(components, axis=1)),
            "n_components_": 1,
            "noise_std_": noise_std,
            "loss_curve_": [noise_std**2],
            "n_iter_": 1,
        }

    def _take_over(self):
        """Copy what play has learned into the attributes."""
        like = getattr(self, "components_", np.empty(0))
        if self._search is not None:
            rule = self._search.rules[[self._search.current]]
            vars(self).update(self._candidate_attributes(rule, np.nan, like))
            return
        tracker = self._game.tracker
        solution = tracker.solution
        if solution is None or solution is self._taken_over:
            return
        self._taken_over = solution
        vars(self).update(
            self._of_subspace(solution.value, solution.history["loss"], like)
        )

    def _start(self, n_features):
        """Begin to play without a table."""
        self._check_settings(n_features)
        if self.task_column is not None:
            raise ValueError(
                f"task_column={self.task_column!r} names tasks in a table. In play "
                "there is no such column: call new_task()."
            )
        self._begin(n_features)
        self.n_features_in_ = n_features
        return self

    @unharmed
    @fit_context(prefer_skip_nested_validation=True)
    def _start_game(self, n_features):
        if hasattr(self, "_past"):
            if n_features not in (None, self._n_context_features):
                raise ValueError(
                    f"Rows had {self._n_context_features} features; got "
                    f"n_features={n_features}."
                )
            self._check_settings(self._n_context_features)
            self._close()
        else:
            if not isinstance(n_features, Integral) or n_features < 1:
                raise ValueError(
                    "Nothing has told yet how many features an action has: call "
                    f"new_task(n_features=...); got {n_features!r}."
                )
            self._start(int(n_features))
        schedule = Schedule(
            rounds_per_task=self.rounds_per_task,
            explore_scale=self.explore_scale,
            transfer_scale=self.transfer_scale,
            tasks_per_cycle=self.tasks_per_cycle,
            n_probe=self.n_probe,
            level=self.detection_level,
            radius=self.radius,
            window=self.window if self.task_switch == "detect" else None,
        )
        tracker = self._past.tracker.copy()
        tracker.recipe = self._recipe()
        self._taken_over = tracker.solution
        self._game = TaskGame(
            tracker,
            schedule,
            self._n_context_features,
            self._generator(),
            torch.zeros(0, dtype=torch.float64),
        )

    @unharmed
    @fit_context(prefer_skip_nested_validation=True)
    def _start_search(self):
        rules = check_candidates(self.candidates)
        if hasattr(self, "_past"):
            self._check_settings(self._n_context_features)
            self._close()
        else:
            self._start(rules.shape[1])
        first = None
        if self._past.theta:
            apart = np.abs(rules - self._past.theta[-1]).sum(1)
            first = int(apart.argmin()) if apart.min() == 0 else None
        self._search = RuleSearch(
            rules,
            self.candidate_rule,
            self.confirm,
            self.hazard,
            self.flip_rate,
            self._generator(),
            first,
        )
        self._take_over()

    def _act_by_candidate(self, action_set):
        if action_set is None:
            raise ValueError("With candidates, act() needs the actions to choose from.")
        rules = check_candidates(self.candidates)
        actions = check_contexts(action_set, rules.shape[1], name="action_set")
        values = actions @ rules.T
        if values.min() < -SLACK or values.max() > 1 + SLACK:
            raise ValueError(
                "With candidates, an action must bring between 0 and 1 under each; got "
                f"values from {values.min():.3g} to {values.max():.3g}."
            )
        search = self._search_or_none()
        if search is None or not np.array_equal(search.rules, rules):
            self._start_search()
        chosen = self._search.act(actions)
        self._pending = tuple(actions[chosen].tolist())
        return chosen

    def _expected(self, X, task, method):
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="components_", method=method)
        rows = self._rows(X)
        ids = {label: i for i, label in enumerate(self._now.ids)}
        is_latest = np.ndim(task) == 0 and not isinstance(task, str) and task == LATEST
        if self.task_column is not None and not is_latest:
            raise ValueError(
                f"Tasks are named by the column {self.task_column!r}; leave out `task`."
            )
        if rows.labels is not None:
            labels = rows.labels
        elif is_latest and LATEST not in ids:
            labels = [self._now.ids[-1]] * len(rows.x)
        else:
            labels = as_labels(task)
            if labels.ndim and labels.shape != (len(rows.x),):
                raise ValueError(
                    f"task must be a label, or have shape ({len(rows.x)},), a label "
                    f"for each row; got {labels.shape}."
                )
            labels = np.broadcast_to(labels, len(rows.x)).tolist()
        unseen = [label for label in labels if label not in ids]
        if unseen:
            raise ValueError(
                f"Task {unseen[0]!r} was not seen. Known are {_some(list(ids))}."
            )
        at = [ids[label] for label in labels]
        theta = np.array(self._now.theta)[at]
        y = (rows.x * theta).sum(1) + np.array(self._now.intercepts)[at]
        return follow(X)(y.astype(rows.x.dtype))

    def _warn_of_limit(self, solution, *, depth):
        if solution is None or solution.converged or solution.n_iter < self.max_iter:
            return
        warnings.warn(
            f"The representation did not converge in max_iter={self.max_iter} "
            "iterations. Increase max_iter or tol.",
            ConvergenceWarning,
            stacklevel=depth,
        )


class _Seat:
    """A player as :func:`run` wants it: who gets observations, and not sets."""

    def __init__(self, player, game):
        self._player, self._game, self._has_task = player, game, False

    def act(self, observation):
        sets = getattr(self._game, "action_set", None)
        if sets is not None:
            action_set = sets(observation)
        else:
            action_set = observation if np.ndim(observation) == 2 else None
        if not self._has_task:
            self._player.new_task(self._n_features(action_set))
            self._has_task = True
        return self._player.act(action_set)

    def observe(self, reward):
        self._player.observe(reward)

    def new_task(self):
        if self._has_task:  # the first one begins with the first action
            self._player.new_task()

    def _n_features(self, action_set):
        if action_set is not None:
            return np.shape(action_set)[1]
        shape = getattr(getattr(self._game, "action_space", None), "shape", None)
        if not shape:
            raise ValueError(
                "The game must show actions, of shape (n_actions, n_features), have a "
                "method action_set(observation), or take vectors for actions."
            )
        return shape[0]


def _some(labels, n=5):
    return ", ".join(map(repr, labels[:n])) + (", ..." if len(labels) > n else "")
