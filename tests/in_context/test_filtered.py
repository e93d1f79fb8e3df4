"""Filtering and learning, step by step: theorem 1 of 2305.18869, in numbers.

The table is that of an independent simulation of the same tasks, with 300 to 4000 of
them for an entry.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from sklearn_attn.in_context._comparators import minimum_norm
from sklearn_attn.in_context._composed_priors import DeepLinearPrior, MLPPrior
from sklearn_attn.in_context._filtered import filtered_least_squares

N_SE = 4  # standard errors: some 14 means are compared, of fixed seeds
TABLE_TASKS = 300  # the fewest tasks behind an entry of the table
N_TASKS, N_QUERIES = 600, 8
ROUNDING = 1e-8  # of double precision, times condition numbers of some 1e4 twice


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw(prior, n_tasks, n_examples, d, generator):
    """Return examples and queries, each as (X, steps, y)."""
    tasks = prior.sample_steps(n_tasks, n_examples + N_QUERIES, d, generator=generator)
    X, y = tasks.X.double(), tasks.y.double()
    steps = [step.double() for step in tasks.steps]
    at, after = (slice(None), slice(n_examples)), (slice(None), slice(n_examples, None))
    return (X[at], [s[at] for s in steps], y[at]), (
        X[after],
        [s[after] for s in steps],
        y[after],
    )


def exact_network(n_tasks, n, sizes, act, generator):
    """Return states s^0, ..., s^L in double precision, the last one linear."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    states = [normal(n_tasks, n, sizes[0])]
    for width, k in itertools.pairwise(sizes):
        states.append(act(states[-1] @ normal(n_tasks, width, k) / math.sqrt(width)))
    return [*states, states[-1] @ normal(n_tasks, sizes[-1], 2)]


def relative_risk(prediction, target):
    """Return the risk, that of 0 being 1, and its standard error over tasks."""
    error, power = (z.square().mean(1) for z in (prediction - target, target))
    risk = error.mean() / power.mean()
    spread = (error - risk * power).std() / power.mean()  # linearised ratio of means
    return float(risk), float(spread) / math.sqrt(len(error))


# ------------------------------------------------------------------ claims, in numbers


@pytest.mark.claim
@pytest.mark.parametrize(
    ("d", "k", "entries"),
    [
        (10, 4, {4: 0.69, 10: 0.44, 20: 0.077, 30: 0.002}),
        (10, 16, {4: 0.72, 20: 0.076, 25: 0.014}),
        (20, 4, {4: 0.87, 20: 0.45, 30: 0.22}),
        (5, 10, {4: 0.56, 10: 0.116, 16: 0.007, 25: 0.0}),
    ],
)
def test_relu_networks_cost_what_the_table_of_the_composed_oracle_says(
    d, k, entries, generator
):
    examples, (X_query, _, y_query) = draw(
        MLPPrior((k,), bias=0.0), N_TASKS, 40, d, generator
    )
    for n, entry in entries.items():
        X, (s,), y = (
            examples[0][:, :n],
            [examples[1][0][:, :n]],
            examples[2][:, :n],
        )
        prediction = filtered_least_squares(X, [s], y, X_query)[-1]
        risk, error = relative_risk(prediction, y_query)
        # The table is a mean over tasks, divided by the expected power 1, not by that
        # of its tasks. Nothing tells its queries of a task: one is assumed.
        squares = (prediction - y_query).square()[:, 0]
        table_error = float(squares.std()) / math.sqrt(TABLE_TASKS)
        half_unit = 0.5 * 10.0 ** -(2 if entry >= 0.4 else 3)
        assert abs(risk - entry) < N_SE * math.hypot(error, table_error) + half_unit


@pytest.mark.claim
def test_the_risk_does_not_depend_on_the_width(generator):
    risks, errors = [], []
    for k in (4, 8, 16):
        (X, steps, y), (X_query, _, y_query) = draw(
            MLPPrior((k,), bias=0.0), N_TASKS, 20, 10, generator
        )
        prediction = filtered_least_squares(X, steps, y, X_query)[-1]
        risk, error = relative_risk(prediction, y_query)
        risks.append(risk)
        errors.append(error)
    assert max(risks) - min(risks) < N_SE * math.hypot(*errors)
    assert 0.04 < np.mean(risks) < 0.12  # about 0.076: not all 0, nor all 1


@pytest.mark.claim
def test_the_risk_is_that_of_the_first_step_once_examples_exceed_the_width(generator):
    (X, steps, y), (X_query, (s_query,), y_query) = draw(
        MLPPrior((8,), bias=0.0), N_TASKS, 20, 10, generator
    )
    s, prediction = filtered_least_squares(X, steps, y, X_query)
    first, first_error = relative_risk(s.flatten(1), s_query.flatten(1))
    total, error = relative_risk(prediction, y_query)
    assert abs(first - total) < N_SE * math.hypot(first_error, error)


