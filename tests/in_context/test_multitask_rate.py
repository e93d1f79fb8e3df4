"""Rates of learning to learn, by an exact minimiser  (2301.07067, theorem 3.5, fig. 4).

The algorithms are f(x) = x'P h with h = X'y / i, a layer of linear attention: training
is least squares in P, and risks are closed forms, as w ~ N(0, I) and x ~ N(0, I).
"""

import numpy as np
import pytest
import torch

N_SE = 4  # standard errors of what is a mean over independent trainings


def draw(n_tasks, n, d, generator):
    X = torch.randn(n_tasks, n, d, generator=generator, dtype=torch.float64)
    w = torch.randn(n_tasks, d, generator=generator, dtype=torch.float64)
    return X, w, torch.einsum("tnd,td->tn", X, w)


def prompts(X, y, last_only):
    """Return queries x, what they read h, and targets, one row for each answer."""
    i = torch.arange(1, X.shape[1], dtype=X.dtype)[:, None]
    H = torch.cumsum(y[..., None] * X, 1)[:, :-1] / i
    asked = slice(-1, None) if last_only else slice(None)
    return (a[:, asked].flatten(0, 1) for a in (X[:, 1:], H, y[:, 1:]))


def error(P, X, y, last_only=False):
    x, H, y = prompts(X, y, last_only)
    return float((y - torch.einsum("ni,ij,nj->n", x, P, H)).square().mean()) / len(P)


def train(X, y, last_only=False):
    """Return the P of the least training error: the normal equations of vec(P)."""
    d = X.shape[2]
    x, H, y = prompts(X, y, last_only)
    F = torch.einsum("ni,nj->nij", x, H).flatten(1)
    return torch.linalg.solve(F.mT @ F, F.mT @ y).reshape(d, d)


def lengths(n, last_only):
    return torch.arange(n - 1 if last_only else 1, n, dtype=torch.float64)


def transfer_risk(P, n, last_only=False):
    """Return the risk on new tasks, and the least one: E w h' = I, E h h' = a I."""
    d, eye = len(P), torch.eye(len(P), dtype=P.dtype)
    a = float((1 + (d + 1) / lengths(n, last_only)).mean())
    least = 1 - 1 / a
    return least + a * float((P - eye / a).square().sum()) / d, least


def multitask_risk(P, w, n):
    """Return the risk on new examples of w: E h h' = w w' + (w w' + w'w I) / i."""
    m = float((1 / lengths(n, False)).mean())
    Pw, w2 = w @ P.mT, w.square().sum(1)
    risk = w2 - 2 * (w * Pw).sum(1) + (1 + m) * Pw.square().sum(1)
    return float((risk + m * w2 * P.square().sum()).mean()) / w.shape[1]


def test_the_closed_forms_are_the_risks_that_are_measured():
    generator = torch.Generator().manual_seed(0)
    P = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    for last_only in (False, True):
        errors = []
        for _ in range(50):
            X, _, y = draw(1000, 5, 3, generator)
            errors.append(error(P, X, y, last_only))
        spread = np.std(errors) / len(errors) ** 0.5
        risk, _ = transfer_risk(P, 5, last_only)
        assert np.mean(errors) == pytest.approx(risk, abs=N_SE * spread)
    w = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    errors = []
    for _ in range(50):
        X, _, _ = draw(1000, 5, 3, generator)
        tasks = w.repeat(500, 1)
        errors.append(error(P, X, torch.einsum("tnd,td->tn", X, tasks)))
    spread = np.std(errors) / len(errors) ** 0.5
    assert np.mean(errors) == pytest.approx(multitask_risk(P, w, 5), abs=N_SE * spread)


def mean_gap(n, n_tasks, d=5, trainings=60):
    """Return the mean of risk less training error on the same tasks."""
    generator = torch.Generator().manual_seed(0)
    gaps = []
    for _ in range(trainings):
        X, w, y = draw(n_tasks, n, d, generator)
        P = train(X, y)
        gaps.append(multitask_risk(P, w, n) - error(P, X, y))
    return np.mean(gaps)


@pytest.mark.claim
def test_the_gap_to_training_falls_at_least_like_one_over_the_root_of_all_examples():
    """Theorem 3.5: at most 1 / sqrt(n T), up to log n; a slope of -1/2, or steeper."""
    sizes = [(n, n_tasks) for n in (6, 11, 21) for n_tasks in (20, 80, 320)]
    gaps = np.array([mean_gap(*size) for size in sizes])
    slope, _ = np.polyfit(
        np.log([n * n_tasks for n, n_tasks in sizes]), np.log(gaps), 1
    )
    assert slope <= -0.4
    by_size = gaps.reshape(3, 3)
    assert (np.diff(by_size, axis=1) < 0).all()  # more tasks
    assert (np.diff(by_size, axis=0) < 0).all()  # longer ones


def excess_risks(d, n_tasks, last_only):
    """Return the mean excess risk on new tasks, and its standard error."""
    generator = torch.Generator().manual_seed(0)
    excess = []
    for _ in range({5: 80, 10: 30, 20: 5}[d]):
        X, _, y = draw(n_tasks, 2 * d + 1, d, generator)
        risk, least = transfer_risk(train(X, y, last_only), 2 * d + 1, last_only)
        excess.append(risk - least)
    return np.mean(excess), np.std(excess, ddof=1) / len(excess) ** 0.5


@pytest.mark.claim
@pytest.mark.parametrize("last_only", [True, False])
def test_transfer_collapses_in_the_number_of_tasks_that_its_answers_make_up_for(
    last_only,
):
    """Figure 4: T / d^2 at equal n / d, if tasks tell one answer; T / d, if n.

    Risks at equal T / d^2 differ by a term in 1 / d: r (1 + c / d). So from d = 10 to
    20 they change by half of the change from 5 to 10, up to errors of the means.
    """
    power = 2 if last_only else 1
    (r5, e5), (r10, e10), (r20, e20) = (
        excess_risks(d, 8 * d**power, last_only) for d in (5, 10, 20)
    )
    change = (r10 - r20) - (r5 - r10) / 2
    tolerance = N_SE * np.sqrt((e5 / 2) ** 2 + (1.5 * e10) ** 2 + e20**2)
    assert abs(change) < tolerance < 0.4 * r20
    # not a matter of many tasks: with as many as d = 5 has, d = 10 is far behind
    behind, _ = excess_risks(10, 8 * 5**power, last_only)
    assert behind > 1.5 * r5
