"""The command itself: exit codes, and what it says without the extra."""

from __future__ import annotations

import subprocess
import sys

from feedprop import cli


def test_the_real_command_exits_with_the_code():
    done = subprocess.run([sys.executable, "-m", "feedprop.cli", "trian"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "feedprop: unknown command trian; did you mean train?\n"


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="accelerate")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert cli.main(["train"]) == 2
    assert (
        "the command needs accelerate, which is not installed; pip install 'feedprop[train]'" in capsys.readouterr().err
    )
