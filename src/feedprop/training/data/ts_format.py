"""Reads sequence tasks in the .ts format of the UEA archive (timeseriesclassification.com), such as JapaneseVowels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from feedprop.errors import FeedpropError


class TimeSeries(NamedTuple):
    """Sequences (cases, steps, channels), labels (cases,) from 0, and the name of each class."""

    sequences: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def read_ts(path: str | Path) -> TimeSeries:
    """Read a file; steps after the end of a shorter sequence are 0.

    Raises:
        FeedpropError: the file is missing, or is not in the .ts format with class labels.
    """
    path = Path(path)
    if not path.is_file():
        raise FeedpropError(f"no file {path}: set FEEDPROP_DATA to the folder with the data, or fetch it first")
    classes: list[str] = []
    sequences: list[Tensor] = []
    labels: list[int] = []
    in_data = False
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        line = line.strip()
        if line.lower().startswith("@classlabel"):
            classes = line.split()[2:]
        elif line.lower() == "@data":
            in_data = True
        elif in_data and line:
            *channels, label = line.split(":")
            if label not in classes or not channels:
                raise FeedpropError(
                    f"{path}, line {number}: expected channels and one of the classes {classes}, got {line[-40:]!r}"
                )
            rows = [torch.tensor([float(value) for value in channel.split(",")]) for channel in channels]
            sequences.append(torch.nn.utils.rnn.pad_sequence(rows))  # (steps, channels)
            labels.append(classes.index(label))
    if not sequences:
        raise FeedpropError(f"{path} holds no cases after @data")
    padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    return TimeSeries(padded, torch.tensor(labels), tuple(classes))


def japanese_vowels(folder: str | Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Return the JapaneseVowels task: 12 channels over 25 steps, 9 speakers (Kudo et al. 1999).

    Args:
        folder: where `timeseries/JapaneseVowels_eq_TRAIN.ts` lies.
        train: the 270 cases to train on, otherwise the 370 to test.
    """
    return read_ts(Path(folder) / "timeseries" / f"JapaneseVowels_eq_{'TRAIN' if train else 'TEST'}.ts")[:2]
