"""Solve the attention SVM, and certify it by its dual  (2306.13596, ATT-SVM).

    primal  1/2 ||p||^2 + C sum_it w_i max(0, h_i - z_it'p)^a        (hard: C = inf)
    dual    h'lam - 1/2 ||sum lam z||^2 - sum lam^2 / (4 C w)        lam >= 0
                                        (hard, hinge: no last term; hinge: lam <= C w)

Hard margin: a cutting plane. Squared hinge: Newton. Hinge: Newton inside a proximal
method of multipliers.
"""

from dataclasses import dataclass, field
from numbers import Real

import numpy as np
import torch

from .._arrays import to_numpy, to_tensor
from ._least_distance import least_distance
from ._token_svm import TokenSVM

# Constraint violations below this are met. The certified relative gap of a hard margin
# is then at most twice this.
_FEASIBILITY = 1e-10
# More new rows a round, in dimensions, would mostly be dropped in the next one.
_NEW_ROWS_PER_DIMENSION = 2
# Lawson and Hanson's p is good to this many units of rounding.
_ROUNDING = 32.0
# A round that lengthens p by less than this factor makes no progress.
_GROWTH = 1.0 + 1e-9
# A squared hinge this steep differs from the hard margin by less than rounding.
_STIFF = 1e14
# The proximal terms of the hinge loss get steeper by this factor in every round.
_STEEPER = 10.0
_MAX_ROUNDS = 14  # beyond, the proximal terms exceed what float64 can add


@dataclass(frozen=True)
class TokenSVMSolution:
    """The answer of `solve_token_svm` and `solve_key_query_svm`.

    Attributes
    ----------
    p : ndarray of shape (n_token_features,) or None
        The direction, scaled so that the smallest margin is 1; for per-sequence queries
        the matrix W of shape (n_token_features, n_query_features). None if infeasible.
    support : ndarray of shape (n_support, 2)
        The pairs (sequence, token) with a positive multiplier, the support tokens. If
        infeasible: the pairs of the certificate.
    dual : ndarray of shape (n_support,)
        Their multipliers: `p` is the sum of `dual` times the gaps of `support`. If
        infeasible: the certificate, weights for which the gaps sum to zero.
    margin : float
        1 / ||p||; infinite where p is zero, zero if infeasible.
    status : {"optimal", "infeasible", "stalled"}
        "optimal" if the gap is at most `tol`, or what the rounding of a direction of
        that length to float64 allows; "stalled" if `max_iter` or rounding came first.
        "infeasible" includes margins below 1e-11 of the length of the gaps.
    gap : float
        Certified relative gap between the primal and the dual objective, both evaluated
        at what is returned. If infeasible: the length of the combination of gaps
        that the certificate makes, relative to their root mean square.
    n_iter : int
        Rounds of the cutting plane, or Newton steps.
    history : dict of str to list
        One entry per recorded quantity, one item per iteration.

    Examples
    --------
    >>> from sklearn_attn.attention import solve_token_svm
    >>> solution = solve_token_svm([[[1.0], [0.0]], [[-1.0], [0.0]]], selected=[0, 0])
    >>> solution.status, solution.dual
    ('infeasible', array([0.5, 0.5]))
    """

    p: np.ndarray | None
    support: np.ndarray
    dual: np.ndarray
    margin: float
    status: str
    gap: float
    n_iter: int
    history: dict[str, list] = field(default_factory=dict, repr=False)

    @property
    def value(self):
        """The direction `p`, under the name that every solution has."""
        return self.p

    @property
    def converged(self):
        """Whether the answer is certified: optimal, or infeasible."""
        return self.status != "stalled"


