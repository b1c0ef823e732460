"""The tasks: data, model and length of training, one function each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy
import timm
import torch
import torchvision
from gpt import GPT
from torch import Tensor, nn
from torch.nn import functional

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CONTEXT = 64  # characters that the GPT sees
Part = tuple[Tensor, Tensor]


class Task(NamedTuple):
    """Parts of the data ("train", "validation", "test"), a function that builds the model, and how to train it."""

    parts: dict[str, Part]
    build: Callable[[], nn.Module]
    shown: Callable[[Tensor], Tensor]  # from stored inputs to inputs of the model
    epochs: int
    batch: int


def split(inputs: Tensor, targets: Tensor, *sizes: int) -> dict[str, Part]:
    """Return a training, a validation and (with three sizes) a test part, the same at every call."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    names = ("train", "validation", "test")
    return {
        name: (inputs[rows], targets[rows]) for name, rows in zip(names, order[: sum(sizes)].split(sizes), strict=False)
    }


def larger(side: int) -> Callable[[Tensor], Tensor]:
    """Return a function from bytes (B, 3 or 1, H, W) to normalised colour images of this height and width."""

    def shown(images: Tensor) -> Tensor:
        scaled = functional.interpolate(images.float() / 255, size=side, mode="bilinear", antialias=True)
        return ((scaled.expand(-1, 3, -1, -1) - MEAN) / STD).contiguous(memory_format=torch.channels_last)

    return shown


def emoji(root: Path) -> tuple[dict[str, Part], int]:
    file = numpy.load(root / "emoji/emoji32.npz")
    images = torch.from_numpy(file["images"]).permute(0, 3, 1, 2)
    return split(images, torch.from_numpy(file["labels"]), 1000, 300, 606), 9


def fashion(root: Path, *, train: int) -> tuple[dict[str, Part], int]:
    first, test = (torchvision.datasets.FashionMNIST(root, train=part) for part in (True, False))
    parts = split(first.data[:, None], first.targets, train, 5000)
    return parts | {"test": (test.data[:, None], test.targets)}, 10


def mobilenet(root: Path, classes: int) -> nn.Module:
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(torch.load(root / "weights/mobilenet_v2-b0353104.pth", weights_only=True))
    model.classifier = nn.Linear(model.last_channel, classes)
    return model.to(memory_format=torch.channels_last)


def efficientnet(root: Path, classes: int) -> nn.Module:
    model = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(root / "weights/efficientnet-lite0-57934424.pth", weights_only=True)
    own = model.state_dict()  # the file has other names, in the same order
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    model.reset_classifier(classes)
    return model.to(memory_format=torch.channels_last)


def fine_tuned(
    data: tuple[dict[str, Part], int], build: Callable[..., nn.Module], root: Path, side: int, epochs: int
) -> Task:
    parts, classes = data
    return Task(parts, lambda: build(root, classes), larger(side), epochs, 32)


class Mails(nn.Module):
    """MiniLM, the mean of its states, and a linear layer; tokens (batch, positions), 0 for padding."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.language = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.answer = nn.Linear(self.language.config.hidden_size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        given = (tokens != 0).to(torch.float32)
        states = self.language(input_ids=tokens, attention_mask=given).last_hidden_state
        return self.answer((states * given[..., None]).sum(1) / given.sum(1, keepdim=True))


def spam(root: Path) -> Task:
    from transformers import AutoTokenizer

    files = [sorted((root / "text/spam-assassin" / kind).glob("*.txt")) for kind in ("ham", "spam")]
    mails = [path.read_text(encoding="utf-8", errors="replace") for kind in files for path in kind]
    labels = torch.tensor([0] * len(files[0]) + [1] * len(files[1]))
    tokenizer = AutoTokenizer.from_pretrained(root / "minilm")
    tokens = tokenizer(mails, truncation=True, max_length=64, padding="max_length", return_tensors="pt")["input_ids"]
    return Task(split(tokens, labels, 2000, 500, 2000), lambda: Mails(root / "minilm"), lambda rows: rows, 1, 32)


def small_vit(root: Path) -> Task:
    def build() -> nn.Module:
        return timm.models.VisionTransformer(
            img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=4
        )

    parts, _ = fashion(root, train=55000)
    return Task(parts, build, lambda images: (images.float() / 255 - 0.286) / 0.353, 2, 128)


def moby_dick(root: Path) -> Task:
    text = (root / "text/moby-dick.txt").read_text(encoding="utf-8", errors="replace")
    symbols = {symbol: number for number, symbol in enumerate(sorted(set(text)))}
    codes = torch.tensor([symbols[symbol] for symbol in text])
    parts = {}
    ends = [int(0.9 * len(codes)), int(0.95 * len(codes))]
    for name, part in zip(("train", "validation", "test"), codes.tensor_split(ends), strict=True):
        rows = part.unfold(0, CONTEXT + 1, 1)
        if name == "train":  # 600 batches of 32, from random positions
            rows = rows[torch.randint(len(rows), (600 * 32,), generator=torch.Generator().manual_seed(0))]
        else:
            rows = rows[::CONTEXT]
        parts[name] = rows[:, :-1], rows[:, 1:]
    return Task(parts, lambda: GPT(len(symbols), CONTEXT), lambda rows: rows, 1, 32)


TASKS: dict[str, Callable[[Path], Task]] = {
    "mobilenet-emoji": lambda root: fine_tuned(emoji(root), mobilenet, root, 96, 6),
    "efficientnet-emoji": lambda root: fine_tuned(emoji(root), efficientnet, root, 96, 6),
    "mobilenet-fashion": lambda root: fine_tuned(fashion(root, train=6000), mobilenet, root, 64, 2),
    "efficientnet-fashion": lambda root: fine_tuned(fashion(root, train=6000), efficientnet, root, 64, 2),
    "minilm-spam": spam,
    "vit-fashion": small_vit,
    "gpt-moby-dick": moby_dick,
}
