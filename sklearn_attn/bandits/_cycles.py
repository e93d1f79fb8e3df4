"""ORLT: explore in R^d, learn a subspace, explore in it, look for changes (2205.05820).

Each task is explored, and then the best action committed to. In cycle c some tasks are
explored in all d directions, to learn the subspace B, and the next c tasks in its r
directions alone. Before either, a few probes orthogonal to B tell whether the task
belongs to the context: if not, it is explored in all directions, and several such
tasks in a row are a new context.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from .._task_moments import TaskMoments
from ._context_tracker import ContextTracker, Task
from ._detect_change import SwitchTest
from ._shared_subspace import SharedSubspace

# Commitment rewards that are looked at together, where nothing announces a new task.
BLOCK = 1000
# Directions that no action has explored count as if one this small had, relatively.
LEAST_EXPLORED = 1e-6


@dataclass(frozen=True)
class Schedule:
    """How long to explore, and how to notice that a task has ended.

    With rounds_per_task N, d directions take explore_scale d sqrt(N) rounds, and r of
    a subspace transfer_scale r sqrt(N). `window` is None if tasks are announced.
    """

    rounds_per_task: float = 1000
    explore_scale: float = 1.0
    transfer_scale: float = 1.0
    tasks_per_cycle: int = 4
    n_probe: int = 12
    level: float = 1e-3
    radius: float = 1.0
    window: int | None = None

    def n_explore(self, d):
        """Return the rounds in R^d, d + 1 at least."""
        return _rounds(self.explore_scale * d * math.sqrt(self.rounds_per_task), d + 1)

    def n_transfer(self, r):
        """Return the rounds in the subspace, r + 1 at least."""
        return _rounds(self.transfer_scale * r * math.sqrt(self.rounds_per_task), r + 1)

    @property
    def sigmas(self):
        """Standard errors that noise exceeds in hardly any task, whenever looked at."""
        return float(stats.norm.isf(self.level / (2 * max(1.0, self.rounds_per_task))))


def _rounds(n, least):
    return max(math.ceil(n - 1e-9), least)  # 2 sqrt(4) is 4, and not 5


def axes(basis, radius, first, n):
    """Return n rounds of a cycle through orthonormal rows, each pass of other sign."""
    t = np.arange(first, first + n)
    sign = np.where((t // len(basis)) % 2 == 0, radius, -radius)
    return sign[:, None] * basis[t % len(basis)]


def best_action(theta, radius):
    """Return argmax of <x, theta> on the ball; if theta is zero, all are best."""
    norm = np.linalg.norm(theta)
    return radius * (np.eye(len(theta))[0] if norm == 0 else theta / norm)


def most_doubtful(actions, gram):
    """Return the action whose reward is least known, given X'X of those taken."""
    scale = LEAST_EXPLORED * max(float((actions**2).sum(1).max()), np.finfo(float).tiny)
    inverse = np.linalg.inv(gram + scale * np.eye(len(gram)))
    return int(np.einsum("kd,de,ke->k", actions, inverse, actions).argmax())


