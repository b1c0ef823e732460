"""Files of a run are written whole or not at all, nothing else is replaced, and checkpoints hold data, never code."""

from __future__ import annotations

import json
import os
import stat

import pytest
import torch
from torch import nn

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import RunFolder

from .conftest import BLOBS


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write("results.json", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("results.json", "new")
    assert (tmp_path / "results.json").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_files_appear_whole(tmp_path, monkeypatch):
    folder, seen = RunFolder(tmp_path), []
    replace = os.replace

    def watched(source, target):
        seen.append((os.path.getsize(source), os.path.exists(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    folder.write("a.txt", "12345")
    assert seen == [(5, False)]
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_round_trip_with_metadata(tmp_path):
    folder, model = RunFolder(tmp_path), nn.BatchNorm1d(3)
    model(torch.randn(8, 3))
    folder.save("best.safetensors", model, metadata={"classes": ["ä", "b"], "epoch": 3})
    assert folder.metadata("best.safetensors") == {"classes": ["ä", "b"], "epoch": 3}
    other = nn.BatchNorm1d(3)
    folder.restore("best.safetensors", other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_tied_weights_are_saved_and_restored(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    folder, model, other = RunFolder(tmp_path), tied(), tied()
    folder.save("last.safetensors", model, metadata={})
    folder.restore("last.safetensors", other)
    assert torch.equal(other[1].weight, model[0].weight)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Linear(2, 3), "weight has shape \\(2, 2\\), but \\(3, 2\\) in the model"),
        (nn.Linear(2, 2, bias=False), "it has bias, which the model lacks"),
        (nn.BatchNorm1d(2), "weight has shape"),
    ],
)
def test_another_architecture_is_named(tmp_path, model, expected):
    folder = RunFolder(tmp_path)
    folder.save("best.safetensors", nn.Linear(2, 2), metadata={})
    with pytest.raises(FeedpropError, match=f"belongs to another architecture: .*({expected})"):
        folder.restore("best.safetensors", model)


def test_numbers_go_on_from_the_largest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-001", "a-007", "a-x", "b-009"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert str(RunFolder.choose(None, title="a", overwrite=False).path) == "runs/a-008"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_that_is_no_run_is_never_replaced(command, tmp_path, overwrite):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.tex").write_text("all my work")
    answer = command(*BLOBS, "--output", "precious", *overwrite)
    assert "precious" in answer.sentence
    assert [entry.name for entry in (tmp_path / "precious").iterdir()] == ["thesis.tex"]


def test_a_run_is_replaced_only_when_asked(command, tmp_path):
    words = [*BLOBS, "--output", "run", "--epochs"]
    assert command(*words, 2).code == 0
    (tmp_path / "run/notes.txt").write_text("mine")
    before = (tmp_path / "run/results.json").read_text()
    assert "is not empty; name another --output or add --overwrite" in command(*words, 1).sentence
    assert (tmp_path / "run/results.json").read_text() == before
    assert command(*words, 1, "--overwrite").code == 0
    assert json.loads((tmp_path / "run/results.json").read_text())["best_epoch"] == 1
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


def test_output_that_is_a_file_or_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file; name a folder" in command(*BLOBS, "--output", "file").sentence
    assert "cannot write to the folder" in command(*BLOBS, "--output", "file/below").sentence


def test_default_output_folders_are_numbered(command, tmp_path):
    for _ in range(2):
        assert command(*BLOBS, "--epochs", 1).code == 0
    assert {entry.name for entry in (tmp_path / "runs").iterdir()} == {"blobs-mlp-lfp-001", "blobs-mlp-lfp-002"}
