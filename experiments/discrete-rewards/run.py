"""Training by yes/no feedback alone.

    python experiments/discrete-rewards/run.py [--data data]

1. Blobs, MisclassificationReward: the mean of five seeds over a range of learning rates. Epsilon, floor and the
   centred head were chosen on the seeds 200 to 209: this reward only punishes, so that plain outputs all run to minus
   infinity together, and about one network in ten collapses (seeds 0, 1 and 3 below do).
2. MNIST, MLP 784-120-84-10, the same number of epochs for all: (a) CorrectnessReward, +1 at the true class if it won;
   (b) GivenReward, +1 or -1 in units of the output at the class that was chosen; (c) ChoiceReward, whether the choice
   was right. None of them tells which class would have been right. The learning rate is chosen on 5,000 held-out
   images; then three seeds are trained and tested once.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import datasets

import feedprop
from feedprop import rewards, rules
from feedprop.training.data import toys

sys.path.append(str(Path(__file__).parents[1]))
from loop import Data, accuracy, images, make_optimizer, mlp, split, train
from results import parser, write_row

BLOB_RATES, BLOB_EPOCHS, BLOB_SEEDS = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2), 60, (0, 1, 2, 3, 4)
RATES, EPOCHS, TUNING_EPOCHS, SEEDS = (0.001, 0.003, 0.01), 10, 3, (0, 1, 2)
EPSILON, FLOOR = 0.1, 0.3


class Centred(nn.Module):
    """Outputs without their mean, so that punishing one raises the others."""

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs - outputs.mean(1, keepdim=True)


def blobs(lr: float, seed: int, *, centred: bool) -> float:
    source = toys.blobs(seed=seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
    if centred:
        model.append(Centred())
    feedprop.attach(model, rules.Composite(rules.Epsilon(EPSILON), magnitude_floor=FLOOR))
    data, optimizer = (source.train.inputs, source.train.targets), make_optimizer("sgd", model, lr)
    reward = rewards.MisclassificationReward()
    train(model, reward, data, optimizer=optimizer, epochs=BLOB_EPOCHS, cycle=False, drop_last=False)
    return accuracy(model, (source.test.inputs, source.test.targets))


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return rewards.CorrectnessReward()(outputs, targets)


def given(outputs: Tensor, targets: Tensor) -> Tensor:
    """A person says yes or no to the class that was chosen; yes is +|o|, no is -|o|."""
    chosen = outputs.detach().argmax(1, keepdim=True)
    answer = torch.where(chosen == targets[:, None], 1.0, -1.0)
    score = outputs.detach().gather(1, chosen) * answer
    return rewards.GivenReward()(outputs, torch.zeros_like(outputs).scatter_(1, chosen, score))


def choice(outputs: Tensor, targets: Tensor) -> Tensor:
    return rewards.ChoiceReward()(outputs, outputs.argmax(1) == targets)


def mnist(answer, data: Data, *, lr: float, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = mlp(nn.ReLU).append(Centred())
    feedprop.attach(model, rules.Composite(magnitude_floor=0.02))
    train(model, answer, data, optimizer=make_optimizer("adam", model, lr), epochs=epochs, drop_last=False)
    return model


def keep(path: Path, settings: dict, figures: dict) -> None:
    figures["mean"] = round(sum(figures["tests"]) / len(figures["tests"]), 4)
    write_row(path, experiment="discrete-rewards", seed=None, settings=settings, figures=figures)


def main() -> None:
    options = parser(__doc__, __file__).parse_args()
    torch.set_num_threads(1)
    for kind in ("blobs, centred", "blobs, plain"):
        for lr in BLOB_RATES:
            tests = [round(blobs(lr, seed, centred=kind == "blobs, centred"), 4) for seed in BLOB_SEEDS]
            keep(options.results, {"task": kind, "lr": lr, "seeds": BLOB_SEEDS}, {"tests": tests})
    training, validation = split(images(datasets.MNIST, options.data, train=True))
    test = images(datasets.MNIST, options.data, train=False)
    for answer in (correct, given, choice):
        tuned = {
            lr: accuracy(mnist(answer, training, lr=lr, epochs=TUNING_EPOCHS, seed=100), validation) for lr in RATES
        }
        lr = max(tuned, key=tuned.__getitem__)
        tests = [round(accuracy(mnist(answer, training, lr=lr, epochs=EPOCHS, seed=seed), test), 4) for seed in SEEDS]
        settings = {"task": "mnist", "reward": answer.__name__, "lr": lr, "seeds": SEEDS}
        keep(options.results, settings, {"tuning": tuned, "tests": tests})


if __name__ == "__main__":
    main()
