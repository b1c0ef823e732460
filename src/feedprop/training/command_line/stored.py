"""What the commands about a run have in common: its configuration, its model, and whether its code may run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feedprop.errors import FeedpropError
from feedprop.training.assembly import Parts, assemble
from feedprop.training.checkpoints import CONFIG, RunFolder
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
    file = Path(run) / CONFIG
    if not file.is_file():
        raise FeedpropError(f"{run} is not a run of feedprop train: it contains no {CONFIG}")
    if not trusted:
        trust.check(read_config(str(file)), file=str(file))
    name = f"{checkpoint}.safetensors"
    trained_in = RunFolder(run).metadata(name).get("working_directory", ".") if (Path(run) / name).is_file() else "."
    search_in(*((trained_in, ".") if trusted else ()))
    return _as_trained(configure([], {"config": [str(file)], **data}), trained_in, given=data)


def _as_trained(config: Config, folder: str, *, given: Options) -> Config:
    """Return the configuration with its data where it was in training, unless a place is given."""
    data = config.components["data"]
    root = data.arguments.get("root")
    if given or not isinstance(root, str) or not (found := Path(folder) / root).exists():
        return config
    components = {**config.components, "data": replace(data, arguments={**data.arguments, "root": str(found)})}
    return replace(config, components=components)


def batch_size(given: int | None, config: Config) -> int:
    size = config.settings.batch_size if given is None else given
    if size < 1:
        raise FeedpropError(f"--batch_size must be at least 1, but is {size}")
    return size


def restored(run: str, config: Config, checkpoint: str) -> Parts:
    """Return the parts of a run, with the model as the checkpoint has it."""
    folder, name = RunFolder(run), f"{checkpoint}.safetensors"
    metadata = folder.metadata(name)
    scale = (
        Normalisation(tuple(metadata["target_mean"]), tuple(metadata["target_deviation"]))
        if "target_mean" in metadata
        else None
    )
    normalisation = Normalisation(tuple(metadata["mean"]), tuple(metadata["deviation"]))
    parts = assemble(config, normalisation=normalisation, scale=scale)
    folder.restore(name, parts.model)
    return parts


def _normalisation(metadata: Mapping[str, Any], of: str = "") -> Normalisation:
    return Normalisation(tuple(metadata[f"{of}mean"]), tuple(metadata[f"{of}deviation"]))
