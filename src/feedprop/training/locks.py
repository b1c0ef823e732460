"""Lock files: which process has a folder. A lock whose process is gone counts as none."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

from feedprop.errors import FeedpropError


def take(path: Path) -> None:
    """Make the lock file; of several processes, one succeeds.

    Raises:
        FeedpropError: another process has the folder.
    """
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            owner = _owner(path)
            if owner is None:
                continue  # released at this moment
            if _runs(owner):
                process, machine = owner
                who = f"process {process} on {machine}" if machine else "just started"
                raise FeedpropError(
                    f"another run ({who}) writes to {path.parent}; name another --output, or delete {path} if that run "
                    f"is gone"
                ) from None
            path.unlink(missing_ok=True)
        else:
            with os.fdopen(handle, "w") as file:
                file.write(f"{os.getpid()} {platform.node()}")
            return


def release(path: Path) -> None:
    """Remove the lock if this process has it."""
    owner = _owner(path)
    if owner is not None and owner[0] == os.getpid():
        path.unlink(missing_ok=True)


def held(path: Path) -> bool:
    """Whether a running process has this lock."""
    owner = _owner(path)
    return owner is not None and _runs(owner)


def _owner(path: Path) -> tuple[int, str] | None:
    with contextlib.suppress(FileNotFoundError):
        process, _, machine = path.read_text(errors="replace").partition(" ")
        return (int(process) if process.isdigit() else 0), machine
    return None


def _runs(owner: tuple[int, str]) -> bool:
    process, machine = owner
    if machine and machine != platform.node():
        return True  # nobody here can tell
    if process == 0:
        return True  # it is being written
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
