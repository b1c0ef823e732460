"""ChannelImportance for torch-pruning: scores of channels by loops, channels really removed."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedprop
from feedprop import FeedpropError, pruning

InvertedResidual = pytest.importorskip("torchvision.models.mobilenetv2").InvertedResidual
tp = pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch_pruning")


def net() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)),
    )


def images(channels: int = 1) -> Tensor:
    return torch.randn(2, channels, 8, 8)


def group(model: nn.Module, layer: nn.Module, channels: int, inputs: Tensor) -> Any:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)
    return graph.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=list(range(channels)))


def by_loops(writes: Tensor, reads: Tensor, channels: int) -> list[float]:
    """Half the sum of the scores that compute each channel and of those that read it."""
    return [float(writes[c].sum() + sum(reads[o, c].sum() for o in range(len(reads)))) / 2 for c in range(channels)]


def test_scores_of_channels_are_those_of_loops() -> None:
    model = net()
    batches = [(images(), torch.tensor([0, 3]))]
    scores = pruning.relevance(model, batches)
    importance = pruning.ChannelImportance(model, scores, normalise=False)
    expected = by_loops(scores["0.weight"], scores["3.weight"], 6)
    torch.testing.assert_close(importance(group(model, model[0], 6, images())).tolist(), expected)
    behind = scores["7.weight"].view(5, 4, 4)  # each channel is flattened into 4 inputs
    expected = by_loops(scores["3.weight"], behind, 4)
    found = importance(group(model, model[3], 4, images()))
    torch.testing.assert_close(found.tolist(), expected)
    scaled = pruning.ChannelImportance(model, lambda model: scores)(group(model, model[3], 4, images()))
    torch.testing.assert_close(scaled, found / found.mean())


def test_scores_of_transposed_and_grouped_layers() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2))
    scores = pruning.magnitude(model)
    importance = pruning.ChannelImportance(model, scores, normalise=False)
    found = importance(group(model, model[0], 4, images()))
    reads = scores["2.weight"]  # (6, 2, 3, 3): outputs 0 to 2 read channels 0 and 1, outputs 3 to 5 the others
    own = [float(scores["0.weight"][:, c].sum()) for c in range(4)]
    both = [float(reads[:, c % 2].sum()) for c in range(4)]  # as torch-pruning counts: both groups are cut alike
    torch.testing.assert_close(found.tolist(), [(a + b) / 2 for a, b in zip(own, both, strict=True)])


@pytest.mark.parametrize("globally", [False, True])
def test_channels_are_removed(globally: bool) -> None:
    model, inputs = net().eval(), images()
    with torch.no_grad():
        model[0].weight[[1, 4]] *= 1e-6
        model[3].weight[:, [1, 4]] *= 1e-6
    kept = model[0].weight[[0, 2, 3, 5]].clone()
    before = sum(p.numel() for p in model.parameters())
    pruner = tp.BasePruner(
        model, inputs, importance=pruning.ChannelImportance(model, pruning.magnitude), pruning_ratio=0.34,
        global_pruning=globally, ignored_layers=[model[7]],
    )  # fmt: skip
    pruner.step()
    assert sum(p.numel() for p in model.parameters()) < before
    assert all(any(torch.equal(row, old) for old in kept) for row in model[0].weight)
    assert 0 < len(model[0].weight) <= 4
    assert model(inputs).shape == (2, 5)
    feedprop.attach(model)  # the smaller model trains on
    model(inputs).sum().backward()
    assert model[0].weight.grad.any()


def test_scores_are_renewed_for_each_step() -> None:
    model, inputs = net(), images()
    calls = []

    def importance(model: nn.Module) -> dict[str, Tensor]:
        calls.append(model[0].weight.shape[0])
        return pruning.magnitude(model)

    settings = {"pruning_ratio": 0.6, "iterative_steps": 3, "ignored_layers": [model[7]]}
    pruner = tp.BasePruner(model, inputs, importance=pruning.ChannelImportance(model, importance), **settings)
    for _ in range(3):
        pruner.step()
    assert calls[0] == 6
    assert sorted(calls, reverse=True) == calls
    assert len(set(calls)) == 3
    model = net()
    fixed = pruning.ChannelImportance(model, pruning.magnitude(model))
    settings["ignored_layers"] = [model[7]]
    pruner = tp.BasePruner(model, inputs, importance=fixed, **settings)
    pruner.step()
    with pytest.raises(FeedpropError, match="give ChannelImportance a function"):
        pruner.step()


def test_layers_without_scores_and_other_models() -> None:
    model, inputs = net(), images()
    calls = []

    def importance(model: nn.Module) -> dict[str, Tensor]:
        calls.append(model)
        return {"0.weight": model[0].weight.detach().abs()}

    some = pruning.ChannelImportance(model, importance, normalise=False)
    expected = model[0].weight.abs().sum((1, 2, 3))
    torch.testing.assert_close(some(group(model, model[0], 6, inputs)), expected)  # what reads them has no scores
    assert some(group(model, model[3], 4, inputs)) is None
    assert len(calls) == 1
    other = net()
    with pytest.raises(FeedpropError, match="the pruner has another model"):
        some(group(other, other[0], 6, inputs))


def test_a_residual_block_with_depthwise_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), InvertedResidual(8, 8, 1, 2), nn.Flatten(), nn.Linear(512, 3)).eval()
    batches = [(images(3), torch.tensor([0, 2]))]
    importance = pruning.ChannelImportance(model, lambda model: pruning.relevance(model, batches))
    pruner = tp.BasePruner(model, images(3), importance=importance, pruning_ratio=0.5, ignored_layers=[model[3]])
    pruner.step()
    assert model[0].weight.shape[0] == 4
    assert model(images(3)).shape == (2, 3)


def test_an_attached_model_and_a_missing_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = feedprop.attach(net(), feedprop.rules.Composite(magnitude_floor=0.1))
    with pytest.raises(FeedpropError, match=r"call feedprop\.detach\(model\) first"):
        pruning.ChannelImportance(model, pruning.magnitude)
    feedprop.detach(model)
    with pytest.raises(FeedpropError, match=r"scores of 0\.weight have the shape \(6,\)"):
        pruning.ChannelImportance(model, pruning.per_channel(pruning.magnitude(model)))
    plain = builtins.__import__

    def without(name: str, *args: Any, **settings: Any) -> Any:
        if name.startswith("torch_pruning"):
            raise ModuleNotFoundError(name=name)
        return plain(name, *args, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FeedpropError, match=r"pip install 'feedprop\[prune\]'"):
        pruning.ChannelImportance(model, pruning.magnitude)
