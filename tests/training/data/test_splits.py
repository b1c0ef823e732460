"""The parts of a data set never overlap, and normalisation knows the training data alone."""

from __future__ import annotations

import pytest
import torch

from feedprop.training.command_line.components import Component
from feedprop.training.data.splits import load, loader
from feedprop.training.data.standardisation import Normalisation
from feedprop.training.data.tensors import TensorData


def _load(name, *, seed=0, fraction=0.1, **arguments):
    return load(Component("data", name, arguments), seed=seed, validation_fraction=fraction)


def _positions(data):
    return set(data.indices.tolist())


@pytest.mark.parametrize("seed", [0, 1])
def test_no_sample_of_digits_is_in_two_parts(seed):
    splits = _load("digits", seed=seed)
    train, validation, test = (_positions(splits[part]) for part in ("train", "validation", "test"))
    assert not train & validation
    assert not (train | validation) & test
    assert len(train | validation | test) == 1797
    assert (len(train), len(validation), len(test)) == (1294, 144, 359)


def test_validation_depends_on_the_seed_and_the_test_set_does_not():
    first, second = _load("digits", seed=0), _load("digits", seed=1)
    assert _positions(first.validation) != _positions(second.validation)
    assert _positions(first.test) == _positions(second.test)


def test_validation_of_generated_data_is_no_part_of_its_test_set():
    splits = _load("blobs", points=100)
    seen = {tuple(point) for point in splits.train.inputs[splits.train.indices].tolist()}
    held = {tuple(point) for point in splits.validation.inputs[splits.validation.indices].tolist()}
    test = {tuple(point) for point in splits.test.inputs.tolist()}
    assert (len(seen), len(held), len(test)) == (90, 10, 100)
    assert not seen & held
    assert not (seen | held) & test


def test_normalisation_is_measured_on_training_data_alone():
    splits = _load("digits")
    inputs = splits.train.inputs[splits.train.indices]
    torch.testing.assert_close(inputs.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert abs(float(splits.test.inputs[splits.test.indices].mean())) > 1e-4


def test_normalisation_by_hand():
    normal = Normalisation((1.0, 0.0), (2.0, 1.0))
    assert normal(torch.tensor([[[3.0], [5.0]]])).tolist() == [[[1.0], [5.0]]]  # (3 - 1) / 2 and (5 - 0) / 1


def test_batches_are_whole_and_shuffled_by_the_seed():
    data = TensorData(torch.arange(10.0)[:, None], torch.arange(10))
    orders = [torch.cat([y for _, y in loader(data, batch_size=4, shuffle_seed=seed)]) for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert sorted(orders[0].tolist()) == list(range(10))
    inputs, targets = next(iter(loader(data, batch_size=4)))
    assert (inputs.flatten().tolist(), targets.tolist()) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_no_training_batch_of_one_sample():
    data = TensorData(torch.arange(9.0)[:, None], torch.arange(9))
    assert [len(y) for _, y in loader(data, batch_size=4, shuffle_seed=0)] == [4, 4]
    assert [len(y) for _, y in loader(data, batch_size=4)] == [4, 4, 1]
