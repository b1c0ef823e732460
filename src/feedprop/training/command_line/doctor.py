"""The command doctor: what is installed and what it would take to have more; needs nothing but torch."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from importlib import metadata

import torch

import feedprop
from feedprop.errors import FeedpropError

EXTRAS = {  # of pyproject.toml -> what each is for
    "train": "the command, but for feedprop doctor",
    "inspection": "tables and data frames of feedprop.record",
    "explain": "pictures of relevance",
    "snntorch": "neurons of snnTorch",
    "nir": "spiking networks to and from NIR",
    "prune": "channels, by torch-pruning",
    "models": "the models of docs/models.md",
    "examples": "the examples in examples/",
    "test": "the tests",
}


def doctor_command(argv: Sequence[str]) -> None:
    """Print versions, devices, and which extras are installed."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: feedprop doctor\n\nSay which versions, devices and extras there are.")
        return
    if argv:
        raise FeedpropError(f"feedprop doctor has no options; leave out {argv[0]}")
    print("\n".join(report()))


def report() -> Iterator[str]:
    """Yield the lines."""
    yield f"feedprop {feedprop.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    yield f"{platform.platform(terse=True)}, {platform.machine()}, {os.cpu_count()} cores, torch uses {_threads()}"
    yield f"devices: {', '.join(_devices())}"
    try:
        metadata.requires("feedprop")
    except metadata.PackageNotFoundError:
        yield "feedprop runs from a folder and was not installed, so its extras are unknown"
        return
    width = max(map(len, EXTRAS))
    yield f"{'extra':<{width}}  installed  for"
    for extra, about in EXTRAS.items():
        lacks = list(_wanting(extra, set()))
        yield f"{extra:<{width}}  {'no ' if lacks else 'yes'}        {about}"
        if lacks:
            more = f" and {len(lacks) - 1} more" if len(lacks) > 1 else ""
            yield f"{'':<{width}}  lacks {lacks[0]}{more}: pip install 'feedprop[{extra}]'"


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' * (count > 1)}"


def _devices() -> Iterator[str]:
    yield "cpu"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} ({facts.name}, {facts.total_memory / 2**30:.0f} GiB)"
    if torch.backends.mps.is_available():
        yield "mps"
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield "neither CUDA nor MPS"


def _wanting(extra: str, seen: set[str]) -> Iterator[str]:
    """Yield each package of an extra that is missing or of another release than is needed, as a requirement."""
    seen.add(extra)
    for line in metadata.requires("feedprop") or ():
        requirement, _, condition = line.partition(";")
        if not re.search(rf"""extra\s*==\s*['"]{extra}['"]""", condition):
            continue
        parts = re.fullmatch(r"\s*([\w.-]+)\s*(\[[^]]*\])?\s*\(?(.*?)\)?\s*", requirement)
        if parts is None:
            continue
        name, inner, release = parts.groups()
        if name == "feedprop":
            for other in re.findall(r"[\w-]+", inner or ""):
                if other not in seen:
                    yield from _wanting(other, seen)
        elif not _fits(name, release):
            yield f"{name}{release}"


def _fits(name: str, release: str) -> bool:
    """Whether a package is there in a release that fits limits such as >=1.4,!=1.5."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    limits = re.findall(r"(>=|!=)\s*([\d.]+)", release)
    return all(_numbers(found) >= _numbers(at) if sign == ">=" else found != at for sign, at in limits)


def _numbers(release: str) -> list[int]:
    return [int(part) for part in re.match(r"[\d.]*", release)[0].split(".") if part]  # type: ignore[index]  # matches ""
