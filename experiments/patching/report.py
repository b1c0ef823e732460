"""Print the table of the README from results.jsonl."""

import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows


def main() -> None:
    options = parser(__doc__, __file__, results="results.jsonl").parse_args()
    rows = flat(read_rows(options.results))
    kinds, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("kind", "method"))
    print(f"| | {' | '.join(kinds)} |\n|---{'|---' * len(kinds)}|")
    for method in methods:
        cells = []
        for kind in kinds:
            found = [row["correlation"] for row in rows if (row["kind"], row["method"]) == (kind, method)]
            each = ", ".join(f"{value:.2f}" for value in found)
            cells.append(f"{statistics.mean(found):.2f} ({each})".replace("0.", "."))
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
