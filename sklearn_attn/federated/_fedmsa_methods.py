"""What FedMSAClassifier and FedMSARegressor have in common.

No class inherits from another here: each takes the methods that fit it by name. A class
says how it differs by `_targets`, its targets as columns, and by what it predicts.
"""

import copy
import warnings
from dataclasses import dataclass, replace
from math import log
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch.utils._pytree import tree_flatten, tree_map

from .._arrays import (
    few_threads,
    pack_state,
    resolve_device,
    resolve_dtype,
    to_numpy,
    unpack_state,
)
from .._compat import HasMethods, Interval, StrOptions, check_same_namespace
from .._validation import check_task_rows
from ._client_rows import class_balance, class_shares, client_tensors, split_rows
from ._fedmsa import ENGINES, fedmsa
from ._hypergradient import client_heterogeneity
from ._linear_tuning import LinearFit, LinearModel, LinearTuning
from ._network import (
    ACTIVATIONS,
    make_body,
    network_fit,
    network_problem,
    parameters_of,
    start_of_head,
)

DOC_LINK_TEMPLATE = (
    "https://sklearn-attn.readthedocs.io/en/stable/generated/"
    "{estimator_module}.{estimator_name}.html"
)
MOST_SEED = np.iinfo(np.int32).max
# A tuned ridge stays within: below, it does nothing in double precision; above, there
# is nothing left of standardised features, and steps would have to be smaller.
LEAST_L2, MOST_L2 = 1e-8, 1.0
# Gradients are multiplied by (C + mean variance)^{-1} for the covariance C of so many
# features at most: beyond, the product costs more than it brings.
MOST_FEATURES = 2000
# The loss is flat in the logarithm of a ridge, in units of which it takes larger steps.
L2_SPEED = {"ridge": 20.0}
# A tuned logit stays where its sigmoid still has a slope.
MOST_LOGIT = 10.0
# Logit of a weight that is 1 in double precision.
MOST_SURE = 40.0
# Parameters that the solver has too.
PASSED_ON = (
    "n_rounds",
    "local_steps",
    "beta",
    "momentum",
    "participation",
    "local_clients",
    "variance_reduction",
    "batch_size",
    "tol",
    "engine",
    "backend_options",
    "on_lost_client",
)
# Features have unlike units if one varies so many times as much as half of the others.
UNLIKE = 10.0
# The fit to all rows goes on to this share of what the tuning left of the gradient.
REFIT_TOL = 0.1
# Rounds are a budget: a fit warns if they leave so much of the first mean gradients.
NOT_NEAR = 0.5
# What only some settings leave behind, and a later fit must not find.
OPTIONAL = ("coef_", "intercept_")
POSITIVE = Interval(Real, 0, None, closed="neither")
CONSTRAINTS = {
    "hidden_layer_sizes": ["array-like"],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "module": [HasMethods("__call__"), None],
    "n_rounds": [Interval(Integral, 1, None, closed="left")],
    "local_steps": [Interval(Integral, 1, None, closed="left")],
    "participation": [Interval(Real, 0, 1, closed="right")],
    "local_clients": [Interval(Integral, 1, None, closed="left"), None],
    "alpha": [StrOptions({"auto"}), POSITIVE],
    "beta": [StrOptions({"auto"}), POSITIVE],
    "momentum": [Interval(Real, 0, 1, closed="right")],
    "variance_reduction": [StrOptions({"spider"}), None],
    "batch_size": [Interval(Integral, 1, None, closed="left"), None],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "inner_l2": [POSITIVE],
    "v_init": [StrOptions({"zero", "cg", "neumann"})],
    "client_weight": [StrOptions({"samples", "uniform"})],
    "client_feature": [Integral, str, None],
    "n_clients": [Interval(Integral, 1, None, closed="left"), None],
    "clean_clients": ["array-like", None],
    "clean_by": [StrOptions({"sample", "client"})],
    "standardize": [StrOptions({"auto"}), "boolean"],
    "refit": ["boolean"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "engine": [StrOptions(set(ENGINES)), HasMethods("ask")],
    "backend_options": [dict, None],
    "on_lost_client": [StrOptions({"continue", "stop"})],
    "device": [str],
    "random_state": ["random_state"],
    "warm_start": ["boolean"],
    "verbose": ["verbose"],
}


@dataclass(frozen=True)
class Rows:
    """Rows of clients, ready to learn from.

    Attributes
    ----------
    X : ndarray of shape (n_samples, p)
        Features, in units of their own.
    Y : ndarray of shape (n_samples, n_outputs)
        Targets in such units, or indicators of classes.
    codes : ndarray of int of shape (n_samples,)
        Codes of classes; zeros for a regression.
    classes : ndarray of shape (n_classes,)
        Names of the classes; the targets of a regression.
    client : ndarray of int of shape (n_samples,)
        The client of each row.
    names : ndarray of shape (n_clients,)
        Names of the clients.
    validates : ndarray of bool of shape (n_samples,)
        Which rows validate.
    units : Units
        Of X and Y.
    dtype : torch.dtype
        To compute in.
    device : torch.device
        Where to compute.
    """

    X: np.ndarray
    Y: np.ndarray
    codes: np.ndarray
    classes: np.ndarray
    client: np.ndarray
    names: np.ndarray
    validates: np.ndarray
    units: Any
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Units:
    """Standard units: (x - x_shift) / x_scale, and the same for targets."""

    x_shift: np.ndarray
    x_scale: np.ndarray
    y_shift: float = 0.0
    y_scale: float = 1.0

    @classmethod
    def of(cls, X, standardize, y=None):
        """Return units in which columns have mean 0 and variance 1, or on average."""
        units = cls(X.mean(0), _scale(X))
        if standardize == "auto":
            deviations = units.x_scale[np.ptp(X, axis=0) > 0]
            usual = np.median(deviations) if len(deviations) else 1.0
            standardize = len(deviations) > 0 and deviations.max() > UNLIKE * usual
        if not standardize:
            all_in_all = np.sqrt(np.square(X - units.x_shift).mean())
            scale = np.full(X.shape[1], all_in_all if all_in_all > 0 else 1.0)
            units = replace(units, x_scale=scale)
        if y is None:
            return units
        return replace(units, y_shift=float(y.mean()), y_scale=float(_scale(y)))

    def apply(self, X):
        """Return X in these units."""
        return (X - self.x_shift) / self.x_scale


@dataclass(frozen=True)
class Model:
    """What predicts: a linear map, or a network, in main memory.

    Attributes
    ----------
    coef : ndarray of shape (n_outputs, n_features_or_hidden)
        Coefficients, of features as they are, or of what the body returns.
    intercept : ndarray of shape (n_outputs,)
        Intercepts.
    body : torch.nn.Module or None
        Hidden layers, which read features in standard units.
    units : Units
        These.
    """

    coef: np.ndarray
    intercept: np.ndarray
    body: Any
    units: Units

    def outputs(self, X):
        """Return z, of shape (n_samples, n_outputs), in float64."""
        X = X.astype(np.float64)
        if self.body is not None:
            with torch.no_grad(), few_threads(X.size):
                X = self.body(torch.from_numpy(self.units.apply(X))).numpy()
        return X @ self.coef.T + self.intercept


def _scale(A):
    deviation = np.sqrt(np.square(A - A.mean(0)).mean(0))
    # rounding leaves a constant column a tiny deviation
    is_constant = deviation <= 1e-12 * np.abs(A).max(0)
    return np.where(is_constant, 1.0, deviation)


def check_settings(self):
    """Return the device; settings must go together, which costs nothing to see."""
    has_body = self.module is not None or len(self.hidden_layer_sizes) > 0
    sizes = list(self.hidden_layer_sizes)
    if any(not isinstance(n, Integral) or n < 1 for n in sizes):
        raise ValueError(f"hidden_layer_sizes must be integers from 1 on; got {sizes}.")
    if self.module is not None and sizes:
        raise ValueError("module takes the place of hidden_layer_sizes; give one.")
    if self.problem == "hyper_representation" and not has_body:
        raise ValueError(
            "problem='hyper_representation' learns hidden layers by validation rows; "
            "give hidden_layer_sizes or module."
        )
    if self.clean_clients is not None and self.problem != "data_cleaning":
        raise ValueError(
            "clean_clients is for problem='data_cleaning'; got problem="
            f"{self.problem!r}."
        )
    groups = getattr(self, "feature_groups", None)
    if groups is not None and (has_body or self.problem != "ridge"):
        raise ValueError(
            "feature_groups is for problem='ridge' of linear models; got problem="
            f"{self.problem!r}" + (" and hidden layers." if has_body else ".")
        )
    return resolve_device(self.device)


def prepare(self, X, y, groups):
    """Validate rows, and return them as `Rows`."""
    device = check_settings(self)
    table = check_task_rows(
        self,
        X,
        y,
        groups,
        reset=True,
        column=self.client_feature,
        y_numeric=self._is_regressor,
        one="client",
        argument="groups",
    )
    if table.columns is not None:
        y = self._single_column(table.y)
        table = table._replace(y=y)
    dtype = torch.float32 if device.type == "mps" else None
    dtype = dtype or resolve_dtype("auto", table.x, device)
    rng = check_random_state(self.random_state)
    labels = table.labels
    if labels is None:
        n_clients = min(self.n_clients or 1, len(table.x))
        labels = rng.permutation(np.arange(len(table.x)) % n_clients)
    elif self.n_clients is not None:
        raise ValueError(
            f"n_clients={self.n_clients} divides rows by chance; leave it out where "
            "clients are named."
        )
    names, client = np.unique(labels, return_inverse=True)
    Xs = table.x.astype(np.float64)
    Y, codes, units = self._targets(table.y, Xs)
    return Rows(
        units.apply(Xs),
        Y,
        codes,
        np.unique(table.y),
        client.ravel(),
        names,
        _validates(self, names, client.ravel(), codes, rng),
        units,
        dtype,
        device,
    ), rng


def _validates(self, names, client, codes, rng):
    if self.problem == "plain":
        return np.zeros(len(codes), dtype=bool)
    if self.clean_clients is None:
        return split_rows(client, codes, self.validation_fraction, rng)
    clean = np.isin(names, np.asarray(to_numpy(self.clean_clients)))
    if clean.sum() != len(set(self.clean_clients)) or not clean.any() or clean.all():
        raise ValueError(
            "clean_clients must name some of the clients, but not all; got "
            f"{self.clean_clients!r} of {names.tolist()[:10]}."
        )
    return clean[client]


@dataclass(frozen=True)
class Found:
    """What a fit, or a round of it, has found.

    Attributes
    ----------
    tuned : dict of tensor
        The outer variable.
    w : dict of tensor
        The inner one, which predicts.
    body : torch.nn.Module or None
        Hidden layers, whose parameters are in one of them.
    solution : Solution
        Of the tuning.
    communications : int
        Messages in all, of fitting again too.
    converged : bool
        Whether both met `tol`.
    heterogeneity : float
        Of the clients.
    """

    tuned: dict
    w: dict
    body: Any
    solution: Any
    communications: int
    converged: bool
    heterogeneity: float = np.nan


def solve(self, rows, rng, X, y):
    """Tune, and fit again to all rows with what was found."""
    seeds = [int(seed) for seed in rng.randint(MOST_SEED, size=2)]
    is_ours = isinstance(self.problem, str)
    body, w0, theta = _network_of(self, rows, seeds[0])
    place, n_weights = _places(self, rows)
    call = {name: getattr(self, name) for name in PASSED_ON}
    call |= {"device": rows.device, "dtype": rows.dtype, "seed": seeds[1]}
    root, context, on_round = _listen(self, X, y, rows)

    def found_in(solution):
        x, zs = solution.value
        tuned, w = (x, zs[0]) if zs else ({}, x)
        rounds = solution.state.communications
        return Found(tuned, w, body, solution, rounds, solution.converged)

    with few_threads(rows.X.size * rows.Y.shape[1]):
        found = None
        if self.problem != "plain":
            problem = self.problem
            if is_ours:
                model = _model(self, rows, ~rows.validates, n_weights)
                problem = _tuning(self, model, rows, body, w0, theta)
            else:
                _check_problem(problem, w0)
            clients, weights = _clients(self, rows, place, again=False)
            solution = fedmsa(
                problem,
                clients,
                weights=weights,
                alpha=self.alpha,
                v_init=self.v_init,
                start=_start(self, problem),
                on_round=lambda solution: on_round(lambda: found_in(solution)),
                **call,
            )
            found = found_in(solution)
            tau = client_heterogeneity(
                problem,
                clients,
                *solution.value,
                weights=weights,
                device=rows.device,
                dtype=rows.dtype,
            )
            found = replace(found, heterogeneity=tau)
        if found is None or (self.refit and is_ours):
            model = _model(self, rows, np.ones(len(rows.X), dtype=bool), n_weights)
            is_plain = found is None
            tuned = {} if is_plain else found.tuned
            fit = _fit_with(model, body, tuned, w0 if is_plain else found.w)
            clients, weights = _clients(self, rows, place, again=True)
            if not is_plain:  # hardly more exactly than the tuning did
                reached = found.solution.history["inner_residual"][-1]
                call["tol"] = max(self.tol, REFIT_TOL * reached)
            again = fedmsa(
                fit,
                clients,
                weights=weights,
                alpha=self.beta,
                start=_start(self, fit) if is_plain else None,
                on_round=(
                    (lambda solution: on_round(lambda: found_in(solution)))
                    if is_plain
                    else None
                ),
                **call,
            )
            if is_plain:
                tau = client_heterogeneity(
                    fit,
                    clients,
                    again.value[0],
                    weights=weights,
                    device=rows.device,
                    dtype=rows.dtype,
                )
                found = replace(found_in(again), heterogeneity=tau)
            else:
                found = replace(
                    found,
                    w=again.value[0],
                    communications=found.communications + again.state.communications,
                    converged=found.converged and again.converged,
                )
    root.call_on_fit_task_end(**context)
    return found


def _network_of(self, rows, seed):
    """Return the body, where the inner variable starts, and the body's parameters."""
    body, width = make_body(
        rows.X.shape[1], self.hidden_layer_sizes, self.activation, self.module, seed
    )
    generator = None
    if body is not None and self.problem != "hyper_representation":
        generator = torch.Generator().manual_seed(seed)
    w0 = start_of_head(width, rows.Y.shape[1], rows.dtype, generator)
    theta = None if body is None else parameters_of(body, rows.dtype)
    if generator is not None:
        w0["body"] = theta
    return body, w0, theta


def _places(self, rows):
    """Return which tuned weight each row has, and how many there are.

    Rows that validate have one more, which is not tuned.
    """
    train = ~rows.validates
    if self.problem == "data_cleaning" and self.clean_by == "client":
        return np.where(train, rows.client, len(rows.names)), len(rows.names)
    n_train = int(train.sum())
    return np.where(train, np.cumsum(train) - 1, n_train), n_train


def _model(self, rows, counted, n_weights):
    """Return what is not tuned, with the shares of classes among some rows."""
    log_prior = groups = None
    if not self._is_regressor:
        shares = class_shares(
            rows.codes[counted],
            rows.client[counted],
            rows.Y.shape[1],
            self.client_weight == "samples",
        )
        least = 1 / len(rows.X)  # for a class of clean clients alone
        log_prior = torch.as_tensor(np.log(np.maximum(shares, least))).to(rows.dtype)
    if getattr(self, "feature_groups", None) is not None:
        labels = np.asarray(to_numpy(self.feature_groups))
        if labels.shape != (rows.X.shape[1],):
            raise ValueError(
                f"feature_groups must name the group of each of {rows.X.shape[1]} "
                f"features; got shape {labels.shape}."
            )
        groups = torch.as_tensor(np.unique(labels, return_inverse=True)[1])
    l2 = float(self.inner_l2)
    p = rows.X.shape[1]
    metric = None
    if p <= MOST_FEATURES:
        C = rows.X.T @ rows.X / len(rows.X)
        mean_variance = np.trace(C) / p
        metric = np.linalg.inv(C + (mean_variance or 1.0) * np.eye(p))
        metric = torch.as_tensor(metric).to(rows.dtype)
    return LinearModel(
        not self._is_regressor,
        l2,
        log_prior,
        groups,
        n_weights,
        L2_SPEED.get(self.problem, 1.0),
        metric,
    )


def _tuning(self, model, rows, body, w0, theta):
    """Return the bilevel problem of this name."""
    n_outputs, dtype = rows.Y.shape[1], rows.dtype

    def full(n, value=0.0):
        return torch.full((n,), value, dtype=dtype)

    n_groups = 1 if model.groups is None else int(model.groups.max()) + 1
    speed = model.l2_speed
    log_l2 = full(n_groups, log(self.inner_l2) / speed)
    x0 = {
        "logit_adjust": {"tau": full(1)[0], "log_l2": log_l2},
        "ridge": {"log_l2": log_l2},
        "loss_tuning": {"scale": full(n_outputs), "offset": full(n_outputs)},
        "data_cleaning": {"logit": full(model.n_weights)},
        "hyper_representation": {"body": theta},
    }[self.problem]
    low, high = log(LEAST_L2), log(max(MOST_L2, self.inner_l2))
    most = MOST_LOGIT / max(1, model.n_weights) ** 0.5

    def project(x):
        x = dict(x)
        if "log_l2" in x:
            x["log_l2"] = x["log_l2"].clamp(low / speed, high / speed)
        if "logit" in x:
            x["logit"] = x["logit"].clamp(-most, most)
        return x

    is_bounded = "log_l2" in x0 or "logit" in x0
    project = project if is_bounded else None
    if body is None:
        return LinearTuning(model, x0, w0, project)
    return network_problem(model, body, x0, w0, project=project)


def _fit_with(model, body, tuned, w):
    """Return the problem of fitting w with what was tuned."""
    tuned = {
        name: part if name == "body" else part.detach().cpu()
        for name, part in tuned.items()
    }
    if "logit" in tuned:  # one more, for rows that count in full
        sure = torch.full((1,), MOST_SURE / max(1, model.n_weights) ** 0.5)
        tuned["logit"] = torch.cat([tuned["logit"], sure.to(tuned["logit"])])
    if body is None:
        return LinearFit(model, tuned, w)
    return network_fit(model, body, tuned, w)


def _clients(self, rows, place, *, again):
    """Return the tensors of the clients; `again` is with all rows for training."""
    everyone = np.ones(len(rows.X), dtype=bool)
    train = everyone if again else ~rows.validates
    validate = ~everyone if again else rows.validates
    if not again and not validate.any():
        validate = everyone  # a single row, of which there is nothing to leave out
    weight_val = np.ones(len(rows.X))
    if validate.any() and not self._is_regressor:
        weight_val[validate] = class_balance(
            rows.codes[validate],
            rows.client[validate],
            rows.Y.shape[1],
            self.client_weight == "samples",
        )
    return client_tensors(
        rows.X,
        rows.Y,
        rows.client,
        len(rows.names),
        train=train,
        validate=validate,
        weight_val=weight_val,
        place=place,
        by_samples=self.client_weight == "samples",
        dtype=rows.dtype,
    )


def _check_problem(problem, w0):
    """Refuse a problem of the user whose variables cannot predict."""
    w = problem.zs0[0] if problem.zs0 else problem.x0
    shapes = {name: tuple(part.shape) for name, part in w0.items() if name != "body"}
    try:
        here = {name: tuple(w[name].shape) for name in shapes}
    except (TypeError, KeyError, AttributeError):
        here = None
    if here != shapes:
        raise ValueError(
            "The inner variable of the problem must be a dict of tensors with the "
            f"shapes {shapes}, by which rows are predicted; got {here}."
        )


def _start(self, problem):
    """Return where to start: with `warm_start`, from the last fit, if it fits."""
    before = getattr(self, "result_", None)
    if not self.warm_start or before is None:
        return None
    x, zs = before.value
    same = _shapes((problem.x0, problem.zs0)) == _shapes((x, zs))
    return before.value if same else None


def _shapes(tree):
    leaves, spec = tree_flatten(tree)
    return spec, [leaf.shape for leaf in leaves]


def _listen(self, X, y, rows):
    """Return the root of callbacks, and what reports a round to them."""
    data = {"estimator": self, "X": X, "y": y}
    root = self._init_callback_context(max_subtasks=None)
    root.call_on_fit_task_begin(**data)

    def on_round(found):
        if self.verbose:
            history = found().solution.history
            print(
                f"round {len(history['seconds'])}: outer loss "
                f"{history['outer_loss'][-1]:.6g}, hypergradient "
                f"{history['hypergrad_norm'][-1]:.3g}"
            )
        step = root.subcontext(task_name="round")
        step.call_on_fit_task_begin(**data)
        return step.call_on_fit_task_end(
            **data, reconstruction_attributes=lambda: self._describe(rows, found(), X)
        )

    return root, data, on_round


def describe(self, rows, found, put):
    """Return what was found, as fitted attributes."""
    model = _predictor(rows, found)
    is_numeric = rows.names.dtype.kind in "biuf"
    history = found.solution.history
    attributes = {
        "_model": model,
        "client_ids_": put(rows.names.copy()) if is_numeric else rows.names.copy(),
        "n_clients_": len(rows.names),
        "hyperparams_": _hyperparams(self, rows, found, put),
        "history_": {name: list(items) for name, items in history.items()},
        "loss_curve_": list(history.get("outer_loss", [])),
        "communications_": found.communications,
        "n_iter_": max(1, found.solution.n_iter),
        "converged_": found.converged,
        "heterogeneity_": found.heterogeneity,
        "result_": _in_main_memory(found.solution),
        "module_": model.body,
    }
    return attributes


def keep(self, found):
    """Copy what was found into attributes."""
    for name in OPTIONAL:  # that an earlier fit may have left
        vars(self).pop(name, None)
    vars(self).update(found)


def _predictor(rows, found):
    """Return the map to predict by, for features and targets as they came."""
    units = rows.units
    coef = _numpy(found.w["coef"]).T * units.y_scale
    intercept = _numpy(found.w["intercept"]) * units.y_scale + units.y_shift
    if found.body is None:
        coef = coef / units.x_scale
        return Model(coef, intercept - coef @ units.x_shift, None, units)
    theta = (found.tuned | found.w)["body"]
    body = copy.deepcopy(found.body).to("cpu", torch.float64).eval()
    with torch.no_grad():
        for name, part in body.named_parameters():
            part.copy_(theta[name])
    return Model(coef, intercept, body, units)


def _hyperparams(self, rows, found, put):
    """Return what was tuned, in the words of the user."""
    tuned, told = found.tuned, {}
    if not isinstance(self.problem, str):
        return tree_map(lambda part: put(_numpy(part)), tuned)
    if "tau" in tuned:
        told["tau"] = float(tuned["tau"])
    if "log_l2" in tuned:
        speed = L2_SPEED.get(self.problem, 1.0)
        l2 = np.exp(speed * _numpy(tuned["log_l2"]))
        is_one = getattr(self, "feature_groups", None) is None
        told["l2"] = float(l2[0]) if is_one else put(l2)
    if "scale" in tuned:
        told["scale"] = put(2 / (1 + np.exp(-_numpy(tuned["scale"]))))
        told["offset"] = put(_numpy(tuned["offset"]))
    if "logit" in tuned:
        logit = _numpy(tuned["logit"]) * len(tuned["logit"]) ** 0.5
        place, _ = _places(self, rows)
        known = np.append(1 / (1 + np.exp(-logit)), np.nan)
        told["weight"] = put(known[place])
    if "body" in tuned:
        told["body"] = {name: put(_numpy(part)) for name, part in tuned["body"].items()}
    return told


def _numpy(part):
    return part.detach().cpu().double().numpy()


def _in_main_memory(solution):
    def move(part):
        return part.detach().cpu() if isinstance(part, torch.Tensor) else part

    state = solution.state
    state = replace(state, **{k: move(v) for k, v in vars(state).items()})
    return replace(solution, value=tree_map(move, solution.value), state=state)


def warn_of_limit(self, found, *, depth):
    """Warn if rounds, which are paid for, were too few to come near a solution."""
    if found.converged:
        return
    first, last = _residual(found.solution, 0), _residual(found.solution, -1)
    if last > (1.0 if self.warm_start else NOT_NEAR) * first:
        warnings.warn(
            f"The norm of the mean gradients fell from {first:.2g} to {last:.2g} only "
            f"in n_rounds={self.n_rounds}. Increase n_rounds or local_steps, or scale "
            "the features to similar variances.",
            ConvergenceWarning,
            stacklevel=depth,
        )


def _residual(solution, place):
    """Return the norm of all mean gradients together, in a round."""
    names = ("hypergrad_norm", "inner_residual", "adjoint_residual")
    norms = [solution.history[name][place] for name in names]
    return float(np.sqrt(np.nansum(np.square(norms))))


def outputs(self, X, method):
    """Return z of rows, in float64, and the dtype that they came in."""
    check_is_fitted(self)
    check_same_namespace(X, self, attribute="client_ids_", method=method)
    table = check_task_rows(
        self, X, reset=False, column=self.client_feature, one="client"
    )
    return self._model.outputs(table.x), table.x.dtype


def getstate(self):
    """Make the state portable."""
    return pack_state(BaseEstimator.__getstate__(self))


def setstate(self, state):
    """Undo `getstate`."""
    BaseEstimator.__setstate__(self, unpack_state(self, state))
