"""The one format of raw results: JSON lines, one row per result, with the keys of KEYS. Unknown values are null.

A run appends its rows to `runs.jsonl` beside its script, which git ignores, or to the file of --results. The other
files are the published results: only report.py reads them.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from scipy import stats

KEYS = ("experiment", "commit", "torch", "command", "seed", "settings", "figures")


def parser(description: str, script: str, *, results: str = "runs.jsonl") -> argparse.ArgumentParser:
    """Return a parser with the options of all scripts. `results` is a file beside the script."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("FEEDPROP_DATA", "data"))
    made.add_argument("--data", type=Path, default=data, help="folder of the data sets, $FEEDPROP_DATA or ./data")
    made.add_argument("--results", type=Path, default=Path(script).with_name(results), metavar="FILE")
    return made


def write_row(
    path: Path, *, experiment: str, seed: int | None, settings: dict, figures: dict, command: str | None = None
) -> None:
    """Print a result and append it to a file. One about several seeds has the seed null and lists them in its settings.

    The command is this process's own unless another one is given.
    """
    print(settings, seed, figures, flush=True)
    folder = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    commit = found.stdout.strip() if found.returncode == 0 else None
    command = command or shlex.join(["python", *sys.argv])
    values = (experiment, commit, torch.__version__, command, seed, settings, figures)
    with path.open("a") as file:
        file.write(json.dumps(dict(zip(KEYS, values, strict=True))) + "\n")


def read_rows(path: Path) -> list[dict]:
    """Return the rows of a file, or none if there is no such file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for row in rows:
        if tuple(row) != KEYS:
            raise ValueError(f"{path}: a row has the keys {', '.join(row)}; they must be {', '.join(KEYS)}")
    return rows


def flat(rows: list[dict]) -> list[dict]:
    """Return each row's settings, seed and figures in one dictionary."""
    return [row["settings"] | {"seed": row["seed"]} | row["figures"] for row in rows]


def shown(value: float) -> str:
    """Write an accuracy or a loss with four decimals and without a leading zero."""
    return f"{value:.4f}".removeprefix("0")


def with_interval(values: list[float]) -> str:
    """Write a mean and half the width of its 95 % interval; one value as it is."""
    mean = shown(statistics.mean(values))
    return mean if len(values) < 2 else f"{mean} ± {shown(half_width(values))}"


def half_width(values: list[float]) -> float:
    """Return half the width of the 95 % interval of a mean, by the t distribution; infinite for one value."""
    if len(values) < 2:
        return math.inf
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * spread
