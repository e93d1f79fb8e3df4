"""InContextRegressor: what each parameter does, and what a user meets."""

import pickle
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_linnerud
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.in_context import (
    InContextRegressor,
    LDSPrior,
    LinearPrior,
    load_in_context_weights,
    pretrain_in_context,
)
from sklearn_attn.in_context import _context as context_module


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * rng.normal(size=60)
    return X[:40], y[:40], X[40:], y[40:]


@pytest.fixture(scope="module")
def small():
    """Weights of at most three features, trained for no time."""
    return pretrain_in_context(
        LinearPrior(), n_features_max=3, n_steps=2, width=8, n_layers=2, random_state=0
    )


@pytest.fixture(scope="module")
def causal():
    return pretrain_in_context(
        LinearPrior(),
        architecture="gpt2",
        n_features_max=4,
        n_examples_max=20,
        n_steps=2,
        width=8,
        n_layers=1,
        random_state=0,
    )


def test_a_linear_task_is_learned_from_its_context(data):
    X, y, X_test, y_test = data
    model = InContextRegressor().fit(X, y)
    assert model.score(X_test, y_test) > 0.95
    assert model.weights_ is load_in_context_weights("icl-mixed")


def test_the_order_of_the_rows_does_not_matter(data):
    X, y, X_test, _ = data
    order = np.random.default_rng(1).permutation(len(X))
    whole = InContextRegressor().fit(X, y).predict(X_test)
    shuffled = InContextRegressor().fit(X[order], y[order]).predict(X_test)
    np.testing.assert_allclose(whole, shuffled, rtol=0, atol=1e-10)


def test_a_prediction_does_not_depend_on_the_other_rows(data):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X, y)
    whole = model.predict(X_test)
    alone = [model.predict(X_test[[i]])[0] for i in range(len(X_test))]
    np.testing.assert_allclose(whole, alone, rtol=0, atol=1e-10)
    model.set_params(batch_size=3)
    np.testing.assert_allclose(whole, model.predict(X_test), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("a", "b"), [(1e-6, 0.0), (3.0, 1e3), (-1e5, 7.0)])
def test_predictions_follow_a_change_of_units_of_y(data, a, b):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X, y)
    mean, std = model.predict(X_test, return_std=True)
    other = InContextRegressor().fit(X, abs(a) * y + b)
    changed, spread = other.predict(X_test, return_std=True)
    np.testing.assert_allclose(
        changed, abs(a) * mean + b, rtol=1e-6, atol=1e-6 * abs(a)
    )
    np.testing.assert_allclose(spread, abs(a) * std, rtol=1e-6)


def test_predictions_do_not_depend_on_the_units_of_features(data):
    X, y, X_test, _ = data
    units = np.array([1e-6, 1.0, 1e3, 1e9])
    shift = np.array([5.0, -1e3, 1e6, 1e12])
    plain = InContextRegressor().fit(X, y).predict(X_test)
    model = InContextRegressor().fit(X * units + shift, y)
    np.testing.assert_allclose(model.predict(X_test * units + shift), plain, atol=1e-4)
    raw = InContextRegressor(standardize=False)
    raw.fit(X * units, y)
    np.testing.assert_array_equal(raw.x_mean_, 0)
    np.testing.assert_array_equal(raw.x_scale_, 1)
    assert not np.allclose(raw.predict(X_test * units), plain, atol=1e-2)


def test_several_targets_are_as_many_tasks(data):
    X, y, X_test, _ = data
    Y = np.column_stack([y, 100 - y, np.full(len(y), 3.0), X[:, 0] ** 2])
    model = InContextRegressor().fit(X, Y)
    mean, std = model.predict(X_test, return_std=True)
    assert mean.shape == std.shape == (20, 4)
    for j in range(4):
        single = InContextRegressor().fit(X, Y[:, j])
        np.testing.assert_allclose(mean[:, j], single.predict(X_test), atol=1e-9)
    np.testing.assert_array_equal(mean[:, 2], 3.0)
    np.testing.assert_array_equal(std[:, 2], 0.0)
    assert model.y_mean_.shape == (4,)


