"""What prompt-attention can do, in the contextual data model  (2306.03435).

    x_t = q_* + y w_*                              a fraction zeta of T tokens
    x_t = -delta_q q_* - delta_w y w_* + z_t       the others,  z_t ~ N(0, sigma^2 I)

with Q = ||q_*||, W = ||w_*|| and rho the cosine of their angle. All is derived from the
model itself; the contextual error has no fitted constant.
"""

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit, ndtr
from sklearn.utils import check_random_state

# Where the logits of the self-attention bound are looked at, before refinement.
_LOGITS = np.linspace(-60.0, 60.0, 4001)


def _require(**requirements):
    """Raise for the first argument that is out of range: name=(value, met, wanted)."""
    for name, (value, is_met, wanted) in requirements.items():
        if not is_met:
            raise ValueError(f"{name} must be {wanted}; got {value!r}.")


def _check_model(zeta, Q, rho, sigma=1.0):
    _require(
        zeta=(zeta, 0 < zeta < 1, "between 0 and 1"),
        Q=(Q, Q >= 0, "0 or more"),
        rho=(rho, -1 <= rho <= 1, "between -1 and 1"),
        sigma=(sigma, sigma > 0, "positive"),
    )


def optimal_prompt_scale(Q, *, rho=0.0, sigma=1.0):
    """Return the length of the prompt that separates long sequences best.

    Parameters
    ----------
    Q : float
        Length of the context vector q_*.
    rho : float, default=0.0
        Cosine of the angle between context and head vector.
    sigma : float, default=1.0
        Standard deviation of the features of irrelevant tokens.

    Returns
    -------
    float
        ``Q sqrt(1 - rho^2) / (2 sigma^2)``, not infinity: a longer prompt picks single
        tokens by their noise.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [1] The contextual data model of Oymak et al., arXiv:2306.03435.

    Examples
    --------
    >>> from sklearn_attn.attention import optimal_prompt_scale
    >>> optimal_prompt_scale(2.0)
    1.0
    """
    _check_model(0.5, Q, rho, sigma)
    return float(Q * np.sqrt(1.0 - rho**2) / (2.0 * sigma**2))


def prompt_attention_error(
    zeta,
    T,
    Q,
    W,
    kappa=None,
    alpha=np.inf,
    head="mean",
    *,
    rho=0.0,
    sigma=1.0,
    finite_T=True,
    n_features=None,
    n_draws=20_000,
    random_state=0,
):
    """Return the test error of a head that is learned under a known prompt.

    The prompt is kappa times the unit vector along the part of q_* across w_*; labels
    are balanced, irrelevant tokens are pure noise, and there is an intercept.

    Parameters
    ----------
    zeta : float
        Fraction of relevant tokens.
    T : int
        Number of tokens.
    Q, W : float
        Lengths of the context vector and the head vector.
    kappa : float, default=None
        Length of the prompt; 0 is the linear model on mean tokens. None takes
        :func:`optimal_prompt_scale`.
    alpha : float, default=inf
        Number of samples over number of features, both large.
    head : {"mean", "least-squares", "best"}, default="mean"
        The difference of the class means; least squares, of minimum norm below
        `alpha` = 1; or the best head along w_*, whatever `alpha`.
    rho : float, default=0.0
        Cosine of the angle between q_* and w_*.
    sigma : float, default=1.0
        Standard deviation of the features of irrelevant tokens.
    finite_T : bool, default=True
        Whether to average over the attention that T tokens draw. Otherwise the closed
        form for T to infinity is used, which is good for
        ``2 kappa sigma < sqrt(2 log T)`` only.
    n_features : int, default=None
        Number of features d. Given, ``(d - 2) / n`` stands for ``1 / alpha`` in the
        mean head with finite T, which is more exact for small d.
    n_draws : int, default=20000
        Number of draws for finite T; the result has a standard error below
        ``0.5 / sqrt(n_draws)``.
    random_state : int, RandomState instance or None, default=0
        Seed of these draws.

    Returns
    -------
    float
        Probability of a wrong label.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    With S the ratio of signal to noise in the pooled token along w_*, which for T to
    infinity is ``W / sigma zeta sqrt(T / (1 - zeta)) exp(kappa Q' - kappa^2 sigma^2)``
    with ``Q' = Q sqrt(1 - rho^2)``, the error is ``P(N(0, 1) > c S)``. Here c is 1 for
    the best head, ``1 / sqrt(1 + 1 / (alpha S^2))`` for the mean, and that times
    ``sqrt(1 - min(alpha, 1 / alpha))`` for least squares, which is no better than
    chance at `alpha` = 1.

    References
    ----------
    .. [1] The contextual data model of Oymak et al., arXiv:2306.03435.

    Examples
    --------
    >>> from sklearn_attn.attention import prompt_attention_error
    >>> with_prompt = prompt_attention_error(0.1, 50, 2.0, 1.0)
    >>> without = prompt_attention_error(0.1, 50, 2.0, 1.0, kappa=0.0)
    >>> print(f"{with_prompt:.2f} {without:.2f}")
    0.02 0.23
    """
    _check_model(zeta, Q, rho, sigma)
    kappa = optimal_prompt_scale(Q, rho=rho, sigma=sigma) if kappa is None else kappa
    n_relevant = max(1, round(zeta * T))
    _require(
        T=(T, T >= 2 and n_relevant < T, "2 or more, with a token that is irrelevant"),
        W=(W, W > 0, "positive"),
        kappa=(kappa, np.isfinite(kappa), "finite"),
        alpha=(alpha, alpha > 0, "positive"),
        head=(
            head,
            head in ("mean", "least-squares", "best"),
            "'mean', 'least-squares' or 'best'",
        ),
        n_draws=(n_draws, n_draws >= 1, "1 or more"),
    )
    across = Q * np.sqrt(1.0 - rho**2)
    if not finite_T:
        S = W / sigma * zeta * np.sqrt(T / (1.0 - zeta))
        S *= np.exp(kappa * across - (kappa * sigma) ** 2)
        return float(ndtr(-S * _shrinkage(S, alpha, head, None)))
    rng = check_random_state(random_state)
    logits = kappa * sigma * rng.standard_normal((n_draws, T - n_relevant))
    top = np.maximum(logits.max(axis=1), kappa * across)  # against overflow
    others = np.exp(logits - top[:, None])
    relevant = n_relevant * np.exp(kappa * across - top)
    total = relevant + others.sum(axis=1)
    signal = relevant / total  # p_R
    noise = sigma * np.sqrt((others**2).sum(axis=1)) / total
    S = W * signal.mean() / np.sqrt((noise**2).mean())
    noise = noise / max(_shrinkage(S, alpha, head, n_features), np.finfo(float).tiny)

    def error(b):
        wrong_positive = ndtr((b - signal * (rho * Q + W)) / noise)
        wrong_negative = ndtr((signal * (rho * Q - W) - b) / noise)
        return (wrong_positive + wrong_negative).mean() / 2.0

    if rho == 0:
        return float(error(0.0))
    reach = abs(rho) * Q + W
    best = minimize_scalar(error, bounds=(-reach, reach), method="bounded")
    return float(best.fun)


