"""The command compare."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]  # accelerate ships no types
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

import feedprop
from feedprop.errors import FeedpropError
from feedprop.training.assembly import assemble, attach, make_optimizer, prepare_method
from feedprop.training.checkpoints import RunFolder
from feedprop.training.command_line.arguments import Options, read_words
from feedprop.training.command_line.compared import described, entries, numbers
from feedprop.training.command_line.components import KINDS, nearest, search_in
from feedprop.training.command_line.config import Settings
from feedprop.training.command_line.parser import OneSentenceParser
from feedprop.training.comparison.conduct import TESTED, TUNING, Outcomes, Step, conduct
from feedprop.training.comparison.crew import working
from feedprop.training.comparison.findings import RUN_COLUMNS, find, remarks, seeds_in_words
from feedprop.training.comparison.plan import PLAN, Plan
from feedprop.training.comparison.work import Outcome, read
from feedprop.training.report.comparison import write_comparison
from feedprop.training.report.figures import as_csv

JSON, CSV, REPORT, LOG = "comparison.json", "runs.csv", "report.html", "processes.log"

DESCRIPTION = """Compare methods on the same data, initial weights and order of samples. Each method tries as many
learning rates as the others, on validation data and a seed of its own; then each seed is trained with the best rate and
tested once. All options of feedprop train hold for all methods, such as --data, --model, --epochs and --optimizer.

A method is a word, and takes options of its own after a colon: lfp:rule=presets.sparse,optimizer=Adam. It may also be
given in a YAML file, --methods FILE: a name for each method, and under it what a configuration file has.

