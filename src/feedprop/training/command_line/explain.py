"""The command explain."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from accelerate.utils import set_seed  # type: ignore[import-untyped]  # accelerate ships no types
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import EXPLAINED, RunFolder
from feedprop.training.command_line.stored import Request, assembled, parse_run
from feedprop.training.data.splits import loader
from feedprop.training.data.tensors import SequenceData, TextData
from feedprop.training.devices import make_accelerator
from feedprop.training.explanation import Explained, limits, preset
from feedprop.training.models.spiking import firing_neurons
from feedprop.training.report.explained_page import write_explanation
from feedprop.training.report.stored_run import StoredRun
from feedprop.training.weight_sizes import magnitudes


@dataclass(frozen=True)
class ExplainSettings:
    """Settings of an explanation.

    Args:
        checkpoint: the best model, as chosen on validation data, that of the last epoch, or what feedprop prune wrote
        split: part of the data
        number: how many samples, the first ones
        composite: the rules, a preset by its name
        device: auto, cpu, cuda, cuda:1, mps
    """

    checkpoint: Literal["best", "last", "pruned"] = "best"
    split: Literal["train", "validation", "test"] = "test"
    number: int = 12
    composite: str = "epsilon_plus"
    device: str = "auto"


def explain_command(argv: Sequence[str]) -> None:
    """Write a page of what answers were made of to the folder of a run, and print how good it is if asked to."""
    request = _parse(argv)
    make_composite = preset(request.composite)
    folder = RunFolder(request.run)
    set_seed(request.config.settings.seed)
    parts = assembled(request.run, request.config, request.checkpoint)
    start = _as_training_began(parts.model, request.run)
    folder.restore(f"{request.checkpoint}.safetensors", parts.model)
    device = make_accelerator(request.device).device
    samples = parts.data[request.split]
    inputs, targets = next(iter(loader(samples, batch_size=request.number)))
    timed = isinstance(samples, SequenceData)
    composite = make_composite(*limits(inputs, parts.data.normalisation)).replace(conserving=True)
    model, tokens = parts.model.to(device).eval(), parts.data.tokens
    found = Explained(model, inputs.to(device), parts.data.task, composite, timed=timed, tokens=tokens)
    targets = targets.to(device)
    pushed = None
    if start is not None:
        models = (start.to(device).eval(), parts.model)
        parts.objective.module.to(device)
        before, after = (found.pushed(model, targets, parts.objective) for model in models)
        pushed = before, after
    facts = {"run": request.run, "model": request.checkpoint, "data": request.split, "rules": request.composite}
    folder.write(
        EXPLAINED,
        write_explanation(
            found,
            title=request.config.title,
            targets=targets,
            facts=facts,
            pushed=pushed,
            inputs=parts.data.inputs,
            texts=samples.first_texts(len(targets)) if isinstance(samples, TextData) else (),
        ),
    )
    console = Console(highlight=False, markup=False)  # names may have brackets
    console.print(f"{len(targets)} samples explained: {folder.path / EXPLAINED}", soft_wrap=True)
    if request.evaluate:
        table = Table(title="area between the deletion curves, in units of the output", box=box.SIMPLE)
        table.add_column("")
        for column in ("mean", "lowest", "highest"):
            table.add_column(column, justify="right")
        for name, curves in found.deletions().items():
            area = curves.area
            table.add_row(name, *(f"{float(value):.3f}" for value in (area.mean(), area.min(), area.max())))
        console.print(table)


def _as_training_began(model: nn.Module, run: str) -> nn.Module | None:
    """Return a copy of a model that was made with the seed of a run, if its weights are those that training began with.

    None if their sizes are not those that training noted, or if the model has neurons that fire.
    """
    noted = (StoredRun.read(run).results.get("weights") or {}).get("start")
    return copy.deepcopy(model) if magnitudes(model) == noted and not firing_neurons(model) else None


def _parse(argv: Sequence[str]) -> Request:
    """Return what the command line asks to explain."""
    about = "print how good the heatmaps are: areas between deletion curves"
    request = parse_run(argv, "explain", ExplainSettings, "evaluate", about)
    if request.number < 1:
        raise FeedpropError(f"--number must be at least 1, but is {request.number}")
    return request
