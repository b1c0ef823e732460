"""Leaky integrate-and-fire as a pure function over time-first tensors, and how an attached model runs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function

from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import FeedpropError
from feedprop.operations.dispatch import listened_to
from feedprop.operations.registry import Arguments, Context, Function, Keywords, register
from feedprop.spiking import silence
from feedprop.spiking.dynamics import Dynamics, Number, check_settings
from feedprop.spiking.scan import Scan


def lif(
    currents: Tensor,
    start: Tensor | None = None,
    *,
    beta: Number = 0.9,
    threshold: Number = 1.0,
    reset: str = "subtract",
    reset_delay: bool = True,
    steps: int | None = None,
    fires: bool = True,
    epsilon: float = 1e-6,
    values: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run leaky integrate-and-fire neurons and return (spikes, membranes), both (T, B, ...).

    u_t = beta u_(t-1) + I_t - threshold s_(t-1), s_t = [u_t > threshold]; backwards as in `feedprop.spiking.scan`.

    Args:
        currents: I, (T, B, ...); with `steps`, (B, ...): the same current at each of so many steps.
        start: membranes u_0, (B, ...); default: at rest.
        beta: decay per step in [0, 1], a number or a tensor that broadcasts to (B, ...).
        threshold: > 0, a number or a tensor that broadcasts to (B, ...).
        reset: "subtract", "zero", "refractory" or "none", see `Dynamics`.
        reset_delay: reset one step after the spike; otherwise in the same step.
        steps: how often a constant current is shown.
        fires: False for neurons that only integrate; their spikes are 0.
        epsilon: stabiliser of D; under `feedprop.attach` that of the active rule.
        values: spikes, membranes, and membranes before a reset in the same step, each (T, B, ...), of a neuron that
            computes them itself; otherwise they are computed here.

    >>> lif(torch.ones(4, 1, 1), beta=0.5)[0].flatten()
    tensor([0., 1., 0., 1.])
    """
    settings: dict[str, Any] = {
        "beta": beta, "threshold": threshold, "reset": reset, "reset_delay": reset_delay, "steps": steps,
        "fires": fires, "values": values,
    }  # fmt: skip
    if listened_to(currents):  # an attached model is running
        result: tuple[Tensor, Tensor] = handle_torch_function(
            lif, (currents,), currents, start, epsilon=epsilon, **settings
        )
        return result
    return _scan(currents, start, epsilon=epsilon, **settings)


@register(lif)
def _with_credit(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> tuple[Tensor, Tensor]:
    """Run `lif` with the epsilon of the active rule.

    D contains epsilon already, so q_t is the credit at I_t and the linear layer that made I_t is not damped again.
    """
    currents, start = args
    settings = kwargs | {
        "epsilon": context.active_rule().damping,
        "additive": context.activation.additive_membranes,
    }
    currents, _ = credit.undamped(currents)
    if isinstance(settings["beta"], Tensor):
        settings["beta"] = credit.as_weight(settings["beta"], context.magnitude)
    return _scan(currents, start, model=context.model, **settings)


def _scan(
    currents: Tensor,
    start: Tensor | None,
    *,
    steps: int | None,
    beta: Number,
    values: tuple[Tensor, Tensor, Tensor] | None = None,
    model: nn.Module | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    check_currents(currents, steps)
    check_transforms()
    check_settings(beta=beta, threshold=settings["threshold"], reset=settings["reset"])
    kind = currents.dtype
    if kind in (torch.float16, torch.bfloat16):  # a membrane that sums in half precision loses small currents
        currents = currents.float()
        start = None if start is None else start.float()
    given = (None, None, None) if values is None else tuple([part.to(currents.dtype) for part in values])
    spikes, membranes, entries = Scan.apply(currents, start, beta, Dynamics(steps=steps, **settings), *given)
    if model is not None and not torch.compiler.is_dynamo_compiling() and membranes.grad_fn is not None:
        membranes.grad_fn.silence = silence.of(model)  # the node of `Scan`
    _check_finite(membranes[-1])
    if values is not None:
        membranes = membranes.to(values[1].dtype)
    spikes = spikes.to(kind)
    if credit.traced():  # otherwise found through the graph
        marks.mark(spikes, marks.START, marks.Start(entries, undivided=True))
    return spikes, membranes


def check_currents(currents: Tensor, steps: int | None) -> None:
    """Raise FeedpropError for currents of a wrong dtype or shape."""
    if not currents.is_floating_point():
        raise FeedpropError(f"a spiking neuron takes floating-point currents, not {currents.dtype}")
    if steps is None and currents.ndim < 2:
        raise FeedpropError(
            f"a spiking neuron takes time-first currents (T, B, ...), got shape {tuple(currents.shape)}; "
            f"a constant current (B, ...) needs steps=..."
        )
    if (currents.shape[0] if steps is None else steps) < 1:
        raise FeedpropError("a spiking neuron needs at least one step, got T = 0")


def check_transforms() -> None:
    """Raise FeedpropError while a transform of torch.func is running."""
    if credit.transformed():
        raise FeedpropError(
            "spiking neurons do not run under torch.func (vmap, grad): for feedback per sample, call backward() for "
            "one sample at a time, currents (T, 1, ...)"
        )


def _check_finite(membranes: Tensor) -> None:
    """Check the last step alone, since NaN and infinity stay; skipped where the check would make the device wait."""
    wrong = credit.not_finite(membranes)
    if wrong:
        raise FeedpropError(
            f"{wrong} of {membranes.numel()} membranes are NaN or infinite after the last step: "
            f"the input or a weight is not finite"
        )
