"""Who may import whom (doc/design/0001-layout.md), read off the source and not run.

Each rule takes the modules of the package and yields its offences as sentences. The
package must have none; a small offending source shows that each rule can find one.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest

import sklearn_attn

ROOT = "sklearn_attn"
SOURCES = Path(sklearn_attn.__file__).parent
# Imported by hardly any user, or slow to import: inside the function that needs them.
HEAVY = {
    "cvxopt",
    "cvxpy",
    "flwr",
    "gymnasium",
    "matplotlib",
    "pandas",
    "polars",
    "rich",
    "skorch",
}
# Subclasses of a heavy library's classes, which cannot wait for a function. They are
# imported inside of one themselves.
ON_FIRST_USE = {f"{ROOT}.bandits._wisconsin_card_sorting_env"}
# They look at what the user passes, like an estimator, but belong to no domain.
ESTIMATOR_LEVEL = {"callbacks", "comparison", "preprocessing"}
# Folders that are no domain; `datasets` draws from the nouns of all of them.
OUTSIDE_OF_DOMAINS = ESTIMATOR_LEVEL | {"datasets"}
DOORS = {f"{ROOT}.{name}" for name in ("_arrays", "_compat", "_validation")}
# `_arrays` is the door that solvers go through as well: tensors in, NumPy out.
DOORS_OF_ESTIMATORS = {f"{ROOT}.{name}" for name in ("_compat", "_validation")}


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`; `in_function` runs when called."""

    module: str
    name: str | None
    in_function: bool

    @property
    def dotted(self):
        return f"{self.module}.{self.name}" if self.name else self.module


class Module:
    """A module of the package: its place, and what its source says."""

    def __init__(self, dotted, source, is_package=False):
        self.dotted = dotted
        self.is_package = is_package
        self.tree = ast.parse(source)
        self.imports = list(self._read_imports(self.tree, in_function=False))

    @property
    def top(self):
        """What follows the root in the dotted name; empty for the root itself."""
        return self.dotted.removeprefix(ROOT).removeprefix(".").split(".")[0]

    @property
    def domain(self):
        """The domain's name; None for what lies outside of domains."""
        in_folder = self.is_package or self.dotted.count(".") > 1
        is_domain = in_folder and self.top and self.top not in OUTSIDE_OF_DOMAINS
        return self.top if is_domain else None

    @property
    def has_estimator(self):
        """Whether a class in here is a `BaseEstimator`, or a forecaster of series."""
        return any(
            ast.unparse(base).split(".")[-1] == "BaseEstimator"
            or node.name.endswith("Forecaster")
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ClassDef)
            for base in [*node.bases, ast.Name("object")]
        )

    @property
    def has_methods(self):
        """Whether this holds methods that estimators take by name."""
        return self.dotted.endswith("_methods")

    @property
    def is_solver(self):
        """Whether this is a verb or a noun of a domain: arrays in, arrays out."""
        plain = not (self.is_package or self.has_estimator or self.has_methods)
        return bool(self.domain) and plain and not self.dotted.endswith("_display")

    def _read_imports(self, node, in_function):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, None, in_function)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    yield Import(self._absolute(child), alias.name, in_function)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue  # never runs
            else:
                function = isinstance(child, ast.FunctionDef | ast.Lambda)
                yield from self._read_imports(child, in_function or function)

    def _absolute(self, node):
        if not node.level:
            return node.module
        parts = self.dotted.split(".")
        package = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*package, *filter(None, [node.module])])


