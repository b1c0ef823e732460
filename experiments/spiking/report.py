"""Print the tables of the published comparison, or of another one: report.py [--results FILE]."""

import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows, shown, with_interval

GOALS = {"mnist-mlp": ".975", "mnist-cnn": ".985", "fashion-cnn": ".88", "vowels": ".93"}


def setting(row: dict) -> str:
    numbers = (f"{name} {row[name]:g}" for name in ("epsilon", "floor") if row[name])
    return ", ".join([row["objective"], *numbers])


def main() -> None:
    path = parser(__doc__, __file__, results="comparison.jsonl").parse_args().results
    rows = flat(read_rows(path))
    print("| task | method | test accuracy | setting, learning rate | goal |\n|---|---|---|---|---|")
    for task, goal in GOALS.items():
        for method in ("feedback", "surrogate"):
            if found := [row for row in rows if (row["task"], row["method"], row["test"]) == (task, method, True)]:
                accuracies = [row["accuracy"] for row in found]
                seeds = ", ".join(map(shown, accuracies))
                at = f"{setting(found[0])}, {found[0]['lr']:g}"
                print(f"| {task} | {method} | {shown(statistics.mean(accuracies))} ({seeds}) | {at} | {goal} |")
    print("\n| task | method | setting | validation accuracy by learning rate |\n|---|---|---|---|")
    tuned: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if not row["test"]:
            cell = f"{shown(row['accuracy'])} ({row['lr']:g})"
            tuned.setdefault((row["task"], row["method"], setting(row)), []).append(cell)
    for key, cells in tuned.items():
        print(f"| {' | '.join(key)} | {', '.join(cells)} |")
    print_pruned(flat(read_rows(Path(__file__).with_name("pruned.jsonl"))))


def print_pruned(rows: list[dict]) -> None:
    """Print the accuracy of whole and pruned networks, means with 95 % intervals."""
    print("\n| mnist-mlp | whole | 90 % pruned in one shot | 90 % pruned gradually |\n|---|---|---|---|")
    for method in ("feedback", "surrogate"):
        found = [row for row in rows if row["method"] == method]
        shot, gradual = ([row for row in found if row[way]] for way in ("one_shot", "gradual"))
        ways = (
            [row["accuracy"] for row in shot],
            [row["pruned"] for row in shot],
            [row["accuracy"] for row in gradual],
        )
        print(f"| {method} | {' | '.join(map(with_interval, ways))} |")


if __name__ == "__main__":
    main()
