"""How much each weight is worth: by magnitude, by relevance, by the feedback it got."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from feedprop.attach import attach
from feedprop.diagnosis.trial import copy_without_rules
from feedprop.errors import FeedpropError, shape_or_type
from feedprop.interception.forward import Forward
from feedprop.pruning import masks
from feedprop.rules import Composite, Rule, presets
from feedprop.rules.composite import LINEAR_LAYERS

Scores = dict[str, Tensor]
"""Parameter name -> score of each entry, shaped like the parameter; the lowest are pruned first."""

Objective = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> what to minimise, a scalar: a reward of `feedprop.rewards`, or a loss."""


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is pruned by default: the weights with two or more dimensions, by name.

    Biases, normalisations, embeddings and parametrised weights stay out, and so do scales, positions and tokens that
    broadcast, (channels, 1, 1) or (1, positions, channels), and parameters whose name says that they are a position or
    a bias, such as "relative_position_bias_table". What `torch.nn.utils.prune` masks has the name of its parameter,
    such as "0.weight_orig".
    """
    left_out = {
        parameter
        for module in model.modules()
        for parameter in module.parameters(recurse=isinstance(module, ParametrizationList))
        if isinstance(module, _LEFT_OUT) or (not isinstance(module, LINEAR_LAYERS) and _broadcasts(parameter))
    }
    return {
        name: p
        for name, p in model.named_parameters()
        if p.ndim >= 2 and p not in left_out and not _OFFSET.search(name.rpartition(".")[2])
    }


_OFFSET = re.compile(r"(^|_)(pos|positions?|positional|bias|biases)(_|$)")  # relative_position_bias_table, pos_embed
_LEFT_OUT = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, ParametrizationList)


def _broadcasts(parameter: nn.Parameter) -> bool:
    """Whether a parameter has the shape of a scale or an offset, rather than of a weight that multiplies matrices."""
    shape = parameter.shape
    return len(shape) >= 3 and (shape[0] == 1 or parameter.numel() == shape[0])


def magnitude(model: nn.Module) -> Scores:
    """Return |w| of the weights with two or more dimensions; 0 where `torch.nn.utils.prune` masks them.

    >>> model = nn.Linear(2, 1)
    >>> _ = nn.init.constant_(model.weight, -0.5)
    >>> magnitude(model)
    {'weight': tensor([[0.5000, 0.5000]])}
    """
    return {name: masks.values(model, name).abs() for name in prunable(model)}


def relevance(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    objective: Objective | None = None,
    *,
    composite: Rule | Composite | None = None,
    signed: bool = False,
) -> Scores:
    """Return how much of the outputs' relevance went through each weight, |sum over samples of w c|.

    Here c is the credit at the weight. One backward pass per batch, on a copy of the model in evaluation mode, so that
    the model itself, its gradients and its statistics stay as they are. It may be attached, or trained by backprop.

    Args:
        model: any model that `attach` takes.
        batches: pairs (inputs, targets); `model(inputs)` is called.
        objective: (outputs, targets) -> what to minimise, such as a reward of `feedprop.rewards`. By default the
            outputs that the targets name explain themselves: their relevance is their value, for outputs (batch,
            classes) and targets (batch,).
        composite: how relevance is shared; `rules.presets.conserving()` by default. Its magnitudes are not used.
        signed: whether to return the sums with their signs, of which the lowest would be pruned first.

    Raises:
        FeedpropError: there is no batch, `objective` is needed for these outputs, or the model cannot be copied.
    """
    twin = copy_without_rules(model, "relevance()").eval()
    rule = presets.conserving() if composite is None else Composite.of(composite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters of 0 stay there, but nothing is trained
        attach(twin, rule.replace(relative_magnitude=False, magnitude_floor=0.0))
    twin.zero_grad(set_to_none=True)
    for weight in prunable(twin).values():
        weight.requires_grad_(True)  # of frozen ones too
    empty = True
    with torch.enable_grad():
        for batch in batches:
            inputs, targets = _pair(batch)
            outputs, empty = twin(inputs), False
            value = _minus_named(outputs, targets) if objective is None else objective(outputs, targets)
            value.backward()  # type: ignore[no-untyped-call]  # torch's own
    if empty:
        raise FeedpropError("relevance() needs at least one batch (inputs, targets), but batches was empty")
    found = {name: _relevance(weight) for name, weight in prunable(twin).items()}
    return found if signed else {name: values.abs() for name, values in found.items()}


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise FeedpropError(
            "relevance() takes batches as pairs (inputs, targets), such as [(inputs, targets)] or a DataLoader, but "
            f"got one of {shape_or_type(batch)}"
        )
    return batch[0], batch[1]


def _minus_named(outputs: Any, targets: Tensor) -> Tensor:
    """Return minus the sum of the outputs that the targets name."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise FeedpropError(
            f"relevance() takes outputs (batch, classes) and targets (batch,) by default, but the model returned "
            f"{found}; give it an objective, such as feedprop.rewards.SoftmaxReward()"
        )
    wrong = targets[(targets < 0) | (targets >= outputs.shape[1])]
    if wrong.numel():
        raise FeedpropError(
            f"a target of relevance() is {wrong[0].item()}, but the model has the outputs 0 to {outputs.shape[1] - 1}; "
            f"leave out samples that have no class"
        )
    return -outputs.gather(1, targets.unsqueeze(1)).sum()


