"""From the words after `feedprop train`, `evaluate`, `explain` or `prune` to a configuration.

Words and configuration files become options, {"model.name": "lenet", "epochs": "3"}. The names among them decide which
options a parser of jsonargparse has, and that parser checks and converts all values at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import CONFIG, RESULTS, RunFolder
from feedprop.training.command_line import trust
from feedprop.training.command_line.components import KINDS, Component, resolve, search_in
from feedprop.training.command_line.config import Config, Settings, read_config
from feedprop.training.command_line.defaults import DEFAULT_MODEL, default_options
from feedprop.training.command_line.parser import OneSentenceParser, add_component

DESCRIPTION = """Train a network by Layer-wise Feedback Propagation, or by backprop for comparison.

Without options: digits, a small MLP, 20 epochs. Every component is given by a short name or an import path and takes
its own options after a dot; --help lists those of the components named in the same command, as in
feedprop train --model torchvision.models.resnet18 --help."""
FLAGS = ("help", "overwrite", "json", "trust", "evaluate")  # options without a value
OPTIONAL = "resume"  # the option that may have one
Options = dict[str, Any]


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of an evaluation.

    Args:
        checkpoint: the best model, as chosen on validation data, that of the last epoch, or what feedprop prune wrote
        split: part of the data
        batch_size: samples at a time; as in training unless given
        device: auto, cpu, cuda, cuda:1, mps
    """

    checkpoint: Literal["best", "last", "pruned"] = "best"
    split: Literal["train", "validation", "test"] = "test"
    batch_size: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class PruneSettings:
    """Settings of pruning.

    Args:
        amount: share of the weights that are 0 in the pruned model that is written
        importance: what decides which weights go, in that model; best is the one with the highest accuracy
        scope: whether weights of all layers are compared, or this share of each layer goes
        beside: another run on the same data, drawn beside this one
        checkpoint: the best model, as chosen on validation data, or that of the last epoch
        samples: training samples that relevance and feedback are summed over, rounded up to whole batches
        batch_size: samples at a time; as in training unless given
        device: auto, cpu, cuda, cuda:1, mps
    """

    amount: float = 0.9
    importance: Literal["best", "magnitude", "relevance", "feedback"] = "best"
    scope: Literal["global", "layer"] = "global"
    beside: str | None = None
    checkpoint: Literal["best", "last"] = "best"
    samples: int = 1000
    batch_size: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class ExplainSettings:
    """Settings of an explanation.

    Args:
        checkpoint: the best model, as chosen on validation data, or that of the last epoch
        split: part of the data
        number: how many samples, the first ones
        composite: the rules, a preset by its name
        device: auto, cpu, cuda, cuda:1, mps
    """

    checkpoint: Literal["best", "last"] = "best"
    split: Literal["train", "validation", "test"] = "test"
    number: int = 12
    composite: str = "epsilon_plus"
    device: str = "auto"


@dataclass(frozen=True)
class PruneRequest:
    """What to prune: a run, how, and the configurations of that run and of the one beside it, by their folders."""

    run: str
    settings: PruneSettings
    configs: Mapping[str, Config]


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


def parse_train(argv: Sequence[str], *, command: str = "train") -> Config:
    """Return the configuration that the command line and its --config files describe."""
    search_in(".")
    return _configure(*_read_words(argv), command=command)


def parse_resume(argv: Sequence[str]) -> tuple[Config, RunFolder] | None:
    """Return the configuration and the folder of the run to go on with; None if the words do not ask for that."""
    arguments, given = _read_words(argv)
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
    return _configure([], {"config": [file]}), folder


def _last_unfinished() -> Path:
    """Return the run in runs/ that was stopped last."""
    found = [
        (folder.states()[0].stat().st_mtime, path)
        for path in Path("runs").glob("*")
        if (folder := RunFolder(path)).states() and not (path / RESULTS).exists()
    ]
    if not found:
        raise FeedpropError("--resume: there is no run in runs/ that was stopped; name its folder")
    return max(found)[1]


def parse_evaluate(argv: Sequence[str]) -> Request:
    """Return what the command line asks to evaluate."""
    request = _parse_run(argv, "evaluate", EvaluateSettings, "json", "print JSON instead of a table")
    return replace(request, values={**request.values, "batch_size": _batch_size(request.batch_size, request.config)})


