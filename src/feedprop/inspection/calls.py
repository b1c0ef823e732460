"""Every call of every module in one forward pass: what went in and out, and the credit that comes back there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from feedprop import credit
from feedprop.credit import marks
from feedprop.diagnosis.trial import tensors


def followable(tensor: Tensor) -> bool:
    """Whether a tensor can carry credit."""
    return tensor.is_floating_point() or tensor.is_complex()


@dataclass
class Passed:
    """A tensor as it passed a module, and its place in the graph, None if it carries no credit.

    A spiking neuron takes a damped current from before its damping, around the tensor (see `credit.undamped`); then
    `around` is that place, and `epsilon` what the tensor is damped by.
    """

    values: Tensor
    edge: GradientEdge | None
    around: GradientEdge | None = None
    epsilon: float = 0.0

    @classmethod
    def of(cls, tensor: Tensor) -> Passed:
        """Keep the present values, which an in-place operation may overwrite later."""
        values = tensor.detach().clone()
        if not tensor.requires_grad:
            return cls(values, None)
        damped = marks.get(tensor, marks.UNDAMPED)
        if damped is None or not damped.tensor.requires_grad:
            return cls(values, get_gradient_edge(tensor))
        return cls(values, get_gradient_edge(tensor), get_gradient_edge(damped.tensor), damped.epsilon)


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
                credit.kept(tensor)
                call.left.append(Passed.of(tensor))
        self.finished.append(call)


class Credits:
    """The credit of tensors, and of what passed modules, found by one backward pass.

    Args:
        starts: scalars, or places in the graph, where the pass starts.
        ends: what to find the credit of; entries without an edge have none.
        credits: that the pass starts with; 1 if not given.
    """

    def __init__(self, starts: Any, ends: Sequence[Tensor | Passed], credits: Any = None) -> None:
        self._ends = ends  # keeps them, and so their ids
        edges: dict[tuple[int, bool], Any] = {}
        for end in ends:
            if isinstance(end, Tensor):
                edges[id(end), False] = end
            else:
                edges |= {(id(end), around): edge for around, edge in ((False, end.edge), (True, end.around)) if edge}
        options: Any = {"allow_unused": True, "retain_graph": True}
        found = torch.autograd.grad(starts, list(edges.values()), credits, **options) if edges else ()
        self._found = dict(zip(edges, found, strict=True))

    def parts(self, end: Tensor | Passed) -> list[tuple[Any, Tensor]]:
        """Return the places where credit reaches an end, each with what reaches it there."""
        if isinstance(end, Tensor):
            found = self._found.get((id(end), False))
            return [] if found is None else [(end, found)]
        through, around = (self._found.get((id(end), place)) for place in (False, True))
        if around is not None and through is not None:  # what comes from the tensor itself arrives there too
            around = around - through * credit.damping_of(end.values, end.epsilon)
        return [(edge, found) for edge, found in ((end.edge, through), (end.around, around)) if found is not None]

    def of(self, end: Tensor | Passed) -> Tensor | None:
        """Return the credit of an end, or None if no credit reaches it."""
        found = [part for _, part in self.parts(end)]
        return found[0] + found[1] if len(found) == 2 else found[0] if found else None

    def reward(self, end: Tensor | Passed) -> Tensor:
        """Return values times credit, shaped like the end; zeros if no credit reaches it."""
        return reward(end.detach() if isinstance(end, Tensor) else end.values, self.of(end))


def reward(values: Tensor, credits: Tensor | None) -> Tensor:
    """Return values times their credit; zeros without one. Half precision becomes float32."""
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if credits is None:
        return torch.zeros_like(wide.real if wide.is_complex() else wide)
    credits = credits.to_dense() if credits.layout is not torch.strided else credits
    return (wide * credits.conj()).real if wide.is_complex() else wide * credits
