"""W-SVM: min |||W|||  s.t.  (k_sel - k_t)'W q >= 1 for every t != sel  (2308.16898).

Every sequence i brings a query q_i of its own, and the attention weights are
softmax(K_i W q_i). Training W itself turns to the Frobenius norm's solution, training
the factors W = W_K W_Q' to that of the nuclear norm. With the rows Z_it = z_it q_i':

    Frobenius    the attention SVM on the features z_it (x) q_i
    nuclear      max { h'lam : lam >= 0, ||sum lam_it Z_it||_op <= 1 }  is its dual
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from .._arrays import to_numpy, to_tensor
from ._least_distance import least_distance
from ._solve_token_svm import TokenSVMSolution, solve_problem
from ._token_svm import TokenSVM

_FEASIBILITY = 1e-9
# The penalty of ADMM is changed by this factor where one residual is ten times the
# other (Boyd et al. 2011, section 3.4.1).
_PENALTY_STEP = 2.0
_RESIDUAL_RATIO = 10.0
_STEPS_BETWEEN_CHECKS = 10


def solve_key_query_svm(
    K,
    queries,
    selected,
    *,
    norm="frobenius",
    C=np.inf,
    relaxed=None,
    mask=None,
    sample_weight=None,
    loss="squared_hinge",
    tol=None,
    max_iter=None,
):
    """Separate the selected tokens by one matrix W, when every sequence has a query.

    Finds `min |||W|||` subject to `(k_selected - k_t)' W q >= 1`, with the query q of
    the sequence, for every other token t of every sequence [1]_. With one common query
    both norms give `p q' / ||q||^2`, where p solves the attention SVM.

    Parameters
    ----------
    K : array-like or tensor of shape (n_samples, n_tokens, n_token_features)
        The keys.
    queries : array-like or tensor of shape (n_samples, n_query_features)
        The query of each sequence.
    selected : array-like of int of shape (n_samples,)
        Index of the selected token in each sequence.
    norm : {"frobenius", "nuclear"}, default="frobenius"
        Norm of W. The nuclear norm (hard margin only) is experimental: its solver is
        first order, and reaches a gap of 1e-6 where the other reaches 1e-12.
    C : float, default=inf
        Penalty of the soft margin per pair; infinite asks for the hard margin.
    relaxed : array-like of bool of shape (n_samples,), default=None
        Sequences that need a margin of 0 instead of 1. None relaxes none.
    mask : array-like of bool of shape (n_samples, n_tokens), default=None
        True where there is a token, False for padding. None means no padding.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sequence in the soft margin. None means 1.
    loss : {"squared_hinge", "hinge"}, default="squared_hinge"
        Penalty of the soft margin.
    tol : float, default=None
        Relative gap at which a solution is called optimal. None means 1e-9 for the
        Frobenius and 1e-6 for the nuclear norm.
    max_iter : int, default=None
        Limit of iterations. None means 1000 for the Frobenius norm and 20000
        steps for the nuclear norm.

    Returns
    -------
    TokenSVMSolution
        As from :func:`solve_token_svm`, with `p` the matrix W of shape
        (n_token_features, n_query_features), and `margin` one over its norm. For the
        nuclear norm, the combination of `dual` has spectral norm 1, and the sum of
        `dual` is the certified lower bound of the norm of W.

    Raises
    ------
    ValueError
        If shapes do not fit, `norm` is unknown, or the nuclear norm meets a finite C.

    Warns
    -----
    ConvergenceWarning
        If the nuclear norm's gap is above `tol` after `max_iter` steps.

    References
    ----------
    .. [1] Tarzanagh, Li, Thrampoulidis and Oymak, "Transformers as Support Vector
           Machines", arXiv:2308.16898.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.attention import solve_key_query_svm
    >>> rng = np.random.default_rng(0)
    >>> K, queries = rng.standard_normal((6, 8, 10)), rng.standard_normal((6, 10))
    >>> W = solve_key_query_svm(K, queries, selected=np.zeros(6, dtype=int)).p
    >>> W.shape, np.linalg.matrix_rank(W)
    ((10, 10), np.int64(6))
    """
    if norm not in ("frobenius", "nuclear"):
        raise ValueError(f"norm must be 'frobenius' or 'nuclear'; got {norm!r}.")
    if norm == "nuclear" and not np.isinf(C):
        raise ValueError(f"norm='nuclear' has a hard margin only; got C={C!r}.")
    problem = TokenSVM.from_keys(
        K,
        selected,
        relaxed=relaxed,
        mask=mask,
        sample_weight=sample_weight,
        queries=queries,
    )
    frobenius = solve_problem(
        problem,
        C=C,
        loss=loss,
        tol=1e-9 if tol is None else tol,
        max_iter=1000 if max_iter is None or norm == "nuclear" else max_iter,
    )
    if norm == "frobenius" or not np.isfinite(frobenius.margin) or not frobenius.margin:
        return frobenius  # also without constraints, and where nothing is feasible
    return _nuclear_norm(
        problem,
        frobenius,
        tol=1e-6 if tol is None else tol,
        max_iter=20_000 if max_iter is None else max_iter,
    )


def _nuclear_norm(problem, start, tol, max_iter):
    """ADMM between the nuclear norm and the constraints, in a cutting plane.

    U is the projection of a matrix on the constraints (least distance programming), W
    the same with its singular values shrunk (low rank); both end as the solution. The
    multipliers of the projection, scaled to spectral norm 1, certify the gap.
    """
    shape = start.p.shape
    wanted, scale = to_numpy(problem.wanted), problem.scale
    pairs = start.support
    U = W = start.p * scale  # in units in which the rows have about length 1
    Y = np.zeros(shape)
    penalty = 1.0 / max(np.linalg.norm(U, 2), 1e-300)
    lower, best, best_norm, dual = 0.0, start.p, np.inf, start.dual
    certificate = pairs
    history = {"gap": []}
    for n_iter in range(1, max_iter + 1):
        Z = to_numpy(problem.rows(*to_tensor(pairs, device=problem.gaps.device).T))
        Z, h = Z / scale, wanted[pairs[:, 0]]
        V = (W - Y / penalty).ravel()
        move = least_distance(Z, h - Z @ V)
        previous, U = W, (V + move.p).reshape(shape)
        left, singular, right = np.linalg.svd(U + Y / penalty, full_matrices=False)
        W = (left * np.maximum(singular - 1.0 / penalty, 0.0)) @ right
        Y = Y + penalty * (U - W)
        primal_residual = np.linalg.norm(U - W)
        dual_residual = penalty * np.linalg.norm(W - previous)
        if n_iter % _STEPS_BETWEEN_CHECKS and n_iter < max_iter:
            continue
        spectral = np.linalg.norm((move.dual @ Z).reshape(shape), 2)
        if spectral > 0 and h @ move.dual / spectral > lower:
            lower, dual = h @ move.dual / spectral, move.dual / spectral
            certificate = pairs
        slack, token = (
            problem.margins(to_tensor(W / scale, device=problem.gaps.device).ravel())
            - problem.wanted[:, None]
        ).min(1)
        slack, token = to_numpy(slack), to_numpy(token)
        required = wanted > 0
        smallest = 1.0 + slack[required].min()
        if smallest > 0 and (slack[~required] >= -_FEASIBILITY).all():
            size = np.linalg.norm(W / smallest, "nuc")
            if size < best_norm:
                best, best_norm = W / smallest / scale, size
        gap = 1.0 - lower / best_norm
        history["gap"].append(gap)
        if gap <= tol:
            break
        violated = np.flatnonzero(slack < -_FEASIBILITY)
        new = np.stack([violated, token[violated]], 1)
        pairs = np.unique(np.concatenate([pairs, new]), axis=0)
        if primal_residual > _RESIDUAL_RATIO * dual_residual:
            penalty *= _PENALTY_STEP
        elif dual_residual > _RESIDUAL_RATIO * primal_residual:
            penalty /= _PENALTY_STEP
    if gap > tol:
        warnings.warn(
            f"The nuclear norm's relative gap is {gap:.1e} > tol={tol:g} after "
            f"{n_iter} steps. Increase max_iter or tol.",
            ConvergenceWarning,
            stacklevel=2,
        )
    used = dual > 0
    return TokenSVMSolution(
        p=best,
        support=certificate[used],
        dual=dual[used] / scale,
        margin=scale / best_norm,
        status="optimal" if gap <= tol else "stalled",
        gap=max(0.0, gap),
        n_iter=n_iter,
        history=history,
    )
