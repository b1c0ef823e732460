"""From a named data set to training, validation and test data, and to batches of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import Component
from feedprop.training.data.checks import usable
from feedprop.training.data.images import torchvision_source
from feedprop.training.data.source import Source, split_off
from feedprop.training.data.standardisation import Normalisation, NormalisedData, measure, measure_targets
from feedprop.training.data.tensors import TensorData
from feedprop.training.data.tokens import Tokens
from feedprop.training.tasks import TASKS, Regression, Task


@dataclass(frozen=True)
class Splits:
    """Training, validation and test data, all normalised alike."""

    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    task: Task
    normalisation: Normalisation
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()  # name of each input of a table
    tokens: Tokens | None = None  # of texts

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class, or of each output if the targets are no classes."""
        return self.task.outputs

    def __getitem__(self, split: str) -> Dataset[Any]:
        found: Dataset[Any] = getattr(self, split)
        return found


def load(
    component: Component,
    *,
    seed: int,
    validation_fraction: float,
    normalisation: Normalisation | None = None,
    scale: Normalisation | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Splits:
    """Load a data set, split validation data off its training data, and normalise all parts.

    Args:
        component: the data set
        seed: of the split, and of generated data
        validation_fraction: share of the training data
        normalisation: the one that the model was trained with; measured on the training data unless given
        scale: of the targets of regression, likewise
        vocabulary: the name of each token of texts that the model was trained with; likewise
    """
    source = _source(component, seed)
    train, validation = split_off(source.train, fraction=validation_fraction, seed=seed, name=component.name)
    if normalisation is None:
        normalisation = measure(train) if source.normalise else Normalisation()
    task = TASKS[source.task](source.classes)
    if isinstance(task, Regression):
        task = Regression(source.classes, measure_targets(train) if scale is None else scale)
    convert: Callable[[Tensor], Tensor] = normalisation
    tokens = source.tokens
    if tokens is not None and isinstance(train, TensorData):
        found = tokens.of_training(train.inputs[train.indices]) if vocabulary is None else tokens.renamed(vocabulary)
        convert, tokens = tokens.numbers_in(found).__getitem__, found
    parts = {"training": train, "validation": validation, "test": source.test}
    bases: dict[int, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, TensorData):
            key = id(part.inputs)
            if key not in bases:
                bases[key] = convert(part.inputs)
            parts[name] = part.replaced(inputs=bases[key], targets=task.scaled(part.targets))
        else:
            parts[name] = NormalisedData(part, normalisation, task.scaled)
    return Splits(
        parts["training"], parts["validation"], parts["test"], task, normalisation, source.notes, source.inputs, tokens
    )


def loader(
    data: Dataset[Any], *, batch_size: int, workers: int = 0, shuffle_seed: int | None = None
) -> DataLoader[Any]:
    """Return a loader of batches; shuffled if a seed is given."""
    size, in_memory = len(data), isinstance(data, TensorData)  # type: ignore[arg-type]  # checked when loaded
    shuffled = shuffle_seed is not None
    return DataLoader(
        data,
        batch_size=batch_size,
        shuffle=shuffled,
        generator=torch.Generator().manual_seed(shuffle_seed) if shuffle_seed is not None else None,
        collate_fn=_as_is if in_memory else default_collate,
        num_workers=0 if in_memory else workers,
        # batch normalisation cannot train on a batch of one sample
        drop_last=shuffled and size > batch_size and size % batch_size == 1,
    )


def _as_is(batch: Any) -> Any:
    return batch


def _source(component: Component, seed: int) -> Source:
    target = component.target()
    if inspect.isclass(target) and issubclass(target, Dataset):
        source = torchvision_source(component)
    else:
        source = component.make(seed=seed)
    if not isinstance(source, Source):
        raise FeedpropError(
            f"--data {component.name} must be a torch Dataset class with train=True/False or split='train'/'test', or "
            f"return a feedprop.training.data.source.Source, but returned a {type(source).__name__}"
        )
    if source.task not in TASKS:
        raise FeedpropError(f"--data {component.name}: the task must be {', '.join(TASKS)}, but is {source.task}")
    task = TASKS[source.task](tuple(map(str, source.classes)))  # names may be numbers, or None
    return replace(
        source,
        classes=task.outputs,
        train=usable(source.train, "training", task=task, name=component.name),
        test=usable(source.test, "test", task=task, name=component.name),
    )
