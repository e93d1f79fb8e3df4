"""
A boost converter, run freely for 2,000 steps
=============================================

The duty ratio of a converter multiplies its current and voltage: the system is
bilinear. A linear model predicts the next step well and still cannot run by itself.
Look at the bottom: the bilinear model, which is told the first state and the duty
ratios, stays within about a volt for 2,000 steps, and mostly within the band that it
claims. The linear model is off by volts whenever the duty ratio is far from its mean.

Noise drives the converter in each step. The band holds 95 % of the runs of models that
are as likely as the fitted one, with noise of the estimated size.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LinearRegression

from sklearn_attn import BilinearSystemIdentifier, TrajectoryDisplay
from sklearn_attn.datasets import make_boost_converter

X, y = make_boost_converter(6000, noise=0.02, random_state=0)
train, test = slice(0, 4000), slice(4000, 6000)
model = BilinearSystemIdentifier(fit_intercept=True).fit(X[train], y[train])
linear = LinearRegression().fit(X[train], y[train])

state, linear_run = X[4000, :2], []
for duty in X[test, 2:]:
    linear_run.append(state)
    state = linear.predict(np.append(state, duty)[None])[0]
linear_run = np.array(linear_run)

# %%

figure, axes = plt.subplots(
    3, sharex=True, figsize=(8, 7), layout="constrained", height_ratios=(1, 1, 1.3)
)
display = TrajectoryDisplay.from_estimator(
    model,
    X[test, :2],
    X[test, 2:],
    state_names=["current (A)", "voltage (V)"],
    dt=0.02,
    axes=axes[:2],
)
axes[1].set_xlabel("")
times, free, measured = display.times, display.simulated[:, 1], X[test, 1]
low, high = display.low[:, 1] - free, display.high[:, 1] - free
axes[2].fill_between(times, low, high, color="#D55E00", alpha=0.25, lw=0)
axes[2].plot(times, linear_run[:, 1] - measured, color="0.5", label="linear model")
axes[2].plot(times, free - measured, color="#D55E00", label="bilinear model")
axes[2].set(xlabel="time (ms)", ylabel="voltage, simulated\nminus measured (V)")
axes[2].legend(loc="lower right", ncols=2, frameon=False)
axes[2].spines[["top", "right"]].set_visible(False)
errors = {"bilinear": display.simulated, "linear": linear_run}
for name, run in errors.items():
    rmse = np.sqrt(np.mean((run - X[test, :2])[:, 1] ** 2))
    print(f"{name}: voltage off by {rmse:.3f} V (root mean square)")
plt.show()
