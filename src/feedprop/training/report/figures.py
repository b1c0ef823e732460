"""Figures as text: on the page, and as a table for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Return a table with one line per row.

    Args:
        rows: a figure within another one has a column such as train.accuracy.
        columns: what is written; all figures unless given, in the order of their first use.
    """
    flat = [dict(_flat(row)) for row in rows]
    file = io.StringIO()
    names = columns or list(dict.fromkeys(key for row in flat for key in row))
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def _flat(row: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif not isinstance(value, list):  # sentences, which metrics.jsonl has
            yield before + key, value


def plain(value: Any) -> str:
    """Return a value of a configuration as text."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def count(number: float) -> str:
    """Return a large number in thousands, millions or billions."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
