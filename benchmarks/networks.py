"""The networks of the benchmarks: each a function that returns a network, inputs and targets."""

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

Case = tuple[nn.Module, Tensor, Tensor]


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)
    )


def lenet(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5), activation(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 5), activation(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)),
    )


def vgg_with_norm(activation: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for inner, outer in ((1, 32), (32, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), activation(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def resnet18() -> nn.Module:
    return torchvision.models.resnet18(num_classes=10)


def vit() -> nn.Module:
    """A ViT-Tiny of half the depth, for images of 32 x 32 in 64 patches."""
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=4, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=10
    )


class Llama(nn.Module):
    """Hugging Face's Llama, small: tokens in, logits (batch, vocabulary, positions) out."""

    def __init__(self) -> None:
        super().__init__()
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=512, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=128, use_cache=False,
            )
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).logits.transpose(1, 2)


def _images(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Callable[[], Case]:
    return lambda: (build(), torch.randn(shape), torch.randint(10, shape[:1]))


def _small(build: Callable[[type[nn.Module]], nn.Module], activation: type[nn.Module]) -> Callable[[], Case]:
    return _images(lambda: build(activation), (128, 1, 28, 28))


def _llama() -> Case:
    tokens = torch.randint(512, (8, 129))
    return Llama(), tokens[:, :-1], tokens[:, 1:]


NETWORKS: dict[str, Callable[[], Case]] = {
    "mlp relu": _small(mlp, nn.ReLU),
    "lenet relu": _small(lenet, nn.ReLU),
    "lenet tanh": _small(lenet, nn.Tanh),
    "lenet gelu": _small(lenet, nn.GELU),
    "lenet silu": _small(lenet, nn.SiLU),
    "vgg-bn relu": _small(vgg_with_norm, nn.ReLU),
    "resnet18": _images(resnet18, (16, 3, 64, 64)),
    "vit": _images(vit, (32, 3, 32, 32)),
    "llama": _llama,
}


def case(name: str) -> Case:
    """Return a network, its inputs and its targets, the same at every call."""
    torch.manual_seed(0)
    return NETWORKS[name]()
