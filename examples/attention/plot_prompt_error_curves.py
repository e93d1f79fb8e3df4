"""
The error of a learned head, predicted without a fit
====================================================

If the prompt is known, how many samples does the head need? In the contextual data
model the answer is a formula. Look at how the points, measured errors of fitted
classifiers, lie on the lines, which were computed from the model's constants alone.

Left, two heads under the best prompt: the difference of the class means gets better
with every sample; least squares gets *worse* up to as many samples as features, where
it is no better than a coin, and only then better (double descent). Right, the
difference of the means under prompts of different length: none at all (the linear model
of the mean token), the best length, half of the context vector, and three times as
long, which looks at single tokens for their noise.

Takes about 25 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.attention import (
    PromptAttention,
    optimal_prompt_scale,
    prompt_attention_error,
)
from sklearn_attn.datasets import make_contextual_tokens

N_FEATURES, N_TOKENS, ZETA, Q, W = 60, 50, 0.2, 1.4, 0.5
SAMPLES_PER_FEATURE = np.array([0.5, 0.75, 1, 1.5, 2, 4, 8])
N_DRAWS = 8
best = optimal_prompt_scale(Q)
model = {"relevant_fraction": ZETA, "context_norm": Q, "head_norm": W}
X_test, y_test = make_contextual_tokens(
    3000, N_TOKENS, N_FEATURES, random_state=0, **model
)


def measured(ratio, kappa, head):
    """Return the mean test error over some draws of the training samples."""
    classifier = PromptAttention(
        method="known-prompt",
        prompt=kappa * np.eye(N_FEATURES)[0],
        head=head,
        standardize=None,
    )
    errors = []
    for seed in range(N_DRAWS):
        X, y = make_contextual_tokens(
            round(ratio * N_FEATURES),
            N_TOKENS,
            N_FEATURES,
            random_state=1 + seed,
            **model,
        )
        errors.append(1 - classifier.fit(X, y).score(X_test, y_test))
    return np.mean(errors)


def predicted(ratio, kappa, head):
    return prompt_attention_error(
        ZETA, N_TOKENS, Q, W, kappa, ratio, head, n_features=N_FEATURES
    )


def draw(ax, kappa, head, color, label):
    """Draw a line and its points; the label goes into the legend."""
    fine = np.geomspace(*SAMPLES_PER_FEATURE[[0, -1]], 101)
    line = [predicted(ratio, kappa, head) for ratio in fine]
    points = [measured(ratio, kappa, head) for ratio in SAMPLES_PER_FEATURE]
    ax.plot(fine, line, color=color, label=label)
    ax.plot(SAMPLES_PER_FEATURE, points, "o", color=color)


# %%

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), sharey=True, layout="constrained"
)
draw(left, best, "mean", "#0072B2", "difference of the means")
draw(left, best, "least-squares", "#D55E00", "least squares")
left.axvline(1, color="0.7", zorder=0)
left.annotate(
    "as many samples\nas features", (1, 0.06), (4, 0), textcoords="offset points"
)
left.set_title("Two heads under the best prompt")
draw(right, 0.0, "mean", "#009E73", "no prompt (linear)")
draw(right, best, "mean", "#0072B2", f"best length, {best:.1f}")
draw(right, 3 * best, "mean", "#CC79A7", f"too long, {3 * best:.1f}")
right.set_title("The mean difference under three prompts")
for ax in (left, right):
    ax.set(xscale="log", xlabel="samples per feature", xlim=(0.45, 9), ylim=(0, 0.55))
    ax.set_xticks(SAMPLES_PER_FEATURE, [f"{r:g}" for r in SAMPLES_PER_FEATURE])
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
left.set_ylabel("test error (points measured, lines predicted)")
plt.show()
