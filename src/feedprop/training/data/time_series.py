"""Sequence tasks: raw time series in the .ts format of the UEA archive."""

from __future__ import annotations

from pathlib import Path

from feedprop.errors import FeedpropError
from feedprop.training.data.splits import SequenceData, Source
from feedprop.training.data.ts_format import TimeSeries, read_ts


def time_series(root: str, *, problem: str = "JapaneseVowels_eq") -> Source:
    """Time series with class labels, from root/timeseries/PROBLEM_TRAIN.ts and PROBLEM_TEST.ts.

    Args:
        root: folder of the folder timeseries
        problem: what the files are called
    """
    train, test = (read_ts(Path(root) / "timeseries" / f"{problem}_{part}.ts") for part in ("TRAIN", "TEST"))
    shapes = [tuple(part.sequences.shape[1:]) for part in (train, test)]
    if shapes[0][1] != shapes[1][1] or train.classes != test.classes:
        raise FeedpropError(
            f"--data.problem {problem}: training and test file differ in their channels ({shapes[0][1]} and "
            f"{shapes[1][1]}) or in their classes"
        )
    return Source(_held(train), _held(test), classes=train.classes)


def _held(part: TimeSeries) -> SequenceData:
    """Lay sequences (N, T, C) out as (N, C, T), as normalisation expects them."""
    return SequenceData(part.sequences.transpose(1, 2).contiguous(), part.labels)
