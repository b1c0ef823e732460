"""A run that was stopped goes on to the same weights and figures as one that was not."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import RunFolder
from feedprop.training.resumption import Saver
from feedprop.training.state import pack, unpack

from .conftest import SERIES, write_texts

SETTINGS = {
    "SGD": "--model.hidden [8] --optimizer SGD --optimizer.momentum 0.9",
    "Adam, dropout": "--model.hidden [8] --model.dropout 0.3 --optimizer Adam --scheduler CosineAnnealingLR",
    "accumulated": "--model.hidden [8] --accumulate 3 --batch_size 16 --clip_norm 1",
    "plateau": "--model.hidden [8] --scheduler ReduceLROnPlateau --optimizer RMSprop --optimizer.lr 0.01",
    "backprop": "--model.hidden [8] --method backprop --optimizer AdamW",
    "discrete reward": "--model.hidden [8] --reward ChoiceReward",
    "bf16": "--model.hidden [8] --precision bf16",
    "regression": "--data diabetes --model.hidden [8]",
}
COMMON = ["train", "--data", "blobs", "--data.points", "200", "--device", "cpu", "--batch_size", "16", "--epochs", "3"]


def _figures(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _assert_same_run(found: Path, expected: Path) -> None:
    for name in ("best", "last"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in (found, expected))
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert torch.equal(value, other[key]), (name, key)
    assert _figures(found) == _figures(expected)
    results = [json.loads((folder / "results.json").read_text()) for folder in (found, expected)]
    for part in ("test", "weights", "remarks"):
        assert results[0][part] == results[1][part]
    assert (found / "layers.jsonl").read_text() == (expected / "layers.jsonl").read_text()


def _stop_at(monkeypatch, step: int, number: int = signal.SIGINT) -> None:
    """Send a signal to this process while the given step is taken."""
    observe = "feedprop.training.symptoms.Symptoms.observe"
    from feedprop.training.symptoms import Symptoms

    original, count = Symptoms.observe, 0

    def observing(self, outputs, targets):
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), number)
        original(self, outputs, targets)

    monkeypatch.setattr(observe, observing)


@pytest.mark.parametrize("step", [1, 12, 30])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_goes_on_to_the_same_weights(command, tmp_path, monkeypatch, name, step):
    common = ["train", *COMMON[5:]] if "--data" in SETTINGS[name] else COMMON
    words = [*common, *SETTINGS[name].split()]
    assert command(*words, "--output", "whole").code == 0
    with monkeypatch.context() as patch:
        _stop_at(patch, step)
        answer = command(*words, "--output", "stopped")
    assert answer.code == 130
    assert "feedprop train --resume stopped goes on from there" in answer.err
    answer = command("train", "--resume", "stopped")
    assert answer.code == 0, answer.err
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    assert not [*(tmp_path / "stopped").glob("state-*")]
    assert not [*(tmp_path / "stopped").glob(".*")]


def test_it_goes_on_from_the_middle_of_an_epoch(command, tmp_path, monkeypatch):
    words = [*COMMON, "--model.hidden", "[8]"]
    with monkeypatch.context() as patch:
        _stop_at(patch, 14)  # of 12 in an epoch
        command(*words, "--output", "stopped")
    steps = []
    from feedprop.training.symptoms import Symptoms

    original = Symptoms.step
    monkeypatch.setattr(Symptoms, "step", lambda self, take: steps.append(1) or original(self, take))
    answer = command("train", "--resume", "stopped")
    assert "going on after step 14, in epoch 2" in answer.out
    assert len(steps) == 36 - 14


def test_a_run_may_be_stopped_again_and_again(command, tmp_path, monkeypatch):
    words = [*COMMON, "--model.hidden", "[8]", "--model.dropout", "0.2"]
    command(*words, "--output", "whole")
    with monkeypatch.context() as patch:
        _stop_at(patch, 4)
        command(*words, "--output", "stopped")
    for _ in range(3):
        with monkeypatch.context() as patch:
            _stop_at(patch, 6)
            assert command("train", "--resume", "stopped").code == 130
    assert command("train", "--resume", "stopped").code == 0
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_spiking_networks_go_on(series, tmp_path, monkeypatch):
    words = ["train", *SERIES, "--model", "lif_mlp", "--model.hidden", "[4]", "--batch_size", "8", "--epochs", "3"]
    assert series(*words, "--output", "whole").code == 0
    with monkeypatch.context() as patch:
        _stop_at(patch, 7)
        assert series(*words, "--output", "stopped").code == 130
    assert series("train", "--resume", "stopped").code == 0
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_texts_go_on_with_the_words_they_began_with(command, tmp_path, monkeypatch):
    words = ["train", "--data", "text", "--data.path", write_texts(tmp_path / "mails"), "--epochs", 2]
    words += ["--batch_size", 8, "--device", "cpu", "--tracker", "none", "--output"]
    assert command(*words, "whole").code == 0
    with monkeypatch.context() as patch:
        _stop_at(patch, 7)
        assert command(*words, "stopped").code == 130
    shutil.copytree("stopped", "again")
    assert command("train", "--resume", "stopped").code == 0
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    write_texts(tmp_path / "mails", ending="more")
    assert "the words of the training texts have changed" in command("train", "--resume", "again").sentence


def test_states_are_written_every_so_many_steps(command, tmp_path, monkeypatch):
    """What a killed process leaves: the last two states, from which it goes on."""
    words = [*COMMON, "--model.hidden", "[8]", "--checkpoint_every", "4"]
    command(*words, "--output", "whole")

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("feedprop.training.nan_guard.NaNGuard.observe", _after(17, killed))
        with pytest.raises(Killed):
            command(*words, "--output", "stopped")
    assert [path.name for path in sorted((tmp_path / "stopped").glob("state-*"))] == [
        "state-000000012.safetensors", "state-000000016.safetensors",
    ]  # fmt: skip
    assert command("train", "--resume", "stopped").code == 0
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def _after(calls: int, then):
    from feedprop.training.nan_guard import NaNGuard

    original, count = NaNGuard.observe, 0

    def observe(self, *args):
        nonlocal count
        count += 1
        if count > calls:
            then()
        original(self, *args)

    return observe


def _stopped(command, monkeypatch, *words) -> None:
    with monkeypatch.context() as patch:
        _stop_at(patch, 14)
        assert command(*COMMON, "--model.hidden", "[8]", *words).code == 130


def test_a_damaged_state_is_named_and_the_one_before_is_used(command, tmp_path, monkeypatch):
    command(*COMMON, "--model.hidden", "[8]", "--output", "whole")
    _stopped(command, monkeypatch, "--output", "stopped")
    states = sorted((tmp_path / "stopped").glob("state-*"))
    assert len(states) == 2
    states[1].write_bytes(states[1].read_bytes()[:-100])
    answer = command("train", "--resume", "stopped")
    assert answer.code == 0
    assert f"warning: {Path('stopped') / states[1].name} is damaged" in answer.out
    assert "going on after step 12, in epoch 2" in answer.out
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_the_run_that_was_stopped_last_is_meant(command, tmp_path, monkeypatch):
    assert "there is no run in runs/ that was stopped" in command("train", "--resume").sentence
    _stopped(command, monkeypatch)
    answer = command("train", "--resume")
    assert answer.code == 0
    assert "writing to runs/blobs-mlp-lfp-001" in answer.out
    assert "is finished; there is nothing to resume" in command("train", "--resume", "runs/blobs-mlp-lfp-001").sentence


def test_what_cannot_be_resumed(command, tmp_path, monkeypatch):
    assert "is not a run of feedprop train" in command("train", "--resume", "nowhere").sentence
    with monkeypatch.context() as patch:
        _stop_at(patch, 26)  # in the third epoch
        assert command(*COMMON, "--model.hidden", "[8]", "--output", "stopped").code == 130
    assert "leave out --epochs" in command("train", "--resume", "stopped", "--epochs", 5).sentence
    for path in (tmp_path / "stopped").glob("state-*"):
        path.unlink()
    assert "has no state to resume from" in command("train", "--resume", "stopped").sentence


def test_own_modules_of_a_resumed_run_need_trust(command, tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text("from feedprop.training.models.dense import MLP as Net\n")
    _stopped(command, monkeypatch, "--output", "stopped")
    text = (tmp_path / "stopped/config.yaml").read_text().replace("name: mlp", "name: own_net.Net")
    (tmp_path / "stopped/config.yaml").write_text(text)
    assert "add --trust" in command("train", "--resume", "stopped").sentence
    assert command("train", "--resume", "stopped", "--trust").code == 0


def test_sigterm_saves_too(command, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _stop_at(patch, 5, signal.SIGTERM)
        answer = command(*COMMON, "--model.hidden", "[8]", "--output", "stopped")
    assert answer.code == 143
    assert [*(tmp_path / "stopped").glob("state-000000005.safetensors")]


def test_the_second_signal_ends_the_run_at_once():
    before = signal.getsignal(signal.SIGINT)
    saver = Saver(_settings(), processes=1)
    with saver.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert saver.told_to_stop == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def _settings(**changes):
    from feedprop.training.command_line.config import Settings

    return Settings(**changes)


def test_when_states_are_written():
    assert Saver(_settings(checkpoint_every="500"), processes=2).steps == 500
    assert Saver(_settings(checkpoint_every="10min"), processes=1).seconds == 600
    saver = Saver(_settings(), processes=1)
    assert (saver.steps, saver.seconds) == (None, None)
    for wrong in ("never", "0", "-3", "1.5", "10 hours"):
        with pytest.raises(FeedpropError, match="must be epoch, a number of steps"):
            Saver(_settings(checkpoint_every=wrong), processes=1)


def test_a_state_survives_the_file(tmp_path):
    state = {
        "tensors": [torch.arange(3), torch.randn(2, 2, dtype=torch.float64), torch.tensor(True)],
        3: (1, 2.5, None, "ä", (True, [])),
        "random": np.random.get_state(),
        "infinite": float("inf"),
        "none": {},
    }
    (tmp_path / "state").write_bytes(pack(state))
    found = unpack(tmp_path / "state")
    assert found[3] == state[3]
    assert found["infinite"] == float("inf")
    for one, other in zip(found["tensors"], state["tensors"], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    np.random.set_state(found["random"])
    assert (found["random"][1] == state["random"][1]).all()
    with pytest.raises(FeedpropError, match="a function cannot be kept"):
        pack({"f": test_a_state_survives_the_file})


@pytest.mark.parametrize("damage", [b"", b"x" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_states_are_named(tmp_path, damage):
    (tmp_path / "state").write_bytes(damage)
    with pytest.raises(FeedpropError, match=r"state (is damaged|has another format)"):
        unpack(tmp_path / "state")


# --- a process that is killed at any file operation ---


class Killed(BaseException):
    """The process ends here: nothing that it would do afterwards reaches the disk."""


OPERATIONS = ("replace", "fsync", "open", "link", "unlink", "rename", "mkdir", "rmdir")


def _kill_at(monkeypatch, number: int) -> list[str]:
    """Let all file operations from the given one on fail; returns those that were done."""
    done: list[str] = []

    def until_killed(name, call):
        def operation(*args, **kwargs):
            if len(done) >= number:
                raise Killed
            done.append(name)
            return call(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, until_killed(name, getattr(os, name)))
    return done


SHORT = ["train", "--data", "blobs", "--data.points", "100", "--device", "cpu", "--batch_size", "32", "--epochs", "2"]
KILLED = [*SHORT, "--model.hidden", "[4]", "--checkpoint_every", "2", "--output", "run"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a short run that was not stopped."""
    from feedprop.cli import main

    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*KILLED[:-1], str(folder)]) == 0
    return folder


