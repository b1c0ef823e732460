"""A backward pass: layers of attached models that were used outside of a pass are refused before it starts."""

from __future__ import annotations

import functools
import threading
import weakref
from bisect import bisect_right
from typing import Any

import torch
from torch import Tensor, nn

from feedprop import credit
from feedprop.errors import FeedpropError, first_few
from feedprop.interception.audit import nodes_behind, walk
from feedprop.interception.mode import running
from feedprop.operations.registry import gradient_inside

_MOST = 4096  # number of passes to remember at least; the graphs of older ones are searched


class _Passes(threading.local):
    """The ranges of sequence numbers of the passes of this thread, in ascending order."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.ends: list[int] = []

    def add(self, begin: int, end: int) -> None:
        while self.begins and self.begins[-1] >= begin:
            self.begins.pop(), self.ends.pop()
        self.begins.append(begin)
        self.ends.append(end)
        if len(self.begins) > 2 * _MOST:
            del self.begins[:_MOST], self.ends[:_MOST]

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self.begins, number) - 1
        return index >= 0 and number < self.ends[index]


PASSES = _Passes()
ATTACHED: weakref.WeakSet[nn.Module] = weakref.WeakSet()

# The nodes that layers make of their parameters. A penalty on weights is made of others, and keeps its gradient.
_LAYERS = frozenset(
    f"{name}Backward0"
    for name in """
    Addmm Mm Bmm Baddbmm Addmv Mv Dot Convolution ConvolutionOverrideable MkldnnConvolution CudnnConvolution Linear
    NativeBatchNorm CudnnBatchNorm NativeLayerNorm NativeGroupNorm FusedRmsNorm Embedding EmbeddingBag
    PreluKernel MkldnnRnnLayer CudnnRnn ThnnFusedLstmCell ThnnFusedGruCell
    """.split()  # noqa: SIM905
)
_BETWEEN = ("T", "Transpose", "View", "Permute", "Reshape", "ToCopy", "Expand", "Unsqueeze", "Squeeze", "UnsafeView")

_OVERWRITTEN = ("modified by an inplace operation", "has been modified inplace")  # in torch's errors

_plain: Any = None


def make() -> None:
    """Search the graph of each backward pass before it starts."""
    global _plain
    if _plain is not None:
        return
    _plain = plain = torch.autograd.backward

    @functools.wraps(plain)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return plain(tensors, *args, **kwargs)
        if passes := running():
            return gradient_inside(passes[-1], plain, (tensors, *args), kwargs)
        roots = tensors if isinstance(tensors, (tuple, list)) else (tensors,)
        _GRAPHS.look_at(_tensors(roots))
        try:
            return plain(tensors, *args, **kwargs)
        except RuntimeError as error:
            overwritten = any(words in str(error) for words in _OVERWRITTEN)
            if overwritten and any(map(_in_a_pass, nodes_behind(_tensors(roots)))):
                raise FeedpropError(
                    f"an in-place operation overwrote what the backward pass of feedprop needs: write it out of place, "
                    f"or, if an optimizer did, call its step() after backward(). torch says: "
                    f"{str(error).partition(' Hint:')[0]}"
                ) from error
            raise
        finally:
            _GRAPHS.last = credit.sequence_number()

    torch.autograd.backward = backward


def _tensors(roots: Any) -> list[Tensor]:
    return [root for root in roots if isinstance(root, Tensor)]


def undo() -> None:
    """Restore torch.autograd.backward."""
    global _plain
    if _plain is not None:
        torch.autograd.backward, _plain = _plain, None


class _Graphs(threading.local):
    """Remembers which graphs were searched, by their nodes since the last backward pass and the nearest leaf."""

    def __init__(self) -> None:
        self.last = 0
        self.known: set[tuple[int, int]] = set()

    def look_at(self, roots: list[Tensor]) -> None:
        key = credit.sequence_number() - self.last, _nearest_leaf(roots)
        if key in self.known:
            return
        refuse_plain_gradients(roots)
        if len(self.known) > _MOST:
            self.known.clear()
        self.known.add(key)


_GRAPHS = _Graphs()


def forget_graphs() -> None:
    """Forget which graphs were searched, since another model is attached."""
    _GRAPHS.known.clear()


def _nearest_leaf(roots: list[Tensor]) -> int:
    """Return the id of the leaf to which the first edges lead, 0 if they lead into a pass."""
    node: Any = roots[0].grad_fn if roots else None
    while node is not None and node._sequence_nr() not in PASSES:
        variable = getattr(node, "variable", None)
        if variable is not None:
            return id(variable)
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return 0


def refuse_plain_gradients(roots: list[Tensor]) -> None:
    """Raise if a layer of an attached model was used outside of a pass.

    Raises:
        FeedpropError: naming its parameters, and the remedies.
    """
    layers = [node for node in nodes_behind(roots, stop=_in_a_pass) if type(node).__name__ in _LAYERS]
    layers = [node for node in layers if not _is_product_with_itself(node)]
    found = {id(node.variable) for node in walk(layers, stop=_in_a_pass) if hasattr(node, "variable")}
    if not found:
        return
    for model in ATTACHED:
        if "_modules" not in vars(model):  # a copy that is not filled yet
            continue
        names = [name for name, parameter in model.named_parameters() if id(parameter) in found]
        if names:
            kind = type(model).__name__
            raise FeedpropError(
                f"{first_few(names)} of the attached {kind}: used outside of its forward(), so it would get its plain "
                f"gradient; call the {kind} itself, attach the part that is called, name the method that uses it, "
                f'attach(model, methods=("encode", ...)), or detach the model first'
            )


def _in_a_pass(node: Any) -> bool:
    return node._sequence_nr() in PASSES


def _is_product_with_itself(node: Any) -> bool:
    """Whether a node computed w w^T, which penalties do (orthogonality) and layers never do."""
    leaves = list[Any]()
    for before, _ in node.next_functions:
        while before is not None and type(before).__name__.removesuffix("Backward0") in _BETWEEN:
            before = before.next_functions[0][0]
        leaves.append(getattr(before, "variable", None))
    return len(leaves) > 1 and leaves[0] is not None and all(leaf is leaves[0] for leaf in leaves)
