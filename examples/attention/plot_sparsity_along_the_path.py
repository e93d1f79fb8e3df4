"""
Attention gets sparse as the prompt grows
=========================================

Softmax attention becomes sparse because training makes the prompt longer. Look at the
left picture: while the regularisation of the prompt falls and its norm grows, the
number of digits that a bag's attention is spread over falls from all ten towards one.
It is counted as 1 / sum of the squared weights: T for equal weights, 1 where a single
token has all of it.

On the right is the accuracy on test bags along the same path. Attention pays off early,
while some tokens still share it; to saturate it costs accuracy. This is what the last
entry of `attention_reg` is for. The paper (arXiv:2306.13596) shows the same fall of
the number of tokens, epoch by epoch, for a vision transformer. Takes about 8 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn import AttentionSVMClassifier
from sklearn_attn.datasets import make_digit_bags

X, y = make_digit_bags(500, digits=(3, 8), random_state=0)
X_test, y_test = make_digit_bags(500, digits=(3, 8), subset="test", random_state=1)

# %%
# The ridge of the prompt falls, and each fit runs through the larger ridges first.

ridges = np.logspace(0, -4, 9)
norms, spreads, accuracies = [], [], []
for end in range(1, len(ridges) + 1):
    classifier = AttentionSVMClassifier(
        attention_reg=ridges[:end], refit=None, tol=1e-4
    )
    classifier.fit(X, y)
    weights = classifier.attention(X_test)
    norms.append(np.linalg.norm(classifier.attention_coef_))
    spreads.append(1 / (weights**2).sum(1))
    accuracies.append(classifier.score(X_test, y_test))
spreads = np.array(spreads)

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
low, middle, high = np.quantile(spreads, [0.1, 0.5, 0.9], axis=1)
left.fill_between(
    norms, low, high, color="#0072B2", alpha=0.2, label="80 % of the bags"
)
left.plot(norms, middle, "o-", color="#0072B2", label="median bag")
left.axhline(1, color="gray", ls=":")
left.set(
    title="The longer the prompt, the fewer digits it looks at",
    ylim=(0, 10.4),
    ylabel="digits that attention is spread over, of 10",
)
left.legend(frameon=False)
right.plot(norms, accuracies, "o-", color="#D55E00")
right.set(title="... which pays up to a point", ylabel="accuracy on test bags")
for ax in (left, right):
    ax.set_xlabel("norm of the prompt")
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
