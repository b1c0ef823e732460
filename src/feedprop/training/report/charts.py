"""The pictures of the report, as SVG or PNG inside the page."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from feedprop.spiking import plots
from feedprop.spiking.dynamics import Number
from feedprop.training.evaluation import scores

INK, MUTED, LINE = "#1c2530", "#6b7683", "#dde2e8"
COLOURS = ("#0b6e6e", "#d9772b", "#5b5fc7", "#b83a5e", "#5f8f2f", "#8a6d3b", "#3a7fb8", "#9a4fb0", "#777777", "#c2a500")
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # names of classes may hold any character
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def curves(
    epochs: Sequence[int], lines: Mapping[str, Sequence[float]], *, mark: int | None = None, percent: bool = False
) -> str:
    """Draw one line per name over the epochs; `mark` is the epoch of the best model."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        axes = figure.subplots()
        for (name, values), colour in zip(lines.items(), COLOURS, strict=False):
            marker = "o" if len(epochs) == 1 else None
            axes.plot(epochs, values, color=colour, linewidth=1.8, label=name, marker=marker)
        if mark is not None:
            axes.axvline(mark, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
            axes.annotate(
                "best",
                (mark, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                color=MUTED,
                fontsize=9,
            )
        if len(lines) > 1:
            axes.legend(loc="best")
        _epoch_axis(axes, epochs)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        return _svg(figure)


def accuracy_over_sparsity(
    amounts: Sequence[float], lines: Mapping[tuple[str, str], Sequence[float]], *, title: str
) -> bytes:
    """Draw accuracies over the share of weights that are 0 and return an SVG file.

    Args:
        amounts: shares, rising, below 1; one tick each, equally far apart
        lines: (run, importance) -> accuracies; importances differ by colour, runs by dashes
        title: of the picture
    """
    runs = list(dict.fromkeys(run for run, _ in lines))
    importances = list(dict.fromkeys(importance for _, importance in lines))
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for (run, importance), values in lines.items():
            colour, dash = COLOURS[importances.index(importance)], ("-", "--")[runs.index(run)]
            marker = "o^s"[importances.index(importance) % 3]
            label = importance if len(runs) == 1 else f"{run}, {importance}"
            axes.plot(values, dash, color=colour, linewidth=1.8, marker=marker, markersize=4, label=label)
        axes.set_xticks(range(len(amounts)), [f"{100 * amount:g} %" for amount in amounts])
        axes.set_xlabel("weights that are 0")
        axes.set_ylabel("accuracy")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.set_title(title, fontsize=10, loc="left")
        axes.legend(loc="lower left")
        file = io.BytesIO()
        _save(figure, file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()


def layers(
    steps: Sequence[float], lines: Mapping[str, Sequence[float]], *, percent: bool = False, logarithmic: bool = False
) -> str:
    """Draw one line per layer over the steps, from dark to light."""
    shades = LinearSegmentedColormap.from_list("layers", ["#0a3d3d", COLOURS[0], "#4fb3a5", "#e0b040", COLOURS[1]])
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.subplots()
        for place, (name, values) in enumerate(lines.items()):
            colour = shades(place / max(len(lines) - 1, 1))
            axes.plot(steps, values, color=colour, linewidth=1.5, label=name, marker="o" if len(steps) == 1 else None)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, handlelength=1.2)
        axes.set_xlabel("step")
        if logarithmic:
            axes.set_yscale("log")
            axes.minorticks_off()
        if percent:
            axes.set_ylim(-0.02, 1.02)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        return _svg(figure)


def sizes(edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> str:
    """Draw histograms over logarithmic bins, as shares, without the empty ends.

    Args:
        edges: one more than there are bins.
        counts: name -> how many are in each bin.
    """
    used = [bin for bin in range(len(edges) - 1) if any(row[bin] for row in counts.values())]
    first, last = used[0], used[-1] + 1
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.subplots()
        for (name, row), colour in zip(counts.items(), (MUTED, COLOURS[0]), strict=True):
            shares = [count / sum(row) for count in row[first:last]]
            axes.stairs(shares, edges[first : last + 1], fill=True, color=colour, alpha=0.25)
            axes.stairs(shares, edges[first : last + 1], color=colour, linewidth=1.5, label=name)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.legend(loc="upper left")
        axes.set_xlabel("|w|")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        return _svg(figure)


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Draw the confusion matrix: one row per true class, shaded by shares of the row."""
    counts = np.array(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#9fd0cd", COLOURS[0]])
    with rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(5.2, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap=shades, vmin=0, vmax=1, aspect="auto")
        few = len(classes) <= 20
        if few:
            for (row, column), count in np.ndenumerate(counts):
                colour = "white" if shares[row, column] > 0.6 else INK if count else "#c3cad2"
                axes.text(column, row, f"{count:g}", ha="center", va="center", fontsize=8.5, color=colour)
            axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
            axes.set_yticks(range(len(classes)), classes)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return _svg(figure) if few else _png(figure)


def boundaries(model: nn.Module, inputs: Tensor, targets: Tensor, *, classes: int, resolution: int = 240) -> str:
    """Draw the predictions of a model of two inputs over the plane, and the test data."""
    low, high = inputs.min(dim=0).values, inputs.max(dim=0).values
    margin = 0.08 * (high - low)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    rows, columns = torch.linspace(bottom, top, resolution), torch.linspace(left, right, resolution)
    grid = torch.cartesian_prod(columns, rows)  # (resolution * resolution, 2)
    device = next(model.parameters()).device
    with torch.no_grad():
        predicted = scores(model.eval()(grid.to(device))).argmax(dim=1).view(resolution, resolution).T.cpu().numpy()
    colours = ListedColormap([COLOURS[label % len(COLOURS)] for label in range(classes)])
    with rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(5.2, 4.6), layout="constrained")
        axes = figure.subplots()
        options: dict[str, Any] = {"cmap": colours, "vmin": -0.5, "vmax": classes - 0.5}
        axes.imshow(predicted, origin="lower", extent=(left, right, bottom, top), alpha=0.22, aspect="auto", **options)
        some = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:2000]
        points, labels = inputs[some].cpu().numpy(), targets[some].cpu().numpy()
        axes.scatter(points[:, 0], points[:, 1], c=labels, s=5, linewidths=0, alpha=0.8, **options)
        axes.set_xlabel("first input")
        axes.set_ylabel("second input")
        return _png(figure)


def raster(layers: Mapping[str, Tensor]) -> str:
    """Draw the spikes (T, 1, ...) of one sample, one panel per layer."""
    with rc_context({**_STYLE, "axes.grid": False}):
        return _png(plots.raster(layers, colour=COLOURS[0], size=(5.2, 1.0 + 1.3 * len(layers))))


def membranes(values: Tensor, threshold: Number, names: Sequence[str]) -> str:
    """Draw the membranes (T, 1, neurons) of the first neurons for one sample."""
    level = threshold if isinstance(threshold, float) else float(threshold.max())
    with rc_context({**_STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        return _svg(plots.membrane(values, threshold=level, most=len(COLOURS), names=names, size=(5.2, 3.2)))


def _epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # MaxNLocator's parameter
    if len(epochs) > 1:
        axes.set_xlim(epochs[0], epochs[-1])


def _save(figure: Figure, file: Any, **options: Any) -> None:
    """Save a figure, whatever characters and lengths the names of classes have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # browsers have the characters
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        figure.savefig(file, **options)


def _svg(figure: Figure) -> str:
    """Return the figure as an <svg> element, without what only a separate file needs."""
    file = io.StringIO()
    _save(figure, file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', text, count=1)


def _png(figure: Figure) -> str:
    """Return the figure as an <img> element that contains its data."""
    file = io.BytesIO()
    _save(figure, file, format="png", dpi=170, transparent=True)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
