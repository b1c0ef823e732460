"""Blobs, circles and swirls: LFP and backprop, ReLU and Step, in the published setup.

    python experiments/toy/run.py

MLP 2-32-16-K, SGD with momentum .95, batch 128, 10 epochs (swirls 15), a fresh initial model and fresh data for every
seed. The learning rate (mean reward, OneCycle or constant) is chosen by the mean accuracy of three tuning seeds on
points of their own; five other seeds are then trained and tested once, on as many test points as training points. The
data are drawn by feedprop.training.data.toys.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import feedprop
from feedprop import discrete, rewards
from feedprop.training.data import toys

sys.path.append(str(Path(__file__).parents[1]))
from results import command, write_row

SETS = {"blobs": (toys.blobs, 10, 2), "circles": (toys.circles, 10, 2), "swirls": (toys.swirls, 15, 3)}
TUNING_SEEDS, SEEDS = (100, 101, 102), (0, 1, 2, 3, 4)
RATES = {"lfp": (0.01, 0.03, 0.1, 0.3, 1.0), "backprop": (0.003, 0.01, 0.03, 0.1, 0.3)}
HERE = Path(__file__).parent


def train(
    name: str, seed: int, *, method: str, activation: type[nn.Module], lr: float, cycle: bool
) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the trained network and test points with their labels."""
    draw, epochs, classes = SETS[name]
    source = draw(seed=seed)
    inputs, targets = source.train.inputs, source.train.targets
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 32), activation(), nn.Linear(32, 16), activation(), nn.Linear(16, classes))
    criterion: nn.Module = nn.CrossEntropyLoss()
    if method == "lfp":
        feedprop.attach(model)
        criterion = rewards.SoftmaxReward()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.95)
    steps = -(-len(inputs) // 128) * epochs
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, cycle_momentum=False) if cycle else None
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(128):
            optimizer.zero_grad()
            criterion(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
    return model, source.test.inputs, source.test.targets


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    return (model(inputs).argmax(1) == targets).float().mean().item()


def near_zero(model: nn.Module) -> float:
    """Share of weights below a quarter of the layer's maximum."""
    weights = [layer.weight.detach().abs() for layer in model if isinstance(layer, nn.Linear)]
    return (sum((w < w.max() / 4).sum() for w in weights) / sum(w.numel() for w in weights)).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    for activation in (nn.ReLU, discrete.Step):
        for name in SETS:
            for method in RATES:
                if method == "backprop" and activation is discrete.Step:
                    continue  # has no gradient
                scores = {
                    (lr, cycle): sum(
                        accuracy(*train(name, seed, method=method, activation=activation, lr=lr, cycle=cycle))
                        for seed in TUNING_SEEDS
                    )
                    / 3
                    for lr in RATES[method]
                    for cycle in (False, True)
                }
                lr, cycle = max(scores, key=scores.__getitem__)
                runs = [train(name, seed, method=method, activation=activation, lr=lr, cycle=cycle) for seed in SEEDS]
                tests = [accuracy(*run) for run in runs]
                settings = {"set": name, "activation": activation.__name__, "method": method, "lr": lr,
                            "one_cycle": cycle, "seeds": SEEDS}  # fmt: skip
                figures = {"tuning": round(scores[lr, cycle], 4), "tests": [round(x, 4) for x in tests],
                       "mean": round(sum(tests) / 5, 4),
                       "near_zero": round(sum(near_zero(run[0]) for run in runs) / 5, 3)}  # fmt: skip
                print(settings, figures, flush=True)
                path = HERE / "results.jsonl"
                write_row(path, experiment="toy", command=command(), seed=None, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
