"""Callbacks stop, keep and record each loop of iterations, wherever the fit runs."""

import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import joblib
import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer, zero_one_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn._compat import (
    CallbackSupportMixin,
    close_listener,
    open_listener,
    with_callbacks,
)
from sklearn_attn.attention import AttentionSVMClassifier
from sklearn_attn.callbacks import EarlyStopping, LossLogger, Snapshot
from sklearn_attn.datasets import make_token_selection

needs_callbacks = pytest.mark.skipif(
    open_listener is None, reason="scikit-learn 1.9 brought callbacks"
)
NAN, INF = float("nan"), float("inf")


class Scripted(CallbackSupportMixin, BaseEstimator):
    """Its losses are given, so that a test can say after which one it must stop."""

    def __init__(self, losses=(), fail=False, barrier=None):
        self.losses = losses
        self.fail = fail
        self.barrier = barrier

    @with_callbacks
    def fit(self, X=None, y=None):
        context = self._init_callback_context(max_subtasks=len(self.losses))
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self.loss_curve_ = run_script(self, context, self.losses)
        if self.fail:
            raise RuntimeError("failed on purpose")
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes={}
        )
        return self


class Nested(CallbackSupportMixin, BaseEstimator):
    """Fit -> class -> stage -> iteration; `losses[c][s]` is the script of one loop."""

    def __init__(self, losses=()):
        self.losses = losses

    @with_callbacks
    def fit(self, X=None, y=None):
        context = self._init_callback_context(max_subtasks=len(self.losses))
        context.call_on_fit_task_begin(estimator=self)
        self.n_iter_ = []
        for stages in self.losses:
            one_class = context.subcontext("class", max_subtasks=len(stages))
            one_class.call_on_fit_task_begin(estimator=self)
            self.n_iter_.append([])
            for script in stages:
                stage = one_class.subcontext("stage", max_subtasks=len(script))
                stage.call_on_fit_task_begin(estimator=self)
                self.n_iter_[-1].append(len(run_script(self, stage, script)))
                stop = end_with_state(stage, self, loss_curve_=[0.0])
                assert not stop
            assert not end_with_state(one_class, self, loss_curve_=[0.0])
        return self


def run_script(estimator, context, losses):
    curve = []
    for loss in losses:
        iteration = context.subcontext(task_name="iteration")
        iteration.call_on_fit_task_begin(estimator=estimator)
        if getattr(estimator, "barrier", None) is not None:
            estimator.barrier.wait()
        curve.append(loss)
        if end_with_state(iteration, estimator, loss_curve_=list(curve)):
            break
    return curve


def end_with_state(task, estimator, **state):
    return task.call_on_fit_task_end(
        estimator=estimator, reconstruction_attributes=lambda: state
    )


