"""min_{h, a} (1/M) sum_i l(y_i, h'phi_a(x_i)): a task over frozen modules (2303.04338).

The path is the one whose ridge regression errs least on samples that are left out one
at a time. With H the matrix that maps targets to fits, these are e_i / (1 - H_ii).
"""

import torch

from ._task_equations import cholesky

# A sample that determines its own fit, 1 - H_ii = 0, says nothing of the error.
LEAST_FREEDOM = 1e-6


def path_errors(z, Y, shift, *, fit_intercept, left_out=True):
    """Return the mean squared error of a ridge regression along each path.

    Parameters
    ----------
    z : torch.Tensor of shape (n_paths, M, r)
        What each path makes of the samples.
    Y : torch.Tensor of shape (M, k)
        Targets; errors are summed over them.
    shift : torch.Tensor of shape (n_paths, r, r)
        The ridge, as a matrix.
    fit_intercept : bool
        Whether there is a constant.
    left_out : bool, default=True
        Whether a sample is left out of the fit that it is compared with.

    Returns
    -------
    torch.Tensor of shape (n_paths,)
        The errors.
    """
    M, share = z.shape[1], 0.0
    if fit_intercept:
        z, Y, share = z - z.mean(1, keepdim=True), Y - Y.mean(0), 1.0 / M
    root = cholesky(z.mT @ z + shift)
    half = torch.linalg.solve_triangular(root, z.mT, upper=False)  # (n_paths, r, M)
    errors = Y - half.mT @ (half @ Y)
    if left_out:
        free = 1 - share - (half * half).sum(1)
        errors = errors / free.clamp(min=LEAST_FREEDOM)[:, :, None]
    return (errors * errors).sum(2).mean(1)


def ridge_error(x, Y, alphas, *, fit_intercept):
    """Return the least leave-one-out error of ridge regressions without modules."""
    scale = (x - x.mean(0) if fit_intercept else x).square().sum(0).mean()
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return min(
        float(path_errors(x[None], Y, a * scale * eye, fit_intercept=fit_intercept)[0])
        for a in alphas
    )
