"""A sweep tries what it was told to, on validation data alone, and ends with as many trials whoever is killed."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from feedprop.training.run import Run
from feedprop.training.sweep import study as studies
from feedprop.training.sweep import worker
from feedprop.training.sweep.study import Study, finished

FEW = ["sweep", "--data", "blobs", "--data.points", "120", "--model.hidden", "[4]", "--device", "cpu", "--epochs", "2"]
FEW += ["--batch_size", "64", "--tracker", "none"]
SPACE = ["--space.optimizer.lr", "log:1e-2:1"]


def _table(folder: str) -> list[dict[str, str]]:
    with open(f"{folder}/trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def _open(folder: str = "s", **options) -> Study:
    return Study.join(folder, **({"storage": None, "trusted": False} | options))


def test_a_sweep(command, tmp_path, monkeypatch):
    splits, evaluate = [], Run.evaluate
    monkeypatch.setattr(Run, "evaluate", lambda run, split: splits.append(split) or evaluate(run, split))
    answer = command(*FEW, *SPACE, "--space.clip_norm", "1,10", "--trials", 4, "--output", "s")
    assert answer.code == 0, answer.err
    assert {*splits} == {"validation"}
    rows = _table("s")
    assert [row["trial"] for row in rows] == ["0000", "0001", "0002", "0003"]
    for row in rows:
        results = json.loads(Path(f"s/trials/{row['trial']}/results.json").read_text())
        assert "test" not in results
        assert float(row["accuracy"]) == results["validation"]["accuracy"]
        assert 0.01 <= float(row["optimizer.lr"]) <= 1
        config = yaml.safe_load(Path(f"s/trials/{row['trial']}/config.yaml").read_text())
        assert config["optimizer"]["lr"] == float(row["optimizer.lr"])
        assert config["clip_norm"] == float(row["clip_norm"])
    best = max(rows, key=lambda row: float(row["accuracy"]))
    assert yaml.safe_load(Path("s/best.yaml").read_text())["optimizer"]["lr"] == float(best["optimizer.lr"])
    (line,) = re.findall("train and test it: feedprop (.*)", answer.out)
    again = command(*line.split(), "--output", "again")
    assert f"validation accuracy {float(best['accuracy']):.4f}, test accuracy" in again.out
    page = Path("s/report.html").read_text()
    assert page.count("<svg") == 3
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://|<script|<link", page)
    assert f"feedprop {line}" in page


def test_values_depend_on_seed_and_slot_and_not_on_who_draws_them(command):
    drawn = []
    for folder in "ab":
        study = _study(command, "--seed", 3, trials=3, folder=folder)
        drawn.append([])
        for other in (study, _open(folder), study):
            trial = other.take()
            drawn[-1].append(other.searched.draw(trial)["optimizer.lr"])
            trial.set_user_attr("worker", "1 elsewhere")  # this process has another trial
    assert drawn[0] == drawn[1]
    assert len({*drawn[0]}) == 3


def test_pruned_trials_keep_their_best_accuracy(command, monkeypatch):
    monkeypatch.setattr("optuna.trial.Trial.should_prune", lambda trial: trial.user_attrs["slot"] > 0)
    answer = command(*FEW, *SPACE, "--trials", 2, "--output", "s")
    assert "pruned after epoch 1 at 0." in answer.out
    first, second = _table("s")
    assert (first["state"], second["state"]) == ("finished", "pruned")
    assert float(second["accuracy"]) > 0
    assert not [*Path("s/trials/0001").glob("state-*")]


def test_pruners(command):
    assert type(_study(command).optuna.pruner).__name__ == "MedianPruner"
    assert type(_study(command, "--pruner", "none", folder="none").optuna.pruner).__name__ == "NopPruner"


def test_other_scores_than_accuracy(command):
    words = ["sweep", "--data", "diabetes", "--epochs", "2"]
    answer = command(*words, "--device", "cpu", "--tracker", "none", *SPACE, "--trials", 2, "--output", "s")
    assert answer.code == 0, answer.err
    rows = _table("s")
    results = [json.loads(Path(f"s/trials/{row['trial']}/results.json").read_text()) for row in rows]
    assert [float(row["r2"]) for row in rows] == [found["validation"]["r2"] for found in results]
    assert f"best: validation r2 {max(float(row['r2']) for row in rows):.4f}, trial" in answer.out
    assert "best validation r2" in Path("s/report.html").read_text()


def test_failed_trials_have_their_reason_and_end_nothing(command):
    answer = command(*FEW, "--space.optimizer.lr", "0.1,1e38", "--trials", 5, "--seed", 1, "--output", "s")
    assert answer.code == 0
    rows = _table("s")
    failed = [row for row in rows if row["state"] == "diverged"]
    assert {row["optimizer.lr"] for row in failed} == {"1e38"}
    assert all("NaN or infinity at step" in row["reason"] for row in failed)
    assert 0 < len(failed) < 5
    assert re.search(rf"of 5 trials {len(failed)} diverged.*; s/trials.csv says which", answer.out)
    assert f"{len(failed)} diverged" in Path("s/report.html").read_text()
    assert "NaN or infinity" in Path("s/report.html").read_text()


def test_trials_at_chance_are_counted(command):
    answer = command(*FEW, "--space.optimizer.lr", "1e-9,1e-8", "--trials", 2, "--seed", 1, "--output", "s")
    assert answer.code == 0
    assert "no better than chance" in answer.out
    assert re.search(r"of 2 trials \d ended no better than chance; s/trials.csv says which", answer.out)
    assert "at_chance" in Path("s/trials/0000/results.json").read_text()


def test_an_error_of_the_model_is_a_failed_trial(command, tmp_path):
    (tmp_path / "own.py").write_text(
        "from feedprop.training.models.dense import MLP\n"
        "class Net(MLP):\n"
        "    def __init__(self, inputs, classes, width: int = 4):\n"
        "        if width > 4: raise MemoryError('too wide')\n"
        "        super().__init__(inputs, classes, hidden=[width])\n"
    )
    words = [word for word in FEW if word not in ("--model.hidden", "[4]")]
    answer = command(*words, "--model", "own.Net", "--space.model.width", "4,5", "--trials", 4, "--output", "s")
    assert answer.code == 0, answer.err
    rows = _table("s")
    assert {row["state"] for row in rows} == {"finished", "failed"}
    assert "MemoryError: too wide" in next(row["reason"] for row in rows if row["state"] == "failed")
    assert "Traceback" in "".join(file.read_text() for file in Path("s/trials").glob("*.log"))
    refused = command("sweep", "--join", "s")
    assert "s/study.yaml names model own.Net" in refused.sentence
    assert command("sweep", "--join", "s", "--trust").code == 0


def test_an_error_of_all_trials_ends_the_sweep(command):
    answer = command("sweep", "--data", "image_folder", "--space.optimizer.lr", "log:0.01:1", "--trials",
                     6, "--output", "s")  # fmt: skip
    assert "the first 3 trials failed alike: " in answer.sentence
    assert [row["state"] for row in _table("s")] == 3 * ["failed"] + 3 * ["waiting"]


def _stop_at(monkeypatch, step: int) -> None:
    from feedprop.training.symptoms import Symptoms

    original, count = Symptoms.observe, 0

    def observing(self, outputs, targets):
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, outputs, targets)

    monkeypatch.setattr(Symptoms, "observe", observing)


def test_a_stopped_sweep_goes_on(command, monkeypatch):
    words = [*FEW, "--space.optimizer.lr", "log:1e-2:1", "--batch_size", 16, "--trials", 3]
    command(*words, "--output", "whole")
    with monkeypatch.context() as patch:
        _stop_at(patch, 18)  # in the second trial: there are seven steps in an epoch
        answer = command(*words, "--output", "s")
    assert answer.code == 130
    assert answer.err == (
        "feedprop: interrupted; 1 of 3 trials are finished; feedprop sweep --join s goes on with the others\n"
    )
    assert command("sweep", "--join", "s").code == 0
    assert "going on after step 4, in epoch 1" in Path("s/trials/0001.log").read_text()
    same = ("accuracy", "best_epoch", "epochs", "optimizer.lr")
    assert [[row[key] for key in same] for row in _table("s")] == [
        [row[key] for key in same] for row in _table("whole")
    ]


def _study(command, *words: str, trials: int = 2, folder: str = "s") -> Study:
    """A sweep that nobody works on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "work", lambda study: None)
        assert command(*FEW, *SPACE, *words, "--trials", trials, "--output", folder).code == 0
    return _open(folder)


