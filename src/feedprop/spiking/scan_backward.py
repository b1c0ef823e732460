"""The reward of spiking neurons, backwards in time; for the formulas see `feedprop.spiking.scan`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feedprop.spiking.dynamics import Dynamics, Number, subtract


class ScanBackward:
    """One pass backwards in time, in place, with one pass over a step per term of the formulas."""

    def __init__(
        self,
        dynamics: Dynamics,
        beta: Number,
        spikes: Sequence[Tensor],
        before: Sequence[Tensor],
        start: Tensor | None,
        at_beta: Tensor | None,
    ) -> None:
        self.dynamics, self.beta, self.start, self.at_beta = dynamics, beta, start, at_beta
        self.spikes, self.before = spikes, before
        self.credit: Tensor | None = None  # q_(t+1)
        self.left: Tensor | None = None  # 0 where the reset at t+1 cut u_t off
        self.denominator, self.scratch = (torch.empty_like(before[0]) for _ in range(2))

    def run(
        self,
        at_spikes: Sequence[Tensor | None],
        at_membranes: Sequence[Tensor | None],
        at_starts: Sequence[Tensor | None],
        *,
        out: Tensor | Sequence[Tensor],
    ) -> None:
        """Write the credit at the currents to `out`: at each step to one of T tensors (B, ...), or all to one tensor.

        Spikes and membranes bring credit, reward starts the reward itself, so that it reaches silent neurons too.
        """
        steps, total = len(self.before), out if isinstance(out, Tensor) else None
        rows = [torch.empty_like(self.denominator) for _ in range(2)] if isinstance(out, Tensor) else out
        for t in reversed(range(steps)):
            reward = rows[t % len(rows)]
            if self.dynamics.additive:
                self._at_spikes(t, at_spikes[t], out=reward)
                at_membrane = self._at_membrane(t, at_membranes[t])
                self._share(t, reward, started=at_starts[t])
                if at_membrane is not None:
                    reward.add_(self._with_a_step(at_membrane))
            else:
                self._reward(t, at_spikes[t], at_membranes[t], out=reward)
                self._share(t, reward, started=at_starts[t])
            if total is not None and t == steps - 1:
                total.copy_(reward)
            elif total is not None:
                total.add_(reward)

    def _membrane(self, t: int) -> Tensor | None:
        if t < 0:
            return self.start
        return self.before[t] * (1 - self.spikes[t]) if self.dynamics.empties_at_once else self.before[t]

    def _with_a_step(self, values: Tensor) -> Tensor:
        """Drop values in the empty step of a refractory neuron, which loses its current."""
        return values * self.left if self.left is not None and self.dynamics.reset == "refractory" else values

    def _with_a_cause(self, started: Tensor) -> Tensor:
        """Drop reward where nothing moved the membrane: where D is 0, and in the empty step of a refractory neuron."""
        started = self._with_a_step(started)
        return started if self.dynamics.epsilon else started.masked_fill(self.denominator == 0, 0.0)

    def carried(self) -> Tensor:
        """Return beta q_(t+1), the credit at u_t."""
        assert self.credit is not None
        carried = self.credit * self.beta
        return carried if self.left is None else carried.mul_(self.left)

    def _at_spikes(self, t: int, at_spike: Tensor | None, *, out: Tensor) -> None:
        """Write the reward at s_t to `out`."""
        if at_spike is not None:
            torch.mul(self.spikes[t], at_spike, out=out)
        else:
            out.zero_()

    def _at_membrane(self, t: int, at_membrane: Tensor | None) -> Tensor | None:
        """Return the credit at v_t of what u_t is used for, the next step included."""
        if self.credit is not None:
            carried = self.carried()
            at_membrane = carried if at_membrane is None else carried.add_(at_membrane)
        if at_membrane is not None and self.dynamics.empties_at_once:
            at_membrane = at_membrane * (1 - self.spikes[t])
        return at_membrane

    def _reward(self, t: int, at_spike: Tensor | None, at_membrane: Tensor | None, *, out: Tensor) -> None:
        """Write R_t to `out`."""
        membrane = self._membrane(t)
        assert membrane is not None
        self._at_spikes(t, at_spike, out=out)
        if at_membrane is not None:
            out.addcmul_(membrane, at_membrane)
        if self.credit is None:
            return
        if isinstance(self.beta, Tensor) or self.left is not None:
            out.addcmul_(membrane, self.carried())
        else:
            out.addcmul_(membrane, self.credit, value=self.beta)

    def _fired(self, t: int) -> Tensor | None:
        """Return which neurons begin step t with a reset."""
        last = self._membrane(t - 1)
        if last is None or not self.dynamics.fires:
            return None
        return self.spikes[t - 1] if t > 0 and self.dynamics.reset_delay else self.dynamics.fired(last)

    def _share(self, t: int, reward: Tensor, *, started: Tensor | None) -> None:
        """Overwrite R_t by q_t = R_t / (D_t + epsilon); `started` is reward that is still to be added."""
        kept, fired, dynamics = self._membrane(t - 1), self._fired(t), self.dynamics
        self.left = 1 - fired if fired is not None and dynamics.reset in ("zero", "refractory") else None
        if kept is None:
            torch.abs(self.before[t], out=self.denominator)
        else:
            if self.left is not None and dynamics.reset == "zero":
                kept = kept * self.left
            torch.sub(self.before[t], kept, out=self.denominator)
            if fired is not None and dynamics.reset == "subtract":
                subtract(self.denominator, fired, dynamics.threshold, sign=-1.0)
            torch.abs(kept, out=self.scratch)
            self.denominator.abs_().add_(self.scratch)
        if started is not None:
            reward.add_(self._with_a_cause(started))
        # where D is 0 so is R, and stays 0: the least number changes no other denominator
        reward.div_(self.denominator.add_(dynamics.epsilon or torch.finfo(reward.dtype).tiny))
        if self.at_beta is not None and kept is not None:
            self.at_beta += (kept * reward).sum_to_size(self.at_beta.shape)
        self.credit = reward