def _shrinkage(S, alpha, head, n_features):
    """Return by how much a head learned from few samples is worse than the best."""
    if head == "best" or np.isinf(alpha):
        return 1.0
    per_sample = 1.0 / alpha
    if head == "mean":
        if n_features is not None:
            per_sample *= (n_features - 2) / n_features
        return 1.0 / np.sqrt(1.0 + per_sample / S**2)
    lost = 1.0 - min(alpha, 1.0 / alpha)
    return np.sqrt(lost) / np.sqrt(1.0 + per_sample / S**2)


def critical_delta(zeta):
    """Return the distraction from which self-attention is no better than chance.

    In the discrete model where the irrelevant tokens of a sequence are zero, or D times
    the relevant ones with the wrong sign, both equally likely, pooled self-attention
    without intercept is right for exactly half of the sequences if D exceeds the
    result, and can be right for all below it.

    Parameters
    ----------
    zeta : float or array-like
        Fraction of relevant tokens, between 0 and 1.

    Returns
    -------
    float or ndarray
        The critical D.

    Raises
    ------
    ValueError
        If zeta is not between 0 and 1.

    Notes
    -----
    A sequence with distraction has ``f = (u'x) [(1 + D) m(s) - D]``, with ``s = x'A x``
    and m the mean attention on relevant tokens; both kinds of sequences are classified
    rightly only if m exceeds ``D / (1 + D)`` for some s.

    References
    ----------
    .. [1] The contextual data model of Oymak et al., arXiv:2306.03435.

    Examples
    --------
    >>> from sklearn_attn.attention import critical_delta
    >>> critical_delta([0.25, 0.5]).round(2)
    array([3.11, 1.  ])
    """
    zetas = np.asarray(zeta, dtype=float)
    if not ((zetas > 0) & (zetas < 1)).all():
        raise ValueError(f"zeta must be between 0 and 1; got {zeta!r}.")
    critical = np.array([_critical_delta(z) for z in zetas.ravel()])
    return critical.reshape(zetas.shape) if zetas.ndim else float(critical[0])


def _critical_delta(zeta):
    small = min(zeta, 1.0 - zeta)
    lower = (1.0 - small) / small  # what single tokens reach as logits grow
    upper = 1.0 / ((1.0 - zeta) * small) - 1.0  # sufficient

    def excess(D):
        return _largest_mean_attention(zeta, D) - D / (1.0 + D)

    if excess(lower) <= 0 or lower >= upper:
        return lower
    return brentq(excess, lower, upper, xtol=1e-12)


