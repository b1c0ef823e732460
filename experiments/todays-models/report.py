"""Print the tables of the published results, or of others: report.py [--results FILE]."""

import statistics
import sys
from pathlib import Path

from compare import rows
from tasks import TASKS

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, shown


def rate(lr: float) -> str:
    return f"{lr:g}".removeprefix("0")


def score(row: dict) -> float:
    """Return nats for the GPT, accuracy for the others."""
    return row["loss"] if row["task"].startswith("gpt") else 1 - row["error"]


def tested(found: list[dict]) -> tuple[str, float]:
    """Return the test scores at the learning rate that was best in tuning, in words, and their mean."""
    best = (min if found[0]["task"].startswith("gpt") else max)((row for row in found if not row["test"]), key=score)
    scores = [score(row) for row in found if row["test"] and row["lr"] == best["lr"]]
    if not scores:
        return "not run", float("nan")
    slope = f"{best['slope']}, " if best["method"] == "lfp" else ""
    mean = statistics.mean(scores)
    return f"{shown(mean)} ({', '.join(map(shown, scores))}; {slope}{rate(best['lr'])})", mean


def name(row: dict) -> str:
    return "backprop" if row["method"] == "backprop" else "LFP, relative" if row["relative"] else "LFP, plain"


def main() -> None:
    path = parser(__doc__, __file__, results="results.jsonl").parse_args().results
    runs: dict[tuple[str, str], list[dict]] = {}
    for row in sorted(rows(path), key=lambda row: list(TASKS).index(row["task"])):
        runs.setdefault((row["task"], name(row)), []).append(row)
    for method in ("LFP, relative", "LFP, plain"):
        print(f"| task | {method} (seeds; slope, rate) | backprop (seeds; rate) | LFP better by |\n|---|---|---|---|")
        for task in TASKS:
            if (task, method) in runs and (task, "backprop") in runs:
                (mine, left), (theirs, right) = tested(runs[task, method]), tested(runs[task, "backprop"])
                better = right - left if task.startswith("gpt") else left - right
                print(f"| {task} | {mine} | {theirs} | {'-' if better < 0 else '+'}{shown(abs(better))} |")
        print()
    print("| task | method | validation, by learning rate |\n|---|---|---|")
    for (task, method), found in runs.items():
        cells = sorted((row["lr"], shown(score(row))) for row in found if not row["test"])
        print(f"| {task} | {method} | {', '.join(f'{value} ({rate(lr)})' for lr, value in cells)} |")


if __name__ == "__main__":
    main()
