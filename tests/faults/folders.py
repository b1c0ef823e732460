"""Damaged and hostile folders of runs, and the commands that are given them."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from faults import configurations
from faults.places import furnish
from faults.trials import Outcome, Trials
from feedprop.training.state import checksum

RUN = "train --data image_folder --data.root images --data.size 8 --model.hidden [8] --epochs 2 --batch_size 8"
STOPPED = """
from feedprop.training import loop
def stop(*_, **__):
    raise KeyboardInterrupt
loop.finish = stop
"""
COMMANDS = (
    "evaluate run",
    "evaluate run --json",
    "evaluate run --checkpoint last --split train",
    "explain run",
    "explain run --evaluate --number 2",
    "prune run --samples 8",
    "train --resume run",
    "prune sound --beside run",
    "train --epochs 1 --data blobs --data.points 60 --output run --overwrite",
    "evaluate run --checkpoint pruned",
)
HOSTILE: list[dict[str, Any]] = [
    {"model": {"name": "os.system", "command": "touch ran"}},
    {"model": {"name": "os.abort"}},
    {"model": {"name": "torch.os.abort"}},
    {"model": {"name": "evil.Net"}},
    {"data": {"name": "evil.data"}},
    {"data": {"name": "images.evil.data"}},
    {"model": {"name": "subprocess.run", "args": "touch ran"}},
    {"model": {"name": "mlp", "activation": "os.abort"}},
    {"model": {"name": "mlp", "activation": "evil.Net"}},
    {"rule": {"name": "Gamma", "gamma": {"class_path": "evil.Net"}}},
    {"scheduler": {"name": "LambdaLR", "lr_lambda": "os._exit"}},
    {"optimizer": {"name": "builtins.exec"}},
    {"reward": {"name": "torch.utils.cpp_extension.load"}},
    {"model": {"name": "torch.hub.load", "repo_or_dir": ".", "model": "Net", "source": "local"}},
    {"model": {"name": "torch.jit.load", "f": "best.safetensors"}},
    {"model": {"name": "torch.load", "f": "best.safetensors"}},
    {"data": {"name": "torchvision.datasets.DatasetFolder", "root": "images"}},
    {"model": {"name": "torch.nn.Module.__init_subclass__"}},
    {"model": {"name": "feedprop.cli.os.abort"}},
    {"model": {"name": "feedprop.cli.main"}},
    {"model": {"name": "run.evil.Net"}},
    {"data": {"name": "image_folder", "root": "/"}},
    {"data": {"name": "image_folder", "root": "/dev"}},
    {"output": "sound", "overwrite": True},
    {"trust": True, "model": "evil.Net"},
    {"config": "sound/config.yaml"},
]


@dataclass(frozen=True)
class Case:
    """A command that is given a folder, what was done to it, and whether it is one that was stopped."""

    words: str
    damage: str
    number: int

    def __str__(self) -> str:
        return f"{self.number}: {self.words}, {self.damage}"


def make_runs(trials: Trials, folder: Path) -> None:
    """Make the runs that are damaged: one that is finished, and one that was stopped."""
    furnish(folder)
    trials([*RUN.split(), "--output", "finished"], folder).done()
    trials(["prune", "finished", "--samples", "8"], folder).done()
    outcome = trials([*RUN.split(), "--output", "stopped"], folder, before=STOPPED)
    assert outcome.code == 130, outcome


def attempt(number: int, trials: Trials, runs: Path, place: Path) -> tuple[Case, Outcome, str | None]:
    """Damage a copy of a run, give it to a command, and return what was lost or executed, if anything."""
    drawn = random.Random(f"folder {number}")
    words = drawn.choice(COMMANDS)
    furnish(place)
    run = place / "run"
    shutil.copytree(runs / ("stopped" if "--resume" in words else "finished"), run)
    shutil.copytree(runs / "finished", place / "sound")
    for folder in (place, run):
        (folder / "evil.py").write_text("import os\nos.mkdir('ran')\nclass Net: pass\ndef data(): pass\n")
    damage = _damage(drawn, run)
    before = _weights(run)
    outcome = trials(words.split(), place)
    lost = [name for name, content in before.items() if _weights(run).get(name) != content]
    fault = None
    if [*place.rglob("ran")]:
        fault = "code of the folder was executed"
    elif lost and (outcome.code != 0 or not words.startswith("train")):
        fault = f"{', '.join(lost)} lost"
    elif _weights(place / "sound").keys() < {"best.safetensors", "last.safetensors"}:
        fault = "another run lost"
    elif hidden := [path.name for path in place.rglob(".*") if path.name != ".running" and "run" not in damage[:4]]:
        fault = f"left behind: {hidden}"
    return Case(words, damage, number), outcome, fault


def _weights(run: Path) -> dict[str, bytes]:
    names = ("best.safetensors", "last.safetensors")
    return {name: _head(run / name) for name in names if run.is_dir() and (run / name).is_file()}


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2**20)


def _damage(drawn: random.Random, run: Path) -> str:
    """Damage a run; return in what way."""
    ways: list[Callable[[random.Random, Path], str]] = [
        _file,
        _file,
        _checkpoint,
        _checkpoint,
        _config,
        _config,
        _folder,
        _lock,
        _hostile,
    ]
    ways += [_state] * 5 * bool([*run.glob("state-*")])
    return drawn.choice(ways)(drawn, run)


def _file(drawn: random.Random, run: Path) -> str:
    names = sorted(path.name for path in run.iterdir() if path.name != "evil.py")
    path = run / drawn.choice([*names, *[name for name in names if name.endswith(("safetensors", "yaml"))]])
    return f"{path.name}: {_spoil(drawn, path)}"


def _spoil(drawn: random.Random, path: Path) -> str:
    content = path.read_bytes() if path.is_file() else b""
    how = drawn.choice(
        [
            "truncated",
            "empty",
            "garbled",
            "noise",
            "gone",
            "folder",
            "fifo",
            "loop",
            "zero",
            "dangling",
            "socket",
            "sparse",
            "text",
            "latin",
            "null",
            "self",
            "full",
            "nested",
            "tail",
        ]
    )
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if how == "truncated":
        path.write_bytes(content[: drawn.randrange(max(len(content), 1))])
    elif how == "empty":
        path.touch()
    elif how == "garbled":
        damaged = bytearray(content)
        for _ in range(min(drawn.choice([1, 10, 100]), len(content))):
            damaged[drawn.randrange(len(damaged))] = drawn.randrange(256)
        path.write_bytes(damaged)
    elif how == "noise":
        path.write_bytes(drawn.randbytes(drawn.choice([7, 8, 9, 1000])))
    elif how == "folder":
        path.mkdir()
        (path / "inside").touch()
    elif how == "fifo":
        os.mkfifo(path)
    elif how in ("loop", "self"):
        path.symlink_to(path.name if how == "self" else path.parent.resolve())
    elif how in ("zero", "full"):
        path.symlink_to(f"/dev/{how}")
    elif how == "dangling":
        path.symlink_to("nowhere")
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(path.parent)  # an address has 107 bytes
            made.bind(path.name)
            os.chdir(here)
    elif how == "sparse":
        path.write_bytes(content)
        os.truncate(path, 2**36)
    elif how != "gone":
        texts = {"text": b"hello\n", "latin": b"caf\xe9: [", "null": b"null", "nested": b"[" * 100000}
        path.write_bytes(texts.get(how, content + b"tail"))
    return how


def _safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  # no mapping


ABSURD: list[Any] = [
    None,
    3,
    -1,
    "x",
    "",
    [],
    [1],
    [None, None, None],
    [1, 2, 3, 4],
    ["a", "b", "c"],
    {},
    {"a": 1},
    float("nan"),
    [float("nan")] * 3,
    [0.0] * 3,
    [1e400] * 3,
    True,
    "/",
    "nowhere",
    "..",
    "a" * 5000,
    "a\0b",
    "\ud800",
    [[1, 2], [3]],
    10**30,
    ["\x1b[31m", "[/x]"],
    [1e308] * 3,
]


def _checkpoint(drawn: random.Random, run: Path) -> str:
    path = run / drawn.choice(["best.safetensors", "last.safetensors"])
    tensors, metadata = _safetensors(path)
    how = drawn.choice(["metadata", "metadata", "metadata", "no metadata", "no JSON", "tensor", "header"])
    if how == "metadata":
        key = drawn.choice(["mean", "deviation", "classes", "working_directory", "epoch"])
        value = drawn.choice(ABSURD)
        metadata[key] = json.dumps(value)
        how = f"{key} is {str(value)[:40]!r}"
    elif how == "no metadata":
        for key in drawn.sample([*metadata], drawn.randint(1, len(metadata))):
            del metadata[key]
    elif how == "no JSON":
        metadata[drawn.choice([*metadata])] = drawn.choice(["", "{", "[" * 100000, "nan", "9" * 10000, "\ud7ff"])
    elif how == "tensor":
        key = drawn.choice([*tensors])
        changes = {
            "NaN": torch.full_like(tensors[key], float("nan")),
            "infinite": torch.full_like(tensors[key], float("inf")),
            "1e38": torch.full_like(tensors[key], 1e38),
            "integer": tensors[key].to(torch.int32),
            "half": tensors[key].half(),
            "complex": tensors[key].to(torch.complex64),
            "scalar": torch.tensor(1.0),
            "empty": torch.zeros(0),
            "flat": tensors[key].flatten(),
            "gone": None,
        }
        how = drawn.choice([*changes])
        changed = changes[how]
        if changed is None:
            del tensors[key]
        else:
            tensors[key] = changed.contiguous()
        how = f"{key} is {how}"
    save_file(tensors, path, metadata=metadata)
    if how == "header":
        content = path.read_bytes()
        size = drawn.choice([0, 1, 2**63, 2**64 - 1, len(content), len(content) * 2, 10**8])
        path.write_bytes(struct.pack("<Q", size) + content[8:])
    return f"{path.name}: {how}"


def _state(drawn: random.Random, run: Path) -> str:
    """Change the plan of the last state, or of all."""
    paths = sorted(run.glob("state-*"), reverse=True)
    key, how = "", drawn.choice(["value", "value", "value", "missing", "plan", "format", "nested", "tensors"])
    for path in paths[: drawn.choice([1, 2])]:
        tensors, metadata = _safetensors(path)
        kind, items = json.loads(metadata["plan"])
        position = drawn.randrange(len(items))
        key = items[position][0][1]
        if how == "value":
            value = drawn.choice([None, -1, 10**12, "x", True, 1.5, float("nan")])
            items[position][1] = drawn.choice(
                [["value", value], ["list", []], ["dict", []], ["tuple", [["value", 1]]], ["tensor", "0"]]
            )
        elif how == "missing":
            del items[position]
        metadata["plan"] = json.dumps([kind, items])
        if how == "plan":
            metadata["plan"] = drawn.choice(
                [
                    "",
                    "3",
                    "null",
                    "[]",
                    '["dict", 3]',
                    '["tensor", "x"]',
                    '["dict", [[["list", []], ["list", []]]]]',
                    '["value", {}]',
                    '["list", [["tensor", []]]]',
                    '["dict", []]',
                    '["value", 3]',
                ]
            )
        elif how == "format":
            metadata["format"] = drawn.choice(["2", "", "one"])
        elif how == "nested":
            metadata["plan"] = '["list", [' * 50000 + "]]" * 50000
        elif how == "tensors":
            number = drawn.choice([*tensors])
            tensors[number] = drawn.choice([torch.zeros(0), torch.zeros(3, 3), torch.ones(1, dtype=torch.uint8)])
        if how != "format":  # as if a run had written it so
            metadata["checksum"] = checksum(tensors, metadata["plan"])
        save_file(tensors, path, metadata=metadata)
    return f"states: {how} {key}"


def _config(drawn: random.Random, run: Path) -> str:
    path = run / "config.yaml"
    how = drawn.choice(["text", "value", "value", "name", "gone", "huge"])
    content = yaml.safe_load(path.read_text())
    if how == "text":
        path.write_bytes(drawn.choice(configurations.TEXTS))
        return f"config.yaml: {path.read_bytes()[:60]!r}"
    if how == "gone":
        key = drawn.choice([*content])
        del content[key]
        how = f"{key} is gone"
    elif how == "huge":
        path.write_text("".join(f"# {number}\n" for number in range(300000)) + path.read_text())
        return "config.yaml: 300000 comments"
    elif how == "name":
        kind = drawn.choice(configurations.KINDS)
        content[kind] = drawn.choice(configurations.NAMES[kind])
        how = f"{kind} is {content[kind]}"
    else:
        key = drawn.choice([*content])
        value = drawn.choice(configurations.VALUES)
        if isinstance(content[key], dict) and drawn.random() < 0.8:
            name = drawn.choice([*content[key]])
            content[key][name] = value
            key = f"{key}.{name}"
        else:
            content[key] = value
        how = f"{key} is {str(value)[:40]!r}"
    path.write_text(yaml.safe_dump(content))
    return f"config.yaml: {how}"


def _hostile(drawn: random.Random, run: Path) -> str:
    path, change = run / "config.yaml", drawn.choice(HOSTILE)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    return f"hostile: {change}"


def _folder(drawn: random.Random, run: Path) -> str:
    how = drawn.choice(
        [
            "file",
            "fifo",
            "loop",
            "gone",
            "new",
            "old",
            "both",
            "link",
            "empty",
            "old-only",
            "tensorboard",
            "config-only",
        ]
    )
    beside = {name: run.with_name(f"run.{name}") for name in ("new", "old")}
    if how in ("file", "fifo", "loop", "gone"):
        shutil.rmtree(run)
        if how == "file":
            run.write_text("")
        elif how == "fifo":
            os.mkfifo(run)
        elif how == "loop":
            run.symlink_to("run")
    elif how in ("new", "both"):
        drawn.choice(
            [
                lambda: beside["new"].mkdir(),
                lambda: beside["new"].write_text("mine"),
                lambda: os.mkfifo(beside["new"]),
                lambda: shutil.copytree(run, beside["new"]),
            ]
        )()
    elif how == "old-only":
        run.rename(beside["old"])
    elif how == "link":
        run.rename(run.with_name("elsewhere"))
        run.symlink_to("elsewhere")
    elif how in ("empty", "config-only"):
        for path in run.iterdir():
            if not (how == "config-only" and path.name == "config.yaml"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif how == "tensorboard":
        shutil.rmtree(run / "tensorboard")
        drawn.choice(
            [
                lambda: (run / "tensorboard").write_text(""),
                lambda: os.mkfifo(run / "tensorboard"),
                lambda: (run / "tensorboard").symlink_to("/"),
            ]
        )()
    if how in ("old", "both"):
        shutil.copytree(run, beside["old"])
    return f"run itself: {how}"


def _lock(drawn: random.Random, run: Path) -> str:
    lock = run / ".running"
    how = drawn.choice(["garbage", "empty", "folder", "fifo", "loop", "elsewhere", "init", "gone", "huge", "binary"])
    if how == "folder":
        lock.mkdir()
    elif how == "fifo":
        os.mkfifo(lock)
    elif how == "loop":
        lock.symlink_to(".running")
    else:
        texts = {
            "garbage": "x",
            "empty": "",
            "elsewhere": "7 elsewhere",
            "init": f"1 {platform.node()}",
            "gone": f"{2**22 + 1} {platform.node()}",
            "huge": f"{10**30} {platform.node()}",
        }
        lock.write_bytes(texts.get(how, "\0\udcff").encode(errors="surrogateescape"))
    return f"lock: {how}"