def test_quantiles_and_deviations_are_of_the_same_distribution(data):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X, y)
    mean, std = model.predict(X_test, return_std=True)
    levels = model.predict(X_test, quantiles=[0.05, 0.5, 0.95])
    assert levels.shape == (20, 3)
    np.testing.assert_allclose(levels[:, 1], mean)
    np.testing.assert_allclose(levels[:, 2] - levels[:, 0], 2 * 1.6448536 * std)
    several = InContextRegressor().fit(X, np.column_stack([y, -y]))
    assert several.predict(X_test, quantiles=[0.5]).shape == (20, 2, 1)
    for wrong in ([0.0], [1.2], [[0.5]]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            model.predict(X_test, quantiles=wrong)
    with pytest.raises(ValueError, match="not for both"):
        model.predict(X_test, quantiles=[0.5], return_std=True)


def test_noise_that_is_known_changes_the_answer_in_the_units_of_y(data):
    X, y, X_test, _ = data
    X, y = X[:6], y[:6]
    plain = InContextRegressor().fit(X, y).predict(X_test, return_std=True)
    told = InContextRegressor(noise=2.0).fit(X, y).predict(X_test, return_std=True)
    assert not np.allclose(plain[0], told[0], atol=1e-3)
    assert told[1].mean() > plain[1].mean()
    scaled = InContextRegressor(noise=200.0).fit(X, 100 * y)
    np.testing.assert_allclose(scaled.predict(X_test), 100 * told[0], rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_rows_are_enough_for_an_answer(data, n):
    X, y, X_test, _ = data
    mean, std = InContextRegressor().fit(X[:n], y[:n]).predict(X_test, return_std=True)
    assert np.isfinite(mean).all()
    if n == 1:  # a constant, as far as one can tell
        np.testing.assert_array_equal(mean, y[0])
        np.testing.assert_array_equal(std, 0)


def test_constant_targets_and_features_are_answered_without_the_weights(data):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X, np.full(len(X), 1e300))
    mean, std = model.predict(X_test, return_std=True)
    np.testing.assert_array_equal(mean, 1e300)
    np.testing.assert_array_equal(std, 0)
    nothing = InContextRegressor().fit(np.ones((len(X), 2)), y)
    mean, std = nothing.predict(X_test[:, :2], return_std=True)
    np.testing.assert_allclose(mean, y.mean())
    np.testing.assert_allclose(std, y.std())


def test_features_that_do_not_vary_are_left_out(data):
    X, y, X_test, _ = data
    plain = InContextRegressor().fit(X, y).predict(X_test)
    wide = np.column_stack([np.full(len(X), 1e9), X, np.zeros(len(X))])
    model = InContextRegressor().fit(wide, y)
    wide_test = np.column_stack([np.zeros(20), X_test, np.ones(20)])
    np.testing.assert_allclose(model.predict(wide_test), plain, atol=1e-12)


def test_huge_offsets_and_duplicated_rows_are_no_trouble(data):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X + 1e9, y + 1e9)
    plain = InContextRegressor().fit(X, y).predict(X_test)
    np.testing.assert_allclose(model.predict(X_test + 1e9) - 1e9, plain, atol=1e-4)
    twice = InContextRegressor().fit(np.repeat(X[:1], 9, 0), y[:9])
    assert np.isfinite(twice.predict(X_test)).all()
    huge = InContextRegressor().fit(1e200 * X, 1e200 * y)
    np.testing.assert_allclose(huge.predict(1e200 * X_test) / 1e200, plain, atol=1e-9)


def test_of_too_many_features_those_that_tell_most_are_kept_with_a_warning(data, small):
    X, y, X_test, _ = data
    with pytest.warns(UserWarning, match="4 features that vary.*takes 3") as caught:
        auto = InContextRegressor(small).fit(X, y)
    assert caught[0].filename == __file__
    select = InContextRegressor(small, feature_strategy="select").fit(X, y)
    np.testing.assert_array_equal(auto.predict(X_test), select.predict(X_test))
    # y does not depend on the last feature
    three = InContextRegressor(small).fit(X[:, :3], y).predict(X_test[:, :3])
    np.testing.assert_allclose(select.predict(X_test), three, rtol=0, atol=1e-12)
    Y = np.column_stack([y, -y])
    with pytest.warns(UserWarning, match="feature_strategy='pca' makes fewer"):
        several = InContextRegressor(small).fit(X, Y)
    pca = InContextRegressor(small, feature_strategy="pca").fit(X, Y)
    np.testing.assert_array_equal(several.predict(X_test), pca.predict(X_test))
    model = InContextRegressor(small, feature_strategy="project", random_state=0)
    one = model.fit(X, y).predict(X_test)
    assert not np.allclose(one, select.predict(X_test))
    many = clone(model).set_params(n_estimators=3).fit(X, y)
    assert len(many._context.members) == 3
    with pytest.raises(ValueError, match="feature_strategy='select', 'pca' or 'proj"):
        InContextRegressor(small, feature_strategy="error").fit(X, y)


def test_main_components_of_more_features_than_rows(small):
    X = np.random.default_rng(0).normal(size=(2, 9))
    model = InContextRegressor(small, feature_strategy="pca").fit(X, [0.0, 1.0])
    assert np.isfinite(model.predict(X)).all()


def test_more_rows_than_a_context_takes_are_put_into_several(data, small):
    X, y, X_test, _ = data
    X, X_test = X[:, :3], X_test[:, :3]
    settings = {"max_context": 15, "random_state": 0}
    bag = InContextRegressor(small, **settings).fit(X, y)
    rows = [member.rows for member in bag._context.members]
    assert [len(r) for r in rows] == [14, 13, 13]
    assert sorted(np.concatenate(rows)) == list(range(40))
    parts = [
        InContextRegressor(small, standardize=False).fit(
            (X[r] - X.mean(0)) / X.std(0), (y[r] - y.mean()) / y.std()
        )
        for r in rows
    ]
    Z = (X_test - X.mean(0)) / X.std(0)
    mean = np.mean([p.predict(Z) for p in parts], 0) * y.std() + y.mean()
    np.testing.assert_allclose(bag.predict(X_test), mean, atol=1e-10)
    some = InContextRegressor(small, context_strategy="subsample", **settings)
    with pytest.warns(UserWarning, match="Of 40 rows, 15 are used") as caught:
        some.fit(X, y)
    assert caught[0].filename == __file__
    assert len(some._context.members[0].rows) == 15
    with pytest.raises(ValueError, match="X has 40 rows; a context takes 15"):
        InContextRegressor(small, context_strategy="error", **settings).fit(X, y)


def test_nearest_rows_are_the_context_of_each_query(data, small):
    X, y, X_test, _ = data
    X, X_test = X[:, :3], X_test[:, :3]
    model = InContextRegressor(small, context_strategy="nearest", max_context=5)
    found = model.fit(X, np.column_stack([y, -y])).predict(X_test)
    Z, Q = ((A - X.mean(0)) / X.std(0) for A in (X, X_test))
    for i in range(3):
        near = np.argsort(np.square(Z - Q[i]).sum(1))[:5]
        alone = InContextRegressor(small, standardize=False)
        alone.fit(Z[near], (y[near] - y.mean()) / y.std())
        expected = alone.predict(Q[[i]])[0] * y.std() + y.mean()
        assert found[i, 0] == pytest.approx(expected, abs=1e-9)
    model.set_params(batch_size=2)
    np.testing.assert_allclose(model.predict(X_test), found, atol=1e-10)


def test_estimators_average_over_orders_and_signs_of_columns(data):
    X, y, X_test, _ = data
    model = InContextRegressor(n_estimators=4, random_state=0).fit(X, y)
    turns = [member.turn for member in model._context.members]
    assert turns[0] is None
    for turn in turns[1:]:
        np.testing.assert_allclose(turn @ turn.T, np.eye(4))
        assert set(np.unique(turn)) <= {-1.0, 0.0, 1.0}
    single = InContextRegressor().fit(X, y).predict(X_test)
    assert not np.array_equal(single, model.predict(X_test))
    np.testing.assert_allclose(single, model.predict(X_test), atol=0.5)


