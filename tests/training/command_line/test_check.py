"""`feedprop check` says of a configuration whether LFP is right on its model."""

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


def test_check_of_a_regression_rewards_every_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--data", "diabetes"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("No problems found.")
