"""Support for snnTorch's neurons; the only file that imports snntorch.

`attach` gives each `Leaky`, `RLeaky`, `Synaptic` and `Lapicque` a forward that does the same steps by
`feedprop.spiking.lif` while an attached model runs with gradients enabled; otherwise it calls the neuron's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

import snntorch  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.operations.dispatch import listened_to
from feedprop.operations.registry import Arguments, Context, Function, Keywords, register
from feedprop.spiking.dynamics import Number
from feedprop.spiking.lif import lif
from feedprop.spiking.synapse import leaky_sum

Outputs = tuple[Tensor, ...]


def replace(neurons: Iterable[nn.Module]) -> list[nn.Module]:
    """Let snnTorch's neurons pass credit while an attached model runs; return those that were changed.

    Raises:
        FeedpropError: feedprop does not know a neuron or one of its settings; then none is changed.
    """
    new = [neuron for neuron in neurons if not isinstance(neuron.__dict__.get("forward"), _NeuronForward)]
    for neuron in new:
        _check(neuron)
    for neuron in new:
        neuron.forward = _NeuronForward(neuron)
    return new


def _check(neuron: Any) -> None:
    name = type(neuron).__name__
    if type(neuron) not in STEPS:
        known = ", ".join(kind.__name__ for kind in STEPS)
        raise FeedpropError(f"feedprop knows snnTorch's {known}, not {name}: use one of them")
    settings = {
        "inhibition": neuron.inhibition,
        "state_quant": neuron.state_quant,
        "learn_threshold": isinstance(neuron.threshold, nn.Parameter),
        "graded_spikes_factor": bool((torch.as_tensor(neuron.graded_spikes_factor) != 1).any()),
    }
    for setting, used in settings.items():
        if used:
            raise FeedpropError(
                f"no rule says how credit passes a {name} with {setting}: leave {setting} at its default"
            )


class _NeuronForward:
    """A neuron's forward. A plain object, so that the model can be copied and pickled."""

    def __init__(self, neuron: nn.Module) -> None:
        self.neuron = neuron

    def __call__(self, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        kind: Any = type(self.neuron)
        if not (listened_to(input_) and handle_torch_function(_propagates, (input_,), input_)):
            return MethodType(kind.forward, self.neuron)(input_, *args, **kwargs)
        return _step(self.neuron, input_, dict(zip(STATES[kind], args, strict=False)) | kwargs)


def _propagates(input_: Tensor) -> bool:
    return False


@register(_propagates)
def _it_does(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> bool:
    return True


def _step(neuron: Any, input_: Tensor, given: dict[str, Tensor | None]) -> Any:
    """Do one step as the neuron's forward does, from the given state or its own; keep and return the new state."""
    kind = type(neuron)
    if neuron.init_hidden and any(value is not None for value in given.values()):
        raise TypeError("`mem` should not be passed as an argument while `init_hidden=True`")
    for name in STATES[kind]:
        value = given.get(name)
        value = getattr(neuron, name) if value is None else value
        setattr(neuron, name, value if value.shape == input_.shape else torch.zeros_like(input_))
    outputs: Outputs = STEPS[kind](neuron, input_)
    return outputs[0] if neuron.init_hidden and not neuron.output else outputs


def _fire(neuron: Any, current: Tensor, potential: Tensor, *, beta: Number, zero: str) -> Outputs:
    """Return spike and membrane, with the values of the neuron's own arithmetic, which rounds in another order.

    Args:
        neuron: with its membrane before the step in `mem`.
        current: what the membrane takes in; credit passes to it.
        potential: the membrane after it, as the neuron computes it, without gradient.
        beta: decay of the membrane.
        zero: the name of the neuron's "zero" in `Dynamics`.
    """
    start, delayed = neuron.mem, getattr(neuron, "reset_delay", True)
    with torch.no_grad():
        spike = neuron.fire(potential)
        membrane = potential
        if not delayed and neuron.reset_mechanism != "none":
            cut = neuron.threshold if neuron.reset_mechanism == "subtract" else potential
            membrane = potential - (spike / neuron.graded_spikes_factor - neuron.reset) * cut
    spikes, membranes = lif(
        current,
        start,
        beta=beta,
        threshold=_number(neuron.threshold),
        reset=zero if neuron.reset_mechanism == "zero" else neuron.reset_mechanism,
        reset_delay=delayed,
        steps=1,
        values=(spike[None], membrane[None], potential[None]),
    )
    fired, neuron.mem = spikes[0], membranes[0]
    # snnTorch's spikes have single precision: so have ours, but in double precision, which its own network would refuse
    return fired.to(torch.promote_types(fired.dtype, spike.dtype)), neuron.mem


def _number(value: Number) -> Number:
    """Return a buffer of one value as a float, where it can be read; anything else as it is."""
    if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or torch.compiler.is_dynamo_compiling():
        return value
    return value if value.numel() != 1 else value.item()


def _decay(value: Tensor) -> Number:
    number = _number(value)
    return number.clamp(0, 1) if isinstance(number, Tensor) else min(max(number, 0.0), 1.0)


def _own_step(neuron: Any, input_: Tensor) -> Any:
    """Return what the neuron itself makes of its state and the input: the membrane, after those that it is made of."""
    before = neuron.mem
    with torch.no_grad():
        neuron.reset = neuron.mem_reset(neuron.mem)
        state = neuron.state_function(input_)
    neuron.mem = before  # the reset to zero has overwritten it
    return state


def _leaky(neuron: Any, input_: Tensor) -> Outputs:
    return _fire(neuron, input_, _own_step(neuron, input_), beta=_decay(neuron.beta), zero="zero")


def _recurrent(neuron: Any, input_: Tensor) -> Outputs:
    """Run the connection once, under its rule, instead of `state_function`, which runs it up to twice."""
    returned = neuron.recurrent(neuron.spk)
    with torch.no_grad():
        neuron.reset = neuron.mem_reset(neuron.mem)
        potential = neuron.beta.clamp(0, 1) * neuron.mem + input_ + returned
        if neuron.reset_mechanism != "none":
            potential = potential - neuron.reset * (
                neuron.threshold if neuron.reset_mechanism == "subtract" else potential
            )
    neuron.spk, _ = _fire(neuron, input_ + returned, potential, beta=_decay(neuron.beta), zero="refractory")
    return neuron.spk, neuron.mem


def _synaptic(neuron: Any, input_: Tensor) -> Outputs:
    flowing, potential = _own_step(neuron, input_)
    passing = leaky_sum(input_, neuron.syn, alpha=_decay(neuron.alpha), steps=1)[0]
    neuron.syn = credit.with_values(flowing, passing)
    spike, membrane = _fire(neuron, neuron.syn, potential, beta=_decay(neuron.beta), zero="refractory")
    return spike, neuron.syn, membrane


def _lapicque(neuron: Any, input_: Tensor) -> Outputs:
    """u_t = (1 - dt / RC) u_(t-1) + (dt / C) I_t: leaky integrate-and-fire of a scaled current."""
    share = _number(neuron.time_step / neuron.C)
    current, _ = credit.undamped(input_)  # as where a neuron takes it directly
    potential = _own_step(neuron, input_)
    return _fire(neuron, current * share, potential, beta=1 - share / _number(neuron.R), zero="refractory")


STEPS = {
    snntorch.Leaky: _leaky,
    snntorch.RLeaky: _recurrent,
    snntorch.Synaptic: _synaptic,
    snntorch.Lapicque: _lapicque,
}
STATES = {
    snntorch.Leaky: ("mem",),
    snntorch.RLeaky: ("spk", "mem"),
    snntorch.Synaptic: ("syn", "mem"),
    snntorch.Lapicque: ("mem",),
}