def solve_token_svm(
    K,
    selected,
    *,
    C=np.inf,
    relaxed=None,
    mask=None,
    sample_weight=None,
    loss="squared_hinge",
    tol=1e-9,
    max_iter=1000,
):
    """Separate the selected token of every sequence from the others (ATT-SVM).

    Finds the direction of largest margin, `min ||p||` subject to
    `(k_selected - k_t)' p >= 1` for every other token t of every sequence, or its soft
    version. It is the direction that gradient descent on the attention prompt turns to
    [1]_. Nothing is learned about labels here.

    Parameters
    ----------
    K : array-like or tensor of shape (n_samples, n_tokens, n_token_features)
        The keys. A tensor is worked on where it lies; the arithmetic is float64.
    selected : array-like of int of shape (n_samples,)
        Index of the selected token in each sequence.
    C : float, default=inf
        Penalty of the soft margin per pair, as in
        :class:`~sklearn.svm.LinearSVC`; infinite asks for the hard margin.
    relaxed : array-like of bool of shape (n_samples,), default=None
        Sequences that need a margin of 0 instead of 1. None relaxes none.
    mask : array-like of bool of shape (n_samples, n_tokens), default=None
        True where there is a token, False for padding. None means no padding.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sequence in the soft margin. None means 1. The hard margin only
        distinguishes zero from positive.
    loss : {"squared_hinge", "hinge"}, default="squared_hinge"
        Penalty of the soft margin.
    tol : float, default=1e-9
        The relative gap at which a solution is called optimal.
    max_iter : int, default=1000
        Limit of rounds (hard margin) or Newton steps (soft margin).

    Returns
    -------
    TokenSVMSolution
        Direction `p`, multipliers `dual` of the pairs `support`, `margin`, `status` and
        certified relative `gap`. An infeasible hard margin has `p=None` and a
        certificate, never a vector.

    Raises
    ------
    ValueError
        If shapes do not fit, a selected index is out of range or padding, `C` or a
        weight is negative, or `loss` is unknown.

    Notes
    -----
    Hard margin: a cutting plane over the most violated token of each sequence; each
    reduced problem is one nonnegative least-squares problem (Lawson and Hanson). Soft
    margin: Newton with exact line search, for the hinge inside a proximal method of
    multipliers. One copy of the keys is made, for the gaps between them.

    References
    ----------
    .. [1] Tarzanagh, Li, Zhang and Oymak, "Max-Margin Token Selection in Attention
           Mechanism", arXiv:2306.13596.

    Examples
    --------
    >>> from sklearn_attn.attention import solve_token_svm
    >>> K = [[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]]]
    >>> solution = solve_token_svm(K, selected=[0])
    >>> solution.p.round(4), solution.status
    (array([-0.099 ,  0.9901]), 'optimal')
    """
    problem = TokenSVM.from_keys(
        K, selected, relaxed=relaxed, mask=mask, sample_weight=sample_weight
    )
    return solve_problem(problem, C=C, loss=loss, tol=tol, max_iter=max_iter)


def solve_problem(problem, *, C, loss, tol, max_iter):
    """Solve the hard or the soft margin of a `TokenSVM`."""
    if not (isinstance(C, Real) and C > 0):
        raise ValueError(f"C must be positive, or inf for the hard margin; got {C!r}.")
    if loss not in ("squared_hinge", "hinge"):
        raise ValueError(f"loss must be 'squared_hinge' or 'hinge'; got {loss!r}.")
    if not max_iter >= 1:
        raise ValueError(f"max_iter must be at least 1; got {max_iter!r}.")
    if not (problem.constrained & (problem.wanted > 0)[:, None]).any():
        return _answer(problem, problem.gaps.new_zeros(problem.n_unknowns))
    if np.isinf(C):
        return _hard_margin(problem, tol, max_iter)
    weight = C * problem.weight[:, None] * problem.constrained  # (n, T)
    stiffness = weight[problem.constrained].min().item() * problem.scale**2
    if stiffness >= (_STIFF if loss == "squared_hinge" else 1.0):
        hard = _hard_margin(problem, tol, max_iter)
        if hard.status == "optimal" and (
            loss == "squared_hinge" or hard.dual.max() <= weight.max().item()
        ):
            return hard  # the slack it would save is less than rounding, or nothing
    return _soft_margin(problem, weight, loss, tol, max_iter)


