"""The charts that depend on their data."""

from __future__ import annotations

import torch
from torch import nn

from feedprop.training.report import charts


def test_many_classes_are_drawn_without_numbers():
    matrix = torch.eye(100, dtype=torch.long).tolist()
    assert charts.confusion(matrix, [str(label) for label in range(100)]).startswith("<img")
    assert "<svg" in charts.confusion([[3, 0], [1, 0]], ["a long name", "b"])


def test_a_single_epoch_is_a_point():
    assert "<svg" in charts.curves([1], {"train": [0.5]}, percent=True)


def test_boundaries_follow_the_model():
    drawn = charts.boundaries(nn.Linear(2, 12), torch.rand(30, 2), torch.arange(30) % 12, classes=12)
    assert drawn.startswith("<img")
