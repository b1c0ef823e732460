"""The models that feedprop is checked with, each as small as its constructor allows. To add one, add a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

torchvision = pytest.importorskip("torchvision")
models = torchvision.models
CLASSES = 10
BATCH = 3


@dataclass(frozen=True)
class Listed:
    """A model, and the inputs that it is called with."""

    name: str
    source: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    relu: bool = False  # no activation but ReLU and no product: its feedback is -|w| times the gradient
    remark: str = ""

    def in_float64(self) -> tuple[nn.Module, dict[str, Tensor]]:
        model, inputs = self.build().double(), self.inputs()
        for parameter in model.parameters():
            if parameter.is_complex():  # which double() leaves alone
                parameter.data = parameter.data.to(torch.complex128)
        return model, {name: v.double() if v.is_floating_point() else v for name, v in inputs.items()}


def images(size: int, name: str = "x") -> Callable[[], dict[str, Tensor]]:
    """Return a function that makes a batch of random images, as the argument `name`."""
    return lambda: {name: torch.randn(BATCH, 3, size, size)}


def _torchvision(name: str, size: int = 32, *, relu: bool = False, remark: str = "", **settings: Any) -> Listed:
    def build() -> nn.Module:
        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **settings)

    return Listed(name, "torchvision", build, images(size), relu, remark)


def _timm(name: str, size: int = 32, *, relu: bool = False, remark: str = "", **settings: Any) -> Listed:
    def build() -> nn.Module:
        import timm  # takes seconds

        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **settings)
        return model

    return Listed(name, "timm", build, images(size), relu, remark)


class FourierOperator(nn.Module):
    """A Fourier neural operator: complex weights on the lowest frequencies, beside a pointwise path."""

    def __init__(self, width: int = 8, modes: int = 5) -> None:
        super().__init__()
        self.lift, self.pointwise, self.last = nn.Linear(1, width), nn.Linear(width, width), nn.Linear(width, CLASSES)
        self.spectrum = nn.Parameter(torch.randn(modes, width, width, dtype=torch.complex64) / width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        lowest = torch.fft.rfft(x, dim=1)[:, : len(self.spectrum)]
        mixed = torch.einsum("bmi,mio->bmo", lowest, self.spectrum)
        smooth = torch.fft.irfft(mixed, n=x.shape[1], dim=1)
        output: Tensor = self.last(nn.functional.gelu(smooth + self.pointwise(x)))
        return output


class UNet(nn.Module):
    """Two levels: down by pooling, up by a transposed convolution, and the skip by `cat`."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down, self.bottom = self._block(3, width), self._block(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge, self.last = self._block(2 * width, width), nn.Conv2d(width, CLASSES, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        deep = self.up(self.bottom(nn.functional.max_pool2d(skip, 2)))
        output: Tensor = self.last(self.merge(torch.cat((skip, deep), 1)))
        return output.movedim(1, -1)


