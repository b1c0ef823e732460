"""The spiking neuron as one operation over all steps: a scan forwards in time, and the reward backwards in time.

With current I_t, membrane u_t, spike s_t = [u_t > threshold] and what the reset leaves of the last membrane, k_(t-1):

    v_t = beta k_(t-1) + I_t
    u_t = v_t - threshold s_(t-1)                       for reset "subtract", otherwise v_t
    D_t = |k_(t-1)| + |v_t - k_(t-1)|                   the membrane that was there, and what changed it
    R_t = reward at s_t + u_t beta q_(t+1)              hidden layers: reward at s_t = s_t times its credit
    q_t = R_t / (D_t + epsilon)                         = credit at I_t

(Weber et al. 2023, arXiv 2308.12053, spiking networks; denominators as in its published code.) No derivative of a
spike is taken, and the reset carries no reward. Without reset delay a neuron that fires at t is reset at t already; with
"subtract", u_t and v_t are then the values after that reset, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Number = float | Tensor


class Dynamics(NamedTuple):
    """What makes a neuron, apart from its decay.

    `reset` is "subtract" (threshold taken off), "zero" (the membrane is emptied before new current comes in, k = 0),
    "refractory" (the step after a spike stays empty, u = 0, new current is lost) or "none". `epsilon` stabilises D;
    with 0, what has no contribution passes no credit. `steps` is given if the current is the same at each of so many
    steps. `fires` is False for a neuron that only integrates.
    """

    threshold: Number
    reset: str
    reset_delay: bool
    epsilon: float
    steps: int | None
    fires: bool

    @property
    def empties_at_once(self) -> bool:
        """Whether u_t says nothing of v_t after a spike, so that v_t has to be kept."""
        return self.fires and not self.reset_delay and self.reset in ("zero", "refractory")

    def fired(self, membrane: Tensor) -> Tensor:
        """1 where a membrane is above the threshold, so that the next step begins with a reset."""
        return torch.gt(membrane, self.threshold).to(membrane.dtype)


class Scan(torch.autograd.Function):
    """(currents, start, beta) -> (spikes, membranes); currents are (T, ...), or (...) if the same at all steps."""

    @staticmethod
    def forward(
        ctx: Any, currents: Tensor, start: Tensor | None, beta: Number, dynamics: Dynamics
    ) -> tuple[Tensor, Tensor]:
        """Run the neuron over all steps."""
        spikes, membranes, before = _run(currents, start, beta, dynamics)
        ctx.dynamics = dynamics
        ctx.beta, saved = (None, beta) if isinstance(beta, Tensor) else (beta, None)
        ctx.save_for_backward(spikes, before, start, saved)
        ctx.set_materialize_grads(False)
        if not dynamics.fires:
            ctx.mark_non_differentiable(spikes)
        return spikes, membranes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, at_spikes: Tensor | None, at_membranes: Tensor | None) -> tuple[Any, ...]:
        """Pass credit at spikes and membranes on to currents, start and beta."""
        spikes, before, start, beta = ctx.saved_tensors
        back = _Backwards(ctx.dynamics, ctx.beta if beta is None else beta, spikes, before, start)
        if ctx.needs_input_grad[2]:
            back.at_beta = torch.zeros_like(beta)
        at_currents = back.run(at_spikes, at_membranes)
        at_start = back.carried() if ctx.needs_input_grad[1] else None
        return at_currents, at_start, back.at_beta, None


def _run(currents: Tensor, start: Tensor | None, beta: Number, dynamics: Dynamics) -> tuple[Tensor, Tensor, Tensor]:
    """Return spikes, membranes u and v (the same tensor as u where v can be had from u)."""
    steps = dynamics.steps
    shape = currents.shape if steps is None else (steps, *currents.shape)
    membranes = currents.new_empty(shape)
    spikes = torch.empty_like(membranes) if dynamics.fires else currents.new_zeros(()).expand(shape)
    before = torch.empty_like(membranes) if dynamics.empties_at_once else membranes
    inflow = currents.unbind(0) if steps is None else (currents,) * steps
    last, fired = start, None if start is None or not dynamics.fires else dynamics.fired(start)
    rows = zip(inflow, spikes.unbind(0), membranes.unbind(0), before.unbind(0), strict=True)
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
            _subtract(membrane, spike if fired is None else spike - fired, dynamics.threshold)
        fired = dynamics.fired(membrane)
    return spikes, membranes, before


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
        _subtract(out, fired, dynamics.threshold)
    elif fired is not None and dynamics.reset == "refractory":
        out.addcmul_(out, fired, value=-1)


def _subtract(membrane: Tensor, fired: Tensor, threshold: Number, sign: float = 1.0) -> None:
    if isinstance(threshold, Tensor):
        membrane.addcmul_(fired, threshold, value=-sign)
    else:
        membrane.sub_(fired, alpha=sign * threshold)


class _Backwards:
    """One pass backwards in time; the work is done in place, in as few passes over a step as there are terms."""

    def __init__(self, dynamics: Dynamics, beta: Number, spikes: Tensor, before: Tensor, start: Tensor | None) -> None:
        self.dynamics, self.beta, self.start = dynamics, beta, start
        self.spikes, self.before = spikes.unbind(0), before.unbind(0)
        self.credit: Tensor | None = None  # q_(t+1)
        self.left: Tensor | None = None  # 0 where the reset at t+1 cut u_t off
        self.at_beta: Tensor | None = None
        self.denominator, self.scratch = (torch.empty_like(self.before[0]) for _ in range(2))

    def run(self, at_spikes: Tensor | None, at_membranes: Tensor | None) -> Tensor:
        """Return the credit at the currents."""
        steps, one = len(self.before), self.before[0]
        constant = self.dynamics.steps is not None
        credits = one.new_empty((2 if constant else steps, *one.shape))  # constant: only this step's and the last one's
        buffers = credits.unbind(0)
        total = torch.zeros_like(one) if constant and steps > 1 else None
        spike_credits, membrane_credits = _steps(at_spikes, steps), _steps(at_membranes, steps)
        for t in reversed(range(steps)):
            reward = buffers[t % len(buffers)]
            self._reward(t, spike_credits[t], membrane_credits[t], out=reward)
            self._share(t, reward, silent_too=at_membranes is not None)
            if total is not None:
                total.add_(reward)
        if constant:
            return buffers[0] if total is None else total
        return credits

    def _membrane(self, t: int) -> Tensor | None:
        if t < 0:
            return self.start
        return self.before[t] * (1 - self.spikes[t]) if self.dynamics.empties_at_once else self.before[t]

    def carried(self) -> Tensor:
        """beta q_(t+1), the credit at u_t."""
        assert self.credit is not None
        carried = self.credit * self.beta
        return carried if self.left is None else carried.mul_(self.left)

    def _reward(self, t: int, at_spike: Tensor | None, at_membrane: Tensor | None, *, out: Tensor) -> None:
        """R_t."""
        membrane = self._membrane(t)
        assert membrane is not None
        if at_spike is not None:
            torch.mul(self.spikes[t], at_spike, out=out)
        else:
            out.zero_()
        if at_membrane is not None:
            out.addcmul_(membrane, at_membrane)
        if self.credit is None:
            return
        if isinstance(self.beta, Tensor) or self.left is not None:
            out.addcmul_(membrane, self.carried())
        else:
            out.addcmul_(membrane, self.credit, value=self.beta)

    def _fired(self, t: int) -> Tensor | None:
        """Which neurons begin step t with a reset."""
        last = self._membrane(t - 1)
        if last is None or not self.dynamics.fires:
            return None
        return self.spikes[t - 1] if t > 0 and self.dynamics.reset_delay else self.dynamics.fired(last)

    def _share(self, t: int, reward: Tensor, *, silent_too: bool) -> None:
        """q_t = R_t / (D_t + epsilon), in the place of R_t."""
        kept, fired, dynamics = self._membrane(t - 1), self._fired(t), self.dynamics
        self.left = 1 - fired if fired is not None and dynamics.reset in ("zero", "refractory") else None
        if kept is None:
            torch.abs(self.before[t], out=self.denominator)
        else:
            if self.left is not None and dynamics.reset == "zero":
                kept = kept * self.left
            torch.sub(self.before[t], kept, out=self.denominator)
            if fired is not None and dynamics.reset == "subtract":
                _subtract(self.denominator, fired, dynamics.threshold, sign=-1.0)
            torch.abs(kept, out=self.scratch)
            self.denominator.abs_().add_(self.scratch)
        self._divide(reward, silent_too=silent_too)
        if self.left is not None and dynamics.reset == "refractory":
            reward.mul_(self.left)
        if self.at_beta is not None and kept is not None:
            self.at_beta += (kept * reward).sum_to_size(self.at_beta.shape)
        self.credit = reward

    def _divide(self, reward: Tensor, *, silent_too: bool) -> None:
        epsilon = self.dynamics.epsilon
        empty = self.denominator == 0 if silent_too and not epsilon else None
        # a reward of 0 on a denominator of 0 stays 0; tiny changes no other denominator
        reward.div_(self.denominator.add_(epsilon or torch.finfo(reward.dtype).tiny))
        if empty is not None:
            reward.masked_fill_(empty, 0.0)


def _steps(credits: Tensor | None, steps: int) -> Sequence[Tensor | None]:
    return (None,) * steps if credits is None else credits.unbind(0)
