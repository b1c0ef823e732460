"""The columns of a CSV file, as text, and what their values say of classes."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from feedprop.errors import FeedpropError

Columns = dict[str, list[str]]
LONGEST = 2**31 - 1  # characters of a value; the default of Python's csv is 131072


def read_columns(
    path: Path,
    *,
    delimiter: str,
    encoding: str = "utf-8",
    errors: str = "strict",
    filled: Collection[str] | None = None,
) -> Columns:
    """Return the values of each column of a CSV file whose first line names them.

    Args:
        path: of the file.
        delimiter: between the values of a line.
        encoding: of the file.
        errors: what happens to bytes that are not in it, as Python's `open` says.
        filled: columns in which no value may be empty; all unless given.

    Raises:
        FeedpropError: there is no such file, or it is no table.
    """
    if not path.is_file():
        raise FeedpropError(f"no file {path}")
    if len(delimiter) != 1:
        raise FeedpropError(f"--data.delimiter must be one character, but is {delimiter!r}")
    limit = csv.field_size_limit(LONGEST)
    try:
        with path.open(newline="", encoding=encoding, errors=errors) as file:
            names, *rows = [row for row in csv.reader(file, delimiter=delimiter) if row] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise FeedpropError(f"{path} cannot be read as CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    names = [name.removeprefix("\ufeff").strip() for name in names]
    if len({*names}) < len(names) or "" in names:
        raise FeedpropError(f"{path}: the first line must give each column a name of its own")
    if not rows:
        raise FeedpropError(f"{path} has no rows below the names of its columns")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise FeedpropError(f"{path}, row {number}: {len(row)} values, but there are {len(names)} columns")
        for name, value in zip(names, row, strict=True):
            if (filled is None or name in filled) and not value.strip():
                raise FeedpropError(f"{path}, row {number}: column {name} is empty; fill it, or leave the row out")
    return {name: [row[place].strip() for row in rows] for place, name in enumerate(names)}


def as_numbers(values: Sequence[str]) -> Tensor | None:
    """Return values as numbers; None if one of them is a word."""
    try:
        return torch.tensor([float(value) for value in values])
    except ValueError:
        return None


def as_classes(values: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Return the class of each value, and the name of each class; numbers are in their order."""
    known = sorted({*values}, key=None if as_numbers(values) is None else float)
    places = {value: place for place, value in enumerate(known)}
    return torch.tensor([places[value] for value in values]), tuple(known)
