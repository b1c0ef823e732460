"""The named models have the published layers, whatever the shape of the data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feedprop.training.models.dense import MLP, VGG, LeNet
from feedprop.training.models.shapes import check_fit
from feedprop.training.tasks import Classification


def _shapes(model):
    return [tuple(weight.shape) for weight in model.parameters() if weight.ndim > 1]


def test_lenet():
    model = LeNet((1, 28, 28), 10)
    assert _shapes(model) == [(16, 1, 5, 5), (16, 16, 5, 5), (120, 256), (84, 120), (10, 84)]
    assert [layer.p for layer in model if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


def test_vgg():
    model = VGG((3, 32, 32), 10)
    widths = [shape[0] for shape in _shapes(model)]
    assert widths == [32, 64, 128, 128, 256, 256, 1024, 512, 10]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in VGG((3, 32, 32), 10, batch_norm=True)) == 6


def test_mlp():
    model = MLP((2,), 3, hidden=(32, 16), activation="torch.nn.Tanh")
    assert _shapes(model) == [(32, 2), (16, 32), (3, 16)]
    assert sum(isinstance(layer, nn.Tanh) for layer in model) == 2


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 17, 40), (1, 16, 16)])
@pytest.mark.parametrize("make", [MLP, LeNet, VGG])
def test_any_image_that_is_large_enough_fits(make, shape):
    outputs = check_fit(
        make(shape, 7), torch.randn(2, *shape), samples=2, task=Classification(tuple("abcdefg")), name="model"
    )
    assert outputs.shape == (2, 7)
