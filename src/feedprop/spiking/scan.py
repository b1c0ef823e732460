"""The spiking neuron as one operation over all steps: a scan forwards in time, and the reward backwards in time.

With current I_t, membrane u_t, spike s_t = [u_t > threshold] and what the reset leaves of the last membrane, k_(t-1):

    v_t = beta k_(t-1) + I_t
    u_t = v_t - threshold s_(t-1)                       for reset "subtract", otherwise v_t
    D_t = |k_(t-1)| + |v_t - k_(t-1)|                   the membrane that was there, and what changed it
    R_t = reward at s_t + u_t beta q_(t+1)              hidden layers: reward at s_t = s_t times its credit
    q_t = R_t / (D_t + epsilon)                         = credit at I_t

(Weber et al. 2023, arXiv 2308.12053, spiking networks; denominators as in its published code.) That turns the sign of
credit where a membrane is negative, which suits rewards on spikes. With `additive`, a membrane passes credit on
unchanged, as any sum does, so that losses on membranes train too; spikes still pass their reward by D:

    q_t = (reward at s_t) / (D_t + epsilon) + credit at u_t + beta q_(t+1)

No derivative of a spike is taken, and the reset carries no reward. Without reset delay a neuron that fires at t is
reset at t; with "subtract", u_t and v_t are then the values after that reset, as published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from feedprop.credit.start import NEURONS
from feedprop.spiking import silence
from feedprop.spiking.dynamics import Dynamics, Number, subtract
from feedprop.spiking.scan_backward import ScanBackward

BLOCK = 2**16  # elements of one step


class Scan(torch.autograd.Function):
    """(currents, start, beta) -> (spikes, membranes, reward starts); currents (T, B, ...), or (B, ...) if constant.

    Spikes, membranes u and v are computed unless they are given.

    Reward starts are zeros shaped like the spikes: what comes back to them is a reward, not a credit.
    """

    @staticmethod
    def forward(
        ctx: Any,
        currents: Tensor,
        start: Tensor | None,
        beta: Number,
        dynamics: Dynamics,
        spikes: Tensor | None,
        membranes: Tensor | None,
        before: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if spikes is None or membranes is None or before is None:
            run = _forward_compiled if torch.compiler.is_dynamo_compiling() else _forward
            spikes, membranes, before = run(currents, start, beta, dynamics)
        else:  # the neuron computed them; compiled, a result cannot share the memory of an argument
            own = torch.clone if torch.compiler.is_dynamo_compiling() else torch.detach
            spikes, membranes = own(spikes), own(membranes)
            before = own(before) if dynamics.empties_at_once else membranes
        ctx.dynamics = dynamics
        ctx.beta, saved = (None, beta) if isinstance(beta, Tensor) else (beta, None)
        ctx.save_for_backward(spikes, before, start, saved)
        ctx.set_materialize_grads(False)
        if not dynamics.fires:
            ctx.mark_non_differentiable(spikes)
        return spikes, membranes, currents.new_zeros(()).expand(membranes.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *arriving: Tensor | None) -> tuple[Any, ...]:
        """Pass credit at spikes and membranes, and reward at reward starts, on to currents, start and beta."""
        spikes, before, start, beta = ctx.saved_tensors
        arriving = (*arriving[:2], _added(arriving[2], ctx.__dict__.pop("reward_on_silent", None)))
        if not torch.compiler.is_dynamo_compiling() and ctx.dynamics.fires:
            known: silence.Silence = ctx.__dict__.get("silence") or silence.of(None)
            known.look(ctx, spikes, before, ctx.beta if beta is None else beta, *arriving)
        constant = ctx.dynamics.steps is not None
        # as in `_forward_compiled`; there is one block then
        apart = torch.compiler.is_dynamo_compiling() and not constant
        fresh = [torch.empty_like(row) for row in before.unbind(0)] if apart else []
        credits = torch.empty_like(before[0] if constant else before)
        at_start = torch.empty_like(start) if ctx.needs_input_grad[1] else None
        at_beta = torch.zeros_like(beta) if ctx.needs_input_grad[2] else None
        for block in _blocks(before):
            back = ScanBackward(
                ctx.dynamics,
                ctx.beta if beta is None else beta,
                spikes[:, block].unbind(0),
                before[:, block].unbind(0),
                None if start is None else start[block],
                at_beta,
            )
            out = fresh or (credits[block] if constant else credits[:, block].unbind(0))
            back.run(*(_rows(values, block, len(spikes)) for values in arriving), out=out)
            if at_start is not None:
                at_start[block] = back.carried()
        return torch.stack(fresh) if apart else credits, at_start, at_beta, None, None, None, None


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b


NEURONS.append(Scan._backward_cls)


def _forward(currents: Tensor, start: Tensor | None, beta: Number, dynamics: Dynamics) -> tuple[Tensor, Tensor, Tensor]:
    """Return spikes, membranes u and v; v shares the memory of u unless a spike erases it."""
    constant, steps = dynamics.steps is not None, dynamics.steps or len(currents)
    membranes = _with_steps(currents, steps) if constant else torch.empty_like(currents)
    spikes = torch.empty_like(membranes) if dynamics.fires else currents.new_zeros(()).expand(membranes.shape)
    before = torch.empty_like(membranes) if dynamics.empties_at_once else membranes
    for block in _blocks(membranes):
        part = currents[block] if constant else currents[:, block]
        rows = (part,) * steps if constant else part.unbind(0)
        outputs = (spikes[:, block].unbind(0), membranes[:, block].unbind(0), before[:, block].unbind(0))
        _run(zip(rows, *outputs, strict=True), None if start is None else start[block], beta, dynamics)
    return spikes, membranes, before


def _forward_compiled(
    currents: Tensor, start: Tensor | None, beta: Number, dynamics: Dynamics
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same with separate memory for each step: compiled, a write into a part copies the whole."""
    rows = currents.unbind(0) if dynamics.steps is None else (currents,) * dynamics.steps
    membranes = [torch.empty_like(row) for row in rows]
    spikes = [torch.empty_like(row) if dynamics.fires else torch.zeros_like(row) for row in rows]
    before = [torch.empty_like(row) for row in rows] if dynamics.empties_at_once else membranes
    _run(zip(rows, spikes, membranes, before, strict=True), start, beta, dynamics)
    stacked = torch.stack(membranes)
    return torch.stack(spikes), stacked, torch.stack(before) if dynamics.empties_at_once else stacked


