"""
Digits that pay later: which image of the past is this reward due to?
=====================================================================

Every round shows a handwritten digit. It pays what it is worth, but 2, 9 and 30 rounds
later, three payments on top of each other and noise besides. Pixels are all that the
model sees. Look at the bars above the dashed line: three delays stand out among 100.
Below, what the model takes a digit to be worth, by the digit that was shown: it has
never seen a label, nor the reward of a single digit.

Cross-validation must respect the order of time. With folds of later rounds the model is
scored with the past that it has seen; shuffled folds tear the past away, and the same
model looks worthless.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import KFold, TimeSeriesSplit, cross_val_score

from sklearn_attn.bandits import DependencePatternDisplay, SparseDependenceBandit
from sklearn_attn.datasets import make_digit_rewards

X, y = make_digit_rewards(3000, random_state=0)
model = SparseDependenceBandit(horizon=100).fit(X, y)

in_order = TimeSeriesSplit(4, test_size=300)
shuffled = KFold(4, shuffle=True, random_state=0)
for name, folds in (("in order", in_order), ("shuffled", shuffled)):
    scores = cross_val_score(SparseDependenceBandit(horizon=100), X, y, cv=folds)
    print(f"folds {name}: R2 {np.round(scores, 2)}")

# %%

figure = plt.figure(figsize=(9, 7.5), layout="constrained")
above, below = figure.subfigures(2, height_ratios=(1.6, 1))
DependencePatternDisplay.from_estimator(model, axes=above.subplots(2, sharex=True))
images, _, digits = make_digit_rewards(
    1000, subset="test", random_state=1, return_digits=True
)
value = model.predict_value(images)
ax = below.subplots()
ax.boxplot([value[digits == digit] for digit in range(10)], positions=range(10))
ax.set(xlabel="digit that is shown", ylabel="value to the model")
ax.set_title("What an unseen image is worth in the long run")
ax.spines[["top", "right"]].set_visible(False)
plt.show()
