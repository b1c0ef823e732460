"""Rules of the first layer reward inputs of exactly 0 too; credit, a reward per unit of input, cannot say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from feedprop import credit


class OnZeros:
    """Gathers, in the next backward pass, the rewards of inputs of 0 under rules such as Flat."""

    def __init__(self, end: Any) -> None:
        self._found: list[tuple[Any, Tensor]] = []  # a node, and the rewards on zeros there
        for node in credit.walk([end]):
            if isinstance(node, credit.STAND_IN_NODE):
                node.register_prehook(self._gather(node))

    def _gather(self, node: Any) -> Callable[[tuple[Tensor, ...]], None]:
        def gather(credits: tuple[Tensor, ...]) -> None:
            x, values = node.saved_tensors
            rewards = (credits[0] * values).masked_fill(x != 0, 0.0)
            if bool(rewards.any()):
                self._found.append((node, rewards))

        return gather

    def reaching(self, leaves: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return the rewards by the id of the leaf that they belong to: one that was only moved on its way."""
        reached: dict[int, Tensor] = {}
        for node, rewards in self._found:
            edge = node.next_functions[0]
            if not _only_moved(edge[0]):
                continue
            shares = torch.autograd.grad(GradientEdge(*edge), leaves, rewards, allow_unused=True, retain_graph=True)
            for leaf, share in zip(leaves, shares, strict=True):
                if share is not None:
                    reached[id(leaf)] = reached.get(id(leaf), torch.zeros_like(leaf)) + share
        return reached


def _only_moved(node: Any) -> bool:
    while not hasattr(node, "variable"):
        if node is None or not credit.moves(node):
            return False
        node = node.next_functions[0][0]
    return True
