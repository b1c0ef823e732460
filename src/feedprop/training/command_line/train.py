"""The commands train and check."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import set_seed  # type: ignore[import-untyped]  # accelerate ships no types

import feedprop
from feedprop.errors import FeedpropError
from feedprop.training import loop
from feedprop.training.assembly import assemble, attach
from feedprop.training.checkpoints import CONFIG, RunFolder
from feedprop.training.command_line import trust
from feedprop.training.command_line.arguments import OPTIONAL, configure, parse_train, read_words
from feedprop.training.command_line.components import search_in
from feedprop.training.command_line.config import Config, read_config
from feedprop.training.data.splits import loader
from feedprop.training.models.spiking import firing_neurons

CHECKED = 32  # samples


def train_command(argv: Sequence[str]) -> None:
    config, folder = _parse_resume(argv) or (parse_train(argv), None)
    loop.train(config, command=shlex.join(["feedprop", "train", *argv]), resumed=folder)


def check_command(argv: Sequence[str]) -> None:
    """Check on one batch whether feedprop is right on the model of a configuration."""
    config = parse_train(argv, command="check")
    if config.settings.method != "lfp":
        raise FeedpropError("feedprop check is about --method lfp; leave --method out")
    set_seed(config.settings.seed)
    parts = assemble(config)
    remarks = attach(config, parts.model)
    inputs, targets = next(iter(loader(parts.data["train"], batch_size=CHECKED)))
    classes = None if firing_neurons(parts.model) or targets.is_floating_point() else targets
    found = feedprop.check(parts.model, inputs, classes)
    print("\n".join([*parts.notes, *remarks, str(found)]))


def _parse_resume(argv: Sequence[str]) -> tuple[Config, RunFolder] | None:
    """Return the configuration and the folder of the run to go on with; None if the words do not ask for that."""
    arguments, given = read_words(argv)
    if OPTIONAL not in given or "help" in given:
        return None
    run, trusted = given.pop(OPTIONAL), given.pop("trust", False)
    if arguments or given:
        word = f"--{next(iter(given)).removesuffix('.name')}" if given else arguments[0]
        raise FeedpropError(f"--resume goes on with a run as it was configured; leave out {word}")
    folder = RunFolder.reopen(_last_unfinished() if run is True else run)
    file = str(folder.path / CONFIG)
    if not trusted:
        trust.check(read_config(file), file=file)
    search_in(*((".",) if trusted else ()))
    return configure([], {"config": [file]}), folder


def _last_unfinished() -> Path:
    """Return the run in runs/ that was stopped last."""
    found = [
        (folder.states()[0].stat().st_mtime, path)
        for path in Path("runs").glob("*")
        if (folder := RunFolder(path)).states()
    ]
    if not found:
        raise FeedpropError("--resume: there is no run in runs/ that was stopped; name its folder")
    return max(found)[1]
