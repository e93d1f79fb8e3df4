"""Both faces of ContextualRepresentationBandit: tables of tasks, and play."""

import io
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.bandits import (
    ContextSwitchingBandit,
    ContextualRepresentationBandit,
    LinUCB,
    TaskSequence,
    WisconsinCardSortingEnv,
    run,
)
from sklearn_attn.bandits._cycles import Schedule
from sklearn_attn.bandits._rule_search import RuleSearch
from sklearn_attn.datasets import make_context_tasks

RULES = np.eye(3)


@pytest.fixture(scope="module")
def table():
    X, y, tasks, true = make_context_tasks(
        [20, 15], 40, 8, ranks=[2, 3], intercepts=5.0, random_state=0, return_tasks=True
    )
    return X, y, tasks, true


def fitted(table, **options):
    return ContextualRepresentationBandit(**options).fit(*table[:3])


def sine(B, true):
    assert B.shape == true.shape
    return np.linalg.norm(B - B @ true.T @ true, 2)


# tables


def test_tasks_contexts_and_constants_are_found(table):
    X, y, tasks, true = table
    model = fitted(table)
    assert model.context_starts_.tolist() == [0, 20]
    assert model.n_components_ == 3
    assert sine(model.components_, true.components[1]) < 0.05
    for B, expected in zip(model.context_components_, true.components):
        assert sine(B, expected) < 0.05
    assert np.abs(model.task_coef_ - true.coef).max() < 0.1
    assert model.task_ids_ == list(range(35))
    assert model.noise_std_ == pytest.approx(0.1, rel=0.05)
    rest = y - (X * true.coef[tasks]).sum(1)
    means = [rest[tasks == s].mean() for s in range(35)]
    assert np.abs(model.task_intercept_ - means).max() < 0.1
    singular = np.linalg.svd(true.coef[20:])[1][:3]
    np.testing.assert_allclose(model.singular_values_, singular, rtol=0.05)


def test_sharing_halves_the_error_of_coefficients():
    ratios = []
    for seed in range(5):
        X, y, tasks, true = make_context_tasks(
            [40], 40, 20, ranks=[2], noise=0.5, random_state=seed, return_tasks=True
        )
        model = ContextualRepresentationBandit().fit(X, y, tasks)
        own = [Ridge(1e-6).fit(X[tasks == s], y[tasks == s]).coef_ for s in range(40)]
        errors = [np.linalg.norm(c - true.coef) for c in (model.task_coef_, own)]
        ratios.append(errors[0] / errors[1])
    # of 20 coefficients 2 are left, and .9 of doubt about the subspace: sqrt(2.9 / 20)
    assert np.max(ratios) < 0.5


def test_without_labels_it_is_ridge_regression(table):
    X, y, *_ = table
    model = ContextualRepresentationBandit(ridge=0.1).fit(X, y)
    alpha = 0.1 * len(X) * X.var(0).mean()
    expected = Ridge(alpha).fit(X, y)
    np.testing.assert_allclose(model.task_coef_[0], expected.coef_, rtol=1e-6)
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=1e-6)
    assert model.task_ids_ == [0]
    assert model.n_components_ == 1


def test_predictions_are_of_the_task_that_is_named(table):
    X, y, tasks, _ = table
    model = fitted(table)
    by_row = model.predict(X, task=tasks)
    for s in (0, 7, 34):
        mine = tasks == s
        np.testing.assert_allclose(by_row[mine], model.predict(X[mine], task=s))
    np.testing.assert_array_equal(model.predict(X), model.predict(X, task=34))
    assert model.score(X, y, task=tasks) > 0.99
    assert model.score(X, y) < 0.5
    weight = (tasks == 34).astype(float)
    assert model.score(X, y, weight) > 0.98  # of the latest task


def test_a_task_may_be_called_minus_one(table):
    X, y, *_ = table
    tasks = np.repeat([-1, 3], [700, 700])
    model = ContextualRepresentationBandit().fit(X, y, tasks)
    np.testing.assert_array_equal(
        model.predict(X), model.predict(X, task=np.full(1400, -1))
    )
    assert not np.array_equal(model.predict(X), model.predict(X, task=3))


@pytest.mark.parametrize("labels", [str, float])
def test_labels_are_kept_as_they_came(table, labels):
    X, y, tasks, _ = table
    named = np.array([labels(s) for s in tasks])
    model = ContextualRepresentationBandit().fit(X, y, named)
    assert model.task_ids_ == [labels(s) for s in range(35)]
    assert model.score(X, y, task=named) > 0.99


def test_tasks_follow_each_other_as_their_first_rows_do(table):
    X, y, tasks, _ = table
    order = np.argsort(np.arange(len(y)) % 40, kind="stable")  # all tasks in turn
    one, other = (
        fitted(table),
        ContextualRepresentationBandit().fit(X[order], y[order], tasks[order]),
    )
    assert other.task_ids_ == one.task_ids_
    np.testing.assert_allclose(other.task_coef_, one.task_coef_, atol=1e-8)


