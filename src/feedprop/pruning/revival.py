"""Whether pruned weights stay 0 in training, without masks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from feedprop.errors import FeedpropError
from feedprop.pruning import masks
from feedprop.pruning.amounts import zeros
from feedprop.pruning.importances import composites_of, is_attached, prunable
from feedprop.rules import Composite, Rule


def check_stays_pruned(model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Raise if training would move weights that are 0; otherwise a pruned model can be fine-tuned without masks.

    Feedback is proportional to |w|, so a weight of 0 gets none, and no optimizer of `torch.optim` but Muon moves a
    weight that never got any. What moves one is named, with its remedy: gradients, a floor, a rule for the first layer
    that does not depend on the weights, moments that the optimizer keeps from before pruning, and an optimizer that
    mixes the feedback of different weights. Weight decay is fine, and so is whatever a mask of `torch.nn.utils.prune`
    holds at 0.

    Args:
        model: a pruned model, attached as it will be trained.
        optimizer: the one that it will be trained by. Copies of it take a step without feedback, and one with some.

    Raises:
        FeedpropError: weights that are 0 would move.
    """
    pruned = {name: mask for name, mask in _free(model).items() if bool(mask.any())}
    if not pruned:
        return
    if not any(map(is_attached, model.modules())):
        raise FeedpropError(
            "this model is trained by gradients, which move weights of 0; attach it with a composite whose "
            "magnitude_floor is 0, or hold the weights at 0 by pruning.GradualPruning or torch.nn.utils.prune"
        )
    for composite in composites_of(model):
        _refuse_floor(composite)
        for path, (rule, _) in composite.replace(allow_unmatched=True).assign(model).items():
            _refuse_constant(rule, path)
    if optimizer is None:
        return
    if isinstance(optimizer, torch.optim.LBFGS):  # which cannot be copied, and steps along sums of earlier feedback
        if any(optimizer.state.values()):
            raise FeedpropError("LBFGS moves weights that are 0 by what it kept of earlier steps; make a new optimizer")
        return
    if moved := _moved(model, optimizer, pruned, torch.zeros_like):
        raise FeedpropError(
            f"the optimizer moves weights that are 0, by moments from before they were pruned ({moved[0]}); call "
            f"pruning.reset_moments(model, optimizer) after pruning, or make a new optimizer"
        )
    if moved := _moved(model, optimizer, pruned, _proportional()):
        raise FeedpropError(
            f"{type(optimizer).__name__} moves weights that are 0 by the feedback of others ({moved[0]}); use an "
            "optimizer that moves each weight by its own feedback, such as SGD or Adam, or hold the weights at 0 by "
            "pruning.GradualPruning or torch.nn.utils.prune"
        )


def _free(model: nn.Module) -> dict[str, Tensor]:
    """Return where weights are 0 that no mask holds there."""
    found = zeros(model)
    for name, zero in found.items():
        held = masks.held_at_zero(model, name)
        found[name] = zero if held is None else zero & ~held
    return found


def _refuse_floor(composite: Composite) -> None:
    if composite.magnitude_floor:
        raise FeedpropError(
            f"weights of 0 get feedback with magnitude_floor={composite.magnitude_floor:g}; attach the model with "
            f"composite.replace(magnitude_floor=0.0)"
        )


def _refuse_constant(rule: Rule, path: str) -> None:
    importance = getattr(rule, "importance", None)  # of rules for the first layer
    if importance is not None and rule.update == "rule" and bool(importance(torch.zeros(1)).any()):
        raise FeedpropError(
            f'{rule!r} gives feedback to weights of 0 in {path}; use {type(rule).__name__}(update="epsilon") there'
        )


def _proportional() -> Callable[[Tensor], Tensor]:
    """Return a function that makes up feedback in proportion to |w|."""
    generator = torch.Generator().manual_seed(0)
    return lambda weight: weight.detach().abs() * torch.randn(weight.shape, generator=generator).to(weight)


def _moved(
    model: nn.Module, optimizer: Optimizer, pruned: dict[str, Tensor], feedback: Callable[[Tensor], Tensor]
) -> list[str]:
    """Return the names of the parameters in which a step of the optimizer moves weights that are 0."""
    weights = {parameter: name for name, parameter in prunable(model).items()}
    optimizer = getattr(optimizer, "optimizer", optimizer)  # without accelerate's wrapper, which may skip a step
    trial = copy.deepcopy(optimizer)
    moved = []
    for group in trial.param_groups:
        for twin in group["params"]:
            twin.grad = feedback(twin)
    trial.step()
    for group, copies in zip(optimizer.param_groups, trial.param_groups, strict=True):
        for parameter, twin in zip(group["params"], copies["params"], strict=True):
            name = weights.get(parameter)
            if name in pruned and bool(twin.detach()[pruned[name]].any()):
                moved.append(name)
    return moved


def reset_moments(model: nn.Module, optimizer: Optimizer) -> None:
    """Set to 0 what the optimizer remembers about weights that are 0; call it after pruning during training.

    Args:
        model: the pruned model.
        optimizer: any whose state has the shape of the parameters, as all of `torch.optim` have but LBFGS and those
            that keep it per row.
    """
    with torch.no_grad():
        for name, mask in zeros(model).items():
            for value in optimizer.state.get(model.get_parameter(name), {}).values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    value.masked_fill_(mask, 0)
