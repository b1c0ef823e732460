"""Normalisation of inputs by the mean and standard deviation of each channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from feedprop.errors import FeedpropError
from feedprop.training.data.tensors import Batch, TensorData


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel of the training data; without them, inputs stay as they are."""

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the inputs (N, C, ...) with mean 0 and standard deviation 1.

        Raises:
            FeedpropError: they have another number of channels.
        """
        if not self.mean:
            return inputs
        if len(self.mean) != inputs.shape[1]:
            raise FeedpropError(
                f"inputs are normalised by {len(self.mean)} means, one per channel, but have {inputs.shape[1]} channels"
            )
        shape = (1, -1) + (1,) * (inputs.ndim - 2)
        return (inputs - torch.tensor(self.mean).view(shape)) / torch.tensor(self.deviation).view(shape)

    def undo(self, values: Tensor) -> Tensor:
        """Return the inputs (N, C) whose normalised values these are."""
        return values * torch.tensor(self.deviation) + torch.tensor(self.mean) if self.mean else values


def measure(data: Dataset[Any], *, samples: int = 10000) -> Normalisation:
    """Return mean and standard deviation per channel (first dimension of a sample) of the first samples."""
    count = min(samples, len(data))  # type: ignore[arg-type]  # checked when loaded
    if isinstance(data, TensorData):
        inputs = data.inputs[data.indices[:count]]
    else:
        inputs = torch.stack([data[index][0] for index in range(min(count, 500))])
    channels = inputs.transpose(0, 1).flatten(1)  # (C, N * positions)
    deviation = channels.std(dim=1)
    deviation = torch.where(deviation > 0, deviation, torch.ones(()))
    return Normalisation(tuple(channels.mean(dim=1).tolist()), tuple(deviation.tolist()))


def measure_targets(data: Dataset[Any]) -> Normalisation:
    """Return mean and standard deviation of each target (samples, outputs)."""
    if isinstance(data, TensorData):
        targets = data.targets[data.indices]
    else:
        targets = torch.stack([data[index][1] for index in range(len(data))])  # type: ignore[arg-type]  # as above
    deviation = targets.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones(()))
    return Normalisation(tuple(targets.mean(dim=0).tolist()), tuple(deviation.tolist()))


class NormalisedData(Dataset[Batch]):
    """Samples that are read one at a time and then normalised, and their targets scaled."""

    def __init__(self, data: Dataset[Any], normalisation: Normalisation, scaled: Callable[[Tensor], Tensor]) -> None:
        self.data, self.normalisation, self.scaled = data, normalisation, scaled

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # as above

    def __getitem__(self, index: int) -> Batch:
        inputs, target = self.data[index]
        return self.normalisation(inputs.unsqueeze(0))[0], self.scaled(target)
