"""Train PyTorch networks by Layer-wise Feedback Propagation instead of gradients."""

import feedprop.startup  # noqa: F401  first, before torch is imported
from feedprop import discrete, rewards, rules
from feedprop.attach import attach, attached, detach
from feedprop.diagnosis import check
from feedprop.errors import FeedpropError, UnknownOperationError
from feedprop.inspection.log import Log
from feedprop.inspection.record import record
from feedprop.inspection.relevance import relevance
from feedprop.interception.activation_checkpointing import recomputation

__version__ = "0.1.0"

__all__ = [
    "FeedpropError",
    "Log",
    "UnknownOperationError",
    "attach",
    "attached",
    "check",
    "detach",
    "discrete",
    "recomputation",
    "record",
    "relevance",
    "rewards",
    "rules",
]
