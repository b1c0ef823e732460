"""Spiking networks as a sequence of layers; layers without time see all steps as one batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.spiking.neuron import Neuron, State


class SpikingSequential(nn.Module):
    """Layers in a row over time-first tensors (T, B, ...); layers without time run once on T * B rows.

    With `steps`, inputs are (B, ...) without time, shown as a constant current at each of so many steps; the layers
    before the first neuron run once only.

    Args:
        layers: neurons, spiking networks, and modules without time such as Linear, Conv2d, BatchNorm2d.
        steps: how often a constant input is shown; if None, inputs are (T, B, ...).

    >>> from feedprop.spiking import LIF
    >>> net = SpikingSequential(nn.Linear(3, 4), LIF(), nn.Linear(4, 2), LIF(), steps=5)
    >>> net(torch.rand(8, 3)).shape
    torch.Size([5, 8, 2])
    """

    def __init__(self, *layers: nn.Module, steps: int | None = None) -> None:
        super().__init__()
        if steps is not None and steps < 1:
            raise FeedpropError(f"steps must be at least 1, got {steps!r}")
        self.steps = steps
        self.layers = nn.ModuleList(layers)
        if not any(isinstance(layer, TIMED) for layer in layers):
            raise FeedpropError(f"{type(self).__name__} needs at least one spiking neuron among its layers")

    @overload
    def forward(self, inputs: Tensor, state: None = None, *, steps: int | None = None) -> Tensor: ...
    @overload
    def forward(self, inputs: Tensor, state: State, *, steps: int | None = None) -> tuple[Tensor, State]: ...
    def forward(
        self, inputs: Tensor, state: State | None = None, *, steps: int | None = None
    ) -> Tensor | tuple[Tensor, State]:
        """Return the last layer's outputs; given a state (`State()` to begin with), (outputs, state to continue from).

        Args:
            inputs: (T, B, ...); (B, ...) for a constant input.
            state: of the last call.
            steps: overrides the number of steps for a constant input.
        """
        steps = self.steps if steps is None else steps
        parts = iter(self._parts(state))
        ends: list[State] = []
        values = channels_last(inputs, time=steps is None)
        for layer in self.layers:
            if isinstance(layer, TIMED):
                values, end = layer(values, next(parts), steps=steps)
                ends.append(end)
                steps = None
            elif steps is None:
                values = at_every_step(layer, values)
            else:
                _check_shape(layer, values, steps=steps)
                values = layer(values)
        return values if state is None else (values, State(parts=tuple(ends)))

    def _parts(self, state: State | None) -> tuple[State, ...]:
        timed = sum(isinstance(layer, TIMED) for layer in self.layers)
        parts = state.parts if state is not None else ()
        if parts and len(parts) != timed:
            raise FeedpropError(
                f"the state of {type(self).__name__} has {len(parts)} parts, but it has {timed} layers with a state"
            )
        return parts or (State(),) * timed

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int | slice) -> nn.Module | nn.ModuleList:
        return self.layers[index]


class SpikingResidual(SpikingSequential):
    """SpikingSequential with a connection around it: layers(x) + x, or layers(x) + shortcut(x).

    Args:
        layers: as for SpikingSequential.
        shortcut: a module without time that makes the shapes agree.
    """

    def __init__(self, *layers: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__(*layers)
        self.shortcut = shortcut

    def forward(  # type: ignore[override]
        self, inputs: Tensor, state: State | None = None, *, steps: int | None = None
    ) -> Tensor | tuple[Tensor, State]:
        """Return layers(inputs) + inputs, with the state if one is given."""
        values, end = super().forward(inputs, State() if state is None else state, steps=steps)
        around = inputs
        if self.shortcut is not None:
            around = self.shortcut(inputs) if steps is not None else at_every_step(self.shortcut, inputs)
        total = values + around
        return total if state is None else (total, end)


TIMED = (Neuron, SpikingSequential)


def at_every_step(layer: nn.Module, values: Tensor) -> Tensor:
    """Apply a module without time to (T, B, ...): all steps are one batch."""
    _check_shape(layer, values, steps=None)
    if isinstance(layer, nn.Linear):  # takes any leading dimensions
        return layer(values)  # type: ignore[no-any-return]
    steps, batch = values.shape[:2]
    rows = values.flatten(0, 1)
    if isinstance(layer, nn.Flatten) and rows.ndim == 4 and rows.device.type == "cpu":
        rows = _ChannelsFirst.apply(rows)
    outputs = layer(rows)
    behind, epsilon = credit.undamped(outputs)  # a neuron takes the current before its damping
    return credit.damped(behind.view(steps, batch, *behind.shape[1:]), epsilon)


RANKS: dict[type[nn.Module], int] = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}


def _check_shape(layer: nn.Module, values: Tensor, *, steps: int | None) -> None:
    """Raise FeedpropError if a layer cannot take these values, mostly because time is missing or not first."""
    rank = RANKS.get(type(layer))
    least = rank or (2 if isinstance(layer, nn.Linear | nn.Flatten) else 1)
    found = values.ndim - (steps is None)
    if found >= least and (rank is None or found == rank):
        features = layer.in_features if isinstance(layer, nn.Linear) else 0  # 0: not known yet
        if features in (0, values.shape[-1]):
            return
    wanted = "time-first inputs (T, B, ...)" if steps is None else f"inputs (B, ...), to be shown {steps} times"
    raise FeedpropError(
        f"a spiking network {'without' if steps is None else 'with'} steps takes {wanted}, got shape "
        f"{tuple(values.shape)} at {layer}"
    )


def channels_last(values: Tensor, *, time: bool) -> Tensor:
    """Return images in the memory layout in which a CPU's convolutions and poolings are fastest."""
    if values.device.type != "cpu" or values.ndim != 4 + time or torch.compiler.is_dynamo_compiling():
        return values
    laid = values.movedim(-3, -1).contiguous().movedim(-1, -3)
    if laid.shape[-3] > 1:
        return laid
    strides = laid.stride()  # one channel is in either layout; its strides tell the convolution which to use
    return laid.as_strided(laid.shape, (*strides[:-3], 1, *strides[-2:]))


class _ChannelsFirst(torch.autograd.Function):
    """Values in the usual layout; the credit returns in that of `channels_last`, so that a pooling need not copy it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.contiguous()

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> Tensor:
        return credit.contiguous(memory_format=torch.channels_last)
