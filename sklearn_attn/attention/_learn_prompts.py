"""f_k(X) = w_k'X'softmax(X q_k) + b_k, learned from samples  (2306.03435, eq. 1)."""

from dataclasses import dataclass

import torch

from .._solution import Solution
from ._fit_head import fit_head, minimize_risk
from ._softmax import attention_weights
from ._three_step import ThreeStep, ThreeStepRule, three_step
from ._token_attention import pool, project, prompt_attention
from ._token_risk import TokenModel, TokenRisk


@dataclass(frozen=True)
class LearnedPrompts:
    """What `learn_prompts` found.

    Attributes
    ----------
    model : TokenModel
        Head, intercept and prompts.
    start : ThreeStep or None
        What the three steps found; None if the prompt was known.
    objective : float
        The penalised risk at the model.
    """

    model: TokenModel
    start: ThreeStep | None
    objective: float


def learn_prompts(
    samples,
    *,
    method,
    prompt,
    n_prompts,
    parts,
    rule: ThreeStepRule,
    n_refine,
    head,
    fit_intercept,
    tol,
    max_iter,
    on_iteration,
):
    """Learn prompts and heads.

    Parameters
    ----------
    samples : Samples
        What to fit.
    method : {"gradient", "three-step", "known-prompt"}
        Joint minimisation of the penalised risk from the three-step start; that start
        with a head fitted to it; or a head for the prompts given.
    prompt : torch.Tensor of shape (n_prompts, n_token_features) or None
        The known prompts.
    n_prompts : int
        1 if all outputs share one prompt, else one for each.
    parts : sequence of three Samples
        What each of the three steps sees.
    rule : ThreeStepRule
        How the three steps choose length and sign; its ridges are those of the risk.
    n_refine : int
        Refinements of the three steps.
    head : {"mean", "least-squares", "ridge", "logistic"}
        The head of all but "gradient".
    fit_intercept : bool
        Whether b is free.
    tol, max_iter, on_iteration
        Of the iterations; `on_iteration` gets (model, objectives so far).

    Returns
    -------
    Solution
        `value` is a `LearnedPrompts`; `history` has the "objective" of each iteration.
    """
    risk = TokenRisk(
        samples,
        prompt_attention,
        (n_prompts, samples.X.shape[2]),
        rule.head_reg,
        rule.prompt_reg,
        fit_intercept,
    )
    iterations = {"tol": tol, "max_iter": max_iter}
    start = None
    if method != "known-prompt":
        start = three_step(parts, rule, n_prompts=n_prompts, n_refine=n_refine)
        prompt = start.prompt
    if start is not None and method == "gradient":
        begin = TokenModel(start.head, _intercept(risk, start.head, prompt), prompt)
        found = minimize_risk(risk, begin, on_iteration=on_iteration, **iterations)
        model = found.value
    else:
        last = samples if start is None else parts[2]
        a = attention_weights(project(last.X, prompt), last.mask)
        found = fit_head(
            last._replace(X=pool(a, last.X), mask=None),
            head=head,
            head_reg=rule.head_reg,
            fit_intercept=fit_intercept,
            centre=rule.debias and fit_intercept,
            on_iteration=lambda head, curve: on_iteration(
                head._replace(attention=prompt), curve
            ),
            **iterations,
        )
        model = found.value._replace(attention=prompt)
    objective = risk(risk.pack(model))[0]
    learned = LearnedPrompts(model, start, objective)
    return Solution(learned, found.n_iter, found.converged, found.history)


def _intercept(risk, head, prompt):
    """Return the intercept that puts the mean output where the prior is."""
    samples = risk.samples
    zero = TokenModel(head, torch.zeros_like(head[:, 0]), prompt)
    f, *_ = risk.outputs(zero)
    prior = samples.loss.prior(samples.mean(samples.Y))
    return (prior - samples.mean(f)) * risk.fit_intercept
