"""Bad input is answered with one sentence, exit code 2 and no traceback."""

from __future__ import annotations

import pytest

SENTENCES = {
    # names
    "trian": "unknown command trian; did you mean train?",
    "fly": "unknown command fly; the commands are ",
    "train --data fashon_mnist": "unknown data set 'fashon_mnist'; did you mean fashion_mnist?",
    "train --model lenat": "unknown model 'lenat'; did you mean lenet?",
    "train --model nowhere.Net": "--model nowhere.Net: there is no module nowhere",
    "train --model samples.Nope": "samples has no Nope",
    "train --model samples.Lineer": "samples has no Lineer; did you mean Linear?",
    "train --model samples.imports_what_is_missing": "cannot be made: No module named 'no_such_module'",
    "train --model torch.pi": "--model torch.pi is a float; name a class or a function",
    "train --model=": "--model needs a name or an import path",
    "train --optimizer Sgd": "unknown optimizer 'Sgd'; did you mean SGD",
    "train --optimizer torch.nn.Linear": "is no optimizer: it is not a subclass of Optimizer",
    "train --rule Epsilno": "did you mean Epsilon?",
    "train --rule Secant": "is no LFP rule or preset: it is not a subclass of Rule or Composite; write --activation",
    "train --rule presets.publishd": "feedprop.rules.presets has no publishd; did you mean published?",
    "train --rule presets.nothing": "has no nothing; it has conserving, deep_taylor, epsilon_alpha2_beta1, ",
    "train --rule samples.number": "--rule samples.number makes a int, not a Rule or Composite",
    "train --activation Secant.publishd": "feedprop.rules.Secant",
    "train --optimizer LBFGS": "feedback is the gradient of none; use an optimizer that takes one gradient per step",
    "train --optimizer SparseAdam": "takes sparse gradients alone; use --optimizer Adam",
    "train --scheduler.cycle_momentum true --optimizer.momentum 0.5": "leave out --optimizer.momentum or --scheduler",
    "train --optimizer Adam --scheduler.cycle_momentum true --optimizer.betas [0.5,0.9]": "leave out --optimizer.betas",
    "train --reward CorrectnessReward": "one class ends up winning everywhere",
    "train --reward SpikeTargetReward": "it needs a model that spikes, such as --model lif_mlp",
    "train --reward MinimizeReward": "use --reward MaximizeReward",
    "train --reward GivenReward": "takes rewards from outside",
    "train --activation CentralDiference": "did you mean CentralDifference?",
    "train --activation Epsilon": "no activation rule",
    "train --reward torch.nn.CrossEntropyLoss": "is no reward",
    "train --data diabetes --method backprop --loss CrossEntropyLoss": "use --loss MSELoss",
    "train --loss torch.nn.MSELoss": "--loss belongs to --method backprop, but the method is lfp",
    "train --method backprop --reward feedprop.rewards.SoftmaxReward": "--reward belongs to --method lfp",
    "train --method sgd": "sign_symmetric, last_layer, straight_through, but is sgd",
    "train --scheduler samples.identity": "makes a int, not a scheduler",
    "train --model ..": "--model '..' is no import path",
    # options
    "train --foo 3": "unknown option --foo",
    "train --overwrite true": "--overwrite takes no value; leave true out",
    "train foo": "unexpected word foo",
    "train --batchsize 3": "unknown option --batchsize; did you mean --batch_size?",
    "train --lr 1": "unknown option --lr; did you mean --optimizer.lr?",
    "train --model.dropoot 1": "did you mean --model.dropout?",
    "train --optimizer Adam --optimizer.momentum 1": "of this optimizer; its options are --optimizer.lr, ",
    "train --data.root x": "unknown option --data.root of this data; it has none",
    "train --config": "--config needs a value",
    "train --epochs --seed 1": "--epochs needs a value",
    "train --epochs.many 3": "unknown option --epochs.many",
    "train --model.hidden.width 3": "--model.hidden must be a list such as [32,16]",
    "evaluate one two": "unexpected word two",
    "train --scheduler StepLR": "feedprop train needs --scheduler.step_size",
    "evaluate": "feedprop evaluate needs the folder of a run",
    # values
    "train --optimizer.lr -0.1": "the learning rate --optimizer.lr must be above 0, but is -0.1",
    "train --optimizer.lr abc": "--optimizer.lr must be a number, but is abc",
    "train --optimizer.lr [1]": "--optimizer.lr must be a number, but is [1]",
    "train --reward.weight 3": "--reward.weight must be a list such as [32,16], but is 3",
    "train --optimizer Adam --optimizer.betas [0.9]": "must be a list such as [0.9,0.999], but is [0.9]",
    "train --scheduler LambdaLR --scheduler.lr_lambda 3": "must be the import path of a function, but is 3",
    "train --seed 4294967296": "--seed must be below 2**32, but is 4294967296",
    "train --scheduler.max_lr -1": "the learning rate --scheduler.max_lr must be above 0, but is -1.0",
    "train --optimizer.momentum -1": "--optimizer torch.optim.SGD cannot be made: Invalid momentum value: -1.0",
    "train --scheduler.total_steps 3": "--scheduler.total_steps is 3, but the run has 220 steps",
    "train --epochs 0": "--epochs must be at least 1, but is 0",
    "train --epochs 1.5": "--epochs must be a whole number, but is 1.5",
    "train --batch_size 0": "--batch_size must be at least 1, but is 0",
    "train --validation_fraction 0": "--validation_fraction must be above 0 and below 1, but is 0.0",
    "train --validation_fraction 1.2": "--validation_fraction must be above 0 and below 1, but is 1.2",
    "train --validation_fraction 0.00001": "cannot be divided into training and validation data",
    "train --clip_norm 0": "--clip_norm must be above 0, but is 0.0",
    "train --seed -1": "--seed must not be negative, but is -1",
    "train --magnitude_floor -1": "--magnitude_floor must not be negative, but is -1.0",
    "train --method backprop --magnitude_floor 0.1": "has no meaning with --method backprop",
    "train --method backprop --relative_magnitude true": "--relative_magnitude scales LFP's feedback",
    "train --rule.epsilon -1": "epsilon",
    "train --activation CentralDifference --activation.step 0": "step must be above 0",
    "train --precision fp8": "--precision must be one of no, bf16, fp16, but is fp8",
    "train --precision fp16 --device cpu": "--precision fp16 needs a GPU",
    "train --device tpu": "--device must be auto, cpu, cuda, cuda:NUMBER or mps, but is tpu",
    "train --device cuda:99": "--device cuda:99: there are",
    # data
    "train --data mnist --data.root absent": "mnist is not in the folder absent and cannot be downloaded",
    "train --data image_folder --data.root absent": "there is no folder absent",
    "train --data samples.labels_beyond_classes": "are out of range: found 2, but there are 2 classes, 0 to 1",
    "train --data samples.empty": "the training data of samples.empty is empty",
    "train --data samples.with_nan": "sample 17 of the training data holds NaN or infinity",
    "train --data samples.float_labels": "must be whole numbers, one per sample",
    "train --data samples.more_inputs_than_labels": "has 51 inputs but 50 labels",
    "train --data samples.number": "but returned a int",
    "train --data samples.Untold": "has neither a parameter train nor split",
    "train --data samples.Nameless": "has no attribute classes",
    "train --data samples.Generated --data.bad_label 5": "label 9 of sample 5 of the training data is out of range",
    "train --data samples.Generated --data.broken true": "sample 7 of the training data cannot be read",
    "train --data samples.Generated --data.broken_test true": "sample 7 of the test data cannot be read",
    "train --data samples.Generated --data.grows true": "sample 9 of the training data has shape (1, 5, 5)",
    "train --data samples.Generated --data.nan true": "sample 3 of the training data holds NaN or infinity",
    "train --data samples.Generated --data.size 0": "the training data of samples.Generated is empty",
    "train --data swirls --data.points 2": "--data.points must be at least the number of classes, 3, but is 2",
    # what does not fit together
    "train --model lenet": "lenet needs images (channels, height, width) of at least 16x16 pixels",
    "train --data blobs --model vgg": "vgg needs images",
    "train --model torch.nn.Linear": "feedprop train needs --model.in_features, --model.out_features",
    "train --model torch.nn.Linear --model.in_features 3 --model.out_features 10": "cannot take inputs of shape (1",
    "train --model samples.Picky": "cannot take inputs of shape (1, 8, 8): images of 224 x 224 alone",
    "train --model samples.Picky --model.width 7": "cannot be made: the width must be even",
    "train --model torch.nn.Flatten": "has 64 outputs, but the data has 10 classes",
    "train --model torch.nn.Identity": "must return one score per class, shape (2, 10) for 2 inputs",
    "train --data blobs --model samples.Pair": "but returned tuple",
    "train --data blobs --model samples.Frozen": "has no parameters to train",
    "train --data blobs --model samples.not_a_model": "makes a int, not a torch.nn.Module",
    "train --model.classes 5": "has 5 outputs, but the data has 10 classes, labels 0 to 9",
    "train --model.hidden [0]": "every layer needs at least one neuron",
    "train --model.hidden 3": "--model.hidden must be a list such as [32,16], but is 3",
    "train --model.dropout 2": "--model.dropout must be at least 0 and below 1, but is 2.0",
    "train --model.activation Rleu": "torch.nn has no 'Rleu'; did you mean ReLU",
    "train --model.activation torch.nn.Linear": "torch.nn.Linear cannot be made without arguments",
    "train --model.activation builtins.list": "makes a list, not a torch.nn.Module",
    "train --reward RegressionReward": "does not fit digits, whose targets are classes; use --reward SoftmaxReward",
    "train --method backprop --loss MSELoss": "the loss MSELoss does not fit outputs of shape (2, 10)",
    "train --method backprop --loss.reduction none": "must return one number for outputs of shape (2, 10)",
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("words", SENTENCES)
def test_bad_input_is_answered_with_one_sentence(command, tmp_path, words):
    assert SENTENCES[words] in command(*words.split()).sentence
    assert not (tmp_path / "runs").exists(), "a run that never began leaves no folder"
    assert not (tmp_path / "absent").exists(), "a failed download leaves no folder"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot read the configuration file"),
        ("epochs: [", "is not YAML"),
        ("epochs: " + 5000 * "9", "is not YAML: Exceeds the limit"),
        ("epochs: !!timestamp x", "is not YAML"),
        ('output: "a\\0b"', "holds a NUL character"),
        ("#" * (10 * 2**20 + 1), "a configuration has 10485760 at most"),
        ("x" * 5000, "must hold keys and values, but holds 'xxx"),
        ("- 3", "must hold keys and values"),
        ("model: 3", "model must be a name, or a name and options, but is 3"),
        ("epoch: 3", "unknown key 'epoch'; did you mean epochs?"),
        ("epochs: many", "--epochs must be a whole number, but is many"),
        ("model: {name: lenat}", "unknown model 'lenat'"),
        ("model: {name: mlp, hiden: [3]}", "unknown option --model.hiden; did you mean --model.hidden?"),
    ],
)
def test_bad_configuration_file(command, tmp_path, content, expected):
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    assert expected in command("train", "--config", file).sentence