def test_the_cache_is_made_when_it_should_be_and_is_never_pickled(data):
    X, y, X_test, _ = data
    lazy = InContextRegressor().fit(X, y)
    assert not lazy._context._kept
    expected = lazy.predict(X_test)
    assert len(lazy._context._kept) == 1
    eager = InContextRegressor(cache="eager").fit(X, y)
    assert len(eager._context._kept) == 1
    none = InContextRegressor(cache="none").fit(X, y)
    for model in (eager, none):
        np.testing.assert_array_equal(model.predict(X_test), expected)
    assert not none._context._kept
    text = pickle.dumps(eager)
    assert b"Transformer" not in text
    assert len(text) < 6000 + 3 * X.nbytes
    again = pickle.loads(text)
    assert not again._context._kept
    np.testing.assert_array_equal(again.predict(X_test), expected)


def test_two_threads_predict_as_one_does(data):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X, y)
    expected = clone(model).fit(X, y).predict(X_test)
    found = [None] * 4

    def work(i):
        found[i] = model.predict(X_test)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in found:
        np.testing.assert_array_equal(answer, expected)


def test_queries_are_answered_in_chunks_of_bounded_size(data, monkeypatch):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X, y)
    expected = model.predict(X_test)
    sizes = []
    module = model.weights_.module("cpu", torch.float64)
    inner = module.forward
    monkeypatch.setattr(
        module,
        "forward",
        lambda x, cache: (sizes.append(x.shape[1]), inner(x, cache))[1],
    )
    monkeypatch.setattr(context_module, "_CHUNK_BYTES", 30_000)
    np.testing.assert_allclose(model.predict(X_test), expected, atol=1e-10)
    assert sum(sizes) == 20
    assert max(sizes) < 20


def test_single_precision_is_an_option_and_close(data):
    X, y, X_test, _ = data
    double = InContextRegressor().fit(X, y).predict(X_test)
    single = InContextRegressor(dtype="float32").fit(X, y).predict(X_test)
    assert not np.array_equal(double, single)
    np.testing.assert_allclose(single, double, atol=1e-3)
    assert (
        InContextRegressor().fit(X, y).predict(X_test.astype(np.float32)).dtype
        == np.float32
    )


def test_threads_are_set_for_the_work_and_put_back(data, monkeypatch):
    X, y, X_test, _ = data
    before = torch.get_num_threads()
    seen = []
    original = context_module.Context.answer

    def spy(self, *args, **kwargs):
        seen.append(torch.get_num_threads())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(context_module.Context, "answer", spy)
    InContextRegressor().fit(X, y).predict(X_test)
    InContextRegressor(n_jobs=2).fit(X, y).predict(X_test)
    assert seen == [1, 2]
    assert torch.get_num_threads() == before


def test_the_papers_causal_form_answers_within_its_length(data, causal):
    X, y, X_test, _ = data
    model = InContextRegressor(causal).fit(X[:10], y[:10])
    assert np.isfinite(model.predict(X_test)).all()
    assert causal.max_context == 20
    bag = InContextRegressor(causal, random_state=0).fit(X, y)
    assert len(bag._context.members) == 2
    wide = InContextRegressor(causal, max_context=1000, random_state=0).fit(X, y)
    assert len(wide._context.members) == 2


def test_weights_are_found_by_name_by_file_or_given(data, small, tmp_path):
    X, y, X_test, _ = data
    path = tmp_path / "mine.safetensors"
    small.save(path)
    settings = {"feature_strategy": "pca"}
    expected = InContextRegressor(small, **settings).fit(X, y).predict(X_test)
    for weights in (path, str(path)):
        found = InContextRegressor(weights, **settings).fit(X, y).predict(X_test)
        np.testing.assert_array_equal(found, expected)
    named = InContextRegressor("icl-linear").fit(X, y)
    assert named.weights_ is load_in_context_weights("icl-linear")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        InContextRegressor(str(tmp_path / "none.safetensors")).fit(X, y)
    with pytest.raises(ValueError, match="no weights 'icl-none'"):
        InContextRegressor("icl-none").fit(X, y)
    series = pretrain_in_context(
        LDSPrior(4, 2), n_examples_max=9, n_steps=1, width=8, n_layers=1
    )
    with pytest.raises(ValueError, match="reads series; weights for tables"):
        InContextRegressor(series).fit(X, y)


def test_a_failed_fit_leaves_the_model_as_it_was(data):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X, y)
    expected = model.predict(X_test)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full_like(X, np.nan), y)
    with pytest.raises(ValueError, match="not available"):
        model.set_params(device="cuda:99").fit(X, y)
    model.set_params(device="cpu")
    np.testing.assert_array_equal(model.predict(X_test), expected)


