"""The command evaluate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from feedprop.training.checkpoints import finite
from feedprop.training.command_line.stored import Request, batch_size, parse_run, restored
from feedprop.training.data.splits import loader
from feedprop.training.devices import make_accelerator
from feedprop.training.evaluation import Evaluation, evaluate
from feedprop.training.tasks import MultiLabel, Regression, Task


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


def evaluate_command(argv: Sequence[str]) -> None:
    request = _parse(argv)
    accelerator = make_accelerator(request.device)
    parts = restored(request.run, request.config, request.checkpoint)
    found = evaluate(
        parts.model.to(accelerator.device),
        loader(parts.data[request.split], batch_size=request.batch_size, workers=request.config.settings.workers),
        objective=parts.objective,
        device=accelerator.device,
    )
    if request.json:
        facts = {"run": request.run, "checkpoint": request.checkpoint, "split": request.split}
        print(json.dumps(finite({**facts, **found.as_dict(parts.objective.name), "classes": parts.data.classes})))
    else:
        _print(request, found, name=parts.objective.name, task=parts.data.task)


def _parse(argv: Sequence[str]) -> Request:
    """Return what the command line asks to evaluate."""
    request = parse_run(argv, "evaluate", EvaluateSettings, "json", "print JSON instead of a table")
    return replace(request, values={**request.values, "batch_size": batch_size(request.batch_size, request.config)})


def _print(request: Request, found: Evaluation, *, name: str, task: Task) -> None:
    """Print the figures of each output and of all, and the other figures below."""
    console = Console(highlight=False, markup=False)  # names may have brackets
    data = request.config.components["data"].name
    table = Table(title=f"{request.run}, {request.checkpoint} model, {request.split} data of {data}", box=box.SIMPLE)
    columns, rows, last, rest = _table(found, task)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows if len(rows) <= 20 else []:
        table.add_row(*row)
    table.add_section()
    table.add_row(*last, style="bold")
    console.print(table)
    losses = "".join(f"{key.replace('_', ' ')} {value:.4f}   " for key, value in found.losses.items())
    console.print(f"{losses}mean {name} {found.objective:+.4f}{rest}", soft_wrap=True)


def _table(found: Evaluation, task: Task) -> tuple[list[str], list[list[str]], list[str], str]:
    """Return the columns, a row for each output, the row of all, and what else there is to say."""
    figures = found.figures
    if isinstance(task, Regression):
        rows = [[name, f"{error:.4g}"] for name, error in zip(task.outputs, figures["mae"], strict=True)]
        return ["", "mean absolute error"], rows, ["R2", f"{found.score:.4f}"], ""
    if isinstance(task, MultiLabel):
        rows = [[name, f"{value:.4f}"] for name, value in zip(task.outputs, figures["per_label"], strict=True)]
        return ["", "F1"], rows, ["mean", f"{found.score:.4f}"], f"   accuracy {figures['accuracy']:.4f}"
    counts = [sum(row) for row in figures["confusion"]]
    rows = [
        [word, str(count), f"{row[label] / count:.4f}" if count else ""]
        for label, (row, count, word) in enumerate(zip(figures["confusion"], counts, task.outputs, strict=True))
    ]
    last = ["all", str(sum(counts)), f"{found.score:.4f}"]
    return ["", "samples", "accuracy"], rows, last, f"   macro F1 {figures['f1']:.4f}"
