"""Pruning: how much each weight is worth, removing those worth least, and training on without masks.

`Scores` are a dictionary from the name of a parameter to a tensor of its shape; the lowest are pruned first. An
`Objective` takes outputs and targets and returns what to minimise, as rewards and losses do.
"""

from feedprop.pruning.amounts import prune, sparsity
from feedprop.pruning.channels import ChannelImportance
from feedprop.pruning.folding import fold_batch_norms
from feedprop.pruning.gradual import GradualPruning
from feedprop.pruning.importances import (
    AccumulatedFeedback,
    magnitude,
    per_channel,
    prunable,
    relevance,
    torch_prune_scores,
)
from feedprop.pruning.revival import check_stays_pruned, reset_moments

__all__ = [
    "AccumulatedFeedback",
    "ChannelImportance",
    "GradualPruning",
    "check_stays_pruned",
    "fold_batch_norms",
    "magnitude",
    "per_channel",
    "prunable",
    "prune",
    "relevance",
    "reset_moments",
    "sparsity",
    "torch_prune_scores",
]
