"""What several experiments share: images in memory, two networks, a training loop and its score.

The loop of `feedprop train` is not used: it draws its batches and its validation part differently, and the recorded
figures would change.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

BATCH = 128
Data = tuple[Tensor, Tensor]  # inputs and labels


def images(kind: type, root: Path, *, train: bool, mean: float = 0.1307, deviation: float = 0.3081) -> Data:
    """Return images (N, 1, 28, 28) and labels of a data set of torchvision."""
    found = kind(root, train=train)
    return (found.data.unsqueeze(1).float() / 255 - mean) / deviation, found.targets


def split(data: Data, size: int | None = None) -> tuple[Data, Data]:
    """Return training data, `size` or all that is left, and 5,000 validation images; the same at every call."""
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(0))
    training, validation = ((data[0][rows], data[1][rows]) for rows in (order[5000:][:size], order[:5000]))
    return training, validation


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


def make_optimizer(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr)
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def steps(
    model: nn.Module,
    criterion: nn.Module,
    data: Data,
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    cycle: bool = True,
    drop_last: bool = True,
) -> Iterator[float]:
    """Train step by step, with OneCycle or a constant learning rate, and yield the seconds of each step."""
    inputs, targets = data
    size = len(inputs) // BATCH * BATCH if drop_last else len(inputs)
    schedule = None
    if cycle:
        lr, total = optimizer.defaults["lr"], epochs * -(-size // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=total, cycle_momentum=False)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs))[:size].split(BATCH):
            start = time.perf_counter()
            optimizer.zero_grad()
            criterion(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            yield time.perf_counter() - start


def train(*args, **settings) -> None:
    for _ in steps(*args, **settings):
        pass


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    answers = torch.cat([model(part).argmax(1) for part in data[0].split(1000)])
    return (answers == data[1]).float().mean().item()