def test_binary_configuration_file(command, tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert "it is not a text file" in command("train", "--config", tmp_path / "config.yaml").sentence


def test_a_bug_is_not_dressed_up_as_bad_input(command):
    with pytest.raises(KeyError, match="a bug"):
        command("train", "--data", "blobs", "--model", "samples.Buggy")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--data blobs --model lif_cnn", "lif_cnn needs images (channels, height, width) of at least 16x16 pixels"),
        ("--data blobs --model lif_cnn5", "shape (2,); --model lif_mlp takes any shape"),
        ("--model lif_mlp --method backprop", "fire by a step function, which has derivative 0; leave --method out"),
        ("--model lif_mlp --model.steps 0", "at least 1, got 0"),
        ("--model lif_mlp --model.beta 1.5", "in [0, 1], got 1.5"),
        ("--model lif_mlp --model.hidden [0]", "every layer needs at least one neuron"),
        ("--model lif_mlp --reward SoftmaxReward", "for spikes over time use --reward SpikeTargetReward"),
        ("--reward SpikeTargetReward", "takes time-first spikes (steps, batch, classes)"),
        ("--model lif-mlp", "unknown model 'lif-mlp'; did you mean lif_mlp"),
        ("--data time_series --data.root absent", "no file absent/timeseries/JapaneseVowels_eq_TRAIN.ts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_answered_with_one_sentence(command, words, sentence):
    assert sentence in command("train", *words.split()).sentence


def test_a_schedule_that_cannot_move(command):
    words = "train --data blobs --data.points 100 --epochs 1 --scheduler StepLR --scheduler.step_size 0"
    assert "--scheduler StepLR cannot go on: integer modulo by zero" in command(*words.split()).sentence


def test_steps_between_states_may_be_a_number_in_a_file(command, tmp_path):
    (tmp_path / "config.yaml").write_text("data: {name: blobs, points: 100}\nepochs: 1\ncheckpoint_every: 3\n")
    assert command("train", "--config", "config.yaml").code == 0
