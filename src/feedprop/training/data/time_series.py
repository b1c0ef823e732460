"""Time series in the .ts format of the UEA archive (timeseriesclassification.com), such as JapaneseVowels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from feedprop.errors import FeedpropError
from feedprop.training.data.source import Source
from feedprop.training.data.tensors import SequenceData


class TimeSeries(NamedTuple):
    """Sequences (cases, steps, channels), labels (cases,) from 0, and the name of each class."""

    sequences: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def read_ts(path: str | Path) -> TimeSeries:
    """Read a .ts file; shorter sequences are padded with 0.

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
        folder: the folder that holds `timeseries/JapaneseVowels_eq_TRAIN.ts`.
        train: whether to return the 270 training cases or the 370 test cases.
    """
    return read_ts(Path(folder) / "timeseries" / f"JapaneseVowels_eq_{'TRAIN' if train else 'TEST'}.ts")[:2]


def time_series(root: str, *, problem: str = "JapaneseVowels_eq") -> Source:
    """Time series with class labels, from root/timeseries/PROBLEM_TRAIN.ts and PROBLEM_TEST.ts.

    Args:
        root: folder that holds the folder timeseries
        problem: name of the files, without _TRAIN.ts
    """
    train, test = (read_ts(Path(root) / "timeseries" / f"{problem}_{part}.ts") for part in ("TRAIN", "TEST"))
    shapes = [tuple(part.sequences.shape[1:]) for part in (train, test)]
    if shapes[0][1] != shapes[1][1] or train.classes != test.classes:
        raise FeedpropError(
            f"--data.problem {problem}: training and test file differ in their channels ({shapes[0][1]} and "
            f"{shapes[1][1]}) or in their classes"
        )
    return Source(_in_memory(train), _in_memory(test), classes=train.classes)


def _in_memory(part: TimeSeries) -> SequenceData:
    return SequenceData(part.sequences.transpose(1, 2).contiguous(), part.labels)  # (N, T, C) -> (N, C, T)
