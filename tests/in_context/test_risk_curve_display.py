"""The picture of risks: what is drawn, with what on its axes."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_attn.in_context import (
    LinearPrior,
    RiskCurveDisplay,
    minimum_norm,
    ridge,
    risk_curve,
)

ALGORITHMS = {"least squares": minimum_norm, "ridge": partial(ridge, noise=1.0)}
LENGTHS = [1, 3, 6]


def draw(algorithms=ALGORITHMS, **settings):
    settings = {"n_features": 3, "n_tasks": 20, "random_state": 0} | settings
    return RiskCurveDisplay.from_algorithms(
        algorithms, LinearPrior(noise=1.0), LENGTHS, **settings
    )


@pytest.fixture(autouse=True)
def _no_open_figures():
    yield
    plt.close("all")


def test_lines_are_the_risks_and_bands_are_around_them():
    display = draw()
    assert list(display.lines_) == list(display.bands_) == list(ALGORITHMS)
    for name, algorithm in ALGORITHMS.items():
        curve = risk_curve(
            algorithm,
            LinearPrior(noise=1.0),
            LENGTHS,
            n_features=3,
            n_tasks=20,
            random_state=0,
        )
        np.testing.assert_array_equal(display.curves[name].risk, curve.risk)
        np.testing.assert_array_equal(display.lines_[name].get_ydata(), curve.risk)
        drawn = display.bands_[name].get_paths()[0].vertices[:, 1]
        assert drawn.min() == pytest.approx(curve.low.min())
        assert drawn.max() == pytest.approx(curve.high.max())


def test_axes_and_legend_say_what_is_seen():
    display = draw()
    assert display.ax_.get_xlabel() == "examples in the context"
    assert "squared error" in display.ax_.get_ylabel()
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == list(ALGORITHMS)


@pytest.mark.parametrize("random_state", [None, 3, np.random.RandomState(0)])
def test_all_algorithms_get_the_same_tasks(random_state):
    display = draw({"a": minimum_norm, "b": minimum_norm}, random_state=random_state)
    a, b = display.curves.values()
    np.testing.assert_array_equal(a.risk, b.risk)


def test_it_draws_into_given_axes_and_again_with_other_scales():
    figure, ax = plt.subplots()
    display = draw(ax=ax, yscale="log")
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert ax.get_yscale() == "log"
    again = display.plot(xscale="log")
    assert again is display
    assert display.ax_ is not ax
    assert (display.ax_.get_xscale(), display.ax_.get_yscale()) == ("log", "linear")


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(TypeError, match="dict of names"):
        draw([minimum_norm])
    with pytest.raises(ValueError, match="no algorithms"):
        draw({})
    with pytest.raises(ValueError, match="yscale must be"):
        draw(yscale="symlog")
