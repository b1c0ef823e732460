"""The contract of a reward: it enters at the outputs, divided by their number or not."""

from __future__ import annotations

import warnings
from typing import Any, Self

import torch
from torch import Tensor, nn

from feedprop import credit
from feedprop.errors import NUMBERS, FeedpropError, shape_or_type


class _Prepared(nn.Module):
    """A module that works even where a subclass forgets super().__init__()."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        nn.Module.__init__(made)
        return made


class Reward(_Prepared):
    """What outputs are worth, given targets. To write your own, define `per_output`; nothing else is needed.

    Define `credit` instead where a formula for r_o / o is known, so that nothing is divided by outputs near 0. "mean"
    divides by `samples`.

    Args:
        reduction: "mean" divides as torch's loss of the same shape does, where there is one, else by the batch size;
            "sum" does not divide (the published implementation).
    """

    reduction = "mean"  # for a subclass whose __init__ does not call this one

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise FeedpropError(f'reduction must be "mean" or "sum", not {reduction!r}')
        self.reduction = reduction

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return minus the mean (or summed) reward, a scalar whose `.backward()` starts the propagation.

        Args:
            outputs: (batch, ...) as the attached model returned them.
            targets: see the class.

        Raises:
            FeedpropError: the outputs or targets cannot be rewarded, or `per_output` or `credit` is missing or returns
                something else than a finite number for each output.
        """
        check_outputs(outputs)
        values = in_single_precision(outputs.detach())
        self._look_at(values)
        targets = self.prepare(values, targets)
        if not self._divides():
            return self._started(outputs, targets, self._checked("credit", self.credit(values, targets), values))
        size = self._size(outputs, targets)
        rewards = self._checked("per_output", self.per_output(values, targets), values)
        on_zeros = rewards.masked_fill(values != 0, 0.0)
        entered = credit.enter(outputs, on_zeros)
        if entered.overwritten:
            raise FeedpropError(
                f"{type(self).__name__} rewards outputs of exactly 0, but relu(inplace=True) overwrote what they were "
                f"computed from; write the last ReLU without inplace"
            )
        if entered.written:
            raise FeedpropError(
                f"{type(self).__name__} rewards outputs of exactly 0, but an in-place operation later overwrote what "
                f"they were computed from; write that operation out of place"
            )
        if entered.lost and outputs.grad_fn is not None:
            _warn_of_lost(entered.lost, values.numel())
        start = credit.start_backward(
            rewards.sum(), outputs, credit.divided(rewards, values), size=size, silent=tuple(entered.silent)
        )
        for z, credits in (*self._at_pre_activations(entered.credits), *entered.undivided):
            start = start + credit.start_backward(torch.zeros_like(start), z, credits, size=size)
        return start

    def _look_at(self, outputs: Tensor) -> None:
        """Warn of outputs that a reward is not meant for."""

    def _divides(self) -> bool:
        """Whether the credit is r_o / o, so that rewards on outputs of 0 must enter elsewhere."""
        return type(self).credit is Reward.credit

    def _at_pre_activations(self, entering: credit.Entering) -> credit.Entering:
        """Return the credit at the pre-activations of outputs of 0, given reward / z for each such tensor z."""
        return entering

    def prepare(self, outputs: Tensor, targets: Any) -> Any:
        """Check the targets once; `credit`, `per_output` and `samples` take what this returns as well as targets."""
        return targets

    def per_output(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return r_o, shaped like `outputs`: above 0 where an output should grow in size, below 0 where it should fall.

        Args:
            outputs: (batch, ...), without gradient; float32 or float64.
            targets: as the reward was called with them, or what `prepare` made of them.
        """
        if type(self).credit is Reward.credit:
            raise FeedpropError(
                f"{type(self).__name__} does not say what outputs are worth: define "
                f"per_output(self, outputs, targets), which returns one number for each output"
            )
        outputs = outputs.detach()
        return outputs * self.credit(outputs, targets)

    def credit(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return c_o = r_o / o, shaped like `outputs`; 0 where o is 0, unless a reward knows its limit."""
        return credit.divided(self.per_output(outputs, targets), outputs.detach())

    def _checked(self, method: str, answer: Any, outputs: Tensor) -> Tensor:
        """Return what a method gave for each output, in the dtype of the outputs; raise if that cannot be used."""
        rewards = self._shaped(method, answer, outputs).detach().to(outputs.dtype)
        wrong = credit.not_finite(rewards)
        if wrong and outputs.isfinite().all():
            raise FeedpropError(
                f"{type(self).__name__}.{method}() gave NaN or infinity for {wrong} of {rewards.numel()} outputs, "
                f"all of which are finite: check the targets, and what it divides by or takes the logarithm of"
            )
        return rewards

    def _shaped(self, method: str, answer: Any, outputs: Tensor) -> Tensor:
        """Return what a method gave for each output; raise if it is anything else than one real number for each."""
        name = f"{type(self).__name__}.{method}()"
        if not isinstance(answer, Tensor) or answer.is_complex() or answer.layout is not torch.strided:
            kind = type(answer).__name__
            if isinstance(answer, Tensor):
                kind = str(answer.dtype if answer.is_complex() else answer.layout)
            raise FeedpropError(f"{name} must return a tensor of real numbers, shaped like the outputs, not {kind}")
        if answer.shape != outputs.shape:
            raise FeedpropError(
                f"{name} must return one number for each output, shaped {tuple(outputs.shape)}, "
                f"got shape {tuple(answer.shape)}"
            )
        if answer.device != outputs.device:
            raise FeedpropError(
                f"{name} must return a tensor on the device of the outputs, {outputs.device}, not {answer.device}"
            )
        return answer

    def _started(self, outputs: Tensor, targets: Any, credits: Tensor) -> Tensor:
        values = outputs.detach()
        return credit.start_backward((values * credits).sum(), outputs, credits, size=self._size(outputs, targets))

    def _size(self, outputs: Tensor, targets: Any) -> int | Tensor:
        if self.reduction != "mean":
            return 1
        size = self.samples(outputs.detach(), targets)
        if not (size.numel() == 1 if isinstance(size, Tensor) else isinstance(size, NUMBERS) and size > 0):
            found = repr(size) if isinstance(size, NUMBERS) else shape_or_type(size)
            raise FeedpropError(
                f"{type(self).__name__}.samples() must return what to divide by, one number above 0, not {found}"
            )
        return size

    def samples(self, outputs: Tensor, targets: Any) -> int | Tensor:
        """Return what "mean" divides by."""
        return outputs.shape[0] if outputs.ndim else 1

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


def _warn_of_lost(lost: int, total: int) -> None:
    warnings.warn(
        f"{lost} of {total} outputs are rewarded but exactly 0, and their rewards cannot enter: what they were "
        f"computed from is 0 too, or is not known since they were summed, multiplied or computed outside of an "
        f"attached model; reward the outputs as the attached model returns them",
        stacklevel=4,
    )


def in_single_precision(values: Tensor) -> Tensor:
    """Return half precision as float32, as autocast does for losses: a mean over many targets needs its range."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def check_outputs(outputs: Tensor) -> None:
    """Raise if outputs cannot be rewarded."""
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        kind = str(outputs.dtype) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise FeedpropError(f"a reward needs floating-point outputs, not {kind}: pass the tensor the model returned")
    if outputs.numel() == 0:
        raise FeedpropError(f"a reward needs at least one output, got shape {tuple(outputs.shape)}: skip empty batches")


def check_targets(reward: Reward, targets: Any) -> None:
    """Raise if targets are no tensor of real numbers."""
    if not isinstance(targets, Tensor) or targets.is_complex():
        kind = str(targets.dtype) if isinstance(targets, Tensor) else type(targets).__name__
        raise FeedpropError(
            f"{type(reward).__name__} takes targets as a tensor of real numbers, not {kind}: pass "
            f"torch.as_tensor(targets)"
        )


def check_same_shape(reward: Reward, outputs: Tensor, targets: Tensor) -> None:
    """Raise if targets are not shaped like the outputs."""
    check_targets(reward, targets)
    if targets.shape != outputs.shape:
        raise FeedpropError(
            f"{type(reward).__name__} takes targets shaped like the outputs, got {tuple(targets.shape)} "
            f"for outputs {tuple(outputs.shape)}: pass targets.view_as(outputs)"
        )


def check_range(classes: Tensor, number: int) -> None:
    """Raise if a class is not below `number`, where values can be read."""
    if not credit.readable(classes):
        return
    low, high = (int(bound) for bound in torch.aminmax(classes))
    if low < 0 or high >= number:
        raise FeedpropError(
            f"label {low if low < 0 else high} is out of range: the model has {number} outputs, "
            f"so labels go from 0 to {number - 1}"
        )