def test_it_is_tuned_and_validated_like_any_other():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    X, y = X[:80], y[:80]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), InContextRegressor()),
        {"incontextregressor__n_estimators": [1, 2]},
        cv=2,
    ).fit(X, y)
    assert search.best_score_ > 0
    assert cross_val_score(InContextRegressor(), X, y, cv=2).mean() > 0
    exercise, body = load_linnerud(return_X_y=True, as_frame=True)
    model = InContextRegressor().fit(exercise, body)
    assert list(model.feature_names_in_) == list(exercise)
    assert isinstance(body, pd.DataFrame)
    assert model.predict(exercise).shape == body.shape


def test_later_changes_of_the_callers_arrays_change_nothing(data):
    X, y, X_test, _ = data
    X, y = X.copy(), y.copy()
    model = InContextRegressor().fit(X, y)
    expected = clone(model).fit(X, y).predict(X_test)
    X[:], y[:] = 0, 0
    np.testing.assert_array_equal(model.predict(X_test), expected)


def test_nearest_rows_do_not_depend_on_other_queries_even_in_ties(small):
    grid = np.array([[i, j] for i in range(6) for j in range(6)], dtype=float)
    model = InContextRegressor(small, context_strategy="nearest", max_context=5)
    model.fit(grid, np.arange(36.0) % 7)
    queries = grid + 0.5
    whole = model.predict(queries)
    alone = [model.predict(query[None])[0] for query in queries]
    np.testing.assert_allclose(whole, alone, rtol=0, atol=1e-10)


def test_bundled_names_are_not_taken_over_by_files(data, small, tmp_path, monkeypatch):
    X, y, _, _ = data
    monkeypatch.chdir(tmp_path)
    small.save("icl-mixed")
    (tmp_path / "icl-linear").mkdir()
    assert InContextRegressor().fit(X, y).weights_.card["name"] == "icl-mixed"
    assert InContextRegressor("icl-linear").fit(X, y).weights_.n_features == 10
    found = InContextRegressor("./icl-mixed", feature_strategy="pca").fit(X, y)
    assert found.weights_ == small


def test_components_without_variance_are_left_out_so_that_order_does_not_matter(small):
    rng = np.random.default_rng(0)
    X, y, query = rng.normal(size=(8, 40)), rng.normal(size=8), rng.normal(size=(1, 40))
    rank_two = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 40))
    for rows, targets in ((X[:3], y[:3]), (rank_two, rng.normal(size=30))):
        order = rng.permutation(len(rows))
        one, two = (
            InContextRegressor(small, feature_strategy="pca")
            .fit(rows[index], targets[index])
            .predict(query)
            for index in (slice(None), order)
        )
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-10)


def test_queries_beyond_all_measure_get_finite_answers(data):
    X, y, _, _ = data
    model = InContextRegressor().fit(X, y)
    for dtype in ("float64", "float32"):
        model.set_params(dtype=dtype)
        for size in (1e30, 1e200, 1.7e308):
            assert np.isfinite(model.predict(np.full((1, 4), size))).all()
    extreme = InContextRegressor().fit(1.7e308 * np.sign(X), y)
    assert np.isfinite(extreme.predict(X)).all()


def test_parameters_set_after_the_fit_are_checked_before_a_prediction(data):
    X, y, X_test, _ = data
    model = InContextRegressor().fit(X, y)
    for wrong in ({"batch_size": -5}, {"dtype": "float16"}, {"n_jobs": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            clone(model).set_params(**wrong).fit(X, y)
        changed = InContextRegressor().fit(X, y).set_params(**wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            changed.predict(X_test)


def test_many_outputs_are_read_some_at_a_time(data, monkeypatch):
    X, y, X_test, _ = data
    Y = np.outer(y, np.arange(1, 8))
    whole = InContextRegressor().fit(X, Y).predict(X_test)
    monkeypatch.setattr(context_module, "_CONTEXT_BYTES", 1)
    model = InContextRegressor().fit(X, Y)
    np.testing.assert_allclose(model.predict(X_test), whole, rtol=0, atol=1e-10)
    assert len(model._context._kept) == 7  # each output by itself