def _hard_margin(problem, tol, max_iter):
    """Cutting plane: the most violated pair of each sequence joins the working set."""
    gaps, wanted, scale = problem.gaps, problem.wanted, problem.scale
    # what the rounding of p alone makes of a margin, per unit of ||p||
    rounding = _ROUNDING * torch.finfo(gaps.dtype).eps * problem.lengths
    slack_needed = wanted[:, None] - _FEASIBILITY
    T = gaps.shape[1]
    p = gaps.new_zeros(problem.n_unknowns)
    working = np.zeros(0, dtype=int)  # pairs (i, t) as numbers i T + t
    multipliers, unit, longest = np.zeros(0), 1.0, 0.0
    history = {"norm": [], "violation": []}
    for n_iter in range(max_iter):
        short = slack_needed - problem.margins(p) - rounding * p.norm()
        short, token = map(to_numpy, short.max(1))
        history["norm"].append(p.norm().item())
        history["violation"].append(max(0.0, short.max()))
        worst = short.argsort()[::-1][: _NEW_ROWS_PER_DIMENSION * problem.n_unknowns]
        worst = worst[short[worst] > 0]
        grown = np.union1d(working, worst * T + token[worst])
        if len(grown) == len(working):  # nothing violated, or nothing but rounding left
            break
        pairs = to_tensor(np.stack(np.divmod(grown, T)), device=gaps.device)
        Z = to_numpy(problem.rows(*pairs)) / scale
        found = least_distance(Z, to_numpy(wanted[pairs[0]]), unit=unit)
        if found.p is None:
            return _infeasible(pairs.T, Z, found.dual, n_iter + 1, history)
        norm = np.linalg.norm(found.p)
        # Rows without a multiplier are dropped for as long as ||p|| grows, as in exact
        # arithmetic it always does; after that they would come and go for ever.
        kept = found.dual > 0 if norm > _GROWTH * longest else found.dual >= 0
        unit, longest = max(1.0, norm), max(longest, norm)
        working, multipliers = grown[kept], found.dual[kept]
        p = to_tensor(found.p / scale, device=gaps.device)
    lam = torch.zeros_like(gaps[..., 0])
    i, t = to_tensor(np.stack(np.divmod(working, T)), device=gaps.device)
    lam[i, t] = to_tensor(multipliers / scale**2, device=gaps.device)
    margins = problem.margins(p)
    smallest = margins[wanted > 0].min()
    in_order = (margins + rounding * p.norm() >= -_FEASIBILITY).all()
    if smallest <= 0 or not in_order:  # not feasible: no primal value to certify
        return _answer(problem, p, lam, np.inf, tol, n_iter, history)
    p = p / smallest
    # The dual value of the best multiple of lam is (h'lam)^2 / (2 ||sum lam z||^2).
    bound = (wanted[:, None] * lam).sum() / problem.combine(lam).norm()
    gap = max(0.0, 1.0 - (bound / p.norm()).item() ** 2)
    attainable = max(tol, 2.0 * (rounding.max() * p.norm()).item())
    return _answer(problem, p, lam, gap, attainable, n_iter, history)


def _soft_margin(problem, weight, loss, tol, max_iter):
    """Squared hinge: one Newton solve. Hinge: a few, in a method of multipliers."""
    wanted = problem.wanted[:, None]
    hinge = loss == "hinge"
    p = problem.gaps.new_zeros(problem.n_unknowns)
    lam = torch.zeros_like(weight)
    cap = weight if hinge else torch.full_like(weight, torch.inf)
    steepness = problem.constrained / problem.scale**2 if hinge else 2.0 * weight
    n_iter, history = 0, {"gap": []}
    while n_iter < max_iter:
        offset = lam if hinge else torch.zeros_like(lam)
        p, steps = _newton(problem, p, offset, steepness, cap, max_iter - n_iter)
        n_iter += steps
        lam = _multipliers(problem, p, offset, steepness, cap)
        short = (wanted - problem.margins(p)).clamp(min=0)
        if hinge:
            penalty, conjugate = (weight * short).sum(), 0.0
        else:
            penalty = (weight * short**2).sum()
            conjugate = (lam * short).sum() / 2  # lam^2 / (4 C w), lam = 2 C w short
        primal = p.square().sum() / 2 + penalty
        dual = (wanted * lam).sum() - conjugate
        dual = dual - problem.combine(lam).square().sum() / 2
        gap = max(0.0, ((primal - dual) / primal).item())
        history["gap"].append(gap)
        if gap <= tol or not hinge or len(history["gap"]) == _MAX_ROUNDS:
            break
        steepness = _STEEPER * steepness
    return _answer(problem, p, lam, gap, tol, n_iter, history)


def _multipliers(problem, p, offset, steepness, cap):
    """Return the slopes of the penalties, lam = clip(lam0 + s (h - z'p), 0, cap)."""
    short = problem.wanted[:, None] - problem.margins(p)
    short = short.masked_fill(~problem.constrained, 0.0)
    return torch.minimum((offset + steepness * short).clamp(min=0), cap)


