"""What is measured for classes, numbers and several labels: figures by hand, and runs of the command."""

from __future__ import annotations

import json
import math

import pytest
import torch

from feedprop.errors import FeedpropError
from feedprop.training.data.standardisation import Normalisation
from feedprop.training.tasks import Classification, MultiLabel, Regression


def _figures(task, *batches):
    metrics = task.metrics()
    for answers, targets in batches:
        metrics.update(torch.tensor(answers), torch.tensor(targets))
    return task.figures(metrics.compute())


def test_figures_of_regression_by_hand():
    """True values around 25, whose squares add up to 500; answers are wrong by 2, 2, 0, 4, squared 24."""
    task = Regression(("price",), Normalisation((25.0,), (10.0,)))
    targets = task.scaled(torch.tensor([[10.0], [20.0], [30.0], [40.0]])).tolist()
    answers = task.scaled(torch.tensor([[12.0], [18.0], [30.0], [44.0]])).tolist()
    found = _figures(task, (answers[:3], targets[:3]), (answers[3:], targets[3:]))
    assert found["r2"] == pytest.approx(1 - 24 / 500, abs=1e-6)
    assert found["mae"] == pytest.approx([2.0], abs=1e-5)
    assert found["predictions"]["true"] == [pytest.approx([value]) for value in (10, 20, 30, 40)]
    assert found["predictions"]["predicted"] == [pytest.approx([value]) for value in (12, 18, 30, 44)]
    assert json.dumps(found)


def test_several_outputs_have_an_error_each_in_their_own_units():
    task = Regression(("metres", "grams"), Normalisation((0.0, 0.0), (1.0, 1000.0)))
    found = _figures(task, ([[0.0, 0.0], [2.0, 1.0]], [[1.0, 0.5], [3.0, 1.5]]))
    assert found["mae"] == pytest.approx([1.0, 500.0])


def test_figures_of_several_labels_by_hand():
    """Label a: one right of two answered, none missed: F1 2/3. Label b: none answered of one: 0."""
    found = _figures(MultiLabel(("a", "b")), ([[3.0, -3.0], [2.0, -1.0]], [[1.0, 1.0], [0.0, 0.0]]))
    assert found["per_label"] == pytest.approx([2 / 3, 0.0])
    assert found["f1"] == pytest.approx(1 / 3)
    assert found["accuracy"] == pytest.approx(0.5)


def test_losses_beside_rewards():
    answers = torch.tensor([[0.5, -1.0]])
    assert Regression(("a", "b")).compute_loss(answers, torch.tensor([[1.5, 0.0]])) == 1.0
    expected = -(math.log(1 / (1 + math.exp(-0.5))) + math.log(1 - 1 / (1 + math.exp(1.0)))) / 2
    assert MultiLabel(("a", "b")).compute_loss(answers, torch.tensor([[1, 0]])) == pytest.approx(expected)


def test_answers_that_are_all_alike_are_a_symptom():
    same = {"predictions": {"predicted": [[3.0], [3.0]], "true": [[1.0], [2.0]]}}
    assert Regression(("a",)).failure(same) == "all validation data get the same answer"
    assert Regression(("a",)).failure({"predictions": {"predicted": [[3.0], [3.1]], "true": [[1.0], [2.0]]}}) is None
    assert "no label is ever right" in MultiLabel(("a",)).failure({"f1": 0.0})
    assert MultiLabel(("a",)).failure({"f1": 0.1}) is None


BAD = [
    (Classification(("a", "b")), torch.tensor([0, 2]), "out of range: found 2"),
    (Classification(("a", "b")), torch.tensor([0.0, 1.0]), "must be whole numbers"),
    (Regression(("a",)), torch.tensor([1.0, 2.0]), r"must be floating point numbers \(samples, 1\)"),
    (Regression(("a",)), torch.tensor([[1.0], [math.nan]]), "hold NaN or infinity"),
    (MultiLabel(("a", "b")), torch.tensor([[1.0, 0.5]]), "must be 0 or 1"),
    (MultiLabel(("a", "b")), torch.tensor([[1, 0]]), "must be floating point numbers"),
]


@pytest.mark.parametrize(("task", "targets", "message"), BAD, ids=range(len(BAD)))
def test_targets_that_do_not_fit_are_refused(task, targets, message):
    with pytest.raises(FeedpropError, match=message):
        task.check_targets(targets, part="training", name="data")


@pytest.mark.parametrize("method", ["lfp", "backprop"])
def test_a_regression_learns_and_is_evaluated_in_the_units_of_the_data(command, tmp_path, method):
    words = ["--data", "diabetes", "--epochs", 30, "--output", "run", "--method", method]
    answer = command("train", *words)
    assert answer.code == 0, answer.sentence
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test"]["r2"] > 0.35  # ridge regression has .475
    assert 30 < results["test"]["mae"][0] < 60  # the targets lie between 25 and 346
    answer = command("evaluate", "run", "--json")
    assert json.loads(answer.out)["r2"] == pytest.approx(results["test"]["r2"], abs=1e-5)
    assert "progression" in command("evaluate", "run").out


@pytest.mark.parametrize("method", ["lfp", "backprop"])
def test_several_labels_learn(command, tmp_path, method):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 3, generator=generator)
    rows = [[*row, *(int(value > 0) for value in row)] for row in inputs.tolist()]
    lines = ["a,b,c,x,y,z", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    words = ["--data", "table", "--data.path", "table.csv", "--data.target", "x,y,z", "--data.task", "multi_label"]
    answer = command("train", *words, "--method", method, "--epochs", 20, "--output", "run")
    assert answer.code == 0, answer.sentence
    assert json.loads((tmp_path / "run/results.json").read_text())["test"]["f1"] > 0.9
    assert "F1" in command("evaluate", "run").out


@pytest.mark.parametrize("reward", ["SoftmaxReward", "SigmoidReward"])
def test_a_reward_for_classes_is_refused_for_numbers(command, reward):
    answer = command("train", "--data", "diabetes", "--reward", reward)
    assert answer.code == 2
    assert "whose targets are numbers; use --reward RegressionReward" in answer.sentence


def test_a_model_with_another_number_of_outputs_is_refused(command):
    answer = command("train", "--data", "diabetes", "--model.classes", 3)
    assert "has 3 outputs, but the data has 1 target; give the model 1 outputs" in answer.sentence
