"""Print the table of the published results, or of others: report.py [--results FILE]."""

import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows, shown

GOALS = {"step-mlp": ".95", "sign-mlp": ".96", "step-lenet": ".97", "sign-lenet": ".98", "2bit-lenet": ".98",
         "sigmoid-lenet": ".98", "binaryweight-mlp": ".95"}  # fmt: skip
PUBLISHED = {"step-mlp": ".70", "step-lenet": ".755"}


def cell(rows: list[dict]) -> str:
    if not rows:
        return "not run"
    accuracies = [row["test"] for row in rows]
    seeds = ", ".join(map(shown, accuracies))
    return f"{shown(statistics.mean(accuracies))} ({seeds}; {rows[0]['optimizer']} {rows[0]['lr']:g})"


def main() -> None:
    path = parser(__doc__, __file__, results="results.jsonl").parse_args().results
    rows = [row for row in flat(read_rows(path)) if row["phase"] == "test"]
    print("| network | LFP | straight-through estimator | goal | published LFP (noise, 300 epochs) |")
    print("|---|---|---|---|---|")
    for network, goal in GOALS.items():
        cells = [
            cell([row for row in rows if row["network"] == network and row["method"] == method])
            for method in ("feedback", "straight-through")
        ]
        print(f"| {network} | {' | '.join(cells)} | {goal} | {PUBLISHED.get(network, '')} |")


if __name__ == "__main__":
    main()
