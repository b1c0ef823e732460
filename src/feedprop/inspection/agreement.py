"""The gradient beside the feedback: a second pass through the same model, without rules, from the same start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from feedprop.errors import FeedpropError
from feedprop.inspection.layers import layers_of
from feedprop.interception.backward import unsearched
from feedprop.interception.contents import tensors_in
from feedprop.interception.forward import without_rules


class Gradient:
    """What ordinary derivatives make of the credit at the outputs of a model.

    While a backward pass is at the outputs, the model runs once more without rules: with the same inputs, buffers and
    random numbers. Its gradients start with the same credit. Rewards on outputs of exactly 0, which enter further
    inside, are not among it.

    Args:
        model: the model.
        every: of one in so many steps.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        spiking = [layer.name for layer in layers_of(dict(model.named_modules())) if layer.spikes]
        if spiking:
            raise FeedpropError(f"spiking neurons have no gradient to agree with ({spiking[0]}); omit agreement_every")
        self.model, self.every = model, every
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.running = False  # the second pass
        self._due = 0
        self._wanted = False
        self._calls: list[_Call] = []
        self._found: dict[nn.Parameter, Tensor] = {}

    def begin(self, step: int, *, measuring: bool) -> None:
        """Decide whether a step is compared."""
        self._wanted = measuring and step >= self._due
        if self._wanted:
            self._due = step - step % self.every + self.every

    def of(self, parameter: nn.Parameter) -> Tensor | None:
        """Return the gradient of a parameter in the running backward pass, if there is one."""
        return self._found.get(parameter)

    def forget(self) -> None:
        """Free what the last step held."""
        self._found.clear()

    def hooks(self, begin: Callable[[], bool]) -> Sequence[RemovableHandle]:
        """Put hooks on the model, which are called before those of its layers; the first one calls `begin`."""
        before = self.model.register_forward_pre_hook(self._before(begin), with_kwargs=True, prepend=True)
        return before, self.model.register_forward_hook(self._after, always_call=True)

    def _before(self, begin: Callable[[], bool]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if begin() and self._wanted:
                self._calls.append(_Call(self.model, args, kwargs))

        return hook

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._calls or not torch.is_grad_enabled() or self.running:
            return
        call = self._calls.pop()
        for place, tensor in enumerate(tensors_in(output)):
            if tensor.requires_grad:
                tensor.register_hook(self._at(call, place))  # type: ignore[no-untyped-call]

    def _at(self, call: _Call, place: int) -> Callable[[Tensor], None]:
        def hook(credit: Tensor) -> None:
            if self.running:
                return
            self.running = True
            try:
                output = call.output(place)
                with unsearched():
                    found = torch.autograd.grad(output, self.parameters, credit, retain_graph=True, allow_unused=True)
            finally:
                self.running = False
            for parameter, gradient in zip(self.parameters, found, strict=True):
                if gradient is not None:
                    before = self._found.get(parameter)
                    self._found[parameter] = gradient if before is None else before + gradient

        return hook


class _Call:
    """A call of the model that can be repeated without rules."""

    def __init__(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        devices = {parameter.device for parameter in model.parameters()}
        self.kinds = {device.type for device in devices}
        self.cast = {kind: torch.get_autocast_dtype(kind) for kind in self.kinds if torch.is_autocast_enabled(kind)}
        self.cuda = [device for device in devices if device.type == "cuda"]
        self.random = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.cuda)]
        self.buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self._outputs: list[Tensor] = []

    def output(self, place: int) -> Tensor:
        """Return one of the tensors that the model returns without rules."""
        if not self._outputs:
            with contextlib.ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(without_rules(self.model))
                stack.enter_context(self._same_random_numbers())
                for kind in self.kinds:
                    cast = self.cast.get(kind)
                    stack.enter_context(torch.autocast(kind, dtype=cast, enabled=cast is not None))
                result = torch.func.functional_call(self.model, self.buffers, self.args, self.kwargs)
            self._outputs = list(tensors_in(result))
        return self._outputs[place]

    @contextlib.contextmanager
    def _same_random_numbers(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=self.cuda):
            torch.set_rng_state(self.random[0])
            for device, state in zip(self.cuda, self.random[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def agreement(found: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return what the cosine between minus the feedback of a parameter and its gradient is computed from."""
    norms = (torch.linalg.vector_norm(tensor) for tensor in (found, gradient))
    return dict(zip(("product", "compared", "gradient"), ((found * gradient.conj()).real.sum(), *norms), strict=True))
