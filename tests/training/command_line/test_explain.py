"""feedprop explain: a page of what the answers of a run were made of, and how good it is."""

from __future__ import annotations

import base64
import io
import re

import pytest
import torch
from PIL import Image
from torch import nn

import feedprop
from feedprop.errors import FeedpropError
from feedprop.inspection.heatmaps import heatmap
from feedprop.rewards import SoftmaxReward
from feedprop.rules import presets
from feedprop.spiking import models
from feedprop.training.data.standardisation import Normalisation
from feedprop.training.data.tokens import Piece, Tokens, words
from feedprop.training.evaluation import Objective
from feedprop.training.explanation import Explained, limits
from feedprop.training.report.explained_page import write_explanation
from feedprop.training.tasks import Classification, MultiLabel, Regression

TWO = Classification(("a", "b"))


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


def test_explain_refuses_what_it_cannot_explain(command, digits):
    assert "--number must be at least 1, but is 0" in command("explain", digits, "--number", 0).sentence
    sentence = command("explain", digits, "--composite", "epsilon_plas").sentence
    assert "--composite must be one of training, published, conserving," in sentence
    assert sentence.endswith("but is epsilon_plas\n")
    assert "is not a run of feedprop train" in command("explain", "nowhere").sentence
    assert command("explain", digits, "--composite", "presets.epsilon_gamma").code == 0  # as --rule has it


def test_the_rewards_before_training_need_its_weights(command, digits, monkeypatch):
    """Where the seed no longer gives the weights that training noted, the page has none of them."""
    monkeypatch.setattr("feedprop.training.command_line.explain.set_seed", lambda seed: torch.manual_seed(seed + 1))
    assert command("explain", digits, "--number", 5, "--device", "cpu").code == 0
    assert (digits / "explained.html").read_text().count('src="data:image/png;base64,') == 10


def test_what_was_rewarded_by_hand():
    """A linear model: pixel i of the only channel is rewarded by x_i times the sum over classes of w_ki (y_k - p_k)."""
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(3, 1, 2, 2)
    labels = torch.tensor([0, 1, 1])
    credit = nn.functional.one_hot(labels, 2) - model(images).softmax(1).detach()
    expected = images.flatten(1) * (credit @ model[1].weight.detach()) / 3
    found = Explained(model, images, TWO, presets.conserving())
    for objective in (
        Objective(SoftmaxReward(), "reward", -1, TWO),
        Objective(nn.CrossEntropyLoss(), "loss", 1, TWO),
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
    found = Explained(Coloured(spikes=spikes), images, Classification(("<red>", "green")), presets.conserving())
    assert found.chosen.tolist() == [0, 1]
    expected = feedprop.relevance(Coloured(spikes=False), images, [0, 1]).inputs.sum(1) * (3 if spikes else 1)
    torch.testing.assert_close(found.relevance, expected)
    page = write_explanation(found, title="run", targets=torch.tensor([0, 0]), facts={"rules": "r"})
    assert "&lt;red&gt;; output" in page
    assert re.search('<span class="wrong">green; output .*</span>, labelled &lt;red&gt;', page)
    pictures = [Image.open(io.BytesIO(base64.b64decode(code))) for code in re.findall(r"base64,([^\"]+)", page)]
    assert [picture.size for picture in pictures] == [(140, 140)] * 4
    assert pictures[0].getpixel((0, 0)) == (255, 0, 0)
    assert pictures[1].getpixel((0, 0)) == tuple(heatmap(torch.ones(1, 1), colours="seismic").flatten().tolist())
    assert pictures[3].getpixel((0, 0)) == (255, 255, 255)


def test_the_page_of_a_table_names_its_inputs(command, tmp_path):
    assert command("train", "--data", "diabetes", "--epochs", 1, "--output", "run", "--device", "cpu").code == 0
    answer = command("explain", "run", "--number", 2, "--evaluate", "--device", "cpu")
    assert answer.code == 0, answer.err
    page = (tmp_path / "run/explained.html").read_text()
    assert page.count("<figcaption>progression: ") == 2
    assert page.count('aria-label="relevance"') == page.count('aria-label="reward before training"') == 2
    assert {"age", "bmi", "s6"} <= set(re.findall(r">(\w+) = ", page))


def test_a_pruned_model_is_explained_within_the_box_of_its_inputs(command, tmp_path):
    words = ["--data", "digits", "--epochs", 1, "--device", "cpu"]
    assert command("train", *words, "--output", "run").code == 0
    assert command("prune", "run", "--device", "cpu", "--samples", 100).code == 0
    words = ["--checkpoint", "pruned", "--composite", "epsilon_gamma_box", "--number", 3, "--device", "cpu"]
    answer = command("explain", "run", *words)
    assert answer.code == 0, answer.err
    assert "epsilon_gamma_box" in (tmp_path / "run/explained.html").read_text()


def test_the_limits_of_images_are_black_and_white_and_of_others_what_is_there():
    normalisation = Normalisation((0.5, 0.0), (0.5, 2.0))
    assert limits(torch.zeros(1, 2, 3, 3), normalisation) == (-1.0, 1.0)
    assert limits(torch.full((1, 2, 3, 3), 4.0), normalisation) == (-1.0, 4.0)
    assert limits(torch.tensor([[3.0, 5.0]]), normalisation) == (3.0, 5.0)


def test_bars_have_the_relevance_of_the_most_relevant_inputs():
    model, inputs = nn.Linear(12, 1, bias=False), torch.ones(1, 12)
    with torch.no_grad():
        model.weight.copy_(torch.arange(12.0) * torch.tensor([1.0, -1.0]).repeat(6))
    found = Explained(model, inputs, Regression(("y",)), presets.conserving())
    page = write_explanation(found, title="run", targets=torch.tensor([[0.5]]), facts={})
    assert re.findall(r">input (\d+) = 1<", page) == [str(place) for place in range(12, 2, -1)]
    assert [float(value) for value in re.findall(r"<title>(.*?)</title></rect>", page)] == [
        place * (-1) ** place for place in range(11, 1, -1)
    ]
    assert "y: -6, in truth 0.5" in page


def test_one_of_several_labels_is_explained():
    model, inputs = nn.Linear(2, 3, bias=False), torch.tensor([[1.0, 2.0]])
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 1.0], [5.0, -1.0], [0.0, 0.0]]))
    found = Explained(model, inputs, MultiLabel(("a", "b", "c")), presets.conserving())
    torch.testing.assert_close(found.relevance, torch.tensor([[5.0, -2.0]]))
    page = write_explanation(found, title="run", targets=torch.tensor([[1.0, 0.0, 1.0]]), facts={}, inputs=["x", "<y>"])
    assert '<span class="wrong">b; output 3</span>, labelled a, c' in page
    assert "&lt;y&gt; = 2" in page


