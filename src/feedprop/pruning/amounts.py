"""Setting the least important weights to 0, exactly as many as asked for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from feedprop.errors import FeedpropError, first_few
from feedprop.pruning import masks
from feedprop.pruning.importances import Scores, composites_of, prunable


def prune(model: nn.Module, scores: Scores, amount: float, *, scope: str = "global") -> nn.Module:
    """Set the least important weights to 0, so that a share of `amount` is 0. Returns `model`.

    Weights that are 0 already count first, also by a mask of `torch.nn.utils.prune`, so repeated pruning reaches the
    amounts that it names. Warns if the model is attached with a floor, under which weights of 0 learn again.

    Args:
        model: any model, attached or not.
        scores: name -> score of each weight, from `magnitude`, `relevance` or `AccumulatedFeedback`. Parameters that it
            does not name stay as they are.
        amount: share of the named weights that are 0 afterwards, 0 <= amount < 1; round(amount * number) of them.
        scope: "global" compares the scores of all layers; "layer" prunes this share of each.

    Raises:
        FeedpropError: an argument is out of range, or scores do not fit the model or are NaN.

    >>> from feedprop.pruning import magnitude
    >>> model = nn.Linear(10, 2)
    >>> int((prune(model, magnitude(model), 0.9).weight == 0).sum())
    18
    """
    checked(model, scores, amount, scope)
    for composite in composites_of(model):
        if composite.magnitude_floor:
            warnings.warn(
                f"the model is attached with magnitude_floor={composite.magnitude_floor:g}, so pruned weights get "
                f"feedback and come back in training; attach it with composite.replace(magnitude_floor=0.0)",
                stacklevel=2,
            )
    set_to_zero(model, scores, amount, scope)
    return model


def checked(model: nn.Module, scores: Scores, amount: float, scope: str) -> None:
    """Refuse arguments that do not fit."""
    if not isinstance(amount, (int, float)) or not 0 <= amount < 1:
        raise FeedpropError(f"amount is a share, 0 <= amount < 1, but is {amount!r}")
    if scope not in ("global", "layer"):
        raise FeedpropError(f'scope must be "global" or "layer", not {scope!r}')
    check_scores(model, scores)
    if not scores:
        raise FeedpropError("there is nothing to prune: scores is empty")


def check_scores(model: nn.Module, scores: Scores) -> None:
    """Refuse scores that do not fit the model, or have no order."""
    if not isinstance(scores, Mapping) or not all(isinstance(values, Tensor) for values in scores.values()):
        kinds = {type(values).__name__ for values in scores.values()} if isinstance(scores, Mapping) else set()
        found = f"a dictionary of {', '.join(sorted(kinds))}" if kinds else type(scores).__name__
        raise FeedpropError(
            f"scores must be a dictionary from names of parameters to tensors of their shapes, such as "
            f"pruning.magnitude(model) returns, not {found}"
        )
    own = dict(model.named_parameters())
    unknown = [name for name in scores if name not in own]
    if unknown:
        raise FeedpropError(f"scores name {first_few(unknown)}, which the model does not have")
    for name, values in scores.items():
        if values.shape != own[name].shape:
            shapes = f"{tuple(values.shape)}, but the parameter {tuple(own[name].shape)}"
            raise FeedpropError(f"the scores of {name} have the shape {shapes}")
        if values.is_complex() or bool(values.isnan().any()):
            kind = "are complex" if values.is_complex() else "contain NaN"
            raise FeedpropError(f"the scores of {name} {kind}, so they have no order")


@torch.no_grad()
def set_to_zero(model: nn.Module, scores: Scores, amount: float, scope: str) -> None:
    """Prune the parameters that the scores name, which `checked` let pass."""
    parts = [list(scores)] if scope == "global" else [[name] for name in scores]
    for names in parts:
        _prune(model, {name: scores[name] for name in names}, amount)
    masks.refresh(model, scores)


def _prune(model: nn.Module, scores: Scores, amount: float) -> None:
    """Set a share of these weights to 0, those that are 0 first; ties in the order of the weights."""
    count = round(amount * sum(values.numel() for values in scores.values()))
    if count == 0:
        return
    flat = [
        values.where(masks.values(model, name) != 0, -torch.inf).flatten().cpu()  # scores of all layers on one device
        for name, values in scores.items()
    ]
    pruned = _lowest(torch.cat(flat), count)
    sizes = [len(part) for part in flat]
    for name, part in zip(scores, torch.split(pruned, sizes), strict=True):
        weight = model.get_parameter(name)
        weight.masked_fill_(part.view(weight.shape).to(weight.device), 0)


def _lowest(values: Tensor, count: int) -> Tensor:
    """Return where the lowest values are, exactly so many; of equal ones the first. Quicker than a sort."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    limit = wide.kthvalue(count).values
    chosen = wide < limit
    chosen[torch.nonzero(wide == limit).flatten()[: count - int(chosen.sum())]] = True
    return chosen


def sparsity(model: nn.Module) -> float:
    """Return the share of weights that are exactly 0, among those with two or more dimensions."""
    found = zeros(model).values()
    return sum(int(mask.sum()) for mask in found) / max(sum(mask.numel() for mask in found), 1)


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """Return where the weights with two or more dimensions are 0, as masks of bool."""
    return {name: masks.values(model, name) == 0 for name in prunable(model)}
