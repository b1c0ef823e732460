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


def test_boundaries_of_spikes_over_time():
    class Spikes(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).expand(5, -1, -1)

    drawn = charts.boundaries(Spikes(2, 3), torch.rand(30, 2), torch.arange(30) % 3, classes=3)
    assert drawn.startswith("<img")


def test_names_of_classes_may_hold_any_character():
    names = ["$x$", "$\\frac{1}{$", "\u732b", "\x1b[31m", "a" * 300]
    drawn = charts.confusion(torch.eye(5, dtype=torch.long).tolist(), names)
    assert "$x$" in drawn
