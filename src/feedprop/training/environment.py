"""Versions, device and command of a run."""

from __future__ import annotations

import platform
from datetime import datetime
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]  # accelerate ships no types


def describe(accelerator: Accelerator, *, command: str, seconds: float) -> dict[str, Any]:
    """Return what is needed to repeat the run."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "command": command,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "device": f"{device} ({name})",
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "feedprop": version("feedprop"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }
