"""
What a prompt can do that other attention cannot
================================================

Twenty tokens make a sequence; eight of them tell its label, the others distract. There
is no noise at all, so that every error is one of the model, not of learning. Look at
each row for a way to distract, and at the pale cells for the models that it defeats:
only the prompt is right everywhere.

The telling tokens are a context vector plus the label times a head vector. In half of
the sequences the others are zero; in the other half they show the context vector with
the wrong sign, and the head vector with the wrong sign, D times as long, or with the
right sign. In the last row all three kinds occur.

The cells are the best accuracy on these sequences that we found for each model: of
20000 random parameters, or trained, for the prompt. There are no intercepts. The pale
cells follow from the model (which arXiv:2306.03435 introduced); for self-attention,
from ``critical_delta`` on.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.attention import PromptAttention, critical_delta
from sklearn_attn.datasets import make_contextual_tokens

ZETA, RHO, N_TOKENS, N_RANDOM = 0.4, 0.5, 20, 20_000
D = 1.1 * critical_delta(ZETA)
TASKS = {
    "no distraction": [(0, 0)],
    f"none, or both wrong\n{D:.1f} times": [(0, 0), (D, D)],
    f"none, or context wrong,\nlabel right {D:.1f} times": [(0, 0), (D, -D)],
    "all of these,\n4 times": [(0, 0), (4, 4), (4, -4)],
}
rng = np.random.default_rng(0)


def sequences(delta):
    """One sequence for each kind of distraction and each label."""
    X, y = [], []
    for kind in delta:
        many, labels = make_contextual_tokens(
            20,
            N_TOKENS,
            4,
            relevant_fraction=ZETA,
            rho=RHO,
            noise=0.0,
            delta=[(*kind, 1)],
            random_state=0,
        )
        first = [np.flatnonzero(labels == label)[0] for label in (-1, 1)]
        X.append(many[first])
        y.append(labels[first])
    return np.concatenate(X), np.concatenate(y)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def best(f, y):
    """The accuracy of the best among outputs (n, N_RANDOM)."""
    return ((f > 0) == (y > 0)[:, None]).mean(0).max()


def linear(X, y):
    return best(X.mean(1) @ rng.standard_normal((4, N_RANDOM)), y)


def linear_attention(X, y):
    w, q = rng.standard_normal((2, 4, N_RANDOM))
    return best(np.einsum("ntk,ntk->nk", X @ w, X @ q), y)


def self_attention(X, y):
    sizes = np.logspace(-2, 1, N_RANDOM // 10)[:, None, None]
    found = []
    for A in (sizes * rng.standard_normal((len(sizes), 4, 4)))[:, None]:
        pooled = (softmax(X @ A @ X.transpose(0, 2, 1)) @ X).mean(1)
        found.append(best(pooled @ rng.standard_normal((4, 10)), y))
    return max(found)


def prompt_attention(X, y):
    ridges = {
        "alpha_prompt": 1e-3,
        "alpha_head": 1e-3,
    }  # nothing here is to be smoothed
    model = PromptAttention(fit_intercept=False, standardize=None, **ridges)
    return model.fit(X, y).score(X, y)


models = {
    "linear\n(mean token)": linear,
    "linear\nattention": linear_attention,
    "self-\nattention": self_attention,
    "prompt-\nattention": prompt_attention,
}
accuracy = np.array(
    [[model(*sequences(d)) for model in models.values()] for d in TASKS.values()]
)

# %%

figure, ax = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
image = ax.imshow(accuracy, cmap="Blues", vmin=0.3, vmax=1.1, aspect="auto")
for (i, j), value in np.ndenumerate(accuracy):
    color = "white" if value > 0.8 else "black"
    ax.text(j, i, f"{value:.0%}", ha="center", va="center", color=color, fontsize=13)
ax.set_xticks(range(len(models)), models)
ax.set_yticks(range(len(TASKS)), TASKS)
ax.set_ylabel("how irrelevant tokens distract")
ax.tick_params(length=0)
ax.set_title("Share of noise-free sequences that the best model gets right")
plt.show()
