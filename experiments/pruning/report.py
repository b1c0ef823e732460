"""Print the tables of the published results, or of others: report.py [--results FILE].

A cell is the mean over the seeds, and half the width of its 95 % interval, of the family's setting that had the best
validation accuracy with this share of the weights pruned.
"""

import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, half_width, parser, read_rows, shown

AMOUNTS = ("0.0", "0.8", "0.9", "0.95", "0.98")
HEADINGS = " | ".join("full" if amount == "0.0" else f"{100 * float(amount):g} %" for amount in AMOUNTS)
TITLES = {"lenet": "LeNet", "vgg": "VGG", "fashion-mnist": "Fashion-MNIST", "mnist": "MNIST"}
Row = dict


def setting(row: Row) -> tuple[float, float]:
    return row["rate"], row["strength"]


def with_interval(values: list[float]) -> str:
    mean = shown(statistics.mean(values))
    return mean if len(values) < 2 else f"{mean} ± {half_width(values):.3f}".replace("± 0.", "± .")


def cell(tuned: list[Row], tested: list[Row], amount: str) -> str:
    """Return the tests of the setting that is best in tuning, at one share of the weights."""
    best = max((row for row in tuned if row["accuracies"]), key=lambda row: row["accuracies"][amount])
    found = [row["accuracies"] for row in tested if setting(row) == setting(best)]
    if not found:
        return "-"
    return "diverged" if None in found else with_interval([accuracies[amount] for accuracies in found])


def main() -> None:
    rows = flat(read_rows(parser(__doc__, __file__, results="results.jsonl").parse_args().results))
    tuned = [row for row in rows if row["part"] == "validation"]
    tests = [row for row in rows if row["part"] == "test"]
    families = list(dict.fromkeys(row["family"] for row in tuned))
    for network, data in dict.fromkeys((row.get("network", "lenet"), row["data"]) for row in tests):
        print(f"| {TITLES[network]}, {TITLES[data]}, test | {HEADINGS} |\n|---{'|---' * len(AMOUNTS)}|")
        for family in families:
            of_family = [row for row in tuned if row["family"] == family]
            tested = [row for row in tests if (row["family"], row.get("network", "lenet"), row["data"]) == (family, network, data)]
            print(f"| {family} | {' | '.join(cell(of_family, tested, amount) for amount in AMOUNTS)} |")
        print()
    print(f"| LeNet, Fashion-MNIST, validation | setting | {HEADINGS} |\n|---|---{'|---' * len(AMOUNTS)}|")
    for row in sorted(tuned, key=lambda row: families.index(row["family"])):
        chosen = f"{row['rate']:g}" + (f", {row['strength']:g}" if row["strength"] else "")
        values = [shown(row["accuracies"][amount]) if row["accuracies"] else "diverged" for amount in AMOUNTS]
        print(f"| {row['family']} | {chosen} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
