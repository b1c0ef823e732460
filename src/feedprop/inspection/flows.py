"""What each layer does with the reward that reaches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from feedprop.diagnosis.facts import number, table
from feedprop.inspection.calls import Call, reward


@dataclass(frozen=True)
class LayerFlow:
    """Rewards at one module, summed over samples, positions and calls.

    Args:
        name: as in `named_modules()`; "" is the model.
        kind: name of its type.
        out: reward that arrives at its outputs.
        into: reward that it passes to its inputs.
        biases: reward that biases take, and the means and offsets of batch norm in evaluation mode.
        size: absolute rewards at its outputs.
    """

    name: str
    kind: str
    out: float
    into: float
    biases: float
    size: float

    @property
    def gap(self) -> float:
        """Reward that is lost (or, below 0, added): out - into - biases."""
        return self.out - self.into - self.biases


@dataclass(frozen=True)
class Conservation:
    """What each layer did with the reward that reached it.

    Args:
        layers: one entry for each module that ran no others, in the order in which they ran.
        total: the model as a whole, from its outputs to its inputs, with what happens outside of modules.
    """

    layers: tuple[LayerFlow, ...]
    total: LayerFlow

    def __iter__(self) -> Iterator[LayerFlow]:
        return iter(self.layers)

    def __str__(self) -> str:
        rows = [("layer", "type", "at outputs", "at inputs", "biases", "gap", "gap / size")]
        for flow in (*self.layers, self.total):
            share = f"{flow.gap / flow.size:+.1%}" if flow.size else "-"
            numbers = [number(value) for value in (flow.out, flow.into, flow.biases, flow.gap)]
            rows.append((flow.name or "(model)", flow.kind, *numbers, share))
        return table(rows)


def conservation(
    calls: list[Call], root: Call, credits: dict[int, Tensor | None], parameters: dict[str, Tensor], into: float
) -> Conservation:
    """Return the rewards at each module that ran no others.

    Args:
        calls: of the modules inside the model.
        root: the model itself.
        credits: of what left the modules, by the id of the entry.
        parameters: the relevance of each.
        into: reward at the inputs of the model.
    """
    found: dict[str, LayerFlow] = {}
    last = {call.name: call for call in calls if not call.outer}
    offsets = 0.0
    for call in calls:
        if call.outer:
            continue
        flow = found.get(call.name, LayerFlow(call.name, type(call.module).__name__, 0.0, 0.0, 0.0, 0.0))
        at_outputs = [reward(one.values, credits.get(id(one))) for one in call.left]
        out = _total(at_outputs)
        passed = out if isinstance(call.module, nn.Embedding) else _total(_passed_on(call, credits))
        mean = _of_means(call, credits)
        offsets += mean
        found[call.name] = replace(
            flow,
            out=flow.out + out,
            into=flow.into + passed,
            biases=flow.biases + mean + (_of_biases(call, parameters) if last[call.name] is call else 0.0),
            size=flow.size + _total(share.abs() for share in at_outputs),
        )
    at_outputs = [reward(one.values, credits.get(id(one))) for one in root.left]
    total = LayerFlow(
        "",
        type(root.module).__name__,
        _total(at_outputs),
        into,
        offsets + _of_biases(root, parameters),
        _total(share.abs() for share in at_outputs),
    )
    return Conservation(tuple(found.values()), total)


def _total(shares: Iterable[Tensor]) -> float:
    return sum(float(share.double().sum()) for share in shares)


def _passed_on(call: Call, credits: dict[int, Tensor | None]) -> Iterator[Tensor]:
    """Yield the reward that one call passes to each of its inputs, whatever else uses these."""
    given = [one for one in call.entered if one.edge is not None]
    ends = [(one.edge, found) for one in call.left if one.edge and (found := credits.get(id(one))) is not None]
    if given and ends:
        edges, starts = zip(*ends, strict=True)
        found = torch.autograd.grad(edges, [one.edge for one in given], starts, allow_unused=True, retain_graph=True)  # type: ignore[misc, list-item]
        yield from (reward(one.values, credit) for one, credit in zip(given, found, strict=True))


def _of_biases(call: Call, parameters: dict[str, Tensor]) -> float:
    """Return the relevance of the biases of a module, and of the offsets that were merged into it."""
    prefix = f"{call.name}." if call.name else ""
    names = [f"{prefix}{name}" for name, _ in call.module.named_parameters() if "bias" in name.rpartition(".")[2]]
    return _total(parameters[name] for name in names if name in parameters)


def _of_means(call: Call, credits: dict[int, Tensor | None]) -> float:
    """Return the reward that the running means of a batch norm take, -w mean / sigma for each output."""
    norm = call.module
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.training or norm.running_mean is None:
        return 0.0
    if norm.running_var is None or (credit := credits.get(id(call.left[0]))) is None:
        return 0.0
    shift = norm.running_mean * (norm.running_var + norm.eps).rsqrt()
    shift = shift if norm.weight is None else shift * norm.weight.detach()
    return -float((credit * shift.view(-1, *(1,) * (credit.ndim - 2))).double().sum())
