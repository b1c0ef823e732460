"""The commands train, check, evaluate and explain."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from accelerate.utils import set_seed  # type: ignore[import-untyped]  # accelerate ships no types
from rich import box
from rich.console import Console
from rich.table import Table

import feedprop
from feedprop.errors import FeedpropError
from feedprop.training import loop
from feedprop.training.assembly import Parts, assemble, attach
from feedprop.training.checkpoints import EXPLAINED, RunFolder, finite
from feedprop.training.command_line.arguments import (
    Request,
    parse_evaluate,
    parse_explain,
    parse_resume,
    parse_train,
)
from feedprop.training.command_line.config import Config
from feedprop.training.data.splits import loader
from feedprop.training.data.standardisation import Normalisation
from feedprop.training.devices import make_accelerator
from feedprop.training.evaluation import Evaluation, evaluate
from feedprop.training.explanation import Explained, preset
from feedprop.training.models.spiking import firing_neurons

CHECKED = 32  # samples


def train_command(argv: Sequence[str]) -> None:
    config, folder = parse_resume(argv) or (parse_train(argv), None)
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
    found = feedprop.check(parts.model, inputs, None if firing_neurons(parts.model) else targets)
    print("\n".join([*parts.notes, *remarks, str(found)]))


def evaluate_command(argv: Sequence[str]) -> None:
    request = parse_evaluate(argv)
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


def restored(run: str, config: Config, checkpoint: str) -> Parts:
    """Return the parts of a run, with the model as the checkpoint has it."""
    folder, name = RunFolder(run), f"{checkpoint}.safetensors"
    metadata = folder.metadata(name)
    parts = assemble(config, normalisation=Normalisation(tuple(metadata["mean"]), tuple(metadata["deviation"])))
    folder.restore(name, parts.model)
    return parts


def explain_command(argv: Sequence[str]) -> None:
    """Write a page of heatmaps to the folder of a run, and print how good they are if asked to."""
    request = parse_explain(argv)
    composite = preset(request.composite).replace(conserving=True)
    parts = restored(request.run, request.config, request.checkpoint)
    device = make_accelerator(request.device).device
    inputs, labels = next(iter(loader(parts.data[request.split], batch_size=request.number)))
    found = Explained(parts.model.to(device).eval(), inputs.to(device), composite)
    facts = {"run": request.run, "model": request.checkpoint, "data": request.split, "rules": request.composite}
    folder = RunFolder(request.run)
    folder.write(
        EXPLAINED, found.page(title=request.config.title, labels=labels, classes=parts.data.classes, facts=facts)
    )
    console = Console(highlight=False)
    console.print(f"{len(labels)} images explained: {folder.path / EXPLAINED}", soft_wrap=True)
    if request.evaluate:
        table = Table(title="area between the deletion curves, in units of the output", box=box.SIMPLE)
        table.add_column("")
        for column in ("mean", "lowest", "highest"):
            table.add_column(column, justify="right")
        for name, curves in found.deletions().items():
            area = curves.area
            table.add_row(name, *(f"{float(value):.3f}" for value in (area.mean(), area.min(), area.max())))
        console.print(table)


def _print(request: Request, found: Evaluation, *, name: str, classes: Sequence[str]) -> None:
    """Print the accuracy of each class and of all, and the other figures below."""
    console = Console(highlight=False)
    data = request.config.components["data"].name
    table = Table(title=f"{request.run}, {request.checkpoint} model, {request.split} data of {data}", box=box.SIMPLE)
    table.add_column("")
    table.add_column("samples", justify="right")
    table.add_column("accuracy", justify="right")
    total = sum(map(sum, found.confusion))
    for label, (row, word) in enumerate(zip(found.confusion, classes, strict=True)):
        if len(classes) <= 20:
            table.add_row(word, str(sum(row)), f"{row[label] / sum(row):.4f}" if sum(row) else "")
    table.add_section()
    table.add_row("all", str(total), f"{found.accuracy:.4f}", style="bold")
    console.print(table)
    losses = "".join(f"{key.replace('_', ' ')} {value:.4f}   " for key, value in found.losses.items())
    console.print(
        f"{losses}mean {name} {found.objective:+.4f}   macro F1 {found.f1:.4f}",
        soft_wrap=True,
    )
