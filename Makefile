# Two commands do all the set-up: `make demo` and `make test`. `make setup` is what they share.
# Needs: Python 3.11 or 3.12 with venv, git, make. PYTHON=... chooses another interpreter.

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
# Where the tour is taken, and what `make up` serves.
DEMO ?= demo-workspace
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# uv does not read pip's settings: a folder of wheels that pip is told of is passed on.
FIND_LINKS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
export UV_FIND_LINKS ?= $(FIND_LINKS)

.PHONY: help setup demo up test test-gpu check compose-check env bench clean

help: ## Show these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(STAMP) ## Make .venv with everything, from requirements.lock

# Compiled once here: where PYTHONDONTWRITEBYTECODE is set, every process would compile torch,
# transformers and MLflow anew, 8 s of an update's first import.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: setup ## The tour: two updates, one rejection, one rollback, a report
	$(BIN)/updater demo "$(DEMO)"

up: setup ## Airflow and MLflow on the demo's workspace, until Ctrl-C
	$(BIN)/updater --workspace "$(DEMO)" up

check: setup ## Lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

compose-check: setup ## docker-compose.yml and the secrets of .env, without a Docker engine
	$(BIN)/python deploy/compose_check.py .env

env: ## .env with a random password for each that docker-compose.yml asks for
	$(PYTHON) deploy/secrets_file.py .env

test: setup check ## All checks and all tests, with coverage
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=90

test-gpu: setup ## The tests that need a GPU, on it
	UPDATER_TEST_GPU=1 $(BIN)/pytest -q tests/updater/core/test_on_gpu.py tests/regularizers/test_fused.py

# bench/stream.py and bench/importance_scale.py need data that is not shipped: the top of each says how.
bench: setup ## The benchmarks, side by side with the usual way; results in bench/results
	$(BIN)/python bench/sampling.py
	$(BIN)/python bench/ingest.py --rows 100000 1000000 --write
	$(BIN)/python bench/ewc_step.py
	$(BIN)/python bench/fisher.py --write
	$(BIN)/python bench/scan.py --write
	$(BIN)/python bench/smaller.py --write
	$(BIN)/python bench/memory.py --write
	$(BIN)/python bench/pieces.py --write
	$(BIN)/python bench/compiled.py --write
	$(BIN)/python bench/dag_parse.py --write
	$(BIN)/python bench/scale.py --write

clean: ## Remove what the targets made
	rm -rf $(VENV) demo-workspace .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache
