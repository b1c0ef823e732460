"""Print the tables of the published results, or of others: report.py [--results FILE].

A cell of a test is the mean over the seeds, and half the width of its 95 % interval, of the way's setting that had the
best validation accuracy with this share of the weights pruned. In the table of tuning these settings have an asterisk.
"""

import sys
from pathlib import Path

from methods import WAYS

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows, shown, with_interval

AMOUNTS = ("0.0", "0.8", "0.9", "0.95", "0.98")
HEADINGS = " | ".join("full" if amount == "0.0" else f"{100 * float(amount):g} %" for amount in AMOUNTS)
TITLES = {"lenet": "LeNet", "vgg": "VGG", "fashion-mnist": "Fashion-MNIST", "mnist": "MNIST"}
Setting = tuple[str, float, float]


def setting(row: dict) -> Setting:
    return row["family"], row["rate"], row["strength"]


def best(tuned: list[dict], way: str, amount: str) -> Setting:
    """Return the setting that is best in tuning, at one share of the weights."""
    of_way = (row for row in tuned if row["family"] in WAYS[way] and row["accuracies"])
    return setting(max(of_way, key=lambda row: row["accuracies"][amount]))


def cell(tests: list[dict], chosen: Setting, amount: str) -> str:
    found = [row["accuracies"] for row in tests if setting(row) == chosen]
    if not found or None in found:
        return "diverged" if found else "-"
    return with_interval([accuracies[amount] for accuracies in found])


def main() -> None:
    rows = flat(read_rows(parser(__doc__, __file__, results="results.jsonl").parse_args().results))
    tuned = [row for row in rows if row["part"] == "validation"]
    tests = [row for row in rows if row["part"] == "test"]
    ways = [way for way in WAYS if any(row["family"] in WAYS[way] and row["accuracies"] for row in tuned)]
    chosen = {(way, amount): best(tuned, way, amount) for way in ways for amount in AMOUNTS}
    for network, data in dict.fromkeys((row["network"], row["data"]) for row in tests):
        print(f"| {TITLES[network]}, {TITLES[data]}, test | {HEADINGS} |\n|---{'|---' * len(AMOUNTS)}|")
        here = [row for row in tests if (row["network"], row["data"]) == (network, data)]
        for way in ways:
            print(f"| {way} | {' | '.join(cell(here, chosen[way, amount], amount) for amount in AMOUNTS)} |")
        print()
    print(f"| LeNet, Fashion-MNIST, validation | setting | {HEADINGS} |\n|---|---{'|---' * len(AMOUNTS)}|")
    for row in tuned:
        numbers = f"{row['rate']:g}" + (f", {row['strength']:g}" if row["strength"] else "")
        marked = {amount for (_, amount), found in chosen.items() if found == setting(row)}
        values = (
            shown(row["accuracies"][amount]) + "*" * (amount in marked) if row["accuracies"] else "diverged"
            for amount in AMOUNTS
        )
        print(f"| {row['family']} | {numbers} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