def test_a_trial_whose_process_is_gone_is_continued_once(command):
    study, other = _study(command), _open()
    trial = study.take()
    study.searched.draw(trial)
    trial.report(0.5, 1)
    trial.set_user_attr("worker", f"{2**22 + 1} {platform.node()}")
    (seen,) = [found for found in other.trials() if found.state == TrialState.RUNNING]
    taken = study.take()
    assert other._continue(seen) is None, "the first worker was faster"
    assert taken.user_attrs["slot"] == trial.user_attrs["slot"]
    assert taken.params == trial.params
    assert study.reported(taken) == {1: 0.5}
    assert [found.user_attrs["slot"] for found in study.trials()] == [0, 1]
    assert study.unfinished() == 2


def test_a_worker_of_another_machine_is_gone_when_its_beat_stops(command, monkeypatch):
    study = _study(command, trials=1)
    trial = study.take()
    trial.set_user_attr("worker", "1 elsewhere")
    monkeypatch.setattr(studies, "PATIENCE_SECONDS", 0.05)
    assert study.take() is None
    trial.set_user_attr("beat", 1)
    time.sleep(0.06)
    assert study.take() is None, "the beat has changed"
    time.sleep(0.06)
    assert study.take().user_attrs["continues"] == trial.number


def test_a_worker_says_that_it_lives(command, monkeypatch):
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.01)
    study = _study(command, trials=1)
    trial = study.take()
    with worker.Beat(trial):
        time.sleep(0.2)
    assert study.trials()[0].user_attrs["beat"] >= 1


