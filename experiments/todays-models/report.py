"""Prints the tables of results.jsonl: python experiments/todays-models/report.py"""

import statistics

from compare import rows
from tasks import TASKS


def shown(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def cell(found: list[dict], measure: str) -> tuple[str, float]:
    values = [1 - row["error"] if measure == "accuracy" else row["loss"] for row in found]
    settings = f"{found[0]['slope']}, {found[0]['lr']:g}" if found[0]["method"] == "lfp" else f"{found[0]['lr']:g}"
    mean = statistics.mean(values)
    return f"{shown(mean)} ({', '.join(map(shown, values))}; {settings})", mean


def main() -> None:
    print("| task | measure | LFP (seeds; slope, learning rate) | backprop | LFP better by |\n|---|---|---|---|---|")
    tests = [row for row in rows() if row["test"]]
    for task in TASKS:
        measure = "nats" if task.startswith("gpt") else "accuracy"
        other = [row for row in tests if (row["task"], row["method"]) == (task, "backprop")]
        mine = [row for row in tests if (row["task"], row["method"]) == (task, "lfp")]
        for slope in dict.fromkeys(row["slope"] for row in mine):
            left, value = cell([row for row in mine if row["slope"] == slope], measure)
            right, base = cell(other, measure) if other else ("not run", value)
            better = value - base if measure == "accuracy" else base - value
            print(f"| {task} | {measure} | {left} | {right} | {better:+.4f} |")
    print("\n| task | method | validation, by learning rate |\n|---|---|---|")
    tuned: dict[tuple[str, str], list[str]] = {}
    for row in rows():
        if not row["test"]:
            name = row["method"] if row["method"] == "backprop" else f"LFP, {row['slope']}"
            value = row["loss"] if row["task"].startswith("gpt") else 1 - row["error"]
            tuned.setdefault((row["task"], name), []).append(f"{shown(value)} ({row['lr']:g})")
    for key, cells in tuned.items():
        print(f"| {' | '.join(key)} | {', '.join(cells)} |")


if __name__ == "__main__":
    main()
