"""Train one spiking network by feedback or by snnTorch's atan surrogate gradient.

    python experiments/spiking/run.py mnist-mlp feedback --lr 1e-3          # scored on a validation split
    python experiments/spiking/run.py mnist-mlp feedback --lr 1e-3 --test   # the last run: trained on all, tested

The validation split is drawn from the training data with a seed of its own. The loop is not that of `feedprop train`,
which has no surrogate gradient to compare with.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import torchvision
from snntorch import functional
from surrogate import checked
from torch import Tensor, nn

import feedprop
from feedprop import pruning
from feedprop.rewards import SpikeRateReward, SpikeTargetReward
from feedprop.spiking import LIF, SpikingSequential, models
from feedprop.training.data.time_series import japanese_vowels

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row

HELD_OUT = {"mnist-mlp": 10000, "mnist-cnn": 10000, "fashion-cnn": 10000, "vowels": 54}
EPOCHS = {"mnist-mlp": 3, "mnist-cnn": 3, "fashion-cnn": 5, "vowels": 60}
BATCH = {"mnist-mlp": 128, "mnist-cnn": 64, "fashion-cnn": 64, "vowels": 32}


def network(task: str, beta: float) -> SpikingSequential:
    if task == "mnist-mlp":
        return models.lif_mlp(beta=beta)
    if task == "vowels":
        return SpikingSequential(
            nn.Linear(12, 256), LIF(beta), nn.Linear(256, 256), LIF(beta), nn.Linear(256, 9), LIF(beta)
        )
    return models.lif_cnn(beta=beta)


def load(task: str, root: Path, *, test: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs and labels to train on and to score on."""
    if task == "vowels":
        (inputs, labels), (other, other_labels) = (japanese_vowels(root, train=train) for train in (True, False))
    else:
        kind = torchvision.datasets.FashionMNIST if task.startswith("fashion") else torchvision.datasets.MNIST
        train_set, test_set = kind(root, train=True), kind(root, train=False)
        inputs, labels = train_set.data.unsqueeze(1) / 255, train_set.targets
        other, other_labels = test_set.data.unsqueeze(1) / 255, test_set.targets
    if test:
        return inputs, labels, other, other_labels
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1234))
    kept, held = order[HELD_OUT[task] :], order[: HELD_OUT[task]]
    return inputs[kept], labels[kept], inputs[held], labels[held]


def criterion(settings: argparse.Namespace) -> nn.Module:
    if settings.method == "surrogate":
        return {
            "rate": functional.ce_rate_loss(),
            "count": functional.ce_count_loss(),
            "mse-count": functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2),
        }[settings.loss]
    if settings.reward == "rate":
        return SpikeRateReward()
    return SpikeTargetReward(share=settings.share)


def shown(task: str, inputs: Tensor) -> Tensor:
    return inputs.transpose(0, 1).contiguous() if task == "vowels" else inputs


def score(model: nn.Module, task: str, inputs: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        right = [
            (model(shown(task, x)).sum(0).argmax(1) == y).sum().item()
            for x, y in zip(inputs.split(500), labels.split(500), strict=True)
        ]
    return sum(right) / len(labels)


def train(settings: argparse.Namespace) -> dict[str, object]:
    task = settings.task
    inputs, labels, scored, scored_labels = load(task, settings.data, test=settings.test)
    if settings.train_on:
        inputs, labels = inputs[: settings.train_on], labels[: settings.train_on]
    torch.manual_seed(settings.seed)
    made = network(task, settings.beta)
    model = (
        checked(made, shown(task, inputs[:8]))
        if settings.method == "surrogate"
        else feedprop.attach(
            made, feedprop.rules.Composite(feedprop.rules.Epsilon(settings.epsilon), magnitude_floor=settings.floor)
        )
    )
    signal = criterion(settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    size, epochs = BATCH[task], settings.epochs or EPOCHS[task]
    total = epochs * (len(inputs) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=settings.lr, total_steps=total, pct_start=0.2)
    gradual = None
    if settings.gradual:
        span = {"begin": total // 5, "end": 4 * total // 5, "every": 20}
        gradual = pruning.GradualPruning(model, settings.gradual, **span, optimizer=optimizer)
    begin, history = time.time(), []
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs))[: len(inputs) // size * size].view(-1, size):
            optimizer.zero_grad()
            signal(model(shown(task, inputs[batch])), labels[batch]).backward()
            optimizer.step()
            schedule.step()
            if gradual is not None:
                gradual.step()
        if not settings.test:
            history.append(score(model, task, scored, scored_labels))
    accuracy = score(model, task, scored, scored_labels)
    figures = {"accuracy": accuracy, "history": history, "seconds": round(time.time() - begin, 1)}
    if settings.one_shot:
        pruning.prune(model, pruning.magnitude(model), settings.one_shot)
        figures["pruned"] = score(model, task, scored, scored_labels)
    return figures


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("task", choices=sorted(EPOCHS))
    arguments.add_argument("method", choices=["feedback", "surrogate"])
    arguments.add_argument("--reward", choices=["rate", "target"], default="target")
    arguments.add_argument("--loss", choices=["rate", "count", "mse-count"], default="rate")
    arguments.add_argument("--share", type=float, default=0.5)
    arguments.add_argument("--epsilon", type=float, default=1.0)
    arguments.add_argument("--floor", type=float, default=0.0)
    arguments.add_argument("--beta", type=float, default=0.9)
    arguments.add_argument("--lr", type=float, default=1e-3)
    arguments.add_argument("--epochs", type=int, default=0, help="0: as in the table of this file")
    arguments.add_argument("--train-on", type=int, default=0, help="only this many samples, for a first look")
    arguments.add_argument("--gradual", type=float, default=0.0, help="share of the weights to prune while training")
    arguments.add_argument("--one-shot", type=float, default=0.0, help="share of the weights to prune afterwards")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--test", action="store_true")
    settings = arguments.parse_args()
    kept = {name: value for name, value in vars(settings).items() if name not in ("data", "results", "seed")}
    write_row(settings.results, experiment="spiking", seed=settings.seed, settings=kept, figures=train(settings))


if __name__ == "__main__":
    main()
