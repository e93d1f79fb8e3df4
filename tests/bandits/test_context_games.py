"""Games of tasks, who plays them, and their pictures."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sklearn_attn.bandits import (
    ContextSwitchingBandit,
    ContextualRepresentationBandit,
    SubspacePolicy,
    TaskRegretDisplay,
    TaskSequence,
    TaskSimulationResult,
    run_tasks,
)


def sequence(n_tasks=(4, 3), ranks=(2, 1), d=5, seed=0, **options):
    return TaskSequence.random(n_tasks, ranks, d, random_state=seed, **options)


def test_tasks_of_a_context_lie_in_its_subspace():
    tasks = sequence(norms=(0.5, 2.0))
    assert tasks.context_starts.tolist() == [0, 4]
    assert tasks.contexts.tolist() == [0] * 4 + [1] * 3
    for theta, context in zip(tasks.coef, tasks.contexts):
        B = tasks.components[context]
        np.testing.assert_allclose(B @ B.T, np.eye(len(B)), atol=1e-12)
        np.testing.assert_allclose(theta @ B.T @ B, theta, atol=1e-12)
    norms = np.linalg.norm(tasks.coef, axis=1)
    assert ((norms >= 0.5) & (norms <= 2)).all()
    assert np.ptp(norms) > 0.1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([], []), "1 task or more"),
        (([3], [1, 2]), "as long as each other"),
        (([0], [1]), "1 task or more"),
        (([3], [6], 5), "between 1 and n_features=5"),
    ],
)
def test_tasks_that_cannot_be_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        TaskSequence.random(*args)
    with pytest.raises(ValueError, match="norms"):
        TaskSequence.random([1], [1], norms=(2, 1))


def test_steps_and_blocks_are_the_same_game():
    options = {"rounds_per_task": [3, 5, 2, 7, 4, 4, 6], "noise_std": 0.3}
    one, other = (ContextSwitchingBandit(sequence(), **options) for _ in range(2))
    one.reset(seed=1)
    other.reset(seed=1)
    actions = 0.4 * np.random.RandomState(0).uniform(-1, 1, (31, 5))
    rewards, new_tasks = [], []
    for action in actions:
        _, reward, _, is_over, info = one.step(action)
        rewards.append(reward)
        new_tasks.append(info["new_task"])
    assert is_over
    played, told = [], []
    while len(played) < 31:
        block = other.play(actions[len(played) :])
        played += block.rewards.tolist()
        told += [False] * (len(block.rewards) - 1) + [block.new_task]
    assert block.is_over
    np.testing.assert_allclose(played, rewards, rtol=1e-12)
    assert told == new_tasks
    np.testing.assert_allclose(one.task_regret, other.task_regret, rtol=1e-12)
    assert one.n_left == other.n_left == 0


def test_a_block_may_end_early_and_keeps_the_noise_for_later():
    one, other = (
        ContextSwitchingBandit(sequence(), rounds_per_task=10, announce=False)
        for _ in range(2)
    )
    one.reset(seed=1)
    other.reset(seed=1)
    actions = np.tile([0.5, 0, 0, 0, 0], (70, 1))
    whole = one.play(actions).rewards  # across tasks, which are not announced
    parts = []
    while len(parts) < 70:
        parts += other.play(
            actions[len(parts) :], lambda r: min(9, len(r))
        ).rewards.tolist()
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    np.testing.assert_allclose(one.task_regret, other.task_regret, rtol=1e-12)


def test_regret_is_what_the_best_action_of_the_ball_brings_beyond():
    tasks = sequence()
    game = ContextSwitchingBandit(tasks, rounds_per_task=2, noise_std=0, radius=2.0)
    game.reset(seed=0)
    for s in range(7):
        best = 2 * tasks.coef[s] / np.linalg.norm(tasks.coef[s])
        _, reward, *_, info = game.step(best)
        assert info["regret"] == pytest.approx(0, abs=1e-12)
        assert info["task"] == s
        assert reward == pytest.approx(2 * np.linalg.norm(tasks.coef[s]))
        _, _, *_, info = game.step(np.zeros(5))
        assert info["regret"] == pytest.approx(2 * np.linalg.norm(tasks.coef[s]))


def test_longer_actions_are_shortened():
    tasks = sequence()
    game = ContextSwitchingBandit(tasks, noise_std=0)
    game.reset(seed=0)
    long = game.step(100 * tasks.coef[0])[1]
    assert long == pytest.approx(np.linalg.norm(tasks.coef[0]))
    game.reset(seed=0)
    assert game.play(100 * tasks.coef[:1]).rewards[0] == pytest.approx(long)


def test_regret_among_few_actions_is_relative_to_the_best_of_them():
    tasks = sequence()
    game = ContextSwitchingBandit(tasks, n_actions=4, noise_std=0, radius=3.0)
    actions, _ = game.reset(seed=0)
    np.testing.assert_allclose(np.linalg.norm(actions, axis=1), 3)
    values = actions @ tasks.coef[0]
    _, reward, *_, info = game.step(2)
    assert reward == pytest.approx(values[2])
    assert info["regret"] == pytest.approx(values.max() - values[2])
    with pytest.raises(ValueError, match="play"):
        game.play(actions)
    with pytest.raises(ValueError, match="one of 4 actions"):
        game.step(4)


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("options", [{}, {"n_actions": 3}, {"announce": False}])
def test_it_becomes_an_environment_of_gymnasium(options):
    game = ContextSwitchingBandit(sequence(), rounds_per_task=50, **options)
    check_env(game.to_gymnasium())


def test_who_is_not_told_sees_no_new_task():
    game = ContextSwitchingBandit(sequence(), rounds_per_task=2, announce=False)
    observation, info = game.reset(seed=0)
    assert not info["new_task"]
    assert not observation.any()
    for _ in range(14):
        observation, *_, info = game.step(np.zeros(5))
        assert not info["new_task"]
        assert not observation.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds_per_task": 0}, "rounds_per_task"),
        ({"rounds_per_task": 2.5}, "rounds_per_task"),
        ({"noise_std": -1}, "noise_std"),
        ({"radius": 0}, "radius"),
        ({"n_actions": 0}, "n_actions"),
    ],
)
def test_games_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ContextSwitchingBandit(sequence(), **options)


def test_actions_must_be_vectors_and_a_game_must_have_begun():
    game = ContextSwitchingBandit(sequence(), rounds_per_task=1)
    with pytest.raises(ValueError, match=r"reset\(\)"):
        game.step(np.zeros(5))
    game.reset(seed=0)
    for action in (np.zeros(4), np.full(5, np.nan), 1.0):
        with pytest.raises(ValueError, match="5 finite numbers"):
            game.step(action)
    for _ in range(7):
        game.step(np.zeros(5))
    with pytest.raises(ValueError, match="over"):
        game.step(np.zeros(5))


# who knows a subspace


def test_an_oracle_explores_as_many_rounds_as_it_should():
    tasks = sequence([5], [2])
    game = ContextSwitchingBandit(tasks, rounds_per_task=400, noise_std=1e-6)
    regret = run_tasks(
        SubspacePolicy(tasks.components[0], rounds_per_task=400), game, seed=0
    ).task_regret
    # r sqrt(N) = 40 rounds along both axes, with both signs: nothing is gained
    np.testing.assert_allclose(regret, 40, rtol=1e-6)
    twice = SubspacePolicy(tasks.components[0], rounds_per_task=400, explore_scale=2.0)
    np.testing.assert_allclose(
        run_tasks(twice, game, seed=0).task_regret, 80, rtol=1e-6
    )


def test_a_policy_may_be_told_of_each_task():
    tasks = sequence([4, 4], [1, 1])
    game = ContextSwitchingBandit(tasks, rounds_per_task=400, noise_std=1e-6)
    oracle = SubspacePolicy(
        lambda s: tasks.components[tasks.contexts[s]], rounds_per_task=400
    )
    assert run_tasks(oracle, game, seed=0).average_regret == pytest.approx(20, rel=1e-6)


def test_a_constant_does_not_deceive_who_expects_one():
    rewards = []
    for fit_intercept in (True, False):
        policy = SubspacePolicy(rounds_per_task=25, fit_intercept=fit_intercept)
        policy.new_task(5)
        while policy._best is None:
            actions = policy.plan(1000)
            policy.learn(actions, actions @ np.array([0, 0, 1.0, 0, 0]) + 7)
        rewards.append(policy.plan(1)[0, 2])
    assert rewards[0] == pytest.approx(1.0)


def test_settings_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="explore_scale"):
        SubspacePolicy(explore_scale=0)


# what happened


def result(found_task_starts=(), found_changes=()):
    return TaskSimulationResult(
        np.ones(6),
        np.ones(6),
        np.arange(0, 60, 10),
        np.array([0, 2, 4]),
        np.array([0, *found_task_starts]),
        np.array(found_changes, dtype=int),
    )


def test_delays_and_misses_are_counted():
    some = result([12, 33, 34, 58], [3])
    np.testing.assert_array_equal(some.switch_delays, [2, np.nan, 3, np.nan, 8])
    assert some.missed_switches == 0.4
    np.testing.assert_array_equal(some.change_delays, [1, np.nan])
    assert some.n_false_changes == 0


def test_changes_that_are_none_are_counted():
    assert result(found_changes=[1]).n_false_changes == 1  # before the first
    assert result(found_changes=[2, 3, 5]).n_false_changes == 1  # twice
    assert result(found_changes=[2, 4]).n_false_changes == 0


def test_the_display_marks_what_was_found():
    game = ContextSwitchingBandit(sequence([30, 20], [2, 2], 6), rounds_per_task=200)
    model = ContextualRepresentationBandit(rounds_per_task=200, random_state=0)
    results = {
        "ours": model.simulate(game, seed=0),
        "blind": run_tasks(SubspacePolicy(rounds_per_task=200), game, seed=0),
    }
    display = TaskRegretDisplay.from_results(results)
    ours, blind = (line.get_ydata() for line in display.lines_)
    assert ours[-1] == pytest.approx(results["ours"].task_regret.sum())
    assert ours[-1] < blind[-1]
    (marks,) = (
        line
        for line in display.ax_.lines
        if line.get_marker() == "v" and len(line.get_xdata())
    )
    assert marks.get_xdata().tolist() == [34]  # counted from 1
    assert marks.get_ydata()[0] == ours[33]
    display.plot(cumulative=False)
    np.testing.assert_array_equal(
        display.lines_[0].get_ydata(), results["ours"].task_regret
    )


def test_games_of_other_tasks_are_not_drawn_together():
    with pytest.raises(ValueError, match="0 different"):
        TaskRegretDisplay.from_results({})
    results = {
        str(n): run_tasks(
            SubspacePolicy(), ContextSwitchingBandit(sequence([n], [1])), seed=0
        )
        for n in (1, 2)
    }
    with pytest.raises(ValueError, match="2 different"):
        TaskRegretDisplay.from_results(results)


@pytest.mark.parametrize(
    "actions",
    [np.zeros((3, 4)), np.zeros(5), np.zeros((0, 5)), np.full((2, 5), np.nan)],
)
def test_blocks_of_other_actions_are_refused(actions):
    game = ContextSwitchingBandit(sequence())
    game.reset(seed=0)
    with pytest.raises(ValueError, match=r"of shape \(n, 5\), n > 0"):
        game.play(actions)
    with pytest.raises(ValueError, match="until must say 1 to 2"):
        game.play(np.zeros((2, 5)), lambda rewards: 0)
    assert not game.task_regret.any()


def test_there_are_rounds_for_each_task():
    with pytest.raises(ValueError, match="for each of 7 tasks"):
        ContextSwitchingBandit(sequence(), rounds_per_task=[3, 4])
