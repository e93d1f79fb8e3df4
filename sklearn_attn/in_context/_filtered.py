"""s^_l = act(W_l s^_{l-1}),  W_l = argmin sum_i |s_i^l - act(W s_i^{l-1})|^2
(2305.18869, theorem 1).

A chain of thought filters its prompt to one step, (s_i^{l-1}, s_i^l) for i = 1..n,
learns that step in context, applies it to what it has predicted for the query, and goes
on. Here the filter is exact, and the learner is least squares: what a trained chain can
be judged by. A step is learnt from its own rows only, so it needs as many of them as
it has inputs, however many steps there are.
"""

import torch

from ._comparators import _svd

_INVERSES = {
    "leaky_relu": lambda s, leak: torch.where(s > 0, s, s / leak),
    "tanh": lambda s, leak: torch.arctanh(_inside(s)),
    "linear": lambda s, leak: s,
}
_ACTIVATIONS = {
    "leaky_relu": lambda z, leak: torch.where(z > 0, z, leak * z),
    "tanh": lambda z, leak: torch.tanh(z),
    "linear": lambda z, leak: z,
}
# Numbers of the matrices that are factorised at once; 128 MiB in double precision.
_MOST_NUMBERS = 2**24


def filtered_least_squares(
    X, steps, y, X_query, *, activation="relu", leak=0.1, given=None
):
    """Predict each step of the queries from the one before, by least squares.

    A hidden step is s^l = act(W s^{l-1}), and each of its coordinates is learnt on its
    own. Where the activation can be inverted it is, and all examples count. "relu" can
    be where it is active only: least squares on the examples whose coordinate is
    positive, and 0 where there are none. The last step is linear. All solutions are
    those of minimum norm; singular values below max(n, d) times the machine precision
    times the largest one count as 0.

    There are no intercepts. For biases, append a column of ones to `X`, to `X_query`
    and to each of `steps`; the predictions then have it too. Where steps are measured,
    readings of what is off should be set to 0, or "relu" takes noise for activity. Of
    "tanh", examples near saturation tell their sum by rounding only, and count all the
    same.

    Parameters
    ----------
    X : tensor of shape (n_tasks, n_examples, n_features)
        Inputs of the examples; there may be none.
    steps : sequence of tensor of shape (n_tasks, n_examples, width)
        Their steps s^1, ..., s^{L-1}, of any widths.
    y : tensor of shape (n_tasks, n_examples) or (n_tasks, n_examples, n_outputs)
        Their labels s^L.
    X_query : tensor of shape (n_tasks, n_queries, n_features)
        Where to predict.
    activation : {"relu", "leaky_relu", "tanh", "linear"}, default="relu"
        What hidden steps end with.
    leak : float, default=0.1
        Slope of "leaky_relu" where it is not active; above 0.
    given : dict of int to tensor, or None, default=None
        Steps of the queries that are known, of shape (n_tasks, n_queries, width), by
        their place in `steps`. The step after goes on from them instead of from what
        is predicted (teacher forcing).

    Returns
    -------
    states : list of tensor
        Predictions of s^1, ..., s^{L-1}, of shape (n_tasks, n_queries, width), and of
        y, of shape (n_tasks, n_queries) or (n_tasks, n_queries, n_outputs).

    Raises
    ------
    ValueError
        If there is no such activation, or shapes do not fit.

    See Also
    --------
    minimum_norm : Least squares without steps.

    References
    ----------
    Li, Sreenivasan, Giannou, Papailiopoulos and Oymak, "Dissecting Chain-of-Thought:
    Compositionality through In-Context Filtering and Learning", arXiv:2305.18869,
    theorem 1.

    Examples
    --------
    Leaky ReLUs can be inverted, so 8 examples tell 8 x 8 weights:

    >>> import torch
    >>> from sklearn_attn.in_context import MLPPrior, filtered_least_squares
    >>> prior = MLPPrior((8,), activation="leaky_relu", bias=0.0)
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = prior.sample_steps(4, 9, 8, generator=generator)
    >>> X, (s,), y = tasks.X, tasks.steps, tasks.y
    >>> s_query, y_query = filtered_least_squares(
    ...     X[:, :8], [s[:, :8]], y[:, :8], X[:, 8:], activation="leaky_relu"
    ... )
    >>> s_query.shape, torch.allclose(y_query, y[:, 8:], atol=1e-4)
    (torch.Size([4, 1, 8]), True)
    """
    given = {} if given is None else given
    known = ["relu", *_INVERSES]
    if activation not in known:
        raise ValueError(f"activation must be one of {known}; got {activation!r}.")
    if not 0 < leak < float("inf"):
        raise ValueError(f"leak must be a finite number above 0; got {leak!r}.")
    check_shapes(X, steps, y, X_query, given)
    inputs, state, states = X, X_query, []
    for place, step in enumerate(steps):
        states.append(_hidden_step(inputs, step, state, activation, leak))
        inputs, state = step, given.get(place, states[-1])
    targets = y if y.ndim == 3 else y[..., None]
    last = state @ _coefficients(inputs, targets)
    return [*states, last if y.ndim == 3 else last[..., 0]]


