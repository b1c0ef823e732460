"""Tables: CSV files with a row for each sample, of numbers and words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from feedprop.errors import FeedpropError, first_few
from feedprop.training.data.columns import Columns, as_classes, as_numbers, read_columns
from feedprop.training.data.source import Source, split_off
from feedprop.training.data.tensors import TensorData
from feedprop.training.tasks import Classification, MultiLabel


def table(
    path: str,
    *,
    target: str,
    task: Literal["classification", "regression", "multi_label"] = "classification",
    test: str | None = None,
    delimiter: str = ",",
) -> Source:
    """A CSV file whose first line names the columns. A column of words becomes one input per word.

    Args:
        path: of the file
        target: name of the column to be learned; several, divided by commas, for regression and multi_label
        task: whether the target is a class, a number, or several labels of 0 and 1, a column each
        test: file of the test data, with the same columns; a fifth of the rows unless given
        delimiter: between the values of a line
    """
    files = [Path(path), *([Path(test)] if test is not None else [])]
    parts = [read_columns(file, delimiter=delimiter) for file in files]
    if len(parts) == 2 and [*parts[0]] != [*parts[1]]:
        raise FeedpropError(f"{files[1]} must have the columns of {files[0]}, in the same order")
    targets = [name.strip() for name in target.split(",")]
    if missing := [name for name in targets if name not in parts[0]]:
        raise FeedpropError(f"{path} has no column {missing[0]}; its columns are {first_few([*parts[0]])}")
    if task == Classification.name and len(targets) > 1:
        raise FeedpropError("--data.target names several columns; give --data.task multi_label or regression with them")
    inputs = [name for name in parts[0] if name not in targets]
    if not inputs:
        raise FeedpropError(f"{path} has no columns beside the target")
    lengths = [len(part[targets[0]]) for part in parts]
    joined = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    encoded, names, notes = _inputs(joined, inputs, path)
    labels, classes = _targets(joined, targets, task, path)
    if len(files) == 1:
        train, held_out = split_off(TensorData(encoded, labels), fraction=0.2, seed=0, name=path)
    else:
        rows = torch.split(torch.arange(sum(lengths)), lengths)
        train, held_out = (TensorData(encoded[part], labels[part]) for part in rows)
    return Source(train, held_out, classes=classes, notes=notes, task=task, inputs=names)


def _inputs(columns: Columns, names: Sequence[str], path: str) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Return the inputs (rows, inputs), the name of each, and what was done to columns of words."""
    found: list[Tensor] = []
    named: list[str] = []
    words: list[str] = []
    for name in names:
        numbers = as_numbers(columns[name])
        if numbers is not None:
            found.append(numbers[:, None])
            named.append(name)
            continue
        _check_words(columns[name], name, path)
        known = sorted({*columns[name]})
        codes = torch.tensor([known.index(value) for value in columns[name]])
        found.append(torch.nn.functional.one_hot(codes, len(known)).float())
        named += [f"{name} {value}" for value in known]
        words.append(f"{name} ({len(known)})")
    notes = (f"columns of words became one input per word: {first_few(words)}",) if words else ()
    return torch.cat(found, dim=1), tuple(named), notes


def _check_words(values: Sequence[str], name: str, path: str) -> None:
    """Refuse a column of numbers with a word among them, of which each number would become an input."""
    words = [value for value in values if as_numbers([value]) is None]
    if len(words) < len(values) / 2:
        raise FeedpropError(
            f"column {name} of {path} holds numbers, and {words[0]!r} among them; correct that value, or leave its row "
            f"out"
        )


def _targets(columns: Columns, names: Sequence[str], task: str, path: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return the targets, and the name of each class or output."""
    if task == Classification.name:
        values = columns[names[0]]
        labels, known = as_classes(values)
        if len(known) < 2:
            raise FeedpropError(
                f"column {names[0]} of {path} must hold at least two classes, but holds {known[0]} alone"
            )
        if len(known) > max(20, len(values) // 10) and as_numbers(values) is not None:
            raise FeedpropError(
                f"column {names[0]} of {path} holds {len(known)} different numbers, which would be as many classes; "
                f"give --data.task regression"
            )
        return labels, known
    found = [as_numbers(columns[name]) for name in names]
    for name, numbers in zip(names, found, strict=True):
        if numbers is None:
            raise FeedpropError(f"column {name} of {path} holds words; --data.task {task} takes numbers")
        if task == MultiLabel.name and not bool(((numbers == 0) | (numbers == 1)).all()):
            raise FeedpropError(f"column {name} of {path} holds other numbers than 0 and 1")
    return torch.stack([numbers for numbers in found if numbers is not None], dim=1), tuple(names)
