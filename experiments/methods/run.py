"""Ways to train without the gradient, on LeNet and MNIST, by `feedprop compare`.

    python experiments/methods/run.py [--data data] [--output FOLDER]

Every method tries the same four learning rates on validation data (a tenth of the training data) with a seed of its
own; with the best one it trains with three other seeds, and is tested once. A run that was stopped goes on.
"""

import csv
import sys
from pathlib import Path

from feedprop.cli import main as command

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row

METHODS = ("lfp", "backprop", "sign_symmetric", "feedback_alignment", "direct_feedback_alignment")
RATES = ("0.001", "0.01", "0.03", "0.1")
EPOCHS = 3


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--output", type=Path, default=Path("runs/methods"), help="folder of the comparison")
    options = arguments.parse_args()
    words = ["compare", "--data", "mnist", "--data.root", str(options.data), "--model", "lenet"]
    words += ["--epochs", str(EPOCHS), "--methods", ",".join(METHODS), "--learning_rates", ",".join(RATES)]
    if command([*words, "--jobs", "1", "--output", str(options.output)]):
        sys.exit(1)
    with (options.output / "runs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            settings = {key: row[key] for key in ("phase", "method", "learning_rate", "epochs")}
            figures = {key: float(row[key]) for key in ("validation", "test", "seconds") if row[key]}
            write_row(
                options.results,
                experiment="methods",
                seed=int(row["seed"]),
                settings=settings,
                figures=figures | {"state": row["state"]},
            )


if __name__ == "__main__":
    main()
