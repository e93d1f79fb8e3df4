"""Contexts: runs of tasks that share a representation, found as tasks come
(2205.05820).

A task that the representation does not fit is an outlier. One by itself is ignored;
several in a row are a new context, and the representation is learned from them.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .._solution import Solution
from .._task_moments import TaskMoments
from ._detect_change import OutlierTest
from ._shared_subspace import TINY, SharedSubspace, estimate_subspace

# Noise below this, relative to the rewards, is how exactly a subspace is found.
EXACTNESS = 1e-4
# A basis is learned anew once tasks have grown by this factor.
REFIT_GROWTH = 1.25
# A subspace is known once so many times as many tasks as its rank tell of it: fewer
# span it, but hardly touch some of its directions, and the next tasks would seem alien.
TASKS_PER_COMPONENT = 2
# The noise is known once this share of the rows is not needed to fit the subspace.
LEAST_FREE = 0.5


@dataclass(frozen=True)
class Recipe:
    """How to learn representations, and when to give them up."""

    test: OutlierTest
    n_components: int | None = None
    n_consecutive: int = 4
    least_tasks: int = 4
    eig_tol: float = 0.02
    ridge: float = 1e-6
    fit_intercept: bool = True
    noise_std: float | None = None
    max_iter: int = 1000
    tol: float = 1e-6

    def equations(self, moments):
        return moments.equations(self.ridge, fit_intercept=self.fit_intercept)

    def subspace(self, moments, on_iteration=lambda *_: False) -> Solution:
        return estimate_subspace(
            self.equations(moments),
            self.n_components,
            eig_tol=self.eig_tol,
            max_iter=self.max_iter,
            tol=self.tol,
            on_iteration=on_iteration,
        )


class Task(NamedTuple):
    """The rows of a task, summed up, and what it is called."""

    tag: Any
    moments: TaskMoments


class ContextTracker:
    """The current context, and tasks that seem not to belong to it.

    Attributes
    ----------
    members : list of Task
        Tasks that the representation is learned from.
    suspects : list of Task
        Outliers since the last task that was none.
    strangers : list of Task
        Outliers before.
    solution : Solution or None
        The representation, once there is one, and how it was found.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.members: list[Task] = []
        self.suspects: list[Task] = []
        self.strangers: list[Task] = []
        self.solution: Solution | None = None

    @property
    def subspace(self) -> SharedSubspace | None:
        """The representation, once there is one."""
        return None if self.solution is None else self.solution.value

    def copy(self) -> "ContextTracker":
        other = ContextTracker(self.recipe)
        other.members, other.suspects = [*self.members], [*self.suspects]
        other.strangers = [*self.strangers]
        other.solution = self.solution
        return other

    @property
    def noise(self) -> tuple:
        """Variance of a reward, and how many rows tell of it; NaN if unknown."""
        if self.recipe.noise_std is not None:
            return self.recipe.noise_std**2, math.inf
        subspace = self.subspace
        if subspace is None or subspace.noise_dof < LEAST_FREE * subspace.n_rows:
            return math.nan, 0.0
        return subspace.noise_var, subspace.noise_dof

    @property
    def is_sure(self) -> bool:
        """Whether tasks can be judged by the representation."""
        if self.subspace is None or math.isnan(self.noise[0]):
            return False
        n_needed = max(
            self.recipe.least_tasks, TASKS_PER_COMPONENT * len(self.subspace.B)
        )
        return self.n_learned >= n_needed

    @property
    def n_learned(self) -> int:
        """Tasks that the representation was learned from."""
        return 0 if self.subspace is None else len(self.subspace.alpha)

    def screen(self, task: TaskMoments) -> float:
        """Return how badly the representation fits a task: above 1, it is an outlier.

        NaN if there is no telling.
        """
        subspace = self.subspace
        if subspace is None or not self.is_sure:
            return math.nan
        equations = self.recipe.equations(task)
        rest, n, alpha, strength = equations.unexplained(subspace.B)
        if n < 1:
            return math.nan
        noise_var, dof = self.noise
        floor = EXACTNESS**2 * float(equations.square[0]) / max(1.0, float(task.n[0]))
        scale = noise_var * (1 + strength * subspace.doubt(alpha)) + floor
        statistic = rest / scale if scale > 0 else 0.0
        return self.recipe.test.score(statistic, n, dof)

    def add(self, task: Task, score: float) -> bool:
        """Take a task in, whose rows tell of all directions; tell of a new context."""
        if not score > 1:
            self.dismiss()
            self.members.append(task)
            return False
        self.suspects.append(task)
        if len(self.suspects) < self.recipe.n_consecutive:
            return False
        suspects, self.suspects = self.suspects, []
        if all(
            self._belong_together(suspects, cost)
            for cost in (self._subspace_cost, self._own_cost)
        ):
            self.members += suspects
            self.learn()
            return False
        self.members, self.strangers = suspects, []
        self.learn()
        return True

    def dismiss(self) -> None:
        """Take suspects for accidents, since a task has come that fits."""
        self.strangers += self.suspects
        self.suspects = []

    def learn(self) -> None:
        """Learn the representation from the tasks of the context.

        Strangers are taken in if they show a direction that was not known.
        """
        if self.strangers and self._belong_together(self.strangers, self._own_cost):
            self.members += self.strangers
            self.strangers = []
        self.solution = self.recipe.subspace(_join(self.members))

    def _belong_together(self, others, cost_of_others):
        """Tell whether one subspace describes all more briefly than two descriptions.

        Of tasks that were to teach a subspace, all may have missed a direction, and
        whoever lies along it is an outlier then. The shorter description is that of the
        smaller Bayesian information criterion. Where the rank is given, no direction is
        missed for want of a larger one.
        """
        if self.recipe.n_components is not None:
            return False
        rest, n_parameters = self._subspace_cost([*self.members, *others])
        costs = self._subspace_cost(self.members), cost_of_others(others)
        rest_apart, n_parameters_apart = map(sum, zip(*costs))
        every = self.recipe.equations(_join([*self.members, *others]))
        n, square = float(every.n_free.sum()), float(every.square.sum())
        floor = EXACTNESS**2 * square + TINY
        gain = n * math.log((rest + floor) / (rest_apart + floor))
        return gain < (n_parameters_apart - n_parameters) * math.log(max(n, 2))

    def _subspace_cost(self, tasks):
        """Return the sum of squares that a subspace leaves, and its parameters."""
        moments = _join(tasks)
        found = self.recipe.subspace(moments).value
        rest = self.recipe.equations(moments).residuals(found.alpha @ found.B).sum()
        r, d = found.B.shape
        return float(rest), r * (d - r) + len(tasks) * r

    def _own_cost(self, tasks):
        """Return the same for coefficients of each task by itself."""
        equations = self.recipe.equations(_join(tasks))
        d = equations.cross.shape[1]
        n_parameters = equations.n_free.clamp(max=d).sum()
        return float(equations.residuals(equations.solve()).sum()), float(n_parameters)

    def learn_if_due(self) -> None:
        """Learn if tasks have become many more since the last time."""
        if len(self.members) >= max(
            self.recipe.least_tasks, REFIT_GROWTH * self.n_learned
        ):
            self.learn()