@pytest.mark.parametrize("number", [0, 1, 3, 5, 8, 9, 10, 12, 16, 22, 28, 34])
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "overwritten"])
def test_wherever_a_process_is_killed_its_run_goes_on(command, tmp_path, monkeypatch, whole, number, earlier):
    words = KILLED
    if earlier:
        assert command(*SHORT, "--model.hidden", "[3]", "--output", "run").code == 0
        old = (tmp_path / "run/best.safetensors").read_bytes()
        words = [*KILLED, "--overwrite"]
    with monkeypatch.context() as patch:
        done = _kill_at(patch, number)
        try:
            command(*words)
        except Killed:
            killed = True
        else:
            killed = False
    assert killed or len(done) <= number
    _process_is_no_more(tmp_path)
    RunFolder.choose("run", title="", overwrite=(tmp_path / "run/config.yaml").exists() or earlier)
    if [*(tmp_path / "run").glob("state-*")]:
        assert command("train", "--resume", "run").code == 0
    elif not (tmp_path / "run/results.json").exists() or (earlier and _same(tmp_path / "run", old)):
        assert not earlier or _same(tmp_path / "run", old)
        again = [] if earlier or not (tmp_path / "run/config.yaml").exists() else ["--overwrite"]
        assert command(*words, *again).code == 0
    _assert_same_run(tmp_path / "run", whole)
    assert {entry.name for entry in tmp_path.iterdir()} == {"run"}
    assert not [*(tmp_path / "run").glob(".*")]


