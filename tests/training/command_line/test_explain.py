"""feedprop explain: a page of heatmaps for a run on images, and how good they are."""

from __future__ import annotations

import base64
import io
import re

import pytest
import torch
from PIL import Image
from torch import nn

import feedprop
from feedprop.inspection.heatmaps import heatmap
from feedprop.rewards import SoftmaxReward
from feedprop.rules import presets
from feedprop.training.evaluation import Objective
from feedprop.training.explanation import Explained
from feedprop.training.tasks import Classification


@pytest.fixture
def digits(command, tmp_path):
    assert command("train", "--epochs", 3, "--output", "digits", "--device", "cpu").code == 0
    return tmp_path / "digits"


def test_explain_writes_a_page_and_says_how_good_it_is(command, digits):
    answer = command("explain", digits, "--number", 5, "--evaluate", "--device", "cpu")
    assert answer.code == 0, answer.err
    page = (digits / "explained.html").read_text()
    assert page.count("<figcaption>") == 5
    assert page.count('src="data:image/png;base64,') == 20  # image, answer, rewards before and after training
    assert "<th>rules</th><td>epsilon_plus</td>" in page
    areas = {
        line[:23].strip(): float(line.split()[-3]) for line in answer.out.splitlines() if re.search(r"\d\.\d{3}", line)
    }
    assert set(areas) == {"random", "gradient", "gradient times input", "relevance"}
    assert areas["relevance"] > max(areas["random"], areas["gradient"])


def test_explain_refuses_what_it_cannot_draw(command, run, digits):
    assert "feedprop explain draws images, and this data has inputs of shape (2,)" in command("explain", run).sentence
    assert "--number must be at least 1, but is 0" in command("explain", digits, "--number", 0).sentence
    sentence = command("explain", digits, "--composite", "epsilon_plas").sentence
    assert "--composite must be one of training, published, conserving," in sentence
    assert sentence.endswith("but is epsilon_plas\n")
    assert "is not a run of feedprop train" in command("explain", "nowhere").sentence


def test_the_rewards_before_training_need_its_weights(command, digits, monkeypatch):
    """Where the seed no longer gives the weights that training noted, the page has none of them."""
    monkeypatch.setattr("feedprop.training.command_line.explain.set_seed", lambda seed: torch.manual_seed(seed + 1))
    assert command("explain", digits, "--number", 5, "--device", "cpu").code == 0
    assert (digits / "explained.html").read_text().count('src="data:image/png;base64,') == 10


def test_what_was_rewarded_by_hand():
    """A linear model: pixel i of the only channel is rewarded by x_i times the sum over classes of w_ki (y_k - p_k)."""
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(3, 1, 2, 2)
    labels = torch.tensor([0, 1, 1])
    task = Classification(("a", "b"))
    credit = nn.functional.one_hot(labels, 2) - model(images).softmax(1).detach()
    expected = images.flatten(1) * (credit @ model[1].weight.detach()) / 3
    found = Explained(model, images, presets.conserving())
    for objective in (
        Objective(SoftmaxReward(), "reward", -1, task),
        Objective(nn.CrossEntropyLoss(), "loss", 1, task),
    ):
        torch.testing.assert_close(found.pushed(model, labels, objective).flatten(1), expected)


class Coloured(nn.Module):
    """Two classes by the sums of two channels, three times over time if it spikes."""

    def __init__(self, *, spikes: bool) -> None:
        super().__init__()
        self.layer, self.spikes = nn.Linear(3, 2, bias=False), spikes
        nn.init.eye_(self.layer.weight)

    def forward(self, images):
        outputs = self.layer(images.sum((2, 3)))
        return torch.stack([outputs] * 3) if self.spikes else outputs


@pytest.mark.parametrize("spikes", [False, True])
def test_the_page_shows_images_and_their_relevance(spikes):
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0, 0, 0], images[1, 1, 2, 2], images[1, 0, 0, 0] = 4.0, 2.0, 1.0
    found = Explained(Coloured(spikes=spikes), images, presets.conserving())
    assert found.answers.tolist() == [0, 1]
    expected = feedprop.relevance(Coloured(spikes=False), images, [0, 1]).inputs.sum(1) * (3 if spikes else 1)
    torch.testing.assert_close(found.relevance, expected)
    page = found.page(title="run", labels=torch.tensor([0, 0]), classes=["<red>", "green"], facts={"rules": "r"})
    assert "&lt;red&gt;; output" in page
    assert '<span class="wrong">green</span>, labelled &lt;red&gt;' in page
    pictures = [Image.open(io.BytesIO(base64.b64decode(code))) for code in re.findall(r"base64,([^\"]+)", page)]
    assert [picture.size for picture in pictures] == [(140, 140)] * 4
    assert pictures[0].getpixel((0, 0)) == (255, 0, 0)
    assert pictures[1].getpixel((0, 0)) == tuple(heatmap(torch.ones(1, 1), colours="seismic").flatten().tolist())
    assert pictures[3].getpixel((0, 0)) == (255, 255, 255)
