# Each target works alone on a fresh machine with Python 3.11 or newer and pip:
# it makes the virtual environment it needs, once, and again when what it is made of
# changes. The stamp files in it say what is installed.

PYTHON ?= python3
PYTEST_ARGS ?= -n 2
DEMO_ARGS ?=

BIN = .venv/bin
INSTALLED = .venv/.installed
DOCS_INSTALLED = .venv/.installed-docs
BENCH_INSTALLED = .venv/.installed-bench
OLDEST_INSTALLED = .venv-oldest/.installed

# One thread per worker: the tests are many and small, and two workers share two cores.
# SciPy reads its variable once, when it is first imported.
TEST_ENV = OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 MPLBACKEND=agg

.PHONY: help install demo test lint fix docs examples bench claims test-oldest

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## make .venv, with all that the demo and the tests need

demo: $(INSTALLED) ## tune, compare and draw into results/ (DEMO_ARGS=--quick: two or three minutes)
	$(BIN)/python examples/demo.py $(DEMO_ARGS)

test: lint ## lint, then the whole test-suite (PYTEST_ARGS="-x tests/attention" narrows it)
	$(TEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(INSTALLED) ## ruff, codespell, mypy, and numpydoc on every public name
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy sklearn_attn
	$(TEST_ENV) $(BIN)/python -m pytest -q tests/test_docs.py -k numpydoc

fix: $(INSTALLED) ## let ruff and codespell repair what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/codespell --write-changes

docs: $(DOCS_INSTALLED) ## build the site into doc/_build/html; any warning is an error
	MPLBACKEND=agg $(BIN)/sphinx-build -W --keep-going doc doc/_build/html

examples: $(INSTALLED) ## run every example of the gallery
	@set -e; for example in $$(find examples -name 'plot_*.py' | sort); do \
		echo "$$example"; MPLBACKEND=agg $(BIN)/python "$$example"; \
	done

bench: $(BENCH_INSTALLED) ## run the benchmarks
	@set -e; for bench in $$(find benchmarks -name 'bench_*.py' | sort); do \
		echo "$$bench"; $(BIN)/python "$$bench"; \
	done

claims: $(INSTALLED) ## only the tests that check a paper's theorem or figure
	$(TEST_ENV) $(BIN)/python -m pytest -m claim $(PYTEST_ARGS)

test-oldest: $(OLDEST_INSTALLED) ## the test-suite on the oldest versions that we support
	$(TEST_ENV) .venv-oldest/bin/python -m pytest $(PYTEST_ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[test,plot,progress]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e ".[docs]"
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e ".[bench]"
	@touch $@

$(OLDEST_INSTALLED): pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -c constraints-oldest.txt -e ".[test,plot,progress]"
	@touch $@
