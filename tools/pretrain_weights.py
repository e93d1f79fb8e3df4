"""Make the weights that the package ships: python tools/pretrain_weights.py NAME ...

Each run goes on from its checkpoint in results/pretraining, measures what it has made
beside the exact predictors, and writes file and card into the package. With no name,
all weights are made, one after the other. `--steps` trains for longer or shorter,
`--evaluate` only measures what is there.

The weights of this version were made by these recipes on one core each, in some ten to
fifty minutes. Their first values were drawn by torch's own generator, and no longer
are, so that another run gives other weights, as good as these. The first 5000 steps of
"icl-mixed" had the learning rates of a training of 30000 steps.

Those of chains have recipes of several stages, each from the weights of the one
before. Batches of 192 and 256 tasks were trained on an H100, which all of them shared
for eleven minutes; the others on a core, in 10 to 50. Only in the last stage of
"cot-two-layer" did states of other examples teach the filter.
"""

import argparse
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from sklearn_attn.datasets import make_staged_process
from sklearn_attn.in_context import (
    ChainOfThoughtRegressor,
    DeepLinearPrior,
    LDSPrior,
    LinearPrior,
    MixturePrior,
    MLPPrior,
    PretrainedICL,
    ReLUUnitPrior,
    SparseLinearPrior,
    StepPrior,
    WindowPrior,
    filtered_least_squares,
    minimum_norm,
    mixture_of_ridges,
    pretrain_chain_of_thought,
    pretrain_in_context,
    ridge,
    risk_curve,
    step_risk_curve,
    weighted_ridge,
    window_least_squares,
)
from sklearn_attn.in_context._priors import window_rows

HERE = Path(__file__).resolve().parents[1]
WEIGHTS = HERE / "sklearn_attn" / "in_context" / "weights"
CHECKPOINTS = HERE / "results" / "pretraining"
SEED = 0
# Of tasks that errors are measured on; training draws from another generator.
SEED_OF_TASKS, N_TASKS = 1, 1024

# Small tables: correlated columns of many kinds, few or all of which matter, mostly
# linear, with noise from a thirtieth to twice the signal.
TABLES = MixturePrior(
    [
        LinearPrior((0.05, 3.0), weight_cov=[1 / 8] * 16, inputs="varied"),
        LinearPrior((0.05, 3.0), weight_cov=[1 / 8] * 16),
        SparseLinearPrior(0.25, noise=(0.1, 8.0), inputs="varied"),
        SparseLinearPrior(1, noise=(0.1, 8.0), inputs="varied"),
        MLPPrior((16,), noise=(0.03, 2.0), inputs="varied"),
        MLPPrior((16, 16), activation="tanh", noise=(0.03, 2.0), inputs="varied"),
        ReLUUnitPrior((0.03, 2.0), bias=0.5, inputs="varied"),
    ],
    [0.3, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1],
)
# Half of the tasks depend on the first two of eight features only.
FIRST_TWO = [4.0, 4.0, 0, 0, 0, 0, 0, 0]
TWO_FAMILIES = MixturePrior([LinearPrior(1.0), LinearPrior(1.0, weight_cov=FIRST_TWO)])
# The paper's figure 2b.
DECAYING = [1 / i**2 for i in range(1, 21)]

# Networks of one hidden layer, as the paper has them.
TWO_LAYERS = MLPPrior(((2, 20),), bias=0.0)
# Steps of the paper's networks, first of all kinds, then more of the last step.
SINGLE_STEPS = [
    ReLUUnitPrior(),
    StepPrior(1, "linear"),
    StepPrior(1, "unit"),
    StepPrior(2, "linear"),
    LinearPrior(weight_cov=[1 / 10] * 20),
]
# Steps that are measured: with constants, columns of many kinds, and noise.
METERS = (0.005, 1.0)
MEASURED = {"bias": 0.5, "noise": METERS, "inputs": "varied"}
MEASURED_STEPS = MixturePrior(
    [
        LinearPrior(METERS, weight_cov=[1 / 10] * 20, inputs="varied"),
        ReLUUnitPrior(METERS, bias=0.5, inputs="varied"),
        StepPrior(1, "linear", **MEASURED),
        StepPrior(1, "unit", **MEASURED),
        StepPrior(0, "unit", activation="tanh", **MEASURED),
        StepPrior(1, "unit", activation="tanh", **MEASURED),
        MLPPrior((16,), noise=METERS, inputs="varied"),
    ],
    [0.15, 0.25, 0.2, 0.15, 0.1, 0.05, 0.1],
)
DEEP = {"width": 80, "n_layers": 8, "mlp_ratio": 2}

# Steps that series are predicted from.
WINDOW = 3

