"""Ctrl-C while the command starts: importing torch takes seconds, and only then can `cli.main` handle it."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType


def _end_quietly() -> None:
    """Let Ctrl-C end the command with one sentence from now on; in any other program, change nothing."""
    here = threading.current_thread() is threading.main_thread()
    if here and _is_the_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def leave_to_the_command() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_the_command() -> bool:
    words = sys.orig_argv
    by_module = {("-m", "feedprop"), ("-m", "feedprop.cli")} & {*itertools.pairwise(words)}
    return bool(by_module) or any(Path(word).name == "feedprop" for word in words[:2])


def _end(number: int, _: FrameType | None) -> None:
    sys.stderr.write("feedprop: interrupted\n")
    sys.stderr.flush()
    os._exit(128 + number)  # what is being imported is left as it is


_end_quietly()
