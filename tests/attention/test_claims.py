"""The claims of 2306.13596 and 2308.16898 in numbers; the figures stand beside each."""

import numpy as np
import pytest
import torch

from sklearn_attn.attention import (
    attention_descent,
    is_locally_optimal,
    regularization_path,
    solve_joint_svm,
    solve_key_query_svm,
    solve_token_svm,
)
from sklearn_attn.datasets import make_joint_tokens

pytestmark = pytest.mark.claim

# E1: one sequence of three tokens. The scores are those of the tokens directly, as a
# value channel of its own with the head v = (1,).
E1_KEYS = np.array([[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]]])
E1_GLOBAL = np.array([[[1.0], [0.9], [0.9]]])
E1_LOCAL = np.array([[[1.0], [0.9], [0.0]]])
E1_STARTS = (1.0, 0.5, 0.0, -0.5, -1.0, -1.5)


def misalignment(a, b):
    """1 - cosine, accurate near zero: half the squared distance of the unit vectors."""
    return np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2) / 2


def slope(x, y):
    return np.polyfit(x, y, 1)[0]


@pytest.fixture(scope="module")
def e2():
    """E2: three sequences of seven tokens; token 0 has score 1, the others 0.5."""
    generator = torch.Generator().manual_seed(0)
    X = 0.2 * torch.randn(3, 7, 3, generator=generator)
    X[:, 0] += torch.tensor([1.0, 0.0, 0.0])
    X[:, 1:4] += torch.tensor([-1.0, 1.0, 0.0])
    X[:, 4:] += torch.tensor([-0.5, -0.5, 0.0])
    keys = X[:, :, :2].double().numpy()
    values = np.full((3, 7, 1), 0.5)
    values[:, 0] = 1.0
    return keys, values, solve_token_svm(keys, [0, 0, 0])


@pytest.mark.parametrize("normalized", [False, True])
def test_descent_on_w_is_descent_on_p(normalized):
    # 3.1, the lemma; measured 2e-15. With steps eta / ||u||^2 on W (eta / ||u|| when
    # gradients are normalised), W'u follows p.
    query = np.array([0.3, -2.0, 1.2])
    step = 0.3
    shared = {
        "head": [1.0],
        "keys": E1_KEYS,
        "prompt": [0.2, 0.5],
        "normalized": normalized,
        "max_iter": 500,
    }
    length = np.linalg.norm(query) if normalized else query @ query
    on_w = attention_descent(
        E1_GLOBAL, train="W", query=query, step_size=step / length, **shared
    )
    on_p = attention_descent(E1_GLOBAL, step_size=step, **shared)
    assert np.abs(on_w.history["p"] - on_p.history["p"]).max() < 1e-12
    assert np.abs(on_w.value.T @ query - on_p.value).max() < 1e-12
    assert np.linalg.matrix_rank(on_w.value) == 1


def test_one_sequence_with_equal_other_scores_selects_its_best_token_from_anywhere():
    # 3.2; measured 20 of 20, median 2e-6.
    rng = np.random.default_rng(0)
    found = []
    while len(found) < 12:
        keys = rng.standard_normal((1, 5, 4))
        solution = solve_token_svm(keys, [0])
        if solution.p is None or 1 / solution.margin > 20:
            continue
        values = np.zeros((1, 5, 1))
        values[0, 0] = 1.0
        path = attention_descent(
            values,
            head=[1.0],
            keys=keys,
            prompt=3 * rng.standard_normal(4),
            step_size=1.0,
            max_iter=1250,
        )
        found.append(misalignment(path.value, solution.p))
    assert np.median(found) < 1e-5
    assert max(found) < 1e-3


def _selections_with_room(rng, *, locally_optimal):
    """Selections whose neighbours are clear: every other margin is at least 1.2."""
    while True:
        keys, scores = rng.standard_normal((2, 4, 6)), rng.standard_normal((2, 4))
        selected = rng.integers(4, size=2)
        solution = solve_token_svm(keys, selected)
        if solution.p is None:
            continue
        margins = (keys[[0, 1], selected][:, None] - keys) @ solution.p
        margins[[0, 1], selected] = np.inf
        if ((margins > 1 + 1e-6) & (margins < 1.2)).any():
            continue
        if is_locally_optimal(keys, scores, selected) == locally_optimal:
            yield keys, scores, selected, solution.p, margins


