"""Blobs, circles and swirls: LFP and backprop, ReLU and Step, in the published setup.

    python experiments/toy/run.py

MLP 2-32-16-K, SGD with momentum .95, batch 128, 10 epochs (swirls 15), a new initial model and new data for every
seed. The learning rate (mean reward, OneCycle or constant) is chosen by the mean accuracy of three tuning seeds on
points of their own; five other seeds are then trained and tested once, on as many test points as training points.
`feedprop.training.data.toys` draws the data.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import feedprop
from feedprop import discrete, rewards
from feedprop.training.data import toys

sys.path.append(str(Path(__file__).parents[1]))
from loop import Data, accuracy
from loop import train as train_model
from results import parser, write_row

SETS = {"blobs": (toys.blobs, 10, 2), "circles": (toys.circles, 10, 2), "swirls": (toys.swirls, 15, 3)}
TUNING_SEEDS, SEEDS = (100, 101, 102), (0, 1, 2, 3, 4)
RATES = {"lfp": (0.01, 0.03, 0.1, 0.3, 1.0), "backprop": (0.003, 0.01, 0.03, 0.1, 0.3)}


def train(
    name: str, seed: int, *, method: str, activation: type[nn.Module], lr: float, cycle: bool
) -> tuple[nn.Module, Data]:
    """Return the trained network and the test points with their labels."""
    draw, epochs, classes = SETS[name]
    source = draw(seed=seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 32), activation(), nn.Linear(32, 16), activation(), nn.Linear(16, classes))
    criterion: nn.Module = nn.CrossEntropyLoss()
    if method == "lfp":
        feedprop.attach(model, feedprop.rules.Composite())  # plain |w|, as recorded
        criterion = rewards.SoftmaxReward()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.95)
    data = source.train.inputs, source.train.targets
    train_model(model, criterion, data, optimizer=optimizer, epochs=epochs, cycle=cycle, drop_last=False)
    return model, (source.test.inputs, source.test.targets)


def near_zero(model: nn.Module) -> float:
    """Return the share of weights below a quarter of their layer's maximum."""
    weights = [layer.weight.detach().abs() for layer in model if isinstance(layer, nn.Linear)]
    return (sum((w < w.max() / 4).sum() for w in weights) / sum(w.numel() for w in weights)).item()


def compare(results: Path, name: str, method: str, activation: type[nn.Module]) -> None:
    """Tune the learning rate, then train and test the seeds."""

    def runs(seeds: tuple[int, ...], lr: float, cycle: bool) -> list[tuple[nn.Module, Data]]:
        return [train(name, seed, method=method, activation=activation, lr=lr, cycle=cycle) for seed in seeds]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    scores = {
        (lr, cycle): mean([accuracy(*run) for run in runs(TUNING_SEEDS, lr, cycle)])
        for lr in RATES[method]
        for cycle in (False, True)
    }
    lr, cycle = max(scores, key=scores.__getitem__)
    tested = runs(SEEDS, lr, cycle)
    tests = [accuracy(*run) for run in tested]
    settings = {"set": name, "activation": activation.__name__, "method": method, "lr": lr, "one_cycle": cycle}
    figures = {
        "tuning": round(scores[lr, cycle], 4),
        "tests": [round(test, 4) for test in tests],
        "mean": round(mean(tests), 4),
        "near_zero": round(mean([near_zero(model) for model, _ in tested]), 3),
    }
    write_row(results, experiment="toy", seed=None, settings=settings | {"seeds": SEEDS}, figures=figures)


def main() -> None:
    options = parser(__doc__, __file__).parse_args()
    torch.set_num_threads(1)
    for activation in (nn.ReLU, discrete.Step):
        for name in SETS:
            for method in RATES:
                if method == "lfp" or activation is nn.ReLU:  # Step has no gradient
                    compare(options.results, name, method, activation)


if __name__ == "__main__":
    main()
