"""A folder with small data of each kind, for commands to run in."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from faults.trials import ROOT


def mnist() -> str | None:
    """Return the folder of fetched data if MNIST is there."""
    root = Path(os.environ.get("FEEDPROP_DATA", ROOT / "data"))
    return str(root) if (root / "MNIST").is_dir() else None


def furnish(folder: Path) -> None:
    """Put the folders images and series into a folder."""
    for name in ("images", "series"):
        (folder / name).symlink_to(_data() / name)


@cache
def _data() -> Path:
    base = Path(tempfile.mkdtemp(prefix="faults-"))
    write_images(base / "images")
    write_series(base / "series")
    return base


def write_images(folder: Path, *, classes: tuple[str, ...] = ("dark", "bright"), count: int = 12) -> None:
    """Write grey images of noise, 16x16, whose brightness tells the class."""
    numbers = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = numbers.integers(0, 100, (16, 16, 3)) + 150 * label // max(len(classes) - 1, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")


def write_series(folder: Path, *, cases: int = 20) -> None:
    """Write Toy: two channels over five steps, of which the first is high or the second."""
    (folder / "timeseries").mkdir(parents=True)
    head = "@problemName Toy\n@classLabel true up down\n@data\n"
    rows = [",".join([value] * 5) for value in ("1.5", "0.1")]
    lines = [f"{rows[case % 2]}:{rows[1 - case % 2]}:{('up', 'down')[case % 2]}" for case in range(cases)]
    for part in ("TRAIN", "TEST"):
        (folder / f"timeseries/Toy_{part}.ts").write_text(head + "\n".join(lines) + "\n")


def remove_data() -> None:
    """Remove what `furnish` made."""
    if _data.cache_info().currsize:
        shutil.rmtree(_data())
        _data.cache_clear()
