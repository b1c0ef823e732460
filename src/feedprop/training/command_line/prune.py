"""The command prune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]  # accelerate ships no types
from rich import box
from rich.console import Console
from rich.table import Table

from feedprop import pruning
from feedprop.training.checkpoints import CURVES, CURVES_PLOT, PRUNED, RunFolder
from feedprop.training.command_line.arguments import PruneRequest, parse_prune
from feedprop.training.command_line.commands import restored
from feedprop.training.devices import make_accelerator
from feedprop.training.report.charts import accuracy_over_sparsity
from feedprop.training.sparsity_curves import AMOUNTS, accuracies, importances

Curves = dict[tuple[str, str], list[float]]  # (run, importance) -> accuracy at each of AMOUNTS


def prune_command(argv: Sequence[str]) -> None:
    """Measure accuracy over sparsity for each importance, and write the curves, their plot and a pruned model."""
    request = parse_prune(argv)
    settings, folder = request.settings, RunFolder(request.run)
    folder.claim()
    try:
        curves, pruned = _measure(request, folder, make_accelerator(settings.device).device)
        folder.write_json(CURVES, _facts(request, curves, pruned))
        folder.write(CURVES_PLOT, accuracy_over_sparsity(AMOUNTS, curves, title=_title(request)))
    finally:
        folder.release()
    _print(request, curves, pruned)


def _measure(request: PruneRequest, folder: RunFolder, device: torch.device) -> tuple[Curves, dict[str, Any]]:
    """Return the curves of all runs, and facts about the pruned model, which is written."""
    settings = request.settings
    curves: Curves = {}
    pruned: dict[str, Any] = {}
    for run, config in request.configs.items():
        set_seed(config.settings.seed)
        parts = restored(run, config, settings.checkpoint)
        parts.model.to(device).eval()
        parts.objective.module.to(device)
        size = settings.batch_size or config.settings.batch_size
        found = importances(parts, samples=settings.samples, batch_size=size, seed=config.settings.seed)
        for name, scores in found.items():
            curves[run, name] = accuracies(parts, scores, scope=settings.scope, batch_size=size)
        if run != request.run:
            continue
        at = {
            name: accuracies(parts, scores, scope=settings.scope, batch_size=size, amounts=(settings.amount,))[0]
            for name, scores in found.items()
            if settings.importance in ("best", name)
        }
        chosen = max(at, key=lambda name: at[name])
        pruning.prune(parts.model, found[chosen], settings.amount, scope=settings.scope)
        pruned = {"amount": settings.amount, "importance": chosen, "validation_accuracy": at[chosen]}
        metadata = folder.metadata(f"{settings.checkpoint}.safetensors")
        folder.save(PRUNED, parts.model, metadata=metadata | pruned)
    return curves, pruned


def _facts(request: PruneRequest, curves: Curves, pruned: Mapping[str, Any]) -> dict[str, Any]:
    settings = request.settings
    return {
        "split": "validation",
        **{name: getattr(settings, name) for name in ("checkpoint", "scope", "samples")},
        "amounts": AMOUNTS,
        "curves": [
            {
                "run": run,
                "method": request.configs[run].settings.method,
                "importance": importance,
                "accuracies": values,
            }
            for (run, importance), values in curves.items()
        ],
        "pruned": pruned,
    }


def _title(request: PruneRequest) -> str:
    data = request.configs[request.run].components["data"].name
    whole = "all layers compared" if request.settings.scope == "global" else "each layer alike"
    names = " and ".join(request.configs)
    return f"{names}: validation data of {data},\npruned in one shot, {whole}, without training afterwards"


def _print(request: PruneRequest, curves: Curves, pruned: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(
        title_justify="left", title="validation accuracy with this share of the weights set to 0", box=box.SIMPLE
    )
    beside = len(request.configs) > 1
    for heading in (["run"] if beside else []) + ["importance"]:
        table.add_column(heading, no_wrap=True)
    for amount in AMOUNTS:
        table.add_column(f"{100 * amount:g} %", justify="right")
    for (run, importance), values in curves.items():
        table.add_row(*([run] if beside else []), importance, *(f"{value:.4f}" for value in values))
    console.print(table, crop=False, overflow="ignore", no_wrap=True)
    folder = RunFolder(request.run).path
    console.print(
        f"{folder / PRUNED}: {100 * pruned['amount']:g} % by {pruned['importance']}, validation accuracy "
        f"{pruned['validation_accuracy']:.4f}\nplot: {folder / CURVES_PLOT}",
        soft_wrap=True,
    )
