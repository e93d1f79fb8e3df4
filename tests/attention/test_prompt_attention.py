"""What PromptAttention, its regressor and its companions promise."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from sklearn_attn.attention import (
    LinearAttentionClassifier,
    MeanTokenClassifier,
    PromptAttention,
    PromptAttentionRegressor,
    SelfAttentionClassifier,
)
from sklearn_attn.attention._softmax import deviations
from sklearn_attn.attention._standardize_tokens import standardize_tokens
from sklearn_attn.attention._token_attention import (
    gather,
    linear_attention,
    mean_attention,
    project,
    prompt_attention,
    self_attention,
)
from sklearn_attn.attention._token_risk import (
    BINOMIAL,
    MULTINOMIAL,
    SQUARED,
    Samples,
    TokenModel,
    TokenRisk,
)
from sklearn_attn.callbacks import EarlyStopping
from sklearn_attn.datasets import make_contextual_tokens, make_digit_needles
from sklearn_attn.preprocessing import FeatureTokenizer, pad_sequences

CLASSIFIERS = [
    PromptAttention(),
    PromptAttention(method="three-step"),
    PromptAttention(method="three-step", head="mean"),
    PromptAttention(method="three-step", head="least-squares"),
    PromptAttention(method="known-prompt", prompt=0.1, head="ridge"),
    MeanTokenClassifier(),
    LinearAttentionClassifier(),
    SelfAttentionClassifier(),
]
REGRESSORS = [
    PromptAttentionRegressor(),
    PromptAttentionRegressor(method="three-step"),
    PromptAttentionRegressor(method="three-step", head="mean"),
]
ALL = [*CLASSIFIERS, *REGRESSORS]
EVERY = pytest.mark.parametrize("estimator", ALL, ids=str)


@pytest.fixture(scope="module")
def contextual():
    X, y, relevant = make_contextual_tokens(
        400, 10, 6, relevant_fraction=0.2, random_state=0, return_relevant=True
    )
    return X, y, relevant


@pytest.fixture(scope="module")
def three_classes():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((240, 5, 6)), np.arange(240) % 3
    X[np.arange(240), rng.integers(5, size=240), :3] += 4 * np.eye(3)[y]
    return X, np.array(["a", "b", "c"])[y]


def outputs(estimator, X):
    method = getattr(estimator, "decision_function", estimator.predict)
    return method(X)


def unstandardised(X, y, loss, weight=None):
    Y = np.asarray(y, dtype=float).reshape(len(X), -1)
    weight = np.full(len(X), 1 / len(X)) if weight is None else weight / weight.sum()
    return Samples(
        torch.from_numpy(X), None, torch.from_numpy(Y), torch.from_numpy(weight), loss
    )


# The risk and its parts


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("attention", "shape"),
    [
        (mean_attention, (0,)),
        (prompt_attention, (1, 4)),
        (prompt_attention, (3, 4)),
        (linear_attention, (3, 5)),
        (self_attention, (4, 4)),
    ],
)
@pytest.mark.parametrize("loss", [MULTINOMIAL, SQUARED])
def test_the_gradient_is_that_of_autograd(attention, shape, loss, padded):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((7, 5, 4))
    samples = unstandardised(X, np.eye(3)[np.arange(7) % 3], loss)
    mask = torch.ones(7, 5, dtype=torch.bool)
    mask[:4, 3:] = False
    samples = samples._replace(mask=mask if padded else None)
    risk = TokenRisk(samples, attention, shape, 0.1, 0.2, True)
    model = TokenModel(
        *(torch.from_numpy(rng.standard_normal(s)) for s in ((3, 4), 3, shape))
    )
    model = TokenModel(*(part.requires_grad_(True) for part in model))
    value, gradient = risk.value_and_gradient(model)
    expected = torch.autograd.grad(value, model, allow_unused=True)
    for found, wanted in zip(gradient, expected):
        wanted = torch.zeros_like(found) if wanted is None else wanted
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-12, atol=1e-13)


def test_products_of_numpy_are_those_of_torch():
    """Without gradients, single vectors go through NumPy on the CPU."""
    rng = np.random.default_rng(0)
    X, v, c = (
        torch.from_numpy(rng.standard_normal(s)) for s in ((7, 5, 4), (1, 4), (7, 5, 1))
    )
    with torch.no_grad():
        by_numpy = project(X, v), gather(c, X)
    torch.testing.assert_close(by_numpy[0], X @ v.T)
    torch.testing.assert_close(by_numpy[1], (c * X).sum((0, 1))[None])
    for found, wanted in zip((project(X, v), gather(c, X)), by_numpy):
        torch.testing.assert_close(found, wanted)


def test_self_attention_in_chunks_is_self_attention_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    X, A = (torch.from_numpy(rng.standard_normal(s)) for s in ((9, 4, 3), (3, 3)))
    g = torch.from_numpy(rng.standard_normal((9, 4, 1)))
    a, pull = self_attention(X, None, A)
    expected = torch.softmax(X @ A @ X.mT, -1).mean(1)
    torch.testing.assert_close(a[..., 0], expected)
    monkeypatch.setattr("sklearn_attn.attention._token_attention._CHUNK", 2 * 16)
    chunked, pull_chunked = self_attention(X, None, A)
    torch.testing.assert_close(chunked, a)
    torch.testing.assert_close(pull_chunked(g), pull(g))


def test_deviations_do_not_cancel_where_attention_saturates():
    """The leading token's is exactly -weight * difference; 1 - (1 - 1e-20) is 0."""
    weights = torch.tensor([[1.0, 1e-20]], dtype=torch.float64)
    scores = torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    assert deviations(weights, scores)[0].tolist() == [-2e-20, 2.0]