RECIPES = {
    "icl-linear": {
        "prior": LinearPrior(),
        "n_features_max": 10,
        "n_examples_max": 50,
        "n_steps": 10_000,
        "width": 48,
    },
    "icl-linear-noisy": {
        "prior": LinearPrior((0.1, 3.0)),
        "n_features_max": 20,
        "n_examples_max": 60,
        "n_steps": 12_000,
        "width": 64,
    },
    "icl-linear-unit-noise": {
        "prior": LinearPrior(1.0),
        "n_features_max": 20,
        "n_examples_max": 60,
        "n_steps": 7_000,
        "width": 64,
        "learning_rate": 1e-3,
        "standardize": False,
        "start": "icl-linear-noisy",
    },
    "icl-relu": {
        "prior": ReLUUnitPrior(),
        "n_features_max": 10,
        "n_examples_max": 50,
        "n_steps": 10_000,
        "width": 64,
        "mlp_ratio": 2,
    },
    "icl-mixed": {
        "prior": TABLES,
        "n_features_max": 16,
        "n_examples_max": 160,
        "n_steps": 16_000,
        "batch_size": 32,
        "standardize": True,
        "width": 64,
    },
    "icl-lds": {
        "prior": WindowPrior(LDSPrior(start="mixed"), window=WINDOW),
        "n_features_max": 12,
        "n_examples_max": 80,
        "n_steps": 8_000,
        "n_queries": 8,
        "width": 48,
        "vary_features": False,
        "standardize": False,
    },
    "icl-two-families": {
        "prior": TWO_FAMILIES,
        "n_features_max": 8,
        "n_examples_max": 24,
        "n_steps": 5_000,
        "width": 48,
        "vary_features": False,
        "standardize": False,
    },
    "icl-decaying": {
        "prior": LinearPrior(weight_cov=DECAYING),
        "n_features_max": 20,
        "n_examples_max": 40,
        "n_steps": 5_000,
        "width": 64,
        "vary_features": False,
        "standardize": False,
    },
    "icl-two-layer": {
        "prior": TWO_LAYERS,
        "n_examples_max": 64,
        "n_steps": 7_205,
        "batch_size": 256,
        "learning_rate": 2e-3,
        "standardize": False,
        **DEEP,
    },
    "cot-relu": [
        {
            "prior": MixturePrior(SINGLE_STEPS, shares),
            "n_features_max": 20,
            "n_examples_max": n_examples_max,
            "n_steps": n_steps,
            "batch_size": batch_size,
            "learning_rate": rate,
            "standardize": False,
            **DEEP,
        }
        for shares, n_examples_max, n_steps, batch_size, rate in (
            ([0.35, 0.35, 0.15, 0.1, 0.05], 64, 6_716, 256, 2e-3),
            ([0.25, 0.5, 0.1, 0.1, 0.05], 64, 3_457, 256, 1.5e-3),
            ([0.2, 0.65, 0.1, 0.0, 0.05], 48, 7_667, 64, 1e-3),
        )
    ],
    "cot-mixed": {
        "prior": MEASURED_STEPS,
        "n_features_max": 20,
        "n_examples_max": 120,
        "n_steps": 5_505,
        "batch_size": 192,
        "learning_rate": 2e-3,
        **DEEP,
    },
    "cot-two-layer": [
        {
            "prior": TWO_LAYERS,
            "n_examples_max": 48,
            "n_steps": n_steps,
            "batch_size": batch_size,
            "learning_rate": rate,
            **DEEP,
            "n_layers": 6,
        }
        for n_steps, batch_size, rate in (
            (8_502, 192, 2e-3),
            (4_433, 192, 1.5e-3),
            (6_346, 64, 1.2e-3),
        )
    ],
    "cot-one-shot": [
        {
            "prior": DeepLinearPrior(),
            "n_features_max": 5,
            "n_examples_max": n_examples_max,
            "n_queries": 8,
            "n_steps": n_steps,
            "batch_size": batch_size,
            "learning_rate": rate,
            "vary_features": False,
            **DEEP,
            "n_layers": 6,
            "n_heads": 4,
        }
        for n_examples_max, n_steps, batch_size, rate in (
            (4, 7_305, 256, 2e-3),
            (4, 3_737, 256, 1.5e-3),
            (4, 4_617, 64, 8e-4),
            (4, 3_823, 64, 8e-4),
            (2, 2_031, 128, 8e-4),
        )
    ],
}
CHAINS = ("cot-two-layer", "cot-one-shot")
# Numbers of examples that errors of two layers are measured at.
LENGTHS = [5, 10, 15, 20, 30, 40]


