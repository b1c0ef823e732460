"""Lock files: which process has a folder. A lock whose process is gone counts as none."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

from feedprop.errors import FeedpropError

_PROCESS = re.compile(r"[0-9]{1,9}")


def take(path: Path) -> None:
    """Make the lock file; of several processes, one succeeds.

    Raises:
        FeedpropError: another process has the folder.
    """
    while True:
        own = path.with_name(f"{path.name}.{os.getpid()}")
        own.write_text(f"{os.getpid()} {platform.node()}")
        try:
            os.link(own, path)  # whole or not at all
        except FileExistsError:
            owner = _owner(path)
            if owner is None:
                continue  # released at this moment
            if runs(owner):
                process, machine = owner
                raise FeedpropError(
                    f"another run (process {process} on {machine}) writes to {path.parent}; name another --output, or "
                    f"delete {path} if that process is gone"
                ) from None
            path.unlink(missing_ok=True)
        else:
            return
        finally:
            own.unlink(missing_ok=True)


def release(path: Path) -> None:
    """Remove the lock if this process has it."""
    owner = _owner(path)
    if owner is not None and owner[0] == os.getpid():
        path.unlink(missing_ok=True)


def tidy(path: Path) -> None:
    """Remove what a process that is gone left: its lock, and what it wrote while it took it."""
    owner = _owner(path)
    if owner is not None and path.is_file() and not runs(owner):
        path.unlink(missing_ok=True)
    for begun in path.parent.glob(f"{path.name}.*"):
        process = begun.suffix.removeprefix(".")
        if _PROCESS.fullmatch(process) and not runs((int(process), platform.node())):
            begun.unlink(missing_ok=True)


def held(path: Path) -> bool:
    """Whether a running process has this lock."""
    owner = _owner(path)
    return owner is not None and runs(owner)


def _owner(path: Path) -> tuple[int, str] | None:
    if not path.exists():
        return None
    if not path.is_file():
        return 0, ""  # a pipe would never end
    with contextlib.suppress(FileNotFoundError):
        process, _, machine = path.read_text(errors="replace").partition(" ")
        return (int(process) if _PROCESS.fullmatch(process) else 0), machine
    return None


def runs(owner: tuple[int, str]) -> bool:
    """Whether a process, on a machine of this name, may still run; never this process itself."""
    process, machine = owner
    if machine and machine != platform.node():
        return True  # nobody here can tell
    if not process:
        return False  # damaged
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
