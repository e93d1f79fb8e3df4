"""Agents that learn what is right for each card, and not what rules have in common."""

from collections import deque
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from .._arrays import cpu_generator, few_threads
from ._baselines import check_observed
from ._cards import N_VALUES


class TabularQAgent:
    """Q-learning with a table of what each action is worth in each state.

    Parameters
    ----------
    n_actions : int, default=4
        Number of actions.
    discount : float, default=0.0
        What a reward of the next round is worth now. Where actions have no influence on
        the next card, more than 0 adds noise to what is learned.
    learning_rate : float, default=0.5
        Share of the error by which a value is corrected.
    epsilon : float, default=0.1
        Probability of a random action.
    random_state : int, RandomState instance or None, default=None
        Determines random actions.

    Raises
    ------
    ValueError
        If numbers are out of range.

    References
    ----------
    .. [1] Watkins and Dayan, "Q-learning", Machine Learning 8, 1992.

    Examples
    --------
    >>> from sklearn_attn.bandits import TabularQAgent
    >>> agent = TabularQAgent(n_actions=2, random_state=0)
    >>> for _ in range(50):
    ...     agent.observe(float(agent.act([0]) == 1))
    >>> agent.act([0])
    1
    """

    def __init__(
        self,
        n_actions: int = N_VALUES,
        *,
        discount: float = 0.0,
        learning_rate: float = 0.5,
        epsilon: float = 0.1,
        random_state: Any = None,
    ) -> None:
        _check_shares(discount=discount, learning_rate=learning_rate, epsilon=epsilon)
        self.n_actions, self.discount = n_actions, discount
        self.learning_rate, self.epsilon = learning_rate, epsilon
        self._rng = check_random_state(random_state)
        self._values: dict = {}
        self._done: Any = None  # state, action and reward, until the next state is seen
        self._pending: Any = None

    def act(self, observation: Any) -> int:
        """Return the best action as far as known, or a random one.

        Parameters
        ----------
        observation : array-like of int
            The state.

        Returns
        -------
        int
            The action.
        """
        state = tuple(np.asarray(observation).tolist())
        values = self._values.setdefault(state, np.zeros(self.n_actions))
        if self._done is not None:
            last, action, reward = self._done
            target = reward + self.discount * values.max()
            error = target - self._values[last][action]
            self._values[last][action] += self.learning_rate * error
            self._done = None
        if self._rng.uniform() < self.epsilon:
            action = int(self._rng.randint(self.n_actions))
        else:
            action = int(self._rng.choice(np.flatnonzero(values == values.max())))
        self._pending = state, action
        return action

    def observe(self, reward: float) -> None:
        """Learn what the last action has brought, once the next state is seen.

        Parameters
        ----------
        reward : float
            The reward.

        Raises
        ------
        ValueError
            If there was no action, or the reward is not finite.
        """
        check_observed(self._pending, reward)
        self._done = (*self._pending, float(reward))
        self._pending = None


