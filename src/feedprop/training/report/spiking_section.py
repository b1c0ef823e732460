"""The report on a spiking network: spikes, synaptic operations, update sparsity, and pictures of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from feedprop.spiking.activity import activity, traces
from feedprop.training.data.splits import Splits, loader
from feedprop.training.data.tensors import SequenceData
from feedprop.training.report import charts

SAMPLES = 256  # the first of the test data
PANELS = 4  # layers in the raster plot


def measure(model: nn.Module, data: Splits, device: torch.device) -> dict[str, Any]:
    """Return spikes and synaptic operations per inference, per layer and in total.

    The dense network has the same layers with ordinary activations. It sees an image once, or each step of a sequence
    once, and multiplies and adds once per weight.
    """
    inputs, _ = _first(data, SAMPLES)
    rows = activity(model.eval(), inputs.to(device))
    timed = isinstance(data.test, SequenceData)
    layers = []
    for row in rows:
        found: dict[str, Any] = {"layer": row.layer, "kind": _kind(model.get_submodule(row.layer))}
        if row.passes:
            found |= {"operations": row.operations, "dense": row.dense if timed else row.dense / row.passes}
        else:
            found |= {"spikes": row.spikes, "rate": row.rate}
        layers.append(found)
    totals = {key: sum(row.get(key, 0.0) for row in layers) for key in ("spikes", "operations", "dense")}
    return {"layers": layers, **totals, "rate": totals["spikes"] / sum(row.size for row in rows)}


def pictures(rows: Sequence[Mapping[str, Any]], model: nn.Module, data: Splits) -> list[tuple[str, str, str]]:
    """Return title, remark and picture: update sparsity over the epochs, and the neurons' response to one sample."""
    epochs = [row["epoch"] for row in rows]
    lines = {
        label: [row["updates"][key] for row in rows]
        for key, label in (("without_feedback", "without feedback"), ("negligible", "negligible change"))
    }
    inputs, targets = _first(data, 1)
    ran = traces(model.eval(), inputs.to(next(model.parameters()).device))
    shown = ran if len(ran) <= PANELS else [*ran[: PANELS - 1], ran[-1]]
    last = ran[-1]
    of = f"The first test sample, of class {data.classes[int(targets[0])]}"
    names = [
        f"{name}: {int(count)} spikes" for name, count in zip(data.classes, last.spikes[:, 0].sum(0), strict=False)
    ]
    return [
        (
            "Update sparsity",
            "Share of weights whose feedback in a step was exactly 0, and of weights that a step changed by less than "
            "a thousandth of the largest weight in their layer; mean over every tenth step.",
            charts.curves(epochs, lines, percent=True),
        ),
        (
            "Spikes of one sample",
            f"{of}.",
            charts.raster({_named(model, trace.layer): trace.spikes for trace in shown}),
        ),
        ("Membranes of the output neurons", f"{of}.", charts.membranes(last.membranes, last.threshold, names)),
    ]


def _first(data: Splits, count: int) -> tuple[Tensor, Tensor]:
    batch: tuple[Tensor, Tensor] = next(iter(loader(data.test, batch_size=count)))
    return batch


def _named(model: nn.Module, path: str) -> str:
    return f"{path} {type(model.get_submodule(path)).__name__}"


def _kind(module: nn.Module) -> str:
    """Return the type and size of a layer."""
    sizes = {"Linear": ("in_features", "out_features")}.get(type(module).__name__, ("in_channels", "out_channels"))
    if not hasattr(module, sizes[0]):
        return type(module).__name__
    return f"{type(module).__name__} {getattr(module, sizes[0])} → {getattr(module, sizes[1])}"
