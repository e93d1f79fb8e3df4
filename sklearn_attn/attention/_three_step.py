"""Three gradient steps on the square loss from (w, q) = (0, 0)  (2306.03435).

    w1 = 1/n sum_i y_i xbar_i            q1 = 1/n sum_i y_i C_i w1
    w2 = 1/n sum_i y_i X_i'softmax(kappa X_i q1/||q1||)

xbar_i is the mean token of sequence i, C_i the covariance of its tokens. Only the
directions of w1 and w2 matter; the length kappa of the prompt does. Centring y in each
step (debiasing) keeps a prompt from the head where classes differ in size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from ._softmax import attention_weights
from ._token_attention import gather, project, prompt_attention, token_shares

# Lengths of the prompt that are tried, in units of 1 / (spread of the token scores).
LENGTHS = tuple(2.0**k for k in range(-3, 4))


class ThreeStep(NamedTuple):
    """What three steps find, and how they chose.

    Attributes
    ----------
    first_head : torch.Tensor of shape (n_outputs, n_token_features)
        w1, the head on mean tokens.
    direction : torch.Tensor of shape (n_prompts, n_token_features)
        Unit vectors along q1; zero where no gradient points anywhere.
    kappa : torch.Tensor of shape (n_prompts,)
        Their lengths, with the sign that the search chose.
    head : torch.Tensor of shape (n_outputs, n_token_features)
        w2, in the length that fits targets -1 and +1 best.
    """

    first_head: torch.Tensor
    direction: torch.Tensor
    kappa: torch.Tensor
    head: torch.Tensor

    @property
    def prompt(self):
        """The prompts kappa q1/||q1||."""
        return self.kappa[:, None] * self.direction


@dataclass(frozen=True)
class ThreeStepRule:
    """How to choose length and sign of the prompts.

    Attributes
    ----------
    head_reg, prompt_reg : float
        Ridges: the length with the least square loss of w2 plus penalties is taken.
    unit : torch.Tensor of shape (n_token_features,) or None
        Lengths are given: `kappa * direction / unit` shall have length 1. None searches
        along `LENGTHS`.
    sign_search : bool
        Whether prompts may point against q1.
    debias : bool
        Whether targets are centred in each step, and pooled tokens in the last.
    """

    head_reg: float
    prompt_reg: float
    unit: torch.Tensor | None
    sign_search: bool
    debias: bool

    def targets(self, samples):
        """Return weighted targets, (n, 1, K), centred if that is asked for."""
        y = samples.contrast
        y = y - samples.mean(y) if self.debias else y
        return (samples.weight[:, None] * y)[:, None]

    def candidates(self, scores, direction, samples):
        """Return the signed lengths to try, (n_candidates, n_prompts)."""
        if self.unit is not None:
            lengths = 1.0 / (direction / self.unit).norm(dim=1)[None]
        else:
            share = samples.weight[:, None, None] * token_shares(
                samples.X, samples.mask
            )
            spread = scores - (share * scores).sum((0, 1))
            spread = (share * spread.square()).sum((0, 1)).sqrt()
            lengths = scores.new_tensor(LENGTHS)[:, None] / spread
        lengths = torch.where(lengths.isfinite(), lengths, 0.0)
        return torch.cat([lengths, -lengths]) if self.sign_search else lengths


def three_step(parts, rule, *, n_prompts, n_refine=0):
    """Run the three steps.

    Parameters
    ----------
    parts : sequence of three Samples
        What each step sees; thrice the same without sample splitting.
    rule : ThreeStepRule
        How to choose length and sign.
    n_prompts : int
        1 if all outputs share one prompt, else one for each.
    n_refine : int, default=0
        How often to go on: a prompt along the gradient at the current head and prompt,
        its length anew, the head anew.

    Returns
    -------
    ThreeStep
        Directions and lengths.
    """
    one, two, three = parts
    y = rule.targets(one)
    first_head = gather(token_shares(one.X, one.mask) * y, one.X)
    zero = torch.zeros_like(first_head[:n_prompts])
    direction = _ascent(two, rule.targets(two), first_head, zero)
    kappa, head = _choose_length(three, direction, rule)
    for _ in range(n_refine):
        prompt = kappa[:, None] * direction
        direction = _ascent(two, rule.targets(two), head, prompt)
        kappa, head = _choose_length(three, direction, rule)
    return ThreeStep(first_head, direction, kappa, head)


def _ascent(samples, y, head, prompt):
    """Return unit vectors along minus the gradient of the square loss in q.

    That is, for a head so short that the outputs do not count beside the targets.
    """
    _, pull = prompt_attention(samples.X, samples.mask, prompt)
    q = pull(y * project(samples.X, head))
    length = q.norm(dim=1, keepdim=True)
    return torch.where(length > 0, q / length, 0.0)


def _choose_length(samples, direction, rule):
    """Return signed lengths, and the heads w2 there.

    With z_i = w2'h_i and c the best multiple of it, the square loss is
    1/2 (mean y^2 - c mean yz); what is minimised adds both penalties.
    """
    y = rule.targets(samples)
    scores = project(samples.X, direction)  # (n, T, P)
    lengths = rule.candidates(scores, direction, samples)
    tried = []
    for kappa in lengths:
        a = attention_weights(kappa * scores, samples.mask)
        w = gather(a * y, samples.X)  # (K, d)
        z = (a * project(samples.X, w)).sum(1)
        z = z - samples.mean(z) if rule.debias else z
        fit = (y[:, 0] * z).sum(0)
        size = samples.mean(z.square()) + rule.head_reg * w.square().sum(1)
        c = torch.where(size > 0, fit / size, 0.0)
        gain = c * fit  # (K,)
        gain = gain.sum()[None] if len(kappa) == 1 else gain
        tried.append((rule.prompt_reg * kappa.square() - gain, c[:, None] * w))
    objective = torch.stack([value for value, _ in tried])  # (n_candidates, P)
    best = objective.argmin(0)
    heads = torch.stack([head for _, head in tried])  # (n_candidates, K, d)
    outputs = torch.arange(heads.shape[1], device=best.device)
    return lengths.gather(0, best[None])[0], heads[best.expand(len(outputs)), outputs]
