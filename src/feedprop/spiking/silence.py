"""Says once per model that credit was lost, since it reached the spikes of neurons that never fired."""

from __future__ import annotations

import warnings
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from feedprop import credit
from feedprop.spiking.dynamics import Number

LOST = (
    "nothing arrived: credit reached the spikes of neurons that never fired, and a silent neuron passes none on; "
    "reward spiking outputs by feedprop.rewards.SpikeRateReward or SpikeTargetReward, which reach silent neurons too, "
    "and give silent hidden neurons larger weights or a lower threshold"
)
_MOST_LOOKS = 100  # at an accelerator's memory, since each makes the host wait


class Silence:
    """What is known of the silent neurons of one model, and whether its user was told.

    A layer that runs step by step is a chain of nodes, each of which tells the node of the step before what it found.
    """

    def __init__(self) -> None:
        self.told = False
        self.looks = 0
        self.rewarded = False  # whether a backward pass ever began at spikes: such rewards reach silent neurons

    def look(
        self,
        node: Any,
        spikes: Tensor,
        before: Tensor,
        beta: Number,
        at_spikes: Tensor | None,
        at_membranes: Tensor | None,
        at_starts: Tensor | None,
    ) -> None:
        """Warn at the first step of a layer if credit came to its spikes and all was lost, since no neuron fired."""
        later: tuple[bool, bool] | None = node.__dict__.pop("later", None)
        if at_starts is not None:
            self.rewarded = True
        if self.told or self.rewarded or not self._may_look(spikes):
            return
        fired, lost = later or (False, False)
        fired = fired or bool(spikes[-1].any() or spikes.any())
        lost = not fired and (lost or (at_spikes is not None and bool(at_spikes.any())))
        if node.needs_input_grad[1]:
            last = _step_before(node)
            if last is not None:
                last.later = fired, lost
            return
        if not lost or (at_membranes is not None and at_membranes.any()):
            return
        # where the membrane was detached, later steps may have fired; those of a membrane that is not 0 often do not
        if later is not None or len(spikes) > 1 or bool((before * beta != 0).all()):
            self.told = True
            warnings.warn_explicit(LOST, UserWarning, __file__, 1)  # warnings.warn shows it once per process

    def _may_look(self, spikes: Tensor) -> bool:
        if spikes.device.type == "cpu":
            return True
        self.looks += 1
        return self.looks <= _MOST_LOOKS


def of(model: nn.Module | None) -> Silence:
    """Return what is known of a model; of all neurons that run outside of attached models if it is None."""
    return _OUTSIDE if model is None else _KNOWN.setdefault(model, Silence())


_KNOWN: WeakKeyDictionary[nn.Module, Silence] = WeakKeyDictionary()
_OUTSIDE = Silence()


def _step_before(node: Any) -> Any:
    """Return the node that made the membranes from which a node began, None if it is another's."""
    kind, node = type(node), node.next_functions[1][0]
    while node is not None and credit.moves(node):
        node = node.next_functions[0][0]
    return node if isinstance(node, kind) else None
