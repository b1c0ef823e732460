"""The folder of a run: files are written whole, checkpoints as safetensors, and nothing is overwritten unless asked."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from feedprop.errors import FeedpropError
from feedprop.training import locks
from feedprop.training.state import checksum, unpack

CONFIG, METRICS, RESULTS, REPORT = "config.yaml", "metrics.jsonl", "results.json", "report.html"
LAYERS = "layers.jsonl"
SAMPLES = "samples.json"  # what the report shows of single test samples
TABLE = "metrics.csv"
BEST, LAST = "best.safetensors", "last.safetensors"
PRUNED, CURVES, CURVES_PLOT = "pruned.safetensors", "pruning.json", "pruning.svg"
TENSORBOARD = "tensorboard"
NAN = "nan.safetensors"  # the batch at which a run met NaN
EXPLAINED = "explained.html"  # of feedprop explain
STATES = f"state-{9 * '[0-9]'}.safetensors"  # the whole state of a run after so many steps
OWN_FILES = (CONFIG, METRICS, TABLE, LAYERS, SAMPLES, RESULTS, REPORT, EXPLAINED, BEST, LAST)
OTHER_FILES = (NAN, PRUNED, CURVES, CURVES_PLOT)  # of a run that met NaN, and of feedprop prune
CHECKSUM = "checksum"  # key of a checkpoint's metadata, which holds that of its weights
LOCK, NEW, OLD = ".running", ".new", ".old"


class RunFolder:
    """The folder that a run writes to.

    `claim` makes it, so that no other run has it. If it replaces an earlier run, it is written beside that run, in a
    folder whose name ends in .new, until `settle` puts it in the other's place. Whenever a process is killed, the
    earlier run or the new one is there as a whole; the next `choose` removes what is left over.
    """

    def __init__(self, path: str | Path, *, replaces: str | Path | None = None, title: str = "") -> None:
        self.path = Path(path)
        self.replaces = None if replaces is None else Path(replaces)
        self.title = title  # of folders that `claim` numbers
        self._made = False

    @classmethod
    def choose(cls, output: str | None, *, title: str, overwrite: bool) -> RunFolder:
        """Return the given folder, or one in runs/ that `claim` numbers; write nothing yet."""
        if output is None:
            return cls(Path("runs"), title=title)
        path = Path(output)
        if os.path.lexists(path) and not path.is_dir():
            raise FeedpropError(f"--output {output} is a file; name a folder")
        recover(path)
        if path.is_dir() and any(not entry.name.startswith(LOCK) for entry in path.iterdir()):
            if not overwrite:
                raise FeedpropError(f"the folder {output} is not empty; name another --output or add --overwrite")
            if not (path / CONFIG).is_file():
                raise FeedpropError(
                    f"--overwrite replaces a run, but {output} contains no {CONFIG}; name another --output"
                )
            if Path.cwd().resolve().is_relative_to(path.resolve()):
                raise FeedpropError(f"--overwrite cannot replace {output}, the folder that the command runs in")
            return cls(_beside(path, NEW), replaces=path.resolve())
        return cls(path)

    @classmethod
    def reopen(cls, path: str | Path) -> RunFolder:
        """Return the folder of a run that was stopped."""
        found = Path(path)
        recover(found)
        if not (found / CONFIG).is_file():
            raise FeedpropError(f"{path} is not a run of feedprop train: it contains no {CONFIG}")
        if not cls(found).unfinished:
            raise FeedpropError(f"the run {path} is finished; there is nothing to resume")
        return cls(found)

    def latest_state(self) -> tuple[Any, list[str]]:
        """Return the last state that can be read, and what is wrong with later ones.

        Raises:
            FeedpropError: there is none.
        """
        damaged: list[str] = []
        for path in self.states():
            try:
                return unpack(path), damaged
            except FeedpropError as error:
                damaged.append(str(error))
        raise FeedpropError("; ".join([*damaged, f"{self.path} has no state to resume from; start the run anew"]))

    @property
    def unfinished(self) -> bool:
        """Whether there is something left to do: the states are removed last."""
        return bool(self.states()) or not (self.path / RESULTS).is_file()

    @property
    def unsaved(self) -> bool:
        """Whether no state was written and no second epoch finished, so that nothing is lost by beginning anew."""
        kept = [name for name in (BEST, LAST) if (self.path / name).is_file()]
        return not self.states() and all(self.metadata(name).get("epoch") == 1 for name in kept)

    @property
    def name(self) -> Path:
        """Where the run will be."""
        return self.path if self.replaces is None else self.replaces

    def claim(self) -> None:
        """Make the folder, or take an empty one, for this process alone; check that it is writable."""
        self._made = bool(self.title) or not self.path.exists()
        try:
            if self.title:
                self.path = make_numbered(self.path, self.title)
            if self.replaces is not None:
                locks.take(self.replaces / LOCK)
            self.path.mkdir(parents=True, exist_ok=True)
            locks.take(self.path / LOCK)
        except OSError as error:
            raise FeedpropError(f"cannot write to the folder {self.name}: {error.strerror or error}") from error

    def release(self) -> None:
        """Let other runs have the folder; remove it if it was made for nothing."""
        for folder in (self.replaces, self.path):
            if folder is not None:
                locks.release(folder / LOCK)
        if self._made:
            with contextlib.suppress(OSError):  # something was written
                self.path.rmdir()
                if self.title:
                    self.path.parent.rmdir()

    def settle(self, *, main: bool) -> None:
        """Let the run replace the one that was there; files there that are no run's stay.

        Args:
            main: whether this process moves the folders; all processes must call this.
        """
        if self.replaces is None:
            return
        if main:
            old = _beside(self.replaces, OLD)
            self.replaces.rename(old)
            self.path.rename(self.replaces)
            with contextlib.suppress(OSError):  # the next run tries again
                _remove(old, rescue_to=self.replaces)
        self.path, self.replaces = self.replaces, None

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
        self.write(name, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Write the metrics, one epoch per line."""
        self.write(METRICS, "".join(json.dumps(finite(row), allow_nan=False) + "\n" for row in rows))

    def save(self, name: str, model: nn.Module, *, metadata: Mapping[str, Any]) -> None:
        """Save the model's state, with metadata that JSON can hold."""
        state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        facts = {**metadata, CHECKSUM: checksum(state)}
        self.write(name, save(state, metadata={key: json.dumps(value) for key, value in facts.items()}))

    def save_state(self, step: int, content: bytes, *, keep: int) -> None:
        """Write the state after a step, and remove all but the last ones."""
        self.write(f"state-{step:09d}.safetensors", content)
        for path in self.states()[keep:]:
            path.unlink()

    def states(self) -> list[Path]:
        """The files of states, the last one first."""
        return sorted(self.path.glob(STATES), reverse=True)

    def remove_states(self) -> None:
        """Remove all states, the last one last."""
        for path in reversed(self.states()):
            path.unlink(missing_ok=True)

    def results(self) -> dict[str, Any]:
        """Return the final figures of a run that has ended."""
        found: dict[str, Any] = json.loads((self.path / RESULTS).read_text())
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of each epoch so far."""
        return [json.loads(line) for line in (self.path / METRICS).read_text().splitlines()]

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the metadata of a checkpoint, without reading its weights."""
        with self._opened(name) as (_, metadata):
            return {key: value for key, value in metadata.items() if key != CHECKSUM}

    def restore(self, name: str, model: nn.Module) -> None:
        """Load a checkpoint into the model; refuse one of another architecture, or with NaN or infinite weights."""
        state = self._read(name)
        own = model.state_dict()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
        if missing or unknown or shapes:
            raise FeedpropError(f"{self.path / name} belongs to another architecture: {_difference(own, state)}")
        for key, value in own.items():
            if value.is_floating_point() != state[key].is_floating_point():
                raise FeedpropError(f"{self.path / name} is damaged: {key} is {state[key].dtype}, not {value.dtype}")
        for key, _ in model.named_parameters():
            if key in state and not state[key].isfinite().all():
                raise FeedpropError(f"{self.path / name} holds NaN or infinity in {key}; name another --checkpoint")
        model.load_state_dict(state)

    def _read(self, name: str) -> dict[str, Tensor]:
        """Return the weights of a checkpoint, as they were written."""
        with self._opened(name) as (file, metadata):
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        if metadata.get(CHECKSUM) not in (None, checksum(state)):
            raise FeedpropError(f"{self.path / name} is damaged: its weights are not those that were written")
        return state

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Open a checkpoint, and yield it with its metadata."""
        path = self.path / name
        if not path.is_file():
            remedy = "feedprop prune writes it" if name == PRUNED else "name the folder of a run"
            raise FeedpropError(f"{self.path} contains no checkpoint {name}; {remedy}")
        try:
            with safe_open(path, framework="pt") as file:
                yield file, {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise FeedpropError(f"{path} is not a checkpoint of feedprop train: {error}") from error


def finite(content: Any) -> Any:
    """Return content for JSON, which knows no NaN and no infinity: they become null."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


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


