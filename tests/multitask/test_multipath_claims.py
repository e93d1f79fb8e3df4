"""What theory says of many tasks over many paths, in numbers (2303.04338)."""

import numpy as np
import pytest
import torch

from sklearn_attn._task_moments import table_moments
from sklearn_attn.datasets import make_multipath_tasks, make_permuted_digit_tasks
from sklearn_attn.multitask import MultipathMTL, MultipathMTLClassifier, Supernet
from sklearn_attn.multitask._group_tasks import group_tasks
from sklearn_attn.multitask._path_step import path_losses
from sklearn_attn.multitask._task_equations import TaskEquations

pytestmark = pytest.mark.claim

P, R, WIDTH = 32, 8, 2
EXACT = {
    "alpha_head": 0.0,
    "alpha_module": 0.0,
    "fit_intercept": False,
    "solver": "als",
    "tol": 1e-12,
}


def draw(n_modules, per_module, n_samples, noise=0.0, seed=0):
    return make_multipath_tasks(
        n_modules * per_module, n_samples, P, layers=((1, R), (n_modules, WIDTH)),
        noise=noise, random_state=seed, return_model=True,
    )  # fmt: skip


def risk(model, truth):
    return ((model.task_coef_ - truth.coef) ** 2).sum(1).mean()


def test_the_counted_thresholds_are_those_of_the_running_example():
    nets = [
        Supernet.vanilla(P, R),
        Supernet.cluster(P, 40, WIDTH),
        Supernet(P, ((1, R), (40, WIDTH))),
    ]
    assert [net.degrees_of_freedom(400) for net in nets] == [3456, 3360, 1696]
    needed = [net.samples_needed(400) for net in nets]
    np.testing.assert_allclose(needed, [8.64, 8.40, 4.24])
    assert Supernet.hierarchical(P, 3, (8, 4, 2)).n_paths == 9
    assert Supernet.vanilla(P, 30).samples_needed(2) == P  # no more than by itself


@pytest.mark.parametrize("n_samples", [10, 7])
def test_known_paths_are_enough_where_others_fail(n_samples):
    """Counting says 4.24 samples, but 8.64 for one module and 8.40 for clusters."""
    X, y, tasks, truth = draw(40, 10, n_samples)
    model = MultipathMTL(((1, R), (40, WIDTH)), paths=truth.paths, **EXACT)
    assert risk(model.fit(X, y, tasks=tasks), truth) < 1e-6
    rivals = {0.5: (((400, 1),), np.arange(400))}  # each task by itself
    if n_samples == 7:
        rivals[0.1] = ((1, R),), np.zeros(400, dtype=int)
        rivals[0.2] = ((40, WIDTH),), np.arange(400) // 10
    for least, (layers, paths) in rivals.items():
        other = MultipathMTL(layers, paths=paths, **EXACT)
        with pytest.warns(UserWarning, match="samples on average"):
            other.fit(X, y, tasks=tasks)
        assert risk(other, truth) > least


def test_one_module_is_found_as_soon_as_counting_allows():
    """8.64 samples are asked for: 9 give all digits, and 8 none."""
    found = []
    for n_samples in (9, 8):
        X, y, tasks, truth = draw(40, 10, n_samples)
        model = MultipathMTL(((1, R),), **EXACT)
        if n_samples < 8.64:
            with pytest.warns(UserWarning, match="samples on average"):
                model.fit(X, y, tasks=tasks)
        else:
            model.fit(X, y, tasks=tasks)
        found.append(risk(model, truth))
    assert found[0] < 1e-10
    assert found[1] > 1e-2


def test_paths_are_found_and_cost_nothing():
    right, excess, vanilla = [], [], []
    for seed in range(10):
        X, y, tasks, truth = draw(10, 20, 14, noise=0.1, seed=seed)
        net = {"fit_intercept": False, "solver": "als", "random_state": 0}
        net["layers"] = ((1, R), (10, WIDTH))
        model = MultipathMTL(n_init=1, **net).fit(X, y, tasks=tasks)
        known = MultipathMTL(paths=truth.paths, **net).fit(X, y, tasks=tasks)
        right.append(model.path_agreement(truth.paths) == 1)
        excess.append(risk(model, truth) / risk(known, truth))
        if seed < 3:
            net["layers"] = ((1, R),)
            shared = MultipathMTL(**net).fit(X, y, tasks=tasks)
            vanilla.append(risk(shared, truth) / risk(model, truth))
    assert sum(right) >= 9
    assert np.median(excess) < 1.05
    assert np.median(vanilla) > 3


def test_forty_modules_are_told_apart():
    found = []
    for seed in range(3):
        X, y, tasks, truth = draw(40, 10, 20, noise=0.1, seed=seed)
        model = MultipathMTL(
            ((1, R), (40, WIDTH)), fit_intercept=False, solver="als", n_init=1,
            random_state=0,
        )  # fmt: skip
        found.append(model.fit(X, y, tasks=tasks).path_agreement(truth.paths))
    assert np.mean(found) > 0.93


