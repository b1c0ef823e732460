"""Searches the graph of a forward pass for what no rule saw, and refuses it.

The world is closed: a parameter reaches an output through a weight node, and every node between was made by a handler,
by feedprop or by torch's own machinery. Each pass keeps a signature of the functions that it called, and counts its
nodes and those that handlers made. If these are new, the graph is searched. What is not returned, or used outside of a
pass, is found when a backward pass starts (see `outside`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from feedprop import credit
from feedprop.errors import UnknownOperationError, first_few
from feedprop.interception.contents import refuse_code, tensors_in
from feedprop.interception.unsupported import refuse_gradients_from_hooks
from feedprop.operations.elementwise import elementwise
from feedprop.operations.registry import HANDLERS

_OURS = ("feedprop", "torch")  # torch's autograd functions run models: checkpoints, DDP, FSDP, compiled regions
_OF_VIEWS = frozenset(  # nodes that autograd makes for views of tensors that were written to
    f"{name}Backward0"
    for name in """
    AsStrided View UnsafeView Reshape ReshapeAlias Alias Expand Squeeze Unsqueeze Transpose T Permute Movedim Select
    Slice Diagonal Unfold Narrow ViewAsReal ViewAsComplex Conj NegView
    """.split()  # noqa: SIM905
) | {"CopySlices"}
_MOST = 100_000  # number of graphs that are remembered


class Spans:
    """The sequence numbers of the nodes that handlers made in one pass, as ranges in ascending order.

    Attributes:
        signature: stands for the functions that were called, in this order, each with those of its arguments that
            required a gradient.
    """

    def __init__(self) -> None:
        self.bounds: list[int] = []  # begin and end of each range in turn
        self.signature = 0

    def add(self, begin: int, end: int) -> None:
        """Note that a handler made the nodes from `begin` up to but not including `end`."""
        if begin == end:
            return
        bounds = self.bounds
        while bounds and bounds[-2] >= begin:
            del bounds[-2:]
        if bounds and bounds[-1] >= begin:
            bounds[-1] = end
        else:
            bounds += (begin, end)

    def update(self, other: Spans) -> None:
        """Add the ranges of another pass."""
        for begin, end in zip(other.bounds[::2], other.bounds[1::2], strict=True):
            self.add(begin, end)

    def forget(self, before: int) -> None:
        """Forget the numbers below `before`."""
        index = bisect_right(self.bounds, before)
        self.bounds[:index] = [before] if index % 2 else []

    def count(self) -> int:
        """Return the number of nodes."""
        return sum(self.bounds[1::2]) - sum(self.bounds[::2])

    def __contains__(self, number: int) -> bool:
        return bisect_right(self.bounds, number) % 2 == 1


def required(values: Iterable[Any]) -> int:
    """Return which of these tensors require a gradient, as the bits of a number."""
    bits = 1
    for value in values:
        kind = type(value)
        if kind is Tensor:
            bits += bits + value.requires_grad
        elif kind is list or kind is tuple:
            bits = (bits << 64) + required(value)
    return bits


class Audit:
    """Searches each new graph of an attached model once; remembers graphs by signature and numbers of nodes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.known: set[tuple[int, int, int]] = set()

    def check(self, result: Any, inputs: Any, spans: Spans, *, since: int) -> None:
        """Raise if the graph of a result contains a node or a parameter that no rule saw.

        Args:
            result: what the model returned.
            inputs: what it was called with; the graph that computed them is not searched.
            spans: the nodes that handlers made.
            since: `credit.sequence_number()` before the model ran.

        Raises:
            FeedpropError: the model returned a function or generator, or hooks on it compute gradients of weights.
            UnknownOperationError: a node or parameter that no rule saw; the message has the remedy.
        """
        key = spans.signature, credit.sequence_number() - since, spans.count()
        if key in self.known:
            return
        refuse_gradients_from_hooks(self.model)
        refuse_code(result)
        given = list(tensors_in(inputs))
        ends = {tensor.grad_fn for tensor in given if tensor.grad_fn is not None}
        leaves = {id(tensor) for tensor in given}
        returned = list(tensors_in(result))
        plain = [x for x in returned if x.requires_grad and x.grad_fn is None and id(x) not in leaves]
        strays: list[str] = []
        for node in nodes_behind(returned, ends=ends):
            strays += [type(stray).__name__ for stray in _from_another_thread(node, ends, spans)]
            if node._sequence_nr() < since and not hasattr(node, "variable"):
                continue
            if not self.seen(node, spans):
                strays.append(type(node).__name__)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in leaves:
                plain.append(variable)
        self._refuse_leaves(plain)
        refuse_strays(list(dict.fromkeys(strays)))
        if len(self.known) > _MOST:
            self.known.clear()
        self.known.add(key)

    @staticmethod
    def seen(node: Any, spans: Spans) -> bool:
        """Whether a rule saw how a node was made; raise if it is of an autograd function that is not registered."""
        function = getattr(node, "_forward_cls", None)
        if function is None:
            name = type(node).__name__
            return hasattr(node, "variable") or node._sequence_nr() in spans or name in _OF_VIEWS
        function = vars(function).get("stands_for", function)
        handler = HANDLERS.get(function)
        ours = function.__module__.partition(".")[0] in _OURS
        if ours or (handler is not None and (handler is not elementwise or hasattr(node, "feedprop"))):
            return True
        name, written = f"{function.__module__}.{function.__qualname__}", function.__qualname__.split("<locals>.")[-1]
        if handler is not None:
            raise UnknownOperationError(
                f"{name} is registered, but its apply was stored before that (f = {written}.apply); "
                f"register it before, or call {written}.apply(...) itself"
            )
        raise UnknownOperationError(
            f"no rule says how credit passes {name}, a torch.autograd.Function whose backward is a gradient: "
            f"before the model runs, call feedprop.rules.register({written})(feedprop.rules.elementwise) "
            f"if it is an elementwise activation, (feedprop.rules.ordinary) if its own backward is right and calls no "
            f'autograd, or write it in torch functions; attach(model, unknown="gradient") takes the backward of every '
            f"such function"
        )

    def _refuse_leaves(self, plain: list[Tensor]) -> None:
        if not plain:
            return
        found = {id(leaf) for leaf in plain}
        names = [name for name, parameter in self.model.named_parameters() if id(parameter) in found]
        refuse_unseen(names)
        refuse_leaves([str(tuple(leaf.shape)) for leaf in plain])


