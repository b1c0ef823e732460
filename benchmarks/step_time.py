"""Time of one training step by LFP over one by backprop: the same network, data and optimizer, interleaved in one run.

    python benchmarks/step_time.py [--rounds 60] [--compiled] [--settings NAME] [--only NAME ...] [--json FILE]

A step is forward, reward or loss, backward, optimizer. Every round times each contender once, in turn; the figure is
the median over rounds of the ratio within a round, which hardly depends on how fast the machine is at the moment.
"""

import argparse
import time
from pathlib import Path

import torch
from networks import NETWORKS
from steps import SETTINGS, both
from tables import Table


def ratios(name: str, *, compiled: bool, rounds: int, settings: str) -> list[float]:
    steps, found = both(name, compiled=compiled, settings=settings), []
    for round_number in range(rounds + 5):
        seconds = []
        for step in steps:
            start = time.perf_counter()
            step()
            step()
            seconds.append(time.perf_counter() - start)
        if round_number >= 5:
            found.append(seconds[0] / seconds[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--settings", choices=SETTINGS, default="default", help="a preset of steps.py")
    parser.add_argument("--compiled", action="store_true", help="time torch.compile'd networks too")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("LFP step / backprop step")
    for compiled in (False, True) if options.compiled else (False,):
        for name in options.only:
            torch._dynamo.reset()
            found = ratios(name, compiled=compiled, rounds=options.rounds, settings=options.settings)
            table.add(f"{name}, {'compiled' if compiled else 'eager'}", found)
    table.write(options.json, threads=options.threads)


if __name__ == "__main__":
    main()