def _same(run: Path, best: bytes) -> bool:
    return (run / "best.safetensors").read_bytes() == best


def _process_is_no_more(folder: Path) -> None:
    for lock in folder.rglob(".running"):
        lock.write_text(f"{2**22 + 1} {platform.node()}")


def test_a_run_without_a_state_begins_anew_in_its_first_epoch(command, tmp_path, monkeypatch):
    command(*COMMON, "--model.hidden", "[8]", "--output", "whole")
    _stopped(command, monkeypatch, "--output", "stopped")
    for path in (tmp_path / "stopped").glob("state-*"):
        path.unlink()
    answer = command("train", "--resume", "stopped")
    assert "no state was written, so the run begins anew" in answer.out
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_that_was_killed_before_its_report_goes_on(command, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("feedprop.training.conclusion.write_report", killed)
        with pytest.raises(Killed):
            command(*COMMON, "--model.hidden", "[8]", "--output", "stopped")
    assert (tmp_path / "stopped/results.json").exists()
    assert command("train", "--resume", "stopped").code == 0
    assert (tmp_path / "stopped/report.html").exists()
    assert not [*(tmp_path / "stopped").glob("state-*")]


def test_a_state_of_another_run_is_refused(command, tmp_path, monkeypatch):
    _stopped(command, monkeypatch, "--output", "stopped")
    for path in (tmp_path / "stopped").glob("state-*"):
        path.write_bytes(pack({**unpack(path), "optimizer": 3}))
    assert "does not belong to a run that is configured so" in command("train", "--resume", "stopped").sentence


def test_a_state_that_changed_is_damaged(tmp_path):
    content = bytearray(pack({"weights": torch.zeros(100)}))
    content[-1] ^= 1
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(FeedpropError, match="its content is not what was written"):
        unpack(tmp_path / "state")