@dataclass(frozen=True)
class Contexts:
    """What a table of tasks has shown.

    Attributes
    ----------
    tracker : ContextTracker
        The state in which the last task leaves us.
    starts : list of int
        First task of each new context; below 0, it is one before the table.
    scores : list of float
        How badly each task fitted the representation when it came.
    subspaces : list of SharedSubspace
        The representation of the context that was there, and of each new one.
    theta : torch.Tensor of shape (k, d)
        Coefficients of the tasks.
    """

    tracker: ContextTracker
    starts: list
    scores: list
    subspaces: list
    theta: Any


def learn_contexts(
    tasks: TaskMoments, tracker: ContextTracker, on_iteration=lambda *_: False
) -> Contexts:
    """Find contexts and coefficients of the tasks of a table, one after the other.

    Parameters
    ----------
    tasks : TaskMoments
        The tasks, in the order of time.
    tracker : ContextTracker
        What came before; it is not changed.
    on_iteration : callable
        Called while the representation of the last context is found, with the losses so
        far and a function that returns the contexts so far; stops if it returns True.

    Returns
    -------
    Contexts
        The contexts. In the end, each is learned from all of its tasks.
    """
    tracker = tracker.copy()
    recipe = tracker.recipe
    starts, scores = [], []
    contexts: list[list[Task]] = []
    for i in range(len(tasks)):
        task, before = Task(i, tasks[[i]]), tracker.members
        score = tracker.screen(task.moments)
        scores.append(score)
        if tracker.add(task, score):
            starts.append(i + 1 - recipe.n_consecutive)
            contexts.append(before)
        elif not score > 1:
            tracker.learn_if_due()
    contexts.append(tracker.members)
    theta = recipe.equations(tasks).solve()
    subspaces: list[SharedSubspace] = []
    firsts = [0, *(max(0, start) for start in starts)]
    for members, first, end in zip(contexts, firsts, [*firsts[1:], len(tasks)]):
        # what is known in the end may fit what seemed alien at first
        tracker.members = members
        tracker.solution = recipe.subspace(_join(members))
        known = {task.tag for task in members}
        late = [
            Task(i, tasks[[i]])
            for i in range(first, end)
            if i not in known and tracker.screen(tasks[[i]]) <= 1
        ]
        members += late
        is_last = end == len(tasks) and members is contexts[-1]
        mine = [k for k, task in enumerate(members) if task.tag is not None]
        tags = [members[k].tag for k in mine]

        def with_subspace(
            found, mine=mine, tags=tags, theta=theta, before=tuple(subspaces)
        ):
            theta = theta.clone()
            theta[tags] = found.alpha[mine] @ found.B
            return Contexts(tracker, starts, scores, [*before, found], theta)

        if is_last:
            tracker.solution = recipe.subspace(
                _join(members),
                lambda losses, so_far: on_iteration(
                    losses, lambda: with_subspace(so_far())
                ),
            )
        elif late:
            tracker.solution = recipe.subspace(_join(members))
        found = with_subspace(tracker.solution.value)
        subspaces, theta = found.subspaces, found.theta
    known = {task.tag for task in tracker.members} - {None}
    for others in (tracker.suspects, tracker.strangers):
        others[:] = [_untagged(task) for task in others if task.tag not in known]
    tracker.members = [_untagged(task) for task in tracker.members]
    return Contexts(tracker, starts, scores, subspaces, theta)


def _join(tasks):
    return TaskMoments.join([task.moments for task in tasks])


def _untagged(task):
    """Return a task that belongs to no table any more."""
    return Task(None, task.moments)


def nearest_candidates(tasks: TaskMoments, candidates, recipe: Recipe):
    """Return which of some coefficients fits the rows of each task best."""
    equations = recipe.equations(tasks)
    n_tasks = len(tasks)
    rest = [
        equations.residuals(each.expand(n_tasks, -1)) for each in candidates
    ]  # n_rules of (n_tasks,)
    return torch.stack(rest).argmin(0)
