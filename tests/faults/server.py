"""Runs the command in forks of one process that has imported torch, so that a trial takes as long as its run.

Reads one trial per line of stdin, as JSON, and answers each with one line; `trials.Trials` is the other end.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import sklearn.datasets  # noqa: F401  imported before the first fork, as are all of these
import torch
import torch.utils.cpp_extension  # logs a line about CUDA when it is imported
import torchvision  # noqa: F401

from feedprop.cli import main
from feedprop.training.command_line import evaluate, explain, prune, train  # noqa: F401

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate"}
PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NEVER = 10**9


WARM = "train --data blobs --data.points 60 --epochs 1 --device cpu --output"


def serve() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell has it turned off
    with os.fdopen(os.dup(1), "w") as answers, tempfile.TemporaryDirectory() as place:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main([*WARM.split(), f"{place}/warm"])  # imports what the first run imports
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(_try(json.loads(line), Path(place))), file=answers, flush=True)


def _try(trial: Mapping[str, Any], place: Path) -> dict[str, Any]:
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        _run(trial, place)
    status, late = _wait(process, trial, started)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # workers that it left
    answer = {name: (place / name).read_bytes().decode(errors="backslashreplace") for name in ("out", "err", "notes")}
    seconds = time.monotonic() - started
    return {**answer, "code": os.waitstatus_to_exitcode(status), "seconds": seconds, "late": late}


def _wait(process: int, trial: Mapping[str, Any], started: float) -> tuple[int, bool]:
    """Wait for the end; send the signal of the trial at its time, and SIGKILL after the limit."""
    signals = sorted([(trial.get("after", NEVER), trial.get("signal", 0)), (trial["limit"], signal.SIGKILL)])
    late = False
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return status, late
        if time.monotonic() - started > signals[0][0]:
            late = signals[0][0] == trial["limit"]
            os.kill(process, signals.pop(0)[1])
            signals.append((NEVER, 0))
        time.sleep(0.002)


def _run(trial: Mapping[str, Any], place: Path) -> NoReturn:
    """Become the process of the command."""
    code = 70
    try:
        os.setsid()
        files = [os.open(os.devnull, os.O_RDONLY)]
        files += [os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("out", "err", "notes")]
        for number, file in enumerate(files[:3]):
            os.dup2(file, number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
        os.chdir(trial["folder"])
        os.environ.update(trial.get("environment", {}))
        sys.path[:] = ["", *(path for path in sys.path if path), *trial.get("path", ())]
        exec(trial.get("before", ""), {})
        for name, more in trial.get("limits", {}).items():
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            most = more + (used if name == "RLIMIT_AS" else 0)
            resource.setrlimit(getattr(resource, name), (most, most))
        _watch(files[3], trial)
        try:
            code = main(trial["words"])
        except BaseException:
            traceback.print_exc()
            code = 1
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except Exception:
                traceback.print_exc()
                code = 120  # as Python's own
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _watch(notes: int, trial: Mapping[str, Any]) -> None:
    """Note each change of a file under the root and each program that is run; let the one numbered `at` go wrong."""
    root, at, fault = os.path.realpath(trial.get("root", trial["folder"])), trial.get("at"), trial.get("fault")
    count, watching = 0, True

    def change(name: str, paths: tuple[Any, ...]) -> None:
        nonlocal count, watching
        under = [os.path.realpath(path) for path in map(os.fsdecode, paths)]
        if not watching or not any(path == root or path.startswith(root + os.sep) for path in under):
            return
        watching = False
        os.write(notes, f"{name} {' '.join(os.path.relpath(path, root) for path in under)}\n".encode())
        watching = True
        count += 1
        if at is not None and (count == at + 1 or (count > at and fault == "full from there on")):
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if name in ("open", "os.mkdir", "os.link", "fsync", "os.rename"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in PROGRAMS and watching:
            os.write(notes, f"ran {arguments[:2]}\n".encode(errors="replace"))
        elif event == "open" and isinstance(arguments[0], str | bytes) and (arguments[2] or 0) & WRITING:
            change("open", arguments[:1])
        elif event in CHANGES:
            change(event, tuple(item for item in arguments[:2] if isinstance(item, str | bytes | os.PathLike)))

    fsync = os.fsync

    def synchronise(file: int) -> None:
        change("fsync", (os.readlink(f"/proc/self/fd/{file}"),))
        fsync(file)

    os.fsync = synchronise
    sys.addaudithook(hook)


if __name__ == "__main__":
    serve()
