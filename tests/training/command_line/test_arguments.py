"""Words, configuration files and defaults: which wins, and what is stored of them."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from feedprop.training.command_line.defaults import default_options

from ..conftest import BLOBS


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
    (tmp_path / "b.yaml").write_text("epochs: 1\nmodel: {dropout: 0.5}\n")
    (tmp_path / "c.yaml").write_text("")
    assert command("train", "--config", "a.yaml", "--config", "b.yaml", "--config=c.yaml", "--output", "run").code == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["epochs"] == 1
    assert (config["model"]["hidden"], config["model"]["dropout"]) == ([4], 0.5)


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


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_help_is_readable(command):
    assert "usage: feedprop COMMAND" in command().out
    assert command("--version").out.startswith("feedprop ")
    answer = command("train", "--model", "lenet", "--help")
    assert answer.code == 0
    assert "--model.dropout" in answer.out
    for noise in ("known subclasses", ".name", "CONFIG", "print_config", ".help"):
        assert noise not in answer.out
    assert "--checkpoint {best,last}" in command("evaluate", "--help").out


def test_defaults_of_a_spiking_model(command, tmp_path):
    words = ["train", "--model", "lif_mlp", "--model.hidden", "[60]", "--model.steps", 8, "--batch_size", 32]
    answer = command(*words, "--epochs", 4, "--output", "run")
    assert answer.code == 0, answer.err
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["reward"]["name"] == "feedprop.rewards.SpikeTargetReward"
    assert (config["optimizer"]["name"], config["optimizer"]["lr"]) == ("torch.optim.Adam", 2e-3)
    assert (config["rule"]["epsilon"], config["model"]["steps"]) == (1.0, 8)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test"]["accuracy"] > 0.75
    assert json.loads(command("evaluate", "run", "--json").out)["confusion"] == results["test"]["confusion"]
    other = ["--reward", "SpikeRateReward", "--optimizer", "SGD", "--rule", "Gamma", "--epochs", 1]
    assert command(*words, *other, "--output", "other").code == 0
    config = yaml.safe_load((tmp_path / "other/config.yaml").read_text())
    assert (config["reward"]["name"], config["optimizer"]["lr"]) == ("SpikeRateReward", 1e-3)


@pytest.mark.parametrize(
    ("model", "epsilon"),
    [("lif_mlp", 1.0), ("feedprop.training.models.spiking.lif_cnn", 0.1), ("lif_cnn5", 0.1), ("mlp", None)],
)
def test_convolutions_come_with_a_smaller_epsilon(model, epsilon):
    assert default_options(model, method="lfp").get("rule.epsilon") == epsilon
