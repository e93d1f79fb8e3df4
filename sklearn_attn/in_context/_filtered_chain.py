"""s^_l = TF(p_l, s^_{l-1}),  p_l = (s_i^{l-1}, s_i^l)_{i <= n}: the filter made by hand
(2305.18869, theorem 1).

A network for single tasks sees one step at a time, and one coordinate of it: any number
of steps of any width need one set of weights, and nothing else in a prompt can matter.
"""

from itertools import pairwise

import torch

from ._filtered import check_shapes

# Numbers that scores of all coordinates may have at a time.
_MOST_NUMBERS = 2**23


def filtered_chain(weights, X, steps, y, X_query, *, given=None):
    """Predict each step of the queries from the one before, in context.

    Parameters
    ----------
    weights : PretrainedICL
        Weights for single tasks, such as "cot-relu".
    X : torch.Tensor of shape (n_tasks, n, n_features)
        Inputs of the examples. The dtype and the device are those to compute with.
    steps : sequence of torch.Tensor of shape (n_tasks, n, width)
        Their steps.
    y : torch.Tensor of shape (n_tasks, n) or (n_tasks, n, n_outputs)
        Their targets.
    X_query : torch.Tensor of shape (n_tasks, q, n_features)
        Rows to predict for.
    given : dict of int to torch.Tensor, default=None
        True steps of the queries, by their place in `steps`, that the next step goes on
        from in place of what was predicted.

    Returns
    -------
    list of torch.Tensor
        Predictions of all steps, of shape (n_tasks, q, width), and of y.

    Raises
    ------
    ValueError
        If a step is wider than the rows that the weights take, or shapes do not fit.

    See Also
    --------
    filtered_least_squares : The same with least squares in place of the network.
    ChainOfThoughtRegressor : The same for one table.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.in_context import MLPPrior, filtered_chain
    >>> from sklearn_attn.in_context import load_in_context_weights
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = MLPPrior((4,), bias=0.0).sample_steps(8, 40, 5, generator=generator)
    >>> weights = load_in_context_weights("cot-relu")
    >>> X, (s,), y = tasks.X, tasks.steps, tasks.y
    >>> s_query, y_query = filtered_chain(
    ...     weights, X[:, :30], [s[:, :30]], y[:, :30], X[:, 30:]
    ... )
    >>> s_query.shape, y_query.shape
    (torch.Size([8, 10, 4]), torch.Size([8, 10]))
    """
    given = given or {}
    check_shapes(X, steps, y, X_query, given)
    states = [X, *steps, y if y.ndim == 3 else y[..., None]]
    state, found = X_query, []
    for place, (before, after) in enumerate(pairwise(states)):
        found.append(_one_step(weights, before, after, state))
        state = given.get(place, found[-1])
    if y.ndim == 2:
        found[-1] = found[-1][..., 0]
    return found


def _one_step(weights, before, after, state):
    """Answer all coordinates of a step, each as a task of its own."""
    B, n, k = after.shape
    q = state.shape[1]
    at_a_time = max(1, _MOST_NUMBERS // ((n + q) * (n + weights.config["width"])))
    parts = []
    for some in torch.arange(B * k, device=after.device).split(at_a_time):
        task = some // k
        y = after.mT.reshape(B * k, n)[some]
        parts.append(weights.predict(before[task], y, state[task])[0])
    return torch.cat(parts).view(B, k, q).mT
