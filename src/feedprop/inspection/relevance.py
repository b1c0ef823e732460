"""The relevance of inputs, neurons and weights for an output, by one backward pass under rules."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from feedprop.attach import attach, detach
from feedprop.diagnosis.trial import arguments, copy_without_rules, devices_of, mapped, tensors, uncompiled
from feedprop.errors import FeedpropError, first_few
from feedprop.inspection.batch_norm import BATCH_NORMS
from feedprop.inspection.batch_norm import merge_batch_norm as merge
from feedprop.inspection.calls import Call, Calls, Credits, Passed, followable, reward
from feedprop.inspection.first_layer import OnZeros
from feedprop.inspection.flows import Conservation, conservation
from feedprop.inspection.targets import Target, chosen
from feedprop.rules import Composite, Rule, presets

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True, eq=False)
class Relevance:
    """What `relevance` found. Each number is a share of the reward, in the unit of the outputs.

    Args:
        explained: the output that was explained, one number for each sample, shape (batch,).
        inputs: the relevance of the inputs, in the structure in which they were given, each shaped like its input.
            Integers, such as tokens, get the relevance of the embeddings that look them up, summed over the embedding's
            dimension; None where nothing looks them up.
        modules: name -> the relevance of the outputs of that module, shaped like them: every neuron, channel and
            position. A module that ran several times, or returned several tensors, has a tuple of them, in order.
            The name "" is the model itself.
        parameters: name -> the relevance of each weight, shaped like the parameter, or (batch, *shape) with
            `per_sample`.
        flows: what `conservation` returns; None if only inputs were asked for.
    """

    explained: Tensor
    inputs: Any
    modules: dict[str, Tensor | tuple[Tensor, ...]]
    parameters: dict[str, Tensor]
    flows: Conservation | None = None

    def conservation(self) -> Conservation:
        """Return what each layer did with the reward that reached it; `print` shows it as a table.

        Raises:
            FeedpropError: only inputs were asked for.
        """
        if self.flows is None:
            raise FeedpropError("relevance(..., only_inputs=True) does not follow layers; call it without only_inputs")
        return self.flows


def relevance(
    model: nn.Module,
    inputs: Any,
    target: Target = None,
    composite: Rule | Composite | None = None,
    *,
    per_sample: bool = False,
    only_inputs: bool = False,
    merge_batch_norm: bool = False,
    unknown: str = "error",
) -> Relevance:
    """Explain an output: how much each input, neuron and weight contributed to it.

    The reward at the output is its value, and rules share it out backwards. The relevance of a value x, an input or the
    output of a neuron, is R_x = x c_x, where c_x is its credit; that of a weight is R_w = w c_w, the sum of the rewards
    that flowed through its connection: sum a_i w_ij c_j over samples, positions and uses, for LRP-epsilon (with other
    rules, the messages r_(i<-j) of their formulas). It is signed: above 0 where a weight raised the output, whatever
    the sign of the weight. The feedback that trains a weight is sign(w) R_w. Over a linear layer, the relevance of its
    weights adds up to that of its inputs, and with that of its biases to that of its outputs.

    Everything runs on a copy, so `model` is left as it was. It may be attached or not: the rules are those of
    `composite`. In training mode, dropout and batch statistics take part, with a warning: call `model.eval()` before.

    Args:
        model: any module that `attach` takes.
        inputs: what the model is called with: a tensor, a tuple of arguments, or a dictionary of keywords.
        target: which output is explained, as in captum: a class; a tensor or array of classes (batch,); a tuple of
            indices for outputs of more dimensions; a list of classes or tuples, one for each sample; a function that
            takes what the model returned and returns a tensor (batch,), of which the ordinary gradient is the credit
            of the outputs; None for models with one output.
        composite: the rules; `rules.presets.conserving()` if not given. Its magnitudes do not count.
        per_sample: whether `parameters` has the relevance in each sample, by one backward pass for each; otherwise it
            is their sum.
        only_inputs: leave out modules, parameters and conservation, which takes a third of the time.
        merge_batch_norm: treat each batch norm that follows a linear or convolution layer as a part of that layer
            (zennit's canonizers), in evaluation mode. With LRP-0 the relevance of inputs is the same; with other rules
            the offsets of batch norm take their share as biases do.
        unknown: as for `attach`.

    Raises:
        FeedpropError: the target does not fit the outputs, nothing is trainable by feedback on the way to it, or the
            model cannot be copied.
        UnknownOperationError: no rule covers a function.

    >>> model = nn.Linear(2, 3, bias=False)
    >>> found = relevance(model, torch.ones(4, 2), target=1)
    >>> torch.allclose(found.inputs.sum(1), found.explained)
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"relevance() takes a torch.nn.Module, not {type(model).__name__}")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise FeedpropError("the model has parameters without a shape; call it once before relevance()")
    _warn_of_training(model)
    rules = presets.conserving() if composite is None else Composite.of(composite)
    rules = rules.replace(relative_magnitude=False, magnitude_floor=0.0)
    random_state = torch.random.fork_rng(devices=devices_of(model))
    with uncompiled(), torch.inference_mode(False), torch.enable_grad(), random_state:
        copied = copy_without_rules(model, "relevance()")
        if merge_batch_norm:
            merge(copied, *arguments(mapped(_copied, inputs)))
        for parameter in copied.parameters():
            parameter.requires_grad_(followable(parameter))
        try:
            return _explained(copied, inputs, target, rules, unknown, per_sample=per_sample, only_inputs=only_inputs)
        finally:
            with contextlib.suppress(FeedpropError):  # not attached yet
                detach(copied)


