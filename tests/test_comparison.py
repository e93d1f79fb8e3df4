import io
import itertools
import re
import sys
import time
from contextlib import redirect_stderr
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_validate,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from sklearn_attn.comparison import ComparisonDisplay, ComparisonResult, compare
from sklearn_attn.comparison._corrected_t_test import corrected_t_test, holm

CONFIDENCE = 0.95


@pytest.fixture
def iris():
    return load_iris(return_X_y=True)


class FoldSum(RegressorMixin, BaseEstimator):
    """Scores the sum of the test rows, which tells folds apart."""

    def fit(self, X, y):
        return self

    def score(self, X, y):
        return np.sum(X)


class Failing(ClassifierMixin, BaseEstimator):
    """Fails if the first training row ends in a given value, or always."""

    def __init__(self, message="no luck", when=None):
        self.message = message
        self.when = when

    def fit(self, X, y):
        if self.when is None or X[0, -1] == self.when:
            raise ArithmeticError(self.message)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class Hungry(BaseEstimator):
    """Holds so many MiB during fit, and frees them."""

    def __init__(self, mib):
        self.mib = mib

    def fit(self, X, y=None):
        np.ones(self.mib * 2**20 // 8)
        return self

    def score(self, X, y=None):
        return 0.0


class Sleepy(BaseEstimator):
    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def fit(self, X, y=None):
        time.sleep(self.seconds)
        return self

    def score(self, X, y=None):
        return 0.0


def result_of(scores, train_size=80, test_size=20):
    """Build a result by hand: the baseline "a", then "b", "c", ..."""
    scores = np.array(scores, dtype=float)
    n_candidates, n_folds = scores.shape
    return ComparisonResult(
        names=tuple("abcdefgh"[:n_candidates]),
        baseline="a",
        scores={"score": scores},
        fit_times=np.ones_like(scores),
        score_times=np.ones_like(scores),
        peak_memory=np.full(n_candidates, np.nan),
        errors={},
        train_sizes=np.full(n_folds, train_size),
        test_sizes=np.full(n_folds, test_size),
    )


# --- the test ---------------------------------------------------------------------


def test_the_statistic_equals_a_hand_computed_one():
    # d = 1, 2, 3: mean 2, variance 1; t = 2 / sqrt(1/3 + 20/80) on 2 degrees of
    # freedom, whose distribution function is 1/2 + t / (2 sqrt(2 + t^2)).
    test = result_of([[0, 0, 0], [1, 2, 3]]).test()["b"]
    t = 2 / np.sqrt(7 / 12)
    assert test.difference == 2
    assert test.statistic == pytest.approx(t, rel=1e-14)
    assert test.p_value == pytest.approx(1 - t / np.sqrt(2 + t**2), rel=1e-12)


def test_the_interval_is_where_the_test_stops_rejecting():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 12))
    test = result_of(scores).test(confidence_level=0.9)["b"]
    for end in (test.ci_low, test.ci_high):
        shifted = result_of([scores[0], scores[1] - end]).test()["b"]
        assert shifted.p_value == pytest.approx(0.1, rel=1e-9)


def test_without_overlap_it_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 10))
    test = corrected_t_test(b - a, 0.0, CONFIDENCE)
    plain = stats.ttest_rel(b, a)
    assert test.statistic == pytest.approx(plain.statistic, rel=1e-12)
    assert test.p_value == pytest.approx(plain.pvalue, rel=1e-12)


def test_it_rejects_a_true_null_as_often_as_it_says_and_the_naive_test_does_not():
    # Where two folds' differences correlate by n_test / (n_train + n_test), the
    # assumption of Nadeau and Bengio, the statistic is exactly Student's t.
    n_draws, n_folds, level = 2000, 10, 0.05
    train_size, test_size = 90, 10
    correlation = test_size / (train_size + test_size)
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(n_draws, 1)) * np.sqrt(correlation)
    own = rng.normal(size=(n_draws, n_folds)) * np.sqrt(1 - correlation)
    rates = {
        ratio: np.mean(
            [
                corrected_t_test(d, ratio, CONFIDENCE).p_value < level
                for d in shared + own
            ]
        )
        for ratio in (test_size / train_size, 0.0)
    }
    corrected, naive = rates.values()
    standard_error = np.sqrt(level * (1 - level) / n_draws)
    assert abs(corrected - level) < 3 * standard_error
    assert naive > level + 10 * standard_error