def test_ids_in_a_column_are_those_of_the_argument(table):
    X, y, tasks, _ = table
    both = np.column_stack([X[:, :3], tasks, X[:, 3:]])
    frame = pd.DataFrame(both, columns=[*"abc", "task", *"defgh"])
    expected = fitted(table)
    for data, column in ((both, 3), (both, -6), (frame, "task")):
        model = ContextualRepresentationBandit(task_column=column).fit(data, y)
        np.testing.assert_allclose(model.task_coef_, expected.task_coef_, atol=1e-12)
        np.testing.assert_allclose(
            model.predict(data), expected.predict(X, task=tasks), atol=1e-12
        )
        np.testing.assert_allclose(
            model.transform(data), expected.transform(X), atol=1e-12
        )
    assert model.n_features_in_ == 9


def test_it_is_searched_over_with_ids_in_a_column():
    X, y, tasks = make_context_tasks([40], 30, 20, ranks=[3], noise=1.0, random_state=0)
    rows = np.column_stack([tasks, X])
    search = GridSearchCV(
        ContextualRepresentationBandit(task_column=0),
        {"n_components": [1, 3, 10]},
        cv=[
            (np.flatnonzero(np.arange(1200) % 3 != k), np.arange(k, 1200, 3))
            for k in range(3)
        ],
    ).fit(rows, y)
    assert search.best_params_ == {"n_components": 3}
    pooled = cross_val_score(Ridge(), X, y, cv=search.cv).mean()
    assert search.best_score_ > pooled + 0.2


def test_ids_are_routed_through_a_pipeline(table):
    X, y, tasks, _ = table
    with sklearn.config_context(enable_metadata_routing=True):
        model = make_pipeline(StandardScaler(), ContextualRepresentationBandit())
        model.fit(X, y, tasks=tasks)
        assert model.score(X, y, task=tasks) > 0.99
        assert model.predict(X, task=tasks).shape == y.shape


def test_transform_shows_the_representation(table):
    X, _, _, _ = table
    model = fitted(table)
    np.testing.assert_allclose(model.transform(X), X @ model.components_.T)
    names = model.get_feature_names_out()
    assert names.tolist() == [f"contextualrepresentationbandit{i}" for i in range(3)]
    model.set_output(transform="pandas")
    assert list(model.transform(X).columns) == names.tolist()


@pytest.mark.parametrize("sizes", [[1400], [60, 1340], [1, 399, 13, 987]])
def test_fitting_in_parts_is_fitting_at_once(table, sizes):
    X, y, tasks, _ = table
    model = ContextualRepresentationBandit()
    for part in np.split(np.arange(1400), np.cumsum(sizes)[:-1]):
        model.partial_fit(X[part], y[part], tasks[part])
    expected = fitted(table)
    assert model.context_starts_.tolist() == expected.context_starts_.tolist()
    np.testing.assert_allclose(model.task_coef_, expected.task_coef_, atol=1e-8)
    np.testing.assert_allclose(model.components_, expected.components_, atol=1e-8)


def test_rows_without_labels_go_on_with_the_latest_task(table):
    X, y, tasks, _ = table
    model = fitted(table)
    model.partial_fit(X[:5], y[:5])
    more = np.concatenate([tasks, np.full(5, 34)])
    expected = ContextualRepresentationBandit().fit(
        np.concatenate([X, X[:5]]), np.concatenate([y, y[:5]]), more
    )
    np.testing.assert_allclose(model.task_coef_, expected.task_coef_, atol=1e-8)


# what each parameter does


def test_n_components_is_the_dimension(table):
    assert fitted(table, n_components=1).components_.shape == (1, 8)


def test_more_components_than_tasks_cost_a_warning(table):
    X, y, tasks, _ = table
    part = tasks < 2
    model = ContextualRepresentationBandit(n_components=4)
    with pytest.warns(UserWarning, match="2 tasks span only 2") as caught:
        model.fit(X[part], y[part], tasks[part])
    assert caught[0].filename == __file__
    assert model.n_components_ == 2


def test_more_detection_level_more_outliers(table):
    strict, loose = (fitted(table, detection_level=level) for level in (1e-6, 0.5))
    assert (strict.outlier_scores_ > 1).sum() < (loose.outlier_scores_ > 1).sum()


def test_gamma_is_the_share_of_the_papers_detector(table):
    narrow, wide = (
        fitted(table, detector="paper", gamma=gamma).outlier_scores_
        for gamma in (0.5, 2.0)
    )
    first = slice(4, 6)  # before the first outlier of either
    np.testing.assert_allclose(narrow[first], 4 * wide[first], rtol=1e-6)


def test_the_noise_may_be_given(table):
    model = fitted(table, noise_std=100.0)
    assert model.noise_std_ == 100.0
    assert model.context_starts_.tolist() == [0]  # all may be noise


def test_more_consecutive_outliers_are_asked_for(table):
    assert fitted(table, n_consecutive=15).context_starts_.tolist() == [0, 20]
    assert fitted(table, n_consecutive=16).context_starts_.tolist() == [0]


