"""feedprop prune: curves that are true, a plot, and a pruned model that evaluates as stated."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from feedprop.cli import main
from feedprop.training.sparsity_curves import AMOUNTS

from ..conftest import SERIES


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The folders of a run by feedback and of one by backprop, on digits."""
    folder = tmp_path_factory.mktemp("digits")
    words = ["train", "--data", "digits", "--epochs", "4", "--device", "cpu", "--optimizer", "Adam"]
    words += ["--optimizer.lr", "0.01", "--scheduler", "ConstantLR"]
    assert main([*words, "--rule", "presets.sparse", "--output", str(folder / "lfp")]) == 0
    assert main([*words, "--method", "backprop", "--output", str(folder / "backprop")]) == 0
    return folder / "lfp", folder / "backprop"


def _zeros(path):
    weights = [value for name, value in load_file(path).items() if value.ndim >= 2]
    return sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)


def test_curves_plot_and_pruned_model(command, digits):
    lfp, backprop = digits
    answer = command("prune", lfp, "--beside", backprop, "--amount", "0.8", "--device", "cpu", "--samples", 200)
    assert answer.code == 0, answer.err
    found = json.loads((lfp / "pruning.json").read_text())
    assert found["split"] == "validation"
    assert tuple(found["amounts"]) == AMOUNTS
    assert [(curve["run"], curve["method"], curve["importance"]) for curve in found["curves"]] == [
        (str(run), run.name, importance) for run in digits for importance in ("magnitude", "relevance", "feedback")
    ]
    for curve in found["curves"]:
        results = json.loads((lfp.parent / curve["method"] / "results.json").read_text())
        assert curve["accuracies"][0] == pytest.approx(results["validation"]["accuracy"])
        assert curve["accuracies"][-1] < curve["accuracies"][0]  # 2 % of the weights are too few
    assert len({tuple(curve["accuracies"]) for curve in found["curves"]}) == 6
    plot = (lfp / "pruning.svg").read_text()
    for words in ("accuracy on validation data of digits", "magnitude", "relevance", "feedback", "weights that are 0"):
        assert words in plot
    zeros, total = _zeros(lfp / "pruned.safetensors")
    assert zeros == round(0.8 * total)
    curves = [curve["accuracies"][AMOUNTS.index(0.8)] for curve in found["curves"][:3]]
    assert found["pruned"]["validation_accuracy"] == max(curves)
    evaluated = json.loads(command("evaluate", lfp, "--checkpoint", "pruned", "--split", "validation", "--json").out)
    assert evaluated["accuracy"] == pytest.approx(max(curves))
    assert not (backprop / "pruning.json").exists()


def test_a_chosen_importance_and_scope(command, digits):
    lfp, _ = digits
    words = ("prune", lfp, "--importance", "relevance", "--scope", "layer", "--amount", "0.5", "--samples", 64)
    assert command(*words).code == 0
    first = load_file(lfp / "pruned.safetensors")
    assert {name: int((w == 0).sum()) / w.numel() for name, w in first.items() if w.ndim >= 2} == {
        name: 0.5 for name, w in first.items() if w.ndim >= 2
    }
    assert command(*words).code == 0
    assert all(torch.equal(w, first[name]) for name, w in load_file(lfp / "pruned.safetensors").items())
    facts = json.loads((lfp / "pruning.json").read_text())
    assert (facts["scope"], facts["pruned"]["importance"]) == ("layer", "relevance")


def test_a_run_that_is_replaced_takes_its_pruning_along(command, tmp_path):
    words = ("train", "--epochs", 1, "--device", "cpu", "--output", "again")
    assert command(*words).code == 0
    assert command("prune", "again", "--samples", 64).code == 0
    (tmp_path / "again/mine.txt").write_text("")
    assert command(*words, "--overwrite").code == 0
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert "mine.txt" in names
    assert not [name for name in names if name.startswith("prun")]


@pytest.mark.filterwarnings("ignore:nothing arrived")  # the relevance of a network that is silent after one epoch
def test_a_spiking_network(series, tmp_path):
    words = ["--model", "lif_mlp", "--model.hidden", "[8]", "--epochs", "1", "--batch_size", "10", "--device", "cpu"]
    assert series("train", *SERIES, *words, "--output", "spikes").code == 0
    answer = series("prune", "spikes", "--samples", "20")
    assert answer.code == 0, answer.err
    assert len(json.loads((tmp_path / "spikes/pruning.json").read_text())["curves"]) == 3


def test_bad_options_are_refused(command, digits, run, tmp_path):
    lfp, _ = digits
    assert "--amount is a share" in command("prune", lfp, "--amount", "90").sentence
    assert "--samples must be at least 1" in command("prune", lfp, "--samples", "0").sentence
    assert "it contains no config.yaml" in command("prune", tmp_path).sentence
    assert "feedprop prune needs the folder of a run" in command("prune").sentence
    assert "is not a run of feedprop train" in command("prune", lfp, "--beside", tmp_path).sentence
    assert "compares runs on the same data" in command("prune", lfp, "--beside", run).sentence
    assert "--importance must be one of" in command("prune", lfp, "--importance", "luck").sentence


def test_layers_that_are_emptied_are_named(command, tmp_path):
    assert command("train", "--data", "blobs", "--data.points", 100, "--epochs", 1, "--output", "run").code == 0
    answer = command("prune", "run", "--amount", "0.999", "--importance", "magnitude", "--samples", 50)
    assert answer.code == 0, answer.err
    emptied = json.loads((tmp_path / "run/pruning.json").read_text())["pruned"]["emptied"]
    assert emptied
    assert f"warning: all weights are 0 in {', '.join(emptied)}, so nothing passes; --scope layer" in answer.out
    assert "warning" not in command("prune", "run", "--amount", "0.5", "--samples", 50).out


def test_numbers_instead_of_classes_are_called_by_their_figure(command, tmp_path):
    assert command("train", "--data", "diabetes", "--epochs", 1, "--output", "run").code == 0
    answer = command("prune", "run", "--amount", "0.5", "--importance", "magnitude", "--samples", 50)
    assert answer.code == 0, answer.err
    assert "validation r2 with this share" in answer.out
    assert "by magnitude, validation r2 " in answer.out
    assert "validation_r2" in json.loads((tmp_path / "run/pruning.json").read_text())["pruned"]
    assert "accuracy" not in answer.out
    assert (tmp_path / "run/pruning.svg").read_text().count(" %<") == len(AMOUNTS)  # r2 is no share
