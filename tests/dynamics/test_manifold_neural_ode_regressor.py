"""The estimator: settings, containers, errors, and what it leaves behind."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn import ManifoldNeuralODERegressor
from sklearn_attn.callbacks import EarlyStopping
from sklearn_attn.datasets import (
    make_macrospin,
    make_rigid_body,
    make_rotation_flow,
    make_sphere_flow,
)
from sklearn_attn.dynamics import (
    Euclidean,
    Flow,
    Product,
    SpecialEuclidean,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Torus,
)
from sklearn_attn.dynamics._fit_flow import FlowModel

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning"  # fits here are short
)
SHORT = {"n_init": 1, "max_iter": 60, "n_layers": 3, "width": 4, "random_state": 0}


def regressor(manifold="sphere", **settings):
    return ManifoldNeuralODERegressor(manifold=manifold, **(SHORT | settings))


@pytest.fixture(scope="module")
def magnet():
    return make_macrospin(120, random_state=0)


@pytest.fixture(scope="module")
def attitudes():
    return make_rotation_flow(60, random_state=0)


# What is learned


@pytest.mark.parametrize(
    "manifold",
    [
        Sphere(2),
        Sphere(3),
        SpecialOrthogonal(3),
        SpecialOrthogonal(4),
        SpecialEuclidean(),
        Stiefel(4, 2),
        Torus(2),
        Product(Sphere(2), Torus(1)),
        Euclidean(3),
    ],
    ids=repr,
)
def test_a_flow_is_learned_from_its_own_endpoints(manifold):
    teacher = Flow(manifold, n_layers=2, width=3)
    teacher.reset_parameters(torch.Generator().manual_seed(5))
    X = manifold.random_points(150, 0)
    with torch.no_grad():
        y = teacher(torch.from_numpy(X)).numpy()
    model = regressor(manifold, readout=False, max_iter=200, width=8).fit(
        X[:100], y[:100]
    )
    moved = manifold.distance(X[100:], y[100:]).mean()
    assert model.geodesic_error(X[100:], y[100:]).mean() < 0.15 * moved
    assert model.manifold_violation_ < 1e-13
    assert manifold.violation(model.predict(X)).max() < 1e-13
    assert model.score(X[100:], y[100:]) > 0.95
    back = model.inverse_predict(model.predict(X))
    np.testing.assert_allclose(back, X, atol=1e-10)


def test_defaults_fit_a_table_as_well_as_ridge_regression():
    X, y = load_diabetes(return_X_y=True)
    scores = cross_val_score(ManifoldNeuralODERegressor(random_state=0), X, y, cv=3)
    assert scores.mean() > 0.45  # ridge: 0.48


def test_score_is_the_share_of_squared_distances_that_is_explained(magnet):
    X, y = magnet
    model = regressor().fit(X, y)
    mean = Sphere(2).frechet_mean(y)
    total = Sphere(2).distance(y, np.tile(mean, (len(y), 1)))
    expected = 1 - (model.geodesic_error(X, y) ** 2).sum() / (total**2).sum()
    assert model.score(X, y) == pytest.approx(expected)
    assert isinstance(model.score(X, y), float)
    same = np.tile(y[:1], (5, 1))  # as r2_score has it
    assert model.score(X[:5], same) == 0
    for i in range(12):  # whatever the rounding of their mean
        assert model.score(X[:3], np.tile(y[i : i + 1], (3, 1))) == 0
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(model.score(X[:1], y[:1]))
    table = regressor("euclidean").fit(X, y)
    assert table.score(X, y) == r2_score(y, table.predict(X))
    np.testing.assert_allclose(
        table.geodesic_error(X, y), np.linalg.norm(table.predict(X) - y, axis=1)
    )


# Every parameter does something


def fitted(magnet, **settings):
    return regressor(**settings).fit(*magnet)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("generators", "chain"),
        ("n_layers", 2),
        ("width", 2),
        ("neurons", "own"),
        ("activation", "tanh"),
        ("activation", "relu"),
        ("integrator", "lie_midpoint"),
        ("integrator", "rkmk4"),
        ("integrator", "cf4"),
        ("n_steps", 3),
        ("retraction", "cayley"),
        ("max_iter", 10),
        ("n_init", 3),
        ("alpha", 0.1),
        ("loss", "geodesic"),
        ("early_stopping", True),
        ("random_state", 1),
        ("tol", 0.5),
        ("n_iter_no_change", 1),
    ],
)
def test_the_parameter_changes_the_fit(magnet, name, value):
    # a tolerance that stops early is seen only where it would not stop anyway
    stopping = name in ("tol", "n_iter_no_change")
    before = {"tol": 0.1, "max_iter": 300} if stopping else {}
    other = fitted(magnet, **(before | {name: value}))
    plain = fitted(magnet, **before)
    X, _ = magnet
    assert np.abs(other.predict(X) - plain.predict(X)).max() > 1e-6


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 0.1), ("batch_size", 20), ("solver", "sgd")]
)
def test_the_parameter_changes_the_descent(magnet, name, value):
    X, _ = magnet
    plain = fitted(magnet, solver="adam")
    other = fitted(magnet, **({"solver": "adam"} | {name: value}))
    assert np.abs(other.predict(X) - plain.predict(X)).max() > 1e-3


def test_the_final_time_is_when_trajectories_arrive_and_its_unit_does_not_matter(
    magnet,
):
    X, y = magnet
    model = regressor(t_final=4.0).fit(X, y)
    assert model.t_span_ == (0.0, 4.0)
    np.testing.assert_array_equal(model.predict(X), regressor().fit(X, y).predict(X))
    path = model.predict_trajectory(X, [0.0, 4.0])
    np.testing.assert_allclose(path[:, 0], X, atol=1e-15)
    np.testing.assert_allclose(path[:, 1], model.predict(X), atol=1e-13)


def test_auto_takes_all_fields_of_small_groups_and_a_chain_of_large_ones():
    for n, expected in ((8, 28), (9, 8)):
        X = Sphere(n - 1).random_points(10, 0)
        model = regressor(max_iter=2).fit(X, X)
        assert model.generators_.shape == (expected, n, n)
        assert model.is_bracket_generating_
        assert model.lie_rank_ == n * (n - 1) // 2


def test_alpha_shrinks_the_weights_and_auto_is_larger_for_tables(magnet):
    X, y = magnet

    def size(**settings):
        model = regressor(**settings).fit(X, y)
        return sum(np.square(p).sum() for p in model.params_.values())

    assert size(alpha=1.0) < size(alpha=1e-2) < size(alpha=0)
    for manifold, alpha in (("sphere", 1e-5), ("euclidean", 1e-2)):
        auto = regressor(manifold).fit(X, y).predict(X)
        explicit = regressor(manifold, alpha=alpha).fit(X, y).predict(X)
        np.testing.assert_array_equal(auto, explicit)


def test_more_starts_find_no_worse_a_loss(magnet):
    objectives = []
    for n_init in (1, 4):
        model = fitted(magnet, n_init=n_init)
        objectives.append(model.loss_curve_[-1])
        assert 0 <= model.best_init_ < n_init
    assert objectives[1] <= objectives[0]


def test_without_readout_euclidean_space_is_the_papers_classical_flow(magnet):
    X, y = magnet
    model = regressor("euclidean", readout=False, n_layers=2, width=3).fit(X, y)
    assert model.n_parameters_ == 2 * 21
    assert not hasattr(model, "coef_")
    with torch.no_grad():
        expected = model.flow_(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-14)
    assert Sphere(2).violation(model.predict(X)).max() > 1e-3


def test_the_readout_reads_any_number_of_outputs():
    X, y = load_diabetes(return_X_y=True)
    targets = np.c_[y, X[:, 0] * 100 + 5]
    model = regressor("euclidean").fit(X, targets)
    assert model.predict(X).shape == targets.shape
    with torch.no_grad():
        z = model.flow_(torch.from_numpy((X - model.x_mean_) / model.x_scale_)).numpy()
    np.testing.assert_allclose(
        model.predict(X), z @ model.coef_.T + model.intercept_, rtol=1e-12
    )
    with pytest.raises(ValueError, match="has no inverse"):
        model.inverse_predict(targets)


@pytest.mark.parametrize("units", [[1.0, 1.0, 1.0], [1e9, 1e-8, 1.0]])
def test_a_square_readout_is_inverted(units):
    X, _ = load_diabetes(return_X_y=True)
    model = regressor("euclidean").fit(X[:, :3], X[:, 3:6] * units)
    back = model.inverse_predict(model.predict(X[:, :3]))
    np.testing.assert_allclose(back, X[:, :3], atol=1e-9)


def test_a_readout_without_an_inverse_is_told():
    X, y = load_diabetes(return_X_y=True)
    constant = np.c_[y, np.ones(len(y))]
    model = regressor("euclidean", max_iter=5).fit(X[:, :2], constant)
    with pytest.raises(ValueError, match="has no inverse"):
        model.inverse_predict(constant)
    scalar = regressor("euclidean", readout=False, max_iter=5, n_steps=4).fit(
        X[:, :1], X[:, 1]
    )
    predicted = scalar.predict(X[:, :1])
    assert predicted.shape == (442,)
    np.testing.assert_allclose(scalar.inverse_predict(predicted), X[:, :1], atol=1e-12)


def test_targets_may_have_names_of_their_own(magnet):
    X, y = (
        pd.DataFrame(part, columns=list(names))
        for part, names in zip(magnet, ("abc", "pqr"))
    )
    model = regressor(max_iter=5).fit(X, y)
    assert model.inverse_predict(y).shape == X.shape
    assert model.geodesic_error(X, y).shape == (len(X),)


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_it_fits_where_slopes_are_switched_off(magnet, switch):
    with switch():
        model = fitted(magnet, max_iter=5)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(
        model.predict(magnet[0]), fitted(magnet, max_iter=5).predict(magnet[0])
    )


def test_a_step_that_is_too_large_to_be_inverted_is_told(magnet):
    model = fitted(magnet)
    with torch.no_grad():
        model.flow_.W.mul_(30)
        model.flow_.a.mul_(30)
    with pytest.warns(ConvergenceWarning, match="more n_steps"):
        model.inverse_predict(magnet[1])


def test_off_manifold_rows_are_refused_projected_or_ignored(magnet):
    X, y = magnet
    off = X.copy()
    off[7] *= 1.5
    with pytest.raises(ValueError, match=r"Row 7 of X is not on Sphere.*0\.5"):
        regressor().fit(off, y)
    with pytest.raises(ValueError, match="Row 7 of y is not on"):
        regressor().fit(X, off)
    projected = regressor(off_manifold="project").fit(off, y)
    # rounding in one row grows with every iteration of the descent
    np.testing.assert_allclose(
        projected.predict(off), regressor().fit(X, y).predict(X), atol=1e-6
    )
    ignoring = regressor(off_manifold="ignore").fit(off, y)
    # the length is kept, whatever it is
    lengths = np.linalg.norm(ignoring.predict(off), axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(off, axis=1), atol=1e-13)
    model = regressor().fit(X, y)
    with pytest.raises(ValueError, match="Row 7 of X"):
        model.predict(off)
    with pytest.raises(ValueError, match="Row 7 of y"):
        model.inverse_predict(off)


def test_atol_is_how_far_off_a_point_may_be(magnet):
    X, y = magnet
    near = X * (1 + 1e-4)
    with pytest.raises(ValueError, match="is not on"):
        regressor().fit(near, y)
    regressor(atol=1e-3).fit(near, y)


def test_renormalising_can_be_left_out_and_is_if_points_are_ignored(magnet):
    assert fitted(magnet).flow_.renormalize
    assert not fitted(magnet, renormalize=False).flow_.renormalize
    assert not fitted(magnet, off_manifold="ignore").flow_.renormalize
    single = [part.astype(np.float32) for part in magnet]
    model = regressor(n_layers=10, n_steps=40).set_params(max_iter=2)
    kept = clone(model).fit(*single)
    drifted = clone(model).set_params(renormalize=False).fit(*single)
    assert kept.predict(single[0]).dtype == np.float32
    assert kept.manifold_violation_ < 2e-7 < drifted.manifold_violation_


def test_warm_start_goes_on_where_the_last_fit_ended(magnet):
    X, y = magnet
    model = regressor(warm_start=True, max_iter=15).fit(X, y)
    first = model.loss_curve_[-1]
    model.fit(X, y)
    assert model.loss_curve_[0] <= first
    cold = regressor(max_iter=15).fit(X, y)
    assert model.loss_ < cold.loss_
    model.set_params(width=3).fit(X, y)  # another shape: from the start
    assert model.flow_.W.shape[1] == 3
    table = regressor("euclidean", warm_start=True, max_iter=15).fit(X, y)
    first = table.loss_curve_[-1]
    assert table.fit(X, y).loss_curve_[0] <= first * (1 + 1e-9)
    # a step of no length: the same predictions, of samples that have other units
    still = {"solver": "sgd", "learning_rate": 1e-12, "max_iter": 1}
    few = X[:, 0] > 0.3
    before = table.predict(X)
    again = clone(table).set_params(warm_start=True)
    vars(again).update(vars(table))
    again.set_params(**still).fit(X[few], y[few])
    np.testing.assert_allclose(again.predict(X), before, atol=1e-8)
    # other fields of the same size are not gone on with
    tiny = 1e-9 * np.eye(3)
    other = regressor(warm_start=True, generators=tiny[:2], max_iter=2).fit(X, y)
    other.set_params(generators=tiny[1:]).fit(X, y)
    np.testing.assert_array_equal(other.generators_[0], other.flow_.generators[0])
    assert other.generators_[0, 0, 2] == 1e-9
    # fields that are not the unit vectors do not go over to other units
    some = regressor("euclidean", warm_start=True, generators=np.eye(3)[:2])
    with pytest.warns(UserWarning, match="cannot go"):
        some.set_params(max_iter=2).fit(X, y).fit(X, y)
    # in another precision it goes on, too
    turns = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.7]])
    single = regressor(warm_start=True, generators=turns, max_iter=15, dtype="float32")
    reached = single.fit(X, y).loss_
    single.set_params(dtype="float64", max_iter=1).fit(X, y)
    assert single.loss_ <= reached * 1.001
    # other samples are standardised otherwise: it goes on from the same predictions
    few = X[:, 0] > 0.3
    error = (table.predict(X[few]) - y[few]) / y[few].std(0)
    table.set_params(max_iter=1, alpha=0, tol=0).fit(X[few], y[few])
    assert table.loss_ <= np.square(error).sum(1).mean()
    paths = np.stack([X, y], 1)
    table.set_params(max_iter=15).fit_trajectories(paths, [0.0, 1.0])
    scale = paths[few].reshape(-1, 3).std(0)
    error = (table.predict(X[few]) - y[few]) / scale
    table.set_params(max_iter=1).fit_trajectories(paths[few], [0.0, 1.0])
    assert table.loss_ <= np.square(error).sum(1).mean()


def test_early_stopping_keeps_the_weights_that_are_best_on_held_out_samples(magnet):
    model = fitted(magnet, early_stopping=True, validation_fraction=0.3, tol=0.0)
    assert len(model.validation_curve_) == len(model.loss_curve_)
    # another fit that ends at the least risk has the same weights
    best = int(np.argmin(model.validation_curve_)) + 1
    assert best < len(model.validation_curve_)
    shorter = fitted(
        magnet, early_stopping=True, validation_fraction=0.3, tol=0.0, max_iter=best
    )
    np.testing.assert_array_equal(shorter.predict(magnet[0]), model.predict(magnet[0]))
    assert fitted(magnet).validation_curve_ == []
    other = fitted(magnet, early_stopping=True, validation_fraction=0.1)
    assert other.loss_ != model.loss_
    with pytest.raises(ValueError, match="leaves none"):
        regressor(early_stopping=True, validation_fraction=0.9).fit(
            magnet[0][:2], magnet[1][:2]
        )


def test_verbose_prints_a_line_for_each_iteration(magnet, capsys):
    model = fitted(magnet, verbose=1, max_iter=5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    assert lines[0].startswith("start 0, iteration 1: ")


def test_single_precision_is_single_throughout(magnet):
    X, y = magnet
    single = regressor(dtype="float32").fit(X, y)
    assert single.flow_.W.dtype == torch.float32
    assert single.predict(X).dtype == np.float32
    double = regressor().fit(X, y)
    np.testing.assert_allclose(single.loss_, double.loss_, rtol=0.5)
    # its rounding is allowed for everywhere, however small atol is
    X32, y32 = (part.astype(np.float32) for part in (X, y))
    strict = regressor(atol=0).fit(X32, y32)
    assert np.isfinite(strict.score(X32, y32))
    assert np.isfinite(strict.inverse_predict(y32)).all()


# Shapes and containers


def test_matrices_and_rows_are_the_same(attitudes):
    X, y = attitudes
    rows = regressor("so3").fit(X, y)
    matrices = regressor("so3").fit(X.reshape(-1, 3, 3), y.reshape(-1, 3, 3))
    assert matrices.n_features_in_ == 9
    assert matrices.predict(X).shape == (60, 9)
    found = matrices.predict(X.reshape(-1, 3, 3))
    assert found.shape == (60, 3, 3)
    np.testing.assert_array_equal(found.reshape(-1, 9), rows.predict(X))
    path = matrices.predict_trajectory(X.reshape(-1, 3, 3), [0.5, 1.0])
    assert path.shape == (60, 2, 3, 3)
    np.testing.assert_allclose(path[:, 1], found, atol=1e-13)
    back = matrices.inverse_predict(found)
    assert back.shape == (60, 3, 3)
    assert rows.score(X.reshape(-1, 3, 3), y) == rows.score(X, y)
    lists = regressor("so3").fit(X.reshape(-1, 3, 3).tolist(), y)
    np.testing.assert_array_equal(lists.predict(X), rows.predict(X))


def test_frames_keep_their_names(magnet):
    X, y = magnet
    frame = pd.DataFrame(X, columns=["x", "y", "z"])
    model = regressor().fit(frame, y)
    assert list(model.feature_names_in_) == ["x", "y", "z"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["z", "y", "x"]])


def test_with_dispatch_tensors_come_out(magnet):
    X, y = map(torch.from_numpy, magnet)
    with config_context(array_api_dispatch=True):
        model = regressor().fit(X, y)
        results = [
            model.predict(X),
            model.predict_trajectory(X, [0.5]),
            model.inverse_predict(y),
            model.geodesic_error(X, y),
            model.generators_,
        ]
        assert all(isinstance(result, torch.Tensor) for result in results)
        assert isinstance(model.score(X, y), float)
        paths = list(torch.stack([X, y], 1)[:5])
        followed = regressor(max_iter=5).fit_trajectories(paths, [0.0, 1.0])
        assert isinstance(followed.predict(X), torch.Tensor)
    np.testing.assert_array_equal(results[0], regressor().fit(*magnet).predict(X))


def test_it_searches_in_a_pipeline_and_is_cloned():
    X, y = load_diabetes(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), regressor("euclidean", max_iter=10))
    search = GridSearchCV(
        pipeline,
        {
            "manifoldneuraloderegressor__alpha": [0.01, 1.0],
            "manifoldneuraloderegressor__n_layers": [1, 2],
        },
        cv=2,
        n_jobs=2,
    ).fit(X[:100], y[:100])
    assert len(search.cv_results_["params"]) == 4
    model = regressor(Product(Sphere(2), Torus(1)), generators=np.eye(4))
    assert clone(model).manifold == model.manifold


def test_a_pickle_predicts_the_same(magnet):
    model = fitted(magnet)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(magnet[0]), model.predict(magnet[0]))
    assert all(p.device.type == "cpu" for p in again.flow_.parameters())


def test_the_flow_is_public_and_does_what_predict_does(magnet):
    model = fitted(magnet)
    with torch.no_grad():
        found = model.flow_(torch.from_numpy(magnet[0])).numpy()
    np.testing.assert_allclose(found, model.predict(magnet[0]), atol=1e-14)
    assert model.params_["W"].shape == tuple(model.flow_.W.shape)
    assert model.n_parameters_ == model.flow_.n_parameters
    np.testing.assert_array_equal(model.params_["a"], model.flow_.a.detach())


def test_callbacks_see_starts_and_iterations_and_may_stop(magnet):
    pytest.importorskip("sklearn.callback")
    seen = []

    class Watch:
        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            seen.append(context.task_name)
            if context.task_name == "iteration" and fitted_estimator is not None:
                if fitted_estimator.manifold == "sphere":
                    found = fitted_estimator.predict(X)
                    assert Sphere(2).violation(found).max() < 1e-12
                assert np.isfinite(fitted_estimator.score(X, y))
            return len(seen) == 4

    X, y = magnet
    model = regressor(n_init=2, max_iter=5).set_callbacks(Watch())
    # what an earlier fit to a table left is not read on the way
    model.set_params(manifold="euclidean").fit(X, y)
    seen.clear()
    model.set_params(manifold="sphere").fit(X, y)
    assert seen.count("start") == 2
    assert seen.count("iteration") == 4 + 5
    patient = regressor(max_iter=60).fit(X, y)
    hasty = regressor(max_iter=60).set_callbacks(EarlyStopping(tol=0.05)).fit(X, y)
    assert len(hasty.loss_curve_) < len(patient.loss_curve_)
    assert hasattr(model, "flow_")


# Trajectories


def test_trajectories_of_different_lengths_and_times_are_followed():
    times = np.linspace(0, 2, 41)
    X, paths = make_macrospin(60, times=times, random_state=0)
    rng = np.random.default_rng(0)
    kept = [
        np.sort(rng.choice(41, size=rng.integers(2, 12), replace=False))
        for _ in range(40)
    ]
    model = regressor(n_layers=4, n_steps=4, max_iter=200, width=8)
    model.fit_trajectories(
        [path[rows] for path, rows in zip(paths, kept)], [times[rows] for rows in kept]
    )
    assert model.t_span_ == (0.0, 2.0)
    found = model.predict_trajectory(X[40:], times)
    assert found.shape == (20, 41, 3)
    error = Sphere(2).distance(found.reshape(-1, 3), paths[40:].reshape(-1, 3))
    assert error.mean() < 0.1  # rad; they move by 1.4
    assert Sphere(2).violation(found.reshape(-1, 3)).max() < 1e-13


def test_pairs_at_common_times_are_the_same_as_endpoints(magnet):
    X, y = magnet
    pairs = regressor(t_final=2.0).fit(X, y)
    paths = regressor().fit_trajectories(np.stack([X, y], 1), [0.0, 2.0])
    np.testing.assert_allclose(paths.loss_curve_[:3], pairs.loss_curve_[:3], rtol=1e-9)
    assert paths.t_span_ == (0.0, 2.0)


def test_times_of_each_sample_rescale_its_way():
    """A constant turn, watched for different times."""
    rng = np.random.default_rng(0)
    X = Sphere(2).random_points(40, 0)
    spans = rng.uniform(0.5, 2.0, 40)
    c, s = np.cos(spans), np.sin(spans)
    y = np.c_[c * X[:, 0] - s * X[:, 1], s * X[:, 0] + c * X[:, 1], X[:, 2]]
    # the same field at all times, whenever each begins
    starts = rng.uniform(0, 1, 40)
    model = regressor(n_layers=1, n_steps=8, max_iter=200, alpha=0)
    model.fit_trajectories(
        [np.stack(pair) for pair in zip(X, y)],
        [np.array([t, t + span]) for t, span in zip(starts, spans)],
    )
    ends = model.predict_trajectory(X, (starts + spans)[:, None], start=starts)[:, 0]
    assert Sphere(2).distance(ends, y).max() < 1e-2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_unit_and_the_origin_of_time_do_not_matter(dtype):
    times = np.linspace(0, 2, 9)
    X, paths = make_macrospin(30, times=times, random_state=0)
    seconds = 1.7e9 + 3600 * times  # since 1970
    plain = regressor(dtype=dtype, max_iter=20).fit_trajectories(paths, times)
    logged = regressor(dtype=dtype, max_iter=20).fit_trajectories(paths, seconds)
    atol = 1e-5 if dtype == "float64" else 1e-2
    np.testing.assert_allclose(logged.loss_, plain.loss_, rtol=atol)
    np.testing.assert_allclose(
        logged.predict_trajectory(X, seconds),
        plain.predict_trajectory(X, times),
        atol=atol,
    )
    with pytest.raises(ValueError, match="steps from"):
        plain.predict_trajectory(X, [1.7e9])


def test_trajectories_in_frames_keep_their_names():
    times = np.linspace(0, 1, 4)
    X, paths = make_macrospin(5, times=times, random_state=0)
    frames = [pd.DataFrame(path, columns=["x", "y", "z"]) for path in paths]
    model = regressor(max_iter=3).fit_trajectories(frames, times)
    assert list(model.feature_names_in_) == ["x", "y", "z"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(pd.DataFrame(X, columns=["z", "y", "x"]))
    frames[1].columns = ["a", "b", "c"]
    mixed = regressor(max_iter=3).fit_trajectories(frames, times)
    assert not hasattr(mixed, "feature_names_in_")


def test_matrix_trajectories_and_those_of_tables():
    times = np.linspace(0, 1.5, 5)
    X, paths = make_rigid_body(20, times=times, random_state=0)
    model = regressor("so3").fit_trajectories(list(paths.reshape(20, 5, 3, 3)), times)
    rows = regressor("so3").fit_trajectories(paths, times)
    assert model.n_features_in_ == 9
    np.testing.assert_array_equal(model.predict(X), rows.predict(X))
    # in Euclidean space, units are taken care of
    scale = np.array([1e3, 1.0, 1e-3])
    _, swings = make_macrospin(20, times=times, random_state=0)
    table = regressor("euclidean", n_steps=4).fit_trajectories(swings * scale, times)
    start = table.predict_trajectory(swings[:, 0] * scale, times[:1])[:, 0]
    np.testing.assert_allclose(start, swings[:, 0] * scale, rtol=1e-9)
    back = table.inverse_predict(table.predict(swings[:, 0] * scale))
    np.testing.assert_allclose(back / scale, swings[:, 0], atol=1e-8)


@pytest.mark.parametrize(
    ("trajectories", "times", "message"),
    [
        (np.ones((3, 3)), [0, 1, 2], "For a single trajectory, give a list of one"),
        ([], [0, 1], "no trajectory"),
        (None, [0, 1], "trajectories must be an array or a list; got None"),
        ([np.eye(3)], 3.0, "times must be an array or a list; got 3.0"),
        ([np.eye(3)], [[0, 1]], "as many times as points"),
        ([np.eye(3)[:1]], [[0]], "two or more"),
        ([np.eye(3), np.eye(3)], [[0, 1, 2]], "2 trajectories, but times of 1"),
        ([np.eye(3)], [0, 2, 1], "do not rise"),
        ([np.eye(3), np.eye(4)[:3]], [0, 1, 2], "points of shape"),
        ([np.eye(3) * np.nan], [0, 1, 2], "NaN"),
        ([np.eye(3)], [0, 1, np.inf], "infinity"),
        ([2 * np.eye(3)], [0, 1, 2], "Row 0 of trajectory 0 is not on"),
        ([np.array([["a", "b", "c"]] * 3)], [0, 1, 2], "real numbers"),
    ],
)
def test_trajectories_that_cannot_be_are_refused(trajectories, times, message):
    with pytest.raises(ValueError, match=message):
        regressor().fit_trajectories(trajectories, times)


@pytest.mark.parametrize(
    ("times", "start", "message"),
    [
        ([-0.1], None, "before its start"),
        ([0.5], 0.6, "time 0.5 of sample 0 is before its start, 0.6"),
        ([[0.5], [0.6]], None, "times must have shape"),
        ([], None, "times must have shape"),
        ([0.5], [0.1, 0.2], "start must be"),
        ([np.nan], None, "NaN"),
    ],
)
def test_times_that_cannot_be_are_refused(magnet, times, start, message):
    model = fitted(magnet, max_iter=2)
    with pytest.raises(ValueError, match=message):
        model.predict_trajectory(magnet[0], times, start=start)


# What is refused


def test_reflections_are_refused_even_where_points_are_projected(attitudes):
    X, y = attitudes
    mirrored = X.copy()
    mirrored[3, :3] *= -1
    for off_manifold in ("raise", "project"):
        with pytest.raises(ValueError, match=r"Row 3 of X has a negative determinant"):
            regressor("so3", off_manifold=off_manifold).fit(mirrored, y)


def test_a_start_that_overflows_is_not_kept(magnet, monkeypatch):
    start, seen = FlowModel.start, []

    def spoiled(self, problem, generator):
        start(self, problem, generator)
        seen.append(None)
        if len(seen) == 1:
            with torch.no_grad():
                self.flow.W.fill_(torch.nan)

    monkeypatch.setattr(FlowModel, "start", spoiled)
    model = fitted(magnet, n_init=2)
    assert model.best_init_ == 1
    assert np.isfinite(model.loss_)
    seen.clear()
    with pytest.raises(ValueError, match="No start of solver='lbfgs' ended"):
        fitted(magnet)
    with pytest.raises(ValueError, match="smaller learning_rate"):
        regressor(
            "euclidean",
            readout=False,
            solver="sgd",
            learning_rate=1e3,
            activation="relu",
        ).fit(*magnet)


def test_wide_tables_do_not_wait_for_brackets():
    X = np.random.default_rng(0).standard_normal((10, 300))
    model = regressor("euclidean", max_iter=1).fit(X, X[:, 0])
    assert (model.lie_rank_, model.is_bracket_generating_) == (300, True)


def test_what_has_no_nearest_point_is_refused(magnet):
    X, y = magnet
    zero = X.copy()
    zero[5] = 0
    with pytest.raises(ValueError, match="Row 5 of X has no nearest point"):
        regressor(off_manifold="project").fit(zero, y)


@pytest.mark.parametrize(
    ("manifold", "X", "y", "message"),
    [
        ("so3", np.ones((5, 6)), np.ones((5, 6)), r"rows of 6 numbers.*have 9.*3, 3"),
        ("so3", np.ones((5, 2, 2)), np.ones((5, 4)), "rows of 4 numbers"),
        ("sphere", np.eye(3), np.eye(3)[:, :2], "y has rows of 2"),
        ("sphere", np.eye(3), np.eye(3)[:2], "inconsistent numbers"),
        ("sphere", np.eye(3)[:1], np.eye(3)[:1], "minimum of 2"),
        ("sphere", np.eye(3) * np.nan, np.eye(3), "NaN"),
        ("euclidean", np.eye(3) * 1e50, np.eye(3), "beyond torch.float32"),
        ("sphere", np.eye(3) * 1j, np.eye(3), "[Cc]omplex"),
        ("euclidean", np.ones((5, 2, 2)), np.ones(5), "dim 3"),
        ("hyperbolic", np.eye(3), np.eye(3), "manifold"),
        (object(), np.eye(3), np.eye(3), "manifold"),
    ],
)
def test_input_that_cannot_be_is_refused(manifold, X, y, message):
    dtype = "float32" if "float32" in message else "auto"
    with pytest.raises(ValueError, match=message):
        regressor(manifold, dtype=dtype).fit(X, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generators": np.eye(3)[None]}, "not tangent"),
        ({"integrator": "cf4", "retraction": "cayley"}, "order 2"),
        ({"device": "cuda:7"}, "not available"),
        ({"manifold_shape": (1, 2)}, "1 number"),
        ({"manifold_shape": (2.5,)}, "positive integers"),
        ({"manifold_shape": ("a",)}, "positive integers"),
        ({"manifold": Sphere}, "must be an object"),
        ({"manifold": Sphere(2), "manifold_shape": (2,)}, "goes with a manifold's"),
        ({"manifold_shape": (5,)}, "rows of 3 numbers"),
    ],
)
def test_settings_that_cannot_be_are_refused(magnet, settings, message):
    with pytest.raises(ValueError, match=message):
        regressor(**settings).fit(*magnet)


def test_fields_that_do_not_generate_are_warned_of(magnet):
    turn = np.array([[[0, -1, 0], [1, 0, 0], [0, 0, 0]]])
    with pytest.warns(UserWarning, match="directions in which the flow cannot go") as w:
        model = regressor(generators=turn, max_iter=5).fit(*magnet)
    assert not model.is_bracket_generating_
    assert model.lie_rank_ == 1
    assert {warning.filename for warning in w} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert (
            regressor(generators="chain", max_iter=5)
            .fit(*magnet)
            .is_bracket_generating_
        )


def test_a_limit_that_is_too_low_is_told_where_the_user_calls(magnet):
    with pytest.warns(ConvergenceWarning, match="max_iter=3") as caught:
        fitted(magnet, max_iter=3)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_failed_call_leaves_the_fitted_model_alone(magnet):
    X, y = magnet
    model = fitted(magnet)
    before = model.predict(X)
    for call in (
        lambda: model.fit(2 * X, y),
        lambda: model.fit_trajectories([X], [np.zeros(len(X))]),
        lambda: model.predict(2 * X),
    ):
        with pytest.raises(ValueError):
            call()
    np.testing.assert_array_equal(model.predict(X), before)


def test_constant_columns_and_units_do_not_matter_to_a_readout():
    X, y = make_sphere_flow(60, random_state=0)
    wide = np.c_[X * [1e6, 1.0, 1e-6], np.full(60, 7.0)]
    plain = regressor("euclidean").fit(np.c_[X, np.zeros(60)], y)
    scaled = regressor("euclidean").fit(wide, y * 1e4 + 1e5)
    np.testing.assert_allclose(
        scaled.predict(wide),
        plain.predict(np.c_[X, np.zeros(60)]) * 1e4 + 1e5,
        atol=50,  # of 1e4: the same descent up to rounding, which grows
    )
