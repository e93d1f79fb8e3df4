"""What `make demo` runs: tasks with their baselines, and one module per estimator.

An estimator adds its row in a module of its own, named in `ESTIMATORS` of `demo.py`:

- `NAME`, the row's, and `candidate(task)`, the estimator of that row, tuned over
  `N_SETTINGS` settings by :func:`tuned`; None for a task that is not its own.
- `PICTURE`, the name of a file, and `picture(tested)`, the figure for it: what the
  estimator has learned. `tested` holds `(task, fitted candidate, X_test, y_test)` for
  each of its tasks.

A task that comes with an estimator is a function in the same module, which returns a
:class:`Task` and is named in `TASKS` of `demo.py`.
"""

from dataclasses import dataclass

from sklearn.model_selection import GridSearchCV, ParameterGrid, TimeSeriesSplit

N_SETTINGS = 4  # of every candidate alike
N_TUNING_FOLDS = 3


@dataclass(frozen=True)
class Task:
    """Data, folds and the estimators to beat; the first of them is the baseline."""

    name: str
    title: str
    X: object
    y: object
    cv: object
    baselines: dict
    n_tokens: int = 1  # in a row of X
    scoring: object = "accuracy"


def tuned(estimator, *, in_time=False, scoring=None, **grid):
    """Search a grid by cross-validation on the training samples of a fold.

    With `in_time`, samples are validated after those that they are trained on. Without
    `scoring`, the score is the estimator's own.
    """
    assert len(ParameterGrid(grid)) == N_SETTINGS
    cv = TimeSeriesSplit(N_TUNING_FOLDS) if in_time else N_TUNING_FOLDS
    return GridSearchCV(estimator, grid, scoring=scoring, cv=cv)