def test_sequences_and_spikes_have_the_relevance_of_the_model_itself():
    torch.manual_seed(0)
    model, inputs = models.lif_mlp((3, 80, 2), steps=None), 2 * torch.rand(7, 4, 3)
    found = Explained(model, inputs, TWO, presets.conserving(), timed=True)
    expected = feedprop.relevance(model, inputs, lambda outputs: outputs.sum(0).gather(1, found.chosen[:, None])[:, 0])
    torch.testing.assert_close(found.relevance, expected.inputs.transpose(0, 1))
    hidden = found.fired(4)[0]
    spikes, relevance = (values.flatten(2) for values in (hidden.spikes, hidden.relevance))
    assert (hidden.layer, hidden.kind, spikes.shape) == ("layers.2", "LIF", (7, 4, 80))
    torch.testing.assert_close(relevance, expected.modules["layers.2"][0])
    assert not relevance[spikes == 0].any()
    page = write_explanation(found, title="run", targets=torch.tensor([0, 1, 0, 1]), facts={})
    assert page.count("layers.2 LIF, the 60 most relevant of 80 neurons") == 3
    assert page.count('aria-label="spikes of each layer over the steps"') == 3
    assert found.deletions()["relevance"].most_first.shape == (15, 4)


def test_what_is_no_image_table_or_sequence_is_refused():
    with pytest.raises(FeedpropError, match=r"inputs of shape \(2, 3, 4, 5\); call feedprop.relevance"):
        Explained(nn.Flatten(), torch.zeros(1, 2, 3, 4, 5), TWO, presets.conserving())


def test_the_page_shows_texts_in_the_colours_of_their_relevance(command, mails):
    answer = command("explain", mails, "--number", 4, "--evaluate", "--device", "cpu")
    assert answer.code == 0, answer.err
    page = (mails / "explained.html").read_text()
    assert page.count('<p class="tokens">') == 12  # relevance, rewards before and after training
    strongest = re.findall(r'<span style="background:rgb\((\d+) [^"]* / 70%\)" title="\+[^"]*">(\w+)</span>', page)
    assert {word for _, word in strongest} & {"Lottery", "meeting"}
    assert re.search(r'<span class="unknown"[^>]*title="[^"]*, not in the vocabulary">only\d+\w+</span> ?</p>', page)
    assert "&lt;<span" in page
    areas = {
        line[:23].strip(): float(line.split()[-3]) for line in answer.out.splitlines() if re.search(r"\d\.\d{3}", line)
    }
    assert areas["relevance"] > max(areas["random"], areas["gradient"])


def test_special_tokens_and_padding_are_neither_shown_nor_deleted():
    """By hand: the embedding of a token is its relevance for the only output."""
    model = nn.Sequential(nn.Embedding(5, 1), nn.Flatten(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[7.0], [-2.0], [4.0], [1.0], [9.0]]))
        model[2].weight.fill_(1.0)

    def split(text):
        return [Piece("<start>", 0, 0), *(Piece(found[0], *found.span()) for found in re.finditer(r"\w+", text))]

    tokens = Tokens(("<pad>", "?", "good", "bad", "<start>"), split, None, padding=0, unknown=1, special=(0, 4))
    found = Explained(model, torch.tensor([[4, 2, 1, 0]]), Regression(("y",)), presets.conserving(), tokens=tokens)
    assert found.relevance.tolist() == [[9.0, 4.0, -2.0, 7.0]]
    curves = found.deletions()["relevance"]
    assert (curves.most_first[0].item(), curves.most_first[-1].item()) == (18.0, 30.0)  # the two words became padding
    page = write_explanation(found, title="run", targets=torch.tensor([[1.0]]), facts={}, texts=["good, <odd> ..."])
    drawn = page[page.index('<p class="tokens">') :]
    spans = re.findall(r"<span([^>]*)>(\w+)</span>", drawn)
    assert spans == [
        (' style="background:rgb(214 60 60 / 70%)" title="+4"', "good"),
        (' class="unknown" style="background:rgb(50 110 220 / 35%)" title="-2, not in the vocabulary"', "odd"),
    ]


def test_tokens_that_no_embedding_looks_up_are_refused():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, tokens):
            return self.layer(tokens.float())

    tokens = words(["a b c"], length=3, size=3)
    with pytest.raises(FeedpropError, match=r"Counts looks tokens up by no torch.nn.Embedding"):
        Explained(Counts(), torch.ones(1, 3, dtype=torch.long), TWO, presets.conserving(), tokens=tokens)
