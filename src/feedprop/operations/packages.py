"""Functions of common packages, with the handler of each."""

from __future__ import annotations

import sys

import torch
from torch import nn

from feedprop.operations.elementwise import elementwise
from feedprop.operations.products import deformable, matrix_product
from feedprop.operations.registry import HANDLERS, Handler, ordinary, register, summed

# autograd functions, by the module that defines them
KNOWN: dict[str, dict[str, Handler]] = {
    "timm.layers.activations_me": dict.fromkeys(
        ("SwishAutoFn", "MishAutoFn", "HardSigmoidAutoFn", "HardSwishAutoFn", "HardMishAutoFn"), elementwise
    ),
    "transformers.models.bloom.modeling_bloom": {"GeLUFunction": elementwise},
    "transformers.models.phimoe.modeling_phimoe": {"PhimoeMultiplier": ordinary},  # picks the experts' answers
    "transformers.models.recurrent_gemma.modeling_recurrent_gemma": {"SqrtBoundDerivative": elementwise},
    "transformers.models.sew_d.modeling_sew_d": {"XSoftmax": ordinary, "XDropout": ordinary},
}
# operators, torch.ops.PACKAGE.NAME, by the package that defines them
OPERATORS: dict[str, dict[str, Handler]] = {
    "transformers": {"grouped_mm_fallback": matrix_product},  # experts, where torch has no kernel, or is compiling
    "torchvision": {
        "roi_align": summed,  # averages
        "ps_roi_align": summed,
        "ps_roi_pool": summed,
        "roi_pool": ordinary,  # a maximum
        "deform_conv2d": deformable,
    },
}


def is_snntorch_neuron(module: nn.Module) -> bool:
    """Whether a module is one of snnTorch's neurons. Does not import snnTorch, which is an extra."""
    names = (f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__)
    return any(name.startswith("snntorch.") and name.endswith(".SpikingNeuron") for name in names)


def register_known() -> None:
    """Register the known functions of imported packages, except those that a user registered."""
    places = [(sys.modules.get(name), handlers) for name, handlers in KNOWN.items()]
    places += [(getattr(torch.ops, name), handlers) for name, handlers in OPERATORS.items() if name in sys.modules]
    for place, handlers in places:
        for function, handler in handlers.items():
            found = getattr(place, function, None)
            if found is not None and found not in HANDLERS:
                register(found)(handler)