def test_standardised_tokens_have_mean_zero_and_one_scale():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(5 + rng.standard_normal((30, 4, 3)) * [1, 2, 3])
    weight = torch.full((30,), 1 / 30, dtype=torch.float64)
    Z, mean, scales = standardize_tokens(X, None, weight, how="global", centre=True)
    assert len(set(scales.tolist())) == 1
    torch.testing.assert_close(Z * scales + mean, X)
    torch.testing.assert_close(Z.mean((0, 1)), torch.zeros(3).double())
    assert Z.square().mean().item() == pytest.approx(1)
    Z, *_ = standardize_tokens(X, None, weight, how="feature", centre=True)
    torch.testing.assert_close(Z.square().mean((0, 1)), torch.ones(3).double())
    Z, mean, scales = standardize_tokens(X, None, weight, how="global", centre=False)
    assert not mean.any()
    torch.testing.assert_close(Z * scales, X)
    assert standardize_tokens(X, None, weight, how=None, centre=False)[0] is X


def test_a_constant_feature_has_no_scale_of_its_own():
    X = torch.full((5, 2, 2), 1e6 / 3, dtype=torch.float64)
    X[..., 1] = torch.arange(10.0).reshape(5, 2)
    weight = torch.full((5,), 0.2, dtype=torch.float64)
    *_, scales = standardize_tokens(X, None, weight, how="feature", centre=True)
    assert scales[0] == 1


# One token


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris])
@pytest.mark.parametrize(
    "cls", [PromptAttention, MeanTokenClassifier, SelfAttentionClassifier]
)
def test_one_token_is_logistic_regression(load, cls):
    X, y = load(return_X_y=True)
    X = 3 * scale(X)
    fitted = cls().fit(X, y)
    C = 1 / (0.01 * len(y) * fitted.scale_[0] ** 2)
    reference = LogisticRegression(C=C, tol=1e-12, max_iter=100_000).fit(X, y)
    # as exact as the reference
    np.testing.assert_allclose(
        fitted.predict_proba(X), reference.predict_proba(X), atol=1e-6
    )
    assert (fitted.attention(X) == 1).all()
    if cls is PromptAttention:
        assert not fitted.prompt_.any()
        assert not fitted.prompt_scale_.any()


def test_one_token_is_ridge_regression():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 4))
    y = 7 + 100 * X @ [1, 2, 0, -1] + rng.standard_normal(50)
    fitted = PromptAttentionRegressor(standardize=None).fit(X, y)
    reference = Ridge(alpha=0.01 * 50).fit(X, y)
    np.testing.assert_allclose(fitted.coef_[0], reference.coef_)
    np.testing.assert_allclose(fitted.intercept_, reference.intercept_)