def test_uneven_folds_enter_by_their_mean_sizes(iris):
    X, y = iris
    folds = [
        (np.r_[0:40, 50:90], np.r_[40:50, 90:100]),
        (np.r_[0:45, 60:90], np.r_[50:60]),
        (np.r_[0:30, 50:99], np.r_[30:40]),
    ]
    result = compare(
        {"a": GaussianNB(), "b": DecisionTreeClassifier(max_depth=1)}, X, y, cv=folds
    )
    assert result.train_sizes.tolist() == [80, 75, 79]
    assert result.test_sizes.tolist() == [20, 10, 10]
    a, b = result.scores["score"]
    expected = corrected_t_test(b - a, (40 / 3) / 78, CONFIDENCE)
    assert result.test()["b"] == expected


def test_folds_given_as_boolean_masks_have_their_true_sizes(iris):
    X, y = iris
    test_part = np.arange(len(y)) % 3 == 0
    result = compare({"a": GaussianNB()}, X, y, cv=[(~test_part, test_part)])
    assert (result.train_sizes.tolist(), result.test_sizes.tolist()) == ([100], [50])


def test_identical_scores_differ_by_nothing_with_certainty():
    test = result_of([[0.1, 0.7, 0.3], [0.1, 0.7, 0.3]]).test()["b"]
    assert test[:5] == (0, 0, 0, 0, 1)


def test_a_constant_difference_is_certain():
    # 0.1 three times: its mean rounds, and the variance must be 0 all the same
    test = result_of([[0, 0, 0], [0.1, 0.1, 0.1]]).test()["b"]
    assert test[:5] == (0.1, 0.1, 0.1, np.inf, 0)
    test = result_of([[0.1, 0.1, 0.1], [0, 0, 0]]).test()["b"]
    assert test.statistic == -np.inf


def test_one_fold_tests_nothing():
    test = result_of([[0.2], [0.5]]).test()["b"]
    assert test.difference == pytest.approx(0.3)
    assert np.isnan(test[1:]).all()


def test_holm_is_the_step_down_bonferroni():
    # sorted .01, .03, .04 times 3, 2, 1: .03, .06, .04, and the last is raised to .06
    adjusted = holm(np.array([0.01, 0.04, 0.03, np.nan]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, np.nan], rtol=1e-15)


def test_holm_leaves_a_single_comparison_alone_and_raises_several():
    rng = np.random.default_rng(3)
    scores = np.array([[0], [1], [2]]) + rng.normal(size=(3, 8))
    alone = result_of(scores[:2]).test()["b"]
    assert alone.p_value_holm == alone.p_value
    both = result_of(scores).test()
    smallest = min(both.values(), key=lambda test: test.p_value)
    assert smallest.p_value_holm == pytest.approx(2 * smallest.p_value)


# --- the folds --------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_all_candidates_see_the_same_folds(n_jobs):
    X = np.random.default_rng(0).normal(size=(30, 2))
    # unseeded on purpose: a second call of split would give other folds
    cv = KFold(4, shuffle=True)
    candidates = {name: FoldSum() for name in "abc"}
    scores = compare(candidates, X, X[:, 0], cv=cv, n_jobs=n_jobs).scores["score"]
    assert len(np.unique(scores[0])) == 4
    np.testing.assert_array_equal(scores, scores[[0, 0, 0]])


def test_folds_from_a_generator_serve_every_candidate():
    X = np.arange(12.0)[:, None]
    folds = (fold for fold in KFold(3).split(X))
    scores = compare({"a": FoldSum(), "b": FoldSum()}, X, X[:, 0], cv=folds)
    assert scores.scores["score"].tolist() == [[6, 22, 38], [6, 22, 38]]


def test_scores_are_those_of_cross_validate(iris):
    cv = StratifiedKFold(3)
    estimator = LogisticRegression(max_iter=1000)
    result = compare({"a": estimator}, *iris, cv=cv, scoring="neg_log_loss")
    expected = cross_validate(estimator, *iris, cv=cv, scoring="neg_log_loss")
    np.testing.assert_array_equal(
        result.scores["neg_log_loss"][0], expected["test_score"]
    )


def count_classes(estimator, X, y):
    return len(np.unique(y))


