"""The report is one file that needs nothing else, and says what happened."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from feedprop.training.report import charts


class _Reader(HTMLParser):
    """Collects the text, the tags, and whatever a page would load."""

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.loads = "", [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.loads.append(value)

    def handle_data(self, data):
        self.text += " " + data


@pytest.fixture
def page(run):
    return (run / "report.html").read_text()


@pytest.fixture
def reader(page):
    found = _Reader()
    found.feed(page)
    return found


def test_the_report_loads_nothing_from_elsewhere(page, reader):
    assert "http" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "script" not in reader.tags
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in reader.loads)


def test_the_report_shows_the_figures(run, reader):
    results = json.loads((run / "results.json").read_text())
    text = " ".join(reader.text.split())
    assert f"{100 * results['test']['accuracy']:.2f} %" in text
    assert f"chosen at epoch {results['best_epoch']} of 3" in text
    for word in ("blobs-mlp-lfp", "Mean reward", "Learning rate", "Weights near zero", "Confusion on test data"):
        assert word in text
    assert "Decision boundaries" in text
    for value in (results["environment"]["torch"], results["environment"]["command"], "torch.optim.SGD", "hidden=[8]"):
        assert value in text


def test_every_picture_is_drawn(reader):
    assert reader.tags.count("svg") == 5
    assert reader.tags.count("img") == 1


def test_names_from_outside_are_escaped(command, tmp_path):
    (tmp_path / "images").mkdir()
    words = ["--data", "blobs", "--data.points", 50, "--epochs", 1, "--output", "<b>run&"]
    assert command("train", *words).code == 0
    page = (tmp_path / "<b>run&/report.html").read_text()
    assert "<b>run" not in page
    assert "&lt;b&gt;run&amp;" in page


def test_many_classes_are_drawn_without_numbers():
    matrix = torch.eye(100, dtype=torch.long).tolist()
    assert charts.confusion(matrix, [str(label) for label in range(100)]).startswith("<img")
    assert "<svg" in charts.confusion([[3, 0], [1, 0]], ["a long name", "b"])


def test_a_single_epoch_is_a_point():
    assert "<svg" in charts.curves([1], {"train": [0.5]}, percent=True)


def test_boundaries_follow_the_model():
    drawn = charts.boundaries(nn.Linear(2, 12), torch.rand(30, 2), torch.arange(30) % 12, classes=12)
    assert drawn.startswith("<img")
