"""One run of a comparison: it starts, goes on, diverges or fails, and says so."""

from __future__ import annotations

import json

import pytest

from feedprop.training import loop
from feedprop.training.command_line.arguments import parse_train
from feedprop.training.comparison import work
from feedprop.training.comparison.crew import Crew
from feedprop.training.comparison.work import Job, Outcome, execute, outcome, read

IDENTITY = ["--model.activation", "Identity"]
BLOBS = ["--data", "blobs", "--data.points", "100", "--model.hidden", "[4]", "--device", "cpu", "--epochs", "3"]


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(*words: str, tested: bool = False) -> Job:
        made = Job(str(tmp_path / "run"), tested=tested, command="feedprop compare")
        made.beside(".yaml").write_text(parse_train([*BLOBS, *words]).as_yaml())
        return made

    return make


def test_a_tuning_run_does_not_touch_the_test_data(job, monkeypatch):
    splits = []
    evaluate = loop.Run.evaluate
    monkeypatch.setattr(loop.Run, "evaluate", lambda run, split: splits.append(split) or evaluate(run, split))
    made = job()
    assert outcome(made) is None
    assert execute(made) == outcome(made) == Outcome("done")
    assert splits == ["validation"] * 3
    assert "test" not in read(made)
    assert not (made.path / "report.html").exists()


def test_a_tested_run_is_tested_once(job, monkeypatch):
    splits = []
    evaluate = loop.Run.evaluate
    monkeypatch.setattr(loop.Run, "evaluate", lambda run, split: splits.append(split) or evaluate(run, split))
    made = job(tested=True)
    assert execute(made).state == "done"
    assert splits.count("test") == 1
    assert 0 < read(made)["test"]["accuracy"] <= 1
    assert execute(made).state == "done"
    assert splits.count("test") == 1


def test_a_run_that_was_stopped_goes_on(job, monkeypatch):
    """Stopped in epoch 2, it ends with the figures of a run that was not stopped."""
    made = job("--method", "feedback_alignment", tested=True)
    assert execute(made).state == "done"
    whole = [row["validation"] for row in read(made)["rows"]]
    made.path.rename(made.path.with_name("whole"))
    epoch = loop._epoch

    def stopped(run, number, saver):
        if number == 3:
            raise KeyboardInterrupt
        return epoch(run, number, saver)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            execute(made)
    assert outcome(made) is None
    assert execute(made).state == "done"
    assert [row["validation"] for row in read(made)["rows"]] == whole
    assert "going on after step" in made.beside(".log").read_text()


def test_what_was_killed_before_its_first_state_starts_anew(job):
    made = job()
    made.path.mkdir()
    (made.path / "config.yaml").write_text("epochs: 3\n")
    assert execute(made).state == "done"


def test_a_run_that_diverges_is_done_with(job, monkeypatch):
    made = job("--method", "backprop", "--optimizer.lr", "1e38", "--scheduler", "none", "--batch_size", "16", *IDENTITY)
    found = execute(made)
    assert found.state == "diverged"
    assert "NaN or infinity at step" in found.sentence
    monkeypatch.setattr(work.loop, "train", None)  # it is not made again
    assert outcome(made) == found


def test_a_run_that_fails_says_why(job):
    made = job("--model.hidden", "[0]")
    found = execute(made)
    assert found == Outcome("failed", "every layer needs at least one neuron, but the widths are [2, 0, 2]")
    assert outcome(made) is None
    assert "Traceback" in made.beside(".log").read_text()


def test_another_process_makes_the_same_run(job, tmp_path):
    """And it ends when it is told to; a process that cannot start is a run that failed."""
    made = job()
    assert execute(made).state == "done"
    rows = [row["validation"] for row in read(made)["rows"]]
    made.path.rename(made.path.with_name("here"))
    crew = Crew(1, tmp_path / "processes.log")
    try:
        assert crew.submit(made).result() == Outcome("done")
        assert [row["validation"] for row in read(made)["rows"]] == rows
        crew._processes[0].kill()
        crew._processes[0].wait()
    finally:
        crew.stop()
    assert all(process.poll() is not None for process in crew._processes)
    json.loads((made.path / "results.json").read_text())


@pytest.mark.parametrize(("script", "reason"), [("exit 3", "code 3"), ("kill -9 $$", "when memory runs out")])
def test_a_process_that_dies_is_a_run_that_failed(job, tmp_path, monkeypatch, script, reason):
    dying = tmp_path / "python"
    dying.write_text(f"#!/bin/sh\n{script}\n")
    dying.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(dying))
    crew = Crew(1, tmp_path / "processes.log")
    try:
        for _ in range(2):  # it is replaced
            found = crew.submit(job()).result()
            assert found.state == "failed"
            assert reason in found.sentence
        assert len(crew._processes) == 2
    finally:
        crew.stop()
