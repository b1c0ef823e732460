"""What no rule saw of a forward pass, found in the graph that autograd keeps: it would carry gradients in silence."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from feedprop import credit

_OURS = ("feedprop", "torch")  # torch's own are part of how it runs a model: checkpoints, DDP, FSDP, compiled regions
_COMPILED = "torch._functorch"  # where the functions of compiled regions are made, into which the rules were traced


def sequence_number() -> int:
    """Return the number that autograd gives to the next node it makes."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


def unseen_function(outputs: Iterable[Tensor], *, since: int, seen: Collection[Any]) -> type[Any] | None:
    """Return an autograd function behind `outputs` that nobody registered.

    Args:
        outputs: of a model.
        since: `sequence_number()` before it ran.
        seen: autograd functions that may stand in the graph.
    """
    for node in credit.nodes_behind(outputs, since=since):
        function = getattr(node, "_forward_cls", None)
        function = vars(function).get("stands_for", function) if function is not None else None
        if function is not None and function.__module__.partition(".")[0] not in _OURS and function not in seen:
            return function  # type: ignore[no-any-return]
    return None


def unseen_parameters(outputs: Iterable[Tensor], model: nn.Module, *, since: int) -> list[str]:
    """Return the names of the parameters of `model` that a plain gradient of `outputs` reaches, in the model's order.

    Args:
        outputs: of the model.
        model: attached.
        since: `sequence_number()` before it ran; what computed its inputs is not its concern.
    """
    nodes = credit.nodes_behind(outputs, since=since, but_not_behind=_gives_feedback)
    reached = {id(getattr(node, "variable", None)) for node in nodes}
    return [name for name, parameter in model.named_parameters() if id(parameter) in reached]


def _gives_feedback(node: Any) -> bool:
    function = getattr(node, "_forward_cls", None)
    return isinstance(node, credit.WEIGHT_NODES) or getattr(function, "__module__", "").startswith(_COMPILED)