def _with_steps(currents: Tensor, steps: int) -> Tensor:
    """Return an empty tensor (steps, B, ...), each step laid out in memory like `currents`."""
    strides = torch.empty_like(currents, device="meta").stride()
    return currents.new_empty_strided((steps, *currents.shape), (currents.numel(), *strides))


def _blocks(values: Tensor) -> Iterator[slice]:
    """Split the batch of (T, B, ...) into parts whose steps fit the processor's cache."""
    batch = values.shape[1]
    rows = batch
    if values.device.type == "cpu" and not torch.compiler.is_dynamo_compiling():
        rows = max(1, BLOCK * batch // max(values[0].numel(), 1))
    for begin in range(0, max(batch, 1), max(rows, 1)):
        yield slice(begin, begin + rows)


def _rows(values: Tensor | None, block: slice, steps: int) -> Sequence[Tensor | None]:
    return (None,) * steps if values is None else values[:, block].unbind(0)


def _run(
    rows: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]], start: Tensor | None, beta: Number, dynamics: Dynamics
) -> None:
    """Fill spikes, membranes u and v from the currents, row by row; v may share the memory of u."""
    last, fired = start, None if start is None or not dynamics.fires else dynamics.fired(start)
    for current, spike, membrane, v in rows:
        _advance(current, last, fired, beta, dynamics, out=v)
        last = membrane
        if not dynamics.fires:
            continue
        torch.gt(v, dynamics.threshold, out=spike)
        if dynamics.reset_delay:
            fired = spike
            continue
        if dynamics.empties_at_once:
            torch.addcmul(v, v, spike, value=-1, out=membrane)
        elif dynamics.reset == "subtract":
            subtract(membrane, spike if fired is None else spike - fired, dynamics.threshold)
        fired = dynamics.fired(membrane)


def _advance(
    current: Tensor, last: Tensor | None, fired: Tensor | None, beta: Number, dynamics: Dynamics, *, out: Tensor
) -> None:
    """Write the membrane, reset for the spikes `fired` of the last step, to `out`."""
    if last is None:
        out.copy_(current)
        return
    if fired is not None and dynamics.reset == "zero":
        last = torch.addcmul(last, last, fired, value=-1)
    if isinstance(beta, Tensor):
        torch.addcmul(current, last, beta, out=out)
    else:
        torch.add(current, last, alpha=beta, out=out)
    if fired is not None and dynamics.reset == "subtract":
        subtract(out, fired, dynamics.threshold)
    elif fired is not None and dynamics.reset == "refractory":
        out.addcmul_(out, fired, value=-1)
