"""Measure AttentionSVMClassifier on digit bags: time, speed-up, accuracy."""

import os
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from race import race, run, show
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from sklearn_attn.attention import AttentionSVMClassifier
from sklearn_attn.datasets import make_digit_bags

TASKS = [(digits, T) for T in (10, 20) for digits in (9, (3, 8))]
N_TRAIN, N_TEST, FIRST_TEST_SEED = 500, 1000, 1000
MANY_BAGS = 4000  # five million numbers: worth a second thread
LINEAR_C, MI_C = np.logspace(-4, 1, 6), np.logspace(-3, 2, 11)
MI_ROUNDS = 30
ADAM_RATES, ADAM_STEPS = (0.003, 0.01, 0.03, 0.1, 0.3), 5000
SAME_RISK = 1e-3  # relative excess over the path's objective at which Adam may stop
DEFAULTS = AttentionSVMClassifier()


class Bags(NamedTuple):
    """Training and test bags, and the penalised risk that the ridge path reaches."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    risk: float = np.nan


def make_bags(digits, T, *, n_train=N_TRAIN, n_test=N_TEST, with_risk=False, seed=0):
    make = partial(make_digit_bags, n_tokens=T, digits=digits)
    train = make(n_train, random_state=seed)
    test = make(n_test, subset="test", random_state=FIRST_TEST_SEED + seed)
    bags = Bags(*train, *test)
    if not with_risk:
        return bags
    return bags._replace(risk=risk(bags, fit_ours(bags, refit=None)))


def positive(y):
    return y == y.max()


def as_tensors(bags):
    return torch.from_numpy(bags.X), torch.from_numpy(2.0 * positive(bags.y) - 1.0)


def penalised_risk(X, sign, v, b, p):
    """The objective at the last ridge of the path, with the classifier's defaults."""
    attention = torch.softmax(X @ p, 1)
    decision = (attention * (X @ v)).sum(1) + b
    ridge = DEFAULTS.head_reg * v @ v + DEFAULTS.attention_reg[-1] * p @ p
    return F.softplus(-sign * decision).mean() + ridge / 2


def risk(bags, model):
    v, p = torch.from_numpy(model.coef_[0]), torch.from_numpy(model.attention_coef_[0])
    return penalised_risk(*as_tensors(bags), v, model.intercept_[0], p).item()


def fit_ours(bags, **parameters):
    return AttentionSVMClassifier(**parameters).fit(bags.X, bags.y)


def fit_adam(bags, rate):
    """Train the same model as most would: full batches, autograd, Adam, from zero."""
    X, sign = as_tensors(bags)
    X = X - X.mean((0, 1))
    v, b, p = (X.new_zeros(size, requires_grad=True) for size in (64, 1, 64))
    optimizer = torch.optim.Adam([v, b, p], lr=rate)
    for step in range(ADAM_STEPS):  # noqa: B007
        value = penalised_risk(X, sign, v, b, p)
        if value <= (1.0 + SAME_RISK) * bags.risk:
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return {"steps": step, "risk above the path's": value.item() / bags.risk - 1.0}


def fit_mi_svm(bags, C, negatives):
    """MI-SVM: a positive bag is its best instance, and in the first round its mean.

    A negative bag is all of its instances or, like a positive one, its best instance,
    its witness, which is closer to the one slack per bag of Andrews et al. (2003).
    Balanced classes do better with both.
    """
    is_positive = positive(bags.y)
    witnesses, last = bags.X.mean(1), None
    for _ in range(MI_ROUNDS):
        others = witnesses if negatives == "witness" else bags.X
        others = others[~is_positive].reshape(-1, bags.X.shape[2])
        rows = np.concatenate([witnesses[is_positive], others])
        labels = np.arange(len(rows)) < is_positive.sum()
        svc = LinearSVC(C=C, dual=False, class_weight="balanced").fit(rows, labels)
        best = (bags.X @ svc.coef_[0]).argmax(1)
        if np.array_equal(best, last):
            break
        witnesses, last = bags.X[np.arange(len(best)), best], best
    return svc


def accuracy(bags, model):
    """Score on the test bags; a bare LinearSVC takes a bag for its best instance."""
    if not isinstance(model, LinearSVC):
        return model.score(bags.X_test, bags.y_test)
    decision = (bags.X_test @ model.coef_[0]).max(1) + model.intercept_[0]
    return np.mean((decision > 0) == positive(bags.y_test))


def describe_fit(bags, model):
    if isinstance(model, dict):  # Adam's: it stops early, for its time only
        return model
    start = time.perf_counter()
    facts = {"test accuracy": accuracy(bags, model)}
    if isinstance(model, AttentionSVMClassifier):
        facts["bags/s predicted"] = len(bags.X_test) / (time.perf_counter() - start)
        facts["steps"] = model.n_iter_
    return facts


