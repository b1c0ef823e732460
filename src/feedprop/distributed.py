"""A communication hook for DistributedDataParallel: processes send the largest entries of their feedback alone.

    model = nn.parallel.DistributedDataParallel(feedprop.attach(model))
    model.register_comm_hook(TopKState(model, share=0.01), topk_hook)

What a process leaves out, it adds to the feedback of its next step (error feedback; Stich et al. 2018, "Sparsified SGD
with Memory", algorithm 1), for each parameter by itself. The hook compresses ordinary gradients in the same way.
"""

# DistributedDataParallel compares the annotations of a hook as objects: no `from __future__ import annotations` here.
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from feedprop.errors import FeedpropError, first_few

__all__ = ["TopKState", "topk_hook"]

Bucket: TypeAlias = dist.GradBucket  # type: ignore[attr-defined, name-defined]  # exported, but not for type checkers


class TopKState:
    """What `topk_hook` needs to know, and what it keeps for the next step: one object for each process and model.

    A parameter whose feedback is exactly 0 in a step sends nothing of what was kept for it, because
    `DistributedDataParallel` drops what arrives for a parameter that no process used. Feedback that is NaN or infinite
    arrives as such on all processes, and is not kept.

    Args:
        model: the wrapped model, or the one inside, whose parameters get names here.
        share: of each parameter's entries, the share that is sent, 0 < share <= 1; at least one entry.
        warm_up: the first steps, in which everything is sent by torch's own all-reduce.
        whole_below: parameters with fewer entries than this are sent whole, such as biases and normalisations.
        process_group: the processes that average; those of the wrapped model, or else all, if not given.

    Raises:
        FeedpropError: an argument is out of range.
    """

    steps: int
    """Steps so far, warm-up included."""
    kept: dict[str, Tensor]
    """What was left out so far, by the name of the parameter: of its shape, float32 for float16 and bfloat16."""

    def __init__(
        self,
        model: nn.Module,
        share: float = 0.01,
        *,
        warm_up: int = 0,
        whole_below: int = 1000,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if not 0 < share <= 1:
            raise FeedpropError(f"share must be above 0 and at most 1, as 0.01 for a hundredth, got {share!r}")
        for name, value in (("warm_up", warm_up), ("whole_below", whole_below)):
            if not isinstance(value, int) or value < 0:
                raise FeedpropError(f"{name} must be a whole number and not negative, got {value!r}")
        if isinstance(model, DistributedDataParallel):
            process_group = process_group or model.process_group
            model = model.module
        self.share, self.warm_up, self.whole_below = share, warm_up, whole_below
        self.process_group = process_group
        self.steps, self.kept = 0, {}
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this process. Each process has its own, and must save and load it."""
        return {"steps": self.steps, "kept": dict(self.kept), "process": self._process()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned on the same process of as many.

        Raises:
            FeedpropError: the state is of another process, of another number of processes, or of another model.
        """
        process, parameters = self._process(), {name: parameter for parameter, name in self._names.items()}
        if tuple(state["process"]) != process:
            saved, here = ("process {} of {}".format(*number) for number in (state["process"], process))
            raise FeedpropError(
                f"this state was saved by {saved}, and this is {here}, which kept something else; save the state of "
                f"every process, and start without it if their number has changed"
            )
        kept = state["kept"]
        wrong = [name for name in kept if name not in parameters or kept[name].shape != parameters[name].shape]
        if wrong:
            raise FeedpropError(
                f"this state is of another model: it kept something for {first_few(wrong)}, and the model that this "
                f"TopKState was made for has no such parameters, or of other shapes"
            )
        self.steps = state["steps"]
        self.kept = {
            name: torch.empty_like(parameters[name], dtype=value.dtype, requires_grad=False).copy_(value)
            for name, value in kept.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"process_group": None}  # cannot be pickled; all processes, once unpickled

    def _process(self) -> tuple[int, int]:
        return dist.get_rank(self.process_group), dist.get_world_size(self.process_group)

    def _take(self, parameter: Tensor, feedback: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions and values of what is sent of a parameter's feedback, and keep the rest.

        Everything is flat, in the order of the parameter's memory, as in a bucket. Nothing waits for the device.
        """
        if parameter not in self._names:
            raise FeedpropError(
                f"a parameter of shape {tuple(parameter.shape)} was not in the model that this TopKState was made for; "
                f"make the state of the model that the hook is registered on, once it has all its parameters"
            )
        name, count = self._names[parameter], feedback.numel()
        before = self.kept.get(name)
        if before is None:
            dtype = torch.promote_types(feedback.dtype, torch.float32)
            before = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        after = torch.empty_like(before)
        old, new = (tensor.as_strided((count,), (1,)) for tensor in (before, after))
        whole = old + feedback
        if count < self.whole_below or self.share == 1:
            positions = torch.arange(count, device=feedback.device)
        else:
            positions = _largest(whole.abs(), max(1, round(self.share * count)))
        values = torch.where(feedback.any(), whole[positions], 0)
        whole[positions] -= values
        torch.where(values.isfinite().all(), whole, old, out=new)  # NaN and infinity are among the largest
        self.kept[name] = after
        return positions, values


def topk_hook(state: TopKState, bucket: Bucket) -> torch.futures.Future[Tensor]:
    """Average the largest entries of each parameter's feedback over all processes, bit for bit the same on each.

    A process sends a position (4 bytes) and a value for each entry, to every other process. Against an all-reduce of
    everything in float32, this saves bytes with fewer than 1 / share processes.

    Raises:
        FeedpropError: a parameter is not one of the state's model, is complex, or has sparse gradients.
    """
    buffer: Tensor = bucket.buffer()
    group = cast(dist.ProcessGroup, state.process_group or dist.group.WORLD)
    if buffer.is_sparse:
        raise FeedpropError("topk_hook takes no sparse gradients; make the embedding with sparse=False")
    if any(parameter.is_complex() for parameter in bucket.parameters()):  # torch hands half of their gradients to hooks
        raise FeedpropError("topk_hook takes no complex parameters; keep real and imaginary parts in two parameters")
    warming_up = state.steps < state.warm_up
    state.steps += bucket.is_last()
    if warming_up:
        return allreduce_hook(group, bucket)
    message, kinds, sizes = _packed(state, bucket)
    received = message.new_empty((dist.get_world_size(group), len(message)))
    work = dist.all_gather(list(received), message, group=group, async_op=True)

    def average(future: torch.futures.Future[Any]) -> Tensor:
        future.value()  # raises if a process was lost
        total = torch.zeros_like(buffer, dtype=kinds[0])
        for row in received:  # one after the other, so that every process rounds in the same way
            values, positions = (part.clone().view(kind) for part, kind in zip(row.split(sizes), kinds, strict=True))
            total.index_add_(0, positions, values)
        return buffer.copy_(total / len(received))

    averaged: torch.futures.Future[Tensor] = work.get_future().then(average)
    return averaged


def _largest(magnitudes: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` largest; NaN is larger than any number.

    On a CPU, topk takes a quarter of the time if a sample first tells which entries cannot be among them.
    """
    if magnitudes.is_cpu and 8 * count < len(magnitudes) > 100_000:
        sample = magnitudes[::61]  # prime, or else it might be a few columns of the weight
        threshold = sample.topk(2 * count // 61 + 1).values[-1]
        candidates = (magnitudes < threshold).logical_not_().nonzero().flatten()
        if len(candidates) >= count:
            return candidates[magnitudes[candidates].topk(count, sorted=False).indices]
    return magnitudes.topk(count, sorted=False).indices


def _packed(state: TopKState, bucket: Bucket) -> tuple[Tensor, list[torch.dtype], list[int]]:
    """Return the bytes of all values and of their positions in the bucket, with the types and sizes of both parts."""
    buffer, positions, values = bucket.buffer(), [], []
    for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
        offset = gradient.storage_offset() - buffer.storage_offset()
        taken = state._take(parameter, buffer[offset : offset + gradient.numel()])
        positions.append(taken[0] + offset)
        values.append(taken[1])
    index = torch.int32 if buffer.numel() < 2**31 else torch.int64
    parts = [torch.cat(values), torch.cat(positions).to(index)]
    data = [part.view(torch.uint8) for part in parts]
    return torch.cat(data), [part.dtype for part in parts], [len(part) for part in data]
