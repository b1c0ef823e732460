"""Print the tables of the published results, or of others: report.py [--results FILE]."""

import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, half_width, parser, read_rows, shown

GOALS = {"step-mlp": ".95", "sign-mlp": ".96", "step-lenet": ".97", "sign-lenet": ".98", "2bit-lenet": ".98",
         "sigmoid-lenet": ".98", "binaryweight-mlp": ".95"}  # fmt: skip
PUBLISHED = {"step-mlp": ".70", "step-lenet": ".755"}
GRADIENT = "gradient"  # what every estimator is of a function that has a derivative


def mean_of(rows: list[dict]) -> str:
    if not rows:
        return "not run"
    accuracies = [row["test"] for row in rows]
    half = f"{half_width(accuracies):.4f}".removeprefix("0")
    return f"{shown(statistics.mean(accuracies))} ± {half} ({', '.join(map(shown, accuracies))})"


def setting(rows: list[dict], network: str) -> str:
    if not rows:
        return ""
    row = rows[0]
    name = GRADIENT if network.startswith("sigmoid") else row["method"]
    return f"{name}, " * (row["method"] != "feedback") + f"{row['optimizer']} {row['lr']:g}"


def difference(ours: list[dict], theirs: list[dict]) -> str:
    """Return the mean difference of seeds, which are the same for both, with its 95 % interval."""
    others = {row["seed"]: row["test"] for row in theirs}
    found = [row["test"] - others[row["seed"]] for row in ours if row["seed"] in others]
    return f"{statistics.mean(found):+.4f} ± {half_width(found):.4f}".replace("0.", ".") if len(found) > 1 else ""


def main() -> None:
    rows = flat(read_rows(parser(__doc__, __file__, results="results.jsonl").parse_args().results))
    tested = [row for row in rows if row["phase"] == "test"]
    print("| network | LFP | setting | estimator | setting | LFP - estimator | goal | published LFP |")
    print("|---|---|---|---|---|---|---|---|")
    for network, goal in GOALS.items():
        ours = [row for row in tested if row["network"] == network and row["method"] == "feedback"]
        theirs = [row for row in tested if row["network"] == network and row["method"] != "feedback"]
        cells = (mean_of(ours), setting(ours, network), mean_of(theirs), setting(theirs, network))
        print(
            f"| {network} | {' | '.join(cells)} | {difference(ours, theirs)} | {goal} | {PUBLISHED.get(network, '')} |"
        )
    tuned = [row for row in rows if row["phase"] == "tuning"]
    print("\n| network | method | validation accuracy by learning rate |\n|---|---|---|")
    for network, method in dict.fromkeys((row["network"], row["method"]) for row in tuned):
        found = [row for row in tuned if (row["network"], row["method"]) == (network, method)]
        cells = [f"{shown(row['validation'])} ({row['optimizer']} {row['lr']:g})" for row in found]
        print(f"| {network} | {GRADIENT if network.startswith('sigmoid') and method != 'feedback' else method} | "
              f"{', '.join(cells)} |")  # fmt: skip


if __name__ == "__main__":
    main()
