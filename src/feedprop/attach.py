"""Puts rules under a model and removes them again.

`attach` replaces `model.forward` on the instance, and the call that runs its hooks. While the model runs with gradients
enabled, a mode sends every torch function to its handler in `feedprop.operations` (see `feedprop.interception`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

from feedprop.credit import marks
from feedprop.errors import FeedpropError, first_few
from feedprop.interception.forward import Forward
from feedprop.interception.unsupported import refuse_unsupported
from feedprop.operations.packages import is_snntorch_neuron
from feedprop.rules import Composite, Rule, presets

Model = TypeVar("Model", bound=nn.Module)


def attach(
    model: Model, composite: Rule | Composite | None = None, *, unknown: str = "error", methods: Sequence[str] = ()
) -> Model:
    """Make the backward pass of `model` carry feedback: afterwards `param.grad` is minus the feedback. Returns `model`.

    Args:
        model: any module. Its `forward` (and each of `methods`) is replaced; if the composite has more than a default
            rule, modules with parameters get hooks. `detach` removes all of it.
        composite: one rule for everything, or a composite; `rules.presets.training()` if not given.
        unknown: "error" stops at a differentiable function that no handler covers; "gradient" uses its gradient.
        methods: names of further methods of `model` that run under the rules, such as ("encode", "decode").

    Raises:
        FeedpropError: `model` is attached already, or an argument is out of range.
        UnknownOperationError: (in the forward pass) no handler covers a function, or no rule sees a parameter.

    >>> model = attach(nn.Linear(2, 1))
    >>> detach(model)
    Linear(in_features=2, out_features=1, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"attach() takes a torch.nn.Module, not {type(model).__name__}")
    composite = presets.training() if composite is None else Composite.of(composite)
    if unknown not in ("error", "gradient"):
        raise FeedpropError(f'unknown must be "error" or "gradient", not {unknown!r}')
    if isinstance(methods, str):
        raise FeedpropError(f"methods takes several names, such as methods=({methods!r},)")
    for name in methods:
        if not _is_further_method(model, name):
            raise FeedpropError(f"methods names {name!r}, which is no further method of {type(model).__name__}")
    if not methods and type(model).forward is nn.Module.forward and "forward" not in model.__dict__:
        raise FeedpropError(
            f"{type(model).__name__} has no forward(): attach the module that calls its parts, or each of these, name "
            f'the methods that compute, attach(model, methods=("encode", ...)), or rename its __call__ to forward'
        )
    if isinstance(model.__dict__.get("forward"), Forward):
        raise FeedpropError("this model is attached already; call feedprop.detach(model) first")
    refuse_unsupported(model)
    if composite.magnitude_floor == 0:
        _warn_of_zeros(model)
    neurons = _replace_neurons(model)
    Forward(model, composite, unknown=unknown, methods=methods).neurons = neurons
    return model


def _is_further_method(model: nn.Module, name: str) -> bool:
    if name in ("forward", "_call_impl") or name.startswith("__") or name in model._modules:
        return False
    return callable(getattr(model, name, None)) and not isinstance(getattr(type(model), name, None), property)


def _replace_neurons(model: nn.Module) -> list[nn.Module]:
    """Let snnTorch's neurons pass credit. Returns them."""
    found = [module for module in model.modules() if is_snntorch_neuron(module)]
    if not found:
        return []
    from feedprop.spiking import snntorch  # an extra, installed whenever such neurons exist

    return snntorch.replace(found)


def _warn_of_zeros(model: nn.Module) -> None:
    stuck = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and not is_lazy(p) and not p.is_meta and p.numel() and not p.detach().any()
    ]
    if stuck:
        warnings.warn(
            f"{len(stuck)} parameters are 0 and stay there, since feedback is proportional to |w| "
            f"({first_few(stuck)}); a composite with magnitude_floor=0.02 lets them learn",
            stacklevel=3,
        )


def detach(model: Model) -> Model:
    """Remove the rules: `model` is as it was before `attach`. Returns `model`.

    Raises:
        FeedpropError: `model` is not attached, or its `forward` was replaced again after `attach`.
    """
    forward = model.__dict__.get("forward")
    if not isinstance(forward, Forward):
        if forward is None:
            raise FeedpropError("this model is not attached")
        raise FeedpropError("this model had its forward replaced after attach(); undo that first")
    if forward.model is not model:  # a shallow copy that never ran
        forward = forward.of_copy(model)
    forward.remove()
    for neuron in forward.neurons:
        del neuron.forward
    for buffer in model.buffers():  # the model may have written to them
        marks.clear(buffer)
    return model


@contextlib.contextmanager
def attached(
    model: Model, composite: Rule | Composite | None = None, *, unknown: str = "error", methods: Sequence[str] = ()
) -> Iterator[Model]:
    """Attach within a `with` block, and detach at its end, exceptions included. Arguments as for `attach`."""
    attach(model, composite, unknown=unknown, methods=methods)
    try:
        yield model
    finally:
        detach(model)
