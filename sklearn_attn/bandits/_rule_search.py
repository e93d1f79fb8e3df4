"""One of few rules b_k holds, for a while: y = a'b_k for an action a  (2205.05820).

The representation is discrete, as in the Wisconsin Card Sorting Task. A rule is
contradicted by a reward that differs from what it predicts by more than one half.
"""

import numpy as np

HALF = 0.5
# What the filter thinks possible, if it is not told: changes of the rule in a round,
# and rewards that are turned round.
HAZARDS = np.array([0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
FLIP_RATES = np.array([0.001, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3])


class RuleSearch:
    """Play by a rule until rewards contradict it.

    Parameters
    ----------
    rules : ndarray of shape (n_rules, n_features)
        The rules b_k.
    how : {"random", "cycle", "eliminate", "filter"}
        "random" is the paper's trial and error: any other rule. "cycle" leaves out
        those that failed since the last success, "eliminate" all that rewards have
        contradicted since the rule must have changed. "filter" weighs them by Bayes'
        rule.
    confirm : int
        Contradictions in a row that it takes; for all but the filter.
    hazard, flip_rate : float or "auto"
        For the filter: probabilities that the rule changes in a round, and that a
        reward is turned round.
    rng : RandomState
        Chooses where there is nothing to choose by.
    first : int, default=None
        The rule to begin with. None draws it.

    Attributes
    ----------
    current : int
        The rule that is most probable.
    starts : list of int
        Rounds from which on each rule in turn was believed in.
    rules_in_turn : list of int
        These rules.
    """

    def __init__(self, rules, how, confirm, hazard, flip_rate, rng, first=None):
        self.rules, self.how, self.confirm, self._rng = rules, how, confirm, rng
        self.n_played = 0
        n = len(rules)
        self._is_excluded = np.zeros(n, dtype=bool)
        self._n_contradictions = np.zeros(n, dtype=int)
        hazards = HAZARDS if hazard == "auto" else np.array([hazard])
        flips = FLIP_RATES if flip_rate == "auto" else np.array([flip_rate])
        self._hazards, self._flips = hazards[:, None, None], flips[None, :, None]
        self._belief = np.full((len(hazards), len(flips), n), 1.0)
        self._belief /= self._belief.sum()
        self._was_right = first is not None  # the rule believed in, by the last reward
        self.current = int(rng.randint(n)) if first is None else first
        if first is not None:
            self._is_excluded = (np.arange(n) != first) & (how == "eliminate")
            self._belief *= np.arange(n) == first
            self._belief /= self._belief.sum()
        self.starts, self.rules_in_turn = [0], [self.current]

    @property
    def probabilities(self):
        """How much each rule is believed in; they sum to 1."""
        if self.how == "filter":
            return self._belief.sum((0, 1))
        if self.how == "eliminate":
            return ~self._is_excluded / (~self._is_excluded).sum()
        return np.eye(len(self.rules))[self.current]

    @property
    def is_sure(self):
        """Whether one rule is more probable than all others together."""
        return bool(self.probabilities.max() > HALF) and self._was_right

    def act(self, actions):
        """Return the action that most probably is rewarded."""
        self._predicted = actions @ self.rules.T  # (n_actions, n_rules)
        values = self._predicted @ self.probabilities
        best = np.flatnonzero(values >= values.max() - 1e-9)  # equal up to rounding
        self._taken = int(best[0] if len(best) == 1 else self._rng.choice(best))
        return self._taken

    def observe(self, reward):
        """Learn from the reward of the action taken."""
        predicted = self._predicted[self._taken]
        wrong = np.abs(reward - predicted) > HALF
        before = self.current
        self._was_right = not wrong[before]
        if self.how == "filter":
            self._weigh(reward, predicted)
        elif self.how == "eliminate":
            self._eliminate(wrong)
        else:
            self._try(wrong[self.current])
        self.n_played += 1
        if self.current != before:
            self.starts.append(self.n_played)
            self.rules_in_turn.append(self.current)

    def _try(self, is_wrong):
        """Keep the rule, or take another."""
        k = self.current
        self._n_contradictions[k] = self._n_contradictions[k] + 1 if is_wrong else 0
        if not is_wrong:
            self._is_excluded[:] = False
        if self._n_contradictions[k] < self.confirm:
            return
        self._n_contradictions[k] = 0
        if self.how == "random" or (self._is_excluded.sum() >= len(self.rules) - 1):
            self._is_excluded[:] = False
        self._is_excluded[k] = True
        self.current = int(self._rng.choice(np.flatnonzero(~self._is_excluded)))

    def _eliminate(self, wrong):
        """Exclude rules that are contradicted; if none is left, it has changed."""
        self._n_contradictions = np.where(wrong, self._n_contradictions + 1, 0)
        self._is_excluded |= self._n_contradictions >= self.confirm
        if self._is_excluded.all():
            self._is_excluded = wrong.copy() if not wrong.all() else wrong & False
            self._n_contradictions[:] = 0
        if self._is_excluded[self.current]:
            self.current = int(self._rng.choice(np.flatnonzero(~self._is_excluded)))

    def _weigh(self, reward, predicted):
        """Bayes' rule, over the rule and what is not known of changes and flips."""
        belief = self._belief
        n = len(self.rules)
        if n > 1:
            others = belief.sum(-1, keepdims=True) - belief
            belief = (1 - self._hazards) * belief + self._hazards * others / (n - 1)
        hit = (1 - 2 * self._flips) * predicted + self._flips
        belief = belief * (reward * hit + (1 - reward) * (1 - hit))
        total = belief.sum()
        # what no rule allows, without flips, is no reason to believe in any
        even = np.full_like(belief, 1 / belief.size)
        self._belief = belief / total if total > 0 else even
        self.current = int(self.probabilities.argmax())
