"""Words, configuration files and defaults: which wins, and what is stored of them."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from safetensors.torch import load_file

from feedprop import rules
from feedprop.training import loop
from feedprop.training.assembly import make_composite
from feedprop.training.command_line.arguments import parse_train
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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", rules.presets.training()),
        ("--rule presets.published", rules.presets.published()),
        ("--rule feedprop.rules.presets.published --rule.epsilon 0.5", rules.presets.published(0.5)),
        ("--rule Gamma", rules.presets.training().replace(default=rules.Gamma())),
        ("--magnitude_floor 0.02", rules.presets.training().replace(magnitude_floor=0.02)),
        ("--relative_magnitude false", rules.presets.training().replace(relative_magnitude=False)),
        ("--activation Secant", rules.presets.training().replace(activation=rules.Secant())),
        ("--activation Secant.published", rules.presets.training().replace(activation=rules.Secant.published())),
        ("--rule presets.published --activation Secant", rules.presets.published().replace(activation=rules.Secant())),
        ("--model lif_mlp", rules.presets.spiking()),
    ],
)
def test_the_composite_is_that_of_attach_but_for_what_is_given(words, expected):
    assert vars(make_composite(parse_train(words.split()))) == vars(expected)


@pytest.mark.parametrize(
    ("words", "recorded"),
    [
        ("", {"lr": 0.1, "momentum": 0.9}),
        ("--optimizer SGD", {"lr": 0.1, "momentum": 0.9}),
        ("--optimizer.momentum 0.5", {"lr": 0.1, "momentum": 0.5}),
        ("--optimizer.momentum 0", {"lr": 0.1, "momentum": 0.0}),
        ("--optimizer Adam", {"lr": 0.001, "betas": [0.9, 0.999]}),
        ("--scheduler CyclicLR --scheduler.base_lr 0.01", {"momentum": 0.9}),
    ],
)
def test_the_momentum_that_is_recorded_is_the_one_that_is_used(command, tmp_path, monkeypatch, words, recorded):
    used = []
    step = loop._update

    def spied(run, **options):
        step(run, **options)
        used.append({key: run.optimizer.param_groups[0].get(key) for key in ("momentum", "betas")})

    monkeypatch.setattr(loop, "_update", spied)
    assert command(*BLOBS, "--epochs", 1, "--output", "run", *words.split()).code == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert {key: config["optimizer"][key] for key in recorded} == recorded
    for group in used:
        assert {key: value for key, value in group.items() if value is not None} == {
            key: tuple(value) if key == "betas" else value
            for key, value in config["optimizer"].items()
            if key in ("momentum", "betas")
        }


def test_a_momentum_that_is_cycled_is_not_recorded_as_constant(command, tmp_path):
    words = [*BLOBS, "--epochs", 1, "--scheduler.cycle_momentum", "true"]
    assert command(*words, "--output", "run").code == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert "momentum" not in config["optimizer"]
    assert config["scheduler"]["max_momentum"] == 0.95
    assert command("train", "--config", "run/config.yaml", "--output", "again").code == 0


REWARDS = {
    "MisclassificationReward": {"centred": True, "epsilon": 1.0},
    "MaximizeReward": {"centred": True, "epsilon": 1.0},
    "ChoiceReward": {},
}


@pytest.mark.parametrize("reward", REWARDS)
def test_a_reward_has_defaults_that_train(reward):
    config = parse_train(["--reward", reward])
    assert {key: config.components["reward"].arguments[key] for key in REWARDS[reward]} == REWARDS[reward]
    given = parse_train(["--reward", reward, "--optimizer.lr", "0.5", "--optimizer", "torch.optim.RMSprop"])
    assert given.components["optimizer"].arguments["lr"] == 0.5
    assert given.components["optimizer"].arguments["momentum"] == 0


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
    assert "--optimizer.lr" in answer.out
    assert "--scheduler.pct_start" not in answer.out
    for option in ("foreach", "fused", "last_epoch", "steps_per_epoch"):
        assert f".{option} " not in command("train", "--optimizer", "Adam", "--scheduler", "OneCycleLR", "--help").out
    assert "--scheduler.pct_start" in command("train", "--scheduler", "OneCycleLR", "--help").out
    for option in re.split(r"\n  (?=--)", answer.out):
        assert option.lower().count("default:") <= 1, option  # jsonargparse's, not the docstring's as well
    assert re.search(r"--optimizer.lr LR\s+learning rate \(type: float \| Tensor,\s+default:\s+0.1\)", answer.out)
    assert "--checkpoint {best,last,pruned}" in command("evaluate", "--help").out


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
    assert (config["reward"]["name"], config["optimizer"]["lr"]) == ("SpikeRateReward", 1.0)


@pytest.mark.parametrize(
    ("model", "epsilon"),
    [("lif_mlp", 1.0), ("feedprop.training.models.spiking.lif_cnn", 0.1), ("lif_cnn5", 0.1), ("mlp", None)],
)
def test_convolutions_come_with_a_smaller_epsilon(model, epsilon):
    assert default_options(model, method="lfp").get("rule.epsilon") == epsilon


@pytest.mark.parametrize(
    "words",
    ["--reward ChoiceReward", "--reward MaximizeReward", "--model lif_mlp", "--model mlp"],
    ids=["choice", "maximize", "spiking", "classes"],
)
def test_sgd_has_a_rate_and_a_momentum_that_train_where_another_optimizer_is_the_default(words):
    """Torch's own rate, .001 without momentum, stays at chance."""
    given = parse_train([*words.split(), "--optimizer", "SGD"]).components["optimizer"].arguments
    assert given["lr"] >= 0.1
    assert given["momentum"] == 0.9
    named = parse_train([*words.split(), "--optimizer", "SGD", "--optimizer.lr", "0.02"])
    assert named.components["optimizer"].arguments["lr"] == 0.02
    assert parse_train([*words.split(), "--optimizer", "Adam"]).components["optimizer"].arguments["lr"] < 0.01
