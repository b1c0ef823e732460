"""A picture of a run for places that take no report: experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = {"train": "#0072b2", "validation": "#d55e00"}
Pixels = np.ndarray[Any, Any]


def overview(rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any], *, score: str) -> Pixels:
    """Draw the score over the epochs, beside the confusion matrix if there is one.

    Args:
        rows: one for each epoch, as in metrics.jsonl
        results: as in results.json
        score: the figure that chose the best model

    Returns:
        pixels, (height, width, 3) of uint8
    """
    confusion = results["test"].get("confusion")
    figure = Figure(figsize=(10.4 if confusion else 5.2, 4.2), layout="constrained", facecolor="white")
    left, *right = figure.subplots(1, 2 if confusion else 1, squeeze=False)[0]
    epochs = [row["epoch"] for row in rows]
    for part, colour in _COLOURS.items():
        marker = "o" if len(rows) == 1 else None
        left.plot(epochs, [row[part][score] for row in rows], color=colour, label=part, marker=marker)
    left.axvline(results["best_epoch"], color="#777777", linewidth=0.9, linestyle=(0, (2, 3)))
    left.legend(loc="best")
    left.set_title(f"{score}; test {results['test'][score]:.4f}", loc="left", fontsize=10)
    left.set_xlabel("epoch")
    for axes in right:
        counts = np.array(confusion, dtype=float)
        axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        axes.set_title("confusion on test data", loc="left", fontsize=10)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    return _pixels(figure)


def _pixels(figure: Figure) -> Pixels:
    """Return the figure as pixels, (height, width, 3) of uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib's
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]  # as above
