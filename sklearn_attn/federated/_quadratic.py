"""g_m = w'A_m w / 2 - w'(B_m x + b_m),  f_m = |w - c_m|^2 / 2 + nu |x|^2 / 2.

With means A, B, b, c and G = A^{-1} B, (G'G + nu I) x = G'(c - A^{-1} b) is the
solution, and nu x + B' A^{-1} (w*(x) - c) the hypergradient (2306.01648).
"""

import torch

from ._problems import BilevelProblem


def quadratic_problem(data):
    """Return a quadratic bilevel problem, and its clients.

    Parameters
    ----------
    data : Bunch
        As of :func:`~sklearn_attn.datasets.make_federated_quadratic`: arrays A, B, b, c
        with one item per client, and the number nu.

    Returns
    -------
    problem : BilevelProblem
        The problem, x and w starting at zero.
    clients : list of dict of tensor
        A, B, b and c of each client.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> from sklearn_attn.federated import quadratic_problem
    >>> problem, clients = quadratic_problem(make_federated_quadratic(random_state=0))
    >>> len(clients), problem.x0.shape, problem.w0.shape
    (10, torch.Size([3]), torch.Size([5]))
    """

    def inner(m, x, w):
        return w @ m["A"] @ w / 2 - w @ (m["B"] @ x + m["b"])

    def outer(m, x, w):
        return ((w - m["c"]) ** 2).sum() / 2 + data.nu * (x @ x) / 2

    arrays = {name: torch.as_tensor(data[name]) for name in ("A", "B", "b", "c")}
    n_clients, n_inner, n_outer = arrays["B"].shape
    clients = [{name: a[m] for name, a in arrays.items()} for m in range(n_clients)]
    x0, w0 = (torch.zeros(n, dtype=torch.float64) for n in (n_outer, n_inner))
    return BilevelProblem(inner, outer, x0, w0), clients
