"""The Wisconsin Card Sorting Task: its rules, its scores, and who plays it."""

import copy
import pickle

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from sklearn_attn.bandits import (
    CardSortingDisplay,
    ContextualRepresentationBandit,
    DQNAgent,
    LinUCB,
    RandomPolicy,
    TabularQAgent,
    WisconsinCardSortingEnv,
    card_sorting_scores,
    run,
)


class Scripted:
    """Answers by a function of the trial and the card."""

    def __init__(self, answer):
        self.answer, self.t = answer, -1

    def act(self, card):
        self.t += 1
        return int(self.answer(self.t, card))

    def observe(self, reward):
        pass


class Knowing:
    """Answers by the true rule of the last trial, which is wrong after a switch."""

    def __init__(self, environment):
        self.environment = environment

    def act(self, card):
        return int(card[self.environment._rule])

    def observe(self, reward):
        pass


@pytest.mark.filterwarnings("ignore:.*")  # advice of gymnasium's about rendering
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"criterion": "consecutive", "n_trials": 128, "ambiguous": False},
        {"noise": 0.2, "render_mode": "rgb_array"},
        {"render_mode": "ansi"},
    ],
)
def test_it_is_an_environment_of_gymnasium(options):
    check_env(WisconsinCardSortingEnv(**options))


def test_right_is_the_table_card_that_the_rule_names():
    game = WisconsinCardSortingEnv()
    card, info = game.reset(seed=0)
    assert info == {}
    for _ in range(100):
        actions = game.action_set(card)
        assert actions.shape == (4, 3)
        np.testing.assert_array_equal(actions.sum(0), 1)
        guess = int(card[0])
        after, reward, _, _, info = game.step(guess)
        assert info["correct_action"] == card[info["rule"]]
        rule = np.eye(3)[info["rule"]]
        assert reward == actions[guess] @ rule  # y = x'A b
        assert info["correct"] == bool(reward)
        assert info["optimal_reward"] == (actions @ rule).max() == 1
        assert info["regret"] == 1 - reward
        card = after


def test_the_rule_changes_after_each_block_and_to_another():
    result = run(
        Scripted(lambda t, card: 0), WisconsinCardSortingEnv(block=7), 100, seed=0
    )
    rules = result.info["rule"]
    changes = np.flatnonzero(np.diff(rules)) + 1
    assert changes.tolist() == list(range(7, 100, 7))
    assert np.flatnonzero(result.info["switched"]).tolist() == changes.tolist()
    followers = {
        (a, b) for a, b in zip(rules[changes - 1].tolist(), rules[changes].tolist())
    }
    assert len(followers) > 3  # of six


def test_the_classical_criterion_is_ten_in_a_row():
    game = WisconsinCardSortingEnv(criterion="consecutive", n_trials=128)
    result = run(Knowing(game), game, 128, seed=0)
    # nobody errs, so that a category takes ten trials, and the sixth ends the game
    assert len(result.rewards) == 60
    assert result.rewards.all()
    assert result.info["categories"][-1] == 6
    with pytest.raises(ValueError, match="over"):
        game.step(0)


def test_an_error_begins_the_run_anew():
    def answer(t, card):
        right = card[game._rule]
        return (right + 1) % 4 if t == 7 else right

    game = WisconsinCardSortingEnv(criterion="consecutive", run=10, n_trials=40)
    result = run(Scripted(answer), game, 40, seed=0)
    assert np.flatnonzero(result.info["switched"]).tolist() == [18, 28, 38]


def test_unambiguous_cards_match_each_table_card_once_at_most():
    for ambiguous, most in ((False, 1), (True, 3)):
        game = WisconsinCardSortingEnv(ambiguous=ambiguous, n_trials=300)
        cards = [game.reset(seed=0)[0]]
        for _ in range(299):
            cards.append(game.step(0)[0])
        matches = [game.action_set(card).sum(1).max() for card in cards]
        assert max(matches) == most


def test_noise_turns_so_many_rewards_round():
    game = WisconsinCardSortingEnv(noise=0.2, n_trials=4000)
    result = run(Knowing(game), game, 4000, seed=0)
    assert result.info["correct"].all()
    assert result.rewards.mean() == pytest.approx(0.8, abs=0.02)  # 3 standard errors
    assert (result.info["optimal_reward"] == 0.8).all()
    wrong = run(
        Scripted(lambda t, card: 0),
        WisconsinCardSortingEnv(noise=0.2),
        100,
        seed=0,
    )
    missed = wrong.info["regret"][~wrong.info["correct"]]
    np.testing.assert_allclose(missed, 0.6)