def test_descent_that_starts_near_a_locally_optimal_selection_stays_with_it():
    # 3.3; measured 16 of 16, median 9e-6. The start is far enough out that a token
    # beyond the neighbours cannot pull: R (margin - 1) / ||p_mm|| >= 10.
    rng = np.random.default_rng(1)
    cases = _selections_with_room(rng, locally_optimal=True)
    found = []
    for _ in range(10):
        keys, scores, _, p_mm, margins = next(cases)
        norm = np.linalg.norm(p_mm)
        beyond = margins[margins > 1.1].min()
        radius = max(200.0, 10 * norm / (beyond - 1))
        start = radius * p_mm / norm + 0.3 * rng.standard_normal(len(p_mm))
        path = attention_descent(
            scores[..., None],
            head=[1.0],
            keys=keys,
            prompt=start,
            step_size=1.0,
            max_iter=1500,
        )
        found.append(misalignment(path.value, p_mm))
        assert np.linalg.norm(path.value) > 2 * radius
    assert np.median(found) < 1e-5
    assert max(found) < 1e-3


def test_descent_leaves_a_selection_with_a_neighbour_of_higher_score():
    # 3.4, tightness; measured 34 of 34.
    rng = np.random.default_rng(2)
    cases = _selections_with_room(rng, locally_optimal=False)
    for _ in range(10):
        keys, scores, selected, p_mm, _ = next(cases)
        path = attention_descent(
            scores[..., None],
            head=[1.0],
            keys=keys,
            prompt=20 * p_mm / np.linalg.norm(p_mm),
            step_size=1.0,
            max_iter=750,
        )
        left = (keys @ path.value).argmax(1) != selected
        assert left.any() or misalignment(path.value, p_mm) > 1e-2


def test_normalised_descent_aligns_at_the_rate_one_over_t_squared():
    # 3.5; measured 2.3e-4, 2.3e-6, 2.3e-8 at eta t = 1e2, 1e3, 1e4.
    p_mm = solve_token_svm(E1_KEYS, [0]).p
    path = attention_descent(
        E1_GLOBAL,
        head=[1.0],
        keys=E1_KEYS,
        prompt=[0.0, 1.0],
        step_size=1.0,
        max_iter=20_000,
    )
    t = np.array([200, 600, 2000, 6000, 20_000])
    gaps = np.array([misalignment(path.history["p"][i], p_mm) for i in t])
    assert slope(np.log(t), np.log(gaps)) == pytest.approx(-2.0, abs=0.02)
    assert gaps[-1] < 1e-8
    norms = np.linalg.norm(path.history["p"][t], axis=1)
    np.testing.assert_allclose(norms, t, rtol=1e-2)  # ||p(t)|| ~ eta t


def test_constant_steps_grow_the_norm_like_the_logarithm_of_time(e2):
    # 3.6; measured: slope 0.81 against ||p_mm|| = 0.862 between t = 1e4 and 1e5, and
    # rising towards it; 1 - cos of 9.1e-3, falling slowly.
    keys, values, solution = e2
    path = attention_descent(
        values, head=[1.0], keys=keys, normalized=False, step_size=1.0, max_iter=30_000
    )
    norm = np.linalg.norm(path.history["p"], axis=1)
    t = np.array([1000, 3000, 10_000, 30_000])
    slopes = np.diff(norm[t]) / np.diff(np.log(t))
    assert 0.75 < slopes[-1] < 1 / solution.margin
    gaps = [misalignment(path.history["p"][i], solution.p) for i in t]
    assert (np.diff(gaps) < 0).all()
    # bounded by a multiple of 1 / log^2 t, and not falling like a power of t: the
    # power that it seems to have keeps shrinking
    powers = -np.diff(np.log(gaps)) / np.diff(np.log(t))
    assert (np.diff(powers) < 0).all()
    assert (np.array(gaps) * np.log(t) ** 2 < 2 * gaps[0] * np.log(t[0]) ** 2).all()


