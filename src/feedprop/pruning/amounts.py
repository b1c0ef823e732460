"""Setting the least important weights to 0, exactly as many as asked for."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from feedprop.errors import FeedpropError, first_few
from feedprop.pruning.importances import Scores, composites_of, prunable


def prune(model: nn.Module, scores: Scores, amount: float, *, scope: str = "global") -> nn.Module:
    """Set the least important weights to 0, so that a share of `amount` is 0. Returns `model`.

    Weights that are 0 already count first, so repeated pruning reaches the amounts that it names. Warns if the model
    is attached with a floor, under which weights of 0 learn again.

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
    weights = checked(model, scores, amount, scope)
    for composite in composites_of(model):
        if composite.magnitude_floor:
            warnings.warn(
                f"the model is attached with magnitude_floor={composite.magnitude_floor:g}, so pruned weights get "
                f"feedback and come back in training; attach it with composite.replace(magnitude_floor=0.0)",
                stacklevel=2,
            )
    set_to_zero(weights, scores, amount, scope)
    return model


def checked(model: nn.Module, scores: Scores, amount: float, scope: str) -> dict[str, nn.Parameter]:
    """Return the parameters that the scores name; refuse arguments that do not fit."""
    if not 0 <= amount < 1:
        raise FeedpropError(f"amount is a share, 0 <= amount < 1, but is {amount!r}")
    if scope not in ("global", "layer"):
        raise FeedpropError(f'scope must be "global" or "layer", not {scope!r}')
    if not scores:
        raise FeedpropError("there is nothing to prune: scores is empty")
    own = dict(model.named_parameters())
    unknown = [name for name in scores if name not in own]
    if unknown:
        raise FeedpropError(f"scores name {first_few(unknown)}, which the model does not have")
    for name, values in scores.items():
        if values.shape != own[name].shape:
            shapes = f"{tuple(values.shape)}, but the parameter {tuple(own[name].shape)}"
            raise FeedpropError(f"the scores of {name} have the shape {shapes}")
        if bool(values.isnan().any()):
            raise FeedpropError(f"the scores of {name} contain NaN, so they have no order")
    return {name: own[name] for name in scores}


@torch.no_grad()
def set_to_zero(weights: dict[str, nn.Parameter], scores: Scores, amount: float, scope: str) -> None:
    """Prune the parameters that `checked` returned."""
    parts = [list(scores)] if scope == "global" else [[name] for name in scores]
    for names in parts:
        _prune({name: weights[name] for name in names}, scores, amount)


def _prune(weights: dict[str, nn.Parameter], scores: Scores, amount: float) -> None:
    """Set a share of these weights to 0, those that are 0 first; ties in the order of the weights."""
    count = round(amount * sum(weight.numel() for weight in weights.values()))
    if count == 0:
        return
    flat = [
        scores[name].where(weight != 0, -torch.inf).flatten().cpu()  # scores of all layers on one device
        for name, weight in weights.items()
    ]
    pruned = _lowest(torch.cat(flat), count)
    sizes = [len(part) for part in flat]
    for weight, part in zip(weights.values(), torch.split(pruned, sizes), strict=True):
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
    weights = [weight.detach() for weight in prunable(model).values()]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / max(sum(weight.numel() for weight in weights), 1)


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """Return where the weights with two or more dimensions are 0, as masks of bool."""
    return {name: weight.detach() == 0 for name, weight in prunable(model).items()}
