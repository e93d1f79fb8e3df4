"""What the generators promise."""

import numpy as np
import pytest

from sklearn_attn.datasets import (
    make_digit_bags,
    make_joint_tokens,
    make_token_selection,
)


def test_planted_tokens_stand_out_along_two_directions():
    X, y, selected = make_token_selection(
        400, 5, 8, relevance=6.0, class_sep=3.0, random_state=0, return_selected=True
    )
    rows = np.arange(400)
    planted = X[rows, selected]
    difference = planted[y == 1].mean(0) - planted[y == 0].mean(0)
    common = (planted[y == 1].mean(0) + planted[y == 0].mean(0)) / 2
    # standard errors of means of 200: 0.07 per coordinate, 0.2 of their length
    assert np.linalg.norm(difference) == pytest.approx(3.0, abs=0.4)
    assert np.linalg.norm(common) == pytest.approx(6.0, abs=0.4)
    others = np.delete(X, 0, axis=1)[selected == 0]
    assert np.abs(others.mean((0, 1))).max() < 0.25
    assert set(np.unique(selected)) == set(range(5))


def test_noise_scales_and_the_seed_decides():
    arguments = {"relevance": 0.0, "class_sep": 0.0, "random_state": 3}
    X, y = make_token_selection(50, noise=2.0, **arguments)
    again, y_again = make_token_selection(50, noise=1.0, **arguments)
    np.testing.assert_allclose(X, 2 * again)
    np.testing.assert_array_equal(y, y_again)
    assert not np.allclose(X, make_token_selection(50, random_state=4)[0])
    with pytest.raises(ValueError, match="n_token_features >= 2; got 1"):
        make_token_selection(n_token_features=1)


@pytest.mark.parametrize("digits", [9, (3, 8), (1, 4, 7)])
@pytest.mark.parametrize("subset", ["train", "test"])
def test_bags_hold_the_telling_digit_once(digits, subset):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digit_of = {image.tobytes(): label for image, label in zip(images / 16, labels)}
    X, y, selected = make_digit_bags(
        90, 7, digits=digits, subset=subset, random_state=0, return_selected=True
    )
    bags = np.array([[digit_of[token.tobytes()] for token in bag] for bag in X])
    wanted = np.atleast_1d(digits)
    count = np.isin(bags, wanted).sum(1)
    if wanted.size == 1:
        np.testing.assert_array_equal(count, y)
        assert y.sum() == 45
        assert (selected[y == 0] == -1).all()
        assert (bags[y == 1, selected[y == 1]] == digits).all()
    else:
        assert (count == 1).all()
        np.testing.assert_array_equal(bags[np.arange(90), selected], y)
        assert len(set(np.bincount(y)[wanted])) == 1


def test_training_and_test_bags_share_no_image():
    images = [
        {
            token.tobytes()
            for bag in make_digit_bags(400, 10, subset=subset, random_state=seed)[0]
            for token in bag
        }
        for seed, subset in enumerate(("train", "test"))
    ]
    # a few drawings occur twice in the bundled set itself; none here
    assert not images[0] & images[1]


@pytest.mark.parametrize(
    "digits", [10, -1, (3, 3), tuple(range(10)), (2.5, 3), (), "9", True]
)
def test_digits_that_make_no_task_are_refused(digits):
    with pytest.raises(ValueError, match="distinct"):
        make_digit_bags(digits=digits)


def test_an_unknown_subset_is_refused():
    with pytest.raises(ValueError, match="'train' or 'test'"):
        make_digit_bags(subset="validation")


def test_the_joint_geometry_is_that_of_the_paper():
    X, y, selected = make_joint_tokens(tight=True)
    np.testing.assert_array_equal(X[:, 1], [[1, 1], [1, -1], [0.5, 1]])
    assert (X[:, 0] == 0).all()
    np.testing.assert_array_equal(y, [1, -1, 1])
    np.testing.assert_array_equal(selected, 1)
