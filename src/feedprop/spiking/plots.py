"""Raster and membrane plots; the only spiking file that imports matplotlib (extra "train")."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from feedprop.errors import FeedpropError


def raster(spikes: Tensor, *, sample: int = 0, title: str = "") -> Figure:
    """Draw when each neuron of one sample fired, from spikes (T, B, ...)."""
    rows = _of_sample(spikes, sample)
    figure, axes = _axes(title)
    steps, neurons = torch.nonzero(rows, as_tuple=True)
    axes.scatter(steps.tolist(), neurons.tolist(), s=max(2.0, min(20.0, 2000 / rows.shape[1])), marker="|", c="black")
    axes.set(xlabel="step", ylabel="neuron", xlim=(-0.5, rows.shape[0] - 0.5), ylim=(-0.5, rows.shape[1] - 0.5))
    return figure


def membrane(membranes: Tensor, *, sample: int = 0, threshold: float = 1.0, most: int = 8, title: str = "") -> Figure:
    """Draw the membranes of the first `most` neurons of one sample over time, from membranes (T, B, ...)."""
    rows = _of_sample(membranes, sample)[:, :most]
    figure, axes = _axes(title)
    for neuron, values in enumerate(rows.T.tolist()):
        axes.plot(values, label=f"neuron {neuron}")
    axes.axhline(threshold, color="black", linestyle=":", linewidth=1, label="threshold")
    axes.set(xlabel="step", ylabel="membrane")
    axes.legend(fontsize="small", loc="upper right")
    return figure


def _of_sample(values: Tensor, sample: int) -> Tensor:
    if values.ndim < 3:
        raise FeedpropError(f"a plot takes time-first values (T, B, ...), got shape {tuple(values.shape)}")
    return values.detach()[:, sample].flatten(1).cpu()


def _axes(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes
