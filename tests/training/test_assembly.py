"""The parts of a run fit one another."""

from __future__ import annotations

from feedprop.training.assembly import assemble
from feedprop.training.command_line.arguments import parse_train
from feedprop.training.data.standardisation import Normalisation


def test_named_spiking_networks_take_their_inputs_as_they_are():
    spiking, dense = (assemble(parse_train(["--model", model])).data for model in ("lif_mlp", "mlp"))
    assert spiking.normalisation == Normalisation()
    assert float(spiking.train.inputs.min()) == 0.0
    assert dense.normalisation != Normalisation()


def test_backprop_may_train_neurons_with_a_surrogate_gradient(command):
    words = ["--data", "blobs", "--data.points", 50, "--model", "samples.snntorch_counts", "--method", "backprop"]
    assert command("train", *words, "--epochs", 1, "--output", "run").code == 0


def test_what_only_texts_fill_in_keeps_its_default_for_other_data():
    for words, vocabulary in (([], 7), (["--model.vocabulary", "5"], 5)):
        config = parse_train(["--data", "blobs", "--model", "support.samples.Worded", *words])
        assert assemble(config).model.vocabulary == vocabulary