def test_the_regularisation_path_aligns_and_its_risk_falls_exponentially(e2):
    # 3.7 and 3.8; measured: slope -1.1611 at R = 200 against -1/||p_mm|| = -1.1604.
    keys, values, solution = e2
    radii = np.array([50.0, 100.0, 200.0, 400.0, 800.0])
    path = regularization_path(values, head=[1.0], keys=keys, radii=radii)
    gaps = np.array([misalignment(p, solution.p) for p in path.value])
    np.testing.assert_allclose(np.linalg.norm(path.value, axis=1), radii, rtol=1e-9)
    assert (np.diff(gaps) < 0).all()
    # O(1/R^2): from the radius on at which the near-active third constraint is quiet
    assert slope(np.log(radii[2:]), np.log(gaps[2:])) < -1.7
    decay = np.diff(path.history["log_excess"]) / np.diff(radii)
    assert decay[-1] == pytest.approx(-solution.margin, rel=1e-3)


def test_the_regularisation_path_is_optimal_on_its_circles(e2):
    # Against brute force over the angle: no other direction of that norm has less risk.
    keys, values, _ = e2
    radii = [2.0, 5.0, 10.0]
    path = regularization_path(values, head=[1.0], keys=keys, radii=radii)
    angles = np.linspace(0, 2 * np.pi, 20_001)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    for R, p in zip(radii, path.value):

        def risk(p):
            logits = np.einsum("ntd,...d->...nt", keys, p)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            return np.log1p(np.exp(-(weights * values[..., 0]).sum(-1))).mean(-1)

        assert risk(p) <= risk(R * circle).min() + 1e-12


@pytest.mark.parametrize(
    ("seed", "loss"), [(1, "logistic"), (3, "linear"), (4, "logistic")]
)
def test_the_regularisation_path_finds_the_best_of_several_minima(seed, loss):
    # Random data in the plane, where the optimal tokens cannot always be selected;
    # against brute force over the disc.
    rng = np.random.default_rng(seed)
    keys, scores = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3))
    radii = [1.0, 10.0, 30.0]
    path = regularization_path(
        scores[..., None], head=[1.0], keys=keys, radii=radii, loss=loss, random_state=0
    )

    def risk(p):
        logits = np.einsum("ntd,...d->...nt", keys, p)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        u = (weights * scores).sum(-1)
        return (np.logaddexp(0, -u) if loss == "logistic" else -u).mean(-1)

    angles = np.linspace(0, 2 * np.pi, 2001)
    disc = np.linspace(0.01, 1, 60)[:, None, None] * np.stack(
        [np.cos(angles), np.sin(angles)], 1
    )
    for R, p in zip(radii, path.value):
        assert np.linalg.norm(p) <= R * (1 + 1e-9)
        assert risk(p) <= risk(R * disc).min() + 1e-6


def test_padding_takes_no_part_in_descent_and_path():
    mask = np.array([[True, True, False]])
    X = np.array([[[1.0, 0.0], [0.0, 1.0], [np.nan, np.nan]]])
    short = {"head": [1.0, 0.0]}
    padded = attention_descent(X, mask=mask, max_iter=30, **short)
    plain = attention_descent(X[:, :2], max_iter=30, **short)
    np.testing.assert_array_equal(padded.value, plain.value)
    padded = regularization_path(X, mask=mask, radii=[3.0], random_state=0, **short)
    plain = regularization_path(X[:, :2], radii=[3.0], random_state=0, **short)
    np.testing.assert_allclose(padded.value, plain.value, atol=1e-9)
    assert padded.converged


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"X": np.ones((2, 3))}, "n_samples, n_tokens, n_features"),
        ({"X": np.full((2, 3, 2), np.inf)}, "finite"),
        ({"mask": np.ones(3)}, "mask must have shape"),
        ({"mask": np.zeros((2, 3))}, "keep a token"),
        ({"y": [0, 1]}, "-1 or"),
        ({"head": [1.0]}, "head has shape"),
        ({"prompt": [1.0]}, "prompt has shape"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"train": "q"}, "train must be"),
        ({"train": "W"}, "needs a query"),
        ({"query": [1.0]}, "nothing else takes one"),
        ({"train": "W", "query": [0.0]}, "not zero"),
        ({"step_size": 0.0}, "step_size must be positive"),
    ],
)
def test_descent_refuses_bad_input(arguments, match):
    X = np.random.default_rng(0).random((2, 3, 2))
    with pytest.raises(ValueError, match=match):
        attention_descent(**({"X": X, "head": [1.0, 0.0]} | arguments))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"radii": [0.0]}, "positive"),
        ({"radii": [2.0, 1.0]}, "increasing"),
        ({"radii": [1.0, 1.0]}, "increasing"),
        ({"radii": []}, "at least one"),
        ({"radii": [np.inf]}, "finite"),
        ({"head": None}, "needs the head"),
        ({"head": torch.sum}, "linear heads only"),
        ({"train": "vp", "loss": "linear"}, "no lower bound in v"),
        ({"n_init": -1}, "n_init"),
    ],
)
def test_the_path_refuses_bad_input(arguments, match):
    X = np.random.default_rng(0).random((2, 3, 2))
    with pytest.raises(ValueError, match=match):
        regularization_path(
            **({"X": X, "head": [1.0, 0.0], "radii": [1.0]} | arguments)
        )


