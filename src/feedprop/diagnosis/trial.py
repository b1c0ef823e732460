"""Runs copies of a model, each from the same random state."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feedprop import rewards, rules
from feedprop.attach import attach, detach
from feedprop.errors import FeedpropError

Change = Callable[[rules.Composite], rules.Composite]


@dataclass
class Run:
    """A copy that ran, what it returned with its buffers, and what was rewarded."""

    model: nn.Module
    values: list[Tensor]
    outputs: list[Tensor]

    def gradients(self) -> dict[str, Tensor | None]:
        """Return what the backward pass left at each trainable parameter."""
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return {name: None if p.grad is None else p.grad.to_dense() for name, p in trainable.items()}

    def filled_gradients(self) -> dict[str, Tensor]:
        """Return the same, zeros where there is nothing."""
        weights = dict(self.model.named_parameters())
        return {name: torch.zeros_like(weights[name]) if g is None else g for name, g in self.gradients().items()}


class Trial:
    """Runs copies of a model, each from the same random state."""

    def __init__(self, model: nn.Module, inputs: Any, targets: Tensor | None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"check() takes a torch.nn.Module, not {type(model).__name__}")
        self.model, self.targets = model, targets
        self.args, self.kwargs = arguments(inputs)
        self.devices = devices_of(model)
        places = {path: _attachment(module) for path, module in model.named_modules()}
        self.attached = {path: forward for path, forward in places.items() if forward is not None}
        self.composites = {path: forward.composite for path, forward in self.attached.items()}
        if not self.attached:
            self.composites = {"": rules.presets.training()}

    def under_rules(self, parameter: str) -> bool:
        """Whether a parameter is inside what is attached."""
        return any(not path or parameter.startswith(f"{path}.") for path in self.composites)

    def copied(self, *, double: bool) -> nn.Module:
        """Return a copy without rules and gradients."""
        model = copy_without_rules(self.model, "check()")
        return model.double() if double else model

    def run(
        self,
        change: Change | None,
        *,
        double: bool = False,
        prepare: Callable[[nn.Module], Any] = lambda model: None,
        start: Callable[[list[Tensor]], Tensor] | None = None,
    ) -> Run:
        """Run a copy forwards and backwards.

        Args:
            change: of the composites it is attached with; None runs it without rules.
            double: in float64.
            prepare: called with the copy before it runs.
            start: returns the scalar that the backward pass starts from.
        """
        model = self.copied(double=double)
        if change is not None:
            for path, composite in self.composites.items():
                forward = self.attached.get(path)
                options = {name: getattr(forward, name) for name in ("unknown", "methods") if hasattr(forward, name)}
                attach(model.get_submodule(path), change(composite), **options)
        prepare(model)
        args, kwargs = mapped(_prepared(double=double), (self.args, self.kwargs))
        random_state = torch.random.fork_rng(devices=self.devices)
        with uncompiled(), random_state, _default_dtype(torch.float64 if double else None):
            result = model(*args, **kwargs)
            values = [value.detach().clone() for value in (*tensors(result), *model.buffers())]
            outputs = rewarded(result)
            if outputs:
                torch.autograd.backward((start or self.scalar)(outputs))
        return Run(model, values, outputs)

    def run_on_silent_outputs(self, change: Change) -> Run | None:
        """Reward each output of exactly 0 with 1 and the others with 0; returns None if that is refused."""

        def start(outputs: list[Tensor]) -> Tensor:
            reward = rewards.GivenReward(reduction="sum")
            return torch.stack([reward(output, (output.detach() == 0).to(output.dtype)) for output in outputs]).sum()

        try:
            return self.run(change, start=start)
        except FeedpropError:
            return None

    def scalar(self, outputs: list[Tensor]) -> Tensor:
        """Return minus the reward, of which the backward pass carries minus the credit: for classes, or for size."""
        if self.targets is not None:
            return self._reward_of_classes(outputs[0], self.targets)
        signs = [torch.where(output.detach() == 0, 1, output.detach().sgn().conj()) for output in outputs]
        sums = [(output * sign).real.sum().double() for output, sign in zip(outputs, signs, strict=True)]
        return -torch.stack(sums).sum()

    def _reward_of_classes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        reward = rewards.SoftmaxReward(reduction="sum")
        remedy = "leave targets out of check(), which then rewards every output for its size"
        if outputs.ndim and outputs.shape[min(1, outputs.ndim - 1)] == 1:
            raise FeedpropError(f"targets are classes, but the model has one output, {tuple(outputs.shape)}; {remedy}")
        try:
            credits = reward.credit(outputs.detach(), reward.prepare(outputs.detach(), targets))
        except FeedpropError as error:
            raise FeedpropError(f"{error}; or {remedy}") from None
        return -(outputs * credits).sum()


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments and keywords of a call: inputs are a tensor, a tuple of arguments or a dictionary."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}


def devices_of(model: nn.Module) -> list[int]:
    """Return the GPUs of a model, whose random state a run may change."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    return [device.index or 0 for device in devices]


def copy_without_rules(model: nn.Module, caller: str) -> nn.Module:
    """Return a copy on which nothing is attached.

    Raises:
        FeedpropError: the model cannot be copied; the message names the `caller`.
    """
    try:
        copied = copy.deepcopy(model, _computed_weights(model))
    except (RuntimeError, TypeError) as error:
        raise FeedpropError(
            f"{caller} needs a copy of the model, and copy.deepcopy fails ({error}): call it before the model's first "
            "forward pass"
        ) from error
    for module in copied.modules():
        if _attachment(module) is not None:
            detach(module)
    return copied


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Run what torch.compile made as the code that it was made of, whose hooks are called and whose tensors last."""
    if "torch._dynamo.variables.tensor" not in sys.modules:  # nothing is compiled, and its import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _computed_weights(model: nn.Module) -> dict[int, Tensor]:
    """Return copies, by id, of what hooks compute before each pass, such as the masked weights of nn.utils.prune."""
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and (hasattr(module, f"{name}_orig") or hasattr(module, f"{name}_g"))
    }


def _attachment(module: nn.Module) -> Any:
    """What `attach` put on a module, if it did."""
    forward = vars(module).get("forward")
    return forward if isinstance(getattr(forward, "composite", None), rules.Composite) else None


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    if dtype is not None:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _prepared(*, double: bool) -> Callable[[Tensor], Tensor]:
    """Return a function that copies an input; in float64 it is followed, so that its credit can be asked for."""

    def prepare(tensor: Tensor) -> Tensor:
        kept = tensor.detach().clone()
        if double and kept.is_floating_point():
            return kept.double().requires_grad_()
        return kept.requires_grad_(tensor.requires_grad)

    return prepare


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return `value` with `function` applied to each tensor in it."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(mapped(function, part) for part in value)
    return {name: mapped(function, part) for name, part in value.items()} if type(value) is dict else value


def tensors(result: Any) -> Iterator[Tensor]:
    """Yield every tensor in what a model returns."""
    if isinstance(result, Tensor):
        yield result
        return
    if dataclasses.is_dataclass(result) and not isinstance(result, Mapping):
        result = vars(result)
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, (tuple, list)) else ()
    for part in parts:
        yield from tensors(part)


def rewarded(result: Any) -> list[Tensor]:
    """Return what is rewarded: the logits of Hugging Face's outputs, else every output that has a history."""
    logits = getattr(result, "logits", None)
    found = tensors(result if logits is None else logits)
    return [output for output in found if output.requires_grad and (output.is_floating_point() or output.is_complex())]
