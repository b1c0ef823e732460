"""Print the tables of the README from results.jsonl."""

import random
import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, read_rows

KINDS = [(score, filling) for score in ("probability", "logit") for filling in ("mean colour", "blurred image")]


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by drawing the images again 10,000 times."""
    draw = random.Random(0)
    means = sorted(statistics.mean(draw.choices(values, k=len(values))) for _ in range(10_000))
    return means[250], means[9749]


def main() -> None:
    rows = flat(read_rows(Path(__file__).with_name("results.jsonl")))
    areas = {(row["method"], row["score"], row["filling"]): row["areas"] for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    kinds = [kind for kind in KINDS if ("random", *kind) in areas]
    print(f"| | {' | '.join(f'{score}, {filling}' for score, filling in kinds)} |\n|---{'|---' * len(kinds)}|")
    for method in methods:
        cells = [f"{statistics.mean(areas[method, *kind]):.3f}".replace("0.", ".", 1) for kind in kinds]
        print(f"| {method} | {' | '.join(cells)} |")
    best = ("epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box")
    print(f"\n| minus gradient | {' | '.join(best)} |\n|---{'|---' * len(best)}|")
    for kind in kinds:
        cells = []
        for method in best:
            pairs = zip(areas[method, *kind], areas["gradient", *kind], strict=True)
            differences = [one - other for one, other in pairs]
            low, high = interval(differences)
            ahead = sum(difference > 0 for difference in differences)
            cells.append(f"{statistics.mean(differences):+.3f} [{low:+.3f}, {high:+.3f}], {ahead}")
        print(f"| {', '.join(kind)} | {' | '.join(cells)} |".replace("0.", "."))


if __name__ == "__main__":
    main()