@pytest.mark.parametrize(
    ("candidates", "n_classes"),
    [
        ({"a": LinearRegression(), "b": GaussianNB()}, 3),
        ({"a": GaussianNB(), "b": LinearRegression()}, 3),
        ({"a": LinearRegression()}, 1),
    ],
)
def test_any_classifier_makes_the_folds_stratified(iris, candidates, n_classes):
    # iris is sorted by class: three plain folds hold one class each
    result = compare(candidates, *iris, cv=3, scoring=count_classes)
    assert (result.scores["score"] == n_classes).all()


def test_groups_reach_the_splitter():
    X = np.arange(6.0)[:, None]
    groups = [0, 1, 2, 0, 1, 2]
    result = compare({"a": FoldSum()}, X, X[:, 0], cv=GroupKFold(3), groups=groups)
    assert sorted(result.scores["score"][0]) == [3, 5, 7]


def test_two_jobs_equal_one(iris):
    candidates = {
        "tree": DecisionTreeClassifier(random_state=0),
        "failing": Failing(when=0.2),
        "Bayes": GaussianNB(),
    }
    with pytest.warns(FitFailedWarning):
        one = compare(candidates, *iris, cv=4)
    with pytest.warns(FitFailedWarning):
        two = compare(candidates, *iris, cv=4, n_jobs=2)
    np.testing.assert_array_equal(one.scores["score"], two.scores["score"])
    assert one.errors == two.errors
    assert one.names == two.names


def test_candidates_are_not_fitted_themselves(iris):
    estimator = GaussianNB()
    compare({"a": estimator}, *iris)
    assert not hasattr(estimator, "theta_")


# --- what may be compared ---------------------------------------------------------


def test_pipelines_and_searches_are_candidates_like_any_other(iris):
    candidates = {
        "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
        "search": GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1, 3]}, cv=3),
    }
    result = compare(candidates, *iris, cv=3, return_estimators=True, n_jobs=2)
    assert not result.errors
    assert result.scores["score"].min() > 0.85
    depths = [
        search.best_params_["max_depth"] for search in result.estimators["search"]
    ]
    assert depths == [3, 3, 3]


def test_estimators_are_kept_only_on_demand(iris):
    assert compare({"a": GaussianNB()}, *iris).estimators is None
    with pytest.warns(FitFailedWarning):
        kept = compare(
            {"a": Failing(when=0.2)}, *iris, cv=3, return_estimators=True
        ).estimators["a"]
    assert [estimator is None for estimator in kept] == [False, True, True]
    assert list(kept[0].classes_) == [0, 1, 2]


@pytest.mark.parametrize(
    "scoring",
    [
        ["accuracy", "balanced_accuracy"],
        ("accuracy", "balanced_accuracy"),
        {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy"},
    ],
)
def test_several_metrics_each_have_scores_and_a_test(iris, scoring):
    candidates = {"a": GaussianNB(), "b": DecisionTreeClassifier(max_depth=1)}
    result = compare(candidates, *iris, cv=KFold(4, shuffle=True), scoring=scoring)
    assert list(result.scores) == ["accuracy", "balanced_accuracy"]
    default, second = result.to_frame(), result.to_frame("balanced_accuracy")
    np.testing.assert_array_equal(default["mean"], result.scores["accuracy"].mean(1))
    assert not default["mean"].equals(second["mean"])
    with pytest.raises(ValueError, match="'recall' is not one of"):
        result.test("recall")


def test_a_callable_may_return_several_metrics(iris):
    def sizes(estimator, X, y):
        return {"rows": len(X), "columns": X.shape[1]}

    result = compare({"a": GaussianNB()}, *iris, cv=3, scoring=sizes)
    assert {metric: row[0, 0] for metric, row in result.scores.items()} == {
        "rows": 50,
        "columns": 4,
    }


def three_d(X):
    return np.stack([X, X], axis=1)


def ragged(X):
    return [row[: 2 + i % 2] for i, row in enumerate(X)]


def frame(X):
    return pytest.importorskip("pandas").DataFrame(X)


@pytest.mark.parametrize("container", [three_d, ragged, frame])
def test_any_container_of_samples_is_split(iris, container):
    X, y = iris
    scoring = {"rows": lambda estimator, X, y: len(X)}
    result = compare({"a": DummyClassifier()}, container(X), y, cv=3, scoring=scoring)
    assert result.scores["rows"].tolist() == [[50, 50, 50]]


def test_sample_weights_are_split_with_the_folds(iris):
    X, y = iris
    weight = (y == 2).astype(float)  # the only class that counts
    result = compare(
        {"weighted": DummyClassifier()},
        X,
        y,
        cv=3,
        params={"sample_weight": weight},
        return_estimators=True,
    )
    for estimator in result.estimators["weighted"]:
        assert estimator.class_prior_.tolist() == [0, 0, 1]


def test_metadata_routing_reaches_workers_and_the_fit_for_memory(iris):
    X, y = iris
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            DummyClassifier().set_fit_request(sample_weight=True),
        )
        accuracy = make_scorer(accuracy_score).set_score_request(sample_weight=False)
        result = compare(
            {"routed": pipeline},
            X,
            y,
            cv=3,
            scoring=accuracy,
            params={"sample_weight": (y == 2).astype(float)},
            n_jobs=2,
            measure_memory=True,
            return_estimators=True,
        )
    for estimator in result.estimators["routed"]:
        assert estimator[-1].class_prior_.tolist() == [0, 0, 1]
    # without routing, this fit would refuse the weights and warn
    measurable = sys.platform in ("linux", "darwin")
    assert np.isfinite(result.peak_memory[0]) == measurable


