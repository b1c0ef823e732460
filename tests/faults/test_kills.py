"""A run that is killed with SIGKILL goes on to the same weights, wherever that was, and loses none that it replaces."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from faults.trials import BLOBS, Outcome, Trials, draws
from feedprop.training.checkpoints import EXPLAINED, OWN_FILES, TENSORBOARD

KILLED = [*BLOBS, "[4]", "--checkpoint_every", "2", "--output", "run"]
OLD = [*BLOBS, "[3]", "--output", "run"]
FILES = {*OWN_FILES, TENSORBOARD} - {EXPLAINED}


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(run / f"{name}.safetensors") for name in ("best", "last")}


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same weights, bit for bit."""
    first, second = weights(one), weights(other)
    return all(
        first[name].keys() == second[name].keys()
        and all(torch.equal(value, second[name][key]) for key, value in first[name].items())
        for name in first
    )


@pytest.fixture(scope="module")
def whole(trials: Trials, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of the run that was not stopped, and how many changes of files it made."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "run", len(trials(KILLED, folder).done().operations)


@pytest.fixture(scope="module")
def old(trials: Trials, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of a run that is replaced, and how many changes of files that takes."""
    folder = tmp_path_factory.mktemp("old")
    trials(OLD, folder).done()
    shutil.copytree(folder / "run", folder / "kept")
    (folder / "run/notes.txt").write_text("mine")
    return folder / "kept", len(trials([*KILLED, "--overwrite"], folder, root=str(folder / "none")).done().operations)


def finish(trials: Trials, place: Path, earlier: Path | None) -> None:
    """Resume the run, however often that is needed; a run that never wrote anything is started again."""
    outcome = trials(["train", "--resume", "run"], place)
    if outcome.code == 0:
        return
    sentence = outcome.sentence
    if earlier is not None:
        assert "is finished" in sentence
        if not same(place / "run", earlier):
            return  # it had been replaced
        trials(["evaluate", "run"], place).done()
        trials([*KILLED, "--overwrite"], place).done()
    elif "is finished" not in sentence:
        assert "is not a run of feedprop train" in sentence
        trials(KILLED, place).done()


def check_finished(place: Path, whole: Path, *, mine: bool) -> None:
    assert same(place / "run", whole)
    assert {entry.name for entry in (place / "run").iterdir()} == FILES | ({"notes.txt"} if mine else set())
    assert {entry.name for entry in place.iterdir()} == {"run"}


def kill_at(trials: Trials, place: Path, number: int, earlier: Path | None, fault: str = "kill") -> Outcome:
    if earlier is not None:
        shutil.copytree(earlier, place / "run")
        (place / "run/notes.txt").write_text("mine")
    words = [*KILLED, *(["--overwrite"] if earlier else [])]
    return trials(words, place, at=number, fault=fault, root=str(place))


SAMPLE = 4  # of the operations, in continuous integration


def _numbers(name: str, most: int) -> list[int]:
    count = min(most, draws(SAMPLE))
    return sorted(random.Random(name).sample(range(most), count))


@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replaced"])
def test_killed_at_any_change_of_a_file(trials, tmp_path, whole, old, replaces):
    folder, count = whole
    earlier, most = (old[0], count + 40) if replaces else (None, count)
    for number in _numbers(f"kill {replaces}", most):
        place = tmp_path / str(number)
        place.mkdir()
        outcome = kill_at(trials, place, number, earlier)
        assert outcome.code in (-signal.SIGKILL, 0), (number, outcome)
        finish(trials, place, earlier)
        check_finished(place, folder, mine=replaces)


@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("fault", ["full", "full from there on"])
def test_the_disk_is_full_at_any_change_of_a_file(trials, tmp_path, whole, old, fault, replaces):
    folder, count = whole
    earlier, most = (old[0], count + 40) if replaces else (None, count)
    for number in _numbers(f"{fault} {replaces}", most):
        place = tmp_path / str(number)
        place.mkdir()
        outcome = kill_at(trials, place, number, earlier, fault)
        if outcome.code != 0:
            sentence = outcome.sentence
            assert "No space left on device" in sentence, (number, sentence)
            if "goes on from there" in sentence:
                assert [*(place / "run").glob("state-*")], (number, sentence)
            if "is as it was" in sentence:
                assert same(place / "run", earlier), (number, sentence)
        assert not [*place.glob("run/.[a-z]*.safetensors.*")]
        if "draws it again" in outcome.out:
            trials(["report", "run"], place).done()
        finish(trials, place, earlier)
        check_finished(place, folder, mine=replaces)


def test_killed_again_and_again_at_random_moments(trials, tmp_path, whole):
    drawn = random.Random("moments")
    seconds = trials([*KILLED[:-1], "timed"], tmp_path).done().seconds
    for number in range(draws(4, share=0.06)):
        place = tmp_path / str(number)
        place.mkdir()
        trials(KILLED, place, signal=signal.SIGKILL, after=drawn.uniform(0, seconds))
        for _ in range(drawn.choice([0, 1, 2])):
            trials(["train", "--resume", "run"], place, signal=signal.SIGKILL, after=drawn.uniform(0, seconds))
        finish(trials, place, None)
        check_finished(place, whole[0], mine=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_at_random_moments(trials, tmp_path, whole, number):
    drawn = random.Random(f"signal {number}")
    for index in range(draws(2, share=0.04)):
        place = tmp_path / str(index)
        place.mkdir()
        outcome = trials(KILLED, place, signal=number, after=drawn.uniform(0, 0.4))
        early = outcome.code == 70 and "feedprop/cli.py" not in outcome.err  # before the command began
        before_steps = outcome.code == -signal.SIGTERM and number == signal.SIGTERM
        assert outcome.code in (0, 128 + number) or early or before_steps, outcome
        if outcome.code > 0 and not early:
            assert ("goes on from there" in outcome.sentence) == bool([*(place / "run").glob("state-*")]), outcome
        finish(trials, place, None)
        check_finished(place, whole[0], mine=False)