def test_a_worker_whose_trial_was_taken_leaves_it_alone(command, monkeypatch):
    study = _study(command, trials=1)
    original = worker.loop.train

    def train(config, **options):
        (trial,) = study.trials()
        study.storage.set_trial_state_values(study._trial_id(trial), TrialState.FAIL)
        return original(config, **options)

    monkeypatch.setattr(worker.loop, "train", train)
    worker._run(study, study.take())
    assert not finished(study.trials()[0])


def test_a_finished_run_that_was_not_told_is_not_trained_again(command, monkeypatch):
    study = _study(command, trials=1)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_note", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            worker.work(study)
    monkeypatch.setattr(worker.loop, "train", lambda *_, **__: pytest.fail("trained again"))
    worker.work(study)
    assert float(_table("s")[0]["accuracy"]) > 0


def test_what_join_refuses(command):
    assert "it contains no study.yaml" in command("sweep", "--join", "nowhere").sentence
    _study(command)
    assert "leave out --epochs" in command("sweep", "--join", "s", "--epochs", 3).sentence
    assert "leave out --pruner" in command("sweep", "--join", "s", "--pruner", "none").sentence
    assert (
        "is not empty; name another --output, or go on by --join s" in command(*FEW, *SPACE, "--output", "s").sentence
    )
    Path("s/journal.log").unlink()
    assert "s/journal.log has no study s-" in command("sweep", "--join", "s").sentence
    Path("s/study.yaml").write_text("name: 3")
    assert "s/study.yaml is damaged: its name is 3" in command("sweep", "--join", "s").sentence


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "0"], "--trials must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--pruner", "medium"], "--pruner must be one of median, halving, none"),
        (["--resume", "s"], "a sweep has no --resume"),
        (["--storage", "db"], "--storage is a URL such as"),
        (["--storage", "nosuch://host/db"], "cannot open the storage nosuch://host/db: "),
        (["--epoch", "3"], "did you mean --epochs?"),
    ],
)
def test_bad_words(command, words, said):
    assert said in command(*FEW, *SPACE, *words).sentence


