"""Compare each estimator with its rivals on the same folds, and draw what it learned.

    python examples/demo.py [--quick] [--only TASK] [--jobs N] [--output DIR]

Each estimator is tuned in a pipeline by GridSearchCV, and so are its rivals, over as
many settings. How a new estimator adds its row stands in `demo_jobs/__init__.py`.
"""

import os

# before NumPy and torch start their threads: as many fits run at once as there are jobs
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import html
import time
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # pictures go to files
import matplotlib.pyplot as plt
import pandas as pd
from demo_jobs import (
    N_SETTINGS,
    attention_svm,
    bilinear,
    chain_of_thought,
    federated,
    in_context,
    long_horizon,
    manifold_ode,
    multipath,
    prompt_attention,
    shared_representation,
)
from demo_jobs.bilinear import converter
from demo_jobs.chain_of_thought import staged_plant
from demo_jobs.federated import rare_digits
from demo_jobs.in_context import few_patients
from demo_jobs.long_horizon import late_digits
from demo_jobs.manifold_ode import macrospin
from demo_jobs.multipath import permuted_digits
from demo_jobs.prompt_attention import digit_needles
from demo_jobs.shared_representation import paid_digits
from demo_jobs.tasks import breast_cancer, digit_bags

from sklearn_attn import ComparisonDisplay, compare

# Each with its sizes under --quick.
TASKS = {
    digit_bags: {"n_train": 200, "n_test": 200, "n_folds": 5},
    breast_cancer: {"n_folds": 3},
    digit_needles: {"n_train": 200, "n_test": 200, "n_folds": 3},
    converter: {"n_train": 500, "n_test": 500, "n_folds": 3},
    macrospin: {"n_folds": 3},
    late_digits: {"n_train": 500, "n_test": 200, "n_folds": 3},
    paid_digits: {"n_train": 1200, "n_test": 400, "n_folds": 3},
    permuted_digits: {"n_train": 360, "n_test": 720, "n_folds": 3},
    rare_digits: {"n_train": 200, "n_folds": 1},
    few_patients: {"n_folds": 3},
    staged_plant: {"n_folds": 3},
}
ESTIMATORS = [
    attention_svm,
    prompt_attention,
    bilinear,
    manifold_ode,
    long_horizon,
    shared_representation,
    multipath,
    federated,
    in_context,
    chain_of_thought,
]

PROTOCOL = (
    "All are fitted to the same folds. On the training samples of each, each is tuned\n"
    f"over {N_SETTINGS} settings by GridSearchCV; this counts in the time to fit."
)
QUICK = "\nWith --quick, folds and samples are too few to trust small differences."
# Of the picture of a comparison: each candidate, each task besides, and the page.
ROW_INCHES, FRAME_INCHES, WIDTH = 0.5, 1.5, 11
SCORES_TO_TIMES = (2.2, 1)
DPI = 130
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Comparison</title>
<style>
body {{ font-family: sans-serif; margin: 2em; }}
td, th {{ padding: 0.2em 0.8em; text-align: right; }}
td:first-child, th:first-child, caption {{ text-align: left; }}
img {{ max-width: 100%; }}
</style>
<h1>Comparison</h1>
<p>{protocol}</p>
{sections}
<img src="{picture}" alt="Score and time to fit of each candidate">
"""


def main(arguments=None):
    """Run the job from the command line."""
    options = parse(arguments)
    start = time.perf_counter()
    tasks = [
        task(**(quick_sizes if options.quick else {}))
        for task, quick_sizes in TASKS.items()
        if options.only in (None, task.__name__)
    ]
    print(PROTOCOL, QUICK * options.quick, sep="", end="\n\n")
    written = run(tasks, Path(options.output), n_jobs=options.jobs)
    print("Wrote", *written, sep="\n  ")
    print(f"in {time.perf_counter() - start:.0f} seconds.")


def parse(arguments):
    """Read the options."""
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="less data, fewer folds")
    parser.add_argument(
        "--only", choices=[task.__name__ for task in TASKS], help="leave out the others"
    )
    parser.add_argument("--jobs", type=int, default=2, help="fits at once (default: 2)")
    parser.add_argument("--output", default="results", help="folder (default: results)")
    return parser.parse_args(arguments)


def run(tasks, output, n_jobs):
    """Compare on each task and print the tables; return the files written."""
    output.mkdir(parents=True, exist_ok=True)
    results = []
    for task in tasks:
        print(task.title, flush=True)
        rows = {module.NAME: module.candidate(task) for module in ESTIMATORS}
        ours = {name: search for name, search in rows.items() if search is not None}
        result = compare(
            task.baselines | ours,
            task.X,
            task.y,
            cv=task.cv,
            scoring=task.scoring,
            n_jobs=n_jobs,
            return_estimators=True,
        )
        print(result, end="\n\n", flush=True)
        results.append(result)
    return [
        *draw_comparisons(tasks, results, output / "comparison.png"),
        *draw_what_was_learned(tasks, results, output),
        *write_tables(tasks, results, output / "comparison"),
    ]


def draw_comparisons(tasks, results, path):
    """Draw the scores and times, a row of the picture for each task."""
    inches = [FRAME_INCHES + ROW_INCHES * len(result.names) for result in results]
    figure = plt.figure(figsize=(WIDTH, sum(inches)), layout="constrained")
    rows = figure.subfigures(len(tasks), height_ratios=inches, squeeze=False)
    for row, task, result in zip(rows.flat, tasks, results):
        row.suptitle(task.title, fontweight="bold")
        axes = row.subplots(1, 2, width_ratios=SCORES_TO_TIMES)
        display = ComparisonDisplay.from_result(result, ax=axes)
        for label in display.ax_.get_yticklabels():
            if label.get_text() in {module.NAME for module in ESTIMATORS}:
                label.set_fontweight("bold")
    yield save(figure, path)


def draw_what_was_learned(tasks, results, folder):
    """Let each estimator draw its fit of the first fold, on the test samples there."""
    for module in ESTIMATORS:
        tested = []
        for task, result in zip(tasks, results):
            if module.NAME in result.names and module.NAME not in result.errors:
                fitted = result.estimators[module.NAME][0]
                _, test = task.cv[0]
                tested.append((task, fitted, task.X[test], task.y[test]))
        if tested:
            yield save(module.picture(tested), folder / module.PICTURE)


def write_tables(tasks, results, path):
    """Write all tables to one CSV file, and with the picture to one HTML page."""
    frames = {task.name: result.to_frame() for task, result in zip(tasks, results)}
    csv, page = path.with_suffix(".csv"), path.with_suffix(".html")
    pd.concat(frames, names=["task"]).to_csv(csv)
    sections = [
        f"<h2>{html.escape(task.title)}</h2>{result._repr_html_()}"
        for task, result in zip(tasks, results)
    ]
    page.write_text(
        PAGE.format(
            protocol=PROTOCOL, sections="".join(sections), picture=f"{path.name}.png"
        )
    )
    yield from (csv, page)


def save(figure, path):
    """Write a picture, and return where."""
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path


if __name__ == "__main__":
    main()
