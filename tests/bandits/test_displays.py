"""What the displays of bandits draw."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from sklearn_attn.bandits import (
    DependencePattern,
    DependencePatternDisplay,
    LongHorizonBandit,
    RandomPolicy,
    RegretDisplay,
    SparseDependenceBandit,
    run,
)
from sklearn_attn.datasets import make_long_horizon_rewards


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def model():
    X, y = make_long_horizon_rewards(500, 4, lags=(3, 20), random_state=0)
    return SparseDependenceBandit(horizon=60).fit(X, y)


def test_lags_are_drawn_with_what_they_must_exceed(model):
    display = DependencePatternDisplay.from_estimator(model)
    top = display.scores_.get_segments()
    assert [float(line[1, 1]) for line in top] == pytest.approx(model.lag_scores_)
    assert display.threshold_.get_ydata()[0] == model.lag_threshold_
    heights = [bar.get_height() for bar in display.weights_]
    assert heights == pytest.approx(model.lag_weights_[[3, 20]])
    names = {text.get_text() for text in display.axes_[0].texts}
    assert names == {"lag 3", "lag 20"}
    assert display.figure_ is display.axes_[1].figure
    assert display.axes_[1].get_xlabel().startswith("lag")


def test_it_draws_where_it_is_told_to_and_again(model):
    _, axes = plt.subplots(2)
    display = DependencePatternDisplay.from_estimator(model, axes=axes)
    assert display.axes_[0] is axes[0]
    assert display.plot() is display
    assert display.axes_[0] is not axes[0]
    with pytest.raises(ValueError, match="Two axes are needed; got 1"):
        display.plot(axes[0])


@pytest.mark.filterwarnings("ignore:No lag", "ignore:All rewards", "ignore:horizon")
def test_models_that_found_nothing_or_more_are_drawn_too():
    X, y = make_long_horizon_rewards(300, 3, lags=(2,), random_state=0)
    own = SparseDependenceBandit(horizon=20, rank_one=False).fit(X, y)
    display = DependencePatternDisplay.from_estimator(own)
    best = own.lag_scores_.max(axis=1)
    tops = [float(line[1, 1]) for line in display.scores_.get_segments()]
    assert tops == pytest.approx(best)
    for nothing in (np.zeros(300), np.random.RandomState(0).standard_normal(300)):
        model = SparseDependenceBandit(horizon=200).fit(X, nothing)
        assert len(DependencePatternDisplay.from_estimator(model).weights_) == 0
    untested = SparseDependenceBandit(horizon=5).fit(np.ones((300, 1)), y)
    DependencePatternDisplay.from_estimator(untested).figure_.canvas.draw()


def test_regret_is_drawn_with_its_mean_and_spread():
    game = LongHorizonBandit(DependencePattern.rank_one([1.0], [0.6, 0.8]))
    games = [run(RandomPolicy(i), game, 50, seed=i) for i in range(4)]
    display = RegretDisplay.from_results({"random": games, "once": games[0]})
    every = np.array([each.regret for each in games])
    np.testing.assert_allclose(display.lines_[0].get_ydata(), every.mean(0))
    np.testing.assert_allclose(display.lines_[1].get_ydata(), every[0])
    band = display.ax_.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((every.mean(0) + every.std(0)).max())
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend[0] == f"random: {every.mean(0)[-1]:,.0f}"
    display.plot(log=True)
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"


def test_games_of_different_length_have_no_mean():
    game = LongHorizonBandit(DependencePattern.rank_one([1.0], [0.6, 0.8]))
    games = [run(RandomPolicy(0), game, n, seed=0) for n in (5, 6)]
    with pytest.raises(ValueError, match=r"got lengths \[5, 6\]"):
        RegretDisplay.from_results({"random": games})
    with pytest.raises(ValueError, match=r"got lengths \[\]"):
        RegretDisplay.from_results({"random": []})


def test_a_regret_below_zero_is_seen():
    display = RegretDisplay({"lucky": np.array([[1.0, -2.0]])}).plot()
    assert display.ax_.get_ylim()[0] <= -2


def test_what_was_not_fitted_is_not_drawn():
    with pytest.raises(NotFittedError):
        DependencePatternDisplay.from_estimator(SparseDependenceBandit())
