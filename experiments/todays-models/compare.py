"""Feedback against the gradient with the same tuning budget: six settings each.

    python experiments/todays-models/compare.py gpt-moby-dick vit-fashion ... [--methods lfp] [--data data]

Tuning: one seed of its own, scored on the validation part. Then SEEDS with the best setting, tested once. Rows go to
results.jsonl; what stands there already is not run again.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch
from run import train
from tasks import TASKS, Task

FLOORS = {"lfp": (0.01, 0.03), "backprop": (0.0,)}
RATES = {
    "from scratch": {"lfp": (2e-3, 4e-3, 8e-3), "backprop": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)},
    "fine-tuning": {"lfp": (3e-4, 1e-3, 3e-3), "backprop": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3)},
}
TUNING_SEED, SEEDS = 100, (0, 1, 2)
RESULTS = Path(__file__).with_name("results.jsonl")
KEYS = ("task", "method", "lr", "floor", "slope", "beta2", "seed", "test")


def rows() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def measured(task: Task, settings: argparse.Namespace) -> dict:
    """Return the result of one run, from the file if it is there."""
    key = {name: getattr(settings, name) for name in KEYS}
    for row in rows():
        if {name: row[name] for name in KEYS} == key:
            return row
    row = key | train(task, settings)
    print(row, flush=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(FLOORS), default=list(FLOORS))
    parser.add_argument("--slope", default="secant")
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tasks:
        task = TASKS[name](options.data)
        rates = RATES["from scratch" if name in ("gpt-moby-dick", "vit-fashion") else "fine-tuning"]
        for method in options.methods:
            common = {"task": name, "method": method, "slope": options.slope, "beta2": 0.99}
            grid = [
                argparse.Namespace(**common, lr=lr, floor=floor, seed=TUNING_SEED, test=False)
                for floor, lr in itertools.product(FLOORS[method], rates[method])
            ]
            best = min(grid, key=lambda settings: measured(task, settings)["loss" if "gpt" in name else "error"])
            for seed in SEEDS:
                measured(task, argparse.Namespace(**vars(best) | {"seed": seed, "test": True}))


if __name__ == "__main__":
    main()
