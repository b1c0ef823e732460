"""feedprop evaluate: the figures of training again, for the right run and checkpoint only."""

from __future__ import annotations

import json
import sys

import pytest

from ..conftest import SERIES, write_series, write_texts


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
        "--checkpoint must be one of best, last, pruned, but is worst"
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


@pytest.mark.parametrize("where", ["trained", "elsewhere"])
def test_evaluate_finds_data_and_modules_where_the_run_was_started(command, tmp_path, monkeypatch, where):
    for folder in ("trained", "elsewhere"):
        (tmp_path / folder).mkdir()
    write_series(tmp_path / "trained")
    (tmp_path / "trained/own_network.py").write_text("from feedprop.training.models.spiking import lif_mlp as Own\n")
    monkeypatch.chdir(tmp_path / "trained")
    words = [*SERIES, "--model", "own_network.Own", "--model.hidden", "[4]", "--reward", "SpikeTargetReward"]
    assert command("train", *words, "--epochs", 1, "--output", "run").code == 0
    monkeypatch.delitem(sys.modules, "own_network")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path / "trained")])
    monkeypatch.chdir(tmp_path / where)
    answer = command("evaluate", tmp_path / "trained/run", "--json", "--trust")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["accuracy"] == _results(tmp_path / "trained/run")["test"]["accuracy"]


def test_a_place_of_data_that_is_given_to_evaluate_is_the_readers(series, tmp_path, monkeypatch):
    words = [*SERIES, "--model", "lif_mlp", "--model.hidden", "[4]", "--epochs", 1, "--output", "run"]
    assert series("train", *words).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "no file timeseries/Toy_TRAIN.ts" in series("evaluate", "../run", "--data.root", ".").sentence


def test_texts_are_read_with_the_words_of_training_from_any_folder(command, tmp_path, monkeypatch):
    """Words that came later would have made another vocabulary, and so another size of the model."""
    write_texts(tmp_path / "mails")
    words = ["train", "--data", "text", "--data.path", "mails", "--batch_size", 16, "--epochs", 5, "--device", "cpu"]
    assert command(*words, "--tracker", "none", "--output", "run").code == 0
    trained = json.loads((tmp_path / "run/results.json").read_text())["test"]
    assert trained["accuracy"] > 0.9
    write_texts(tmp_path / "mails", ending="more")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    answer = command("evaluate", tmp_path / "run", "--json", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["accuracy"] == trained["accuracy"]
    answer = command("check", "--data", "text", "--data.path", "../mails")
    assert "No problems found" in answer.out
    assert command("prune", tmp_path / "run", "--amount", 0.5, "--device", "cpu").code == 0
    sentence = command("train", "--data", "text", "--data.path", "../mails", "--model", "mlp").sentence
    assert "of texts it gets the ids of tokens, whole numbers, as --model text_mlp takes them" in sentence
