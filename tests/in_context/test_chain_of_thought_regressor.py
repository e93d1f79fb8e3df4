"""ChainOfThoughtRegressor: steps in all their forms, modes, filters, bad input."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.datasets import make_composed_tasks, make_staged_process
from sklearn_attn.in_context import (
    ChainOfThoughtRegressor,
    InContextRegressor,
    MLPPrior,
    filtered_chain,
    filtered_least_squares,
    load_in_context_weights,
    pretrain_chain_of_thought,
)

N = 40


@pytest.fixture(scope="module")
def plant():
    X, steps, y = make_staged_process(N, random_state=0)
    return X, steps, y


@pytest.fixture(scope="module")
def fitted(plant):
    X, steps, y = plant
    return ChainOfThoughtRegressor().fit(X, y, steps=steps)


@pytest.fixture(scope="module")
def small():
    return pretrain_chain_of_thought(
        MLPPrior((6,), bias=0.0),
        n_features_max=6,
        n_steps=2,
        width=16,
        n_layers=2,
        batch_size=4,
        random_state=0,
    )


def two_layers(n, seed=0):
    X, (s,), y = make_composed_tasks(
        1, n, 4, hidden_layer_sizes=(6,), random_state=seed
    )
    return X[0], s[0], y[0]


# Forms of steps


def test_steps_come_in_many_forms(plant, fitted):
    X, steps, y = plant
    q, o = steps.values()
    expected = fitted.predict(X[:5])
    table = np.hstack([q, o])
    for given, settings in [
        ([q, o], {}),
        ((q, pd.DataFrame(o)), {}),
        (table, {"step_sizes": (6, 5)}),
        (pd.DataFrame(table), {"step_sizes": [6, 5]}),
        (table.tolist(), {"step_sizes": np.array([6, 5])}),
        (list(table), {"step_sizes": (6, 5)}),
        ([q.tolist(), o.tolist()], {}),
        (steps.values(), {}),
    ]:
        model = ChainOfThoughtRegressor(**settings).fit(X, y, steps=given)
        np.testing.assert_array_equal(model.predict(X[:5]), expected)
        assert model.step_names_ == ["step_0", "step_1"]
        assert [s.shape for s in model.predict_steps(X[:5])] == [(5, 6), (5, 5)]
    named = fitted.predict_steps(X[:5])
    assert list(named) == ["flows", "overflows"] == fitted.step_names_


def test_steps_of_equal_widths_may_be_one_array_of_three_axes(plant):
    X, steps, y = plant
    both = np.stack([steps["flows"][:, :5], steps["overflows"]], axis=1)
    model = ChainOfThoughtRegressor().fit(X, y, steps=both)
    other = ChainOfThoughtRegressor().fit(X, y, steps=[both[:, 0], both[:, 1]])
    np.testing.assert_array_equal(model.predict(X[:3]), other.predict(X[:3]))
    listed = ChainOfThoughtRegressor().fit(X, y, steps=both.tolist())
    np.testing.assert_array_equal(listed.predict(X[:3]), other.predict(X[:3]))


def test_a_step_may_be_one_column(plant):
    X, steps, y = plant
    flow = steps["flows"][:, 0]
    model = ChainOfThoughtRegressor().fit(X, y, steps=flow)
    assert model.predict_steps(X[:3])[0].shape == (3, 1)
    listed = ChainOfThoughtRegressor().fit(X, y, steps=[flow, steps["overflows"]])
    assert [s.shape[1] for s in listed.steps_context_] == [1, 5]


def test_steps_may_be_columns_of_y(plant, fitted):
    X, steps, y = plant
    Y = np.hstack([*steps.values(), y[:, None]])
    model = ChainOfThoughtRegressor(step_sizes=(6, 5, 1)).fit(X, Y)
    found = model.predict(X[:4])
    np.testing.assert_array_equal(found[:, -1], fitted.predict(X[:4]))
    np.testing.assert_array_equal(found[:, :6], fitted.predict_steps(X[:4])["flows"])
    assert model.score(X, Y) > 0.5  # of scikit-learn, all columns
    at_once = ChainOfThoughtRegressor(step_sizes=(6, 5, 1), mode="icl").fit(X, Y)
    assert at_once.predict(X[:4]).shape == (4, 12)
    risk = model.step_risk(X, Y, None)
    np.testing.assert_array_equal(risk.chained, fitted.step_risk(X, y, steps).chained)


def test_without_steps_it_is_an_in_context_regressor(plant):
    X, _, y = plant
    Y = np.column_stack([y, -y])
    for target in (y, Y):
        found = ChainOfThoughtRegressor().fit(X, target).predict(X)
        expected = InContextRegressor().fit(X, target).predict(X)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="There were no steps in fit"):
        ChainOfThoughtRegressor().fit(X, y).predict_steps(X)


def test_the_last_step_may_have_several_targets(plant):
    X, steps, y = plant
    Y = np.column_stack([y, 2 * y])
    found = ChainOfThoughtRegressor().fit(X, Y, steps=steps).predict(X)
    np.testing.assert_allclose(found[:, 1], 2 * found[:, 0])


# What the chain computes


def test_a_chain_is_one_in_context_regressor_after_the_other(plant, fitted):
    X, steps, y = plant
    state, found = X[:7], []
    before = X
    for after in (*steps.values(), y):
        model = InContextRegressor("cot-mixed").fit(before, after)
        state = model.predict(state)
        found.append(state)
        before = after
    answer, by_name = fitted.predict(X[:7], return_steps=True)
    np.testing.assert_allclose(answer, found[-1])
    for expected, step in zip(found, by_name.values()):
        np.testing.assert_allclose(step, expected)


def test_given_steps_are_what_the_next_one_goes_on_from(plant, fitted):
    X, steps, y = plant
    last = InContextRegressor("cot-mixed").fit(steps["overflows"], y)
    for given in ({"overflows": steps["overflows"]}, {1: steps["overflows"]}):
        found = fitted.predict(X, given=given)
        np.testing.assert_allclose(found, last.predict(steps["overflows"]))
        of_steps = fitted.predict_steps(X, given)
        np.testing.assert_array_equal(
            of_steps["overflows"], fitted.predict_steps(X)["overflows"]
        )
    found = fitted.predict_steps(X, {0: steps["flows"]})
    assert np.abs(found["overflows"] - of_steps["overflows"]).max() > 1e-6


def test_hard_filtering_is_filtered_chain_for_one_table():
    X, s, y = two_layers(30)
    model = ChainOfThoughtRegressor("cot-relu", standardize=False)
    found = model.fit(X[:20], y[:20], steps=s[:20]).predict(X[20:])
    weights = load_in_context_weights("cot-relu")
    tensors = [torch.from_numpy(a)[None] for a in (X, s, y)]
    x, s, t = tensors
    answers = filtered_chain(weights, x[:, :20], [s[:, :20]], t[:, :20], x[:, 20:])
    np.testing.assert_allclose(found, answers[-1][0].numpy())


def test_the_construction_is_filtered_least_squares():
    X, s, y = two_layers(40)
    model = ChainOfThoughtRegressor(solver="filtered", standardize=False)
    found = model.fit(X[:30], y[:30], steps=s[:30]).predict(X[30:])
    x, s, t = (torch.from_numpy(a)[None] for a in (X, s, y))
    answers = filtered_least_squares(x[:, :30], [s[:, :30]], t[:, :30], x[:, 30:])
    np.testing.assert_allclose(found, answers[-1][0].numpy(), atol=1e-9)
    assert model.weights_ is None
    assert len(model.estimators_) == 2


def test_with_constants_the_construction_has_intercepts(plant):
    X, steps, y = make_staged_process(120, noise=0.0, random_state=3)
    for standardize, exact in ((True, True), (False, False)):
        model = ChainOfThoughtRegressor(solver="filtered", standardize=standardize)
        error = np.abs(model.fit(X, y, steps=steps).predict(X) - y).max()
        assert (error < 1e-8) == exact


def test_any_regressor_learns_the_steps(plant):
    X, steps, y = plant
    base = KNeighborsRegressor(1)
    model = ChainOfThoughtRegressor(solver="filtered", estimator=base)
    model.fit(X, y, steps=steps)
    np.testing.assert_array_equal(model.predict(X), y)  # each row finds itself
    assert not hasattr(base, "n_features_in_")
    assert model.get_params()["estimator__n_neighbors"] == 1
    assert [len(of_step) for of_step in model.estimators_] == [6, 5, 1]


def test_attention_reads_steps_as_the_weights_do(small):
    X, s, y = two_layers(30)
    model = ChainOfThoughtRegressor(small, filtering="attention", standardize=False)
    model.fit(X[:20], y[:20], steps=s[:20])
    answer, (step,) = model.predict(X[20:], return_steps=True)
    x, s_, t = (torch.from_numpy(a)[None] for a in (X, s, y))
    known = (x[:, :20], [s_[:, :20]], t[:, :20], x[:, 20:])
    means, _ = small.predict_steps(*known)
    np.testing.assert_allclose(step, means[0][0].numpy())
    np.testing.assert_allclose(answer, means[1][0].numpy())
    forced = model.predict(X[20:], given={0: s[20:]})
    means, _ = small.predict_steps(*known, given={0: s_[:, 20:]})
    np.testing.assert_allclose(forced, means[1][0].numpy())
    for mode in ("cot-i", "icl"):
        model.set_params(mode=mode).fit(X[:20], y[:20], steps=s[:20])
        means, _ = small.predict_steps(*known, mode=mode)
        np.testing.assert_allclose(model.predict(X[20:]), means[0][0].numpy())
        with pytest.raises(ValueError, match=f"mode='{mode}' answers y at once"):
            model.predict(X, return_steps=True)


def test_attention_centres_and_scales_what_it_reads(small):
    X, s, y = two_layers(30)
    model = ChainOfThoughtRegressor(small, filtering="attention")
    found = model.fit(X, y, steps=s).predict(X)
    moved = model.fit(3 * X + 1, 5 * y - 2, steps=7 * s + 4).predict(3 * X + 1)
    np.testing.assert_allclose(moved, 5 * found - 2)


def test_auto_weights_follow_from_mode_and_filter():
    X, s, y = two_layers(20)
    for settings, steps, name in [
        ({}, s, "cot-mixed"),
        ({}, None, "icl-mixed"),
        ({"mode": "icl"}, s, "icl-mixed"),
        ({"mode": "cot-i"}, s, "cot-two-layer"),
        ({"filtering": "attention"}, s, "cot-two-layer"),
    ]:
        model = ChainOfThoughtRegressor(**settings).fit(X, y, steps=steps)
        assert model.weights_ == load_in_context_weights(name)


# The theorem's filter


@pytest.mark.claim
def test_hard_filtering_sees_one_step_and_nothing_else(plant):
    X, steps, y = plant
    q, o = steps.values()
    model = ChainOfThoughtRegressor()
    first, second = model.fit(X, y, steps=[q, o]).predict_steps(X[:5])
    order = np.random.RandomState(0).permutation(N)
    others = model.fit(X, y[order], steps=[q, o]).predict_steps(X[:5])
    np.testing.assert_array_equal(others[0], first)
    np.testing.assert_array_equal(others[1], second)
    forced = model.fit(X, y, steps=[q, o]).predict(X[:5], given={1: o[:5]})
    others = model.fit(X[order], y, steps=[q[order], o]).predict(
        X[:5], given={1: o[:5]}
    )
    np.testing.assert_array_equal(others, forced)


# Parameters


def test_prompts_are_planned_as_for_tables(plant, small):
    X, steps, y = plant
    s = steps["flows"]
    for settings in (
        {"weights": "cot-mixed"},
        {"weights": small, "filtering": "attention"},
    ):
        model = ChainOfThoughtRegressor(**settings, random_state=0)
        whole = model.fit(X, y, steps=s).predict(X[:3])
        model.set_params(max_context=20)
        bags = clone(model).fit(X, y, steps=s).predict(X[:3])
        again = clone(model).fit(X, y, steps=s).predict(X[:3])
        np.testing.assert_array_equal(again, bags)
        assert np.abs(bags - whole).max() > 1e-9
        model.set_params(max_context=None, n_estimators=3)
        turned = clone(model).fit(X, y, steps=s).predict(X[:3])
        assert np.abs(turned - whole).max() > 1e-9
        with pytest.raises(ValueError, match="X has 40 rows; a context takes 20"):
            clone(model).set_params(max_context=20, context_strategy="error").fit(
                X, y, steps=s
            )
        with pytest.warns(UserWarning, match="Of 40 rows, 20 are used") as caught:
            clone(model).set_params(max_context=20, context_strategy="subsample").fit(
                X, y, steps=s
            )
        assert {w.filename for w in caught} == {__file__}


def test_wide_steps_are_reduced_or_refused(plant):
    X, _, y = plant
    wide = np.random.RandomState(0).normal(size=(N, 25))
    with pytest.warns(UserWarning, match="step_0 has 25 features that vary"):
        ChainOfThoughtRegressor().fit(X, y, steps=wide)
    with pytest.raises(ValueError, match="step_0 has 25 features"):
        ChainOfThoughtRegressor(feature_strategy="error").fit(X, y, steps=wide)
    with pytest.raises(ValueError, match=r"step 0 has 25 columns; .* takes 20 at most"):
        ChainOfThoughtRegressor(filtering="attention").fit(X, y, steps=wide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChainOfThoughtRegressor(feature_strategy="pca").fit(X, y, steps=wide)


def test_caches_and_batches_change_nothing(plant, small):
    X, steps, y = plant
    for settings in ({}, {"weights": small, "filtering": "attention"}):
        s = steps["flows"] if settings else steps
        expected = None
        for more in ({}, {"cache": "eager"}, {"cache": "none"}, {"batch_size": 3}):
            model = ChainOfThoughtRegressor(**settings, **more).fit(X, y, steps=s)
            found = model.predict(X)
            expected = found if expected is None else expected
            np.testing.assert_allclose(found, expected)
        parts = getattr(model._chain, "contexts", [model._chain])
        assert all(part._kept for part in parts)
        none = ChainOfThoughtRegressor(**settings, cache="none").fit(X, y, steps=s)
        none.predict(X)
        parts = getattr(none._chain, "contexts", [none._chain])
        assert not any(part._kept for part in parts)


def test_single_precision_is_near_double(plant, fitted):
    X, steps, y = plant
    single = ChainOfThoughtRegressor(dtype="float32", n_jobs=1).fit(X, y, steps=steps)
    apart = np.abs(single.predict(X) - fitted.predict(X)).max()
    assert 0 < apart < 1e-3 * y.std()


def test_pickles_are_small_and_answer_the_same(plant, fitted, small):
    X, steps, y = plant
    fitted.predict(X)
    data = pickle.dumps(fitted)
    assert len(data) < 60_000  # no keys, no values, and weights by name
    np.testing.assert_array_equal(pickle.loads(data).predict(X), fitted.predict(X))
    model = ChainOfThoughtRegressor(small, filtering="attention")
    model.fit(X, y, steps=steps["flows"])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


# In the company of scikit-learn


def test_steps_are_routed_without_a_request(plant):
    X, steps, y = plant
    table = np.hstack(list(steps.values()))
    model = ChainOfThoughtRegressor(solver="filtered", step_sizes=(6, 5))
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), model)
        scores = cross_val_score(pipeline, X, y, params={"steps": table}, cv=3)
        search = GridSearchCV(model, {"standardize": [True, False]}, cv=3)
        search.fit(X, y, steps=table)
    assert scores.shape == (3,)
    assert search.best_params_ == {"standardize": True}
    direct = make_pipeline(StandardScaler(), clone(model))
    direct.fit(X, y, chainofthoughtregressor__steps=table)
    expected = model.fit(X, y, steps=table).predict(X)
    np.testing.assert_allclose(direct.predict(X), expected)


def test_arrays_of_torch_come_back_as_such(plant, fitted):
    X, steps, y = plant
    tensors = {name: torch.from_numpy(s) for name, s in steps.items()}
    with config_context(array_api_dispatch=True):
        model = ChainOfThoughtRegressor().fit(
            torch.from_numpy(X), torch.from_numpy(y), steps=tensors
        )
        answer, found = model.predict(
            torch.from_numpy(X[:3]), return_steps=True, given={0: tensors["flows"][:3]}
        )
        risk = model.step_risk(torch.from_numpy(X), torch.from_numpy(y), tensors)
    assert isinstance(answer, torch.Tensor)
    assert isinstance(found["overflows"], torch.Tensor)
    expected = fitted.predict(X[:3], given={0: steps["flows"][:3]})
    np.testing.assert_allclose(answer.numpy(), expected)
    np.testing.assert_allclose(risk.alone, fitted.step_risk(X, y, steps).alone)


def test_risks_are_errors_over_the_spread_of_each_step(plant, fitted):
    X, steps, y = plant
    X_new, new, y_new = make_staged_process(50, random_state=7)
    risk = fitted.step_risk(X_new, y_new, new)
    assert risk.names == ["flows", "overflows", "y"]
    found = fitted.predict(X_new)
    spread = np.square(y_new - y.mean()).mean()
    assert risk.chained[-1] == pytest.approx(np.square(found - y_new).mean() / spread)
    forced = fitted.predict_steps(X_new, new)["overflows"]
    o = new["overflows"]
    spread = np.square(o - steps["overflows"].mean(0)).mean()
    assert risk.alone[1] == pytest.approx(np.square(forced - o).mean() / spread)
    assert risk.alone[0] == risk.chained[0]
    assert risk.composed == pytest.approx(risk.alone.sum())
    turned = {name: new[name] for name in ("overflows", "flows")}
    again = fitted.step_risk(X_new, y_new, turned)  # names say which is which
    np.testing.assert_array_equal(again.chained, risk.chained)
    for bad, message in [
        ({"flows": new["flows"]}, "in fit, they were"),
        ([new["flows"]], "1 steps; in fit, there were"),
        (None, "0 steps; in fit, there were"),
        ([new["overflows"], new["flows"]], "have shapes"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted.step_risk(X_new, y_new, bad)
    later = clone(fitted).fit(X, y, steps=steps).set_params(standardize=False)
    np.testing.assert_array_equal(
        later.step_risk(X_new, y_new, new).chained, risk.chained
    )
    none = fitted.step_risk(X_new, 0 * y_new + y.mean(), new)
    assert none.chained[-1] == np.inf  # what never changes has no spread


# Bad input


def test_bad_steps_are_refused(plant):
    X, steps, y = plant
    q, o = steps.values()
    bad = o.copy()
    bad[3, 1] = np.nan
    for given, settings, message in [
        ([q, o[:-1]], {}, "The step 'step_1' has 39 rows; X has 40"),
        ({"a": q, "b": bad}, {}, "step 'b' contains NaN"),
        ({}, {}, "steps is empty"),
        ([], {}, "steps is empty"),
        ({1: q, "a": o}, {}, "Names of steps must be strings, other than 'y'; got 1"),
        ({"a": q, "y": o}, {}, "other than 'y'; got 'y'"),
        ({"a": None}, {}, "step 'a' must have a value for each sample"),
        (np.full(N, "2020-01-01", dtype="datetime64[s]"), {}, "has dates or times"),
        ([[0.0] * N] * N, {}, "may be steps or samples"),
        (q, {"step_sizes": (4, 3)}, "sum to 7; steps has 6 columns"),
        (q, {"step_sizes": (6.5,)}, "step_sizes must be whole numbers"),
        ([q, o], {"step_sizes": (6, 5)}, "splits the columns of one array"),
        ({"a": q}, {"step_sizes": (6,)}, "steps by names come split"),
        (None, {"step_sizes": (3, 1)}, "sum to 4; y has 1 columns"),
    ]:
        with pytest.raises(ValueError, match=message):
            ChainOfThoughtRegressor(**settings).fit(X, y, steps=given)


def test_bad_given_steps_are_refused(plant, fitted):
    X, steps, _ = plant
    for given, message in [
        ({"pumps": steps["flows"]}, "given has a step 'pumps'"),
        ({2: steps["flows"]}, "given has a step 2"),
        ({0: steps["flows"][:, :3]}, r"has shape \(40, 3\); wanted \(40, 6\)"),
        ({0: steps["flows"] * np.nan}, "NaN"),
        ([steps["flows"]], "given must map steps"),
        (steps["flows"], "given must map steps"),
        ({True: steps["overflows"]}, "given has a step True"),
        ({0: steps["flows"], "flows": steps["flows"]}, "is there twice"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted.predict(X, given=given)
    plain = ChainOfThoughtRegressor().fit(X, X[:, 0])
    with pytest.raises(ValueError, match="There were no steps in fit"):
        plain.predict(X, given={0: steps["flows"]})


def test_weights_and_modes_must_go_together(plant, small):
    X, steps, y = plant
    s = steps["flows"]
    for settings, message in [
        ({"weights": small}, "reads chain; mode='cot-io' with filtering='hard'"),
        ({"weights": "icl-mixed", "mode": "cot-i"}, "takes chain or causal-chain"),
        ({"solver": "filtered", "mode": "cot-i"}, "answers at once after examples"),
        ({"device": "cuda:99"}, "is not available here"),
        ({"weights": "cot-none"}, "There are no weights 'cot-none'"),
    ]:
        with pytest.raises(ValueError, match=message):
            ChainOfThoughtRegressor(**settings).fit(X, y, steps=s)
    with pytest.raises(ValueError, match=r"2 steps between X and y; .* takes 1"):
        ChainOfThoughtRegressor(filtering="attention").fit(X, y, steps=steps)
    near = ChainOfThoughtRegressor(filtering="attention", context_strategy="nearest")
    with pytest.raises(ValueError, match="'nearest' is for weights of tables"):
        near.set_params(max_context=9).fit(X, y, steps=s)
    near.set_params(max_context=N).fit(X, y, steps=s)  # all rows: nothing to choose
    with pytest.raises(ValueError, match="is not available here"):
        ChainOfThoughtRegressor(solver="filtered", device="cuda:99").fit(X, y, steps=s)
    Y = np.column_stack([s, y])
    with pytest.raises(ValueError, match="answers the target only"):
        ChainOfThoughtRegressor(mode="cot-i", step_sizes=(6, 1)).fit(X, Y)


def test_a_failed_fit_leaves_the_model_as_it_was(plant):
    X, steps, y = plant
    model = ChainOfThoughtRegressor(solver="filtered").fit(X, y, steps=steps)
    before = model.predict(X)
    with pytest.raises(ValueError, match="rows"):
        model.fit(X, y, steps=steps["flows"][:5])
    np.testing.assert_array_equal(model.predict(X), before)

    class Failing(LinearRegression):
        def fit(self, X, y):
            if X.shape[1] == 5:  # the last step, when others are fitted
                raise RuntimeError("not today")
            return super().fit(X, y)

    with pytest.raises(RuntimeError, match="not today"):
        model.set_params(estimator=Failing()).fit(X + 1, y, steps=steps)
    np.testing.assert_array_equal(model.predict(X), before)


def test_what_the_caller_has_is_neither_written_nor_kept(plant):
    X, steps, y = (plant[0].copy(), plant[1], plant[2].copy())
    steps = {name: s.copy() for name, s in steps.items()}
    held = [X, y, *steps.values()]
    copies = [a.copy() for a in held]
    for array in held:
        array.setflags(write=False)
    for settings in ({}, {"solver": "filtered"}):
        model = ChainOfThoughtRegressor(**settings).fit(X, y, steps=steps)
        expected = model.predict(X[:4], given={0: steps["flows"][:4]})
        for array in held:
            array.setflags(write=True)
            array += 1.0
        rows, flows = copies[0][:4], copies[2][:4]
        np.testing.assert_array_equal(model.predict(rows, given={0: flows}), expected)
        for array, copy in zip(held, copies):
            array[...] = copy
            array.setflags(write=False)


def test_a_regressor_that_writes_to_its_input_harms_nothing(plant):
    X, steps, y = plant
    expected = None
    for copy_X in (True, False):
        base = LinearRegression(copy_X=copy_X)
        model = ChainOfThoughtRegressor(solver="filtered", estimator=base)
        model.fit(X, y, steps=steps)
        found = model.predict(X)
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected)
        np.testing.assert_array_equal(model.X_context_, X)
        np.testing.assert_array_equal(model.steps_context_[0], steps["flows"])


def test_counts_and_indicators_are_not_taken_for_relus(plant):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(200, 3))
    kind = np.eye(3)[X.argmax(1)]
    y = kind @ [1.0, 2.0, 5.0]
    base = ChainOfThoughtRegressor(solver="filtered", estimator=LinearRegression())
    expected = base.fit(X, y, steps=kind).predict(X)
    model = ChainOfThoughtRegressor(solver="filtered").fit(X, y, steps=kind)
    np.testing.assert_allclose(model.predict(X), expected)
    # nor is the last step ever one
    is_positive = (X[:, 0] > 0).astype(float)
    plain = ChainOfThoughtRegressor(solver="filtered").fit(X, is_positive)
    np.testing.assert_allclose(
        plain.predict(X), LinearRegression().fit(X, is_positive).predict(X)
    )


# Odd tables


def test_attention_answers_what_is_constant(small):
    X, s, y = two_layers(30)
    s[:, 2] = 1e-9
    for standardize in (True, False):
        model = ChainOfThoughtRegressor(
            small, filtering="attention", standardize=standardize
        )
        found, (step,) = model.fit(X, y, steps=s).predict(X, return_steps=True)
        assert (step[:, 2] == 1e-9).all()
        assert np.ptp(step[:, 1]) > 0
        given = model.predict(X, given={0: step})
        np.testing.assert_allclose(given, found)
        assert (model.fit(X, 0 * y + 3, steps=s).predict(X) == 3).all()
    for mode in ("cot-io", "cot-i"):
        model = ChainOfThoughtRegressor(small, mode=mode, filtering="attention")
        for cache in ("lazy", "eager"):
            model.set_params(cache=cache)
            np.testing.assert_allclose(
                model.fit(0 * X, y, steps=s).predict(X), y.mean()
            )
            np.testing.assert_allclose(
                model.fit(X[:1], y[:1], steps=s[:1]).predict(X), y[0]
            )


@pytest.mark.parametrize("filtering", ["hard", "attention"])
def test_far_queries_get_finite_answers(filtering):
    X, s, y = two_layers(30)
    model = ChainOfThoughtRegressor(filtering=filtering).fit(X, y, steps=s)
    assert np.isfinite(model.predict(np.full((2, 4), 1e300))).all()
    assert np.isfinite(model.predict(X[:2], given={0: np.full((2, 6), 1e300)})).all()


def test_attributes_that_are_written_to_do_not_change_the_model(small):
    X, s, y = two_layers(30)
    for settings in ({}, {"weights": small, "filtering": "attention"}):
        model = ChainOfThoughtRegressor(**settings).fit(X, y, steps=s)
        model.X_context_[:], model.steps_context_[0][:] = 0, 0
        other = clone(model).fit(X, y, steps=s)
        np.testing.assert_array_equal(model.predict(X), other.predict(X))


def test_the_causal_form_reads_one_table_too():
    weights = pretrain_chain_of_thought(
        MLPPrior((6,), bias=0.0),
        architecture="gpt2",
        n_features_max=4,
        n_examples_max=20,
        n_steps=1,
        width=16,
        n_layers=1,
        batch_size=2,
        random_state=0,
    )
    X, s, y = two_layers(30)
    model = ChainOfThoughtRegressor(weights, filtering="attention", random_state=0)
    model.fit(X[:20], y[:20], steps=s[:20])
    whole = model.predict(X[20:])
    parts = np.hstack([model.predict(X[[i]]) for i in range(20, 30)])
    np.testing.assert_allclose(whole, parts)
    bags = model.fit(X, y, steps=s)._chain.members  # 30 rows are too many for one
    assert [len(member.rows) for member in bags] == [15, 15]
    with pytest.raises(ValueError, match="not mode='icl'"):
        model.set_params(mode="icl").fit(X[:20], y[:20], steps=s[:20])


@pytest.mark.parametrize("filtering", ["hard", "attention"])
def test_tensors_of_shapes_that_do_not_fit_are_refused(filtering):
    X, s, y = (torch.randn(2, 9, k, dtype=torch.float64) for k in (4, 6, 1))
    if filtering == "hard":
        weights = load_in_context_weights("cot-relu")

        def answer(X, s, y, X_query, **more):
            return filtered_chain(weights, X, [s], y, X_query, **more)
    else:
        weights = load_in_context_weights("cot-two-layer")

        def answer(X, s, y, X_query, **more):
            return weights.predict_steps(X, [s], y, X_query, **more)

    for bad, message in [
        ({"X_query": X[..., :3]}, "X_query must have the shape"),
        ({"s": s[:, :5]}, r"steps\[0\] must have the shape"),
        ({"y": y[:, :5]}, "y must have the shape"),
        ({"given": {0: s[..., :3]}}, r"given\[0\] must have the shape"),
        ({"given": {3: s}}, "given has a step 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            answer(**({"X": X, "s": s, "y": y, "X_query": X} | bad))
