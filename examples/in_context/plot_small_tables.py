"""
Small tables, without any fitting
=================================

`InContextRegressor` reads the training rows and answers. Nothing is fitted and nothing
tuned; ridge regression (by leave-one-out), the Gaussian process (by its likelihood) and
the forest are fitted to each table. Tables are small, 20 to 120 rows, as those that the
weights were pretrained for.

Look at the blue curves: they lie on those of ridge regression (black) in all pictures,
or below. On the alcohol of wines, from 20 rows, ridge regression fails in some splits,
and the blue curve does not, but the forest and the Gaussian process are better than
both. It loses on the last table, whose target is a smooth function and far from linear:
from 120 rows the Gaussian process has an error of 0.23, and the others 0.32. The
weights were pretrained on networks, too, but mostly on linear tasks, and that is what
they expect. Of 5 tables and 3 sizes none is one where they alone are the best by more
than the error bars.

Takes about 40 seconds.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_iris,
    load_wine,
    make_friedman1,
)
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.in_context import InContextRegressor

torch.set_num_threads(1)
SIZES, N_SPLITS = (20, 50, 120), 6
kernel = ConstantKernel(1.0) * RBF(3.0) + WhiteKernel(0.5)
models = {
    "in context": InContextRegressor("icl-mixed"),
    "ridge": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 25))),
    "Gaussian process": make_pipeline(
        StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True)
    ),
    "random forest": RandomForestRegressor(50, random_state=0),
}


def column(table, j):
    """Return a table without column j, and that column as its target."""
    return np.delete(table, j, axis=1), table[:, j]


tables = {
    "diabetes:\nprogression": load_diabetes(return_X_y=True),
    "wine:\nalcohol": column(load_wine().data, 0),
    "iris:\npetal width": column(load_iris().data, 3),
    "breast cancer:\nmean fractal dimension": column(
        load_breast_cancer().data[:, :10], 9
    ),
    "Friedman 1, simulated:\nsmooth, not linear": make_friedman1(
        500, 10, noise=1.0, random_state=0
    ),
}


def errors(model, X, y, n):
    """Return the error of each split, in units of the variance of its test rows."""
    n_test = min(200, len(X) - n)
    splits = ShuffleSplit(N_SPLITS, train_size=n, test_size=n_test, random_state=0)
    found = []
    for train, test in splits.split(X):
        with warnings.catch_warnings():
            # lengths of the kernel at their bounds: features that hardly matter
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X[train], y[train])
        found.append(1 - model.score(X[test], y[test]))
    return found


risks = {
    (table, name): np.array([errors(model, X, y, n) for n in SIZES])
    for table, (X, y) in tables.items()
    for name, model in models.items()
}
for (table, name), risk in risks.items():
    print(table.replace("\n", " "), name, risk.mean(1).round(3).tolist(), sep=", ")

# %%

figure, axes = plt.subplots(
    1, len(tables), figsize=(14, 3.8), sharey=True, layout="constrained"
)
colors = ("#0072B2", "black", "#009E73", "#D55E00")
for ax, table in zip(axes, tables):
    for name, color, marker in zip(models, colors, "os^D"):
        risk = risks[table, name]
        spread = risk.std(1, ddof=1) / np.sqrt(N_SPLITS)
        # in context on top, and smaller: it often lies on ridge regression
        style = {"zorder": 3, "ms": 4} if name == "in context" else {"ms": 7}
        style |= {"color": color, "marker": marker, "label": name}
        ax.errorbar(SIZES, risk.mean(1), spread, **style)
    ax.axhline(1, color="0.8", lw=1, zorder=0)
    ax.set(xscale="log", ylim=(0, 1.1), title=table, xlabel="training rows")
    ax.set_xticks(SIZES, SIZES)
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].text(20, 1.01, "the mean of the training rows", color="0.5", fontsize=9)
axes[0].set_ylabel("squared error, share of the variance\n(lower is better)")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()
