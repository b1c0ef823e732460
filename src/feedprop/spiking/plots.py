"""Raster and membrane plots; the only spiking file that imports matplotlib (extra "train")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from feedprop.errors import FeedpropError

SIZE = (7.0, 3.5)  # of a figure, in inches


def raster(
    spikes: Tensor | Mapping[str, Tensor],
    *,
    sample: int = 0,
    title: str = "",
    colour: str = "black",
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw when each neuron of one sample fired, from spikes (T, B, ...), or of several layers by name."""
    layers = {title: spikes} if isinstance(spikes, Tensor) else spikes
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(layers), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, layers.items(), strict=True):
        rows = _of_sample(values, sample)
        steps, neurons = torch.nonzero(rows, as_tuple=True)
        marker = max(0.6, min(40.0, 3000 / rows.shape[1] / len(layers)))
        axes.scatter(steps.tolist(), neurons.tolist(), s=marker, marker="|", c=colour)
        axes.set(ylabel="neuron", xlim=(-0.5, rows.shape[0] - 0.5), ylim=(-0.5, rows.shape[1] - 0.5))
        axes.set_title(name, loc="left" if len(layers) > 1 else "center", fontsize="medium")
        axes.locator_params(axis="x", integer=True)
        axes.locator_params(axis="y", integer=True, nbins=4)
    panels[-1].set_xlabel("step")
    return figure


def membrane(
    membranes: Tensor,
    *,
    sample: int = 0,
    threshold: float = 1.0,
    most: int = 8,
    title: str = "",
    names: Sequence[str] | None = None,
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw the membranes of the first `most` neurons of one sample over time, from membranes (T, B, ...)."""
    rows = _of_sample(membranes, sample)[:, :most]
    figure = Figure(figsize=size, layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_title(title)
    for neuron, values in enumerate(rows.T.tolist()):
        axes.plot(values, label=f"neuron {neuron}" if names is None else names[neuron])
    axes.axhline(threshold, color="black", linestyle=":", linewidth=1, label="threshold")
    axes.set(xlabel="step", ylabel="membrane")
    axes.locator_params(axis="x", integer=True)
    if names is None:
        axes.legend(fontsize="small", loc="upper right")
    else:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _of_sample(values: Tensor, sample: int) -> Tensor:
    if values.ndim < 3:
        raise FeedpropError(f"a plot takes time-first values (T, B, ...), got shape {tuple(values.shape)}")
    return values.detach()[:, sample].flatten(1).cpu()
