"""Activation checkpointing as each library switches it on changes no feedback."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed._composable import checkpoint as composable
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import feedprop
from feedprop import rewards, rules
from support.huggingface import HUGGING_FACE
from support.listed import torchvision

timm = pytest.importorskip("timm")
pytest.importorskip("transformers")

Switch = Callable[[nn.Module], object]
NAMED = {listed.name: listed for listed in HUGGING_FACE}


class Sequential(nn.Module):
    """A chain in pieces that are computed again, once it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(3136, 10)
        )
        self.pieces = 0

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_sequential(self.chain, self.pieces, x, use_reentrant=False) if self.pieces else self.chain(x)


def _hugging_face(name: str) -> Callable[[], tuple[nn.Module, dict[str, Tensor]]]:
    def build() -> tuple[nn.Module, dict[str, Tensor]]:
        model, inputs = NAMED[name].in_float64()
        model.config.attention_probs_dropout_prob = 0.0
        return model, inputs

    return build


def _images(build: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, dict[str, Tensor]]]:
    return lambda: (build().double(), {"images": torch.randn(2, 3, 32, 32, dtype=torch.float64)})


def _vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10, depth=2)


def _densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10)


def _memory_efficient(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "memory_efficient"):
            module.memory_efficient = True


def _composable(model: nn.Module) -> None:
    for block in model.blocks:
        composable(block, context_fn=feedprop.recomputation)  # it gives torch one of its own, in which it calls this


CASES: dict[str, tuple[Callable[[], tuple[nn.Module, dict[str, Tensor]]], Switch]] = {
    "timm": (_images(_vit), lambda model: model.set_grad_checkpointing()),
    "torchvision": (_images(_densenet), _memory_efficient),
    "BERT": (_hugging_face("BertForSequenceClassification"), lambda model: model.activation_checkpointing_enable()),
    "Llama": (_hugging_face("LlamaForCausalLM"), lambda model: model.activation_checkpointing_enable()),
    "checkpoint_sequential": (_images(Sequential), lambda model: setattr(model, "pieces", 3)),
    "checkpoint_wrapper": (
        _images(_vit),
        lambda model: apply_activation_checkpointing(model, check_fn=lambda m: isinstance(m, nn.Linear | nn.GELU)),
    ),
    "composable": (_images(_vit), _composable),
}


def _feedback(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    outputs = model(**inputs) if "images" not in inputs else model(inputs["images"])
    logits = getattr(outputs, "logits", outputs).flatten(0, -2)
    rewards.SoftmaxReward()(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    return {name.replace("_checkpoint_wrapped_module.", ""): p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("rule", [rules.Epsilon(), rules.Gamma(0.25)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_checkpointing_as_the_library_switches_it_on(name: str, rule: rules.Rule) -> None:
    build, switch = CASES[name]
    model, inputs = build()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.train()
    with feedprop.attached(model, rules.Composite.of(rule).replace(magnitude_floor=0.02)):
        expected = _feedback(model, inputs)
        switch(model)
        found = _feedback(model, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    plain = _feedback(model, inputs)  # detached: computed again without the rules
    assert any((plain[name] - value).norm() > 0.01 * value.norm() for name, value in found.items())


@pytest.mark.parametrize("rule", [rules.Epsilon(0.1), rules.Gamma()], ids=["epsilon", "gamma"])
def test_recomputed_twice(rule: rules.Rule) -> None:
    """Writing to what a checkpoint took and to what it returned makes torch recompute for each saved tensor."""

    class Written(nn.Module):
        def __init__(self, *, again: bool) -> None:
            super().__init__()
            self.layer, self.again = nn.Linear(3, 3), again

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x).clamp(min=0).mul_(2)
            h = checkpoint(torch.tanh, h, use_reentrant=False) if self.again else torch.tanh(h)
            return h.div_(2) if self.again else h / 2

    found = []
    for again in (True, False):
        torch.manual_seed(0)
        model, x = Written(again=again), torch.randn(4, 3)
        feedprop.attach(model, rule)(x).sum().backward()
        found.append(model.layer.weight.grad)
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-7)
