"""b = (X'X + sigma^2 Sigma^{-1})^{-1} X'y,  p(y) = N(0, X Sigma X' + sigma^2 I).

The exact predictors that a trained in-context model is judged by (2301.07067): least
squares and Bayes for tasks y = X w + sigma e with w ~ N(0, Sigma), mixtures of such
tasks, and, for y_t = C x_t with x_{t+1} = A x_t + w_t, windows and the Kalman filter.

All goes by one factorisation: with Sigma = R R' and X R = U diag(s) V',
b = R V diag(s / (s^2 + sigma^2)) U'y. It never squares the condition number, is small
in both the kernel (k x k) and the feature (d x d) sense, and takes sigma to 0.
"""

import math

import torch


def minimum_norm(X, y, X_query):
    """Predict by the least-squares solution of minimum norm.

    It is Bayes for noiseless tasks with w ~ N(0, I). Singular values below
    max(k, d) times the machine precision times the largest one count as 0.

    Parameters
    ----------
    X : tensor of shape (n_tasks, n_examples, n_features)
        Inputs of the examples; there may be none.
    y : tensor of shape (n_tasks, n_examples)
        Labels of the examples.
    X_query : tensor of shape (n_tasks, n_queries, n_features)
        Where to predict.

    Returns
    -------
    mean : tensor of shape (n_tasks, n_queries)
        The predictions; 0 without examples.

    References
    ----------
    arXiv 2301.07067, Figure 2.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import minimum_norm
    >>> minimum_norm(torch.tensor([[[1.0, 1.0]]]), torch.ones(1, 1), torch.eye(2)[None])
    tensor([[0.5000, 0.5000]])
    """
    return ridge(X, y, X_query, noise=0.0)


def ridge(X, y, X_query, *, noise, return_std=False):
    """Predict by ridge regression, which is Bayes for w ~ N(0, I) and Gaussian noise.

    Parameters
    ----------
    X : tensor of shape (n_tasks, n_examples, n_features)
        Inputs of the examples; there may be none.
    y : tensor of shape (n_tasks, n_examples)
        Labels of the examples.
    X_query : tensor of shape (n_tasks, n_queries, n_features)
        Where to predict.
    noise : float or tensor of shape (n_tasks,)
        Standard deviation of the noise; its square is the penalty. At 0, the minimum
        norm.
    return_std : bool, default=False
        Whether to return the standard deviation too.

    Returns
    -------
    mean : tensor of shape (n_tasks, n_queries)
        The predictions.
    std : tensor of shape (n_tasks, n_queries)
        Standard deviation of a new label, its noise included; if `return_std`.

    References
    ----------
    arXiv 2301.07067, Figure 2a.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import ridge
    >>> X, y, X_query = torch.ones(1, 1, 1), torch.ones(1, 1), torch.ones(1, 1, 1)
    >>> mean, std = ridge(X, y, X_query, noise=1.0, return_std=True)
    >>> mean, std ** 2
    (tensor([[0.5000]]), tensor([[1.5000]]))
    """
    ones = X.new_ones(X.shape[-1])
    return weighted_ridge(
        X, y, X_query, weight_cov=ones, noise=noise, return_std=return_std
    )


def weighted_ridge(X, y, X_query, *, weight_cov, noise, return_std=False):
    """Predict by weighted ridge regression, which is Bayes for w ~ N(0, Sigma).

    Parameters
    ----------
    X : tensor of shape (n_tasks, n_examples, n_features)
        Inputs of the examples; there may be none.
    y : tensor of shape (n_tasks, n_examples)
        Labels of the examples.
    X_query : tensor of shape (n_tasks, n_queries, n_features)
        Where to predict.
    weight_cov : tensor of shape (d,), (d, d) or (n_tasks, d, d), d = n_features
        Covariance of w, or its diagonal. It may be singular.
    noise : float or tensor of shape (n_tasks,)
        Standard deviation of the noise. At 0, w is conditioned on y = X w exactly.
    return_std : bool, default=False
        Whether to return the standard deviation too.

    Returns
    -------
    mean : tensor of shape (n_tasks, n_queries)
        The predictions.
    std : tensor of shape (n_tasks, n_queries)
        Standard deviation of a new label, its noise included; if `return_std`. Its
        square is sigma^2 (1 + x'(X'X + sigma^2 Sigma^{-1})^{-1} x), or the limit.

    References
    ----------
    arXiv 2301.07067, Figure 2b.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import weighted_ridge
    >>> X, y, X_query = torch.ones(1, 1, 2), torch.ones(1, 1), torch.eye(2)[None]
    >>> weight_cov = torch.tensor([3.0, 1.0])
    >>> weighted_ridge(X, y, X_query, weight_cov=weight_cov, noise=0.0)
    tensor([[0.7500, 0.2500]])
    """
    R = _root(X, weight_cov)
    mean, variance = _predict(
        *_svd(X @ R), y[..., None], X_query @ R, _per_task(X, noise)
    )
    return (mean[..., 0], variance.sqrt()) if return_std else mean[..., 0]


