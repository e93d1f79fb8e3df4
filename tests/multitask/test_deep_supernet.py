"""Supernets of nonlinear modules: heads, modules, and how they are trained."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import adjusted_rand_score

from sklearn_attn.multitask._deep_supernet import ACTIVATIONS, DeepSupernet
from sklearn_attn.multitask._supernet import Supernet, compose
from sklearn_attn.multitask._task_heads import (
    class_logits,
    logistic_heads,
    ridge_heads,
)
from sklearn_attn.multitask._train_supernet import train_supernet

TREE = Supernet(6, ((1, 5), (2, 4), (4, 3)), tree=True)
GRID = Supernet(6, ((2, 5), (3, 4), (2, 3)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def ragged(seed=0, counts=(40, 7, 90, 25)):
    """Features, noise and tasks of rows in any order, of tasks of different sizes."""
    task = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    task = task[torch.randperm(len(task), generator=generator(seed))]
    return normal(len(task), 3, seed=seed) + 2.0, normal(len(task), seed=seed + 1), task


def supernet(net=GRID, **settings):
    model = DeepSupernet(net, generator=generator(1), **settings)
    with torch.no_grad():
        for c in model.biases:
            c.copy_(normal(*c.shape, seed=2))
    return model


def some_paths(net, n, seed=3):
    pick = torch.randint(net.n_paths, (n,), generator=generator(seed))
    return net.pathways[pick]


def mean_diagonal(z, fit_intercept):
    z = z - z.mean(0) if fit_intercept else z
    return float(z.square().sum()) / z.shape[1]


# heads


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_ridge_heads_are_those_of_ridge_regression_of_each_task(fit_intercept):
    z, y, task = ragged()
    found = ridge_heads(z, y, task, 4, 0.1, fit_intercept=fit_intercept)
    for t, coef, intercept in zip(range(4), *found):
        own = z[task == t]
        alpha = 0.1 * mean_diagonal(own, fit_intercept)
        ridge = Ridge(alpha=alpha, fit_intercept=fit_intercept)
        ridge.fit(own.numpy(), y[task == t].numpy())
        np.testing.assert_allclose(coef, ridge.coef_, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(intercept, ridge.intercept_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("counts", [(1, 2, 40), (2, 2, 2)])
def test_ridge_heads_without_penalty_are_the_shortest_that_fit(counts):
    z, y, task = ragged(counts=counts)
    z = torch.cat([z, z[:, :1], torch.ones_like(z[:, :1])], 1)
    coef, _ = ridge_heads(z, y, task, len(counts), 0.0, fit_intercept=False)
    for t in range(len(counts)):
        best = torch.linalg.pinv(z[task == t]) @ y[task == t]
        torch.testing.assert_close(coef[t], best, rtol=1e-7, atol=1e-7)


def classes_of_tasks(counts=(40, 12, 90, 25)):
    """Tasks of two, one, three and two of five classes."""
    z, _, task = ragged(counts=counts)
    labels = torch.tensor(
        [[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0, 1, 0, 1, 0]]
    ).bool()
    score = (z - 2.0) @ normal(3, 5, seed=4) + normal(len(z), 5, seed=5)
    return z, score.masked_fill(~labels[task], -torch.inf).argmax(1), task, labels


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_logistic_heads_are_those_of_logistic_regression_of_each_task(fit_intercept):
    z, codes, task, labels = classes_of_tasks()
    solution = logistic_heads(
        z, codes, task, labels, 0.01, fit_intercept=fit_intercept, tol=1e-15
    )
    assert solution.converged
    coef, intercept = solution.value
    P = class_logits(z, task, coef, intercept, labels).softmax(1)
    for t in (0, 2, 3):
        own, seen = z[task == t], codes[task == t]
        # the single vector of two classes is twice that of each of them
        share = 2.0 if labels[t].sum() == 2 else 1.0
        C = share / (0.01 * mean_diagonal(own, fit_intercept))
        settings = {"C": C, "fit_intercept": fit_intercept, "tol": 1e-10}
        regression = LogisticRegression(max_iter=10_000, **settings)
        regression.fit(own.numpy(), seen.numpy())
        expected = regression.predict_proba(own.numpy())
        # lbfgs stops at slopes of 1e-10, which bound probabilities less tightly
        np.testing.assert_allclose(P[task == t][:, labels[t]], expected, atol=1e-6)


def test_classes_that_a_task_does_not_have_get_no_probability():
    z, codes, task, labels = classes_of_tasks()
    coef, intercept = logistic_heads(
        z, codes, task, labels, 0.01, fit_intercept=True
    ).value
    P = class_logits(z, task, coef, intercept, labels).softmax(1)
    assert (P[~labels[task]] == 0).all()
    assert (P[task == 1][:, 1] == 1).all()
    assert (coef[~labels] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heads_of_separable_classes_are_finite(dtype):
    z, _, task = ragged()
    codes = (z[:, 0] > 2).long()
    z = torch.cat([z, torch.ones_like(z[:, :1])], 1).to(dtype)
    labels = torch.ones(4, 2, dtype=torch.bool)
    solution = logistic_heads(z, codes, task, labels, 0.0, fit_intercept=True)
    coef, intercept = solution.value
    assert solution.converged
    assert coef.dtype == dtype
    assert torch.isfinite(coef).all()
    logits = class_logits(z, task, coef, intercept, labels)
    assert (logits.argmax(1) == codes).all()


# modules


def loop(model, x, paths):
    """Row by row."""
    rows = []
    for row, path in zip(x, paths):
        h = row[None]
        for layer, k in enumerate(path.tolist()):
            if model.modules_of_user:
                h = model.modules_of_user[layer][k](h)
                continue
            h = h @ model.weights[layer][k].T
            if model.biases:
                h = h + model.biases[layer][k]
            h = ACTIVATIONS[model.activation](h)
        rows.append(h[0])
    return torch.stack(rows)


def layer_of_user(p, r):
    return torch.nn.Sequential(torch.nn.Linear(p, r), torch.nn.LeakyReLU())


@pytest.mark.parametrize("net", [GRID, TREE], ids=["grid", "tree"])
@pytest.mark.parametrize(
    "settings",
    [*({"activation": name} for name in ACTIVATIONS), {"module": layer_of_user}],
    ids=[*ACTIVATIONS, "user"],
)
def test_grouping_rows_by_module_equals_one_row_at_a_time(net, settings):
    model = supernet(net, **settings)
    x, paths, weight = normal(30, 6), some_paths(net, 30), normal(30, 3, seed=5)
    weights = list(model.parameters())
    found, expected = model(x, paths), loop(model, x, paths)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = torch.autograd.grad((weight * found).sum(), weights, allow_unused=True)
    wanted = torch.autograd.grad((weight * expected).sum(), weights, allow_unused=True)
    for slope, want, W in zip(slopes, wanted, weights):
        want = torch.zeros_like(W) if want is None else want
        slope = torch.zeros_like(W) if slope is None else slope
        torch.testing.assert_close(slope, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("net", [GRID, TREE], ids=["grid", "tree"])
@pytest.mark.parametrize("module", [None, layer_of_user], ids=["built-in", "user"])
def test_all_paths_are_the_paths_one_by_one(net, module):
    model = supernet(net, module=module)
    x = normal(7, 6)
    features = model.all_paths(x)
    assert features.shape == (net.n_paths, 7, 3)
    for z, path in zip(features, net.pathways):
        one = model(x, path.expand(7, -1))
        torch.testing.assert_close(z, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("net", [GRID, TREE], ids=["grid", "tree"])
@pytest.mark.parametrize("module", [None, layer_of_user], ids=["built-in", "user"])
def test_gates_of_one_module_each_are_a_path(net, module):
    model = supernet(net, module=module)
    x, paths = normal(9, 6), some_paths(net, 9)
    gates = [
        torch.nn.functional.one_hot(paths[:, layer], K).double()
        for layer, K in enumerate(net.n_modules)
    ]
    mixed = model.mixed(x, gates[-1] if net.tree else gates)
    torch.testing.assert_close(mixed, model(x, paths), rtol=1e-12, atol=1e-12)


def test_the_identity_as_activation_gives_products_of_matrices():
    model = supernet(activation="identity")
    assert not model.biases
    x, paths = normal(12, 6), some_paths(GRID, 12)
    product = compose(list(model.weights), paths)[-1]
    expected = (product @ x[:, :, None])[:, :, 0]
    torch.testing.assert_close(model(x, paths), expected, rtol=1e-12, atol=1e-12)


def test_other_names_of_modules_change_nothing():
    model, renamed = supernet(), supernet()
    x, paths = normal(12, 6), some_paths(GRID, 12)
    swap = torch.tensor([2, 0, 1])  # module k of the second layer is now swap[k]
    with torch.no_grad():
        renamed.weights[1][swap] = model.weights[1]
        renamed.biases[1][swap] = model.biases[1]
    other = paths.clone()
    other[:, 1] = swap[paths[:, 1]]
    torch.testing.assert_close(renamed(x, other), model(x, paths), rtol=0, atol=1e-14)


def test_first_modules_have_orthogonal_rows_that_keep_the_variance():
    model = DeepSupernet(GRID, activation="relu", generator=generator())
    for W in model.weights[0]:
        expected = 2.0 * torch.eye(5, dtype=W.dtype)
        torch.testing.assert_close(W @ W.T, expected, rtol=0, atol=1e-12)


# training


def teacher(classes=False, n=60, seed=0, n_tasks=20):
    """Tasks that read one of two modules tanh(B x), B of shape (2, 8)."""
    g = generator(seed)
    draw = {"generator": g, "dtype": torch.float64}
    B = 1.5 * torch.linalg.qr(torch.randn(2, 8, 2, **draw))[0].mT
    heads = 1.5 * torch.randn(n_tasks, 2, **draw)
    paths = (torch.arange(n_tasks) % 2)[:, None]

    def rows(n):
        task = torch.arange(n_tasks).repeat_interleave(n)
        task = task[torch.randperm(len(task), generator=g)]
        x = torch.randn(len(task), 8, **draw)
        z = torch.tanh(B[paths[task, 0]] @ x[:, :, None])[:, :, 0]
        y = (z * heads[task]).sum(1) + 0.05 * torch.randn(len(task), **draw)
        if classes:
            y = (y > 0).long() + 2 * (task % 3)  # six classes, two for each task
        return x, y, task

    return rows(n), rows(100), paths


def labels_of(y, task):
    labels = torch.zeros(int(task.max()) + 1, int(y.max()) + 1, dtype=torch.bool)
    labels[task, y] = True
    return labels


def train(data, n_modules=2, seed=0, module=None, width=2, **settings):
    x, y, task = data
    g = generator(100 + seed)  # not the numbers that the teacher was drawn from
    settings = {
        "alpha_head": 1e-3,
        "alpha_module": 0.0,
        "fit_intercept": True,
        "learning_rate": 1e-2,
        "batch_size": None,
        "max_iter": 400,
        "tol": 1e-3,
        "generator": g,
    } | settings
    net = DeepSupernet(
        Supernet(8, ((n_modules, width),)),
        activation="tanh",
        module=module,
        generator=g,
        dtype=x.dtype,
    )
    return train_supernet(net, x, y, task, int(task.max()) + 1, **settings)


def risk(trained, data):
    """Share of the variance that is not explained."""
    x, y, task = data
    with torch.no_grad():
        z = trained.net(x, trained.paths[task])
    found = (trained.coef[task] * z).sum(1) + trained.intercept[task]
    return float((found - y).square().mean() / y.var())


def test_known_paths_beat_a_module_that_all_tasks_share():
    data, new, paths = teacher()
    known = risk(train(data, paths=paths).value, new)
    shared = risk(train(data, n_modules=1).value, new)
    # noise of 0.05 is some thousandths of the variance
    assert known < 0.01
    assert shared > 0.1


@pytest.mark.parametrize("path_search", ["gumbel", "em", "anneal_em"])
def test_a_search_finds_the_paths(path_search):
    # local minima remain: of the first twelve teachers, ten or eleven are found
    data, new, paths = teacher(seed=2)
    solution = train(data, path_search=path_search)
    found = solution.value.paths
    assert adjusted_rand_score(paths[:, 0], found[:, 0]) == 1.0
    assert risk(solution.value, new) < 0.01
    assert len(solution.history["objective"]) == solution.n_iter


@pytest.mark.parametrize("path_search", ["em", "anneal_em"])
def test_a_search_finds_the_paths_of_classifiers(path_search):
    data, new, paths = teacher(classes=True, n=100, seed=2)
    labels = labels_of(*data[1:])
    trained = train(data, labels=labels, path_search=path_search).value
    assert adjusted_rand_score(paths[:, 0], trained.paths[:, 0]) == 1.0
    x, y, task = new
    with torch.no_grad():
        z = trained.net(x, trained.paths[task])
    logits = class_logits(z, task, trained.coef, trained.intercept, labels)
    assert (logits.argmax(1) == y).double().mean() > 0.9


@pytest.mark.parametrize("path_search", ["gumbel", "em"])
@pytest.mark.parametrize("classes", [False, True])
def test_a_search_in_a_tree_ends_with_paths_of_the_tree(path_search, classes):
    x, y, task = teacher(classes=classes, n=20)[0]
    labels = labels_of(y, task) if classes else None
    net = Supernet(8, ((1, 4), (2, 3), (4, 2)), tree=True)
    trained = train_supernet(
        DeepSupernet(net, generator=generator()),
        x,
        y,
        task,
        20,
        labels=labels,
        path_search=path_search,
        alpha_head=1e-3,
        alpha_module=1e-4,
        fit_intercept=False,
        learning_rate=1e-2,
        batch_size=100,
        max_iter=12,
        tol=1e-3,
        generator=generator(),
    ).value
    assert torch.equal(trained.paths, net.pathways[trained.paths[:, -1]])
    assert (trained.intercept == 0).all()
    assert torch.isfinite(trained.coef).all()


def with_dropout(p, r):
    return torch.nn.Sequential(
        torch.nn.Linear(p, r), torch.nn.Tanh(), torch.nn.Dropout(0.1)
    )


def test_modules_of_the_user_are_trained():
    data, new, paths = teacher()

    def layer(p, r):
        return torch.nn.Sequential(torch.nn.Linear(p, r), torch.nn.Tanh())

    assert risk(train(data, paths=paths, module=layer).value, new) < 0.01


@pytest.mark.parametrize("path_search", ["gumbel", "anneal_em"])
def test_a_seed_gives_the_same_and_global_state_is_left_alone(path_search):
    data, _, _ = teacher(n=10)
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    settings = {"max_iter": 30, "path_search": path_search, "batch_size": 64}
    with torch.no_grad():
        first = train(data, module=with_dropout, **settings).value
        assert not torch.is_grad_enabled()
        torch.rand(3)
        torch.set_rng_state(state)
        again = train(data, module=with_dropout, **settings).value
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(first.paths, again.paths)
    assert torch.equal(first.coef, again.coef)


@pytest.mark.parametrize("classes", [False, True])
def test_float32_stays_float32(classes):
    x, y, task = teacher(classes=classes, n=10)[0]
    labels = labels_of(y, task) if classes else None
    y = y if classes else y.float()
    for path_search in ("gumbel", "em"):
        settings = {"labels": labels, "path_search": path_search, "max_iter": 12}
        trained = train((x.float(), y, task), **settings).value
        assert trained.coef.dtype == trained.intercept.dtype == torch.float32


def test_a_caller_can_look_and_stop():
    data, _, _ = teacher(n=10)
    seen = []

    def on_epoch(epoch, objective, snapshot):
        seen.append((epoch, objective, snapshot()))
        return epoch == 4

    solution = train(data, path_search="em", on_epoch=on_epoch)
    assert solution.n_iter == 4
    assert not solution.converged
    assert [objective for _, objective, _ in seen] == solution.history["objective"]
    first, last = seen[0][2], seen[-1][2]
    assert not torch.equal(first.net.weights[0], last.net.weights[0])
    assert risk(last, data) < risk(first, data)


def test_heads_are_solved_for_in_the_end():
    data, _, paths = teacher(n=10)
    x, y, task = data
    trained = train(data, paths=paths, max_iter=3).value
    z = trained.net(x, paths[task]).detach()
    coef, intercept = ridge_heads(z, y, task, 20, 1e-3, fit_intercept=True)
    torch.testing.assert_close(trained.coef, coef)
    torch.testing.assert_close(trained.intercept, intercept)


def test_the_penalty_of_modules_makes_them_smaller():
    data, _, paths = teacher(n=10)
    free = train(data, paths=paths, max_iter=100).value
    bound = train(data, paths=paths, max_iter=100, alpha_module=0.1).value
    assert bound.net.weights[0].norm() < 0.7 * free.net.weights[0].norm()
