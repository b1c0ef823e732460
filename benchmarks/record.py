"""Time of a training step by LFP that is recorded over one that is not: interleaved, in one run.

    python benchmarks/record.py [--rounds 60] [--every 1 10] [--only NAME ...] [--json FILE]

A step is forward, reward, backward, optimizer. Every round times each contender once, in turn, over as many steps as
the largest `--every`; the figure is the median over rounds of the ratio within a round. "after" is a model that was
recorded before.
"""

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from networks import NETWORKS
from steps import Step, both
from tables import Table

import feedprop

DEFAULT = ["mlp relu", "lenet relu", "vgg-bn relu"]


def contenders(name: str, every: list[int], stack: ExitStack) -> dict[str, Step]:
    """Return the steps to compare; the records are open until `stack` is left."""
    steps: dict[str, Step] = {}
    for label in ("plain", "after", *every):
        step, _ = both(name, compiled=False)
        model = step.model
        if label == "after":
            with feedprop.record(model):
                step()
        elif label != "plain":
            stack.enter_context(feedprop.record(model, every=label))
        steps[str(label)] = step
    return steps


def ratios(name: str, *, every: list[int], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        steps = contenders(name, every, stack)
        for round_number in range(rounds + 2):
            seconds = {}
            for label, step in steps.items():
                start = time.perf_counter()
                for _ in range(max(every)):
                    step()
                seconds[label] = time.perf_counter() - start
            if round_number >= 2:
                for label in steps.keys() - {"plain"}:
                    found.setdefault(label, []).append(seconds[label] / seconds["plain"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--every", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=DEFAULT, metavar="NAME")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("recorded step / step")
    for name in options.only:
        for label, found in sorted(ratios(name, every=options.every, rounds=options.rounds).items()):
            table.add(f"{name}, {label if label == 'after' else f'every={label}'}", found)
    table.write(options.json, threads=options.threads)


if __name__ == "__main__":
    main()
