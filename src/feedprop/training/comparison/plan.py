"""What is compared: methods with their learning rates, each a configuration, on the same seeds."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import RunFolder, finite
from feedprop.training.command_line.config import Config

PLAN = "plan.json"


@dataclass(frozen=True)
class Entry:
    """A method with its options.

    Args:
        label: its name in the comparison.
        config: of its runs, except for seed and learning rate.
        rates: learning rates that are tried, rising.
    """

    label: str
    config: Config
    rates: tuple[float, ...]

    @property
    def slug(self) -> str:
        """The label as part of the name of a file."""
        return re.sub(r"[^\w.]+", "-", self.label).strip("-").lower()

    def of(self, *, seed: int, rate: float) -> Config:
        """Return the configuration of a run."""
        optimizer = self.config.components["optimizer"]
        changed = dataclasses.replace(optimizer, arguments={**optimizer.arguments, "lr": rate})
        return Config(
            dataclasses.replace(self.config.settings, seed=seed), {**self.config.components, "optimizer": changed}
        )


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Args:
        entries: the methods.
        seeds: of the runs that are tested.
        tuning_seed: of the runs that choose the learning rates.
        reference: the label of the method that the others are compared with.
    """

    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    tuning_seed: int
    reference: str

    def __post_init__(self) -> None:
        labels = [entry.label for entry in self.entries]
        slugs = [entry.slug for entry in self.entries]
        for label, slug in zip(labels, slugs, strict=True):
            if not slug or slugs.count(slug) > 1:
                raise FeedpropError(f"--methods: two methods are named {label}; give each a name of its own in a file")
        for name, values in (("seeds", self.seeds), *(("learning_rates", entry.rates) for entry in self.entries)):
            if len({*values}) != len(values):
                raise FeedpropError(f"--{name} holds the same number twice")
        for seed in (*self.seeds, self.tuning_seed):
            self.entries[0].of(seed=seed, rate=self.entries[0].rates[0])  # seeds have bounds
        if self.tuning_seed in self.seeds:
            raise FeedpropError(
                f"--tuning_seed {self.tuning_seed} is one of --seeds; learning rates must be chosen on another seed"
            )
        if self.reference not in labels:
            raise FeedpropError(f"--reference {self.reference} is none of the methods, {', '.join(labels)}")
        budgets = {entry.label: len(entry.rates) for entry in self.entries}
        if len({*budgets.values()}) > 1:
            listed = ", ".join(f"{count} for {label}" for label, count in budgets.items())
            raise FeedpropError(f"every method must try as many learning rates as the others, but there are {listed}")

    @property
    def runs(self) -> int:
        """How many runs it takes."""
        return sum(len(entry.rates) + len(self.seeds) for entry in self.entries)

    def check_same(self, folder: Path) -> None:
        """Refuse a folder with a comparison of other options; write down what this one adds to it.

        Methods and seeds may be added; what was run stays true.
        """
        mine = {
            "tuning_seed": self.tuning_seed,
            "methods": {entry.label: {"rates": [*entry.rates], **_options(entry.config)} for entry in self.entries},
        }
        mine = json.loads(json.dumps(finite(mine)))
        file = folder / PLAN
        theirs = json.loads(file.read_text()) if file.is_file() else mine
        if theirs["tuning_seed"] != mine["tuning_seed"]:
            raise _another(folder, "tuning_seed", theirs["tuning_seed"], mine["tuning_seed"])
        for label, options in mine["methods"].items():
            if label in theirs["methods"]:
                _compare(folder, theirs["methods"][label], options)
        shared = [_shared(options) for plan in (theirs, mine) for options in plan["methods"].values()]
        _compare(folder, shared[0], shared[-1])
        merged = {**mine, "methods": {**theirs["methods"], **mine["methods"]}}
        if not file.is_file() or merged != theirs:
            RunFolder(folder).write_json(PLAN, merged)


OWN_KINDS = ("rule", "activation", "reward", "loss", "optimizer", "scheduler")  # what a method may have of its own
SHARED_COMPONENTS = ("data", "model")
SHARED_SETTINGS = ("epochs", "batch_size", "validation_fraction", "accumulate", "precision", "device")


def _options(config: Config) -> dict[str, Any]:
    """Return the options of a configuration, {"model.name": "lenet", ...}, that its runs have in common."""
    found = config.flat()
    for key in ("seed", "optimizer.lr", "workers", "checkpoint_every", "keep_checkpoints"):
        found.pop(key, None)
    return {key: value if isinstance(value, int | float | str | None) else str(value) for key, value in found.items()}


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in options.items()
        if key in SHARED_SETTINGS or key.partition(".")[0] in SHARED_COMPONENTS
    }


def _compare(folder: Path, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    for key in {**theirs, **mine}:
        if theirs.get(key) != mine.get(key):
            raise _another(folder, {"rates": "learning_rates"}.get(key, key), theirs.get(key), mine.get(key))


def _another(folder: Path, key: str, theirs: Any, mine: Any) -> FeedpropError:
    return FeedpropError(
        f"{folder} holds a comparison with --{key.removesuffix('.name')} {_text(theirs)}, but now it is {_text(mine)}; "
        f"name another --output or add --overwrite"
    )


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
