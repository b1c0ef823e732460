"""Folders of odd images and classes of odd names."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = [
    "dark",
    "bright",
    "ü",
    "猫",
    "🐈",
    "a b",
    " leading",
    "trailing ",
    "$x$",
    "$\\frac{1}{$",
    "[/x]",
    "[bold]",
    "[red]x",
    "None",
    "null",
    "nan",
    "true",
    "0",
    "-1",
    "1e5",
    "a" * 200,
    "é" * 120,
    "<script>alert(1)</script>",
    "&amp;",
    "%s",
    "{0}",
    "{{ x }}",
    "'",
    '"',
    "\\",
    "a\nb",
    "a\tb",
    "\x1b[31m",
    "*",
    "~",
    "-x",
    "--help",
    "#",
    ":",
    "a:b",
    "a,b",
    "\u202e",
    "\ufeffbom",
    "e\u0301",
    "\udcff",
    "con",
    ".jpg",
    "a.png",
    "train",
    "test",
    "val",
    "__pycache__",
    "_x",
    "$",
    "$$",
    "^_",
    "\\alpha",
    "\r",
    "\x7f",
    "\u2028",
    "\u0627\u0644",
    "A",
    "a",
]
SOUND = ("grey", "colour", "large", "wide", "jpeg", "bmp", "tiff", "webp")
Draw = Callable[[Path, np.random.Generator], None]


def _save(array: np.ndarray, path: Path, mode: str | None = None, **options: object) -> None:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **options)


def _noise(numbers: np.random.Generator, *shape: int, kind: type = np.uint8) -> np.ndarray:
    return numbers.integers(0, np.iinfo(kind).max, shape, endpoint=True).astype(kind)


def _bomb(path: Path, _: np.random.Generator) -> None:
    """A file of a few bytes that says it has 10^10 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 100000, 100000, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def _truncated(path: Path, numbers: np.random.Generator) -> None:
    _save(_noise(numbers, 16, 16, 3), path)
    path.write_bytes(path.read_bytes()[:200])


DRAWINGS: dict[str, Draw] = {
    "grey": lambda path, numbers: _save(_noise(numbers, 16, 16), path),
    "colour": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path),
    "large": lambda path, numbers: _save(_noise(numbers, 300, 400, 3), path),
    "wide": lambda path, numbers: _save(_noise(numbers, 2, 500, 3), path),
    "jpeg": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path.with_suffix(".jpg")),
    "bmp": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path.with_suffix(".bmp")),
    "tiff": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path.with_suffix(".tif")),
    "webp": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path.with_suffix(".webp")),
    "16 bits": lambda path, numbers: _save(_noise(numbers, 16, 16, kind=np.uint16), path),
    "16 bit tiff": lambda path, numbers: _save(_noise(numbers, 16, 16, kind=np.uint16), path.with_suffix(".tif")),
    "32 bit tiff": lambda path, numbers: _save(
        numbers.standard_normal((16, 16)).astype(np.float32), path.with_suffix(".tif")
    ),
    "NaN tiff": lambda path, numbers: _save(np.full((16, 16), np.nan, np.float32), path.with_suffix(".tif")),
    "palette": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path, "P"),
    "palette, transparent": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path, "P", transparency=b"\0\1"),
    "cmyk": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path.with_suffix(".jpg"), "CMYK"),
    "alpha": lambda path, numbers: _save(_noise(numbers, 16, 16, 4), path),
    "grey and alpha": lambda path, numbers: _save(_noise(numbers, 16, 16, 4), path, "LA"),
    "bilevel": lambda path, numbers: _save(_noise(numbers, 16, 16), path, "1"),
    "one pixel": lambda path, numbers: _save(_noise(numbers, 1, 1, 3), path),
    "long": lambda path, numbers: _save(_noise(numbers, 1, 5000), path),
    "constant": lambda path, _: _save(np.zeros((16, 16), np.uint8), path),
    "bomb": _bomb,
    "truncated": _truncated,
    "empty": lambda path, _: path.touch(),
    "text": lambda path, _: path.write_text("not an image\n") and None,
    "gif named png": lambda path, numbers: _save(_noise(numbers, 16, 16), path, format="GIF"),
    "svg": lambda path, _: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>") and None,
    "postscript": lambda path, _: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") and None,
    "folder": lambda path, _: path.mkdir(),
    "dangling": lambda path, _: path.symlink_to("nowhere.png"),
    "loop": lambda path, _: path.symlink_to(path.name),
    "fifo": lambda path, _: __import__("os").mkfifo(path),
    "device": lambda path, _: path.symlink_to("/dev/zero"),
    "hidden": lambda path, numbers: _save(_noise(numbers, 16, 16), path.with_name(f".{path.name}")),
    "upper case": lambda path, numbers: _save(_noise(numbers, 16, 16), path.with_suffix(".PNG")),
    "exif": lambda path, numbers: _save(
        _noise(numbers, 16, 16, 3), path.with_suffix(".jpg"), exif=b"Exif\0\0" + b"\xff" * 100
    ),
    "profile": lambda path, numbers: _save(_noise(numbers, 16, 16, 3), path, icc_profile=b"\xff" * 100),
}
LAYOUTS = (
    "flat",
    "flat",
    "train and test",
    "train and val",
    "train",
    "all three",
    "test only",
    "empty test",
    "other classes in test",
    "fewer in test",
    "one class",
    "no class",
    "files beside",
    "empty class",
    "nested",
    "few",
    "one each",
)


def write(number: int, root: Path) -> str:
    """Write the folder of images number so-and-so, always the same; return what is odd about it."""
    drawn = random.Random(f"pictures {number}")
    numbers = np.random.default_rng(number)
    names = ["dark", "bright"]
    if drawn.random() < 0.6:
        names = drawn.sample(NAMES, drawn.choice([2, 2, 3, 25]))
    kinds = [drawn.choice([*DRAWINGS]) for _ in range(drawn.choice([0, 1, 1, 2]))] if drawn.random() < 0.7 else []
    layout = drawn.choice(LAYOUTS) if drawn.random() < 0.4 else "flat"
    count = {"few": 2, "one each": 1}.get(layout, 6)
    parts = {
        "train and test": ["train", "test"],
        "train and val": ["train", "val"],
        "train": ["train"],
        "all three": ["train", "test", "val"],
        "test only": ["test"],
        "empty test": ["train"],
        "other classes in test": ["train", "test"],
        "fewer in test": ["train", "test"],
    }.get(layout, [""])
    root.mkdir()
    for part in parts:
        used = names[: 1 if layout == "one class" else 0 if layout == "no class" else None]
        if part == "test" and layout in ("other classes in test", "fewer in test"):
            used = ["other", *names[1:]] if layout.startswith("other") else names[:-1]
        for name in used:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                DRAWINGS[SOUND[(index + number) % len(SOUND)]](folder / f"{index}.png", numbers)
    if layout == "empty test":
        (root / "test").mkdir()
    elif layout == "files beside":
        (root / "notes.txt").write_text("mine")
    elif layout == "empty class":
        (root / "void").mkdir()
    elif layout == "nested":
        (root / names[0] / "deeper").mkdir()
        DRAWINGS["grey"](root / names[0] / "deeper" / "x.png", numbers)
    folders = [path for path in sorted(root.rglob("*")) if path.is_dir() and path.name in names]
    for kind in kinds:
        for folder in drawn.sample(folders, 1) if folders else []:
            for index in range(drawn.choice([1, 3])):
                DRAWINGS[kind](folder / f"odd {kind} {index}.png", numbers)
    return f"{number}: {layout}, classes {[name[:20] for name in names[:4]]}, images {kinds}"


WORDS = "train --data image_folder --data.root images --data.size 16 --model.hidden [8] --epochs 1 --batch_size 8"


def words(number: int) -> list[str]:
    """Return the command that trains on folder number so-and-so."""
    drawn = random.Random(f"words {number}")
    more = [
        f"--validation_fraction {drawn.choice([0.1, 0.3])}",
        "--workers 1" if drawn.random() < 0.1 else "",
        drawn.choice(["", "", "--model lenet"]),
        "--output run",
    ]
    text = " ".join([WORDS, *more])
    return (text.replace("--model.hidden [8]", "") if "lenet" in text else text).split()