def test_moving_modules_matters_where_searches_begin_by_chance():
    X, y, tasks, truth = draw(40, 10, 20, noise=0.1)
    rows = torch.from_numpy(np.column_stack([X @ truth.modules[0][0].T, y]))
    moments = table_moments(rows, torch.from_numpy(tasks))
    equations, _ = TaskEquations.of_moments(moments, 0.01, fit_intercept=False)
    values = {}
    for n_moves in (0, 60):
        groups = group_tasks(
            equations, 40, WIDTH, 0.02, n_moves=n_moves, start="one-by-one",
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        purity = [
            np.bincount(truth.paths[groups.codes == k, 1]).max(initial=0)
            for k in range(40)
        ]
        values[n_moves] = sum(purity) / len(truth.paths), groups.value
    assert values[0][0] < 0.9 < 0.97 < values[60][0]
    assert values[60][1] < values[0][1]


def test_one_module_on_a_shared_design_is_reduced_rank_regression():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 8)) @ rng.standard_normal((8, 8))
    Y = X @ rng.standard_normal((8, 12)) + rng.standard_normal((60, 12))
    model = MultipathMTL(((1, 3),), **EXACT).fit(X, Y)
    fitted = X @ np.linalg.lstsq(X, Y, rcond=None)[0]
    V = np.linalg.svd(fitted, full_matrices=False)[2][:3]
    np.testing.assert_allclose(model.predict(X), fitted @ V.T @ V, atol=1e-7)


def test_a_module_of_full_width_leaves_each_task_to_itself():
    X, y, tasks, _ = draw(2, 3, 50, noise=0.1)
    model = MultipathMTL(((1, P),), **EXACT).fit(X, y, tasks=tasks)
    for t in range(6):
        mine = tasks == t
        expected = np.linalg.lstsq(X[mine], y[mine], rcond=None)[0]
        np.testing.assert_allclose(model.task_coef_[t], expected, atol=1e-7)


def test_new_tasks_need_few_samples():
    """Eight samples are a fourth of the features, and four times the width."""
    X, y, tasks, truth = draw(10, 20, 20, noise=0.1)
    net = {"fit_intercept": False, "solver": "als", "random_state": 0}
    net["n_init"] = 1
    model = MultipathMTL(((1, R), (10, WIDTH)), **net).fit(X, y, tasks=tasks)
    vanilla = MultipathMTL(((1, R),), **net).fit(X, y, tasks=tasks)
    rng = np.random.default_rng(1)
    right, risks = 0, np.zeros(2)
    n_new = 100
    for i in range(n_new):
        k = i % 10
        head = rng.standard_normal(WIDTH)
        modules = truth.modules[1][k] @ truth.modules[0][0]
        theta = head / np.linalg.norm(head) @ modules
        rows = rng.standard_normal((8, P))
        target = rows @ theta + 0.1 * rng.standard_normal(8)
        for j, each in enumerate((model, vanilla)):
            each.add_task(rows, target, task=1000 + i)
            risks[j] += ((each.task_coef_[-1] - theta) ** 2).sum()
        right += model.path_id_[-1] == model.path_id_[20 * k]
    assert right >= 0.98 * n_new
    assert risks[1] > 10 * risks[0]


def test_paths_of_permuted_digits_are_found_and_pay():
    data = {"noise": 1.0, "random_state": 0}
    X, y, tasks, truth = make_permuted_digit_tasks(40, return_permutations=True, **data)
    X_test, y_test, t_test = make_permuted_digit_tasks(100, subset="test", **data)
    errors = {}
    for layers in (((4, 9),), ((1, 36),)):
        model = MultipathMTLClassifier(
            layers, solver="moment", alpha_head=3.0, n_init=1, random_state=0
        ).fit(X, y, tasks=tasks)
        errors[layers] = 1 - model.score(X_test, y_test, tasks=t_test)
        if len(layers) == 1 and layers[0][0] == 4:
            assert model.path_agreement(truth.paths) > 0.85
    assert errors[((4, 9),)] < 0.9 * errors[((1, 36),)]


def test_paths_cost_as_much_for_many_rows_as_for_few():
    """What the path step reads are sums; equal sums give equal losses."""
    X, y, tasks, truth = draw(4, 5, 30)
    losses = []
    for n in (1, 3):  # rows n times over
        rows = torch.from_numpy(np.tile(np.column_stack([X, y]), (n, 1)))
        moments = table_moments(rows, torch.from_numpy(np.tile(tasks, n)))
        equations, _ = TaskEquations.of_moments(moments, 0.1, fit_intercept=False)
        modules = [torch.from_numpy(B) for B in truth.modules]
        found = path_losses(equations, truth.supernet, modules, 0.0)
        losses.append(found / n)
    torch.testing.assert_close(*losses)
