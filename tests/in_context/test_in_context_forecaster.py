"""InContextForecaster: series are read and continued."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from sklearn_attn.in_context import (
    InContextForecaster,
    LDSPrior,
    WindowPrior,
    load_in_context_weights,
    pretrain_in_context,
)
from sklearn_attn.in_context._priors import window_rows


@pytest.fixture(scope="module")
def small():
    return pretrain_in_context(
        LDSPrior(4, 2),
        n_examples_max=12,
        width=8,
        n_layers=1,
        n_steps=2,
        random_state=0,
    )


@pytest.fixture(scope="module")
def wave():
    t = np.arange(40.0)
    return np.column_stack([np.sin(t / 3), np.cos(t / 3)])


def test_a_forecast_rolls_out_the_one_step_means(small, wave):
    model = InContextForecaster(small, standardize=False).fit(wave[:6])
    found = model.predict(4)
    module = small.module("cpu", torch.float64)
    seen = torch.from_numpy(wave[None, :6])
    for _ in range(4):
        with torch.no_grad():
            mean = module(seen)[0]
        seen = torch.cat([seen, mean[:, -1:]], 1)
    np.testing.assert_allclose(found, seen[0, 6:], rtol=0, atol=1e-12)


def test_a_forecast_goes_on_beyond_the_positions_of_the_weights(small, wave):
    found = InContextForecaster(small).fit(wave).predict(50)
    assert found.shape == (50, 2)
    assert np.isfinite(found).all()
    last = InContextForecaster(small, standardize=False).fit(wave[-11:]).predict(3)
    whole = InContextForecaster(small, standardize=False).fit(wave).predict(3)
    np.testing.assert_allclose(whole, last)


def test_forecasts_follow_a_change_of_units(small, wave):
    a, b = np.array([1e-3, 1e6]), np.array([5.0, -1e4])
    plain, std = (
        InContextForecaster(small).fit(wave).predict(5, return_std=True, random_state=0)
    )
    model = InContextForecaster(small).fit(a * wave + b)
    found, spread = model.predict(5, return_std=True, random_state=0)
    np.testing.assert_allclose(found, a * plain + b, rtol=1e-6)
    np.testing.assert_allclose(spread, a * std, rtol=1e-6)


def test_the_set_form_answers_for_windows_that_end_in_its_own_forecasts(wave):
    weights = load_in_context_weights("icl-lds")
    model = InContextForecaster(window=2, standardize=False).fit(wave)
    found = model.predict(4)
    series = np.column_stack([wave, np.zeros((40, weights.n_features // 2 - 2))])
    zeros = np.zeros_like(series[:1])
    before = np.concatenate([zeros, series[:-2]])
    X = torch.from_numpy(np.hstack([series[:-1], before]))[None]
    for _ in range(4):
        n = X.shape[1]
        window = torch.from_numpy(np.hstack([series[-1], series[-2]]))[None, None]
        step = [
            weights.predict(X[:, :39], torch.from_numpy(wave[None, 1:, j]), window)[0]
            for j in range(2)
        ]
        new = np.array([float(mean) for mean in step] + [0.0] * (series.shape[1] - 2))
        series = np.concatenate([series, new[None]])
        assert n == 39  # what is forecast is no example
    np.testing.assert_allclose(found, series[40:, :2], rtol=0, atol=1e-10)


def test_each_step_is_predicted_from_the_windows_before_it():
    weights = load_in_context_weights("icl-lds")
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    mean, std = weights.predict_next(series)
    assert mean.shape == std.shape == (2, 6, 4)
    assert (mean[:, 0] == 0).all()
    assert std[:, 0].isnan().all()
    model = InContextForecaster(standardize=False).fit(series[1, :5].numpy())
    np.testing.assert_allclose(model.predict(1)[0], mean[1, 4], atol=1e-12)


def test_windows_of_series_are_latest_first_with_zeros_before_the_start():
    series = torch.arange(1.0, 9.0).reshape(1, 4, 2)
    X, Y = window_rows(series, 2)
    assert X.tolist() == [[[1, 2, 0, 0], [3, 4, 1, 2], [5, 6, 3, 4]]]
    assert Y.tolist() == [[[3, 4], [5, 6], [7, 8]]]
    prior = WindowPrior(LDSPrior(5, 2), window=2)
    tasks = prior.sample(400, 9, 4, generator=torch.Generator().manual_seed(1))
    assert tasks.X.shape == (400, 9, 4)
    first = tasks.y[:, :-1], tasks.X[:, 1:, 0]  # an output is the next one's feature
    assert torch.equal(first[0][0], first[1][0])
    with pytest.raises(ValueError, match="Tasks have 4 features; not 5"):
        prior.sample(4, 9, 5, generator=torch.Generator())
    with pytest.raises(ValueError, match="has `sample_series`"):
        WindowPrior(None)


def test_a_series_of_one_step_goes_on_as_it_is(small, wave):
    for weights in ("auto", small):
        found = InContextForecaster(weights).fit(wave[:1]).predict(3)
        np.testing.assert_array_equal(found, np.repeat(wave[:1], 3, 0))


def test_paths_spread_around_the_forecast_and_a_seed_repeats_them(small, wave):
    model = InContextForecaster(small).fit(wave)
    paths = model.sample(3, n_paths=400, random_state=0)
    assert paths.shape == (400, 3, 2)
    np.testing.assert_array_equal(paths, model.sample(3, n_paths=400, random_state=0))
    mean, std = model.predict(3, return_std=True, n_paths=400, random_state=0)
    # the first step is normal around the forecast: a standard error is std / 20
    assert (np.abs(paths[:, 0].mean(0) - mean[0]) < 4 * std[0] / 20).all()
    np.testing.assert_allclose(paths.std(0), std)


def test_one_or_several_series_of_one_or_several_outputs(small, wave):
    assert InContextForecaster(small).fit(wave[:, 0]).predict(3).shape == (3,)
    both = InContextForecaster(small).fit([wave, wave[:5]])
    assert both.n_series_ == 2
    found = both.predict(3)
    assert [path.shape for path in found] == [(3, 2), (3, 2)]
    single = InContextForecaster(small).fit(wave[:5]).predict(3)
    np.testing.assert_allclose(found[1], single, atol=1e-12)
    assert InContextForecaster(small).fit(wave.tolist()).n_series_ == 1
    wide = np.column_stack([wave, wave[:, 0]])
    grouped = InContextForecaster(small).fit(wide)
    assert grouped.n_outputs_ == 3
    assert grouped.predict(2).shape == (2, 3)
    np.testing.assert_allclose(
        grouped.predict(2)[:, :2], InContextForecaster(small).fit(wave).predict(2)
    )
    frame = pd.DataFrame(wave, columns=["a", "b"])
    np.testing.assert_allclose(
        InContextForecaster(small).fit(frame).predict(2),
        InContextForecaster(small).fit(wave).predict(2),
    )


def test_constant_outputs_stay_what_they_are(small, wave):
    series = np.column_stack([wave[:, 0], np.full(40, 7.0)])
    mean, std = (
        InContextForecaster(small)
        .fit(series)
        .predict(4, return_std=True, random_state=0)
    )
    np.testing.assert_array_equal(mean[:, 1], 7.0)
    np.testing.assert_array_equal(std[:, 1], 0.0)
    assert (std[:, 0] > 0).all()


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([], "no series"),
        (np.ones((2, 3, 4)), "shape"),
        (np.empty((0, 2)), "one step or more"),
        (np.array([1.0, np.nan]), "NaN or infinity"),
        ([np.ones((3, 2)), np.ones((3, 1))], "Series 1 has 1 outputs"),
        ("abc", "no array of numbers"),
    ],
)
def test_bad_series_are_refused_with_a_reason(small, series, message):
    with pytest.raises(ValueError, match=message):
        InContextForecaster(small).fit(series)


def test_settings_are_checked(small, wave):
    with pytest.raises(NotFittedError):
        InContextForecaster(small).predict(3)
    model = InContextForecaster(small).fit(wave)
    for wrong in (0, 2.5, None):
        with pytest.raises(ValueError, match="horizon must be a whole number"):
            model.predict(wrong)
    with pytest.raises(ValueError, match="n_paths"):
        model.sample(2, n_paths=0)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="window must be a whole number"):
            InContextForecaster(window=wrong).fit(wave)
    with pytest.raises(ValueError, match="window=11 is longer than"):
        InContextForecaster("icl-linear", window=11).fit(wave)
    with pytest.raises(ValueError, match="not available"):
        InContextForecaster(small, device="cuda:99").fit(wave)
    with pytest.raises(ValueError, match="reads chain; weights for series"):
        InContextForecaster("cot-one-shot").fit(wave)
    with pytest.raises(ValueError, match="dtype must be"):
        InContextForecaster(small, dtype="float16").fit(wave)
