"""The game, the pattern that it plays, the policies and the loop between them."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_attn.bandits import (
    DependencePattern,
    ExploreThenCommit,
    LinUCB,
    LongHorizonBandit,
    RandomPolicy,
    run,
)


class Best:
    """A policy that knows the pattern."""

    def __init__(self, pattern):
        self.pattern = pattern

    def act(self, contexts):
        return int((contexts @ self.pattern.total).argmax())

    def observe(self, reward):
        pass


PATTERN = DependencePattern.rank_one([0, 0.5, 0, 0, 0.5], [0.6, 0.8])


# the pattern


def test_a_pattern_of_rank_one_has_its_parts():
    pattern = DependencePattern.rank_one([0, -1, 0, 3], [0, 2])
    assert pattern.support.tolist() == [1, 3]
    assert pattern.n_features == 2
    np.testing.assert_array_equal(pattern.total, [0, 4])
    np.testing.assert_array_equal(pattern.theta, [0, 1])
    np.testing.assert_array_equal(pattern.lag_weights, [0, -2, 0, 6])
    np.testing.assert_array_equal(pattern.coef_matrix[[1, 3]], pattern.blocks)
    np.testing.assert_array_equal(pattern.within(2), [0, -2])
    np.testing.assert_array_equal(pattern.within(), pattern.total)


def test_weights_that_cancel_have_the_sign_of_the_first():
    pattern = DependencePattern.rank_one([0.3, 0.1, -0.4], [-3, 4])
    np.testing.assert_allclose(pattern.theta, [-0.6, 0.8])
    np.testing.assert_allclose(pattern.lag_weights, [1.5, 0.5, -2.0])
    nothing = DependencePattern.rank_one([0, 0], [1, 2])
    np.testing.assert_array_equal(nothing.theta, [0, 0])
    assert nothing.learnable_lag() == 0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(n=st.integers(1, 9), n_past=st.integers(0, 6), seed=st.integers(0, 99))
def test_rewards_are_the_sum_over_lags(n, n_past, seed):
    rng = np.random.RandomState(seed)
    past, X = rng.standard_normal((n_past, 2)), rng.standard_normal((n, 2))
    everything = np.concatenate([past, X])
    expected = [
        sum(
            PATTERN.coef_matrix[j] @ everything[n_past + t - j]
            for j in range(5)
            if n_past + t >= j
        )
        for t in range(n)
    ]
    np.testing.assert_allclose(PATTERN.rewards(X, past), expected, atol=1e-12)


def test_a_sequence_shorter_than_its_lags_has_no_rewards_yet():
    late = DependencePattern.rank_one([0.0] * 7 + [1.0], [1.0])
    for n in (1, 3, 5):
        np.testing.assert_array_equal(late.rewards(np.ones((n, 1))), np.zeros(n))
    assert late.rewards(np.ones((3, 1)), past=np.ones((5, 1))).tolist() == [0, 0, 1]


def test_learning_can_begin_where_half_of_the_norm_has_been_seen():
    weights = np.zeros(300)
    weights[[20, 60, 100, 150]] = [0.1, 0.2, 0.3, 0.4]
    pattern = DependencePattern.rank_one(weights, [1.0])
    # norms of the first lags: .1, .22, .37 of .55
    assert pattern.learnable_lag() == 100
    assert pattern.learnable_lag(0.1) == 20
    assert pattern.learnable_lag(1.0) == 150


@pytest.mark.parametrize(
    ("weights", "theta", "match"),
    [
        ([], [1.0], "lag_weights must be finite, of one axis and not empty"),
        ([[1.0]], [1.0], r"got shape \(1, 1\)"),
        ([1.0], [np.nan], "theta must be finite"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(weights, theta, match):
    with pytest.raises(ValueError, match=match):
        DependencePattern.rank_one(weights, theta)


@pytest.mark.parametrize(
    ("support", "blocks", "match"),
    [
        (
            [1, 0],
            np.zeros((2, 2)),
            r"Lags must rise.*less than horizon=5; got \[1, 0\]",
        ),
        ([5], np.zeros((1, 2)), "less than horizon=5"),
        ([-1], np.zeros((1, 2)), "rise from 0"),
        ([1], np.zeros((2, 2)), r"got \(2, 2\) and \(1,\)"),
        ([1], np.zeros(2), "blocks must have shape"),
    ],
)
def test_lags_that_are_none_are_refused(support, blocks, match):
    with pytest.raises(ValueError, match=match):
        DependencePattern(np.array(support), blocks, 5)


def test_patterns_can_be_told_apart_and_kept_in_sets():
    other = DependencePattern.rank_one([0, 0.5, 0, 0, 0.5], [0.6, 0.8])
    assert other != PATTERN  # as objects: they hold arrays
    assert len({PATTERN, other, PATTERN}) == 2


# the game


def test_rewards_and_regret_are_what_the_pattern_says():
    game = LongHorizonBandit(PATTERN, n_arms=3, noise_std=0.0)
    contexts, _ = game.reset(seed=0)
    chosen, best, rewards, regrets = [], [], [], []
    rng = np.random.RandomState(0)
    for _ in range(30):
        arm = rng.randint(3)
        optimal = int((contexts @ PATTERN.total).argmax())
        chosen.append(contexts[arm])
        best.append(contexts[optimal])
        contexts, reward, terminated, truncated, info = game.step(arm)
        assert info["optimal_action"] == optimal
        assert (terminated, truncated) == (False, False)
        rewards.append(reward)
        regrets.append(info["regret"])
    np.testing.assert_allclose(rewards, PATTERN.rewards(chosen), atol=1e-12)
    missed = PATTERN.rewards(best) - PATTERN.rewards(chosen)
    np.testing.assert_allclose(regrets, missed, atol=1e-12)


def test_nothing_is_missed_by_who_knows():
    result = run(Best(PATTERN), LongHorizonBandit(PATTERN), 50, seed=0)
    np.testing.assert_array_equal(result.regret, np.zeros(50))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    weights=st.lists(st.floats(0, 2), min_size=1, max_size=6),
    seed=st.integers(0, 50),
)
def test_regret_is_never_negative(weights, seed):
    pattern = DependencePattern.rank_one(weights, [0.6, 0.8])
    game = LongHorizonBandit(pattern, n_arms=3)
    regret = run(RandomPolicy(seed), game, 40, seed=seed).regret
    assert (np.diff(regret, prepend=0) >= -1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_with_weights_of_both_signs_the_whole_game_is_never_won(seed):
    # the best arm depends on what is left of the game
    pattern = DependencePattern.rank_one([0, 1.0, 0, -0.4, 0, -0.9], [1.0])
    game = LongHorizonBandit(pattern, n_arms=3, n_rounds=40)
    for policy in (RandomPolicy(seed), Best(pattern)):
        assert run(policy, game, 40, seed=seed).regret[-1] >= -1e-12
    late = run(Best(pattern), game, 40, seed=seed).regret
    # who does not see the end coming misses something, and only there
    np.testing.assert_allclose(late[:30], 0, atol=1e-12)
    assert late[-1] > 0


def test_noise_has_its_size_and_seeds_repeat():
    def rewards(seed):
        pattern = DependencePattern.rank_one([0.0], [1.0])
        return run(
            RandomPolicy(0), LongHorizonBandit(pattern, noise_std=2.0), 4000, seed=seed
        ).rewards

    first = rewards(0)
    np.testing.assert_array_equal(first, rewards(0))
    assert not np.array_equal(first, rewards(1))
    # standard error of a standard deviation: 2 / sqrt(8000); four of them
    assert first.std() == pytest.approx(2, abs=4 * 2 / np.sqrt(8000))


def test_the_game_ends_after_its_rounds():
    game = LongHorizonBandit(PATTERN, n_rounds=7)
    assert len(run(RandomPolicy(0), game, 100, seed=0).rewards) == 7


def test_contexts_come_from_where_they_are_said_to():
    given_ones = np.arange(12.0).reshape(3, 2, 2)
    game = LongHorizonBandit(PATTERN, n_arms=2, contexts=given_ones)
    seen = [game.reset()[0]] + [game.step(0)[0] for _ in range(4)]
    np.testing.assert_array_equal(seen, given_ones[[0, 1, 2, 0, 1]])
    game = LongHorizonBandit(
        PATTERN, n_arms=2, contexts=lambda rng, shape: rng.uniform(5, 6, shape)
    )
    contexts, _ = game.reset(seed=0)
    assert contexts.shape == (2, 2)
    assert (contexts >= 5).all()


def test_a_game_goes_on_from_what_it_has_shown():
    game, again = LongHorizonBandit(PATTERN), LongHorizonBandit(PATTERN)
    policy, other = RandomPolicy(0), RandomPolicy(0)
    whole = run(policy, game, 60, seed=0)
    first = run(other, again, 25, seed=0)
    second = run(other, again, 35, observation=first.observation)
    np.testing.assert_array_equal(
        np.concatenate([first.rewards, second.rewards]), whole.rewards
    )
    with pytest.raises(ValueError, match="seed is for the reset"):
        run(policy, game, 5, seed=0, observation=whole.observation)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_arms": 0}, "n_arms and n_rounds must be 1 or more"),
        ({"noise_std": -1}, "noise_std 0 or more"),
        ({"n_rounds": 0}, "must be 1 or more"),
        ({"contexts": np.zeros((4, 10, 3))}, r"finite, of shape \(n, 10, 2\)"),
        ({"contexts": np.full((4, 10, 2), np.nan)}, "must be finite"),
    ],
)
def test_games_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        LongHorizonBandit(PATTERN, **options)


def test_moves_that_make_no_sense_are_refused():
    game = LongHorizonBandit(PATTERN, n_arms=2)
    with pytest.raises(ValueError, match=r"Call reset\(\) before step"):
        game.step(0)
    game.reset(seed=0)
    for action in (2, -1, 0.5):
        with pytest.raises(ValueError, match="action must be one of 2 arms"):
            game.step(action)
    short = LongHorizonBandit(PATTERN, n_rounds=1)
    short.reset(seed=0)
    short.step(0)
    with pytest.raises(ValueError, match="game of 1 rounds is over"):
        short.step(0)
    odd = LongHorizonBandit(PATTERN, contexts=lambda rng, shape: np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"numbers of shape \(10, 2\)"):
        odd.reset()
    for n_rounds in (0, -3, 2.5):
        with pytest.raises(ValueError, match="n_rounds must be a positive integer"):
            run(RandomPolicy(), game, n_rounds)


def test_what_a_game_shows_is_nobodys_but_the_players():
    given_ones = np.arange(12.0).reshape(3, 2, 2)
    game = LongHorizonBandit(PATTERN, n_arms=2, contexts=given_ones, noise_std=0)
    shown, _ = game.reset()
    shown *= 0
    np.testing.assert_array_equal(given_ones, np.arange(12.0).reshape(3, 2, 2))
    shown, *_ = game.step(1)
    shown *= 0
    _, reward, *_ = game.step(0)
    assert reward == PATTERN.rewards([[2.0, 3.0], [4.0, 5.0]])[1]


def test_policies_want_an_action_and_a_number():
    for policy in (LinUCB(), ExploreThenCommit()):
        with pytest.raises(ValueError, match=r"call act\(\) first"):
            policy.observe(1.0)
        policy.act(np.eye(2))
        with pytest.raises(ValueError, match="must be finite; got nan"):
            policy.observe(np.nan)


@pytest.mark.filterwarnings("ignore:.*Box observation space")  # normal numbers
def test_gymnasium_accepts_the_game():
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    environment = LongHorizonBandit(PATTERN, n_rounds=50).to_gymnasium()
    assert isinstance(environment, gymnasium.Env)
    check_env(environment, skip_render_check=True)
    result = run(RandomPolicy(0), environment, 10, seed=0)
    expected = run(RandomPolicy(0), LongHorizonBandit(PATTERN), 10, seed=0)
    np.testing.assert_array_equal(result.rewards, expected.rewards)


def test_the_game_needs_no_gymnasium(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    game = LongHorizonBandit(PATTERN)
    assert len(run(RandomPolicy(0), game, 5, seed=0).rewards) == 5
    with pytest.raises(ImportError):
        game.to_gymnasium()


# the policies


def immediate(noise_std=0.3):
    pattern = DependencePattern.rank_one([1.0], [0.6, 0.8, 0.0])
    return LongHorizonBandit(pattern, n_arms=5, noise_std=noise_std)


def test_policies_learn_what_pays_at_once():
    random, ucb, commit = (
        np.mean([run(policy(i), immediate(), 500, seed=i).regret for i in range(3)], 0)
        for policy in (
            RandomPolicy,
            lambda i: LinUCB(),
            lambda i: ExploreThenCommit(50, random_state=i),
        )
    )
    assert ucb[-1] < 0.1 * random[-1]
    assert commit[-1] < 0.25 * random[-1]
    np.testing.assert_allclose(commit[49], random[49], rtol=0.4)
    # half of the game is as good as lossless
    assert ucb[-1] - ucb[249] < 0.02 * random[-1]
    assert commit[-1] - commit[249] < 0.05 * random[-1]


def test_doubt_draws_towards_what_is_unknown():
    contexts = np.eye(2)
    bold, timid = LinUCB(alpha=5.0), LinUCB(alpha=0.0)
    for policy in (bold, timid):
        assert policy.act(contexts) == 0
        policy.observe(1.0)
    assert (bold.act(contexts), timid.act(contexts)) == (1, 0)
    stubborn = LinUCB(alpha=0.0, ridge=100.0)
    stubborn.act(contexts)
    stubborn.observe(1.0)
    np.testing.assert_allclose(stubborn._model.theta, [1 / 101, 0])


def test_what_was_committed_to_is_ridge_regression():
    policy = ExploreThenCommit(30, ridge=2.0, random_state=0)
    rng = np.random.RandomState(0)
    X, y = [], []
    for t in range(40):
        contexts = rng.standard_normal((4, 3))
        arm, reward = policy.act(contexts), rng.standard_normal()
        policy.observe(reward)
        if t < 30:
            X.append(contexts[arm])
            y.append(reward)
        else:
            assert arm == (contexts @ policy._model.theta).argmax()
    X, y = np.array(X), np.array(y)
    expected = np.linalg.solve(X.T @ X + 2 * np.eye(3), X.T @ y)
    np.testing.assert_allclose(policy._model.theta, expected)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LinUCB(alpha=-1), "alpha must be 0 or more, ridge positive"),
        (lambda: LinUCB(ridge=0), "ridge positive; got 1.0 and 0"),
        (lambda: ExploreThenCommit(0), "n_explore and ridge must be positive"),
    ],
)
def test_policies_that_make_no_sense_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
