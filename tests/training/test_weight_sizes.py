"""Magnitudes are counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feedprop.training.weight_sizes import edges, magnitudes


def test_magnitudes_by_hand():
    model = nn.Linear(6, 1)
    model.weight.data = torch.tensor([[0.0, 1e-9, -1.05, 1.3, 2.0, -1e9]])
    counts, limits = magnitudes(model), edges()
    assert len(limits) == len(counts) + 1 == 65
    assert (limits[0], limits[48], limits[-1]) == pytest.approx((1e-6, 1.0, 100.0))
    assert {place: count for place, count in enumerate(counts) if count} == {0: 2, 48: 2, 50: 1, 63: 1}
    assert sum(magnitudes(nn.ReLU())) == 0
