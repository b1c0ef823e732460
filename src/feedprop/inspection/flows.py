"""What each layer does with the reward that reaches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from feedprop.diagnosis.facts import number, table
from feedprop.inspection.batch_norm import BATCH_NORMS
from feedprop.inspection.calls import Call, Credits


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
        rows: list[tuple[str, ...]] = [("layer", "type", "at outputs", "at inputs", "biases", "gap", "gap / size")]
        for flow in (*self.layers, self.total):
            share = f"{flow.gap / flow.size:+z.1%}" if flow.size else "-"
            numbers = [number(value) for value in (flow.out, flow.into, flow.biases, flow.gap)]
            rows.append((flow.name or "(model)", flow.kind, *numbers, share))
        return table(rows)


def conservation(
    calls: list[Call], root: Call, credits: Credits, parameters: dict[str, Tensor], into: float
) -> Conservation:
    """Return the rewards at each module that ran no others.

    Args:
        calls: of the modules inside the model.
        root: the model itself.
        credits: of what left the modules.
        parameters: the relevance of each.
        into: reward at the inputs of the model.
    """
    found: dict[str, LayerFlow] = {}
    means = 0.0
    for call in calls:
        if call.outer:
            continue
        known, now = found.get(call.name), _flow(call, credits)
        if known is None:
            now = replace(now, biases=now.biases + _of_biases(call, parameters))
        else:
            sums = {name: getattr(known, name) + getattr(now, name) for name in ("out", "into", "biases", "size")}
            now = replace(now, **sums)
        found[call.name] = now
        means += _of_means(call, credits)
    total = replace(_flow(root, credits), into=into, biases=means + _of_biases(root, parameters))
    return Conservation(tuple(found.values()), total)


def _flow(call: Call, credits: Credits) -> LayerFlow:
    """Return the rewards of one call, without the biases' own."""
    shares = [credits.reward(one) for one in call.left]
    out, size = _total(shares), _total(share.abs() for share in shares)
    into = out if isinstance(call.module, nn.Embedding) else _total(_passed_on(call, credits))
    return LayerFlow(call.name, type(call.module).__name__, out, into, _of_means(call, credits), size)


def _total(shares: Iterable[Tensor]) -> float:
    return sum(float(share.double().sum()) for share in shares)


def _passed_on(call: Call, credits: Credits) -> list[Tensor]:
    """Return the reward that one call passes to each of its inputs, whatever else uses these."""
    starts = [part for one in call.left for part in credits.parts(one)]
    if not starts:
        return []
    edges, found = zip(*starts, strict=True)
    local = Credits(edges, call.entered, found)
    return [local.reward(one) for one in call.entered]


def _of_biases(call: Call, parameters: dict[str, Tensor]) -> float:
    """Return the relevance of the biases of a module."""
    prefix = f"{call.name}." if call.name else ""
    names = [f"{prefix}{name}" for name, _ in call.module.named_parameters() if "bias" in name.rpartition(".")[2]]
    return _total(parameters[name] for name in names if name in parameters)


def _of_means(call: Call, credits: Credits) -> float:
    """Return the reward that the running means of a batch norm take, -w mean / sigma for each output."""
    norm = call.module
    if not isinstance(norm, BATCH_NORMS) or norm.training or norm.running_mean is None:
        return 0.0
    if norm.running_var is None or (credit := credits.of(call.left[0])) is None:
        return 0.0
    shift = norm.running_mean * (norm.running_var + norm.eps).rsqrt()
    shift = shift if norm.weight is None else shift * norm.weight.detach()
    return -float((credit * shift.view(-1, *(1,) * (credit.ndim - 2))).double().sum())
