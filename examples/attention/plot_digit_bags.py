"""
Bags of digits: finding the one that counts
===========================================

Each row is a bag of ten handwritten digits. Exactly one of them is a 3 or an 8, and
that is the label of the bag; nobody says which one it is. Look at the orange frames:
the classifier learned to attend to that digit, from the labels of 500 bags alone. The
bars are the attention weights. The last rows are bags that it gets wrong: there it
looks at the right digit and misreads it, or at another one that resembles a 3 or an 8.

Compare with a linear model of the mean image, which has no attention: its accuracy is
printed below. No image of the test bags was used for training. The protocol is that of
Ilse, Tomczak and Welling (ICML 2018), the classifier that of arXiv:2306.13596.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.svm import LinearSVC

from sklearn_attn import AttentionDisplay, AttentionSVMClassifier
from sklearn_attn.datasets import make_digit_bags

X, y = make_digit_bags(500, digits=(3, 8), random_state=0)
X_test, y_test, position = make_digit_bags(
    500, digits=(3, 8), subset="test", random_state=1, return_selected=True
)

classifier = AttentionSVMClassifier().fit(X, y)
mean_image = LinearSVC().fit(X.mean(1), y)
found = classifier.select_tokens(X_test) == position
print(f"accuracy with attention:      {classifier.score(X_test, y_test):.3f}")
print(f"accuracy with the mean image: {mean_image.score(X_test.mean(1), y_test):.3f}")
print(f"attends to the right digit:   {found.mean():.3f}")

# %%

right = classifier.predict(X_test) == y_test
bags = np.concatenate([np.flatnonzero(right)[:4], np.flatnonzero(~right)[:2]])
display = AttentionDisplay.from_estimator(
    classifier, X_test[bags], y=y_test[bags], token_images=(8, 8)
)
display.figure_.suptitle("Which digit of the bag is a 3 or an 8, and which of the two?")
plt.show()
