"""Ridge path: min L(v, b, p) + mu/2 ||v||^2 + lam/2 ||p||^2, for decreasing lam.

The practical form of the regularisation path p(R) of 2306.13596: each ridge lam stands
for one radius R, and each solution starts the search for the next.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from .._arrays import to_numpy, to_tensor
from .._lbfgs import lbfgs
from .._solution import Solution
from ._erm import AttentionERM

_MAX_NEWTON = 10  # steps after L-BFGS; two are usual
# A stationary point whose curvature is below minus this part of the largest one is a
# saddle (p = 0 is one if the mean tokens of both classes agree). It is left at most
# `_MAX_ESCAPES` times, by steps of these lengths along the most negative direction.
_NEGATIVE_CURVATURE = 1e-6
_ESCAPE_LENGTHS = (1.0, 0.1, 0.01)
_MAX_ESCAPES = 5


@dataclass(frozen=True)
class RidgeERM:
    """L(v, b, p) + mu/2 ||v||^2 + lam/2 ||p||^2 in one vector (v, b, p)."""

    erm: AttentionERM
    head_reg: float
    attention_reg: float

    @property
    def ridge(self):
        """The ridge of each entry of (v, b, p); the intercept has none."""
        ridge = np.full(self.erm.n_head + self.erm.keys.shape[2], self.head_reg)
        ridge[self.erm.n_head :] = self.attention_reg
        if self.erm.intercept:
            ridge[self.erm.n_head - 1] = 0.0
        return ridge

    def split(self, theta):
        """Return head (with its intercept) and prompt, as tensors."""
        theta = to_tensor(
            theta, device=self.erm.values.device, dtype=self.erm.values.dtype
        )
        return theta[: self.erm.n_head], theta[self.erm.n_head :]

    def value_and_gradient(self, theta):
        """Return the penalised risk and its gradient."""
        found = self.erm.gradient(*self.split(theta))
        gradient = torch.cat(
            [
                found.head * found.head_exponent.exp(),
                found.prompt * found.prompt_exponent.exp(),
            ]
        )
        penalty = self.ridge * theta
        value = found.value.item() + penalty @ theta / 2
        return value, to_numpy(gradient).astype(float) + penalty

    def hessian(self, theta):
        """Return the matrix of second derivatives."""
        hessian = to_numpy(self.erm.hessian(*self.split(theta))).astype(float)
        return hessian + np.diag(self.ridge)


def ridge_path(
    erm, *, head_reg, attention_reg, start, tol, max_iter, on_stage, on_iteration
):
    """Follow the minimisers of the penalised risk along ridges of the prompt.

    Parameters
    ----------
    erm : AttentionERM
        The risk.
    head_reg : float
        Ridge mu of the head.
    attention_reg : sequence of float
        Ridges lam of the prompt, in the order in which they are visited.
    start : ndarray of shape (n_head + n_token_features,)
        Where the search for the first ridge starts.
    tol : float
        L-BFGS stops where no entry of the gradient is larger.
    max_iter : int
        Limit of L-BFGS iterations for each ridge.
    on_stage : callable
        Called with the number of the stage before it starts.
    on_iteration : callable
        Called with (theta, objective) after each iteration; returns whether to stop
        this stage.

    Returns
    -------
    Solution
        `value` is (v, b, p) in one array; `history` has the "objective" of every
        iteration. `converged` is False where a stage ended at `max_iter`.
    """
    theta, curve, n_iter, converged = start, [], 0, True

    def after_iteration(theta, of_this_search):
        curve.append(of_this_search[-1])
        return on_iteration(theta, curve)

    def search(theta):
        nonlocal n_iter
        found = lbfgs(
            problem.value_and_gradient,
            theta,
            tol=tol,
            max_iter=max_iter,
            on_iteration=after_iteration,
            dtype=erm.values.dtype,
        )
        n_iter += found.n_iter
        return found, *found.history["stopped"]

    for stage, lam in enumerate(attention_reg):
        on_stage(stage)
        problem = RidgeERM(erm, head_reg, lam)
        found, stopped = search(theta)
        for _ in range(_MAX_ESCAPES if stage == len(attention_reg) - 1 else 0):
            leaving = None if stopped else _leave_saddle(problem, found.value)
            if leaving is None:
                break
            found, stopped = search(leaving)
        theta = found.value
        converged &= found.converged
    if converged and not stopped:
        theta = _newton(problem, theta)
    return Solution(theta, n_iter, converged, {"objective": curve})


def _newton(problem, theta):
    """Polish a minimiser: plain Newton steps for as long as they halve the gradient."""
    gradient = problem.value_and_gradient(theta)[1]
    for _ in range(_MAX_NEWTON):
        try:
            step = cho_solve(cho_factor(problem.hessian(theta)), gradient)
        except np.linalg.LinAlgError:
            break  # a direction without any curvature: what L-BFGS found stands
        before, moved_gradient = gradient, problem.value_and_gradient(theta - step)[1]
        if np.linalg.norm(moved_gradient) < np.linalg.norm(before):
            theta, gradient = theta - step, moved_gradient
        if not np.linalg.norm(gradient) < np.linalg.norm(before) / 2:
            break
    return theta


def _leave_saddle(problem, theta):
    """Return a lower point along the most negative curvature, or None at a minimum."""
    hessian = problem.hessian(theta)
    try:
        cho_factor(hessian)  # a tenth of the time that eigenvalues take
        return None
    except np.linalg.LinAlgError:
        curvature, directions = np.linalg.eigh(hessian)
    if curvature[0] >= -_NEGATIVE_CURVATURE * curvature[-1]:
        return None
    direction = directions[:, 0]
    direction = direction * np.sign(direction[np.abs(direction).argmax()])
    candidates = [
        theta + sign * length * direction
        for length in _ESCAPE_LENGTHS
        for sign in (1, -1)
    ]
    values = [problem.value_and_gradient(candidate)[0] for candidate in candidates]
    if min(values) >= problem.value_and_gradient(theta)[0]:
        return None
    return candidates[int(np.argmin(values))]
