"""Train PyTorch networks by Layer-wise Feedback Propagation instead of gradients."""

import importlib
from typing import TYPE_CHECKING

import feedprop.startup  # noqa: F401  first, before torch is imported
from feedprop import discrete, rewards, rules
from feedprop.attach import attach, attached, detach
from feedprop.diagnosis import check
from feedprop.errors import FeedpropError, UnknownOperationError
from feedprop.inspection.log import Log
from feedprop.inspection.record import record
from feedprop.inspection.relevance import relevance
from feedprop.interception.activation_checkpointing import recomputation

if TYPE_CHECKING:
    from feedprop import distributed as distributed
    from feedprop import pruning as pruning
    from feedprop import spiking as spiking
else:
    _ON_DEMAND = ("distributed", "pruning", "spiking")

    def __getattr__(name):
        """Load what `import feedprop` leaves out when somebody asks for it."""
        if name in _ON_DEMAND:
            return importlib.import_module(f"feedprop.{name}")
        raise AttributeError(f"module 'feedprop' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_ON_DEMAND})


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
