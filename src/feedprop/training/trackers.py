"""Experiment trackers by name, through accelerate: TensorBoard, Weights & Biases, MLflow, trackio, or one's own."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import (  # type: ignore[import-untyped]  # accelerate ships no types
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import TENSORBOARD
from feedprop.training.command_line.components import import_path, nearest
from feedprop.training.command_line.config import Config
from feedprop.training.histograms import Histogram

CLASSES = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandBTracker,
    "mlflow": MLflowTracker,
    "trackio": TrackioTracker,
}
PROJECT = "feedprop"
_OFFLINE = {
    "wandb": "; WANDB_MODE=offline keeps the logs in a folder",
    "mlflow": "; MLFLOW_TRACKING_URI says where the logs go",
}


class Trackers:
    """The trackers of a run.

    Args:
        text: their names, with commas between; "none" for none

    Raises:
        FeedpropError: a tracker is unknown, or not installed.
    """

    def __init__(self, text: str = "none") -> None:
        self._classes = dict(_find(text))
        self._open: dict[str, Any] = {}
        self._resumed = False
        self._complaints: list[str] = []  # of trackers that failed
        self.ids: dict[str, str] = {}  # under which a tracker knows the run, to go on with it

    @property
    def takes_histograms(self) -> bool:
        return bool({"tensorboard", "wandb", "trackio"} & self._classes.keys())

    def start(self, config: Config, folder: Path, *, resumed: bool) -> None:
        """Start all trackers but TensorBoard, whose files must wait until the folder is settled.

        Args:
            config: of the run
            folder: of the run
            resumed: whether the run goes on: TensorBoard forgets what was logged after the state

        Raises:
            FeedpropError: a tracker cannot start.
        """
        self._resumed = resumed
        for name, make in self._classes.items():
            if name == "tensorboard":
                continue
            try:
                tracker = make(**_arguments(name, make, folder, self.ids.get(name)))
                self._begin(name, tracker)
                if not resumed:
                    tracker.store_init_configuration(flat(config))
            except Exception as error:  # of any tracker
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise FeedpropError(
                    f"--tracker {name} cannot start: {reason.rstrip('.')}{_OFFLINE.get(name, '')}"
                ) from error
            if name == "wandb":
                self.ids[name] = tracker.tracker.id
            elif name == "mlflow":
                self.ids[name] = tracker.tracker.info.run_id

    def log(
        self,
        config: Config,
        folder: Path,
        row: Mapping[str, Any],
        histograms: Mapping[str, Histogram],
    ) -> None:
        """Log the figures of an epoch.

        Args:
            config: of the run
            folder: of the run
            row: as in metrics.jsonl
            histograms: by name
        """
        step = row["step"]
        if "tensorboard" in self._classes and "tensorboard" not in self._open:
            tracker = TensorBoardTracker(TENSORBOARD, str(folder), purge_step=step if self._resumed else None)
            self._begin("tensorboard", tracker)
            _describe(tracker.writer, flat(config), score=[*row["validation"]][-1])
        values = {f"{key}/{part}": value for part in ("train", "validation") for key, value in row[part].items()}
        values |= {"learning_rate": row["learning_rate"], **row.get("updates", {})}
        for name, tracker in [*self._open.items()]:
            with self._tolerant(name):
                tracker.log(values, step=step)
                _log_histograms(name, tracker, histograms, step=step)

    def show(self, draw: Callable[[], Any], *, step: int) -> None:
        """Log a picture with trackers that take pictures.

        Args:
            draw: returns the pixels, (height, width, 3) of uint8
            step: of the optimizer
        """
        taking = [name for name, tracker in self._open.items() if name in CLASSES or hasattr(tracker, "log_images")]
        pixels = draw() if taking else None
        for name in taking:
            with self._tolerant(name):
                _log_image(name, self._open[name], pixels, step=step)

    @contextlib.contextmanager
    def _tolerant(self, name: str) -> Iterator[None]:
        """Close a tracker that fails, such as one whose server is down: it should not end the training."""
        try:
            yield
        except Exception as error:  # of any tracker
            if name == "tensorboard":
                raise  # the disk is full: the run's own files are there too
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            self._complaints.append(f"--tracker {name} failed and is left out from now on: {reason}")
            self._open.pop(name, None)

    def take_complaints(self) -> list[str]:
        """Return what is wrong with trackers since the last call, in sentences."""
        said, self._complaints = self._complaints, []
        return said

    def finish(self) -> None:
        """Close all trackers."""
        while self._open:
            name, tracker = self._open.popitem()
            with self._tolerant(name):
                tracker.finish()

    def _begin(self, name: str, tracker: Any) -> None:
        if hasattr(tracker, "start"):  # accelerate's earlier trackers start when they are made
            tracker.start()
        self._open[name] = tracker


def _find(text: str) -> Iterator[tuple[str, type]]:
    """Return name and class of each tracker that a text names."""
    for name in filter(None, map(str.strip, text.split(","))):
        if name == "none":
            continue
        if name in CLASSES:
            if importlib.util.find_spec(name) is None:
                raise FeedpropError(f"--tracker {name}: {name} is not installed; pip install {name}")
            yield name, CLASSES[name]
        elif "." in name:
            found = import_path(name, option="--tracker")
            if not inspect.isclass(found) or not issubclass(found, GeneralTracker):
                raise FeedpropError(f"--tracker {name} is no subclass of accelerate.tracking.GeneralTracker")
            yield name, found
        else:
            known = [*CLASSES, "none"]
            hint = nearest(name, known) or f"; known are {', '.join(known)}, or the import path of a tracker"
            raise FeedpropError(f"--tracker: unknown tracker {name!r}{hint}")


def _arguments(name: str, make: Any, folder: Path, id: str | None) -> dict[str, Any]:
    """Return what a tracker is made with; an id if it is to go on with a run."""
    title = folder.name.removesuffix(".new")
    if name == "wandb":
        again = {} if id is None else {"id": id, "resume": "allow"}
        return {"run_name": os.environ.get("WANDB_PROJECT", PROJECT), "name": title, **again}
    if name == "mlflow":
        return {"experiment_name": PROJECT, "run_name": title, "run_id": id}
    if name == "trackio":
        return {"run_name": PROJECT, "name": title, "resume": "allow"}
    return {"run_name": title, **({"logging_dir": str(folder)} if make.requires_logging_directory else {})}


def flat(config: Config) -> dict[str, Any]:
    """Return the configuration as {"optimizer.lr": 0.1}, with numbers, booleans and text alone."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in config.flat().items()
    }


