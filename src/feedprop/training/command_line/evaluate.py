"""The command evaluate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from feedprop.training.checkpoints import finite
from feedprop.training.command_line.stored import Request, batch_size, parse_run, restored
from feedprop.training.data.splits import loader
from feedprop.training.devices import make_accelerator
from feedprop.training.evaluation import Evaluation, evaluate


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
        classes=len(parts.data.classes),
        device=accelerator.device,
    )
    if request.json:
        facts = {"run": request.run, "checkpoint": request.checkpoint, "split": request.split}
        print(json.dumps(finite({**facts, **found.as_dict(parts.objective.name), "classes": parts.data.classes})))
    else:
        _print(request, found, name=parts.objective.name, classes=parts.data.classes)


def _parse(argv: Sequence[str]) -> Request:
    """Return what the command line asks to evaluate."""
    request = parse_run(argv, "evaluate", EvaluateSettings, "json", "print JSON instead of a table")
    return replace(request, values={**request.values, "batch_size": batch_size(request.batch_size, request.config)})


def _print(request: Request, found: Evaluation, *, name: str, classes: Sequence[str]) -> None:
    """Print the accuracy of each class and of all, and the other figures below."""
    console = Console(highlight=False)
    data = request.config.components["data"].name
    title = Text(f"{request.run}, {request.checkpoint} model, {request.split} data of {data}")
    table = Table(title=title, box=box.SIMPLE)
    table.add_column("")
    table.add_column("samples", justify="right")
    table.add_column("accuracy", justify="right")
    total = sum(map(sum, found.confusion))
    for label, (row, word) in enumerate(zip(found.confusion, classes, strict=True)):
        if len(classes) <= 20:
            table.add_row(Text(word), str(sum(row)), f"{row[label] / sum(row):.4f}" if sum(row) else "")
    table.add_section()
    table.add_row("all", str(total), f"{found.accuracy:.4f}", style="bold")
    console.print(table)
    losses = "".join(f"{key.replace('_', ' ')} {value:.4f}   " for key, value in found.losses.items())
    console.print(
        f"{losses}mean {name} {found.objective:+.4f}   macro F1 {found.f1:.4f}",
        soft_wrap=True,
    )
