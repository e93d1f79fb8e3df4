"""
A plant with meters in between
==============================

Six pumps press water through valves into five tanks, and what runs over their weirs
makes the product. Its alkalinity is to be predicted from the pressures. Many thresholds
make this hard: a valve is shut or open, a tank runs over or does not. But the plant has
meters. Flows in the lines and overflows are known of the rows that a model is fitted
to, though not of those that it is to predict.

Look at the left picture. Of models that go from the pressures to the product, most
explain next to nothing from 80 rows, and the best, a Gaussian process (orange), about
half of the variance. `ChainOfThoughtRegressor` predicts the flows from the pressures,
from these the overflows, and from these the product, and leaves a tenth or less from 40
rows on. By default, a pretrained transformer does each step, and nothing is fitted
(blue). With `solver="filtered"`, each step is least squares on the rows where something
flows (green). That is the very form of this plant's laws: its error falls far below one
percent, if there are rows enough. With 20 it does worse than the transformer.

On the right are the steps from 40 rows, of a single draw. Each by itself, with true
readings of the step before, has a small error (open). In the chain of transformers that
of the product is much larger (full): acid and alkali cancel in it, and errors of the
overflows do not. Least squares may do better from predicted flows than from those that
were read: the meters have noise.

Takes about 10 seconds.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn.datasets import make_staged_process
from sklearn_attn.in_context import (
    ChainOfThoughtRegressor,
    InContextRegressor,
    StepRiskDisplay,
)

torch.set_num_threads(1)  # the networks are small: more threads wait for each other
SIZES, SEEDS, SHOWN = (20, 40, 80, 160), range(3), 40
kernel = ConstantKernel(1.0) * RBF(3.0) + WhiteKernel(0.5)
models = {
    "chain of transformers": ChainOfThoughtRegressor(),
    "chain of least squares": ChainOfThoughtRegressor(solver="filtered"),
    "transformer, no steps": InContextRegressor(),
    "Gaussian process": make_pipeline(
        StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True)
    ),
    "ridge": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 25))),
    "random forest": RandomForestRegressor(50, random_state=0),
}
colors = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "black", "#56B4E9")
X_test, steps_test, y_test = make_staged_process(500, random_state=99)
errors = {name: np.empty((len(SIZES), len(SEEDS))) for name in models}
risks = {}
for i, n in enumerate(SIZES):
    for j, seed in enumerate(SEEDS):
        X, steps, y = make_staged_process(n, random_state=seed)
        for name, model in models.items():
            is_chain = name.startswith("chain of")
            with warnings.catch_warnings():
                # without noise, lengths and noise of the kernel are at their bounds
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(X, y, **({"steps": steps} if is_chain else {}))
            errors[name][i, j] = 1 - model.score(X_test, y_test)
            if is_chain and (n, seed) == (SHOWN, 0):
                risks[name.removeprefix("chain of ")] = model.step_risk(
                    X_test, y_test, steps_test
                )
for name, error in errors.items():
    print(f"{name}: {np.median(error, 1).round(4).tolist()}")
for name, risk in risks.items():
    print(f"{name}: alone {risk.alone.round(4)}, chained {risk.chained.round(4)}")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
for (name, error), color, marker in zip(errors.items(), colors, "os^DvP"):
    style = {"color": color, "marker": marker, "label": name}
    left.plot(SIZES, np.median(error, 1), "-" if "chain" in name else "--", **style)
left.axhline(1, color="0.8", lw=1, zorder=0)
left.text(160, 1.2, "the mean of the training rows", color="0.5", ha="right")
left.set(xscale="log", yscale="log", ylim=(1e-4, 3), title="Error of the product")
left.set_xticks(SIZES, SIZES)
left.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
left.set(xlabel="training rows (median of three draws)")
left.set_ylabel("squared error, share of the variance")
left.spines[["top", "right"]].set_visible(False)
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6)
display = StepRiskDisplay(risks).plot(right)
for name, color in zip(risks, colors):
    for key in (name, f"{name} alone"):
        display.lines_[key].set(color=color)
right.set(title=f"Step by step, from {SHOWN} rows", ylim=(3e-5, 3))
right.legend(frameon=False, loc="upper center", ncols=2)
plt.show()
