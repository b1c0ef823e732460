"""The autograd functions of common packages, with the handler of each."""

from __future__ import annotations

import sys

from torch import nn

from feedprop.operations.elementwise import elementwise
from feedprop.operations.registry import HANDLERS, Handler, ordinary, register

KNOWN: dict[str, dict[str, Handler]] = {
    "timm.layers.activations_me": dict.fromkeys(
        ("SwishAutoFn", "MishAutoFn", "HardSigmoidAutoFn", "HardSwishAutoFn", "HardMishAutoFn"), elementwise
    ),
    "transformers.models.bloom.modeling_bloom": {"GeLUFunction": elementwise},
    "transformers.models.phimoe.modeling_phimoe": {"PhimoeMultiplier": ordinary},  # picks the experts' answers
    "transformers.models.recurrent_gemma.modeling_recurrent_gemma": {"SqrtBoundDerivative": elementwise},
    "transformers.models.sew_d.modeling_sew_d": {"XSoftmax": ordinary, "XDropout": ordinary},
}


def is_snntorch_neuron(module: nn.Module) -> bool:
    """Whether a module is one of snnTorch's neurons. Does not import snnTorch, which is an extra."""
    names = (f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__)
    return any(name.startswith("snntorch.") and name.endswith(".SpikingNeuron") for name in names)


def register_known() -> None:
    """Register the known functions of imported packages, except those that a user registered."""
    for name, handlers in KNOWN.items():
        module = sys.modules.get(name)
        for function, handler in handlers.items():
            found = getattr(module, function, None)
            if found is not None and found not in HANDLERS:
                register(found)(handler)
