"""A run writes what it promises, chooses its model on validation data, and trains with any choice of components."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import feedprop

from .conftest import BLOBS

WRITTEN = {
    "config.yaml",
    "metrics.jsonl",
    "metrics.csv",
    "samples.json",
    "layers.jsonl",
    "results.json",
    "report.html",
    "best.safetensors",
    "last.safetensors",
    "tensorboard",
}


def _results(folder):
    return json.loads((folder / "results.json").read_text())


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_what_it_promises(run):
    assert {entry.name for entry in run.iterdir()} == WRITTEN
    rows = _rows(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["step"] == 3 * 12  # 180 training samples in batches of 16
    assert rows[-1].keys() == {"epoch", "step", "learning_rate", "train", "validation", "seconds"}
    assert rows[0]["train"].keys() == rows[0]["validation"].keys() == {"reward", "cross_entropy", "accuracy"}
    assert _results(run)["warnings"] == _results(run)["remarks"] == []
    layers = feedprop.Log.load(run / "layers.jsonl").rows()
    assert [row["step"] for row in layers if row["kind"] == "ReLU"] == [0, 10, 20, 30]
    assert {row["kind"] for row in layers} == {"Linear", "ReLU"}
    for part in ("start", "end"):
        assert sum(_results(run)["weights"][part]) == 2 * 8 + 8 * 2  # without biases
    assert list((run / "tensorboard").iterdir())


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(run, command, tmp_path):
    """OneCycleLR ends at a 10 000th of its first rate, .1 / 25; what it says after its last step belongs to no step."""
    assert _rows(run)[-1]["learning_rate"] == pytest.approx(0.1 / 25 / 1e4)
    words = ["--scheduler", "StepLR", "--scheduler.step_size", "1", "--scheduler_interval", "step"]
    assert command(*BLOBS, "--epochs", 1, "--batch_size", 60, "--output", "steps", *words).code == 0
    assert _rows(tmp_path / "steps")[0]["learning_rate"] == pytest.approx(0.1 * 0.1**2)  # the third of three steps


def test_another_seed_is_another_run(command, tmp_path):
    for seed in (0, 1):
        assert command(*BLOBS, "--epochs", 1, "--seed", seed, "--output", seed).code == 0
    first, second = (load_file(tmp_path / str(seed) / "last.safetensors") for seed in (0, 1))
    assert not torch.equal(first["1.weight"], second["1.weight"])


def test_the_best_model_is_chosen_on_validation_data_only(command, tmp_path):
    """The better the model is on validation data, the worse it is on this test data."""
    words = ["--data", "samples.validation_differs", "--model", "samples.Linear", "--scheduler", "none", "--epochs", 5]
    assert command("train", *words, "--batch_size", 300, "--output", "run", "--optimizer.lr", 2).code == 0
    accuracies = [row["validation"]["accuracy"] for row in _rows(tmp_path / "run")]
    results = _results(tmp_path / "run")
    assert max(accuracies) > min(accuracies)
    assert results["validation"]["accuracy"] == max(accuracies)
    assert accuracies[results["best_epoch"] - 1] == max(accuracies)
    assert results["test"]["accuracy"] < 0.5 < results["validation"]["accuracy"]


def test_digits_by_default_reach_the_stated_accuracy(command, tmp_path):
    answer = command("train", "--output", "run", "--device", "cpu")
    assert answer.code == 0
    assert _results(tmp_path / "run")["validation"]["accuracy"] > 0.95
    assert "epoch 20/20" in answer.out
    assert "SGD, OneCycleLR (a move per step)" in answer.out


@pytest.mark.parametrize(
    "words",
    [
        "--optimizer Adam --scheduler CosineAnnealingLR --precision bf16",
        "--optimizer Adam --optimizer.lr 0.01 --scheduler StepLR --scheduler.step_size 1",
        "--scheduler ReduceLROnPlateau --reward feedprop.rewards.SigmoidReward --clip_norm 1",
        "--accumulate 4 --batch_size 16 --magnitude_floor 0.1 --rule feedprop.rules.Epsilon --rule.epsilon 0.1",
        "--optimizer SGD --magnitude_floor 0.1 --relative_magnitude true --clip_norm 1",
        "--method backprop --accumulate 4 --batch_size 16 --scheduler CyclicLR --scheduler.base_lr 0.01",
        "--scheduler CosineAnnealingLR --scheduler_interval epoch --model.activation Tanh",
        "--data circles --data.points 100",
        "--data swirls --data.points 100",
        "--data samples.Generated",
        "--optimizer Adagrad --optimizer.lr 0.05 --rule presets.published",
        "--scheduler.cycle_momentum true --activation Secant.published",
    ],
)
def test_a_choice_of_components_trains(command, tmp_path, words):
    data = [] if "--data" in words else BLOBS[1:]
    answer = command("train", *data, "--epochs", 1, "--output", "run", *words.split())
    assert answer.code == 0, answer.err
    assert (tmp_path / "run/report.html").is_file()
    assert command("evaluate", "run", "--trust").code == 0


def test_interrupted_run_keeps_its_checkpoints(command, tmp_path):
    words = ["--model", "samples.Interrupted", "--batch_size", "20", "--output", "run"]
    answer = command("train", "--data", "blobs", "--data.points", "200", *words)
    assert answer.code == 130
    assert answer.err == (
        "feedprop: interrupted; run keeps what was done up to step 9; feedprop train --resume run --trust goes on from "
        "there\n"
    )
    assert (tmp_path / "run/last.safetensors").is_file()
