"""Relevance is what zennit computes, on torchvision's networks, by the composites of the same names."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from feedprop import relevance
from feedprop.rules import presets

torchvision = pytest.importorskip("torchvision")
canonizers = pytest.importorskip("zennit.canonizers")
composites = pytest.importorskip("zennit.composites")

from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2  # noqa: E402  # after it was found
from zennit.attribution import Gradient  # noqa: E402
from zennit.layer import Sum  # noqa: E402
from zennit.torchvision import ResNetCanonizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("float64")


def vgg16() -> nn.Module:
    """VGG16 with a small head: the layers of its own have 120 million weights."""
    with torch.device("meta"):
        model = torchvision.models.vgg16(init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(nn.Linear(512, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 10))
    model = model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
    return model


class MobileNetSums(canonizers.AttributeCanonizer):
    """Names the sums and the average of MobileNetV2, which zennit has no canonizer for: it would double rewards."""

    def __init__(self) -> None:
        super().__init__(self._attributes)

    @staticmethod
    def _attributes(name: str, module: nn.Module) -> dict[str, object] | None:
        if isinstance(module, InvertedResidual) and module.use_res_connect:
            return {"added": Sum(), "forward": lambda x: module.added(torch.stack([x, module.conv(x)], -1))}
        if isinstance(module, MobileNetV2):
            pooled = nn.AdaptiveAvgPool2d(1)
            return {"pooled": pooled, "forward": lambda x: module.classifier(pooled(module.features(x)).flatten(1))}
        return None


class MobileNetCanonizer(canonizers.CompositeCanonizer):
    def __init__(self) -> None:
        super().__init__((canonizers.SequentialMergeBatchNorm(), MobileNetSums()))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[canonizers.Canonizer]]] = {
    "vgg16": (vgg16, []),
    "resnet18": (torchvision.models.resnet18, [ResNetCanonizer()]),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, [MobileNetCanonizer()]),
}
COMPOSITES = {
    "epsilon_plus": (composites.EpsilonPlus, presets.epsilon_plus),
    "epsilon_plus_flat": (composites.EpsilonPlusFlat, presets.epsilon_plus_flat),
    "epsilon_gamma_box": (
        lambda **given: composites.EpsilonGammaBox(low=-torch.full((1, 3, 1, 1), 3), high=torch.tensor(3.0), **given),
        lambda: presets.epsilon_gamma_box(-3, 3),
    ),
    "epsilon_alpha2_beta1": (composites.EpsilonAlpha2Beta1, presets.epsilon_alpha2_beta1),
    "epsilon_alpha2_beta1_flat": (composites.EpsilonAlpha2Beta1Flat, presets.epsilon_alpha2_beta1_flat),
}


def settled(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode with batch norms that do something.

    zennit adds their eps a second time after it has merged it, so here it is 0.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


PAIRS = [  # each takes seconds
    ("vgg16", "epsilon_gamma_box"),
    ("vgg16", "epsilon_alpha2_beta1_flat"),
    ("resnet18", "epsilon_plus_flat"),
    ("mobilenet_v2", "epsilon_plus"),
    ("mobilenet_v2", "epsilon_alpha2_beta1"),
]


@pytest.mark.parametrize(("network", "name"), PAIRS)
def test_relevance_is_that_of_zennit(network: str, name: str) -> None:
    make, used = NETWORKS[network]
    model, (theirs, ours) = settled(make()), COMPOSITES[name]
    inputs = torch.randn(1, 3, 32, 32)
    inputs[0, :, :4] = 0.0  # which the rules of the first layer reward too
    expected = by_zennit(model, inputs, torch.tensor([7]), theirs(canonizers=used))
    found = relevance(model, inputs, 7, ours(), only_inputs=True, merge_batch_norm=True)
    scale = expected.abs().amax()
    torch.testing.assert_close(found.inputs / scale, expected / scale, rtol=1e-9, atol=1e-9)


def by_zennit(model: nn.Module, inputs: Tensor, target: Tensor, composite: composites.Composite) -> Tensor:
    """The relevance of the inputs for the output of each target, whose value it shares out."""
    model = copy.deepcopy(model)
    outputs = model(inputs).detach()
    start = torch.zeros_like(outputs).scatter(1, target[:, None], outputs.gather(1, target[:, None]))
    with Gradient(model, composite) as attributor:
        _, found = attributor(inputs.clone(), start)
    return found
