"""Searches the graph of a backward pass for parameters of attached models that were used outside of passes.

There, parameters get plain gradients. That is right for penalties, functions of parameters alone that are added to the
loss; every other use is refused. Inside of passes, the search finds what the audit of their results did not reach:
tensors that a model stored, or a hook collected, and that reach the loss without being returned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from feedprop import credit
from feedprop.errors import FeedpropError, first_few
from feedprop.interception.audit import Audit, nodes_behind, refuse_strays, refuse_unseen, walk
from feedprop.interception.passes import ATTACHED, PASSES, in_a_pass
from feedprop.interception.regions import Traced, is_region, region_of

# Nodes that combine two operands, in layers an input and a weight -> which edge leads to the first of them
_PRODUCTS = dict.fromkeys(
    """
    Mm Bmm Mv Dot Convolution ConvolutionOverrideable MkldnnConvolution CudnnConvolution Linear Cdist Trilinear
    NativeBatchNorm CudnnBatchNorm NativeLayerNorm NativeGroupNorm FusedRmsNorm Embedding EmbeddingBag
    PreluKernel MkldnnRnnLayer CudnnRnn ThnnFusedLstmCell ThnnFusedGruCell
    """.split(),  # noqa: SIM905
    0,
) | dict.fromkeys(("Addmm", "Baddbmm", "Addmv"), 1)
_LISTING = {"Stack", "Cat"}
_ADDING = {"Add", "Sub", "Rsub", "CopySlices", *_LISTING}  # how a penalty joins a loss
_REPEATING = {"Expand", "Repeat"}

# What a node is a function of: of anything, or of parameters alone, with constants that are no larger
ANYTHING, WEIGHTS = 0, 1
ATTACHED_WEIGHTS = 2  # some of them are of attached models
REDUCED = 4  # by a sum, a norm or a largest value
REPEATED = 8  # as often as a batch needs it

Edges = tuple[tuple[Any, int], ...]


def refuse_plain_gradients(roots: Iterable[Tensor]) -> None:
    """Raise if parameters of an attached model would get plain gradients by other uses than penalties.

    Raises:
        FeedpropError: they were used outside of its passes; the message names them, and the remedies.
        UnknownOperationError: no rule saw how something was computed inside of a pass.
    """
    search = _Search({id(parameter) for model in _models() for parameter in model.parameters()}, PASSES)
    for root in roots:
        search.look_behind(root.grad_fn)
    refuse_strays(search.strays)
    for model in _models() if search.unseen else ():
        refuse_unseen(_names(model, search.unseen))
    used = {id(leaf) for leaf in search.leaves()}
    for model in _models() if used else ():
        names, kind = _names(model, used), type(model).__name__
        if names:
            penalty = ", or add a penalty outside of what torch.compile compiles" if search.compiled else ""
            raise FeedpropError(
                f"{first_few(names)} of the attached {kind}: used outside of its forward(), or in one that was called "
                f"with gradients off, so it would get its plain gradient; call the {kind} itself, with gradients on, "
                f"move that use into its forward() (also from a __call__ of its own), attach the part that is called, "
                f'name the method that uses it, attach(model, methods=("encode", ...)), or detach the model first'
                f"{penalty}"
            )


def refuse_second_derivatives(roots: Iterable[Tensor]) -> None:
    """Raise if a backward pass that is to be differentiated itself goes through an attached model."""
    if any(in_a_pass(node) or isinstance(node, credit.WEIGHT_NODES) for node in nodes_behind(roots)):
        raise FeedpropError(
            "create_graph=True asks for the derivative of what an attached model passes back, but credit has none; "
            "take gradients that are to be differentiated (penalties, Hessians) after feedprop.detach(model)"
        )


def _models() -> Iterator[nn.Module]:
    return (model for model in ATTACHED if "_modules" in vars(model))  # without copies that are not filled yet


def inputs_used_plainly(inputs: Sequence[Any], outputs: Iterable[Any], passes: Traced) -> tuple[int, ...]:
    """Return the positions of the parameters that what torch.compile traced uses without rules, unless for penalties.

    Args:
        inputs: fake tensors, those that require a gradient. Any parameter may be one of an attached model.
        outputs: what it computes from them.
        passes: of attached models in it.
    """
    search = _Search({id(value) for value in inputs if isinstance(value, nn.Parameter)}, passes)
    for output in outputs:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            search.look_behind(output.grad_fn)
            if search.kinds[output.grad_fn] & ATTACHED_WEIGHTS and output.numel() != 1:
                search.outside.append(output.grad_fn)
    used = {id(leaf) for leaf in search.leaves()}
    return tuple(position for position, value in enumerate(inputs) if id(value) in used)


def _names(model: nn.Module, found: set[int]) -> list[str]:
    return [name for name, parameter in model.named_parameters() if id(parameter) in found]


class _Search:
    """A search of one graph, from what was computed first to its results."""

    def __init__(self, attached: set[int], passes: Any) -> None:
        self.attached = attached  # ids of the parameters that are meant
        self.passes = passes
        self.kinds: dict[Any, int] = {None: ANYTHING}  # of the nodes; None stands for constants
        self.strays: list[str] = []  # types of nodes in passes that no handler made
        self.unseen: set[int] = set()  # ids of parameters that were used in passes, but not as weights
        self.compiled = False  # whether some of them are in compiled regions
        self.outside: list[Any] = []  # nodes that are functions of parameters and were used outside of passes

    def look_behind(self, root: Any) -> None:
        """Look at all nodes behind one, and at itself."""
        todo, waiting = [root], dict[Any, Edges]()
        while todo:
            node = todo[-1]
            if node not in self.kinds:
                edges = waiting.pop(node, None)
                if edges is None:
                    edges = () if isinstance(node, credit.WEIGHT_NODES) else node.next_functions
                    before = [other for other, _ in edges if other not in self.kinds]
                    if before:
                        waiting[node] = edges
                        todo += before
                        continue
                self.kinds[node] = self._kind(node, edges)
            todo.pop()

    def _kind(self, node: Any, edges: Edges) -> int:
        used = [edge for edge in edges if self.kinds[edge[0]] & ATTACHED_WEIGHTS]
        number = node._sequence_nr()
        if number in self.passes.all:
            if number not in self.passes.lenient:
                self._look_inside(node, [other for other, _ in used])
            return ANYTHING
        if credit.is_compiled(node):
            compiled = self._used_in_region(node, used)
            self.outside += compiled
            self.compiled = self.compiled or bool(compiled)
            return ANYTHING
        variable = getattr(node, "variable", None)
        if variable is not None:
            weights = ATTACHED_WEIGHTS | WEIGHTS if id(variable) in self.attached else WEIGHTS
            return weights if isinstance(variable, nn.Parameter) else ANYTHING
        if used and self._is_used(node, edges, used):
            self.outside += [other for other, _ in used]
            return ANYTHING
        kinds = [self.kinds[other] for other, _ in edges if other is not None]
        if not kinds or ANYTHING in kinds:
            return ANYTHING
        kind = WEIGHTS | (ATTACHED_WEIGHTS if used else 0)
        reduces = math.prod(_shape(node)) < max(math.prod(_shape(*edge)) for edge in edges if edge[0] is not None)
        if (reduces and not credit.moves(node)) or all(before & REDUCED for before in kinds):
            return kind | REDUCED
        repeats = _name(node) in _REPEATING and _grows(edges[0], node)
        return kind | (REPEATED if repeats or any(before & REPEATED for before in kinds) else 0)

    def _look_inside(self, node: Any, used: list[Any]) -> None:
        """Look at a node of a pass, and at the functions of parameters alone that it used."""
        if not Audit.seen(node, self.passes.handled):
            self.strays.append(type(node).__name__)
        if not credit.is_compiled(node):  # where rules see them
            self.unseen |= {id(other.variable) for other in used if hasattr(other, "variable")}
        self.outside += [other for other in used if not hasattr(other, "variable")]

    def _used_in_region(self, node: Any, used: list[tuple[Any, int]]) -> list[Any]:
        """Return the nodes of functions of parameters that a compiled region uses without rules."""
        if not is_region(node):
            return []
        region, before = region_of(node), [other for other, _ in node.next_functions if other is not None]
        leaves = [other for other, _ in used if hasattr(other, "variable")]
        computed = [other for other, _ in used if not hasattr(other, "variable")]
        penalty = math.prod(_shape(node)) == 1 and all(self.kinds[other] & WEIGHTS for other in before)
        if region is None:
            return [] if penalty else leaves + computed
        if len(before) == region.inputs:  # otherwise it is in several parts, as for DistributedDataParallel
            plain = [before[position] for position in region.plain]
            leaves = [other for other in leaves if other in plain]
        elif not region.plain:
            leaves = []
        return leaves if penalty and not region.passes else leaves + computed

    def leaves(self) -> Iterator[Tensor]:
        """Yield the tensors behind what was used outside of passes."""
        for node in walk(self.outside, stop=lambda node: node._sequence_nr() in self.passes.all):
            if hasattr(node, "variable"):
                yield node.variable

    def _is_used(self, node: Any, edges: Edges, used: list[tuple[Any, int]]) -> bool:
        """Whether a node combines functions of parameters with others, and not as a penalty is added to a loss."""
        name = _name(node)
        if name in _PRODUCTS:
            operands = edges[_PRODUCTS[name] :][:2]
            return len(operands) < 2 or any(self.kinds[other] == ANYTHING for other, _ in operands)
        if name in _ADDING and all(self._is_penalty(edge, node) for edge in used):
            return False
        if any(other is not None and self.kinds[other] == ANYTHING for other, _ in edges):
            return True
        constants = name not in _LISTING and any(other is None for other, _ in edges)
        return constants and any(self.kinds[edge[0]] & REPEATED or _grows(edge, node) for edge in used)

    def _is_penalty(self, edge: tuple[Any, int], node: Any) -> bool:
        """Whether an edge of a sum leads to a single number, reduced from others or added to a single number."""
        shape = _shape(*edge)
        return math.prod(shape) == 1 and (self.kinds[edge[0]] & REDUCED > 0 or len(_shape(node)) == 0)


def _name(node: Any) -> str:
    return type(node).__name__.rstrip("0123456789").removesuffix("Backward")


def _shape(node: Any, number: int = 0) -> tuple[int, ...]:
    """Return the shape of a result of a node."""
    return tuple(node._input_metadata[number].shape)


def _grows(edge: tuple[Any, int], node: Any) -> bool:
    """Whether the first result of a node is larger than what an edge leads to: a batch of data made it so."""
    before, after = _shape(*edge), _shape(node)
    return math.prod(after) > math.prod(before) or (len(after) > len(before) and math.prod(before) > 1)