# Forms of input, and laws


@EVERY
def test_rows_arrays_and_lists_give_the_same_fit(estimator, contextual):
    X, y, _ = contextual
    fitted = clone(estimator).fit(X, y)
    rows = X.reshape(len(X), -1)
    others = [
        clone(estimator).set_params(n_tokens=10).fit(rows, y),
        clone(estimator).set_params(n_tokens=10).fit(pd.DataFrame(rows), y),
        clone(estimator).fit(list(X), y),
    ]
    for other in others:
        np.testing.assert_array_equal(other.coef_, fitted.coef_)
        np.testing.assert_array_equal(outputs(other, X), outputs(fitted, rows))
        assert (other.n_features_in_, other.n_tokens_) == (60, 10)


@EVERY
@pytest.mark.parametrize("data", ["two", "three"])
def test_weighting_equals_repeating_equals_dropping(
    estimator, data, contextual, three_classes
):
    X, y = contextual[:2] if data == "two" else three_classes
    if data == "three" and estimator in REGRESSORS:
        y = np.random.default_rng(0).standard_normal(len(y))
    rng = np.random.default_rng(1)
    weight = rng.integers(0, 4, len(y))
    repeated, kept = np.repeat(np.arange(len(y)), weight), weight > 0
    estimator = clone(estimator)
    if isinstance(estimator, SelfAttentionClassifier):
        estimator.set_params(alpha_attention=1.0)
    weighted = outputs(estimator.fit(X, y, sample_weight=weight), X)
    for other in (
        clone(estimator).fit(X[repeated], y[repeated]),
        clone(estimator).fit(X[kept], y[kept], sample_weight=7 * weight[kept]),
    ):
        np.testing.assert_allclose(outputs(other, X), weighted, rtol=1e-7, atol=1e-8)


@EVERY
def test_the_order_of_tokens_does_not_matter(estimator, contextual):
    X, y, _ = contextual
    order = np.random.default_rng(0).permutation(10)
    fitted = clone(estimator).fit(X, y)
    moved = clone(estimator).fit(X[:, order], y)
    np.testing.assert_allclose(outputs(moved, X), outputs(fitted, X), atol=1e-8)
    np.testing.assert_allclose(
        fitted.attention(X[:, order]), fitted.attention(X)[:, order], atol=1e-12
    )


@EVERY
def test_padding_and_doubling_change_nothing(estimator, contextual):
    X, y, _ = contextual
    fitted = clone(estimator).fit(X, y)
    padded = np.concatenate([np.full((400, 3, 6), np.nan), X], 1)
    other = clone(estimator).fit(padded, y)
    np.testing.assert_allclose(outputs(other, X), outputs(fitted, X), atol=1e-8)
    np.testing.assert_allclose(outputs(fitted, padded), outputs(fitted, X), atol=1e-12)
    assert (other.attention(padded)[:, :3] == 0).all()
    twice = np.concatenate([X, X], 1)
    np.testing.assert_allclose(outputs(fitted, twice), outputs(fitted, X), atol=1e-12)
    doubled = clone(estimator).fit(twice, y)
    np.testing.assert_allclose(outputs(doubled, X), outputs(fitted, X), atol=1e-8)


@EVERY
def test_a_vector_added_to_all_tokens_changes_nothing(estimator, contextual):
    X, y, _ = contextual
    shift = 3 * np.random.default_rng(0).standard_normal(6)
    fitted = clone(estimator).fit(X, y)
    moved = clone(estimator).fit(X + shift, y)
    np.testing.assert_allclose(outputs(moved, X + shift), outputs(fitted, X), atol=1e-8)


@EVERY
def test_ragged_sequences_are_padded(estimator, contextual):
    X, y, _ = contextual
    ragged = [x[: 4 + i % 7] for i, x in enumerate(X)]
    fitted = clone(estimator).fit(ragged, y)
    np.testing.assert_array_equal(
        outputs(fitted, ragged), outputs(fitted, pad_sequences(ragged))
    )
    assert fitted.attention(ragged[:1]).shape == (1, 4)


