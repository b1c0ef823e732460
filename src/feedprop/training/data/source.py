"""What loading a data set returns, and how a part is split off at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from feedprop.errors import FeedpropError
from feedprop.training.data.tensors import TensorData
from feedprop.training.data.tokens import Tokens
from feedprop.training.tasks import Classification


@dataclass(frozen=True)
class Source:
    """A data set with training and test data, not yet normalised.

    Args:
        train: for learning and for choosing the best model
        test: for the final test alone
        classes: name of each class, in the order of the labels; of each output, if the targets are no classes
        normalise: whether to bring each channel to mean 0 and standard deviation 1
        notes: what was done to the data that nobody asked for, one sentence each
        task: classification, regression or multi_label; targets of the last two are float32 (outputs,) per sample
        inputs: name of each input of a table
        tokens: of texts, which are a TextData; the ids in it are those of all the words that occur
    """

    train: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...]
    normalise: bool = True
    notes: tuple[str, ...] = ()
    task: str = Classification.name
    inputs: tuple[str, ...] = ()
    tokens: Tokens | None = None


def split_off(data: Dataset[Any], *, fraction: float, seed: int, name: str) -> tuple[Dataset[Any], Dataset[Any]]:
    """Split the data at random; return the rest and the fraction."""
    total: int = len(data)  # type: ignore[arg-type]  # sized, as load checks
    part = round(total * fraction)
    if part < 1 or part >= total:
        raise FeedpropError(
            f"the {total} training samples of {name} cannot be divided into training and validation data at a "
            f"fraction of {fraction}; give more data or another --validation_fraction"
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    chosen, rest = order[:part].sort().values, order[part:].sort().values
    if isinstance(data, TensorData):
        return data.select(rest), data.select(chosen)
    return Subset(data, rest.tolist()), Subset(data, chosen.tolist())
