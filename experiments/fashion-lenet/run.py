"""Fashion-MNIST, LeNet, 5 epochs: LFP against backprop, each with its best of ten settings by validation accuracy.

LFP: five learning rates with Adam and a magnitude floor of 0.02, five with one of 0.05. Backprop: five with SGD, five
with Adam.

    python experiments/fashion-lenet/run.py [--data data]

(With OMP_NUM_THREADS=1: rounding depends on the number of threads.)

Every run is one call of the command, printed before it starts.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row

SEED = 7  # chosen before the first run
# plain |w|, and a momentum that OneCycleLR moves between .95 and .85, as when the results were recorded
CYCLED, PLAIN = "--scheduler.cycle_momentum true", "--rule presets.sparse"
SGD, ADAM = f"--optimizer SGD {CYCLED}", f"--optimizer Adam {CYCLED}"
RATES = (0.002, 0.003, 0.005, 0.008, 0.012)
SETTINGS = {
    "lfp": tuple((f"{ADAM} {PLAIN} --magnitude_floor {floor}", RATES) for floor in (0.02, 0.05)),
    "backprop": ((SGD, (0.01, 0.02, 0.05, 0.1, 0.2)), (ADAM, (0.0005, 0.001, 0.002, 0.003, 0.005))),
}


def run(method: str, optimizer: str, lr: float, root: Path, *, epochs: int = 5) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        line = (
            f"feedprop train --method {method} --data fashion_mnist --data.root {root} --model lenet --epochs {epochs} "
            f"--batch_size 128 {optimizer} --optimizer.lr {lr} --seed {SEED}"
        )
        print(line, flush=True)
        words = [str(Path(sys.executable).parent / "feedprop"), *shlex.split(line)[1:], "--output", f"{folder}/run"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(Path(folder, "run", "results.json").read_text())
    line = line.replace(f" --data.root {root}", "")
    return {"command": line, "validation": found["validation"]["accuracy"], "test": found["test"]["accuracy"]}


def main() -> None:
    options = parser(__doc__, __file__).parse_args()
    for method, grid in SETTINGS.items():
        runs = []
        for optimizer, rates in grid:
            for lr in rates:
                runs.append(found := run(method, optimizer, lr, options.data))
                words = optimizer.split()
                settings = {"method": method, "optimizer": words[1], "lr": lr}
                if "--magnitude_floor" in words:
                    settings["magnitude_floor"] = float(words[-1])
                figures = {name: found[name] for name in ("validation", "test")}
                write_row(
                    options.results,
                    experiment="fashion-lenet",
                    command=found["command"],
                    seed=SEED,
                    settings=settings,
                    figures=figures,
                )
        best = max(runs, key=lambda row: row["validation"])
        print(method, "chosen by validation:", best, flush=True)


if __name__ == "__main__":
    main()
