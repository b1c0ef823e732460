"""Fashion-MNIST, LeNet, 5 epochs: LFP against backprop, each with its best of five learning rates by validation accuracy.

    python experiments/fashion-lenet/run.py [--data data]

Every run is one call of the command, printed before it starts. Results go to results.json.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SEED = 7  # chosen before the first run
LEARNING_RATES = {"lfp": (0.1, 0.2, 0.4, 0.8, 1.6), "backprop": (0.01, 0.02, 0.05, 0.1, 0.2)}
HERE = Path(__file__).parent


def run(method: str, lr: float, root: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        line = (
            f"feedprop train --method {method} --data fashion_mnist --data.root {root} --model lenet --epochs 5 "
            f"--batch_size 128 --optimizer SGD --optimizer.lr {lr} --optimizer.momentum 0.9 --seed {SEED}"
        )
        print(line, flush=True)
        words = [str(Path(sys.executable).parent / "feedprop"), *shlex.split(line)[1:], "--output", f"{folder}/run"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(Path(folder, "run", "results.json").read_text())
    line = line.replace(f" --data.root {root}", "")
    return {"command": line, "validation": found["validation"]["accuracy"], "test": found["test"]["accuracy"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    root = parser.parse_args().data
    results: dict[str, object] = {"seed": SEED}
    for method, rates in LEARNING_RATES.items():
        runs = [run(method, lr, root) for lr in rates]
        best = max(runs, key=lambda row: row["validation"])
        results[method] = {"runs": runs, "chosen": best}
        print(method, "chosen by validation:", best, flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
