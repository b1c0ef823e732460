"""Every call of every module in one forward pass: what went in and out, and the credit that comes back there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from feedprop.diagnosis.trial import tensors


def followable(tensor: Tensor) -> bool:
    """Whether a tensor can carry credit."""
    return tensor.is_floating_point() or tensor.is_complex()


@dataclass
class Passed:
    """A tensor as it passed a module; `edge` is its place in the graph, None if it carries no credit."""

    values: Tensor
    edge: GradientEdge | None

    @classmethod
    def of(cls, tensor: Tensor) -> Passed:
        """Keep the present values, which an in-place operation may overwrite later."""
        return cls(tensor.detach().clone(), get_gradient_edge(tensor) if tensor.requires_grad else None)


@dataclass
class Call:
    """One call of a module."""

    name: str
    module: nn.Module
    entered: list[Passed] = field(default_factory=list)
    integers: list[Tensor] = field(default_factory=list)  # among the inputs
    left: list[Passed] = field(default_factory=list)
    outer: bool = False  # whether other modules ran inside it


class Calls:
    """The calls of the modules inside a model, in the order in which they returned.

    Hooks only look: a module gets the tensors that it would get without them. Parametrizations count as parts of the
    module whose weight they compute.

    Args:
        model: the model that will run, once.
        kinds: the modules to look at.
    """

    def __init__(self, model: nn.Module, kinds: type[nn.Module] = nn.Module) -> None:
        self.finished: list[Call] = []
        self.closed = False  # checkpointed modules run again in the backward pass
        self._running: list[Call] = []
        for name, module in model.named_modules():
            if name and isinstance(module, kinds) and "parametrizations" not in name.split("."):
                module.register_forward_pre_hook(self._enter(name), with_kwargs=True, prepend=True)
                module.register_forward_hook(self._leave)

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self.closed:
                given = list(tensors((args, kwargs)))
                entered = [Passed.of(tensor) for tensor in given if followable(tensor)]
                integers = [tensor for tensor in given if not followable(tensor)]
                for outer in self._running:
                    outer.outer = True
                self._running.append(Call(name, module, entered, integers))

        return enter

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        if self.closed:
            return
        while self._running[-1].module is not module:  # one that raised, and whose error was caught
            self._running.pop()
        call = self._running.pop()
        for tensor in tensors(result):
            if followable(tensor):
                if tensor.requires_grad:
                    tensor.register_hook(_look)  # type: ignore[no-untyped-call]
                call.left.append(Passed.of(tensor))
        self.finished.append(call)


def _look(credit: Tensor) -> None:
    """A hook, because the credit of a tensor without one may pass around it (see `credit.undamped`)."""


class Credits:
    """The credit of tensors, and of what passed modules, found by one backward pass.

    Args:
        value: a scalar, of which the pass starts with a credit of 1.
        ends: what to find the credit of; entries without an edge have none.
        start: the credit that the pass starts with; 1 if not given.
    """

    def __init__(self, value: Any, ends: Sequence[Tensor | Passed], start: Any = None) -> None:
        self.ends = [end for end in ends if isinstance(end, Tensor) or end.edge is not None]
        edges: Any = [end if isinstance(end, Tensor) else end.edge for end in self.ends]
        found = torch.autograd.grad(value, edges, start, allow_unused=True, retain_graph=True) if edges else ()
        self._found = dict(zip(map(id, self.ends), found, strict=True))

    def of(self, end: Tensor | Passed) -> Tensor | None:
        """Return the credit of an end, or None if no credit reaches it."""
        return self._found.get(id(end))

    def reward(self, end: Tensor | Passed) -> Tensor:
        """Return values times credit, shaped like the end; zeros if no credit reaches it."""
        return reward(end.detach() if isinstance(end, Tensor) else end.values, self.of(end))


def reward(values: Tensor, credit: Tensor | None) -> Tensor:
    """Return values times their credit; zeros without one. Half precision becomes float32."""
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if credit is None:
        return torch.zeros_like(wide.real if wide.is_complex() else wide)
    credit = credit.to_dense() if credit.layout is not torch.strided else credit
    return (wide * credit.conj()).real if wide.is_complex() else wide * credit