def log_evidence(X, y, *, weight_cov, noise):
    """Return how likely labels are: log N(y; 0, X Sigma X' + sigma^2 I).

    Without noise, labels fill the range of X Sigma X' only. Where that is not all, the
    density is with respect to volume in the range, and 0 outside of it. A y is in the
    range if its distance from it is at most the root of the machine precision times
    its norm (1.5e-8 in double precision), so y should be computed in the precision of
    X.

    Parameters
    ----------
    X : tensor of shape (n_tasks, n_examples, n_features)
        Inputs of the examples; there may be none.
    y : tensor of shape (n_tasks, n_examples)
        Labels of the examples.
    weight_cov : tensor of shape (d,), (d, d) or (n_tasks, d, d), d = n_features
        Covariance of w, or its diagonal. It may be singular.
    noise : float or tensor of shape (n_tasks,)
        Standard deviation of the noise.

    Returns
    -------
    log_density : tensor of shape (n_tasks,)
        Natural logarithm of the density.

    References
    ----------
    arXiv 2301.07067, Section 6, selects among algorithms; the closed form is Bayes'.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import log_evidence
    >>> X, y = torch.ones(1, 1, 1), torch.zeros(1, 1)
    >>> log_evidence(X, y, weight_cov=torch.ones(1), noise=1.0)  # -log(4 pi) / 2
    tensor([-1.2655])
    """
    U, s, _ = _svd(X @ _root(X, weight_cov))
    log_density, _, outside = _evidence(U, s, y, _per_task(X, noise))
    return log_density.where(outside <= _range_tolerance(y), -torch.inf)


def mixture_of_ridges(
    X,
    y,
    X_query,
    *,
    weight_covs,
    noises,
    probabilities,
    return_std=False,
    return_posterior=False,
):
    """Predict by Bayes for tasks from one of several kinds, which is not told.

    A task is of kind h with probability p_h; then w ~ N(0, Sigma_h), and the noise has
    the standard deviation sigma_h. The mean is that of the weighted ridge regressions
    under the posterior of h, which the exact evidence gives.

    Kinds without noise whose labels fill a subspace only, see `log_evidence`, have
    posterior 0 where y is outside of it and, as volume in a subspace is infinitely
    denser, posterior 1 where it is inside; of several, those count that lack most
    dimensions. So does the limit of small noise. Should y fit no kind at all, the ones
    that miss it least count.

    Parameters
    ----------
    X : tensor of shape (n_tasks, n_examples, n_features)
        Inputs of the examples; there may be none.
    y : tensor of shape (n_tasks, n_examples)
        Labels of the examples.
    X_query : tensor of shape (n_tasks, n_queries, n_features)
        Where to predict.
    weight_covs : sequence of tensor, or tensor, of n_kinds items
        What `weighted_ridge` has as `weight_cov`, for each kind.
    noises : sequence of float, or tensor, of n_kinds items
        Standard deviation of the noise of each kind.
    probabilities : sequence of float, or tensor, of n_kinds items
        How often each kind comes; only the ratios count.
    return_std : bool, default=False
        Whether to return the standard deviation too.
    return_posterior : bool, default=False
        Whether to return the posterior of the kinds too.

    Returns
    -------
    mean : tensor of shape (n_tasks, n_queries)
        The predictions.
    std : tensor of shape (n_tasks, n_queries)
        Standard deviation of a new label, its noise included; if `return_std`.
    posterior : tensor of shape (n_tasks, n_kinds)
        Probability of each kind; if `return_posterior`.

    References
    ----------
    arXiv 2301.07067, Section 6.

    Examples
    --------
    Labels of one feature out of two: the second example tells which.

    >>> import torch
    >>> from sklearn_attn.in_context import mixture_of_ridges
    >>> X, y = torch.tensor([[[1.0, 0.5], [1.0, 2.0]]]), torch.tensor([[0.5, 2.0]])
    >>> mean, posterior = mixture_of_ridges(
    ...     X, y, torch.eye(2)[None], weight_covs=torch.eye(2), noises=[0.1, 0.1],
    ...     probabilities=[0.5, 0.5], return_posterior=True,
    ... )
    >>> posterior.round(decimals=3)
    tensor([[0., 1.]])
    """
    p = torch.as_tensor(probabilities, dtype=X.dtype, device=X.device)
    means, variances, evidences = [], [], []
    for weight_cov, noise in zip(weight_covs, noises, strict=True):
        R, sigma = _root(X, weight_cov), _per_task(X, noise)
        U, s, Vh = _svd(X @ R)
        evidences.append(_evidence(U, s, y, sigma))
        mean, variance = _predict(U, s, Vh, y[..., None], X_query @ R, sigma)
        means.append(mean[..., 0])
        variances.append(variance)
    log_density, missing, outside = (torch.stack(e, -1) for e in zip(*evidences))
    outside = outside.where(p > 0, torch.inf)
    nearest = outside.amin(-1, keepdim=True)
    possible = outside <= torch.maximum(nearest, _range_tolerance(y)[:, None])
    missing = missing.where(possible, -1)
    possible &= missing == missing.amax(-1, keepdim=True)
    posterior = (p.log() + log_density).where(possible, -torch.inf).softmax(-1)

    means, variances = torch.stack(means), torch.stack(variances)  # (kinds, tasks, q)
    mean = torch.einsum("bh,hbq->bq", posterior, means)
    answer = [mean]
    if return_std:
        spread = variances + (means - mean) ** 2
        answer.append(torch.einsum("bh,hbq->bq", posterior, spread).sqrt())
    if return_posterior:
        answer.append(posterior)
    return tuple(answer) if len(answer) > 1 else mean