class TaskGame:
    """One task at a time: explored by a plan of actions, then committed to.

    Attributes
    ----------
    phase : {"probe", "explore", "transfer", "commit"} or None
        What the next round is for; None before the first task.
    cycle : int
        Tasks in a row that are explored in the subspace.
    n_played : int
        Rounds so far.
    theta : list of ndarray
        Coefficients of the tasks, as far as they are known.
    intercepts : list of float
        Their constants.
    scores : list of float
        How badly each fitted the representation; NaN if that was not asked.
    task_starts : list of int
        Round in which each began.
    context_starts : list of int
        Tasks, counted from 0, with which a new context was found to have begun. It may
        have begun before the first one here.
    past_subspaces : list of SharedSubspace
        Representations of the contexts before the present one.
    """

    def __init__(self, tracker: ContextTracker, schedule: Schedule, d, rng, like):
        self.tracker, self.schedule, self.d = tracker, schedule, d
        self._rng, self._like = rng, like
        self.phase = None
        self.n_played = 0
        self.theta: list[np.ndarray] = []
        self.intercepts: list[float] = []
        self.scores: list[float] = []
        self.task_starts: list[int] = []
        self.context_starts: list[int] = []
        self.past_subspaces: list[SharedSubspace] = []
        self.cycle = 1
        self._aliens: list[np.ndarray] = []  # coefficients of outliers in a row
        self._complement = None, None  # of which subspace, and its basis
        self._begin_cycle(learns=not tracker.is_sure)

    def new_task(self, n_features=None):
        """End the task, whatever it has come to, and begin another."""
        if self.phase is not None:
            self._end_task()
        self.task_starts.append(self.n_played)
        self.theta.append(np.zeros(self.d))
        self.intercepts.append(0.0)
        self.scores.append(math.nan)
        self._moments = None
        if not self.tracker.is_sure:
            self._begin("explore")
        elif len(self.tracker.subspace.B) < self.d:
            self._begin("probe")
        else:  # there is nothing outside
            self._begin("explore" if self._learns else "transfer")

    def plan(self, n):
        """Return up to n actions of the ball, which await no reward of each other."""
        if self.phase == "commit":
            n = n if self.schedule.window is None else min(n, BLOCK)
            best = best_action(self.theta[-1], self.schedule.radius)
            return np.broadcast_to(best, (n, self.d))
        n = min(n, self._length - self._t)
        if self.phase == "probe" and self._t < len(self._basis):
            return self._basis[self._t : self._t + n]
        if self.phase == "probe":  # sets of actions came before, and take more rounds
            return axes(self._B, self.schedule.radius, self._t, n)
        return axes(self._basis, self.schedule.radius, self._t, n)

    def choose(self, actions):
        """Return which of some actions to take, if there are no others."""
        if self.phase == "commit":
            return int((actions @ self.theta[-1]).argmax())
        B, gram = self._B, self._gram
        if self.phase == "probe":
            # residuals are what a fit within the subspace leaves: it needs rounds too
            self._length = self.schedule.n_probe + len(B)
        if self.phase == "probe" and self._t < self.schedule.n_probe:
            off = np.eye(self.d) - B.T @ B
            return most_doubtful(actions @ off, off @ gram @ off)
        if self.phase == "explore":
            return most_doubtful(actions, gram)
        return most_doubtful(actions @ B.T, B @ gram @ B.T)

    def stop(self, actions, rewards):
        """Return after how many of these rewards a task has evidently ended."""
        if self.phase != "commit" or self.schedule.window is None:
            return len(rewards)
        at = self._switch.first_alarm(self._surprise(actions, rewards))
        return len(rewards) if at is None else at

    def learn(self, actions, rewards):
        """Take in what actions have brought."""
        actions, rewards = np.asarray(actions), np.asarray(rewards, dtype=float)
        self.n_played += len(rewards)
        self._t += len(rewards)
        if self.phase != "commit":
            self._rows.append(np.column_stack([actions, rewards]))
            self._gram = self._gram + actions.T @ actions
            if self._t >= self._length:
                self._end_phase()
        elif self.schedule.window is not None:
            surprise = self._surprise(actions, rewards)
            has_switched = self._switch.first_alarm(surprise) is not None
            self._switch.take(surprise)
            if has_switched:
                self.new_task()

    def _surprise(self, actions, rewards):
        return rewards - actions @ self.theta[-1] - self.intercepts[-1]

    @property
    def _B(self):
        subspace = self.tracker.subspace
        return None if subspace is None else subspace.B.cpu().numpy()

    def _begin(self, phase):
        self.phase = phase
        self._t, self._rows = 0, []
        self._gram = np.zeros((self.d, self.d))
        if phase == "probe":
            self._basis, self._length = self._draw_probes(), self.schedule.n_probe
        elif phase == "explore":
            self._basis = np.eye(self.d)
            self._length = self.schedule.n_explore(self.d)
        elif phase == "transfer":
            self._basis = self._B
            self._length = self.schedule.n_transfer(len(self._basis))

    def _begin_cycle(self, *, learns):
        """Learn the subspace again, or go on to the tasks that use it."""
        self._learns, self._n_explored, self._n_transferred = learns, 0, 0

    def _draw_probes(self):
        """Return actions orthogonal to the subspace, and to each other if so many.

        After outliers, where these lie comes first: that is where the next task of a
        new context may lie too. The others are random.
        """
        B, n, radius = self._B, self.schedule.n_probe, self.schedule.radius
        rest = self.d - len(B)
        if self._complement[0] is not self.tracker.subspace:
            self._complement = self.tracker.subspace, np.linalg.svd(B)[2][len(B) :]
        _, complement = self._complement  # (d - r, d)
        turns = []
        while sum(map(len, turns)) < n:
            directions = self._rng.standard_normal((rest, rest))
            for k, theta in enumerate(self._aliens[-rest:]):
                directions[:, k] = complement @ theta
            # each pass with the other sign, so that a constant is no part of it
            sign = 1 if len(turns) % 2 == 0 else -1
            turns.append(sign * np.linalg.qr(directions)[0].T)
        return radius * np.concatenate(turns)[:n] @ complement

    def _take_rows(self):
        """Add the rows of the phase to the moments of the task."""
        if self._rows:
            rows = torch.from_numpy(np.concatenate(self._rows)).to(self._like)
            more = TaskMoments.of_rows(rows)
            self._moments = more if self._moments is None else self._moments + more
            self._rows = []

    def _end_phase(self):
        self._take_rows()
        if self.phase == "probe":
            score = self.scores[-1] = self.tracker.screen(self._moments)
            if score > 1 or self._learns:
                self._begin("explore")  # and be judged again
            else:
                self.tracker.dismiss()
                self._aliens = []
                self._begin("transfer")
            return
        if self.phase == "explore":
            self._solve(within=False)
            self._take_in()
        else:
            self._solve(within=True)
            self._n_transferred += 1
            if self._n_transferred >= self.cycle:
                self.cycle += 1
                self._begin_cycle(learns=True)
        if self.schedule.window is not None:
            noise_var, _ = self.tracker.noise
            if math.isnan(noise_var):
                noise_var = self._own_noise()
            self._switch = SwitchTest(
                self.schedule.window, math.sqrt(noise_var), self.schedule.sigmas
            )
        self._begin("commit")

    def _take_in(self):
        """Let the tracker have a task that was explored in all directions."""
        if self.tracker.recipe.test.detector == "chi2":
            # all rows tell better than the probes; the paper's rule, whose limits grow
            # with their number, is about probes alone
            self.scores[-1] = self.tracker.screen(self._moments)
        score, subspace = self.scores[-1], self.tracker.subspace
        if self.tracker.add(Task(None, self._moments), score):
            self.past_subspaces.append(subspace)
            n_consecutive = self.tracker.recipe.n_consecutive
            self.context_starts.append(len(self.scores) - n_consecutive)
            self.cycle = 1
            self._begin_cycle(learns=not self.tracker.is_sure)
        elif not score > 1 and not self.tracker.is_sure:
            self._learns = True
            self.tracker.learn_if_due()
            if self.tracker.is_sure:
                self._begin_cycle(learns=False)
        elif not score > 1 and self._learns:
            self._n_explored += 1
            if self._n_explored >= self.schedule.tasks_per_cycle:
                self.tracker.learn()
                self._begin_cycle(learns=not self.tracker.is_sure)
        self._aliens = [*self._aliens, self.theta[-1]] if self.tracker.suspects else []

    def _end_task(self):
        """Make what can be made of a task that ends while it is explored."""
        if self.phase == "commit":
            return
        score = self.scores[-1]
        self._take_rows()
        n = 0 if self._moments is None else int(self._moments.n[0])
        if n == 0:  # as if it had never been
            for each in (self.task_starts, self.theta, self.intercepts, self.scores):
                each.pop()
        elif self.phase == "explore" and n > self.d + 1:
            self._solve(within=False)
            self._take_in()
        else:
            self._solve(within=self.tracker.is_sure and not score > 1)

    def _solve(self, *, within):
        equations = self.tracker.recipe.equations(self._moments)
        if within:
            B = self.tracker.subspace.B
            theta = equations.within(B).solve() @ B
        else:
            theta = equations.solve()
        self.theta[-1] = theta[0].cpu().numpy()
        if self.tracker.recipe.fit_intercept:
            self.intercepts[-1] = float(self._moments.intercepts(theta)[0])

    def _own_noise(self):
        """Return the variance that a task's own fit leaves."""
        equations = self.tracker.recipe.equations(self._moments)
        rest = float(equations.residuals(equations.solve())[0])
        return rest / max(1.0, float(equations.n_free[0] - self.d))