def test_no_target_is_needed():
    result = compare({"a": Sleepy(), "b": Sleepy()}, np.ones((6, 1)), cv=3)
    assert result.scores["score"].tolist() == [[0, 0, 0]] * 2


def test_times_are_those_of_the_fit():
    result = compare({"a": Sleepy(0.05), "b": Sleepy()}, np.ones((6, 1)), cv=3)
    slow, fast = result.fit_times
    assert slow.min() >= 0.05
    assert np.median(fast) < 0.05
    assert result.to_frame().loc["a", "fit_time"] == np.median(slow)


# --- failures ---------------------------------------------------------------------


def test_a_failing_candidate_is_reported_and_the_others_go_on(iris):
    candidates = {
        "good": GaussianNB(),
        "bad": Failing("no luck"),
        "other": GaussianNB(),
    }
    with pytest.warns(
        FitFailedWarning, match="'bad' failed: ArithmeticError"
    ) as record:
        result = compare(candidates, *iris, cv=3)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert result.errors == {"bad": "ArithmeticError: no luck (3 of 3 folds)"}
    assert np.isnan(result.scores["score"][1]).all()
    assert result.test()["other"].p_value == 1
    assert np.isnan(result.test()["bad"]).all()
    assert result.to_frame()["error"].tolist() == ["", result.errors["bad"], ""]


def test_a_candidate_that_fails_on_one_fold_has_no_mean(iris):
    X, y = iris
    first_rows = [X[train[0], -1] for train, _ in StratifiedKFold(3).split(X, y)]
    failing = Failing(when=first_rows[0])
    n_failed = first_rows.count(first_rows[0])
    assert 0 < n_failed < 3
    with pytest.warns(FitFailedWarning, match=f"{n_failed} of 3 folds"):
        result = compare({"good": GaussianNB(), "bad": failing}, X, y, cv=3)
    scored = ~np.isnan(result.scores["score"][1])
    assert scored.sum() == 3 - n_failed
    assert np.isnan(result.to_frame().loc["bad", "mean"])
    assert np.isnan(result.test()["bad"].p_value)


def test_a_failing_baseline_leaves_no_test(iris):
    with pytest.warns(
        FitFailedWarning, match="it is the baseline, so nothing is tested"
    ):
        result = compare({"bad": Failing(), "good": GaussianNB()}, *iris, cv=3)
    assert np.isnan(result.test()["good"]).all()
    assert result.to_frame().loc["good", "mean"] > 0.9


def test_a_failing_metric_is_a_failure_of_the_candidate(iris):
    def scoring(estimator, X, y):
        return estimator.predict_proba(X).max()

    candidates = {"good": GaussianNB(), "bad": LinearRegression()}
    with pytest.warns(FitFailedWarning, match="'bad' failed: AttributeError"):
        compare(candidates, *iris, cv=3, scoring=scoring)


