"""feedprop compare: the protocol, what is written, going on, and what is refused."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from feedprop.training.assembly import assemble
from feedprop.training.command_line import compare
from feedprop.training.command_line.arguments import parse_train
from feedprop.training.command_line.compare import parse_compare
from feedprop.training.comparison import conduct
from feedprop.training.comparison.work import Outcome, execute

QUICK = [
    "compare",
    "--data",
    "blobs",
    "--data.points",
    "150",
    "--model.hidden",
    "[6]",
    "--device",
    "cpu",
    "--jobs",
    "1",
]
QUICK += ["--epochs", "2", "--batch_size", "16", "--seeds", "0,1", "--tuning_seed", "9"]


@pytest.fixture
def executed(monkeypatch):
    """The jobs that were made, as they are made."""
    made = []

    def note(job):
        made.append(job)
        return execute(job)

    monkeypatch.setattr("feedprop.training.comparison.crew.execute", note)
    return made


def found(folder):
    return json.loads((folder / "comparison.json").read_text())


def test_the_protocol(command, tmp_path, executed):
    words = [*QUICK, "--methods", "lfp,backprop,last_layer", "--learning_rates", "0.001,0.1"]
    answer = command(*words)
    assert answer.code == 0, answer.err
    folder = tmp_path / "runs/compare-blobs-mlp"
    assert [job.tested for job in executed] == [False] * 6 + [True] * 6
    results = found(folder)
    tuning = [run for run in results["runs"] if run["phase"] == "tuning"]
    tested = [run for run in results["runs"] if run["phase"] == "test"]
    assert {run["seed"] for run in tuning} == {9}
    assert all(run["test"] is None for run in tuning)
    for row in results["methods"]:
        best = max((run for run in tuning if run["method"] == row["label"]), key=lambda run: run["validation"])
        own = [run for run in tested if run["method"] == row["label"]]
        assert row["learning_rate"] == best["learning_rate"]
        assert [(run["seed"], run["learning_rate"]) for run in own] == [(seed, row["learning_rate"]) for seed in (0, 1)]
        assert row["test"]["mean"] == pytest.approx(sum(run["test"] for run in own) / 2)
        assert (
            row["test"]["low"] < row["test"]["mean"] < row["test"]["high"] or row["test"]["low"] == row["test"]["high"]
        )
        assert row["curve"]["steps"] == sorted(row["curve"]["steps"])
        assert len(row["sparsity"]["accuracies"]) == len(row["sparsity"]["amounts"])
    first, second = ([run["test"] for run in tested if run["method"] == name] for name in ("lfp", "last_layer"))
    difference = sum(b - a for a, b in zip(first, second, strict=True)) / 2
    assert results["methods"][2]["difference"]["mean"] == pytest.approx(difference)
    assert results["methods"][0]["difference"] is None
    assert len(list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))) == 12
    page = (folder / "report.html").read_text()
    assert "Backpropagation" in page
    assert "none of the seeds that are tested" in page
    assert "tested/last_layer-seed-1/report.html" in page
    assert "12 of 12 runs are done" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "last_layer" in answer.out


def test_the_same_command_goes_on_and_more_methods_and_seeds_may_follow(command, tmp_path, executed):
    words = [*QUICK, "--learning_rates", "0.1", "--output", "here"]
    assert command(*words, "--methods", "backprop").code == 0
    assert len(executed) == 3
    before = found(tmp_path / "here")["methods"][0]
    assert command(*words, "--methods", "backprop").code == 0
    assert len(executed) == 3
    assert found(tmp_path / "here")["methods"][0] == before
    assert command(*words, "--methods", "backprop,sign_symmetric", "--seeds", "0,1,2").code == 0
    assert [job.path.name for job in executed[3:]] == [
        *("sign_symmetric-rate-0.1", "backprop-seed-2", "sign_symmetric-seed-0", "sign_symmetric-seed-1"),
        "sign_symmetric-seed-2",
    ]
    for other, option in ((("--epochs", "3"), "--epochs 2, but now it is 3"), (("--learning_rates", "1"), "0.1, but")):
        assert option in command(*words, "--methods", "backprop", *other).sentence
    assert "--tuning_seed 9" in command(*words, "--methods", "backprop", "--tuning_seed", "8").sentence
    assert command(*words, "--methods", "backprop", "--epochs", "1", "--overwrite").code == 0
    assert len(executed) == 8 + 3


def test_an_interrupted_comparison_says_how_to_go_on(command, tmp_path, monkeypatch):
    def interrupted(job):
        stopped = KeyboardInterrupt()
        stopped.add_note("feedprop train --resume goes on from there")
        raise stopped

    monkeypatch.setattr("feedprop.training.comparison.crew.execute", interrupted)
    answer = command(*QUICK, "--methods", "backprop", "--learning_rates", "0.1")
    assert answer.code == 130
    assert "--resume" not in answer.err
    assert "the same command goes on from there" in answer.err
    assert not (tmp_path / "runs/compare-blobs-mlp/.running").exists()


def test_divergence_is_a_row_and_not_the_end(command, tmp_path):
    words = [*QUICK, "--methods", "backprop,last_layer:learning_rates=[1e37,1e38]", "--learning_rates", "0.1,1e38"]
    answer = command(*words, "--scheduler", "none", "--model.activation", "Identity")
    assert answer.code == 0, answer.err
    first, second = found(tmp_path / "runs/compare-blobs-mlp")["methods"]
    assert (first["learning_rate"], first["diverged_rates"]) == (0.1, [1e38])
    assert (second["learning_rate"], second["test"]) == (None, None)
    page = (tmp_path / "runs/compare-blobs-mlp/report.html").read_text()
    assert "diverged at every learning rate" in page
    assert "Not all methods tried the same rates" in page


def test_targets_that_are_numbers(command, tmp_path):
    """Chosen and compared by R², which is no share."""
    words = ["compare", "--data", "diabetes", "--epochs", "2", "--seeds", "0,1", "--jobs", "1", "--device", "cpu"]
    answer = command(*words, "--methods", "lfp,feedback_alignment", "--learning_rates", "0.01")
    assert answer.code == 0, answer.err
    results = found(tmp_path / "runs/compare-diabetes-mlp")
    assert results["score"] == "r2"
    assert all(run["validation"] <= 1 for run in results["runs"])
    page = (tmp_path / "runs/compare-diabetes-mlp/report.html").read_text()
    assert "Test R²" in page
    assert "MSELoss" in page
    assert f"{results['methods'][1]['test']['mean']:.4g}" in page


def test_a_seed_that_diverges_is_left_out_and_named(command, tmp_path, monkeypatch):
    def made(job):
        if job.path.name == "last_layer-seed-1":
            return Outcome("diverged", "the outputs hold NaN")
        return execute(job)

    monkeypatch.setattr("feedprop.training.comparison.crew.execute", made)
    assert command(*QUICK, "--methods", "backprop,last_layer", "--learning_rates", "0.1").code == 0
    _, second = found(tmp_path / "runs/compare-blobs-mlp")["methods"]
    assert second["diverged_seeds"] == [1]
    assert (second["test"]["n"], second["test"]["low"], second["difference"]["n"]) == (1, None, 1)
    page = (tmp_path / "runs/compare-blobs-mlp/report.html").read_text()
    assert "last_layer diverged with seed 1; its mean is of the other seeds alone" in page


def test_runs_at_chance_are_counted_and_named(command, tmp_path):
    """They are in the mean, which would pass for a weak method's otherwise."""
    (tmp_path / "methods.yaml").write_text("good: {method: lfp}\nidle: {method: lfp, learning_rates: [1.0e-9]}")
    words = [*QUICK, "--methods", "methods.yaml", "--learning_rates", "0.1"]
    answer = command(*words, "--epochs", 6)
    assert answer.code == 0, answer.err
    good, idle = found(tmp_path / "runs/compare-blobs-mlp")["methods"]
    assert (good["chance_seeds"], idle["chance_seeds"]) == ([], [0, 1])
    assert good["loss"]["mean"] < idle["loss"]["mean"]
    said = "idle ended no better than chance with seed 0, 1; its mean includes these runs"
    assert said in " ".join(answer.out.split())
    assert said in (tmp_path / "runs/compare-blobs-mlp/report.html").read_text()
    assert "2, 2 at chance" in answer.out


