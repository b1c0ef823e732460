"""report.html of a comparison: a table, curves, and how the figures were obtained, on one page that opens anywhere."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from feedprop.training.command_line.components import Component
from feedprop.training.command_line.config import Config
from feedprop.training.comparison.findings import remarks, seeds_in_words
from feedprop.training.comparison.plan import OWN_KINDS, SHARED_COMPONENTS, Plan
from feedprop.training.methods import TITLES
from feedprop.training.report import svg
from feedprop.training.report.curves_section import SHARES, shown, titled
from feedprop.training.report.figures import duration, plain
from feedprop.training.report.page import render
from feedprop.training.report.svg import Line

SHOWN_SETTINGS = ("clip_norm", "magnitude_floor", "relative_magnitude")  # of a method, where they are given
SHARED_SETTINGS = ("epochs", "batch_size", "validation_fraction", "accumulate", "precision")
_WHISKER = Markup('<path class="line" style="stroke:{}" d="M{:.1f},{:.1f}H{:.1f}"/>')
_SEED = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2" style="fill:{};opacity:.6"/>')
_MEAN = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" style="fill:{}"/>')
LEFT = 14.0  # where the picture of the intervals begins
ROW = 38.0  # least height of a method in the picture of the intervals


def write_comparison(plan: Plan, found: Mapping[str, Any]) -> str:
    """Return the page of a comparison.

    Args:
        plan: of the comparison.
        found: as in comparison.json.
    """
    config = plan.entries[0].config
    name, shares = found["score"], found["score"] in SHARES
    names = [config.components[kind].name.rpartition(".")[2] for kind in ("data", "model")]
    done = len(found["runs"])
    return render(
        "comparison.html",
        title=f"{names[1]} on {names[0]}",
        summary=f"{len(plan.seeds)} seeds, {len(plan.entries[0].rates)} learning rates for each method; {done} of "
        f"{plan.runs} runs are done.",
        reference=plan.reference,
        notes=_notes(found),
        name=inside(name),
        loss=str(found["loss"] or "loss").replace("_", " "),
        shares=shares,
        rows=[_row(row, place, name) for place, row in enumerate(found["methods"])],
        pictures=_pictures(plan, found),
        protocol=_protocol(plan, found),
        tuning_seed=plan.tuning_seed,
        tuning=[(row["label"], _rates(row, found["runs"])) for row in found["methods"]],
        methods=[(entry.label, TITLES[entry.config.settings.method], _options(entry.config)) for entry in plan.entries],
        shared=_shared(config),
        runs=[_run(row) for row in found["runs"] if row["phase"] == "test"],
        command=found["command"],
    )


def inside(score: str) -> str:
    """Return the name of a score within a sentence."""
    return score if score == "accuracy" else titled(score)


def _row(row: Mapping[str, Any], place: int, score: str) -> dict[str, Any]:
    difference, loss = row["difference"], row["loss"]
    return {
        "label": row["label"],
        "colour": svg.colour(place),
        "mean": _mean(row["test"], score),
        "interval": _interval(row["test"], score),
        "difference": "" if difference is None else _difference(difference["mean"], score),
        "difference_interval": _interval(difference, score, differences=True),
        "loss": "" if loss is None else f"{loss['mean']:.4f}",
        "seeds": seeds_in_words(row),
        "rate": "none" if row["learning_rate"] is None else f"{row['learning_rate']:g}",
        "validation": _mean(row["validation"], score),
        "time": "" if row["seconds"] is None else duration(row["seconds"]),
    }


def _mean(found: Mapping[str, Any] | None, score: str) -> str:
    return "" if found is None else shown(score, found["mean"])


def _difference(value: float, score: str) -> str:
    return f"{100 * value:+.2f}" if score in SHARES else f"{value:+.4f}"


def _interval(found: Mapping[str, Any] | None, score: str, *, differences: bool = False) -> str:
    if found is None or found["low"] is None:
        return ""
    low, high = found["low"], found["high"]
    if differences:
        return f"{_difference(low, score)} to {_difference(high, score)}"
    return f"{100 * low:.2f} to {100 * high:.2f} %" if score in SHARES else f"{low:.4f} to {high:.4f}"


def _notes(found: Mapping[str, Any]) -> list[str]:
    """Say what a reader of the table must know."""
    notes = []
    planned, done = found["runs_planned"], len(found["runs"])
    rates = [row["learning_rates"] for row in found["methods"]]
    for row in found["methods"]:
        notes += [f"{row['label']}: failed. {sentence}" for sentence in row["failed"]]
        notes += remarks(row)
    for place, end, further in ((0, "smallest", "smaller"), (-1, "largest", "larger")):
        at_end = [
            f"{row['label']} ({row['learning_rate']:g})"
            for row in found["methods"]
            if len(row["learning_rates"]) > 1 and row["learning_rate"] == row["learning_rates"][place]
        ]
        if at_end:
            listed = ", ".join(at_end)
            notes.append(f"The best rate was the {end} one tried for {listed}; a {further} one might do better.")
    if done < planned and not any(row["failed"] or len(row["diverged_rates"]) == len(row["learning_rates"])
                                  for row in found["methods"]):  # fmt: skip
        notes.insert(0, f"The comparison has not ended: {done} of {planned} runs are done.")
    if any(found_rates != rates[0] for found_rates in rates):
        notes.append("Not all methods tried the same rates, but all tried as many.")
    notes += [
        f"{row['method']}, seed {row['seed']}: {warning}"
        for row in found["runs"]
        if row["phase"] == "test"
        for warning in row["warnings"]
    ]
    return notes


def _protocol(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    config = plan.entries[0].config
    seeds = ", ".join(map(str, plan.seeds))
    share = 100 * config.settings.validation_fraction
    jobs, name = found["jobs"], inside(found["score"])
    return [
        f"With a seed, all methods begin with the same weights and see the same samples in the same order. The seed "
        f"also draws the {share:g} % of the training data that are validation data.",
        f"Every method tries {len(plan.entries[0].rates)} learning rates, with seed {plan.tuning_seed}, which is none "
        f"of the seeds that are tested. The rate with the highest validation {name} is chosen, the smallest of equal "
        f"ones. A rate at which training diverges is not chosen. These runs do not use the test data.",
        f"With the chosen rate, every method is trained with each of the seeds {seeds}. The epoch with the highest "
        f"validation {name} is tested, once.",
        "Intervals are Student's, of the means over the seeds: mean ± t s / √n. Differences are taken seed by seed. "
        "They are not corrected for the number of methods.",
        "Each run has one thread"
        + (f"; {jobs} runs were made at a time, which may slow all of them down" if jobs > 1 else "")
        + ". Times are of training and validation.",
    ]


def _rates(row: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    """Return each rate, its validation score or why there is none, and whether it was chosen."""
    found = {run["learning_rate"]: run for run in runs if run["phase"] == "tuning" and run["method"] == row["label"]}
    cells = []
    for rate in row["learning_rates"]:
        run = found.get(rate)
        figure = "not done" if run is None else run["state"] if run["state"] != "done" else ""
        cells.append(
            (
                f"{rate:g}",
                figure or shown(found[rate]["score"], found[rate]["validation"]),
                rate == row["learning_rate"],
            )
        )
    return cells


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    done = row["state"] == "done"
    return {
        "method": row["method"],
        "seed": row["seed"],
        "test": shown(row["score"], row["test"]) if done else "",
        "validation": shown(row["score"], row["validation"]) if done else "",
        "best": f"{row['best_epoch']} of {row['epochs']}" if done else "",
        "time": duration(row["seconds"]) if done else "",
        "link": f"{row['folder']}/report.html" if done else "",
        "state": f"{row['state']}: {row['reason']}",
    }


def _options(config: Config) -> str:
    """Return what a method has of its own, except for the learning rate."""
    parts = []
    for kind in OWN_KINDS:
        if kind in config.components:
            part = config.components[kind]
            parts.append(f"{kind} {_text(part, part.name.rpartition('.')[2])}")
    settings = {name: getattr(config.settings, name) for name in SHOWN_SETTINGS}
    return "; ".join([*parts, *(f"{name} {plain(value)}" for name, value in settings.items() if value is not None)])


def _text(part: Component, name: str) -> str:
    """Return a component with the arguments that differ from its own defaults; the learning rate is in the table."""
    defaults = inspect.signature(part.target()).parameters
    given = {
        key: value
        for key, value in part.arguments.items()
        if value is not None and key != "lr" and (key not in defaults or defaults[key].default != value)
    }
    listed = ", ".join(f"{key}={plain(value)}" for key, value in given.items())
    return f"{name}({listed})" if listed else name


def _shared(config: Config) -> str:
    parts = []
    for kind in SHARED_COMPONENTS:
        part = config.components[kind]
        parts.append(f"{kind} {_text(part, part.name)}")
    return "; ".join([*parts, *(f"{name} {plain(getattr(config.settings, name))}" for name in SHARED_SETTINGS)])


def _pictures(plan: Plan, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return title, remark and picture of each chart that has something to show."""
    rows, name, shares = found["methods"], inside(found["score"]), found["score"] in SHARES

    def over(key: str) -> list[Line]:
        return [
            Line(row["label"], row["curve"][key], row["curve"]["mean"], svg.colour(place))
            for place, row in enumerate(rows)
            if row["curve"]
        ]

    sparse = [
        Line(row["label"], range(len(row["sparsity"]["accuracies"])), row["sparsity"]["accuracies"], svg.colour(place))
        for place, row in enumerate(rows)
        if row["sparsity"]
    ]
    amounts = next((row["sparsity"]["amounts"] for row in rows if row["sparsity"]), ())
    named = [f"{100 * amount:g} %" for amount in amounts]
    pictures = [
        (
            f"Test {name} and 95 % intervals",
            "A line is the interval, the dot in it the mean; small dots are seeds.",
            _whiskers(rows, found["runs"], name, shares=shares),
        ),
        (
            f"Validation {name} over steps",
            "Mean over the seeds, after each epoch.",
            svg.line_chart(over("steps"), x="step", percent=shares),
        ),
        (
            f"Validation {name} over time",
            "Mean over the seeds; time of training and validation.",
            svg.line_chart(over("seconds"), x="seconds", percent=shares),
        ),
        (
            f"{titled(found['score'])} over sparsity",
            "Mean over the seeds, on validation data; the smallest weights of all layers are set to 0.",
            svg.line_chart(
                sparse, x="weights that are 0", percent=shares, bounds=(0.0 if shares else None, None), names_x=named
            ),
        ),
    ]
    return [{"title": title, "remark": remark, "picture": drawn} for title, remark, drawn in pictures if drawn]


