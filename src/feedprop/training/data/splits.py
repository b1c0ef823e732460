"""From a named data set to training, validation and test data that are normalised and batched quickly.

Data that fits is held as one tensor and indexed by the batch: reading MNIST sample by sample costs more than training.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import Component
from feedprop.training.data.checks import usable
from feedprop.training.data.tensors import Batch, SequenceData, TensorData

__all__ = ["Normalisation", "SequenceData", "Source", "Splits", "TensorData", "load", "loader", "measure", "split_off"]


@dataclass(frozen=True)
class Source:
    """A data set before its training part is divided into training and validation data.

    Args:
        train: what may be learned from and selected on
        test: what neither learning nor selection sees
        classes: name of each class, in the order of the labels
        normalise: whether channels are to be brought to mean 0 and standard deviation 1
    """

    train: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...]
    normalise: bool = True


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, measured on the training data alone."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the inputs (N, C, ...) with mean 0 and standard deviation 1."""
        shape = (1, -1) + (1,) * (inputs.ndim - 2)
        if not self.mean:
            return inputs
        return (inputs - torch.tensor(self.mean).view(shape)) / torch.tensor(self.deviation).view(shape)


@dataclass(frozen=True)
class Splits:
    """Training, validation and test data, all normalised alike."""

    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...]
    normalisation: Normalisation

    def __getitem__(self, split: str) -> Dataset[Any]:
        """Return the split of this name."""
        found: Dataset[Any] = getattr(self, split)
        return found


def load(
    component: Component, *, seed: int, validation_fraction: float, normalisation: Normalisation | None = None
) -> Splits:
    """Load the named data, take the validation part out of its training part, and normalise all of it.

    Args:
        component: the data set
        seed: of the split, and of data that is generated
        validation_fraction: share of the training part
        normalisation: as a trained model knows it; measured on the training data unless given
    """
    source = _source(component, seed)
    train, validation = split_off(source.train, fraction=validation_fraction, seed=seed, name=component.name)
    if normalisation is None:
        normalisation = measure(train) if source.normalise else Normalisation((), ())
    parts = {"training": train, "validation": validation, "test": source.test}
    bases: dict[int, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, TensorData):
            key = id(part.inputs)
            bases.setdefault(key, normalisation(part.inputs))
            parts[name] = type(part)(bases[key], part.targets, part.indices)
        else:
            parts[name] = _Normalised(part, normalisation)
    return Splits(parts["training"], parts["validation"], parts["test"], source.classes, normalisation)


def loader(
    data: Dataset[Any], *, batch_size: int, workers: int = 0, shuffle_seed: int | None = None
) -> DataLoader[Any]:
    """Return a loader of whole batches, in an order drawn from the seed if there is one."""
    size, in_memory = len(data), isinstance(data, TensorData)  # type: ignore[arg-type]  # checked when loaded
    shuffled = shuffle_seed is not None
    return DataLoader(
        data,
        batch_size=batch_size,
        shuffle=shuffled,
        generator=torch.Generator().manual_seed(shuffle_seed) if shuffle_seed is not None else None,
        collate_fn=_as_is if in_memory else default_collate,
        num_workers=0 if in_memory else workers,
        # a last batch of one sample has no batch statistics to normalise with
        drop_last=shuffled and size > batch_size and size % batch_size == 1,
    )


def split_off(data: Dataset[Any], *, fraction: float, seed: int, name: str) -> tuple[Dataset[Any], Dataset[Any]]:
    """Divide the data at random into the rest and a fraction of it."""
    total: int = len(data)  # type: ignore[arg-type]  # sized, as _source checks
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


class _Normalised(Dataset[Batch]):
    """Samples that are read one by one and normalised when read."""

    def __init__(self, data: Dataset[Any], normalisation: Normalisation) -> None:
        self.data, self.normalisation = data, normalisation

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # as above

    def __getitem__(self, index: int) -> Batch:
        inputs, target = self.data[index]
        return self.normalisation(inputs.unsqueeze(0))[0], target


def _as_is(batch: Any) -> Any:
    return batch


def _source(component: Component, seed: int) -> Source:
    """Call the data set's function or class."""
    target = component.target()
    if inspect.isclass(target) and issubclass(target, Dataset):
        from feedprop.training.data.images import torchvision_source

        source = torchvision_source(component)
    else:
        source = component.make(seed=seed)
    if not isinstance(source, Source):
        raise FeedpropError(
            f"--data {component.name} must be a torch Dataset class with train=True/False or split='train'/'test', or "
            f"return a feedprop.training.data.splits.Source, but returned a {type(source).__name__}"
        )
    return replace(
        source,
        train=usable(source.train, "training", classes=source.classes, name=component.name),
        test=usable(source.test, "test", classes=source.classes, name=component.name),
    )
