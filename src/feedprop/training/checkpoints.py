"""The folder of a run: files are written whole, checkpoints as safetensors, and nothing is overwritten unless asked."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from feedprop.errors import FeedpropError

CONFIG, METRICS, RESULTS, REPORT = "config.yaml", "metrics.jsonl", "results.json", "report.html"
BEST, LAST = "best.safetensors", "last.safetensors"
TENSORBOARD = "tensorboard"
EXPLAINED = "explained.html"  # of feedprop explain
OWN_FILES = (CONFIG, METRICS, RESULTS, REPORT, EXPLAINED, BEST, LAST)


class RunFolder:
    """The folder that a run writes to; `claim` makes it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def choose(cls, output: str | None, *, title: str, overwrite: bool) -> RunFolder:
        """Return the given folder, or the next numbered one in runs/; write nothing yet."""
        if output is None:
            return cls(_numbered(Path("runs"), title))
        path = Path(output)
        if path.exists() and not path.is_dir():
            raise FeedpropError(f"--output {output} is a file; name a folder")
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise FeedpropError(f"the folder {output} is not empty; name another --output or add --overwrite")
            if not (path / CONFIG).is_file():
                raise FeedpropError(
                    f"--overwrite replaces a run, but {output} contains no {CONFIG}; name another --output"
                )
        return cls(path)

    def clear(self) -> None:
        """Remove what an earlier run wrote there, and nothing else."""
        for name in OWN_FILES:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)

    def claim(self) -> None:
        """Make the folder and check that it is writable."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write(".writable", b"")
            (self.path / ".writable").unlink()
        except OSError as error:
            raise FeedpropError(f"cannot write to the folder {self.path}: {error.strerror or error}") from error

    def write(self, name: str, content: bytes | str) -> None:
        """Write the whole file or, if that fails, leave the old one."""
        data = content.encode() if isinstance(content, str) else content
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def write_json(self, name: str, content: Any) -> None:
        self.write(name, json.dumps(content, indent=2) + "\n")

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Write the metrics, one epoch per line."""
        self.write(METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def save(self, name: str, model: nn.Module, *, metadata: Mapping[str, Any]) -> None:
        """Save the model's state, with metadata that JSON can hold."""
        state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        self.write(name, save(state, metadata={key: json.dumps(value) for key, value in metadata.items()}))

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the metadata of a checkpoint."""
        return self._read(name)[1]

    def restore(self, name: str, model: nn.Module) -> None:
        """Load a checkpoint into the model; refuse one of another architecture."""
        state, _ = self._read(name)
        own = model.state_dict()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
        if missing or unknown or shapes:
            raise FeedpropError(f"{self.path / name} belongs to another architecture: {_difference(own, state)}")
        model.load_state_dict(state)

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        path = self.path / name
        if not path.is_file():
            raise FeedpropError(f"{self.path} contains no checkpoint {name}; name the folder of a run")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
                return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118  # no mapping
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise FeedpropError(f"{path} is not a checkpoint of feedprop train: {error}") from error


def _difference(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Name the first entry in which the model and the checkpoint differ."""
    for key in [*own, *state]:
        if key not in state:
            return f"it has no {key}, which the model has"
        if key not in own:
            return f"it has {key}, which the model lacks"
        if own[key].shape != state[key].shape:
            return f"{key} has shape {tuple(state[key].shape)}, but {tuple(own[key].shape)} in the model"
    return "nothing differs"


def _numbered(base: Path, title: str) -> Path:
    """Return base/title-NNN, numbered after the largest number there."""
    taken = (entry.name.rpartition("-")[2] for entry in base.glob(f"{title}-*"))
    return base / f"{title}-{max((int(number) for number in taken if number.isdigit()), default=0) + 1:03d}"