def whole_fit(options):
    for digits in (9, (3, 8)):
        make = partial(make_bags, digits, 20, with_risk=True)
        unseen = make(seed=options.repeats)  # none of the turns, to tune Adam on
        tries = {rate: fit_adam(unseen, rate) for rate in ADAM_RATES}
        rate = min(tries, key=lambda rate: tuple(tries[rate].values()))
        solvers = {
            "AttentionSVMClassifier()": fit_ours,
            "AttentionSVMClassifier(refit=None)": partial(fit_ours, refit=None),
            f"Adam, lr={rate:g}": partial(fit_adam, rate=rate),
            "MI-SVM, all, C=1": partial(fit_mi_svm, C=1.0, negatives="all"),
            "MI-SVM, witness, C=0.1": partial(fit_mi_svm, C=0.1, negatives="witness"),
        }
        table = race(solvers, describe_fit, make, _small_bags(), **options.race)
        show(f"Whole fit: digits={digits}, {N_TRAIN} bags of 20 x 64", table)


def _small_bags():
    return make_bags(9, 5, n_train=50, n_test=50, with_risk=True)


def threads_and_devices(options):
    cores = os.cpu_count() or 1
    solvers = {"1 thread": fit_ours, f"{cores} threads": fit_ours}
    if options.device != "cpu":
        solvers[options.device] = partial(fit_ours, device=options.device)
    threads = {f"{cores} threads": cores}
    for n_train in [N_TRAIN] if options.quick else [N_TRAIN, MANY_BAGS]:
        make = partial(make_bags, 9, 20, n_train=n_train)
        table = race(
            solvers, describe_fit, make, _small_bags(), threads=threads, **options.race
        )
        show(f"Threads and devices: {n_train} bags of 20 x 64", table)


def tuned_svm(bags, transform):
    """Choose C by cross-validation, on standardised features."""
    svc = LinearSVC(dual="auto", max_iter=10_000)
    pipeline = make_pipeline(FunctionTransformer(transform), StandardScaler(), svc)
    search = GridSearchCV(pipeline, {"linearsvc__C": LINEAR_C})
    return accuracy(bags, search.fit(bags.X, bags.y))


def best_mi_svm(bags, negatives):
    """Choose C on the test bags: no search that is fair could do better."""
    return max(accuracy(bags, fit_mi_svm(bags, C, negatives)) for C in MI_C)


def tuned_mi_svm(bags, negatives):
    """Choose C by cross-validation, as for the other two."""
    X, y = bags.X, bags.y
    folds = [
        Bags(X[fit], y[fit], X[held_out], y[held_out])
        for fit, held_out in StratifiedKFold().split(X, y)
    ]
    mean = {
        C: np.mean([accuracy(fold, fit_mi_svm(fold, C, negatives)) for fold in folds])
        for C in MI_C
    }
    return accuracy(bags, fit_mi_svm(bags, max(mean, key=mean.get), negatives))


def digit_bags(options):
    methods = {
        "AttentionSVMClassifier()": lambda bags: accuracy(bags, fit_ours(bags)),
        "refit=None": lambda bags: accuracy(bags, fit_ours(bags, refit=None)),
        "mean-pooled SVM": partial(tuned_svm, transform=lambda X: X.mean(1)),
        "flat SVM": partial(tuned_svm, transform=lambda X: X.reshape(len(X), -1)),
        "MI-SVM, all, best C on test": partial(best_mi_svm, negatives="all"),
        "MI-SVM, witness, best C on test": partial(best_mi_svm, negatives="witness"),
        "MI-SVM, witness, C by CV": partial(tuned_mi_svm, negatives="witness"),
    }
    n_seeds = 2 if options.quick else max(5, options.repeats)
    scores, differences = [], []
    for digits, T in TASKS:
        problems = [make_bags(digits, T, seed=seed) for seed in range(n_seeds)]
        found = {
            name: np.array([method(bags) for bags in problems])
            for name, method in methods.items()
        }
        task = {"": f"digits={digits}, T={T}"}
        ours, *_ = found.values()
        scores.append(task | {name: _summary(score) for name, score in found.items()})
        against = {name: _summary(ours - score) for name, score in found.items()}
        del against["AttentionSVMClassifier()"]
        differences.append(task | against)
    seeds = f"mean +- sd of {n_seeds} seeds"
    show(f"Digit bags: test accuracy, {seeds}", scores)
    show(f"Digit bags: AttentionSVMClassifier() minus the other, {seeds}", differences)


def _summary(values):
    return f"{values.mean():.3f} +- {values.std(ddof=1):.3f}"


if __name__ == "__main__":
    run([whole_fit, threads_and_devices, digit_bags], __doc__)
