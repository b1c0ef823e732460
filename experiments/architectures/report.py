"""Print the tables of the README from results.jsonl."""

import math
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows

OUTCOMES = ("works", "refused", "wrong", "not built")
BOUNDS = (1e-4, 1e-3, 1e-2)
UNKNOWN = "no rule says how credit passes "
KINDS = {
    "text": ("next token", "masked tokens", "text to text"),
    "images": ("images", "segmentation", "detection", "depth"),
    "sound": ("sounds", "speech to text"),
    "video": ("video",),
}


def main() -> None:
    rows = flat(read_rows(parser(__doc__, __file__, results="results.jsonl").parse_args().results))
    print(f"| | | architectures | {' | '.join(OUTCOMES)} |\n|---|---|---{'|---' * len(OUTCOMES)}|")
    for library in dict.fromkeys(row["library"] for row in rows):
        for kind, tasks in KINDS.items():
            if found := [row for row in rows if row["library"] == library and row["task"] in tasks]:
                print_row([library, kind], found)
    print_row(["all", ""], rows)
    print("\n| difference | architectures |\n|---|---|")
    differences = [row["difference"] for row in rows if row["outcome"] == "works"]
    for below, above in pairwise((0.0, *BOUNDS, math.inf)):
        number = sum(below <= value < above for value in differences)
        print(f"| {f'below {above:g}' if above < math.inf else f'{below:g} and more'} | {number} |")
    print("\n| .01 and more | difference | rounding |\n|---|---|---|")
    for row in rows:
        if row["outcome"] == "works" and row["difference"] >= BOUNDS[-1]:
            print(f"| {row['architecture']} ({row['library']}) | {row['difference']:.2g} | {row['rounding']:.1g} |")
    print("\n| refused or wrong | why |\n|---|---|")
    for row in rows:
        if row["outcome"] in ("refused", "wrong"):
            print(f"| {row['architecture']} | `{row['reason'].removeprefix(UNKNOWN).split(',')[0]}` |")
    print("\n| not built | |\n|---|---|")
    reasons = Counter(_kind(row["reason"]) for row in rows if row["outcome"] == "not built")
    for reason, number in reasons.most_common():
        print(f"| {reason} | {number} |")


def print_row(names: list[str], rows: list[dict]) -> None:
    """Print how many architectures there are, and how many have each outcome."""
    numbers = [len(rows), *(sum(row["outcome"] == outcome for row in rows) for outcome in OUTCOMES)]
    print(f"| {' | '.join(names)} | {' | '.join(map(str, numbers))} |")


def _kind(reason: str) -> str:
    if reason.startswith("more than"):
        return reason
    return "needs a package that is not installed" if "ImportError" in reason else "not with these small settings"


if __name__ == "__main__":
    main()