@pytest.mark.claim
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "linear"])
@pytest.mark.parametrize("sizes", [(6, 6), (6, 3), (4, 6), (5, 5, 5)])
def test_steps_that_can_be_inverted_are_exact_from_as_many_examples_as_inputs(
    activation, sizes, generator
):
    act = {
        "leaky_relu": lambda z: torch.where(z > 0, z, 0.2 * z),
        "tanh": torch.tanh,
        "linear": lambda z: z,
    }[activation]
    n = max(sizes)
    states = exact_network(50, n + N_QUERIES, sizes, act, generator)
    X, *steps, y = (state[:, :n] for state in states)
    X_query, *true_steps = (state[:, n:] for state in states)
    predictions = filtered_least_squares(
        X, steps, y, X_query, activation=activation, leak=0.2
    )
    for prediction, true in zip(predictions, true_steps, strict=True):
        torch.testing.assert_close(prediction, true, atol=ROUNDING, rtol=0)


@pytest.mark.claim
def test_leaky_networks_are_not_exact_from_one_example_less(generator):
    def leaky(z):
        return torch.where(z > 0, z, 0.1 * z)

    states = exact_network(N_TASKS, 5 + N_QUERIES, (6, 3), leaky, generator)
    X, s, y = (state[:, :5] for state in states)
    s_predicted, _ = filtered_least_squares(
        X, [s], y, states[0][:, 5:], activation="leaky_relu"
    )

    def unleaky(s):
        return torch.where(s > 0, s, s / 0.1)

    # the share of dimensions that five examples do not show, as without steps
    z = unleaky(states[1][:, 5:]).flatten(1)
    risk, error = relative_risk(unleaky(s_predicted).flatten(1), z)
    assert abs(risk - 1 / 6) < N_SE * error


# ---------------------------------------------------------------------------- filtering


def test_the_first_step_ignores_labels_and_a_given_step_hides_inputs(generator):
    (X, steps, y), (X_query, true_steps, _) = draw(
        MLPPrior((7, 4), bias=0.0), 5, 12, 9, generator
    )
    s1, s2, _ = filtered_least_squares(X, steps, y, X_query)
    others = filtered_least_squares(X, steps, y.flip(1), X_query)
    torch.testing.assert_close(others[:2], [s1, s2], rtol=0, atol=0)

    given = dict(enumerate(true_steps))
    forced = filtered_least_squares(X, steps, y, X_query, given=given)
    others = filtered_least_squares(X.flip(1), steps, y, X_query, given=given)
    torch.testing.assert_close(others[1:], forced[1:], rtol=0, atol=0)
    torch.testing.assert_close(forced[0], s1, rtol=0, atol=0)  # still a prediction
    assert not torch.allclose(forced[1], s2)


def test_a_step_that_is_given_leaves_the_next_one_to_its_own_examples(generator):
    # half of 12 examples are too few for 10 features, but all enough for a width of 4
    (X, steps, y), (X_query, true_steps, y_query) = draw(
        MLPPrior((4,), bias=0.0), 20, 12, 10, generator
    )
    alone = filtered_least_squares(X, steps, y, X_query)[1]
    forced = filtered_least_squares(X, steps, y, X_query, given={0: true_steps[0]})[1]
    assert (alone - y_query).abs().max() > 0.1
    # the data are of single precision, times condition numbers of some hundreds
    torch.testing.assert_close(forced, y_query, atol=1e-3, rtol=0)


# ----------------------------------------------------------------- least squares itself


def naive(X, steps, y, X_query):
    """Predict for one task by numpy, coordinate by coordinate."""
    state, inputs, states = X_query, X, []
    for step in steps:
        columns = []
        for target in step.T:
            rows = target > 0
            w = np.zeros(inputs.shape[1])
            if rows.any():
                w = np.linalg.lstsq(inputs[rows], target[rows])[0]
            columns.append(np.maximum(state @ w, 0))
        inputs, state = step, np.stack(columns, 1)
        states.append(state)
    return [*states, state @ np.linalg.lstsq(inputs, y)[0]]


@pytest.mark.parametrize("n", [1, 5, 9, 30])
def test_it_agrees_with_a_loop_over_tasks_and_coordinates(n, generator):
    (X, steps, y), (X_query, _, _) = draw(MLPPrior((7, 4)), 6, n, 5, generator)
    predictions = filtered_least_squares(X, steps, y, X_query)
    for task in range(6):
        expected = naive(
            *(X[task].numpy(), [s[task].numpy() for s in steps]),
            *(y[task].numpy(), X_query[task].numpy()),
        )
        for prediction, state in zip(predictions, expected, strict=True):
            np.testing.assert_allclose(prediction[task], state, atol=ROUNDING)


