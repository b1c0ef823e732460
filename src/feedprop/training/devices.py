"""Devices and mixed precision, through accelerate."""

from __future__ import annotations

import atexit
import re

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]  # accelerate ships no types
from accelerate.state import AcceleratorState, GradientState  # type: ignore[import-untyped]  # as above
from torch import distributed

from feedprop.errors import FeedpropError
from feedprop.training.command_line.config import Precision


def make_accelerator(device: str, *, precision: Precision = "no", accumulate: int = 1) -> Accelerator:
    """Return an accelerator for the device; auto takes the best there is."""
    _check(device)
    kind, _, number = device.partition(":")
    joined = distributed.is_available() and distributed.is_initialized()  # a group that the caller leaves
    # accelerate keeps its first settings until the process ends; a second run needs its own
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if kind == "cuda" and number:
        torch.cuda.set_device(int(number))
    try:
        accelerator = Accelerator(
            cpu=kind == "cpu",
            mixed_precision=precision,
            gradient_accumulation_steps=accumulate,
            step_scheduler_with_optimizer=False,
        )
    except (ValueError, ImportError) as error:
        raise FeedpropError(f"--precision {precision} does not work on this device: {error}") from error
    if not joined and accelerator.num_processes > 1:
        atexit.register(accelerator.state.destroy_process_group)  # with its threads running, the exit may abort
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise FeedpropError("--precision fp16 needs a GPU; on a CPU write bf16 or no")
    return accelerator


def _check(device: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", device):
        raise FeedpropError(f"--device must be auto, cpu, cuda, cuda:NUMBER or mps, but is {device}")
    kind, _, number = device.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise FeedpropError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise FeedpropError("--device mps: there is no such device")
