"""Spiking neurons over time-first tensors (T, B, ...): modules that hold the settings of `lif`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.spiking.dynamics import Number, check_settings
from feedprop.spiking.lif import check_currents, lif


@dataclass(frozen=True)
class State:
    """What a neuron or a network remembers from one call to the next; `State()` starts from rest.

    `state.detach()` cuts the propagation, so that a sequence of any length runs in bounded memory.
    """

    tensors: tuple[Tensor, ...] = ()
    parts: tuple[State, ...] = ()

    def detach(self) -> State:
        tensors = tuple(tensor.detach().clone() for tensor in self.tensors)  # a view would keep all steps in memory
        return State(tensors, tuple(part.detach() for part in self.parts))


class Neuron(nn.Module):
    """What every spiking neuron has: a decay, a threshold, a reset, and a forward pass that can be continued.

    To write your own, define `step`, in torch functions; or `run`, which computes all steps at once.

    Args:
        beta: decay of the membrane per step in [0, 1], a number or a tensor that broadcasts to (B, ...).
        threshold: where a neuron fires, > 0, a number or a tensor likewise.
        reset: "subtract", "zero", "refractory" or "none", for those who use it.
        reset_delay: reset in the step after the spike, for those who use it.
        learn_beta: make beta a parameter; `self.decay(self.beta)` clamps it to [0, 1].
    """

    reset: str
    reset_delay: bool
    fires = True

    def __init__(
        self,
        beta: Number = 0.9,
        threshold: Number = 1.0,
        *,
        reset: str = "subtract",
        reset_delay: bool = True,
        learn_beta: bool = False,
    ) -> None:
        super().__init__()
        check_settings(reset=reset)
        self.reset, self.reset_delay = reset, bool(reset_delay)
        self.beta = self._setting("beta", beta, highest=1.0, learn=learn_beta)
        self.threshold = self._setting("threshold", threshold, above=0.0)

    def _setting(
        self,
        name: str,
        value: Number,
        *,
        above: float | None = None,
        highest: float = float("inf"),
        learn: bool = False,
    ) -> Any:
        """Check a number or tensor and return it as a float, buffer or parameter."""
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().clone()
        fine = (tensor > above if above is not None else tensor >= 0) & (tensor <= highest)
        if not fine.all():
            bounds = "> 0" if above is not None else f"in [0, {highest:g}]"
            raise FeedpropError(f"{name} must be {bounds}, got {value!r}")
        if learn:
            return nn.Parameter(tensor)
        if isinstance(value, Tensor):
            self.register_buffer(name, tensor)
            return tensor
        return float(value)

    def decay(self, value: Number) -> Number:
        """Return a decay; a parameter is clamped to [0, 1]."""
        return value.clamp(0, 1) if isinstance(value, nn.Parameter) else value

    @overload
    def forward(self, currents: Tensor, state: None = None, *, steps: int | None = None) -> Tensor: ...
    @overload
    def forward(self, currents: Tensor, state: State, *, steps: int | None = None) -> tuple[Tensor, State]: ...
    def forward(
        self, currents: Tensor, state: State | None = None, *, steps: int | None = None
    ) -> Tensor | tuple[Tensor, State]:
        """Return spikes (T, B, ...); given a state (`State()` to begin with), return (spikes, state to continue from).

        Args:
            currents: (T, B, ...); with `steps`, (B, ...): the same current at each of so many steps.
            state: of the last call.
            steps: how often a constant current is shown.
        """
        check_currents(currents, steps)
        start = state.tensors if state is not None else ()
        expected = currents.shape[1:] if steps is None else currents.shape
        for tensor in start:
            if tensor.shape != expected:
                raise FeedpropError(
                    f"the state of {type(self).__name__} has shape {tuple(tensor.shape)}, but the currents are "
                    f"{tuple(expected)} per step; pass State() to begin a new sequence"
                )
        answer = self.run(currents, start, steps=steps)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise FeedpropError(
                f"{type(self).__name__}.run() must return (outputs, state), a tensor and a tuple of tensors"
            )
        outputs, end = answer
        return outputs if state is None else (outputs, State(end))

    def run(
        self, currents: Tensor, start: tuple[Tensor, ...], *, steps: int | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (outputs (T, B, ...), tensors to continue from); here by `step`, one step at a time.

        Args:
            currents: (T, B, ...); with `steps`, (B, ...).
            start: the tensors of the last call, () at rest.
            steps: how often a constant current is shown.
        """
        outputs, state = [], start
        for current in (currents,) * steps if steps is not None else currents.unbind(0):
            output, state = self._checked(self.step(current, state), current)
            outputs.append(output)
        return torch.stack(outputs), state

    def step(self, current: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (output, state) of one step.

        Args:
            current: (B, ...).
            state: what the step before returned, tensors shaped like `current`; () at rest.
        """
        raise FeedpropError(
            f"{type(self).__name__} does not say what happens in a step: define step(self, current, state), which "
            f"returns (output, state): a tensor shaped like the current, and a tuple of such tensors"
        )

    def _checked(self, answer: Any, current: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        name, shape = f"{type(self).__name__}.step()", tuple(current.shape)
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], tuple):
            raise FeedpropError(f"{name} must return (output, state), a tensor and a tuple of tensors")
        for tensor in (answer[0], *answer[1]):
            if not isinstance(tensor, Tensor) or tensor.shape != current.shape or not tensor.is_floating_point():
                raise FeedpropError(
                    f"{name} must return floating-point tensors shaped like the current {shape}, got {_kind(tensor)}"
                )
        if answer[0].dtype != current.dtype:
            raise FeedpropError(
                f"{name} must return outputs of the dtype of the current, {current.dtype}, got {_kind(answer[0])}"
            )
        if credit.not_finite(answer[0]) and current.detach().isfinite().all():
            raise FeedpropError(f"{name} returned outputs that are NaN or infinite, although the current is finite")
        return answer

    def extra_repr(self) -> str:
        numbers = f"beta={_shown(self.beta)}, threshold={_shown(self.threshold)}"
        return f"{numbers}, reset={self.reset!r}, reset_delay={self.reset_delay}"


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _shown(value: Number) -> str:
    return f"{value:g}" if isinstance(value, float) else f"<{tuple(value.shape)}>"


class LIF(Neuron):
    """Leaky integrate-and-fire neurons: currents (T, B, ...) to spikes (T, B, ...).

    u_t = beta u_(t-1) + I_t - threshold s_(t-1), s_t = [u_t > threshold] (Weber et al. 2023; snnTorch `Leaky`).

    Args:
        beta: decay of the membrane per step in [0, 1]; a tensor (one per neuron) broadcasts to (B, ...).
        threshold: where a neuron fires, > 0; a tensor (one per neuron) broadcasts to (B, ...).
        reset: "subtract" (take the threshold off), "zero" (empty the membrane before new current comes in),
            "refractory" (the step after a spike stays empty) or "none".
        reset_delay: reset in the step after the spike, otherwise in the same step.
        learn_beta: make beta a parameter; it is clamped to [0, 1].

    >>> LIF(beta=0.5)(torch.ones(4, 1, 1)).flatten()
    tensor([0., 1., 0., 1.])
    """

    def run(
        self, currents: Tensor, start: tuple[Tensor, ...], *, steps: int | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        spikes, membranes = self.scan(currents, *start, steps=steps)
        return spikes, (membranes[-1],)

    def scan(self, currents: Tensor, start: Tensor | None = None, *, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Return (spikes, membranes), both (T, B, ...)."""
        return lif(
            currents,
            start,
            beta=self.decay(self.beta),
            threshold=self.threshold,
            reset=self.reset,
            reset_delay=self.reset_delay,
            steps=steps,
            fires=self.fires,
        )


class IF(LIF):
    """Integrate-and-fire neurons: LIF without leak, beta = 1."""

    def __init__(self, threshold: Number = 1.0, *, reset: str = "subtract", reset_delay: bool = True) -> None:
        super().__init__(1.0, threshold, reset=reset, reset_delay=reset_delay)


class LeakyIntegrator(LIF):
    """Leaky integration without spikes: returns membranes, for a read-out by membrane.

    u_t = beta u_(t-1) + I_t.
    """

    fires = False

    def __init__(self, beta: Number = 0.9, *, learn_beta: bool = False) -> None:
        super().__init__(beta, reset="none", learn_beta=learn_beta)

    def run(
        self, currents: Tensor, start: tuple[Tensor, ...], *, steps: int | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        _, membranes = self.scan(currents, *start, steps=steps)
        return membranes, (membranes[-1],)
