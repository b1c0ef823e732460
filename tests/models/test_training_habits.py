"""What people do with Hugging Face models besides calling them: `labels`, generation, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedprop
from feedprop import rewards
from support.huggingface import HUGGING_FACE

NAMED = {listed.name: listed for listed in HUGGING_FACE}
CLOSE = {"rtol": 1e-5, "atol": 1e-8}  # logits are turned into float32 on the way to a loss


def _attached(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    model, inputs = NAMED[name].in_float64()
    return feedprop.attach(model.eval(), feedprop.rules.Composite(magnitude_floor=0.02)), inputs


def _feedback(model: nn.Module, objective: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    objective.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "name",
    ["BertForSequenceClassification", "ViTForImageClassification", "LlamaForCausalLM", "T5ForConditionalGeneration"],
)
def test_the_loss_of_labels_is_the_softmax_reward(name: str) -> None:
    model, inputs = _attached(name)
    logits: Any = model(**inputs).logits
    labels = torch.randint(3, logits.shape[-1], logits.shape[:-1])
    told = (logits[:, :-1], labels[:, 1:]) if "Causal" in name else (logits, labels)
    reward = rewards.SoftmaxReward()(told[0].flatten(0, -2), told[1].flatten())
    expected = _feedback(model, reward)
    found = _feedback(model, model(**inputs, labels=labels).loss)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_generation_goes_on_as_before() -> None:
    model, inputs = _attached("GPT2LMHeadModel")
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    found = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    expected = feedprop.detach(model).generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(found, expected)
