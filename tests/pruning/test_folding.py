"""Batch normalisations are folded into the layers before them, and the outputs stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import feedprop
from feedprop import FeedpropError, pruning

BasicBlock = pytest.importorskip("torchvision.models.resnet").BasicBlock


def trained(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Give normalisations statistics and weights that are not those they begin with."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    for _ in range(3):
        model(inputs)
    return model


@pytest.mark.usefixtures("float64")
def test_outputs_stay() -> None:
    inputs = torch.randn(5, 3, 8, 8)
    model = trained(
        nn.Sequential(
            *(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), BasicBlock(4, 4), nn.Flatten()),
            *(nn.Linear(144, 6), nn.BatchNorm1d(6, affine=False)),
        ),
        inputs,
    )
    pruning.prune(model, pruning.magnitude(model), 0.5)
    folded = pruning.fold_batch_norms(model, inputs)
    assert model.training
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    torch.testing.assert_close(folded(inputs), model.eval()(inputs))
    assert pruning.sparsity(folded) == 0.5
    assert all(parameter.requires_grad for parameter in folded.parameters())


def test_normalisations_that_cannot_be_folded_stay() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x))
            return x + self.norm(self.conv(x))

    class ReadTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x + self.norm(x)

    for model in (
        Reused(),
        ReadTwice(),
        nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.BatchNorm2d(1)),
        nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False)),
    ):
        folded = pruning.fold_batch_norms(model, torch.randn(2, 1, 3, 3))
        assert any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_wrong_outputs_are_refused() -> None:
    inputs = torch.randn(5, 4, 3)
    model = trained(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), inputs)  # normalises dimension 1, not the last
    with pytest.raises(FeedpropError, match="gives other outputs"):
        pruning.fold_batch_norms(model, inputs)


def test_what_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(FeedpropError, match=r"torch\.fx cannot trace Branching"):
        pruning.fold_batch_norms(Branching(), torch.ones(1))
    with pytest.raises(FeedpropError, match=r"feedprop\.detach\(model\) first"):
        pruning.fold_batch_norms(feedprop.attach(nn.Linear(1, 1)), torch.ones(1, 1))
