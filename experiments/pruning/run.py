"""Which way to train leaves a network that can be pruned? LeNet on Fashion-MNIST and MNIST.

    OMP_NUM_THREADS=1 python experiments/pruning/run.py

Each family of `methods.py` has six settings, tried on Fashion-MNIST with one seed. The one with the best mean
validation accuracy at 0, 80, 90 and 95 % is then tested once per seed on both data sets, MNIST included without further
tuning. Networks are pruned by global magnitude, in one shot, without training afterwards. Rows that the file of
--results has already are not run again.
"""

import copy
import sys
import time
from pathlib import Path

import torch
from methods import FAMILIES
from torch import nn
from torchvision import datasets

import feedprop
from feedprop import pruning

sys.path.append(str(Path(__file__).parents[1]))
from loop import BATCH, Data, accuracy, images, lenet, split, steps
from results import flat, parser, read_rows, write_row

TRAINING, EPOCHS = 12000, 5
AMOUNTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
CHOSEN_BY = (0.0, 0.8, 0.9, 0.95)
TUNING_SEED, SEEDS = 100, (0, 1, 2)
SETS = {
    "fashion-mnist": (datasets.FashionMNIST, {"mean": 0.2860, "deviation": 0.3530}),
    "mnist": (datasets.MNIST, {}),
}
Setting = dict[str, object]


def pruned_accuracies(model: nn.Module, data: Data) -> dict[str, float] | None:
    """Return the accuracy with each share of the weights set to 0, "0.9": accuracy; None if training diverged."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        return None
    model = copy.deepcopy(model).eval()
    found = {}
    for amount in AMOUNTS:  # each prunes on, beginning with what is 0 already
        pruning.prune(model, pruning.magnitude(model), amount)
        found[str(amount)] = round(accuracy(model, data), 5)
    return found


def train(family: str, rate: float, strength: float, data: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = lenet(nn.ReLU)
    run = FAMILIES[family].make(model, rate, strength, EPOCHS * (len(data[0]) // BATCH))
    for step, _ in enumerate(steps(model, run.objective, data, optimizer=run.optimizer, epochs=EPOCHS), start=1):
        run.after(step)
    return feedprop.detach(model) if family.startswith("LFP") else model


def chosen(rows: list[dict], family: str) -> tuple[float, float]:
    """Return rate and strength of the setting that did best in tuning."""
    tuned = [row for row in rows if row["family"] == family and row["part"] == "validation" and row["accuracies"]]
    best = max(tuned, key=lambda row: sum(row["accuracies"][str(amount)] for amount in CHOSEN_BY))
    return best["rate"], best["strength"]


def main() -> None:
    options = parser(__doc__, __file__).parse_args()
    torch.set_num_threads(1)
    parts = {}

    def data(name: str, part: str) -> Data:
        if name not in parts:
            kind, scale = SETS[name]
            training, validation = split(images(kind, options.data, train=True, **scale), TRAINING)
            test = images(kind, options.data, train=False, **scale)
            parts[name] = {"training": training, "validation": validation, "test": test}
        return parts[name][part]

    def run(name: str, family: str, rate: float, strength: float, seed: int, part: str) -> None:
        settings = {"data": name, "family": family, "rate": rate, "strength": strength, "part": part}
        if any(row["seed"] == seed and row["settings"] == settings for row in read_rows(options.results)):
            return
        start = time.perf_counter()
        model = train(family, rate, strength, data(name, "training"), seed)
        accuracies = pruned_accuracies(model, data(name, part))
        figures = {
            "accuracies": accuracies,
            "zeros": round(pruning.sparsity(model), 5),
            "seconds": round(time.perf_counter() - start, 1),
        }
        write_row(options.results, experiment="pruning", seed=seed, settings=settings, figures=figures)

    for family, settings in FAMILIES.items():
        for rate, strength in settings.settings():
            run("fashion-mnist", family, rate, strength, TUNING_SEED, "validation")
    for name in SETS:
        for seed in SEEDS:
            for family in FAMILIES:
                run(name, family, *chosen(flat(read_rows(options.results)), family), seed, "test")


if __name__ == "__main__":
    main()
