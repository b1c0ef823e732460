"""Train a modern model on one task, by feedback or by gradient, and score it on the validation or the test part.

    python experiments/todays-models/run.py gpt-moby-dick lfp --lr 0.003 --floor 0.02 [--slope secant] [--test]

The figures are the error rate and the loss (nats). Adam with OneCycle, the same for both methods. The loop is not that
of `feedprop train`, which knows neither these models nor the norm before clipping.
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from slopes import SLOPES
from tasks import TASKS, Task
from torch import nn
from torch.nn import functional

import feedprop

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row


@torch.no_grad()
def score(model: nn.Module, task: Task, part: str) -> dict[str, float]:
    model.eval()
    right = loss = count = 0.0
    for inputs, targets in zip(*(values.split(256) for values in task.parts[part]), strict=True):
        outputs = model(task.shown(inputs))
        right += float((outputs.argmax(1) == targets).sum())
        loss += float(functional.cross_entropy(outputs, targets, reduction="sum"))
        count += targets.numel()
    return {"error": 1 - right / count, "loss": loss / count}


def train(task: Task, settings: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(settings.seed)
    model = task.build().train()
    signal: nn.Module = nn.CrossEntropyLoss()
    if settings.method == "lfp":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # with a floor of 0, offsets that begin at 0 stay there; that is measured
            feedprop.attach(
                model,
                feedprop.rules.Composite(
                    magnitude_floor=settings.floor,
                    relative_magnitude=settings.relative,
                    activation=SLOPES[settings.slope],
                ),
            )
        signal = feedprop.rewards.SoftmaxReward()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, betas=(0.9, settings.beta2))
    norms: list[float] = []
    inputs, targets = task.parts["train"]
    steps = task.epochs * (len(inputs) // task.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    for _ in range(task.epochs):
        for rows in torch.randperm(len(inputs)).split(task.batch):
            if len(rows) < task.batch:
                continue
            optimizer.zero_grad()
            reward = signal(model(task.shown(inputs[rows])), targets[rows])
            if not math.isfinite(reward.item()):
                return {"error": 1.0, "loss": math.inf}
            reward.backward()
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), settings.clip)))
            optimizer.step()
            schedule.step()
    if settings.method == "lfp":
        feedprop.detach(model)
    clipped = sum(norm > settings.clip for norm in norms) / len(norms)
    norm = {"norm": statistics.median(norms), "clipped": clipped}  # before clipping; the share of the steps
    return score(model, task, "test" if settings.test else "validation") | norm


def parsed() -> argparse.Namespace:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("task", choices=list(TASKS))
    arguments.add_argument("method", choices=("lfp", "backprop"))
    arguments.add_argument("--lr", type=float, required=True)
    arguments.add_argument("--floor", type=float, default=0.0)
    arguments.add_argument("--relative", action="store_true", help="relative magnitudes; the floor in that unit")
    arguments.add_argument("--clip", type=float, default=1.0, help="largest norm of feedback or gradient")
    arguments.add_argument("--slope", choices=list(SLOPES), default="secant")
    arguments.add_argument("--beta2", type=float, default=0.99)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--test", action="store_true")
    return arguments.parse_args()


def main() -> None:
    settings = parsed()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    figures = train(TASKS[settings.task](settings.data), settings)
    figures["seconds"] = round(time.perf_counter() - begin, 1)
    kept = {name: value for name, value in vars(settings).items() if name not in ("data", "results", "seed")}
    write_row(settings.results, experiment="todays-models", seed=settings.seed, settings=kept, figures=figures)


if __name__ == "__main__":
    main()