def test_if_all_fail_the_error_names_each(iris):
    candidates = {"one": Failing("no luck"), "two": Failing("bad weather")}
    with pytest.raises(ValueError, match="all candidates failed") as error:
        compare(candidates, *iris, cv=3)
    assert "'one': ArithmeticError: no luck" in str(error.value)
    assert "'two': ArithmeticError: bad weather" in str(error.value)


@pytest.mark.parametrize(
    ("candidates", "options", "error", "message"),
    [
        ({}, {}, ValueError, "candidates is empty"),
        ([GaussianNB()], {}, TypeError, "mapping of name to estimator, got list"),
        ({1: GaussianNB()}, {}, TypeError, "must be strings, got 1"),
        ({"a": GaussianNB}, {}, TypeError, "'a' must be an instance of an estimator"),
        ({"a": "SVC"}, {}, TypeError, "'a' must be an instance .* got 'SVC'"),
        ({"a": GaussianNB()}, {"baseline": "b"}, ValueError, "'b' is not one of"),
        ({"a": GaussianNB()}, {"scoring": "no_such_metric"}, ValueError, "scoring"),
        ({"a": StandardScaler()}, {}, TypeError, "no scoring is specified|'score'"),
        ({"a": GaussianNB()}, {"cv": []}, ValueError, "cv yields no fold"),
        ({"a": GaussianNB()}, {"progress": "yes"}, ValueError, "progress must be"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    iris, monkeypatch, candidates, options, error, message
):
    def work(*args, **kwargs):
        raise AssertionError("a fold was run")

    monkeypatch.setattr("sklearn_attn.comparison._compare._cross_validate", work)
    with pytest.raises(error, match=message):
        compare(candidates, *iris, **options)


def test_the_baseline_is_the_first_or_the_one_named(iris):
    candidates = {"a": GaussianNB(), "b": GaussianNB(), "c": GaussianNB()}
    assert list(compare(candidates, *iris).test()) == ["b", "c"]
    assert list(compare(candidates, *iris, baseline="b").test()) == ["a", "c"]


# --- memory -----------------------------------------------------------------------


@pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"), reason="peak memory is not measured here"
)
def test_memory_sees_what_a_fit_allocates_and_not_what_the_parent_holds():
    # More than the child takes: on Linux ru_maxrss would start from this peak.
    parent = np.ones(600 * 2**20 // 8)
    X = parent[: 5 * 2**20].reshape(-1, 8)  # 40 MiB, loaded before the fit
    candidates = {"hungry": Hungry(200), "modest": Hungry(1)}
    result = compare(candidates, X, cv=2, measure_memory=True)
    hungry, modest = result.peak_memory
    # The allocator's and the interpreter's own pages: a few MiB, never tens.
    assert hungry == pytest.approx(200, abs=5)
    assert modest == pytest.approx(1, abs=5)
    assert result.to_frame()["peak_memory"].tolist() == [hungry, modest]
    assert "peak [MiB]" in repr(result)


@pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"), reason="peak memory is not measured here"
)
def test_memory_counts_the_fits_inside_a_parallel_search(iris):
    # not refitted: all of its fits would run in other processes
    search = GridSearchCV(Hungry(1), {"mib": [200]}, cv=2, n_jobs=2, refit=False)
    result = compare(
        {"a": search}, *iris, cv=2, scoring=count_classes, measure_memory=True
    )
    # the search's own bookkeeping comes on top
    assert result.peak_memory[0] == pytest.approx(200, abs=10)


def test_memory_is_not_measured_unasked(iris):
    result = compare({"a": GaussianNB()}, *iris)
    assert np.isnan(result.peak_memory).all()
    assert "peak" not in repr(result)


def test_a_failure_of_the_extra_fit_costs_only_the_memory(iris):
    X, y = iris
    # a fold whose training rows do not begin with the fatal one; all rows do
    folds = [(np.arange(50, 100), np.arange(100, 150))]
    with pytest.warns(RuntimeWarning, match="memory of 'a' was not measured: Arith"):
        result = compare(
            {"a": Failing(when=X[0, -1])}, X, y, cv=folds, measure_memory=True
        )
    assert np.isnan(result.peak_memory).all()
    assert not result.errors


# --- progress ---------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def counts(stream):
    """Return every "done/total" that was drawn."""
    return re.findall(r"(\d+/\d+)", stream.getvalue())


def test_progress_is_drawn_on_a_terminal(iris):
    pytest.importorskip("rich")
    candidates = {"[good]": GaussianNB(), "bad": Failing()}
    with redirect_stderr(Terminal()) as drawn, pytest.warns(FitFailedWarning):
        compare(candidates, *iris, cv=3)
    assert counts(drawn)[-2:] == ["3/3", "3/3"]
    assert "[good]" in drawn.getvalue()
    assert re.search(r"bad .*failed", drawn.getvalue())


def test_progress_is_silent_off_a_terminal_and_when_switched_off(iris):
    with redirect_stderr(Terminal()) as drawn:
        compare({"a": GaussianNB()}, *iris, progress=False)
    assert drawn.getvalue() == ""
    with redirect_stderr(io.StringIO()) as drawn:
        compare({"a": GaussianNB()}, *iris)
    assert drawn.getvalue() == ""


def test_progress_can_be_demanded_off_a_terminal(iris):
    pytest.importorskip("rich")
    with redirect_stderr(io.StringIO()) as drawn:
        compare({"a": GaussianNB()}, *iris, progress=True)
    assert counts(drawn)[-1] == "5/5"


def test_without_rich_a_terminal_gets_no_bar_and_a_demand_an_error(iris, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "rich"] + ["rich"]:
        monkeypatch.setitem(sys.modules, module, None)
    with redirect_stderr(Terminal()) as drawn:
        compare({"a": GaussianNB()}, *iris)
    assert drawn.getvalue() == ""
    with pytest.raises(ImportError, match="rich"):
        compare({"a": GaussianNB()}, *iris, progress=True)


def test_progress_counts_the_fit_for_memory_too(iris):
    pytest.importorskip("rich")
    with redirect_stderr(Terminal()) as drawn:
        compare({"a": GaussianNB()}, *iris, cv=2, measure_memory=True)
    assert counts(drawn)[-1] == "3/3"


def test_progress_advances_while_two_jobs_run(monkeypatch):
    progress = pytest.importorskip("rich.progress")
    moments = []
    advance = progress.Progress.advance

    def watch(self, *args, **kwargs):
        moments.append(time.perf_counter())
        advance(self, *args, **kwargs)

    monkeypatch.setattr(progress.Progress, "advance", watch)
    candidates = {"fast": Sleepy(0.0), "slow": Sleepy(0.3)}
    with redirect_stderr(Terminal()) as drawn:
        compare(candidates, np.ones((12, 1)), cv=4, n_jobs=2)
    assert counts(drawn)[-2:] == ["4/4", "4/4"]
    assert len(moments) == 8
    # four naps of 0.3 s on two workers: not all at the end
    assert moments[-1] - moments[0] > 0.3


# --- what is shown ----------------------------------------------------------------


@pytest.fixture
def result():
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=(4, 10))
    return result_of(0.5 + noise + [[0], [-0.2], [0.0], [0.2]])


def test_the_frame_has_a_row_per_candidate_in_the_order_given(result):
    frame = result.to_frame()
    assert frame.index.tolist() == ["a", "b", "c", "d"]
    assert frame.columns.tolist() == [
        "mean",
        "std",
        "difference",
        "ci_low",
        "ci_high",
        "p_value",
        "p_value_holm",
        "fit_time",
        "score_time",
        "peak_memory",
        "error",
    ]
    assert frame.loc["a", "difference":"p_value_holm"].isna().all()
    np.testing.assert_allclose(
        frame["difference"][1:], frame["mean"].iloc[1:] - frame["mean"].iloc[0]
    )
    narrow = result.to_frame(confidence_level=0.5)
    assert (narrow["ci_low"][1:] > frame["ci_low"][1:]).all()


def test_the_text_is_a_table(result):
    lines = repr(result).splitlines()
    assert lines[0] == (
        "4 candidates on 10 folds (80 training and 20 test samples), baseline 'a'"
    )
    assert lines[2].split()[:3] == ["candidate", "score", "std"]
    assert [line.split()[0] for line in lines[3:]] == ["a", "b", "c", "d"]
    assert len({len(line) for line in lines[2:]}) == 1


def test_notebooks_get_the_same_table_escaped():
    scores = compare({"<b>": GaussianNB()}, *load_iris(return_X_y=True), cv=2)
    html = scores._repr_html_()
    assert html.count("<tr>") == 2
    assert "<td>&lt;b&gt;</td>" in html


