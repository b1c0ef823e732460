"""The report is one file that needs nothing else, and shows what happened."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import pytest
from markupsafe import escape

from feedprop.training.report.page import write_report


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
    assert not re.search("https?:", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
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
        "Accuracy over sparsity",
    ]:
        assert word in text
    assert "Decision boundaries" in text
    for value in (results["environment"]["torch"], results["environment"]["command"], "torch.optim.SGD", "hidden=[8]"):
        assert value in text


def test_every_picture_is_drawn(reader):
    assert reader.tags.count("svg") == 11
    assert reader.tags.count("img") == 0  # of points in the plane


def test_names_from_outside_are_escaped(command, tmp_path):
    (tmp_path / "images").mkdir()
    words = ["--data", "blobs", "--data.points", 50, "--epochs", 1, "--output", "<b>run&"]
    assert command("train", *words).code == 0
    page = (tmp_path / "<b>run&/report.html").read_text()
    assert "<b>run" not in page
    assert "&lt;b&gt;run&amp;" in page


def test_only_the_script_of_the_page_may_run(page):
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert page.count("<script") == 1


NAMES = ("None", "3", "a$b_{", "[/x]", "<script>alert(1)</script>")


def test_class_names_of_any_kind_are_text(command, tmp_path):
    words = ["--data", "samples.odd_names", "--model.hidden", "[4]", "--epochs", 1, "--output", "[/run]$"]
    answer = command("train", *words)
    assert (answer.code, answer.err) == (0, "")
    assert "warning" not in answer.out
    page = (tmp_path / "[/run]$/report.html").read_text()
    assert page.count("<script") == 1
    reader = _Reader()
    reader.feed(page)
    assert all(name in reader.text for name in NAMES)
    answer = command("evaluate", "[/run]$", "--trust")
    assert answer.code == 0, answer.err
    assert all(name[:8] in answer.out for name in NAMES)


def test_a_single_class(command, tmp_path):
    answer = command("train", "--data", "samples.one_class", "--model.hidden", "[4]", "--epochs", 1, "--output", "run")
    assert answer.code == 0, answer.err
    assert "warning: cannot" not in answer.out
    assert "Confusion on test data" in (tmp_path / "run/report.html").read_text()


def test_a_report_that_cannot_be_drawn_leaves_the_run_complete(command, tmp_path, monkeypatch):
    def fail(folder):
        raise RuntimeError("no\nink")

    words = ["--data", "blobs", "--data.points", 50, "--epochs", 1, "--output", "run"]
    with monkeypatch.context() as patch:
        patch.setattr("feedprop.training.conclusion.write_report", fail)
        answer = command("train", *words)
    assert answer.code == 0
    said = " ".join(answer.out.split())
    assert "warning: cannot draw the report: no ink; the run is complete, and feedprop report run draws" in said
    assert "report.html" not in said
    assert "test accuracy" in said
    assert not (tmp_path / "run/report.html").exists()
    assert command("report", "run").out == "report: run/report.html\n"


def test_figures_that_cannot_be_measured_leave_the_run_complete(command, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise ZeroDivisionError

    for name in ("collect", "by_magnitude"):
        monkeypatch.setattr(f"feedprop.training.conclusion.{name}", fail)
    answer = command("train", "--data", "blobs", "--data.points", 50, "--epochs", 1, "--output", "run")
    assert answer.code == 0
    assert answer.out.count(": ZeroDivisionError; the report goes without") == 2
    assert json.loads((tmp_path / "run/results.json").read_text())["sparsity"] is None
    page = (tmp_path / "run/report.html").read_text()
    assert "Confusion on test data" in page
    assert "Accuracy over sparsity" not in page


def test_the_report_is_drawn_again_from_the_files_alone(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / run.name)
    (copy / "report.html").unlink()
    for name in ("best.safetensors", "last.safetensors"):
        (copy / name).unlink()
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("blobs", "samples.nothing_here"))
    write_report(copy)
    before, after = ((folder / "report.html").read_text() for folder in (run, copy))
    assert after.replace("samples.nothing_here", "blobs").replace("nothing_here", "blobs") == before


def _stopped(run, folder, *, epochs):
    copy = shutil.copytree(run, folder)
    for name in ("report.html", "results.json", "samples.json", "metrics.csv"):
        (copy / name).unlink()
    rows = (copy / "metrics.jsonl").read_text().splitlines()[:epochs]
    (copy / "metrics.jsonl").write_text("".join(row + "\n" for row in rows))
    return copy


@pytest.mark.parametrize(
    ("epochs", "state", "svgs"),
    [
        (0, "No epoch of this run was finished yet.", 0),
        (1, "This run has not ended: 1 of 3 epochs are done", 0),
        (2, "This run has not ended: 2 of 3 epochs are done", 4),
    ],
)
def test_a_run_that_was_stopped_has_a_report(run, tmp_path, epochs, state, svgs):
    folder = _stopped(run, tmp_path / "run", epochs=epochs)
    page = write_report(folder).read_text()
    reader = _Reader()
    reader.feed(page)
    assert state in reader.text
    assert reader.tags.count("svg") == svgs + 3  # of the layers
    assert ("The only epoch" in page) == (epochs == 1)
    assert "test accuracy" not in page
    assert len((folder / "metrics.csv").read_text().splitlines()) == epochs + 1


def test_metrics_are_a_table(run):
    heading, *rows = (run / "metrics.csv").read_text().splitlines()
    assert heading.startswith("epoch,step,learning_rate,train.reward,train.cross_entropy,train.accuracy,validation.")
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert rows[0].split(",")[:4] == [str(value) for value in ("1", first["step"], first["learning_rate"],
                                                                first["train"]["reward"])]  # fmt: skip
    assert len(rows) == 3


def test_another_run_is_drawn_beside(command, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "mine")
    words = ["--data", "blobs", "--data.points", 200, "--method", "backprop", "--model.hidden", "[8]", "--epochs", 2]
    assert command("train", *words, "--output", "other").code == 0
    assert command("report", copy, "--beside", "other").code == 0
    page = (copy / "report.html").read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles.index("Cross entropy") < titles.index("Mean reward")
    assert "Mean loss" not in titles  # it is the cross entropy of the other
    charts = re.findall(r'aria-label="mine, train, mine, validation, other, train[^>]* data-chart="(.*?)"', page)
    assert len(charts) == 2  # accuracy and cross entropy, which all methods have
    data = charts[0]
    lines = json.loads(data.replace("&#34;", '"'))["lines"]
    assert [(line["name"], len(line["points"])) for line in lines] == [
        *(("mine, train", 3), ("mine, validation", 3), ("other, train", 2), ("other, validation", 2)),
    ]
    rows = [json.loads(line) for line in (tmp_path / "other/metrics.jsonl").read_text().splitlines()]
    assert [point[1] for point in lines[3]["points"]] == pytest.approx(
        [row["validation"]["accuracy"] for row in rows], rel=1e-5
    )
    assert "Side by side" in page
    assert "<th>method</th><td>lfp</td><td>backprop</td>" in page
    assert "hidden" not in page.partition("Side by side")[2].partition("</table>")[0]  # which is the same
    assert "mine, magnitude, other, magnitude over weights that are 0" in page


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("results.json", "{", "results.json is not what feedprop train wrote: it is not JSON"),
        ("results.json", "[1]", "it holds list where keys and values belong"),
        (
            "results.json",
            '{"classes": ["a"]}',
            "does not write: KeyError 'best_epoch'",
        ),
        ("metrics.jsonl", '{"epoch": 1}', "does not write: KeyError"),
        ("layers.jsonl", "{}", "is not what Log.save() writes"),
    ],
)
def test_damaged_files_are_named(command, run, tmp_path, name, content, expected):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / name).write_text(content)
    assert expected in command("report", "copy").sentence


def test_no_code_of_a_received_run_is_imported(command, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("name: mlp", "name: trap.Network"))
    results = json.loads((copy / "results.json").read_text())
    results["warnings"] = ["<img src=x onerror=alert(1)>"]
    (copy / "results.json").write_text(json.dumps(results))
    assert command("report", "copy").code == 0
    page = (copy / "report.html").read_text()
    assert "trap.Network" in page
    assert "<img src=x" not in page


def test_what_is_not_a_run_is_refused(command, run, tmp_path):
    assert "nowhere is not a run of feedprop train: it contains no config.yaml" in command("report", "nowhere").sentence
    assert "feedprop report needs the folder of a run" in command("report").sentence
    assert "nowhere is not a run" in command("report", run, "--beside", "nowhere").sentence


def test_images_are_shown_with_their_answers(command, tmp_path):
    assert command("train", "--epochs", 1, "--output", "run").code == 0
    samples = json.loads((tmp_path / "run/samples.json").read_text())["images"]
    assert (len(samples["first"]), len(samples["mistakes"]), samples["searched"]) == (12, 12, 359)
    assert all(row["label"] != row["answer"] for row in samples["mistakes"])
    page = (tmp_path / "run/report.html").read_text()
    assert page.count("data:image/png;base64,") == 24
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["sparsity"]["accuracies"][0] == pytest.approx(results["validation"]["accuracy"])
    assert len((tmp_path / "run/samples.json").read_bytes()) < 10_000


def test_pictures_take_their_colours_from_the_stylesheet(page):
    """So that they follow the reader's light or dark colours."""
    assert "prefers-color-scheme: dark" in page
    drawings = re.findall("<svg.*?</svg>", page, re.DOTALL)
    assert not [drawing for drawing in drawings if re.search(r"#[0-9a-fA-F]{3,6}\b|rgb\(", unescape(drawing))]
    used, known = (set(re.findall(pattern, page)) for pattern in (r"var\((--[\w-]+)\)", r"(--[\w-]+):"))
    assert used <= known


