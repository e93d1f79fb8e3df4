"""The row of ChainOfThoughtRegressor, its task, and where its errors come from."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer, r2_score
from sklearn.model_selection import ShuffleSplit
from sklearn.multioutput import RegressorChain
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sklearn_attn.datasets import make_staged_process
from sklearn_attn.in_context import ChainOfThoughtRegressor

from . import Task, tuned

NAME = "chain of thought"
PICTURE = "staged_plant.png"

_SEED = 1000
STAGES = {"flows": 6, "overflows": 5, "product": 1}
ALPHAS = [0.01, 0.1, 1, 10]
SHARES, N_DRAWS = [0.25, 0.5, 0.75, 1.0], 5  # of the training rows
OURS, CONSTRUCTION, THEIRS = "#0072B2", "#009E73", "#999999"
WIDTH, HEIGHT = 11, 4.5  # inches


def of_product(y, predicted):
    """Return the R^2 of the last column."""
    return r2_score(y[:, -1], np.reshape(predicted, (len(y), -1))[:, -1])


def product(Y):
    """Return the last column."""
    return Y[:, -1]


def unchanged(Y):
    return Y


SCORER = make_scorer(of_product)


def staged_plant(n_train=60, n_test=300, n_folds=10):
    """Return settings of a plant; what is measured in two stages, and the product."""
    X, steps, y = make_staged_process(n_train + n_test, random_state=_SEED)
    splitter = ShuffleSplit(
        n_folds, train_size=n_train, test_size=n_test, random_state=_SEED
    )
    quadratic = make_pipeline(
        StandardScaler(), PolynomialFeatures(), StandardScaler(), Ridge()
    )
    chain = RegressorChain(quadratic)  # its parameter's name is not that of old days
    (alpha,) = (name for name in chain.get_params() if name.endswith("ridge__alpha"))
    return Task(
        name="staged_plant",
        title=f"What will the plant make? {n_train} runs with meters on the way",
        X=X,
        y=np.hstack([*steps.values(), y[:, None]]),
        cv=list(splitter.split(X)),
        scoring=SCORER,
        baselines={
            "quadratic ridge": tuned(
                _direct(quadratic), scoring=SCORER, regressor__ridge__alpha=ALPHAS
            ),
            "random forest": tuned(
                _direct(RandomForestRegressor(random_state=0)),
                scoring=SCORER,
                regressor__min_samples_leaf=[1, 2, 5, 10],
            ),
            "MLP": tuned(
                _direct(
                    make_pipeline(
                        StandardScaler(),
                        MLPRegressor(
                            hidden_layer_sizes=(30,),
                            solver="lbfgs",
                            max_iter=5000,
                            random_state=0,
                        ),
                    )
                ),
                scoring=SCORER,
                regressor__mlpregressor__alpha=[0.3, 1, 3, 10],
            ),
            "chain of quadratics": tuned(chain, scoring=SCORER, **{alpha: ALPHAS}),
        },
    )


def _direct(regressor):
    """Predict the product from the settings, whatever is measured on the way."""
    return TransformedTargetRegressor(
        regressor, func=product, inverse_func=unchanged, check_inverse=False
    )


def candidate(task):
    """Return the tuned regressor; None for a task that is not its own."""
    if task.name != "staged_plant":
        return None
    return tuned(
        ChainOfThoughtRegressor(step_sizes=tuple(STAGES.values())),
        scoring=SCORER,
        solver=["transformer", "filtered"],
        standardize=[True, False],
    )


def picture(tested):
    """Draw where errors come from, and errors with fewer runs to learn from.

    `tested` holds tuples `(task, fitted candidate, X_test, y_test)`.
    """
    ((task, search, X, Y),) = tested
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, HEIGHT), layout="constrained"
    )
    n_train = len(task.cv[0][0])
    figure.suptitle(
        f"A plant with meters on the way, {n_train} runs: settings > flows > "
        "overflows > product"
    )
    transformer = clone(search.best_estimator_).set_params(
        solver="transformer", standardize=True
    )
    _draw_steps(left, transformer, task, X, Y)
    _draw_errors(right, transformer, task)
    return figure


def _draw_steps(axes, model, task, X, Y):
    train, _ = task.cv[0]
    risk = model.fit(task.X[train], task.y[train]).step_risk(X, Y, None)
    place = np.arange(len(STAGES))
    axes.bar(place - 0.2, risk.alone, 0.38, color=THEIRS, label="stage before measured")
    axes.bar(
        place + 0.2, risk.chained, 0.38, color=OURS, label="stage before predicted"
    )
    axes.set(
        title="Transformer in context: error of each stage",
        ylabel="squared error / variance",
        xticks=place,
        xticklabels=list(STAGES),
    )
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_errors(axes, transformer, task):
    """Draw errors of a fold against the number of runs, median over draws."""
    train, test = task.cv[0]
    rng = np.random.default_rng(0)
    sizes = [max(6, round(share * len(train))) for share in SHARES]
    draws = [[rng.permutation(train)[:n] for _ in range(N_DRAWS)] for n in sizes]
    models = {
        "chain, transformer": (transformer, OURS),
        "chain, least squares": (
            clone(transformer).set_params(solver="filtered"),
            CONSTRUCTION,
        ),
        "quadratic ridge, direct": (
            clone(task.baselines["quadratic ridge"].estimator),
            THEIRS,
        ),
    }
    for name, (model, color) in models.items():
        errors = [
            np.median([_error(model, task, rows, test) for rows in of_size])
            for of_size in draws
        ]
        axes.plot(sizes, errors, "o-", color=color, label=name)
    axes.set(
        title="Error of the product for new settings",
        xlabel="runs to learn from",
        ylabel="squared error / variance",
        yscale="log",
        xticks=sizes,
    )
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)


def _error(model, task, train, test):
    model = clone(model).fit(task.X[train], task.y[train])
    return 1 - of_product(task.y[test], model.predict(task.X[test]))
