"""What surrounds a run goes wrong: memory, disks, folders, streams, encodings, interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.places import furnish, write_images
from faults.test_kills import KILLED
from faults.trials import BLOBS, ROOT, Outcome, Trials, fault

WORDS = [*BLOBS, "[4]"]
AFTER_AN_EPOCH = """
import {modules}
from feedprop.training import loop
epoch, count = loop._epoch, 0
def then(*arguments):
    global count
    count += 1
    if count == 2:
        {statement}
    return epoch(*arguments)
loop._epoch = then
"""


def in_second_epoch(statement: str, modules: str = "os, shutil") -> str:
    return AFTER_AN_EPOCH.format(statement=statement, modules=modules)


def test_the_folder_of_the_run_is_deleted(trials: Trials, tmp_path: Path) -> None:
    outcome = trials([*WORDS, "--output", "run"], tmp_path, before=in_second_epoch("shutil.rmtree('run')"))
    assert outcome.code == 1
    assert "the folder run is gone" in outcome.sentence
    assert "keeps" not in outcome.err


def test_the_folder_of_the_run_is_replaced_by_a_file(trials: Trials, tmp_path: Path) -> None:
    statement = "shutil.rmtree('run'); open('run', 'w').close()"
    outcome = trials([*WORDS, "--output", "run"], tmp_path, before=in_second_epoch(statement))
    assert outcome.code == 1
    assert "the folder run is gone" in outcome.sentence


@pytest.mark.parametrize("command", ["train --epochs 1", "train --help", "check", "--help", "evaluate run"])
def test_the_current_folder_is_gone(trials: Trials, tmp_path: Path, command: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    outcome = trials(command.split(), here, before="import os; os.rmdir(os.getcwd())")
    if "--help" not in command:
        assert outcome.code in (1, 2)
        assert "folder" in outcome.sentence
    assert fault(outcome) is None


def test_the_current_folder_goes_during_the_run(trials: Trials, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    statement = "os.rmdir(os.getcwd())"
    outcome = trials([*WORDS, "--output", str(tmp_path / "run")], here, before=in_second_epoch(statement))
    assert fault(outcome) is None, outcome


@pytest.mark.parametrize("command", [KILLED, ["--help"], ["train", "--help"]])
@pytest.mark.parametrize("how", ["closed", "pipe", "full"])
def test_nobody_reads_stdout(trials: Trials, tmp_path: Path, command: list[str], how: str) -> None:
    before = {
        "closed": "import os, sys; os.close(1); sys.stdout = None",  # as after `feedprop >&-`
        "pipe": "import os; reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 1)",
        "full": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
    }[how]
    again = "" if how == "closed" else "\nimport sys; sys.stdout = open(1, 'w', closefd=False)"
    outcome = trials(command, tmp_path, before=f"import sys; kept = sys.kept = sys.stdout\n{before}{again}")
    assert outcome.code == (0 if how == "closed" else 1), outcome
    if how == "full":
        assert "No space left on device" in outcome.sentence
    else:
        assert "Traceback" not in outcome.err  # argparse prints its help there if there is nowhere else


@pytest.mark.parametrize("megabytes", [1, 8, 32, 100])
def test_there_is_little_memory(trials: Trials, tmp_path: Path, megabytes: int) -> None:
    words = [
        "train",
        "--data",
        "blobs",
        "--data.points",
        "200000",
        "--device",
        "cpu",
        "--batch_size",
        "100000",
        "--epochs",
        "1",
    ]
    outcome = trials([*words, "--model.hidden", "[100]"], tmp_path, limits={"RLIMIT_AS": megabytes * 2**20})
    if outcome.code != 0:
        assert "memory" in outcome.sentence


@pytest.mark.parametrize("size", [100, 3000, 10000])
def test_files_have_a_largest_size(trials: Trials, tmp_path: Path, size: int) -> None:
    outcome = trials([*WORDS, "--output", "run"], tmp_path, limits={"RLIMIT_FSIZE": size})
    assert outcome.code in (0, 1)
    if outcome.code == 1:
        assert "File too large" in outcome.sentence
    assert not [*tmp_path.glob("run/.*.safetensors.*")]


@pytest.mark.parametrize("files", [12, 20, 30])
def test_few_files_may_be_open(trials: Trials, tmp_path: Path, files: int) -> None:
    outcome = trials([*WORDS, "--output", "run"], tmp_path, limits={"RLIMIT_NOFILE": files})
    assert fault(outcome) is None, outcome


def test_names_in_a_locale_without_them(trials: Trials, tmp_path: Path) -> None:
    write_images(tmp_path / "images", classes=("猫", "hund ü"))
    plain = "import io, sys; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='ascii')"
    words = "train --data image_folder --data.root images --data.size 8 --epochs 1 --output läufe"
    trials(words.split(), tmp_path, before=plain).done()
    for command in ("evaluate", "evaluate --json", "explain", "prune --samples 8"):
        name, *options = command.split()
        trials([name, "läufe", *options], tmp_path, before=plain).done()
    assert trials(["evaluate", "kein_läufe"], tmp_path, before=plain).sentence


def test_words_with_nul(trials: Trials, tmp_path: Path) -> None:
    for words in (["evaluate", "a\0b"], ["train", "--output", "\0"], ["\0"], ["train", "--resume", "a\0"]):
        assert "NUL" in trials(words, tmp_path).sentence


@pytest.mark.parametrize("length", [240, 255, 5000])
def test_long_names(trials: Trials, tmp_path: Path, length: int) -> None:
    name = "a" * length
    for words in (["evaluate", name], ["train", "--resume", name], ["prune", name], [*WORDS, "--output", name],
                  ["train", "--config", name], ["train", "--data", "image_folder", "--data.root", name]):  # fmt: skip
        outcome = trials(words, tmp_path)
        assert fault(outcome) is None, (words, outcome)
        assert (outcome.code == 0) == ("--output" in words and length == 240), (words, outcome)


def test_interrupted_while_it_starts(trials: Trials, tmp_path: Path) -> None:
    for part in ("assembly.load", "loop.assemble", "loop.prepare", "locks.take", "run.make_optimizer"):
        module, _, name = part.rpartition(".")
        before = f"""
