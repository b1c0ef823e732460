"""Networks that have no useful derivative, on MNIST: feedback against the straight-through estimator.

    python experiments/nondifferentiable/run.py [--data data] [--networks step-mlp ...] [--methods feedback]

For every network and method: tune on 5,000 images held out of the training set (both optimizers, three learning
rates each, TUNING_EPOCHS), then train EPOCHS with three seeds that were not tuned on and test once. Results are
appended to results.jsonl.
"""

import argparse
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
from results import command, write_row

EPOCHS, TUNING_EPOCHS, BATCH, HELD_OUT = {"mlp": 10, "lenet": 15}, 2, 128, 5000
TUNING_SEED, SEEDS = 100, (0, 1, 2)
GRIDS = {  # of learning rates; equally many for both methods, around where each is known to work
    "feedback": {"sgd": (0.1, 0.3, 1.0), "adam": (3e-3, 1e-2, 3e-2)},
    "straight-through": {"sgd": (0.01, 0.03, 0.1), "adam": (3e-4, 1e-3, 3e-3)},
}
HERE = Path(__file__).parent


class StraightThrough(nn.Module):
    """forward(z), backward of the hard tanh around it (Bengio et al. 2013; Hubara et al. 2016, eq. 4)."""

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


def mlp(activation: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 120), activation()),
        *(nn.Linear(120, 84), activation(), nn.Linear(84, 10)),
    )


def lenet(activation: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5), activation(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 5), activation(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)),
    )


def binary_weights(straight_through: bool) -> nn.Sequential:
    network = mlp(nn.ReLU)
    for layer in network:
        if isinstance(layer, nn.Linear):
            how = StraightThroughSign() if straight_through else discrete.BinaryWeight()
            parametrize.register_parametrization(layer, "weight", how)
    return network


def network_of(name: str, method: str) -> nn.Sequential:
    """Both methods get the same forward pass; the straight-through estimator another backward one."""
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


GOALS = {
    "step-mlp": 0.95,
    "sign-mlp": 0.96,
    "step-lenet": 0.97,
    "sign-lenet": 0.98,
    "2bit-lenet": 0.98,
    "sigmoid-lenet": 0.98,
    "binaryweight-mlp": 0.95,
}


def images(root: str, *, train: bool) -> tuple[Tensor, Tensor]:
    data = datasets.MNIST(root, train=train)
    return (data.data.unsqueeze(1).float() / 255 - 0.1307) / 0.3081, data.targets


def train(
    name: str, method: str, data: tuple[Tensor, Tensor], *, optimizer: str, lr: float, epochs: int, seed: int
) -> nn.Module:
    torch.manual_seed(seed)
    model = network_of(name, method)
    criterion: nn.Module = nn.CrossEntropyLoss()
    if method == "feedback":
        feedprop.attach(model)
        criterion = rewards.SoftmaxReward()
    made = {"sgd": lambda p: torch.optim.SGD(p, lr, momentum=0.9), "adam": lambda p: torch.optim.Adam(p, lr)}
    optimization = made[optimizer](model.parameters())
    inputs, targets = data
    steps = len(inputs) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimization, lr, total_steps=steps * epochs, cycle_momentum=False)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs))[: steps * BATCH].split(BATCH):
            optimization.zero_grad()
            criterion(model(inputs[batch]), targets[batch]).backward()
            optimization.step()
            schedule.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    inputs, targets = data
    found = torch.cat([model(part).argmax(1) for part in inputs.split(1000)])
    return (found == targets).float().mean().item()


def keep(settings: dict, seed: int, **figures: float) -> None:
    print(settings, seed, figures, flush=True)
    path = HERE / "results.jsonl"
    write_row(path, experiment=HERE.name, command=command(), seed=seed, settings=settings, figures=figures)


def run(name: str, method: str, root: str) -> None:
    inputs, targets = images(root, train=True)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
    validation, training = (inputs[held_out], targets[held_out]), (inputs[rest], targets[rest])
    tuned = {}
    for optimizer, rates in GRIDS[method].items():
        for lr in rates:
            model = train(name, method, training, optimizer=optimizer, lr=lr, epochs=TUNING_EPOCHS, seed=TUNING_SEED)
            tuned[optimizer, lr] = accuracy(model, validation)
            settings = {"phase": "tuning", "network": name, "method": method, "optimizer": optimizer, "lr": lr}
            keep(settings, TUNING_SEED, validation=tuned[optimizer, lr])
    optimizer, lr = max(tuned, key=tuned.__getitem__)
    test, epochs = images(root, train=False), EPOCHS[name.partition("-")[2]]
    for seed in SEEDS:
        start = time.perf_counter()
        model = train(name, method, training, optimizer=optimizer, lr=lr, epochs=epochs, seed=seed)
        seconds = time.perf_counter() - start
        settings = {"phase": "test", "network": name, "method": method, "optimizer": optimizer, "lr": lr}
        keep(settings | {"epochs": epochs}, seed, test=accuracy(model, test), seconds=round(seconds, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    parser.add_argument("--networks", nargs="+", default=list(GOALS))
    parser.add_argument("--methods", nargs="+", default=list(GRIDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        for method in options.methods:
            run(name, method, options.data)


if __name__ == "__main__":
    main()
