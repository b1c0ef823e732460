"""One run of a comparison: started, or gone on with, in a folder of its own; and what became of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from feedprop.errors import FeedpropError
from feedprop.training import loop
from feedprop.training.checkpoints import RESULTS, RunFolder
from feedprop.training.command_line.arguments import configure
from feedprop.training.nan_guard import DivergenceError
from feedprop.training.tasks import TASKS

DIVERGED = "diverged.json"


@dataclass(frozen=True)
class Job:
    """A run to make.

    Args:
        folder: of the run; its configuration and its output are beside it, as FOLDER.yaml and FOLDER.log.
        tested: whether it ends with a test; a run that tunes does not.
        command: that the comparison was started by.
    """

    folder: str
    tested: bool
    command: str

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def beside(self, ending: str) -> Path:
        """Return the file of this ending beside the folder."""
        return self.path.with_name(self.path.name + ending)


@dataclass(frozen=True)
class Outcome:
    """What became of a run: done, diverged, or failed, with the reason."""

    state: Literal["done", "diverged", "failed"]
    sentence: str = ""


def outcome(job: Job) -> Outcome | None:
    """Return what became of a run that needs no more work; None of another one."""
    if (job.path / DIVERGED).is_file():
        return Outcome("diverged", json.loads((job.path / DIVERGED).read_text())["sentence"])
    if (job.path / RESULTS).is_file():
        return Outcome("done")
    return None


def execute(job: Job) -> Outcome:
    """Make a run, or the rest of it, with one thread; a run that is stopped raises KeyboardInterrupt."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the figures do not depend on how many runs are made side by side
    try:
        with (
            job.beside(".log").open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                return _make(job)
            except Exception as error:
                traceback.print_exc()
                if isinstance(error, FeedpropError):
                    return Outcome("failed", " ".join(str(error).split()))
                lines = str(error).strip().splitlines() or [""]
                return Outcome("failed", f"{type(error).__name__}: {lines[0]} ({job.beside('.log')} says more)")
    finally:
        torch.set_num_threads(threads)


def _make(job: Job) -> Outcome:
    config = configure([], {"config": [str(job.beside(".yaml"))], "output": job.folder})
    if not (job.path / RESULTS).is_file():
        try:
            loop.train(config, command=job.command, resumed=_begun(job), tested=job.tested)
        except DivergenceError as error:
            job.path.mkdir(exist_ok=True)
            RunFolder(job.path).write_json(DIVERGED, {"sentence": str(error)})
            return Outcome("diverged", str(error))
    return Outcome("done")


def _begun(job: Job) -> RunFolder | None:
    """Return the run to go on with; remove one that has no state to go on from."""
    if not job.path.exists():
        return None
    with contextlib.suppress(FeedpropError):
        folder = RunFolder.reopen(job.path)
        folder.latest_state()
        return folder
    shutil.rmtree(job.path)
    return None


def read(job: Job) -> dict[str, Any]:
    """Return the figures of a run that is done: its results, its rows, and the names of score and loss of its task."""
    folder = RunFolder(job.path)
    results = folder.results()
    task = TASKS[results["task"]]
    return {**results, "score": task.score, "loss": task.loss, "rows": folder.rows()}
