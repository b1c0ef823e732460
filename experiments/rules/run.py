"""What each rule does to training: accuracy, speed, sparsity, stability.

    python experiments/rules/run.py [--data data] [--networks lenet vgg] [--optimizer adam] [--rules "epsilon 0" ...]

LeNet on 20,000 images of MNIST, a narrow VGG-like net on 10,000 of Fashion-MNIST, two epochs of batch 128, SGD with
momentum .9 or Adam, OneCycle. The learning rate of each rule (one of three) is chosen on 5,000 other training images
with seed 100; then three seeds are trained and tested once. The figures are the test accuracy, the validation accuracy
every 26 steps (the curve), the test accuracy without the 80 % smallest weights of each layer, and the milliseconds of a
step.
"""

import copy
import functools
import statistics
import sys
from pathlib import Path

import torch
from torch import nn
from torchvision import datasets

import feedprop
from feedprop import rewards
from feedprop.rules import AlphaBeta, Composite, Epsilon, WSquare, ZPlus, presets

sys.path.append(str(Path(__file__).parents[1]))
from loop import Data, accuracy, images, lenet, make_optimizer, split, steps
from results import parser, write_row

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
TUNING_SEED, SEEDS, EPOCHS, EVERY = 100, (0, 1, 2), 2, 26


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer, pool in ((1, 8, False), (8, 16, True), (16, 32, False), (32, 32, True)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU()] + [nn.MaxPool2d(2)] * pool
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10))


NETWORKS = {
    "lenet": (functools.partial(lenet, nn.ReLU), datasets.MNIST, 20000),
    "vgg": (vgg, datasets.FashionMNIST, 10000),
}


def train(
    build, rule: Composite, training: Data, validation: Data, *, optimizer: str, lr: float, seed: int
) -> tuple[nn.Module, list[float], float]:
    """Return the model, validation accuracy every EVERY steps on 1,000 images, and milliseconds per step."""
    torch.manual_seed(seed)
    model = feedprop.attach(build(), rule)
    stepper, few = make_optimizer(optimizer, model, lr), (validation[0][:1000], validation[1][:1000])
    curve, seconds = [], []
    for spent in steps(model, rewards.SoftmaxReward(), training, optimizer=stepper, epochs=EPOCHS):
        seconds.append(spent)
        if len(seconds) % EVERY == 0:
            curve.append(round(accuracy(model, few), 4))
    return model, curve, 1000 * statistics.mean(seconds)


@torch.no_grad()
def pruned(model: nn.Module, share: float = 0.8) -> nn.Module:
    """Return the model without this share of the weights of each layer, the smallest ones."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            parameter[parameter.abs() < parameter.abs().flatten().quantile(share)] = 0
    return model


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    arguments.add_argument("--optimizer", choices=list(RATES), default="sgd")
    arguments.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES), metavar="RULE")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for network in options.networks:
        build, dataset, size = NETWORKS[network]
        load = functools.partial(images, dataset, options.data, mean=0.2, deviation=0.33)
        training, validation = split(load(train=True), size)
        test = load(train=False)
        for name in options.rules:
            once = functools.partial(train, build, RULES[name], training, validation, optimizer=options.optimizer)
            tuned = {
                lr: round(accuracy(once(lr=lr, seed=TUNING_SEED)[0], validation), 4) for lr in RATES[options.optimizer]
            }
            lr = max(tuned, key=tuned.__getitem__)
            settings = {"network": network, "optimizer": options.optimizer, "rule": name, "lr": lr}
            for seed in SEEDS:
                model, curve, milliseconds = once(lr=lr, seed=seed)
                figures = {
                    "tuning": tuned,
                    "test": round(accuracy(model, test), 4),
                    "pruned": round(accuracy(pruned(model), test), 4),
                    "ms": round(milliseconds, 1),
                    "curve": curve,
                }
                write_row(options.results, experiment="rules", seed=seed, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