@pytest.mark.parametrize("loss", ["logistic", "linear"])
@pytest.mark.parametrize("score", [1.0, 3.0, 10.0])
def test_losses_share_the_direction_and_differ_by_a_finite_offset(loss, score):
    # 3.9 and E4. Keys (0, 0), (1, +-1), scores of the optimal tokens (C, 1): p_mm is
    # (1, 0) with equal multipliers, so p_2 settles where both sequences pull alike:
    #   linear    C exp(-p_2) = exp(p_2)              p_2 = log(C) / 2
    #   logistic  the same with C sigmoid(-C) and sigmoid(-1) for C and 1
    keys = np.array([[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, -1.0]]])
    values = np.zeros((2, 2, 1))
    values[:, 1, 0] = [score, 1.0]
    np.testing.assert_allclose(solve_token_svm(keys, [1, 1]).p, [1, 0], atol=1e-12)
    path = attention_descent(
        values, head=[1.0], keys=keys, loss=loss, step_size=0.02, max_iter=4000
    )
    pull = np.array([score, 1.0])
    if loss == "logistic":
        pull = pull / (1 + np.exp(pull))
    offset = np.log(pull[0] / pull[1]) / 2
    # averaged, since steps of 0.02 hop about the limit by up to as much
    assert path.history["p"][-1000:, 1].mean() == pytest.approx(offset, abs=1e-4)
    assert misalignment(path.value, np.array([1.0, 0.0])) < 1e-3


@pytest.mark.parametrize(
    ("values", "ends"),
    [(E1_GLOBAL, [0] * 6), (E1_LOCAL, [0, 0, 0, 0, 1, 1])],
    ids=["global", "local"],
)
def test_experiment_1_single_sequence(values, ends):
    # E1: on the global data all six starts go to token 0; on the local data those at
    # -1 and -1.5 go to token 1, the locally optimal one. 2.3e-4 at eta t = 1e2.
    solutions = [solve_token_svm(E1_KEYS, [t]) for t in (0, 1)]
    np.testing.assert_allclose(solutions[0].p, [-0.1 / 1.01, 1 / 1.01], atol=1e-12)
    np.testing.assert_allclose(solutions[1].p, [1.0, 0.0], atol=1e-12)
    assert is_locally_optimal(E1_KEYS, values[..., 0], [1]) == (values is E1_LOCAL)
    for start, end in zip(E1_STARTS, ends):
        path = attention_descent(
            values, head=[1.0], keys=E1_KEYS, prompt=[0.0, start], max_iter=1000
        )
        assert misalignment(path.value, solutions[end].p) < 5e-4
        assert path.converged  # saturated, and no start has lost its way since


