"""Training by yes/no feedback alone.

    python experiments/discrete-rewards/run.py [--data data]

1. Blobs, MisclassificationReward: the mean of five seeds over a range of learning rates. Epsilon, floor and the
   centred head were chosen on the seeds 200 to 209: with plain outputs, all of them run to minus infinity
   together, since nothing but punishment is heard, and about one network in ten collapses (seeds 0, 1 and 3
   below do).
2. MNIST, MLP 784-120-84-10, one epoch count for all: (a) CorrectnessReward, +1 at the true class if it won; (b)
   GivenReward, +1 or -1 in units of the output at the class that was chosen; (c) ChoiceReward, whether the
   choice was right. None of them tells which class would have been right. Learning rate and optimizer by 5,000
   held-out images, then three seeds, tested once.

Results go to results.jsonl.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import datasets

import feedprop
from feedprop import rewards, rules
from feedprop.training.data import toys

sys.path.append(str(Path(__file__).parents[1]))
from results import command, write_row

HERE = Path(__file__).parent
BLOB_RATES, BLOB_EPOCHS, BLOB_SEEDS = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2), 60, (0, 1, 2, 3, 4)
RATES, EPOCHS, TUNING_EPOCHS, SEEDS = (0.001, 0.003, 0.01), 10, 3, (0, 1, 2)
EPSILON, FLOOR = 0.1, 0.3


class Centred(nn.Module):
    """Outputs without their mean, so that punishing one raises the others."""

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs - outputs.mean(1, keepdim=True)


def train(
    model: nn.Module, answer, data: tuple[Tensor, Tensor], *, optimizer: torch.optim.Optimizer, epochs: int, cycle: bool
) -> None:
    inputs, targets = data
    steps = -(-len(inputs) // 128) * epochs
    peak = optimizer.defaults["lr"]
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, cycle_momentum=False) if cycle else None
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(128):
            optimizer.zero_grad()
            answer(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    found = torch.cat([model(part).argmax(1) for part in data[0].split(1000)])
    return (found == data[1]).float().mean().item()


def blobs(lr: float, seed: int, *, centred: bool) -> float:
    source = toys.blobs(seed=seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
    if centred:
        model.append(Centred())
    feedprop.attach(model, rules.Composite(rules.Epsilon(EPSILON), magnitude_floor=FLOOR))
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    data = source.train.inputs, source.train.targets
    train(model, rewards.MisclassificationReward(), data, optimizer=optimizer, epochs=BLOB_EPOCHS, cycle=False)
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


def images(root: str, *, first: bool) -> tuple[Tensor, Tensor]:
    found = datasets.MNIST(root, train=first)
    return ((found.data.float() / 255 - 0.1307) / 0.3081).flatten(1), found.targets


def mnist(answer, data: tuple[Tensor, Tensor], *, lr: float, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10), Centred())
    feedprop.attach(model, rules.Composite(magnitude_floor=0.02))
    train(model, answer, data, optimizer=torch.optim.Adam(model.parameters(), lr), epochs=epochs, cycle=True)
    return model


def keep(settings: dict, figures: dict) -> None:
    figures["mean"] = round(sum(figures["tests"]) / len(figures["tests"]), 4)
    print(settings, figures, flush=True)
    path = HERE / "results.jsonl"
    write_row(path, experiment=HERE.name, command=command(), seed=None, settings=settings, figures=figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    root = parser.parse_args().data
    torch.set_num_threads(1)
    for kind in ("blobs, centred", "blobs, plain"):
        for lr in BLOB_RATES:
            tests = [round(blobs(lr, seed, centred=kind == "blobs, centred"), 4) for seed in BLOB_SEEDS]
            keep({"task": kind, "lr": lr, "seeds": BLOB_SEEDS}, {"tests": tests})
    inputs, targets = images(root, first=True)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:5000], order[5000:]
    validation, training = (inputs[held_out], targets[held_out]), (inputs[rest], targets[rest])
    test = images(root, first=False)
    for answer in (correct, given, choice):
        tuned = {
            lr: accuracy(mnist(answer, training, lr=lr, epochs=TUNING_EPOCHS, seed=100), validation) for lr in RATES
        }
        lr = max(tuned, key=tuned.__getitem__)
        tests = [round(accuracy(mnist(answer, training, lr=lr, epochs=EPOCHS, seed=seed), test), 4) for seed in SEEDS]
        settings = {"task": "mnist", "reward": answer.__name__, "lr": lr, "seeds": SEEDS}
        keep(settings, {"tuning": tuned, "tests": tests})


if __name__ == "__main__":
    main()
