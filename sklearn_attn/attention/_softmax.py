"""s = softmax(K p) and the gradient ds'gamma/d(Kp) = s * (gamma - s'gamma).

The textbook form of that gradient cancels to noise once attention saturates: where one
weight is within rounding of 1, gamma - s'gamma is zero for its token, and the signal
lives in weights of 1e-20. Here differences to the leading token are taken before any
sum, and one exponent per sequence is kept apart, so that the direction of the gradient
is right at any norm of p.
"""

from typing import NamedTuple

import torch


def attention_weights(logits, mask=None):
    """Softmax over the tokens, axis 1; padding gets exactly zero."""
    if mask is not None:
        padding = ~mask if logits.ndim == 2 else ~mask[..., None]
        logits = logits.masked_fill(padding, -torch.inf)
    return torch.softmax(logits, 1)


class PooledScore(NamedTuple):
    """The pooled score u = s'gamma of each sequence, and its gradient in the logits.

    Attributes
    ----------
    weights : torch.Tensor of shape (n_samples, n_tokens)
        Attention weights s.
    value : torch.Tensor of shape (n_samples,)
        u = s'gamma.
    gradient : torch.Tensor of shape (n_samples, n_tokens)
        du/dlogits divided by exp(exponent); at most about one in size.
    exponent : torch.Tensor of shape (n_samples,)
        Logarithm of the scale of the gradient; -inf where the gradient is zero.
    leader : torch.Tensor of shape (n_samples,)
        Index of the token with the largest logit.
    drift : torch.Tensor of shape (n_samples,)
        (u - gamma_leader) divided by exp(exponent).
    """

    weights: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    exponent: torch.Tensor
    leader: torch.Tensor
    drift: torch.Tensor


def pool_scores(logits, scores, mask=None):
    """Pool scores with softmax weights, with a gradient that does not cancel.

    With r the leading token, d_t = gamma_t - gamma_r, e = max_t log|d_t| + a_t - a_r:

        pull_t    =  s_r d_t exp(a_t - a_r - e)
        drift     =  sum_t pull_t         =  (u - gamma_r) / exp(e)
        gradient  =  pull_t - s_t drift   =  (du/da_t) / exp(e)
    """
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    lead, leader = logits.max(-1, keepdim=True)
    weights = torch.softmax(logits, -1)
    score = scores.gather(-1, leader)
    differences = scores - score
    sizes = differences.abs().log() + (logits - lead)
    exponent = sizes.max(-1, keepdim=True).values
    # No token differs in score: every size is -inf, and so is the exponent.
    pull = differences.sign() * (sizes - exponent).nan_to_num(nan=-torch.inf).exp()
    pull = pull * weights.gather(-1, leader)
    drift = pull.sum(-1, keepdim=True)
    gradient = pull - weights * drift
    value = score + drift * exponent.exp()
    return PooledScore(
        weights,
        value[..., 0],
        gradient,
        exponent[..., 0],
        leader[..., 0],
        drift[..., 0],
    )


def deviations(weights, scores):
    """Return scores - weights'scores along axis 1, exact for the leading token too.

    The textbook form is zero for a token whose weight is within rounding of 1.
    """
    lead = weights.argmax(1, keepdim=True)
    lead = lead.expand(-1, -1, scores.shape[2]) if scores.ndim == 3 else lead
    differences = scores - scores.gather(1, lead)
    return differences - (weights * differences).sum(1, keepdim=True)
