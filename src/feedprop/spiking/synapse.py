"""A current that decays, i_t = alpha i_(t-1) + I_t, and the neuron that it drives.

The current is a plain sum, so credit passes as a gradient does: the credit at I_t is
p_t = credit at i_t + alpha p_(t+1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function

from feedprop import credit
from feedprop.operations.dispatch import listened_to
from feedprop.operations.registry import Arguments, Context, Function, Keywords, register
from feedprop.spiking.dynamics import Number, check_settings
from feedprop.spiking.lif import check_currents, check_transforms
from feedprop.spiking.neuron import LIF


def leaky_sum(currents: Tensor, start: Tensor | None = None, *, alpha: Number, steps: int | None = None) -> Tensor:
    """Return i (T, B, ...) for currents I (T, B, ...), or (B, ...) if they are the same at each of `steps` steps.

    >>> leaky_sum(torch.ones(3, 1), alpha=0.5).flatten()
    tensor([1.0000, 1.5000, 1.7500])
    """
    if listened_to(currents):  # an attached model is running
        result: Tensor = handle_torch_function(leaky_sum, (currents,), currents, start, alpha=alpha, steps=steps)
        return result
    check_currents(currents, steps)
    check_transforms()
    check_settings(alpha=alpha)
    if steps is not None:
        currents = currents.expand(steps, *currents.shape)
    return _LeakySum.apply(currents, start, alpha)  # type: ignore[no-any-return]


@register(leaky_sum)
def _with_credit(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Tensor:
    """Run `leaky_sum` with a learned alpha as a weight."""
    if isinstance(kwargs["alpha"], Tensor):
        kwargs = kwargs | {"alpha": credit.as_weight(kwargs["alpha"], context.magnitude)}
    return leaky_sum(*args, **kwargs)


class _LeakySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, currents: Tensor, start: Tensor | None, alpha: Number) -> Tensor:
        flowing = torch.empty_like(currents, memory_format=torch.contiguous_format)
        last = start
        for current, out in zip(currents.unbind(0), flowing.unbind(0), strict=True):
            out.copy_(current)
            if last is not None:
                _add_scaled(out, last, alpha)
            last = out
        ctx.alpha = None if isinstance(alpha, Tensor) else alpha
        ctx.save_for_backward(
            alpha if isinstance(alpha, Tensor) else None, start, *([flowing] * ctx.needs_input_grad[2])
        )
        return flowing

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        alpha, start, *flowing = ctx.saved_tensors
        decay = ctx.alpha if alpha is None else alpha
        credits = credit.clone(memory_format=torch.contiguous_format)
        rows = credits.unbind(0)
        for now, later in zip(reversed(rows[:-1]), reversed(rows[1:]), strict=True):
            _add_scaled(now, later, decay)
        at_alpha = None
        if flowing:
            at_alpha = (credits[1:] * flowing[0][:-1]).sum(0)
            at_alpha = (at_alpha if start is None else at_alpha + rows[0] * start).sum_to_size(alpha.shape)
        return credits, rows[0] * decay if ctx.needs_input_grad[1] else None, at_alpha


def _add_scaled(target: Tensor, values: Tensor, scale: Number) -> None:
    if isinstance(scale, Tensor):
        target.addcmul_(values, scale)
    else:
        target.add_(values, alpha=scale)


class Synaptic(LIF):
    """Second-order neurons: the current decays too (snnTorch `Synaptic`).

    i_t = alpha i_(t-1) + I_t; u_t and s_t follow from i_t as in LIF.

    Args:
        alpha: decay of the synaptic current per step in [0, 1].
        beta: decay of the membrane per step in [0, 1].
        threshold: as in LIF; so are `reset` and `reset_delay`.
        learn_alpha: make alpha a parameter.
        learn_beta: make beta a parameter.
    """

    def __init__(
        self,
        alpha: Number = 0.8,
        beta: Number = 0.9,
        *,
        threshold: Number = 1.0,
        reset: str = "subtract",
        reset_delay: bool = True,
        learn_alpha: bool = False,
        learn_beta: bool = False,
    ) -> None:
        super().__init__(beta, threshold, reset=reset, reset_delay=reset_delay, learn_beta=learn_beta)
        self.alpha = self._setting("alpha", alpha, highest=1.0, learn=learn_alpha)

    def run(
        self, currents: Tensor, start: tuple[Tensor, ...], *, steps: int | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        synaptic, membrane = start or (None, None)
        flowing = leaky_sum(currents, synaptic, alpha=self.decay(self.alpha), steps=steps)
        spikes, membranes = self.scan(flowing, membrane)
        return spikes, (flowing[-1], membranes[-1])