class DQNAgent:
    """Deep Q-learning: a network says what actions are worth, and replays what it saw.

    Parameters
    ----------
    n_values : tuple of int, default=(4, 4, 4)
        Number of values of each part of an observation.
    n_actions : int, default=4
        Number of actions.
    discount : float, default=0.0
        What a reward of the next round is worth now. Where actions have no influence on
        the next card, more than 0 adds noise to what is learned.
    learning_rate : float, default=0.01
        Step size of Adam.
    n_hidden : int, default=32
        Neurons of the hidden layer.
    epsilon : tuple of float, default=(1.0, 0.05)
        Probability of a random action, at first and after `n_decay` rounds.
    n_decay : int, default=50
        Rounds in which it falls.
    memory : int, default=2000
        Rounds that are remembered.
    batch_size : int, default=32
        Rounds that each step learns from.
    target_every : int, default=20
        Rounds after which the network that values the next state is brought up to date.
    random_state : int, RandomState instance or None, default=None
        Determines weights, batches and random actions.

    Raises
    ------
    ValueError
        If numbers are out of range.

    References
    ----------
    .. [1] Mnih et al., "Human-level control through deep reinforcement learning",
           Nature 518, 2015.

    Examples
    --------
    >>> from sklearn_attn.bandits import DQNAgent
    >>> agent = DQNAgent(n_values=(1,), n_actions=2, random_state=0)
    >>> for _ in range(100):
    ...     agent.observe(float(agent.act([0]) == 1))
    >>> agent.act([0])
    1
    """

    def __init__(
        self,
        n_values: Any = (N_VALUES, N_VALUES, N_VALUES),
        n_actions: int = N_VALUES,
        *,
        discount: float = 0.0,
        learning_rate: float = 0.01,
        n_hidden: int = 32,
        epsilon: Any = (1.0, 0.05),
        n_decay: int = 50,
        memory: int = 2000,
        batch_size: int = 32,
        target_every: int = 20,
        random_state: Any = None,
    ) -> None:
        first, last = epsilon
        _check_shares(
            discount=discount, learning_rate=learning_rate, first=first, last=last
        )
        if min(n_hidden, n_decay, memory, batch_size, target_every) < 1:
            raise ValueError(
                "n_hidden, n_decay, memory, batch_size and target_every must be 1 or "
                f"more; got {n_hidden}, {n_decay}, {memory}, {batch_size} and "
                f"{target_every}."
            )
        self.n_values, self.n_actions = tuple(n_values), n_actions
        self.discount, self.epsilon, self.n_decay = discount, epsilon, n_decay
        self.batch_size, self.target_every = batch_size, target_every
        rng = check_random_state(random_state)
        self._generator = cpu_generator(rng)
        self._rng = rng
        sizes = (sum(self.n_values), n_hidden, n_actions)
        self._net, self._target = self._network(*sizes), self._network(*sizes)
        self._target.load_state_dict(self._net.state_dict())
        self._optimizer = torch.optim.Adam(self._net.parameters(), lr=learning_rate)
        self._memory: deque = deque(maxlen=memory)
        self._t = 0
        self._done: Any = None
        self._pending: Any = None

    def act(self, observation: Any) -> int:
        """Return the best action as far as known, or a random one.

        Parameters
        ----------
        observation : array-like of int
            The state.

        Returns
        -------
        int
            The action.
        """
        state = self._encode(observation)
        if self._done is not None:
            self._memory.append((*self._done, state))
            self._done = None
            self._learn()
        first, last = self.epsilon
        epsilon = max(last, first + (last - first) * self._t / self.n_decay)
        if self._rng.uniform() < epsilon:
            action = int(self._rng.randint(self.n_actions))
        else:
            with torch.no_grad(), few_threads(0):
                action = int(self._net(state).argmax())
        self._pending = state, action
        return action

    def observe(self, reward: float) -> None:
        """Remember what the last action has brought; learn once the next state is seen.

        Parameters
        ----------
        reward : float
            The reward.

        Raises
        ------
        ValueError
            If there was no action, or the reward is not finite.
        """
        check_observed(self._pending, reward)
        self._done = (*self._pending, float(reward))
        self._pending = None
        self._t += 1

    def _network(self, n_in, n_hidden, n_out):
        """Return two layers, drawn without touching torch's own generator."""
        layers = [
            torch.nn.utils.skip_init(torch.nn.Linear, *sizes)
            for sizes in ((n_in, n_hidden), (n_hidden, n_out))
        ]
        for layer in layers:
            bound = layer.in_features**-0.5
            for weight in (layer.weight, layer.bias):
                with torch.no_grad():
                    weight.uniform_(-bound, bound, generator=self._generator)
        return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])

    def _encode(self, observation):
        starts = np.cumsum((0, *self.n_values[:-1]))
        state = torch.zeros(sum(self.n_values))
        state[(starts + np.asarray(observation)).tolist()] = 1.0
        return state

    def _learn(self):
        n = len(self._memory)
        rows = torch.randint(n, (min(n, self.batch_size),), generator=self._generator)
        states, actions, rewards, after = zip(*(self._memory[i] for i in rows.tolist()))
        with few_threads(0):
            with torch.no_grad():
                value = self._target(torch.stack(after)).max(1).values
                target = torch.tensor(rewards) + self.discount * value
            with torch.enable_grad():
                worth = self._net(torch.stack(states))
                predicted = worth[torch.arange(len(actions)), torch.tensor(actions)]
                loss = torch.nn.functional.mse_loss(predicted, target)
                self._optimizer.zero_grad()
                loss.backward()
            self._optimizer.step()
        if self._t % self.target_every == 0:
            self._target.load_state_dict(self._net.state_dict())


def _check_shares(**shares):
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be between 0 and 1; got {share}.")
