"""The report on test data where targets are no classes: numbers, or several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from feedprop.training.report import charts
from feedprop.training.report.stored_run import StoredRun

DRAWN = 4  # outputs with a picture of their own
Picture = tuple[str, str, Markup]


def pictures(run: StoredRun) -> list[Picture]:
    """Return predicted over true values of each of the first outputs of a regression."""
    pairs = run.results.get("test", {}).get("predictions")
    if not pairs:
        return []
    count = len(pairs["true"])
    remark = f"{'The first ' if count >= 500 else ''}{count} test samples; on the line, both are the same."
    return [
        (f"Predicted {name}", remark, charts.scatter(*(_column(pairs[key], place) for key in ("true", "predicted"))))
        for place, name in enumerate(run.classes[:DRAWN])
    ]


def errors(run: StoredRun) -> list[tuple[str, str]]:
    """Return the name of each number and its mean absolute error, in its own unit."""
    found = run.results.get("test", {}).get("mae")
    return [] if found is None else [(name, f"{value:.4g}") for name, value in zip(run.classes, found, strict=True)]


def per_label(run: StoredRun) -> dict[str, Any] | None:
    """Return the F1 of each label, the worst first; None if there are no labels."""
    found = run.results.get("test", {}).get("per_label")
    if found is None:
        return None
    rows = sorted(zip(run.classes, found, strict=True), key=lambda row: row[1])[:20]
    return {
        "title": "F1 by label",
        "remark": "On test data, the worst label first.",
        "rows": [(name, f"{value:.3f}", value, "") for name, value in rows],
    }


def _column(rows: Sequence[Sequence[Any]], place: int) -> list[float]:
    return [float(row[place]) for row in rows]