class Descent(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Logistic regression by plain gradient descent, on labels 0 and 1."""

    def __init__(self, max_iter=20, learning_rate=0.5):
        self.max_iter = max_iter
        self.learning_rate = learning_rate

    @with_callbacks
    def fit(self, X, y):
        context = self._init_callback_context(max_subtasks=self.max_iter)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self.classes_ = np.unique(y)
        coef, loss_curve = np.zeros(X.shape[1]), []
        for _ in range(self.max_iter):
            iteration = context.subcontext(task_name="iteration")
            iteration.call_on_fit_task_begin(estimator=self, X=X, y=y)
            coef = coef - self.learning_rate * X.T @ (expit(X @ coef) - y) / len(y)
            z = X @ coef
            loss_curve.append(np.mean(np.logaddexp(0, z) - y * z))
            if iteration.call_on_fit_task_end(
                estimator=self,
                X=X,
                y=y,
                reconstruction_attributes=lambda coef=coef: {
                    "coef_": coef,
                    "loss_curve_": loss_curve,
                },
            ):
                break
        self.coef_, self.loss_curve_ = coef, loss_curve
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes={}
        )
        return self

    def decision_function(self, X):
        return X @ self.coef_

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    def predict_proba(self, X):
        p = expit(self.decision_function(X))
        return np.column_stack([1 - p, p])


class Spy:
    """Call `look(context, fitted_estimator)` at the end of each task."""

    def __init__(self, look):
        self.look = look

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.look(context, fitted_estimator)


@pytest.fixture(scope="module")
def data():
    return make_classification(
        120, 8, n_informative=4, flip_y=0.2, class_sep=0.5, random_state=0
    )


def all_three(directory):
    return EarlyStopping(), Snapshot(directory), LossLogger()


def search_inner(callbacks, n_jobs, **estimator_params):
    """Search -> pipeline -> estimator that iterates and holds the callbacks."""
    estimator = Descent(**estimator_params).set_callbacks(*callbacks)
    return GridSearchCV(
        make_pipeline(StandardScaler(), estimator),
        {"descent__learning_rate": [0.1, 0.5]},
        cv=3,
        n_jobs=n_jobs,
    )


def test_before_scikit_learn_1_9_the_module_imports_and_a_callback_says_what_it_needs(
    tmp_path,
):
    program = f"""
        import sys
        import sklearn.metrics  # which imports callbacks itself where there are some
        sys.modules["sklearn.callback"] = None  # as if it were not there
        from sklearn_attn.callbacks import EarlyStopping, LossLogger, Snapshot
        for make in EarlyStopping, LossLogger, lambda: Snapshot({str(tmp_path)!r}):
            try:
                make()
            except ImportError as error:
                print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    messages = run.stdout.splitlines()
    assert len(messages) == 3
    for name, message in zip(["EarlyStopping", "LossLogger", "Snapshot"], messages):
        assert message.startswith(f"{name} needs the callbacks of scikit-learn 1.9")


@needs_callbacks
class TestAllThree:
    def test_they_follow_the_protocol_and_are_not_handed_down(self, tmp_path):
        from sklearn.callback import AutoPropagatedCallback, FitCallback

        for callback in all_three(tmp_path):
            assert isinstance(callback, FitCallback)
            assert not isinstance(callback, AutoPropagatedCallback)

    def test_clones_share_them(self, tmp_path):
        estimator = Scripted().set_callbacks(*all_three(tmp_path))
        pairs = zip(estimator._skl_callbacks, clone(estimator)._skl_callbacks)
        assert all(ours is theirs for ours, theirs in pairs)

    def test_they_work_together_and_after_pickling(self, tmp_path):
        estimator = Scripted([3, 2, 2, 2, 2]).set_callbacks(
            EarlyStopping(n_iter_no_change=2), Snapshot(tmp_path), LossLogger()
        )
        estimator = pickle.loads(pickle.dumps(estimator)).fit()
        _, snapshot, logger = estimator._skl_callbacks
        assert estimator.loss_curve_ == [3, 2, 2, 2]
        assert [row["loss"] for row in snapshot.list_files()] == [3, 2, 2, 2]
        assert [row["loss"] for row in logger.get_logs()] == [3, 2, 2, 2]

    def test_tasks_that_are_no_iterations_are_left_alone(self, tmp_path, data):
        # On the pipeline, every task comes without a fitted copy.
        stopping, snapshot, logger = all_three(tmp_path)
        pipeline = make_pipeline(StandardScaler(), Descent())
        pipeline.set_callbacks(stopping, snapshot, logger).fit(*data)
        assert len(pipeline[-1].loss_curve_) == 20
        assert snapshot.list_files() == []
        with pytest.raises(ValueError, match="on the estimator that iterates"):
            logger.get_logs()

    def test_an_estimator_without_iterations_is_left_alone(self, tmp_path, data):
        # Its root task is a leaf as well, and may come with a fitted copy.
        _, snapshot, logger = all_three(tmp_path)
        Scripted([]).set_callbacks(snapshot, logger).fit()
        make_pipeline(Scripted([]).set_callbacks(snapshot, logger)).fit(*data)
        assert snapshot.list_files() == []
        assert logger._log == []

    def test_they_forget_a_loop_once_its_fit_is_gone(self, tmp_path):
        for callback in all_three(tmp_path):
            Scripted([1, 2, 3]).set_callbacks(callback).fit()
            gc.collect()  # tasks and their parents refer to each other
            assert len(callback._loops) == 0

    @pytest.mark.parametrize("callback", [EarlyStopping, LossLogger])
    def test_a_loss_that_is_not_kept_is_an_error(self, callback, data):
        estimator = LogisticRegression().set_callbacks(callback())
        with pytest.raises(ValueError, match="LogisticRegression does not keep"):
            estimator.fit(*data)


@needs_callbacks
class TestOnTheAttentionSVM:
    """Search -> pipeline -> our estimator: fit -> class -> stage -> iteration."""

    TOL, N_STAGES, N_FITS = 1e-2, 2, 2 * 2 + 1  # candidates x folds, and the refit

    @pytest.fixture
    def sequences(self):
        X, y = make_token_selection(
            n_samples=40, n_tokens=4, n_token_features=3, random_state=0
        )
        return X.reshape(40, 12), y

    def search(self, *callbacks):
        # Not refitted by the SVMs, so that the last iteration is what the fit returns.
        classifier = AttentionSVMClassifier(
            n_tokens=4, attention_reg=(1e-1, 1e-2), refit=None
        ).set_callbacks(*callbacks)
        return GridSearchCV(
            make_pipeline(StandardScaler(), classifier),
            {"attentionsvmclassifier__head_reg": [1e-3, 1e-2]},
            cv=2,
            n_jobs=2,
        )

    def test_all_three_reach_it_in_the_workers_of_a_search(self, tmp_path, sequences):
        stopping = EarlyStopping(tol=self.TOL, n_iter_no_change=2)
        snapshot, logger = Snapshot(tmp_path, keep_last=1), LossLogger()
        search = self.search(stopping, snapshot, logger).fit(*sequences)

        logs = logger.get_logs(as_frame=True)
        assert set(logs["estimator_name"]) == {"AttentionSVMClassifier"}
        loops = dict(list(logs.groupby("parent_task_id_path")["loss"]))
        assert len(loops) == self.N_STAGES * self.N_FITS
        for losses in loops.values():  # each step of the path lowers its loss
            stale = np.diff(losses) >= -self.TOL
            two_in_a_row = stale[:-1] & stale[1:]
            assert two_in_a_row[-1]
            assert not two_in_a_row[:-1].any()

        rows = snapshot.list_files()
        last_losses = {loop: losses.iloc[-1] for loop, losses in loops.items()}
        assert {r["parent_task_id_path"]: r["loss"] for r in rows} == last_losses
        pipeline, X = search.best_estimator_, sequences[0]
        restored = snapshot.load("newest")
        np.testing.assert_array_equal(
            restored.decision_function(pipeline[:-1].transform(X)),
            pipeline.decision_function(X),
        )

    def test_a_progress_bar_on_the_search_shows_its_classes_and_stages(
        self, tmp_path, sequences, capsys, monkeypatch
    ):
        pytest.importorskip("rich")
        from sklearn.callback import ProgressBar

        monkeypatch.setenv("COLUMNS", "200")  # no line is cut
        search = self.search(*all_three(tmp_path))
        search.set_callbacks(ProgressBar(max_propagation_depth=None))
        search.fit(*sequences)
        bars = capsys.readouterr().out.splitlines()

        def n_complete(task):
            return sum(task in bar and "100%" in bar for bar in bars)

        assert n_complete("GridSearchCV - fit ") == 1
        for task in ("fit", "class 1", "stage #0", "stage #1"):
            assert n_complete(f"AttentionSVMClassifier - {task} ") == self.N_FITS


@needs_callbacks
class TestEarlyStopping:
    def n_iter(self, losses, **params):
        estimator = Scripted(losses).set_callbacks(EarlyStopping(**params))
        return len(estimator.fit().loss_curve_)

    @pytest.mark.parametrize("n_iter_no_change", [1, 2, 7])
    def test_it_stops_n_iter_no_change_iterations_after_the_last_improvement(
        self, n_iter_no_change
    ):
        losses = [4, 3, 2] + [2] * 20
        assert self.n_iter(losses, n_iter_no_change=n_iter_no_change) == (
            3 + n_iter_no_change
        )

    def test_an_improvement_starts_the_count_again(self):
        losses = [9, 9, 9, 8, 8, 8, 7, 7, 7, 7]
        assert self.n_iter(losses, n_iter_no_change=3) == 10
        assert self.n_iter(losses, n_iter_no_change=2) == 3

    def test_a_loss_that_keeps_falling_is_never_stopped(self):
        assert self.n_iter(np.linspace(5, 0, 50), n_iter_no_change=1) == 50

    @pytest.mark.parametrize("later", [1, 2, INF, NAN])
    def test_a_first_loss_that_is_never_beaten_stops(self, later):
        assert self.n_iter([1] + [later] * 9, n_iter_no_change=3, tol=0) == 4

    @pytest.mark.parametrize("loss", [NAN, INF])
    def test_a_loss_that_was_never_finite_stops(self, loss):
        assert self.n_iter([loss] * 9, n_iter_no_change=3) == 3

    def test_a_passing_nan_counts_as_one_iteration_without_improvement(self):
        assert self.n_iter([3, NAN, 2, NAN, NAN, 1], n_iter_no_change=2) == 5
        assert self.n_iter([3, NAN, 2, NAN, NAN, 1], n_iter_no_change=3) == 6

    def test_a_gain_of_exactly_tol_is_no_improvement(self):
        # Binary fractions, so that the gain is tol and not a rounding of it.
        assert self.n_iter([1, 0.75, 0.5], n_iter_no_change=1, tol=0.25) == 2
        assert self.n_iter([1, 0.749, 0.498], n_iter_no_change=1, tol=0.25) == 3

    def test_a_steady_crawl_below_tol_stops(self):
        # Two steps together gain more than tol, but the best value follows each.
        losses = 1 - 0.0625 * np.arange(10)
        assert self.n_iter(losses, n_iter_no_change=4, tol=0.1) == 5

    def test_each_fit_starts_afresh(self):
        estimator = Scripted([2, 1, 1, 1, 1, 1])
        estimator.set_callbacks(EarlyStopping(n_iter_no_change=2))
        n_iters = [len(estimator.fit().loss_curve_) for _ in range(3)]
        assert n_iters == [4, 4, 4]

    def test_each_loop_of_a_nested_fit_is_judged_alone(self):
        losses = [[[5, 5, 5, 5], [1, 2, 3, 4]], [[9, 8, 7, 6], [9, 8, 8, 8]]]
        stopping = EarlyStopping(n_iter_no_change=2)
        estimator = Nested(losses).set_callbacks(stopping).fit()
        assert estimator.n_iter_ == [[3, 3], [4, 4]]

    def test_fits_that_run_at_once_in_threads_do_not_mix(self):
        # In step with each other: were their losses mixed, the higher ones would count
        # as no improvement and the lower ones as one.
        stopping = EarlyStopping(n_iter_no_change=3)
        barrier = threading.Barrier(2, timeout=10)
        high, low = (
            Scripted(losses, barrier=barrier).set_callbacks(stopping)
            for losses in ([6, 5] + [5] * 9, [2, 1] + [1] * 9)
        )
        fits = [joblib.delayed(estimator.fit)() for estimator in (high, low)]
        joblib.Parallel(n_jobs=2, backend="threading")(fits)
        assert len(high.loss_curve_) == len(low.loss_curve_) == 2 + 3

    def test_the_held_out_score_is_watched_as_a_reader_would(self, data):
        X, y = data
        X_val, y_val = X[80:], y[80:]
        stopping = EarlyStopping(
            monitor="score", X_val=X_val, y_val=y_val, n_iter_no_change=4
        )
        stopped = Descent(max_iter=100).set_callbacks(stopping).fit(X[:80], y[:80])
        n_iter = len(stopped.loss_curve_)
        scores = [
            Descent(max_iter=k).fit(X[:80], y[:80]).score(X_val, y_val)
            for k in range(1, n_iter + 1)
        ]
        assert 5 <= n_iter < 100
        assert max(scores[-4:]) <= max(scores[:-4]) == scores[-5]

    def test_scoring_is_a_name_or_a_callable_and_greater_is_better(self, data):
        X, y = data

        def n_iter(scoring):
            stopping = EarlyStopping(
                monitor="score", X_val=X, y_val=y, scoring=scoring, tol=1e-3
            )
            estimator = Descent(max_iter=60).set_callbacks(stopping)
            return len(estimator.fit(X, y).loss_curve_)

        error = make_scorer(zero_one_loss, greater_is_better=False)
        assert n_iter(None) == n_iter("accuracy") == n_iter(error) < 60
        # On the training data, the log loss is the training loss of this estimator.
        watching_loss = Descent(max_iter=60).set_callbacks(EarlyStopping(tol=1e-3))
        assert n_iter("neg_log_loss") == len(watching_loss.fit(X, y).loss_curve_) < 60

    def test_in_a_pipeline_it_takes_what_reaches_the_estimator(self, data):
        X, y = data
        scaler = StandardScaler().fit(X[:80])
        seen = []

        def scoring(estimator, X, y):
            seen.append((X, y))
            return estimator.score(X, y)

        X_val, y_val = scaler.transform(X[80:]), y[80:]
        stopping = EarlyStopping(
            monitor="score", X_val=X_val, y_val=y_val, scoring=scoring
        )
        alone = Descent(max_iter=60).set_callbacks(stopping)
        piped = make_pipeline(StandardScaler(), clone(alone)).fit(X[:80], y[:80])
        alone.fit(scaler.transform(X[:80]), y[:80])
        assert piped[-1].loss_curve_ == alone.loss_curve_
        assert len(alone.loss_curve_) < 60
        assert all(Xs is X_val and ys is y_val for Xs, ys in seen)

    def test_it_follows_an_estimator_that_ignores_the_request(self, data):
        X, y = data
        stopping = EarlyStopping(monitor="score", X_val=X, y_val=y, n_iter_no_change=1)
        asked = LogisticRegression().set_callbacks(stopping).fit(X, y)
        np.testing.assert_array_equal(asked.coef_, LogisticRegression().fit(X, y).coef_)

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"monitor": "accuracy"}, "'monitor' parameter of EarlyStopping"),
            ({"n_iter_no_change": 0}, "'n_iter_no_change' parameter"),
            ({"tol": -1e-3}, "'tol' parameter"),
            ({"scoring": 3}, "'scoring' parameter"),
            ({"monitor": "score"}, "needs held-out data"),
            ({"X_val": [[0]]}, 'go with monitor="score"'),
            ({"y_val": [0]}, 'go with monitor="score"'),
            ({"scoring": "accuracy"}, 'go with monitor="score"'),
            (
                {"monitor": "score", "X_val": [[0]], "scoring": "beauty"},
                "not a valid scoring value",
            ),
        ],
    )
    def test_parameters_that_make_no_sense_are_refused(self, params, message):
        with pytest.raises(ValueError, match=message):
            EarlyStopping(**params)


@needs_callbacks
class TestSnapshot:
    def test_a_snapshot_predicts_as_the_estimator_stopped_at_its_iteration(
        self, tmp_path, data
    ):
        X, y = data
        snapshot = Snapshot(tmp_path)
        Descent(max_iter=6).set_callbacks(snapshot).fit(X, y)
        rows = snapshot.list_files()
        assert [row["task_id_path"] for row in rows] == [(0, k) for k in range(6)]
        for n_iter, row in enumerate(rows, start=1):
            stopped = Descent(max_iter=n_iter).fit(X, y)
            restored = joblib.load(row["path"])
            np.testing.assert_array_equal(
                restored.decision_function(X), stopped.decision_function(X)
            )
            assert row["loss"] == stopped.loss_curve_[-1]

    @pytest.mark.parametrize(("every", "written"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3])])
    def test_every_kth_iteration_is_written(self, tmp_path, every, written):
        snapshot = Snapshot(tmp_path, every=every)
        Scripted([5, 4, 3, 2, 1]).set_callbacks(snapshot).fit()
        assert [row["task_id_path"][-1] for row in snapshot.list_files()] == written

    def test_keep_last_is_counted_for_each_loop(self, tmp_path):
        snapshot = Snapshot(tmp_path, keep_last=2)
        losses = [[[5, 4, 3], [7]], [[9, 8]]]
        Nested(losses).set_callbacks(snapshot).fit()
        rows = snapshot.list_files()
        assert [row["loss"] for row in rows] == [4, 3, 7, 9, 8]
        assert [row["parent_task_id_path"] for row in rows] == [
            (0, 0, 0),
            (0, 0, 0),
            (0, 0, 1),
            (0, 1, 0),
            (0, 1, 0),
        ]

    def test_with_early_stopping_the_oldest_one_kept_is_the_last_improvement(
        self, tmp_path
    ):
        snapshot = Snapshot(tmp_path, keep_last=3 + 1)
        Scripted([5, 4, 1, 2, 3, 4, 5, 6]).set_callbacks(
            EarlyStopping(n_iter_no_change=3), snapshot
        ).fit()
        assert snapshot.list_files()[0]["loss"] == 1

    def test_newest_and_best_are_loaded(self, tmp_path):
        snapshot = Snapshot(tmp_path)
        Scripted([5, 1, NAN, 1, 2]).set_callbacks(snapshot).fit()
        assert snapshot.load().loss_curve_[-1] == 2
        assert snapshot.load("newest").loss_curve_[-1] == 2
        assert len(snapshot.load("best").loss_curve_) == 4  # the later one of equals
        with pytest.raises(ValueError, match="'select' parameter"):
            snapshot.load("worst")

    def test_it_is_kept_without_callbacks_and_the_fit_goes_on_with_them(
        self, tmp_path, data
    ):
        snapshot = Snapshot(tmp_path)
        estimator = Descent().set_callbacks(snapshot, LossLogger())
        make_pipeline(estimator).fit(*data)
        restored = snapshot.load()
        public = {"max_iter", "learning_rate", "classes_", "coef_", "loss_curve_"}
        assert set(vars(restored)) == public
        assert len(snapshot.list_files()) == 20
        assert len(estimator._skl_callbacks) == 2

    def test_the_copy_that_other_callbacks_see_is_left_as_it_was(self, tmp_path):
        seen = []
        spy = Spy(lambda context, fitted: seen.append(vars(fitted).keys()))
        Scripted([1]).set_callbacks(spy).fit()
        Scripted([1]).set_callbacks(Snapshot(tmp_path), spy).fit()
        without_snapshot, with_snapshot = seen[0], seen[2]
        assert without_snapshot == with_snapshot

    def test_another_process_finds_the_files_by_name(self, tmp_path, data):
        run = Scripted([3, 2, 1]).set_callbacks(Snapshot(tmp_path / "new" / "folder"))
        run.fit()
        (tmp_path / "new" / "folder" / "other.joblib").touch()
        later = Snapshot(tmp_path / "new" / "folder")
        assert [row["loss"] for row in later.list_files()] == [3, 2, 1]
        assert later.load("best").loss_curve_ == [3, 2, 1]

    def test_a_write_that_fails_leaves_no_trace(self, tmp_path, monkeypatch):
        snapshot = Snapshot(tmp_path)
        estimator = Scripted([2, 1]).set_callbacks(snapshot).fit()

        def dump_half(value, path):
            path.write_bytes(b"half")
            assert len(snapshot.list_files()) == 2  # not to be seen while written
            raise OSError("disk full")

        monkeypatch.setattr(joblib, "dump", dump_half)
        with pytest.raises(OSError, match="disk full"):
            estimator.fit()
        assert len(list(tmp_path.iterdir())) == 2
        assert snapshot.load().loss_curve_ == [2, 1]

    def test_an_estimator_without_a_loss_has_no_best_snapshot(self, tmp_path, data):
        snapshot = Snapshot(tmp_path)
        estimator = LogisticRegression().set_callbacks(snapshot).fit(*data)
        assert len(snapshot.list_files()) == estimator.n_iter_[0]
        np.testing.assert_array_equal(snapshot.load().coef_, estimator.coef_)
        with pytest.raises(FileNotFoundError, match="no snapshot with a loss"):
            snapshot.load("best")

    def test_an_empty_directory_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            Snapshot(tmp_path / "nowhere").load()

    def test_a_relative_directory_stays_where_it_was_meant(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        snapshot = Snapshot("here")
        (tmp_path / "elsewhere").mkdir()
        os.chdir(tmp_path / "elsewhere")
        Scripted([1]).set_callbacks(snapshot).fit()
        assert len(list((tmp_path / "here").iterdir())) == 1

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_the_workers_of_a_search_share_a_directory(self, tmp_path, data, n_jobs):
        snapshot = Snapshot(tmp_path, every=2, keep_last=3)
        search = search_inner([snapshot], n_jobs, max_iter=10).fit(*data)
        rows = snapshot.list_files()
        loops = {row["parent_task_id_path"] for row in rows}
        assert len(loops) == 2 * 3 + 1  # candidates x folds, and the refit
        assert len(rows) == 3 * len(loops)
        assert len({row["run_id"] for row in rows}) == 1
        refitted = search.best_estimator_[-1]
        np.testing.assert_array_equal(snapshot.load().coef_, refitted.coef_)

    @pytest.mark.parametrize("params", [{"every": 0}, {"keep_last": 0}])
    def test_parameters_that_make_no_sense_are_refused(self, tmp_path, params):
        with pytest.raises(ValueError, match="parameter of Snapshot"):
            Snapshot(tmp_path, **params)


@needs_callbacks
class TestLossLogger:
    def test_the_rows_are_the_loss_curve(self, data):
        logger = LossLogger()
        estimator = Descent().set_callbacks(logger).fit(*data)
        rows = logger.get_logs()
        assert [row["loss"] for row in rows] == estimator.loss_curve_
        assert [row["task_id"] for row in rows] == list(range(20))
        assert rows[3]["task_id_path"] == (0, 3)
        assert rows[3]["parent_task_id_path"] == (0,)
        assert rows[3]["parent_task_name_path"] == ("fit",)
        assert rows[3]["estimator_name"] == "Descent"

    def test_loops_of_a_nested_fit_stay_apart_and_in_order(self):
        logger = LossLogger()
        losses = [[[5, 4], [1]], [[9, 8, 7]]]
        Nested(losses).set_callbacks(logger).fit()
        rows = logger.get_logs()
        assert [(row["parent_task_id_path"], row["loss"]) for row in rows] == [
            ((0, 0, 0), 5),
            ((0, 0, 0), 4),
            ((0, 0, 1), 1),
            ((0, 1, 0), 9),
            ((0, 1, 0), 8),
            ((0, 1, 0), 7),
        ]
        assert rows[0]["parent_task_name_path"] == ("fit", "class", "stage")

    def test_runs_are_kept_and_the_most_recent_one_is_the_default(self):
        logger = LossLogger()
        estimator = Scripted().set_callbacks(logger)
        for losses in ([3, 2], [1], [6, 5, 4]):
            estimator.set_params(losses=losses).fit()
        assert [row["loss"] for row in logger.get_logs()] == [6, 5, 4]
        rows = logger.get_logs("all")
        assert [row["loss"] for row in rows] == [3, 2, 1, 6, 5, 4]
        assert len({row["run_id"] for row in rows}) == 3

    def test_a_frame_holds_the_same_rows(self):
        pytest.importorskip("pandas")
        logger = LossLogger()
        Nested([[[5, 4], [1]]]).set_callbacks(logger).fit()
        frame = logger.get_logs(as_frame=True)
        assert frame.to_dict("records") == logger.get_logs()
        assert list(frame.groupby("parent_task_id_path")["loss"].min()) == [4, 1]

    def test_the_rows_of_a_loop_are_there_when_it_ends(self):
        logger, n_rows = LossLogger(), []

        def look(context, fitted_estimator):
            if context.task_name == "stage":
                n_rows.append(len(logger.get_logs()))

        Nested([[[5, 4], [1]], [[9, 8, 7]]]).set_callbacks(logger, Spy(look)).fit()
        assert n_rows == [2, 3, 6]

    def test_the_losses_of_a_fit_that_failed_are_kept(self):
        logger = LossLogger()
        with pytest.raises(RuntimeError, match="on purpose"):
            Scripted([3, NAN], fail=True).set_callbacks(logger).fit()
        np.testing.assert_array_equal([r["loss"] for r in logger.get_logs()], [3, NAN])

    def test_fits_that_run_at_once_in_threads_do_not_mix(self):
        logger = LossLogger()
        barrier = threading.Barrier(2, timeout=10)
        scripts = [[3, 2, 1], [6, 5, 4]]
        joblib.Parallel(n_jobs=2, backend="threading")(
            joblib.delayed(Scripted(s, barrier=barrier).set_callbacks(logger).fit)()
            for s in scripts
        )
        runs = {}
        for row in logger.get_logs("all"):
            runs.setdefault(row["run_id"], []).append(row["loss"])
        assert sorted(runs.values()) == scripts

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_all_losses_of_a_search_arrive_here(self, data, n_jobs):
        logger = LossLogger()
        search = search_inner([logger], n_jobs, max_iter=10).fit(*data)
        rows = logger.get_logs()
        n_loops = 2 * 3 + 1  # candidates x folds, and the refit
        assert len(rows) == 10 * n_loops
        assert len({row["task_id_path"] for row in rows}) == 10 * n_loops
        assert {row["estimator_name"] for row in rows} == {"Descent"}

        X, y = data
        refit = ("fit", "refit-with-best-params", "fit-final-estimator")
        losses = [r["loss"] for r in rows if r["parent_task_name_path"] == refit]
        assert losses == search.best_estimator_[-1].loss_curve_
        # Candidates and folds are numbered in the order of cv_results_.
        splits = list(search._checked_cv_orig.split(X, y))
        for candidate, params in enumerate(search.cv_results_["params"]):
            for fold, (train, _) in enumerate(splits):
                pipeline = clone(search.estimator).set_params(**params)
                pipeline[-1].set_callbacks()
                pipeline.fit(X[train], y[train])
                loop = (0, 0, 3 * candidate + fold, 1)
                losses = [r["loss"] for r in rows if r["parent_task_id_path"] == loop]
                np.testing.assert_allclose(losses, pipeline[-1].loss_curve_)

    def test_early_stopping_works_in_the_workers_of_a_search(self, data):
        def n_iters(n_jobs):
            logger = LossLogger()
            stopping = EarlyStopping(tol=5e-3, n_iter_no_change=2)
            search_inner([stopping, logger], n_jobs, max_iter=60).fit(*data)
            frame = logger.get_logs(as_frame=True)
            return frame.groupby("parent_task_id_path").size().to_dict()

        assert n_iters(2) == n_iters(1)
        assert all(n_iter < 60 for n_iter in n_iters(1).values())
        assert len(set(n_iters(1).values())) > 1  # each loop by its own measure

    def test_its_rows_join_those_of_scoring_monitor(self, data):
        from sklearn.callback import ScoringMonitor

        logger, monitor = LossLogger(), ScoringMonitor(scoring="neg_log_loss")
        search_inner([logger, monitor], n_jobs=2, max_iter=5).fit(*data)
        scores = monitor.get_logs().data_as_pandas
        joined = logger.get_logs(as_frame=True).merge(
            scores, on="task_id_path", validate="one_to_one"
        )
        assert len(joined) == 5 * 7
        np.testing.assert_allclose(joined["loss"], -joined["neg_log_loss"])

    def test_a_pickled_logger_keeps_its_rows_and_goes_its_own_way(self):
        logger = LossLogger()
        Scripted([2, 1]).set_callbacks(logger).fit()
        # A pickler must not walk a list that a listener thread may be growing.
        assert logger.__getstate__()["_log"] is not logger._log
        copied = pickle.loads(pickle.dumps(logger))
        Scripted([5, 4]).set_callbacks(copied).fit()
        assert [row["loss"] for row in logger.get_logs("all")] == [2, 1]
        assert [row["loss"] for row in copied.get_logs("all")] == [2, 1, 5, 4]

    def test_a_logger_unpickled_after_its_first_life_records_again(self):
        logger = LossLogger()
        pickled = pickle.dumps(logger)
        close_listener(logger._listener)
        logger = pickle.loads(pickled)
        Scripted([2, 1]).set_callbacks(logger).fit()
        assert [row["loss"] for row in logger.get_logs()] == [2, 1]

    def test_without_any_loss_it_says_where_to_set_it(self):
        with pytest.raises(ValueError, match="on the estimator that iterates"):
            LossLogger().get_logs()
