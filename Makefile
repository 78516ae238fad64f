# `make` lists the targets. The first one that needs it makes .venv and installs everything into it.
# PYTHON=python3.13 chooses the interpreter of .venv; ARGS="-k drain -x" goes on to pytest, the demo or the benchmarks.

PYTHON ?= python3
ARGS ?=
# The tests wait more than they compute: more of them at once than there are processors.
WORKERS ?= 4
# Containers often set it: each of the hundreds of processes that the tests start would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
# The first that knows --group: the one of a fresh environment may be older.
PIP_WITH_GROUPS := 'pip>=25.1'
EXAMPLES_READY := $(VENV)/.ready-examples

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help test test-faults test-lowest coverage soak simulate demo examples check lint audit format bench wheel \
    wheel-test side-by-side reference site clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

test: $(READY) ## run the tests but the slow ones, which CI runs too: ARGS="-m ''"
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

test-faults: $(READY) ## run the tests of faults only, on real servers: docs/faults.md
	$(BIN)/pytest -m '' --numprocesses 2 --dist load tests/faults $(ARGS)

test-lowest: $(LOWEST)/.ready ## run the tests with the lowest versions that pyproject.toml declares
	$(LOWEST)/bin/pytest --numprocesses $(WORKERS) --dist loadscope --ignore-glob 'tests/unit/test_benchmarks*.py' \
	    $(or $(ARGS),tests/unit tests/store)

# Not in it: what bounds a time, or a number of readings in a time, and is too slow while it is measured.
coverage: $(READY) ## print which lines and branches the tests reach, and write build/coverage/index.html
	$(BIN)/pytest -m '' --numprocesses $(WORKERS) --dist loadscope --cov --cov-report term:skip-covered --cov-report html \
	    --deselect tests/unit/test_directory.py::test_storm \
	    --deselect tests/store/test_linearizable.py::TestChecker::test_scales \
	    $(or $(ARGS),tests/unit tests/store tests/integration tests/simulation)

soak: $(READY) ## a minute of random faults, invariants checked throughout; ARGS="--minutes 10 --seed 1"
	$(BIN)/python -m benchmarks soak $(ARGS)

simulate: $(READY) ## a minute of simulated worlds, new ones each time; ARGS="--seed 1 --shrink" replays one
	$(BIN)/python -m tools.simulation --jobs 0 $(or $(ARGS),--seconds 60 --from $$(date +%s)000)

demo: $(READY) ## show it at work, on a server of its own
	$(BIN)/python -m examples.demo $(ARGS)

examples: $(EXAMPLES_READY) ## run the examples without us and with us, kill and restart their replicas; a table
	$(BIN)/python -m examples $(ARGS)

check: lint test ## lint, then test

lint: $(READY) ## check format, lint, types and import walls
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

audit: $(READY) ## look up known vulnerabilities of what the package needs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9'
	$(BIN)/pip-audit --strict --progress-spinner off .

format: $(READY) ## format, and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(READY) ## run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

wheel: $(READY) ## build sdist and wheel into dist/
	$(BIN)/python -m build --outdir dist

wheel-test: $(READY) ## build sdist and wheel, try what users get with each Python that is here; ARGS=--extras: each extra alone
	$(BIN)/python -m tools.wheel $(ARGS)

side-by-side: $(READY) ## run the release before this one beside it, on one Redis; ARGS=v0.1.0 another one
	$(BIN)/python -m tools.side_by_side $(ARGS)

reference: $(READY) ## write docs/reference.md from the docstrings
	$(BIN)/python -m tools.reference

site: $(READY) ## build the docs site into build/site/html, and look at each of its links
	$(BIN)/python -m tools.site $(ARGS)

clean: ## remove all that make made, .venv too
	rm -rf $(VENV) $(LOWEST) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (once, and again when pyproject.toml changes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_WITH_GROUPS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

$(EXAMPLES_READY): pyproject.toml | $(READY)
	@echo "Installing what the examples need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group examples
	@touch $@

$(LOWEST)/.ready: pyproject.toml tools/lowest.py | $(READY)
	@echo "Installing into $(LOWEST) the lowest versions that pyproject.toml declares"
	@$(BIN)/python -m venv --clear $(LOWEST)
	@$(BIN)/python -m tools.lowest > $(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_WITH_GROUPS)
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt \
	    --editable '.[cpu,testing]' --group demo pytest-rerunfailures pytest-timeout pytest-xdist trustme
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	    { echo "$(PYTHON) is not there: install Python 3.11 or newer, or name one: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than Python 3.11: name a newer one: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
	    { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2; exit 1; }
