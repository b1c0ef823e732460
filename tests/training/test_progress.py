"""What a run prints."""

from __future__ import annotations

from feedprop.training.progress import Progress

from .conftest import BLOBS


def test_a_terminal_gets_a_live_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with Progress(epochs=3, name="reward", score="accuracy") as progress:
        assert progress.live
        progress.start(2, steps=5)
        progress.step(0.25, 0.5)
        progress.step(None, None)
    shown = capsys.readouterr().out
    assert "epoch 2/3" in shown
    assert "2/5" in shown
    assert "reward +0.2500  accuracy 0.5000" in shown


def test_elsewhere_there_is_one_line_per_epoch(command):
    lines = command(*BLOBS, "--epochs", 2).out.splitlines()
    assert [line[:9] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert len(lines) == 6  # two before, two after
