"""Trials of the command in processes of their own, and what counts as a fault of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY = 4 * 2**30  # bytes that a trial may have
LIMIT = 60  # seconds after which a command hangs
LONGEST = 2000  # characters of a sentence
OURS = r"uname|import sys, json"  # programs that platform and torch run
CODES = (0, 1, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM)
BLOBS = ["train", "--data", "blobs", "--data.points", "100", "--device", "cpu"]
BLOBS += ["--batch_size", "32", "--epochs", "2", "--model.hidden"]


def draws(few: int, *, share: float = 1.0) -> int:
    """How many to draw: this share of FEEDPROP_FAULTS, or the few that continuous integration has time for."""
    most = os.environ.get("FEEDPROP_FAULTS")
    return few if most is None else max(1, round(share * int(most)))


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Args:
        code: its exit code, or minus the signal that ended it
        out: its stdout
        err: its stderr
        notes: the changes it made to files, and the programs it ran, a line each
        seconds: how long it took
        late: whether it had to be killed
    """

    code: int
    out: str
    err: str
    notes: str
    seconds: float
    late: bool

    @property
    def operations(self) -> list[str]:
        return [line for line in self.notes.splitlines() if not line.startswith("ran ")]

    @property
    def sentence(self) -> str:
        """The one line on stderr of a command that refused, without a fault."""
        assert fault(self) is None, (fault(self), self)
        assert self.code != 0, self
        return self.err

    def done(self) -> Outcome:
        """This, if the command succeeded."""
        assert self.code == 0, self
        assert fault(self) is None, (fault(self), self)
        return self


def fault(outcome: Outcome) -> str | None:
    """Return what is wrong with how a command ended, in a few words, or None."""
    lines = [line for line in outcome.err.splitlines() if not line.startswith("feedprop: warning: ")]
    if outcome.late:
        return f"hangs for {LIMIT} s"
    if ran := [line for line in outcome.notes.splitlines() if line.startswith("ran ") and not re.search(OURS, line)]:
        return ran[0]
    if "Traceback" in outcome.err:
        places = re.findall(r'File "\S*?/(?:src|site-packages)/(\S+)", line (\d+)', outcome.err)
        place = ":".join(places[-1]) if places else "?"
        return f"traceback at {place}: {lines[-1][:150]}"
    if outcome.code not in CODES:
        return f"exit code {outcome.code}"
    if outcome.code == 0:
        return f"done, but stderr has: {lines[0][:150]}" if lines else None
    if len(lines) != 1:
        return f"{len(lines)} lines on stderr: {' | '.join(lines)[:150]}"
    if not re.match(r"feedprop: \S.{8}", lines[0]):
        return f"no sentence: {lines[0][:150]}"
    return None if len(lines[0]) <= LONGEST else f"a sentence of {len(lines[0])} characters: {lines[0][:150]}"


class Trials:
    """The client of `server`: one process that has imported everything, and forks."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        self._server = subprocess.Popen(
            [sys.executable, "-W", "default", "-m", "faults.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()

    def __call__(self, words: Sequence[object], folder: Path, **options: Any) -> Outcome:
        """Run a command in a folder.

        Args:
            words: after `feedprop`.
            folder: where it runs.
            **options: `before`, code that its process runs first; `environment`; `limits` of resource, those of memory
                counted from what is in use; `signal` and `after` so many seconds; `at` and
                `fault`, "kill", "full" or "full from there on", the operation on files under `root` that goes wrong.
        """
        limits = {"RLIMIT_AS": MEMORY, **options.pop("limits", {})}
        trial = {"limit": LIMIT, "limits": limits, "words": [*map(str, words)], "folder": str(folder), **options}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(trial), file=self._server.stdin, flush=True)
        return Outcome(**json.loads(self._server.stdout.readline()))


def report(faults: Sequence[tuple[str, str]], *, of: int) -> str:
    """Return each kind of fault with how often it occurred and an example."""
    kinds = Counter(re.sub(r"0x\w+|\d{4,}|/\S*/", "…", kind) for kind, _ in faults)
    examples = {re.sub(r"0x\w+|\d{4,}|/\S*/", "…", kind): name for kind, name in reversed(faults)}
    lines = [f"{count:4} {kind}\n       {examples[kind]}" for kind, count in kinds.most_common()]
    return "\n".join([f"{len(faults)} faults in {of} trials, {len(kinds)} kinds", *lines])
