"""Spiking networks by the command: their defaults, sequences, the read-out by spikes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import feedprop
from feedprop.rewards import GivenReward
from feedprop.spiking import LIF, SpikingSequential, models
from feedprop.training.command_line.components import Component
from feedprop.training.command_line.config import default_arguments
from feedprop.training.data.splits import Normalisation, Splits, TensorData, load, loader
from feedprop.training.data.tensors import SequenceData
from feedprop.training.evaluation import Objective, evaluate
from feedprop.training.models.spiking import lif_cnn, lif_cnn5, lif_mlp
from feedprop.training.report.spiking import measure, pictures
from feedprop.training.update_sparsity import UpdateSparsity

SERIES = ["--data", "time_series", "--data.problem", "Toy", "--data.root", "."]


def write_series(folder: Path, *, cases: int = 40, classes: str = "up down") -> None:
    """Two classes of sequences of two channels: the first channel is high, or the second."""
    (folder / "timeseries").mkdir(exist_ok=True)
    for part in ("TRAIN", "TEST"):
        lines = []
        for case in range(cases):
            high, low = [",".join(f"{value + 0.01 * case % 3:.2f}" for _ in range(5)) for value in (1.5, 0.1)]
            lines.append(f"{high}:{low}:up" if case % 2 else f"{low}:{high}:down")
        head = f"@problemName Toy\n@classLabel true {classes}\n@data\n"
        (folder / f"timeseries/Toy_{part}.ts").write_text(head + "\n".join(lines) + "\n")


@pytest.fixture
def series(command, tmp_path):
    write_series(tmp_path)
    return command


def test_named_networks_are_those_of_the_literature():
    shapes = [
        [tuple(p.shape) for p in network.parameters()]
        for network in (lif_mlp((1, 28, 28), 10), lif_cnn((1, 28, 28), 10), lif_cnn5((3, 32, 32), 10))
    ]
    wanted = [
        [tuple(p.shape) for p in build().parameters()] for build in (models.lif_mlp, models.lif_cnn, models.lif_cnn5)
    ]
    assert shapes == wanted


@pytest.mark.parametrize(("build", "steps"), [(lif_mlp, 15), (lif_cnn, 15), (lif_cnn5, 25)])
def test_steps_and_sizes(build, steps):
    assert build((2, 16, 21), 3).steps == steps
    with torch.no_grad():
        assert build((2, 16, 21), 3, steps=2, beta=0.5)(torch.rand(4, 2, 16, 21)).shape == (2, 4, 3)
        assert build((2, 16, 21), 3, timed=True)(torch.rand(2, 4, 2, 16, 21)).shape == (2, 4, 3)
    neurons = [
        layer for layer in build((2, 16, 21), 3, beta=0.5, reset="zero", reset_delay=False) if isinstance(layer, LIF)
    ]
    assert all((layer.beta, layer.reset, layer.reset_delay) == (0.5, "zero", False) for layer in neurons)


def test_defaults_of_a_spiking_model(command, tmp_path):
    words = ["train", "--model", "lif_mlp", "--model.hidden", "[60]", "--model.steps", 8, "--batch_size", 32]
    answer = command(*words, "--epochs", 4, "--output", "run")
    assert answer.code == 0, answer.err
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["reward"]["name"] == "feedprop.rewards.SpikeTargetReward"
    assert (config["optimizer"]["name"], config["optimizer"]["lr"]) == ("torch.optim.Adam", 2e-3)
    assert (config["rule"]["epsilon"], config["model"]["steps"]) == (1.0, 8)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test"]["accuracy"] > 0.75
    assert json.loads(command("evaluate", "run", "--json").out)["confusion"] == results["test"]["confusion"]
    other = ["--reward", "SpikeRateReward", "--optimizer", "SGD", "--rule", "Gamma", "--epochs", 1]
    assert command(*words, *other, "--output", "other").code == 0
    config = yaml.safe_load((tmp_path / "other/config.yaml").read_text())
    assert (config["reward"]["name"], config["optimizer"]["lr"]) == ("SpikeRateReward", 1e-3)


@pytest.mark.parametrize(
    ("model", "epsilon"),
    [("lif_mlp", 1.0), ("feedprop.training.models.spiking.lif_cnn", 0.1), ("lif_cnn5", 0.1), ("mlp", None)],
)
def test_convolutions_come_with_a_smaller_epsilon(model, epsilon):
    assert default_arguments("rule", model=model, method="lfp").get("epsilon") == epsilon


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
    data = Splits(images, images, images, ("a", "b", "c"), Normalisation((), ()))
    network = lif_mlp((1, 4, 4), 3, hidden=(5,), steps=7)
    found = measure(network, data, torch.device("cpu"))
    assert [row["dense"] for row in found["layers"] if "dense" in row] == [16 * 5, 5 * 3]
    titles = [title for title, _, drawn in pictures([{"epoch": 1, "updates": EVEN}], network, data) if drawn]
    assert titles == ["Update sparsity", "Spikes of one sample", "Membranes of the output neurons"]


EVEN = {"without_feedback": 0.5, "negligible": 0.5}


def test_update_sparsity_by_hand():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, 1.0, 1.0, 1.0]])
    updates, optimizer = UpdateSparsity(layer), torch.optim.SGD(layer.parameters(), lr=1.0)
    for step in range(11):  # the first and the eleventh are watched
        layer.weight.grad = (
            torch.tensor([[0.0, 1.9e-3, 3e-3, -1e-3]]) if step else torch.tensor([[0.0, 0.0, 1.0, 3e-3]])
        )
        updates.step(optimizer)
    # a thousandth of the largest is .002: two of four at first (0, 0), three of four then
    assert updates.shares() == {"without_feedback": 3 / 8, "negligible": 5 / 8}
    torch.testing.assert_close(layer.weight.data[0, 2], torch.tensor(1 - 1 - 10 * 3e-3))
    assert updates.shares() == {"without_feedback": 0.0, "negligible": 0.0}


def test_a_sequence_is_learned_and_evaluated(series, tmp_path):
    words = [*SERIES, "--model", "lif_mlp", "--model.hidden", "[16]", "--epochs", 30, "--batch_size", 7]
    answer = series("train", *words, "--output", "run")
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test"]["accuracy"] > 0.9
    assert results["classes"] == ["up", "down"]
    found = json.loads(series("evaluate", "run", "--json", "--batch_size", 3).out)
    assert found["confusion"] == results["test"]["confusion"]
    assert sum(map(sum, found["confusion"])) == 40


def test_batches_of_sequences_are_time_first(series):
    splits = load(Component("data", "time_series", {"root": ".", "problem": "Toy"}), seed=0, validation_fraction=0.25)
    assert isinstance(splits.validation, SequenceData)
    inputs, targets = next(iter(loader(splits.train, batch_size=4)))
    assert inputs.shape == (5, 4, 2)
    first = splits.train.inputs[splits.train.indices[1]]  # (channels, steps)
    assert torch.equal(inputs[:, 1], first.T)
    together = torch.cat([batch.flatten(0, 1) for batch, _ in loader(splits.train, batch_size=40)])
    torch.testing.assert_close(together.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert targets.shape == (4,)


def test_classes_are_read_out_by_spike_count():
    """Also where processes gather along the first dimension, and cut a last batch to its samples."""
    spikes = torch.zeros(4, 3, 2)
    spikes[:, 0, 1], spikes[:3, 1, 0], spikes[3, 1, 1], spikes[0, 2, 1] = 1, 1, 1, 1  # 4 to 0, 1 to 3, 1 to 0

    class Network(torch.nn.Module):
        def forward(self, inputs):
            return spikes

    seen = []

    def gather(pair):
        seen.append(tuple(pair[0].shape))
        return tuple(part[:2] for part in pair)

    objective = Objective(GivenReward(), "reward", -1)
    objective.module.forward = lambda outputs, targets: outputs.sum() * 0 + outputs.shape[1]
    found = evaluate(
        Network(), [(torch.zeros(3, 2), torch.tensor([1, 0, 0]))], objective=objective, classes=2,
        device=torch.device("cpu"), gather=gather,
    )  # fmt: skip
    assert seen == [(3, 4, 2)]
    assert found.accuracy == 1.0
    assert found.objective == -2
    assert found.confusion == [[1, 0], [0, 1]]


def test_mixed_precision_keeps_rewards_on_silent_neurons():
    class Converted(SpikingSequential):
        def forward(self, inputs):
            return super().forward(inputs.bfloat16()).float()  # as accelerate does it

    network = Converted(LIF(), steps=2)
    feedprop.attach(network)
    inputs = torch.full((1, 3), 0.25, requires_grad=True)
    spikes = network(inputs)
    assert spikes.dtype is torch.float32
    assert spikes.sum() == 0
    GivenReward(reduction="sum")(spikes, torch.ones(2, 1, 3)).backward()
    assert (inputs.grad < 0).all()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--data blobs --model lif_cnn", "lif_cnn needs images (channels, height, width) of at least 16x16 pixels"),
        ("--data blobs --model lif_cnn5", "shape (2,); --model lif_mlp takes any shape"),
        ("--model lif_mlp --method backprop", "fire by a step function, which has derivative 0; leave --method out"),
        ("--model lif_mlp --model.steps 0", "steps must be at least 1, got 0"),
        ("--model lif_mlp --model.beta 1.5", "beta must be in [0, 1], got 1.5"),
        ("--model lif_mlp --model.hidden [0]", "every layer needs at least one neuron"),
        ("--model lif_mlp --reward SoftmaxReward", "for spikes over time write --reward SpikeTargetReward"),
        ("--reward SpikeTargetReward", "takes time-first spikes (steps, batch, classes)"),
        ("--model lif-mlp", "unknown model 'lif-mlp'; did you mean lif_mlp"),
        ("--data time_series --data.root absent", "no file absent/timeseries/JapaneseVowels_eq_TRAIN.ts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_answered_with_one_sentence(command, words, sentence):
    assert sentence in command("train", *words.split()).sentence


def test_sequences_that_do_not_fit_are_answered_with_one_sentence(series, tmp_path):
    assert "leave it out" in series("train", *SERIES, "--model", "lif_mlp", "--model.steps", 3).sentence
    assert "batches of sequences are time-first, as --model lif_mlp takes them" in series("train", *SERIES).sentence
    text = (tmp_path / "timeseries/Toy_TEST.ts").read_text()
    (tmp_path / "timeseries/Toy_TEST.ts").write_text(text.replace("true up down", "true down up"))
    assert "differ in their channels (2 and 2) or in their classes" in series("train", *SERIES).sentence
    (tmp_path / "timeseries/Toy_TEST.ts").write_text(text.replace("0.10", "no number", 1))
    assert "cannot be made: could not convert string to float: 'no number'" in series("train", *SERIES).sentence
