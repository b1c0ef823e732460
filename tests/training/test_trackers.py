"""Trackers get hyperparameters, figures, histograms and a picture; a run that goes on replaces what it logged."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from feedprop.errors import FeedpropError
from feedprop.training import histograms
from feedprop.training.symptoms import Symptoms
from feedprop.training.trackers import Trackers

RUN = ["train", "--data", "blobs", "--data.points", "120", "--model.hidden", "[4]", "--device", "cpu"]
RUN += ["--batch_size", "32", "--epochs", "2"]
OWN = '''
import json
from accelerate.tracking import GeneralTracker

class Lines(GeneralTracker):
    """A file of JSON lines."""
    name, requires_logging_directory, tracker = "lines", True, None

    def __init__(self, run_name, logging_dir):
        super().__init__()
        self.file = f"{run_name}.lines"

    def _add(self, **facts):
        with open(self.file, "a") as file:
            print(json.dumps(facts), file=file)

    def store_init_configuration(self, values):
        self._add(options=values)

    def log(self, values, step=None, **kwargs):
        if "FAIL" in values: raise OSError
        self._add(step=step, values=values)

    def log_images(self, values, step=None, **kwargs):
        self._add(step=step, shapes={key: [image.shape for image in images] for key, images in values.items()})

    def finish(self):
        self._add(finished=True)

class Down(Lines):
    def log(self, values, step=None, **kwargs):
        raise ConnectionError("the server is down")

class Closed(Lines):
    def __init__(self, **_):
        raise PermissionError("no key is configured")
'''


def _events(folder: str = "run") -> EventAccumulator:
    found = EventAccumulator(f"{folder}/tensorboard", size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    return found.Reload()


def _rows(folder: str = "run") -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_by_default(command, monkeypatch):
    arrived, step = [], Symptoms.step

    def stepping(self, take):
        arrived.append(-float(self.weights[0].grad.sum()))
        step(self, take)

    monkeypatch.setattr(Symptoms, "step", stepping)
    assert command(*RUN, "--output", "run").code == 0
    events, rows = _events(), _rows()
    scalars = {f"{key}/{part}" for part in ("train", "validation") for key in ("reward", "cross_entropy", "accuracy")}
    assert {*events.Tags()["scalars"]} == scalars | {"learning_rate"}
    logged = events.Scalars("accuracy/validation")
    assert [(event.step, event.value) for event in logged] == [
        (row["step"], pytest.approx(row["validation"]["accuracy"])) for row in rows
    ]
    assert {"weights/1.weight", "feedback/1.weight"} <= {*events.Tags()["histograms"]}
    assert [found.step for found in events.Histograms("feedback/1.weight")] == [row["step"] for row in rows]
    sums = [found.histogram_value.sum for found in events.Histograms("feedback/1.weight")]
    assert sums == pytest.approx([arrived[3], arrived[7]]), "of the last step of each epoch: minus .grad"
    assert events.Histograms("weights/1.weight")[0].histogram_value.num == 8
    assert events.Tags()["images"] == ["report"]
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optimizer.lr" in plugin
    assert [entry.name for entry in Path("run/tensorboard").iterdir() if entry.is_dir()] == []


def test_none(command):
    assert command(*RUN, "--output", "run", "--tracker", "none").code == 0
    assert not Path("run/tensorboard").exists()


def test_ones_tracker_of_a_test(command, tmp_path):
    (tmp_path / "tracker_of_a_test.py").write_text(OWN)
    assert command(*RUN, "--output", "run", "--tracker", "tracker_of_a_test.Lines,tensorboard").code == 0
    lines = [json.loads(line) for line in Path("run.lines").read_text().splitlines()]
    assert lines[0]["options"]["optimizer.lr"] == 0.1
    assert lines[0]["options"]["model.hidden"] == "[4]"
    rows = _rows()
    assert [line["step"] for line in lines[1:3]] == [row["step"] for row in rows]
    assert lines[2]["values"]["accuracy/validation"] == rows[1]["validation"]["accuracy"]
    assert lines[3]["shapes"] == {"report": [[2, 3, 3]]}
    assert lines[4:] == [{"finished": True}]
    assert Path("run/tensorboard").is_dir()
    refused = command("evaluate", "run").sentence
    assert "names tracker tracker_of_a_test.Lines, which could run any code" in refused


def test_a_tracker_that_fails_ends_no_run(command, tmp_path):
    (tmp_path / "tracker_of_a_test.py").write_text(OWN)
    answer = command(*RUN, "--output", "run", "--tracker", "tracker_of_a_test.Down")
    assert answer.code == 0
    assert (
        answer.out.count("warning: --tracker tracker_of_a_test.Down failed and is left out from now on: the server")
        == 1
    )


def test_what_is_refused_before_the_first_step(command, tmp_path, monkeypatch):
    (tmp_path / "tracker_of_a_test.py").write_text(OWN)
    said = command(*RUN, "--output", "run", "--tracker", "tracker_of_a_test.Closed").sentence
    assert "--tracker tracker_of_a_test.Closed cannot start: no key is configured" in said
    assert not Path("run").exists()
    assert (
        "unknown tracker 'tensorbord'; did you mean tensorboard?" in command(*RUN, "--tracker", "tensorbord").sentence
    )
    assert "is no subclass of accelerate.tracking.GeneralTracker" in command(*RUN, "--tracker", "json.dumps").sentence
    monkeypatch.setattr("feedprop.training.trackers.importlib.util.find_spec", lambda name: None)
    for name in ("wandb", "mlflow", "trackio"):
        said = command(*RUN, "--tracker", name).sentence
        assert f"--tracker {name}: {name} is not installed; pip install {name}" in said
    assert not Path("runs").exists()


class Killed(BaseException):
    """The process ends here."""


def _killed_after_an_epoch(monkeypatch) -> None:
    from feedprop.training.resumption import Saver

    original = Saver.write

    def write(self, run, *, epoch, **options):
        if epoch == 3:  # the second epoch is logged, but its state is not written
            raise Killed
        original(self, run, epoch=epoch, **options)

    monkeypatch.setattr(Saver, "write", write)


def test_a_run_that_goes_on_replaces_what_it_logged(command, monkeypatch):
    words = [*RUN, "--epochs", "3", "--output", "run"]
    with monkeypatch.context() as patch:
        _killed_after_an_epoch(patch)
        with pytest.raises(Killed):
            command(*words)
    assert command("train", "--resume", "run").code == 0
    steps = [row["step"] for row in _rows()]
    events = _events()
    assert [event.step for event in events.Scalars("accuracy/train")] == steps
    assert [event.step for event in events.Histograms("feedback/1.weight")] == steps


def test_histograms():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0, 0.0], [0.5, 1.0]]))
    model[0].weight.grad = torch.full((2, 2), 0.25)
    found = histograms.weights(model)
    assert [*found] == ["0.weight"]
    one = found["0.weight"]
    assert (one.edges[0], one.edges[-1], sum(one.counts), one.total, one.squares) == (-1.0, 1.0, 4.0, 0.5, 2.25)
    assert [number for number, count in enumerate(one.counts) if count] == [0, 32, 48, 63]
    other = histograms.feedback(model, sign=-1)["0.weight"]
    assert (sum(other.counts), other.total) == (4.0, -1.0)
    model[0].weight.grad.fill_(float("nan"))
    assert sum(histograms.feedback(model, sign=1)["0.weight"].counts) == 0


def _needed(name: str) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


@pytest.mark.filterwarnings("default")
def test_wandb_offline(command, tmp_path, monkeypatch):
    _needed("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    answer = command(*RUN, "--output", "run", "--tracker", "wandb")
    assert answer.code == 0, answer.err
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    words = (b"accuracy/validation", b"feedback/1.weight", b"optimizer.lr", b"report")
    end = time.monotonic() + 60  # a process of wandb's writes it, perhaps after the command has ended
    while not all(word in file.read_bytes() for word in words) and time.monotonic() < end:
        time.sleep(0.5)
    content = file.read_bytes()
    assert [word for word in words if word not in content] == []
    assert [*folder.rglob("*.png")]


@pytest.mark.filterwarnings("default")
def test_mlflow_in_a_folder(command, tmp_path, monkeypatch):
    _needed("mlflow")
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/logs")
    words = [*RUN, "--epochs", "3", "--output", "run", "--tracker", "mlflow"]
    with monkeypatch.context() as patch:
        _killed_after_an_epoch(patch)
        with pytest.raises(Killed):
            command(*words)
    answer = command("train", "--resume", "run")
    assert answer.code == 0, answer.err
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    rows = _rows()
    assert found.data.params["optimizer.lr"] == "0.1"
    assert found.data.metrics["accuracy/validation"] == pytest.approx(rows[-1]["validation"]["accuracy"])
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "learning_rate")
    assert {point.step for point in history} == {row["step"] for row in rows}
    assert [*(tmp_path / "logs").rglob("report.png")]


def test_unkntracker_of_a_tests_are_named():
    with pytest.raises(FeedpropError, match="known are tensorboard, wandb, mlflow, trackio, none"):
        Trackers("xyz")
    assert not Trackers(" none ").takes_histograms


def test_the_picture_of_a_run(run):
    from feedprop.training.report.overview import overview

    results = json.loads((run / "results.json").read_text())
    pixels = overview(_rows(str(run)), results, score="accuracy")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (420, 1040, 3)
    assert len(np.unique(pixels)) > 50