@EVERY
def test_methods_agree_with_each_other(estimator, contextual, three_classes):
    for X, y in (contextual[:2], three_classes):
        if estimator in REGRESSORS:
            y = np.random.default_rng(0).standard_normal(len(y))
        fitted = clone(estimator).fit(X, y)
        weights, pooled = fitted.attention(X), fitted.transform(X)
        K = len(fitted.coef_)
        centre = fitted.mean_ if fitted._centred else 0
        a = weights.reshape(*X.shape[:2], -1)
        np.testing.assert_allclose(
            pooled,
            np.einsum("ntk,ntd->nkd", a, X - centre).reshape(len(X), -1),
            atol=1e-12,
        )
        heads = pooled.reshape(len(X), -1, 6)
        f = (heads * fitted.coef_).sum(2) + fitted.intercept_
        np.testing.assert_allclose(outputs(fitted, X).reshape(len(X), K), f, atol=1e-10)
        assert len(fitted.get_feature_names_out()) == pooled.shape[1]
        if not isinstance(estimator, LinearAttentionClassifier):
            np.testing.assert_allclose(weights.sum(1), 1)
        if estimator in REGRESSORS:
            continue
        proba = fitted.predict_proba(X)
        np.testing.assert_allclose(proba.sum(1), 1)
        np.testing.assert_allclose(np.log(proba), fitted.predict_log_proba(X))
        np.testing.assert_array_equal(
            fitted.predict(X), fitted.classes_[proba.argmax(1)]
        )


def test_token_scores_are_what_attention_is_made_of(contextual):
    X, y, _ = contextual
    ragged = [x[: 4 + i % 7] for i, x in enumerate(X)]
    fitted = PromptAttention().fit(ragged, y)
    scores = fitted.token_scores(ragged)
    np.testing.assert_allclose(scores[6], X[6] @ fitted.prompt_[0])
    assert np.isnan(scores[0, 4:]).all()
    exp = np.exp(np.nan_to_num(scores, nan=-np.inf))
    np.testing.assert_allclose(fitted.attention(ragged), exp / exp.sum(1)[:, None])


def test_the_relevance_map_is_the_attention_on_its_grid(contextual, three_classes):
    X, y, _ = contextual
    fitted = PromptAttention().fit(X, y)
    np.testing.assert_array_equal(
        fitted.relevance_map(X, (2, 5)).reshape(400, 10), fitted.attention(X)
    )
    three = PromptAttention().fit(*three_classes)
    assert three.relevance_map(three_classes[0], (5, 1)).shape == (240, 5, 1, 3)
    with pytest.raises(ValueError, match=r"\(3, 3\) has 9 places; .* 10 tokens"):
        fitted.relevance_map(X, (3, 3))


def test_predictions_of_a_pickle_are_the_same(contextual):
    X, y, _ = contextual
    for estimator in (PromptAttention(), LinearAttentionClassifier()):
        fitted = estimator.fit(X, y)
        again = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(outputs(again, X), outputs(fitted, X))


# What the parameters do


def test_gradient_finds_the_minimum_of_the_penalised_risk(contextual):
    X, y, _ = contextual
    fitted = PromptAttention(standardize=None, fit_intercept=False).fit(X, y)
    samples = unstandardised(X, y > 0, BINOMIAL)
    risk = TokenRisk(samples, prompt_attention, (1, 6), 1e-2, 1e-1, False)
    theta = np.r_[fitted.coef_[0], 0.0, fitted.prompt_[0]]
    value, gradient = risk(theta)
    assert fitted.loss_ == pytest.approx(value, rel=1e-12)
    assert np.abs(gradient).max() < 1e-12
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = 0.05 * rng.standard_normal(13)
        step[6] = 0
        assert risk(theta + step)[0] > value
    assert fitted.loss_curve_[-1] == pytest.approx(value, rel=1e-9)
    assert len(fitted.loss_curve_) == fitted.n_iter_
    assert fitted.converged_


def test_the_start_is_where_three_step_ends(contextual):
    X, y, _ = contextual
    gradient = PromptAttention().fit(X, y)
    three = PromptAttention(method="three-step").fit(X, y)
    for name in ("prompt_direction_", "prompt_scale_", "first_head_"):
        np.testing.assert_array_equal(getattr(gradient, name), getattr(three, name))
    np.testing.assert_allclose(
        three.prompt_, three.prompt_scale_[:, None] * three.prompt_direction_
    )
    assert gradient.loss_ < three.loss_