def test_a_larger_tolerance_leaves_fewer_directions(table):
    assert fitted(table, eig_tol=0.9).n_components_ < 3


def test_tasks_per_cycle_are_the_least_to_learn_from(table):
    scores = fitted(table, tasks_per_cycle=10).outlier_scores_
    assert np.isnan(scores[:10]).all()
    assert not np.isnan(scores[10:20]).any()


def test_too_few_iterations_cost_a_warning():
    X, y, tasks = make_context_tasks([30], 12, 20, ranks=[3], random_state=0)
    model = ContextualRepresentationBandit(3, max_iter=1, tol=0.0)
    with pytest.warns(ConvergenceWarning, match="max_iter=1") as caught:
        model.fit(X, y, tasks)
    assert caught[0].filename == __file__
    assert model.n_iter_ == 1
    more = ContextualRepresentationBandit(3, max_iter=500, tol=1e-3).fit(X, y, tasks)
    most = ContextualRepresentationBandit(3, max_iter=500, tol=1e-9).fit(X, y, tasks)
    assert 1 < more.n_iter_ < most.n_iter_
    assert most.loss_curve_[-1] < more.loss_curve_[-1] < model.loss_curve_[-1]


def test_without_intercept_there_is_none(table):
    model = fitted(table, fit_intercept=False)
    assert not model.task_intercept_.any()


def test_candidates_are_chosen_for_each_task(table):
    rng = np.random.RandomState(0)
    candidates = rng.standard_normal((3, 8))
    which = np.array([0, 0, 1, 1, 1, 2])
    tasks = np.repeat(np.arange(6), 10)
    X = rng.standard_normal((60, 8))
    y = (X * candidates[which][tasks]).sum(1) + rng.standard_normal(60)
    model = ContextualRepresentationBandit(candidates=candidates).fit(X, y, tasks)
    np.testing.assert_array_equal(model.task_coef_, candidates[which])
    assert model.context_starts_.tolist() == [0, 2, 5]
    np.testing.assert_array_equal(model.components_, candidates[[2]])
    assert not model.task_intercept_.any()  # nothing is left to learn but which
    assert model.noise_std_ == pytest.approx(1.0, abs=0.2)


def test_precision_and_device_are_those_of_the_input(table):
    X, y, tasks, _ = table
    model = ContextualRepresentationBandit(device="cpu")
    single = model.fit(X.astype(np.float32), y.astype(np.float32), tasks)
    assert single.predict(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(single.task_coef_, fitted(table).task_coef_, atol=1e-4)
    with pytest.raises(ValueError, match="'cuda:9' is not available"):
        clone(model).set_params(device="cuda:9").fit(X, y)


@pytest.mark.gpu
def test_sums_on_the_gpu_are_those_on_the_cpu(table):
    on_gpu = fitted(table, device="cuda")
    np.testing.assert_allclose(
        on_gpu.task_coef_, fitted(table).task_coef_, rtol=1e-7, atol=1e-9
    )


def test_far_from_zero_nothing_is_lost(table):
    X, y, tasks, _ = table
    model = ContextualRepresentationBandit().fit(X + 1e6, y - 1e6, tasks)
    np.testing.assert_allclose(model.task_coef_, fitted(table).task_coef_, atol=1e-5)


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 9}, "9 components are more than the 8 features"),
        ({"candidates": np.eye(3)}, "candidates have 3 features.*have 8"),
        ({"candidates": np.eye(8)[:1]}, "two candidates or more"),
        ({"candidates": [[np.nan] * 8, [0.0] * 8]}, "candidates contains NaN"),
        ({"task_column": 8}, "no column 8"),
        ({"task_column": "a"}, "no column 'a'"),
        ({"detector": "f"}, "detector"),
        ({"hazard": 0.0}, "hazard"),
        ({"flip_rate": 0.5}, "flip_rate"),
        ({"n_probe": 1}, "n_probe"),
    ],
)
def test_settings_that_do_not_fit_are_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        ContextualRepresentationBandit(**options).fit(table[0], table[1])


def test_ids_that_are_no_labels_are_refused(table):
    X, y, tasks, _ = table
    model = ContextualRepresentationBandit()
    with pytest.raises(ValueError, match=r"tasks must have shape \(1400,\)"):
        model.fit(X, y, tasks[:-1])
    with pytest.raises(ValueError, match="tasks contains NaN"):
        model.fit(X, y, np.where(tasks == 3, np.nan, tasks))
    with pytest.raises(ValueError, match="named twice"):
        model.set_params(task_column=0).fit(X, y, tasks)


def test_tasks_that_were_not_seen_are_refused(table):
    X, y, tasks, _ = table
    model = fitted(table)
    before = model.task_coef_
    for task in (35, "a", np.where(tasks == 3, 99, tasks)):
        with pytest.raises(ValueError, match=r"not seen\. Known are 0, 1, 2, 3, 4,"):
            model.predict(X, task=task)
    with pytest.raises(ValueError, match="was not seen"):
        model.score(X, y, task=35)
    with pytest.raises(ValueError, match=r"shape \(1400,\)"):
        model.predict(X, task=tasks[:3])
    np.testing.assert_array_equal(model.task_coef_, before)
    both = np.column_stack([tasks, X])
    model = ContextualRepresentationBandit(task_column=0).fit(both, y)
    both[0, 0] = 77
    with pytest.raises(ValueError, match=r"Task 77.0 was not seen"):
        model.predict(both)
    with pytest.raises(ValueError, match="named by the column 0"):
        model.predict(both, task=3)