A comparison that was stopped goes on if the same command is given again."""


@dataclass(frozen=True)
class CompareSettings:
    """Settings of a comparison.

    Args:
        methods: what is compared, separated by commas, or a YAML file
        seeds: of the runs that are tested, separated by commas
        learning_rates: what is tried, separated by commas; a tenth, 0.3, 1 and 3 times the optimizer's default unless
            given
        tuning_seed: of the runs that choose the learning rate; must not be one of the seeds
        reference: the method that the others are compared with; the first one unless given
        jobs: runs at the same time, with one thread each; as many as there are processors unless given, and 1 on a GPU
        output: folder of the comparison; runs/compare-DATA-MODEL unless given
    """

    methods: str = "lfp,backprop,feedback_alignment,direct_feedback_alignment,sign_symmetric,last_layer"
    seeds: str = "0,1,2"
    learning_rates: str | None = None
    tuning_seed: int = 1000
    reference: str | None = None
    jobs: int | None = None
    output: str | None = None


def compare_command(argv: Sequence[str]) -> None:
    """Make all runs of a comparison that were not made yet, and write its report."""
    search_in(".")
    settings, plan, overwrite = parse_compare(argv)
    jobs = min(_jobs(settings, plan), plan.runs)
    _check_all(plan)
    folder = _folder(settings, plan, overwrite=overwrite)
    folder.claim()
    command = shlex.join(["feedprop", "compare", *argv])
    console = Console(highlight=False, soft_wrap=True)
    try:
        plan.check_same(folder.path)
        most = max(jobs, _made_at_a_time(folder))
        said = f"{len(plan.entries)} methods, {plan.runs} runs, {jobs} at a time; writing to {folder.path}"
        console.print(said, markup=False)

        def after(step: Step, made: Outcome, outcomes: Outcomes) -> None:
            done = f"{len(outcomes):>{len(str(plan.runs))}}/{plan.runs}"
            console.print(f"{done}  {step.name}: {_said(step, made)}", markup=False)
            if step.job.tested:
                _write(folder, plan, outcomes, jobs=most, command=command)

        try:
            with working(jobs, folder.path / LOG) as crew:
                outcomes = conduct(plan, folder.path, crew, command=command, after=after)
        except KeyboardInterrupt as error:
            stopped = KeyboardInterrupt(*error.args)  # without a note about feedprop train --resume
            stopped.add_note(f"{folder.path} keeps what was done; the same command goes on from there")
            raise stopped from None
        found = _write(folder, plan, outcomes, jobs=most, command=command)
    finally:
        folder.release()
    _print(found, console)
    console.print(f"report: {folder.path / REPORT}", markup=False)
    failed = [sentence for row in found["methods"] for sentence in row["failed"]]
    if failed:
        raise FeedpropError(
            f"{len(failed)} of {plan.runs} runs failed, and the same command tries them again; {failed[0]}"
        )


def parse_compare(argv: Sequence[str]) -> tuple[CompareSettings, Plan, bool]:
    """Return what the command line asks for, and whether an earlier comparison is replaced."""
    arguments, given = read_words(argv)
    parser = OneSentenceParser(
        prog="feedprop compare", description=DESCRIPTION, usage="feedprop compare [options of train] [options]"
    )
    parser.add_class_arguments(CompareSettings, None)
    parser.add_argument("--overwrite", action="store_true", help="replace the comparison that is in the output folder")
    own = {field.name for field in fields(CompareSettings)} | {"overwrite", "help"}
    values = parser.read([], {key: given.pop(key) for key in [*given] if key in own})
    overwrite = values.pop("overwrite")
    settings = CompareSettings(**values)
    if settings.jobs is not None and settings.jobs < 1:
        raise FeedpropError(f"--jobs must be at least 1, but is {settings.jobs}")
    _refuse(given)
    methods = described(settings.methods)
    plan = Plan(
        entries(methods, arguments, given, numbers("learning_rates", settings.learning_rates, float)),
        tuple(numbers("seeds", settings.seeds, int) or ()),
        settings.tuning_seed,
        settings.reference if settings.reference is not None else next(iter(methods)),
    )
    if not plan.seeds:
        raise FeedpropError("--seeds needs at least one seed")
    return settings, plan, overwrite


def _refuse(given: Options) -> None:
    """Refuse options of train that mean something else here."""
    instead = {
        "method": "name the methods by --methods",
        "seed": "name the seeds by --seeds",
        "optimizer.lr": "the learning rate is chosen among --learning_rates",
        "scheduler.max_lr": "the learning rate is chosen among --learning_rates",
        "resume": "a comparison that was stopped goes on if the same command is given again",
        "trust": "it is for runs of others",
    }
    known = {field.name for field in fields(Settings)} | {*KINDS, "config"}
    for key in given:
        if key in instead:
            raise FeedpropError(f"feedprop compare takes no --{key}: {instead[key]}")
        if key.partition(".")[0] not in known:
            hint = nearest(key, [field.name for field in fields(CompareSettings)] + [*known])
            raise FeedpropError(f"unknown option --{key}{hint or '; feedprop compare --help lists the options'}")


def _jobs(settings: CompareSettings, plan: Plan) -> int:
    """Return how many runs to make at a time."""
    if settings.jobs is not None:
        return settings.jobs
    device = plan.entries[0].config.settings.device
    if device != "cpu" and (torch.accelerator.is_available() or device != "auto"):
        return 1
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _check_all(plan: Plan) -> None:
    """Make data and model of each method once, before hours of runs: all must fit, and begin with the same weights."""
    first: Mapping[str, Tensor] = {}
    for entry in plan.entries:
        config = entry.of(seed=plan.tuning_seed, rate=entry.rates[0])
        set_seed(plan.tuning_seed)
        try:
            parts = assemble(config)
            state = {name: value.clone() for name, value in parts.model.state_dict().items()}
            prepare_method(config, parts, torch.device("cpu"))
            make_optimizer(config, parts.model)
            attach(config, parts.model)
            if config.settings.method == "lfp":
                feedprop.detach(parts.model)
        except FeedpropError as error:
            raise FeedpropError(f"{error} (method {entry.label})") from error
        first = first or state
        if not all(torch.equal(value, first[name]) for name, value in state.items()):
            raise FeedpropError(
                f"--model {config.components['model'].name} begins with other weights when it is made again with the "
                f"same seed, so methods cannot be compared; draw them from torch's random numbers"
            )


def _folder(settings: CompareSettings, plan: Plan, *, overwrite: bool) -> RunFolder:
    """Return the folder of the comparison; empty it if that was asked for, and refuse one with anything else in it."""
    config = plan.entries[0].config
    names = [config.components[kind].name.rpartition(".")[2].lower() for kind in ("data", "model")]
    path = Path(settings.output if settings.output is not None else "runs/" + "-".join(["compare", *names]))
    if path.exists() and not path.is_dir():
        raise FeedpropError(f"--output {path} is a file; name a folder")
    folder = RunFolder(path)
    if not path.is_dir() or all(entry.name.startswith(".") for entry in path.iterdir()):
        return folder
    if not (path / PLAN).is_file():
        raise FeedpropError(f"the folder {path} is not empty and holds no comparison; name another --output")
    if overwrite:
        folder.claim()  # nobody else writes to it
        for name in (TUNING, TESTED):
            shutil.rmtree(path / name, ignore_errors=True)
        for name in (PLAN, JSON, CSV, REPORT, LOG):
            (path / name).unlink(missing_ok=True)
        folder.release()
    return folder


def _made_at_a_time(folder: RunFolder) -> int:
    """Return how many runs were made at a time before, which their times depend on."""
    file = folder.path / JSON
    return int(json.loads(file.read_text())["jobs"]) if file.is_file() else 1


def _said(step: Step, made: Outcome) -> str:
    if made.state != "done":
        return made.sentence if made.state == "failed" else f"diverged; {made.sentence}"
    found = read(step.job)
    score = found["score"]
    test = f"test {score} {_four(found['test'][score])}, " if step.job.tested else ""
    seconds = sum(row["seconds"] for row in found["rows"])
    chance = ", no better than chance" if found["at_chance"] else ""
    return f"{test}validation {score} {_four(found['validation'][score])}, {seconds:.0f} s{chance}"


def _four(value: float | None) -> str:
    """Return a figure with four digits; in JSON, there is no NaN."""
    return "nan" if value is None else f"{value:.4f}"


def _write(folder: RunFolder, plan: Plan, outcomes: Outcomes, *, jobs: int, command: str) -> dict[str, Any]:
    """Write what was found so far, and return it."""
    found = find(plan, outcomes, folder.path) | {"jobs": jobs, "command": command}
    folder.write_json(JSON, found)
    folder.write(CSV, as_csv(found["runs"], RUN_COLUMNS))
    folder.write(REPORT, write_comparison(plan, found))
    return found


def _print(found: Mapping[str, Any], console: Console) -> None:
    table = Table(
        title=f"test {found['score']}; difference to {found['reference']}", title_justify="left", box=box.SIMPLE
    )
    headings = ["method", "learning rate", "mean", "95 % interval", "difference", "95 % interval"]
    loss = str(found["loss"] or "loss").replace("_", " ")
    for heading in (*headings, loss, "seeds"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "method" else "right")
    for row in found["methods"]:
        test, difference = row["test"], row["difference"]
        table.add_row(
            row["label"],
            "none" if row["learning_rate"] is None else f"{row['learning_rate']:g}",
            *_mean_and_interval(test, ""),
            *_mean_and_interval(difference, "+"),
            "" if row["loss"] is None else f"{row['loss']['mean']:.4f}",
            seeds_in_words(row),
        )
    wide = Console(file=console.file, highlight=False, width=max(console.width, 200))  # the table as wide as it is
    wide.print(table, crop=False, overflow="ignore", no_wrap=True)
    for sentence in (sentence for row in found["methods"] for sentence in remarks(row)):
        console.print(sentence, markup=False)


def _mean_and_interval(found: Mapping[str, Any] | None, sign: str) -> tuple[str, str]:
    if found is None:
        return "", ""
    if found["low"] is None:
        return f"{found['mean']:{sign}.4f}", ""
    return f"{found['mean']:{sign}.4f}", f"{found['low']:{sign}.4f} to {found['high']:{sign}.4f}"
