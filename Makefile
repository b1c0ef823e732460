# Two commands: `make demo` shows feedprop at work, `make test` checks everything.
PYTHON ?= python3
BIN := .venv/bin
export CUDA_VISIBLE_DEVICES ?=
# tests on fetched data read this folder and skip where it is empty
export FEEDPROP_DATA ?= $(CURDIR)/data

.PHONY: demo test lint clean

demo: .venv/demo
	$(BIN)/feedprop train --data digits --output runs/demo --overwrite

test: .venv/test lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=90

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
