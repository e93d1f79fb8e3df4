"""What the displays of multitask learning draw."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from sklearn_attn.datasets import make_multipath_tasks
from sklearn_attn.multitask import (
    MultipathMTL,
    MultipathMTLClassifier,
    PathwayDisplay,
    SampleRiskDisplay,
    Supernet,
)
from sklearn_attn.multitask._pathway_display import PALE, THINNEST, WIDEST


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def fitted(paths, layers, *, tree=False, kind=MultipathMTL):
    """Return an estimator that was told its paths."""
    paths = np.asarray(paths)
    X, y, tasks = make_multipath_tasks(
        len(paths), 20, 8, random_state=0, layers=((1, 2),)
    )
    if kind is MultipathMTLClassifier:
        y = y > 0
    options = {"paths": paths, "tree": tree, "alpha_module": 0.1, "alpha_head": 0.1}
    return kind(layers, **options).fit(X, y, tasks=tasks)


@pytest.fixture(scope="module")
def model():
    """Six tasks go to module 2, three to module 0, none to module 1."""
    return fitted([[0, 2]] * 6 + [[0, 0]] * 3, ((1, 4), (3, 2)))


def labels(display):
    return [[box.get_text() for box in column] for column in display.boxes_]


def test_lines_are_as_thick_as_tasks_are_many(model):
    display = PathwayDisplay.from_estimator(model, max_tasks=5)
    assert [load.tolist() for load in display.loads_] == [[9], [3, 6], [3, 6]]
    for edges, load in zip(display.edges_, display.loads_):
        np.testing.assert_allclose(edges.get_linewidths(), WIDEST * load / 9)


def test_boxes_say_what_modules_are_and_who_shares_them(model):
    display = PathwayDisplay.from_estimator(model, max_tasks=5)
    assert labels(display) == [
        ["8 features"],
        ["module 0: 9 tasks"],
        ["module 0: 3 tasks", "module 2: 6 tasks", "module 1: unused"],
        ["3 tasks: 6, 7, 8", "6 tasks: 0, 1, 2, …"],
    ]
    written = {text.get_text() for text in display.ax_.texts}
    assert "layer 1:\n1 module of width 4" in written
    assert "layer 2:\n3 modules of width 2" in written
    assert "tasks, by path" in written


def test_a_module_without_a_task_is_pale_and_a_thin_line_leads_there(model):
    display = PathwayDisplay.from_estimator(model)
    *used, unused = display.boxes_[2]
    frames = [box.get_bbox_patch().get_edgecolor() for box in (*used, unused)]
    pale = plt.matplotlib.colors.to_rgba(PALE)
    assert [frame == pale for frame in frames] == [False, False, True]
    assert [len(lines.get_paths()) for lines in display.unused_] == [0, 1]
    end = display.unused_[1].get_paths()[0].vertices[-1]
    np.testing.assert_allclose(end, unused.get_position())


def test_lines_lead_to_the_boxes_of_their_modules(model):
    display = PathwayDisplay.from_estimator(model, max_tasks=5)
    at = {box.get_text(): box.get_position() for box in display.boxes_[2]}
    ends = [path.vertices[-1] for path in display.edges_[1].get_paths()]
    np.testing.assert_allclose(ends, [at["module 0: 3 tasks"], at["module 2: 6 tasks"]])


def test_few_tasks_have_a_box_each(model):
    display = PathwayDisplay.from_estimator(model, max_tasks=9)
    assert labels(display)[-1] == [f"task {i}" for i in (6, 7, 8, 0, 1, 2, 3, 4, 5)]
    assert display.loads_[-1].tolist() == [1] * 9


def test_some_of_the_tasks_can_be_drawn(model):
    display = PathwayDisplay.from_estimator(model, tasks=[7, 0])
    assert labels(display)[-1] == ["task 7", "task 0"]
    assert labels(display)[1] == ["module 0: 2 tasks"]


def test_known_groups_are_compared_with_paths(model):
    groups = ["a"] * 5 + ["b"] * 4
    display = PathwayDisplay.from_estimator(model, groups=groups)
    assert labels(display)[-1] == ["a: 5 tasks", "b: 4 tasks"]
    assert display.loads_[-1].tolist() == [3, 5, 1]  # (0, b), (2, a), (2, b)
    of_b, of_a, again_b = display.edges_[-1].get_edgecolors()
    np.testing.assert_array_equal(of_b, again_b)
    assert not np.array_equal(of_a, of_b)


def test_a_tree_has_no_lines_between_branches():
    leaves = np.array([0, 0, 1, 3, 3])
    paths = np.column_stack([0 * leaves, leaves // 2, leaves])
    model = fitted(paths, ((1, 4), (2, 3), (4, 2)), tree=True)
    display = PathwayDisplay.from_estimator(model)
    # leaf 2 can only be reached from the module that leaf 3 is reached from
    assert [len(lines.get_paths()) for lines in display.unused_] == [0, 0, 1]


def test_more_modules_than_rows_share_the_last_box():
    net = Supernet(8, ((50, 2),))
    paths = np.concatenate([np.arange(50), [7, 7, 9]])[:, None]
    display = PathwayDisplay(net, paths, np.arange(53), max_rows=5).plot()
    layer, tasks = labels(display)[1:]
    assert layer[-1] == "46 other modules: 46 tasks"
    assert tasks[-1] == "46 other paths: 46 tasks"
    assert "module 7: 3 tasks" in layer
    assert max(map(len, display.boxes_)) == 5
    assert min(display.edges_[0].get_linewidths()) == THINNEST


def test_paths_of_a_classifier_are_drawn_where_one_is_told_to_and_again():
    model = fitted([[0], [1], [1]], ((2, 2),), kind=MultipathMTLClassifier)
    figure, axes = plt.subplots(1, 2)
    display = PathwayDisplay.from_estimator(model, ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert display.plot() is display
    assert display.ax_ is not axes[1]
    display.figure_.canvas.draw()


def test_paths_that_cannot_be_drawn_are_refused(model):
    with pytest.raises(NotFittedError):
        PathwayDisplay.from_estimator(MultipathMTL())
    with pytest.raises(ValueError, match="got Ridge"):
        PathwayDisplay.from_estimator(Ridge().fit([[0], [1]], [0, 1]))
    with pytest.raises(ValueError, match=r"Some of the 9 tasks .* got \[12\]"):
        PathwayDisplay.from_estimator(model, tasks=[1, 12])
    with pytest.raises(ValueError, match=r"got \[\]"):
        PathwayDisplay.from_estimator(model, tasks=[])
    with pytest.raises(ValueError, match=r"groups must have shape \(9,\)"):
        PathwayDisplay.from_estimator(model, groups=["a", "b"])


SUPERNETS = {
    "vanilla": Supernet.vanilla(32, 8),
    "multipath": Supernet(32, ((1, 8), (40, 2))),
}


def test_risks_are_drawn_with_the_samples_that_parameters_ask_for():
    risks = {"vanilla": [[1, 2, 9]] * 3, "multipath": [1, 0.1, 0], "alone": [1, 1, 1]}
    display = SampleRiskDisplay.from_risks([4, 8, 12], risks, SUPERNETS, 400)
    assert display.lines_["vanilla"].get_ydata().tolist() == [2, 2, 2]
    band = display.ax_.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1.5, 5.5)
    at = {name: line.get_xdata()[0] for name, line in display.thresholds_.items()}
    assert at == {"vanilla": 8.64, "multipath": 4.24}
    for name, line in display.thresholds_.items():
        assert line.get_color() == display.lines_[name].get_color()
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["vanilla: needs 8.64", "multipath: needs 4.24", "alone"]
    assert display.ax_.get_yscale() == "log"
    assert display.lines_["multipath"].get_ydata()[-1] > 0  # 0 has no logarithm


def test_samples_out_of_the_picture_are_in_the_legend_only():
    risks = {name: [1, 1] for name in SUPERNETS}
    display = SampleRiskDisplay.from_risks([4, 8], risks, SUPERNETS, 400)
    assert list(display.thresholds_) == ["multipath"]
    assert display.plot(plt.figure().subplots()) is display
    without = SampleRiskDisplay.from_risks([4, 8], risks)
    assert without.thresholds_ == {}


def test_risks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\) or .* got \(3,\) for 'a'"):
        SampleRiskDisplay.from_risks([1, 2], {"a": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"without risks: \['multipath', 'vanilla'\]"):
        SampleRiskDisplay.from_risks([1], {"a": [1]}, SUPERNETS, 400)
    with pytest.raises(ValueError, match="n_tasks is needed"):
        SampleRiskDisplay.from_risks(
            [1], {"vanilla": [1]}, {"vanilla": SUPERNETS["vanilla"]}
        )
