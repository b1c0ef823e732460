"""feedprop init: a configuration file that says what is the default anyway."""

from __future__ import annotations

import pytest
import yaml

from feedprop.training.command_line.arguments import parse_train


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--method backprop --optimizer Adam --model lenet",
        "--model lif_mlp --scheduler none --epochs 3",
        "--data image_folder --data.root there --rule Gamma --reward ChoiceReward",
        "--model torchvision.models.resnet18 --scheduler CosineAnnealingLR --clip_norm 1",
    ],
)
def test_the_file_says_what_the_options_are(command, tmp_path, words):
    answer = command("init", "mine.yaml", *words.split())
    assert (answer.code, answer.out) == (0, "mine.yaml: feedprop train --config mine.yaml\n"), answer.err
    assert parse_train(["--config", "mine.yaml"]) == parse_train(words.split())


def test_every_setting_has_a_comment(command, tmp_path):
    assert command("init").code == 0
    text = (tmp_path / "feedprop.yaml").read_text()
    lines = text.splitlines()
    content = yaml.safe_load(text)
    for key in content:
        assert lines[next(n for n, line in enumerate(lines) if line.startswith(f"{key}:")) - 1].startswith("# "), key
    assert {"epochs", "output", "data", "model", "rule", "activation", "reward", "optimizer"} < content.keys()
    assert content["model"]["hidden"] == [120, 84]
    assert "# passes over the training data\nepochs: 20" in text
    assert "one of lfp, backprop" in text
    assert "efault: " not in text
    assert all(len(line) <= 120 for line in lines)


def test_a_file_is_not_replaced(command, tmp_path):
    (tmp_path / "feedprop.yaml").write_text("epochs: 3")
    assert "feedprop.yaml exists and is kept; name another file" in command("init").sentence
    assert (tmp_path / "feedprop.yaml").read_text() == "epochs: 3"


def test_what_cannot_be_written_is_refused(command, tmp_path):
    assert "leave out two.yaml" in command("init", "one.yaml", "two.yaml").sentence
    assert "unknown option --epoch; did you mean --epochs?" in command("init", "--epoch", 3).sentence
    assert "there is no folder nowhere; make it first" in command("init", "nowhere/x.yaml").sentence
    assert list(tmp_path.iterdir()) == []


def test_the_help_is_short_and_names_that_of_train(command):
    answer = command("init", "--help")
    assert answer.code == 0, answer.err
    assert len(answer.out.splitlines()) < 12
    assert "feedprop train --help lists the options" in answer.out
