"""Feedback against the surrogate gradient with the same tuning budget: six settings each.

    python experiments/spiking/compare.py mnist-mlp vowels mnist-cnn fashion-cnn

Tuning: one seed of its own, trained on part of the training data (TUNING), scored on its held-out part. Then SEEDS
with the best setting, trained on all training data and tested once. A run that the file of --results already holds is
not repeated.
"""

import argparse
import functools
import itertools
import sys
from pathlib import Path

import torch
from run import EPOCHS, train

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows, write_row

GRID = {  # objective, epsilon, magnitude floor and learning rate
    "feedback": list(itertools.product(("target", "rate"), (1.0,), (0.0,), (1e-3, 2e-3, 4e-3))),
    "surrogate": list(itertools.product(("mse-count", "rate"), (0.0,), (0.0,), (1e-3, 3e-3, 1e-2))),
}
CNN_GRID = GRID | {"feedback": list(itertools.product(("target",), (0.1, 0.3), (0.02,), (1e-3, 2e-3, 4e-3)))}
SETTING = ("objective", "epsilon", "floor", "lr")
TUNING = {  # images and epochs
    "mnist-mlp": (12800, 2),
    "mnist-cnn": (6400, 3),
    "fashion-cnn": (6400, 3),
    "vowels": (0, EPOCHS["vowels"]),
}
TUNING_SEED, SEEDS = 100, (0, 1, 2)


def run(task: str, method: str, setting: tuple, seed: int, *, test: bool, data: Path, results: Path) -> float:
    """Return the accuracy of one run, from the file of results if it holds it."""
    key = {"task": task, "method": method, **dict(zip(SETTING, setting, strict=True)), "seed": seed, "test": test}
    for row in flat(read_rows(results)):
        if key.items() <= row.items():
            return row["accuracy"]
    images, epochs = (0, EPOCHS[task]) if test else TUNING[task]
    settings = argparse.Namespace(
        **key, reward=setting[0], loss=setting[0], share=0.5, beta=0.9, epochs=epochs, train_on=images, data=data,
        gradual=0.0, one_shot=0.0,
    )  # fmt: skip
    figures = train(settings)
    del key["seed"]
    write_row(results, experiment="spiking", seed=seed, settings=key | {"epochs": epochs}, figures=figures)
    return figures["accuracy"]


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("tasks", nargs="+", choices=list(TUNING))
    arguments.add_argument("--methods", nargs="+", choices=list(GRID), default=list(GRID))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for task, method in itertools.product(options.tasks, options.methods):
        grid = (CNN_GRID if task.endswith("cnn") else GRID)[method]
        once = functools.partial(run, task, method, data=options.data, results=options.results)
        scores = {setting: once(setting, TUNING_SEED, test=False) for setting in grid}
        best = max(scores, key=scores.__getitem__)
        for seed in SEEDS:
            once(best, seed, test=True)


if __name__ == "__main__":
    main()
