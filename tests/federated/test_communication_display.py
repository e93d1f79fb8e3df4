"""What the display of communication draws."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from sklearn_attn.federated import FedMSAClassifier, fedmsa, quadratic_problem
from sklearn_attn.federated._communication_display import CommunicationDisplay

from .affine import affine_engine, quadratic

SHORT = {"comm_rounds": [2, 4], "comm_floats": [10, 20], "hypergrad_norm": [1.0, 1e-3]}
LONG = {
    "comm_rounds": [5, 100, 200],
    "comm_floats": [5, 10, 15],
    "hypergrad_norm": [1.0, np.nan, 0.1],
}
RUNS = {"short": SHORT, "long": LONG}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_runs_are_drawn_against_rounds_and_against_numbers_sent():
    display = CommunicationDisplay.from_histories(RUNS, reference=0.01)
    left, right = display.axes_
    assert display.ax_ is left
    assert display.figure_ is left.figure
    of_short = display.lines_["short"]
    assert [line.axes for line in of_short] == [left, right]
    assert [line.get_xdata().tolist() for line in of_short] == [[2, 4], [10, 20]]
    assert [line.get_ydata().tolist() for line in of_short] == [[1, 1e-3]] * 2
    assert [line.get_ydata()[0] for line in display.references_] == [0.01] * 2
    assert left.get_ylabel() == "norm of the hypergradient"
    assert left.get_ylim() == right.get_ylim()
    legend = [text.get_text() for text in right.get_legend().get_texts()]
    assert legend == ["short", "long"]
    display.figure_.canvas.draw()


def test_what_is_missing_is_left_out():
    display = CommunicationDisplay.from_histories(RUNS)
    assert display.lines_["long"][0].get_xdata().tolist() == [5, 200]
    assert display.references_ == []


def test_axes_are_logarithmic_where_numbers_differ_by_much():
    left, right = CommunicationDisplay.from_histories(RUNS).axes_
    assert [ax.get_xscale() for ax in (left, right)] == ["log", "linear"]
    assert [ax.get_yscale() for ax in (left, right)] == ["log", "log"]
    signed = SHORT | {"outer_loss": [-1.0, 100.0]}
    display = CommunicationDisplay.from_histories({"a": signed}, quantity="outer_loss")
    assert display.ax_.get_yscale() == "linear"
    told = CommunicationDisplay.from_histories(
        {"a": SHORT}, xscale="log", yscale="linear"
    )
    assert (told.ax_.get_xscale(), told.ax_.get_yscale()) == ("log", "linear")
    told = display.plot(xscale="log", yscale="log")
    assert (told.ax_.get_xscale(), told.ax_.get_yscale()) == ("log", "log")


def test_an_error_of_zero_does_not_stretch_the_picture():
    run = SHORT | {"hypergrad_norm": [1.0, 0.0]}
    display = CommunicationDisplay.from_histories({"a": run, "b": SHORT})
    assert display.ax_.get_yscale() == "log"
    assert display.ax_.get_ylim()[0] > 1e-4
    display.figure_.canvas.draw()


def test_one_panel_goes_where_it_is_told_to_and_again():
    figure, axes = plt.subplots(1, 2)
    display = CommunicationDisplay.from_histories(RUNS, against="floats", ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert [len(lines) for lines in display.lines_.values()] == [1, 1]
    assert display.plot(against="floats") is display
    assert display.ax_ is not axes[1]
    both = CommunicationDisplay.from_histories(RUNS, ax=axes)
    assert both.axes_.tolist() == axes.tolist()
    with pytest.raises(ValueError, match=r"no 'comm_rounds' of \['short', 'long'\]"):
        display.plot()


def test_solutions_and_estimators_are_drawn_as_their_histories():
    problem, _ = quadratic_problem(data := quadratic(0.3))
    solution = fedmsa(problem, engine=affine_engine(data), n_rounds=3)
    rng = np.random.default_rng(0)
    X, clients = rng.normal(size=(40, 2)), np.arange(40) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = FedMSAClassifier(n_rounds=3, refit=False, random_state=0)
        model.fit(X, X[:, 0] > 0, groups=clients)
    display = CommunicationDisplay.from_histories({"a": solution, "b": model})
    for name, history in (("a", solution.history), ("b", model.history_)):
        for line, cost in zip(display.lines_[name], ("comm_rounds", "comm_floats")):
            assert line.get_xdata().tolist() == history[cost]
            assert line.get_ydata().tolist() == history["hypergrad_norm"]


def test_a_quantity_of_ones_own_can_be_drawn():
    run = SHORT | {"distance": [3, 1]}
    display = CommunicationDisplay.from_histories({"a": run}, quantity="distance")
    assert display.ax_.get_ylabel() == "distance"
    assert display.lines_["a"][0].get_ydata().tolist() == [3, 1]


@pytest.mark.parametrize(
    ("runs", "settings", "error", "message"),
    [
        ({}, {}, ValueError, "no runs"),
        ([SHORT], {}, TypeError, "a dict of names and histories; got a list"),
        ({"a": FedMSAClassifier()}, {}, TypeError, "'a' has no history: .* is fitted"),
        (RUNS, {"quantity": "loss"}, ValueError, r"of 'short' has no \['loss'\]; it"),
        ({"a": SHORT | {"comm_rounds": [1]}}, {}, ValueError, "must have one length"),
        (RUNS, {"against": "time"}, ValueError, "against must be one of .* 'time'"),
        (RUNS, {"reference": np.nan}, ValueError, "must be a finite number; got nan"),
        (RUNS, {"ax": "here"}, ValueError, "needs 2 axes; got 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(runs, settings, error, message):
    with pytest.raises(error, match=message):
        CommunicationDisplay.from_histories(runs, **settings)


def test_settings_of_a_plot_are_checked():
    display = CommunicationDisplay(RUNS)
    with pytest.raises(ValueError, match=r"yscale must be .* got 'symlog'"):
        display.plot(yscale="symlog")
    with pytest.raises(ValueError, match="against must be"):
        display.plot(against="x")
