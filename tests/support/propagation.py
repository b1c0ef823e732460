"""One pass of feedback through an attached model, and small modules to try it on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@dataclass
class Pass:
    """Results of one forward and backward pass; feedback is minus `.grad`."""

    output: Tensor
    input_reward: Tensor
    feedback: dict[str, Tensor]


def feedback_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the feedback that the parameters hold."""
    return {name: -p.grad for name, p in model.named_parameters() if p.grad is not None}


def propagate(
    model: nn.Module, inputs: Tensor, rewards: Tensor, rule: rules.Rule | None = None, *, keep: bool = False, **settings
) -> Pass:
    """Send `rewards`, shaped like the outputs, back through the model; `keep` adds to the feedback already there."""
    if not keep:
        model.zero_grad()
    inputs = inputs.clone().requires_grad_()
    settings.setdefault("activation", rules.Secant.published())  # as in the paper, and so in the oracles
    with attached(model, rules.Composite.of(rule).replace(**settings)):
        output = model(inputs)
        output.backward((-rewards / output.detach()).masked_fill(output == 0, 0.0))
    return Pass(output.detach(), -inputs.detach() * inputs.grad, feedback_of(model))


def randomised(model: nn.Module) -> nn.Module:
    """Return the model with random parameters: a bias that starts at 0 would get no feedback."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.1)
    return model


def accuracy_on_blobs(model: nn.Module) -> float:
    """Train an attached model for 40 steps on two blobs of 100 points in two dimensions; returns its accuracy."""
    labels = torch.arange(200) % 2
    inputs = torch.randn(200, 2) * 0.3 + labels[:, None] * 2 - 1
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with attached(model):
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        return (model(inputs).argmax(1) == labels).double().mean().item()


class Residual(nn.Module):
    """inner(x) + x."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x


class Step(nn.Module):
    """1 where z > 0, else 0."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.heaviside(z, torch.zeros((), dtype=z.dtype))


class Call(nn.Module):
    """A function as a model."""

    def __init__(self, function, **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, *inputs: Tensor):
        return self.function(*inputs, **dict(self.named_parameters()))
