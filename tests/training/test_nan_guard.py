"""NaN and infinity end a run; what was written before stays."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from feedprop.errors import FeedpropError
from feedprop.training.nan_guard import DivergenceError, NaNGuard


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


def _guard(step: int = 0, **options: object) -> NaNGuard:
    return NaNGuard(nn.Linear(3, 2), step=step, device=torch.device("cpu"), **options)


def test_infinity_in_inputs_names_the_step():
    guard, good, targets = _guard(4), torch.zeros(3), torch.zeros(1)
    guard.observe(good, targets, good, torch.zeros(()))
    guard.check()
    guard.observe(torch.tensor([0.0, torch.inf]), targets, good, torch.zeros(()))
    guard.observe(torch.tensor([0.0, torch.nan]), targets, torch.full((3,), torch.nan), torch.tensor(torch.nan))
    with pytest.raises(FeedpropError, match="the inputs hold NaN or infinity at step 6; look at the data"):
        guard.check()


def test_the_batch_is_kept_and_the_layer_named(command, tmp_path):
    words = ["--model", "samples.Exploding", "--batch_size", "20", "--output", "run"]
    answer = command("train", "--data", "blobs", "--data.points", "200", *words)
    assert "run/nan.safetensors holds the batch" in answer.sentence
    with safe_open(tmp_path / "run/nan.safetensors", framework="pt") as file:
        assert file.get_tensor("inputs").shape == (20, 2)
        assert file.get_tensor("targets").shape == (20,)
        assert file.metadata()["step"] == "15"
        assert file.metadata()["what"].startswith("the outputs hold NaN or infinity at step 15")


def test_the_first_layer_that_is_not_finite_is_named():
    model = nn.Sequential(nn.Linear(2, 2), Reciprocal(), nn.ReLU())
    guard = NaNGuard(model, step=0, device=torch.device("cpu"))
    inputs = torch.ones(1, 2)
    guard.observe(inputs, torch.zeros(1), model(inputs).detach(), torch.zeros(()))
    with pytest.raises(DivergenceError, match="the outputs hold NaN or infinity at step 1, first in layer 1; a"):
        guard.check()
    assert model.training
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    with pytest.raises(DivergenceError, match=r"first in the parameter 0\.bias"):
        guard.check()


class Reciprocal(nn.Module):
    def forward(self, x):
        return 1 / (x - x)


@pytest.mark.parametrize("scaled", [False, True])
def test_feedback_that_is_not_finite_is_found_before_the_step(scaled):
    """GradScaler skips such steps by itself."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[0].weight.grad[0, 0] = model[1].weight.grad[1, 1] = torch.inf
    guard = NaNGuard(model, step=0, device=torch.device("cpu"), scaled=scaled)
    guard.observe(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 2), torch.zeros(()))
    if scaled:
        assert guard.may_be_taken()
        return
    with pytest.raises(DivergenceError, match=r"the feedback holds NaN .* first in the parameter 1\.weight"):
        guard.may_be_taken()


def test_large_feedback_is_finite():
    guard = _guard()
    for parameter in guard.parameters:
        parameter.grad = torch.full_like(parameter, 1e38)  # whose square is not
    guard.observe(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 2), torch.zeros(()))
    assert guard.may_be_taken()


def test_bad_steps_are_skipped_if_asked_to(command, tmp_path):
    words = ["--model", "samples.NaNAtStep7", "--batch_size", "20", "--epochs", 2, "--output"]
    train = ["train", "--data", "blobs", "--data.points", "200", *words]
    assert "the outputs hold NaN or infinity at step 7" in command(*train, "stopped").sentence
    answer = command(*train, "run", "--on_nan", "skip")
    assert answer.code == 0, answer.err
    assert "warning: 1 steps of epoch 1 were skipped; the outputs hold NaN or infinity at step 7" in answer.out
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run/last.safetensors").values())
    assert "NaN" not in (tmp_path / "run/metrics.jsonl").read_text()
    assert "null" not in (tmp_path / "run/metrics.jsonl").read_text()


def test_many_bad_steps_in_succession_end_the_run(command):
    words = ["--model", "samples.ExplodingAtOnce", "--batch_size", "2", "--on_nan", "skip", "--output", "run"]
    answer = command("train", "--data", "blobs", "--data.points", "200", *words)
    assert "50 steps in succession were skipped; the outputs hold NaN or infinity at step 50" in answer.sentence
