"""Where rewards enter: as credit at the outputs; for an output of exactly 0, where that output was computed.

An output o = 0 has no credit r / o. If o is an activation of z, the credit r / z enters at z; if o is the spike of a
silent neuron, the reward itself enters at the neuron. Both are found by following the graph back through operations
that only move values (views, cat, casts, DDP), inside the model or after it. The rewards travel back through these
operations as credit does.

torch.compile and torch.func hide the graph. There, a mark on the output says where the reward enters.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from feedprop.credit import marks
from feedprop.credit.transforms import rerouted, traced, transformed

_KEY = "feedprop.start"  # key in the metadata of the node that computed an activation; holds the pre-activation
_HELD = "_feedprop_held"
Edge = tuple[Any, int]  # a node of the graph, and which of its results
Kept = tuple[Tensor, int]  # a pre-activation, and the version of its memory
Sources = tuple[tuple[Edge, Kept | None], ...]
Entering = list[tuple[Tensor, Tensor]]  # a pre-activation and the credit there

MOVING = frozenset(  # without the number at the end, which differs in place and out of place
    f"{name}Backward"
    for name in """
    View ViewAsReal ViewAsComplex Reshape UnsafeView ReshapeAlias AsStrided Expand Squeeze Unsqueeze Transpose T
    Permute Movedim Select Slice
    Split SplitWithSizes Unbind Clone Cat Stack ToCopy Alias Contiguous Index IndexSelect Gather Flip Roll Narrow
    Unfold Diagonal Repeat ChannelShuffle PixelShuffle PixelUnshuffle UnsafeSplit UnsafeSplitWithSizes
    """.split()  # noqa: SIM905
) | {"CopyBackwards", "CopySlices", "_DDPSinkBackward", "_ChannelsFirstBackward"}
_COMPUTED = "feedprop.computed"  # in the metadata of a node that looks like a move and is none
NEURONS: list[type[Any]] = []  # node types that read the reward on their first result from `reward_on_silent`


class _Held:
    """The activations whose values a tensor holds, each with its pre-activation."""

    __slots__ = ("__weakref__", "sources")

    def __init__(self, sources: Sources) -> None:
        self.sources = sources


class Starts:
    """The activations of one forward pass that the model may still return, with their pre-activations.

    Once the model's code holds an activation no longer, it cannot be returned, and its pre-activation is freed.
    """

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, _Held]] = []

    def remember(self, output: Tensor, pre_activation: Tensor | None) -> None:
        """Note that `output` is the activation of `pre_activation`, which is None if it was overwritten."""
        if traced():
            marks.mark(output, marks.START, marks.Start(pre_activation))
            return
        if output.grad_fn is not None:
            kept = None if pre_activation is None else (pre_activation, marks.version(pre_activation))
            self._keep(output, (((output.grad_fn, output.output_nr), kept),))

    def carry(self, inputs: Iterable[Any], output: Any) -> None:
        """Note that `output` holds the values of `inputs`, moved."""
        sources = self.behind(inputs)
        if sources:
            for part in _tensors(output):
                self._keep(part, sources)

    def behind(self, inputs: Iterable[Any]) -> Sources:
        """The activations whose values `inputs` hold."""
        if not self._held:
            return ()
        held = [marks.get(part, _HELD) for part in inputs]
        found = [entry() for entry in held if entry is not None]
        return tuple(source for entry in found if entry is not None for source in entry.sources)

    def written(self, target: Tensor, sources: Sources) -> None:
        """Note that `target`, and the tensor that it is a view of, now hold values of these activations too."""
        for tensor in (target, target._base):
            if tensor is not None and sources:
                self._keep(tensor, sources)

    def _keep(self, output: Tensor, sources: Sources) -> None:
        self._held = [entry for entry in self._held if _still_held(entry)]
        held = _Held(sources)
        marks.mark(output, _HELD, weakref.ref(held))
        self._held.append((output, held))

    def finish(self, outputs: Iterable[Tensor]) -> None:
        """Store the pre-activations of what the model returns, or has stored, in their nodes, where `enter` looks."""
        if self._held:
            known = {edge: z for _, held in self._held for edge, z in held.sources}
            stored = [entry[0] for entry in self._held if _still_held(entry)]
            for output in (*outputs, *stored):
                for node, number in _behind_moves(output, known.keys()):
                    node.metadata[_KEY, number] = (known[node, number],)
            self._held = []


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)


def _references_if_alone() -> tuple[int, int]:
    """The reference counts of a tensor that only a tuple holds: by itself, and if autograd saved it."""
    activation = (torch.ones(1, requires_grad=True).clone(),)
    plain = sys.getrefcount(activation[0])
    squared = activation[0].square()
    saved = sys.getrefcount(activation[0])
    del squared
    return plain, saved


_use_count = operator.methodcaller("_use_count")  # by name: not every torch release types it
_ALONE = _references_if_alone()  # measured, because only newer releases of torch count autograd as a holder


def _still_held(entry: tuple[Tensor, _Held]) -> bool:
    """Whether other Python code holds the tensor, and so may still return it."""
    return sys.getrefcount(entry[0]) > _ALONE[_use_count(entry[0]) > 1]


def _behind_moves(output: Tensor, wanted: Any = None) -> Iterator[Edge]:
    """Yield the edges where a reward on an output of 0 may enter, behind operations that only move values.

    Args:
        output: where to begin.
        wanted: the edges to look for; default: those with a stored pre-activation, and neurons.
    """
    if output.grad_fn is None:
        return
    todo: list[Edge] = [(output.grad_fn, output.output_nr)]
    seen = set(todo)
    while todo:
        node, number = todo.pop()
        if (
            (node, number) in wanted
            if wanted is not None
            else (_KEY, number) in node.metadata or (number == 0 and isinstance(node, tuple(NEURONS)))
        ):
            yield node, number
        else:
            for edge in _moved_from(node):
                if edge not in seen:
                    seen.add(edge)
                    todo.append(edge)


def _moved_from(node: Any) -> Sequence[Edge]:
    """Return the edges whose values a node only moves; none if it computes."""
    if not (moves(node) or _is_times_one(node)) or _COMPUTED in node.metadata:
        return ()
    overwriting = type(node).__name__ == "CopyBackwards"  # its first edge leads to the overwritten values
    return [edge for edge in node.next_functions[1 if overwriting else 0 :] if edge[0] is not None]


def _sent_back(root: Edge, rewards: Tensor, ends: Iterable[Edge]) -> dict[Edge, Tensor]:
    """Send rewards back through the nodes that only move values, up to `ends`. Returns edge -> reward.

    torch.autograd.grad would not stop there: where one end was computed from another, as a spike from those of the last
    step, credit would arrive too.
    """
    stops = {node for node, _ in ends}
    moved: dict[Any, Sequence[Edge]] = {}
    todo, leading = [root[0]], Counter[Any]()  # how many edges lead to a node
    while todo:
        node = todo.pop()
        if node not in moved:
            moved[node] = () if node in stops else _moved_from(node)
            todo += [edge[0] for edge in moved[node]]
            leading.update(edge[0] for edge in moved[node])
    arrived, ready = {root: rewards}, [root[0]]
    while ready:
        node = ready.pop()
        for edge, part in zip(moved[node], _through(node, arrived) if moved[node] else (), strict=True):
            if part is not None:
                arrived[edge] = arrived[edge] + part if edge in arrived else part
            leading[edge[0]] -= 1
            if not leading[edge[0]]:
                ready.append(edge[0])
    return arrived


def _through(node: Any, arrived: dict[Edge, Tensor]) -> list[Tensor | None]:
    """Send what arrived at the results of a node through it. Returns one part for each edge of `_moved_from`."""
    back = getattr(node, "apply", node)  # a node that is written in Python has no other call
    with torch.no_grad():
        parts = back(*(arrived.get((node, number)) for number in range(len(node._input_metadata))))
    parts = parts if isinstance(parts, tuple) else (parts,)
    moved = _moved_from(node)
    return [part for edge, part in zip(node.next_functions, parts, strict=False) if edge in moved]


def moves(node: Any) -> bool:
    """Whether a node only moves values; so does the conjugate of real ones."""
    name = type(node).__name__.rstrip("0123456789")
    return name in MOVING or (name == "ConjPhysicalBackward" and not node._input_metadata[0].dtype.is_complex)


def computed(written: Tensor) -> None:
    """Note that the last write into a view computed its values: in the graph, every such write looks like a move."""
    base = written._base
    node: Any = None if base is None else base.grad_fn
    if node is not None and not traced():
        node.metadata[_COMPUTED] = True


def _is_times_one(node: Any) -> bool:
    """Whether a node multiplied by the number 1."""
    if type(node).__name__ != "MulBackward0":
        return False
    saved = [_saved(node, name) for name in ("_saved_self", "_saved_other")]
    return any(isinstance(x, Tensor) and x.ndim == 0 and not x.requires_grad and bool(x == 1) for x in saved)


def _saved(node: Any, name: str) -> Any:
    try:
        return getattr(node, name, None)
    except RuntimeError:  # it was written to, which the backward pass will refuse if it needs it
        return None


class _StartBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, reward: Tensor, credit: Tensor, silent: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(credit)
        ctx.silent = silent
        return reward

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        (credit,) = ctx.saved_tensors
        for neuron, reward in ctx.silent:
            given, now = getattr(neuron, "reward_on_silent", None), reward * scale
            neuron.reward_on_silent = now if given is None else given + now
        return credit * scale, None, None, None


def start_backward(
    reward: Tensor,
    outputs: Tensor,
    credit: Tensor,
    *,
    size: int | Tensor = 1,
    silent: tuple[tuple[Any, Tensor], ...] = (),
) -> Tensor:
    """Return -reward / size, a scalar whose `.backward()` starts the propagation with `credit` at `outputs`.

    Args:
        reward: scalar.
        outputs: any shape.
        credit: shaped like `outputs`; its sign is changed, since optimizers descend.
        size: divides the reward and the credit.
        silent: nodes of neurons, each with the reward that enters there undivided.
    """
    if transformed():
        return (reward / -size).detach() + rerouted(torch.zeros_like(outputs), (outputs, credit / -size)).sum()
    silent = tuple((neuron, undivided / -size) for neuron, undivided in silent)
    return _StartBackward.apply(outputs, reward / -size, credit / -size, silent)  # type: ignore[no-any-return]


class Entered:
    """Where the rewards on outputs of 0 enter: credit at pre-activations, rewards at neurons."""

    def __init__(self) -> None:
        self.credits: Entering = []
        self.undivided: Entering = []  # the reward start of a neuron and the reward there, where the graph is hidden
        self.silent: list[tuple[Any, Tensor]] = []  # a neuron and the reward there
        self.overwritten = False  # whether a pre-activation is needed that relu(inplace=True) overwrote
        self.written = False  # the same, for another in-place operation, later
        self.lost = 0  # number of rewarded outputs of 0 whose reward cannot enter; counted on the CPU only, where that
        # costs little


def enter(outputs: Tensor, rewards: Tensor) -> Entered:
    """Find where `rewards` enter; they are 0 except on outputs of 0."""
    entered = Entered()
    start = marks.get(outputs, marks.START)  # set where the graph is hidden
    if start is not None and start.tensor is None:
        entered.overwritten = True
    elif start is not None:
        z = start.tensor
        if start.undivided:
            entered.undivided.append((z, rewards))
        else:
            entered.credits.append((z, divided(rewards, z.detach())))
    if start is not None or traced():
        return entered
    counts = outputs.device.type == "cpu"
    if counts and not rewards.any():
        return entered
    entered.lost = int((rewards != 0).sum()) if counts else 0
    edges = list(_behind_moves(outputs))
    if not edges:
        return entered
    root: Edge = (outputs.grad_fn, outputs.output_nr)
    while type(root[0]).__name__ == "_DDPSinkBackward":  # its backward pass also has side effects in DDP
        root = root[0].next_functions[root[1]]
    arriving = _sent_back(root, rewards, edges)
    for node, number in edges:
        reward = arriving.get((node, number))
        if reward is None:
            continue
        if (_KEY, number) not in node.metadata:
            entered.silent.append((node, reward))
            entered.lost -= int((reward != 0).sum()) if counts else 0
            continue
        (kept,) = node.metadata[_KEY, number]
        z, at = (None, 0) if kept is None else kept
        if z is None:
            entered.overwritten = entered.overwritten or bool(reward.any())
        elif marks.version(z) != at:
            entered.written = entered.written or bool(reward.any())
        else:
            entered.credits.append((z, divided(reward, z.detach())))
            entered.lost -= int(((reward != 0) & (z.detach() != 0)).sum()) if counts else 0
    entered.lost = max(entered.lost, 0)  # an output that was repeated is counted more than once
    return entered


def divided(rewards: Tensor, outputs: Tensor) -> Tensor:
    """Return the credit rewards / outputs, 0 where an output is 0."""
    return (rewards / outputs).masked_fill_(outputs == 0, 0.0)
