"""Networks that have no useful derivative, on MNIST: feedback against straight-through estimators.

    python experiments/nondifferentiable/run.py [--data data] [--networks step-mlp ...] [--methods feedback]

For every network and method: tune on 5,000 images held out of the training set (both optimizers, three learning rates
each, TUNING_EPOCHS). Feedback and the estimator with the best validation accuracy then train EPOCHS with three other
seeds and are tested once. A run that was stopped goes on where it was: rows that the file has are not computed again.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchvision import datasets

import feedprop
from feedprop import discrete, rewards

sys.path.append(str(Path(__file__).parents[1]))
from loop import Data, accuracy, images, lenet, make_optimizer, mlp, split
from loop import train as train_model
from results import parser, read_rows, write_row

EPOCHS, TUNING_EPOCHS = {"mlp": 10, "lenet": 15}, 2
TUNING_SEED, SEEDS = 100, (9, 10, 11)  # 0 to 8 were tested with earlier defaults
GRID = {"sgd": (0.01, 0.03, 0.1), "adam": (3e-4, 1e-3, 3e-3)}  # of learning rates, for every method
ESTIMATORS = ("hard-tanh", "identity", "sigmoid-slope")
METHODS = ("feedback", *ESTIMATORS)
NETWORKS = ("step-mlp", "sign-mlp", "step-lenet", "sign-lenet", "2bit-lenet", "sigmoid-lenet", "binaryweight-mlp")


class StraightThrough(nn.Module):
    """forward(z), with the backward of another function, whose slope is 1 in the middle between `low` and `high`.

    Args:
        forward: the activation.
        estimator: "hard-tanh" has slope 0 outside of [low, high] (Bengio et al. 2013; Hubara et al. 2016, eq. 4),
            "identity" slope 1 everywhere, "sigmoid-slope" that of a sigmoid with the range of the hard tanh.
        low: where the activation begins to change.
        high: where it has changed.
    """

    def __init__(self, forward: nn.Module, estimator: str, low: float, high: float) -> None:
        super().__init__()
        self.discrete, self.estimator, self.low, self.high = forward, estimator, low, high

    def forward(self, z: Tensor) -> Tensor:
        width, middle = self.high - self.low, (self.high + self.low) / 2
        through = {
            "hard-tanh": lambda: z.clamp(self.low, self.high),
            "identity": lambda: z,
            "sigmoid-slope": lambda: width * torch.sigmoid(4 * (z - middle) / width),
        }[self.estimator]()
        return through + (self.discrete(z.detach()) - through).detach()


def binary_weights(method: str) -> nn.Sequential:
    network = mlp(nn.ReLU)
    for layer in network:
        if isinstance(layer, nn.Linear):
            binary: nn.Module = discrete.BinaryWeight()
            how = binary if method == "feedback" else StraightThrough(binary, method, -1.0, 1.0)
            parametrize.register_parametrization(layer, "weight", how)
    return network


def network_of(name: str, method: str) -> nn.Sequential:
    """Return the network, with the same forward pass for all methods; only the backward pass differs."""
    kind, _, shape = name.partition("-")
    if kind == "binaryweight":
        return binary_weights(method)
    discrete_activation, low, high = {
        "step": (discrete.Step, -1.0, 1.0),
        "sign": (discrete.Sign, -1.0, 1.0),
        "2bit": (discrete.Quantize, 0.0, 1.0),
        "sigmoid": (nn.Sigmoid, 0.0, 0.0),
    }[kind]

    def activation() -> nn.Module:
        if method == "feedback" or kind == "sigmoid":  # the sigmoid has a gradient
            return discrete_activation()
        return StraightThrough(discrete_activation(), method, low, high)

    return {"mlp": mlp, "lenet": lenet}[shape](activation)


def train(name: str, method: str, training: Data, *, optimizer: str, lr: float, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = network_of(name, method)
    criterion: nn.Module = nn.CrossEntropyLoss()
    if method == "feedback":
        feedprop.attach(model)
        criterion = rewards.SoftmaxReward()
    train_model(model, criterion, training, optimizer=make_optimizer(optimizer, model, lr), epochs=epochs)
    return model


class Results:
    """The rows of a network, computed once."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def figure(self, compute: Callable[[], dict], *, seed: int, key: str, **settings) -> float:
        """Return figure `key` of the row with these settings; compute and keep the row if there is none."""
        settings = {"network": self.name} | settings
        for row in read_rows(self.path):
            if row["seed"] == seed and row["settings"] == settings:
                return row["figures"][key]
        figures = compute()
        write_row(self.path, experiment="nondifferentiable", seed=seed, settings=settings, figures=figures)
        return figures[key]


def tune(name: str, method: str, results: Results, training: Data, validation: Data) -> tuple[float, dict]:
    """Return the best validation accuracy, and its settings."""
    tuned = []
    for optimizer, rates in GRID.items():
        for lr in rates:
            settings = {"method": method, "optimizer": optimizer, "lr": lr}

            def compute(optimizer: str = optimizer, lr: float = lr) -> dict:
                given = {"optimizer": optimizer, "lr": lr, "epochs": TUNING_EPOCHS, "seed": TUNING_SEED}
                return {"validation": accuracy(train(name, method, training, **given), validation)}

            found = results.figure(compute, seed=TUNING_SEED, key="validation", phase="tuning", **settings)
            tuned.append((found, settings))
    return max(tuned, key=lambda pair: pair[0])


def test(name: str, settings: dict, results: Results, training: Data, held_out: Data) -> None:
    epochs = EPOCHS[name.partition("-")[2]]
    for seed in SEEDS:

        def compute(seed: int = seed) -> dict:
            start = time.perf_counter()
            model = train(name, training=training, epochs=epochs, seed=seed, **settings)
            seconds = round(time.perf_counter() - start, 1)
            return {"test": accuracy(model, held_out), "seconds": seconds}

        results.figure(compute, seed=seed, key="test", phase="test", epochs=epochs, **settings)


def run(name: str, methods: list[str], root: Path, path: Path) -> None:
    training, validation = split(images(datasets.MNIST, root, train=True))
    held_out, results = images(datasets.MNIST, root, train=False), Results(name, path)
    if name.startswith("sigmoid"):
        methods = [method for method in methods if method in ("feedback", "identity")]  # all estimators are the same
    tuned = {method: tune(name, method, results, training, validation) for method in methods}
    estimators = [method for method in methods if method in ESTIMATORS]
    chosen = [max(estimators, key=lambda method: tuned[method][0])] if estimators else []
    for method in [*(method for method in methods if method == "feedback"), *chosen]:
        test(name, tuned[method][1], results, training, held_out)


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        run(name, options.methods, options.data, options.results)


if __name__ == "__main__":
    main()