@pytest.fixture
def pyplot():
    plt = pytest.importorskip("matplotlib.pyplot")
    yield plt
    plt.close("all")


def test_the_picture_orders_by_mean_and_marks_the_baseline(result, pyplot):
    display = ComparisonDisplay.from_result(result)
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels[0] == "d"
    assert labels[-1] == "b"
    assert "a\n(baseline)" in labels
    assert display.ax_.yaxis_inverted()
    (line,) = [line for line in display.ax_.lines if line.get_linestyle() == ":"]
    assert line.get_xdata()[0] == result.scores["score"][0].mean()
    assert "score" in display.ax_.get_xlabel()


def test_the_picture_says_which_differences_are_clear(result, pyplot):
    display = ComparisonDisplay.from_result(result)
    texts = [text.get_text() for text in display.ax_.texts]
    test = result.test()["c"]
    assert f"{test.difference:+.3g}, p = {test.p_value_holm:.2g}" in texts
    assert sum("p < 0.001" in text for text in texts) == 2
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == [
        "baseline",
        "better (p < 0.05)",
        "worse (p < 0.05)",
        "no clear difference",
    ]


def test_the_times_have_a_logarithmic_panel_of_their_own(result, pyplot):
    display = ComparisonDisplay.from_result(result)
    assert display.time_ax_.get_xscale() == "log"
    assert display.time_ax_.get_ylim() == display.ax_.get_ylim()
    texts = [text.get_text() for text in display.time_ax_.texts]
    assert texts.count("1 s") == len(result.names)
    assert display.figure_ is display.time_ax_.figure


def test_one_axes_takes_the_scores_and_two_take_the_times_too(result, pyplot):
    _, ax = pyplot.subplots()
    display = ComparisonDisplay(result).plot(ax)
    assert display.ax_ is ax
    assert display.time_ax_ is None
    figure, (left, right) = pyplot.subplots(1, 2)
    display = ComparisonDisplay.from_result(result, ax=(left, right))
    assert (display.ax_, display.time_ax_, display.figure_) == (left, right, figure)


def test_a_failed_candidate_is_in_the_picture_with_its_error(iris, pyplot):
    with pytest.warns(FitFailedWarning):
        result = compare({"a": Failing(), "b": GaussianNB()}, *iris, cv=3)
    display = ComparisonDisplay.from_result(result)
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels == ["b", "a\n(baseline)"]
    texts = [text.get_text() for text in display.ax_.texts]
    assert any(text.startswith("failed: ArithmeticError: no luck") for text in texts)
    assert any(text.endswith("no test") for text in texts)


def test_the_other_metric_and_the_style_can_be_chosen(iris, pyplot):
    result = compare(
        {"a": GaussianNB()}, *iris, scoring=["accuracy", "neg_log_loss"], cv=3
    )
    display = ComparisonDisplay.from_result(
        result,
        metric="neg_log_loss",
        band_kwargs={"height": 0.1},
        dot_kwargs={"marker": "x", "s": 7},
    )
    assert display.ax_.get_xlabel().startswith("neg_log_loss")
    assert display.ax_.patches[0].get_height() == pytest.approx(0.1)
    assert display.ax_.collections[0].get_sizes().tolist() == [7]


@pytest.mark.parametrize("n_candidates", [2, 8])
def test_no_text_overlaps_another_however_long_the_names(pyplot, n_candidates):
    scores = np.random.default_rng(0).normal(size=(n_candidates, 10))
    short = result_of(scores + np.arange(n_candidates)[:, None])
    names = tuple(f"{name} " + "a very long name " * 6 for name in short.names)
    result = replace(short, names=names, baseline=names[0])
    display = ComparisonDisplay.from_result(result)
    figure = display.figure_
    figure.canvas.draw()
    texts = display.ax_.get_legend().get_texts()
    for ax in figure.axes:
        low, high = ax.get_xlim()
        ticks = [
            tick
            for tick in ax.get_xticklabels()
            if low <= tick.get_position()[0] <= high
        ]
        texts += [*ax.texts, *ticks, *ax.get_yticklabels(), ax.xaxis.label]
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in texts
        if text.get_text() and text.get_visible()
    ]
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), (one, other)
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
