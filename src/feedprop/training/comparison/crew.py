"""Processes that make runs side by side, one thread each; a single one is this process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from feedprop.training.comparison.work import Job, Outcome, execute


class Alone:
    """Makes each run in this process, at once."""

    size = 1

    def submit(self, job: Job) -> Future[Outcome]:
        """Make a run and return its outcome."""
        made: Future[Outcome] = Future()
        made.set_result(execute(job))
        return made


class Crew:
    """Makes runs in several processes. A process that dies is replaced, and its run has failed.

    Args:
        size: how many.
        log: file that takes what the processes print, apart from what runs do.
    """

    def __init__(self, size: int, log: Path) -> None:
        self.size, self._log = size, log
        self._threads = ThreadPoolExecutor(size)
        self._own = threading.local()
        self._processes: list[subprocess.Popen[str]] = []

    def submit(self, job: Job) -> Future[Outcome]:
        """Let a process make a run as soon as one is free."""
        return self._threads.submit(self._run, job)

    def _run(self, job: Job) -> Outcome:
        """Hand a job to the process of this thread, and wait for the answer."""
        process: subprocess.Popen[str] | None = getattr(self._own, "process", None)
        if process is None or process.poll() is not None:
            process = self._own.process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if answer:
            return Outcome(**json.loads(answer))
        code = process.wait()
        why = "as the system does when memory runs out" if code == -signal.SIGKILL else f"{self._log} may say why"
        return Outcome("failed", f"its process ended with code {code}, {why}")

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "feedprop.training.comparison.crew", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C reaches this process alone, which stops the others once
            )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End all processes; each writes the state of its run first."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        try:
            for process in self._processes:
                process.wait()
        except BaseException:
            for process in self._processes:
                process.kill()
            raise
        finally:
            self._threads.shutdown(cancel_futures=True)
            for process in self._processes:
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with contextlib.suppress(BrokenPipeError):  # what was never read
                            pipe.close()


@contextlib.contextmanager
def working(size: int, log: Path) -> Iterator[Alone | Crew]:
    """Yield what makes runs within the block; SIGTERM ends the block as Ctrl-C does."""
    if size == 1:
        yield Alone()
        return
    crew = Crew(size, log)
    before: Any = None
    with contextlib.suppress(ValueError):  # not in the main thread
        before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield crew
    finally:
        try:
            crew.stop()
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _serve(parent: int) -> None:
    """Make the runs that come in, one per line; answer each with a line. End with the process that sends them."""
    from feedprop.training.command_line.components import search_in

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a run prints is taken for an answer
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    search_in(".")
    for line in sys.stdin:
        try:
            made = execute(Job(**json.loads(line)))
        except KeyboardInterrupt as stopped:
            sys.exit(128 + (stopped.args[0] if stopped.args else signal.SIGINT))
        print(json.dumps(dataclasses.asdict(made)), file=answers, flush=True)


def _end_with(parent: int) -> None:
    """Stop this process, as by SIGTERM, once its parent is gone."""
    while os.getppid() == parent:
        threading.Event().wait(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
