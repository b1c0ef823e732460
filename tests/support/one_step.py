"""One step of LFP with a listed model, and everything that must hold for it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedprop
from feedprop import rewards, rules
from feedprop.interception.audit import nodes_behind
from support.listed import Listed

REWARD = rewards.SoftmaxReward()


class StepError(Exception):
    """Says what does not hold for a model."""


@dataclass(frozen=True)
class Step:
    """What one step did."""

    tensors: int  # trainable ones, each of which was reached
    numbers: int  # in them
    zero: int  # tensors that are 0 in a fresh model
    nodes: int = 0  # of autograd behind the attached model's outputs, up to its weights
    own: int = 0  # those of them that are feedprop's


def one_step(listed: Listed) -> Step:
    """Take one step and return what it did.

    Raises:
        StepError: something does not hold for this model.
    """
    torch.manual_seed(0)
    model, inputs = listed.in_float64() if listed.relu else (listed.build(), listed.inputs())
    model.train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    zero = _used(trained)
    state = copy.deepcopy(model.state_dict())

    gradients, plain = propagated(model, inputs, F.cross_entropy, trained if listed.relu else {})
    model.load_state_dict(state)
    before = _attributes(model)
    feedprop.attach(model, rules.Epsilon())
    feedback, output = propagated(model, inputs, REWARD, trained)
    nodes, own = counted(output)
    _same(plain, output, "attached, the model answers differently")
    _reached(trained, feedback)
    for name, gradient in gradients.items():
        expected = gradient * trained[name].detach().abs()
        if not torch.allclose(feedback[name], expected, rtol=1e-6, atol=1e-9):
            raise StepError(f"{name}: a ReLU network's feedback is -|w| times the gradient, and this is not")

    torch.optim.SGD(trained.values(), lr=0.1).step()
    if not all(p.isfinite().all() for p in trained.values()):
        raise StepError("the step left parameters that are not finite")
    feedprop.detach(model)
    _restored(before, _attributes(model))
    model.load_state_dict(state)
    with torch.no_grad():
        _same(plain, _outputs(model, inputs), "detached, the model answers differently")
    return Step(len(trained), sum(p.numel() for p in trained.values()), zero, nodes, own)


def counted(outputs: list[Tensor]) -> tuple[int, int]:
    """Return how many nodes are behind an attached model's outputs, and how many of them are feedprop's own.

    The others pass credit by their ordinary backward. A node that no rule saw would have stopped the pass.
    """
    nodes = list(nodes_behind(outputs))
    made_by = [getattr(node, "_forward_cls", type(node)).__module__.partition(".")[0] for node in nodes]
    strays = set(made_by) - {"feedprop", "torch", "builtins"}
    if strays:
        raise StepError(f"nodes of {', '.join(sorted(strays))} are behind the output")
    return len(nodes), made_by.count("feedprop")


def _used(trained: dict[str, nn.Parameter]) -> int:
    """Make fresh parameters look like those of a trained model, and return how many were 0.

    Every eleventh weight is pruned: it would move if its feedback lacked the magnitude.
    """
    zero = fill_zeros(trained)
    with torch.no_grad():
        for p in trained.values():
            p.view(-1)[3::11] = 0
    return zero


def fill_zeros(trained: dict[str, nn.Parameter]) -> int:
    """Give small random values to parameters that are 0, and return how many there were.

    They have no feedback and stop credit from reaching earlier layers (blocks whose last scale starts at 0).
    """
    empty = [p for p in trained.values() if not p.any()]
    with torch.no_grad():
        for p in empty:
            p.normal_(std=0.02)
    return len(empty)


def propagated(
    model: nn.Module, inputs: dict[str, Tensor], objective: Any, trained: dict[str, nn.Parameter]
) -> tuple[dict[str, Tensor | None], list[Tensor]]:
    """Return `.grad` of the parameters in `trained`, and the model's outputs."""
    model.zero_grad()
    with torch.set_grad_enabled(bool(trained)):
        outputs = _outputs(model, inputs)
    if trained:
        rows = [o.flatten(0, -2) for o in outputs]
        torch.stack([objective(o, torch.arange(len(o)) % o.shape[1]) for o in rows]).sum().backward()
    return {name: p.grad for name, p in trained.items()}, outputs


def _outputs(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return every output that a user would reward, classes last."""
    torch.manual_seed(1)  # dropout, stochastic depth
    numpy.random.seed(1)  # Wav2Vec2's masks
    output = model(**inputs)
    for name in ("logits", "logits_per_image"):
        if not isinstance(output, tuple) and hasattr(output, name):
            output = getattr(output, name)
    return list(output) if isinstance(output, tuple) else [output]


def _same(expected: list[Tensor], found: list[Tensor], message: str) -> None:
    for one, other in zip(expected, found, strict=True):
        if not torch.allclose(one, other, rtol=1e-5, atol=1e-5):
            raise StepError(f"{message}, by up to {(one - other).abs().max():.1e}")


def _reached(trained: dict[str, nn.Parameter], feedback: dict[str, Tensor | None]) -> None:
    for name, found in feedback.items():
        if found is None or not found.any():
            raise StepError(f"{name} is not reached")
        if not found.isfinite().all():
            raise StepError(f"{name}: the feedback is not finite")
        if found[trained[name] == 0].any():
            raise StepError(f"{name}: weights of 0 have feedback, so it lacks |w|")


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Return all attributes of all modules by path, and each item of their dictionaries."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            place = f"{path}.{name}"
            found[place] = value
            if isinstance(value, dict):
                found[place] = list(value)
                found |= {f"{place}[{key!r}]": item for key, item in value.items()}
    return found


def _restored(before: dict[str, Any], after: dict[str, Any]) -> None:
    if before.keys() != after.keys():
        raise StepError(f"detach left a difference in {sorted(before.keys() ^ after.keys())}")
    for place, value in before.items():
        other = after[place]
        if value is not other and (isinstance(value, Tensor) or value != other):
            raise StepError(f"detach did not restore {place}")
