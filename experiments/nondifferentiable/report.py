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


def mean_of(values: list[float], sign: str = "") -> str:
    if len(values) < 2:
        return "not run"
    return f"{statistics.mean(values):{sign}.4f} ± {half_width(values):.4f}".replace("0.", ".")


def known_as(row: dict) -> str:
    return GRADIENT if row["network"].startswith("sigmoid") and row["method"] != "feedback" else row["method"]


def seeds_of(rows: list[dict]) -> str:
    if not rows:
        return ""
    chosen = f"{rows[0]['optimizer']} {rows[0]['lr']:g}"
    estimator = "" if rows[0]["method"] == "feedback" else f"{known_as(rows[0])}, "
    return f"{', '.join(shown(row['test']) for row in rows)} ({estimator}{chosen})"


def main() -> None:
    rows = flat(read_rows(parser(__doc__, __file__, results="results.jsonl").parse_args().results))
    tested = [row for row in rows if row["phase"] == "test"]
    compared, seeds = [], []
    for network, goal in GOALS.items():
        ours = [row for row in tested if row["network"] == network and row["method"] == "feedback"]
        theirs = [row for row in tested if row["network"] == network and row["method"] != "feedback"]
        others = {row["seed"]: row["test"] for row in theirs}
        ahead = [row["test"] - others[row["seed"]] for row in ours if row["seed"] in others]
        means = (mean_of([row["test"] for row in ours]), mean_of([*others.values()]), mean_of(ahead, "+"))
        compared.append(f"| {network} | {' | '.join(means)} | {goal} | {PUBLISHED.get(network, '')} |")
        seeds.append(f"| {network} | {seeds_of(ours)} | {seeds_of(theirs)} |")
    print("| network | LFP | estimator | LFP - estimator | goal | published LFP (noise, 300 epochs) |")
    print("|---|---|---|---|---|---|", *compared, sep="\n")
    print("\n| network | LFP: seeds (setting) | estimator: seeds (setting) |\n|---|---|---|", *seeds, sep="\n")
    tuned: dict[tuple[str, str], dict[str, list[dict]]] = {}
    for row in rows:
        if row["phase"] == "tuning":
            tuned.setdefault((row["network"], known_as(row)), {}).setdefault(row["optimizer"], []).append(row)
    print("\n| network | method | SGD .01, .03, .1 | Adam .0003, .001, .003 |\n|---|---|---|---|")
    for case, found in tuned.items():
        cells = [", ".join(shown(row["validation"]) for row in found[name]) for name in ("sgd", "adam")]
        print(f"| {' | '.join(case)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
