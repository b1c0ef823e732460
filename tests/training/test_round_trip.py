"""Training, evaluating and training again from the stored configuration agree with one another."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from .conftest import BLOBS

WRITTEN = {
    "config.yaml",
    "metrics.jsonl",
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
    assert rows[0].keys() == {"epoch", "step", "learning_rate", "near_zero", "train", "validation", "seconds"}
    assert list((run / "tensorboard").iterdir())


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


@pytest.mark.parametrize("method", ["lfp", "backprop"])
def test_the_stored_configuration_repeats_the_run(command, tmp_path, method):
    words = [*BLOBS, "--method", method, "--epochs", 2, "--model.dropout", 0.2, "--seed", 7]
    assert command(*words, "--output", "first").code == 0
    assert command("train", "--config", "first/config.yaml", "--output", "second").code == 0
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("first", "second"))
    for name, value in first.items():
        assert torch.equal(value, second[name])
    config, again = (yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("first", "second"))
    assert config == again
    assert "output" not in config


def test_another_seed_is_another_run(command, tmp_path):
    for seed in (0, 1):
        assert command(*BLOBS, "--epochs", 1, "--seed", seed, "--output", seed).code == 0
    first, second = (load_file(tmp_path / str(seed) / "last.safetensors") for seed in (0, 1))
    assert not torch.equal(first["1.weight"], second["1.weight"])


def test_the_command_overrides_the_stored_configuration(command, run, tmp_path):
    words = ["--config", run / "config.yaml", "--epochs", 1, "--output"]
    assert command("train", *words, "other", "--method", "backprop").code == 0
    config = yaml.safe_load((tmp_path / "other/config.yaml").read_text())
    assert (config["method"], config["model"]["hidden"], config["loss"]["name"]) == (
        "backprop",
        [8],
        "torch.nn.CrossEntropyLoss",
    )
    assert "reward" not in config
    assert (
        command(
            "train", *words, "third", "--model", "torch.nn.Linear", "--model.in_features=2", "--model.out_features=2"
        ).code
        == 0
    )


def test_later_configuration_files_win(command, tmp_path):
    (tmp_path / "a.yaml").write_text("data: blobs\nepochs: 9\nmodel: {name: mlp, hidden: [4]}\n")
    (tmp_path / "b.yaml").write_text("epochs: 1\nmodel: {name: mlp, dropout: 0.5}\n")
    (tmp_path / "c.yaml").write_text("")
    assert command("train", "--config", "a.yaml", "--config", "b.yaml", "--config=c.yaml", "--output", "run").code == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["epochs"] == 1
    assert (config["model"]["hidden"], config["model"]["dropout"]) == ([4], 0.5)


def test_default_output_folders_are_numbered(command, tmp_path):
    for _ in range(2):
        assert command(*BLOBS, "--epochs", 1).code == 0
    assert {entry.name for entry in (tmp_path / "runs").iterdir()} == {"blobs-mlp-lfp-001", "blobs-mlp-lfp-002"}


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
    assert "SGD, OneCycleLR, moves per step" in answer.out


def test_lfp_makes_weights_sparser_than_backprop(command, tmp_path):
    for method in ("lfp", "backprop"):
        assert command("train", "--method", method, "--output", method, "--epochs", 8).code == 0
    assert _results(tmp_path / "lfp")["near_zero"] > _results(tmp_path / "backprop")["near_zero"] + 0.2


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
    ],
)
def test_a_choice_of_components_trains(command, tmp_path, words):
    data = [] if "--data" in words else BLOBS[1:]
    answer = command("train", *data, "--epochs", 1, "--output", "run", *words.split())
    assert answer.code == 0, answer.err
    assert (tmp_path / "run/report.html").is_file()
    assert command("evaluate", "run").code == 0


def test_the_activation_rule_is_stored_and_has_an_effect(command, tmp_path):
    words = [*BLOBS[1:], "--model.activation", "GELU", "--epochs", 1]
    for rule in ("CentralDifference", "Secant"):
        assert command("train", *words, "--output", rule, "--activation", rule).code == 0
        stored = yaml.safe_load((tmp_path / rule / "config.yaml").read_text())
        assert stored["activation"]["name"].rpartition(".")[2] == rule
    assert _rows(tmp_path / "CentralDifference")[0]["train"] != _rows(tmp_path / "Secant")[0]["train"]


def test_relative_magnitudes_reach_the_feedback(command, tmp_path):
    for relative in ("true", "false"):
        words = [*BLOBS[1:], "--epochs", 1, "--output", relative, "--relative_magnitude", relative]
        assert command("train", *words).code == 0
    assert _rows(tmp_path / "true")[0]["train"] != _rows(tmp_path / "false")[0]["train"]


def test_torchvision_models_take_the_class_count_from_the_data(command, tmp_path):
    words = ["--data", "cifar_like.Colours", "--model", "torchvision.models.squeezenet1_1", "--epochs", 1]
    assert command("train", *words, "--output", "run", "--optimizer.lr", 0.01).code == 0
    state = load_file(tmp_path / "run/best.safetensors")
    assert state["classifier.1.weight"].shape[0] == 3


def test_help_is_readable(command):
    assert "usage: feedprop COMMAND" in command().out
    assert command("--version").out.startswith("feedprop ")
    answer = command("train", "--model", "lenet", "--help")
    assert answer.code == 0
    assert "--model.dropout" in answer.out
    for noise in ("known subclasses", ".name", "CONFIG", "print_config", ".help"):
        assert noise not in answer.out
    assert "--checkpoint {best,last}" in command("evaluate", "--help").out


def test_a_terminal_gets_a_live_bar(monkeypatch, capsys):
    from feedprop.training.progress import Progress

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with Progress(epochs=3, name="reward") as watch:
        assert watch.live
        watch.start(2, steps=5)
        watch.step(0.25, 0.5)
        watch.step(None, None)
    shown = capsys.readouterr().out
    assert "epoch 2/3" in shown
    assert "2/5" in shown
    assert "reward +0.2500  accuracy 0.5000" in shown


def test_elsewhere_there_is_one_line_per_epoch(command):
    lines = command(*BLOBS, "--epochs", 2).out.splitlines()
    assert [line[:9] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert len(lines) == 6  # two before, two after


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    from feedprop import cli

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="accelerate")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert cli.main(["train"]) == 2
    assert (
        "the command needs accelerate, which is not installed; pip install 'feedprop[train]'" in capsys.readouterr().err
    )