def test_a_score_that_is_not_a_number_counts_as_divergence(command, tmp_path, monkeypatch):
    """As R² of outputs that are infinite."""

    def made(job):
        done = execute(job)
        if job.path.name == "backprop-seed-1":
            results = json.loads((job.path / "results.json").read_text())
            results["test"]["accuracy"] = None
            (job.path / "results.json").write_text(json.dumps(results))
        return done

    monkeypatch.setattr("feedprop.training.comparison.crew.execute", made)
    answer = command(*QUICK, "--methods", "lfp,backprop", "--learning_rates", "0.1")
    assert answer.code == 0, answer.err
    _, second = found(tmp_path / "runs/compare-blobs-mlp")["methods"]
    assert (second["diverged_seeds"], second["test"]["n"]) == ([1], 1)
    assert "backprop diverged with seed 1" in answer.out


def test_a_run_that_fails_is_tried_again(command, tmp_path, monkeypatch):
    """It does not end the others, and a rate is not chosen among the rest."""

    def made(job):
        return Outcome("failed", "no memory") if job.path.name == "last_layer-rate-0.1" else execute(job)

    words = [*QUICK, "--methods", "backprop,last_layer", "--learning_rates", "0.1", "--seeds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr("feedprop.training.comparison.crew.execute", made)
        assert "1 of 4 runs failed" in command(*words).sentence
    assert [row["test"] is None for row in found(tmp_path / "runs/compare-blobs-mlp")["methods"]] == [False, True]
    assert command(*words).code == 0


def test_options_of_methods():
    text = "lfp:rule=presets.sparse,optimizer=Adam,learning_rates=[0.001,0.01],backprop"
    _, plan, _ = parse_compare(["--methods", text, "--learning_rates", "0.1,0.2"])
    first, second = plan.entries
    assert (first.label, second.label) == (
        "lfp:rule=presets.sparse,optimizer=Adam",
        "backprop",
    )
    assert first.config.components["rule"].name == "presets.sparse"
    assert first.config.components["optimizer"].name == "Adam"
    assert (first.rates, second.rates) == ((0.001, 0.01), (0.1, 0.2))
    run = first.of(seed=5, rate=0.001)
    assert (run.settings.seed, run.components["optimizer"].arguments["lr"]) == (5, 0.001)


def test_a_file_of_methods(tmp_path):
    (tmp_path / "methods.yaml").write_text(
        "sparse feedback:\n  method: lfp\n  rule: presets.sparse\n  optimizer: {name: Adam, weight_decay: 0.01}\n"
        "backprop:\n"
    )
    words = ["--methods", str(tmp_path / "methods.yaml"), "--optimizer", "SGD", "--optimizer.momentum", "0.5"]
    _, plan, _ = parse_compare(words)
    first, second = plan.entries
    assert (first.label, first.slug) == ("sparse feedback", "sparse-feedback")
    assert first.config.components["optimizer"].arguments["weight_decay"] == 0.01
    assert "momentum" not in first.config.components["optimizer"].arguments
    assert second.config.components["optimizer"].arguments["momentum"] == 0.5
    assert first.rates == (0.0001, 0.0003, 0.001, 0.003)


def test_shared_options_go_to_the_methods_that_know_them():
    _, plan, _ = parse_compare(["--methods", "lfp,backprop", "--rule", "presets.sparse", "--magnitude_floor", "0.1"])
    assert plan.entries[0].config.components["rule"].name == "presets.sparse"
    assert plan.entries[0].config.settings.magnitude_floor == 0.1
    assert plan.entries[1].config.settings.magnitude_floor is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "lfp,bakprop"], "no method bakprop; did you mean backprop?"),
        (["--methods", "lfp,lfp"], "names lfp twice"),
        (["--methods", "optimizer=Adam"], "write METHOD:optimizer=Adam"),
        (["--methods", "lfp:Adam"], "an option is KEY=VALUE"),
        (["--methods", "lfp:epochs=3"], "epochs is shared by all methods; give it as --epochs"),
        (["--methods", "lfp:optimiser=Adam"], "a method has no option optimiser; did you mean optimizer?"),
        (["--methods", "lfp:optimizer.lr=1"], "write learning_rates="),
        (["--methods", "lfp:learning_rates=[1,2],backprop"], "as many learning rates as the others"),
        (["--methods", "lfp:loss=MSELoss"], "--loss belongs to --method backprop, but the method is lfp (method lfp"),
        (["--methods", "backprop", "--rule", "Gamma"], "--rule concerns none of the methods, backprop"),
        (["--method", "lfp"], "takes no --method: name the methods by --methods"),
        (["--seed", "1"], "name the seeds by --seeds"),
        (["--optimizer.lr", "1"], "chosen among --learning_rates"),
        (["--learning_rate", "1"], "unknown option --learning_rate; did you mean learning_rates"),
        (["--methods", "lfp", "--learning_rates", "a,b"], "must be numbers such as 0.01,0.03,0.1, but is a,b"),
        (["--methods", "lfp", "--learning_rates", "0,1"], "must be above 0, but is 0"),
        (["--methods", "lfp", "--learning_rates", "1,1"], "--learning_rates holds the same number twice"),
        (["--methods", "lfp", "--seeds", "0,1.5"], "must be whole numbers such as 0,1,2"),
        (["--methods", "lfp", "--seeds", "0,-1"], "--seed must not be negative, but is -1"),
        (["--methods", "lfp", "--seeds", "0,1000"], "--tuning_seed 1000 is one of --seeds"),
        (["--methods", "lfp", "--reference", "nobody"], "--reference nobody is none of the methods"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--optimizer", "Rprop", "--methods", "lfp", "--epochs", "0"], "--epochs must be at least 1"),
        (["--methods", "straight_through"], "the model has none; use --method backprop"),
        (
            ["--model", "lif_mlp", "--methods", "lfp,feedback_alignment"],
            "--method feedback_alignment cannot train lif_mlp",
        ),
        (["digits"], "unexpected word digits"),
    ],
)
def test_what_is_refused(command, words, sentence):
    assert sentence in command("compare", *words).sentence