def _describe(writer: Any, options: Mapping[str, Any], *, score: str) -> None:
    """Write hyperparameters into the log itself, where accelerate would add a folder for them."""
    from torch.utils.tensorboard.summary import hparams

    for part in hparams(dict(options), {f"{score}/validation": 0.0}):  # type: ignore[no-untyped-call]
        writer.file_writer.add_summary(part)


def _log_histograms(name: str, tracker: Any, histograms: Mapping[str, Histogram], *, step: int) -> None:
    if name == "tensorboard":
        for key, found in histograms.items():
            tracker.writer.add_histogram_raw(
                key,
                min=found.edges[0],
                max=found.edges[-1],
                num=sum(found.counts),
                sum=found.total,
                sum_squares=found.squares,
                bucket_limits=found.edges[1:],
                bucket_counts=found.counts,
                global_step=step,
            )
        tracker.writer.flush()
    elif name in ("wandb", "trackio") and histograms:
        make = importlib.import_module(name).Histogram
        pairs = {key: (np.array(found.counts), np.array(found.edges)) for key, found in histograms.items()}
        tracker.log({key: make(np_histogram=pair) for key, pair in pairs.items()}, step=step)


def _log_image(name: str, tracker: Any, pixels: Any, *, step: int) -> None:
    if name == "tensorboard":
        tracker.log_images({"report": pixels[None]}, step=step, dataformats="NHWC")
    elif name == "mlflow":
        importlib.import_module(name).log_image(pixels, "report.png")
    elif name == "trackio":
        tracker.log({"report": importlib.import_module(name).Image(pixels)}, step=step)
    else:
        tracker.log_images({"report": [pixels]}, step=step)
