"""min F(theta): L-BFGS, and then the root of the gradient."""

import numpy as np
import torch
from scipy.optimize import NoConvergence, minimize, newton_krylov

from ._solution import Solution

# A gradient of this many square roots of the rounding unit is flat.
_FLAT = 10.0
# Newton steps after L-BFGS: it stops where differences of the value drown in rounding,
# which leaves the solution good to six digits; the gradient tells more of them.
_MAX_NEWTON = 10


def lbfgs(
    value_and_gradient, start, *, tol, max_iter, on_iteration, dtype=torch.float64
):
    """Minimise a smooth function.

    Parameters
    ----------
    value_and_gradient : callable
        F(theta) and its gradient, from and to NumPy.
    start : ndarray
        Where to start.
    tol : float
        Stop where no entry of the gradient is larger.
    max_iter : int
        Limit of iterations.
    on_iteration : callable
        Called with (theta, objective so far) after each iteration; returns whether to
        stop.
    dtype : torch.dtype, default=torch.float64
        The precision of F.

    Returns
    -------
    Solution
        `value` is theta; `converged` is also True where `on_iteration` stopped, and
        `history` has the "objective" of each iteration and whether it was "stopped".
    """
    curve, stopped = [], False

    def after_iteration(intermediate_result):
        nonlocal stopped
        curve.append(float(intermediate_result.fun))
        stopped = bool(on_iteration(intermediate_result.x, curve))
        if stopped:
            raise StopIteration

    found = minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=after_iteration,
        options={"maxiter": max_iter, "ftol": 0.0, "gtol": tol, "maxcor": 20},
    )
    # Below this, differences of the value along the gradient drown in rounding, and the
    # line search gives up: that too is the minimum, as far as the value can tell.
    rounding = torch.finfo(dtype).eps ** 0.5
    flat = np.abs(found.jac).max() <= max(tol, _FLAT * rounding * max(1.0, found.fun))
    history = {"objective": curve, "stopped": [stopped]}
    return Solution(found.x, found.nit, bool(flat) or stopped, history)


def polish(gradient, theta):
    """Follow the gradient to its root, where that is a step from here.

    Returns theta itself where the search leads nowhere.
    """
    before = np.abs(gradient(theta)).max()
    try:
        with np.errstate(invalid="ignore"):  # 0 / 0 steps, where theta is zero
            found = newton_krylov(
                gradient, theta, f_tol=np.finfo(float).eps, maxiter=_MAX_NEWTON
            )
    except NoConvergence as last:  # rounding is reached before f_tol
        (found,) = last.args
    except ValueError:  # the step is not finite
        return theta
    return found if np.abs(gradient(found)).max() < before else theta
