"""The one format of raw results: JSON lines, one row per result, with the keys of KEYS. Unknown values are null."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import torch

KEYS = ("experiment", "commit", "torch", "command", "seed", "settings", "figures")


def command() -> str:
    return shlex.join(["python", *sys.argv])


def write_row(
    path: Path, *, experiment: str, command: str | None, seed: int | None, settings: dict, figures: dict
) -> None:
    """Append a row. A row about several seeds has the seed null and lists the seeds in its settings."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    commit = found.stdout.strip() if found.returncode == 0 else None
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
