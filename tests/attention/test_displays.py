"""The displays hold what they were given, and draw what they say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.attention import (
    AttentionDisplay,
    AttentionSVMClassifier,
    MarginDisplay,
    attention_descent,
    solve_token_svm,
)
from sklearn_attn.attention._attention_display import OTHER_COLOR, SELECTED_COLOR
from sklearn_attn.datasets import make_digit_bags, make_token_selection
from sklearn_attn.preprocessing import FeatureTokenizer


@pytest.fixture(autouse=True)
def pyplot():
    yield plt
    plt.close("all")


class FixedAttention(BaseEstimator):
    """Any estimator with `attention` and `predict` can be drawn."""

    def __init__(self, weights, prediction):
        self.weights = weights
        self.prediction = prediction

    def attention(self, X):
        return self.weights[: len(X)]

    def predict(self, X):
        return self.prediction[: len(X)]


@pytest.fixture(scope="module")
def bags():
    X, y = make_digit_bags(60, n_tokens=5, digits=(3, 8), random_state=0)
    return AttentionSVMClassifier().fit(X, y), X, y


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["setosa", "versicolor", "virginica"])
    scaler = StandardScaler().set_output(transform="pandas")
    pipeline = make_pipeline(scaler, FeatureTokenizer(), AttentionSVMClassifier())
    return pipeline.fit(X, names[y]), X.iloc[::30], names[y][::30]


def heights(bars):
    return [bar.get_height() for bar in bars]


def selected_tokens(display):
    """Return the positions of the highlighted bars, one list for each sequence."""
    return [
        [
            round(bar.get_x() + bar.get_width() / 2)
            for bar in bars
            if to_hex(bar.get_facecolor()) == SELECTED_COLOR.lower()
        ]
        for bars in display.bars_
    ]


def titles(display):
    return [ax.get_title(loc="left") for ax in display.axes_]


# AttentionDisplay


def test_each_sequence_has_a_row_and_each_token_a_bar(bags):
    classifier, X, y = bags
    display = AttentionDisplay.from_estimator(classifier, X, y=y, max_samples=4)
    weights = classifier.attention(X[:4])
    np.testing.assert_array_equal(display.weights, weights)
    np.testing.assert_array_equal(display.prediction, classifier.predict(X[:4]))
    np.testing.assert_array_equal(display.y, y[:4])
    assert display.axes_.shape == (4,)
    assert all(ax.figure is display.figure_ for ax in display.axes_)
    for bars, row in zip(display.bars_, weights):
        np.testing.assert_array_equal(heights(bars), row)


def test_six_sequences_are_drawn_unless_told_otherwise(bags):
    classifier, X, _ = bags
    assert len(AttentionDisplay.from_estimator(classifier, X).axes_) == 6
    assert len(AttentionDisplay.from_estimator(classifier, X[:2]).axes_) == 2


def test_the_selected_token_alone_is_highlighted(bags):
    classifier, X, _ = bags
    display = AttentionDisplay.from_estimator(classifier, X)
    expected = [[token] for token in classifier.select_tokens(X[:6])]
    assert selected_tokens(display) == expected


def test_all_rows_share_one_scale(bags):
    classifier, X, _ = bags
    display = AttentionDisplay.from_estimator(classifier, X)
    assert len({ax.get_ylim() for ax in display.axes_}) == 1
    assert display.axes_[0].get_ylim()[1] >= display.weights.max()


def test_the_title_has_the_prediction_and_whether_it_is_right():
    model = FixedAttention(np.full((3, 2), 0.5), np.array([3, 8, 0.123456]))
    X = np.zeros((3, 2, 1))
    without_y = AttentionDisplay.from_estimator(model, X)
    assert titles(without_y) == ["predicted 3", "predicted 8", "predicted 0.123"]
    with_y = AttentionDisplay.from_estimator(model, X, y=[3, 3, 1.0])
    assert titles(with_y) == [
        "predicted 3, right",
        "predicted 8, but it is 3",
        "predicted 0.123, but it is 1",
    ]
    alone = AttentionDisplay(np.full((1, 2), 0.5)).plot()
    assert titles(alone) == ["sequence 0"]


@pytest.mark.parametrize("form", ["3-D", "rows", "list"])
def test_padding_is_left_out(form):
    X, y = make_token_selection(40, n_tokens=4, n_token_features=3, random_state=0)
    X[0, 3] = X[1, :2] = np.nan
    classifier = AttentionSVMClassifier(n_tokens=4).fit(X, y)
    shown = X
    if form == "rows":
        shown = X.reshape(40, 12)
    if form == "list":
        shown = [row[~np.isnan(row).all(1)] for row in X]
    display = AttentionDisplay.from_estimator(
        classifier, shown, token_images=(1, 3), max_samples=3
    )
    n_tokens = [3, 2, 4]
    assert [len(bars) for bars in display.bars_] == n_tokens
    assert [len(ax.images) for ax in display.axes_] == n_tokens
    assert display.mask.sum(1).tolist() == n_tokens


def test_padding_is_never_the_selected_token():
    model = FixedAttention(np.zeros((1, 3)), [1])
    X = np.ones((1, 3, 2))
    X[0, 0] = np.nan
    model.weights[0, 2] = 1.0
    display = AttentionDisplay.from_estimator(model, X)
    assert [round(bar.get_x() + bar.get_width() / 2) for bar in display.bars_[0]] == [
        1,
        2,
    ]
    assert selected_tokens(display) == [[2]]


def test_a_shape_makes_pictures_of_the_features(bags):
    classifier, X, _ = bags
    display = AttentionDisplay.from_estimator(
        classifier, X, token_images=(8, 8), max_samples=2
    )
    for ax, bag in zip(display.axes_, X):
        for image, pixels in zip(ax.images, bag, strict=True):
            np.testing.assert_array_equal(image.get_array(), pixels.reshape(8, 8))
    drawn = [image for ax in display.axes_ for image in ax.images]
    limits = {image.get_clim() for image in drawn}
    assert limits == {(X[:2].min(), X[:2].max())}


def test_pictures_stand_above_the_bars_and_are_not_distorted(bags):
    classifier, X, _ = bags
    display = AttentionDisplay.from_estimator(
        classifier, X, token_images=(4, 16), max_samples=2
    )
    display.figure_.canvas.draw()
    for ax in display.axes_:
        for token, image in enumerate(ax.images):
            left, right, bottom, _ = image.get_extent()
            assert left < token < right
            assert bottom > display.weights.max()
            box = image.get_window_extent()
            assert box.width / box.height == pytest.approx(16 / 4)


def test_pictures_may_be_given_apart_and_in_colour(bags):
    classifier, X, _ = bags
    pictures = np.random.default_rng(0).uniform(size=(*X.shape[:2], 6, 4, 3))
    display = AttentionDisplay.from_estimator(
        classifier, X, token_images=pictures, max_samples=2
    )
    np.testing.assert_array_equal(
        display.axes_[1].images[3].get_array(), pictures[1, 3]
    )


def test_a_frame_marks_the_picture_of_the_selected_token(bags):
    classifier, X, _ = bags
    display = AttentionDisplay.from_estimator(classifier, X, token_images=(8, 8))
    for ax, bars, token in zip(
        display.axes_, display.bars_, classifier.select_tokens(X[:6])
    ):
        (frame,) = [patch for patch in ax.patches if patch not in list(bars)]
        assert frame.get_x() + frame.get_width() / 2 == pytest.approx(token)
        assert to_hex(frame.get_edgecolor()) == SELECTED_COLOR.lower()


def test_a_pipeline_is_drawn_with_the_names_of_its_features(iris):
    pipeline, X, y = iris
    display = AttentionDisplay.from_estimator(pipeline, X, y=y)
    assert display.token_names == X.columns.tolist()
    labels = [label.get_text() for label in display.axes_[-1].get_xticklabels()]
    assert labels == X.columns.tolist()
    assert titles(display)[0] == f"predicted {pipeline.predict(X)[0]}, right"


def test_the_selected_token_is_named_over_its_bar(iris):
    pipeline, X, _ = iris
    display = AttentionDisplay.from_estimator(pipeline, X)
    for ax, tokens in zip(display.axes_, selected_tokens(display)):
        assert [text.get_text() for text in ax.texts] == [X.columns[tokens[0]]]


def test_names_can_be_chosen_and_pictures_replace_those_of_the_tokenizer(iris):
    pipeline, X, _ = iris
    display = AttentionDisplay.from_estimator(pipeline, X, token_names=list("abcd"))
    labels = [label.get_text() for label in display.axes_[-1].get_xticklabels()]
    assert labels == list("abcd")
    display = AttentionDisplay.from_estimator(pipeline, X, token_images=(2, 2))
    assert display.token_names is None
    assert len(display.axes_[0].get_xticks()) == 0


def test_long_names_are_turned_and_take_no_room_from_the_bars(iris):
    pipeline, X, _ = iris

    def draw(names):
        display = AttentionDisplay.from_estimator(pipeline, X, token_names=names)
        display.figure_.canvas.draw()
        turned = {t.get_rotation() for t in display.axes_[-1].get_xticklabels()}
        return turned, display.axes_[0].bbox.height

    short, height = draw(list("abcd"))
    long, height_with_long_names = draw([letter * 40 for letter in "abcd"])
    assert (short, long) == ({0}, {90})
    assert height_with_long_names > 0.9 * height


def test_a_pipeline_of_one_step_is_its_step(bags):
    classifier, X, _ = bags
    display = AttentionDisplay.from_estimator(make_pipeline(classifier), X)
    np.testing.assert_array_equal(display.weights, classifier.attention(X[:6]))


def test_a_missing_value_of_a_table_is_padding():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), columns=list("abc"))
    y = X["a"] > 0
    X.loc[1, "b"] = np.nan
    pipeline = make_pipeline(FeatureTokenizer(missing="mask"), AttentionSVMClassifier())
    display = AttentionDisplay.from_estimator(pipeline.fit(X, y), X, y=y)
    assert [len(bars) for bars in display.bars_] == [3, 2, 3, 3, 3, 3]


def test_with_several_classes_the_attention_is_that_of_the_predicted_one(iris):
    pipeline, X, _ = iris
    display = AttentionDisplay.from_estimator(pipeline, X)
    weights = pipeline[-1].attention(pipeline[:-1].transform(X))  # (n, T, k)
    for row, drawn, label in zip(weights, display.weights, display.prediction):
        np.testing.assert_array_equal(
            drawn, row[:, pipeline.classes_.tolist().index(label)]
        )
    # two classes with the same attention would let a wrong index pass
    assert len({tuple(row) for row in weights[0].T}) == 3


def test_with_several_classes_one_can_be_chosen_and_is_named(iris):
    pipeline, X, _ = iris
    display = AttentionDisplay.from_estimator(pipeline, X, class_index=2)
    weights = pipeline[-1].attention(pipeline[:-1].transform(X))
    np.testing.assert_array_equal(display.weights, weights[..., 2])
    assert display.axes_[0].get_ylabel() == "attention\nof virginica"


def test_the_user_gives_the_axes(bags, pyplot):
    classifier, X, _ = bags
    figure, axes = pyplot.subplots(2, 2)
    display = AttentionDisplay.from_estimator(classifier, X, max_samples=4, ax=axes)
    assert display.figure_ is figure
    assert display.axes_.tolist() == axes.ravel().tolist()
    _, ax = pyplot.subplots()
    display = AttentionDisplay.from_estimator(classifier, X[:1], ax=ax)
    assert display.axes_.tolist() == [ax]


def test_a_display_can_be_drawn_again_in_another_style(bags):
    classifier, X, _ = bags
    display = AttentionDisplay.from_estimator(classifier, X, token_images=(8, 8))
    first, token = display.figure_, classifier.select_tokens(X[:1])[0]
    other = (token + 1) % 5
    assert to_hex(display.bars_[0][other].get_facecolor()) == OTHER_COLOR.lower()
    assert display.plot(color="green", width=0.2, image_kwargs={"cmap": "bone"})
    assert display.figure_ is not first
    bar = display.bars_[0][other]
    assert bar.get_width() == pytest.approx(0.2)
    assert to_hex(bar.get_facecolor()) == to_hex("green")
    assert selected_tokens(display)[0] == [token]
    assert display.axes_[0].images[0].get_cmap().name == "bone"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_images": (8, 9)}, r"\(8, 9\) needs 72 features in a token.*has 64"),
        ({"token_images": np.zeros((60, 4, 8, 8))}, r"shape \(60, 4, 8, 8\)"),
        ({"token_images": np.zeros((3, 5, 8, 8))}, "no fewer than 6 samples"),
        ({"token_names": list("abc")}, "3 token_names for sequences of 5 tokens"),
        ({"class_index": 1}, "all classes share one attention"),
        ({"ax": [None, None]}, "6 sequences do not fit into 2 axes"),
    ],
)
def test_what_does_not_fit_is_refused(bags, options, message):
    classifier, X, _ = bags
    with pytest.raises(ValueError, match=message):
        AttentionDisplay.from_estimator(classifier, X, **options)


@pytest.mark.parametrize("class_index", [-1, 3])
def test_a_class_that_is_not_there_is_refused(iris, class_index):
    pipeline, X, _ = iris
    with pytest.raises(ValueError, match="none of the 3 classes, 0 to 2"):
        AttentionDisplay.from_estimator(pipeline, X, class_index=class_index)


def test_an_estimator_without_attention_is_refused():
    X, y = load_iris(return_X_y=True)
    regression = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    with pytest.raises(TypeError, match="LogisticRegression has no method 'attention'"):
        AttentionDisplay.from_estimator(regression, X)


# MarginDisplay

KEYS = np.array(
    [[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.5, 0.5], [-1.0, -1.0]]]
)
SELECTED = [0, 0]


def descend(start):
    scores = [[[1.0], [0.5], [0.5]]] * 2
    return attention_descent(
        scores, head=[1.0], keys=KEYS, prompt=[0.0, start], max_iter=50
    )


def test_the_arrow_is_the_attention_svm_and_as_long_as_the_margin():
    display = MarginDisplay.from_tokens(KEYS, SELECTED)
    svm = solve_token_svm(KEYS, SELECTED)
    head = np.array(display.arrow_.xy)
    assert display.arrow_.xyann == (0, 0)
    assert np.linalg.norm(head) == pytest.approx(svm.margin)
    np.testing.assert_allclose(head / np.linalg.norm(head), svm.p * svm.margin)
    np.testing.assert_array_equal(display.svm.p, svm.p)


def test_every_sequence_is_drawn_and_its_selected_token_filled():
    display = MarginDisplay.from_tokens(KEYS, [1, 0])
    for tokens, keys, selected in zip(display.tokens_, KEYS, [1, 0], strict=True):
        np.testing.assert_array_equal(tokens.get_offsets(), keys)
        filled = ~(tokens.get_facecolor()[:, :3] == 1.0).all(1)
        assert np.flatnonzero(filled).tolist() == [selected]
    colors = [tuple(tokens.get_edgecolor()[0]) for tokens in display.tokens_]
    assert len(set(colors)) == 2


def test_support_tokens_have_rings_and_lines_as_long_as_the_margin():
    display = MarginDisplay.from_tokens(KEYS, SELECTED)
    svm = display.svm
    rings = np.asarray(display.support_.get_offsets())
    np.testing.assert_array_equal(rings, KEYS[tuple(svm.support.T)])
    for key in rings:
        (line,) = [
            line
            for line in display.ax_.lines
            if line.get_linestyle() == "-" and tuple(line.get_xydata()[0]) == tuple(key)
        ]
        reached = np.diff(line.get_xydata(), axis=0)[0]
        np.testing.assert_allclose(reached, display.arrow_.xy)


def test_padding_is_no_token_of_the_picture():
    mask = np.array([[True, True, True], [True, True, False]])
    display = MarginDisplay.from_tokens(KEYS, SELECTED, mask=mask)
    assert [len(tokens.get_offsets()) for tokens in display.tokens_] == [3, 2]
    np.testing.assert_array_equal(
        display.svm.p, solve_token_svm(KEYS, SELECTED, mask=mask).p
    )


def test_a_relaxed_sequence_changes_the_direction():
    display = MarginDisplay.from_tokens(KEYS, SELECTED, relaxed=[True, False])
    expected = solve_token_svm(KEYS, SELECTED, relaxed=[True, False]).p
    np.testing.assert_array_equal(display.svm.p, expected)
    assert not np.allclose(expected, solve_token_svm(KEYS, SELECTED).p)


def test_paths_come_as_solution_array_list_or_dict():
    first, second = descend(1.0), descend(-1.0)
    prompts = first.history["p"]
    for descent in (first, prompts, prompts.tolist(), [first], {"a": first}):
        display = MarginDisplay.from_tokens(KEYS, SELECTED, descent=descent)
        (line,) = display.paths_
        np.testing.assert_array_equal(line.get_xydata(), prompts)
    display = MarginDisplay.from_tokens(KEYS, SELECTED, descent=[first, prompts[:9]])
    assert [len(line.get_xdata()) for line in display.paths_] == [51, 9]
    display = MarginDisplay.from_tokens(KEYS, SELECTED, descent=[first, second])
    np.testing.assert_array_equal(display.paths_[1].get_xydata(), second.history["p"])
    assert MarginDisplay.from_tokens(KEYS, SELECTED).paths_ == []


def legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_the_legend_names_the_paths():
    paths = {"left": descend(1.0), "right": descend(-1.0)}
    named = MarginDisplay.from_tokens(KEYS, SELECTED, descent=paths)
    assert legend(named)[-2:] == ["left", "right"]
    assert len({tuple(line.get_color()) for line in named.paths_}) == 2
    unnamed = MarginDisplay.from_tokens(KEYS, SELECTED, descent=[*paths.values()])
    assert legend(unnamed).count("gradient descent") == 1
    assert "gradient descent" not in legend(MarginDisplay.from_tokens(KEYS, SELECTED))


def test_the_legend_is_inside_the_figure_and_beside_the_tokens():
    display = MarginDisplay.from_tokens(KEYS, SELECTED, descent=descend(-1.0))
    display.figure_.canvas.draw()
    box = display.ax_.get_legend().get_window_extent()
    assert box.x1 <= display.figure_.bbox.x1
    assert not box.overlaps(display.ax_.bbox.padded(-1))


def test_units_are_equal_and_all_tokens_and_starts_in_sight():
    display = MarginDisplay.from_tokens(KEYS, SELECTED, descent=descend(-4.0))
    display.figure_.canvas.draw()
    ax = display.ax_
    x, y = np.diff(ax.transData.transform([(0, 0), (1, 1)]), axis=0)[0]
    assert x == pytest.approx(y)
    points = np.concatenate([*KEYS, [[0.0, -4.0], display.arrow_.xy]])
    for values, (low, high) in zip(points.T, (ax.get_xlim(), ax.get_ylim())):
        assert low < values.min()
        assert values.max() < high


def test_a_path_that_runs_away_does_not_shrink_the_picture():
    path = np.outer(np.linspace(0, 1000, 50), [0.6, 0.8])
    display = MarginDisplay.from_tokens(KEYS, SELECTED, descent=path)
    display.ax_.plot([0, 1], [0, 1])  # nor does what the user draws on top
    display.figure_.canvas.draw()
    assert max(display.ax_.get_xlim()) < 20
    assert max(display.ax_.get_ylim()) < 20


def test_the_user_gives_axes_and_style(pyplot):
    figure, ax = pyplot.subplots()
    display = MarginDisplay.from_tokens(
        KEYS, SELECTED, descent=descend(1.0), ax=ax, color="red", lw=3
    )
    assert (display.ax_, display.figure_) == (ax, figure)
    assert display.paths_[0].get_color() == "red"
    assert display.paths_[0].get_linewidth() == 3


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 3, 1), (3, 2)])
def test_only_planes_are_drawn(shape):
    with pytest.raises(ValueError, match=r"must have shape \(n_samples, n_tokens, 2\)"):
        MarginDisplay.from_tokens(np.zeros(shape), [0] * shape[0])


def test_paths_outside_of_the_plane_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \(n_steps, 2\).*\(4, 3\)"):
        MarginDisplay.from_tokens(KEYS, SELECTED, descent=np.zeros((4, 3)))


def test_a_token_in_the_middle_of_others_cannot_be_selected():
    K = [[[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]]
    with pytest.raises(ValueError, match=r"infeasible.*\[\[0, 1\], \[0, 2\]\]"):
        MarginDisplay.from_tokens(K, [0])


def test_sequences_of_one_token_leave_nothing_to_draw():
    with pytest.raises(ValueError, match="nothing to select from"):
        MarginDisplay.from_tokens(KEYS[:, :1], [0, 0])
