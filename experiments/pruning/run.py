"""Which way to train leaves a network that can be pruned? LeNet and a small VGG, on Fashion-MNIST and MNIST.

    OMP_NUM_THREADS=1 python experiments/pruning/run.py [--seeds 3 4 5]

Each way to train, in `methods.py`, has families of six settings, tried by LeNet on Fashion-MNIST with one seed. For
each share of weights the way's setting with the best validation accuracy is then tested, once per seed, on both data
sets and with both networks, without further tuning. Ways that prune in one shot set the weights of least magnitude to
0 after training, and do not train afterwards. Rows that the file of --results has already are not run again.
"""

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from methods import FAMILIES, WAYS
from torch import nn
from torchvision import datasets

import feedprop
from feedprop import pruning

sys.path.append(str(Path(__file__).parents[1]))
from loop import BATCH, Data, accuracy, images, lenet, split, steps
from results import flat, parser, read_rows, write_row

AMOUNTS = (0.0, 0.8, 0.9, 0.95, 0.98)
TUNING_SEED, SEEDS = 100, (3, 4, 5)  # seeds 0 to 2 were seen in tests with other settings
SETS = {
    "fashion-mnist": (datasets.FashionMNIST, {"mean": 0.2860, "deviation": 0.3530}),
    "mnist": (datasets.MNIST, {}),
}


def vgg() -> nn.Sequential:
    """Pairs of 3 x 3 convolutions with batch normalisation, 16, 32 and 64 channels."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        for size in (inputs, outputs):
            layers += [nn.Conv2d(size, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 9, 128), nn.ReLU(), nn.Linear(128, 10))


@dataclass(frozen=True)
class Network:
    """A network, and for how long it is trained."""

    make: Callable[[], nn.Module]
    images: int
    epochs: int


NETWORKS = {"lenet": Network(lambda: lenet(nn.ReLU), 55000, 3), "vgg": Network(vgg, 12000, 5)}


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


def train(network: Network, family: str, rate: float, strength: float, data: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = network.make()
    run = FAMILIES[family].make(model, rate, strength, network.epochs * (len(data[0]) // BATCH))
    trained = steps(model, run.objective, data, optimizer=run.optimizer, epochs=network.epochs)
    for step, _ in enumerate(trained, start=1):
        run.after(step)
    return feedprop.detach(model) if family.startswith("LFP") else model


def chosen(rows: list[dict], way: str) -> list[tuple[str, float, float]]:
    """Return the settings, family, rate and strength, that did best in tuning at one of the shares of weights."""
    tuned = [row for row in rows if row["family"] in WAYS[way] and row["part"] == "validation" and row["accuracies"]]
    best = (max(tuned, key=lambda row: row["accuracies"][str(amount)]) for amount in AMOUNTS)
    return list(dict.fromkeys((row["family"], row["rate"], row["strength"]) for row in best))


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--seeds", type=int, nargs="*", default=SEEDS, help="of the tests")
    arguments.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    arguments.add_argument("--sets", nargs="+", default=[*SETS], choices=[*SETS])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    parts = {}

    def data(name: str, part: str, size: int) -> Data:
        if (name, size) not in parts:
            kind, scale = SETS[name]
            training, validation = split(images(kind, options.data, train=True, **scale), size)
            test = images(kind, options.data, train=False, **scale)
            parts[name, size] = {"training": training, "validation": validation, "test": test}
        return parts[name, size][part]

    def run(name: str, network: str, setting: tuple[str, float, float], seed: int, part: str) -> None:
        family, rate, strength = setting
        settings = {"data": name, "network": network, "family": family, "rate": rate, "strength": strength}
        settings["part"] = part
        if any(row["seed"] == seed and row["settings"] == settings for row in read_rows(options.results)):
            return
        start = time.perf_counter()
        size = NETWORKS[network].images
        model = train(NETWORKS[network], family, rate, strength, data(name, "training", size), seed)
        figures = {
            "accuracies": pruned_accuracies(model, data(name, part, size)),
            "zeros": round(pruning.sparsity(model), 5),
            "seconds": round(time.perf_counter() - start, 1),
        }
        write_row(options.results, experiment="pruning", seed=seed, settings=settings, figures=figures)

    for family in (family for families in WAYS.values() for family in families):
        for rate, strength in FAMILIES[family].settings():
            run("fashion-mnist", "lenet", (family, rate, strength), TUNING_SEED, "validation")
    for network in options.networks:
        for name in options.sets:
            for seed in options.seeds:
                for way in WAYS:
                    for setting in chosen(flat(read_rows(options.results)), way):
                        run(name, network, setting, seed, "test")


if __name__ == "__main__":
    main()
