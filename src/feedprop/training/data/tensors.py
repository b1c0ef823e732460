"""Data in memory, indexed by the batch: reading MNIST one sample at a time takes longer than training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = tuple[Tensor, Tensor]


class TensorData(Dataset[Batch]):
    """Inputs and labels in memory; a selection shares the same tensors.

    Args:
        inputs: one row per sample
        targets: the label of each sample
        indices: which samples belong to this data; all unless given
    """

    def __init__(self, inputs: Tensor, targets: Tensor, indices: Tensor | None = None) -> None:
        self.inputs, self.targets = inputs, targets
        self.indices = torch.arange(len(targets)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Batch:
        position = self.indices[index]
        return self.inputs[position], self.targets[position]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once; the data loader prefers this to one call per sample."""
        positions = self.indices[torch.as_tensor(indices)]
        return self.inputs[positions], self.targets[positions]

    def select(self, chosen: Tensor) -> Self:
        return self.replaced(indices=self.indices[chosen])

    def replaced(self, **tensors: Tensor) -> Self:
        """Return the same data with other inputs, targets or indices."""
        copied = copy.copy(self)
        vars(copied).update(tensors)
        return copied


class SequenceData(TensorData):
    """Sequences in memory, (N, channels, T); a batch of them is time-first, (T, B, channels)."""

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once."""
        inputs, targets = super().__getitems__(indices)
        return inputs.permute(2, 0, 1).contiguous(), targets


class TextData(TensorData):
    """Texts in memory: the ids of their tokens, (N, length), and the texts themselves, as they were written."""

    def __init__(self, inputs: Tensor, targets: Tensor, *, texts: Sequence[str]) -> None:
        super().__init__(inputs, targets)
        self.texts = texts

    def first_texts(self, number: int) -> list[str]:
        """Return the texts of the first samples."""
        return [self.texts[index] for index in self.indices[:number].tolist()]


class RepeatedChannels(Dataset[Batch]):
    """Grey images that are read one at a time, their channel repeated three times."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # checked when loaded

    def __getitem__(self, index: int) -> Batch:
        inputs, target = self.data[index]
        return inputs.expand(3, -1, -1), target


def three_channels(data: Dataset[Any]) -> Dataset[Any]:
    """Repeat the channel of grey images, (1, H, W) each, three times; those in memory stay as large as they were."""
    if isinstance(data, TensorData):
        return data.replaced(inputs=data.inputs.expand(-1, 3, -1, -1))
    return RepeatedChannels(data)
