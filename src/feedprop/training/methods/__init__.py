"""Ways to train other than LFP and backprop, each a file: what they change of the ordinary backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from feedprop.training.methods import (
    direct_feedback_alignment,
    feedback_alignment,
    last_layer,
    sign_symmetric,
    straight_through,
)
from feedprop.training.methods.redirection import check_reached, restore


@dataclass(frozen=True)
class Method:
    """A way to train on a loss.

    Args:
        title: its name in reports
        attach: (model, inputs, seed) -> None; changes the model's gradients and leaves its values as they are
    """

    title: str
    attach: Callable[[nn.Module, Tensor, int], None]


METHODS: Mapping[str, Method] = {
    "feedback_alignment": Method("Feedback alignment (Lillicrap et al. 2016)", feedback_alignment.attach),
    "direct_feedback_alignment": Method("Direct feedback alignment (Nøkland 2016)", direct_feedback_alignment.attach),
    "sign_symmetric": Method("Sign-symmetric feedback (Liao et al. 2016)", sign_symmetric.attach),
    "last_layer": Method("Last layer alone, by backpropagation", last_layer.attach),
    "straight_through": Method("Straight-through estimator (Hubara et al. 2016)", straight_through.attach),
}
TITLES: Mapping[str, str] = {
    "lfp": "Layer-wise Feedback Propagation",
    "backprop": "Backpropagation",
    **{name: method.title for name, method in METHODS.items()},
}


def attach(name: str, model: nn.Module, inputs: Tensor, *, seed: int) -> None:
    """Let a model's backward passes follow a method; its values and its state stay as they are.

    What is random in a method depends on the seed and on the names and sizes of the layers alone, so a model that is
    made again is trained on in the same way.

    Args:
        name: one of METHODS.
        model: as it is before its first step, on the device that it is trained on.
        inputs: a few samples, as a batch.
        seed: of random feedback.

    Raises:
        FeedpropError: the method cannot train this model.
    """
    METHODS[name].attach(model, inputs, seed)
    check_reached(name, model, inputs)


def detach(model: nn.Module) -> None:
    """Give a model its ordinary backward pass again; what `last_layer` does not train stays so."""
    for module in model.modules():
        restore(module)
