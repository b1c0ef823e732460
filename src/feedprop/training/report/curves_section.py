"""The report on the epochs: curves of one run, or of two beside each other, and accuracy over sparsity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from feedprop.training.command_line.components import KINDS
from feedprop.training.report import charts, svg
from feedprop.training.report.figures import duration, percent, plain
from feedprop.training.report.stored_run import StoredRun
from feedprop.training.report.svg import Line, Plot

SIGNAL = "A signal, not an objective: it may rise, fall to 0 and go below while the model gets better."
MAIN = ("accuracy", "r2", "f1")  # what best models are chosen by
SHARES = ("accuracy", "f1")  # figures from 0 to 1
PARTS = ("train", "validation")

Picture = tuple[str, str, Markup]


def pictures(run: StoredRun, other: StoredRun | None) -> list[Picture]:
    """Return title, remark and drawing of every figure over the epochs."""
    runs = _named(run, other)
    found: list[Picture] = []
    if max(len(stored.rows) for _, stored in runs) < 2:
        return found
    for key in _keys([row for _, stored in runs for row in stored.rows]):
        lines = [
            Line(_label(name, part, other), *_curve(stored, part, key), *_look(place, part, other))
            for place, (name, stored) in enumerate(runs)
            for part in PARTS
        ]
        best = run.results.get("best_epoch")
        marks = [(best, "best")] if best is not None and other is None else []
        title = f"Mean {key}" if key in ("reward", "loss") else titled(key)
        drawn = svg.line_chart(lines, Plot("epoch", _is_share(key), marks=marks))
        found.append((title, SIGNAL if key == "reward" else "", drawn))
    rates = [
        Line(
            name if other else "learning rate",
            [row["epoch"] for row in stored.rows],
            [row.get("learning_rate") for row in stored.rows],
            svg.colour(place),
        )
        for place, (name, stored) in enumerate(runs)
    ]
    return [*found, ("Learning rate", "In the last step of each epoch.", svg.line_chart(rates, Plot("epoch")))]


def only_epoch(run: StoredRun) -> list[tuple[str, str, str]]:
    """Return each figure in training and on validation data as text, if there is one epoch, which makes no curve."""
    if len(run.rows) != 1:
        return []
    (row,) = run.rows
    return [
        (key.replace("_", " "), shown(key, row["train"].get(key)), shown(key, row["validation"].get(key)))
        for key in _keys([row])
    ]


def sparsity(run: StoredRun, other: StoredRun | None) -> list[Picture]:
    """Return the accuracy over sparsity as feedprop prune measured it, or else as training did, by magnitude alone."""
    mine = _by_importance(run)
    if not mine.lines:
        return []
    lines = {(run.name, importance): values for importance, values in mine.lines.items()}
    if other is None:
        lines |= mine.others
    elif pruned_beside := {key: values for key, values in mine.others.items() if _is_of(key[0], other)}:
        names = [name for name, _ in _named(run, other)]
        lines = {(names[0], importance): values for importance, values in mine.lines.items()}
        lines |= {(names[1], importance): values for (_, importance), values in pruned_beside.items()}
    elif main_figure(other) == main_figure(run):
        for pruned in (True, False):  # only what was measured alike
            both = [_by_importance(stored, pruned=pruned) for stored in (run, other)]
            if all(one.lines for one in both) and both[0].setting == both[1].setting:
                mine, names = both[0], [name for name, _ in _named(run, other)]
                lines = {
                    (name, importance): values
                    for name, one in zip(names, both, strict=True)
                    for importance, values in one.lines.items()
                }
                break
    remark = "On validation data, with this share of the weights set to 0 in one shot, without training afterwards."
    if mine.setting[0] == "train":
        remark += f" The smallest weights of all layers go first. {run.results['sparsity']['samples']:,} samples."
    key = main_figure(run) or "accuracy"
    return [(f"{titled(key)} over sparsity", remark, charts.sparsity(mine.amounts, lines, percent=_is_share(key)))]


def beside(run: StoredRun, other: StoredRun) -> dict[str, Any]:
    """Return names, figures and different options of two runs, for a table."""
    names = [name for name, _ in _named(run, other)]
    figures = []
    for split in ("test", "validation"):
        of = [stored.results.get(split) or {} for stored in (run, other)]
        for key in dict.fromkeys(key for figure in of for key in figure):
            values = [figure.get(key) for figure in of]
            if all(value is None or _is_number(value) for value in values) and any(map(_is_number, values)):
                figures.append((f"{split} {key.replace('_', ' ')}", *(shown(key, value) for value in values)))
    seconds = [(stored.results.get("environment") or {}).get("seconds") for stored in (run, other)]
    if any(map(_is_number, seconds)):
        figures.append(("wall time", *("" if value is None else duration(value) for value in seconds)))
    options = [
        key
        for key in dict.fromkeys([*run.options, *other.options])
        if key.endswith(".name") or "." not in key or (key in run.options and key in other.options)
    ]
    different = [
        (key, *(plain(stored.options[key]) if key in stored.options else "" for stored in (run, other)))
        for key in options
        if _named_in_full(key, run.options.get(key)) != _named_in_full(key, other.options.get(key))
    ]
    return {"names": names, "figures": figures, "options": different}


def _named_in_full(option: str, value: Any) -> Any:
    """Return the import path of a component for its short name, SGD or torch.optim.SGD; other values as they are."""
    kind, _, what = option.partition(".")
    if kind not in KINDS or what != "name" or not isinstance(value, str):
        return value
    known = KINDS[kind]
    return known.short.get(value, value if "." in value or not known.home else f"{known.home}.{value}")


def main_figure(run: StoredRun) -> str | None:
    """Return the name of the figure that the best model is chosen by, or else of the first one."""
    row = run.rows[-1]["validation"] if run.rows else run.results.get("validation", {})
    numbers = [key for key, value in row.items() if _is_number(value)]
    return next((key for key in MAIN if key in numbers), next(iter(numbers), None))


def titled(key: str) -> str:
    """Return the name of a figure as a title has it."""
    return {"r2": "R²", "f1": "F1"}.get(key, key.replace("_", " ").capitalize())


def shown(key: str, value: Any) -> str:
    """Return a figure as text; nothing for what could not be measured."""
    if not _is_number(value):
        return ""
    return percent(value) if _is_share(key) else f"{value:.4g}"


def _named(run: StoredRun, other: StoredRun | None) -> list[tuple[str, StoredRun]]:
    if other is None:
        return [(run.name, run)]
    same = run.name == other.name
    return [(str(stored.path) if same else stored.name, stored) for stored in (run, other)]


def _label(name: str, part: str, other: StoredRun | None) -> str:
    return part if other is None else f"{name}, {part}"


def _look(place: int, part: str, other: StoredRun | None) -> tuple[str, bool]:
    """Return colour and whether dashed: of one run, colours tell the parts apart; of two, the runs."""
    if other is None:
        return svg.colour(PARTS.index(part)), False
    return svg.colour(place), part == "train"


def _keys(rows: list[Mapping[str, Any]]) -> list[str]:
    """Return the figures of the epochs that are numbers: what runs are chosen by, losses, and the objective last.

    An objective that is one of the losses is not shown twice.
    """
    figures = [row[part] for row in rows for part in PARTS]
    keys = dict.fromkeys(key for found in figures for key, value in found.items() if value is None or _is_number(value))
    with_loss, others = [found for found in figures if "loss" in found], {*keys} - {"loss"}
    if with_loss and any(all(_same(found["loss"], found.get(key)) for found in with_loss) for key in others):
        del keys["loss"]
    return sorted(keys, key=lambda key: (key in ("reward", "loss"), key not in MAIN))


def _same(first: Any, second: Any) -> bool:
    return _is_number(first) and _is_number(second) and math.isclose(first, second, rel_tol=1e-4)


def _curve(run: StoredRun, part: str, key: str) -> tuple[list[float], list[float | None]]:
    return [row["epoch"] for row in run.rows], [row[part].get(key) for row in run.rows]


@dataclass(frozen=True)
class _Sparsity:
    """Figures over sparsity: by importance; of other runs, by run and importance; and how they were measured."""

    amounts: list[float]
    lines: dict[str, list[float]]
    others: dict[tuple[str, str], list[float]]
    setting: tuple[Any, ...]


def _by_importance(run: StoredRun, *, pruned: bool = True) -> _Sparsity:
    """Return what feedprop prune measured, if it did and is asked for, or else what training did."""
    if pruned and run.pruning:
        own, facts = run.pruning["curves"][0]["run"], run.pruning
        return _Sparsity(
            list(facts["amounts"]),
            {str(row["importance"]): row["accuracies"] for row in facts["curves"] if row["run"] == own},
            {
                (str(row["run"]), str(row["importance"])): row["accuracies"]
                for row in facts["curves"]
                if row["run"] != own
            },
            ("prune", facts["amounts"], facts["scope"], facts["checkpoint"]),
        )
    measured = run.results.get("sparsity")
    if not measured:
        return _Sparsity([], {}, {}, ())
    lines = {str(measured["importance"]): measured["accuracies"]}
    return _Sparsity(list(measured["amounts"]), lines, {}, ("train", measured["amounts"], measured["scope"]))


def _is_of(name: str, run: StoredRun) -> bool:
    """Whether a run, named as feedprop prune was told, is this one."""
    return Path(name).resolve() == run.path.resolve() or Path(name).name == run.name


def _is_share(key: str) -> bool:
    return any(word in key for word in SHARES)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
