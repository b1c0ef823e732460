"""feedprop doctor: true on this machine, and without the extra that the rest of the command needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import torch

import feedprop
from feedprop.training.command_line import doctor

from ..conftest import REPOSITORY

REQUIRED = ["accelerate>=1.0 ; extra == 'train'", 'rich>=13; extra == "train"', "torch>=2.13"]


def test_it_says_what_is_there(command):
    answer = command("doctor")
    assert answer.code == 0
    assert f"feedprop {feedprop.__version__}, torch {torch.__version__}, Python 3." in answer.out
    assert "devices: cpu" in answer.out


def test_every_extra_is_known():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert [*doctor.EXTRAS] == [*project["optional-dependencies"]]


def test_it_needs_torch_alone():
    hidden = ["accelerate", "jsonargparse", "rich", "yaml", "jinja2", "numpy.typing", "shtab"]
    code = f"import sys; sys.modules.update(dict.fromkeys({hidden})); from feedprop.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("feedprop ")


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"accelerate": "1.2", "rich": "13.0.1"}, ["train       yes"]),
        ({"rich": "13.7"}, ["train       no ", "lacks accelerate>=1.0: pip install 'feedprop[train]'"]),
        ({"rich": "9.13"}, ["lacks accelerate>=1.0 and 1 more: pip install 'feedprop[train]'"]),
        ({"accelerate": "1.0.0", "rich": "12.6"}, ["lacks rich>=13: pip install"]),
    ],
)
def test_what_is_lacking_is_named(monkeypatch, installed, expected):
    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: REQUIRED)
    text = "\n".join(doctor.report())
    assert all(words in text for words in expected), text


def test_the_longest_report_fits_on_a_screen(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    lines = [*doctor.report()]
    assert len(lines) <= 24
    assert all(len(line) <= 100 for line in lines)


def test_extras_of_extras_count(monkeypatch):
    def version(name):
        if name == "rich":
            raise metadata.PackageNotFoundError(name)
        return "1.9"

    required = [*REQUIRED, "feedprop[explain,train]; extra == 'test'", "lightning!=1.9,>=1.0; extra == 'examples'"]
    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: required)
    text = "\n".join(doctor.report())
    assert "lacks rich>=13: pip install 'feedprop[test]'" in text
    assert "lacks lightning!=1.9,>=1.0: pip install 'feedprop[examples]'" in text


def test_a_folder_that_was_not_installed(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    assert [*doctor.report()][-1] == "feedprop runs from a folder and was not installed, so its extras are unknown"


def test_options_are_refused(command):
    assert "leave out --all" in command("doctor", "--all").sentence