def measure(name, weights):
    """Return what the card says: risks beside those of exact predictors."""
    if name == "icl-two-layer":
        return {
            f"two layers, d=5, k={k}": step_risks({"icl": (weights, "icl")}, k)
            for k in (5, 10, 20)
        }
    if name == "cot-relu":
        return {
            f"two layers, d=5, k={k}": step_risks(
                {"chain": (weights, "cot-io"), "construction": (None, "cot-io")},
                k,
                lengths,
            )
            for k, lengths in ((2, [20]), (5, [20]), (10, LENGTHS), (20, [20, 40]))
        }
    if name == "cot-two-layer":
        modes = {mode: (weights, mode) for mode in ("cot-io", "cot-i", "icl")}
        return {
            f"two layers, d=5, k={k}": step_risks(modes, k, tells_steps=False)
            for k in (5, 10, 20)
        }
    if name == "cot-one-shot":
        return {
            "six layers of four matrices": {"n": [1, 2, 3, 4]}
            | {
                mode: rounded(
                    step_risk_curve(
                        weights,
                        DeepLinearPrior(),
                        [1, 2, 3, 4],
                        n_features=5,
                        mode=mode,
                        n_tasks=N_TASKS,
                        random_state=SEED_OF_TASKS,
                    ).risk
                )
                for mode in ("cot-io", "cot-i", "icl")
            }
        }
    if name == "cot-mixed":
        return {
            "measured steps, d=8": risks(
                {"weights": weights, "ridge": ridge},
                MEASURED_STEPS,
                8,
                [10, 20, 50, 100],
                tell_noise=True,
            ),
            "plant, median of nine": errors_on_plant(weights),
        }
    if name == "icl-linear":
        return {
            f"no noise, d={d}": risks(
                {"weights": weights, "minimum norm": minimum_norm},
                LinearPrior(),
                d,
                [d // 2, d - 1, d, 3 * d // 2, 2 * d, 3 * d, 5 * d],
            )
            for d in (5, 10)
        }
    if name in ("icl-linear-noisy", "icl-linear-unit-noise"):
        return {
            f"noise 1, d={d}": risks(
                {"weights": weights, "ridge": ridge},
                LinearPrior(1.0),
                d,
                lengths,
                tell_noise=True,
            )
            for d, lengths in (
                (5, [2, 4, 5, 6, 8, 10, 20]),
                (20, [4, 5, 10, 15, 20, 25, 30, 40]),
            )
        }
    if name == "icl-relu":
        return {
            f"no noise, d={d}": risks(
                {"weights": weights, "minimum norm": minimum_norm},
                ReLUUnitPrior(),
                d,
                [d, 2 * d, 3 * d, 4 * d, 5 * d],
            )
            for d in (5, 10)
        }
    if name == "icl-mixed":
        return {
            f"tables, d={d}": risks(
                {"weights": weights, "ridge": ridge},
                TABLES,
                d,
                [10, 20, 50, 100, 200],
                tell_noise=True,
            )
            for d in (4, 8, 16)
        }
    if name == "icl-two-families":
        exact = partial(
            mixture_of_ridges,
            weight_covs=[torch.ones(8).double(), torch.tensor(FIRST_TWO).double()],
            noises=[1.0, 1.0],
            probabilities=[0.5, 0.5],
        )
        return {
            "two families, d=8": risks(
                {"weights": weights, "mixture": exact},
                TWO_FAMILIES,
                8,
                [1, 2, 3, 4, 6, 7, 8, 12, 16],
            )
        }
    if name == "icl-decaying":
        bayes = partial(
            weighted_ridge, weight_cov=torch.tensor(DECAYING).double(), noise=0.0
        )
        return {
            "decaying weights, d=20": risks(
                {"weights": weights, "Bayes": bayes, "minimum norm": minimum_norm},
                LinearPrior(weight_cov=DECAYING),
                20,
                [1, 2, 5, 10, 15, 19, 20, 30],
            )
        }
    return {"systems of 20 states": errors_of_series(weights)}


def risks(algorithms, prior, n_features, n_examples, tell_noise=False):
    """Return the risk of each algorithm at each length of the context."""
    found = {"n": list(n_examples)}
    for label, algorithm in algorithms.items():
        curve = risk_curve(
            algorithm,
            prior,
            n_examples,
            n_features=n_features,
            n_tasks=N_TASKS,
            tell_noise=tell_noise,
            random_state=SEED_OF_TASKS,
        )
        found[label] = rounded(curve.risk)
    return found


def step_risks(chains, k, lengths=LENGTHS, tells_steps=True):
    """Return risks of y, and of steps, on networks with k hidden neurons."""
    found = {"n": list(lengths)}
    for label, (weights, mode) in chains.items():
        curve = step_risk_curve(
            filtered_least_squares if weights is None else weights,
            MLPPrior((k,), bias=0.0),
            lengths,
            n_features=5,
            mode=mode,
            n_tasks=N_TASKS,
            random_state=SEED_OF_TASKS,
        )
        found[label] = rounded(curve.risk)
        if tells_steps and mode == "cot-io":
            found[f"{label}, step 1"] = rounded(curve.alone[0])
            found[f"{label}, step 2"] = rounded(curve.alone[1])
    return found


def errors_on_plant(weights):
    """Return errors of y over its variance, at some numbers of training rows."""
    X_test, _, y_test = make_staged_process(1000, noise=0.0, random_state=1000)
    lengths = [20, 40, 80, 160, 320]
    found = {"n": lengths, "chain": [], "construction": []}
    for n in lengths:
        for label, model in (
            ("chain", ChainOfThoughtRegressor(weights)),
            ("construction", ChainOfThoughtRegressor(solver="filtered")),
        ):
            errors = []
            for seed in range(9):
                X, steps, y = make_staged_process(n, random_state=seed)
                predicted = model.fit(X, y, steps=steps).predict(X_test)
                errors.append(np.square(predicted - y_test).mean() / y_test.var())
            found[label] += rounded([np.median(errors)])
    return found


def rounded(values):
    return [round(float(value), 5) for value in values]


def errors_of_series(weights):
    """Return squared errors of one step, beside zero and the best ridge window."""
    generator = torch.Generator().manual_seed(SEED_OF_TASKS)
    series = LDSPrior().sample_series(N_TASKS, 40, generator=generator).double()
    steps = [10, 20, 30, 40]

    def errors(predicted):
        squares = (predicted - series).square().sum(2).mean(0)
        return [round(float(squares[t - 1]), 4) for t in steps]

    X, Y = window_rows(series, WINDOW)
    of_weights = []
    for t in steps:  # y_t from y_1, ..., y_{t - 1}: t - 2 examples, and a query
        rows = X[:, : t - 1].repeat_interleave(Y.shape[2], 0)
        targets = Y.mT.flatten(0, 1)[:, : t - 2]
        mean, _ = weights.predict(rows[:, :-1], targets, rows[:, -1:])
        error = (mean.view(N_TASKS, -1) - series[:, t - 1]).square().sum(1).mean()
        of_weights.append(round(float(error), 4))
    windows = [
        errors(window_least_squares(series, window=window, alpha=alpha))
        for window in (1, 2, 3, 4)
        for alpha in (1.0, 0.1, 0.01)
    ]
    return {
        "t": steps,
        "weights": of_weights,
        "zero": errors(torch.zeros_like(series)),
        "best ridge window": [min(column) for column in zip(*windows)],
    }


def train(name, settings):
    """Go through the stages of a recipe, each from the weights of the one before."""
    recipe = RECIPES[name]
    stages = recipe if isinstance(recipe, list) else [recipe]
    trainer = pretrain_chain_of_thought if name in CHAINS else pretrain_in_context
    weights, cards = None, []
    for i, stage in enumerate(stages):
        stage = {"start": weights} | stage
        stage["n_steps"] = settings.steps or stage["n_steps"]
        if isinstance(stage["start"], str):
            stage["start"] = PretrainedICL.load(
                WEIGHTS / f"{stage['start']}.safetensors"
            )
        part = f"-{i}" if len(stages) > 1 else ""
        weights = trainer(
            stage.pop("prior"),
            **stage,
            checkpoint=CHECKPOINTS / f"{name}{part}.pt",
            device=settings.device,
            random_state=SEED + i,
            verbose=1,
        )
        cards.append(weights.card)
    return with_stages(weights, cards)


def with_stages(weights, cards):
    """Put what earlier stages did into the card of the last."""
    card = cards[-1]
    if len(cards) > 1:
        card["stages"] = [
            {
                key: value
                for key, value in stage.items()
                if key not in ("errors_of_steps", "architecture", "standardize")
            }
            for stage in cards[:-1]
        ]
        card["tasks"] = sum(stage["tasks"] for stage in cards)
        if "errors_of_steps" in card:
            card["errors_of_steps"] = [
                row for stage in cards for row in stage["errors_of_steps"]
            ]
    return PretrainedICL(weights.config, weights._state, card)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--evaluate", action="store_true", help="only measure")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    for name in settings.names or RECIPES:
        path = WEIGHTS / f"{name}.safetensors"
        if not settings.evaluate:
            train(name, settings).save(path, dtype="float16")
        weights = PretrainedICL.load(path)  # rounded, as it is shipped
        measured = measure(name, weights)
        card = weights.card | {
            "name": name,
            "licence": "BSD-3-Clause",
            "command": f"python tools/pretrain_weights.py {name}",
            "measured": measured,
        }
        PretrainedICL(weights.config, weights._state, card).save(path, dtype="float16")
        print(name, weights.n_parameters, "weights,", path.stat().st_size, "bytes")
        for what, table in measured.items():
            print(f"  {what}")
            for label, values in table.items():
                print(f"    {label:18}", *(f"{value:>8g}" for value in values))


if __name__ == "__main__":
    main()