def test_before_anything_is_known_there_is_nothing_to_predict():
    model = ContextualRepresentationBandit()
    with pytest.raises(NotFittedError):
        model.predict(np.zeros((1, 2)))
    model.new_task(2)
    with pytest.raises(NotFittedError):
        model.transform(np.zeros((1, 2)))


# play


def game(n_tasks=(30, 20), ranks=(2, 2), seed=0, d=6, **options):
    tasks = TaskSequence.random(n_tasks, ranks, d, random_state=seed)
    return tasks, ContextSwitchingBandit(
        tasks, **{"rounds_per_task": 200, "noise_std": 0.1} | options
    )


def player(**options):
    return ContextualRepresentationBandit(
        **{"rounds_per_task": 200, "random_state": 0} | options
    )


def play_by_hand(model, environment, seed):
    """Play round by round, and return the regret of each task."""
    _, info = environment.reset(seed=seed)
    model.new_task(environment.n_features)
    over = False
    while not over:
        action = model.act()
        _, reward, _, over, info = environment.step(action)
        model.observe(reward)
        if info["new_task"]:
            model.new_task()
    return environment.task_regret


@pytest.mark.parametrize("announce", [True, False])
def test_playing_in_blocks_is_playing_round_by_round(announce):
    options = {"task_switch": "known" if announce else "detect"}
    _, environment = game(announce=announce)
    by_hand = player(**options)
    slow = play_by_hand(by_hand, environment, 3).copy()
    in_blocks = player(**options)
    fast = in_blocks.simulate(environment, seed=3)
    np.testing.assert_allclose(fast.task_regret, slow, atol=1e-9)
    np.testing.assert_allclose(in_blocks.task_coef_, by_hand.task_coef_, atol=1e-9)
    assert in_blocks.task_starts_.tolist() == by_hand.task_starts_.tolist()
    assert in_blocks.context_starts_.tolist() == by_hand.context_starts_.tolist()
    assert in_blocks.n_seen_ == by_hand.n_seen_ == environment.n_rounds


def test_play_finds_the_change_of_context_and_learns_the_new_one():
    tasks, environment = game()
    model = player()
    result = model.simulate(environment, seed=0)
    assert result.found_changes.tolist() == [33]
    assert model.context_starts_.tolist() == [0, 30]
    assert result.n_false_changes == 0
    assert sine(model.components_, tasks.components[1]) < 0.1
    assert sine(model.context_components_[0], tasks.components[0]) < 0.1
    assert len(model.task_coef_) == 50
    error = np.linalg.norm(model.task_coef_ - tasks.coef, axis=1)
    assert np.median(error) < 0.1
    assert model.noise_std_ == pytest.approx(0.1, rel=0.1)
    probes = np.random.RandomState(0).standard_normal((10, 6))
    np.testing.assert_allclose(
        model.predict(probes, task=49), probes @ tasks.coef[49], atol=0.3
    )


def test_the_phases_of_a_task_are_as_long_as_they_should_be():
    _, environment = game([30], [2])
    model = player(n_probe=7, explore_scale=0.5, transfer_scale=2.0)
    environment.reset(seed=0)
    phases = [[]]
    model.new_task(6)
    for _ in range(12 * 200):
        phases[-1].append(model.phase_)
        *_, info = (step := environment.step(model.act()))
        model.observe(step[1])
        if info["new_task"]:
            model.new_task()
            phases.append([])
    # d sqrt(N) / 2 = 42.4, 2 r sqrt(N) = 56.6
    first, fifth, sixth = phases[0], phases[4], phases[5]
    assert (first.count("probe"), first.count("explore")) == (0, 43)
    assert (fifth.count("probe"), fifth.count("transfer")) == (7, 57)
    assert fifth.count("explore") == 0  # cycle 1 has one such task
    assert (sixth.count("probe"), sixth.count("explore")) == (7, 43)
    kinds = "".join("T" if "transfer" in task else "E" for task in phases[:12])
    assert kinds == "EEEETEEEETTE"
    assert model.cycle_ == 3


def test_a_cycle_has_as_many_tasks_of_exploration_as_asked_for():
    _, environment = game([20], [1])
    model = player(tasks_per_cycle=6)
    environment.reset(seed=0)
    scores = []
    model.simulate(environment, seed=0)
    scores = model.outlier_scores_
    assert np.isnan(scores[:6]).all()
    assert not np.isnan(scores[6:]).any()


def test_actions_have_the_radius():
    _, environment = game([12], [2], radius=3.0)
    model = player(radius=3.0)
    environment.reset(seed=0)
    model.new_task(6)
    norms = []
    for _ in range(300):
        action = model.act()
        norms.append(np.linalg.norm(action))
        model.observe(environment.step(action)[1])
    np.testing.assert_allclose(norms, 3.0)


