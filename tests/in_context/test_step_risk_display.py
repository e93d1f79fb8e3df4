"""The picture of chains: by mode or step by step, with what on its axes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_attn.datasets import make_staged_process
from sklearn_attn.in_context import (
    ChainOfThoughtRegressor,
    MLPPrior,
    PretrainedICL,
    StepRiskDisplay,
    filtered_least_squares,
    step_risk_curve,
)
from sklearn_attn.in_context._weights import build

LENGTHS = [2, 6, 20]
PRIOR = MLPPrior((4,), bias=0.0)
SETTINGS = {"n_features": 3, "n_tasks": 20, "random_state": 0}


def zero(X, steps, y, X_query, given=None):
    return [X.new_zeros(len(X), X_query.shape[1])]


ALGORITHMS = {"least squares": filtered_least_squares, "zero": zero}


def draw(algorithms=ALGORITHMS, **settings):
    return StepRiskDisplay.from_algorithms(
        algorithms, PRIOR, LENGTHS, **SETTINGS | settings
    )


@pytest.fixture(autouse=True)
def _no_open_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    X, steps, y = make_staged_process(60, random_state=0)
    return ChainOfThoughtRegressor(solver="filtered").fit(X, y, steps=steps)


def legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_lines_are_the_errors_of_y_and_bands_are_around_them():
    display = draw()
    assert list(display.lines_) == list(display.bands_) == list(ALGORITHMS)
    for name, algorithm in ALGORITHMS.items():
        curve = step_risk_curve(algorithm, PRIOR, LENGTHS, **SETTINGS)
        np.testing.assert_array_equal(display.curves[name].risk, curve.risk)
        np.testing.assert_array_equal(display.lines_[name].get_ydata(), curve.risk)
        drawn = display.bands_[name].get_paths()[0].vertices[:, 1]
        assert drawn.min() == pytest.approx(curve.low.min())
        assert drawn.max() == pytest.approx(curve.high.max())


def test_axes_and_legend_say_what_is_seen():
    display = draw()
    assert display.ax_.get_xlabel() == "examples in the context"
    assert "squared error" in display.ax_.get_ylabel()
    assert legend(display) == list(ALGORITHMS)


def test_step_by_step_each_is_drawn_alone_and_in_the_chain():
    display = draw({"least squares": filtered_least_squares}, kind="steps")
    (curve,) = display.curves.values()
    assert list(display.lines_) == ["s^1 alone", "s^1", "y alone", "y", "composed"]
    assert list(display.bands_) == ["y"]
    for i, key in enumerate(("s^1", "y")):
        alone, chained = display.lines_[f"{key} alone"], display.lines_[key]
        np.testing.assert_array_equal(alone.get_ydata(), curve.alone[i])
        np.testing.assert_array_equal(chained.get_ydata(), curve.chained[i])
        assert (alone.get_linestyle(), chained.get_linestyle()) == ("--", "-")
    np.testing.assert_array_equal(
        display.lines_["composed"].get_ydata(), curve.alone.sum(0)
    )
    assert len(legend(display)) == 5


def test_one_of_several_is_drawn_step_by_step_by_its_name():
    display = draw({"zero": zero, "least squares": filtered_least_squares})
    with pytest.raises(ValueError, match="name must be one of"):
        display.plot(kind="steps")
    with pytest.raises(ValueError, match="answers y at once"):
        display.plot(kind="steps", name="zero")
    display.plot(kind="steps", name="least squares")
    np.testing.assert_array_equal(
        display.lines_["y"].get_ydata(), display.curves["least squares"].risk
    )


def test_weights_are_asked_in_the_mode_they_come_with():
    config = {"form": "chain", "n_features": 3, "step_width": 4, "depth": 2}
    config |= {"n_outputs": 1, "width": 8, "n_layers": 1}
    state = build(config, seed=0).state_dict()
    weights = PretrainedICL(config, {name: a.numpy() for name, a in state.items()})
    modes = ("cot-io", "cot-i", "icl")
    pairs = {mode: (weights, mode) for mode in modes}
    display = draw({"plain": weights, **pairs})
    for mode in modes:
        curve = step_risk_curve(weights, PRIOR, LENGTHS, mode=mode, **SETTINGS)
        np.testing.assert_array_equal(display.curves[mode].risk, curve.risk)
    np.testing.assert_array_equal(
        display.curves["plain"].risk, display.curves["cot-io"].risk
    )


@pytest.mark.parametrize("random_state", [None, 3, np.random.RandomState(0)])
def test_all_algorithms_get_the_same_tasks(random_state):
    same = {"a": filtered_least_squares, "b": filtered_least_squares}
    a, b = draw(same, random_state=random_state).curves.values()
    np.testing.assert_array_equal(a.risk, b.risk)


def test_it_draws_into_given_axes_and_again_with_other_scales():
    figure, ax = plt.subplots()
    display = draw(ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert ax.get_yscale() == "log"
    again = display.plot(xscale="log", yscale="linear")
    assert again is display
    assert display.ax_ is not ax
    assert (display.ax_.get_xscale(), display.ax_.get_yscale()) == ("log", "linear")
    assert display.ax_.get_ylim()[0] == 0


def test_exact_solutions_do_not_stretch_the_picture_down_to_rounding_errors():
    display = draw({"least squares": filtered_least_squares})
    assert display.curves["least squares"].risk.min() < 1e-8
    low, high = display.ax_.get_ylim()
    assert low == 1e-5
    assert high > display.curves["least squares"].risk.max()


def test_a_fitted_model_has_points_at_each_step_alone_and_in_the_chain(fitted):
    X, steps, y = make_staged_process(80, random_state=1)
    display = StepRiskDisplay.from_estimator(fitted, X, y, steps, name="chain")
    risk = fitted.step_risk(X, y, steps)
    assert list(display.lines_) == ["chain", "chain alone"]
    np.testing.assert_array_equal(display.lines_["chain"].get_ydata(), risk.chained)
    np.testing.assert_array_equal(display.lines_["chain alone"].get_ydata(), risk.alone)
    ticks = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    assert ticks == ["flows", "overflows", "y"]
    assert legend(display) == ["in the chain", "alone"]
    assert list(StepRiskDisplay.from_estimator(fitted, X, y, steps).curves) == [
        "ChainOfThoughtRegressor"
    ]


def test_several_models_are_drawn_beside_each_other(fitted):
    X, steps, y = make_staged_process(80, random_state=1)
    risk = fitted.step_risk(X, y, steps)
    display = StepRiskDisplay({"a": risk, "b": risk}).plot(yscale="linear")
    a, b = (display.lines_[name].get_xdata() for name in "ab")
    assert (a < b).all()
    np.testing.assert_array_equal((a + b) / 2, [0, 1, 2])
    assert legend(display) == [
        "a, in the chain",
        "a, alone",
        "b, in the chain",
        "b, alone",
    ]


def test_what_cannot_be_drawn_is_refused(fitted):
    with pytest.raises(TypeError, match="dict of names"):
        draw([filtered_least_squares])
    with pytest.raises(ValueError, match="no algorithms"):
        draw({})
    for wrong in ({"yscale": "symlog"}, {"xscale": "symlog"}, {"kind": "bars"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            draw(**wrong)
    X, steps, y = make_staged_process(80, random_state=1)
    display = StepRiskDisplay.from_estimator(fitted, X, y, steps)
    with pytest.raises(ValueError, match="Fitted models have errors by steps only"):
        display.plot(kind="modes")