def _sparsity(folder, beside=None):
    """The lines of the picture over sparsity, and the whole part of the page."""
    page = write_report(folder, beside=beside).read_text()
    part = page.partition(" over sparsity</h2>")[2].partition("</figure>")[0]
    return re.findall("<li>.*?</i>(.*?)</li>", part), part


def test_only_what_was_measured_alike_is_drawn_over_sparsity(run, tmp_path):
    mine, other = (shutil.copytree(run, tmp_path / name) for name in ("mine", "other"))
    curve = {"run": "mine", "importance": "magnitude", "accuracies": [1.0, 0.5]}
    relevance = {**curve, "importance": "relevance"}
    pruned = {"amounts": [0.0, 0.9], "scope": "global", "checkpoint": "best", "curves": [curve, relevance]}
    assert _sparsity(mine)[0] == []  # one line has no legend
    assert "The smallest weights" in _sparsity(mine)[1]
    (mine / "pruning.json").write_text(json.dumps(pruned))
    assert _sparsity(mine)[0] == ["magnitude", "relevance"]
    assert "The smallest weights" not in _sparsity(mine)[1]
    assert _sparsity(mine, other)[0] == ["mine, magnitude", "other, magnitude"]  # as training measured both
    (other / "pruning.json").write_text(json.dumps({**pruned, "scope": "layer"}))
    assert _sparsity(mine, other)[0] == ["mine, magnitude", "other, magnitude"]
    assert "The smallest weights" in _sparsity(mine, other)[1]
    (other / "pruning.json").write_text(json.dumps(pruned))
    assert len(_sparsity(mine, other)[0]) == 4
    text = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(text.replace('"accuracy"', '"r2"'))  # of other targets
    assert _sparsity(mine, other)[0] == ["magnitude", "relevance"]