def _largest_mean_attention(zeta, D):
    """Return sup_x zeta expit(x + l) + (1 - zeta) expit(-D x + l), l = logit(zeta)."""

    def minus_m(x):
        l0 = logit(zeta)
        return -zeta * expit(x + l0) - (1.0 - zeta) * expit(-D * x + l0)

    x = _LOGITS[np.argmin(minus_m(_LOGITS))]
    width = _LOGITS[1] - _LOGITS[0]
    best = minimize_scalar(
        minus_m,
        bounds=(x - width, x + width),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return max(-best.fun, zeta, 1.0 - zeta)


def separating_prompt_scale(zeta, Q, *, delta_q, delta_w, rho=0.0):
    """Return the length from which a prompt solves the discrete model.

    Parameters
    ----------
    zeta : float
        Fraction of relevant tokens.
    Q : float
        Length of the context vector q_*.
    delta_q, delta_w : float
        Irrelevant tokens are ``-delta_q q_* - delta_w y w_*``.
    rho : float, default=0.0
        Cosine of the angle between context and head vector, between -1 and 1 without
        these.

    Returns
    -------
    float
        The length kappa: every longer prompt along the part of q_* across w_*, with a
        head along the part of w_* across q_*, is right for all such sequences. Zero
        where any length is.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Right means ``zeta exp(kappa Q' (1 + delta_q)) > (1 - zeta) delta_w`` with
    ``Q' = Q sqrt(1 - rho^2)``.

    References
    ----------
    .. [1] The contextual data model of Oymak et al., arXiv:2306.03435.

    Examples
    --------
    >>> from sklearn_attn.attention import separating_prompt_scale
    >>> print(f"{separating_prompt_scale(0.4, 2.0, delta_q=4.0, delta_w=4.0):.3f}")
    0.179
    """
    _check_model(zeta, Q, rho)
    _require(
        Q=(Q, Q > 0, "positive"),
        rho=(rho, abs(rho) < 1, "between -1 and 1, without these"),
        delta_q=(delta_q, delta_q >= 0, "0 or more"),
    )
    misled = delta_w * (1.0 - zeta) / zeta
    if misled <= 1:
        return 0.0
    return float(np.log(misled) / (Q * np.sqrt(1.0 - rho**2) * (1.0 + delta_q)))


def three_step_alignment(n_samples, n_features, *, zeta, T, Q, W):
    """Return how well the three steps find head and prompt.

    For balanced labels, rho = 0 and noise of variance 1, with samples of its own for
    each step.

    Parameters
    ----------
    n_samples : int
        Number of samples that each step sees.
    n_features : int
        Number of features of a token.
    zeta : float
        Fraction of relevant tokens.
    T : int
        Number of tokens.
    Q, W : float
        Lengths of the context vector and the head vector.

    Returns
    -------
    cos_head : float
        Cosine of the angle between the first head and w_*.
    cos_prompt : float
        Cosine of the angle between the prompt and q_*.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Both depend on n_samples / n_features only:

        cos_head = 1 / sqrt(1 + (1 - zeta) d / (zeta^2 W^2 T n))
        cos_prompt = s / sqrt(s^2 + N),    s = zeta (1 - zeta) W^2 Q,
        N = (d / n) ((1 - zeta) / T) (V + zeta^2 W^4 + (1 - zeta) V / T),
        V = W^2 / cos_head^2

    References
    ----------
    .. [1] The contextual data model of Oymak et al., arXiv:2306.03435.

    Examples
    --------
    >>> from sklearn_attn.attention import three_step_alignment
    >>> head, prompt = three_step_alignment(200, 50, zeta=0.1, T=50, Q=2.0, W=1.0)
    >>> print(f"{head:.2f} {prompt:.2f}")
    0.83 0.91
    """
    _check_model(zeta, Q, 0.0)
    _require(
        n_samples=(n_samples, n_samples > 0, "positive"),
        n_features=(n_features, n_features > 0, "positive"),
        T=(T, T >= 1, "1 or more"),
        W=(W, W > 0, "positive"),
    )
    ratio = n_features / n_samples
    cos_head = 1.0 / np.sqrt(1.0 + (1.0 - zeta) * ratio / (zeta**2 * W**2 * T))
    s = zeta * (1.0 - zeta) * W**2 * Q
    V = W**2 / cos_head**2
    N = ratio * (1.0 - zeta) / T * (V + zeta**2 * W**4 + (1.0 - zeta) * V / T)
    return float(cos_head), float(s / np.sqrt(s**2 + N))
