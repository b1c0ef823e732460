"""Scores of whole channels for torch-pruning, which removes them: the model gets smaller and faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from feedprop.errors import FeedpropError, first_few
from feedprop.pruning.amounts import check_scores
from feedprop.pruning.importances import Scores, is_attached
from feedprop.pruning.masks import held_at_zero


class ChannelImportance:
    """What the pruners of torch-pruning take as `importance`: the score of a channel is the sum of its weights' scores.

    A channel's weights are those that compute it and those that read it, in all layers that torch-pruning prunes
    together; the mean over these layers counts. Torch-pruning's own `TaylorImportance` reads `.grad`, which holds minus
    the feedback after a backward pass of an attached model, so use this one instead.

    Args:
        model: the model to prune. Call `feedprop.detach(model)` first: torch-pruning reads its autograd graph.
        importance: a function that returns scores of the model, such as `magnitude` or `lambda model:
            relevance(model, batches)`; or the scores themselves, which hold for one step of the pruner.
        normalise: whether to divide by the mean over the channels of a group, so that layers whose scores are small are
            not emptied by global pruning.

    Raises:
        FeedpropError: the model is attached, has masks of `torch.nn.utils.prune`, or torch-pruning is not installed.

    `pruner = torch_pruning.BasePruner(model, inputs, importance=ChannelImportance(model, magnitude))` uses it.
    """

    def __init__(
        self, model: nn.Module, importance: Callable[[nn.Module], Scores] | Scores, *, normalise: bool = True
    ) -> None:
        if any(map(is_attached, model.modules())):
            raise FeedpropError(
                "torch-pruning reads the autograd graph of the model, which attach() changes; call "
                "feedprop.detach(model) first"
            )
        masked = [name for name, _ in model.named_parameters() if held_at_zero(model, name) is not None]
        if masked:
            raise FeedpropError(
                f"torch-pruning cannot shorten weights that torch.nn.utils.prune masks ({first_few(masked)}); write "
                f"the masks into the weights by torch.nn.utils.prune.remove(module, name) first"
            )
        self._outputs, self._inputs = _pruning_functions()
        self.model, self.importance, self.normalise = model, importance, normalise
        self._read()

    def _read(self) -> None:
        """Compute the scores of the model as it is now."""
        given = self.importance(self.model) if callable(self.importance) else self.importance
        self._known = {*self.model.parameters()}
        check_scores(self.model, given)
        self._scores = {self.model.get_parameter(name): values for name, values in given.items()}

    def __call__(self, group: Any) -> Tensor | None:
        """Return the scores of the channels of a group of torch-pruning, shape (channels,); None if none has any."""
        found = [
            (part, positions)
            for (dependency, channels), positions in zip(group, (item.root_idxs for item in group), strict=True)
            if (part := self._of_layer(dependency.layer, dependency.pruning_fn, channels)) is not None
            and None not in positions
        ]
        if not found:
            return None
        size = 1 + max(max(positions) for _, positions in found)
        total = torch.zeros(size, device=found[0][0].device)
        for part, positions in found:
            total.index_add_(0, torch.tensor(positions, device=total.device), part.to(total))
        total /= len(found)
        return total / total.mean() if self.normalise and total.mean() != 0 else total

    def _of_layer(self, layer: Any, function: Any, channels: list[int]) -> Tensor | None:
        """Return the scores of these channels of a layer, as its outputs or as its inputs; None if it has none."""
        if function in self._outputs:
            reads = False
        elif function in self._inputs:
            reads = True
        else:
            return None
        scores = self._of_weight(layer.weight)
        if scores is None:
            return None
        if reads != bool(getattr(layer, "transposed", False)):
            scores = scores.transpose(0, 1)
        sums = scores.flatten(1).sum(1)
        if reads and getattr(layer, "groups", 1) > 1:  # the weight has the inputs of one group
            sums = sums.repeat(layer.groups)
        return sums[channels]

    def _of_weight(self, weight: nn.Parameter) -> Tensor | None:
        """Return the scores of a weight; compute them again if the pruner replaced it since."""
        if weight not in self._known:
            if not callable(self.importance):
                raise FeedpropError(
                    "the scores are those of weights that were pruned since; give ChannelImportance a function that "
                    "computes them, such as pruning.magnitude"
                )
            self._read()
            if weight not in self._known:
                raise FeedpropError("the pruner has another model than ChannelImportance; give both the same one")
        return self._scores.get(weight)


def _pruning_functions() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return torch-pruning's functions that remove outputs, and those that remove inputs."""
    try:
        from torch_pruning.pruner import function  # type: ignore[import-untyped]  # torch-pruning ships no types
    except ModuleNotFoundError as error:
        raise FeedpropError(
            "ChannelImportance needs torch-pruning, which is not installed; pip install 'feedprop[prune]'"
        ) from error
    outputs = (
        function.prune_conv_out_channels,
        function.prune_depthwise_conv_out_channels,
        function.prune_linear_out_channels,
    )
    return outputs, (function.prune_conv_in_channels, function.prune_linear_in_channels)