def make_numbered(base: Path, title: str) -> Path:
    """Make base/title-NNN, numbered after the largest number there; of several processes, each gets its own."""
    base.mkdir(parents=True, exist_ok=True)
    while True:
        taken = (entry.name.rpartition("-")[2] for entry in base.glob(f"{title}-*"))
        path = base / f"{title}-{max((int(number) for number in taken if number.isdigit()), default=0) + 1:03d}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path


def _beside(path: Path, ending: str) -> Path:
    try:
        whole = path.resolve()
    except RuntimeError:  # links that lead to each other
        whole = path.absolute()
    return whole.with_name(whole.name + ending)


def recover(path: Path) -> None:
    """Finish or undo what a killed run began: files written in part, a folder that was about to replace `path`."""
    old, new = _beside(path, OLD), _beside(path, NEW)
    if locks.held(path / LOCK) or locks.held(old / LOCK):
        return  # by a run that is about to do so itself
    place = path if os.path.lexists(path) else old
    if place.is_dir():
        left = [entry.name for entry in place.iterdir() if _begun(entry.name) or _is_lock(entry.name)]
        if not (left or old.is_dir() or new.is_dir()):
            return
        try:
            locks.take(place / LOCK)
        except (FeedpropError, OSError):
            return  # another process does so now, or nothing here can be changed
        if place == old:
            old.rename(path)
        elif old.is_dir():
            _remove(old, rescue_to=path)
        for name in filter(_begun, left):
            (path / name).unlink(missing_ok=True)
    if new.is_dir() and not locks.held(new / LOCK):
        _remove(new, rescue_to=None)
    locks.tidy(path / LOCK)


def _written(name: str) -> bool:
    """Whether a run writes a file of this name."""
    return name in (*OWN_FILES, *OTHER_FILES) or fnmatch.fnmatch(name, STATES)


def _begun(name: str) -> bool:
    """Whether this is a temporary file of `RunFolder.write`."""
    return name.startswith(".") and _written(name[1:].rpartition(".")[0])


def _is_lock(name: str) -> bool:
    """Whether this is a lock, or what a process wrote while it took it."""
    return name == LOCK or name.removeprefix(f"{LOCK}.").isdigit()


def _remove(folder: Path, *, rescue_to: Path | None) -> None:
    """Remove a run, whose own files are known; move other files to another folder, or leave them."""
    for entry in folder.iterdir():
        own = _written(entry.name) or _begun(entry.name) or entry.name == TENSORBOARD or _is_lock(entry.name)
        if own and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif own:
            entry.unlink(missing_ok=True)
        elif rescue_to is not None:
            entry.rename(rescue_to / entry.name)
    with contextlib.suppress(OSError):  # a file of the user's
        folder.rmdir()
