"""Feedback against the gradient with the same tuning budget: as many learning rates for each.

    python experiments/todays-models/compare.py gpt-moby-dick vit-fashion ... [--methods lfp] [--relative] [--data data]

Tuning: one seed of its own, scored on the validation part. Then SEEDS with the best setting, tested once. A run that
the file of --results already holds is not repeated.
"""

import argparse
import functools
import sys
from pathlib import Path

import torch
from run import train
from tasks import TASKS, Task

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows, write_row

RATES = {
    "gpt-moby-dick": dict.fromkeys(("lfp", "backprop"), (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
    "vit-fashion": dict.fromkeys(("lfp", "backprop"), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
    "minilm-spam": {"lfp": (1e-4, 3e-4, 1e-3, 3e-3), "backprop": (3e-5, 1e-4, 3e-4, 1e-3)},
}
CONVOLUTIONAL = {"lfp": (3e-4, 1e-3, 3e-3, 1e-2), "backprop": (1e-4, 3e-4, 1e-3, 3e-3)}
FLOOR, RELATIVE_FLOOR = {"lfp": 0.01, "backprop": 0.0}, 0.3
TUNING_SEED, SEEDS = 100, (0, 1, 2)
LATER = {"relative": False, "clip": 1.0}  # settings that the first published rows do not have


def rows(path: Path) -> list[dict]:
    return [LATER | row for row in flat(read_rows(path))]


def measured(task: Task, path: Path, settings: argparse.Namespace) -> dict:
    """Return the figures of one run, from the file of results if it holds them."""
    key = vars(settings)
    for row in rows(path):
        if key.items() <= row.items():
            return row
    figures = train(task, settings)
    kept = {name: value for name, value in key.items() if name != "seed"}
    write_row(path, experiment="todays-models", seed=settings.seed, settings=kept, figures=figures)
    return figures


def compare(task: Task, path: Path, name: str, method: str, slope: str, *, relative: bool) -> None:
    settings = functools.partial(
        argparse.Namespace,
        task=name,
        method=method,
        floor=RELATIVE_FLOOR if relative else FLOOR[method],
        relative=relative,
        clip=1.0,
        slope=slope,
        beta2=0.99,
    )
    rates = RATES.get(name, CONVOLUTIONAL)["backprop" if relative else method]  # relative: of the gradient's scale
    figure = "loss" if "gpt" in name else "error"
    tuned = {rate: measured(task, path, settings(lr=rate, seed=TUNING_SEED, test=False))[figure] for rate in rates}
    best = min(tuned, key=tuned.__getitem__)
    for seed in SEEDS:
        measured(task, path, settings(lr=best, seed=seed, test=True))


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("tasks", nargs="+", choices=list(TASKS))
    arguments.add_argument("--methods", nargs="+", choices=list(FLOOR), default=list(FLOOR))
    arguments.add_argument("--relative", action="store_true", help="relative magnitudes, for lfp")
    arguments.add_argument("--slope", help="of activations; default: differences for GELU, the secant for ReLU6")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name in options.tasks:
        task = TASKS[name](options.data)
        slope = options.slope or ("central-0.5" if name in RATES else "secant")
        for method in options.methods:
            lfp = method == "lfp"
            compare(
                task, options.results, name, method, slope if lfp else "derivative", relative=options.relative and lfp
            )


if __name__ == "__main__":
    main()