def _explained(
    model: nn.Module,
    inputs: Any,
    target: Target,
    composite: Composite,
    unknown: str,
    *,
    per_sample: bool,
    only_inputs: bool,
) -> Relevance:
    followed = mapped(_followed, inputs)
    args, kwargs = arguments(mapped(_clone, followed))  # a model may write into a clone, but not into a leaf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*stay there, since feedback is proportional.*")
        attach(model, composite, unknown=unknown)
    calls = Calls(model, nn.Embedding if only_inputs else nn.Module)
    result = model(*args, **kwargs)
    calls.closed = True
    values = chosen(result, target)
    root = Call("", model, left=[Passed.of(tensor) for tensor in tensors(result) if followable(tensor)])
    weights = {} if only_inputs else {name: p for name, p in model.named_parameters() if p.requires_grad}
    leaves = [tensor for tensor in tensors(followed) if tensor.requires_grad]
    passed = [one for call in (*calls.finished, root) for one in call.left]
    on_zeros = OnZeros(values.grad_fn)
    credits = Credits(values.sum(), [*leaves, *weights.values(), *passed])
    rewards_on_zeros = on_zeros.reaching(leaves)
    lookups = _lookups(calls.finished, tensors((args, kwargs)))

    def of_input(tensor: Tensor) -> Tensor | None:
        if tensor.requires_grad:
            return credits.reward(tensor) + rewards_on_zeros.get(id(tensor), 0.0)
        shares = [credits.reward(one).sum(-1) for call in lookups.get(id(tensor), []) for one in call.left]
        return torch.stack([share.reshape(tensor.shape) for share in shares]).sum(0) if shares else None

    relevant = _with_none(of_input, followed)
    if only_inputs:
        return Relevance(values.detach(), relevant, {}, {})
    parameters = _of_weights(weights, credits)
    into = sum(float(share.double().sum()) for share in tensors(relevant))
    table = conservation(calls.finished, root, credits, parameters, into)
    if per_sample:
        rows = [_of_weights(weights, Credits(value, list(weights.values()))) for value in values]
        parameters = {
            name: torch.stack([row[name] for row in rows]) if rows else share.new_zeros(0, *share.shape)
            for name, share in parameters.items()
        }
    return Relevance(values.detach(), relevant, _of_modules([*calls.finished, root], credits), parameters, table)


def _of_weights(weights: dict[str, nn.Parameter], credits: Credits) -> dict[str, Tensor]:
    """Return the relevance of parameters; autograd brings |w| times the credit, with the sign of 0 as +1."""
    signs = {name: w.detach().sgn() if w.is_complex() else torch.where(w < 0, -1.0, 1.0) for name, w in weights.items()}
    return {name: reward(signs[name].to(weight.dtype), credits.of(weight)) for name, weight in weights.items()}


def _of_modules(calls: list[Call], credits: Credits) -> dict[str, Tensor | tuple[Tensor, ...]]:
    found: dict[str, list[Tensor]] = {}
    for call in calls:
        found.setdefault(call.name, []).extend(credits.reward(one) for one in call.left)
    return {name: shares[0] if len(shares) == 1 else tuple(shares) for name, shares in found.items() if shares}


def _warn_of_training(model: nn.Module) -> None:
    names = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if module.training and isinstance(module, (*_DROPOUTS, *BATCH_NORMS))
    ]
    if names:
        warnings.warn(
            f"the model is in training mode, so dropout is drawn at random and batch norm uses the statistics of these "
            f"inputs ({first_few(names)}); call model.eval() to explain what the model answers when it is used",
            stacklevel=3,
        )


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _followed(tensor: Tensor) -> Tensor:
    """Return a copy of an input, as a leaf that credit reaches."""
    copied = _copied(tensor)
    return copied.requires_grad_(followable(copied))


def _clone(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.requires_grad else tensor


def _with_none(function: Callable[[Tensor], Tensor | None], value: Any) -> Any:
    """Return `value` with `function` applied to each tensor, and None instead of anything else."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(_with_none(function, part) for part in value)
    return {name: _with_none(function, part) for name, part in value.items()} if type(value) is dict else None


def _lookups(calls: list[Call], given: Iterable[Tensor]) -> dict[int, list[Call]]:
    """Return the calls of embeddings that look an input up, by the id of the input."""
    found: dict[int, list[Call]] = {}
    for tensor in given:
        for call in calls:
            if isinstance(call.module, nn.Embedding) and any(_same_memory(tensor, used) for used in call.integers):
                found.setdefault(id(tensor), []).append(call)
    return found


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether a tensor is another one, or a view that has all of its elements."""
    return one is other or (one.data_ptr() == other.data_ptr() and one.numel() == other.numel())
