"""What takes an attached model for a program, or captures a part of it, runs without the rules and is refused."""

import pytest
import torch
from torch import Tensor, nn

from feedprop import FeedpropError, attach, attached, detach
from support.propagation import Call, randomised

INPUTS = torch.ones(3, 4)
TAKEN = {
    "export": lambda model: torch.export.export(model, (INPUTS,), strict=False),
    "strict export": lambda model: torch.export.export(model, (INPUTS,), strict=True),
    "trace": lambda model: torch.jit.trace(model, (INPUTS,)),
    "script": torch.jit.script,
}


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore:::torch")
@pytest.mark.parametrize("way", TAKEN)
def test_an_attached_model_is_detached_before_it_is_exported(way: str) -> None:
    model = attach(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))
    with pytest.raises(FeedpropError, match=r"cannot be exported, scripted or traced; call feedprop\.detach\(model\)"):
        TAKEN[way](model)
    detach(model)
    TAKEN[way](model)


class Chosen(nn.Module):
    """Chooses a layer by torch.cond."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: self.a(x), lambda x: self.b(x), (x,))


@pytest.mark.filterwarnings("ignore:::torch")
def test_torch_cond_in_a_pass_is_refused_in_one_sentence() -> None:
    model = Chosen()
    with attached(model), pytest.raises(FeedpropError, match=r"^torch\.cond, .*: write Python's if, while and for"):
        model(INPUTS)
    assert model(INPUTS).shape == (3, 4)


def test_several_credits_at_once_are_refused() -> None:
    layer = randomised(nn.Linear(4, 2))
    eye = torch.eye(6).view(6, 3, 2)
    with attached(nn.Sequential(layer, nn.Tanh())) as model:
        output = model(INPUTS)
        with pytest.raises(FeedpropError, match=r"is_grads_batched=True.* send several credits at once"):
            torch.autograd.grad(output, layer.weight, eye, is_grads_batched=True)
        with pytest.raises(FeedpropError, match="vectorize=True"):
            torch.autograd.functional.jacobian(model, INPUTS, vectorize=True)
        for row in eye:
            torch.autograd.grad(output, layer.weight, row, retain_graph=True)
        plain = Call(torch.sin)(x := INPUTS.clone().requires_grad_())
        torch.autograd.grad(plain, x, torch.eye(12).view(12, 3, 4), is_grads_batched=True)
