"""Do the learning rates of backprop suit LFP? SGD on LeNet, one epoch, validation accuracy for each rate.

A rate at which training diverges, so that the command stops, is shown as "-".

    OMP_NUM_THREADS=1 python experiments/fashion-lenet/rates.py [--data data]

Prints a table; every run is one call of the command.
"""

import argparse
import subprocess
from pathlib import Path

from run import PLAIN, SGD, run

RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
METHODS = {
    "backprop": ("backprop", ""),
    "lfp": ("lfp", f" {PLAIN}"),
    "lfp, relative magnitudes": ("lfp", f" {PLAIN} --relative_magnitude true"),
    "lfp, relative magnitudes, floor .1": ("lfp", f" {PLAIN} --relative_magnitude true --magnitude_floor 0.1"),
}


def score(method: str, options: str, rate: float, root: Path) -> str:
    try:
        return f"{run(method, options, rate, root, epochs=1)['validation']:.3f}".removeprefix("0")
    except subprocess.CalledProcessError:
        return "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    root = parser.parse_args().data
    lines = ["| | " + " | ".join(map(str, RATES)) + " |", "|---|" + "---|" * len(RATES)]
    for name, (method, options) in METHODS.items():
        scores = [score(method, SGD + options, rate, root) for rate in RATES]
        lines.append(f"| {name} | " + " | ".join(scores) + " |")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
