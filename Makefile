# `make demo` shows feedprop at work, `make test` checks everything, `make test-minimum` checks the library on the
# oldest torch that it supports, `make wheel` builds what is published and uses it.
PYTHON ?= python3
BIN := .venv/bin
# the minimum of pyproject.toml, which a test compares with this line
MINIMUM_TORCH := 2.13.0
MINIMUM_BIN := .venv-minimum/bin
export CUDA_VISIBLE_DEVICES ?=
# tests on fetched data read this folder and skip where it is empty
export FEEDPROP_DATA ?= $(CURDIR)/data

.PHONY: demo test coverage test-minimum wheel lint pages fuzz faults clean

demo: .venv/demo
	$(BIN)/feedprop train --data digits --output runs/demo --overwrite

test: .venv/test lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# the same tests, half as long again: they fail if they run less than nine tenths of the lines
coverage: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=90

# the library alone: no command, no lists of models, no pages and examples that need further packages; nor what takes
# long and hardly depends on the version of torch
test-minimum: .venv-minimum/test
	OMP_NUM_THREADS=1 $(MINIMUM_BIN)/pytest -n 2 -rs --ignore=tests/training --ignore=tests/models \
	  --ignore=tests/test_readme.py --ignore=tests/test_pages.py --ignore=tests/test_page_commands.py \
	  --ignore=tests/test_reference.py --ignore=tests/test_examples.py --ignore=tests/test_cli.py \
	  --ignore=tests/test_experiment_results.py --ignore=tests/faults --ignore=tests/fuzz --ignore=tests/test_memory.py

# the sdist, the wheel made from it, and one step with that wheel, where nothing of the checkout can be imported
wheel: .venv-minimum/test
	rm -rf dist src/feedprop.egg-info  # which lists the files of earlier builds
	$(MINIMUM_BIN)/python -m build --outdir dist . > /dev/null
	$(MINIMUM_BIN)/python tests/support/wheel.py dist

# what the pages show, at full size and on fetched data: before a release
pages: .venv/test
	FEEDPROP_FULL_PAGES=1 OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_pages.py tests/test_page_commands.py

# random programs for FEEDPROP_FUZZ_MINUTES (60); failures go to runs/fuzz/failures.txt
fuzz: .venv/test
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz.hours

# the command under faults, with FEEDPROP_FAULTS (500) drawn configurations and shares of it of the rest
faults: export FEEDPROP_FAULTS ?= 500
faults: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e '.[train]'
	touch $@

.venv/test: .venv/demo
	$(BIN)/pip install --quiet -e '.[test]'
	touch $@

.venv-minimum/test: pyproject.toml
	$(PYTHON) -m venv .venv-minimum
	$(MINIMUM_BIN)/pip install --quiet torch==$(MINIMUM_TORCH) -e '.[snntorch,nir]' \
	  'build>=1' hypothesis pytest pytest-xdist safetensors
	touch $@

clean:
	rm -rf .venv .venv-minimum build dist .mypy_cache .ruff_cache .hypothesis .coverage
