"""A run that does not learn says so once, with the remedy, on the terminal and in its folder; a good run never does."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

import feedprop
from feedprop.training.evaluation import Evaluation
from feedprop.training.symptoms import Symptoms
from feedprop.training.tasks import Classification


def _warnings(answer):
    assert answer.code == 0, answer.err
    return [line.removeprefix("warning: ") for line in answer.out.splitlines() if line.startswith("warning: ")]


GOOD = [
    "",
    "--optimizer.lr 0.01",
    "--optimizer.lr 0.5",
    "--optimizer Adam --optimizer.lr 0.001",
    "--optimizer Adam --optimizer.lr 0.1",
    "--method backprop",
    "--method backprop --optimizer Adam",
    "--rule presets.published --optimizer.lr 1",
    "--rule presets.sparse --optimizer.lr 1",
    "--rule Epsilon --rule.epsilon 0.1",
    "--scheduler none --optimizer.lr 0.03",
    "--batch_size 8 --epochs 2",
    "--epochs 60",
    "--model.activation Tanh",
    "--reward SigmoidReward",
    "--reward BoundedSoftmaxReward",
    "--reward ChoiceReward",
    "--reward MisclassificationReward",
    "--reward MaximizeReward",
    "--data blobs --data.points 500",
    "--model lif_mlp --model.hidden [60] --model.steps 8 --batch_size 32 --epochs 4",
]


@pytest.mark.parametrize("words", GOOD)
def test_a_run_that_learns_says_nothing(command, words):
    answer = command("train", "--output", "run", *words.split())
    assert _warnings(answer) == []
    assert json.loads(command("evaluate", "run", "--json").out)["accuracy"] > 0.7  # it did learn


LARGE, SMALL = "is too large for this optimizer", "is too small for this optimizer"
BAD = {
    "--optimizer.lr 1e-5": (SMALL, r"multiply --optimizer.lr by 2000$"),
    "--rule presets.published --rule.epsilon 5": (SMALL, r"multiply --optimizer.lr by \d+$"),
    "--optimizer.lr 5": (LARGE, r"divide --optimizer.lr by \d+$"),
    "--reward.reduction sum": (LARGE, r"divide --optimizer.lr by \d+$"),
    "--method backprop --optimizer.lr 30": ("the gradient " + LARGE, r"divide --optimizer.lr by \d+$"),
    "--method backprop --optimizer.lr 1e-5": ("the gradient " + SMALL, r"multiply --optimizer.lr by \d+$"),
    "--reward MisclassificationReward --reward.centred false --reward.epsilon 0": (LARGE, r"divide"),
    "--data samples.noise --optimizer.lr 0.003": ("no better than always answering", r"run feedprop check"),
}


@pytest.mark.parametrize("words", BAD)
def test_a_run_that_does_not_learn_says_why_once(command, tmp_path, words):
    (sentence,) = _warnings(command("train", "--output", "run", *words.split()))
    found, remedy = BAD[words]
    assert re.match(r"after \d+ steps, (all validation data are taken for class|training accuracy is 0\.)", sentence)
    assert found in sentence
    assert re.search(remedy, sentence)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["warnings"] for row in rows if "warnings" in row] == [[sentence]]
    assert json.loads((tmp_path / "run/results.json").read_text())["warnings"] == [sentence]
    assert sentence.partition(";")[0] in (tmp_path / "run/report.html").read_text()


def test_parameters_that_are_0_are_kept_in_the_run_too(command, tmp_path):
    words = ["--data", "blobs", "--data.points", 200, "--model", "samples.Zeros", "--epochs", 1, "--output", "run"]
    (sentence,) = _warnings(command("train", *words, "--rule", "presets.sparse"))
    assert "parameters are 0 and stay there" in sentence
    assert "--magnitude_floor 0.02" in sentence
    assert json.loads((tmp_path / "run/results.json").read_text())["warnings"] == [sentence]


TASK = Classification(("a", "b"))


def _after_epoch(confusion, *, right, step, steps=1000):
    symptoms = Symptoms(nn.Linear(2, 2), task=TASK, steps=steps, method="lfp")
    targets = torch.arange(100) % 2
    answers = torch.where(torch.arange(100) < right, targets, 1 - targets)
    symptoms.observe(nn.functional.one_hot(answers, 2).float(), targets)
    return symptoms.after_epoch(Evaluation(0.0, 0.5, {"confusion": confusion}), step=step)


def test_thresholds_by_hand():
    """100 samples of two classes: chance is .5, and three standard deviations are .15."""
    both, one = [[3, 2], [2, 3]], [[5, 0], [5, 0]]
    assert _after_epoch(both, right=65, step=400) == []
    assert "training accuracy is 0.640" in _after_epoch(both, right=64, step=400)[0]
    assert "all validation data are taken for class a" in _after_epoch(one, right=90, step=400)[0]
    assert _after_epoch([[5, 0], [0, 0]], right=90, step=400) == []  # there is no other class
    assert _after_epoch(one, right=50, step=299) == []  # within the first 30 %
    assert _after_epoch(one, right=50, step=300) != []
    assert _after_epoch(one, right=50, step=999, steps=100_000) == []
    assert _after_epoch(one, right=50, step=1000, steps=100_000) != []
    assert _after_epoch(one, right=50, step=49, steps=49) == []  # too short to judge
    assert _after_epoch(one, right=50, step=50, steps=50) != []


def test_what_a_layer_lacks_is_said():
    """A hidden layer falls silent, so that only the last bias gets feedback; a step moves little else."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    nn.init.constant_(model[0].bias, -100.0)
    symptoms = Symptoms(model, task=TASK, steps=100, method="backprop")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with feedprop.record(model) as log:
        symptoms.remarks = log.remarks
        for _ in range(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.rand(4, 2)), torch.tensor([0, 1, 0, 0])).backward()
            symptoms.step(optimizer.step)
        (sentence,) = symptoms.after_epoch(Evaluation(0.0, 0.5, {"confusion": [[5, 0], [5, 0]]}), step=100)
    assert "0 received no gradient for 50 steps: no credit comes to its outputs; look for what is silent" in sentence
    assert symptoms.after_epoch(Evaluation(0.0, 0.5, {"confusion": [[5, 0], [5, 0]]}), step=100) == []


@pytest.mark.parametrize("method", ["lfp", "backprop"])
def test_a_model_that_ends_in_a_softmax_is_remarked(command, tmp_path, method):
    """And the run keeps the remark, although it goes on."""
    words = ["--epochs", 1, "--model", "samples.Softmaxed", "--method", method, "--output", "run"]
    answer = command("train", "--data", "blobs", "--data.points", 200, *words)
    assert answer.code == 0, answer.err
    assert "warning: the outputs are probabilities, which sum to 1" in answer.out
    assert answer.err == ""
    kept = json.loads((tmp_path / "run/results.json").read_text())["warnings"]
    assert "leave out the model's last softmax" in kept[0]
