"""Print the tables of the README from results.jsonl, operations.jsonl and processes.jsonl."""

import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from results import flat, parser, read_rows, shown, with_interval

FIGURES = ("zero", "negligible", "most", "deflated_bytes")


def main() -> None:
    options = parser(__doc__, __file__, results="results.jsonl").parse_args()
    rows = flat(read_rows(options.results))
    cases = list(dict.fromkeys((row["network"], row["method"]) for row in rows))

    def mean(network: str, method: str, share: float, figure: str) -> float | None:
        key = (network, method, share)
        found = [row[figure] for row in rows if (row["network"], row["method"], row["share"]) == key and figure in row]
        return statistics.mean(found) if found else None

    print("| network, method | exactly 0 | below a thousandth of the largest | weights with 99 % | bytes per weight |")
    print("|---|---|---|---|---|")
    for case in cases:
        cells = [f"{mean(*case, 1.0, figure):.3f}" for figure in FIGURES]
        print(f"| {', '.join(case)} | {' | '.join(cells)} |".replace(" 0.", " ."))
    shares = sorted({row["share"] for row in rows}, reverse=True)
    print(f"\n| network, method | {' | '.join(f'{share:.1%} sent' for share in shares)} |\n|---{'|---' * len(shares)}|")
    for case in cases:
        found = [mean(*case, share, "accuracy") for share in shares]
        cells = ["" if value is None else f"{value:.3f}" for value in found]
        print(f"| {', '.join(case)} | {' | '.join(cells)} |".replace(" 0.", " ."))

    if rows := flat(read_rows(Path(__file__).with_name("operations.jsonl"))):
        print_operations(rows)
    if rows := flat(read_rows(Path(__file__).with_name("processes.jsonl"))):
        print_processes(rows)


def print_operations(rows: list[dict]) -> None:
    """Print the synaptic operations of a training step per image, means over seeds."""
    parts = ("forward", "backward", "weights")
    print("\n| method | forward | back through weights | changes of weights | all | of a dense step | accuracy |")
    print("|---|---|---|---|---|---|---|")
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [row for row in rows if row["method"] == method]
        counts = [statistics.mean(row[part] for row in found) for part in parts]
        share = sum(counts) / statistics.mean(row["dense"] for row in found)
        cells = [*(f"{count:,.0f}" for count in (*counts, sum(counts))), shown(share)]
        print(f"| {method} | {' | '.join(cells)} | {with_interval([row['accuracy'] for row in found])} |")


def print_processes(rows: list[dict]) -> None:
    """Print what two processes reach, send and wait for."""
    cases: dict[str, dict[tuple[str, ...], list[dict]]] = {"accuracy": {}, "time": {}}
    for row in rows:
        keys = ("network", "method") if row["part"] == "accuracy" else ("network", "method", "sent")
        cases[row["part"]].setdefault(tuple(row[key] for key in keys), []).append(row)
    sent = list(dict.fromkeys(row["sent"] for found in cases["accuracy"].values() for row in found))
    print(f"\n| network, method | {' | '.join(sent)} |\n|---{'|---' * len(sent)}|")
    for case, found in cases["accuracy"].items():
        means = [statistics.mean(row["accuracy"] for row in found if row["sent"] == way) for way in sent]
        print(f"| {', '.join(case)} | {' | '.join(f'{value:.3f}' for value in means)} |".replace(" 0.", " ."))
    rates = list(dict.fromkeys(row["rate"] for found in cases["time"].values() for row in found))
    print(f"\n| network, method, sent | bytes | ms of the processor | {' | '.join(f'ms, {rate}' for rate in rates)} |")
    print(f"|---|---|---{'|---' * len(rates)}|")
    for case, found in cases["time"].items():
        cells = [f"{1000 * row['seconds']:,.0f}" for rate in rates for row in found if row["rate"] == rate]
        cpu = 1000 * min(row["cpu_seconds"] for row in found)
        print(f"| {', '.join(case)} | {found[0]['bytes']:,.0f} | {cpu:,.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