def window_least_squares(series, *, window, alpha=0.0):
    """Predict each output from the last few, by least squares within the series.

    For every t, the map from (y_{s-window}, ..., y_{s-1}) to y_s is fitted to all s
    before t, and applied to the last outputs. There is no intercept.

    Parameters
    ----------
    series : tensor of shape (n_tasks, n_times, n_outputs)
        The outputs.
    window : int
        How many outputs to predict from.
    alpha : float, default=0.0
        Penalty on the squared coefficients; at 0, the solution of minimum norm, as in
        the paper.

    Returns
    -------
    predictions : tensor of shape (n_tasks, n_times, n_outputs)
        Predictions of y_t from those before; 0 for t <= `window`, which have no pair
        to learn from.

    References
    ----------
    arXiv 2301.07067, Figure 2c.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import window_least_squares
    >>> series = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1)
    >>> window_least_squares(series, window=1).flatten().round()
    tensor([0., 0., 4., 8.])
    """
    n_times, predictions = series.shape[1], torch.zeros_like(series)
    if n_times <= window + 1:
        return predictions
    # lagged[:, i] holds y_i, ..., y_{i + window - 1}, to predict y_{i + window} from
    lagged = series.unfold(1, window, 1).transpose(2, 3).flatten(2)
    penalty_root = _per_task(series, math.sqrt(alpha))
    for t in range(window + 1, n_times):
        X, Y = lagged[:, : t - window], series[:, window:t]
        X_query = lagged[:, t - window, None]
        mean, _ = _predict(*_svd(X), Y, X_query, penalty_root)
        predictions[:, t] = mean[:, 0]
    return predictions


