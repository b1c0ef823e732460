"""A run folder from somebody else is evaluated without running its code; --trust lets it import what it names."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from feedprop.errors import FeedpropError
from feedprop.training.command_line import trust
from feedprop.training.command_line.config import read_config

from ..conftest import BLOBS

HOSTILE = {
    "a function of the system": {"model": {"name": "os.system", "command": "touch ran"}},
    "a function that ends the process": {"model": {"name": "os.abort"}},
    "a module behind torch": {"model": {"name": "torch.os.system", "command": "touch ran"}},
    "a file beside the run": {"model": {"name": "evil.Net"}},
    "a file that is called as a known package is": {"data": {"name": "evil.data"}},
    "no model": {"model": {"name": "torch.hub.load", "repo_or_dir": "x", "model": "y", "source": "local"}},
    "no optimizer": {"optimizer": {"name": "subprocess.getoutput", "cmd": "touch ran"}},
    "a schedule": {"scheduler": {"name": "builtins.exec"}},
    "a loss": {"method": "backprop", "loss": {"name": "builtins.eval"}},
    "a rule": {"rule": {"name": "os.abort"}},
    "an argument": {"model": {"name": "mlp", "activation": "os.abort"}},
    "an argument behind torch": {"model": {"name": "mlp", "activation": "torch.os.abort"}},
    "an argument in a list": {"model": {"name": "mlp", "hidden": ["os.abort"]}},
    "a class to make": {"rule": {"name": "Gamma", "gamma": {"class_path": "evil.Net"}}},
}


@pytest.fixture
def received(run, tmp_path):
    """Return a folder like that of the run, with another configuration, and what would show that code ran."""
    folder = tmp_path / "received"
    shutil.copytree(run, folder)
    for place in (folder, tmp_path):
        (place / "evil.py").write_text("open('ran', 'w')\n")

    def write(changes: dict) -> Path:
        content = yaml.safe_load((folder / "config.yaml").read_text())
        if "method" in changes:
            content.pop("reward")
        (folder / "config.yaml").write_text(yaml.safe_dump(content | changes))
        return folder

    return write


@pytest.mark.parametrize("name", HOSTILE)
def test_code_of_others_does_not_run(command, received, tmp_path, name):
    folder = received(HOSTILE[name])
    sentence = command("evaluate", folder).sentence
    assert "if you trust its author, add --trust" in sentence
    assert str(folder / "config.yaml") in sentence
    assert not [*tmp_path.rglob("ran")]
    assert "evil" not in sys.modules


def test_a_run_of_known_parts_needs_no_trust(command, run):
    assert command("evaluate", run, "--device", "cpu").code == 0


def test_trust_imports_from_the_folder_of_the_run(command, received, tmp_path, monkeypatch):
    (tmp_path / "good.py").write_text("from feedprop.training.models.dense import MLP as Net\n")
    folder = received({"model": {"name": "good.Net", "hidden": [8]}})
    assert "add --trust" in command("evaluate", folder, "--device", "cpu").sentence
    monkeypatch.delitem(sys.modules, "good", raising=False)
    assert command("evaluate", folder, "--device", "cpu", "--trust").code == 0


@pytest.mark.parametrize(
    "named",
    [
        {"model": "torchvision.models.resnet18", "optimizer": "AdamW", "scheduler": "CosineAnnealingLR"},
        {"model": "timm.create_model", "rule": "presets.published", "data": "cifar10"},
        {"model": "lif_mlp", "reward": "SpikeTargetReward", "data": "time_series", "scheduler": "none"},
        {"model": {"name": "mlp", "activation": "torch.nn.GELU"}, "loss": "CrossEntropyLoss"},
        {"model": {"name": "mlp", "activation": "torch.tanh"}, "data": {"name": "mnist", "root": "my.data"}},
        {"data": "torchvision.datasets.FakeData", "rule": "feedprop.rules.Gamma", "activation": "Secant.published"},
    ],
    ids=str,
)
def test_parts_of_known_packages_pass(tmp_path, named):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(named))
    trust.check(read_config(str(tmp_path / "config.yaml")), file="config.yaml")


def test_installed_packages_are_not_shadowed_by_the_current_folder(command, tmp_path, monkeypatch):
    (tmp_path / "colorsys.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "needs --model.r" in command("train", "--data", "blobs", "--model", "colorsys.rgb_to_hsv").sentence


def test_train_says_what_it_imports_from_the_current_folder(command, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from feedprop.training.models.dense import MLP\nclass Net(MLP): pass\n")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    answer = command(*BLOBS, "--model", "mine.Net", "--epochs", 1)
    assert f"note: --model mine.Net is imported from {tmp_path / 'mine.py'}" in answer.out


def test_the_check_itself_names_the_option():
    with pytest.raises(FeedpropError, match=r"config.yaml names model.activation os.abort, which could run any code"):
        trust.check({"model.activation": "os.abort"}, file="config.yaml")
