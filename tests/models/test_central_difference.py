"""By narrow central differences every activation has its derivative: then the feedback is -|w| times the gradient.

That holds for attention, gates, normalisations and activations written out alike, since all but activations have their
ordinary backward in training.
"""

import copy

import pytest
import torch
from torch.nn import functional as F

import feedprop
from feedprop import rules
from support.listed import Listed
from support.model_table import SOURCES
from support.one_step import REWARD, fill_zeros, propagated

IN_FLOAT32 = {"MixtralForCausalLM"}  # its experts are multiplied by a function that has no float64
# these compute states in float32, which does not resolve narrower steps
WIDTHS = {"Mamba2ForCausalLM": 1e-3, "Qwen3NextForCausalLM": 1e-3}
LISTED = [listed for models in SOURCES.values() for listed in models if listed.name not in IN_FLOAT32]


@pytest.mark.parametrize("listed", LISTED, ids=lambda listed: listed.name)
def test_feedback_by_narrow_central_differences_is_magnitude_times_gradient(listed: Listed) -> None:
    torch.manual_seed(0)
    model, inputs = listed.in_float64()
    trained = {name: p for name, p in model.train().named_parameters() if p.requires_grad}
    fill_zeros(trained)
    state = copy.deepcopy(model.state_dict())
    gradients, _ = propagated(model, inputs, F.cross_entropy, trained)
    model.load_state_dict(state)
    feedprop.attach(model, rules.Composite(activation=rules.CentralDifference(WIDTHS.get(listed.name, 1e-7))))
    feedback, _ = propagated(model, inputs, REWARD, trained)
    for name, p in trained.items():
        expected = gradients[name] * p.detach().abs()
        off = (feedback[name] - expected).norm()
        assert off <= 1e-3 * expected.norm() + 1e-6, f"{name}: {off:.1e} of {expected.norm():.1e}"