import os, signal
import feedprop.training.{module} as module
made = module.{name}
def interrupted(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    return made(*arguments, **options)
module.{name} = interrupted
"""
        outcome = trials([*WORDS, "--output", "run"], tmp_path, before=before)
        assert outcome.code == 130, (part, outcome)
        assert "interrupted" in outcome.sentence
        assert not [*tmp_path.iterdir()], part


def real(words: list[str], folder: Path, *, after: float | None = None, **environment: str) -> Outcome:
    """Run `python -m feedprop` as a user does."""
    started = time.monotonic()
    path = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "feedprop", *words], cwd=folder, env={**os.environ, **path, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if after is not None:
        time.sleep(after)
        process.send_signal(signal.SIGINT)
    out, err = (text.decode(errors="backslashreplace") for text in process.communicate(timeout=60))
    return Outcome(process.returncode, out, err, "", time.monotonic() - started, late=False)


def test_interrupted_while_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    outcome = real(["train"], tmp_path, PYTHONPATH=path)
    assert (outcome.code, outcome.err) == (130, "feedprop: interrupted\n")
    program = [sys.executable, "-c", "import feedprop"]  # which decides by itself what an interrupt does
    other = subprocess.run(program, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert b"KeyboardInterrupt" in other.stderr


def test_a_process_of_its_own_in_the_c_locale(tmp_path: Path) -> None:
    furnish(tmp_path)
    words = ["train", "--data", "nirgends_ü", "--epochs", "1"]
    outcome = real(words, tmp_path, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert outcome.code == 2
    assert "unknown data set 'nirgends_" in outcome.sentence