def test_a_received_sweep_imports_nothing(command, tmp_path):
    _study(command)
    file = Path("s/study.yaml")
    content = yaml.safe_load(file.read_text())
    for hostile in (
        {"options": content["options"] | {"model.name": "own_net.Net"}},
        {"space": {"model.name": ["mlp", "own_net.Net"]}},
        {"space": {"model.activation": "torch.nn.ReLU,own_net.Net"}},
    ):
        file.write_text(yaml.safe_dump(content | hostile))
        assert "own_net.Net, which could run any code" in command("sweep", "--join", "s").sentence


def test_values_in_a_received_storage_import_nothing(command, monkeypatch):
    study = _study(command)
    monkeypatch.setattr(type(study.searched), "draw", lambda *_: {"model.name": "own_net.Net"})
    worker._run(study, study.take())
    assert "own_net.Net, which could run any code" in study.trials()[0].user_attrs["reason"]


def test_a_database_and_a_sweep_that_is_made_longer(command):
    assert command(*FEW, *SPACE, "--trials", 1, "--output", "s", "--storage", "sqlite:///sweep.db").code == 0
    assert not Path("s/journal.log").exists()
    assert command("sweep", "--join", "s", "--trials", 3).code == 0
    assert [row["state"] for row in _table("s")] == 3 * ["finished"]
    assert "has 3 trials already" in command("sweep", "--join", "s", "--trials", 2).sentence
    Path("sweep.db").unlink()
    assert "sqlite:///sweep.db has no study s-" in command("sweep", "--join", "s").sentence


def test_passwords_are_not_written():
    assert studies.without_password("postgresql://me:secret@host:5432/db") == "postgresql://me@host:5432/db"
    assert studies.without_password("sqlite:///a@b.db") == "sqlite:///a@b.db"


def test_without_optuna(command, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("feedprop.training.sweep")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "feedprop sweep needs Optuna; pip install 'feedprop[sweep]'" in command(*FEW, *SPACE).sentence


def test_a_launcher_is_refused(command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start feedprop sweep without a launcher" in command(*FEW, *SPACE).sentence


def _kill_one(folder: Path, killed: list[int]) -> None:
    """Kill the worker of the first trial that has written a checkpoint."""
    while not (folder / "study.yaml").exists():
        time.sleep(0.05)
    study = _open(str(folder))
    while not killed:
        for trial in study.trials():
            if trial.state == TrialState.RUNNING and [*study.folder(trial).glob("state-*")]:
                os.kill(int(trial.user_attrs["worker"].split()[0]), signal.SIGKILL)
                killed.append(trial.number)
                break
        time.sleep(0.05)


def test_kill_9_of_a_worker_costs_no_trial(command, tmp_path):
    """Of two processes, one is killed in the middle of a trial: the other goes on with that, from its checkpoint."""
    killed: list[int] = []
    threading.Thread(target=_kill_one, args=(tmp_path / "s", killed), daemon=True).start()
    words = ["sweep", "--data", "digits", "--epochs", "10", "--device", "cpu", *SPACE]
    answer = command(*words, "--trials", 3, "--jobs", 2, "--pruner", "none", "--output", "s")
    assert answer.code == 0, answer.err
    rows = _table("s")
    assert [row["state"] for row in rows] == 3 * ["finished"]
    assert all(float(row["accuracy"]) > 0.5 and row["epochs"] == "10" for row in rows)
    study = _open()
    (number,) = killed
    victim = study.optuna.trials[number]
    assert victim.state == TrialState.FAIL
    assert "going on after step" in study.folder(victim).with_suffix(".log").read_text()
    assert number in [trial.user_attrs.get("continues") for trial in study.trials()]