def parse_explain(argv: Sequence[str]) -> Request:
    """Return what the command line asks to explain."""
    about = "print how good the heatmaps are: areas between deletion curves"
    request = _parse_run(argv, "explain", ExplainSettings, "evaluate", about)
    if request.number < 1:
        raise FeedpropError(f"--number must be at least 1, but is {request.number}")
    return request


def _parse_run(argv: Sequence[str], command: str, settings: type, flag: str, about: str) -> Request:
    """Return what the command line asks about a run. Code from elsewhere runs only with --trust."""
    arguments, given = _read_words(argv)
    data = {key: given.pop(key) for key in [*given] if key.startswith("data.")}
    parser = OneSentenceParser(prog=f"feedprop {command}", usage=f"feedprop {command} RUN [options]")
    parser.add_argument("run", type=str, metavar="RUN", help="folder that feedprop train wrote")
    parser.add_class_arguments(settings, None)
    parser.add_argument(f"--{flag}", action="store_true", help=about)
    _add_trust(parser)
    parser.add_argument(
        "--data", type=str, metavar="NAME", help="other data, with its options, such as --data.root DIR"
    )
    values = parser.read(arguments, given)
    run, trusted = values.pop("run"), values.pop("trust")
    return Request(run, _read_run(run, values["checkpoint"], data, trusted=trusted), values)


def _add_trust(parser: OneSentenceParser) -> None:
    parser.add_argument(
        "--trust", action="store_true", help="let the configuration of the run import code of any package or folder"
    )


def _read_run(run: str, checkpoint: str, data: Options, *, trusted: bool) -> Config:
    """Return the configuration of a run, with other data if any is given."""
    file = Path(run) / CONFIG
    if not file.is_file():
        raise FeedpropError(f"{run} is not a run of feedprop train: it contains no {CONFIG}")
    if not trusted:
        trust.check(read_config(str(file)), file=str(file))
    name = f"{checkpoint}.safetensors"
    trained_in = RunFolder(run).metadata(name).get("working_directory", ".") if (Path(run) / name).is_file() else "."
    search_in(*((trained_in, ".") if trusted else ()))
    return _as_trained(_configure([], {"config": [str(file)], **data}), trained_in, given=data)


def _batch_size(given: int | None, config: Config) -> int:
    size = config.settings.batch_size if given is None else given
    if size < 1:
        raise FeedpropError(f"--batch_size must be at least 1, but is {size}")
    return size


def parse_prune(argv: Sequence[str]) -> PruneRequest:
    """Return what the command line asks to prune. Code from elsewhere runs only with --trust."""
    arguments, given = _read_words(argv)
    parser = OneSentenceParser(prog="feedprop prune", usage="feedprop prune RUN [options]")
    parser.add_argument("run", type=str, metavar="RUN", help="folder that feedprop train wrote")
    parser.add_class_arguments(PruneSettings, None)
    _add_trust(parser)
    values = parser.read(arguments, given)
    run, trusted = values.pop("run"), values.pop("trust")
    settings = PruneSettings(**values)
    if not 0 <= settings.amount < 1:
        raise FeedpropError(f"--amount is a share of the weights, from 0 to less than 1, but is {settings.amount:g}")
    if settings.samples < 1:
        raise FeedpropError(f"--samples must be at least 1, but is {settings.samples}")
    runs = [run, *([settings.beside] if settings.beside is not None else [])]
    configs = {run: _read_run(run, settings.checkpoint, {}, trusted=trusted) for run in runs}
    datas = [config.components["data"].name for config in configs.values()]
    if len({*datas}) > 1:
        raise FeedpropError(
            f"--beside compares runs on the same data, but {runs[0]} has {datas[0]} and {runs[1]} {datas[1]}"
        )
    _batch_size(settings.batch_size, configs[runs[0]])
    return PruneRequest(run, settings, configs)


def _as_trained(config: Config, folder: str, *, given: Options) -> Config:
    """Return the configuration with its data where it was in training, unless a place is given."""
    data = config.components["data"]
    root = data.arguments.get("root")
    if given or not isinstance(root, str) or not (found := Path(folder) / root).exists():
        return config
    components = {**config.components, "data": replace(data, arguments={**data.arguments, "root": str(found)})}
    return replace(config, components=components)


def _read_words(argv: Sequence[str]) -> tuple[list[str], Options]:
    """Return the words that belong to no option, and the options; --config may be given several times."""
    arguments: list[str] = []
    options: Options = {}
    words = deque("--help" if word == "-h" else word for word in argv)
    while words:
        word = words.popleft()
        if not word.startswith("--"):
            arguments.append(word)
            continue
        key, equals, text = word.removeprefix("--").partition("=")
        lone = key in FLAGS or (key == OPTIONAL and not (words and not words[0].startswith("--")))
        value = text if equals else True if lone else words.popleft() if words else "--"
        if not equals and str(value).startswith("--"):
            raise FeedpropError(f"--{key} needs a value")
        if key == "config":
            options.setdefault(key, []).append(value)
        else:
            options[f"{key}.name" if key in KINDS else key] = value
    return arguments, options


def _configure(arguments: Sequence[str], given: Options, *, command: str = "train") -> Config:
    """Return the configuration that the options, the files they name and the defaults add up to."""
    layers = [*map(read_config, given.pop("config", ())), given]
    settled = {key: value for layer in layers for key, value in layer.items()}  # the last one wins
    method = settled.get("method", Settings.method)
    defaults = default_options(
        settled.get("model.name", DEFAULT_MODEL), method=method, reward=settled.get("reward.name")
    )
    kinds = [kind for kind in KINDS if f"{kind}.name" in defaults]
    foreign = [kind for kind in KINDS if kind not in kinds]
    for kind in map(_kind, given):
        if kind in foreign:
            other = "backprop" if method == "lfp" else "lfp"
            raise FeedpropError(f"--{kind} belongs to --method {other}, but the method is {method}")
    options = reduce(_overlay, layers, defaults)
    parser = OneSentenceParser(
        prog=f"feedprop {command}", description=DESCRIPTION, usage=f"feedprop {command} [options]"
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file with any of these options")
    parser.add_class_arguments(Settings, None, skip={"overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the output folder")
    if command == "train":
        parser.add_argument("--resume", metavar="[RUN]", help="go on with a run that was stopped")
        parser.add_argument("--trust", action="store_true", help="with --resume, let the run import code of any folder")
    for kind in kinds:
        add_component(parser, kind, options[f"{kind}.name"], named=f"{kind}.name" in settled)
    same = {kind for kind in kinds if _same(kind, options[f"{kind}.name"], defaults[f"{kind}.name"])}
    parser.set_defaults({key: value for key, value in defaults.items() if _kind(key) in same})
    values = parser.read(arguments, {key: value for key, value in options.items() if _kind(key) not in foreign})
    for key in ("config", "resume", "trust"):
        values.pop(key, None)
    parts = {kind: values.pop(kind) for kind in kinds}
    for name in _cycled(parts):
        if f"optimizer.{name}" in settled:
            raise FeedpropError(
                f"--scheduler.cycle_momentum true sets the momentum, from --scheduler.base_momentum to max_momentum; "
                f"leave out --optimizer.{name} or --scheduler.cycle_momentum"
            )
        del parts["optimizer"][name]  # config.yaml says what is used
    components = {kind: Component(kind, part.pop("name"), part) for kind, part in parts.items()}
    return Config(Settings(**values), components)


def _cycled(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return which option of the optimizer is its momentum, if the schedule sets that."""
    cycles = parts["scheduler"].get("cycle_momentum", False)
    return [name for name in ("momentum", "betas") if cycles and name in parts["optimizer"]]


def _kind(option: str) -> str:
    return option.partition(".")[0]


def _same(kind: str, first: str, second: str) -> bool:
    """Whether two names, such as SGD and torch.optim.SGD, stand for the same component."""
    return first == second or resolve(kind, first) is resolve(kind, second)


def _overlay(first: Options, second: Options) -> Options:
    """Return both; the second wins, and another component does not inherit the options of the one it replaces."""
    replaced = tuple(
        f"{kind}."
        for kind in KINDS
        if (name := f"{kind}.name") in first and name in second and not _same(kind, first[name], second[name])
    )
    return {**{key: value for key, value in first.items() if not key.startswith(replaced)}, **second}
