"""FedMSAClassifier and FedMSARegressor: clients, what is tuned, and what is refused."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_attn import FedMSAClassifier, FedMSARegressor
from sklearn_attn.datasets import make_longtail_clients, make_noisy_clients
from sklearn_attn.federated import (
    BilevelProblem,
    ClientLostError,
)
from sklearn_attn.federated._client_rows import class_balance, client_tensors

QUICK = {"n_rounds": 15, "random_state": 0}


@pytest.fixture(scope="module")
def tail():
    train = make_longtail_clients(random_state=0)
    return (*train, *make_longtail_clients(subset="test", random_state=0)[:2])


@pytest.fixture(scope="module")
def noisy():
    return make_noisy_clients(random_state=0)


def small(seed=0, n=60, n_classes=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = np.argmax(X[:, :n_classes] + 0.3 * rng.normal(size=(n, n_classes)), axis=1)
    return X, y, rng.permutation(n) % 5


@pytest.mark.claim
def test_logits_are_adjusted_for_the_long_tail():
    """As good as weighting classes where all rows are in one place, over five seeds.

    Measured over 5 seeds: .920 tuned, .920 LogisticRegression(class_weight="balanced"),
    .892 plain on all rows, .873 plain on the same training rows. The limits leave
    room for what the seeds differ.
    """
    scores = []
    for seed in range(5):
        X, y, clients = make_longtail_clients(random_state=seed)
        X_test, y_test, _ = make_longtail_clients(subset="test", random_state=seed)
        tuned = FedMSAClassifier(random_state=seed)
        models = [
            tuned.fit(X, y, groups=clients),
            LogisticRegression(class_weight="balanced", max_iter=5000).fit(X, y),
            clone(tuned).set_params(problem="plain").fit(X, y, groups=clients),
            # steps too small to tune anything, and no fit to all rows after
            clone(tuned).set_params(alpha=1e-9, refit=False).fit(X, y, groups=clients),
        ]
        scores.append(
            [balanced_accuracy_score(y_test, m.predict(X_test)) for m in models]
        )
    ours, weighted, plain, same_rows = np.mean(scores, axis=0)
    assert ours >= weighted - 0.005
    assert ours >= plain + 0.015
    assert ours >= same_rows + 0.03


@pytest.mark.claim
def test_wrong_labels_are_found(noisy):
    X, y, clients, wrong = noisy
    X_test, y_test, *_ = make_noisy_clients(subset="test", random_state=0)
    model = FedMSAClassifier("data_cleaning", clean_clients=[0, 1], random_state=0)
    weight = model.fit(X, y, groups=clients).hyperparams_["weight"]
    trained = ~np.isin(clients, [0, 1])
    np.testing.assert_array_equal(np.isnan(weight), ~trained)
    assert roc_auc_score(~wrong[trained], weight[trained]) >= 0.9
    plain = clone(model).set_params(problem="plain", clean_clients=None)
    assert model.score(X_test, y_test) > plain.fit(X, y, clients).score(X_test, y_test)


def test_clients_of_wrong_labels_lose_weight(noisy):
    """By client, where some are noisy and others are not."""
    X, y, clients, _ = noisy
    y = y.copy()
    bad = np.isin(clients, [2, 3, 4])
    y[bad] = (y[bad] + 1) % 10
    X, y, clients = (
        part[np.isin(clients, [0, 1, 2, 3, 4])] for part in (X, y, clients)
    )
    y[np.isin(clients, [3])] = (y[np.isin(clients, [3])] - 1) % 10  # half right again
    model = FedMSAClassifier(
        "data_cleaning", clean_clients=[0, 1], clean_by="client", random_state=0
    ).fit(X, y, groups=clients)
    weight = {c: model.hyperparams_["weight"][clients == c] for c in (2, 3, 4)}
    assert all(np.ptp(w) == 0 for w in weight.values())  # one for each client
    assert weight[3][0] > weight[2][0]
    assert weight[3][0] > weight[4][0]


@pytest.mark.claim
def test_the_ridge_is_that_of_a_search():
    """Where the inner problem is solved, validation rows choose the ridge of a grid."""
    X, y = load_diabetes(return_X_y=True)
    model = FedMSARegressor(random_state=0, refit=False).fit(X, y)
    assert model.converged_
    tuned = model.history_["outer_loss"][-1]
    losses = [
        FedMSARegressor(inner_l2=l2, alpha=1e-9, refit=False, random_state=0)
        .fit(X, y)
        .history_["outer_loss"][-1]
        for l2 in model.hyperparams_["l2"] * np.array([0.25, 1.0, 4.0])
    ]
    assert losses[1] == pytest.approx(tuned, rel=1e-3)  # both within tol of the minimum
    assert losses[1] < min(losses[0], losses[2])


def test_groups_of_features_have_ridges_of_their_own():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 40))
    y = 3 * X[:, :10] @ rng.normal(size=10) + 2 * rng.normal(size=80)
    groups = np.repeat(["signal", "noise"], [10, 30])
    model = FedMSARegressor(feature_groups=groups, random_state=0).fit(X, y)
    noise, signal = model.hyperparams_["l2"]
    assert noise > 3 * signal


def test_regression_is_as_good_as_a_search_in_one_place():
    X, y = load_diabetes(return_X_y=True)
    ours = cross_validate(FedMSARegressor(n_clients=5, random_state=0), X, y, cv=3)
    there = cross_validate(RidgeCV(np.logspace(-4, 2, 20)), X, y, cv=3)
    # a hundredth of R2, which is what a draw of validation rows makes
    assert ours["test_score"].mean() > there["test_score"].mean() - 0.01


def test_clients_can_be_named_in_three_ways():
    X, y, clients = small()
    by_argument = FedMSAClassifier(**QUICK).fit(X, y, groups=clients)
    by_number = FedMSAClassifier(client_feature=-1, **QUICK).fit(
        np.column_stack([X, clients]), y
    )
    table = pd.DataFrame(X, columns=list("abcd")).assign(
        site=np.array(["u", "v", "w", "x", "z"])[clients]
    )
    by_name = FedMSAClassifier(client_feature="site", **QUICK).fit(table, y)
    # memory is laid out otherwise, and sums are rounded otherwise
    np.testing.assert_allclose(by_argument.coef_, by_number.coef_, rtol=1e-10)
    np.testing.assert_allclose(by_argument.coef_, by_name.coef_, rtol=1e-10)
    assert by_name.client_ids_.tolist() == ["u", "v", "w", "x", "z"]
    assert by_argument.client_ids_.tolist() == by_number.client_ids_.tolist()
    assert by_name.n_clients_ == 5
    np.testing.assert_array_equal(by_name.predict(table), by_argument.predict(X))
    with pytest.raises(ValueError, match="named twice"):
        by_name.fit(table, y, groups=clients)
    with pytest.raises(ValueError, match="names clients, but holds"):
        by_number.fit(np.column_stack([X, clients + 0.5]), y)


def test_string_labels_and_ids_are_kept():
    X, y, clients = small()
    names = np.array(["ant", "bee", "cat"])[y]
    ids = np.array([f"site {c}" for c in clients])
    model = FedMSAClassifier(**QUICK).fit(X, names, groups=ids)
    assert model.classes_.tolist() == ["ant", "bee", "cat"]
    assert set(model.predict(X)) <= set(names)
    assert model.client_ids_.tolist() == sorted(set(ids))


def test_rows_can_be_divided_among_clients_by_chance():
    X, y, _ = small()
    model = FedMSAClassifier(n_clients=4, **QUICK).fit(X, y)
    assert model.n_clients_ == 4
    assert FedMSAClassifier(**QUICK).fit(X, y).n_clients_ == 1
    with pytest.raises(ValueError, match="n_clients=4 divides rows by chance"):
        model.fit(X, y, groups=np.zeros(len(X)))


def test_clients_of_one_row_or_one_class_are_taken():
    X, y, _ = small(n=40)
    clients = np.where(y == 0, 0, np.arange(40) % 6 + 1)
    clients[:2] = [90, 91]
    model = FedMSAClassifier(**QUICK).fit(X, y, groups=clients)
    assert np.isfinite(model.predict_proba(X)).all()
    rare = y.copy()
    rare[rare == 2] = 1
    rare[0] = 2  # a class of one row
    assert 2 in FedMSAClassifier(**QUICK).fit(X, rare, groups=clients).classes_


def test_a_client_without_validation_rows_is_taken():
    X, y, _ = small(n=30)
    clients = np.arange(30) // 2  # two rows each, of which few validate
    model = FedMSAClassifier(validation_fraction=0.1, **QUICK).fit(X, y, clients)
    assert np.isfinite(model.loss_curve_).all()
    regressor = FedMSARegressor(validation_fraction=0.1, **QUICK)
    assert np.isfinite(regressor.fit(X, X[:, 0], groups=clients).loss_curve_).all()


def test_identical_clients_are_one_client():
    X, y, _ = small()
    thrice, clients = np.tile(X, (3, 1)), np.repeat([0, 1, 2], len(X))
    one = FedMSAClassifier("plain", **QUICK).fit(X, y)
    three = FedMSAClassifier("plain", **QUICK).fit(thrice, np.tile(y, 3), clients)
    some = FedMSAClassifier("plain", local_clients=1, **QUICK)
    some.fit(thrice, np.tile(y, 3), groups=clients)
    # sums in another order, over 15 rounds
    np.testing.assert_allclose(three.coef_, one.coef_, rtol=1e-9)
    np.testing.assert_allclose(some.coef_, one.coef_, rtol=1e-9)


def test_clients_count_by_their_rows_or_all_the_same():
    X, y, _ = small()
    clients = (np.arange(60) >= 50).astype(int)
    settings = {"inner_l2": 0.1, "tol": 1e-6, "random_state": 0}
    by_rows = FedMSAClassifier("plain", **settings).fit(X, y, groups=clients)
    one = FedMSAClassifier("plain", **settings).fit(X, y)
    uniform = FedMSAClassifier("plain", client_weight="uniform", **settings)
    uniform.fit(X, y, groups=clients)
    assert by_rows.converged_
    assert one.converged_
    # gradients of 1e-6, over a curvature of 0.1 at least
    np.testing.assert_allclose(by_rows.coef_, one.coef_, atol=1e-4)
    assert np.abs(uniform.coef_ - one.coef_).max() > 0.05


@pytest.mark.parametrize("variance_reduction", ["spider", None])
def test_a_big_client_counts_more_than_many_tiny_ones(variance_reduction):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(440, 1))
    clients = np.r_[np.zeros(400, int), 1 + np.repeat(np.arange(20), 2)]
    y = np.where(clients == 0, 2.0, -2.0) * X[:, 0]
    pooled = float(np.polyfit(X[:, 0], y, 1)[0])  # 1.55
    model = FedMSARegressor(
        "plain", inner_l2=1e-6, variance_reduction=variance_reduction, random_state=0
    ).fit(X, y, groups=clients)
    # averages of models that drift apart are off by what they drift
    assert model.coef_[0] == pytest.approx(
        pooled, abs=1e-3 if variance_reduction else 0.15
    )


def test_all_classes_count_the_same_however_clients_do():
    X, _, _ = small(n=120)
    y = np.r_[np.arange(100) % 2, (np.arange(20) % 10 > 0).astype(int)]
    clients = np.r_[np.zeros(100, int), 1 + np.arange(20) // 10]
    for weight in ("samples", "uniform"):
        by_rows = weight == "samples"
        validates = np.arange(120) % 3 == 0
        balance = class_balance(y[validates], clients[validates], 2, by_rows)
        data, weights = client_tensors(
            X,
            np.eye(2)[y],
            clients,
            3,
            train=~validates,
            validate=validates,
            weight_val=np.where(validates, 0.0, 1.0) + _spread(balance, validates),
            place=np.zeros(120, dtype=int),
            by_samples=by_rows,
            dtype=torch.float64,
        )
        mass = sum(
            w * m["share_val"] * m["weight_val"] @ m["Y_val"] / len(m["Y_val"])
            for w, m in zip(weights, data)
        )
        np.testing.assert_allclose(mass / weights.sum(), [0.5, 0.5])


def _spread(values, where):
    spread = np.zeros(len(where))
    spread[where] = values
    return spread


@pytest.mark.parametrize(
    "change",
    [
        {"local_steps": 2},
        {"alpha": 0.5},
        {"beta": 0.05},
        {"participation": 0.5},
        {"local_clients": 1},
        {"variance_reduction": None},
        {"batch_size": 4},
        {"batch_size": 4, "momentum": 1.0},
        {"validation_fraction": 0.5},
        {"inner_l2": 0.1},
        {"v_init": "cg"},
        {"v_init": "neumann"},
        {"standardize": True},
        {"refit": False},
        {"n_rounds": 16},
        {"random_state": 1},
        {"hidden_layer_sizes": (3,)},
        {"hidden_layer_sizes": (3,), "activation": "sigmoid"},
        {"problem": "ridge"},
        {"problem": "loss_tuning"},
        {"problem": "plain"},
        {"problem": "data_cleaning"},
        {"problem": "hyper_representation", "hidden_layer_sizes": (3,)},
        {"module": lambda n: torch.nn.Linear(n, 2)},
    ],
    ids=lambda change: "-".join(change),
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_setting_matters(change):
    X, y, clients = small()
    X = X * [1.0, 2.0, 3.0, 4.0]
    usual = FedMSAClassifier(n_rounds=6, random_state=0).fit(X, y, groups=clients)
    base = {"n_rounds": 6, "random_state": 0}
    if change == {"batch_size": 4, "momentum": 1.0}:
        usual = FedMSAClassifier(**base, batch_size=4).fit(X, y, groups=clients)
    other = FedMSAClassifier(**(base | change)).fit(X, y, groups=clients)
    assert np.abs(other.predict_proba(X) - usual.predict_proba(X)).max() > 1e-6
    again = clone(other).fit(X, y, groups=clients)
    np.testing.assert_array_equal(again.predict_proba(X), other.predict_proba(X))


def test_tol_ends_the_rounds_early():
    X, y = load_diabetes(return_X_y=True)
    model = FedMSARegressor(tol=1e-2, random_state=0).fit(X, y)
    assert model.converged_
    assert model.n_iter_ < FedMSARegressor(random_state=0).fit(X, y).n_iter_


def test_few_rounds_are_told():
    X, y, _ = small()
    with pytest.warns(ConvergenceWarning, match="n_rounds=1") as told:
        FedMSAClassifier(n_rounds=1, random_state=0).fit(X, y)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FedMSAClassifier(random_state=0).fit(X, y)


def test_a_warm_start_goes_on():
    X, y, clients = small()
    model = FedMSAClassifier(warm_start=True, refit=False, **QUICK).fit(X, y, clients)
    first = model.history_["inner_residual"][0]
    again = model.fit(X, y, groups=clients).history_["inner_residual"][0]
    assert again < 0.5 * first
    wider = np.column_stack([X, X[:, 0] ** 2])
    assert model.fit(wider, y, groups=clients).coef_.shape == (3, 5)
    plain = FedMSAClassifier("plain", warm_start=True, **QUICK).fit(X, y, clients)
    assert plain.fit(wider, y, groups=clients).coef_.shape == (3, 5)


def test_messages_and_numbers_sent_are_counted():
    X, y, clients = small()
    model = FedMSAClassifier(refit=False, tol=0, **QUICK).fit(X, y, groups=clients)
    rounds = np.array(model.history_["comm_rounds"])
    assert (np.diff(rounds) == 2).all()
    size = 2 + 2 * (4 * 3 + 3)  # tau, l2; w and v
    # per client: u down, F up; u and h down, u up; and 1 and 3 numbers of settings
    assert (np.diff(model.history_["comm_floats"]) == 5 * (5 * size + 1 + 3)).all()
    assert model.communications_ >= rounds[-1]
    assert len(model.loss_curve_) == model.n_iter_


def test_heterogeneity_tells_clients_of_another_kind():
    X, y, _ = small(n=120)
    alike = FedMSARegressor("plain", **QUICK).fit(X, y, np.arange(120) % 2)
    X[::2] *= 3
    unlike = FedMSARegressor("plain", **QUICK).fit(X, y, np.arange(120) % 2)
    assert unlike.heterogeneity_ > 1.5 * alike.heterogeneity_


def test_a_problem_of_the_user_is_solved():
    X, y, clients = small()

    def loss(w, X, Y, weight):
        z = X @ w["coef"] + w["intercept"]
        rows = weight * (z.logsumexp(-1) - (z * Y).sum(-1))
        return rows.sum() / (weight > 0).sum().clamp(min=1)

    def inner(data, x, w):
        fit = data["share"] * loss(w, data["X"], data["Y"], data["weight"])
        return fit + x.exp() * (w["coef"] ** 2).sum() / 2

    def outer(data, x, w):
        names = ("X_val", "Y_val", "weight_val")
        return data["share_val"] * loss(w, *(data[name] for name in names))

    w0 = {
        "coef": torch.zeros(4, 3, dtype=torch.float64),
        "intercept": torch.zeros(3, dtype=torch.float64),
    }
    x0 = torch.tensor(-6.9, dtype=torch.float64)
    problem = BilevelProblem(inner, outer, x0, w0, pad_rows=True)
    settings = {"beta": 0.5, "alpha": 0.05, "n_rounds": 40, "random_state": 0}
    model = FedMSAClassifier(problem, **settings).fit(X, y, groups=clients)
    assert model.score(X, y) > 0.7
    assert model.loss_curve_[-1] < 0.7 * model.loss_curve_[0]
    narrow = BilevelProblem(inner, outer, x0, {"coef": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="must be a dict of tensors with the shapes"):
        FedMSAClassifier(narrow).fit(X, y)


def test_hidden_layers_learn_what_is_not_linear():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(300, 2))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    settings = {"n_clients": 3, "random_state": 0, "n_rounds": 100, "local_steps": 20}
    linear = FedMSAClassifier(n_clients=3, random_state=0).fit(X, y)
    deep = FedMSAClassifier("plain", hidden_layer_sizes=(16,), **settings).fit(X, y)
    assert linear.score(X, y) < 0.7
    assert deep.score(X, y) > 0.9
    assert not hasattr(deep, "coef_")
    assert isinstance(deep.module_, torch.nn.Module)


def test_units_of_features_do_not_matter_if_they_differ():
    """Then each is divided by its deviation, by default."""
    X, y = load_breast_cancer(return_X_y=True)
    raw = FedMSAClassifier(n_rounds=50, random_state=0).fit(X, y)
    scaled = FedMSAClassifier(n_rounds=50, random_state=0, standardize=True).fit(
        StandardScaler().fit_transform(X), y
    )
    # divided twice, or once: rounding, over 50 rounds
    np.testing.assert_allclose(
        raw.decision_function(X),
        scaled.decision_function(StandardScaler().fit_transform(X)),
        rtol=1e-6,
        atol=1e-6,
    )
    assert raw.score(X, y) > 0.95


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"problem": "hyper_representation"}, "give hidden_layer_sizes or module"),
        ({"hidden_layer_sizes": (0,)}, "must be integers from 1 on"),
        (
            {"hidden_layer_sizes": (3,), "module": torch.nn.Identity},
            "module takes the place",
        ),
        ({"clean_clients": [0]}, "clean_clients is for problem='data_cleaning'"),
        (
            {"problem": "data_cleaning", "clean_clients": [77]},
            "must name some of the clients, but not all",
        ),
        ({"local_clients": 9}, "local_clients=9 of 5 clients"),
        ({"beta": 1e3}, "beta=1000.0 is at least 2 / L"),
        ({"device": "cuda:99"}, "is not available here"),
        ({"module": lambda n: torch.nn.Flatten(0)}, "module must turn rows"),
        ({"backend_options": {"n_processes": 2}}, "engine='vmap' has no options"),
    ],
)
def test_what_cannot_be_is_refused(settings, match):
    X, y, clients = small()
    with pytest.raises(ValueError, match=match):
        FedMSAClassifier(**settings).fit(X, y, groups=clients)


def test_one_class_is_refused():
    X, _, _ = small()
    with pytest.raises(ValueError, match=r"at least two classes; got one class, 7"):
        FedMSAClassifier().fit(X, np.full(len(X), 7))


def test_feature_groups_must_fit():
    X, y = make_regression(30, 4, random_state=0)
    with pytest.raises(ValueError, match="the group of each of 4 features"):
        FedMSARegressor(feature_groups=[0, 1]).fit(X, y)
    with pytest.raises(ValueError, match="feature_groups is for problem='ridge'"):
        FedMSARegressor("plain", feature_groups=[0, 1, 0, 1]).fit(X, y)


def test_a_failed_fit_leaves_the_estimator():
    X, y, clients = small()
    model = FedMSAClassifier(**QUICK).fit(X, y, groups=clients)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match="beta=50 is at least 2 / L"):
        model.set_params(beta=50).fit(X[:, :3], y, groups=clients)
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_a_lost_client_stops_the_fit_if_asked():
    X, y, clients = small()

    class Losing:
        """Stands in for an engine whose clients all went away."""

        numbers, weights = [0, 1], [1.0, 1.0]

        def ask(self, request):
            empty = torch.zeros(0)
            reply = {"total": empty, "weight": 0.0, "value": 0.0, "largest": 0.0}
            return reply | {"answered": empty.long(), "lost": [0, 1]}

        def close(self):
            pass

    with pytest.raises((ClientLostError, ConnectionError), match="answer"):
        FedMSAClassifier(engine=Losing(), on_lost_client="stop").fit(X, y, clients)


def test_the_engine_with_processes_gives_the_same():
    X, y, clients = small(n=40)
    settings = {"n_rounds": 3, "random_state": 0, "refit": False, "tol": 1.0}
    here = FedMSAClassifier(**settings).fit(X, y, groups=clients)
    there = FedMSAClassifier(
        engine="gloo", backend_options={"n_processes": 2}, **settings
    ).fit(X, y, groups=clients)
    np.testing.assert_allclose(there.coef_, here.coef_, rtol=1e-12, atol=1e-12)


def test_it_goes_through_pipelines_and_searches():
    X, y, clients = small(n=90)
    with config_context(enable_metadata_routing=True):
        unseen = cross_validate(
            FedMSAClassifier(**QUICK),
            X,
            y,
            cv=GroupKFold(3),
            params={"groups": clients},
        )
    assert len(unseen["test_score"]) == 3
    table = np.column_stack([X, clients])
    scale = make_column_transformer(
        (StandardScaler(), [0, 1, 2, 3]), remainder="passthrough"
    )
    search = GridSearchCV(
        make_pipeline(scale, FedMSAClassifier(client_feature=-1, **QUICK)),
        {"fedmsaclassifier__problem": ["plain", "logit_adjust"]},
        scoring="balanced_accuracy",
        cv=3,
    ).fit(table, y)
    assert search.best_score_ > 0.7


def test_it_is_pickled_with_its_hidden_layers():
    X, y, clients = small()
    for sizes in ((), (3,)):
        model = FedMSAClassifier(hidden_layer_sizes=sizes, n_rounds=15, random_state=0)
        model.fit(X, y, groups=clients)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_the_gpu_is_that_on_the_cpu():
    X, y, clients = small()
    here = FedMSAClassifier(**QUICK).fit(X, y, groups=clients)
    there = FedMSAClassifier(device="cuda", **QUICK).fit(X, y, groups=clients)
    np.testing.assert_allclose(there.coef_, here.coef_, rtol=1e-8, atol=1e-8)
    assert isinstance(there.coef_, np.ndarray)
    np.testing.assert_array_equal(there.predict(X), here.predict(X))
