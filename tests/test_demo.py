"""The main job runs, writes what it says, and its baselines are sound."""

import re
from pathlib import Path

import demo
import numpy as np
import pandas as pd
import pytest
from demo_jobs import (
    N_SETTINGS,
    attention_svm,
    bilinear,
    chain_of_thought,
    federated,
    in_context,
    long_horizon,
    manifold_ode,
    multipath,
    prompt_attention,
    shared_representation,
)
from demo_jobs.bilinear import converter
from demo_jobs.chain_of_thought import staged_plant
from demo_jobs.federated import rare_digits
from demo_jobs.in_context import few_patients
from demo_jobs.long_horizon import LaggedRegressor, late_digits
from demo_jobs.manifold_ode import macrospin
from demo_jobs.mi_svm import MISVMClassifier
from demo_jobs.multipath import permuted_digits
from demo_jobs.prompt_attention import digit_needles
from demo_jobs.shared_representation import paid_digits
from demo_jobs.tasks import breast_cancer, digit_bags
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import ParameterGrid
from sklearn.utils.estimator_checks import parametrize_with_checks

PIXELS = 64
PICTURES = {
    "comparison.png",
    "attention.png",
    "prompt_attention.png",
    "converter.png",
    "macrospin.png",
    "delays.png",
    "contexts.png",
    "pathways.png",
    "rare_digits.png",
    "few_patients.png",
    "staged_plant.png",
}
ESTIMATORS = [
    attention_svm,
    prompt_attention,
    bilinear,
    manifold_ode,
    long_horizon,
    shared_representation,
    multipath,
    federated,
    in_context,
    chain_of_thought,
]
ALL_TASKS = [
    "digit_bags",
    "breast_cancer",
    "digit_needles",
    "converter",
    "macrospin",
    "late_digits",
    "paid_digits",
    "permuted_digits",
    "rare_digits",
    "few_patients",
    "staged_plant",
]
TABLES = {"comparison.csv", "comparison.html"}


@pytest.fixture(scope="module")
def tiny_tasks():
    sizes = {"n_train": 40, "n_test": 20, "n_folds": 1}
    return [
        digit_bags(**sizes),
        breast_cancer(**sizes),
        digit_needles(**sizes),
        converter(**sizes),
        macrospin(**sizes),
        late_digits(**sizes),
        paid_digits(**sizes),
        permuted_digits(**sizes),
        rare_digits(**sizes),
        few_patients(**sizes),
        staged_plant(**sizes),
    ]


@pytest.fixture(scope="module")
def bags():
    return digit_bags(n_folds=1)


def test_the_job_writes_tables_and_pictures_of_every_candidate(
    tiny_tasks, tmp_path, capsys
):
    written = demo.run(tiny_tasks, tmp_path / "new", n_jobs=1)
    printed = capsys.readouterr().out
    assert {path.name for path in written} == PICTURES | TABLES
    assert all(path.stat().st_size > 0 for path in written)

    table = pd.read_csv(tmp_path / "new" / "comparison.csv", keep_default_na=False)
    assert list(table.columns[:4]) == ["task", "candidate", "mean", "std"]
    assert (table["error"] == "").all()
    page = (tmp_path / "new" / "comparison.html").read_text()
    for task in tiny_tasks:
        ours = [module.NAME for module in ESTIMATORS if module.candidate(task)]
        assert ours
        names = [*task.baselines, *ours]
        assert list(table.loc[table["task"] == task.name, "candidate"]) == names
        for name in names:
            assert re.search(rf"^{re.escape(name)} ", printed, re.MULTILINE)
            assert f"<td>{name}</td>" in page


@pytest.mark.parametrize(
    ("options", "names", "n_bags"),
    [
        ([], ALL_TASKS, 10_000),
        (["--quick"], ALL_TASKS, 2000),
        (["--quick", "--only", "breast_cancer"], ["breast_cancer"], None),
    ],
)
def test_the_command_line_chooses_tasks_and_sizes(
    options, names, n_bags, monkeypatch, capsys
):
    def run(tasks, output, n_jobs):
        assert [task.name for task in tasks] == names
        assert n_bags in (None, len(tasks[0].X))
        assert (output, n_jobs) == (Path("elsewhere"), 1)
        return [output / "table"]

    monkeypatch.setattr(demo, "run", run)
    demo.main([*options, "--jobs", "1", "--output", "elsewhere"])
    printed = capsys.readouterr().out
    assert ("With --quick" in printed) == ("--quick" in options)
    assert str(Path("elsewhere") / "table") in printed


@pytest.mark.parametrize("task", [digit_bags, digit_needles])
def test_no_image_is_in_training_and_test_samples_of_a_fold(task):
    task = task(n_folds=1)
    (train, test), *_ = task.cv
    images = [{*map(bytes, task.X[part].reshape(-1, PIXELS))} for part in (train, test)]
    assert len(images[0]) > 500
    assert not images[0] & images[1]


def test_every_candidate_is_tuned_over_as_many_settings(tiny_tasks):
    for task in tiny_tasks:
        ours = [module.candidate(task) for module in ESTIMATORS]
        candidates = [*task.baselines.values(), *filter(None, ours)]
        sizes = [len(ParameterGrid(search.param_grid)) for search in candidates]
        assert sizes == [N_SETTINGS] * len(candidates)
        assert len({str(search.cv) for search in candidates}) == 1


@parametrize_with_checks([MISVMClassifier(), MISVMClassifier(symmetric=True)])
def test_mi_svm_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def test_mi_svm_finds_the_telling_token(bags):
    """Chance is .5; an SVM on the mean of the tokens is right three times in four."""
    (train, test), *_ = bags.cv
    search = clone(bags.baselines["MI-SVM (best token)"])
    search.fit(bags.X[train], bags.y[train])
    assert search.score(bags.X[test], bags.y[test]) > 0.9


def test_mi_svm_scores_a_bag_by_its_best_token():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3, 2))
    y = np.arange(80) % 2
    X[y == 1, 1] += 8  # one token of each positive bag, far out
    rows = X.reshape(80, -1)
    model = MISVMClassifier(n_tokens=3).fit(rows, y)
    best = (X @ model.coef_[0] + model.intercept_).max(axis=1)
    np.testing.assert_allclose(model.decision_function(rows), best)
    assert model.score(rows, y) == 1
    # the same tokens in another order are the same bag
    turned = np.roll(X, 1, axis=1).reshape(80, -1)
    np.testing.assert_allclose(model.decision_function(turned), best)


def test_rows_that_pay_later_are_trained_on_before_they_are_tested_on():
    task = late_digits(n_train=40, n_test=20, n_folds=2)
    for train, test in task.cv:
        assert np.array_equal(np.diff([*train, *test]), np.ones(59))
    assert task.cv[0][1][-1] < task.cv[1][0][0]  # of a series of its own


def test_lagged_rows_are_those_before_also_of_the_first_test_row():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = np.concatenate([np.zeros(3), X[:-3, 1]])
    model = LaggedRegressor(LinearRegression(), horizon=5).fit(X[:40], y[:40])
    np.testing.assert_allclose(model.predict(X[40:]), y[40:], atol=1e-12)
