"""Feedback against the gradient with the same tuning budget: as many learning rates for each.

    python experiments/todays-models/compare.py gpt-moby-dick vit-fashion ... [--methods lfp] [--relative] [--data data]

Tuning: one seed of its own, scored on the validation part. Then SEEDS with the best setting, tested once. Rows go to
results.jsonl; what stands there already is not run again.
"""

import argparse
import sys
from pathlib import Path

import torch
from run import train
from tasks import TASKS, Task

sys.path.append(str(Path(__file__).parents[1]))
from results import command, flat, read_rows, write_row

RATES = {
    "gpt-moby-dick": dict.fromkeys(("lfp", "backprop"), (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
    "vit-fashion": dict.fromkeys(("lfp", "backprop"), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
    "minilm-spam": {"lfp": (1e-4, 3e-4, 1e-3, 3e-3), "backprop": (3e-5, 1e-4, 3e-4, 1e-3)},
}
CONVOLUTIONAL = {"lfp": (3e-4, 1e-3, 3e-3, 1e-2), "backprop": (1e-4, 3e-4, 1e-3, 3e-3)}
FLOOR, RELATIVE_FLOOR = {"lfp": 0.01, "backprop": 0.0}, 0.3
TUNING_SEED, SEEDS = 100, (0, 1, 2)
RESULTS = Path(__file__).with_name("results.jsonl")
KEYS = ("task", "method", "lr", "floor", "relative", "clip", "slope", "beta2", "seed", "test")
LATER = {"relative": False, "clip": 1.0}  # settings that came when there were results already


def rows() -> list[dict]:
    return [LATER | row for row in flat(read_rows(RESULTS))]


def measured(task: Task, settings: argparse.Namespace) -> dict:
    """Return the result of one run, from the file if it is there."""
    key = {name: getattr(settings, name) for name in KEYS}
    for row in rows():
        if {name: row[name] for name in KEYS} == key:
            return row
    figures = train(task, settings)
    print(key, figures, flush=True)
    kept = {name: value for name, value in key.items() if name != "seed"}
    write_row(
        RESULTS, experiment="todays-models", command=command(), seed=settings.seed, settings=kept, figures=figures
    )
    return key | figures


def compare(task: Task, name: str, method: str, slope: str, *, relative: bool) -> None:
    floor = RELATIVE_FLOOR if relative else FLOOR[method]
    common = LATER | {
        "task": name,
        "method": method,
        "floor": floor,
        "relative": relative,
        "slope": slope,
        "beta2": 0.99,
    }
    rates = RATES.get(name, CONVOLUTIONAL)["backprop" if relative else method]  # relative: of the gradient's scale
    grid = [argparse.Namespace(**common, lr=rate, seed=TUNING_SEED, test=False) for rate in rates]
    best = min(grid, key=lambda settings: measured(task, settings)["loss" if "gpt" in name else "error"])
    for seed in SEEDS:
        measured(task, argparse.Namespace(**vars(best) | {"seed": seed, "test": True}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(FLOOR), default=list(FLOOR))
    parser.add_argument("--relative", action="store_true", help="relative magnitudes, for lfp")
    parser.add_argument("--slope", help="of activations; if not given, a chord for GELU and the secant for ReLU6")
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tasks:
        task = TASKS[name](options.data)
        slope = options.slope or ("chord-0.5" if name in RATES else "secant")
        for method in options.methods:
            lfp = method == "lfp"
            compare(task, name, method, slope if lfp else "derivative", relative=options.relative and lfp)


if __name__ == "__main__":
    main()
