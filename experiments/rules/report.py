"""Prints the table of results.jsonl and draws curves.png: python experiments/rules/report.py"""

import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
EVERY = 26
TITLES = {"lenet": "LeNet on 20,000 images of MNIST", "vgg": "VGG-like net on 10,000 images of Fashion-MNIST"}


def shown(value: float) -> str:
    return f"{value:.4f}".lstrip("0")


def table(rows: list[dict]) -> str:
    lines = ["| rule | test accuracy | steps to 80 % | weights near zero | ms per step | learning rate |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for rule, seeds in groups(rows).items():
        accuracies = [row["test"] for row in seeds]
        steps = ", ".join("-" if row["steps_to_80"] is None else str(row["steps_to_80"]) for row in seeds)
        near_zero = statistics.mean(row["near_zero"] for row in seeds)
        milliseconds = statistics.median(row["ms"] for row in seeds)
        lines.append(
            f"| {rule} | {shown(statistics.mean(accuracies))} ({shown(min(accuracies))}) | {steps} "
            f"| {near_zero:.2f} | {milliseconds:.0f} | {seeds[0]['lr']:g} |"
        )
    return "\n".join(lines)


def groups(rows: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["rule"], []).append(row)
    return found


def draw(rows: list[dict]) -> None:
    networks = [name for name in TITLES if any(row["network"] == name for row in rows)]
    figure, axes = plt.subplots(1, len(networks), figsize=(6.5 * len(networks), 4.5), squeeze=False, sharey=True)
    for axis, network in zip(axes[0], networks, strict=True):
        for number, (rule, seeds) in enumerate(groups([r for r in rows if r["network"] == network]).items()):
            middle = [statistics.median(values) for values in zip(*(row["curve"] for row in seeds), strict=True)]
            steps = [EVERY * (i + 1) for i in range(len(middle))]
            axis.plot(steps, middle, label=rule, color=plt.cm.tab20(number), linewidth=1.6)
        axis.set(title=TITLES[network], xlabel="step", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("validation accuracy, median of three seeds")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(HERE / "curves.png", dpi=110, bbox_inches="tight")


def main() -> None:
    rows = [json.loads(line) for line in (HERE / "results.jsonl").read_text().splitlines()]
    for network, title in TITLES.items():
        chosen = [row for row in rows if row["network"] == network]
        if chosen:
            print(f"{title}\n\n{table(chosen)}\n")
    draw(rows)


if __name__ == "__main__":
    main()
