"""Print the tables of the README from results.jsonl."""

import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, half_width, parser, read_rows, shown, with_interval


def main() -> None:
    options = parser(__doc__, __file__, results="results.jsonl").parse_args()
    rows = flat(read_rows(options.results))
    tests: dict[str, dict[int, float]] = {}
    chosen = {}
    for row in rows:
        if row["phase"] == "test":
            tests.setdefault(row["method"], {})[row["seed"]] = row["test"]
            chosen[row["method"]] = row["learning_rate"]
    methods = sorted(tests, key=lambda name: -statistics.mean(tests[name].values()))
    print("| method | learning rate | test accuracy | each seed | minus LFP |\n|---|---|---|---|---|")
    for method in methods:
        found = list(tests[method].values())
        apart = [test - tests["lfp"][seed] for seed, test in tests[method].items()]
        difference = f"{statistics.mean(apart):+.4f} ± {half_width(apart):.4f}".replace("0.", ".")
        each = ", ".join(map(shown, found))
        mean = with_interval(found)
        print(f"| {method} | {chosen[method]} | {mean} | {each} | {'' if method == 'lfp' else difference} |")
    tuned = {(row["method"], row["learning_rate"]): row for row in rows if row["phase"] == "tuning"}
    rates = list(dict.fromkeys(rate for _, rate in tuned))
    print(f"\n| validation accuracy at a rate of | {' | '.join(rates)} |\n|---{'|---' * len(rates)}|")
    for method in methods:
        cells = [tuned[method, rate].get("validation") for rate in rates]
        print(f"| {method} | {' | '.join('diverged' if cell is None else shown(cell) for cell in cells)} |")


if __name__ == "__main__":
    main()
