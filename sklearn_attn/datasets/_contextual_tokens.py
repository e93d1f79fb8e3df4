"""The contextual data model of prompt-attention  (2306.03435).

x_t = q_* + y w_*                              relevant tokens, a fraction zeta
x_t = -delta_q q_* - delta_w y w_* + z_t       the others,  z_t ~ N(0, sigma^2 I)
"""

import numpy as np
from sklearn.utils import check_random_state


def make_contextual_tokens(
    n_samples=200,
    n_tokens=20,
    n_token_features=50,
    *,
    relevant_fraction=0.25,
    context_norm=2.0,
    head_norm=1.0,
    rho=0.0,
    noise=1.0,
    delta=((0.0, 0.0, 1.0),),
    positive_fraction=0.5,
    regression=False,
    random_state=None,
    return_relevant=False,
):
    """Generate sequences in which a context vector marks the tokens that matter.

    Relevant tokens are the sum of a context vector q, the same in all sequences, and a
    head vector w times the label. The other tokens are noise, and may show both vectors
    with the wrong sign. The *core* model has `delta` zero, the *discrete* model `noise`
    zero.

    Parameters
    ----------
    n_samples : int, default=200
        Number of sequences.
    n_tokens : int, default=20
        Tokens per sequence.
    n_token_features : int, default=50
        Features per token, at least 2.
    relevant_fraction : float, default=0.25
        Fraction of the tokens that are relevant; their number is rounded, and at least
        1. Their positions are random.
    context_norm : float, default=2.0
        Length of q, which points along the first feature.
    head_norm : float, default=1.0
        Length of w, which lies in the plane of the first two features.
    rho : float, default=0.0
        Cosine of the angle between q and w, between -1 and 1.
    noise : float, default=1.0
        Standard deviation of every feature of the other tokens.
    delta : sequence of (delta_q, delta_w, weight), default=((0.0, 0.0, 1.0),)
        The other tokens of a sequence have the mean ``-delta_q q - delta_w y w``. For
        each sequence one entry is drawn, with probability proportional to its weight.
    positive_fraction : float, default=0.5
        Probability of the label +1.
    regression : bool, default=False
        Whether y is a standard normal number instead of a label.
    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.
    return_relevant : bool, default=False
        Whether to return the positions of the relevant tokens too.

    Returns
    -------
    X : ndarray of shape (n_samples, n_tokens, n_token_features)
        The sequences.
    y : ndarray of shape (n_samples,)
        Labels -1 and +1, or numbers.
    relevant : ndarray of bool of shape (n_samples, n_tokens)
        Which tokens are relevant. Only with `return_relevant=True`.

    Raises
    ------
    ValueError
        If a fraction, a length or `rho` is out of range, or `delta` has another form.

    References
    ----------
    .. [1] Oymak, Rawat, Soltanolkotabi and Thrampoulidis, "On the Role of Attention in
           Prompt-tuning", arXiv:2306.03435.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_contextual_tokens
    >>> X, y, relevant = make_contextual_tokens(
    ...     n_samples=6, n_tokens=8, random_state=0, return_relevant=True)
    >>> X.shape, relevant.sum(axis=1)
    ((6, 8, 50), array([2, 2, 2, 2, 2, 2]))
    """
    delta = np.atleast_2d(np.asarray(delta, dtype=float))
    if delta.ndim != 2 or delta.shape[1] != 3 or not np.isfinite(delta).all():
        raise ValueError(
            f"delta must hold triples (delta_q, delta_w, weight); got {delta.tolist()}."
        )
    if (delta[:, [0, 2]] < 0).any() or not delta[:, 2].any():
        raise ValueError(
            "Every delta_q and weight must be 0 or more, and one weight positive; got "
            f"delta={delta.tolist()}."
        )
    requirements = {
        "n_samples": (n_samples, n_samples >= 1, "at least 1"),
        "n_tokens": (n_tokens, n_tokens >= 1, "at least 1"),
        "n_token_features": (n_token_features, n_token_features >= 2, "at least 2"),
        "relevant_fraction": (
            relevant_fraction,
            0 < relevant_fraction <= 1,
            "above 0 and at most 1",
        ),
        "context_norm": (context_norm, context_norm >= 0, "0 or more"),
        "head_norm": (head_norm, head_norm >= 0, "0 or more"),
        "rho": (rho, -1 <= rho <= 1, "between -1 and 1"),
        "noise": (noise, noise >= 0, "0 or more"),
        "positive_fraction": (
            positive_fraction,
            0 < positive_fraction < 1,
            "between 0 and 1",
        ),
    }
    for name, (value, is_met, wanted) in requirements.items():
        if not is_met:
            raise ValueError(f"{name} must be {wanted}; got {value!r}.")
    rng = check_random_state(random_state)
    q, w = np.zeros((2, n_token_features))
    q[0] = context_norm
    w[:2] = head_norm * rho, head_norm * np.sqrt(1 - rho**2)
    if regression:
        y = rng.standard_normal(n_samples)
    else:
        y = np.where(rng.random_sample(n_samples) < positive_fraction, 1, -1)
    kind = rng.choice(len(delta), size=n_samples, p=delta[:, 2] / delta[:, 2].sum())
    delta_q, delta_w, _ = delta[kind].T
    X = noise * rng.standard_normal((n_samples, n_tokens, n_token_features))
    X -= (np.outer(delta_q, q) + np.outer(delta_w * y, w))[:, None]
    n_relevant = max(1, round(relevant_fraction * n_tokens))
    positions = rng.random_sample((n_samples, n_tokens)).argsort(axis=1)[:, :n_relevant]
    relevant = np.zeros((n_samples, n_tokens), dtype=bool)
    np.put_along_axis(relevant, positions, True, axis=1)
    X[relevant] = np.repeat(q + np.outer(y, w), n_relevant, axis=0)
    return (X, y, relevant) if return_relevant else (X, y)
