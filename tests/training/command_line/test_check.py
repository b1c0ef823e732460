"""`feedprop check` says of a configuration whether LFP is right on its model."""

import json
import re

import pytest

from feedprop import cli


@pytest.mark.parametrize("words", [(), ("--model", "lif_mlp", "--model.hidden", "[20]")], ids=["dense", "spiking"])
def test_a_configuration_is_checked(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--data", "digits", *words]) == 0
    said = capsys.readouterr().out
    assert re.search(r"answers +equal bit for bit", said)
    assert "1.weight" in said


def test_backprop_has_nothing_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--method", "backprop"]) == 2
    assert capsys.readouterr().err == "feedprop: feedprop check is about --method lfp; leave --method out\n"


def test_problems_are_exit_code_1_and_facts_are_kept(command, tmp_path):
    words = [
        "check",
        "--data",
        "blobs",
        "--data.points",
        50,
        "--model",
        "samples.Silent",
        "--rule",
        "presets.published",
    ]
    answer = command(*words, "--rule", "presets.published", "--output", "new/facts")
    assert answer.code == 1, answer
    assert "Stuck at 0" in answer.out
    facts = json.loads((tmp_path / "new/facts/check.json").read_text())
    assert facts["ok"] is False
    assert any("Stuck at 0" in problem for problem in facts["problems"])
    assert {parameter["name"] for parameter in facts["parameters"]} == {"weight", "bias"}
    assert command("check", "--data", "blobs", "--data.points", 50, "--output", "facts").code == 0
    assert json.loads((tmp_path / "facts/check.json").read_text())["ok"] is True


def test_a_model_without_parameters_is_a_problem(command):
    answer = command("check", "--data", "blobs", "--data.points", 50, "--model", "torch.nn.Identity")
    assert answer.code == 1
    assert "The model has no parameters, so nothing can be trained" in answer.out


def test_targets_that_are_no_classes_are_no_problem(command):
    answer = command("check", "--data", "diabetes")
    assert answer.code == 0, answer.out
    assert "No problems found" in answer.out


def test_the_help_is_about_checking(command):
    answer = command("check", "--help")
    assert "Check in seconds" in answer.out
    assert "Train a network" not in answer.out


def test_facts_are_not_written_over_a_file(command, tmp_path):
    (tmp_path / "kept").write_text("mine")
    assert "--output kept is a file; name a folder" in command("check", "--output", "kept").sentence
    assert (tmp_path / "kept").read_text() == "mine"
