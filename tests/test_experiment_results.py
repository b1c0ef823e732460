"""All raw results of the experiments have one row format."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "experiments"
FILES = sorted(FOLDER.rglob("*.jsonl"))


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("experiment_results", FOLDER / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_result_is_kept_in_another_format():
    assert FILES
    assert not list(FOLDER.rglob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_rows(results, path):
    rows = results.read_rows(path)
    assert rows
    for row in rows:
        assert row["experiment"] == path.parent.name
        assert row["settings"]
        assert row["figures"]
        assert row["seed"] is None or isinstance(row["seed"], int)


def test_written_rows_are_read(results, tmp_path):
    path = tmp_path / "results.jsonl"
    assert results.read_rows(path) == []
    results.write_row(path, experiment="a", command="b", seed=1, settings={"lr": 0.1}, figures={"test": 0.9})
    (row,) = results.read_rows(path)
    assert row["torch"] == torch.__version__
    assert results.flat([row]) == [{"lr": 0.1, "seed": 1, "test": 0.9}]


def test_other_rows_are_refused(results, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"lr": 0.1}) + "\n")
    with pytest.raises(ValueError, match="a row has the keys lr"):
        results.read_rows(path)
