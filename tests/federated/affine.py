"""Quadratic bilevel problems in closed form: maps are affine, F_m(u) = J_m u + k_m."""

from types import SimpleNamespace

import numpy as np
import torch

from sklearn_attn.datasets import make_federated_quadratic
from sklearn_attn.federated import quadratic_problem
from sklearn_attn.federated._clients import ClientBlock
from sklearn_attn.federated._engines import VmapEngine


def affine_maps(data):
    """Return J of shape (m, D, D) and k of shape (m, D), for u = (x, w, v)."""
    A, B, b, c = (data[name] for name in "ABbc")
    m, n_w, n_x = B.shape
    x, w, v = np.split(np.arange(n_x + 2 * n_w), [n_x, n_x + n_w])
    J, k = np.zeros((m, n_x + 2 * n_w, n_x + 2 * n_w)), np.zeros((m, n_x + 2 * n_w))
    # P = nu x + B' v,  S_w = A w - B x - b,  S_v = A v - (w - c)
    J[:, x, x] = data.nu
    J[:, x[:, None], v], J[:, w[:, None], x] = B.transpose(0, 2, 1), -B
    J[:, w[:, None], w] = J[:, v[:, None], v] = A
    J[:, v, w] = -1.0
    k[:, w], k[:, v] = -b, c
    return torch.from_numpy(J), torch.from_numpy(k)


def affine_engine(data, weights=None):
    """Return an engine that answers as `quadratic_problem`, some times sooner."""
    J, k = affine_maps(data)
    problem, _ = quadratic_problem(data)

    def maps(m, x, zs, *, with_values=True):
        J, k = m
        F = (J @ torch.cat([x, *zs], dim=-1)[..., None])[..., 0] + k
        P, *S = F.split([x.shape[-1], *(z.shape[-1] for z in zs)], dim=-1)
        return P, tuple(S), F.new_zeros(len(F))

    fast = SimpleNamespace(
        maps=maps,
        prepare=lambda m: m,
        x0=problem.x0,
        zs0=problem.zs0,
        project=None,
        pad_rows=False,
    )
    return VmapEngine(ClientBlock(fast, list(zip(J, k)), weights=weights))


def gradient(data, x):
    """Return nu x + B' A^{-1} (w*(x) - c), of the means."""
    A, B, b, c = (data[name].mean(0) for name in "ABbc")
    w = np.linalg.solve(A, B @ np.asarray(x) + b)
    return data.nu * np.asarray(x) + B.T @ np.linalg.solve(A, w - c)


def quadratic(heterogeneity=0.3, **kwargs):
    """Return a federation with inner curvatures in [1, 2], nu = 1 unless told."""
    kwargs = {"outer_l2": 1.0, "random_state": 0} | kwargs
    return make_federated_quadratic(heterogeneity=heterogeneity, **kwargs)