def test_the_first_head_and_the_prompt_are_the_gradients_at_zero(contextual):
    X, y, _ = contextual
    fitted = PromptAttention(method="three-step", standardize=None).fit(X, y)
    yc, means = y - y.mean(), X.mean(1)
    w1 = (yc[:, None] * means).mean(0)
    np.testing.assert_allclose(fitted.first_head_[0], w1)
    within = X - means[:, None]
    q1 = np.einsum("n,nt,ntd->d", yc, within @ w1, within)
    np.testing.assert_allclose(fitted.prompt_direction_[0], q1 / np.linalg.norm(q1))


@pytest.mark.parametrize("standardize", ["global", "feature", None])
def test_a_given_prompt_scale_is_the_length_in_the_units_of_the_data(
    standardize, contextual
):
    X, y, _ = contextual
    fitted = PromptAttention(
        method="three-step", prompt_scale=1.7, standardize=standardize
    ).fit(5 * X, y)
    assert np.linalg.norm(fitted.prompt_) == pytest.approx(1.7)
    assert abs(fitted.prompt_scale_[0]) == pytest.approx(1.7)


def test_the_known_prompt_is_kept_and_the_heads_are_what_they_say(contextual):
    X, y, _ = contextual
    prompt = np.linspace(-1, 1, 6)
    known = PromptAttention(method="known-prompt", prompt=prompt, standardize=None)
    heads = {}
    for head in ("mean", "least-squares", "ridge", "logistic"):
        fitted = clone(known).set_params(head=head).fit(X, y)
        np.testing.assert_allclose(fitted.prompt_[0], prompt)
        assert not hasattr(fitted, "prompt_scale_")
        heads[head] = fitted.coef_[0] / np.linalg.norm(fitted.coef_[0])
    H = known.set_params(head="mean").fit(X, y).transform(X)
    H, yc = H - H.mean(0), y - y.mean()
    wanted = {
        "mean": yc @ H,
        "least-squares": np.linalg.lstsq(H, yc, rcond=None)[0],
        "ridge": Ridge(alpha=0.01 * 400).fit(H, yc).coef_,
        "logistic": LogisticRegression(C=1 / (0.01 * 400), tol=1e-10).fit(H, y).coef_,
    }
    for head, w in wanted.items():
        cosine = heads[head] @ np.ravel(w) / np.linalg.norm(w)
        assert cosine == pytest.approx(1, abs=1e-8), head


def test_least_squares_has_minimum_norm_below_as_many_samples_as_features():
    X, y = make_contextual_tokens(20, 5, 40, random_state=0)
    fitted = PromptAttention(
        method="known-prompt", prompt=0.0, head="least-squares", standardize=None
    ).fit(X, y)
    H = X.mean(1) - X.mean((0, 1))
    shortest = np.linalg.pinv(H) @ (y - y.mean())
    cosine = fitted.coef_[0] @ shortest / np.linalg.norm(fitted.coef_)
    assert cosine / np.linalg.norm(shortest) == pytest.approx(1, abs=1e-9)
    assert fitted.score(X, y) == 1
    assert np.isfinite(fitted.coef_).all()


def test_probabilities_of_all_heads_are_calibrated():
    """Of 4000 new sequences, the mean probability is the share of positives; the log
    loss is near that of the best head (.02 covers four standard errors)."""
    model = {"n_tokens": 10, "n_token_features": 6, "relevant_fraction": 0.2}
    X, y = make_contextual_tokens(2000, head_norm=0.5, random_state=0, **model)
    X_new, y_new = make_contextual_tokens(4000, head_norm=0.5, random_state=1, **model)
    losses = {}
    for head in ("logistic", "mean", "least-squares", "ridge"):
        fitted = PromptAttention(method="three-step", head=head, alpha_head=1e-4)
        fitted.fit(X, y)
        p = fitted.predict_proba(X_new)[:, 1]
        assert abs(p.mean() - (y_new > 0).mean()) < 0.02
        losses[head] = -np.log(np.where(y_new > 0, p, 1 - p)).mean()
    assert max(losses.values()) - min(losses.values()) < 0.02


