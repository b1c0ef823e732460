"""Every rule x every activation x every small network: values, accumulation, nothing left behind."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, discrete, rewards, rules
from support.propagation import Call, Residual, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")

RULES = {
    "epsilon 0": rules.Epsilon(),
    "epsilon 0.1": rules.Epsilon(0.1),
    "gamma": rules.Gamma(),
    "alpha-beta": rules.AlphaBeta(),
    "z+": rules.ZPlus(),
    "z+, update by epsilon": rules.ZPlus(update="epsilon"),
    "w^2 first": rules.Composite(rules.Epsilon(), first=rules.WSquare()),
    "flat first": rules.Composite(rules.ZPlus(), first=rules.Flat()),
}
ACTIVATIONS = {
    **{
        name: getattr(torch, name)
        for name in ("sigmoid", "tanh", "sin", "cos", "atan", "erf", "sign", "round", "floor")
    },
    **{
        name: getattr(F, name)
        for name in (
            *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign"),
            *("hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink", "tanhshrink", "logsigmoid"),
        )
    },
    "threshold": lambda z: F.threshold(z, 0.1, 0.5),
    "clamp": lambda z: z.clamp(-0.5, 0.5),
    "-relu": lambda z: -z.relu(),
    "relu(-x)": lambda z: (-z).relu(),
    "step": discrete.step,
    "-step": lambda z: -discrete.step(z),
    "(z > 0)": lambda z: (z > 0).to(z.dtype),
    "ternary": discrete.ternary,
    "quantize": discrete.quantize,
    "top one": discrete.top_one,
}


def _perceptron(activation) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), Call(activation), nn.Linear(8, 3))


def _convolutional(activation) -> nn.Module:
    return nn.Sequential(
        *(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8), Call(activation)),
        *(
            Residual(nn.Sequential(nn.Conv1d(8, 8, 1), Call(activation))),
            nn.AvgPool1d(3),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
    )


def _shared(activation) -> nn.Module:
    layer = nn.Linear(6, 6, bias=False)
    between = nn.ConvTranspose1d(1, 1, 3, padding=1)
    return nn.Sequential(
        *(nn.Linear(6, 6), layer, Call(activation), layer, nn.Unflatten(1, (1, 6)), between, nn.Flatten()),
        *(Call(activation), nn.Linear(6, 3)),
    )


@pytest.mark.parametrize("network", [_perceptron, _convolutional, _shared], ids=lambda network: network.__name__[1:])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_every_rule_with_every_activation(rule: rules.Rule, activation, network) -> None:
    model, inputs, targets = randomised(network(activation)), torch.randn(8, 6), torch.randint(3, (8,))
    expected = copy.deepcopy(model)(inputs)
    before = {path: dict(module.__dict__) for path, module in model.named_modules()}
    found: list[dict[str, Tensor]] = []
    with attached(model, rule):
        for _ in range(2):
            model.load_state_dict(copy.deepcopy(model.state_dict()))
            outputs = model(inputs)
            torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
            rewards.SoftmaxReward()(outputs, targets).backward()
            found.append({name: feedback.clone() for name, feedback in feedback_of(model).items()})
    assert found[0].keys() == dict(model.named_parameters()).keys()
    assert all(feedback.isfinite().all() for feedback in found[0].values())
    assert [name for name, feedback in found[0].items() if name.endswith("weight") and not feedback.any()] == []
    torch.testing.assert_close(found[1], {name: 2 * f for name, f in found[0].items()}, rtol=1e-9, atol=1e-12)
    assert {path: dict(module.__dict__) for path, module in model.named_modules()} == before
