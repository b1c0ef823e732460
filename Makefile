# Two commands: `make demo` shows feedprop at work, `make test` checks everything.
PYTHON ?= python3
BIN := .venv/bin
export CUDA_VISIBLE_DEVICES ?=
# tests on fetched data read this folder and skip where it is empty
export FEEDPROP_DATA ?= $(CURDIR)/data

.PHONY: demo test lint fuzz clean

demo: .venv/demo
	$(BIN)/feedprop train --data digits --output runs/demo --overwrite

test: .venv/test lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=90

# random programs for FEEDPROP_FUZZ_MINUTES (60); failures go to runs/fuzz/failures.txt
fuzz: .venv/test
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz.hours

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

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .hypothesis .coverage
