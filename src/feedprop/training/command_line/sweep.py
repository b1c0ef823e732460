"""The command sweep."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from feedprop.errors import FeedpropError
from feedprop.training.command_line.arguments import Options, overlay, read_words
from feedprop.training.command_line.components import search_in
from feedprop.training.command_line.config import read_config
from feedprop.training.command_line.parser import OneSentenceParser

ABOUT = """Search for hyperparameters of feedprop train by validation accuracy.

Takes all options of feedprop train, and --space.OPTION for each option that is searched:
--space.optimizer.lr log:1e-3:1 (a range, on a logarithmic scale), --space.model.dropout 0:0.5 (a range),
--space.batch_size 32:256:32 (with steps), --space.model.hidden [64],[128,64] (values)."""


@dataclass(frozen=True)
class SweepSettings:
    """Settings of a sweep.

    Args:
        trials: how many configurations are tried
        jobs: trials that this machine trains at a time, in a process each
        pruner: what ends trials early; median ends those below the median of the others after as many epochs
        sampler: what draws the values; tpe prefers those like the best so far
        storage: URL of a database, postgresql://USER@HOST/NAME, or of a gRPC proxy, grpc://HOST:PORT; a file in the
            folder unless given
        output: folder of the sweep; sweeps/DATA-MODEL-METHOD-NUMBER unless given
        join: folder of a sweep to take trials of, instead of beginning one
        space: YAML file with the options that are searched
    """

    trials: int = 20
    jobs: int = 1
    pruner: Literal["median", "halving", "none"] = "median"
    sampler: Literal["tpe", "random"] = "tpe"
    storage: str | None = None
    output: str | None = None
    join: str | None = None
    space: str | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "jobs"):
            if getattr(self, name) < 1:
                raise FeedpropError(f"--{name} must be at least 1, but is {getattr(self, name)}")


OWN = ("trials", "jobs", "pruner", "sampler", "storage", "output", "join", "trust", "help")


def sweep_command(argv: Sequence[str]) -> None:
    """Begin a sweep, or join one."""
    arguments, given = read_words(argv)
    own = {key: given.pop(key) for key in OWN if key in given}
    parser = OneSentenceParser(
        prog="feedprop sweep",
        description=ABOUT,
        usage="feedprop sweep --space.OPTION VALUES [options]\n       feedprop sweep --join SWEEP [options]",
    )
    parser.add_class_arguments(SweepSettings, None)
    parser.add_argument("--trust", action="store_true", help="with --join, let the sweep import code of any folder")
    values = parser.read(arguments, own)
    trusted = values.pop("trust")
    settings = SweepSettings(**values)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise FeedpropError("each process of a sweep trains its own trials; start feedprop sweep without a launcher")
    try:
        from feedprop.training.sweep import summary, worker
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise FeedpropError("feedprop sweep needs Optuna; pip install 'feedprop[sweep]'") from error
    study = _begin(settings, given) if settings.join is None else _join(settings, own, given, trusted=trusted)
    if settings.jobs > 1:
        worker.work_in_processes(study, settings.jobs, storage=settings.storage)
    else:
        worker.work(study)
    print(summary.in_words(study))


def _begin(settings: SweepSettings, given: Options) -> Any:
    from feedprop.training.sweep.space import Searched, take_space
    from feedprop.training.sweep.study import Plan, Study, without_password

    search_in(".")
    words = take_space(given)
    for option in ("overwrite", "resume"):
        if option in given:
            raise FeedpropError(f"a sweep has no --{option}; name another --output, or go on by --join")
    options: Options = {}
    for layer in [*map(read_config, given.pop("config", ())), given]:
        options = overlay(options, layer)
    searched = Searched(options, words)
    path = _folder(settings.output, searched)
    plan = Plan(
        name=f"{path.name}-{uuid.uuid4().hex[:8]}",
        trials=settings.trials,
        pruner=settings.pruner,
        sampler=settings.sampler,
        storage=None if settings.storage is None else without_password(settings.storage),
        working_directory=os.getcwd(),
        options=options,
        space=words,
    )
    study = Study.begin(path, plan, searched, storage=settings.storage)
    print(f"{settings.trials} trials in {path}; other machines take part by feedprop sweep --join {path}", flush=True)
    return study


def _join(settings: SweepSettings, own: Options, given: Options, *, trusted: bool) -> Any:
    from feedprop.training.sweep.study import Study

    for option in [*given, *(key for key in own if key in ("pruner", "sampler", "output"))]:
        raise FeedpropError(
            f"--join takes part in a sweep as it was configured; leave out --{option.removesuffix('.name')}"
        )
    study = Study.join(str(settings.join), storage=settings.storage, trusted=trusted)
    if "trials" in own and settings.trials != study.plan.trials:
        study.extend(settings.trials)
    return study


def _folder(output: str | None, searched: Any) -> Path:
    """Return the folder of a new sweep."""
    from feedprop.training.checkpoints import make_numbered

    if output is None:
        return make_numbered(Path("sweeps"), searched.first().title)
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise FeedpropError(f"--output {output} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()):
        raise FeedpropError(f"the folder {output} is not empty; name another --output, or go on by --join {output}")
    return path
