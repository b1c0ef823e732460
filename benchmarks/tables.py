"""The table of ratios that several benchmarks print, and write as JSON."""

import json
import statistics
from pathlib import Path

import torch


class Table:
    """Prints the median and the quartiles of each row as it comes."""

    def __init__(self, title: str) -> None:
        self.rows: dict[str, dict] = {}
        print(f"{title:28}{'median':>8}{'quartiles':>16}")

    def add(self, label: str, ratios: list[float]) -> None:
        low, middle, high = statistics.quantiles(ratios, n=4)
        self.rows[label] = {"median": middle, "quartiles": [low, high], "rounds": len(ratios)}
        print(f"{label:28}{middle:8.3f}{low:8.3f}{high:8.3f}", flush=True)

    def write(self, path: Path | None, *, threads: int) -> None:
        """Write all rows, if there is a path."""
        if path:
            facts = {"torch": torch.__version__, "threads": threads, "ratios": self.rows}
            path.write_text(json.dumps(facts, indent=1))
