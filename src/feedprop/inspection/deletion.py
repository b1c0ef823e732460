"""How good an explanation is: what happens to the output when what it calls relevant is deleted first, or last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from feedprop.diagnosis.facts import table
from feedprop.diagnosis.trial import copy_without_rules, devices_of
from feedprop.errors import FeedpropError, shape_or_type
from feedprop.inspection.calls import Calls, Credits, followable
from feedprop.inspection.targets import Target, chosen


@dataclass(frozen=True, eq=False)
class Deletion:
    """The output while parts of the inputs are deleted, for an order that an explanation gives.

    Of parts with equal relevance the first one goes first in both orders.

    Args:
        shares: what share of the parts is deleted, from 0 to 1, shape (steps + 1,).
        most_first: the output of each sample when the most relevant parts go first, shape (steps + 1, batch).
        least_first: the same when the least relevant parts go first.
    """

    shares: Tensor
    most_first: Tensor
    least_first: Tensor

    @property
    def area(self) -> Tensor:
        """The area between the two curves for each sample, shape (batch,), in the unit of the output.

        The larger, the better the order; 0 for one that knows nothing. Called symmetric relevance gain by Bluecher et
        al. 2024.
        """
        return torch.trapezoid(self.least_first - self.most_first, self.shares, dim=0)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("deleted", "most relevant first", "least relevant first")]
        for share, most, least in zip(self.shares, self.most_first.mean(1), self.least_first.mean(1), strict=True):
            rows.append((f"{float(share):.0%}", f"{float(most):.4f}", f"{float(least):.4f}"))
        return f"{table(rows)}\narea between them: {float(self.area.mean()):.4f}"


def deletion(
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    relevance: Tensor,
    target: Target = None,
    *,
    baseline: float | Tensor = 0.0,
    patch: int | None = None,
    steps: int = 20,
    kept: Tensor | None = None,
) -> Deletion:
    """Delete parts of the inputs step by step, in the order of their relevance, and record the output.

    Args:
        model: takes a tensor like `inputs`. It runs without gradients, 2 steps + 1 times, in the mode that it is in.
        inputs: (batch, ...) numbers, or tokens (batch, positions).
        relevance: shaped like `inputs`; of images, also without the channels, (batch, height, width).
        target: the output that is recorded, as for `feedprop.relevance`; a function may return a probability.
        baseline: what deleted parts become: a number, such as 0 for the mean of normalised images or the token of a
            mask, or a tensor that broadcasts to `inputs`, such as a blurred copy.
        patch: images (batch, channels, height, width) are deleted in squares of this side, with all channels, by the
            sum of their relevance; without it, each number or token is a part of its own.
        steps: > 0; how many parts of equal size are deleted one after the other, until nothing is left.
        kept: True, shaped like `inputs`, at what is never deleted and does not count, such as the padding of texts.

    Raises:
        FeedpropError: shapes do not fit, or relevance or the baseline cannot be used.

    >>> inputs = torch.tensor([[3.0, 2.0, 1.0]])
    >>> found = deletion(lambda x: x.sum(1), inputs, relevance=inputs, steps=3)
    >>> found.most_first.flatten().tolist(), found.least_first.flatten().tolist()
    ([6.0, 3.0, 1.0, 0.0], [6.0, 5.0, 3.0, 0.0])
    """
    if not isinstance(steps, int) or steps < 1:
        raise FeedpropError(f"steps must be a whole number above 0, not {steps!r}")
    scores, spread = _parts(inputs, _checked(inputs, relevance), patch)
    if kept is not None and (patch is not None or kept.shape != inputs.shape or kept.dtype is not torch.bool):
        raise FeedpropError(
            f"kept must be boolean and shaped like the inputs {tuple(inputs.shape)}, without patch; got "
            f"{kept.dtype} {tuple(kept.shape)}"
        )
    free = torch.ones_like(scores, dtype=torch.bool) if kept is None else ~kept.to(scores.device).flatten(1)
    number = free.sum(1, keepdim=True)
    most_first, least_first = (
        values.masked_fill(~free, torch.inf).argsort(dim=1, stable=True).argsort(1) for values in (-scores, scores)
    )
    baseline = _baseline(inputs, baseline)
    counts = [(number * step / steps).round() for step in range(steps + 1)]

    def output(deleted: Tensor) -> Tensor:
        with torch.no_grad():
            values = chosen(model(torch.where(spread(deleted), baseline, inputs)), target)
        return values.detach().double().cpu()

    whole, nothing = (output(most_first < count) for count in (counts[0], counts[-1]))
    most, least = ([output(ranks < count) for count in counts[1:-1]] for ranks in (most_first, least_first))
    shares = torch.stack([(count.double() / number.clamp(min=1)).mean() for count in counts]).cpu()
    return Deletion(shares, torch.stack([whole, *most, nothing]), torch.stack([whole, *least, nothing]))


def _checked(inputs: Tensor, relevance: Any) -> Tensor:
    """Return relevance in float64, on the device of the inputs; refuse what gives no order."""
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or not len(inputs):
        raise FeedpropError(
            f"deletion() takes inputs (batch, ...) of at least one sample as one tensor, got {shape_or_type(inputs)}"
        )
    values = torch.as_tensor(relevance).detach().to(inputs.device)
    if values.is_complex() or not bool(values.isfinite().all()):
        what = "is complex" if values.is_complex() else "has NaN or infinity"
        raise FeedpropError(f"the relevance {what}, so it says not what to delete first; give real, finite numbers")
    return values.double()


def _baseline(inputs: Tensor, baseline: float | Tensor) -> Tensor:
    """Return what deleted parts become, in the dtype and on the device of the inputs."""
    given = torch.as_tensor(baseline, device=inputs.device)
    values = given.to(inputs.dtype)
    whole = inputs.is_floating_point() or inputs.is_complex() or bool((values == given).all())
    if not whole or not bool(given.isfinite().all()):
        raise FeedpropError(f"baseline must be finite and a value that {inputs.dtype} can have, not {baseline!r}")
    try:
        return values.expand(inputs.shape)
    except RuntimeError:
        raise FeedpropError(
            f"baseline must be a number or broadcast to the inputs {tuple(inputs.shape)}, got {tuple(values.shape)}"
        ) from None


def _parts(inputs: Tensor, relevance: Tensor, patch: int | None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the relevance of each part, (batch, parts), and a function from masks of parts to masks of inputs."""
    without_channels = inputs.ndim == 4 and relevance.shape == (inputs.shape[0], *inputs.shape[2:])
    if relevance.shape != inputs.shape and not without_channels:
        raise FeedpropError(
            f"relevance must be shaped like the inputs {tuple(inputs.shape)}, or like images without their channels; "
            f"got {tuple(relevance.shape)}"
        )
    if patch is None and not without_channels:
        return relevance.flatten(1), lambda mask: mask.view(inputs.shape)
    if inputs.ndim != 4:
        raise FeedpropError(f"patch is for images (batch, channels, height, width), got {tuple(inputs.shape)}")
    patch, (height, width) = patch or 1, inputs.shape[2:]
    if not isinstance(patch, int) or patch < 1:
        raise FeedpropError(f"patch must be a whole number above 0, not {patch!r}")
    image = relevance if without_channels else relevance.sum(1)
    padded = functional.pad(image, (0, -width % patch, 0, -height % patch))
    rows, columns = padded.shape[1] // patch, padded.shape[2] // patch
    sums = padded.view(-1, rows, patch, columns, patch).sum((2, 4))

    def spread(mask: Tensor) -> Tensor:
        squares = mask.view(-1, rows, columns).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        return squares[:, None, :height, :width]

    return sums.flatten(1), spread


def baselines(
    model: nn.Module, inputs: Tensor, target: Target = None, *, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Return what an explanation must beat: "random", "gradient" (its size) and "gradient times input".

    Args:
        model: it stays as it is; what is attached to it does not count.
        inputs: (batch, ...) numbers, or tokens (batch, positions), which have the gradient at their embeddings.
        target: as for `feedprop.relevance`.
        generator: of the random numbers, on the CPU.

    Each is shaped like `inputs`.
    """
    if not isinstance(inputs, Tensor):
        raise FeedpropError(f"baselines() takes inputs (batch, ...) as one tensor, not {type(inputs).__name__}")
    random = torch.rand(inputs.shape, generator=generator).to(inputs.device)
    with torch.enable_grad(), torch.random.fork_rng(devices=devices_of(model)):
        copied = copy_without_rules(model, "baselines()")
        calls = Calls(copied, nn.Embedding)
        leaf = inputs.detach().clone().requires_grad_(followable(inputs))
        value = chosen(copied(leaf.clone() if leaf.requires_grad else leaf), target).sum()
    if leaf.requires_grad:
        gradient = Credits(value, [leaf]).of(leaf)
        gradient = torch.zeros_like(inputs) if gradient is None else gradient
        return {"random": random, "gradient": gradient.abs(), "gradient times input": gradient * inputs.detach()}
    found = [one for call in calls.finished for one in call.left if one.values.shape[:-1] == inputs.shape]
    if not found:
        raise FeedpropError("no nn.Embedding looks these integers up, so they have no gradient; pass numbers")
    credits = Credits(value, found)
    size = torch.stack([torch.zeros_like(one.values) if (c := credits.of(one)) is None else c for one in found])
    product = torch.stack([credits.reward(one).sum(-1) for one in found]).sum(0)
    return {"random": random, "gradient": size.norm(dim=-1).sum(0), "gradient times input": product}
