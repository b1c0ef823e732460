"""feedprop evaluate: the figures of training again, for the right run and checkpoint only."""

from __future__ import annotations

import json

import pytest


def _results(folder):
    return json.loads((folder / "results.json").read_text())


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_evaluate_gives_the_figures_of_training(command, run):
    answer = command("evaluate", run, "--json")
    found, stored = json.loads(answer.out), _results(run)
    for key in ("accuracy", "reward", "f1"):
        assert found[key] == pytest.approx(stored["test"][key])
    assert found["confusion"] == stored["test"]["confusion"]
    assert found["near_zero"] == stored["near_zero"]
    validation = json.loads(command("evaluate", run, "--split", "validation", "--json").out)
    assert validation["accuracy"] == pytest.approx(stored["validation"]["accuracy"])


def test_evaluate_last_checkpoint_and_batch_size(command, run):
    found = json.loads(
        command("evaluate", run, "--checkpoint", "last", "--split", "validation", "--batch_size", 7, "--json").out
    )
    assert found["accuracy"] == pytest.approx(_rows(run)[-1]["validation"]["accuracy"])


def test_evaluate_prints_a_table(command, run):
    answer = command("evaluate", run)
    assert answer.code == 0
    assert "test data of blobs" in " ".join(answer.out.split())
    assert f"{_results(run)['test']['accuracy']:.4f}" in answer.out


def test_evaluate_on_other_data_uses_the_normalisation_of_training(command, run):
    other = command("evaluate", run, "--data=blobs", "--data.points", "500", "--json")
    assert sum(map(sum, json.loads(other.out)["confusion"])) == 500


def test_evaluate_refuses_what_is_no_run(command, run, tmp_path):
    assert "it contains no config.yaml" in command("evaluate", tmp_path).sentence
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    assert "contains no checkpoint best.safetensors" in command("evaluate", tmp_path).sentence
    (tmp_path / "best.safetensors").write_bytes(b"nonsense")
    assert "is not a checkpoint of feedprop train" in command("evaluate", tmp_path).sentence


def test_evaluate_refuses_bad_options(command, run):
    assert (
        "--checkpoint must be one of best, last, but is worst"
        in command("evaluate", run, "--checkpoint", "worst").sentence
    )
    assert "--batch_size must be at least 1" in command("evaluate", run, "--batch_size", 0).sentence
    assert "unknown data set" in command("evaluate", run, "--data", "nowhere").sentence


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        ("  - 9\n", "1.weight has shape (8, 2), but (9, 2) in the model"),
        ("  - 8\n  - 2\n", "it has no 5.weight, which the model has"),
    ],
)
def test_evaluate_refuses_a_checkpoint_of_another_architecture(command, run, tmp_path, hidden, expected):
    (tmp_path / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    text = (run / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("hidden:\n  - 8\n", f"hidden:\n{hidden}"))
    assert f"belongs to another architecture: {expected}" in command("evaluate", tmp_path).sentence