def _from_another_thread(node: Any, ends: Collection[Any], spans: Spans) -> Iterator[Any]:
    """Yield nodes that were made in another thread, as far as `node` shows it: each thread has its own numbers.

    In one thread, a node has a higher number than those that it uses, but for views, which autograd makes late.
    """
    number = node._sequence_nr()
    for before, _ in node.next_functions:
        if before is None or hasattr(before, "variable") or before in ends or type(before).__name__ in _OF_VIEWS:
            continue
        if before._sequence_nr() >= number:
            yield before if number in spans and before._sequence_nr() not in spans else node


def refuse_strays(strays: Sequence[str]) -> None:
    """Raise if there are nodes, of these types, that no rule saw."""
    if strays:
        raise UnknownOperationError(
            f"{first_few(strays)} was computed where no rule sees it: in another thread, by an extension, or with "
            f"torch functions disabled; compute it in the thread that calls the model, in torch functions, or take "
            f'the gradient of all such parts by attach(model, unknown="gradient")'
        )


def refuse_leaves(shapes: Sequence[str]) -> None:
    """Raise if there are tensors, of these shapes, that require a gradient and are no parameters."""
    if shapes:
        raise UnknownOperationError(
            f"a tensor of shape {first_few(shapes)} requires a gradient, but is neither a parameter nor an input of "
            f"the model, so it would get its plain gradient; make it an nn.Parameter, or pass it to the model"
        )


def held_leaves(model: nn.Module) -> list[str]:
    """Return the shapes of the tensors that a model holds and takes for constants, although they require a gradient."""
    held = [tensor for module in model.modules() for tensor in tensors_in(_own(module))]
    return [str(tuple(x.shape)) for x in held if x.requires_grad and x.is_leaf and not isinstance(x, nn.Parameter)]


def _own(module: nn.Module) -> list[Any]:
    """Return the attributes of a module that torch knows nothing of."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, (Tensor, list, tuple, dict)) and name[0] != "_"
    ]


def refuse_unseen(names: Sequence[str]) -> None:
    """Raise if there are parameters, of these names, that were used in a pass where no rule saw it."""
    if names:
        raise UnknownOperationError(
            f"{first_few(names)}: used where no rule sees it, by an extension, in another thread, or before the "
            f"call (cached), so it would get its plain gradient; compute that part inside of forward() in torch "
            f'functions, or take the gradient of all such parts by attach(model, unknown="gradient")'
        )


def nodes_behind(
    tensors: Iterable[Tensor], *, ends: Iterable[Any] = (), stop: Callable[[Any], bool] | None = None
) -> Iterator[Any]:
    """Yield once each node that took part in the computation of `tensors`; the search ends at weight nodes.

    Args:
        tensors: any; those without a graph have no nodes.
        ends: nodes where the search ends; they are not yielded.
        stop: the search ends at nodes for which this is true; they are not yielded.
    """
    yield from walk((tensor.grad_fn for tensor in tensors), ends=ends, stop=stop)


def walk(nodes: Iterable[Any], *, ends: Iterable[Any] = (), stop: Callable[[Any], bool] | None = None) -> Iterator[Any]:
    """Yield `nodes` and what is behind them, as `nodes_behind` does."""
    yield from credit.walk(nodes, ends=ends, stop=stop, before=_before)


def _before(node: Any) -> list[Any]:
    """Return the nodes before one, but nothing that gets feedback in it: what weights, and regions, are given."""
    if isinstance(node, credit.WEIGHT_NODES):
        return []
    before = [other for other, _ in node.next_functions]
    return [other for other in before if not hasattr(other, "variable")] if credit.is_compiled(node) else before
