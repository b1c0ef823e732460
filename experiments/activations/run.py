"""How activations with phi(0) != 0 or a jump at 0 should pass credit: the paper's secant against others.

    python experiments/activations/run.py [--data data]

MLP 784-120-84-10 on 20,000 images of MNIST, two epochs of batch 128, SGD with momentum .9 and OneCycle. The figure is
the validation accuracy on 5,000 other images, the mean of three seeds at each learning rate. No test data.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torchvision import datasets

import feedprop
from feedprop import discrete, rewards, rules
from feedprop.rules import Epsilon, Secant

sys.path.append(str(Path(__file__).parents[1]))
from loop import Data, accuracy, images, make_optimizer, mlp, split, train
from results import parser, write_row

ACTIVATIONS = {"step": discrete.Step, "sign": discrete.Sign, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus}
RULES = {  # linear rule, activation rule
    "published, epsilon 1e-6": (Epsilon(1e-6), Secant.published()),
    "published, epsilon 0.1": (Epsilon(0.1), Secant.published()),
    "published, epsilon 1": (Epsilon(1.0), Secant.published()),
    "relative epsilon 0.1, no offset": (Epsilon(), Secant(epsilon=0.1, offset=False)),
    "offset, relative epsilon 0.03": (Epsilon(), Secant(epsilon=0.03)),
    "offset, relative epsilon 0.1 (default)": (Epsilon(), Secant()),
    "offset, relative epsilon 0.3": (Epsilon(), Secant(epsilon=0.3)),
    "offset, relative epsilon 1": (Epsilon(), Secant(epsilon=1.0)),
}
RATES, SEEDS, EPOCHS = (0.1, 0.3, 1.0, 3.0), (0, 1, 2), 2


def run(activation: type[nn.Module], rule: str, training: Data, validation: Data, *, lr: float, seed: int) -> float:
    torch.manual_seed(seed)
    linear, passing = RULES[rule]
    model = feedprop.attach(mlp(activation), rules.Composite(linear, activation=passing))
    train(model, rewards.SoftmaxReward(), training, optimizer=make_optimizer("sgd", model, lr), epochs=EPOCHS)
    return accuracy(model, validation)


def main() -> None:
    options = parser(__doc__, __file__).parse_args()
    torch.set_num_threads(1)
    training, validation = split(images(datasets.MNIST, options.data, train=True), 20000)
    for name, activation in ACTIVATIONS.items():
        for rule in RULES:
            for lr in RATES:
                runs = [run(activation, rule, training, validation, lr=lr, seed=seed) for seed in SEEDS]
                figures = {"validation": round(sum(runs) / len(runs), 4)}
                settings = {"activation": name, "rule": rule, "lr": lr, "seeds": SEEDS}
                write_row(options.results, experiment="activations", seed=None, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
