"""How much each token counts in f_k(X) = w_k'X'a_k(X) + b_k  (2306.03435, section 2).

    mean token          a = 1/T
    prompt-attention    a = softmax(X q)
    linear attention    a = (X q + c) / T
    self-attention      a = 1/T sum_s softmax(X A'x_s)         (pooled over its queries)

Each is a function (X, mask, parameter) -> (a, pull), where a has shape (n, T, P), and
pull takes the gradient in a to the gradient in the parameter. P is 1 where all outputs
share one attention.
"""

import torch

from ._softmax import attention_weights, deviations

# A chunk of self-attention holds at most so many numbers of its (T, T) tables: 32 MB.
_CHUNK = 2**22


def project(X, V):
    """Return x_it'v_k, (n, T, K); a single vector by one matrix-vector product.

    Two such products take half the time of one with a matrix of two columns.
    """
    tokens = X.flatten(0, 1)
    scores = _product(tokens, V[0]) if len(V) == 1 else tokens @ V.T
    return scores.reshape(*X.shape[:2], len(V))


def gather(c, X):
    """Return sum_it c_itk x_it, of shape (K, d)."""
    tokens, c = X.flatten(0, 1), c.flatten(0, 1)
    return _product(tokens.T, c[:, 0])[None] if c.shape[1] == 1 else c.T @ tokens


def _product(A, v):
    """Return A v, on the CPU by NumPy: its BLAS takes 60 % of the time of torch's."""
    if A.device.type != "cpu" or torch.is_grad_enabled():
        return A @ v
    return torch.from_numpy(A.numpy() @ v.numpy())


def token_shares(X, mask):
    """Return 1/T_i for each token of sequence i and 0 for padding, (n, T, 1)."""
    if mask is None:
        return X.new_full((*X.shape[:2], 1), 1.0 / X.shape[1])
    there = mask.to(X.dtype)
    return (there / there.sum(1, keepdim=True))[..., None]


def pool(a, X):
    """Return the pooled tokens X'a_k, of shape (n, P, d)."""
    return a.mT @ X


def _shared(gradient, n):
    """Add up the gradients of outputs that share one attention."""
    return gradient.sum(-1, keepdim=True) if n == 1 else gradient


def fixed_attention(a):
    """Return the attention that has no parameter."""
    return lambda X, mask, nothing: (a, lambda gradient: nothing)


def mean_attention(X, mask, nothing):
    """All tokens of a sequence count the same."""
    return fixed_attention(token_shares(X, mask))(X, mask, nothing)


def prompt_attention(X, mask, q):
    """Softmax of the scores under prompts q (P, d)."""
    a = attention_weights(project(X, q), mask)

    def pull(gradient):
        return gather(a * deviations(a, _shared(gradient, len(q))), X)

    return a, pull


def linear_attention(X, mask, q, *, fit_intercept=True):
    """The scores over T under (q, c), (P, d + 1), themselves; they may be negative."""
    shares = token_shares(X, mask)
    a = (project(X, q[:, :-1]) + q[:, -1]) * shares

    def pull(gradient):
        in_scores = _shared(gradient, len(q)) * shares
        in_c = in_scores.sum((0, 1)) * fit_intercept
        return torch.cat([gather(in_scores, X), in_c[:, None]], 1)

    return a, pull


def self_attention(X, mask, A):
    """Attention of every token to every other by A (d, d), the mean over the queries.

    The (T, T) tables are made for some sequences at a time. `pull` makes them again if
    there is more than one such part, so that memory stays O(nT) beside one part.
    """
    shares = token_shares(X, mask)
    chunks = torch.arange(len(X)).split(max(1, _CHUNK // X.shape[1] ** 2))
    chunks = [slice(int(rows[0]), int(rows[-1]) + 1) for rows in chunks]

    def table(rows):  # (n, T queries, T keys)
        queries = (X[rows].flatten(0, 1) @ A).reshape(X[rows].shape)
        logits = queries @ X[rows].mT
        if mask is not None:
            logits = logits.masked_fill(~mask[rows, None], -torch.inf)
        return torch.softmax(logits, -1)

    if len(chunks) == 1:
        whole = table(chunks[0])
        table = lambda rows: whole  # noqa: E731
    a = torch.cat([table(rows).mT @ shares[rows] for rows in chunks])

    def pull(gradient):
        gradient = _shared(gradient, 1)
        in_A = torch.zeros_like(A)
        for rows in chunks:
            S, g = table(rows), gradient[rows]
            in_logits = shares[rows] * S * (g.mT - S @ g)
            in_A += X[rows].flatten(0, 1).T @ (in_logits @ X[rows]).flatten(0, 1)
        return in_A

    return a, pull
