"""Laws and edges of the attention SVM and of its sibling with per-sequence queries."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from sklearn_attn.attention import TokenSVM, solve_key_query_svm, solve_token_svm
from sklearn_attn.attention._least_distance import least_distance


def planted(n, T, d, seed=0):
    """Gaussian keys, the selected one far out: a large margin, few support tokens."""
    rng = np.random.default_rng(seed)
    K, direction = rng.standard_normal((n, T, d)), rng.standard_normal(d)
    selected = rng.integers(T, size=n)
    K[np.arange(n), selected] += 8 * direction / np.linalg.norm(direction)
    return K, selected


def argmax(n, T, d, seed=0):
    """Gaussian keys, the selected one first along a direction: a tiny margin."""
    rng = np.random.default_rng(seed)
    K = rng.standard_normal((n, T, d))
    return K, (K @ rng.standard_normal(d)).argmax(1)


def gap_rows(K, selected):
    """All rows k_sel - k_t as one matrix, and the pairs they belong to."""
    n, T, _ = K.shape
    pairs = [(i, t) for i in range(n) for t in range(T) if t != selected[i]]
    return np.array([K[i, selected[i]] - K[i, t] for i, t in pairs]), pairs


@pytest.mark.parametrize("make", [planted, argmax])
@pytest.mark.parametrize("shape", [(200, 20, 50), (30, 5, 40), (400, 3, 4)])
def test_hard_margin_satisfies_the_kkt_conditions(make, shape):
    K, selected = make(*shape)
    solution = solve_token_svm(K, selected)
    Z, _ = gap_rows(K, selected)
    # feasible; p is a nonnegative combination of active rows; ||p||^2 = sum of dual
    assert solution.status == "optimal"
    assert (Z @ solution.p).min() >= 1 - 1e-9
    i, t = solution.support.T
    rows = K[i, selected[i]] - K[i, t]
    np.testing.assert_allclose(rows @ solution.p, 1, atol=1e-8)
    np.testing.assert_allclose(solution.dual @ rows, solution.p, atol=1e-9)
    assert (solution.dual > 0).all()
    assert solution.dual.sum() == pytest.approx(solution.p @ solution.p, rel=1e-9)
    assert solution.margin == pytest.approx(1 / np.linalg.norm(solution.p))
    assert solution.gap <= 1e-9


def test_hard_margin_has_the_norm_that_other_solvers_certified():
    # argmax 200 x 20 x 50, seed 0: 10.6217369029 by Clarabel and cvxopt to 4e-11
    solution = solve_token_svm(*argmax(200, 20, 50))
    assert np.linalg.norm(solution.p) == pytest.approx(10.6217369029, rel=1e-10)
    assert len(solution.dual) == 50


def test_hard_margin_agrees_with_a_general_solver():
    cvxpy = pytest.importorskip("cvxpy")
    K, selected = planted(20, 5, 8, seed=3)
    Z, _ = gap_rows(K, selected)
    p = cvxpy.Variable(8)
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(p)), [Z @ p >= 1]).solve("CLARABEL")
    np.testing.assert_allclose(solve_token_svm(K, selected).p, p.value, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("make", [planted, argmax])
def test_scale_changes_the_length_and_not_the_direction(make, scale):
    K, selected = make(60, 10, 20)
    unit, scaled = solve_token_svm(K, selected), solve_token_svm(scale * K, selected)
    np.testing.assert_allclose(scaled.p * scale, unit.p, rtol=1e-9, atol=1e-12)
    assert scaled.gap <= 1e-9
    assert scaled.status == "optimal"


@pytest.mark.parametrize("margin", [1e-2, 1e-4, 1e-6, 1e-7])
def test_tiny_margins_are_found_and_certified(margin):
    # Rows (margin, +-a): p = (1 / margin, 0, 0) exactly.
    across = np.array([[1, 0], [-1, 0.3], [0.2, -1], [0.1, 1]])
    K = np.zeros((4, 2, 3))
    K[:, 0, 0], K[:, 0, 1:] = margin, across
    solution = solve_token_svm(K, np.zeros(4, dtype=int))
    np.testing.assert_allclose(solution.p * margin, [1, 0, 0], atol=1e-9)
    assert solution.status == "optimal"
    # 1e-9, or 32 units of the rounding of a direction that long
    assert solution.gap <= max(1e-9, 32 * np.finfo(float).eps / margin)


@pytest.mark.parametrize("margin", [1e-6, 1e-7])
def test_tiny_margins_in_general_position_are_found_to_rounding(margin):
    # Directions of length 1e7 have margins good to 1e-9: p itself is rounded.
    rng = np.random.default_rng(0)
    for _ in range(5):
        rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
        K = np.zeros((20, 2, 6))
        across = rng.standard_normal((10, 5))
        K[:, 0, 0], K[:, 0, 1:] = margin, np.concatenate([across, -across])
        solution = solve_token_svm(K @ rotation, np.zeros(20, dtype=int))
        expected = rotation[0]
        direction = solution.p / np.linalg.norm(solution.p)
        np.testing.assert_allclose(direction, expected, atol=1e-9)
        assert solution.status == "optimal"
        # 32 units of the rounding of p, in the longest of the rows
        unit = np.finfo(float).eps * np.linalg.norm(K[:, 0], axis=1).max() / margin
        assert solution.gap <= 32 * unit


@pytest.mark.parametrize("shape", [(1, 3, 2), (20, 3, 5), (200, 20, 50)])
def test_an_infeasible_margin_comes_with_a_certificate_and_no_vector(shape):
    rng = np.random.default_rng(0)
    K = rng.standard_normal(shape)
    selected = rng.integers(shape[1], size=shape[0])
    if shape[0] == 1:
        K[0, :, 0], selected = [0.0, 1.0, -1.0], np.array([0])
        K[0, :, 1] = 0.0
    solution = solve_token_svm(K, selected)
    assert solution.p is None
    assert (solution.status, solution.margin) == ("infeasible", 0.0)
    i, t = solution.support.T
    rows = K[i, selected[i]] - K[i, t]
    assert (solution.dual > 0).all()
    assert solution.dual.sum() == pytest.approx(1)
    np.testing.assert_allclose(solution.dual @ rows, 0, atol=1e-9)


def test_equal_tokens_cannot_be_separated():
    assert solve_token_svm(np.ones((1, 2, 3)), [0]).status == "infeasible"


@pytest.mark.parametrize("seed", range(5))
def test_relaxed_sequences_keep_their_order_only(seed):
    K, selected = argmax(30, 4, 6, seed=seed)
    relaxed = np.random.default_rng(seed).random(30) < 0.5
    solution = solve_token_svm(K, selected, relaxed=relaxed)
    rows, pairs = gap_rows(K, selected)
    wanted = np.array([0.0 if relaxed[i] else 1.0 for i, _ in pairs])
    assert (rows @ solution.p - wanted).min() >= -1e-9
    assert solution.gap <= 1e-9
    reference = minimize(
        lambda p: p @ p / 2,
        solution.p * 1.01,
        jac=lambda p: p,
        constraints={
            "type": "ineq",
            "fun": lambda p: rows @ p - wanted,
            "jac": lambda p: rows,
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(solution.p, reference.x, atol=1e-5)
    full = solve_token_svm(K, selected)
    assert np.linalg.norm(solution.p) <= np.linalg.norm(full.p) * (1 + 1e-9)


def test_a_relaxed_problem_is_optimal_only_if_its_relaxed_rows_hold():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        K, selected = argmax(60, 6, 8, seed=seed)
        relaxed = rng.random(60) < 0.8
        rows, pairs = gap_rows(K, selected)
        wanted = np.array([0.0 if relaxed[i] else 1.0 for i, _ in pairs])
        for max_iter in (1, 2, 3, 4, 1000):
            solution = solve_token_svm(K, selected, relaxed=relaxed, max_iter=max_iter)
            if solution.status == "optimal":
                assert (rows @ solution.p - wanted).min() >= -1e-8
        assert solution.status == "optimal"


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
@pytest.mark.parametrize("C", [1e-8, 1e-4, 1e-2, 1.0, 1e8, 1e20])
def test_no_penalty_is_too_small_or_too_large(loss, C):
    for seed in range(20):
        for make in (planted, argmax):
            K, selected = make(10, 4, 3, seed=seed)
            solution = solve_token_svm(K, selected, C=C, loss=loss)
            assert np.isfinite(solution.p).all()
            assert solution.status == "optimal"
        # infeasible: equal tokens, and random selections
        K = np.random.default_rng(seed).standard_normal((6, 4, 2))
        soft = solve_token_svm(K, [0] * 6, C=min(C, 1e6), loss=loss)
        assert soft.gap <= 1e-6
    equal = solve_token_svm(np.ones((3, 2, 2)), [0, 0, 0], C=C, loss=loss)
    assert (equal.p == 0).all()


def test_all_relaxed_or_single_tokens_need_no_direction():
    K, selected = planted(5, 3, 4)
    for solution in (
        solve_token_svm(K, selected, relaxed=np.ones(5, dtype=bool)),
        solve_token_svm(K[:, :1], np.zeros(5, dtype=int)),
    ):
        assert (solution.p == 0).all()
        assert (solution.margin, solution.status) == (np.inf, "optimal")


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("make", [planted, argmax])
def test_squared_hinge_equals_liblinear_on_the_gaps(make, C):
    K, selected = make(40, 6, 8)
    Z, _ = gap_rows(K, selected)
    solution = solve_token_svm(K, selected, C=C)
    sign = np.tile([1.0, -1.0], len(Z))[: len(Z)]
    svc = LinearSVC(C=C, dual=False, fit_intercept=False, tol=1e-12, max_iter=10_000)
    reference = svc.fit(sign[:, None] * Z, sign).coef_[0]
    # liblinear stops at a gradient of about 1e-8 relative to the first
    np.testing.assert_allclose(solution.p, reference, rtol=1e-5, atol=1e-7)
    assert solution.gap <= 1e-9


@pytest.mark.parametrize("C", [1e-3, 1e-1, 1.0, 1e3])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_hinge_is_optimal_by_its_own_dual(C, scale):
    K, selected = argmax(40, 6, 8)
    K = scale * K
    C = C / scale**2  # the same problem in other units
    Z, _ = gap_rows(K, selected)
    solution = solve_token_svm(K, selected, C=C, loss="hinge")
    primal = solution.p @ solution.p / 2 + C * np.maximum(0, 1 - Z @ solution.p).sum()
    i, t = solution.support.T
    rows = K[i, selected[i]] - K[i, t]
    assert (solution.dual >= 0).all()
    assert (solution.dual <= C * (1 + 1e-12)).all()
    dual = solution.dual.sum() - np.sum((solution.dual @ rows) ** 2) / 2
    assert dual <= primal * (1 + 1e-12)
    assert primal - dual <= 1e-9 * primal
    assert solution.status == "optimal"


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_a_large_penalty_approaches_the_hard_margin(loss):
    K, selected = planted(40, 6, 8)
    hard = solve_token_svm(K, selected)
    soft = solve_token_svm(K, selected, C=1e6, loss=loss)
    np.testing.assert_allclose(soft.p, hard.p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_soft_weights_equal_repetition(loss):
    K, selected = argmax(20, 4, 5)
    weight = np.random.default_rng(0).integers(0, 4, 20)
    repeated = np.repeat(np.arange(20), weight)
    weighted = solve_token_svm(K, selected, C=0.1, loss=loss, sample_weight=weight)
    again = solve_token_svm(K[repeated], selected[repeated], C=0.1, loss=loss)
    # the hinge is certified to 1e-9 in its value, the square root of that in p
    tolerance = 1e-12 if loss == "squared_hinge" else 1e-4
    np.testing.assert_allclose(weighted.p, again.p, atol=tolerance)


def test_zero_weight_drops_a_sequence_from_the_hard_margin():
    K, selected = argmax(20, 4, 5)
    kept = np.arange(20) % 2 == 0
    weighted = solve_token_svm(K, selected, sample_weight=kept.astype(float))
    np.testing.assert_allclose(
        weighted.p, solve_token_svm(K[kept], selected[kept]).p, rtol=1e-12
    )
    assert kept[weighted.support[:, 0]].all()


def test_padding_takes_no_part():
    K, selected = planted(20, 5, 6)
    padded = np.concatenate([K, np.full((20, 3, 6), 7.0)], 1)
    mask = np.arange(8) < 5
    solution = solve_token_svm(padded, selected, mask=np.tile(mask, (20, 1)))
    np.testing.assert_array_equal(solution.p, solve_token_svm(K, selected).p)


def test_a_common_shift_of_a_sequence_changes_nothing():
    K, selected = argmax(30, 5, 6)
    shift = 1e3 * np.random.default_rng(1).standard_normal((30, 1, 6))
    np.testing.assert_allclose(
        solve_token_svm(K + shift, selected).p,
        solve_token_svm(K, selected).p,
        rtol=1e-8,
    )


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 10_000))
def test_margins_are_at_least_one_and_order_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    n, T, d = rng.integers(1, 8), rng.integers(2, 6), rng.integers(1, 8)
    K = rng.standard_normal((n, T, d))
    selected = (K @ rng.standard_normal(d)).argmax(1)
    solution = solve_token_svm(K, selected)
    assert solution.status == "optimal"
    assert (gap_rows(K, selected)[0] @ solution.p).min() >= 1 - 1e-9
    order = rng.permutation(T)
    moved = solve_token_svm(K[:, order], np.argsort(order)[selected])
    np.testing.assert_allclose(moved.p, solution.p, rtol=1e-7)


def test_a_rank_deficient_and_a_duplicated_problem_are_solved():
    K, selected = planted(30, 5, 4)
    flat = K @ np.random.default_rng(0).standard_normal((4, 12))  # rank 4 in 12
    selected_flat = (flat @ np.random.default_rng(1).standard_normal(12)).argmax(1)
    assert solve_token_svm(flat, selected_flat).gap <= 1e-9
    twice = np.concatenate([K, K]), np.concatenate([selected, selected])
    np.testing.assert_allclose(
        solve_token_svm(*twice).p, solve_token_svm(K, selected).p, rtol=1e-9
    )


def test_float32_keys_and_tensors_are_solved_in_float64():
    K, selected = planted(20, 4, 5)
    K = K.astype(np.float32)
    expected = solve_token_svm(K.astype(np.float64), selected).p
    for keys in (K, torch.from_numpy(K)):
        solution = solve_token_svm(keys, selected)
        assert solution.p.dtype == np.float64
        np.testing.assert_array_equal(solution.p, expected)


@pytest.mark.gpu
def test_the_gpu_finds_the_same_direction():
    K, selected = argmax(200, 20, 50)
    for settings_ in ({}, {"C": 1.0}, {"C": 1.0, "loss": "hinge"}):
        on_gpu = solve_token_svm(torch.from_numpy(K).to("cuda"), selected, **settings_)
        on_cpu = solve_token_svm(K, selected, **settings_)
        np.testing.assert_allclose(on_gpu.p, on_cpu.p, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"K": np.zeros((3, 4))}, "n_samples, n_tokens"),
        ({"K": np.zeros((3, 0, 2))}, "none of them zero"),
        ({"selected": [0, 1]}, r"selected must have shape \(3,\)"),
        ({"selected": [0, 1, 4]}, r"0\.\.3"),
        ({"selected": [0, 1, -1]}, r"0\.\.3"),
        ({"mask": np.arange(12).reshape(3, 4) != 1}, "padding"),
        ({"mask": np.ones((3, 2))}, "mask must have shape"),
        ({"relaxed": [True]}, "relaxed must have shape"),
        ({"sample_weight": [1, -1, 1]}, "negative"),
        ({"sample_weight": [1, np.nan, 1]}, "finite"),
        ({"selected": [1.0, 1.0, 1.0]}, "integers"),
        ({"max_iter": 0}, "at least 1"),
        ({"C": "a"}, "C must be positive"),
        ({"C": 0}, "C must be positive"),
        ({"C": np.nan}, "C must be positive"),
        ({"loss": "log"}, "squared_hinge"),
        ({"K": np.full((3, 4, 2), np.nan)}, "finite"),
    ],
)
def test_bad_input_is_refused_with_what_was_wanted(change, match):
    arguments = {"K": np.random.default_rng(0).random((3, 4, 2)), "selected": [1, 1, 1]}
    with pytest.raises(ValueError, match=match):
        solve_token_svm(**(arguments | change))


def test_a_limit_of_rounds_is_admitted():
    solution = solve_token_svm(*argmax(200, 20, 50), max_iter=2)
    assert solution.status == "stalled"
    assert not solution.converged
    assert solution.gap > 1e-9


def test_the_solution_is_a_solution_like_all_others():
    solution = solve_token_svm(*planted(20, 4, 5))
    assert solution.value is solution.p
    assert solution.converged
    assert solution.n_iter == len(solution.history["norm"]) - 1
    # the working set grows, so the norm does
    assert (np.diff(solution.history["norm"]) >= -1e-12).all()


def test_the_noun_agrees_with_explicit_rows():
    K, selected = planted(6, 4, 5)
    queries = np.random.default_rng(0).standard_normal((6, 3))
    Z, pairs = gap_rows(K, selected)
    i, t = (torch.tensor(x) for x in zip(*pairs))
    lam = torch.zeros(6, 4, dtype=torch.float64)
    lam[i, t] = torch.rand(len(i), dtype=torch.float64)
    for q in (None, queries):
        problem = TokenSVM.from_keys(K, selected, queries=q)
        rows = Z if q is None else np.einsum("md,mq->mdq", Z, q[i]).reshape(len(Z), -1)
        p = torch.from_numpy(np.random.default_rng(1).standard_normal(rows.shape[1]))
        np.testing.assert_allclose(problem.rows(i, t), rows)
        np.testing.assert_allclose(problem.margins(p)[i, t], rows @ p.numpy())
        np.testing.assert_allclose(problem.combine(lam), lam[i, t].numpy() @ rows)
        weighted = (rows.T * lam[i, t].numpy()) @ rows
        np.testing.assert_allclose(problem.curvature(lam), weighted, atol=1e-12)


def test_least_distance_keeps_large_dimensions_small():
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((10, 300))
    wide = least_distance(Z, np.ones(10))
    assert (Z @ wide.p).min() >= 1 - 1e-10
    np.testing.assert_allclose(wide.dual @ Z, wide.p, atol=1e-12)


def test_key_query_svm_equals_the_token_svm_on_kronecker_features():
    rng = np.random.default_rng(0)
    K, queries = rng.standard_normal((8, 4, 3)), rng.standard_normal((8, 5))
    selected = np.einsum("ntd,dq,nq->nt", K, rng.standard_normal((3, 5)), queries)
    selected = selected.argmax(1)
    features = np.einsum("ntd,nq->ntdq", K, queries).reshape(8, 4, 15)
    for settings_ in ({}, {"C": 0.5}, {"C": 0.5, "loss": "hinge"}):
        W = solve_key_query_svm(K, queries, selected, **settings_).p
        p = solve_token_svm(features, selected, **settings_).p
        np.testing.assert_allclose(W.ravel(), p, atol=1e-7)


def test_the_nuclear_norm_agrees_with_a_general_solver():
    cvxpy = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(5)
    K, queries = rng.standard_normal((6, 8, 10)), rng.standard_normal((6, 10))
    selected = rng.integers(8, size=6)
    solution = solve_key_query_svm(K, queries, selected, norm="nuclear")
    W = cvxpy.Variable((10, 10))
    constraints = [
        (K[i, selected[i]] - K[i]) @ W @ queries[i] >= (np.arange(8) != selected[i])
        for i in range(6)
    ]
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(W)), constraints)
    problem.solve("CLARABEL")
    size = np.linalg.norm(solution.p, "nuc")
    assert size == pytest.approx(problem.value, rel=3e-6)
    assert solution.margin == pytest.approx(1 / size)
    margins = np.einsum(
        "ntd,dq,nq->nt",
        K[np.arange(6), selected][:, None] - K,
        solution.p,
        queries,
    )
    margins[np.arange(6), selected] = 1
    assert margins.min() >= 1 - 1e-8
    # the certificate: multipliers whose combination has spectral norm 1
    i, t = solution.support.T
    rows = np.einsum("md,mq->mdq", K[i, selected[i]] - K[i, t], queries[i])
    combined = np.einsum("m,mdq->dq", solution.dual, rows)
    assert np.linalg.norm(combined, 2) <= 1 + 1e-9
    assert solution.dual.sum() >= size * (1 - 2e-6)


def test_the_nuclear_norm_says_when_it_gives_up():
    rng = np.random.default_rng(0)
    K, queries = rng.standard_normal((6, 8, 10)), rng.standard_normal((6, 10))
    selected = rng.integers(8, size=6)
    with pytest.warns(ConvergenceWarning, match="Increase max_iter"):
        solution = solve_key_query_svm(
            K, queries, selected, norm="nuclear", max_iter=10
        )
    assert solution.status == "stalled"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loose = solve_key_query_svm(K, queries, selected, norm="nuclear", tol=0.05)
    assert loose.status == "optimal"
    assert loose.gap <= 0.05


def test_the_key_query_svm_refuses_what_it_cannot_do():
    K, queries = np.random.default_rng(0).random((3, 4, 2)), np.ones((3, 2))
    with pytest.raises(ValueError, match="hard margin only"):
        solve_key_query_svm(K, queries, [0, 0, 0], norm="nuclear", C=1.0)
    with pytest.raises(ValueError, match="frobenius"):
        solve_key_query_svm(K, queries, [0, 0, 0], norm="spectral")
    with pytest.raises(ValueError, match=r"queries must have shape \(3"):
        solve_key_query_svm(K, queries[:2], [0, 0, 0])
    infeasible = np.zeros((1, 3, 1))
    infeasible[0, :, 0] = [0, 1, -1]
    for norm in ("frobenius", "nuclear"):
        solution = solve_key_query_svm(infeasible, [[1.0]], [0], norm=norm)
        assert solution.p is None
        assert solution.status == "infeasible"