def test_it_plays_with_sets_of_actions():
    tasks, environment = game([30], [2], n_actions=8)
    model = player()
    ours = model.simulate(environment, seed=0).regret
    by_task = environment.task_regret.copy()
    blind = run(LinUCB(), environment, environment.n_rounds, seed=0).regret
    assert ours[-1] < 0.5 * blind[-1]
    kinds = np.array(list("EEEETEEEETTEEEETTTEEEETTTTEEEE"))
    assert by_task[kinds == "T"].mean() < 0.6 * by_task[kinds == "E"].mean()
    assert sine(model.components_, tasks.components[0]) < 0.1


def test_a_change_is_found_with_sets_of_actions_too():
    _, environment = game(n_actions=8)
    model = player()
    model.simulate(environment, seed=0)
    assert model.context_starts_.tolist() == [0, 30]


def test_switches_that_are_not_announced_are_noticed():
    _, environment = game([60], [2], announce=False, rounds_per_task=300)
    result = player(rounds_per_task=300, task_switch="detect").simulate(
        environment, seed=0
    )
    # tasks that bring the same under the old action cannot be told apart by it
    assert result.missed_switches < 0.35
    assert np.nanmedian(result.switch_delays) < 10
    deaf = player(rounds_per_task=300).simulate(environment, seed=0)
    assert deaf.missed_switches == 1.0
    assert result.average_regret < 0.6 * deaf.average_regret


def test_a_longer_window_takes_longer():
    _, environment = game([60], [2], announce=False, rounds_per_task=300)
    delays = [
        np.nanmedian(
            player(rounds_per_task=300, task_switch="detect", window=window)
            .simulate(environment, seed=0)
            .switch_delays
        )
        for window in (5, 60)
    ]
    assert delays[0] < delays[1]


def test_play_goes_on_where_a_table_ends():
    tasks, environment = game([40], [2])
    X, y, ids = make_context_tasks([1], 1, 6, ranks=[1], random_state=0)
    rng = np.random.RandomState(0)
    X = rng.standard_normal((10 * 30, 6))
    ids = np.repeat(np.arange(10), 30)
    y = (X * tasks.coef[ids]).sum(1) + 0.1 * rng.standard_normal(300)
    model = player().fit(X, y, ids)
    result = model.simulate(environment, seed=0)
    fresh = player().simulate(environment, seed=0)
    # no task needs to be explored in all directions to begin with
    assert result.task_regret[0] < 0.7 * fresh.task_regret[0]
    assert model.task_ids_ == list(range(50))
    assert model.context_starts_.tolist() == [0]
    assert model.n_seen_ == environment.n_rounds


def test_a_table_follows_play_but_does_not_change_it():
    tasks, environment = game([12], [2])
    model = player()
    model.simulate(environment, seed=0)
    played = model.task_coef_
    rng = np.random.RandomState(0)
    X = rng.standard_normal((50, 6))
    y = X @ tasks.coef[0] + 0.1 * rng.standard_normal(50)
    with pytest.raises(ValueError, match="Task 3 was closed"):
        model.partial_fit(X, y, np.full(50, 3))
    model.partial_fit(X, y)
    assert model.task_ids_ == list(range(13))
    np.testing.assert_array_equal(model.task_coef_[:12], played)
    np.testing.assert_allclose(model.task_coef_[12], tasks.coef[0], atol=0.1)
    model.partial_fit(X, y, ["new"] * 50)
    assert model.task_ids_[12:] == [12, "new"]


@pytest.mark.parametrize("store", ["pickle", "joblib"])
@pytest.mark.parametrize("at", [37, 900, 2500])
def test_play_goes_on_after_storing_as_if_nothing_had_been(store, at):
    def play(model, environment, n):
        for _ in range(n):
            action = model.act()
            _, reward, _, _, info = environment.step(action)
            model.observe(reward)
            if info["new_task"]:
                model.new_task()

    _, environment = game([20], [2])
    environment.reset(seed=0)
    model = player().new_task(6)
    play(model, environment, at)
    model.act()
    if store == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        joblib.dump(model, file)
        other = joblib.load(file)
    twin = pickle.loads(pickle.dumps(environment))
    play(model, environment, 1200)
    play(other, twin, 1200)
    np.testing.assert_array_equal(model.task_coef_, other.task_coef_)
    np.testing.assert_array_equal(model.act(), other.act())


def test_play_leaves_the_generators_of_others_alone():
    state = np.random.RandomState(0)
    model = player(random_state=state)
    model.new_task(3)
    before = state.get_state()[1].copy(), torch.get_rng_state()
    for _ in range(300):
        model.act()
        model.observe(0.0)
    np.testing.assert_array_equal(before[0], state.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())


def test_a_task_that_ends_early_is_not_learned_from():
    model = player().new_task(6)
    for _ in range(3):
        model.act()
        model.observe(0.5)
    model.new_task()
    model.new_task()  # the one before had no round
    assert len(model.task_coef_) == 2
    assert model.task_starts_.tolist() == [0, 3]


