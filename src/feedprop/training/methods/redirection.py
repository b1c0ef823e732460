"""The layers of a model whose backward pass a method replaces, and how it does so."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import grad as convolutions

from feedprop.errors import FeedpropError

_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: convolutions.conv1d_input,
    nn.Conv2d: convolutions.conv2d_input,
    nn.Conv3d: convolutions.conv3d_input,
}
# their backward pass has no matrix, so every method keeps it
_ELEMENTWISE = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU),
)


@dataclass(frozen=True)
class Layer:
    """A layer with a weight matrix, and the shape of one input as the layer sees it."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    samples: int  # the first dimension of its inputs


def trial(model: nn.Module, inputs: Tensor) -> tuple[list[Any], Tensor]:
    """Run the model once as in evaluation; return (module, shape of its input) in the order of calls, and outputs.

    Random numbers and the model's state stay as they are.
    """
    calls: list[Any] = []

    def note(module: nn.Module, args: Any, kwargs: Any, _: Any) -> None:
        given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        calls.append((module, () if given is None else tuple(given.shape)))

    hooks = [
        module.register_forward_hook(note, with_kwargs=True)
        for module in model.modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs: Tensor = model.eval()(inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return calls, outputs


def layers_of(model: nn.Module, inputs: Tensor, *, method: str) -> tuple[list[Layer], Tensor]:
    """Return the linear and convolutional layers in the order of their first call, and the outputs for the inputs.

    Raises:
        FeedpropError: the model has other layers with weights, or uses weights outside of their layer.
    """
    names = {module: name for name, module in model.named_modules()}
    for module, name in names.items():
        if any(True for _ in module.parameters(recurse=False)):
            _check(module, name, method=method)
    calls, outputs = trial(model, inputs)
    found: dict[nn.Module, Layer] = {}
    for module, shape in calls:
        if not isinstance(module, _ELEMENTWISE) and module not in found:
            found[module] = Layer(names[module], module, shape[1:], shape[0])
    for module, name in names.items():
        if _is_layer(module) and module not in found:
            raise FeedpropError(
                f"--method {method} cannot train this model: its layer {name} is not called in a forward pass; use "
                f"--method lfp or backprop"
            )
    return list(found.values()), outputs


def _is_layer(module: nn.Module) -> bool:
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *_CONVOLUTIONS)
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _check(module: nn.Module, name: str, *, method: str) -> None:
    if isinstance(module, _ELEMENTWISE):
        return
    if not _is_layer(module):
        raise FeedpropError(
            f"--method {method} knows linear layers, convolutions and normalisations, but {name or 'the model'} is a "
            f"{type(module).__name__} with parameters of its own; use --method lfp or backprop"
        )
    if not isinstance(module, nn.Linear) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        raise FeedpropError(
            f"--method {method} knows convolutions that are padded with zeros, by a number, but {name} has padding "
            f"{module.padding!r}, mode {module.padding_mode!r}; use --method lfp or backprop"
        )


def transposed(module: nn.Module, weight: Tensor, shape: torch.Size, gradient: Tensor) -> Tensor:
    """Return the gradient at the input of a layer, of this shape, if its weight was the given one."""
    weight = weight.to(gradient)
    if isinstance(module, nn.Linear):
        return gradient @ weight
    kind = next(kind for kind in _CONVOLUTIONS if isinstance(module, kind))
    names = ("stride", "padding", "dilation", "groups")
    return _CONVOLUTIONS[kind](shape, weight, gradient, **{name: getattr(module, name) for name in names})


class _Redirection(torch.autograd.Function):
    """Returns y, computed from x without its graph; passes y's gradient on, and a given one to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gradient: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.gradient, ctx.dtype = gradient, x.dtype
        ctx.mark_dirty(y)  # so that it is no copy, and may be written to in place
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return ctx.gradient(gradient).to(ctx.dtype), gradient, None


class Response:
    """What a method passes back to the input of a module. A copy of the model has copies of it."""

    def gradient(self, module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function from the gradient at the output to that at the input x; called in the forward pass."""
        raise NotImplementedError

    def remove(self) -> None:
        """Undo what was done to the model besides."""


@dataclass
class _Redirected:
    """The forward of a module under a method: an attribute of the instance, so state and hooks stay as they are."""

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    response: Response

    def __call__(self, input: Tensor) -> Tensor:  # as torch calls it
        if not (torch.is_grad_enabled() and input.requires_grad):
            return self.forward(input)
        y = self.forward(input.detach())
        y = y.clone() if y._is_view() else y  # the write that _Redirection declares would concern its base
        output: Tensor = _Redirection.apply(input, y, self.response.gradient(self.module, input))
        return output


def redirect(module: nn.Module, response: Response) -> None:
    """Let a module of one input pass back to it what a method says; values and the gradients of parameters stay."""
    module.forward = _Redirected(module, module.forward, response)


def restore(module: nn.Module) -> None:
    """Undo `redirect`."""
    redirected = vars(module).get("forward")
    if isinstance(redirected, _Redirected):
        del module.forward
        redirected.response.remove()


def feedback_of(layer: Layer, *, seed: int) -> Tensor:
    """Return a fixed random matrix of the shape and, on average, the size of a layer's weight: normal, mean 0."""
    weight = weight_of(layer.module)
    drawn = torch.randn(weight.shape, generator=generator(seed, layer.name), dtype=torch.float64)
    return (drawn * size_of(layer)).to(weight)


def size_of(layer: Layer) -> float:
    """Return the root mean square of a layer's weight; of one that is 0, that of torch's initialisation."""
    weight = weight_of(layer.module)
    size = float(weight.double().square().mean().sqrt())
    return size or 1 / math.sqrt(3 * weight[0].numel())


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a layer, without its graph."""
    weight: Tensor = module.weight.detach()  # type: ignore[operator]  # of a layer
    return weight


def generator(seed: int, name: str) -> torch.Generator:
    """Return random numbers that depend on the seed and a layer's name alone."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def check_reached(method: str, model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model with a layer that is trained and that no gradient reaches, behind a step for instance.

    Raises:
        FeedpropError: names the layer.
    """
    called = {module for module, _ in trial(model, inputs)[0]}
    trained = {
        name: weight
        for name, module in model.named_modules()
        if module in called
        for weight in module.parameters(recurse=False)
        if weight.requires_grad
    }
    training = model.training
    found: Sequence[Tensor | None] = [None] * len(trained)
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            total = model.eval()(inputs).sum()
            if total.requires_grad:
                found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    finally:
        model.train(training)
    for name, gradient in zip(trained, found, strict=True):
        if gradient is None:
            other = "lfp" if method == "straight_through" else "lfp or straight_through"
            raise FeedpropError(
                f"--method {method} cannot train the layer {name}: no gradient reaches it, as behind a step or a "
                f"sign; use --method {other}"
            )
