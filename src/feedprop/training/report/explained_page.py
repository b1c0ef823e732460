"""The page of feedprop explain: each sample beside what its answer was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from feedprop.inspection.heatmaps import heatmap
from feedprop.training.explanation import IMAGES, TABLE, TEXT, Explained, Fired
from feedprop.training.report import charts, png
from feedprop.training.report.marked_text import marked_text
from feedprop.training.report.page import render

SIDE = 140  # of a picture on the page, in pixels
BARS = 10  # inputs of a table that are shown, the most relevant ones
RASTERS, NEURONS = 3, 60  # samples whose spikes are shown, and neurons of each layer


def write_explanation(
    found: Explained,
    *,
    title: str,
    targets: Tensor,
    facts: Mapping[str, Any],
    pushed: tuple[Tensor, Tensor] | None = None,
    inputs: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> str:
    """Return the page.

    Args:
        found: what is explained.
        title: of the run.
        targets: of the samples.
        facts: shown in a table.
        pushed: what `Explained.pushed` returns before and after training, drawn on one scale for each sample.
        inputs: names of the inputs of a table.
        texts: as they were written.
    """
    told = [found.task.told(*pair) for pair in zip(found.outputs.cpu(), targets.cpu(), strict=True)]
    draw = {TABLE: _bars, TEXT: _texts}.get(found.kind, _heatmaps)
    rows = [
        {"pictures": pictures, "answer": answer.words, "target": answer.target, "right": answer.right, "raster": ""}
        for pictures, answer in zip(draw(found, pushed, texts or inputs), told, strict=True)
    ]
    rasters = _rasters(found.fired(RASTERS))
    for row, raster in zip(rows, rasters, strict=False):
        row["raster"] = raster
    return render(
        "explanation.html",
        hover=False,
        title=title,
        kind=found.kind,
        rows=rows,
        facts=facts,
        pushed=pushed is not None,
        rasters=len(rasters),
    )


def _heatmaps(found: Explained, pushed: tuple[Tensor, Tensor] | None, _: Sequence[str]) -> list[list[Markup]]:
    """Return the pictures of each sample: its values, their relevance, and their rewards before and after training."""
    if found.kind == IMAGES:
        values = [_shown(image) for image in found.inputs]
        shares = [found.relevance, *(pushed or ())]
    else:  # sequences: a row for each channel, a column for each step
        values = [_shown(sequence.T[None]) for sequence in found.inputs]
        shares = [part.transpose(1, 2) for part in (found.relevance, *(pushed or ()))]
    columns = [values, heatmap(shares[0], colours="seismic")]
    if pushed is not None:
        largest = torch.maximum(*(part.abs().amax((1, 2)) for part in shares[1:]))
        columns += [heatmap(part, colours="seismic", largest=largest) for part in shares[1:]]
    return [[_embedded(picture) for picture in row] for row in zip(*columns, strict=True)]


def _bars(found: Explained, pushed: tuple[Tensor, Tensor] | None, names: Sequence[str]) -> list[list[Markup]]:
    """Return the pictures of each sample: bars of the most relevant inputs, and the rewards of the same inputs."""
    names = names or [f"input {place}" for place in range(1, found.inputs.shape[1] + 1)]
    drawn = []
    for sample, relevance in enumerate(found.relevance.cpu()):
        order = relevance.abs().argsort(descending=True, stable=True)[:BARS].tolist()
        shown = [f"{names[place]} = {float(found.inputs[sample, place]):.2g}" for place in order]
        pictures = [charts.bars(shown, relevance[order].tolist(), title="relevance")]
        if pushed is not None:
            parts = [part[sample].cpu()[order] for part in pushed]
            largest = max(float(part.abs().max()) for part in parts)
            pictures += [
                charts.bars([names[place] for place in order], part.tolist(), title=title, largest=largest)
                for title, part in zip(("reward before training", "after"), parts, strict=True)
            ]
        drawn.append(pictures)
    return drawn


def _texts(found: Explained, pushed: tuple[Tensor, Tensor] | None, texts: Sequence[str]) -> list[list[Markup]]:
    """Return each text in the colours of its relevance, and to be opened, in those of its rewards."""
    assert found.tokens is not None
    drawn = []
    for sample, text in enumerate(texts):
        pictures = [marked_text(text, found.inputs[sample], found.relevance[sample], found.tokens)]
        if pushed is not None:
            parts = [part[sample] for part in pushed]
            largest = max(float(part.abs().max()) for part in parts)
            rewards = [marked_text(text, found.inputs[sample], part, found.tokens, largest=largest) for part in parts]
            pictures.append(
                Markup("<details><summary>reward before training, and after</summary>{}{}</details>").format(*rewards)
            )
        drawn.append(pictures)
    return drawn


def _rasters(layers: Sequence[Fired]) -> list[Markup]:
    """Return a picture for each sample: the spikes of each layer over the steps, in the colour of their relevance."""
    if not layers:
        return []
    drawn = []
    for sample in range(layers[0].spikes.shape[1]):
        panels = []
        for layer in layers:
            spikes, relevance = (part[:, sample].cpu() for part in (layer.spikes, layer.relevance))
            most = relevance.abs().sum(0).argsort(descending=True, stable=True)[:NEURONS].sort().values
            share = (
                "" if len(most) == spikes.shape[1] else f", the {NEURONS} most relevant of {spikes.shape[1]} neurons"
            )
            name = f"{layer.layer} {layer.kind}{share}"
            panels.append((name, len(most), _coloured(spikes[:, most], relevance[:, most])))
        drawn.append(charts.raster(panels, steps=len(layers[0].spikes)))
    return drawn


def _coloured(spikes: Tensor, relevance: Tensor) -> dict[str, list[list[int]]]:
    """Return (step, neuron) of the spikes by colour: red raised the answer, blue lowered it, the stronger the more."""
    largest = float(relevance.abs().max()) or 1.0
    levels = (relevance.abs() / largest).sqrt().mul(4).ceil() * relevance.sign()
    found = {}
    for level in (0, 1, -1, 2, -2, 3, -3, 4, -4):  # the strongest on top
        colour = charts.WARM if level > 0 else charts.COLD if level else "rgb(128 128 128)"
        places = torch.nonzero((spikes != 0) & (levels == level)).tolist()
        if places:
            found[colour.replace(")", f" / {25 * abs(level) or 30}%)")] = places
    return found


def _shown(image: Tensor) -> Tensor:
    """Return bytes (height, width, 3) of an image (channels, height, width), from its darkest to its brightest."""
    scaled = png.brightness(image).cpu()
    return (scaled if len(image) == 3 else scaled[:1].expand(3, -1, -1)).permute(1, 2, 0)


def _embedded(picture: Tensor) -> Markup:
    """Return an image for the page, uint8 (height, width, 3), enlarged by whole pixels."""
    times = max(1, SIDE // max(picture.shape[:2]))
    enlarged = picture.repeat_interleave(times, 0).repeat_interleave(times, 1)
    return Markup(f'<img alt="" src="data:image/png;base64,{png.encoded(enlarged)}">')