def test_a_ridge_on_the_prompt_makes_it_shorter(contextual):
    X, y, _ = contextual
    lengths = [
        np.linalg.norm(PromptAttention(alpha_prompt=a).fit(X, y).prompt_)
        for a in (0.001, 0.01, 0.1, 1.0)
    ]
    assert lengths == sorted(lengths, reverse=True)
    heads = [
        np.linalg.norm(PromptAttention(alpha_head=a).fit(X, y).coef_)
        for a in (0.001, 0.1)
    ]
    assert heads[0] > heads[1]


def test_debiasing_keeps_the_prompt_from_the_head_where_classes_differ_in_size():
    X, y = make_contextual_tokens(
        6000, 20, 30, relevant_fraction=0.2, positive_fraction=0.8, random_state=0
    )
    cosines = {}
    for debias in (True, False):
        # without intercept tokens are not centred, and neither is the first head
        fitted = PromptAttention(
            method="three-step", debias=debias, fit_intercept=False, standardize=None
        ).fit(X, y)
        w1 = fitted.first_head_[0] / np.linalg.norm(fitted.first_head_)
        cosines[debias] = w1[1], abs(fitted.prompt_direction_[0, 0])
    assert min(cosines[True]) > 0.99
    assert cosines[False][0] < 0.75
    assert cosines[False][1] < 0.9


def test_sign_search_turns_the_prompt_where_distraction_turns_the_mean_token():
    """zeta = .2 and a mean delta_w of .5 > zeta / (1 - zeta): w1 points at -w_*."""
    model = {
        "n_tokens": 20,
        "n_token_features": 30,
        "relevant_fraction": 0.2,
        "delta": ((0, 0, 1), (0, 1, 1)),
        "noise": 0.3,
    }
    X, y = make_contextual_tokens(600, random_state=0, **model)
    X_new, y_new = make_contextual_tokens(2000, random_state=1, **model)
    searched, plain = (
        PromptAttention(method="three-step", sign_search=s).fit(X, y)
        for s in (True, False)
    )
    assert searched.first_head_[0, 1] < 0
    assert searched.prompt_scale_[0] < 0 < plain.prompt_scale_[0]
    assert searched.prompt_[0, 0] > 0
    assert searched.score(X_new, y_new) > plain.score(X_new, y_new) + 0.1


def test_sample_split_deals_the_samples_by_the_seed(contextual):
    X, y, _ = contextual
    split = PromptAttention(method="three-step", sample_split=True, random_state=0)
    first = clone(split).fit(X, y)
    np.testing.assert_array_equal(clone(split).fit(X, y).coef_, first.coef_)
    other = clone(split).set_params(random_state=1).fit(X, y)
    whole = clone(split).set_params(sample_split=False).fit(X, y)
    for different in (other, whole):
        assert not np.allclose(different.first_head_, first.first_head_)
    with pytest.raises(ValueError, match="at least three samples"):
        split.fit(X[:4], [0, 0, 0, 1])
    regressor = PromptAttentionRegressor(sample_split=True, random_state=0)
    assert regressor.fit(X, y).score(X, y) > 0.5


def test_refinement_brings_the_prompt_of_three_steps_closer():
    """Where samples are few: the mean cosine over ten draws was .86, and .95 after."""
    found = []
    for seed in range(10):
        X, y = make_contextual_tokens(
            150, 50, 50, relevant_fraction=0.1, random_state=seed
        )
        found.append(
            [
                PromptAttention(method="three-step", n_refine=n)
                .fit(X, y)
                .prompt_direction_[0, 0]
                for n in (0, 2)
            ]
        )
    before, after = np.abs(found).mean(0)
    assert after > before + 0.05