def test_what_was_pruned_beside_a_run_is_drawn_beside_it(run, tmp_path):
    mine, other = (shutil.copytree(run, tmp_path / name) for name in ("mine", "other"))
    curves = [
        {"run": f"runs/{name}", "importance": importance, "accuracies": [1.0, 0.5]}
        for name in ("mine", "other", "third")
        for importance in ("magnitude", "relevance")
    ]
    pruned = {"amounts": [0.0, 0.9], "scope": "global", "checkpoint": "best", "curves": curves}
    (mine / "pruning.json").write_text(json.dumps(pruned))
    names = [f"{name}, {importance}" for name in ("mine", "other") for importance in ("magnitude", "relevance")]
    assert _sparsity(mine, other)[0] == names
    assert "The smallest weights" not in _sparsity(mine, other)[1]


def test_short_and_full_names_of_a_component_are_no_difference(run, tmp_path):
    mine, other = (shutil.copytree(run, tmp_path / name) for name in ("mine", "other"))
    text = (other / "config.yaml").read_text()
    assert "torch.optim.SGD" in text
    (other / "config.yaml").write_text(text.replace("torch.optim.SGD", "SGD"))
    assert "optimizer.name" not in write_report(mine, beside=other).read_text().partition("Side by side")[2][:3000]
    (other / "config.yaml").write_text(text.replace("torch.optim.SGD", "Adam"))
    assert "optimizer.name" in write_report(mine, beside=other).read_text().partition("Side by side")[2][:3000]


def test_texts_are_shown_with_their_answers(mails):
    samples = json.loads((mails / "samples.json").read_text())
    assert [*samples] == ["texts"]
    assert (len(samples["texts"]["first"]), samples["texts"]["searched"]) == (12, 12)
    page = (mails / "report.html").read_text()
    assert page.count('<div class="samples texts">') >= 1
    for row in samples["texts"]["first"]:
        assert f"{escape(row['text'])}<figcaption>" in page
        assert ("Lottery" in row["text"]) == (row["label"] == 1)