def _hidden_step(inputs, step, state, activation, leak):
    if activation == "relu":
        return torch.relu(state @ _active_coefficients(inputs, step))
    z = _INVERSES[activation](step, leak)
    return _ACTIVATIONS[activation](state @ _coefficients(inputs, z), leak)


def _coefficients(Z, Y):
    """Return the W of minimum norm with Z W = Y in the sense of least squares."""
    U, s, Vh = _svd(Z)
    return torch.einsum("...id,...i,...ni,...nk->...dk", Vh, _inverse(s), U, Y)


def _active_coefficients(Z, S):
    """Return W, each column of which is fitted to the rows where S is positive."""
    W = [_active_chunk(z, s) for z, s in zip(*_chunks(Z, S))]
    return torch.cat(W)


def _active_chunk(Z, S):
    # a row of zeros is as good as none: it adds nothing to the singular values
    active = (S > 0).mT.to(Z.dtype)  # (tasks, width, n)
    U, s, Vh = _svd(active[..., None] * Z[:, None])
    right = torch.einsum("bkni,bnk->bki", U, S.clamp(min=0))
    return torch.einsum("bkid,bki,bki->bdk", Vh, _inverse(s), right)


def _chunks(Z, S):
    numbers_of_a_task = max(1, Z.shape[1] * Z.shape[2] * S.shape[2])
    n_tasks = max(1, _MOST_NUMBERS // numbers_of_a_task)
    return Z.split(n_tasks), S.split(n_tasks)


def _inverse(s):
    return (1 / s).where(s > 0, 0)


def _inside(s):
    """Return s within (-1, 1): tanh is rounded to 1 beyond the reach of arctanh."""
    edge = 1 - torch.finfo(s.dtype).eps
    return s.clamp(-edge, edge)


def check_shapes(X, steps, y, X_query, given):
    """Refuse examples and queries whose shapes do not fit together.

    Raises
    ------
    ValueError
        With the shape that came, and the one that was wanted.
    """
    if X.ndim != 3:
        raise ValueError(
            "X must have the shape (n_tasks, n_examples, n_features); got "
            f"{tuple(X.shape)}."
        )
    n_tasks, n_examples, n_features = X.shape
    for place, step in enumerate(steps):
        if step.ndim != 3 or step.shape[:2] != (n_tasks, n_examples):
            raise ValueError(
                f"steps[{place}] must have the shape ({n_tasks}, {n_examples}, width), "
                f"as X has; got {tuple(step.shape)}."
            )
    if y.ndim not in (2, 3) or y.shape[:2] != (n_tasks, n_examples):
        raise ValueError(
            f"y must have the shape ({n_tasks}, {n_examples}), or n_outputs besides, "
            f"as X has; got {tuple(y.shape)}."
        )
    fits = X_query.ndim == 3 and X_query.shape[::2] == (n_tasks, n_features)
    if not fits:
        raise ValueError(
            f"X_query must have the shape ({n_tasks}, n_queries, {n_features}), as X "
            f"has; got {tuple(X_query.shape)}."
        )
    for place, state in given.items():
        if place not in range(len(steps)):
            raise ValueError(
                f"given has a step {place!r}; there are {len(steps)} steps, from 0 on."
            )
        wanted = (n_tasks, X_query.shape[1], steps[place].shape[2])
        if tuple(state.shape) != wanted:
            raise ValueError(
                f"given[{place}] must have the shape {wanted}; got "
                f"{tuple(state.shape)}."
            )
