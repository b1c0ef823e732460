"""The toy sets have the published sizes and shapes."""

from __future__ import annotations

import math

import pytest
import torch

from feedprop.training.command_line.components import Component
from feedprop.training.data.splits import load


def _load(name, *, seed=0, fraction=0.1, **arguments):
    return load(Component("data", name, arguments), seed=seed, validation_fraction=fraction)


@pytest.mark.parametrize(
    ("name", "points", "classes"), [("blobs", 1000, 2), ("circles", 10000, 2), ("swirls", 9999, 3)]
)
def test_toy_sets_have_the_published_sizes_and_even_classes(name, points, classes):
    splits = _load(name)
    assert len(splits.train) + len(splits.validation) == points
    counts = torch.bincount(splits.test.targets)
    assert len(counts) == classes
    assert counts.max() - counts.min() <= 1


def test_blobs_lie_where_they_should():
    data = _load("blobs", points=20000).test
    for label in (0, 1):
        points = data.inputs[data.targets == label]
        torch.testing.assert_close(points.mean(0), torch.full((2,), label + 1.0), atol=0.01, rtol=0)
        torch.testing.assert_close(points.std(0), torch.full((2,), 0.2), atol=0.01, rtol=0)


def test_circles_have_radius_one_and_the_factor():
    data = _load("circles", points=2000, noise=0.0).test
    radius = data.inputs.norm(dim=1)
    torch.testing.assert_close(radius[data.targets == 0], torch.ones(1000))
    torch.testing.assert_close(radius[data.targets == 1], torch.full((1000,), 0.05))


def test_swirls_turn_from_4j_to_4j_plus_4():
    data = _load("swirls", points=3000, noise=0.0).test
    radius = data.inputs.norm(dim=1)
    expected = 4 * (data.targets + radius)
    angle = torch.atan2(data.inputs[:, 0], data.inputs[:, 1])
    turns = (expected - angle) / (2 * math.pi)
    near = radius > 1e-3
    torch.testing.assert_close(turns[near], turns[near].round(), atol=1e-3, rtol=0)


def test_the_same_seed_gives_the_same_points():
    assert torch.equal(_load("swirls", seed=3).test.inputs, _load("swirls", seed=3).test.inputs)
    assert not torch.equal(_load("swirls", seed=3).test.inputs, _load("swirls", seed=4).test.inputs)
