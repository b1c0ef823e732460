"""The check of a network against its data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feedprop.errors import FeedpropError
from feedprop.training.models.dense import VGG
from feedprop.training.models.shapes import check_fit
from feedprop.training.tasks import Classification


def test_the_check_leaves_no_trace():
    model, inputs = VGG((3, 8, 8), 2, batch_norm=True), torch.randn(2, 3, 8, 8)
    before = torch.get_rng_state()
    check_fit(model, inputs, samples=2, task=Classification(("a", "b")), name="model")
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(int(layer.num_batches_tracked) == 0 for layer in model if isinstance(layer, nn.BatchNorm2d))


def test_lazy_layers_take_their_size_from_the_data():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    check_fit(model, torch.randn(2, 3, 5), samples=2, task=Classification(tuple("abcd")), name="lazy")
    assert model[1].weight.shape == (4, 15)


def test_errors_of_the_package_pass_unchanged():
    class Refusing(nn.Module):
        def forward(self, inputs):
            raise FeedpropError("use another")

    with pytest.raises(FeedpropError, match=r"^use another$"):
        check_fit(Refusing(), torch.zeros(2, 2), samples=2, task=Classification(("a", "b")), name="refusing")