def test_classes_have_prompts_of_their_own_or_share_one(three_classes):
    X, y = three_classes
    own = PromptAttention().fit(X, y)
    shared = PromptAttention(shared_prompt=True).fit(X, y)
    assert own.prompt_.shape == own.coef_.shape == shared.coef_.shape == (3, 6)
    assert shared.prompt_.shape == (1, 6)
    assert own.attention(X).shape == own.token_scores(X).shape == (240, 5, 3)
    assert shared.attention(X).shape == (240, 5)
    assert own.transform(X).shape == (240, 18)
    assert shared.transform(X).shape == (240, 6)
    assert min(own.score(X, y), shared.score(X, y)) > 0.9
    assert own.loss_ < MeanTokenClassifier().fit(X, y).loss_
    for prompt in (np.ones(6), np.ones((3, 6))):
        known = PromptAttention(method="known-prompt", prompt=prompt).fit(X, y)
        np.testing.assert_allclose(known.prompt_, np.atleast_2d(prompt))


def test_class_weight_is_as_in_logistic_regression():
    X, y = make_contextual_tokens(300, 4, 5, positive_fraction=0.2, random_state=0)
    sample = np.where(y > 0, 5.0, 1.0)
    for cls in (PromptAttention, MeanTokenClassifier):
        by_class = cls(class_weight={1: 5}).fit(X, y)
        by_sample = cls().fit(X, y, sample_weight=sample)
        np.testing.assert_allclose(by_class.coef_, by_sample.coef_, rtol=1e-9)
    balanced = PromptAttention(class_weight="balanced").fit(X, y)
    assert balanced.predict(X).mean() > PromptAttention().fit(X, y).predict(X).mean()


def test_without_intercept_nothing_is_centred():
    X, y = make_contextual_tokens(200, 4, 5, random_state=0)
    for estimator in CLASSIFIERS:
        fitted = clone(estimator).set_params(fit_intercept=False).fit(X + 1, y)
        assert not fitted.intercept_.any()
        assert not fitted.mean_.any()
        np.testing.assert_allclose(outputs(fitted, np.zeros((1, 4, 5))), 0, atol=1e-15)


def test_dtype_and_standardisation_are_those_asked_for(contextual):
    X, y, _ = contextual
    assert PromptAttention().fit(X.astype("float32"), y).coef_.dtype == np.float32
    assert PromptAttention(dtype="float32").fit(X, y).coef_.dtype == np.float32
    fitted = PromptAttention(dtype="float64").fit(X.astype("float32"), y)
    assert fitted.coef_.dtype == np.float64
    stretched = X * [1, 1, 1, 100, 100, 100]
    kept = PromptAttention(standardize="feature").fit(stretched, y)
    lost = PromptAttention(standardize="global").fit(stretched, y)
    assert kept.score(stretched, y) > lost.score(stretched, y) + 0.05


def test_verbose_prints_a_line_per_iteration(contextual, capsys):
    X, y, _ = contextual
    fitted = PromptAttention(verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == fitted.n_iter_
    assert lines[0].startswith("iteration 1: 0.")


def test_a_callback_can_stop_the_fit(contextual):
    pytest.importorskip("sklearn.callback")
    X, y, _ = contextual
    whole = PromptAttention().fit(X, y)
    stopped = PromptAttention().set_callbacks(
        EarlyStopping(tol=0.01, n_iter_no_change=2)
    )
    stopped.fit(X, y)
    assert 2 <= stopped.n_iter_ < whole.n_iter_
    assert stopped.loss_curve_ == whole.loss_curve_[: stopped.n_iter_]


def test_too_few_iterations_are_said(contextual):
    X, y, _ = contextual
    for cls in (PromptAttention, LinearAttentionClassifier):
        with pytest.warns(ConvergenceWarning, match="2 iterations .*Increase max_iter"):
            fitted = cls(max_iter=2).fit(X, y)
        assert not fitted.converged_


def test_attributes_of_an_earlier_fit_are_gone(contextual):
    X, y, _ = contextual
    fitted = PromptAttention().fit(X, y)
    fitted.set_params(method="known-prompt", prompt=0.0).fit(X, y)
    assert not hasattr(fitted, "first_head_")


def test_it_sits_in_pipelines_and_searches(contextual):
    X, y, _ = contextual
    search = GridSearchCV(
        make_pipeline(StandardScaler(), PromptAttention(n_tokens=10)),
        {"promptattention__alpha_prompt": [0.01, 0.1]},
        cv=3,
    ).fit(X.reshape(400, -1), y)
    assert search.best_score_ > 0.8
    table, labels = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), FeatureTokenizer(), PromptAttention())
    assert cross_val_score(model, table, labels, cv=3).mean() > 0.9
    frame = PromptAttention().set_output(transform="pandas").fit(X, y).transform(X)
    assert list(frame.columns[:2]) == ["promptattention0", "promptattention1"]


# Bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "known-prompt"}, "needs a prompt"),
        ({"method": "known-prompt", "prompt": [1.0, 2]}, r"\(2,\).* 6 features"),
        ({"method": "known-prompt", "prompt": np.ones((2, 6))}, r"shape \(2, 6\)"),
        ({"method": "known-prompt", "prompt": [np.nan] * 6}, "finite"),
        ({"alpha_prompt": 0}, "without a minimiser"),
        ({"alpha_prompt": -1}, "alpha_prompt"),
        ({"alpha_head": -1}, "alpha_head"),
        ({"method": "adam"}, "method"),
        ({"head": "svm"}, "head"),
        ({"prompt_scale": "long"}, "prompt_scale"),
        ({"prompt_scale": -1.0}, "prompt_scale"),
        ({"n_tokens": 0}, "n_tokens"),
        ({"n_refine": -1}, "n_refine"),
        ({"standardize": "std"}, "standardize"),
        ({"class_weight": {1: -1.0}}, "class_weight"),
        ({"device": "abacus"}, "abacus"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(parameters, message, contextual):
    X, y, _ = contextual
    with pytest.raises(ValueError, match=message):
        PromptAttention(**parameters).fit(X, y)


@EVERY
def test_input_that_cannot_be_is_refused_and_the_fit_survives(estimator, contextual):
    X, y, _ = contextual
    fitted = clone(estimator).fit(X, y)
    before = outputs(fitted, X)
    torn, empty, infinite = X.copy(), X.copy(), X.copy()
    torn[3, 2, 1], empty[5], infinite[0, 0, 0] = np.nan, np.nan, np.inf
    for bad, message in [
        (torn, "part of token 2 of sequence 3"),
        (empty, "Sequence 5 of X has no token"),
        (infinite, "infinity"),
        (X[:, :, :5], "5 features"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted.predict(bad)
        if bad.shape == X.shape:
            with pytest.raises(ValueError, match=message):
                fitted.fit(bad, y)
    with pytest.raises(ValueError, match="do not split into n_tokens=7"):
        clone(estimator).set_params(n_tokens=7).fit(X.reshape(400, -1), y)
    if estimator not in REGRESSORS:
        with pytest.raises(ValueError, match="at least two classes"):
            fitted.fit(X, np.ones(400))
    np.testing.assert_array_equal(outputs(fitted, X), before)


@pytest.mark.parametrize(
    "estimator",
    [PromptAttention(), PromptAttention(method="three-step"), REGRESSORS[0]],
    ids=str,
)
@pytest.mark.parametrize("padded", [False, True])
def test_equal_tokens_are_pooled_by_the_mean_with_a_warning(estimator, padded):
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((60, 1, 3)), 4, 1)
    y = (X[:, 0, 0] > 0).astype(int)
    if padded:
        X[::2, :2] = np.nan
    with pytest.warns(UserWarning, match="All tokens of each sequence are equal"):
        fitted = clone(estimator).fit(X, y)
    assert not fitted.prompt_.any()
    one = clone(estimator).fit(X[:, 3], y)
    np.testing.assert_allclose(outputs(fitted, X), outputs(one, X[:, 3]), atol=1e-9)


def test_no_warning_comes_where_nothing_is_wrong(contextual):
    X, y, _ = contextual
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for estimator in (PromptAttention(), LinearAttentionClassifier()):
            clone(estimator).fit(X, y).predict(X)


def test_companions_in_one_comparison():
    """Six hundred sequences of digits; the order of the models is that of the paper."""
    X, y = make_digit_needles(600, random_state=0)
    X_test, y_test = make_digit_needles(600, subset="test", random_state=0)
    scores = [
        cls().fit(X, y).score(X_test, y_test)
        for cls in (MeanTokenClassifier, LinearAttentionClassifier, PromptAttention)
    ]
    assert scores == sorted(scores)