def test_actions_need_a_task_and_rewards_an_action():
    model = player()
    with pytest.raises(ValueError, match=r"call new_task\(\) first"):
        model.act()
    with pytest.raises(ValueError, match="how many features"):
        model.new_task()
    with pytest.raises(ValueError, match="how many features"):
        model.new_task(0)
    model.new_task(4)
    with pytest.raises(ValueError, match=r"call act\(\) first"):
        model.observe(1.0)
    with pytest.raises(ValueError, match="Actions have 4 features"):
        model.new_task(5)
    with pytest.raises(ValueError, match="n_components=5"):
        player(n_components=5).new_task(4)
    with pytest.raises(ValueError, match="task_column=0"):
        player(task_column=0).new_task(4)


@pytest.mark.parametrize(
    ("action_set", "message"),
    [
        (np.ones((3, 5)), "action_set must have 6 features"),
        (np.ones(6), "action_set must have shape"),
        (np.full((3, 6), np.nan), "action_set contains NaN"),
    ],
)
def test_bad_actions_leave_play_as_it_was(action_set, message):
    _, environment = game([12], [2])
    model = player()
    environment.reset(seed=0)
    model.new_task(6)
    for _ in range(50):
        model.observe(environment.step(model.act())[1])
    twin = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match=message):
        model.act(action_set)
    np.testing.assert_array_equal(model.act(), twin.act())


@pytest.mark.parametrize("reward", [np.nan, np.inf, "much", None])
def test_bad_rewards_leave_play_as_it_was(reward):
    model = player().new_task(6)
    model.act()
    twin = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match="reward must be"):
        model.observe(reward)
    model.observe(0.5)
    twin.observe(0.5)
    assert model.n_seen_ == twin.n_seen_ == 1
    np.testing.assert_array_equal(model.act(), twin.act())


# candidates


@pytest.mark.parametrize("rule", ["random", "cycle", "eliminate", "filter"])
def test_every_way_to_search_finds_the_rule(rule):
    model = ContextualRepresentationBandit(
        candidates=RULES, candidate_rule=rule, random_state=0
    )
    result = model.simulate(WisconsinCardSortingEnv(block=1000), seed=0)
    assert result.rewards[10:].all()
    k = result.info["rule"][0]
    np.testing.assert_array_equal(model.components_, RULES[[k]])
    assert model.phase_ == "commit"
    np.testing.assert_array_equal(model.predict(RULES), RULES[k])


def test_beliefs_are_tasks_and_contexts_of_their_own():
    model = ContextualRepresentationBandit(candidates=RULES, random_state=0)
    result = model.simulate(WisconsinCardSortingEnv(), seed=1)
    assert len(model.task_starts_) == len(model.task_coef_) == len(model.task_ids_)
    assert model.context_starts_.tolist() == list(range(len(model.task_starts_)))
    believed = model.task_coef_.argmax(1)
    ends = [*model.task_starts_[1:], 100]
    for rule, start, end in zip(believed, model.task_starts_, ends):
        if end - start > 15:
            assert result.info["rule"][end - 2] == rule


def test_more_confirmation_stays_longer():
    def errors(**options):
        model = ContextualRepresentationBandit(
            candidates=RULES, random_state=0, **options
        )
        game = WisconsinCardSortingEnv(ambiguous=False)
        return 100 - model.simulate(game, seed=0).rewards.sum()

    for rule in ("random", "cycle", "eliminate"):
        assert errors(candidate_rule=rule, confirm=3) > errors(candidate_rule=rule) + 6


def test_the_filter_may_be_told_of_hazard_and_flips():
    def scores(**options):
        model = ContextualRepresentationBandit(
            candidates=RULES, candidate_rule="filter", random_state=0, **options
        )
        return np.mean(
            [
                model.simulate(
                    WisconsinCardSortingEnv(noise=0.2, n_trials=400), seed=seed
                )
                .info["correct"]
                .mean()
                for seed in range(10)
            ]
        )

    assert scores(hazard=0.05, flip_rate=0.2) > scores(hazard=0.9, flip_rate=0.2) + 0.1
    assert scores(hazard=0.05, flip_rate=0.2) > scores(hazard=0.05, flip_rate=0.0)


def test_rules_of_a_table_are_where_play_begins():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((30, 3))
    model = ContextualRepresentationBandit(candidates=RULES, random_state=0)
    model.fit(X, X[:, 2])
    card = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert model.act(card) == 2
    model.observe(1.0)
    assert model.context_starts_.tolist() == [0]
    assert model.task_ids_ == [0, 1]


def test_candidates_need_actions_and_rewards_in_range():
    model = ContextualRepresentationBandit(candidates=RULES, random_state=0)
    with pytest.raises(ValueError, match="needs the actions to choose from"):
        model.act()
    with pytest.raises(ValueError, match="action_set must have 3 features"):
        model.act(np.ones((4, 2)))
    model.act(np.eye(3))
    with pytest.raises(ValueError, match=r"between 0 and 1; got 2\.0"):
        model.observe(2.0)
    model.observe(1)
    assert model.n_seen_ == 1
    assert model.new_task() is model