def kalman_predict(series, *, A, C, state_noise, output_noise=0.0):
    """Predict each output from all before, by the Kalman filter of the known system.

    The system is x_{t+1} = A x_t + w_t and y_t = C x_t + v_t, with Gaussian w_t and
    v_t and x_0 = 0. No predictor has a smaller mean squared error. The series starts
    with y_0: one that starts with y_1 needs it put in front, which without output noise
    is 0.

    Parameters
    ----------
    series : tensor of shape (n_tasks, n_times, n_outputs)
        The outputs.
    A : tensor of shape (n_tasks, n_states, n_states)
        Transition of each system.
    C : tensor of shape (n_tasks, n_outputs, n_states)
        Read-out of each system.
    state_noise : float
        Standard deviation of w_t.
    output_noise : float, default=0.0
        Standard deviation of v_t.

    Returns
    -------
    predictions : tensor of shape (n_tasks, n_times, n_outputs)
        Predictions of y_t from those before.

    References
    ----------
    arXiv 2301.07067, Section 5; R. E. Kalman, A new approach to linear filtering and
    prediction problems, 1960.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import kalman_predict
    >>> series = torch.tensor([0.0, 1.0, 3.0]).reshape(1, 3, 1)
    >>> A, C = torch.full((1, 1, 1), 0.5), torch.ones(1, 1, 1)
    >>> kalman_predict(series, A=A, C=C, state_noise=0.1).flatten()
    tensor([0.0000, 0.0000, 0.5000])
    """
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    eye_out = torch.eye(C.shape[-2], dtype=A.dtype, device=A.device)
    x, P = A.new_zeros(A.shape[:2]), torch.zeros_like(A)
    predictions = torch.empty_like(series)
    for t in range(series.shape[1]):
        predictions[:, t] = torch.einsum("brn,bn->br", C, x)
        S = C @ P @ C.mT + output_noise**2 * eye_out
        # a pseudo-inverse: S is 0 at first, where the state is known
        K = P @ C.mT @ torch.linalg.pinv(S, hermitian=True)
        x = x + torch.einsum("bnr,br->bn", K, series[:, t] - predictions[:, t])
        # Joseph's form keeps P positive though y_t may tell parts of x_t exactly
        P = (eye - K @ C) @ P @ (eye - K @ C).mT + output_noise**2 * K @ K.mT
        x = torch.einsum("bnm,bm->bn", A, x)
        P = A @ P @ A.mT + state_noise**2 * eye
    return predictions


def _per_task(X, noise):
    """Return the noise as a column, of one row or of one for each task."""
    return torch.as_tensor(noise, dtype=X.dtype, device=X.device).reshape(-1, 1)


def _root(X, weight_cov):
    """Return R with R R' = Sigma, which may be singular; R need not be square."""
    Sigma = torch.as_tensor(weight_cov, dtype=X.dtype, device=X.device)
    if Sigma.ndim == 1:
        return Sigma.sqrt().diag()[:, Sigma > 0]  # thin: a small support is fast
    values, vectors = torch.linalg.eigh(Sigma)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]


def _svd(Z):
    """Return U, s, V' of Z = U diag(s) V', the s that are rounding errors set to 0."""
    U, s, Vh = torch.linalg.svd(Z, full_matrices=False)
    cut = max(Z.shape[-2:]) * torch.finfo(Z.dtype).eps * s[..., :1]  # as matrix_rank
    return U, s.where(s > cut, 0), Vh


def _predict(U, s, Vh, Y, Z_query, sigma):
    """Return means (tasks, queries, outputs) and variances (tasks, queries)."""
    shrink = (1 / (s + sigma**2 / s)).where(s > 0, 0)
    left = (sigma**2 / (s**2 + sigma**2)).where(s > 0, 1)  # of the prior variance
    a = Z_query @ Vh.mT  # (tasks, queries, min(k, d))
    mean = torch.einsum("bqi,bi,bki,bkm->bqm", a, shrink, U, Y)
    # a sum of squares, not a difference, which would cancel for small noise
    off_rows = ((Z_query - a @ Vh) ** 2).sum(-1)
    variance = sigma**2 + off_rows + torch.einsum("bqi,bi->bq", a**2, left)
    return mean, variance


def _evidence(U, s, y, sigma):
    """Return log-density, dimensions it lacks, and how far y is from the others.

    With noise it lacks none, and the distance is 0.
    """
    kept, noiseless = s > 0, sigma[:, 0] == 0
    u = torch.einsum("bki,bk->bi", U, y).where(kept, 0)
    off2 = ((y - torch.einsum("bki,bi->bk", U, u)) ** 2).sum(-1)
    n_off = y.shape[-1] - kept.sum(-1)
    total = s**2 + sigma**2
    inside = ((2 * math.pi * total).log() + u**2 / total).where(kept, 0).sum(-1)
    sigma2 = sigma[:, 0] ** 2
    off = (n_off * (2 * math.pi * sigma2).log() + off2 / sigma2).where(~noiseless, 0)
    return -(inside + off) / 2, n_off * noiseless, off2.sqrt() * noiseless


def _range_tolerance(y):
    """Return how far rounding errors may move y out of a subspace."""
    return math.sqrt(torch.finfo(y.dtype).eps) * torch.linalg.vector_norm(y, dim=-1)
