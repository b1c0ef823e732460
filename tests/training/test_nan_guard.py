"""NaN and infinity end a run; what was written before stays."""

from __future__ import annotations

import pytest
import torch

from feedprop.errors import FeedpropError
from feedprop.training.nan_guard import NaNGuard


@pytest.mark.parametrize("method", ["lfp", "backprop"])
def test_infinity_in_outputs_names_the_step_and_keeps_what_is_written(command, tmp_path, method):
    words = ["--model", "samples.Exploding", "--batch_size", "20", "--method", method, "--output", "run"]
    answer = command("train", "--data", "blobs", "--data.points", "200", *words)
    assert "the outputs hold NaN or infinity at step 15" in answer.sentence
    assert "run keeps the checkpoints and metrics up to epoch 1" in answer.sentence
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "run/best.safetensors").is_file()


def test_nan_at_once_loses_nothing_of_the_run_it_would_have_replaced(command, run, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    answer = command("train", "--data", "blobs", "--model", "samples.ExplodingAtOnce", "--output", copy, "--overwrite")
    assert "at step 1;" in answer.sentence
    assert "no epoch was finished" in answer.sentence
    for file in copy.iterdir():
        assert file.read_bytes() == (run / file.name).read_bytes()


def test_infinity_in_inputs_names_the_step():
    guard = NaNGuard(step=4, device=torch.device("cpu"))
    guard.observe(torch.zeros(3), torch.zeros(3), torch.zeros(()))
    guard.check()
    guard.observe(torch.tensor([0.0, torch.inf]), torch.zeros(3), torch.zeros(()))
    guard.observe(torch.tensor([0.0, torch.nan]), torch.full((3,), torch.nan), torch.tensor(torch.nan))
    with pytest.raises(FeedpropError, match="the inputs hold NaN or infinity at step 6; look at the data"):
        guard.check()
