"""What a comparison found: one row per method, one per run, and the curves."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feedprop.training.comparison.conduct import Outcomes, Step, chosen
from feedprop.training.comparison.plan import Entry, Plan
from feedprop.training.comparison.statistics import Mean, mean_of
from feedprop.training.comparison.work import Outcome, read

RUN_COLUMNS = (
    *("phase", "method", "seed", "learning_rate", "state", "score", "test", "validation", "loss", "at_chance"),
    *("best_epoch", "epochs", "steps", "seconds", "folder"),
)


def find(plan: Plan, outcomes: Outcomes, folder: Path) -> dict[str, Any]:
    """Return the findings as they are written to comparison.json."""
    runs = [_run(step, made, folder) for step, made in outcomes.items()]
    order = {entry.label: place for place, entry in enumerate(plan.entries)}
    runs.sort(key=lambda row: (row["phase"] == "test", order[row["method"]], row["learning_rate"], row["seed"]))
    scores = {
        entry.label: {
            row["seed"]: row["test"] for row in runs if row["method"] == entry.label and row["test"] is not None
        }
        for entry in plan.entries
    }
    return {
        "reference": plan.reference,
        "seeds": plan.seeds,
        "tuning_seed": plan.tuning_seed,
        "runs_planned": plan.runs,
        "score": next((row["score"] for row in runs if row["score"]), "accuracy"),
        "loss": next((name for step, made in outcomes.items() if (name := _loss_name(step, made))), None),
        "methods": [_method(plan, entry, outcomes, runs, scores) for entry in plan.entries],
        "runs": runs,
    }


def remarks(row: Mapping[str, Any]) -> list[str]:
    """Say of a method, as comparison.json has it, which of its runs did not learn, and what its mean is of."""
    label, said = row["label"], []
    if len(row["diverged_rates"]) == len(row["learning_rates"]):
        said.append(f"{label} diverged at every learning rate, so there was nothing to test.")
    if row["diverged_seeds"]:
        others = "its mean is of the other seeds alone" if row["test"] else "so it has no mean"
        said.append(f"{label} diverged with seed {_listed(row['diverged_seeds'])}; {others}.")
    if row["chance_seeds"]:
        seeds = _listed(row["chance_seeds"])
        said.append(f"{label} ended no better than chance with seed {seeds}; its mean includes these runs.")
    return said


def seeds_in_words(row: Mapping[str, Any]) -> str:
    """Return how many seeds a method's mean is of, how many diverged, and how many ended at chance."""
    counts = {"diverged": len(row["diverged_seeds"]), "at chance": len(row["chance_seeds"])}
    others = [f"{count} {word}" for word, count in counts.items() if count]
    return ", ".join([str(row["test"]["n"] if row["test"] else 0), *others])


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _loss_name(step: Step, made: Outcome) -> str | None:
    return read(step.job)["loss"] if made.state == "done" else None


def _run(step: Step, made: Outcome, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] | None = read(step.job) if made.state == "done" else None
    part = "test" if step.job.tested else "validation"
    if found and found[part][found["score"]] is None:
        made = Outcome("diverged", f"the {part} {found['score']} is not a number")
        found = None
    return {
        "phase": "test" if step.job.tested else "tuning",
        "method": step.entry.label,
        "seed": step.seed,
        "learning_rate": step.rate,
        "state": made.state,
        "reason": made.sentence or None,
        "score": found["score"] if found else None,
        "test": found["test"][found["score"]] if found and step.job.tested else None,
        "validation": found["validation"][found["score"]] if found else None,
        "loss": found[part].get(found["loss"]) if found else None,
        "at_chance": found.get("at_chance", False) if found else None,
        "best_epoch": found["best_epoch"] if found else None,
        "epochs": len(found["rows"]) if found else None,
        "steps": found["rows"][-1]["step"] if found else None,
        "seconds": sum(row["seconds"] for row in found["rows"]) if found else None,
        "warnings": found["warnings"] if found else [],
        "folder": step.job.path.relative_to(folder).as_posix(),
    }


def _method(
    plan: Plan,
    entry: Entry,
    outcomes: Outcomes,
    runs: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[int, float]],
) -> dict[str, Any]:
    mine = [row for row in runs if row["method"] == entry.label]
    tested = {row["seed"]: row for row in mine if row["phase"] == "test"}
    own, reference = scores[entry.label], scores[plan.reference]
    paired = [own[seed] - reference[seed] for seed in plan.seeds if seed in own and seed in reference]
    steps = [step for step in outcomes if step.entry is entry and step.job.tested]
    found = [read(step.job) for step in steps if tested[step.seed]["state"] == "done"]
    return {
        "label": entry.label,
        "method": entry.config.settings.method,
        "learning_rates": entry.rates,
        "learning_rate": chosen(entry, outcomes),
        "test": _interval(mean_of([own[seed] for seed in plan.seeds if seed in own])),
        "difference": None if entry.label == plan.reference else _interval(mean_of(paired)),
        "validation": _interval(mean_of(_numbers(tested, "validation"))),
        "loss": _interval(mean_of(_numbers(tested, "loss"))),
        "seconds": _mean([sum(row["seconds"] for row in run["rows"]) for run in found]),
        "diverged_rates": [
            row["learning_rate"] for row in mine if row["phase"] == "tuning" and row["state"] == "diverged"
        ],
        "diverged_seeds": [seed for seed, row in tested.items() if row["state"] == "diverged"],
        "chance_seeds": [seed for seed, row in tested.items() if row["at_chance"]],
        "failed": [
            f"{step.name}: {made.sentence}"
            for step, made in outcomes.items()
            if step.entry is entry and made.state == "failed"
        ],
        "curve": _curve([run["rows"] for run in found], found[0]["score"]) if found else None,
        "sparsity": _over_sparsity([run["sparsity"] for run in found if run.get("sparsity")]),
    }


def _interval(found: Mean | None) -> dict[str, Any] | None:
    if found is None:
        return None
    low, high = (None, None) if found.half is None else (found.mean - found.half, found.mean + found.half)
    return {"mean": found.mean, "low": low, "high": high, "n": found.n}


def _numbers(rows: Mapping[int, Mapping[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows.values() if row[key] is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _curve(runs: Sequence[Sequence[Mapping[str, Any]]], score: str) -> dict[str, list[float]]:
    """Return the validation score after each epoch over steps and seconds: mean, lowest and highest of the seeds."""
    epochs = [*zip(*runs, strict=True)]
    seconds = [itertools.accumulate(row["seconds"] for row in run) for run in runs]
    scores = [[_number(row["validation"][score]) for row in rows] for rows in epochs]
    return {
        "steps": [rows[0]["step"] for rows in epochs],
        "seconds": [statistics.fmean(times) for times in zip(*seconds, strict=True)],
        "mean": [statistics.fmean(values) for values in scores],
        "low": [min(values) for values in scores],
        "high": [max(values) for values in scores],
    }


def _number(value: float | None) -> float:
    """Return a figure as it was before JSON, which has no NaN."""
    return math.nan if value is None else value


def _over_sparsity(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the mean validation score with each share of the weights set to 0, by magnitude."""
    if not runs:
        return None
    columns = zip(*(run["accuracies"] for run in runs), strict=True)
    return {"amounts": runs[0]["amounts"], "accuracies": [statistics.fmean(map(_number, values)) for values in columns]}
