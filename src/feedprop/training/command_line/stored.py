"""What the commands about a run have in common: its configuration, its model, and whether its code may run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feedprop.errors import FeedpropError
from feedprop.training.assembly import Parts, assemble
from feedprop.training.checkpoints import CONFIG, RunFolder, recover
from feedprop.training.command_line import trust
from feedprop.training.command_line.arguments import Options, configure, read_words
from feedprop.training.command_line.components import search_in
from feedprop.training.command_line.config import Config, read_config
from feedprop.training.command_line.parser import OneSentenceParser
from feedprop.training.data.standardisation import Normalisation


@dataclass(frozen=True)
class Request:
    """What to evaluate or explain: a run, its configuration, and how."""

    run: str
    config: Config
    values: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.values:
            raise AttributeError(name)
        return self.values[name]


def parse_run(argv: Sequence[str], command: str, settings: type, flag: str, about: str) -> Request:
    """Return what the command line asks about a run. Code from elsewhere runs only with --trust."""
    arguments, given = read_words(argv, flags=(flag,))
    data = {key: given.pop(key) for key in [*given] if key.startswith("data.")}
    parser = OneSentenceParser(prog=f"feedprop {command}", usage=f"feedprop {command} RUN [options]")
    parser.add_argument("run", type=str, metavar="RUN", help="folder that feedprop train wrote")
    parser.add_class_arguments(settings, None)
    parser.add_argument(f"--{flag}", action="store_true", help=about)
    add_trust(parser)
    parser.add_argument(
        "--data", type=str, metavar="NAME", help="other data, with its options, such as --data.root DIR"
    )
    values = parser.read(arguments, given)
    run, trusted = values.pop("run"), values.pop("trust")
    return Request(run, read_run(run, values["checkpoint"], data, trusted=trusted), values)


def add_trust(parser: OneSentenceParser) -> None:
    parser.add_argument(
        "--trust", action="store_true", help="let the configuration of the run import code of any package or folder"
    )


def read_run(run: str, checkpoint: str, data: Options, *, trusted: bool) -> Config:
    """Return the configuration of a run, with other data if any is given."""
    if not os.path.lexists(run):
        recover(Path(run))  # a run that was being replaced when its process was killed
    file = Path(run) / CONFIG
    if not file.is_file():
        raise FeedpropError(f"{run} is not a run of feedprop train: it contains no {CONFIG}")
    if not trusted:
        trust.check(read_config(str(file)), file=str(file))
    name = f"{checkpoint}.safetensors"
    trained_in = _trained_in(RunFolder(run), name)
    search_in(*((trained_in, ".") if trusted else ()))
    return as_trained(configure([], {"config": [str(file)], **data}), trained_in, given=data)


def _trained_in(folder: RunFolder, name: str) -> str:
    """Return the working directory in which a checkpoint was written; the present one if it does not say."""
    found = folder.metadata(name).get("working_directory") if (folder.path / name).is_file() else None
    return found if isinstance(found, str) and "\0" not in found else "."


def _normalisation(folder: RunFolder, name: str, metadata: Mapping[str, Any], of: str = "") -> Normalisation:
    """Return how the inputs of a checkpoint's model were normalised, or with "target_" its targets."""
    mean, deviation = metadata.get(f"{of}mean"), metadata.get(f"{of}deviation")
    for values in (mean, deviation):
        if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
            raise FeedpropError(f"{folder.path / name} does not say how data is normalised: {of}mean and {of}deviation")
    assert isinstance(mean, list)
    assert isinstance(deviation, list)
    if len(mean) != len(deviation) or not all(map(math.isfinite, [*mean, *deviation])) or 0 in deviation:
        raise FeedpropError(f"{folder.path / name} is damaged: data cannot be normalised by {mean} and {deviation}")
    return Normalisation(tuple(mean), tuple(deviation))


def _vocabulary(folder: RunFolder, name: str, metadata: Mapping[str, Any]) -> list[str] | None:
    """Return the name of each token that a checkpoint's model was trained with; None if its data was no text."""
    found = metadata.get("vocabulary")
    if found is not None and not (isinstance(found, list) and all(isinstance(word, str) for word in found)):
        raise FeedpropError(f"{folder.path / name} is damaged: its vocabulary is no list of words")
    return found


def as_trained(config: Config, folder: str, *, given: Options) -> Config:
    """Return the configuration with its files where they were in training; of data, unless other data is given."""
    components = dict(config.components)
    for place in trust.PLACES:
        kind, _, name = place.partition(".")
        value = components[kind].arguments.get(name)
        if isinstance(value, str) and not (given and kind == "data") and (found := Path(folder) / value).exists():
            arguments = {**components[kind].arguments, name: str(found)}
            components[kind] = replace(components[kind], arguments=arguments)
    return replace(config, components=components)


def batch_size(given: int | None, config: Config) -> int:
    size = config.settings.batch_size if given is None else given
    if size < 1:
        raise FeedpropError(f"--batch_size must be at least 1, but is {size}")
    return size


def restored(run: str, config: Config, checkpoint: str) -> Parts:
    """Return the parts of a run, with the model as the checkpoint has it."""
    parts = assembled(run, config, checkpoint)
    RunFolder(run).restore(f"{checkpoint}.safetensors", parts.model)
    return parts


def assembled(run: str, config: Config, checkpoint: str) -> Parts:
    """Return the parts of a run as a checkpoint needs them; the model has initial weights."""
    folder, name = RunFolder(run), f"{checkpoint}.safetensors"
    metadata = folder.metadata(name)
    scale = _normalisation(folder, name, metadata, of="target_") if "target_mean" in metadata else None
    vocabulary = _vocabulary(folder, name, metadata)
    parts = assemble(config, normalisation=_normalisation(folder, name, metadata), scale=scale, vocabulary=vocabulary)
    if parts.data.tokens is not None and vocabulary is None:
        raise FeedpropError(f"{folder.path / name} does not say which tokens the ids of texts stand for")
    return parts
