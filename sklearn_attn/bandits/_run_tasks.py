"""The loop between a policy and a game of tasks, in blocks of rounds  (2205.05820)."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TaskSimulationResult:
    """What happened when a policy met a game of tasks.

    Attributes
    ----------
    task_regret : ndarray of shape (n_tasks,)
        Pseudo-regret of each task.
    task_reward : ndarray of shape (n_tasks,)
        Sum of the rewards of each task.
    task_starts : ndarray of int of shape (n_tasks,)
        First round of each task.
    context_starts : ndarray of int of shape (n_contexts,)
        First task of each context.
    found_task_starts : ndarray of int
        Rounds with which the policy took a task to begin.
    found_changes : ndarray of int
        Tasks during which the policy found that the context had changed.

    Examples
    --------
    >>> from sklearn_attn.bandits import ContextSwitchingBandit, TaskSequence
    >>> from sklearn_attn.bandits import ContextualRepresentationBandit
    >>> tasks = TaskSequence.random([60, 60], [2, 2], random_state=0)
    >>> game = ContextSwitchingBandit(tasks)
    >>> result = ContextualRepresentationBandit(random_state=0).simulate(game, seed=0)
    >>> result.found_changes.tolist()
    [63]
    """

    task_regret: np.ndarray
    task_reward: np.ndarray
    task_starts: np.ndarray
    context_starts: np.ndarray
    found_task_starts: np.ndarray
    found_changes: np.ndarray

    @property
    def average_regret(self) -> float:
        """Regret of a task, on average."""
        return float(self.task_regret.mean())

    @property
    def change_delays(self) -> np.ndarray:
        """Tasks until each change of context was found; NaN if it was not."""
        true = self.context_starts[1:]
        ends = np.append(true[1:], len(self.task_regret))
        return np.array([_first_delay(self.found_changes, *e) for e in zip(true, ends)])

    @property
    def n_false_changes(self) -> int:
        """Changes of context that were found where there was none."""
        found = np.searchsorted(self.context_starts, self.found_changes, side="right")
        return len(found) - len(set(found.tolist()) - {1})

    @property
    def switch_delays(self) -> np.ndarray:
        """Rounds until the policy noticed each task but the first; NaN if it did not.

        All are 0 if tasks are announced.
        """
        true = self.task_starts[1:]
        ends = np.append(true[1:], np.iinfo(np.int64).max)
        found = self.found_task_starts
        return np.array([_first_delay(found, *each) for each in zip(true, ends)])

    @property
    def missed_switches(self) -> float:
        """Share of tasks whose beginning the policy did not notice."""
        delays = self.switch_delays
        return float(np.isnan(delays).mean()) if len(delays) else 0.0


def _first_delay(found, start, end):
    """Return how long after a start the first find was, before an end."""
    at = np.searchsorted(found, start)
    return float(found[at] - start) if at < len(found) and found[at] < end else np.nan


def run_tasks(policy: Any, environment: Any, *, seed: Any = None) -> Any:
    """Let a policy play a game of tasks to its end.

    Parameters
    ----------
    policy : SubspacePolicy, or an object with its methods
        Who plays.
    environment : ContextSwitchingBandit
        The game, of actions in a ball.
    seed : int, default=None
        Seed of the noise.

    Returns
    -------
    TaskSimulationResult
        Regret and rewards of each task, and what the policy has found out.

    Examples
    --------
    >>> from sklearn_attn.bandits import ContextSwitchingBandit, SubspacePolicy
    >>> from sklearn_attn.bandits import TaskSequence, run_tasks
    >>> tasks = TaskSequence.random([3], [2], random_state=0)
    >>> result = run_tasks(SubspacePolicy(), ContextSwitchingBandit(tasks), seed=0)
    >>> result.task_regret.round(-1).tolist()
    [630.0, 630.0, 630.0]
    """
    d = environment.n_features
    environment.reset(seed=seed)
    policy.new_task(d)
    n_played, is_over = 0, False
    found_starts, changes = [0], []
    n_found = len(getattr(policy, "context_starts", ()))
    rewards = []
    while not is_over:
        actions = policy.plan(environment.n_left)
        block = environment.play(
            actions, lambda rewards, actions=actions: policy.stop(actions, rewards)
        )
        n, is_over = len(block.rewards), block.is_over
        rewards.append(block.rewards)
        n_played += n
        n_tasks = len(getattr(policy, "task_starts", ()))
        policy.learn(actions[:n], block.rewards)
        n_now = len(getattr(policy, "context_starts", ()))
        changes += [n_played - 1] * (n_now - n_found)
        n_found = n_now
        if block.new_task:
            policy.new_task(d)
            found_starts.append(n_played)
        elif len(getattr(policy, "task_starts", ())) > n_tasks:
            found_starts.append(n_played)
    starts = environment.task_starts
    return TaskSimulationResult(
        environment.task_regret.copy(),
        np.add.reduceat(np.concatenate(rewards), starts),
        starts.copy(),
        np.array(environment.tasks.context_starts),
        np.array(found_starts),
        np.searchsorted(starts, changes, side="right") - 1,
    )