def read_package():
    modules = {}
    for path in sorted(SOURCES.rglob("*.py")):
        parts = [ROOT, *path.relative_to(SOURCES).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        dotted = ".".join(parts[:-1] if is_package else parts)
        modules[dotted] = Module(dotted, path.read_text(), is_package)
    return modules


def internal_imports(modules):
    """Yield (importer, imported module) inside the package."""
    for module in modules.values():
        for imported in module.imports:
            target = modules.get(imported.dotted) or modules.get(imported.module)
            if target is not None:
                yield module, target


def private_names_of_sklearn_come_through_compat(modules):
    """No other file names what scikit-learn may change without notice."""
    for module in modules.values():
        if module.dotted == f"{ROOT}._compat":
            continue
        for imported in module.imports:
            package, *inside = imported.dotted.split(".")
            if package == "sklearn" and any(part.startswith("_") for part in inside):
                yield f"{module.dotted} imports {imported.dotted}"


def domains_do_not_import_each_other(modules):
    """What two domains share lives outside of both."""
    for importer, imported in internal_imports(modules):
        if importer.domain and imported.domain not in (None, importer.domain):
            yield f"{importer.dotted} imports {imported.dotted}"


def only_estimators_look_at_raw_input(modules):
    """Below the estimators arrays are trusted: one validation, at the door."""
    for importer, imported in internal_imports(modules):
        at_level = importer.top in ESTIMATOR_LEVEL or importer.dotted in DOORS
        may = importer.has_estimator or importer.has_methods or at_level
        if imported.dotted in DOORS_OF_ESTIMATORS and not may:
            yield f"{importer.dotted} imports {imported.dotted}"


def imports_point_downwards(modules):
    """Estimators are imported by `__init__` and displays; domains by nothing below."""
    for importer, imported in internal_imports(modules):
        above = importer.is_package or importer.dotted.endswith("_display")
        if imported.has_estimator and imported.domain and not above:
            yield f"{importer.dotted} imports the estimators of {imported.dotted}"
        if imported.has_methods and not importer.has_estimator:
            yield f"{importer.dotted} imports the methods of {imported.dotted}"
        may = importer.domain or importer.top in ("", "datasets")
        if imported.domain and not may:
            yield f"{importer.dotted} imports the domain of {imported.dotted}"


def imports_make_no_cycle(modules):
    """A reading order exists, also for imports inside functions."""
    graph = {dotted: set() for dotted in modules}
    for importer, imported in internal_imports(modules):
        if imported.dotted != ROOT:  # `__version__`, from the lazy `__init__`
            graph[importer.dotted].add(imported.dotted)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield " <- ".join(error.args[1])


def solvers_never_see_an_estimator(modules):
    """A solver takes a problem and returns its answer; attributes are set in `fit`."""
    for module in filter(lambda module: module.is_solver, modules.values()):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.arg) and node.arg in ("est", "estimator"):
                yield f"{module.dotted}:{node.lineno} takes an estimator"
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                fitted = node.attr.endswith("_") and not node.attr.endswith("__")
                if fitted:
                    yield f"{module.dotted}:{node.lineno} writes {ast.unparse(node)}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
                yield f"{module.dotted}:{node.lineno} calls setattr"


def heavy_libraries_wait_for_their_function(modules):
    """Nobody pays for matplotlib, pandas or cvxpy before it is needed."""
    for module in modules.values():
        for imported in module.imports:
            if imported.in_function:
                continue
            is_heavy = imported.module.split(".")[0] in HEAVY
            if is_heavy and module.dotted not in ON_FIRST_USE:
                yield f"{module.dotted} imports {imported.module} at its top"
            if imported.module in ON_FIRST_USE or imported.dotted in ON_FIRST_USE:
                yield f"{module.dotted} imports {imported.dotted} at its top"


RULES = [
    private_names_of_sklearn_come_through_compat,
    domains_do_not_import_each_other,
    only_estimators_look_at_raw_input,
    imports_point_downwards,
    imports_make_no_cycle,
    solvers_never_see_an_estimator,
    heavy_libraries_wait_for_their_function,
]