def test_large_problems_are_cut_into_chunks_of_tasks(generator, monkeypatch):
    (X, steps, y), (X_query, _, _) = draw(MLPPrior((7,)), 6, 9, 5, generator)
    whole = filtered_least_squares(X, steps, y, X_query)
    for most in (1, 4 * 9 * 5 * 7):
        monkeypatch.setattr("sklearn_attn.in_context._filtered._MOST_NUMBERS", most)
        parts = filtered_least_squares(X, steps, y, X_query)
        torch.testing.assert_close(parts, whole, atol=ROUNDING, rtol=0)


def test_without_steps_it_is_the_minimum_norm(generator):
    (X, _, y), (X_query, _, _) = draw(MLPPrior((7,)), 6, 4, 5, generator)
    (prediction,) = filtered_least_squares(X, [], y, X_query)
    torch.testing.assert_close(prediction, minimum_norm(X, y, X_query))


def test_labels_may_have_several_outputs(generator):
    prior = DeepLinearPrior(3, n_features=4)
    (X, steps, y), (X_query, true_steps, y_query) = draw(prior, 6, 8, 4, generator)
    predictions = filtered_least_squares(X, steps, y, X_query, activation="linear")
    # the data are of single precision, times condition numbers of some hundreds
    torch.testing.assert_close(
        predictions, [*true_steps, y_query], atol=1e-3, rtol=1e-3
    )


def test_a_column_of_ones_takes_in_biases(generator):
    (X, steps, y), (X_query, (s_query,), _) = draw(
        MLPPrior((3,), bias=0.5), 20, 40, 2, generator
    )

    def with_ones(z):
        return torch.cat([z, torch.ones_like(z[..., :1])], -1)

    states = filtered_least_squares(with_ones(X), steps, y, with_ones(X_query))
    is_seen = ((steps[0] > 0).sum(1, keepdim=True) >= 3).expand_as(s_query)
    torch.testing.assert_close(
        states[0][is_seen], s_query[is_seen], atol=1e-3, rtol=1e-3
    )


# -------------------------------------------------------------------------------- edges


def test_a_coordinate_that_is_never_active_is_predicted_as_0(generator):
    (X, (s,), y), (X_query, _, _) = draw(MLPPrior((3,)), 2, 6, 4, generator)
    s[0, :, 1] = 0.0
    predicted, _ = filtered_least_squares(X, [s], y, X_query)
    assert (predicted[0, :, 1] == 0).all()
    assert (predicted[1] != 0).any()


def test_without_examples_all_is_0(generator):
    (X, steps, y), (X_query, _, _) = draw(MLPPrior((3,)), 2, 0, 4, generator)
    for activation in ("relu", "leaky_relu", "tanh", "linear"):
        states = filtered_least_squares(X, steps, y, X_query, activation=activation)
        assert [tuple(state.shape) for state in states] == [(2, 8, 3), (2, 8)]
        assert all((state == 0).all() for state in states)


def test_tanh_that_is_rounded_to_1_stays_finite():
    X = torch.tensor([[[30.0], [1.0]]])
    states = filtered_least_squares(X, [torch.tanh(X)], X[..., 0], X, activation="tanh")
    assert all(torch.isfinite(state).all() for state in states)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "sin"}, "activation must be one of"),
        ({"leak": 0.0}, "leak must be"),
        ({"X": torch.ones(4, 2)}, "X must have the shape"),
        ({"steps": [torch.ones(2, 4)]}, r"steps\[0\] must have the shape"),
        ({"steps": [torch.ones(2, 5, 3)]}, r"steps\[0\] must have the shape"),
        ({"y": torch.ones(2, 5)}, "y must have the shape"),
        ({"y": torch.ones(8)}, "y must have the shape"),
        ({"X_query": torch.ones(2, 1, 3)}, "X_query must have the shape"),
        ({"X_query": torch.ones(1, 1, 2)}, "X_query must have the shape"),
        ({"given": {1: torch.ones(2, 1, 3)}}, "given has a step 1"),
        ({"given": {0: torch.ones(2, 1, 4)}}, r"given\[0\] must have the shape"),
    ],
)
def test_input_that_does_not_fit_is_refused(change, message):
    fits = {
        "X": torch.ones(2, 4, 2),
        "steps": [torch.ones(2, 4, 3)],
        "y": torch.ones(2, 4),
        "X_query": torch.ones(2, 1, 2),
    }
    filtered_least_squares(**fits)
    with pytest.raises(ValueError, match=message):
        filtered_least_squares(**{**fits, **change})
