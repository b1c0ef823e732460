"""Print the tables of the README from results.jsonl, or those of other results: report.py [--results FILE]."""

import statistics
import sys
from collections import defaultdict
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import half_width, parser, read_rows, shown, with_interval

Scores = dict[str, dict[str, dict[int, float | None]]]  # recipe -> method -> seed -> score
THEN = "difference-0.3"  # what was the default when causes were looked for


def scores(rows: list[dict], part: str, base: str | None = None, figure: str = "score") -> Scores:
    """Return the scores of a part; of the causes, those whose changes were made to the feedback of `base`."""
    found: Scores = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        settings = row["settings"]
        if settings["part"] == part and (base is None or settings.get("base", THEN) == base):
            method = THEN if base == THEN and settings["method"] == "default" else settings["method"]
            found[settings["recipe"]][method][row["seed"]] = row["figures"][figure]
    return found


def _cell(values: dict[int, float | None], *, listed: bool) -> str:
    seeds = ", ".join("diverged" if value is None else shown(value) for _, value in sorted(values.items()))
    known = [value for value in values.values() if value is not None]
    if len(known) < max(len(values), 3):
        return seeds
    return f"{with_interval(known)} ({seeds})" if listed and len(known) <= 3 else with_interval(known)


def main() -> None:
    rows = read_rows(parser(__doc__, __file__, results="results.jsonl").parse_args().results)
    print_tests(scores(rows, "test"))
    if validation := scores(rows, "validation"):
        print_floors(validation)
    if causes := scores(rows, "causes", THEN):
        print_causes(causes["torchvision-resnet"], THEN)
        print_lengths(causes)
    for figure in ("score", "training"):
        if causes := scores(rows, "causes", "default", figure):
            print_causes(causes["torchvision-resnet"], "default")


def print_tests(found: Scores) -> None:
    """Print what backprop and the default scored, and the mean difference."""
    print("| recipe | backprop | LFP, the default | LFP - backprop | seeds |\n|---|---|---|---|---|")
    for recipe, methods in found.items():
        gradient, feedback = methods["backprop"], methods["default"]
        both = [seed for seed in gradient if feedback.get(seed) is not None]
        differences = [feedback[seed] - gradient[seed] for seed in both]
        cells = [_cell(scores, listed="-full" not in recipe) for scores in (gradient, feedback)]
        print(f"| {recipe} | {' | '.join(cells)} | {_difference(differences)} | {len(both)} |")


def print_floors(found: Scores) -> None:
    """Print for each recipe what floors and differences scored, minus backprop."""
    names = ("plain", "difference-0.1", "difference-0.3", "difference-0.5", "relative-0.3")
    print(f"\n| recipe | seeds | backprop | {' | '.join(names)} |\n|---{'|---' * (len(names) + 2)}|")
    for recipe, methods in found.items():
        gradient = methods["backprop"]
        cells = []
        for name in names:
            pairs = [(value, gradient[seed]) for seed, value in methods[name].items() if seed in gradient]
            lost = any(value is None or value > 100 for value, _ in pairs)
            mean = "-" if not pairs or lost else f"{statistics.mean(a - b for a, b in pairs):+.4f}".replace("0.", ".")
            cells.append("diverged" if lost else mean)
        print(f"| {recipe} | {len(gradient)} | {shown(statistics.mean(gradient.values()))} | {' | '.join(cells)} |")


def print_causes(methods: dict[str, dict[int, float | None]], base: str) -> None:
    """Print what changes of the feedback do, beside backprop and that feedback itself."""
    print(f"\n| | accuracy | minus backprop | minus {base} |\n|---|---|---|---|")
    for name, found in methods.items():
        cells = [shown(statistics.mean(found.values()))]
        for other in ("backprop", base):
            differences = [found[seed] - methods[other][seed] for seed in found]
            cells.append("" if name == other else _difference(differences))
        print(f"| {name} | {' | '.join(cells)} |")


def print_lengths(found: Scores) -> None:
    """Print for each recipe what feedback with longer steps scores, minus backprop."""
    names = (THEN, "difference-0.5", "difference-0.7", "difference-1.0", "levelled")
    print(f"\n| recipe | backprop | {' | '.join(names)} |\n|---{'|---' * (len(names) + 1)}|")
    for recipe, methods in found.items():
        gradient = methods["backprop"]
        cells = [shown(statistics.mean(gradient.values()))]
        for name in names:
            differences = [score - gradient[seed] for seed, score in methods.get(name, {}).items()]
            few = f" ({len(differences)})" if len(differences) < 8 else ""
            cells.append(f"{_difference(differences)}{few}" if differences else "-")
        print(f"| {recipe} | {' | '.join(cells)} |")


def _difference(differences: list[float]) -> str:
    mean = f"{statistics.mean(differences):+.4f}"
    return (mean if len(differences) < 2 else f"{mean} ± {shown(half_width(differences))}").replace("0.", ".")


if __name__ == "__main__":
    main()
