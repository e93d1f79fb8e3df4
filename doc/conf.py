"""Sphinx configuration. The site builds offline, and any warning is an error."""

import re
import warnings
from pathlib import Path

from numpydoc.xref import DEFAULT_LINKS
from sphinx_gallery.sorting import ExplicitOrder

import sklearn_attn

project = "sklearn-attn"
author = "The sklearn-attn developers"
copyright = f"2026, {author}"
version = release = re.sub(r"\+.*", "", sklearn_attn.__version__)

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "changes"]

# What a module lists in `__all__` is its public surface, wherever it is defined.
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "none"  # the docstrings give shapes and units as well
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_xref_param_type = True  # a type of ours is a link;
numpydoc_xref_aliases = {name: name for name in DEFAULT_LINKS}  # other sites are not
default_role = "literal"

copybutton_prompt_text = ">>> |\\.\\.\\. "
copybutton_prompt_is_regexp = True

# In the order of the papers; a domain without examples yet has no folder.
DOMAINS = ("attention", "in_context", "dynamics", "multitask", "federated", "bandits")
EXAMPLES = Path(__file__).parents[1] / "examples"
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "subsection_order": ExplicitOrder(
        [f"../examples/{name}" for name in DOMAINS if (EXAMPLES / name).is_dir()]
    ),
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"demo|__init__\.py",  # the demo and its modules
    "doc_module": "sklearn_attn",
    "backreferences_dir": "generated/backreferences",
    "abort_on_example_error": False,  # show all that fail, not just the first
    "write_computation_times": False,
    "show_signature": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "sklearn-attn"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}

# matplotlib says so once for every figure that an example shows
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")


def skip_request_methods(app, what, name, obj, skip, options):
    """Leave out `set_fit_request` and its like: they refer to pages of scikit-learn."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def escape_fitted_attributes(app, what, name, obj, options, lines):
    """Keep `of shape (n_tokens_, 2)` from being read as a link, which ends in `_`."""
    for i, line in enumerate(lines):
        if "of shape" in line:
            lines[i] = re.sub(r"(?<=[( ])(\w+)_(?=[,) ])", r"\1\\_", line)


def setup(app):
    app.connect("autodoc-skip-member", skip_request_methods)
    # before numpydoc, which takes the types apart
    app.connect("autodoc-process-docstring", escape_fitted_attributes, priority=100)
