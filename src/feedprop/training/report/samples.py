"""What the report shows of single test samples, measured after training and kept in samples.json.

The report is drawn from files alone, so whatever needs the model is measured here: images and texts with their
predictions, the predictions of a model of two inputs over the plane, and what the neurons of a spiking network did on
one sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from feedprop.spiking.activity import traces
from feedprop.training.data.splits import Splits, loader
from feedprop.training.data.tensors import SequenceData, TensorData, TextData
from feedprop.training.evaluation import scores
from feedprop.training.models.spiking import firing_neurons
from feedprop.training.report import png

SEARCHED = 512  # of the first test samples, for those that are answered wrongly
SHOWN = 12  # first samples, and first mistakes
BEGINNING = 200  # characters of a text
SIDE = 64  # pixels along the longer side of an image, at most
RESOLUTION = 100  # points along each side of the plane
POINTS = 500  # samples in the plane
PANELS, NEURONS, MEMBRANES = 4, 400, 8  # layers and neurons of each in the raster plot, and membranes


@torch.no_grad()
def collect(model: nn.Module, data: Splits, device: torch.device) -> dict[str, Any]:
    """Return what JSON holds of some test samples; the model is left in evaluation mode.

    The keys are those of the kinds that there is something for: images, texts, plane, spikes.
    """
    model.eval()
    found: dict[str, Any] = {}
    timed = isinstance(data.test, SequenceData)
    inputs, targets = next(iter(loader(data.test, batch_size=1)))
    if targets.ndim == 1 and not targets.is_floating_point():
        if not timed and inputs.ndim == 4 and inputs.shape[1] in (1, 3):
            found["images"] = _answered(model, data, device, lambda _, image: {"png": _png(image)})
        if isinstance(data.test, TextData):
            texts = data.test.first_texts(SEARCHED)
            found["texts"] = _answered(model, data, device, lambda place, _: {"text": _beginning(texts[place])})
        elif isinstance(data.test, TensorData) and not timed and tuple(inputs.shape[1:]) == (2,):
            found["plane"] = _plane(model, data.test, device)
    if firing_neurons(model):
        found["spikes"] = _spikes(model, inputs.to(device), targets)
    return found


def _answered(
    model: nn.Module, data: Splits, device: torch.device, shown: Callable[[int, Tensor], dict[str, str]]
) -> dict[str, Any]:
    """Return the first test samples with their labels and answers, and the first that were answered wrongly.

    Args:
        model: in evaluation mode.
        data: with the samples.
        device: of the model.
        shown: returns what is shown of a sample, given its place in the data and its inputs.
    """
    first: list[dict[str, Any]] = []
    mistakes: list[dict[str, Any]] = []
    seen = 0
    for inputs, targets in loader(data.test, batch_size=128):
        answers = scores(model(inputs.to(device))).argmax(1).cpu()
        for place, (sample, target, answer) in enumerate(zip(inputs, targets.tolist(), answers.tolist(), strict=True)):
            rooms = [room for room, fits in ((first, True), (mistakes, answer != target)) if fits and len(room) < SHOWN]
            if rooms:
                row = {**shown(seen + place, sample), "label": target, "answer": answer}
                for room in rooms:
                    room.append(row)
        seen += len(targets)
        if seen >= SEARCHED:
            break
    return {"first": first, "mistakes": mistakes, "searched": seen}


def _beginning(text: str) -> str:
    words = " ".join(text[: 4 * BEGINNING].split())
    return words if len(words) <= BEGINNING else f"{words[:BEGINNING].rstrip()} …"


def _png(image: Tensor) -> str:
    """Return an image (channels, height, width) as a PNG in base64, from its darkest to its brightest."""
    image = image.float().cpu()
    if max(image.shape[1:]) > SIDE:
        factor = SIDE / max(image.shape[1:])
        size = [max(1, round(length * factor)) for length in image.shape[1:]]
        image = nn.functional.interpolate(image[None], size=size, mode="area")[0]
    pixels = png.brightness(image)
    return png.encoded(pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0))


def _plane(model: nn.Module, data: TensorData, device: torch.device) -> dict[str, Any]:
    """Return the predictions over the plane of both inputs, rows from below, and test samples in it."""
    inputs, targets = data.inputs[data.indices].float(), data.targets[data.indices]
    low, high = inputs.min(dim=0).values, inputs.max(dim=0).values
    margin = 0.08 * (high - low).clamp(min=1e-6)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    rows, columns = torch.linspace(bottom, top, RESOLUTION), torch.linspace(left, right, RESOLUTION)
    places = torch.cartesian_prod(rows, columns).flip(1)  # (RESOLUTION * RESOLUTION, 2), the first input last
    answers = torch.cat([scores(model(part.to(device))).argmax(1).cpu() for part in torch.split(places, 2000)])
    some = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:POINTS]
    points = [[float(f"{x:.4g}") for x in inputs[n].tolist()] + [int(targets[n])] for n in some.tolist()]
    return {
        "extent": [left, right, bottom, top],
        "grid": answers.view(RESOLUTION, RESOLUTION).tolist(),
        "points": points,
    }


def _spikes(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any] | None:
    """Return when the neurons of each layer fired on one sample, and the membranes of the last layer."""
    ran = traces(model, inputs)
    if not ran:
        return None
    layers = []
    for trace in ran if len(ran) <= PANELS else [*ran[: PANELS - 1], ran[-1]]:
        rows = _of_sample(trace.spikes)
        every = -(-rows.shape[1] // NEURONS)
        kept = rows[:, ::every]
        layers.append(
            {
                "layer": trace.layer,
                "kind": type(model.get_submodule(trace.layer)).__name__,
                "neurons": kept.shape[1],
                "every": every,
                "spikes": torch.nonzero(kept).tolist(),
            }
        )
    last, level = ran[-1], ran[-1].threshold
    membranes = _of_sample(last.membranes)[:, :MEMBRANES]
    return {
        "steps": last.spikes.shape[0],
        "label": int(targets[0]) if targets.ndim == 1 and not targets.is_floating_point() else None,
        "layers": layers,
        "counts": [int(count) for count in _of_sample(last.spikes).sum(0)[:MEMBRANES]],
        "membranes": [[float(f"{value:.4g}") for value in row] for row in membranes.T.tolist()],
        "threshold": float(level.max()) if isinstance(level, Tensor) else float(level),
    }


def _of_sample(values: Tensor) -> Tensor:
    """Return what there is of the only sample, (T, 1, ...), as (T, neurons)."""
    return values.detach()[:, 0].flatten(1).float().cpu()
