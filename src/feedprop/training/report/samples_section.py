"""The report on single test samples: images and texts with their predictions, and decision boundaries in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from feedprop.training.report import charts


def pictures(samples: Mapping[str, Any], classes: Sequence[object]) -> list[tuple[str, str, Markup]]:
    """Return title, remark and picture of what samples.json holds."""
    found = []
    if plane := samples.get("plane"):
        drawn = charts.boundaries(plane["grid"], plane["extent"], plane["points"], classes)
        found.append(("Decision boundaries", "Areas show predictions, points show test data.", drawn))
    return found


def answered(samples: Mapping[str, Any], classes: Sequence[object]) -> list[dict[str, Any]]:
    """Return the rows of images or texts with their answers, each with a heading, for the page."""
    found = samples.get("images", samples.get("texts"))
    if not found:
        return []
    mistakes = f"The first mistakes among {found['searched']:,} test samples" if found["mistakes"] else ""
    rows = ((f"The first {len(found['first'])} test samples", found["first"]), (mistakes, found["mistakes"]))
    return [{"title": title, "samples": [_named(row, classes) for row in shown]} for title, shown in rows if shown]


def _named(row: Mapping[str, Any], classes: Sequence[object]) -> dict[str, Any]:
    label, answer = (str(classes[int(row[key])]) for key in ("label", "answer"))
    shown = {key: str(row[key]) for key in ("png", "text") if key in row}
    return {**shown, "label": label, "answer": answer, "right": row["label"] == row["answer"]}
