"""What the files of a run hold, as the report takes it; reading them runs nobody's code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import feedprop
from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import CONFIG, CURVES, LAYERS, METRICS, RESULTS, SAMPLES
from feedprop.training.command_line.components import KINDS
from feedprop.training.command_line.config import read_config

Row = Mapping[str, Any]


@dataclass(frozen=True)
class StoredRun:
    """A run as its folder has it.

    Args:
        path: the folder
        options: of config.yaml, {"model.name": "lenet", "epochs": 3}
        rows: one for each epoch
        layers: rows of the log of the layers
        results: as in results.json; nothing if the run has not ended
        samples: as in samples.json
        pruning: as in pruning.json
    """

    path: Path
    options: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    results: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    pruning: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> StoredRun:
        """Read the folder of a run, which may have been stopped or be going on.

        Raises:
            FeedpropError: it is no run, or a file in it is damaged.
        """
        path = Path(folder)
        if not (path / CONFIG).is_file():
            raise FeedpropError(f"{folder} is not a run of feedprop train: it contains no {CONFIG}")
        return cls(
            path,
            read_config(str(path / CONFIG)),
            _lines(path / METRICS),
            feedprop.Log.load(path / LAYERS).rows() if (path / LAYERS).is_file() else [],
            _whole(path / RESULTS),
            _whole(path / SAMPLES),
            _whole(path / CURVES),
        )

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def method(self) -> str:
        return str(self.options.get("method", "lfp"))

    @property
    def title(self) -> str:
        """The run in a few words."""
        names = (str(self.options.get(f"{kind}.name", kind)).rpartition(".")[2] for kind in ("data", "model"))
        return "-".join([*names, self.method]).lower()

    @property
    def ended(self) -> bool:
        return bool(self.results)

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in self.results.get("classes") or ()]

    @property
    def warnings(self) -> list[str]:
        """What was said while the run went on."""
        said = self.results.get("warnings") if self.ended else [w for row in self.rows for w in row.get("warnings", ())]
        return [str(sentence) for sentence in said or ()]

    @property
    def remarks(self) -> list[str]:
        """What is wrong in the layers, in words."""
        return list(self.results["remarks"]) if self.ended else feedprop.Log(self.layers).remarks()

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in self.options.items() if key.partition(".")[0] not in KINDS}

    def components(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return kind, name and arguments of each component."""
        return [
            (
                kind,
                str(self.options[f"{kind}.name"]),
                {
                    key.partition(".")[2]: value
                    for key, value in self.options.items()
                    if key.startswith(f"{kind}.") and key != f"{kind}.name" and value is not None
                },
            )
            for kind in KINDS
            if f"{kind}.name" in self.options
        ]


def _lines(path: Path) -> list[Row]:
    """Return the rows of a file with one JSON object per line; none if there is no such file."""
    if not path.is_file():
        return []
    rows = [_parsed(line, path) for line in _text(path).splitlines() if line.strip()]
    return [row for row in rows if row]


def _whole(path: Path) -> Row:
    return _parsed(_text(path), path) if path.is_file() else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is not a text file") from error


def _parsed(text: str, path: Path) -> Row:
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise _damaged(path, f"it holds {type(found).__name__} where keys and values belong")
    return found


def _damaged(path: Path, reason: str) -> FeedpropError:
    return FeedpropError(f"{path} is not what feedprop train wrote: {reason}")
