"""Time of a network with half of its channels removed over that of the whole one: evaluation and a step of LFP.

    python benchmarks/channel_pruning.py [--rounds 30] [--json FILE]

Channels go by relevance, `pruning.ChannelImportance` under torch-pruning, half of each layer; what they are worth does
not matter here. Every round times each network once, in turn; the figure is the median over rounds of the ratio.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch_pruning
from networks import case
from torch import Tensor, nn

import feedprop
from feedprop import pruning, rewards

NAMES = ("lenet relu", "vgg-bn relu", "resnet18")


def pruned(model: nn.Module, inputs: Tensor, targets: Tensor) -> nn.Module:
    """Return a copy with half of the channels of all layers but the last."""
    small = copy.deepcopy(model).eval()
    importance = pruning.ChannelImportance(small, lambda model: pruning.relevance(model, [(inputs, targets)]))
    last = [module for module in small.modules() if isinstance(module, nn.Linear)][-1]
    torch_pruning.BasePruner(small, inputs[:2], importance=importance, pruning_ratio=0.5, ignored_layers=[last]).step()
    return small


def evaluation(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], object]:
    model.eval()
    return torch.no_grad()(lambda: model(inputs))


def step(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], object]:
    feedprop.attach(model.train())
    optimizer, reward = torch.optim.SGD(model.parameters(), 1e-4), rewards.SoftmaxReward()

    def run() -> None:
        optimizer.zero_grad()
        reward(model(inputs), targets).backward()
        optimizer.step()

    return run


def ratios(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the time of the second call over that of the first, for each round."""
    found = []
    for number in range(rounds + 3):
        seconds = []
        for call in calls:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        if number >= 3:
            found.append(seconds[1] / seconds[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = {}
    for name in NAMES:
        model, inputs, targets = case(name)
        models = [model, pruned(model, inputs, targets)]
        sizes = [sum(p.numel() for p in each.parameters()) for each in models]
        table[name] = {"parameters": sizes[1] / sizes[0]}
        for what in (evaluation, step):
            found = ratios([what(copy.deepcopy(each), inputs, targets) for each in models], options.rounds)
            low, middle, high = statistics.quantiles(found, n=4)
            table[name][what.__name__] = {"median": middle, "quartiles": [low, high], "rounds": len(found)}
            share = sizes[1] / sizes[0]
            print(f"{name:14}{share:6.3f} {what.__name__:12}{middle:7.3f}{low:7.3f}{high:7.3f}", flush=True)
    if options.json:
        facts = {"torch": torch.__version__, "threads": options.threads, "ratios": table}
        options.json.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
