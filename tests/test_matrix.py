"""Every rule on every small network: feedback accumulates, nothing is left behind. Add new rules to RULES."""

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from feedprop import attach, attached, detach, rewards, rules
from support.propagation import Residual, Step, feedback_of, randomised

RULES = {
    "epsilon 0": rules.Epsilon(0.0),
    "epsilon 1e-6": rules.Epsilon(1e-6),
    "epsilon 0.1": rules.Epsilon(0.1),
    "gamma": rules.Gamma(0.25),
    "alpha-beta": rules.AlphaBeta(),
    "z+": rules.ZPlus(),
}
NETWORKS = {
    "perceptron": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
    "smooth": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
    "steps": lambda: nn.Sequential(nn.Linear(6, 8), Step(), nn.Linear(8, 3)),
    "shared": lambda: _shared(),
    "convolutional": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(inplace=True),
        Residual(nn.Sequential(nn.Conv1d(4, 4, 1), nn.SiLU(inplace=True))), nn.AvgPool1d(3),
        nn.Flatten(), nn.Linear(4, 3),
    ),
    "no bias": lambda: nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3, bias=False)
    ),
}  # fmt: skip
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.3}  # relative distance

pytestmark = [
    pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys()),
    pytest.mark.parametrize("network", NETWORKS),
]


def _shared() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ELU(), nn.Linear(6, 3))


def _model(network: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    return randomised(NETWORKS[network]().to(dtype))


def _step(model: nn.Module, inputs: Tensor, targets: Tensor, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    value = rewards.SoftmaxReward()(model(inputs), targets)
    value.backward()
    return value.detach()


def _batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(8, 6, dtype=dtype), torch.randint(3, (8,))


def test_restored_on_exit_and_on_exception(rule: rules.Rule, network: str) -> None:
    model = _model(network)
    before = {path: dict(module.__dict__) for path, module in model.named_modules()}
    with attached(model, rule):
        _step(model, *_batch())
    with pytest.raises(KeyError), attached(model, rule):
        raise KeyError
    assert {path: dict(module.__dict__) for path, module in model.named_modules()} == before


def test_feedback_accumulates(rule: rules.Rule, network: str) -> None:
    model, batch = _model(network), _batch()
    with attached(model, rule):
        _step(model, *batch)
        once = {name: f.clone() for name, f in feedback_of(model).items()}
        _step(model, *batch)
    assert set(once) == {name for name, _ in model.named_parameters()}
    assert any((f != 0).any() for f in once.values())
    twice = {name: 2 * f for name, f in once.items()}
    torch.testing.assert_close(feedback_of(model), twice, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(rule: rules.Rule, network: str, dtype: torch.dtype) -> None:
    model, (inputs, targets) = _model(network), _batch()
    if network == "steps":
        with torch.no_grad():  # keep pre-activations away from 0: rounding could change their sign
            model[0].bias += 0.2 * model[0](inputs[:1]).sign()[0]
            inputs = inputs[:1] + 0.01 * inputs
    other = copy.deepcopy(model).to(dtype)
    for one, x in ((model, inputs), (other, inputs.to(dtype))):
        with attached(one, rule):
            _step(one.eval(), x, targets)
    assert {feedback.dtype for feedback in feedback_of(other).values()} == {dtype}
    found, expected = (torch.cat([f.flatten().double() for f in feedback_of(one).values()]) for one in (other, model))
    assert (found - expected).norm() < DTYPES[dtype] * expected.norm()


def test_values_are_those_of_the_plain_model(rule: rules.Rule, network: str) -> None:
    model, (inputs, _) = _model(network), _batch()
    plain = copy.deepcopy(model)
    torch.manual_seed(1)
    expected = plain(inputs)
    with attached(model, rule):
        torch.manual_seed(1)
        torch.testing.assert_close(model(inputs), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_inputs_need_no_gradient(rule: rules.Rule, network: str) -> None:
    model, (inputs, targets) = _model(network).eval(), _batch()
    leaf = inputs.clone().requires_grad_()
    found = []
    for x in (inputs, leaf):
        model.zero_grad()
        with attached(model, rule):
            _step(model, x, targets)
        found.append({name: f.clone() for name, f in feedback_of(model).items()})
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    assert leaf.grad.isfinite().all()


def test_nothing_is_left_behind(rule: rules.Rule, network: str) -> None:
    model = attach(_model(network), rule)
    output = model(_batch()[0])
    gone = weakref.ref(output)
    output.sum().backward()
    del output
    gc.collect()
    assert gone() is None
    assert torch.overrides._get_current_function_mode_stack() == []
    detach(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_copies_of_a_rule_are_equal(rule: rules.Rule, network: str) -> None:
    assert copy.deepcopy(rule) == rule
    assert hash(copy.deepcopy(rule)) == hash(rule)
    assert type(rule).__name__ in repr(rule)
    model, batch = _model(network).eval(), _batch()
    found = []
    for one in (rule, eval(repr(rule), vars(rules))):
        model.zero_grad()
        with attached(model, one):
            _step(model, *batch)
        found.append({name: f.clone() for name, f in feedback_of(model).items()})
    torch.testing.assert_close(*found, rtol=0, atol=0)
