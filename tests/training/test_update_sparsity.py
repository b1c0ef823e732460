"""Update sparsity by hand."""

from __future__ import annotations

import torch
from torch import nn

from feedprop.training.update_sparsity import UpdateSparsity


def test_update_sparsity_by_hand():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, 1.0, 1.0, 1.0]])
    updates, optimizer = UpdateSparsity(layer), torch.optim.SGD(layer.parameters(), lr=1.0)
    for step in range(11):  # the first and the eleventh are measured
        layer.weight.grad = (
            torch.tensor([[0.0, 1.9e-3, 3e-3, -1e-3]]) if step else torch.tensor([[0.0, 0.0, 1.0, 3e-3]])
        )
        updates.step(optimizer)
    # a thousandth of the largest is .002: two of four at first (0, 0), three of four then
    assert updates.shares() == {"without_feedback": 3 / 8, "negligible": 5 / 8}
    torch.testing.assert_close(layer.weight.data[0, 2], torch.tensor(1 - 1 - 10 * 3e-3))
    assert updates.shares() == {}  # of an epoch without steps nothing is known


def test_each_epoch_is_measured_however_short():
    layer = nn.Linear(4, 1, bias=False)
    updates, optimizer = UpdateSparsity(layer), torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(3):  # epochs of four steps
        for _ in range(4):
            layer.weight.grad = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
            updates.step(optimizer)
        assert updates.shares() == {"without_feedback": 1 / 4, "negligible": 1 / 4}


def test_weights_of_0_that_stay_do_not_count_as_changed():
    layer = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(layer.weight)
    layer.weight.grad = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    updates = UpdateSparsity(layer)
    updates.step(torch.optim.SGD(layer.parameters(), lr=1.0))
    assert updates.shares() == {"without_feedback": 3 / 4, "negligible": 3 / 4}
