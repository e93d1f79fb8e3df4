"""Laws and edges of the estimators for many tasks over many paths."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn.utils.estimator_checks as checks
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.datasets import load_diabetes, load_iris, load_linnerud
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.callbacks import EarlyStopping, LossLogger
from sklearn_attn.datasets import make_multipath_tasks, make_permuted_digit_tasks
from sklearn_attn.multitask import MultipathMTL, MultipathMTLClassifier

QUICK = {"n_init": 1, "random_state": 0}
SMALL = {"layers": ((1, 4), (3, 2)), "solver": "als"} | QUICK


@pytest.fixture(scope="module")
def easy():
    """Thirty tasks of three modules, in shuffled rows."""
    X, y, tasks, model = make_multipath_tasks(
        30, 25, 12, layers=((1, 6), (3, 2)), intercepts=1.0, random_state=1,
        return_model=True,
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], y[order], tasks[order], model


@pytest.fixture(scope="module")
def settings():
    return {"layers": ((1, 6), (3, 2)), "solver": "als"} | QUICK


@pytest.fixture(scope="module")
def fitted(easy, settings):
    X, y, tasks, _ = easy
    return MultipathMTL(**settings).fit(X, y, tasks=tasks)


@pytest.fixture(scope="module")
def classes():
    """Two classes for each task, which tasks call by names of their own."""
    X, y, tasks, model = make_multipath_tasks(
        30, 80, 12, layers=((1, 6), (3, 2)), random_state=1, return_model=True
    )
    return X, 2 * (tasks % 5) + (y > 0), tasks, model


def test_predictions_are_linear_in_the_features_of_the_task(easy, fitted):
    X, y, tasks, model = easy
    expected = (X * fitted.task_coef_[tasks]).sum(1) + fitted.intercept_[tasks]
    np.testing.assert_allclose(fitted.predict(X, tasks), expected, rtol=1e-10)
    assert fitted.path_agreement(model.paths) == 1
    assert fitted.score(X, y, tasks=tasks) == pytest.approx(r2_score(y, expected))
    features = fitted.transform(X, tasks)
    heads = (features * fitted.heads_[tasks]).sum(1) + fitted.intercept_[tasks]
    np.testing.assert_allclose(heads, expected, rtol=1e-9)
    rows = fitted.modules_[0][0]
    np.testing.assert_allclose(rows @ rows.T, np.eye(6), atol=1e-10)


def test_residuals_of_each_task_have_mean_zero(easy, fitted):
    X, y, tasks, _ = easy
    rest = y - fitted.predict(X, tasks)
    means = np.bincount(tasks, rest) / np.bincount(tasks)
    np.testing.assert_allclose(means, 0, atol=1e-12)


def test_heads_are_ridge_regressions_on_the_features_of_the_path(easy, fitted):
    X, y, tasks, _ = easy
    mine = tasks == 7
    scale = X[mine].var(0).sum() / X.shape[1] * mine.sum()
    ridge = Ridge(alpha=fitted.alpha_head * scale)
    ridge.fit(fitted.transform(X[mine], 7), y[mine])
    np.testing.assert_allclose(fitted.heads_[7], ridge.coef_, rtol=1e-8)
    np.testing.assert_allclose(fitted.intercept_[7], ridge.intercept_, rtol=1e-8)


def test_path_losses_are_mean_squared_errors_with_the_ridge(easy, fitted):
    X, y, tasks, _ = easy
    assert fitted.path_losses_.shape == (30, 3)
    np.testing.assert_array_equal(fitted.path_losses_.argmin(1), fitted.path_id_)
    mine = tasks == 7
    rest = y[mine] - fitted.predict(X[mine], 7)
    shift = fitted.alpha_head * X[mine].var(0).mean()
    expected = (rest**2).mean() + shift * (fitted.task_coef_[7] ** 2).sum()
    assert fitted.path_losses_[7].min() == pytest.approx(expected, rel=1e-8)


def test_the_order_of_rows_does_not_matter(easy, settings, fitted):
    X, y, tasks, _ = easy
    other = MultipathMTL(**settings).fit(X[::-1], y[::-1], tasks=tasks[::-1])
    np.testing.assert_allclose(other.task_coef_, fitted.task_coef_, atol=1e-5)


@pytest.mark.parametrize("column", [0, -1, "task"])
def test_a_column_of_tasks_is_as_good_as_the_argument(easy, settings, fitted, column):
    X, y, tasks, _ = easy
    position = 0 if column == 0 else X.shape[1]
    rows = np.insert(X, position, tasks, axis=1)
    if column == "task":
        names = [f"x{j}" for j in range(X.shape[1])]
        rows = pd.DataFrame(rows, columns=[*names, "task"])
    model = MultipathMTL(task_feature=column, **settings).fit(rows, y)
    np.testing.assert_allclose(model.task_coef_, fitted.task_coef_, rtol=1e-10)
    np.testing.assert_allclose(model.predict(rows), fitted.predict(X, tasks))


@pytest.mark.parametrize("kind", ["frame", "array", "list"])
def test_tasks_of_a_column_may_have_names(easy, settings, fitted, kind):
    X, y, tasks, _ = easy
    names = np.array([f"site {t:02d}" for t in tasks])
    if kind == "frame":
        rows = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
        rows.insert(2, "site", names)
        column = "site"
    else:
        rows = np.column_stack([X.astype(object), names])
        rows, column = (rows.tolist() if kind == "list" else rows), -1
    model = MultipathMTL(task_feature=column, **settings).fit(rows, y)
    assert model.tasks_[3] == "site 03"
    np.testing.assert_allclose(model.predict(rows), fitted.predict(X, tasks))


def test_searches_pass_the_task_along_in_a_column(easy):
    X, y, tasks, _ = easy
    rows = np.column_stack([X, tasks])
    features = list(range(X.shape[1]))
    pipeline = make_pipeline(
        make_column_transformer((StandardScaler(), features), remainder="passthrough"),
        MultipathMTL(task_feature=-1, **SMALL),
    )
    search = GridSearchCV(
        pipeline,
        {"multipathmtl__layers": [((1, 1),), ((1, 6), (3, 2))]},
        scoring="r2",
        cv=KFold(2, shuffle=True, random_state=0),
    ).fit(rows, y)
    assert search.best_params_ == {"multipathmtl__layers": ((1, 6), (3, 2))}
    assert search.best_score_ > 0.9
    predicted = cross_val_predict(search.best_estimator_, rows, y, cv=2)
    assert r2_score(y, predicted) > 0.9


def test_ids_that_were_scaled_are_refused_with_a_hint(easy):
    X, y, tasks, _ = easy
    rows = np.column_stack([X, tasks])
    scaled = make_pipeline(StandardScaler(), MultipathMTL(task_feature=-1, **SMALL))
    with pytest.raises(ValueError, match=r"no whole number .*ColumnTransformer"):
        scaled.fit(rows, y)
    model = MultipathMTL(task_feature=-1, **SMALL).fit(rows, y)
    with pytest.raises(ValueError, match="ColumnTransformer"):
        model.predict(StandardScaler().fit_transform(rows))


def test_a_task_must_be_named_after_a_fit_to_several(easy, fitted):
    X, y, tasks, _ = easy
    for method in (fitted.predict, fitted.transform):
        with pytest.raises(ValueError, match="must know which one"):
            method(X)
    with pytest.raises(ValueError, match="must know which one"):
        fitted.score(X, y)
    with pytest.raises(ValueError, match="named twice"):
        MultipathMTL(task_feature=0).fit(X, y, tasks=tasks)


@pytest.mark.parametrize("on_unknown", ["error", "mean", "nan"])
def test_unknown_tasks_are_refused_or_answered(easy, fitted, on_unknown):
    X, _, tasks, _ = easy
    model = clone(fitted).set_params(on_unknown=on_unknown)
    vars(model).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    model._model = fitted._model
    asked = np.where(np.arange(len(X)) < 2, 99, tasks)
    if on_unknown == "error":
        with pytest.raises(ValueError, match=r"Task 99 was not seen in fit\. Known"):
            model.predict(X, asked)
        return
    found = model.predict(X, asked)
    np.testing.assert_allclose(found[2:], fitted.predict(X, tasks)[2:])
    expected = [np.nan, np.nan]
    if on_unknown == "mean":
        expected = [
            np.mean([fitted.predict(X[[i]], t)[0] for t in range(30)]) for i in (0, 1)
        ]
    np.testing.assert_allclose(found[:2], expected)


def test_columns_of_y_are_tasks_and_may_lack_targets():
    X, Y = load_linnerud(return_X_y=True, as_frame=True)
    net = {"layers": ((1, 2),), "solver": "als"}
    model = MultipathMTL(**net).fit(X, Y)
    assert list(model.tasks_) == list(Y.columns)
    assert model.predict(X).shape == (20, 3)
    np.testing.assert_allclose(model.predict(X, "Waist"), model.predict(X)[:, 1])
    assert model.transform(X).shape == (20, 2)

    gone = Y.astype(float)
    gone.iloc[::4, 1] = np.nan
    wide = MultipathMTL(**net).fit(X, gone)
    there = ~np.isnan(gone.to_numpy())
    rows, columns = np.nonzero(there)
    long = MultipathMTL(**net).fit(
        X.to_numpy()[rows], gone.to_numpy()[there], tasks=columns
    )
    np.testing.assert_allclose(
        wide.predict(X)[there], long.predict(X.to_numpy()[rows], columns), rtol=1e-6
    )
    assert wide.n_task_samples_.tolist() == [20, 15, 20]
    scores = [
        r2_score(gone.iloc[there[:, j], j], wide.predict(X)[there[:, j], j])
        for j in range(3)
    ]
    assert wide.score(X, gone) == pytest.approx(np.mean(scores))
    with pytest.raises(ValueError, match="columns are the tasks"):
        MultipathMTL().fit(X, Y, tasks=np.zeros(20))
    gone.iloc[:, 1] = np.nan
    with pytest.raises(ValueError, match="'Waist' of y has no target"):
        MultipathMTL().fit(X, gone)


def test_one_task_is_ridge_regression():
    X, y = load_diabetes(return_X_y=True)
    model = MultipathMTL(alpha_module=0.0, tol=1e-12).fit(X, y)
    scale = X.var(0).sum() / X.shape[1] * len(X)
    ridge = Ridge(alpha=0.01 * scale).fit(X, y)
    np.testing.assert_allclose(model.predict(X), ridge.predict(X), rtol=1e-5)


def test_given_paths_are_kept_and_impossible_ones_refused(easy, settings):
    X, y, tasks, truth = easy
    model = MultipathMTL(paths=truth.paths, **settings).fit(X, y, tasks=tasks)
    np.testing.assert_array_equal(model.paths_, truth.paths)
    wrong = truth.paths.copy()
    wrong[4, 1] = 3
    with pytest.raises(ValueError, match=r"\[0, 3\] of task 4 is impossible: layer 1"):
        MultipathMTL(paths=wrong, **settings).fit(X, y, tasks=tasks)
    with pytest.raises(ValueError, match=r"shape \(30, 2\)"):
        MultipathMTL(paths=truth.paths[:5], **settings).fit(X, y, tasks=tasks)
    tree = settings | {"layers": ((1, 6), (2, 3), (4, 2)), "tree": True}
    across = MultipathMTL(paths=np.tile([0, 1, 0], (30, 1)), **tree)
    with pytest.raises(ValueError, match="impossible in the tree"):
        across.fit(X, y, tasks=tasks)


def test_a_tree_and_a_product_of_modules_are_found():
    for layers, tree in ((((2, 5), (4, 2)), True), (((2, 3), (2, 1)), False)):
        X, y, tasks, truth = make_multipath_tasks(
            48, 40, 10, layers=layers, tree=tree, noise=0.02, random_state=0,
            return_model=True,
        )  # fmt: skip
        model = MultipathMTL(layers, tree=tree, solver="als", n_init=2, random_state=0)
        model.fit(X, y, tasks=tasks)
        assert ((model.task_coef_ - truth.coef) ** 2).sum(1).mean() < 1e-3
        assert model.path_agreement(truth.paths) > 0.9
        assert model.supernet_.n_paths == 4


def test_known_paths_are_enough_where_modules_read_several_others():
    X, y, tasks, truth = make_multipath_tasks(
        36, 40, 10, layers=((2, 4), (6, 2)), noise=0.05, random_state=0,
        return_model=True,
    )  # fmt: skip
    net = {"solver": "als", "paths": truth.paths, "n_init": 3, "random_state": 0}
    model = MultipathMTL(((2, 4), (6, 2)), **net).fit(X, y, tasks=tasks)
    rest = y - model.predict(X, tasks)
    assert (rest**2).mean() < 1.1 * 0.05**2
    assert ((model.task_coef_ - truth.coef) ** 2).sum(1).mean() < 1e-3


def test_widths_are_clipped_with_a_warning():
    X, y = load_iris(return_X_y=True)
    with pytest.warns(UserWarning, match="clipped to") as caught:
        model = MultipathMTL(layers=((1, 9),)).fit(X, y)
    assert caught[0].filename == __file__
    assert model.supernet_.layers == ((1, 4),)


def test_too_few_samples_are_warned_of(easy):
    X, y, tasks, _ = easy
    few = np.concatenate([np.flatnonzero(tasks == t)[:3] for t in range(30)])
    with pytest.warns(UserWarning, match="3.0 samples on average") as caught:
        model = MultipathMTL(**SMALL).fit(X[few], y[few], tasks=tasks[few])
    assert caught[0].filename == __file__
    assert model.n_min_ == pytest.approx(model.dof_ / 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # moments can do with fewer
        MultipathMTL(**(SMALL | {"solver": "moment"})).fit(
            X[few], y[few], tasks=tasks[few]
        )


def test_a_low_limit_is_warned_of(easy, settings):
    X, y, tasks, _ = easy
    low = settings | {"max_iter": 1, "tol": 0.0}
    with pytest.warns(UserWarning, match="max_iter=1 ") as caught:
        MultipathMTL(**low).fit(X, y, tasks=tasks)
    assert caught[0].filename == __file__


def test_tasks_of_one_sample_and_constant_targets_are_fitted(easy, settings):
    X, y, tasks, _ = easy
    rows = (tasks != 3) | (np.arange(len(y)) == np.flatnonzero(tasks == 3)[0])
    y = np.where(tasks == 5, 2.5, y)
    model = MultipathMTL(**settings).fit(X[rows], y[rows], tasks=tasks[rows])
    np.testing.assert_allclose(model.task_coef_[3], 0, atol=1e-6)  # all intercept
    np.testing.assert_allclose(model.predict(X[:4], 5), 2.5, atol=1e-6)
    constant = MultipathMTL(**SMALL).fit(X, np.full(len(y), 3.0), tasks=tasks)
    np.testing.assert_allclose(constant.predict(X[:4], 5), 3.0)
    flat = MultipathMTL(**SMALL).fit(np.ones_like(X), y, tasks=tasks)
    assert flat.predict(X[:1], 1) == pytest.approx(y[tasks == 1].mean())


def test_a_new_task_takes_a_path_and_leaves_the_others_alone(easy, fitted):
    X, _, tasks, model = easy
    rng = np.random.default_rng(5)
    grown = pickle.loads(pickle.dumps(fitted))
    new = rng.standard_normal((10, 12))
    grown.add_task(new, new @ model.coef[25] + 4.0, task=77)
    assert grown.tasks_.tolist() == [*range(30), 77]
    assert grown.path_id_[-1] == fitted.path_id_[25]
    np.testing.assert_array_equal(grown.predict(X, tasks), fitted.predict(X, tasks))
    assert grown.intercept_[-1] == pytest.approx(4.0, abs=0.1)
    assert grown.path_losses_.shape == (31, 3)
    assert grown.module_load_[1].sum() == 31
    with pytest.raises(ValueError, match="is a task 77 already"):
        grown.add_task(new, new[:, 0], task=77)
    before = grown.tasks_.copy()
    with pytest.raises(ValueError, match="11 features, but tasks have 12"):
        grown.add_task(new[:, 1:], new[:, 0], task=78)
    np.testing.assert_array_equal(grown.tasks_, before)


@pytest.mark.parametrize("selection", ["loo", "insample"])
def test_paths_of_new_tasks_are_compared_by_errors_left_out_or_not(
    easy, settings, selection
):
    X, y, tasks, truth = easy
    model = MultipathMTL(selection=selection, **settings).fit(X, y, tasks=tasks)
    rng = np.random.default_rng(0)
    new = rng.standard_normal((7, 12))
    target = new @ truth.coef[0] + 0.3 * rng.standard_normal(7)
    model.add_task(new, target, task=99)
    module = model.modules_[1][2] @ model.modules_[0][0]
    z = new @ module.T
    alpha = 0.01 * new.var(0).sum() / 12 * 7
    errors = []
    for i in range(7):
        kept = np.arange(7) != i if selection == "loo" else np.arange(7) >= 0
        ridge = Ridge(alpha=alpha).fit(z[kept], target[kept])
        errors.append(target[i] - ridge.predict(z[[i]])[0])
    assert model.path_losses_[-1, 2] == pytest.approx(np.mean(np.square(errors)))
    assert model.path_id_[-1] == model.path_losses_[-1].argmin()


def test_the_bias_is_positive_for_a_task_that_shares_nothing(easy, fitted):
    rng = np.random.default_rng(0)
    model = easy[3]
    X = rng.standard_normal((60, 12))
    noise = 0.1 * rng.standard_normal(60)
    like = fitted.supernet_bias(X, X @ model.coef[3] + noise)
    unlike = fitted.supernet_bias(X, X @ rng.standard_normal(12) + noise)
    assert like < 0.002
    assert unlike > 1


def test_agreement_ignores_names_of_modules_and_order_of_tasks(easy, fitted):
    X, y, tasks, model = easy
    assert fitted.path_agreement(2 - model.paths[:, 1]) == 1
    fewer = tasks >= 10
    other = MultipathMTL(**SMALL).fit(X[fewer], y[fewer], tasks=tasks[fewer])
    assert other.path_agreement(fitted) == fitted.path_agreement(other)
    with pytest.raises(ValueError, match="Paths of 30 tasks"):
        fitted.path_agreement([0, 1])
    with pytest.raises(ValueError, match="Ridge has no paths"):
        fitted.path_agreement(Ridge().fit(X, y))


def test_a_warm_start_goes_on_from_the_last_fit(easy, settings):
    X, y, tasks, _ = easy
    model = MultipathMTL(warm_start=True, **settings).fit(X, y, tasks=tasks)
    first = model.n_iter_
    before = model.task_coef_
    model.fit(X, y, tasks=tasks)
    assert model.n_iter_ < first
    np.testing.assert_allclose(model.task_coef_, before, atol=1e-3)
    one = np.zeros((30, 2), dtype=int)
    cold = MultipathMTL(paths=one, **settings).fit(X, y, tasks=tasks)
    warm = model.set_params(paths=one).fit(X, y, tasks=tasks)
    np.testing.assert_allclose(warm.task_coef_, cold.task_coef_)


def test_searches_in_threads_find_the_same(easy):
    X, y, tasks, _ = easy
    found = [
        MultipathMTL(**(SMALL | {"n_init": 3, "n_jobs": n_jobs}))
        .fit(X, y, tasks=tasks)
        .task_coef_
        for n_jobs in (None, 2)
    ]
    np.testing.assert_array_equal(*found)


def test_each_penalty_shrinks(easy, settings, fitted):
    X, y, tasks, _ = easy
    size = (fitted.task_coef_**2).sum()
    for name in ("alpha_head", "alpha_module"):
        strong = MultipathMTL(**(settings | {name: 0.3})).fit(X, y, tasks=tasks)
        assert (strong.task_coef_**2).sum() < 0.97 * size


def test_auto_compares_solvers_though_a_task_has_few_rows():
    X, y, tasks = make_multipath_tasks(
        40, [3] + [15] * 39, 20, layers=((1, 5), (2, 2)), noise=3.0, random_state=0
    )
    model = MultipathMTL(((1, 5), (2, 2)), **QUICK).fit(X, y, tasks=tasks)
    assert model.solver_ == "moment"


def test_auto_takes_moments_where_noise_is_strong():
    for noise, solver in ((0.0, "als"), (3.0, "moment")):
        X, y, tasks = make_multipath_tasks(
            40, 15, 20, layers=((1, 5), (2, 2)), noise=noise, random_state=0
        )
        model = MultipathMTL(((1, 5), (2, 2)), **QUICK).fit(X, y, tasks=tasks)
        assert model.solver_ == solver


def test_classes_do_not_depend_on_the_units_of_features(classes):
    X, y, tasks, _ = classes
    net = {"layers": ((1, 6), (3, 2)), "solver": "als"} | QUICK
    expected = MultipathMTLClassifier(**net).fit(X, y, tasks=tasks)
    other = MultipathMTLClassifier(**net).fit(1e-3 * X + 1.0, y, tasks=tasks)
    found = other.predict_proba(1e-3 * X + 1.0, tasks)
    np.testing.assert_allclose(found, expected.predict_proba(X, tasks), atol=1e-3)


def test_more_features_than_samples_are_no_obstacle():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 100)), rng.standard_normal(20)
    net = {"layers": ((1, 30), (2, 25))} | QUICK
    with pytest.warns(UserWarning, match="clipped"):
        model = MultipathMTL(**net).fit(X, y, tasks=np.arange(20) % 4)
    assert np.isfinite(model.predict(X, 1)).all()


def test_more_paths_than_can_be_listed_are_searched_layer_by_layer():
    X, y, tasks = make_multipath_tasks(
        30, 30, 8, layers=((2, 4), (3, 2)), noise=0.01, random_state=0
    )
    net = {"layers": ((70, 4), (70, 2)), "solver": "als"} | QUICK
    model = MultipathMTL(**net).fit(X, y, tasks=tasks)
    assert model.supernet_.n_paths == 4900
    assert not hasattr(model, "path_losses_")
    assert model.score(X, y, tasks=tasks) > 0.99


def test_linear_modules_are_linear_however_they_are_trained(easy):
    X, y, tasks, _ = easy
    net = {"layers": ((1, 6),), "random_state": 0, "tol": 1e-3}
    model = MultipathMTL(solver="torch", **net).fit(X, y, tasks=tasks)
    expected = (X * model.task_coef_[tasks]).sum(1) + model.intercept_[tasks]
    np.testing.assert_allclose(model.predict(X, tasks), expected)
    assert model.score(X, y, tasks=tasks) > 0.9


def test_fit_transform_is_fit_and_transform(easy, settings, fitted):
    X, y, tasks, _ = easy
    features = MultipathMTL(**settings).fit_transform(X, y, tasks=tasks)
    np.testing.assert_array_equal(features, fitted.transform(X, tasks))


def test_settings_that_do_not_go_together_are_refused(easy):
    X, y, tasks, _ = easy
    for wrong, message in (
        ({"solver": "als", "activation": "relu"}, "is for linear modules"),
        ({"solver": "als", "path_search": "gumbel"}, "needs solver='torch'"),
        ({"layers": ((1, 2, 3),)}, "a pair"),
        ({"layers": ()}, "layers"),
        ({"layers": ((1, 2), (3,))}, "a pair"),
        ({"module": lambda n_in, n_out: torch.nn.Linear(n_in, 1)}, "returns"),
        ({"layers": ((2, 3), (3, 2)), "tree": True}, "In a tree"),
        ({"task_feature": 12}, "no column 12"),
    ):
        with pytest.raises(ValueError, match=message):
            MultipathMTL(**wrong).fit(X, y)
    ids = np.column_stack([X, np.where(tasks == 1, 1e300, tasks)])
    with pytest.raises(ValueError, match="at most 15 digits"):
        MultipathMTL(task_feature=-1).fit(ids, y)
    with pytest.raises(ValueError, match="missing labels"):
        MultipathMTL().fit(X, y, tasks=np.where(tasks == 1, np.nan, tasks))


def test_callbacks_see_rounds_and_can_stop(easy, settings):
    pytest.importorskip("sklearn.callback")
    X, y, tasks, _ = easy
    logger = LossLogger()
    model = MultipathMTL(**settings).set_callbacks(logger).fit(X, y, tasks=tasks)
    assert len(logger.get_logs()) == len(model.loss_curve_) > 1
    assert (np.diff(model.loss_curve_) <= 0).all()
    np.testing.assert_array_equal(model.objective_path_, model.loss_curve_)
    deep = MultipathMTL(layers=((1, 4),), activation="tanh", random_state=0)
    deep.set_callbacks(EarlyStopping(n_iter_no_change=1, tol=10.0))
    assert deep.fit(X, y, tasks=tasks).n_iter_ < 10


def test_a_fit_to_classes_that_is_stopped_does_not_go_on(classes):
    pytest.importorskip("sklearn.callback")
    X, y, tasks, _ = classes
    net = {"layers": ((1, 6), (3, 2)), "solver": "als"} | QUICK
    stopper = EarlyStopping(n_iter_no_change=1, tol=10.0)
    model = MultipathMTLClassifier(**net).set_callbacks(stopper)
    stopped = model.fit(X, y, tasks=tasks)
    assert (
        stopped.n_iter_ < MultipathMTLClassifier(**net).fit(X, y, tasks=tasks).n_iter_
    )


def test_verbose_prints_a_line_for_each_round(easy, settings, capsys):
    X, y, tasks, _ = easy
    model = MultipathMTL(verbose=1, **settings).fit(X, y, tasks=tasks)
    assert capsys.readouterr().out.count("round") == len(model.loss_curve_)


def _two_linear(n_in, n_out):
    return torch.nn.Sequential(
        torch.nn.Linear(n_in, 5), torch.nn.Tanh(), torch.nn.Linear(5, n_out)
    )


@pytest.mark.parametrize(
    "deep", [{"activation": "tanh"}, {"module": _two_linear}], ids=["tanh", "module"]
)
def test_deep_modules_learn_what_linear_ones_cannot(deep):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((600, 4))
    tasks = np.arange(600) % 6
    shared = np.tanh(2 * X @ rng.standard_normal((4, 2)))
    y = (shared * rng.standard_normal((6, 2))[tasks]).sum(1)
    X_test, y_test, t_test = X[480:], y[480:], tasks[480:]
    net = {"layers": ((1, 4),), "random_state": 0, "max_iter": 300, "tol": 1e-4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 300 epochs are enough for this
        model = MultipathMTL(**net, **deep).fit(X[:480], y[:480], tasks=tasks[:480])
    linear = MultipathMTL(((1, 4),)).fit(X[:480], y[:480], tasks=tasks[:480])
    score = model.score(X_test, y_test, tasks=t_test)
    assert score > max(0.95, linear.score(X_test, y_test, tasks=t_test) + 0.03)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X, tasks), model.predict(X, tasks))
    assert not hasattr(model, "task_coef_")
    model.add_task(X_test, y_test, task=9)
    assert model.predict(X_test, 9).shape == (120,)


def test_classes_of_other_tasks_have_no_probability(classes):
    X, y, tasks, model = classes
    net = {"layers": ((1, 6), (3, 2)), "solver": "moment"} | QUICK
    fitted = MultipathMTLClassifier(**net).fit(X, y, tasks=tasks)
    assert fitted.path_agreement(model.paths) > 0.8
    p = fitted.predict_proba(X, tasks)
    np.testing.assert_allclose(p.sum(1), 1)
    own = fitted.classes_ // 2 == tasks[:, None] % 5
    assert (p[~own] == 0).all()
    assert [each.tolist() for each in fitted.task_classes_[:2]] == [[0, 1], [2, 3]]
    predicted = fitted.predict(X, tasks)
    np.testing.assert_array_equal(predicted, fitted.classes_[p.argmax(1)])
    score = fitted.score(X, y, tasks=tasks)
    assert score == accuracy_score(y, predicted) > 0.9
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(fitted.predict_log_proba(X, tasks), np.log(p))


def test_heads_of_classes_are_logistic_regressions():
    X, y = load_iris(return_X_y=True)
    tasks = np.arange(150) % 2
    model = MultipathMTLClassifier(((1, 4),), solver="moment").fit(X, y, tasks=tasks)
    mine = tasks == 1
    scale = X[mine].var(0).sum() / 4 * mine.sum()
    expected = LogisticRegression(C=1 / (0.01 * scale), tol=1e-10, max_iter=10_000)
    expected.fit(X[mine], y[mine])
    found = model.predict_proba(X[mine], 1)
    np.testing.assert_allclose(found, expected.predict_proba(X[mine]), atol=1e-6)


def test_the_logistic_loss_falls_below_that_of_least_squares(classes):
    X, y, tasks, _ = classes
    net = {"layers": ((1, 6), (3, 2)), "alpha_head": 0.05} | QUICK
    losses = []
    for solver in ("moment", "als"):
        model = MultipathMTLClassifier(solver=solver, **net).fit(X, y, tasks=tasks)
        p = model.predict_proba(X, tasks)
        losses.append(log_loss(y, p, labels=model.classes_))
    assert losses[1] < losses[0]


def test_unknown_tasks_get_the_mean_of_the_probabilities(classes):
    X, y, tasks, _ = classes
    net = {"layers": ((1, 2),), "solver": "moment", "on_unknown": "mean"} | QUICK
    model = MultipathMTLClassifier(**net).fit(X, y, tasks=tasks)
    expected = np.mean([model.predict_proba(X[:3], t) for t in range(30)], axis=0)
    np.testing.assert_allclose(model.predict_proba(X[:3], 99), expected)
    with pytest.raises(ValueError, match="on_unknown"):
        model.set_params(on_unknown="nan").fit(X, y, tasks=tasks)


def test_columns_of_classes_are_tasks_and_may_lack_some():
    X, y = load_iris(return_X_y=True)
    Y = np.column_stack([np.where(y == 0, "a", "b"), y.astype(str)]).astype(object)
    Y[::7, 0], Y[::5, 1] = None, pd.NA
    model = MultipathMTLClassifier(((1, 4),), solver="moment").fit(X, Y)
    predicted = model.predict(X)
    assert predicted.shape == (150, 2)
    assert set(predicted[:, 0]) == {"a", "b"}
    there = ~pd.isna(Y)
    expected = (predicted[there] == Y[there]).mean()
    assert model.score(X, Y) == pytest.approx(expected)
    assert expected > 0.95
    assert [p.shape for p in model.predict_proba(X)] == [(150, 2), (150, 3)]
    np.testing.assert_array_equal(model.predict(X, 1), predicted[:, 1])


def test_a_new_task_may_have_new_classes(classes):
    X, y, tasks, model = classes
    net = {"layers": ((1, 6), (3, 2)), "solver": "moment"} | QUICK
    fitted = MultipathMTLClassifier(**net).fit(X, y, tasks=tasks)
    before = fitted.predict(X, tasks)
    rows = np.random.default_rng(3).standard_normal((40, 12))
    new = np.where(rows @ model.coef[0] > 0, 50, -1)
    fitted.add_task(rows, new, task=30)
    assert fitted.classes_.tolist() == [-1, *range(10), 50]
    np.testing.assert_array_equal(fitted.predict(X, tasks), before)
    assert (fitted.predict(rows, 30) == new).mean() > 0.9
    assert fitted.supernet_bias(rows, new) < 0.3
    with pytest.raises(ValueError, match="Classes so far are numbers"):
        fitted.add_task(rows, np.where(new > 0, "a", "b"), task=31)


def test_a_single_class_is_refused_but_a_task_may_have_one(classes):
    X, y, tasks, _ = classes
    with pytest.raises(ValueError, match="at least two classes"):
        MultipathMTLClassifier().fit(X, np.ones(len(X)), tasks=tasks)
    y = np.where(tasks == 4, 8, y)
    net = {"layers": ((1, 2),), "solver": "moment"} | QUICK
    model = MultipathMTLClassifier(**net).fit(X, y, tasks=tasks)
    assert (model.predict(X, 4) == 8).all()


def test_deep_modules_learn_classes():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 2))
    tasks = np.arange(400) % 4
    inside = (X**2).sum(1) < 1.4
    y = np.where(tasks % 2 == 0, inside, ~inside)
    net = {"layers": ((1, 8),), "random_state": 0, "max_iter": 200, "tol": 1e-3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 200 epochs are enough for this
        model = MultipathMTLClassifier(activation="relu", **net)
        model.fit(X, y, tasks=tasks)
    assert model.score(X, y, tasks=tasks) > 0.9


def test_deep_estimators_pass_the_checks_of_their_kind():
    """Those of `check_estimator` that fit most; all of them take half a minute."""
    X, y = load_iris(return_X_y=True)
    net = {"layers": ((1, 4),), "tol": 1e-2, "random_state": 0}
    for deep in (
        MultipathMTL(activation="tanh", **net),
        MultipathMTLClassifier(activation="relu", **net),
    ):
        name = type(deep).__name__
        for check in (
            checks.check_fit_idempotent,
            checks.check_estimators_pickle,
            checks.check_methods_subset_invariance,
            checks.check_dict_unchanged,
            checks.check_fit2d_1sample,
        ):
            check(name, clone(deep))
        assert clone(deep).fit(X, y).score(X, y) > 0.8


def test_columns_name_tasks_in_a_search_over_classes():
    X, y, tasks = make_permuted_digit_tasks(20, digits=range(3), random_state=0)
    rows = pd.DataFrame(X).rename(columns=str).assign(task=tasks)
    pixels = [str(j) for j in range(64)]
    pipeline = make_pipeline(
        ColumnTransformer(
            [("scale", StandardScaler(), pixels)], remainder="passthrough"
        ).set_output(transform="pandas"),
        MultipathMTLClassifier(
            ((1, 6),), task_feature="remainder__task", solver="moment"
        ),
    )
    search = GridSearchCV(
        pipeline,
        {"multipathmtlclassifier__alpha_head": [1e-3, 3.0]},
        scoring="neg_log_loss",
        cv=KFold(3, shuffle=True, random_state=0),
    ).fit(rows, y)
    assert search.best_params_ == {"multipathmtlclassifier__alpha_head": 3.0}
