"""The report on a spiking network: spikes, synaptic operations, update sparsity, and pictures of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor, nn

from feedprop.spiking.activity import activity
from feedprop.training.data.splits import Splits, loader
from feedprop.training.data.tensors import SequenceData
from feedprop.training.report import charts

SAMPLES = 256  # the first of the test data


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
    return {"layers": layers, **totals, "rate": totals["spikes"] / sum(row.size for row in rows), "timed": timed}


def pictures(
    rows: Sequence[Mapping[str, Any]], sample: Mapping[str, Any] | None, classes: Sequence[object]
) -> list[tuple[str, str, Markup]]:
    """Return title, remark and picture: update sparsity over the epochs, and the neurons' response to one sample.

    Args:
        rows: of metrics.jsonl; those of other networks have no updates.
        sample: what samples.json holds of the spikes, if anything.
        classes: their names.
    """
    updated = [row for row in rows if "updates" in row]
    epochs = [row["epoch"] for row in updated]
    lines = {
        label: [row["updates"][key] for row in updated]
        for key, label in (("without_feedback", "without feedback"), ("negligible", "negligible change"))
    }
    found = []
    if updated:
        remark = (
            "Share of weights whose feedback in a step was exactly 0, and of weights that a step changed by less than "
            "a thousandth of the largest weight in their layer; mean over every tenth step."
        )
        found.append(("Update sparsity", remark, charts.curves(epochs, lines, percent=True)))
    return found + (_of_one(sample, classes) if sample else [])


def _of_one(sample: Mapping[str, Any], classes: Sequence[object]) -> list[tuple[str, str, Markup]]:
    label = sample["label"]
    of = "The first test sample" + ("." if label is None else f", of class {classes[label]}.")
    panels = []
    for layer in sample["layers"]:
        share = f", one neuron in {layer['every']}" if layer["every"] > 1 else ""
        panels.append((f"{layer['layer']} {layer['kind']}{share}", layer["neurons"], {"var(--c0)": layer["spikes"]}))
    names = [*map(str, classes)] if len(sample["counts"]) <= len(classes) else []
    names += [f"neuron {n}" for n in range(len(names), len(sample["counts"]))]
    membranes = {
        f"{name}: {count} spikes": row
        for name, count, row in zip(names, sample["counts"], sample["membranes"], strict=False)
    }
    return [
        ("Spikes of one sample", f"{of} Each row is a neuron.", charts.raster(panels, steps=sample["steps"])),
        ("Membranes of the output neurons", of, charts.membranes(membranes, sample["threshold"])),
    ]


def _first(data: Splits, count: int) -> tuple[Tensor, Tensor]:
    batch: tuple[Tensor, Tensor] = next(iter(loader(data.test, batch_size=count)))
    return batch


def _kind(module: nn.Module) -> str:
    """Return the type and size of a layer."""
    sizes = {"Linear": ("in_features", "out_features")}.get(type(module).__name__, ("in_channels", "out_channels"))
    if not hasattr(module, sizes[0]):
        return type(module).__name__
    return f"{type(module).__name__} {getattr(module, sizes[0])} → {getattr(module, sizes[1])}"
