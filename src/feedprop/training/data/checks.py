"""Checks of data sets: not empty, no NaN, labels that are classes, files that can be read."""

from __future__ import annotations

import re
import struct
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from feedprop.errors import FeedpropError
from feedprop.training.data.tensors import Batch, TensorData
from feedprop.training.tasks import Task


def usable(data: Dataset[Any], part: str, *, task: Task, name: str) -> Dataset[Any]:
    """Check data in memory now; wrap other data so that each sample is checked when it is read."""
    if not hasattr(data, "__len__") or len(data) == 0:
        raise FeedpropError(f"the {part} data of {name} is empty")
    if not isinstance(data, TensorData):
        return CheckedData(data, part, task)
    if len(data.inputs) != len(data.targets):
        raise FeedpropError(f"{name} has {len(data.inputs)} inputs but {len(data.targets)} labels")
    task.check_targets(data.targets[data.indices], part=part, name=name)
    _check_finite(data, part)
    return data


def _check_finite(data: TensorData, part: str) -> None:
    bad = ~data.inputs.flatten(1).isfinite().all(dim=1)
    positions = torch.nonzero(bad[data.indices]).flatten()
    if len(positions):
        raise FeedpropError(
            f"sample {int(positions[0])} of the {part} data holds NaN or infinity; training cannot begin"
        )


class CheckedData(Dataset[Batch]):
    """Samples that are read one at a time, each checked when it is read."""

    def __init__(self, data: Dataset[Any], part: str, task: Task) -> None:
        self.data, self.part, self.task = data, part, task
        self.shape: tuple[int, ...] | None = None  # of the first sample that was read

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # usable has seen that it has a length

    def __getitem__(self, index: int) -> Batch:
        try:
            inputs, target = self.data[index]
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:  # what decoders of images raise
            reason = re.sub(r" ?<\S*Reader name='.*'>", "", str(error))  # PIL names its own reader
            named = f" ({file})" if (file := _file(self.data, index)) else ""
            raise FeedpropError(f"sample {index} of the {self.part} data{named} cannot be read: {reason}") from error
        if not isinstance(inputs, Tensor):
            raise FeedpropError(f"sample {index} of the {self.part} data is a {type(inputs).__name__}, not a tensor")
        self.shape = self.shape or tuple(inputs.shape)
        if tuple(inputs.shape) != self.shape:
            raise FeedpropError(
                f"sample {index} of the {self.part} data has shape {tuple(inputs.shape)}, but another one has "
                f"{self.shape}; give all one shape"
            )
        if not inputs.isfinite().all():
            raise FeedpropError(f"sample {index} of the {self.part} data holds NaN or infinity; training cannot begin")
        return inputs, self.task.check_target(target, part=self.part, index=index)


def check_all(data: Dataset[Any], *, workers: int = 0) -> None:
    """Read every sample once, so that a bad one is found before the first step; data in memory were checked already."""
    if not isinstance(data, TensorData):
        for _ in DataLoader(data, batch_size=64, collate_fn=len, num_workers=workers):
            pass


def _file(data: Any, index: int) -> str | None:
    """Return the file of a sample, where the data set has a list of them."""
    while isinstance(data, Subset):
        data, index = data.dataset, data.indices[index]
    samples = getattr(data, "samples", None)
    return str(samples[index][0]) if isinstance(samples, list) and isinstance(samples[index], tuple) else None
