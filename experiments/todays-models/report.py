"""Print the tables of the published results, or of others: report.py [--results FILE]."""

import statistics
import sys
from pathlib import Path

from compare import rows
from tasks import TASKS

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, shown


def score(row: dict) -> float:
    """Nats for the GPT, else accuracy."""
    return row["loss"] if row["task"].startswith("gpt") else 1 - row["error"]


def tested(found: list[dict]) -> tuple[str, float]:
    """The test scores with the learning rate that was best in tuning, in words, and their mean."""
    best = (min if found[0]["task"].startswith("gpt") else max)((row for row in found if not row["test"]), key=score)
    scores = [score(row) for row in found if row["test"] and row["lr"] == best["lr"]]
    if not scores:
        return "not run", float("nan")
    slope = f"{best['slope']}, " if best["method"] == "lfp" else ""
    mean = statistics.mean(scores)
    return f"{shown(mean)} ({', '.join(map(shown, scores))}; {slope}{best['lr']:g})", mean


def name(row: dict) -> str:
    """What the method was, in words."""
    return "LFP, relative" if row["relative"] else {"lfp": "LFP", "backprop": "backprop"}[row["method"]]


def main() -> None:
    path = parser(__doc__, __file__, results="results.jsonl").parse_args().results
    print("| task | measure | method | seeds; slope, rate | backprop | LFP better by |\n|---|---|---|---|---|---|")
    runs: dict[tuple[str, str], list[dict]] = {}
    for row in sorted(rows(path), key=lambda row: list(TASKS).index(row["task"])):
        runs.setdefault((row["task"], name(row)), []).append(row)
    for task, method in sorted(runs, key=lambda key: key[1] != "LFP, relative"):
        if method == "backprop":
            continue
        measure, sign = ("nats", -1) if task.startswith("gpt") else ("accuracy", 1)
        (mine, left), (theirs, right) = tested(runs[task, method]), tested(runs[task, "backprop"])
        print(f"| {task} | {measure} | {method} | {mine} | {theirs} | {sign * (left - right):+.4f} |")
    print("\n| task | method | validation, by learning rate |\n|---|---|---|")
    for (task, method), found in runs.items():
        cells = sorted((row["lr"], shown(score(row))) for row in found if not row["test"])
        print(f"| {task} | {method} | {', '.join(f'{value} ({lr:g})' for lr, value in cells)} |")


if __name__ == "__main__":
    main()
