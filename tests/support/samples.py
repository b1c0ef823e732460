"""Models and data sets that tests name by import path, as users name their own."""

from __future__ import annotations

import snntorch
import torch
from torch import nn
from torch.utils.data import Dataset

from feedprop.training.data.source import Source
from feedprop.training.data.tensors import TensorData
from support.stepped import Stepped


def _source(inputs, targets, classes=("a", "b")):
    data = TensorData(inputs, targets)
    return Source(data, data, classes=classes)


def labels_beyond_classes():
    return _source(torch.randn(50, 4), torch.arange(50) % 5)


def empty():
    return _source(torch.randn(0, 4), torch.arange(0))


def with_nan():
    inputs = torch.randn(50, 4)
    inputs[17] = float("nan")
    return _source(inputs, torch.arange(50) % 2)


def float_labels():
    return _source(torch.randn(50, 4), torch.rand(50))


def more_inputs_than_labels():
    return _source(torch.randn(51, 4), torch.arange(50) % 2)


def validation_differs():
    """Training labels are right and test labels wrong: selecting on the test set would choose another epoch."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 2, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    return Source(TensorData(inputs, targets), TensorData(inputs, 1 - targets), classes=("a", "b"))


def noise():
    """Labels that do not depend on the inputs."""
    generator = torch.Generator().manual_seed(0)
    return _source(torch.randn(2000, 4, generator=generator), torch.arange(2000) % 2)


def number():
    return 3


def odd_names():
    """Class names that are no text, and some that mean something to those who draw and print them."""
    names = (None, 3, "a$b_{", "[/x]", "<script>alert(1)</script>")
    return _source(torch.randn(50, 4), torch.arange(50) % 5, classes=names)


def one_class():
    return _source(torch.randn(50, 4), torch.zeros(50, dtype=torch.long), classes=("only",))


class Generated(Dataset):
    """Samples that are made one at a time, not held in one tensor."""

    def __init__(
        self,
        split: str = "train",
        size: int = 60,
        bad_label: int | None = None,
        broken: bool = False,
        broken_test: bool = False,
        grows: bool = False,
        nan: bool = False,
    ):
        self.classes, self.size, self.bad_label, self.grows = ["dark", "bright"], size, bad_label, grows
        self.broken, self.nan = broken or (broken_test and split == "test"), nan

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if self.broken and index == 7:
            raise OSError("truncated image")
        if index == self.bad_label:
            return torch.zeros(1, 4, 4), 9
        side = 5 if self.grows and index == 9 else 4
        value = torch.nan if self.nan and index == 3 else float(index % 2)
        return torch.full((1, side, side), value) + 0.01 * index, index % 2


class Nameless(Dataset):
    def __init__(self, train: bool = True):
        pass

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.zeros(2), index % 2


class Untold(Dataset):
    """Nothing tells training and test data apart."""


class Linear(nn.Linear):
    def __init__(self, inputs, classes):
        super().__init__(inputs[0], classes)
        self.calls = 0


class Softmaxed(Linear):
    """Returns probabilities."""

    def forward(self, input):
        return super().forward(input).softmax(1)


class Silent(Linear):
    """All weights are 0."""

    def __init__(self, inputs, classes):
        super().__init__(inputs, classes)
        nn.init.zeros_(self.weight)


class Worded(Linear):
    """Has a vocabulary of its own."""

    def __init__(self, inputs, classes, vocabulary: int = 7):
        super().__init__(inputs, classes)
        self.vocabulary = vocabulary


class Zeros(nn.Sequential):
    def __init__(self, inputs, classes):
        super().__init__(nn.Linear(inputs[0], 8), nn.ReLU(), nn.Linear(8, classes))
        nn.init.zeros_(self[0].bias)


class Exploding(Linear):
    """Infinite outputs from the fifteenth training step on."""

    def forward(self, inputs):
        self.calls += self.training
        outputs = super().forward(inputs)
        return outputs * float("inf") if self.calls >= 15 else outputs


class ExplodingAtOnce(Linear):
    def forward(self, inputs):
        return super().forward(inputs) * (float("nan") if self.training else 1)


class Interrupted(Linear):
    def forward(self, inputs):
        self.calls += self.training
        if self.calls >= 15:
            raise KeyboardInterrupt
        return super().forward(inputs)


class Buggy(Linear):
    def forward(self, inputs):
        raise KeyError("a bug")


class Coloured(nn.Sequential):
    """Takes images of three channels, as the networks of torchvision do."""

    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))


class Frozen(Linear):
    def __init__(self, inputs, classes):
        super().__init__(inputs, classes)
        self.requires_grad_(False)


class Picky(nn.Module):
    """Says by assert what it takes, as vision transformers do."""

    def __init__(self, width=2):
        super().__init__()
        assert width % 2 == 0, "the width must be even"

    def forward(self, inputs):
        assert inputs.shape[-1] == 224, "images of 224 x 224 alone"


class Pair(Linear):
    def forward(self, inputs):
        return super().forward(inputs), inputs


def snntorch_network(inputs, classes):
    return Stepped(nn.Linear(inputs[0], 4), snntorch.Leaky(beta=0.9), nn.Linear(4, classes), snntorch.Leaky(beta=0.9))


class SpikeCounts(nn.Module):
    """Shows an input for three steps and returns the spike counts of snnTorch's neurons."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network(inputs.expand(3, *inputs.shape)).sum(0)


def snntorch_counts(inputs, classes):
    return SpikeCounts(snntorch_network(inputs, classes))


def not_a_model():
    return 3


def imports_what_is_missing():
    import no_such_module  # noqa: F401


def identity(optimizer):
    return 3


class NaNAtStep7(Linear):
    """NaN as outputs of the seventh training step alone."""

    def forward(self, inputs):
        self.calls += self.training
        outputs = super().forward(inputs)
        return outputs * float("nan") if self.training and self.calls == 7 else outputs