def test_a_configuration_file_of_a_run_is_shared(tmp_path):
    """What it says about LFP alone concerns LFP alone."""
    (tmp_path / "config.yaml").write_text(
        "method: lfp\nseed: 4\nmagnitude_floor: 0.1\nepochs: 3\nrule: presets.sparse\n"
        "optimizer: {name: SGD, lr: 0.5, momentum: 0.1}\n"
    )
    _, plan, _ = parse_compare(["--config", str(tmp_path / "config.yaml"), "--methods", "lfp,backprop"])
    first, second = plan.entries
    assert (first.config.settings.magnitude_floor, second.config.settings.magnitude_floor) == (0.1, None)
    assert first.config.components["rule"].name == "presets.sparse"
    for entry in plan.entries:
        assert entry.config.settings.epochs == 3
        assert entry.config.components["optimizer"].arguments["momentum"] == 0.1
        assert entry.rates == (0.05, 0.15, 0.5, 1.5)


def test_folders_of_others_are_left_alone(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("")
    for extra in ([], ["--overwrite"]):
        assert "holds no comparison" in command(*QUICK, "--output", "mine", *extra).sentence
    assert (tmp_path / "mine/notes.txt").exists()


def test_methods_begin_with_the_same_weights_and_batches():
    states = []
    for method in ("lfp", "backprop", "feedback_alignment"):
        torch.manual_seed(4)
        parts = assemble(parse_train(["--method", method, "--seed", "4"]))
        states.append(parts.model.state_dict())
    assert all(torch.equal(value, state[name]) for state in states for name, value in states[0].items())


def test_the_rate_is_the_best_on_validation_and_of_equals_the_smallest(monkeypatch):
    _, plan, _ = parse_compare(["--methods", "lfp", "--learning_rates", "0.3,0.1,0.2,0.4"])
    (entry,) = plan.entries
    steps = conduct.tuning_steps(plan, entry, compare.Path("x"), "")
    assert [step.rate for step in steps] == [0.1, 0.2, 0.3, 0.4]
    accuracy = dict(zip([step.job for step in steps], [0.5, 0.7, 0.7, 0.9], strict=True))
    monkeypatch.setattr(conduct, "read", lambda job: {"score": "accuracy", "validation": {"accuracy": accuracy[job]}})
    outcomes = dict(zip(steps, [*([Outcome("done")] * 3), Outcome("diverged")], strict=True))
    assert conduct.chosen(entry, outcomes) == 0.2