ESTIMATOR = "class E(ClassifierMixin, base.BaseEstimator): ..."
# A rule, and sources that break it; "a/" is the `__init__` of the domain a.
OFFENCES = [
    (private_names_of_sklearn_come_through_compat, {"a.x": "import sklearn.utils._x"}),
    (
        private_names_of_sklearn_come_through_compat,
        {"a.x": "def f():\n    from sklearn.base import _fit_context"},
    ),
    (domains_do_not_import_each_other, {"a.x": "from ..b import y", "b.y": ""}),
    (domains_do_not_import_each_other, {"a.x": "from ..b.y import z", "b.y": ""}),
    (only_estimators_look_at_raw_input, {"a.x": "from .._compat import Interval"}),
    (
        only_estimators_look_at_raw_input,
        {"callbacks_too.x": "from .._compat import Interval"},
    ),
    (
        only_estimators_look_at_raw_input,
        {"a._e_display": "from .. import _validation"},
    ),
    (imports_point_downwards, {"a.x": "from .e import E", "a.e": ESTIMATOR}),
    (
        imports_point_downwards,
        {"a.x": "from . import _e_methods", "a._e_methods": ""},
    ),
    (imports_point_downwards, {"_training": "from .a import x", "a.x": ""}),
    (imports_point_downwards, {"comparison/": "from ..a import x", "a.x": ""}),
    (imports_point_downwards, {"comparison.c": "from ..a.x import f", "a.x": ""}),
    (imports_make_no_cycle, {"a.x": "from . import y", "a.y": "from .x import f"}),
    (
        imports_make_no_cycle,
        {"a.x": "from . import y", "a/": "from .x import f"},
    ),
    (solvers_never_see_an_estimator, {"a.x": "def solve(estimator): ..."}),
    (solvers_never_see_an_estimator, {"a.x": "def solve(e):\n    e.coef_ = 1"}),
    (solvers_never_see_an_estimator, {"a.x": "def solve(e):\n    setattr(e, 'c', 1)"}),
    (heavy_libraries_wait_for_their_function, {"a.x": "import matplotlib.pyplot"}),
    (
        heavy_libraries_wait_for_their_function,
        {"bandits.x": "from ._wisconsin_card_sorting_env import X"},
    ),
    (
        heavy_libraries_wait_for_their_function,
        {"a.x": "try:\n    from skorch import NeuralNet\nexcept ImportError: ..."},
    ),
]
CLEAN = {
    "a/": "from .e import E\nfrom .x import solve",
    "a.e": f"from .._validation import check_tokens\nfrom .x import solve\n{ESTIMATOR}",
    "a._e_methods": "from .._validation import check_tokens\ndef fit(e): e.coef_ = 1",
    "a.f": f"from . import _e_methods\n{ESTIMATOR}",
    "a.x": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import pandas
        from sklearn.utils import check_array
        from .._arrays import to_tensor
        class Noun:
            def __init__(self): self.letter = 1
        def solve(problem):
            import cvxpy
        """,
    "a._e_display": "from .e import E\nclass D:\n    def plot(self): self.ax_ = 1",
    "a.y": "from .. import __version__",
    "datasets/": "from ..a.x import solve",
    "preprocessing/": "from .._validation import pad_sequences",
    "preprocessing.x": "from .._compat import Interval",
}


def synthetic_package(sources):
    doors = {door.removeprefix(f"{ROOT}."): "" for door in DOORS}
    modules = {ROOT: Module(ROOT, "", is_package=True)}
    for name, source in (doors | sources).items():
        dotted = f"{ROOT}.{name.removesuffix('/')}"
        modules[dotted] = Module(dotted, dedent(source), name.endswith("/"))
    return modules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    assert list(rule(read_package())) == []


@pytest.mark.parametrize(("rule", "sources"), OFFENCES)
def test_the_rule_finds_an_offence(rule, sources):
    assert list(rule(synthetic_package(sources)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_lets_the_intended_layout_pass(rule):
    assert list(rule(synthetic_package(CLEAN))) == []


def test_every_rule_has_an_offence_that_it_finds():
    assert {rule for rule, _ in OFFENCES} == set(RULES)


def modules_loaded_by(statement):
    """Run a statement in a fresh interpreter; return the top-level modules loaded."""
    script = (
        f"{statement}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(output.stdout.split())


def test_import_loads_neither_torch_nor_sklearn():
    loaded = modules_loaded_by(f"import {ROOT}; dir({ROOT}); {ROOT}.__version__")
    assert ROOT in loaded
    assert loaded.isdisjoint({"torch", "sklearn", "scipy", "numpy"})


def test_import_of_every_public_name_loads_no_heavy_library_of_ours():
    """Beyond what scikit-learn and torch load by themselves."""
    everything = f"import {ROOT}\nfor name in {ROOT}.__all__: getattr({ROOT}, name)"
    without_us = modules_loaded_by(f"import torch, {ROOT}._compat, sklearn.metrics")
    assert not (modules_loaded_by(everything) - without_us) & HEAVY
