"""Print the tables of the published results, or of others, and draw curves.png: report.py [--results FILE]."""

import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows, shown

EVERY = 26
LEVELS = {"lenet": 0.8, "vgg": 0.6}  # of validation accuracy, whose first step tells the speed
TITLES = {
    ("lenet", "sgd"): "LeNet on 20,000 images of MNIST, SGD",
    ("vgg", "sgd"): "VGG-like net on 10,000 of Fashion-MNIST, SGD",
    ("vgg", "adam"): "VGG-like net on 10,000 of Fashion-MNIST, Adam",
}


def table(rows: list[dict]) -> str:
    level = LEVELS[rows[0]["network"]]
    lines = [f"| rule | test accuracy | steps to {level:.0%} | 80 % pruned | ms per step | learning rate |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for rule, seeds in groups(rows).items():
        accuracies = [row["test"] for row in seeds]
        steps = ", ".join(reached(row["curve"], level) for row in seeds)
        sparse = shown(statistics.mean(row["pruned"] for row in seeds)) if "pruned" in seeds[0] else ""
        milliseconds = statistics.median(row["ms"] for row in seeds)
        lines.append(
            f"| {rule} | {shown(statistics.mean(accuracies))} ({shown(min(accuracies))}) | {steps} "
            f"| {sparse} | {milliseconds:.0f} | {seeds[0]['lr']:g} |"
        )
    return "\n".join(lines)


def reached(curve: list[float], level: float) -> str:
    return next((str(EVERY * (i + 1)) for i, value in enumerate(curve) if value >= level), "-")


def of(rows: list[dict], setup: tuple[str, str]) -> list[dict]:
    return [row for row in rows if (row["network"], row.get("optimizer", "sgd")) == setup]


def groups(rows: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["rule"], []).append(row)
    return found


def draw(rows: list[dict], path: Path) -> None:
    setups = [setup for setup in TITLES if of(rows, setup)]
    figure, axes = plt.subplots(1, len(setups), figsize=(6 * len(setups), 4.5), squeeze=False, sharey=True)
    for axis, setup in zip(axes[0], setups, strict=True):
        for number, (rule, seeds) in enumerate(groups(of(rows, setup)).items()):
            middle = [statistics.median(values) for values in zip(*(row["curve"] for row in seeds), strict=True)]
            steps = [EVERY * (i + 1) for i in range(len(middle))]
            axis.plot(steps, middle, label=rule, color=plt.cm.tab20(number), linewidth=1.6)
        axis.set(title=TITLES[setup], xlabel="step", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("validation accuracy, median of three seeds")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    path = parser(__doc__, __file__, results="results.jsonl").parse_args().results
    rows = flat(read_rows(path))
    for setup, title in TITLES.items():
        if of(rows, setup):
            print(f"{title}\n\n{table(of(rows, setup))}\n")
    draw(rows, path.with_name("curves.png"))


if __name__ == "__main__":
    main()
