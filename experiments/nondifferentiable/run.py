"""Networks that have no useful derivative, on MNIST: feedback against the straight-through estimator.

    python experiments/nondifferentiable/run.py [--data data] [--networks step-mlp ...] [--methods feedback]

For every network and method: tune on 5,000 images held out of the training set (both optimizers, three learning rates
each, TUNING_EPOCHS), then train EPOCHS with three other seeds and test once.
"""

import sys
import time
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
from results import parser, write_row

EPOCHS, TUNING_EPOCHS = {"mlp": 10, "lenet": 15}, 2
TUNING_SEED, SEEDS = 100, (0, 1, 2)
GRIDS = {  # of learning rates; equally many for both methods, around where each is known to work
    "feedback": {"sgd": (0.1, 0.3, 1.0), "adam": (3e-3, 1e-2, 3e-2)},
    "straight-through": {"sgd": (0.01, 0.03, 0.1), "adam": (3e-4, 1e-3, 3e-3)},
}
NETWORKS = ("step-mlp", "sign-mlp", "step-lenet", "sign-lenet", "2bit-lenet", "sigmoid-lenet", "binaryweight-mlp")


class StraightThrough(nn.Module):
    """forward(z), with the backward of a hard tanh around it (Bengio et al. 2013; Hubara et al. 2016, eq. 4)."""

    def __init__(self, forward: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.discrete, self.low, self.high = forward, low, high

    def forward(self, z: Tensor) -> Tensor:
        through = z.clamp(self.low, self.high)
        return through + (self.discrete(z.detach()) - through).detach()


class StraightThroughSign(nn.Module):
    """BinaryWeight with the identity as its backward."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (discrete.BinaryWeight()(weight.detach()) - weight).detach()


def binary_weights(straight_through: bool) -> nn.Sequential:
    network = mlp(nn.ReLU)
    for layer in network:
        if isinstance(layer, nn.Linear):
            how = StraightThroughSign() if straight_through else discrete.BinaryWeight()
            parametrize.register_parametrization(layer, "weight", how)
    return network


def network_of(name: str, method: str) -> nn.Sequential:
    """Return the network, with the same forward pass for both methods; only the backward pass differs."""
    straight_through = method == "straight-through"
    kind, _, shape = name.partition("-")
    if kind == "binaryweight":
        return binary_weights(straight_through)
    discrete_activation, low, high = {
        "step": (discrete.Step, -1.0, 1.0),
        "sign": (discrete.Sign, -1.0, 1.0),
        "2bit": (discrete.Quantize, 0.0, 1.0),
        "sigmoid": (nn.Sigmoid, 0.0, 0.0),
    }[kind]

    def activation() -> nn.Module:
        if straight_through and kind != "sigmoid":  # the sigmoid has a gradient
            return StraightThrough(discrete_activation(), low, high)
        return discrete_activation()

    return {"mlp": mlp, "lenet": lenet}[shape](activation)


def train(name: str, method: str, data: Data, *, optimizer: str, lr: float, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = network_of(name, method)
    criterion: nn.Module = nn.CrossEntropyLoss()
    if method == "feedback":
        feedprop.attach(model, feedprop.rules.Composite())  # plain |w|, as recorded
        criterion = rewards.SoftmaxReward()
    train_model(model, criterion, data, optimizer=make_optimizer(optimizer, model, lr), epochs=epochs)
    return model


def run(name: str, method: str, root: Path, results: Path) -> None:
    training, validation = split(images(datasets.MNIST, root, train=True))

    def keep(seed: int, figures: dict, **settings) -> None:
        settings = {"network": name, "method": method, "optimizer": optimizer, "lr": lr} | settings
        write_row(results, experiment="nondifferentiable", seed=seed, settings=settings, figures=figures)

    tuned = {}
    for optimizer, rates in GRIDS[method].items():
        for lr in rates:
            model = train(name, method, training, optimizer=optimizer, lr=lr, epochs=TUNING_EPOCHS, seed=TUNING_SEED)
            tuned[optimizer, lr] = accuracy(model, validation)
            keep(TUNING_SEED, {"validation": tuned[optimizer, lr]}, phase="tuning")
    optimizer, lr = max(tuned, key=tuned.__getitem__)
    test, epochs = images(datasets.MNIST, root, train=False), EPOCHS[name.partition("-")[2]]
    for seed in SEEDS:
        start = time.perf_counter()
        model = train(name, method, training, optimizer=optimizer, lr=lr, epochs=epochs, seed=seed)
        seconds = round(time.perf_counter() - start, 1)
        keep(seed, {"test": accuracy(model, test), "seconds": seconds}, phase="test", epochs=epochs)


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    arguments.add_argument("--methods", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        for method in options.methods:
            run(name, method, options.data, options.results)


if __name__ == "__main__":
    main()
