"""What the displays of dynamics draw."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from sklearn_attn.datasets import (
    make_bilinear_system,
    make_boost_converter,
    make_macrospin,
    make_rigid_body,
)
from sklearn_attn.dynamics import (
    BilinearSystem,
    BilinearSystemIdentifier,
    ManifoldNeuralODERegressor,
    StabilityDisplay,
    TrajectoryDisplay,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def converter():
    X, y = make_boost_converter(1500, noise=0.05, random_state=0)
    model = BilinearSystemIdentifier(fit_intercept=True).fit(X[:1000], y[:1000])
    return model, X[1000:, :2], X[1000:, 2:]


def test_the_free_run_is_drawn_beside_what_was_measured(converter):
    model, states, inputs = converter
    display = TrajectoryDisplay.from_estimator(
        model, states, inputs, show_inputs=True, input_names=["duty ratio"]
    )
    assert len(display.axes_) == 3
    simulated = model.simulate(states[0], inputs[:-1])
    for j in range(2):
        np.testing.assert_array_equal(
            display.simulated_lines_[j].get_ydata(), simulated[:, j]
        )
        np.testing.assert_array_equal(
            display.measured_lines_[j].get_ydata(), states[:, j]
        )
    assert [ax.get_ylabel() for ax in display.axes_] == ["x0", "x1", "duty ratio"]
    assert display.axes_[-1].get_xlabel() == "step"
    labels = [text.get_text() for text in display.axes_[0].get_legend().get_texts()]
    assert labels == ["95% of runs", "measured", "simulated"]


def test_the_band_holds_the_share_of_states_that_it_names(converter):
    model, states, inputs = converter
    shares = {}
    for level in (0.5, 0.95):
        display = TrajectoryDisplay.from_estimator(
            model, states, inputs, level=level, n_systems=200
        )
        inside = (display.low <= states) & (states <= display.high)
        shares[level] = inside.mean()
    # one run of correlated states
    assert shares[0.5] == pytest.approx(0.5, abs=0.2)
    assert shares[0.95] == pytest.approx(0.95, abs=0.05)
    again = TrajectoryDisplay.from_estimator(model, states, inputs, n_systems=200)
    np.testing.assert_array_equal(again.low, display.low)
    same_seed = TrajectoryDisplay.from_estimator(
        model, states, inputs, n_systems=200, random_state=np.int64(0)
    )
    np.testing.assert_array_equal(same_seed.low, display.low)
    other = TrajectoryDisplay.from_estimator(
        model, states, inputs, n_systems=200, random_state=1
    )
    assert (other.low != display.low).any()


def test_a_forecast_needs_the_first_state_only(converter):
    model, states, inputs = converter
    display = TrajectoryDisplay.from_estimator(
        model, states[0], inputs, level=None, dt=20e-6
    )
    assert display.measured_lines_ == []
    assert display.bands_ == []
    assert display.axes_[-1].get_xlabel() == "time"
    assert display.times[-1] == pytest.approx(20e-6 * len(inputs))


def test_names_come_from_data_frames():
    X, y = make_boost_converter(500, random_state=0)
    frame = pd.DataFrame(X, columns=["current", "voltage", "duty"])
    model = BilinearSystemIdentifier(
        time="continuous", dt=20e-6, fit_intercept=True
    ).fit(frame, y)
    display = TrajectoryDisplay.from_estimator(
        model, frame[["current", "voltage"]], frame[["duty"]], show_inputs=True
    )
    names = [ax.get_ylabel() for ax in display.axes_]
    assert names == ["current", "voltage", "duty"]
    assert display.axes_[-1].get_xlabel() == "time"


def test_several_inputs_share_axes_with_a_legend():
    X, y = make_bilinear_system(200, 2, 3, random_state=0)
    model = BilinearSystemIdentifier().fit(X, y)
    display = TrajectoryDisplay.from_estimator(
        model, X[:, :2], X[:, 2:], show_inputs=True
    )
    legend = display.axes_[-1].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["u0", "u1", "u2"]


def test_given_axes_are_used_and_must_be_as_many_as_states(converter):
    model, states, inputs = converter
    _, axes = plt.subplots(2)
    display = TrajectoryDisplay.from_estimator(model, states, inputs, axes=axes)
    assert list(display.axes_) == list(axes)
    with pytest.raises(ValueError, match="3 axes are needed; got 2"):
        TrajectoryDisplay.from_estimator(
            model, states, inputs, axes=axes, show_inputs=True
        )
    with pytest.raises(ValueError, match="500 states and 300 inputs"):
        TrajectoryDisplay.from_estimator(model, states, inputs[:300])
    with pytest.raises(ValueError, match="level must be between"):
        TrajectoryDisplay.from_estimator(model, states, inputs, level=1.5)


def test_eigenvalues_and_critical_level_are_those_of_the_system():
    _, _, system = make_bilinear_system(10, 3, 2, random_state=0, return_system=True)
    display = StabilityDisplay.from_system(system)
    assert len(display.eigenvalues_.get_offsets()) == 9
    assert display.critical_input_level == system.critical_input_level()
    levels, radii = display.curve_.get_data()
    assert radii[0] == pytest.approx(system.spectral_radius(0.0))
    assert np.interp(display.critical_input_level, levels, radii) == pytest.approx(
        1, abs=0.01
    )
    legend = [text.get_text() for text in display.axes_[1].get_legend().get_texts()]
    assert legend[1].startswith("stable up to")


def test_a_fitted_model_is_drawn_for_the_inputs_of_its_data():
    X, y = make_bilinear_system(500, 3, 2, input_std=0.5, random_state=0)
    model = BilinearSystemIdentifier().fit(X, y)
    display = StabilityDisplay.from_estimator(model)
    expected = model.stability()
    assert display.critical_input_level == expected.critical_input_level
    largest = np.abs(display.eigenvalues).max()
    assert largest == pytest.approx(expected.spectral_radius)
    other = StabilityDisplay.from_estimator(model, input_cov=1.0)
    assert other.critical_input_level < display.critical_input_level


def test_a_system_that_no_input_destabilises_says_so():
    display = StabilityDisplay.from_system(BilinearSystem([[[0.5]], [[0.0]]]))
    legend = [text.get_text() for text in display.axes_[1].get_legend().get_texts()]
    assert legend[1] == "stable at every level"
    with pytest.raises(ValueError, match="Two axes are needed; got 1"):
        display.plot(plt.figure().add_subplot())


TIMES = np.linspace(0, 1, 5)


def flow(manifold, paths):
    model = ManifoldNeuralODERegressor(
        manifold=manifold, n_init=1, max_iter=5, n_layers=2, random_state=0
    )
    with pytest.warns(ConvergenceWarning):
        return model.fit_trajectories(paths, TIMES)


def seen_from(view, points):
    """Where points of the sphere are in the picture, by turning them to the viewer."""
    azimuth, elevation = np.radians(view)
    turn = Rotation.from_euler("zy", [-azimuth, elevation])
    depth, right, up = turn.apply(points).T
    return np.c_[right, up], depth >= 0


def test_runs_on_the_sphere_are_drawn_on_it_and_faint_behind():
    _, paths = make_macrospin(6, times=TIMES, random_state=0)
    model = flow("sphere", paths)
    display = TrajectoryDisplay.from_estimator(
        model, paths[:3], times=TIMES, view=(20, 40)
    )
    assert display.manifold == "sphere"
    runs = model.predict_trajectory(paths[:3, 0], TIMES)
    assert len(display.simulated_lines_) == len(display.measured_lines_) == 6
    for lines, drawn in (
        (display.simulated_lines_, runs),
        (display.measured_lines_, paths[:3]),
    ):
        for i, run in enumerate(drawn):
            front, back = lines[2 * i : 2 * i + 2]
            xy, in_front = seen_from((20, 40), run)
            np.testing.assert_allclose(front.get_xydata()[in_front], xy[in_front])
            np.testing.assert_allclose(back.get_xydata()[~in_front], xy[~in_front])
            assert back.get_alpha() < front.get_alpha()
    labels = [text.get_text() for text in display.axes_[0].get_legend().get_texts()]
    assert labels == ["measured", "simulated"]
    assert display.axes_[0].get_aspect() == 1


def test_a_rotation_is_drawn_as_the_paths_of_three_axes():
    _, paths = make_rigid_body(6, times=TIMES, random_state=0)
    model = flow("so3", paths)
    for states in (paths[0], paths[0].reshape(-1, 3, 3)):
        display = TrajectoryDisplay.from_estimator(model, states, times=TIMES)
        assert display.manifold == "rotations"
        assert len(display.measured_lines_) == 6
        for j in range(3):  # columns are the axes of the body
            xy, in_front = seen_from(display.view, paths[0].reshape(-1, 3, 3)[:, :, j])
            line = display.measured_lines_[2 * j]
            np.testing.assert_allclose(line.get_xydata()[in_front], xy[in_front])
    texts = display.axes_[0].get_legend().get_texts()
    assert [text.get_text() for text in texts[3:]] == [
        f"{axis} axis, simulated" for axis in "xyz"
    ]


def test_a_first_point_alone_draws_the_run_alone():
    _, paths = make_macrospin(6, times=TIMES, random_state=0)
    model = flow("sphere", paths)
    display = TrajectoryDisplay.from_estimator(model, paths[0, :1], times=TIMES)
    assert display.measured is None
    assert display.measured_lines_ == []
    assert len(display.simulated_lines_) == 2


def test_flows_on_other_manifolds_are_drawn_over_time():
    _, paths = make_macrospin(6, times=TIMES, random_state=0)
    model = flow("euclidean", paths)
    display = TrajectoryDisplay.from_estimator(model, paths[0], times=TIMES)
    assert len(display.axes_) == 3
    np.testing.assert_array_equal(
        display.measured_lines_[1].get_ydata(), paths[0, :, 1]
    )
    np.testing.assert_array_equal(display.measured_lines_[1].get_xdata(), TIMES)
    with pytest.raises(ValueError, match="Several runs"):
        TrajectoryDisplay.from_estimator(model, paths, times=TIMES)


def test_a_flow_needs_times_as_many_as_states():
    _, paths = make_macrospin(6, times=TIMES, random_state=0)
    model = flow("sphere", paths)
    with pytest.raises(ValueError, match="needs the times"):
        TrajectoryDisplay.from_estimator(model, paths[0])
    with pytest.raises(ValueError, match="There are 5 states, and 3 times"):
        TrajectoryDisplay.from_estimator(model, paths[0], times=TIMES[:3])


def test_what_a_flow_cannot_draw_is_refused():
    X, paths = make_macrospin(6, times=TIMES, random_state=0)
    model = flow("sphere", paths)
    with pytest.raises(ValueError, match="no inputs"):
        TrajectoryDisplay.from_estimator(model, paths[0], paths[0], times=TIMES)
    with pytest.raises(NotFittedError):
        TrajectoryDisplay.from_estimator(
            ManifoldNeuralODERegressor(), paths[0], times=TIMES
        )
    with pytest.raises(ValueError, match="'sphere', 'rotations' or None; got 'foo'"):
        TrajectoryDisplay(TIMES, paths[0], manifold="foo").plot()
    scalar = ManifoldNeuralODERegressor(max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning):
        scalar.fit(X, X[:, 0])
    with pytest.raises(ValueError, match="reads 1 outputs from 3 states"):
        TrajectoryDisplay.from_estimator(scalar, paths[0], times=TIMES)


def test_states_of_a_flow_have_the_names_of_columns():
    X, paths = make_macrospin(6, times=TIMES, random_state=0)
    model = ManifoldNeuralODERegressor(readout=False, max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(pd.DataFrame(X, columns=["east", "north", "up"]), paths[:, -1])
    with pytest.warns(UserWarning, match="feature names"):
        display = TrajectoryDisplay.from_estimator(model, paths[0], times=TIMES)
    assert [ax.get_ylabel() for ax in display.axes_] == ["east", "north", "up"]
