"""What a log shows to be wrong, in words, each with its remedy.

Thresholds are far from what networks show that learn: there, the feedback of layers relative to their weights differs
5-fold at most (30-fold where there is nothing to learn), at most 60 % of the outputs of an activation are silent, and
linear layers keep 95 % of the reward.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from feedprop.errors import first_few

LINEAR = ("Linear", "Bilinear", *(f"Conv{more}{n}d" for more in ("", "Transpose") for n in (1, 2, 3)))
LEAST = 3  # rows before anything is said
RECENT = 20  # rows whose median counts
FALL = 40.0  # ratio between layers of feedback relative to weights
SILENT = 0.95  # share of outputs
LOST = 0.5  # share of the reward

Row = Mapping[str, Any]
Rows = Sequence[Row]


def remarks(rows: Rows) -> list[str]:
    """Return sentences about the layers, from the first to the last."""
    layers: dict[str, list[Row]] = {}
    for row in rows:
        layers.setdefault(row["module"], []).append(row)
    layers = {name: own for name, own in layers.items() if len(own) >= LEAST}
    if broken := _broken(rows):
        return [broken]
    return [*_stuck(layers), *_silent(layers), *_falls(layers), *_loses(layers)]


def _broken(rows: Rows) -> str | None:
    for row in rows:
        wrong = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        if wrong:
            figure = "reward" if wrong[0].startswith("reward") else wrong[0].replace("_", " ")
            learned = row["step"] > rows[0]["step"]
            remedy = "use a smaller learning rate, or clip the feedback" if learned else "look for it in the data"
            return f"layer {row['module']} has a {figure} of {row[wrong[0]]} at step {row['step']}; {remedy}"
    return None


def _stuck(layers: Mapping[str, Rows]) -> Iterator[str]:
    """Say what has received no feedback up to now, by reason."""
    reasons: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for name, rows in layers.items():
        for ended, why, remedy in _REASONS:
            steps = _steps_up_to_now(rows, ended)
            if steps:
                reasons.setdefault((why, remedy), []).append((name, steps))
                break
    for (why, remedy), found in reasons.items():
        names, steps = [name for name, _ in found], min(steps for _, steps in found)
        their, kind = ("their", "layers") if len(names) > 1 else ("its", "layer")
        yield f"{kind} {first_few(names)} received no feedback for {steps} steps: {why.format(their=their)}; {remedy}"


_REASONS: tuple[tuple[Callable[[Row], bool], str, str], ...] = (
    (
        lambda row: row["weight"] == row["feedback"] == 0,
        "{their} parameters are 0, and feedback is proportional to |w|",
        "attach with a composite of magnitude_floor=0.02, or initialise them otherwise",
    ),
    (
        lambda row: row["zero_inputs"] == 1,
        "{their} inputs are 0",
        "raise biases or scale weights before that, or use a smaller learning rate",
    ),
    (
        lambda row: row["feedback"] == 0 and row["reward_out"] == 0 and row["gap"] is None,
        "no credit comes to {their} outputs",
        "look for what is silent, saturated, detached or not rewarded behind that",
    ),
    (
        lambda row: row["feedback"] == 0,
        "all of it is 0",
        "run feedprop.check on the model with the same data",
    ),
)


def _silent(layers: Mapping[str, Rows]) -> Iterator[str]:
    for name, rows in layers.items():
        steps = _steps_up_to_now(rows, lambda row: row["silent"] is not None and row["silent"] >= SILENT)
        if steps:
            share = "all" if rows[-1]["silent"] == 1 else f"{math.floor(100 * rows[-1]['silent'] + 1e-3)} %"
            yield (
                f"{share} of the outputs of layer {name} ({rows[0]['kind']}) are 0 for every sample, for {steps} "
                "steps; raise biases or scale weights before it, or use a smaller learning rate"
            )


def _falls(layers: Mapping[str, Rows]) -> Iterator[str]:
    """Compare the feedback of linear layers, relative to their weights, in steps that had a good deal of it."""
    linear = {
        name: rows for name, rows in layers.items() if rows[0]["kind"] in LINEAR and rows[0]["weight"] is not None
    }
    totals: dict[int, float] = defaultdict(float)
    for row in (row for rows in linear.values() for row in rows):
        totals[row["step"]] += row["feedback"]
    least_total = max(totals.values(), default=0.0) / 100  # where all is learned, little comes, and that is noise
    strengths = {}
    for name, rows in linear.items():
        counted = [row for row in rows if totals[row["step"]] >= least_total and row["feedback"] and row["weight"]]
        if counted:
            strengths[name] = _median(row["feedback"] / row["weight"] for row in counted[-RECENT:])
    if not strengths:
        return
    names, most, least = (
        [*strengths],
        max(strengths, key=strengths.__getitem__),
        min(strengths, key=strengths.__getitem__),
    )
    fold = strengths[most] / strengths[least]
    if fold < FALL or (any(rows[0]["weight"] == 0 for rows in layers.values()) and _catches_up(linear, least, most)):
        return
    before, behind = sorted((most, least), key=names.index)
    changes = "falls" if before == least else "grows"
    yield (
        f"relative to the weights, the norm of feedback {changes} {fold:.0f}-fold between "
        f"layers {behind} and {before}; normalise between layers, scale the initial weights, or use Adam"
    )


def _catches_up(layers: Mapping[str, Rows], name: str, other: str) -> bool:
    """Whether a layer gets more and more of the other's feedback, as behind a scale that begins at 0 and grows."""
    others = {row["step"]: row["feedback"] for row in layers[other]}
    pairs = [(row["feedback"], others.get(row["step"])) for row in layers[name]]
    shares = [one / two for one, two in pairs if two][-RECENT:]
    half = len(shares) // 2
    return half > 0 and _median(shares[half:]) > 1.25 * _median(shares[:half])


def _loses(layers: Mapping[str, Rows]) -> Iterator[str]:
    for name, rows in layers.items():
        gaps = [row["gap"] for row in rows[-RECENT:] if row["gap"] is not None]
        gap = _median(gaps) if gaps and rows[0]["kind"] in LINEAR else 0.0
        if abs(gap) > LOST:
            yield (
                f"{abs(gap):.0%} of the reward is lost or gained between the outputs and inputs of layer {name}: its "
                "bias outweighs its inputs, or epsilon its outputs; make the larger one smaller"
            )


def _steps_up_to_now(rows: Rows, holds: Callable[[Row], bool]) -> int:
    """Return for how many steps something has held, up to the last row; 0 if for fewer than three rows."""
    number = 0
    while number < len(rows) and holds(rows[-1 - number]):
        number += 1
    return rows[-1]["step"] - rows[-number]["step"] + 1 if number >= LEAST else 0


def _median(values: Iterable[float]) -> float:
    """Return the median. (The module `statistics` would take a tenth of the time in which feedprop is imported.)"""
    return float(torch.tensor([*values], dtype=torch.float64).quantile(0.5))
