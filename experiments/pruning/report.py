"""Print the tables of the published results, or of others: report.py [--results FILE]."""

import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows, shown

AMOUNTS = ("0.0", "0.8", "0.9", "0.95", "0.98")
SHORT = {"LFP, relative, falling floor": "LFP, falling floor", "LFP, plain, Adam per tensor": "LFP, Adam per tensor"}
STUDENT = {2: 12.71, 3: 4.303}  # of 95 %, by the number of seeds
HEADINGS = " | ".join("full" if amount == "0.0" else f"{100 * float(amount):g} %" for amount in AMOUNTS)


def with_interval(values: list[float]) -> str:
    """Return the mean, and half the width of its 95 % interval."""
    if len(values) not in STUDENT:
        return shown(values[0])
    half = STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{shown(statistics.mean(values))} ± {half:.3f}".replace("± 0.", "± .")


def setting(row: dict) -> str:
    return f"{row['rate']:g}" + (f", {row['strength']:g}" if row["strength"] else "")


def main() -> None:
    rows = flat(read_rows(parser(__doc__, __file__, results="results.jsonl").parse_args().results))
    families = list(dict.fromkeys(row["family"] for row in rows))
    for data in dict.fromkeys(row["data"] for row in rows if row["part"] == "test"):
        print(f"| {data}, test | setting | {HEADINGS} |\n|---|---{'|---' * len(AMOUNTS)}|")
        for family in families:
            found = [row for row in rows if (row["family"], row["data"], row["part"]) == (family, data, "test")]
            if found:
                lost = any(row["accuracies"] is None for row in found)
                values = ([row["accuracies"][amount] for row in found] if not lost else [] for amount in AMOUNTS)
                cells = ["diverged" if lost else with_interval(each) for each in values]
                print(f"| {SHORT.get(family, family)} | {setting(found[0])} | {' | '.join(cells)} |")
        print()
    print(f"| fashion-mnist, validation | setting | {HEADINGS} |\n|---|---{'|---' * len(AMOUNTS)}|")
    for row in rows:
        if row["part"] == "validation":
            accuracies = row["accuracies"] or dict.fromkeys(AMOUNTS)
            cells = ["diverged" if accuracies[amount] is None else shown(accuracies[amount]) for amount in AMOUNTS]
            print(f"| {row['family']} | {setting(row)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
