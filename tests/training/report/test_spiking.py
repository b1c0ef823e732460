"""The report on spiking networks."""

from __future__ import annotations

import json

import pytest
import torch

from feedprop.training.data.splits import Splits
from feedprop.training.data.standardisation import Normalisation
from feedprop.training.data.tensors import TensorData
from feedprop.training.models.spiking import lif_mlp
from feedprop.training.report.samples import collect
from feedprop.training.report.spiking_section import measure, pictures
from feedprop.training.tasks import Classification

from ..conftest import SERIES

EVEN = {"without_feedback": 0.5, "negligible": 0.5}


def test_the_report_of_a_spiking_network(series, tmp_path):
    words = [*SERIES, "--model", "lif_mlp", "--model.hidden", "[4]", "--epochs", 2, "--batch_size", 2]
    assert series("train", *words, "--output", "run").code == 0
    spiking = json.loads((tmp_path / "run/results.json").read_text())["spiking"]
    first, hidden, second, output = spiking["layers"]
    assert (first["kind"], first["operations"], first["dense"]) == (
        "Linear 2 → 4",
        5 * 2 * 4,
        5 * 2 * 4,
    )  # no input is 0
    assert second["dense"] == 5 * 4 * 2
    assert second["operations"] == pytest.approx(hidden["spikes"] * 2)
    assert hidden["rate"] == pytest.approx(hidden["spikes"] / (5 * 4))
    assert spiking["rate"] == pytest.approx((hidden["spikes"] + output["spikes"]) / (5 * 6))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(0 <= share <= 1 for row in rows for share in row["updates"].values())
    page = (tmp_path / "run/report.html").read_text()
    for words in ("spikes per inference", "multiply-accumulates, ", "Update sparsity", "Spikes of one sample",
                  "Membranes of the output neurons", "see each step once", "Linear 2 → 4"):  # fmt: skip
        assert words in page


def test_the_report_of_a_network_of_snntorch(series, tmp_path):
    words = [*SERIES, "--model", "samples.snntorch_network", "--reward", "SpikeTargetReward", "--rule.epsilon", 1]
    answer = series("train", *words, "--epochs", 2, "--batch_size", 4, "--output", "run")
    assert answer.code == 0, answer.err
    spiking = json.loads((tmp_path / "run/results.json").read_text())["spiking"]
    assert [row["layer"] for row in spiking["layers"]] == ["first", "hidden", "second", "output"]
    first, hidden, second, _ = spiking["layers"]
    assert (first["operations"], second["dense"]) == (5 * 2 * 4, 5 * 4 * 2)
    assert second["operations"] == pytest.approx(hidden["spikes"] * 2)
    page = (tmp_path / "run/report.html").read_text()
    for words in ("spikes per inference", "Update sparsity", "Spikes of one sample", "Leaky"):
        assert words in page


def test_an_image_is_seen_once_by_the_dense_network():
    images = TensorData(torch.rand(3, 1, 4, 4), torch.arange(3))
    data = Splits(images, images, images, Classification(("a", "b", "c")), Normalisation((), ()))
    network = lif_mlp((1, 4, 4), 3, hidden=(5,), steps=7)
    found = measure(network, data, torch.device("cpu"))
    assert [row["dense"] for row in found["layers"] if "dense" in row] == [16 * 5, 5 * 3]
    sample = collect(network, data, torch.device("cpu"))["spikes"]
    titles = [title for title, _, drawn in pictures([{"epoch": 1, "updates": EVEN}], sample, data.classes) if drawn]
    assert titles == ["Update sparsity", "Spikes of one sample", "Membranes of the output neurons"]
