"""What a space says, and what is refused before the first trial."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from feedprop.errors import FeedpropError
from feedprop.training.sweep.space import Searched, read_space, take_space

FORMS = {
    ("optimizer.lr", "log:1e-4:1"): FloatDistribution(1e-4, 1.0, log=True),
    ("optimizer.lr", "1:10"): FloatDistribution(1.0, 10.0),  # whole ends, but the option takes reals
    ("model.dropout", "0:0.5"): FloatDistribution(0.0, 0.5),
    ("model.dropout", "0:0.5:0.25"): FloatDistribution(0.0, 0.5, step=0.25),
    ("batch_size", "16:256"): IntDistribution(16, 256),
    ("batch_size", "16:256:16"): IntDistribution(16, 256, step=16),
    ("epochs", "log:1:64"): IntDistribution(1, 64, log=True),
    ("model.hidden", "[64],[128,64]"): CategoricalDistribution(["[64]", "[128,64]"]),
    ("optimizer.name", "SGD,Adam"): CategoricalDistribution(["SGD", "Adam"]),
    ("clip_norm", "null,1,10"): CategoricalDistribution(["null", "1", "10"]),
    ("device", "cpu,auto"): CategoricalDistribution(["cpu", "auto"]),
}


@pytest.mark.parametrize(("option", "word"), FORMS)
def test_forms(option, word):
    assert Searched({}, {option: word}).space == {option: FORMS[option, word]}


REFUSED = {
    ("optimizer.lrr", "log:1e-4:1"): "the space: unknown option --optimizer.lrr; did you mean --optimizer.lr?",
    ("optimizer.lr", "log:0:1"): "--space.optimizer.lr log:0:1: a logarithmic range must begin above 0",
    ("optimizer.lr", "1:0.1"): "1 is not below 0.1",
    ("optimizer.lr", "-1:1"): "the space: the learning rate --optimizer.lr must be above 0, but is -1",
    ("optimizer.lr", "0.1"): "--space.optimizer.lr 0.1 leaves nothing to search",
    ("optimizer.lr", "log:1e-4"): "--space.optimizer.lr log:1e-4 is no range; write a range such as",
    ("optimizer.lr", "log:1e-4:1:2"): "a logarithmic range has no step",
    ("optimizer.lr", "0.1,high"): "--space.optimizer.lr, value high: --optimizer.lr must be",
    ("optimizer.lr", "0.1,0.1"): "has a value twice",
    ("batch_size", "0.5:4"): "the space: --batch_size must be a whole number",
    ("batch_size", "4:8:5"): "the step must be above 0 and at most 4",
    ("validation_fraction", "0.5:1"): "--space.validation_fraction, value 1.0: --validation_fraction must be above 0",
    ("output", "a,b"): "every trial has its own folder",
    ("optimizer.name", "SGD,Adm"): "--space.optimizer, value Adm: --optimizer: unknown optimizer 'Adm'",
    ("nonsense", "1,2"): "unknown option --nonsense",
}


@pytest.mark.parametrize(("option", "word"), REFUSED)
def test_what_is_refused(option, word):
    with pytest.raises(FeedpropError) as refused:
        Searched({}, {option: word})
    assert REFUSED[option, word] in str(refused.value)


def test_an_option_that_only_some_values_have_is_refused():
    with pytest.raises(FeedpropError, match=r"--space.optimizer, value Adam: unknown option --optimizer.momentum"):
        Searched({}, {"optimizer.name": "SGD,Adam", "optimizer.momentum": "0:0.9"})


def test_a_wrong_option_outside_the_space_is_named_alone():
    with pytest.raises(FeedpropError) as refused:
        Searched({"epochs": "0"}, {"optimizer.lr": "log:1e-4:1"})
    assert str(refused.value) == "--epochs must be at least 1, but is 0"


def test_a_file(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "optimizer: {lr: log:1e-4:1, momentum: [0.0, 0.9]}\nmodel.hidden: [[64], [128, 64]]\nreward: [A, B]\n"
    )
    assert read_space(str(file)) == {
        "optimizer.lr": "log:1e-4:1", "optimizer.momentum": ["0.0", "0.9"],
        "model.hidden": ["[64]", "[128, 64]"], "reward.name": ["A", "B"],
    }  # fmt: skip
    given = {"space": str(file), "space.reward": "B,C", "epochs": "2"}
    assert take_space(given)["reward.name"] == "B,C"
    assert given == {"epochs": "2"}
    file.write_text("batch_size: 1:10\n")  # which YAML reads as 70
    with pytest.raises(FeedpropError, match="the space of batch_size must be a list or a range in quotes, but is 70"):
        read_space(str(file))
    for text, error in (("- 1", "must hold keys and values"), ("a: *b", "aliases"), ("a: [", "is not YAML")):
        file.write_text(text)
        with pytest.raises(FeedpropError, match=error):
            read_space(str(file))


def test_without_a_space():
    with pytest.raises(FeedpropError, match=r"needs --space.OPTION"):
        take_space({"epochs": "2"})


def test_a_trial_has_the_defaults_of_its_components():
    searched = Searched({"epochs": "2"}, {"reward.name": "SoftmaxReward,MisclassificationReward"})
    rates = [
        searched.configuration({"reward.name": name}).components["optimizer"].arguments["lr"]
        for name in ("SoftmaxReward", "MisclassificationReward")
    ]
    assert rates == [0.1, 1.0]