def _whiskers(
    rows: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], name: str, *, shares: bool
) -> Markup:
    """Draw the interval, the mean and the seeds of each method."""
    seeds = {
        row["label"]: [run["test"] for run in runs if run["method"] == row["label"] and run["test"] is not None]
        for row in rows
    }
    intervals = [row["test"] for row in rows if row["test"] and row["test"]["low"] is not None]
    values = [value for found in seeds.values() for value in found]
    values += [found[end] for found in intervals for end in ("low", "high")]
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    if shares:
        low, high = max(low, 0.0), min(high, 1.0)
    room = 0.05 * (high - low) or 0.01
    across = svg.Scale(low - room, high + room, LEFT, svg.WIDTH - 14)
    row_height = max(ROW, (svg.HEIGHT - 44) / len(rows))
    height = row_height * len(rows) + 44
    elements = []
    for tick in svg.ticks(across.low, across.high, most=4):
        x = across(tick)
        elements.append(Markup('<path class="grid" d="M{:.1f},6V{:g}"/>').format(x, height - 40))
        elements.append(svg.text(x, height - 24, svg.percentage(tick) if shares else svg.number(tick)))
    elements.append(svg.text((LEFT + svg.WIDTH - 14) / 2, height - 6, f"test {name}"))
    for place, row in enumerate(rows):
        top, colour = 6 + row_height * place, svg.colour(place)
        y = top + 0.65 * row_height
        elements.append(svg.text(LEFT, top + 12, row["label"], anchor="start", kind="ink"))
        test = row["test"]
        if test in intervals:
            left, right = (across(min(max(test[end], across.low), across.high)) for end in ("low", "high"))
            elements.append(_WHISKER.format(colour, left, y, right))
        elements += [_SEED.format(across(value), y + 6, colour) for value in seeds[row["label"]]]
        elements += [_MEAN.format(across(test["mean"]), y, colour)] if test else []
    return svg.svg(elements, label=f"test {name} of each method with its interval", height=height)
