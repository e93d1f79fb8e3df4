"""x -> (x - mean) / scale, with the mean and the spread of all tokens.

Each sequence counts by its sample weight, and each token by its share of the sequence.
"""

import torch

from ._token_attention import gather, token_shares

_CHUNK = 2**20  # numbers squared at a time, to need no second copy of the tokens
# A spread below this many rounding units of the mean is no spread.
_ROUNDING = 10.0


def standardize_tokens(X, mask, weight, *, how, centre, in_place=False):
    """Centre the tokens and divide them by their spread.

    Parameters
    ----------
    X : torch.Tensor of shape (n_samples, n_tokens, n_token_features)
        The tokens.
    mask : torch.Tensor of shape (n_samples, n_tokens) or None
        True where there is a token; what stands elsewhere is arbitrary afterwards.
    weight : torch.Tensor of shape (n_samples,)
        Sample weights with sum 1.
    how : {"global", "feature", None}
        Whether all features share one scale, which keeps the geometry, each has its
        own, or the scale is 1.
    centre : bool
        Whether to subtract the mean.
    in_place : bool, default=False
        Whether X may be overwritten.

    Returns
    -------
    X : torch.Tensor of shape (n_samples, n_tokens, n_token_features)
        The tokens; without mean and scale, X itself.
    mean, scale : torch.Tensor of shape (n_token_features,)
        What was subtracted, and divided by.
    """
    zero, one = X.new_zeros(X.shape[2]), X.new_ones(X.shape[2])
    if how is None and not centre:
        return X, zero, one
    share = weight[:, None, None] * token_shares(X, mask)  # (n, T, 1)
    mean = gather(share, X)[0]
    X = torch.sub(X, mean, out=X if in_place else None)
    scale = one
    if how is not None:
        variance = zero.clone()
        rows = max(1, _CHUNK // X[0].numel())
        for part, of_part in zip(X.split(rows), share.split(rows)):
            variance += gather(of_part, part.square())[0]
        if how == "global":
            variance = variance.mean().expand_as(one)
        scale = variance.sqrt()
        least = _ROUNDING * torch.finfo(X.dtype).eps * mean.abs()
        least = least.max() if how == "global" else least
        scale = torch.where(scale > least, scale, one)
        X /= scale
    if not centre:
        X += mean / scale
        mean = zero
    return X, mean, scale
