"""Time of one training step by LFP over one by backprop: the same network, data and optimizer, interleaved in one run.

    python benchmarks/step_time.py [--rounds 60] [--compiled] [--json FILE]

A step is forward, reward or loss, backward, optimizer. Every round times each contender once, in turn; the figure is
the median over rounds of the ratio within a round, so that a machine that changes speed does not change it.
"""

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import feedprop
from feedprop import rewards


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)
    )


def lenet(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5), activation(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 5), activation(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)),
    )


def vgg_with_norm(activation: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for inner, outer in ((1, 32), (32, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), activation(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


NETWORKS = {
    "mlp relu": (mlp, nn.ReLU),
    "lenet relu": (lenet, nn.ReLU),
    "lenet tanh": (lenet, nn.Tanh),
    "lenet gelu": (lenet, nn.GELU),
    "lenet silu": (lenet, nn.SiLU),
    "vgg-bn relu": (vgg_with_norm, nn.ReLU),
}


def training_step(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()

    return step


def ratios(network: nn.Module, *, compiled: bool, rounds: int, batch: int) -> list[float]:
    inputs, targets = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    by_gradient, by_feedback = network, copy.deepcopy(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # batch norm's biases start at 0
        feedprop.attach(by_feedback)
    if compiled:
        by_gradient, by_feedback = torch.compile(by_gradient), torch.compile(by_feedback)
    steps = (
        training_step(by_feedback, rewards.SoftmaxReward(), inputs, targets),
        training_step(by_gradient, nn.CrossEntropyLoss(), inputs, targets),
    )
    found = []
    for round_number in range(rounds + 5):
        seconds = []
        for step in steps:
            start = time.perf_counter()
            step()
            step()
            seconds.append(time.perf_counter() - start)
        if round_number >= 5:
            found.append(seconds[0] / seconds[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compiled", action="store_true", help="time torch.compile'd networks too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = {}
    print(f"{'LFP step / backprop step':28}{'median':>8}{'quartiles':>16}")
    for compiled in (False, True) if options.compiled else (False,):
        for name, (build, activation) in NETWORKS.items():
            torch.manual_seed(0)
            found = ratios(build(activation), compiled=compiled, rounds=options.rounds, batch=options.batch)
            low, middle, high = statistics.quantiles(found, n=4)
            label = f"{name}, {'compiled' if compiled else 'eager'}"
            table[label] = {"median": middle, "quartiles": [low, high], "rounds": len(found)}
            print(f"{label:28}{middle:8.3f}{low:8.3f}{high:8.3f}", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"torch": torch.__version__, "threads": options.threads, "ratios": table}, indent=1)
        )


if __name__ == "__main__":
    main()
