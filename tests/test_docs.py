"""The documentation tells the truth: examples run, names exist, parameters match."""

import ast
import doctest
import inspect
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from discovery import all_estimators, all_public
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate
from sklearn.base import is_regressor

import sklearn_attn

REPOSITORY = Path(__file__).parents[1]
DOC = REPOSITORY / "doc"
BUILT = ("_build", "auto_examples", "generated")
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
# "all" comes first in the list; what follows is left out.
IGNORED_CHECKS = set(PYPROJECT["tool"]["numpydoc_validation"]["checks"]) - {"all"}
# Called by scikit-learn, which documents them in its callback protocol.
CALLBACK_HOOKS = {"setup", "teardown", "on_fit_task_begin", "on_fit_task_end"}

PUBLIC = dict(all_public())
DOCUMENTED = {
    name: thing
    for name, thing in PUBLIC.items()
    if inspect.isclass(thing) or inspect.isfunction(thing)
}


def public_members(name, thing):
    """Yield the class and what it defines itself, or just the function."""
    yield name, thing
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        is_method = inspect.isfunction(value) or isinstance(
            value, classmethod | staticmethod | property
        )
        if is_method and not member.startswith("_") and member not in CALLBACK_HOOKS:
            yield f"{name}.{member}", value


MEMBERS = dict(
    member for item in DOCUMENTED.items() for member in public_members(*item)
)


def pages():
    yield from [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
    for page in sorted(DOC.rglob("*.md")):
        if page.relative_to(DOC).parts[0] not in BUILT:
            yield page


def python_blocks(page):
    """Yield (line, source) of each fenced Python block of a Markdown page."""
    text = page.read_text()
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        yield text.count("\n", 0, block.start(1)), block[1]


def run_doctest(test):
    """Run one doctest; fail with its report."""
    report = []
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=options)
    runner.run(test, out=report.append, clear_globs=False)
    assert not runner.failures, "".join(report)


def run_block(source, namespace, page, line):
    if ">>>" not in source:
        exec(compile("\n" * line + source, page, "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(source, namespace, "", str(page), line)
    run_doctest(test)
    namespace.update(test.globs)


def relative(path):
    return str(path.relative_to(REPOSITORY))


# Outputs are written as NumPy 2 shows them: np.float64(0.5), where 1.26 says 0.5.
needs_numpy_2 = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.0.0",
    reason="outputs in the documentation are those of NumPy 2",
)


@needs_numpy_2
@pytest.mark.parametrize(
    "page", [page for page in pages() if any(python_blocks(page))], ids=relative
)
def test_the_code_on_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for line, source in python_blocks(page):
        run_block(source, namespace, page, line)


@needs_numpy_2
@pytest.mark.parametrize("name", MEMBERS)
def test_the_examples_of_the_docstring_run(name, tmp_path, monkeypatch):
    if ".callbacks." in name:
        pytest.importorskip("sklearn.callback", reason="callbacks need 1.9")
    monkeypatch.chdir(tmp_path)
    for test in doctest.DocTestFinder(recurse=False).find(
        MEMBERS[name], name, globs={}
    ):
        run_doctest(test)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_docstring_has_an_example(name):
    assert ">>> " in inspect.getdoc(DOCUMENTED[name])


def documents_its_fields(thing):
    """Whether a dataclass or named tuple lists its fields as attributes, in order.

    That is where a reader looks who gets the object from a function; numpydoc looks
    among the parameters only.
    """
    fields = getattr(thing, "__match_args__", ())
    return bool(fields) and documented_attributes(thing) == list(fields)


def documented_attributes(cls):
    attributes = NumpyDocString(inspect.getdoc(cls))["Attributes"]
    return [name for entry in attributes for name in entry.name.split(", ")]


@pytest.mark.parametrize("name", MEMBERS)
def test_the_docstring_is_numpydoc_and_matches_the_signature(name):
    assert inspect.getdoc(MEMBERS[name]), "there is no docstring"
    ignored = IGNORED_CHECKS | (
        {"PR01"} if documents_its_fields(MEMBERS[name]) else set()
    )
    errors = validate(name)["errors"]
    assert [error for error in errors if error[0] not in ignored] == []


def test_numpydoc_checks_parameters_and_their_order():
    assert IGNORED_CHECKS.isdisjoint({"PR01", "PR02", "PR03", "SS03", "PR04"})


@pytest.mark.parametrize(("name", "estimator"), all_estimators())
def test_the_fitted_attributes_are_documented_ones(name, estimator):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(40, 4)), columns=list("abcd"))
    labels = np.where(X["a"] > 0, "yes", "no")
    fitted = estimator().fit(X, X["a"] if is_regressor(estimator()) else labels)
    documented = set(documented_attributes(estimator))
    set_by_fit = {attribute for attribute in vars(fitted) if attribute.endswith("_")}
    public = {attribute for attribute in set_by_fit if not attribute.startswith("_")}
    assert public - documented == set(), "set by fit and not documented"
    missing = {attribute for attribute in documented if not hasattr(fitted, attribute)}
    assert missing == set(), "documented and not there after fit"


@pytest.mark.parametrize("name", [name for name, _ in all_estimators()])
def test_how_to_choose_has_a_place_for_the_estimator(name):
    assert f"`{name}`" in (DOC / "how_to_choose.md").read_text()


@pytest.mark.parametrize("module", sklearn_attn._SUBMODULES)
def test_the_api_page_lists_the_module(module):
    assert f"sklearn_attn.{module}\n" in (DOC / "api.md").read_text()


def names_in(tree, prefix=""):
    """Yield the names that a module defines, and `Class.method` for its classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from names_in(node, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign):
            yield from (prefix + ast.unparse(target) for target in node.targets)


SYMBOLS = re.findall(
    r"`(sklearn_attn/[\w/]+\.py):([\w.]+)`", (DOC / "papers.md").read_text()
)


@pytest.mark.parametrize(("path", "symbol"), SYMBOLS)
def test_the_symbol_named_for_an_equation_exists(path, symbol):
    assert symbol in names_in(ast.parse((REPOSITORY / path).read_text()))


def test_every_row_of_papers_names_a_symbol():
    rows = [
        line
        for line in (DOC / "papers.md").read_text().splitlines()
        if line.startswith("|") and not re.match(r"\|[\s:|-]*$|\| *paper *\|", line)
    ]
    assert rows
    unnamed = [row for row in rows if not re.search(r"`sklearn_attn/\S+\.py:\w", row)]
    assert unnamed == []


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in sorted(DOC.glob("*/*.md"))
        if page.parent.name in ("user_guide", "developer", "design")
        and page.stem != "index"
    ],
    ids=relative,
)
def test_the_index_says_what_the_page_is_for(page):
    index = (page.parent / "index.md").read_text()
    assert re.search(rf"\]\({page.name}\).*\w", index)


@pytest.mark.parametrize(
    "fragment", sorted((DOC / "changes").iterdir()), ids=lambda path: path.name
)
def test_the_changelog_fragment_has_a_type_that_towncrier_knows(fragment):
    types = [kind["directory"] for kind in PYPROJECT["tool"]["towncrier"]["type"]]
    assert re.fullmatch(rf"(\d+|\+[\w-]+)\.({'|'.join(types)})\.md", fragment.name)
    assert fragment.read_text().strip()


def test_towncrier_finds_its_place_in_the_changelog():
    start = PYPROJECT["tool"]["towncrier"]["start_string"]
    assert start in (DOC / "changelog.md").read_text()
