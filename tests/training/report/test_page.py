"""The report is one file that needs nothing else, and shows what happened."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest


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
    shown = ["blobs-mlp-lfp", "Cross entropy", "Mean reward", "A signal, not an objective", "Learning rate"]
    for word in [
        *shown,
        "Feedback by layer",
        "Reward by layer",
        "Weights without feedback",
        "Sizes of weights",
        "Confusion on test data",
    ]:
        assert word in text
    assert "Decision boundaries" in text
    for value in (results["environment"]["torch"], results["environment"]["command"], "torch.optim.SGD", "hidden=[8]"):
        assert value in text


def test_every_picture_is_drawn(reader):
    assert reader.tags.count("svg") == 9
    assert reader.tags.count("img") == 1


def test_names_from_outside_are_escaped(command, tmp_path):
    (tmp_path / "images").mkdir()
    words = ["--data", "blobs", "--data.points", 50, "--epochs", 1, "--output", "<b>run&"]
    assert command("train", *words).code == 0
    page = (tmp_path / "<b>run&/report.html").read_text()
    assert "<b>run" not in page
    assert "&lt;b&gt;run&amp;" in page
