"""The report on the layers: feedback, reward and updates of each over the steps, and what became of the weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from feedprop.training.report import charts
from feedprop.training.weight_sizes import edges

LINES = 8  # layers in one picture at most
POINTS = 60  # in a line at most; each is the median of the steps around it

Rows = Sequence[Mapping[str, Any]]


def pictures(rows: Rows, weights: Mapping[str, Sequence[int]] | None, *, signal: str) -> list[tuple[str, str, Markup]]:
    """Return title, remark and picture.

    Args:
        rows: of the log, see `feedprop.Log`.
        weights: how many weights are in each bin at the "start" and at the "end", once a run has ended.
        signal: feedback or gradient.
    """
    found = []
    kinds = [
        (
            f"{signal.capitalize()} by layer",
            f"Norm of the {signal} over the norm of the weights: how hard each layer is pushed. From the first layer, "
            "dark, to the last.",
            lambda row: row["feedback"] / row["weight"] if row["feedback"] and row["weight"] else None,
            {"logarithmic": True},
        ),
        (
            "Reward by layer",
            "Sum of credit times value at the outputs of a layer for a batch: above 0 if on the whole it was rewarded, "
            "below if punished. Where lines coincide, layers pass all of it on."
            if signal == "feedback"
            else "Minus gradient times value, summed over the outputs of a layer, for a batch.",
            lambda row: row["reward_out"],
            {},
        ),
        (
            f"Weights without {signal}",
            f"Share of the weights of a layer whose {signal} in a step is exactly 0: the step leaves them alone.",
            lambda row: row["zeros"],
            {"percent": True},
        ),
    ]
    for title, remark, figure, options in kinds:
        steps, lines = _lines(rows, figure)
        if steps:
            found.append((title, remark, charts.layers(steps, lines, **options)))
    if weights and sum(weights["start"]):
        found.append(
            (
                "Sizes of weights",
                "How many weights have which magnitude before the first step and in the best model. The first bar also "
                "has those that are smaller or 0.",
                charts.sizes(edges(), weights),
            )
        )
    return found


def _lines(rows: Rows, figure: Any) -> tuple[list[float], dict[str, list[float]]]:
    """Return steps, and the values of some layers there; NaN where there are none."""
    linear = [row for row in rows if row["weight"] is not None and row["reward_out"] is not None]
    values: dict[str, dict[int, float]] = {}
    for row in linear:
        value = figure(row)
        if value is not None and math.isfinite(value):
            values.setdefault(row["module"], {})[row["step"]] = value
    steps = sorted({row["step"] for row in linear})
    width = -(-len(steps) // POINTS) or 1
    groups = [steps[begin : begin + width] for begin in range(0, len(steps), width)]
    names = [*values]
    if len(names) > LINES:  # evenly spaced, the first and the last among them
        names = [names[round(n * (len(names) - 1) / (LINES - 1))] for n in range(LINES)]
    lines = {
        name: [_median([values[name][step] for step in group if step in values[name]]) for group in groups]
        for name in names
    }
    return ([statistics.mean(group) for group in groups] if lines else []), lines


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan
