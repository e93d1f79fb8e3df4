"""The Wisconsin Card Sorting Task: y = a'A b, for a rule b that changes  (2205.05820).

This module is loaded on first use, since its class is one of gymnasium's.
"""

from numbers import Integral
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete

from ._cards import DIMENSIONS, N_VALUES, Trial, card_matrix, card_name, draw_trial

MOST_NOISE = 0.5  # beyond it, wrong answers would be the rewarded ones
PICTURE_INCHES, DPI = (4.8, 4.0), 100


class WisconsinCardSortingEnv(gymnasium.Env):
    """Sort cards by a rule that nobody tells, and that changes without notice.

    A card shows symbols of one shape, in some number and colour. It is laid to one of
    four table cards, which have value 0, 1, 2 and 3 in everything. Right is the one
    that has the same shape, or number, or colour: whichever the rule is [1]_.

    Parameters
    ----------
    criterion : {"fixed", "consecutive"}, default="fixed"
        When the rule changes: after `block` trials or, as in the classical test, after
        `run` right answers in a row.
    block : int, default=20
        Trials of a rule, for "fixed".
    run : int, default=10
        Right answers in a row that complete a category. They change the rule for
        "consecutive", and are only counted for "fixed".
    n_trials : int, default=100
        Trials until the game is truncated; 128 in the classical test.
    n_categories : int, default=6
        Categories after which the game ends, for "consecutive".
    ambiguous : bool, default=True
        Whether cards may match a table card in several ways, so that rules agree. If
        not, shape, number and colour all differ.
    noise : float, default=0.0
        Probability that a reward is the opposite, at most one half.
    render_mode : {"rgb_array", "ansi"}, default=None
        What :meth:`render` returns: a picture or a sentence. None is a picture.

    Attributes
    ----------
    observation_space : gymnasium.spaces.MultiDiscrete
        Shape, number and colour of the card, from 0 to 3.
    action_space : gymnasium.spaces.Discrete
        The table cards, from 0 to 3.

    Raises
    ------
    ValueError
        If numbers are out of range, or a name is none of those.
    ImportError
        If gymnasium is not installed.

    References
    ----------
    .. [1] Qin, Menara, Oymak, Ching and Pasqualetti, "Representation Learning for
           Context-Dependent Decision-Making", ACC 2022, arXiv:2205.05820.

    Examples
    --------
    >>> from sklearn_attn.bandits import WisconsinCardSortingEnv
    >>> game = WisconsinCardSortingEnv()
    >>> card, _ = game.reset(seed=0)
    >>> card.tolist()  # a number of 0 is one symbol
    [2, 2, 1]
    >>> _, reward, _, _, info = game.step(int(card[0]))  # sort by its shape
    >>> reward, info["rule"]
    (0.0, 2)
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        *,
        criterion: str = "fixed",
        block: int = 20,
        run: int = 10,
        n_trials: int = 100,
        n_categories: int = 6,
        ambiguous: bool = True,
        noise: float = 0.0,
        render_mode: Any = None,
    ) -> None:
        if criterion not in ("fixed", "consecutive"):
            raise ValueError(
                f"criterion must be 'fixed' or 'consecutive'; got {criterion!r}."
            )
        counts = (block, run, n_trials, n_categories)
        if not all(isinstance(n, Integral) and n >= 1 for n in counts):
            raise ValueError(
                "block, run, n_trials and n_categories must be whole, 1 or more; got "
                f"{block}, {run}, {n_trials} and {n_categories}."
            )
        if not 0 <= noise <= MOST_NOISE:
            raise ValueError(f"noise must be between 0 and {MOST_NOISE}; got {noise}.")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode must be one of {self.metadata['render_modes']}; got "
                f"{render_mode!r}."
            )
        self.criterion, self.block, self.run = criterion, block, run
        self.n_trials, self.n_categories = n_trials, n_categories
        self.ambiguous, self.noise = ambiguous, noise
        self.render_mode = render_mode
        self.observation_space = MultiDiscrete([N_VALUES] * len(DIMENSIONS))
        self.action_space = Discrete(N_VALUES)
        self._card: Any = None

    @property
    def n_rounds(self) -> int:
        """Trials of the game."""
        return self.n_trials

    def action_set(self, observation: Any) -> np.ndarray:
        """Return what table cards match a card.

        Parameters
        ----------
        observation : array-like of int of shape (3,)
            Shape, number and colour of the card.

        Returns
        -------
        ndarray of shape (4, 3)
            1 where a table card has the same shape, number or colour: the action set of
            a linear bandit whose coefficients are the rule.
        """
        return card_matrix(observation)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple:
        """Begin a game.

        Parameters
        ----------
        seed : int, default=None
            Seed of cards, rules and noise. None goes on with the generator.
        options : dict, default=None
            There are none.

        Returns
        -------
        card : ndarray of int of shape (3,)
            Shape, number and colour of the first card.
        info : dict
            Empty.
        """
        super().reset(seed=seed)
        self._t = self._in_block = self._in_row = self._categories = 0
        self._rule = int(self.np_random.integers(len(DIMENSIONS)))
        self._old_rule: Any = None
        self._last: Any = None
        self._is_over = False
        self._card = self._draw()
        return self._card.copy(), {}

    def step(self, action: Any) -> tuple:
        """Lay the card to a table card.

        Parameters
        ----------
        action : int
            The table card.

        Returns
        -------
        card : ndarray of int of shape (3,)
            The next card.
        reward : float
            1.0 for right and 0.0 for wrong, or the opposite with probability `noise`.
        terminated : bool
            Whether `n_categories` were completed, for "consecutive".
        truncated : bool
            Whether this was the last trial.
        info : dict
            Of the trial: ``"rule"``, 0 for shape, 1 for number and 2 for colour;
            ``"correct_action"``; ``"correct"``, whether it was taken;
            ``"optimal_reward"``, the expected reward of the correct action;
            ``"regret"``, how much less was to be expected; ``"switched"``, whether it
            was the first under this rule, and not of the game; ``"perseverative"``,
            whether the rule before would have been right about a wrong action;
            ``"categories"``, completed so far.

        Raises
        ------
        ValueError
            If there is no such table card, `reset` was not called, or the game is over.
        """
        if self._card is None:
            raise ValueError("Call reset() before step().")
        if self._is_over:
            raise ValueError("The game is over: call reset().")
        if not 0 <= action < N_VALUES or action != int(action):
            raise ValueError(
                f"action must be one of {N_VALUES} table cards; got {action}."
            )
        card, rule, old = self._card, self._rule, self._old_rule
        correct_action = int(card[rule])
        correct = int(action) == correct_action
        flips = self.noise > 0 and self.np_random.random() < self.noise
        reward = float(correct != flips)
        self._last = Trial(tuple(card.tolist()), int(action), reward)
        self._t += 1
        self._in_block += 1
        self._in_row = self._in_row + 1 if correct else 0
        completes = self._in_row == self.run
        self._categories += completes
        info = {
            "rule": rule,
            "correct_action": correct_action,
            "correct": correct,
            "optimal_reward": 1.0 - self.noise,
            "regret": 0.0 if correct else 1.0 - 2 * self.noise,
            "switched": self._in_block == 1 and old is not None,
            "perseverative": not correct and old is not None and action == card[old],
            "categories": self._categories,
        }
        info["perseverative"] = bool(info["perseverative"])
        is_due = completes if self.criterion == "consecutive" else False
        if is_due or (self.criterion == "fixed" and self._in_block == self.block):
            others = [k for k in range(len(DIMENSIONS)) if k != rule]
            self._rule = int(self.np_random.choice(others))
            self._old_rule = rule
            self._in_block = self._in_row = 0
        terminated = bool(is_due and self._categories >= self.n_categories)
        truncated = self._t >= self.n_trials
        self._is_over = terminated or truncated
        self._card = self._draw()
        return self._card.copy(), reward, terminated, truncated, info

    def render(self) -> Any:
        """Show the table cards, the last card sorted, and what was said of it.

        Before the first trial, the first card is shown.

        Returns
        -------
        ndarray of uint8 of shape (400, 480, 3) or str
            A picture or, with ``render_mode="ansi"``, a sentence.

        Raises
        ------
        ValueError
            If `reset` was not called.
        ImportError
            If matplotlib is not installed, for a picture.
        """
        if self._card is None:
            raise ValueError("Call reset() before render().")
        trial = self._last or Trial(tuple(self._card.tolist()))
        if self.render_mode == "ansi":
            if trial.action is None:
                return f"Where does {card_name(trial.card)} belong?"
            to = card_name((trial.action,) * len(DIMENSIONS))
            said = "right" if trial.reward else "wrong"
            return f"{card_name(trial.card)} to {to}: {said}"
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=PICTURE_INCHES, dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        title = f"trial {self._t}: the rule was {DIMENSIONS[self._rule_of_last()]}"
        draw_trial(figure, trial, title if self._t else "Where does the card belong?")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def _rule_of_last(self):
        has_just_changed = self._in_block == 0 and self._old_rule is not None
        return self._old_rule if has_just_changed else self._rule

    def _draw(self):
        n = len(DIMENSIONS)
        if self.ambiguous:
            return self.np_random.integers(N_VALUES, size=n)
        return self.np_random.permutation(N_VALUES)[:n]
