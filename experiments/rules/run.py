"""What each rule does to training: accuracy, speed, sparsity, stability.

    python experiments/rules/run.py [--data data] [--networks lenet vgg] [--optimizer adam] [--rules "epsilon 0" ...]

LeNet on 20,000 images of MNIST, a narrow VGG-like net on 10,000 of Fashion-MNIST, two epochs of batch 128, SGD
with momentum .9 or Adam, OneCycle. The learning rate of each rule (three each) by 5,000 other training images, seed
100; then three seeds, tested once. Rows are appended to results.jsonl: test accuracy, validation accuracy every
26 steps (the curve), test accuracy without the 80 % smallest weights of each layer, milliseconds per step.
"""

import argparse
import copy
import functools
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import datasets

import feedprop
from feedprop import rewards
from feedprop.rules import AlphaBeta, Composite, Epsilon, WSquare, ZPlus, presets

sys.path.append(str(Path(__file__).parents[1]))
from results import command, write_row

RULES = {
    "epsilon 0": Composite(Epsilon()),
    "epsilon 0.1": Composite(Epsilon(0.1)),
    "gamma 0.25": presets.gamma_everywhere(),
    "gamma 0.25, convolutions": presets.epsilon_gamma(0.0),
    "alpha 2 beta 1": Composite(AlphaBeta()),
    "alpha 2 beta 1, convolutions": presets.epsilon_alpha2_beta1(0.0),
    "z+": Composite(ZPlus()),
    "z+, convolutions": presets.epsilon_plus(0.0),
    "z+, update by epsilon": Composite(ZPlus(update="epsilon")),
    "w^2 in the first layer": Composite(Epsilon(), first=WSquare()),
    "flat first, z+ convolutions": presets.epsilon_plus_flat(0.0),
}
RATES = {"sgd": (0.1, 0.3, 1.0), "adam": (3e-3, 1e-2, 3e-2)}
TUNING_SEED, SEEDS, EPOCHS, BATCH, EVERY = 100, (0, 1, 2), 2, 128, 26
HERE = Path(__file__).parent


def lenet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer, pool in ((1, 8, False), (8, 16, True), (16, 32, False), (32, 32, True)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU()] + [nn.MaxPool2d(2)] * pool
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10))


NETWORKS = {"lenet": (lenet, datasets.MNIST, 20000), "vgg": (vgg, datasets.FashionMNIST, 10000)}


def images(dataset: type, root: str, *, first: bool) -> tuple[Tensor, Tensor]:
    found = dataset(root, train=first)
    return (found.data.unsqueeze(1).float() / 255 - 0.2) / 0.33, found.targets


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    found = torch.cat([model(part).argmax(1) for part in data[0].split(1000)])
    return (found == data[1]).float().mean().item()


def train(
    build, rule: Composite, training, validation, *, optimizer: str, lr: float, seed: int
) -> tuple[nn.Module, list[float], float]:
    """Return the model, validation accuracy every EVERY steps on 1000 images, and milliseconds per step."""
    torch.manual_seed(seed)
    model = build()
    feedprop.attach(model, rule)
    reward = rewards.SoftmaxReward()
    if optimizer == "adam":
        stepper: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr)
    else:
        stepper = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    inputs, targets = training
    steps = len(inputs) // BATCH * EPOCHS
    schedule = torch.optim.lr_scheduler.OneCycleLR(stepper, lr, total_steps=steps, cycle_momentum=False)
    few = validation[0][:1000], validation[1][:1000]
    curve, spent, step = [], 0.0, 0
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs))[: len(inputs) // BATCH * BATCH].split(BATCH):
            start = time.perf_counter()
            stepper.zero_grad()
            reward(model(inputs[batch]), targets[batch]).backward()
            stepper.step()
            schedule.step()
            spent += time.perf_counter() - start
            step += 1
            if step % EVERY == 0:
                curve.append(round(accuracy(model, few), 4))
    return model, curve, 1000 * spent / step


@torch.no_grad()
def pruned(model: nn.Module, share: float = 0.8) -> nn.Module:
    """Return the model without this share of the weights of each layer, the smallest ones."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            parameter[parameter.abs() < parameter.abs().flatten().quantile(share)] = 0
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--optimizer", choices=list(RATES), default="sgd")
    parser.add_argument("--rules", nargs="+", default=list(RULES), metavar="RULE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for network in options.networks:
        build, dataset, size = NETWORKS[network]
        inputs, targets = images(dataset, options.data, first=True)
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        validation, training = ((inputs[part], targets[part]) for part in (order[:5000], order[5000 : 5000 + size]))
        test = images(dataset, options.data, first=False)
        for name, rule in ((name, RULES[name]) for name in options.rules):
            once = functools.partial(train, build, rule, training, validation, optimizer=options.optimizer)
            tuned = {}
            for lr in RATES[options.optimizer]:
                tuned[lr] = round(accuracy(once(lr=lr, seed=TUNING_SEED)[0], validation), 4)
            lr = max(tuned, key=tuned.__getitem__)
            for seed in SEEDS:
                model, curve, milliseconds = once(lr=lr, seed=seed)
                settings = {"network": network, "optimizer": options.optimizer, "rule": name, "lr": lr}
                figures = {"tuning": tuned, "test": round(accuracy(model, test), 4),
                       "pruned": round(accuracy(pruned(model), test), 4),
                       "ms": round(milliseconds, 1), "curve": curve}  # fmt: skip
                print(settings, seed, figures, flush=True)
                path = HERE / "results.jsonl"
                write_row(path, experiment="rules", command=command(), seed=seed, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