class Detector(nn.Module):
    """RetinaNet's head on a feature pyramid: classes and boxes of every anchor."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)])
        self.pyramid = torchvision.ops.FeaturePyramidNetwork([8, 16], width)
        self.head = models.detection.retinanet.RetinaNetHead(width, 3, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features: dict[str, Tensor] = {}
        for stage in self.stages:
            x = features[str(len(features))] = stage(x).relu()
        return tuple(self.head(list(self.pyramid(features).values())).values())


def _with_small_classifier(name: str, size: int, features: int) -> Listed:
    """A network whose large classifier is replaced by one of 32 units."""

    def build() -> nn.Module:
        with torch.device("meta"):  # so that the large classifier takes no memory
            model: nn.Module = torchvision.models.get_model(name, weights=None)
        model.classifier = nn.Sequential(
            nn.Linear(features, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, CLASSES)
        )
        model.features.to_empty(device="cpu")
        for module in model.features:
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                module.reset_parameters()
        return model

    return Listed(name, "torchvision", build, images(size), relu=True, remark="classifier of 32 units")


TORCHVISION = [
    _with_small_classifier("alexnet", 63, 9216),
    _with_small_classifier("vgg11", 32, 25088),
    _with_small_classifier("vgg11_bn", 32, 25088),
    _torchvision("resnet18", relu=True),
    _torchvision("resnet50", relu=True),
    _torchvision("resnext50_32x4d", relu=True),
    Listed(
        "wide_resnet50_2",
        "torchvision",
        lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], CLASSES, width_per_group=128),
        images(32),
        relu=True,
        remark="one block per stage",
    ),
    _torchvision("densenet121", relu=True),
    _torchvision("squeezenet1_1", relu=True),
    _torchvision("googlenet", relu=True, init_weights=False, remark="with its auxiliary outputs, rewarded too"),
    _torchvision("inception_v3", 75, relu=True, init_weights=False, aux_logits=False),
    _torchvision("shufflenet_v2_x0_5", relu=True),
    _torchvision("mnasnet0_5", relu=True),
    _torchvision("regnet_x_400mf", relu=True),
    _torchvision("regnet_y_400mf", remark="squeeze and excite"),
    _torchvision("mobilenet_v2", remark="ReLU6"),
    _torchvision("mobilenet_v3_small", remark="hard swish, squeeze and excite"),
    _torchvision("efficientnet_b0", stochastic_depth_prob=0.1, remark="SiLU, squeeze and excite, stochastic depth"),
    _torchvision("efficientnet_v2_s", remark="SiLU, squeeze and excite, stochastic depth"),
    _torchvision("convnext_tiny", remark="GELU, LayerNorm, LayerScale"),
    _torchvision("swin_t", remark="shifted windows"),
    _torchvision("swin_v2_t", remark="cosine attention"),
    Listed(
        "vit",
        "torchvision",
        lambda: models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=CLASSES),
        images(32),
        remark="`nn.MultiheadAttention`",
    ),
    Listed(
        "maxvit",
        "torchvision",
        lambda: models.MaxVit((32, 32), 16, 2, [16, 32], [1, 1], 8, 0.2, num_classes=CLASSES),
        images(32),
        remark="block and grid attention",
    ),
]

TIMM = [
    _timm("resnet10t", relu=True, remark="blocks that start at 0"),
    _timm("resnetv2_50", relu=True, remark="pre-activation"),
    _timm("efficientnet_lite0", remark="ReLU6"),
    _timm("mobilenetv4_conv_small", relu=True),
    _timm("convnextv2_atto", remark="global response normalisation"),
    _timm("eca_nfnet_l0", remark="no normalisation, standardised weights"),
    _timm("mambaout_femto", remark="gated convolution"),
    _timm("poolformer_s12", 64, remark="pooling for attention"),
    _timm("edgenext_xx_small", remark="cross-covariance attention"),
    _timm("mobilevit_xxs"),
    _timm("xcit_nano_12_p16_224", depth=2),
    _timm("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2),
    _timm("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, depth=2, remark="two heads"),
    _timm("beit_base_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=4),
    _timm("eva02_tiny_patch14_224", 28, img_size=28, depth=2, remark="rotary embedding, SwiGLU"),
    _timm("cait_xxs24_224", img_size=32, patch_size=8, depth=2, remark="class attention"),
    _timm("convit_tiny", img_size=32, patch_size=8, depth=2, local_up_to_layer=1, remark="gated positional attention"),
    _timm("swinv2_cr_tiny_224", 64, img_size=64, depths=(1, 1), num_heads=(2, 4), embed_dim=16),
    _timm("pvt_v2_b0"),
    _timm("coatnet_nano_rw_224", 64, img_size=64, remark="convolution and attention"),
    _timm("sequencer2d_s", layers=(1, 1, 1, 1), remark="LSTM over rows and columns"),
]

OTHERS = [
    Listed(
        "Fourier neural operator",
        "here",
        FourierOperator,
        lambda: {"x": torch.randn(BATCH, 16, 1)},
        remark="complex weights",
    ),
    Listed("U-Net", "here", UNet, images(16), relu=True),
    Listed("RetinaNet head", "here", Detector, images(32), relu=True, remark="on a feature pyramid; classes and boxes"),
]
