"""The command prune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]  # accelerate ships no types
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from feedprop import pruning
from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import CURVES, CURVES_PLOT, PRUNED, RunFolder
from feedprop.training.command_line.arguments import read_words
from feedprop.training.command_line.config import Config
from feedprop.training.command_line.parser import OneSentenceParser
from feedprop.training.command_line.stored import add_trust, batch_size, read_run, restored
from feedprop.training.devices import make_accelerator
from feedprop.training.report.charts import accuracy_over_sparsity
from feedprop.training.report.curves_section import SHARES
from feedprop.training.sparsity_curves import AMOUNTS, accuracies, importances

Curves = dict[tuple[str, str], list[float]]  # (run, importance) -> accuracy at each of AMOUNTS


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
class PruneRequest:
    """What to prune: a run, how, and the configurations of that run and of the one beside it, by their folders."""

    run: str
    settings: PruneSettings
    configs: Mapping[str, Config]


def prune_command(argv: Sequence[str]) -> None:
    """Measure accuracy over sparsity for each importance, and write the curves, their plot and a pruned model."""
    request = _parse(argv)
    settings, folder = request.settings, RunFolder(request.run)
    folder.claim()
    try:
        curves, pruned, score = _measure(request, folder, make_accelerator(settings.device).device)
        folder.write_json(CURVES, _facts(request, curves, pruned))
        folder.write(CURVES_PLOT, _plot(request, curves, score))
    finally:
        folder.release()
    _print(request, curves, pruned, score)


def _parse(argv: Sequence[str]) -> PruneRequest:
    """Return what the command line asks to prune. Code from elsewhere runs only with --trust."""
    arguments, given = read_words(argv)
    parser = OneSentenceParser(prog="feedprop prune", usage="feedprop prune RUN [options]")
    parser.add_argument("run", type=str, metavar="RUN", help="folder that feedprop train wrote")
    parser.add_class_arguments(PruneSettings, None)
    add_trust(parser)
    values = parser.read(arguments, given)
    run, trusted = values.pop("run"), values.pop("trust")
    settings = PruneSettings(**values)
    if not 0 <= settings.amount < 1:
        raise FeedpropError(f"--amount is a share of the weights, from 0 to less than 1, but is {settings.amount:g}")
    if settings.samples < 1:
        raise FeedpropError(f"--samples must be at least 1, but is {settings.samples}")
    runs = [run, *([settings.beside] if settings.beside is not None else [])]
    configs = {run: read_run(run, settings.checkpoint, {}, trusted=trusted) for run in runs}
    datas = [config.components["data"].name for config in configs.values()]
    if len({*datas}) > 1:
        raise FeedpropError(
            f"--beside compares runs on the same data, but {runs[0]} has {datas[0]} and {runs[1]} {datas[1]}"
        )
    batch_size(settings.batch_size, configs[runs[0]])
    return PruneRequest(run, settings, configs)


def _measure(request: PruneRequest, folder: RunFolder, device: torch.device) -> tuple[Curves, dict[str, Any], str]:
    """Return the curves of all runs, facts about the pruned model, which is written, and what was measured."""
    settings = request.settings
    curves: Curves = {}
    pruned: dict[str, Any] = {}
    score = ""
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
        score = parts.objective.task.score
        at = {
            name: accuracies(parts, scores, scope=settings.scope, batch_size=size, amounts=(settings.amount,))[0]
            for name, scores in found.items()
            if settings.importance in ("best", name)
        }
        chosen = max(at, key=lambda name: at[name])
        pruning.prune(parts.model, found[chosen], settings.amount, scope=settings.scope)
        pruned = {
            "amount": settings.amount,
            "importance": chosen,
            f"validation_{score}": at[chosen],
            "emptied": [name for name in found[chosen] if not parts.model.get_parameter(name).any()],
        }
        metadata = folder.metadata(f"{settings.checkpoint}.safetensors")
        folder.save(PRUNED, parts.model, metadata=metadata | pruned)
    return curves, pruned, score


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


def _plot(request: PruneRequest, curves: Curves, score: str) -> bytes:
    return accuracy_over_sparsity(AMOUNTS, curves, title=_title(request, score), percent=score in SHARES)


def _title(request: PruneRequest, score: str) -> str:
    data = request.configs[request.run].components["data"].name
    whole = "all layers compared" if request.settings.scope == "global" else "each layer alike"
    names = " and ".join(request.configs)
    return f"{names}: {score} on validation data of {data},\npruned in one shot, {whole}, without training afterwards"


def _print(request: PruneRequest, curves: Curves, pruned: Mapping[str, Any], score: str) -> None:
    console = Console(highlight=False, markup=False)  # names may have brackets
    table = Table(
        title_justify="left", title=f"validation {score} with this share of the weights set to 0", box=box.SIMPLE
    )
    beside = len(request.configs) > 1
    for heading in (["run"] if beside else []) + ["importance"]:
        table.add_column(heading, no_wrap=True)
    for amount in AMOUNTS:
        table.add_column(f"{100 * amount:g} %", justify="right", min_width=6)
    for (run, importance), values in curves.items():
        table.add_row(*([Text(run)] if beside else []), importance, *(f"{value:.4f}" for value in values))
    console.print(table, crop=False, overflow="ignore", no_wrap=True)
    folder = RunFolder(request.run).path
    if pruned["emptied"]:
        remedy = "--scope layer prunes each layer alike" if request.settings.scope == "global" else "lower --amount"
        console.print(
            f"warning: all weights are 0 in {', '.join(pruned['emptied'])}, so nothing passes; {remedy}", soft_wrap=True
        )
    console.print(
        f"{folder / PRUNED}: {100 * pruned['amount']:g} % by {pruned['importance']}, validation {score} "
        f"{pruned[f'validation_{score}']:.4f}\nplot: {folder / CURVES_PLOT}",
        soft_wrap=True,
        markup=False,
    )