def test_a_seed_repeats_a_game():
    def play():
        game = WisconsinCardSortingEnv(noise=0.1)
        return run(Scripted(lambda t, card: t % 4), game, 100, seed=5)

    one, other = play(), play()
    np.testing.assert_array_equal(one.rewards, other.rewards)
    np.testing.assert_array_equal(one.info["rule"], other.info["rule"])


def test_the_game_is_copied_and_stored():
    game = WisconsinCardSortingEnv()
    game.reset(seed=0)
    for twin in (copy.deepcopy(game), pickle.loads(pickle.dumps(game))):
        ours = copy.deepcopy(game)
        for _ in range(30):
            np.testing.assert_array_equal(ours.step(1)[0], twin.step(1)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "random"}, "criterion must be"),
        ({"block": 0}, "block, run, n_trials and n_categories"),
        ({"block": 20.5}, "must be whole"),
        ({"noise": 0.6}, "noise must be between 0 and 0.5"),
        ({"render_mode": "human"}, "render_mode must be"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WisconsinCardSortingEnv(**options)


def test_there_are_four_table_cards_and_a_game_must_have_begun():
    game = WisconsinCardSortingEnv()
    with pytest.raises(ValueError, match=r"reset\(\)"):
        game.step(0)
    with pytest.raises(ValueError, match=r"reset\(\)"):
        game.render()
    game.reset(seed=0)
    for action in (4, -1, 0.5):
        with pytest.raises(ValueError, match="one of 4 table cards"):
            game.step(action)


# scores


def test_scores_are_those_counted_by_hand():
    game = WisconsinCardSortingEnv(block=12, n_trials=36, ambiguous=False)
    old = {}

    def answer(t, card):
        rule = game._rule
        if t % 12 == 0 and t:  # as if the rule had not changed
            return card[old["rule"]]
        old["rule"] = rule
        if t in (3, 15, 16):  # what no rule says
            return next(k for k in range(4) if k not in card)
        return card[rule]

    scores = card_sorting_scores(run(Scripted(answer), game, 36, seed=0))
    assert scores == {
        "accuracy": 31 / 36,
        "errors": 5,
        "errors_per_switch": 2.0,  # at 12, 15, 16 and 24
        "perseverative_errors": 2,
        "categories": 1,  # 4 to 11 are too few, 17 to 23 too; 25 to 35 are enough
        "trials": 36,
    }


def test_without_a_switch_there_are_no_errors_of_one():
    game = WisconsinCardSortingEnv(block=100)
    scores = card_sorting_scores(run(RandomPolicy(0), game, 50, view=game.action_set))
    assert np.isnan(scores["errors_per_switch"])


def test_other_games_have_no_such_scores():
    class Other:
        def reset(self, seed=None):
            return 0, {}

        def step(self, action):
            return 0, 1.0, False, False, {}

    with pytest.raises(ValueError, match="WisconsinCardSortingEnv"):
        card_sorting_scores(run(Scripted(lambda t, c: 0), Other(), 3))


# pictures


def test_the_picture_shows_the_table_and_the_answer():
    game = WisconsinCardSortingEnv()
    game.reset(seed=0)
    first = game.render()
    assert first.shape == (400, 480, 3)
    assert first.dtype == np.uint8
    game.step(2)
    after = game.render()
    assert (first != after).any()
    np.testing.assert_array_equal(first[60:125], after[60:125])  # the table cards


def test_in_words():
    game = WisconsinCardSortingEnv(render_mode="ansi")
    card, _ = game.reset(seed=0)
    assert card.tolist() == [2, 2, 1]
    assert game.render() == "Where does 3 green crosses belong?"
    game.step(1)
    assert game.render() == "3 green crosses to 2 green stars: right"
    game.reset(seed=0)
    game.step(0)
    assert game.render() == "3 green crosses to 1 red triangle: wrong"


def test_the_display_adds_up_rewards_and_shades_rules():
    agents = {"a": 0, "b": 1}
    results = {
        name: [
            run(Scripted(lambda t, c, a=a: a), WisconsinCardSortingEnv(), 100, seed=i)
            for i in range(3)
        ]
        for name, a in agents.items()
    }
    display = CardSortingDisplay.from_results(results)
    total = np.mean([game.rewards.sum() for game in results["a"]])
    assert display.lines_[0].get_ydata()[-1] == pytest.approx(total)
    assert display.switches.tolist() == [20, 40, 60, 80]
    assert display.rules is None  # the games had other rules
    assert len(display.ax_.patches) == 2
    again = display.plot(display.ax_, cumulative=False)
    assert again.lines_[0].get_ydata().max() <= 1
    one = CardSortingDisplay.from_results({"a": results["a"][0]})
    assert one.rules.tolist() == results["a"][0].info["rule"][::20].tolist()
    texts = [text.get_text() for text in one.ax_.texts]
    assert set(texts) <= {"shape", "number", "color"}
    assert len(texts) == 5


def test_games_that_differ_are_not_drawn_together():
    one = run(Scripted(lambda t, c: 0), WisconsinCardSortingEnv(), 100)
    other = run(Scripted(lambda t, c: 0), WisconsinCardSortingEnv(block=10), 100)
    with pytest.raises(ValueError, match="2 kinds of games"):
        CardSortingDisplay.from_results({"a": one, "b": other})
    with pytest.raises(ValueError, match="0 kinds"):
        CardSortingDisplay.from_results({})


# agents


@pytest.mark.parametrize("agent", [TabularQAgent, DQNAgent])
def test_agents_learn_a_rule_that_stays(agent):
    game = WisconsinCardSortingEnv(block=10_000, n_trials=1500)
    correct = run(agent(random_state=0), game, 1500, seed=0).info["correct"]
    assert correct[-300:].mean() > 0.85
    assert correct[:40].mean() < 0.6


@pytest.mark.parametrize("agent", [TabularQAgent, DQNAgent])
def test_agents_repeat_themselves_given_a_seed(agent):
    before = torch.get_rng_state()
    rewards = [
        run(agent(random_state=3), WisconsinCardSortingEnv(), 60, seed=0).rewards
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*rewards)
    assert torch.equal(before, torch.get_rng_state())
    other = run(agent(random_state=4), WisconsinCardSortingEnv(), 60, seed=0).rewards
    assert (other != rewards[0]).any()


def test_the_table_is_corrected_by_a_share_of_the_error():
    agent = TabularQAgent(2, discount=0.5, learning_rate=0.2, epsilon=0, random_state=0)
    first = agent.act([0])
    agent.observe(1.0)
    second = agent.act([1])
    agent.observe(1.0)
    agent.act([0])
    # the first reward met a table of zeros; the second, what the first had left there
    assert agent._values[0,][first] == pytest.approx(0.2)
    assert agent._values[1,][second] == pytest.approx(0.2 * (1 + 0.5 * 0.2))


def test_without_greed_all_actions_are_random():
    agent = TabularQAgent(epsilon=1.0, random_state=0)
    actions = []
    for _ in range(400):
        actions.append(agent.act([0]))
        agent.observe(float(actions[-1] == 0))
    assert np.bincount(actions).min() > 70


@pytest.mark.parametrize("agent", [TabularQAgent, DQNAgent])
def test_agents_refuse_what_they_cannot_use(agent):
    with pytest.raises(ValueError, match="discount must be between 0 and 1"):
        agent(discount=1.5)
    with pytest.raises(ValueError, match=r"call act\(\) first"):
        agent().observe(1.0)
    learner = agent()
    learner.act([0, 0, 0])
    with pytest.raises(ValueError, match="finite"):
        learner.observe(np.nan)
    learner.observe(1.0)


def test_a_network_needs_neurons():
    with pytest.raises(ValueError, match="n_hidden"):
        DQNAgent(n_hidden=0)


def test_a_linear_bandit_plays_by_what_it_is_shown():
    game = WisconsinCardSortingEnv(block=1000, n_trials=300)
    rewards = run(LinUCB(), game, 300, seed=0, view=game.action_set).rewards
    assert rewards[100:].mean() > 0.95


def test_who_knows_of_rules_beats_who_does_not():
    def total(agent, view=None):
        game = WisconsinCardSortingEnv()
        return np.mean(
            [
                run(
                    agent(i), game, 100, seed=i, view=view and game.action_set
                ).rewards.sum()
                for i in range(10)
            ]
        )

    ours = np.mean(
        [
            ContextualRepresentationBandit(candidates=np.eye(3), random_state=i)
            .simulate(WisconsinCardSortingEnv(), seed=i)
            .rewards.sum()
            for i in range(10)
        ]
    )
    assert ours > 90
    assert total(lambda i: TabularQAgent(random_state=i)) < 45
    assert total(lambda i: DQNAgent(random_state=i)) < 50
    assert total(lambda i: RandomPolicy(i), view=True) < 35