def _relevance(weight: nn.Parameter) -> Tensor:
    """Return w c: the feedback, minus .grad, is |w| c."""
    if weight.grad is None:
        return torch.zeros_like(weight).detach()
    feedback = -weight.grad
    return (feedback.to_dense() if feedback.layout is not torch.strided else feedback) * weight.detach().sign()


def is_attached(model: nn.Module) -> bool:
    """Whether `attach` replaced the forward of this very module."""
    return isinstance(model.__dict__.get("forward"), Forward)


def composites_of(model: nn.Module) -> Iterator[Composite]:
    """The composites of all attached modules in a model."""
    for module in model.modules():
        if is_attached(module):
            yield module.__dict__["forward"].composite


class AccumulatedFeedback:
    """Sums up the feedback of each weight over the backward passes within a `with` block.

    Its `scores` are importances. A loss scale counts as part of the feedback; keep it constant.

    Args:
        model: an attached model. Weights that are frozen get no feedback, and no score.
        signed: whether to sum the feedback with its sign, so that weights that were punished, rather than those that
            got nothing, score lowest. By default absolute values are summed.
        decay: what each backward pass leaves of the sums so far, 0 < decay <= 1. With .99, about the last hundred
            passes count; by default all do.

    Raises:
        FeedpropError: `decay` is out of range; or, at the beginning of the block, the model is not attached, so its
            `.grad` holds gradients.
    """

    def __init__(self, model: nn.Module, *, signed: bool = False, decay: float = 1.0) -> None:
        if not 0 < decay <= 1:
            raise FeedpropError(f"decay is what is left of the sums, 0 < decay <= 1, but is {decay!r}")
        self.model, self.signed, self.decay = model, signed, decay
        self.passes = 0
        """Backward passes that reached each weight, at most."""
        self._sums = {
            name: torch.zeros_like(weight).detach() for name, weight in prunable(model).items() if weight.requires_grad
        }
        self._counts = dict.fromkeys(self._sums, 0)
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        if not any(map(is_attached, self.model.modules())):
            raise FeedpropError(
                "AccumulatedFeedback needs an attached model, since a plain backward pass gives gradients; call "
                "feedprop.attach(model) first"
            )
        for name in self._sums:
            weight: Any = self.model.get_parameter(name)
            self._hooks.append(weight.register_hook(self._adder(name)))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _adder(self, name: str) -> Callable[[Tensor], None]:
        def add(grad: Tensor) -> None:
            feedback = -(grad.to_dense() if grad.layout is not torch.strided else grad.detach())
            total = self._sums[name]
            total = total.to(feedback.device).mul_(self.decay)
            self._sums[name] = total.add_(feedback if self.signed else feedback.abs())
            self._counts[name] += 1
            self.passes = max(self.passes, self._counts[name])

        return add

    @property
    def scores(self) -> Scores:
        """The sums so far, shaped like the weights.

        Raises:
            FeedpropError: no backward pass was seen.
        """
        if not self.passes:
            raise FeedpropError(
                "no feedback was accumulated; run backward passes of the attached model within the `with` block"
            )
        return {name: total.clone() for name, total in self._sums.items()}


def per_channel(scores: Scores) -> Scores:
    """Return the sum of scores over each output channel, the first dimension: shape (channels,).

    Of signed relevance, this is the relevance of the channel without its bias.
    """
    return {name: values.flatten(1).sum(1) for name, values in scores.items()}


def torch_prune_scores(model: nn.Module, scores: Scores) -> dict[tuple[nn.Module, str], Tensor]:
    """Return scores as `torch.nn.utils.prune` takes them, {(module, "weight"): scores}.

    Its keys are the parameters to prune, and the whole is `importance_scores`. It compares absolute values, and prunes
    a share of what it has not masked yet.

    >>> from torch.nn.utils import prune
    >>> model = nn.Linear(4, 1)
    >>> scores = torch_prune_scores(model, magnitude(model))
    >>> prune.global_unstructured(list(scores), prune.L1Unstructured, scores, amount=0.5)
    >>> int((model.weight == 0).sum())
    2
    """
    return {masks.owner(model, name): values for name, values in scores.items()}