def _newton(problem, p, offset, steepness, cap, max_iter):
    """Minimise 1/2 ||p||^2 + sum of penalties with slopes `_multipliers`: piecewise
    quadratic, so that Newton with an exact line search ends after finitely many steps.
    """
    for n_iter in range(1, max_iter + 1):  # noqa: B007
        lam = _multipliers(problem, p, offset, steepness, cap)
        gradient = p - problem.combine(lam)
        step = _newton_step(problem, gradient, steepness * ((lam > 0) & (lam < cap)))
        promised = -(gradient @ step)  # twice the decrease that the quadratic piece has
        if not promised > 0:
            break
        before, p = p, p + _exact_step(problem, p, step, offset, steepness, cap) * step
        if torch.equal(p, before):
            break  # only rounding is left, and each further step would be this one
        if promised <= torch.finfo(p.dtype).eps * (p @ p):
            break  # the last piece was reached one step ago, and this step solved it
    return p, n_iter


def _newton_step(problem, gradient, curvature):
    """Solve (I + sum_it c_it z_it z_it') step = -gradient."""
    H = problem.curvature(curvature)
    H.diagonal().add_(1.0)
    factor, failed = torch.linalg.cholesky_ex(H)
    if failed:  # penalties so steep that I is lost in rounding: no squares, then
        i, t = curvature.nonzero(as_tuple=True)
        rows = curvature[i, t].sqrt()[:, None] * problem.rows(i, t)
        identity = torch.eye(len(H), dtype=H.dtype, device=H.device)
        factor = torch.linalg.qr(torch.cat([identity, rows]), mode="r").R.T
    half = torch.linalg.solve_triangular(factor, -gradient[:, None], upper=False)
    return torch.linalg.solve_triangular(factor.T, half, upper=True)[:, 0]


def _exact_step(problem, p, step, offset, steepness, cap):
    """Find the zero of the piecewise linear, increasing slope along `step`."""
    short = (problem.wanted[:, None] - problem.margins(p)).masked_fill(
        ~problem.constrained, 0.0
    )
    fall = problem.margins(step).masked_fill(~problem.constrained, 0.0)
    low, high, tau = 0.0, np.inf, 1.0
    p_step, step_step = (p @ step).item(), (step @ step).item()
    for _ in range(100):  # bisection alone would end in 60
        raw = offset + steepness * (short - tau * fall)
        lam = torch.minimum(raw.clamp(min=0), cap)
        slope = p_step + tau * step_step - (lam * fall).sum().item()
        if slope > 0:
            high = tau
        else:
            low = tau
        curved = (raw > 0) & (raw < cap)
        bend = step_step + (steepness * curved * fall**2).sum().item()
        newton = tau - slope / bend  # the step is not zero, so bend is positive
        if abs(newton - tau) <= 1e-15 * tau:
            break
        inside = low < newton < high
        tau = newton if inside else (low + high) / 2 if np.isfinite(high) else 2 * tau
    return tau


def _answer(problem, p, lam=None, gap=0.0, tol=0.0, n_iter=0, history=None):
    """Collect what a solver found."""
    lam = torch.zeros_like(problem.gaps[..., 0]) if lam is None else lam
    support = lam.nonzero()
    norm = p.norm().item()
    shape = () if problem.queries is None else (-1, problem.queries.shape[1])
    return TokenSVMSolution(
        p=to_numpy(p.reshape(shape) if shape else p),
        support=to_numpy(support),
        dual=to_numpy(lam[support[:, 0], support[:, 1]]),
        margin=1.0 / norm if norm > 0 else np.inf,
        status="optimal" if gap <= tol else "stalled",
        gap=gap,
        n_iter=n_iter,
        history=history or {},
    )


def _infeasible(pairs, Z, weights, n_iter, history):
    """Report the convex combination of gaps that is zero: no p separates them."""
    used = weights > 0
    return TokenSVMSolution(
        p=None,
        support=to_numpy(pairs[to_tensor(used, device=pairs.device)]),
        dual=weights[used],
        margin=0.0,
        status="infeasible",
        gap=float(np.linalg.norm(weights @ Z)),
        n_iter=n_iter,
        history=history,
    )