def test_experiment_2_several_sequences(e2):
    # E2: p_mm of the keys alone, and the published curves of softmax probability and
    # norm, for normalised (eta = 0.1) and plain (eta = 1) descent.
    keys, values, solution = e2
    np.testing.assert_allclose(solution.p, [0.84462639, 0.17112231], atol=1e-8)
    assert solution.p @ solution.p / 2 == pytest.approx(0.37133829, abs=1e-8)
    published = {
        True: [(0.428, 1.00), (0.855, 2.49), (0.993, 4.97), (1.0, 9.93), (1.0, 19.8)],
        False: [(0.236, 0.403), (0.508, 1.22), (0.818, 2.29), (0.934, 3.16)],
    }
    for normalized, rows in published.items():
        path = attention_descent(
            values,
            head=[1.0],
            keys=keys,
            normalized=normalized,
            step_size=0.1 if normalized else 1.0,
            max_iter=199,
        )
        for t, (probability, norm) in zip((10, 25, 50, 100, 199), rows):
            p = path.history["p"][t]
            weights = torch.softmax(torch.from_numpy(keys @ p), 1).numpy()
            # half a unit of the last digit that is published
            assert weights[:, 0].mean() == pytest.approx(probability, abs=6e-4)
            assert np.linalg.norm(p) == pytest.approx(norm, rel=6e-3)


@pytest.mark.parametrize("tight", [True, False])
def test_experiment_3_joint_descent_goes_to_the_relaxed_svm(tight):
    # E3, 3.10 and 3.11: v -> v_mm, and p -> p_rel, which is p_mm only if all support.
    X, y, selected = make_joint_tokens(tight=tight)
    relaxed = solve_joint_svm(X, y, selected)
    full = solve_joint_svm(X, y, selected, relax=False)
    assert relaxed.is_support.tolist() == [True, True, tight]
    path = attention_descent(
        X,
        y,
        head=[-1.0, 0.0],
        prompt=[0.0, -1.0],
        train="vp",
        step_size=0.5,
        max_iter=4000,
    )
    v, p = path.value
    assert misalignment(v, relaxed.v) < 1e-6
    assert misalignment(p, relaxed.p) < 1e-6
    if not tight:
        between = misalignment(relaxed.p, full.p)
        assert misalignment(p, full.p) == pytest.approx(between, rel=0.05)


def test_experiment_3_has_the_published_curves():
    # E3, tight: probability of the optimal token, .423 at the start, least about step
    # 7, .996 in the end; likewise of the label.
    X, y, _ = make_joint_tokens(tight=True)
    path = attention_descent(
        X, y, head=[-1.0, 0.0], prompt=[0.0, -1.0], train="vp", max_iter=90
    )
    weights = torch.softmax(
        torch.from_numpy(np.einsum("ntd,id->int", X, path.history["p"])), -1
    ).numpy()
    probability = weights[..., 1].mean(1)
    for t, published in ((0, 0.423), (7, 0.38), (30, 0.719), (60, 0.967), (90, 0.996)):
        assert probability[t] == pytest.approx(published, abs=5e-3)
    assert 5 <= probability.argmin() <= 9
    margins = y * np.einsum("int,ntd,id->in", weights, X, path.history["v"])
    label = (1 / (1 + np.exp(-margins))).mean(1)
    for t, published in ((0, 0.525), (30, 0.869), (60, 0.996)):
        assert label[t] == pytest.approx(published, abs=5e-3)


@pytest.mark.parametrize("tight", [True, False])
def test_the_joint_regularisation_path_goes_to_the_relaxed_svm(tight):
    # 3.10 and 3.11 for balls: the head's ball must outgrow the prompt's, or sequences
    # beyond the label margin still matter.
    X, y, selected = make_joint_tokens(tight=tight)
    relaxed = solve_joint_svm(X, y, selected)
    full = solve_joint_svm(X, y, selected, relax=False)
    path = regularization_path(
        X,
        y,
        prompt=[0.0, -1.0],
        train="vp",
        radii=[(5, 2), (50, 10), (200, 40), (500, 60)],
    )
    v, p = path.value[0][-1], path.value[1][-1]
    assert misalignment(v, relaxed.v) < 1e-4
    assert misalignment(p, relaxed.p) < 2e-3
    if not tight:
        assert misalignment(p, full.p) > 5e-3


