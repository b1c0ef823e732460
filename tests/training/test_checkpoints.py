"""Files of a run are written whole or not at all, nothing else is replaced, and checkpoints hold data, never code."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import platform
import shutil
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from feedprop.errors import FeedpropError
from feedprop.training import locks
from feedprop.training.checkpoints import OWN_FILES, RunFolder

from .conftest import BLOBS


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write("results.json", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("results.json", "new")
    assert (tmp_path / "results.json").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_files_appear_whole(tmp_path, monkeypatch):
    folder, seen = RunFolder(tmp_path), []
    replace = os.replace

    def watched(source, target):
        seen.append((os.path.getsize(source), os.path.exists(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    folder.write("a.txt", "12345")
    assert seen == [(5, False)]
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_round_trip_with_metadata(tmp_path):
    folder, model = RunFolder(tmp_path), nn.BatchNorm1d(3)
    model(torch.randn(8, 3))
    folder.save("best.safetensors", model, metadata={"classes": ["ä", "b"], "epoch": 3})
    assert folder.metadata("best.safetensors") == {"classes": ["ä", "b"], "epoch": 3}
    other = nn.BatchNorm1d(3)
    folder.restore("best.safetensors", other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_tied_weights_are_saved_and_restored(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    folder, model, other = RunFolder(tmp_path), tied(), tied()
    folder.save("last.safetensors", model, metadata={})
    folder.restore("last.safetensors", other)
    assert torch.equal(other[1].weight, model[0].weight)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Linear(2, 3), "weight has shape \\(2, 2\\), but \\(3, 2\\) in the model"),
        (nn.Linear(2, 2, bias=False), "it has bias, which the model lacks"),
        (nn.BatchNorm1d(2), "weight has shape"),
    ],
)
def test_another_architecture_is_named(tmp_path, model, expected):
    folder = RunFolder(tmp_path)
    folder.save("best.safetensors", nn.Linear(2, 2), metadata={})
    with pytest.raises(FeedpropError, match=f"belongs to another architecture: .*({expected})"):
        folder.restore("best.safetensors", model)


def test_numbers_go_on_from_the_largest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-001", "a-007", "a-x", "b-009"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    folder = RunFolder.choose(None, title="a", overwrite=False)
    folder.claim()
    assert str(folder.path) == "runs/a-008"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_that_is_no_run_is_never_replaced(command, tmp_path, overwrite):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.tex").write_text("all my work")
    answer = command(*BLOBS, "--output", "precious", *overwrite)
    assert "precious" in answer.sentence
    assert [entry.name for entry in (tmp_path / "precious").iterdir()] == ["thesis.tex"]


def test_a_run_is_replaced_only_when_asked(command, tmp_path):
    words = [*BLOBS, "--output", "run", "--epochs"]
    assert command(*words, 2).code == 0
    (tmp_path / "run/notes.txt").write_text("mine")
    before = (tmp_path / "run/results.json").read_text()
    assert "is not empty; name another --output or add --overwrite" in command(*words, 1).sentence
    assert (tmp_path / "run/results.json").read_text() == before
    assert command(*words, 3, "--overwrite").code == 0
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert len([*(tmp_path / "run/tensorboard").iterdir()]) == 1  # what the replaced run logged is gone


def test_output_that_is_a_file_or_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file; name a folder" in command(*BLOBS, "--output", "file").sentence
    assert "cannot write to the folder" in command(*BLOBS, "--output", "file/below").sentence


def test_default_output_folders_are_numbered(command, tmp_path):
    for _ in range(2):
        assert command(*BLOBS, "--epochs", 1).code == 0
    assert {entry.name for entry in (tmp_path / "runs").iterdir()} == {"blobs-mlp-lfp-001", "blobs-mlp-lfp-002"}


# --- several runs, and runs that are killed ---


def _claimed(number: int) -> str:
    folder = RunFolder.choose(None, title="a", overwrite=False)
    folder.claim()
    time.sleep(0.2)
    return str(folder.path)


def test_runs_that_start_together_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with multiprocessing.get_context("fork").Pool(20) as pool:
        folders = pool.map(_claimed, range(20), chunksize=1)
    assert sorted(folders) == [f"runs/a-{number:03d}" for number in range(1, 21)]


def _takes(output: str) -> str:
    try:
        RunFolder.choose(output, title="", overwrite=Path(output, "config.yaml").exists()).claim()
    except FeedpropError as error:
        return str(error)
    time.sleep(2)
    return "claimed"


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "overwritten"])
def test_one_run_has_a_folder(tmp_path, earlier):
    output = tmp_path / "run"
    if earlier:
        output.mkdir()
        (output / "config.yaml").write_text("")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        answers = pool.map(_takes, [str(output)] * 4, chunksize=1)
    assert answers.count("claimed") == 1
    assert sum("another run (process" in answer and "name another --output" in answer for answer in answers) == 3


class Killed(BaseException):
    """The process ends here."""


def _run(path, content: str) -> None:
    path.mkdir()
    for name in OWN_FILES:
        (path / name).write_text(content)
    (path / "tensorboard").mkdir()
    (path / "tensorboard/events").write_text(content)


def _whole(path) -> str:
    """The content of all files of a run, which must be the same."""
    files = [path / name for name in (*OWN_FILES, "tensorboard/events")]
    (content,) = {file.read_text() for file in files}
    return content


def test_files_of_the_user_that_look_like_states_stay(tmp_path):
    output, mine = tmp_path / "run", ("state-of-the-art.txt", "state-mine.safetensors", "best.safetensors.txt")
    _run(output, "old")
    for name in mine:
        (output / name).write_text("mine")
    folder = RunFolder.choose(str(output), title="", overwrite=True)
    folder.claim()
    folder.save_state(3, b"new", keep=1)
    folder.settle(main=True)
    folder.save_state(4, b"new", keep=1)
    assert [path.name for path in folder.states()] == ["state-000000004.safetensors"]
    assert {name: (output / name).read_text() for name in mine} == dict.fromkeys(mine, "mine")


STEPS = ("rename", "unlink", "rmdir")


@pytest.mark.parametrize("kill_at", range(14))
def test_whenever_a_process_is_killed_one_of_the_runs_is_whole(tmp_path, monkeypatch, kill_at):
    output = tmp_path / "run"
    _run(output, "old")
    (output / "notes.txt").write_text("mine")
    folder = RunFolder.choose(str(output), title="", overwrite=True)
    folder.claim()
    for name in OWN_FILES:
        folder.write(name, "new")
    (folder.path / "tensorboard").mkdir()
    (folder.path / "tensorboard/events").write_text("new")
    done = 0

    def until_killed(call):
        def killing(*args, **kwargs):
            nonlocal done
            done += 1
            if done > kill_at:
                raise Killed
            return call(*args, **kwargs)

        return killing

    for step in STEPS:
        monkeypatch.setattr(Path, step, until_killed(getattr(Path, step)))
    with contextlib.suppress(Killed):
        folder.settle(main=True)
    monkeypatch.undo()
    for lock in tmp_path.rglob(".running"):
        lock.write_text(f"{2**22 + 1} {platform.node()}")  # a process that is no more
    again = RunFolder.choose(str(output), title="", overwrite=True)
    assert _whole(output) in ("old", "new")
    assert (output / "notes.txt").read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    again.claim()
    again.release()
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    assert not [*output.glob(".*")]


def test_the_run_that_was_replaced_is_there_until_the_first_epoch_is_done(command, tmp_path, monkeypatch):
    assert command(*BLOBS, "--output", "run", "--epochs", 1).code == 0
    (tmp_path / "run/explained.html").write_text("what feedprop explain writes")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in OWN_FILES}

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("feedprop.training.loop._epoch", stopped)
    answer = command(*BLOBS, "--output", "run", "--epochs", 1, "--overwrite")
    assert answer.code == 130
    assert f"no epoch was finished, and {tmp_path / 'run'} is as it was" in answer.err
    assert {name: (tmp_path / "run" / name).read_bytes() for name in OWN_FILES} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    assert not [*(tmp_path / "run").glob(".*")]


def test_what_is_kept_is_what_was_written(command, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "save", full)
    answer = command(*BLOBS, "--output", "run", "--epochs", 1)
    assert "No space left on device; no epoch was finished" in answer.err
    assert answer.code == 1


def test_the_folder_that_the_command_runs_in_is_not_replaced(command, tmp_path, monkeypatch):
    assert command(*BLOBS, "--output", "run", "--epochs", 1).code == 0
    monkeypatch.chdir(tmp_path / "run")
    assert "the folder that the command runs in" in command(*BLOBS, "--output", ".", "--overwrite").sentence


def test_numbers_that_are_not_finite_become_null(tmp_path):
    RunFolder(tmp_path).write_json("results.json", {"loss": math.nan, "rows": [[1.5, -math.inf], (2, "a")]})
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content == {"loss": None, "rows": [[1.5, None], [2, "a"]]}


# --- damage ---


def test_weights_that_are_not_those_that_were_written_are_refused(tmp_path):
    folder, model = RunFolder(tmp_path), nn.Linear(2, 2)
    folder.save("best.safetensors", model, metadata={})
    content = bytearray((tmp_path / "best.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "best.safetensors").write_bytes(content)
    with pytest.raises(FeedpropError, match="is damaged: its weights are not those that were written"):
        folder.restore("best.safetensors", model)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    folder, model = RunFolder(tmp_path), nn.Linear(2, 2)
    model.bias.data[0] = value
    folder.save("best.safetensors", model, metadata={})
    with pytest.raises(FeedpropError, match="holds NaN or infinity in bias"):
        folder.restore("best.safetensors", nn.Linear(2, 2))


def test_whole_numbers_are_not_loaded_as_weights(tmp_path):
    save_file({key: value.int() for key, value in nn.Linear(2, 2).state_dict().items()}, tmp_path / "best.safetensors")
    with pytest.raises(FeedpropError, match=r"is damaged: \w+ is torch.int32, not torch.float32"):
        RunFolder(tmp_path).restore("best.safetensors", nn.Linear(2, 2))


@pytest.mark.parametrize("changes", [{"mean": [1.0]}, {"deviation": [0.0, 1.0]}, {"mean": None}, {"mean": "x"}])
def test_a_normalisation_that_does_not_fit_is_refused(command, run, tmp_path, changes):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/best.safetensors"
    facts = {"mean": [0.0, 0.0], "deviation": [1.0, 1.0], **changes}
    save_file(load_file(file), file, metadata={key: json.dumps(value) for key, value in facts.items()})
    assert "normalised" in command("evaluate", "run").sentence


def test_a_run_that_took_the_folder_a_moment_ago_is_left_alone(tmp_path, monkeypatch):
    output, new = tmp_path / "run", tmp_path / "run.new"
    for folder in (output, new):
        folder.mkdir()
    (output / "config.yaml").write_text("")
    (new / f".running.{os.getppid()}").write_text("")
    taken = f"{os.getppid()} {platform.node()}"
    held = locks.held

    def asked(path):  # the other run takes the folder once it was seen to be free
        found = held(path)
        if path == tmp_path / "run.old/.running":
            (output / ".running").write_text(taken)
        return found

    monkeypatch.setattr(locks, "held", asked)
    folder = RunFolder.choose(str(output), title="", overwrite=True)
    assert [entry.name for entry in new.iterdir()] == [f".running.{os.getppid()}"]
    with pytest.raises(FeedpropError, match="another run"):
        folder.claim()


def test_what_a_live_run_is_writing_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", ".best.safetensors.abc"):
        (tmp_path / "run" / name).write_text("")
    (tmp_path / "run/.running").write_text(f"{os.getppid()} {platform.node()}")
    RunFolder.choose(str(tmp_path / "run"), title="", overwrite=True)
    assert (tmp_path / "run/.best.safetensors.abc").exists()