def test_a_game_without_end_needs_a_number_of_rounds():
    class Endless:
        def action_set(self, observation):
            return RULES

        def reset(self, seed=None):
            return np.zeros(1), {}

        def step(self, action):
            return np.zeros(1), 1.0, False, False, {}

    model = ContextualRepresentationBandit(candidates=RULES, random_state=0)
    with pytest.raises(ValueError, match="give n_rounds"):
        model.simulate(Endless())
    assert model.simulate(Endless(), 5).rewards.tolist() == [1.0] * 5


def test_nothing_warns_where_there_is_nothing_to_warn_of(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(table)
        player().simulate(game([8], [2])[1], seed=0)


# what a review found


@pytest.mark.parametrize(("d", "r"), [(3, 2), (5, 4)])
def test_a_change_is_found_with_a_single_direction_outside(d, r):
    for seed in range(2):
        _, environment = game([40, 40], [r, r], seed, d, rounds_per_task=300)
        result = player(rounds_per_task=300).simulate(environment, seed=seed)
        assert np.isfinite(result.change_delays).all()
        assert result.n_false_changes == 0


def test_where_all_directions_are_shared_nothing_is_probed():
    _, environment = game([12], [3], d=3)
    model = player(n_components=3)
    model.simulate(environment, seed=0)
    assert np.isnan(model.outlier_scores_).all()
    assert model.cycle_ > 1


def test_outliers_tell_where_to_look_next():
    _, environment = game([30, 20], [2, 2], d=12, rounds_per_task=400)
    model = player(rounds_per_task=400, n_probe=3)
    environment.reset(seed=0)
    model.new_task(12)
    probes = []
    while model._game.n_played < 400 * 31:
        action = model.act()
        if model.phase_ == "probe" and len(model._game._aliens) == 1:
            probes.append(action)
        *_, info = (step := environment.step(action))
        model.observe(step[1])
        if info["new_task"]:
            model.new_task()
    if not probes:
        action = model.act()
        assert model.phase_ == "probe"
        probes.append(action)
    alien = model._game._aliens[0]
    B = model.components_
    outside = alien - B.T @ (B @ alien)
    cosine = abs(probes[0] @ outside) / np.linalg.norm(outside)
    assert cosine == pytest.approx(1.0, abs=1e-9)


def test_probes_of_sets_leave_room_for_the_fit_inside():
    _, environment = game([12], [2], n_actions=8)
    model = player(n_probe=5)
    actions, _ = environment.reset(seed=0)
    model.new_task(6)
    n_probes = 0
    while len(model.task_starts_) < 6:
        action = model.act(actions)
        n_probes += len(model.task_starts_) == 5 and model.phase_ == "probe"
        actions, reward, *_, info = environment.step(action)
        model.observe(reward)
        if info["new_task"]:
            model.new_task()
    assert n_probes == 5 + 2


def test_sets_and_the_ball_may_alternate():
    _, environment = game([12], [2])
    model = player(n_probe=4)
    model.simulate(environment, seed=0)
    model.new_task()
    for _ in range(60):
        model.act(np.eye(6))
        model.observe(0.1)
        model.act()
        model.observe(0.1)
    assert model.phase_ == "commit"


def test_the_level_is_shared_by_the_rounds_of_a_task():
    schedule = [
        Schedule(rounds_per_task=n, level=1e-3).sigmas for n in (10, 1000, 100_000)
    ]
    np.testing.assert_allclose(
        schedule, stats.norm.isf(1e-3 / (2 * np.array([10, 1000, 100_000])))
    )


def test_whole_numbers_are_numbers_under_dispatch():
    X = torch.arange(60).reshape(20, 3) % 7
    y = 1.5 * X[:, 0] + 0.25
    with sklearn.config_context(array_api_dispatch=True):
        model = ContextualRepresentationBandit(ridge=0.0).fit(X, y)
        assert model.predict(X).is_floating_point()
        assert model.transform(X).is_floating_point()
        np.testing.assert_allclose(model.predict(X), y, atol=1e-6)


def test_callbacks_see_models_that_predict(table, tmp_path):
    callback = pytest.importorskip("sklearn.callback")  # came with scikit-learn 1.9
    from sklearn_attn.callbacks import Snapshot

    X, y, tasks, _ = table
    snapshot, monitor = Snapshot(tmp_path), callback.ScoringMonitor(scoring="r2")
    model = ContextualRepresentationBandit(tol=1e-9)
    model.set_callbacks(snapshot, monitor)
    for _ in range(2):  # a model that is fitted, too
        model.fit(X, y, tasks)
    assert model.n_iter_ > 1
    last = snapshot.load("newest")
    assert last.task_ids_ == model.task_ids_
    np.testing.assert_allclose(last.task_coef_, model.task_coef_, atol=1e-4)
    assert last.score(X, y, task=tasks) > 0.99


def test_rules_are_told_apart_though_all_rewards_are_the_same():
    X = np.tile([0.0, 0, 1], (15, 1))
    model = ContextualRepresentationBandit(candidates=RULES).fit(X, np.ones(15))
    np.testing.assert_array_equal(model.components_, RULES[[2]])


def test_candidates_must_promise_rewards_between_0_and_1():
    model = ContextualRepresentationBandit(candidates=5 * RULES, random_state=0)
    with pytest.raises(ValueError, match="0 and 1 under each; got values from 0"):
        model.act(np.eye(3))
    assert not hasattr(model, "_search")


def test_other_candidates_begin_another_search():
    model = ContextualRepresentationBandit(candidates=RULES, random_state=0)
    model.act(np.eye(3))
    model.observe(1.0)
    model.set_params(candidates=RULES[:2])
    model.act(np.eye(3))
    model.observe(0.0)
    assert len(model._search.rules) == 2
    model.act(np.eye(3))
    model.set_params(candidates=None)
    model.observe(1.0)  # of the action that was taken
    model.new_task()
    assert model.act().shape == (3,)
    assert len(model.context_components_) == len(model.context_starts_)


def test_candidates_may_come_before_a_representation_was_learned():
    model = player().new_task(3)
    model.act()
    model.observe(0.5)
    model.set_params(candidates=RULES, candidate_rule="random")
    model.act(np.eye(3))
    model.observe(1.0)
    assert model.task_ids_ == [0, 1]
    assert len(model.context_components_) == 1


def test_games_of_another_width_are_refused_before_a_task_begins():
    model = player()
    model.simulate(game([8], [2])[1], seed=0)
    for options in ({}, {"n_actions": 4}):
        with pytest.raises(ValueError, match=r"game has 9 features.*model has 6"):
            model.simulate(game([8], [2], d=9, **options)[1], seed=0)
    assert len(model.task_coef_) == 8


def test_settings_are_looked_at_when_play_begins(table):
    model = fitted(table).set_params(n_probe=0)
    with pytest.raises(ValueError, match="n_probe"):
        model.new_task()
    with pytest.raises(ValueError, match="task"):
        model.act()
    model.set_params(n_probe=3).new_task()
    assert model.phase_ == "probe"


def test_no_option_is_named_that_does_not_exist():
    model = player().new_task(2)
    model.act()
    with pytest.raises(ValueError, match=r"finite; got nan\.$"):
        model.observe(np.nan)


def test_labels_of_both_kinds_are_named_in_a_list():
    model = player()
    tasks, environment = game([8], [2])
    model.simulate(environment, seed=0)
    X = np.eye(6)
    model.partial_fit(X, X @ tasks.coef[0], ["new"] * 6)
    mixed = ContextualRepresentationBandit().fit(X, X[:, 0], [0, 0, 0, "a", "a", "a"])
    assert mixed.task_ids_ == [0, "a"]
    assert mixed.predict(X[:2], task=[0, "a"]).shape == (2,)
    both = model.predict(X[:2], task=[0, "new"])
    assert both[0] == model.predict(X[:1], task=0)[0]
    assert both[1] == model.predict(X[1:2], task="new")[0]


def test_a_game_that_shows_nothing_usable_is_refused():
    class Blind:
        action_space = None

        def reset(self, seed=None):
            return np.zeros(3), {}

    with pytest.raises(ValueError, match="action_set"):
        player().simulate(Blind(), 5)


def test_who_is_not_told_of_tasks_begins_one_with_each_game():
    _, environment = game([3], [2], announce=False)
    model = player()
    for n in (1, 2):
        model.simulate(environment, 50, seed=0)
        assert len(model.task_starts_) == n


# searching among rules


def search(how, n_rules=3, **options):
    settings = {"confirm": 1, "hazard": "auto", "flip_rate": "auto"} | options
    return RuleSearch(
        np.eye(n_rules), how, rng=np.random.RandomState(0), first=0, **settings
    )


def test_after_all_are_contradicted_only_those_that_agree_with_the_last_are_left():
    rules = search("eliminate")
    assert rules.act(np.eye(3)) == 0
    rules.observe(0.0)  # the first rule no longer holds, and the others may
    np.testing.assert_allclose(rules.probabilities, [0, 0.5, 0.5])


def test_what_no_rule_allows_leaves_all_as_they_were_at_first():
    rules = search("filter", flip_rate=0.0)
    rules.act(np.ones((1, 3)))
    rules.observe(0.0)  # though all three promised a reward
    np.testing.assert_allclose(rules.probabilities, 1 / 3)
    assert not rules.is_sure


@pytest.mark.parametrize("how", ["random", "cycle"])
def test_a_rule_is_believed_in_once_it_was_right(how):
    rules = RuleSearch(np.eye(3), how, 1, "auto", "auto", np.random.RandomState(0))
    assert not rules.is_sure
    rules.act(np.eye(3))
    rules.observe(1.0)
    assert rules.is_sure
    rules.act(np.eye(3))
    rules.observe(0.0)
    assert not rules.is_sure