def test_attention_gets_sparser_as_the_prompt_grows(e2):
    # 3.12: 1 / ||s||^2, the number of tokens in use, falls to 1 while ||p|| grows.
    keys, values, _ = e2
    path = attention_descent(values, head=[1.0], keys=keys, max_iter=400)
    weights = torch.softmax(
        torch.from_numpy(path.history["p"] @ keys.swapaxes(1, 2)), -1
    )
    in_use = (1 / weights.square().sum(-1)).mean(0).numpy()
    assert in_use[0] == pytest.approx(7.0)
    assert in_use[-1] == pytest.approx(1.0, abs=1e-6)
    assert (np.diff(in_use) <= 1e-12).all()
    assert (np.diff(np.linalg.norm(path.history["p"], axis=1)) > 0).all()


def test_a_step_of_one_over_the_smoothness_decreases_the_risk_enough():
    # Descent lemma: L(p+) <= L(p) - eta/2 ||grad||^2 for eta <= 1 / L_p, with
    # L_p = mean of M0 ||v||^2 ||X||^4 + 3 M1 ||v|| ||X||^3; logistic: M0 = 1/4, M1 = 1.
    rng = np.random.default_rng(3)
    for _ in range(5):
        X, y = rng.standard_normal((6, 4, 3)), rng.choice([-1, 1], 6)
        v = rng.standard_normal(3)
        sizes = np.linalg.norm(X, 2, axis=(1, 2))
        norm = np.linalg.norm(v)
        eta = 1 / np.mean(norm**2 * sizes**4 / 4 + 3 * norm * sizes**3)
        path = attention_descent(
            X,
            y,
            head=v,
            prompt=rng.standard_normal(3),
            normalized=False,
            step_size=eta,
            max_iter=50,
        )
        moved = np.diff(path.history["p"], axis=0)
        squared_gradient = np.sum(moved**2, 1) / eta**2
        decrease = -np.diff(path.history["loss"])
        assert (decrease >= eta / 2 * squared_gradient * (1 - 1e-6)).all()


def test_a_nonlinear_head_turns_the_prompt_to_the_same_svm():
    # 2.6: one optimal token per sequence; f = psi(X'softmax(Kp)) with psi increasing
    # along the value, so that O_i is the token with the largest value.
    path = attention_descent(
        E1_GLOBAL,
        head=lambda pooled: torch.tanh(pooled[:, 0]) + pooled[:, 0] ** 3,
        keys=E1_KEYS,
        prompt=[0.0, 0.5],
        step_size=1.0,
        max_iter=2000,
    )
    assert misalignment(path.value, solve_token_svm(E1_KEYS, [0]).p) < 1e-5


def test_norms_of_the_key_query_svm():
    # 2308.16898: the nuclear norm gives the lower rank and the smaller nuclear norm,
    # rank(W_fro) = min(n, d); one common query gives p_mm z' / ||z||^2 for both.
    rng = np.random.default_rng(0)
    for _ in range(3):
        K, queries = rng.standard_normal((6, 8, 10)), rng.standard_normal((6, 10))
        selected = rng.integers(8, size=6)
        frobenius = solve_key_query_svm(K, queries, selected)
        nuclear = solve_key_query_svm(K, queries, selected, norm="nuclear")
        assert np.linalg.matrix_rank(frobenius.p, 1e-8) == 6
        assert np.linalg.matrix_rank(nuclear.p, 1e-4) < 6
        size = np.linalg.norm(nuclear.p, "nuc")
        assert size < 0.95 * np.linalg.norm(frobenius.p, "nuc")
        assert np.linalg.norm(nuclear.p) > np.linalg.norm(frobenius.p)
        assert nuclear.gap <= 1e-6
    common = np.tile(rng.standard_normal(10), (6, 1))
    selected = (K @ rng.standard_normal(10)).argmax(1)
    p_mm = solve_token_svm(K, selected).p
    expected = np.outer(p_mm, common[0]) / (common[0] @ common[0])
    for norm, tolerance in (("frobenius", 1e-12), ("nuclear", 1e-5)):
        W = solve_key_query_svm(K, common, selected, norm=norm).p
        assert np.abs(W - expected).max() < tolerance
