"""The .ts reader, and sequences in batches."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import Component
from feedprop.training.data.splits import load, loader
from feedprop.training.data.tensors import SequenceData
from feedprop.training.data.time_series import japanese_vowels, read_ts

from ..conftest import SERIES


def test_reading_a_series(tmp_path: Path) -> None:
    file = tmp_path / "task.ts"
    file.write_text("@problemName x\n@classLabel true a b\n@data\n1,2,3:4,5,6:b\n7,8:9,10:a\n")
    sequences, labels, classes = read_ts(file)
    assert sequences.tolist() == [[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 10], [0, 0]]]
    assert labels.tolist() == [1, 0]
    assert classes == ("a", "b")


def test_a_series_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FeedpropError, match=r"no file .*nowhere\.ts: set FEEDPROP_DATA"):
        read_ts(tmp_path / "nowhere.ts")
    file = tmp_path / "task.ts"
    file.write_text("@classLabel true a b\n@data\n1,2:c\n")
    with pytest.raises(FeedpropError, match="line 3: expected channels and one of the classes"):
        read_ts(file)
    file.write_text("@classLabel true a b\n@data\n")
    with pytest.raises(FeedpropError, match="holds no cases"):
        read_ts(file)


def test_japanese_vowels() -> None:
    folder = Path(os.environ.get("FEEDPROP_DATA", "data"))
    if not (folder / "timeseries").is_dir():
        pytest.skip("needs the data")
    sequences, labels = japanese_vowels(folder, train=True)
    assert sequences.shape == (270, 25, 12)
    assert labels.bincount().tolist() == [30] * 9


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


def test_sequences_that_do_not_fit_are_answered_with_one_sentence(series, tmp_path):
    assert "leave it out" in series("train", *SERIES, "--model", "lif_mlp", "--model.steps", 3).sentence
    assert "batches of sequences are time-first, as --model lif_mlp takes them" in series("train", *SERIES).sentence
    text = (tmp_path / "timeseries/Toy_TEST.ts").read_text()
    (tmp_path / "timeseries/Toy_TEST.ts").write_text(text.replace("true up down", "true down up"))
    assert "differ in their channels (2 and 2) or in their classes" in series("train", *SERIES).sentence
    (tmp_path / "timeseries/Toy_TEST.ts").write_text(text.replace("0.10", "no number", 1))
    assert "cannot be made: could not convert string to float: 'no number'" in series("train", *SERIES).sentence
