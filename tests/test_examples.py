"""Examples of the gallery are short, say what to look at, and run."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = sorted((REPOSITORY / "examples").glob("**/plot_*.py"))
# One figure and its text on two screens; what is longer is two examples.
LONGEST = 120
# What an example's header says if it takes more than some seconds. It is then left to
# `make examples` and `make docs`.
TAKES_LONG = re.compile(r"Takes about \d+ seconds")
TIME_LIMIT = 60

every_example = pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda path: str(path.relative_to(REPOSITORY))
)


def header(example):
    return ast.get_docstring(ast.parse(example.read_text()))


@every_example
def test_the_example_is_short(example):
    assert len(example.read_text().splitlines()) <= LONGEST


@every_example
def test_the_header_has_a_title_and_says_what_to_look_at(example):
    title, underline, *text = header(example).splitlines()
    assert re.fullmatch("=+", underline)
    assert len(underline) >= len(title)
    assert re.search(r"\blook at\b", " ".join(text), re.IGNORECASE)


@every_example
def test_the_example_runs(example, tmp_path):
    if TAKES_LONG.search(header(example)):
        pytest.skip("takes long: left to make examples")
    subprocess.run(
        [sys.executable, example],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "agg"},
        check=True,
        timeout=TIME_LIMIT,
    )


def test_every_folder_of_examples_introduces_itself():
    """sphinx-gallery leaves out folders without a header."""
    folders = {REPOSITORY / "examples", *(example.parent for example in EXAMPLES)}
    assert [f for f in folders if not (f / "GALLERY_HEADER.rst").is_file()] == []
