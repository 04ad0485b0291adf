# Everything from a bare machine with make and Python 3.11 or newer; nothing is written outside this folder
# but the models' cache, which FACTORLM_CACHE moves.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
MODELS := smollm2 minilm

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## install into .venv (PYTHON=python3.12 chooses another Python)

demo: $(READY)  ## fetch the default model and show what factors do to it
	$(BIN)/python examples/demo.py $(ARGS)

test: $(READY)  ## fetch the models and run the tests (ARGS="-k fetch" for some of them)
	$(BIN)/factorlm models fetch $(MODELS)
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: $(READY)  ## formatting, lint, types, import contract, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: $(READY)  ## run the benchmarks
	$(BIN)/factorlm bench all $(ARGS)

clean:  ## remove .venv and every cache here; fetched models stay
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	sys.exit(v < (3, 11) and "factorlm needs Python 3.11 or newer, got %d.%d; name one with PYTHON=..." % v[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
