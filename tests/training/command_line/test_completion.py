"""feedprop completion: the scripts complete what the commands take."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from feedprop.cli import COMMANDS, main

ASK = """
eval "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_feedprop 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script():
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as written:
        assert main(["completion", "bash"]) == 0
    return written.getvalue()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["feedprop", ""], [*COMMANDS]),
        (["feedprop", "tr"], ["train"]),
        (["feedprop", "evaluate", "--che"], ["--checkpoint"]),
        (["feedprop", "evaluate", "run", "--checkpoint", ""], ["best", "last", "pruned"]),
        (["feedprop", "train", "--model", "lif"], ["lif_mlp", "lif_cnn", "lif_cnn5"]),
        (["feedprop", "train", "--reward", "Cho"], ["ChoiceReward"]),
        (["feedprop", "train", "--optimizer.m"], ["--optimizer.momentum"]),
        (["feedprop", "report", "run", "--b"], ["--beside"]),
        (["feedprop", "completion", ""], ["bash", "zsh"]),
    ],
)
def test_bash_completes(script, words, expected):
    done = subprocess.run(["bash", "-c", ASK, "bash", script, *words], capture_output=True, text=True, check=False)
    assert done.stdout.split() == expected, done.stderr


def test_zsh_gets_every_command(command):
    answer = command("completion", "zsh")
    assert answer.out.startswith("#compdef feedprop")
    assert all(re.search(rf"^ *{name}:", answer.out, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("words", [[], ["fish"], ["bash", "zsh"]])
def test_a_shell_must_be_named(command, words):
    assert "needs the name of a shell, bash or zsh" in command("completion", *words).sentence
