"""What the tests of the command share: a quick run, made once, and a way to run the command."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from feedprop.cli import main

REPOSITORY = Path(__file__).parents[2]
BLOBS = ["train", "--data", "blobs", "--data.points", "200", "--model.hidden", "[8]", "--device", "cpu"]

SERIES = ["--data", "time_series", "--data.problem", "Toy", "--data.root", "."]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on stderr that answers bad input."""
        assert self.code == 2, self
        assert "Traceback" not in self.err
        assert self.err.startswith("feedprop: ")
        assert self.err.count("\n") == 1, self.err
        return self.err


@pytest.fixture
def command(capsys, tmp_path, monkeypatch) -> Callable[..., Answer]:
    """Run the command in an empty folder, without drawing the picture for trackers."""
    monkeypatch.setattr("feedprop.training.report.overview._pixels", lambda figure: np.zeros((2, 3, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "support"))

    def call(*words: object) -> Answer:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder of a short LFP run on blobs."""
    folder = tmp_path_factory.mktemp("runs") / "blobs"
    assert main([*BLOBS, "--epochs", "3", "--batch_size", "16", "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def fetched() -> Callable[[str], str]:
    """Return the folder of a data set that was fetched, or skip."""

    def find(name: str) -> str:
        root = Path(os.environ.get("FEEDPROP_DATA", REPOSITORY / "data"))
        if not (root / name).is_dir():
            pytest.skip(f"{name} is not in {root}; fetch it or set FEEDPROP_DATA")
        return str(root)

    return find


def write_series(folder: Path, *, cases: int = 40, classes: str = "up down") -> None:
    """Two classes of sequences of two channels: the first channel is high, or the second."""
    (folder / "timeseries").mkdir(exist_ok=True)
    for part in ("TRAIN", "TEST"):
        lines = []
        for case in range(cases):
            high, low = [",".join(f"{value + 0.01 * case % 3:.2f}" for _ in range(5)) for value in (1.5, 0.1)]
            lines.append(f"{high}:{low}:up" if case % 2 else f"{low}:{high}:down")
        head = f"@problemName Toy\n@classLabel true {classes}\n@data\n"
        (folder / f"timeseries/Toy_{part}.ts").write_text(head + "\n".join(lines) + "\n")


@pytest.fixture
def series(command, tmp_path):
    write_series(tmp_path)
    return command


def write_texts(folder: Path, *, number: int = 30, ending: str = "") -> Path:
    """Mails of two classes, told apart by one word: a folder `ham` and a folder `spam` in the folder.

    Their last word is that of no other mail, unless an ending is given.
    """
    for kind, word in (("ham", "meeting"), ("spam", "Lottery")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for mail in range(number):
            (folder / kind / f"{mail}.txt").write_text(
                f"The {word}, of the day: it's <now>! {ending or f'only{mail}{kind}'}"
            )
    return folder


@pytest.fixture(scope="session")
def mails(tmp_path_factory) -> Path:
    """The folder of a short LFP run on two classes of mails, which are in the folder mails beside it."""
    folder = tmp_path_factory.mktemp("texts")
    data = ["--data", "text", "--data.path", str(write_texts(folder / "mails")), "--batch_size", "16"]
    assert main(["train", *data, "--epochs", "5", "--device", "cpu", "--output", str(folder / "run")]) == 0
    return folder / "run"
