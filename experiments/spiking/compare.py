"""Feedback against the surrogate gradient with the same tuning budget: six settings each.

    python experiments/spiking/compare.py mnist-mlp vowels mnist-cnn fashion-cnn

Tuning: one seed of its own, trained on part of the training data (TUNING), scored on its held-out part. Then SEEDS
with the best setting, trained on all training data and tested once. Rows go to comparison.jsonl; what stands there
already is not run again.
"""

import argparse
import itertools
import sys
from pathlib import Path

import torch
from run import EPOCHS, train

sys.path.append(str(Path(__file__).parents[1]))
from results import command, flat, read_rows, write_row

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
RESULTS = Path(__file__).with_name("comparison.jsonl")


def run(task: str, method: str, setting: tuple[str, float, float, float], seed: int, *, test: bool) -> float:
    """Return the accuracy of one run, from the file if it is there."""
    key = {"task": task, "method": method, **dict(zip(SETTING, setting, strict=True)), "seed": seed, "test": test}
    for row in flat(read_rows(RESULTS)):
        if {name: row[name] for name in key} == key:
            return row["accuracy"]
    images, epochs = (0, EPOCHS[task]) if test else TUNING[task]
    settings = argparse.Namespace(
        **key, reward=key["objective"], loss=key["objective"], share=0.5, beta=0.9, epochs=epochs, train_on=images
    )
    result = train(settings)
    figures = {name: result[name] for name in ("accuracy", "history", "seconds")}
    print(key, figures, flush=True)
    kept = {name: value for name, value in key.items() if name != "seed"} | {"epochs": epochs}
    write_row(RESULTS, experiment="spiking", command=command(), seed=seed, settings=kept, figures=figures)
    return figures["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=list(TUNING))
    parser.add_argument("--methods", nargs="+", choices=list(GRID), default=list(GRID))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task, method in itertools.product(options.tasks, options.methods):
        grid = (CNN_GRID if task.endswith("cnn") else GRID)[method]
        scores = {setting: run(task, method, setting, TUNING_SEED, test=False) for setting in grid}
        best = max(scores, key=scores.__getitem__)
        for seed in SEEDS:
            run(task, method, best, seed, test=True)


if __name__ == "__main__":
    main()
